//! Chain: the `Received` fields of a message while they come in, and whom it truly came from (rule 40).
//!
//! Looks past servers of the tenant's own, from the one that connected downward, to the first address that is
//! none of theirs. Holds one field at a time, and no more of it than a server has to say.

use std::net::IpAddr;

use memchr::memchr;

use super::Skipping;

/// What is looked at of one field, and how many fields are.
const FIELD_LIMIT: usize = 2048;
const HOPS_LIMIT: usize = 100;
const NAME: &[u8] = b"received";

/// Whom a message came from before it came to servers of the tenant's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub ip: IpAddr,
    /// What it called itself there.
    pub helo: String,
}

impl Origin {
    /// As the two header fields record it: `ip=[192.0.2.7];domain=mail.sender.example`.
    pub fn recorded(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        let helo: String = self.helo.chars().take(255).map(|c| if plain(c) { c } else { '?' }).collect();
        format!("ip=[{}];domain={helo}", self.ip)
    }
}

/// The walk down the chain of one message.
#[derive(Debug)]
pub struct Chain {
    skipping: Skipping,
    state: State,
    place: Place,
    /// The field under way, folded as it came, when it may be a `Received`.
    field: Vec<u8>,
    hops: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Every address so far is looked past.
    Walking,
    Found(Origin),
    /// There is nothing to look past, or it cannot be told what is behind.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    InLine,
    /// After CR at the start of a line.
    EmptyLine,
    Body,
}

impl Chain {
    /// `None` where the connector looks past nobody, or not past the one that connects.
    pub fn behind(skipping: &Skipping, connecting: IpAddr) -> Option<Self> {
        let past = skipping.is_on() && (skipping.last_ip || is_skipped(skipping, connecting));
        past.then(|| Self {
            skipping: skipping.clone(),
            state: State::Walking,
            place: Place::LineStart,
            field: Vec::new(),
            hops: 0,
        })
    }

    /// The next piece of the message, as the client sent it.
    pub fn push(&mut self, content: &[u8]) {
        let mut rest = content;
        while let Some(&octet) = rest.first() {
            match self.place {
                Place::Body => return,
                Place::LineStart => match octet {
                    b' ' | b'\t' => self.place = Place::InLine,
                    b'\r' => {
                        self.place = Place::EmptyLine;
                        rest = &rest[1..];
                    }
                    _ => {
                        self.end_field();
                        self.place = Place::InLine;
                    }
                },
                Place::EmptyLine => {
                    self.place = Place::InLine;
                    if octet == b'\n' {
                        self.end_field();
                        self.end();
                        return;
                    }
                }
                Place::InLine => {
                    let line = memchr(b'\n', rest).map_or(rest, |lf| &rest[..=lf]);
                    let room = FIELD_LIMIT.saturating_sub(self.field.len()).min(line.len());
                    self.field.extend_from_slice(&line[..room]);
                    rest = &rest[line.len()..];
                    if line.ends_with(b"\n") {
                        self.place = Place::LineStart;
                    }
                }
            }
            if self.state != State::Walking {
                self.end();
                return;
            }
        }
    }

    /// The message is over.
    pub fn finish(&mut self) {
        self.end_field();
        self.end();
    }

    /// Whether nothing more can be learnt from what comes.
    pub fn is_over(&self) -> bool {
        self.place == Place::Body
    }

    /// Whom it came from, once that is known.
    pub fn origin(&self) -> Option<&Origin> {
        match &self.state {
            State::Found(origin) => Some(origin),
            State::Walking | State::Lost => None,
        }
    }

    fn end(&mut self) {
        self.place = Place::Body;
        self.field = Vec::new();
    }

    fn end_field(&mut self) {
        let field = std::mem::take(&mut self.field);
        let Some((name, value)) = memchr(b':', &field).map(|colon| (&field[..colon], &field[colon + 1..]))
        else {
            return;
        };
        if self.state != State::Walking || !name.trim_ascii_end().eq_ignore_ascii_case(NAME) {
            self.field = recycled(field);
            return;
        }
        self.hops += 1;
        match hop(&String::from_utf8_lossy(value)) {
            Hop::From(origin) if is_skipped(&self.skipping, origin.ip) => {}
            Hop::From(origin) => self.state = State::Found(origin),
            // A server that handed it to itself.
            Hop::Local => {}
            Hop::Unreadable => self.state = State::Lost,
        }
        if self.hops >= HOPS_LIMIT && self.state == State::Walking {
            self.state = State::Lost;
        }
        self.field = recycled(field);
    }
}

fn recycled(mut field: Vec<u8>) -> Vec<u8> {
    field.clear();
    field
}

/// Private addresses are skipped by themselves: they are nobody's on the internet.
fn is_skipped(skipping: &Skipping, ip: IpAddr) -> bool {
    is_private(ip) || skipping.ips.iter().any(|network| network.contains(&ip))
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [one, two, ..] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || (one == 100 && (64..128).contains(&two))
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
    }
}

enum Hop {
    From(Origin),
    Local,
    Unreadable,
}

/// Whom a server says that it got the message from. What the client called itself stands first and may be
/// anything; what the server saw stands in a comment behind it, in brackets where servers do it well.
fn hop(value: &str) -> Hop {
    let Some(clause) = from_clause(value) else { return Hop::Local };
    let mut words = clause.split_ascii_whitespace();
    let helo = words.next().filter(|word| !word.starts_with('(')).unwrap_or("unknown");
    let seen = address_seen(clause).or_else(|| literal(helo));
    match seen {
        Some(ip) => Hop::From(Origin { ip: ip.to_canonical(), helo: helo.to_owned() }),
        None if helo.eq_ignore_ascii_case("localhost") => Hop::Local,
        None => Hop::Unreadable,
    }
}

/// What stands between `from` and the next clause, outside of comments.
fn from_clause(value: &str) -> Option<&str> {
    let value = value.trim_ascii_start();
    let clause = value.get(..5).filter(|word| word.eq_ignore_ascii_case("from ")).map(|_| &value[5..])?;
    let mut depth = 0_usize;
    let mut word_start = 0;
    for (at, octet) in clause.bytes().enumerate() {
        match octet {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return Some(&clause[..at]),
            _ => {}
        }
        if depth == 0 && octet.is_ascii_whitespace() {
            let word = &clause[word_start..at];
            if ["by", "via", "with", "id", "for"].iter().any(|end| word.eq_ignore_ascii_case(end)) {
                return Some(&clause[..word_start]);
            }
        }
        if octet.is_ascii_whitespace() {
            word_start = at + 1;
        }
    }
    Some(clause)
}

/// The last address in brackets inside of a comment; else the last one that stands alone in one.
fn address_seen(clause: &str) -> Option<IpAddr> {
    let (mut bracketed, mut bare) = (None, None);
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, octet) in clause.bytes().enumerate() {
        let ends_word = octet.is_ascii_whitespace() || matches!(octet, b'(' | b')' | b',' | b';');
        if ends_word {
            if depth > 0 {
                let word = &clause[start..at];
                if let Some(ip) = literal(word) {
                    bracketed = Some(ip);
                } else if let Ok(ip) = word.parse() {
                    bare = Some(ip);
                }
            }
            start = at + 1;
        }
        match octet {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    bracketed.or(bare)
}

/// `[192.0.2.7]`, `[IPv6:2001:db8::7]`, with a port behind it or without.
fn literal(word: &str) -> Option<IpAddr> {
    let inner = word.strip_prefix('[')?.split(']').next()?;
    let inner = match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => &inner[5..],
        Some(_) | None => inner,
    };
    inner.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn skipping(last_ip: bool, ips: &[&str]) -> Skipping {
        let ips = ips.iter().map(|net| net.parse().expect("a network")).collect();
        Skipping { last_ip, ips, users: Vec::new() }
    }

    fn origin(skipping: &Skipping, connecting: &str, message: &[u8], cuts: &[usize]) -> Option<String> {
        let mut chain = Chain::behind(skipping, connecting.parse().expect("an address"))?;
        let mut start = 0;
        for end in cuts.iter().copied().chain([message.len()]) {
            chain.push(&message[start..end]);
            start = end;
        }
        chain.finish();
        chain.origin().map(Origin::recorded)
    }

    #[test]
    fn servers_say_whom_they_saw_in_many_ways() {
        for (value, seen) in [
            ("from a.example (b.example [203.0.113.1]) by mx", Some("ip=[203.0.113.1];domain=a.example")),
            ("from a.example (unknown [IPv6:2001:db8::1]) by mx", Some("ip=[2001:db8::1];domain=a.example")),
            ("from a.example ([203.0.113.1])\r\n\tby mx", Some("ip=[203.0.113.1];domain=a.example")),
            (
                "from a.example (203.0.113.1) by mx (203.0.113.9) with SMTP",
                Some("ip=[203.0.113.1];domain=a.example"),
            ),
            ("from [203.0.113.1] (helo=a.example) by mx", Some("ip=[203.0.113.1];domain=[203.0.113.1]")),
            ("from unknown (HELO 9.9.9.9) (203.0.113.1) by mx", Some("ip=[203.0.113.1];domain=unknown")),
            ("from a ([203.0.113.1]:4711 helo=x) by mx", Some("ip=[203.0.113.1];domain=a")),
            ("from [9.9.9.9] (b.example [203.0.113.1]) by mx", Some("ip=[203.0.113.1];domain=[9.9.9.9]")),
            ("FROM by (by.example [203.0.113.1]) by mx", None),
            (
                "from a\"\u{7} (b [203.0.113.1]); Fri, 21 Nov 2025 04:29:44 +0000",
                Some("ip=[203.0.113.1];domain=a??"),
            ),
            // In the tenant's own hands: nobody from outside.
            ("by mx (Postfix, from userid 0)", None),
            ("(qmail 1234 invoked by uid 0); Fri, 21 Nov 2025 04:29:44 +0000", None),
            ("from localhost by mx", None),
            // Nothing that could be believed.
            ("from a.example by mx [203.0.113.1]", None),
            ("from a.example (999.0.113.1) by mx", None),
            ("", None),
        ] {
            let message = format!("Subject: x\r\nReceived: {value}\r\n\r\n");
            let found = origin(&skipping(true, &[]), "198.51.100.7", message.as_bytes(), &[]);
            assert_eq!(found.as_deref(), seen, "{value:?}");
        }
    }

    const MESSAGE: &str = "Received: from gateway (gateway [198.51.100.8]) by hq\r\n\
        X-Other: from other ([203.0.113.66])\r\n\
        received : from inner (inner [10.0.0.1])\r\n by gateway\r\n\
        Received: by inner with local\r\n\
        Received: from sender.example (sender.example [203.0.113.1]) by inner\r\n\
        Received: from forged (forged [203.0.113.2]) by sender.example\r\n\
        \r\nReceived: from body (body [203.0.113.3]) by body\r\n";

    #[test]
    fn the_first_address_that_is_not_skipped_is_the_one() {
        for (skipping, connecting, found) in [
            // The last one alone: what it saw, if that is on the internet.
            (skipping(true, &[]), "198.51.100.7", Some("ip=[198.51.100.8];domain=gateway")),
            (
                skipping(false, &["198.51.100.0/24"]),
                "198.51.100.7",
                Some("ip=[203.0.113.1];domain=sender.example"),
            ),
            // A private address connects, and is skipped by itself.
            (
                skipping(false, &["198.51.100.8/32"]),
                "10.1.1.1",
                Some("ip=[203.0.113.1];domain=sender.example"),
            ),
            (skipping(false, &["198.51.100.7/32"]), "198.51.100.7", Some("ip=[198.51.100.8];domain=gateway")),
            // Whoever connects is not to be skipped.
            (skipping(false, &["198.51.100.8/32"]), "198.51.100.7", None),
            (skipping(false, &[]), "10.1.1.1", None),
            // Everybody is, to the end.
            (skipping(false, &["198.51.100.0/24", "203.0.113.0/24"]), "198.51.100.7", None),
        ] {
            let told = origin(&skipping, connecting, MESSAGE.as_bytes(), &[]);
            assert_eq!(told.as_deref(), found, "{skipping:?} {connecting}");
            let octets: Vec<usize> = (1..MESSAGE.len()).collect();
            assert_eq!(origin(&skipping, connecting, MESSAGE.as_bytes(), &octets), told);
        }
    }

    #[test]
    fn a_chain_without_end_and_fields_of_megabytes_cost_little() {
        let skipping = skipping(true, &[]);
        let mut chain = Chain::behind(&skipping, "10.0.0.1".parse().expect("an address")).expect("skipped");
        let hop = b"Received: from a (a [10.0.0.2]) by b\r\n";
        for _ in 0..HOPS_LIMIT {
            chain.push(hop);
        }
        chain.push(b"Received: from a (a [203.0.113.1]) by b\r\n\r\n");
        assert!(chain.is_over() && chain.origin().is_none());
        let mut chain = Chain::behind(&skipping, "10.0.0.1".parse().expect("an address")).expect("skipped");
        chain.push(b"Received: from a");
        for _ in 0..4096 {
            chain.push(&[b'x'; 1024]);
            assert!(chain.field.capacity() <= 2 * FIELD_LIMIT);
        }
        chain.push(b" (a [203.0.113.1]) by b\r\n\r\n");
        assert!(chain.is_over() && chain.origin().is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_read_without_harm(value in "\\PC{0,80}", cut in 0_usize..40) {
            let message = format!("Received: from {value}\r\n\r\n");
            let skipping = skipping(true, &[]);
            let whole = origin(&skipping, "10.0.0.1", message.as_bytes(), &[]);
            let cut = cut.min(message.len());
            prop_assert_eq!(origin(&skipping, "10.0.0.1", message.as_bytes(), &[cut]), whole);
        }
    }
}
