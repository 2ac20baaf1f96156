//! Directory: what the directory holds, and what in it does not fit together.

use std::time::Duration;

use clap::Subcommand;

use super::{Cli, MISTAKE, NO, YES, print_json};
use crate::config::{self, Settings};
use crate::daemon;
use crate::directory::{self, Directory, Table};

/// A directory service's first word.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// What in the directory makes in-region routing not apply, or mail not flow.
    Check,
    /// How much the directory holds.
    Stats,
    /// Put the database's schema in place, or bring it up to date; harmless when it is.
    Migrate,
}

pub(super) async fn run(cli: &Cli, command: &Command, loaded: config::Loaded) -> u8 {
    match command {
        Command::Check => check(cli, loaded).await,
        Command::Stats => stats(cli, loaded).await,
        Command::Migrate => migrate(cli, &loaded.settings).await,
    }
}

/// The directory as commands see it: without a snapshot, and with the service's first word.
pub(super) async fn open(settings: &Settings, table: Table) -> Result<Directory, u8> {
    let opened = daemon::directory(settings, table, None).map_err(|trouble| {
        eprintln!("the directory: {trouble}");
        MISTAKE
    })?;
    opened.0.ready(PATIENCE).await.map_err(|why| {
        eprintln!("the directory: {why}");
        NO
    })?;
    Ok(opened.0)
}

async fn check(cli: &Cli, loaded: config::Loaded) -> u8 {
    let regions = loaded.settings.known_regions();
    let directory = match open(&loaded.settings, loaded.table).await {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    let findings: Vec<String> = directory.check(&regions).iter().map(ToString::to_string).collect();
    if cli.json {
        print_json(&serde_json::json!({ "findings": findings }));
    } else {
        findings.iter().for_each(|finding| println!("{finding}"));
        println!("{} findings", findings.len());
    }
    if findings.is_empty() { YES } else { NO }
}

async fn stats(cli: &Cli, loaded: config::Loaded) -> u8 {
    let directory = match open(&loaded.settings, loaded.table).await {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    let table = directory.table();
    let stats = [
        ("tenants", table.tenants().count()),
        ("domains", table.domain_count()),
        ("users", table.user_count()),
    ];
    if cli.json {
        print_json(
            &stats
                .iter()
                .map(|(name, count)| ((*name).to_owned(), (*count).into()))
                .collect::<serde_json::Map<_, _>>(),
        );
    } else {
        stats.iter().for_each(|(name, count)| println!("{name:<10}{count}"));
    }
    YES
}

async fn migrate(cli: &Cli, settings: &Settings) -> u8 {
    let Some(service) = daemon::directory_service(settings, None) else {
        eprintln!("the directory is a file: only a database has a schema");
        return MISTAKE;
    };
    match directory::migrate(&service, &settings.region_codes).await {
        Ok(migration) => {
            let regions: Vec<String> = migration.regions.iter().map(ToString::to_string).collect();
            if cli.json {
                print_json(&serde_json::json!({
                    "from": migration.from, "to": migration.to, "region_codes": regions,
                }));
            } else if migration.from == migration.to {
                println!("the schema is up to date: version {}", migration.to);
            } else {
                println!("the schema went from version {} to {}", migration.from, migration.to);
            }
            if !cli.json && !regions.is_empty() {
                println!("region codes added: {}", regions.join(" "));
            }
            YES
        }
        Err(trouble) => {
            eprintln!("the directory: {trouble}");
            NO
        }
    }
}
