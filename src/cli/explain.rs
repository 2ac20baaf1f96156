//! Explain: the decision for one recipient, offline from the configuration.

use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;

use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::daemon;
use crate::decision::Rules;
use crate::dns::{Meter, Resolver};
use crate::explain::{Explanation, Question, explain, nowhere};
use crate::inquiry::Inquiry;
use crate::smtp::reply::Texts;

use super::{MISTAKE, NO, YES, print_json};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The recipient: an address, or `postmaster`.
    rcpt: String,
    /// MAIL FROM; the null sender when left out.
    #[arg(long)]
    from: Option<String>,
    /// Where the client connects from.
    #[arg(long, default_value_t = nowhere())]
    client_ip: IpAddr,
    /// A name that the client's verified certificate proves; may be given several times. Implies --tls.
    #[arg(long)]
    client_cert: Vec<String>,
    /// The client speaks TLS.
    #[arg(long)]
    tls: bool,
    /// Answer as a node of this region would.
    #[arg(long)]
    region: Option<String>,
    /// As if the client came through a legacy listener (rule 11).
    #[arg(long)]
    legacy: bool,
}

impl Explain {
    pub(super) async fn run(&self, loaded: config::Loaded, json: bool) -> u8 {
        let settings = loaded.settings;
        let rules = self.rules(&settings);
        let texts = Texts::new(&daemon::wording(&settings));
        let (rules, texts) = match (rules, texts) {
            (Ok(rules), Ok(texts)) => (rules, texts),
            (rules, texts) => {
                let wording = texts.err().into_iter().flatten().map(|problem| problem.to_string());
                return refuse(rules.err().into_iter().chain(wording));
            }
        };
        let directory = match super::directory::open(&settings, loaded.table).await {
            Ok(directory) => directory,
            Err(code) => return code,
        };
        let resolver = Arc::new(Resolver::new(daemon::dns(&settings), Meter::default()));
        let inquiry = Inquiry::new(directory, rules, settings.directory.lookup_deadline, Clock::System)
            .asking(resolver);
        let explanation = match explain(&inquiry, &inquiry.rules(), &texts, &self.question()).await {
            Ok(explanation) => explanation,
            Err(problems) => return refuse(problems),
        };
        if json {
            print_json(&explanation);
        } else {
            print(&explanation);
        }
        if explanation.accepted { YES } else { NO }
    }

    fn question(&self) -> Question {
        Question {
            rcpt: self.rcpt.clone(),
            from: self.from.clone(),
            client_ip: self.client_ip,
            client_cert: self.client_cert.join(","),
            tls: self.tls,
            legacy: self.legacy,
            region: self.region.clone(),
        }
    }

    fn rules(&self, settings: &Settings) -> Result<Rules, String> {
        let rules = daemon::rules(settings);
        let Some(code) = &self.region else { return Ok(rules) };
        let region = settings
            .known_regions()
            .find(code)
            .ok_or_else(|| format!("--region: '{code}' is not a region code"))?;
        Ok(daemon::rules_as_seen_from(settings, region))
    }
}

fn refuse(problems: impl IntoIterator<Item = String>) -> u8 {
    let problems: Vec<String> =
        problems.into_iter().map(|problem| format!("landfall explain: {problem}")).collect();
    super::complain(problems.join("\n"));
    MISTAKE
}

fn print(explanation: &Explanation) {
    println!("RCPT TO:<{}> at a node of {}", explanation.recipient, explanation.node_region);
    println!();
    for step in &explanation.steps {
        let rule = match step.rule.strip_prefix("6.") {
            Some(entry) => format!("§6 {entry}"),
            None if step.rule.parse::<u16>().is_ok() => format!("rule {}", step.rule),
            None => step.rule.to_owned(),
        };
        println!("  {rule:<16}{}", step.says);
    }
    println!();
    println!("  {:<16}{}", "reply", explanation.reply);
    if let Some(connector) = &explanation.connector {
        println!("  {:<16}{connector}", "connector");
    }
    if let Some(next_hop) = &explanation.next_hop {
        println!("  {:<16}{next_hop} {}", "next hop", explanation.endpoints.join(" "));
    }
    if let Some(irr) = explanation.in_region_routing {
        println!("  {:<16}{irr}", "IRR");
    }
}
