//! Exchange: who takes a domain's mail. RFC 5321 §5.1, RFC 7505
//!
//! Owns the order of the MX hosts and what the answers mean when there is none. `by_mx` asks.

use std::net::IpAddr;

use super::Internet;
use crate::chance::Chance;
use crate::dns::{Answer, Mx, Records, Resolver};
use crate::mail::{Domain, RemoteReply, Status};

/// MX hosts looked at; those of the lowest preference numbers first.
const EXCHANGERS_LIMIT: usize = 16;
/// Addresses tried for one host.
const ADDRESSES_LIMIT: usize = 8;

/// The hosts of a domain, in groups of one preference; each group in an order of chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchangers {
    pub(super) groups: Vec<Vec<String>>,
    /// Whether the DNS proves that these are its hosts.
    pub(super) authentic: bool,
    /// Whether the domain is its own host, for want of an MX.
    pub(super) implicit: bool,
}

/// Why there is no host to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoWay {
    /// It will not change while the message waits, or is nobody's to change but the domain's.
    Never(RemoteReply),
    NotNow(RemoteReply),
}

/// What is known of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Known {
        addresses: Vec<IpAddr>,
        authentic: bool,
        /// After its aliases.
        name: String,
    },
    /// It is this very server.
    Ourselves,
    /// It exists, but not on the internet.
    OffLimits,
    Nowhere,
    Unknown(String),
}

impl Exchangers {
    /// Asks for the MX records; an address literal is its own host.
    pub(super) async fn of(domain: &Domain, resolver: &Resolver, chance: &mut Chance) -> Result<Self, NoWay> {
        if let Some(address) = literal(domain) {
            let groups = vec![vec![address.to_string()]];
            return Ok(Self { groups, authentic: false, implicit: true });
        }
        let own = |authentic| {
            let groups = vec![vec![domain.as_str().to_owned()]];
            Self { groups, authentic, implicit: true }
        };
        // A final dot: no search list has a say in this.
        match resolver.mx(&format!("{domain}.")).await {
            Answer::Found(found) => Self::sorted(found, domain, chance),
            // No MX: the domain is its own host. RFC 5321 §5.1
            Answer::NoData { authentic } => Ok(own(authentic)),
            Answer::NoName { .. } => {
                let text = format!("The domain {domain} does not exist");
                Err(NoWay::Never(RemoteReply::ours("", Status::new(5, 1, 2), text)))
            }
            Answer::Failed(why) => {
                let text = format!("DNS query failed: the MX of {domain}: {why}");
                Err(NoWay::NotNow(RemoteReply::ours("", Status::new(4, 4, 312), text)))
            }
        }
    }

    fn sorted(found: Records<Mx>, domain: &Domain, chance: &mut Chance) -> Result<Self, NoWay> {
        let mut records = found.records;
        // `MX 0 .` says that it takes no mail; beside others it says nothing. RFC 7505 §3
        records.retain(|mx| !mx.exchange.is_empty());
        if records.is_empty() {
            let text = format!("The domain {domain} takes no mail (null MX)");
            return Err(NoWay::Never(RemoteReply::ours("", Status::new(5, 1, 10), text)));
        }
        // Load is spread by chance among equals. RFC 5321 §5.1
        let mut drawn: Vec<(u16, u64, String)> =
            records.into_iter().map(|mx| (mx.preference, chance.next_u64(), mx.exchange)).collect();
        drawn.sort();
        drawn.truncate(EXCHANGERS_LIMIT);
        let groups = drawn
            .chunk_by(|one, two| one.0 == two.0)
            .map(|group| group.iter().map(|(_, _, exchange)| exchange.clone()).collect());
        Ok(Self { groups: groups.collect(), authentic: found.authentic, implicit: false })
    }
}

impl Host {
    pub(super) async fn of(name: &str, internet: &Internet, resolver: &Resolver) -> Self {
        if internet.is_own_name(name) {
            return Self::Ourselves;
        }
        if let Ok(address) = name.parse::<IpAddr>() {
            return Self::judged(vec![address], false, name.to_owned(), internet);
        }
        let whole = format!("{name}.");
        let (four, six) = tokio::join!(resolver.a(&whole), resolver.aaaa(&whole));
        let failure = [why(&four), why(&six)].into_iter().flatten().next();
        let mut addresses = Vec::new();
        let mut authentic = true;
        let mut last_name = name.to_owned();
        if let Answer::Found(found) = four {
            authentic &= found.authentic;
            last_name = found.name;
            addresses.extend(found.records.into_iter().map(IpAddr::V4));
        }
        if let Answer::Found(found) = six {
            authentic &= found.authentic;
            last_name = found.name;
            addresses.extend(found.records.into_iter().map(IpAddr::V6));
        }
        match (addresses.is_empty(), failure) {
            (true, Some(why)) => Self::Unknown(why),
            (true, None) => Self::Nowhere,
            (false, _) => Self::judged(addresses, authentic, last_name, internet),
        }
    }

    fn judged(mut addresses: Vec<IpAddr>, authentic: bool, name: String, internet: &Internet) -> Self {
        if addresses.iter().any(|address| internet.is_own_address(*address)) {
            return Self::Ourselves;
        }
        addresses.retain(|address| internet.may_call(*address));
        addresses.truncate(ADDRESSES_LIMIT);
        if addresses.is_empty() { Self::OffLimits } else { Self::Known { addresses, authentic, name } }
    }
}

fn why<T>(answer: &Answer<T>) -> Option<String> {
    match answer {
        Answer::Failed(why) => Some(why.clone()),
        Answer::Found(_) | Answer::NoData { .. } | Answer::NoName { .. } => None,
    }
}

/// `[192.0.2.1]` and `[IPv6:2001:db8::1]`. RFC 5321 §4.1.3
fn literal(domain: &Domain) -> Option<IpAddr> {
    let inner = domain.as_str().strip_prefix('[')?.strip_suffix(']')?;
    inner.strip_prefix("ipv6:").unwrap_or(inner).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Table;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).expect("a domain")
    }

    async fn of(name: &str, table: Table, seed: u64) -> Result<Exchangers, NoWay> {
        Exchangers::of(&domain(name), &Resolver::written(table), &mut Chance::from_seed(seed)).await
    }

    #[tokio::test]
    async fn hosts_come_by_preference_and_equals_by_chance() {
        let table = Table::default().mx("a.example", &[(20, "c"), (10, "a"), (10, "b"), (30, "d")]);
        let mut firsts = Vec::new();
        for seed in 0..50 {
            let found = of("a.example", table.clone(), seed).await.expect("hosts");
            assert_eq!(found.groups[1..], [vec!["c".to_owned()], vec!["d".to_owned()]]);
            assert_eq!(found.groups[0].len(), 2);
            firsts.push(found.groups[0][0].clone());
        }
        let of_a = firsts.iter().filter(|first| *first == "a").count();
        assert!((10..=40).contains(&of_a), "a came first {of_a} times of 50");
    }

    #[tokio::test]
    async fn what_has_no_mx_is_its_own_host_and_what_wants_no_mail_gets_none() {
        let table = Table::default()
            .txt("plain.example", &["x"])
            .mx("null.example", &[(0, ".")])
            .mx("odd.example", &[(0, "."), (10, "mx")])
            .failing("broken.example");
        let plain = of("plain.example", table.clone(), 0).await.expect("itself");
        assert_eq!((plain.groups, plain.implicit), (vec![vec!["plain.example".to_owned()]], true));
        let odd = of("odd.example", table.clone(), 0).await.expect("the other");
        assert_eq!(odd.groups, [["mx".to_owned()]]);
        let literal = of("[IPv6:2001:db8::1]", table.clone(), 0).await.expect("itself");
        assert_eq!(literal.groups, [["2001:db8::1".to_owned()]]);
        for (name, status) in
            [("null.example", "5.1.10"), ("nobody.example", "5.1.2"), ("broken.example", "4.4.312")]
        {
            let reply = match of(name, table.clone(), 0).await.expect_err("no way") {
                NoWay::Never(reply) => reply,
                NoWay::NotNow(reply) => reply,
            };
            assert_eq!(reply.status.to_string(), status, "{name}");
        }
    }

    #[tokio::test]
    async fn a_thousand_hosts_are_cut_to_the_best() {
        let names: Vec<String> = (0..1000).map(|number| format!("mx{number}.example")).collect();
        let all: Vec<(u16, &str)> = (0..1000_u16).rev().zip(names.iter().map(String::as_str)).collect();
        let found = of("many.example", Table::default().mx("many.example", &all), 1).await.expect("hosts");
        assert_eq!(found.groups.len(), EXCHANGERS_LIMIT);
        assert_eq!(found.groups[0], ["mx999.example"], "preference 0");
    }
}
