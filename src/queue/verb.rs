//! Verb: what an operator does with what waits: try, hold, release, return, remove, prefer.
//!
//! A verb is durable when its answer is given. A message that a worker has at that moment is not torn from
//! it: the verb is carried out on what the attempt leaves.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::job::Job;
use super::{Core, Queue, Road, attempt, progress_of_all};
use crate::clock::Timestamp;
use crate::mail::{Envelope, Filter, MessageId, NextHopName, Priority};
use crate::report::Event;
use crate::spool::{End, RecipientProgress};

/// How many messages an answer names; it counts all.
const ROWS_LIMIT: usize = 1_000;
/// So many notices are on their way to the disk at a time.
const AT_A_TIME: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Try now, whatever was scheduled.
    Retry,
    /// Keep, and do not try.
    Hold,
    /// Go on with what was held.
    Release,
    /// Tell the senders that it is over, for the operator's reason.
    Bounce {
        reason: String,
    },
    /// Remove, and tell nobody.
    Delete,
    Prioritize(Priority),
}

impl Verb {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce { .. } => "bounce",
            Self::Delete => "delete",
            Self::Prioritize(_) => "prioritize",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Act,
    /// Say what would be done.
    DryRun,
}

/// What a verb met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub messages: usize,
    pub recipients: usize,
    /// Messages of them that are under way: the verb is carried out on what their attempts leave.
    pub under_way: usize,
    /// The first of them.
    pub matched: Vec<Matched>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matched {
    pub id: MessageId,
    pub sender: String,
    pub recipients: Vec<String>,
    pub destination: String,
    /// `waiting`, `held` or `in flight`.
    pub state: String,
}

impl Changed {
    fn add(&mut self, envelope: &Envelope, recipients: &[u32], destination: &str, state: &str) {
        self.messages += 1;
        self.recipients += recipients.len();
        self.under_way += usize::from(state == "in flight");
        if self.matched.len() < ROWS_LIMIT {
            let address = |index: &u32| envelope.recipients[*index as usize].address.to_string();
            self.matched.push(Matched {
                id: envelope.id,
                sender: envelope.sender.as_ref().map_or("<>".to_owned(), ToString::to_string),
                recipients: recipients.iter().map(address).collect(),
                destination: destination.to_owned(),
                state: state.to_owned(),
            });
        }
    }
}

/// Where in a lane a job is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shelf {
    Ready,
    Waiting,
    Held,
}

impl Verb {
    fn applies_to(&self, shelf: Shelf) -> bool {
        match self {
            Self::Retry | Self::Hold => shelf != Shelf::Held,
            Self::Release => shelf == Shelf::Held,
            Self::Bounce { .. } | Self::Delete | Self::Prioritize(_) => true,
        }
    }

    /// What is under way is tried already, and is not held.
    fn waits_for_attempts(&self) -> bool {
        match self {
            Self::Retry | Self::Release => false,
            Self::Hold | Self::Bounce { .. } | Self::Delete | Self::Prioritize(_) => true,
        }
    }
}

impl Queue {
    /// Carries out a verb on all that the filter picks, and returns when that is durable.
    pub async fn change(&self, verb: &Verb, filter: &Filter, mode: Mode) -> Changed {
        let core = &self.0;
        let now = core.clock.now();
        let mut changed = Changed::default();
        let mut ending = Vec::new();
        for road in core.roads() {
            let name = road.lock().lane.name.clone();
            let destination = name.to_string();
            if !filter.concerns(&destination) {
                continue;
            }
            let mut met = meet(&road, verb, filter, &destination, mode, &mut changed, now);
            if mode == Mode::DryRun {
                continue;
            }
            match verb {
                Verb::Retry | Verb::Release | Verb::Hold | Verb::Prioritize(_) => {
                    for (shelf, mut job) in met.drain(..) {
                        obey(&mut job, verb, now);
                        core.spool.record(job.id(), &progress_of_all(&job));
                        tell(core, &job, verb);
                        put_back(&road, verb, shelf, job, now);
                    }
                }
                Verb::Bounce { .. } | Verb::Delete => {
                    ending.extend(met.drain(..).map(|(_, job)| (name.clone(), job)));
                }
            }
            core.wake(&road);
        }
        end_all(core, verb, ending).await;
        if mode == Mode::Act && changed.messages > 0 {
            core.spool.flush().await;
        }
        changed
    }
}

/// Finds what is meant in one lane; takes it out when something is to be done.
fn meet(
    road: &Road,
    verb: &Verb,
    filter: &Filter,
    destination: &str,
    mode: Mode,
    changed: &mut Changed,
    now: Timestamp,
) -> Vec<(Shelf, Job)> {
    let mut state = road.lock();
    let lane = &mut state.lane;
    let picks_of = |envelope: &Envelope, recipients: &[u32]| -> Vec<u32> {
        recipients.iter().copied().filter(|index| filter.picks(envelope, *index, now)).collect()
    };
    let picked = |job: &Job| job.recipients.iter().any(|index| filter.picks(&job.envelope, *index, now));
    let mut ids: Vec<(Shelf, MessageId)> = Vec::new();
    let mut look = |shelf: Shelf, jobs: &mut dyn Iterator<Item = &Job>| {
        if verb.applies_to(shelf) {
            ids.extend(jobs.filter(|job| picked(job)).map(|job| (shelf, job.id())));
        }
    };
    look(Shelf::Ready, &mut lane.ready());
    look(Shelf::Waiting, &mut lane.waiting());
    look(Shelf::Held, &mut lane.held());
    let mut met = Vec::new();
    for (shelf, id) in ids {
        let taken = match shelf {
            Shelf::Ready => lane.take_ready(id),
            Shelf::Waiting => lane.take_waiting(id),
            Shelf::Held => lane.take_held(id),
        };
        let Some(mut job) = taken else { continue };
        let picks = picks_of(&job.envelope, &job.recipients);
        let word = if shelf == Shelf::Held { "held" } else { "waiting" };
        changed.add(&job.envelope, &picks, destination, word);
        let part = match mode {
            Mode::Act => job.split(|index| picks.contains(&index)),
            Mode::DryRun => None,
        };
        if !job.recipients.is_empty() {
            match shelf {
                Shelf::Ready => lane.add(job),
                Shelf::Waiting => lane.add_waiting(job),
                Shelf::Held => lane.hold(job),
            }
        }
        met.extend(part.map(|part| (shelf, part)));
    }
    for flight in lane.flights_mut() {
        let picks = picks_of(&flight.envelope, &flight.recipients);
        if picks.is_empty() {
            continue;
        }
        if verb.waits_for_attempts() {
            changed.add(&flight.envelope, &picks, destination, "in flight");
            if mode == Mode::Act {
                flight.order = Some((verb.clone(), picks));
            }
        } else if *verb == Verb::Release && mode == Mode::Act {
            // What was to be held after its attempt is not.
            flight.order.take_if(|(order, _)| *order == Verb::Hold);
        }
    }
    // The operator wants to know now whether it is back.
    if *verb == Verb::Retry && mode == Mode::Act && !met.is_empty() {
        lane.probe_now(now);
    }
    met
}

fn obey(job: &mut Job, verb: &Verb, now: Timestamp) {
    match verb {
        Verb::Retry => job.next_attempt = now,
        Verb::Hold => job.orders().held_since = Some(now),
        Verb::Release => {
            let orders = job.orders();
            if let Some(since) = orders.held_since.take() {
                // Whole seconds, as they are kept; rounded up, so that nothing expires for having been held.
                let held = Duration::from_secs(now.since(since).as_secs() + 1);
                orders.grace = orders.grace.saturating_add(held);
            }
            job.next_attempt = now;
        }
        Verb::Prioritize(priority) => job.orders().priority = Some(*priority),
        Verb::Bounce { .. } | Verb::Delete => {}
    }
}

/// To the trace, for each recipient.
pub(super) fn tell(core: &Core, job: &Job, verb: &Verb) {
    let id = job.id();
    for index in &job.recipients {
        let recipient = &job.envelope.recipients[*index as usize].address;
        match verb {
            Verb::Hold => core.note(&Event::Held { id, recipient }),
            Verb::Release => core.note(&Event::Released { id, recipient }),
            Verb::Retry | Verb::Prioritize(_) | Verb::Bounce { .. } | Verb::Delete => return,
        }
    }
}

fn put_back(road: &Road, verb: &Verb, shelf: Shelf, job: Job, now: Timestamp) {
    let mut state = road.lock();
    let lane = &mut state.lane;
    match (verb, shelf) {
        (Verb::Hold, _) | (Verb::Prioritize(_), Shelf::Held) => lane.hold(job),
        (Verb::Prioritize(_), Shelf::Waiting) if job.next_attempt > now => lane.add_waiting(job),
        (
            Verb::Retry | Verb::Release | Verb::Prioritize(_) | Verb::Bounce { .. } | Verb::Delete,
            Shelf::Ready | Shelf::Waiting | Shelf::Held,
        ) => lane.add(job),
    }
}

async fn end_all(core: &Arc<Core>, verb: &Verb, ending: Vec<(NextHopName, Job)>) {
    let mut under_way = JoinSet::new();
    for (name, job) in ending {
        while under_way.len() >= AT_A_TIME {
            under_way.join_next().await;
        }
        let (core, verb) = (core.clone(), verb.clone());
        under_way.spawn(async move { end(&core, &name, job, &verb).await });
    }
    while under_way.join_next().await.is_some() {}
}

async fn end(core: &Arc<Core>, name: &NextHopName, job: Job, verb: &Verb) {
    match verb {
        Verb::Bounce { reason } => attempt::give_back(core, name, job, reason).await,
        Verb::Delete => {
            let dropped = |index: &u32| (*index, RecipientProgress::ended(End::Dropped));
            let changes: Vec<_> = job.recipients.iter().map(dropped).collect();
            core.spool.record(job.id(), &changes);
            for index in &job.recipients {
                let recipient = &job.envelope.recipients[*index as usize].address;
                core.note(&Event::Removed { id: job.id(), recipient, by: "the operator" });
            }
        }
        Verb::Retry | Verb::Hold | Verb::Release | Verb::Prioritize(_) => {}
    }
}

/// What was ordered while a worker had the message: carried out on what the attempt left.
pub(super) async fn follow(core: &Arc<Core>, road: &Arc<Road>, verb: Verb, mut job: Job) {
    let now = core.clock.now();
    match verb {
        Verb::Bounce { .. } | Verb::Delete => {
            let name = road.lock().lane.name.clone();
            end(core, &name, job, &verb).await;
        }
        Verb::Hold | Verb::Prioritize(_) | Verb::Retry | Verb::Release => {
            obey(&mut job, &verb, now);
            core.spool.record(job.id(), &progress_of_all(&job));
            tell(core, &job, &verb);
            put_back(road, &verb, Shelf::Waiting, job, now);
        }
    }
}
