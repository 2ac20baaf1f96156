//! Dns: the records to publish, the public ones against the directory, and the zone of MX targets.

use std::path::PathBuf;

use clap::Subcommand;

use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::daemon;
use crate::dns::{Meter, Resolver, Tlsa};
use crate::net::Identity;
use crate::onboarding::{self, Checked, Desk, Finding, Level, OwnCertificates, Plan, Unanswered, Zone};

use super::{MISTAKE, NO, YES, complain, print_json};

#[derive(Debug, Subcommand)]
pub(super) enum Dns {
    /// The records to publish for a domain, and the steps of its migration.
    Plan { domain: String },
    /// The public records of a domain against the directory; exits 1 when mail goes astray.
    Check { domain: String },
    /// The zone of all MX targets, each with the addresses of its domain's ingress region.
    Zone {
        /// Where to write it; standard output when left out.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

impl Dns {
    pub(super) async fn run(&self, loaded: config::Loaded, json: bool) -> u8 {
        let settings = loaded.settings;
        let directory = match super::directory::open(&settings, loaded.table).await {
            Ok(directory) => directory,
            Err(code) => return code,
        };
        let certificates = certificates_in_use(&settings);
        let rules = daemon::rules(&settings);
        let desk = Desk {
            settings: &settings.onboarding,
            directory: &directory,
            rules: &rules,
            own: OwnCertificates { region: settings.node.region, records: &certificates },
            now: Clock::System.now(),
        };
        let resolver = Resolver::new(daemon::dns(&settings), Meter::default());
        let answered = match self {
            Self::Zone { out } => desk.zone().map(|zone| show_zone(&zone, out.as_ref(), json)),
            Self::Plan { domain } => desk.plan(domain, &resolver).await.map(|plan| {
                if json {
                    print_json(&plan);
                } else {
                    print_plan(&plan);
                }
                YES
            }),
            Self::Check { domain } => {
                desk.check(domain, &resolver).await.map(|checked| show_check(&checked, json))
            }
        };
        answered.unwrap_or_else(|why| {
            complain(format_args!("landfall dns: {why}"));
            if matches!(why, Unanswered::Mistake(_)) { MISTAKE } else { NO }
        })
    }
}

fn certificates_in_use(settings: &Settings) -> Vec<Tlsa> {
    let files = settings.certificate_files().into_iter();
    let loaded = files.filter_map(|pair| Identity::load(&pair.cert, &pair.key).ok());
    loaded.map(|identity| onboarding::record_of(&identity)).collect()
}

fn print_plan(plan: &Plan) {
    println!(
        "{} of {} enters in {}; its MX target is {}",
        plan.domain, plan.tenant, plan.ingress_region, plan.mx_target
    );
    println!("\nrecords, once all is done:\n");
    for record in &plan.records {
        println!("  {}. {} IN {} {}", record.name, record.ttl_s, record.kind, record.value);
        println!("      ; {}", record.note);
    }
    println!("\nMTA-STS policy, at https://mta-sts.{}/.well-known/mta-sts.txt:\n", plan.domain);
    plan.mta_sts_policy.lines().for_each(|line| println!("  {line}"));
    println!("  (mode: enforce once its reports are clean)");
    println!("\nsteps:\n");
    for step in &plan.steps {
        println!("  {}. {}", step.number, step.what);
        if let Some(wait) = step.then_wait_s {
            println!("     then wait {wait} s");
        }
    }
    plan.notes.iter().for_each(|note| println!("\nnote: {note}"));
}

fn show_check(checked: &Checked, json: bool) -> u8 {
    if json {
        print_json(checked);
    } else {
        println!("{} enters in {}", checked.domain, checked.ingress_region);
        checked.findings.iter().for_each(print_finding);
    }
    if checked.ok { YES } else { NO }
}

fn print_finding(finding: &Finding) {
    let level = match finding.level {
        Level::Good => "ok",
        Level::Warning => "warning",
        Level::Fault => "FAULT",
    };
    println!("  {level:<9}{}: {}", finding.about, finding.says);
}

fn show_zone(zone: &Zone, out: Option<&PathBuf>, json: bool) -> u8 {
    for left_out in &zone.left_out {
        eprintln!("left out: {left_out}");
    }
    if json {
        print_json(zone);
        return YES;
    }
    match out {
        None => print!("{}", zone.text),
        Some(path) => {
            if let Err(error) = std::fs::write(path, &zone.text) {
                complain(format_args!("landfall dns: {}: {error}", path.display()));
                return NO;
            }
            println!("{}: {} hosts", path.display(), zone.hosts);
        }
    }
    YES
}
