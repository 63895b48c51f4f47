//! An episode of a series out of its band, from the alarm to calm or to a level
//! that has become normal.

use std::collections::VecDeque;

use crate::engine::stats::robust;
use crate::sample::UnixSeconds;

/// A level is steady when its five-minute means of an hour lie this close
/// together, as a part of their median.
const STEADY: f64 = 0.2;
const BLOCK_SECONDS: f64 = 300.0;
const BLOCKS: usize = 12;

/// From the alarm to calm or to a new normal.
#[derive(Debug, Clone)]
pub struct Episode {
    pub onset_at: UnixSeconds,
    /// Since when it has been under the band.
    pub calm_since: Option<UnixSeconds>,
    /// Means of five minutes each, of the last hour.
    blocks: VecDeque<f64>,
    block_start: UnixSeconds,
    sum: f64,
    samples: f64,
}

impl Episode {
    pub fn new(onset_at: UnixSeconds, now: UnixSeconds) -> Self {
        Self {
            onset_at,
            calm_since: None,
            blocks: VecDeque::with_capacity(BLOCKS),
            block_start: now,
            sum: 0.0,
            samples: 0.0,
        }
    }

    /// Takes in the value at `t`.
    pub fn record(&mut self, t: UnixSeconds, y: f64) {
        if t - self.block_start >= BLOCK_SECONDS && self.samples > 0.0 {
            if self.blocks.len() >= BLOCKS {
                self.blocks.pop_front();
            }
            self.blocks.push_back(self.sum / self.samples);
            self.block_start = t;
            self.sum = 0.0;
            self.samples = 0.0;
        }
        self.sum += y;
        self.samples += 1.0;
    }

    /// The level of the last hour, when it has held.
    pub fn steady_level(&self, t: UnixSeconds) -> Option<f64> {
        if self.blocks.len() < BLOCKS || t > self.block_start {
            return None;
        }
        let mut sorted: Vec<f64> = self.blocks.iter().copied().collect();
        let level = robust::median(&mut sorted)?;
        let spread = sorted.last()? - sorted.first()?;
        (spread <= STEADY * level.abs()).then_some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first second at which the level counts as steady.
    fn steady(seconds: u32, y: impl Fn(u32) -> f64) -> Option<(u32, f64)> {
        let mut episode = Episode::new(0.0, 0.0);
        (0..seconds).find_map(|t| {
            episode.record(f64::from(t), y(t));
            let level = episode.steady_level(f64::from(t))?;
            Some((t, level))
        })
    }

    #[test]
    fn an_hour_on_one_level_is_steady() {
        let found = steady(7200, |t| 40.0 + f64::from(t % 5) - 2.0);
        assert_eq!(found, Some((3600, 40.0)));
    }

    #[test]
    fn a_level_that_moves_is_not() {
        assert_eq!(
            steady(20_000, |t| 40.0 * (f64::from(t) / 10_000.0).exp()),
            None
        );
        assert_eq!(steady(3600, |_| 40.0), None);
    }

    #[test]
    fn it_is_steady_an_hour_after_it_settled() {
        let (at, level) = steady(20_000, |t| if t < 2000 { 400.0 } else { 40.0 }).unwrap();
        assert!((5600..6000).contains(&at), "{at}");
        assert_eq!(level, 40.0);
    }
}
