//! Expansion: macros put into words. RFC 7208 §7.3.
//!
//! Pure: what a macro may ask for has been looked up before.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Claim;
use super::record::{Macro, Piece, Text};
use crate::clock::Timestamp;

/// §7.3: a longer name loses labels on the left.
const NAME_LIMIT: usize = 253;

/// What macros stand for at one point of an evaluation.
pub(super) struct Values<'a> {
    pub(super) claim: &'a Claim<'a>,
    /// The domain whose record is evaluated.
    pub(super) domain: &'a str,
    /// The validated name of the client, where a `p` asks for it.
    pub(super) validated: Option<&'a str>,
    pub(super) now: Timestamp,
}

impl Text {
    /// Whether the validated name has to be looked up first.
    pub(super) fn asks_for_validated_name(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Macro(asked) if asked.letter == b'p'))
    }

    pub(super) fn expand(&self, values: &Values<'_>) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Escape(meant) => text.push_str(meant),
                Piece::Macro(asked) => asked.expand(values, &mut text),
            }
        }
        text
    }

    /// As a name to look up: without its last dot, cut on the left when it is too long.
    pub(super) fn expand_name(&self, values: &Values<'_>) -> String {
        let text = self.expand(values);
        let mut name = text.strip_suffix('.').unwrap_or(&text);
        while name.len() > NAME_LIMIT {
            match name.split_once('.') {
                Some((_, rest)) => name = rest,
                None => break,
            }
        }
        name.to_owned()
    }
}

impl Macro {
    fn expand(&self, values: &Values<'_>, into: &mut String) {
        let value = self.value(values);
        let is_delimiter = |c: char| match self.delimiters.is_empty() {
            true => c == '.',
            false => self.delimiters.iter().any(|delimiter| char::from(*delimiter) == c),
        };
        let untouched = self.parts == 0 && !self.reversed && self.delimiters.is_empty();
        let value = if untouched {
            value
        } else {
            let mut parts: Vec<&str> = value.split(is_delimiter).collect();
            if self.reversed {
                parts.reverse();
            }
            let kept = if self.parts == 0 { parts.len() } else { self.parts.min(parts.len()) };
            parts[parts.len() - kept..].join(".")
        };
        if self.escaped { escape(&value, into) } else { into.push_str(&value) }
    }

    fn value(&self, values: &Values<'_>) -> String {
        let claim = values.claim;
        match self.letter {
            b's' => format!("{}@{}", claim.local_part, claim.domain),
            b'l' => claim.local_part.to_owned(),
            b'o' => claim.domain.to_owned(),
            b'd' => values.domain.to_owned(),
            b'i' => dotted(claim.ip),
            b'p' => values.validated.unwrap_or("unknown").to_owned(),
            b'v' => if claim.ip.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            b'h' => claim.helo.to_owned(),
            b'c' => claim.ip.to_string(),
            b'r' => claim.receiver.to_owned(),
            b't' => (values.now.millis() / 1000).to_string(),
            letter => unreachable!("the macro {letter} was let through by no parser"),
        }
    }
}

/// Dotted quad, or every nibble of an IPv6 address.
fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let mut text = String::with_capacity(63);
            for byte in v6.octets() {
                for nibble in [byte >> 4, byte & 0xf] {
                    let dot = if text.is_empty() { "" } else { "." };
                    let _ = write!(text, "{dot}{nibble:X}");
                }
            }
            text
        }
    }
}

/// All but the unreserved characters of RFC 3986 §2.3.
fn escape(value: &str, into: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            let _ = write!(into, "%{byte:02X}");
        }
    }
}
