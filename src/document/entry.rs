//! Entry: one value of a file, read as what it should be.
//!
//! Owns the words for every kind of value that is not what was expected.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;
use toml::de::DeValue;

use super::page::Page;
use super::section::{Section, kind, one_of};
use super::unit::{parse_duration, parse_size, show_duration, show_size};
use crate::clock::Timestamp;
use crate::mail::{Address, Domain, DomainPattern, Endpoint, Region, Regions, TlsLevel};

/// Values are quoted in mistakes up to this length.
const QUOTE_LIMIT: usize = 80;

/// A value and where it stands. The readers note a mistake and give `None` when it is not theirs.
#[derive(Clone)]
pub struct Entry<'p> {
    page: &'p Page<'p>,
    path: String,
    /// Where the key stands, or the item of a list.
    at: usize,
    value: &'p DeValue<'p>,
}

impl<'p> Entry<'p> {
    pub(super) fn new(page: &'p Page<'p>, path: String, at: usize, value: &'p Spanned<DeValue<'p>>) -> Self {
        Self { page, path, at, value: value.get_ref() }
    }

    pub(super) fn renamed(self, path: String) -> Self {
        Self { path, ..self }
    }

    pub(super) fn value(&self) -> &'p DeValue<'p> {
        self.value
    }

    pub fn line(&self) -> usize {
        self.page.line(self.at)
    }

    pub fn mistake(&self, problem: impl Into<String>, expected: impl Into<String>) {
        self.page.mistake(self.at, &self.path, problem.into(), expected.into());
    }

    pub fn warning(&self, problem: impl Into<String>, expected: impl Into<String>) {
        let warning = self.page.describe(self.at, &self.path, problem.into(), expected.into());
        self.page.notes.warning(warning);
    }

    fn wrong_kind<T>(&self, expected: &str) -> Option<T> {
        self.mistake(format!("is {}", self.quoted()), expected);
        None
    }

    /// `"text"` for a string, the kind for all else.
    fn quoted(&self) -> String {
        match self.value {
            DeValue::String(text) => quote(text),
            DeValue::Integer(number) if number.radix() == 10 => format!("the integer {}", number.as_str()),
            DeValue::Boolean(flag) => format!("the boolean {flag}"),
            other => kind(other).to_owned(),
        }
    }

    pub fn flag(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong_kind("true or false"))
    }

    /// A string that says something.
    pub fn text(&self) -> Option<&'p str> {
        self.value
            .as_str()
            .filter(|text| !text.trim().is_empty())
            .or_else(|| self.wrong_kind("a text in quotes"))
    }

    fn string(&self, expected: &str) -> Option<&'p str> {
        self.value.as_str().or_else(|| self.wrong_kind(expected))
    }

    /// A string as `parse` reads it.
    pub fn text_as<T>(&self, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        self.value.as_str().and_then(parse).or_else(|| self.wrong_kind(expected))
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.text_as(&one_of(&known), |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = || format!("an integer from {} to {}", range.start(), range.end());
        let Some(integer) = self.value.as_integer() else { return self.wrong_kind(&expected()) };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX);
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Some(number),
            Ok(_) | Err(_) => {
                self.mistake(format!("is {}, out of range", integer.as_str()), expected());
                None
            }
        }
    }

    /// As `integer`, for counts of things held in memory.
    pub fn count(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let range = *range.start() as u64..=*range.end() as u64;
        self.integer(range).and_then(|number| usize::try_from(number).ok())
    }

    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
        self.measure(
            parse_duration,
            &range,
            &format!("a duration with its unit from \"{least}\" to \"{most}\""),
        )
    }

    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let (least, most) = (show_size(*range.start()), show_size(*range.end()));
        self.measure(parse_size, &range, &format!("a size with its unit from \"{least}\" to \"{most}\""))
    }

    fn measure<T: PartialOrd>(
        &self,
        parse: fn(&str) -> Option<T>,
        range: &RangeInclusive<T>,
        expected: &str,
    ) -> Option<T> {
        let value = self.text_as(expected, parse)?;
        if range.contains(&value) {
            return Some(value);
        }
        let excess = if value > *range.end() { "too much" } else { "too little" };
        self.mistake(format!("is {}, {excess}", self.quoted()), expected);
        None
    }

    pub fn region(&self, regions: &Regions) -> Option<Region> {
        let text = self.string("a region code such as \"EUR\"")?;
        let found = regions.find(text);
        if found.is_none() {
            self.mistake(
                format!("is {}, no region code", quote(text)),
                "one of the 25 codes or of region_codes, such as \"EUR\"",
            );
        }
        found
    }

    /// A host name that DNS may know, not an address literal.
    pub fn domain(&self) -> Option<Domain> {
        self.text_as("a domain such as \"contoso.com\"", |text| Domain::parse(text).ok().filter(is_name))
    }

    pub fn pattern(&self) -> Option<DomainPattern> {
        self.text_as("a domain, \"*.\" and a domain, or \"*\"", |text| {
            DomainPattern::parse(text).ok().filter(|pattern| !names_literal(pattern))
        })
    }

    /// A name in a certificate, exact or with `*.` in front.
    pub fn certificate_name(&self) -> Option<DomainPattern> {
        self.text_as("a certificate name such as \"mail.contoso.com\" or \"*.contoso.com\"", |text| {
            let pattern = DomainPattern::parse(text).ok()?;
            (pattern != DomainPattern::All && !names_literal(&pattern)).then_some(pattern)
        })
    }

    pub fn address(&self) -> Option<Address> {
        self.text_as("an address such as \"anna@contoso.com\"", |text| Address::parse(text).ok())
    }

    /// A network, or one address as a network of its own; host bits are dropped.
    pub fn network(&self) -> Option<IpNet> {
        self.text_as("a CIDR such as \"192.0.2.0/24\" or \"2001:db8::/32\"", parse_network)
    }

    /// The networks that connectors may name: IPv4, /24 to /32.
    pub fn source_network(&self) -> Option<Ipv4Net> {
        self.text_as("an IPv4 address or CIDR from /24 to /32", |text| match parse_network(text)? {
            IpNet::V4(net) if net.prefix_len() >= 24 => Some(net),
            IpNet::V4(_) | IpNet::V6(_) => None,
        })
    }

    pub fn endpoint(&self) -> Option<Endpoint> {
        let text = self.string("smtp://, smtps://, lmtp://, lmtp+unix:///path or maildir:///path")?;
        match Endpoint::parse(text) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                let expected = error.to_string();
                let expected = expected.strip_prefix("expected ").unwrap_or(&expected);
                self.mistake(format!("is {}", quote(text)), expected);
                None
            }
        }
    }

    /// An endpoint that speaks SMTP, as relays and smart hosts must.
    pub fn smtp_endpoint(&self) -> Option<Endpoint> {
        let expected = "smtp://host:port or smtps://host:port";
        let endpoint = self.value.as_str().map(Endpoint::parse);
        match endpoint {
            Some(Ok(endpoint @ (Endpoint::Smtp { .. } | Endpoint::Smtps { .. }))) => Some(endpoint),
            Some(Ok(Endpoint::Lmtp { .. } | Endpoint::LmtpUnix(_) | Endpoint::Maildir(_)) | Err(_))
            | None => self.wrong_kind(expected),
        }
    }

    pub fn tls_level(&self) -> Option<TlsLevel> {
        self.word(&[
            ("off", TlsLevel::Off),
            ("opportunistic", TlsLevel::Opportunistic),
            ("encrypt", TlsLevel::Encrypt),
            ("verify", TlsLevel::Verify),
        ])
    }

    pub fn socket_address(&self) -> Option<SocketAddr> {
        self.text_as("an IP address and a port such as \"0.0.0.0:25\" or \"[::]:25\"", |text| {
            text.parse().ok()
        })
    }

    /// RFC 3339, as TOML's own date-time or in quotes.
    pub fn time(&self) -> Option<Timestamp> {
        let parsed = match self.value {
            DeValue::Datetime(moment) => Timestamp::parse(&moment.to_string()),
            DeValue::String(text) => Timestamp::parse(text),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        parsed.or_else(|| self.wrong_kind("an RFC 3339 time such as 2026-01-01T00:00:00Z"))
    }

    /// A path, relative to `base`.
    pub fn file(&self, base: &Path) -> Option<PathBuf> {
        self.text_as("a path", |text| (!text.is_empty()).then(|| base.join(text)))
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Entry<'p>>> {
        let Some(items) = self.value.as_array() else { return self.wrong_kind("a list in [ ]") };
        let item = |(index, item): (usize, &'p Spanned<DeValue<'p>>)| {
            Entry::new(self.page, format!("{}[{index}]", self.path), item.span().start, item)
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    pub fn section(&self) -> Option<Section<'p>> {
        match self.value.as_table() {
            Some(table) => Some(Section::new(self.page, self.path.clone(), Some(table), self.at)),
            None => self.wrong_kind("a table"),
        }
    }
}

fn names_literal(pattern: &DomainPattern) -> bool {
    match pattern {
        DomainPattern::All => false,
        DomainPattern::Exact(domain) | DomainPattern::Below(domain) => domain.is_literal(),
    }
}

/// A network in CIDR, or one address as a network of its own; host bits are dropped.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    net.map(|net| net.trunc())
}

fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTE_LIMIT) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// No address, in brackets or bare: the last label of a name is never a number. RFC 1123 §2.1
pub fn is_name(domain: &Domain) -> bool {
    let last = domain.as_str().rsplit('.').next().unwrap_or_default();
    !domain.is_literal() && !last.bytes().all(|byte| byte.is_ascii_digit())
}
