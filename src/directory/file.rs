//! File: the directory file and its user files, read into a `Table`.
//!
//! Owns their keys and what may not stand together in them. Everything wrong is noted and the walk
//! goes on; whoever asked must look at the notes before using the table.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Table;
use super::user_file;
use crate::clock::Clock;
use crate::document::{Entry, Notes, Page, Section};
use crate::mail::{
    AcceptedDomain, Address, ConnectorKind, Domain, DomainKind, DomainPattern, InboundConnector, Licenses,
    OutboundConnector, Region, Regions, Residency, Skipping, Tenant, TlsLevel, User,
};

/// By how much a time of change may lie ahead without a word.
const AHEAD: Duration = Duration::from_secs(300);

pub(super) const LICENSES: [(&str, License); 2] = [("multi-geo", License::MultiGeo), ("mail", License::Mail)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum License {
    MultiGeo,
    Mail,
}

pub(super) fn licenses(held: &[License]) -> Licenses {
    Licenses { multi_geo: held.contains(&License::MultiGeo), mail: held.contains(&License::Mail) }
}

/// The directory that `text` describes. `file` is what mistakes call it; `base` is where the paths
/// in it begin; `subaddress` separates `user` and `tag`.
pub fn read(
    file: &str,
    text: &str,
    base: &Path,
    regions: &Regions,
    subaddress: Option<char>,
    notes: &Notes,
) -> Table {
    let mut table = Table::new(subaddress);
    let Some(page) = Page::open(file, text, notes) else { return table };
    let top = page.top();
    // All domains before the first user, so that an address at another tenant's is called just that.
    let sections = top.sections("tenant", "id");
    let tenants: Vec<_> =
        sections.iter().map(|section| read_tenant(section, base, regions, &mut table)).collect();
    for (section, tenant) in sections.iter().zip(&tenants) {
        for user in section.sections("user", "address") {
            read_user(&user, tenant, regions, &mut table);
        }
    }
    for source in top.sections("user_file", "path") {
        source.require("path", "the path of a CSV file", |entry| {
            let path = entry.file(base)?;
            user_file::read(entry, &path, regions, notes, &mut table);
            Some(())
        });
    }
    table.shrink();
    table
}

/// The tenant with its domains; not its users.
fn read_tenant(section: &Section<'_>, base: &Path, regions: &Regions, table: &mut Table) -> Arc<Tenant> {
    let mut associated = Vec::new();
    let tenant = Arc::new(tenant(section, base, regions, &mut associated));
    if table.tenant(&tenant.id).is_some() && !tenant.id.is_empty() {
        section.mistake("id", format!("\"{}\" names an earlier tenant too", tenant.id), "an id of its own");
    }
    table.add_tenant(Arc::clone(&tenant));
    for domain in section.sections("domain", "name") {
        read_domain(&domain, &tenant, regions, table);
    }
    for (entry, domain) in associated {
        let own = table.domain(&domain).is_some_and(|own| own.name == domain && own.tenant.id == tenant.id);
        if !own {
            entry.mistake(
                format!("\"{domain}\" is no domain of the tenant's"),
                "a [[tenant.domain]] by its name",
            );
        }
    }
    tenant
}

/// `associated` takes the domains that connectors are tied to, to be looked at once all domains are known.
fn tenant<'p>(
    section: &Section<'p>,
    base: &Path,
    regions: &Regions,
    associated: &mut Vec<(Entry<'p>, Domain)>,
) -> Tenant {
    let region = |entry: &Entry<'_>| entry.region(regions);
    let id = section.require("id", "a name for the tenant", Entry::text).unwrap_or_default();
    let default_region = section
        .require("default_region", "the tenant's central region, such as \"NAM\"", region)
        // A mistake is noted, so this table is never used; the walk needs some region to go on.
        .unwrap_or_else(|| Region::parse("NAM").expect("a code of the table"));
    let mut allowed_regions = section.list("allowed_regions", region).unwrap_or_default();
    if !allowed_regions.contains(&default_region) {
        if section.has_items("allowed_regions") {
            let problem = format!("lack default_region \"{default_region}\", which counts all the same");
            section.warning("allowed_regions", problem, "every region where mailboxes may be");
        }
        allowed_regions.push(default_region);
    }
    let residency = [("documented", Residency::Documented), ("strict", Residency::Strict)];
    let inbound_connectors = inbound_connectors(section, associated);
    let outbound_connectors = outbound_connectors(section, base, &inbound_connectors);
    let route_all_via_on_premises = section.read_or("route_all_via_on_premises", false, Entry::flag);
    let tenant = Tenant {
        id: id.into(),
        default_region,
        allowed_regions,
        multi_geo: section.read_or("multi_geo", false, Entry::flag),
        in_region_routing: section.read_or("in_region_routing", false, Entry::flag),
        subscription: section.read_or("subscription", true, Entry::flag),
        residency: section.read_or("residency", Residency::Documented, |entry| entry.word(&residency)),
        accept_ipv6: section.read_or("accept_ipv6", false, Entry::flag),
        reject_direct_send: section.read_or("reject_direct_send", false, Entry::flag),
        route_all_via_on_premises,
        messages_per_minute: section.read("messages_per_minute", |entry| entry.integer(0..=1_000_000_000)),
        inbound_connectors,
        outbound_connectors,
    };
    note_one_way(section, &tenant);
    if tenant.in_region_routing && !tenant.multi_geo {
        let problem = "is true without multi_geo: mail enters in default_region as if it were not";
        section.warning("in_region_routing", problem, "multi_geo = true as well");
    }
    tenant
}

/// Rule 39 needs a way there, and a way to know what comes back.
fn note_one_way(section: &Section<'_>, tenant: &Tenant) {
    let key = "route_all_via_on_premises";
    if !tenant.route_all_via_on_premises {
        if tenant.outbound_connectors.iter().any(|connector| connector.route_all_via_on_premises) {
            section.mistake(
                key,
                "is not true, but an outbound connector says so",
                "true for the tenant as well",
            );
        }
        return;
    }
    if tenant.central_connector().is_none() {
        section.mistake(
            key,
            "needs a way to the tenant's own servers",
            "an on-premises [[tenant.outbound_connector]] for \"*\", for all accepted domains, or with \
             route_all_via_on_premises = true",
        );
    }
    if !tenant.inbound_connectors.iter().any(|inbound| inbound.kind == ConnectorKind::OnPremises) {
        section.mistake(
            key,
            "needs a way to know what has been there",
            "an on-premises [[tenant.inbound_connector]]",
        );
    }
}

fn inbound_connectors<'p>(
    section: &Section<'p>,
    associated: &mut Vec<(Entry<'p>, Domain)>,
) -> Vec<Arc<InboundConnector>> {
    let mut connectors: Vec<Arc<InboundConnector>> = Vec::new();
    for section in section.sections("inbound_connector", "name") {
        let connector = inbound_connector(&section, associated);
        note_twin(&section, &connector.name, connectors.iter().map(|other| &other.name));
        connectors.push(Arc::new(connector));
    }
    connectors
}

fn inbound_connector<'p>(
    section: &Section<'p>,
    associated: &mut Vec<(Entry<'p>, Domain)>,
) -> InboundConnector {
    let name = section.require("name", "a name for the connector", Entry::text).unwrap_or_default();
    let kinds = [("on-premises", ConnectorKind::OnPremises), ("partner", ConnectorKind::Partner)];
    let kind = section.require("type", "\"on-premises\" or \"partner\"", |entry| entry.word(&kinds));
    let certificate_names = section.list("certificate_names", Entry::certificate_name).unwrap_or_default();
    let source_ips = section.list("source_ips", Entry::source_network).unwrap_or_default();
    let sender_domains = section.list("sender_domains", Entry::pattern);
    let require_tls = section.read_or("require_tls", false, Entry::flag);
    let restrict_to_ip = section.read_or("restrict_to_ip", false, Entry::flag);
    let restrict_to_certificate = section.read_or("restrict_to_certificate", false, Entry::flag);
    let trusted_headers = section.read_or("trusted_headers", false, Entry::flag);
    let domains = section.list("associated_domains", |entry| Some((entry.clone(), entry.domain()?)));
    let domains = domains.unwrap_or_default();
    let skipping = skipping(section);

    let (names_certificates, names_ips) =
        (section.has_items("certificate_names"), section.has_items("source_ips"));
    match kind {
        Some(ConnectorKind::OnPremises) => {
            if !names_certificates && !names_ips {
                section.mistake("", "never matches anyone", "certificate_names or source_ips");
            }
            if section.has("sender_domains") {
                section.refuse_empty("sender_domains", "the domains that it sends for, or no such key");
            }
            for (key, set) in
                [("restrict_to_ip", restrict_to_ip), ("restrict_to_certificate", restrict_to_certificate)]
            {
                if set {
                    section.mistake(
                        key,
                        "has a meaning for partners only",
                        "type = \"partner\", or no such key",
                    );
                }
            }
        }
        Some(ConnectorKind::Partner) => {
            for (key, set) in
                [("trusted_headers", trusted_headers), ("associated_domains", !domains.is_empty())]
            {
                if set {
                    section.mistake(
                        key,
                        "has a meaning for the tenant's own servers only",
                        "type = \"on-premises\", or no such key",
                    );
                }
            }
            section.refuse_empty("sender_domains", "the partner's domains");
            if restrict_to_ip && !names_ips {
                section.mistake("restrict_to_ip", "names no addresses to restrict to", "source_ips");
            }
            if restrict_to_certificate && !names_certificates {
                section.mistake(
                    "restrict_to_certificate",
                    "names no certificate to restrict to",
                    "certificate_names",
                );
            }
        }
        None => {}
    }
    if trusted_headers && !names_certificates {
        section.mistake("trusted_headers", "needs the proof of a certificate", "certificate_names");
    }
    let associated_domains = domains.iter().map(|(_, domain)| domain.clone()).collect();
    associated.extend(domains);
    InboundConnector {
        name: name.into(),
        kind: kind.unwrap_or(ConnectorKind::OnPremises),
        certificate_names,
        source_ips,
        sender_domains: sender_domains.unwrap_or_else(|| vec![DomainPattern::All]),
        require_tls,
        restrict_to_ip,
        restrict_to_certificate,
        associated_domains,
        trusted_headers,
        skipping,
    }
}

/// Rule 40.
fn skipping(section: &Section<'_>) -> Skipping {
    let last_ip = section.read_or("skip_last_ip", false, Entry::flag);
    let ips: Vec<IpNet> = section.list("skip_ips", addresses).unwrap_or_default().concat();
    let users = section.list("users", Entry::address).unwrap_or_default();
    let skipping = Skipping { last_ip, ips, users };
    if skipping.last_ip && section.has_items("skip_ips") {
        section.mistake("skip_ips", "stands beside skip_last_ip = true", "one of the two");
    }
    if !skipping.users.is_empty() && !skipping.last_ip && !section.has_items("skip_ips") {
        section.mistake("users", "names users for whom nothing is skipped", "skip_last_ip or skip_ips");
    }
    skipping
}

/// One address, a network, or a range of addresses, as networks.
fn addresses(entry: &Entry<'_>) -> Option<Vec<IpNet>> {
    let expected = "an address, a CIDR, or a range such as \"192.0.2.1-192.0.2.9\"";
    entry.text_as(expected, |text| {
        let Some((first, last)) = text.split_once('-') else {
            return crate::document::parse_network(text).map(|network| vec![network]);
        };
        match (first.trim().parse().ok()?, last.trim().parse().ok()?) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                Some(Ipv4Subnets::new(first, last, 0).map(IpNet::from).collect())
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                Some(Ipv6Subnets::new(first, last, 0).map(IpNet::from).collect())
            }
            _ => None,
        }
    })
}

fn outbound_connectors(
    section: &Section<'_>,
    base: &Path,
    inbound: &[Arc<InboundConnector>],
) -> Vec<Arc<OutboundConnector>> {
    let mut connectors: Vec<Arc<OutboundConnector>> = Vec::new();
    for section in section.sections("outbound_connector", "name") {
        let connector = outbound_connector(&section, base, inbound);
        note_twin(&section, &connector.name, connectors.iter().map(|other| &other.name));
        connectors.push(Arc::new(connector));
    }
    connectors
}

fn outbound_connector(
    section: &Section<'_>,
    base: &Path,
    inbound: &[Arc<InboundConnector>],
) -> OutboundConnector {
    let name = section.require("name", "a name for the connector", Entry::text).unwrap_or_default();
    let recipient_domains = section.list("recipient_domains", Entry::pattern);
    let smart_hosts = section.list("smart_hosts", Entry::smtp_endpoint);
    let kinds = [("on-premises", ConnectorKind::OnPremises), ("partner", ConnectorKind::Partner)];
    let kind = section.read_or("type", ConnectorKind::OnPremises, |entry| entry.word(&kinds));
    let all_accepted_domains = section.read_or("all_accepted_domains", false, Entry::flag);
    let route_all_via_on_premises = section.read_or("route_all_via_on_premises", false, Entry::flag);
    if !(all_accepted_domains || route_all_via_on_premises) || section.has("recipient_domains") {
        section.refuse_empty("recipient_domains", "the domains whose mail takes this connector, or [\"*\"]");
    }
    if route_all_via_on_premises && kind == ConnectorKind::Partner {
        section.mistake("route_all_via_on_premises", "leads to a partner", "type = \"on-premises\"");
    }
    let returns_by = section.read("returns_by", |entry| {
        let name = entry.text()?;
        let own = |one: &&Arc<InboundConnector>| &*one.name == name && one.kind == ConnectorKind::OnPremises;
        if !inbound.iter().any(|one| own(&one)) {
            entry
                .mistake(format!("is \"{name}\""), "the name of an on-premises [[tenant.inbound_connector]]");
        }
        Some(name.into())
    });
    let tls = section.read_or("tls", TlsLevel::Verify, Entry::tls_level);
    let ca = section.read("ca", |entry| authorities(entry, base));
    if ca.is_some() && tls != TlsLevel::Verify {
        section.mistake("ca", "is of no use: nothing is verified", "tls = \"verify\", or no ca");
    }
    section.refuse_empty("smart_hosts", "hosts such as [\"smtp://mail.hq.contoso.com:25\"]");
    OutboundConnector {
        name: name.into(),
        recipient_domains: recipient_domains.unwrap_or_default(),
        smart_hosts: smart_hosts.unwrap_or_default().into(),
        kind,
        all_accepted_domains,
        tls,
        ca,
        route_all_via_on_premises,
        returns_by,
    }
}

/// A file with certificates in PEM, absolute, so that it stays true wherever the daemon goes from here.
fn authorities(entry: &Entry<'_>, base: &Path) -> Option<Arc<Path>> {
    let path = entry.file(base)?;
    let path = std::path::absolute(&path).unwrap_or(path);
    let chain = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let problem = match chain {
        Ok(chain) if chain.is_empty() => "has no certificate".to_owned(),
        Ok(_) => return Some(path.into()),
        Err(error) => format!("cannot be used: {error}"),
    };
    entry.mistake(format!("{:?} {problem}", entry.text().unwrap_or_default()), "certificates in PEM");
    None
}

/// Connectors are named in commands and lanes, so each needs a name of its own in its tenant.
fn note_twin<'n>(section: &Section<'_>, name: &Arc<str>, mut earlier: impl Iterator<Item = &'n Arc<str>>) {
    if !name.is_empty() && earlier.any(|other| other == name) {
        section.mistake("name", format!("\"{name}\" names an earlier connector too"), "a name of its own");
    }
}

fn read_domain(section: &Section<'_>, tenant: &Arc<Tenant>, regions: &Regions, table: &mut Table) {
    let kinds = [("authoritative", DomainKind::Authoritative), ("internal-relay", DomainKind::InternalRelay)];
    let name = section.require("name", "a domain such as \"contoso.com\"", Entry::domain);
    // `None` is a wrong word, noted already: no other key is judged by it.
    let kind = match section.entry("type") {
        Some(entry) => entry.word(&kinds),
        None => Some(DomainKind::Authoritative),
    };
    let match_subdomains = section.read_or("match_subdomains", false, Entry::flag);
    let region = |entry: &Entry<'_>| entry.region(regions);
    let mail_flow_region = section.read("mail_flow_region", region);
    let previous_mail_flow_region = section.read("previous_mail_flow_region", region);
    let mail_flow_region_changed_at = section.read("mail_flow_region_changed_at", Entry::time);
    let sending_to_disabled = section.read_or("sending_to_disabled", false, Entry::flag);
    let accept_ipv6 = section.read("accept_ipv6", Entry::flag);

    if match_subdomains && kind == Some(DomainKind::Authoritative) {
        // Rule 3: whose subdomain mailboxes exist only the relay's far end knows.
        section.mistake(
            "match_subdomains",
            "is true in an authoritative domain",
            "type = \"internal-relay\"",
        );
    }
    if section.has("previous_mail_flow_region") && !section.has("mail_flow_region_changed_at") {
        section.mistake(
            "mail_flow_region_changed_at",
            "is missing",
            "when previous_mail_flow_region ended (RFC 3339)",
        );
    }
    // Another node's clock may be a little ahead.
    if mail_flow_region_changed_at.is_some_and(|at| at.since(Clock::System.now()) > AHEAD) {
        let problem =
            "is in the future: until then, and propagation_window longer, both regions take the mail";
        section.warning("mail_flow_region_changed_at", problem, "when the region was changed");
    }
    if let Some(region) = mail_flow_region.filter(|region| !tenant.allows(*region)) {
        let problem = format!("\"{region}\" is none of the tenant's allowed_regions");
        section.warning("mail_flow_region", problem, "a region where the tenant's mailboxes may be");
    }
    let Some(name) = name else { return };
    if kind == Some(DomainKind::InternalRelay) && tenant.outbound_connector_of_own(&name).is_none() {
        // Rule 5: an unknown recipient's mail would have nowhere to go.
        section.mistake(
            "type",
            "is \"internal-relay\" without an outbound connector for this domain",
            "a [[tenant.outbound_connector]] whose recipient_domains cover it",
        );
    }
    let domain = AcceptedDomain {
        name,
        tenant: Arc::clone(tenant),
        kind: kind.unwrap_or_default(),
        match_subdomains,
        mail_flow_region,
        previous_mail_flow_region,
        mail_flow_region_changed_at,
        sending_to_disabled,
        accept_ipv6,
    };
    if let Err(domain) = table.add_domain(domain) {
        let owner = table.domain(&domain.name).map_or_else(String::new, |other| other.tenant.id.to_string());
        let problem = format!("\"{}\" is accepted already, by tenant \"{owner}\"", domain.name);
        section.mistake("name", problem, "each domain once");
    }
}

fn read_user(section: &Section<'_>, tenant: &Arc<Tenant>, regions: &Regions, table: &mut Table) {
    let own = |table: &Table, entry: &Entry<'_>| {
        let address = entry.address()?;
        if let Err((problem, expected)) = check_address(table, tenant, &address) {
            entry.mistake(problem, expected);
        }
        Some(address)
    };
    let primary = section.require("address", "the primary address", |entry| own(table, entry));
    let aliases = section.list("aliases", |entry| own(table, entry)).unwrap_or_default();
    let location = section.read("preferred_data_location", |entry| {
        // Even an empty one is only unknown: the default region holds (section 6).
        let text: Box<str> = entry.text_as("a region code such as \"EUR\"", |text| Some(text.into()))?;
        if let Some((problem, expected)) = unusable_location(&text, regions, tenant) {
            entry.warning(problem, expected);
        }
        Some(location_in_capitals(&text, regions))
    });
    let held = section.list("licenses", |entry| entry.word(&LICENSES));
    let Some(primary) = primary else { return };
    let held = held.map_or_else(Licenses::default, |held| licenses(&held));
    let user = User { primary, preferred_data_location: location, licenses: held };
    // Refused addresses have been noted above, one by one.
    let _ = table.add_user(&user, &aliases);
}

/// A problem and what was expected instead.
pub(super) type Complaint = (String, String);

/// Whether a user of `tenant` may have this address; of whichever tenant when `None`.
fn check_address(table: &Table, tenant: &Arc<Tenant>, address: &Address) -> Result<(), Complaint> {
    check_domain(table, Some(tenant), address.domain(), address)?;
    if table.has_address(address) { Err(taken(address)) } else { Ok(()) }
}

/// The accepted domain that an address is in, of `tenant` or of whichever tenant when `None`.
pub(super) fn check_domain<'t>(
    table: &'t Table,
    tenant: Option<&Arc<Tenant>>,
    name: &Domain,
    address: &dyn std::fmt::Display,
) -> Result<&'t Arc<AcceptedDomain>, Complaint> {
    let expected = || "an address in an accepted domain of the user's tenant".to_owned();
    let Some(domain) = table.domain(name) else {
        return Err((format!("\"{address}\" is in no accepted domain"), expected()));
    };
    match tenant.filter(|tenant| !Arc::ptr_eq(tenant, &domain.tenant)) {
        None => Ok(domain),
        Some(tenant) => {
            let owner = &domain.tenant.id;
            let problem =
                format!("\"{address}\" is in a domain of tenant \"{owner}\", not of \"{}\"", tenant.id);
            Err((problem, expected()))
        }
    }
}

pub(super) fn taken(address: &Address) -> Complaint {
    (format!("\"{address}\" is another user's already"), "each address once".to_owned())
}

/// Section 0: codes are kept in upper case; any other word stays as it is.
pub(super) fn location_in_capitals(text: &str, regions: &Regions) -> Box<str> {
    regions.find(text).map_or_else(|| text.into(), |region| region.as_str().into())
}

/// Sections 0 and 6: a code that is unknown or not allowed means the default region, and is worth a warning.
pub(super) fn unusable_location(text: &str, regions: &Regions, tenant: &Tenant) -> Option<Complaint> {
    let Some(region) = regions.find(text) else {
        return Some((
            format!("\"{text}\" is no region code, so the tenant's default region holds"),
            "one of the 25 codes or of region_codes".to_owned(),
        ));
    };
    (!tenant.allows(region)).then(|| {
        (
            format!("{region} is not in the tenant's allowed_regions, so its default region holds"),
            "one of allowed_regions".to_owned(),
        )
    })
}
