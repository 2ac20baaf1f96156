//! Home: where does this recipient's mail belong, and can we get it there?
//!
//! `decide_home` answers at RCPT; `decide_place` answers again before each attempt (rule 89), when the
//! message is already ours and only the way on is in question.

use std::sync::Arc;

use crate::mail::{
    AcceptedDomain, Address, DomainKind, Lookup, NextHop, NextHopName, OutboundConnector, Region, Residency,
    Tenant, Transport, User,
};

use super::{Came, Entry, Reason, Rules, Trail};

/// Where a recipient's mail goes from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub next_hop: NextHop,
    /// The home region; `None` where no region's mailbox is the goal (smart hosts, the internet).
    pub home: Option<Region>,
    pub irr: Irr,
    /// The primary address of the user who is meant, where the directory knows one.
    pub mailbox: Option<Address>,
}

/// Whether in-region routing applies to a recipient (spec, section 0), for trace and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Irr {
    Applied,
    NotApplied(IrrMiss),
}

/// Why in-region routing did not apply; mail flows all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrrMiss {
    /// The recipient is no user of ours.
    NoUser,
    /// The tenant has it off, or the primary domain has no mail_flow_region.
    NotEnabled,
    /// Rule 13: an alias in an IRR domain, the primary address elsewhere.
    NotPrimaryDomain,
    /// Rule 12: the home region is not the domain's.
    PdlMismatch,
    MissingLicense,
}

impl Irr {
    pub fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NotApplied(IrrMiss::NoUser) => "no-user",
            Self::NotApplied(IrrMiss::NotEnabled) => "not-enabled",
            Self::NotApplied(IrrMiss::NotPrimaryDomain) => "not-primary-domain",
            Self::NotApplied(IrrMiss::PdlMismatch) => "pdl-mismatch",
            Self::NotApplied(IrrMiss::MissingLicense) => "missing-license",
        }
    }
}

/// The PDL when the tenant allows it; the default region otherwise (spec, section 0).
pub fn home_region(tenant: &Tenant, user: &User) -> Region {
    user.preferred_data_location
        .as_deref()
        .and_then(Region::parse)
        .filter(|region| tenant.allows(*region))
        .unwrap_or(tenant.default_region)
}

/// May this recipient be accepted, and where does its mail go? Comes after `decide_entry`.
pub fn decide_home(
    rules: &Rules,
    entry: &Entry,
    recipient: &Address,
    user: Lookup<&User>,
    came: &Came,
    trail: &mut Trail,
) -> Result<Place, Reason> {
    let Entry::Hosted { domain, ingress, .. } = entry else {
        return foreign_place(came, recipient, trail);
    };
    // Section 6: postmaster is always accepted where a domain is hosted (RFC 5321 §4.5.1).
    if domain.sending_to_disabled && !recipient.is_postmaster() {
        trail.step("23", || format!("sending to {} is disabled", domain.name));
        return Err(Reason::SendingDisabled);
    }
    // Whether mail may leave this region comes before whether there is a way: a strict tenant's senders are
    // told the same at every node.
    if let Lookup::Found(user) = user {
        may_be_at(rules, domain, home_region(&domain.tenant, user), came.transport, trail)?;
    }
    let place = hosted_place(rules, domain, *ingress, recipient, user, came, trail)?;
    if let Some(home) = place.home {
        may_be_at(rules, domain, home, came.transport, trail)?;
    }
    Ok(place)
}

/// Whether a message that came in here may belong to that region.
fn may_be_at(
    rules: &Rules,
    domain: &AcceptedDomain,
    home: Region,
    transport: Transport,
    trail: &mut Trail,
) -> Result<(), Reason> {
    if home == rules.node_region {
        return Ok(());
    }
    if transport == Transport::PeerEdge {
        // Stale directories must not ping-pong a message between edges.
        trail.step("6.peers", || {
            format!("the home region is {home}, and a peer's mail is never relayed onward")
        });
        return Err(Reason::NoRoute);
    }
    if domain.tenant.residency == Residency::Strict {
        trail
            .step("22", || format!("strict residency: the home region is {home}, not {}", rules.node_region));
        return Err(Reason::WrongRegion);
    }
    Ok(())
}

/// Where a message that is already ours goes on, asked before each attempt (rule 89).
pub fn decide_place(
    rules: &Rules,
    came: &Came,
    domain: Lookup<Arc<AcceptedDomain>>,
    recipient: &Address,
    user: Lookup<&User>,
) -> Result<Place, Reason> {
    let mut trail = Trail::off();
    let domain = match domain {
        Lookup::Found(domain) => domain,
        Lookup::Failed => return Err(Reason::DomainLookupFailed),
        Lookup::Absent if is_own_postmaster(rules, recipient) => return own_store(rules, &mut trail),
        Lookup::Absent => {
            return match came.transport {
                Transport::Originating | Transport::Notice => foreign_place(came, recipient, &mut trail),
                Transport::Incoming | Transport::PeerEdge => Err(Reason::RelayDenied),
            };
        }
    };
    let place = hosted_place(rules, &domain, domain.ingress_region(), recipient, user, came, &mut trail)?;
    let leaves = place.home.is_some_and(|home| home != rules.node_region);
    if leaves && came.transport == Transport::PeerEdge {
        return Err(Reason::NoRoute);
    }
    Ok(place)
}

/// `postmaster` without a domain, where no other reader is configured.
pub fn is_own_postmaster(rules: &Rules, recipient: &Address) -> bool {
    recipient.is_postmaster() && *recipient.domain() == rules.hostname
}

pub fn node_postmaster(rules: &Rules) -> Address {
    Address::postmaster_at(rules.hostname.clone())
}

pub fn own_store(rules: &Rules, trail: &mut Trail) -> Result<Place, Reason> {
    trail.step("6.addresses", || "postmaster of this node: its own store".to_owned());
    region_place(rules, rules.node_region, Irr::NotApplied(IrrMiss::NoUser), trail)
}

fn foreign_place(came: &Came, recipient: &Address, trail: &mut Trail) -> Result<Place, Reason> {
    let domain = recipient.domain();
    if let (Transport::Originating, Some(tenant)) = (came.transport, &came.tenant) {
        if let Some(place) = central_place(tenant, came, trail)? {
            return Ok(place);
        }
        // What the tenant's servers hand over for the world must not come straight back to them.
        if let Some(connector) = tenant.outbound_connector(domain, |connector| came.from(tenant, connector)) {
            return Ok(smart_host_place(tenant, connector, trail));
        }
    }
    trail.step("90", || format!("{domain} is hosted by nobody here: to its MX"));
    Ok(Place {
        next_hop: NextHop {
            name: NextHopName::Internet(domain.clone()),
            endpoints: Arc::new([]),
            tls: crate::mail::TlsLevel::Opportunistic,
            ca: None,
        },
        home: None,
        irr: Irr::NotApplied(IrrMiss::NoUser),
        mailbox: None,
    })
}

/// Rule 39: where the tenant wants all mail to pass its own servers, that is where it goes until it comes from
/// there. An edge of another region has seen to that, and a notice of ours is no mail from the internet.
fn central_place(tenant: &Arc<Tenant>, came: &Came, trail: &mut Trail) -> Result<Option<Place>, Reason> {
    match came.transport {
        Transport::Incoming | Transport::Originating if tenant.route_all_via_on_premises => {}
        Transport::Incoming | Transport::Originating | Transport::PeerEdge | Transport::Notice => {
            return Ok(None);
        }
    }
    let Some(connector) = tenant.central_connector() else {
        trail
            .step("19", || format!("tenant {} routes all mail on premises, and has no way there", tenant.id));
        return Err(Reason::NoRoute);
    };
    if came.from(tenant, connector) {
        trail.step("39", || format!("it comes from the servers of tenant {}: it has been there", tenant.id));
        return Ok(None);
    }
    trail.step("39", || format!("tenant {} routes all mail through its own servers first", tenant.id));
    Ok(Some(smart_host_place(tenant, connector, trail)))
}

/// Where it goes, once it has passed the tenant's own servers where those want to see all mail.
fn hosted_place(
    rules: &Rules,
    domain: &Arc<AcceptedDomain>,
    ingress: Region,
    recipient: &Address,
    user: Lookup<&User>,
    came: &Came,
    trail: &mut Trail,
) -> Result<Place, Reason> {
    let place = last_place(rules, domain, ingress, recipient, user, came, trail)?;
    Ok(central_place(&domain.tenant, came, trail)?.unwrap_or(place))
}

fn last_place(
    rules: &Rules,
    domain: &Arc<AcceptedDomain>,
    ingress: Region,
    recipient: &Address,
    user: Lookup<&User>,
    came: &Came,
    trail: &mut Trail,
) -> Result<Place, Reason> {
    match user {
        Lookup::Found(user) => {
            let home = home_region(&domain.tenant, user);
            trail.step("facts", || describe_home(&domain.tenant, user, home));
            let irr = in_region_routing(domain, ingress, user, home);
            trail.step(irr_rule(irr), || format!("in-region routing: {}", irr.word()));
            let place = region_place(rules, home, irr, trail)?;
            Ok(Place { mailbox: Some(user.primary.clone()), ..place })
        }
        Lookup::Failed => {
            trail.step("18", || format!("the lookup of {recipient} failed"));
            Err(Reason::RecipientLookupFailed)
        }
        Lookup::Absent
            if came.transport == Transport::Originating && domain.entry_at(rules.node_region).is_err() =>
        {
            // Whose mailboxes exist there is that region's to say.
            trail.step("6.originating", || {
                format!("{recipient} is not known here; its mail enters in {ingress}")
            });
            region_place(rules, ingress, Irr::NotApplied(IrrMiss::NoUser), trail)
        }
        Lookup::Absent if recipient.is_postmaster() => {
            // RFC 5321 §4.5.1: postmaster is always accepted; unread by any user, it stays where it enters.
            trail
                .step("6.addresses", || format!("{recipient} is always accepted where its domain is hosted"));
            let home = if domain.tenant.routes_in_region() { ingress } else { domain.tenant.default_region };
            region_place(rules, home, Irr::NotApplied(IrrMiss::NoUser), trail)
        }
        Lookup::Absent => match domain.kind {
            DomainKind::Authoritative => {
                trail.step("4", || format!("{} is authoritative and has no user {recipient}", domain.name));
                Err(Reason::UnknownRecipient)
            }
            DomainKind::InternalRelay => {
                let connector = domain.tenant.outbound_connector_below(&domain.name, recipient.domain());
                let Some(connector) = connector else {
                    trail.step("19", || format!("internal-relay {} has no outbound connector", domain.name));
                    return Err(Reason::NoRoute);
                };
                trail.step("5", || format!("no user {recipient}, and {} is internal-relay", domain.name));
                Ok(smart_host_place(&domain.tenant, connector, trail))
            }
        },
    }
}

fn smart_host_place(tenant: &Arc<Tenant>, connector: &OutboundConnector, trail: &mut Trail) -> Place {
    trail.step("38", || format!("outbound connector {} of tenant {}", connector.name, tenant.id));
    Place {
        next_hop: NextHop {
            name: NextHopName::SmartHost { tenant: tenant.id.clone(), connector: connector.name.clone() },
            endpoints: connector.smart_hosts.clone(),
            tls: connector.tls,
            ca: connector.ca.clone(),
        },
        home: None,
        irr: Irr::NotApplied(IrrMiss::NoUser),
        mailbox: None,
    }
}

fn region_place(rules: &Rules, home: Region, irr: Irr, trail: &mut Trail) -> Result<Place, Reason> {
    let Some(next_hop) = rules.routes.get(&home) else {
        trail.step("19", || format!("no store or relay is configured for region {home}"));
        return Err(Reason::NoRoute);
    };
    trail.step(if home == rules.node_region { "6" } else { "8" }, || {
        let endpoints: Vec<String> = next_hop.endpoints.iter().map(ToString::to_string).collect();
        format!("next hop {} ({})", next_hop.name, endpoints.join(", "))
    });
    Ok(Place { next_hop: next_hop.clone(), home: Some(home), irr, mailbox: None })
}

/// The words of section 0: primary domain's mail_flow_region = home region, and both licences.
pub fn in_region_routing(domain: &AcceptedDomain, ingress: Region, user: &User, home: Region) -> Irr {
    let miss = if !domain.tenant.routes_in_region() || domain.mail_flow_region.is_none() {
        IrrMiss::NotEnabled
    } else if *user.primary.domain() != domain.name {
        IrrMiss::NotPrimaryDomain
    } else if home != ingress {
        IrrMiss::PdlMismatch
    } else if !(user.licenses.multi_geo && user.licenses.mail) {
        IrrMiss::MissingLicense
    } else {
        return Irr::Applied;
    };
    Irr::NotApplied(miss)
}

fn irr_rule(irr: Irr) -> &'static str {
    match irr {
        Irr::NotApplied(IrrMiss::PdlMismatch) => "12",
        Irr::NotApplied(IrrMiss::NotPrimaryDomain) => "13",
        Irr::Applied | Irr::NotApplied(IrrMiss::NoUser | IrrMiss::NotEnabled | IrrMiss::MissingLicense) => {
            "facts"
        }
    }
}

fn describe_home(tenant: &Tenant, user: &User, home: Region) -> String {
    let pdl = user.preferred_data_location.as_deref();
    let why = match pdl.map(|text| (text, Region::parse(text))) {
        None => "preferred_data_location not set: the tenant's default region".to_owned(),
        Some((_, Some(region))) if tenant.allows(region) => format!("preferred_data_location {region}"),
        Some((text, _)) => {
            format!("preferred_data_location '{text}' is not allowed: the tenant's default region")
        }
    };
    format!("user {}: home region {home} ({why})", user.primary)
}
