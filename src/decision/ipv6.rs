//! Ipv6: who may send over IPv6, and to whom (rules 50 to 53).

use crate::auth::Ipv6;
use crate::mail::{AcceptedDomain, Lookup};

use super::{Attribution, EntryFacts, Reason, Rules, Trail, Via};

/// Whether the client's reverse name matters for mail to this domain: only then is it looked up.
pub fn needs_reverse_name(facts: &EntryFacts<'_>) -> bool {
    let Lookup::Found(domain) = &facts.domain else { return false };
    is_judged(facts, None) && domain.takes_ipv6()
}

/// Rule 53: clients of a connector, and our own edges, are known otherwise.
fn is_judged(facts: &EntryFacts<'_>, partner: Option<&Via>) -> bool {
    let anybody = *facts.attribution == Attribution::Incoming && facts.via.is_none() && partner.is_none();
    facts.peer.ip.is_ipv6() && anybody
}

/// Rules 50 and 51. `Ok` with a reason: it would have been refused, and is only recorded (`auth.ipv6`).
pub fn decide_ipv6(
    rules: &Rules,
    domain: &AcceptedDomain,
    facts: &EntryFacts<'_>,
    partner: Option<&Via>,
    trail: &mut Trail,
) -> Result<Option<Reason>, Reason> {
    let ip = facts.peer.ip;
    if !is_judged(facts, partner) {
        if ip.is_ipv6() {
            trail.step("53", || format!("{ip} is known otherwise: IPv6 does not matter"));
        }
        return Ok(None);
    }
    let reason = if !domain.takes_ipv6() {
        trail.step("50", || format!("neither {} nor its tenant accepts mail over IPv6", domain.name));
        Reason::Ipv6NotAccepted(facts.recipient_domain.clone())
    } else {
        match facts.reverse_name {
            Lookup::Found(()) => {
                trail.step("51", || format!("{ip} has a reverse name"));
                return Ok(None);
            }
            Lookup::Absent => trail.step("51", || format!("{ip} has no reverse name")),
            // Temporary as well, as every failed lookup (rule 20).
            Lookup::Failed => trail.step("51", || format!("the lookup of a reverse name of {ip} failed")),
        }
        Reason::Ipv6WithoutPtr
    };
    match rules.ipv6 {
        Ipv6::Enforce => Err(reason),
        Ipv6::Record => {
            trail.step("50", || "auth.ipv6 is \"record\": it is only counted".to_owned());
            Ok(Some(reason))
        }
    }
}

impl AcceptedDomain {
    fn takes_ipv6(&self) -> bool {
        self.accept_ipv6.unwrap_or(self.tenant.accept_ipv6)
    }
}
