//! Connectors: which certificate names and source networks mean anything to any tenant's own servers.
//!
//! An index over the on-premises connectors of all tenants, so that a MAIL costs a few hash lookups however
//! many tenants there are, and however many share a name or a network. What it finds is a hint: whether
//! a connector counts is `decision`'s. Partner connectors are looked for in the one tenant they matter to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use crate::mail::{ConnectorKind, Domain, DomainPattern, OwnedConnector, Tenant};

/// Built as tenants are added.
#[derive(Debug, Default)]
pub(super) struct Connectors {
    names: HashSet<DomainPattern>,
    /// In each list the order of the file.
    by_network: HashMap<Ipv4Net, Vec<OwnedConnector>>,
    /// The prefix lengths in use: nine at most, and none where nobody names a network.
    prefixes: BTreeSet<u8>,
}

impl Connectors {
    pub(super) fn add(&mut self, tenant: &Arc<Tenant>) {
        let own = tenant.inbound_connectors.iter().filter(|one| one.kind == ConnectorKind::OnPremises);
        for connector in own {
            self.names.extend(connector.certificate_names.iter().cloned());
            for network in &connector.source_ips {
                self.prefixes.insert(network.prefix_len());
                let owned = OwnedConnector { tenant: Arc::clone(tenant), connector: Arc::clone(connector) };
                self.by_network.entry(network.trunc()).or_default().push(owned);
            }
        }
    }

    /// The certificate names of connectors that a verified name matches, the most exact first.
    pub(super) fn patterns(&self, name: &str) -> Vec<DomainPattern> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let known = |pattern: &DomainPattern| self.names.contains(pattern);
        match DomainPattern::parse(name) {
            Ok(DomainPattern::Exact(domain)) => {
                let parents = domain.parents().filter_map(|parent| Domain::parse(parent).ok());
                let wildcards: Vec<_> = parents.map(DomainPattern::Below).filter(known).collect();
                Some(DomainPattern::Exact(domain)).filter(known).into_iter().chain(wildcards).collect()
            }
            // What a wildcard certificate proves is the wildcard, not any one name below it.
            Ok(wildcard @ DomainPattern::Below(_)) => Some(wildcard).filter(known).into_iter().collect(),
            Ok(DomainPattern::All) | Err(_) => Vec::new(),
        }
    }

    /// The connector that sends for this sender of no tenant's from this address: the first of the most exact
    /// network.
    pub(super) fn at(&self, ip: IpAddr, sender: Option<&Domain>) -> Option<&OwnedConnector> {
        let IpAddr::V4(ip) = ip else { return None };
        let networks = self
            .prefixes
            .iter()
            .rev()
            .map(|length| Ipv4Net::new(ip, *length).expect("a length that a network had").trunc());
        let mut there = networks.filter_map(|network| self.by_network.get(&network)).flatten();
        there.find(|owned| owned.connector.covers_sender(sender) && owned.connector.is_associated(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{ConnectorKind, InboundConnector, Region, Residency, Skipping};

    fn connector(name: &str, certificate_names: &[&str], source_ips: &[&str]) -> InboundConnector {
        InboundConnector {
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
            associated_domains: Vec::new(),
            trusted_headers: false,
            skipping: Skipping::default(),
        }
    }

    fn index() -> Connectors {
        let mut index = Connectors::default();
        for (id, inbound_connectors) in [
            (
                "contoso",
                vec![
                    connector("hq", &["mail.contoso.com", "*.contoso.com"], &["198.51.100.7/32"]).into(),
                    Arc::new(InboundConnector {
                        sender_domains: vec![DomainPattern::parse("contoso.com").expect("a domain")],
                        ..connector(
                            "branch",
                            &["*.branch.contoso.com"],
                            &["198.51.100.9/24", "203.0.113.64/26"],
                        )
                    }),
                    Arc::new(InboundConnector {
                        kind: ConnectorKind::Partner,
                        ..connector("partner", &["mx.partner.example"], &["192.0.2.1/32"])
                    }),
                ],
            ),
            ("fabrikam", vec![connector("hq", &["mail.contoso.com"], &["198.51.100.0/24"]).into()]),
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
                messages_per_minute: None,
                inbound_connectors,
                outbound_connectors: Vec::new(),
            }));
        }
        index
    }

    #[test]
    fn names_find_the_exact_one_first_and_wildcards_by_every_parent() {
        let index = index();
        for (name, found) in [
            ("Mail.Contoso.COM", vec!["mail.contoso.com", "*.contoso.com"]),
            ("a.branch.contoso.com", vec!["*.branch.contoso.com", "*.contoso.com"]),
            ("h.sub.contoso.com", vec!["*.contoso.com"]),
            ("*.contoso.com", vec!["*.contoso.com"]),
            // A wildcard certificate proves neither a name below it nor a wildcard above it.
            ("*.mail.contoso.com", vec![]),
            ("contoso.com", vec![]),
            ("mx.partner.example", vec![]),
            ("com", vec![]),
            ("*", vec![]),
            ("Contoso Ltd", vec![]),
            ("", vec![]),
        ] {
            let patterns: Vec<String> = index.patterns(name).iter().map(ToString::to_string).collect();
            assert_eq!(patterns, found, "{name}");
        }
        assert!(Connectors::default().patterns("mail.contoso.com").is_empty());
    }

    #[test]
    fn addresses_find_the_most_exact_network_whose_connector_sends_for_the_sender() {
        let index = index();
        let contoso = Domain::parse("contoso.com").expect("a domain");
        for (ip, sender, found) in [
            ("198.51.100.7", None, Some("contoso/hq")),
            ("198.51.100.8", Some(&contoso), Some("contoso/branch")),
            ("198.51.100.8", None, Some("fabrikam/hq")),
            ("203.0.113.127", Some(&contoso), Some("contoso/branch")),
            ("203.0.113.127", None, None),
            ("203.0.113.128", Some(&contoso), None),
            ("198.51.101.7", None, None),
            ("192.0.2.1", None, None),
            ("2001:db8::1", None, None),
        ] {
            let at = index.at(ip.parse().expect("an address"), sender);
            let at = at.map(|owned| format!("{}/{}", owned.tenant.id, owned.connector.name));
            assert_eq!(at.as_deref(), found, "{ip}");
        }
    }
}
