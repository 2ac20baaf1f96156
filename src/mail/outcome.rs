//! Outcome: delivered, deferred, postponed or failed, for one recipient.

use serde::{Deserialize, Serialize};

use super::Status;

/// What a next hop said, in full, or what we say in its place when it said nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteReply {
    /// The host that said it: `store1.eur.example.net [192.0.2.7]:24`. Empty when nobody was reached.
    pub host: String,
    /// The three digits; zero when the words are ours and not a server's.
    pub code: u16,
    /// The plainest of its class where the server gave none.
    pub status: Status,
    /// The whole text without code and enhanced code; lines joined by a space. A server's own plain status is
    /// part of it.
    pub text: String,
}

impl RemoteReply {
    /// Words of our own, when no server answered.
    pub fn ours(host: impl Into<String>, status: Status, text: impl Into<String>) -> Self {
        Self { host: host.into(), code: 0, status, text: text.into() }
    }

    /// Our own word that a next hop does not take a message of this form: 8-bit, binary or SMTPUTF8.
    pub fn is_about_form(&self) -> bool {
        self.code == 0
            && self.status.class == 5
            && self.status.subject == 6
            && matches!(self.status.detail, 3 | 7)
    }

    /// `550 5.1.1 no such user`, as a notice quotes it; without a code when the words are ours, without a status
    /// where the server gave none.
    pub fn line(&self) -> String {
        if self.code == 0 {
            format!("{} {}", self.status, self.text)
        } else if self.status.is_plain() {
            format!("{} {}", self.code, self.text)
        } else {
            format!("{} {} {}", self.code, self.status, self.text)
        }
    }
}

/// To whom a message was handed, and so who owes its sender word of success (RFC 3461 §5.2, §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handed {
    /// It is in the mailbox: we do.
    ToMailbox,
    /// To a next hop that took the sender's wishes with it: that one does.
    WithWishes,
    /// To a next hop that knows no DSN: we say that it was relayed.
    WithoutWishes,
}

/// How one attempt ended for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Delivered(RemoteReply, Handed),
    /// Try again later (rule 80).
    Deferred(RemoteReply),
    /// Try again now, in a new transaction (rule 88): the next hop took others of this one.
    Postponed(RemoteReply),
    /// Never again (rule 81).
    Failed(RemoteReply),
}

impl Outcome {
    pub fn reply(&self) -> &RemoteReply {
        match self {
            Self::Delivered(reply, _)
            | Self::Deferred(reply)
            | Self::Postponed(reply)
            | Self::Failed(reply) => reply,
        }
    }
}
