//! Disk: the few file operations we trust, in one place.
//!
//! Owns every touch of the file system by the spool: real files below one directory, made private.
//! `Disk::recording` also keeps the list of operations, so that tests can replay every prefix of it,
//! and can fail the n-th one. It knows names, bytes and syncs; it does not know records.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::statvfs::statvfs;

/// The kernel takes at most this many slices in one vectored write (IOV_MAX).
const SLICES_LIMIT: usize = 1024;

/// One directory and what may be done in it.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    /// Kept open to be synced: a name is durable only once its directory is.
    handle: File,
    counts: Counts,
    recorder: Option<Arc<Recorder>>,
}

#[derive(Debug, Default)]
struct Counts {
    syncs: AtomicU64,
    written: AtomicU64,
}

/// What was done, in the order it took effect. Files are numbered as they were made or first opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Create {
        name: String,
        file: u64,
    },
    Write {
        file: u64,
        offset: u64,
        data: Vec<u8>,
    },
    /// Cuts the file, or lengthens it with zeros.
    Resize {
        file: u64,
        len: u64,
    },
    /// Lengthens the file with zeros if it is shorter.
    Allocate {
        file: u64,
        len: u64,
    },
    Sync {
        file: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncDirectory,
}

/// Which operation fails, and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Counted from zero over all operations that change anything.
    pub at: u64,
    pub kind: FaultKind,
    /// The disk stays so, or recovers at once.
    pub lasting: Lasting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// ENOSPC; a write stops half-way.
    Full,
    /// EIO.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    Once,
    Forever,
}

/// Whether an operation takes space on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    Taken,
    Kept,
}

/// The list of operations, and the fault to come.
#[derive(Debug, Default)]
pub struct Recorder {
    tape: Mutex<Tape>,
}

#[derive(Debug, Default)]
struct Tape {
    operations: Vec<Operation>,
    files: BTreeMap<String, u64>,
    next_file: u64,
    counted: u64,
    fault: Option<Fault>,
    no_new_space: bool,
    capacity: Option<u64>,
}

impl Recorder {
    /// What was done so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.tape.lock().expect("no panic while recording").operations.clone()
    }

    pub fn len(&self) -> usize {
        self.tape.lock().expect("no panic while recording").operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Operations tried so far, failed ones too.
    pub fn counted(&self) -> u64 {
        self.tape.lock().expect("no panic while recording").counted
    }

    /// From now on no file can be made, and none be lengthened by setting blocks aside.
    pub fn refuse_new_space(&self) {
        self.tape.lock().expect("no panic while recording").no_new_space = true;
    }

    /// From now on the directory is all of a file system of so many bytes.
    pub fn limit(&self, capacity: u64) {
        self.tape.lock().expect("no panic while recording").capacity = Some(capacity);
    }

    pub fn fail(&self, fault: Option<Fault>) {
        self.tape.lock().expect("no panic while recording").fault = fault;
    }
}

impl Disk {
    /// Opens the directory, making it and its parents when they are missing; private to its owner.
    pub fn new(dir: &Path) -> io::Result<Self> {
        Self::on(dir, None)
    }

    /// The same, with a list of what was done. Nothing is physically synced: the list stands for it.
    pub fn recording(dir: &Path) -> io::Result<(Self, Arc<Recorder>)> {
        let recorder = Arc::new(Recorder::default());
        Ok((Self::on(dir, Some(recorder.clone()))?, recorder))
    }

    fn on(dir: &Path, recorder: Option<Arc<Recorder>>) -> io::Result<Self> {
        if !dir.is_dir() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            // The new directory's own name must survive too.
            if let (None, Some(parent)) = (&recorder, dir.parent()) {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { dir: dir.to_owned(), handle: File::open(dir)?, counts: Counts::default(), recorder })
    }

    /// Holds the directory against a second daemon until it is dropped.
    pub(super) fn lock(&self) -> io::Result<DiskLock> {
        let file = private().create(true).truncate(false).open(self.dir.join("lock"))?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        Ok(DiskLock(held))
    }

    /// Names in the directory, with their lengths.
    pub(super) fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push((name, entry.metadata()?.len()));
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn create(&self, name: &str) -> io::Result<DiskFile> {
        let mut tape = self.tape();
        self.fault(&mut tape, Space::Taken)?;
        if tape.as_ref().is_some_and(|tape| tape.no_new_space) {
            return Err(FaultKind::Full.error());
        }
        if self.left(&tape).is_some_and(|left| left == 0) {
            return Err(FaultKind::Full.error());
        }
        let file = private().create(true).truncate(true).open(self.dir.join(name))?;
        let id = tape.as_mut().map_or(0, |tape| {
            let id = tape.name_file(name);
            tape.operations.push(Operation::Create { name: name.to_owned(), file: id });
            id
        });
        drop(tape);
        Ok(DiskFile { file, id, recorder: self.recorder.clone() })
    }

    pub(super) fn open(&self, name: &str) -> io::Result<DiskFile> {
        let file = private().open(self.dir.join(name))?;
        let id = self.tape().map_or(0, |mut tape| match tape.files.get(name) {
            Some(id) => *id,
            None => tape.name_file(name),
        });
        Ok(DiskFile { file, id, recorder: self.recorder.clone() })
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut tape = self.tape();
        self.fault(&mut tape, Space::Kept)?;
        std::fs::rename(self.dir.join(from), self.dir.join(to))?;
        if let Some(tape) = &mut tape {
            if let Some(id) = tape.files.remove(from) {
                tape.files.insert(to.to_owned(), id);
            }
            tape.operations.push(Operation::Rename { from: from.to_owned(), to: to.to_owned() });
        }
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let mut tape = self.tape();
        self.fault(&mut tape, Space::Kept)?;
        std::fs::remove_file(self.dir.join(name))?;
        if let Some(tape) = &mut tape {
            tape.files.remove(name);
            tape.operations.push(Operation::Remove { name: name.to_owned() });
        }
        Ok(())
    }

    /// Makes every creation, renaming and removal so far durable.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        let mut tape = self.tape();
        self.fault(&mut tape, Space::Kept)?;
        match &mut tape {
            Some(tape) => tape.operations.push(Operation::SyncDirectory),
            None => self.handle.sync_all()?,
        }
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the slices one after the other at `offset`.
    pub(super) fn write(&self, file: &DiskFile, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut tape = self.tape();
        if let Some(recording) = &mut tape {
            let mut data: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let mut fault = recording.fault(Space::Taken);
            if fault.is_none()
                && let Some(left) = self.left(&tape)
                && blocks(offset + data.len() as u64) > blocks(file.len()?) + left
            {
                fault = Some(FaultKind::Full);
            }
            let recording = tape.as_mut().expect("still recording");
            if let Some(kind) = fault {
                // A full disk takes what still fits.
                data.truncate(if kind == FaultKind::Full { data.len() / 2 } else { 0 });
            }
            if !data.is_empty() {
                file.file.write_all_at(&data, offset)?;
                recording.operations.push(Operation::Write { file: file.id, offset, data });
            }
            if let Some(kind) = fault {
                return Err(kind.error());
            }
        } else {
            write_vectored_at(&file.file, offset, slices)?;
        }
        self.counts.written.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// `fdatasync`: what was written to this file is durable once it returns.
    pub(super) fn sync(&self, file: &DiskFile) -> io::Result<()> {
        let mut tape = self.tape();
        self.fault(&mut tape, Space::Kept)?;
        match &mut tape {
            Some(tape) => tape.operations.push(Operation::Sync { file: file.id }),
            None => file.file.sync_data()?,
        }
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn resize(&self, file: &DiskFile, len: u64) -> io::Result<()> {
        let mut tape = self.tape();
        self.fault(&mut tape, Space::Kept)?;
        file.file.set_len(len)?;
        if let Some(tape) = &mut tape {
            tape.operations.push(Operation::Resize { file: file.id, len });
        }
        Ok(())
    }

    /// Sets blocks aside, so that later writes below `len` neither fail for space nor grow the file.
    pub(super) fn allocate(&self, file: &DiskFile, len: u64) -> io::Result<()> {
        let mut tape = self.tape();
        self.fault(&mut tape, Space::Taken)?;
        let too_much = match self.left(&tape) {
            Some(left) => blocks(len) > blocks(file.len()?) + left,
            None => tape.as_ref().is_some_and(|tape| tape.no_new_space) && file.len()? < len,
        };
        if too_much {
            return Err(FaultKind::Full.error());
        }
        let len_signed = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        match fallocate(&file.file, FallocateFlags::empty(), 0, len_signed) {
            Ok(()) => {}
            // Not every file system can; then space is found at each write.
            Err(nix::errno::Errno::EOPNOTSUPP) if file.len()? < len => file.file.set_len(len)?,
            Err(nix::errno::Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(tape) = &mut tape {
            tape.operations.push(Operation::Allocate { file: file.id, len });
        }
        Ok(())
    }

    /// Bytes that the file system still has for us.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        if let Some(left) = self.left(&self.tape()) {
            return Ok(left);
        }
        let stat = statvfs(&self.dir)?;
        #[allow(clippy::useless_conversion, reason = "the widths differ between platforms")]
        Ok(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
    }

    pub(super) fn syncs(&self) -> u64 {
        self.counts.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Of the capacity that a test has set.
    fn left(&self, tape: &Option<MutexGuard<'_, Tape>>) -> Option<u64> {
        let capacity = tape.as_ref()?.capacity?;
        let used: u64 = self.list().ok()?.into_iter().map(|(_, len)| blocks(len)).sum();
        Some(capacity.saturating_sub(used))
    }

    fn tape(&self) -> Option<MutexGuard<'_, Tape>> {
        self.recorder.as_ref().map(|recorder| recorder.tape.lock().expect("no panic while recording"))
    }

    fn fault(&self, tape: &mut Option<MutexGuard<'_, Tape>>, space: Space) -> io::Result<()> {
        match tape.as_mut().and_then(|tape| tape.fault(space)) {
            Some(kind) => Err(kind.error()),
            None => Ok(()),
        }
    }
}

/// Whole blocks, as a file system counts.
fn blocks(len: u64) -> u64 {
    len.next_multiple_of(4096)
}

impl Tape {
    fn name_file(&mut self, name: &str) -> u64 {
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(name.to_owned(), id);
        id
    }

    fn fault(&mut self, space: Space) -> Option<FaultKind> {
        let now = self.counted;
        self.counted += 1;
        // What takes no space does not fail for want of it.
        let fault = self.fault.filter(|fault| fault.kind == FaultKind::Broken || space == Space::Taken)?;
        let due = match fault.lasting {
            Lasting::Once => now == fault.at,
            Lasting::Forever => now >= fault.at,
        };
        due.then_some(fault.kind)
    }
}

impl FaultKind {
    fn error(self) -> io::Error {
        match self {
            Self::Full => nix::errno::Errno::ENOSPC.into(),
            Self::Broken => nix::errno::Errno::EIO.into(),
        }
    }
}

/// An open file. Reading needs no `Disk`: it changes nothing.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    id: u64,
    #[expect(dead_code, reason = "keeps the list alive as long as a file of it is open")]
    recorder: Option<Arc<Recorder>>,
}

impl DiskFile {
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Fills the buffer from `offset`, or fails with `UnexpectedEof`.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// The lock goes with this value.
#[derive(Debug)]
pub(super) struct DiskLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn write_vectored_at(mut file: &File, offset: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Only the holder of the writer's lock writes to a segment, so the shared position is its own.
    file.seek(SeekFrom::Start(offset))?;
    while !slices.is_empty() {
        let some = slices.len().min(SLICES_LIMIT);
        match file.write_vectored(&slices[..some]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Nothing left but empty slices must not be offered again: it would write zero bytes.
        while slices.first().is_some_and(|slice| slice.is_empty()) {
            slices = &mut slices[1..];
        }
    }
    Ok(())
}
