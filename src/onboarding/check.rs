//! Check: what the world is told of a domain, against what the directory says.

use serde::Serialize;

use crate::dns::{Answer, Mx, Resolver};
use crate::mail::{AcceptedDomain, Region};

use super::plan::OwnCertificates;
use super::{Settings, target_of, tlsa_name};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Good,
    /// Mail flows, and it should be looked at.
    Warning,
    /// Mail goes astray, or will, or it could not be found out.
    Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What it is about: a record's name and kind.
    pub about: String,
    pub says: String,
}

/// Every question is asked whatever the others came to.
pub async fn check(
    settings: &Settings,
    domain: &AcceptedDomain,
    own: &OwnCertificates<'_>,
    in_window_of: Option<Region>,
    resolver: &Resolver,
) -> Vec<Finding> {
    let mut checking = Checking { settings, domain, own, in_window_of, resolver, findings: Vec::new() };
    checking.mx().await;
    checking.spf().await;
    checking.mta_sts().await;
    checking.findings
}

struct Checking<'a> {
    settings: &'a Settings,
    domain: &'a AcceptedDomain,
    own: &'a OwnCertificates<'a>,
    /// The former ingress region, while both take the mail (rule 21).
    in_window_of: Option<Region>,
    resolver: &'a Resolver,
    findings: Vec<Finding>,
}

impl Checking<'_> {
    fn note(&mut self, level: Level, about: impl Into<String>, says: impl Into<String>) {
        self.findings.push(Finding { level, about: about.into(), says: says.into() });
    }

    async fn mx(&mut self) {
        let name = self.domain.name.to_string();
        let about = format!("{name} MX");
        let found = match self.resolver.mx(&name).await {
            Answer::Found(found) => found,
            Answer::NoData { .. } | Answer::NoName { .. } => {
                self.note(Level::Fault, about, "there is none: nobody finds the way here");
                return;
            }
            Answer::Failed(why) => {
                self.note(Level::Fault, about, format!("could not be asked: {why}"));
                return;
            }
        };
        let signed = if found.authentic {
            (Level::Good, "is signed (DNSSEC), and the signature holds")
        } else {
            (Level::Warning, "is not signed: DANE does not protect the way here")
        };
        self.note(signed.0, about.clone(), signed.1);
        let ttl = found.ttl.as_secs();
        if found.ttl > self.settings.ttl {
            let says = format!(
                "TTL {ttl} s is longer than {} s: a change takes as long",
                self.settings.ttl.as_secs()
            );
            self.note(Level::Warning, about.clone(), says);
        } else {
            self.note(Level::Good, about.clone(), format!("TTL {ttl} s"));
        }
        let mut exchangers = found.records;
        exchangers.sort_by_key(|mx| mx.preference);
        if exchangers.len() > 1 {
            let all: Vec<String> =
                exchangers.iter().map(|mx| format!("{} {}", mx.preference, mx.exchange)).collect();
            let says = format!("more than one ({}): in the end there should be one", all.join(", "));
            self.note(Level::Warning, about.clone(), says);
        }
        let expected = target_of(self.settings, &self.domain.name);
        match &expected {
            Ok(target) if exchangers.iter().all(|mx| mx.exchange != target.as_str()) => {
                self.note(Level::Fault, about, format!("does not name {target}"));
            }
            Ok(_) => {}
            Err(why) => self.note(
                Level::Warning,
                about,
                format!("the target that it should name is not known: {why}"),
            ),
        }
        for mx in &exchangers {
            self.exchanger(mx).await;
        }
    }

    /// One host that an MX record names.
    async fn exchanger(&mut self, mx: &Mx) {
        let host = mx.exchange.as_str();
        if self.settings.is_legacy(host) {
            self.note(
                Level::Fault,
                host,
                "is a legacy target: it knows no regions and answers ATTR35 in the wrong one",
            );
            return;
        }
        let (four, six) = (self.resolver.a(host).await, self.resolver.aaaa(host).await);
        for failed in [failure(&four), failure(&six)].into_iter().flatten() {
            self.note(Level::Fault, host, format!("its addresses could not be asked for: {failed}"));
        }
        let addresses: Vec<std::net::IpAddr> = four
            .into_records()
            .into_iter()
            .map(Into::into)
            .chain(six.into_records().into_iter().map(Into::into))
            .collect();
        if addresses.is_empty() {
            self.note(Level::Fault, host, "has no address");
            return;
        }
        let ingress = self.domain.ingress_region();
        for address in addresses {
            let (level, says) = match self.settings.region_at(address) {
                Some(region) if region == ingress => {
                    (Level::Good, format!("{address} is an edge of {region}"))
                }
                Some(region) if Some(region) == self.in_window_of => (
                    Level::Warning,
                    format!("{address} is an edge of {region}, where the domain entered until just now"),
                ),
                Some(region) => (
                    Level::Fault,
                    format!(
                        "{address} leads to {region}, and the domain enters in {ingress}: senders get ATTR35"
                    ),
                ),
                None if self.settings.ingress.is_empty() => (
                    Level::Warning,
                    format!("{address}: no region's addresses are known here (onboarding.ingress)"),
                ),
                None => (
                    Level::Warning,
                    format!("{address} is no edge that is known here: a gateway, or a mistake"),
                ),
            };
            self.note(level, host, says);
        }
        self.tlsa(host).await;
    }

    async fn tlsa(&mut self, host: &str) {
        let Ok(name) = crate::mail::Domain::parse(host).map(|host| tlsa_name(&host)) else { return };
        let about = format!("{name} TLSA");
        match self.resolver.tlsa(&name).await {
            Answer::Found(found) if !found.authentic => {
                self.note(
                    Level::Warning,
                    about,
                    "is there and not signed: it counts for nothing (RFC 7672 §2.2)",
                );
            }
            Answer::Found(found) => {
                let ours = self.own.region == self.domain.ingress_region();
                let fits = found.records.iter().any(|tlsa| self.own.records.contains(tlsa));
                match (ours, fits) {
                    (true, true) => self.note(Level::Good, about, "names a certificate in use here"),
                    (true, false) => self.note(
                        Level::Fault,
                        about,
                        "names none of the certificates in use here: senders that honour DANE keep their mail",
                    ),
                    (false, _) => self.note(Level::Good, about, "is there; whether it fits, a node of that region can tell"),
                }
            }
            Answer::NoData { .. } | Answer::NoName { .. } => {
                self.note(Level::Warning, about, "there is none: DANE does not protect the way here");
            }
            Answer::Failed(why) => self.note(
                Level::Fault,
                about,
                format!("could not be asked ({why}): senders that honour DANE keep their mail"),
            ),
        }
    }

    async fn spf(&mut self) {
        let name = self.domain.name.to_string();
        let about = format!("{name} SPF");
        let records = match self.resolver.txt(&name).await {
            Answer::Failed(why) => {
                self.note(Level::Fault, about, format!("could not be asked: {why}"));
                return;
            }
            answer => answer.into_records(),
        };
        let is_spf = |record: &&Vec<u8>| record.as_slice() == b"v=spf1" || record.starts_with(b"v=spf1 ");
        let spf: Vec<String> = records
            .iter()
            .filter(is_spf)
            .map(|record| String::from_utf8_lossy(record).into_owned())
            .collect();
        match (spf.as_slice(), &self.settings.spf) {
            ([], _) => {
                self.note(Level::Warning, about, "there is none: anybody may send in this domain's name")
            }
            ([one], Some(wanted)) if missing_mechanism(one, wanted).is_some() => {
                let missing = missing_mechanism(one, wanted).unwrap_or_default();
                self.note(Level::Warning, about, format!("\"{one}\" lacks {missing}"));
            }
            ([one], _) => self.note(Level::Good, about, one.clone()),
            (several, _) => {
                let says =
                    format!("there are {}: all of them count as an error (RFC 7208 §4.5)", several.len());
                self.note(Level::Fault, about, says);
            }
        }
    }

    async fn mta_sts(&mut self) {
        let name = format!("_mta-sts.{}", self.domain.name);
        let about = format!("{name} TXT");
        match self.resolver.txt(&name).await {
            Answer::Found(found) => {
                let records = found.records.iter().filter(|record| record.starts_with(b"v=STSv1"));
                match records.count() {
                    1 => self.note(Level::Good, about, "announces a policy: it has to name the MX target"),
                    count => self.note(
                        Level::Warning,
                        about,
                        format!("has {count} v=STSv1 records instead of one (RFC 8461 §3.1)"),
                    ),
                }
            }
            Answer::NoData { .. } | Answer::NoName { .. } => {
                self.note(Level::Warning, about, "there is none: senders without DANE cannot insist on TLS");
            }
            Answer::Failed(why) => self.note(Level::Warning, about, format!("could not be asked: {why}")),
        }
    }
}

fn failure<T>(answer: &Answer<T>) -> Option<&str> {
    match answer {
        Answer::Failed(why) => Some(why),
        Answer::Found(_) | Answer::NoData { .. } | Answer::NoName { .. } => None,
    }
}

/// The first mechanism of the wanted record, but `all`, that the published one has not.
fn missing_mechanism<'a>(published: &str, wanted: &'a str) -> Option<&'a str> {
    let has =
        |mechanism: &str| published.split_whitespace().any(|other| other.eq_ignore_ascii_case(mechanism));
    wanted.split_whitespace().skip(1).find(|mechanism| !mechanism.ends_with("all") && !has(mechanism))
}
