//! Tenant, AcceptedDomain, User: whose domain, who lives where, and what their owner asked for.
//!
//! Values as a directory gives them, already checked. What follows from them is `decision`'s.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
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

    /// Where mail for a domain of this tenant enters that has this mail_flow_region (spec, section 0).
    pub fn ingress_region(&self, mail_flow_region: Option<Region>) -> Region {
        mail_flow_region.filter(|_| self.routes_in_region()).unwrap_or(self.default_region)
    }

    /// The on-premises connectors that send for this sender. `accepted`: its domain, where it is this tenant's.
    pub fn on_premises_connectors(
        &self,
        sender: Option<&Domain>,
        accepted: Option<&AcceptedDomain>,
    ) -> impl Iterator<Item = &Arc<InboundConnector>> {
        self.inbound_connectors.iter().filter(move |one| {
            one.kind == ConnectorKind::OnPremises && one.covers_sender(sender) && one.is_associated(accepted)
        })
    }

    /// The one of them whose network has this address the most exactly.
    pub fn network_connector(
        &self,
        ip: IpAddr,
        sender: Option<&Domain>,
        accepted: Option<&AcceptedDomain>,
    ) -> Option<&Arc<InboundConnector>> {
        most_specific(self.on_premises_connectors(sender, accepted), |one| one.ip_specificity(ip))
    }

    /// The connector for a recipient domain of somebody else's: exact, then the longest suffix, then `*`
    /// (rule 38). One that takes everything to the tenant's own servers is not for mail that those have sent:
    /// it would go straight back.
    pub fn outbound_connector(
        &self,
        domain: &Domain,
        sent: impl Fn(&OutboundConnector) -> bool,
    ) -> Option<&Arc<OutboundConnector>> {
        most_specific(self.outbound_connectors.iter(), |connector| {
            let specificity = connector.specificity(domain)?;
            let goes_back = specificity == Specificity::Everything
                && connector.kind == ConnectorKind::OnPremises
                && sent(connector);
            (!goes_back).then_some(specificity)
        })
    }

    /// The connector for a recipient in one of the tenant's own domains: what is written for the very name, else
    /// what its accepted domain has, whose rules hold below it (rules 3 and 5).
    pub fn outbound_connector_below(
        &self,
        accepted: &Domain,
        domain: &Domain,
    ) -> Option<&Arc<OutboundConnector>> {
        let by_name = most_specific(self.outbound_connectors.iter(), |connector| {
            connector.specificity(domain).filter(|specificity| *specificity > Specificity::Accepted)
        });
        by_name.or_else(|| self.outbound_connector_of_own(accepted))
    }

    /// The connector for one of the tenant's own accepted domains: those for all of them come before `*`.
    pub fn outbound_connector_of_own(&self, domain: &Domain) -> Option<&Arc<OutboundConnector>> {
        most_specific(self.outbound_connectors.iter(), |connector| {
            connector.specificity(domain).max(connector.all_accepted_domains.then_some(Specificity::Accepted))
        })
    }

    /// The way to the tenant's own servers that all its mail takes (rule 39): the connector that says so,
    /// else the one for everything, else the one for all accepted domains.
    pub fn central_connector(&self) -> Option<&Arc<OutboundConnector>> {
        let own = || self.outbound_connectors.iter().filter(|one| one.kind == ConnectorKind::OnPremises);
        own()
            .find(|one| one.route_all_via_on_premises)
            .or_else(|| own().find(|one| one.recipient_domains.contains(&DomainPattern::All)))
            .or_else(|| own().find(|one| one.all_accepted_domains))
    }
}

/// How exactly a connector is meant for a recipient domain, the least exact first (rule 38).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Everything,
    /// One of the tenant's accepted domains.
    Accepted,
    /// As a pattern says.
    Pattern(usize),
}

fn most_specific<'t, Connector, Exactness: PartialOrd>(
    connectors: impl Iterator<Item = &'t Arc<Connector>>,
    specificity: impl Fn(&Connector) -> Option<Exactness>,
) -> Option<&'t Arc<Connector>> {
    let ranked = connectors.filter_map(|connector| Some((specificity(connector)?, connector)));
    // Among equals the first in the file wins; max_by_key would take the last.
    ranked.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, connector)| connector)
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
    /// With `mail_flow_region_changed_at`: what it was before; `None` is "not set" (rule 21).
    pub previous_mail_flow_region: Option<Region>,
    pub mail_flow_region_changed_at: Option<Timestamp>,
    pub sending_to_disabled: bool,
    /// Overrides the tenant's `accept_ipv6` when set.
    pub accept_ipv6: Option<bool>,
}

impl AcceptedDomain {
    /// Where mail for this domain enters.
    pub fn ingress_region(&self) -> Region {
        self.tenant.ingress_region(self.mail_flow_region)
    }
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
    /// Of the tenant's accepted domains those whose senders may use it; empty: all senders.
    pub associated_domains: Vec<Domain>,
    /// What its servers say of a message in the organisation's name is believed, where a certificate proves
    /// them (rule 42).
    pub trusted_headers: bool,
    pub skipping: Skipping,
}

/// Servers of the tenant's own between the true sender and us, which are looked past (rule 40).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skipping {
    /// The one that connects.
    pub last_ip: bool,
    pub ips: Vec<IpNet>,
    /// Only where all recipients are among them; empty: always.
    pub users: Vec<Address>,
}

impl Skipping {
    pub fn is_on(&self) -> bool {
        self.last_ip || !self.ips.is_empty()
    }
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

    /// Whether a sender of this accepted domain, or of none, may use it.
    pub fn is_associated(&self, accepted: Option<&AcceptedDomain>) -> bool {
        self.associated_domains.is_empty()
            || accepted.is_some_and(|domain| self.associated_domains.contains(&domain.name))
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
    /// Whether its smart hosts are the tenant's own servers or somebody else's.
    pub kind: ConnectorKind,
    pub recipient_domains: Vec<DomainPattern>,
    /// For all of the tenant's accepted domains too.
    pub all_accepted_domains: bool,
    /// Tried in turn; SMTP only.
    pub smart_hosts: Arc<[Endpoint]>,
    pub tls: TlsLevel,
    /// Authorities of its own besides the system's, in PEM.
    pub ca: Option<Arc<Path>>,
    /// It is the one that all mail takes where the tenant wants that (rule 39).
    pub route_all_via_on_premises: bool,
    /// The inbound connector by which comes back what was sent there; any on-premises one when not said.
    pub returns_by: Option<Arc<str>>,
}

impl OutboundConnector {
    fn specificity(&self, domain: &Domain) -> Option<Specificity> {
        let of_pattern = |pattern: &DomainPattern| match pattern {
            DomainPattern::All => Some(Specificity::Everything),
            DomainPattern::Exact(_) | DomainPattern::Below(_) => {
                pattern.specificity(domain).map(Specificity::Pattern)
            }
        };
        self.recipient_domains.iter().filter_map(of_pattern).max()
    }
}
