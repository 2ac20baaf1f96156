//! Listener: mail comes in. Bind, accept, serve, drain; accepting never waits for a peer.
//!
//! Owns the listening sockets and one task per connection. It does not know `queue`: what it has accepted
//! goes down a channel that `daemon` made.

mod admission;
mod connection;

pub use admission::Admission;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::clock::Clock;
use crate::decision::Door;
use crate::inquiry::Inquiry;
use crate::mail::{Peer, SessionId};
use crate::net::{ServerTls, Wire};
use crate::report::{Event, Reporter};
use crate::session::Terms;
use crate::smtp::body::LineEndings;
use crate::smtp::reply::{Answer, Context, Detail, Reply, Texts};
use crate::spool::{Accepted, Pressure, Spool};

/// How long a client that is turned away may take to read why.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);
/// The pause after `accept` fails for want of descriptors, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub struct Shared {
    pub inquiry: Arc<Inquiry>,
    pub spool: Spool,
    pub tls: Arc<ServerTls>,
    pub texts: ArcSwap<Texts>,
    pub arrivals: mpsc::Sender<Accepted>,
    pub pressure: watch::Receiver<Pressure>,
    pub draining: watch::Receiver<bool>,
    pub admission: Admission,
    pub reporter: Reporter,
    pub clock: Clock,
}

/// One `[[listener]]` as its connections see it.
#[derive(Clone)]
pub struct Entrance {
    pub name: Arc<str>,
    pub door: Door,
    /// Replaced on reload; a session keeps the terms it began with.
    pub terms: Arc<ArcSwap<Terms>>,
    /// Clients whose bare line endings are put right instead of refused (rule 62).
    pub normalize_from: Arc<ArcSwap<Vec<IpNet>>>,
}

impl Entrance {
    fn terms_for(&self, ip: IpAddr) -> Arc<Terms> {
        let terms = self.terms.load_full();
        if self.normalize_from.load().iter().any(|net| net.contains(&ip)) {
            return Arc::new(Terms { line_endings: LineEndings::Normalize, ..(*terms).clone() });
        }
        terms
    }
}

pub struct Listener {
    socket: TcpListener,
    entrance: Entrance,
    shared: Arc<Shared>,
}

impl Listener {
    pub fn new(socket: TcpListener, entrance: Entrance, shared: Arc<Shared>) -> Self {
        Self { socket, entrance, shared }
    }

    /// Accepts until the daemon drains, then waits for its sessions; returns how many were cut off when
    /// `drain_patience` was over.
    pub async fn run(self, drain_patience: Duration) -> usize {
        let mut sessions = JoinSet::new();
        let mut draining = self.shared.draining.clone();
        let mut chance = Chance::from_os();
        loop {
            tokio::select! {
                accepted = self.accept() => {
                    if let Some((stream, address, slot)) = accepted {
                        let id = SessionId(chance.next_u64());
                        self.serve(&mut sessions, id, stream, address, slot);
                    }
                }
                // Ended sessions are taken out as they end: a set that only grows is a leak.
                Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
                _ = draining.wait_for(|draining| *draining) => break,
            }
        }
        drop(self.socket);
        let all_ended = async { while sessions.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(drain_patience, all_ended).await;
        let cut = sessions.len();
        sessions.abort_all();
        while sessions.join_next().await.is_some() {}
        cut
    }

    /// The overall slot comes first, so that a full house leaves callers in the backlog; then the caller,
    /// then the slot of its network.
    async fn accept(&self) -> Option<(TcpStream, SocketAddr, admission::Slot)> {
        let room = self.shared.admission.room().await;
        let (stream, address) = match self.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.accept_failed(&error).await;
                return None;
            }
        };
        match self.shared.admission.admit(address.ip(), room) {
            Some(slot) => Some((stream, address, slot)),
            None => {
                self.turn_away(stream, address);
                None
            }
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        // A caller that is gone before it was accepted is its own trouble; the rest is ours.
        if error.kind() != io::ErrorKind::ConnectionAborted {
            self.shared.reporter.note(&Event::Warning { what: &format!("accept failed: {error}") });
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn serve(
        &self,
        sessions: &mut JoinSet<()>,
        id: SessionId,
        stream: TcpStream,
        address: SocketAddr,
        slot: admission::Slot,
    ) {
        self.shared.reporter.note(&Event::Connected {
            session: id,
            listener: &self.entrance.name,
            peer: address,
        });
        let peer = Peer::new(address.ip());
        let connection = connection::Connection::new(id, peer, self.entrance.clone(), self.shared.clone());
        let wire = Wire::new(stream);
        sessions.spawn(async move {
            connection.run(wire).await;
            drop(slot);
        });
    }

    /// Rule 59: told why, then closed; on a task of its own, because accepting never waits for a peer.
    fn turn_away(&self, stream: TcpStream, address: SocketAddr) {
        let answer = Answer::new(Reply::TooManyConnections, Detail::Ip(address.ip().to_canonical()));
        self.shared.reporter.note(&Event::TurnedAway { peer: address, reply: answer.reply.label() });
        let mut words = Vec::new();
        let context = Context { session: SessionId(0), now: self.shared.clock.now() };
        answer.write(&self.shared.texts.load(), context, &mut words);
        tokio::spawn(async move {
            let mut stream = stream;
            let farewell = async {
                stream.write_all(&words).await?;
                stream.shutdown().await?;
                // Bytes left unread would turn the close into a reset that takes our words with it.
                let mut rest = [0; 512];
                while stream.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            let _ = tokio::time::timeout(FAREWELL_PATIENCE, farewell).await;
        });
    }
}
