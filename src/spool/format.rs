//! The records on disk, versioned and checksummed. `docs/SPOOL.md` shows the layout.
//!
//! Owns the bytes: segment headers, record headers, the JSON inside them, and the search for the next
//! whole record after damage. It does not read or write files.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::progress::RecipientProgress;
use crate::mail::{Envelope, MessageId};

/// A segment begins with this block: the header twice, so that one damaged copy loses nothing.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 4096;
const SECOND_COPY: usize = 2048;
const SEGMENT_MAGIC: [u8; 8] = *b"LANDFALL";
const SEGMENT_VERSION: u16 = 1;
const SEGMENT_HEADER_USED: usize = 44;

pub(super) const RECORD_HEADER_BYTES: usize = 68;
const RECORD_MARKER: [u8; 4] = *b"\xF1mlR";
const RECORD_VERSION: u8 = 1;
/// The body lies in a file of its own; only the head follows the record's JSON.
const OWN_FILE: u16 = 1;

/// The last bytes of a sealed segment say where its index begins.
pub(super) const TRAILER_BYTES: usize = 20;
const TRAILER_MAGIC: [u8; 4] = *b"\xF1ndX";

/// Which of the two logs a segment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum LogName {
    /// What has just come in.
    Hot,
    /// What waits: rewritten out of the hot log, or out of this one.
    Deferred,
}

impl LogName {
    pub(super) const BOTH: [Self; 2] = [Self::Hot, Self::Deferred];

    fn word(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Deferred => "deferred",
        }
    }

    pub(super) fn segment_name(self, number: u64) -> String {
        format!("{}-{number:016x}", self.word())
    }

    /// Reads a name that `segment_name` wrote.
    pub(super) fn parse_segment_name(name: &str) -> Option<(Self, u64)> {
        Self::BOTH.into_iter().find_map(|log| {
            let digits = name.strip_prefix(log.word())?.strip_prefix('-')?;
            Some((log, parse_number(digits)?))
        })
    }

    fn code(self) -> u8 {
        match self {
            Self::Hot => 1,
            Self::Deferred => 2,
        }
    }
}

pub(super) fn body_name(id: MessageId) -> String {
    format!("body-{id}")
}

/// Of a body that no durable record speaks of yet.
pub(super) fn draft_name(id: MessageId) -> String {
    format!("draft-{id}")
}

pub(super) fn parse_draft_name(name: &str) -> Option<MessageId> {
    Some(MessageId::from_raw(parse_number(name.strip_prefix("draft-")?)?))
}

pub(super) fn parse_body_name(name: &str) -> Option<MessageId> {
    Some(MessageId::from_raw(parse_number(name.strip_prefix("body-")?)?))
}

pub(super) fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}")
}

pub(super) fn parse_spare_name(name: &str) -> Option<u64> {
    parse_number(name.strip_prefix("spare-")?)
}

fn parse_number(digits: &str) -> Option<u64> {
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) log: LogName,
    pub(super) number: u64,
    /// Random, so that old bytes of a recycled file, and bytes that a message brings along, are no records.
    pub(super) salt: u64,
    /// The largest name given so far: names rise even when every message is gone.
    pub(super) highest_id: u64,
    /// All behind this header was zero: what is found there was written to this segment.
    pub(super) blank: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    Whole(SegmentHeader),
    /// One of the two copies is damaged.
    Damaged(SegmentHeader),
    /// Nothing was ever written here.
    Blank,
    Unreadable,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(SEGMENT_HEADER_USED);
        copy.extend(SEGMENT_MAGIC);
        copy.extend(SEGMENT_VERSION.to_le_bytes());
        copy.extend([self.log.code(), u8::from(self.blank)]);
        copy.extend(self.number.to_le_bytes());
        copy.extend(self.salt.to_le_bytes());
        copy.extend(self.highest_id.to_le_bytes());
        copy.extend([0; 4]);
        copy.extend(crc32fast::hash(&copy).to_le_bytes());
        let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
        block[..copy.len()].copy_from_slice(&copy);
        block[SECOND_COPY..SECOND_COPY + copy.len()].copy_from_slice(&copy);
        block
    }

    pub(super) fn decode(block: &[u8]) -> HeaderRead {
        let first = Self::decode_copy(&block[..SEGMENT_HEADER_USED]);
        let second = Self::decode_copy(&block[SECOND_COPY..SECOND_COPY + SEGMENT_HEADER_USED]);
        match (first, second) {
            (Some(one), Some(two)) if one == two => HeaderRead::Whole(one),
            // Two whole copies of different headers: torn while a recycled file was renumbered, still unused.
            (Some(_), Some(_)) => HeaderRead::Blank,
            (Some(one), None) | (None, Some(one)) => HeaderRead::Damaged(one),
            (None, None) if block.iter().all(|byte| *byte == 0) => HeaderRead::Blank,
            (None, None) => HeaderRead::Unreadable,
        }
    }

    fn decode_copy(copy: &[u8]) -> Option<Self> {
        let (fields, crc) = copy.split_at(SEGMENT_HEADER_USED - 4);
        if u32_at(crc, 0) != crc32fast::hash(fields)
            || fields[..8] != SEGMENT_MAGIC
            || fields[8..10] != SEGMENT_VERSION.to_le_bytes()
        {
            return None;
        }
        let log = LogName::BOTH.into_iter().find(|log| log.code() == fields[10])?;
        let (number, salt, highest_id) = (u64_at(fields, 12), u64_at(fields, 20), u64_at(fields, 28));
        // Of a segment that was begun before there was this mark nothing is known.
        let blank = fields[11] == 1;
        Some(Self { log, number, salt, highest_id, blank })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message: envelope, head, and body or a reference to it.
    Message,
    /// How far some recipients of a message have come.
    Progress,
    /// A notice, and the outcome of another message that caused it: both or neither.
    Notice,
    /// The copies of this message in the hot log are void: it lives in the deferred log.
    Moved,
    /// Not to be delivered.
    Quarantined,
    /// What a sealed segment holds that a start must know.
    Index,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Message, Self::Progress, Self::Notice, Self::Moved, Self::Quarantined, Self::Index];

    fn code(self) -> u8 {
        match self {
            Self::Message => 1,
            Self::Progress => 2,
            Self::Notice => 3,
            Self::Moved => 4,
            Self::Quarantined => 5,
            Self::Index => 6,
        }
    }

    pub(super) fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::Notice)
    }
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub(super) segment: u64,
    pub(super) offset: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) own_file: bool,
    pub(super) meta_bytes: u32,
    /// Rises over both logs: later records win.
    pub(super) sequence: u64,
    pub(super) id: MessageId,
    pub(super) body_bytes: u64,
    pub(super) head_bytes: u32,
    pub(super) meta_crc: u32,
    /// Over what follows the JSON in the log: head and body, or the head alone.
    pub(super) content_crc: u32,
    /// All before this offset of the segment was synced when this was written: damage there is damage,
    /// while beyond it may be a write that nobody was promised.
    pub(super) synced_to: u32,
    /// Of a progress record: the previous one of the same message since it was last rewritten.
    pub(super) previous: Option<Location>,
}

impl RecordHeader {
    pub(super) fn content_bytes(&self) -> u64 {
        u64::from(self.head_bytes) + if self.own_file { 0 } else { self.body_bytes }
    }

    pub(super) fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.meta_bytes) + self.content_bytes()
    }

    pub(super) fn encode(&self, salt: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let previous = self.previous.unwrap_or(Location { segment: 0, offset: 0 });
        bytes[..4].copy_from_slice(&RECORD_MARKER);
        bytes[8] = self.kind.code();
        bytes[9] = RECORD_VERSION;
        bytes[10..12].copy_from_slice(&(if self.own_file { OWN_FILE } else { 0 }).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.meta_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.raw().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.meta_crc.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.content_crc.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.synced_to.to_le_bytes());
        bytes[56..64].copy_from_slice(&previous.segment.to_le_bytes());
        bytes[64..68].copy_from_slice(&previous.offset.to_le_bytes());
        let crc = salted_crc(salt, &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` when this is no whole header of this segment.
    pub(super) fn decode(salt: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if bytes[..4] != RECORD_MARKER
            || u32_at(bytes, 4) != salted_crc(salt, &bytes[8..])
            || bytes[9] != RECORD_VERSION
        {
            return None;
        }
        let kind = Kind::ALL.into_iter().find(|kind| kind.code() == bytes[8])?;
        let previous = Location { segment: u64_at(bytes, 56), offset: u32_at(bytes, 64) };
        Some(Self {
            kind,
            own_file: u16::from_le_bytes([bytes[10], bytes[11]]) & OWN_FILE != 0,
            meta_bytes: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            id: MessageId::from_raw(u64_at(bytes, 24)),
            body_bytes: u64_at(bytes, 32),
            head_bytes: u32_at(bytes, 40),
            meta_crc: u32_at(bytes, 44),
            content_crc: u32_at(bytes, 48),
            synced_to: u32_at(bytes, 52),
            previous: (previous.offset != 0).then_some(previous),
        })
    }
}

/// The header that one flipped bit made of these bytes, if it was one of this segment. A torn write does not
/// flip single bits, and neither do the bytes of an older use: this is damage.
pub(super) fn find_flipped(salt: u64, bytes: &[u8]) -> Option<RecordHeader> {
    let mut tried: [u8; RECORD_HEADER_BYTES] = bytes.get(..RECORD_HEADER_BYTES)?.try_into().ok()?;
    (0..RECORD_HEADER_BYTES * 8).find_map(|bit| {
        tried[bit / 8] ^= 1 << (bit % 8);
        let header = RecordHeader::decode(salt, &tried);
        tried[bit / 8] ^= 1 << (bit % 8);
        header
    })
}

/// The next place at or after `from` that may begin a record.
pub(super) fn find_marker(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memmem::find(bytes.get(from..)?, &RECORD_MARKER).map(|at| from + at)
}

/// The JSON of `Message` and `Notice`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MessageMeta {
    pub(super) envelope: Arc<Envelope>,
    /// By recipient; empty when nothing has happened yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) progress: Vec<RecipientProgress>,
    /// Of a body in its own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body_crc: Option<u32>,
    /// Why it is not to be delivered, once a quarantined message was rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quarantined: Option<String>,
    /// Of a notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<Cause>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cause {
    pub(super) id: MessageId,
    pub(super) changes: Vec<(u32, RecipientProgress)>,
}

/// The JSON of `Quarantined`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct QuarantineMeta {
    pub(super) why: String,
}

/// Appends the entry of one record to a sealed segment's index: its offset, header and JSON. Under another
/// salt, so that the search for records in a torn index does not take entries for records.
pub(super) fn push_index_entry(
    index: &mut Vec<u8>,
    salt: u64,
    offset: u32,
    header: &RecordHeader,
    meta: &[u8],
) {
    index.extend(offset.to_le_bytes());
    index.extend(header.encode(!salt));
    index.extend_from_slice(meta);
}

/// The entries of an index, or `None` when it makes no sense.
pub(super) fn index_entries(salt: u64, mut index: &[u8]) -> Option<Vec<(u32, RecordHeader, &[u8])>> {
    let mut entries = Vec::new();
    while !index.is_empty() {
        let offset = u32::from_le_bytes(index.get(..4)?.try_into().ok()?);
        let header = RecordHeader::decode(!salt, index.get(4..)?)?;
        let meta_end = (4 + RECORD_HEADER_BYTES).checked_add(header.meta_bytes as usize)?;
        entries.push((offset, header, index.get(4 + RECORD_HEADER_BYTES..meta_end)?));
        index = &index[meta_end..];
    }
    Some(entries)
}

pub(super) fn encode_trailer(salt: u64, index_offset: u64) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[..8].copy_from_slice(&index_offset.to_le_bytes());
    bytes[12..16].copy_from_slice(&TRAILER_MAGIC);
    let crc = salted_crc(salt, &bytes[..12]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum TrailerRead {
    IndexAt(u64),
    /// There was one: its mark or its checksum is still right.
    Damaged,
    None,
}

pub(super) fn decode_trailer(salt: u64, bytes: &[u8; TRAILER_BYTES]) -> TrailerRead {
    let marked = bytes[12..16] == TRAILER_MAGIC;
    let whole = u32_at(bytes, 16) == salted_crc(salt, &bytes[..12]);
    match (marked, whole) {
        (true, true) => TrailerRead::IndexAt(u64_at(bytes, 0)),
        (true, false) | (false, true) => TrailerRead::Damaged,
        (false, false) => TrailerRead::None,
    }
}

fn salted_crc(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        RecordHeader {
            kind: Kind::Progress,
            own_file: false,
            meta_bytes: 17,
            sequence: 99,
            id: MessageId::from_raw(0x0123_4567_89ab_cdef),
            body_bytes: 4096,
            head_bytes: 120,
            meta_crc: 1,
            content_crc: 2,
            synced_to: 3,
            previous: Some(Location { segment: 5, offset: 4096 }),
        }
    }

    #[test]
    fn any_flipped_bit_of_a_record_header_is_seen() {
        let bytes = header().encode(42);
        assert_eq!(RecordHeader::decode(42, &bytes), Some(header()));
        assert_eq!(RecordHeader::decode(43, &bytes), None, "another segment's salt");
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(42, &flipped), None, "bit {bit}");
            assert_eq!(find_flipped(42, &flipped), Some(header()), "bit {bit}");
        }
    }

    #[test]
    fn a_segment_header_survives_the_loss_of_one_copy() {
        let header = SegmentHeader { log: LogName::Deferred, number: 7, salt: 8, highest_id: 9, blank: true };
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), HeaderRead::Whole(header));
        for at in [0, 10, 20, SECOND_COPY + 20] {
            let mut damaged = block.clone();
            damaged[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&damaged), HeaderRead::Damaged(header));
        }
        let mut lost = block.clone();
        lost[0] ^= 1;
        lost[SECOND_COPY] ^= 1;
        assert_eq!(SegmentHeader::decode(&lost), HeaderRead::Unreadable);
        assert_eq!(SegmentHeader::decode(&vec![0; SEGMENT_HEADER_BYTES as usize]), HeaderRead::Blank);
    }

    #[test]
    fn names_of_files_are_read_as_they_were_written() {
        for log in LogName::BOTH {
            assert_eq!(LogName::parse_segment_name(&log.segment_name(77)), Some((log, 77)));
        }
        assert_eq!(LogName::parse_segment_name("hot-7"), None);
        assert_eq!(parse_spare_name(&spare_name(3)), Some(3));
        let id = MessageId::from_raw(12);
        assert_eq!(parse_body_name(&body_name(id)), Some(id));
    }

    #[test]
    fn a_trailer_is_whole_damaged_or_not_there() {
        let whole = encode_trailer(5, 70_000);
        assert_eq!(decode_trailer(5, &whole), TrailerRead::IndexAt(70_000));
        for bit in 0..TRAILER_BYTES * 8 {
            let mut flipped = whole;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_trailer(5, &flipped), TrailerRead::Damaged, "bit {bit}");
        }
        assert_eq!(decode_trailer(5, &[0; TRAILER_BYTES]), TrailerRead::None);
    }
}
