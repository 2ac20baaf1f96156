//! Residency: how many messages were received, stored and passed on in which region, and every exception.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Serialize;

use super::entry::{Entry, Event, To, split};
use super::files;
use crate::mail::Domain;

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Only recipients of this domain.
    pub domain: Option<Domain>,
    /// Only what happened since then, in milliseconds since the Unix epoch.
    pub since: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Residency {
    pub node: String,
    /// This node's: where what it received was received, and stored if it was.
    pub region: String,
    pub records: u64,
    pub messages: Messages,
    /// Recipients passed on, by the region of the next hop; `elsewhere` for smart hosts and the internet.
    pub passed_on: BTreeMap<String, u64>,
    /// Recipients received, by in-region routing: `applied`, or why not.
    pub in_region_routing: BTreeMap<String, u64>,
    pub exceptions: Vec<Exception>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Messages {
    /// Accepted from clients and edges here.
    pub received: u64,
    /// Of those, and of notices: how many rested on this node's disk.
    pub stored: u64,
    /// Went on while they came in.
    pub streamed: u64,
    /// Composed here.
    pub notices: u64,
    /// On this node's disk while they came in, and then refused or broken off.
    pub rested: u64,
}

/// Recipients whose mail did not simply enter, rest and end in its home region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exception {
    pub domain: String,
    /// `received-elsewhere`, `stored-elsewhere`, `rested-elsewhere`, `delivered-elsewhere`, `in-region-routing`,
    /// `not-delivered`.
    pub what: String,
    pub home: String,
    pub reason: String,
    pub recipients: u64,
    /// The first of them.
    pub ids: Vec<String>,
}

const SAMPLES: usize = 5;
/// Different exceptions, beyond which they are counted together.
const KINDS_LIMIT: usize = 10_000;

#[derive(Default)]
struct Exceptions(BTreeMap<Kind, (u64, Vec<String>)>);

/// Domain, what, home and reason.
type Kind = (String, String, String, String);

impl Exceptions {
    fn add(&mut self, domain: &str, what: &str, home: &str, reason: &str, count: u64, id: &str) {
        let mut key = (domain.to_owned(), what.to_owned(), home.to_owned(), reason.to_owned());
        if self.0.len() >= KINDS_LIMIT && !self.0.contains_key(&key) {
            key.0 = "(others)".to_owned();
        }
        let (sum, ids) = self.0.entry(key).or_default();
        *sum += count;
        if ids.len() < SAMPLES {
            ids.push(id.to_owned());
        }
    }
}

/// Counts what the chain below `dir` says. Whether it can be believed is `verify`'s. No chain is not found: that
/// nothing was written down does not say that there was nothing.
pub fn report(dir: &Path, asked: &Asked) -> io::Result<Residency> {
    let mut report = Residency::default();
    let mut exceptions = Exceptions::default();
    let files = files(dir)?;
    if files.is_empty() {
        let why = format!("there is no audit in {}", dir.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    for path in files {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let whole = line.pop_if(|end| *end == b'\n').is_some();
            if whole
                && let Some((_, object)) = split(&line)
                && let Ok(entry) = serde_json::from_slice::<Entry>(object)
            {
                count(&mut report, &mut exceptions, asked, entry);
            }
            line.clear();
        }
    }
    report.exceptions = exceptions
        .0
        .into_iter()
        .map(|((domain, what, home, reason), (recipients, ids))| Exception {
            domain,
            what,
            home,
            reason,
            recipients,
            ids,
        })
        .collect();
    Ok(report)
}

fn count(report: &mut Residency, exceptions: &mut Exceptions, asked: &Asked, entry: Entry) {
    if let Event::File { node, region, .. } = entry.event {
        (report.node, report.region) = (node, region);
        return;
    }
    if asked.since.is_some_and(|since| entry.at < since) {
        return;
    }
    let wanted = |domain: &str| asked.domain.as_ref().is_none_or(|asked| asked.as_str() == domain);
    let those = |to: Vec<To>| to.into_iter().filter(|to| wanted(&to.domain)).collect::<Vec<_>>();
    match entry.event {
        Event::Received { id, by, disk, to, .. } => arrived(report, exceptions, &those(to), &by, disk, &id),
        // Only what the spool held comes back.
        Event::Recovered { id, to, .. } => arrived(report, exceptions, &those(to), "spool", true, &id),
        Event::Rested { id, to } => {
            let to = those(to);
            if to.is_empty() {
                return;
            }
            report.records += 1;
            report.messages.rested += 1;
            for to in to.iter().filter(|to| !to.home.is_empty() && to.home != report.region) {
                exceptions.add(&to.domain, "rested-elsewhere", &to.home, &to.irr, u64::from(to.count), &id);
            }
        }
        Event::Delivered { id, domain, hop, region } if wanted(&domain) => {
            report.records += 1;
            let place = if region.is_empty() { "elsewhere".to_owned() } else { region };
            *report.passed_on.entry(place).or_default() += 1;
            if hop.starts_with("smarthost:") {
                exceptions.add(&domain, "delivered-elsewhere", "", &hop, 1, &id);
            }
        }
        Event::Failed { id, domain, why, .. } if wanted(&domain) => {
            report.records += 1;
            exceptions.add(&domain, "not-delivered", "", &why, 1, &id);
        }
        Event::Removed { id, domain, why } if wanted(&domain) => {
            report.records += 1;
            exceptions.add(&domain, "not-delivered", "", &why, 1, &id);
        }
        Event::Lost { count } => exceptions.add("", "not-recorded", "", "overload", count, ""),
        Event::Delivered { .. }
        | Event::Failed { .. }
        | Event::Removed { .. }
        | Event::File { .. }
        | Event::Start { .. }
        | Event::Shortened { .. }
        | Event::Stop
        | Event::Pruned { .. } => {}
    }
}

fn arrived(report: &mut Residency, exceptions: &mut Exceptions, to: &[To], by: &str, disk: bool, id: &str) {
    if to.is_empty() {
        return;
    }
    report.records += 1;
    if by == "notice" {
        report.messages.notices += 1;
    } else {
        report.messages.received += 1;
    }
    report.messages.stored += u64::from(disk);
    report.messages.streamed += u64::from(by == "inline");
    for to in to {
        let count = u64::from(to.count);
        if !to.irr.is_empty() {
            *report.in_region_routing.entry(to.irr.clone()).or_default() += count;
        }
        if !to.home.is_empty() && to.home != report.region {
            let what = if disk { "stored-elsewhere" } else { "received-elsewhere" };
            exceptions.add(&to.domain, what, &to.home, &to.irr, count, id);
        } else if matches!(to.irr.as_str(), "pdl-mismatch" | "not-primary-domain" | "missing-license") {
            exceptions.add(&to.domain, "in-region-routing", &to.home, &to.irr, count, id);
        }
    }
}
