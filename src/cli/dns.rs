//! Dns: the records to publish, the public ones against the directory, and the zone of MX targets.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;

use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::daemon;
use crate::directory::Directory;
use crate::dns::{Meter, Resolver, Tlsa};
use crate::mail::{AcceptedDomain, Domain, Lookup};
use crate::net::Identity;
use crate::onboarding::{self, Finding, Level, OwnCertificates, Plan};

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
        let own = OwnCertificates { region: settings.node.region, records: &certificates };
        match self {
            Self::Zone { out } => zone(&settings, &directory, &own, out.as_ref(), json),
            Self::Plan { domain } | Self::Check { domain } => {
                let domain = match find(&directory, domain).await {
                    Ok(domain) => domain,
                    Err((code, why)) => {
                        complain(format_args!("landfall dns: {why}"));
                        return code;
                    }
                };
                let resolver = Resolver::new(daemon::dns(&settings), Meter::default());
                match self {
                    Self::Plan { .. } => plan(&settings, &domain, &own, &resolver, json).await,
                    Self::Check { .. } | Self::Zone { .. } => {
                        check(&settings, &domain, &own, &resolver, json).await
                    }
                }
            }
        }
    }
}

async fn find(directory: &Directory, name: &str) -> Result<Arc<AcceptedDomain>, (u8, String)> {
    let domain = Domain::parse(name).map_err(|error| (MISTAKE, format!("{name}: {error}")))?;
    match directory.domain(&domain).await {
        Lookup::Found(found) => Ok(found),
        Lookup::Absent => Err((NO, format!("{name} is not hosted here"))),
        Lookup::Failed => Err((NO, "the directory does not answer".to_owned())),
    }
}

/// As TLSA records `3 1 1`, which outlive a renewal that keeps its key.
fn certificates_in_use(settings: &Settings) -> Vec<Tlsa> {
    let files = settings.certificate_files().into_iter();
    let loaded = files.filter_map(|pair| Identity::load(&pair.cert, &pair.key).ok());
    loaded.map(|identity| Tlsa { usage: 3, selector: 1, matching: 1, data: identity.key_digest() }).collect()
}

async fn plan(
    settings: &Settings,
    domain: &AcceptedDomain,
    own: &OwnCertificates<'_>,
    resolver: &Resolver,
    json: bool,
) -> u8 {
    let now = Clock::System.now();
    let window = settings.routing.propagation_window;
    match onboarding::plan(&settings.onboarding, domain, own, window, resolver, now).await {
        Ok(plan) if json => print_json(&plan),
        Ok(plan) => print_plan(&plan),
        Err(why) => {
            complain(format_args!("landfall dns: {}: {why}", domain.name));
            return NO;
        }
    }
    YES
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

async fn check(
    settings: &Settings,
    domain: &AcceptedDomain,
    own: &OwnCertificates<'_>,
    resolver: &Resolver,
    json: bool,
) -> u8 {
    let former = domain.former_ingress_region(&daemon::rules(settings), Clock::System.now());
    let findings = onboarding::check(&settings.onboarding, domain, own, former, resolver).await;
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good);
    if json {
        let ingress = domain.ingress_region().to_string();
        print_json(&serde_json::json!({
            "domain": domain.name.to_string(), "ingress_region": ingress, "ok": worst != Level::Fault, "findings": findings,
        }));
    } else {
        println!("{} enters in {}", domain.name, domain.ingress_region());
        findings.iter().for_each(print_finding);
    }
    if worst == Level::Fault { NO } else { YES }
}

fn print_finding(finding: &Finding) {
    let level = match finding.level {
        Level::Good => "ok",
        Level::Warning => "warning",
        Level::Fault => "FAULT",
    };
    println!("  {level:<9}{}: {}", finding.about, finding.says);
}

fn zone(
    settings: &Settings,
    directory: &Directory,
    own: &OwnCertificates<'_>,
    out: Option<&PathBuf>,
    json: bool,
) -> u8 {
    let table = directory.table();
    let domains = table.domains().cloned().collect::<Vec<_>>();
    let Some(zone) = onboarding::zone(&settings.onboarding, domains, own, Clock::System.now()) else {
        complain(format_args!("landfall dns: onboarding.mx_target is not set: there is no zone of targets"));
        return NO;
    };
    for left_out in &zone.left_out {
        eprintln!("left out: {left_out}");
    }
    if json {
        print_json(&serde_json::json!({ "zone": zone.text, "hosts": zone.hosts, "left_out": zone.left_out }));
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
