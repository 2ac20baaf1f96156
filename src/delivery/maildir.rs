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
use crate::mail::{Address, Handed, Outcome, RemoteReply, Status};

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
            let folder = folder(root, parcel.mailboxes.of(&recipient.address));
            Letter::new(root, folder, &unique_name(services.clock.now(), hostname))
        })
        .collect();
    match write_all(letters, parcel).await {
        Ok(results) => judge(root, results, &host),
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

/// A full, broken or absent disk is the destination's trouble; anything else is one mailbox's.
fn judge(root: &Path, results: Vec<io::Result<()>>, host: &str) -> Delivery {
    let nobody = results.iter().all(Result::is_err);
    let storage = |error: &io::Error| verdict::obstacle(&Obstacle::Storage(error.to_string()), host);
    let everybodys = |result: &&io::Result<()>| match result {
        Ok(()) => false,
        Err(error) => is_everybodys(error) || !root.is_dir(),
    };
    if nobody && let Some(Err(error)) = results.iter().find(everybodys) {
        return Delivery::Unreached(storage(error));
    }
    let outcome = |result: io::Result<()>| match result {
        Ok(()) => {
            let reply = RemoteReply::ours(host, Status::new(2, 0, 0), "Delivered to the mailbox");
            Outcome::Delivered(reply, Handed::ToMailbox)
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
                let put = || fs::rename(letter.draft(), new.join(&letter.name));
                match put() {
                    // A mailbox that somebody began and did not end.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        make_folders(&letter.root, &letter.folder)?;
                        put()?;
                    }
                    put => put?,
                }
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
    // The last is the one that deliveries look for: where it is, the others are.
    for part in ["new", "cur", "tmp"] {
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
    format!("{seconds}.M{millis}P{}Q{count}.{}", std::process::id(), host_part(hostname))
}

/// A colon would begin the flags of a reader, a slash another folder.
pub(super) fn host_part(hostname: &str) -> String {
    hostname.replace('/', "\\057").replace(':', "\\072")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::delivery::Patience;
    use crate::dns::Resolver;
    use crate::mail::{Envelope, Mailboxes, MessageId, Recipient};
    use crate::net::{ClientTls, Network, Roots};
    use crate::spool::{Body, Content};

    fn services() -> Services {
        Services {
            hostname: "edge.example".into(),
            dialer: Arc::new(Network),
            resolver: Arc::new(Resolver::table([])),
            tls: Arc::new(ClientTls::new(Roots::none(), None).expect("settings")),
            patience: Patience::default(),
            troubled: crate::delivery::Troubled::default(),
            internet: None,
            clock: Clock::System,
        }
    }

    async fn put(root: &Path, recipients: &[&str], content: &Content) -> Delivery {
        let address = |text: &str| Address::parse(text).expect("an address");
        let envelope = Envelope::new(
            MessageId::from_raw(1),
            Timestamp::from_millis(0),
            None,
            recipients.iter().map(|text| Recipient::new(address(text))).collect(),
        );
        let indices: Vec<u32> = (0..).take(recipients.len()).collect();
        let mailboxes = Mailboxes::NONE;
        let parcel = Parcel { envelope: &envelope, recipients: &indices, content, mailboxes };
        deliver(root, &parcel, &services()).await
    }

    fn content(body: impl Into<Bytes>) -> Content {
        Content { head: Bytes::from_static(b"Received: here\r\n"), body: Body::Memory(body.into()) }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    }

    #[tokio::test]
    async fn a_message_lies_in_new_with_its_bytes_as_received() {
        let root = tempfile::tempdir().expect("a folder");
        let store = root.path().join("not/yet/there");
        let large = vec![b'x'; 3 * BATCH_BYTES];
        for body in [&b""[..], b"\r\nhello\r\n", &large] {
            let delivery = put(&store, &["Anna@B.example", "bob@b.example"], &content(body.to_vec())).await;
            let Delivery::Reached(outcomes) = delivery else { panic!("the disk is there") };
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered(..))), "{outcomes:?}");
            for folder in ["b.example/anna", "b.example/bob"] {
                let new = files(&store.join(folder).join("new"));
                let [file] = &new[..] else { panic!("one message in {folder}: {new:?}") };
                let expected = [b"Return-Path: <>\r\nReceived: here\r\n", body].concat();
                assert!(fs::read(file).expect("a file") == expected, "byte for byte");
                assert_eq!(fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
                assert!(files(&store.join(folder).join("tmp")).is_empty());
                assert!(files(&store.join(folder).join("cur")).is_empty());
                fs::remove_file(file).expect("a file");
            }
        }
    }

    #[tokio::test]
    async fn a_mailbox_that_was_made_by_half_is_made_whole() {
        let root = tempfile::tempdir().expect("a place");
        let mailbox = root.path().join("b.example").join("a");
        fs::create_dir_all(mailbox.join("tmp")).expect("room");
        let delivery = put(root.path(), &["a@b.example"], &content("Subject: x\r\n\r\nhello\r\n")).await;
        let Delivery::Reached(outcomes) = delivery else { panic!("{delivery:?}") };
        assert!(matches!(outcomes[0], Outcome::Delivered(..)), "{outcomes:?}");
        assert_eq!(files(&mailbox.join("new")).len(), 1);
    }

    #[tokio::test]
    async fn no_address_leaves_the_tree_or_another_mailbox() {
        let root = tempfile::tempdir().expect("a folder");
        let store = root.path().join("store");
        let hostile = [
            "\"../../escape\"@b.example",
            "\"..\"@b.example",
            "\".\"@b.example",
            "\".hidden\"@b.example",
            "\"a/b\"@b.example",
            "\"a%2Fb\"@b.example",
            "a+tag@b.example",
            "\"a b\"@b.example",
            "jürgen@b.example",
            "x@[192.0.2.1]",
            "x@[IPv6:2001:db8::1]",
        ];
        put(&store, &hostile, &content("hello\r\n")).await;
        assert_eq!(files(root.path()), std::slice::from_ref(&store), "nothing beside the store");
        let mailboxes: Vec<PathBuf> = files(&store).iter().flat_map(|domain| files(domain)).collect();
        assert_eq!(mailboxes.len(), hostile.len(), "each has its own: {mailboxes:?}");
        for mailbox in mailboxes {
            assert_eq!(files(&mailbox.join("new")).len(), 1, "{}", mailbox.display());
        }
    }

    #[test]
    fn names_are_plain_and_never_collide() {
        for (key, name) in [
            ("anna", "anna"),
            ("anna.k", "anna.k"),
            ("user+tag", "user+tag"),
            (".", "%2E"),
            ("..", "%2E."),
            ("../x", "%2E.%2Fx"),
            ("a%2fb", "a%252fb"),
            ("[192.0.2.1]", "%5B192.0.2.1%5D"),
            ("", ""),
        ] {
            assert_eq!(plain_name(key), name);
        }
        let now = Timestamp::from_millis(1_800_000_000_123);
        let names: HashSet<String> = (0..1000).map(|_| unique_name(now, "a/b:c")).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| !name.contains(['/', ':']) && name.starts_with("1800000000.M123P")));
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_the_destinations_trouble() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("file");
        fs::write(&file, "not a folder").expect("room");
        let Delivery::Unreached(reply) = put(&file, &["a@b.example"], &content("x\r\n")).await else {
            panic!("nobody can be delivered to")
        };
        assert_eq!(reply.status, Status::new(4, 3, 0));
    }

    #[tokio::test]
    async fn one_broken_mailbox_defers_only_its_own_mail() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("b.example")).expect("room");
        fs::write(root.path().join("b.example/anna"), "not a folder").expect("room");
        let alone = put(root.path(), &["anna@b.example"], &content("x\r\n")).await;
        let both = put(root.path(), &["anna@b.example", "bob@b.example"], &content("x\r\n")).await;
        for (delivery, last_is_delivered) in [(alone, false), (both, true)] {
            let Delivery::Reached(outcomes) = delivery else { panic!("the store is there") };
            assert!(matches!(outcomes[0], Outcome::Deferred(_)), "{outcomes:?}");
            let last = outcomes.last().expect("an outcome");
            assert_eq!(matches!(last, Outcome::Delivered(..)), last_is_delivered, "{outcomes:?}");
        }
    }
}
