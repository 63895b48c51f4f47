//! Sessions of applications without routes: jobs that come and go.

use rand_chacha::ChaCha8Rng;

use super::dice::{log_even, poisson};
use super::plot::Plot;
use super::site::Site;

/// The sessions of all of them.
#[derive(Debug)]
pub struct Crowd {
    /// By application, when its sessions end.
    ends: Vec<Vec<f64>>,
    /// By application, sessions now.
    pub counts: Vec<u32>,
    rng: ChaCha8Rng,
}

impl Crowd {
    pub fn new(site: &Site, rng: ChaCha8Rng) -> Self {
        Self {
            ends: vec![Vec::new(); site.background.len()],
            counts: vec![0; site.background.len()],
            rng,
        }
    }

    /// Goes on to the second that begins at `t`. Answers with how many sessions
    /// were opened.
    pub fn step(&mut self, site: &Site, plot: &Plot, t: f64, wall: f64) -> u32 {
        let mut opened = 0;
        for (number, plan) in site.background.iter().enumerate() {
            let ends = &mut self.ends[number];
            ends.retain(|&end| end > t);
            let mut fresh = poisson(plan.rate, &mut self.rng);
            for _ in 0..fresh {
                let least = 0.2 * plan.duration;
                ends.push(t + log_even(least, 2.5 * plan.duration, &mut self.rng));
            }
            if let Some(cron) = plan.cron
                && (wall - cron.phase).rem_euclid(cron.period) < 1.0
            {
                fresh += cron.sessions;
                ends.extend((0..cron.sessions).map(|_| t + cron.length));
            }
            let mut count = ends.len() as u32;
            if let Some((_, sessions)) = plot.job.filter(|&(at, _)| at == number) {
                count += (plot.strength(t, 0.0) * f64::from(sessions)).round() as u32;
            }
            opened += fresh.max(count.saturating_sub(self.counts[number]));
            self.counts[number] = count;
        }
        opened
    }
}
