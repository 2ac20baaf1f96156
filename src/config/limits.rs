//! Limits: the section `[limits]`, its defaults, its bounds, and how it is shown.
//!
//! docs/LIMITS.md says what each is answered with. What counts is `limits`; what refuses is `session` and
//! `listener`.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::show::{self as showing, Page};
use crate::document::{Entry, Section, parse_network};
use crate::mail::Domain;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A client waits five minutes for an answer to RCPT (RFC 5321 §4.5.3.2.3), and others wait behind it.
const TARPIT_LIMIT: Duration = Duration::from_secs(30);
/// What lists answer with. RFC 5782 §2.1
const ANSWERS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
/// Of rates; more is none.
const RATE_LIMIT: u64 = 1_000_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rules 54 and 55.
    pub message_size: u64,
    /// Rule 56.
    pub recipients_per_message: usize,
    pub recipients_per_domain: usize,
    /// Rule 59; /64 for IPv6.
    pub connections: usize,
    pub connections_per_ip: usize,
    /// Rule 59: rates of one address, /64 for IPv6. 0 is off, of every rate.
    pub connections_per_ip_per_minute: u64,
    pub messages_per_ip_per_minute: u64,
    /// Directory harvesting: then answers wait for `tarpit`, and ten times over there are none.
    pub unknown_recipients_per_ip_per_minute: u64,
    pub tarpit: Duration,
    /// Rule 58.
    pub per_recipient_per_hour: u64,
    pub per_sender_recipient_per_hour: u64,
    /// Accepted messages; a tenant may have its own.
    pub per_tenant_per_minute: u64,
    /// Networks that limits on addresses and rates do not hold for.
    pub exempt: Vec<IpNet>,
    /// Block lists in the DNS, asked about clients of nobody's.
    pub dnsbl: Vec<Dnsbl>,
    /// How many addresses each rate can tell apart; needs a restart.
    pub counters: usize,
    /// Rule 57: Received fields.
    pub hops: usize,
    /// Refused commands in one session before it is closed.
    pub faults: usize,
    /// Rule 65.
    pub session_age: Duration,
    /// Resident memory above which MAIL is refused for now (rule 60).
    pub memory: u64,
}

/// One block list, and what becomes of the clients on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dnsbl {
    pub zone: Domain,
    /// The answers that count, within 127.0.0.0/8.
    pub codes: Vec<Ipv4Net>,
    pub action: DnsblAction,
    pub deadline: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsblAction {
    #[default]
    Reject,
    Defer,
    Record,
}

const ACTIONS: [(&str, DnsblAction); 3] =
    [("reject", DnsblAction::Reject), ("defer", DnsblAction::Defer), ("record", DnsblAction::Record)];

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 150 * MIB,
            recipients_per_message: 500,
            recipients_per_domain: 200,
            connections: 10_000,
            connections_per_ip: 100,
            connections_per_ip_per_minute: 1_200,
            messages_per_ip_per_minute: 6_000,
            unknown_recipients_per_ip_per_minute: 100,
            tarpit: Duration::from_secs(5),
            per_recipient_per_hour: 3_600,
            // 33 % of what a recipient may have.
            per_sender_recipient_per_hour: 1_188,
            per_tenant_per_minute: 0,
            exempt: Vec::new(),
            dnsbl: Vec::new(),
            counters: 131_072,
            // RFC 5321 §6.3: "normally at least 100".
            hops: 100,
            faults: 20,
            session_age: Duration::from_secs(20 * 60),
            memory: 1024 * MIB,
        }
    }
}

pub(super) fn read(top: &Section<'_>) -> Limits {
    let section = top.section("limits");
    let default = Limits::default();
    let count = |key, default, most| section.read_or(key, default, |entry: &Entry<'_>| entry.count(1..=most));
    let rate =
        |key, default| section.read_or(key, default, |entry: &Entry<'_>| entry.integer(0..=RATE_LIMIT));
    Limits {
        message_size: section
            .read_or("message_size", default.message_size, |entry| entry.size(KIB..=4 * GIB)),
        recipients_per_message: count("recipients_per_message", default.recipients_per_message, 100_000),
        recipients_per_domain: count("recipients_per_domain", default.recipients_per_domain, 100_000),
        connections: count("connections", default.connections, 1_000_000),
        connections_per_ip: count("connections_per_ip", default.connections_per_ip, 1_000_000),
        connections_per_ip_per_minute: rate(
            "connections_per_ip_per_minute",
            default.connections_per_ip_per_minute,
        ),
        messages_per_ip_per_minute: rate("messages_per_ip_per_minute", default.messages_per_ip_per_minute),
        unknown_recipients_per_ip_per_minute: rate(
            "unknown_recipients_per_ip_per_minute",
            default.unknown_recipients_per_ip_per_minute,
        ),
        tarpit: section
            .read_or("tarpit", default.tarpit, |entry| entry.duration(Duration::ZERO..=TARPIT_LIMIT)),
        per_recipient_per_hour: rate("per_recipient_per_hour", default.per_recipient_per_hour),
        per_sender_recipient_per_hour: rate(
            "per_sender_recipient_per_hour",
            default.per_sender_recipient_per_hour,
        ),
        per_tenant_per_minute: rate("per_tenant_per_minute", default.per_tenant_per_minute),
        exempt: section.list("exempt", Entry::network).unwrap_or_default(),
        dnsbl: section.sections("dnsbl", "zone").iter().filter_map(dnsbl).collect(),
        counters: section.read_or("counters", default.counters, |entry| entry.count(1_024..=16_777_216)),
        hops: count("hops", default.hops, 1_000),
        faults: count("faults", default.faults, 10_000),
        session_age: section
            .read_or("session_age", default.session_age, |entry| entry.duration(SECOND..=DAY)),
        memory: section.read_or("memory", default.memory, |entry| entry.size(32 * MIB..=1024 * GIB)),
    }
}

fn dnsbl(section: &Section<'_>) -> Option<Dnsbl> {
    let codes = section.list("codes", |entry| {
        entry.text_as("an address or CIDR within 127.0.0.0/8", |text| match parse_network(text)? {
            IpNet::V4(network) if ANSWERS.contains(&network) => Some(network),
            IpNet::V4(_) | IpNet::V6(_) => None,
        })
    });
    if section.has("codes") {
        section.refuse_empty("codes", "answers that count, such as [\"127.0.0.2\"]");
    }
    let action = section.read_or("action", DnsblAction::default(), |entry| entry.word(&ACTIONS));
    let deadline = section.read_or("deadline", Duration::from_secs(3), |entry| {
        entry.duration(Duration::from_millis(1)..=Duration::from_secs(60))
    });
    let zone = section.require("zone", "the list's zone, such as \"bl.example.net\"", Entry::domain)?;
    Some(Dnsbl { zone, codes: codes.unwrap_or_else(|| vec![ANSWERS]), action, deadline })
}

pub(super) fn show(page: &mut Page, limits: &Limits) {
    let Limits {
        message_size,
        recipients_per_message,
        recipients_per_domain,
        connections,
        connections_per_ip,
        connections_per_ip_per_minute,
        messages_per_ip_per_minute,
        unknown_recipients_per_ip_per_minute,
        tarpit,
        per_recipient_per_hour,
        per_sender_recipient_per_hour,
        per_tenant_per_minute,
        exempt,
        dnsbl,
        counters,
        hops,
        faults,
        session_age,
        memory,
    } = limits;
    let rate = |number: &u64| i64::try_from(*number).unwrap_or(i64::MAX);
    page.section("limits");
    page.key("message_size", showing::size(*message_size));
    page.key("recipients_per_message", showing::count(*recipients_per_message));
    page.key("recipients_per_domain", showing::count(*recipients_per_domain));
    page.key("connections", showing::count(*connections));
    page.key("connections_per_ip", showing::count(*connections_per_ip));
    page.key("connections_per_ip_per_minute", rate(connections_per_ip_per_minute));
    page.key("messages_per_ip_per_minute", rate(messages_per_ip_per_minute));
    page.key("unknown_recipients_per_ip_per_minute", rate(unknown_recipients_per_ip_per_minute));
    page.key("tarpit", showing::duration(*tarpit));
    page.key("per_recipient_per_hour", rate(per_recipient_per_hour));
    page.key("per_sender_recipient_per_hour", rate(per_sender_recipient_per_hour));
    page.key("per_tenant_per_minute", rate(per_tenant_per_minute));
    page.key("exempt", showing::list(exempt));
    page.key("counters", showing::count(*counters));
    page.key("hops", showing::count(*hops));
    page.key("faults", showing::count(*faults));
    page.key("session_age", showing::duration(*session_age));
    page.key("memory", showing::size(*memory));
    for list in dnsbl {
        let Dnsbl { zone, codes, action, deadline } = list;
        let word = ACTIONS.iter().find(|(_, one)| one == action).map_or("reject", |(word, _)| word);
        page.item("limits.dnsbl");
        page.key("zone", showing::text(zone));
        page.key("codes", showing::list(codes));
        page.key("action", showing::text(word));
        page.key("deadline", showing::duration(*deadline));
    }
}
