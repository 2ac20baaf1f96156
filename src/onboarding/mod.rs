//! Onboarding: what the DNS should say of our domains, what it does say, and how to get from one to the other.
//!
//! Owns the name of a domain's MX target, the plan of a migration, the comparison with what is published, and
//! the zone of all targets. Changes nothing anywhere: `landfall dns` and the API show what it says.

mod check;
mod desk;
mod plan;
mod target;
mod zone;

pub use check::{Finding, Level, check};
pub use desk::{Checked, Desk, Unanswered};
pub use plan::{OwnCertificates, Plan, Record, Step, plan, record_of};
pub use target::{NoTarget, Template, target_of};
pub use zone::{Zone, zone};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::mail::{AcceptedDomain, Domain, Region};

/// What this organisation of edges publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How a domain's MX target is called.
    pub target: Option<Template>,
    /// The targets that cannot be derived, by domain.
    pub targets: BTreeMap<Domain, Domain>,
    /// Where mail must not lead any more; hosts below them too.
    pub legacy_targets: Vec<Domain>,
    /// Of an MX record at rest.
    pub ttl: Duration,
    /// Of an MX record that is about to change; never below 30 s.
    pub lowest_ttl: Duration,
    /// Of a target's addresses: what a change of region waits for.
    pub address_ttl: Duration,
    /// The public addresses of each region's edges.
    pub ingress: BTreeMap<Region, Vec<IpAddr>>,
    /// Of the zone of targets.
    pub name_servers: Vec<Domain>,
    /// What a hosted domain should publish about who sends for it.
    pub spf: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        // The first two are smart hosts of old settings, the others MX targets that know no regions.
        let legacy = [
            "mail.messaging.microsoft.com",
            "mail.global.frontbridge.com",
            "mail.protection.outlook.com",
            "mail.eo.outlook.com",
            "mail.protection.outlook.de",
        ];
        Self {
            target: None,
            targets: BTreeMap::new(),
            legacy_targets: legacy.iter().map(|host| Domain::parse(host).expect("a host name")).collect(),
            ttl: Duration::from_secs(3600),
            lowest_ttl: Duration::from_secs(60),
            address_ttl: Duration::from_secs(300),
            ingress: BTreeMap::new(),
            name_servers: Vec::new(),
            spf: None,
        }
    }
}

impl Settings {
    /// Whether a host is one that mail must not lead to any more.
    fn is_legacy(&self, host: &str) -> bool {
        self.legacy_targets.iter().any(|legacy| {
            let legacy = legacy.as_str();
            host == legacy || host.strip_suffix(legacy).is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// The region whose edges have this address.
    fn region_at(&self, address: IpAddr) -> Option<Region> {
        self.ingress.iter().find(|(_, addresses)| addresses.contains(&address)).map(|(region, _)| *region)
    }
}

/// Whether senders may come by IPv6: only then has the target an IPv6 address (rule 50).
fn takes_ipv6(domain: &AcceptedDomain) -> bool {
    domain.accept_ipv6.unwrap_or(domain.tenant.accept_ipv6)
}

/// `_25._tcp.<host>`: where RFC 7672 looks for a certificate.
fn tlsa_name(host: &Domain) -> String {
    format!("_25._tcp.{host}")
}

#[cfg(test)]
mod tests;
