//! Backoff: how long to wait before the next attempt, and when to give up. Rules 82 and 83.
//!
//! Pure: attempts, the last interval and the size of the queue in, delay out. `lane` asks; `config` sets
//! the steps.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::mail::Priority;

/// Rule 82: the first deferrals are at most this long.
pub const FIRST_INTERVAL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Rule 82: no interval is longer.
pub const INTERVAL_LIMIT: Duration = Duration::from_secs(60 * 60);
/// A queue of this many messages counts as long: its intervals grow faster.
const LONG_QUEUE: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    /// The first waits in turn, never shrinking.
    pub first_intervals: Vec<Duration>,
    pub max_interval: Duration,
    /// Age at which a message ends with a notice (rule 83).
    pub expire_after: Duration,
    /// Age at which its sender is told that it is late (rule 87).
    pub delay_notice_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first_intervals: [1, 5, 15].map(|minutes| Duration::from_secs(minutes * 60)).to_vec(),
            max_interval: INTERVAL_LIMIT,
            expire_after: Duration::from_secs(24 * 60 * 60),
            delay_notice_after: Duration::from_secs(4 * 60 * 60),
        }
    }
}

impl Backoff {
    /// The wait after this many failed attempts. `last` is the wait before this one; a result is never
    /// shorter, whatever happened to the queue meanwhile.
    pub fn interval(&self, attempts: u32, last: Duration, waiting: usize, priority: Priority) -> Duration {
        let step = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let interval = match self.first_intervals.get(step) {
            Some(first) => *first,
            None => {
                let base = last.max(self.first_intervals.last().copied().unwrap_or(Duration::from_secs(60)));
                base * growth_percent(waiting, priority) / 100
            }
        };
        interval.max(last).min(self.max_interval)
    }

    pub fn late_at(&self, received_at: Timestamp) -> Timestamp {
        received_at.plus(self.delay_notice_after)
    }

    pub fn expires_at(&self, received_at: Timestamp) -> Timestamp {
        received_at.plus(self.expire_after)
    }
}

/// Long queues back off faster, and so do messages that nobody waits for.
fn growth_percent(waiting: usize, priority: Priority) -> u32 {
    let by_size = if waiting >= LONG_QUEUE { 50 } else { 0 };
    match priority {
        Priority::Low => 200 + by_size,
        Priority::Normal => 150 + by_size,
        Priority::High => 110 + by_size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(count * 60)
    }

    #[test]
    fn the_default_schedule_grows_from_a_minute_to_an_hour() {
        let backoff = Backoff::default();
        let mut last = Duration::ZERO;
        let mut schedule = Vec::new();
        for attempts in 1..=8 {
            last = backoff.interval(attempts, last, 1, Priority::Normal);
            schedule.push(last.as_secs());
        }
        assert_eq!(schedule, [60, 300, 900, 1350, 2025, 3037, 3600, 3600]);
    }

    #[test]
    fn queue_size_and_priority_change_the_growth() {
        let backoff = Backoff::default();
        let after = |waiting, priority| backoff.interval(4, minutes(15), waiting, priority);
        assert!(after(10_000, Priority::Normal) > after(1, Priority::Normal));
        assert!(after(1, Priority::Low) > after(1, Priority::Normal));
        assert!(after(1, Priority::High) < after(1, Priority::Normal));
    }

    fn priority() -> impl Strategy<Value = Priority> {
        prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)]
    }

    proptest! {
        /// Rule 82 over a whole day on a fake clock, whatever the queue does meanwhile.
        #[test]
        fn a_whole_day_stays_within_the_documented_bounds(
            first in prop::collection::vec(1_u64..=900, 1..5),
            max_minutes in 15_u64..=60,
            weather in prop::collection::vec((0_usize..5_000, priority()), 1..40),
        ) {
            let mut first: Vec<Duration> = first.into_iter().map(Duration::from_secs).collect();
            first.sort();
            let backoff = Backoff { first_intervals: first.clone(), max_interval: minutes(max_minutes), ..Backoff::default() };
            let received_at = Timestamp::from_millis(1_800_000_000_000);
            let mut now = received_at;
            let mut last = Duration::ZERO;
            let mut attempts = 0;
            while now < backoff.expires_at(received_at) {
                attempts += 1;
                let (waiting, priority) = weather[attempts as usize % weather.len()];
                let interval = backoff.interval(attempts, last, waiting, priority);
                prop_assert!(interval >= last, "intervals never shrink");
                prop_assert!(interval <= INTERVAL_LIMIT && interval <= backoff.max_interval);
                if (attempts as usize) <= first.len() {
                    prop_assert!(interval <= FIRST_INTERVAL_LIMIT);
                }
                last = interval;
                now = now.plus(interval);
            }
            // An hour at most between attempts: a day has at least 24 of them.
            prop_assert!(attempts >= 24);
            prop_assert!(backoff.expires_at(received_at).since(received_at) == minutes(24 * 60));
        }
    }
}
