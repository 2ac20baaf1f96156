//! Explain: the decision for one recipient, step by step, from the very code that the server runs.
//!
//! Owns the question as an operator puts it and the answer as they read it; `landfall explain` asks offline,
//! the HTTP API asks the running daemon.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::decision::{Attributed, Door, Place, Reason, Rules, Step, Trail, Via};
use crate::inquiry::{Asked, Circumstances, Inquiry};
use crate::mail::{Address, Domain, Peer, Sender, SessionId, TlsFacts};
use crate::session::answer_for;
use crate::smtp::reply::{Answer, Context, Reply, Texts};

/// What is asked, as it was typed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The recipient: an address, or `postmaster`.
    pub rcpt: String,
    /// MAIL FROM; the null sender when left out.
    pub from: Option<String>,
    /// Where the client connects from.
    #[serde(default = "nowhere")]
    pub client_ip: IpAddr,
    /// Names that the client's verified certificate proves, with commas between them. Implies `tls`.
    #[serde(default)]
    pub client_cert: String,
    #[serde(default)]
    pub tls: bool,
    /// As if the client came through a legacy listener (rule 11).
    #[serde(default)]
    pub legacy: bool,
    /// Answer as a node of this region would; whoever asks brings its rules.
    pub region: Option<String>,
}

pub const fn nowhere() -> IpAddr {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}

#[derive(Debug, Serialize)]
pub struct Explanation {
    pub recipient: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    pub node_region: String,
    pub accepted: bool,
    pub steps: Vec<Step>,
    /// The exact line that the client would read.
    pub reply: String,
    /// The inbound connector that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_region_routing: Option<&'static str>,
}

/// What is wrong with the question itself, all of it at once.
pub type Problems = Vec<String>;

pub async fn explain(
    inquiry: &Inquiry,
    rules: &Rules,
    texts: &Texts,
    question: &Question,
) -> Result<Explanation, Problems> {
    let (asked, sender) = match (question.asked(), question.sender()) {
        (Ok(asked), Ok(sender)) => (asked, sender),
        (asked, sender) => return Err([asked.err(), sender.err()].into_iter().flatten().collect()),
    };
    let mut trail = Trail::on();
    let sender = sender.as_ref().map(Address::domain);
    let (answer, via, place) = match question.decide(inquiry, rules, &asked, sender, &mut trail).await {
        Ok((via, place)) => (Answer::from(Reply::RecipientOk), via, Some(place)),
        Err(reason) => (answer_for(&reason, &question.peer()), None, None),
    };
    let mut line = Vec::new();
    let context = Context { session: SessionId(0), now: Clock::System.now() };
    // There is no session to name.
    answer.write(&texts.without_context(), context, &mut line);
    Ok(Explanation {
        recipient: without_brackets(&question.rcpt).to_owned(),
        sender: question.from.clone(),
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
    })
}

/// As it stands in a command, too.
fn without_brackets(path: &str) -> &str {
    path.strip_prefix('<').and_then(|path| path.strip_suffix('>')).unwrap_or(path)
}

impl Question {
    fn asked(&self) -> Result<Asked, String> {
        let path = without_brackets(&self.rcpt);
        if path.eq_ignore_ascii_case("postmaster") {
            return Ok(Asked::Postmaster);
        }
        Address::parse(path).map(Asked::Mailbox).map_err(|error| format!("{}: {error}", self.rcpt))
    }

    fn sender(&self) -> Result<Sender, String> {
        match self.from.as_deref().map(without_brackets) {
            None | Some("") => Ok(None),
            Some(from) => Address::parse(from).map(Some).map_err(|error| format!("from: {error}")),
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
        let attributed = match inquiry.attribute(rules, &peer, sender, door, trail).await {
            // The node's own postmaster takes mail from whoever it is.
            Err(Reason::DomainLookupFailed) if matches!(asked, Asked::Postmaster) => Attributed::default(),
            attributed => attributed?,
        };
        let Attributed { attribution, via } = attributed;
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
        let names = self.client_cert.split(',').map(str::trim).filter(|name| !name.is_empty());
        let verified_names: Vec<String> = names.map(ToOwned::to_owned).collect();
        if self.tls || !verified_names.is_empty() {
            peer.tls = Some(TlsFacts { verified_names, ..TlsFacts::default() });
        }
        peer
    }
}
