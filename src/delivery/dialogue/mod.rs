//! Dialogue: our side of one outbound SMTP or LMTP conversation.
//!
//! Owns what is said next and what the answers come to. Does not read, write or wait: `transfer` carries
//! out each Action and feeds back the next Input. The other side's mirror image is `session`.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Parcel;
use super::verdict::{self, Blame, Breakage, Obstacle, Rcpt, Unfit, Wait};
use crate::mail::{Address, BodyType, Handed, Outcome, RemoteReply, Ret, TlsLevel};
use crate::smtp::response::{Offers, Response};
use crate::smtp::xtext;

/// A message up to this size is sent in one flight with its envelope. A larger one waits until a recipient
/// is accepted: its transfer would cost more than a round trip.
const ONE_FLIGHT_LIMIT: u64 = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Smtp,
    Lmtp,
}

/// Whether TLS is in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Plain,
    Secured,
}

/// What a message weighs on the wire, beyond its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Freight {
    pub(super) load: Load,
    /// What content declared as 8BITMIME or BINARYMIME truly is. Only asked for by `must_know_octets`.
    pub(super) octets: Octets,
}

/// How much there is to send, with everything that we put in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Whole(u64),
    /// It is still coming in: its end is not known, only what its sender declared.
    Coming {
        declared: Option<u64>,
    },
}

impl Freight {
    fn size(self) -> Option<u64> {
        match self.load {
            Load::Whole(size) => Some(size),
            Load::Coming { declared } => declared,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Octets {
    SevenBit,
    EightBit,
    /// No lines that DATA could carry. Only asked for of what was declared as BINARYMIME.
    Binary,
    NotLooked,
}

/// What the world did.
pub(super) enum Input<'a> {
    Connected,
    Answered(&'a Response),
    /// The handshake is done; or why not.
    Secured(Result<(), String>),
    Deliver(&'a Parcel<'a>, Freight),
    /// The content is out, its end included.
    ContentSent,
    Broken(Breakage),
}

/// What the world should do next. Exactly one per Input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Say this (it may be nothing), then wait for one answer.
    Say(Vec<u8>, Wait),
    /// Say this and the content, then report `ContentSent`.
    Send(Vec<u8>, Form),
    Secure,
    /// The session is up: a parcel may come.
    Ready,
    /// The transaction is over. `is_ready` tells whether another may follow.
    Finished(Vec<Outcome>),
    /// The connection ended before the content did: a fresh one may do better. These hold if not.
    Interrupted(Vec<Outcome>),
    /// Nothing was begun: the connection or the destination is of no use now.
    Unusable(RemoteReply),
    /// As `Unusable`, where plain text is allowed and may do better.
    NoHandshake(RemoteReply),
}

/// How content travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By DATA: dots doubled, and a final dot.
    Dotted,
    /// By BDAT: as it is (RFC 3030).
    Chunk,
    /// The same piece by piece, each with an answer of its own: what is binary, and still coming in.
    Chunks,
}

#[derive(Debug)]
pub(super) struct Dialogue {
    hostname: Arc<str>,
    /// The host we speak to, as outcomes name it.
    host: String,
    protocol: Protocol,
    tls: TlsLevel,
    channel: Channel,
    offers: Offers,
    state: State,
    /// The server still holds parts of a transaction: RSET goes first.
    unfinished: bool,
    /// Transactions that came to their end on this connection.
    transactions: u64,
}

#[derive(Debug)]
enum State {
    Greeting,
    Hello,
    /// After a refused EHLO (RFC 5321 §3.2).
    OldHello,
    StartTls,
    Handshake,
    Ready,
    Transaction(Transaction),
    Over,
}

#[derive(Debug)]
struct Transaction {
    /// All commands in order, and where each ends: RSET, MAIL, each RCPT, then DATA or BDAT.
    words: Vec<u8>,
    ends: Vec<usize>,
    first_command: Command,
    form: Form,
    one_flight: bool,
    said: usize,
    answered: usize,
    /// One for each recipient; absent while open.
    outcomes: Vec<Option<Outcome>>,
    accepted: usize,
    mail: MailVerdict,
    content: ContentState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum MailVerdict {
    Open,
    Accepted,
    /// The outcomes hold the rest.
    Refused,
    /// The destination is to blame; nothing of this counts.
    Unusable(RemoteReply),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContentState {
    Waiting,
    Going,
    Sent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Reset,
    Mail,
    Recipient(usize),
    /// DATA, or BDAT with the whole message.
    Body,
}

impl Dialogue {
    pub(super) fn new(
        hostname: Arc<str>,
        host: String,
        protocol: Protocol,
        tls: TlsLevel,
        channel: Channel,
    ) -> Self {
        Self {
            hostname,
            host,
            protocol,
            tls,
            channel,
            offers: Offers::default(),
            state: State::Greeting,
            unfinished: false,
            transactions: 0,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Whether a message can go while it comes in: not one whose form has to be known first.
    pub(super) fn can_stream(&self, body: BodyType) -> bool {
        match body {
            BodyType::SevenBit | BodyType::EightBitMime => !self.must_know_octets(body),
            BodyType::BinaryMime => self.takes_binary(),
        }
    }

    /// Whether a REQUIRETLS message may go this way: over TLS that proved who is there, to a server that keeps
    /// the promise. What delivers finally is no further way. RFC 8689 §4.2.1
    pub(super) fn keeps_tls_required(&self) -> bool {
        self.protocol == Protocol::Lmtp || (self.is_proven() && self.offers.require_tls)
    }

    fn is_proven(&self) -> bool {
        self.tls == TlsLevel::Verify && self.channel == Channel::Secured
    }

    /// Whether every recipient of the transaction under way was accepted.
    pub(super) fn has_accepted_all(&self) -> bool {
        matches!(&self.state, State::Transaction(open) if open.accepted == open.outcomes.len())
    }

    /// Whether somebody must look at the content before `Deliver`: what is declared as 8BITMIME may hold no
    /// octet over 127, and what is declared as BINARYMIME only lines, and then passes where neither is offered.
    pub(super) fn must_know_octets(&self, body: BodyType) -> bool {
        match body {
            BodyType::SevenBit => false,
            BodyType::EightBitMime => !self.offers.eight_bit_mime,
            BodyType::BinaryMime => !self.takes_binary(),
        }
    }

    fn takes_binary(&self) -> bool {
        self.offers.binary_mime && self.offers.chunking
    }

    pub(super) fn on(&mut self, input: Input<'_>) -> Action {
        // Taken by value: whatever goes wrong below leaves the conversation over, not half-changed.
        match (std::mem::replace(&mut self.state, State::Over), input) {
            (State::Greeting, Input::Connected) => {
                self.state = State::Greeting;
                Action::Say(Vec::new(), Wait::Greeting)
            }
            (State::Greeting, Input::Answered(answer)) if answer.code == 220 => self.greet(),
            (State::Hello, Input::Answered(answer)) if answer.class() == 2 => {
                self.offers = Offers::read(answer);
                self.settle()
            }
            (State::Hello, Input::Answered(answer)) if answer.class() == 5 && self.may_say_helo() => {
                self.state = State::OldHello;
                Action::Say(format!("HELO {}\r\n", self.hostname).into_bytes(), Wait::Hello)
            }
            (State::OldHello, Input::Answered(answer)) if answer.class() == 2 => self.settle(),
            (State::StartTls, Input::Answered(answer)) if answer.code == 220 => {
                self.state = State::Handshake;
                Action::Secure
            }
            // Refused, although offered: plain text will do where it may.
            (State::StartTls, Input::Answered(answer))
                if self.tls == TlsLevel::Opportunistic && answer.code != 421 =>
            {
                self.state = State::Ready;
                Action::Ready
            }
            // Broken by the very attempt: without it, all may go well.
            (State::StartTls, Input::Broken(cause)) if self.tls == TlsLevel::Opportunistic => {
                Action::NoHandshake(verdict::breakage(&cause, Wait::StartTls, &self.host))
            }
            (State::Handshake, Input::Secured(Ok(()))) => {
                self.channel = Channel::Secured;
                // What was learned in clear is forgotten. RFC 3207 §4.2
                self.offers = Offers::default();
                self.greet()
            }
            (State::Handshake, Input::Secured(Err(error))) => {
                let reply = verdict::obstacle(&Obstacle::HandshakeFailed(error), &self.host);
                match self.tls {
                    TlsLevel::Opportunistic => Action::NoHandshake(reply),
                    TlsLevel::Off | TlsLevel::Encrypt | TlsLevel::Verify => Action::Unusable(reply),
                }
            }
            (State::Ready, Input::Deliver(parcel, freight)) => self.begin(parcel, freight),
            (State::Transaction(transaction), Input::Answered(answer)) => self.answered(transaction, answer),
            (State::Transaction(mut transaction), Input::ContentSent) => {
                transaction.content = ContentState::Sent;
                // Of several chunks the last is said with its content.
                transaction.said = transaction.ends.len();
                let wait = transaction.wait();
                self.state = State::Transaction(transaction);
                Action::Say(Vec::new(), wait)
            }
            (State::Transaction(transaction), Input::Broken(cause)) => self.broken(transaction, &cause),
            // Everything else before a transaction ends the connection.
            (_, Input::Answered(answer)) => Action::Unusable(verdict::quote(answer, &self.host)),
            (state, Input::Broken(cause)) => {
                Action::Unusable(verdict::breakage(&cause, state.wait(), &self.host))
            }
            (state, Input::Connected | Input::Secured(_) | Input::Deliver(..) | Input::ContentSent) => {
                unreachable!("an Input that {state:?} did not ask for")
            }
        }
    }

    fn greet(&mut self) -> Action {
        self.state = State::Hello;
        let verb = match self.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        Action::Say(format!("{verb} {}\r\n", self.hostname).into_bytes(), Wait::Hello)
    }

    /// HELO knows no STARTTLS, and LMTP knows no HELO.
    fn may_say_helo(&self) -> bool {
        self.protocol == Protocol::Smtp && (self.channel == Channel::Secured || !self.tls_is_required())
    }

    fn tls_is_required(&self) -> bool {
        match self.tls {
            TlsLevel::Off | TlsLevel::Opportunistic => false,
            TlsLevel::Encrypt | TlsLevel::Verify => true,
        }
    }

    /// The greetings are exchanged: turn to TLS, or be ready, or give up.
    fn settle(&mut self) -> Action {
        let wanted = self.tls != TlsLevel::Off && self.channel == Channel::Plain;
        if wanted && self.offers.starttls {
            self.state = State::StartTls;
            return Action::Say(b"STARTTLS\r\n".to_vec(), Wait::StartTls);
        }
        if wanted && self.tls_is_required() {
            return Action::Unusable(verdict::obstacle(&Obstacle::TlsNotOffered, &self.host));
        }
        self.state = State::Ready;
        Action::Ready
    }

    fn begin(&mut self, parcel: &Parcel<'_>, freight: Freight) -> Action {
        if let Some(unfit) = self.unfit(parcel, freight) {
            self.state = State::Ready;
            let outcome = verdict::unfit(unfit, &self.host);
            return Action::Finished(vec![outcome; parcel.recipients.len()]);
        }
        let form = match freight.load {
            Load::Whole(_) if self.offers.chunking => Form::Chunk,
            Load::Coming { .. } if parcel.envelope.body == BodyType::BinaryMime => Form::Chunks,
            Load::Whole(_) | Load::Coming { .. } => Form::Dotted,
        };
        let mut transaction = Transaction {
            words: Vec::with_capacity(256),
            ends: Vec::with_capacity(parcel.recipients.len() + 3),
            first_command: if self.unfinished { Command::Reset } else { Command::Mail },
            form,
            // The first transaction on a connection goes step by step: if the server fails at once, it is
            // certain that it has not taken the message.
            one_flight: self.offers.pipelining
                && form == Form::Chunk
                && freight.size().is_some_and(|size| size <= ONE_FLIGHT_LIMIT)
                && self.transactions > 0,
            said: 0,
            answered: 0,
            outcomes: vec![None; parcel.recipients.len()],
            accepted: 0,
            mail: MailVerdict::Open,
            content: ContentState::Waiting,
        };
        self.write_commands(&mut transaction, parcel, freight);
        self.advance(transaction)
    }

    fn unfit(&self, parcel: &Parcel<'_>, freight: Freight) -> Option<Unfit> {
        let offers = &self.offers;
        if offers.size_limit.zip(freight.size()).is_some_and(|(limit, size)| size > limit) {
            return Some(Unfit::TooLarge);
        }
        if parcel.envelope.require_tls && !self.keeps_tls_required() {
            return Some(if self.is_proven() { Unfit::NeedsRequireTls } else { Unfit::NeedsProvenTls });
        }
        if needs_utf8(parcel) && !offers.smtp_utf8 {
            return Some(Unfit::NeedsUtf8);
        }
        match parcel.envelope.body {
            BodyType::SevenBit => None,
            BodyType::EightBitMime => {
                let taken = offers.eight_bit_mime || freight.octets == Octets::SevenBit;
                (!taken).then_some(Unfit::NeedsEightBit)
            }
            BodyType::BinaryMime if self.takes_binary() => None,
            // RFC 3030 §3 forbids binary content there, not what only was declared so.
            BodyType::BinaryMime => match freight.octets {
                Octets::SevenBit => None,
                Octets::EightBit => (!offers.eight_bit_mime).then_some(Unfit::NeedsEightBit),
                Octets::Binary | Octets::NotLooked => Some(Unfit::NeedsBinary),
            },
        }
    }

    fn write_commands(&self, transaction: &mut Transaction, parcel: &Parcel<'_>, freight: Freight) {
        let envelope = parcel.envelope;
        let mut words = String::with_capacity(128 + 64 * parcel.recipients.len());
        let mut ends = std::mem::take(&mut transaction.ends);
        if transaction.first_command == Command::Reset {
            words.push_str("RSET\r\n");
            ends.push(words.len());
        }
        words.push_str("MAIL FROM:<");
        if let Some(sender) = &envelope.sender {
            push_address(&mut words, sender);
        }
        words.push('>');
        if let Some(size) = freight.size().filter(|_| self.offers.size) {
            let _ = write!(words, " SIZE={size}");
        }
        match envelope.body {
            BodyType::SevenBit => {}
            BodyType::EightBitMime if self.offers.eight_bit_mime => words.push_str(" BODY=8BITMIME"),
            BodyType::EightBitMime => {}
            BodyType::BinaryMime if self.takes_binary() => words.push_str(" BODY=BINARYMIME"),
            BodyType::BinaryMime if freight.octets == Octets::EightBit => words.push_str(" BODY=8BITMIME"),
            BodyType::BinaryMime => {}
        }
        let utf8 = needs_utf8(parcel);
        if utf8 {
            words.push_str(" SMTPUTF8");
        }
        if envelope.require_tls && self.protocol == Protocol::Smtp {
            words.push_str(" REQUIRETLS");
        }
        if self.offers.dsn {
            match envelope.ret {
                Some(Ret::Full) => words.push_str(" RET=FULL"),
                Some(Ret::Headers) => words.push_str(" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = &envelope.envid {
                let _ = write!(words, " ENVID={envid}");
            }
        }
        words.push_str("\r\n");
        ends.push(words.len());
        for recipient in parcel.recipients() {
            words.push_str("RCPT TO:<");
            push_address(&mut words, &recipient.address);
            words.push('>');
            if self.offers.dsn {
                if let Some(notify) = recipient.notify {
                    let _ = write!(words, " NOTIFY={}", notify.words());
                }
                match &recipient.orcpt {
                    // RFC 6533 §3: beyond ASCII only where SMTPUTF8 is declared.
                    Some(orcpt) if !utf8 => {
                        let _ = write!(words, " ORCPT={}", xtext::ascii_orcpt(orcpt));
                    }
                    Some(orcpt) => {
                        let _ = write!(words, " ORCPT={orcpt}");
                    }
                    None => {}
                }
            }
            words.push_str("\r\n");
            ends.push(words.len());
        }
        match (transaction.form, freight.load) {
            (Form::Chunk, Load::Whole(size)) => {
                let _ = write!(words, "BDAT {size} LAST\r\n");
            }
            // Said by whoever knows how long each chunk is.
            (Form::Chunks, _) => {}
            (Form::Dotted, _) | (Form::Chunk, Load::Coming { .. }) => words.push_str("DATA\r\n"),
        }
        ends.push(words.len());
        transaction.words = words.into_bytes();
        transaction.ends = ends;
    }

    /// Says what can be said now, or waits for the next answer, or comes to the end.
    fn advance(&mut self, mut transaction: Transaction) -> Action {
        let open =
            transaction.mail != MailVerdict::Refused && !matches!(transaction.mail, MailVerdict::Unusable(_));
        if transaction.answered < transaction.said {
            let wait = transaction.wait();
            self.state = State::Transaction(transaction);
            return Action::Say(Vec::new(), wait);
        }
        // All that was said is answered, and the commands are not at their end.
        let next = transaction.command(transaction.said);
        if !open || (next == Command::Body && transaction.accepted == 0) {
            return self.finish(transaction);
        }
        if next == Command::Body && transaction.form == Form::Chunks {
            transaction.content = ContentState::Going;
            self.state = State::Transaction(transaction);
            return Action::Send(Vec::new(), Form::Chunks);
        }
        let from = transaction.said;
        transaction.said = self.last_of_flight(&transaction) + 1;
        let start = if from == 0 { 0 } else { transaction.ends[from - 1] };
        let words = transaction.words[start..transaction.ends[transaction.said - 1]].to_vec();
        let with_content = transaction.form == Form::Chunk && transaction.said == transaction.ends.len();
        if with_content {
            transaction.content = ContentState::Going;
            self.state = State::Transaction(transaction);
            return Action::Send(words, Form::Chunk);
        }
        let wait = transaction.wait();
        self.state = State::Transaction(transaction);
        Action::Say(words, wait)
    }

    /// The last command that may be said before an answer has to come.
    fn last_of_flight(&self, transaction: &Transaction) -> usize {
        let body = transaction.ends.len() - 1;
        if !self.offers.pipelining || transaction.said == body {
            return transaction.said;
        }
        match transaction.form {
            // DATA may be the last of a flight; content may not. RFC 2920 §3.1
            Form::Dotted => body,
            Form::Chunk if transaction.one_flight => body,
            Form::Chunk | Form::Chunks => body - 1,
        }
    }

    fn answered(&mut self, mut transaction: Transaction, answer: &Response) -> Action {
        if transaction.answered == transaction.ends.len() {
            return self.ended(transaction, answer);
        }
        let command = transaction.command(transaction.answered);
        match command {
            Command::Reset => {
                if answer.class() != 2 {
                    // It answers, but not what was asked: a new connection is a cleaner start.
                    return Action::Unusable(verdict::quote(answer, &self.host));
                }
                self.unfinished = false;
            }
            Command::Mail => match answer.class() {
                2 => {
                    self.unfinished = true;
                    transaction.mail = MailVerdict::Accepted;
                }
                _ if answer.code == 421 => return Action::Unusable(verdict::quote(answer, &self.host)),
                4 | 5 => match verdict::mail_refusal(answer) {
                    Blame::Message => {
                        transaction.mail = MailVerdict::Refused;
                        transaction.fill(&verdict::refusal(answer, &self.host));
                    }
                    Blame::Destination => {
                        transaction.mail = MailVerdict::Unusable(verdict::quote(answer, &self.host));
                    }
                },
                _ => return self.confused(transaction, answer),
            },
            Command::Recipient(_) if transaction.mail != MailVerdict::Accepted => {}
            Command::Recipient(index) => {
                let reply = || verdict::quote(answer, &self.host);
                match verdict::rcpt(answer) {
                    Rcpt::Accepted => transaction.accepted += 1,
                    // Until it is known whether any is accepted (rule 88).
                    Rcpt::TooMany => transaction.outcomes[index] = Some(Outcome::Postponed(reply())),
                    Rcpt::NotNow => transaction.outcomes[index] = Some(Outcome::Deferred(reply())),
                    Rcpt::Never => transaction.outcomes[index] = Some(Outcome::Failed(reply())),
                    Rcpt::Leaving => {
                        let leaving = Outcome::Deferred(reply());
                        return self.interrupted(transaction, &leaving);
                    }
                    Rcpt::Nonsense => return self.confused(transaction, answer),
                }
            }
            Command::Body if transaction.said < transaction.ends.len() => {
                return self.chunk_answered(transaction, answer);
            }
            Command::Body if transaction.form != Form::Dotted => {
                transaction.answered += 1;
                return self.ended(transaction, answer);
            }
            Command::Body => return self.data_answered(transaction, answer),
        }
        transaction.answered += 1;
        self.advance(transaction)
    }

    /// The answer to a chunk that is not the last.
    fn chunk_answered(&mut self, mut transaction: Transaction, answer: &Response) -> Action {
        match answer.class() {
            2 => {
                self.state = State::Transaction(transaction);
                Action::Send(Vec::new(), Form::Chunks)
            }
            4 | 5 if answer.code != 421 => {
                transaction.fill(&verdict::refusal(answer, &self.host));
                self.finish(transaction)
            }
            _ => self.confused(transaction, answer),
        }
    }

    /// The answer to DATA.
    fn data_answered(&mut self, mut transaction: Transaction, answer: &Response) -> Action {
        transaction.answered += 1;
        match answer.class() {
            3 if transaction.accepted > 0 => {
                transaction.content = ContentState::Going;
                self.state = State::Transaction(transaction);
                Action::Send(Vec::new(), Form::Dotted)
            }
            // Nobody is to get it, and the server listens all the same: an empty message ends that.
            3 => {
                transaction.content = ContentState::Sent;
                self.state = State::Transaction(transaction);
                Action::Say(b".\r\n".to_vec(), Wait::DataEnd)
            }
            4 | 5 if transaction.accepted == 0 => self.finish(transaction),
            _ if answer.code == 421 => {
                let leaving = Outcome::Deferred(verdict::quote(answer, &self.host));
                self.interrupted(transaction, &leaving)
            }
            4 | 5 => {
                transaction.fill(&verdict::refusal(answer, &self.host));
                self.finish(transaction)
            }
            _ => self.confused(transaction, answer),
        }
    }

    /// An answer to the end of the content.
    fn ended(&mut self, mut transaction: Transaction, answer: &Response) -> Action {
        if transaction.content == ContentState::Going && answer.class() == 2 {
            // It cannot have taken what it has not been given.
            return self.confused(transaction, answer);
        }
        let outcome = verdict::end(answer, &self.host, self.handed());
        if self.protocol == Protocol::Lmtp && answer.code != 421 && transaction.accepted > 0 {
            // One answer for each accepted recipient, in their order. RFC 2033 §4.2
            if let Some(open) = transaction.outcomes.iter_mut().find(|outcome| outcome.is_none()) {
                *open = Some(outcome);
            }
            if transaction.outcomes.iter().any(Option::is_none) {
                self.state = State::Transaction(transaction);
                return Action::Say(Vec::new(), Wait::DataEnd);
            }
        } else {
            transaction.fill(&outcome);
        }
        // After a refused chunk the server waits for RSET. RFC 3030 §4.2
        self.unfinished = transaction.form != Form::Dotted && answer.class() != 2;
        if answer.code == 421 || transaction.content == ContentState::Going {
            return self.end_connection(transaction);
        }
        self.finish(transaction)
    }

    /// Who tells the sender of this success: DSN is offered or not, and LMTP is the end of the way.
    fn handed(&self) -> Handed {
        match self.protocol {
            _ if self.offers.dsn => Handed::WithWishes,
            Protocol::Smtp => Handed::WithoutWishes,
            Protocol::Lmtp => Handed::ToMailbox,
        }
    }

    /// All outcomes are known, and the connection can go on.
    fn finish(&mut self, transaction: Transaction) -> Action {
        self.transactions += 1;
        self.state = State::Ready;
        if let MailVerdict::Unusable(reply) = transaction.mail {
            self.state = State::Over;
            return Action::Unusable(reply);
        }
        Action::Finished(transaction.outcomes())
    }

    /// All outcomes are known, and the connection cannot go on.
    fn end_connection(&mut self, transaction: Transaction) -> Action {
        match self.finish(transaction) {
            Action::Finished(outcomes) => {
                self.state = State::Over;
                Action::Finished(outcomes)
            }
            other => other,
        }
    }

    fn confused(&mut self, transaction: Transaction, answer: &Response) -> Action {
        let outcome = Outcome::Deferred(verdict::quote(answer, &self.host));
        self.interrupted(transaction, &outcome)
    }

    fn broken(&mut self, transaction: Transaction, cause: &Breakage) -> Action {
        let wait = transaction.wait();
        let outcome = verdict::broken(cause, wait, &self.host);
        let ours = matches!(cause, Breakage::Content(_) | Breakage::Unencodable);
        if ours {
            return self.close_with(transaction, &outcome);
        }
        // Silence after a whole message is no sign that it was not taken; but a connection that was closed
        // before the first word was dead before we spoke.
        let silent = transaction.answered == 0
            && (transaction.content != ContentState::Sent || *cause == Breakage::Closed);
        if silent {
            return Action::Unusable(verdict::breakage(cause, wait, &self.host));
        }
        self.interrupted(transaction, &outcome)
    }

    /// The connection is over before all answers came.
    fn interrupted(&mut self, mut transaction: Transaction, outcome: &Outcome) -> Action {
        if let MailVerdict::Unusable(reply) = transaction.mail {
            return Action::Unusable(reply);
        }
        let open = transaction.outcomes.iter().any(Option::is_none);
        if !open || transaction.content == ContentState::Sent {
            return self.close_with(transaction, outcome);
        }
        transaction.fill(outcome);
        Action::Interrupted(transaction.outcomes())
    }

    fn close_with(&mut self, mut transaction: Transaction, outcome: &Outcome) -> Action {
        transaction.fill(outcome);
        self.end_connection(transaction)
    }
}

impl State {
    fn wait(&self) -> Wait {
        match self {
            Self::Greeting => Wait::Greeting,
            Self::Hello | Self::OldHello => Wait::Hello,
            Self::StartTls | Self::Handshake => Wait::StartTls,
            Self::Ready | Self::Over => Wait::Mail,
            Self::Transaction(transaction) => transaction.wait(),
        }
    }
}

impl Transaction {
    fn command(&self, index: usize) -> Command {
        let mail = usize::from(self.first_command == Command::Reset);
        match index {
            0 if mail == 1 => Command::Reset,
            _ if index == mail => Command::Mail,
            _ if index + 1 == self.ends.len() => Command::Body,
            _ => Command::Recipient(index - mail - 1),
        }
    }

    /// What the next answer is an answer to.
    fn wait(&self) -> Wait {
        // Once the content is out, a server may well keep all its answers until it has taken it.
        if self.content == ContentState::Sent || self.answered >= self.ends.len() {
            return Wait::DataEnd;
        }
        match self.command(self.answered) {
            Command::Reset => Wait::Reset,
            Command::Mail => Wait::Mail,
            Command::Recipient(_) => Wait::Recipient,
            Command::Body => match self.form {
                Form::Dotted => Wait::DataStart,
                Form::Chunk | Form::Chunks => Wait::DataEnd,
            },
        }
    }

    /// Settles every recipient that is still open.
    fn fill(&mut self, outcome: &Outcome) {
        for open in self.outcomes.iter_mut().filter(|open| open.is_none()) {
            *open = Some(outcome.clone());
        }
    }

    fn outcomes(self) -> Vec<Outcome> {
        let nobody_accepted = self.accepted == 0;
        let settled = |outcome: Option<Outcome>| match outcome.expect("every recipient was settled") {
            // A 552 to the first of them is about no number of recipients: a full mailbox (rule 81).
            Outcome::Postponed(reply) if nobody_accepted && reply.code == 552 => Outcome::Failed(reply),
            // At once only if the next hop took others; else it would be asked for ever (rule 88).
            Outcome::Postponed(reply) if nobody_accepted => Outcome::Deferred(reply),
            other => other,
        };
        self.outcomes.into_iter().map(settled).collect()
    }
}

/// Whether this message, for these recipients, needs SMTPUTF8 (RFC 6531 §3.6).
fn needs_utf8(parcel: &Parcel<'_>) -> bool {
    parcel.envelope.smtputf8
        || parcel.envelope.sender.as_ref().is_some_and(Address::needs_utf8)
        || parcel.recipients().any(|recipient| recipient.address.needs_utf8())
}

fn push_address(words: &mut String, address: &Address) {
    words.push_str(address.local());
    words.push('@');
    words.push_str(address.domain().as_str());
}

#[cfg(test)]
mod tests;
