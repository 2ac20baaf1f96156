//! Courier: takes messages to one next hop, one after the other.
//!
//! Owns at most one live connection, and the order in which endpoints and addresses are tried. Each queue
//! worker has its own. What is said on the connection is `transfer`'s.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::dialogue::{Channel, Dialogue, Protocol};
use super::transfer::{Connection, NotReady, Place, Secrets, Transferred, not_connected, trust};
use super::verdict::{self, Breakage, Obstacle};
use super::{Delivery, Parcel, Services, maildir};
use crate::mail::{Endpoint, Lookup, NextHop, NextHopName, TlsLevel};
use crate::net::{self, ClientTls, Target, Trust, Wire};

/// Addresses tried for one host.
const ADDRESSES_LIMIT: usize = 8;

pub struct Courier {
    pub(super) services: Arc<Services>,
    hop: NextHop,
    live: Option<Connection>,
    /// In the middle of a message that is being streamed.
    open: Option<Connection>,
    /// Of the connections to the internet, which are counted.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// What a connection is made for.
#[derive(Clone, Copy)]
enum Errand {
    /// The whole message.
    Deliver,
    /// Its envelope; the body follows as it comes in, of this size if its sender was right.
    Begin { declared: Option<u64> },
}

/// How far an errand came.
enum Progress {
    Ended(Delivery),
    /// The envelope is said, and this connection waits for the body.
    Open(Box<Connection>),
    /// This message has to be whole before it can go.
    NotStreamable,
}

/// What became of a message whose envelope was offered before its body was here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Begun {
    Open,
    NotStreamable,
    Ended(Delivery),
}

/// Where a connection goes, and how it begins.
pub(super) struct Road<'a> {
    pub(super) target: Target,
    /// As outcomes name it.
    pub(super) label: String,
    /// What a certificate must prove.
    pub(super) server_name: &'a str,
    pub(super) protocol: Protocol,
    pub(super) tls: TlsLevel,
    /// How it is proven.
    pub(super) trust: Trust<'a>,
    /// Whose roots count, and what we show of ourselves.
    pub(super) client: &'a ClientTls,
    pub(super) start: Start,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Plain,
    /// TLS before the first word.
    Implicit,
}

impl Courier {
    pub fn new(services: Arc<Services>, hop: NextHop) -> Self {
        Self { services, hop, live: None, open: None, permit: None }
    }

    pub fn hop(&self) -> &NextHop {
        &self.hop
    }

    /// Whether it goes there, and with these services.
    pub(super) fn serves(&self, hop: &NextHop, services: &Arc<Services>) -> bool {
        self.hop == *hop && Arc::ptr_eq(&self.services, services)
    }

    pub fn is_connected(&self) -> bool {
        self.live.is_some()
    }

    /// One attempt. Dropped half-way, it drops the connection too: nothing half-said is ever continued.
    pub async fn deliver(&mut self, parcel: Parcel<'_>) -> Delivery {
        let patience = self.services.patience;
        if let Some(mut live) = self.live_connection(&parcel).await
            && let Transferred::Finished(outcomes) = Box::pin(live.transfer(&parcel, &patience)).await
        {
            self.keep(live);
            return Delivery::Reached(outcomes);
        }
        match Box::pin(self.deliver_afresh(&parcel, Errand::Deliver)).await {
            Progress::Ended(delivery) => delivery,
            Progress::Open(_) | Progress::NotStreamable => unreachable!("it was there as a whole"),
        }
    }

    /// Says the envelope of a message whose body is still coming in; of the parcel's content only the head
    /// counts. After `Begun::Open`, `push` and `flush` as it comes, then `end`.
    pub(super) async fn begin(&mut self, parcel: Parcel<'_>, declared: Option<u64>) -> Begun {
        let patience = self.services.patience;
        if let Some(mut live) = self.live_connection(&parcel).await {
            match Box::pin(live.begin(&parcel, declared, &patience)).await {
                Transferred::Open => {
                    self.open = Some(live);
                    return Begun::Open;
                }
                Transferred::Finished(outcomes) => {
                    self.keep(live);
                    return Begun::Ended(Delivery::Reached(outcomes));
                }
                Transferred::NotStreamable => {
                    self.keep(live);
                    return Begun::NotStreamable;
                }
                Transferred::Interrupted(_) | Transferred::Unusable(_) => {}
            }
        }
        match Box::pin(self.deliver_afresh(&parcel, Errand::Begin { declared })).await {
            Progress::Open(connection) => {
                self.open = Some(*connection);
                Begun::Open
            }
            Progress::NotStreamable => Begun::NotStreamable,
            Progress::Ended(delivery) => Begun::Ended(delivery),
        }
    }

    /// Takes more of the body into the connection's buffer.
    pub(super) fn push(&mut self, content: &Bytes) -> Result<(), Breakage> {
        self.open.as_mut().expect("a message was begun").push(content)
    }

    pub(super) async fn flush(&mut self) -> Result<(), Breakage> {
        let patience = self.services.patience;
        self.open.as_mut().expect("a message was begun").send_pushed(&patience).await
    }

    /// Whether the next hop took every recipient of the message under way.
    pub(super) fn has_accepted_all(&self) -> bool {
        self.open.as_ref().is_some_and(Connection::has_accepted_all)
    }

    /// Ends the body, or gives it up for the reason given, and hears the verdict.
    pub(super) async fn end(&mut self, pushed: Result<(), Breakage>) -> Delivery {
        let mut open = self.open.take().expect("a message was begun");
        let patience = self.services.patience;
        match open.end(pushed, &patience).await {
            Transferred::Finished(outcomes) => {
                self.keep(open);
                Delivery::Reached(outcomes)
            }
            Transferred::Interrupted(outcomes) => Delivery::Reached(outcomes),
            Transferred::Unusable(reply) => Delivery::Unreached(reply),
            Transferred::Open | Transferred::NotStreamable => unreachable!("the message is over"),
        }
    }

    /// The connection that is still good for another message. One that turns out dead is replaced, and not
    /// held against the destination.
    async fn live_connection(&mut self, parcel: &Parcel<'_>) -> Option<Connection> {
        let mut live = self.live.take()?;
        let fresh_enough = live.idle_since.elapsed() <= self.services.patience.idle;
        // Another host of the domain may promise what this one does not. RFC 8689 §4.2.1
        let to_the_internet = matches!(self.hop.name, NextHopName::Internet(_));
        let fit = !(to_the_internet && parcel.envelope.require_tls) || live.keeps_tls_required();
        (fresh_enough && fit && live.is_alive().await).then_some(live)
    }

    /// Whether it has no connection, or one that has been idle for too long.
    pub(super) fn has_rested(&self) -> bool {
        self.live.as_ref().is_none_or(|live| live.idle_since.elapsed() >= self.services.patience.idle)
    }

    pub async fn quit(mut self) {
        if let Some(live) = self.live.take() {
            live.quit(self.services.patience.courtesy).await;
        }
        self.permit = None;
    }

    pub(super) fn keep(&mut self, connection: Connection) {
        self.live = connection.is_ready().then_some(connection);
    }

    /// Every endpoint in turn, those that lately failed after the others, and every address of its host in
    /// turn, until one takes part.
    async fn deliver_afresh(&mut self, parcel: &Parcel<'_>, errand: Errand) -> Progress {
        if let (NextHopName::Internet(domain), Some(internet)) = (&self.hop.name, &self.services.internet) {
            let (domain, internet) = (domain.clone(), internet.clone());
            return match errand {
                Errand::Deliver => Progress::Ended(self.deliver_by_mx(&internet, &domain, parcel).await),
                Errand::Begin { .. } => Progress::NotStreamable,
            };
        }
        let mut last = verdict::obstacle(&Obstacle::NoEndpoint, "");
        let services = self.services.clone();
        let endpoints = self.hop.endpoints.clone();
        for endpoint in self.services.troubled.last(&endpoints) {
            let reached = match endpoint {
                Endpoint::Maildir(root) => match errand {
                    Errand::Deliver => Progress::Ended(maildir::deliver(root, parcel, &self.services).await),
                    Errand::Begin { .. } => return Progress::NotStreamable,
                },
                Endpoint::LmtpUnix(path) => {
                    let road = Road {
                        target: Target::Unix(path.clone()),
                        label: endpoint.to_string(),
                        server_name: "localhost",
                        protocol: Protocol::Lmtp,
                        // Nobody listens between two ends of a local socket.
                        tls: TlsLevel::Off,
                        trust: trust(TlsLevel::Off, None),
                        client: &services.tls,
                        start: Start::Plain,
                    };
                    self.travel(&road, parcel, errand).await
                }
                Endpoint::Smtp { host, port } => {
                    self.travel_to(host, *port, Protocol::Smtp, Start::Plain, parcel, errand).await
                }
                Endpoint::Smtps { host, port } => {
                    self.travel_to(host, *port, Protocol::Smtp, Start::Implicit, parcel, errand).await
                }
                Endpoint::Lmtp { host, port } => {
                    self.travel_to(host, *port, Protocol::Lmtp, Start::Plain, parcel, errand).await
                }
            };
            match reached {
                Progress::Ended(Delivery::Unreached(reply)) => {
                    self.services.troubled.remember(endpoint);
                    last = reply;
                }
                reached => {
                    self.services.troubled.forget(endpoint);
                    return reached;
                }
            }
        }
        Progress::Ended(Delivery::Unreached(last))
    }

    async fn travel_to(
        &mut self,
        host: &str,
        port: u16,
        protocol: Protocol,
        start: Start,
        parcel: &Parcel<'_>,
        errand: Errand,
    ) -> Progress {
        let addresses = match self.services.resolver.addresses(host).await {
            Lookup::Found(addresses) => addresses,
            Lookup::Absent => return unreached(&Obstacle::NoSuchHost, host),
            Lookup::Failed => return unreached(&Obstacle::DnsFailed, host),
        };
        let mut last = verdict::obstacle(&Obstacle::NoSuchHost, host);
        let (services, ca) = (self.services.clone(), self.hop.ca.clone());
        for address in addresses.into_iter().take(ADDRESSES_LIMIT) {
            let road = Road {
                target: Target::Tcp(SocketAddr::new(address, port)),
                label: label(host, address, port),
                server_name: host,
                protocol,
                tls: self.hop.tls,
                trust: trust(self.hop.tls, ca.as_deref()),
                client: &services.tls,
                start,
            };
            match self.travel(&road, parcel, errand).await {
                Progress::Ended(Delivery::Unreached(reply)) => last = reply,
                reached => return reached,
            }
        }
        Progress::Ended(Delivery::Unreached(last))
    }

    /// Opens a connection and hands the parcel over.
    async fn travel(&mut self, road: &Road<'_>, parcel: &Parcel<'_>, errand: Errand) -> Progress {
        let services = self.services.clone();
        let opened = match self.open(&services, road, road.tls).await {
            // TLS was offered and did not come about: once more, without. The connection is gone with it.
            Err(NotReady::NoHandshake(_)) => self.open(&services, road, TlsLevel::Off).await,
            other => other,
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(NotReady::Unusable(reply) | NotReady::NoHandshake(reply) | NotReady::Insecure(reply, _)) => {
                return Progress::Ended(Delivery::Unreached(reply));
            }
        };
        let patience = &self.services.patience;
        let transferred = match errand {
            Errand::Deliver => connection.transfer(parcel, patience).await,
            Errand::Begin { declared } => connection.begin(parcel, declared, patience).await,
        };
        match transferred {
            Transferred::Finished(outcomes) => {
                self.keep(connection);
                Progress::Ended(Delivery::Reached(outcomes))
            }
            Transferred::Interrupted(outcomes) => Progress::Ended(Delivery::Reached(outcomes)),
            Transferred::Unusable(reply) => Progress::Ended(Delivery::Unreached(reply)),
            Transferred::Open => Progress::Open(Box::new(connection)),
            Transferred::NotStreamable => {
                self.keep(connection);
                Progress::NotStreamable
            }
        }
    }

    pub(super) async fn open(
        &self,
        services: &Services,
        road: &Road<'_>,
        tls: TlsLevel,
    ) -> Result<Connection, NotReady> {
        let failed =
            |error: net::Error| NotReady::Unusable(verdict::obstacle(&not_connected(&error), &road.label));
        let stream = services
            .dialer
            .dial(&road.target, services.patience.connect)
            .await
            .map_err(|error| failed(error.into()))?;
        let mut wire = Wire::new(stream);
        let channel = match road.start {
            Start::Plain => Channel::Plain,
            Start::Implicit => {
                let patience = services.patience.handshake;
                (wire, _) = wire
                    .connect_tls(road.client, road.trust, road.server_name, patience)
                    .await
                    .map_err(failed)?;
                Channel::Secured
            }
        };
        let place = match road.protocol {
            Protocol::Smtp => Place::OnTheWay,
            Protocol::Lmtp => Place::Final,
        };
        let hostname = services.hostname.clone();
        let dialogue = Dialogue::new(hostname, road.label.clone(), road.protocol, tls, channel);
        let secrets = Secrets { client: road.client, trust: road.trust, server_name: road.server_name };
        Connection::open(wire, dialogue, place, secrets, services).await
    }
}

fn unreached(obstacle: &Obstacle, host: &str) -> Progress {
    Progress::Ended(Delivery::Unreached(verdict::obstacle(obstacle, host)))
}

/// `store1.eur.example.net [192.0.2.7]:24`; an address that was configured as such stands alone.
pub(super) fn label(host: &str, address: IpAddr, port: u16) -> String {
    if host.parse() == Ok(address) {
        format!("[{address}]:{port}")
    } else {
        format!("{host} [{address}]:{port}")
    }
}
