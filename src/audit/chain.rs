//! Chain: appends entries, syncs them, changes files and deletes old ones.
//!
//! Used by one thread. An entry is durable at the latest a second after it was noted; `head` beside the files
//! says how far the chain had come at the last sync, so that a shortened one shows.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

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
        let last_synced = Head::read(&settings.dir);
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
        // What was synced cannot have been lost by a crash. From the next sync on the head knows nothing of it.
        if let Some(had) = last_synced
            .filter(|had| had.n > tail.head.n || (had.n == tail.head.n && had.hash != tail.head.hash))
        {
            chain.append(now, Event::Shortened { from: tail.head.n, had: had.n, hash: had.hash() });
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
        let mut end = End::read(last)?;
        tail.head = end.head.unwrap_or_default();
        (tail.whole_bytes, tail.torn_bytes) = (end.whole_bytes, end.torn_bytes);
        // The moments before the crash may lie in the file before; so may the head, if it came just then.
        if !end.reaches_back()
            && let [.., before, _] = files
        {
            let mut earlier = End::read(before)?;
            if end.head.is_none() {
                tail.head = earlier.head.unwrap_or_default();
            }
            earlier.entries.append(&mut end.entries);
            end.entries = earlier.entries;
        }
        tail.unsure_since = end.unsure_since();
        if let Some(since) = tail.unsure_since {
            let entries = end.entries.into_iter().filter(|entry| entry.at >= since - UNSURE_MILLIS);
            tail.known = entries.filter_map(|entry| entry.tells_of).collect();
        }
        Ok(tail)
    }
}

/// As much of an entry as a start needs.
struct Brief {
    at: i64,
    event: Kind,
    /// The message that it puts into the chain.
    tells_of: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    File,
    Start,
    Stop,
    Received,
    Recovered,
    Pruned,
    Shortened,
    #[serde(other)]
    Another,
}

/// The end of one file.
struct End {
    entries: Vec<Brief>,
    /// After the last entry.
    head: Option<Head>,
    whole_bytes: u64,
    torn_bytes: u64,
}

impl End {
    /// Goes back so far that what lies before is older than all doubt, and not to the beginning of 64 MiB.
    fn read(path: &Path) -> io::Result<Self> {
        const FIRST_STEP: u64 = 256 << 10;
        let length = fs::metadata(path)?.len();
        let mut step = FIRST_STEP;
        while step < length {
            let end = Self::read_from(path, length - step)?;
            if end.reaches_back() {
                return Ok(end);
            }
            step *= 4;
        }
        Self::read_from(path, 0)
    }

    /// When entries may be missing since. What a start writes down ends no doubt: a crash may have cut it off
    /// before all that was recovered was told.
    fn unsure_since(&self) -> Option<i64> {
        match self.entries.last()?.event {
            Kind::Stop => None,
            _ => Some(self.last_of_a_run().unwrap_or_else(|| self.entries[0].at - UNSURE_MILLIS)),
        }
    }

    /// The doubt's beginning, when the entry that sets it is among these.
    fn last_of_a_run(&self) -> Option<i64> {
        let of_a_start = |kind| {
            matches!(kind, Kind::File | Kind::Start | Kind::Recovered | Kind::Pruned | Kind::Shortened)
        };
        let last = self.entries.iter().rfind(|entry| !of_a_start(entry.event))?;
        Some(if last.event == Kind::Stop { last.at } else { last.at - UNSURE_MILLIS })
    }

    /// Whether all is among these that was told since the doubt's beginning.
    fn reaches_back(&self) -> bool {
        let since = self.last_of_a_run();
        since.is_some_and(|since| self.entries.iter().any(|entry| entry.at < since - UNSURE_MILLIS))
    }

    /// The entries that begin at this octet or behind it.
    fn read_from(path: &Path, start: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut end = Self { entries: Vec::new(), head: None, whole_bytes: start, torn_bytes: 0 };
        let mut line = Vec::new();
        file.seek(SeekFrom::Start(start.saturating_sub(1)))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        if start > 0 {
            // The rest of the entry before, or its end alone.
            end.whole_bytes += reader.read_until(b'\n', &mut line)? as u64 - 1;
            line.clear();
        }
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.pop_if(|end| *end == b'\n').is_none() {
                end.torn_bytes = line.len() as u64;
                break;
            }
            end.whole_bytes += line.len() as u64 + 1;
            if let Some((head, brief)) = split(&line).and_then(|(hash, object)| brief(hash, object)) {
                end.head = Some(head);
                end.entries.push(brief);
            }
            line.clear();
        }
        Ok(end)
    }
}

fn brief(hash: Hash, object: &[u8]) -> Option<(Head, Brief)> {
    #[derive(Deserialize)]
    struct Line {
        n: u64,
        at: i64,
        event: Kind,
        id: Option<String>,
    }
    let Line { n, at, event, id } = serde_json::from_slice(object).ok()?;
    let tells_of = id.filter(|_| matches!(event, Kind::Received | Kind::Recovered));
    Some((Head { n: n + 1, hash }, Brief { at, event, tells_of }))
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

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: i64 = 1_800_000_000_000;

    fn received(number: u64) -> Event {
        Event::Received {
            id: format!("{number:016x}"),
            by: "spool".to_owned(),
            from: "incoming".to_owned(),
            disk: true,
            to: Vec::new(),
        }
    }

    /// A chain that a crash ended, with an entry each `every` milliseconds.
    fn crashed(dir: &Path, count: u64, every: i64, file_bytes: u64) -> Settings {
        let settings = Settings { dir: dir.to_owned(), file_bytes, ..Settings::default() };
        let mut chain = Chain::open(settings.clone(), Timestamp::from_millis(BEGAN)).expect("a fresh folder");
        for number in 0..count {
            let now = Timestamp::from_millis(BEGAN + number as i64 * every);
            chain.append(now, received(number));
            chain.write().expect("room");
            chain.tend(now).expect("room");
        }
        chain.sync().expect("room");
        settings
    }

    /// Which of the messages a start would tell again, had the spool all of them.
    fn lacking(settings: &Settings, count: u64, every: i64) -> Vec<u64> {
        let end = Timestamp::from_millis(BEGAN + count as i64 * every);
        let chain = Chain::open(settings.clone(), end).expect("our own folder");
        (0..count)
            .filter(|number| chain.may_lack(&format!("{number:016x}"), BEGAN + *number as i64 * every))
            .collect()
    }

    #[test]
    fn a_start_knows_of_all_that_is_in_the_chain_however_much_the_last_seconds_hold() {
        // From a file within the doubt to one that goes far back, and a doubt that spans two files.
        for (count, every, file_bytes) in [
            (100, 1, 64 << 20),
            (20_000, 0, 64 << 20),
            (20_000, 1, 64 << 20),
            (20_000, 10, 64 << 20),
            (6_000, 1, 1 << 20),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let settings = crashed(folder.path(), count, every, file_bytes);
            assert_eq!(lacking(&settings, count, every), [0; 0], "{count} entries, {every} ms apart");
        }
    }

    #[test]
    fn what_a_crash_cut_off_is_told_again_and_the_chain_goes_on_behind_the_last_whole_entry() {
        for (count, every) in [(10, 1_000), (20_000, 1), (20_000, 10)] {
            let folder = tempfile::tempdir().expect("a folder");
            let settings = crashed(folder.path(), count, every, 64 << 20);
            let path = folder.path().join(name_of(0));
            let whole = fs::read(&path).expect("the chain");
            // In the middle of the last entry but one.
            let cut = whole.iter().rposition(|byte| *byte == b'{').expect("an entry");
            let cut = whole[..cut].iter().rposition(|byte| *byte == b'{').expect("another") + 5;
            fs::write(&path, &whole[..cut]).expect("our own folder");
            // What a crash takes was never synced, so the head knows nothing of it.
            fs::remove_file(folder.path().join("head")).expect("our own folder");
            assert_eq!(lacking(&settings, count, every), [count - 2, count - 1]);
            let verdict = crate::audit::verify(folder.path(), None).expect("readable");
            assert!(verdict.intact, "{verdict:?}");
            assert_eq!(verdict.records, count + 1, "a file, two starts, and all but two messages");
        }
    }

    #[test]
    fn a_start_that_is_killed_leaves_the_doubt_as_it_was() {
        for (count, every, file_bytes) in
            [(10, 1_000, 64 << 20), (20_000, 1, 64 << 20), (20_000, 10, 1 << 20)]
        {
            let folder = tempfile::tempdir().expect("a folder");
            let settings = crashed(folder.path(), count, every, file_bytes);
            // Two messages of which nothing was written down, and starts long after the crash.
            let received = BEGAN + count as i64 * every;
            for minutes in 1..=3 {
                let now = Timestamp::from_millis(received + minutes * 60_000);
                let mut chain = Chain::open(settings.clone(), now).expect("our own folder");
                assert!(!chain.may_lack(&format!("{:016x}", count - 1), received - every));
                assert!(chain.may_lack("ffffffffffffffff", received), "start {minutes}");
                assert_eq!(chain.may_lack("fffffffffffffffe", received), minutes == 1, "start {minutes}");
                let id = "fffffffffffffffe".to_owned();
                chain.append(now, Event::Recovered { id, received, to: Vec::new() });
                chain.sync().expect("room");
            }
        }
    }

    #[test]
    fn after_an_orderly_stop_nothing_is_told_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = crashed(folder.path(), 10, 1, 64 << 20);
        let now = Timestamp::from_millis(BEGAN + 20);
        Chain::open(settings.clone(), now).expect("our own folder").close(now).expect("room");
        let chain = Chain::open(settings, now).expect("our own folder");
        assert!(!chain.may_lack("ffffffffffffffff", now.millis()));
    }
}
