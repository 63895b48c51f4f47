//! What goes wrong, and who is to blame.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::super::scenario::Family;
use super::dice::{even, log_even};
use super::rows::Held;
use super::scale::{Scale, Way};
use super::shapes;
use super::site::{Retry, Site, proxy};

/// Onsets within this time, in seconds, are steps.
const STEP: f64 = 2.0;

/// Sessions step up when [`STEP_PART`] of them are there so many seconds after
/// the onset; otherwise they gather.
const STEP_TIME: f64 = 5.0;
const STEP_PART: f64 = 0.6;

/// Requests that are held longer than this, in seconds, have no far tail: they
/// come near the time limits that clients and proxies have.
const TAILLESS: f64 = 2.0;

/// Shapes without a far tail.
const EVEN_SHAPES: u8 = 2;

/// What changes for one endpoint when the disturbance is at its full strength.
#[derive(Debug, Clone, Copy)]
pub struct Push {
    pub endpoint: usize,
    /// Seconds after the onset.
    pub after: f64,
    pub rate_factor: f64,
    /// Requests a second on top, whatever the weather.
    pub rate_more: f64,
    pub db_factor: f64,
    pub own_factor: f64,
}

impl Push {
    fn new(endpoint: usize) -> Self {
        Self {
            endpoint,
            after: 0.0,
            rate_factor: 1.0,
            rate_more: 0.0,
            db_factor: 1.0,
            own_factor: 1.0,
        }
    }
}

/// Connections opened anew, in waves.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    pub service: usize,
    pub period: f64,
    /// Sessions opened in one wave.
    pub wave: u32,
    /// Seconds that the old sessions stay.
    pub linger: f64,
}

/// Sessions taken and not given back.
#[derive(Debug, Clone, Copy)]
pub struct LeakPlot {
    pub service: usize,
    /// Sessions a second.
    pub rate: f64,
    pub in_transaction: bool,
}

/// The disturbance. Times are seconds of the simulation.
#[derive(Debug, Clone)]
pub struct Plot {
    pub onset: f64,
    pub until: f64,
    pub ramp: f64,
    pub pushes: Vec<Push>,
    /// Factors of all rates and all database times.
    pub rate_factor: f64,
    pub db_factor: f64,
    pub lock: Option<Held>,
    /// Sessions of an application without routes, and its number.
    pub job: Option<(usize, u32)>,
    pub storm: Option<Storm>,
    pub leak: Option<LeakPlot>,
    pub culprits: Vec<usize>,
    pub step: bool,
    /// Endpoints whose times and rates are not to be touched any more.
    pub fixed: Vec<bool>,
}

impl Plot {
    /// Of a time in which nothing happens.
    pub fn none(site: &Site, end: f64) -> Self {
        Self {
            onset: end,
            until: end,
            ramp: 0.0,
            pushes: Vec::new(),
            rate_factor: 1.0,
            db_factor: 1.0,
            lock: None,
            job: None,
            storm: None,
            leak: None,
            culprits: Vec::new(),
            step: false,
            fixed: vec![false; site.endpoints.len()],
        }
    }

    /// How far the disturbance is on at `t`, `after` seconds later than the
    /// onset, 0 to 1.
    pub fn strength(&self, t: f64, after: f64) -> f64 {
        let since = t - self.onset - after;
        if since < 0.0 || t >= self.until {
            0.0
        } else if self.ramp <= 0.0 {
            1.0
        } else {
            (since / self.ramp).min(1.0)
        }
    }

    /// Draws the disturbance of a family, which begins at `onset`, and fits the
    /// site to it.
    pub fn draw(
        family: Family,
        site: &mut Site,
        scale: &Scale,
        onset: f64,
        rng: &mut impl Rng,
    ) -> Self {
        let mut plot = Self::none(site, onset + scale.after);
        plot.onset = onset;
        plot.until -= even(0.0, 20.0, rng);
        plot.ramp = if rng.random_bool(0.7) {
            even(0.0, STEP, rng)
        } else {
            log_even(10.0, 60.0, rng)
        };
        let mut cast = Casting {
            site,
            scale,
            plot,
            gathered: 1.0,
            rng,
        };
        cast.stage(family);
        let Casting {
            mut plot, gathered, ..
        } = cast;
        let steps = !matches!(
            family,
            Family::LockPileup | Family::ReconnectStormAfterDeploy | Family::Leak | Family::Quiet
        );
        plot.step = steps && plot.ramp <= STEP && gathered >= STEP_PART;
        plot
    }
}

/// Gives the endpoints their parts.
struct Casting<'a, R> {
    site: &'a mut Site,
    scale: &'a Scale,
    plot: Plot,
    /// The part of the slowest culprit's sessions that is there in
    /// [`STEP_TIME`].
    gathered: f64,
    rng: &'a mut R,
}

impl<R: Rng> Casting<'_, R> {
    fn stage(&mut self, family: Family) {
        let extra = self.scale.extra;
        match family {
            Family::Quiet => {
                self.plot.onset = self.plot.until;
            }
            Family::RareHeavyEndpoint
            | Family::MidsizeSurge
            | Family::HoldUp
            | Family::RareHoldUp
            | Family::WeakSpike => self.lead(self.scale.way, extra),
            Family::LateData => {
                self.lead(self.scale.way, extra);
                self.delay_reports();
            }
            Family::Confounded => {
                self.lead(self.scale.way, extra);
                self.risers();
            }
            Family::HarmlessSlow => {
                self.lead(self.scale.way, extra);
                self.proxies();
            }
            Family::TwoCulprits => self.two(extra),
            Family::Flow => self.flow(extra),
            Family::LongHolds => self.long_holds(extra),
            Family::RetryStorm => self.retry_storm(extra),
            Family::NewEndpoint => self.newcomer(extra, false),
            Family::UnreportedEndpoint => self.newcomer(extra, true),
            Family::LockPileup => self.lock(extra),
            Family::SlowDatabase => {
                self.plot.db_factor = 1.0 + (extra / self.scale.base).min(3.0);
            }
            Family::BroadSurge => {
                self.plot.rate_factor = 1.0 + (extra / self.scale.base).min(2.5);
            }
            Family::OtherApplication => {
                let number = self.rng.random_range(0..self.site.background.len());
                self.plot.job = Some((number, extra.round() as u32));
            }
            Family::ReconnectStormAfterDeploy => self.storm(extra),
            Family::Leak => {
                self.plot.leak = Some(LeakPlot {
                    service: self.rng.random_range(0..self.site.services.len()),
                    rate: 1.4 * extra / self.scale.after,
                    in_transaction: self.rng.random_bool(0.5),
                });
            }
        }
    }

    /// An endpoint that has no part yet.
    fn pick(&mut self) -> usize {
        let free: Vec<usize> = (0..self.site.endpoints.len())
            .filter(|&at| !self.plot.fixed[at])
            .collect();
        let at = free.choose(self.rng).copied().unwrap_or(0);
        self.plot.fixed[at] = true;
        at
    }

    /// Blames an endpoint, whose sessions are held for `hold` seconds then.
    fn blame(&mut self, at: usize, hold: f64) {
        let endpoint = &mut self.site.endpoints[at];
        if hold > TAILLESS {
            endpoint.db_shape %= EVEN_SHAPES;
        }
        let gathered = shapes::gathered(endpoint.db_shape, STEP_TIME / hold);
        self.gathered = self.gathered.min(gathered);
        self.plot.culprits.push(at);
    }

    /// Makes an endpoint what its part asks for.
    fn cast(&mut self, at: usize, rate: f64, db: f64) {
        let own = db * log_even(0.02, 0.5, self.rng);
        let endpoint = &mut self.site.endpoints[at];
        endpoint.rate = rate;
        endpoint.db = db;
        endpoint.own = own;
    }

    /// A culprit with so many extra sessions.
    fn lead(&mut self, way: Way, extra: f64) {
        match way {
            Way::RareHeavy => self.rare_heavy(extra),
            Way::Midsize => self.midsize(extra),
            Way::HoldUp => {
                let part = log_even(0.02, 0.2, self.rng);
                self.hold_up(extra, part * self.scale.rate, 3.0..30.0);
            }
            Way::RareHoldUp => {
                let part = log_even(0.004, 0.009, self.rng);
                let rate = (part * self.scale.rate).max(extra / 22.0);
                self.hold_up(extra, rate, 4.0..30.0);
            }
        }
    }

    fn rare_heavy(&mut self, extra: f64) {
        let part = log_even(0.008, 0.022, self.rng);
        let more = (part * self.scale.rate).clamp(extra / 14.0, extra / 0.2);
        let hold = extra / more;
        let rate = more / log_even(4.0, 30.0, self.rng);
        self.surge(rate, hold, more);
    }

    fn midsize(&mut self, extra: f64) {
        let rate = log_even(0.03, 0.12, self.rng) * self.scale.rate;
        // The endpoint's own base is no more than half of all.
        let least = (1.0 + 2.0 * extra / self.scale.base).max(2.0);
        let factor = (least * even(1.0, 1.5, self.rng)).min(10.0);
        let rate = rate.min(0.35 * self.scale.rate / factor);
        let more = (factor - 1.0) * rate;
        self.surge(rate, extra / more, more);
    }

    fn surge(&mut self, rate: f64, hold: f64, more: f64) {
        let at = self.pick();
        self.cast(at, rate, hold);
        self.plot.pushes.push(Push {
            rate_more: more,
            ..Push::new(at)
        });
        self.blame(at, hold);
    }

    fn hold_up(&mut self, extra: f64, rate: f64, factors: std::ops::Range<f64>) {
        // Half of the base at the most, before it gets slow.
        let least = (1.0 + 2.0 * extra / self.scale.base).max(factors.start);
        let factor = log_even(least, factors.end.max(least), self.rng);
        let before = extra / (factor - 1.0) / rate;
        let at = self.pick();
        self.cast(at, rate, before);
        self.plot.pushes.push(Push {
            db_factor: factor,
            ..Push::new(at)
        });
        self.blame(at, before * factor);
    }

    fn two(&mut self, extra: f64) {
        let part = even(0.45, 0.62, self.rng);
        self.lead(self.scale.way, part * extra);
        let other = [Way::RareHeavy, Way::Midsize, Way::HoldUp][self.rng.random_range(0..3)];
        self.lead(other, (1.0 - part) * extra);
        if let Some(push) = self.plot.pushes.last_mut() {
            push.after = even(0.0, 8.0, self.rng);
        }
    }

    /// Harmless endpoints that rise with the culprit: quick ones.
    fn risers(&mut self) {
        let count = self.rng.random_range(3..=8);
        for _ in 0..count {
            let at = self.pick();
            let factor = log_even(1.5, 4.0, self.rng);
            let endpoint = &self.site.endpoints[at];
            let most = 0.12 * self.scale.extra / f64::from(count);
            let db = endpoint
                .db
                .min(most / ((factor - 1.0) * endpoint.rate).max(1e-6));
            self.cast(at, self.site.endpoints[at].rate, db);
            self.plot.pushes.push(Push {
                rate_factor: factor,
                ..Push::new(at)
            });
        }
    }

    /// Endpoints without use of the database that get slow, and perhaps more.
    fn proxies(&mut self) {
        for _ in 0..self.rng.random_range(1..=3) {
            let at = self.pick();
            let own = 0.2 * self.scale.base / self.site.endpoints[at].rate.max(0.05);
            let endpoint = &mut self.site.endpoints[at];
            proxy(endpoint, self.rng);
            endpoint.own = own.clamp(0.05, 12.0);
            let both = self.rng.random_bool(0.5);
            self.plot.pushes.push(Push {
                own_factor: log_even(2.0, 6.0, self.rng),
                rate_factor: if both { even(1.2, 2.5, self.rng) } else { 1.0 },
                ..Push::new(at)
            });
        }
    }

    fn flow(&mut self, extra: f64) {
        let steps = self.rng.random_range(3..=7);
        let factor = log_even(2.5, 6.0, self.rng);
        let heavy = even(0.6, 0.8, self.rng);
        let others: Vec<f64> = (1..steps).map(|_| even(0.2, 1.0, self.rng)).collect();
        let all: f64 = others.iter().sum();
        let entry = log_even(0.01, 0.04, self.rng) * self.scale.rate;
        let mut parts: Vec<f64> = others.iter().map(|o| (1.0 - heavy) * o / all).collect();
        // Nobody else comes near it.
        parts
            .iter_mut()
            .for_each(|part| *part = part.min(0.3 * heavy));
        parts.insert(0, heavy);
        for (place, part) in parts.into_iter().enumerate() {
            let rate = entry * even(0.4, 1.0, self.rng);
            let hold = part * extra / ((factor - 1.0) * rate);
            let at = self.pick();
            self.cast(at, rate, hold);
            self.plot.pushes.push(Push {
                rate_factor: factor,
                ..Push::new(at)
            });
            if place == 0 {
                self.blame(at, hold);
            }
        }
    }

    fn long_holds(&mut self, extra: f64) {
        let hold = log_even(8.0, 40.0, self.rng);
        let more = extra / hold;
        let rate = more / log_even(3.0, 20.0, self.rng);
        self.surge(rate, hold, more);
    }

    fn retry_storm(&mut self, extra: f64) {
        // Each request is sent about twice.
        let sent = 1.9;
        let rate = log_even(0.02, 0.1, self.rng) * self.scale.rate;
        let rate = rate.clamp(extra / sent / 20.0, extra / sent / 1.5);
        let hold = extra / (sent * rate);
        let before = hold / log_even(5.0, 20.0, self.rng);
        let at = self.pick();
        self.cast(at, rate, before);
        let endpoint = &mut self.site.endpoints[at];
        endpoint.retry = Some(Retry {
            patience: 0.6 * hold,
            chance: 0.85,
            most: 2,
        });
        // Even times: all of them are over the clients' patience.
        endpoint.db_shape = 0;
        self.plot.pushes.push(Push {
            db_factor: hold / before,
            ..Push::new(at)
        });
        self.blame(at, hold);
    }

    /// One that nobody called before, or one that nobody tells of.
    fn newcomer(&mut self, extra: f64, hidden: bool) {
        let hold = log_even((4.0 * extra / self.scale.rate).max(0.15), 5.0, self.rng);
        let more = extra / hold;
        let was_there = hidden && self.rng.random_bool(0.5);
        let rate = if was_there {
            more / log_even(4.0, 20.0, self.rng)
        } else {
            0.0
        };
        self.surge(rate, hold, more);
        if hidden && let Some(at) = self.plot.culprits.pop() {
            self.site.endpoints[at].reported = false;
        }
    }

    fn lock(&mut self, extra: f64) {
        // The pile is there after a minute, and no endpoint makes most of it.
        let wanted = extra / 60.0;
        let mut order: Vec<usize> = (0..self.site.endpoints.len())
            .filter(|&at| self.site.endpoints[at].db > 0.0)
            .collect();
        order.shuffle(self.rng);
        let rate = |site: &Site, at: usize| site.endpoints[at].rate;
        // The small ones first: they need not be many where all are larger.
        order.sort_by_key(|&at| rate(self.site, at) > 0.5 * wanted);
        let small = order.partition_point(|&at| rate(self.site, at) <= 0.5 * wanted);
        order[small..].sort_by(|&a, &b| rate(self.site, a).total_cmp(&rate(self.site, b)));
        let mut sum = 0.0;
        for (count, at) in order.into_iter().enumerate() {
            if sum >= wanted && count >= 4 {
                break;
            }
            sum += rate(self.site, at);
            self.site.endpoints[at].locked = true;
        }
        self.plot.ramp = 0.0;
        let held = [Held::Table, Held::Row];
        self.plot.lock = held.choose(self.rng).copied();
    }

    fn storm(&mut self, extra: f64) {
        self.plot.storm = Some(Storm {
            service: self.rng.random_range(0..self.site.services.len()),
            period: even(4.0, 15.0, self.rng),
            wave: (extra * even(0.4, 0.9, self.rng)).round() as u32,
            linger: even(6.0, 25.0, self.rng),
        });
    }

    fn delay_reports(&mut self) {
        for service in &mut self.site.services {
            service.delay = (even(15.0, 40.0, self.rng), even(0.2, 3.0, self.rng));
        }
    }
}
