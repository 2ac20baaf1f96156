//! Session: our side of one inbound SMTP conversation.
//!
//! Owns what may be said next. Does not read, write, wait or look anything up:
//! `listener::connection` carries out each Action and feeds back the next Input.

mod limits;
mod refusal;

pub use limits::Limits;
pub use refusal::reply_for;

use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Admitted, Reason};
use crate::mail::{Address, BodyType, Domain, MessageId, Peer, Recipient, Region, Ret, Sender, TlsFacts};
use crate::smtp::body::{BodyRules, BodySummary, LineEndings};
use crate::smtp::reply::Answer;

/// What the world did.
#[derive(Debug)]
pub enum Input<'a> {
    Connected,
    /// A command line without its CRLF.
    Line(&'a [u8]),
    /// A command line over the limit, swallowed up to its CRLF.
    LineTooLong,
    /// A command line with a CR or LF of its own, swallowed up to its CRLF.
    BareLineEnding,
    /// The handshake that `StartTls` asked for is done; or done before `Connected`, on an implicit listener.
    Secured(TlsFacts),
    /// The answer to a Question.
    Judged(Ruling),
    /// The body that `ReadBody` asked for has ended; for a chunk that is not the last, so far.
    BodyEnded(BodySummary),
    /// How `Store` ended.
    Stored(Result<MessageId, NotStored>),
    PatienceOver,
    /// The daemon shuts down (rule 61). May come at any time, also between other inputs.
    Draining,
    /// The session has reached `Limits::session_age` (rule 65).
    TooOld,
}

/// What the world should do next. Exactly one per Input.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it (flush when no complete line is waiting), then listen for the next Input.
    Say(Answer),
    /// Nothing to say: go on as before. Only for Draining and TooOld in the middle of something.
    Continue,
    Judge(Question),
    /// Send it, drop and refuse bytes already buffered (rule 63), do the handshake, then `Secured`.
    StartTls(Answer),
    ReadBody(ReadBody),
    /// Commit the kept body with this envelope.
    Store(Box<OpenEnvelope>),
    /// Send it, flush, and close.
    Close(Answer),
}

/// Which octets come next and what to do with them; ends in `Input::BodyEnded`.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadBody {
    /// Send the answer, then decode up to CRLF.CRLF with a fresh `DataDecoder`.
    Data { answer: Answer, rules: BodyRules },
    /// Read exactly this many octets; no answer first.
    Chunk { octets: u64, chunk: Chunk },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// Through a fresh `ChunkDecoder`: the first of its message.
    First { last: bool, rules: BodyRules },
    /// Through the decoder of the chunks before.
    Next { last: bool },
    /// Swallow them and keep nothing: they belong to no message. `BodyEnded` with a default summary.
    Discard,
}

/// What the session needs to know before it can go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Question {
    Sender { sender: Sender, declared_size: Option<u64> },
    Recipient { path: RecipientPath, region_so_far: Option<Region> },
    Message { summary: BodySummary },
}

/// RCPT TO: an address, or `<Postmaster>` alone, which every server takes (RFC 5321 §4.1.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientPath {
    Address(Address),
    Postmaster,
}

/// The answer to a Question, of the same name.
#[derive(Debug, PartialEq, Eq)]
pub enum Ruling {
    Sender(Result<(), Reason>),
    Recipient(Result<Admitted, Reason>),
    Message(Result<(), Reason>),
}

/// Why a message could not be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// No room (rule 60).
    Full,
    /// The disk failed, or the deadline of the commit passed.
    Failed,
}

/// A transaction under way: what `mail::Envelope` is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEnvelope {
    pub sender: Sender,
    pub recipients: Vec<Recipient>,
    pub body: BodyType,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    pub envid: Option<String>,
    pub declared_size: Option<u64>,
    /// The ingress region of the first recipient (rule 14).
    pub region: Option<Region>,
    /// How many recipients each domain has (rule 56).
    counts: Vec<(Domain, usize)>,
}

/// Whether this listener speaks TLS, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsOffer {
    Off,
    #[default]
    StartTls,
    /// STARTTLS before MAIL.
    Required,
    /// Before the banner.
    Implicit,
}

/// The terms on which a listener talks; shared by its sessions.
#[derive(Debug, Clone)]
pub struct Terms {
    /// In banner and EHLO; a client that greets with it is refused (rule 64).
    pub hostname: Box<str>,
    pub tls: TlsOffer,
    pub line_endings: LineEndings,
    pub limits: Limits,
}

/// One inbound conversation.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    terms: Arc<Terms>,
}

impl Session {
    pub fn new(peer: Peer, terms: Arc<Terms>) -> Self {
        Self { peer, terms }
    }

    pub fn on(&mut self, input: Input<'_>) -> Action {
        let _ = input;
        Action::Continue
    }

    /// How long the peer may take before `PatienceOver`.
    pub fn patience(&self) -> Duration {
        self.terms.limits.command_patience
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The transaction under way, from an accepted MAIL on.
    pub fn envelope(&self) -> Option<&OpenEnvelope> {
        None
    }

    /// Whether a body received so far may still be stored. When not, the listener lets go of its draft.
    pub fn holds_body(&self) -> bool {
        false
    }
}
