//! Commit: one `fdatasync` releases everyone who waits for it.
//!
//! Owns the list of those who wait, and its leader: whoever finds none at work starts one, detached, so
//! that no connection's end can cancel it. Progress rides along, and nobody waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::format::{
    Kind, Location, LogName, MessageMeta, QuarantineMeta, RecordHeader, body_name, draft_name,
};
use super::index::Entry;
use super::progress::{End, Open, RecipientProgress};
use super::segment::{AppendError, Outgoing, Purpose, Tail, Writer, is_full};
use super::{Inner, NO_ROOM, NotStored};
use crate::mail::MessageId;

/// One batch writes about this much before it syncs.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// Progress alone waits this long for company before it is written.
const PROGRESS_PATIENCE: Duration = Duration::from_millis(10);
/// More than this does not wait.
const PROGRESS_BYTES: u64 = 256 * 1024;

/// With this many messages in the last batch, others are surely about to come: the next batch waits for them.
/// Few sessions, or one alone, never wait for anybody.
const COMPANY: usize = 4;
/// It waits no longer than this, and not at all while no message is coming in.
const GATHER_PATIENCE: Duration = Duration::from_micros(300);
/// So many together are company enough.
const GATHER_ENOUGH: usize = 32;

/// So many changes may wait for room before they are summed up.
const OWED_AT_EASE: usize = 1024;

/// A message to be stored, encoded by its own task.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) kind: Kind,
    pub(super) id: MessageId,
    pub(super) meta: Vec<u8>,
    pub(super) meta_crc: u32,
    pub(super) head: Bytes,
    /// Empty when it has its own file.
    pub(super) body: Bytes,
    pub(super) body_bytes: u64,
    pub(super) own_file: bool,
    pub(super) content_crc: u32,
    pub(super) recipients: u32,
    /// Of a notice: what to write about the message that caused it, once the notice is durable.
    pub(super) cause: Option<Note>,
    pub(super) done: oneshot::Sender<Result<Stored, NotStored>>,
}

/// A change to a message that is already stored.
#[derive(Debug)]
pub(super) struct Note {
    kind: Kind,
    id: MessageId,
    meta: Vec<u8>,
    meta_crc: u32,
    ended: Vec<u32>,
}

impl Note {
    pub(super) fn progress(id: MessageId, changes: &[(u32, RecipientProgress)]) -> Self {
        let ended =
            changes.iter().filter(|(_, progress)| progress.end.is_some()).map(|(at, _)| *at).collect();
        Self::new(Kind::Progress, id, to_json(&changes), ended)
    }

    pub(super) fn quarantined(id: MessageId, why: &str) -> Self {
        Self::new(Kind::Quarantined, id, to_json(&QuarantineMeta { why: why.to_owned() }), Vec::new())
    }

    pub(super) fn moved(id: MessageId) -> Self {
        Self::new(Kind::Moved, id, Vec::new(), Vec::new())
    }

    fn new(kind: Kind, id: MessageId, meta: Vec<u8>, ended: Vec<u32>) -> Self {
        let meta_crc = crc32fast::hash(&meta);
        Self { kind, id, meta, meta_crc, ended }
    }

    pub(super) fn id(&self) -> MessageId {
        self.id
    }

    /// The recipients that it ends.
    pub(super) fn ended(&self) -> &[u32] {
        &self.ended
    }

    /// Takes in a later one about the same message.
    fn merge(&mut self, later: &Self) {
        let changes = |note: &Self| serde_json::from_slice::<Vec<_>>(&note.meta).expect("our own JSON");
        let mut merged: BTreeMap<u32, RecipientProgress> = changes(self).into_iter().collect();
        for (recipient, change) in changes(later) {
            let change: RecipientProgress = change;
            if merged.get(&recipient).is_none_or(|known| known.end.is_none() || change.end.is_some()) {
                merged.insert(recipient, change);
            }
        }
        *self = Self::progress(self.id, &merged.into_iter().collect::<Vec<_>>());
    }

    fn header(&self, sequence: u64, synced_to: u32, previous: Option<Location>) -> RecordHeader {
        RecordHeader {
            kind: self.kind,
            own_file: false,
            meta_bytes: u32::try_from(self.meta.len()).expect("progress is small"),
            sequence,
            id: self.id,
            body_bytes: 0,
            head_bytes: 0,
            meta_crc: self.meta_crc,
            content_crc: 0,
            synced_to,
            previous,
        }
    }

    fn record_bytes(&self) -> u64 {
        self.header(0, 0, None).record_bytes()
    }
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have a JSON form")
}

impl MessageMeta {
    pub(super) fn encode(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Store {
    fn header(&self, sequence: u64, synced_to: u32) -> RecordHeader {
        RecordHeader {
            kind: self.kind,
            own_file: self.own_file,
            meta_bytes: u32::try_from(self.meta.len()).expect("an envelope is small"),
            sequence,
            id: self.id,
            body_bytes: self.body_bytes,
            head_bytes: u32::try_from(self.head.len()).expect("our header lines are few"),
            meta_crc: self.meta_crc,
            content_crc: self.content_crc,
            synced_to,
            previous: None,
        }
    }

    fn record_bytes(&self) -> u64 {
        self.header(0, 0).record_bytes()
    }
}

/// Proof that a message is durable. Dropped unclaimed, as when its client did not wait, the message is
/// withdrawn: nobody heard a 250, and the client will send it again.
#[derive(Debug)]
pub(super) struct Stored {
    inner: Arc<Inner>,
    id: MessageId,
    recipients: u32,
    claimed: bool,
}

impl Stored {
    pub(super) fn claim(mut self) {
        self.claimed = true;
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if !self.claimed {
            let dropped = |recipient| (recipient, RecipientProgress::ended(End::Dropped));
            let changes: Vec<_> = (0..self.recipients).map(dropped).collect();
            self.inner.note(Note::progress(self.id, &changes));
        }
    }
}

/// Those who wait for the next batch.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    stores: VecDeque<Store>,
    notes: VecDeque<Note>,
    note_bytes: u64,
    flushes: Vec<oneshot::Sender<()>>,
    leading: bool,
    timer: bool,
    /// Messages in the batch before.
    company: usize,
    /// The leader waits for more to come.
    gathering: bool,
}

/// One message on its way in, from its first octet until it waits for its commit.
#[derive(Debug)]
pub(super) struct Coming(Arc<Inner>);

impl Coming {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        inner.coming.fetch_add(1, Ordering::Relaxed);
        Self(inner.clone())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.coming.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Batch {
    stores: Vec<Store>,
    notes: Vec<Note>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Waiting {
    fn take(&mut self, limit: u64) -> Option<Batch> {
        if self.stores.is_empty() && self.notes.is_empty() && self.flushes.is_empty() {
            return None;
        }
        let mut batch = Batch { notes: self.notes.drain(..).collect(), ..Batch::default() };
        self.note_bytes = 0;
        let mut bytes = 0;
        while let Some(store) = self.stores.front() {
            bytes += store.record_bytes();
            if bytes > limit && !batch.stores.is_empty() {
                break;
            }
            batch.stores.extend(self.stores.pop_front());
        }
        if self.stores.is_empty() {
            batch.flushes = std::mem::take(&mut self.flushes);
        }
        if !batch.stores.is_empty() {
            self.company = batch.stores.len();
        }
        Some(batch)
    }
}

impl Inner {
    /// Puts a message on the list; the answer comes through its `done`.
    pub(super) fn submit(self: &Arc<Self>, store: Store) {
        if self.has_failed() {
            let _ = store.done.send(Err(NotStored::Failed));
            return;
        }
        let mut waiting = self.waiting();
        waiting.stores.push_back(store);
        if waiting.gathering && !self.is_worth_waiting(&waiting) {
            self.gathered.notify_one();
        }
        self.lead_unless_led(&mut waiting);
    }

    /// Puts a change on the list; it is written soon.
    pub(super) fn note(self: &Arc<Self>, note: Note) {
        let mut waiting = self.waiting();
        waiting.note_bytes += note.record_bytes();
        waiting.notes.push_back(note);
        if waiting.leading {
            return;
        }
        if waiting.note_bytes >= PROGRESS_BYTES {
            self.lead_unless_led(&mut waiting);
        } else if !waiting.timer {
            waiting.timer = true;
            let inner = self.clone();
            self.runtime.spawn(async move {
                tokio::time::sleep(PROGRESS_PATIENCE).await;
                let mut waiting = inner.waiting();
                waiting.timer = false;
                if !waiting.notes.is_empty() {
                    inner.lead_unless_led(&mut waiting);
                }
            });
        }
    }

    /// Everything noted before this call is durable when the receiver hears of it.
    pub(super) fn flush(self: &Arc<Self>) -> oneshot::Receiver<()> {
        let (done, heard) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.flushes.push(done);
        self.gathered.notify_one();
        self.lead_unless_led(&mut waiting);
        heard
    }

    fn lead_unless_led(self: &Arc<Self>, waiting: &mut Waiting) {
        if !waiting.leading {
            waiting.leading = true;
            let inner = self.clone();
            // Blocking, so that a paused clock stays paused; detached, so that nothing cancels it.
            self.runtime.spawn_blocking(move || inner.lead());
        }
    }

    fn lead(self: &Arc<Self>) {
        let guard = LeaderGuard(self);
        let limit = BATCH_BYTES.min(self.settings.segment_bytes / 2);
        loop {
            let mut waiting = self.gather(self.waiting());
            let Some(batch) = waiting.take(limit) else {
                waiting.leading = false;
                drop(waiting);
                std::mem::forget(guard);
                return;
            };
            drop(waiting);
            self.write_batch(batch);
        }
    }

    /// Where many come at a time, lets a few more join: one sync serves them all, and the processors have the
    /// others to work on meanwhile.
    fn gather<'a>(&self, mut waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        if waiting.company < COMPANY || waiting.stores.is_empty() || !self.is_worth_waiting(&waiting) {
            return waiting;
        }
        waiting.gathering = true;
        let more = |waiting: &mut Waiting| self.is_worth_waiting(waiting);
        let (mut waiting, _) = self
            .gathered
            .wait_timeout_while(waiting, GATHER_PATIENCE, more)
            .expect("the list is never left half-changed");
        waiting.gathering = false;
        waiting
    }

    fn is_worth_waiting(&self, waiting: &Waiting) -> bool {
        waiting.stores.len() < GATHER_ENOUGH
            && waiting.flushes.is_empty()
            && self.coming.load(Ordering::Relaxed) > 0
    }

    fn write_batch(self: &Arc<Self>, batch: Batch) {
        let Batch { mut stores, notes, flushes } = batch;
        if self.has_failed() {
            // Nothing more is promised or written: what the file holds after a failed sync is unknown.
            refuse(stores, NotStored::Failed);
            return;
        }
        let mut writer = self.writer();
        if !stores.is_empty() && !self.has_room() {
            // The watermark comes before the real end: outcomes still fit. Rule 60.
            let (accepted, urgent) = stores.into_iter().partition(|store| store.kind == Kind::Message);
            refuse(accepted, NotStored::Full);
            stores = urgent;
        }
        self.queue_notes(&mut writer, notes);
        self.write_owed(&mut writer);
        let (placed, mut unsynced) = self.write_stores(&mut writer, stores);
        if !flushes.is_empty() {
            unsynced = self.all_sync_points(&writer);
        }
        let nearly_full =
            writer.hot.as_ref().is_none_or(|tail| self.wants_next(tail)) && writer.next_hot.is_none();
        let rolled = !writer.rolled.is_empty();
        drop(writer);

        // 250 is a promise: nothing before this line may be lost. RFC 5321 §4.2.5
        if let Err(error) = self.sync_all(&unsynced) {
            self.fail(&error);
            refuse(placed.into_iter().map(|(store, _)| store).collect(), NotStored::Failed);
            return;
        }
        self.release(placed);
        for flush in flushes {
            let _ = flush.send(());
        }
        if nearly_full || rolled || self.has_many_dead_bodies(&self.index()) {
            self.keeper.notify_one();
        }
    }

    /// Appends the batch's messages to the hot log; refuses those that do not fit.
    fn write_stores(
        &self,
        writer: &mut Writer,
        stores: Vec<Store>,
    ) -> (Vec<(Store, Location)>, Vec<SyncPoint>) {
        let (accepted, urgent): (Vec<_>, Vec<_>) =
            stores.into_iter().partition(|store| store.kind == Kind::Message);
        let mut placed = Vec::with_capacity(accepted.len() + urgent.len());
        let mut unsynced = Vec::new();
        for (purpose, stores) in [(Purpose::Accept, accepted), (Purpose::Outcome, urgent)] {
            if stores.is_empty() {
                continue;
            }
            let bytes = stores.iter().map(Store::record_bytes).sum();
            let highest_id = self.highest_id();
            let room = writer.make_room(&self.disk, &self.index, LogName::Hot, bytes, purpose, highest_id);
            if let Err(error) = room {
                refuse(stores, self.refusal(&error));
                // Tidying may give some room back.
                self.keeper.notify_one();
                continue;
            }
            let sequences: Vec<u64> = stores.iter().map(|_| writer.next_sequence()).collect();
            let tail = writer.hot.as_mut().expect("room was made");
            let synced_to = tail.synced_to();
            let mut offset = 0;
            let mut locations = Vec::with_capacity(stores.len());
            let mut records = Vec::with_capacity(stores.len());
            for (store, sequence) in stores.iter().zip(sequences) {
                let header = store.header(sequence, synced_to);
                locations.push(tail.location_after(offset));
                offset += header.record_bytes();
                records.push(Outgoing { header, meta: &store.meta, head: &store.head, body: &store.body });
            }
            match tail.append(&self.disk, &records) {
                Ok(()) => {
                    drop(records);
                    self.index().measure(LogName::Hot, tail);
                    unsynced.push(sync_point(tail));
                    placed.extend(stores.into_iter().zip(locations));
                }
                Err(AppendError::Full) => {
                    self.found_no_room();
                    refuse(stores, NotStored::Full);
                }
                Err(AppendError::Broken(error)) => {
                    self.fail(&error);
                    refuse(stores, NotStored::Failed);
                }
            }
        }
        (placed, unsynced)
    }

    /// Whatever may hold bytes that are not durable yet.
    pub(super) fn all_sync_points(&self, writer: &Writer) -> Vec<SyncPoint> {
        let mut points: Vec<SyncPoint> =
            [&writer.hot, &writer.deferred].into_iter().flatten().map(sync_point).collect();
        let index = self.index();
        for rolled in &writer.rolled {
            if let Some(segment) = index.segments.get(&(rolled.log, rolled.number)) {
                points.push((segment.file.clone(), Arc::default(), segment.used));
            }
        }
        points
    }

    pub(super) fn sync_all(&self, points: &[SyncPoint]) -> std::io::Result<()> {
        for (file, synced, used) in points {
            self.disk.sync(file)?;
            synced.fetch_max(*used, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Sorts changes into the logs where their messages live; of finished messages none is needed.
    fn queue_notes(&self, writer: &mut Writer, notes: Vec<Note>) {
        let index = self.index();
        for note in notes {
            if let Some(entry) = index.get(note.id) {
                writer.owed.push((entry.log, note));
            }
        }
    }

    /// Writes what is owed, without a sync; what finds no room stays owed.
    pub(super) fn write_owed(&self, writer: &mut Writer) {
        for log in LogName::BOTH {
            let mut mine = Vec::new();
            {
                let index = self.index();
                let owed = std::mem::take(&mut writer.owed);
                for (there, note) in owed {
                    // It may have been rewritten to the other log since. `Moved` is about the hot log alone.
                    let now = match note.kind {
                        Kind::Moved => there,
                        _ => index.get(note.id).map_or(there, |entry| entry.log),
                    };
                    if now == log { mine.push(note) } else { writer.owed.push((now, note)) }
                }
            }
            if mine.is_empty() {
                continue;
            }
            let bytes = mine.iter().map(Note::record_bytes).sum();
            let highest_id = self.highest_id();
            let room = writer.make_room(&self.disk, &self.index, log, bytes, Purpose::Outcome, highest_id);
            if let Err(error) = room {
                if self.refusal(&error) == NotStored::Full {
                    writer.owed.extend(mine.into_iter().map(|note| (log, note)));
                    self.bound_owed(writer);
                }
                continue;
            }
            let sequences: Vec<u64> = mine.iter().map(|_| writer.next_sequence()).collect();
            let tail = writer.tail(log).as_mut().expect("room was made");
            let synced_to = tail.synced_to();
            let mut latest = std::collections::HashMap::new();
            let mut places = Vec::with_capacity(mine.len());
            let mut records = Vec::with_capacity(mine.len());
            let mut offset = 0;
            {
                let index = self.index();
                for (note, sequence) in mine.iter().zip(sequences) {
                    let at = tail.location_after(offset);
                    let previous = latest
                        .insert(note.id, at)
                        .or_else(|| index.get(note.id).and_then(|entry| entry.latest));
                    let header = note.header(sequence, synced_to, previous);
                    offset += header.record_bytes();
                    places.push(at);
                    records.push(Outgoing { header, meta: &note.meta, head: &[], body: &[] });
                }
            }
            match tail.append(&self.disk, &records) {
                Ok(()) => {
                    drop(records);
                    let mut index = self.index();
                    index.measure(log, tail);
                    for (note, at) in mine.iter().zip(places) {
                        match note.kind {
                            Kind::Progress => index.progress(note.id, Some(at), &note.ended),
                            Kind::Quarantined => {
                                index.quarantine(note.id);
                                index.progress(note.id, Some(at), &[]);
                            }
                            Kind::Moved | Kind::Message | Kind::Notice | Kind::Index => {}
                        }
                    }
                }
                Err(AppendError::Full) => {
                    drop(records);
                    self.is_short(NO_ROOM);
                    writer.owed.extend(mine.into_iter().map(|note| (log, note)));
                    self.bound_owed(writer);
                }
                Err(AppendError::Broken(error)) => self.fail(&error),
            }
        }
    }

    /// What cannot be written must not heap up: of each message the sum is enough.
    fn bound_owed(&self, writer: &mut Writer) {
        let live = usize::try_from(self.index().live.messages).unwrap_or(usize::MAX);
        if writer.owed.len() < live.saturating_mul(4).max(OWED_AT_EASE) {
            return;
        }
        let mut sums: BTreeMap<MessageId, usize> = BTreeMap::new();
        let mut kept: Vec<(LogName, Note)> = Vec::new();
        for (log, note) in std::mem::take(&mut writer.owed) {
            match sums.get(&note.id) {
                Some(at) if note.kind == Kind::Progress => kept[*at].1.merge(&note),
                Some(_) | None => {
                    if note.kind == Kind::Progress {
                        sums.insert(note.id, kept.len());
                    }
                    kept.push((log, note));
                }
            }
        }
        writer.owed = kept;
    }

    /// They are durable: into the index with them, and say so.
    fn release(self: &Arc<Self>, placed: Vec<(Store, Location)>) {
        if placed.is_empty() {
            return;
        }
        for (store, _) in placed.iter().filter(|(store, _)| store.own_file) {
            // From here on the file alone tells that it was promised. A name that stays is found, too.
            let _ = self.disk.rename(&draft_name(store.id), &body_name(store.id));
        }
        let mut owed = Vec::new();
        let mut answers = Vec::with_capacity(placed.len());
        {
            let mut index = self.index();
            for (mut store, at) in placed {
                let entry = Entry {
                    log: LogName::Hot,
                    at,
                    record_bytes: store.record_bytes(),
                    own_file_bytes: if store.own_file { store.body_bytes } else { 0 },
                    latest: None,
                    open: Open::all(store.recipients as usize),
                    quarantined: false,
                };
                index.place(store.id, entry);
                if let Some(note) = store.cause.take()
                    && let Some(cause) = index.get(note.id)
                {
                    let log = cause.log;
                    index.progress(note.id, None, &note.ended);
                    owed.push((log, note));
                }
                let stored = Stored {
                    inner: self.clone(),
                    id: store.id,
                    recipients: store.recipients,
                    // Its cause has ended with it: a notice that came too late to be heard of still goes out.
                    claimed: store.kind == Kind::Notice,
                };
                answers.push((store.done, stored));
            }
        }
        if !owed.is_empty() {
            self.writer().owed.extend(owed);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        for (done, stored) in answers {
            // Nobody listening is an answer too: the message is withdrawn when `stored` is dropped.
            let _ = done.send(Ok(stored));
        }
    }

    pub(super) fn refusal(&self, error: &std::io::Error) -> NotStored {
        if is_full(error) {
            self.is_short(NO_ROOM);
            return NotStored::Full;
        }
        self.fail(error);
        NotStored::Failed
    }
}

/// A file, and how far it is durable once it was synced.
pub(super) type SyncPoint = (Arc<super::disk::DiskFile>, Arc<std::sync::atomic::AtomicU64>, u64);

fn sync_point(tail: &Tail) -> SyncPoint {
    (tail.file.clone(), tail.synced.clone(), tail.used)
}

fn refuse(stores: Vec<Store>, why: NotStored) {
    for store in stores {
        let _ = store.done.send(Err(why));
    }
}

/// A leader that panics leaves no one waiting for ever, and nobody believing in its log.
struct LeaderGuard<'a>(&'a Arc<Inner>);

impl Drop for LeaderGuard<'_> {
    fn drop(&mut self) {
        self.0.fail(&std::io::Error::other("the commit ended early"));
        let mut waiting = match self.0.waiting.lock() {
            Ok(waiting) => waiting,
            Err(poisoned) => poisoned.into_inner(),
        };
        // Dropping their senders answers them.
        *waiting = Waiting::default();
    }
}
