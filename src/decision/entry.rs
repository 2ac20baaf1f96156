//! Entry: may mail for this domain enter at this node?
//!
//! Region comes before the recipient: an edge in the wrong region neither reveals which mailboxes exist
//! nor needs another region's users. `inquiry` looks the domain up before and the user after.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::mail::{AcceptedDomain, Domain, Lookup, Peer, Region, Residency};

use super::{Attribution, MixedRegions, Reason, Rules, Trail, Via, decide_ipv6, decide_partner};

/// What kind of listener the client came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    #[default]
    Regular,
    /// An address that hosts still use from old smart-host settings (rule 11).
    Legacy,
}

/// What the first decision about a recipient looks at.
#[derive(Debug)]
pub struct EntryFacts<'a> {
    pub recipient_domain: &'a Domain,
    pub domain: Lookup<Arc<AcceptedDomain>>,
    pub attribution: &'a Attribution,
    /// The connector that the client was recognised by.
    pub via: Option<&'a Via>,
    pub peer: &'a Peer,
    /// The domain of MAIL FROM; `None` for the null sender.
    pub sender: Option<&'a Domain>,
    pub door: Door,
    /// Whether the client's address has a name, where `needs_reverse_name` asks for it (rule 51).
    pub reverse_name: Lookup<()>,
    /// The ingress region of the transaction's first accepted recipient.
    pub region_so_far: Option<Region>,
    pub now: Timestamp,
}

/// Mail for this domain may enter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Hosted {
        domain: Arc<AcceptedDomain>,
        ingress: Region,
        /// The partner connector of its tenant that it comes by.
        partner: Option<Via>,
        /// For what it would be refused, if that were not only recorded.
        recorded: Option<Reason>,
    },
    /// Nobody here hosts it; an originating client may still address it.
    Foreign,
}

impl AcceptedDomain {
    /// By which rule mail from outside may enter at a node of that region, or may not; the propagation window of
    /// a change (rule 21) aside.
    pub fn entry_at(&self, node: Region) -> Result<&'static str, &'static str> {
        let tenant = &self.tenant;
        if self.ingress_region() == node {
            return Ok(if tenant.routes_in_region() && self.mail_flow_region.is_some() { "6" } else { "9" });
        }
        if tenant.residency == Residency::Strict {
            return Err("22");
        }
        if !tenant.routes_in_region() {
            return Err("10");
        }
        if tenant.allows(node) { Ok("8") } else { Err("7") }
    }

    /// The region that mail entered before, while the propagation window of a change is open (rule 21).
    /// A change dated ahead counts as just made while clocks could differ so much, and not beyond.
    pub fn former_ingress_region(&self, rules: &Rules, now: Timestamp) -> Option<Region> {
        let changed_at = self.mail_flow_region_changed_at?;
        let distance = now.since(changed_at).max(changed_at.since(now));
        (distance < rules.propagation_window)
            .then(|| self.tenant.ingress_region(self.previous_mail_flow_region))
    }
}

/// The order of the checks is policy: attribution, partners, IPv6, subscription, region, other recipients.
pub fn decide_entry(rules: &Rules, facts: &EntryFacts<'_>, trail: &mut Trail) -> Result<Entry, Reason> {
    if facts.door == Door::Legacy {
        trail.step("11", || "the client came through a legacy listener: no mail enters there".to_owned());
        return Err(Reason::WrongRegion);
    }
    let domain = match &facts.domain {
        Lookup::Found(domain) => domain,
        Lookup::Absent => return decide_foreign(facts, trail),
        Lookup::Failed => {
            trail.step("17", || format!("the lookup of accepted domain {} failed", facts.recipient_domain));
            return Err(Reason::DomainLookupFailed);
        }
    };
    trail.step("facts", || describe(domain, facts.recipient_domain));
    let partner = decide_partner(&domain.tenant, facts.peer, facts.sender, facts.attribution, trail)?;
    let recorded = decide_ipv6(rules, domain, facts, partner.as_ref(), trail)?;
    if !domain.tenant.subscription {
        trail.step("16", || format!("tenant {} has no subscription", domain.tenant.id));
        return Err(Reason::NoSubscription);
    }
    let ingress = decide_region(rules, domain, facts, trail)?;
    let mixed = facts.region_so_far.is_some_and(|first| first != ingress);
    if mixed && *facts.attribution == Attribution::Incoming && rules.mixed_regions == MixedRegions::Defer {
        trail.step("14", || format!("ingress {ingress} differs from that of the first recipient"));
        return Err(Reason::MixedRegions);
    }
    Ok(Entry::Hosted { domain: domain.clone(), ingress, partner, recorded })
}

fn decide_foreign(facts: &EntryFacts<'_>, trail: &mut Trail) -> Result<Entry, Reason> {
    match facts.attribution {
        Attribution::Originating { tenant, connector } => {
            trail.step("6.originating", || {
                format!("tenant {} may address any domain through connector {connector}", tenant.id)
            });
            Ok(Entry::Foreign)
        }
        Attribution::Incoming | Attribution::PeerEdge(_) => {
            trail.step("1", || {
                format!("{} is not an accepted domain, and the client may not relay", facts.recipient_domain)
            });
            Err(Reason::RelayDenied)
        }
    }
}

/// Rules 6 to 10, 21 and 22, as far as the domain alone tells.
fn decide_region(
    rules: &Rules,
    domain: &AcceptedDomain,
    facts: &EntryFacts<'_>,
    trail: &mut Trail,
) -> Result<Region, Reason> {
    let node = rules.node_region;
    let ingress = domain.ingress_region();
    match facts.attribution {
        Attribution::PeerEdge(region) => {
            trail.step("6.peers", || format!("from an edge of {region}: the message has already entered"));
            return Ok(ingress);
        }
        // What would be refused to strangers is relayed there; a strict tenant's mail never enters elsewhere.
        Attribution::Originating { .. } if domain.tenant.residency != Residency::Strict => {
            trail.step("6.originating", || {
                format!("originating: what enters in {ingress} is relayed rather than refused")
            });
            return Ok(ingress);
        }
        Attribution::Originating { .. } | Attribution::Incoming => {}
    }
    let decided = domain.entry_at(node);
    if ingress != node && domain.former_ingress_region(rules, facts.now) == Some(node) {
        trail.step("21", || format!("ingress moved from {node} to {ingress} within the propagation window"));
        return Ok(ingress);
    }
    let (Ok(rule) | Err(rule)) = decided;
    trail.step(rule, || match rule {
        "7" => format!("mail enters in {ingress}, and {node} is not in allowed_regions"),
        "8" => format!("mail enters in {ingress}, but {node} is in allowed_regions with in-region routing"),
        "10" => format!("in-region routing off or single-geo: mail enters in {ingress}, not in {node}"),
        "22" => format!("strict residency: mail enters in {ingress} only, this node is in {node}"),
        _ => format!("ingress region {ingress} is this node's region"),
    });
    decided.map(|_| ingress).map_err(|_| Reason::WrongRegion)
}

fn describe(domain: &AcceptedDomain, asked: &Domain) -> String {
    let tenant = &domain.tenant;
    let matched = if *asked == domain.name { String::new() } else { format!(" matched by {}", domain.name) };
    let kind = match domain.kind {
        crate::mail::DomainKind::Authoritative => "authoritative",
        crate::mail::DomainKind::InternalRelay => "internal-relay",
    };
    let flow = domain.mail_flow_region.map_or("not set".to_owned(), |region| region.to_string());
    let allowed: Vec<&str> = tenant.allowed_regions.iter().map(Region::as_str).collect();
    format!(
        "{asked}{matched}: {kind} domain of tenant {}; mail_flow_region {flow}, default_region {}, allowed_regions [{}], \
         multi_geo {}, in_region_routing {}, residency {}",
        tenant.id,
        tenant.default_region,
        allowed.join(" "),
        tenant.multi_geo,
        tenant.in_region_routing,
        match tenant.residency {
            Residency::Documented => "documented",
            Residency::Strict => "strict",
        },
    )
}
