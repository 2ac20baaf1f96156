//! Moving: a domain's mail flow region and a user's location: what a change would do, for whom, and doing it.
//!
//! The command line and the API say and do the same, because both ask here. What is in force afterwards is
//! the caller's to find out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::directory::{irr, user_row};
use crate::clock::Timestamp;
use crate::decision::{Irr, home_region};
use crate::directory::{Homes, Move, Register, Trouble};
use crate::mail::{AcceptedDomain, Address, Domain, Licenses, Region, Regions, Residency, User};

/// Why nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The wish itself is wrong: no region code, no address.
    Mistake(String),
    /// There is no such domain or user.
    Absent(String),
    /// It would do harm; `force` insists.
    Objection(String),
    /// The directory does not answer, or cannot be written.
    Failed(String),
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(format!("the directory: {trouble}"))
    }
}

/// How it is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manner {
    /// Say what would change, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Do it in spite of an objection.
    #[serde(default)]
    pub force: bool,
}

/// What is going to be done, as it is shown.
#[derive(Debug)]
pub struct Plan {
    pub told: Value,
    /// In one line, for the audit.
    pub summary: String,
    step: Option<Step>,
}

#[derive(Debug)]
enum Step {
    Domain(Move),
    User(Address, Option<Region>),
}

impl Plan {
    /// Whether anything is to be done: not when it is so already, and not when it was only tried.
    pub fn changes(&self) -> bool {
        self.step.is_some()
    }

    pub async fn carry_out(&mut self, register: &mut Register) -> Result<(), Refusal> {
        match self.step.take() {
            None => Ok(()),
            Some(Step::Domain(change)) => Ok(register.set_mail_flow_region(&change).await?),
            Some(Step::User(primary, to)) => Ok(register.set_preferred_data_location(&primary, to).await?),
        }
    }
}

/// A region's code that exists, or `none`.
fn region(text: &str, regions: &Regions) -> Result<Option<Region>, Refusal> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    regions.find(text).map(Some).ok_or_else(|| {
        Refusal::Mistake(format!(
            "{text:?} is no region code; expected one of the 25 codes or of region_codes, or none"
        ))
    })
}

/// Lets a domain's mail enter in another region.
pub async fn plan_domain(
    register: &mut Register,
    name: &str,
    to: &str,
    manner: Manner,
    (now, window): (Timestamp, Duration),
) -> Result<Plan, Refusal> {
    let before = find_domain(register, name)?;
    let to = region(to, register.regions())?;
    let tenant = &before.tenant;
    if let Some(to) = to.filter(|to| !tenant.allows(*to) && !manner.force) {
        let allowed: Vec<_> = tenant.allowed_regions.iter().map(ToString::to_string).collect();
        return Err(Refusal::Objection(format!(
            "{to} is none of the regions of tenant {} ({}): mail would enter where no mailbox can be",
            tenant.id,
            allowed.join(" ")
        )));
    }
    let homes = register.homes(&before.name).await?;
    let after = AcceptedDomain {
        mail_flow_region: to,
        previous_mail_flow_region: before.mail_flow_region,
        mail_flow_region_changed_at: Some(now),
        ..AcceptedDomain::clone(&before)
    };
    let changes = to != before.mail_flow_region;
    let (old, new) = (before.ingress_region(), after.ingress_region());
    let until = (changes && old != new).then(|| now.plus(window));
    // The region that keeps on taking mail is safe for ever.
    let safe_until = until.filter(|_| after.entry_at(old).is_err());
    let told = json!({
        "domain": before.name,
        "tenant": &*before.tenant.id,
        "changed": changes,
        "dry_run": manner.dry_run,
        "mail_flow_region": { "from": before.mail_flow_region, "to": after.mail_flow_region },
        "ingress": { "from": old, "to": new },
        "users": {
            "total": homes.values().sum::<u64>(),
            "in_region_routing": { "from": routed(&before, &homes), "to": routed(&after, &homes) },
        },
        // Rule 21: both accept meanwhile.
        "window": until.map(|until| json!({
            "from": now.to_string(), "until": until.to_string(), "accept": [old, new],
        })),
        "afterwards": until.map(|_| afterwards(&after, old)),
        "safe_until": safe_until.map(|until| until.to_string()),
        "notes": notes(&before, &after, &homes, now, window),
    });
    let shown = |region: Option<Region>| region.map_or("none".to_owned(), |region| region.to_string());
    let summary =
        format!("{}: mail_flow_region {} -> {}", before.name, shown(before.mail_flow_region), shown(to));
    let change = Move { domain: before.name.clone(), from: before.mail_flow_region, to, at: now };
    Ok(Plan { told, summary, step: (changes && !manner.dry_run).then_some(Step::Domain(change)) })
}

/// What senders are told at the edges of each region of the tenant's once the window is over, by the decision
/// itself.
fn afterwards(after: &AcceptedDomain, old: Region) -> Value {
    let tenant = &after.tenant;
    let mut regions = vec![after.ingress_region(), old, tenant.default_region];
    regions.extend(tenant.allowed_regions.iter().copied());
    let mut seen: Vec<Region> = Vec::new();
    regions.retain(|region| {
        let fresh = !seen.contains(region);
        seen.push(*region);
        fresh
    });
    let told = regions.into_iter().map(|region| {
        let decided = after.entry_at(region);
        let says = match (decided, tenant.residency) {
            (Ok("8"), _) => "accepts for every user and relays to the user's home region",
            (Ok(_), Residency::Strict) => "accepts for users at home there, and answers ATTR35 for others",
            (Ok(_), Residency::Documented) => "accepts for every user",
            (Err(_), _) => "answers ATTR35 for everybody",
        };
        let (Ok(rule) | Err(rule)) = decided;
        json!({ "region": region, "accepts": decided.is_ok(), "rule": rule, "says": says })
    });
    Value::Array(told.collect())
}

/// How many users, where they live, and to how many in-region routing applies.
pub fn users_of(domain: &AcceptedDomain, homes: &Homes) -> Value {
    let mut by_home: BTreeMap<String, u64> = BTreeMap::new();
    for (user, count) in each(domain, homes) {
        *by_home.entry(home_region(&domain.tenant, &user).to_string()).or_default() += count;
    }
    json!({
        "total": homes.values().sum::<u64>(),
        "in_region_routing": routed(domain, homes),
        "by_home_region": by_home,
    })
}

/// Users to whom in-region routing applies (spec, section 0).
fn routed(domain: &AcceptedDomain, homes: &Homes) -> u64 {
    each(domain, homes).filter(|(user, _)| irr(domain, user) == Irr::Applied).map(|(_, count)| count).sum()
}

/// One user for all who are alike.
fn each<'h>(domain: &AcceptedDomain, homes: &'h Homes) -> impl Iterator<Item = (User, u64)> + 'h {
    let anybody = Address::postmaster_at(domain.name.clone());
    homes.iter().map(move |((location, holds), count)| {
        let licenses = Licenses { multi_geo: holds.multi_geo, mail: holds.mail };
        (User { primary: anybody.clone(), preferred_data_location: location.clone(), licenses }, *count)
    })
}

fn notes(
    before: &AcceptedDomain,
    after: &AcceptedDomain,
    homes: &Homes,
    now: Timestamp,
    window: Duration,
) -> Vec<String> {
    let mut notes = Vec::new();
    let tenant = &before.tenant;
    let changes = before.mail_flow_region != after.mail_flow_region;
    if changes && !tenant.routes_in_region() {
        notes.push(format!(
            "tenant {} has multi_geo or in_region_routing off: mail enters in {} whatever this says",
            tenant.id, tenant.default_region
        ));
    }
    let new = after.ingress_region();
    if changes && tenant.residency == Residency::Strict {
        let elsewhere: u64 = each(after, homes)
            .filter(|(user, _)| home_region(tenant, user) != new)
            .map(|(_, count)| count)
            .sum();
        if elsewhere > 0 {
            notes.push(format!(
                "tenant {} is strict: mail for the {elsewhere} users whose home is not {new} is refused everywhere",
                tenant.id
            ));
        }
    }
    if let (Some(at), previous) = (before.mail_flow_region_changed_at, before.previous_mail_flow_region)
        && now.since(at) < window
        && changes
    {
        let former = AcceptedDomain { mail_flow_region: previous, ..AcceptedDomain::clone(before) };
        let former = former.ingress_region();
        let says = match after.entry_at(former) {
            Ok(rule) => {
                format!("mail that is still sent to {former} is accepted there all the same (rule {rule})")
            }
            Err(_) => format!("mail that is still sent to {former} is told ATTR35 from now on"),
        };
        // Rule 21 knows one former region: the last.
        if former != before.ingress_region() {
            notes.push(format!("the window of the change at {at} is still open: {says}"));
        }
    }
    notes
}

/// Lets a user live in another region.
pub async fn plan_user(
    register: &mut Register,
    address: &str,
    to: &str,
    manner: Manner,
) -> Result<Plan, Refusal> {
    let (before, _) = find_user(register, address).await?;
    let to = region(to, register.regions())?;
    let Some(domain) = register.table().domain(before.primary.domain()).cloned() else {
        return Err(Refusal::Objection(format!("{} is in no accepted domain", before.primary)));
    };
    let after = User { preferred_data_location: to.map(|to| to.as_str().into()), ..before.clone() };
    let (old, new) = (home_region(&domain.tenant, &before), home_region(&domain.tenant, &after));
    let ingress = domain.ingress_region();
    if !manner.force {
        let objection = match to {
            Some(to) if !domain.tenant.allows(to) => Some(format!(
                "{to} is none of the regions of tenant {}: {} would hold instead",
                domain.tenant.id, domain.tenant.default_region
            )),
            _ if domain.tenant.residency == Residency::Strict && new != ingress => Some(format!(
                "the tenant is strict and its mail enters in {ingress}: no region would take this user's mail"
            )),
            _ => None,
        };
        if let Some(objection) = objection {
            return Err(Refusal::Objection(objection));
        }
    }
    let changes = after.preferred_data_location != before.preferred_data_location;
    let told = json!({
        "address": before.primary,
        "tenant": &*domain.tenant.id,
        "changed": changes,
        "dry_run": manner.dry_run,
        "preferred_data_location": {
            "from": before.preferred_data_location, "to": after.preferred_data_location,
        },
        "home": { "from": old, "to": new },
        "ingress": ingress,
        "in_region_routing": { "from": irr(&domain, &before).word(), "to": irr(&domain, &after).word() },
    });
    let shown = |location: &Option<Box<str>>| location.as_deref().unwrap_or("none").to_owned();
    let summary = format!(
        "{}: preferred_data_location {} -> {}",
        before.primary,
        shown(&before.preferred_data_location),
        shown(&after.preferred_data_location)
    );
    let step = Step::User(before.primary, to);
    Ok(Plan { told, summary, step: (changes && !manner.dry_run).then_some(step) })
}

pub fn find_domain(register: &Register, name: &str) -> Result<Arc<AcceptedDomain>, Refusal> {
    let name = Domain::parse(name).map_err(|_| Refusal::Mistake(format!("{name:?} is no domain")))?;
    let found = register.domain(&name).cloned();
    found.ok_or_else(|| Refusal::Absent(format!("{name} is no accepted domain")))
}

/// By primary address or alias.
pub async fn find_user(register: &mut Register, text: &str) -> Result<(User, Vec<Address>), Refusal> {
    let address = Address::parse(text).map_err(|_| Refusal::Mistake(format!("{text:?} is no address")))?;
    let found = register.user(&address).await?;
    found.ok_or_else(|| Refusal::Absent(format!("{address} is nobody's address")))
}

/// One user with its aliases, as operators see it.
pub fn whole_user_row(domain: Option<&AcceptedDomain>, user: &User, aliases: &[Address]) -> Value {
    let mut row = user_row(domain, user);
    row["aliases"] = json!(aliases);
    row
}
