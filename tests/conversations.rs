//! The conversations of `tests/smtp/`, against the session alone, with a judge that knows a small directory.

mod script;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall::clock::Timestamp;
use landfall::decision::{Admitted, Reason};
use landfall::mail::{Address, Domain, MessageId, Peer, Region, SessionId, TlsFacts};
use landfall::session::{
    Action, Chunk, Input, Limits, NotStored, Question, ReadBody, RecipientPath, Ruling, Session, Terms,
    TlsOffer,
};
use landfall::smtp::body::{BodySummary, ChunkDecoder, DataDecoder, LineEndings, Step};
use landfall::smtp::line::{Found, LineFault, LineFinder};
use landfall::smtp::reply::{Answer, Context, Texts, Wording};
use script::Act;

const HOSTNAME: &str = "edge1.eur.example.net";

/// What stands between the bytes and the session: the listener, but for everything that waits.
struct Connection {
    session: Session,
    texts: Texts,
    finder: LineFinder,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    reading: Reading,
    /// Kept between the chunks of one message.
    chunks: Option<(ChunkDecoder, Vec<u8>)>,
    kept: Vec<u8>,
    rulings: VecDeque<Reason>,
    not_stored: Option<NotStored>,
    stored: Vec<Vec<u8>>,
    closed: bool,
}

enum Reading {
    Lines,
    Data(DataDecoder),
    Chunk { last: bool },
    Discard { left: u64 },
    Handshake,
}

impl Connection {
    fn new(terms: Terms) -> Self {
        let session = Session::new(Peer::new(IpAddr::V4(Ipv4Addr::LOCALHOST)), Arc::new(terms));
        Self {
            session,
            texts: Texts::new(&Wording::new(HOSTNAME)).expect("the default wording is sound"),
            finder: LineFinder::default(),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            reading: Reading::Lines,
            chunks: None,
            kept: Vec::new(),
            rulings: VecDeque::new(),
            not_stored: None,
            stored: Vec::new(),
            closed: false,
        }
    }

    fn say(&mut self, answer: &Answer) {
        let context = Context { session: SessionId(7), now: Timestamp::from_millis(0) };
        answer.write(&self.texts, context, &mut self.outgoing);
    }

    fn event(&mut self, input: Input<'_>) {
        let action = self.session.on(input);
        self.carry_out(action);
    }

    fn carry_out(&mut self, mut action: Action) {
        loop {
            action = match action {
                Action::Say(answer) | Action::Introduce(answer) => return self.say(&answer),
                Action::Continue => return,
                Action::Judge(question) => {
                    let ruling = self.judge(question);
                    self.session.on(Input::Judged(ruling))
                }
                Action::StartTls(answer) => {
                    self.say(&answer);
                    self.reading = Reading::Handshake;
                    return;
                }
                Action::ReadBody(ReadBody::Data { answer, rules }) => {
                    self.say(&answer);
                    self.kept.clear();
                    self.reading = Reading::Data(DataDecoder::new(rules));
                    return;
                }
                Action::ReadBody(ReadBody::Chunk { octets, chunk }) => {
                    self.reading = match chunk {
                        Chunk::Discard => Reading::Discard { left: octets },
                        Chunk::First { last, rules } => {
                            let mut decoder = ChunkDecoder::new(rules);
                            decoder.begin(octets);
                            self.chunks = Some((decoder, Vec::new()));
                            Reading::Chunk { last }
                        }
                        Chunk::Next { last } => {
                            let (decoder, _) = self.chunks.as_mut().expect("a first chunk came before");
                            decoder.begin(octets);
                            Reading::Chunk { last }
                        }
                    };
                    return;
                }
                Action::Store(envelope) => {
                    assert!(!envelope.recipients.is_empty());
                    let stored = match self.not_stored.take() {
                        Some(why) => Err(why),
                        None => {
                            self.stored.push(std::mem::take(&mut self.kept));
                            Ok(MessageId::from_raw(self.stored.len() as u64))
                        }
                    };
                    self.session.on(Input::Stored(stored))
                }
                Action::Close(answer) => {
                    self.say(&answer);
                    self.closed = true;
                    return;
                }
            };
        }
    }

    /// Contoso enters here and knows Anna; Fabrikam enters elsewhere; nobody else is hosted.
    fn judge(&mut self, question: Question) -> Ruling {
        let scripted = self.rulings.pop_front();
        match question {
            Question::Sender { .. } => Ruling::Sender(scripted.map_or(Ok(()), Err)),
            Question::Message { .. } => Ruling::Message(scripted.map_or(Ok(()), Err)),
            Question::Recipient { path, .. } => Ruling::Recipient(match scripted {
                Some(reason) => Err(reason),
                None => admit(path),
            }),
        }
    }

    fn receive(&mut self, octets: &[u8]) {
        self.incoming.extend_from_slice(octets);
        while !self.closed && self.read_once() {}
    }

    /// Whether anything happened.
    fn read_once(&mut self) -> bool {
        let incoming = std::mem::take(&mut self.incoming);
        // A step may give content without consuming anything.
        let mut yielded = false;
        let (consumed, input) = match &mut self.reading {
            Reading::Handshake => (0, None),
            Reading::Lines => match self.finder.find(&incoming) {
                Found::Incomplete => (0, None),
                Found::Swallowed { consumed } => (consumed, None),
                Found::Line { line, consumed } => (consumed, Some(Input::Line(line))),
                Found::Refused { fault: LineFault::TooLong, consumed } => {
                    (consumed, Some(Input::LineTooLong))
                }
                Found::Refused { fault: LineFault::BareLineEnding, consumed } => {
                    (consumed, Some(Input::BareLineEnding))
                }
            },
            Reading::Data(decoder) => {
                let Step { content, consumed, ended } = decoder.step(&incoming);
                self.kept.extend_from_slice(content);
                yielded = !content.is_empty();
                (consumed, ended.then(|| Input::BodyEnded(decoder.summary())))
            }
            Reading::Chunk { last } => {
                let (decoder, kept) = self.chunks.as_mut().expect("chunks are under way");
                let Step { content, consumed, ended } = decoder.step(&incoming);
                kept.extend_from_slice(content);
                yielded = !content.is_empty();
                let so_far = decoder.summary();
                let summary = match (ended, *last) {
                    (false, _) => None,
                    (true, false) => Some(so_far),
                    (true, true) => {
                        let (decoder, kept) = self.chunks.take().expect("chunks are under way");
                        self.kept = kept;
                        Some(decoder.finish())
                    }
                };
                (consumed, summary.map(Input::BodyEnded))
            }
            Reading::Discard { left } => {
                let taken = incoming.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                (taken, (*left == 0).then(|| Input::BodyEnded(BodySummary::default())))
            }
        };
        let happened = consumed > 0 || yielded || input.is_some();
        if let Some(input) = input {
            if !matches!(self.reading, Reading::Lines) {
                self.reading = Reading::Lines;
            }
            let action = self.session.on(input);
            self.carry_out(action);
            if !self.session.holds_body() {
                self.chunks = None;
            }
        }
        self.incoming = incoming[consumed..].to_vec();
        happened
    }
}

fn admit(path: RecipientPath) -> Result<Admitted, Reason> {
    let postmaster = |domain: &str| {
        Address::parse(&format!("postmaster@{domain}")).expect("a postmaster address is an address")
    };
    let address = match path {
        RecipientPath::Postmaster => postmaster("contoso.com"),
        RecipientPath::Address(address) => address,
    };
    match address.domain().as_str() {
        "contoso.com" if address.local_key() == "anna" || address.is_postmaster() => Ok(Admitted {
            domain: Domain::parse("contoso.com").expect("a domain"),
            ingress: Region::parse("EUR"),
            via: None,
            address,
            mailbox: None,
            tenant: None,
            recorded: None,
        }),
        "contoso.com" => Err(Reason::UnknownRecipient),
        "fabrikam.com" => Err(Reason::WrongRegion),
        _ => Err(Reason::RelayDenied),
    }
}

fn reason(name: &str) -> Reason {
    match name {
        "relay-denied" => Reason::RelayDenied,
        "unknown-recipient" => Reason::UnknownRecipient,
        "sending-disabled" => Reason::SendingDisabled,
        "wrong-region" => Reason::WrongRegion,
        "mixed-regions" => Reason::MixedRegions,
        "no-subscription" => Reason::NoSubscription,
        "domain-lookup-failed" => Reason::DomainLookupFailed,
        "recipient-lookup-failed" => Reason::RecipientLookupFailed,
        "overloaded" => Reason::Overloaded,
        "no-route" => Reason::NoRoute,
        "insufficient-resources" => Reason::InsufficientResources,
        other => panic!("no reason is called {other}"),
    }
}

fn terms(steps: &[script::Step]) -> Terms {
    let mut terms = Terms {
        hostname: HOSTNAME.into(),
        tls: TlsOffer::StartTls,
        line_endings: LineEndings::Refuse,
        xclient_from: Vec::new(),
        limits: Limits::default(),
    };
    for step in steps {
        let Act::Term(term) = &step.act else { continue };
        let (name, value) = term.split_once('=').expect("a term is name=value");
        match (name, value) {
            ("tls", "off") => terms.tls = TlsOffer::Off,
            ("tls", "required") => terms.tls = TlsOffer::Required,
            ("tls", "implicit") => terms.tls = TlsOffer::Implicit,
            ("line-endings", "normalize") => terms.line_endings = LineEndings::Normalize,
            ("message-size", octets) => terms.limits.message_size = octets.parse().expect("a number"),
            ("recipients", count) => terms.limits.recipients_per_message = count.parse().expect("a number"),
            ("domain-recipients", count) => {
                terms.limits.recipients_per_domain = count.parse().expect("a number");
            }
            ("hops", count) => terms.limits.hops = count.parse().expect("a number"),
            ("faults", count) => terms.limits.faults = count.parse().expect("a number"),
            _ => panic!("no term is called {term}"),
        }
    }
    terms
}

fn tls() -> TlsFacts {
    TlsFacts { version: "TLSv1.3".to_owned(), ..TlsFacts::default() }
}

fn run(path: &Path) {
    let text = std::fs::read_to_string(path).expect("a conversation can be read");
    let steps = script::parse(&text);
    let terms = terms(&steps);
    let implicit = terms.tls == TlsOffer::Implicit;
    let mut connection = Connection::new(terms);
    if implicit {
        connection.event(Input::Secured(tls()));
    }
    connection.event(Input::Connected);
    let mut waiting = Vec::new();
    for step in &steps {
        let place = format!("{}:{}", path.display(), step.number);
        if !matches!(step.act, Act::Client(_)) {
            connection.receive(&std::mem::take(&mut waiting));
        }
        match &step.act {
            Act::Client(octets) => waiting.extend_from_slice(octets),
            Act::Server(pattern) => {
                let end = connection.outgoing.windows(2).position(|pair| pair == b"\r\n");
                let end = end.unwrap_or_else(|| panic!("{place}: nothing was said"));
                let line: Vec<u8> = connection.outgoing.drain(..end + 2).collect();
                let line = std::str::from_utf8(&line[..end]).expect("replies are ASCII");
                assert!(script::matches(pattern, line), "{place}: '{line}' was said, not '{pattern}'");
            }
            Act::ServerCloses => assert!(connection.closed, "{place}: the connection stays open"),
            Act::Judge(name) => connection.rulings.push_back(reason(name)),
            Act::NotStored(why) => {
                connection.not_stored = Some(match why.as_str() {
                    "full" => NotStored::Full,
                    "failed" => NotStored::Failed,
                    other => panic!("{place}: {other}"),
                });
            }
            Act::Event(event) => match event.as_str() {
                "draining" => connection.event(Input::Draining),
                "too-old" => connection.event(Input::TooOld),
                "patience-over" => connection.event(Input::PatienceOver),
                "secured" => {
                    assert!(
                        matches!(connection.reading, Reading::Handshake),
                        "{place}: nobody asked for TLS"
                    );
                    connection.reading = Reading::Lines;
                    connection.event(Input::Secured(tls()));
                }
                stored if let Some(expected) = stored.strip_prefix("stored ") => {
                    let body = connection.stored.last().map(|body| body.escape_ascii().to_string());
                    assert_eq!(body.as_deref(), Some(expected), "{place}");
                }
                other => panic!("{place}: nothing is called {other}"),
            },
            Act::Term(_) => {}
        }
    }
    connection.receive(&waiting);
    let rest = connection.outgoing.escape_ascii().to_string();
    assert_eq!(rest, "", "{}: said at the end", path.display());
}

fn conversations(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smtp").join(folder);
    let entries = std::fs::read_dir(root).expect("the folder of conversations");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

/// All of them, so that one failure does not hide the next.
fn run_all(folder: &str) {
    let files = conversations(folder);
    assert!(!files.is_empty());
    let failed: Vec<_> =
        files.iter().filter(|file| std::panic::catch_unwind(|| run(file)).is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), files.len());
}

#[test]
fn conversations_end_as_written() {
    run_all("");
}

#[test]
fn judged_conversations_end_as_written() {
    run_all("judged");
}

/// The same answers however the client's octets are cut: one at a time must say what all at once says.
#[test]
fn answers_do_not_depend_on_how_octets_arrive() {
    for file in conversations("") {
        let text = std::fs::read_to_string(&file).expect("a conversation can be read");
        let steps = script::parse(&text);
        let octets: Vec<u8> = steps
            .iter()
            .filter_map(|step| match &step.act {
                Act::Client(octets) => Some(octets.as_slice()),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        let said = |pieces: usize| {
            let mut connection = Connection::new(terms(&steps));
            connection.event(Input::Connected);
            for piece in octets.chunks(pieces.max(1)) {
                connection.receive(piece);
            }
            (connection.outgoing, connection.stored)
        };
        let whole = said(octets.len());
        for pieces in [1, 2, 3, 7, 64] {
            assert!(said(pieces) == whole, "{} in pieces of {pieces}", file.display());
        }
    }
}

/// Whatever a client says and in whatever order, nothing panics and every line said is a reply.
#[test]
fn no_order_of_commands_breaks_the_session() {
    let lines: &[&[u8]] = &[
        b"EHLO client.example\r\n",
        b"HELO client.example\r\n",
        b"MAIL FROM:<a@b.example>\r\n",
        b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n",
        b"MAIL FROM:<> SIZE=999999999999\r\n",
        b"RCPT TO:<anna@contoso.com>\r\n",
        b"RCPT TO:<anna@contoso.com>\r\n",
        b"RCPT TO:<postmaster>\r\n",
        b"RCPT TO:<x@fabrikam.com>\r\n",
        b"DATA\r\n",
        b"body\r\n.\r\n",
        b"\r\n.\r\n",
        b"\n.\r\n",
        b"BDAT 4\r\na\r\nb",
        b"BDAT 2 LAST\r\n\r\n",
        b"BDAT 3\r\na\0\r",
        b"BDAT 0 LAST\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"VRFY x\r\n",
        b"HELP\r\n",
        b"NOOP\nRSET\r\n",
    ];
    let mut chance = landfall::chance::Chance::from_seed(20_261_121);
    let mut taken = 0;
    for _ in 0..3_000 {
        let terms = Terms { limits: Limits { faults: 1_000, ..Limits::default() }, ..terms(&[]) };
        let mut connection = Connection::new(terms);
        connection.event(Input::Connected);
        connection.receive(lines[0]);
        for _ in 0..60 {
            let line = lines[usize::try_from(chance.below(lines.len() as u64)).expect("small")];
            connection.receive(line);
            if chance.below(200) == 0 && matches!(connection.reading, Reading::Lines) {
                connection.event(Input::Draining);
            }
        }
        taken += connection.stored.len();
        for line in connection.outgoing.split_inclusive(|octet| *octet == b'\n') {
            let (code, rest) = line.split_at(3);
            assert!(code.iter().all(u8::is_ascii_digit) && matches!(rest[0], b' ' | b'-'));
            assert!(line.ends_with(b"\r\n"));
        }
    }
    assert!(taken > 1_000, "only {taken} messages came through: the commands no longer reach the end");
}
