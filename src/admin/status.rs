//! Status: one screen of health, and what of it is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::api::Door;
use crate::clock::Timestamp;
use crate::report::Gauges;
use crate::spool::Pressure;

/// A certificate that ends sooner is worth a word.
const CERTIFICATE_NOTICE_S: u64 = 14 * 24 * 3600;

/// `landfall status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    hostname: String,
    region: String,
    /// `running` or `draining`.
    state: &'static str,
    uptime_s: u64,
    sessions: u64,
    /// Messages since the start.
    accepted: u64,
    /// Recipients and messages refused since the start.
    refused: u64,
    /// Recipients whose mail the next hop took, since the start.
    delivered: u64,
    queued: usize,
    queue: Waiting,
    spool: Room,
    directory: Known,
    certificates: Vec<Certificate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Written>,
    /// What was refused since the start, by limit; those that refused nothing are left out.
    limited: BTreeMap<String, u64>,
    /// What keeps this node from its work: `landfall status` exits 1.
    problems: Vec<String>,
    /// What somebody should look at.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Waiting {
    destinations: usize,
    down: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Room {
    /// `free`, `full` or `failed`.
    pressure: &'static str,
    messages: u64,
    bytes: u64,
    disk_bytes: u64,
    quarantined: u64,
}

#[derive(Debug, Serialize)]
struct Known {
    source: &'static str,
    domains: usize,
    /// Since the directory service last confirmed what is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    name: String,
    expires: String,
}

#[derive(Debug, Serialize)]
struct Written {
    rows: u64,
    lag_bytes: u64,
    lost: u64,
    errors: u64,
    audit_records: u64,
}

pub(super) async fn status(State(door): State<Arc<Door>>) -> Json<Status> {
    let now = door.clock.now();
    let page = door.reporter.metrics().render(&Gauges::default());
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let draining = *door.draining.borrow();
    problems.extend(door.why_not_ready());
    let spool = door.spool.state();
    let pressure = match spool.pressure {
        Pressure::Free => "free",
        Pressure::Full => "full",
        Pressure::Failed => "failed",
    };
    if door.directory.knows_users() && !door.directory.is_heard() {
        warnings.push("the directory service is silent: answers come from what is held".to_owned());
    }
    let certificates = certificates(&page, now, &mut problems, &mut warnings);
    let lanes = door.queue.lanes();
    let down = lanes.iter().filter(|lane| lane.state == "down").count();
    if down > 0 {
        warnings.push(format!("{down} destinations are down: landfall queue summary"));
    }
    let oldest = lanes.iter().filter_map(|lane| Timestamp::parse(lane.oldest.as_deref()?)).min();
    let trace = door.reporter.tracer().map(|tracer| tracer.report());
    if trace.as_ref().is_some_and(|trace| trace.errors > 0 || trace.lost > 0) {
        warnings.push("the trace or the audit is not complete: see the log".to_owned());
    }
    if spool.quarantined > 0 {
        warnings.push(format!("{} messages are set aside in the spool", spool.quarantined));
    }
    let limited = door.reporter.metrics().limited().filter(|(_, count)| *count > 0);
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        hostname: door.hostname.clone(),
        region: door.region.clone(),
        state: if draining { "draining" } else { "running" },
        uptime_s: now.since(door.started_at).as_secs(),
        sessions: door.reporter.metrics().sessions(),
        accepted: door.reporter.metrics().accepted(),
        refused: total(&page, "landfall_refusals_total{", ""),
        delivered: total(&page, "landfall_deliveries_total{", "outcome=\"delivered\""),
        queued: door.queue.len(),
        queue: Waiting {
            destinations: lanes.len(),
            down,
            oldest_s: oldest.map(|oldest| now.since(oldest).as_secs()),
        },
        spool: Room {
            pressure,
            messages: spool.live_messages,
            bytes: spool.live_bytes,
            disk_bytes: spool.bytes_on_disk,
            quarantined: spool.quarantined,
        },
        directory: Known {
            source: if door.directory.has_all_users() { "file" } else { "service" },
            domains: door.directory.table().domain_count(),
            age_s: door.directory.age().map(|age| age.as_secs()),
        },
        certificates,
        trace: trace.map(|trace| Written {
            rows: trace.rows,
            lag_bytes: trace.lag_bytes,
            lost: trace.lost,
            errors: trace.errors,
            audit_records: trace.audit_records,
        }),
        limited: limited.map(|(limit, count)| (limit.word().to_owned(), count)).collect(),
        problems,
        warnings,
    })
}

/// The sum of a counter over its labels, from the page that Prometheus reads.
fn total(page: &str, name: &str, label: &str) -> u64 {
    let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

fn certificates(
    page: &str,
    now: Timestamp,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Vec<Certificate> {
    let mut found = Vec::new();
    for line in page.lines() {
        let Some(rest) = line.strip_prefix("landfall_certificate_expires_seconds{name=\"") else { continue };
        let Some((name, value)) = rest.split_once("\"} ") else { continue };
        let Ok(seconds) = value.parse::<i64>() else { continue };
        let expires = Timestamp::from_millis(seconds.saturating_mul(1000));
        if expires <= now {
            problems.push(format!("the certificate of {name} ended at {expires}"));
        } else if expires.since(now).as_secs() < CERTIFICATE_NOTICE_S {
            warnings.push(format!("the certificate of {name} ends at {expires}"));
        }
        found.push(Certificate { name: name.to_owned(), expires: expires.to_string() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_named_before_it_ends_and_when_it_has_ended() {
        let page = "landfall_certificate_expires_seconds{name=\"old.test\"} 100\n\
                    landfall_certificate_expires_seconds{name=\"soon.test\"} 2000\n\
                    landfall_certificate_expires_seconds{name=\"good.test\"} 9000000\n";
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let found = certificates(page, Timestamp::from_millis(1_000_000), &mut problems, &mut warnings);
        assert_eq!(found.len(), 3);
        assert!(problems.len() == 1 && problems[0].contains("old.test"), "{problems:?}");
        assert!(warnings.len() == 1 && warnings[0].contains("soon.test"), "{warnings:?}");
    }
}
