//! Auth: who sent this message, as far as the DNS and signatures can prove it.
//!
//! Owns SPF, DKIM, DMARC, ARC and iprev, and the one header field that tells their results. It finds, it
//! never refuses: `decision` and `listener` do. `dns` comes before. `docs/AUTHENTICATION.md` describes it.

mod answers;
mod body;
mod examination;
mod findings;
mod head;
mod iprev;
mod message;
pub mod spf;

pub use examination::{Auth, Client, Examination, Extent, Origin, Rule52};
pub use findings::{Dmarc, Finding, Findings, Mark, Policy, Unread};

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// What is checked, of whom, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub enabled: bool,
    pub spf: bool,
    pub dkim: bool,
    pub dmarc: bool,
    pub arc: bool,
    pub iprev: bool,
    /// Refuse what fails DMARC where the author's domain asks for it.
    pub dmarc_reject: bool,
    /// Whose mail is not checked.
    pub exempt: Vec<IpNet>,
    /// What rules 50 to 52 do.
    pub ipv6: Ipv6,
    /// Who says so in `Authentication-Results`; the node when absent.
    pub authserv_id: Option<String>,
    /// What the checks of one message may take together.
    pub deadline: Duration,
    /// A longer header section is not looked at.
    pub header_size: u64,
    /// What all header sections under way may hold together.
    pub header_memory: u64,
    /// DKIM signatures of one message that are verified.
    pub signatures: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ipv6 {
    #[default]
    Enforce,
    /// What would be refused is counted and logged, and accepted.
    Record,
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network"));
        Self {
            enabled: true,
            spf: true,
            dkim: true,
            dmarc: true,
            arc: true,
            iprev: true,
            dmarc_reject: false,
            exempt: loopback.to_vec(),
            ipv6: Ipv6::Enforce,
            authserv_id: None,
            deadline: Duration::from_secs(10),
            header_size: 256 * 1024,
            header_memory: 64 * 1024 * 1024,
            signatures: 10,
        }
    }
}

impl Settings {
    /// Whether mail of this client is checked.
    pub fn applies_to(&self, ip: IpAddr) -> bool {
        self.enabled && !self.exempt.iter().any(|net| net.contains(&ip))
    }
}
