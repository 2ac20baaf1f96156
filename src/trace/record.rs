//! Record: what happened to a message, as it goes from the hot path to the journal and into the index.
//!
//! Borrowed and flat, so that noting one is a copy of a few hundred octets. The journal is short-lived: its
//! format may change with the program, except that what a crash left is read by the program that follows.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::mail::MessageId;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record<'a> {
    #[serde(borrow)]
    Arrived(Arrived<'a>),
    #[serde(borrow)]
    Refused(Refused<'a>),
    #[serde(borrow)]
    Outcome(Outcome<'a>),
    #[serde(borrow)]
    Happening(Happening<'a>),
    /// So many records were not kept: the buffer or the journal was full.
    Lost { at: i64, records: u64 },
    /// All that the spool still holds has been told; what else is open in the trace has ended unseen.
    RecoveryEnd { at: i64, before: u64 },
    #[serde(borrow)]
    Rested(Rested<'a>),
    /// How a recipient ended before a start, as the spool has it; it may have been told then.
    #[serde(borrow)]
    Found(Outcome<'a>),
}

/// Who brought it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Client<'a> {
    pub session: u64,
    pub ip: IpAddr,
    pub helo: &'a str,
    /// `TLSv1.3 TLS_AES_256_GCM_SHA384`; empty for plain text.
    pub tls: &'a str,
    pub listener: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// It was durable in this node's spool before its 250.
    Spool,
    /// A next hop took it while it came in.
    Inline,
    /// Composed here: a delivery status notification.
    Notice,
    /// Found in the spool by a start.
    Recovery,
    /// As `Inline`, and a copy was on this node's disk until the next hop had it.
    InlineRested,
}

impl By {
    pub fn word(self) -> &'static str {
        match self {
            Self::Spool => "spool",
            Self::Inline | Self::InlineRested => "inline",
            Self::Notice => "notice",
            Self::Recovery => "recovery",
        }
    }
}

/// An attribution without, and its connector; a name of a tenant may hold any word.
pub fn split_attribution(attribution: &str) -> (&str, Option<&str>) {
    let known = ["incoming", "originating"].into_iter().find_map(|way| {
        attribution.strip_prefix(way)?.strip_prefix(" by ").map(|connector| (way, Some(connector)))
    });
    let own = || (attribution, Some(attribution).filter(|one| one.contains('/')));
    known.unwrap_or_else(own)
}

/// A message that is ours, or was while it went through.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Arrived<'a> {
    pub id: u64,
    pub at: i64,
    #[serde(borrow)]
    pub client: Option<Client<'a>>,
    /// `incoming`, `contoso/hq`, or `incoming by contoso/filter`.
    pub attribution: &'a str,
    /// Empty for the null sender.
    pub sender: &'a str,
    pub message_id: &'a str,
    /// Empty unless `trace.subjects`.
    pub subject: &'a str,
    /// What the checks of its origin came to, in the words of Authentication-Results.
    pub authentication: &'a str,
    pub size: u64,
    pub by: By,
    /// The message that a notice is about.
    pub cause: Option<u64>,
    #[serde(borrow)]
    pub recipients: Vec<Heading<'a>>,
}

/// One recipient and what was decided about it at RCPT. Texts are empty where nothing is known.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Heading<'a> {
    pub address: &'a str,
    /// Home region.
    pub region: &'a str,
    pub ingress: &'a str,
    pub irr: &'a str,
    pub rule: &'a str,
}

/// Mail that did not become ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused<'a> {
    /// Minted by the tracer; rises with time.
    pub key: u64,
    pub at: i64,
    #[serde(borrow)]
    pub client: Option<Client<'a>>,
    /// `connection`, `sender`, `recipient` or `message`.
    pub stage: &'a str,
    /// `None` before MAIL; empty for the null sender.
    pub sender: Option<&'a str>,
    #[serde(borrow)]
    pub recipients: Vec<&'a str>,
    pub message_id: &'a str,
    pub reason: &'a str,
    pub rule: &'a str,
    pub code: u16,
    pub reply: &'a str,
}

/// A draft that was on disk in part or whole while it came in, and did not become ours. For the audit alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rested<'a> {
    pub id: u64,
    pub at: i64,
    #[serde(borrow)]
    pub recipients: Vec<Heading<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Delivered,
    Deferred,
    Failed,
    Expired,
}

impl Fate {
    pub fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

/// How one attempt ended for one recipient.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome<'a> {
    pub id: u64,
    pub at: i64,
    pub recipient: &'a str,
    pub fate: Fate,
    pub next_hop: &'a str,
    /// The region that the next hop is in; empty for smart hosts and the internet.
    pub region: &'a str,
    pub host: &'a str,
    /// Zero when the words are ours.
    pub code: u16,
    /// `5.1.1`
    pub enhanced: &'a str,
    /// In full, code and status included.
    pub reply: &'a str,
    pub attempts: u32,
    pub next_attempt: i64,
}

/// What an operator, or the node, did to a message beside delivering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    /// The status stays what it is.
    None,
    Pending,
    Held,
    Deleted,
    Failed,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Happening<'a> {
    pub id: u64,
    pub at: i64,
    /// Empty: all of them.
    pub recipient: &'a str,
    pub what: &'a str,
    pub says: &'a str,
    pub turn: Turn,
}

/// Puts one record behind what is in `out`, with its length before it.
pub(super) fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    // Writing to memory cannot fail, and every record is plain values.
    if postcard::to_io(record, &mut *out).is_err() {
        out.truncate(start);
        return;
    }
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The records of a block; stops at what it cannot read, which only another program's journal has.
pub(super) fn decode(mut block: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        loop {
            let (len, rest) = block.split_first_chunk::<4>()?;
            let len = u32::from_le_bytes(*len) as usize;
            let (record, rest) = rest.split_at_checked(len)?;
            block = rest;
            if let Ok(record) = postcard::from_bytes(record) {
                return Some(record);
            }
        }
    })
}

/// The first name of a moment, for comparing ids with times.
pub(super) fn first_id(at: i64) -> u64 {
    MessageId::at(crate::clock::Timestamp::from_millis(at)).raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_nonsense_is_skipped() {
        let mut block = Vec::new();
        encode(&Record::Lost { at: 7, records: 3 }, &mut block);
        block.extend_from_slice(&[3, 0, 0, 0, 0xff, 0xff, 0xff]);
        let heading =
            Heading { address: "anna@contoso.com", region: "EUR", ingress: "EUR", irr: "applied", rule: "6" };
        let arrived = Arrived {
            id: 1,
            at: 2,
            client: None,
            attribution: "incoming",
            sender: "",
            message_id: "<a@b>",
            subject: "",
            authentication: "",
            size: 10,
            by: By::Spool,
            cause: None,
            recipients: vec![heading],
        };
        encode(&Record::Arrived(arrived), &mut block);
        let read: Vec<Record<'_>> = decode(&block).collect();
        assert!(matches!(read[0], Record::Lost { at: 7, records: 3 }));
        assert!(matches!(&read[1], Record::Arrived(arrived) if arrived.recipients[0].region == "EUR"));
        assert_eq!(read.len(), 2);
    }
}
