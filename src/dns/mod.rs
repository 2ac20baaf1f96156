//! Dns: what the DNS says; it finds, it never decides.
//!
//! Owns the questions that rooms ask of it, each under a deadline, and the cache of its answers. A source that
//! does not answer, and an answer whose signatures do not hold, are `Failed` and never an absence: no failure
//! of the DNS may become a permanent refusal. `mail` and `net` come before; `auth` and `delivery` ask.

mod answer;
mod meter;
mod source;
mod table;

pub use answer::{Answer, Mx, Records, Tlsa};
pub use meter::Meter;
pub use source::{Validation, trust_anchors};
pub use table::Table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::watch;

use crate::mail::Lookup;
use answer::Kind;
use source::Source;

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name servers; none: the system's.
    pub servers: Vec<SocketAddr>,
    /// How long one server may take before it is asked again, or another is.
    pub timeout: Duration,
    /// How long a question may take in all.
    pub deadline: Duration,
    /// Whether signatures are checked (RFC 4035).
    pub dnssec: bool,
    /// The keys that signatures begin at, as DNSKEY records; the root's own when absent.
    pub trust_anchors: Option<PathBuf>,
    /// How many answers are remembered.
    pub cache_entries: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(3),
            deadline: Duration::from_secs(10),
            dnssec: true,
            trust_anchors: None,
            cache_entries: 10_000,
        }
    }
}

/// Answers questions about names. Shared by all who ask, with one cache.
pub struct Resolver {
    backing: Backing,
    meter: Meter,
}

enum Backing {
    Servers(ArcSwap<Source>, watch::Sender<Validation>),
    /// A written-down table, for tests.
    Table(Table),
}

impl Resolver {
    /// Never fails and asks nobody yet: servers are looked for at the first question.
    pub fn new(settings: Settings, meter: Meter) -> Self {
        let validation = watch::Sender::new(Validation::Unknown);
        let source = Source::new(settings, validation.clone());
        Self { backing: Backing::Servers(ArcSwap::from_pointee(source), validation), meter }
    }

    /// The system's name servers, with everything at its default.
    pub fn system() -> Self {
        Self::new(Settings::default(), Meter::default())
    }

    /// Knows these hosts; every other name is absent.
    pub fn table(entries: impl IntoIterator<Item = (String, Lookup<Vec<IpAddr>>)>) -> Self {
        let hosts = entries.into_iter();
        Self::written(hosts.fold(Table::default(), |table, (host, found)| table.host(&host, found)))
    }

    /// Knows what is written down and nothing else.
    pub fn written(table: Table) -> Self {
        Self { backing: Backing::Table(table), meter: Meter::default() }
    }

    /// Puts other settings in force, and forgets every answer: as after a reload.
    pub fn replace(&self, settings: Settings) {
        if let Backing::Servers(source, validation) = &self.backing {
            source.store(Source::new(settings, validation.clone()).into());
        }
    }

    /// Whether signatures can be checked here, as far as is known; it becomes known with the first question.
    pub fn validation(&self) -> watch::Receiver<Validation> {
        match &self.backing {
            Backing::Servers(_, validation) => validation.subscribe(),
            Backing::Table(_) => watch::Sender::new(Validation::Unknown).subscribe(),
        }
    }

    /// The addresses of a host, IPv4 first: never an empty list. An address is its own answer, and the hosts
    /// file is asked before the DNS.
    pub async fn addresses(&self, host: &str) -> Lookup<Vec<IpAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Lookup::Found(vec![address]);
        }
        let (four, six) = tokio::join!(Box::pin(self.a(host)), Box::pin(self.aaaa(host)));
        let failed = matches!(four, Answer::Failed(_)) || matches!(six, Answer::Failed(_));
        let four = four.into_records().into_iter().map(IpAddr::V4);
        let addresses: Vec<IpAddr> = four.chain(six.into_records().into_iter().map(IpAddr::V6)).collect();
        match (addresses.is_empty(), failed) {
            (false, _) => Lookup::Found(addresses),
            (true, true) => Lookup::Failed,
            (true, false) => Lookup::Absent,
        }
    }

    pub async fn a(&self, name: &str) -> Answer<Ipv4Addr> {
        self.ask(Kind::A, name, |data| if let RData::A(a) = data { Some(a.0) } else { None }).await
    }

    pub async fn aaaa(&self, name: &str) -> Answer<Ipv6Addr> {
        self.ask(Kind::Aaaa, name, |data| if let RData::AAAA(aaaa) = data { Some(aaaa.0) } else { None })
            .await
    }

    /// In no particular order.
    pub async fn mx(&self, name: &str) -> Answer<Mx> {
        self.ask(Kind::Mx, name, |data| {
            let RData::MX(mx) = data else { return None };
            Some(Mx { preference: mx.preference, exchange: answer::text_of(&mx.exchange) })
        })
        .await
    }

    /// The strings of each record joined without anything between them, as SPF and its like want them.
    pub async fn txt(&self, name: &str) -> Answer<Vec<u8>> {
        self.ask(Kind::Txt, name, |data| {
            let RData::TXT(txt) = data else { return None };
            Some(txt.txt_data.concat())
        })
        .await
    }

    pub async fn ptr(&self, address: IpAddr) -> Answer<String> {
        let name = answer::text_of(&Name::from(address.to_canonical()));
        self.ask(Kind::Ptr, &name, |data| {
            let RData::PTR(ptr) = data else { return None };
            Some(answer::text_of(&ptr.0))
        })
        .await
    }

    /// `name` with its port and protocol: `_25._tcp.mx.example.net`.
    pub async fn tlsa(&self, name: &str) -> Answer<Tlsa> {
        self.ask(Kind::Tlsa, name, |data| {
            let RData::TLSA(tlsa) = data else { return None };
            Some(Tlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone(),
            })
        })
        .await
    }

    async fn ask<T>(&self, kind: Kind, name: &str, take: fn(&RData) -> Option<T>) -> Answer<T> {
        let source = match &self.backing {
            Backing::Servers(source, _) => source.load_full(),
            Backing::Table(table) => return table.ask(kind, name, take),
        };
        let begun = tokio::time::Instant::now();
        let answer = match answer::name_of(name) {
            Some(name) => match source.in_hosts_file(&name, kind.record_type()) {
                Some(known) => answer::of_records(&known, &name, kind.record_type(), take),
                None => match source.lookup(&name, kind.record_type()).await {
                    Ok(outcome) => answer::read(outcome, &name, kind.record_type(), take),
                    Err(why) => Answer::Failed(why),
                },
            },
            // What is no name has no records.
            None => Answer::NoName { authentic: false },
        };
        self.meter.count(kind, &answer, begun.elapsed());
        answer
    }
}

impl Kind {
    fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Mx => RecordType::MX,
            Self::Txt => RecordType::TXT,
            Self::Ptr => RecordType::PTR,
            Self::Tlsa => RecordType::TLSA,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_localhost_need_no_server() {
        let resolver = Resolver::system();
        let v6: IpAddr = "::1".parse().expect("an address");
        assert_eq!(resolver.addresses("::1").await, Lookup::Found(vec![v6]));
        let found = resolver.addresses("localhost").await.found().expect("every system knows localhost");
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty());
    }

    #[tokio::test]
    async fn a_table_keeps_failure_and_absence_apart() {
        let address: IpAddr = "192.0.2.1".parse().expect("an address");
        let resolver = Resolver::table([
            ("Store.example".to_owned(), Lookup::Found(vec![address])),
            ("broken.example".to_owned(), Lookup::Failed),
        ]);
        assert_eq!(resolver.addresses("store.EXAMPLE").await, Lookup::Found(vec![address]));
        assert_eq!(resolver.addresses("broken.example").await, Lookup::Failed);
        assert_eq!(resolver.addresses("other.example").await, Lookup::Absent);
    }

    #[tokio::test]
    async fn a_table_answers_every_kind() {
        let resolver = Resolver::written(
            Table::default()
                .mx("contoso.com", &[(10, "mx.contoso.com")])
                .txt("contoso.com", &["v=spf1 -all"])
                .failing("broken.example"),
        );
        let mx = resolver.mx("Contoso.com").await.into_records();
        assert_eq!(mx, [Mx { preference: 10, exchange: "mx.contoso.com".to_owned() }]);
        assert_eq!(resolver.txt("contoso.com.").await.into_records(), [b"v=spf1 -all".to_vec()]);
        assert_eq!(resolver.tlsa("contoso.com").await, Answer::NoData { authentic: false });
        assert_eq!(resolver.mx("other.example").await, Answer::NoName { authentic: false });
        assert!(matches!(resolver.mx("broken.example").await, Answer::Failed(_)));
    }

    #[tokio::test]
    async fn what_is_no_name_has_no_records() {
        let resolver = Resolver::system();
        let long = "a".repeat(64);
        for name in ["", "a..b", &long, &format!("{}a", "ab.".repeat(90))] {
            assert_eq!(resolver.txt(name).await, Answer::NoName { authentic: false }, "{name}");
        }
    }
}
