//! Lane: the road to one next hop: what waits there, in order of arrival, and whether the road is open.
//!
//! Pure: `queue` asks it for the next job and tells it how the attempt went; it never waits itself.
//! A dead destination is probed by one message and drains at once, in order, when it is back (rule 84).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::mail::{Address, Envelope, MessageId, NextHopName, Priority, RemoteReply, Status};

use crate::spool::RecipientProgress;

use super::backoff::Backoff;
use super::job::{Job, Said};
use super::ready::Ready;
use super::verb::Verb;

/// So many different recipients put off in a row, and the destination itself counts as unwell: one full
/// mailbox never closes the road for the others.
const UNWELL_AFTER: usize = 3;

/// An attempt that has taken so long has come to a standstill, as far as the others are concerned.
const STALLED: Duration = Duration::from_secs(2);

/// Beyond any configured number of connections.
const RUNNABLE_COUNTED: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Road {
    Open,
    /// Nothing gets through; one message at a time tries whether it is back.
    Down {
        since: Timestamp,
        probes: u32,
        interval: Duration,
        next_probe: Timestamp,
        probing: bool,
    },
}

/// A message whose sender is to be told that it is late.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) envelope: Arc<Envelope>,
    pub(super) progress: Vec<(u32, RecipientProgress)>,
    pub(super) said: Said,
    pub(super) attempted_at: Option<Timestamp>,
    pub(super) ages_from: Timestamp,
}

impl Late {
    fn of(job: &Job) -> Self {
        Self {
            envelope: job.envelope.clone(),
            progress: super::progress_of_all(job),
            said: job.said.clone(),
            attempted_at: job.attempted_at(),
            ages_from: job.ages_from(),
        }
    }
}

/// A job that a worker has, for the operator to see.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) envelope: Arc<Envelope>,
    pub(super) recipients: Vec<u32>,
    pub(super) bytes: u64,
    pub(super) attempts: u32,
    since: Timestamp,
    /// What is to become of what the attempt leaves.
    pub(super) order: Option<(Verb, Vec<u32>)>,
}

impl Flight {
    fn of(job: &Job, since: Timestamp) -> Self {
        let (recipients, bytes, attempts) = (job.recipients.clone(), job.bytes, job.attempts);
        Self { envelope: job.envelope.clone(), recipients, bytes, attempts, since, order: None }
    }
}

/// What an attempt told about the destination, beyond the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// It took these recipients, or refused some for good: it works.
    Works { took: Vec<Address> },
    /// It put every recipient off; one of them stands for all.
    PutOff { recipient: Address },
    /// It was not reached at all.
    Unreached,
    /// The attempt never got as far as the destination.
    Untried,
}

/// What changed about the road, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    WentDown { next_probe: Timestamp },
    CameBack,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub name: NextHopName,
    /// Ready when the road is open.
    ready: Ready,
    /// Put off one by one until a time of their own.
    waiting: BTreeMap<MessageId, Box<Job>>,
    due: BTreeSet<(Timestamp, MessageId)>,
    /// Those of them that were put off, by their recipients: a mailbox that takes mail again is found at once,
    /// however many wait.
    calls: BTreeSet<(u64, MessageId)>,
    /// Those of them that did not reach this destination.
    unreached: BTreeSet<MessageId>,
    /// Kept by the operator: neither attempted nor growing old.
    held: BTreeMap<MessageId, Box<Job>>,
    /// With a worker at this moment; as they were when it took them.
    in_flight: BTreeMap<MessageId, Flight>,
    road: Road,
    last: Option<RemoteReply>,
    /// Different recipients put off since one was last taken, at most `UNWELL_AFTER`.
    put_off_in_a_row: Vec<Address>,
    /// Since when no recipient has been taken: what was put off after it comes back with the road.
    trouble_since: Option<Timestamp>,
    /// The probe that was put off: the next one is another message.
    refused_probe: Option<MessageId>,
    backoff: Backoff,
    /// Every message up to this one has been looked at for its lateness.
    late_up_to: MessageId,
    /// Those that were held and may be late, by when.
    held_before: BTreeSet<(Timestamp, MessageId)>,
}

impl Lane {
    pub(super) fn new(name: NextHopName, backoff: Backoff) -> Self {
        Self {
            name,
            ready: Ready::default(),
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            due: BTreeSet::new(),
            calls: BTreeSet::new(),
            unreached: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            road: Road::Open,
            last: None,
            put_off_in_a_row: Vec::new(),
            trouble_since: None,
            refused_probe: None,
            backoff,
            late_up_to: MessageId::from_raw(0),
            held_before: BTreeSet::new(),
        }
    }

    pub(super) fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    /// A job that may be tried as soon as the road is open.
    pub(super) fn add(&mut self, job: Job) {
        self.look_again(&job);
        self.ready.add(Box::new(job));
    }

    /// A job that the operator keeps back.
    pub(super) fn hold(&mut self, mut job: Job) {
        if let Some(there) = self.held.remove(&job.id()) {
            job.merge(*there);
        }
        self.held.insert(job.id(), Box::new(job));
    }

    pub(super) fn take_held(&mut self, id: MessageId) -> Option<Job> {
        self.held.remove(&id).map(|job| *job)
    }

    pub(super) fn take_ready(&mut self, id: MessageId) -> Option<Job> {
        self.ready.remove(id).map(|job| *job)
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &Job> {
        self.held.values().map(|job| &**job)
    }

    pub(super) fn held_count(&self) -> usize {
        self.held.len()
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = &Job> {
        self.ready.values()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.waiting.values().map(|job| &**job)
    }

    /// A probe goes out as soon as a worker looks.
    pub(super) fn probe_now(&mut self, now: Timestamp) {
        if let Road::Down { next_probe, .. } = &mut self.road {
            *next_probe = now;
        }
    }

    pub(super) fn flights_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.in_flight.values_mut()
    }

    /// What the operator ordered while a worker had it, and the recipients that are meant.
    pub(super) fn ordered(&mut self, id: MessageId) -> Option<(Verb, Vec<u32>)> {
        self.in_flight.get_mut(&id).and_then(|flight| flight.order.take())
    }

    /// A job that waits until its own next attempt.
    pub(super) fn add_waiting(&mut self, mut job: Job) {
        self.look_again(&job);
        let id = job.id();
        if let Some(there) = self.take_waiting(id) {
            let next_attempt = job.next_attempt.max(there.next_attempt);
            job.merge(there);
            job.next_attempt = next_attempt;
        }
        self.due.insert((self.wakes(&job), id));
        for address in callers(&job) {
            self.calls.insert((address, id));
        }
        if job.unreached {
            self.unreached.insert(id);
        }
        self.waiting.insert(id, Box::new(job));
    }

    /// One that was elsewhere while those of its age were looked at: its sender may still have to be told.
    fn look_again(&mut self, job: &Job) {
        if job.was_held() {
            // Its age is not what its place tells.
            if !job.delay_notified {
                self.held_before.insert((self.backoff.late_at(job.ages_from()), job.id()));
            }
        } else if !job.delay_notified && job.id() <= self.late_up_to {
            self.late_up_to = MessageId::from_raw(job.id().raw().saturating_sub(1));
        }
    }

    /// A waiting job is looked at when it is due or expires, whichever is first.
    fn wakes(&self, job: &Job) -> Timestamp {
        job.next_attempt.min(self.expires(job))
    }

    pub(super) fn take_waiting(&mut self, id: MessageId) -> Option<Job> {
        let job = self.waiting.remove(&id)?;
        self.due.remove(&(self.wakes(&job), id));
        for address in callers(&job) {
            self.calls.remove(&(address, id));
        }
        self.unreached.remove(&id);
        Some(*job)
    }

    /// The next job to try now, oldest first; a probe when the road is down.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Job> {
        self.release_due(now);
        let id = match &self.road {
            Road::Open => self.ready.first()?,
            Road::Down { next_probe, probing, .. } => {
                if *probing || *next_probe > now {
                    return None;
                }
                self.ready.next_probe(self.refused_probe)?
            }
        };
        // What is too old is the keeper's to end: an attempt would only put it off until now, for ever.
        if self.expires(self.ready.get(id)?) <= now {
            return None;
        }
        if let Road::Down { probing, .. } = &mut self.road {
            *probing = true;
        }
        let job = self.ready.remove(id)?;
        self.in_flight.insert(id, Flight::of(&job, now));
        Some(*job)
    }

    fn expires(&self, job: &Job) -> Timestamp {
        self.backoff.expires_at(job.ages_from())
    }

    fn release_due(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            match self.take_waiting(id) {
                Some(job) => self.add(job),
                None => drop(self.due.remove(&(at, id))),
            }
        }
    }

    /// The jobs whose message is too old (rule 83). Those with a worker are left to end by themselves.
    pub(super) fn take_expired(&mut self, now: Timestamp) -> Vec<Job> {
        self.release_due(now);
        let Self { ready, backoff, .. } = self;
        ready.take_expired(|job| backoff.expires_at(job.ages_from()), now)
    }

    /// The jobs whose sender is to be told that they are late: each once. Those with a worker are looked at
    /// when they are back, if they come back.
    pub(super) fn take_late(&mut self, now: Timestamp) -> Vec<Late> {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut late = Vec::new();
        let mut up_to = self.late_up_to;
        let waiting = self.waiting.range_mut((Excluded(self.late_up_to), Unbounded));
        for jobs in self.ready.each_beyond_mut(self.late_up_to).into_iter().chain([waiting]) {
            for (id, job) in jobs {
                if self.backoff.late_at(job.envelope.received_at) > now {
                    break;
                }
                if job.was_held() {
                    continue;
                }
                up_to = up_to.max(*id);
                if !std::mem::replace(&mut job.delay_notified, true) {
                    late.push(Late::of(job));
                }
            }
        }
        self.late_up_to = up_to;
        while let Some((at, id)) = self.held_before.first().copied().filter(|(at, _)| *at <= now) {
            self.held_before.remove(&(at, id));
            let waiting = self.waiting.get_mut(&id).map(|job| &mut **job);
            // One that a worker has comes back.
            let job = self.ready.get_mut(id).or(waiting).filter(|job| !job.delay_notified);
            if let Some(job) = job {
                job.delay_notified = true;
                late.push(Late::of(job));
            }
        }
        late
    }

    fn next_late(&self) -> Option<Timestamp> {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut waiting = self.waiting.range((Excluded(self.late_up_to), Unbounded)).map(|(_, job)| &**job);
        let waiting = waiting.find(|job| !job.was_held());
        let first = self.ready.beyond(self.late_up_to).chain(waiting);
        let first = first.map(|job| self.backoff.late_at(job.envelope.received_at)).min();
        first.into_iter().chain(self.held_before.first().map(|(at, _)| *at)).min()
    }

    /// How an attempt went. `job` is what is left of it to try again; it waits by itself when it alone was
    /// put off, and with the whole lane when the destination is down.
    pub(super) fn settle(
        &mut self,
        id: MessageId,
        job: Option<Job>,
        health: Health,
        reply: Option<&RemoteReply>,
        now: Timestamp,
    ) -> Option<Change> {
        self.in_flight.remove(&id);
        if let Some(reply) = reply {
            self.last = Some(reply.clone());
        }
        match health {
            Health::Works { took } => {
                if let Some(job) = job {
                    self.add_waiting(job);
                }
                self.release_for(&took);
                // After a restart or a reload the road counts as open, and what it did not reach waits here.
                let is_back = (!self.unreached.is_empty()).then_some(Change::CameBack);
                self.release_unreached();
                self.come_back().or(is_back)
            }
            Health::PutOff { recipient } => {
                if let Some(job) = job {
                    self.add_waiting(job);
                }
                self.put_off(id, recipient, now)
            }
            Health::Unreached => {
                if let Some(job) = job {
                    self.add(job);
                }
                self.refused_probe = None;
                self.go_down(now)
            }
            Health::Untried => {
                if let Some(job) = job {
                    self.add_waiting(job);
                }
                // The probe told nothing: the next message may try at once.
                if let Road::Down { probing, .. } = &mut self.road {
                    *probing = false;
                }
                None
            }
        }
    }

    /// After a start: when one tries the destination anyway it is the oldest of those that did not reach it.
    pub(super) fn begin(&mut self) {
        if !self.ready.is_empty() {
            self.release_unreached();
        }
    }

    fn release_unreached(&mut self) {
        for id in std::mem::take(&mut self.unreached) {
            self.release_one(id);
        }
    }

    /// A mailbox that takes mail again takes what it put off, at once and in order.
    fn release_for(&mut self, took: &[Address]) {
        for address in took {
            let call = call(address);
            let all = (call, MessageId::from_raw(0))..=(call, MessageId::from_raw(u64::MAX));
            let ids: Vec<MessageId> = self.calls.range(all).map(|(_, id)| *id).collect();
            for id in ids {
                self.release_one(id);
            }
        }
    }

    fn release_one(&mut self, id: MessageId) {
        if let Some(job) = self.take_waiting(id) {
            self.add(job);
        }
    }

    fn release(&mut self, which: impl Fn(&Job) -> bool) {
        let ids: Vec<MessageId> = self
            .waiting
            .values()
            .filter(|job| !job.said.is_empty() && which(job))
            .map(|job| job.id())
            .collect();
        for id in ids {
            self.release_one(id);
        }
    }

    fn come_back(&mut self) -> Option<Change> {
        self.put_off_in_a_row.clear();
        self.refused_probe = None;
        let trouble = self.trouble_since.take();
        if self.road == Road::Open {
            return None;
        }
        self.road = Road::Open;
        // What the destination put off while it was unwell comes back with it, in order.
        if let Some(since) = trouble {
            self.release(|job| job.next_attempt >= since.plus(job.interval));
        }
        Some(Change::CameBack)
    }

    fn put_off(&mut self, id: MessageId, recipient: Address, now: Timestamp) -> Option<Change> {
        if self.put_off_in_a_row.len() < UNWELL_AFTER && !self.put_off_in_a_row.contains(&recipient) {
            self.put_off_in_a_row.push(recipient);
        }
        self.trouble_since.get_or_insert(now);
        if !self.is_down() && self.put_off_in_a_row.len() < UNWELL_AFTER {
            return None;
        }
        self.refused_probe = Some(id);
        self.go_down(now)
    }

    fn go_down(&mut self, now: Timestamp) -> Option<Change> {
        self.trouble_since.get_or_insert(now);
        let waiting = self.len();
        let (since, probes, interval) = match &self.road {
            Road::Open => (now, 1, Duration::ZERO),
            Road::Down { since, probes, interval, probing: true, .. } => (*since, probes + 1, *interval),
            // Attempts that were under way when the road went down say nothing new.
            Road::Down { .. } => return None,
        };
        let interval = self.backoff.interval(probes, interval, waiting, Priority::Normal);
        let next_probe = now.plus(interval);
        self.road = Road::Down { since, probes, interval, next_probe, probing: false };
        Some(Change::WentDown { next_probe })
    }

    /// When this lane next has something to do by the clock alone.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let due = self.due.first().map(|(at, _)| *at);
        let expiry = self.ready.next_expiry(|job| self.expires(job));
        let probe = match &self.road {
            Road::Down { next_probe, probing: false, .. } if !self.ready.is_empty() => Some(*next_probe),
            Road::Down { .. } | Road::Open => None,
        };
        [due, expiry, probe, self.next_late()].into_iter().flatten().min()
    }

    /// How many workers could find something to do now.
    pub(super) fn runnable(&self, now: Timestamp) -> usize {
        // More than anybody has workers for need not be counted.
        let due = self.due.range(..=(now, MessageId::from_raw(u64::MAX))).take(RUNNABLE_COUNTED).count();
        match &self.road {
            Road::Open => self.ready.len() + due,
            Road::Down { next_probe, probing, .. } => {
                usize::from(!probing && *next_probe <= now && self.ready.len() + due > 0)
            }
        }
    }

    /// How many have been with a worker for so long that the others should not wait for it.
    pub(super) fn stalled(&self, now: Timestamp) -> usize {
        self.in_flight.values().filter(|flight| now.since(flight.since) >= STALLED).count()
    }

    /// Takes everything that no worker has, for the way on to be decided again.
    pub(super) fn take_all(&mut self) -> Vec<Job> {
        self.due.clear();
        self.calls.clear();
        self.unreached.clear();
        let mut jobs: BTreeMap<MessageId, Box<Job>> =
            self.ready.take_all().map(|job| (job.id(), job)).collect();
        for (id, job) in std::mem::take(&mut self.waiting) {
            match jobs.get_mut(&id) {
                Some(there) => there.merge(*job),
                None => {
                    jobs.insert(id, job);
                }
            }
        }
        jobs.into_values().map(|job| *job).collect()
    }

    /// Lets go of contents kept in memory: a lane that stands still reads them back from the spool.
    pub(super) fn forget_contents(&mut self) {
        let waiting = self.waiting.values_mut().chain(self.held.values_mut()).map(|job| &mut **job);
        for job in self.ready.values_mut().chain(waiting) {
            job.content = None;
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.road != Road::Open
    }

    pub(super) fn road(&self) -> &Road {
        &self.road
    }

    pub(super) fn last(&self) -> Option<&RemoteReply> {
        self.last.as_ref()
    }

    /// What the sender of a message that expires or waits here is told when nothing was said of it: what
    /// the next hop last said of any.
    pub(super) fn last_word(&self) -> RemoteReply {
        self.last.clone().unwrap_or_else(|| {
            RemoteReply::ours("", Status::new(4, 4, 1), "no attempt reached the next hop".to_owned())
        })
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.waiting.len() + self.held.len() + self.in_flight.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.ready().chain(self.waiting())
    }

    /// When the oldest message here was received. Names rise with time, so that nobody has to look at all.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let first = |jobs: &BTreeMap<MessageId, Box<Job>>| {
            jobs.first_key_value().map(|(_, job)| job.envelope.received_at)
        };
        let flight = self.in_flight.first_key_value().map(|(_, flight)| flight.envelope.received_at);
        [self.ready.oldest(), first(&self.waiting), first(&self.held), flight].into_iter().flatten().min()
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = &Flight> {
        self.in_flight.values()
    }
}

/// What a recipient is found by: two that share it are both tried early, and nothing worse.
fn call(address: &Address) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    hasher.finish()
}

/// The recipients whose mailbox a job waits for: those that were put off at least once.
fn callers(job: &Job) -> impl Iterator<Item = u64> {
    let recipients = if job.said.is_empty() { &[] } else { &job.recipients[..] };
    recipients.iter().map(|index| call(&job.envelope.recipients[*index as usize].address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Recipient, Region};

    const START: i64 = 1_800_000_000_000;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(START).plus(Duration::from_secs(seconds))
    }

    fn lane() -> Lane {
        Lane::new(NextHopName::Store(Region::parse("EUR").expect("a code")), Backoff::default())
    }

    fn job(number: u64, recipient: &str) -> Job {
        let envelope = Envelope::new(
            MessageId::from_raw(number),
            at(0),
            None,
            vec![Recipient::new(Address::parse(recipient).expect("an address"))],
        );
        Job {
            envelope: Arc::new(envelope),
            recipients: vec![0],
            content: None,
            bytes: 10,
            attempts: 0,
            interval: Duration::ZERO,
            next_attempt: at(0),
            unreached: false,
            said: Said::default(),
            delay_notified: false,
            orders: None,
        }
    }

    fn reply() -> RemoteReply {
        RemoteReply::ours("store", Status::new(4, 4, 1), "refused")
    }

    fn filled(count: u64) -> Lane {
        let mut lane = lane();
        for number in 1..=count {
            lane.add(job(number, &format!("user{number}@contoso.com")));
        }
        lane
    }

    fn take_id(lane: &mut Lane, now: Timestamp) -> Option<u64> {
        lane.take(now).map(|job| job.id().raw())
    }

    /// As `attempt` does it when a destination puts a job off until `next`.
    fn put_off(mut job: Job, next: Timestamp, interval: u64) -> Job {
        job.attempts += 1;
        job.interval = Duration::from_secs(interval);
        job.next_attempt = next;
        job.said = Said::of_all(Some(reply()));
        job
    }

    fn probe(lane: &mut Lane, now: Timestamp) -> (MessageId, Option<Change>) {
        let job = lane.take(now).expect("a probe is due");
        let id = job.id();
        (id, lane.settle(id, Some(job), Health::Unreached, Some(&reply()), now))
    }

    #[test]
    fn messages_leave_in_the_order_they_came() {
        let mut lane = filled(3);
        assert_eq!([1, 2, 3].map(|_| take_id(&mut lane, at(0))), [Some(1), Some(2), Some(3)]);
        assert_eq!(take_id(&mut lane, at(0)), None);
    }

    #[test]
    fn a_dead_destination_is_probed_by_one_message_at_growing_intervals() {
        let mut lane = filled(100);
        let (_, change) = probe(&mut lane, at(0));
        assert_eq!(change, Some(Change::WentDown { next_probe: at(60) }));
        assert_eq!(take_id(&mut lane, at(59)), None, "nobody tries before the probe is due");
        let probing = lane.take(at(60)).expect("the probe");
        assert_eq!(take_id(&mut lane, at(60)), None, "one message probes");
        let change = lane.settle(probing.id(), Some(probing), Health::Unreached, Some(&reply()), at(60));
        assert_eq!(change, Some(Change::WentDown { next_probe: at(60 + 300) }));
        assert_eq!(lane.len(), 100, "nothing is lost on the way");
    }

    #[test]
    fn what_was_under_way_when_it_went_down_does_not_count_as_a_probe() {
        let mut lane = filled(3);
        let jobs: Vec<Job> = (0..3).filter_map(|_| lane.take(at(0))).collect();
        let changes: Vec<Option<Change>> = jobs
            .into_iter()
            .map(|job| lane.settle(job.id(), Some(job), Health::Unreached, Some(&reply()), at(0)))
            .collect();
        assert_eq!(changes, [Some(Change::WentDown { next_probe: at(60) }), None, None]);
    }

    #[test]
    fn a_destination_that_returns_gets_everything_at_once_in_order() {
        let mut lane = filled(5);
        probe(&mut lane, at(0));
        probe(&mut lane, at(60));
        lane.add(job(6, "late@contoso.com"));
        let first = lane.take(at(360)).expect("the probe is the oldest");
        assert_eq!(first.id().raw(), 1);
        let change =
            lane.settle(first.id(), None, Health::Works { took: Vec::new() }, Some(&reply()), at(360));
        assert_eq!(change, Some(Change::CameBack));
        let drained: Vec<u64> = std::iter::from_fn(|| take_id(&mut lane, at(360))).collect();
        assert_eq!(drained, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn one_full_mailbox_does_not_close_the_road() {
        let mut lane = lane();
        for number in 1..=10 {
            lane.add(job(number, "full@contoso.com"));
        }
        for _ in 0..10 {
            let job = lane.take(at(0)).expect("the road stays open");
            let (id, recipient) = (job.id(), job.envelope.recipients[0].address.clone());
            let change =
                lane.settle(id, Some(put_off(job, at(60), 60)), Health::PutOff { recipient }, None, at(0));
            assert_eq!(change, None);
        }
        lane.add(job(11, "anna@contoso.com"));
        assert_eq!(take_id(&mut lane, at(1)), Some(11));
        assert_eq!(take_id(&mut lane, at(59)), None);
        assert_eq!(take_id(&mut lane, at(60)), Some(1));
    }

    #[test]
    fn a_mailbox_that_takes_mail_again_takes_all_of_it() {
        let mut lane = lane();
        for number in 1..=3 {
            lane.add(job(number, "anna@contoso.com"));
        }
        for number in 0..3 {
            let job = lane.take(at(number)).expect("ready");
            let (id, recipient) = (job.id(), job.envelope.recipients[0].address.clone());
            let next = at(number + 60);
            lane.settle(
                id,
                Some(put_off(job, next, 60)),
                Health::PutOff { recipient },
                Some(&reply()),
                at(number),
            );
        }
        let first = lane.take(at(60)).expect("the first is due");
        let took = vec![first.envelope.recipients[0].address.clone()];
        lane.settle(first.id(), None, Health::Works { took }, Some(&reply()), at(60));
        assert_eq!([take_id(&mut lane, at(60)), take_id(&mut lane, at(60))], [Some(2), Some(3)]);
    }

    #[test]
    fn a_destination_that_puts_everybody_off_is_probed_with_another_message_each_time() {
        let mut lane = filled(4);
        for _ in 0..3 {
            let job = lane.take(at(0)).expect("open until three were put off");
            let (id, recipient) = (job.id(), job.envelope.recipients[0].address.clone());
            lane.settle(
                id,
                Some(put_off(job, at(60), 60)),
                Health::PutOff { recipient },
                Some(&reply()),
                at(0),
            );
        }
        assert!(lane.is_down());
        assert_eq!(take_id(&mut lane, at(1)), None);
        let probe = lane.take(at(60)).expect("a probe");
        assert_eq!(probe.id().raw(), 4, "the one that has not been put off yet");
        let recipient = probe.envelope.recipients[0].address.clone();
        lane.settle(
            probe.id(),
            Some(put_off(probe, at(120), 60)),
            Health::PutOff { recipient },
            Some(&reply()),
            at(60),
        );
        let probe = lane.take(at(360)).expect("the next probe");
        assert_eq!(probe.id().raw(), 1);
        let took = vec![probe.envelope.recipients[0].address.clone()];
        lane.settle(probe.id(), None, Health::Works { took }, Some(&reply()), at(360));
        let drained: Vec<u64> = std::iter::from_fn(|| take_id(&mut lane, at(360))).collect();
        assert_eq!(drained, [2, 3, 4]);
    }

    #[test]
    fn what_a_restart_found_unreached_leaves_with_the_first_success() {
        let mut lane = lane();
        for number in 1..=3 {
            let mut job = put_off(job(number, "anna@contoso.com"), at(600 + number), 600);
            job.unreached = number != 2;
            job.envelope = Arc::new(Envelope {
                recipients: vec![Recipient::new(
                    Address::parse(&format!("user{number}@contoso.com")).expect("an address"),
                )],
                ..(*job.envelope).clone()
            });
            lane.add_waiting(job);
        }
        lane.add(job(4, "ben@contoso.com"));
        assert_eq!(take_id(&mut lane, at(1)), Some(4));
        let change =
            lane.settle(MessageId::from_raw(4), None, Health::Works { took: Vec::new() }, None, at(1));
        assert_eq!(change, Some(Change::CameBack), "so that they go by one connection, in order");
        assert_eq!([take_id(&mut lane, at(1)), take_id(&mut lane, at(1))], [Some(1), Some(3)]);
        assert_eq!(take_id(&mut lane, at(1)), None, "what was put off by itself keeps its time");
    }

    #[test]
    fn old_messages_expire_even_when_the_destination_is_down() {
        let mut lane = filled(2);
        probe(&mut lane, at(0));
        let day = 24 * 60 * 60;
        assert!(lane.take_expired(at(day - 1)).is_empty());
        assert_eq!(lane.next_wake().expect("something waits"), at(60));
        assert_eq!(lane.take_expired(at(day)).len(), 2);
        assert!(lane.is_empty());
    }

    #[test]
    fn what_is_too_old_is_ended_and_not_tried_again() {
        let mut lane = lane();
        let day = 24 * 60 * 60;
        lane.add_waiting(put_off(job(1, "anna@contoso.com"), at(day + 1800), 3600));
        assert_eq!(take_id(&mut lane, at(day)), None, "no attempt");
        assert_eq!(lane.take_expired(at(day)).len(), 1);
    }

    #[test]
    fn what_is_held_is_neither_tried_nor_told_of_nor_ended() {
        let mut lane = filled(2);
        let mut first = lane.take_ready(MessageId::from_raw(1)).expect("ready");
        first.orders().held_since = Some(at(0));
        lane.hold(first);
        assert_eq!([take_id(&mut lane, at(0)), take_id(&mut lane, at(0))], [Some(2), None]);
        assert_eq!((lane.runnable(at(0)), lane.len(), lane.next_wake()), (0, 2, None));
        let week = 7 * 24 * 60 * 60;
        assert!(lane.take_late(at(week)).is_empty() && lane.take_expired(at(week)).is_empty());
        assert_eq!(lane.take_all().len(), 0, "a reload leaves it held");
    }

    #[test]
    fn time_on_hold_counts_for_nobody() {
        let day = 24 * 60 * 60;
        let mut lane = filled(3);
        let mut first = lane.take_ready(MessageId::from_raw(1)).expect("ready");
        first.orders().grace = Duration::from_secs(day);
        lane.add(first);
        assert_eq!(lane.next_wake(), Some(at(4 * 60 * 60)));
        assert!(lane.take_late(at(4 * 60 * 60 - 1)).is_empty());
        let told: Vec<u64> =
            lane.take_late(at(4 * 60 * 60)).iter().map(|late| late.envelope.id.raw()).collect();
        assert_eq!(told, [2, 3]);
        assert_eq!(lane.next_wake(), Some(at(day)), "nothing wakes anybody before its time");
        let ended: Vec<u64> = lane.take_expired(at(day)).iter().map(|job| job.id().raw()).collect();
        assert_eq!(ended, [2, 3], "the oldest does not stand before them");
        assert_eq!(lane.take_late(at(day + 4 * 60 * 60)).len(), 1);
        assert!(lane.take_expired(at(2 * day - 1)).is_empty());
        assert_eq!(lane.take_expired(at(2 * day)).len(), 1);
    }

    #[test]
    fn what_is_raised_goes_first_and_what_is_lowered_last() {
        let mut lane = filled(4);
        for (id, priority) in [(4, Priority::High), (1, Priority::Low)] {
            let mut job = lane.take_ready(MessageId::from_raw(id)).expect("ready");
            job.orders().priority = Some(priority);
            lane.add(job);
        }
        let order: Vec<u64> = std::iter::from_fn(|| take_id(&mut lane, at(0))).collect();
        assert_eq!(order, [4, 2, 3, 1]);
    }

    #[test]
    fn a_late_message_is_told_of_once() {
        let mut lane = filled(2);
        probe(&mut lane, at(0));
        let late = 4 * 60 * 60;
        assert!(lane.take_late(at(late - 1)).is_empty());
        assert!(lane.next_wake().is_some_and(|wake| wake <= at(late)));
        let told: Vec<u64> = lane.take_late(at(late)).iter().map(|late| late.envelope.id.raw()).collect();
        assert_eq!(told, [1, 2]);
        assert!(lane.take_late(at(late + 1)).is_empty());
    }

    #[test]
    fn a_late_message_that_was_with_a_worker_is_told_of_when_it_is_back() {
        let mut lane = filled(2);
        let first = lane.take(at(0)).expect("ready");
        let late = 4 * 60 * 60;
        assert_eq!(lane.take_late(at(late)).len(), 1);
        lane.settle(first.id(), Some(first), Health::Unreached, None, at(late));
        let told: Vec<u64> = lane.take_late(at(late)).iter().map(|late| late.envelope.id.raw()).collect();
        assert_eq!(told, [1]);
        assert!(lane.take_late(at(late + 1)).is_empty());
    }

    #[test]
    fn a_waiting_message_expires_before_its_next_attempt() {
        let mut lane = lane();
        let day = 24 * 60 * 60;
        lane.add_waiting(put_off(job(1, "anna@contoso.com"), at(day + 1800), 3600));
        assert_eq!(lane.take_late(at(day - 1)).len(), 1);
        assert_eq!(lane.next_wake(), Some(at(day)));
        assert_eq!(lane.take_expired(at(day)).len(), 1);
        assert_eq!(lane.next_wake(), None);
    }
}
