//! Https: the admin address over TLS, with the certificates of the listeners.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::net::{ServerTls, Stream};

const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at once: who does none holds a place for that long.
const HANDSHAKES_LIMIT: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections whose handshake is done. A slow one delays nobody else.
pub(super) struct Https {
    ready: mpsc::Receiver<(Stream, SocketAddr)>,
    address: SocketAddr,
}

impl Https {
    pub(super) fn new(listener: TcpListener, tls: Arc<ServerTls>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (done, ready) = mpsc::channel(HANDSHAKES_LIMIT);
        tokio::spawn(accept(listener, tls, done));
        Ok(Self { ready, address })
    }
}

async fn accept(listener: TcpListener, tls: Arc<ServerTls>, done: mpsc::Sender<(Stream, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_LIMIT));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = done.closed() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (tls, done) = (tls.clone(), done.clone());
        tokio::spawn(async move {
            // Who speaks no TLS has nothing to say here.
            if let Ok(stream) = tls.accept(stream, HANDSHAKE_PATIENCE).await {
                let _ = done.send((stream, peer)).await;
            }
            drop(place);
        });
    }
}

impl Listener for Https {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
