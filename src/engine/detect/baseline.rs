//! What is normal for one series: its level, and the size of its noise at each
//! smoothing scale.
//!
//! Learning is delayed by 64 s and clipped, so that an onset cannot poison the
//! baseline it is judged by. Counts of sessions are autocorrelated, therefore
//! the noise is measured at every scale instead of being derived from one.

use std::collections::VecDeque;

use crate::engine::stats::ewma::{Ewma, gain};
use crate::engine::stats::noise::{CLIP, Noise};
use crate::engine::stats::robust;
use crate::sample::UnixSeconds;

/// Time constants of the smoothings, seconds: the fast ones see a large step at
/// once, the slow ones a small step after a while.
pub const SCALES: [f64; 6] = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// A series, smoothed at each of [`SCALES`].
pub type Smoothed = [f64; SCALES.len()];

/// Index of the scale that the level is learnt from: 4 s.
const LEVEL_SCALE: usize = 1;

/// Values must be this old before anything is learnt from them: the slowest
/// scale has then had the time to raise the alarm.
const LEARNING_DELAY: f64 = 64.0;

/// Time constant of the level: follows a working day, not an incident.
const LEVEL_TAU: f64 = 600.0;

/// Time constant of the noise once it is well known.
const NOISE_TAU: f64 = 3600.0;

/// The same just after the warm-up, whose estimate is rough.
const FIRST_NOISE_TAU: f64 = 600.0;

/// Whole sessions are counted: noise below 1.5 at the fastest scale is only the
/// rounding of a quiet hour. Smoothing averages that away, but never below
/// [`SLOW_FLOOR`].
const FAST_FLOOR: f64 = 1.5;
const SLOW_FLOOR: f64 = 0.4;

/// Part of the level that is always counted as noise: covers the drift of a day.
const RELATIVE_NOISE: f64 = 0.03;

/// Values waiting to be old enough; more only when polls come more often than
/// every 0.06 s, and then the oldest are learnt early.
const PENDING_LIMIT: usize = 1024;

/// The smoothings of one series.
#[derive(Debug, Clone)]
pub struct Smoother([Ewma; SCALES.len()]);

impl Smoother {
    pub fn new(value: f64) -> Self {
        Self(SCALES.map(|tau| Ewma::new(tau, value)))
    }

    pub fn update(&mut self, dt: f64, value: f64) -> Smoothed {
        let mut smoothed = [0.0; SCALES.len()];
        for (mean, place) in self.0.iter_mut().zip(&mut smoothed) {
            *place = mean.update(dt, value);
        }
        smoothed
    }

    /// Lets the slow scales forget what they still remember of an incident.
    pub fn catch_up(&mut self) {
        let newest = self.0[LEVEL_SCALE].value();
        for mean in &mut self.0[LEVEL_SCALE + 1..] {
            mean.set(newest);
        }
    }
}

/// A smoothed value that is not old enough to be learnt from.
#[derive(Debug, Clone)]
struct Pending {
    t: UnixSeconds,
    dt: f64,
    smoothed: Smoothed,
}

/// Level and noise of one series.
#[derive(Debug, Clone)]
pub struct Baseline {
    level: f64,
    noise: [Noise; SCALES.len()],
    /// Seconds learnt from.
    age: f64,
    pending: VecDeque<Pending>,
}

impl Baseline {
    /// Learns from the warm-up all at once: the median is the level, the median
    /// absolute deviation the noise. A short warm-up cannot know the noise of
    /// the slow scales, so the noise of counts (a Poisson process of that level)
    /// is the least that is believed. Outliers are clipped, as they are later.
    pub fn from_warm_up(values: &[(UnixSeconds, f64)]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().map(|&(_, value)| value).collect();
        let level = robust::median(&mut sorted)?;
        let spread = robust::sigma_about(level, sorted.iter().copied());
        let clip = CLIP * spread.max(level.max(0.0).sqrt()).max(floor(0));
        let mut smoother = Smoother::new(level);
        let mut traces: Vec<Smoothed> = Vec::with_capacity(values.len());
        let mut last = values.first()?.0;
        for &(t, value) in values {
            let clipped = value.clamp(level - clip, level + clip);
            traces.push(smoother.update(t - last, clipped));
            last = t;
        }
        let noise = std::array::from_fn(|scale| {
            let seen = robust::sigma_about(level, traces.iter().map(|trace| trace[scale]));
            let poisson = (level.max(0.0) * 2.0 / (2.0 + SCALES[scale])).sqrt();
            Noise::new(seen.max(poisson))
        });
        Some(Self {
            level,
            noise,
            age: 0.0,
            pending: VecDeque::new(),
        })
    }

    pub fn level(&self) -> f64 {
        self.level
    }

    /// Seconds learnt from since the warm-up.
    pub fn age(&self) -> f64 {
        self.age
    }

    /// What one unit of z is at a scale, in units of the series.
    pub fn unit(&self, scale: usize) -> f64 {
        self.noise[scale].sigma().max(floor(scale)) + RELATIVE_NOISE * self.level.abs()
    }

    /// The largest z of the scales up to `slowest` seconds.
    pub fn z(&self, smoothed: &Smoothed, slowest: f64) -> f64 {
        (0..SCALES.len())
            .filter(|&scale| SCALES[scale] <= slowest)
            .map(|scale| (smoothed[scale] - self.level) / self.unit(scale))
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// Takes in the newest value, and learns from those that are old enough.
    pub fn learn(&mut self, t: UnixSeconds, dt: f64, smoothed: Smoothed) {
        self.pending.push_back(Pending { t, dt, smoothed });
        while let Some(oldest) = self.pending.front() {
            if t - oldest.t < LEARNING_DELAY && self.pending.len() <= PENDING_LIMIT {
                break;
            }
            if let Some(oldest) = self.pending.pop_front() {
                self.learn_now(&oldest);
            }
        }
    }

    fn learn_now(&mut self, point: &Pending) {
        let clip = CLIP * self.noise[LEVEL_SCALE].sigma().max(floor(LEVEL_SCALE));
        let step = (point.smoothed[LEVEL_SCALE] - self.level).clamp(-clip, clip);
        self.level += step * gain(point.dt, LEVEL_TAU);
        self.age += point.dt;
        let tau = self.age.clamp(FIRST_NOISE_TAU, NOISE_TAU);
        for scale in 0..SCALES.len() {
            let deviation = point.smoothed[scale] - self.level;
            self.noise[scale].update(point.dt, deviation, tau, floor(scale));
        }
    }

    /// Drops what has not been learnt yet: an incident, or a server going down.
    pub fn forget_pending(&mut self) {
        self.pending.clear();
    }

    /// Takes a new level for normal, with the noise that fits it.
    pub fn accept(&mut self, level: f64) {
        if self.level > 0.0 {
            let factor = level / self.level;
            for noise in &mut self.noise {
                noise.rescale(factor);
            }
        }
        self.level = level;
        self.pending.clear();
    }
}

fn floor(scale: usize) -> f64 {
    (FAST_FLOOR * (SCALES[0] / SCALES[scale]).sqrt()).max(SLOW_FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm(values: impl Iterator<Item = f64>) -> Baseline {
        let series: Vec<_> = values.enumerate().map(|(i, y)| (i as f64, y)).collect();
        Baseline::from_warm_up(&series).unwrap()
    }

    #[test]
    fn the_warm_up_is_robust() {
        let baseline = warm((0..120).map(|i| if i % 10 == 0 { 400.0 } else { 20.0 }));
        assert_eq!(baseline.level(), 20.0);
        assert!(baseline.unit(0) < 8.0, "{}", baseline.unit(0));
        assert!(Baseline::from_warm_up(&[]).is_none());
    }

    #[test]
    fn nothing_is_learnt_before_it_is_64_seconds_old() {
        let mut baseline = warm(std::iter::repeat_n(10.0, 120));
        for t in 0..64 {
            baseline.learn(f64::from(t), 1.0, [500.0; 6]);
        }
        assert_eq!(baseline.level(), 10.0);
        baseline.learn(64.0, 1.0, [500.0; 6]);
        assert!(baseline.level() > 10.0);
        // A minute of it is clipped to less than a session.
        for t in 65..125 {
            baseline.learn(f64::from(t), 1.0, [500.0; 6]);
        }
        assert!(baseline.level() < 12.0, "{}", baseline.level());
    }

    #[test]
    fn pending_values_are_bounded() {
        let mut baseline = warm(std::iter::repeat_n(10.0, 120));
        for i in 0..10_000 {
            baseline.learn(f64::from(i) * 1e-6, 1e-6, [10.0; 6]);
        }
        assert!(baseline.pending.len() <= PENDING_LIMIT);
    }

    #[test]
    fn an_accepted_level_widens_the_noise() {
        let mut baseline = warm((0..120).map(|i| 16.0 + f64::from(i % 7)));
        let before = baseline.noise[0].sigma();
        baseline.accept(baseline.level() * 4.0);
        assert!((baseline.noise[0].sigma() / before - 2.0).abs() < 1e-9);
    }
}
