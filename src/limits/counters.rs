//! Counters: how often somebody did something lately, in memory that never grows.
//!
//! A table of fixed size, by the hash of who it was: no address is kept. Where it is full, whoever counts
//! least makes room, so that a flood of strangers hides nobody who does much. Pure but for the hash's key.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Timestamp;

/// Slots that one key may be in. More cost time, fewer let strangers push each other out sooner.
const WAYS: usize = 8;
/// Parts of the table that are locked, and allocated, each for itself.
const SHARDS: usize = 64;

/// Who is counted: a keyed hash, of no use outside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

/// Counts within a window that slides: what this window has, and of the one before as much as is still in it.
pub struct Counters {
    shards: Box<[Mutex<Vec<Slot>>]>,
    sets_per_shard: usize,
    window_ms: i64,
    hasher: RandomState,
    evictions: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slot {
    /// Zero: nobody.
    key: u64,
    /// The number of the window in which `now` counts.
    window: u32,
    now: u32,
    /// Of the window before.
    before: u32,
}

impl Counters {
    /// At most about `capacity` keys; memory is taken when it is first needed.
    pub fn new(capacity: usize, window: Duration) -> Self {
        let sets_per_shard = capacity.div_ceil(SHARDS * WAYS).max(1);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Vec::new())).collect(),
            sets_per_shard,
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX).max(1),
            hasher: RandomState::new(),
            evictions: AtomicU64::new(0),
        }
    }

    pub fn key(&self, who: impl Hash) -> Key {
        Key(self.hasher.hash_one(who).max(1))
    }

    /// How often within the window that ends now.
    pub fn count(&self, key: Key, now: Timestamp) -> u64 {
        let shard = self.shard(key);
        let moment = self.moment(now);
        self.set_of(&shard, key).iter().find(|slot| slot.key == key.0).map_or(0, |slot| slot.count(moment))
    }

    /// Once more. Returns how often that makes.
    pub fn add(&self, key: Key, now: Timestamp) -> u64 {
        let moment = self.moment(now);
        self.with(key, moment, |slot| {
            slot.now = slot.now.saturating_add(1);
            slot.count(moment)
        })
    }

    /// Once more, unless it has been so often already.
    pub fn take(&self, key: Key, limit: u64, now: Timestamp) -> bool {
        let moment = self.moment(now);
        self.with(key, moment, |slot| {
            let free = slot.count(moment) < limit;
            if free {
                slot.now = slot.now.saturating_add(1);
            }
            free
        })
    }

    /// Once less: it turned out not to count.
    pub fn give_back(&self, key: Key, now: Timestamp) {
        let moment = self.moment(now);
        let mut shard = self.shard(key);
        let range = self.range_of(&shard, key);
        if let Some(slot) = shard[range].iter_mut().find(|slot| slot.key == key.0) {
            slot.turn_to(moment.window);
            slot.now = slot.now.saturating_sub(1);
        }
    }

    /// How many have made room for others although they still counted.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// What the table takes at most.
    #[cfg(test)]
    fn bytes_limit(&self) -> usize {
        SHARDS * self.sets_per_shard * WAYS * size_of::<Slot>()
    }

    fn moment(&self, now: Timestamp) -> Moment {
        let millis = now.millis().max(0);
        let window = u32::try_from(millis / self.window_ms).unwrap_or(u32::MAX);
        let elapsed = (millis % self.window_ms).unsigned_abs();
        Moment { window, elapsed, length: self.window_ms.unsigned_abs() }
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Vec<Slot>> {
        self.shards[key.0 as usize % SHARDS].lock().expect("nothing panics while it counts")
    }

    fn range_of(&self, shard: &[Slot], key: Key) -> std::ops::Range<usize> {
        if shard.is_empty() {
            return 0..0;
        }
        let set = (key.0 >> 32) as usize % self.sets_per_shard;
        set * WAYS..(set + 1) * WAYS
    }

    fn set_of<'s>(&self, shard: &'s [Slot], key: Key) -> &'s [Slot] {
        &shard[self.range_of(shard, key)]
    }

    /// The slot of this key, in front of its set: what is behind was not asked for so lately.
    fn with<T>(&self, key: Key, moment: Moment, work: impl FnOnce(&mut Slot) -> T) -> T {
        let mut shard = self.shard(key);
        if shard.is_empty() {
            *shard = vec![Slot::default(); self.sets_per_shard * WAYS];
        }
        let range = self.range_of(&shard, key);
        let set = &mut shard[range];
        let at = set.iter().position(|slot| slot.key == key.0).unwrap_or_else(|| {
            let least = least_interesting(set, moment);
            if set[least].count(moment) > 0 {
                self.evictions.fetch_add(1, Ordering::Relaxed);
            }
            set[least] = Slot { key: key.0, window: moment.window, now: 0, before: 0 };
            least
        });
        set[..=at].rotate_right(1);
        set[0].turn_to(moment.window);
        work(&mut set[0])
    }
}

#[derive(Debug, Clone, Copy)]
struct Moment {
    window: u32,
    /// Of this window, and of how much.
    elapsed: u64,
    length: u64,
}

impl Slot {
    fn count(&self, at: Moment) -> u64 {
        let left = at.length - at.elapsed;
        let share = |count: u32| u128::from(count) * u128::from(left) / u128::from(at.length);
        let share = |count: u32| u64::try_from(share(count)).unwrap_or(u64::MAX);
        match at.window.checked_sub(self.window) {
            // The clock went back: it stays the window it was.
            None | Some(0) => u64::from(self.now) + share(self.before),
            Some(1) => share(self.now),
            Some(_) => 0,
        }
    }

    fn turn_to(&mut self, window: u32) {
        match window.checked_sub(self.window) {
            None | Some(0) => return,
            Some(1) => self.before = self.now,
            Some(_) => self.before = 0,
        }
        self.now = 0;
        self.window = window;
    }
}

/// Who counts least, and among them who was not seen the longest.
fn least_interesting(set: &[Slot], moment: Moment) -> usize {
    let worth = |slot: &Slot| if slot.key == 0 { 0 } else { slot.count(moment) };
    let mut least = set.len() - 1;
    for at in (0..set.len() - 1).rev() {
        if worth(&set[at]) < worth(&set[least]) {
            least = at;
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    #[test]
    fn a_window_slides() {
        let counters = Counters::new(1000, MINUTE);
        let key = counters.key("anna");
        for _ in 0..10 {
            assert!(counters.take(key, 10, at(0)));
        }
        assert!(!counters.take(key, 10, at(0)) && !counters.take(key, 10, at(59)));
        // Half of the window before is still within the last minute.
        assert_eq!(counters.count(key, at(90)), 5);
        assert!(counters.take(key, 10, at(90)));
        assert_eq!(counters.count(key, at(90)), 6);
        assert_eq!(counters.count(key, at(150)), 0);
        assert_eq!(counters.count(counters.key("ben"), at(0)), 0);
    }

    #[test]
    fn what_did_not_count_is_given_back() {
        let counters = Counters::new(1000, MINUTE);
        let key = counters.key(1);
        counters.give_back(key, at(0));
        assert_eq!(counters.add(key, at(0)), 1);
        counters.give_back(key, at(0));
        counters.give_back(key, at(0));
        assert_eq!(counters.count(key, at(0)), 0);
    }

    #[test]
    fn a_clock_that_steps_back_forgives_nothing() {
        let counters = Counters::new(1000, MINUTE);
        let key = counters.key(1);
        counters.add(key, at(0));
        counters.add(key, at(-600));
        assert_eq!(counters.count(key, at(-600)), 2);
        assert_eq!(counters.count(key, at(0)), 2);
    }

    /// A flood from millions of networks: the memory stays as it is, and who does much is still found out.
    #[test]
    fn five_million_strangers_take_no_more_memory_and_hide_no_heavy_hitter() {
        let counters = Counters::new(131_072, MINUTE);
        let heavy = counters.key(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0));
        let limit = 600;
        let (mut passed, mut refused) = (0, 0);
        for stranger in 0..5_000_000u32 {
            // Five million within a minute, and one client with a thousand among them.
            let now = at(0).plus(Duration::from_micros(u64::from(stranger) * 12));
            let network = Ipv6Addr::new(0x2001, 0xdb9, (stranger >> 16) as u16, stranger as u16, 0, 0, 0, 0);
            counters.add(counters.key(network), now);
            if stranger % 5000 == 0 {
                if counters.take(heavy, limit, now) { passed += 1 } else { refused += 1 }
            }
        }
        assert_eq!((passed, refused), (600, 400));
        let slots: usize =
            counters.shards.iter().map(|shard| shard.lock().expect("no panic").capacity()).sum();
        assert_eq!(slots * size_of::<Slot>(), counters.bytes_limit());
        assert_eq!(counters.bytes_limit(), 3 << 20);
        assert!(counters.evictions() > 4_500_000, "{}", counters.evictions());
    }

    #[test]
    fn memory_is_taken_when_it_is_needed() {
        let counters = Counters::new(131_072, MINUTE);
        assert_eq!(counters.count(counters.key(1), at(0)), 0);
        let taken =
            || counters.shards.iter().filter(|shard| !shard.lock().expect("no panic").is_empty()).count();
        assert_eq!(taken(), 0);
        counters.add(counters.key(1), at(0));
        assert_eq!(taken(), 1);
    }

    proptest! {
        /// Never more than the limit in one window, never more than twice in any span of that length, and
        /// never fewer than the limit in a window after a quiet one.
        #[test]
        fn a_limit_is_kept(
            gaps in prop::collection::vec(prop_oneof![20 => 0u64..5_000, 1 => 60_000u64..200_000], 1..400),
            limit in 1u64..50,
        ) {
            let counters = Counters::new(64, MINUTE);
            let key = counters.key(0);
            let mut now = at(0);
            let mut taken: Vec<Timestamp> = Vec::new();
            for gap in gaps {
                now = now.plus(Duration::from_millis(gap));
                let within = taken.iter().filter(|then| now.since(**then) < MINUTE).count() as u64;
                let quiet = taken.iter().all(|then| now.since(*then) >= MINUTE * 2);
                let took = counters.take(key, limit, now);
                if took {
                    taken.push(now);
                    prop_assert!(within < 2 * limit);
                }
                prop_assert!(took || !quiet);
            }
        }
    }
}
