//! Looks at the plant: of the daemon at server and pooler, and of the services at
//! themselves.
//!
//! Invariants: a look shows one moment; polls come about once a second, late or
//! not at all; a request counts in the report after its end.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::dice::{binomial, even};
use super::frame::{
    Cell, Frame, Mood, NO_ROUTE, PoolLook, RouteCount, Seen, ServerLook, ServiceReport,
};
use super::plant::{Plant, SLOT};
use super::rows::{SHOWN, Waiter, Waits};
use super::site::Site;
use crate::sample::{FailureReason, UnixSeconds};

/// Process ids given out start here.
const FIRST_PID: i32 = 2_000;

/// Number of the blocker's process.
pub const BLOCKER_PID: i32 = 1_500;

/// Moods in the order of cells.
const MOODS: [Mood; 6] = [
    Mood::IdleInTransaction,
    Mood::Active,
    Mood::OnDisk,
    Mood::OnLatch,
    Mood::OnRow,
    Mood::OnTable,
];

/// What is seen beside the plant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// Sessions of each application without routes.
    pub background: &'a [u32],
    /// The owner of the session in everybody's way, whether it is at work, and
    /// what is waited for.
    pub blocker: Option<(u16, bool, Mood)>,
    /// Leaked sessions are idle in transaction.
    pub leaks_transactions: bool,
    /// Part of the sessions at work that wait for the disk.
    pub on_disk: f64,
}

/// A service's clock for its reports.
#[derive(Debug, Clone)]
struct Report {
    next: f64,
    /// When the last one arrived.
    arrived: f64,
    /// Endpoints that had requests running in it.
    ran: Vec<bool>,
}

/// All who look.
pub struct Probes {
    /// Unix time of the simulation's beginning.
    start: UnixSeconds,
    next_poll: f64,
    next_pooler: f64,
    jitter: f64,
    missed: f64,
    reports: Vec<Report>,
    due: f64,
    buckets: Vec<Vec<Cell>>,
    pub frames: Vec<Frame>,
    /// Sessions in use and clients waiting, and all sessions, by look.
    pub seen: Vec<(f64, f64, f64)>,
    rng: ChaCha8Rng,
}

impl Probes {
    pub fn new(site: &Site, start: UnixSeconds, mut rng: ChaCha8Rng) -> Self {
        let dice = &mut rng;
        let reports = site.services.iter().map(|service| Report {
            next: even(0.0, service.interval, dice),
            arrived: 0.0,
            ran: vec![false; service.endpoints.len()],
        });
        let reports = reports.collect();
        Self {
            start,
            next_poll: dice.random(),
            next_pooler: dice.random(),
            jitter: even(0.0, 0.12, dice),
            missed: even(0.001, 0.015, dice),
            reports,
            due: 0.0,
            buckets: vec![Vec::new(); MOODS.len()],
            frames: Vec::new(),
            seen: Vec::new(),
            rng,
        }
    }

    /// Looks, where it is time to, at the edge before the next slot.
    pub fn look(&mut self, site: &Site, plant: &mut Plant, beside: &Beside<'_>) {
        let t = plant.now() as f64 * SLOT;
        if t < self.due {
            return;
        }
        if t >= self.next_poll {
            self.poll(site, plant, beside, t);
            self.next_poll = self.after(self.next_poll, t);
        }
        if t >= self.next_pooler {
            self.pooler(site, plant, t);
            self.next_pooler = self.after(self.next_pooler, t);
        }
        for service in 0..self.reports.len() {
            if t >= self.reports[service].next {
                self.report(site, plant, service, t);
                self.reports[service].next += site.services[service].interval;
            }
        }
        let reports = self.reports.iter().map(|report| report.next);
        self.due = reports.fold(self.next_poll.min(self.next_pooler), f64::min);
    }

    /// The next look after one that was due at `due` and made at `t`.
    fn after(&mut self, due: f64, t: f64) -> f64 {
        let mut next = due + 1.0 + self.jitter * (self.rng.random::<f64>() - 0.5);
        if self.rng.random::<f64>() < self.missed {
            // A moment of trouble: one or several looks are missed.
            next += [1.0, 1.0, 2.0, 4.0][self.rng.random_range(0..4)];
        }
        next.max(t + 0.2)
    }

    fn poll(&mut self, site: &Site, plant: &Plant, beside: &Beside<'_>, t: f64) {
        if self.rng.random::<f64>() < 0.1 * self.missed {
            self.show(t, Seen::Failed(FailureReason::Timeout));
            return;
        }
        let mut look = ServerLook {
            opened: plant.opened,
            ..ServerLook::default()
        };
        for service in 0..site.services.len() {
            self.service_cells(site, plant, beside, service, &mut look.cells);
        }
        let first = site.services.len();
        for (number, &count) in beside.background.iter().enumerate() {
            let idle = binomial(count, 0.15, &mut self.rng);
            let owner = (first + number) as u16;
            push(
                &mut look.cells,
                owner,
                Mood::IdleInTransaction,
                NO_ROUTE,
                idle,
            );
            push(&mut look.cells, owner, Mood::Active, NO_ROUTE, count - idle);
        }
        if let Some((owner, active, _)) = beside.blocker {
            let mood = if active {
                Mood::Active
            } else {
                Mood::IdleInTransaction
            };
            push(&mut look.cells, owner, mood, NO_ROUTE, 1);
            look.waits = Some(Box::new(waits(site, plant, self.start)));
        }
        let all: u32 = look.cells.iter().map(|cell| cell.count).sum();
        let idle = look.cells.iter().filter(|cell| cell.mood == Mood::Idle);
        let in_use = all - idle.map(|cell| cell.count).sum::<u32>();
        let waiting: usize = (0..site.services.len())
            .filter(|&service| site.services[service].pool.pooled)
            .map(|service| plant.pools[service].waiting.len())
            .sum();
        self.seen
            .push((t, f64::from(in_use) + waiting as f64, f64::from(all)));
        self.show(t, Seen::Server(look));
    }

    fn service_cells(
        &mut self,
        site: &Site,
        plant: &Plant,
        beside: &Beside<'_>,
        service: usize,
        cells: &mut Vec<Cell>,
    ) {
        let owner = service as u16;
        let pool = &plant.pools[service];
        let old: u32 = pool.old.iter().map(|&(count, _)| count).sum();
        let leaked = pool.leaked as u32;
        let mut idle = pool.open - pool.in_use + old;
        if !beside.leaks_transactions {
            idle += leaked;
        }
        push(cells, owner, Mood::Idle, NO_ROUTE, idle);
        let stuck_mood = beside.blocker.map_or(Mood::OnRow, |(.., mood)| mood);
        for at in site.services[service].endpoints.clone() {
            let count = plant.in_database[at];
            if count > 0 {
                let stuck = plant.stuck_by_endpoint[at];
                self.endpoint_cells(site, at, count - stuck, beside.on_disk);
                let bucket = if stuck_mood == Mood::OnTable { 5 } else { 4 };
                let (owner, route) = (owner, at as u16);
                match self.buckets[bucket].last_mut().filter(|c| c.route == route) {
                    Some(cell) => cell.count += stuck,
                    None => push(&mut self.buckets[bucket], owner, stuck_mood, route, stuck),
                }
            }
        }
        if beside.leaks_transactions {
            push(
                &mut self.buckets[0],
                owner,
                Mood::IdleInTransaction,
                NO_ROUTE,
                leaked,
            );
        }
        push(
            &mut self.buckets[1],
            owner,
            Mood::Active,
            NO_ROUTE,
            pool.starting,
        );
        for bucket in &mut self.buckets {
            cells.append(bucket);
        }
    }

    /// What the sessions of an endpoint do at this moment.
    fn endpoint_cells(&mut self, site: &Site, at: usize, count: u32, on_disk: f64) {
        let endpoint = &site.endpoints[at];
        let dice = &mut self.rng;
        let idle = binomial(count, endpoint.in_transaction, dice);
        let mut left = count - idle;
        let on_row = binomial(left, endpoint.on_row, dice);
        left -= on_row;
        let disk = binomial(left, on_disk, dice);
        left -= disk;
        let latch = binomial(left, 0.02, dice);
        let counts = [idle, left - latch, disk, latch, on_row];
        let owner = endpoint.service as u16;
        for (place, count) in counts.into_iter().enumerate() {
            let route = at as u16;
            push(&mut self.buckets[place], owner, MOODS[place], route, count);
        }
    }

    fn pooler(&mut self, site: &Site, plant: &Plant, t: f64) {
        let mut looks = Vec::new();
        let pooled = (0..site.services.len()).filter(|&s| site.services[s].pool.pooled);
        for (pool, service) in pooled.enumerate() {
            let sessions = &plant.pools[service];
            looks.push(PoolLook {
                pool: pool as u16,
                clients_active: sessions.in_use,
                clients_waiting: sessions.waiting.len() as u32,
                servers_active: sessions.in_use,
                servers_idle: sessions.open - sessions.in_use,
                longest_wait: (plant.longest_wait(service, t) * 1e6) as u64,
                transactions: sessions.transactions,
                transaction_time: (sessions.transaction_time * 1e6) as u64,
                wait_time: (sessions.wait_time * 1e6) as u64,
            });
        }
        if !looks.is_empty() {
            self.show(t, Seen::Pooler(looks));
        }
    }

    fn report(&mut self, site: &Site, plant: &mut Plant, service: usize, t: f64) {
        let plan = &site.services[service];
        let report = &mut self.reports[service];
        let mut routes = Vec::new();
        for (ran, at) in report.ran.iter_mut().zip(plan.endpoints.clone()) {
            let row = RouteCount {
                route: at as u16,
                ended: std::mem::take(&mut plant.ended[at]),
                running: plant.running[at],
                duration: std::mem::take(&mut plant.duration[at]),
            };
            if site.endpoints[at].reported && (row.ended > 0 || row.running > 0 || *ran) {
                routes.push(row);
            }
            *ran = row.running > 0;
        }
        let (least, spread) = plan.delay;
        let arrives = t + least + spread * self.rng.random::<f64>();
        report.arrived = arrives.max(report.arrived + SLOT);
        let frame = Frame {
            t: self.start + report.arrived,
            seen: Seen::Traffic(ServiceReport {
                service: service as u16,
                until: self.start + t,
                interval: plan.interval,
                routes,
            }),
        };
        self.frames.push(frame);
    }

    fn show(&mut self, t: f64, seen: Seen) {
        self.frames.push(Frame {
            t: self.start + t,
            seen,
        });
    }
}

fn push(cells: &mut Vec<Cell>, owner: u16, mood: Mood, route: u16, count: u32) {
    if count > 0 {
        cells.push(Cell {
            owner,
            mood,
            route,
            count,
        });
    }
}

fn waits(site: &Site, plant: &Plant, start: UnixSeconds) -> Waits {
    let waiters = plant.stuck().take(SHOWN + 1).map(|(id, at, since)| Waiter {
        pid: FIRST_PID + id as i32,
        owner: site.endpoints[at].service as u16,
        route: at as u16,
        since: start + since,
    });
    Waits {
        waiters: waiters.collect(),
    }
}
