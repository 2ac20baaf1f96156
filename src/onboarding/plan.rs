//! Plan: the records that a domain should have, and the steps from what it has today.
//!
//! The order, the priorities 20, 30 and 0 and the times are those of the documented adoption of an MX target
//! ("Configure Multi-Geo In-Region Routing", Adopting an MX target).

use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::dns::{Answer, Mx, Resolver, Tlsa};
use crate::mail::{AcceptedDomain, Domain, Region};
use crate::net::Identity;

use super::{NoTarget, Settings, target_of, tlsa_name};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    pub name: String,
    pub ttl_s: u64,
    pub kind: &'static str,
    pub value: String,
    /// What it is for, and who publishes it.
    pub note: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub number: usize,
    pub what: String,
    /// Before the next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then_wait_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub domain: String,
    pub tenant: String,
    pub ingress_region: String,
    pub mx_target: String,
    /// What is published once all is done.
    pub records: Vec<Record>,
    /// To serve at `https://mta-sts.<domain>/.well-known/mta-sts.txt` (RFC 8461 §3.2).
    pub mta_sts_policy: String,
    pub steps: Vec<Step>,
    /// What could not be found out now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What this node has in use, for TLSA.
#[derive(Debug, Clone)]
pub struct OwnCertificates<'a> {
    pub region: Region,
    pub records: &'a [Tlsa],
}

/// As TLSA record `3 1 1`, which outlives a renewal that keeps its key.
pub fn record_of(identity: &Identity) -> Tlsa {
    Tlsa { usage: 3, selector: 1, matching: 1, data: identity.key_digest() }
}

/// Looks at what is published today for the times to wait; the plan stands without it too.
pub async fn plan(
    settings: &Settings,
    domain: &AcceptedDomain,
    own: &OwnCertificates<'_>,
    propagation_window: Duration,
    resolver: &Resolver,
    now: Timestamp,
) -> Result<Plan, NoTarget> {
    let target = target_of(settings, &domain.name)?;
    let ingress = domain.ingress_region();
    let mut notes = Vec::new();
    let today = match resolver.mx(domain.name.as_str()).await {
        Answer::Found(found) => Some((found.ttl, found.records)),
        Answer::NoData { .. } | Answer::NoName { .. } => None,
        Answer::Failed(why) => {
            notes.push(format!(
                "the present MX could not be asked for ({why}): take its TTL for the first wait"
            ));
            None
        }
    };
    if !settings.ingress.contains_key(&ingress) {
        notes.push(format!(
            "onboarding.ingress.{ingress} is not set: the target's addresses are not known here"
        ));
    }
    if own.region != ingress {
        notes.push(format!("TLSA: ask a node of {ingress}, whose certificates the target shows"));
    }
    Ok(Plan {
        domain: domain.name.to_string(),
        tenant: domain.tenant.id.to_string(),
        ingress_region: ingress.to_string(),
        mx_target: target.to_string(),
        records: records(settings, domain, &target, ingress, own, now),
        mta_sts_policy: format!("version: STSv1\r\nmode: testing\r\nmx: {target}\r\nmax_age: 604800\r\n"),
        steps: steps(settings, domain, &target, today.as_ref(), propagation_window),
        notes,
    })
}

fn records(
    settings: &Settings,
    domain: &AcceptedDomain,
    target: &Domain,
    ingress: Region,
    own: &OwnCertificates<'_>,
    now: Timestamp,
) -> Vec<Record> {
    let name = &domain.name;
    let ttl_s = settings.ttl.as_secs();
    let record = |name: String, kind, value: String, note: &str| Record {
        name,
        ttl_s,
        kind,
        value,
        note: note.to_owned(),
    };
    let mut records = vec![record(name.to_string(), "MX", format!("0 {target}."), "in the domain's zone")];
    let addresses = settings.ingress.get(&ingress).map(Vec::as_slice).unwrap_or_default();
    for address in addresses.iter().filter(|address| address.is_ipv4() || super::takes_ipv6(domain)) {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        let note = format!("by us: `landfall dns zone`; edges of {ingress}");
        let ttl_s = settings.address_ttl.as_secs();
        records.push(Record { name: target.to_string(), ttl_s, kind, value: address.to_string(), note });
    }
    if own.region == ingress {
        for tlsa in own.records {
            let note = "by us, in a signed zone: RFC 7672";
            records.push(record(tlsa_name(target), "TLSA", tlsa_text(tlsa), note));
        }
    }
    let id: String = now.to_string().chars().filter(char::is_ascii_digit).take(14).collect();
    let note = "in the domain's zone; change the id whenever the policy changes (RFC 8461 §3.1)";
    records.push(record(format!("_mta-sts.{name}"), "TXT", format!("\"v=STSv1; id={id};\""), note));
    if let Some(spf) = &settings.spf {
        let note =
            "in the domain's zone, one record only, with everything else that sends for it (RFC 7208 §3.2)";
        records.push(record(name.to_string(), "TXT", format!("\"{spf}\""), note));
    }
    records
}

pub(super) fn tlsa_text(tlsa: &Tlsa) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{} {} {} ", tlsa.usage, tlsa.selector, tlsa.matching);
    for byte in &tlsa.data {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn steps(
    settings: &Settings,
    domain: &AcceptedDomain,
    target: &Domain,
    today: Option<&(Duration, Vec<Mx>)>,
    propagation_window: Duration,
) -> Vec<Step> {
    let name = &domain.name;
    let lowest = settings.lowest_ttl.as_secs();
    let others: Vec<&Mx> =
        today.iter().flat_map(|(_, records)| records).filter(|mx| mx.exchange != target.as_str()).collect();
    let named: Vec<&str> = others.iter().map(|mx| mx.exchange.as_str()).collect();
    let mut steps: Vec<(String, Option<u64>)> = Vec::new();
    if others.is_empty() {
        steps.push((format!("Publish MX 0 {target}. for {name} with TTL {lowest}."), Some(lowest)));
    } else {
        let old = today.map_or(0, |(ttl, _)| ttl.as_secs());
        steps.push((
            format!("Set the TTL of the present MX ({}) to {lowest} s, and wait until the old TTL of {old} s is over.", named.join(", ")),
            Some(old),
        ));
        steps.push((
            format!("If {name} publishes an MTA-STS policy: add mx: {target} to it, or set mode: testing, and change the id."),
            None,
        ));
        steps.push((format!("Add MX 20 {target}. with TTL {lowest}."), Some(lowest)));
        steps.push((
            format!(
                "Test it: landfall probe {target} --to postmaster@{name}, and landfall dns check {name}."
            ),
            None,
        ));
        steps.push((
            format!("Set the old MX ({}) to priority 30 and MX {target}. to priority 0.", named.join(", ")),
            Some(lowest),
        ));
        steps.push((
            format!("When nothing comes by the old MX any more, delete it, and set the TTL of MX {target}. to {} s.", settings.ttl.as_secs()),
            None,
        ));
        steps.push((
            format!("With a mail gateway in front leave the MX as it is, and set the gateway's smart host to {target} instead."),
            None,
        ));
    }
    steps.push((
        format!(
            "To move the domain: landfall domain set {name} --mail-flow-region CODE, then load the new `landfall dns zone`. \
             For {} min both regions take its mail.",
            propagation_window.as_secs() / 60
        ),
        Some(propagation_window.as_secs()),
    ));
    steps
        .into_iter()
        .enumerate()
        .map(|(index, (what, wait))| Step { number: index + 1, what, then_wait_s: wait })
        .collect()
}
