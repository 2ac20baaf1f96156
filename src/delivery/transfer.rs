//! Transfer: drives a Dialogue with real bytes.
//!
//! Owns one connection to one endpoint: carries out each Action, feeds back the next Input, and gives no
//! wait more than its patience. `courier` opens it and decides what comes after it.

use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::dialogue::{Action, Dialogue, Form, Freight, Input, Load, Octets};
use super::lines::Lines;
use super::verdict::{self, Breakage, Wait};
use super::{Parcel, Patience, Services};
use crate::mail::{BodyType, Envelope, Outcome, RemoteReply, TlsLevel, header};
use crate::net::{self, ClientTls, Fault, Trust, Wire, within};
use crate::smtp::encode::DataEncoder;
use crate::smtp::response::{Response, ResponseReader};
use crate::spool::Content;

/// A long body is sent whenever this much of it has been read.
const FLUSH_AT: usize = 256 * 1024;
/// What is binary and still coming in goes in chunks of this size or a little more: each costs a round trip.
const CHUNK_AT: usize = 128 * 1024;

/// What a parcel came to on one connection.
#[derive(Debug)]
pub(super) enum Transferred {
    Finished(Vec<Outcome>),
    Interrupted(Vec<Outcome>),
    Unusable(RemoteReply),
    /// The server listens: the content may be streamed.
    Open,
    /// Nothing was said: this content has to be whole before it can go.
    NotStreamable,
}

/// Where a conversation stands when nothing more can be said without the content, or at all.
enum Driven {
    Content(Vec<u8>, Form),
    Over(Transferred),
}

/// Why a connection did not come up.
#[derive(Debug)]
pub(super) enum NotReady {
    Unusable(RemoteReply),
    /// Plain text is allowed, and may do better.
    NoHandshake(RemoteReply),
    /// TLS is required here and did not come about, or did not prove what it had to.
    Insecure(RemoteReply, Fault),
}

/// How a connection turns to TLS.
#[derive(Clone, Copy)]
pub(super) struct Secrets<'a> {
    pub(super) client: &'a ClientTls,
    pub(super) trust: Trust<'a>,
    /// What a certificate must prove.
    pub(super) server_name: &'a str,
}

/// Where Return-Path is added: final delivery only (spec, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Final,
    OnTheWay,
}

#[derive(Debug)]
pub(super) struct Connection {
    wire: Wire,
    reader: ResponseReader,
    dialogue: Dialogue,
    place: Place,
    /// Of the content that is being streamed.
    encoder: DataEncoder,
    /// The same where it goes by BDAT: what waits for the next chunk.
    chunk: Option<Chunk>,
    /// A chunk was refused: the end is known before the content is.
    early: Option<Transferred>,
    pub(super) idle_since: Instant,
}

#[derive(Debug, Default)]
struct Chunk {
    parts: Vec<Bytes>,
    octets: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

impl Connection {
    /// Greets, and turns to TLS as the dialogue demands.
    pub(super) async fn open(
        wire: Wire,
        dialogue: Dialogue,
        place: Place,
        secrets: Secrets<'_>,
        services: &Services,
    ) -> Result<Self, NotReady> {
        let reader = ResponseReader::default();
        let mut connection = Self {
            wire,
            reader,
            dialogue,
            place,
            encoder: DataEncoder::default(),
            chunk: None,
            early: None,
            idle_since: Instant::now(),
        };
        let mut action = connection.dialogue.on(Input::Connected);
        loop {
            action = match action {
                Action::Say(words, wait) => {
                    connection.wire.put(&words);
                    connection.converse(wait, &services.patience).await
                }
                Action::Secure => {
                    let secured;
                    (connection, secured) = connection.secure(secrets, services).await?;
                    connection.dialogue.on(Input::Secured(secured))
                }
                Action::Ready => return Ok(connection),
                Action::Unusable(reply) if verdict::is_without_tls(&reply) => {
                    return Err(NotReady::Insecure(reply, Fault::NotOffered));
                }
                Action::Unusable(reply) => return Err(NotReady::Unusable(reply)),
                Action::NoHandshake(reply) => return Err(NotReady::NoHandshake(reply)),
                Action::Send(..) | Action::Finished(_) | Action::Interrupted(_) => {
                    unreachable!("no parcel was given yet")
                }
            };
        }
    }

    /// A failed handshake takes the connection with it; the dialogue then says what that means.
    async fn secure(
        mut self,
        secrets: Secrets<'_>,
        services: &Services,
    ) -> Result<(Self, Result<(), String>), NotReady> {
        let patience = services.patience.handshake;
        match self.wire.connect_tls(secrets.client, secrets.trust, secrets.server_name, patience).await {
            Ok((wire, _facts)) => {
                self.wire = wire;
                Ok((self, Ok(())))
            }
            Err(error) => match self.dialogue.on(Input::Secured(Err(error.to_string()))) {
                Action::NoHandshake(reply) => Err(NotReady::NoHandshake(reply)),
                Action::Unusable(reply) => Err(NotReady::Insecure(reply, error.fault())),
                other => unreachable!("a failed handshake leads to {other:?}"),
            },
        }
    }

    /// Hands one parcel over. Afterwards `is_ready` tells whether the connection can take another.
    pub(super) async fn transfer(&mut self, parcel: &Parcel<'_>, patience: &Patience) -> Transferred {
        let return_path = self.return_path(parcel.envelope);
        let content = parcel.content;
        let octets = if self.dialogue.must_know_octets(parcel.envelope.body) {
            octets_of(parcel.envelope.body, content).await
        } else {
            Octets::NotLooked
        };
        let load = Load::Whole(return_path.len() as u64 + content.len());
        let mut action = self.dialogue.on(Input::Deliver(parcel, Freight { load, octets }));
        loop {
            match self.drive(action, patience).await {
                Driven::Content(words, form) => {
                    self.wire.put(&words);
                    let sent = self.send(&return_path, content, form, patience).await;
                    action = self.sent(sent, patience).await;
                }
                Driven::Over(transferred) => return transferred,
            }
        }
    }

    /// Says the envelope of a message whose body is still coming in. After `Open` follow `push` and `flush`
    /// as it comes, then `end`.
    pub(super) async fn begin(
        &mut self,
        parcel: &Parcel<'_>,
        declared: Option<u64>,
        patience: &Patience,
    ) -> Transferred {
        if !self.dialogue.can_stream(parcel.envelope.body) {
            return Transferred::NotStreamable;
        }
        let return_path = self.return_path(parcel.envelope);
        let head = &parcel.content.head;
        let in_front = (return_path.len() + head.len()) as u64;
        let declared = declared.map(|size| size.saturating_add(in_front));
        let freight = Freight { load: Load::Coming { declared }, octets: Octets::NotLooked };
        let action = self.dialogue.on(Input::Deliver(parcel, freight));
        match self.drive(action, patience).await {
            Driven::Content(words, form) => {
                self.wire.put(&words);
                self.encoder = DataEncoder::default();
                self.chunk = (form == Form::Chunks).then(Chunk::default);
                for part in [&return_path, head] {
                    if self.push(part).is_err() {
                        let action = self.dialogue.on(Input::Broken(Breakage::Unencodable));
                        return self.over(action, patience).await;
                    }
                }
                Transferred::Open
            }
            Driven::Over(transferred) => transferred,
        }
    }

    /// Takes more of the content into the buffer. Call `flush` before much heaps up there.
    pub(super) fn push(&mut self, content: &Bytes) -> Result<(), Breakage> {
        if let Some(chunk) = &mut self.chunk {
            chunk.octets += content.len();
            chunk.parts.push(content.clone());
            return Ok(());
        }
        let wire = &mut self.wire;
        self.encoder.encode(content, |slice| wire.put_bytes(slice)).map_err(|_| Breakage::Unencodable)
    }

    pub(super) async fn send_pushed(&mut self, patience: &Patience) -> Result<(), Breakage> {
        match &self.chunk {
            None => self.flush(patience.data_block).await,
            Some(_) if self.early.is_some() => {
                self.chunk = Some(Chunk::default());
                Ok(())
            }
            Some(chunk) if chunk.octets < CHUNK_AT => Ok(()),
            Some(_) => {
                self.send_chunk(Last::No, patience).await?;
                let action = self.listen(Wait::DataEnd, patience.data_block).await;
                if let Driven::Over(transferred) = self.drive(action, patience).await {
                    self.early = Some(transferred);
                }
                Ok(())
            }
        }
    }

    /// Says what waits for it as one chunk (RFC 3030 §2).
    async fn send_chunk(&mut self, last: Last, patience: &Patience) -> Result<(), Breakage> {
        let Chunk { parts, octets } = self.chunk.replace(Chunk::default()).unwrap_or_default();
        let end = if last == Last::Yes { " LAST" } else { "" };
        self.wire.put(format!("BDAT {octets}{end}\r\n").as_bytes());
        for part in parts {
            self.wire.put_bytes(part);
        }
        self.flush(patience.data_block).await
    }

    /// Ends the streamed content, or gives up on it for the reason given, and hears the verdict.
    pub(super) async fn end(&mut self, pushed: Result<(), Breakage>, patience: &Patience) -> Transferred {
        if let Some(early) = self.early.take() {
            self.chunk = None;
            return early;
        }
        let sent = match pushed {
            Ok(()) if self.chunk.is_some() => self.send_chunk(Last::Yes, patience).await,
            Ok(()) => match std::mem::take(&mut self.encoder).finish() {
                Ok(end) => {
                    self.wire.put(end);
                    self.flush(patience.data_block).await
                }
                Err(_) => Err(Breakage::Unencodable),
            },
            Err(cause) => Err(cause),
        };
        self.chunk = None;
        let action = self.sent(sent, patience).await;
        self.over(action, patience).await
    }

    pub(super) fn has_accepted_all(&self) -> bool {
        self.early.is_some() || self.dialogue.has_accepted_all()
    }

    fn return_path(&self, envelope: &Envelope) -> Bytes {
        match self.place {
            Place::Final => return_path(envelope),
            Place::OnTheWay => Bytes::new(),
        }
    }

    async fn sent(&mut self, sent: Result<(), Breakage>, patience: &Patience) -> Action {
        match sent {
            Ok(()) => self.dialogue.on(Input::ContentSent),
            // A server that refuses early may have said why before it closed.
            Err(Breakage::Closed | Breakage::Io(_)) => self.listen(Wait::DataEnd, patience.courtesy).await,
            Err(cause) => self.dialogue.on(Input::Broken(cause)),
        }
    }

    async fn over(&mut self, mut action: Action, patience: &Patience) -> Transferred {
        loop {
            match self.drive(action, patience).await {
                Driven::Over(transferred) => return transferred,
                // It asks for more of what could not be sent.
                Driven::Content(..) => action = self.dialogue.on(Input::Broken(Breakage::Closed)),
            }
        }
    }

    async fn drive(&mut self, mut action: Action, patience: &Patience) -> Driven {
        loop {
            action = match action {
                Action::Say(words, wait) => {
                    self.wire.put(&words);
                    self.converse(wait, patience).await
                }
                Action::Send(words, form) => return Driven::Content(words, form),
                Action::Finished(outcomes) => {
                    self.idle_since = Instant::now();
                    return Driven::Over(Transferred::Finished(outcomes));
                }
                Action::Interrupted(outcomes) => return Driven::Over(Transferred::Interrupted(outcomes)),
                Action::Unusable(reply) => return Driven::Over(Transferred::Unusable(reply)),
                Action::Secure | Action::Ready | Action::NoHandshake(_) => {
                    unreachable!("the session is already up")
                }
            };
        }
    }

    /// Whether a REQUIRETLS message may go this way (RFC 8689).
    pub(super) fn keeps_tls_required(&self) -> bool {
        self.dialogue.keeps_tls_required()
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.wire.is_encrypted()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.dialogue.is_ready()
    }

    /// Whether the peer is still there and silent, without waiting: who speaks now has only 421 to say.
    pub(super) async fn is_alive(&mut self) -> bool {
        if !self.wire.pending().is_empty() {
            return false;
        }
        let mut fill = pin!(self.wire.fill());
        poll_fn(|cx| Poll::Ready(fill.as_mut().poll(cx).is_pending())).await
    }

    /// Takes leave. Nothing depends on the answer.
    pub(super) async fn quit(mut self, patience: Duration) {
        self.wire.put(b"QUIT\r\n");
        let leave = async {
            self.wire.flush().await?;
            while self.wire.fill().await? > 0 {
                let heard = self.wire.pending().len();
                self.wire.consume(heard);
            }
            self.wire.close().await
        };
        // A peer that has gone already is as well.
        let _ = within(patience, leave).await;
    }

    /// Says what was put, and hears one answer.
    async fn converse(&mut self, wait: Wait, patience: &Patience) -> Action {
        let limit = patience.of(wait);
        // What cannot be sent may have been answered all the same: the last words of a server that closes.
        let _ = within(limit, self.wire.flush()).await;
        self.listen(wait, limit).await
    }

    async fn listen(&mut self, wait: Wait, patience: Duration) -> Action {
        match self.hear(patience).await {
            Ok(answer) => {
                tracing::trace!(host = self.dialogue.host(), ?wait, code = answer.code, "answered");
                self.dialogue.on(Input::Answered(&answer))
            }
            Err(cause) => self.dialogue.on(Input::Broken(cause)),
        }
    }

    /// One whole answer, within the patience.
    async fn hear(&mut self, patience: Duration) -> Result<Response, Breakage> {
        let hearing = async {
            loop {
                let progress = self.reader.read(self.wire.pending()).map_err(Breakage::Malformed)?;
                self.wire.consume(progress.consumed);
                if let Some(response) = progress.response {
                    return Ok(response);
                }
                if self.wire.fill().await.map_err(|error| breakage(&error))? == 0 {
                    return Err(Breakage::Closed);
                }
            }
        };
        tokio::time::timeout(patience, hearing).await.unwrap_or(Err(Breakage::TimedOut))
    }

    /// Sends the content, byte for byte, in whichever form.
    async fn send(
        &mut self,
        return_path: &Bytes,
        content: &Content,
        form: Form,
        patience: &Patience,
    ) -> Result<(), Breakage> {
        let mut encoder = DataEncoder::default();
        let mut next = Some(return_path.clone());
        let mut head = Some(content.head.clone());
        let mut body = content.body.reader();
        while let Some(part) = next {
            match form {
                Form::Chunk | Form::Chunks => self.wire.put_bytes(part),
                Form::Dotted => encoder
                    .encode(&part, |slice| self.wire.put_bytes(slice))
                    .map_err(|_| Breakage::Unencodable)?,
            }
            if self.wire.queued() >= FLUSH_AT {
                self.flush(patience.data_block).await?;
            }
            next = match head.take() {
                Some(head) => Some(head),
                None => body.next().await.map_err(|error| Breakage::Content(error.to_string()))?,
            };
        }
        if form == Form::Dotted {
            self.wire.put(encoder.finish().map_err(|_| Breakage::Unencodable)?);
        }
        self.flush(patience.data_block).await
    }

    async fn flush(&mut self, patience: Duration) -> Result<(), Breakage> {
        within(patience, self.wire.flush()).await.map_err(|error| breakage(&error))
    }
}

impl Patience {
    fn of(&self, wait: Wait) -> Duration {
        match wait {
            Wait::Greeting => self.greeting,
            Wait::Hello | Wait::StartTls => self.hello,
            Wait::Reset => self.courtesy,
            Wait::Mail => self.mail,
            Wait::Recipient => self.recipient,
            Wait::DataStart => self.data_start,
            Wait::DataEnd => self.data_end,
        }
    }
}

pub(super) fn trust(tls: TlsLevel, ca: Option<&Path>) -> Trust<'_> {
    match tls {
        TlsLevel::Off | TlsLevel::Opportunistic | TlsLevel::Encrypt => Trust::Anyone,
        TlsLevel::Verify => ca.map_or(Trust::Named, Trust::NamedBy),
    }
}

fn breakage(error: &io::Error) -> Breakage {
    match error.kind() {
        io::ErrorKind::TimedOut => Breakage::TimedOut,
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => Breakage::Closed,
        _ => Breakage::Io(error.to_string()),
    }
}

/// As final delivery records the sender.
pub(super) fn return_path(envelope: &Envelope) -> Bytes {
    header::return_path(&envelope.sender).into()
}

async fn octets_of(declared: BodyType, content: &Content) -> Octets {
    let mut lines = Lines::default();
    let mut body = content.body.reader();
    let mut part = content.head.clone();
    loop {
        lines.see(&part);
        part = match body.next().await {
            Ok(Some(part)) => part,
            // The transfer meets the same error, and says so.
            Ok(None) | Err(_) => break,
        };
    }
    match lines.octets() {
        // Came in by DATA or in lines: only how long they are may be unusual.
        Octets::Binary if declared == BodyType::EightBitMime => lines.eight_bit_or_less(),
        octets => octets,
    }
}

/// What went wrong before there was a conversation.
pub(super) fn not_connected(error: &net::Error) -> super::verdict::Obstacle {
    use super::verdict::Obstacle;
    match error {
        net::Error::TimedOut => Obstacle::ConnectTimedOut,
        net::Error::Closed | net::Error::Io(_) => Obstacle::NotConnected(error.to_string()),
        net::Error::Tls(_) | net::Error::ServerName(_) | net::Error::Certificate(_) => {
            Obstacle::HandshakeFailed(error.to_string())
        }
    }
}
