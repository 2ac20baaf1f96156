//! Directory: what the directory holds, what in it does not fit together, and how it gets into a database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;

use super::{Cli, MISTAKE, NO, YES, complain, print_json};
use crate::config::{self, Settings};
use crate::daemon;
use crate::directory::{self, Counts, Directory, Imported, Register, Table};
use crate::document::Notes;

/// A directory service's first word.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a check of the configuration, which an upgrade waits for too.
const GLANCE: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// What in the directory makes in-region routing not apply, or mail not flow.
    Check,
    /// How much the directory holds.
    Stats,
    /// Put the database's schema in place, or bring it up to date; harmless when it is.
    Migrate,
    /// Put a directory file, or a user file (.csv), into the database, in one transaction.
    ///
    /// Of the tenants in a directory file the database then holds what the file does, and nothing else;
    /// other tenants stay. A user file adds and changes users and takes none away.
    Import {
        file: PathBuf,
        /// Say what would change, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) async fn run(cli: &Cli, command: &Command, loaded: config::Loaded) -> u8 {
    let done = match command {
        Command::Check => check(cli, loaded).await,
        Command::Stats => stats(cli, loaded).await,
        Command::Migrate => migrate(cli, &loaded.settings).await,
        Command::Import { file, dry_run } => Box::pin(import(cli, loaded, file, *dry_run)).await,
    };
    done.unwrap_or_else(|code| code)
}

/// The directory as mail sees it: without a snapshot, and with the service's first word.
pub(super) async fn open(settings: &Settings, table: Table) -> Result<Directory, u8> {
    let opened = daemon::directory(settings, table, None).map_err(|trouble| {
        complain(format_args!("the directory: {trouble}"));
        MISTAKE
    })?;
    opened.0.ready(PATIENCE).await.map_err(|why| {
        complain(format_args!("the directory: {why}"));
        NO
    })?;
    Ok(opened.0)
}

/// What a check of the configuration finds at a directory service: that it does not answer, or which of its
/// tenants' regions have no route. Neither is a reason not to start.
pub(super) async fn look_at_service(path: &Path, loaded: config::Loaded) -> Vec<String> {
    let settings = loaded.settings;
    if daemon::directory_service(&settings, None).is_none() {
        return Vec::new();
    }
    let found = match daemon::directory(&settings, loaded.table, None) {
        Ok((directory, _news)) => match directory.ready(GLANCE).await {
            Ok(()) if matches!(settings.directory.source, config::DirectorySource::Postgres(_)) => {
                config::missing_routes(path, &settings, &directory.table())
            }
            Ok(()) => Vec::new(),
            Err(why) => vec![config::unanswered(path, &why.to_string())],
        },
        Err(trouble) => vec![config::unanswered(path, &trouble.to_string())],
    };
    found.iter().map(ToString::to_string).collect()
}

/// The directory as operators see it.
pub(super) async fn register(loaded: config::Loaded) -> Result<(Settings, Register), u8> {
    match daemon::register(loaded).await {
        Ok((settings, register, warnings)) => {
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            Ok((settings, register))
        }
        Err(why) => {
            complain(why);
            Err(NO)
        }
    }
}

pub(super) fn failed(trouble: &directory::Trouble) -> u8 {
    complain(format_args!("the directory: {trouble}"));
    NO
}

async fn check(cli: &Cli, loaded: config::Loaded) -> Result<u8, u8> {
    let (_, mut register) = register(loaded).await?;
    let mut count = 0_u64;
    let mut findings = Vec::new();
    let checked = register.check(|finding| {
        count += 1;
        if cli.json {
            findings.push(finding.to_string());
        } else {
            println!("{finding}");
        }
    });
    checked.await.map_err(|trouble| failed(&trouble))?;
    if cli.json {
        print_json(&serde_json::json!({ "findings": findings }));
    } else {
        println!("{count} findings");
    }
    Ok(if count == 0 { YES } else { NO })
}

async fn stats(cli: &Cli, loaded: config::Loaded) -> Result<u8, u8> {
    let (_, mut register) = register(loaded).await?;
    let users = register.user_count().await.map_err(|trouble| failed(&trouble))?;
    let table = register.table();
    let stats = [
        ("tenants", table.tenants().count() as u64),
        ("domains", table.domain_count() as u64),
        ("users", users),
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
    Ok(YES)
}

async fn migrate(cli: &Cli, settings: &Settings) -> Result<u8, u8> {
    let Some(service) = daemon::directory_service(settings, None) else {
        complain(format_args!("the directory is a file: only a database has a schema"));
        return Err(MISTAKE);
    };
    let migration =
        directory::migrate(&service, &settings.region_codes).await.map_err(|trouble| failed(&trouble))?;
    let regions: Vec<String> = migration.regions.iter().map(ToString::to_string).collect();
    if cli.json {
        print_json(&serde_json::json!({
            "from": migration.from, "to": migration.to, "region_codes": regions,
        }));
        return Ok(YES);
    }
    if migration.from == migration.to {
        println!("the schema is up to date: version {}", migration.to);
    } else {
        println!("the schema went from version {} to {}", migration.from, migration.to);
    }
    if !regions.is_empty() {
        println!("region codes added: {}", regions.join(" "));
    }
    Ok(YES)
}

async fn import(cli: &Cli, loaded: config::Loaded, file: &Path, dry_run: bool) -> Result<u8, u8> {
    if daemon::directory_service(&loaded.settings, None).is_none() {
        complain(format_args!("the directory is a file: import is for directory.source = \"postgres\""));
        return Err(MISTAKE);
    }
    let (settings, mut register) = register(loaded).await?;
    let (text, table, regions) = read(&settings, &register, file)?;
    let imported = register
        .import(text.as_deref(), &table, &regions, dry_run)
        .await
        .map_err(|trouble| failed(&trouble))?;
    if cli.json {
        print_json(&serde_json::json!({ "dry_run": dry_run, "imported": imported }));
    } else {
        print(&imported);
        println!(
            "{}",
            if dry_run { "nothing was changed: a dry run" } else { "done; every node knows within 2 s" }
        );
    }
    Ok(YES)
}

/// What a file holds, checked as the daemon would. Without its text, when it holds users alone.
fn read(
    settings: &Settings,
    register: &Register,
    file: &Path,
) -> Result<(Option<String>, Table, crate::mail::Regions), u8> {
    let shown = file.display().to_string();
    let unreadable = |error: std::io::Error| {
        complain(format_args!("{shown}: cannot be read: {error}"));
        MISTAKE
    };
    let is_csv = file.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv"));
    let mut regions = settings.known_regions();
    let text = if is_csv {
        std::fs::metadata(file).map_err(unreadable)?;
        // The users of domains that the database has.
        regions = register.regions().clone();
        let path = std::path::absolute(file).map_err(unreadable)?;
        let named = toml::Value::String(path.display().to_string());
        format!("{}\n[[user_file]]\npath = {named}\n", register.outline())
    } else {
        std::fs::read_to_string(file).map_err(unreadable)?
    };
    let base = file.parent().unwrap_or(Path::new(""));
    let notes = Notes::default();
    let table = directory::read(&shown, &text, base, &regions, settings.directory.subaddress, &notes);
    match notes.verdict() {
        // Of what the database has we were told when it was opened.
        Ok(warnings) => warnings
            .iter()
            .filter(|warning| !is_csv || warning.file != shown)
            .for_each(|warning| eprintln!("warning: {warning}")),
        Err(mistakes) => {
            complain(mistakes);
            return Err(MISTAKE);
        }
    }
    Ok(((!is_csv).then_some(text), table, regions))
}

fn print(imported: &Imported) {
    let Imported { tenants, domains, connectors, users, addresses } = imported;
    println!("{:<12}{:>10}{:>10}{:>10}", "", "added", "changed", "removed");
    for (kind, Counts { added, changed, removed }) in [
        ("tenants", tenants),
        ("domains", domains),
        ("connectors", connectors),
        ("users", users),
        ("addresses", addresses),
    ] {
        println!("{kind:<12}{added:>10}{changed:>10}{removed:>10}");
    }
}
