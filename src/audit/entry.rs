//! Entry: one line of the chain: 64 hexadecimal digits, a space, and a JSON object.
//!
//! The hash covers the hash before and the object's octets as they stand in the line.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// What the first record of a first file stands on.
pub(super) const GENESIS: Hash = [0; 32];

/// What is written down. Short keys: there are at least two entries a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Rises by one with each entry, across files.
    pub n: u64,
    /// Milliseconds since the Unix epoch, UTC.
    pub at: i64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A file begins; `prev` is the hash that the file before ended in.
    File {
        node: String,
        region: String,
        prev: String,
    },
    /// The daemon started; `torn` octets of an unfinished entry were cut off the end.
    Start {
        #[serde(default, skip_serializing_if = "is_zero")]
        torn: u64,
    },
    /// A start found the chain ending before record `from`, where `head` knew of `had` records, ending in `hash`.
    Shortened {
        from: u64,
        had: u64,
        hash: String,
    },
    /// The daemon stopped in good order: nothing that was noted is missing.
    Stop,
    Received {
        id: String,
        /// `spool`, `inline`, `notice` or `recovery`.
        by: String,
        /// As the attribution says: `incoming`, an edge of another region, a tenant's connector.
        from: String,
        /// Whether it rested on this node's disk.
        disk: bool,
        to: Vec<To>,
    },
    /// A message that was on this node's disk, in part or whole, while it came in, and was refused or broken off.
    Rested {
        id: String,
        to: Vec<To>,
    },
    /// A message that a start found in the spool and nothing of in the chain: the batch before a crash.
    Recovered {
        id: String,
        received: i64,
        to: Vec<To>,
    },
    Delivered {
        id: String,
        domain: String,
        hop: String,
        #[serde(default)]
        region: String,
    },
    Failed {
        id: String,
        domain: String,
        hop: String,
        why: String,
    },
    /// An operator took it out of the queue for this recipient; for all, without a domain, in older chains.
    Removed {
        id: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        domain: String,
        why: String,
    },
    /// So many events could not be written down.
    Lost {
        count: u64,
    },
    /// Files that ended in record `until` were deleted by age or size.
    Pruned {
        until: u64,
        why: String,
    },
}

/// The recipients of one message that share domain and decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct To {
    pub domain: String,
    pub count: u32,
    /// Empty where no region's mailbox is the goal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub home: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ingress: String,
    /// `applied`, or why in-region routing did not apply.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub irr: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

pub(super) fn hash(before: &Hash, object: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(before);
    context.update(object);
    let mut hash = GENESIS;
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

pub(super) fn hex(hash: &Hash) -> String {
    let mut text = String::with_capacity(64);
    put_hex(hash, &mut text);
    text
}

pub(super) fn put_hex(hash: &Hash, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in hash {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Exactly what `put_hex` writes: a digit in upper case is not what was written.
pub(super) fn unhex(text: &str) -> Option<Hash> {
    let mut hash = GENESIS;
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

/// A line without its end, as hash and object.
pub(super) fn split(line: &[u8]) -> Option<(Hash, &[u8])> {
    let (hash, rest) = line.split_at_checked(64)?;
    Some((unhex(std::str::from_utf8(hash).ok()?)?, rest.strip_prefix(b" ")?))
}
