//! Directory: the section that says where tenants, domains and users come from.
//!
//! Owns its keys and defaults. A file is read here and now; a directory service is left to the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{DAY, INSTANT, MINUTE, NamedFile, SECOND, absolute, authorities};
use super::ldap;
use super::show::{Page, count, duration, text, tls_word};
use crate::directory::{LdapSettings, PostgresSettings, Terms, check_postgres_url, without_secret};
use crate::document::{Entry, Section};
use crate::mail::{Address, TlsLevel};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySettings {
    pub source: DirectorySource,
    /// `user+tag` is `user` when the exact address is unknown.
    pub subaddress: Option<char>,
    /// Who gets mail to `postmaster`; without one it needs a user of that name.
    pub postmaster: Option<Address>,
    pub lookup_deadline: Duration,
    /// Connections to a directory service.
    pub pool: usize,
    /// Users of a directory service that are kept in memory.
    pub cache_users: usize,
    pub cache_for: Duration,
    pub cache_absent_for: Duration,
    /// While a directory service fails: how old what was known may become.
    pub stale_for: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectorySource {
    File(PathBuf),
    Postgres(PostgresSettings),
    /// Users there; tenants, domains and connectors in the file.
    Ldap {
        path: PathBuf,
        ldap: Box<LdapSettings>,
    },
}

impl DirectorySettings {
    pub fn terms(&self) -> Terms {
        Terms {
            cache: self.cache_users,
            cache_for: self.cache_for,
            cache_absent_for: self.cache_absent_for,
            stale_for: self.stale_for,
            deadline: self.lookup_deadline,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    File,
    Postgres,
    Ldap,
}

pub(super) fn read<'p>(top: &Section<'p>, base: &Path, files: &mut Vec<NamedFile<'p>>) -> DirectorySettings {
    let section = top.section("directory");
    let words = [("file", Word::File), ("postgres", Word::Postgres), ("ldap", Word::Ldap)];
    let source = section.read_or("source", Word::File, |entry| entry.word(&words));
    // Every key is asked for whatever the source: those of another one may stay while a directory moves.
    let path = file_path(&section, base, source, files);
    let postgres = postgres(&section, base, source, files);
    let ldap = ldap::read(&section, &postgres, source == Word::Ldap);
    let subaddress = section.read("subaddress", |entry| {
        let expected = "one character that addresses may have, such as \"+\", or \"\" for none";
        entry.text_as(expected, |text| {
            let mut characters = text.chars();
            match (characters.next(), characters.next()) {
                (None, _) => Some(None),
                (Some(only), None) if "!#$%&'*+-/=?^_`{|}~".contains(only) => Some(Some(only)),
                (Some(_), _) => None,
            }
        })
    });
    let span = |key, default, least| {
        section.read_or(key, default, |entry: &Entry<'_>| entry.duration(least..=30 * DAY))
    };
    DirectorySettings {
        source: match source {
            Word::File => DirectorySource::File(path.unwrap_or_default()),
            Word::Postgres => DirectorySource::Postgres(postgres),
            Word::Ldap => ldap::source(path, ldap),
        },
        subaddress: subaddress.unwrap_or(Some('+')),
        postmaster: section.read("postmaster", Entry::address),
        lookup_deadline: section
            .read_or("lookup_deadline", Duration::from_secs(2), |entry| entry.duration(INSTANT..=MINUTE)),
        pool: section.read_or("pool", 4, |entry| entry.count(1..=100)),
        cache_users: section.read_or("cache_users", 200_000, |entry| entry.count(0..=100_000_000)),
        cache_for: span("cache_for", 10 * MINUTE, SECOND),
        cache_absent_for: span("cache_absent_for", MINUTE, Duration::ZERO),
        stale_for: span("stale_for", 240 * MINUTE, Duration::ZERO),
    }
}

fn file_path<'p>(
    section: &Section<'p>,
    base: &Path,
    source: Word,
    files: &mut Vec<NamedFile<'p>>,
) -> Option<PathBuf> {
    let named = section.entry("path");
    match (source, named) {
        (Word::Postgres, _) => None,
        (Word::File | Word::Ldap, Some(entry)) => absolute(base, &entry).inspect(|path| {
            let shown = entry.file(base).unwrap_or_else(|| path.clone()).display().to_string();
            files.push(NamedFile::Directory { entry: entry.clone(), path: path.clone(), shown });
        }),
        (Word::File | Word::Ldap, None) => {
            section.mistake(
                "path",
                "is missing",
                "the path of the directory file, such as \"directory.toml\"",
            );
            None
        }
    }
}

fn postgres<'p>(
    section: &Section<'p>,
    base: &Path,
    source: Word,
    files: &mut Vec<NamedFile<'p>>,
) -> PostgresSettings {
    let url = section.read("url", |entry| {
        let url = entry.text()?;
        if source == Word::Postgres
            && let Err(problem) = check_postgres_url(url)
        {
            // The password is not repeated where many may read it.
            entry.mistake(problem, "such as \"postgres://landfall@db.example.net/landfall\"");
        }
        Some(url.to_owned())
    });
    let example = match source {
        Word::File => None,
        Word::Postgres => Some("postgres://landfall@db.example.net/landfall"),
        Word::Ldap => Some("ldaps://dc1.example.net"),
    };
    if let Some(example) = example
        && !section.has("url")
    {
        section.mistake("url", "is missing", format!("such as \"{example}\""));
    }
    let password_file = section.read("password_file", |entry| absolute(base, entry));
    if source != Word::File
        && let Some(path) = &password_file
        && let Err(error) = std::fs::read_to_string(path)
    {
        section.mistake("password_file", format!("cannot be read: {error}"), "a file that holds a password");
    }
    let tls = section.read_or("tls", TlsLevel::Verify, Entry::tls_level);
    let ca = match source {
        Word::Postgres | Word::Ldap => authorities(section, "ca", base, files),
        Word::File => section.read("ca", |entry| absolute(base, entry)),
    };
    PostgresSettings { url: url.unwrap_or_default(), password_file, tls, ca }
}

pub(super) fn show(page: &mut Page, settings: &DirectorySettings) {
    let DirectorySettings {
        source,
        subaddress,
        postmaster,
        lookup_deadline,
        pool,
        cache_users,
        cache_for,
        cache_absent_for,
        stale_for,
    } = settings;
    page.section("directory");
    match source {
        DirectorySource::File(path) => {
            page.key("source", text("file"));
            page.key("path", text(path.display()));
        }
        DirectorySource::Postgres(PostgresSettings { url, password_file, tls, ca }) => {
            page.key("source", text("postgres"));
            show_server(page, &without_secret(url), password_file.as_deref(), *tls, ca.as_deref());
        }
        DirectorySource::Ldap { path, ldap } => {
            page.key("source", text("ldap"));
            page.key("path", text(path.display()));
            let LdapSettings { urls, password_file, tls, ca, .. } = &**ldap;
            show_server(page, &urls.join(" "), password_file.as_deref(), *tls, ca.as_deref());
        }
    }
    page.key("subaddress", subaddress.map_or_else(String::new, String::from));
    if let Some(postmaster) = postmaster {
        page.key("postmaster", text(postmaster));
    }
    page.key("lookup_deadline", duration(*lookup_deadline));
    page.key("pool", count(*pool));
    page.key("cache_users", count(*cache_users));
    page.key("cache_for", duration(*cache_for));
    page.key("cache_absent_for", duration(*cache_absent_for));
    page.key("stale_for", duration(*stale_for));
    if let DirectorySource::Ldap { ldap, .. } = source {
        ldap::show(page, ldap);
    }
}

fn show_server(page: &mut Page, url: &str, password_file: Option<&Path>, tls: TlsLevel, ca: Option<&Path>) {
    page.key("url", text(url));
    for (key, path) in [("password_file", password_file), ("ca", ca)] {
        if let Some(path) = path {
            page.key(key, text(path.display()));
        }
    }
    page.key("tls", text(tls_word(tls)));
}
