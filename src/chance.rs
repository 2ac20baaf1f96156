//! Chance: the only source of randomness. Takes a seed in tests.
//!
//! Not for secrets: it spreads retries and names sessions.

/// A small generator (splitmix64). Equal seeds give equal sequences.
#[derive(Debug, Clone)]
pub struct Chance {
    state: u64,
}

impl Chance {
    pub fn from_seed(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Seeded from the operating system, through std's hasher keys.
    pub fn from_os() -> Self {
        use std::hash::{BuildHasher, Hasher};
        Self::from_seed(std::hash::RandomState::new().build_hasher().finish())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly from `0..bound`; zero when the bound is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_sequence_and_bounds_hold() {
        let mut one = Chance::from_seed(7);
        let mut two = Chance::from_seed(7);
        for _ in 0..100 {
            let drawn = one.below(10);
            assert_eq!(drawn, two.below(10));
            assert!(drawn < 10);
        }
        assert_eq!(one.below(0), 0);
    }
}
