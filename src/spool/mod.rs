//! Spool: accepted mail on disk; ours only once commit has returned.
//!
//! Owns the two logs, their recovery and their space, and says when no more mail can be taken. It does not
//! know next hops or retries: `queue` decides progress and notices, and hands them in. `docs/SPOOL.md`
//! describes the files.

mod disk;
mod format;
mod progress;
mod content;
mod index;
mod segment;
mod draft;
mod commit;
mod torn;
mod reader;
mod recovery;
mod reclaim;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::chance::Chance;
use crate::clock::Clock;
use crate::mail::{Envelope, MessageId};

pub use content::{Body, BodyFile, BodyReader, Content};
#[doc(hidden)]
pub use disk::{Disk, Fault, FaultKind, Lasting, Operation, Recorder};
pub use draft::Draft;
pub use progress::{End, RecipientProgress};
pub use recovery::{Finding, Recovered, RecoveredMessage};

use commit::{Note, Waiting};
use content::{Budget, CHUNK_BYTES, Charge};
use disk::{DiskFile, DiskLock};
use format::{LogName, MessageMeta, RECORD_HEADER_BYTES, RecordHeader, body_name, draft_name};
use index::{Entry, Index};
use reclaim::Pace;
use segment::{Purpose, Writer};

/// Between two looks at the disk while nothing happens.
const TICK: Duration = Duration::from_secs(15);
/// The same while it is full: room should not go unnoticed.
const TICK_WHEN_FULL: Duration = Duration::from_secs(1);
/// Closing waits this long for what is still to be written.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// By this part more than the watermark must be free before mail is taken again.
const EASE_PART: u64 = 8;
/// What is short after a write that did not fit.
const NO_ROOM: &str = "a write found no room on the disk";
/// Bounds for a segment: large enough for one record, small enough for 32-bit offsets.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 32 * 1024..=1024 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Settings {
    pub dir: PathBuf,
    pub segment_bytes: u64,
    /// Bodies above this get a file of their own.
    pub own_file_above: u64,
    /// Of all bodies together; above it drafts spill to disk.
    pub draft_memory_bytes: u64,
    /// Of one draft; above it, it spills.
    pub draft_in_memory_bytes: usize,
    pub commit_deadline: Duration,
    /// With less than this left on the file system no more mail is taken (rule 60).
    pub min_free_bytes: u64,
}

impl Settings {
    /// The configuration's defaults, for tests and benchmarks.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            segment_bytes: 64 * 1024 * 1024,
            own_file_above: 2 * 1024 * 1024,
            draft_memory_bytes: 128 * 1024 * 1024,
            draft_in_memory_bytes: 2 * 1024 * 1024,
            commit_deadline: Duration::from_secs(30),
            min_free_bytes: 256 * 1024 * 1024,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another process holds this spool")]
    InUse,
    #[error("message {0} is not in the spool")]
    Unknown(MessageId),
    #[error("message {0} is damaged on disk; it was quarantined")]
    Damaged(MessageId),
    #[error("the spool is stopping")]
    Stopped,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a message was not stored. None of them is for ever: each is a 4xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    #[error("no room")]
    Full,
    #[error("the disk failed")]
    Failed,
    /// The message may yet become durable; then it is withdrawn. It may repeat, it is never lost.
    #[error("the disk took too long")]
    Expired,
}

/// Whether more mail can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    Free,
    Full,
    /// A sync failed. Nothing is accepted until a restart: what reached the disk is unknown.
    Failed,
}

/// A durable message, its content still in memory for an immediate attempt.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub envelope: Arc<Envelope>,
    pub content: Content,
}

/// A delivery status notification about to enter. `Spool::mint` gives its envelope an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub envelope: Envelope,
    pub content: Bytes,
}

/// Counts for metrics and `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub live_messages: u64,
    pub live_bytes: u64,
    pub quarantined: u64,
    pub segments: u64,
    /// Segments, the reserve and own files.
    pub bytes_on_disk: u64,
    pub syncs: u64,
    pub commits: u64,
    pub bytes_written: u64,
    pub memory_bytes: u64,
    pub refused_drafts: u64,
    pub pressure: Pressure,
    /// What is short while the pressure is `Full`.
    pub shortage: Option<&'static str>,
    /// What stopped acceptance.
    pub failure: Option<String>,
}

/// The spool of this node. Clones share it.
#[derive(Debug, Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    clock: Clock,
    disk: Disk,
    runtime: Handle,
    budget: Arc<Budget>,
    last_id: Mutex<MessageId>,
    // Taken in this order, never the other way round: keeping, writer, index. `waiting` stands alone.
    keeping: Mutex<()>,
    writer: Mutex<Writer>,
    index: Mutex<Index>,
    waiting: Mutex<Waiting>,
    /// The leader has waited long enough for others to join.
    gathered: Condvar,
    /// Messages that are coming in, not waiting yet.
    coming: AtomicU64,
    pressure: watch::Sender<Pressure>,
    /// Why the pressure is `Full`, when it is.
    shortage: Mutex<&'static str>,
    /// The hot log ends soon, and there is no room for its next segment.
    short_of_segments: AtomicBool,
    failed: AtomicBool,
    failure: OnceLock<String>,
    closed: AtomicBool,
    /// Names of bodies are gone, and not durably yet.
    removed_bodies: AtomicBool,
    keeper: Arc<Notify>,
    commits: AtomicU64,
    refused_drafts: AtomicU64,
    _lock: DiskLock,
}

impl Spool {
    /// Recovers what an earlier run left. Blocking, once at start-up, within a runtime's `spawn_blocking`.
    pub fn open(settings: Settings, clock: Clock) -> Result<(Self, Recovered), Error> {
        let disk = Disk::new(&settings.dir)?;
        Self::open_on(disk, settings, clock)
    }

    /// The same on a disk that tests prepared.
    #[doc(hidden)]
    pub fn open_on(disk: Disk, settings: Settings, clock: Clock) -> Result<(Self, Recovered), Error> {
        let (spool, recovered) = Self::recover_on(disk, settings, clock)?;
        let inner = &spool.inner;
        inner.start_logs()?;
        inner.has_room();
        inner.runtime.spawn(keep(Arc::downgrade(inner), inner.keeper.clone()));
        inner.keeper.notify_one();
        Ok((spool, recovered))
    }

    /// As far as it can be read, and no further: nothing is written after recovery, and nobody tidies. For tests
    /// that look at very many spools.
    #[doc(hidden)]
    pub fn recover_on(disk: Disk, mut settings: Settings, clock: Clock) -> Result<(Self, Recovered), Error> {
        settings.segment_bytes = settings.segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        // One batch goes into one segment, and offsets have 32 bits.
        settings.own_file_above = settings.own_file_above.min(*SEGMENT_BYTES.end());
        let lock = disk.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::InUse,
            _ => Error::Io(error),
        })?;
        let mut found = recovery::recover(&disk, settings.min_free_bytes)?;
        let mut writer = Writer {
            hot: None,
            deferred: None,
            next_hot: None,
            spares: Vec::new(),
            next_number: found.highest_number + 1,
            sequence: found.highest_sequence,
            chance: Chance::from_os(),
            segment_bytes: settings.segment_bytes,
            hot_bytes: settings.segment_bytes / 2,
            min_free_bytes: settings.min_free_bytes,
            rolled: found.rolled,
            owed: Vec::new(),
            // What was recovered is durable.
            moved: Vec::new(),
        };
        found.spares.sort_by_key(|spare| std::cmp::Reverse(spare.file_bytes));
        for spare in found.spares {
            // Others an earlier run did not finish, or made for another size.
            let fits = (segment::SMALLEST_BYTES..=settings.segment_bytes / 2).contains(&spare.file_bytes);
            if fits && writer.spares.len() < reclaim::SPARES_IN_FLOW {
                writer.spares.push(spare);
            } else {
                disk.remove(&format::spare_name(spare.number))?;
            }
        }
        writer
            .owed
            .extend(found.rewrite.iter().map(|(log, id, changes)| (*log, Note::progress(*id, changes))));
        writer.owed.extend(found.moved.iter().map(|id| (LogName::Hot, Note::moved(*id))));
        let last_id = MessageId::from_raw(found.highest_id).max(MessageId::at(clock.now()));
        let inner = Arc::new(Inner {
            settings,
            clock,
            disk,
            runtime: Handle::current(),
            budget: Arc::default(),
            last_id: Mutex::new(last_id),
            keeping: Mutex::default(),
            writer: Mutex::new(writer),
            index: Mutex::new(found.index),
            waiting: Mutex::default(),
            gathered: Condvar::new(),
            coming: AtomicU64::new(0),
            pressure: watch::Sender::new(Pressure::Free),
            shortage: Mutex::default(),
            short_of_segments: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
            removed_bodies: AtomicBool::new(false),
            keeper: Arc::default(),
            commits: AtomicU64::new(0),
            refused_drafts: AtomicU64::new(0),
            _lock: lock,
        });
        Ok((Self { inner }, found.recovered))
    }

    /// A name that no message has: rising, also over restarts.
    pub fn mint(&self) -> MessageId {
        let mut last = self.inner.last_id.lock().expect("names are minted without panics");
        *last = last.after(self.inner.clock.now());
        *last
    }

    pub fn draft(&self) -> Draft {
        Draft::new(self.inner.clone(), self.mint())
    }

    /// Notes how far recipients have come. Nobody waits: it is written with the next batch, and a crash
    /// before may repeat a delivery, never lose one.
    pub fn record(&self, id: MessageId, changes: &[(u32, RecipientProgress)]) {
        self.inner.note(Note::progress(id, changes));
    }

    /// Stores a notice together with the outcome that causes it: after a crash there are both or neither.
    pub async fn record_with_notice(
        &self,
        id: MessageId,
        changes: Vec<(u32, RecipientProgress)>,
        notice: Notice,
    ) -> Result<Accepted, NotStored> {
        let mut draft = Draft::new(self.inner.clone(), notice.envelope.id);
        draft.push(&notice.content);
        draft.commit_notice(notice.envelope, id, changes).await
    }

    /// Everything recorded before this call is durable when it returns, unless the disk takes too long.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(self.inner.settings.commit_deadline, self.inner.flush()).await;
    }

    /// Stores a notice about a message that went through without being stored.
    pub async fn store_notice(&self, notice: Notice) -> Result<Accepted, NotStored> {
        let mut draft = Draft::new(self.inner.clone(), notice.envelope.id);
        draft.push(&notice.content);
        draft.commit_lone_notice(notice.envelope).await
    }

    /// Reads a message and checks every byte of it. Damage quarantines it.
    pub async fn read(&self, id: MessageId) -> Result<Content, Error> {
        let inner = self.inner.clone();
        let reading = tokio::task::spawn_blocking(move || inner.read(id));
        reading.await.map_err(|_| Error::Stopped)?
    }

    /// The same at once, all of it in memory: for tests.
    #[doc(hidden)]
    pub fn read_whole(&self, id: MessageId) -> Result<Vec<u8>, Error> {
        let Content { head, body } = self.inner.read(id)?;
        let mut bytes = head.to_vec();
        match body {
            Body::Memory(body) => bytes.extend_from_slice(&body),
            Body::File(BodyFile { file, len }) => {
                let from = bytes.len();
                bytes.resize(from + usize::try_from(len).map_err(io::Error::other)?, 0);
                file.read_exact_at(&mut bytes[from..], 0)?;
            }
        }
        Ok(bytes)
    }

    /// Keeps a message from being delivered, and keeps it. Progress of it may still end it.
    pub fn quarantine(&self, id: MessageId, why: &str) {
        self.inner.index().quarantine(id);
        self.inner.note(Note::quarantined(id, why));
    }

    /// Whether contents may stay in memory while their messages wait; else they are read back when it is their
    /// turn. What comes in goes before what waits: drafts may take four times as much.
    pub fn has_memory_for_waiting(&self) -> bool {
        self.inner.budget.used() <= self.inner.settings.draft_memory_bytes / 4
    }

    pub fn pressure(&self) -> watch::Receiver<Pressure> {
        self.inner.pressure.subscribe()
    }

    pub fn state(&self) -> State {
        let inner = &self.inner;
        let spare_bytes = inner.writer().spare_bytes();
        let pressure = *inner.pressure.borrow();
        let index = inner.index();
        State {
            live_messages: index.live.messages,
            live_bytes: index.live.bytes,
            quarantined: index.quarantined,
            segments: index.segments.len() as u64,
            bytes_on_disk: index.bytes() + spare_bytes,
            syncs: inner.disk.syncs(),
            commits: inner.commits.load(Ordering::Relaxed),
            bytes_written: inner.disk.bytes_written(),
            memory_bytes: inner.budget.used(),
            refused_drafts: inner.refused_drafts.load(Ordering::Relaxed),
            pressure,
            shortage: (pressure == Pressure::Full).then(|| *inner.shortage()),
            failure: inner.failure.get().cloned(),
        }
    }

    /// Tidies until there is nothing left to tidy.
    #[doc(hidden)]
    pub async fn tidy(&self) {
        if tokio::time::timeout(CLOSE_PATIENCE, self.inner.flush()).await.is_err() {
            return;
        }
        let inner = self.inner.clone();
        let tidied = tokio::task::spawn_blocking(move || while inner.keep(Pace::Rest) {});
        tidied.await.expect("tidying does not panic");
    }

    /// What tidying does while mail flows, and no more, to its end.
    #[doc(hidden)]
    pub async fn tidy_in_flow(&self) {
        let inner = self.inner.clone();
        let tidied = tokio::task::spawn_blocking(move || while inner.keep(Pace::Flow) {});
        tidied.await.expect("tidying does not panic");
    }

    /// Writes what is still to be written, and ends both logs so that the next start is quick.
    pub async fn close(self) {
        // What does not get through in time is progress only: accepted mail is durable already.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, self.inner.flush()).await;
        self.inner.closed.store(true, Ordering::Release);
        self.inner.keeper.notify_one();
        let inner = self.inner.clone();
        let ended = tokio::task::spawn_blocking(move || inner.end_logs());
        let _ = tokio::time::timeout(CLOSE_PATIENCE, ended).await;
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("the list is never left half-changed")
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("the writer is never left half-changed")
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("the index is never left half-changed")
    }

    fn highest_id(&self) -> MessageId {
        *self.last_id.lock().expect("names are minted without panics")
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }

    /// Stops acceptance for good.
    fn fail(&self, error: &io::Error) {
        self.failed.store(true, Ordering::Release);
        let _ = self.failure.set(error.to_string());
        self.set_pressure(Pressure::Failed);
    }

    fn set_pressure(&self, pressure: Pressure) {
        self.pressure.send_if_modified(|now| {
            let changes = *now != pressure && *now != Pressure::Failed;
            if changes {
                *now = pressure;
            }
            changes
        });
    }

    /// Looks at what is left, tells whoever watches, and says whether the disk has room.
    fn has_room(&self) -> bool {
        let free = self.disk.free_bytes().unwrap_or(0);
        let disk = free >= self.settings.min_free_bytes;
        // Once it was short, there must be clearly enough again: it should not turn with each message.
        let ease = if *self.pressure.borrow() == Pressure::Full { 1 } else { 0 };
        let wanted = self.settings.min_free_bytes + ease * self.settings.min_free_bytes / EASE_PART;
        let memory = self.settings.draft_memory_bytes.saturating_mul(2);
        if free < wanted {
            self.is_short("less than min_free is left on the disk");
        } else if self.short_of_segments.load(Ordering::Acquire) {
            self.is_short("the disk has no room for another segment");
        } else if self.budget.used() >= memory - ease * memory / EASE_PART {
            // Drafts spill above the budget; at twice that, other contents must go first.
            self.is_short("messages on their way hold twice draft_memory");
        } else {
            self.set_pressure(Pressure::Free);
        }
        disk
    }

    /// No more mail for now.
    fn is_short(&self, of: &'static str) {
        *self.shortage() = of;
        self.set_pressure(Pressure::Full);
    }

    /// A write found no room: tidying may give some back.
    fn found_no_room(&self) {
        self.is_short(NO_ROOM);
        self.keeper.notify_one();
    }

    fn shortage(&self) -> MutexGuard<'_, &'static str> {
        self.shortage.lock().expect("a word is replaced whole")
    }

    fn start_logs(&self) -> io::Result<()> {
        let mut writer = self.writer();
        let highest_id = self.highest_id();
        // A full disk must not keep the daemon from starting: the reserve is there for emptying it. Without
        // any room at all what is there is still delivered, and the log begins when there is some.
        match writer.make_room(&self.disk, &self.index, LogName::Hot, 1, Purpose::Outcome, highest_id) {
            Err(error) if segment::is_full(&error) => {
                self.found_no_room();
                Ok(())
            }
            made => made,
        }
    }

    fn end_logs(&self) {
        let _one_at_a_time = self.keeping.lock().expect("tidying never leaves its work half-done");
        if self.failed.load(Ordering::Acquire) {
            return;
        }
        {
            let mut writer = self.writer();
            self.write_owed(&mut writer);
            for log in LogName::BOTH {
                writer.roll(&self.index, log, None);
            }
        }
        // What cannot be sealed is searched at the next start.
        let _ = self.seal_rolled();
    }

    fn read(self: &Arc<Self>, id: MessageId) -> Result<Content, Error> {
        loop {
            let (entry, file, salt) = {
                let index = self.index();
                let entry = index.get(id).cloned().ok_or(Error::Unknown(id))?;
                let segment = index.segments.get(&(entry.log, entry.at.segment)).ok_or(Error::Unknown(id))?;
                (entry, segment.file.clone(), segment.salt)
            };
            match self.read_record(id, &entry, &file, salt) {
                Ok(Some(content)) => return Ok(content),
                Ok(None) => {}
                // Its file may be gone because it was finished meanwhile.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Err(_) => {}
            }
            // It may have been rewritten while we read, and its old place be used again.
            match self.index().get(id) {
                None => return Err(Error::Unknown(id)),
                Some(now) if now.at != entry.at => continue,
                Some(_) => {}
            }
            self.index().quarantine(id);
            self.note(Note::quarantined(id, "its content is damaged"));
            return Err(Error::Damaged(id));
        }
    }

    /// `None` when a checksum is wrong.
    fn read_record(
        &self,
        id: MessageId,
        entry: &Entry,
        file: &DiskFile,
        salt: u64,
    ) -> io::Result<Option<Content>> {
        let mut record = vec![0; usize::try_from(entry.record_bytes).map_err(io::Error::other)?];
        match file.read_exact_at(&mut record, u64::from(entry.at.offset)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let Some(header) = RecordHeader::decode(salt, &record) else { return Ok(None) };
        if header.id != id || header.record_bytes() != entry.record_bytes {
            return Ok(None);
        }
        let content_at = RECORD_HEADER_BYTES + header.meta_bytes as usize;
        if crc32fast::hash(&record[content_at..]) != header.content_crc {
            return Ok(None);
        }
        let meta = &record[RECORD_HEADER_BYTES..content_at];
        if crc32fast::hash(meta) != header.meta_crc {
            return Ok(None);
        }
        if header.own_file {
            let Ok(MessageMeta { body_crc: Some(crc), .. }) = serde_json::from_slice(meta) else {
                return Ok(None);
            };
            let Some(file) = self.read_own_file(id, header.body_bytes, crc)? else { return Ok(None) };
            let head = Bytes::from(record.split_off(content_at));
            return Ok(Some(Content { head, body: Body::File(file) }));
        }
        let head_bytes = header.head_bytes as usize;
        let mut content = Charge::new(&self.budget).attach(Bytes::from(record)).slice(content_at..);
        let head = content.split_to(head_bytes);
        Ok(Some(Content { head, body: Body::Memory(content) }))
    }

    fn open_body(&self, id: MessageId) -> io::Result<DiskFile> {
        match self.disk.open(&body_name(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.open(&draft_name(id)),
            opened => opened,
        }
    }

    /// Reads it once to check it: what is damaged must not be half-way to a next hop when that shows.
    fn read_own_file(&self, id: MessageId, len: u64, crc: u32) -> io::Result<Option<BodyFile>> {
        let file = Arc::new(self.open_body(id)?);
        if file.len()? != len {
            return Ok(None);
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = 0;
        while at < len {
            let want = usize::try_from(len - at).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
            file.read_exact_at(&mut chunk[..want], at)?;
            hasher.update(&chunk[..want]);
            at += want as u64;
        }
        Ok((hasher.finalize() == crc).then_some(BodyFile { file, len }))
    }
}

/// Tidies when called, and looks at the disk now and then. Ends with the spool.
async fn keep(spool: Weak<Inner>, called: Arc<Notify>) {
    let mut tick = TICK;
    loop {
        let pace = tokio::select! {
            () = called.notified() => Pace::Flow,
            () = tokio::time::sleep(tick) => Pace::Rest,
        };
        loop {
            let Some(inner) = spool.upgrade() else { return };
            if inner.closed.load(Ordering::Acquire) {
                return;
            }
            let round = tokio::task::spawn_blocking(move || {
                inner.has_room();
                (inner.keep(pace), *inner.pressure.borrow())
            });
            let Ok((more, pressure)) = round.await else { return };
            tick = if pressure == Pressure::Free { TICK } else { TICK_WHEN_FULL };
            if !more {
                break;
            }
            // Paced: between two rounds others have the disk.
            tokio::task::yield_now().await;
        }
    }
}
