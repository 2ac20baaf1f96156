//! Report: what happened, said once.
//!
//! Every happening is one `Event`; the log line and the counters both follow from it, so that they cannot
//! disagree. Rooms that do things hold a `Reporter` and note events; nothing here waits for a reader.

mod event;
mod log;
mod metrics;
mod parts;
mod meaning;
pub mod notice;

pub use event::{Event, Parting, Relay};
pub use log::{Format, reopen as reopen_log, start as start_log};
pub use metrics::{Gauges, Metrics, classic};

use std::sync::Arc;

/// Cheap to clone; one per room.
#[derive(Clone, Default)]
pub struct Reporter {
    metrics: Arc<Metrics>,
}

impl Reporter {
    pub fn note(&self, event: &Event<'_>) {
        self.metrics.count(event);
        log::write(event);
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
