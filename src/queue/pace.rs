//! Pace: how many connections a next hop takes well at a time.
//!
//! Pure: each attempt's length and end in, a number out. It grows by one for every round of good attempts
//! and shrinks when the destination slows down or turns away; `lane` holds one, workers come and go by it.
//! What waited for a destination that was away, or in the spool for a start, goes by one connection first,
//! and so in its order (rule 84); more join when that alone does not soon empty the lane, or stands still.

use std::time::Duration;

use crate::clock::Timestamp;

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
/// After an outage, the next hop's or ours, one connection carries all for so long, then twice as many each step.
const ALONE: Duration = Duration::from_millis(250);
const STEP: Duration = Duration::from_millis(100);
/// A short queue stays with the one connection for as long as that will have emptied it within this time;
/// so long the first answer may take, too: a next hop that is slow to greet is no reason to lose the order.
const SHORT_QUEUE: usize = 1_000;
const ALONE_LONGEST: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Pace {
    connections: usize,
    /// Good attempts since the last change.
    good: usize,
    /// Slow ones likewise.
    slow: usize,
    best: Option<Duration>,
    returned: Option<Return>,
}

/// The destination came back from its last outage, or this program did.
#[derive(Debug, Clone, Copy)]
struct Return {
    at: Timestamp,
    /// Attempts since, while one connection carries all.
    carried: u64,
    /// When the first of them was seen to have ended: what it took to connect is behind it.
    began: Option<Timestamp>,
    /// Since when more may join.
    ramp: Option<Timestamp>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { connections: FIRST, good: 0, slow: 0, best: None, returned: None }
    }
}

impl Pace {
    /// How many connections for `waiting` jobs, with `ceiling` as the configured limit. `stalled`: those that
    /// stand still with one message, which shall not be all there is for the others.
    pub(super) fn connections(
        &mut self,
        ceiling: usize,
        waiting: usize,
        stalled: usize,
        now: Timestamp,
    ) -> usize {
        let taken_well = self.connections.min(self.ramp(waiting, now));
        taken_well.max((stalled + 1).min(FIRST)).min(ceiling).max(LEAST)
    }

    /// It takes mail again, as far as anybody knows.
    pub(super) fn returned(&mut self, now: Timestamp) {
        self.returned = Some(Return { at: now, carried: 0, began: None, ramp: None });
    }

    fn ramp(&mut self, waiting: usize, now: Timestamp) -> usize {
        // A clock that was set back must not hold it up.
        let Some(returned) = self.returned.as_mut().filter(|returned| returned.at <= now) else {
            return usize::MAX;
        };
        if returned.ramp.is_none() && returned.is_alone(waiting, now) {
            return LEAST;
        }
        let ramping = now.since(*returned.ramp.get_or_insert(now));
        let steps = u32::try_from(ramping.as_millis() / STEP.as_millis()).unwrap_or(u32::MAX);
        2_usize.checked_pow(steps.saturating_add(1)).unwrap_or(usize::MAX)
    }

    /// An attempt that the destination took part in, and how long it took.
    pub(super) fn answered(&mut self, took: Duration, ceiling: usize) {
        if let Some(returned) = &mut self.returned {
            returned.carried += 1;
        }
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

impl Return {
    /// Whether order still comes before speed.
    fn is_alone(&mut self, waiting: usize, now: Timestamp) -> bool {
        if self.carried == 0 {
            return now.since(self.at) < ALONE_LONGEST;
        }
        let elapsed = now.since(*self.began.get_or_insert(now));
        let soon =
            waiting as u128 * elapsed.as_millis() <= u128::from(self.carried) * ALONE_LONGEST.as_millis();
        elapsed < ALONE || elapsed < ALONE_LONGEST && waiting <= SHORT_QUEUE && soon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    const MANY: usize = 100_000;

    fn many(pace: &mut Pace) -> usize {
        pace.connections(20, MANY, 0, at(0))
    }

    fn after(attempts: usize, took: Duration, pace: &mut Pace) -> usize {
        for _ in 0..attempts {
            pace.answered(took, 20);
        }
        many(pace)
    }

    #[test]
    fn a_store_that_keeps_up_gets_more_connections_up_to_the_limit() {
        let mut pace = Pace::default();
        assert_eq!(many(&mut pace), FIRST);
        assert_eq!(after(FIRST, ms(5), &mut pace), FIRST + 1);
        assert_eq!(after(1_000, ms(5), &mut pace), 20);
        assert_eq!(pace.connections(3, MANY, 0, at(0)), 3, "the configured limit holds whatever it can take");
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
        assert_eq!(many(&mut pace), 10);
        for _ in 0..10 {
            pace.turned_away();
        }
        assert_eq!(many(&mut pace), 1);
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

    #[test]
    fn a_store_that_comes_back_gets_one_connection_first() {
        let mut pace = Pace::default();
        after(1_000, ms(5), &mut pace);
        pace.returned(at(100));
        assert_eq!(pace.connections(20, MANY, 0, at(900)), 1, "it has not even greeted");
        pace.answered(ms(5), 20);
        for (now, connections) in
            [(1_000, 1), (1_249, 1), (1_250, 2), (1_349, 2), (1_350, 4), (1_450, 8), (1_550, 16), (1_650, 20)]
        {
            assert_eq!(pace.connections(20, MANY, 0, at(now)), connections, "at {now} ms");
        }
        assert_eq!(pace.connections(20, MANY, 0, at(i64::MAX)), 20);
        assert_eq!(pace.connections(20, MANY, 0, at(50)), 20, "a clock that was set back");
    }

    #[test]
    fn a_short_queue_keeps_its_order_while_one_connection_will_soon_have_emptied_it() {
        let mut pace = Pace::default();
        pace.returned(at(0));
        // A hundred a second.
        for tenth in 1..90 {
            after(10, ms(10), &mut pace);
            assert_eq!(pace.connections(20, 900 - tenth * 10, 0, at(tenth as i64 * 100)), 1);
        }
        assert_eq!(pace.connections(20, 2, 0, at(10_100)), 2, "it has had its time");
        pace.returned(at(0));
        after(1, ms(100), &mut pace);
        assert_eq!(pace.connections(20, 400, 0, at(100)), 1);
        after(10, ms(100), &mut pace);
        assert_eq!(pace.connections(20, 400, 0, at(1_100)), 2, "ten a second are not soon through");
        assert_eq!(pace.connections(20, 1, 0, at(1_200)), 4, "and what has begun goes on");
    }

    #[test]
    fn one_that_stands_still_is_not_all_there_is_for_the_others() {
        let mut pace = Pace::default();
        pace.returned(at(0));
        assert_eq!(pace.connections(20, MANY, 1, at(10)), 2);
        assert_eq!(
            pace.connections(20, MANY, 9, at(20)),
            FIRST,
            "a store that is slow is not asked for more"
        );
        assert_eq!(pace.connections(1, MANY, 1, at(30)), 1, "the configured limit holds");
    }
}
