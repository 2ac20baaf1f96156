//! Tracing: starts the trace and the audit, tells them what the spool holds, and passes on what they say.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::Settings;
use crate::inquiry::Inquiry;
use crate::mail::Domain;
use crate::report::{Event, Privacy, Reporter};
use crate::spool::RecoveredMessage;
use crate::trace::{self, TraceSettings, Tracer};
use crate::{audit, daemon};

use super::io_error;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A start asks the directory for so long whose addresses may be named; what is not known then is withheld.
const ASKING_PATIENCE: Duration = Duration::from_secs(10);
/// One file of the chain.
const AUDIT_FILE_BYTES: u64 = 64 << 20;

pub(super) fn start(settings: &Settings, clock: Clock) -> Result<Tracer, daemon::Error> {
    let state_dir = &settings.node.state_dir;
    let trace = settings.trace.enabled.then(|| TraceSettings {
        dir: state_dir.join("trace"),
        keep: settings.trace.keep,
        max_bytes: settings.trace.max_size,
        subjects: settings.trace.subjects,
        refusals_per_second: settings.trace.refusals_per_second,
    });
    let audit = settings.audit.enabled.then(|| audit::Settings {
        dir: state_dir.join("audit"),
        node: settings.node.hostname.to_string(),
        region: settings.node.region.to_string(),
        file_bytes: AUDIT_FILE_BYTES.min(settings.audit.max_size / 4),
        keep: settings.audit.keep,
        max_bytes: settings.audit.max_size,
    });
    Tracer::start(trace::Settings { trace, audit }, clock).map_err(io_error("the trace and the audit"))
}

/// Before anything else is noted of these messages: what of them is not traced is put in as pending.
pub(super) async fn recover(messages: &[RecoveredMessage], inquiry: &Inquiry, reporter: &Reporter) {
    let mut domains: HashSet<&Domain> = HashSet::new();
    for message in messages {
        domains.extend(message.envelope.sender.iter().map(|address| address.domain()));
        domains.extend(message.envelope.recipients.iter().map(|recipient| recipient.address.domain()));
    }
    let (rules, began) = (inquiry.rules(), Instant::now());
    for domain in domains {
        if began.elapsed() < ASKING_PATIENCE {
            inquiry.learn_privacy(&rules, domain).await;
        } else {
            reporter.withheld().learn(domain, Privacy::Unsure);
        }
    }
    tokio::task::block_in_place(|| reporter.note_recovered(messages.iter()));
}

/// Says what the threads of the trace cannot say themselves, and where the chain has come to.
pub(super) async fn watch(reporter: Reporter, head_every: Duration) {
    let Some(tracer) = reporter.tracer().cloned() else { return };
    let mut told = Instant::now();
    let mut head = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for what in tracer.take_trouble() {
            reporter.note(&Event::Warning { what: &what });
        }
        if told.elapsed() >= head_every {
            told = Instant::now();
            tell_head(&reporter, &tracer, &mut head);
        }
    }
}

fn tell_head(reporter: &Reporter, tracer: &Tracer, last: &mut u64) {
    let report = tracer.report();
    if report.head_record > *last {
        *last = report.head_record;
        reporter.note(&Event::AuditHead { record: report.head_record - 1, hash: &report.head_hash });
    }
}

/// The last words of a stop: everything noted is written out.
pub(super) async fn close(reporter: &Reporter) {
    let Some(tracer) = reporter.tracer().cloned() else { return };
    let closing = tracer.clone();
    let _ = tokio::task::spawn_blocking(move || closing.close()).await;
    tell_head(reporter, &tracer, &mut 0);
}
