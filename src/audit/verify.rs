//! Verify: reads a chain back and names the first record that is not as it was written.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Serialize;

use super::chain::Head;
use super::entry::{Entry, Event, GENESIS, Hash, hash, hex, split, unhex};
use super::files;

/// What the chain says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Nothing is missing and nothing was changed, as far as the chain can tell.
    pub intact: bool,
    pub records: u64,
    pub files: usize,
    /// Of the first and the last record that were read.
    pub first: Option<u64>,
    pub last: Option<u64>,
    pub head: String,
    /// The first record that is not as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad: Option<Bad>,
    /// What is no finding but worth knowing: starts that cut off an unfinished record, files deleted by age.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    pub file: String,
    pub line: usize,
    pub n: u64,
    /// `edited`, `removed`, `reordered`, `truncated`, `unreadable` or `head-not-found`.
    pub what: &'static str,
    pub says: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: record {}: {}: {}", self.file, self.line, self.n, self.what, self.says)
    }
}

/// Where the reader is.
struct Walk {
    before: Hash,
    next: u64,
    started: bool,
    file: String,
    line: usize,
    /// The first number of a chain whose beginning is gone, until a record accounts for it.
    unaccounted: Option<u64>,
    verdict: Verdict,
}

/// Checks the whole chain below `dir`. `wanted`: the beginning of a hash that was noted elsewhere and has to be
/// in the chain.
pub fn verify(dir: &Path, wanted: Option<&str>) -> io::Result<Verdict> {
    // Before the files: a running daemon goes on writing, and the head may only lie behind them.
    let head = Head::read(dir);
    let files = files(dir)?;
    let mut walk = Walk {
        before: GENESIS,
        next: 0,
        started: false,
        file: String::new(),
        line: 0,
        unaccounted: None,
        verdict: Verdict {
            intact: false,
            records: 0,
            files: files.len(),
            first: None,
            last: None,
            head: String::new(),
            bad: None,
            notes: Vec::new(),
        },
    };
    let mut found = wanted.is_none();
    let mut head_seen = head.is_none_or(|head| head.n == 0);
    for (index, path) in files.iter().enumerate() {
        walk.file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        walk.line = 0;
        let is_last = index + 1 == files.len();
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = Vec::new();
        while walk.verdict.bad.is_none() && reader.read_until(b'\n', &mut line)? > 0 {
            walk.line += 1;
            let whole = line.pop_if(|end| *end == b'\n').is_some();
            if !whole && is_last {
                let says = format!("{} octets at the end are no whole record yet", line.len());
                walk.verdict.notes.push(says);
            } else {
                walk.check(&line, walk.line == 1);
                found |= wanted.is_some_and(|wanted| hex(&walk.before).starts_with(wanted));
                if let Some(head) = head.filter(|head| head.n == walk.next) {
                    head_seen = true;
                    if head.hash != walk.before && walk.verdict.bad.is_none() {
                        let says = format!("the head says that this record's hash is {}", head.hash());
                        walk.bad("edited", says);
                    }
                }
            }
            line.clear();
        }
        if let Some(bad) = walk.verdict.bad.as_mut().filter(|bad| bad.what == "removed")
            && let Some(at) = stands_later(&mut reader, bad.n)?
        {
            bad.what = "reordered";
            bad.says = format!("it stands {at} lines further on");
        }
    }
    walk.verdict.head = hex(&walk.before);
    if let Some(first) = walk.unaccounted.filter(|_| walk.verdict.bad.is_none()) {
        walk.line = 1;
        walk.file = file_name(&files[0]);
        walk.next = first;
        walk.bad("removed", format!("the records before {first} are gone and no record accounts for it"));
    }
    if let Some(head) = head.filter(|head| walk.verdict.bad.is_none() && !head_seen && head.n > walk.next) {
        let says = format!("the chain ends here, and had come to record {} once", head.n - 1);
        walk.bad("truncated", says);
    }
    if !found && walk.verdict.bad.is_none() {
        let says = format!("no record has the hash {}", wanted.unwrap_or_default());
        walk.bad("head-not-found", says);
    }
    // Nothing is no chain that holds: a daemon that ever ran with an audit has left a beginning.
    if files.is_empty() && walk.verdict.bad.is_none() {
        walk.bad("removed", format!("there is no audit in {}", dir.display()));
    }
    walk.verdict.intact = walk.verdict.bad.is_none();
    Ok(walk.verdict)
}

/// How many lines further on a record stands that is missed here.
fn stands_later(reader: &mut impl BufRead, n: u64) -> io::Result<Option<usize>> {
    let mut line = Vec::new();
    for at in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let entry =
            split(line.trim_ascii_end()).and_then(|(_, object)| serde_json::from_slice::<Entry>(object).ok());
        if entry.is_some_and(|entry| entry.n == n) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn file_name(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
}

impl Walk {
    fn bad(&mut self, what: &'static str, says: String) {
        let (file, line, n) = (self.file.clone(), self.line, self.next);
        self.verdict.bad = Some(Bad { file, line, n, what, says });
    }

    fn check(&mut self, line: &[u8], opens_file: bool) {
        let Some((stored, object)) = split(line) else {
            return self.bad("unreadable", "not a hash and an object".to_owned());
        };
        let computed = hash(&self.before, object);
        let Ok(entry) = serde_json::from_slice::<Entry>(object) else {
            let what = if computed == stored { "unreadable" } else { "edited" };
            return self.bad(what, "the object is none of ours".to_owned());
        };
        if !self.started {
            self.started = true;
            self.verdict.first = Some(entry.n);
            if let Event::File { prev, .. } = &entry.event
                && entry.n > 0
                && let Some(prev) = unhex(prev)
            {
                self.unaccounted = Some(entry.n);
                (self.before, self.next) = (prev, entry.n);
            }
        }
        if entry.n > self.next {
            let says = format!("the next record is {}: those between are gone", entry.n);
            return self.bad("removed", says);
        }
        if entry.n < self.next {
            return self.bad("reordered", format!("record {} stands here", entry.n));
        }
        if opens_file && !matches!(entry.event, Event::File { .. }) {
            return self.bad("removed", "the file does not begin with its first record".to_owned());
        }
        if hash(&self.before, object) != stored {
            return self
                .bad("edited", "its hash is not that of the record before and its own words".to_owned());
        }
        match &entry.event {
            Event::Shortened { from, had, .. } if had > from => {
                let says = format!(
                    "the chain ended before record {from} when the daemon started, and had come to record {} once",
                    had - 1
                );
                return self.bad("truncated", says);
            }
            Event::Shortened { from, hash, .. } => {
                let says = format!("when the daemon started, record {from} followed another one than {hash}");
                return self.bad("edited", says);
            }
            Event::Start { torn } if *torn > 0 => self
                .verdict
                .notes
                .push(format!("record {}: a start cut off {torn} octets of an unfinished record", entry.n)),
            Event::Pruned { until, why } if self.unaccounted.is_some_and(|first| first <= *until) => {
                self.unaccounted = None;
                self.verdict.notes.push(format!("the records before {until} were deleted: {why}"));
            }
            Event::Lost { count } => self
                .verdict
                .notes
                .push(format!("record {}: {count} events could not be written down", entry.n)),
            _ => {}
        }
        self.before = stored;
        self.next = entry.n + 1;
        self.verdict.records += 1;
        self.verdict.last = Some(entry.n);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::{Chain, Settings};
    use crate::clock::Timestamp;

    fn chain(dir: &Path, count: u64) -> Chain {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let settings = Settings {
            dir: dir.to_owned(),
            node: "edge1".to_owned(),
            region: "EUR".to_owned(),
            file_bytes: 1000,
            ..Settings::default()
        };
        let mut chain = Chain::open(settings, now).expect("a fresh folder");
        for number in 0..count {
            chain.append(
                now,
                Event::Removed {
                    id: format!("{number:016x}"),
                    domain: String::new(),
                    why: "test".to_owned(),
                },
            );
            chain.sync().expect("a disk with room");
            chain.tend(now).expect("a disk with room");
        }
        chain
    }

    fn edit(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
        let text = fs::read_to_string(path).expect("a file of the chain");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(path, lines.join("\n") + "\n").expect("our own folder");
    }

    fn found(dir: &Path) -> (&'static str, u64) {
        let verdict = verify(dir, None).expect("readable files");
        verdict.bad.map_or(("intact", 0), |bad| (bad.what, bad.n))
    }

    #[test]
    fn a_chain_holds_across_files_and_each_kind_of_tampering_is_named() {
        type Tamper = fn(&Path);
        let second: fn(&Path) -> std::path::PathBuf = |dir| dir.join(super::super::name_of(1));
        assert!(second(Path::new("x")).ends_with("audit-000000000001.log"));
        let cases: [(&str, Tamper, &str); 7] = [
            ("nothing", |_| {}, "intact"),
            (
                "an octet",
                |dir| {
                    edit(&dir.join(super::super::name_of(1)), |lines| {
                        lines[2] = lines[2].replace("test", "tent")
                    })
                },
                "edited",
            ),
            (
                "a line",
                |dir| edit(&dir.join(super::super::name_of(1)), |lines| drop(lines.remove(2))),
                "removed",
            ),
            (
                "two lines",
                |dir| edit(&dir.join(super::super::name_of(1)), |lines| lines.swap(1, 2)),
                "reordered",
            ),
            (
                "a line again",
                |dir| {
                    edit(&dir.join(super::super::name_of(1)), |lines| lines.insert(2, lines[1].clone()));
                },
                "reordered",
            ),
            (
                "the end",
                |dir| {
                    let last = files(dir).expect("files").pop().expect("one");
                    edit(&last, |lines| drop(lines.pop()));
                },
                "truncated",
            ),
            (
                "the first file",
                |dir| fs::remove_file(dir.join(super::super::name_of(0))).expect("there"),
                "removed",
            ),
        ];
        for (what, tamper, expected) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            drop(chain(folder.path(), 20));
            assert!(files(folder.path()).expect("files").len() > 2, "several files");
            tamper(folder.path());
            assert_eq!(found(folder.path()).0, expected, "{what}");
        }
    }

    #[test]
    fn a_hash_noted_elsewhere_unmasks_a_chain_that_was_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let head = chain(folder.path(), 3).head().hash();
        assert!(verify(folder.path(), Some(&head[..12])).expect("readable").intact);
        let forged = tempfile::tempdir().expect("a folder");
        drop(chain(forged.path(), 4));
        let verdict = verify(forged.path(), Some("0123456789ab")).expect("readable");
        assert_eq!(verdict.bad.expect("not in it").what, "head-not-found");
    }

    #[test]
    fn a_torn_end_is_cut_off_and_told_and_the_chain_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(chain(folder.path(), 2));
        let last = files(folder.path()).expect("files").pop().expect("one");
        let mut text = fs::read(&last).expect("a file");
        text.extend_from_slice(b"0123 half a rec");
        fs::write(&last, text).expect("our own folder");
        drop(chain(folder.path(), 2));
        let verdict = verify(folder.path(), None).expect("readable");
        assert!(verdict.intact, "{verdict:?}");
        assert!(verdict.notes.iter().any(|note| note.contains("15 octets")), "{verdict:?}");
    }

    #[test]
    fn what_is_deleted_by_size_is_accounted_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::from_millis(1_800_000_000_000);
        let settings = Settings {
            dir: folder.path().to_owned(),
            file_bytes: 1000,
            max_bytes: 4000,
            ..Settings::default()
        };
        let mut chain = Chain::open(settings, now).expect("a fresh folder");
        for number in 0..200 {
            chain.append(now, Event::Lost { count: number });
            chain.sync().expect("room");
            chain.tend(now).expect("room");
        }
        let verdict = verify(folder.path(), None).expect("readable");
        assert!(verdict.intact && verdict.first > Some(0), "{verdict:?}");
        let bytes: u64 = files(folder.path())
            .expect("files")
            .iter()
            .map(|path| path.metadata().expect("meta").len())
            .sum();
        assert!(bytes < 6000, "{bytes}");
    }
}
