//! Attribution: whose mail is this? Decided before anything else about a recipient.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::mail::{DomainPattern, Peer, Region, Tenant, Transport};

use super::Rules;

/// By what an edge of another region is recognised: its certificate's name or its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPattern {
    Certificate(DomainPattern),
    Network(IpNet),
}

impl PeerPattern {
    pub fn matches(&self, peer: &Peer) -> bool {
        match self {
            Self::Network(net) => net.contains(&peer.ip),
            Self::Certificate(pattern) => peer.verified_names().iter().any(|name| names(pattern, name)),
        }
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(pattern) => write!(f, "{pattern}"),
            Self::Network(net) => write!(f, "{net}"),
        }
    }
}

/// A certificate may itself carry a wildcard name, which counts for the exact same pattern only.
fn names(pattern: &DomainPattern, name: &str) -> bool {
    if name.eq_ignore_ascii_case(&pattern.to_string()) {
        return true;
    }
    crate::mail::Domain::parse(name).is_ok_and(|domain| pattern.matches(&domain))
}

/// Whose client this is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Attribution {
    /// Anybody: the recipient's domain alone decides.
    #[default]
    Incoming,
    /// An edge of another region: the message has already entered (spec, section 6).
    PeerEdge(Region),
    /// A tenant's own connector: may address any domain (rules 30, 32).
    Originating { tenant: Arc<Tenant>, connector: Arc<str> },
}

impl Attribution {
    /// The tenant that an originating client was recognised for.
    pub fn tenant(&self) -> Option<&Arc<Tenant>> {
        match self {
            Self::Originating { tenant, .. } => Some(tenant),
            Self::Incoming | Self::PeerEdge(_) => None,
        }
    }

    /// As the envelope keeps it.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Incoming => Transport::Incoming,
            Self::PeerEdge(_) => Transport::PeerEdge,
            Self::Originating { .. } => Transport::Originating,
        }
    }
}

pub fn attribute(rules: &Rules, peer: &Peer) -> Attribution {
    rules
        .peers
        .iter()
        .find(|(_, pattern)| pattern.matches(peer))
        .map_or(Attribution::Incoming, |(region, _)| Attribution::PeerEdge(*region))
}
