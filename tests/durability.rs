//! Durability: what was acknowledged survives, whatever happens to the disk and whenever.
//!
//! Every prefix of the recorded disk operations is a crash point: a directory is rebuilt from it with the
//! unsynced writes kept, dropped or torn, and a spool is opened on it.
//! `LANDFALL_CRASH_POINTS` says how many crash points a run covers at least.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use landfall::chance::Chance;
use landfall::clock::{Clock, Timestamp};
use landfall::mail::{Address, BodyType, Envelope, MessageId, Recipient, RemoteReply, Status, Transport};
use landfall::spool::{
    Accepted, Content, Disk, End, Error, Fault, FaultKind, Finding, Lasting, NotStored, Notice, Operation,
    Pressure, RecipientProgress, Recorder, Recovered, Settings, Spool,
};
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 16 * 1024;
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
    Envelope {
        id: MessageId::from_raw(0),
        received_at: Timestamp::from_millis(1_800_000_000_000),
        sender: Some(Address::parse("anna@example.net").expect("an address")),
        recipients: (0..recipients).map(|n| Recipient::new(address(n))).collect(),
        body: BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        transport: Transport::Incoming,
        tenant: None,
        peer: None,
    }
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
    durable: Vec<u8>,
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
                    change_bytes(&mut file.durable, &change, &mut || true);
                }
            }
        }
    }

    /// The directory as it is found after the crash.
    fn write_out(&self, dir: &Path, loss: Loss, chance: &mut Chance) {
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
        for (name, file) in names {
            let Some(file) = self.files.get(&file) else { continue };
            let mut bytes = file.durable.clone();
            for change in &file.unsynced {
                match loss {
                    Loss::Nothing => change_bytes(&mut bytes, change, &mut || true),
                    Loss::Unsynced => {}
                    Loss::Torn => change_bytes(&mut bytes, change, &mut || chance.below(2) == 0),
                }
            }
            std::fs::write(dir.join(name), bytes).expect("a file is written");
        }
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

impl History {
    async fn hold(&self, at: usize, spool: &Spool, recovered: &Recovered, told: &str) {
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
            let content = spool.read(*id).await.unwrap_or_else(|error| panic!("{told}: {error}"));
            assert!(bytes_of(&content).await == known.bytes, "{told}: {id} has other bytes");
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
    std::env::var("LANDFALL_CRASH_POINTS").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000)
}

#[test]
fn every_crash_leaves_what_was_acknowledged_and_nothing_half() {
    let wanted = crash_points_wanted();
    let points = AtomicUsize::new(0);
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
                    points.fetch_add(runtime.block_on(crash_everywhere(seed)), Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} crash points, {} seeds", points.into_inner(), seeds.into_inner());
}

/// Lives one life, and ends it after each of its operations.
async fn crash_everywhere(seed: u64) -> usize {
    let dir = room();
    let mut points = 0;
    let (operations, history) = live(seed, 60).await;
    let mut platter = Platter::default();
    let mut chance = Chance::from_seed(seed);
    for at in 0..=operations.len() {
        if at > 0 {
            platter.take(&operations[at - 1]);
        }
        for loss in [Loss::Unsynced, Loss::Nothing, Loss::Torn, Loss::Torn] {
            let told = format!("seed {seed}, after {at} operations, losing {loss:?}");
            let crashed = dir.path().join(format!("spool-{points}"));
            std::fs::create_dir(&crashed).expect("a directory");
            platter.write_out(&crashed, loss, &mut chance);
            let (spool, recovered, _) = open(&crashed);
            history.hold(at, &spool, &recovered, &told).await;
            if points % 50 == 0 {
                hold_again(&spool, &recovered, &crashed, &told).await;
            }
            drop(spool);
            points += 1;
            // What was still tidying may make a file meanwhile; the whole place goes in the end.
            let _ = std::fs::remove_dir_all(&crashed);
        }
    }
    points
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
