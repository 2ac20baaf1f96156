//! Pipeline: the two threads behind the tracer.
//!
//! The writer takes the buffer ten times a second, feeds the audit and appends to the journal: cheap, whatever
//! the load. The indexer reads the journal and fills the store; under load it lags behind on disk, never in
//! memory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::audit::{Chain, Event, To};
use crate::clock::Timestamp;
use crate::mail::MessageId;

use super::journal::{Journal, Position, Reader, numbers};
use super::record::{Arrived, By, Fate, Heading, Record, Turn, decode, encode, split_attribution};
use super::store::{Limits, Store};
use super::{Settings, Shared, TraceSettings, lock};

/// Records gather for so long before they are written.
const GATHER: Duration = Duration::from_millis(100);
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// What one transaction of the index takes in.
const BATCH_BYTES: usize = 1 << 20;
/// A buffer that a burst made larger than this is given back once the burst is over.
const KEPT_BYTES: usize = 256 << 10;
/// Between tries of a disk that refuses.
const PAUSE: Duration = Duration::from_secs(1);
/// Then a batch is given up: nothing is worth standing still for.
const TRIES: u32 = 5;
/// An orderly stop gives the index so long; the rest waits in the journal for the next start.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);
/// The store is looked after at least so often.
const TEND_EVERY: Duration = Duration::from_secs(2);

pub(super) fn start(shared: &Arc<Shared>, settings: Settings) -> io::Result<()> {
    let now = shared.clock.now();
    let chain = settings.audit.map(|audit| Chain::open(audit, now)).transpose()?;
    let mut threads = Vec::new();
    let mut journal = None;
    if let Some(trace) = &settings.trace {
        let dir = trace.dir.join("journal");
        std::fs::create_dir_all(&dir)?;
        journal = Some((Journal::create(&dir)?, (trace.max_bytes / 4).max(BATCH_BYTES as u64)));
        let store =
            Store::open(&trace.dir, Limits { keep: trace.keep, max_bytes: trace.max_bytes }, now.millis())?;
        let (shared, trace) = (shared.clone(), trace.clone());
        let indexer = std::thread::Builder::new().name("trace-index".to_owned());
        let first = journal.as_ref().map(|(journal, _)| journal.position()).unwrap_or_default();
        lock(&shared.progress).end = first;
        threads.push(indexer.spawn(move || index(&shared, &trace, store))?);
    }
    let writer = Writer { shared: shared.clone(), chain, journal };
    let builder = std::thread::Builder::new().name("trace".to_owned());
    threads.push(builder.spawn(move || writer.run())?);
    lock(&shared.threads).extend(threads);
    Ok(())
}

struct Writer {
    shared: Arc<Shared>,
    chain: Option<Chain>,
    /// With the octets that may wait in it.
    journal: Option<(Journal, u64)>,
}

impl Writer {
    fn run(mut self) {
        let mut block = Vec::new();
        let mut synced = Instant::now();
        let mut audit_trouble = false;
        loop {
            let closing = self.gather();
            block.clear();
            let lost = {
                let mut buffer = lock(&self.shared.buffer);
                std::mem::swap(&mut block, &mut buffer.bytes);
                self.shared.stats.noted.fetch_add(buffer.records, Ordering::Relaxed);
                buffer.records = 0;
                let mut progress = lock(&self.shared.progress);
                progress.taken += block.len() as u64;
                std::mem::take(&mut buffer.lost)
            };
            let taken = block.len() as u64;
            let now = self.shared.clock.now();
            if lost > 0 {
                encode(&Record::Lost { at: now.millis(), records: lost }, &mut block);
            }
            if !block.is_empty() {
                self.audit(&block, now);
                self.journal(&block, taken);
            }
            if let Some(chain) = &mut self.chain
                && (synced.elapsed() >= SYNC_EVERY || closing)
            {
                synced = Instant::now();
                let ended = if closing { chain.close(now) } else { chain.sync() };
                let tended = ended.and_then(|()| chain.tend(now));
                if let Err(error) = &tended
                    && !audit_trouble
                {
                    self.shared.note_trouble(format!("the audit cannot be written: {error}"));
                }
                audit_trouble = tended.is_err();
                let stats = &self.shared.stats;
                stats.audit_records.store(chain.head().n, Ordering::Relaxed);
                stats.audit_bytes.store(chain.bytes(), Ordering::Relaxed);
                lock(&self.shared.progress).head = chain.head();
            }
            block.clear();
            block.shrink_to(KEPT_BYTES);
            if closing && lock(&self.shared.buffer).bytes.is_empty() {
                break;
            }
        }
        lock(&self.shared.progress).writer_ended = true;
        self.shared.progressed.notify_all();
    }

    /// Waits for the first record, then for more to come; not at all when the daemon stops.
    fn gather(&self) -> bool {
        let closing = || self.shared.closing.load(Ordering::Acquire);
        let buffer = lock(&self.shared.buffer);
        let nothing = |buffer: &mut super::Buffer| buffer.bytes.is_empty() && buffer.lost == 0 && !closing();
        // An idle daemon wakes once a second, for the audit's sync.
        let filled = self.shared.filled.wait_timeout_while(buffer, SYNC_EVERY, nothing);
        let (buffer, _) = filled.expect("no code panics while it holds the buffer");
        if !closing() && !buffer.bytes.is_empty() {
            let few = |buffer: &mut super::Buffer| buffer.bytes.len() < super::WAKE_ABOVE_BYTES && !closing();
            drop(self.shared.filled.wait_timeout_while(buffer, GATHER, few));
        }
        closing()
    }

    fn audit(&mut self, block: &[u8], now: Timestamp) {
        let Some(chain) = &mut self.chain else { return };
        for record in decode(block) {
            audit_record(chain, record, now);
        }
        if let Err(error) = chain.write() {
            self.shared.note_trouble(format!("the audit cannot be written: {error}"));
        }
    }

    fn journal(&mut self, block: &[u8], taken: u64) {
        let Some((journal, limit)) = &mut self.journal else { return };
        let waiting = {
            let progress = lock(&self.shared.progress);
            progress.written - progress.indexed.min(progress.written)
        };
        let appended = if waiting + block.len() as u64 > *limit {
            Err(io::Error::other("the index lags too far behind"))
        } else {
            journal.append(block)
        };
        let mut progress = lock(&self.shared.progress);
        match appended {
            Ok(end) => {
                progress.written += taken;
                progress.end = end;
                drop(progress);
                self.shared.progressed.notify_all();
            }
            Err(error) => {
                // Nobody will index it.
                progress.taken -= taken;
                drop(progress);
                let records = decode(block).count() as u64;
                self.shared.stats.lost.fetch_add(records, Ordering::Relaxed);
                lock(&self.shared.buffer).lost += records;
                self.shared.note_trouble(format!("the trace's journal takes no more: {error}"));
            }
        }
    }
}

fn audit_record(chain: &mut Chain, record: Record<'_>, now: Timestamp) {
    let id_of = |id: u64| MessageId::from_raw(id).to_string();
    match record {
        Record::Arrived(arrived) => audit_arrival(chain, &arrived),
        Record::Outcome(outcome) => {
            let (id, domain, hop) =
                (id_of(outcome.id), domain_of(outcome.recipient), outcome.next_hop.to_owned());
            let at = Timestamp::from_millis(outcome.at);
            match outcome.fate {
                Fate::Deferred => {}
                Fate::Delivered => {
                    let region = outcome.region.to_owned();
                    chain.append(at, Event::Delivered { id, domain, hop, region });
                }
                Fate::Failed | Fate::Expired => {
                    let code = if outcome.code > 0 { outcome.code.to_string() } else { String::new() };
                    // The remote words may name an address; its code and status do not.
                    let why = format!("{} {code} {}", outcome.fate.word(), outcome.enhanced);
                    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
                    chain.append(at, Event::Failed { id, domain, hop, why });
                }
            }
        }
        Record::Happening(happening) if happening.turn == Turn::Deleted => {
            let event = Event::Removed {
                id: id_of(happening.id),
                domain: domain_of(happening.recipient),
                why: happening.what.to_owned(),
            };
            chain.append(Timestamp::from_millis(happening.at), event);
        }
        Record::Lost { records, .. } => chain.append(now, Event::Lost { count: records }),
        Record::RecoveryEnd { .. } => chain.recovery_over(),
        Record::Rested(rested) => {
            let event = Event::Rested { id: id_of(rested.id), to: summed_up(&rested.recipients) };
            chain.append(Timestamp::from_millis(rested.at), event);
        }
        // Its next hop is not known any more: nothing to prove a place with.
        Record::Found(_) | Record::Refused(_) | Record::Happening(_) => {}
    }
}

fn audit_arrival(chain: &mut Chain, arrived: &Arrived<'_>) {
    let to = summed_up(&arrived.recipients);
    let id = MessageId::from_raw(arrived.id).to_string();
    let at = Timestamp::from_millis(arrived.at);
    if arrived.by == By::Recovery {
        if chain.may_lack(&id, arrived.at) {
            chain.append(at, Event::Recovered { id, received: arrived.at, to });
        }
        return;
    }
    chain.append(
        at,
        Event::Received {
            id,
            by: arrived.by.word().to_owned(),
            from: split_attribution(arrived.attribution).0.to_owned(),
            disk: arrived.by != By::Inline,
            to,
        },
    );
}

/// The recipients that share domain and decision, counted.
fn summed_up(headings: &[Heading<'_>]) -> Vec<To> {
    let mut to: Vec<To> = Vec::with_capacity(1);
    for heading in headings {
        let domain = domain_of(heading.address);
        let same = |to: &&mut To| {
            to.domain == domain
                && to.home == heading.region
                && to.ingress == heading.ingress
                && to.irr == heading.irr
        };
        match to.iter_mut().find(same) {
            Some(to) => to.count += 1,
            None => to.push(To {
                domain,
                count: 1,
                home: heading.region.to_owned(),
                ingress: heading.ingress.to_owned(),
                irr: heading.irr.to_owned(),
            }),
        }
    }
    to
}

fn domain_of(address: &str) -> String {
    address.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase()
}

/// Carries the journal into the store until the writer has ended and nothing is left, or patience is over.
fn index(shared: &Shared, settings: &TraceSettings, mut store: Store) {
    let dir: PathBuf = settings.dir.join("journal");
    let start = store.position().unwrap_or_else(|error| {
        shared.note_trouble(format!("the trace's newest segment cannot be read: {error}"));
        store.give_up();
        store.put_aside();
        Position::default()
    });
    let earliest = numbers(&dir).ok().and_then(|numbers| numbers.first().copied()).unwrap_or(0);
    let mut reader = Reader::new(&dir, start.max(Position { file: earliest, offset: 0 }));
    let mut block = Vec::new();
    let mut tended = Instant::now();
    let mut closing_since: Option<Instant> = None;
    let mut burst = false;
    loop {
        let (end, ended) = {
            let progress = lock(&shared.progress);
            (progress.end, progress.writer_ended)
        };
        block.clear();
        let mut fetched = false;
        while block.len() < BATCH_BYTES && reader.next(end, &mut block).unwrap_or(false) {
            fetched = true;
        }
        if fetched {
            put(shared, &mut store, &block, reader.position());
        }
        let caught_up = reader.position() >= end || !fetched;
        if caught_up {
            let mut progress = lock(&shared.progress);
            if progress.end == end {
                progress.indexed = progress.written;
            }
            drop(progress);
            shared.progressed.notify_all();
        } else {
            // Only a bound for what waits; exact again when it has caught up.
            let mut progress = lock(&shared.progress);
            progress.indexed = (progress.indexed + block.len() as u64).min(progress.written);
        }
        if tended.elapsed() >= TEND_EVERY || fetched && store.rows > 0 {
            tended = Instant::now();
            tend(shared, &mut store, reader.position());
            let _ = Reader::forget(&dir, reader.position());
        }
        if ended && caught_up {
            break;
        }
        if shared.closing.load(Ordering::Acquire)
            && closing_since.get_or_insert_with(Instant::now).elapsed() > CLOSING_PATIENCE
            && ended
        {
            break;
        }
        burst |= block.len() > KEPT_BYTES;
        if caught_up {
            if std::mem::take(&mut burst) {
                block = Vec::new();
                store.release_memory();
            }
            let progress = lock(&shared.progress);
            let idle = |progress: &mut super::Progress| progress.end == end && !progress.writer_ended;
            drop(shared.progressed.wait_timeout_while(progress, TEND_EVERY, idle));
        }
    }
    let mut progress = lock(&shared.progress);
    progress.indexer_ended = true;
    drop(progress);
    shared.progressed.notify_all();
}

fn put(shared: &Shared, store: &mut Store, block: &[u8], end: Position) {
    for attempt in 1..=TRIES {
        match store.apply(decode(block), end) {
            Ok(_) => {
                shared.stats.rows.store(store.rows, Ordering::Relaxed);
                return;
            }
            Err(error) => {
                shared.note_trouble(format!("the trace cannot be written: {error}"));
                if attempt == TRIES {
                    store.put_aside();
                    let lost = decode(block).count() as u64;
                    shared.stats.lost.fetch_add(lost, Ordering::Relaxed);
                    lock(&shared.buffer).lost += lost;
                } else if !shared.closing.load(Ordering::Acquire) {
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

fn tend(shared: &Shared, store: &mut Store, end: Position) {
    match store.tend(shared.clock.now().millis(), end) {
        Ok(size) => {
            shared.stats.bytes.store(size.bytes, Ordering::Relaxed);
            shared.stats.segments.store(size.segments, Ordering::Relaxed);
        }
        Err(error) => {
            shared.note_trouble(format!("the trace cannot be tended: {error}"));
            store.give_up();
        }
    }
}
