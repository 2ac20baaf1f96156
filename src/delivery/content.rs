//! Content: what a next hop gets of a message, head then body.
//!
//! Stands in for the spool's type of the same shape.

use bytes::Bytes;

/// A body is given in pieces of at most this size.
const CHUNK_BYTES: usize = 256 * 1024;

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
    Memory(Bytes),
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body from its beginning, chunk by chunk; call it again for another attempt.
    pub fn reader(&self) -> BodyReader {
        match self {
            Self::Memory(bytes) => BodyReader(bytes.clone()),
        }
    }
}

#[derive(Debug)]
pub struct BodyReader(Bytes);

impl BodyReader {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, std::io::Error> {
        let size = self.0.len().min(CHUNK_BYTES);
        Ok((size > 0).then(|| self.0.split_to(size)))
    }
}
