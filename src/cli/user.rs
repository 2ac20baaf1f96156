//! User: the users, and moving one to another region.

use std::ops::ControlFlow;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::directory::{failed, register};
use super::domain::refused;
use super::{Cli, NO, YES, complain, plain, print_fields, print_json, print_table, tell_of_change};
use crate::admin::{Manner, find_user, plan_user, whole_user_row};
use crate::config;
use crate::mail::Domain;

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
                complain(format_args!("{name} is no accepted domain"));
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
        rows.push(whole_user_row(domain.map(|domain| &**domain), &user, &aliases));
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

async fn show(cli: &Cli, loaded: config::Loaded, text: &str) -> Result<u8, u8> {
    let (_, mut register) = register(loaded).await?;
    let found = find_user(&mut register, text).await;
    let (user, aliases) = found.map_err(|refusal| refused(&refusal))?;
    let domain = register.table().domain(user.primary.domain()).cloned();
    let shown = whole_user_row(domain.as_deref(), &user, &aliases);
    if cli.json {
        print_json(&shown);
    } else {
        print_fields(&shown);
    }
    Ok(YES)
}

async fn change(cli: &Cli, loaded: config::Loaded, set: &Set) -> Result<u8, u8> {
    let (settings, mut register) = register(loaded).await?;
    let manner = Manner { dry_run: set.dry_run, force: set.force };
    let planned = plan_user(&mut register, &set.address, &set.preferred_data_location, manner).await;
    let mut plan = planned.map_err(|refusal| refused(&refusal))?;
    if plan.changes() {
        plan.carry_out(&mut register).await.map_err(|refusal| refused(&refusal))?;
        plan.told["in_force"] = tell_of_change(&settings, &register).await.into();
    }
    if cli.json {
        print_json(&plan.told);
    } else {
        print(&plan.told);
    }
    Ok(YES)
}

fn print(told: &Value) {
    let pair = |value: &Value| format!("{} -> {}", plain(&value["from"]), plain(&value["to"]));
    println!("{} (tenant {})", plain(&told["address"]), plain(&told["tenant"]));
    if told["changed"] != true {
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
        None if told["dry_run"] == true => println!("  nothing was changed: a dry run"),
        None => {}
    }
}
