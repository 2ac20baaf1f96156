//! Attribution: whose client is this? Decided once a transaction, at MAIL, before anything else.
//!
//! A certificate proves more than an address, and an address proves something only together with the
//! sender (rules 30 to 34). What a tenant demands of those who bring mail to it is `restriction`'s.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::mail::{
    AcceptedDomain, ConnectorKind, Domain, DomainPattern, InboundConnector, Lookup, OutboundConnector,
    OwnedConnector, Peer, Region, Tenant, Transport,
};

use super::{Reason, Rules, Trail};

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
            Self::Certificate(pattern) => {
                peer.verified_names().iter().any(|name| pattern.matches_certificate_name(name))
            }
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

/// As the log has it: `incoming`, `edge:NAM`, or `contoso/hq` for tenant and connector.
impl fmt::Display for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incoming => f.write_str("incoming"),
            Self::PeerEdge(region) => write!(f, "edge:{region}"),
            Self::Originating { tenant, connector } => write!(f, "{}/{connector}", tenant.id),
        }
    }
}

/// By what a client showed that it is a connector's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Certificate,
    Address,
}

/// The inbound connector that a message comes by, and whose it is; incoming mail may have one too (rule 34).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    pub tenant: Arc<Tenant>,
    pub connector: Arc<InboundConnector>,
    pub proof: Proof,
}

/// As the log has it: `contoso/hq`.
impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant.id, self.connector.name)
    }
}

/// Whose client it is, and by which connector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributed {
    pub attribution: Attribution,
    pub via: Option<Via>,
}

/// How a message came in, as far as its way on depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Came {
    pub transport: Transport,
    /// Whose connector it came by,
    pub tenant: Option<Arc<Tenant>>,
    /// and that connector's name.
    pub connector: Option<Arc<str>>,
}

impl Came {
    pub fn by(attribution: &Attribution, via: Option<&Via>) -> Self {
        Self {
            transport: attribution.transport(),
            tenant: attribution.tenant().or(via.map(|via| &via.tenant)).cloned(),
            connector: via.map(|via| via.connector.name.clone()),
        }
    }

    /// Whether it was handed over by the servers of this tenant that the connector leads to. A connector that
    /// is gone since counts as theirs: mail never goes round for a change of configuration.
    pub(super) fn from(&self, tenant: &Tenant, outbound: &OutboundConnector) -> bool {
        let paired = outbound.returns_by.as_ref();
        self.is_from_servers_of(tenant) && paired.is_none_or(|paired| self.connector.as_ref() == Some(paired))
    }

    /// Whether it came by an on-premises connector of this tenant.
    fn is_from_servers_of(&self, tenant: &Tenant) -> bool {
        let own = |name: &Arc<str>| {
            let inbound = tenant.inbound_connectors.iter().find(|inbound| inbound.name == *name);
            inbound.is_none_or(|inbound| inbound.kind == ConnectorKind::OnPremises)
        };
        self.is_of(tenant) && self.connector.as_ref().is_some_and(own)
    }

    fn is_of(&self, tenant: &Tenant) -> bool {
        self.tenant.as_ref().is_some_and(|own| own.id == tenant.id)
    }
}

/// What is known of a client and its MAIL FROM when it is attributed.
#[derive(Debug)]
pub struct ClientFacts<'a> {
    pub peer: &'a Peer,
    /// The domain of MAIL FROM; `None` for the null sender.
    pub sender: Option<&'a Domain>,
    /// Whose it is; absent for the null sender.
    pub sender_domain: Lookup<Arc<AcceptedDomain>>,
    /// The certificate names of connectors that the client's verified names match.
    pub claims: Vec<Claim>,
    /// The connector of the most exact network that the client is in and that sends for this sender.
    pub at_address: Option<OwnedConnector>,
}

/// A certificate name of some connector, which a verified name of the client's certificate matches.
#[derive(Debug)]
pub struct Claim {
    pub pattern: DomainPattern,
    /// Who accepts mail for each of `vouching_domains`: the claim holds for their tenants only.
    pub vouched: Vec<Lookup<Arc<AcceptedDomain>>>,
}

/// The domains of which one must be accepted in the connector's tenant: `N` or `N` without its first label
/// for the name `N`, `D` for `*.D` (rules 30 and 31).
pub fn vouching_domains(pattern: &DomainPattern) -> impl Iterator<Item = Domain> {
    let (name, parent) = match pattern {
        DomainPattern::All => (None, None),
        DomainPattern::Below(parent) => (Some(parent.clone()), None),
        DomainPattern::Exact(name) => {
            (Some(name.clone()), name.parents().next().and_then(|parent| Domain::parse(parent).ok()))
        }
    };
    name.into_iter().chain(parent)
}

/// Edges of other regions come first: for them nothing else is looked at, or looked up.
pub fn peer_edge(rules: &Rules, peer: &Peer, trail: &mut Trail) -> Option<Attribution> {
    let (region, pattern) = rules.peers.iter().find(|(_, pattern)| pattern.matches(peer))?;
    trail.step("6.peers", || format!("the client is an edge of {region}, known by {pattern}"));
    Some(Attribution::PeerEdge(*region))
}

/// Certificate, then address with sender, then nobody's. Comes after `peer_edge`.
pub fn attribute(facts: &ClientFacts<'_>, trail: &mut Trail) -> Result<Attributed, Reason> {
    if let Some(found) = by_certificate(facts, trail)? {
        return Ok(found.originating(Proof::Certificate));
    }
    // Rule 20: who could not be asked for must not be answered for good, now or at RCPT.
    if facts.sender_domain == Lookup::Failed {
        trail.step("17", || "the lookup of the sender's domain failed".to_owned());
        return Err(Reason::DomainLookupFailed);
    }
    if let Some(attributed) = by_address(facts, trail) {
        return Ok(attributed);
    }
    trail.step("attribution", || "no connector of its own speaks for the client: incoming mail".to_owned());
    Ok(Attributed::default())
}

/// A connector that was found, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owned<'f> {
    pub(super) tenant: &'f Arc<Tenant>,
    pub(super) connector: &'f Arc<InboundConnector>,
}

impl Owned<'_> {
    fn originating(self, proof: Proof) -> Attributed {
        let (tenant, connector) = (self.tenant.clone(), self.connector.name.clone());
        let attribution = Attribution::Originating { tenant, connector };
        Attributed { attribution, via: Some(self.via(proof)) }
    }

    fn via(self, proof: Proof) -> Via {
        Via { tenant: self.tenant.clone(), connector: self.connector.clone(), proof }
    }
}

/// Rules 30 and 31: the most exact name whose domain is accepted in the connector's tenant.
fn by_certificate<'f>(facts: &'f ClientFacts<'_>, trail: &mut Trail) -> Result<Option<Owned<'f>>, Reason> {
    let mut best: Option<(Exactness, &Claim, Owned<'f>)> = None;
    for claim in &facts.claims {
        let Some(found) = connector_of(facts, claim)? else {
            trail.step("31", || unvouched(claim));
            continue;
        };
        let exactness = Exactness::of(facts, claim, found.tenant);
        // Among equals the first stays.
        if best.is_none_or(|(best, ..)| exactness > best) {
            best = Some((exactness, claim, found));
        }
    }
    Ok(best.map(|(_, claim, found)| {
        let Owned { tenant, connector } = found;
        trail.step("30", || {
            format!(
                "certificate name {}: originating from tenant {} by connector {}",
                claim.pattern, tenant.id, connector.name
            )
        });
        found
    }))
}

/// The connector that names the claim's certificate in a tenant that accepts one of its domains, the name
/// itself before its parent. A lookup that failed might have found one: temporary (rule 20).
fn connector_of<'f>(facts: &ClientFacts<'_>, claim: &'f Claim) -> Result<Option<Owned<'f>>, Reason> {
    let found = claim.vouched.iter().find_map(|lookup| match lookup {
        Lookup::Found(domain) => {
            let tenant = &domain.tenant;
            let mut own = tenant.on_premises_connectors(facts.sender, facts.accepted());
            let connector = own.find(|one| one.certificate_names.contains(&claim.pattern))?;
            Some(Owned { tenant, connector })
        }
        Lookup::Absent | Lookup::Failed => None,
    });
    if found.is_none() && claim.vouched.contains(&Lookup::Failed) {
        return Err(Reason::DomainLookupFailed);
    }
    Ok(found)
}

fn unvouched(claim: &Claim) -> String {
    let domains: Vec<String> = vouching_domains(&claim.pattern).map(|domain| domain.to_string()).collect();
    format!(
        "certificate name {} counts for no tenant: none accepts {} and has a connector of that name for this sender",
        claim.pattern,
        domains.join(" or ")
    )
}

/// What makes one claim more exact than another, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Exactness {
    /// A name is more exact than a wildcard, and that than one with fewer labels.
    labels: usize,
    /// Between tenants that share a certificate the sender decides.
    of_sender: bool,
}

impl Exactness {
    fn of(facts: &ClientFacts<'_>, claim: &Claim, tenant: &Tenant) -> Self {
        let labels = match &claim.pattern {
            DomainPattern::All => 0,
            DomainPattern::Below(parent) => parent.as_str().split('.').count(),
            DomainPattern::Exact(_) => usize::MAX,
        };
        let of_sender = facts.sender_tenant().is_some_and(|of_sender| of_sender.id == tenant.id);
        Self { labels, of_sender }
    }
}

/// Rules 32 to 34: an address speaks for a tenant only with one of the tenant's own senders.
fn by_address(facts: &ClientFacts<'_>, trail: &mut Trail) -> Option<Attributed> {
    let found = facts.network_connector()?;
    let Owned { tenant, connector } = found;
    let ip = facts.peer.ip;
    if facts.sender_tenant().is_some_and(|of_sender| of_sender.id == tenant.id) {
        trail.step("32", || {
            format!(
                "address {ip} and sender: originating from tenant {} by connector {}",
                tenant.id, connector.name
            )
        });
        return Some(found.originating(Proof::Address));
    }
    trail.step("33", || {
        format!(
            "address {ip} is connector {}'s of tenant {}, but the sender is none of the tenant's",
            connector.name, tenant.id
        )
    });
    Some(Attributed { attribution: Attribution::Incoming, via: Some(found.via(Proof::Address)) })
}

impl ClientFacts<'_> {
    /// The sender's domain, where it is accepted.
    fn accepted(&self) -> Option<&AcceptedDomain> {
        self.sender_domain.as_ref().found().map(Arc::as_ref)
    }

    /// The tenant that the sender's domain belongs to.
    pub(super) fn sender_tenant(&self) -> Option<&Arc<Tenant>> {
        self.accepted().map(|domain| &domain.tenant)
    }

    /// The on-premises connector whose network the client is in and that sends for its sender: the sender's
    /// own tenant's before the most exact network's. A tenant's servers hand on what others hosted here sent.
    pub(super) fn network_connector(&self) -> Option<Owned<'_>> {
        self.senders_network_connector().or_else(|| {
            let OwnedConnector { tenant, connector } = self.at_address.as_ref()?;
            Some(Owned { tenant, connector })
        })
    }

    fn senders_network_connector(&self) -> Option<Owned<'_>> {
        let tenant = self.sender_tenant()?;
        let connector = tenant.network_connector(self.peer.ip, self.sender, self.accepted())?;
        Some(Owned { tenant, connector })
    }
}
