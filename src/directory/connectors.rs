//! Connectors: which inbound connectors a client may be of, by certificate name and by source network.
//!
//! An index over all tenants, so that a MAIL costs a few hash lookups however many tenants there are.
//! Whether a connector it finds really counts is `decision`'s.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use crate::mail::{Domain, DomainPattern, OwnedConnector, Tenant};

/// Built as tenants are added; in each list the order of the file.
#[derive(Debug, Default)]
pub(super) struct Connectors {
    by_name: HashMap<Box<str>, Vec<OwnedConnector>>,
    /// By the parent in `*.parent`.
    by_parent: HashMap<Box<str>, Vec<OwnedConnector>>,
    by_network: HashMap<Ipv4Net, Vec<OwnedConnector>>,
    /// The prefix lengths in use: nine at most, and none where nobody names a network.
    prefixes: BTreeSet<u8>,
}

impl Connectors {
    pub(super) fn add(&mut self, tenant: &Arc<Tenant>) {
        for connector in &tenant.inbound_connectors {
            let owned = OwnedConnector { tenant: Arc::clone(tenant), connector: Arc::clone(connector) };
            for pattern in &connector.certificate_names {
                let (index, name) = match pattern {
                    DomainPattern::Exact(name) => (&mut self.by_name, name),
                    DomainPattern::Below(parent) => (&mut self.by_parent, parent),
                    // No certificate name: it would be everybody's.
                    DomainPattern::All => continue,
                };
                index.entry(name.as_str().into()).or_default().push(owned.clone());
            }
            for network in &connector.source_ips {
                self.prefixes.insert(network.prefix_len());
                self.by_network.entry(network.trunc()).or_default().push(owned.clone());
            }
        }
    }

    /// With each the certificate name by which it was found, the most exact first.
    pub(super) fn by_name(&self, name: &str) -> Vec<(DomainPattern, OwnedConnector)> {
        match DomainPattern::parse(name) {
            Ok(DomainPattern::Exact(domain)) => self.by_exact_name(&domain),
            // What a wildcard certificate proves is the wildcard, not any one name below it.
            Ok(DomainPattern::Below(parent)) => self.below(parent.as_str()).collect(),
            Ok(DomainPattern::All) | Err(_) => Vec::new(),
        }
    }

    fn by_exact_name(&self, domain: &Domain) -> Vec<(DomainPattern, OwnedConnector)> {
        let exact = self.by_name.get(domain.as_str()).into_iter().flatten();
        let exact = exact.map(|owned| (DomainPattern::Exact(domain.clone()), owned.clone()));
        let parents = if self.by_parent.is_empty() { None } else { Some(domain.parents()) };
        exact.chain(parents.into_iter().flatten().flat_map(|parent| self.below(parent))).collect()
    }

    fn below(&self, parent: &str) -> impl Iterator<Item = (DomainPattern, OwnedConnector)> {
        let found = self.by_parent.get_key_value(parent).into_iter();
        found.flat_map(|(parent, list)| {
            let parent = Domain::parse(parent).expect("the keys are names of domains");
            list.iter().map(move |owned| (DomainPattern::Below(parent.clone()), owned.clone()))
        })
    }

    /// The most exact network first.
    pub(super) fn by_ip(&self, ip: IpAddr) -> Vec<OwnedConnector> {
        let IpAddr::V4(ip) = ip else { return Vec::new() };
        let networks = self
            .prefixes
            .iter()
            .rev()
            .map(|length| Ipv4Net::new(ip, *length).expect("a length that a network had").trunc());
        networks.filter_map(|network| self.by_network.get(&network)).flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{ConnectorKind, InboundConnector, Region, Residency};

    fn connector(name: &str, certificate_names: &[&str], source_ips: &[&str]) -> Arc<InboundConnector> {
        Arc::new(InboundConnector {
            name: name.into(),
            kind: ConnectorKind::OnPremises,
            certificate_names: certificate_names
                .iter()
                .map(|name| DomainPattern::parse(name).expect("a name"))
                .collect(),
            source_ips: source_ips.iter().map(|net| net.parse().expect("a network")).collect(),
            sender_domains: vec![DomainPattern::All],
            require_tls: false,
            restrict_to_ip: false,
            restrict_to_certificate: false,
        })
    }

    fn index() -> Connectors {
        let mut index = Connectors::default();
        for (id, inbound_connectors) in [
            (
                "contoso",
                vec![
                    connector("hq", &["mail.contoso.com", "*.contoso.com"], &["198.51.100.7/32"]),
                    connector("branch", &["*.branch.contoso.com"], &["198.51.100.9/24", "203.0.113.64/26"]),
                ],
            ),
            ("fabrikam", vec![connector("hq", &["mail.contoso.com"], &["198.51.100.0/24"])]),
        ] {
            index.add(&Arc::new(Tenant {
                id: id.into(),
                default_region: Region::parse("EUR").expect("a region code"),
                allowed_regions: Vec::new(),
                multi_geo: false,
                in_region_routing: false,
                subscription: true,
                residency: Residency::Documented,
                accept_ipv6: false,
                reject_direct_send: false,
                route_all_via_on_premises: false,
                inbound_connectors,
                outbound_connectors: Vec::new(),
            }));
        }
        index
    }

    fn called(owned: &OwnedConnector) -> String {
        format!("{}/{}", owned.tenant.id, owned.connector.name)
    }

    #[test]
    fn names_find_exact_connectors_first_and_wildcards_by_every_parent() {
        let index = index();
        for (name, found) in [
            (
                "Mail.Contoso.COM",
                vec![
                    "mail.contoso.com contoso/hq",
                    "mail.contoso.com fabrikam/hq",
                    "*.contoso.com contoso/hq",
                ],
            ),
            ("a.branch.contoso.com", vec!["*.branch.contoso.com contoso/branch", "*.contoso.com contoso/hq"]),
            ("h.sub.contoso.com", vec!["*.contoso.com contoso/hq"]),
            ("*.contoso.com", vec!["*.contoso.com contoso/hq"]),
            // A wildcard certificate proves neither a name below it nor a wildcard above it.
            ("*.mail.contoso.com", vec![]),
            ("contoso.com", vec![]),
            ("com", vec![]),
            ("*", vec![]),
            ("Contoso Ltd", vec![]),
            ("", vec![]),
        ] {
            let by_name = index.by_name(name);
            let by_name: Vec<String> =
                by_name.iter().map(|(pattern, owned)| format!("{pattern} {}", called(owned))).collect();
            assert_eq!(by_name, found, "{name}");
        }
    }

    #[test]
    fn addresses_find_the_most_exact_network_first() {
        let index = index();
        for (ip, found) in [
            ("198.51.100.7", vec!["contoso/hq", "contoso/branch", "fabrikam/hq"]),
            ("198.51.100.8", vec!["contoso/branch", "fabrikam/hq"]),
            ("203.0.113.127", vec!["contoso/branch"]),
            ("203.0.113.128", vec![]),
            ("198.51.101.7", vec![]),
            ("2001:db8::1", vec![]),
        ] {
            let by_ip: Vec<String> =
                index.by_ip(ip.parse().expect("an address")).iter().map(called).collect();
            assert_eq!(by_ip, found, "{ip}");
        }
        assert!(Connectors::default().by_ip("198.51.100.7".parse().expect("an address")).is_empty());
    }
}
