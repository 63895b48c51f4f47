//! `/api/v1/targets`: the servers that are watched, in figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::WebState;
use crate::engine::Snapshot;
use crate::engine::correlate::sessions::{in_use, tells_of_use};
use crate::engine::locks::LockView;
use crate::engine::snapshot::{PoolerView, TargetView};
use crate::observe::health::SourceHealth;
use crate::sample::{Group, Pool};

/// Pools shown of a target, those with most waiting clients first.
const MAX_POOLS: usize = 12;

/// SHOW commands count microseconds.
const MICROSECONDS: f64 = 1e6;

/// The configured servers, those included that never answered.
pub(super) async fn list(State(state): State<Arc<WebState>>) -> Json<Value> {
    let snapshot = state.snapshot();
    Json(json!({ "at": snapshot.at, "targets": all(&state, &snapshot) }))
}

/// Each of them.
pub(super) fn all(state: &WebState, snapshot: &Snapshot) -> Vec<Value> {
    let sources = state.health.snapshot();
    let names = state.targets();
    let names = names.iter();
    names.map(|name| target(snapshot, name, &sources)).collect()
}

fn target(snapshot: &Snapshot, name: &str, sources: &[SourceHealth]) -> Value {
    let unseen = Arc::new(TargetView::default());
    let view = snapshot.targets.get(name).unwrap_or(&unseen);
    let server = view.report.server.clone().unwrap_or_default();
    let seen = view.at > 0.0;
    let groups = &view.report.groups;
    let connections = groups.iter().map(|group| u64::from(group.count)).sum();
    let used: u64 = in_use(&view.report).map(|g| u64::from(g.count)).sum();
    let poolers: Vec<(&String, &PoolerView)> = snapshot
        .poolers
        .iter()
        .filter(|(_, pooler)| pooler.report.target == name)
        .collect();
    let (pools, pools_left_out) = pools(&poolers);
    let open: Vec<&str> = snapshot
        .open
        .iter()
        .filter(|incident| incident.target == name)
        .map(|incident| incident.id.as_str())
        .collect();
    let source = sources
        .iter()
        .find(|source| source.source == "postgres" && source.name == name);
    let error = source.and_then(|source| source.last_error.as_ref());
    json!({
        "name": name,
        "fresh": view.fresh,
        "at": seen.then_some(view.at),
        "error": error.filter(|_| !view.fresh),
        "version": server.version,
        "started_at": server.started_at,
        "in_recovery": server.in_recovery,
        "max_connections": server.max_connections,
        "reserved_connections": server.reserved_connections,
        "connections": seen.then_some::<u64>(connections),
        "states": by_state(groups),
        "in_use": (seen && tells_of_use(&view.report)).then_some(used),
        "clients_waiting": clients_waiting(&poolers),
        "expected": view.band.map(|band| band.expected),
        "upper": view.band.map(|band| band.upper),
        "locks": locks(&view.locks),
        "poolers": poolers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "pools": pools,
        "pools_left_out": pools_left_out,
        "open_incidents": open,
    })
}

fn by_state(groups: &[Group]) -> BTreeMap<&str, u64> {
    let mut states = BTreeMap::new();
    for group in groups {
        let state = group.state.as_deref().unwrap_or("unknown");
        *states.entry(state).or_default() += u64::from(group.count);
    }
    states
}

fn locks(view: &LockView) -> Value {
    let waiters: u32 = view.waits.iter().map(|wait| wait.waiters).sum();
    let longest = view.waits.iter().filter_map(|w| w.longest_wait_seconds);
    let mut verdicts: Map<String, Value> = Map::new();
    for verdict in view.advisory_locks.iter().map(|lock| lock.verdict) {
        let count = verdicts.get(verdict.as_str()).and_then(Value::as_u64);
        verdicts.insert(verdict.as_str().to_owned(), (count.unwrap_or(0) + 1).into());
    }
    json!({
        "waiters": waiters,
        "root_blockers": view.root_blockers.len(),
        "longest_wait_seconds": longest.reduce(f64::max),
        "advisory": verdicts,
    })
}

/// `None` without a pooler that answers. PAUSE makes everybody wait and is no
/// load: a paused database is left out, as for the detectors.
fn clients_waiting(poolers: &[(&String, &PoolerView)]) -> Option<u64> {
    let fresh = poolers.iter().filter(|(_, pooler)| pooler.fresh);
    fresh
        .map(|(_, pooler)| {
            let pools = pooler.report.pools.iter();
            let running = pools.filter(|pool| !is_paused(pooler, pool));
            running.map(|pool| u64::from(pool.cl_waiting)).sum::<u64>()
        })
        .reduce(|a, b| a + b)
}

fn is_paused(pooler: &PoolerView, pool: &Pool) -> bool {
    let mut databases = pooler.report.databases.iter();
    databases.any(|database| database.name == pool.database && database.paused)
}

/// The pools that matter most, and how many there are besides.
fn pools(poolers: &[(&String, &PoolerView)]) -> (Vec<Value>, usize) {
    let mut all: Vec<(&String, &PoolerView, &Pool)> = poolers
        .iter()
        .flat_map(|&(name, pooler)| {
            pooler
                .report
                .pools
                .iter()
                .map(move |pool| (name, pooler, pool))
        })
        .collect();
    let load = |pool: &Pool| (pool.cl_waiting, pool.sv_active, pool.cl_active);
    all.sort_by_key(|(_, _, pool)| std::cmp::Reverse(load(pool)));
    let left_out = all.len().saturating_sub(MAX_POOLS);
    all.truncate(MAX_POOLS);
    let shown = all.into_iter().map(|(name, pooler, pool)| {
        let mut databases = pooler.report.databases.iter();
        let database = databases.find(|database| database.name == pool.database);
        json!({
            "pooler": name,
            "fresh": pooler.fresh,
            "database": pool.database,
            "user": pool.user,
            "mode": pool.pool_mode,
            "size": database.map(|database| database.pool_size),
            "paused": is_paused(pooler, pool),
            "clients_active": pool.cl_active,
            "clients_waiting": pool.cl_waiting,
            "servers_active": pool.sv_active,
            "servers_idle": pool.sv_idle.saturating_add(pool.sv_used),
            "max_wait_seconds": pool.maxwait_us as f64 / MICROSECONDS,
        })
    });
    (shown.collect(), left_out)
}
