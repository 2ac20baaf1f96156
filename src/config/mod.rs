//! Config: the file an operator writes, as every room's settings.
//!
//! Owns the keys, their defaults and bounds, and what may not stand together. All mistakes of the
//! configuration and its directory are given at once; nothing starts half-configured.

mod settings;
mod limits;
mod onboarding;
mod file;
mod directory;
mod ldap;
mod certificate;
mod auth;
mod headers;
mod dns;
mod outbound;
mod trace;
mod show;

use std::path::{Path, PathBuf};

pub use directory::{DirectorySettings, DirectorySource};
pub use dns::Dns;
use file::NamedFile;
pub use headers::Headers;
pub use limits::{Dnsbl, DnsblAction, Limits};
pub use outbound::Outbound;
pub use settings::*;
pub use show::{show, show_json};
pub use trace::{Audit, Trace};

use crate::directory::{self as rooms, Table};
use crate::document::{Entry, Mistake, Mistakes, Notes, Page};
use crate::mail::Region;

/// A configuration without mistakes, and the directory it names.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// Of a directory file; empty for a directory service, which is asked later.
    pub table: Table,
    /// No reason not to start.
    pub warnings: Vec<Mistake>,
}

/// Every key at its default, commented.
pub fn example() -> &'static str {
    include_str!("../../config/landfall.toml")
}

/// Reads and checks everything that `path` names: the directory, its user files, certificates.
pub fn load(path: &Path) -> Result<Loaded, Mistakes> {
    let file = path.display().to_string();
    let base = path.parent().unwrap_or(Path::new(""));
    let text = std::fs::read_to_string(path).map_err(|error| {
        Mistakes(vec![whole(&file, "", format!("cannot be read: {error}"), "a readable TOML file in UTF-8")])
    })?;
    let notes = Notes::default();
    let loaded = Page::open(&file, &text, &notes).map(|page| {
        let reading = file::read(&page, base);
        let mut table = Table::default();
        for named in &reading.files {
            match named {
                NamedFile::Certificate { cert, key, files } => certificate::check_pair(cert, key, files),
                NamedFile::Token { entry, path } => check_token(entry, path),
                NamedFile::Authorities { entry, path } => certificate::check_authorities(entry, path),
                NamedFile::TrustAnchors { entry, path } => check_trust_anchors(entry, path),
                NamedFile::Directory { entry, path, shown } => {
                    table = read_directory(entry, path, shown, &reading.settings, &notes);
                }
            }
        }
        missing_routes(path, &reading.settings, &table).into_iter().for_each(|it| notes.warning(it));
        note_unread_postmaster(&file, &reading.settings, &table, &notes);
        (reading.settings, table)
    });
    let warnings = notes.verdict()?;
    let (settings, table) = loaded.expect("a page that does not open leaves a mistake");
    Ok(Loaded { settings, table, warnings })
}

/// Where the daemon of this file has its admin socket, read from two keys alone: for commands that must
/// reach a running daemon although the file has mistakes now.
pub fn socket_of(path: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(path).ok()?.parse().ok()?;
    let state_dir = table.get("node")?.get("state_dir")?.as_str()?;
    let socket = table.get("admin").and_then(|admin| admin.get("socket")?.as_str()).map(PathBuf::from);
    Some(Path::new(state_dir).join(socket.unwrap_or(Admin::default().socket)))
}

fn check_trust_anchors(entry: &Entry<'_>, path: &Path) {
    if let Err(error) = crate::dns::trust_anchors(path) {
        entry.mistake(format!("{} cannot be used: {error}", path.display()), "a file of DNSKEY records");
    }
}

fn read_directory(entry: &Entry<'_>, path: &Path, shown: &str, settings: &Settings, notes: &Notes) -> Table {
    let base = Path::new(shown).parent().unwrap_or(Path::new(""));
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let regions = settings.known_regions();
            let table = rooms::read(shown, &text, base, &regions, settings.directory.subaddress, notes);
            if matches!(settings.directory.source, DirectorySource::Ldap { .. }) && table.user_count() > 0 {
                let problem = format!("{shown} has users, but they come from LDAP");
                entry.mistake(problem, "a directory file with tenants, domains and connectors alone");
            }
            table
        }
        Err(error) => {
            entry.mistake(format!("cannot read {shown}: {error}"), "a readable TOML file in UTF-8");
            Table::default()
        }
    }
}

fn check_token(entry: &Entry<'_>, path: &Path) {
    let expected = "a file that holds at least 16 printable ASCII characters without a space";
    match std::fs::read_to_string(path) {
        Ok(text) if crate::admin::Token::parse(&text).is_some() => {}
        Ok(_) => entry.mistake(format!("{} holds no token", path.display()), expected),
        Err(error) => entry.mistake(format!("cannot read {}: {error}", path.display()), expected),
    }
}

/// Section 6, Codes: missing routes for regions other than the node's own are warnings. Of tenants in a file
/// `load` says so itself; those of a service are known to whoever has asked it.
pub fn missing_routes(path: &Path, settings: &Settings, table: &Table) -> Vec<Mistake> {
    let file = path.display().to_string();
    let mut missing = Vec::new();
    let mut said: Vec<Region> = Vec::new();
    for tenant in table.tenants() {
        for region in &tenant.allowed_regions {
            let route = settings.regions.get(region);
            let reached = route.is_some_and(|route| !(route.store.is_empty() && route.relay.is_empty()));
            if reached || *region == settings.node.region || said.contains(region) {
                continue;
            }
            said.push(*region);
            let problem = format!("has no route, but tenant \"{}\" may have mailboxes there", tenant.id);
            missing.push(whole(&file, &format!("region.{region}"), problem, "store or relay"));
        }
    }
    missing
}

/// No reason not to start, but for whoever checks the configuration to know.
pub fn unanswered(path: &Path, why: &str) -> Mistake {
    let problem = format!("cannot be asked now: {why}");
    whole(&path.display().to_string(), "directory", problem, "a service that answers when mail comes")
}

/// Section 6: mail to postmaster is kept here when its reader is nobody, and who looks there?
fn note_unread_postmaster(file: &str, settings: &Settings, table: &Table, notes: &Notes) {
    let Some(reader) = &settings.directory.postmaster else { return };
    let domain = table.domain(reader.domain());
    let is_somebody = match &settings.directory.source {
        DirectorySource::File(_) => domain.is_some_and(|domain| table.user(domain, reader).is_some()),
        DirectorySource::Ldap { .. } => domain.is_some(),
        DirectorySource::Postgres(_) => true,
    };
    if !is_somebody {
        let problem = format!("nobody here has {reader}, so the node keeps what is sent to postmaster");
        notes.warning(whole(file, "directory.postmaster", problem, "an address in the directory"));
    }
}

/// A mistake of no one line.
fn whole(file: &str, key: &str, problem: String, expected: &str) -> Mistake {
    Mistake { file: file.to_owned(), line: None, key: key.to_owned(), problem, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The keys that reading `text` asks for, whole paths without indices, and what is wrong in it.
    fn read(text: &str) -> (BTreeSet<String>, Vec<String>) {
        let notes = Notes::default();
        if let Some(page) = Page::open("landfall.toml", text, &notes) {
            file::read(&page, Path::new(""));
        }
        let asked = notes.asked.take();
        let mistakes = notes.verdict().err().map_or_else(Vec::new, |mistakes| mistakes.0);
        (asked, mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_example_shows_every_key() {
        let (mut shown, mut section) = (BTreeSet::new(), String::new());
        for line in example().lines() {
            let line = line.strip_prefix('#').unwrap_or(line);
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_matches(['[', ']']).to_owned();
                shown.insert(section.split('.').next().expect("one part").to_owned());
                shown.insert(section.clone());
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
                shown.insert(if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") });
            }
        }
        // Asking takes a file that has every kind of section.
        let all = "[[listener]]\n[[tls.certificate]]\n[[limits.dnsbl]]\n[region.EUR]\n[region.NAM]\n";
        let (asked, _) = read(all);
        assert!(asked.len() > 70, "only {} keys were asked for", asked.len());
        // A region's keys are explained once, whichever region that is.
        let of_any_region = |keys: BTreeSet<String>| -> BTreeSet<String> {
            keys.iter()
                .map(|key| key.replace("region.EUR", "region.X").replace("region.NAM", "region.X"))
                .collect()
        };
        let (mut asked, mut shown) = (of_any_region(asked), of_any_region(shown));
        // What the operator names there is nobody's key.
        let free = ["onboarding.mx_targets.", "onboarding.ingress."];
        shown.retain(|key| !free.iter().any(|section| key.starts_with(section)));
        asked.insert("region.X".to_owned());
        let missing: Vec<_> = asked.difference(&shown).collect();
        let extra: Vec<_> = shown.difference(&asked).collect();
        assert_eq!((missing, extra), (Vec::<&String>::new(), Vec::<&String>::new()));
    }

    #[test]
    fn the_example_has_no_mistake_but_its_missing_certificate() {
        let (_, mistakes) = read(example());
        let [only] = mistakes.as_slice() else { panic!("{mistakes:?}") };
        assert!(only.contains("listener[mx].tls: needs a certificate"), "{only}");
        // With what is commented out put in, every key is known and its value reads.
        let full: String = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
                Some(_) | None => format!("{line}\n"),
            })
            .collect();
        assert_eq!(read(&full).1, Vec::<String>::new());
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("true".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            Just("0xffff_ffff_ffff_ffff".to_owned()),
            Just("1.5e9".to_owned()),
            Just("2026-01-01T00:00:00Z".to_owned()),
            Just("07:32:00".to_owned()),
            "[ -~]{0,12}".prop_map(|text| format!("{text:?}")),
            "\\PC{0,8}".prop_map(|text| toml::Value::String(text).to_string()),
            prop::sample::select(vec![
                "EUR",
                "15m",
                "150MiB",
                "smtp://a",
                "*.contoso.com",
                "a@contoso.com",
                "10.0.0.0/8",
                "[::]:25",
                "off",
                "file",
                "contoso.com",
            ])
            .prop_map(|text| format!("{text:?}")),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec((key(), inner), 0..4).prop_map(|entries| {
                    let entries: Vec<_> =
                        entries.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                    format!("{{ {} }}", entries.join(", "))
                }),
            ]
        })
    }

    fn key() -> impl Strategy<Value = String> {
        let known: Vec<String> = [
            "node",
            "hostname",
            "region",
            "listener",
            "name",
            "address",
            "tls",
            "certificate",
            "cert",
            "key",
            "EUR",
            "store",
            "relay",
            "peers",
            "directory",
            "path",
            "queue",
            "first_intervals",
            "limits",
            "tenant",
            "id",
            "default_region",
            "domain",
            "type",
            "user",
            "aliases",
            "licenses",
            "user_file",
            "inbound_connector",
            "outbound_connector",
            "source_ips",
            "recipient_domains",
            "smart_hosts",
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        prop_oneof![4 => prop::sample::select(known), 1 => "[a-zA-Z_-]{1,10}"]
    }

    fn document() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            4 => (key(), value()).prop_map(|(key, value)| format!("{key} = {value}")),
            2 => prop::collection::vec(key(), 1..4).prop_map(|path| format!("[{}]", path.join("."))),
            2 => prop::collection::vec(key(), 1..4).prop_map(|path| format!("[[{}]]", path.join("."))),
            1 => "\\PC{0,20}",
        ];
        prop::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_always_names_a_line(text in document()) {
            let notes = Notes::default();
            rooms::read("directory.toml", &text, Path::new("."), &crate::mail::Regions::default(), None, &notes);
            if let Some(page) = Page::open("landfall.toml", &text, &notes) {
                file::read(&page, Path::new("."));
            }
            // A configuration needs keys that random text does not have all of.
            let mistakes = notes.verdict().expect_err("something is missing").0;
            let lines = text.lines().count().max(1) + 1;
            for mistake in mistakes {
                prop_assert!(mistake.line.is_some_and(|line| (1..=lines).contains(&line)), "{mistake}");
            }
        }
    }
}
