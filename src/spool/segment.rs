//! Segments: the ends of the two logs, where records are appended.
//!
//! Owns rolling to a new segment, preparing one ahead, the reserve for a full disk, and what is done
//! after a failed write. Does not sync what it appends: `commit` and `reclaim` say when.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::commit::Note;
use super::disk::{Disk, DiskFile};
use super::format::{
    Location, LogName, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, spare_name,
};
use super::index::{Index, Segment, Stage};
use crate::chance::Chance;
use crate::mail::MessageId;

/// Where there is no room for a whole segment, smaller ones are made, down to this.
pub(super) const SMALLEST_BYTES: u64 = 16 * 1024;

/// Why a new segment is wanted. What came in may not use up the reserve; what empties the spool may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Accept,
    Outcome,
}

/// Where the file of a new segment comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A spare beyond the reserve.
    Recycled,
    /// A new file with blocks of its own, as far as that leaves free what must stay free.
    New,
    Reserve,
    /// A new file that grows as it is written.
    Bare,
}

/// The writing side of both logs, under one lock that is never held during a sync of accepted mail.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) hot: Option<Tail>,
    pub(super) deferred: Option<Tail>,
    /// The hot log's next segment, ready.
    pub(super) next_hot: Option<Tail>,
    /// Files with blocks but no content; the last of them is the reserve.
    pub(super) spares: Vec<Spare>,
    pub(super) next_number: u64,
    pub(super) sequence: u64,
    pub(super) chance: Chance,
    pub(super) segment_bytes: u64,
    /// Of a file of the hot log: half a segment, so that the one that fills, the next one, the reserve and one
    /// that empties are two segments together.
    pub(super) hot_bytes: u64,
    /// What only outcomes may use of the file system.
    pub(super) min_free_bytes: u64,
    /// Segments that take no more records, with where those lie, until they are sealed.
    pub(super) rolled: Vec<Rolled>,
    /// Progress that must still be written: it repeats the cause inside a notice, or could not be written.
    pub(super) owed: Vec<(LogName, Note)>,
    /// Messages with a copy in the deferred log that may not be durable yet.
    pub(super) moved: Vec<MessageId>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Spare {
    pub(super) number: u64,
    pub(super) file_bytes: u64,
    /// Nothing was ever written to it.
    pub(super) blank: bool,
}

#[derive(Debug)]
pub(super) struct Rolled {
    pub(super) log: LogName,
    pub(super) number: u64,
    pub(super) offsets: Vec<u32>,
}

/// The segment at the end of a log.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) file: Arc<DiskFile>,
    pub(super) used: u64,
    pub(super) capacity: u64,
    pub(super) file_bytes: u64,
    /// Known to be durable up to here; moved on by whoever synced, without the lock.
    pub(super) synced: Arc<AtomicU64>,
    pub(super) offsets: Vec<u32>,
}

/// A record ready to be written: its header, and the bytes that follow it.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) header: RecordHeader,
    pub(super) meta: &'a [u8],
    pub(super) head: &'a [u8],
    /// Empty when the body has its own file.
    pub(super) body: &'a [u8],
}

impl Writer {
    pub(super) fn tail(&mut self, log: LogName) -> &mut Option<Tail> {
        match log {
            LogName::Hot => &mut self.hot,
            LogName::Deferred => &mut self.deferred,
        }
    }

    /// What is set aside, or ready.
    pub(super) fn spare_bytes(&self) -> u64 {
        let spares: u64 = self.spares.iter().map(|spare| spare.file_bytes).sum();
        spares + self.next_hot.as_ref().map_or(0, |next| next.file_bytes)
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Sees to it that `bytes` more fit into the log's last segment, with a new one if need be.
    pub(super) fn make_room(
        &mut self,
        disk: &Disk,
        index: &std::sync::Mutex<Index>,
        log: LogName,
        bytes: u64,
        purpose: Purpose,
        highest_id: MessageId,
    ) -> io::Result<()> {
        if let Some(tail) = self.tail(log)
            && (tail.used + bytes <= tail.capacity || tail.used == SEGMENT_HEADER_BYTES)
        {
            return Ok(());
        }
        let tail = match (log, self.next_hot.take()) {
            (LogName::Hot, Some(next)) => next,
            (_, next) => {
                self.next_hot = next;
                self.prepare(disk, log, purpose, highest_id)?
            }
        };
        self.roll(index, log, Some(tail));
        Ok(())
    }

    /// Ends the log's last segment, and goes on with `tail`.
    pub(super) fn roll(&mut self, index: &std::sync::Mutex<Index>, log: LogName, tail: Option<Tail>) {
        let mut index = index.lock().expect("the index is never left half-changed");
        if let Some(tail) = &tail {
            let segment = Segment {
                file: tail.file.clone(),
                salt: tail.salt,
                file_bytes: tail.file_bytes,
                used: tail.used,
                live_messages: 0,
                live_bytes: 0,
                stage: Stage::Active,
                damaged: false,
            };
            index.segments.insert((log, tail.number), segment);
        }
        if let Some(old) = std::mem::replace(self.tail(log), tail) {
            let segment = index.segments.get_mut(&(log, old.number)).expect("a tail is in the index");
            segment.stage = Stage::Rolled;
            segment.used = old.used;
            self.rolled.push(Rolled { log, number: old.number, offsets: old.offsets });
        }
    }

    /// Makes a segment whose name and header are durable, so that a 250 may rely on it.
    pub(super) fn prepare(
        &mut self,
        disk: &Disk,
        log: LogName,
        purpose: Purpose,
        highest_id: MessageId,
    ) -> io::Result<Tail> {
        let sources: &[Source] = match (log, purpose) {
            (LogName::Hot, Purpose::Accept) => &[Source::Recycled, Source::New],
            (LogName::Hot, Purpose::Outcome) => {
                &[Source::Recycled, Source::New, Source::Reserve, Source::Bare]
            }
            // It grows as it is written: it is in nobody's way, and blocks set aside would count.
            (LogName::Deferred, _) => &[Source::Recycled, Source::Bare, Source::Reserve],
        };
        for source in sources {
            let made = match self.take_spare(disk, *source) {
                Ok(Some(spare)) => self.begin(disk, log, spare, highest_id),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match made {
                Err(error) if is_full(&error) => {}
                made => return made,
            }
        }
        Err(nix::errno::Errno::ENOSPC.into())
    }

    fn take_spare(&mut self, disk: &Disk, source: Source) -> io::Result<Option<Spare>> {
        match source {
            Source::Recycled if self.spares.len() > 1 => Ok(self.spares.pop()),
            Source::Recycled => Ok(None),
            Source::New => self.create_affordable(disk).map(Some),
            Source::Reserve => Ok(self.spares.pop()),
            Source::Bare => self.create_spare(disk, 0).map(Some),
        }
    }

    /// Makes a segment of a spare.
    fn begin(&mut self, disk: &Disk, log: LogName, spare: Spare, highest_id: MessageId) -> io::Result<Tail> {
        let number = self.next_number;
        self.next_number += 1;
        let salt = self.chance.next_u64();
        let (blank, highest_id) = (spare.blank, highest_id.raw());
        let header = SegmentHeader { log, number, salt, highest_id, blank };
        let (from, name) = (spare_name(spare.number), log.segment_name(number));
        let made = (|| {
            let file = disk.open(&from)?;
            disk.write(&file, 0, &mut [IoSlice::new(&header.encode())])?;
            disk.sync(&file)?;
            disk.rename(&from, &name)?;
            Ok(file)
        })();
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // Blocks set aside do not run out: it had none, and is of no use.
                if is_full(&error) {
                    let _ = disk.remove(&from);
                }
                return Err(error);
            }
        };
        // The directory entry is durable before the first 250 that relies on it. After an error the next
        // start finds no record in it.
        disk.sync_directory()?;
        let capacity = match log {
            LogName::Hot if spare.file_bytes > 0 => self.hot_bytes.min(spare.file_bytes),
            LogName::Hot => self.hot_bytes,
            LogName::Deferred => self.segment_bytes,
        };
        Ok(Tail {
            number,
            salt,
            file: Arc::new(file),
            used: SEGMENT_HEADER_BYTES,
            capacity,
            file_bytes: spare.file_bytes.max(SEGMENT_HEADER_BYTES),
            synced: Arc::new(AtomicU64::new(SEGMENT_HEADER_BYTES)),
            offsets: Vec::new(),
        })
    }

    /// A new file, as large as one of the hot log or smaller, that leaves free what must stay free.
    pub(super) fn create_affordable(&mut self, disk: &Disk) -> io::Result<Spare> {
        let free = disk.free_bytes()?;
        let mut bytes = self.hot_bytes;
        loop {
            if free >= self.min_free_bytes.saturating_add(bytes) {
                match self.create_spare(disk, bytes) {
                    Err(error) if is_full(&error) => {}
                    made => return made,
                }
            }
            bytes /= 2;
            if bytes < SMALLEST_BYTES {
                return Err(nix::errno::Errno::ENOSPC.into());
            }
        }
    }

    /// A new file with `bytes` of blocks.
    pub(super) fn create_spare(&mut self, disk: &Disk, bytes: u64) -> io::Result<Spare> {
        let number = self.next_number;
        self.next_number += 1;
        let name = spare_name(number);
        let file = disk.create(&name)?;
        if bytes > 0
            && let Err(error) = disk.allocate(&file, bytes)
        {
            // A file system may have set a part of it aside. A spare that stays is found at the next start.
            let _ = disk.remove(&name);
            return Err(error);
        }
        Ok(Spare { number, file_bytes: bytes, blank: true })
    }
}

impl Tail {
    pub(super) fn synced_to(&self) -> u32 {
        offset_of(self.synced.load(Ordering::Acquire))
    }

    /// Where records of these lengths would come to lie.
    pub(super) fn location_after(&self, bytes: u64) -> Location {
        Location { segment: self.number, offset: offset_of(self.used + bytes) }
    }

    /// Writes records at the end. After an error the segment ends where it ended before.
    pub(super) fn append(&mut self, disk: &Disk, records: &[Outgoing<'_>]) -> Result<(), AppendError> {
        let headers: Vec<[u8; RECORD_HEADER_BYTES]> =
            records.iter().map(|record| record.header.encode(self.salt)).collect();
        let mut slices = Vec::with_capacity(records.len() * 4);
        for (header, record) in headers.iter().zip(records) {
            let parts: [&[u8]; 4] = [header, record.meta, record.head, record.body];
            slices.extend(parts.into_iter().filter(|part| !part.is_empty()).map(IoSlice::new));
        }
        match disk.write(&self.file, self.used, &mut slices) {
            Ok(()) => {
                for record in records {
                    self.offsets.push(offset_of(self.used));
                    self.used += record.header.record_bytes();
                }
                self.file_bytes = self.file_bytes.max(self.used);
                Ok(())
            }
            Err(error) if is_full(&error) => {
                // What was written of it must not be found later as if it had been promised.
                disk.resize(&self.file, self.used).map_err(AppendError::Broken)?;
                self.file_bytes = self.used;
                let again = self.capacity.min(self.file_bytes.max(self.capacity));
                match disk.allocate(&self.file, again) {
                    Ok(()) => self.file_bytes = again,
                    // No more room in this one: the next batch rolls, once there is room for that.
                    Err(_) => self.capacity = self.used,
                }
                Err(AppendError::Full)
            }
            Err(error) => Err(AppendError::Broken(error)),
        }
    }
}

#[derive(Debug)]
pub(super) enum AppendError {
    /// The disk is full; nothing was appended.
    Full,
    /// The end of the segment is unknown.
    Broken(io::Error),
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Offsets are kept in 32 bits: `Settings` keeps segments well below 4 GiB.
pub(super) fn offset_of(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("a segment is shorter than 4 GiB")
}
