//! Ldap: the keys of `[directory.ldap]`: how entries are found there, and which attribute is what.
//!
//! Owns their defaults. Servers and how they are trusted stand in `[directory]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::file::MINUTE;
use super::show::{Page, duration, list, text};
use crate::directory::{
    LdapAttributes, LdapSchema, LdapSettings, PostgresSettings, Tracking, check_ldap_filter, check_ldap_urls,
};
use crate::document::{Entry, Section};

const SCHEMAS: [(&str, LdapSchema); 2] =
    [("active-directory", LdapSchema::ActiveDirectory), ("inetorgperson", LdapSchema::InetOrgPerson)];
const TRACKINGS: [(&str, Tracking); 3] =
    [("usn", Tracking::Usn), ("timestamp", Tracking::Timestamp), ("off", Tracking::Off)];
const ACCOUNTS: [(&str, bool); 2] = [("accept", true), ("reject", false)];
/// Changes are to be seen within two seconds; slower is the operator's own choice.
const LEAST_POLL: Duration = Duration::from_millis(100);

/// `server` is what `[directory]` says of servers. Mistakes that only matter when it is the source are noted
/// only then.
pub(super) fn read(directory: &Section<'_>, server: &PostgresSettings, is_source: bool) -> LdapSettings {
    let section = directory.section("ldap");
    let owned = |entry: &Entry<'_>| entry.text().map(str::to_owned);
    let starttls = section.read_or("starttls", false, Entry::flag);
    let urls: Vec<String> = server.url.split_whitespace().map(str::to_owned).collect();
    let bind_dn = section.read("bind_dn", owned);
    let base_dn = section.read("base_dn", owned);
    if is_source {
        let expected = "such as \"ldaps://dc1.example.net ldaps://dc2.example.net\"";
        if directory.has("url")
            && let Err(problem) = check_ldap_urls(&urls, starttls, server.tls)
        {
            directory.mistake("url", problem, expected);
        }
        if base_dn.is_none() && !section.has("base_dn") {
            section.mistake("base_dn", "is missing", "where users are, such as \"dc=example,dc=net\"");
        }
        if bind_dn.is_some() && server.password_file.is_none() {
            directory.mistake("password_file", "is missing", "a file with the password of ldap.bind_dn");
        }
    }
    let mut base_dn_of = BTreeMap::new();
    for (tenant, entry) in section.section("base_dn_of").entries() {
        if let Some(base) = owned(&entry) {
            base_dn_of.insert(tenant.to_owned(), base);
        }
    }
    let schema = section.read_or("schema", LdapSchema::ActiveDirectory, |entry| entry.word(&SCHEMAS));
    let filter = |entry: &Entry<'_>| {
        let filter = entry.text()?;
        if let Err(problem) = check_ldap_filter(filter) {
            entry.mistake(format!("{filter:?} {problem}"), "such as \"(objectClass=user)\"");
        }
        Some(filter.to_owned())
    };
    let lookup_filter = section.read("lookup_filter", |entry| {
        let filter = filter(entry)?;
        if !filter.contains("{address}") {
            entry.mistake("names no {address}", "such as \"(|(mail={address})(uid={address}))\"");
        }
        Some(filter)
    });
    let usual = match schema {
        LdapSchema::ActiveDirectory => Tracking::Usn,
        LdapSchema::InetOrgPerson => Tracking::Timestamp,
    };
    let tracking = section.read_or("changes", usual, |entry| entry.word(&TRACKINGS));
    LdapSettings {
        urls,
        starttls,
        tls: server.tls,
        ca: server.ca.clone(),
        bind_dn,
        password_file: server.password_file.clone(),
        base_dn: base_dn.unwrap_or_default(),
        base_dn_of,
        schema,
        filter: section.read("filter", filter),
        lookup_filter,
        accept_disabled: section.read_or("disabled_accounts", true, |entry| entry.word(&ACCOUNTS)),
        page_size: section
            .read("page_size", |entry| entry.integer(1..=100_000))
            .and_then(|size| u32::try_from(size).ok())
            .unwrap_or(500),
        tracking,
        changes_every: section
            .read_or("changes_every", Duration::from_secs(1), |entry| entry.duration(LEAST_POLL..=MINUTE)),
        attributes: attributes(&section.section("attributes"), schema, tracking),
    }
}

fn attributes(section: &Section<'_>, schema: LdapSchema, tracking: Tracking) -> LdapAttributes {
    let name = |entry: &Entry<'_>| entry.text_as("the name of an attribute", is_attribute);
    // What may be left out is switched off by "".
    let or_none = |entry: &Entry<'_>| {
        entry.text_as("the name of an attribute, or \"\" for none", |text| {
            if text.is_empty() { Some(None) } else { is_attribute(text).map(Some) }
        })
    };
    let usual = LdapAttributes::of(schema);
    let changed = match (schema, tracking) {
        (LdapSchema::ActiveDirectory, Tracking::Timestamp) => "whenChanged".to_owned(),
        _ => usual.changed,
    };
    LdapAttributes {
        primary: section.read_or("primary", usual.primary, name),
        aliases: section.list("aliases", name).unwrap_or(usual.aliases),
        proxies: section.read_or("proxies", usual.proxies, or_none),
        location: section.read_or("preferred_data_location", usual.location, name),
        licenses: section.read_or("licenses", usual.licenses, or_none),
        id: section.read_or("id", usual.id, name),
        changed: section.read_or("changed", changed, name),
    }
}

/// RFC 4512 §1.4, and an object identifier.
fn is_attribute(text: &str) -> Option<String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!text.is_empty() && text.bytes().all(fine)).then(|| text.to_owned())
}

pub(super) fn show(page: &mut Page, settings: &LdapSettings) {
    let LdapSettings {
        urls: _,
        starttls,
        tls: _,
        ca: _,
        bind_dn,
        password_file: _,
        base_dn,
        base_dn_of,
        schema,
        filter,
        lookup_filter,
        accept_disabled,
        page_size,
        tracking,
        changes_every,
        attributes,
    } = settings;
    page.section("directory.ldap");
    page.key("starttls", *starttls);
    let texts = [("bind_dn", bind_dn.as_ref()), ("base_dn", Some(base_dn))];
    for (key, value) in
        texts.into_iter().chain([("filter", filter.as_ref()), ("lookup_filter", lookup_filter.as_ref())])
    {
        if let Some(value) = value {
            page.key(key, text(value));
        }
    }
    page.key("schema", text(word(&SCHEMAS, *schema)));
    page.key("disabled_accounts", text(word(&ACCOUNTS, *accept_disabled)));
    page.key("page_size", i64::from(*page_size));
    page.key("changes", text(word(&TRACKINGS, *tracking)));
    page.key("changes_every", duration(*changes_every));
    if !base_dn_of.is_empty() {
        page.section("directory.ldap.base_dn_of");
        for (tenant, base) in base_dn_of {
            page.key(&toml::Value::String(tenant.clone()).to_string(), text(base));
        }
    }
    let LdapAttributes { primary, aliases, proxies, location, licenses, id, changed } = attributes;
    page.section("directory.ldap.attributes");
    page.key("primary", text(primary));
    page.key("aliases", list(aliases));
    page.key("proxies", text(proxies.as_deref().unwrap_or_default()));
    page.key("preferred_data_location", text(location));
    page.key("licenses", text(licenses.as_deref().unwrap_or_default()));
    page.key("id", text(id));
    page.key("changed", text(changed));
}

fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}

/// What `[directory] source = "ldap"` needs.
pub(super) fn source(path: Option<PathBuf>, ldap: LdapSettings) -> super::DirectorySource {
    super::DirectorySource::Ldap { path: path.unwrap_or_default(), ldap: Box::new(ldap) }
}
