//! Wire: a Stream with its two buffers, which can turn to TLS.
//!
//! Owns what was read and not yet understood, and what was said and not yet sent. Waits as long as it is
//! told to: callers wrap its calls in `within`. Costs next to nothing while nobody speaks.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::shown::Shown;
use super::tls::{ClientTls, ServerTls, Trust, facts_of};
use super::{Error, Stream, within};
use crate::mail::TlsFacts;

/// What one read of a silent connection may bring; held on the stack, so that waiting holds nothing.
const FIRST_READ: usize = 16 * 1024;
/// What later reads may bring, while much is coming in.
const NEXT_READ: usize = 64 * 1024;
/// More unread input than this is never held: twice the longest line that `smtp` allows.
const INPUT_LIMIT: usize = 128 * 1024;
/// Parts up to this size are cheaper to copy than to write from where they lie.
const COPY_LIMIT: usize = 8 * 1024;
/// How many parts one system call takes.
const PARTS_PER_WRITE: usize = 16;
/// What a silent connection may keep of either buffer.
const KEPT: usize = 1024;

#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    input: BytesMut,
    /// The last read filled its room: there is more where that came from.
    plenty: bool,
    output: Output,
}

impl Wire {
    pub fn new(stream: impl Into<Stream>) -> Self {
        Self { stream: stream.into(), input: BytesMut::new(), plenty: false, output: Output::default() }
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Our end's address, where it has one.
    pub fn local_ip(&self) -> Option<IpAddr> {
        let stream = match &self.stream {
            Stream::Tls(stream) => stream.get_ref().0,
            plain @ (Stream::Tcp(_) | Stream::Unix(_) | Stream::Memory(_)) => plain,
        };
        let Stream::Tcp(stream) = stream else { return None };
        stream.local_addr().ok().map(|address| address.ip().to_canonical())
    }

    /// What the server showed, on a connection that we secured.
    pub fn server_certificate(&self) -> Option<Shown> {
        let Stream::Tls(stream) = &self.stream else { return None };
        Shown::of(stream.get_ref().1.peer_certificates()?)
    }

    /// What has been read and not consumed.
    pub fn pending(&self) -> &[u8] {
        &self.input
    }

    /// Takes `count` bytes off the front of `pending`.
    pub fn consume(&mut self, count: usize) {
        self.input.advance(count);
    }

    /// Drops what was read, and says how much it was. What came in clear before TLS is not to be believed
    /// after it (rule 63).
    pub fn discard_pending(&mut self) -> usize {
        let dropped = self.input.len();
        self.input = BytesMut::new();
        dropped
    }

    /// Waits until something is there to read, and adds it to `pending`. Zero: the peer is done.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.len() >= INPUT_LIMIT {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let polled = if self.plenty { self.poll_read_plenty(cx) } else { self.poll_read_little(cx) };
        match &polled {
            Poll::Ready(Ok(count)) => self.plenty = *count >= FIRST_READ,
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.rest(),
        }
        polled
    }

    /// Reads over the stack: nothing is held while nothing comes.
    fn poll_read_little(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [const { MaybeUninit::<u8>::uninit() }; FIRST_READ];
        let mut read = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.input.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Reads straight into a large buffer.
    fn poll_read_plenty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(NEXT_READ);
        // The future of `read_buf` keeps nothing between polls, so a fresh one each time loses nothing.
        pin!(self.stream.read_buf(&mut self.input)).poll(cx)
    }

    /// Nobody speaks: gives back what is not needed to wait.
    fn rest(&mut self) {
        self.plenty = false;
        if self.input.is_empty() {
            self.input = BytesMut::new();
        } else if self.input.capacity() > FIRST_READ && self.input.len() <= KEPT {
            self.input = BytesMut::from(&self.input[..]);
        }
        self.output.release();
    }

    /// Says something at the next `flush`.
    pub fn put(&mut self, bytes: &[u8]) {
        self.output.put(bytes);
    }

    /// As `put`, without copying what is large.
    pub fn put_bytes(&mut self, bytes: Bytes) {
        self.output.put_bytes(bytes);
    }

    /// How much waits for a `flush`: who feeds a long body flushes before this grows large.
    pub fn queued(&self) -> usize {
        self.output.queued
    }

    /// Sends all that was put. Goes on reading meanwhile (up to the bound of the buffer), because a peer
    /// that waits for us to take its answers would otherwise never take the rest of ours.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.output.queued == 0 {
            return Ok(());
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = loop {
            if self.output.queued == 0 {
                break Pin::new(&mut self.stream).poll_flush(cx);
            }
            match self.output.poll_write(&mut self.stream, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => self.output.advance(sent),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if flushed.is_pending() {
            while self.input.len() < INPUT_LIMIT {
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(0)) | Poll::Pending => break,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                }
            }
        }
        flushed
    }

    /// Sends what waits and closes our side in good order.
    pub async fn close(mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }

    /// What both buffers could hold now.
    #[cfg(test)]
    pub(super) fn buffered_capacity(&self) -> usize {
        self.input.capacity() + self.output.tail.capacity() + self.output.parts.capacity()
    }

    /// Our side of a handshake as a server. Whatever was read in clear is dropped.
    pub async fn accept_tls(
        mut self,
        tls: &ServerTls,
        patience: Duration,
    ) -> Result<(Self, TlsFacts), Error> {
        self.flush().await?;
        self.discard_pending();
        self.accept_pending_tls(tls, patience).await
    }

    /// The same where TLS is spoken from the first: what was read already is the client's side of it, as it
    /// comes in one piece with a load balancer's header.
    pub async fn accept_pending_tls(
        self,
        tls: &ServerTls,
        patience: Duration,
    ) -> Result<(Self, TlsFacts), Error> {
        let ready = tls.current();
        let mut pending = &self.input[..];
        let handshake = TlsAcceptor::from(ready.config.clone()).accept_with(self.stream, |connection| {
            // What makes no sense is said again by the handshake, with its alert.
            while !pending.is_empty()
                && connection.read_tls(&mut pending).is_ok_and(|read| read > 0)
                && connection.process_new_packets().is_ok()
            {}
        });
        let stream = within(patience, async { Box::pin(handshake).await }).await?;
        let connection = stream.get_ref().1;
        let mut facts = facts_of(connection);
        ready.judge_client(connection.peer_certificates(), &mut facts);
        Ok((Self::new(Stream::Tls(Box::new(TlsStream::Server(stream)))), facts))
    }

    /// Our side of a handshake as a client. Whatever was read in clear is dropped.
    pub async fn connect_tls(
        mut self,
        tls: &ClientTls,
        trust: Trust<'_>,
        server_name: &str,
        patience: Duration,
    ) -> Result<(Self, TlsFacts), Error> {
        self.flush().await?;
        let name = rustls::pki_types::ServerName::try_from(server_name.to_owned())
            .map_err(|_| Error::ServerName(server_name.to_owned()))?;
        let handshake = TlsConnector::from(tls.config(trust)?).connect(name, self.stream);
        let stream = within(patience, async { Box::pin(handshake).await }).await?;
        let facts = facts_of(stream.get_ref().1);
        Ok((Self::new(Stream::Tls(Box::new(TlsStream::Client(stream)))), facts))
    }
}

/// What was said and not yet sent: parts that lie elsewhere, and a buffer for the rest.
#[derive(Debug, Default)]
struct Output {
    parts: VecDeque<Bytes>,
    tail: BytesMut,
    queued: usize,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.queued += bytes.len();
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_LIMIT {
            return self.put(&bytes);
        }
        if !self.tail.is_empty() {
            self.parts.push_back(self.tail.split().freeze());
        }
        self.queued += bytes.len();
        self.parts.push_back(bytes);
    }

    fn poll_write(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        if self.parts.is_empty() {
            return stream.poll_write(cx, &self.tail);
        }
        let mut slices = [IoSlice::new(&[]); PARTS_PER_WRITE];
        let all = self.parts.iter().map(|part| &part[..]).chain([&self.tail[..]]);
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(part);
            used += 1;
        }
        stream.poll_write_vectored(cx, &slices[..used])
    }

    fn advance(&mut self, mut sent: usize) {
        self.queued -= sent;
        while let Some(part) = self.parts.front_mut() {
            if sent < part.len() {
                return part.advance(sent);
            }
            sent -= part.len();
            self.parts.pop_front();
        }
        self.tail.advance(sent);
        if self.tail.is_empty() {
            // Back to the front of the buffer, so that the next words need no new one.
            self.tail.clear();
        }
    }

    fn release(&mut self) {
        if self.queued == 0 && (self.tail.capacity() > KEPT || self.parts.capacity() > 0) {
            *self = Self::default();
        }
    }
}
