//! Content: what a next hop gets of a message, head then body, from memory or from its own file.
//!
//! Owns the memory budget that bodies count against, and reading a body's file in chunks. Whether the
//! bytes are right was settled before: a `Content` from `Spool::read` has been verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::Error;
use super::disk::DiskFile;

/// A body's file is read, verified and written in pieces of this size.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// The mail text as received: CRLF lines, not dot-stuffed. `head` is what we put in front.
#[derive(Debug, Clone)]
pub struct Content {
    pub head: Bytes,
    pub body: Body,
}

impl Content {
    /// Head and body together.
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.body.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug, Clone)]
pub enum Body {
    /// Counts against the memory budget until its last clone is dropped.
    Memory(Bytes),
    File(BodyFile),
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body from its beginning, chunk by chunk; call it again for another attempt.
    pub fn reader(&self) -> BodyReader {
        match self {
            Self::Memory(bytes) => BodyReader { source: Source::Memory(bytes.clone()) },
            Self::File(file) => BodyReader { source: Source::File { file: file.clone(), at: 0 } },
        }
    }
}

/// A body in its own file; open for as long as somebody reads, even when the message is finished meanwhile.
#[derive(Debug, Clone)]
pub struct BodyFile {
    pub(super) file: Arc<DiskFile>,
    pub(super) len: u64,
}

/// Gives a body in pieces of at most 256 KiB.
#[derive(Debug)]
pub struct BodyReader {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory(Bytes),
    File { file: BodyFile, at: u64 },
}

impl BodyReader {
    /// The next piece; `None` at the end. Cancelled, it gives the same piece again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match &mut self.source {
            Source::Memory(rest) if rest.is_empty() => Ok(None),
            Source::Memory(rest) => Ok(Some(rest.split_to(rest.len().min(CHUNK_BYTES)))),
            Source::File { file, at } if *at >= file.len => Ok(None),
            Source::File { file, at } => {
                let (open, offset) = (file.file.clone(), *at);
                let want =
                    usize::try_from(file.len - offset).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
                let read = tokio::task::spawn_blocking(move || {
                    let mut chunk = vec![0; want];
                    open.read_exact_at(&mut chunk, offset).map(|()| chunk)
                });
                let chunk = read.await.map_err(|_| Error::Stopped)??;
                *at += chunk.len() as u64;
                Ok(Some(chunk.into()))
            }
        }
    }
}

/// How much memory bodies take, over all drafts and contents.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: AtomicU64,
}

impl Budget {
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    amount: u64,
}

impl Charge {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), amount: 0 }
    }

    pub(super) fn set(&mut self, amount: u64) {
        if amount >= self.amount {
            self.budget.used.fetch_add(amount - self.amount, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(self.amount - amount, Ordering::Relaxed);
        }
        self.amount = amount;
    }

    /// Bytes that carry their share with them.
    pub(super) fn attach(mut self, bytes: Bytes) -> Bytes {
        self.set(bytes.len() as u64);
        Bytes::from_owner(Charged { bytes, _charge: self })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_until_the_last_clone_is_gone() {
        let budget = Arc::new(Budget::default());
        let bytes = Charge::new(&budget).attach(Bytes::from(vec![7; 1000]));
        let (clone, part) = (bytes.clone(), bytes.slice(10..20));
        drop((bytes, clone));
        assert_eq!(budget.used(), 1000, "a slice keeps the whole");
        drop(part);
        assert_eq!(budget.used(), 0);
    }
}
