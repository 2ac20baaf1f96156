//! Store: the segments of both families: which one a row belongs to, when one is sealed, when one is deleted.
//!
//! Used by the indexing thread alone. Every change may be made twice, so that a batch can be repeated after a
//! crash from the last place in the journal that was committed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::journal::Position;
use super::record::{By, Happening, Outcome, Record, Refused, first_id};
use super::segment::{Family, Fresh, Result, Segment, is_plain, status_after};

/// A segment takes no more after this long, or an eighth of `trace.keep`, so that age can delete it.
const SEGMENT_SPAN: Duration = Duration::from_secs(24 * 3600);
const SEGMENT_ROWS: u64 = 125_000;
const SEGMENT_BYTES: u64 = 128 << 20;
const SEGMENT_BYTES_LEAST: u64 = 128 << 10;
/// Open for writing at the same time: the newest ones, and those whose messages still wait.
const OPEN_LIMIT: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) keep: Duration,
    pub(super) max_bytes: u64,
}

impl Limits {
    /// Three quarters are for messages, a quarter is for refusals: a flood of these pushes out none of those.
    fn share(&self, family: Family) -> u64 {
        match family {
            Family::Messages => self.max_bytes / 4 * 3,
            Family::Refusals => self.max_bytes / 4,
        }
    }

    fn segment_bytes(&self, family: Family) -> u64 {
        (self.share(family) / 16).clamp(SEGMENT_BYTES_LEAST, SEGMENT_BYTES)
    }
}

/// What the store says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) segments: u64,
    pub(super) bytes: u64,
}

type Name = (Family, u64);

pub(super) struct Store {
    dir: PathBuf,
    limits: Limits,
    known: BTreeSet<Name>,
    open: HashMap<Name, Segment>,
    /// The names in the order of their last use.
    used: Vec<Name>,
    /// Begun and not yet committed.
    begun: Vec<Name>,
    opened_at: i64,
    /// What the spool told of since the start; `None` once that is over.
    recovered: Option<HashSet<u64>>,
    pub(super) rows: u64,
}

impl Store {
    pub(super) fn open(dir: &Path, limits: Limits, now: i64) -> std::io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut known = BTreeSet::new();
        for family in [Family::Messages, Family::Refusals] {
            known.extend(family.list(dir)?.into_iter().map(|(first, _)| (family, first)));
        }
        Ok(Self {
            dir: dir.to_owned(),
            limits,
            known,
            open: HashMap::new(),
            used: Vec::new(),
            begun: Vec::new(),
            opened_at: now,
            recovered: Some(HashSet::new()),
            rows: 0,
        })
    }

    /// Where the last committed batch ended.
    pub(super) fn position(&mut self) -> Result<Position> {
        match self.newest(Family::Messages) {
            Some(name) => Ok(self.segment(name)?.position()?.unwrap_or_default()),
            None => Ok(Position::default()),
        }
    }

    fn newest(&self, family: Family) -> Option<Name> {
        self.known.range((family, 0)..=(family, u64::MAX)).next_back().copied()
    }

    /// The one that holds, or would hold, this id.
    fn home_of(&self, family: Family, id: u64) -> Option<Name> {
        let within = self.known.range((family, 0)..=(family, id)).next_back();
        within.or_else(|| self.known.range((family, 0)..=(family, u64::MAX)).next()).copied()
    }

    fn segment(&mut self, name: Name) -> Result<&mut Segment> {
        self.used.retain(|used| *used != name);
        self.used.push(name);
        if !self.open.contains_key(&name) {
            let segment = Segment::open(&name.0.path(&self.dir, name.1))?;
            self.open.insert(name, segment);
            self.known.insert(name);
        }
        Ok(self.open.get_mut(&name).expect("just put there"))
    }

    /// The one for a new row, within the transaction under way.
    fn for_new(&mut self, family: Family, id: u64) -> Result<&mut Segment> {
        let name = self.home_of(family, id).unwrap_or((family, id));
        self.writable(name)
    }

    fn writable(&mut self, name: Name) -> Result<&mut Segment> {
        let fresh = !self.begun.contains(&name);
        if fresh {
            self.segment(name)?.begin()?;
            self.begun.push(name);
        }
        self.segment(name)
    }

    /// Puts a batch of records in and commits them together with their place in the journal.
    pub(super) fn apply<'a>(
        &mut self,
        records: impl Iterator<Item = Record<'a>>,
        end: Position,
    ) -> Result<u64> {
        let applied = self.apply_all(records).and_then(|count| self.commit(end).map(|()| count));
        if applied.is_err() {
            self.give_up();
        }
        applied
    }

    /// Closes everything: what was begun is rolled back, and the next attempt opens afresh.
    pub(super) fn give_up(&mut self) {
        self.open.clear();
        self.used.clear();
        self.begun.clear();
    }

    /// What a burst has left in the page caches goes back.
    pub(super) fn release_memory(&mut self) {
        self.open.values().for_each(Segment::release_memory);
    }

    fn apply_all<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) -> Result<u64> {
        let mut fresh: BTreeMap<u64, Fresh<'a>> = BTreeMap::new();
        let mut refusals: Vec<Refused<'a>> = Vec::new();
        let mut later: Vec<Later<'a>> = Vec::new();
        let mut count = 0;
        let mut recovery_end = None;
        for record in records {
            count += 1;
            match record {
                Record::Arrived(arrived) => {
                    if arrived.by == By::Recovery {
                        if let Some(recovered) = &mut self.recovered {
                            recovered.insert(arrived.id);
                        }
                        if fresh.contains_key(&arrived.id) {
                            continue;
                        }
                    }
                    fresh.insert(arrived.id, Fresh::new(arrived));
                }
                Record::Refused(refused) => refusals.push(refused),
                Record::Outcome(outcome) => {
                    match fresh.get_mut(&outcome.id).filter(|it| it.arrived.by != By::Recovery) {
                        Some(fresh) => {
                            if !is_plain(&outcome) {
                                later.push(Later::History(History::of(&outcome)));
                            }
                            let standing =
                                fresh.standings.iter_mut().find(|it| it.heading.address == outcome.recipient);
                            match standing {
                                Some(standing) => {
                                    standing.status = status_after(outcome.fate);
                                    standing.updated = outcome.at;
                                    standing.outcome = Some(outcome);
                                }
                                None => later.push(Later::Outcome { outcome, perhaps_told: false }),
                            }
                        }
                        None => later.push(Later::Outcome { outcome, perhaps_told: false }),
                    }
                }
                Record::Happening(happening) => later.push(Later::Happening(happening)),
                Record::Lost { at, records } => later.push(Later::Lost { at, records }),
                Record::RecoveryEnd { at, before } => recovery_end = Some((at, before)),
                Record::Rested(_) => {}
                Record::Found(outcome) => later.push(Later::Outcome { outcome, perhaps_told: true }),
            }
        }
        for fresh in fresh.values() {
            self.for_new(Family::Messages, fresh.arrived.id)?.insert(fresh)?;
            self.rows += fresh.standings.len() as u64;
        }
        for refused in &refusals {
            self.for_new(Family::Refusals, refused.key)?.insert_refused(refused)?;
            self.rows += refused.recipients.len().max(1) as u64;
        }
        for change in &later {
            self.apply_later(change)?;
        }
        if let Some((at, before)) = recovery_end {
            self.end_recovery(at, before)?;
        }
        Ok(count)
    }

    fn apply_later(&mut self, change: &Later<'_>) -> Result<()> {
        match change {
            Later::Outcome { outcome, perhaps_told } => {
                let segment = self.for_new(Family::Messages, outcome.id)?;
                if *perhaps_told && !segment.is_open(outcome)? {
                    return Ok(());
                }
                segment.update(outcome)?;
                let History { id, at, what, recipient, says } = History::of(outcome);
                segment.add_history(id, at, what, recipient, &says)
            }
            Later::History(History { id, at, what, recipient, says }) => {
                self.for_new(Family::Messages, *id)?.add_history(*id, *at, what, recipient, says)
            }
            Later::Happening(happening) => {
                let segment = self.for_new(Family::Messages, happening.id)?;
                segment.turn(happening)?;
                let Happening { id, at, recipient, what, says, .. } = happening;
                segment.add_history(*id, *at, what, recipient, says)
            }
            Later::Lost { at, records } => {
                let reply = format!("{records} records of the trace were not kept: the node was overloaded");
                let refused = Refused {
                    // Below any name that a refusal of this millisecond gets.
                    key: first_id(*at) | 1 << 21,
                    at: *at,
                    client: None,
                    stage: "trace",
                    sender: None,
                    recipients: Vec::new(),
                    message_id: "",
                    reason: "lost",
                    rule: "",
                    code: 0,
                    reply: &reply,
                };
                self.for_new(Family::Refusals, refused.key)?.insert_refused(&refused)
            }
        }
    }

    /// What counts as open and is not in the spool has ended in the moments before a crash.
    fn end_recovery(&mut self, at: i64, before: u64) -> Result<()> {
        let Some(recovered) = self.recovered.take() else { return Ok(()) };
        let names: Vec<Name> =
            self.known.range((Family::Messages, 0)..=(Family::Messages, before)).copied().collect();
        for name in names {
            let open = self.segment(name)?.open_ids(before)?;
            let lost: Vec<u64> = open.into_iter().filter(|id| !recovered.contains(id)).collect();
            for id in lost {
                let segment = self.writable(name)?;
                segment.mark_unknown(id, at)?;
                let says = "the spool holds it no longer; its end was lost with the process";
                segment.add_history(id, at, "end-unknown", "", says)?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, end: Position) -> Result<()> {
        // The place in the journal stands in the newest segment, and is committed last.
        let newest = self.newest(Family::Messages).unwrap_or((Family::Messages, first_id(self.opened_at)));
        self.writable(newest)?.set_position(end)?;
        let begun = std::mem::take(&mut self.begun);
        for name in begun.iter().filter(|name| **name != newest) {
            self.segment(*name)?.commit()?;
        }
        self.segment(newest)?.commit()
    }

    /// Seals what is full, deletes what is too old or too much. Between batches only.
    pub(super) fn tend(&mut self, now: i64, end: Position) -> Result<Size> {
        for family in [Family::Messages, Family::Refusals] {
            self.seal_if_full(family, now, end)?;
        }
        while self.open.len() > OPEN_LIMIT {
            let oldest = self.used.remove(0);
            self.open.remove(&oldest);
        }
        let mut size = Size::default();
        for family in [Family::Messages, Family::Refusals] {
            let kept = self.prune(family, now);
            size.bytes += kept.bytes;
            size.segments += kept.segments;
        }
        Ok(size)
    }

    fn seal_if_full(&mut self, family: Family, now: i64, end: Position) -> Result<()> {
        let Some(newest) = self.newest(family) else { return Ok(()) };
        let limit = self.limits.segment_bytes(family);
        let span = SEGMENT_SPAN.min(self.limits.keep / 8);
        let old = newest.1 < first_id(now.saturating_sub(millis(span)));
        let segment = self.segment(newest)?;
        let full = segment.rows >= SEGMENT_ROWS || segment.bytes()? >= limit || old && segment.rows > 0;
        if !full {
            return Ok(());
        }
        if !segment.sealed {
            segment.seal()?;
        }
        // What comes from now on belongs to the next one, even when this thread lags behind the clock.
        let next = (family, segment.max_id.max(newest.1) + 1);
        let segment = self.segment(next)?;
        segment.set_position(end)
    }

    /// The oldest go first; the newest always stays.
    fn prune(&mut self, family: Family, now: i64) -> Size {
        let names: Vec<Name> = self.known.range((family, 0)..=(family, u64::MAX)).copied().collect();
        let bytes: Vec<u64> = names.iter().map(|name| bytes_of(&family.path(&self.dir, name.1))).collect();
        let mut size = Size { segments: names.len() as u64, bytes: bytes.iter().sum() };
        let horizon = first_id(now.saturating_sub(millis(self.limits.keep)));
        for (index, name) in names.iter().enumerate().take(names.len().saturating_sub(1)) {
            // All of its rows came before the first of the next.
            let too_old = names[index + 1].1 < horizon;
            if !too_old && size.bytes <= self.limits.share(family) {
                break;
            }
            self.forget(*name);
            size.bytes -= bytes[index];
            size.segments -= 1;
        }
        size
    }

    fn forget(&mut self, name: Name) {
        self.open.remove(&name);
        self.used.retain(|used| *used != name);
        self.known.remove(&name);
        let path = name.0.path(&self.dir, name.1);
        for path in with_companions(&path) {
            let _ = fs::remove_file(path);
        }
    }

    /// A segment that cannot be written: it is put aside, and what comes goes into a new one.
    pub(super) fn put_aside(&mut self) {
        for family in [Family::Messages, Family::Refusals] {
            let Some(name) = self.newest(family) else { continue };
            let path = family.path(&self.dir, name.1);
            let readable = Segment::open(&path)
                .and_then(|segment| segment.begin().and_then(|()| segment.commit()))
                .is_ok();
            if !readable {
                self.forget_open(name);
                for path in with_companions(&path) {
                    let mut aside = path.clone().into_os_string();
                    aside.push(".damaged");
                    let _ = fs::rename(path, aside);
                }
            }
        }
    }

    fn forget_open(&mut self, name: Name) {
        self.open.remove(&name);
        self.used.retain(|used| *used != name);
        self.known.remove(&name);
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn with_companions(path: &Path) -> [PathBuf; 3] {
    let with = |end: &str| {
        let mut name = path.to_owned().into_os_string();
        name.push(end);
        PathBuf::from(name)
    };
    [path.to_owned(), with("-wal"), with("-shm")]
}

fn bytes_of(path: &Path) -> u64 {
    with_companions(path).iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum()
}

/// A change to what an earlier batch put in, or to what this one did.
enum Later<'a> {
    Outcome {
        outcome: Outcome<'a>,
        /// A start found it: the process before may have told it already.
        perhaps_told: bool,
    },
    History(History<'a>),
    Happening(Happening<'a>),
    Lost {
        at: i64,
        records: u64,
    },
}

struct History<'a> {
    id: u64,
    at: i64,
    what: &'a str,
    recipient: &'a str,
    says: String,
}

impl<'a> History<'a> {
    fn of(outcome: &Outcome<'a>) -> Self {
        let host = if outcome.host.is_empty() { outcome.next_hop } else { outcome.host };
        Self {
            id: outcome.id,
            at: outcome.at,
            what: outcome.fate.word(),
            recipient: outcome.recipient,
            says: format!("attempt {} at {host}: {}", outcome.attempts, outcome.reply),
        }
    }
}
