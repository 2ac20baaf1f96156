//! Proxy: the PROXY header, v1 or v2, by which a load balancer says who is calling.
//!
//! Asked for only from `proxy_protocol_from`; such a connection must begin with one. From anybody else the
//! words are not taken for a header, and fail as the unknown command they are.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::time::{Instant, timeout_at};

use crate::net::Wire;

/// The longest v2 header with its TLVs that a mail edge needs,
const HEADER_LIMIT: usize = 4096;
/// and the longest that v1 allows, CRLF included.
const LINE_LIMIT: usize = 107;

/// Who is behind the load balancer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Client(SocketAddr),
    /// The load balancer itself: a health check.
    Local,
}

/// Takes the header from the front of the wire. `None` when there is none, or none in time: then nothing
/// that follows can be trusted, and the connection ends.
pub(super) async fn read_header(wire: &mut Wire, patience: Duration) -> Option<Caller> {
    let deadline = Instant::now() + patience;
    loop {
        match ProxyHeader::parse(wire.pending(), ParseConfig::default()) {
            Ok((_, length)) if length > limit_of(wire.pending()) => return None,
            Ok((header, length)) => {
                let caller =
                    header.proxied_address().map_or(Caller::Local, |address| Caller::Client(address.source));
                wire.consume(length);
                return Some(caller);
            }
            Err(Error::BufferTooShort) if wire.pending().len() < limit_of(wire.pending()) => {}
            Err(_) => return None,
        }
        let filled = timeout_at(deadline, wire.fill()).await.ok()?.ok()?;
        if filled == 0 {
            return None;
        }
    }
}

fn limit_of(header: &[u8]) -> usize {
    if header.starts_with(b"PROXY") { LINE_LIMIT } else { HEADER_LIMIT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn read(bytes: &[u8], chunk: usize) -> (Option<Caller>, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            for part in bytes.chunks(chunk) {
                client.write_all(part).await.expect("the reader reads");
                tokio::task::yield_now().await;
            }
            client
        });
        let mut wire = Wire::new(server);
        let caller = read_header(&mut wire, Duration::from_secs(5)).await;
        drop(sending.await);
        while wire.fill().await.is_ok_and(|read| read > 0) {}
        (caller, wire.pending().to_vec())
    }

    fn client(text: &str) -> Option<Caller> {
        Some(Caller::Client(text.parse().expect("an address")))
    }

    #[tokio::test(start_paused = true)]
    async fn both_versions_name_the_client_and_leave_the_rest() {
        let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 25\r\nEHLO x\r\n";
        let mut v2 =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x13\x88\0\x19".to_vec();
        v2.extend_from_slice(b"EHLO x\r\n");
        for header in [&v1[..], &v2[..]] {
            for chunk in [1, 7, 1000] {
                let (caller, rest) = read(header, chunk).await;
                assert_eq!(caller, client("192.0.2.7:5000"));
                assert_eq!(rest, b"EHLO x\r\n");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_health_check_is_the_load_balancer_itself() {
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 100).await.0, Some(Caller::Local));
        assert_eq!(read(b"PROXY UNKNOWN\r\n", 100).await.0, Some(Caller::Local));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_header_there_is_nobody() {
        for bytes in [
            &b"EHLO x\r\n"[..],
            b"PROXY TCP4 nonsense\r\n",
            b"PROXY TCP4 192.0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        ] {
            assert_eq!(read(bytes, 100).await.0, None, "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_balancer_that_says_nothing_is_given_up() {
        let (_client, server) = tokio::io::duplex(1024);
        let mut wire = Wire::new(server);
        assert_eq!(read_header(&mut wire, Duration::from_secs(5)).await, None);
    }
}
