//! Explain: the decision for one recipient, from the very code that the server runs. Works offline.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::daemon;
use crate::decision::{Attributed, Door, Place, Reason, Rules, Step, Trail, Via};
use crate::dns::{Meter, Resolver};
use crate::inquiry::{Asked, Circumstances, Inquiry};
use crate::mail::{Address, Domain, Peer, Sender, SessionId, TlsFacts};
use crate::session::answer_for;
use crate::smtp::reply::{Answer, Context, Reply, Texts};

use super::{MISTAKE, NO, YES, print_json};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The recipient: an address, or `postmaster`.
    rcpt: String,
    /// MAIL FROM; the null sender when left out.
    #[arg(long)]
    from: Option<String>,
    /// Where the client connects from.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
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

#[derive(Debug, Serialize)]
struct Explanation {
    recipient: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<String>,
    node_region: String,
    accepted: bool,
    steps: Vec<Step>,
    /// The exact line that the client would read.
    reply: String,
    /// The inbound connector that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    connector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    home_region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_region_routing: Option<&'static str>,
}

impl Explain {
    pub(super) async fn run(&self, loaded: config::Loaded, json: bool) -> u8 {
        let settings = loaded.settings;
        let (asked, sender, rules) = match (self.asked(), self.sender(), self.rules(&settings)) {
            (Ok(asked), Ok(sender), Ok(rules)) => (asked, sender, rules),
            (asked, sender, rules) => {
                for problem in [asked.err(), sender.err(), rules.err()].into_iter().flatten() {
                    eprintln!("landfall explain: {problem}");
                }
                return MISTAKE;
            }
        };
        let texts = match Texts::new(&daemon::wording(&settings)) {
            Ok(texts) => texts,
            Err(problems) => {
                problems.iter().for_each(|problem| eprintln!("landfall explain: {problem}"));
                return MISTAKE;
            }
        };
        let directory = match super::directory::open(&settings, loaded.table).await {
            Ok(directory) => directory,
            Err(code) => return code,
        };
        let resolver = Arc::new(Resolver::new(daemon::dns(&settings), Meter::default()));
        let inquiry = Inquiry::new(directory, rules, settings.directory.lookup_deadline, Clock::System)
            .asking(resolver);
        let explanation = self.explain(&inquiry, &asked, &sender, &texts).await;
        if json {
            print_json(&explanation);
        } else {
            print(&explanation);
        }
        if explanation.accepted { YES } else { NO }
    }

    fn asked(&self) -> Result<Asked, String> {
        if self.rcpt.eq_ignore_ascii_case("postmaster") {
            return Ok(Asked::Postmaster);
        }
        Address::parse(&self.rcpt).map(Asked::Mailbox).map_err(|error| format!("{}: {error}", self.rcpt))
    }

    fn sender(&self) -> Result<Sender, String> {
        match self.from.as_deref() {
            None | Some("" | "<>") => Ok(None),
            Some(from) => Address::parse(from).map(Some).map_err(|error| format!("--from: {error}")),
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

    async fn explain(&self, inquiry: &Inquiry, asked: &Asked, sender: &Sender, texts: &Texts) -> Explanation {
        let rules = inquiry.rules();
        let mut trail = Trail::on();
        let sender = sender.as_ref().map(Address::domain);
        let (answer, via, place) = match self.decide(inquiry, &rules, asked, sender, &mut trail).await {
            Ok((via, place)) => (Answer::from(Reply::RecipientOk), via, Some(place)),
            Err(reason) => (answer_for(&reason, &self.peer()), None, None),
        };
        let mut line = Vec::new();
        let context = Context { session: SessionId(0), now: Clock::System.now() };
        answer.write(texts, context, &mut line);
        Explanation {
            recipient: self.rcpt.clone(),
            sender: self.from.clone(),
            node_region: rules.node_region.to_string(),
            accepted: place.is_some(),
            steps: trail.into_steps(),
            reply: String::from_utf8_lossy(&line).trim_end().to_owned(),
            connector: via.map(|via| via.to_string()),
            next_hop: place.as_ref().map(|place| place.next_hop.name.to_string()),
            endpoints: place
                .as_ref()
                .map(|place| place.next_hop.endpoints.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            home_region: place.as_ref().and_then(|place| place.home).map(|region| region.to_string()),
            in_region_routing: place.as_ref().map(|place| place.irr.word()),
        }
    }

    /// What MAIL and then RCPT would be told.
    async fn decide(
        &self,
        inquiry: &Inquiry,
        rules: &Rules,
        asked: &Asked,
        sender: Option<&Domain>,
        trail: &mut Trail,
    ) -> Result<(Option<Via>, Place), Reason> {
        let door = if self.legacy { Door::Legacy } else { Door::Regular };
        let peer = self.peer();
        let Attributed { attribution, via } = inquiry.attribute(rules, &peer, sender, door, trail).await?;
        let circumstances = Circumstances {
            attribution: &attribution,
            via: via.as_ref(),
            peer: &peer,
            sender,
            door,
            region_so_far: None,
        };
        let admitted = inquiry.admit(rules, asked, &circumstances, trail).await;
        admitted.map(|(admitted, place)| (admitted.via, place)).map_err(|refused| refused.reason)
    }

    fn peer(&self) -> Peer {
        let mut peer = Peer::new(self.client_ip);
        if self.tls || !self.client_cert.is_empty() {
            peer.tls = Some(TlsFacts { verified_names: self.client_cert.clone(), ..TlsFacts::default() });
        }
        peer
    }
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
