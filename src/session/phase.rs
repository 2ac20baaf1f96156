//! Phase: what may be said now; each phase owns its data.
//!
//! The conversation as one table, commands against phases. A recipient without a sender cannot be
//! written down here, and a body without a recipient cannot be read.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Action, Chunk, Input, NotStored, NotTaken, Question, ReadBody, Ruling, Terms, TlsOffer, answer_for,
};
use crate::decision::{Admitted, Reason};
use crate::mail::{Address, BodyType, Domain, Notify, Peer, Recipient, Region, Ret, Sender, TlsFacts};
use crate::smtp::body::{BodyFault, BodyRules, BodySummary, Form};
use crate::smtp::command::{Command, CommandError, MailFrom, RcptTo, RecipientPath};
use crate::smtp::extension::Extensions;
use crate::smtp::reply::{Answer, Detail, Reply};
use crate::smtp::xclient::Introduction;
use crate::smtp::xtext;

/// One inbound conversation.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    terms: Arc<Terms>,
    phase: Phase,
    faults: u32,
    /// The peer may speak for other clients, and for one after the other.
    may_introduce: bool,
    /// Why the session ends once its transaction is over: draining, or too old.
    leaving: Option<Reply>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was said yet.
    Connecting,
    /// The banner was; EHLO or HELO is due.
    Greeted,
    Ready,
    AskingSender(Box<OpenEnvelope>),
    Envelope(Box<OpenEnvelope>),
    AskingRecipient(Box<OpenEnvelope>, Box<Particulars>),
    Data(Box<OpenEnvelope>),
    /// A chunk is on its way.
    Chunk(Box<OpenEnvelope>, Place),
    /// At least one chunk was taken, and the last one not yet.
    Chunks(Box<OpenEnvelope>),
    /// A chunk was refused: the rest of its message is swallowed. RFC 3030 §2
    ChunksRefused,
    /// A chunk that belongs to nothing is on its way; then this is said, and that phase goes on.
    Swallowing(Reply, Box<Phase>),
    AskingMessage(Box<OpenEnvelope>),
    Storing,
    StartingTls,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inner { octets: u64 },
    Last,
}

/// What RCPT said of a recipient beside its address.
#[derive(Debug)]
struct Particulars {
    notify: Option<Notify>,
    orcpt: Option<String>,
}

/// A transaction under way: what `mail::Envelope` is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEnvelope {
    pub sender: Sender,
    pub recipients: Vec<Recipient>,
    pub body: BodyType,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    pub envid: Option<String>,
    /// REQUIRETLS: onward over proven TLS or not at all (RFC 8689).
    pub require_tls: bool,
    pub declared_size: Option<u64>,
    /// The ingress region of the first recipient that has one (rule 14).
    pub region: Option<Region>,
    /// How many recipients each domain has (rule 56).
    counts: Vec<(Domain, usize)>,
}

impl OpenEnvelope {
    fn new(mail: MailFrom) -> Self {
        Self {
            sender: mail.sender,
            recipients: Vec::new(),
            body: mail.body,
            smtputf8: mail.smtputf8,
            ret: mail.ret,
            envid: mail.envid,
            require_tls: mail.require_tls,
            declared_size: mail.size,
            region: None,
            counts: Vec::new(),
        }
    }

    fn has(&self, address: &Address) -> bool {
        self.recipients.iter().any(|recipient| recipient.address == *address)
    }

    fn count_of(&self, domain: &Domain) -> usize {
        self.counts.iter().find(|(name, _)| name == domain).map_or(0, |(_, count)| *count)
    }

    fn add(&mut self, admitted: Admitted, particulars: Particulars) {
        match self.counts.iter_mut().find(|(name, _)| *name == admitted.domain) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((admitted.domain, 1)),
        }
        self.region = self.region.or(admitted.ingress);
        let Particulars { notify, orcpt } = particulars;
        self.recipients.push(Recipient { address: admitted.address, orcpt, notify });
    }
}

impl Session {
    pub fn new(peer: Peer, terms: Arc<Terms>) -> Self {
        let may_introduce = terms.xclient_from.iter().any(|network| network.contains(&peer.ip));
        Self { peer, terms, phase: Phase::Connecting, faults: 0, may_introduce, leaving: None }
    }

    pub fn on(&mut self, input: Input<'_>) -> Action {
        match input {
            Input::Connected => self.connected(),
            Input::Line(line) => self.line(line),
            Input::LineTooLong => self.fault(Reply::LineTooLong),
            Input::BareLineEnding => self.fault(Reply::BareInCommand),
            Input::Secured(facts) => self.secured(facts),
            Input::Judged(ruling) => self.judged(ruling),
            Input::BodyEnded(summary) => self.body_ended(summary),
            Input::Stored(Ok(id)) => self.stored(Answer::new(Reply::Taken, Detail::Message(id))),
            Input::Stored(Err(NotStored::Full)) => self.stored(Reply::InsufficientRoom.into()),
            Input::Stored(Err(NotStored::Failed)) => self.stored(Reply::NotStored.into()),
            Input::HandedOver(Ok(id)) => self.stored(Answer::new(Reply::HandedOver, Detail::Message(id))),
            Input::HandedOver(Err(NotTaken::Refused(verdict))) => {
                let lasting = verdict.code >= 500;
                let reply = if lasting { Reply::NextHopRefuses } else { Reply::NextHopDefers };
                self.stored(Answer::new(reply, Detail::Verdict(Box::new(verdict))))
            }
            Input::HandedOver(Err(NotTaken::NoVerdict)) => self.stored(Reply::NoRoute.into()),
            Input::PatienceOver => self.close(Reply::PatienceOver),
            Input::Draining => self.leave(Reply::Draining),
            Input::TooOld => self.leave(Reply::SessionTooOld),
        }
    }

    /// How long the peer may take before `PatienceOver`.
    pub fn patience(&self) -> Duration {
        match self.phase {
            Phase::Data(_) | Phase::Chunk(..) | Phase::Swallowing(..) => self.terms.limits.body_patience,
            Phase::Connecting
            | Phase::Greeted
            | Phase::Ready
            | Phase::AskingSender(_)
            | Phase::Envelope(_)
            | Phase::AskingRecipient(..)
            | Phase::Chunks(_)
            | Phase::ChunksRefused
            | Phase::AskingMessage(_)
            | Phase::Storing
            | Phase::StartingTls
            | Phase::Closed => self.terms.limits.command_patience,
        }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The transaction under way, from MAIL on; also while its sender is still being judged.
    pub fn envelope(&self) -> Option<&OpenEnvelope> {
        match &self.phase {
            Phase::AskingSender(open)
            | Phase::Envelope(open)
            | Phase::AskingRecipient(open, _)
            | Phase::Data(open)
            | Phase::Chunk(open, _)
            | Phase::Chunks(open)
            | Phase::AskingMessage(open) => Some(open),
            Phase::Swallowing(_, back) => match &**back {
                Phase::Envelope(open) => Some(open),
                _ => None,
            },
            Phase::Connecting
            | Phase::Greeted
            | Phase::Ready
            | Phase::ChunksRefused
            | Phase::Storing
            | Phase::StartingTls
            | Phase::Closed => None,
        }
    }

    /// Whether a body received so far may still be stored. When not, the listener lets go of its draft.
    pub fn holds_body(&self) -> bool {
        matches!(
            self.phase,
            Phase::Data(_) | Phase::Chunk(..) | Phase::Chunks(_) | Phase::AskingMessage(_) | Phase::Storing
        )
    }

    fn connected(&mut self) -> Action {
        assert!(matches!(self.phase, Phase::Connecting), "a session is connected once");
        self.phase = Phase::Greeted;
        self.say(Reply::Banner)
    }

    fn secured(&mut self, facts: TlsFacts) -> Action {
        self.peer.tls = Some(facts);
        match self.phase {
            // Implicit TLS: the banner is still to come.
            Phase::Connecting => {}
            // What was said before the handshake may be someone else's words. RFC 3207 §4.2
            Phase::StartingTls => {
                self.peer.helo.clear();
                self.peer.esmtp = false;
                self.phase = Phase::Greeted;
            }
            _ => panic!("a handshake follows StartTls or precedes Connected"),
        }
        Action::Continue
    }

    fn line(&mut self, line: &[u8]) -> Action {
        let command = Command::parse(line);
        if let (Some(reply), Phase::Greeted | Phase::Ready) = (self.leaving, &self.phase)
            && command != Ok(Command::Quit)
        {
            return self.close(reply);
        }
        match command {
            Ok(command) => self.command(command),
            Err(error) => self.fault(reply_to(error)),
        }
    }

    fn command(&mut self, command: Command<'_>) -> Action {
        // Taken by value: a panic leaves the conversation closed rather than half-changed.
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        match (phase, command) {
            (_, Command::Quit) => self.close(Reply::Bye),
            (phase, Command::Noop) => self.stay(phase, Reply::Ok),
            (phase, Command::Help) => self.stay(phase, Reply::Help),
            (phase, Command::Vrfy) => self.stay(phase, Reply::CannotVerify),
            (phase, Command::Expn | Command::Auth) => self.refuse(phase, Reply::NotOffered),

            (phase, Command::Ehlo(name) | Command::Helo(name)) if self.is_own_name(name) => {
                self.refuse(phase, Reply::BadHelo)
            }
            (_, Command::Ehlo(name)) => {
                let detail = Detail::Extensions(self.peer.ip, self.extensions());
                self.greet(name, Esmtp::Yes, detail)
            }
            (_, Command::Helo(name)) => self.greet(name, Esmtp::No, Detail::Ip(self.peer.ip)),

            (phase @ Phase::Greeted, Command::Rset) => self.stay(phase, Reply::Reset),
            (_, Command::Rset) => self.stay(Phase::Ready, Reply::Reset),

            (phase, Command::StartTls) => self.start_tls(phase),
            (phase, Command::Xclient(introduction)) => self.introduce(phase, introduction),

            (phase @ Phase::Greeted, Command::Bdat { octets, .. }) => {
                self.swallow(phase, octets, Reply::HelloFirst)
            }
            (phase @ Phase::Greeted, Command::Mail(_) | Command::Rcpt(_) | Command::Data) => {
                self.refuse(phase, Reply::HelloFirst)
            }

            (phase @ Phase::Ready, Command::Mail(mail)) => self.mail(phase, mail),
            (phase @ Phase::Ready, Command::Rcpt(_) | Command::Data) => self.refuse(phase, Reply::NoSender),
            (phase @ Phase::Ready, Command::Bdat { octets, .. }) => {
                self.swallow(phase, octets, Reply::NoSender)
            }

            (phase @ Phase::Envelope(_), Command::Mail(_)) => self.refuse(phase, Reply::SenderAlready),
            (Phase::Envelope(open), Command::Rcpt(rcpt)) => self.rcpt(open, rcpt),
            (Phase::Envelope(open), Command::Data) => self.data(open),
            (Phase::Envelope(open), Command::Bdat { octets, .. }) if open.recipients.is_empty() => {
                self.swallow(Phase::Envelope(open), octets, Reply::NoRecipients)
            }
            (Phase::Envelope(open), Command::Bdat { octets, last }) => {
                let rules = self.body_rules(&open);
                self.chunk(open, octets, last, Chunk::First { last, rules })
            }

            (Phase::Chunks(open), Command::Bdat { octets, last }) => {
                self.chunk(open, octets, last, Chunk::Next { last })
            }
            (phase @ Phase::Chunks(_), Command::Mail(_) | Command::Rcpt(_) | Command::Data) => {
                self.refuse(phase, Reply::ChunksUnderWay)
            }
            // With the last chunk the refused message is over, and the next may begin.
            (Phase::ChunksRefused, Command::Bdat { octets, last: true }) => {
                self.swallow(Phase::Ready, octets, Reply::ChunkRefused)
            }
            (phase @ Phase::ChunksRefused, Command::Bdat { octets, last: false }) => {
                self.swallow(phase, octets, Reply::ChunkRefused)
            }
            (phase @ Phase::ChunksRefused, Command::Mail(_) | Command::Rcpt(_) | Command::Data) => {
                self.refuse(phase, Reply::ChunkRefused)
            }

            (
                Phase::Connecting
                | Phase::AskingSender(_)
                | Phase::AskingRecipient(..)
                | Phase::Data(_)
                | Phase::Chunk(..)
                | Phase::Swallowing(..)
                | Phase::AskingMessage(_)
                | Phase::Storing
                | Phase::StartingTls
                | Phase::Closed,
                Command::Mail(_) | Command::Rcpt(_) | Command::Data | Command::Bdat { .. },
            ) => panic!("no line is read while the session waits for something else"),
        }
    }

    /// Rule 64: who calls itself by our name is not who it says.
    fn is_own_name(&self, name: &str) -> bool {
        name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case(&self.terms.hostname)
    }

    fn greet(&mut self, name: &str, esmtp: Esmtp, detail: Detail) -> Action {
        name.clone_into(&mut self.peer.helo);
        self.peer.esmtp = esmtp == Esmtp::Yes;
        self.phase = Phase::Ready;
        Action::Say(Answer::new(Reply::Hello, detail))
    }

    fn extensions(&self) -> Extensions {
        let starttls = self.peer.tls.is_none() && self.offers_starttls();
        Extensions {
            message_size: self.terms.limits.message_size,
            starttls,
            require_tls: self.peer.tls.is_some(),
            xclient: self.may_introduce,
        }
    }

    /// The session begins anew with another client (Postfix's XCLIENT_README). What the peer proved of itself
    /// in TLS is not the client's to use.
    fn introduce(&mut self, phase: Phase, introduction: Introduction) -> Action {
        match phase {
            phase if !self.may_introduce => self.refuse(phase, Reply::NotOffered),
            Phase::Greeted | Phase::Ready => {
                let Introduction { ip, helo, esmtp } = introduction;
                self.peer.ip = ip.unwrap_or(self.peer.ip);
                self.peer.helo = helo.unwrap_or_default();
                self.peer.esmtp = esmtp.unwrap_or_default();
                if let Some(tls) = &mut self.peer.tls {
                    tls.verified_names.clear();
                }
                self.phase = Phase::Greeted;
                Action::Introduce(Reply::Banner.into())
            }
            phase => self.refuse(phase, Reply::OutOfOrder),
        }
    }

    fn offers_starttls(&self) -> bool {
        match self.terms.tls {
            TlsOffer::StartTls | TlsOffer::Required => true,
            TlsOffer::Off | TlsOffer::Implicit => false,
        }
    }

    fn start_tls(&mut self, phase: Phase) -> Action {
        match phase {
            phase if self.peer.tls.is_some() => self.refuse(phase, Reply::TlsAlready),
            phase if !self.offers_starttls() => self.refuse(phase, Reply::NotOffered),
            Phase::Ready => {
                self.phase = Phase::StartingTls;
                Action::StartTls(Reply::TlsGoAhead.into())
            }
            phase @ Phase::Greeted => self.refuse(phase, Reply::HelloFirst),
            phase => self.refuse(phase, Reply::OutOfOrder),
        }
    }

    fn mail(&mut self, phase: Phase, mail: MailFrom) -> Action {
        if self.terms.tls == TlsOffer::Required && self.peer.tls.is_none() {
            return self.refuse(phase, Reply::TlsNeeded);
        }
        if mail.has_parameters && !self.peer.esmtp {
            return self.refuse(phase, Reply::UnknownParameter);
        }
        // It is offered in TLS only. RFC 8689 §4.1
        if mail.require_tls && self.peer.tls.is_none() {
            return self.refuse(phase, Reply::UnknownParameter);
        }
        // Rule 55; the client is spared the sending (RFC 1870 §6.1). Not a fault: it asked.
        if mail.size.is_some_and(|size| size > self.terms.limits.message_size) {
            return self.stay(phase, Reply::TooLarge);
        }
        let question = Question::Sender { sender: mail.sender.clone(), declared_size: mail.size };
        self.phase = Phase::AskingSender(Box::new(OpenEnvelope::new(mail)));
        Action::Judge(question)
    }

    fn rcpt(&mut self, open: Box<OpenEnvelope>, rcpt: RcptTo) -> Action {
        if rcpt.has_parameters && !self.peer.esmtp {
            return self.refuse(Phase::Envelope(open), Reply::UnknownParameter);
        }
        if rcpt.is_international && !open.smtputf8 {
            return self.refuse(Phase::Envelope(open), Reply::Utf8NotDeclared);
        }
        if let RecipientPath::Address(address) = &rcpt.path {
            // Named twice is delivered once.
            if open.has(address) {
                return self.stay(Phase::Envelope(open), Reply::RecipientOk);
            }
            // Before any lookup: 452, so that the client sends the rest later. RFC 5321 §4.5.3.1.10, rule 56
            if open.count_of(address.domain()) >= self.terms.limits.recipients_per_domain {
                return self.stay(Phase::Envelope(open), Reply::TooManyOfDomain);
            }
        }
        if open.recipients.len() >= self.terms.limits.recipients_per_message {
            return self.stay(Phase::Envelope(open), Reply::TooManyRecipients);
        }
        // Who puts another address in its place says what it was. RFC 3461 §5.2.1
        let orcpt = match (&rcpt.path, rcpt.orcpt) {
            (RecipientPath::Postmaster, None) => {
                Some(format!("rfc822;postmaster@{}", xtext::encode(&self.terms.hostname)))
            }
            (RecipientPath::Postmaster | RecipientPath::Address(_), orcpt) => orcpt,
        };
        let question = Question::Recipient { path: rcpt.path, region_so_far: open.region };
        let particulars = Particulars { notify: rcpt.notify, orcpt };
        self.phase = Phase::AskingRecipient(open, Box::new(particulars));
        Action::Judge(question)
    }

    fn data(&mut self, open: Box<OpenEnvelope>) -> Action {
        if open.recipients.is_empty() {
            return self.refuse(Phase::Envelope(open), Reply::NoRecipients);
        }
        if open.body == BodyType::BinaryMime {
            return self.refuse(Phase::Envelope(open), Reply::BinaryNeedsChunks);
        }
        let rules = self.body_rules(&open);
        self.phase = Phase::Data(open);
        Action::ReadBody(ReadBody::Data { answer: Reply::GoAhead.into(), rules })
    }

    fn body_rules(&self, open: &OpenEnvelope) -> BodyRules {
        let form = match open.body {
            BodyType::SevenBit | BodyType::EightBitMime => Form::Lines(self.terms.line_endings),
            BodyType::BinaryMime => Form::Binary,
        };
        BodyRules { size_limit: self.terms.limits.message_size, form }
    }

    fn chunk(&mut self, open: Box<OpenEnvelope>, octets: u64, last: bool, chunk: Chunk) -> Action {
        let place = if last { Place::Last } else { Place::Inner { octets } };
        self.phase = Phase::Chunk(open, place);
        Action::ReadBody(ReadBody::Chunk { octets, chunk })
    }

    /// The octets of a refused BDAT come all the same, and must not be read as commands. RFC 3030 §2
    fn swallow(&mut self, back: Phase, octets: u64, reply: Reply) -> Action {
        self.phase = Phase::Swallowing(reply, Box::new(back));
        Action::ReadBody(ReadBody::Chunk { octets, chunk: Chunk::Discard })
    }

    fn judged(&mut self, ruling: Ruling) -> Action {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        match (phase, ruling) {
            (Phase::AskingSender(open), Ruling::Sender(Ok(()))) => {
                self.stay(Phase::Envelope(open), Reply::SenderOk)
            }
            (Phase::AskingSender(_), Ruling::Sender(Err(reason))) => self.decline(Phase::Ready, &reason),
            (Phase::AskingRecipient(open, particulars), Ruling::Recipient(ruling)) => {
                self.recipient_judged(open, *particulars, ruling)
            }
            (Phase::AskingMessage(open), Ruling::Message(Ok(()))) => {
                self.phase = Phase::Storing;
                Action::Store(open)
            }
            (Phase::AskingMessage(_), Ruling::Message(Err(reason))) => self.decline(Phase::Ready, &reason),
            (phase, ruling) => panic!("{ruling:?} answers no question of {phase:?}"),
        }
    }

    fn recipient_judged(
        &mut self,
        mut open: Box<OpenEnvelope>,
        particulars: Particulars,
        ruling: Result<Admitted, Reason>,
    ) -> Action {
        let reply = match ruling {
            Err(reason) => return self.decline(Phase::Envelope(open), &reason),
            // An alias that stands for one we have, as `<Postmaster>` may.
            Ok(admitted) if open.has(&admitted.address) => Reply::RecipientOk,
            // The domain that counts may be a parent of the one that was named.
            Ok(admitted) if open.count_of(&admitted.domain) >= self.terms.limits.recipients_per_domain => {
                Reply::TooManyOfDomain
            }
            Ok(admitted) => {
                open.add(admitted, particulars);
                Reply::RecipientOk
            }
        };
        self.stay(Phase::Envelope(open), reply)
    }

    fn body_ended(&mut self, summary: BodySummary) -> Action {
        let refusal = self.body_refusal(&summary);
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Swallowing(reply, back) => self.stay(*back, reply),
            Phase::Data(_) | Phase::Chunk(_, Place::Last) if let Some(reply) = refusal => {
                self.stay(Phase::Ready, reply)
            }
            Phase::Data(open) | Phase::Chunk(open, Place::Last) => {
                self.phase = Phase::AskingMessage(open);
                Action::Judge(Question::Message { summary })
            }
            Phase::Chunk(_, Place::Inner { .. }) if let Some(reply) = refusal => {
                self.stay(Phase::ChunksRefused, reply)
            }
            Phase::Chunk(open, Place::Inner { octets }) => {
                self.phase = Phase::Chunks(open);
                Action::Say(Answer::new(Reply::ChunkTaken, Detail::Octets(octets)))
            }
            phase => panic!("no body was asked for in {phase:?}"),
        }
    }

    fn body_refusal(&self, summary: &BodySummary) -> Option<Reply> {
        match summary.fault {
            Some(BodyFault::BareLineEnding | BodyFault::Nul) => Some(Reply::InvalidCharacters),
            Some(BodyFault::LineTooLong) => Some(Reply::BodyLineTooLong),
            Some(BodyFault::TooLarge) => Some(Reply::TooLarge),
            // Rule 57.
            None => (summary.hops > self.terms.limits.hops).then_some(Reply::TooManyHops),
        }
    }

    fn stored(&mut self, answer: Answer) -> Action {
        assert!(matches!(self.phase, Phase::Storing), "only what was to be stored is stored");
        self.phase = Phase::Ready;
        Action::Say(answer)
    }

    /// Between transactions at once; a transaction under way is finished first (rules 61 and 65, section 6).
    fn leave(&mut self, reply: Reply) -> Action {
        match self.phase {
            Phase::Connecting | Phase::Greeted | Phase::Ready => self.close(reply),
            Phase::AskingSender(_)
            | Phase::Envelope(_)
            | Phase::AskingRecipient(..)
            | Phase::Data(_)
            | Phase::Chunk(..)
            | Phase::Chunks(_)
            | Phase::ChunksRefused
            | Phase::Swallowing(..)
            | Phase::AskingMessage(_)
            | Phase::Storing
            | Phase::StartingTls
            | Phase::Closed => {
                self.leaving = Some(reply);
                Action::Continue
            }
        }
    }

    fn say(&self, reply: Reply) -> Action {
        Action::Say(reply.into())
    }

    fn stay(&mut self, phase: Phase, reply: Reply) -> Action {
        self.phase = phase;
        Action::Say(reply.into())
    }

    fn decline(&mut self, phase: Phase, reason: &Reason) -> Action {
        self.phase = phase;
        Action::Say(answer_for(reason, &self.peer))
    }

    /// A faulty command: it changes nothing, and there may not be many.
    fn refuse(&mut self, phase: Phase, reply: Reply) -> Action {
        self.phase = phase;
        self.fault(reply)
    }

    fn fault(&mut self, reply: Reply) -> Action {
        self.faults += 1;
        if self.faults > self.terms.limits.faults {
            return self.close(Reply::TooManyFaults);
        }
        self.say(reply)
    }

    fn close(&mut self, reply: Reply) -> Action {
        self.phase = Phase::Closed;
        Action::Close(reply.into())
    }
}

/// EHLO or HELO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Esmtp {
    Yes,
    No,
}

fn reply_to(error: CommandError) -> Reply {
    match error {
        CommandError::UnknownCommand => Reply::UnknownCommand,
        CommandError::BadSyntax => Reply::BadSyntax,
        CommandError::BadParameter => Reply::BadParameter,
        CommandError::RepeatedParameter => Reply::RepeatedParameter,
        CommandError::UnknownParameter => Reply::UnknownParameter,
        CommandError::BadSender => Reply::BadSender,
        CommandError::BadRecipient => Reply::BadRecipient,
        CommandError::Utf8NotDeclared => Reply::Utf8NotDeclared,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::mail::MessageId;
    use crate::session::Limits;
    use crate::smtp::body::LineEndings;

    fn session(limits: Limits) -> Session {
        let terms = Terms {
            hostname: "edge1.eur.example.net".into(),
            tls: TlsOffer::StartTls,
            line_endings: LineEndings::Refuse,
            xclient_from: Vec::new(),
            limits,
        };
        let mut session = Session::new(Peer::new(IpAddr::V4(Ipv4Addr::LOCALHOST)), Arc::new(terms));
        session.on(Input::Connected);
        session.on(Input::Line(b"EHLO client.example"));
        session
    }

    fn reply(action: Action) -> Reply {
        match action {
            Action::Say(answer) => answer.reply,
            other => panic!("{other:?} says nothing"),
        }
    }

    fn mail(session: &mut Session, line: &str) -> Reply {
        assert!(matches!(session.on(Input::Line(line.as_bytes())), Action::Judge(Question::Sender { .. })));
        reply(session.on(Input::Judged(Ruling::Sender(Ok(())))))
    }

    /// Asks for a recipient and admits it under the address and domain given.
    fn rcpt(session: &mut Session, line: &str, address: &str, ingress: &str) -> Reply {
        let address = Address::parse(address).expect("an address");
        let domain = address.domain().clone();
        match session.on(Input::Line(line.as_bytes())) {
            Action::Judge(Question::Recipient { .. }) => {
                let ingress = Region::parse(ingress);
                let admitted = Admitted {
                    address,
                    domain,
                    ingress,
                    mailbox: None,
                    tenant: None,
                    via: None,
                    recorded: None,
                };
                reply(session.on(Input::Judged(Ruling::Recipient(Ok(admitted)))))
            }
            action => reply(action),
        }
    }

    #[test]
    fn an_envelope_keeps_what_the_client_said() {
        let mut session = session(Limits::default());
        mail(&mut session, "MAIL FROM:<a@b.example> BODY=8BITMIME RET=HDRS ENVID=x SIZE=5 SMTPUTF8");
        let line = "RCPT TO:<anna@contoso.com> NOTIFY=NEVER ORCPT=rfc822;anna@contoso.com";
        rcpt(&mut session, line, "anna@contoso.com", "EUR");
        assert!(!session.holds_body());
        assert!(matches!(session.on(Input::Line(b"DATA")), Action::ReadBody(ReadBody::Data { .. })));
        assert!(session.holds_body());
        let summary = BodySummary { size: 5, ..BodySummary::default() };
        let Action::Judge(question) = session.on(Input::BodyEnded(summary)) else { panic!("not judged") };
        assert_eq!(question, Question::Message { summary });
        let Action::Store(open) = session.on(Input::Judged(Ruling::Message(Ok(())))) else {
            panic!("not stored")
        };
        assert_eq!(open.sender, Address::parse("a@b.example").ok());
        assert_eq!((open.body, open.smtputf8, open.ret), (BodyType::EightBitMime, true, Some(Ret::Headers)));
        assert_eq!((open.envid.as_deref(), open.declared_size), (Some("x"), Some(5)));
        assert_eq!(open.recipients[0].notify, Some(Notify::NEVER));
        assert_eq!(open.recipients[0].orcpt.as_deref(), Some("rfc822;anna@contoso.com"));
        assert_eq!(reply(session.on(Input::Stored(Ok(MessageId::from_raw(1))))), Reply::Taken);
        assert!(session.envelope().is_none() && !session.holds_body());
    }

    #[test]
    fn a_recipient_named_twice_is_kept_once() {
        let mut session = session(Limits::default());
        mail(&mut session, "MAIL FROM:<>");
        for (line, address) in [
            ("RCPT TO:<anna@contoso.com>", "anna@contoso.com"),
            ("RCPT TO:<\"Anna\"@CONTOSO.com>", "anna@contoso.com"),
            ("RCPT TO:<postmaster>", "anna@contoso.com"),
            ("RCPT TO:<bob@contoso.com>", "bob@contoso.com"),
        ] {
            assert_eq!(rcpt(&mut session, line, address, "EUR"), Reply::RecipientOk);
        }
        assert_eq!(session.envelope().expect("a transaction").recipients.len(), 2);
    }

    #[test]
    fn the_first_recipient_decides_the_region_so_far() {
        let mut session = session(Limits::default());
        mail(&mut session, "MAIL FROM:<>");
        let asked = |session: &mut Session| match session.on(Input::Line(b"RCPT TO:<x@y.example>")) {
            Action::Judge(Question::Recipient { region_so_far, .. }) => {
                session.on(Input::Judged(Ruling::Recipient(Err(Reason::MixedRegions))));
                region_so_far
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(&mut session), None);
        rcpt(&mut session, "RCPT TO:<a@hq.example>", "a@hq.example", "");
        assert_eq!(asked(&mut session), None, "a domain of nobody's has no region");
        rcpt(&mut session, "RCPT TO:<anna@contoso.com>", "anna@contoso.com", "EUR");
        rcpt(&mut session, "RCPT TO:<bob@contoso.example>", "bob@contoso.example", "NAM");
        assert_eq!(asked(&mut session), Region::parse("EUR"));
    }

    #[test]
    fn the_domain_that_counts_may_be_the_parent_of_the_one_named() {
        let mut session = session(Limits { recipients_per_domain: 1, ..Limits::default() });
        mail(&mut session, "MAIL FROM:<>");
        assert_eq!(
            rcpt(&mut session, "RCPT TO:<a@s.contoso.com>", "a@contoso.com", "EUR"),
            Reply::RecipientOk
        );
        assert_eq!(
            rcpt(&mut session, "RCPT TO:<b@t.contoso.com>", "b@contoso.com", "EUR"),
            Reply::TooManyOfDomain
        );
        assert_eq!(session.envelope().expect("a transaction").recipients.len(), 1);
    }

    #[test]
    fn who_was_told_to_leave_is_sent_away_once_the_transaction_is_over() {
        let mut session = session(Limits::default());
        mail(&mut session, "MAIL FROM:<>");
        assert_eq!(session.on(Input::TooOld), Action::Continue);
        session.on(Input::Line(b"RSET"));
        assert_eq!(session.on(Input::TooOld), Action::Close(Reply::SessionTooOld.into()));
    }

    #[test]
    fn a_body_has_its_own_patience() {
        let mut session = session(Limits::default());
        let limits = Limits::default();
        assert_eq!(session.patience(), limits.command_patience);
        session.on(Input::Line(b"BDAT 10 LAST"));
        assert_eq!(session.patience(), limits.body_patience);
        session.on(Input::BodyEnded(BodySummary::default()));
        assert_eq!(session.patience(), limits.command_patience);
    }

    /// Ten thousand of them wait idle.
    #[test]
    fn a_session_at_rest_is_small() {
        assert!(size_of::<Session>() <= 320, "{}", size_of::<Session>());
        assert!(size_of::<Action>() <= 128, "{}", size_of::<Action>());
    }
}
