//! User: the users, and moving one to another region.

use std::ops::ControlFlow;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::directory::{failed, register};
use super::domain::region;
use super::{Cli, MISTAKE, NO, YES, plain, print_fields, print_json, print_table, tell_of_change};
use crate::admin::{routing, user_row};
use crate::config;
use crate::decision::home_region;
use crate::directory::Register;
use crate::mail::{AcceptedDomain, Address, Domain, Residency, User};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// One row per user.
    List(List),
    /// One user: where it lives, where its mail enters, and whether in-region routing applies.
    Show { address: String },
    /// Let a user live in another region.
    Set(Set),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only users whose primary address is in this accepted domain.
    #[arg(long)]
    domain: Option<String>,
    /// At most so many; 0 is all.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// The primary address, or an alias.
    address: String,
    /// A region's code, or `none` for the tenant's default region.
    #[arg(long, value_name = "CODE")]
    preferred_data_location: String,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Even if the tenant does not allow that region, or no region takes the mail then.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(cli: &Cli, command: &Command, loaded: config::Loaded) -> u8 {
    let done = match command {
        Command::List(asked) => list(cli, loaded, asked).await,
        Command::Show { address } => show(cli, loaded, address).await,
        Command::Set(set) => Box::pin(change(cli, loaded, set)).await,
    };
    done.unwrap_or_else(|code| code)
}

async fn list(cli: &Cli, loaded: config::Loaded, asked: &List) -> Result<u8, u8> {
    let (_, mut register) = register(loaded).await?;
    let of = match &asked.domain {
        None => None,
        Some(name) => match Domain::parse(name) {
            Ok(name) if register.domain(&name).is_some() => Some(name),
            Ok(_) | Err(_) => {
                eprintln!("{name} is no accepted domain");
                return Err(NO);
            }
        },
    };
    let table = register.table().clone();
    let limit = if asked.limit == 0 { usize::MAX } else { asked.limit };
    let (mut rows, mut more) = (Vec::new(), false);
    let listed = register.each_user(of.as_ref(), |user, aliases| {
        if rows.len() >= limit {
            more = true;
            return ControlFlow::Break(());
        }
        let domain = table.domain(user.primary.domain());
        rows.push(row(domain.map(|domain| &**domain), &user, &aliases));
        ControlFlow::Continue(())
    });
    listed.await.map_err(|trouble| failed(&trouble))?;
    let rows = Value::Array(rows);
    if cli.json {
        print_json(&rows);
    } else {
        let columns =
            ["address", "tenant", "preferred_data_location", "home", "ingress", "in_region_routing"];
        print_table(&rows, &columns, "no users");
        if more {
            println!("and more: --limit {}", limit.saturating_mul(10));
        }
    }
    Ok(YES)
}

fn row(domain: Option<&AcceptedDomain>, user: &User, aliases: &[Address]) -> Value {
    let mut row = user_row(domain, user);
    row["aliases"] = json!(aliases);
    row
}

async fn find(register: &mut Register, text: &str) -> Result<(User, Vec<Address>), u8> {
    let Ok(address) = Address::parse(text) else {
        eprintln!("{text:?} is no address");
        return Err(MISTAKE);
    };
    let found = register.user(&address).await.map_err(|trouble| failed(&trouble))?;
    found.ok_or_else(|| {
        eprintln!("{address} is nobody's address");
        NO
    })
}

async fn show(cli: &Cli, loaded: config::Loaded, text: &str) -> Result<u8, u8> {
    let (_, mut register) = register(loaded).await?;
    let (user, aliases) = find(&mut register, text).await?;
    let domain = register.table().domain(user.primary.domain()).cloned();
    let shown = row(domain.as_deref(), &user, &aliases);
    if cli.json {
        print_json(&shown);
    } else {
        print_fields(&shown);
    }
    Ok(YES)
}

async fn change(cli: &Cli, loaded: config::Loaded, set: &Set) -> Result<u8, u8> {
    let (settings, mut register) = register(loaded).await?;
    let (before, _) = find(&mut register, &set.address).await?;
    let to = region(&set.preferred_data_location, register.regions())?;
    let Some(domain) = register.table().domain(before.primary.domain()).cloned() else {
        eprintln!("{} is in no accepted domain", before.primary);
        return Err(NO);
    };
    let after = User { preferred_data_location: to.map(|to| to.as_str().into()), ..before.clone() };
    let (old, new) = (home_region(&domain.tenant, &before), home_region(&domain.tenant, &after));
    let ingress = domain.ingress_region();
    if !set.force {
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
            eprintln!("{objection}; --force insists");
            return Err(NO);
        }
    }
    let changes = after.preferred_data_location != before.preferred_data_location;
    let mut told = json!({
        "address": before.primary,
        "tenant": &*domain.tenant.id,
        "changed": changes,
        "dry_run": set.dry_run,
        "preferred_data_location": {
            "from": before.preferred_data_location, "to": after.preferred_data_location,
        },
        "home": { "from": old, "to": new },
        "ingress": ingress,
        "in_region_routing": { "from": routing(&domain, &before), "to": routing(&domain, &after) },
    });
    if changes && !set.dry_run {
        let set = register.set_preferred_data_location(&before.primary, to).await;
        set.map_err(|trouble| failed(&trouble))?;
        told["in_force"] = tell_of_change(&settings, &register).await.into();
    }
    if cli.json {
        print_json(&told);
    } else {
        print(&told, changes, set.dry_run);
    }
    Ok(YES)
}

fn print(told: &Value, changes: bool, dry_run: bool) {
    let pair = |value: &Value| format!("{} -> {}", plain(&value["from"]), plain(&value["to"]));
    println!("{} (tenant {})", plain(&told["address"]), plain(&told["tenant"]));
    if !changes {
        println!("  preferred_data_location is {} already", plain(&told["preferred_data_location"]["to"]));
        return;
    }
    println!("  {:<26}{}", "preferred_data_location", pair(&told["preferred_data_location"]));
    println!("  {:<26}{}", "home", pair(&told["home"]));
    println!("  {:<26}{}", "ingress", plain(&told["ingress"]));
    println!("  {:<26}{}", "in-region routing", pair(&told["in_region_routing"]));
    println!("  {:<26}mail that waits in a queue is routed again before its next attempt", "queued mail");
    match told["in_force"].as_str() {
        Some(how) => println!("  {:<26}{how}", "in force"),
        None if dry_run => println!("  nothing was changed: a dry run"),
        None => {}
    }
}
