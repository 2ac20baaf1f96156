//! Internet: how mail reaches domains that nobody here hosts (rule 90).
//!
//! Owns what all such deliveries share: where they may go, how many may go at once, and what is remembered of
//! a domain's wishes. `exchange` asks the DNS who takes a domain's mail, `proof` says what a host must prove,
//! `sts` what the domain wishes. `by_mx` makes the attempt.

mod exchange;
mod ledger;
mod pages;
mod proof;
mod sts;
mod by_mx;

pub use ledger::{Counts, Ledger};
pub use sts::StsSettings;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use sts::Sts;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::net::{ClientTls, is_public};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where mail servers listen: 25, but in tests.
    pub port: u16,
    /// Addresses that are not public and may be called all the same.
    pub private: Private,
    /// Connections to the internet at one time, whatever the domain.
    pub connections: usize,
    /// What we are called: an MX of this name is ourselves.
    pub own_names: Vec<String>,
    /// Where we listen: an MX that leads there is ourselves.
    pub own_addresses: Vec<SocketAddr>,
    /// Whether TLSA records count (RFC 7672).
    pub dane: bool,
    /// Absent: MTA-STS policies are not asked for.
    pub sts: Option<StsSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Private {
    /// Only in these networks; usually none.
    Only(Vec<IpNet>),
    Anywhere,
}

/// What all deliveries to the internet share.
pub struct Internet {
    settings: Settings,
    /// Shows no certificate of ours to strangers.
    tls: Arc<ClientTls>,
    permits: Arc<Semaphore>,
    sts: Option<Sts>,
    /// Absent: nothing is reported.
    ledger: Option<Arc<Ledger>>,
}

impl Internet {
    pub fn new(settings: Settings, tls: Arc<ClientTls>, ledger: Option<Arc<Ledger>>, clock: Clock) -> Self {
        let permits = Arc::new(Semaphore::new(settings.connections));
        let sts = settings.sts.clone().map(|sts| Sts::new(sts, tls.clone(), clock));
        Self { settings, tls, permits, sts, ledger }
    }

    fn may_call(&self, address: IpAddr) -> bool {
        is_public(address)
            || match &self.settings.private {
                Private::Anywhere => true,
                Private::Only(networks) => networks.iter().any(|network| network.contains(&address)),
            }
    }

    fn is_own_name(&self, name: &str) -> bool {
        self.settings.own_names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        self.settings.own_addresses.contains(&SocketAddr::new(address, self.settings.port))
    }
}
