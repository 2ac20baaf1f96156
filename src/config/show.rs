//! Show: the effective settings, as a file that loads again to the same.
//!
//! Owns the order and the words in which settings are written; `file` reads what this writes.

use std::fmt::Display;
use std::time::Duration;

use toml::Value;

use super::settings::*;
use super::{directory, limits};
use crate::document::{show_duration, show_size};
use crate::mail::TlsLevel;

/// The settings as TOML, defaults included.
pub fn show(settings: &Settings) -> String {
    let mut page = Page::default();
    if !settings.region_codes.is_empty() {
        page.key("region_codes", list(&settings.region_codes));
    }
    let Node { hostname, region, state_dir, user, sandbox } = &settings.node;
    page.section("node");
    page.key("hostname", text(hostname));
    page.key("region", text(region));
    page.key("state_dir", text(state_dir.display()));
    if let Some(user) = user {
        page.key("user", text(user));
    }
    page.key("sandbox", *sandbox);
    for listener in &settings.listeners {
        page.item("listener");
        page.key("name", text(&listener.name));
        page.key("address", list(&listener.addresses));
        page.key("tls", text(listener_tls(listener.tls)));
        page.key("legacy", listener.legacy);
        page.key("proxy_protocol_from", list(&listener.proxy_protocol_from));
        page.key("xclient_from", list(&listener.xclient_from));
    }
    page.section("tls");
    if let Some(path) = &settings.tls.client_ca {
        page.key("client_ca", text(path.display()));
    }
    page.key("self_signed", settings.tls.self_signed);
    for pair in &settings.tls.certificates {
        page.item("tls.certificate");
        page.key("cert", text(pair.cert.display()));
        page.key("key", text(pair.key.display()));
    }
    for (region, settings) in &settings.regions {
        page.section(&format!("region.{region}"));
        show_region(&mut page, settings);
    }
    directory::show(&mut page, &settings.directory);
    super::dns::show(&mut page, &settings.dns);
    super::auth::show(&mut page, &settings.auth);
    super::outbound::show(&mut page, &settings.outbound);
    let Routing { mixed_regions, propagation_window, transit } = &settings.routing;
    page.section("routing");
    page.key("mixed_regions", text(mixed_regions_word(*mixed_regions)));
    page.key("propagation_window", duration(*propagation_window));
    page.key("transit", text(transit_word(*transit)));
    show_queue(&mut page, &settings.queue);
    limits::show(&mut page, &settings.limits);
    show_deadlines(&mut page, &settings.deadlines);
    let Spool { segment_size, large_body, draft_size, draft_memory, min_free } = &settings.spool;
    page.section("spool");
    page.key("segment_size", size(*segment_size));
    page.key("large_body", size(*large_body));
    page.key("draft_size", size(*draft_size));
    page.key("draft_memory", size(*draft_memory));
    page.key("min_free", size(*min_free));
    page.section("wire");
    page.key("normalize_line_endings_from", list(&settings.wire.normalize_line_endings_from));
    settings.headers.show(&mut page);
    settings.trace.show(&mut page);
    settings.audit.show(&mut page);
    page.section("admin");
    page.key("socket", text(settings.admin.socket.display()));
    if let Some(address) = settings.admin.address {
        page.key("address", text(address));
    }
    if let Some(path) = &settings.admin.token_file {
        page.key("token_file", text(path.display()));
    }
    page.key("tls", settings.admin.tls);
    let Replies { service_name, help_url, context } = &settings.replies;
    page.section("replies");
    page.key("service_name", text(service_name));
    page.key("help_url", text(help_url));
    page.key("context", *context);
    super::onboarding::show(&mut page, &settings.onboarding);
    page.section("log");
    page.key("format", text(format_word(settings.log.format)));
    page.key("level", text(level_word(settings.log.level)));
    if let Some(file) = &settings.log.file {
        page.key("file", text(file.display()));
    }
    page.0
}

/// The same as one JSON document, for `--json`.
pub fn show_json(settings: &Settings) -> serde_json::Value {
    let table: toml::Table = show(settings).parse().expect("what is shown is TOML");
    serde_json::to_value(table).expect("settings have no value that JSON lacks")
}

fn show_region(page: &mut Page, settings: &RegionSettings) {
    let RegionSettings { store, mode, relay, peers, tls, ca } = settings;
    if !store.is_empty() {
        page.key("store", list(store));
        page.key("mode", text(mode_word(*mode)));
    }
    if !relay.is_empty() {
        page.key("relay", list(relay));
    }
    let peers = peers.iter().map(|peer| match peer {
        PeerPattern::Name(name) => text(name),
        PeerPattern::Network(network) => text(network),
    });
    page.key("peers", Value::Array(peers.collect()));
    page.key("tls", text(tls_word(*tls)));
    if let Some(ca) = ca {
        page.key("ca", text(ca.display()));
    }
}

fn show_queue(page: &mut Page, queue: &Queue) {
    let Queue {
        first_intervals,
        max_interval,
        expire_after,
        delay_dsn_after,
        connections_per_next_hop,
        messages_per_connection,
        idle_connection,
        max_messages,
    } = queue;
    page.section("queue");
    page.key("first_intervals", Value::Array(first_intervals.iter().map(|span| duration(*span)).collect()));
    page.key("max_interval", duration(*max_interval));
    page.key("expire_after", duration(*expire_after));
    page.key("delay_dsn_after", duration(*delay_dsn_after));
    page.key("connections_per_next_hop", count(*connections_per_next_hop));
    page.key("messages_per_connection", count(*messages_per_connection));
    page.key("idle_connection", duration(*idle_connection));
    page.key("max_messages", count(*max_messages));
}

fn show_deadlines(page: &mut Page, deadlines: &Deadlines) {
    let Deadlines {
        command,
        data,
        body,
        reply,
        handshake,
        proxy_header,
        commit,
        resolve,
        connect,
        greeting,
        answer,
        data_start,
        data_block,
        data_end,
        inline,
        drain,
    } = deadlines;
    page.section("deadlines");
    for (key, value) in [
        ("command", command),
        ("data", data),
        ("body", body),
        ("reply", reply),
        ("handshake", handshake),
        ("proxy_header", proxy_header),
        ("commit", commit),
        ("resolve", resolve),
        ("connect", connect),
        ("greeting", greeting),
        ("answer", answer),
        ("data_start", data_start),
        ("data_block", data_block),
        ("data_end", data_end),
        ("inline", inline),
        ("drain", drain),
    ] {
        page.key(key, duration(*value));
    }
}

/// TOML as it is written, line by line.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn section(&mut self, name: &str) {
        self.head(&format!("[{name}]"));
    }

    pub(super) fn item(&mut self, name: &str) {
        self.head(&format!("[[{name}]]"));
    }

    fn head(&mut self, line: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(line);
        self.0.push('\n');
    }

    pub(super) fn key(&mut self, key: &str, value: impl Into<Value>) {
        let value: Value = value.into();
        self.0.push_str(&format!("{key} = {value}\n"));
    }
}

pub(super) fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

pub(super) fn list<T: Display>(values: &[T]) -> Value {
    Value::Array(values.iter().map(text).collect())
}

pub(super) fn duration(span: Duration) -> Value {
    Value::String(show_duration(span))
}

pub(super) fn size(bytes: u64) -> Value {
    Value::String(show_size(bytes))
}

pub(super) fn count(number: usize) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn listener_tls(level: ListenerTls) -> &'static str {
    match level {
        ListenerTls::Off => "off",
        ListenerTls::Starttls => "starttls",
        ListenerTls::Required => "required",
        ListenerTls::Implicit => "implicit",
    }
}

pub(super) fn tls_word(level: TlsLevel) -> &'static str {
    match level {
        TlsLevel::Off => "off",
        TlsLevel::Opportunistic => "opportunistic",
        TlsLevel::Encrypt => "encrypt",
        TlsLevel::Verify => "verify",
    }
}

fn mode_word(mode: StoreMode) -> &'static str {
    match mode {
        StoreMode::Spool => "spool",
        StoreMode::Inline => "inline",
    }
}

fn mixed_regions_word(mixed: MixedRegions) -> &'static str {
    match mixed {
        MixedRegions::Defer => "defer",
        MixedRegions::Split => "split",
    }
}

fn transit_word(transit: Transit) -> &'static str {
    match transit {
        Transit::Spool => "spool",
        Transit::Inline => "inline",
    }
}

fn format_word(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

fn level_word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}
