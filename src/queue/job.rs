//! Job: one message at one next hop, with the recipients that still wait there.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::mail::{Envelope, MessageId, Priority, RemoteReply, Transport};
use crate::spool::Content;

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
    /// What the operator ordered about it: seldom anything.
    pub orders: Option<Box<Orders>>,
}

/// What survives of the operator's verbs while a job waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Kept and not attempted since then.
    pub held_since: Option<Timestamp>,
    /// How long it was held before: that time is not held against it.
    pub grace: Duration,
    pub priority: Option<Priority>,
}

impl Job {
    pub(super) fn id(&self) -> MessageId {
        self.envelope.id
    }

    /// When an attempt last ended without a final answer.
    pub(super) fn attempted_at(&self) -> Option<Timestamp> {
        (self.attempts > 0).then(|| self.next_attempt.minus(self.interval))
    }

    /// Its place among those that are ready: only the operator changes it (rule 84).
    pub(super) fn order(&self) -> Priority {
        self.orders.as_ref().and_then(|orders| orders.priority).unwrap_or_default()
    }

    pub(super) fn is_held(&self) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.held_since.is_some())
    }

    pub(super) fn was_held(&self) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.grace > Duration::ZERO)
    }

    /// From when its age counts: what it was held for does not.
    pub(super) fn ages_from(&self) -> Timestamp {
        let grace = self.orders.as_ref().map_or(Duration::ZERO, |orders| orders.grace);
        self.envelope.received_at.plus(grace)
    }

    pub(super) fn orders(&mut self) -> &mut Orders {
        self.orders.get_or_insert_default()
    }

    /// Takes these recipients out, as a job of their own; `None` when it has none of them.
    pub(super) fn split(&mut self, which: impl Fn(u32) -> bool) -> Option<Job> {
        let (taken, left): (Vec<u32>, Vec<u32>) = self.recipients.iter().partition(|index| which(**index));
        if taken.is_empty() {
            return None;
        }
        self.recipients = left;
        Some(self.part(taken))
    }

    /// The same for some of its recipients. The content goes along when nobody else is left to need it.
    pub(super) fn part(&mut self, recipients: Vec<u32>) -> Job {
        let content = if self.recipients.is_empty() { self.content.take() } else { None };
        Job {
            envelope: self.envelope.clone(),
            recipients,
            content,
            bytes: self.bytes,
            attempts: self.attempts,
            interval: self.interval,
            next_attempt: self.next_attempt,
            unreached: self.unreached,
            last: self.last.clone(),
            delay_notified: self.delay_notified,
            orders: self.orders.clone(),
        }
    }

    /// How fast its intervals grow (rule 82).
    pub(super) fn priority(&self) -> Priority {
        if let Some(ordered) = self.orders.as_ref().and_then(|orders| orders.priority) {
            return ordered;
        }
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
        if let Some(theirs) = other.orders {
            let ours = self.orders();
            ours.grace = ours.grace.max(theirs.grace);
            ours.priority = ours.priority.max(theirs.priority);
            ours.held_since = ours.held_since.or(theirs.held_since);
        }
    }
}
