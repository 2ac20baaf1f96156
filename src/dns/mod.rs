//! Dns: what the DNS says; it finds, it never decides.
//!
//! Owns one question so far: the addresses of a host. A source that does not answer is `Failed` and never
//! `Absent`. `mail` and `net` come before; `delivery` asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;

use crate::mail::Lookup;

/// How many answers are remembered.
const CACHE_LIMIT: u64 = 4096;
/// How long one server may take, before the next is asked.
const SERVER_PATIENCE: Duration = Duration::from_secs(3);
/// How long a question may take in all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers questions about names.
pub struct Resolver {
    source: Source,
}

enum Source {
    /// The system's name servers and `/etc/hosts`, read at the first question and not before.
    System(ArcSwapOption<TokioResolver>),
    /// A written-down table: tests, and set-ups without a DNS.
    Table(HashMap<String, Lookup<Vec<IpAddr>>>),
}

impl Resolver {
    /// Never fails: a system without name servers still knows its hosts file.
    pub fn system() -> Self {
        Self { source: Source::System(ArcSwapOption::empty()) }
    }

    /// Knows these names; every other is absent.
    pub fn table(entries: impl IntoIterator<Item = (String, Lookup<Vec<IpAddr>>)>) -> Self {
        let entries = entries.into_iter().map(|(name, answer)| (name.to_ascii_lowercase(), answer));
        Self { source: Source::Table(entries.collect()) }
    }

    /// Reads the system's settings again at the next question, as after a reload. Drops the cache.
    pub fn forget(&self) {
        match &self.source {
            Source::System(built) => built.store(None),
            Source::Table(_) => {}
        }
    }

    /// The addresses of a host, IPv4 first: never an empty list. An address is its own answer.
    pub async fn addresses(&self, host: &str) -> Lookup<Vec<IpAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Lookup::Found(vec![address]);
        }
        match &self.source {
            Source::Table(entries) => {
                entries.get(&host.to_ascii_lowercase()).cloned().unwrap_or(Lookup::Absent)
            }
            Source::System(built) => match system_resolver(built) {
                Some(resolver) => ask(&resolver, host).await,
                None => Lookup::Failed,
            },
        }
    }
}

fn system_resolver(built: &ArcSwapOption<TokioResolver>) -> Option<Arc<TokioResolver>> {
    if let Some(resolver) = built.load_full() {
        return Some(resolver);
    }
    let configured = TokioResolver::builder_tokio();
    let keep = configured.is_ok();
    let mut builder = configured.unwrap_or_else(|_| {
        let nothing = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        TokioResolver::builder_with_config(nothing, TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.cache_size = CACHE_LIMIT;
    options.timeout = SERVER_PATIENCE;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    let resolver = Arc::new(builder.build().ok()?);
    // Without settings the next question looks for them again: they may appear late in a boot.
    if keep {
        built.store(Some(resolver.clone()));
    }
    Some(resolver)
}

async fn ask(resolver: &TokioResolver, host: &str) -> Lookup<Vec<IpAddr>> {
    // A name with a dot is whole: search lists are for the short names of the own network.
    let whole = if host.contains('.') && !host.ends_with('.') { format!("{host}.") } else { host.to_owned() };
    match tokio::time::timeout(PATIENCE, resolver.lookup_ip(whole)).await {
        Ok(Ok(found)) => {
            let addresses: Vec<IpAddr> = found.iter().collect();
            if addresses.is_empty() { Lookup::Absent } else { Lookup::Found(addresses) }
        }
        Ok(Err(error)) if says_absent(&error) => Lookup::Absent,
        Ok(Err(_)) | Err(_) => Lookup::Failed,
    }
}

/// Whether a server said that there is no such name or no such record. Anything else is no answer.
fn says_absent(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            response_code: ResponseCode::NXDomain | ResponseCode::NoError,
            ..
        }))
    )
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

    #[test]
    fn only_a_servers_no_is_an_absence() {
        use hickory_resolver::proto::op::Query;
        let no = |code| NetError::Dns(DnsError::NoRecordsFound(NoRecords::new(Query::default(), code)));
        assert!(says_absent(&no(ResponseCode::NXDomain)));
        assert!(says_absent(&no(ResponseCode::NoError)));
        assert!(!says_absent(&no(ResponseCode::ServFail)));
        assert!(!says_absent(&NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused))));
        assert!(!says_absent(&NetError::Timeout));
    }
}
