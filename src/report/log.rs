//! Log: one line per Event, text on a terminal and JSON otherwise.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tracing::{info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Event, Parting, Withheld};
use crate::mail::Sender;
use crate::spool::Pressure;

/// `log.format` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    Text,
    Json,
}

/// The file that lines go to; nothing when they go to standard error.
static FILE: OnceLock<LogFile> = OnceLock::new();

/// Can be moved away by whoever rotates it: `reopen` begins a new one in its place.
struct LogFile {
    path: PathBuf,
    file: ArcSwap<File>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o640).open(path)
    }
}

/// Opens the log's file anew, if it has one. When that fails the old one is written on.
pub fn reopen() {
    let Some(log) = FILE.get() else { return };
    match LogFile::open(&log.path) {
        Ok(file) => log.file.store(Arc::new(file)),
        Err(error) => warn!(event = "warning", what = %format!("{}: {error}", log.path.display())),
    }
}

/// Sends log lines to standard error or to a file from now on, once for the process. The filter is a tracing
/// directive such as `info`.
pub fn start(format: Format, filter: &str, file: Option<&Path>) -> io::Result<()> {
    let json = match format {
        Format::Auto => file.is_some() || !io::stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let writer = match file {
        Some(path) => {
            let file = ArcSwap::from_pointee(LogFile::open(path)?);
            let log = FILE.get_or_init(|| LogFile { path: path.to_owned(), file });
            BoxMakeWriter::new(|| log.file.load_full())
        }
        None => BoxMakeWriter::new(io::stderr),
    };
    let filter: Targets = filter.parse().map_err(io::Error::other)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
        registry.with(lines).init();
    } else {
        registry.with(lines.with_ansi(file.is_none() && io::stderr().is_terminal())).init();
    }
    Ok(())
}

/// As a number: JSON writers make strings of 128 bits.
fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn write(event: &Event<'_>, withheld: &Withheld) {
    let sender = |sender: &Sender| withheld.shown_sender(sender);
    match event {
        Event::Listening { listener, address } => info!(event = "listening", listener, %address),
        Event::Recovered { messages, findings } => info!(event = "recovered", messages, findings),
        Event::Finding { what } => warn!(event = "spool-finding", what),
        Event::Warning { what } => warn!(event = "warning", what),
        Event::Pressure { state: Pressure::Free, why } => info!(event = "pressure", state = "free", why),
        Event::Pressure { state: Pressure::Full, why } => warn!(event = "pressure", state = "full", why),
        Event::Pressure { state: Pressure::Failed, why } => warn!(event = "pressure", state = "failed", why),
        Event::DirectoryLost { source, why } => warn!(event = "directory-lost", source, why),
        Event::DirectoryBack { source, after } => {
            info!(event = "directory-back", source, after_ms = millis(*after));
        }
        Event::DirectoryFromSnapshot { age, domains, users } => {
            info!(event = "directory-from-snapshot", age_s = age.as_secs(), domains, users);
        }
        Event::Reloaded { warnings } => info!(event = "reloaded", warnings),
        Event::Certificate { name, expires } => info!(event = "certificate", name, %expires),
        Event::ReloadRefused { why } => warn!(event = "reload-refused", why),
        Event::AuditHead { record, hash } => info!(event = "audit-head", record, hash),
        Event::Draining { within } => info!(event = "draining", within_s = within.as_secs()),
        Event::Stopped { sessions_cut } => info!(event = "stopped", sessions_cut),
        Event::Connected { session, listener, peer } => {
            tracing::debug!(event = "connected", %session, listener, %peer);
        }
        Event::TurnedAway { peer, limit, reply } => {
            warn!(event = "turned-away", %peer, limit = limit.word(), reply);
        }
        Event::BlockListed { session, peer, zone, action } => {
            info!(event = "block-listed", %session, ip = %peer.ip, helo = peer.helo, zone, action);
        }
        Event::BlocklistFailed { session, zone, why } => {
            info!(event = "blocklist-failed", %session, zone, why);
        }
        Event::LimitReached { session, peer, limit } => {
            info!(event = "limit-reached", %session, ip = %peer.ip, helo = peer.helo, limit = limit.word());
        }
        Event::Secured { session, tls } => tracing::debug!(
            event = "secured", %session, version = tls.version, cipher = tls.cipher,
            names = tls.verified_names.join(" "),
            rejected = tls.rejected_certificate.as_deref().unwrap_or_default(),
        ),
        Event::HandshakeFailed { session, why, .. } => info!(event = "handshake-failed", %session, why),
        Event::Introduced { session, peer } => {
            tracing::debug!(event = "introduced", %session, ip = %peer.ip, helo = peer.helo);
        }
        Event::OriginFound { session, peer, ip, helo, counts } => {
            info!(event = "origin-found", %session, peer = %peer.ip, %ip, helo, counts);
        }
        Event::InjectionDropped { session, bytes, .. } => {
            warn!(event = "injection-dropped", %session, bytes, why = "pipelined behind STARTTLS");
        }
        Event::Disconnected { session, why, messages, lasted, parting: Parting::Ordinary, .. } => {
            tracing::debug!(event = "disconnected", %session, why, messages, lasted_ms = millis(*lasted));
        }
        Event::Disconnected { session, why, messages, lasted, parting: Parting::Notable, .. } => {
            info!(event = "disconnected", %session, why, messages, lasted_ms = millis(*lasted));
        }
        Event::SenderRefused { session, peer, sender: from, privacy, reason, reply, .. } => info!(
            event = "sender-refused", %session, ip = %peer.ip, helo = peer.helo,
            sender = withheld.shown_as(from, *privacy),
            reason = reason.word(), reply,
        ),
        Event::RecipientRefused { session, peer, sender: from, recipient, reason, reply, .. } => info!(
            event = "recipient-refused", %session, ip = %peer.ip, helo = peer.helo, sender = sender(from), recipient,
            reason = reason.word(), reply,
        ),
        Event::RecipientAccepted { .. } => {}
        Event::Examined { session, id, findings } => info!(
            event = "examined", id = id.map(tracing::field::display), %session, results = %withheld.scrubbed(&findings.to_string()),
            explanation = findings.spf_explanation.as_deref(),
        ),
        Event::Recorded { session, peer, reason } => {
            info!(event = "recorded", %session, ip = %peer.ip, reason = reason.word());
        }
        Event::CommandRefused { session, peer, recipient, reason, reply, .. } => tracing::debug!(
            event = "command-refused", %session, ip = %peer.ip, recipient, reason, reply,
        ),
        Event::Accepted { session, envelope, attribution, bytes, tls, by, .. } => {
            let peer = envelope.peer.as_ref();
            let connector = envelope.tenant.iter().zip(&envelope.connector);
            let connector = connector.map(|(tenant, connector)| format!("{tenant}/{connector}")).next();
            info!(
                event = "accepted", id = %envelope.id, %session, sender = sender(&envelope.sender),
                recipients = envelope.recipients.len(), %attribution, connector, bytes, tls, relay = by.word(),
                ip = peer.map(|peer| tracing::field::display(peer.ip)),
                helo = peer.map(|peer| peer.helo.as_str()),
            );
        }
        Event::EndOfData { .. } => {}
        Event::FellBack { id, next_hop, reply } => info!(
            event = "inline-fell-back", %id, %next_hop, host = reply.host, reply = reply.line(),
        ),
        Event::MessageRefused { session, peer, sender: from, reply, .. } => info!(
            event = "message-refused", %session, ip = %peer.ip, helo = peer.helo, sender = sender(from), reply,
        ),
        Event::Rested { id, recipients } => {
            tracing::debug!(event = "rested", %id, recipients = recipients.len());
        }
        Event::Delivered { id, recipient, next_hop, reply, attempts, delay } => info!(
            event = "delivered", %id, recipient = %withheld.display(recipient), %next_hop, host = reply.host,
            reply = withheld.shown_reply(reply, recipient), attempts,
            delay_ms = millis(*delay),
        ),
        Event::Deferred { id, recipient, next_hop, reply, attempts, next_attempt } => info!(
            event = "deferred", %id, recipient = %withheld.display(recipient), %next_hop, host = reply.host,
            reply = withheld.shown_reply(reply, recipient), attempts,
            %next_attempt,
        ),
        Event::Failed { id, recipient, next_hop, reply, attempts } => info!(
            event = "failed", %id, recipient = %withheld.display(recipient), %next_hop, host = reply.host,
            reply = withheld.shown_reply(reply, recipient), attempts,
        ),
        Event::Expired { id, recipient, next_hop, reply, attempts } => info!(
            event = "expired", %id, recipient = %withheld.display(recipient), %next_hop, host = reply.host,
            reply = withheld.shown_reply(reply, recipient), attempts,
        ),
        Event::Rerouted { id, recipient, from, to } => info!(
            event = "rerouted", %id, recipient = %withheld.display(recipient), %from, %to
        ),
        Event::DestinationDown { next_hop, reply, next_probe, waiting } => warn!(
            event = "destination-down", %next_hop, host = reply.host, reply = reply.line(), %next_probe, waiting,
        ),
        Event::DestinationUp { next_hop, waiting } => info!(event = "destination-up", %next_hop, waiting),
        Event::TlsReported { domain, to } => info!(event = "tls-reported", domain, to),
        Event::Notified { id, notice, to } => info!(
            event = "notified", %id, %notice, to = %withheld.display(to)
        ),
        Event::NotNotified { id, why } => info!(event = "not-notified", %id, why),
        Event::Quarantined { id, why } => warn!(event = "quarantined", %id, why),
        Event::Ordered { by, verb, filter, messages, recipients } => {
            info!(event = "ordered", by, verb, filter, messages, recipients);
        }
        Event::Held { id, recipient } => info!(event = "held", %id, recipient = %withheld.display(recipient)),
        Event::Released { id, recipient } => {
            info!(event = "released", %id, recipient = %withheld.display(recipient))
        }
        Event::Removed { id, recipient, by } => {
            info!(event = "removed", %id, recipient = %withheld.display(recipient), by);
        }
    }
}
