//! Index: what is alive, and where it lies. In memory only; recovery rebuilds it.
//!
//! Owns about a hundred bytes for each live message, and what each segment holds of living ones.
//! Envelopes are the queue's to keep, and progress stays on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk::DiskFile;
use super::format::{Location, LogName};
use super::progress::Open;
use crate::mail::MessageId;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// A tree, not a hash table: it never stops to rehash a million entries.
    messages: BTreeMap<MessageId, Entry>,
    pub(super) segments: BTreeMap<(LogName, u64), Segment>,
    pub(super) live: Live,
    pub(super) quarantined: u64,
    /// Bodies of finished messages, to be removed once the record of their end is durable.
    pub(super) dead_bodies: Vec<MessageId>,
    pub(super) dead_body_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) messages: u64,
    /// Records and own files.
    pub(super) bytes: u64,
    /// Own files of live messages.
    pub(super) own_file_bytes: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) log: LogName,
    pub(super) at: Location,
    pub(super) record_bytes: u64,
    /// Of a body in its own file; else zero.
    pub(super) own_file_bytes: u64,
    /// The last progress record since the message was last written.
    pub(super) latest: Option<Location>,
    pub(super) open: Open,
    pub(super) quarantined: bool,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<DiskFile>,
    pub(super) salt: u64,
    /// What it takes on disk.
    pub(super) file_bytes: u64,
    /// Where its records end.
    pub(super) used: u64,
    pub(super) live_messages: u64,
    pub(super) live_bytes: u64,
    pub(super) stage: Stage,
    /// It holds a damaged record: kept for the operator when all else in it is finished.
    pub(super) damaged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Takes records.
    Active,
    /// Takes no more records, but has no index yet.
    Rolled,
    /// Ends in its index, or never will because of damage.
    Sealed,
}

impl Index {
    pub(super) fn get(&self, id: MessageId) -> Option<&Entry> {
        self.messages.get(&id)
    }

    pub(super) fn contains(&self, id: MessageId) -> bool {
        self.messages.contains_key(&id)
    }

    /// A message came to lie somewhere, or to lie somewhere else.
    pub(super) fn place(&mut self, id: MessageId, entry: Entry) {
        self.forget(id);
        self.live.messages += 1;
        self.live.bytes += entry.record_bytes + entry.own_file_bytes;
        self.live.own_file_bytes += entry.own_file_bytes;
        self.quarantined += u64::from(entry.quarantined);
        if let Some(segment) = self.segments.get_mut(&(entry.log, entry.at.segment)) {
            segment.live_messages += 1;
            segment.live_bytes += entry.record_bytes;
        }
        self.messages.insert(id, entry);
    }

    /// The progress of a message was written; a message whose recipients have all ended is forgotten.
    pub(super) fn progress(&mut self, id: MessageId, at: Option<Location>, ended: &[u32]) {
        let Some(entry) = self.messages.get_mut(&id) else { return };
        if let Some(at) = at {
            entry.latest = Some(at);
        }
        for recipient in ended {
            entry.open.end(*recipient);
        }
        if entry.open.is_empty()
            && let Some(entry) = self.forget(id)
            && entry.own_file_bytes > 0
        {
            self.dead_bodies.push(id);
            self.dead_body_bytes += entry.own_file_bytes;
        }
    }

    pub(super) fn quarantine(&mut self, id: MessageId) {
        if let Some(entry) = self.messages.get_mut(&id)
            && !entry.quarantined
        {
            entry.quarantined = true;
            self.quarantined += 1;
        }
    }

    fn forget(&mut self, id: MessageId) -> Option<Entry> {
        let entry = self.messages.remove(&id)?;
        self.live.messages -= 1;
        self.live.bytes -= entry.record_bytes + entry.own_file_bytes;
        self.live.own_file_bytes -= entry.own_file_bytes;
        self.quarantined -= u64::from(entry.quarantined);
        if let Some(segment) = self.segments.get_mut(&(entry.log, entry.at.segment)) {
            segment.live_messages -= 1;
            segment.live_bytes -= entry.record_bytes;
        }
        Some(entry)
    }

    /// The oldest segment of a log.
    pub(super) fn front(&self, log: LogName) -> Option<(u64, &Segment)> {
        let (key, segment) = self.segments.range((log, 0)..=(log, u64::MAX)).next()?;
        Some((key.1, segment))
    }

    /// The messages in one segment. Looks at all: for rare use.
    pub(super) fn living_in(&self, log: LogName, segment: u64) -> Vec<(MessageId, &Entry)> {
        let here = |entry: &&Entry| entry.log == log && entry.at.segment == segment;
        self.messages.iter().filter(|(_, entry)| here(entry)).map(|(id, entry)| (*id, entry)).collect()
    }

    pub(super) fn log_segments(&self, log: LogName) -> impl Iterator<Item = (u64, &Segment)> {
        self.segments.range((log, 0)..=(log, u64::MAX)).map(|(key, segment)| (key.1, segment))
    }

    /// All files but the spares.
    pub(super) fn bytes(&self) -> u64 {
        self.segment_bytes() + self.live.own_file_bytes + self.dead_body_bytes
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.file_bytes).sum()
    }
}
