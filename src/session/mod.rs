//! Session: our side of one inbound SMTP conversation.
//!
//! Owns what may be said next. Does not read, write, wait or look anything up:
//! `listener::connection` carries out each Action and feeds back the next Input.

mod limits;
mod phase;
mod refusal;

pub use limits::Limits;
pub use phase::{OpenEnvelope, Session};
pub use refusal::{answer_for, reply_for};

use ipnet::IpNet;

use crate::decision::{Admitted, Reason};
use crate::mail::{MessageId, Region, RemoteReply, Sender, TlsFacts};
use crate::smtp::body::{BodyRules, BodySummary, LineEndings};
pub use crate::smtp::command::RecipientPath;
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
    /// `Store` ended without a disk: the next hop took the message, or did not.
    HandedOver(Result<MessageId, NotTaken>),
    PatienceOver,
    /// The daemon shuts down (rule 61). May come, and come again, whenever a line is awaited.
    Draining,
    /// The session has reached `Limits::session_age` (rule 65). May come again, as Draining may.
    TooOld,
}

/// What the world should do next. Exactly one per Input.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it (flush when no complete line is waiting), then listen for the next Input.
    Say(Answer),
    /// Nothing to say: go on as before. For Draining and TooOld in the middle of a transaction, and for
    /// Secured: the client speaks next.
    Continue,
    Judge(Question),
    /// If bytes wait behind the command, close (rule 63). Else send it, do the handshake, then `Secured`.
    StartTls(Answer),
    /// Send it, and go on as `Say`: from now on the peer is the client that it spoke for.
    Introduce(Answer),
    ReadBody(ReadBody),
    /// Commit the kept body with this envelope, or hand it over; then `Stored` or `HandedOver`.
    Store(Box<OpenEnvelope>),
    /// Send it, flush, and close.
    Close(Answer),
}

/// Which octets come next and what to do with them; ends in `Input::BodyEnded`.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadBody {
    /// Send the answer, then decode up to CRLF.CRLF with a fresh `DataDecoder`.
    Data { answer: Answer, rules: BodyRules },
    /// Take exactly this many octets; no answer first.
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

/// Why a message was not handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    /// The next hop's own verdict, 4xx or 5xx.
    Refused(RemoteReply),
    /// It gave none, and nothing of the message may rest here.
    NoVerdict,
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
    /// Who may speak for other clients (XCLIENT).
    pub xclient_from: Vec<IpNet>,
    pub limits: Limits,
}
