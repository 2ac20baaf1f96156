//! Record: one SPF record, read into terms. RFC 7208 §4.6.1, §5, §6, §7.1 and §12.
//!
//! Pure: text in, terms out. The whole record is read before any of it is used, so that a mistake
//! anywhere makes a permerror (§4.6).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::mail::SpfResult;

/// A record as it is evaluated: mechanisms in order, modifiers apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) directives: Vec<Directive>,
    pub(super) redirect: Option<Text>,
    pub(super) exp: Option<Text>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directive {
    /// What a match means.
    pub(super) result: SpfResult,
    pub(super) mechanism: Mechanism,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(Text),
    A(Option<Text>, Prefixes),
    Mx(Option<Text>, Prefixes),
    Ptr(Option<Text>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(Text),
}

/// How much of an address has to agree, of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

/// A domain-spec or an explanation, its macros not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    /// `%%`, `%_` or `%-`, as what it stands for.
    Escape(&'static str),
    Macro(Macro),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Macro {
    /// In lower case.
    pub(super) letter: u8,
    /// The letter was a capital: the value is URL-escaped.
    pub(super) escaped: bool,
    /// How many right-hand parts; 0 is all.
    pub(super) parts: usize,
    pub(super) reversed: bool,
    /// Where the value is split; empty means at dots.
    pub(super) delimiters: Vec<u8>,
}

/// Where a text stands decides which macros it may have (§7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    DomainSpec,
    /// `c`, `r` and `t` are allowed, and so are spaces.
    Explanation,
}

/// Why a record is a permerror.
pub(super) type Mistake = &'static str;

/// Whether a TXT record is an SPF record: the version, then a space or the end (§4.5).
pub(super) fn is_spf(txt: &[u8]) -> bool {
    const VERSION: &[u8] = b"v=spf1";
    txt.get(..VERSION.len()).is_some_and(|start| start.eq_ignore_ascii_case(VERSION))
        && matches!(txt.get(VERSION.len()), None | Some(b' '))
}

impl Record {
    /// Reads what `is_spf` has let through.
    pub(super) fn parse(txt: &[u8]) -> Result<Self, Mistake> {
        // §3.1, and the grammar of §12: visible ASCII, and spaces between terms.
        if !txt.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err("characters that no record may have");
        }
        let text = std::str::from_utf8(txt).map_err(|_| "characters that no record may have")?;
        let mut record = Self { directives: Vec::new(), redirect: None, exp: None };
        for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
            record.add(term)?;
        }
        Ok(record)
    }

    fn add(&mut self, term: &str) -> Result<(), Mistake> {
        let Some((name, value)) = as_modifier(term) else {
            self.directives.push(directive(term)?);
            return Ok(());
        };
        let place = if name.eq_ignore_ascii_case("redirect") {
            &mut self.redirect
        } else if name.eq_ignore_ascii_case("exp") {
            &mut self.exp
        } else {
            // §6: unknown modifiers are ignored, yet have to be well formed.
            Text::parse(value, Within::Explanation)?;
            return Ok(());
        };
        if place.is_some() {
            return Err("a modifier twice");
        }
        *place = Some(Text::domain_spec(value)?);
        Ok(())
    }
}

/// `name=value`, where no `:` or `/` comes before the `=` (§4.6.1).
fn as_modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let mut bytes = name.bytes();
    let well_formed = bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    well_formed.then_some((name, value))
}

fn directive(term: &str) -> Result<Directive, Mistake> {
    let (result, rest) = match term.as_bytes()[0] {
        b'+' => (SpfResult::Pass, &term[1..]),
        b'-' => (SpfResult::Fail, &term[1..]),
        b'~' => (SpfResult::SoftFail, &term[1..]),
        b'?' => (SpfResult::Neutral, &term[1..]),
        _ => (SpfResult::Pass, term),
    };
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, argument) = rest.split_at(end);
    Ok(Directive { result, mechanism: mechanism(&name.to_ascii_lowercase(), argument)? })
}

/// `argument` begins at the `:` or `/` behind the name.
fn mechanism(name: &str, argument: &str) -> Result<Mechanism, Mistake> {
    let domain = || argument.strip_prefix(':').ok_or("a mechanism without its domain");
    match name {
        "all" if argument.is_empty() => Ok(Mechanism::All),
        "all" => Err("\"all\" with an argument"),
        "include" => Ok(Mechanism::Include(Text::domain_spec(domain()?)?)),
        "exists" => Ok(Mechanism::Exists(Text::domain_spec(domain()?)?)),
        "ptr" if argument.is_empty() => Ok(Mechanism::Ptr(None)),
        "ptr" => Ok(Mechanism::Ptr(Some(Text::domain_spec(domain()?)?))),
        "a" => target(argument).map(|(domain, prefixes)| Mechanism::A(domain, prefixes)),
        "mx" => target(argument).map(|(domain, prefixes)| Mechanism::Mx(domain, prefixes)),
        "ip4" => {
            let (address, length) = network(domain()?, 32)?;
            Ok(Mechanism::Ip4(address.parse().map_err(|_| "an IPv4 address that is none")?, length))
        }
        "ip6" => {
            let (address, length) = network(domain()?, 128)?;
            Ok(Mechanism::Ip6(address.parse().map_err(|_| "an IPv6 address that is none")?, length))
        }
        _ => Err("an unknown mechanism"),
    }
}

/// `[ ":" domain-spec ] [ "/" length ] [ "//" length ]` of `a` and `mx` (§5.3, §5.4).
fn target(argument: &str) -> Result<(Option<Text>, Prefixes), Mistake> {
    let mut prefixes = Prefixes { v4: 32, v6: 128 };
    let mut rest = argument;
    if let Some((before, digits)) = trailing_length(rest)
        && let Some(before) = before.strip_suffix('/')
    {
        prefixes.v6 = prefix_length(digits, 128)?;
        rest = before;
    }
    if let Some((before, digits)) = trailing_length(rest)
        && !before.ends_with('/')
    {
        prefixes.v4 = prefix_length(digits, 32)?;
        rest = before;
    }
    match rest.strip_prefix(':') {
        Some(domain) => Ok((Some(Text::domain_spec(domain)?), prefixes)),
        None if rest.is_empty() => Ok((None, prefixes)),
        None => Err("a prefix length that is none"),
    }
}

/// Splits `/digits` off the end.
fn trailing_length(text: &str) -> Option<(&str, &str)> {
    let (before, digits) = text.rsplit_once('/')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some((before, digits))
}

fn network(text: &str, longest: u8) -> Result<(&str, u8), Mistake> {
    match text.split_once('/') {
        Some((address, digits)) => Ok((address, prefix_length(digits, longest)?)),
        None => Ok((text, longest)),
    }
}

/// At most `longest`, without leading zeros.
fn prefix_length(digits: &str, longest: u8) -> Result<u8, Mistake> {
    let plain = digits == "0" || !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    let length = digits.parse::<u8>().ok().filter(|length| plain && *length <= longest);
    length.ok_or("a prefix length that is none")
}

impl Text {
    /// A domain-spec ends in a macro or in a dot and a top label (§7.1).
    fn domain_spec(text: &str) -> Result<Self, Mistake> {
        let text = Self::parse(text, Within::DomainSpec)?;
        match text.0.last() {
            None => Err("a domain that is empty"),
            Some(Piece::Macro(_) | Piece::Escape(_)) => Ok(text),
            Some(Piece::Literal(end)) => {
                let end = end.strip_suffix('.').unwrap_or(end);
                let top = end.rsplit_once('.').map(|(_, top)| top).ok_or("a domain of one label")?;
                if is_top_label(top) { Ok(text) } else { Err("a top-level domain that is none") }
            }
        }
    }

    pub(super) fn parse(text: &str, within: Within) -> Result<Self, Mistake> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            if at > 0 {
                pieces.push(Piece::Literal(rest[..at].to_owned()));
            }
            let behind = &rest[at + 1..];
            let (piece, taken) = match behind.bytes().next() {
                Some(b'%') => (Piece::Escape("%"), 1),
                Some(b'_') => (Piece::Escape(" "), 1),
                Some(b'-') => (Piece::Escape("%20"), 1),
                Some(b'{') => {
                    let end = behind.find('}').ok_or("a macro without its end")?;
                    (Piece::Macro(Macro::parse(&behind[1..end], within)?), end + 1)
                }
                Some(_) | None => return Err("a percent sign that begins no macro"),
            };
            pieces.push(piece);
            rest = &behind[taken..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        Ok(Self(pieces))
    }
}

impl Macro {
    fn parse(text: &str, within: Within) -> Result<Self, Mistake> {
        let bytes = text.as_bytes();
        let letter = bytes.first().ok_or("a macro without a letter")?.to_ascii_lowercase();
        let known = match within {
            Within::DomainSpec => b"slodipvh".contains(&letter),
            Within::Explanation => b"slodipvhcrt".contains(&letter),
        };
        if !known {
            return Err("a macro letter that is unknown here");
        }
        let rest = &bytes[1..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let parts = match &text[1..=digits] {
            "" => 0,
            digits => match digits.parse::<usize>() {
                Ok(0) => return Err("a macro with no parts"),
                Ok(parts) => parts,
                // More than any value has.
                Err(_) => usize::MAX,
            },
        };
        let mut delimiters = &rest[digits..];
        let reversed = delimiters.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'r'));
        if reversed {
            delimiters = &delimiters[1..];
        }
        if !delimiters.iter().all(|byte| b".-+,/_=".contains(byte)) {
            return Err("a macro delimiter that is none");
        }
        let escaped = bytes[0].is_ascii_uppercase();
        Ok(Self { letter, escaped, parts, reversed, delimiters: delimiters.to_vec() })
    }
}

/// Letters, digits and inner hyphens, and not digits alone (§7.1).
fn is_top_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && !bytes.iter().all(u8::is_ascii_digit)
}
