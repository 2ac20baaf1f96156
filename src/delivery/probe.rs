//! Probe: a look at one endpoint, step by step, each with what it showed and how long it took.
//!
//! Says nothing that would leave a trace there: greets, turns to TLS, and takes leave. `cli` shows the steps.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::Services;
use super::transfer::trust;
use crate::mail::{Endpoint, Lookup, TlsLevel};
use crate::net::{Target, Trust, Wire, within};
use crate::smtp::response::{Response, ResponseReader};

/// No step takes longer than this, whatever mail may.
const PATIENCE: Duration = Duration::from_secs(30);
/// Addresses of one host that are looked at.
const ADDRESSES_LIMIT: usize = 8;

/// One step, and whether mail would get past it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `dns`, `tcp`, `banner`, `ehlo`, `chain`, `tls`.
    pub name: &'static str,
    /// The address it was done with; the host before one is known.
    pub host: String,
    pub holds: bool,
    pub says: String,
    pub took: Duration,
}

/// How a look at one address ended.
enum End {
    Whole,
    Failed,
    /// The chain did not hold, or another handshake failed.
    NoHandshake,
}

struct Look<'s> {
    services: &'s Services,
    steps: Vec<Step>,
    host: String,
    since: Instant,
}

/// Looks at every address of a smart host: name, connection, greeting, what it offers, TLS with the verdict on
/// its chain, and what it offers then.
pub async fn probe(services: &Services, endpoint: &Endpoint, tls: TlsLevel, ca: Option<&Path>) -> Vec<Step> {
    let mut look = Look { services, steps: Vec::new(), host: endpoint.to_string(), since: Instant::now() };
    let (host, port, implicit) = match endpoint {
        Endpoint::Smtp { host, port } => (host, *port, false),
        Endpoint::Smtps { host, port } => (host, *port, true),
        Endpoint::Lmtp { .. } | Endpoint::LmtpUnix(_) | Endpoint::Maildir(_) => {
            look.step("dns", false, "speaks no SMTP");
            return look.steps;
        }
    };
    let addresses = match services.resolver.addresses(host).await {
        Lookup::Found(addresses) => addresses,
        Lookup::Absent => {
            look.step("dns", false, "no such host, or it has no address");
            return look.steps;
        }
        Lookup::Failed => {
            look.step("dns", false, "the lookup failed");
            return look.steps;
        }
    };
    let found: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    look.step("dns", true, found.join(" "));
    for address in addresses.into_iter().take(ADDRESSES_LIMIT) {
        let address = SocketAddr::new(address, port);
        look.host = address.to_string();
        look.at(address, host, implicit, tls, ca).await;
    }
    look.steps
}

impl Look<'_> {
    fn step(&mut self, name: &'static str, holds: bool, says: impl Into<String>) {
        let (host, took) = (self.host.clone(), self.since.elapsed());
        self.steps.push(Step { name, host, holds, says: says.into(), took });
        self.since = Instant::now();
    }

    async fn at(
        &mut self,
        address: SocketAddr,
        host: &str,
        implicit: bool,
        tls: TlsLevel,
        ca: Option<&Path>,
    ) {
        let begun = self.steps.len();
        // The verdict on the chain is of interest whatever the connector asks for.
        let named = trust(TlsLevel::Verify, ca);
        if let End::NoHandshake = Box::pin(self.converse(address, host, implicit, tls, named)).await
            && tls != TlsLevel::Verify
        {
            let verdict = self.steps.pop().map(|step| step.says).unwrap_or_default();
            self.steps.truncate(begun);
            let said = format!("does not hold: {verdict}; tls = \"{}\" does not ask for it", word(tls));
            self.step("chain", true, said);
            Box::pin(self.converse(address, host, implicit, tls, Trust::Anyone)).await;
        }
    }

    async fn converse(
        &mut self,
        address: SocketAddr,
        host: &str,
        implicit: bool,
        tls: TlsLevel,
        trust: Trust<'_>,
    ) -> End {
        self.since = Instant::now();
        let stream = match self.services.dialer.dial(&Target::Tcp(address), PATIENCE).await {
            Ok(stream) => stream,
            Err(error) => {
                self.step("tcp", false, error.to_string());
                return End::Failed;
            }
        };
        self.step("tcp", true, "connected");
        let mut wire = Wire::new(stream);
        if implicit {
            wire = match self.secure(wire, host, trust).await {
                Some(wire) => wire,
                None => return End::NoHandshake,
            };
        }
        if self.answered(&mut wire, "banner", 220).await.is_none() {
            return End::Failed;
        }
        let Some(offer) = self.greet(&mut wire).await else { return End::Failed };
        if !implicit && tls != TlsLevel::Off {
            let offered = offer.lines().skip(1).any(|line| line.eq_ignore_ascii_case("STARTTLS"));
            if !offered {
                let needed = matches!(tls, TlsLevel::Encrypt | TlsLevel::Verify);
                let says = if needed {
                    format!("STARTTLS is not offered, and tls = \"{}\" needs it", word(tls))
                } else {
                    "STARTTLS is not offered: plain text".to_owned()
                };
                self.step("tls", !needed, says);
                if needed {
                    return End::Failed;
                }
            } else {
                wire.put(b"STARTTLS\r\n");
                match self.hear(&mut wire).await {
                    Ok(answer) if answer.code == 220 => {}
                    Ok(answer) => {
                        self.step("tls", false, format!("{} {}", answer.code, answer.text()));
                        return End::NoHandshake;
                    }
                    Err(why) => {
                        self.step("tls", false, why);
                        return End::Failed;
                    }
                }
                wire = match self.secure(wire, host, trust).await {
                    Some(wire) => wire,
                    None => return End::NoHandshake,
                };
                if self.greet(&mut wire).await.is_none() {
                    return End::Failed;
                }
            }
        }
        wire.put(b"QUIT\r\n");
        // Nothing depends on its farewell.
        let _ = within(PATIENCE, wire.close()).await;
        End::Whole
    }

    async fn secure(&mut self, wire: Wire, host: &str, trust: Trust<'_>) -> Option<Wire> {
        match wire.connect_tls(&self.services.tls, trust, host, PATIENCE).await {
            Ok((wire, facts)) => {
                let chain = match trust {
                    Trust::Anyone => "chain not asked for".to_owned(),
                    Trust::Named | Trust::NamedBy(_) | Trust::Dane(_) => {
                        format!("the chain holds for {host}")
                    }
                };
                self.step("tls", true, format!("{} {}, {chain}", facts.version, facts.cipher));
                Some(wire)
            }
            Err(error) => {
                self.step("tls", false, error.to_string());
                None
            }
        }
    }

    async fn greet(&mut self, wire: &mut Wire) -> Option<Response> {
        wire.put(format!("EHLO {}\r\n", self.services.hostname).as_bytes());
        self.answered(wire, "ehlo", 250).await
    }

    /// One answer as a step, which holds with the code that is expected.
    async fn answered(&mut self, wire: &mut Wire, name: &'static str, code: u16) -> Option<Response> {
        match self.hear(wire).await {
            Ok(answer) => {
                let lines: Vec<&str> = answer.lines().collect();
                self.step(name, answer.code == code, format!("{} {}", answer.code, lines.join(", ")));
                (answer.code == code).then_some(answer)
            }
            Err(why) => {
                self.step(name, false, why);
                None
            }
        }
    }

    async fn hear(&self, wire: &mut Wire) -> Result<Response, String> {
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
        tokio::time::timeout(PATIENCE, hearing).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

fn word(tls: TlsLevel) -> &'static str {
    match tls {
        TlsLevel::Off => "off",
        TlsLevel::Opportunistic => "opportunistic",
        TlsLevel::Encrypt => "encrypt",
        TlsLevel::Verify => "verify",
    }
}
