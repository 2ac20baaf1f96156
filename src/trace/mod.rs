//! Trace: every message and every refusal, from connection to final fate, per recipient, for the operator.
//!
//! `report` turns Events into Records and notes them here: a copy into one bounded buffer. A writer thread
//! feeds the audit and appends them to a journal; an indexing thread carries the journal into SQLite
//! segments. Neither is ever waited for. `query` reads the segments, with or without a daemon.

mod journal;
mod pipeline;
mod peek;
mod query;
pub mod record;
mod segment;
mod store;

pub use peek::Peek;
pub use query::{Error, LIMIT_DEFAULT, Question, Row, Step, moment, search, story};
pub use segment::{BROKEN_OFF, Status};

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::audit;
use crate::clock::{Clock, Timestamp};

use journal::Position;
use record::{Record, encode, first_id};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Absent: nothing is traced.
    pub trace: Option<TraceSettings>,
    /// Absent: nothing is written to the audit.
    pub audit: Option<audit::Settings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSettings {
    pub dir: PathBuf,
    pub keep: Duration,
    pub max_bytes: u64,
    pub subjects: bool,
    /// Rows that refusals may add in a second; what comes above is counted, not kept.
    pub refusals_per_second: u64,
}

/// Records between the hot path and the writer. Two seconds of 20,000 messages/s.
const BUFFER_LIMIT_BYTES: usize = 16 << 20;
/// Above this refusals are let go of first.
const BUFFER_FOR_MESSAGES_BYTES: usize = 8 << 20;
/// The writer is woken before its time when so much waits.
const WAKE_ABOVE_BYTES: usize = 512 << 10;

/// Where records are noted. Cheap to clone.
#[derive(Clone)]
pub struct Tracer(Arc<Shared>);

struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
    progress: Mutex<Progress>,
    progressed: Condvar,
    stats: Stats,
    clock: Clock,
    traces: bool,
    subjects: bool,
    refusals_per_second: u64,
    /// The second that `refusals` counts in.
    refusal_second: AtomicU64,
    refusals: AtomicU64,
    refusal_sequence: AtomicU64,
    closing: AtomicBool,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// What the threads have to say to the operator.
    trouble: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    records: u64,
    lost: u64,
    closed: bool,
}

/// How far the threads have come.
#[derive(Default, Clone, Copy)]
struct Progress {
    /// Octets of blocks, all in all.
    taken: u64,
    written: u64,
    indexed: u64,
    end: Position,
    writer_ended: bool,
    indexer_ended: bool,
    head: audit::Head,
}

#[derive(Default)]
struct Stats {
    noted: AtomicU64,
    lost: AtomicU64,
    suppressed: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    segments: AtomicU64,
    audit_records: AtomicU64,
    audit_bytes: AtomicU64,
    errors: AtomicU64,
}

/// For metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub noted: u64,
    pub lost: u64,
    pub suppressed: u64,
    pub rows: u64,
    /// Octets that are noted and not yet found by queries.
    pub lag_bytes: u64,
    pub bytes: u64,
    pub segments: u64,
    pub errors: u64,
    pub audit_records: u64,
    pub audit_bytes: u64,
    pub head_record: u64,
    /// The first 48 bits of the last hash.
    pub head: u64,
    pub head_hash: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds a part of the trace")
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Tracer {
    /// Opens the audit and the trace and starts their threads.
    pub fn start(settings: Settings, clock: Clock) -> io::Result<Self> {
        let trace = settings.trace.as_ref();
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            filled: Condvar::new(),
            progress: Mutex::default(),
            progressed: Condvar::new(),
            stats: Stats::default(),
            clock,
            traces: trace.is_some(),
            subjects: trace.is_some_and(|trace| trace.subjects),
            refusals_per_second: trace.map_or(0, |trace| trace.refusals_per_second),
            refusal_second: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            refusal_sequence: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            threads: Mutex::default(),
            trouble: Mutex::default(),
        });
        pipeline::start(&shared, settings)?;
        Ok(Self(shared))
    }

    /// Notes one record; never waits for a disk. What finds no room is counted.
    pub fn note(&self, record: &Record<'_>) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            encode(record, scratch);
            let limit = match record {
                Record::Refused(_) => BUFFER_FOR_MESSAGES_BYTES,
                _ => BUFFER_LIMIT_BYTES,
            };
            self.put(scratch, limit);
        });
    }

    fn put(&self, record: &[u8], limit: usize) {
        let mut buffer = lock(&self.0.buffer);
        let before = buffer.bytes.len();
        if before + record.len() > limit || buffer.closed {
            buffer.lost += 1;
            drop(buffer);
            self.0.stats.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        buffer.bytes.extend_from_slice(record);
        buffer.records += 1;
        let after = buffer.bytes.len();
        drop(buffer);
        if before == 0 || (before < WAKE_ABOVE_BYTES && after >= WAKE_ABOVE_BYTES) {
            self.0.filled.notify_one();
        }
    }

    /// As `note`, but waits for room: for the many messages that a start finds. Not for the hot path.
    pub fn note_patiently(&self, record: &Record<'_>) {
        const PAUSE: Duration = Duration::from_millis(5);
        while lock(&self.0.buffer).bytes.len() > BUFFER_FOR_MESSAGES_BYTES / 2 {
            self.0.filled.notify_one();
            std::thread::sleep(PAUSE);
        }
        self.note(record);
    }

    /// The key of a refusal that is to be noted now; `None` when there were too many this second.
    pub fn refusal_key(&self, at: Timestamp) -> Option<u64> {
        let shared = &self.0;
        if !shared.traces {
            return None;
        }
        let second = u64::try_from(at.millis() / 1000).unwrap_or(0);
        if shared.refusal_second.swap(second, Ordering::Relaxed) != second {
            shared.refusals.store(0, Ordering::Relaxed);
        }
        if shared.refusals.fetch_add(1, Ordering::Relaxed) >= shared.refusals_per_second {
            shared.stats.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // The upper half of a millisecond's names, which no spool ever comes to.
        const SEQUENCE: u64 = (1 << 21) - 1;
        let sequence = shared.refusal_sequence.fetch_add(1, Ordering::Relaxed) & SEQUENCE;
        Some(first_id(at.millis()) | 1 << 21 | sequence)
    }

    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub fn wants_subjects(&self) -> bool {
        self.0.subjects
    }

    /// Waits until what was noted before can be found, or until `patience` is over. Blocks.
    pub fn catch_up(&self, patience: Duration) {
        if !self.0.traces {
            return;
        }
        self.0.filled.notify_one();
        let wanted = {
            let buffer = lock(&self.0.buffer);
            let progress = lock(&self.0.progress);
            progress.taken + buffer.bytes.len() as u64
        };
        let progress = lock(&self.0.progress);
        let behind = |progress: &mut Progress| progress.indexed < wanted && !progress.indexer_ended;
        drop(self.0.progressed.wait_timeout_while(progress, patience, behind));
    }

    /// Writes out what was noted and ends the threads. Blocks, for at most `patience` of indexing.
    pub fn close(&self) {
        lock(&self.0.buffer).closed = true;
        self.0.closing.store(true, Ordering::Release);
        self.0.filled.notify_all();
        self.0.progressed.notify_all();
        let threads = std::mem::take(&mut *lock(&self.0.threads));
        for thread in threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }

    pub fn report(&self) -> Report {
        let stats = &self.0.stats;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waiting = lock(&self.0.buffer).bytes.len() as u64;
        let progress = *lock(&self.0.progress);
        Report {
            noted: read(&stats.noted),
            lost: read(&stats.lost),
            suppressed: read(&stats.suppressed),
            rows: read(&stats.rows),
            lag_bytes: if self.0.traces {
                waiting + progress.taken - progress.indexed.min(progress.taken)
            } else {
                0
            },
            bytes: read(&stats.bytes),
            segments: read(&stats.segments),
            errors: read(&stats.errors),
            audit_records: read(&stats.audit_records),
            audit_bytes: read(&stats.audit_bytes),
            head_record: progress.head.n,
            head: progress.head.short(),
            head_hash: progress.head.hash(),
        }
    }

    /// What went wrong since the last call, for the log.
    pub fn take_trouble(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.0.trouble))
    }
}

impl Shared {
    fn note_trouble(&self, what: String) {
        const LIMIT: usize = 16;
        self.stats.errors.fetch_add(1, Ordering::Relaxed);
        let mut trouble = lock(&self.trouble);
        if trouble.len() < LIMIT && !trouble.contains(&what) {
            trouble.push(what);
        }
    }
}
