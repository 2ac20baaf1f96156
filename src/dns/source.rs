//! Source: the name servers, asked through hickory with a cache and signatures checked.
//!
//! Owns how long they may take, and what happens where signatures cannot be checked at all: servers that
//! strip them would make every name bogus, so with the built-in root keys the root itself is asked first.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::{Hosts, ResolverBuilder, TokioResolver};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Settings;
use super::answer::{ALIASES_LIMIT, missing_alias};

/// Nothing is remembered for longer, whatever its owner says.
const POSITIVE_TTL_LIMIT: Duration = Duration::from_secs(24 * 3600);
const NEGATIVE_TTL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How often servers that strip signatures are asked whether they still do.
const PROBE_EVERY: Duration = Duration::from_secs(15 * 60);

/// Whether signatures are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// Nothing was asked yet, or nobody answered.
    Unknown,
    On,
    /// `dnssec = false`.
    Off,
    /// The servers answer without the signatures: nothing can be proven, and nothing refuted.
    Impossible,
}

pub(super) struct Source {
    settings: Settings,
    /// The hosts file; `None` until the first question.
    hosts: OnceLock<Hosts>,
    built: ArcSwapOption<Built>,
    /// For short names of the own network: nobody signs those.
    short: ArcSwapOption<TokioResolver>,
    /// Building happens once, and who comes meanwhile waits for it.
    building: tokio::sync::Mutex<()>,
    validation: watch::Sender<Validation>,
}

struct Built {
    resolver: TokioResolver,
    /// When to look again whether signatures have come.
    again_at: Option<Instant>,
}

impl Source {
    pub(super) fn new(settings: Settings, validation: watch::Sender<Validation>) -> Self {
        Self {
            settings,
            hosts: OnceLock::new(),
            built: ArcSwapOption::empty(),
            short: ArcSwapOption::empty(),
            building: tokio::sync::Mutex::default(),
            validation,
        }
    }

    /// What the hosts file says of this name. A name with any address there is its business alone: a DNS that
    /// is away does not delay it.
    pub(super) fn in_hosts_file(&self, name: &Name, wanted: RecordType) -> Option<Vec<Record>> {
        let hosts = self.hosts.get_or_init(|| Hosts::from_system().unwrap_or_default());
        let of = |wanted| hosts.lookup_static_host(&Query::query(name.clone(), wanted));
        let is_address = |kind| matches!(kind, RecordType::A | RecordType::AAAA);
        if !is_address(wanted) {
            return None;
        }
        let other = if wanted == RecordType::A { RecordType::AAAA } else { RecordType::A };
        match of(wanted) {
            Some(found) => Some(found.answers().to_vec()),
            None => of(other).map(|_| Vec::new()),
        }
    }

    /// The records that the servers gave, every alias on the way included, or why there are none: everything
    /// within the deadline.
    pub(super) async fn lookup(
        &self,
        name: &Name,
        wanted: RecordType,
    ) -> Result<Result<Vec<Record>, NetError>, String> {
        let asked = async {
            let resolver = self.resolver(name).await?;
            Ok(Box::pin(gather(&resolver, name, wanted)).await)
        };
        match tokio::time::timeout(self.settings.deadline, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", self.settings.deadline)),
        }
    }

    async fn resolver(&self, name: &Name) -> Result<TokioResolver, String> {
        if !name.is_fqdn() {
            return self.short_resolver();
        }
        let usable = |built: &Built| built.again_at.is_none_or(|again_at| Instant::now() < again_at);
        if let Some(built) = self.built.load_full().filter(|built| usable(built)) {
            return Ok(built.resolver.clone());
        }
        let _alone = self.building.lock().await;
        if let Some(built) = self.built.load_full().filter(|built| usable(built)) {
            return Ok(built.resolver.clone());
        }
        let validation = if self.settings.dnssec { Validation::On } else { Validation::Off };
        let (resolver, complete) = self.build(validation)?;
        let (resolver, validation) = match (self.settings.dnssec, &self.settings.trust_anchors) {
            (false, _) => (resolver, Validation::Off),
            // Whoever names keys means them.
            (true, Some(_)) => (resolver, Validation::On),
            (true, None) => match probe(&resolver).await {
                Validation::Impossible => (self.build(Validation::Impossible)?.0, Validation::Impossible),
                other => (resolver, other),
            },
        };
        self.validation.send_if_modified(|now| std::mem::replace(now, validation) != validation);
        let again_at = match validation {
            Validation::On | Validation::Off => None,
            Validation::Impossible => Some(Instant::now() + PROBE_EVERY),
            // Nobody answered: this question goes on as it may, the next one tries again.
            Validation::Unknown => return Ok(resolver),
        };
        // Without the system's settings the next question looks for them again: they may appear late in a boot.
        if complete {
            self.built.store(Some(Arc::new(Built { resolver: resolver.clone(), again_at })));
        }
        Ok(resolver)
    }

    fn short_resolver(&self) -> Result<TokioResolver, String> {
        if let Some(short) = self.short.load_full() {
            return Ok(short.as_ref().clone());
        }
        let (resolver, complete) = self.build(Validation::Off)?;
        if complete {
            self.short.store(Some(Arc::new(resolver.clone())));
        }
        Ok(resolver)
    }

    /// The resolver, and whether it is built of settings that were there.
    fn build(&self, validation: Validation) -> Result<(TokioResolver, bool), String> {
        let (mut builder, complete) = self.builder();
        let options = builder.options_mut();
        options.cache_size = self.settings.cache_entries;
        options.timeout = self.settings.timeout;
        options.positive_max_ttl = Some(POSITIVE_TTL_LIMIT);
        options.negative_max_ttl = Some(NEGATIVE_TTL_LIMIT);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.edns0 = true;
        options.try_tcp_on_error = true;
        // Aliases are part of what has to be proven.
        options.preserve_intermediates = true;
        options.validate = validation == Validation::On;
        if let Some(path) = self.settings.trust_anchors.as_ref().filter(|_| validation == Validation::On) {
            builder = builder.with_trust_anchor(Arc::new(trust_anchors(path)?));
        }
        Ok((builder.build().map_err(|error| error.to_string())?, complete))
    }

    fn builder(&self) -> (ResolverBuilder<TokioRuntimeProvider>, bool) {
        let of = |servers| {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        if !self.settings.servers.is_empty() {
            let servers = self.settings.servers.iter().map(|server| {
                let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                (udp.port, tcp.port) = (server.port(), server.port());
                NameServerConfig::new(server.ip(), true, vec![udp, tcp])
            });
            return (of(servers.collect()), true);
        }
        match TokioResolver::builder_tokio() {
            Ok(builder) => (builder, true),
            Err(_) => (of(Vec::new()), false),
        }
    }
}

async fn gather(resolver: &TokioResolver, name: &Name, wanted: RecordType) -> Result<Vec<Record>, NetError> {
    let mut answers = resolver.lookup(name.clone(), wanted).await?.answers().to_vec();
    for _ in 0..ALIASES_LIMIT {
        let Some(missing) = missing_alias(&answers, name, wanted) else { break };
        answers.extend_from_slice(resolver.lookup(missing, RecordType::CNAME).await?.answers());
    }
    Ok(answers)
}

/// Reads the keys that signatures begin at.
pub fn trust_anchors(path: &Path) -> Result<TrustAnchors, String> {
    TrustAnchors::from_file(path).map_err(|error| error.to_string())
}

/// Whether the root's own keys come with their signatures.
async fn probe(resolver: &TokioResolver) -> Validation {
    match Box::pin(resolver.lookup(Name::root(), RecordType::DNSKEY)).await {
        Ok(keys) => {
            let mut keys = keys.answers().iter().filter(|key| key.record_type() == RecordType::DNSKEY);
            if keys.any(|key| key.proof == Proof::Secure) { Validation::On } else { Validation::Impossible }
        }
        Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail))) => Validation::Unknown,
        Err(NetError::Dns(_)) => Validation::Impossible,
        Err(_) => Validation::Unknown,
    }
}
