//! Probe: the inbound SMTP test, against any server: a line per step with the server's words.
//!
//! Needs no configuration; with one it asks that one's name servers and calls itself as the edge does.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config;
use crate::daemon;
use crate::delivery::{Line, Means, Question, Trial};
use crate::dns::{Meter, Resolver};
use crate::mail::{Domain, TlsLevel};
use crate::net::{ClientTls, Network, Roots};

use super::{Cli, MISTAKE, NO, YES, complain, patience, print_json};

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

pub(super) fn print_line(line: &Line, json: bool) {
    if !json {
        let mark = if line.ok { "ok  " } else { "FAIL" };
        println!("{mark} {:<8} {:>7} ms  {}  {}", line.step, line.took_ms, line.host, line.says);
    }
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
        let question = Question {
            target: self.target.clone(),
            to: self.to.clone(),
            from: self.from.clone(),
            port: self.port,
            send: self.send,
            tls: self.tls.into(),
            ca: self.ca.clone(),
            timeout_s: None,
        };
        let trial = Trial::new(&question, self.timeout)?;
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
        let means = Means { hostname: &hostname, dialer: &Network, resolver: &resolver, tls: &tls };
        let mut steps: Vec<Line> = Vec::new();
        let mut show = |line: Line| {
            print_line(&line, cli.json);
            steps.push(line);
        };
        let ok = trial.run(means, &mut show).await;
        if cli.json {
            print_json(&serde_json::json!({ "target": self.target, "ok": ok, "steps": steps }));
        } else {
            println!("{}: {}", self.target, if ok { "every step holds" } else { "not every step holds" });
        }
        Ok(if ok { YES } else { NO })
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
