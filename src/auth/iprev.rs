//! Iprev: does the client's address have a name that leads back to it? RFC 8601 §3.

use std::net::IpAddr;

use crate::dns::{Answer, Resolver};

use super::findings::{Finding, Mark};

/// Names of one address that are looked at.
const NAMES_LIMIT: usize = 5;

pub(super) async fn check(resolver: &Resolver, ip: IpAddr) -> Finding {
    let finding = |mark| Finding::new("iprev", mark);
    let finding = match resolver.ptr(ip).await {
        Answer::Found(found) => match confirm(resolver, ip, &found.records).await {
            Confirmed::By(name) => finding(Mark::Pass).because(name),
            Confirmed::ByNone => finding(Mark::Fail).because("its names have other addresses"),
            Confirmed::Unknown => finding(Mark::TempError).because("a lookup failed"),
        },
        Answer::NoData { .. } | Answer::NoName { .. } => finding(Mark::PermError).because("no reverse name"),
        Answer::Failed(_) => finding(Mark::TempError).because("a lookup failed"),
    };
    finding.about("policy.iprev", ip.to_string())
}

enum Confirmed {
    By(String),
    ByNone,
    Unknown,
}

async fn confirm(resolver: &Resolver, ip: IpAddr, names: &[String]) -> Confirmed {
    let mut failed = false;
    for name in names.iter().take(NAMES_LIMIT) {
        let has_it = match ip {
            IpAddr::V4(ip) => contains(resolver.a(name).await, &ip),
            IpAddr::V6(ip) => contains(resolver.aaaa(name).await, &ip),
        };
        match has_it {
            Some(true) => return Confirmed::By(name.clone()),
            Some(false) => {}
            None => failed = true,
        }
    }
    if failed { Confirmed::Unknown } else { Confirmed::ByNone }
}

/// `None` when nobody answered.
fn contains<A: PartialEq>(answer: Answer<A>, address: &A) -> Option<bool> {
    match answer {
        Answer::Found(found) => Some(found.records.contains(address)),
        Answer::NoData { .. } | Answer::NoName { .. } => Some(false),
        Answer::Failed(_) => None,
    }
}
