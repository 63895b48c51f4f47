//! The size of the usual deviation of a series from its level, learnt slowly
//! and hard to fool.

use super::ewma::gain;

/// The mean absolute deviation of clipped normal noise is 0.77 σ; with values
/// that a smoothing correlates, 1.30 brings the estimate back to about σ.
const MEAN_DEVIATION_TO_SIGMA: f64 = 1.30;

/// A deviation counts for at most this many σ, so that an incident that slipped
/// in cannot widen the band quickly.
pub const CLIP: f64 = 3.0;

/// A running estimate of σ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise(f64);

impl Noise {
    /// `sigma` must not be negative.
    pub fn new(sigma: f64) -> Self {
        Self(sigma.max(0.0))
    }

    /// Takes in a deviation that stands for `dt` seconds. `floor` lets an
    /// estimate grow from nothing: below it the clip would hold it at zero.
    pub fn update(&mut self, dt: f64, deviation: f64, tau: f64, floor: f64) {
        let clipped = deviation.abs().min(CLIP * self.0.max(floor));
        self.0 += (MEAN_DEVIATION_TO_SIGMA * clipped - self.0) * gain(dt, tau);
    }

    /// The estimate for a level `factor` times as high: noise of counts grows
    /// with the root of the count.
    pub fn rescale(&mut self, factor: f64) {
        if factor.is_finite() && factor > 0.0 {
            self.0 *= factor.sqrt();
        }
    }

    pub fn sigma(&self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_the_sigma_of_uniform_noise() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut noise = Noise::new(1.0);
        for _ in 0..50_000 {
            noise.update(1.0, (random.f64() - 0.5) * 12.0, 600.0, 0.5);
        }
        let expected = 12.0 / 12f64.sqrt();
        assert!(
            (noise.sigma() / expected - 1.0).abs() < 0.2,
            "{} is not about {expected}",
            noise.sigma()
        );
    }

    #[test]
    fn one_huge_deviation_hardly_moves_it() {
        let mut noise = Noise::new(2.0);
        noise.update(1.0, 1e9, 3600.0, 0.5);
        assert!(noise.sigma() < 2.01);
    }

    #[test]
    fn grows_from_zero() {
        let mut noise = Noise::new(0.0);
        for _ in 0..20_000 {
            noise.update(1.0, 10.0, 600.0, 0.5);
        }
        assert!(noise.sigma() > 5.0);
    }
}
