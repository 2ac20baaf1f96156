//! Meter: how many questions, how they ended and how long they took.
//!
//! `report` registers it, so that its counters stand with all others; label sets are fixed.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::answer::{Answer, Kind};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Question {
    kind: &'static str,
    result: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Meter {
    questions: Family<Question, Counter>,
    seconds: Histogram,
}

impl Default for Meter {
    fn default() -> Self {
        // A cached answer takes microseconds, a validated one some round trips.
        let bounds = [0.0001, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0];
        Self { questions: Family::default(), seconds: Histogram::new(bounds) }
    }
}

impl Meter {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dns_questions",
            "Questions to the DNS, by kind and result; cached answers count too",
            self.questions.clone(),
        );
        registry.register("dns_seconds", "How long a question to the DNS took", self.seconds.clone());
    }

    pub(super) fn count<T>(&self, kind: Kind, answer: &Answer<T>, took: Duration) {
        self.questions.get_or_create(&Question { kind: kind.word(), result: answer.word() }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
