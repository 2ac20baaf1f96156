//! Zone: the hosts that MX records name, each with the addresses of its domain's ingress region.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::mail::{AcceptedDomain, Domain};

use super::plan::{OwnCertificates, tlsa_text};
use super::{Settings, takes_ipv6, target_of};

/// A zone file (RFC 1035 §5), and what could not be put in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zone {
    #[serde(rename = "zone")]
    pub text: String,
    pub hosts: usize,
    pub left_out: Vec<String>,
}

/// All targets below the template's zone. `None` without a template: then there is no zone of ours.
pub fn zone(
    settings: &Settings,
    domains: impl IntoIterator<Item = Arc<AcceptedDomain>>,
    own: &OwnCertificates<'_>,
    now: Timestamp,
) -> Option<Zone> {
    let origin = settings.target.as_ref()?.zone();
    let mut left_out = Vec::new();
    let mut hosts: BTreeMap<String, Arc<AcceptedDomain>> = BTreeMap::new();
    for domain in domains {
        let target = match target_of(settings, &domain.name) {
            Ok(target) => target,
            Err(why) => {
                left_out.push(format!("{}: {why}", domain.name));
                continue;
            }
        };
        let Some(label) = label_below(&target, origin) else {
            left_out.push(format!("{}: its target {target} is not below {origin}", domain.name));
            continue;
        };
        if let Some(other) = hosts.get(label) {
            left_out.push(format!("{}: {} has the same target {target}", domain.name, other.name));
            continue;
        }
        hosts.insert(label.to_owned(), domain);
    }
    let mut body = String::new();
    for (label, domain) in &hosts {
        let ingress = domain.ingress_region();
        let addresses = settings.ingress.get(&ingress).map(Vec::as_slice).unwrap_or_default();
        if addresses.is_empty() {
            left_out.push(format!("{}: onboarding.ingress.{ingress} is not set", domain.name));
            continue;
        }
        let _ = writeln!(body, "; {} enters in {ingress}", domain.name);
        for address in addresses {
            match address {
                IpAddr::V4(v4) => drop(writeln!(body, "{label} A {v4}")),
                IpAddr::V6(v6) if takes_ipv6(domain) => drop(writeln!(body, "{label} AAAA {v6}")),
                IpAddr::V6(_) => {}
            }
        }
        if own.region == ingress {
            for tlsa in own.records {
                let _ = writeln!(body, "_25._tcp.{label} TLSA {}", tlsa_text(tlsa));
            }
        }
    }
    let servers: Vec<String> = match settings.name_servers.as_slice() {
        [] => vec![format!("ns.{origin}.")],
        named => named.iter().map(|server| format!("{server}.")).collect(),
    };
    let ttl = settings.address_ttl.as_secs();
    // Seconds of Unix time fit RFC 1982's 32 bits until 2106, and rise with every writing.
    let serial = now.millis() / 1000;
    let mut text = format!(
        "; The MX targets of all hosted domains, by `landfall dns zone`. For a server that signs: TLSA counts only then.\n\
         $ORIGIN {origin}.\n$TTL {ttl}\n\
         @ SOA {} hostmaster.{origin}. ( {serial} 3600 600 1209600 {ttl} )\n",
        servers[0]
    );
    for server in &servers {
        let _ = writeln!(text, "@ NS {server}");
    }
    text.push_str(&body);
    Some(Zone { text, hosts: hosts.len(), left_out })
}

fn label_below<'a>(target: &'a Domain, origin: &Domain) -> Option<&'a str> {
    target.as_str().strip_suffix(origin.as_str())?.strip_suffix('.').filter(|label| !label.is_empty())
}
