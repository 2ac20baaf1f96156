//! Queue: mail goes on. Wake, pick, decide the way again, attempt, record.
//!
//! Owns the lanes and their workers. What waits is in the spool; this room holds who is next. Messages
//! arrive on a channel from `listener`, and from the spool after a restart; `delivery` makes the attempts.

mod attempt;
mod backoff;
mod holds;
mod job;
mod lane;
mod pace;
mod ready;
mod verb;
mod view;

pub use backoff::{Backoff, FIRST_INTERVAL_LIMIT, INTERVAL_LIMIT};
pub use holds::{Filters, Hold, Holds};
pub use verb::{Changed, Matched, Mode, Verb};
pub use view::{Header, LaneView, MessageDetail, MessageView, RecipientView};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use crate::clock::{Clock, Timestamp};
use crate::decision::{Place, Reason};
use crate::delivery;
use crate::inquiry::Inquiry;
use crate::mail::{Envelope, Filter, MessageId, NextHop, NextHopName, RemoteReply, Status, TlsLevel};
use crate::report::{Event, Reporter, notice};
use crate::spool::{Accepted, RecipientProgress, RecoveredMessage, Spool};

use job::{Job, Orders, Said};
use lane::{Lane, Late};
use pace::Pace;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub backoff: Backoff,
    /// Connections to one next hop at a time.
    pub connections_per_next_hop: usize,
    /// A connection is closed after so many messages and a new one made, so that a next hop behind a load
    /// balancer is not stuck with one machine.
    pub messages_per_connection: usize,
    /// How long a worker keeps an idle connection open for the next message.
    pub idle_patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            connections_per_next_hop: 20,
            messages_per_connection: 1000,
            idle_patience: Duration::from_secs(5),
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Queue(Arc<Core>);

struct Core {
    spool: Spool,
    inquiry: Arc<Inquiry>,
    services: ArcSwap<delivery::Services>,
    settings: ArcSwap<Settings>,
    reporter: Reporter,
    clock: Clock,
    holds: Arc<Holds>,
    lanes: Mutex<HashMap<NextHopName, Arc<Road>>>,
    /// Workers and keepers stop when it turns true; attempts under way end first.
    stopping: watch::Sender<bool>,
    /// Nobody begins while the spool's messages are still being put into their lanes.
    recovering: AtomicBool,
    /// Workers alive, for a drain to wait on.
    workers: AtomicU64,
    worker_ended: Notify,
}

/// A lane with those who work on it.
struct Road {
    state: Mutex<RoadState>,
    /// A worker should look again.
    work: Notify,
    /// The keeper should look at the clock again.
    changed: Notify,
}

struct RoadState {
    lane: Lane,
    pace: Pace,
    next_hop: NextHop,
    workers: usize,
    idle: usize,
    /// The keeper has gone: a new road must be made.
    closed: bool,
}

impl Road {
    fn is_undecided(&self) -> bool {
        self.lock().lane.name == NextHopName::Undecided
    }

    fn lock(&self) -> MutexGuard<'_, RoadState> {
        self.state.lock().expect("no code panics while it holds a lane")
    }
}

impl Queue {
    pub fn new(
        settings: Settings,
        spool: Spool,
        inquiry: Arc<Inquiry>,
        services: Arc<delivery::Services>,
        reporter: Reporter,
        clock: Clock,
        holds: Arc<Holds>,
    ) -> Self {
        Self(Arc::new(Core {
            spool,
            inquiry,
            services: ArcSwap::new(services),
            settings: ArcSwap::from_pointee(settings),
            reporter,
            clock,
            holds,
            lanes: Mutex::new(HashMap::new()),
            stopping: watch::Sender::new(false),
            recovering: AtomicBool::new(false),
            workers: AtomicU64::new(0),
            worker_ended: Notify::new(),
        }))
    }

    /// Takes what has just been accepted from the channel until it closes.
    pub async fn take_in(self, mut arrivals: mpsc::Receiver<Accepted>) {
        let mut batch = Vec::new();
        while arrivals.recv_many(&mut batch, 256).await > 0 {
            for accepted in batch.drain(..) {
                self.0.arrive(accepted).await;
            }
        }
    }

    /// Takes what the spool held when the daemon started; it leaves in the order received (rule 84), and so
    /// neither leaves nor expires before all of it is there.
    pub async fn recover(&self, messages: Vec<RecoveredMessage>) {
        self.0.recovering.store(true, Ordering::Release);
        for message in messages {
            if message.quarantined {
                continue;
            }
            let now = self.0.clock.now();
            for (index, progress) in (0_u32..).zip(&message.progress) {
                if progress.end.is_some() {
                    continue;
                }
                let job = Job {
                    envelope: message.envelope.clone(),
                    recipients: vec![index],
                    content: None,
                    bytes: message.bytes,
                    attempts: progress.attempts,
                    interval: Duration::from_secs(progress.interval_s),
                    next_attempt: progress.next_attempt,
                    unreached: progress.unreached,
                    said: Said::of_all(progress.last.clone()),
                    delay_notified: progress.delay_notified,
                    orders: orders_of(progress),
                };
                self.0.enqueue(job, now).await;
            }
        }
        let (now, roads) = (self.0.clock.now(), self.0.roads());
        // Before anything may leave: a keeper that is awake would not send the oldest first.
        for road in &roads {
            let mut state = road.lock();
            state.lane.begin();
            state.pace.returned(now);
        }
        self.0.recovering.store(false, Ordering::Release);
        for road in &roads {
            self.0.wake(road);
        }
    }

    /// New settings and routes are in force: what waits for a way on is decided again.
    pub async fn reconsider(&self, settings: Settings, services: Arc<delivery::Services>) {
        self.0.settings.store(Arc::new(settings.clone()));
        self.0.services.store(services);
        let roads: Vec<Arc<Road>> = self.0.roads();
        let now = self.0.clock.now();
        for road in roads {
            let jobs = {
                let mut state = road.lock();
                state.lane.set_backoff(settings.backoff.clone());
                if state.lane.is_down() || state.lane.name == NextHopName::Undecided {
                    state.lane.take_all()
                } else {
                    Vec::new()
                }
            };
            for mut job in jobs {
                // The new configuration may be the cure: what did not get through tries again at once.
                if job.unreached || road.is_undecided() {
                    job.next_attempt = now;
                }
                self.0.enqueue(job, now).await;
            }
        }
    }

    /// Stops picking up work; attempts under way end by themselves or are cut when `within` is over.
    pub async fn stop(&self, within: Duration) {
        self.0.stopping.send_replace(true);
        for road in self.0.roads() {
            road.work.notify_waiters();
            road.changed.notify_waiters();
        }
        let ended = async {
            loop {
                let ended = self.0.worker_ended.notified();
                if self.0.workers.load(Ordering::Acquire) == 0 {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(within, ended).await;
    }

    pub fn lanes(&self) -> Vec<LaneView> {
        let mut views: Vec<LaneView> = self
            .0
            .roads()
            .iter()
            .map(|road| LaneView::of(&road.lock().lane))
            .filter(|view| view.messages > 0)
            .collect();
        views.sort_by(|a, b| a.destination.cmp(&b.destination));
        views
    }

    /// What the filter picks, in the order received; at most `limit` rows.
    pub fn messages(&self, filter: &Filter, limit: usize) -> Vec<MessageView> {
        let now = self.0.clock.now();
        let mut rows = Vec::new();
        for road in self.0.roads() {
            let state = road.lock();
            if filter.concerns(&state.lane.name.to_string()) {
                rows.extend(MessageView::all(&state.lane, filter, now, limit));
            }
        }
        rows.sort_by_key(|row: &MessageView| row.id);
        rows.truncate(limit);
        rows
    }

    /// All that is known of one message, while anything of it waits. With its header when asked for.
    pub async fn message(&self, id: MessageId, header: view::Header) -> Option<MessageDetail> {
        let backoff = self.0.settings.load().backoff.clone();
        let mut detail: Option<MessageDetail> = None;
        for road in self.0.roads() {
            MessageDetail::add(&mut detail, &road.lock().lane, id, &backoff);
        }
        let mut detail = detail?;
        if header == view::Header::Wanted
            && let Ok(content) = self.0.spool.read(id).await
            && let Some(bytes) = notice::header(&content).await
        {
            detail.header = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        Some(detail)
    }

    pub fn holds(&self) -> &Holds {
        &self.0.holds
    }

    /// Jobs that wait or are under way.
    pub fn len(&self) -> usize {
        self.0.roads().iter().map(|road| road.lock().lane.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Core {
    fn roads(&self) -> Vec<Arc<Road>> {
        self.lanes.lock().expect("no code panics while it holds the lanes").values().cloned().collect()
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// One message, one job per next hop.
    async fn arrive(self: &Arc<Self>, accepted: Accepted) {
        let now = self.clock.now();
        let bytes = accepted.content.len();
        let all = u32::try_from(accepted.envelope.recipients.len())
            .expect("recipients_per_message is far below u32");
        let job = Job {
            envelope: accepted.envelope,
            recipients: (0..all).collect(),
            content: Some(Box::new(accepted.content)),
            bytes,
            attempts: 0,
            interval: Duration::ZERO,
            next_attempt: now,
            unreached: false,
            said: Said::default(),
            delay_notified: false,
            orders: None,
        };
        self.enqueue(job, now).await;
    }

    /// Decides each recipient's way on and puts the job, or its parts, into their lanes.
    async fn enqueue(self: &Arc<Self>, mut job: Job, now: Timestamp) {
        let mut ways: Vec<(NextHop, Vec<u32>)> = Vec::new();
        for index in std::mem::take(&mut job.recipients) {
            let next_hop = match self.way(&job.envelope, index).await {
                Ok(place) => place.next_hop,
                Err(_) => undecided(),
            };
            match ways.iter_mut().find(|(hop, _)| hop.name == next_hop.name) {
                Some((_, indices)) => indices.push(index),
                None => ways.push((next_hop, vec![index])),
            }
        }
        // A content shared by several lanes is read back by all but the first.
        let mut content = job.content.take();
        for (next_hop, recipients) in ways {
            let mut part = job.part(recipients);
            part.content = content.take();
            if next_hop.name == NextHopName::Undecided && part.next_attempt <= now {
                part.next_attempt =
                    now.plus(self.settings.load().backoff.interval(1, Duration::ZERO, 1, part.priority()));
            }
            self.put(next_hop, part, now);
        }
    }

    async fn way(&self, envelope: &Envelope, index: u32) -> Result<Place, Reason> {
        self.inquiry.place(envelope, &envelope.recipients[index as usize].address).await
    }

    /// Into its lane: ready, or waiting when its next attempt lies ahead.
    fn put(self: &Arc<Self>, next_hop: NextHop, mut job: Job, now: Timestamp) {
        let held = self.kept_back(&next_hop.name, &mut job, now);
        let road = loop {
            let road = self.road(&next_hop);
            let mut state = road.lock();
            if state.closed {
                drop(state);
                continue;
            }
            state.next_hop = next_hop;
            // What waits is read back from the spool when memory is wanted elsewhere, or the road is closed.
            if state.lane.is_down() || !self.spool.has_memory_for_waiting() {
                job.content = None;
            }
            if let Some(held) = held {
                state.lane.hold(held);
            }
            if job.recipients.is_empty() {
                // All of it is held.
            } else if job.next_attempt > now {
                state.lane.add_waiting(job);
            } else {
                state.lane.add(job);
            }
            drop(state);
            break road;
        };
        self.wake(&road);
    }

    /// What is held already, or is to be held by a filter of the operator's.
    fn kept_back(&self, destination: &NextHopName, job: &mut Job, now: Timestamp) -> Option<Job> {
        if job.is_held() {
            return job.split(|_| true);
        }
        if self.holds.is_empty() {
            return None;
        }
        let mut held = self.holds.split(&destination.to_string(), job, now)?;
        held.content = None;
        held.orders().held_since = Some(now);
        self.spool.record(held.id(), &progress_of_all(&held));
        verb::tell(self, &held, &Verb::Hold);
        Some(held)
    }

    fn road(self: &Arc<Self>, next_hop: &NextHop) -> Arc<Road> {
        let mut lanes = self.lanes.lock().expect("no code panics while it holds the lanes");
        if let Some(road) = lanes.get(&next_hop.name) {
            return road.clone();
        }
        let road = Arc::new(Road {
            state: Mutex::new(RoadState {
                lane: Lane::new(next_hop.name.clone(), self.settings.load().backoff.clone()),
                pace: Pace::default(),
                next_hop: next_hop.clone(),
                workers: 0,
                idle: 0,
                closed: false,
            }),
            work: Notify::new(),
            changed: Notify::new(),
        });
        lanes.insert(next_hop.name.clone(), road.clone());
        tokio::spawn(self.clone().keep(road.clone()));
        road
    }

    /// Whether a worker more is worth its connection: none is idle, and jobs pile up behind those that
    /// work, or wait for one that has come to a standstill. Counts the new one at once.
    fn takes_on(&self, state: &mut RoadState, now: Timestamp) -> bool {
        let may = !self.is_stopping() && !self.recovering.load(Ordering::Acquire);
        let runnable = state.lane.runnable(now);
        if !may || state.idle > 0 || runnable == 0 {
            return false;
        }
        let stalled = state.lane.stalled(now);
        let limit = self.connections(state, runnable, stalled, now);
        let start = state.workers < (stalled + runnable.div_ceil(4)).min(limit);
        state.workers += usize::from(start);
        start
    }

    /// How many workers the lane may have.
    fn connections(&self, state: &mut RoadState, runnable: usize, stalled: usize, now: Timestamp) -> usize {
        let ceiling = self.settings.load().connections_per_next_hop;
        state.pace.connections(ceiling, runnable, stalled, now)
    }

    fn start_worker(self: &Arc<Self>, road: &Arc<Road>) {
        self.workers.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(attempt::supervise(self.clone(), road.clone()));
    }

    /// Lets an idle worker look, or starts one when all are busy and another is allowed.
    fn wake(self: &Arc<Self>, road: &Arc<Road>) {
        self.wake_worker(road);
        road.changed.notify_one();
    }

    /// The same, for the keeper, who need not wake itself.
    fn wake_worker(self: &Arc<Self>, road: &Arc<Road>) {
        let start = self.takes_on(&mut road.lock(), self.clock.now());
        if start {
            self.start_worker(road);
        } else {
            road.work.notify_one();
        }
    }

    /// Watches the clock for one lane: probes, due retries and expiry. Ends with an empty lane.
    async fn keep(self: Arc<Self>, road: Arc<Road>) {
        /// A step of the wall clock is noticed within this time.
        const LONGEST_SLEEP: Duration = Duration::from_secs(60);
        /// While some could go: whoever has them in his hands may have come to a standstill.
        const STANDSTILL_SLEEP: Duration = Duration::from_secs(1);
        let mut stopping = self.stopping.subscribe();
        loop {
            // A message's recipients come one by one; its sender is told of all of them at once.
            if self.recovering.load(Ordering::Acquire) {
                tokio::select! {
                    () = road.changed.notified() => continue,
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                }
            }
            let now = self.clock.now();
            let (expired, late, last, wake, name) = {
                let mut state = road.lock();
                let expired: Vec<Job> = state.lane.take_expired(now);
                let late: Vec<Late> = state.lane.take_late(now);
                (expired, late, state.lane.last_word(), state.lane.next_wake(), state.lane.name.clone())
            };
            for late in late {
                attempt::tell_late(&self, late, &last).await;
            }
            for job in expired {
                attempt::expire(&self, &name, job, &last).await;
            }
            let mut longest = LONGEST_SLEEP;
            if road.lock().lane.runnable(now) > 0 {
                self.wake_worker(&road);
                longest = STANDSTILL_SLEEP;
            }
            let pause = wake.map_or(longest, |at| at.since(now).min(longest));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = road.changed.notified() => continue,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            if self.close_if_empty(&road) {
                return;
            }
        }
    }

    fn close_if_empty(&self, road: &Arc<Road>) -> bool {
        let mut lanes = self.lanes.lock().expect("no code panics while it holds the lanes");
        let mut state = road.lock();
        let empty = state.lane.is_empty() && state.workers == 0;
        if empty {
            state.closed = true;
            lanes.remove(&state.lane.name);
        }
        empty
    }

    fn note(&self, event: &Event<'_>) {
        self.reporter.note(event);
    }
}

fn undecided() -> NextHop {
    NextHop { name: NextHopName::Undecided, endpoints: Arc::new([]), tls: TlsLevel::Verify, ca: None }
}

/// What a recipient is told while, or because, no way on can be decided.
fn reason_reply(reason: &Reason) -> RemoteReply {
    let (status, text) = match reason {
        Reason::DomainLookupFailed => (Status::new(4, 4, 3), "the lookup of the recipient's domain failed"),
        Reason::RecipientLookupFailed => (Status::new(4, 3, 2), "the lookup of the recipient failed"),
        Reason::NoRoute => (Status::new(4, 4, 3), "no route to the recipient's home region is configured"),
        Reason::RelayDenied => (Status::new(5, 7, 64), "the recipient's domain is no longer hosted here"),
        Reason::UnknownRecipient => (Status::new(5, 1, 1), "the recipient no longer exists"),
        Reason::SendingDisabled => (Status::new(5, 4, 1), "the recipient's domain takes no mail"),
        Reason::PartnerRestricted
        | Reason::DirectSendForbidden
        | Reason::TlsNeeded
        | Reason::Ipv6NotAccepted(_)
        | Reason::Ipv6WithoutPtr
        | Reason::Ipv6Unauthenticated
        | Reason::DmarcRejected(_)
        | Reason::HeaderUnreadable
        | Reason::NoSubscription
        | Reason::WrongRegion
        | Reason::MixedRegions
        | Reason::ComesAlone
        | Reason::Overloaded
        | Reason::InsufficientResources
        | Reason::Limited(_)
        | Reason::BlockListed { .. }
        | Reason::BlockListedForNow { .. } => (Status::new(4, 4, 3), "no way on could be decided"),
    };
    RemoteReply::ours("", status, text)
}

/// What the spool keeps of a job that waits.
fn progress_of_all(job: &Job) -> Vec<(u32, RecipientProgress)> {
    job.recipients.iter().map(|index| (*index, progress_of(job, *index))).collect()
}

fn progress_of(job: &Job, recipient: u32) -> RecipientProgress {
    RecipientProgress {
        end: None,
        attempts: job.attempts,
        interval_s: job.interval.as_secs(),
        next_attempt: job.next_attempt,
        unreached: job.unreached,
        last: job.said.of(recipient).cloned(),
        delay_notified: job.delay_notified,
        held_since: job.orders.as_ref().and_then(|orders| orders.held_since),
        grace_s: job.orders.as_ref().map_or(0, |orders| orders.grace.as_secs()),
        priority: job.orders.as_ref().and_then(|orders| orders.priority),
    }
}

fn orders_of(progress: &RecipientProgress) -> Option<Box<Orders>> {
    let orders = Orders {
        held_since: progress.held_since,
        grace: Duration::from_secs(progress.grace_s),
        priority: progress.priority,
    };
    (orders != Orders::default()).then(|| Box::new(orders))
}
