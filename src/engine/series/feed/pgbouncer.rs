//! The series of one look at a PgBouncer process.

use super::OTHER;
use crate::engine::series::store::{Row, Store};
use crate::engine::snapshot::PoolerView;
use crate::sample::{PgbouncerReport, Pool, PoolStats, UnixSeconds};

/// Pools (database, user) with their own series; the others are added up.
const MAX_POOLS: usize = 100;

/// Databases whose totals are kept. They are taken by name: a counter must not
/// come and go with its rank.
const MAX_DATABASES: usize = 100;

/// SHOW commands count microseconds.
const MICROSECONDS: f64 = 1e6;

/// Takes in the newest look at a pooler.
pub fn feed(store: &mut Store, pooler: &str, t: UnixSeconds, view: &PoolerView) {
    let Some(mut row) = store.row(&format!("pgbouncer/{pooler}"), t) else {
        return;
    };
    let up = [("source", "pgbouncer"), ("name", pooler)];
    row.put("snowpit_source_up", &up, f64::from(u8::from(view.fresh)));
    if view.fresh {
        pools(&mut row, pooler, &view.report);
        totals(&mut row, pooler, &view.report);
    }
}

fn pools(row: &mut Row<'_>, pooler: &str, report: &PgbouncerReport) {
    let mut pools: Vec<&Pool> = report.pools.iter().collect();
    pools.sort_by(|a, b| {
        let by_size = sockets(b).cmp(&sockets(a));
        by_size.then_with(|| (&a.database, &a.user).cmp(&(&b.database, &b.user)))
    });
    let (top, rest) = pools.split_at(pools.len().min(MAX_POOLS));
    for pool in top {
        one_pool(row, pooler, [&pool.database, &pool.user], &[pool]);
        let mut databases = report.databases.iter();
        if let Some(database) = databases.find(|database| database.name == pool.database) {
            let labels = pool_labels(pooler, [&pool.database, &pool.user]);
            let paused = f64::from(u8::from(database.paused));
            row.put("snowpit_pool_size", &labels, f64::from(database.pool_size));
            row.put("snowpit_pool_paused", &labels, paused);
        }
    }
    if !rest.is_empty() {
        one_pool(row, pooler, [OTHER, OTHER], rest);
    }
}

fn sockets(pool: &Pool) -> u64 {
    let counts = [
        pool.cl_active,
        pool.cl_waiting,
        pool.sv_active,
        pool.sv_idle,
        pool.sv_used,
    ];
    counts.map(u64::from).iter().sum()
}

fn pool_labels<'a>(pooler: &'a str, [database, user]: [&'a str; 2]) -> [(&'a str, &'a str); 3] {
    [("pooler", pooler), ("database", database), ("user", user)]
}

/// A figure of a pool.
type Count = fn(&Pool) -> u32;

/// Pools that are shown as one: sockets add up, of waits the longest counts.
fn one_pool(row: &mut Row<'_>, pooler: &str, names: [&str; 2], pools: &[&Pool]) {
    let sum = |of: Count| pools.iter().map(|pool| f64::from(of(pool))).sum::<f64>();
    let states: [(&str, &str, Count); 8] = [
        ("snowpit_pool_clients", "active", |pool| pool.cl_active),
        ("snowpit_pool_clients", "waiting", |pool| pool.cl_waiting),
        ("snowpit_pool_clients", "cancel", |pool| pool.cl_cancel_req),
        ("snowpit_pool_servers", "active", |pool| pool.sv_active),
        ("snowpit_pool_servers", "idle", |pool| pool.sv_idle),
        ("snowpit_pool_servers", "used", |pool| pool.sv_used),
        ("snowpit_pool_servers", "tested", |pool| pool.sv_tested),
        ("snowpit_pool_servers", "login", |pool| pool.sv_login),
    ];
    let [pooler, database, user] = pool_labels(pooler, names);
    for (name, state, of) in states {
        row.put(name, &[pooler, database, user, ("state", state)], sum(of));
    }
    let longest = pools.iter().map(|pool| pool.maxwait_us).max().unwrap_or(0);
    let wait = longest as f64 / MICROSECONDS;
    row.put(
        "snowpit_pool_max_wait_seconds",
        &[pooler, database, user],
        wait,
    );
}

fn totals(row: &mut Row<'_>, pooler: &str, report: &PgbouncerReport) {
    let mut stats: Vec<&PoolStats> = report.stats.iter().collect();
    stats.sort_by(|a, b| a.database.cmp(&b.database));
    let seconds = |microseconds: u64| microseconds as f64 / MICROSECONDS;
    for stats in stats.into_iter().take(MAX_DATABASES) {
        let labels = [("pooler", pooler), ("database", stats.database.as_str())];
        for (name, total) in [
            ("snowpit_pool_queries_total", stats.total_query_count as f64),
            (
                "snowpit_pool_transactions_total",
                stats.total_xact_count as f64,
            ),
            (
                "snowpit_pool_query_seconds_total",
                seconds(stats.total_query_time),
            ),
            (
                "snowpit_pool_transaction_seconds_total",
                seconds(stats.total_xact_time),
            ),
            (
                "snowpit_pool_wait_seconds_total",
                seconds(stats.total_wait_time),
            ),
        ] {
            row.put(name, &labels, total);
        }
    }
    if let Some(config) = &report.config {
        let limit = f64::from(config.max_client_conn);
        row.put("snowpit_pooler_clients_limit", &[("pooler", pooler)], limit);
    }
}
