//! The random parameters of a staging. The same seed, scenario and number give
//! the same parameters, whatever is staged beside it; when each request comes is
//! left to chance.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::scenario::Scenario;

#[derive(Debug)]
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// `number` counts the stagings of one scenario.
    pub(super) fn new(seed: u64, scenario: Scenario, number: u32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream((scenario as u64) << 32 | u64::from(number));
        Self(random)
    }

    /// A number between the two.
    pub(super) fn between(&mut self, least: f64, most: f64) -> f64 {
        self.0.random_range(least..=most)
    }

    /// A whole number between the two.
    pub(super) fn whole(&mut self, least: u32, most: u32) -> u32 {
        self.0.random_range(least..=most)
    }

    /// One of them.
    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.choose(&mut self.0).copied()
    }

    pub(super) fn coin(&mut self) -> bool {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides() {
        let throw = |seed, scenario, number| Dice::new(seed, scenario, number).whole(0, u32::MAX);
        let first = throw(7, Scenario::Leak, 1);
        assert_eq!(throw(7, Scenario::Leak, 1), first);
        assert_ne!(throw(8, Scenario::Leak, 1), first);
        assert_ne!(throw(7, Scenario::Leak, 2), first);
        assert_ne!(throw(7, Scenario::HoldUp, 1), first);
    }
}
