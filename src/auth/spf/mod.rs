//! Spf: may this client use this domain? RFC 7208, whole: macros, explanations and limits.
//!
//! Owns the evaluation; `record` reads, `expansion` puts macros into words, `dns` answers. The published
//! suite of 203 cases is its gate (`tests/spf.rs`).

mod expansion;
mod record;

use std::net::IpAddr;

use crate::clock::Timestamp;
use crate::dns::{Answer, Resolver};
use crate::mail::SpfResult;

use expansion::Values;
use record::{Directive, Mechanism, Prefixes, Record, Text, Within, is_spf};

/// §4.6.4: terms that ask the DNS.
const LOOKUP_LIMIT: usize = 10;
/// §4.6.4: of those, how many may find nothing.
const VOID_LIMIT: usize = 2;
/// §4.6.4: mail exchangers of one `mx`; more is a permerror.
const MX_LIMIT: usize = 10;
/// §4.6.4: names of the client that are looked at; the rest is ignored.
const PTR_LIMIT: usize = 10;
/// An explanation is a stranger's text; so much of it is kept.
const EXPLANATION_LIMIT: usize = 400;

/// What is to be checked.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub ip: IpAddr,
    /// Of MAIL FROM; "postmaster" where there is none (§2.4).
    pub local_part: &'a str,
    /// Of MAIL FROM, or what the client called itself when the sender is null.
    pub domain: &'a str,
    pub helo: &'a str,
    /// This host, for the macro `r`.
    pub receiver: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub result: SpfResult,
    /// Why it is an error.
    pub problem: Option<&'static str>,
    /// What the domain's owner says to a fail (§6.2); printable ASCII.
    pub explanation: Option<String>,
}

/// What stops an evaluation.
enum Stop {
    Temporary,
    Permanent(&'static str),
}

impl From<&'static str> for Stop {
    fn from(mistake: &'static str) -> Self {
        Self::Permanent(mistake)
    }
}

/// How the record of one domain came out.
enum Outcome {
    /// There is no record.
    None,
    Result(SpfResult),
    /// A fail, and where its explanation is.
    Fail {
        exp: Option<Text>,
        domain: String,
    },
}

/// check_host() of §4. Ends by itself, by the limits above; the time it may take is the caller's to bound.
pub async fn check(resolver: &Resolver, claim: &Claim<'_>, now: Timestamp) -> Verdict {
    let claim = Claim { ip: claim.ip.to_canonical(), ..*claim };
    let mut check = Check { resolver, claim: &claim, now, lookups: 0, voids: 0, names: None };
    let (result, problem) = match check.host(claim.domain.trim_end_matches('.')).await {
        Ok(Outcome::None) => (SpfResult::None, None),
        Ok(Outcome::Result(result)) => (result, None),
        Ok(Outcome::Fail { exp, domain }) => {
            let explanation = match exp {
                Some(exp) => check.explain(&exp, &domain).await,
                None => None,
            };
            return Verdict { result: SpfResult::Fail, problem: None, explanation };
        }
        Err(Stop::Temporary) => (SpfResult::TempError, Some("a lookup failed")),
        Err(Stop::Permanent(mistake)) => (SpfResult::PermError, Some(mistake)),
    };
    Verdict { result, problem, explanation: None }
}

struct Check<'a> {
    resolver: &'a Resolver,
    claim: &'a Claim<'a>,
    now: Timestamp,
    lookups: usize,
    voids: usize,
    /// The client's validated names, once they were needed.
    names: Option<Vec<String>>,
}

impl Check<'_> {
    async fn host(&mut self, domain: &str) -> Result<Outcome, Stop> {
        // §4.3
        if !is_name(domain) {
            return Ok(Outcome::None);
        }
        let found = match self.resolver.txt(domain).await {
            Answer::Found(found) => found.records,
            Answer::NoData { .. } | Answer::NoName { .. } => return Ok(Outcome::None),
            Answer::Failed(_) => return Err(Stop::Temporary),
        };
        let mut records = found.iter().filter(|txt| is_spf(txt));
        let record = match (records.next(), records.next()) {
            (None, _) => return Ok(Outcome::None),
            (Some(only), None) => Record::parse(only)?,
            (Some(_), Some(_)) => return Err(Stop::Permanent("more than one SPF record")),
        };
        self.evaluate(record, domain).await
    }

    async fn evaluate(&mut self, record: Record, domain: &str) -> Result<Outcome, Stop> {
        for Directive { result, mechanism } in &record.directives {
            if self.matches(mechanism, domain).await? {
                return Ok(match result {
                    SpfResult::Fail => Outcome::Fail { exp: record.exp, domain: domain.to_owned() },
                    result => Outcome::Result(*result),
                });
            }
        }
        let Some(redirect) = &record.redirect else { return Ok(Outcome::Result(SpfResult::Neutral)) };
        self.count_lookup()?;
        let target = self.name(Some(redirect), domain).await;
        // The record there takes this one's place, explanation included (§6.1).
        match Box::pin(self.host(&target)).await? {
            Outcome::None => Err(Stop::Permanent("a redirect to a domain without a record")),
            outcome => Ok(outcome),
        }
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Stop> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, length) => Ok(agrees(self.claim.ip, (*network).into(), *length)),
            Mechanism::Ip6(network, length) => Ok(agrees(self.claim.ip, (*network).into(), *length)),
            Mechanism::Include(target) => {
                self.count_lookup()?;
                let target = self.name(Some(target), domain).await;
                match Box::pin(self.host(&target)).await? {
                    Outcome::Result(SpfResult::Pass) => Ok(true),
                    Outcome::Result(_) | Outcome::Fail { .. } => Ok(false),
                    Outcome::None => Err(Stop::Permanent("an include of a domain without a record")),
                }
            }
            Mechanism::A(target, prefixes) => {
                self.count_lookup()?;
                let name = self.name(target.as_ref(), domain).await;
                let addresses = self.addresses(&name).await?;
                if addresses.is_empty() {
                    self.count_void()?;
                }
                Ok(self.is_among(&addresses, *prefixes))
            }
            Mechanism::Mx(target, prefixes) => {
                self.count_lookup()?;
                let name = self.name(target.as_ref(), domain).await;
                self.matches_mx(&name, *prefixes).await
            }
            Mechanism::Ptr(target) => {
                self.count_lookup()?;
                let target = self.name(target.as_ref(), domain).await;
                let names = self.validated_names().await;
                Ok(names.iter().any(|name| is_below(name, &target)))
            }
            Mechanism::Exists(target) => {
                self.count_lookup()?;
                let name = self.name(Some(target), domain).await;
                // §5.7: an A record, whatever family the client is of.
                let exists = is_name(&name)
                    && match self.resolver.a(&name).await {
                        Answer::Found(_) => true,
                        Answer::NoData { .. } | Answer::NoName { .. } => false,
                        Answer::Failed(_) => return Err(Stop::Temporary),
                    };
                if !exists {
                    self.count_void()?;
                }
                Ok(exists)
            }
        }
    }

    async fn matches_mx(&mut self, name: &str, prefixes: Prefixes) -> Result<bool, Stop> {
        let answer = if is_name(name) { self.resolver.mx(name).await } else { nothing() };
        let exchangers = match answer {
            Answer::Found(found) => found.records,
            Answer::NoData { .. } | Answer::NoName { .. } => {
                self.count_void()?;
                return Ok(false);
            }
            Answer::Failed(_) => return Err(Stop::Temporary),
        };
        if exchangers.len() > MX_LIMIT {
            return Err(Stop::Permanent("more than ten mail exchangers"));
        }
        for mx in exchangers {
            let addresses = self.addresses(&unescaped(&mx.exchange)).await?;
            if self.is_among(&addresses, prefixes) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn count_lookup(&mut self) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUP_LIMIT {
            return Err(Stop::Permanent("more than ten lookups"));
        }
        Ok(())
    }

    fn count_void(&mut self) -> Result<(), Stop> {
        self.voids += 1;
        if self.voids > VOID_LIMIT {
            return Err(Stop::Permanent("more than two lookups that found nothing"));
        }
        Ok(())
    }

    /// The addresses of a name that are of the client's family.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Stop> {
        if !is_name(name) {
            return Ok(Vec::new());
        }
        match self.claim.ip {
            IpAddr::V4(_) => addresses(self.resolver.a(name).await),
            IpAddr::V6(_) => addresses(self.resolver.aaaa(name).await),
        }
    }

    fn is_among(&self, addresses: &[IpAddr], prefixes: Prefixes) -> bool {
        let length = if self.claim.ip.is_ipv4() { prefixes.v4 } else { prefixes.v6 };
        addresses.iter().any(|address| agrees(self.claim.ip, *address, length))
    }

    /// The client's names that lead back to it. A failure leaves a name out (§5.5).
    async fn validated_names(&mut self) -> &[String] {
        if self.names.is_none() {
            let mut names = Vec::new();
            if let Answer::Found(found) = self.resolver.ptr(self.claim.ip).await {
                for name in found.records.iter().take(PTR_LIMIT) {
                    let name = name.trim_end_matches('.').to_ascii_lowercase();
                    let addresses = self.addresses(&name).await.unwrap_or_default();
                    if addresses.contains(&self.claim.ip) {
                        names.push(name);
                    }
                }
            }
            self.names = Some(names);
        }
        self.names.as_deref().unwrap_or_default()
    }

    /// The name a term is about: its own, or the domain whose record this is.
    async fn name(&mut self, target: Option<&Text>, domain: &str) -> String {
        let Some(target) = target else { return domain.to_owned() };
        let validated = self.validated_for(target, domain).await;
        target.expand_name(&self.values(domain, validated.as_deref()))
    }

    /// §7.3: the domain itself, else a name below it, else any.
    async fn validated_for(&mut self, text: &Text, domain: &str) -> Option<String> {
        if !text.asks_for_validated_name() {
            return None;
        }
        let names = self.validated_names().await;
        let itself = names.iter().find(|name| name.eq_ignore_ascii_case(domain));
        let below = || names.iter().find(|name| is_below(name, domain));
        itself.or_else(below).or(names.first()).cloned()
    }

    fn values<'v>(&'v self, domain: &'v str, validated: Option<&'v str>) -> Values<'v> {
        Values { claim: self.claim, domain, validated, now: self.now }
    }

    /// §6.2: whatever goes wrong here, there is no explanation then.
    async fn explain(&mut self, exp: &Text, domain: &str) -> Option<String> {
        let name = self.name(Some(exp), domain).await;
        if !is_name(&name) {
            return None;
        }
        let Answer::Found(found) = self.resolver.txt(&name).await else { return None };
        let [text] = &found.records[..] else { return None };
        let text = std::str::from_utf8(text).ok().filter(|text| is_printable(text))?;
        let text = Text::parse(text, Within::Explanation).ok()?;
        let validated = self.validated_for(&text, domain).await;
        let mut words = text.expand(&self.values(domain, validated.as_deref()));
        // What it was expanded from is a stranger's as well.
        words.retain(|c| (' '..='~').contains(&c));
        words.truncate(EXPLANATION_LIMIT);
        Some(words)
    }
}

fn nothing<T>() -> Answer<T> {
    Answer::NoName { authentic: false }
}

fn addresses<A: Into<IpAddr>>(answer: Answer<A>) -> Result<Vec<IpAddr>, Stop> {
    match answer {
        Answer::Found(found) => Ok(found.records.into_iter().map(Into::into).collect()),
        Answer::NoData { .. } | Answer::NoName { .. } => Ok(Vec::new()),
        Answer::Failed(_) => Err(Stop::Temporary),
    }
}

/// Whether two addresses of one family share their first `length` bits.
fn agrees(ip: IpAddr, network: IpAddr, length: u8) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (ip.to_bits() ^ network.to_bits()) & mask == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (ip.to_bits() ^ network.to_bits()) & mask == 0
        }
        // §5: an IPv4 client never matches an IPv6 address, nor the other way round.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Whether a name can be asked for: RFC 1035 §2.3.4, and of several labels, since single ones are the own
/// network's. Macros make names that cannot (§4.3).
fn is_name(name: &str) -> bool {
    name.contains('.')
        && name.len() <= 253
        && name.split('.').all(|label| !label.is_empty() && label.len() <= 63)
}

/// A name as it is asked for: what the DNS's presentation form escapes, put back (RFC 1035 §5.1).
fn unescaped(name: &str) -> String {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = if byte == b'\\' { bytes.next() } else { None };
        match escaped {
            Some(first @ b'0'..=b'9') => {
                let digits = [Some(first), bytes.next(), bytes.next()];
                let value = digits
                    .into_iter()
                    .flatten()
                    .fold(0_u8, |value, digit| value.wrapping_mul(10).wrapping_add(digit.wrapping_sub(b'0')));
                plain.push(value);
            }
            Some(other) => plain.push(other),
            None => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).trim_end_matches('.').to_owned()
}

/// Whether a name is the domain or below it.
fn is_below(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.as_bytes(), domain.as_bytes());
    name.len()
        .checked_sub(domain.len())
        .is_some_and(|at| name[at..].eq_ignore_ascii_case(domain) && (at == 0 || name[at - 1] == b'.'))
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}
