//! An exponentially weighted mean in real elapsed time, so that polls may come
//! late or not at all.

/// How far a mean with time constant `tau` moves towards a value that has held
/// for `dt` seconds: 1 − exp(−dt/τ). Zero for a `dt` that is not positive.
pub fn gain(dt: f64, tau: f64) -> f64 {
    if dt > 0.0 { -(-dt / tau).exp_m1() } else { 0.0 }
}

/// A mean that forgets with time constant `tau`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ewma {
    tau: f64,
    value: f64,
}

impl Ewma {
    /// `tau` in seconds.
    pub fn new(tau: f64, value: f64) -> Self {
        Self { tau, value }
    }

    /// Takes in a value that stands for the last `dt` seconds.
    pub fn update(&mut self, dt: f64, value: f64) -> f64 {
        self.value += (value - self.value) * gain(dt, self.tau);
        self.value
    }

    /// Forgets the past.
    pub fn set(&mut self, value: f64) {
        self.value = value;
    }

    pub fn value(&self) -> f64 {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_step_equals_many_short_ones() {
        let mut long = Ewma::new(10.0, 0.0);
        let mut short = long;
        long.update(8.0, 5.0);
        for _ in 0..32 {
            short.update(0.25, 5.0);
        }
        assert!((long.value() - short.value()).abs() < 1e-9);
    }

    #[test]
    fn no_time_no_change() {
        let mut mean = Ewma::new(2.0, 7.0);
        mean.update(0.0, 100.0);
        mean.update(-3.0, 100.0);
        assert_eq!(mean.value(), 7.0);
    }

    #[test]
    fn after_one_time_constant_63_percent_are_reached() {
        assert!((gain(4.0, 4.0) - 0.632).abs() < 0.001);
    }
}
