//! Listener: mail comes in. Bind, accept, serve, drain; accepting never waits for a peer.
//!
//! Owns the listening sockets and one task per connection. It does not know `queue`: what it has accepted
//! goes down a channel that `daemon` made.

mod admission;
mod connection;
mod handover;
mod proxy;

pub use admission::Admission;

use admission::Slot;
use connection::Connection;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;

use crate::auth::Auth;
use crate::chance::Chance;
use crate::clock::{Clock, Timestamp};
use crate::decision::{Door, PeerPattern, Reason};
use crate::delivery::Pool;
use crate::dns::Resolver;
use crate::inquiry::Inquiry;
use crate::limits::{Client, Limit, Limits};
use crate::mail::firewall::Firewall;
use crate::mail::{Filter, Peer, SessionId};
use crate::net::{ServerTls, Wire, within};
use crate::report::{Event, Reporter};
use crate::session::{Terms, answer_for};
use crate::smtp::body::LineEndings;
use crate::smtp::reply::{Context, Texts};
use crate::spool::{Accepted, Pressure, Spool};

/// How long a client that is turned away may take to read why.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);
/// The pause after `accept` fails for want of descriptors, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// While `accept` fails, each listener says so once in this time.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// What all connections share.
pub struct Shared {
    pub inquiry: Arc<Inquiry>,
    pub spool: Spool,
    /// The connections of inline relay.
    pub inline: Arc<Pool>,
    pub tls: Arc<ServerTls>,
    pub texts: Arc<ArcSwap<Texts>>,
    /// What header fields mail may not bring (rule 42).
    pub firewall: ArcSwap<Firewall>,
    /// The checks of who sent it.
    pub auth: ArcSwap<Auth>,
    pub arrivals: mpsc::Sender<Accepted>,
    pub pressure: watch::Receiver<Pressure>,
    pub draining: watch::Receiver<bool>,
    /// Bodies that are still coming in are cut off.
    pub cutting: watch::Receiver<bool>,
    /// What the operator keeps back when it comes: it does not go on inline.
    pub holds: watch::Receiver<Arc<[Filter]>>,
    pub admission: Admission,
    pub limits: Arc<Limits>,
    /// For block lists.
    pub resolver: Arc<Resolver>,
    pub reporter: Reporter,
    pub clock: Clock,
}

/// One `[[listener]]` as its connections see it.
#[derive(Clone)]
pub struct Entrance {
    pub name: Arc<str>,
    pub door: Door,
    /// Replaced on reload; a session keeps those it began with.
    pub conditions: Arc<ArcSwap<Conditions>>,
}

/// On what terms a listener deals with its callers.
pub struct Conditions {
    terms: Arc<Terms>,
    /// The same, for clients whose bare line endings are put right instead of refused (rule 62).
    normalizing: Arc<Terms>,
    normalize_from: Vec<IpNet>,
    /// Load balancers, whose connections must begin with a PROXY header.
    proxies: Vec<IpNet>,
    patience: Patience,
}

/// How long a caller may take, beyond what the session counts.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub proxy_header: Duration,
    pub handshake: Duration,
    /// For reading our replies.
    pub reply: Duration,
    /// For a whole message, however steadily it trickles in.
    pub body: Duration,
}

impl Conditions {
    pub fn new(terms: Terms, normalize_from: Vec<IpNet>, proxies: Vec<IpNet>, patience: Patience) -> Self {
        let normalizing = Arc::new(Terms { line_endings: LineEndings::Normalize, ..terms.clone() });
        Self { terms: Arc::new(terms), normalizing, normalize_from, proxies, patience }
    }

    fn terms_for(&self, ip: IpAddr) -> Arc<Terms> {
        if contains(&self.normalize_from, ip) { self.normalizing.clone() } else { self.terms.clone() }
    }
}

fn contains(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

pub struct Listener {
    socket: TcpListener,
    entrance: Entrance,
    shared: Arc<Shared>,
    /// A caller for whom there is no room yet.
    at_the_door: Option<(TcpStream, SocketAddr)>,
    /// When it was last said that `accept` fails.
    complained_at: Option<Timestamp>,
}

impl Listener {
    pub fn new(socket: TcpListener, entrance: Entrance, shared: Arc<Shared>) -> Self {
        Self { socket, entrance, shared, at_the_door: None, complained_at: None }
    }

    /// Accepts until the daemon drains, then waits for its sessions to end. Dropped, it cuts them off.
    pub async fn run(mut self) {
        let mut sessions = JoinSet::new();
        let mut draining = self.shared.draining.clone();
        let mut chance = Chance::from_os();
        let (entrance, shared) = (self.entrance.clone(), self.shared.clone());
        loop {
            tokio::select! {
                accepted = self.accept() => {
                    if let Some((stream, address, room)) = accepted {
                        let id = SessionId(chance.next_u64());
                        let caller = Caller { id, address, entrance: entrance.clone(), shared: shared.clone() };
                        sessions.spawn(caller.meet(Wire::new(stream), room));
                    }
                }
                // Ended sessions are taken out as they end: a set that only grows is a leak.
                Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
                _ = draining.wait_for(|draining| *draining) => break,
            }
        }
        drop(self.socket);
        while sessions.join_next().await.is_some() {}
    }

    /// Whoever calls into a full house waits: one at the door, the others in the backlog. A slot is
    /// asked for only when there is somebody for it: listeners at which nobody calls take none.
    /// Dropped at any time, it loses nobody.
    async fn accept(&mut self) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        if self.at_the_door.is_none() {
            match self.socket.accept().await {
                Ok(caller) => self.at_the_door = Some(caller),
                Err(error) => {
                    self.accept_failed(&error).await;
                    return None;
                }
            }
        }
        let room = self.shared.admission.room().await;
        self.at_the_door.take().map(|(stream, address)| (stream, address, room))
    }

    async fn accept_failed(&mut self, error: &io::Error) {
        // A caller that is gone before it was accepted is its own trouble; the rest is ours.
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        let now = self.shared.clock.now();
        if self.complained_at.is_none_or(|at| now.since(at) >= COMPLAINT_EVERY) {
            self.complained_at = Some(now);
            let name = &self.entrance.name;
            let what = format!("callers of listener {name} wait: accept failed: {error}");
            self.shared.reporter.note(&Event::Warning { what: &what });
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// One connection from its first byte: who it is, whether it may stay, and then its session.
struct Caller {
    id: SessionId,
    address: SocketAddr,
    entrance: Entrance,
    shared: Arc<Shared>,
}

impl Caller {
    async fn meet(mut self, mut wire: Wire, room: OwnedSemaphorePermit) {
        let conditions = self.entrance.conditions.load_full();
        if contains(&conditions.proxies, self.address.ip()) {
            match proxy::read_header(&mut wire, conditions.patience.proxy_header).await {
                Some(proxy::Caller::Client(address)) => self.address = address,
                // A health check costs nobody's slot and is never counted against anyone.
                Some(proxy::Caller::Local) => {
                    let client = self.client().spared();
                    return self.serve(wire, client).await;
                }
                None => {
                    let what = format!("{} is to send a PROXY header and did not", self.address);
                    self.shared.reporter.note(&Event::Warning { what: &what });
                    return;
                }
            }
        }
        let client = self.client();
        match self.admit(client, room) {
            Ok(_slot) => self.serve(wire, client).await,
            Err(limit) => self.turn_away(wire, limit).await,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.address.ip(), &self.shared.limits.terms())
    }

    /// Rule 59. An edge of ours that is known by its network is let in whatever it does (section 6).
    fn admit(&self, client: Client, room: OwnedSemaphorePermit) -> Result<Slot, Limit> {
        let shared = &self.shared;
        let terms = shared.limits.terms();
        let too_often = shared.limits.may_connect(&terms, client, shared.clock.now()).err();
        if let Some(limit) = too_often.filter(|_| !self.is_edge_of_ours()) {
            return Err(limit);
        }
        let ip = self.address.ip();
        let limit = if client.is_spared() { usize::MAX } else { terms.connections_per_ip };
        match shared.admission.admit(ip, limit, room) {
            Ok(slot) => Ok(slot),
            Err(room) if self.is_edge_of_ours() => {
                shared.admission.admit(ip, usize::MAX, room).map_err(|_| Limit::ConnectionsPerIp)
            }
            Err(_) => Err(Limit::ConnectionsPerIp),
        }
    }

    fn is_edge_of_ours(&self) -> bool {
        let rules = self.shared.inquiry.rules();
        let ip = self.address.ip().to_canonical();
        rules.peers.iter().any(|(_, pattern)| match pattern {
            PeerPattern::Network(network) => network.contains(&ip),
            PeerPattern::Certificate(_) => false,
        })
    }

    async fn serve(self, wire: Wire, client: Client) {
        let Self { id, address, entrance, shared } = self;
        shared.reporter.note(&Event::Connected { session: id, listener: &entrance.name, peer: address });
        Connection::new(id, Peer::new(address.ip()), client, entrance, shared).run(wire).await;
    }

    /// Rule 59: told why, then closed.
    async fn turn_away(self, mut wire: Wire, limit: Limit) {
        let answer = answer_for(&Reason::Limited(limit), &Peer::new(self.address.ip()));
        let reply = answer.reply.label();
        self.shared.reporter.note(&Event::TurnedAway { peer: self.address, limit, reply });
        let mut words = Vec::new();
        let context = Context { session: self.id, now: self.shared.clock.now() };
        answer.write(&self.shared.texts.load(), context, &mut words);
        wire.put(&words);
        // A client that does not read it in time goes without.
        let _ = within(FAREWELL_PATIENCE, wire.close()).await;
    }
}
