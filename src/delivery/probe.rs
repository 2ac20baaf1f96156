//! Probe: a look at one server, step by step, each with what it showed and how long it took.
//!
//! Says what mail would say, in that order, and takes leave where it was told to: after the greetings, after
//! the recipient, or with a message. `trial` asks for it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::Services;
use super::transfer::trust;
use crate::dns::{Answer, Resolver};
use crate::mail::{Address, Domain, Endpoint, Lookup, Sender, TlsLevel};
use crate::net::{Association, ClientTls, Dane, Dial, Target, Trust, Wire, within};
use crate::smtp::response::{Response, ResponseReader};

/// No step takes longer than this, whatever mail may.
const PATIENCE: Duration = Duration::from_secs(30);
/// MX hosts that are looked at, the most preferred first, and addresses of each.
const EXCHANGERS_LIMIT: usize = 8;
const ADDRESSES_LIMIT: usize = 8;

/// One step, and whether mail would get past it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `mx`, `dns`, `dane`, `tcp`, `banner`, `ehlo`, `tls`, `chain`, `mail`, `rcpt`, `data`, `message`.
    pub name: &'static str,
    /// The address it was done with; the host before one is known.
    pub host: String,
    pub holds: bool,
    pub says: String,
    pub took: Duration,
}

/// What a probe uses.
#[derive(Clone, Copy)]
pub struct Means<'m> {
    /// What we call ourselves in EHLO.
    pub hostname: &'m str,
    pub dialer: &'m dyn Dial,
    pub resolver: &'m Resolver,
    pub tls: &'m ClientTls,
}

impl Services {
    pub fn means(&self) -> Means<'_> {
        Means { hostname: &self.hostname, dialer: &*self.dialer, resolver: &self.resolver, tls: &self.tls }
    }
}

/// What is asked of a server.
#[derive(Clone, Copy)]
pub struct Wanted<'w> {
    pub tls: TlsLevel,
    /// Authorities that are believed beside the system's.
    pub ca: Option<&'w Path>,
    /// How long each step may take.
    pub patience: Duration,
    /// Whether what the signed DNS says of its certificate counts (RFC 7672).
    pub dane: bool,
    pub letter: Option<Letter<'w>>,
}

impl<'w> Wanted<'w> {
    /// A look that leaves no trace there: greetings and TLS.
    pub fn greetings(tls: TlsLevel, ca: Option<&'w Path>) -> Self {
        Self { tls, ca, patience: PATIENCE, dane: false, letter: None }
    }
}

/// A transaction.
#[derive(Clone, Copy)]
pub struct Letter<'l> {
    pub from: &'l Sender,
    pub to: &'l Address,
    /// A whole message, with line ends as in SMTP and no line that begins with a dot; without one the probe
    /// ends after RCPT.
    pub text: Option<&'l str>,
}

/// What the first octets of a conversation are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    InClear,
    WithTls,
}

/// Where a conversation goes.
struct Server<'s> {
    host: &'s str,
    begins: Begins,
    /// Believed rather than any authority.
    dane: Option<Dane>,
}

struct Look<'l> {
    means: Means<'l>,
    wanted: Wanted<'l>,
    show: &'l mut (dyn FnMut(Step) + Send),
    host: String,
    since: Instant,
    holds: bool,
    /// The message is sent once, to the first server that lets it in.
    sent: bool,
}

/// Looks at every address of one endpoint. True when every step holds.
pub async fn probe(
    means: Means<'_>,
    endpoint: &Endpoint,
    wanted: Wanted<'_>,
    show: &mut (dyn FnMut(Step) + Send),
) -> bool {
    let mut look = Look::new(means, wanted, endpoint.to_string(), show);
    match endpoint {
        Endpoint::Smtp { host, port } => look.at_host(host, *port, Begins::InClear).await,
        Endpoint::Smtps { host, port } => look.at_host(host, *port, Begins::WithTls).await,
        Endpoint::Lmtp { .. } | Endpoint::LmtpUnix(_) | Endpoint::Maildir(_) => {
            look.step("dns", false, "speaks no SMTP");
        }
    }
    look.holds
}

/// Looks at every host that takes a domain's mail, the most preferred first.
pub async fn probe_domain(
    means: Means<'_>,
    domain: &Domain,
    port: u16,
    wanted: Wanted<'_>,
    show: &mut (dyn FnMut(Step) + Send),
) -> bool {
    let mut look = Look::new(means, wanted, domain.to_string(), show);
    for host in look.exchangers(domain).await {
        look.host.clone_from(&host);
        look.at_host(&host, port, Begins::InClear).await;
    }
    look.holds
}

impl<'l> Look<'l> {
    fn new(
        means: Means<'l>,
        wanted: Wanted<'l>,
        host: String,
        show: &'l mut (dyn FnMut(Step) + Send),
    ) -> Self {
        Self { means, wanted, show, host, since: Instant::now(), holds: true, sent: false }
    }

    fn step(&mut self, name: &'static str, holds: bool, says: impl Into<String>) {
        let (host, took) = (self.host.clone(), self.since.elapsed());
        self.holds &= holds;
        (self.show)(Step { name, host, holds, says: says.into(), took });
        self.since = Instant::now();
    }

    async fn exchangers(&mut self, domain: &Domain) -> Vec<String> {
        let name = format!("{domain}.");
        let mut found = match self.means.resolver.mx(&name).await {
            Answer::Found(found) => found,
            // The domain is its own host (RFC 5321 §5.1); a name that only the hosts file knows is one too.
            Answer::NoData { .. } | Answer::NoName { .. } => {
                self.step("mx", true, "no MX record: it is its own host");
                return vec![domain.to_string()];
            }
            Answer::Failed(why) => {
                self.step("mx", false, format!("the lookup failed: {why}"));
                return Vec::new();
            }
        };
        found
            .records
            .sort_by(|one, two| (one.preference, &one.exchange).cmp(&(two.preference, &two.exchange)));
        let signed = if found.authentic { " (DNSSEC)" } else { "" };
        let words: Vec<String> =
            found.records.iter().map(|mx| format!("{} {}", mx.preference, dotted(&mx.exchange))).collect();
        found.records.retain(|mx| !mx.exchange.is_empty());
        // RFC 7505 §3
        let says = match found.records.is_empty() {
            true => "the domain takes no mail (null MX)".to_owned(),
            false => format!("{}{signed}", words.join(", ")),
        };
        self.step("mx", !found.records.is_empty(), says);
        found.records.into_iter().take(EXCHANGERS_LIMIT).map(|mx| mx.exchange).collect()
    }

    async fn at_host(&mut self, host: &str, port: u16, begins: Begins) {
        self.since = Instant::now();
        let addresses = match self.means.resolver.addresses(host).await {
            Lookup::Found(addresses) => addresses,
            Lookup::Absent => return self.step("dns", false, "no such host, or it has no address"),
            Lookup::Failed => return self.step("dns", false, "the lookup failed"),
        };
        let found: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        self.step("dns", true, found.join(" "));
        let dane = match self.wanted.dane && host.parse::<IpAddr>().is_err() {
            true => self.dane(host, port).await,
            false => None,
        };
        let server = Server { host, begins, dane };
        let several = addresses.len() > 1;
        for address in addresses.into_iter().take(ADDRESSES_LIMIT) {
            let address = SocketAddr::new(address, port);
            self.host = address.to_string();
            Box::pin(self.at(address, &server, several)).await;
        }
    }

    /// What the signed DNS says of the server's certificate. RFC 7672 §2.2
    async fn dane(&mut self, host: &str, port: u16) -> Option<Dane> {
        let found = match self.means.resolver.tlsa(&format!("_{port}._tcp.{host}.")).await {
            Answer::Found(found) => found,
            Answer::NoData { .. } | Answer::NoName { .. } => {
                self.step("dane", true, "no TLSA record");
                return None;
            }
            Answer::Failed(why) => {
                self.step("dane", false, format!("the TLSA lookup failed: {why}"));
                return None;
            }
        };
        if !found.authentic {
            self.step("dane", true, "TLSA records that no signature proves: they count for nothing");
            return None;
        }
        let usable = found.records.iter().filter_map(|record| {
            Association::usable(record.usage, record.selector, record.matching, &record.data)
        });
        let usable: Vec<Association> = usable.collect();
        let says = format!("{} TLSA records, of which mail can use {}", found.records.len(), usable.len());
        self.step("dane", true, says);
        (!usable.is_empty()).then(|| Dane::new(usable, vec![host.to_owned()]))
    }

    async fn at(&mut self, address: SocketAddr, server: &Server<'_>, several: bool) {
        self.since = Instant::now();
        let stream = match self.means.dialer.dial(&Target::Tcp(address), self.wanted.patience).await {
            Ok(stream) => stream,
            // A machine without IPv6 says nothing of a server that has both.
            Err(error) if several && error.kind() == io::ErrorKind::NetworkUnreachable => {
                return self.step("tcp", true, format!("not looked at: {error}"));
            }
            Err(error) => return self.step("tcp", false, error.to_string()),
        };
        self.step("tcp", true, "connected");
        if let Some(mut wire) = Box::pin(self.converse(Wire::new(stream), server)).await {
            wire.put(b"QUIT\r\n");
            // Nothing depends on its farewell.
            let _ = within(self.wanted.patience, wire.close()).await;
        }
    }

    /// `None` when there is nobody left to take leave of.
    async fn converse(&mut self, mut wire: Wire, server: &Server<'_>) -> Option<Wire> {
        if server.begins == Begins::WithTls {
            wire = self.secure(wire, server).await?;
        }
        let banner = self.answered(&mut wire, "banner", 2).await?;
        let own = self.means.hostname;
        // Nobody takes his own name from another (rule 64): this very server is greeted by an address.
        let is_ours = banner.lines().next().and_then(|line| line.split(' ').next()) == Some(own);
        let hello = match wire.local_ip().filter(|_| is_ours) {
            Some(IpAddr::V4(ip)) => format!("[{ip}]"),
            Some(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
            None => own.to_owned(),
        };
        let mut offer = self.greet(&mut wire, &hello).await?;
        let tls = self.wanted.tls;
        if server.begins == Begins::InClear && tls != TlsLevel::Off {
            if offers(&offer, "STARTTLS") {
                wire.put(b"STARTTLS\r\n");
                match hear(&mut wire, self.wanted.patience).await {
                    Ok(answer) if answer.code == 220 => {}
                    Ok(answer) => {
                        self.step("tls", false, format!("{} {}", answer.code, answer.text()));
                        return Some(wire);
                    }
                    Err(why) => {
                        self.step("tls", false, why);
                        return None;
                    }
                }
                wire = self.secure(wire, server).await?;
                offer = self.greet(&mut wire, &hello).await?;
            } else {
                let needed = matches!(tls, TlsLevel::Encrypt | TlsLevel::Verify) || server.dane.is_some();
                let says = match (needed, server.dane.is_some()) {
                    (true, true) => "STARTTLS is not offered, and the TLSA records ask for it".to_owned(),
                    (true, false) => format!("STARTTLS is not offered, and tls = \"{}\" needs it", word(tls)),
                    (false, _) => "STARTTLS is not offered: plain text".to_owned(),
                };
                self.step("tls", !needed, says);
                if needed {
                    return Some(wire);
                }
            }
        }
        match self.wanted.letter {
            Some(letter) => self.transact(wire, letter, &offer).await,
            None => Some(wire),
        }
    }

    /// A handshake that takes any certificate, and then the verdict on it: so both are known.
    async fn secure(&mut self, wire: Wire, server: &Server<'_>) -> Option<Wire> {
        let (patience, means) = (self.wanted.patience, self.means);
        let (wire, facts) = match wire.connect_tls(means.tls, Trust::Anyone, server.host, patience).await {
            Ok(secured) => secured,
            Err(error) => {
                self.step("tls", false, error.to_string());
                return None;
            }
        };
        let shown = wire.server_certificate();
        let named = trust(TlsLevel::Verify, self.wanted.ca);
        let judged = |trust| match &shown {
            Some(shown) => shown.verdict(means.tls, trust, server.host).map_err(|error| error.to_string()),
            None => Err("no certificate was shown".to_owned()),
        };
        let (asked, (holds, verdict)) = match &server.dane {
            Some(dane) => (
                true,
                match judged(Trust::Dane(dane)) {
                    Ok(()) => (true, format!("the TLSA records prove {}", server.host)),
                    Err(why) => (false, format!("the TLSA records do not hold: {why}")),
                },
            ),
            None => (
                self.wanted.tls == TlsLevel::Verify,
                match judged(named) {
                    Ok(()) => (true, format!("the chain holds for {}", server.host)),
                    Err(why) => (false, format!("the chain does not hold: {why}")),
                },
            ),
        };
        let not_asked = if holds || asked {
            String::new()
        } else {
            format!("; tls = \"{}\" does not ask for it", word(self.wanted.tls))
        };
        let shown = shown.map(|shown| format!(", {shown}")).unwrap_or_default();
        let says = format!("{} {}, {verdict}{not_asked}{shown}", facts.version, facts.cipher);
        self.step("tls", holds || !asked, says);
        (holds || !asked).then_some(wire)
    }

    async fn transact(&mut self, mut wire: Wire, letter: Letter<'_>, offer: &Response) -> Option<Wire> {
        let from = letter.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let utf8 = letter.to.needs_utf8() || letter.from.as_ref().is_some_and(Address::needs_utf8);
        if utf8 && !offers(offer, "SMTPUTF8") {
            self.step("mail", false, "an address needs SMTPUTF8, which is not offered");
            return Some(wire);
        }
        let utf8 = if utf8 { " SMTPUTF8" } else { "" };
        wire.put(format!("MAIL FROM:<{from}>{utf8}\r\n").as_bytes());
        if !self.agreed(&mut wire, "mail", 2).await? {
            return Some(wire);
        }
        wire.put(format!("RCPT TO:<{}>\r\n", letter.to).as_bytes());
        if !self.agreed(&mut wire, "rcpt", 2).await? || self.sent {
            return Some(wire);
        }
        let Some(text) = letter.text else { return Some(wire) };
        wire.put(b"DATA\r\n");
        if !self.agreed(&mut wire, "data", 3).await? {
            return Some(wire);
        }
        wire.put(text.as_bytes());
        wire.put(b".\r\n");
        self.sent = self.agreed(&mut wire, "message", 2).await?;
        Some(wire)
    }

    async fn greet(&mut self, wire: &mut Wire, hello: &str) -> Option<Response> {
        wire.put(format!("EHLO {hello}\r\n").as_bytes());
        self.answered(wire, "ehlo", 2).await
    }

    /// `None` when there was no answer; else whether it was of the class that goes on.
    async fn agreed(&mut self, wire: &mut Wire, name: &'static str, class: u16) -> Option<bool> {
        self.answer(wire, name, class).await.map(|answer| answer.class() == class)
    }

    async fn answered(&mut self, wire: &mut Wire, name: &'static str, class: u16) -> Option<Response> {
        self.answer(wire, name, class).await.filter(|answer| answer.class() == class)
    }

    /// One answer as a step, which holds with the class that is expected.
    async fn answer(&mut self, wire: &mut Wire, name: &'static str, class: u16) -> Option<Response> {
        match hear(wire, self.wanted.patience).await {
            Ok(answer) => {
                let lines: Vec<&str> = answer.lines().collect();
                let status = answer.status.map(|status| format!("{status} ")).unwrap_or_default();
                let says = format!("{} {status}{}", answer.code, lines.join(", "));
                self.step(name, answer.class() == class, says);
                Some(answer)
            }
            Err(why) => {
                self.step(name, false, why);
                None
            }
        }
    }
}

async fn hear(wire: &mut Wire, patience: Duration) -> Result<Response, String> {
    let mut reader = ResponseReader::default();
    let hearing = async {
        wire.flush().await.map_err(|error| error.to_string())?;
        loop {
            let progress = reader.read(wire.pending()).map_err(|malformed| malformed.to_string())?;
            wire.consume(progress.consumed);
            if let Some(response) = progress.response {
                return Ok(response);
            }
            if wire.fill().await.map_err(|error| error.to_string())? == 0 {
                return Err("closed the connection".to_owned());
            }
        }
    };
    tokio::time::timeout(patience, hearing).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

fn offers(offer: &Response, extension: &str) -> bool {
    offer
        .lines()
        .skip(1)
        .any(|line| line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(extension)))
}

/// The root has no name of its own.
fn dotted(name: &str) -> &str {
    if name.is_empty() { "." } else { name }
}

fn word(tls: TlsLevel) -> &'static str {
    match tls {
        TlsLevel::Off => "off",
        TlsLevel::Opportunistic => "opportunistic",
        TlsLevel::Encrypt => "encrypt",
        TlsLevel::Verify => "verify",
    }
}
