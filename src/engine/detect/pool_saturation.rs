//! Clients wait for a server of a pool that has none left.
//!
//! Signals: clients in the queue, the wait of the first of them, and as many
//! servers as the pool may have. Over when nobody has been in the queue for half
//! a minute. Two neighbours are told under the same kind, each with its verdict:
//! a pause that lasts (`paused.rs`) and a pooler that takes no more clients
//! (`client_limit.rs`).

use std::collections::BTreeSet;

use serde_json::json;

mod client_limit;
mod paused;
#[cfg(test)]
mod tests;

pub use paused::stands_still;

use paused::Pauses;

use super::scene::fields;
use super::watch::{Account, Looked, Stance, Suspicion, Watch};
use crate::engine::incident::{Finding, Incident, Kind};
use crate::engine::settings::{PoolSaturation, Settings};
use crate::engine::words;
use crate::sample::{PgbouncerReport, Pool, PoolDatabase, PostgresReport, UnixSeconds};

/// The reserve is opened once a client has waited for `reserve_pool_timeout`
/// (5 s by default, and 0 turns it off). Twice that without it: it is not coming.
const RESERVE_COMES_WITHIN: f64 = 10.0;

/// The pools of one target that other kinds tell of: pooler, database, user.
pub type Pools = BTreeSet<(String, String, String)>;

/// Follows the pools in front of one target.
#[derive(Debug)]
pub struct Saturation {
    enabled: bool,
    wait: f64,
    hold: f64,
    watch: Watch,
    pauses: Pauses,
}

impl Saturation {
    pub fn new(settings: &Settings) -> Self {
        let PoolSaturation {
            enabled,
            wait,
            hold,
            resolve_after,
        } = settings.detect.pool_saturation;
        Self {
            enabled,
            wait,
            hold,
            watch: Watch::new(Kind::PoolSaturation).patient(hold, resolve_after),
            pauses: Pauses::default(),
        }
    }

    /// Takes in other thresholds. Who is switched on or off begins anew.
    pub fn reconfigure(&mut self, settings: &Settings) {
        let new = &settings.detect.pool_saturation;
        if new.enabled == self.enabled {
            self.wait = new.wait;
            self.hold = new.hold;
            self.watch.retune(new.hold, new.resolve_after);
        } else {
            *self = Self::new(settings);
        }
    }

    /// A pooler is not there any more, and what was told of its pools ends.
    pub fn forget(&mut self, pooler: &str) {
        let own = own_keys(pooler);
        self.watch.forget(|key| key.starts_with(&own));
        self.pauses.forget(pooler);
    }

    /// Goes on with an incident of an earlier life of the program.
    pub fn restore(&mut self, key: &str, incident: &Incident) {
        if self.enabled {
            self.watch.restore(key, incident);
        }
    }

    /// Takes in one look at a pooler. `server` is the newest look at the server
    /// behind it, and `reachable` says whether it answers us now; `deadlocked` are
    /// pools that are told as a deadlock.
    pub fn observe(
        &mut self,
        t: UnixSeconds,
        report: &PgbouncerReport,
        server: &PostgresReport,
        reachable: bool,
        deadlocked: &Pools,
    ) {
        if !self.enabled {
            return;
        }
        let own = own_keys(&report.pooler);
        let pauses = self.pauses.check(t, report, self.hold, reachable);
        let still = stands_still(report);
        let pools = report.pools.iter().filter(|_| !still);
        let suspicions = pools.filter_map(|pool| {
            let mut suspicion = check(t, report, pool, server, self.wait)?;
            let name = (&report.pooler, &pool.database, &pool.user);
            if deadlocked
                .iter()
                .any(|(pooler, database, user)| (pooler, database, user) == name)
            {
                suspicion.stance = Stance::Yields(Kind::PoolDeadlock);
            }
            Some(suspicion)
        });
        let suspicions = suspicions.chain(pauses);
        let suspicions = suspicions.chain(client_limit::check(t, report));
        let suspicions = suspicions.collect();
        let truncated = report.truncated;
        self.watch.settle(Looked::server(t), suspicions, |key| {
            key.starts_with(&own) && !truncated
        });
    }

    pub fn findings(&self) -> Vec<Finding> {
        self.watch.findings()
    }
}

/// How the keys of a pooler's pools begin.
fn own_keys(pooler: &str) -> String {
    format!("{pooler}\u{1f}")
}

/// The pool's row of `SHOW DATABASES`.
pub fn database_of<'a>(report: &'a PgbouncerReport, pool: &Pool) -> Option<&'a PoolDatabase> {
    let mut databases = report.databases.iter();
    databases.find(|database| database.name == pool.database)
}

/// Seconds that the first client in the queue has waited.
pub fn queue_wait(pool: &Pool) -> f64 {
    pool.maxwait_us as f64 / 1e6
}

/// Whether the pool has all the servers that it may have. `max_db_connections`
/// may stop it short of its size.
pub fn is_full(pool: &Pool, database: &PoolDatabase) -> bool {
    let servers = servers(pool);
    let size = u64::from(database.pool_size);
    let reserve = u64::from(database.reserve_pool_size);
    let capped =
        database.max_connections > 0 && database.current_connections >= database.max_connections;
    let without_reserve = servers >= size && queue_wait(pool) >= RESERVE_COMES_WITHIN;
    servers > 0 && (servers >= size + reserve || without_reserve || capped)
}

fn servers(pool: &Pool) -> u64 {
    let states = [
        pool.sv_active,
        pool.sv_idle,
        pool.sv_used,
        pool.sv_tested,
        pool.sv_login,
    ];
    states.into_iter().map(u64::from).sum()
}

fn check(
    t: UnixSeconds,
    report: &PgbouncerReport,
    pool: &Pool,
    server: &PostgresReport,
    least: f64,
) -> Option<Suspicion> {
    let database = database_of(report, pool)?;
    if database.paused || database.disabled {
        return None;
    }
    let wait = queue_wait(pool);
    let stance = if pool.cl_waiting > 0 && wait >= least && is_full(pool, database) {
        Stance::Opens
    } else if pool.cl_waiting > 0 || pool.maxwait_us > 0 {
        Stance::Keeps
    } else {
        return None;
    };
    Some(Suspicion {
        key: key(report, &pool.database, &pool.user),
        stance,
        onset_at: t - wait,
        account: account(report, pool, database, server),
    })
}

/// Of a pool, or of the whole pooler where both names are empty.
fn key(report: &PgbouncerReport, database: &str, user: &str) -> String {
    format!("{}\u{1f}{database}\u{1f}{user}", report.pooler)
}

fn account(
    report: &PgbouncerReport,
    pool: &Pool,
    database: &PoolDatabase,
    server: &PostgresReport,
) -> Account {
    let clients = words::plural(f64::from(pool.cl_waiting), "client");
    let wait = words::duration(queue_wait(pool));
    let name = format!(
        "{}/{}",
        words::name(&pool.database),
        words::name(&pool.user)
    );
    let in_use = words::count(servers(pool) as f64);
    let mut evidence = vec![
        format!(
            "{clients} in the queue, the first for {wait}; {} have a server",
            words::count(f64::from(pool.cl_active))
        ),
        format!(
            "{in_use} servers, {} of them in use: pool_size is {}, the reserve {}",
            words::count(f64::from(pool.sv_active)),
            words::count(f64::from(database.pool_size)),
            words::count(f64::from(database.reserve_pool_size)),
        ),
    ];
    if database.max_connections > 0 {
        evidence.push(format!(
            "all pools of {} have {} of {} connections (max_db_connections)",
            words::name(&database.name),
            words::count(f64::from(database.current_connections)),
            words::count(f64::from(database.max_connections)),
        ));
    }
    let user = database.force_user.as_deref().unwrap_or(&pool.user);
    evidence.extend(mix(server, &database.database, user));
    Account {
        severity: Kind::PoolSaturation.severity(),
        subject: fields(json!({
            "pooler": report.pooler,
            "database": pool.database,
            "user": pool.user,
            "pool_mode": pool.pool_mode,
            "clients_waiting": pool.cl_waiting,
            "max_wait_seconds": (queue_wait(pool) * 10.0).round() / 10.0,
            "servers": servers(pool),
            "pool_size": database.pool_size,
            "reserve_pool_size": database.reserve_pool_size,
        })),
        summary: format!(
            "pool {name} of {} has no free server: all {in_use} are taken, {clients} wait, the first for {wait}",
            report.pooler,
        ),
        evidence,
        actions: actions(report, &database.database, user),
    }
}

/// What the sessions of the pool's database and user do, most first: whether the
/// pool is too small, or its servers are held up.
fn mix(server: &PostgresReport, database: &str, user: &str) -> Option<String> {
    let mut counts: Vec<(String, u64)> = Vec::new();
    for group in &server.groups {
        if group.database.as_deref() != Some(database) || group.user.as_deref() != Some(user) {
            continue;
        }
        let state = group.state.as_deref().unwrap_or("state not known");
        let what = match (state, group.wait_event_type.as_deref()) {
            ("active", Some(wait)) => format!("active and waiting ({})", words::name(wait)),
            _ => words::name(state),
        };
        match counts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += u64::from(group.count),
            None => counts.push((what, u64::from(group.count))),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let list: Vec<String> = counts
        .iter()
        .take(5)
        .map(|(what, count)| format!("{} {what}", words::count(*count as f64)))
        .collect();
    (!list.is_empty()).then(|| {
        format!(
            "sessions of {} in database {}: {}",
            words::name(user),
            words::name(database),
            list.join(", ")
        )
    })
}

fn actions(report: &PgbouncerReport, database: &str, user: &str) -> Vec<String> {
    let (database, user) = (words::name(database), words::name(user));
    vec![
        format!(
            "SELECT pid, application_name, state, wait_event_type, wait_event, now() - xact_start AS transaction, \
             left(query, 80) AS query FROM pg_stat_activity WHERE datname = {} AND usename = {} AND state <> 'idle' \
             ORDER BY xact_start LIMIT 50;",
            words::sql_literal(&database),
            words::sql_literal(&user),
        ),
        format!("SHOW CLIENTS;  on the console of {}", report.pooler),
    ]
}
