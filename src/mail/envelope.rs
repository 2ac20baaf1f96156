//! Envelope: from whom, to whom, and what was promised on the way in (RFC 5321 §2.3.1, RFC 3461).
//!
//! It is what the spool keeps beside a body, so every field that is added later needs a default.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Address, Peer, SpfResult};
use crate::clock::Timestamp;

/// Names one message from acceptance to its final fate, unique on this node and rising with time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MessageId(u64);

impl MessageId {
    /// 22 bits below the millisecond count give 4 million names a millisecond.
    const SEQUENCE_BITS: u32 = 22;

    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The smallest name that belongs to this moment.
    pub fn at(now: Timestamp) -> Self {
        Self(u64::try_from(now.millis()).unwrap_or(0) << Self::SEQUENCE_BITS)
    }

    /// The next free name: of this moment, or just above the last one given.
    pub fn after(self, now: Timestamp) -> Self {
        Self(Self::at(now).0.max(self.0 + 1))
    }

    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<MessageId> for String {
    fn from(id: MessageId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for MessageId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or_else(|| format!("'{text}' is not a message id: 16 hexadecimal digits"))
    }
}

/// MAIL FROM: an address, or the null reverse-path `<>` of notices.
pub type Sender = Option<Address>;

/// BODY= of MAIL FROM (RFC 6152, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
    BinaryMime,
}

/// RET= of MAIL FROM (RFC 3461 §4.3): what a failure notice returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    Full,
    Headers,
}

/// NOTIFY= of RCPT TO (RFC 3461 §4.1). Absent altogether means failure and delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };

    /// As it is written in RCPT TO.
    pub fn words(self) -> String {
        let named = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let words: Vec<&str> = named.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if words.is_empty() { "NEVER".to_owned() } else { words.join(",") }
    }
}

/// One RCPT TO that was accepted. Where it goes is decided again before each attempt (rule 89).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    pub address: Address,
    /// ORCPT= as it came, xtext still encoded: `rfc822;anna@contoso.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
}

impl Recipient {
    pub fn new(address: Address) -> Self {
        Self { address, orcpt: None, notify: None }
    }

    /// Whether the sender wants to hear that it takes long; the default is yes (RFC 3461 §4.1).
    pub fn wants_delay(&self) -> bool {
        self.notify.is_none_or(|notify| notify.delay)
    }

    /// Whether the sender wants to hear that it arrived; the default is no (RFC 3461 §4.1).
    pub fn wants_success(&self) -> bool {
        self.notify.is_some_and(|notify| notify.success)
    }

    /// Whether the sender wants to hear of a failure; the default is yes (RFC 3461 §4.1).
    pub fn wants_failure(&self) -> bool {
        self.notify.is_none_or(|notify| notify.failure)
    }
}

/// How a message came in, for `Received` and for the decision of later attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Transport {
    /// From a client of nobody's, for a hosted recipient.
    #[default]
    Incoming,
    /// From a tenant's own connector: may address any domain (rules 30, 32).
    Originating,
    /// From another region's edge: never relayed onward (spec, section 6).
    PeerEdge,
    /// Composed here: a delivery status notification.
    Notice,
}

/// Everything about a message but its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub id: MessageId,
    pub received_at: Timestamp,
    pub sender: Sender,
    pub recipients: Vec<Recipient>,
    #[serde(default)]
    pub body: BodyType,
    #[serde(default)]
    pub smtputf8: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// ENVID= as it came, xtext still encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    #[serde(default)]
    pub transport: Transport,
    /// The tenant whose connector it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Box<str>>,
    /// That inbound connector (rules 30 to 35).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<Box<str>>,
    /// What SPF said of the sender, where it was asked: no notice is owed to a forged one (spec, section 6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spf: Option<SpfResult>,
    /// REQUIRETLS: it goes on by verified TLS or not at all (RFC 8689).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_tls: bool,
    /// Who sent it; absent for notices, which nobody sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
}

impl Envelope {
    /// Nothing beyond the addresses was promised, and nothing is known of who sent it.
    pub fn new(id: MessageId, received_at: Timestamp, sender: Sender, recipients: Vec<Recipient>) -> Self {
        Self {
            id,
            received_at,
            sender,
            recipients,
            body: BodyType::default(),
            smtputf8: false,
            ret: None,
            envid: None,
            transport: Transport::default(),
            tenant: None,
            connector: None,
            spf: None,
            require_tls: false,
            peer: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_rise_with_time_and_never_repeat() {
        let noon = Timestamp::from_millis(1_800_000_000_000);
        let first = MessageId::from_raw(0).after(noon);
        let second = first.after(noon);
        let stepped_back = second.after(Timestamp::from_millis(1_700_000_000_000));
        assert!(first < second && second < stepped_back);
        assert_eq!(MessageId::parse(&first.to_string()), Some(first));
    }

    #[test]
    fn a_recipient_without_notify_hears_of_failures() {
        let mut recipient = Recipient::new(Address::parse("a@b.example").expect("an address"));
        assert!(recipient.wants_failure());
        recipient.notify = Some(Notify::NEVER);
        assert!(!recipient.wants_failure());
        assert_eq!(Notify { success: true, failure: true, delay: false }.words(), "SUCCESS,FAILURE");
        assert_eq!(Notify::NEVER.words(), "NEVER");
    }
}
