//! Draws that are needed everywhere.

use rand::Rng;

/// Even between two bounds, on a logarithmic scale.
pub fn log_even(least: f64, most: f64, rng: &mut impl Rng) -> f64 {
    if most <= least {
        return least;
    }
    (least.ln() + rng.random::<f64>() * (most / least).ln()).exp()
}

/// Even between two bounds.
pub fn even(least: f64, most: f64, rng: &mut impl Rng) -> f64 {
    least + rng.random::<f64>() * (most - least)
}

/// How many of a Poisson process fall into a span in which `mean` are expected.
pub fn poisson(mean: f64, rng: &mut impl Rng) -> u32 {
    if mean <= 0.0 {
        return 0;
    }
    let mut left: f64 = rng.random();
    // Most endpoints are rare: e^-x is at least 1 - x.
    if left < 1.0 - mean {
        return 0;
    }
    if mean > 60.0 {
        let drawn = mean + mean.sqrt() * normal(rng);
        return drawn.round().max(0.0) as u32;
    }
    let mut chance = (-mean).exp();
    let mut count = 0;
    while left > chance && count < 1_000 {
        left -= chance;
        count += 1;
        chance *= mean / f64::from(count);
    }
    count
}

/// How many of `count` are drawn, each with the same chance.
pub fn binomial(count: u32, chance: f64, rng: &mut impl Rng) -> u32 {
    if chance <= 0.0 || count == 0 {
        return 0;
    }
    let mean = f64::from(count) * chance;
    if count > 200 && mean > 20.0 {
        let deviation = (mean * (1.0 - chance)).max(0.0).sqrt();
        let drawn = mean + deviation * normal(rng);
        return (drawn.round().max(0.0) as u32).min(count);
    }
    (0..count).filter(|_| rng.random::<f64>() < chance).count() as u32
}

/// With mean 0 and deviation 1 (Box and Muller).
pub fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn draws_have_their_means() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for mean in [0.01, 0.4, 3.0, 40.0, 90.0] {
            let sum: f64 = (0..40_000)
                .map(|_| f64::from(poisson(mean, &mut rng)))
                .sum();
            let found = sum / 40_000.0;
            assert!(
                (found - mean).abs() < 5.0 * (mean / 40_000.0).sqrt(),
                "{mean}: {found}"
            );
        }
        for (count, chance) in [(10, 0.3), (1_000, 0.5), (300, 0.001)] {
            let sum: f64 = (0..5_000)
                .map(|_| f64::from(binomial(count, chance, &mut rng)))
                .sum();
            let mean = f64::from(count) * chance;
            assert!((sum / 5_000.0 - mean).abs() < 5.0 * (mean / 5_000.0).sqrt());
        }
    }
}
