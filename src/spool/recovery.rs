//! Recovery: from the files of an earlier run to what is alive.
//!
//! Owns cutting torn tails, saying what is damaged, and playing the records. `reader` reads the segments.
//! Everything it keeps is synced before it is relied on: an earlier run may have been killed before its sync.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::format::{
    HeaderRead, Kind, Location, LogName, MessageMeta, QuarantineMeta, RecordHeader, SEGMENT_HEADER_BYTES,
    SegmentHeader, body_name, draft_name, parse_body_name, parse_draft_name, parse_spare_name, spare_name,
};
use super::index::{Entry, Index, Segment, Stage};
use super::progress::{Open, RecipientProgress};
use super::reader::{BadSpot, SealedIndex, SegmentReader};
use super::segment::{Rolled, Spare};
use super::torn::Torn;
use crate::mail::{Envelope, MessageId};

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
    /// Of its head and body, as they are handed on.
    pub bytes: u64,
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
    let mut items = Vec::new();
    let mut bodies = BTreeMap::new();
    let mut drafts = BTreeMap::new();
    let mut directory_changed = false;
    let names = disk.list()?;
    let mut torn = Torn::new(disk, min_free_bytes, &names);
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
            bytes: u64::from(message.header.head_bytes) + message.header.body_bytes,
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
