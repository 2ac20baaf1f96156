//! Onboarding: what the DNS of hosted domains should say (`[onboarding]`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::show::{Page, duration, list, text};
use crate::document::{Entry, Section};
use crate::mail::{Domain, Region, Regions};
use crate::onboarding::{Settings, Template};

pub(super) fn read(top: &Section<'_>, known: &Regions) -> Settings {
    let section = top.section("onboarding");
    let default = Settings::default();
    let mut targets = BTreeMap::new();
    for (name, entry) in section.section("mx_targets").entries() {
        let Ok(domain) = Domain::parse(name) else {
            entry.mistake("is no domain", "the hosted domain, such as \"my-contoso.com\"");
            continue;
        };
        if let Some(host) = entry.domain() {
            targets.insert(domain, host);
        }
    }
    let mut ingress: BTreeMap<Region, Vec<IpAddr>> = BTreeMap::new();
    for (code, entry) in section.section("ingress").entries() {
        match known.find(code) {
            Some(region) => {
                let addresses = entry.items().unwrap_or_default();
                ingress.insert(region, addresses.iter().filter_map(address).collect());
            }
            None => entry.mistake("is no region code", "a code of the table, or one of region_codes"),
        }
    }
    let ttl = |key, default: Duration| {
        section.read_or(key, default, |entry| {
            entry.duration(Duration::from_secs(30)..=Duration::from_secs(7 * 24 * 3600))
        })
    };
    Settings {
        target: section.read("mx_target", |entry| {
            entry.text_as(
                "a host with {domain} as its first label, such as \"{domain}.mx.example.net\"",
                Template::parse,
            )
        }),
        targets,
        legacy_targets: section.list("legacy_targets", Entry::domain).unwrap_or(default.legacy_targets),
        ttl: ttl("ttl", default.ttl),
        lowest_ttl: ttl("lowest_ttl", default.lowest_ttl),
        address_ttl: ttl("address_ttl", default.address_ttl),
        ingress,
        name_servers: section.list("name_servers", Entry::domain).unwrap_or_default(),
        spf: section.read("spf", |entry| {
            entry.text_as("an SPF record that begins with v=spf1", |text| {
                (text == "v=spf1" || text.starts_with("v=spf1 ")).then(|| text.to_owned())
            })
        }),
    }
}

fn address(entry: &Entry<'_>) -> Option<IpAddr> {
    entry.text_as("an IP address", |text| text.parse().ok())
}

pub(super) fn show(page: &mut Page, settings: &Settings) {
    let Settings {
        target,
        targets,
        legacy_targets,
        ttl,
        lowest_ttl,
        address_ttl,
        ingress,
        name_servers,
        spf,
    } = settings;
    page.section("onboarding");
    if let Some(target) = target {
        page.key("mx_target", text(target));
    }
    page.key("legacy_targets", list(legacy_targets));
    page.key("ttl", duration(*ttl));
    page.key("lowest_ttl", duration(*lowest_ttl));
    page.key("address_ttl", duration(*address_ttl));
    page.key("name_servers", list(name_servers));
    if let Some(spf) = spf {
        page.key("spf", text(spf));
    }
    if !targets.is_empty() {
        page.section("onboarding.mx_targets");
        for (domain, host) in targets {
            page.key(&format!("\"{domain}\""), text(host));
        }
    }
    if !ingress.is_empty() {
        page.section("onboarding.ingress");
        for (region, addresses) in ingress {
            page.key(&region.to_string(), list(addresses));
        }
    }
}
