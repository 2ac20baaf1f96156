//! File: the configuration as an operator writes it, read into `Settings`.
//!
//! Owns the keys, their bounds and what may not stand together. Opens no other file: those that the
//! configuration names are handed on with the place that names them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::Headers;
use super::settings::*;
use super::{Audit, Trace, directory, limits};
use crate::document::{Entry, Page, Section};
use crate::mail::{Domain, Endpoint, Region, Regions, TlsLevel};
use crate::queue::{FIRST_INTERVAL_LIMIT, INTERVAL_LIMIT};

/// What the file says, and the other files it names.
pub(super) struct Reading<'p> {
    pub(super) settings: Settings,
    pub(super) files: Vec<NamedFile<'p>>,
}

/// A file that must be there, and the key that names it.
pub(super) enum NamedFile<'p> {
    Certificate {
        cert: Entry<'p>,
        key: Entry<'p>,
        files: CertificateFiles,
    },
    Authorities {
        entry: Entry<'p>,
        path: PathBuf,
    },
    TrustAnchors {
        entry: Entry<'p>,
        path: PathBuf,
    },
    Token {
        entry: Entry<'p>,
        path: PathBuf,
    },
    /// `shown` is the path as mistakes call it.
    Directory {
        entry: Entry<'p>,
        path: PathBuf,
        shown: String,
    },
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const INSTANT: Duration = Duration::from_millis(1);

/// Reads the whole page; `base` is where the paths in it begin.
pub(super) fn read<'p>(page: &'p Page<'p>, base: &Path) -> Reading<'p> {
    let top = page.top();
    let mut files = Vec::new();
    let region_codes = top.list("region_codes", new_region).unwrap_or_default();
    let mut known = Regions::default();
    region_codes.iter().for_each(|code| known.add(*code));
    let node_section = top.section("node");
    let own = node_section
        .require("region", "the region this node runs in, such as \"EUR\"", |entry| entry.region(&known));
    let node = node(&node_section, own);
    let regions = regions(&top, &node_section, own, &known, base, &mut files);
    let tls = tls(&top, base, &mut files);
    let listeners = listeners(&top, &tls);
    let admin = admin(&top, &listeners, &tls, base, &mut files);
    let settings = Settings {
        region_codes,
        node,
        listeners,
        tls,
        regions,
        dns: super::dns::read(&top, base, &mut files),
        directory: directory::read(&top, base, &mut files),
        auth: super::auth::read(&top),
        outbound: super::outbound::read(&top, base, &mut files),
        routing: routing(&top),
        queue: queue(&top),
        limits: limits::read(&top),
        deadlines: deadlines(&top),
        spool: spool(&top),
        wire: wire(&top),
        headers: Headers::read(&top),
        trace: Trace::read(&top),
        audit: Audit::read(&top),
        admin,
        replies: replies(&top),
        onboarding: super::onboarding::read(&top, &known),
        log: log(&top, base),
    };
    Reading { settings, files }
}

/// Absolute, so that it stays true wherever the daemon goes from here.
pub(super) fn absolute(base: &Path, entry: &Entry<'_>) -> Option<PathBuf> {
    let path = entry.file(base)?;
    Some(std::path::absolute(&path).unwrap_or(path))
}

fn new_region(entry: &Entry<'_>) -> Option<Region> {
    entry.text_as("a code of 2 to 8 letters or digits such as \"XYZ\"", Region::parse)
}

fn node(section: &Section<'_>, own: Option<Region>) -> Node {
    let hostname = section.require(
        "hostname",
        "this node's full name, such as \"edge1.eur.example.net\"",
        Entry::domain,
    );
    let state_dir = section.read("state_dir", |entry| entry.file(Path::new("")));
    Node {
        // Where a mistake is noted these settings are never used; the walk needs something to go on.
        hostname: hostname.unwrap_or_else(|| Domain::parse("localhost").expect("a host name")),
        region: own.unwrap_or_else(|| Region::parse("EUR").expect("a code of the table")),
        state_dir: state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/landfall")),
        user: section.read("user", |entry| entry.text().map(str::to_owned)),
        sandbox: section.read_or("sandbox", true, Entry::flag),
    }
}

fn listeners(top: &Section<'_>, tls: &Tls) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (index, section) in top.sections("listener", "name").into_iter().enumerate() {
        let listener = listener(&section, index);
        if listeners.iter().any(|other| other.name == listener.name) {
            section.mistake(
                "name",
                format!("\"{}\" names an earlier listener too", listener.name),
                "a name of its own",
            );
        }
        let earlier: Vec<SocketAddr> = listeners.iter().flat_map(|other| other.addresses.clone()).collect();
        for (place, address) in listener.addresses.iter().enumerate() {
            let twins = earlier.iter().chain(&listener.addresses[..place]);
            if let Some(twin) = twins.into_iter().find(|other| collide(**other, *address)) {
                section.mistake(
                    "address",
                    format!("\"{address}\" is taken by \"{twin}\""),
                    "an address of its own",
                );
            }
        }
        note_missing_certificate(&section, listener.tls, tls);
        listeners.push(listener);
    }
    if listeners.is_empty() && !top.has("listener") {
        let listener = Listener {
            name: "mx".to_owned(),
            addresses: default_addresses(),
            tls: ListenerTls::default(),
            legacy: false,
            proxy_protocol_from: Vec::new(),
            xclient_from: Vec::new(),
        };
        note_missing_certificate(&top.section("listener"), listener.tls, tls);
        listeners.push(listener);
    }
    listeners
}

/// Port 25 of every address, as the MX records promise.
fn default_addresses() -> Vec<SocketAddr> {
    ["0.0.0.0:25", "[::]:25"].iter().map(|text| text.parse().expect("a socket address")).collect()
}

fn listener(section: &Section<'_>, index: usize) -> Listener {
    let words = [
        ("off", ListenerTls::Off),
        ("starttls", ListenerTls::Starttls),
        ("required", ListenerTls::Required),
        ("implicit", ListenerTls::Implicit),
    ];
    let name = section.read("name", |entry| entry.text().map(str::to_owned));
    let addresses = section.list("address", Entry::socket_address);
    if section.has("address") {
        section.refuse_empty("address", "addresses such as [\"0.0.0.0:25\", \"[::]:25\"]");
    }
    Listener {
        name: name.unwrap_or_else(|| format!("listener-{}", index + 1)),
        addresses: addresses.unwrap_or_else(default_addresses),
        // A wrong word is noted already, and must not ask for a certificate as well.
        tls: section.read("tls", |entry| entry.word(&words)).unwrap_or(match section.has("tls") {
            true => ListenerTls::Off,
            false => ListenerTls::default(),
        }),
        legacy: section.read_or("legacy", false, Entry::flag),
        proxy_protocol_from: section.list("proxy_protocol_from", Entry::network).unwrap_or_default(),
        xclient_from: section.list("xclient_from", Entry::network).unwrap_or_default(),
    }
}

fn note_missing_certificate(section: &Section<'_>, level: ListenerTls, tls: &Tls) {
    match level {
        ListenerTls::Off => {}
        ListenerTls::Starttls | ListenerTls::Required | ListenerTls::Implicit => {
            if tls.certificates.is_empty() && !tls.self_signed {
                section.mistake(
                    "tls",
                    "needs a certificate",
                    "a [[tls.certificate]], tls.self_signed = true, or tls = \"off\" for this listener",
                );
            }
        }
    }
}

/// Whether both cannot be bound. Port 0 is any free port.
fn collide(one: SocketAddr, two: SocketAddr) -> bool {
    let same_family = one.is_ipv4() == two.is_ipv4();
    let overlap = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
    one.port() == two.port() && one.port() != 0 && same_family && overlap
}

fn tls<'p>(top: &Section<'p>, base: &Path, files: &mut Vec<NamedFile<'p>>) -> Tls {
    let section = top.section("tls");
    let mut certificates = Vec::new();
    for section in section.sections("certificate", "") {
        let file = |entry: &Entry<'p>| Some((entry.clone(), absolute(base, entry)?));
        let cert = section.require("cert", "the path of a certificate chain in PEM", file);
        let key = section.require("key", "the path of its private key in PEM", file);
        // One with a mistake still counts as given, so that listeners do not complain as well.
        let path = |file: &Option<(Entry<'p>, PathBuf)>| {
            file.as_ref().map_or_else(PathBuf::new, |(_, path)| path.clone())
        };
        let pair = CertificateFiles { cert: path(&cert), key: path(&key) };
        if let (Some((cert, _)), Some((key, _))) = (cert, key) {
            files.push(NamedFile::Certificate { cert, key, files: pair.clone() });
        }
        certificates.push(pair);
    }
    Tls {
        certificates,
        client_ca: authorities(&section, "client_ca", base, files),
        // A wrong value is noted already; listeners need not complain as well.
        self_signed: section.read("self_signed", Entry::flag).unwrap_or(section.has("self_signed")),
    }
}

pub(super) fn authorities<'p>(
    section: &Section<'p>,
    key: &'static str,
    base: &Path,
    files: &mut Vec<NamedFile<'p>>,
) -> Option<PathBuf> {
    section.read(key, |entry| {
        let path = absolute(base, entry)?;
        files.push(NamedFile::Authorities { entry: entry.clone(), path: path.clone() });
        Some(path)
    })
}

fn regions<'p>(
    top: &Section<'p>,
    node: &Section<'p>,
    own: Option<Region>,
    known: &Regions,
    base: &Path,
    files: &mut Vec<NamedFile<'p>>,
) -> BTreeMap<Region, RegionSettings> {
    let mut regions = BTreeMap::new();
    let mut own_store = false;
    for (code, entry) in top.section("region").entries() {
        let region = known.find(code);
        match region {
            None => {
                entry.mistake("is no region code", "one of the 25 codes or of region_codes, such as \"EUR\"")
            }
            Some(region) if regions.contains_key(&region) => {
                entry.mistake(format!("is {region} once more"), "each region once");
            }
            Some(_) => {}
        }
        let Some(section) = entry.section() else { continue };
        let whose = if region.is_some() && region == own { Whose::Own } else { Whose::Other };
        own_store |= whose == Whose::Own && section.has("store");
        let settings = region_settings(&section, whose, base, files);
        if whose == Whose::Other && !["store", "relay", "peers"].iter().any(|key| section.has(key)) {
            section.warning(
                "",
                "says neither the way there nor who comes from there",
                "store or relay, or peers",
            );
        }
        if let Some(region) = region {
            regions.insert(region, settings);
        }
    }
    if let Some(own) = own.filter(|_| !own_store) {
        // Section 6, Codes: a missing store for the node's own region is an error.
        let expected = format!("[region.{own}] with store, where this node's mailboxes are");
        node.mistake("region", format!("\"{own}\" has no store"), expected);
    }
    regions
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Other,
}

fn region_settings<'p>(
    section: &Section<'p>,
    whose: Whose,
    base: &Path,
    files: &mut Vec<NamedFile<'p>>,
) -> RegionSettings {
    let modes = [("spool", StoreMode::Spool), ("inline", StoreMode::Inline)];
    let store = section.list("store", Entry::endpoint).unwrap_or_default();
    let relay = section.list("relay", Entry::smtp_endpoint).unwrap_or_default();
    let mode = section.read("mode", |entry| entry.word(&modes));
    let tls = section.read_or("tls", TlsLevel::default(), Entry::tls_level);
    let ca = authorities(section, "ca", base, files);
    let peers = section.list("peers", peer).unwrap_or_default();
    for key in ["store", "relay"] {
        if section.has(key) {
            section.refuse_empty(key, "endpoints such as [\"smtp://host:25\"]");
        }
    }
    if section.has("store") && section.has("relay") {
        match whose {
            Whose::Own => section.mistake("relay", "leads to this node's own region", "store alone"),
            Whose::Other => {
                section.mistake("relay", "stands beside store", "one way to this region: store or relay");
            }
        }
    }
    if mode.is_some() && !section.has("store") {
        section.mistake("mode", "has a meaning for stores only", "store, or no mode");
    }
    if mode == Some(StoreMode::Inline) && store.iter().any(|store| matches!(store, Endpoint::Maildir(_))) {
        let problem =
            "is \"inline\", but a Maildir takes a message when it is complete, never while it comes in";
        section.warning("mode", problem, "\"spool\", or stores that are asked over LMTP or SMTP");
    }
    if ca.is_some() && tls != TlsLevel::Verify {
        section.mistake("ca", "is of no use: nothing is verified", "tls = \"verify\", or no ca");
    }
    RegionSettings { store, mode: mode.unwrap_or_default(), relay, peers, tls, ca }
}

/// A name in a certificate, or a network.
fn peer(entry: &Entry<'_>) -> Option<PeerPattern> {
    entry.text_as("a certificate name or a CIDR", |text| {
        if let Some(network) = crate::document::parse_network(text) {
            return Some(PeerPattern::Network(network));
        }
        // `10.0.0.0` would pass as a host name; so would `10.0.0`, which is a slip of the pen.
        Domain::parse(text).ok().filter(crate::document::is_name).map(PeerPattern::Name)
    })
}

fn routing(top: &Section<'_>) -> Routing {
    let section = top.section("routing");
    let default = Routing::default();
    let mixed = [("defer", MixedRegions::Defer), ("split", MixedRegions::Split)];
    let transit = [("spool", Transit::Spool), ("inline", Transit::Inline)];
    Routing {
        mixed_regions: section.read_or("mixed_regions", default.mixed_regions, |entry| entry.word(&mixed)),
        propagation_window: section.read_or("propagation_window", default.propagation_window, |entry| {
            entry.duration(Duration::ZERO..=DAY)
        }),
        transit: section.read_or("transit", default.transit, |entry| entry.word(&transit)),
    }
}

fn queue(top: &Section<'_>) -> Queue {
    let section = top.section("queue");
    let default = Queue::default();
    let duration = |key, default, range: RangeInclusive<Duration>| {
        section.read_or(key, default, |entry: &Entry<'_>| entry.duration(range))
    };
    let count = |key, default, most| section.read_or(key, default, |entry: &Entry<'_>| entry.count(1..=most));
    let max_interval = duration("max_interval", default.max_interval, INSTANT..=INTERVAL_LIMIT);
    let first_intervals = section.list("first_intervals", |entry| {
        Some((entry.clone(), entry.duration(INSTANT..=FIRST_INTERVAL_LIMIT)?))
    });
    if section.has("first_intervals") {
        section.refuse_empty("first_intervals", "durations such as [\"1m\", \"5m\", \"15m\"]");
    }
    let first_intervals = match first_intervals {
        Some(given) => {
            note_shrinking(&section, &given, max_interval);
            given.into_iter().map(|(_, interval)| interval).collect()
        }
        // Whoever asks for a shorter maximum alone gets it from the first retry on.
        None => default.first_intervals.iter().map(|interval| (*interval).min(max_interval)).collect(),
    };
    let expire_after = duration("expire_after", default.expire_after, INSTANT..=30 * DAY);
    let delay_dsn_after = duration("delay_dsn_after", default.delay_dsn_after, INSTANT..=30 * DAY);
    if section.has("delay_dsn_after") && delay_dsn_after >= expire_after {
        let problem = "is not sooner than expire_after: no sender is ever told of a delay";
        section.warning("delay_dsn_after", problem, "less than expire_after");
    }
    Queue {
        first_intervals,
        max_interval,
        expire_after,
        delay_dsn_after,
        connections_per_next_hop: count("connections_per_next_hop", default.connections_per_next_hop, 10_000),
        messages_per_connection: count("messages_per_connection", default.messages_per_connection, 1_000_000),
        idle_connection: duration("idle_connection", default.idle_connection, Duration::ZERO..=HOUR),
        max_messages: count("max_messages", default.max_messages, 1_000_000_000),
    }
}

/// Rule 82: intervals never shrink.
fn note_shrinking(section: &Section<'_>, given: &[(Entry<'_>, Duration)], max_interval: Duration) {
    for pair in given.windows(2) {
        let ((_, earlier), (entry, later)) = (&pair[0], &pair[1]);
        if later < earlier {
            entry.mistake("is shorter than the interval before it", "intervals that never shrink");
        }
    }
    if given.last().is_some_and(|(_, last)| *last > max_interval) {
        section.mistake(
            "max_interval",
            "is shorter than the last of first_intervals",
            "intervals that never shrink",
        );
    }
}

fn deadlines(top: &Section<'_>) -> Deadlines {
    let section = top.section("deadlines");
    let default = Deadlines::default();
    let deadline =
        |key, default| section.read_or(key, default, |entry: &Entry<'_>| entry.duration(INSTANT..=HOUR));
    Deadlines {
        command: deadline("command", default.command),
        data: deadline("data", default.data),
        body: section.read_or("body", default.body, |entry| entry.duration(INSTANT..=DAY)),
        reply: deadline("reply", default.reply),
        handshake: deadline("handshake", default.handshake),
        proxy_header: deadline("proxy_header", default.proxy_header),
        commit: deadline("commit", default.commit),
        resolve: deadline("resolve", default.resolve),
        connect: deadline("connect", default.connect),
        greeting: deadline("greeting", default.greeting),
        answer: deadline("answer", default.answer),
        data_start: deadline("data_start", default.data_start),
        data_block: deadline("data_block", default.data_block),
        data_end: deadline("data_end", default.data_end),
        inline: deadline("inline", default.inline),
        drain: deadline("drain", default.drain),
    }
}

fn spool(top: &Section<'_>) -> Spool {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let section = top.section("spool");
    let default = Spool::default();
    let size = |key, default, range: RangeInclusive<u64>| {
        section.read_or(key, default, |entry: &Entry<'_>| entry.size(range))
    };
    // What is not given follows what is: small segments and little memory need no more keys.
    let segment_size = size("segment_size", default.segment_size, 64 * KIB..=GIB);
    let draft_memory = size("draft_memory", default.draft_memory, MIB..=1024 * GIB);
    let spool = Spool {
        segment_size,
        large_body: size("large_body", default.large_body.min(segment_size), 4 * KIB..=GIB),
        draft_size: size("draft_size", default.draft_size.min(draft_memory), 4 * KIB..=GIB),
        draft_memory,
        min_free: size("min_free", default.min_free, 0..=1024 * GIB),
    };
    if spool.large_body > spool.segment_size {
        section.mistake("large_body", "is more than segment_size", "bodies that fit a segment");
    }
    if spool.draft_size > spool.draft_memory {
        section.mistake("draft_size", "is more than draft_memory", "one message's part of what all may hold");
    }
    spool
}

fn wire(top: &Section<'_>) -> Wire {
    let section = top.section("wire");
    let networks = section.list("normalize_line_endings_from", Entry::network);
    Wire { normalize_line_endings_from: networks.unwrap_or_default() }
}

fn admin<'p>(
    top: &Section<'p>,
    listeners: &[Listener],
    tls: &Tls,
    base: &Path,
    files: &mut Vec<NamedFile<'p>>,
) -> Admin {
    let section = top.section("admin");
    let default = Admin::default();
    let socket = section.read("socket", |entry| {
        let path = entry.file(Path::new(""))?;
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            entry.mistake("is not below node.state_dir", "a path that begins there, such as \"admin.sock\"");
        }
        Some(path)
    });
    let address = section.read("address", Entry::socket_address);
    let mut taken = listeners.iter().flat_map(|listener| &listener.addresses);
    if let Some((address, twin)) =
        address.and_then(|own| Some((own, taken.find(|other| collide(**other, own))?)))
    {
        section.mistake(
            "address",
            format!("\"{address}\" is taken by the listener on \"{twin}\""),
            "an address of its own",
        );
    }
    let uses_tls = section.read_or("tls", default.tls, Entry::flag);
    let token_file = section.read("token_file", |entry| {
        let path = absolute(base, entry)?;
        files.push(NamedFile::Token { entry: entry.clone(), path: path.clone() });
        Some(path)
    });
    if uses_tls && tls.certificates.is_empty() && !tls.self_signed {
        section.mistake("tls", "needs a certificate", "a [[tls.certificate]], or tls.self_signed = true");
    }
    // Never on a public address by accident.
    if let Some(address) = address.filter(|address| !address.ip().is_loopback())
        && !(uses_tls && token_file.is_some())
    {
        let problem = format!("\"{address}\" can be called from outside, without TLS and a token");
        section.mistake(
            "address",
            problem,
            "a loopback address, or admin.tls = true and admin.token_file as well",
        );
    }
    Admin { socket: socket.unwrap_or(default.socket), address, token_file, tls: uses_tls }
}

fn replies(top: &Section<'_>) -> Replies {
    let section = top.section("replies");
    let default = Replies::default();
    // A reply line is short, and printable ASCII for clients without SMTPUTF8. RFC 5321 §4.5.3.1.5
    let words = |key, default: String| {
        section
            .read(key, |entry| {
                entry.text_as("up to 200 printable ASCII characters", |text| {
                    let fits =
                        (1..=200).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b));
                    fits.then(|| text.to_owned())
                })
            })
            .unwrap_or(default)
    };
    Replies {
        service_name: words("service_name", default.service_name),
        help_url: words("help_url", default.help_url),
        context: section.read_or("context", default.context, Entry::flag),
    }
}

fn log(top: &Section<'_>, base: &Path) -> Log {
    let section = top.section("log");
    let default = Log::default();
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    Log {
        format: section.read_or("format", default.format, |entry| entry.word(&formats)),
        level: section.read_or("level", default.level, |entry| entry.word(&levels)),
        file: section.read("file", |entry| absolute(base, entry)),
    }
}
