//! Courier: takes messages to one next hop, one after the other.
//!
//! Owns at most one live connection, and the order in which endpoints and addresses are tried. Each queue
//! worker has its own. What is said on the connection is `transfer`'s.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::dialogue::{Channel, Dialogue, Protocol};
use super::transfer::{Connection, NotReady, Place, Transferred, not_connected, trust};
use super::verdict::{self, Obstacle};
use super::{Delivery, Parcel, Services, maildir};
use crate::mail::{Endpoint, Lookup, NextHop, TlsLevel};
use crate::net::{self, Target, Wire};

/// Addresses tried for one host.
const ADDRESSES_LIMIT: usize = 8;

pub struct Courier {
    services: Arc<Services>,
    hop: NextHop,
    live: Option<Connection>,
}

/// Where a connection goes, and how it begins.
struct Road<'a> {
    target: Target,
    /// As outcomes name it.
    label: String,
    /// What a certificate must prove.
    server_name: &'a str,
    protocol: Protocol,
    tls: TlsLevel,
    start: Start,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Plain,
    /// TLS before the first word.
    Implicit,
}

impl Courier {
    pub fn new(services: Arc<Services>, hop: NextHop) -> Self {
        Self { services, hop, live: None }
    }

    pub fn hop(&self) -> &NextHop {
        &self.hop
    }

    /// Configuration may move a next hop; the old connection is then dropped.
    pub async fn redirect(&mut self, hop: NextHop) {
        if hop != self.hop {
            self.leave().await;
            self.hop = hop;
        }
    }

    pub fn is_connected(&self) -> bool {
        self.live.is_some()
    }

    /// One attempt. Dropped half-way, it drops the connection too: nothing half-said is ever continued.
    pub async fn deliver(&mut self, parcel: Parcel<'_>) -> Delivery {
        let patience = self.services.patience;
        if let Some(mut live) = self.live.take() {
            let fresh_enough = live.idle_since.elapsed() <= patience.idle;
            // One that turns out dead is replaced, and not held against the destination.
            if fresh_enough
                && live.is_alive().await
                && let Transferred::Finished(outcomes) = Box::pin(live.transfer(&parcel, &patience)).await
            {
                self.keep(live);
                return Delivery::Reached(outcomes);
            }
        }
        Box::pin(self.deliver_afresh(&parcel)).await
    }

    /// Waits until the connection has been idle for too long, then takes leave. For a worker without work:
    /// can be dropped at any time.
    pub async fn rest(&mut self) {
        if let Some(live) = &self.live {
            tokio::time::sleep_until(live.idle_since + self.services.patience.idle).await;
            self.leave().await;
        }
    }

    pub async fn quit(mut self) {
        self.leave().await;
    }

    async fn leave(&mut self) {
        if let Some(live) = self.live.take() {
            live.quit(self.services.patience.courtesy).await;
        }
    }

    fn keep(&mut self, connection: Connection) {
        self.live = connection.is_ready().then_some(connection);
    }

    /// Every endpoint in turn, those that lately failed after the others, and every address of its host in
    /// turn, until one takes part.
    async fn deliver_afresh(&mut self, parcel: &Parcel<'_>) -> Delivery {
        let mut last = verdict::obstacle(&Obstacle::NoEndpoint, "");
        let endpoints = self.hop.endpoints.clone();
        for endpoint in self.services.troubled.last(&endpoints) {
            let reached = match endpoint {
                Endpoint::Maildir(root) => maildir::deliver(root, parcel, &self.services).await,
                Endpoint::LmtpUnix(path) => {
                    let road = Road {
                        target: Target::Unix(path.clone()),
                        label: endpoint.to_string(),
                        server_name: "localhost",
                        protocol: Protocol::Lmtp,
                        // Nobody listens between two ends of a local socket.
                        tls: TlsLevel::Off,
                        start: Start::Plain,
                    };
                    self.travel(&road, parcel).await
                }
                Endpoint::Smtp { host, port } => {
                    self.travel_to(host, *port, Protocol::Smtp, Start::Plain, parcel).await
                }
                Endpoint::Smtps { host, port } => {
                    self.travel_to(host, *port, Protocol::Smtp, Start::Implicit, parcel).await
                }
                Endpoint::Lmtp { host, port } => {
                    self.travel_to(host, *port, Protocol::Lmtp, Start::Plain, parcel).await
                }
            };
            match reached {
                Delivery::Reached(outcomes) => {
                    self.services.troubled.forget(endpoint);
                    return Delivery::Reached(outcomes);
                }
                Delivery::Unreached(reply) => {
                    self.services.troubled.remember(endpoint);
                    last = reply;
                }
            }
        }
        Delivery::Unreached(last)
    }

    async fn travel_to(
        &mut self,
        host: &str,
        port: u16,
        protocol: Protocol,
        start: Start,
        parcel: &Parcel<'_>,
    ) -> Delivery {
        let addresses = match self.services.resolver.addresses(host).await {
            Lookup::Found(addresses) => addresses,
            Lookup::Absent => return unreached(&Obstacle::NoSuchHost, host),
            Lookup::Failed => return unreached(&Obstacle::DnsFailed, host),
        };
        let mut last = verdict::obstacle(&Obstacle::NoSuchHost, host);
        for address in addresses.into_iter().take(ADDRESSES_LIMIT) {
            let road = Road {
                target: Target::Tcp(SocketAddr::new(address, port)),
                label: label(host, address, port),
                server_name: host,
                protocol,
                tls: self.hop.tls,
                start,
            };
            match self.travel(&road, parcel).await {
                Delivery::Reached(outcomes) => return Delivery::Reached(outcomes),
                Delivery::Unreached(reply) => last = reply,
            }
        }
        Delivery::Unreached(last)
    }

    /// Opens a connection and hands the parcel over.
    async fn travel(&mut self, road: &Road<'_>, parcel: &Parcel<'_>) -> Delivery {
        let opened = match self.open(road, road.tls).await {
            // TLS was offered and did not come about: once more, without. The connection is gone with it.
            Err(NotReady::NoHandshake(_)) => self.open(road, TlsLevel::Off).await,
            other => other,
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(NotReady::Unusable(reply) | NotReady::NoHandshake(reply)) => {
                return Delivery::Unreached(reply);
            }
        };
        match connection.transfer(parcel, &self.services.patience).await {
            Transferred::Finished(outcomes) => {
                self.keep(connection);
                Delivery::Reached(outcomes)
            }
            Transferred::Interrupted(outcomes) => Delivery::Reached(outcomes),
            Transferred::Unusable(reply) => Delivery::Unreached(reply),
        }
    }

    async fn open(&self, road: &Road<'_>, tls: TlsLevel) -> Result<Connection, NotReady> {
        let services = &*self.services;
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
                    .connect_tls(&services.tls, trust(tls), road.server_name, patience)
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
        Connection::open(wire, dialogue, place, tls, road.server_name, services).await
    }
}

fn unreached(obstacle: &Obstacle, host: &str) -> Delivery {
    Delivery::Unreached(verdict::obstacle(obstacle, host))
}

/// `store1.eur.example.net [192.0.2.7]:24`; an address that was configured as such stands alone.
fn label(host: &str, address: IpAddr, port: u16) -> String {
    if host.parse() == Ok(address) {
        format!("[{address}]:{port}")
    } else {
        format!("{host} [{address}]:{port}")
    }
}
