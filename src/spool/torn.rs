//! Torn: unfinished writes at the end of a segment, set aside before they are cut off.
//!
//! `recovery` finds them; nobody reads them again but whoever looks for mail that was promised.

use std::io::{self, IoSlice};

use super::disk::{Disk, DiskFile};
use super::segment::is_full;

/// Unfinished writes that are set aside: so many files, of so many octets together, the latest ones.
const TORN_FILES: usize = 16;
const TORN_BYTES: u64 = 32 * 1024 * 1024;

const TORN: &str = "torn-";

/// Where unfinished writes are set aside: nobody can be sure that they were not promised.
pub(super) struct Torn<'a> {
    pub(super) disk: &'a Disk,
    min_free_bytes: u64,
    /// Those that are there, with their lengths; the oldest first.
    files: Vec<(String, u64)>,
}

impl<'a> Torn<'a> {
    /// `names`: all that is in the folder.
    pub(super) fn new(disk: &'a Disk, min_free_bytes: u64, names: &[(String, u64)]) -> Self {
        let files = names.iter().filter(|(name, _)| name.starts_with(TORN)).cloned().collect();
        Self { disk, min_free_bytes, files }
    }

    /// Copies a stretch of a segment to a file of its own, durable before anything is cut off. `None` when
    /// there is no room for it.
    pub(super) fn set_aside(
        &mut self,
        file: &DiskFile,
        segment: &str,
        at: u64,
        octets: u64,
    ) -> io::Result<Option<String>> {
        let name = format!("{TORN}{segment}-{at:08x}");
        if self.files.iter().any(|(there, _)| *there == name) {
            return Ok(Some(name));
        }
        if octets > TORN_BYTES {
            return Ok(None);
        }
        while self.files.len() >= TORN_FILES
            || self.files.iter().map(|(_, len)| len).sum::<u64>() + octets > TORN_BYTES
        {
            let (oldest, _) = self.files.remove(0);
            self.disk.remove(&oldest)?;
        }
        if self.disk.free_bytes()? < self.min_free_bytes.saturating_add(octets) {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(octets).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, at)?;
        let copied = (|| {
            let copy = self.disk.create(&name)?;
            self.disk.write(&copy, 0, &mut [IoSlice::new(&bytes)])?;
            self.disk.sync(&copy)?;
            self.disk.sync_directory()
        })();
        match copied {
            Ok(()) => {
                self.files.push((name.clone(), octets));
                Ok(Some(name))
            }
            Err(error) if is_full(&error) => {
                let _ = self.disk.remove(&name);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
