//! Connection: Action → effect → Input, until closed. The only place of a session that waits.
//!
//! Carries out what `session` asks for and feeds back what the world did. Body bytes never pass through
//! the session: they go from the wire through the decoder into the spool's draft.

mod body;
mod checks;
mod conclusion;
mod questions;

use checks::Examined;

use std::io;
use std::sync::Arc;

use tokio::time::{Instant, timeout, timeout_at};

use crate::auth::Examination;
use crate::clock::Timestamp;
use crate::decision::{Attribution, Reason, Rules, Via};
use crate::limits::{self, Client, Due, Limit};
use crate::mail::chain::{Chain, Origin};
use crate::mail::firewall::Screen;
use crate::mail::{Envelope, Foreword, Mailboxes, MessageId, Peer, Sender, SessionId, TlsFacts};
use crate::net::{self, Wire, within};
use crate::report::{Event, Parting, Placed};
use crate::session::{Action, Input, NotStored, OpenEnvelope, Ruling, Session, Terms, TlsOffer, answer_for};
use crate::smtp::body::ChunkDecoder;
use crate::smtp::line::{Found, LineFault, LineFinder};
use crate::smtp::reply::{Answer, Context, Texts};
use crate::spool::{self, Draft};
use crate::trace::Peek;

use super::handover::{Handover, Hops};
use super::{Entrance, Patience, Shared};

/// Why a connection ended, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("closed by us")]
    Closed,
    #[error("the client hung up")]
    HungUp,
    #[error("the client did not read our replies in time")]
    NotReading,
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    #[error("bytes were pipelined behind STARTTLS")]
    Injection,
    #[error("{0}")]
    Broken(#[from] io::Error),
}

pub(super) struct Connection {
    id: SessionId,
    session: Session,
    terms: Arc<Terms>,
    patience: Patience,
    shared: Arc<Shared>,
    entrance: Entrance,
    texts: Arc<Texts>,
    /// A transaction keeps the rules that it began with.
    rules: Arc<Rules>,
    attribution: Attribution,
    /// Nobody could say whose client this is: no recipient of this transaction is taken (rule 17).
    unattributable: bool,
    /// The connector by which it was found out,
    via: Option<Via>,
    /// and the one that mail to all recipients so far comes by: the partner's, or their own tenant's.
    partner: Option<Via>,
    client: Client,
    /// As of this transaction.
    limits: Arc<limits::Terms>,
    /// Whether the client has said anything: who did not has cost nothing.
    has_spoken: bool,
    /// What block lists say of the client, once they were asked.
    listed: Option<Option<Reason>>,
    /// Of the recipients accepted so far, for when the message is.
    dues: Vec<Due>,
    hops: Hops,
    /// Of the recipients so far, where some next hop is inline, or their connector looks at users.
    mailboxes: Mailboxes,
    /// What was decided about the recipients of this transaction, for the trace.
    placed: Vec<Placed>,
    /// Looks at the header of the message under way, for the trace.
    peek: Peek,
    draft: Option<Draft>,
    /// The message goes on while it comes in.
    handover: Option<Handover>,
    chunks: Option<ChunkDecoder>,
    /// What the message under way may not bring is taken out of it here (rule 42).
    screen: Option<Box<Screen>>,
    /// Who sent the message under way, as far as it is being found out; from the first recipient on.
    examination: Option<Box<Examination>>,
    /// What was found out about the message that is being taken.
    findings: Option<Box<Examined>>,
    /// Where its connector looks past servers of the tenant's own (rule 40), and whom it came from then.
    chain: Option<Box<Chain>>,
    /// From an edge of ours: what it says of the sender, whom it has examined.
    foreword: Option<Box<Foreword>>,
    origin: Option<Box<Origin>>,
    /// When the message under way must be whole.
    body_until: Option<Instant>,
    /// The message could not be kept in the spool while it came in.
    not_kept: Option<NotStored>,
    /// The message under way, once any of it was written to disk.
    rested: Option<MessageId>,
    started: Instant,
    messages: u32,
    /// Of the message that is being judged.
    has_8bit: bool,
    lines: LineFinder,
    /// Where an answer is put into words; kept for its room.
    words: Vec<u8>,
}

/// What the session has been told while it waits for this line.
#[derive(Default)]
struct Told {
    draining: bool,
    too_old: bool,
}

impl Connection {
    pub(super) fn new(
        id: SessionId,
        peer: Peer,
        client: Client,
        entrance: Entrance,
        shared: Arc<Shared>,
    ) -> Self {
        let conditions = entrance.conditions.load();
        let terms = conditions.terms_for(peer.ip);
        let patience = conditions.patience;
        drop(conditions);
        Self {
            id,
            session: Session::new(peer, terms.clone()),
            terms,
            patience,
            texts: shared.texts.load_full(),
            rules: shared.inquiry.rules(),
            attribution: Attribution::Incoming,
            unattributable: false,
            via: None,
            partner: None,
            client,
            limits: shared.limits.terms(),
            has_spoken: false,
            listed: None,
            dues: Vec::new(),
            entrance,
            shared,
            hops: Hops::None,
            mailboxes: Mailboxes::default(),
            placed: Vec::new(),
            peek: Peek::default(),
            draft: None,
            handover: None,
            chunks: None,
            screen: None,
            examination: None,
            findings: None,
            chain: None,
            foreword: None,
            origin: None,
            body_until: None,
            not_kept: None,
            rested: None,
            started: Instant::now(),
            messages: 0,
            has_8bit: false,
            lines: LineFinder::default(),
            words: Vec::new(),
        }
    }

    /// Serves the client until one side ends it.
    pub(super) async fn run(mut self, wire: Wire) {
        let end = match self.converse(wire).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        };
        let why = end.to_string();
        let notable = match end {
            End::Closed => false,
            // A look at the port, or a client that has said all it wanted.
            End::HungUp => self.session.envelope().is_some(),
            End::NotReading | End::Handshake(_) | End::Injection | End::Broken(_) => true,
        };
        let parting = if notable { Parting::Notable } else { Parting::Ordinary };
        if let End::Handshake(why) = &end {
            let (peer, listener) = (self.session.peer(), &*self.entrance.name);
            self.shared.reporter.note(&Event::HandshakeFailed { session: self.id, peer, listener, why });
        }
        self.note_rested();
        let lasted = self.started.elapsed();
        self.shared.reporter.note(&Event::Disconnected {
            session: self.id,
            peer: self.session.peer(),
            listener: &self.entrance.name,
            sender: self.session.envelope().map(|open| &open.sender),
            recipients: &self.placed,
            why: &why,
            messages: self.messages,
            lasted,
            parting,
        });
    }

    async fn converse(&mut self, mut wire: Wire) -> Result<(), End> {
        if self.terms.tls == TlsOffer::Implicit {
            let handshake = wire.accept_pending_tls(&self.shared.tls, self.patience.handshake).await;
            wire = self.secured(handshake)?;
            // A handshake costs more than a word.
            self.note_first_words();
        }
        let mut action = self.session.on(Input::Connected);
        loop {
            action = match action {
                Action::Say(answer) => {
                    self.say(&mut wire, &answer);
                    self.listen(&mut wire).await?
                }
                Action::Continue => self.listen(&mut wire).await?,
                Action::Judge(question) => {
                    let ruling = self.judge(question).await;
                    if let Ruling::Message(Err(reason)) = &ruling {
                        self.note_message_refused_for(reason);
                    }
                    self.session.on(Input::Judged(ruling))
                }
                Action::StartTls(answer) => {
                    wire = self.start_tls(wire, &answer).await?;
                    Action::Continue
                }
                Action::Introduce(answer) => {
                    self.meet_anew();
                    self.say(&mut wire, &answer);
                    self.listen(&mut wire).await?
                }
                Action::ReadBody(read) => self.read_body(&mut wire, read).await?,
                Action::Store(open) => {
                    let ended = Instant::now();
                    let input = self.conclude(*open).await;
                    self.shared.reporter.note(&Event::EndOfData { took: ended.elapsed() });
                    self.session.on(input)
                }
                Action::Close(answer) => {
                    self.say(&mut wire, &answer);
                    within(self.patience.reply, wire.close()).await?;
                    return Ok(());
                }
            };
        }
    }

    /// A trusted peer speaks for this client from now on: its rates are counted, not the peer's.
    fn meet_anew(&mut self) {
        let peer = self.session.peer();
        self.client = Client::new(peer.ip, &self.limits);
        self.shared.reporter.note(&Event::Introduced { session: self.id, peer });
    }

    fn say(&mut self, wire: &mut Wire, answer: &Answer) {
        if let Some(limit) = Limit::of_session(answer.reply) {
            let peer = self.session.peer();
            self.shared.reporter.note(&Event::LimitReached { session: self.id, peer, limit });
        }
        let context = Context { session: self.id, now: self.now() };
        self.words.clear();
        answer.write(&self.texts, context, &mut self.words);
        wire.put(&self.words);
    }

    async fn flush(&self, wire: &mut Wire) -> Result<(), End> {
        timeout(self.patience.reply, wire.flush()).await.map_err(|_| End::NotReading)??;
        Ok(())
    }

    /// The next line, or what happens instead of one. Replies are flushed when no complete line is waiting:
    /// one flush for a batch of pipelined commands (RFC 2920 §3.2).
    async fn listen(&mut self, wire: &mut Wire) -> Result<Action, End> {
        if !self.session.holds_body() {
            self.note_rested();
            self.draft = None;
            self.handover = None;
            self.chunks = None;
            self.screen = None;
            self.chain = None;
            self.not_kept = None;
        }
        let deadline = Instant::now() + self.session.patience();
        // An old session may finish its transaction (rule 65), but not keep one open for ever.
        if self.started.elapsed() >= self.terms.limits.session_age * 2 {
            return Ok(self.session.on(Input::PatienceOver));
        }
        let mut told = Told::default();
        loop {
            let (input, consumed) = match self.lines.find(wire.pending()) {
                Found::Line { line, consumed } => (Input::Line(line), consumed),
                Found::Refused { fault: LineFault::TooLong, consumed } => (Input::LineTooLong, consumed),
                Found::Refused { fault: LineFault::BareLineEnding, consumed } => {
                    (Input::BareLineEnding, consumed)
                }
                Found::Swallowed { consumed } => {
                    wire.consume(consumed);
                    continue;
                }
                Found::Incomplete => {
                    self.flush(wire).await?;
                    match self.wait(wire, deadline, &mut told).await? {
                        // Not now: a transaction is under way.
                        None | Some(Action::Continue) => continue,
                        Some(action) => return Ok(action),
                    }
                }
            };
            let speaks = !self.has_spoken && !is_farewell(&input);
            let line = match input {
                Input::Line(line) => Some(line),
                _ => None,
            };
            let action = self.session.on(input);
            if let (Some(line), Action::Say(answer) | Action::Close(answer)) = (line, &action)
                && answer.reply.is_refusal()
            {
                self.note_command_refused(line, answer);
            }
            wire.consume(consumed);
            if speaks {
                self.note_first_words();
            }
            return Ok(action);
        }
    }

    /// Rule 59: who connects and goes again, at once or with QUIT, only looked whether we are there.
    fn note_first_words(&mut self) {
        self.has_spoken = true;
        self.shared.limits.connected(&self.limits, self.client, self.now());
    }

    /// Waits for more bytes; for the end of patience, of the session's time, or of the daemon's.
    async fn wait(
        &mut self,
        wire: &mut Wire,
        deadline: Instant,
        told: &mut Told,
    ) -> Result<Option<Action>, End> {
        let old_at = self.started + self.terms.limits.session_age;
        if !told.draining && *self.shared.draining.borrow() {
            told.draining = true;
            return Ok(Some(self.session.on(Input::Draining)));
        }
        if !told.too_old && Instant::now() >= old_at {
            told.too_old = true;
            return Ok(Some(self.session.on(Input::TooOld)));
        }
        let overdue_at = self.started + self.terms.limits.session_age * 2;
        let deadline = deadline.min(overdue_at);
        let until = if told.too_old { deadline } else { deadline.min(old_at) };
        let mut draining = self.shared.draining.clone();
        tokio::select! {
            filled = timeout_at(until, wire.fill()) => match filled {
                Ok(Ok(0)) => Err(End::HungUp),
                Ok(Ok(_)) => Ok(None),
                Ok(Err(error)) => Err(error.into()),
                Err(_) if Instant::now() < deadline => Ok(None),
                Err(_) => Ok(Some(self.session.on(Input::PatienceOver))),
            },
            _ = draining.wait_for(|draining| *draining), if !told.draining => Ok(None),
        }
    }

    /// Our answer as the client reads it.
    fn words_for(&self, reason: &Reason) -> String {
        self.words_of(&answer_for(reason, self.session.peer()))
    }

    fn words_of(&self, answer: &Answer) -> String {
        let mut words = Vec::new();
        answer.write(&self.texts, Context { session: self.id, now: self.now() }, &mut words);
        String::from_utf8_lossy(words.trim_ascii_end()).into_owned()
    }

    /// Of the message under way.
    fn message_id(&self) -> Option<MessageId> {
        let handed_over = || self.handover.as_ref().map(|handover| handover.envelope.id);
        self.draft.as_ref().map(Draft::id).or_else(handed_over)
    }

    /// Rules 50 to 52 with `auth.ipv6 = "record"`.
    fn note_recorded(&self, reason: &Reason) {
        let peer = self.session.peer();
        self.shared.reporter.note(&Event::Recorded { session: self.id, peer, reason });
    }

    /// The connector that the message comes by.
    fn connector(&self) -> Option<&Via> {
        match self.attribution {
            // A network may be several tenants'.
            Attribution::Incoming => self.partner.as_ref().or(self.via.as_ref()),
            Attribution::Originating { .. } | Attribution::PeerEdge(_) => {
                self.via.as_ref().or(self.partner.as_ref())
            }
        }
    }

    /// The session itself said no: to a size, a count, or a syntax. Nobody was looked up for it, so that only
    /// domains are named.
    fn note_command_refused(&self, line: &[u8], answer: &Answer) {
        let verb = line.get(..4).unwrap_or_default();
        let is = |word: &[u8]| verb.eq_ignore_ascii_case(word);
        let own_name = is(b"EHLO") || is(b"HELO");
        if !(own_name || is(b"MAIL") || is(b"RCPT")) {
            return;
        }
        let named = domain_named(line);
        let sender = self.session.envelope().map(|open| &open.sender);
        self.shared.reporter.note(&Event::CommandRefused {
            session: self.id,
            peer: self.session.peer(),
            listener: &self.entrance.name,
            sender,
            recipient: if is(b"RCPT") { &named } else { "" },
            reason: answer.reply.label(),
            reply: &self.words_of(answer),
        });
    }

    /// After the end of data, by a rule.
    fn note_message_refused_for(&self, reason: &Reason) {
        if let Some(open) = self.session.envelope() {
            self.note_message_refused_as(&open.sender, reason.word(), &self.words_for(reason));
        }
    }

    fn note_message_refused_as(&self, sender: &Sender, reason: &'static str, reply: &str) {
        self.shared.reporter.note(&Event::MessageRefused {
            session: self.id,
            peer: self.session.peer(),
            listener: &self.entrance.name,
            sender,
            recipients: &self.placed,
            header: &self.peek,
            reason,
            reply,
        });
    }

    async fn start_tls(&mut self, mut wire: Wire, answer: &Answer) -> Result<Wire, End> {
        // RFC 3207 §4.2 and rule 63: what was sent before the handshake was not sent by whom it seems.
        let injected = wire.discard_pending();
        if injected > 0 {
            let (peer, listener) = (self.session.peer(), &*self.entrance.name);
            self.shared.reporter.note(&Event::InjectionDropped {
                session: self.id,
                peer,
                listener,
                bytes: injected,
            });
            return Err(End::Injection);
        }
        self.say(&mut wire, answer);
        self.flush(&mut wire).await?;
        let handshake = wire.accept_tls(&self.shared.tls, self.patience.handshake).await;
        self.secured(handshake)
    }

    fn secured(&mut self, handshake: Result<(Wire, TlsFacts), net::Error>) -> Result<Wire, End> {
        let (wire, facts) = handshake.map_err(|error| End::Handshake(error.to_string()))?;
        self.shared.reporter.note(&Event::Secured { session: self.id, tls: &facts });
        let _ = self.session.on(Input::Secured(facts));
        Ok(wire)
    }

    /// Once it has ended without becoming ours.
    fn note_rested(&mut self) {
        if let Some(id) = self.rested.take() {
            self.shared.reporter.note(&Event::Rested { id, recipients: &self.placed });
        }
    }

    fn envelope(&self, id: MessageId, open: OpenEnvelope) -> Envelope {
        Envelope {
            id,
            received_at: self.now(),
            sender: open.sender,
            recipients: open.recipients,
            body: open.body,
            // What is ASCII throughout may go where SMTPUTF8 is not offered (RFC 6531 §3.6).
            smtputf8: open.smtputf8 && self.has_8bit,
            ret: open.ret,
            envid: open.envid,
            transport: self.attribution.transport(),
            tenant: self.connector().map(|via| via.tenant.id.as_ref().into()),
            connector: self.connector().map(|via| via.connector.name.as_ref().into()),
            spf: match &self.foreword {
                Some(foreword) => foreword.spf(),
                None => self.findings.as_ref().and_then(|examined| examined.findings.spf),
            },
            require_tls: open.require_tls,
            peer: Some(self.session.peer().clone()),
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

/// `@domain` of a command's path, as it was written; empty without one.
fn domain_named(line: &[u8]) -> String {
    let path = line.split(|b| *b == b'<').nth(1).and_then(|rest| rest.split(|b| *b == b'>').next());
    let domain = path.and_then(|path| path.rsplit(|b| *b == b'@').next().filter(|it| it.len() < path.len()));
    domain.map_or_else(String::new, |domain| format!("@{}", String::from_utf8_lossy(domain)))
}

fn is_farewell(input: &Input<'_>) -> bool {
    matches!(input, Input::Line(line) if line.trim_ascii().eq_ignore_ascii_case(b"QUIT"))
}

fn not_stored_word(error: &spool::NotStored) -> NotStored {
    match error {
        spool::NotStored::Full => NotStored::Full,
        spool::NotStored::Failed | spool::NotStored::Expired => NotStored::Failed,
    }
}
