//! Dns: whom to ask for names, and whether to believe it (`[dns]`).
//!
//! Owns its keys and defaults; the trust anchors' file is read by who loads the configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::NamedFile;
use super::show::{Page, duration, list, text};
use crate::document::{Entry, Section};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; none: the system's.
    pub servers: Vec<SocketAddr>,
    /// How long one server may take before it is asked again, or another is.
    pub timeout: Duration,
    pub dnssec: bool,
    /// DNSKEY records that signatures begin at, instead of the root's own.
    pub trust_anchors: Option<PathBuf>,
    /// How many answers are remembered.
    pub cache_entries: u64,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(3),
            dnssec: true,
            trust_anchors: None,
            cache_entries: 10_000,
        }
    }
}

pub(super) fn read<'p>(top: &Section<'p>, base: &Path, files: &mut Vec<NamedFile<'p>>) -> Dns {
    let section = top.section("dns");
    let default = Dns::default();
    let dnssec = section.read_or("dnssec", default.dnssec, Entry::flag);
    let trust_anchors = section.read("trust_anchors", |entry| {
        let path = super::file::absolute(base, entry)?;
        files.push(NamedFile::TrustAnchors { entry: entry.clone(), path: path.clone() });
        Some(path)
    });
    if trust_anchors.is_some() && !dnssec {
        section.mistake("trust_anchors", "is of no use: nothing is validated", "dnssec = true");
    }
    Dns {
        servers: section.list("servers", server).unwrap_or_default(),
        timeout: section.read_or("timeout", default.timeout, |entry| {
            entry.duration(Duration::from_millis(1)..=Duration::from_secs(60))
        }),
        dnssec,
        trust_anchors,
        cache_entries: section
            .read_or("cache_entries", default.cache_entries, |entry| entry.integer(0..=10_000_000)),
    }
}

/// An address, with port 53 unless it says another.
fn server(entry: &Entry<'_>) -> Option<SocketAddr> {
    entry.text_as("an IP address, or one with its port, such as \"127.0.0.1:53\"", |text| {
        let bare = || Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53));
        text.parse().ok().or_else(bare)
    })
}

pub(super) fn show(page: &mut Page, dns: &Dns) {
    let Dns { servers, timeout, dnssec, trust_anchors, cache_entries } = dns;
    page.section("dns");
    page.key("servers", list(servers));
    page.key("timeout", duration(*timeout));
    page.key("dnssec", *dnssec);
    if let Some(path) = trust_anchors {
        page.key("trust_anchors", text(path.display()));
    }
    page.key("cache_entries", toml::Value::Integer(i64::try_from(*cache_entries).unwrap_or(i64::MAX)));
}
