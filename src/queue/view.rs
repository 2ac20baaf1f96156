//! View: what the operator sees of lanes and waiting messages.

use serde::Serialize;

use super::job::Job;
use super::lane::{Lane, Road};
use crate::mail::MessageId;

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
            oldest: lane.jobs().map(|job| job.envelope.received_at).min().map(|at| at.to_string()),
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
    pub bytes: u64,
    pub attempts: u32,
    pub next_attempt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<String>,
}

impl MessageView {
    pub(super) fn of(lane: &Lane, job: &Job) -> Self {
        let next_attempt = match lane.road() {
            Road::Open => job.next_attempt,
            Road::Down { next_probe, .. } => job.next_attempt.max(*next_probe),
        };
        Self {
            id: job.id(),
            received: job.envelope.received_at.to_string(),
            sender: job.envelope.sender.as_ref().map_or("<>".to_owned(), ToString::to_string),
            recipients: job
                .recipients
                .iter()
                .map(|index| job.envelope.recipients[*index as usize].address.to_string())
                .collect(),
            destination: lane.name.to_string(),
            bytes: job.bytes,
            attempts: job.attempts,
            next_attempt: next_attempt.to_string(),
            last_reply: job.last.as_ref().or(lane.last()).map(|reply| reply.line()),
        }
    }
}
