//! Connection: Action → effect → Input, until closed. The only place of a session that waits.
//!
//! Carries out what `session` asks for and feeds back what the world did. Body bytes never pass through
//! the session: they go from the wire through the decoder into the spool's draft.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::auth::{self, Auth, Examination, Extent, Findings, Ipv6, Rule52, Unread};
use crate::clock::Timestamp;
use crate::decision::{
    Admitted, Attributed, Attribution, Otherwise, Proof, Reason, Rules, Trail, Via, peer_edge,
};
use crate::delivery::{Opening, Taken, Verdict};
use crate::inquiry::{Asked, Circumstances, Names, Refused};
use crate::limits::{self, Addressed, Candour, Client, Due, Limit, Owner};
use crate::mail::chain::{Chain, Origin};
use crate::mail::firewall::{Screen, Trust};
use crate::mail::{
    Address, Envelope, MessageId, NextHopName, Peer, Recipient, RemoteReply, Sender, SessionId, Status,
    header,
};
use crate::net::{Wire, within};
use crate::report::notice::{self, Fate, HEADER_LIMIT_BYTES, Reporting};
use crate::report::{Event, Parting, Placed, Privacy, Relay};
use crate::session::{
    Action, Chunk, Input, NotStored, NotTaken, OpenEnvelope, Question, ReadBody, RecipientPath, Ruling,
    Session, Terms, TlsOffer, answer_for,
};
use crate::smtp::body::{BodySummary, ChunkDecoder, DataDecoder};
use crate::smtp::line::{Found, LineFault, LineFinder};
use crate::smtp::reply::{Answer, Context, Reply, Texts};
use crate::spool::{self, Draft, Pressure};
use crate::trace::Peek;

use super::handover::{Handover, Hops, Left};
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
    /// The connector by which it was found out, or the partner's of all recipients so far.
    via: Option<Via>,
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
            placed: Vec::new(),
            peek: Peek::default(),
            draft: None,
            handover: None,
            chunks: None,
            screen: None,
            examination: None,
            findings: None,
            chain: None,
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
            wire = self.secure(wire).await?;
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

    // ---- questions

    async fn judge(&mut self, question: Question) -> Ruling {
        match question {
            Question::Sender { sender, .. } => Ruling::Sender(self.judge_sender(&sender).await),
            Question::Recipient { path, region_so_far } => {
                let asked = match path {
                    RecipientPath::Address(address) => Asked::Mailbox(address),
                    RecipientPath::Postmaster => Asked::Postmaster,
                };
                Ruling::Recipient(self.judge_recipient(asked, region_so_far).await)
            }
            Question::Message { summary } => {
                self.has_8bit = summary.has_8bit;
                Ruling::Message(self.judge_message().await)
            }
        }
    }

    async fn judge_sender(&mut self, sender: &Sender) -> Result<(), Reason> {
        // A new transaction: the rules and words of now.
        self.rules = self.shared.inquiry.rules();
        self.texts = self.shared.texts.load_full();
        self.hops = Hops::None;
        self.examination = None;
        self.findings = None;
        self.placed.clear();
        self.limits = self.shared.limits.terms();
        self.dues.clear();
        let pressure = *self.shared.pressure.borrow();
        let mut trail = Trail::off();
        let within = match pressure {
            Pressure::Free => self.within_rates(),
            Pressure::Full | Pressure::Failed => Err(Reason::InsufficientResources),
        };
        // Who comes too often is told so before anything is looked up.
        if let Err(reason) = within {
            self.note_sender_refused(sender, &reason, "", Privacy::Unsure);
            return Err(reason);
        }
        let attributed = self.attribute(sender, &mut trail).await;
        match attributed {
            Ok(attributed) => {
                Attributed { attribution: self.attribution, via: self.via } = attributed;
                self.partner = None;
                if self.attribution == Attribution::Incoming {
                    self.ask_block_lists().await;
                }
                Ok(())
            }
            Err(reason) => {
                self.note_sender_refused(sender, &reason, trail.last_rule(), Privacy::Open);
                Err(reason)
            }
        }
    }

    async fn attribute(&self, sender: &Sender, trail: &mut Trail) -> Result<Attributed, Reason> {
        let (peer, door) = (self.session.peer(), self.entrance.door);
        let sender = sender.as_ref().map(Address::domain);
        if let Some(domain) = sender {
            // Whether its address may be written down here is known before anything is.
            self.shared.inquiry.learn_privacy(&self.rules, domain).await;
        }
        self.shared.inquiry.attribute(&self.rules, peer, sender, door, trail).await
    }

    /// Rule 59, which does not hold for edges of ours: their mail has entered already (section 6).
    fn within_rates(&mut self) -> Result<(), Reason> {
        let peer = self.session.peer();
        // A trusted peer may have said since for whom it speaks.
        let client = self.client.at(peer.ip, &self.limits);
        if client != self.client {
            self.listed = None;
        }
        self.client = client;
        if !client.is_spared() && peer_edge(&self.rules, peer, &mut Trail::off()).is_some() {
            self.shared.limits.forgive_connection(client, self.now());
            self.client = client.spared();
        }
        self.shared.limits.begin_message(&self.limits, self.client, self.now()).map_err(Reason::Limited)
    }

    /// Once a session. What they say is told at RCPT: mail to postmaster passes all the same (RFC 5321 §4.5.1).
    async fn ask_block_lists(&mut self) {
        let lists = &self.limits.blocklists;
        if self.listed.is_some() || lists.is_empty() || !self.client.may_be_listed() {
            return;
        }
        let peer = self.session.peer();
        // Rare, and not small: sessions at rest need no room for it.
        let findings = Box::pin(limits::look_up(lists, &self.shared.resolver, peer.ip)).await;
        for finding in &findings {
            self.shared.reporter.note(&match finding {
                limits::Finding::Listed { zone, action } => {
                    Event::BlockListed { session: self.id, peer, zone, action: action.word() }
                }
                limits::Finding::Failed { zone, why } => {
                    Event::BlocklistFailed { session: self.id, zone, why }
                }
            });
        }
        self.listed = Some(limits::verdict(&findings).and_then(|(zone, action)| match action {
            limits::Action::Reject => Some(Reason::BlockListed { zone }),
            limits::Action::Defer => Some(Reason::BlockListedForNow { zone }),
            limits::Action::Record => None,
        }));
    }

    /// Why this recipient's mail is not taken from a client on a block list.
    fn block_listed(&self, asked: &Asked) -> Option<Reason> {
        let to_postmaster = match asked {
            Asked::Mailbox(address) => address.is_postmaster(),
            Asked::Postmaster => true,
        };
        let applies = self.attribution == Attribution::Incoming && !to_postmaster;
        self.listed.as_ref().filter(|_| applies)?.clone()
    }

    /// Of a sender that nobody was asked about its domain is named.
    fn note_sender_refused(&self, sender: &Sender, reason: &Reason, rule: &'static str, privacy: Privacy) {
        self.shared.reporter.note(&Event::SenderRefused {
            session: self.id,
            peer: self.session.peer(),
            listener: &self.entrance.name,
            sender,
            privacy,
            reason,
            rule,
            reply: &self.words_for(reason),
        });
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

    async fn judge_recipient(
        &mut self,
        asked: Asked,
        region_so_far: Option<crate::mail::Region>,
    ) -> Result<Admitted, Reason> {
        let overloaded = *self.shared.draining.borrow() || *self.shared.pressure.borrow() != Pressure::Free;
        let candour = self.shared.limits.candour(&self.limits, self.client, self.now());
        let mut trail = Trail::off();
        let admitted = if overloaded {
            Err(unasked(Reason::Overloaded))
        } else if candour == Candour::NotNow {
            Err(unasked(Reason::Limited(Limit::UnknownRecipientsPerIpPerMinute)))
        } else if let Some(listed) = self.block_listed(&asked) {
            Err(unasked(listed))
        } else {
            let door = self.entrance.door;
            let sender = self.session.envelope().and_then(|open| open.sender.as_ref());
            let circumstances = Circumstances {
                attribution: &self.attribution,
                via: self.via.as_ref(),
                peer: self.session.peer(),
                sender: sender.map(Address::domain),
                door,
                region_so_far,
            };
            self.shared.inquiry.admit(&self.rules, &asked, &circumstances, &mut trail).await
        };
        let joined = admitted.and_then(|(admitted, place)| {
            let due = self.may_receive(&admitted)?;
            self.hops.join(&place.next_hop, &self.rules, &self.shared.inline)?;
            Ok((admitted, place, due))
        });
        if let Candour::After(tarpit) = candour {
            self.make_wait(tarpit).await;
        }
        match joined {
            Ok((admitted, place, due)) => {
                self.join_partner(&admitted);
                if let Some(reason) = &admitted.recorded {
                    self.note_recorded(reason);
                }
                self.begin_examination();
                self.dues.extend(Some(due).filter(Due::is_owed));
                self.shared.reporter.note(&Event::RecipientAccepted { irr: place.irr, home: place.home });
                self.placed.push(Placed {
                    address: admitted.address.clone(),
                    home: place.home,
                    ingress: admitted.ingress,
                    irr: place.irr,
                    rule: trail.last_rule(),
                });
                Ok(admitted)
            }
            Err(refused) => {
                self.note_refused(&asked, &refused.reason, refused.names, trail.last_rule());
                Err(refused.reason)
            }
        }
    }

    /// With the first recipient: what is asked of the DNS comes beside the message.
    fn begin_examination(&mut self) {
        let looks_past = self.looks_past_servers();
        let examined = self.attribution == Attribution::Incoming || looks_past;
        if self.examination.is_some() || !examined {
            return;
        }
        let peer = self.session.peer();
        let rule_52 = if peer.ip.is_ipv6() { Rule52::Applies } else { Rule52::Spared };
        let auth = self.shared.auth.load();
        // Whom it came from is told by the message itself, and then whether that one is exempt.
        let whole = (looks_past && auth.settings().enabled).then_some(Extent::Whole(rule_52));
        let Some(extent) = whole.or_else(|| auth.extent(peer.ip, rule_52)) else { return };
        let sender = self.session.envelope().and_then(|open| open.sender.clone());
        let client = auth::Client { ip: peer.ip, helo: peer.helo.clone(), sender };
        self.examination = Some(Box::new(auth.begin(client, extent)));
    }

    /// Rule 40.
    fn looks_past_servers(&self) -> bool {
        self.connector().is_some_and(|via| via.connector.skipping.is_on())
    }

    /// Whether a message by a connector that looks past servers is examined, now that its sender is known.
    fn is_examined(&self, auth: &Auth) -> bool {
        match &self.origin {
            Some(origin) => auth.settings().applies_to(origin.ip),
            None => {
                let ip = self.session.peer().ip;
                self.attribution == Attribution::Incoming && auth.settings().applies_to(ip)
            }
        }
    }

    async fn examine_origin(&mut self) {
        // Whom it came from the message itself will tell, after what is put in front of it.
        if self.chain.is_some() {
            return;
        }
        let Some(examination) = &mut self.examination else { return };
        let findings = examination.origin().await.findings();
        let (extent, authserv_id) = (examination.extent(), examination.auth().authserv_id().into());
        self.findings = Some(Box::new(Examined { findings, extent, authserv_id }));
    }

    /// The fields that we put in front of a message.
    fn head(&self, envelope: &Envelope) -> Vec<u8> {
        let mut head = self.findings.as_ref().map(|examined| examined.header()).unwrap_or_default();
        head.push_str(&header::received(&self.rules.hostname, envelope));
        head.into_bytes()
    }

    /// Rule 52, and what the author's domain asks for: said before any next hop hears the end of the message.
    async fn judge_message(&mut self) -> Result<(), Reason> {
        let Some(examination) = self.examination.take() else { return Ok(()) };
        let (extent, auth) = (examination.extent(), examination.auth().clone());
        if self.looks_past_servers() && !self.is_examined(&auth) {
            return Ok(());
        }
        // Rule 53
        let rule_52 = extent.rule_52() == Rule52::Applies && self.connector().is_none();
        let findings = Box::pin(examination.conclude()).await;
        let rejects = auth.settings().dmarc_reject;
        let reason = match (findings.rejected_by(), findings.unread) {
            (Some(domain), _) if rejects => Some(Reason::DmarcRejected(domain.clone())),
            // What hides its author is not let in for that.
            (_, Some(Unread::Header)) if rejects => Some(Reason::HeaderUnreadable),
            (_, Some(Unread::NoRoom)) if rejects => Some(Reason::Overloaded),
            _ if rule_52 && !findings.passes_spf_or_dkim() => match auth.settings().ipv6 {
                Ipv6::Enforce => Some(Reason::Ipv6Unauthenticated),
                Ipv6::Record => {
                    self.note_recorded(&Reason::Ipv6Unauthenticated);
                    None
                }
            },
            _ => None,
        };
        self.shared.reporter.note(&Event::Examined {
            session: self.id,
            id: self.message_id(),
            findings: &findings,
        });
        let authserv_id = auth.authserv_id().into();
        self.findings = Some(Box::new(Examined { findings, extent, authserv_id }));
        reason.map_or(Ok(()), Err)
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

    /// Rule 58 and the tenant's rate; known last, so that only who exists has one.
    fn may_receive(&self, admitted: &Admitted) -> Result<Due, Reason> {
        let nobody = None;
        let addressed = Addressed {
            mailbox: admitted.mailbox.as_ref().unwrap_or(&admitted.address),
            sender: self.session.envelope().map_or(&nobody, |open| &open.sender),
            tenant: admitted
                .tenant
                .as_ref()
                .map(|tenant| Owner { id: &tenant.id, messages_per_minute: tenant.messages_per_minute }),
        };
        let due = self.shared.limits.may_receive(&self.limits, self.client, addressed, self.now());
        due.map_err(Reason::Limited)
    }

    /// Holds up this one client, and not the end of the daemon.
    async fn make_wait(&self, tarpit: Duration) {
        let mut draining = self.shared.draining.clone();
        let _ = timeout(tarpit, draining.wait_for(|draining| *draining)).await;
    }

    /// A message comes by a partner's connector when all its recipients say so.
    fn join_partner(&mut self, admitted: &Admitted) {
        let is_first = self.session.envelope().is_none_or(|open| open.recipients.is_empty());
        if is_first {
            self.partner.clone_from(&admitted.via);
        } else if self.partner != admitted.via {
            self.partner = None;
        }
    }

    /// The connector that the message comes by.
    fn connector(&self) -> Option<&Via> {
        self.via.as_ref().or(self.partner.as_ref())
    }

    fn note_refused(&self, asked: &Asked, reason: &Reason, names: Names, rule: &'static str) {
        let recipient = match (asked, names) {
            (Asked::Mailbox(address), Names::Address) => address.to_string(),
            (Asked::Mailbox(address), Names::DomainOnly) => format!("@{}", address.domain()),
            (Asked::Postmaster, Names::Address | Names::DomainOnly) => "postmaster".to_owned(),
        };
        if matches!(reason, Reason::UnknownRecipient | Reason::SendingDisabled) {
            self.shared.limits.guessed_wrong(&self.limits, self.client, self.now());
        }
        let nobody = None;
        let sender = self.session.envelope().map_or(&nobody, |open| &open.sender);
        self.shared.reporter.note(&Event::RecipientRefused {
            session: self.id,
            peer: self.session.peer(),
            listener: &self.entrance.name,
            sender,
            recipient: &recipient,
            reason,
            rule,
            reply: &self.words_for(reason),
        });
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

    // ---- TLS

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
        self.secure(wire).await
    }

    async fn secure(&mut self, wire: Wire) -> Result<Wire, End> {
        let handshake = wire.accept_tls(&self.shared.tls, self.patience.handshake).await;
        let (wire, facts) = handshake.map_err(|error| End::Handshake(error.to_string()))?;
        self.shared.reporter.note(&Event::Secured { session: self.id, tls: &facts });
        let _ = self.session.on(Input::Secured(facts));
        Ok(wire)
    }

    // ---- bodies

    async fn read_body(&mut self, wire: &mut Wire, read: ReadBody) -> Result<Action, End> {
        if !matches!(read, ReadBody::Chunk { chunk: Chunk::Next { .. }, .. }) {
            self.body_until = None;
        }
        let deadline = *self.body_until.get_or_insert_with(|| Instant::now() + self.patience.body);
        if Instant::now() >= deadline {
            // RFC 5321 §4.5.3.2.5
            return Ok(self.session.on(Input::PatienceOver));
        }
        let summary = match read {
            ReadBody::Data { answer, rules } => {
                self.say(wire, &answer);
                self.flush(wire).await?;
                self.begin_body().await;
                self.read_data(wire, DataDecoder::new(rules), deadline).await?
            }
            ReadBody::Chunk { octets, chunk } => {
                if let Chunk::First { rules, .. } = chunk {
                    self.begin_body().await;
                    self.chunks = Some(ChunkDecoder::new(rules));
                }
                self.read_chunk(wire, octets, chunk, deadline).await?
            }
        };
        match summary {
            Some(summary) => Ok(self.body_ended(summary)),
            // RFC 5321 §4.5.3.2.5
            None => Ok(self.session.on(Input::PatienceOver)),
        }
    }

    fn body_ended(&mut self, summary: BodySummary) -> Action {
        let sender = self.session.envelope().map(|open| open.sender.clone());
        let action = self.session.on(Input::BodyEnded(summary));
        if let (Some(sender), Action::Say(answer)) = (sender, &action)
            && answer.reply.is_refusal()
        {
            self.note_message_refused_as(&sender, answer.reply.label(), &self.words_of(answer));
        }
        action
    }

    async fn begin_body(&mut self) {
        self.peek = self.shared.reporter.peek();
        self.begin_screen();
        let draft = self.shared.spool.draft();
        self.handover = self.begin_handover(draft.id()).await;
        self.draft = Some(draft);
        self.not_kept = None;
    }

    fn begin_screen(&mut self) {
        let firewall = self.shared.firewall.load();
        self.origin = None;
        let skipping =
            self.connector().map(|via| &via.connector.skipping).filter(|skipping| skipping.is_on());
        let (screen, chain) = match skipping {
            Some(skipping) => {
                (firewall.screen_to_record(self.trust()), Chain::behind(skipping, self.session.peer().ip))
            }
            None => (firewall.screen(self.trust()), None),
        };
        (self.screen, self.chain) = (Some(Box::new(screen)), chain.map(Box::new));
    }

    /// The chain has been seen to its end: what it told is recorded, and counts where all recipients want it.
    fn end_chain(&mut self, chain: &Chain) {
        let Some(origin) = chain.origin() else { return };
        let recipients = self.session.envelope().map_or(&[][..], |open| &open.recipients);
        let users = self.connector().map_or(&[][..], |via| &via.connector.skipping.users);
        let counts =
            users.is_empty() || recipients.iter().all(|recipient| users.contains(&recipient.address));
        let firewall = self.shared.firewall.load();
        let (names, recorded) = (firewall.origin_fields(), origin.recorded());
        let mut fields = String::new();
        if counts {
            fields.push_str(&format!("{}: {recorded}\r\n", names.original));
            self.origin = Some(Box::new(origin.clone()));
            if let Some(examination) = &mut self.examination {
                examination.ask_about(origin.ip, &origin.helo);
            }
        }
        fields.push_str(&format!("{}: {recorded}\r\n", names.skip_listed));
        if let Some(screen) = &mut self.screen {
            screen.add(&fields);
        }
        self.shared.reporter.note(&Event::OriginFound {
            session: self.id,
            peer: self.session.peer(),
            ip: origin.ip,
            helo: &origin.helo,
            counts,
        });
    }

    /// Whose word on a message's header fields counts.
    fn trust(&self) -> Trust {
        match &self.attribution {
            Attribution::PeerEdge(_) => Trust::Edge,
            Attribution::Originating { .. } if self.via.as_ref().is_some_and(speaks_for_its_tenant) => {
                Trust::Connector
            }
            Attribution::Incoming | Attribution::Originating { .. } => Trust::Outside,
        }
    }

    fn is_held(&self, envelope: &Envelope, next_hop: &NextHopName) -> bool {
        let holds = self.shared.holds.borrow();
        let recipients = (0..).take(envelope.recipients.len());
        !holds.is_empty()
            && holds
                .iter()
                .filter(|hold| hold.concerns(&next_hop.to_string()))
                .any(|hold| recipients.clone().any(|index| hold.picks(envelope, index, envelope.received_at)))
    }

    /// Offers the envelope to an inline next hop while the client begins to send.
    async fn begin_handover(&mut self, id: MessageId) -> Option<Handover> {
        self.hops.inline(&self.rules)?;
        // What leaves ahead of the message can tell only of the client.
        self.examine_origin().await;
        let (hop, otherwise) = self.hops.inline(&self.rules)?;
        let open = self.session.envelope().expect("a body belongs to an envelope").clone();
        let declared_size = open.declared_size;
        let envelope = Arc::new(self.envelope(id, open));
        // What the operator keeps back waits in the spool; what may not rest there goes on all the same.
        if otherwise == Otherwise::Spool && self.is_held(&envelope, &hop.name) {
            return None;
        }
        let head = self.head(&envelope).into();
        // A notice of success brings back the header, except where nothing of the message may rest here.
        let wanted = envelope.recipients.iter().any(Recipient::wants_success);
        let original = (wanted && otherwise == Otherwise::Spool).then(Vec::new);
        let opening = Opening { envelope: envelope.clone(), head, declared_size };
        let passage = self.shared.inline.begin(hop, opening).await;
        Some(Handover { passage, envelope, next_hop: hop.name.clone(), otherwise, bytes: 0, original })
    }

    /// `None` when the client took too long.
    async fn read_data(
        &mut self,
        wire: &mut Wire,
        mut decoder: DataDecoder,
        deadline: Instant,
    ) -> Result<Option<BodySummary>, End> {
        loop {
            while !wire.pending().is_empty() {
                let step = decoder.step(wire.pending());
                self.keep(step.content);
                let (consumed, ended) = (step.consumed, step.ended);
                wire.consume(consumed);
                if ended {
                    self.keep_rest();
                    let summary = decoder.summary();
                    self.let_go_if_faulty(&summary);
                    return Ok(Some(summary));
                }
            }
            self.let_go_if_faulty(&decoder.summary());
            self.settle_draft().await;
            if !self.more_body(wire, deadline).await? {
                return Ok(None);
            }
        }
    }

    async fn read_chunk(
        &mut self,
        wire: &mut Wire,
        octets: u64,
        chunk: Chunk,
        deadline: Instant,
    ) -> Result<Option<BodySummary>, End> {
        let last = match chunk {
            Chunk::First { last, .. } | Chunk::Next { last } => last,
            Chunk::Discard => return self.discard_chunk(wire, octets, deadline).await,
        };
        let mut decoder = self.chunks.take().expect("the session asks for a first chunk before the next");
        decoder.begin(octets);
        loop {
            // A chunk of no octets ends with a step on no input.
            let step = decoder.step(wire.pending());
            self.keep(step.content);
            let (consumed, ended) = (step.consumed, step.ended);
            wire.consume(consumed);
            if ended {
                break;
            }
            if wire.pending().is_empty() {
                self.let_go_if_faulty(&decoder.summary());
                self.settle_draft().await;
                if !self.more_body(wire, deadline).await? {
                    return Ok(None);
                }
            }
        }
        if last {
            self.keep_rest();
        }
        self.settle_draft().await;
        let summary = if last {
            decoder.finish()
        } else {
            let summary = decoder.summary();
            self.chunks = Some(decoder);
            summary
        };
        self.let_go_if_faulty(&summary);
        Ok(Some(summary))
    }

    /// The announced octets are read whatever becomes of them, or they would be taken for commands.
    async fn discard_chunk(
        &mut self,
        wire: &mut Wire,
        octets: u64,
        deadline: Instant,
    ) -> Result<Option<BodySummary>, End> {
        let mut left = octets;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(wire.pending().len());
            wire.consume(here);
            left -= here as u64;
            if left == 0 {
                return Ok(Some(BodySummary::default()));
            }
            if !self.more_body(wire, deadline).await? {
                return Ok(None);
            }
        }
    }

    fn keep(&mut self, content: &[u8]) {
        if let Some(mut chain) = self.chain.take() {
            chain.push(content);
            self.see_chain(chain);
        }
        let Self { examination, screen, draft, handover, peek, .. } = self;
        // As it came: what is taken out of it may have been signed (section 6).
        if let Some(examination) = examination {
            examination.push(content);
        }
        peek.see(content);
        match screen {
            Some(screen) => screen.push(content, |part| keep_part(draft, handover, part)),
            None => keep_part(draft, handover, content),
        }
    }

    fn see_chain(&mut self, chain: Box<Chain>) {
        if chain.is_over() {
            self.end_chain(&chain);
        } else {
            self.chain = Some(chain);
        }
    }

    /// The body is over: nothing more is held back.
    fn keep_rest(&mut self) {
        if let Some(mut chain) = self.chain.take() {
            chain.finish();
            self.see_chain(chain);
        }
        let Self { screen, draft, handover, .. } = self;
        if let Some(mut screen) = screen.take() {
            screen.finish(|part| keep_part(draft, handover, part));
        }
    }

    /// What will be refused need not be kept.
    fn let_go_if_faulty(&mut self, summary: &BodySummary) {
        if summary.fault.is_some() {
            self.draft = None;
            self.handover = None;
            self.examination = None;
        }
    }

    /// Lets the draft go to disk when it is large; a draft that cannot be kept is let go, and the client
    /// is told at the end of its data.
    async fn settle_draft(&mut self) {
        if let Some(handover) = &mut self.handover {
            handover.passage.flush().await;
        }
        // Asked once: others fill the memory too, and what was found to fit stays off the disk.
        if !self.draft.as_mut().is_some_and(Draft::overflows) {
            return;
        }
        if let Some(handover) = &self.handover {
            // What would have to go to disk is let go: where it may never rest there, always; else as long as
            // the next hop seems to take it all. If it does not, the client is told 451 and has it still.
            let let_go = match handover.otherwise {
                Otherwise::Refuse => true,
                Otherwise::Spool => handover.passage.is_promising(),
            };
            if let_go {
                self.draft = None;
            }
        }
        let Some(draft) = &mut self.draft else { return };
        let settled = draft.settle().await;
        // Whatever becomes of it: the audit says where every message was.
        self.rested = draft.is_on_disk().then(|| draft.id()).or(self.rested);
        if let Err(not_stored) = settled {
            self.draft = None;
            self.not_kept = Some(not_stored_word(&not_stored));
        }
    }

    /// Reads more of a body; `false` when the client took too long over a block or over the whole.
    async fn more_body(&self, wire: &mut Wire, deadline: Instant) -> Result<bool, End> {
        let until = deadline.min(Instant::now() + self.session.patience());
        match timeout_at(until, wire.fill()).await {
            Ok(Ok(0)) => Err(End::HungUp),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// The body is whole and wanted: the next hop has it already, or the disk gets it.
    async fn conclude(&mut self, mut open: OpenEnvelope) -> Input<'static> {
        self.chunks = None;
        let mut left = None;
        if let Some(handover) = self.handover.take() {
            // Apart, or every session at rest would keep room for it.
            match Box::pin(self.hand_over(handover, &mut open)).await {
                Ok(handed_over) => {
                    self.draft = None;
                    return Input::HandedOver(handed_over);
                }
                Err(rest) => left = Some(rest),
            }
        }
        let sender = open.sender.clone();
        let stored = self.store(open, left.as_ref()).await;
        if let Err(not_stored) = &stored {
            if let Some(left) = &left {
                self.note_taken_alone(left);
            }
            let (reason, reply) = match not_stored {
                NotStored::Full => ("insufficient-room", Reply::InsufficientRoom),
                NotStored::Failed => ("not-stored", Reply::NotStored),
            };
            self.note_message_refused_as(&sender, reason, &self.words_of(&reply.into()));
        }
        Input::Stored(stored)
    }

    /// Ends the passage. `Err` when what is left in `open` is for the spool.
    async fn hand_over(
        &mut self,
        handover: Handover,
        open: &mut OpenEnvelope,
    ) -> Result<Result<MessageId, NotTaken>, Left> {
        let Handover { passage, envelope, next_hop, otherwise, bytes, original } = handover;
        if otherwise == Otherwise::Refuse && passage.is_divided() {
            // The client will have to come again, and then nobody should get it twice.
            passage.forgo();
            let reply =
                RemoteReply::ours("", Status::new(4, 5, 3), "The next hop takes some of the recipients");
            self.note_message_refused(open, &reply);
            return Ok(Err(NotTaken::NoVerdict));
        }
        let wanted = self.draft.as_ref().filter(|_| passage.wants_copy());
        let verdict = passage.finish(wanted.and_then(Draft::copy)).await;
        let (taken, reply) = match verdict {
            Verdict::Taken(taken) => {
                self.messages += 1;
                self.note_received();
                self.note_accepted(&envelope, bytes, self.streamed());
                self.rested = None;
                self.note_delivered(&envelope, &next_hop, &taken);
                self.tell_of_success(&envelope, &taken, original).await;
                return Ok(Ok(envelope.id));
            }
            Verdict::Refused(reply) => {
                self.note_message_refused(open, &reply);
                return Ok(Err(NotTaken::Refused(reply)));
            }
            Verdict::Mixed { taken, left, reply } => {
                self.tell_of_success(&envelope, &taken, original).await;
                let mut index = 0..;
                open.recipients.retain(|_| index.next().is_some_and(|index| left.contains(&index)));
                (taken, reply)
            }
            Verdict::Silent(reply) => (Vec::new(), reply),
        };
        let left = Left { envelope, next_hop, taken, reply, bytes };
        match otherwise {
            Otherwise::Refuse => {
                self.note_taken_alone(&left);
                self.note_message_refused(open, &left.reply);
                Ok(Err(NotTaken::NoVerdict))
            }
            Otherwise::Spool => Err(left),
        }
    }

    fn streamed(&self) -> Relay {
        if self.rested.is_some() { Relay::InlineRested } else { Relay::Inline }
    }

    fn note_accepted(&self, envelope: &Envelope, bytes: u64, by: Relay) {
        self.shared.reporter.note(&Event::Accepted {
            session: self.id,
            listener: &self.entrance.name,
            placed: &self.placed,
            header: &self.peek,
            findings: self.findings.as_ref().map(|examined| &examined.findings),
            envelope,
            attribution: &self.attribution,
            bytes,
            tls: self.session.peer().tls.is_some(),
            by,
        });
    }

    /// The next hop has the message for some recipients, and our client is told that it was not taken: what
    /// did happen is recorded all the same.
    fn note_taken_alone(&self, left: &Left) {
        if left.taken.is_empty() {
            return;
        }
        let mut envelope = Envelope::clone(&left.envelope);
        let mut index = 0..;
        let taken = |index: u32| left.taken.iter().any(|(taken, ..)| *taken == index);
        envelope.recipients.retain(|_| index.next().is_some_and(taken));
        self.note_accepted(&envelope, left.bytes, self.streamed());
        self.note_delivered(&left.envelope, &left.next_hop, &left.taken);
    }

    /// Sends the notices of success that are ours to send (RFC 3461 §5.2.2 and §5.3). They are on disk before
    /// our client hears that its message has arrived.
    async fn tell_of_success(&self, envelope: &Envelope, taken: &[Taken], original: Option<Vec<u8>>) {
        let now = self.now();
        let fates: Vec<Fate<'_>> = taken
            .iter()
            .filter_map(|(index, reply, handed)| {
                Fate::of_success(&envelope.recipients[*index as usize], *handed, reply, now)
            })
            .collect();
        if fates.is_empty() {
            return;
        }
        let id = envelope.id;
        let to = match notice::addressee(envelope) {
            Ok(to) => to,
            Err(why) => return self.shared.reporter.note(&Event::NotNotified { id, why }),
        };
        let spool = &self.shared.spool;
        let reporting = Reporting { hostname: &self.rules.hostname, id: spool.mint(), now };
        let notice = notice::write(reporting, to, envelope, &fates, original.as_deref());
        let notice_id = notice.envelope.id;
        match spool.store_notice(notice).await {
            Ok(accepted) => {
                self.shared.reporter.note(&Event::Notified { id, notice: notice_id, to });
                let _ = self.shared.arrivals.send(accepted).await;
            }
            // The message is where it belongs: to refuse it now would only have it sent twice.
            Err(_) => {
                let why = "the notice could not be stored";
                self.shared.reporter.note(&Event::NotNotified { id, why });
            }
        }
    }

    fn note_delivered(&self, envelope: &Envelope, next_hop: &NextHopName, taken: &[Taken]) {
        let delay = self.now().since(envelope.received_at);
        for (index, reply, _) in taken {
            let recipient = &envelope.recipients[*index as usize].address;
            let id = envelope.id;
            self.shared.reporter.note(&Event::Delivered {
                id,
                recipient,
                next_hop,
                reply,
                attempts: 1,
                delay,
            });
        }
    }

    /// Once it has ended without becoming ours.
    fn note_rested(&mut self) {
        if let Some(id) = self.rested.take() {
            self.shared.reporter.note(&Event::Rested { id, recipients: &self.placed });
        }
    }

    fn note_message_refused(&self, open: &OpenEnvelope, reply: &RemoteReply) {
        self.note_message_refused_as(&open.sender, "next-hop", &reply.line());
    }

    /// `left`: what became of it at an inline next hop before.
    async fn store(&mut self, open: OpenEnvelope, left: Option<&Left>) -> Result<MessageId, NotStored> {
        let Some(draft) = self.draft.take() else {
            return Err(self.not_kept.take().unwrap_or(NotStored::Failed));
        };
        let bytes = draft.len();
        let envelope = self.envelope(draft.id(), open);
        let head = self.head(&envelope);
        // 250 is a promise: nothing before this line may be lost. RFC 5321 §4.2.5, rule 66
        let accepted = draft.commit(envelope, head).await.map_err(|error| not_stored_word(&error))?;
        self.messages += 1;
        self.note_received();
        self.rested = None;
        // With all its recipients, and before what became of any: so the trace and the audit read it.
        let envelope = left.map_or(&accepted.envelope, |left| &left.envelope);
        self.note_accepted(envelope, bytes, Relay::Spool);
        if let Some(Left { envelope, next_hop, taken, reply, .. }) = left {
            self.shared.reporter.note(&Event::FellBack { id: envelope.id, next_hop, reply });
            self.note_delivered(envelope, next_hop, taken);
        }
        let id = accepted.envelope.id;
        // The receiver lives as long as the daemon; at its end the spool hands the message out again.
        let _ = self.shared.arrivals.send(accepted).await;
        Ok(id)
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
            spf: self.findings.as_ref().and_then(|examined| examined.findings.spf),
            require_tls: open.require_tls,
            peer: Some(self.session.peer().clone()),
        }
    }

    /// Rule 58: only what was accepted counts.
    fn note_received(&mut self) {
        self.shared.limits.received(&self.dues, self.now());
        self.dues.clear();
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

/// Rule 42: trusted, and proven by certificate.
fn speaks_for_its_tenant(via: &Via) -> bool {
    via.connector.trusted_headers && via.proof == Proof::Certificate
}

/// Refused before anybody was asked whose recipient it is: then nobody knows whether it may be named.
fn unasked(reason: Reason) -> Refused {
    Refused { reason, names: Names::DomainOnly }
}

/// `@domain` of a command's path, as it was written; empty without one.
fn domain_named(line: &[u8]) -> String {
    let path = line.split(|b| *b == b'<').nth(1).and_then(|rest| rest.split(|b| *b == b'>').next());
    let domain = path.and_then(|path| path.rsplit(|b| *b == b'@').next().filter(|it| it.len() < path.len()));
    domain.map_or_else(String::new, |domain| format!("@{}", String::from_utf8_lossy(domain)))
}

fn keep_part(draft: &mut Option<Draft>, handover: &mut Option<Handover>, part: &[u8]) {
    if let Some(draft) = draft {
        draft.push(part);
    }
    if let Some(handover) = handover {
        handover.passage.push(part);
        handover.bytes += part.len() as u64;
        if let Some(original) = &mut handover.original {
            let room = HEADER_LIMIT_BYTES.saturating_sub(original.len()).min(part.len());
            original.extend_from_slice(&part[..room]);
        }
    }
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

/// What a message's checks came to, and who says so.
struct Examined {
    findings: Findings,
    extent: Extent,
    authserv_id: Box<str>,
}

impl Examined {
    /// Nothing for who is exempt: only rule 52 was looked at.
    fn header(&self) -> String {
        match self.extent {
            Extent::Whole(_) => self.findings.header(&self.authserv_id),
            Extent::Rule52 => String::new(),
        }
    }
}
