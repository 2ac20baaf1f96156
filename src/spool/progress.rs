//! Progress: how far each recipient of a message has come.
//!
//! Owns what survives a restart beside the envelope. `queue` decides it; the spool writes it down and
//! merges it by recipient.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mail::{Priority, RemoteReply};

/// How a recipient's story ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Delivered,
    /// Refused for good (rule 81).
    Failed,
    /// Too old (rule 83).
    Expired,
    /// Deleted by the operator, or withdrawn because its client never heard a 250.
    Dropped,
}

/// The newest state of one recipient. Fields that are added later need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientProgress {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    #[serde(default = "long_ago", skip_serializing_if = "is_long_ago")]
    pub next_attempt: Timestamp,
    /// Seconds waited before that attempt: the next wait is not shorter (rule 82).
    #[serde(default, skip_serializing_if = "is_no_wait")]
    pub interval_s: u64,
    /// The last attempt did not reach the next hop: it is due as soon as that is back (rule 84).
    #[serde(default, skip_serializing_if = "is_false")]
    pub unreached: bool,
    /// Held by the operator since then: kept, not attempted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
    /// Seconds that it was held before: they do not count as age.
    #[serde(default, skip_serializing_if = "is_no_wait")]
    pub grace_s: u64,
    /// As the operator set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The notice of delay was sent (rule 87).
    #[serde(default, skip_serializing_if = "is_false")]
    pub delay_notified: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<RemoteReply>,
}

impl Default for RecipientProgress {
    /// Nothing tried yet, due at once.
    fn default() -> Self {
        Self {
            end: None,
            attempts: 0,
            next_attempt: long_ago(),
            interval_s: 0,
            unreached: false,
            held_since: None,
            grace_s: 0,
            priority: None,
            delay_notified: false,
            last: None,
        }
    }
}

impl RecipientProgress {
    pub fn ended(end: End) -> Self {
        Self { end: Some(end), ..Self::default() }
    }
}

fn long_ago() -> Timestamp {
    Timestamp::from_millis(0)
}

fn is_long_ago(moment: &Timestamp) -> bool {
    *moment == long_ago()
}

fn is_no_wait(seconds: &u64) -> bool {
    *seconds == 0
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Which recipients are still open. Bits, because a message with one recipient is the common one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Open {
    Few(u64),
    Many(Box<[u64]>),
}

impl Open {
    pub(super) fn all(recipients: usize) -> Self {
        if recipients <= 64 {
            return Self::Few(low_bits(recipients));
        }
        let words = (0..recipients.div_ceil(64)).map(|word| low_bits((recipients - word * 64).min(64)));
        Self::Many(words.collect())
    }

    pub(super) fn end(&mut self, recipient: u32) {
        let (word, bit) = (recipient as usize / 64, recipient % 64);
        match self {
            Self::Few(bits) if word == 0 => *bits &= !(1 << bit),
            Self::Few(_) => {}
            Self::Many(words) => {
                if let Some(bits) = words.get_mut(word) {
                    *bits &= !(1 << bit);
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(bits) => *bits == 0,
            Self::Many(words) => words.iter().all(|bits| *bits == 0),
        }
    }
}

fn low_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_finished_when_its_last_recipient_is() {
        for recipients in [1_u32, 2, 63, 64, 65, 128, 500] {
            let mut open = Open::all(recipients as usize);
            for recipient in 0..recipients {
                assert!(!open.is_empty(), "{recipient} of {recipients}");
                open.end(recipient);
                open.end(recipient);
            }
            assert!(open.is_empty(), "{recipients}");
        }
    }

    #[test]
    fn progress_written_by_an_older_version_has_defaults() {
        let read: RecipientProgress = serde_json::from_str("{}").expect("every field has a default");
        assert_eq!(read, RecipientProgress::default());
    }
}
