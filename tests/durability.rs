//! Durability: what was acknowledged survives, whatever happens to the disk and whenever.
//!
//! Every prefix of the recorded disk operations is a crash point: a directory is rebuilt from it with the
//! unsynced writes kept, dropped or torn, and a spool is opened on it.
//! `LANDFALL_CRASH_POINTS` says how many crash points a run covers at least.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use landfall::chance::Chance;
use landfall::clock::{Clock, Timestamp};
use landfall::mail::{Address, Envelope, MessageId, Recipient, RemoteReply, Status};
use landfall::spool::{
    Accepted, Content, Disk, End, Error, Fault, FaultKind, Finding, Lasting, NotStored, Notice, Operation,
    Pressure, RecipientProgress, Recorder, Recovered, Settings, Spool,
};
use tempfile::TempDir;

/// Its hot log has files of half that.
const SEGMENT_BYTES: u64 = 32 * 1024;
const SECTOR_BYTES: usize = 512;

fn settings(dir: &Path) -> Settings {
    Settings {
        segment_bytes: SEGMENT_BYTES,
        own_file_above: 3_000,
        draft_in_memory_bytes: 2_500,
        min_free_bytes: 0,
        ..Settings::new(dir.to_owned())
    }
}

/// Memory-backed where there is such a place: thousands of directories are made and thrown away.
fn room() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a place for files")
}

fn open(dir: &Path) -> (Spool, Recovered, Arc<Recorder>) {
    try_open(dir).expect("a spool opens")
}

fn try_open(dir: &Path) -> Result<(Spool, Recovered, Arc<Recorder>), Error> {
    let (disk, recorder) = Disk::recording(dir).expect("a directory");
    let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let (spool, recovered) = Spool::open_on(disk, settings(dir), clock)?;
    Ok((spool, recovered, recorder))
}

fn envelope(recipients: usize) -> Envelope {
    let address = |n: usize| Address::parse(&format!("r{n}@contoso.example")).expect("an address");
    Envelope::new(
        MessageId::from_raw(0),
        Timestamp::from_millis(1_800_000_000_000),
        Some(Address::parse("anna@example.net").expect("an address")),
        (0..recipients).map(|n| Recipient::new(address(n))).collect(),
    )
}

fn body(chance: &mut Chance, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(chance.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

const HEAD: &[u8] = b"Received: from here\r\n";

async fn store(spool: &Spool, recipients: usize, body: &[u8]) -> Result<Accepted, NotStored> {
    let mut draft = spool.draft();
    for chunk in body.chunks(1_000) {
        draft.push(chunk);
        draft.settle().await?;
    }
    draft.commit(envelope(recipients), HEAD.to_vec()).await
}

async fn bytes_of(content: &Content) -> Vec<u8> {
    let mut bytes = content.head.to_vec();
    let mut reader = content.body.reader();
    while let Some(chunk) = reader.next().await.expect("a body is readable") {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes.len() as u64, content.len());
    bytes
}

fn ended(recipient: u32) -> (u32, RecipientProgress) {
    (recipient, RecipientProgress::ended(End::Delivered))
}

fn deferred(recipient: u32, attempts: u32) -> (u32, RecipientProgress) {
    let last = RemoteReply::ours("store", Status::new(4, 4, 1), "no answer");
    let next_attempt = Timestamp::from_millis(1_800_000_000_000 + i64::from(attempts) * 1_000);
    (recipient, RecipientProgress { attempts, next_attempt, last: Some(last), ..Default::default() })
}

// ---- the model of a disk that loses power ----

#[derive(Default, Clone)]
struct Platter {
    files: BTreeMap<u64, PlatterFile>,
    names: BTreeMap<String, u64>,
    /// Directory changes that are not durable yet.
    unsynced_names: Vec<Operation>,
}

#[derive(Default, Clone)]
struct PlatterFile {
    durable: Arc<Vec<u8>>,
    unsynced: Vec<Operation>,
}

#[derive(Debug, Clone, Copy)]
enum Loss {
    /// Everything reached the disk.
    Nothing,
    /// Nothing that was not synced did.
    Unsynced,
    /// Each sector of each unsynced write did or did not, and so did each directory change.
    Torn,
}

impl Platter {
    fn take(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { name: _, file } => {
                self.files.insert(*file, PlatterFile::default());
                self.unsynced_names.push(operation.clone());
            }
            Operation::Rename { .. } | Operation::Remove { .. } => {
                self.unsynced_names.push(operation.clone());
            }
            Operation::SyncDirectory => {
                for change in std::mem::take(&mut self.unsynced_names) {
                    rename(&mut self.names, &change);
                }
            }
            Operation::Write { file, .. }
            | Operation::Resize { file, .. }
            | Operation::Allocate { file, .. } => {
                self.files.entry(*file).or_default().unsynced.push(operation.clone());
            }
            Operation::Sync { file } => {
                let file = self.files.entry(*file).or_default();
                for change in std::mem::take(&mut file.unsynced) {
                    change_bytes(Arc::make_mut(&mut file.durable), &change, &mut || true);
                }
            }
        }
    }

    /// The directory as it is found after the crash.
    fn write_out(&self, dir: &Path, loss: Loss, chance: &mut Chance) {
        write_image(&self.image(loss, chance), dir);
    }

    fn image(&self, loss: Loss, chance: &mut Chance) -> Image {
        let mut names = self.names.clone();
        for change in &self.unsynced_names {
            let kept = match loss {
                Loss::Nothing => true,
                Loss::Unsynced => false,
                Loss::Torn => chance.below(2) == 0,
            };
            if kept {
                rename(&mut names, change);
            }
        }
        let mut image = Image::new();
        for (name, file) in names {
            let Some(file) = self.files.get(&file) else { continue };
            let lost = file.unsynced.is_empty() || matches!(loss, Loss::Unsynced);
            let bytes = if lost {
                file.durable.clone()
            } else {
                let mut bytes = Vec::clone(&file.durable);
                for change in &file.unsynced {
                    match loss {
                        Loss::Nothing | Loss::Unsynced => change_bytes(&mut bytes, change, &mut || true),
                        Loss::Torn => change_bytes(&mut bytes, change, &mut || chance.below(2) == 0),
                    }
                }
                Arc::new(bytes)
            };
            image.insert(name, bytes);
        }
        image
    }
}

/// All files of a directory.
type Image = BTreeMap<String, Arc<Vec<u8>>>;

fn write_image(image: &Image, dir: &Path) {
    for (name, bytes) in image {
        std::fs::write(dir.join(name), &**bytes).expect("a file is written");
    }
}

fn rename(names: &mut BTreeMap<String, u64>, change: &Operation) {
    match change {
        Operation::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        Operation::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Operation::Remove { name } => {
            names.remove(name);
        }
        Operation::Write { .. }
        | Operation::Resize { .. }
        | Operation::Allocate { .. }
        | Operation::Sync { .. }
        | Operation::SyncDirectory => unreachable!("not a change of names"),
    }
}

/// Sectors of a write are kept or lost one by one.
fn change_bytes(bytes: &mut Vec<u8>, change: &Operation, keep: &mut dyn FnMut() -> bool) {
    let small = |len: u64| usize::try_from(len).expect("small files");
    match change {
        Operation::Write { offset, data, .. } => {
            let offset = small(*offset);
            let end = offset + data.len();
            let mut at = offset;
            while at < end {
                let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                if keep() {
                    if bytes.len() < next {
                        bytes.resize(next, 0);
                    }
                    bytes[at..next].copy_from_slice(&data[at - offset..next - offset]);
                }
                at = next;
            }
        }
        Operation::Resize { len, .. } if keep() => bytes.resize(small(*len), 0),
        Operation::Allocate { len, .. } if keep() && bytes.len() < small(*len) => {
            bytes.resize(small(*len), 0)
        }
        Operation::Resize { .. } | Operation::Allocate { .. } => {}
        Operation::Create { .. }
        | Operation::Rename { .. }
        | Operation::Remove { .. }
        | Operation::Sync { .. }
        | Operation::SyncDirectory => unreachable!("not a change of bytes"),
    }
}

// ---- what must be true after a crash ----

#[derive(Default)]
struct History {
    messages: BTreeMap<MessageId, Told>,
    /// A notice, its cause, and the recipients it is about.
    notices: Vec<(MessageId, MessageId, Vec<u32>)>,
}

struct Told {
    bytes: Vec<u8>,
    /// After how many operations its commit had returned.
    acknowledged: Option<usize>,
    /// After how many operations each recipient's end was first said; it counts from there on, or later.
    ends: Vec<Option<usize>>,
}

impl Told {
    fn may_be_over(&self, at: usize) -> bool {
        self.ends.iter().all(|end| end.is_some_and(|end| end <= at))
    }
}

/// What a spool gives back after a crash: its messages, and every byte of them.
struct Found {
    recovered: Recovered,
    contents: BTreeMap<MessageId, Result<Vec<u8>, String>>,
}

impl Found {
    fn look(spool: &Spool, recovered: Recovered) -> Self {
        let read = |id: MessageId| (id, spool.read_whole(id).map_err(|error| error.to_string()));
        let contents = recovered.messages.iter().map(|message| read(message.envelope.id)).collect();
        Self { recovered, contents }
    }
}

impl History {
    fn hold(&self, at: usize, found: &Found, told: &str) {
        let Found { recovered, contents } = found;
        let live: BTreeMap<MessageId, _> =
            recovered.messages.iter().map(|message| (message.envelope.id, message)).collect();
        for finding in &recovered.findings {
            let harmless =
                matches!(finding, Finding::TornTail { .. } | Finding::Repaired { part: "index", .. });
            assert!(harmless, "{told}: {finding}");
        }
        let order: Vec<_> = recovered.messages.iter().map(|message| message.envelope.id).collect();
        assert!(order.is_sorted(), "{told}: in the order received");
        for (id, message) in &self.messages {
            let must_be_there =
                message.acknowledged.is_some_and(|from| from <= at) && !message.may_be_over(at);
            assert!(!must_be_there || live.contains_key(id), "{told}: {id} was acknowledged and is lost");
        }
        for (id, found) in &live {
            let known = self.messages.get(id).unwrap_or_else(|| panic!("{told}: {id} was never written"));
            assert!(!found.quarantined, "{told}: {id}");
            assert_eq!(found.progress.len(), known.ends.len(), "{told}: {id}");
            for (progress, end) in found.progress.iter().zip(&known.ends) {
                let early = progress.end.is_some() && end.is_none_or(|end| end > at);
                assert!(!early, "{told}: a recipient of {id} ended before anyone said so");
            }
            let content = contents[id].as_ref().unwrap_or_else(|error| panic!("{told}: {error}"));
            assert!(*content == known.bytes, "{told}: {id} has other bytes");
        }
        for (notice, cause, recipients) in &self.notices {
            let (Some(_), Some(cause)) = (live.get(notice), live.get(cause)) else { continue };
            let ended = recipients.iter().all(|one| cause.progress[*one as usize].end.is_some());
            assert!(ended, "{told}: notice {notice} is there, and what it is about has not ended");
        }
    }
}

/// A random life of a spool, and what was promised when.
async fn live(seed: u64, steps: usize) -> (Vec<Operation>, History) {
    let dir = room();
    let (spool, _, recorder) = open(dir.path());
    let mut chance = Chance::from_seed(seed);
    let mut history = History::default();
    let mut open_ones: Vec<(MessageId, Vec<u32>)> = Vec::new();
    for _ in 0..steps {
        match chance.below(12) {
            0..=4 => {
                let mut commits = tokio::task::JoinSet::new();
                for _ in 0..=chance.below(5) {
                    let len = match chance.below(10) {
                        0 => 3_000 + chance.below(6_000),
                        1..=3 => 1_000 + chance.below(1_500),
                        _ => chance.below(600),
                    };
                    let bytes = body(&mut chance, usize::try_from(len).expect("small"));
                    let recipients = 1 + usize::try_from(chance.below(3)).expect("small");
                    let spool = spool.clone();
                    commits.spawn(async move {
                        let accepted = store(&spool, recipients, &bytes).await.expect("it is stored");
                        (accepted, recipients, bytes)
                    });
                }
                while let Some(done) = commits.join_next().await {
                    let (accepted, recipients, bytes) = done.expect("no panic");
                    let id = accepted.envelope.id;
                    let told = Told {
                        bytes: [HEAD, &bytes].concat(),
                        acknowledged: Some(recorder.len()),
                        ends: vec![None; recipients],
                    };
                    history.messages.insert(id, told);
                    open_ones.push((id, (0..u32::try_from(recipients).expect("few")).collect()));
                }
            }
            5 => {
                // A client that goes away leaves nothing behind.
                let mut draft = spool.draft();
                draft.push(&body(&mut chance, 5_000));
                draft.settle().await.expect("it spills");
            }
            6 | 7 if !open_ones.is_empty() => {
                let at = usize::try_from(chance.below(open_ones.len() as u64)).expect("small");
                let (id, open) = &open_ones[at];
                spool.record(*id, &[deferred(open[0], 1 + u32::try_from(chance.below(9)).expect("small"))]);
            }
            8 | 9 if !open_ones.is_empty() => {
                for _ in 0..=chance.below(6) {
                    if open_ones.is_empty() {
                        break;
                    }
                    let at = usize::try_from(chance.below(open_ones.len() as u64)).expect("small");
                    let (id, open) = &mut open_ones[at];
                    let recipient = open.pop().expect("open ones have recipients");
                    history.messages.get_mut(id).expect("told").ends[recipient as usize] =
                        Some(recorder.len());
                    spool.record(*id, &[ended(recipient)]);
                    if open.is_empty() {
                        open_ones.swap_remove(at);
                    }
                }
            }
            10 if !open_ones.is_empty() => {
                let at = usize::try_from(chance.below(open_ones.len() as u64)).expect("small");
                let (cause, open) = open_ones.swap_remove(at);
                let id = spool.mint();
                let bytes = body(&mut chance, 400);
                let before = recorder.len();
                let told = &mut history.messages.get_mut(&cause).expect("told").ends;
                for recipient in &open {
                    told[*recipient as usize] = Some(before);
                }
                let notice =
                    Notice { envelope: Envelope { id, ..envelope(1) }, content: Bytes::from(bytes.clone()) };
                let changes = open.iter().map(|recipient| {
                    (*recipient, RecipientProgress { end: Some(End::Failed), ..Default::default() })
                });
                let accepted =
                    spool.record_with_notice(cause, changes.collect(), notice).await.expect("noted");
                assert_eq!(accepted.envelope.id, id);
                let told = Told { bytes, acknowledged: Some(recorder.len()), ends: vec![None] };
                history.messages.insert(id, told);
                history.notices.push((id, cause, open));
                open_ones.push((id, vec![0]));
            }
            11 => spool.tidy().await,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    spool.tidy().await;
    let operations = recorder.operations();
    (operations, history)
}

fn crash_points_wanted() -> usize {
    std::env::var("LANDFALL_CRASH_POINTS").ok().and_then(|count| count.parse().ok()).unwrap_or(100_000)
}

#[test]
fn every_crash_leaves_what_was_acknowledged_and_nothing_half() {
    let wanted = crash_points_wanted();
    let points = AtomicUsize::new(0);
    let disks = AtomicUsize::new(0);
    let seeds = AtomicU64::new(0);
    // Seeds are independent of each other: as many at once as there are processors.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime");
                while points.load(Ordering::Relaxed) < wanted {
                    let seed = seeds.fetch_add(1, Ordering::Relaxed);
                    let (here, different) = runtime.block_on(crash_everywhere(seed));
                    points.fetch_add(here, Ordering::Relaxed);
                    disks.fetch_add(different, Ordering::Relaxed);
                }
            });
        }
    });
    println!(
        "{} crash points that left {} different disks, {} seeds",
        points.into_inner(),
        disks.into_inner(),
        seeds.into_inner()
    );
}

/// A disk is found again soon after, or never.
const DISKS_REMEMBERED: usize = 16;

/// Lives one life, and ends it after each of its operations.
async fn crash_everywhere(seed: u64) -> (usize, usize) {
    let dir = room();
    let (mut points, mut different) = (0, 0);
    let (operations, history) = live(seed, 60).await;
    let mut platter = Platter::default();
    let mut chance = Chance::from_seed(seed);
    // Many crashes leave the same disk, as all do right after a sync: what is found there is looked at once, and
    // held against what had been promised at each of them.
    let mut seen: VecDeque<(Image, Found)> = VecDeque::new();
    for at in 0..=operations.len() {
        if at > 0 {
            platter.take(&operations[at - 1]);
        }
        for loss in [Loss::Unsynced, Loss::Nothing, Loss::Torn, Loss::Torn] {
            let told = format!("seed {seed}, after {at} operations, losing {loss:?}");
            let image = platter.image(loss, &mut chance);
            if !seen.iter().any(|(known, _)| *known == image) {
                let crashed = dir.path().join(format!("spool-{points}"));
                std::fs::create_dir(&crashed).expect("a directory");
                write_image(&image, &crashed);
                // Most are only read; every now and then one goes on living.
                different += 1;
                let found = if different % 25 == 0 {
                    let (spool, recovered, _) = open(&crashed);
                    hold_again(&spool, &recovered, &crashed, &told).await;
                    Found::look(&spool, recovered)
                } else {
                    let (spool, recovered) = recover(&crashed);
                    Found::look(&spool, recovered)
                };
                // What was still tidying may make a file meanwhile; the whole place goes in the end.
                let _ = std::fs::remove_dir_all(&crashed);
                seen.truncate(DISKS_REMEMBERED);
                seen.push_front((image.clone(), found));
            }
            let (_, found) = seen.iter().find(|(known, _)| *known == image).expect("it was just looked at");
            history.hold(at, found, &told);
            points += 1;
        }
    }
    (points, different)
}

fn recover(dir: &Path) -> (Spool, Recovered) {
    let (disk, _) = Disk::recording(dir).expect("a directory");
    let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    Spool::recover_on(disk, settings(dir), clock).expect("a spool is readable")
}

/// Tidying what was recovered, closing and opening again changes nothing of it.
async fn hold_again(spool: &Spool, recovered: &Recovered, dir: &Path, told: &str) {
    let before: BTreeSet<_> = recovered.messages.iter().map(|message| message.envelope.id).collect();
    spool.tidy().await;
    spool.clone().close().await;
    let copy = dir.with_extension("copy");
    std::fs::create_dir(&copy).expect("a directory");
    for entry in std::fs::read_dir(dir).expect("readable") {
        let entry = entry.expect("readable");
        std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("copied");
    }
    let (again, recovered_again, _) = open(&copy);
    let after: BTreeSet<_> = recovered_again.messages.iter().map(|message| message.envelope.id).collect();
    assert_eq!(before, after, "{told}: after tidying");
    let mut messages = recovered.messages.iter().zip(&recovered_again.messages);
    assert!(messages.all(|(one, two)| one.progress == two.progress), "{told}: progress after tidying");
    again.close().await;
    std::fs::remove_dir_all(&copy).expect("removed");
}

// ---- the n-th operation fails ----

#[tokio::test]
async fn whichever_operation_fails_nothing_acknowledged_is_lost() {
    for kind in [FaultKind::Full, FaultKind::Broken] {
        for lasting in [Lasting::Once, Lasting::Forever] {
            let mut at = 0;
            while fail_at(Fault { at, kind, lasting }).await {
                at += 1;
            }
            assert!(at > 20, "the work has more operations than {at}");
        }
    }
}

/// Says whether the fault was reached.
async fn fail_at(fault: Fault) -> bool {
    let told = format!("{fault:?}");
    let dir = room();
    let (disk, recorder) = Disk::recording(dir.path()).expect("a directory");
    recorder.fail(Some(fault));
    let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let Ok((spool, _)) = Spool::open_on(disk, settings(dir.path()), clock) else {
        // A spool that can't be opened has promised nothing.
        return true;
    };
    let mut chance = Chance::from_seed(fault.at);
    let mut kept: Vec<(MessageId, Vec<u8>)> = Vec::new();
    for round in 0..12_u64 {
        let len = if round % 4 == 3 { 4_000 } else { 2_000 };
        let bytes = body(&mut chance, len);
        match store(&spool, 1, &bytes).await {
            Ok(accepted) => kept.push((accepted.envelope.id, [HEAD, &bytes].concat())),
            Err(NotStored::Full) => assert_eq!(fault.kind, FaultKind::Full, "{told}"),
            // A full disk is no reason to stop for good.
            Err(NotStored::Failed) => assert_eq!(fault.kind, FaultKind::Broken, "{told}"),
            Err(NotStored::Expired) => panic!("{told}: nothing takes that long"),
        }
        if round % 3 == 2 && kept.len() > 2 {
            let (id, _) = kept.remove(0);
            spool.record(id, &[ended(0)]);
        }
    }
    spool.tidy().await;
    let reached = recorder.counted() > fault.at;
    if fault.kind == FaultKind::Full && fault.lasting == Lasting::Once {
        // There is room again: so is the service.
        recorder.fail(None);
        store(&spool, 1, b"after\r\n").await.unwrap_or_else(|error| panic!("{told}: {error}"));
        assert_ne!(spool.state().pressure, Pressure::Failed, "{told}");
    }
    for (id, bytes) in &kept {
        let content = spool.read(*id).await.unwrap_or_else(|error| panic!("{told}: {error}"));
        assert!(bytes_of(&content).await == *bytes, "{told}");
    }
    // What a crash leaves right now, without what was not synced.
    let mut platter = Platter::default();
    for operation in recorder.operations() {
        platter.take(&operation);
    }
    let crashed = room();
    platter.write_out(crashed.path(), Loss::Unsynced, &mut chance);
    let (after, recovered, _) = open(crashed.path());
    for (id, bytes) in &kept {
        let content = after.read(*id).await.unwrap_or_else(|error| panic!("{told}, after: {error}"));
        assert!(bytes_of(&content).await == *bytes, "{told}, after");
    }
    let damage = recovered.findings.iter().find(|finding| matches!(finding, Finding::Damaged { .. }));
    assert_eq!(damage, None, "{told}");
    reached
}

#[tokio::test]
async fn a_failed_sync_stops_acceptance_for_good() {
    let dir = room();
    let (spool, _, recorder) = open(dir.path());
    let kept = store(&spool, 1, b"before\r\n").await.expect("stored");
    spool.tidy().await;
    // A commit is a write and a sync: the second one fails, once.
    let fault = Fault { at: recorder.counted() + 1, kind: FaultKind::Broken, lasting: Lasting::Once };
    recorder.fail(Some(fault));
    assert_eq!(store(&spool, 1, b"lost\r\n").await.err(), Some(NotStored::Failed));
    assert_eq!(store(&spool, 1, b"later\r\n").await.err(), Some(NotStored::Failed));
    assert_eq!(*spool.pressure().borrow(), Pressure::Failed);
    let content = spool.read(kept.envelope.id).await.expect("what is there is still served");
    assert_eq!(bytes_of(&content).await, [HEAD, b"before\r\n"].concat());
}

#[tokio::test]
async fn outcomes_still_fit_when_the_disk_is_full() {
    let dir = room();
    let (spool, _, recorder) = open(dir.path());
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.push(store(&spool, 1, &[b'x'; 2_000]).await.expect("stored").envelope.id);
    }
    spool.tidy().await;
    // From here on no file can be made or lengthened; what was set aside is all there is.
    recorder.refuse_new_space();
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(store(&spool, 1, &[b'x'; 2_000]).await.err() == Some(NotStored::Full));
    }
    assert!(refused > 0, "the disk is full");
    assert_eq!(*spool.pressure().borrow(), Pressure::Full);
    let cause = kept.pop().expect("some were stored");
    let notice =
        Notice { envelope: Envelope { id: spool.mint(), ..envelope(1) }, content: Bytes::from("no\r\n") };
    spool.record_with_notice(cause, vec![ended(0)], notice).await.expect("a notice has its reserve");
    for id in kept.drain(..) {
        spool.record(id, &[ended(0)]);
    }
    spool.tidy().await;
    store(&spool, 1, &[b'x'; 2_000]).await.expect("emptied, it takes mail again");
}

/// Fills a disk of this size, ends with a kill, starts again on the full disk, and drains.
async fn fill_and_drain(capacity: u64, segment_bytes: u64, min_free_bytes: u64, kills: usize) {
    let told = format!("{capacity} bytes, segments of {segment_bytes}, {min_free_bytes} to stay free");
    let dir = room();
    let settings = |dir: &Path| Settings { segment_bytes, min_free_bytes, ..settings(dir) };
    let start = |dir: &Path| {
        let (disk, recorder) = Disk::recording(dir).expect("a directory");
        recorder.limit(capacity);
        let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
        Spool::open_on(disk, settings(dir), clock).unwrap_or_else(|error| panic!("{told}: {error}"))
    };
    let mut chance = Chance::from_seed(capacity);
    let mut kept = BTreeMap::new();
    let mut refused = 0;
    let (mut spool, _) = start(dir.path());
    while refused < 20 {
        let len = if chance.below(8) == 0 { 5_000 } else { 200 + chance.below(1_500) };
        let bytes = body(&mut chance, usize::try_from(len).expect("small"));
        match store(&spool, 1, &bytes).await {
            Ok(accepted) => drop(kept.insert(accepted.envelope.id, [HEAD, &bytes].concat())),
            Err(NotStored::Full) => refused += 1,
            Err(why) => panic!("{told}: {why}"),
        }
        // Each waits once more, as when its next hop is down.
        if let Some((id, _)) = kept.iter().nth(usize::try_from(chance.below(50)).expect("small")) {
            spool.record(*id, &[deferred(0, refused)]);
        }
    }
    assert!(!kept.is_empty(), "{told}: it takes at least one message");
    spool.tidy().await;
    let mut place = dir;
    for _ in 0..kills {
        place = copy_of(place.path());
        let (again, recovered) = start(place.path());
        let found: BTreeSet<_> = recovered.messages.iter().map(|message| message.envelope.id).collect();
        assert!(kept.keys().all(|id| found.contains(id)), "{told}: all are there after a kill");
        again.tidy().await;
        spool = again;
    }
    let mut ids: Vec<_> = kept.keys().copied().collect();
    ids.sort_by_cached_key(|_| chance.next_u64());
    for id in ids {
        assert!(bytes_of(&spool.read(id).await.expect("readable")).await == kept[&id], "{told}");
        spool.record(id, &[ended(0)]);
    }
    for _ in 0..3 {
        spool.tidy().await;
    }
    let state = spool.state();
    assert_eq!((state.live_messages, state.pressure), (0, Pressure::Free), "{told}: {state:?}");
    let (mut again, mut refused) = (0, 0);
    while refused < 3 {
        if store(&spool, 1, &[b'x'; 1_000]).await.is_ok() {
            again += 1;
        } else {
            refused += 1;
            spool.tidy().await;
        }
    }
    println!("{told}, {kills} kills: {} messages, and {again} once it was emptied", kept.len());
    assert!(again >= kept.len() / 8, "{told}: {again} now, and {} before", kept.len());
}

#[tokio::test]
async fn a_full_disk_that_was_emptied_takes_mail_again() {
    for (segments, min_free_part) in [(8, 0), (8, 4), (8, 1), (4, 4), (3, 2), (2, 4), (2, 1), (1, 4)] {
        let segment_bytes: u64 = 128 * 1024;
        let min_free = segment_bytes.checked_div(min_free_part).unwrap_or(0);
        for kills in [0, 1, 6] {
            // Somewhat more than whole segments, so that the last piece is not a segment.
            fill_and_drain(segments * segment_bytes + 70 * 1024, segment_bytes, min_free, kills).await;
        }
    }
}

// ---- damage ----

#[tokio::test]
async fn a_flipped_bit_is_never_delivered_and_harms_its_own_message_alone() {
    let dir = room();
    let (spool, _, _) = open(dir.path());
    let mut chance = Chance::from_seed(3);
    let mut kept = BTreeMap::new();
    let mut over = Vec::new();
    // Stragglers between finished messages, so that some are rewritten to the deferred log.
    for round in 0..60 {
        let bytes = body(&mut chance, if round == 57 { 4_000 } else { 700 });
        let id = store(&spool, 2, &bytes).await.expect("stored").envelope.id;
        if round % 8 == 0 || round >= 52 {
            spool.record(id, &[deferred(0, 1)]);
            kept.insert(id, [HEAD, &bytes].concat());
        } else {
            over.push(id);
        }
    }
    let cause = over.pop().expect("some are over");
    for id in &over {
        spool.record(*id, &[ended(0), ended(1)]);
    }
    spool.tidy().await;
    let id = spool.mint();
    let notice =
        Notice { envelope: Envelope { id, ..envelope(1) }, content: Bytes::from_static(b"returned\r\n") };
    spool.record_with_notice(cause, vec![ended(0), ended(1)], notice).await.expect("noted");
    kept.insert(id, b"returned\r\n".to_vec());
    spool.tidy().await;
    let unsealed = copy_of(dir.path());
    spool.close().await;

    let mut flips = 0;
    let mut found = 0;
    for original in [unsealed.path(), dir.path()] {
        for (name, len) in files_of(original) {
            // Every part of a small file, and of a large one a bit in each stretch of 40 bytes.
            for start in (0..len).step_by(40) {
                let at = start + usize::try_from(chance.below(40)).expect("small");
                if at >= len {
                    continue;
                }
                let damaged = copy_of(original);
                let path = damaged.path().join(&name);
                let mut bytes = std::fs::read(&path).expect("readable");
                bytes[at] ^= 1 << chance.below(8);
                std::fs::write(&path, bytes).expect("writable");
                let told = format!("{name}, byte {at} of {len}");
                flips += 1;
                found += usize::from(damage_is_contained(damaged.path(), &kept, &told).await);
            }
        }
    }
    println!("{flips} flipped bits, {found} in something that is needed");
    assert!(found > 100, "most of what is alive was hit");
}

/// Says whether the damage showed.
async fn damage_is_contained(dir: &Path, kept: &BTreeMap<MessageId, Vec<u8>>, told: &str) -> bool {
    let (spool, recovered, _) = open(dir);
    let live: BTreeMap<_, _> =
        recovered.messages.iter().map(|message| (message.envelope.id, message.quarantined)).collect();
    let mut harmed = 0;
    let mut gone = Vec::new();
    for (id, bytes) in kept {
        match live.get(id) {
            None => gone.push((id, bytes)),
            Some(true) => harmed += 1,
            Some(false) => match spool.read(*id).await {
                Ok(content) => assert!(bytes_of(&content).await == *bytes, "{told}: {id} has other bytes"),
                Err(Error::Damaged(_)) => {
                    assert_eq!(spool.state().quarantined, 1, "{told}: {id}");
                    harmed += 1;
                }
                Err(error) => panic!("{told}: {error}"),
            },
        }
    }
    harmed += gone.len();
    if !gone.is_empty() {
        // With nothing left to tidy the files lie still.
        spool.tidy().await;
        spool.close().await;
    }
    for (id, bytes) in gone {
        assert_ne!(recovered.findings, [], "{told}: {id} vanished without a word");
        let half = &bytes[bytes.len() / 2..];
        let other_half = &bytes[..bytes.len() / 2];
        let rest = files_of(dir).into_iter().any(|(name, _)| {
            let file = std::fs::read(dir.join(name)).expect("readable");
            [half, other_half].into_iter().any(|part| memchr::memmem::find(&file, part).is_some())
        });
        assert!(rest, "{told}: {id} is gone, and nothing of it was set aside: {:?}", recovered.findings);
    }
    assert!(harmed <= 1, "{told}: {harmed} messages are harmed by one bit: {:?}", recovered.findings);
    let risen = live.keys().filter(|id| !kept.contains_key(id)).count();
    assert!(risen == 0 || !recovered.findings.is_empty(), "{told}: finished mail rose again without a word");
    harmed > 0 || !recovered.findings.is_empty()
}

fn files_of(dir: &Path) -> Vec<(String, usize)> {
    let entries = std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable"));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let len = usize::try_from(entry.metadata().expect("readable").len()).expect("small files");
            (entry.file_name().into_string().expect("our names are ASCII"), len)
        })
        .filter(|(name, _)| name != "lock" && !name.starts_with("spare-"))
        .collect();
    files.sort();
    files
}

fn copy_of(dir: &Path) -> TempDir {
    let copy = room();
    for entry in std::fs::read_dir(dir).expect("readable") {
        let entry = entry.expect("readable");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    copy
}

#[tokio::test]
async fn bodies_whose_records_are_gone_are_set_aside() {
    let dir = room();
    let (spool, _, _) = open(dir.path());
    let id = store(&spool, 1, &[b'x'; 9_000]).await.expect("stored").envelope.id;
    let mut draft = spool.draft();
    draft.push(&[b'y'; 9_000]);
    draft.settle().await.expect("it spills");
    let lost = copy_of(dir.path());
    let (segment, _) =
        files_of(lost.path()).into_iter().find(|(name, _)| name.starts_with("hot-")).expect("a segment");
    std::fs::remove_file(lost.path().join(segment)).expect("removed");
    let (_spool, recovered, _) = open(lost.path());
    assert_eq!(recovered.findings, [Finding::OrphanBody { id }]);
    let kept = std::fs::read(lost.path().join(format!("orphan-{id}"))).expect("kept");
    assert_eq!(kept, [b'x'; 9_000]);
    assert!(!lost.path().join(format!("draft-{}", draft.id())).exists(), "never promised");
}

#[tokio::test]
async fn a_torn_tail_is_cut_at_the_last_whole_record_and_said_once() {
    let dir = room();
    let (spool, _, _) = open(dir.path());
    let mut last = MessageId::from_raw(0);
    for _ in 0..3 {
        last = store(&spool, 1, &[b'x'; 900]).await.expect("stored").envelope.id;
    }
    spool.tidy().await;
    let torn = copy_of(dir.path());
    let (name, _) =
        files_of(torn.path()).into_iter().find(|(name, _)| name.starts_with("hot-")).expect("a segment");
    let path = torn.path().join(name);
    let mut bytes = std::fs::read(&path).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("not empty");
    bytes[end - 300..=end].fill(0);
    std::fs::write(&path, &bytes).expect("writable");
    let (again, recovered, _) = open(torn.path());
    assert_eq!(recovered.messages.len(), 2);
    let [Finding::TornTail { id: Some(id), octets, kept_as: Some(kept_as), offset, .. }] =
        &recovered.findings[..]
    else {
        panic!("{:?}", recovered.findings)
    };
    assert_eq!(*id, last);
    let from = usize::try_from(*offset).expect("small");
    let to = from + usize::try_from(*octets).expect("small");
    assert_eq!(to, end + 1, "to the end of the record");
    assert_eq!(std::fs::read(torn.path().join(kept_as)).expect("set aside"), bytes[from..to]);
    again.close().await;
    let next = copy_of(torn.path());
    let (_, recovered, _) = open(next.path());
    assert_eq!((recovered.messages.len(), recovered.findings.len()), (2, 0));
    assert!(next.path().join(kept_as).exists(), "yours to delete");
}

/// The header's own octets are lost: nothing says what it was, and it is set aside all the same.
#[tokio::test]
async fn an_unfinished_write_without_its_header_is_set_aside_too() {
    let dir = room();
    let (spool, _, _) = open(dir.path());
    store(&spool, 1, b"before\r\n").await.expect("stored");
    let torn = copy_of(dir.path());
    let (name, _) =
        files_of(torn.path()).into_iter().find(|(name, _)| name.starts_with("hot-")).expect("a segment");
    let path = torn.path().join(name);
    let mut bytes = std::fs::read(&path).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("not empty") + 1;
    bytes[end + 100..end + 600].fill(b'x');
    std::fs::write(&path, &bytes).expect("writable");
    let (_again, recovered, _) = open(torn.path());
    assert_eq!(recovered.messages.len(), 1);
    let [Finding::TornTail { id: None, octets: 600, kept_as: Some(kept_as), .. }] = &recovered.findings[..]
    else {
        panic!("{:?}", recovered.findings)
    };
    assert_eq!(std::fs::read(torn.path().join(kept_as)).expect("set aside"), bytes[end..end + 600]);
}

/// However often the power fails, what is set aside is bounded.
#[tokio::test]
async fn what_is_set_aside_is_bounded() {
    let mut place = room();
    for _ in 0..40 {
        let (spool, _, _) = open(place.path());
        store(&spool, 1, &[b'x'; 500]).await.expect("stored");
        spool.tidy().await;
        let torn = copy_of(place.path());
        let newest = files_of(torn.path()).into_iter().rfind(|(name, _)| name.starts_with("hot-"));
        let path = torn.path().join(newest.expect("a segment").0);
        let mut bytes = std::fs::read(&path).expect("readable");
        let end = bytes.iter().rposition(|byte| *byte != 0).expect("not empty");
        bytes[end] ^= 1;
        std::fs::write(&path, &bytes).expect("writable");
        place = torn;
    }
    let (_spool, recovered, _) = open(place.path());
    assert!(matches!(recovered.findings[..], [Finding::TornTail { kept_as: Some(_), .. }]));
    let torn = files_of(place.path()).into_iter().filter(|(name, _)| name.starts_with("torn-")).count();
    assert_eq!(torn, 16, "the latest ones");
}

// ---- what the spool promises while all is well ----

#[tokio::test]
async fn one_straggler_per_segment_does_not_hold_the_space_of_the_rest() {
    let dir = room();
    let (disk, _) = Disk::recording(dir.path()).expect("a directory");
    let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let segment_bytes = 64 * 1024;
    let settings = Settings { segment_bytes, ..settings(dir.path()) };
    let (spool, _) = Spool::open_on(disk, settings, clock).expect("it opens");
    let mut chance = Chance::from_seed(11);
    let mut stragglers = BTreeMap::new();
    let mut stored = 0_u64;
    for round in 0..1_500 {
        let len = 200 + usize::try_from(chance.below(2_000)).expect("small");
        let bytes = body(&mut chance, len);
        let id = store(&spool, 1, &bytes).await.expect("stored").envelope.id;
        stored += bytes.len() as u64;
        if round % 50 == 0 {
            spool.record(id, &[deferred(0, 1)]);
            stragglers.insert(id, [HEAD, &bytes].concat());
        } else {
            spool.record(id, &[ended(0)]);
        }
        if round % 300 == 299 {
            spool.tidy().await;
            let state = spool.state();
            let bound = 2 * state.live_bytes + 2 * segment_bytes;
            assert!(state.bytes_on_disk <= bound, "{} bytes on disk, bound {bound}", state.bytes_on_disk);
            let files: usize = files_and_spares(dir.path());
            assert_eq!(files as u64, state.bytes_on_disk, "the count is true");
        }
    }
    assert!(stored > 5 * spool.state().bytes_on_disk, "far more passed through than is kept");
    assert_eq!(spool.state().live_messages, stragglers.len() as u64);
    for (id, bytes) in &stragglers {
        assert!(bytes_of(&spool.read(*id).await.expect("readable")).await == *bytes);
    }
    let copy = copy_of(dir.path());
    let (_, recovered, _) = open(copy.path());
    let progress: Vec<_> = recovered.messages.iter().map(|message| message.progress[0].attempts).collect();
    assert_eq!(progress, vec![1; stragglers.len()], "what was rewritten kept its progress");
}

/// Rule 60 and the bound on space, while mail flows and nothing rests.
#[tokio::test]
async fn the_spool_stays_within_its_bound_while_mail_flows() {
    let dir = room();
    let (disk, _) = Disk::recording(dir.path()).expect("a directory");
    let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let segment_bytes = 128 * 1024;
    let settings = Settings { segment_bytes, ..settings(dir.path()) };
    let (spool, _) = Spool::open_on(disk, settings, clock).expect("it opens");
    let mut chance = Chance::from_seed(12);
    let mut under_way: VecDeque<MessageId> = VecDeque::new();
    let (mut highest, mut stored) = (0, 0_u64);
    for round in 0..3_000_u64 {
        // Now and then one with a file of its own, and one that stays.
        let len = if round % 40 == 7 { 9_000 } else { 200 + chance.below(2_300) };
        let bytes = body(&mut chance, usize::try_from(len).expect("small"));
        let id = store(&spool, 1, &bytes).await.expect("stored").envelope.id;
        stored += len;
        if round % 60 == 0 {
            spool.record(id, &[deferred(0, 1)]);
        } else {
            under_way.push_back(id);
        }
        // What comes in goes on a little later; sometimes the next hop is slow, and then it catches up.
        let slow = (round / 500) % 2 == 1;
        while under_way.len() > if slow { 300 } else { 5 } {
            spool.record(under_way.pop_front().expect("more than none"), &[ended(0)]);
        }
        if round % 7 == 0 {
            spool.tidy_in_flow().await;
            let state = spool.state();
            let bound = 2 * state.live_bytes + 2 * segment_bytes;
            let told = format!("{} bytes on disk in round {round}, bound {bound}", state.bytes_on_disk);
            assert!(state.bytes_on_disk <= bound, "{told}");
            highest = highest.max(state.bytes_on_disk);
        }
    }
    assert!(stored > 3 * highest, "far more passed through than was ever kept: {stored}, {highest}");
}

#[tokio::test]
async fn the_pressure_does_not_turn_with_each_message_at_the_edge() {
    let dir = room();
    let (disk, recorder) = Disk::recording(dir.path()).expect("a directory");
    let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let min_free = 512 * 1024;
    let settings = Settings { min_free_bytes: min_free, ..settings(dir.path()) };
    let (spool, _) = Spool::open_on(disk, settings, clock).expect("it opens");
    // A spool with nothing to deliver would give its reserve back.
    store(&spool, 1, b"waits\r\n").await.expect("stored");
    spool.tidy().await;
    let used = spool.state().bytes_on_disk;
    let mut pressure = spool.pressure();
    let mut turns = 0;
    let mut free_at = async |free: u64| {
        recorder.limit(used + free);
        spool.tidy().await;
        turns += usize::from(pressure.has_changed().expect("the spool is there"));
        *pressure.borrow_and_update()
    };
    assert_eq!(free_at(min_free + 64 * 1024).await, Pressure::Free);
    for _ in 0..5 {
        assert_eq!(free_at(min_free - 8 * 1024).await, Pressure::Full);
        assert_eq!(free_at(min_free + 16 * 1024).await, Pressure::Full, "hardly enough");
    }
    assert_eq!(free_at(min_free + 200 * 1024).await, Pressure::Free);
    assert_eq!(free_at(min_free + 16 * 1024).await, Pressure::Free, "not short yet");
    assert_eq!(turns, 2);
}

fn files_and_spares(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable"));
    entries.map(|entry| usize::try_from(entry.metadata().expect("readable").len()).expect("small")).sum()
}

/// A runtime whose only thread for blocking work is kept busy until the sender is used or dropped.
fn with_the_disk_held<F: Future>(
    run: impl FnOnce(std::sync::mpsc::Sender<()>, Spool, Arc<Recorder>) -> F,
) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        let dir = room();
        let (disk, recorder) = Disk::recording(dir.path()).expect("a directory");
        let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
        let settings = Settings { commit_deadline: Duration::from_millis(50), ..settings(dir.path()) };
        let (spool, _) = Spool::open_on(disk, settings, clock).expect("it opens");
        spool.tidy().await;
        let (release, held) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || held.recv());
        run(release, spool, recorder).await
    })
}

#[test]
fn commits_that_wait_together_share_one_sync() {
    with_the_disk_held(|release, spool, recorder| async move {
        let before = recorder.len();
        let mut commits = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let spool = spool.clone();
            commits.spawn(async move {
                store(&spool, 1, &[b'x'; 100]).await.map(|accepted| accepted.envelope.id)
            });
        }
        tokio::task::yield_now().await;
        release.send(()).expect("the disk is held");
        let ids: BTreeSet<_> = commits.join_all().await.into_iter().map(|id| id.expect("stored")).collect();
        assert_eq!(ids.len(), 50);
        let syncs = recorder.operations()[before..]
            .iter()
            .filter(|operation| matches!(operation, Operation::Sync { .. }))
            .count();
        // One for the batch; the others belong to segments made for it.
        assert!(syncs <= 10, "{syncs} syncs for 50 messages");
    });
}

#[test]
fn a_commit_past_its_deadline_is_withdrawn_and_not_kept() {
    with_the_disk_held(|release, spool, _| async move {
        assert_eq!(store(&spool, 1, b"slow\r\n").await.err(), Some(NotStored::Expired));
        release.send(()).expect("the disk is held");
        spool.tidy().await;
        spool.tidy().await;
        assert_eq!(spool.state().live_messages, 0, "its client was told to send it again");
    });
}

#[test]
fn a_connection_that_ends_does_not_end_the_commit_of_others() {
    with_the_disk_held(|release, spool, _| async move {
        let mut commits = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let spool = spool.clone();
            commits.spawn(async move {
                store(&spool, 1, b"hello\r\n").await.map(|accepted| accepted.envelope.id)
            });
        }
        tokio::task::yield_now().await;
        // The first of them started the leader.
        let gone = tokio::spawn({
            let spool = spool.clone();
            async move { store(&spool, 1, b"gone\r\n").await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        gone.abort();
        release.send(()).expect("the disk is held");
        assert_eq!(commits.join_all().await.into_iter().filter(Result::is_ok).count(), 10);
        spool.tidy().await;
        spool.tidy().await;
        assert_eq!(spool.state().live_messages, 10);
    });
}

#[tokio::test]
async fn large_drafts_spill_and_small_ones_do_when_the_budget_is_spent() {
    let dir = room();
    let (disk, _) = Disk::recording(dir.path()).expect("a directory");
    let clock = Clock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let settings = Settings { draft_memory_bytes: 4_000, ..settings(dir.path()) };
    let (spool, _) = Spool::open_on(disk, settings, clock).expect("it opens");
    let mut large = spool.draft();
    for _ in 0..5 {
        large.push(&[b'l'; 1_000]);
        large.settle().await.expect("room");
    }
    assert!(dir.path().join(format!("draft-{}", large.id())).exists());
    let mut small: Vec<_> = (0..4).map(|_| spool.draft()).collect();
    for draft in &mut small {
        draft.push(&[b's'; 1_500]);
        draft.settle().await.expect("room");
    }
    assert!(spool.state().memory_bytes <= 4_000 + 1_500, "{}", spool.state().memory_bytes);
    let accepted = large.commit(envelope(1), HEAD.to_vec()).await.expect("stored");
    assert_eq!(bytes_of(&accepted.content).await, [HEAD, &[b'l'; 5_000]].concat());
    let read = spool.read(accepted.envelope.id).await.expect("readable");
    assert_eq!(bytes_of(&read).await, [HEAD, &[b'l'; 5_000]].concat());
    drop(small);
    spool.record(accepted.envelope.id, &[ended(0)]);
    spool.tidy().await;
    assert_eq!(spool.state().memory_bytes, 0);
    let bodies = std::fs::read_dir(dir.path())
        .expect("readable")
        .filter(|entry| entry.as_ref().expect("readable").file_name().to_string_lossy().starts_with("body-"));
    assert_eq!(bodies.count(), 0, "dropped drafts and finished messages leave no file");
}

#[tokio::test]
async fn messages_come_back_in_the_order_received_with_their_progress() {
    let dir = room();
    let (spool, _, _) = open(dir.path());
    let mut ids = Vec::new();
    for round in 0..30_u32 {
        let id = store(&spool, 3, &[b'x'; 600]).await.expect("stored").envelope.id;
        spool.record(id, &[ended(1), deferred(2, round + 1)]);
        spool.record(id, &[deferred(2, round + 2)]);
        ids.push(id);
    }
    spool.quarantine(ids[7], "an attempt panicked");
    spool.clone().close().await;
    let copy = copy_of(dir.path());
    let (again, recovered, _) = open(copy.path());
    assert_eq!(recovered.messages.iter().map(|message| message.envelope.id).collect::<Vec<_>>(), ids);
    for (round, message) in (0..).zip(&recovered.messages) {
        let progress = &message.progress;
        assert_eq!(progress[0], RecipientProgress::default());
        assert_eq!(progress[1].end, Some(End::Delivered));
        assert_eq!(progress[2], deferred(2, round + 2).1);
        assert_eq!(message.quarantined, round == 7);
        assert_eq!(message.bytes, HEAD.len() as u64 + 600);
    }
    assert!(again.mint() > *ids.last().expect("some"), "names rise over a restart");
    assert_eq!(recovered.findings, []);
}

#[tokio::test]
async fn two_daemons_never_share_a_spool_and_nobody_else_may_look() {
    use std::os::unix::fs::PermissionsExt;
    let dir = room();
    let below = dir.path().join("state").join("spool");
    let (first, _, _) = open(&below);
    store(&first, 1, b"private\r\n").await.expect("stored");
    assert!(matches!(try_open(&below).err(), Some(Error::InUse)));
    assert_eq!(std::fs::metadata(&below).expect("there").permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&below).expect("readable") {
        let mode = entry.expect("readable").metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
