//! Check: what in a directory contradicts itself, though every line of it can be read.
//!
//! Owns the findings of `landfall directory check`. Pure over a `Table`.

use std::fmt;

use super::Table;
use crate::mail::{AcceptedDomain, Address, Domain, DomainKind, Licenses, Region, Regions, Residency, User};

/// One contradiction, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub subject: Subject,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Domain(Domain),
    User(Address),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The preferred data location is no region: the default region holds.
    UnknownDataLocation { location: Box<str>, default: Region },
    /// It is a region, but none of the tenant's: the default region holds.
    DataLocationNotAllowed { location: Region, default: Region },
    /// Mail enters in one region and lives in another: in-region routing does not apply (rule 12).
    PrimaryDomainDisagrees { ingress: Region, home: Region },
    /// In-region routing needs both licences.
    MissingLicenses { held: Licenses },
    /// The user's domain is none of the directory's.
    NoAcceptedDomain,
    /// Mail for unknown recipients has nowhere to go (rule 5).
    NoConnector,
    /// The domain's own region is none where the tenant's mailboxes may be.
    MailFlowRegionNotAllowed { region: Region },
    /// A strict tenant's user away from the ingress region: no region takes their mail (section 6).
    StrictElsewhere { ingress: Region, home: Region },
}

impl Problem {
    /// One word for scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Self::UnknownDataLocation { .. } => "unknown-data-location",
            Self::DataLocationNotAllowed { .. } => "data-location-not-allowed",
            Self::PrimaryDomainDisagrees { .. } => "primary-domain-disagrees",
            Self::MissingLicenses { .. } => "missing-licenses",
            Self::NoAcceptedDomain => "no-accepted-domain",
            Self::NoConnector => "no-connector",
            Self::MailFlowRegionNotAllowed { .. } => "mail-flow-region-not-allowed",
            Self::StrictElsewhere { .. } => "strict-elsewhere",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => write!(f, "{domain}"),
            Self::User(address) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDataLocation { location, default } => {
                write!(f, "preferred data location \"{location}\" is no region code; {default} holds")
            }
            Self::DataLocationNotAllowed { location, default } => {
                write!(
                    f,
                    "preferred data location {location} is none of the tenant's regions; {default} holds"
                )
            }
            Self::PrimaryDomainDisagrees { ingress, home } => {
                write!(f, "lives in {home}, but mail to the primary domain enters in {ingress}")
            }
            Self::MissingLicenses { held } => {
                let missing = [("multi-geo", held.multi_geo), ("mail", held.mail)];
                let missing: Vec<_> =
                    missing.iter().filter(|(_, held)| !held).map(|(name, _)| *name).collect();
                write!(f, "lacks a licence: {}", missing.join(", "))
            }
            Self::NoAcceptedDomain => write!(f, "is in no accepted domain"),
            Self::NoConnector => write!(f, "is internal-relay, but no outbound connector covers it"),
            Self::MailFlowRegionNotAllowed { region } => {
                write!(f, "mail flow region {region} is none of the tenant's regions")
            }
            Self::StrictElsewhere { ingress, home } => {
                write!(
                    f,
                    "lives in {home}, but the strict tenant's mail enters only in {ingress}: no region takes it"
                )
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.problem)
    }
}

/// All contradictions, domains first, each user's together; lazily, for there may be millions.
pub(super) fn findings<'t>(table: &'t Table, regions: &'t Regions) -> impl Iterator<Item = Finding> + 't {
    of_domains(table).chain(table.users().flat_map(move |(user, _)| of_user(table, &user, regions)))
}

pub(super) fn of_domains(table: &Table) -> impl Iterator<Item = Finding> {
    let mut domains: Vec<_> = table.domains().collect();
    domains.sort_by(|one, two| one.name.cmp(&two.name));
    domains.into_iter().flat_map(|domain| {
        let problems = domain_problems(domain).into_iter();
        problems.map(|problem| Finding { subject: Subject::Domain(domain.name.clone()), problem })
    })
}

/// What contradicts itself in one user, wherever it comes from.
pub(super) fn of_user(
    table: &Table,
    user: &User,
    regions: &Regions,
) -> impl Iterator<Item = Finding> + use<> {
    let subject = Subject::User(user.primary.clone());
    let problems = user_problems(table, user, regions).into_iter();
    problems.map(move |problem| Finding { subject: subject.clone(), problem })
}

fn domain_problems(domain: &AcceptedDomain) -> Vec<Problem> {
    let mut problems = Vec::new();
    if domain.kind == DomainKind::InternalRelay
        && domain.tenant.outbound_connector_of_own(&domain.name).is_none()
    {
        problems.push(Problem::NoConnector);
    }
    if let Some(region) = domain.mail_flow_region.filter(|region| !domain.tenant.allows(*region)) {
        problems.push(Problem::MailFlowRegionNotAllowed { region });
    }
    problems
}

fn user_problems(table: &Table, user: &User, regions: &Regions) -> Vec<Problem> {
    let Some(domain) = table.domain(user.primary.domain()) else { return vec![Problem::NoAcceptedDomain] };
    let tenant = &domain.tenant;
    let default = tenant.default_region;
    let mut problems = Vec::new();
    let home = match &user.preferred_data_location {
        None => default,
        Some(location) => match regions.find(location) {
            Some(region) if tenant.allows(region) => region,
            Some(location) => {
                problems.push(Problem::DataLocationNotAllowed { location, default });
                default
            }
            None => {
                problems.push(Problem::UnknownDataLocation { location: location.clone(), default });
                default
            }
        },
    };
    let ingress = domain.ingress_region();
    if tenant.residency == Residency::Strict && home != ingress {
        problems.push(Problem::StrictElsewhere { ingress, home });
    } else if tenant.routes_in_region() && home != ingress {
        problems.push(Problem::PrimaryDomainDisagrees { ingress, home });
    }
    let Licenses { multi_geo, mail } = user.licenses;
    if tenant.routes_in_region() && !(multi_geo && mail) {
        problems.push(Problem::MissingLicenses { held: user.licenses });
    }
    problems
}
