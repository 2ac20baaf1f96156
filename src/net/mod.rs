//! Net: the network: sockets and TLS.
//!
//! Owns the two ends of a connection: `Stream` is any of them, `Wire` adds buffers and can turn to TLS.
//! Speaks no SMTP and holds no policy. `mail` and `smtp` come before; `listener` and `delivery` drive it.

mod dane;
mod public;
mod shown;
mod tcp;
mod tls;
mod vouch;
mod wire;

#[cfg(test)]
mod tests;

pub use dane::{Association, Dane};
pub use public::is_public;
pub use shown::Shown;
pub use tcp::{Dial, Dialing, Network, Target, bind, listen};
pub use tls::{ClientTls, Identity, Roots, ServerTls, Trust, library_tls, self_signed};
pub use wire::Wire;

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Why a connection did not come about or did not last.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no answer in time")]
    TimedOut,
    #[error("the connection was closed")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
    /// The handshake failed, or a record made no sense.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    #[error("'{0}' is no name that a certificate could prove")]
    ServerName(String),
    #[error("{0}")]
    Certificate(String),
}

/// What was wrong with TLS, as far as it matters to whoever has to mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    NotOffered,
    Expired,
    WrongName,
    Untrusted,
    Other,
}

impl Error {
    pub fn fault(&self) -> Fault {
        use rustls::CertificateError as Bad;
        let Self::Tls(rustls::Error::InvalidCertificate(bad)) = self else { return Fault::Other };
        match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => Fault::Expired,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Fault::WrongName,
            Bad::UnknownIssuer => Fault::Untrusted,
            _ => Fault::Other,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // tokio-rustls wraps what rustls said in an io::Error.
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Tls(tls.clone());
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Gives up with `TimedOut` when the work takes longer than the patience: the deadline of every wait.
pub async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Any connection that bytes go through.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Within the process: conversations without a kernel between them.
    Memory(DuplexStream),
    Tls(Box<tokio_rustls::TlsStream<Stream>>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        // Replies and flights are flushed whole: waiting to fill a packet would only cost time.
        // A socket that refuses the option still carries mail.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl From<DuplexStream> for Stream {
    fn from(stream: DuplexStream) -> Self {
        Self::Memory(stream)
    }
}

/// Hands a call on to whichever stream this is.
macro_rules! each {
    ($this:expr, $method:ident($($argument:expr),*)) => {
        match $this {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Memory(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Memory(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), poll_shutdown(cx))
    }
}
