//! Couriers against scripted servers, in paused time: what every answer, silence and end comes to.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::duplex;
use tokio::time::Instant;

use super::courier::Begun;
use super::{Courier, Delivery, Parcel, Patience, Services};
use crate::clock::{Clock, Timestamp};
use crate::dns::Resolver;
use crate::mail::{
    Address, BodyType, Endpoint, Envelope, Lookup, Mailboxes, MessageId, NextHop, NextHopName, Outcome,
    Recipient, Region, TlsLevel,
};
use crate::net::{ClientTls, Identity, Roots, ServerTls, Stream, Target, Wire, self_signed};
use crate::spool::{Body, Content};

const BODY: &[u8] = b"Subject: hello\r\n\r\n.dots and\r\n..more\r\nend\r\n";

/// What a scripted server does at one step.
#[derive(Debug, Clone)]
enum Do {
    Say(&'static str),
    Hang,
    Close,
}

/// A server that behaves, except where its script says otherwise.
#[derive(Clone, Default)]
struct Server {
    offers: Vec<&'static str>,
    /// By step: GREETING, a verb, or END. Used up in order; then the step goes as it should.
    script: HashMap<&'static str, VecDeque<Do>>,
    lmtp: bool,
    tls: Option<Arc<ServerTls>>,
    tls_first: bool,
}

impl Server {
    fn offering(offers: &[&'static str]) -> Self {
        Self { offers: offers.to_vec(), ..Self::default() }
    }

    fn at(mut self, step: &'static str, what: Do) -> Self {
        self.script.entry(step).or_default().push_back(what);
        self
    }

    fn with_tls(mut self, identity: &Identity) -> Self {
        let tls = ServerTls::new(std::slice::from_ref(identity), Roots::none()).expect("settings");
        self.tls = Some(Arc::new(tls));
        self
    }

    async fn serve(mut self, stream: Stream, heard: Heard) -> io::Result<()> {
        let mut wire = Wire::new(stream);
        if self.tls_first {
            let tls = self.tls.take().expect("an identity");
            wire = secured(wire, &tls).await?;
        }
        let mut accepted = 0;
        self.answer(&mut wire, "GREETING", "220 mx ESMTP").await?;
        loop {
            let line = read_line(&mut wire).await?;
            heard.lock().expect("no panic").said.push(line.clone());
            let verb = line.split(' ').next().unwrap_or("").to_owned();
            match verb.as_str() {
                "EHLO" | "LHLO" => {
                    assert_eq!(verb == "LHLO", self.lmtp);
                    let mut lines = vec!["mx".to_owned()];
                    lines.extend(self.offers.iter().map(|offer| (*offer).to_owned()));
                    if self.tls.is_some() {
                        lines.push("STARTTLS".to_owned());
                    }
                    let last = lines.pop().expect("a line");
                    let mut answer: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
                    answer.push_str(&format!("250 {last}"));
                    self.answer(&mut wire, "EHLO", &answer).await?;
                }
                "STARTTLS" => {
                    self.answer(&mut wire, "STARTTLS", "220 go").await?;
                    self.close_at("HANDSHAKE")?;
                    let tls = self.tls.take().expect("it was offered");
                    wire = secured(wire, &tls).await?;
                }
                "MAIL" => {
                    accepted = 0;
                    self.answer(&mut wire, "MAIL", "250 2.1.0 ok").await?;
                }
                "RCPT" => {
                    accepted += usize::from(self.answer(&mut wire, "RCPT", "250 2.1.5 ok").await?);
                }
                "DATA" => {
                    if self.answer(&mut wire, "DATA", "354 go").await? {
                        let content = read_dotted(&mut wire).await?;
                        heard.lock().expect("no panic").contents.push(content);
                        self.end(&mut wire, accepted).await?;
                    }
                }
                "BDAT" => {
                    let size = line.split(' ').nth(1).and_then(|size| size.parse().ok()).expect("a size");
                    let content = read_exactly(&mut wire, size).await?;
                    if accepted == 0 {
                        self.answer(&mut wire, "END", "503 5.5.1 nobody").await?;
                    } else {
                        heard.lock().expect("no panic").contents.push(content);
                        self.end(&mut wire, accepted).await?;
                    }
                }
                "RSET" => {
                    self.answer(&mut wire, "RSET", "250 ok").await?;
                }
                "QUIT" => {
                    self.answer(&mut wire, "QUIT", "221 bye").await?;
                    return wire.close().await;
                }
                other => panic!("a client said {other}"),
            }
        }
    }

    async fn end(&mut self, wire: &mut Wire, accepted: usize) -> io::Result<()> {
        for _ in 0..if self.lmtp { accepted } else { 1 } {
            self.answer(wire, "END", "250 2.0.0 taken").await?;
        }
        Ok(())
    }

    /// Closes, when the script says so.
    fn close_at(&mut self, step: &'static str) -> io::Result<()> {
        match self.script.get_mut(step).and_then(VecDeque::pop_front) {
            Some(Do::Close) => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(Do::Say(_) | Do::Hang) | None => Ok(()),
        }
    }

    /// Answers by the script or as it should; whether it was a yes.
    async fn answer(&mut self, wire: &mut Wire, step: &'static str, usual: &str) -> io::Result<bool> {
        let scripted = self.script.get_mut(step).and_then(VecDeque::pop_front);
        let words = match &scripted {
            None => usual,
            Some(Do::Say(words)) => words,
            Some(Do::Hang) => std::future::pending().await,
            Some(Do::Close) => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        wire.put(words.as_bytes());
        wire.put(b"\r\n");
        wire.flush().await?;
        Ok(words.starts_with(['2', '3']))
    }
}

async fn secured(wire: Wire, tls: &ServerTls) -> io::Result<Wire> {
    let accepted = wire.accept_tls(tls, Duration::from_secs(60)).await;
    accepted.map(|(wire, _)| wire).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

async fn fill(wire: &mut Wire) -> io::Result<()> {
    if wire.fill().await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

async fn read_line(wire: &mut Wire) -> io::Result<String> {
    loop {
        if let Some(end) = wire.pending().windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8(wire.pending()[..end].to_vec()).expect("commands are text");
            wire.consume(end + 2);
            return Ok(line);
        }
        fill(wire).await?;
    }
}

async fn read_dotted(wire: &mut Wire) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let line = read_line(wire).await?;
        if line == "." {
            return Ok(content);
        }
        content.extend_from_slice(line.strip_prefix('.').unwrap_or(&line).as_bytes());
        content.extend_from_slice(b"\r\n");
    }
}

async fn read_exactly(wire: &mut Wire, size: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    while content.len() < size {
        if wire.pending().is_empty() {
            fill(wire).await?;
        }
        let part = wire.pending().len().min(size - content.len());
        content.extend_from_slice(&wire.pending()[..part]);
        wire.consume(part);
    }
    Ok(content)
}

#[derive(Default)]
struct Hearing {
    said: Vec<String>,
    contents: Vec<Vec<u8>>,
    dialed: Vec<Target>,
}

type Heard = Arc<Mutex<Hearing>>;

/// Servers that answer calls one after the other; `None` refuses the call, and so does an empty list.
struct Stage {
    heard: Heard,
    services: Services,
}

impl Stage {
    fn new(servers: Vec<Option<Server>>) -> Self {
        let heard = Heard::default();
        let hearing = heard.clone();
        let servers = Mutex::new(VecDeque::from(servers));
        let dialer = move |target: &Target| {
            hearing.lock().expect("no panic").dialed.push(target.clone());
            match servers.lock().expect("no panic").pop_front().flatten() {
                Some(server) => {
                    let (ours, theirs) = duplex(1024);
                    let heard = hearing.clone();
                    // An end without farewell is part of many scripts.
                    tokio::spawn(async move { server.serve(theirs.into(), heard).await.ok() });
                    Ok(Stream::from(ours))
                }
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        };
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let hosts = [
            ("one.example", Lookup::Found(vec![address("192.0.2.1")])),
            ("two.example", Lookup::Found(vec![address("192.0.2.21"), address("2001:db8::22")])),
            ("broken.example", Lookup::Failed),
        ];
        let services = Services {
            hostname: "edge.example".into(),
            dialer: Arc::new(dialer),
            resolver: Arc::new(Resolver::table(hosts.map(|(name, answer)| (name.to_owned(), answer)))),
            tls: Arc::new(ClientTls::new(Roots::none(), None).expect("settings")),
            patience: Patience::default(),
            troubled: crate::delivery::Troubled::default(),
            internet: None,
            clock: Clock::starting_at(Timestamp::from_millis(1_800_000_000_000)),
        };
        Self { heard, services }
    }

    fn trusting(mut self, roots: Roots) -> Self {
        self.services.tls = Arc::new(ClientTls::new(roots, None).expect("settings"));
        self
    }

    fn courier(self, endpoints: &[&str], tls: TlsLevel) -> (Courier, Heard) {
        let endpoints: Vec<Endpoint> =
            endpoints.iter().map(|text| Endpoint::parse(text).expect("an endpoint")).collect();
        let name = NextHopName::Store(Region::parse("EUR").expect("a region"));
        let hop = NextHop { name, endpoints: endpoints.into(), tls, ca: None };
        (Courier::new(Arc::new(self.services), hop), self.heard)
    }
}

fn envelope(recipients: &[&str]) -> Envelope {
    let address = |text: &str| Address::parse(text).expect("an address");
    Envelope::new(
        MessageId::from_raw(1),
        Timestamp::from_millis(0),
        Some(address("s@a.example")),
        recipients.iter().map(|text| Recipient::new(address(text))).collect(),
    )
}

fn content() -> Content {
    Content {
        head: Bytes::from_static(b"Received: by edge.example\r\n"),
        body: Body::Memory(Bytes::from_static(BODY)),
    }
}

fn whole(content: &Content) -> Vec<u8> {
    let Body::Memory(body) = &content.body else { panic!("these tests keep bodies in memory") };
    [&content.head[..], body].concat()
}

async fn deliver(courier: &mut Courier, recipients: &[&str]) -> Delivery {
    let envelope = envelope(recipients);
    let indices: Vec<u32> = (0..).take(recipients.len()).collect();
    courier
        .deliver(Parcel {
            envelope: &envelope,
            recipients: &indices,
            content: &content(),
            mailboxes: Mailboxes::NONE,
        })
        .await
}

/// `delivered 2.0.0, deferred 4.4.2`, or `unreached 4.4.1`.
fn told(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Unreached(reply) => format!("unreached {}", reply.status),
        Delivery::Reached(outcomes) => {
            let each = outcomes.iter().map(|outcome| {
                let word = match outcome {
                    Outcome::Delivered(..) => "delivered",
                    Outcome::Deferred(_) => "deferred",
                    Outcome::Postponed(_) => "postponed",
                    Outcome::Failed(_) => "failed",
                };
                format!("{word} {}", outcome.reply().status)
            });
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

fn said(heard: &Heard) -> Vec<String> {
    heard.lock().expect("no panic").said.clone()
}

fn dialed(heard: &Heard) -> usize {
    heard.lock().expect("no panic").dialed.len()
}

const ONE: &[&str] = &["smtp://one.example:25"];

#[tokio::test(start_paused = true)]
async fn messages_arrive_byte_for_byte_whatever_is_offered() {
    for offers in
        [&[][..], &["PIPELINING"], &["CHUNKING"], &["PIPELINING", "CHUNKING", "8BITMIME", "SIZE 1000"]]
    {
        let stage = Stage::new(vec![Some(Server::offering(offers))]);
        let (mut courier, heard) = stage.courier(ONE, TlsLevel::Off);
        for _ in 0..3 {
            let delivery = deliver(&mut courier, &["r@b.example", "q@b.example"]).await;
            assert_eq!(told(&delivery), "delivered 2.0.0, delivered 2.0.0", "{offers:?}");
            let Delivery::Reached(outcomes) = delivery else { panic!("it was reached") };
            assert_eq!(outcomes[0].reply().host, "one.example [192.0.2.1]:25");
        }
        assert_eq!(heard.lock().expect("no panic").contents, vec![whole(&content()); 3], "{offers:?}");
        assert_eq!(dialed(&heard), 1, "one connection for all");
        assert!(courier.is_connected());
        courier.quit().await;
        assert_eq!(said(&heard).last().map(String::as_str), Some("QUIT"));
    }
}

#[tokio::test(start_paused = true)]
async fn large_bodies_pass_through_small_pipes() {
    let lines: String = (0..40_000).map(|n| format!(".line {n} of many\r\n")).collect();
    let large = Content { head: Bytes::new(), body: Body::Memory(Bytes::from(lines)) };
    for offers in [&["PIPELINING"][..], &["CHUNKING"]] {
        let stage = Stage::new(vec![Some(Server::offering(offers))]);
        let (mut courier, heard) = stage.courier(ONE, TlsLevel::Off);
        let envelope = envelope(&["r@b.example"]);
        let parcel =
            Parcel { envelope: &envelope, recipients: &[0], content: &large, mailboxes: Mailboxes::NONE };
        assert_eq!(told(&courier.deliver(parcel).await), "delivered 2.0.0");
        assert!(heard.lock().expect("no panic").contents[0] == whole(&large), "byte for byte");
    }
}

#[tokio::test(start_paused = true)]
async fn more_recipients_than_a_pipe_holds_are_no_deadlock() {
    let stage = Stage::new(vec![Some(Server::offering(&["PIPELINING"]))]);
    let (mut courier, _) = stage.courier(ONE, TlsLevel::Off);
    let recipients: Vec<String> = (0..500).map(|n| format!("recipient-{n}@b.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let Delivery::Reached(outcomes) = deliver(&mut courier, &recipients).await else { panic!("reached") };
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered(..))));
    assert_eq!(outcomes.len(), 500);
}

#[tokio::test(start_paused = true)]
async fn silence_at_every_step_ends_with_its_patience() {
    let patience = Patience::default();
    for (step, limit, comes_to) in [
        ("GREETING", patience.greeting, "unreached 4.4.2"),
        ("EHLO", patience.hello, "unreached 4.4.2"),
        ("MAIL", patience.mail, "unreached 4.4.2"),
        ("RCPT", patience.recipient, "deferred 4.4.2"),
        ("DATA", patience.data_start, "deferred 4.4.2"),
        ("END", patience.data_end, "deferred 4.4.2"),
    ] {
        for offers in [&[][..], &["PIPELINING"]] {
            let stage = Stage::new(vec![Some(Server::offering(offers).at(step, Do::Hang))]);
            let (mut courier, _) = stage.courier(ONE, TlsLevel::Off);
            let began = Instant::now();
            assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), comes_to, "{step} {offers:?}");
            let took = began.elapsed();
            assert!(took >= limit && took < limit + Duration::from_secs(1), "{step} {offers:?}: {took:?}");
            assert!(!courier.is_connected(), "{step}: nobody speaks on a broken connection");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_content_is_given_up() {
    // It says 354 and then reads nothing: the pipe fills up.
    let (ours, theirs) = duplex(64);
    let ours = Mutex::new(Some(ours));
    tokio::spawn(async move {
        let mut wire = Wire::new(theirs);
        for answer in ["220 mx\r\n", "250 mx\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"] {
            wire.put(answer.as_bytes());
            wire.flush().await.expect("open");
            if answer != "354 go\r\n" {
                read_line(&mut wire).await.expect("a command");
            }
        }
        std::future::pending::<()>().await;
    });
    let mut stage = Stage::new(Vec::new());
    stage.services.dialer = Arc::new(move |_: &Target| {
        Ok(Stream::from(ours.lock().expect("no panic").take().expect("one call")))
    });
    let (mut courier, _) = stage.courier(ONE, TlsLevel::Off);
    let began = Instant::now();
    assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), "deferred 4.4.2");
    assert_eq!(began.elapsed().as_secs(), Patience::default().data_block.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_end_at_every_step_is_nobodys_loss() {
    for (step, comes_to) in [
        ("GREETING", "unreached 4.4.2"),
        ("EHLO", "unreached 4.4.2"),
        ("MAIL", "unreached 4.4.2"),
        ("RCPT", "deferred 4.4.2"),
        ("DATA", "deferred 4.4.2"),
        ("END", "deferred 4.4.2"),
    ] {
        for offers in [&[][..], &["PIPELINING"]] {
            let stage = Stage::new(vec![Some(Server::offering(offers).at(step, Do::Close))]);
            let (mut courier, _) = stage.courier(ONE, TlsLevel::Off);
            assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), comes_to, "{step} {offers:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_at_every_step() {
    for (step, answer, comes_to) in [
        ("GREETING", "554 5.3.2 no", "unreached 5.3.2"),
        ("GREETING", "421 4.7.0 busy", "unreached 4.7.0"),
        ("GREETING", "hello", "unreached 4.5.0"),
        ("EHLO", "421 4.3.2 off", "unreached 4.3.2"),
        ("EHLO", "450 4.7.1 wait", "unreached 4.7.1"),
        ("MAIL", "421 4.3.2 off", "unreached 4.3.2"),
        ("MAIL", "451 4.3.1 full", "unreached 4.3.1"),
        ("MAIL", "451 4.1.8 later", "deferred 4.1.8"),
        ("MAIL", "550 5.7.1 not you", "unreached 5.7.1"),
        ("MAIL", "553 5.1.8 no", "failed 5.1.8"),
        ("MAIL", "552 5.3.4 large", "failed 5.3.4"),
        ("RCPT", "450 4.2.1 later", "deferred 4.2.1"),
        ("RCPT", "451 4.4.62 region ATTR35", "deferred 4.4.62"),
        ("RCPT", "452 4.5.3 many", "deferred 4.5.3"),
        ("RCPT", "550 5.1.1 who", "failed 5.1.1"),
        ("RCPT", "421 4.3.2 off", "deferred 4.3.2"),
        ("RCPT", "nonsense", "deferred 4.5.0"),
        ("DATA", "451 4.3.0 disk", "deferred 4.3.0"),
        ("DATA", "554 5.6.0 no", "failed 5.6.0"),
        ("DATA", "421 4.3.2 off", "deferred 4.3.2"),
        ("END", "451 4.3.0 disk", "deferred 4.3.0"),
        ("END", "554 5.6.0 no", "failed 5.6.0"),
        ("END", "421 4.3.2 off", "deferred 4.3.2"),
        ("END", "nonsense", "deferred 4.5.0"),
    ] {
        for offers in [&[][..], &["PIPELINING"]] {
            let stage = Stage::new(vec![Some(Server::offering(offers).at(step, Do::Say(answer)))]);
            let (mut courier, _) = stage.courier(ONE, TlsLevel::Off);
            let delivery = deliver(&mut courier, &["r@b.example"]).await;
            assert_eq!(told(&delivery), comes_to, "{step} {answer} {offers:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_meanwhile_is_replaced_and_not_counted() {
    for offers in [&[][..], &["PIPELINING"], &["PIPELINING", "CHUNKING"]] {
        for (step, what) in [
            // The first message gets its usual answers; the script is for the second.
            ("MAIL", Do::Close),
            ("MAIL", Do::Say("421 4.4.2 idle")),
            ("RCPT", Do::Close),
        ] {
            let first = Server::offering(offers).at(step, Do::Say("250 ok")).at(step, what.clone());
            let stage = Stage::new(vec![Some(first), Some(Server::offering(offers))]);
            let (mut courier, heard) = stage.courier(ONE, TlsLevel::Off);
            assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), "delivered 2.0.0");
            let second = told(&deliver(&mut courier, &["r@b.example"]).await);
            // All was said before the server left: whether it was taken cannot be known.
            let unknown = step == "RCPT" && offers.contains(&"CHUNKING");
            let expected = if unknown { "deferred 4.4.2" } else { "delivered 2.0.0" };
            assert_eq!(second, expected, "{step} {what:?} {offers:?}");
            assert_eq!(dialed(&heard), if unknown { 1 } else { 2 });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_was_closed_or_spoke_is_not_used() {
    for last_words in [Do::Close, Do::Say("250 2.0.0 taken\r\n421 4.4.2 idle")] {
        let closing = matches!(last_words, Do::Close);
        let first = if closing {
            Server::default().at("RSET", Do::Close)
        } else {
            Server::default().at("END", last_words)
        };
        let stage = Stage::new(vec![Some(first), Some(Server::default())]);
        let (mut courier, heard) = stage.courier(ONE, TlsLevel::Off);
        assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), "delivered 2.0.0");
        tokio::time::sleep(if closing { Duration::from_secs(31) } else { Duration::from_secs(1) }).await;
        assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), "delivered 2.0.0");
        assert_eq!(dialed(&heard), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_courier_takes_leave() {
    let (mut courier, heard) = Stage::new(vec![Some(Server::default())]).courier(ONE, TlsLevel::Off);
    deliver(&mut courier, &["r@b.example"]).await;
    courier.quit().await;
    assert_eq!(said(&heard).last().map(String::as_str), Some("QUIT"));
}

#[tokio::test(start_paused = true)]
async fn endpoints_and_addresses_are_tried_in_turn() {
    let refusing = || Some(Server::default().at("GREETING", Do::Say("554 5.3.2 no")));
    let (mut courier, heard) = Stage::new(vec![None, refusing(), None, Some(Server::default())]).courier(
        &["smtp://one.example:25", "smtp://broken.example", "smtp://two.example:2525", "smtp://[::1]:26"],
        TlsLevel::Off,
    );
    assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), "delivered 2.0.0");
    let expected = ["192.0.2.1:25", "192.0.2.21:2525", "[2001:db8::22]:2525", "[::1]:26"];
    let expected = expected.map(|address| Target::Tcp(address.parse().expect("an address")));
    assert_eq!(heard.lock().expect("no panic").dialed, expected);

    for (endpoints, comes_to) in [
        (&["smtp://one.example"][..], "unreached 4.4.1"),
        (&["smtp://broken.example"], "unreached 4.4.3"),
        (&["smtp://unknown.example"], "unreached 4.4.4"),
        (&[], "unreached 4.4.4"),
    ] {
        let (mut courier, _) = Stage::new(Vec::new()).courier(endpoints, TlsLevel::Off);
        assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), comes_to, "{endpoints:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_connection_does_not_take_the_destination_down() {
    let deadly = || Some(Server::default().at("DATA", Do::Close));
    let (mut courier, heard) = Stage::new(vec![deadly(), deadly()]).courier(ONE, TlsLevel::Off);
    assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), "deferred 4.4.2");
    assert_eq!(dialed(&heard), 1);
}

#[tokio::test(start_paused = true)]
async fn recipients_without_room_are_postponed_only_beside_accepted_ones() {
    let server = || Server::offering(&["PIPELINING"]).at("RCPT", Do::Say("452 4.5.3 Recipients ATTR38"));
    let (mut courier, _) = Stage::new(vec![Some(server())]).courier(ONE, TlsLevel::Off);
    let delivery = deliver(&mut courier, &["r@b.example", "q@b.example"]).await;
    assert_eq!(told(&delivery), "postponed 4.5.3, delivered 2.0.0");
    let (mut courier, _) = Stage::new(vec![Some(server())]).courier(ONE, TlsLevel::Off);
    assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), "deferred 4.5.3");
}

#[tokio::test(start_paused = true)]
async fn lmtp_gives_each_recipient_its_own_end_and_a_return_path() {
    for offers in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"]] {
        let mut server = Server::offering(offers)
            .at("RCPT", Do::Say("250 ok"))
            .at("RCPT", Do::Say("550 5.1.1 who"))
            .at("END", Do::Say("250 2.0.0 saved"))
            .at("END", Do::Say("452 4.2.2 full"));
        server.lmtp = true;
        let (mut courier, heard) =
            Stage::new(vec![Some(server)]).courier(&["lmtp+unix:///run/lmtp"], TlsLevel::Verify);
        let delivery = deliver(&mut courier, &["r@b.example", "q@b.example", "p@b.example"]).await;
        assert_eq!(told(&delivery), "delivered 2.0.0, failed 5.1.1, deferred 4.2.2");
        let heard = heard.lock().expect("no panic");
        let expected = [&b"Return-Path: <s@a.example>\r\n"[..], &whole(&content())].concat();
        assert_eq!(heard.contents, [expected]);
        assert_eq!(heard.dialed, [Target::Unix("/run/lmtp".into())]);
    }
}

#[tokio::test(start_paused = true)]
async fn binary_content_travels_untouched_or_fails_honestly() {
    let binary =
        Content { head: Bytes::new(), body: Body::Memory(Bytes::from_static(b"\0a\nb\r.\r\n.\r\nc")) };
    let mut message = envelope(&["r@b.example"]);
    message.body = BodyType::BinaryMime;
    for (offers, comes_to) in
        [(&["CHUNKING", "BINARYMIME"][..], "delivered 2.0.0"), (&["PIPELINING", "8BITMIME"], "failed 5.6.3")]
    {
        let (mut courier, heard) =
            Stage::new(vec![Some(Server::offering(offers))]).courier(ONE, TlsLevel::Off);
        let parcel =
            Parcel { envelope: &message, recipients: &[0], content: &binary, mailboxes: Mailboxes::NONE };
        assert_eq!(told(&courier.deliver(parcel).await), comes_to);
        let heard = heard.lock().expect("no panic");
        assert!(heard.contents.iter().all(|content| *content == whole(&binary)));
    }
    // Content that should never have been called lines does not leave by DATA.
    message.body = BodyType::SevenBit;
    let (mut courier, heard) = Stage::new(vec![Some(Server::default())]).courier(ONE, TlsLevel::Off);
    let parcel =
        Parcel { envelope: &message, recipients: &[0], content: &binary, mailboxes: Mailboxes::NONE };
    assert_eq!(told(&courier.deliver(parcel).await), "failed 5.6.0");
    assert!(heard.lock().expect("no panic").contents.is_empty());
    assert!(!courier.is_connected(), "half a message was said");
}

/// A message that is still coming in, in pieces of 50,000 octets.
async fn stream(courier: &mut Courier, message: &Envelope, pieces: usize) -> (Begun, Option<Delivery>) {
    let recipients: Vec<u32> = (0..).take(message.recipients.len()).collect();
    let head = Content { head: Bytes::from_static(b"Head: x\r\n"), body: Body::Memory(Bytes::new()) };
    let parcel =
        Parcel { envelope: message, recipients: &recipients, content: &head, mailboxes: Mailboxes::NONE };
    let begun = courier.begin(parcel, None).await;
    if begun != Begun::Open {
        return (begun, None);
    }
    let mut pushed = Ok(());
    for piece in 0..pieces {
        if pushed.is_ok() {
            pushed = courier.push(&Bytes::from(vec![u8::try_from(piece).expect("few"); 50_000]));
        }
        if pushed.is_ok() {
            pushed = courier.flush().await;
        }
    }
    let ended = courier.end(pushed).await;
    (begun, Some(ended))
}

#[tokio::test(start_paused = true)]
async fn binary_content_that_is_still_coming_in_goes_on_in_chunks() {
    let mut message = envelope(&["r@b.example", "q@b.example"]);
    message.body = BodyType::BinaryMime;
    let offers = &["PIPELINING", "CHUNKING", "BINARYMIME"];
    let (mut courier, heard) = Stage::new(vec![Some(Server::offering(offers))]).courier(ONE, TlsLevel::Off);
    for _ in 0..2 {
        let (_, ended) = stream(&mut courier, &message, 7).await;
        assert_eq!(told(&ended.expect("it was open")), "delivered 2.0.0, delivered 2.0.0");
        let mut hearing = heard.lock().expect("no panic");
        let pieces = (0..7).flat_map(|piece| [piece; 50_000]);
        let expected: Vec<u8> = b"Head: x\r\n".iter().copied().chain(pieces).collect();
        assert!(hearing.contents.concat() == expected, "byte for byte");
        hearing.contents.clear();
        let said: Vec<String> = std::mem::take(&mut hearing.said);
        assert!(said.iter().any(|line| line.ends_with("BODY=BINARYMIME")), "{said:?}");
        assert_eq!(said[said.len() - 3..], ["BDAT 150009", "BDAT 150000", "BDAT 50000 LAST"]);
    }
    assert_eq!(dialed(&heard), 1);

    let (mut courier, _) =
        Stage::new(vec![Some(Server::offering(&["CHUNKING"]))]).courier(ONE, TlsLevel::Off);
    assert_eq!(stream(&mut courier, &message, 1).await.0, Begun::NotStreamable, "it has to be whole first");
}

#[tokio::test(start_paused = true)]
async fn a_refused_chunk_ends_the_message_and_not_the_connection() {
    let mut message = envelope(&["r@b.example"]);
    message.body = BodyType::BinaryMime;
    let offers = &["CHUNKING", "BINARYMIME"];
    let usual = || Do::Say("250 2.0.0 ok");
    for (answer, comes_to) in [
        (Do::Say("552 5.3.4 too much"), "failed 5.3.4"),
        (Do::Say("452 4.3.1 no room"), "deferred 4.3.1"),
        (Do::Say("421 4.3.2 leaving"), "deferred 4.3.2"),
        (Do::Close, "deferred 4.4.2"),
    ] {
        let goes_on = comes_to == "failed 5.3.4" || comes_to == "deferred 4.3.1";
        let server = Server::offering(offers).at("END", usual()).at("END", answer);
        let (mut courier, heard) = Stage::new(vec![Some(server)]).courier(ONE, TlsLevel::Off);
        let (_, ended) = stream(&mut courier, &message, 9).await;
        assert_eq!(told(&ended.expect("it was open")), comes_to);
        assert_eq!(courier.is_connected(), goes_on, "{comes_to}");
        if goes_on {
            let (_, ended) = stream(&mut courier, &message, 1).await;
            assert_eq!(told(&ended.expect("it was open")), "delivered 2.0.0");
            assert!(said(&heard).contains(&"RSET".to_owned()), "{:?}", said(&heard));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn eight_bit_content_needs_a_hop_that_takes_it() {
    for (offers, body, comes_to) in [
        (&["8BITMIME"][..], &b"caf\xc3\xa9\r\n"[..], "delivered 2.0.0"),
        (&["PIPELINING"], b"caf\xc3\xa9\r\n", "failed 5.6.3"),
        (&["PIPELINING"], b"coffee\r\n", "delivered 2.0.0"),
    ] {
        let mut message = envelope(&["r@b.example"]);
        message.body = BodyType::EightBitMime;
        let content = Content { head: Bytes::new(), body: Body::Memory(Bytes::copy_from_slice(body)) };
        let (mut courier, _) = Stage::new(vec![Some(Server::offering(offers))]).courier(ONE, TlsLevel::Off);
        let parcel =
            Parcel { envelope: &message, recipients: &[0], content: &content, mailboxes: Mailboxes::NONE };
        assert_eq!(told(&courier.deliver(parcel).await), comes_to, "{offers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_was_declared_as_binary_passes_where_binary_is_not_offered() {
    for (offers, body, comes_to, says) in [
        (&["PIPELINING"][..], &b"plain\r\n.dot\r\n"[..], "delivered 2.0.0", ""),
        (&["CHUNKING", "8BITMIME"], b"caf\xc3\xa9\r\n", "delivered 2.0.0", " BODY=8BITMIME"),
        (&["PIPELINING"], b"caf\xc3\xa9\r\n", "failed 5.6.3", ""),
        (&["8BITMIME", "CHUNKING"], b"bare\nline\r\n", "failed 5.6.3", ""),
        (&["CHUNKING", "BINARYMIME"], b"plain\r\n", "delivered 2.0.0", " BODY=BINARYMIME"),
    ] {
        let mut message = envelope(&["r@b.example"]);
        message.body = BodyType::BinaryMime;
        let content = Content { head: Bytes::new(), body: Body::Memory(Bytes::copy_from_slice(body)) };
        let (mut courier, heard) =
            Stage::new(vec![Some(Server::offering(offers))]).courier(ONE, TlsLevel::Off);
        let parcel =
            Parcel { envelope: &message, recipients: &[0], content: &content, mailboxes: Mailboxes::NONE };
        assert_eq!(told(&courier.deliver(parcel).await), comes_to, "{offers:?}");
        let heard = heard.lock().expect("no panic");
        if comes_to.starts_with("delivered") {
            assert_eq!(heard.contents, [whole(&content)], "{offers:?}");
            let mail = heard.said.iter().find(|line| line.starts_with("MAIL FROM:")).expect("it was said");
            assert!(mail.ends_with(&format!(">{says}")), "{mail}");
        } else {
            assert!(heard.contents.is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_four_levels_of_tls() {
    use TlsLevel::{Encrypt, Off, Opportunistic, Verify};
    let identity = |name: &str| {
        let (certificate, key) = self_signed(name).expect("a certificate");
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("a pair");
        (identity, Roots::none().and_pem(certificate.as_bytes()).expect("a root"))
    };
    let (known, roots) = identity("one.example");
    let (other_name, _) = identity("other.example");
    let (unknown, _) = identity("one.example");
    let plain = || Some(Server::default());
    let tls = |identity: &Identity| Some(Server::default().with_tls(identity));
    let closing = |step| Some(Server::default().with_tls(&known).at(step, Do::Close));
    // Words in clear behind the 220, which nobody believes.
    let injecting =
        || Some(Server::default().with_tls(&known).at("STARTTLS", Do::Say("220 go\r\n220 not TLS")));
    for (level, servers, comes_to, dials) in [
        (Off, vec![tls(&known)], "delivered 2.0.0", 1),
        (Opportunistic, vec![plain()], "delivered 2.0.0", 1),
        (Opportunistic, vec![tls(&unknown)], "delivered 2.0.0", 1),
        (Opportunistic, vec![closing("STARTTLS"), tls(&known)], "delivered 2.0.0", 2),
        (Opportunistic, vec![closing("HANDSHAKE"), tls(&known)], "delivered 2.0.0", 2),
        (Encrypt, vec![plain()], "unreached 4.7.10", 1),
        (Encrypt, vec![tls(&unknown)], "delivered 2.0.0", 1),
        (Encrypt, vec![closing("STARTTLS")], "unreached 4.4.2", 1),
        (Encrypt, vec![closing("HANDSHAKE")], "unreached 4.7.5", 1),
        (Verify, vec![plain()], "unreached 4.7.10", 1),
        (Verify, vec![tls(&known)], "delivered 2.0.0", 1),
        (Verify, vec![tls(&unknown)], "unreached 4.7.5", 1),
        (Verify, vec![tls(&other_name)], "unreached 4.7.5", 1),
        (Verify, vec![injecting()], "delivered 2.0.0", 1),
    ] {
        let (mut courier, heard) = Stage::new(servers).trusting(roots.clone()).courier(ONE, level);
        assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), comes_to, "{level:?}");
        assert_eq!(dialed(&heard), dials, "{level:?}");
        let hellos = said(&heard).iter().filter(|line| line.starts_with("EHLO")).count();
        let secured =
            comes_to.starts_with("delivered") && dials == 1 && said(&heard).contains(&"STARTTLS".to_owned());
        assert_eq!(
            hellos,
            if secured { 2 } else { dials },
            "{level:?}: what was learned in clear is forgotten"
        );
    }
    // TLS from the first byte.
    for (level, identity, comes_to) in [
        (Verify, &known, "delivered 2.0.0"),
        (Verify, &unknown, "unreached 4.7.5"),
        (Encrypt, &unknown, "delivered 2.0.0"),
    ] {
        let mut server = Server::default().with_tls(identity);
        server.tls_first = true;
        let (mut courier, heard) =
            Stage::new(vec![Some(server)]).trusting(roots.clone()).courier(&["smtps://one.example"], level);
        assert_eq!(told(&deliver(&mut courier, &["r@b.example"]).await), comes_to, "{level:?}");
        assert!(!said(&heard).contains(&"STARTTLS".to_owned()));
    }
}
