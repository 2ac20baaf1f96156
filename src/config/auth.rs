//! Auth: what is checked of a message's sender, and of whom (`[auth]`).
//!
//! Owns its keys; the defaults are the room's.

use std::time::Duration;

use super::show::{self, Page};
use crate::auth::{Ipv6, Settings};
use crate::document::{Entry, Section};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const IPV6: [(&str, Ipv6); 2] = [("enforce", Ipv6::Enforce), ("record", Ipv6::Record)];

pub(super) fn read(top: &Section<'_>) -> Settings {
    let section = top.section("auth");
    let default = Settings::default();
    let flag = |key, default| section.read_or(key, default, Entry::flag);
    let settings = Settings {
        enabled: flag("enabled", default.enabled),
        spf: flag("spf", default.spf),
        dkim: flag("dkim", default.dkim),
        dmarc: flag("dmarc", default.dmarc),
        arc: flag("arc", default.arc),
        iprev: flag("iprev", default.iprev),
        dmarc_reject: flag("dmarc_reject", default.dmarc_reject),
        exempt: section.list("exempt", Entry::network).unwrap_or(default.exempt),
        ipv6: section.read_or("ipv6", default.ipv6, |entry| entry.word(&IPV6)),
        // It is compared with what others wrote, so it is a name and no more (RFC 8601 §2.5).
        authserv_id: section.read("authserv_id", |entry| entry.domain().map(|domain| domain.to_string())),
        deadline: section.read_or("deadline", default.deadline, |entry| {
            entry.duration(Duration::from_millis(1)..=Duration::from_secs(300))
        }),
        header_size: section.read_or("header_size", default.header_size, |entry| entry.size(KIB..=16 * MIB)),
        header_memory: section
            .read_or("header_memory", default.header_memory, |entry| entry.size(MIB..=1024 * 1024 * MIB)),
        signatures: section.read_or("signatures", default.signatures, |entry| entry.count(1..=100)),
    };
    if settings.dmarc_reject && !(settings.enabled && settings.dmarc) {
        section.mistake(
            "dmarc_reject",
            "is of no use: DMARC is not checked",
            "enabled = true and dmarc = true",
        );
    }
    settings
}

pub(super) fn show(page: &mut Page, settings: &Settings) {
    let Settings {
        enabled,
        spf,
        dkim,
        dmarc,
        arc,
        iprev,
        dmarc_reject,
        exempt,
        ipv6,
        authserv_id,
        deadline,
        header_size,
        header_memory,
        signatures,
    } = settings;
    page.section("auth");
    for (key, value) in [
        ("enabled", enabled),
        ("spf", spf),
        ("dkim", dkim),
        ("dmarc", dmarc),
        ("arc", arc),
        ("iprev", iprev),
        ("dmarc_reject", dmarc_reject),
    ] {
        page.key(key, *value);
    }
    page.key("exempt", show::list(exempt));
    let word = IPV6.iter().find(|(_, value)| value == ipv6).map_or("enforce", |(word, _)| word);
    page.key("ipv6", word);
    if let Some(authserv_id) = authserv_id {
        page.key("authserv_id", show::text(authserv_id));
    }
    page.key("deadline", show::duration(*deadline));
    page.key("header_size", show::size(*header_size));
    page.key("header_memory", show::size(*header_memory));
    page.key("signatures", show::count(*signatures));
}
