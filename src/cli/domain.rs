//! Domain: the accepted domains, and moving one's mail to another region.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::directory::{failed, register};
use super::{Cli, MISTAKE, NO, YES, print_fields, print_json, print_table, tell_of_change};
use crate::admin::domain_row;
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::decision::home_region;
use crate::directory::{Homes, Move, Register};
use crate::mail::{AcceptedDomain, Address, Domain, Licenses, Region, Regions, User};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// One row per accepted domain.
    List,
    /// One domain: whose it is, where its mail enters, where its users live.
    Show { domain: String },
    /// Let a domain's mail enter in another region.
    Set(Set),
}

#[derive(Debug, Args)]
pub(super) struct Set {
    domain: String,
    /// A region's code, or `none` for the tenant's default region.
    #[arg(long, value_name = "CODE")]
    mail_flow_region: String,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Even if the tenant has no mailboxes in that region.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(cli: &Cli, command: &Command, loaded: config::Loaded) -> u8 {
    let done = match command {
        Command::List => list(cli, loaded).await,
        Command::Show { domain } => show(cli, loaded, domain).await,
        Command::Set(set) => Box::pin(change(cli, loaded, set)).await,
    };
    done.unwrap_or_else(|code| code)
}

async fn list(cli: &Cli, loaded: config::Loaded) -> Result<u8, u8> {
    let (_, register) = register(loaded).await?;
    let mut domains: Vec<_> = register.table().domains().collect();
    domains.sort_by(|one, two| one.name.cmp(&two.name));
    let rows = Value::Array(domains.into_iter().map(|domain| domain_row(domain)).collect());
    if cli.json {
        print_json(&rows);
    } else {
        let columns = ["domain", "tenant", "type", "mail_flow_region", "ingress", "changed_at"];
        print_table(&rows, &columns, "no accepted domains");
    }
    Ok(YES)
}

async fn show(cli: &Cli, loaded: config::Loaded, name: &str) -> Result<u8, u8> {
    let (_, mut register) = register(loaded).await?;
    let domain = find(&register, name)?;
    let homes = register.homes(&domain.name).await.map_err(|trouble| failed(&trouble))?;
    let mut shown = domain_row(&domain);
    shown["users"] = users(&domain, &homes);
    if cli.json {
        print_json(&shown);
    } else {
        print_fields(&shown);
    }
    Ok(YES)
}

fn find(register: &Register, name: &str) -> Result<Arc<AcceptedDomain>, u8> {
    let Ok(name) = Domain::parse(name) else {
        eprintln!("{name:?} is no domain");
        return Err(MISTAKE);
    };
    register.domain(&name).cloned().ok_or_else(|| {
        eprintln!("{name} is no accepted domain");
        NO
    })
}

/// A region's code that exists, or `none`.
pub(super) fn region(text: &str, regions: &Regions) -> Result<Option<Region>, u8> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    regions.find(text).map(Some).ok_or_else(|| {
        eprintln!("{text:?} is no region code; expected one of the 25 codes or of region_codes, or none");
        MISTAKE
    })
}

/// How many users, where they live, and to how many in-region routing applies.
fn users(domain: &AcceptedDomain, homes: &Homes) -> Value {
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
    let applies = |user: &User| {
        domain.tenant.routes_in_region()
            && domain.mail_flow_region == Some(home_region(&domain.tenant, user))
            && user.licenses.multi_geo
            && user.licenses.mail
    };
    each(domain, homes).filter(|(user, _)| applies(user)).map(|(_, count)| count).sum()
}

/// One user for all who are alike.
fn each<'h>(domain: &AcceptedDomain, homes: &'h Homes) -> impl Iterator<Item = (User, u64)> + 'h {
    let anybody = Address::postmaster_at(domain.name.clone());
    homes.iter().map(move |((location, holds), count)| {
        let licenses = Licenses { multi_geo: holds.multi_geo, mail: holds.mail };
        (User { primary: anybody.clone(), preferred_data_location: location.clone(), licenses }, *count)
    })
}

async fn change(cli: &Cli, loaded: config::Loaded, set: &Set) -> Result<u8, u8> {
    let (settings, mut register) = register(loaded).await?;
    let before = find(&register, &set.domain)?;
    let to = region(&set.mail_flow_region, register.regions())?;
    let tenant = &before.tenant;
    if let Some(to) = to.filter(|to| !tenant.allows(*to) && !set.force) {
        let allowed: Vec<_> = tenant.allowed_regions.iter().map(ToString::to_string).collect();
        eprintln!(
            "{to} is none of the regions of tenant {} ({}): mail would enter where no mailbox can be; --force insists",
            tenant.id,
            allowed.join(" ")
        );
        return Err(NO);
    }
    let now = Clock::System.now();
    let homes = register.homes(&before.name).await.map_err(|trouble| failed(&trouble))?;
    let after = AcceptedDomain {
        mail_flow_region: to,
        previous_mail_flow_region: before.mail_flow_region,
        mail_flow_region_changed_at: Some(now),
        ..AcceptedDomain::clone(&before)
    };
    let until = now.plus(settings.routing.propagation_window);
    let changes = to != before.mail_flow_region;
    let mut told = told(&before, &after, &homes, now, until, changes);
    told["dry_run"] = set.dry_run.into();
    told["notes"] = notes(&before, &after, now, &settings).into();
    if changes && !set.dry_run {
        let change = Move { domain: before.name.clone(), from: before.mail_flow_region, to, at: now };
        register.set_mail_flow_region(&change).await.map_err(|trouble| failed(&trouble))?;
        told["in_force"] = tell_of_change(&settings, &register).await.into();
    }
    if cli.json {
        print_json(&told);
    } else {
        print(&told, changes, set.dry_run);
    }
    Ok(YES)
}

fn told(
    before: &AcceptedDomain,
    after: &AcceptedDomain,
    homes: &Homes,
    now: Timestamp,
    until: Timestamp,
    changes: bool,
) -> Value {
    let (old, new) = (before.ingress_region(), after.ingress_region());
    let moves = changes && old != new;
    json!({
        "domain": before.name,
        "tenant": &*before.tenant.id,
        "changed": changes,
        "mail_flow_region": { "from": before.mail_flow_region, "to": after.mail_flow_region },
        "ingress": { "from": old, "to": new },
        "users": {
            "total": homes.values().sum::<u64>(),
            "in_region_routing": { "from": routed(before, homes), "to": routed(after, homes) },
        },
        // Rule 21: both accept meanwhile.
        "window": moves.then(|| json!({ "from": now.to_string(), "until": until.to_string(), "accept": [old, new] })),
        "safe_until": moves.then(|| until.to_string()),
    })
}

fn notes(
    before: &AcceptedDomain,
    after: &AcceptedDomain,
    now: Timestamp,
    settings: &config::Settings,
) -> Vec<String> {
    let mut notes = Vec::new();
    let tenant = &before.tenant;
    if before.mail_flow_region != after.mail_flow_region && !tenant.routes_in_region() {
        notes.push(format!(
            "tenant {} has multi_geo or in_region_routing off: mail enters in {} whatever this says",
            tenant.id, tenant.default_region
        ));
    }
    let window = settings.routing.propagation_window;
    if let (Some(at), previous) = (before.mail_flow_region_changed_at, before.previous_mail_flow_region)
        && now.since(at) < window
        && before.mail_flow_region != after.mail_flow_region
    {
        let former = previous.unwrap_or(tenant.default_region);
        notes.push(format!(
            "the window of the change at {at} is still open: mail that is still sent to {former} is told ATTR35 from now on"
        ));
    }
    notes
}

fn print(told: &Value, changes: bool, dry_run: bool) {
    let text = |value: &Value| super::plain(value);
    let pair = |value: &Value| format!("{} -> {}", text(&value["from"]), text(&value["to"]));
    println!("{} (tenant {})", text(&told["domain"]), text(&told["tenant"]));
    if !changes {
        println!("  mail_flow_region is {} already", text(&told["mail_flow_region"]["to"]));
        return;
    }
    println!("  {:<20}{}", "mail_flow_region", pair(&told["mail_flow_region"]));
    println!("  {:<20}{}", "ingress", pair(&told["ingress"]));
    let users = &told["users"];
    println!(
        "  {:<20}{}, in-region routing applies to {}",
        "users",
        text(&users["total"]),
        pair(&users["in_region_routing"])
    );
    if let Some(window) = told["window"].as_object() {
        println!(
            "  {:<20}{} and {} both accept from {} until {}",
            "window",
            text(&window["accept"][0]),
            text(&window["accept"][1]),
            text(&window["from"]),
            text(&window["until"])
        );
        println!(
            "  {:<20}change the MX now; {} refuses this mail after {}",
            "safe",
            text(&window["accept"][0]),
            text(&window["until"])
        );
    }
    for note in told["notes"].as_array().into_iter().flatten() {
        println!("  {:<20}{}", "note", text(note));
    }
    match told["in_force"].as_str() {
        Some(how) => println!("  {:<20}{how}", "in force"),
        None if dry_run => println!("  nothing was changed: a dry run"),
        None => {}
    }
}
