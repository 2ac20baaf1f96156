//! Metrics: counters from the same Events, and gauges that their owners give when asked.
//!
//! Label sets are bounded: reasons, regions of our own list and outcomes; never a stranger's address or domain.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Event, Relay};
use crate::decision::Reason;
use crate::dns;
use crate::limits::Limit;
use crate::mail::{NextHopName, Region};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Of a certificate of our own: strangers' names are never labels.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NameLabel {
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

/// Zones are those of the configuration.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ZoneLabel {
    zone: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    method: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
    to: Way,
}

/// Where mail goes, as a label: our own regions by their codes, everything else by its kind alone.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Way {
    Store(Region),
    Relay(Region),
    Kind(&'static str),
}

impl From<&NextHopName> for Way {
    fn from(next_hop: &NextHopName) -> Self {
        match next_hop {
            NextHopName::Store(region) => Self::Store(*region),
            NextHopName::Relay(region) => Self::Relay(*region),
            NextHopName::SmartHost { .. } => Self::Kind("smarthost"),
            NextHopName::Internet(_) => Self::Kind("internet"),
            NextHopName::Undecided => Self::Kind("undecided"),
        }
    }
}

impl EncodeLabelValue for Way {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        match self {
            Self::Store(region) => write!(encoder, "store:{region}"),
            Self::Relay(region) => write!(encoder, "relay:{region}"),
            Self::Kind(kind) => encoder.write_str(kind),
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IrrLabel {
    irr: &'static str,
    region: String,
}

/// What the owners of live state tell when metrics are read.
#[derive(Debug, Clone, Default)]
pub struct Gauges(pub Vec<(&'static str, &'static str, u64)>);

pub struct Metrics {
    registry: Registry,
    connections: Counter,
    turned_away: Counter,
    handshakes_failed: Counter,
    accepted: Counter,
    accepted_bytes: Counter,
    messages_refused: Counter,
    inline_relayed: Counter,
    inline_fell_back: Counter,
    refused: Family<ReasonLabel, Counter>,
    limited: Family<LimitLabel, Counter>,
    blocklists: Family<ZoneLabel, Counter>,
    recorded: Family<ReasonLabel, Counter>,
    auth_results: Family<ResultLabel, Counter>,
    recipients: Family<IrrLabel, Counter>,
    outcomes: Family<OutcomeLabel, Counter>,
    answer_seconds: Histogram,
    delivery_seconds: Histogram,
    message_bytes: Histogram,
    destinations_down: Counter,
    notices: Counter,
    quarantined: Counter,
    reloads_refused: Counter,
    directory_outages: Counter,
    findings: Counter,
    dns: dns::Meter,
    certificates: Family<NameLabel, Gauge>,
    /// In-flight sessions, kept by the events that open and close them.
    sessions: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("landfall");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let connections = counter("connections", "Connections that became a session");
        let turned_away = counter("connections_turned_away", "Connections refused by a limit (rule 59)");
        let handshakes_failed = counter("tls_handshakes_failed", "Inbound TLS handshakes that failed");
        let accepted = counter("messages_accepted", "Messages answered 250 after end of data");
        let accepted_bytes = counter("messages_accepted_bytes", "Octets of the messages accepted");
        let messages_refused = counter("messages_refused", "Messages refused at or after DATA");
        let inline_relayed =
            counter("inline_relayed", "Messages that a next hop took while they came in (inline relay)");
        let inline_fell_back =
            counter("inline_fell_back", "Messages for an inline next hop that went to the spool instead");
        let destinations_down = counter("destination_outages", "Times that a next hop was found down");
        let notices = counter("notices", "Delivery status notifications composed");
        let quarantined = counter("messages_quarantined", "Messages set aside as damaged or poisonous");
        let reloads_refused = counter("reloads_refused", "Reloads refused for mistakes in the configuration");
        let directory_outages =
            counter("directory_outages", "Times that the directory service was found silent");
        let findings = counter("spool_findings", "What a start found damaged in the spool");
        let refused = Family::<ReasonLabel, Counter>::default();
        registry.register("refusals", "MAIL and RCPT refused, by reason", refused.clone());
        let limited = Family::<LimitLabel, Counter>::default();
        // Each from the start, so that a rise from nothing is seen.
        for limit in Limit::ALL {
            drop(limited.get_or_create(&LimitLabel { limit: limit.word() }));
        }
        registry.register("limit_refusals", "What was refused for a limit, by limit", limited.clone());
        let blocklists = Family::<ZoneLabel, Counter>::default();
        registry.register(
            "dnsbl_findings",
            "Clients that a block list has, by what became of them, and lists that did not answer",
            blocklists.clone(),
        );
        let recorded = Family::<ReasonLabel, Counter>::default();
        registry.register(
            "recorded",
            "What a rule would have refused, if it did not only record",
            recorded.clone(),
        );
        let auth_results = Family::<ResultLabel, Counter>::default();
        registry.register(
            "auth_results",
            "Results of sender authentication, by method",
            auth_results.clone(),
        );
        let recipients = Family::<IrrLabel, Counter>::default();
        registry.register(
            "recipients_accepted",
            "Recipients accepted, by home region and whether in-region routing applied",
            recipients.clone(),
        );
        let certificates = Family::<NameLabel, Gauge>::default();
        registry.register(
            "certificate_expires_seconds",
            "When each certificate of ours ends, in seconds of Unix time",
            certificates.clone(),
        );
        // A commit takes a fraction of a millisecond on a good disk, and a client gives up after ten minutes.
        let answer_seconds =
            Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0]);
        registry.register(
            "end_of_data_seconds",
            "From the end of a message's data to the answer",
            answer_seconds.clone(),
        );
        // Up to the day after which a message expires.
        let delivery_seconds = Histogram::new([0.01, 0.1, 1.0, 10.0, 60.0, 900.0, 3600.0, 14400.0, 86400.0]);
        registry.register(
            "delivery_seconds",
            "From a message's acceptance to its delivery, per recipient",
            delivery_seconds.clone(),
        );
        let message_bytes = Histogram::new([
            1024.0,
            4096.0,
            16384.0,
            65536.0,
            262_144.0,
            1_048_576.0,
            16_777_216.0,
            157_286_400.0,
        ]);
        registry.register("message_bytes", "The size of accepted messages", message_bytes.clone());
        let outcomes = Family::<OutcomeLabel, Counter>::default();
        registry.register("deliveries", "Ends of attempts, per recipient", outcomes.clone());
        let dns = dns::Meter::default();
        dns.register(&mut registry);
        Self {
            registry,
            connections,
            turned_away,
            handshakes_failed,
            accepted,
            accepted_bytes,
            messages_refused,
            inline_relayed,
            inline_fell_back,
            refused,
            limited,
            blocklists,
            recorded,
            auth_results,
            recipients,
            outcomes,
            answer_seconds,
            delivery_seconds,
            message_bytes,
            destinations_down,
            notices,
            quarantined,
            reloads_refused,
            directory_outages,
            findings,
            dns,
            certificates,
            sessions: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    pub(super) fn count(&self, event: &Event<'_>) {
        match event {
            Event::Connected { .. } => {
                self.connections.inc();
                self.sessions.fetch_add(1, Ordering::Relaxed);
            }
            Event::Disconnected { .. } => {
                self.sessions.fetch_sub(1, Ordering::Relaxed);
            }
            Event::TurnedAway { limit, .. } => {
                self.turned_away.inc();
                self.count_limit(*limit);
            }
            Event::LimitReached { limit, .. } => self.count_limit(*limit),
            Event::BlockListed { zone, action, .. } => self.count_finding(zone, action),
            Event::BlocklistFailed { zone, .. } => self.count_finding(zone, "failed"),
            Event::HandshakeFailed { .. } => {
                self.handshakes_failed.inc();
            }
            Event::SenderRefused { reason, .. } | Event::RecipientRefused { reason, .. } => {
                self.count_refusal(reason)
            }
            Event::Examined { findings, .. } => {
                for finding in &findings.all {
                    let label = ResultLabel { method: finding.method, result: finding.mark.word() };
                    self.auth_results.get_or_create(&label).inc();
                }
            }
            Event::Recorded { reason, .. } => {
                self.recorded.get_or_create(&ReasonLabel { reason: reason.word() }).inc();
            }
            Event::EndOfData { took } => self.answer_seconds.observe(took.as_secs_f64()),
            Event::RecipientAccepted { irr, home } => {
                let region = home.map_or("none".to_owned(), |region| region.to_string());
                self.recipients.get_or_create(&IrrLabel { irr: irr.word(), region }).inc();
            }
            Event::Accepted { bytes, by, .. } => {
                if *by != Relay::Spool {
                    self.inline_relayed.inc();
                }
                self.accepted.inc();
                self.accepted_bytes.inc_by(*bytes);
                #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
                self.message_bytes.observe(*bytes as f64);
            }
            Event::FellBack { .. } => {
                self.inline_fell_back.inc();
            }
            Event::MessageRefused { .. } => {
                self.messages_refused.inc();
            }
            Event::Delivered { next_hop, delay, .. } => {
                self.delivery_seconds.observe(delay.as_secs_f64());
                self.count_outcome("delivered", next_hop);
            }
            Event::Deferred { next_hop, .. } => self.count_outcome("deferred", next_hop),
            Event::Failed { next_hop, .. } => self.count_outcome("failed", next_hop),
            Event::Expired { next_hop, .. } => self.count_outcome("expired", next_hop),
            Event::DestinationDown { .. } => {
                self.destinations_down.inc();
            }
            Event::Notified { .. } => {
                self.notices.inc();
            }
            Event::Quarantined { .. } => {
                self.quarantined.inc();
            }
            Event::Finding { .. } => {
                self.findings.inc();
            }
            Event::ReloadRefused { .. } => {
                self.reloads_refused.inc();
            }
            Event::Certificate { name, expires } => {
                let label = NameLabel { name: (*name).to_owned() };
                self.certificates.get_or_create(&label).set(expires.millis() / 1000);
            }
            Event::DirectoryLost { .. } => {
                self.directory_outages.inc();
            }
            Event::Listening { .. }
            | Event::DirectoryBack { .. }
            | Event::DirectoryFromSnapshot { .. }
            | Event::Recovered { .. }
            | Event::Warning { .. }
            | Event::Pressure { .. }
            | Event::Reloaded { .. }
            | Event::Draining { .. }
            | Event::Stopped { .. }
            | Event::Secured { .. }
            | Event::Introduced { .. }
            | Event::OriginFound { .. }
            | Event::InjectionDropped { .. }
            | Event::AuditHead { .. }
            | Event::CommandRefused { .. }
            | Event::Rerouted { .. }
            | Event::DestinationUp { .. }
            | Event::TlsReported { .. }
            | Event::NotNotified { .. }
            | Event::Ordered { .. }
            | Event::Held { .. }
            | Event::Released { .. }
            | Event::Removed { .. }
            | Event::Rested { .. } => {}
        }
    }

    fn count_refusal(&self, reason: &Reason) {
        self.refused.get_or_create(&ReasonLabel { reason: reason.word() }).inc();
        if let Some(limit) = reason.limit() {
            self.count_limit(limit);
        }
    }

    fn count_finding(&self, zone: &str, outcome: &'static str) {
        self.blocklists.get_or_create(&ZoneLabel { zone: zone.to_owned(), outcome }).inc();
    }

    fn count_limit(&self, limit: Limit) {
        self.limited.get_or_create(&LimitLabel { limit: limit.word() }).inc();
    }

    /// How often each limit has refused something since the start.
    pub fn limited(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().map(|limit| {
            let label = LimitLabel { limit: limit.word() };
            (limit, self.limited.get_or_create(&label).get())
        })
    }

    fn count_outcome(&self, outcome: &'static str, next_hop: &NextHopName) {
        self.outcomes.get_or_create(&OutcomeLabel { outcome, to: next_hop.into() }).inc();
    }

    /// Where a resolver counts its questions.
    pub fn dns(&self) -> dns::Meter {
        self.dns.clone()
    }

    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// The Prometheus text form: the counters, then the gauges given.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("writing to a String cannot fail");
        let end = page.rfind("# EOF").unwrap_or(page.len());
        page.truncate(end);
        let own = [("sessions", "SMTP sessions open now", self.sessions())];
        for (name, help, value) in own.iter().chain(&gauges.0) {
            writeln!(
                page,
                "# HELP landfall_{name} {help}.\n# TYPE landfall_{name} gauge\nlandfall_{name} {value}"
            )
            .expect("writing to a String cannot fail");
        }
        page.push_str("# EOF\n");
        page
    }
}

/// An OpenMetrics page in Prometheus's older text form: there a counter's name ends in `_total` everywhere.
pub fn classic(page: &str) -> String {
    let counters: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut classic = String::with_capacity(page.len());
    for line in page.lines().filter(|line| !line.starts_with("# EOF") && !line.starts_with("# UNIT")) {
        let mut words = line.splitn(4, ' ');
        let renamed = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind @ ("TYPE" | "HELP")), Some(name), Some(rest))
                if counters.contains(name) =>
            {
                Some(format!("# {kind} {name}_total {rest}"))
            }
            _ => None,
        };
        classic.push_str(renamed.as_deref().unwrap_or(line));
        classic.push('\n');
    }
    classic
}
