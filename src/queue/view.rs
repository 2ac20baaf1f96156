//! View: what the operator sees of lanes and waiting messages.

use serde::Serialize;

use super::job::Job;
use super::lane::{Flight, Lane, Road};
use crate::mail::{Envelope, MessageId};

#[derive(Debug, Clone, Serialize)]
pub struct LaneView {
    pub destination: String,
    /// `up` or `down`.
    pub state: &'static str,
    pub messages: usize,
    pub in_flight: usize,
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
    /// `waiting` or `in flight`.
    pub state: &'static str,
    pub bytes: u64,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<String>,
}

impl MessageView {
    /// Everything that this lane has, in the order received within each of its states.
    pub(super) fn all(lane: &Lane, limit: usize) -> Vec<Self> {
        let waiting = lane.jobs().map(|job| Self::waiting(lane, job));
        lane.in_flight().map(|flight| Self::in_flight(lane, flight)).chain(waiting).take(limit).collect()
    }

    fn waiting(lane: &Lane, job: &Job) -> Self {
        let next_attempt = match lane.road() {
            Road::Open => job.next_attempt,
            Road::Down { next_probe, .. } => job.next_attempt.max(*next_probe),
        };
        Self {
            state: "waiting",
            bytes: job.bytes,
            attempts: job.attempts,
            next_attempt: Some(next_attempt.to_string()),
            last_reply: job.last.as_ref().or(lane.last()).map(|reply| reply.line()),
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
            sender: envelope.sender.as_ref().map_or("<>".to_owned(), ToString::to_string),
            recipients: recipients.iter().map(address).collect(),
            destination: lane.name.to_string(),
            state: "waiting",
            bytes: 0,
            attempts: 0,
            next_attempt: None,
            last_reply: None,
        }
    }
}
