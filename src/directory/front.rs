//! Front: what stands before a remote directory: a bounded cache, one question per address at a time,
//! stale answers while the source fails, and the counts of all this.
//!
//! Whoever is cached waits for nobody. `lines` carries the questions, `follow` says what changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::source::Answer;
use crate::mail::{Address, Lookup, User};

/// Questions that wait for a line; more are answered as overload (rule 18).
const WAITING_LIMIT: usize = 8_192;
/// Who has an old answer does not wait longer than this for a new one.
const RENEWAL_GRACE: Duration = Duration::from_millis(50);
/// After so long without a word from the source, what it did not know yet may exist by now.
const CURRENT_FOR: Duration = Duration::from_secs(10);
/// A source that is well is heard more often than this.
const SILENCE_FLOOR: Duration = Duration::from_secs(3);

/// How long answers count, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Answers that are kept.
    pub cache: usize,
    pub cache_for: Duration,
    pub cache_absent_for: Duration,
    /// While the source fails: how old what was known may become.
    pub stale_for: Duration,
    /// One question to the source.
    pub deadline: Duration,
}

pub(super) struct Front {
    terms: Terms,
    cache: moka::sync::Cache<Box<str>, Arc<Kept>>,
    flights: DashMap<Box<str>, Arc<Flight>>,
    waiting: mpsc::Sender<Request>,
    start: Instant,
    /// When the source was last heard, in milliseconds since `start`; before it when a snapshot says so.
    confirmed: AtomicI64,
    /// Whether it is heard now, as far as anybody knows.
    heard: AtomicBool,
    /// Answers that depend on a tenant's settings count only for the outline they were given under.
    outline: AtomicU64,
    pub(super) counts: Counts,
}

const NEVER: i64 = i64::MIN;

/// An answer, and since when it is known.
#[derive(Debug)]
struct Kept {
    answer: Answer,
    at: i64,
    outline: u64,
}

/// One question under way, however many wait for it.
struct Flight {
    outcome: watch::Sender<Option<Result<Answer, ()>>>,
    /// What it asks for changed meanwhile: its answer may be the old one and is not kept.
    tainted: AtomicBool,
    /// The outline it was asked under.
    outline: u64,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) overloads: AtomicU64,
    pub(super) lookups: AtomicU64,
    pub(super) lookup_micros: AtomicU64,
    pub(super) questions: AtomicU64,
    pub(super) links: AtomicU64,
    pub(super) outlines: AtomicU64,
    pub(super) changes: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// One address that a line is asked for. Dropped without an answer, it has failed.
pub(super) struct Request {
    pub(super) key: Box<str>,
    flight: Arc<Flight>,
    front: Arc<Front>,
}

impl Front {
    /// The front, and the questions that `lines` is to answer.
    pub(super) fn new(terms: Terms) -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (waiting, requests) = mpsc::channel(WAITING_LIMIT);
        let cache = moka::sync::Cache::builder()
            .max_capacity(terms.cache as u64)
            // What is older than this is of no use to anybody.
            .time_to_live(terms.cache_for.max(terms.stale_for).max(terms.cache_absent_for))
            .build();
        let front = Self {
            terms,
            cache,
            flights: DashMap::new(),
            waiting,
            start: Instant::now(),
            confirmed: AtomicI64::new(NEVER),
            heard: AtomicBool::new(false),
            outline: AtomicU64::new(0),
            counts: Counts::default(),
        };
        (Arc::new(front), requests)
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// By primary address or alias, with `user+tag` meaning `user` when nobody has the exact address.
    pub(super) async fn user(self: &Arc<Self>, address: &Address, subaddress: Option<char>) -> Lookup<User> {
        let exact = self.ask(address.key(), address).await;
        let Lookup::Absent = exact else { return exact };
        let local = address.local_key();
        let base = subaddress.and_then(|separator| local.split_once(separator)).map(|(user, _)| user);
        match base.filter(|user| !user.is_empty()) {
            Some(user) => self.ask(format!("{user}@{}", address.domain()), address).await,
            None => Lookup::Absent,
        }
    }

    async fn ask(self: &Arc<Self>, key: String, asked: &Address) -> Lookup<User> {
        let kept = self.cache.get(key.as_str());
        if let Some(kept) = &kept
            && self.is_fresh(kept)
        {
            add(&self.counts.hits, 1);
            return found(&kept.answer, asked);
        }
        add(&self.counts.misses, 1);
        // An absence that is out of date is no answer at all: somebody may be there by now (rule 20).
        let stale =
            kept.filter(|kept| kept.answer != Answer::Absent && self.age(kept) <= self.terms.stale_for);
        let patience = if stale.is_some() { RENEWAL_GRACE } else { self.terms.deadline };
        match (self.fetch(key.into_boxed_str(), patience).await, stale) {
            (Ok(answer), _) => found(&answer, asked),
            (Err(()), Some(stale)) => {
                add(&self.counts.stale, 1);
                found(&stale.answer, asked)
            }
            (Err(()), None) => {
                add(&self.counts.failures, 1);
                Lookup::Failed
            }
        }
    }

    /// Joins the question under way for this key, or asks it.
    async fn fetch(self: &Arc<Self>, key: Box<str>, patience: Duration) -> Result<Answer, ()> {
        let mut outcome = match self.flights.entry(key.clone()) {
            Entry::Occupied(under_way) => under_way.get().outcome.subscribe(),
            Entry::Vacant(free) => {
                let (sender, outcome) = watch::channel(None);
                let outline = self.outline.load(Ordering::Relaxed);
                let flight = Arc::new(Flight { outcome: sender, tainted: AtomicBool::new(false), outline });
                free.insert(Arc::clone(&flight));
                let request = Request { key, flight, front: Arc::clone(self) };
                if let Err(refused) = self.waiting.try_send(request) {
                    add(&self.counts.overloads, 1);
                    // Outside the map's entry: dropping the request takes the flight out.
                    drop(refused);
                    return Err(());
                }
                outcome
            }
        };
        match tokio::time::timeout(patience, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(landed)) => landed.clone().unwrap_or(Err(())),
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }

    fn is_fresh(&self, kept: &Kept) -> bool {
        let age = self.age(kept);
        match &kept.answer {
            Answer::User(_) => age <= self.terms.cache_for,
            Answer::Elsewhere(_) => {
                age <= self.terms.cache_for && kept.outline == self.outline.load(Ordering::Relaxed)
            }
            Answer::Absent => age <= self.terms.cache_absent_for && self.is_current(),
        }
    }

    fn age(&self, kept: &Kept) -> Duration {
        millis(self.now().saturating_sub(kept.at))
    }

    fn now(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// How long ago the source confirmed what is held here; `None` if it never did.
    pub(super) fn silence(&self) -> Option<Duration> {
        match self.confirmed.load(Ordering::Relaxed) {
            NEVER => None,
            at => Some(millis(self.now().saturating_sub(at))),
        }
    }

    /// Whether what the source does not have may be called absent.
    pub(super) fn is_current(&self) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        heard && self.silence().is_some_and(|silence| silence <= CURRENT_FOR)
    }

    /// Whether what is held may still be answered from.
    pub(super) fn is_usable(&self) -> bool {
        self.silence().is_some_and(|silence| silence <= self.terms.stale_for.max(SILENCE_FLOOR))
    }

    /// The source has been heard, and everything it said is taken in.
    pub(super) fn confirm(&self) {
        self.confirmed.store(self.now(), Ordering::Relaxed);
        self.heard.store(true, Ordering::Relaxed);
    }

    /// It did not answer.
    pub(super) fn lost(&self) {
        self.heard.store(false, Ordering::Relaxed);
    }

    /// What is held is so old: a snapshot's.
    pub(super) fn confirmed_before(&self, age: Duration) {
        self.confirmed.store(self.now().saturating_sub(whole_millis(age)), Ordering::Relaxed);
    }

    /// These have changed at the source.
    pub(super) fn forget(&self, keys: &[String]) {
        for key in keys {
            if let Some(flight) = self.flights.get(key.as_str()) {
                flight.tainted.store(true, Ordering::Relaxed);
            }
            self.cache.invalidate(key.as_str());
        }
    }

    pub(super) fn forget_all(&self) {
        for flight in &self.flights {
            flight.tainted.store(true, Ordering::Relaxed);
        }
        self.cache.invalidate_all();
    }

    /// Tenants and domains are others now.
    pub(super) fn outline_changed(&self) {
        add(&self.counts.outlines, 1);
        self.outline.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts back what a snapshot kept.
    pub(super) fn remember(&self, key: &str, user: User, age: Duration) {
        let at = self.now().saturating_sub(whole_millis(age));
        let kept = Kept { answer: Answer::User(user), at, outline: 0 };
        self.cache.insert(key.into(), Arc::new(kept));
    }

    /// The users that are known, each by the key it was asked with, and how old that is.
    pub(super) fn known(&self) -> impl Iterator<Item = (Arc<Box<str>>, User, Duration)> + '_ {
        self.cache.iter().filter_map(|(key, kept)| match &kept.answer {
            Answer::User(user) => Some((key, user.clone(), self.age(&kept))),
            Answer::Elsewhere(_) | Answer::Absent => None,
        })
    }

    pub(super) fn kept_count(&self) -> u64 {
        self.cache.entry_count()
    }

    pub(super) fn waiting_count(&self) -> u64 {
        (self.waiting.max_capacity() - self.waiting.capacity()) as u64
    }
}

impl Request {
    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.flight.outcome.receiver_count() == 0
    }

    pub(super) fn answer(self, answer: Answer) {
        let front = &self.front;
        if !self.flight.tainted.load(Ordering::Relaxed) {
            let kept = Kept { answer: answer.clone(), at: front.now(), outline: self.flight.outline };
            front.cache.insert(self.key.clone(), Arc::new(kept));
            // A change that came between the look and the insertion has tainted the flight by now.
            if self.flight.tainted.load(Ordering::Relaxed) {
                front.cache.invalidate(&*self.key);
            }
        }
        self.flight.outcome.send_replace(Some(Ok(answer)));
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.front.flights.remove(&self.key);
        self.flight
            .outcome
            .send_if_modified(|outcome| outcome.is_none() && outcome.replace(Err(())).is_none());
    }
}

fn found(answer: &Answer, asked: &Address) -> Lookup<User> {
    match answer {
        Answer::User(user) => Lookup::Found(user.clone()),
        // Enough for rule 22 to answer, and all that this region may know.
        Answer::Elsewhere(home) => Lookup::Found(User {
            primary: asked.clone(),
            preferred_data_location: Some(home.as_str().into()),
            licenses: crate::mail::Licenses::default(),
        }),
        Answer::Absent => Lookup::Absent,
    }
}

fn millis(span: i64) -> Duration {
    Duration::from_millis(u64::try_from(span).unwrap_or(0))
}

fn whole_millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
