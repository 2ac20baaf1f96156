//! Job: one message at one next hop, with the recipients that still wait there.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::mail::{Envelope, MessageId, RemoteReply, Transport};
use crate::spool::Content;

use super::backoff::Priority;

#[derive(Debug)]
pub(super) struct Job {
    pub envelope: Arc<Envelope>,
    /// Indices into the envelope's recipients, rising.
    pub recipients: Vec<u32>,
    /// Still in memory since it was accepted; read back from the spool otherwise.
    pub content: Option<Box<Content>>,
    /// Octets of the message, for the operator.
    pub bytes: u64,
    /// Attempts that ended without a final answer.
    pub attempts: u32,
    /// The wait before this attempt; the next one is not shorter.
    pub interval: Duration,
    pub next_attempt: Timestamp,
    /// The last attempt did not reach the next hop: due as soon as that is back, whatever was scheduled.
    pub unreached: bool,
    pub last: Option<RemoteReply>,
    /// The sender knows that it is late (rule 87).
    pub delay_notified: bool,
}

impl Job {
    pub(super) fn id(&self) -> MessageId {
        self.envelope.id
    }

    /// When an attempt last ended without a final answer.
    pub(super) fn attempted_at(&self) -> Option<Timestamp> {
        (self.attempts > 0).then(|| self.next_attempt.minus(self.interval))
    }

    pub(super) fn priority(&self) -> Priority {
        match self.envelope.transport {
            Transport::Notice => Priority::Low,
            Transport::Incoming | Transport::Originating | Transport::PeerEdge => Priority::Normal,
        }
    }

    /// Takes in the recipients of a job of the same message, as when two ways become one.
    pub(super) fn merge(&mut self, other: Job) {
        debug_assert_eq!(self.id(), other.id(), "only one message's jobs merge");
        self.recipients.extend(other.recipients);
        self.recipients.sort_unstable();
        self.recipients.dedup();
        self.attempts = self.attempts.max(other.attempts);
        self.interval = self.interval.max(other.interval);
        self.unreached |= other.unreached;
        self.delay_notified &= other.delay_notified;
        self.content = self.content.take().or(other.content);
        self.last = self.last.take().or(other.last);
    }
}
