//! Report: what happened, said once.
//!
//! Every happening is one `Event`; the log line, the counters and the trace all follow from it, so that they
//! cannot disagree. Rooms that do things hold a `Reporter` and note events; nothing here waits for a reader.

mod event;
mod log;
mod metrics;
mod parts;
mod traced;
mod withheld;
mod meaning;
pub mod notice;

pub use event::{Event, Parting, Placed, Relay};
pub use log::{Format, reopen as reopen_log, start as start_log};
pub use metrics::{Gauges, Metrics, classic};
pub use withheld::{Privacy, Withheld};

use std::sync::Arc;

use crate::spool::RecoveredMessage;
use crate::trace::{Peek, Tracer};

/// Cheap to clone; one per room.
#[derive(Clone, Default)]
pub struct Reporter {
    metrics: Arc<Metrics>,
    /// Whose addresses are named by their domain alone, in the log and in the trace.
    withheld: Arc<Withheld>,
    tracer: Option<Tracer>,
}

impl Reporter {
    pub fn note(&self, event: &Event<'_>) {
        self.metrics.count(event);
        log::write(event, &self.withheld);
        if let Some(tracer) = &self.tracer {
            traced::write(tracer, event, &self.withheld);
        }
    }

    /// From now on what happens is traced too.
    pub fn with_tracer(self, tracer: Tracer) -> Self {
        Self { tracer: Some(tracer), ..self }
    }

    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_ref()
    }

    pub fn withheld(&self) -> &Arc<Withheld> {
        &self.withheld
    }

    /// What looks at a message's header on behalf of the trace.
    pub fn peek(&self) -> Peek {
        Peek::new(self.tracer.as_ref().is_some_and(Tracer::wants_subjects))
    }

    /// Tells the trace and the audit what the spool holds, so that what a crash kept from them is there.
    pub fn note_recovered<'a>(&self, messages: impl Iterator<Item = &'a RecoveredMessage>) {
        if let Some(tracer) = &self.tracer {
            traced::recovered(tracer, messages, &self.withheld);
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
