//! Outbound: how mail reaches domains that nobody here hosts (`[outbound]`).
//!
//! Owns its keys, defaults and bounds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::file::NamedFile;
use super::show::{Page, count, duration, list, text};
use crate::document::{Entry, Section};
use crate::mail::Address;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// Where mail servers listen.
    pub port: u16,
    /// Whether a stranger's MX may lead to any address at all.
    pub allow_private: bool,
    /// Networks that a stranger's MX may lead to although they are not public.
    pub allow_networks: Vec<IpNet>,
    /// Connections to the internet at one time.
    pub connections: usize,
    pub dane: bool,
    pub mta_sts: bool,
    /// Where policy servers listen.
    pub mta_sts_port: u16,
    /// Whether domains that ask for it are told how TLS goes with them.
    pub tls_reports: bool,
    /// What one report covers.
    pub tls_report_interval: Duration,
    /// Who the reports are from; postmaster here when absent.
    pub tls_report_from: Option<Address>,
    /// Authorities besides the system's, for MTA-STS: policy servers and mail servers.
    pub ca: Option<PathBuf>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            port: 25,
            allow_private: false,
            allow_networks: Vec::new(),
            connections: 500,
            dane: true,
            mta_sts: true,
            mta_sts_port: 443,
            tls_reports: false,
            tls_report_interval: DAY,
            tls_report_from: None,
            ca: None,
        }
    }
}

pub(super) fn read<'p>(top: &Section<'p>, base: &Path, files: &mut Vec<NamedFile<'p>>) -> Outbound {
    let section = top.section("outbound");
    let default = Outbound::default();
    let port = |key, default| {
        section.read(key, |entry| u16::try_from(entry.integer(1..=65_535)?).ok()).unwrap_or(default)
    };
    let allow_private = section.read_or("allow_private", default.allow_private, Entry::flag);
    let allow_networks = section.list("allow_networks", Entry::network).unwrap_or_default();
    if allow_private && !allow_networks.is_empty() {
        section.mistake("allow_networks", "is of no use: every address is allowed", "allow_private = false");
    }
    Outbound {
        port: port("port", default.port),
        allow_private,
        allow_networks,
        connections: section.read_or("connections", default.connections, |entry| entry.count(1..=100_000)),
        dane: section.read_or("dane", default.dane, Entry::flag),
        mta_sts: section.read_or("mta_sts", default.mta_sts, Entry::flag),
        mta_sts_port: port("mta_sts_port", default.mta_sts_port),
        tls_reports: section.read_or("tls_reports", default.tls_reports, Entry::flag),
        tls_report_interval: section.read_or("tls_report_interval", default.tls_report_interval, |entry| {
            entry.duration(Duration::from_secs(1)..=DAY)
        }),
        tls_report_from: section.read("tls_report_from", Entry::address),
        ca: super::file::authorities(&section, "ca", base, files),
    }
}

pub(super) fn show(page: &mut Page, outbound: &Outbound) {
    let Outbound {
        port,
        allow_private,
        allow_networks,
        connections,
        dane,
        mta_sts,
        mta_sts_port,
        tls_reports,
        tls_report_interval,
        tls_report_from,
        ca,
    } = outbound;
    page.section("outbound");
    page.key("port", i64::from(*port));
    page.key("allow_private", *allow_private);
    page.key("allow_networks", list(allow_networks));
    page.key("connections", count(*connections));
    page.key("dane", *dane);
    page.key("mta_sts", *mta_sts);
    page.key("mta_sts_port", i64::from(*mta_sts_port));
    page.key("tls_reports", *tls_reports);
    page.key("tls_report_interval", duration(*tls_report_interval));
    if let Some(from) = tls_report_from {
        page.key("tls_report_from", text(from));
    }
    if let Some(ca) = ca {
        page.key("ca", text(ca.display()));
    }
}
