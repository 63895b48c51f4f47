//! A site: services with their endpoints, the pools to the server, and the
//! applications without routes.
//!
//! Rates are requests a second and times are seconds, both means on an ordinary
//! day. Invariant: the endpoints of a service stand together.

use std::ops::Range;

use rand::Rng;
use rand::seq::SliceRandom;

use super::dice::{even, log_even};
use super::scale::Scale;
use super::shapes::SHAPES;

/// Shortest and longest mean time in the database of an everyday endpoint.
const DB_TIME: Range<f64> = 0.0005..8.0;

/// Longest mean time of an endpoint outside of the database.
const LONGEST_OWN: f64 = 10.0;

/// Clients that give up and try again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Seconds after which the client gives up; the work goes on.
    pub patience: f64,
    pub chance: f64,
    pub most: u8,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub service: usize,
    pub rate: f64,
    /// Endpoints of one group go up and down together.
    pub group: usize,
    /// Mean time in the database; 0 when it has no use for it.
    pub db: f64,
    /// Mean time outside of it.
    pub own: f64,
    pub db_shape: u8,
    pub own_shape: u8,
    /// Part of the database time that is idle in transaction.
    pub in_transaction: f64,
    /// Part of it that is a wait for a row.
    pub on_row: f64,
    /// Requests come so many together.
    pub clump: u32,
    pub reported: bool,
    /// Touches what the blocker of a lock pile-up holds.
    pub locked: bool,
    pub retry: Option<Retry>,
}

/// How a service comes to its sessions.
#[derive(Debug, Clone, Copy)]
pub struct PoolPlan {
    /// A pooler is in between: it is seen who waits.
    pub pooled: bool,
    pub size: u32,
    /// Sessions kept open at least.
    pub kept: u32,
    /// Seconds after which a waiting request gives up.
    pub patience: f64,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    pub endpoints: Range<usize>,
    /// Seconds between two reports.
    pub interval: f64,
    /// Seconds that a report is under way: the least, and the spread.
    pub delay: (f64, f64),
    pub pool: PoolPlan,
    /// Requests that may run at one time.
    pub limit: Option<u32>,
}

/// An application without routes.
#[derive(Debug, Clone, Copy)]
pub struct Background {
    /// Jobs a second, and their mean duration.
    pub rate: f64,
    pub duration: f64,
    pub cron: Option<Cron>,
}

/// Something that comes again and again.
#[derive(Debug, Clone, Copy)]
pub struct Cron {
    pub period: f64,
    pub phase: f64,
    pub length: f64,
    pub sessions: u32,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Site {
    pub endpoints: Vec<Endpoint>,
    pub services: Vec<Service>,
    pub background: Vec<Background>,
    pub groups: usize,
    /// Part of the active sessions that wait for the disk.
    pub on_disk: f64,
    /// Sessions at work beyond which all get slower, and how much.
    pub capacity: f64,
    pub contention: f64,
}

impl Site {
    pub fn draw(scale: &Scale, rng: &mut impl Rng) -> Self {
        let groups = rng.random_range(4..=12);
        let count = scale.endpoints;
        let services = [1, 1, 2, 2, 3][rng.random_range(0..5)]
            .min(count / 3)
            .max(1);
        let mut site = Self {
            endpoints: Vec::with_capacity(count),
            services: Vec::with_capacity(services),
            background: Vec::new(),
            groups,
            on_disk: even(0.02, 0.3, rng),
            capacity: (scale.base + scale.extra) * even(0.7, 3.0, rng),
            contention: even(0.0, 0.5, rng),
        };
        let mut rates = zipf(count, rng);
        rates.shuffle(rng);
        let mut from = 0;
        for number in 0..services {
            let until = if number + 1 == services {
                count
            } else {
                from + (count - from) / (services - number).max(1)
            };
            for rate in &rates[from..until] {
                let endpoint = endpoint(number, rate * scale.rate, groups, rng);
                site.endpoints.push(endpoint);
            }
            site.services.push(service(from..until, rng));
            from = until;
        }
        site.ensure_proxies(rng);
        for _ in 0..rng.random_range(1..=4) {
            site.background.push(background(scale.base, rng));
        }
        site
    }

    /// At least one endpoint in a site of some size has no use for the database.
    fn ensure_proxies(&mut self, rng: &mut impl Rng) {
        if self.endpoints.len() >= 15 && self.endpoints.iter().all(|e| e.db > 0.0) {
            let at = rng.random_range(0..self.endpoints.len());
            proxy(&mut self.endpoints[at], rng);
        }
    }

    /// Stretches the database time of the endpoints that are not `fixed`, so that
    /// all together keep `base` sessions in use.
    pub fn balance(&mut self, base: f64, fixed: &[bool]) {
        let load = |endpoint: &Endpoint| endpoint.rate * endpoint.db;
        let given: f64 = self.loads(|at| fixed[at]).map(load).sum();
        let wanted = (base - given).max(0.1 * base);
        // A stretched time can meet its bound; the others then make up for it.
        for _ in 0..4 {
            let now: f64 = self.loads(|at| !fixed[at]).map(load).sum();
            if now <= 0.0 {
                return;
            }
            let factor = wanted / now;
            for (at, endpoint) in self.endpoints.iter_mut().enumerate() {
                if !fixed[at] && endpoint.db > 0.0 {
                    let db = (endpoint.db * factor).clamp(DB_TIME.start, DB_TIME.end);
                    endpoint.own = (endpoint.own * db / endpoint.db).min(LONGEST_OWN);
                    endpoint.db = db;
                }
            }
        }
    }

    fn loads(&self, chosen: impl Fn(usize) -> bool) -> impl Iterator<Item = &Endpoint> {
        let all = self.endpoints.iter().enumerate();
        all.filter(move |&(at, _)| chosen(at)).map(|(_, e)| e)
    }

    /// Gives each service a pool: mostly one with room for the incident, now and
    /// then one that is soon full.
    pub fn size_pools(&mut self, extra: f64, rng: &mut impl Rng) {
        for number in 0..self.services.len() {
            let range = self.services[number].endpoints.clone();
            let endpoints = &self.endpoints[range];
            let load: f64 = endpoints.iter().map(|e| e.rate * e.db).sum();
            let flight: f64 = endpoints.iter().map(|e| e.rate * (e.db + e.own)).sum();
            let calm = load + 5.0 * load.sqrt() + 4.0;
            let tight = rng.random_bool(0.25);
            let size = if tight {
                calm + extra * even(0.3, 0.9, rng)
            } else {
                (calm + extra) * even(1.5, 3.0, rng)
            };
            let service = &mut self.services[number];
            service.pool.size = size.ceil() as u32;
            service.pool.kept = if service.pool.pooled || rng.random_bool(0.5) {
                (0.3 * load) as u32
            } else {
                // A pool of fixed size keeps all its sessions open.
                service.pool.size
            };
            let limited = rng.random_bool(0.15);
            let limit = (flight + 6.0 * flight.sqrt() + extra * even(1.0, 2.0, rng) + 20.0).ceil();
            service.limit = limited.then_some(limit as u32);
        }
    }
}

/// Popularity, adding up to 1.
fn zipf(count: usize, rng: &mut impl Rng) -> Vec<f64> {
    let exponent = even(0.7, 1.3, rng);
    let offset = even(0.5, 4.0, rng);
    let raw = (0..count).map(|rank| (rank as f64 + offset).powf(-exponent));
    let raw: Vec<f64> = raw.collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|weight| weight / sum).collect()
}

fn endpoint(service: usize, rate: f64, groups: usize, rng: &mut impl Rng) -> Endpoint {
    let db = log_even(0.02, 4.0, rng);
    let part: f64 = rng.random();
    // Some use the database for a small part of their time.
    let own = if part < 0.15 {
        db * log_even(2.0, 15.0, rng)
    } else {
        db * log_even(0.05, 1.0, rng)
    };
    let mut endpoint = Endpoint {
        service,
        rate,
        group: rng.random_range(0..groups),
        db,
        own,
        db_shape: rng.random_range(0..SHAPES),
        own_shape: rng.random_range(0..SHAPES),
        in_transaction: if rng.random_bool(0.4) {
            even(0.0, 0.4, rng)
        } else {
            0.0
        },
        on_row: if rng.random_bool(0.06) {
            even(0.01, 0.08, rng)
        } else {
            0.0
        },
        clump: if rng.random_bool(0.15) {
            rng.random_range(2..=5)
        } else {
            1
        },
        reported: true,
        locked: false,
        retry: None,
    };
    if rng.random_bool(0.07) {
        proxy(&mut endpoint, rng);
    }
    endpoint
}

/// Makes it one that has no use for the database: a long poll, or a proxy.
pub fn proxy(endpoint: &mut Endpoint, rng: &mut impl Rng) {
    endpoint.db = 0.0;
    let long_poll = rng.random_bool(0.4) && endpoint.rate < 5.0;
    endpoint.own = if long_poll {
        even(8.0, 30.0, rng)
    } else {
        log_even(0.01, 2.0, rng)
    };
}

fn service(endpoints: Range<usize>, rng: &mut impl Rng) -> Service {
    let interval = [1.0, 5.0, 10.0, 15.0][rng.random_range(0..4)];
    Service {
        endpoints,
        interval,
        delay: (even(0.0, 4.0, rng), even(0.05, 1.0, rng)),
        pool: PoolPlan {
            pooled: rng.random_bool(0.65),
            size: 1,
            kept: 0,
            patience: log_even(10.0, 120.0, rng),
        },
        limit: None,
    }
}

fn background(base: f64, rng: &mut impl Rng) -> Background {
    let duration = log_even(2.0, 120.0, rng);
    let cron = rng.random_bool(0.5).then(|| {
        let period = [60.0, 300.0, 600.0, 900.0][rng.random_range(0..4)];
        Cron {
            period,
            phase: even(0.0, period, rng),
            length: even(5.0, 40.0, rng),
            sessions: (base * even(0.0, 0.12, rng)).ceil() as u32,
        }
    });
    Background {
        rate: even(0.1, 0.03 * base.clamp(10.0, 200.0), rng) / duration,
        duration,
        cron,
    }
}
