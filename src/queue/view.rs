//! View: what the operator sees of lanes and waiting messages.

use serde::Serialize;

use super::backoff::Backoff;
use super::job::Job;
use super::lane::{Flight, Lane, Road};
use crate::clock::Timestamp;
use crate::mail::{Envelope, Filter, MessageId, Priority, Recipient, RemoteReply, Transport};

#[derive(Debug, Clone, Serialize)]
pub struct LaneView {
    pub destination: String,
    /// `up` or `down`.
    pub state: &'static str,
    pub messages: usize,
    pub in_flight: usize,
    /// Of the messages, kept back by the operator.
    pub held: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_probe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<String>,
}

impl LaneView {
    pub(super) fn of(lane: &Lane) -> Self {
        let (state, next_probe, down_since) = match lane.road() {
            Road::Open => ("up", None, None),
            Road::Down { next_probe, since, .. } => {
                ("down", Some(next_probe.to_string()), Some(since.to_string()))
            }
        };
        Self {
            destination: lane.name.to_string(),
            state,
            messages: lane.len(),
            in_flight: lane.in_flight().count(),
            held: lane.held_count(),
            oldest: lane.oldest().map(|at| at.to_string()),
            next_probe,
            down_since,
            last_reply: lane.last().map(|reply| reply.line()),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct MessageView {
    pub id: MessageId,
    pub received: String,
    pub sender: String,
    pub recipients: Vec<String>,
    pub destination: String,
    /// `waiting`, `held` or `in flight`.
    pub state: &'static str,
    pub bytes: u64,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_since: Option<String>,
    /// Where the operator set one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<String>,
}

impl MessageView {
    /// What this lane has of what the filter picks, in the order received within each of its states.
    pub(super) fn all(lane: &Lane, filter: &Filter, now: Timestamp, limit: usize) -> Vec<Self> {
        let picked = |envelope: &Envelope, recipients: &[u32]| {
            filter.is_empty() || recipients.iter().any(|index| filter.picks(envelope, *index, now))
        };
        let in_flight = lane
            .in_flight()
            .filter(|flight| picked(&flight.envelope, &flight.recipients))
            .map(|flight| Self::in_flight(lane, flight));
        let waiting = lane
            .jobs()
            .filter(|job| picked(&job.envelope, &job.recipients))
            .map(|job| Self::waiting(lane, job));
        let held = lane.held().filter(|job| picked(&job.envelope, &job.recipients)).map(|job| Self {
            state: "held",
            next_attempt: None,
            ..Self::waiting(lane, job)
        });
        in_flight.chain(waiting).chain(held).take(limit).collect()
    }

    fn waiting(lane: &Lane, job: &Job) -> Self {
        let (orders, first) = (job.orders.as_ref(), job.recipients.first());
        Self {
            state: "waiting",
            bytes: job.bytes,
            attempts: job.attempts,
            next_attempt: Some(next_attempt(lane, job).to_string()),
            held_since: orders.and_then(|orders| orders.held_since).map(|since| since.to_string()),
            priority: orders.and_then(|orders| orders.priority).map(Priority::word),
            last_reply: first.and_then(|index| job.said.of(*index)).or(lane.last()).map(|reply| reply.line()),
            ..Self::of(lane, &job.envelope, &job.recipients)
        }
    }

    fn in_flight(lane: &Lane, flight: &Flight) -> Self {
        let (bytes, attempts) = (flight.bytes, flight.attempts);
        Self { state: "in flight", bytes, attempts, ..Self::of(lane, &flight.envelope, &flight.recipients) }
    }

    fn of(lane: &Lane, envelope: &Envelope, recipients: &[u32]) -> Self {
        let address = |index: &u32| envelope.recipients[*index as usize].address.to_string();
        Self {
            id: envelope.id,
            received: envelope.received_at.to_string(),
            sender: sender(envelope),
            recipients: recipients.iter().map(address).collect(),
            destination: lane.name.to_string(),
            state: "waiting",
            bytes: 0,
            attempts: 0,
            next_attempt: None,
            held_since: None,
            priority: None,
            last_reply: None,
        }
    }
}

fn sender(envelope: &Envelope) -> String {
    envelope.sender.as_ref().map_or("<>".to_owned(), ToString::to_string)
}

fn next_attempt(lane: &Lane, job: &Job) -> Timestamp {
    match lane.road() {
        Road::Open => job.next_attempt,
        Road::Down { next_probe, .. } => job.next_attempt.max(*next_probe),
    }
}

/// Whether the header is to be read from the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    Wanted,
    Unwanted,
}

/// `landfall queue show`: the envelope, and each recipient's progress.
#[derive(Debug, Clone, Serialize)]
pub struct MessageDetail {
    pub id: MessageId,
    pub received: String,
    pub sender: String,
    pub bytes: u64,
    /// How it came in: `incoming`, `originating`, `peer-edge` or `notice`.
    pub transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spf: Option<String>,
    pub smtputf8: bool,
    pub require_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    pub recipients: Vec<RecipientView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RecipientView {
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// `waiting`, `held`, `in flight`, or `done` for who is no longer in the queue.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<&'static str>,
    /// Whether its sender was told that it is late.
    pub delay_notified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<ReplyView>,
}

/// A next hop's answer in full.
#[derive(Debug, Clone, Serialize)]
pub struct ReplyView {
    pub host: String,
    /// Zero when the words are ours.
    pub code: u16,
    pub status: String,
    pub text: String,
}

impl MessageDetail {
    /// Takes in what this lane knows of the message.
    pub(super) fn add(detail: &mut Option<Self>, lane: &Lane, id: MessageId, backoff: &Backoff) {
        for job in lane.jobs().chain(lane.held()).filter(|job| job.id() == id) {
            let detail = detail.get_or_insert_with(|| Self::of(&job.envelope, job.bytes));
            for index in &job.recipients {
                let orders = job.orders.as_ref();
                let row = &mut detail.recipients[*index as usize];
                row.state = if job.is_held() { "held" } else { "waiting" };
                row.destination = Some(lane.name.to_string());
                row.attempts = job.attempts;
                row.held_since = orders.and_then(|orders| orders.held_since).map(|since| since.to_string());
                row.priority = orders.and_then(|orders| orders.priority).map(Priority::word);
                row.delay_notified = job.delay_notified;
                row.last_reply = job.said.of(*index).or(lane.last()).map(ReplyView::of);
                // What is held neither goes nor grows old.
                if !job.is_held() {
                    row.next_attempt = Some(next_attempt(lane, job).to_string());
                    row.expires = Some(backoff.expires_at(job.ages_from()).to_string());
                }
            }
        }
        for flight in lane.in_flight().filter(|flight| flight.envelope.id == id) {
            let detail = detail.get_or_insert_with(|| Self::of(&flight.envelope, flight.bytes));
            for index in &flight.recipients {
                let row = &mut detail.recipients[*index as usize];
                row.state = "in flight";
                row.destination = Some(lane.name.to_string());
                row.attempts = flight.attempts;
                row.last_reply = lane.last().map(ReplyView::of);
            }
        }
    }

    fn of(envelope: &Envelope, bytes: u64) -> Self {
        let recipient = |recipient: &Recipient| RecipientView {
            address: recipient.address.to_string(),
            original: recipient.orcpt.clone(),
            notify: recipient.notify.map(crate::mail::Notify::words),
            state: "done",
            destination: None,
            attempts: 0,
            next_attempt: None,
            expires: None,
            held_since: None,
            priority: None,
            delay_notified: false,
            last_reply: None,
        };
        Self {
            id: envelope.id,
            received: envelope.received_at.to_string(),
            sender: sender(envelope),
            bytes,
            transport: match envelope.transport {
                Transport::Incoming => "incoming",
                Transport::Originating => "originating",
                Transport::PeerEdge => "peer-edge",
                Transport::Notice => "notice",
            },
            client: envelope.peer.as_ref().map(|peer| format!("{} [{}]", peer.helo, peer.ip)),
            tenant: envelope.tenant.as_deref().map(str::to_owned),
            connector: envelope.connector.as_deref().map(str::to_owned),
            spf: envelope.spf.map(|spf| spf.to_string()),
            smtputf8: envelope.smtputf8,
            require_tls: envelope.require_tls,
            envid: envelope.envid.clone(),
            recipients: envelope.recipients.iter().map(recipient).collect(),
            header: None,
        }
    }
}

impl ReplyView {
    fn of(reply: &RemoteReply) -> Self {
        let RemoteReply { host, code, status, text } = reply;
        Self { host: host.clone(), code: *code, status: status.to_string(), text: text.clone() }
    }
}
