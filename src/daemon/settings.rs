//! Settings: what each room gets of the configuration. Pure; `daemon` hands the parts out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{self, DirectorySource, Settings};
use crate::decision::{MixedRegions, Otherwise, PeerPattern, Rules};
use crate::directory::{self, Directory, News, Register, Table};
use crate::dns::Resolver;
use crate::limits::{self, Rate};
use crate::listener::{Conditions, Patience};
use crate::mail::firewall::{FieldPattern, Firewall, OriginFields};
use crate::mail::{DomainPattern, NextHop, NextHopName, Region, TlsLevel};
use crate::net::Identity;
use crate::session::{Limits, Terms, TlsOffer};
use crate::smtp::body::LineEndings;
use crate::smtp::reply::Wording;
use crate::{admin, delivery, dns, onboarding, queue, report, spool};

use super::pressure::Ceilings;
use super::{Error, io_error};

pub fn rules(settings: &Settings) -> Rules {
    rules_as_seen_from(settings, settings.node.region)
}

/// The rules of a node in `node_region` that knows of the others what this one knows: for `explain`.
pub fn rules_as_seen_from(settings: &Settings, node_region: Region) -> Rules {
    let mut routes: BTreeMap<Region, NextHop> = settings
        .regions
        .iter()
        .filter_map(|(region, there)| Some((*region, next_hop(*region, there, node_region)?)))
        .collect();
    if node_region != settings.node.region {
        // The stores of another region are its own nodes' business: only that they exist is known here.
        for region in [node_region, settings.node.region] {
            let name =
                if region == node_region { NextHopName::Store(region) } else { NextHopName::Relay(region) };
            let endpoints = Arc::new([]);
            routes.insert(region, NextHop { name, endpoints, tls: TlsLevel::Verify, ca: None });
        }
    }
    let inline = routes
        .iter()
        .filter_map(|(region, hop)| Some((hop.name.clone(), inline_mode(settings, *region, node_region)?)))
        .collect();
    let peers = settings
        .regions
        .iter()
        .flat_map(|(region, there)| there.peers.iter().map(|peer| (*region, peer_pattern(peer))))
        .collect();
    Rules {
        node_region,
        hostname: settings.node.hostname.clone(),
        mixed_regions: match settings.routing.mixed_regions {
            config::MixedRegions::Defer => MixedRegions::Defer,
            config::MixedRegions::Split => MixedRegions::Split,
        },
        propagation_window: settings.routing.propagation_window,
        routes,
        inline,
        peers,
        postmaster: settings.directory.postmaster.clone(),
        ipv6: settings.auth.ipv6,
    }
}

/// Its stores when mailboxes are reached from here, its edges otherwise.
fn next_hop(region: Region, there: &config::RegionSettings, node_region: Region) -> Option<NextHop> {
    let (name, endpoints) = if !there.store.is_empty() && (region == node_region || there.relay.is_empty()) {
        (NextHopName::Store(region), &there.store)
    } else if !there.relay.is_empty() {
        (NextHopName::Relay(region), &there.relay)
    } else {
        return None;
    };
    let ca = there.ca.as_deref().map(Into::into);
    Some(NextHop { name, endpoints: endpoints.clone().into(), tls: there.tls, ca })
}

/// Whether mail for this region goes on while it comes in. What is only in transit may then never rest here.
fn inline_mode(settings: &Settings, region: Region, node_region: Region) -> Option<Otherwise> {
    if region != node_region && settings.routing.transit == config::Transit::Inline {
        return Some(Otherwise::Refuse);
    }
    match settings.regions.get(&region)?.mode {
        config::StoreMode::Inline => Some(Otherwise::Spool),
        config::StoreMode::Spool => None,
    }
}

fn peer_pattern(peer: &config::PeerPattern) -> PeerPattern {
    match peer {
        config::PeerPattern::Name(name) => PeerPattern::Certificate(DomainPattern::Exact(name.clone())),
        config::PeerPattern::Network(net) => PeerPattern::Network(*net),
    }
}

/// Rule 42.
pub(super) fn firewall(settings: &Settings) -> Firewall {
    let headers = &settings.headers;
    let name = |text: &str| FieldPattern::Name(text.into());
    let own = [
        FieldPattern::Prefix(headers.trust_prefix.as_str().into()),
        name(&headers.original_sender),
        name(&headers.skip_listed_sender),
        // RFC 8601 §5: what we are said to have found out. Those whose word counts may bring back our own.
        FieldPattern::results_of(authserv_id(settings)),
    ];
    let origin_fields = OriginFields {
        original: headers.original_sender.as_str().into(),
        skip_listed: headers.skip_listed_sender.as_str().into(),
    };
    Firewall::new(headers.firewall.iter().cloned().chain(own).collect(), Vec::new()).recording(origin_fields)
}

/// The directory: the table that was read, or the service that is named. Needs a runtime.
/// `snapshot` is where a service's answers outlive this process.
pub fn directory(
    settings: &Settings,
    table: Table,
    snapshot: Option<PathBuf>,
) -> Result<(Directory, Option<mpsc::Receiver<News>>), directory::Trouble> {
    let Some(service) = directory_service(settings, snapshot) else {
        return Ok((Directory::new(table), None));
    };
    let (directory, news) = directory::open(service, table)?;
    Ok((directory, Some(news)))
}

/// How to reach the directory service, when it is one.
pub fn directory_service(settings: &Settings, snapshot: Option<PathBuf>) -> Option<directory::Settings> {
    let service = match &settings.directory.source {
        DirectorySource::File(_) => return None,
        DirectorySource::Postgres(postgres) => directory::Service::Postgres(postgres.clone()),
        DirectorySource::Ldap { ldap, .. } => directory::Service::Ldap(ldap.clone()),
    };
    Some(directory::Settings {
        service,
        terms: settings.directory.terms(),
        pool: settings.directory.pool,
        node_region: settings.node.region,
        regions: settings.known_regions(),
        subaddress: settings.directory.subaddress,
        snapshot,
        clock: Clock::System,
    })
}

/// The directory as operators see and change it, with what in it could not be read.
pub async fn register(loaded: config::Loaded) -> Result<(Settings, Register, Vec<String>), String> {
    let config::Loaded { settings, table, .. } = loaded;
    let path = match &settings.directory.source {
        DirectorySource::File(path) | DirectorySource::Ldap { path, .. } => path.clone(),
        DirectorySource::Postgres(_) => PathBuf::new(),
    };
    let Some(service) = directory_service(&settings, None) else {
        let regions = settings.known_regions();
        return Ok((settings, Register::of_file(path, table, regions), Vec::new()));
    };
    let opening = Box::pin(Register::of_service(&service, (path, table)));
    match tokio::time::timeout(REGISTER_PATIENCE, opening).await {
        Ok(Ok((register, warnings))) => Ok((settings, register, warnings)),
        Ok(Err(trouble)) => Err(format!("the directory: {trouble}")),
        Err(_) => Err(format!("the directory: no answer within {} s", REGISTER_PATIENCE.as_secs())),
    }
}

/// A directory service's first word to an operator.
const REGISTER_PATIENCE: Duration = Duration::from_secs(30);

fn authserv_id(settings: &Settings) -> &str {
    settings.auth.authserv_id.as_deref().unwrap_or(settings.node.hostname.as_str())
}

pub(super) fn auth(settings: &Settings, resolver: &Arc<Resolver>, clock: Clock) -> Auth {
    Auth::new(
        settings.auth.clone(),
        authserv_id(settings),
        settings.node.hostname.as_str(),
        resolver.clone(),
        clock,
    )
}

pub fn wording(settings: &Settings) -> Wording {
    Wording {
        service_name: settings.replies.service_name.clone(),
        help_url: settings.replies.help_url.clone(),
        context: settings.replies.context,
        ..Wording::new(settings.node.hostname.to_string())
    }
}

pub(super) fn conditions(settings: &Settings, listener: &config::Listener) -> Conditions {
    let deadlines = &settings.deadlines;
    let patience = Patience {
        proxy_header: deadlines.proxy_header,
        handshake: deadlines.handshake,
        reply: deadlines.reply,
        body: deadlines.body,
    };
    let normalize_from = settings.wire.normalize_line_endings_from.clone();
    Conditions::new(terms(settings, listener), normalize_from, listener.proxy_protocol_from.clone(), patience)
}

fn terms(settings: &Settings, listener: &config::Listener) -> Terms {
    let limits = &settings.limits;
    Terms {
        hostname: settings.node.hostname.as_str().into(),
        tls: match listener.tls {
            config::ListenerTls::Off => TlsOffer::Off,
            config::ListenerTls::Starttls => TlsOffer::StartTls,
            config::ListenerTls::Required => TlsOffer::Required,
            config::ListenerTls::Implicit => TlsOffer::Implicit,
        },
        line_endings: LineEndings::Refuse,
        xclient_from: listener.xclient_from.clone(),
        limits: Limits {
            message_size: limits.message_size,
            recipients_per_message: limits.recipients_per_message,
            recipients_per_domain: limits.recipients_per_domain,
            hops: u32::try_from(limits.hops).unwrap_or(u32::MAX),
            faults: u32::try_from(limits.faults).unwrap_or(u32::MAX),
            command_patience: settings.deadlines.command,
            body_patience: settings.deadlines.data,
            session_age: limits.session_age,
        },
    }
}

pub(super) fn limits(settings: &Settings) -> limits::Terms {
    let chosen = &settings.limits;
    let default = config::Limits::default();
    // What nobody chose does not hold for clients of this machine (section 6).
    let rate = |limit: u64, default: u64| Rate { limit, spares_loopback: limit == default };
    limits::Terms {
        exempt: chosen.exempt.clone(),
        connections_per_ip: chosen.connections_per_ip,
        connections_per_ip_per_minute: rate(
            chosen.connections_per_ip_per_minute,
            default.connections_per_ip_per_minute,
        ),
        messages_per_ip_per_minute: rate(
            chosen.messages_per_ip_per_minute,
            default.messages_per_ip_per_minute,
        ),
        unknown_recipients_per_ip_per_minute: rate(
            chosen.unknown_recipients_per_ip_per_minute,
            default.unknown_recipients_per_ip_per_minute,
        ),
        tarpit: chosen.tarpit,
        per_recipient_per_hour: rate(chosen.per_recipient_per_hour, default.per_recipient_per_hour),
        per_sender_recipient_per_hour: rate(
            chosen.per_sender_recipient_per_hour,
            default.per_sender_recipient_per_hour,
        ),
        per_tenant_per_minute: rate(chosen.per_tenant_per_minute, default.per_tenant_per_minute),
        blocklists: chosen.dnsbl.iter().map(blocklist).collect(),
    }
}

fn blocklist(list: &config::Dnsbl) -> limits::Blocklist {
    limits::Blocklist {
        zone: list.zone.as_str().into(),
        codes: list.codes.clone(),
        action: match list.action {
            config::DnsblAction::Reject => limits::Action::Reject,
            config::DnsblAction::Defer => limits::Action::Defer,
            config::DnsblAction::Record => limits::Action::Record,
        },
        deadline: list.deadline,
    }
}

pub(super) fn queue(settings: &Settings) -> queue::Settings {
    let queue = &settings.queue;
    queue::Settings {
        backoff: queue::Backoff {
            first_intervals: queue.first_intervals.clone(),
            max_interval: queue.max_interval,
            expire_after: queue.expire_after,
            delay_notice_after: queue.delay_dsn_after,
        },
        connections_per_next_hop: queue.connections_per_next_hop,
        messages_per_connection: queue.messages_per_connection,
        idle_patience: queue.idle_connection,
    }
}

pub fn dns(settings: &Settings) -> dns::Settings {
    let config::Dns { servers, timeout, dnssec, trust_anchors, cache_entries } = settings.dns.clone();
    let deadline = settings.deadlines.resolve;
    dns::Settings { servers, timeout, deadline, dnssec, trust_anchors, cache_entries }
}

/// What a process that began with the first settings and was told to reload the second really goes by.
fn really(first: &Settings, now: &Settings) -> Settings {
    let listeners = first.listeners.iter().map(|place| {
        let reloaded = now.listeners.iter().find(|listener| listener.name == place.name).unwrap_or(place);
        config::Listener { addresses: place.addresses.clone(), legacy: place.legacy, ..reloaded.clone() }
    });
    let mut really = Settings {
        listeners: listeners.collect(),
        spool: first.spool.clone(),
        trace: first.trace.clone(),
        audit: first.audit.clone(),
        admin: first.admin.clone(),
        log: first.log.clone(),
        ..now.clone()
    };
    really.limits.connections = first.limits.connections;
    really.limits.counters = first.limits.counters;
    really.outbound.tls_reports = first.outbound.tls_reports;
    really.outbound.tls_report_interval = first.outbound.tls_report_interval;
    really.outbound.tls_report_from.clone_from(&first.outbound.tls_report_from);
    really
}

/// What the API shows, and asks the outside with. `first` are the settings of the start.
pub(super) fn in_force(
    first: &Settings,
    settings: &Settings,
    identities: &[Identity],
    services: &Arc<delivery::Services>,
) -> admin::InForce {
    // Where there are no files, nobody is shown what stands in for them.
    let shown = identities.iter().take(settings.certificate_files().len());
    let here = really(first, settings);
    admin::InForce {
        onboarding: settings.onboarding.clone(),
        certificates: shown.map(onboarding::record_of).collect(),
        dns: dns(settings),
        shown: config::show_json(&here),
        services: services.clone(),
        seen_from: Box::new(move |region| rules_as_seen_from(&here, region)),
    }
}

/// `interfaces` are this machine's addresses, for listeners on all of them.
pub(super) fn internet(settings: &Settings, interfaces: &[IpAddr]) -> delivery::InternetSettings {
    let outbound = &settings.outbound;
    let mut own_addresses = Vec::new();
    for address in settings.listeners.iter().flat_map(|listener| &listener.addresses) {
        if address.ip().is_unspecified() {
            let same = interfaces.iter().filter(|own| own.is_ipv4() == address.is_ipv4());
            own_addresses.extend(same.map(|own| SocketAddr::new(*own, address.port())));
        } else {
            own_addresses.push(*address);
        }
    }
    delivery::InternetSettings {
        port: outbound.port,
        private: match outbound.allow_private {
            true => delivery::Private::Anywhere,
            false => delivery::Private::Only(outbound.allow_networks.clone()),
        },
        connections: outbound.connections,
        own_names: vec![settings.node.hostname.to_string()],
        own_addresses,
        dane: outbound.dane,
        sts: outbound.mta_sts.then(|| delivery::StsSettings {
            dir: settings.node.state_dir.join("mta-sts"),
            port: outbound.mta_sts_port,
        }),
    }
}

pub(super) fn spool(settings: &Settings) -> spool::Settings {
    let spool = &settings.spool;
    spool::Settings {
        dir: settings.node.state_dir.join("spool"),
        segment_bytes: spool.segment_size,
        own_file_above: spool.large_body,
        draft_memory_bytes: spool.draft_memory,
        draft_in_memory_bytes: usize::try_from(spool.draft_size).unwrap_or(usize::MAX),
        commit_deadline: settings.deadlines.commit,
        min_free_bytes: spool.min_free,
    }
}

pub(super) fn ceilings(settings: &Settings) -> Ceilings {
    Ceilings { resident_bytes: settings.limits.memory, messages: settings.queue.max_messages as u64 }
}

pub(super) fn delivery_patience(settings: &Settings) -> delivery::Patience {
    let deadlines = &settings.deadlines;
    delivery::Patience {
        connect: deadlines.connect,
        handshake: deadlines.handshake,
        greeting: deadlines.greeting,
        hello: deadlines.answer,
        mail: deadlines.answer,
        recipient: deadlines.answer,
        data_start: deadlines.data_start,
        data_block: deadlines.data_block,
        data_end: deadlines.data_end,
        idle: settings.queue.idle_connection,
        ..delivery::Patience::default()
    }
}

/// For inline relay: a client waits meanwhile, so the next hop gets less time.
pub(super) fn inline(settings: &Settings, services: &delivery::Services) -> delivery::Terms {
    let patience = settings.deadlines.inline;
    let services = delivery::Services {
        hostname: services.hostname.clone(),
        dialer: services.dialer.clone(),
        resolver: services.resolver.clone(),
        tls: services.tls.clone(),
        patience: delivery::Patience { data_block: patience, data_end: patience, ..services.patience },
        troubled: delivery::Troubled::default(),
        // What goes there is never streamed.
        internet: None,
        clock: services.clock,
    };
    delivery::Terms {
        services: Arc::new(services),
        connections_per_next_hop: settings.queue.connections_per_next_hop,
        messages_per_connection: settings.queue.messages_per_connection,
    }
}

pub(super) fn start_log(log: &config::Log) -> Result<(), Error> {
    let format = match log.format {
        config::LogFormat::Auto => report::Format::Auto,
        config::LogFormat::Text => report::Format::Text,
        config::LogFormat::Json => report::Format::Json,
    };
    let filter = match log.level {
        config::LogLevel::Error => "error",
        config::LogLevel::Warn => "warn",
        config::LogLevel::Info => "info",
        config::LogLevel::Debug => "landfall=debug,info",
        config::LogLevel::Trace => "landfall=trace,debug",
    };
    let what = log.file.as_deref().map(Path::display);
    report::start_log(format, filter, log.file.as_deref())
        .map_err(io_error(what.map_or("the log".to_owned(), |path| path.to_string())))
}
