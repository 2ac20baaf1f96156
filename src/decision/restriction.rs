//! Restriction: what tenants demand of those who send in their name or to them (rules 35 to 37).
//!
//! `decide_sender` answers at MAIL, by the sender's tenant and the client's address; `decide_partner` at
//! RCPT, by the recipient's tenant. Edges of other regions are asked neither: their mail has entered.

use std::sync::Arc;

use crate::mail::{ConnectorKind, Domain, InboundConnector, Peer, Tenant};

use super::{Attribution, ClientFacts, Proof, Reason, Trail, Via};

/// May this client use this sender? Comes after `attribute`.
pub fn decide_sender(
    facts: &ClientFacts<'_>,
    attribution: &Attribution,
    trail: &mut Trail,
) -> Result<(), Reason> {
    require_tls(facts, trail)?;
    match attribution {
        Attribution::Incoming => refuse_direct_send(facts, trail),
        Attribution::Originating { .. } | Attribution::PeerEdge(_) => Ok(()),
    }
}

/// Rule 37 for on-premises connectors, whether or not the sender makes the client theirs.
fn require_tls(facts: &ClientFacts<'_>, trail: &mut Trail) -> Result<(), Reason> {
    let Some(found) = facts.network_connector() else { return Ok(()) };
    if facts.peer.tls.is_some() || !found.connector.require_tls {
        return Ok(());
    }
    trail.step("37", || in_plain_text(found.connector, found.tenant));
    Err(Reason::TlsNeeded)
}

/// Rule 36: in the tenant's own name, from nobody that the tenant knows.
fn refuse_direct_send(facts: &ClientFacts<'_>, trail: &mut Trail) -> Result<(), Reason> {
    let Some(tenant) = facts.sender_tenant().filter(|tenant| tenant.reject_direct_send) else {
        return Ok(());
    };
    // A service that sends in the tenant's name is let in by a partner connector that it matches.
    let peer = facts.peer;
    let known = tenant.inbound_connectors.iter().find(|connector| {
        connector.kind == ConnectorKind::Partner
            && connector.covers_sender(facts.sender)
            && (connector.covers_ip(peer.ip) || connector.covers_certificate(peer.verified_names()))
    });
    match known {
        Some(connector) => {
            trail.step("36", || {
                format!("the client matches partner connector {} of the sender's tenant", connector.name)
            });
            Ok(())
        }
        None => {
            trail.step("36", || {
                format!(
                    "the sender is of tenant {}, which rejects direct send, and no connector of it matches the client",
                    tenant.id
                )
            });
            Err(Reason::DirectSendForbidden)
        }
    }
}

/// Rules 35 and 37 for the recipient's tenant: the partner connector that covers the sender most exactly,
/// where several do equally one that the client satisfies, says what the client must have. It is then the
/// connector that the mail comes by, if the client shows that it is the partner's: anybody may write its domain.
pub fn decide_partner(
    tenant: &Arc<Tenant>,
    peer: &Peer,
    sender: Option<&Domain>,
    attribution: &Attribution,
    trail: &mut Trail,
) -> Result<Option<Via>, Reason> {
    let asked = match attribution {
        Attribution::Incoming => true,
        Attribution::PeerEdge(_) => false,
        // The tenant's own servers are not its partners'.
        Attribution::Originating { tenant: own, .. } => own.id != tenant.id,
    };
    if !asked {
        return Ok(None);
    }
    let partners = most_exact_partners(tenant, sender);
    let Some(first) = partners.first() else { return Ok(None) };
    let Some(satisfied) = partners.iter().find(|connector| satisfies(peer, connector)) else {
        trail.step("35", || {
            format!(
                "partner connector {} of tenant {} covers the sender, and the client lacks what it asks for",
                first.name, tenant.id
            )
        });
        return Err(Reason::PartnerRestricted);
    };
    if satisfied.require_tls && peer.tls.is_none() {
        trail.step("37", || in_plain_text(satisfied, tenant));
        return Err(Reason::TlsNeeded);
    }
    trail.step("35", || format!("as partner connector {} of tenant {} asks", satisfied.name, tenant.id));
    let Some(proof) = proof(peer, satisfied) else {
        trail.step("35", || "nothing but the sender speaks for the partner: mail of anybody's".to_owned());
        return Ok(None);
    };
    Ok(Some(Via { tenant: tenant.clone(), connector: (*satisfied).clone(), proof }))
}

fn most_exact_partners<'t>(tenant: &'t Tenant, sender: Option<&Domain>) -> Vec<&'t Arc<InboundConnector>> {
    let partners = tenant.inbound_connectors.iter().filter(|one| one.kind == ConnectorKind::Partner);
    let ranked = partners.filter_map(|one| Some((one.sender_specificity(sender)?, one)));
    let mut best: (usize, Vec<_>) = (0, Vec::new());
    for (rank, connector) in ranked {
        if rank > best.0 {
            best = (rank, Vec::new());
        }
        if rank == best.0 {
            best.1.push(connector);
        }
    }
    best.1
}

fn satisfies(peer: &Peer, connector: &InboundConnector) -> bool {
    (!connector.restrict_to_ip || connector.covers_ip(peer.ip))
        && (!connector.restrict_to_certificate || connector.covers_certificate(peer.verified_names()))
}

/// By what the client is the connector's.
fn proof(peer: &Peer, connector: &InboundConnector) -> Option<Proof> {
    if connector.covers_certificate(peer.verified_names()) {
        return Some(Proof::Certificate);
    }
    connector.covers_ip(peer.ip).then_some(Proof::Address)
}

fn in_plain_text(connector: &InboundConnector, tenant: &Tenant) -> String {
    format!(
        "connector {} of tenant {} requires TLS, and the client speaks plain text",
        connector.name, tenant.id
    )
}
