//! Maildir: final delivery into files, without a server.
//!
//! Owns the tree `<root>/<domain>/<local part>/{tmp,new,cur}`. A message is whole and on disk before it is
//! seen in `new`. Files keep the bytes as received, CRLF line endings included: readers of Maildir take
//! both, and the message stays what was signed.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::transfer::return_path;
use super::verdict::{self, Obstacle};
use super::{Delivery, Parcel, Services};
use crate::clock::Timestamp;
use crate::mail::{Address, Outcome, RemoteReply, Status};

/// How much of a body is gathered before it is written.
const BATCH_BYTES: usize = 1024 * 1024;

/// Tells apart the deliveries of this process within one millisecond.
static DELIVERIES: AtomicU64 = AtomicU64::new(0);

/// Delivers to each recipient's own Maildir.
pub(super) async fn deliver(root: &Path, parcel: &Parcel<'_>, services: &Services) -> Delivery {
    let host = format!("maildir://{}", root.display());
    let hostname = &services.hostname;
    let letters: Vec<Letter> = parcel
        .recipients()
        .map(|recipient| {
            let folder = folder(root, &recipient.address);
            Letter::new(root, folder, &unique_name(services.clock.now(), hostname))
        })
        .collect();
    match write_all(letters, parcel).await {
        Ok(results) => judge(results, &host),
        Err(error) => {
            let reply = verdict::obstacle(&Obstacle::Storage(error), &host);
            Delivery::Reached(vec![Outcome::Deferred(reply); parcel.recipients.len()])
        }
    }
}

/// Feeds the content to the disk, batch by batch. The error is our own: the content could not be read.
async fn write_all(mut letters: Vec<Letter>, parcel: &Parcel<'_>) -> Result<Vec<io::Result<()>>, String> {
    let mut batch = vec![return_path(parcel.envelope), parcel.content.head.clone()];
    let mut body = parcel.content.body.reader();
    loop {
        let mut gathered = 0;
        let mut ended = false;
        while gathered < BATCH_BYTES && !ended {
            match body.next().await.map_err(|error| error.to_string())? {
                Some(part) => {
                    gathered += part.len();
                    batch.push(part);
                }
                None => ended = true,
            }
        }
        let parts = std::mem::take(&mut batch);
        // Small messages come here once: one trip to the disk's threads for the whole delivery.
        let work = tokio::task::spawn_blocking(move || {
            for letter in &mut letters {
                letter.write(&parts);
                if ended {
                    letter.finish();
                }
            }
            letters
        });
        letters = work.await.map_err(|error| error.to_string())?;
        if ended {
            return Ok(letters.into_iter().map(Letter::into_result).collect());
        }
    }
}

/// A full or broken disk is the destination's trouble; anything else is one mailbox's.
fn judge(results: Vec<io::Result<()>>, host: &str) -> Delivery {
    let nobody = results.iter().all(Result::is_err);
    let storage = |error: &io::Error| verdict::obstacle(&Obstacle::Storage(error.to_string()), host);
    if let Some(Err(error)) = results.iter().find(|result| result.as_ref().is_err_and(is_everybodys))
        && nobody
    {
        return Delivery::Unreached(storage(error));
    }
    let outcome = |result: io::Result<()>| match result {
        Ok(()) => {
            Outcome::Delivered(RemoteReply::ours(host, Status::new(2, 0, 0), "Delivered to the mailbox"))
        }
        Err(error) => Outcome::Deferred(storage(&error)),
    };
    Delivery::Reached(results.into_iter().map(outcome).collect())
}

fn is_everybodys(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StaleNetworkFileHandle
    )
}

/// One file on its way into one Maildir. After its first error it does nothing more.
struct Letter {
    root: PathBuf,
    folder: PathBuf,
    name: String,
    state: io::Result<Stage>,
}

enum Stage {
    Absent,
    Open(File),
    Delivered,
}

impl Letter {
    fn new(root: &Path, folder: PathBuf, name: &str) -> Self {
        Self { root: root.to_owned(), folder, name: name.to_owned(), state: Ok(Stage::Absent) }
    }

    fn draft(&self) -> PathBuf {
        self.folder.join("tmp").join(&self.name)
    }

    fn write(&mut self, parts: &[Bytes]) {
        self.step(|letter, stage| {
            let mut file = match stage {
                Stage::Open(file) => file,
                Stage::Absent | Stage::Delivered => letter.open()?,
            };
            write_parts(&mut file, parts)?;
            Ok(Stage::Open(file))
        });
    }

    fn finish(&mut self) {
        self.step(|letter, stage| {
            if let Stage::Open(file) = stage {
                file.sync_all()?;
                let new = letter.folder.join("new");
                fs::rename(letter.draft(), new.join(&letter.name))?;
                // The name too must be on disk before the spool forgets the message.
                sync_folder(&new)?;
            }
            Ok(Stage::Delivered)
        });
    }

    fn step(&mut self, step: impl FnOnce(&Self, Stage) -> io::Result<Stage>) {
        let state = std::mem::replace(&mut self.state, Ok(Stage::Absent));
        self.state = state.and_then(|stage| step(self, stage));
        if self.state.is_err() {
            // What is left in `tmp` is nobody's mail; a full disk needs the room.
            let _ = fs::remove_file(self.draft());
        }
    }

    fn open(&self) -> io::Result<File> {
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.draft());
        match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folders(&self.root, &self.folder)?;
                create()
            }
            other => other,
        }
    }

    fn into_result(self) -> io::Result<()> {
        self.state.map(|_| ())
    }
}

fn write_parts(file: &mut File, parts: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = &mut slices[..];
    // Empty parts go first, so that a write of nothing is never mistaken for a full disk.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let written = file.write_vectored(left)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

/// Makes the Maildir and whatever is missing above it, each name on disk before it is relied on.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).collect();
    for path in missing.into_iter().rev() {
        make_folder(path)?;
    }
    for part in ["tmp", "new", "cur"] {
        make_folder(&folder.join(part))?;
    }
    debug_assert!(folder.starts_with(root), "an address stays below its root");
    Ok(())
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
            _ => sync_folder(Path::new(".")),
        },
        // Another delivery made it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Where the mail of an address lies: `<root>/<domain>/<local part>`.
fn folder(root: &Path, address: &Address) -> PathBuf {
    root.join(plain_name(address.domain().as_str())).join(plain_name(&address.local_key()))
}

/// One name for one key, that no key can leave its folder by: letters, digits and `-_+=.` stand for
/// themselves, a leading dot and all else is written in percent.
fn plain_name(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'+' | b'=' => {
                name.push(char::from(byte))
            }
            b'.' if at > 0 => name.push('.'),
            _ => {
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    name
}

/// A name that no other delivery has, as Maildir wants it: time, process and count, host.
fn unique_name(now: Timestamp, hostname: &str) -> String {
    let count = DELIVERIES.fetch_add(1, Ordering::Relaxed);
    let (seconds, millis) = (now.millis().div_euclid(1000), now.millis().rem_euclid(1000));
    // A colon would begin the flags of a reader, a slash another folder.
    let host = hostname.replace('/', "\\057").replace(':', "\\072");
    format!("{seconds}.M{millis}P{}Q{count}.{host}", std::process::id())
}
