//! Probe: the inbound SMTP test, against any server: a line per step with the server's words.
//!
//! Needs no configuration; with one it asks that one's name servers and calls itself as the edge does.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::clock::Clock;
use crate::config;
use crate::daemon;
use crate::delivery::{Letter, Means, Step, Wanted, probe, probe_domain};
use crate::dns::{Meter, Resolver};
use crate::mail::{Address, Domain, Endpoint, MessageId, TlsLevel};
use crate::net::{ClientTls, Network, Roots};

use super::{Cli, MISTAKE, NO, YES, complain, patience, print_json};

const SMTP: u16 = 25;
const SMTPS: u16 = 465;

#[derive(Debug, Args)]
pub(super) struct Probe {
    /// A domain, whose MX hosts are looked up; or one host or address, as `host:port`, `192.0.2.1`, `[::1]:25`.
    target: String,
    /// The recipient that is asked about.
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// The sender; the null sender when left out.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// 25 when left out; at 465 TLS comes first.
    #[arg(long)]
    port: Option<u16>,
    /// Send a small message, to the first host that takes the recipient.
    #[arg(long)]
    send: bool,
    /// What the server must prove.
    #[arg(long, value_enum, default_value = "opportunistic")]
    tls: Level,
    /// A file of authorities that are believed beside the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long each step may take.
    #[arg(long, value_parser = patience, default_value = "30s")]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Off,
    Opportunistic,
    Encrypt,
    Verify,
}

/// One step, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) step: String,
    pub(super) host: String,
    pub(super) ok: bool,
    pub(super) says: String,
    pub(super) took_ms: u64,
}

impl From<Step> for Line {
    fn from(step: Step) -> Self {
        let Step { name, host, holds, says, took } = step;
        Self { step: name.to_owned(), host, ok: holds, says, took_ms: millis(took) }
    }
}

impl Line {
    pub(super) fn print(&self, json: bool) {
        if !json {
            let mark = if self.ok { "ok  " } else { "FAIL" };
            println!("{mark} {:<8} {:>7} ms  {}  {}", self.step, self.took_ms, self.host, self.says);
        }
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Serialize)]
struct Told {
    target: String,
    ok: bool,
    steps: Vec<Line>,
}

enum Place {
    Domain(Domain, u16),
    Host(Endpoint),
}

impl Probe {
    pub(super) async fn run(&self, cli: &Cli) -> u8 {
        match Box::pin(self.look(cli)).await {
            Ok(code) => code,
            Err(why) => {
                complain(format_args!("landfall probe: {why}"));
                MISTAKE
            }
        }
    }

    async fn look(&self, cli: &Cli) -> Result<u8, String> {
        let place = self.place()?;
        let to = Address::parse(&self.to).map_err(|error| format!("--to {}: {error}", self.to))?;
        let from = match self.from.as_deref().filter(|from| !matches!(*from, "" | "<>")) {
            Some(text) => Some(Address::parse(text).map_err(|error| format!("--from {text}: {error}"))?),
            None => None,
        };
        let loaded = match config::load(&cli.config) {
            Ok(loaded) => Some(loaded.settings),
            Err(_) => {
                if cli.config.exists() {
                    eprintln!("{} has mistakes: the system's name servers are asked", cli.config.display());
                }
                None
            }
        };
        let (resolver, hostname) = match &loaded {
            Some(settings) => {
                let resolver = Resolver::new(daemon::dns(settings), Meter::default());
                (resolver, settings.node.hostname.to_string())
            }
            None => (Resolver::system(), own_name()),
        };
        let tls = ClientTls::new(Roots::system(), None).map_err(|error| error.to_string())?;
        if let Some(ca) = &self.ca {
            Roots::none().and_file(ca).map_err(|error| error.to_string())?;
        }
        let means = Means { hostname: &hostname, dialer: &Network, resolver: &Arc::new(resolver), tls: &tls };
        let text = self.send.then(|| message(&to, from.as_ref(), &hostname));
        let letter = Letter { from: &from, to: &to, text: text.as_deref() };
        let wanted = Wanted {
            tls: self.tls.into(),
            ca: self.ca.as_deref(),
            patience: self.timeout,
            dane: true,
            letter: Some(letter),
        };
        let mut steps: Vec<Line> = Vec::new();
        let mut show = |step: Step| {
            let line = Line::from(step);
            line.print(cli.json);
            steps.push(line);
        };
        let holds = match &place {
            Place::Domain(domain, port) => probe_domain(means, domain, *port, wanted, &mut show).await,
            Place::Host(endpoint) => probe(means, endpoint, wanted, &mut show).await,
        };
        // Hosts that were all passed over prove nothing.
        let ok = holds && steps.iter().any(|line| line.step == "rcpt");
        if cli.json {
            print_json(&Told { target: self.target.clone(), ok, steps });
        } else {
            println!("{}: {}", self.target, if ok { "every step holds" } else { "not every step holds" });
        }
        Ok(if ok { YES } else { NO })
    }

    fn place(&self) -> Result<Place, String> {
        let bad = |why: String| format!("{}: {why}; expected a domain, a host or an address", self.target);
        let port = self.port.unwrap_or(SMTP);
        if port == 0 {
            return Err("--port: expected 1 to 65535".to_owned());
        }
        let host = match self.target.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            Ok(IpAddr::V4(address)) => address.to_string(),
            Err(_) if self.target.contains(':') => self.target.clone(),
            Err(_) => {
                let domain = Domain::parse(&self.target).map_err(|error| bad(error.to_string()))?;
                return Ok(Place::Domain(domain, port));
            }
        };
        let has_port = host.rsplit_once(':').is_some_and(|(_, end)| end.bytes().all(|b| b.is_ascii_digit()));
        if has_port && self.port.is_some() && !host.ends_with(']') {
            return Err("a port is given twice: in the target and as --port".to_owned());
        }
        let whole = if has_port && !host.ends_with(']') { host } else { format!("{host}:{port}") };
        let scheme = if whole.ends_with(&format!(":{SMTPS}")) { "smtps" } else { "smtp" };
        Endpoint::parse(&format!("{scheme}://{whole}"))
            .map(Place::Host)
            .map_err(|error| bad(error.to_string()))
    }
}

impl From<Level> for TlsLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Off => Self::Off,
            Level::Opportunistic => Self::Opportunistic,
            Level::Encrypt => Self::Encrypt,
            Level::Verify => Self::Verify,
        }
    }
}

/// What this machine calls itself; a literal would need to know the address it calls from.
fn own_name() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Domain::parse(told.trim()).map_or_else(|_| "localhost".to_owned(), |name| name.to_string())
}

fn message(to: &Address, from: Option<&Address>, hostname: &str) -> String {
    let now = Clock::System.now();
    let from = from.map_or_else(|| format!("postmaster@{hostname}"), ToString::to_string);
    format!(
        "From: <{from}>\r\nTo: <{to}>\r\nDate: {}\r\nMessage-ID: <{}@{hostname}>\r\n\
         Subject: Test of the way to {to}\r\nAuto-Submitted: auto-generated\r\n\r\n\
         This message was sent to see whether mail arrives. It can be deleted.\r\n",
        now.rfc5322(),
        MessageId::at(now),
    )
}
