//! The machine: requests that come, wait for a session, use it, and end.
//!
//! Little is assumed of the result: what is seen in use, waiting and ended
//! follows from arrivals and times alone. Invariants: every request that came
//! has ended, was refused, or runs; a session in use belongs to one request.

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::dice::poisson;
use super::plot::Plot;
use super::shapes;
use super::site::Site;
use super::wheel::{SLOTS, Wheel, slot};

/// Seconds that it takes to refuse a request.
const REFUSAL: f64 = 0.002;

/// The most that contention stretches a statement.
const MOST_SLOWED: f64 = 2.5;

/// Seconds over which the requests of one clump are spread.
const CLUMP_SPAN: f64 = 0.5;

/// Part of the time outside of the database that comes before it.
const BEFORE: f64 = 0.4;

/// Part of the idle sessions closed each second: they are idle for ten minutes.
const IDLE_CLOSED: f64 = 1.0 / 600.0;

/// Part of them opened anew each second: the life of a session is an hour
/// (`server_lifetime` of PgBouncer).
const RENEWED: f64 = 1.0 / 3_600.0;

/// Seconds from one slot to the next.
pub const SLOT: f64 = 1.0 / SLOTS as f64;

/// What happens next to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Arrives,
    /// Wants a session.
    Asks,
    /// Gives it back.
    Leaves,
    Ends,
}

impl Stage {
    fn event(self, id: u32) -> u32 {
        id << 2 | self as u32
    }

    fn of(event: u32) -> (Self, u32) {
        let stage = match event & 3 {
            0 => Self::Arrives,
            1 => Self::Asks,
            2 => Self::Leaves,
            _ => Self::Ends,
        };
        (stage, event >> 2)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Request {
    arrived: f64,
    /// Of its next stage; of the wait while it waits.
    t: f64,
    db: f64,
    after: f64,
    endpoint: u32,
    tries: u8,
}

/// The sessions of one service.
#[derive(Debug, Default)]
pub struct SessionPool {
    size: u32,
    kept: u32,
    patience: f64,
    pub in_use: u32,
    /// Sessions that are open, in use or not.
    pub open: u32,
    pub waiting: VecDeque<u32>,
    /// Old sessions that are not closed yet: how many, until when.
    pub old: Vec<(u32, f64)>,
    /// Sessions that were not given back.
    pub leaked: f64,
    /// Statements that set a new session up.
    pub starting: u32,
    pub transactions: u64,
    pub transaction_time: f64,
    pub wait_time: f64,
}

/// Everything that runs.
pub struct Plant {
    wheel: Wheel,
    requests: Vec<Request>,
    free: Vec<u32>,
    todo: Vec<(Stage, u32, f64)>,
    pub pools: Vec<SessionPool>,
    /// Sessions opened since the server started.
    pub opened: u64,
    /// By endpoint: sessions in use, those of them that are stuck behind a lock,
    /// and requests that run.
    pub in_database: Vec<u32>,
    pub stuck_by_endpoint: Vec<u32>,
    pub running: Vec<u32>,
    running_by_service: Vec<u32>,
    /// Requests behind a lock, in the order of their coming.
    stuck: Vec<u32>,
    /// Factors of this second.
    pub rates: Vec<f64>,
    db_factor: Vec<f64>,
    own_factor: Vec<f64>,
    is_locked: bool,
    /// Since the last report, by endpoint.
    pub ended: Vec<u32>,
    pub duration: Vec<f64>,
    /// Since the beginning.
    pub came: u64,
    pub went: u64,
    rng: ChaCha8Rng,
}

impl Plant {
    pub fn new(site: &Site, rng: ChaCha8Rng) -> Self {
        let count = site.endpoints.len();
        let pools = site.services.iter().map(|service| SessionPool {
            size: service.pool.size,
            kept: service.pool.kept,
            patience: service.pool.patience,
            open: service.pool.kept,
            ..SessionPool::default()
        });
        Self {
            wheel: Wheel::new(),
            requests: Vec::new(),
            free: Vec::new(),
            todo: Vec::new(),
            pools: pools.collect(),
            opened: 10_000,
            in_database: vec![0; count],
            stuck_by_endpoint: vec![0; count],
            running: vec![0; count],
            running_by_service: vec![0; site.services.len()],
            stuck: Vec::new(),
            rates: vec![0.0; count],
            db_factor: vec![1.0; count],
            own_factor: vec![1.0; count],
            is_locked: false,
            ended: vec![0; count],
            duration: vec![0.0; count],
            came: 0,
            went: 0,
            rng,
        }
    }

    /// The slot that comes next.
    pub fn now(&self) -> u64 {
        self.wheel.now()
    }

    /// Sets what the disturbance changes, in the second that begins at `t`.
    pub fn disturb(&mut self, plot: &Plot, t: f64) {
        let all = plot.strength(t, 0.0);
        let slower = 1.0 + all * (plot.db_factor - 1.0);
        self.db_factor.fill(slower);
        self.own_factor.fill(1.0);
        let more = 1.0 + all * (plot.rate_factor - 1.0);
        if more != 1.0 {
            self.rates.iter_mut().for_each(|rate| *rate *= more);
        }
        for push in &plot.pushes {
            let on = plot.strength(t, push.after);
            let at = push.endpoint;
            self.rates[at] *= 1.0 + on * (push.rate_factor - 1.0);
            self.rates[at] += on * push.rate_more;
            self.db_factor[at] *= 1.0 + on * (push.db_factor - 1.0);
            self.own_factor[at] *= 1.0 + on * (push.own_factor - 1.0);
        }
        self.is_locked = plot.lock.is_some() && all > 0.0;
        if !self.is_locked {
            self.release(t);
        }
    }

    /// Everybody behind the lock goes on.
    fn release(&mut self, t: f64) {
        for id in std::mem::take(&mut self.stuck) {
            let request = &mut self.requests[id as usize];
            self.stuck_by_endpoint[request.endpoint as usize] -= 1;
            let end = t + request.db;
            self.later(Stage::Leaves, id, end);
        }
    }

    /// Lets the requests of the second that begins at `t` come.
    pub fn arrivals(&mut self, site: &Site, t: f64) {
        for (at, endpoint) in site.endpoints.iter().enumerate() {
            let clump = endpoint.clump;
            for _ in 0..poisson(self.rates[at] / f64::from(clump), &mut self.rng) {
                let when = t + self.rng.random::<f64>();
                self.come(at as u32, when, 0);
                for _ in 1..clump {
                    let next = when + CLUMP_SPAN * self.rng.random::<f64>();
                    self.come(at as u32, next, 0);
                }
            }
        }
    }

    fn come(&mut self, endpoint: u32, t: f64, tries: u8) {
        let request = Request {
            arrived: t,
            t,
            endpoint,
            tries,
            ..Request::default()
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.requests[id as usize] = request;
                id
            }
            None => {
                self.requests.push(request);
                (self.requests.len() - 1) as u32
            }
        };
        self.wheel.put(slot(t), Stage::Arrives.event(id));
    }

    /// Lets everything happen that is due in the next slot.
    pub fn step(&mut self, site: &Site) {
        let list = self.wheel.take();
        for &event in &list {
            let (stage, id) = Stage::of(event);
            let t = self.requests[id as usize].t;
            self.todo.push((stage, id, t));
            while let Some((stage, id, t)) = self.todo.pop() {
                match stage {
                    Stage::Arrives => self.arrive(site, id, t),
                    Stage::Asks => self.ask(site, id, t),
                    Stage::Leaves => self.leave(site, id, t),
                    Stage::Ends => self.end(site, id, t),
                }
            }
        }
        self.wheel.advance(list);
    }

    fn later(&mut self, stage: Stage, id: u32, t: f64) {
        if slot(t) <= self.wheel.now() {
            self.todo.push((stage, id, t));
        } else {
            self.requests[id as usize].t = t;
            self.wheel.put(slot(t), stage.event(id));
        }
    }

    fn arrive(&mut self, site: &Site, id: u32, t: f64) {
        let at = self.requests[id as usize].endpoint as usize;
        let endpoint = &site.endpoints[at];
        let service = endpoint.service;
        self.came += 1;
        if site.services[service]
            .limit
            .is_some_and(|limit| self.running_by_service[service] >= limit)
        {
            self.count(at, REFUSAL);
            self.free.push(id);
            return;
        }
        self.running[at] += 1;
        self.running_by_service[service] += 1;
        let own =
            endpoint.own * self.own_factor[at] * shapes::draw(endpoint.own_shape, &mut self.rng);
        if endpoint.db <= 0.0 {
            self.later(Stage::Ends, id, t + own);
            return;
        }
        let request = &mut self.requests[id as usize];
        request.db = endpoint.db * shapes::draw(endpoint.db_shape, &mut self.rng);
        request.after = (1.0 - BEFORE) * own;
        self.later(Stage::Asks, id, t + BEFORE * own);
    }

    fn ask(&mut self, site: &Site, id: u32, t: f64) {
        let at = self.requests[id as usize].endpoint as usize;
        let pool = &mut self.pools[site.endpoints[at].service];
        if pool.in_use + (pool.leaked as u32) < pool.size {
            self.begin(site, id, t);
        } else {
            self.requests[id as usize].t = t;
            pool.waiting.push_back(id);
        }
    }

    /// A request has its session.
    fn begin(&mut self, site: &Site, id: u32, t: f64) {
        let slowed = self.slowed(site);
        let request = &mut self.requests[id as usize];
        let at = request.endpoint as usize;
        let endpoint = &site.endpoints[at];
        let pool = &mut self.pools[endpoint.service];
        pool.in_use += 1;
        if pool.in_use > pool.open {
            pool.open = pool.in_use;
            self.opened += 1;
        }
        self.in_database[at] += 1;
        request.db *= self.db_factor[at] * slowed;
        let end = t + request.db;
        pool.transactions += 1;
        pool.transaction_time += request.db;
        if self.is_locked && endpoint.locked {
            request.t = t;
            self.stuck_by_endpoint[at] += 1;
            self.stuck.push(id);
            return;
        }
        let (arrived, tries) = (request.arrived, request.tries);
        let takes = end + request.after - arrived;
        self.later(Stage::Leaves, id, end);
        if let Some(retry) = endpoint.retry
            && takes > retry.patience
            && tries < retry.most
            && self.rng.random::<f64>() < retry.chance
        {
            self.come(at as u32, (arrived + retry.patience).max(t), tries + 1);
        }
    }

    /// How much longer statements take because of all the others.
    fn slowed(&self, site: &Site) -> f64 {
        if site.contention <= 0.0 {
            return 1.0;
        }
        let at_work: u32 = self.pools.iter().map(|pool| pool.in_use).sum();
        let at_work = f64::from(at_work) - self.stuck.len() as f64;
        let over = (at_work / site.capacity - 1.0).max(0.0);
        (1.0 + site.contention * over).min(MOST_SLOWED)
    }

    fn leave(&mut self, site: &Site, id: u32, t: f64) {
        let request = self.requests[id as usize];
        let at = request.endpoint as usize;
        self.in_database[at] -= 1;
        let pool = &mut self.pools[site.endpoints[at].service];
        pool.in_use -= 1;
        self.later(Stage::Ends, id, t + request.after);
        let pool = &mut self.pools[site.endpoints[at].service];
        if pool.in_use + (pool.leaked as u32) < pool.size
            && let Some(next) = pool.waiting.pop_front()
        {
            pool.wait_time += (t - self.requests[next as usize].t).max(0.0);
            self.begin(site, next, t);
        }
    }

    fn end(&mut self, site: &Site, id: u32, t: f64) {
        let request = self.requests[id as usize];
        let at = request.endpoint as usize;
        self.running[at] -= 1;
        self.running_by_service[site.endpoints[at].service] -= 1;
        self.count(at, (t - request.arrived).max(0.0));
        self.free.push(id);
    }

    fn count(&mut self, at: usize, duration: f64) {
        self.went += 1;
        self.ended[at] += 1;
        self.duration[at] += duration;
    }

    /// What is done once a second: waiting requests give up, idle sessions are
    /// closed, old ones are opened anew.
    pub fn tend(&mut self, site: &Site, t: f64) {
        for service in 0..self.pools.len() {
            let pool = &mut self.pools[service];
            let mut tired = Vec::new();
            while let Some(&id) = pool.waiting.front()
                && self.requests[id as usize].t + pool.patience < t
            {
                pool.waiting.pop_front();
                tired.push(id);
            }
            pool.old.retain(|&(_, until)| until > t);
            pool.starting = 0;
            let idle = pool.open - pool.in_use;
            let closed = super::dice::binomial(idle, IDLE_CLOSED, &mut self.rng);
            let spare = pool.open.saturating_sub(pool.kept.max(pool.in_use));
            pool.open -= closed.min(spare);
            let renewed = super::dice::binomial(idle, RENEWED, &mut self.rng);
            self.opened += u64::from(renewed);
            for id in tired {
                let since = self.requests[id as usize].t;
                let patience = self.pools[service].patience;
                self.end(site, id, since + patience);
            }
        }
    }

    /// All sessions of a service are opened anew; the old ones linger.
    pub fn reconnect(&mut self, service: usize, count: u32, old_until: f64) {
        let pool = &mut self.pools[service];
        pool.old.push((count, old_until));
        pool.starting = count / 8;
        self.opened += u64::from(count);
    }

    /// Sessions are taken for good.
    pub fn leak(&mut self, service: usize, sessions: f64) {
        let pool = &mut self.pools[service];
        let before = pool.leaked as u64;
        pool.leaked += sessions;
        self.opened += pool.leaked as u64 - before;
    }

    /// Who waits behind the lock: number, endpoint, since when.
    pub fn stuck(&self) -> impl Iterator<Item = (u32, usize, f64)> + '_ {
        self.stuck.iter().map(|&id| {
            let request = &self.requests[id as usize];
            (id, request.endpoint as usize, request.t)
        })
    }

    /// Seconds that the first of a pool's queue has waited.
    pub fn longest_wait(&self, service: usize, t: f64) -> f64 {
        let first = self.pools[service].waiting.front();
        first.map_or(0.0, |&id| (t - self.requests[id as usize].t).max(0.0))
    }

    /// Requests that run now.
    #[cfg(test)]
    pub fn running_now(&self) -> u64 {
        self.running.iter().map(|&n| u64::from(n)).sum()
    }
}
