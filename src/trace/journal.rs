//! Journal: blocks of records on their way into the index: cheap to append, read once, deleted.
//!
//! Not synced: what a crash of the process leaves is read by the next start, and what a crash of the machine
//! takes with it is told again from the spool.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE_BYTES: u64 = 32 << 20;
/// Length and checksum before each block.
const FRAME_BYTES: u64 = 8;
/// No block is longer; what claims to be is damage.
const BLOCK_LIMIT_BYTES: u32 = 64 << 20;

/// A place between two blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) file: u64,
    pub(super) offset: u64,
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal-{number:012}.log"))
}

/// The numbers of the files that are there, rising.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("journal-")?.strip_suffix(".log")?.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) struct Journal {
    dir: PathBuf,
    file: File,
    position: Position,
}

impl Journal {
    /// A new file behind those that are there, so that a torn end stays where it is.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let number = numbers(dir)?.last().map_or(1, |last| last + 1);
        Ok(Self {
            dir: dir.to_owned(),
            file: open(dir, number)?,
            position: Position { file: number, offset: 0 },
        })
    }

    pub(super) fn append(&mut self, block: &[u8]) -> io::Result<Position> {
        let len = u32::try_from(block.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(block.len() + 8);
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
        frame.extend_from_slice(block);
        if let Err(error) = self.file.write_all(&frame) {
            // A frame cut short would hide those after it.
            let _ = self.file.set_len(self.position.offset);
            return Err(error);
        }
        self.position.offset += frame.len() as u64;
        if self.position.offset >= FILE_BYTES {
            let number = self.position.file + 1;
            self.file = open(&self.dir, number)?;
            self.position = Position { file: number, offset: 0 };
        }
        Ok(self.position)
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }
}

fn open(dir: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path_of(dir, number))
}

/// Reads from a place up to another; deletes files that are done with.
pub(super) struct Reader {
    dir: PathBuf,
    position: Position,
    file: Option<BufReader<File>>,
}

impl Reader {
    pub(super) fn new(dir: &Path, position: Position) -> Self {
        Self { dir: dir.to_owned(), position, file: None }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The next block before `end` into `block`, behind what is there; `false` when there is none.
    pub(super) fn next(&mut self, end: Position, block: &mut Vec<u8>) -> io::Result<bool> {
        while self.position < end {
            if self.file.is_none() {
                match File::open(path_of(&self.dir, self.position.file)) {
                    Ok(mut file) => {
                        file.seek(SeekFrom::Start(self.position.offset))?;
                        self.file = Some(BufReader::with_capacity(64 << 10, file));
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            let read = match &mut self.file {
                Some(file) => read_frame(file, block)?,
                None => None,
            };
            match read {
                Some(len) => {
                    self.position.offset += FRAME_BYTES + len;
                    return Ok(true);
                }
                // Its end, or a torn one: only a file that is not written any more is left behind.
                None if self.position.file < end.file => {
                    let after = numbers(&self.dir)?.into_iter().find(|number| *number > self.position.file);
                    self.file = None;
                    self.position = Position { file: after.unwrap_or(end.file), offset: 0 };
                }
                None => {
                    self.file = None;
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// What lies before the place is not needed any more.
    pub(super) fn forget(dir: &Path, position: Position) -> io::Result<()> {
        for number in numbers(dir)?.into_iter().take_while(|number| *number < position.file) {
            fs::remove_file(path_of(dir, number))?;
        }
        Ok(())
    }
}

fn read_frame(file: &mut BufReader<File>, block: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let mut frame = [0; 8];
    if !fill(file, &mut frame)? {
        return Ok(None);
    }
    let len = u32::from_le_bytes(frame[..4].try_into().expect("four octets"));
    let sum = u32::from_le_bytes(frame[4..].try_into().expect("four octets"));
    if len > BLOCK_LIMIT_BYTES {
        return Ok(None);
    }
    let start = block.len();
    block.resize(start + len as usize, 0);
    if !fill(file, &mut block[start..])? || crc32fast::hash(&block[start..]) != sum {
        block.truncate(start);
        return Ok(None);
    }
    Ok(Some(u64::from(len)))
}

fn fill(file: &mut BufReader<File>, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(dir: &Path, from: Position, end: Position) -> Vec<Vec<u8>> {
        let mut reader = Reader::new(dir, from);
        let mut blocks = Vec::new();
        let mut block = Vec::new();
        while reader.next(end, &mut block).expect("readable") {
            blocks.push(std::mem::take(&mut block));
        }
        blocks
    }

    #[test]
    fn blocks_come_back_in_order_over_a_torn_end_and_from_any_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let mut journal = Journal::create(dir).expect("room");
        let middle = journal.append(b"one").expect("room");
        journal.append(b"two").expect("room");
        // A crash in the middle of a write.
        let torn = path_of(dir, 1);
        let len = fs::metadata(&torn).expect("there").len();
        OpenOptions::new().write(true).open(&torn).expect("there").set_len(len - 1).expect("our own");
        let mut journal = Journal::create(dir).expect("room");
        journal.append(b"three").expect("room");
        let end = journal.position();
        assert_eq!(read_all(dir, Position::default(), end), [b"one".to_vec(), b"three".to_vec()]);
        assert_eq!(read_all(dir, middle, end), [b"three".to_vec()]);
        Reader::forget(dir, Position { file: 2, offset: 0 }).expect("our own");
        assert_eq!(numbers(dir).expect("readable"), [2]);
    }
}
