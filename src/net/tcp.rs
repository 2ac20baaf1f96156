//! Tcp: calling others, and waiting to be called.
//!
//! Owns the one place that opens connections, and the options of listening sockets.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::{Stream, within};

/// Callers that wait to be accepted; the kernel caps it at its own `somaxconn`.
const BACKLOG: i32 = 4096;

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>;

/// Who opens connections: the network, or a script in tests.
pub trait Dial: Send + Sync {
    fn dial<'a>(&'a self, target: &'a Target, patience: Duration) -> Dialing<'a>;
}

/// The real network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Network;

impl Dial for Network {
    fn dial<'a>(&'a self, target: &'a Target, patience: Duration) -> Dialing<'a> {
        Box::pin(within(patience, async move {
            match target {
                #[expect(clippy::disallowed_methods, reason = "the one place that opens connections")]
                Target::Tcp(address) => TcpStream::connect(address).await.map(Stream::from),
                Target::Unix(path) => UnixStream::connect(path).await.map(Stream::from),
            }
        }))
    }
}

/// A script: what each call is answered with, usually one end of `tokio::io::duplex`.
impl<F> Dial for F
where
    F: Fn(&Target) -> io::Result<Stream> + Send + Sync,
{
    fn dial<'a>(&'a self, target: &'a Target, _patience: Duration) -> Dialing<'a> {
        Box::pin(std::future::ready(self(target)))
    }
}

/// Takes an address, which may need privileges. `[::]` takes IPv6 only, so that it can stand beside `0.0.0.0`.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart need not wait for the kernel to forget the old connections.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// From now on callers are not refused, and can be waited for.
pub fn listen(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    let socket = Socket::from(socket);
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}
