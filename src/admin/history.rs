//! History: what the counters were, minute by minute, for the dashboard. In memory, for a day.
//!
//! Reads the same page that Prometheus reads, once a minute: nothing is counted twice, and nothing is added
//! to the way of a message. Who needs more than a day has a Prometheus.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Clock, Timestamp};
use crate::report::{Gauges, Reporter};

/// One sample's span, and how many are kept.
const STEP: Duration = Duration::from_secs(60);
const SAMPLES: usize = 24 * 60;
/// The counters that are kept, without prefix; every one has a bounded label set.
const KEPT: [&str; 5] =
    ["messages_accepted", "messages_refused", "recipients_accepted", "refusals", "deliveries"];
/// A bound for label sets that are bounded by themselves.
const SERIES_LIMIT: usize = 500;

#[derive(Default)]
pub struct History(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    series: BTreeMap<String, Series>,
    /// When the newest sample ended.
    end: Option<Timestamp>,
    samples: usize,
}

#[derive(Default)]
struct Series {
    total: u64,
    /// What was added in each step; may begin later than others do.
    steps: VecDeque<u32>,
}

/// What the page draws.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Course {
    pub step_s: u64,
    pub end: Option<Timestamp>,
    pub samples: usize,
    /// By name and labels, as in `/metrics`; each as long as `samples`, oldest first.
    pub series: BTreeMap<String, Vec<u32>>,
}

impl History {
    /// Samples for as long as somebody keeps the history.
    pub fn keep(reporter: Reporter, clock: Clock) -> Arc<Self> {
        let history = Arc::new(Self::default());
        let kept = Arc::downgrade(&history);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STEP);
            loop {
                ticks.tick().await;
                let Some(history) = kept.upgrade() else { return };
                history.sample(&reporter.metrics().render(&Gauges::default()), clock.now());
            }
        });
        history
    }

    fn sample(&self, page: &str, now: Timestamp) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.end.is_none();
        let samples = kept.samples;
        for (name, total) in page.lines().filter_map(read) {
            if !kept.series.contains_key(name) && kept.series.len() >= SERIES_LIMIT {
                continue;
            }
            let series = kept.series.entry(name.to_owned()).or_default();
            // A series that appears late was at nothing before.
            series.steps.resize(samples, 0);
            let added = total.saturating_sub(series.total);
            series.total = total;
            if !first {
                series.steps.push_back(u32::try_from(added).unwrap_or(u32::MAX));
            }
        }
        kept.end = Some(now);
        kept.samples += usize::from(!first);
        if kept.samples > SAMPLES {
            kept.samples = SAMPLES;
            for series in kept.series.values_mut() {
                series.steps.pop_front();
            }
        }
    }

    /// The newest samples, at most so many.
    pub fn course(&self, samples: usize) -> Course {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = samples.min(kept.samples);
        let newest = |series: &Series| {
            let skip = series.steps.len().saturating_sub(samples);
            series.steps.iter().skip(skip).copied().collect()
        };
        let series = kept.series.iter().map(|(name, series)| (name.clone(), newest(series))).collect();
        Course { step_s: STEP.as_secs(), end: kept.end, samples, series }
    }
}

/// `landfall_refusals_total{reason="x"} 7`, when it is one of those that are kept.
fn read(line: &str) -> Option<(&str, u64)> {
    let line = line.strip_prefix("landfall_")?;
    let (series, value) = line.rsplit_once(' ')?;
    let name = series.split('{').next()?.strip_suffix("_total")?;
    KEPT.contains(&name).then_some(())?;
    Some((series, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_millis(minute * 60_000)
    }

    fn page(accepted: u64, refused: Option<u64>) -> String {
        let mut page = format!(
            "# TYPE landfall_messages_accepted counter\nlandfall_messages_accepted_total {accepted}\nlandfall_sessions 3\n"
        );
        if let Some(refused) = refused {
            page.push_str(&format!("landfall_refusals_total{{reason=\"wrong-region\"}} {refused}\n"));
        }
        page
    }

    #[test]
    fn each_step_holds_what_was_added_in_it() {
        let history = History::default();
        assert_eq!(history.course(10).samples, 0);
        for (minute, accepted, refused) in
            [(0, 100, None), (1, 103, None), (2, 103, Some(2)), (3, 110, Some(2))]
        {
            history.sample(&page(accepted, refused), at(minute));
        }
        let course = history.course(10);
        assert_eq!((course.step_s, course.samples, course.end), (60, 3, Some(at(3))));
        assert_eq!(course.series["messages_accepted_total"], [3, 0, 7]);
        assert_eq!(course.series["refusals_total{reason=\"wrong-region\"}"], [0, 2, 0]);
        assert_eq!(course.series.len(), 2, "gauges are not kept");
        assert_eq!(history.course(1).series["messages_accepted_total"], [7]);
    }

    #[test]
    fn a_day_is_kept_and_no_more() {
        let history = History::default();
        for minute in 0..(SAMPLES as u64 + 50) {
            history.sample(
                &page(minute, (minute > 1000).then_some(1)),
                at(i64::try_from(minute).expect("small")),
            );
        }
        let course = history.course(usize::MAX);
        assert_eq!(course.samples, SAMPLES);
        assert!(course.series.values().all(|steps| steps.len() == SAMPLES));
    }
}
