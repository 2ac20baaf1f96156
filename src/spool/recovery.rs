//! Recovery: from the files of an earlier run to what is alive.
//!
//! Owns reading segments whole or by their indexes, cutting torn tails, and saying what is damaged.
//! Everything it keeps is synced before it is relied on: an earlier run may have been killed before its sync.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::{
    HeaderRead, Kind, Location, LogName, MessageMeta, QuarantineMeta, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES, TrailerRead, body_name, decode_trailer, draft_name,
    find_flipped, find_marker, index_entries, parse_body_name, parse_draft_name, parse_spare_name,
    spare_name,
};
use super::index::{Entry, Index, Segment, Stage};
use super::progress::{Open, RecipientProgress};
use super::segment::{Rolled, Spare, is_full};
use crate::mail::{Envelope, MessageId};

/// Reading ahead while a segment is searched.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Looked at as one when zeros are skipped.
const BLOCK_BYTES: usize = 4096;

/// Unfinished writes that are set aside: so many files, of so many octets together, the latest ones.
const TORN_FILES: usize = 16;
const TORN_BYTES: u64 = 32 * 1024 * 1024;

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Recovered {
    /// In the order received.
    pub messages: Vec<RecoveredMessage>,
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone)]
pub struct RecoveredMessage {
    pub envelope: Arc<Envelope>,
    /// One per recipient.
    pub progress: Vec<RecipientProgress>,
    /// Kept on disk, not to be delivered.
    pub quarantined: bool,
    /// Why, as far as that is known.
    pub quarantine: Option<String>,
    pub body_bytes: u64,
}

/// Something on disk that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Most likely the last write before a crash, never acknowledged: cut off. Where nothing was synced after
    /// it, damage to what was acknowledged looks the same.
    #[error(
        "{segment}: an unfinished write{} at {offset} was cut off; its {octets} octets {}",
        of(id),
        kept(kept_as)
    )]
    TornTail { segment: String, offset: u64, id: Option<MessageId>, octets: u64, kept_as: Option<String> },
    #[error("{segment}: damaged record at {offset}{}; {octets} octets skipped{}", of(id), others(*more))]
    Damaged {
        segment: String,
        offset: u64,
        id: Option<MessageId>,
        octets: u64,
        /// More was skipped than the one record.
        more: bool,
    },
    #[error("{segment}: damaged {part}; the records were still readable")]
    Repaired { segment: String, part: &'static str },
    #[error("{segment}: unreadable; set aside")]
    Unreadable { segment: String },
    #[error("the body of message {id} is missing or has another length")]
    MissingBody { id: MessageId },
    #[error("the body of message {id} is here, and no record of it is left; set aside as orphan-{id}")]
    OrphanBody { id: MessageId },
    #[error("{segment}: damaged envelope at {offset}; message {id} stays there and cannot be delivered")]
    Lost { segment: String, offset: u64, id: MessageId },
}

fn of(id: &Option<MessageId>) -> String {
    id.map(|id| format!(" of message {id}")).unwrap_or_default()
}

fn kept(name: &Option<String>) -> String {
    name.as_ref().map_or("are gone: there was no room for them".to_owned(), |name| format!("are in {name}"))
}

fn others(more: bool) -> &'static str {
    if more { ", and an unknown number of messages may be in them" } else { "" }
}

pub(super) type Changes = Vec<(u32, RecipientProgress)>;

/// Everything `Spool::open` goes on with.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) recovered: Recovered,
    pub(super) index: Index,
    pub(super) spares: Vec<Spare>,
    /// Segments to be given an index.
    pub(super) rolled: Vec<Rolled>,
    pub(super) highest_number: u64,
    pub(super) highest_sequence: u64,
    pub(super) highest_id: u64,
    /// Progress whose chain on disk is broken: to be written once more as a whole.
    pub(super) rewrite: Vec<(LogName, MessageId, Changes)>,
    /// Messages in the deferred log that the hot log still knows.
    pub(super) moved: Vec<MessageId>,
}

/// One record as far as a start needs it.
struct Item {
    log: LogName,
    at: Location,
    header: RecordHeader,
    content: ItemContent,
}

enum ItemContent {
    Message(Box<MessageMeta>),
    Progress(Changes),
    Moved,
    Quarantined(String),
}

/// A message while the records about it are put together.
struct Building {
    envelope: Arc<Envelope>,
    progress: Vec<RecipientProgress>,
    log: LogName,
    at: Location,
    header: RecordHeader,
    quarantined: Option<String>,
    chain: Vec<Location>,
    chain_broken: bool,
    also_hot: bool,
}

/// `min_free_bytes` must stay free whatever is set aside.
pub(super) fn recover(disk: &Disk, min_free_bytes: u64) -> io::Result<Found> {
    let mut found = Found::default();
    let mut torn = Torn { disk, min_free_bytes, files: Vec::new() };
    let mut items = Vec::new();
    let mut bodies = BTreeMap::new();
    let mut drafts = BTreeMap::new();
    let mut directory_changed = false;
    let names = disk.list()?;
    torn.files.extend(names.iter().filter(|(name, _)| name.starts_with(TORN)).cloned());
    for (name, len) in names {
        if let Some((log, number)) = LogName::parse_segment_name(&name) {
            found.highest_number = found.highest_number.max(number);
            directory_changed |= read_segment(&mut torn, &mut found, &mut items, &name, log, number, len)?;
        } else if let Some(number) = parse_spare_name(&name) {
            found.highest_number = found.highest_number.max(number);
            found.spares.push(Spare { number, file_bytes: len, blank: false });
        } else if let Some(id) = parse_body_name(&name) {
            found.highest_id = found.highest_id.max(id.raw());
            bodies.insert(id, len);
        } else if let Some(id) = parse_draft_name(&name) {
            found.highest_id = found.highest_id.max(id.raw());
            drafts.insert(id, len);
        }
    }
    let finished = build(&mut found, items, |id| bodies.get(id).or_else(|| drafts.get(id)).copied());
    for id in drafts.keys() {
        let promised = found.index.get(*id).is_some_and(|entry| entry.own_file_bytes > 0);
        if promised && !bodies.contains_key(id) {
            disk.rename(&draft_name(*id), &body_name(*id))?;
        } else {
            disk.remove(&draft_name(*id))?;
        }
        directory_changed = true;
    }
    for id in bodies.keys() {
        if found.index.get(*id).is_some_and(|entry| entry.own_file_bytes > 0) {
            continue;
        }
        if finished.contains(id) {
            disk.remove(&body_name(*id))?;
        } else {
            // It was promised, and what was written about it is gone: not ours to throw away.
            disk.rename(&body_name(*id), &format!("orphan-{id}"))?;
            found.recovered.findings.push(Finding::OrphanBody { id: *id });
        }
        directory_changed = true;
    }
    if directory_changed {
        disk.sync_directory()?;
    }
    Ok(found)
}

const TORN: &str = "torn-";

/// Where unfinished writes are set aside: nobody can be sure that they were not promised.
struct Torn<'a> {
    disk: &'a Disk,
    min_free_bytes: u64,
    /// Those that are there, with their lengths; the oldest first.
    files: Vec<(String, u64)>,
}

impl Torn<'_> {
    /// Copies a stretch of a segment to a file of its own, durable before anything is cut off. `None` when
    /// there is no room for it.
    fn set_aside(
        &mut self,
        file: &DiskFile,
        segment: &str,
        at: u64,
        octets: u64,
    ) -> io::Result<Option<String>> {
        let name = format!("{TORN}{segment}-{at:08x}");
        if self.files.iter().any(|(there, _)| *there == name) {
            return Ok(Some(name));
        }
        if octets > TORN_BYTES {
            return Ok(None);
        }
        while self.files.len() >= TORN_FILES
            || self.files.iter().map(|(_, len)| len).sum::<u64>() + octets > TORN_BYTES
        {
            let (oldest, _) = self.files.remove(0);
            self.disk.remove(&oldest)?;
        }
        if self.disk.free_bytes()? < self.min_free_bytes.saturating_add(octets) {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(octets).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, at)?;
        let copied = (|| {
            let copy = self.disk.create(&name)?;
            self.disk.write(&copy, 0, &mut [IoSlice::new(&bytes)])?;
            self.disk.sync(&copy)?;
            self.disk.sync_directory()
        })();
        match copied {
            Ok(()) => {
                self.files.push((name.clone(), octets));
                Ok(Some(name))
            }
            Err(error) if is_full(&error) => {
                let _ = self.disk.remove(&name);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Says whether the directory changed.
fn read_segment(
    torn: &mut Torn<'_>,
    found: &mut Found,
    items: &mut Vec<Item>,
    name: &str,
    log: LogName,
    number: u64,
    len: u64,
) -> io::Result<bool> {
    let disk = torn.disk;
    let file = disk.open(name)?;
    let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
    if len >= SEGMENT_HEADER_BYTES {
        file.read_exact_at(&mut block, 0)?;
    }
    let segment_name = || name.to_owned();
    let header = match SegmentHeader::decode(&block) {
        HeaderRead::Whole(header) if header.log == log && header.number == number => header,
        HeaderRead::Damaged(header) if header.log == log && header.number == number => {
            found
                .recovered
                .findings
                .push(Finding::Repaired { segment: segment_name(), part: "segment header" });
            header
        }
        // A recycled file between its old and its new use, or one that was never used.
        HeaderRead::Whole(_) | HeaderRead::Damaged(_) | HeaderRead::Blank => {
            disk.remove(name)?;
            return Ok(true);
        }
        HeaderRead::Unreadable => {
            found.recovered.findings.push(Finding::Unreadable { segment: segment_name() });
            disk.rename(name, &format!("damaged-{name}"))?;
            return Ok(true);
        }
    };
    found.highest_id = found.highest_id.max(header.highest_id);
    let mut reader = SegmentReader::new(&file, header.salt, len);
    reader.was_blank = header.blank;
    let mut damaged = false;
    let (used, offsets) = match reader.sealed_index() {
        SealedIndex::Whole { entries, used } => {
            for (offset, header, meta) in entries {
                let at = Location { segment: number, offset };
                damaged |= !keep(found, items, (name, log), at, header, &meta);
            }
            (used, None)
        }
        read => {
            if let SealedIndex::Damaged { used } = read {
                // A whole trailer still speaks for the records before the index.
                reader.len = used.unwrap_or(len).min(len);
                found.recovered.findings.push(Finding::Repaired { segment: segment_name(), part: "index" });
            }
            let scan = reader.scan()?;
            // An index that was sealed speaks for everything before it.
            let boundary = match read {
                SealedIndex::Damaged { used: Some(used) } => used,
                _ if scan.has_index => scan.end,
                SealedIndex::Damaged { used: None } | SealedIndex::Whole { .. } | SealedIndex::None => {
                    scan.synced_to
                }
            };
            let blank = header.blank && scan.bad.is_empty();
            for spot in scan.bad {
                if spot.offset < boundary || spot.certain {
                    damaged = true;
                    let (segment, offset) = (segment_name(), spot.offset);
                    found.recovered.findings.push(match (spot.lost, spot.id) {
                        (true, Some(id)) if !spot.more => Finding::Lost { segment, offset, id },
                        (_, id) => {
                            Finding::Damaged { segment, offset, id, octets: spot.octets, more: spot.more }
                        }
                    });
                    if let (true, true, Some(id)) = (spot.lost, spot.more, spot.id) {
                        found.recovered.findings.push(Finding::Lost { segment: segment_name(), offset, id });
                    }
                    // A message whose envelope is whole is shown, and not delivered.
                    if let Some((header, meta)) = spot.salvage
                        && let Ok(offset) = u32::try_from(spot.offset)
                        && let Ok(mut message) = serde_json::from_slice::<MessageMeta>(&meta)
                    {
                        message.quarantined = Some("its content is damaged".to_owned());
                        let at = Location { segment: number, offset };
                        let content = ItemContent::Message(Box::new(message));
                        found.highest_sequence = found.highest_sequence.max(header.sequence);
                        items.push(Item { log, at, header, content });
                    }
                } else {
                    let BadSpot { offset, id, octets, .. } = spot;
                    let kept_as = torn.set_aside(&file, name, offset, octets)?;
                    let segment = segment_name();
                    found.recovered.findings.push(Finding::TornTail { segment, offset, id, octets, kept_as });
                }
            }
            let offsets: Vec<u32> = scan.whole.iter().map(|(offset, ..)| *offset).collect();
            for (offset, header, meta) in scan.whole {
                let at = Location { segment: number, offset };
                damaged |= !keep(found, items, (name, log), at, header, &meta);
            }
            if log == LogName::Hot && scan.end == SEGMENT_HEADER_BYTES && !scan.has_index && !damaged {
                // Never used: its blocks serve again, or a few restarts on a full disk would use up the reserve.
                let spare = Spare { number, file_bytes: len, blank };
                disk.rename(name, &spare_name(number))?;
                found.spares.push(spare);
                return Ok(true);
            }
            if !damaged {
                // What follows the last whole record is cut off, before an index takes its place.
                disk.resize(&file, scan.end)?;
            }
            (scan.end, Some(offsets))
        }
    };
    // A killed process may have written without syncing; from here on this is relied on.
    disk.sync(&file)?;
    let stage = match offsets {
        Some(offsets) if !damaged => {
            found.rolled.push(Rolled { log, number, offsets });
            Stage::Rolled
        }
        // Without an index it is searched, and its damage reported, at each start.
        Some(_) | None => Stage::Sealed,
    };
    let file_bytes = file.len()?;
    let segment = Segment {
        file: Arc::new(file),
        salt: header.salt,
        file_bytes,
        used,
        live_messages: 0,
        live_bytes: 0,
        stage,
        damaged,
    };
    found.index.segments.insert((log, number), segment);
    Ok(false)
}

/// Parses what a whole record of this segment says; `false` for one that its checksum passes and its reader does
/// not: it is damaged too.
fn keep(
    found: &mut Found,
    items: &mut Vec<Item>,
    (segment, log): (&str, LogName),
    at: Location,
    header: RecordHeader,
    meta: &[u8],
) -> bool {
    found.highest_sequence = found.highest_sequence.max(header.sequence);
    found.highest_id = found.highest_id.max(header.id.raw());
    let content = match header.kind {
        Kind::Message | Kind::Notice => {
            serde_json::from_slice(meta).ok().map(|meta| ItemContent::Message(Box::new(meta)))
        }
        Kind::Progress => serde_json::from_slice(meta).ok().map(ItemContent::Progress),
        Kind::Quarantined => {
            serde_json::from_slice::<QuarantineMeta>(meta).ok().map(|meta| ItemContent::Quarantined(meta.why))
        }
        Kind::Moved => Some(ItemContent::Moved),
        Kind::Index => return true,
    };
    let is_whole = content.is_some();
    match content {
        Some(content) => items.push(Item { log, at, header, content }),
        None => found.recovered.findings.push(Finding::Damaged {
            segment: segment.to_owned(),
            offset: u64::from(at.offset),
            id: Some(header.id),
            octets: header.record_bytes(),
            more: false,
        }),
    }
    is_whole
}

/// Plays the records in the order they were written, over both logs.
/// Gives the finished messages; `body_len` is of those with a file of their own.
fn build(
    found: &mut Found,
    mut items: Vec<Item>,
    body_len: impl Fn(&MessageId) -> Option<u64>,
) -> BTreeSet<MessageId> {
    let mut finished = BTreeSet::new();
    items.sort_by_key(|item| item.header.sequence);
    let mut building: BTreeMap<MessageId, Building> = BTreeMap::new();
    let mut caused: BTreeMap<MessageId, Changes> = BTreeMap::new();
    for Item { log, at, header, content } in items {
        match content {
            ItemContent::Message(meta) => {
                let MessageMeta { envelope, mut progress, quarantined, cause, body_crc: _ } = *meta;
                if let Some(cause) = cause {
                    if let Some(message) = building.get_mut(&cause.id) {
                        message.merge(cause.changes.clone());
                        // Until the plain record of it is found, only the notice knows.
                        message.chain_broken = true;
                    }
                    caused.entry(cause.id).or_default().extend(cause.changes);
                }
                progress.resize(envelope.recipients.len(), RecipientProgress::default());
                if let Some(earlier) = building.get(&header.id) {
                    // An end stays an end, whatever a later copy says.
                    for (slot, known) in progress.iter_mut().zip(&earlier.progress) {
                        if slot.end.is_none() && known.end.is_some() {
                            slot.clone_from(known);
                        }
                    }
                }
                // The cause may have been rewritten while its notice was being synced.
                let caused = caused.get(&header.id).cloned();
                let chain_broken = caused.is_some();
                merge_progress(&mut progress, caused.unwrap_or_default());
                let also_hot = log == LogName::Deferred
                    && building
                        .get(&header.id)
                        .is_some_and(|earlier| earlier.log == LogName::Hot || earlier.also_hot);
                let message = Building {
                    envelope,
                    progress,
                    log,
                    at,
                    header,
                    quarantined,
                    chain: Vec::new(),
                    chain_broken,
                    also_hot,
                };
                building.insert(header.id, message);
            }
            ItemContent::Progress(changes) => {
                if let Some(message) = building.get_mut(&header.id) {
                    message.link(at, &header);
                    message.merge(changes);
                }
            }
            ItemContent::Quarantined(why) => {
                if let Some(message) = building.get_mut(&header.id) {
                    message.link(at, &header);
                    message.quarantined = Some(why);
                }
            }
            ItemContent::Moved => {
                if let Some(message) = building.get_mut(&header.id) {
                    message.also_hot = false;
                    if message.log == LogName::Hot {
                        building.remove(&header.id);
                    }
                }
            }
        }
    }
    for (id, mut message) in building {
        let mut open = Open::all(message.progress.len());
        for (recipient, _) in message.progress.iter().enumerate().filter(|(_, one)| one.end.is_some()) {
            open.end(u32::try_from(recipient).expect("recipients are limited"));
        }
        if message.also_hot {
            found.moved.push(id);
        }
        if open.is_empty() {
            finished.insert(id);
            if message.chain_broken {
                // Only a notice may know of its end, and may be rewritten without it before this message goes.
                let changes = (0..).zip(message.progress).collect();
                found.rewrite.push((message.log, id, changes));
            }
            continue;
        }
        let own_file_bytes = if message.header.own_file { message.header.body_bytes } else { 0 };
        if message.header.own_file && body_len(&id) != Some(own_file_bytes) {
            found.recovered.findings.push(Finding::MissingBody { id });
            message.quarantined = Some("its body is missing or has another length".to_owned());
        }
        if message.chain_broken {
            let changes = (0..).zip(message.progress.iter().cloned()).collect();
            found.rewrite.push((message.log, id, changes));
        }
        let entry = Entry {
            log: message.log,
            at: message.at,
            record_bytes: message.header.record_bytes(),
            own_file_bytes,
            latest: message.chain.last().copied(),
            open,
            quarantined: message.quarantined.is_some(),
        };
        found.index.place(id, entry);
        found.recovered.messages.push(RecoveredMessage {
            envelope: message.envelope,
            progress: message.progress,
            quarantined: message.quarantined.is_some(),
            quarantine: message.quarantined,
            body_bytes: message.header.body_bytes,
        });
    }
    finished
}

impl Building {
    fn link(&mut self, at: Location, header: &RecordHeader) {
        if header.previous != self.chain.last().copied() {
            self.chain_broken = true;
        }
        self.chain.push(at);
    }

    fn merge(&mut self, changes: Changes) {
        merge_progress(&mut self.progress, changes);
    }
}

/// Later wins, except that an end stays an end.
pub(super) fn merge_progress(progress: &mut [RecipientProgress], changes: Changes) {
    for (recipient, change) in changes {
        if let Some(slot) = progress.get_mut(recipient as usize)
            && (slot.end.is_none() || change.end.is_some())
        {
            *slot = change;
        }
    }
}

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
    was_blank: bool,
    window: Vec<u8>,
    window_at: u64,
}

enum SealedIndex {
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
struct Scan {
    whole: Vec<(u32, RecordHeader, Vec<u8>)>,
    bad: Vec<BadSpot>,
    end: u64,
    synced_to: u64,
    has_index: bool,
}

struct BadSpot {
    offset: u64,
    id: Option<MessageId>,
    /// To the next whole record.
    octets: u64,
    more: bool,
    /// A message whose envelope is not readable.
    lost: bool,
    /// Not what a torn write leaves.
    certain: bool,
    /// A message whose envelope is whole.
    salvage: Option<(RecordHeader, Vec<u8>)>,
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(file: &'a DiskFile, salt: u64, len: u64) -> Self {
        Self { file, salt, len, was_blank: false, window: Vec::new(), window_at: 0 }
    }

    fn sealed_index(&mut self) -> SealedIndex {
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
    fn scan(&mut self) -> io::Result<Scan> {
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
