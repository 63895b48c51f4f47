//! How traffic goes up and down on an ordinary day: seasons, wandering, groups
//! that move together, bursts that do no harm, deployments.
//!
//! Invariants: the factors are around 1; a harmless burst adds at most
//! [`BURST_PART`] of the base to the sessions in use.

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::dice::{even, log_even, normal};
use super::site::Site;

/// The most that a harmless burst adds to the sessions in use, as a part of them.
const BURST_PART: f64 = 0.2;

/// Mean seconds between two bursts.
const BURST_EVERY: f64 = 900.0;

/// Mean seconds between two deployments of a service.
const DEPLOY_EVERY: f64 = 7_200.0;

/// Seconds of the overshoot after a deployment.
const OVERSHOOT: f64 = 20.0;

const DAY: f64 = 86_400.0;

/// Noise with a memory: an Ornstein-Uhlenbeck process, in steps of a second.
#[derive(Debug, Clone, Copy)]
struct Drift {
    keep: f64,
    sigma: f64,
    x: f64,
}

impl Drift {
    fn draw(memory: Range<f64>, sigma: Range<f64>, rng: &mut impl Rng) -> Self {
        let memory = log_even(memory.start, memory.end, rng);
        let sigma = even(sigma.start, sigma.end, rng);
        Self {
            keep: (-1.0 / memory).exp(),
            sigma,
            x: sigma * normal(rng),
        }
    }

    /// The next factor, 1 in the mean.
    fn step(&mut self, rng: &mut impl Rng) -> f64 {
        let fresh = (1.0 - self.keep * self.keep).sqrt() * self.sigma;
        self.x = self.keep * self.x + fresh * normal(rng);
        (self.x - 0.5 * self.sigma * self.sigma).exp()
    }
}

/// One endpoint has more for a moment.
#[derive(Debug, Clone, Copy)]
struct Burst {
    endpoint: usize,
    until: f64,
    factor: f64,
}

/// An endpoint that a clock calls.
#[derive(Debug, Clone, Copy)]
struct Called {
    endpoint: usize,
    period: f64,
    phase: f64,
    length: f64,
    factor: f64,
}

/// A service is started anew, replica by replica.
#[derive(Debug, Clone, Copy)]
pub struct Deploy {
    pub service: usize,
    pub until: f64,
    depth: f64,
}

/// The weather of one site.
#[derive(Debug)]
pub struct Weather {
    season: Season,
    fast: Drift,
    slow: Drift,
    groups: Vec<Drift>,
    bursts: Vec<Burst>,
    called: Vec<Called>,
    pub deploys: Vec<Deploy>,
    /// What the season is measured by: 1, or its own value at the onset, so that
    /// the site has the size that was drawn for it there.
    unit: f64,
    /// No burst and no deployment begins here.
    calm: Range<f64>,
    base: f64,
    rng: ChaCha8Rng,
}

impl Weather {
    /// `onset` in unix seconds, where there is one.
    pub fn draw(
        site: &Site,
        base: f64,
        calm: Range<f64>,
        onset: Option<f64>,
        mut rng: ChaCha8Rng,
    ) -> Self {
        let dice = &mut rng;
        let groups = (0..site.groups).map(|_| Drift::draw(20.0..400.0, 0.03..0.18, dice));
        let groups = groups.collect();
        let mut called = Vec::new();
        for _ in 0..dice.random_range(0..=3) {
            let endpoint = dice.random_range(0..site.endpoints.len());
            let period = [60.0, 300.0, 600.0, 900.0][dice.random_range(0..4)];
            called.push(Called {
                endpoint,
                period,
                phase: even(0.0, period, dice),
                length: even(3.0, 25.0, dice),
                factor: harmless(site, endpoint, base, even(2.0, 8.0, dice)),
            });
        }
        let season = Season {
            amplitude: even(0.15, 0.5, dice),
            second: even(0.0, 0.15, dice),
            phase: even(0.0, DAY, dice),
            weekend: even(0.5, 1.0, dice),
        };
        Self {
            unit: onset.map_or(1.0, |onset| season.at(onset)),
            season,
            fast: Drift::draw(3.0..15.0, 0.02..0.09, dice),
            slow: Drift::draw(200.0..900.0, 0.01..0.06, dice),
            groups,
            bursts: Vec::new(),
            called,
            deploys: Vec::new(),
            calm,
            base,
            rng,
        }
    }

    /// The rates of all endpoints in the second that begins at `t`; `wall` is
    /// the same moment in unix seconds.
    pub fn rates(&mut self, site: &Site, t: f64, wall: f64, rates: &mut [f64]) {
        self.change(site, t);
        let dice = &mut self.rng;
        let all = self.season.at(wall) / self.unit * self.fast.step(dice) * self.slow.step(dice);
        let groups: Vec<f64> = self.groups.iter_mut().map(|g| all * g.step(dice)).collect();
        for (rate, endpoint) in rates.iter_mut().zip(&site.endpoints) {
            *rate = endpoint.rate * groups[endpoint.group];
        }
        for burst in &self.bursts {
            rates[burst.endpoint] *= burst.factor;
        }
        for called in &self.called {
            if (wall - called.phase).rem_euclid(called.period) < called.length {
                rates[called.endpoint] *= called.factor;
            }
        }
        for deploy in &self.deploys {
            let factor = if t < deploy.until {
                deploy.depth
            } else {
                1.0 + 0.4 * (1.0 - deploy.depth)
            };
            let range = site.services[deploy.service].endpoints.clone();
            rates[range].iter_mut().for_each(|rate| *rate *= factor);
        }
    }

    /// Begins and ends bursts and deployments.
    fn change(&mut self, site: &Site, t: f64) {
        self.bursts.retain(|burst| burst.until > t);
        self.deploys.retain(|deploy| deploy.until + OVERSHOOT > t);
        if self.calm.contains(&t) {
            return;
        }
        let dice = &mut self.rng;
        if dice.random::<f64>() < 1.0 / BURST_EVERY {
            let endpoint = dice.random_range(0..site.endpoints.len());
            let factor = log_even(1.5, 8.0, dice);
            self.bursts.push(Burst {
                endpoint,
                until: t + log_even(5.0, 90.0, dice),
                factor: harmless(site, endpoint, self.base, factor),
            });
        }
        if self.deploys.is_empty() && dice.random::<f64>() < 1.0 / DEPLOY_EVERY {
            self.deploys.push(Deploy {
                service: dice.random_range(0..site.services.len()),
                until: t + even(10.0, 60.0, dice),
                depth: even(0.4, 0.9, dice),
            });
        }
    }
}

/// The factor, less where it would add more sessions than is harmless.
fn harmless(site: &Site, endpoint: usize, base: f64, factor: f64) -> f64 {
    let endpoint = &site.endpoints[endpoint];
    let load = endpoint.rate * endpoint.db;
    if load <= 0.0 {
        return factor;
    }
    factor.min(1.0 + BURST_PART * base / load)
}

/// Day and week.
#[derive(Debug, Clone, Copy)]
struct Season {
    amplitude: f64,
    /// Of the half day.
    second: f64,
    phase: f64,
    /// What is left at the weekend.
    weekend: f64,
}

impl Season {
    /// The factor at a unix time, around 1.
    fn at(&self, wall: f64) -> f64 {
        let wall = wall + self.phase;
        let turn = std::f64::consts::TAU * wall / DAY;
        let day = 1.0 + self.amplitude * turn.sin() + self.second * (2.0 * turn).sin();
        // From one level to the other within hours, not at a stroke.
        let week = (wall / DAY).rem_euclid(7.0);
        let off = ((week - 5.0) * 4.0).clamp(0.0, 1.0) * ((7.0 - week) * 4.0).clamp(0.0, 1.0);
        day * (1.0 - (1.0 - self.weekend) * off)
    }
}
