//! Reader: one segment as it lies on disk, by its index or record by record, past whatever is damaged.
//!
//! Says what is whole and what is not; what follows from that is `recovery`'s and `reclaim`'s.

use std::io;

use super::disk::DiskFile;
use super::format::{
    Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, TRAILER_BYTES, TrailerRead,
    decode_trailer, find_flipped, find_marker, index_entries,
};
use crate::mail::MessageId;

/// Reading ahead while a segment is searched.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Looked at as one when zeros are skipped.
const BLOCK_BYTES: usize = 4096;

/// A disk writes a sector or does not. Of a header across two, one may be missing, and that can look like a
/// single flipped bit.
fn is_in_one_sector(header_at: u64) -> bool {
    const SECTOR_BYTES: u64 = 512;
    header_at / SECTOR_BYTES == (header_at + RECORD_HEADER_BYTES as u64 - 1) / SECTOR_BYTES
}

/// Reads one segment.
pub(super) struct SegmentReader<'a> {
    pub(super) file: &'a DiskFile,
    pub(super) salt: u64,
    pub(super) len: u64,
    /// All behind the header was zero when the segment began.
    pub(super) was_blank: bool,
    window: Vec<u8>,
    window_at: u64,
}

pub(super) enum SealedIndex {
    Whole {
        entries: Vec<(u32, RecordHeader, Vec<u8>)>,
        used: u64,
    },
    /// The records end where the trailer says, if it is whole.
    Damaged {
        used: Option<u64>,
    },
    None,
}

#[derive(Default)]
pub(super) struct Scan {
    pub(super) whole: Vec<(u32, RecordHeader, Vec<u8>)>,
    pub(super) bad: Vec<BadSpot>,
    pub(super) end: u64,
    pub(super) synced_to: u64,
    pub(super) has_index: bool,
}

pub(super) struct BadSpot {
    pub(super) offset: u64,
    pub(super) id: Option<MessageId>,
    /// To the next whole record.
    pub(super) octets: u64,
    pub(super) more: bool,
    /// A message whose envelope is not readable.
    pub(super) lost: bool,
    /// Not what a torn write leaves.
    pub(super) certain: bool,
    /// A message whose envelope is whole.
    pub(super) salvage: Option<(RecordHeader, Vec<u8>)>,
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(file: &'a DiskFile, salt: u64, len: u64) -> Self {
        Self { file, salt, len, was_blank: false, window: Vec::new(), window_at: 0 }
    }

    pub(super) fn sealed_index(&mut self) -> SealedIndex {
        let mut trailer = [0; TRAILER_BYTES];
        if self.len < SEGMENT_HEADER_BYTES + TRAILER_BYTES as u64 {
            return SealedIndex::None;
        }
        let trailer_at = self.len - TRAILER_BYTES as u64;
        if self.file.read_exact_at(&mut trailer, trailer_at).is_err() {
            return SealedIndex::Damaged { used: None };
        }
        let used = match decode_trailer(self.salt, &trailer) {
            TrailerRead::IndexAt(at) => at,
            TrailerRead::Damaged => return SealedIndex::Damaged { used: None },
            TrailerRead::None => return SealedIndex::None,
        };
        let read = (|| {
            let mut index = vec![0; usize::try_from(trailer_at.checked_sub(used)?).ok()?];
            self.file.read_exact_at(&mut index, used).ok()?;
            let header = RecordHeader::decode(self.salt, &index)?;
            let meta = index.get(RECORD_HEADER_BYTES..)?;
            if header.kind != Kind::Index
                || meta.len() != header.meta_bytes as usize
                || crc32fast::hash(meta) != header.meta_crc
            {
                return None;
            }
            let entries = index_entries(self.salt, meta)?;
            Some(entries.into_iter().map(|(offset, header, meta)| (offset, header, meta.to_vec())).collect())
        })();
        match read {
            Some(entries) => SealedIndex::Whole { entries, used },
            None => SealedIndex::Damaged { used: Some(used) },
        }
    }

    /// What the index of a sealed segment lists, or what a search finds.
    pub(super) fn entries(&mut self) -> io::Result<Vec<(u32, RecordHeader, Vec<u8>)>> {
        match self.sealed_index() {
            SealedIndex::Whole { entries, .. } => Ok(entries),
            SealedIndex::Damaged { .. } | SealedIndex::None => Ok(self.scan()?.whole),
        }
    }

    /// Reads every record and checks every byte.
    pub(super) fn scan(&mut self) -> io::Result<Scan> {
        let mut scan = Scan { end: SEGMENT_HEADER_BYTES, ..Scan::default() };
        let mut at = SEGMENT_HEADER_BYTES;
        while at < self.len {
            let (header, flipped) = match self.header_at(at)? {
                Some(header) => (header, false),
                None => match self.flipped_header_at(at)? {
                    Some(header) => (header, true),
                    None => {
                        let Some(next) = self.next_header(at + 1)? else {
                            // Zeros, or an older use of the file: the end. In a file that was blank anything
                            // else was written without coming to its end, or has lost its header.
                            if self.was_blank
                                && let Some(end) = self.last_written(at)?
                            {
                                scan.bad.push(BadSpot {
                                    offset: at,
                                    id: None,
                                    octets: end - at,
                                    more: true,
                                    lost: false,
                                    salvage: None,
                                    certain: false,
                                });
                            }
                            break;
                        };
                        scan.bad.push(BadSpot {
                            offset: at,
                            id: None,
                            octets: next - at,
                            more: true,
                            lost: false,
                            salvage: None,
                            certain: false,
                        });
                        at = next;
                        continue;
                    }
                },
            };
            scan.synced_to = scan.synced_to.max(u64::from(header.synced_to));
            let end = at + header.record_bytes();
            let meta_at = at + RECORD_HEADER_BYTES as u64;
            let meta_end = meta_at + u64::from(header.meta_bytes);
            let meta = if end <= self.len {
                Some(self.bytes(meta_at, header.meta_bytes as usize)?.to_vec())
            } else {
                None
            };
            let meta = meta.filter(|meta| crc32fast::hash(meta) == header.meta_crc);
            let content_whole = end <= self.len && self.crc(meta_end, end)? == header.content_crc;
            match meta {
                // Whole or torn: all before it was synced before it was written.
                _ if header.kind == Kind::Index && !flipped => {
                    scan.has_index = true;
                    scan.end = at;
                    return Ok(scan);
                }
                Some(meta) if content_whole && !flipped => {
                    scan.whole.push((u32::try_from(at).unwrap_or(u32::MAX), header, meta));
                    scan.end = end;
                    at = end;
                }
                meta => {
                    let salvage = meta.filter(|_| header.kind.is_message()).map(|meta| (header, meta));
                    // Its own length is whole, yet what lies there may be another's: search from here.
                    let next = self.next_header(at + 1)?;
                    let past = next.unwrap_or(end.min(self.len));
                    scan.bad.push(BadSpot {
                        offset: at,
                        id: Some(header.id),
                        octets: past - at,
                        more: past > end,
                        lost: header.kind.is_message() && salvage.is_none(),
                        salvage,
                        certain: flipped && is_in_one_sector(at),
                    });
                    match next {
                        Some(next) => at = next,
                        None => break,
                    }
                }
            }
        }
        Ok(scan)
    }

    fn header_at(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        if at + RECORD_HEADER_BYTES as u64 > self.len {
            return Ok(None);
        }
        let salt = self.salt;
        Ok(RecordHeader::decode(salt, self.bytes(at, RECORD_HEADER_BYTES)?))
    }

    fn flipped_header_at(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        if at + RECORD_HEADER_BYTES as u64 > self.len {
            return Ok(None);
        }
        let salt = self.salt;
        Ok(find_flipped(salt, self.bytes(at, RECORD_HEADER_BYTES)?))
    }

    fn next_header(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        while at < self.len {
            let want = usize::try_from(self.len - at).map_or(WINDOW_BYTES, |rest| rest.min(WINDOW_BYTES));
            match find_marker(self.bytes(at, want)?, 0) {
                Some(found) => {
                    at += found as u64;
                    if self.header_at(at)?.is_some() {
                        return Ok(Some(at));
                    }
                    at += 1;
                }
                // A marker may lie across the edge.
                None if (want as u64) < self.len - at => at += want as u64 - 3,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Behind the last octet that is not zero, if there is any from here on.
    fn last_written(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut end = None;
        let mut at = from;
        while at < self.len {
            let want = usize::try_from(self.len - at).map_or(WINDOW_BYTES, |rest| rest.min(WINDOW_BYTES));
            for (block, place) in self.bytes(at, want)?.chunks(BLOCK_BYTES).zip((at..).step_by(BLOCK_BYTES)) {
                // Without an early end, since nearly all of it is zeros.
                if block.iter().fold(0, |all, byte| all | byte) != 0 {
                    end = block.iter().rposition(|byte| *byte != 0).map(|last| place + last as u64 + 1);
                }
            }
            at += want as u64;
        }
        Ok(end)
    }

    fn crc(&mut self, from: u64, to: u64) -> io::Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut at = from;
        while at < to {
            let want = usize::try_from(to - at).map_or(WINDOW_BYTES, |rest| rest.min(WINDOW_BYTES));
            hasher.update(self.bytes(at, want)?);
            at += want as u64;
        }
        Ok(hasher.finalize())
    }

    /// Bytes that lie within the segment, through a window that reads ahead.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let inside = at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let rest = self.len - at;
            let want = usize::try_from(rest).map_or(WINDOW_BYTES, |rest| rest.min(WINDOW_BYTES)).max(len);
            self.window.resize(want, 0);
            self.window_at = at;
            if let Err(error) = self.file.read_exact_at(&mut self.window, at) {
                self.window.clear();
                return Err(error);
            }
        }
        let start = usize::try_from(at - self.window_at).expect("within the window");
        Ok(&self.window[start..start + len])
    }
}
