//! Domain: the accepted domains, and moving one's mail to another region.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::directory::{failed, register};
use super::{Cli, MISTAKE, NO, YES, complain, print_fields, print_json, print_table, tell_of_change};
use crate::admin::{Manner, Refusal, domain_row, find_domain, plan_domain, users_of};
use crate::clock::Clock;
use crate::config;

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
    let domain = find_domain(&register, name).map_err(|refusal| refused(&refusal))?;
    let homes = register.homes(&domain.name).await.map_err(|trouble| failed(&trouble))?;
    let mut shown = domain_row(&domain);
    shown["users"] = users_of(&domain, &homes);
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
    let when = (Clock::System.now(), settings.routing.propagation_window);
    let planned = plan_domain(&mut register, &set.domain, &set.mail_flow_region, manner, when).await;
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

/// Says why nothing was changed.
pub(super) fn refused(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::Mistake(why) => {
            complain(why);
            MISTAKE
        }
        Refusal::Objection(why) => {
            complain(format_args!("{why}; --force insists"));
            NO
        }
        Refusal::Absent(why) | Refusal::Failed(why) => {
            complain(why);
            NO
        }
    }
}

fn print(told: &Value) {
    let text = |value: &Value| super::plain(value);
    let pair = |value: &Value| format!("{} -> {}", text(&value["from"]), text(&value["to"]));
    println!("{} (tenant {})", text(&told["domain"]), text(&told["tenant"]));
    if told["changed"] != true {
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
        match told["safe_until"].as_str() {
            Some(until) => println!(
                "  {:<20}change the MX now; {} refuses this mail after {until}",
                "safe",
                text(&window["accept"][0])
            ),
            None => println!(
                "  {:<20}change the MX when you like; {} goes on accepting, and relays to each user's home",
                "safe",
                text(&window["accept"][0])
            ),
        }
    }
    for edge in told["afterwards"].as_array().into_iter().flatten() {
        println!(
            "  {:<20}{} {} (rule {})",
            "afterwards",
            text(&edge["region"]),
            text(&edge["says"]),
            text(&edge["rule"])
        );
    }
    for note in told["notes"].as_array().into_iter().flatten() {
        println!("  {:<20}{}", "note", text(note));
    }
    match told["in_force"].as_str() {
        Some(how) => println!("  {:<20}{how}", "in force"),
        None if told["dry_run"] == true => println!("  nothing was changed: a dry run"),
        None => {}
    }
}
