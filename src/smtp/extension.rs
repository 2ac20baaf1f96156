//! Extension: the EHLO keywords we offer, in the order of rule 54.
//!
//! `reply` writes them below the greeting. Owns our own list only. LIMITS joins it once it works.

use std::io::Write as _;

use super::xclient;

/// What is offered on one connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// The value of SIZE (RFC 1870).
    pub message_size: u64,
    /// Whether STARTTLS may be used now: offered, and not yet in TLS (RFC 3207 §4.2).
    pub starttls: bool,
    /// Whether REQUIRETLS may be used: in TLS only (RFC 8689 §3).
    pub require_tls: bool,
    /// Whether this client may speak for others.
    pub xclient: bool,
}

impl Extensions {
    /// Appends one line for each, CRLF in front, none after the last: the lines below the greeting.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let _ = write!(out, "\r\n250-SIZE {}", self.message_size);
        out.extend_from_slice(b"\r\n250-PIPELINING\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES");
        if self.starttls {
            out.extend_from_slice(b"\r\n250-STARTTLS");
        }
        out.extend_from_slice(b"\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n");
        if self.xclient {
            out.extend_from_slice(b"250-");
            out.extend_from_slice(xclient::OFFER);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(if self.require_tls {
            b"250-SMTPUTF8\r\n250 REQUIRETLS"
        } else {
            b"250 SMTPUTF8"
        });
    }
}
