//! The course of a simulation: weather, requests and looks, second by second.

use std::ops::Range;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::crowd::Crowd;
use super::frame::{Frame, Mood};
use super::plant::Plant;
use super::plot::Plot;
use super::probe::{Beside, Probes};
use super::rows::Held;
use super::site::Site;
use super::weather::Weather;
use super::wheel::SLOTS;
use crate::sample::UnixSeconds;

/// Seconds before the first sample, in which the plant fills: longer than the
/// mean of any request.
pub const WARM_UP: f64 = 120.0;

/// Part of the sessions that wait for the disk while it is slow.
const SLOW_DISK: f64 = 0.8;

/// A simulation at work. Its time begins at 0.
pub struct Course {
    pub site: Site,
    pub plot: Plot,
    pub plant: Plant,
    pub probes: Probes,
    weather: Weather,
    crowd: Crowd,
    /// Unix time of 0.
    start: UnixSeconds,
    second: u64,
    next_wave: f64,
}

/// The random numbers of one concern, so that none hangs on how many another
/// one drew.
pub fn stream(seed: u64, concern: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(concern);
    rng
}

impl Course {
    /// `calm`: the times before an incident in which no burst begins.
    pub fn new(
        site: Site,
        plot: Plot,
        base: f64,
        start: UnixSeconds,
        calm: Range<f64>,
        seed: u64,
    ) -> Self {
        let onset = (!calm.is_empty()).then_some(start + plot.onset);
        let weather = Weather::draw(&site, base, calm, onset, stream(seed, 2));
        let plant = Plant::new(&site, stream(seed, 3));
        let probes = Probes::new(&site, start, stream(seed, 4));
        let crowd = Crowd::new(&site, stream(seed, 5));
        Self {
            next_wave: plot.onset,
            site,
            plot,
            plant,
            probes,
            weather,
            crowd,
            start,
            second: 0,
        }
    }

    /// Seconds that are over.
    pub fn now(&self) -> f64 {
        self.second as f64
    }

    /// Sessions of the applications without routes.
    #[cfg(test)]
    pub fn background(&self) -> u32 {
        self.crowd.counts.iter().sum()
    }

    /// Lets one second pass.
    pub fn step(&mut self) {
        let t = self.now();
        let wall = self.start + t;
        self.weather
            .rates(&self.site, t, wall, &mut self.plant.rates);
        self.plant.disturb(&self.plot, t);
        self.plant.arrivals(&self.site, t);
        self.plant.tend(&self.site, t);
        self.plant.opened += u64::from(self.crowd.step(&self.site, &self.plot, t, wall));
        self.connect(t);
        let on = self.plot.strength(t, 0.0);
        let slow_disk = if self.plot.db_factor > 1.0 { on } else { 0.0 };
        let blocked = self.plot.lock.filter(|_| on > 0.0);
        let beside = Beside {
            background: &self.crowd.counts,
            blocker: blocked.map(|held| match held {
                Held::Table => (self.site.services.len() as u16, true, Mood::OnTable),
                Held::Row => (self.site.services.len() as u16, false, Mood::OnRow),
            }),
            leaks_transactions: self.plot.leak.is_some_and(|leak| leak.in_transaction),
            on_disk: self.site.on_disk + slow_disk * (SLOW_DISK - self.site.on_disk),
        };
        for _ in 0..SLOTS {
            self.probes.look(&self.site, &mut self.plant, &beside);
            self.plant.step(&self.site);
        }
        self.second += 1;
    }

    /// Deployments, storms and leaks open sessions.
    fn connect(&mut self, t: f64) {
        for deploy in &self.weather.deploys {
            if (t..t + 1.0).contains(&deploy.until) {
                let open = self.plant.pools[deploy.service].open;
                self.plant.reconnect(deploy.service, open, t + 3.0);
            }
        }
        if let Some(storm) = self.plot.storm
            && t >= self.next_wave
            && t < self.plot.until
        {
            self.plant
                .reconnect(storm.service, storm.wave, t + storm.linger);
            self.next_wave = t + storm.period;
        }
        if let Some(leak) = self.plot.leak
            && self.plot.strength(t, 0.0) > 0.0
        {
            self.plant.leak(leak.service, leak.rate);
        }
    }

    /// The frames that the daemon has by now, in the order of their times.
    pub fn frames(&mut self) -> Vec<Frame> {
        self.frames_until(self.start + self.now())
    }

    /// The frames until a time, and those still under way stay.
    pub fn frames_until(&mut self, until: UnixSeconds) -> Vec<Frame> {
        let frames = &mut self.probes.frames;
        frames.sort_by(|a, b| a.t.total_cmp(&b.t));
        let over = frames.partition_point(|frame| frame.t < until);
        frames.drain(..over).collect()
    }
}
