//! Event: all that can happen to a connection, a message, a destination or the node itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Privacy;
use crate::auth::Findings;
use crate::clock::Timestamp;
use crate::decision::{Attribution, Irr, Reason};
use crate::limits::Limit;
use crate::mail::{
    Address, Envelope, MessageId, NextHopName, Peer, Region, RemoteReply, Sender, SessionId, TlsFacts,
};
use crate::spool::Pressure;
use crate::trace::Peek;

/// Whether an end of a connection is worth a line by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    Ordinary,
    Notable,
}

/// How an accepted message goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// From the spool.
    Spool,
    /// It is gone already: the next hop has it.
    Inline,
    /// The same, and a copy was on disk meanwhile.
    InlineRested,
}

impl Relay {
    pub fn word(self) -> &'static str {
        match self {
            Self::Spool => "spool",
            Self::Inline | Self::InlineRested => "inline",
        }
    }
}

/// A recipient that was admitted, and what was decided about it.
#[derive(Debug, Clone)]
pub struct Placed {
    pub address: Address,
    pub home: Option<Region>,
    pub ingress: Option<Region>,
    pub irr: Irr,
    /// The rule that decided.
    pub rule: &'static str,
}

/// Borrowed throughout: an event is noted and gone.
#[derive(Debug)]
pub enum Event<'a> {
    // The node
    Listening {
        listener: &'a str,
        address: SocketAddr,
    },
    Recovered {
        messages: usize,
        findings: usize,
    },
    Finding {
        what: &'a str,
    },
    Warning {
        what: &'a str,
    },
    /// Whether there is room for more mail, when that changes (rules 18 and 60).
    Pressure {
        state: Pressure,
        why: &'a str,
    },
    /// The directory service does not answer; what is cached counts for a while.
    DirectoryLost {
        source: &'a str,
        why: &'a str,
    },
    DirectoryBack {
        source: &'a str,
        after: Duration,
    },
    /// A start without the directory service.
    DirectoryFromSnapshot {
        age: Duration,
        domains: usize,
        users: u64,
    },
    Reloaded {
        warnings: usize,
    },
    /// One of ours is in force, and until when.
    Certificate {
        name: &'a str,
        expires: Timestamp,
    },
    ReloadRefused {
        why: &'a str,
    },
    /// How far the audit's chain has come: noted where it is out of reach of who holds the files.
    AuditHead {
        record: u64,
        hash: &'a str,
    },
    Draining {
        within: Duration,
    },
    Stopped {
        sessions_cut: u64,
    },
    // Connections
    Connected {
        session: SessionId,
        listener: &'a str,
        peer: SocketAddr,
    },
    /// Turned away before a session began (rule 59).
    TurnedAway {
        peer: SocketAddr,
        limit: Limit,
        reply: &'a str,
    },
    /// A block list has the client's address.
    BlockListed {
        session: SessionId,
        peer: &'a Peer,
        zone: &'a str,
        action: &'static str,
    },
    /// A block list did not answer: then it lists nobody.
    BlocklistFailed {
        session: SessionId,
        zone: &'a str,
        why: &'a str,
    },
    /// A limit that the session itself keeps was reached.
    LimitReached {
        session: SessionId,
        peer: &'a Peer,
        limit: Limit,
    },
    Secured {
        session: SessionId,
        tls: &'a TlsFacts,
    },
    HandshakeFailed {
        session: SessionId,
        peer: &'a Peer,
        listener: &'a str,
        why: &'a str,
    },
    /// A trusted peer speaks for this client from now on (XCLIENT).
    Introduced {
        session: SessionId,
        peer: &'a Peer,
    },
    /// Whom a message came from before it came to servers of the tenant's own (rule 40); `counts` where all
    /// recipients want that.
    OriginFound {
        session: SessionId,
        peer: &'a Peer,
        ip: IpAddr,
        helo: &'a str,
        counts: bool,
    },
    /// Bytes were pipelined behind STARTTLS (rule 63).
    InjectionDropped {
        session: SessionId,
        peer: &'a Peer,
        listener: &'a str,
        bytes: usize,
    },
    Disconnected {
        parting: Parting,
        session: SessionId,
        peer: &'a Peer,
        listener: &'a str,
        /// Of the transaction that was under way, if one was.
        sender: Option<&'a Sender>,
        recipients: &'a [Placed],
        why: &'a str,
        messages: u32,
        lasted: Duration,
    },
    // Transactions
    SenderRefused {
        session: SessionId,
        peer: &'a Peer,
        listener: &'a str,
        sender: &'a Sender,
        /// Not open where nobody was asked yet whose domain it is.
        privacy: Privacy,
        reason: &'a Reason,
        rule: &'static str,
        reply: &'a str,
    },
    /// What the checks of who sent a message came to, before it is taken or refused.
    Examined {
        session: SessionId,
        id: Option<MessageId>,
        findings: &'a Findings,
    },
    /// It would have been refused, if the rule did not only record (`auth.ipv6`).
    Recorded {
        session: SessionId,
        peer: &'a Peer,
        reason: &'a Reason,
    },
    /// `recipient` is withheld (a domain only) for a strict tenant's mail in the wrong region (spec, section 6).
    RecipientRefused {
        session: SessionId,
        peer: &'a Peer,
        listener: &'a str,
        sender: &'a Sender,
        recipient: &'a str,
        reason: &'a Reason,
        rule: &'static str,
        reply: &'a str,
    },
    RecipientAccepted {
        irr: Irr,
        home: Option<Region>,
    },
    /// The conversation itself refused a command (a size, a count, a syntax); `recipient` is a domain at most.
    CommandRefused {
        session: SessionId,
        peer: &'a Peer,
        listener: &'a str,
        sender: Option<&'a Sender>,
        recipient: &'a str,
        reason: &'static str,
        reply: &'a str,
    },
    Accepted {
        session: SessionId,
        listener: &'a str,
        /// What was decided about the recipients, in any order.
        placed: &'a [Placed],
        header: &'a Peek,
        /// Absent where nobody was examined.
        findings: Option<&'a Findings>,
        envelope: &'a Envelope,
        attribution: &'a Attribution,
        bytes: u64,
        tls: bool,
        by: Relay,
    },
    /// A message's data has ended, and its answer is known: how long that took.
    EndOfData {
        took: Duration,
    },
    /// An inline next hop gave no verdict, or not one for all: the rest went to the spool.
    FellBack {
        id: MessageId,
        next_hop: &'a NextHopName,
        reply: &'a RemoteReply,
    },
    MessageRefused {
        session: SessionId,
        peer: &'a Peer,
        listener: &'a str,
        sender: &'a Sender,
        recipients: &'a [Placed],
        header: &'a Peek,
        /// The word for it, where it is ours.
        reason: &'static str,
        reply: &'a str,
    },
    /// What came in was on disk in part or whole, and did not become ours.
    Rested {
        id: MessageId,
        recipients: &'a [Placed],
    },
    // The queue
    Delivered {
        id: MessageId,
        recipient: &'a Address,
        next_hop: &'a NextHopName,
        reply: &'a RemoteReply,
        attempts: u32,
        delay: Duration,
    },
    Deferred {
        id: MessageId,
        recipient: &'a Address,
        next_hop: &'a NextHopName,
        reply: &'a RemoteReply,
        attempts: u32,
        next_attempt: Timestamp,
    },
    Failed {
        id: MessageId,
        recipient: &'a Address,
        next_hop: &'a NextHopName,
        reply: &'a RemoteReply,
        attempts: u32,
    },
    Expired {
        id: MessageId,
        recipient: &'a Address,
        next_hop: &'a NextHopName,
        reply: &'a RemoteReply,
        attempts: u32,
    },
    /// The way on was decided again and is another one (rule 89).
    Rerouted {
        id: MessageId,
        recipient: &'a Address,
        from: &'a NextHopName,
        to: &'a NextHopName,
    },
    DestinationDown {
        next_hop: &'a NextHopName,
        reply: &'a RemoteReply,
        next_probe: Timestamp,
        waiting: usize,
    },
    DestinationUp {
        next_hop: &'a NextHopName,
        waiting: usize,
    },
    /// A domain was told how TLS goes with it (RFC 8460).
    TlsReported {
        domain: &'a str,
        to: &'a str,
    },
    Notified {
        id: MessageId,
        notice: MessageId,
        to: &'a Address,
    },
    /// No notice is owed: the null sender, or one that wants none (rule 85).
    NotNotified {
        id: MessageId,
        why: &'a str,
    },
    Quarantined {
        id: MessageId,
        why: &'a str,
    },
    /// The operator changed something in the queue.
    Ordered {
        by: &'a str,
        verb: &'a str,
        filter: &'a str,
        messages: usize,
        recipients: usize,
    },
    Removed {
        id: MessageId,
        recipient: &'a Address,
        by: &'a str,
    },
    /// By the operator: it is not tried until it is released.
    Held {
        id: MessageId,
        recipient: &'a Address,
    },
    Released {
        id: MessageId,
        recipient: &'a Address,
    },
}
