//! Trial: the inbound SMTP test, and the validation of a connector (rule 41), as somebody asks for them.
//!
//! `landfall probe`, `landfall connector validate` and the API all come here. Neither changes anything here:
//! what the outcome means is for the operator to say. A test message is a real one.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Courier, Delivery, Letter, Means, Parcel, Services, Step, Wanted, probe, probe_domain};
use crate::clock::{Clock, Timestamp};
use crate::directory::Table;
use crate::mail::{
    Address, Domain, Endpoint, Envelope, Mailboxes, MessageId, NextHop, NextHopName, OutboundConnector,
    Outcome, Recipient, Sender, Tenant, TlsLevel, Transport,
};
use crate::net::Roots;
use crate::spool::{Body, Content};

const SMTP: u16 = 25;
const SMTPS: u16 = 465;

/// One step, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub step: String,
    pub host: String,
    pub ok: bool,
    pub says: String,
    pub took_ms: u64,
}

impl From<Step> for Line {
    fn from(step: Step) -> Self {
        let Step { name, host, holds, says, took } = step;
        Self { step: name.to_owned(), host, ok: holds, says, took_ms: millis(took) }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What a probe is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// A domain, whose MX hosts are looked up; or one host or address, as `host:port`, `192.0.2.1`, `[::1]:25`.
    pub target: String,
    pub to: String,
    /// The null sender when absent.
    pub from: Option<String>,
    /// 25 when absent; at 465 TLS comes first.
    pub port: Option<u16>,
    /// Send a small message, to the first host that takes the recipient.
    #[serde(default)]
    pub send: bool,
    #[serde(default = "opportunistic")]
    pub tls: TlsLevel,
    /// Authorities that are believed beside the system's.
    pub ca: Option<PathBuf>,
    /// How long each step may take.
    pub timeout_s: Option<u64>,
}

fn opportunistic() -> TlsLevel {
    TlsLevel::Opportunistic
}

enum Place {
    Domain(Domain, u16),
    Host(Endpoint),
}

/// A question without mistakes.
pub struct Trial {
    place: Place,
    to: Address,
    from: Sender,
    send: bool,
    tls: TlsLevel,
    ca: Option<PathBuf>,
    patience: Duration,
}

impl Trial {
    pub fn new(question: &Question, patience: Duration) -> Result<Self, String> {
        let place = place(question)?;
        let to = Address::parse(&question.to).map_err(|error| format!("to {}: {error}", question.to))?;
        let from = match question.from.as_deref().filter(|from| !matches!(*from, "" | "<>")) {
            Some(text) => Some(Address::parse(text).map_err(|error| format!("from {text}: {error}"))?),
            None => None,
        };
        if let Some(ca) = &question.ca {
            Roots::none().and_file(ca).map_err(|error| error.to_string())?;
        }
        let Question { send, tls, ca, .. } = question.clone();
        Ok(Self { place, to, from, send, tls, ca, patience })
    }

    /// True when every step holds, to the recipient at least.
    pub async fn run(&self, means: Means<'_>, show: &mut (dyn FnMut(Line) + Send)) -> bool {
        let text = self.send.then(|| message(&self.to, self.from.as_ref(), means.hostname));
        let letter = Letter { from: &self.from, to: &self.to, text: text.as_deref() };
        let wanted = Wanted {
            tls: self.tls,
            ca: self.ca.as_deref(),
            patience: self.patience,
            dane: true,
            letter: Some(letter),
        };
        // Hosts that were all passed over prove nothing.
        let mut asked = false;
        let mut show = |step: Step| {
            asked |= step.name == "rcpt";
            show(step.into());
        };
        let holds = match &self.place {
            Place::Domain(domain, port) => probe_domain(means, domain, *port, wanted, &mut show).await,
            Place::Host(endpoint) => probe(means, endpoint, wanted, &mut show).await,
        };
        holds && asked
    }
}

fn place(question: &Question) -> Result<Place, String> {
    let target = question.target.as_str();
    let bad = |why: String| format!("{target}: {why}; expected a domain, a host or an address");
    let port = question.port.unwrap_or(SMTP);
    if port == 0 {
        return Err("port: expected 1 to 65535".to_owned());
    }
    let host = match target.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) if target.contains(':') => target.to_owned(),
        Err(_) => {
            let domain = Domain::parse(target).map_err(|error| bad(error.to_string()))?;
            return Ok(Place::Domain(domain, port));
        }
    };
    let has_port = host.rsplit_once(':').is_some_and(|(_, end)| end.bytes().all(|b| b.is_ascii_digit()));
    if has_port && question.port.is_some() && !host.ends_with(']') {
        return Err("a port is given twice: in the target and as port".to_owned());
    }
    let whole = if has_port && !host.ends_with(']') { host } else { format!("{host}:{port}") };
    let scheme = if whole.ends_with(&format!(":{SMTPS}")) { "smtps" } else { "smtp" };
    Endpoint::parse(&format!("{scheme}://{whole}")).map(Place::Host).map_err(|error| bad(error.to_string()))
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

/// An outbound connector to look at, and recipients for a test message each.
pub struct Validation {
    tenant: Arc<Tenant>,
    connector: Arc<OutboundConnector>,
    recipients: Vec<Address>,
    table: Arc<Table>,
}

impl Validation {
    /// `name` is the connector's, or the tenant's id, a slash and the connector's.
    pub fn new(table: Arc<Table>, name: &str, to: &[String]) -> Result<Self, String> {
        let tenants: Vec<Arc<Tenant>> = table.tenants().cloned().collect();
        let (tenant, connector) = find(&tenants, name)?;
        let (tenant, connector) = (tenant.clone(), connector.clone());
        let parsed =
            to.iter().map(|text| Address::parse(text).map_err(|error| format!("to {text}: {error}")));
        Ok(Self { tenant, connector, recipients: parsed.collect::<Result<_, _>>()?, table })
    }

    /// The tenant's id, a slash and the connector's name.
    pub fn name(&self) -> String {
        format!("{}/{}", self.tenant.id, self.connector.name)
    }

    /// Looks at every smart host, and sends each recipient a message. True when every step holds.
    pub async fn run(
        &self,
        services: &Arc<Services>,
        hostname: &Domain,
        show: &mut (dyn FnMut(Line) + Send),
    ) -> bool {
        let mut ok = true;
        let mut show = |line: Line| {
            ok &= line.ok;
            show(line);
        };
        let connector = &self.connector;
        for endpoint in connector.smart_hosts.iter() {
            let wanted = Wanted::greetings(connector.tls, connector.ca.as_deref());
            probe(services.means(), endpoint, wanted, &mut |step| show(step.into())).await;
        }
        for recipient in &self.recipients {
            let line = if self.covers(recipient.domain()) {
                Box::pin(self.send(services, hostname, recipient)).await
            } else {
                let says = format!("{} is none of the connector's domains", recipient.domain());
                Line { step: "message".to_owned(), host: recipient.to_string(), ok: false, says, took_ms: 0 }
            };
            show(line);
        }
        ok
    }

    fn covers(&self, domain: &Domain) -> bool {
        let is_own = || self.table.domain(domain).is_some_and(|own| own.tenant.id == self.tenant.id);
        self.connector.recipient_domains.iter().any(|pattern| pattern.matches(domain))
            || self.connector.all_accepted_domains && is_own()
    }

    /// A real message, the way that mail takes.
    async fn send(&self, services: &Arc<Services>, hostname: &Domain, recipient: &Address) -> Line {
        let started = tokio::time::Instant::now();
        let now = Clock::System.now();
        let connector = &self.connector;
        let sender = Address::postmaster_at(hostname.clone());
        let envelope = self.envelope(&sender, recipient, now);
        let text = format!(
            "From: <{sender}>\r\nTo: <{recipient}>\r\nDate: {}\r\nMessage-ID: <{}@{hostname}>\r\n\
             Subject: Test of connector {}\r\nAuto-Submitted: auto-generated\r\n\r\n\
             This message was sent to see whether the connector {} works. It can be deleted.\r\n",
            now.rfc5322(),
            envelope.id,
            connector.name,
            connector.name,
        );
        let content = Content { head: Bytes::from(text), body: Body::Memory(Bytes::new()) };
        let hop = NextHop {
            name: NextHopName::SmartHost {
                tenant: self.tenant.id.clone(),
                connector: connector.name.clone(),
            },
            endpoints: connector.smart_hosts.clone(),
            tls: connector.tls,
            ca: connector.ca.clone(),
        };
        let mut courier = Courier::new(services.clone(), hop);
        let parcel =
            Parcel { envelope: &envelope, recipients: &[0], content: &content, mailboxes: Mailboxes::NONE };
        let (ok, reply) = match courier.deliver(parcel).await {
            Delivery::Unreached(reply) => (false, Some(reply)),
            Delivery::Reached(mut outcomes) => match outcomes.pop() {
                Some(Outcome::Delivered(reply, _)) => (true, Some(reply)),
                Some(Outcome::Deferred(reply) | Outcome::Postponed(reply) | Outcome::Failed(reply)) => {
                    (false, Some(reply))
                }
                None => (false, None),
            },
        };
        courier.quit().await;
        let says = reply.map_or_else(String::new, |reply| format!("{} {}", reply.host, reply.line()));
        let took_ms = millis(started.elapsed());
        Line { step: "message".to_owned(), host: recipient.to_string(), ok, says, took_ms }
    }

    fn envelope(&self, sender: &Address, recipient: &Address, now: Timestamp) -> Envelope {
        Envelope {
            transport: Transport::Originating,
            tenant: Some(self.tenant.id.as_ref().into()),
            ..Envelope::new(
                MessageId::at(now),
                now,
                Some(sender.clone()),
                vec![Recipient::new(recipient.clone())],
            )
        }
    }
}

type Found<'t> = (&'t Arc<Tenant>, &'t Arc<OutboundConnector>);

fn find<'t>(tenants: &'t [Arc<Tenant>], name: &str) -> Result<Found<'t>, String> {
    let (id, own_name) = match name.split_once('/') {
        Some((id, own_name)) => (Some(id), own_name),
        None => (None, name),
    };
    let theirs = || tenants.iter().filter(|tenant| id.is_none_or(|id| *tenant.id == *id));
    let found: Vec<Found<'t>> = theirs()
        .flat_map(|tenant| tenant.outbound_connectors.iter().map(move |connector| (tenant, connector)))
        .filter(|(_, connector)| *connector.name == *own_name)
        .collect();
    match found.as_slice() {
        [only] => Ok(*only),
        [] if theirs().any(|tenant| tenant.inbound_connectors.iter().any(|one| *one.name == *own_name)) => {
            Err(format!("{name} is an inbound connector: others call by it, so there is nobody to look at"))
        }
        [] => Err(format!("there is no connector {name}; `landfall connector list` shows all")),
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|(tenant, connector)| format!("{}/{}", tenant.id, connector.name))
                .collect();
            Err(format!("{name} is several tenants': one of {}", names.join(", ")))
        }
    }
}
