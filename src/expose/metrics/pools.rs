//! The pools of a PgBouncer process and its totals.

use super::page::Page;
use super::{OTHER, table};
use crate::sample::{PgbouncerReport, Pool, PoolStats};

/// Pools (database, user) shown one by one.
const MAX_POOLS: usize = 100;

/// Databases whose totals are shown. They are taken by name, not by size: a
/// counter must not come and go with its rank.
const MAX_DATABASES: usize = 100;

/// SHOW STATS counts microseconds.
const MICROSECONDS: f64 = 1e6;

/// Everything that comes from the pooler's last poll.
pub(super) fn put(page: &mut Page, pooler: &str, report: &PgbouncerReport) {
    let mut pools: Vec<&Pool> = report.pools.iter().collect();
    pools.sort_by(|a, b| {
        let by_size = sockets(b).cmp(&sockets(a));
        by_size.then_with(|| (&a.database, &a.user).cmp(&(&b.database, &b.user)))
    });
    let (top, rest) = pools.split_at(pools.len().min(MAX_POOLS));
    for pool in top {
        put_pool(page, pooler, [&pool.database, &pool.user], pool);
        put_database(page, pooler, report, pool);
    }
    if !rest.is_empty() {
        put_pool(page, pooler, [OTHER, OTHER], &sum(rest));
    }

    let mut stats: Vec<&PoolStats> = report.stats.iter().collect();
    stats.sort_by(|a, b| a.database.cmp(&b.database));
    for row in stats.into_iter().take(MAX_DATABASES) {
        put_totals(page, pooler, row);
    }
    if let Some(config) = &report.config {
        let limit = f64::from(config.max_client_conn);
        page.put(&table::POOLER_CLIENTS_LIMIT, [pooler], limit);
    }
}

fn sockets(pool: &Pool) -> u32 {
    let clients = pool.cl_active.saturating_add(pool.cl_waiting);
    let servers = pool.sv_active.saturating_add(pool.sv_idle);
    clients.saturating_add(servers).saturating_add(pool.sv_used)
}

fn put_pool(page: &mut Page, pooler: &str, [database, user]: [&str; 2], pool: &Pool) {
    for (state, count) in [
        ("active", pool.cl_active),
        ("waiting", pool.cl_waiting),
        ("cancel", pool.cl_cancel_req),
    ] {
        let labels = [pooler, database, user, state];
        page.put(&table::POOL_CLIENTS, labels, f64::from(count));
    }
    for (state, count) in [
        ("active", pool.sv_active),
        ("idle", pool.sv_idle),
        ("used", pool.sv_used),
        ("tested", pool.sv_tested),
        ("login", pool.sv_login),
    ] {
        let labels = [pooler, database, user, state];
        page.put(&table::POOL_SERVERS, labels, f64::from(count));
    }
    let wait = pool.maxwait_us as f64 / MICROSECONDS;
    page.put(&table::POOL_MAX_WAIT, [pooler, database, user], wait);
}

/// What SHOW DATABASES says of the pool's database.
fn put_database(page: &mut Page, pooler: &str, report: &PgbouncerReport, pool: &Pool) {
    let mut databases = report.databases.iter();
    if let Some(database) = databases.find(|database| database.name == pool.database) {
        let labels = [pooler, pool.database.as_str(), pool.user.as_str()];
        let paused = f64::from(u8::from(database.paused));
        page.put(&table::POOL_SIZE, labels, f64::from(database.pool_size));
        page.put(&table::POOL_PAUSED, labels, paused);
    }
}

fn put_totals(page: &mut Page, pooler: &str, row: &PoolStats) {
    let labels = [pooler, row.database.as_str()];
    let seconds = |microseconds: u64| microseconds as f64 / MICROSECONDS;
    page.put(&table::POOL_QUERIES, labels, row.total_query_count as f64);
    page.put(
        &table::POOL_TRANSACTIONS,
        labels,
        row.total_xact_count as f64,
    );
    page.put(
        &table::POOL_QUERY_SECONDS,
        labels,
        seconds(row.total_query_time),
    );
    page.put(
        &table::POOL_TRANSACTION_SECONDS,
        labels,
        seconds(row.total_xact_time),
    );
    page.put(
        &table::POOL_WAIT_SECONDS,
        labels,
        seconds(row.total_wait_time),
    );
}

/// Sockets add up; of waits the longest counts.
fn sum(pools: &[&Pool]) -> Pool {
    let mut total = Pool::default();
    for pool in pools {
        total.cl_active = total.cl_active.saturating_add(pool.cl_active);
        total.cl_waiting = total.cl_waiting.saturating_add(pool.cl_waiting);
        total.cl_cancel_req = total.cl_cancel_req.saturating_add(pool.cl_cancel_req);
        total.sv_active = total.sv_active.saturating_add(pool.sv_active);
        total.sv_idle = total.sv_idle.saturating_add(pool.sv_idle);
        total.sv_used = total.sv_used.saturating_add(pool.sv_used);
        total.sv_tested = total.sv_tested.saturating_add(pool.sv_tested);
        total.sv_login = total.sv_login.saturating_add(pool.sv_login);
        total.maxwait_us = total.maxwait_us.max(pool.maxwait_us);
    }
    total
}
