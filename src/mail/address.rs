//! Address, Domain: parsed once, compared rightly.
//!
//! Domains are A-labels in lower case; local parts compare in any case and without their quotes,
//! and are written as the client wrote them. `smtp::command` reads paths with these.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// RFC 5321 §4.5.3.1.1: a local part has at most 64 octets.
const LOCAL_PART_LIMIT: usize = 64;
/// RFC 5321 §4.5.3.1.2: a domain has at most 255 octets.
const DOMAIN_LIMIT: usize = 255;
/// RFC 1035 §2.3.4: a label has at most 63 octets.
const LABEL_LIMIT: usize = 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("an address needs one '@' between a local part and a domain")]
    NoDomain,
    #[error("the local part is empty, too long or has characters that need quoting")]
    BadLocalPart,
    #[error("the domain is not a valid host name or address literal")]
    BadDomain,
}

/// A domain as A-labels in lower case, or an address literal such as `[192.0.2.1]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Domain(Arc<str>);

impl Domain {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('[') {
            return Self::parse_literal(text);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if is_plain_host(text) {
            if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Ok(Self(text.to_ascii_lowercase().into()));
            }
            return Ok(Self(text.into()));
        }
        // Underscores and other ASCII that a host name may not have are refused before IDNA sees them.
        if text.is_ascii() {
            return Err(AddressError::BadDomain);
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::BadDomain)?;
        if is_plain_host(&ascii) { Ok(Self(ascii.into())) } else { Err(AddressError::BadDomain) }
    }

    fn parse_literal(text: &str) -> Result<Self, AddressError> {
        let inner =
            text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(AddressError::BadDomain)?;
        let lower = inner.to_ascii_lowercase();
        let valid = match lower.strip_prefix("ipv6:") {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => inner.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        if valid { Ok(Self(format!("[{lower}]").into())) } else { Err(AddressError::BadDomain) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_literal(&self) -> bool {
        self.0.starts_with('[')
    }

    /// The parents, nearest first: `a.b.example` gives `b.example`, then `example`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        let rest = if self.is_literal() { None } else { Some(&*self.0) };
        std::iter::successors(rest, |name| name.split_once('.').map(|(_, parent)| parent)).skip(1)
    }
}

/// Labels of letters, digits and inner hyphens; at least one label, no label and no name too long.
fn is_plain_host(text: &str) -> bool {
    if text.is_empty() || text.len() > DOMAIN_LIMIT {
        return false;
    }
    text.split('.').all(|label| {
        let bytes = label.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= LABEL_LIMIT
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    })
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// For tables with domains as keys; it compares and hashes as its text does.
impl std::borrow::Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl TryFrom<String> for Domain {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

/// A mailbox address. Equal when local parts match in any case, quoted or not, and domains are equal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address {
    /// As written, with its quotes when it was quoted.
    local: Box<str>,
    domain: Domain,
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        // A quoted local part may hold an '@': the last one splits. RFC 5321 §4.1.2
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoDomain)?;
        if !is_local_part(local) {
            return Err(AddressError::BadLocalPart);
        }
        Ok(Self { local: local.into(), domain: Domain::parse(domain)? })
    }

    /// The mailbox that every mail domain has (RFC 5321 §4.5.1).
    pub fn postmaster_at(domain: Domain) -> Self {
        Self { local: "postmaster".into(), domain }
    }

    /// From a local part as it goes on the wire and a domain that was parsed before.
    pub fn from_parts(local: &str, domain: Domain) -> Result<Self, AddressError> {
        if is_local_part(local) {
            Ok(Self { local: local.into(), domain })
        } else {
            Err(AddressError::BadLocalPart)
        }
    }

    /// The local part as it goes on the wire.
    pub fn local(&self) -> &str {
        &self.local
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The same local part at another domain, as rewriting to a parent domain needs it.
    pub fn at(&self, domain: Domain) -> Self {
        Self { local: self.local.clone(), domain }
    }

    /// What directories compare: the local part without quotes, in lower case, and the domain.
    pub fn key(&self) -> String {
        let mut key = self.local_key();
        key.push('@');
        key.push_str(self.domain.as_str());
        key
    }

    pub fn local_key(&self) -> String {
        local_key_of(&self.local)
    }

    pub fn is_postmaster(&self) -> bool {
        is_same_local(&self.local, "postmaster")
    }

    /// Whether a next hop needs SMTPUTF8 for it (RFC 6531). The domain never does: it is A-labels here.
    pub fn needs_utf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

/// Dot-atom or quoted string (RFC 5321 §4.1.2), UTF-8 allowed (RFC 6531 §3.3).
fn is_local_part(local: &str) -> bool {
    if local.is_empty() || local.len() > LOCAL_PART_LIMIT {
        return false;
    }
    if let Some(rest) = local.strip_prefix('"') {
        let Some(inner) = rest.strip_suffix('"') else { return false };
        return is_quoted_content(inner);
    }
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_char))
}

fn is_quoted_content(inner: &str) -> bool {
    let mut escaped = false;
    for c in inner.chars() {
        if c.is_control() {
            return false;
        }
        match (escaped, c) {
            (true, _) => escaped = false,
            (false, '\\') => escaped = true,
            (false, '"') => return false,
            (false, _) => {}
        }
    }
    !escaped
}

fn is_atom_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.domain == other.domain && is_same_local(&self.local, &other.local)
    }
}

/// The common case without allocating: a transaction compares each recipient with all before it.
fn is_same_local(one: &str, other: &str) -> bool {
    let plain = |local: &str| local.is_ascii() && !local.starts_with('"');
    if plain(one) && plain(other) {
        one.eq_ignore_ascii_case(other)
    } else {
        one == other || local_key_of(one) == local_key_of(other)
    }
}

fn local_key_of(local: &str) -> String {
    let mut key = unquoted(local);
    if key.is_ascii() {
        key.make_ascii_lowercase();
        key
    } else {
        key.to_lowercase()
    }
}

impl Eq for Address {}

impl std::hash::Hash for Address {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.local_key().hash(state);
        self.domain.hash(state);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

/// What a connector names: one domain, a domain and all below it (`*.contoso.com`), or all (`*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DomainPattern {
    All,
    Exact(Domain),
    /// The names below this one; not the name itself.
    Below(Domain),
}

impl DomainPattern {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text == "*" {
            return Ok(Self::All);
        }
        match text.strip_prefix("*.") {
            Some(rest) => Ok(Self::Below(Domain::parse(rest)?)),
            None => Ok(Self::Exact(Domain::parse(text)?)),
        }
    }

    /// How exactly it matches: `None` when not at all, greater is more specific (rule 38).
    pub fn specificity(&self, domain: &Domain) -> Option<usize> {
        match self {
            Self::All => Some(0),
            Self::Below(parent) => {
                domain.parents().any(|name| name == parent.as_str()).then_some(parent.as_str().len())
            }
            Self::Exact(name) => (name == domain).then_some(usize::MAX),
        }
    }

    pub fn matches(&self, domain: &Domain) -> bool {
        self.specificity(domain).is_some()
    }

    /// Whether a name in a certificate is meant. A wildcard name counts for the same pattern only.
    pub fn matches_certificate_name(&self, name: &str) -> bool {
        match Self::parse(name) {
            Ok(Self::Exact(name)) => self.matches(&name),
            Ok(Self::Below(parent)) => *self == Self::Below(parent),
            Ok(Self::All) | Err(_) => false,
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Exact(domain) => write!(f, "{domain}"),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn addresses_compare_in_any_case_and_without_quotes() {
        for (one, two) in [
            ("Anna@Contoso.COM", "anna@contoso.com"),
            ("\"anna\"@contoso.com", "anna@contoso.com"),
            ("\"a\\ b\"@contoso.com", "\"a b\"@contoso.com"),
            ("jürgen@münchen.example", "JÜRGEN@xn--mnchen-3ya.example"),
        ] {
            assert_eq!(address(one), address(two), "{one} {two}");
            assert_eq!(address(one).key(), address(two).key());
        }
        assert_ne!(address("anna@contoso.com"), address("anne@contoso.com"));
    }

    #[test]
    fn an_address_is_written_as_it_came_with_an_ascii_domain() {
        assert_eq!(address("\"a b\"@Contoso.com").to_string(), "\"a b\"@contoso.com");
        assert_eq!(address("Postmaster@[IPv6:::1]").to_string(), "Postmaster@[ipv6:::1]");
        assert!(address("jürgen@example.com").needs_utf8());
        assert!(!address("a@münchen.example").needs_utf8());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "anna",
            "@contoso.com",
            "anna@",
            "a b@contoso.com",
            ".a@contoso.com",
            "a..b@contoso.com",
            "\"a@contoso.com",
            "\"a\"b\"@contoso.com",
            "a@-contoso.com",
            "a@con_toso.com",
            "a@[300.1.1.1]",
            "a@[IPv6:zz]",
            "a\r@contoso.com",
            "a@contoso..com",
            "a@b c",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        assert!(Address::parse(&format!("{}@contoso.com", "a".repeat(65))).is_err());
        assert!(Address::parse(&format!("a@{}.com", "a".repeat(64))).is_err());
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let domain = Domain::parse("a.hq.contoso.com").expect("a domain");
        let rank = |text: &str| DomainPattern::parse(text).expect(text).specificity(&domain);
        assert!(rank("a.hq.contoso.com") > rank("*.hq.contoso.com"));
        assert!(rank("*.hq.contoso.com") > rank("*.contoso.com"));
        assert!(rank("*.contoso.com") > rank("*"));
        assert_eq!(rank("*.a.hq.contoso.com"), None);
        assert_eq!(rank("contoso.com"), None);
        assert!(DomainPattern::parse("a.*.com").is_err());
    }
}
