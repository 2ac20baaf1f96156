//! Report: `landfall report residency` and `report verify`, from the audit's files; no daemon is needed.

use clap::{Args, Subcommand};

use super::{Cli, MISTAKE, NO, YES, complain, print_json, state_dir};
use crate::audit::{self, Asked, Residency, Verdict};
use crate::clock::Clock;
use crate::mail::Domain;
use crate::trace::moment;

#[derive(Debug, Subcommand)]
pub(super) enum Report {
    /// How many messages were received, stored and passed on in which region, and every exception.
    Residency(Wanted),
    /// Whether the audit's chain of hashes holds; names the first record that is not as it was written.
    Verify(Checked),
}

#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Only recipients of this domain.
    #[arg(long, value_parser = Domain::parse)]
    domain: Option<Domain>,
    /// Only since then: 2h (ago), 2026-11-20 or RFC 3339.
    #[arg(long)]
    since: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Checked {
    /// A hash, or its beginning, that was noted elsewhere (log, metric): it has to be in the chain.
    #[arg(long, value_parser = hash)]
    head: Option<String>,
}

fn hash(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    if audit::is_head(&text) { Ok(text) } else { Err("expected 8 to 64 hexadecimal digits".to_owned()) }
}

impl Report {
    pub(super) fn run(&self, cli: &Cli) -> u8 {
        let dir = match state_dir(cli) {
            Ok(dir) => dir.join("audit"),
            Err(code) => return code,
        };
        match self {
            Self::Residency(wanted) => residency(cli, &dir, wanted),
            Self::Verify(checked) => match audit::verify(&dir, checked.head.as_deref()) {
                Ok(verdict) => {
                    if cli.json {
                        print_json(&verdict);
                    } else {
                        print_verdict(&verdict);
                    }
                    if verdict.intact { YES } else { NO }
                }
                Err(error) => unreadable(&error),
            },
        }
    }
}

fn residency(cli: &Cli, dir: &std::path::Path, wanted: &Wanted) -> u8 {
    let mut asked = Asked { domain: wanted.domain.clone(), since: None };
    if let Some(text) = &wanted.since {
        match moment("since", text, Clock::System.now()) {
            Ok(since) => asked.since = Some(since.millis()),
            Err(why) => {
                complain(why);
                return MISTAKE;
            }
        }
    }
    match audit::report(dir, &asked) {
        Ok(report) if cli.json => print_json(&report),
        Ok(report) => print_residency(&report),
        Err(error) => return unreadable(&error),
    }
    YES
}

fn unreadable(error: &std::io::Error) -> u8 {
    complain(format_args!("the audit cannot be read: {error}"));
    NO
}

fn print_verdict(verdict: &Verdict) {
    for note in &verdict.notes {
        println!("note: {note}");
    }
    match &verdict.bad {
        Some(bad) => println!("{bad}"),
        None => {
            println!("intact: {} records in {} files, head {}", verdict.records, verdict.files, verdict.head)
        }
    }
}

fn print_residency(report: &Residency) {
    let messages = &report.messages;
    println!("node            {} in {}", report.node, report.region);
    println!("received        {} messages", messages.received);
    println!("stored here     {}", messages.stored);
    println!("streamed        {}", messages.streamed);
    println!("notices         {}", messages.notices);
    if messages.rested > 0 {
        println!(
            "rested          {} refused or broken off after they had been on this disk",
            messages.rested
        );
    }
    for (region, count) in &report.passed_on {
        println!("passed on       {region}: {count} recipients");
    }
    for (irr, count) in &report.in_region_routing {
        println!("in-region       {irr}: {count} recipients");
    }
    if report.exceptions.is_empty() {
        println!("exceptions      none");
        return;
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "exception",
        "domain",
        "home",
        "reason",
        "recipients",
        "ids",
    ]);
    for exception in &report.exceptions {
        table.add_row([
            exception.what.as_str(),
            &exception.domain,
            &exception.home,
            &exception.reason,
            &exception.recipients.to_string(),
            &exception.ids.join(" "),
        ]);
    }
    println!("{table}");
}
