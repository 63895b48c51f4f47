//! What was seen at one moment, kept small: names are numbers until a sample is
//! asked for.
//!
//! A scenario of an hour has thousands of looks with hundreds of groups each,
//! and is read several times with different evidence. Invariant: the sum of the
//! counts of a look is the same whatever evidence is asked for.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};

use super::super::scenario::Evidence;
use super::rows;
use crate::sample::{
    FailureReason, Group, Lists, PgbouncerReport, Pool, PoolDatabase, PoolStats, PostgresReport,
    Report, RouteTraffic, Sample, Server, TrafficReport, TrafficVia, UnixSeconds,
};

/// The only target.
pub const TARGET: &str = "main";

/// The route of a session that works for none.
pub const NO_ROUTE: u16 = u16::MAX;

/// Whose sessions: a service, or an application without routes.
#[derive(Debug, Clone, Default)]
pub struct Owner {
    pub application: String,
    pub database: String,
    pub user: String,
    /// Where its sessions come from: a host of its own, or its pooler.
    pub client: Option<String>,
}

/// A service as it reports itself.
#[derive(Debug, Clone)]
pub struct Reporter {
    pub service: String,
    pub via: Option<TrafficVia>,
}

/// An endpoint's names.
#[derive(Debug, Clone)]
pub struct RouteName {
    /// In traffic reports.
    pub reported: String,
    /// In the comment of a statement; `None` when it writes none.
    pub tag: Option<String>,
    /// The chance of a tag to survive in [`Evidence::HalfTags`].
    pub survival: f64,
}

/// A pool of a pooler.
#[derive(Debug, Clone)]
pub struct PoolName {
    pub pooler: String,
    pub database: String,
    pub user: String,
    pub size: u32,
}

/// The names behind the numbers of a scenario's frames.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    pub seed: u64,
    pub server: Server,
    /// Services first, in the order of `reporters`.
    pub owners: Vec<Owner>,
    pub reporters: Vec<Reporter>,
    pub routes: Vec<RouteName>,
    pub pools: Vec<PoolName>,
    pub blocker: Option<rows::Blocker>,
}

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mood {
    Idle,
    IdleInTransaction,
    Active,
    /// Active, waits for the disk.
    OnDisk,
    /// Active, waits for a lock inside the server.
    OnLatch,
    /// Active, waits for a row that another transaction has.
    OnRow,
    /// Active, waits for a table.
    OnTable,
}

impl Mood {
    fn state(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::IdleInTransaction => "idle in transaction",
            _ => "active",
        }
    }

    fn wait(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Idle | Self::Active => None,
            Self::IdleInTransaction => Some(("Client", "ClientRead")),
            Self::OnDisk => Some(("IO", "DataFileRead")),
            Self::OnLatch => Some(("LWLock", "BufferContent")),
            Self::OnRow => Some(("Lock", "transactionid")),
            Self::OnTable => Some(("Lock", "relation")),
        }
    }
}

/// Sessions that are alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    pub owner: u16,
    pub mood: Mood,
    /// [`NO_ROUTE`] where the statement has no tag.
    pub route: u16,
    pub count: u32,
}

/// One look at the server.
#[derive(Debug, Clone, Default)]
pub struct ServerLook {
    pub opened: u64,
    /// By owner, mood and route.
    pub cells: Vec<Cell>,
    pub waits: Option<Box<rows::Waits>>,
}

/// One pool in a look at a pooler.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolLook {
    pub pool: u16,
    pub clients_active: u32,
    pub clients_waiting: u32,
    pub servers_active: u32,
    pub servers_idle: u32,
    /// Microseconds.
    pub longest_wait: u64,
    pub transactions: u64,
    /// Microseconds, as the pooler adds them up.
    pub transaction_time: u64,
    pub wait_time: u64,
}

/// One endpoint in a report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteCount {
    pub route: u16,
    pub ended: u32,
    pub running: u32,
    /// Seconds.
    pub duration: f64,
}

/// One report of a service.
#[derive(Debug, Clone, Default)]
pub struct ServiceReport {
    pub service: u16,
    pub until: UnixSeconds,
    pub interval: f64,
    pub routes: Vec<RouteCount>,
}

/// Something that was seen.
#[derive(Debug, Clone)]
pub enum Seen {
    Server(ServerLook),
    /// The look at the server failed.
    Failed(FailureReason),
    /// The pools of one pooler.
    Pooler(Vec<PoolLook>),
    Traffic(ServiceReport),
}

/// What was seen, and when the program learnt it.
#[derive(Debug, Clone)]
pub struct Frame {
    pub t: UnixSeconds,
    pub seen: Seen,
}

impl Frame {
    /// As a sample, with this evidence and no other.
    pub fn sample(&self, naming: &Naming, evidence: Evidence) -> Sample {
        let report = match &self.seen {
            Seen::Server(look) => Report::Postgres(naming.server(self.t, look, evidence)),
            Seen::Failed(reason) => Report::Postgres(PostgresReport {
                target: TARGET.to_owned(),
                error: Some(*reason),
                ..PostgresReport::default()
            }),
            Seen::Pooler(pools) => Report::Pgbouncer(naming.pooler(pools)),
            Seen::Traffic(report) => Report::Traffic(naming.traffic(report, evidence)),
        };
        Sample { t: self.t, report }
    }
}

impl Naming {
    fn server(&self, t: UnixSeconds, look: &ServerLook, evidence: Evidence) -> PostgresReport {
        let mut report = PostgresReport {
            target: TARGET.to_owned(),
            server: Some(Server {
                clock: Some(t),
                ..self.server.clone()
            }),
            sessions_opened_total: Some(look.opened),
            groups: self.groups(t, &look.cells, evidence),
            sees_all_sessions: Some(true),
            ..PostgresReport::default()
        };
        if let (Some(waits), Some(blocker)) = (&look.waits, &self.blocker) {
            let tags = matches!(evidence, Evidence::AllTags);
            rows::fill(&mut report, self, blocker, waits, tags);
        }
        report
    }

    fn groups(&self, t: UnixSeconds, cells: &[Cell], evidence: Evidence) -> Vec<Group> {
        // Which tags survive must not hang on how often it is asked.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ t.to_bits());
        let mut groups: Vec<Group> = Vec::new();
        let mut at = 0;
        while let Some(first) = cells.get(at) {
            let mut untagged = 0;
            while let Some(cell) = cells.get(at)
                && (cell.owner, cell.mood) == (first.owner, first.mood)
            {
                let (tag, told) = self.told(cell, evidence, &mut rng);
                untagged += cell.count - told;
                if told > 0 {
                    groups.extend(self.group(cell, tag, told));
                }
                at += 1;
            }
            if untagged > 0 {
                groups.extend(self.group(first, None, untagged));
            }
        }
        groups
    }

    /// The tag, and how many of the sessions show it.
    fn told(&self, cell: &Cell, evidence: Evidence, rng: &mut impl Rng) -> (Option<&str>, u32) {
        let name = self.routes.get(usize::from(cell.route));
        let Some((name, tag)) = name.and_then(|name| Some((name, name.tag.as_deref()?))) else {
            return (None, 0);
        };
        let told = match evidence {
            Evidence::AllTags => cell.count,
            Evidence::HalfTags => survivors(cell.count, name.survival, rng),
            Evidence::Requests | Evidence::Gauge => 0,
        };
        (Some(tag), told)
    }

    fn group(&self, cell: &Cell, tag: Option<&str>, count: u32) -> Option<Group> {
        let owner = self.owners.get(usize::from(cell.owner))?;
        let wait = cell.mood.wait();
        Some(Group {
            database: Some(owner.database.clone()),
            user: Some(owner.user.clone()),
            application: Some(owner.application.clone()),
            client: owner.client.clone(),
            state: Some(cell.mood.state().to_owned()),
            wait_event_type: wait.map(|(kind, _)| kind.to_owned()),
            wait_event: wait.map(|(_, event)| event.to_owned()),
            route: tag.map(str::to_owned),
            count,
            ..Group::default()
        })
    }

    fn pooler(&self, pools: &[PoolLook]) -> PgbouncerReport {
        let mut report = PgbouncerReport {
            target: TARGET.to_owned(),
            version: Some("1.23.1".to_owned()),
            ..PgbouncerReport::default()
        };
        for look in pools {
            let Some(name) = self.pools.get(usize::from(look.pool)) else {
                continue;
            };
            report.pooler.clone_from(&name.pooler);
            report.lists.add(look);
            report.pools.push(Pool {
                database: name.database.clone(),
                user: name.user.clone(),
                cl_active: look.clients_active,
                cl_waiting: look.clients_waiting,
                sv_active: look.servers_active,
                sv_idle: look.servers_idle,
                maxwait_us: look.longest_wait,
                pool_mode: "transaction".to_owned(),
                ..Pool::default()
            });
            report.stats.push(PoolStats {
                database: name.database.clone(),
                total_xact_count: look.transactions,
                total_query_count: look.transactions,
                total_xact_time: look.transaction_time,
                total_query_time: look.transaction_time,
                total_wait_time: look.wait_time,
            });
            report.databases.push(PoolDatabase {
                name: name.database.clone(),
                database: name.database.clone(),
                port: 5432,
                pool_size: name.size,
                current_connections: look.servers_active + look.servers_idle,
                ..PoolDatabase::default()
            });
        }
        report
    }

    fn traffic(&self, report: &ServiceReport, evidence: Evidence) -> TrafficReport {
        let reporter = self.reporters.get(usize::from(report.service));
        let gauge = evidence == Evidence::Gauge;
        let routes = report.routes.iter().filter_map(|row| {
            // A row that only says that nothing runs is no news without a gauge.
            let name = self.routes.get(usize::from(row.route))?;
            (gauge || row.ended > 0).then(|| RouteTraffic {
                route: name.reported.clone(),
                requests: f64::from(row.ended),
                duration_seconds: row.duration,
                in_flight: gauge.then_some(f64::from(row.running)),
                ..RouteTraffic::default()
            })
        });
        TrafficReport {
            service: reporter.map_or_else(String::new, |r| r.service.clone()),
            via: reporter.and_then(|r| r.via),
            until: Some(report.until),
            interval: report.interval,
            routes: routes.collect(),
        }
    }
}

impl Lists {
    fn add(&mut self, look: &PoolLook) {
        self.used_clients += look.clients_active + look.clients_waiting;
        self.used_servers += look.servers_active + look.servers_idle;
        self.pools += 1;
    }
}

/// How many of `count` survive, each with the same chance.
fn survivors(count: u32, chance: f64, rng: &mut impl Rng) -> u32 {
    let drawn = Binomial::new(u64::from(count), chance).map(|drawn| drawn.sample(rng));
    drawn.map_or(count, |n| u32::try_from(n).unwrap_or(count).min(count))
}
