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
    pub said: Said,
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

/// What the next hop last said of each recipient: nearly always the same of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    of_most: Option<RemoteReply>,
    of_others: Vec<(u32, RemoteReply)>,
}

impl Said {
    pub(super) fn of_all(reply: Option<RemoteReply>) -> Self {
        Self { of_most: reply, of_others: Vec::new() }
    }

    pub(super) fn of(&self, recipient: u32) -> Option<&RemoteReply> {
        let other = self.of_others.iter().find(|(index, _)| *index == recipient);
        other.map(|(_, reply)| reply).or(self.of_most.as_ref())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of_most.is_none() && self.of_others.is_empty()
    }

    pub(super) fn note(&mut self, recipient: u32, reply: &RemoteReply) {
        self.of_others.retain(|(index, _)| *index != recipient);
        if self.is_empty() {
            self.of_most = Some(reply.clone());
        } else if self.of_most.as_ref() != Some(reply) {
            self.of_others.push((recipient, reply.clone()));
        }
    }

    /// Takes in what was said of their recipients; ours keep what was said of them.
    fn merge(&mut self, ours: &[u32], theirs: &Self, recipients: &[u32]) {
        for recipient in recipients.iter().filter(|recipient| !ours.contains(recipient)) {
            if let Some(reply) = theirs.of(*recipient).filter(|reply| self.of_most.as_ref() != Some(reply)) {
                self.of_others.push((*recipient, reply.clone()));
            }
        }
    }
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
            said: self.said.clone(),
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
        self.said.merge(&self.recipients, &other.said, &other.recipients);
        self.recipients.extend(other.recipients);
        self.recipients.sort_unstable();
        self.recipients.dedup();
        self.attempts = self.attempts.max(other.attempts);
        self.interval = self.interval.max(other.interval);
        self.unreached |= other.unreached;
        self.delay_notified &= other.delay_notified;
        self.content = self.content.take().or(other.content);
        if let Some(theirs) = other.orders {
            let ours = self.orders();
            ours.grace = ours.grace.max(theirs.grace);
            ours.priority = ours.priority.max(theirs.priority);
            ours.held_since = ours.held_since.or(theirs.held_since);
        }
    }
}
