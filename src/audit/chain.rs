//! Chain: appends entries, syncs them, changes files and deletes old ones.
//!
//! Used by one thread. An entry is durable at the latest a second after it was noted; `head` beside the files
//! says how far the chain had come at the last sync, so that a shortened one shows.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::{Entry, Event, Hash, hash, hex, put_hex, split, unhex};
use super::{files, name_of};
use crate::clock::Timestamp;

/// What was noted within this time before the last entry may be missing after a crash.
const UNSURE_MILLIS: i64 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub dir: PathBuf,
    pub node: String,
    pub region: String,
    pub file_bytes: u64,
    pub keep: Duration,
    pub max_bytes: u64,
}

/// How far the chain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Of the next entry.
    pub n: u64,
    pub(super) hash: Hash,
}

impl Head {
    pub fn hash(&self) -> String {
        hex(&self.hash)
    }

    /// The first 48 bits, as a metric can carry them.
    pub fn short(&self) -> u64 {
        self.hash[..6].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    pub(super) fn read(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join("head")).ok()?;
        let (n, hash) = text.trim().split_once(' ')?;
        Some(Self { n: n.parse().ok()?, hash: unhex(hash)? })
    }
}

pub struct Chain {
    settings: Settings,
    file: File,
    number: u64,
    head: Head,
    /// Written, not yet given to the file.
    lines: String,
    object: Vec<u8>,
    file_bytes: u64,
    /// Of all files.
    total_bytes: u64,
    dirty: bool,
    /// When entries may be missing since; `None` after an orderly stop.
    unsure_since: Option<i64>,
    /// What is known to be in the chain since then.
    known: HashSet<String>,
}

impl Chain {
    /// Goes on where the last entry stands, whatever a crash left behind it.
    pub fn open(settings: Settings, now: Timestamp) -> io::Result<Self> {
        fs::create_dir_all(&settings.dir)?;
        let files = files(&settings.dir)?;
        let mut tail = Tail::default();
        let (file, number) = match files.last() {
            Some(path) => {
                tail = Tail::read(&files)?;
                let file = OpenOptions::new().append(true).open(path)?;
                // An entry that was never whole was never durable: nothing relied on it.
                file.set_len(tail.whole_bytes)?;
                (file, number_of(path))
            }
            None => (create(&settings.dir, 0)?, 0),
        };
        let total_bytes = files.iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum();
        let mut chain = Self {
            settings,
            file,
            number,
            head: tail.head,
            lines: String::new(),
            object: Vec::new(),
            file_bytes: tail.whole_bytes,
            total_bytes,
            dirty: false,
            unsure_since: tail.unsure_since,
            known: tail.known,
        };
        if tail.whole_bytes == 0 {
            chain.begin_file(now);
        }
        chain.append(now, Event::Start { torn: tail.torn_bytes });
        chain.sync()?;
        chain.prune(now)?;
        Ok(chain)
    }

    fn begin_file(&mut self, now: Timestamp) {
        let Settings { node, region, .. } = &self.settings;
        let event = Event::File { node: node.clone(), region: region.clone(), prev: hex(&self.head.hash) };
        self.append(now, event);
    }

    /// Into memory; `write` gives it to the file.
    pub fn append(&mut self, at: Timestamp, event: Event) {
        let entry = Entry { n: self.head.n, at: at.millis(), event };
        self.object.clear();
        serde_json::to_writer(&mut self.object, &entry).expect("plain values, into memory");
        self.head = Head { n: self.head.n + 1, hash: hash(&self.head.hash, &self.object) };
        put_hex(&self.head.hash, &mut self.lines);
        self.lines.push(' ');
        self.lines.push_str(std::str::from_utf8(&self.object).expect("JSON is UTF-8"));
        self.lines.push('\n');
        self.dirty = true;
    }

    /// Whether a start should tell again of a message received then.
    pub fn may_lack(&self, id: &str, received_at: i64) -> bool {
        self.unsure_since.is_some_and(|since| received_at >= since) && !self.known.contains(id)
    }

    /// A recovered message has been told; nothing else is asked for any more.
    pub fn recovery_over(&mut self) {
        self.unsure_since = None;
        self.known = HashSet::new();
    }

    pub fn write(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(self.lines.as_bytes()) {
            // Half a batch must not stay: the whole of it is written again later.
            let _ = self.file.set_len(self.file_bytes);
            return Err(error);
        }
        self.file_bytes += self.lines.len() as u64;
        self.total_bytes += self.lines.len() as u64;
        self.lines.clear();
        Ok(())
    }

    /// Everything appended so far is on the disk when this returns.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if !self.dirty {
            return Ok(());
        }
        self.file.sync_data()?;
        let (temporary, head) = (self.settings.dir.join("head.new"), self.settings.dir.join("head"));
        fs::write(&temporary, format!("{} {}\n", self.head.n, hex(&self.head.hash)))?;
        fs::rename(temporary, head)?;
        self.dirty = false;
        Ok(())
    }

    /// Another file when this one is full; deletes what is too old or too much.
    pub fn tend(&mut self, now: Timestamp) -> io::Result<()> {
        if self.file_bytes >= self.settings.file_bytes {
            self.sync()?;
            self.number += 1;
            self.file = create(&self.settings.dir, self.number)?;
            self.file_bytes = 0;
            self.begin_file(now);
            self.sync()?;
            self.prune(now)?;
        }
        Ok(())
    }

    fn prune(&mut self, now: Timestamp) -> io::Result<()> {
        let files = files(&self.settings.dir)?;
        let (_, older) = files.split_last().expect("the file under way is there");
        for (index, path) in older.iter().enumerate() {
            let bytes = fs::metadata(path)?.len();
            let next = files.get(index + 1).expect("the file under way comes after");
            let Some(first) = first_entry(next)? else { return Ok(()) };
            let too_old = now.since(Timestamp::from_millis(first.at)) > self.settings.keep;
            if !too_old && self.total_bytes <= self.settings.max_bytes {
                return Ok(());
            }
            let why = if too_old { "audit.keep" } else { "audit.max_size" };
            // First the word, then the deed: a beginning that nothing accounts for is a finding.
            self.append(now, Event::Pruned { until: first.n, why: why.to_owned() });
            self.sync()?;
            fs::remove_file(path)?;
            self.total_bytes = self.total_bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    pub fn close(&mut self, now: Timestamp) -> io::Result<()> {
        self.append(now, Event::Stop);
        self.sync()
    }

    pub fn head(&self) -> Head {
        self.head
    }

    pub fn bytes(&self) -> u64 {
        self.total_bytes
    }
}

/// What the end of the last files tells.
#[derive(Default)]
struct Tail {
    head: Head,
    whole_bytes: u64,
    torn_bytes: u64,
    unsure_since: Option<i64>,
    known: HashSet<String>,
}

impl Tail {
    fn read(files: &[PathBuf]) -> io::Result<Self> {
        let mut tail = Self::default();
        let last = files.last().expect("called with files only");
        let mut entries = tail.scan(last)?;
        // The moments before the crash may lie in the file before; so may the head, if it came just then.
        if entries.iter().all(|entry| !matches!(entry.event, Event::Start { .. }))
            && let [.., before, _] = files
        {
            let head = Some(tail.head).filter(|_| !entries.is_empty());
            let whole = (tail.whole_bytes, tail.torn_bytes);
            let mut earlier = tail.scan(before)?;
            earlier.append(&mut entries);
            entries = earlier;
            tail.head = head.unwrap_or(tail.head);
            (tail.whole_bytes, tail.torn_bytes) = whole;
        }
        if let Some(last) = entries.last().filter(|last| last.event != Event::Stop) {
            let since = last.at - UNSURE_MILLIS;
            tail.unsure_since = Some(since);
            tail.known = entries
                .into_iter()
                .filter(|entry| entry.at >= since - UNSURE_MILLIS)
                .filter_map(|entry| match entry.event {
                    Event::Received { id, .. } | Event::Recovered { id, .. } => Some(id),
                    _ => None,
                })
                .collect();
        }
        Ok(tail)
    }

    /// The entries of a file that may matter for what is missing; sets where it ends.
    fn scan(&mut self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut entries: Vec<Entry> = Vec::new();
        let mut newest = i64::MIN;
        let mut line = Vec::new();
        (self.whole_bytes, self.torn_bytes) = (0, 0);
        while reader.read_until(b'\n', &mut line)? > 0 {
            let whole = line.pop_if(|end| *end == b'\n').is_some();
            let parts = whole.then(|| split(&line)).flatten();
            if let Some((hash, object)) = parts
                && let Ok(entry) = serde_json::from_slice::<Entry>(object)
            {
                self.head = Head { n: entry.n + 1, hash };
                newest = newest.max(entry.at);
                entries.push(entry);
                // Memory for what lies further back than the doubt does would be wasted.
                if entries.len() > 1 << 16 {
                    entries.retain(|entry| entry.at >= newest - 2 * UNSURE_MILLIS);
                }
            }
            if whole {
                self.whole_bytes += line.len() as u64 + 1;
            } else {
                self.torn_bytes = line.len() as u64;
            }
            line.clear();
        }
        Ok(entries)
    }
}

fn first_entry(path: &Path) -> io::Result<Option<Entry>> {
    let mut line = Vec::new();
    BufReader::new(File::open(path)?).read_until(b'\n', &mut line)?;
    line.pop_if(|end| *end == b'\n');
    Ok(split(&line).and_then(|(_, object)| serde_json::from_slice(object).ok()))
}

fn number_of(path: &Path) -> u64 {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix("audit-").and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn create(dir: &Path, number: u64) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file =
        OpenOptions::new().create_new(true).append(true).mode(0o600).open(dir.join(name_of(number)))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            node: String::new(),
            region: String::new(),
            file_bytes: 64 << 20,
            keep: Duration::MAX,
            max_bytes: u64::MAX,
        }
    }
}
