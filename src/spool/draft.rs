//! Draft: a body being written. Small ones stay in memory until commit; dropped means gone.
//!
//! Owns the bytes of one message that nobody was promised yet, in memory under the global budget, or
//! in a file of their own. Its commit hands them to `commit`.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::commit::{Coming, Note, Store};
use super::content::{Body, BodyFile, CHUNK_BYTES, Charge, Content};
use super::disk::DiskFile;
use super::format::{Cause, Kind, MessageMeta, draft_name};
use super::progress::RecipientProgress;
use super::segment::is_full;
use super::{Accepted, Inner, NotStored};
use crate::mail::{Envelope, MessageId};

#[derive(Debug)]
pub struct Draft {
    inner: Arc<Inner>,
    id: MessageId,
    memory: BytesMut,
    charge: Charge,
    spill: Option<Spill>,
    /// What went wrong earlier; the bytes are incomplete since.
    refused: Option<NotStored>,
    coming: Coming,
}

/// The part of a body that went to its own file.
#[derive(Debug)]
struct Spill {
    inner: Arc<Inner>,
    id: MessageId,
    file: Arc<DiskFile>,
    len: u64,
    crc: crc32fast::Hasher,
    /// The log refers to it: it stays.
    kept: bool,
}

impl Drop for Spill {
    fn drop(&mut self) {
        if !self.kept {
            let (inner, id) = (self.inner.clone(), self.id);
            // One that cannot be removed is an orphan, and removed at the next start.
            self.inner.runtime.spawn_blocking(move || inner.disk.remove(&draft_name(id)));
        }
    }
}

impl Spill {
    fn create(inner: &Arc<Inner>, id: MessageId) -> io::Result<Self> {
        let file = Arc::new(inner.disk.create(&draft_name(id))?);
        Ok(Self { inner: inner.clone(), id, file, len: 0, crc: crc32fast::Hasher::new(), kept: false })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.disk.write(&self.file, self.len, &mut [IoSlice::new(bytes)])?;
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The bytes and the name are durable before the log refers to them.
    fn sync(&self) -> io::Result<()> {
        self.inner.disk.sync(&self.file)?;
        self.inner.disk.sync_directory()
    }
}

impl Draft {
    pub(super) fn new(inner: Arc<Inner>, id: MessageId) -> Self {
        let charge = Charge::new(&inner.budget);
        let coming = Coming::new(&inner);
        Self { inner, id, memory: BytesMut::new(), charge, spill: None, refused: None, coming }
    }

    pub fn id(&self) -> MessageId {
        self.id
    }

    pub fn len(&self) -> u64 {
        self.memory.len() as u64 + self.spill.as_ref().map_or(0, |spill| spill.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes bytes into memory. Call `settle` after each read, so that they do not heap up there.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.refused.is_none() {
            self.memory.extend_from_slice(bytes);
        }
    }

    /// Whether it is on disk, or `settle` would write it there now.
    pub fn overflows(&mut self) -> bool {
        self.charge.set(self.memory.len() as u64);
        self.spill.is_some() || self.memory_is_full()
    }

    /// Whether any of it has been written to disk.
    pub fn is_on_disk(&self) -> bool {
        self.spill.is_some()
    }

    /// The whole body, where it is still in memory.
    pub fn copy(&self) -> Option<Bytes> {
        let whole = self.spill.is_none() && self.refused.is_none();
        whole.then(|| Bytes::copy_from_slice(&self.memory))
    }

    fn memory_is_full(&self) -> bool {
        let settings = &self.inner.settings;
        let limit = if self.spill.is_some() { CHUNK_BYTES } else { settings.draft_in_memory_bytes };
        self.memory.len() > limit || self.inner.budget.used() > settings.draft_memory_bytes
    }

    /// Spills to disk what should not stay in memory. After an error the draft takes no more bytes.
    pub async fn settle(&mut self) -> Result<(), NotStored> {
        if let Some(why) = self.refused {
            return Err(why);
        }
        self.charge.set(self.memory.len() as u64);
        if self.memory.is_empty() || !self.memory_is_full() {
            return Ok(());
        }
        self.spill_memory().await
    }

    async fn spill_memory(&mut self) -> Result<(), NotStored> {
        // Should this wait be cancelled, the bytes are gone with the closure: then so is the draft.
        self.refused = Some(NotStored::Failed);
        let (inner, id, spill) = (self.inner.clone(), self.id, self.spill.take());
        let bytes = std::mem::take(&mut self.memory);
        let written = tokio::task::spawn_blocking(move || {
            let mut spill = match spill {
                Some(spill) => spill,
                None => Spill::create(&inner, id)?,
            };
            spill.write(&bytes)?;
            Ok(spill)
        });
        let written = written.await.unwrap_or_else(|_| Err(io::Error::other("the write ended early")));
        self.charge.set(0);
        match written {
            Ok(spill) => {
                self.spill = Some(spill);
                self.refused = None;
                Ok(())
            }
            Err(error) => {
                let why = draft_refusal(&self.inner, &error);
                self.refused = Some(why);
                Err(why)
            }
        }
    }

    /// Stores the message. 250 may be said only after this returns `Ok`. `head` is the header lines we
    /// add; they go in front of the body. The envelope gets this draft's id.
    pub async fn commit(self, envelope: Envelope, head: Vec<u8>) -> Result<Accepted, NotStored> {
        self.store(envelope, head, Kind::Message, None).await
    }

    /// The same for a notice, with the outcome of the message that caused it.
    pub(super) async fn commit_notice(
        self,
        envelope: Envelope,
        cause: MessageId,
        changes: Vec<(u32, RecipientProgress)>,
    ) -> Result<Accepted, NotStored> {
        self.store(envelope, Vec::new(), Kind::Notice, Some(Cause { id: cause, changes })).await
    }

    /// The same for a notice about a message that was never here.
    pub(super) async fn commit_lone_notice(self, envelope: Envelope) -> Result<Accepted, NotStored> {
        self.store(envelope, Vec::new(), Kind::Notice, None).await
    }

    async fn store(
        mut self,
        mut envelope: Envelope,
        head: Vec<u8>,
        kind: Kind,
        cause: Option<Cause>,
    ) -> Result<Accepted, NotStored> {
        assert!(!envelope.recipients.is_empty(), "a message has at least one recipient");
        if let Some(why) = self.refused {
            return Err(why);
        }
        envelope.id = self.id;
        // It is kept for as long as the message waits: without room for more.
        envelope.recipients.shrink_to_fit();
        let deadline = tokio::time::Instant::now() + self.inner.settings.commit_deadline;
        let expired = |_| NotStored::Expired;
        let mut spill = None;
        if self.spill.is_some() || self.memory.len() as u64 > self.inner.settings.own_file_above {
            spill = Some(tokio::time::timeout_at(deadline, self.own_file()).await.map_err(expired)??);
        }
        self.charge.set(self.memory.len() as u64);
        let body = self.charge.attach(self.memory.freeze());
        let head = Bytes::from(head);
        let body_crc = spill.as_ref().map(|spill| spill.crc.clone().finalize());
        let mut content_crc = crc32fast::Hasher::new();
        content_crc.update(&head);
        content_crc.update(&body);
        let envelope = Arc::new(envelope);
        let note = cause.as_ref().map(|cause| Note::progress(cause.id, &cause.changes));
        let meta = MessageMeta {
            envelope: envelope.clone(),
            progress: Vec::new(),
            body_crc,
            quarantined: None,
            cause,
        };
        let meta = meta.encode();
        let (done, stored) = oneshot::channel();
        let body_bytes = spill.as_ref().map_or(body.len() as u64, |spill| spill.len);
        drop(self.coming);
        self.inner.submit(Store {
            kind,
            id: self.id,
            meta_crc: crc32fast::hash(&meta),
            meta,
            head: head.clone(),
            body: body.clone(),
            body_bytes,
            own_file: spill.is_some(),
            content_crc: content_crc.finalize(),
            recipients: u32::try_from(envelope.recipients.len()).expect("recipients are limited"),
            cause: note,
            done,
        });
        let body = match &mut spill {
            None => Body::Memory(body),
            Some(spill) => {
                // From here on the log may refer to it, whatever becomes of us: the log's end decides.
                spill.kept = true;
                Body::File(BodyFile { file: spill.file.clone(), len: spill.len })
            }
        };
        match tokio::time::timeout_at(deadline, stored).await.map_err(expired)? {
            Ok(Ok(stored)) => {
                stored.claim();
                Ok(Accepted { envelope, content: Content { head, body } })
            }
            Ok(Err(why)) => {
                if let Some(spill) = &mut spill {
                    // Refused before a record of it was durable. After a failed sync nobody knows: it stays.
                    spill.kept = why != NotStored::Full;
                }
                Err(why)
            }
            Err(_) => Err(NotStored::Failed),
        }
    }

    /// Puts the whole body into its own file, durable.
    async fn own_file(&mut self) -> Result<Spill, NotStored> {
        if self.spill.is_none() || !self.memory.is_empty() {
            self.spill_memory().await?;
        }
        let spill = self.spill.take().expect("the body was just spilled");
        let synced = tokio::task::spawn_blocking(move || spill.sync().map(|()| spill));
        match synced.await.unwrap_or_else(|_| Err(io::Error::other("the sync ended early"))) {
            Ok(spill) => Ok(spill),
            Err(error) if is_full(&error) => Err(draft_refusal(&self.inner, &error)),
            Err(error) => {
                // A failed sync stops acceptance: it is never tried again as if nothing had happened.
                self.inner.fail(&error);
                Err(NotStored::Failed)
            }
        }
    }
}

/// A write that failed before anything was promised: nothing but this draft is in doubt.
fn draft_refusal(inner: &Inner, error: &io::Error) -> NotStored {
    inner.refused_drafts.fetch_add(1, Ordering::Relaxed);
    if is_full(error) {
        inner.found_no_room();
        NotStored::Full
    } else {
        NotStored::Failed
    }
}
