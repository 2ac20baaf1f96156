//! Pace: how many connections a next hop takes well at a time.
//!
//! Pure: each attempt's length and end in, a number out. It grows by one for every round of good attempts
//! and shrinks when the destination slows down or turns away; `lane` holds one, workers come and go by it.

use std::time::Duration;

/// Where a lane begins, and what it keeps while the destination answers at all.
const FIRST: usize = 4;
const LEAST: usize = 1;
/// So many times as long as it was at its best counts as slow; anything below the floor never does: that
/// short, it is the machine's own weather.
const SLOW_FACTOR: u32 = 8;
const SLOW_FLOOR: Duration = Duration::from_millis(100);
/// The memory of the best time fades by one part in so many with each attempt, so that a store which has
/// become slower for good is not called slow for ever.
const FADE: u32 = 64;

#[derive(Debug, Clone)]
pub(super) struct Pace {
    connections: usize,
    /// Good attempts since the last change.
    good: usize,
    /// Slow ones likewise.
    slow: usize,
    best: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { connections: FIRST, good: 0, slow: 0, best: None }
    }
}

impl Pace {
    /// How many connections, with `ceiling` as the configured limit.
    pub(super) fn connections(&self, ceiling: usize) -> usize {
        self.connections.min(ceiling).max(LEAST)
    }

    /// An attempt that the destination took part in, and how long it took.
    pub(super) fn answered(&mut self, took: Duration, ceiling: usize) {
        let best = self.best.map_or(took, |best| (best + best / FADE).min(took));
        self.best = Some(best);
        if took > SLOW_FLOOR && took > best * SLOW_FACTOR {
            self.slow += 1;
            // A whole round of them, not one message that was long.
            if self.slow >= self.connections {
                self.shrink();
            }
            return;
        }
        self.good += 1;
        if self.good >= self.connections && self.connections < ceiling {
            self.connections += 1;
            (self.good, self.slow) = (0, 0);
        }
    }

    /// It turned the attempt away, or was not there.
    pub(super) fn turned_away(&mut self) {
        self.shrink();
    }

    fn shrink(&mut self) {
        self.connections = (self.connections / 2).max(LEAST);
        (self.good, self.slow) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn after(attempts: usize, took: Duration, pace: &mut Pace) -> usize {
        for _ in 0..attempts {
            pace.answered(took, 20);
        }
        pace.connections(20)
    }

    #[test]
    fn a_store_that_keeps_up_gets_more_connections_up_to_the_limit() {
        let mut pace = Pace::default();
        assert_eq!(pace.connections(20), FIRST);
        assert_eq!(after(FIRST, ms(5), &mut pace), FIRST + 1);
        assert_eq!(after(1_000, ms(5), &mut pace), 20);
        assert_eq!(pace.connections(3), 3, "the configured limit holds whatever it can take");
    }

    #[test]
    fn a_store_that_slows_down_gets_fewer_and_recovers() {
        let mut pace = Pace::default();
        after(1_000, ms(20), &mut pace);
        assert_eq!(after(20, ms(2_000), &mut pace), 10);
        assert_eq!(after(10, ms(2_000), &mut pace), 5);
        assert!(after(1_000, ms(20), &mut pace) == 20);
    }

    #[test]
    fn one_long_message_is_no_slow_store() {
        let mut pace = Pace::default();
        after(1_000, ms(20), &mut pace);
        assert_eq!(after(1, ms(30_000), &mut pace), 20);
    }

    #[test]
    fn a_store_that_turns_away_gets_half_and_never_less_than_one() {
        let mut pace = Pace::default();
        after(1_000, ms(5), &mut pace);
        pace.turned_away();
        assert_eq!(pace.connections(20), 10);
        for _ in 0..10 {
            pace.turned_away();
        }
        assert_eq!(pace.connections(20), 1);
    }

    #[test]
    fn quick_answers_are_never_slow_whatever_the_best_was() {
        let mut pace = Pace::default();
        after(1_000, Duration::from_micros(100), &mut pace);
        assert_eq!(after(1_000, ms(90), &mut pace), 20);
    }

    #[test]
    fn a_store_that_is_slower_for_good_is_not_slow_for_ever() {
        let mut pace = Pace::default();
        after(1_000, ms(50), &mut pace);
        assert_eq!(after(3_000, ms(800), &mut pace), 20);
    }
}
