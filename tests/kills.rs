//! Durability: what was acknowledged is delivered, whatever happens to the process or the disk (rules 66, 86).

mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use world::{CONTOSO, Edge, Folder, Senders, Sink, free_address, letter, until};

/// How often the edge is killed; `tests/run --long` asks for more.
fn kills() -> usize {
    std::env::var("LANDFALL_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Deliveries under way at one kill, or ended in the 10 ms before it: four senders keep no more going.
const REPEATED_PER_KILL: usize = 50;

#[test]
fn rule_86_kill_9_under_load_loses_nothing_that_was_acknowledged() {
    let sink = Sink::start(&[]);
    let mut edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .relay("NAM", sink.address)
        .with("[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    let senders = Senders::start(edge.address, &["anna@contoso.com", "ben@contoso.com"]);
    for _ in 0..kills() {
        let before = senders.count();
        until("a hundred more acknowledged", || (senders.count() >= before + 100).then_some(()));
        edge.kill();
        edge.start();
    }
    let acknowledged = senders.stop();
    let ids = |letters: Vec<world::Letter>| -> BTreeSet<String> {
        letters.iter().filter_map(|kept| kept.header("Message-ID")).collect()
    };
    // What was acknowledged last may still be on its way into the queue: the places where messages end are
    // looked at, not whether the queue is empty.
    until("every acknowledged message at both its ends", || {
        let at_home = ids(edge.mailbox("anna@contoso.com"));
        let away = ids(sink.taken().into_iter().map(|taken| taken.message).collect());
        acknowledged.iter().all(|id| at_home.contains(id) && away.contains(id)).then_some(())
    });
    // What was handed over just before a kill, and not yet noted, is handed over again; nothing else is.
    edge.wait_for_empty_queue();
    let repeated = |letters: Vec<world::Letter>| letters.len() - ids(letters).len();
    let at_home = repeated(edge.mailbox("anna@contoso.com"));
    let away = repeated(sink.taken().into_iter().map(|taken| taken.message).collect());
    println!(
        "{} kills, {} acknowledged, none lost; {at_home} came twice at home, {away} at the next hop",
        kills(),
        acknowledged.len()
    );
    assert!(at_home + away <= kills() * REPEATED_PER_KILL, "{at_home} and {away} came twice");
}

#[test]
fn what_waits_is_there_after_an_orderly_stop() {
    let at = free_address();
    let mut edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .relay("NAM", at)
        .with("[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    let mut client = edge.client();
    for number in 0..10 {
        client.deliver("ann@sender.example", &["ben@contoso.com"], letter(&format!("number {number}")));
    }
    client.expect("QUIT", "221 2.0.0 Service closing transmission channel");
    edge.stop();
    let sink = Sink::start_at(at, &[]);
    edge.start();
    let taken = sink.wait_for(10);
    edge.wait_for_empty_queue();
    assert_eq!(taken.len(), 10);
}

/// A file system of a few megabytes. Mounting needs root; a machine that forbids it gets told.
struct SmallDisk {
    at: PathBuf,
    _folder: Folder,
}

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = Folder::new();
        let at = folder.join("disk");
        std::fs::create_dir(&at).expect("our own folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .output()
            .ok()?;
        if !mounted.status.success() {
            println!(
                "skipped: no file system can be mounted here: {}",
                String::from_utf8_lossy(&mounted.stderr)
            );
            return None;
        }
        Some(Self { at, _folder: folder })
    }

    fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left behind may still hold a file there.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn rule_60_a_full_disk_refuses_for_now_and_keeps_what_was_acknowledged() {
    let Some(disk) = SmallDisk::mount("12m") else { return };
    let at = free_address();
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .relay("NAM", at)
        .with(&format!(
            "[node]\nstate_dir = {:?}\n[spool]\nsegment_size = \"1MiB\"\nmin_free = \"1MiB\"\n\
             [queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"",
            disk.path()
        ))
        .start();
    let filler = letter("filler") + &format!("{}\r\n", "0123456789".repeat(90)).repeat(200);
    let mut client = edge.client();
    let taken = AtomicUsize::new(0);
    let refusal = until("the disk to be full", || {
        let mail = client.say("MAIL FROM:<ann@sender.example>");
        if !mail.starts_with("250 ") {
            return Some(mail);
        }
        client.expect("RCPT TO:<ben@contoso.com>", "250 2.1.5 Recipient OK");
        let end = client.data(&filler);
        if end.starts_with("250 ") {
            taken.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(end)
    });
    assert_eq!(refusal, "452 4.3.1 Insufficient system resources");
    let taken = taken.into_inner();
    assert!(taken > 10, "a disk of 12 MiB holds some: {taken}");
    // Rule 60: the connection is kept, and the next MAIL is told the same.
    client.expect("MAIL FROM:<ann@sender.example>", "452 4.3.1 Insufficient system resources");
    client.expect("NOOP", "250 2.0.0 OK");

    // A full disk can still be emptied, and then takes mail again.
    let sink = Sink::start_at(at, &[]);
    assert_eq!(sink.wait_for(taken).len(), taken);
    edge.wait_for_empty_queue();
    until("room again", || client.say("MAIL FROM:<ann@sender.example>").starts_with("250 ").then_some(()));
}

#[test]
fn two_daemons_never_share_a_spool() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let other = Edge::builder("EUR")
        .directory(CONTOSO)
        .with(&format!("[node]\nstate_dir = {:?}", edge.state()))
        .offline();
    let second = other.command(&["serve"]);
    assert_eq!(second.code, 1, "{second:#?}");
    edge.client().deliver("ann@sender.example", &["anna@contoso.com"], letter("undisturbed"));
    edge.wait_for("anna@contoso.com", 1);
}
