//! Reclaim: the space of finished messages, given back while others wait for a day.
//!
//! Owns sealing, freeing from the front, rewriting the few that still live in an old segment, and the
//! bodies of finished messages. Works beside the accept path and holds the writer's lock for short writes only.
//! Order matters here more than anywhere: `docs/SPOOL.md` says why each step waits for the one before.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commit::Note;
use super::disk::DiskFile;
use super::format::{
    Kind, Location, LogName, MessageMeta, QuarantineMeta, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, body_name, draft_name, encode_trailer, push_index_entry, spare_name,
};
use super::index::{Entry, Index, Stage};
use super::progress::RecipientProgress;
use super::reader::SegmentReader;
use super::recovery::merge_progress;
use super::segment::{AppendError, Outgoing, Purpose, Rolled, Spare, Tail, is_full};
use super::{Inner, NotStored};
use crate::mail::MessageId;

/// So many bodies of finished messages wait before a sync is spent on them alone.
pub(super) const DEAD_BODIES_LIMIT: usize = 64;
/// Or this part of a segment.
const DEAD_BODIES_PART: u64 = 2;
/// Rewriting holds the writer's lock for about this much at a time.
const REWRITE_BYTES: u64 = 512 * 1024;
/// Kept while mail flows, to be recycled; at rest the reserve alone stays.
pub(super) const SPARES_IN_FLOW: usize = 2;
const SPARES_AT_REST: usize = 1;

/// How much tidying is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Mail flows: only what is needed soon.
    Flow,
    /// Nothing much happens: down to the bound.
    Rest,
}

/// A live message read for rewriting.
struct Rewrite {
    id: MessageId,
    from: Location,
    latest: Option<Location>,
    header: RecordHeader,
    meta: Vec<u8>,
    content: Vec<u8>,
}

impl Inner {
    /// One round; says whether another one would find work.
    pub(super) fn keep(self: &Arc<Self>, pace: Pace) -> bool {
        let _one_at_a_time = self.keeping.lock().expect("tidying never leaves its work half-done");
        if self.has_failed() {
            return false;
        }
        match self.keep_round(pace) {
            Ok(more) => more,
            Err(error) => {
                // A full disk stops tidying until there is room; anything else stops acceptance.
                let _: NotStored = self.refusal(&error);
                false
            }
        }
    }

    /// What gives room comes before what takes it, and want of room ends a step, not the round: otherwise a
    /// full disk would stay full.
    fn keep_round(self: &Arc<Self>, pace: Pace) -> io::Result<bool> {
        self.seal_rolled()?;
        let freed = none_if_full(self.free_finished(pace))? || self.free_front_with_its_ends()?;
        self.trim_spares(pace)?;
        let rewritten = none_if_full(self.rewrite_stragglers(pace))?;
        self.prepare_ahead()?;
        let given_up = self.is_tight() && self.give_up_waste()?;
        self.has_room();
        Ok(freed || rewritten || given_up)
    }

    /// Mail is refused, or soon will be, for want of room on the disk.
    fn is_tight(&self) -> bool {
        self.short_of_segments.load(Ordering::Acquire)
            || self.disk.free_bytes().unwrap_or(0) < self.settings.min_free_bytes
    }

    /// On a disk so small, what is set aside and what is written but over counts too: the reserve of a spool
    /// with nothing to deliver, and the end of the hot log when little in it is alive.
    fn give_up_waste(&self) -> io::Result<bool> {
        let mut writer = self.writer();
        let (idle, live_in_tail) = {
            let index = self.index();
            let tail = writer.hot.as_ref().and_then(|tail| index.segments.get(&(LogName::Hot, tail.number)));
            (index.live.messages == index.quarantined, tail.map_or(0, |segment| segment.live_bytes))
        };
        let spares = if idle { std::mem::take(&mut writer.spares) } else { Vec::new() };
        let rolls = writer.hot.as_ref().is_some_and(|tail| {
            let written = tail.used - SEGMENT_HEADER_BYTES;
            let worth_it = idle || tail.used > tail.capacity / 2;
            written > 0 && worth_it && written > 2 * live_in_tail
        });
        if rolls {
            writer.roll(&self.index, LogName::Hot, None);
        }
        drop(writer);
        for spare in &spares {
            self.disk.remove(&spare_name(spare.number))?;
        }
        Ok(rolls || !spares.is_empty())
    }

    pub(super) fn wants_next(&self, hot: &Tail) -> bool {
        hot.used >= hot.capacity - hot.capacity / 8
    }

    /// The reserve, and the next hot segment before it is needed, as far as there is room.
    fn prepare_ahead(&self) -> io::Result<()> {
        let mut writer = self.writer();
        if writer.spares.is_empty() {
            match writer.create_affordable(&self.disk) {
                Ok(spare) => writer.spares.push(spare),
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let wanted = writer.hot.as_ref().is_none_or(|hot| self.wants_next(hot)) && writer.next_hot.is_none();
        let mut short = false;
        if wanted {
            let highest_id = self.highest_id();
            match writer.prepare(&self.disk, LogName::Hot, Purpose::Accept, highest_id) {
                Ok(next) => writer.next_hot = Some(next),
                Err(error) if is_full(&error) => short = true,
                Err(error) => return Err(error),
            }
        }
        self.short_of_segments.store(short, Ordering::Release);
        Ok(())
    }

    /// Gives every segment that takes no more records its index.
    pub(super) fn seal_rolled(&self) -> io::Result<()> {
        loop {
            let Some(rolled) = self.writer().rolled.first().map(|rolled| Rolled {
                log: rolled.log,
                number: rolled.number,
                offsets: rolled.offsets.clone(),
            }) else {
                return Ok(());
            };
            self.seal(&rolled)?;
            // Only now: until it is synced, `all_sync_points` must find it.
            self.writer().rolled.retain(|other| (other.log, other.number) != (rolled.log, rolled.number));
        }
    }

    fn seal(&self, rolled: &Rolled) -> io::Result<()> {
        let key = (rolled.log, rolled.number);
        let (file, salt, used) = {
            let index = self.index();
            let Some(segment) = index.segments.get(&key) else { return Ok(()) };
            (segment.file.clone(), segment.salt, segment.used)
        };
        let mut entries = Vec::new();
        let mut sequence = 0;
        for offset in &rolled.offsets {
            let (header, bytes) = read_header_and_meta(&file, salt, *offset)?;
            sequence = sequence.max(header.sequence);
            // A message that is finished needs no finding again, but for its own file that may be there still.
            // Everything about others stays.
            if header.kind != Kind::Message || header.own_file || self.index().contains(header.id) {
                push_index_entry(&mut entries, salt, *offset, &header, &bytes[RECORD_HEADER_BYTES..]);
            }
        }
        let meta_bytes = u32::try_from(entries.len()).expect("an index is shorter than its segment");
        let header = RecordHeader {
            kind: Kind::Index,
            own_file: false,
            meta_bytes,
            sequence,
            id: MessageId::from_raw(0),
            body_bytes: 0,
            head_bytes: 0,
            meta_crc: crc32fast::hash(&entries),
            content_crc: 0,
            synced_to: super::segment::offset_of(used),
            previous: None,
        };
        let header = header.encode(salt);
        let trailer = encode_trailer(salt, used);
        let index_bytes = (header.len() + entries.len()) as u64;
        let end = used + index_bytes + trailer.len() as u64;
        let mut slices = [IoSlice::new(&header), IoSlice::new(&entries), IoSlice::new(&trailer)];
        // Its records are durable before an index speaks for them.
        self.disk.sync(&file)?;
        let file_bytes = match self.disk.write(&file, used, &mut slices) {
            Ok(()) => {
                // Cut before the sync: a trailer is looked for at the very end.
                self.disk.resize(&file, end)?;
                self.disk.sync(&file)?;
                end
            }
            Err(error) if is_full(&error) => {
                // Without an index it is searched at the next start. That costs time, not mail.
                self.disk.resize(&file, used)?;
                used
            }
            Err(error) => return Err(error),
        };
        if let Some(segment) = self.index().segments.get_mut(&key) {
            segment.stage = Stage::Sealed;
            segment.file_bytes = file_bytes;
        }
        Ok(())
    }

    /// Makes everything durable that any later step relies on: ends, rewritten copies, and the marks that
    /// void what the copies replace. A mark is written once the copy is durable, never before.
    fn barrier(&self) -> io::Result<()> {
        loop {
            let (points, moved) = {
                let mut writer = self.writer();
                self.write_owed(&mut writer);
                if !writer.owed.is_empty() {
                    return Err(nix::errno::Errno::ENOSPC.into());
                }
                (self.all_sync_points(&writer), std::mem::take(&mut writer.moved))
            };
            self.sync_all(&points)?;
            if moved.is_empty() {
                return Ok(());
            }
            self.writer().owed.extend(moved.into_iter().map(|id| (LogName::Hot, Note::moved(id))));
        }
    }

    pub(super) fn has_many_dead_bodies(&self, index: &Index) -> bool {
        index.dead_bodies.len() >= DEAD_BODIES_LIMIT
            || index.dead_body_bytes >= self.settings.segment_bytes / DEAD_BODIES_PART
    }

    /// Segments at the front of each log with nothing alive in them, and bodies of finished messages.
    fn free_finished(&self, pace: Pace) -> io::Result<bool> {
        let mut finished = Vec::new();
        let mut bodies = Vec::new();
        let mut body_bytes = 0;
        {
            let mut index = self.index();
            for log in LogName::BOTH {
                let dead = index
                    .log_segments(log)
                    .take_while(|(_, segment)| segment.stage == Stage::Sealed && segment.live_messages == 0);
                finished.extend(dead.map(|(number, segment)| (log, number, segment.damaged)));
            }
            if pace == Pace::Rest || self.has_many_dead_bodies(&index) || !finished.is_empty() {
                bodies = std::mem::take(&mut index.dead_bodies);
                body_bytes = index.dead_body_bytes;
            }
        }
        if finished.is_empty() && bodies.is_empty() {
            return Ok(false);
        }
        if let Err(error) = self.barrier() {
            self.index().dead_bodies.append(&mut bodies);
            return Err(error);
        }
        for id in &bodies {
            for name in [body_name(*id), draft_name(*id)] {
                match self.disk.remove(&name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        if !bodies.is_empty() {
            self.index().dead_body_bytes -= body_bytes;
            self.removed_bodies.store(true, Ordering::Release);
        }
        if !finished.is_empty() && self.removed_bodies.swap(false, Ordering::AcqRel) {
            // A body whose record is gone looks like one that was promised and lost its record. It may have been
            // removed rounds ago: nobody has synced the directory since.
            self.disk.sync_directory()?;
        }
        for (log, number, damaged) in finished {
            self.free_segment(log, number, damaged, pace)?;
            // In order: were a later one gone and an earlier one not, finished mail would rise again.
            self.disk.sync_directory()?;
        }
        Ok(true)
    }

    /// Where there is no room even for an end: the hot log's first segment goes when all that lives in it has
    /// ended, and those ends need no writing. What is needed of it elsewhere is durable first.
    fn free_front_with_its_ends(&self) -> io::Result<bool> {
        let (number, damaged, ends, points) = {
            let mut writer = self.writer();
            if writer.owed.is_empty() {
                return Ok(false);
            }
            self.write_owed(&mut writer);
            let index = self.index();
            let mut ends: HashMap<MessageId, Vec<u32>> = HashMap::new();
            for (_, note) in &writer.owed {
                // The outcome inside a notice must not be lost with the notice.
                if !note.ended().is_empty() && !index.contains(note.id()) {
                    return Ok(false);
                }
                ends.entry(note.id()).or_default().extend(note.ended());
            }
            let Some((number, front)) = index.front(LogName::Hot) else { return Ok(false) };
            let living = index.living_in(LogName::Hot, number);
            let over = |(id, entry): &(MessageId, &Entry)| {
                let mut open = entry.open.clone();
                ends.get(id).into_iter().flatten().for_each(|recipient| open.end(*recipient));
                open.is_empty()
            };
            if front.stage != Stage::Sealed || living.is_empty() || !living.iter().all(over) {
                return Ok(false);
            }
            let ids: Vec<_> = living.into_iter().map(|(id, _)| id).collect();
            let damaged = front.damaged;
            drop(index);
            let ends: HashMap<_, _> = ids.into_iter().filter_map(|id| ends.remove_entry(&id)).collect();
            (number, damaged, ends, self.all_sync_points(&writer))
        };
        self.sync_all(&points)?;
        {
            let mut writer = self.writer();
            writer.owed.retain(|(_, note)| !ends.contains_key(&note.id()));
            let mut index = self.index();
            for (id, ended) in &ends {
                index.progress(*id, None, ended);
            }
        }
        for id in ends.keys() {
            // Under this name it is a body if its record survives a crash now, and else nothing.
            match self.disk.rename(&body_name(*id), &draft_name(*id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.disk.sync_directory()?;
        self.free_segment(LogName::Hot, number, damaged, Pace::Rest)?;
        self.disk.sync_directory()?;
        Ok(true)
    }

    fn free_segment(&self, log: LogName, number: u64, damaged: bool, pace: Pace) -> io::Result<()> {
        let name = log.segment_name(number);
        let segment = self.index().segments.remove(&(log, number));
        if damaged {
            // What nobody can read may still be wanted: it is the operator's to delete.
            return self.disk.rename(&name, &format!("damaged-{name}"));
        }
        let wanted = match pace {
            Pace::Flow if !self.is_tight() => SPARES_IN_FLOW,
            Pace::Flow | Pace::Rest => SPARES_AT_REST,
        };
        let mut writer = self.writer();
        let Some(segment) = segment.filter(|_| writer.spares.len() < wanted) else {
            drop(writer);
            return self.disk.remove(&name);
        };
        let spare =
            Spare { number: writer.next_number, file_bytes: self.settings.segment_bytes / 2, blank: false };
        writer.next_number += 1;
        drop(writer);
        self.disk.rename(&name, &spare_name(spare.number))?;
        if segment.file_bytes > spare.file_bytes {
            self.disk.resize(&segment.file, spare.file_bytes)?;
        }
        if let Err(error) = self.disk.allocate(&segment.file, spare.file_bytes) {
            let _ = self.disk.remove(&spare_name(spare.number));
            return if is_full(&error) { Ok(()) } else { Err(error) };
        }
        self.writer().spares.push(spare);
        Ok(())
    }

    /// At rest the reserve alone stays; while mail flows, as many more as the bound has room for.
    fn trim_spares(&self, pace: Pace) -> io::Result<()> {
        loop {
            let spare = {
                let mut writer = self.writer();
                let bound = {
                    let index = self.index();
                    (2 * (index.live.bytes + self.settings.segment_bytes)).saturating_sub(index.bytes())
                };
                let fits = pace == Pace::Flow && writer.spare_bytes() <= bound;
                if fits || writer.spares.len() <= SPARES_AT_REST {
                    return Ok(());
                }
                writer.spares.pop().expect("more than one")
            };
            self.disk.remove(&spare_name(spare.number))?;
        }
    }

    /// Rewrites what lives in the oldest segment of the log that wastes most, when the spool is larger
    /// than twice what lives in it.
    fn rewrite_stragglers(self: &Arc<Self>, pace: Pace) -> io::Result<bool> {
        let spare_bytes = self.writer().spare_bytes();
        let allowance = match pace {
            Pace::Flow | Pace::Rest if self.is_tight() => 0,
            // What is set aside counts, and there is to be room for the hot log's next file.
            Pace::Flow => (self.settings.segment_bytes * 3 / 2).saturating_sub(spare_bytes),
            Pace::Rest => self.settings.segment_bytes,
        };
        let worst = {
            let index = self.index();
            let bytes = index.bytes();
            if bytes <= 2 * index.live.bytes + allowance {
                return Ok(false);
            }
            // Headers and indexes are no waste: rewriting would only make new ones, for ever.
            let waste = |log| {
                let closed = index.log_segments(log).filter(|(_, segment)| segment.stage == Stage::Sealed);
                closed
                    .map(|(_, segment)| segment.used - SEGMENT_HEADER_BYTES - segment.live_bytes)
                    .sum::<u64>()
            };
            let readable = |log: &LogName| index.front(*log).is_some_and(|(_, segment)| !segment.damaged);
            LogName::BOTH.into_iter().filter(readable).map(|log| (waste(log), log)).max()
        };
        match worst {
            Some((waste, log)) if waste > 0 => self.rewrite_front(log),
            Some(_) | None => self.close_wasteful_tail(),
        }
    }

    /// The deferred log's last segment may be what wastes: end it, so that it can be rewritten.
    fn close_wasteful_tail(&self) -> io::Result<bool> {
        let mut writer = self.writer();
        let Some(tail) = &writer.deferred else { return Ok(false) };
        let (number, used) = (tail.number, tail.used);
        let live = self.index().segments.get(&(LogName::Deferred, number)).map_or(0, |one| one.live_bytes);
        if used - SEGMENT_HEADER_BYTES <= 2 * live {
            return Ok(false);
        }
        writer.roll(&self.index, LogName::Deferred, None);
        Ok(true)
    }

    fn rewrite_front(self: &Arc<Self>, log: LogName) -> io::Result<bool> {
        let (number, file, salt, file_bytes) = {
            let index = self.index();
            let Some((number, segment)) = index.front(log) else { return Ok(false) };
            if segment.stage != Stage::Sealed {
                return Ok(false);
            }
            (number, segment.file.clone(), segment.salt, segment.file_bytes)
        };
        let entries = SegmentReader::new(&file, salt, file_bytes).entries()?;
        let mut chunk = Vec::new();
        let mut chunk_bytes = 0;
        for (offset, header, meta) in entries {
            let from = Location { segment: number, offset };
            let lives_here = |entry: &&Entry| entry.log == log && entry.at == from;
            let Some(entry) = self.index().get(header.id).filter(lives_here).cloned() else { continue };
            chunk_bytes += entry.record_bytes;
            match self.read_for_rewrite(&file, from, &entry, header, &meta) {
                Some(rewrite) => chunk.push(rewrite),
                None => {
                    // It stays where it is, and so does everything behind it.
                    let mut index = self.index();
                    index.quarantine(header.id);
                    if let Some(segment) = index.segments.get_mut(&(log, number)) {
                        segment.damaged = true;
                    }
                    return Ok(false);
                }
            }
            if chunk_bytes >= REWRITE_BYTES {
                self.append_rewritten(log, std::mem::take(&mut chunk))?;
                chunk_bytes = 0;
            }
        }
        self.append_rewritten(log, chunk)?;
        // The copies are durable before the segment goes: `free_finished` syncs before it frees.
        Ok(true)
    }

    fn read_for_rewrite(
        &self,
        file: &DiskFile,
        from: Location,
        entry: &Entry,
        header: RecordHeader,
        meta: &[u8],
    ) -> Option<Rewrite> {
        let mut meta: MessageMeta = serde_json::from_slice(meta).ok()?;
        meta.progress.resize(meta.envelope.recipients.len(), RecipientProgress::default());
        self.follow_chain(entry, &mut meta);
        if entry.quarantined && meta.quarantined.is_none() {
            meta.quarantined = Some("it was quarantined before it was rewritten".to_owned());
        }
        // What a notice says of its cause is in that message's own progress by now.
        meta.cause = None;
        let mut content = vec![0; usize::try_from(header.content_bytes()).ok()?];
        let content_at = u64::from(from.offset) + RECORD_HEADER_BYTES as u64 + u64::from(header.meta_bytes);
        file.read_exact_at(&mut content, content_at).ok()?;
        // Damaged content is carried along with its old checksum: reading it will tell.
        Some(Rewrite { id: header.id, from, latest: entry.latest, header, meta: meta.encode(), content })
    }

    /// Progress written since the message itself was, oldest first.
    fn follow_chain(&self, entry: &Entry, meta: &mut MessageMeta) {
        let mut changes = Vec::new();
        let mut next = entry.latest;
        while let Some(at) = next {
            let segment = {
                let index = self.index();
                index.segments.get(&(entry.log, at.segment)).map(|one| (one.file.clone(), one.salt))
            };
            // A link that cannot be read ends the chain: a recipient may be tried again, none is lost.
            let Some((file, salt)) = segment else { break };
            let Ok((header, bytes)) = read_header_and_meta(&file, salt, at.offset) else { break };
            let json = &bytes[RECORD_HEADER_BYTES..];
            match header.kind {
                Kind::Progress => changes.extend(serde_json::from_slice::<Vec<_>>(json)),
                Kind::Quarantined => {
                    meta.quarantined = serde_json::from_slice::<QuarantineMeta>(json).ok().map(|one| one.why);
                }
                Kind::Message | Kind::Notice | Kind::Moved | Kind::Index => break,
            }
            next = header.previous;
        }
        for change in changes.into_iter().rev() {
            merge_progress(&mut meta.progress, change);
        }
    }

    /// Appends copies to the deferred log, except of messages that have changed since they were read:
    /// those are read again in the next round.
    fn append_rewritten(self: &Arc<Self>, log: LogName, chunk: Vec<Rewrite>) -> io::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer();
        // What a durable notice says of its cause must not be missing in a copy of the cause.
        self.write_owed(&mut writer);
        let unchanged = |one: &Rewrite| {
            self.index()
                .get(one.id)
                .is_some_and(|now| now.log == log && now.at == one.from && now.latest == one.latest)
        };
        let chunk: Vec<Rewrite> = chunk.into_iter().filter(unchanged).collect();
        let bytes = chunk.iter().map(|one| one.record_bytes()).sum();
        let highest_id = self.highest_id();
        writer.make_room(&self.disk, &self.index, LogName::Deferred, bytes, Purpose::Outcome, highest_id)?;
        let sequences: Vec<u64> = chunk.iter().map(|_| writer.next_sequence()).collect();
        let tail = writer.deferred.as_mut().expect("room was made");
        let synced_to = tail.synced_to();
        let mut offset = 0;
        let mut places = Vec::with_capacity(chunk.len());
        let mut records = Vec::with_capacity(chunk.len());
        for (one, sequence) in chunk.iter().zip(sequences) {
            let header = RecordHeader {
                kind: Kind::Message,
                meta_bytes: u32::try_from(one.meta.len()).expect("an envelope is small"),
                meta_crc: crc32fast::hash(&one.meta),
                sequence,
                synced_to,
                previous: None,
                ..one.header
            };
            places.push((tail.location_after(offset), header.record_bytes()));
            offset += header.record_bytes();
            records.push(Outgoing { header, meta: &one.meta, head: &one.content, body: &[] });
        }
        match tail.append(&self.disk, &records) {
            Ok(()) => {}
            Err(AppendError::Full) => return Err(nix::errno::Errno::ENOSPC.into()),
            Err(AppendError::Broken(error)) => return Err(error),
        }
        drop(records);
        let mut index = self.index();
        index.measure(LogName::Deferred, tail);
        for (one, (at, record_bytes)) in chunk.iter().zip(places) {
            if let Some(entry) = index.get(one.id).cloned() {
                let entry = Entry { log: LogName::Deferred, at, record_bytes, latest: None, ..entry };
                index.place(one.id, entry);
            }
        }
        drop(index);
        if log == LogName::Hot {
            writer.moved.extend(chunk.iter().map(|one| one.id));
        }
        Ok(())
    }
}

impl Rewrite {
    fn record_bytes(&self) -> u64 {
        (RECORD_HEADER_BYTES + self.meta.len() + self.content.len()) as u64
    }
}

/// A step that found no room has done nothing more.
fn none_if_full(done: io::Result<bool>) -> io::Result<bool> {
    match done {
        Err(error) if is_full(&error) => Ok(false),
        done => done,
    }
}

fn read_header_and_meta(file: &DiskFile, salt: u64, offset: u32) -> io::Result<(RecordHeader, Vec<u8>)> {
    let mut bytes = vec![0; RECORD_HEADER_BYTES];
    file.read_exact_at(&mut bytes, u64::from(offset))?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a record header is damaged");
    let header = RecordHeader::decode(salt, &bytes).ok_or_else(damaged)?;
    bytes.resize(RECORD_HEADER_BYTES + header.meta_bytes as usize, 0);
    file.read_exact_at(&mut bytes[RECORD_HEADER_BYTES..], u64::from(offset) + RECORD_HEADER_BYTES as u64)?;
    if crc32fast::hash(&bytes[RECORD_HEADER_BYTES..]) != header.meta_crc {
        return Err(damaged());
    }
    Ok((header, bytes))
}

/// Shared with `commit`, which appends too.
impl super::index::Index {
    pub(super) fn measure(&mut self, log: LogName, tail: &Tail) {
        if let Some(segment) = self.segments.get_mut(&(log, tail.number)) {
            segment.file_bytes = tail.file_bytes;
            segment.used = tail.used;
        }
    }
}
