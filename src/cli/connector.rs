//! Connector: what connectors there are, and whether one works (rule 41).
//!
//! Validation has two parts: a look at every smart host, and a real message to each test recipient. It changes
//! nothing: what its outcome means is for the operator to say.

use std::sync::Arc;

use bytes::Bytes;
use clap::Subcommand;
use serde::Serialize;

use crate::admin::connector_rows;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Settings};
use crate::daemon;
use crate::delivery::{Courier, Delivery, Parcel, Services, Wanted, probe};
use crate::dns::{Meter, Resolver};
use crate::mail::{
    Address, Envelope, Mailboxes, MessageId, NextHop, NextHopName, OutboundConnector, Outcome, Recipient,
    Tenant, Transport,
};
use crate::spool::{Body, Content};

use super::probe::{Line, millis};
use super::{MISTAKE, NO, YES, complain, print_json};

#[derive(Debug, Subcommand)]
pub(super) enum Connector {
    /// Every connector, inbound and outbound.
    List,
    /// Look at each smart host of an outbound connector, and send a test message to each recipient given.
    Validate {
        /// Its name, or the tenant's id, a slash and its name.
        name: String,
        /// A test recipient in one of its domains; may be given several times.
        #[arg(long)]
        to: Vec<String>,
    },
}

#[derive(Debug, Serialize)]
struct Validation {
    connector: String,
    ok: bool,
    steps: Vec<Line>,
}

impl Connector {
    pub(super) async fn run(&self, loaded: config::Loaded, json: bool) -> u8 {
        let settings = loaded.settings;
        let directory = match super::directory::open(&settings, loaded.table).await {
            Ok(directory) => directory,
            Err(code) => return code,
        };
        let table = directory.table();
        let tenants: Vec<Arc<Tenant>> = table.tenants().cloned().collect();
        match self {
            Self::List => list(&tenants, json),
            Self::Validate { name, to } => match find(&tenants, name) {
                Ok((tenant, connector)) => {
                    validate(
                        &settings,
                        tenant,
                        connector,
                        to,
                        |domain| table.domain(domain).is_some_and(|own| own.tenant.id == tenant.id),
                        json,
                    )
                    .await
                }
                Err(why) => {
                    complain(format_args!("landfall connector: {why}"));
                    MISTAKE
                }
            },
        }
    }
}

fn list(tenants: &[Arc<Tenant>], json: bool) -> u8 {
    let rows = connector_rows(tenants.iter());
    if json {
        print_json(&rows);
        return YES;
    }
    let mut page = comfy_table::Table::new();
    page.load_style(comfy_table::presets::NOTHING);
    page.set_header(["tenant", "connector", "direction", "type", "matches", "smart hosts"]);
    for row in rows {
        let (matches, hosts) = (row.matches.join(" "), row.smart_hosts.join(" "));
        page.add_row([&row.tenant, &row.name, row.direction, row.kind, &matches, &hosts]);
    }
    println!("{page}");
    YES
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

async fn validate(
    settings: &Settings,
    tenant: &Tenant,
    connector: &OutboundConnector,
    to: &[String],
    is_own: impl Fn(&crate::mail::Domain) -> bool,
    json: bool,
) -> u8 {
    let mut recipients = Vec::new();
    for text in to {
        match Address::parse(text) {
            Ok(address) => recipients.push(address),
            Err(error) => {
                complain(format_args!("landfall connector: --to {text}: {error}"));
                return MISTAKE;
            }
        }
    }
    let resolver = Arc::new(Resolver::new(daemon::dns(settings), Meter::default()));
    let services = daemon::identities(settings)
        .and_then(|identities| daemon::services(settings, identities.first(), &resolver, None));
    let services = match services {
        Ok(services) => Arc::new(services),
        Err(error) => {
            complain(format_args!("landfall connector: {error}"));
            return MISTAKE;
        }
    };
    let mut steps = Vec::new();
    let mut show = |line: Line| {
        line.print(json);
        steps.push(line);
    };
    for endpoint in connector.smart_hosts.iter() {
        let wanted = Wanted::greetings(connector.tls, connector.ca.as_deref());
        probe(services.means(), endpoint, wanted, &mut |step| show(step.into())).await;
    }
    for recipient in recipients {
        let domain = recipient.domain();
        let covered = connector.recipient_domains.iter().any(|pattern| pattern.matches(domain))
            || connector.all_accepted_domains && is_own(domain);
        let line = if covered {
            Box::pin(send(settings, &services, tenant, connector, &recipient)).await
        } else {
            let says = format!("{domain} is none of the connector's domains");
            Line { step: "message".to_owned(), host: recipient.to_string(), ok: false, says, took_ms: 0 }
        };
        show(line);
    }
    let ok = steps.iter().all(|line| line.ok);
    let validation = Validation { connector: format!("{}/{}", tenant.id, connector.name), ok, steps };
    if json {
        print_json(&validation);
    } else {
        let verdict = if ok { "every step holds" } else { "not every step holds" };
        println!("{}: {verdict}; nothing was changed or marked", validation.connector);
    }
    if ok { YES } else { NO }
}

/// A real message, the way that mail takes.
async fn send(
    settings: &Settings,
    services: &Arc<Services>,
    tenant: &Tenant,
    connector: &OutboundConnector,
    recipient: &Address,
) -> Line {
    let started = tokio::time::Instant::now();
    let now = Clock::System.now();
    let envelope = envelope(settings, tenant, recipient, now);
    let sender = envelope.sender.as_ref().expect("it has one");
    let text = format!(
        "From: <{sender}>\r\nTo: <{recipient}>\r\nDate: {}\r\nMessage-ID: <{}@{}>\r\n\
         Subject: Test of connector {}\r\nAuto-Submitted: auto-generated\r\n\r\n\
         This message was sent to see whether the connector {} works. It can be deleted.\r\n",
        now.rfc5322(),
        envelope.id,
        settings.node.hostname,
        connector.name,
        connector.name,
    );
    let content = Content { head: Bytes::from(text), body: Body::Memory(Bytes::new()) };
    let hop = NextHop {
        name: NextHopName::SmartHost { tenant: tenant.id.clone(), connector: connector.name.clone() },
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

fn envelope(settings: &Settings, tenant: &Tenant, recipient: &Address, now: Timestamp) -> Envelope {
    Envelope {
        transport: Transport::Originating,
        tenant: Some(tenant.id.as_ref().into()),
        ..Envelope::new(
            MessageId::at(now),
            now,
            Some(Address::postmaster_at(settings.node.hostname.clone())),
            vec![Recipient::new(recipient.clone())],
        )
    }
}
