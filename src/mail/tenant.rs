//! Tenant, AcceptedDomain, User: whose domain, who lives where, and what their owner asked for.
//!
//! Values as a directory gives them, already checked. What follows from them is `decision`'s.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Address, Domain, DomainPattern, Endpoint, Region, TlsLevel};
use crate::clock::Timestamp;

/// How far a tenant's residency goes (rule 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residency {
    #[default]
    Documented,
    /// No content of this tenant is ever read, stored or logged outside its home region.
    Strict,
}

/// An organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: Arc<str>,
    /// The central location.
    pub default_region: Region,
    /// AllowedMailboxRegions; the default region is always one of them.
    pub allowed_regions: Vec<Region>,
    pub multi_geo: bool,
    pub in_region_routing: bool,
    pub subscription: bool,
    pub residency: Residency,
    pub accept_ipv6: bool,
    pub reject_direct_send: bool,
    pub route_all_via_on_premises: bool,
    /// In place of `limits.per_tenant_per_minute`; 0 is off.
    pub messages_per_minute: Option<u64>,
    pub inbound_connectors: Vec<Arc<InboundConnector>>,
    pub outbound_connectors: Vec<Arc<OutboundConnector>>,
}

impl Tenant {
    pub fn allows(&self, region: Region) -> bool {
        region == self.default_region || self.allowed_regions.contains(&region)
    }

    /// Whether mail_flow_region has a meaning for this tenant at all (spec, section 0).
    pub fn routes_in_region(&self) -> bool {
        self.multi_geo && self.in_region_routing
    }

    /// The connector for a recipient domain: exact, then the longest suffix, then `*` (rule 38).
    pub fn outbound_connector(&self, domain: &Domain) -> Option<&Arc<OutboundConnector>> {
        let ranked = self.outbound_connectors.iter().filter_map(|connector| {
            let rank =
                connector.recipient_domains.iter().filter_map(|pattern| pattern.specificity(domain)).max()?;
            Some((rank, connector))
        });
        // Among equals the first in the file wins; max_by_key would take the last.
        ranked.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, connector)| connector)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomainKind {
    #[default]
    Authoritative,
    InternalRelay,
}

/// A domain that a tenant receives mail for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedDomain {
    pub name: Domain,
    pub tenant: Arc<Tenant>,
    pub kind: DomainKind,
    pub match_subdomains: bool,
    pub mail_flow_region: Option<Region>,
    /// With `mail_flow_region_changed_at`: what it was before; the inner `None` is "not set" (rule 21).
    pub previous_mail_flow_region: Option<Region>,
    pub mail_flow_region_changed_at: Option<Timestamp>,
    pub sending_to_disabled: bool,
    /// Overrides the tenant's `accept_ipv6` when set.
    pub accept_ipv6: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Licenses {
    pub multi_geo: bool,
    pub mail: bool,
}

impl Default for Licenses {
    fn default() -> Self {
        Self { multi_geo: true, mail: true }
    }
}

/// A mailbox, as found by its primary address or one of its aliases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub primary: Address,
    /// As the directory has it: it may be no region at all, or one that the tenant does not allow.
    pub preferred_data_location: Option<Box<str>>,
    pub licenses: Licenses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectorKind {
    OnPremises,
    Partner,
}

/// How a tenant's own or a partner's servers are recognised, and what they must prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundConnector {
    pub name: Arc<str>,
    pub kind: ConnectorKind,
    /// Exact names, or `*.contoso.com`.
    pub certificate_names: Vec<DomainPattern>,
    pub source_ips: Vec<Ipv4Net>,
    pub sender_domains: Vec<DomainPattern>,
    pub require_tls: bool,
    pub restrict_to_ip: bool,
    pub restrict_to_certificate: bool,
}

impl InboundConnector {
    pub fn covers_ip(&self, ip: IpAddr) -> bool {
        self.ip_specificity(ip).is_some()
    }

    /// The prefix length of the most exact of its networks that holds this address.
    pub fn ip_specificity(&self, ip: IpAddr) -> Option<u8> {
        match ip {
            IpAddr::V4(v4) => {
                let networks = self.source_ips.iter().filter(|net| net.contains(&v4));
                networks.map(ipnet::Ipv4Net::prefix_len).max()
            }
            IpAddr::V6(_) => None,
        }
    }

    /// Whether one of these verified names is one of its certificate names.
    pub fn covers_certificate(&self, verified_names: &[String]) -> bool {
        let mut names = verified_names.iter();
        names.any(|name| self.certificate_names.iter().any(|pattern| pattern.matches_certificate_name(name)))
    }

    /// How exactly its sender domains cover this one; the null sender, who has none, only by `*`.
    pub fn sender_specificity(&self, sender: Option<&Domain>) -> Option<usize> {
        let of_pattern = |pattern: &DomainPattern| match sender {
            Some(domain) => pattern.specificity(domain),
            None => (*pattern == DomainPattern::All).then_some(0),
        };
        self.sender_domains.iter().filter_map(of_pattern).max()
    }

    pub fn covers_sender(&self, sender: Option<&Domain>) -> bool {
        self.sender_specificity(sender).is_some()
    }
}

/// An inbound connector and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedConnector {
    pub tenant: Arc<Tenant>,
    pub connector: Arc<InboundConnector>,
}

/// Where a tenant's mail for some domains goes instead of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundConnector {
    pub name: Arc<str>,
    pub recipient_domains: Vec<DomainPattern>,
    /// Tried in turn; SMTP only.
    pub smart_hosts: Arc<[Endpoint]>,
    pub tls: TlsLevel,
}
