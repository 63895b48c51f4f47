//! How durations spread around their mean.
//!
//! A shape is a few thousand equally likely multiples of the mean. Invariant:
//! their mean is 1, so that rate times mean duration is the mean concurrency,
//! however heavy the tail.

use std::sync::LazyLock;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal, Pareto};

/// Values of one shape. The rarest is one in four thousand.
const POINTS: usize = 4096;

/// How many shapes there are.
pub const SHAPES: u8 = 6;

static TABLES: LazyLock<Vec<Vec<f32>>> = LazyLock::new(tables);

/// A multiple of the mean.
pub fn draw(shape: u8, rng: &mut impl Rng) -> f64 {
    let table = &TABLES[usize::from(shape % SHAPES)];
    f64::from(table[rng.next_u32() as usize % POINTS])
}

/// How much of a new level of sessions is reached after a time, given as a
/// multiple of the mean: of requests that come evenly and stay, the part that
/// would still be there of those that came since.
pub fn gathered(shape: u8, time: f64) -> f64 {
    let table = &TABLES[usize::from(shape % SHAPES)];
    let sum: f64 = table.iter().map(|&v| f64::from(v).min(time)).sum();
    sum / POINTS as f64
}

fn tables() -> Vec<Vec<f32>> {
    // The same in every run: the tables are constants.
    let mut rng = ChaCha8Rng::seed_from_u64(0x5eed_0f5a);
    (0..SHAPES).map(|shape| table(shape, &mut rng)).collect()
}

fn table(shape: u8, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let values: Vec<f64> = (0..POINTS).map(|i| value(shape, i, rng)).collect();
    let mean = values.iter().sum::<f64>() / POINTS as f64;
    values.iter().map(|value| (value / mean) as f32).collect()
}

fn value(shape: u8, i: usize, rng: &mut ChaCha8Rng) -> f64 {
    // Each tenth point belongs to the slow part of a mixture.
    let slow = i.is_multiple_of(10);
    match shape {
        0 => spread(0.35, rng),
        1 => spread(0.7, rng),
        2 => spread(1.1, rng),
        // Mostly even, with a Pareto tail.
        3 if slow => 2.0 * tail(1.6, rng),
        3 => spread(0.4, rng),
        // A cache that is hit or missed.
        4 if i % 10 < 3 => 4.0 * spread(0.4, rng),
        4 => 0.3 * spread(0.4, rng),
        _ if slow => 4.0 * tail(2.2, rng),
        _ => spread(0.8, rng),
    }
}

fn spread(sigma: f64, rng: &mut ChaCha8Rng) -> f64 {
    LogNormal::new(0.0, sigma).map_or(1.0, |normal| normal.sample(rng))
}

/// Cut at sixty times the smallest: requests have time limits.
fn tail(alpha: f64, rng: &mut ChaCha8Rng) -> f64 {
    Pareto::new(1.0, alpha).map_or(1.0, |pareto| pareto.sample(rng).min(60.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_the_mean_one() {
        for table in TABLES.iter() {
            let mean = table.iter().map(|&v| f64::from(v)).sum::<f64>() / POINTS as f64;
            assert!((mean - 1.0).abs() < 1e-4, "{mean}");
            assert!(table.iter().all(|&v| v > 0.0));
        }
    }

    #[test]
    fn a_level_is_gathered_within_the_longest_time() {
        for shape in 0..SHAPES {
            assert!(gathered(shape, 0.1) < 0.11);
            assert!((gathered(shape, 1e6) - 1.0).abs() < 1e-4);
            assert!(gathered(shape, 1.0) < gathered(shape, 3.0));
        }
    }
}
