//! Attempt: one worker's way with one job: decide again, deliver, record, and tell the sender when it is over.
//!
//! A worker owns one connection to its next hop and takes one job after another. A panic during one
//! message's attempt is caught: the message is set aside, the rest is served.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::decision::Reason;
use crate::delivery::{Courier, Delivery, Parcel, Services};
use crate::mail::{
    Address, Envelope, Handed, Mailboxes, MessageId, NextHop, NextHopName, Outcome, RemoteReply, Status,
    Transport,
};
use crate::report::Event;
use crate::report::notice::{self, Action, Fate};
use crate::spool::{self, Content, End, NotStored, Notice, RecipientProgress};

use super::job::{Job, Said};
use super::lane::{Change, Health, Late};
use super::{Core, Road, progress_of_all, reason_reply, undecided, verb};

/// Rule 83.
const EXPIRED: (Status, &str) = (Status::EXPIRED, "550 5.4.300 Message expired");

/// By an operator: RFC 3463 knows no better word than that of an undefined failure.
const GIVEN_BACK: Status = Status::new(5, 0, 0);

/// What a worker holds, so that a panic is known by its message.
type Hand = Arc<Mutex<Option<(MessageId, NextHopName)>>>;

/// Runs one worker and cleans up behind it, however it ends.
pub(super) async fn supervise(core: Arc<Core>, road: Arc<Road>) {
    let hand: Hand = Arc::default();
    let worker = tokio::spawn(work(core.clone(), road.clone(), hand.clone()));
    let panicked = worker.await.is_err();
    let held = hand.lock().expect("nobody panics while writing two words").take();
    if let (true, Some((id, _))) = (panicked, held) {
        let why = "an attempt to deliver it panicked";
        core.spool.quarantine(id, why);
        core.note(&Event::Quarantined { id, why });
        road.lock().lane.settle(id, None, Health::Untried, None, core.clock.now());
    }
    if panicked {
        road.lock().workers -= 1;
    }
    core.workers.fetch_sub(1, Ordering::AcqRel);
    core.worker_ended.notify_waiters();
    // Jobs that came while this worker was leaving need another one.
    if road.lock().lane.runnable(core.clock.now()) > 0 {
        core.wake(&road);
    }
    road.changed.notify_one();
}

async fn work(core: Arc<Core>, road: Arc<Road>, hand: Hand) {
    let mut courier: Option<Employed> = None;
    while let Some(job) = next_job(&core, &road).await {
        let name = road.lock().lane.name.clone();
        *hand.lock().expect("nobody panics while writing two words") = Some((job.id(), name));
        carry(&core, &road, &mut courier, job).await;
        *hand.lock().expect("nobody panics while writing two words") = None;
    }
    if let Some(employed) = courier {
        employed.courier.quit().await;
    }
}

/// A courier with what it was made with and how much it has carried.
struct Employed {
    courier: Courier,
    services: Arc<Services>,
    messages: usize,
}

/// The next job of this lane; `None` when the worker has been idle for long enough, or everything stops.
async fn next_job(core: &Arc<Core>, road: &Arc<Road>) -> Option<Job> {
    let idle_patience = core.settings.load().idle_patience;
    let mut stopping = core.stopping.subscribe();
    loop {
        let work = road.work.notified();
        tokio::pin!(work);
        work.as_mut().enable();
        {
            let mut state = road.lock();
            let now = core.clock.now();
            let (runnable, stalled) = (state.lane.runnable(now), state.lane.stalled(now));
            let connections = core.connections(&mut state, runnable, stalled, now);
            if core.is_stopping() || state.workers > connections {
                state.workers -= 1;
                return None;
            }
            if let Some(job) = state.lane.take(now) {
                let more = core.takes_on(&mut state, now);
                drop(state);
                if more {
                    core.start_worker(road);
                }
                return Some(job);
            }
            state.idle += 1;
        }
        let patience_over = tokio::select! {
            () = &mut work => false,
            _ = stopping.wait_for(|stopping| *stopping) => false,
            () = tokio::time::sleep(idle_patience) => true,
        };
        let mut state = road.lock();
        state.idle -= 1;
        if patience_over {
            let job = if core.is_stopping() { None } else { state.lane.take(core.clock.now()) };
            if job.is_none() {
                state.workers -= 1;
            }
            return job;
        }
    }
}

/// What came of one job, recipient by recipient.
#[derive(Default)]
struct Result {
    delivered: Vec<(u32, RemoteReply, Handed)>,
    failed: Vec<(u32, RemoteReply)>,
    deferred: Vec<u32>,
    /// Why, of each of them.
    said: Said,
    /// The last word on any of them.
    reply: Option<RemoteReply>,
}

impl Result {
    fn defer(&mut self, recipients: &[u32], reply: RemoteReply) {
        for index in recipients {
            self.said.note(*index, &reply);
        }
        self.deferred.extend_from_slice(recipients);
        self.reply = Some(reply);
    }
}

async fn carry(core: &Arc<Core>, road: &Arc<Road>, courier: &mut Option<Employed>, mut job: Job) {
    let id = job.id();
    let mut result = Result::default();
    let mut content = job.content.take().map(|content| *content);
    let next_hop = decide_again(core, road, &mut job, &mut result).await;
    let health = match next_hop {
        Some((next_hop, mailboxes)) => match load(core, id, content.take()).await {
            Loaded::Content(loaded) => {
                let started = tokio::time::Instant::now();
                let health = deliver(core, courier, &next_hop, &job, &loaded, &mailboxes, &mut result).await;
                keep_pace(core, road, &health, started.elapsed());
                content = Some(loaded);
                health
            }
            Loaded::Later(reply) => {
                result.defer(&std::mem::take(&mut job.recipients), reply);
                Health::Untried
            }
            Loaded::Damaged => {
                road.lock().lane.settle(id, None, Health::Untried, None, core.clock.now());
                return;
            }
        },
        None => Health::Untried,
    };
    conclude(core, road, job, content, result, health).await;
}

/// What this attempt says about how many connections the destination takes well.
fn keep_pace(core: &Core, road: &Road, health: &Health, took: Duration) {
    let ceiling = core.settings.load().connections_per_next_hop;
    let mut state = road.lock();
    match health {
        Health::Works { .. } => state.pace.answered(took, ceiling),
        Health::Unreached => state.pace.turned_away(),
        // A mailbox that is full says nothing about the store's strength.
        Health::PutOff { .. } | Health::Untried => {}
    }
}

/// Rule 89: the way on is decided again before each attempt, never from the old answer. Leaves in `job`
/// the recipients that still belong to this lane, and returns the next hop and their mailboxes when there are any.
async fn decide_again(
    core: &Arc<Core>,
    road: &Arc<Road>,
    job: &mut Job,
    result: &mut Result,
) -> Option<(NextHop, Mailboxes)> {
    let now = core.clock.now();
    let here = road.lock().lane.name.clone();
    let mut next_hop = None;
    let mut mailboxes = Mailboxes::default();
    let mut leaving: Vec<(u32, std::result::Result<NextHop, RemoteReply>)> = Vec::new();
    let mut staying = Vec::with_capacity(job.recipients.len());
    for index in std::mem::take(&mut job.recipients) {
        match core.way(&job.envelope, index).await {
            Ok(place) if place.next_hop.name == here => {
                staying.push(index);
                mailboxes.note(&job.envelope.recipients[index as usize].address, place.mailbox);
                next_hop = Some(place.next_hop);
            }
            Ok(place) => leaving.push((index, Ok(place.next_hop))),
            Err(reason @ (Reason::RelayDenied | Reason::UnknownRecipient)) => {
                result.failed.push((index, reason_reply(&reason)));
            }
            Err(reason) => leaving.push((index, Err(reason_reply(&reason)))),
        }
    }
    for (index, to) in leaving {
        let mut part = job.part(vec![index]);
        part.content = None;
        part.next_attempt = now;
        part.unreached = false;
        let to = match to {
            Ok(to) => {
                let recipient = &part.envelope.recipients[index as usize].address;
                core.note(&Event::Rerouted { id: part.id(), recipient, from: &here, to: &to.name });
                to
            }
            Err(reply) => {
                put_off(core, &mut part, Said::of_all(Some(reply)), 1);
                note_deferred(core, &part, &NextHopName::Undecided);
                core.spool.record(part.id(), &progress_of_all(&part));
                undecided()
            }
        };
        core.put(to, part, now);
    }
    job.recipients = staying;
    next_hop.map(|next_hop| (next_hop, mailboxes))
}

enum Loaded {
    Content(Content),
    /// The disk did not answer; the message stays.
    Later(RemoteReply),
    /// Set aside and reported by the spool.
    Damaged,
}

async fn load(core: &Arc<Core>, id: MessageId, content: Option<Content>) -> Loaded {
    if let Some(content) = content {
        return Loaded::Content(content);
    }
    match core.spool.read(id).await {
        Ok(content) => Loaded::Content(content),
        Err(error @ (spool::Error::Damaged(_) | spool::Error::Unknown(_))) => {
            core.note(&Event::Quarantined { id, why: &error.to_string() });
            Loaded::Damaged
        }
        Err(error @ (spool::Error::InUse | spool::Error::Stopped | spool::Error::Io(_))) => {
            let text = format!("the message could not be read from the spool: {error}");
            Loaded::Later(RemoteReply::ours("", Status::new(4, 3, 0), text))
        }
    }
}

async fn deliver(
    core: &Arc<Core>,
    courier: &mut Option<Employed>,
    next_hop: &NextHop,
    job: &Job,
    content: &Content,
    mailboxes: &Mailboxes,
    result: &mut Result,
) -> Health {
    let by_mx = matches!(next_hop.name, NextHopName::Internet(_));
    if next_hop.endpoints.is_empty() && !by_mx {
        let reply = RemoteReply::ours("", Status::new(4, 4, 4), "no endpoint is configured");
        result.defer(&job.recipients, reply);
        // Nobody was asked: nothing is known of that destination, and there is nothing to warn of.
        return Health::Untried;
    }
    let limit = core.settings.load().messages_per_connection;
    let services = core.services.load_full();
    let is_old = |employed: &mut Employed| {
        employed.messages >= limit
            || !Arc::ptr_eq(&employed.services, &services)
            || employed.courier.hop() != next_hop
    };
    if let Some(old) = courier.take_if(is_old) {
        old.courier.quit().await;
    }
    let employed = courier.get_or_insert_with(|| Employed {
        courier: Courier::new(services.clone(), next_hop.clone()),
        services,
        messages: 0,
    });
    employed.messages += 1;
    let courier = &mut employed.courier;
    let mut recipients = job.recipients.clone();
    // Rule 88: what the next hop had no room for goes in a new transaction at once. Each round takes at
    // least one recipient, so this ends.
    while !recipients.is_empty() {
        let parcel = Parcel { envelope: &job.envelope, recipients: &recipients, content, mailboxes };
        let outcomes = match courier.deliver(parcel).await {
            Delivery::Reached(outcomes) => outcomes,
            Delivery::Unreached(reply) => {
                let health = if result.delivered.is_empty() && result.failed.is_empty() {
                    Health::Unreached
                } else {
                    Health::Works { took: Vec::new() }
                };
                result.defer(&recipients, reply);
                return health;
            }
        };
        let mut again = Vec::new();
        for (index, outcome) in recipients.iter().copied().zip(outcomes) {
            match outcome {
                Outcome::Delivered(reply, handed) => result.delivered.push((index, reply, handed)),
                Outcome::Failed(reply) => result.failed.push((index, reply)),
                Outcome::Deferred(reply) => result.defer(&[index], reply),
                Outcome::Postponed(_) => again.push(index),
            }
        }
        recipients = again;
    }
    let address = |index: u32| job.envelope.recipients[index as usize].address.clone();
    match result.deferred.first() {
        Some(first) if result.delivered.is_empty() && result.failed.is_empty() => {
            Health::PutOff { recipient: address(*first) }
        }
        Some(_) | None => {
            Health::Works { took: result.delivered.iter().map(|(index, ..)| address(*index)).collect() }
        }
    }
}

/// Writes down what came of it, tells the sender, and gives the lane back what is left.
async fn conclude(
    core: &Arc<Core>,
    road: &Arc<Road>,
    mut job: Job,
    content: Option<Content>,
    mut result: Result,
    health: Health,
) {
    let now = core.clock.now();
    let id = job.id();
    let (name, waiting) = {
        let state = road.lock();
        (state.lane.name.clone(), state.lane.len())
    };
    let attempts = job.attempts + 1;
    let mut changes: Vec<(u32, RecipientProgress)> = Vec::new();
    let mut news: Vec<News> = Vec::new();
    for (index, reply, handed) in result.delivered.drain(..) {
        let recipient = &job.envelope.recipients[index as usize];
        let delay = now.since(job.envelope.received_at);
        let address = &recipient.address;
        core.note(&Event::Delivered {
            id,
            recipient: address,
            next_hop: &name,
            reply: &reply,
            attempts,
            delay,
        });
        changes.push((index, ended(End::Delivered, attempts, now, &reply)));
        // Hardly anybody asks for it.
        if let Some(action) = Action::of_success(handed).filter(|action| action.is_wanted_by(recipient)) {
            news.push(News { index, action, verdict: None, reply, attempted_at: Some(now) });
        }
    }
    for (index, reply) in result.failed.drain(..) {
        let recipient = &job.envelope.recipients[index as usize].address;
        core.note(&Event::Failed { id, recipient, next_hop: &name, reply: &reply, attempts });
        changes.push((index, ended(End::Failed, attempts, now, &reply)));
        let attempted_at = Some(now);
        news.push(News { index, action: Action::Failed, verdict: None, reply, attempted_at });
    }
    job.recipients = std::mem::take(&mut result.deferred);
    if !job.recipients.is_empty() {
        put_off(core, &mut job, std::mem::take(&mut result.said), waiting);
        job.unreached = health == Health::Unreached;
        note_deferred(core, &job, &name);
        changes.extend(progress_of_all(&job));
    }
    if !changes.is_empty() {
        end(core, &job.envelope, news, changes, content).await;
    }
    // What the operator ordered meanwhile.
    let ordered = road.lock().lane.ordered(id).and_then(|(verb, recipients)| {
        let part = job.split(|index| recipients.contains(&index))?;
        Some((verb, part))
    });
    let left = (!job.recipients.is_empty()).then_some(job);
    settle(core, road, id, left, health, result.reply.as_ref());
    if let Some((verb, part)) = ordered {
        verb::follow(core, road, verb, part).await;
        road.changed.notify_one();
    }
}

fn settle(
    core: &Arc<Core>,
    road: &Arc<Road>,
    id: MessageId,
    left: Option<Job>,
    health: Health,
    reply: Option<&RemoteReply>,
) {
    let now = core.clock.now();
    let change = {
        let mut state = road.lock();
        let change = state.lane.settle(id, left, health, reply, now);
        match change {
            Some(Change::WentDown { .. }) => state.lane.forget_contents(),
            Some(Change::CameBack) => state.pace.returned(now),
            None => {}
        }
        change.map(|change| (change, state.lane.name.clone(), state.lane.len(), state.lane.last().cloned()))
    };
    match change {
        Some((Change::WentDown { next_probe }, next_hop, waiting, Some(reply))) => {
            core.note(&Event::DestinationDown { next_hop: &next_hop, reply: &reply, next_probe, waiting });
        }
        Some((Change::CameBack, next_hop, waiting, _)) => {
            core.note(&Event::DestinationUp { next_hop: &next_hop, waiting });
            core.wake(road);
        }
        Some((Change::WentDown { .. }, _, _, None)) | None => {}
    }
    // A retry may now be due earlier than the keeper thinks.
    road.changed.notify_one();
}

/// One more attempt without a final answer: the next one is due after a longer wait (rule 82).
fn put_off(core: &Core, job: &mut Job, said: Said, waiting: usize) {
    let settings = core.settings.load();
    job.attempts += 1;
    job.interval = settings.backoff.interval(job.attempts, job.interval, waiting, job.priority());
    job.next_attempt = core.clock.now().plus(job.interval);
    job.said = said;
}

fn note_deferred(core: &Core, job: &Job, next_hop: &NextHopName) {
    for index in &job.recipients {
        let reply = job.said.of(*index).expect("it was put off for a reason");
        let recipient = &job.envelope.recipients[*index as usize].address;
        let (attempts, next_attempt) = (job.attempts, job.next_attempt);
        core.note(&Event::Deferred { id: job.id(), recipient, next_hop, reply, attempts, next_attempt });
    }
}

fn ended(end: End, attempts: u32, now: Timestamp, reply: &RemoteReply) -> RecipientProgress {
    RecipientProgress {
        end: Some(end),
        attempts,
        next_attempt: now,
        last: Some(reply.clone()),
        ..RecipientProgress::default()
    }
}

/// Rule 83: the message is too old. `last`: what was last said there of any, when nothing was said of it.
pub(super) async fn expire(core: &Arc<Core>, name: &NextHopName, job: Job, last: &RemoteReply) {
    let now = core.clock.now();
    let mut changes = Vec::new();
    let mut news = Vec::new();
    for index in &job.recipients {
        let recipient = &job.envelope.recipients[*index as usize].address;
        let last = job.said.of(*index).unwrap_or(last);
        core.note(&Event::Expired {
            id: job.id(),
            recipient,
            next_hop: name,
            reply: last,
            attempts: job.attempts,
        });
        changes.push((*index, ended(End::Expired, job.attempts, now, last)));
        news.push(News {
            index: *index,
            action: Action::Failed,
            verdict: Some((EXPIRED.0, EXPIRED.1.into())),
            reply: last.clone(),
            attempted_at: job.attempted_at(),
        });
    }
    end(core, &job.envelope, news, changes, None).await;
}

/// The operator's word that it is over: the senders are told at once, with the reason and the last reply.
pub(super) async fn give_back(core: &Arc<Core>, name: &NextHopName, job: Job, reason: &str) {
    let now = core.clock.now();
    let nobody = || RemoteReply::ours("", GIVEN_BACK, "no attempt was made");
    let mut changes = Vec::new();
    let mut news = Vec::new();
    for index in &job.recipients {
        let recipient = &job.envelope.recipients[*index as usize].address;
        let last = job.said.of(*index).cloned().unwrap_or_else(nobody);
        let reply = RemoteReply::ours("", GIVEN_BACK, format!("returned by the operator: {reason}"));
        core.note(&Event::Failed {
            id: job.id(),
            recipient,
            next_hop: name,
            reply: &reply,
            attempts: job.attempts,
        });
        changes.push((*index, ended(End::Failed, job.attempts, now, &reply)));
        news.push(News {
            index: *index,
            action: Action::Failed,
            verdict: Some((GIVEN_BACK, reason.to_owned().into())),
            reply: last,
            attempted_at: job.attempted_at(),
        });
    }
    end(core, &job.envelope, news, changes, job.content.map(|content| *content)).await;
}

/// Rule 87: the sender learns that a message is late, once, if it wants to; attempts go on.
pub(super) async fn tell_late(core: &Arc<Core>, late: Late, last: &RemoteReply) {
    let until = core.settings.load().backoff.expires_at(late.ages_from);
    let tell = |(index, _): &(u32, RecipientProgress)| News {
        index: *index,
        action: Action::Delayed { until },
        verdict: None,
        reply: late.said.of(*index).unwrap_or(last).clone(),
        attempted_at: late.attempted_at,
    };
    let news = late.progress.iter().map(tell).collect();
    end(core, &late.envelope, news, late.progress, None).await;
}

/// What became of one recipient, for the sender to know.
struct News {
    index: u32,
    action: Action,
    /// In place of what the next hop said.
    verdict: Option<(Status, Cow<'static, str>)>,
    reply: RemoteReply,
    attempted_at: Option<Timestamp>,
}

/// Records what came of it; with the notice it causes, if one is owed, in one atomic record.
async fn end(
    core: &Arc<Core>,
    envelope: &Arc<Envelope>,
    news: Vec<News>,
    changes: Vec<(u32, RecipientProgress)>,
    content: Option<Content>,
) {
    let id = envelope.id;
    let owed = match envelope.transport {
        Transport::Notice => narrowed(core, envelope, &news, content).await,
        Transport::Incoming | Transport::Originating | Transport::PeerEdge => {
            owed(core, envelope, &news, content).await
        }
    };
    let Some((to, notice)) = owed else {
        core.spool.record(id, &changes);
        return;
    };
    let notice_id = notice.envelope.id;
    // The pause between tries of a spool that has no room: the outcome must not be lost (spec, section 6).
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        match core.spool.record_with_notice(id, changes.clone(), notice.clone()).await {
            Ok(accepted) => {
                core.note(&Event::Notified { id, notice: notice_id, to });
                Box::pin(core.arrive(accepted)).await;
                return;
            }
            Err(NotStored::Full | NotStored::Expired) if !core.is_stopping() => {
                tokio::time::sleep(PAUSE).await
            }
            // Nothing is recorded: after a restart the message is tried, or expires, once more.
            Err(NotStored::Full | NotStored::Expired | NotStored::Failed) => return,
        }
    }
}

/// The notice that is owed for this, if one is, and to whom (rule 85, RFC 3461 §4.1): one for all recipients.
async fn owed<'a>(
    core: &Arc<Core>,
    envelope: &'a Arc<Envelope>,
    news: &[News],
    content: Option<Content>,
) -> Option<(&'a Address, Notice)> {
    if news.is_empty() {
        return None;
    }
    let recipient = |news: &News| &envelope.recipients[news.index as usize];
    let fates: Vec<Fate<'_>> = news
        .iter()
        .filter(|news| news.action.is_wanted_by(recipient(news)))
        .map(|news| Fate {
            recipient: recipient(news),
            action: news.action,
            verdict: news.verdict.clone(),
            reply: &news.reply,
            attempted_at: news.attempted_at,
        })
        .collect();
    let to = match notice::addressee(envelope) {
        Ok(_) if fates.is_empty() => Err("the sender wants no such notices"),
        to => to,
    };
    let to = match to {
        Ok(to) => to,
        Err(why) => {
            core.note(&Event::NotNotified { id: envelope.id, why });
            return None;
        }
    };
    let original = match load(core, envelope.id, content).await {
        Loaded::Content(content) => notice::beginning(envelope, &content).await,
        // The sender is told all the same, without the header.
        Loaded::Later(_) | Loaded::Damaged => None,
    };
    let rules = core.inquiry.rules();
    let (id, now) = (core.spool.mint(), core.clock.now());
    let reporting = notice::Reporting { hostname: &rules.hostname, id, now };
    Some((to, notice::write(reporting, to, envelope, &fates, original.as_deref())))
}

/// A notice causes no notice, but one that the next hop cannot take for its form goes once more in a form
/// that every hop takes (RFC 6533 §3).
async fn narrowed<'a>(
    core: &Arc<Core>,
    envelope: &'a Arc<Envelope>,
    news: &[News],
    content: Option<Content>,
) -> Option<(&'a Address, Notice)> {
    let failed = news.iter().find(|news| news.action == Action::Failed)?;
    if failed.reply.is_about_form()
        && let Loaded::Content(content) = load(core, envelope.id, content).await
        && let Some(content) = notice::whole(&content).await
    {
        let rules = core.inquiry.rules();
        let (id, now) = (core.spool.mint(), core.clock.now());
        let reporting = notice::Reporting { hostname: &rules.hostname, id, now };
        let to = &envelope.recipients[failed.index as usize].address;
        if let Some(notice) = notice::narrow(reporting, to, &content) {
            return Some((to, notice));
        }
    }
    core.note(&Event::NotNotified { id: envelope.id, why: "the sender is null" });
    None
}
