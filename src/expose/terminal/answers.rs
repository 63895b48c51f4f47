//! What the API answers, as far as the terminal shows it.
//!
//! Invariant: a field that is missing, and a word that is not known, is no
//! error: the daemon may be of another version.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::engine::incident::Attribution;
use crate::sample::UnixSeconds;

/// `/api/v1/now`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Now {
    pub at: UnixSeconds,
    pub served_at: UnixSeconds,
    pub started_at: UnixSeconds,
    pub version: String,
    pub targets: Vec<Target>,
    pub open_incidents: usize,
    /// Critical ones first.
    pub incidents: Vec<Incident>,
    pub sources: usize,
    pub sources_down: usize,
    pub down: Vec<Down>,
}

/// A source without an answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Down {
    pub source: String,
    pub name: String,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Target {
    pub name: String,
    pub fresh: bool,
    /// When it was seen last; `None`: never.
    pub at: Option<UnixSeconds>,
    pub error: Option<String>,
    pub in_recovery: Option<bool>,
    pub max_connections: Option<f64>,
    pub reserved_connections: Option<f64>,
    pub connections: Option<f64>,
    pub states: BTreeMap<String, f64>,
    pub in_use: Option<f64>,
    pub clients_waiting: Option<f64>,
    pub expected: Option<f64>,
    pub upper: Option<f64>,
    pub locks: LockCounts,
    pub pools: Vec<Pool>,
    pub pools_left_out: f64,
    pub open_incidents: Vec<String>,
}

impl Target {
    /// What is held against the expected band.
    pub fn watched(&self) -> Option<f64> {
        self.in_use
            .map(|used| used + self.clients_waiting.unwrap_or(0.0))
    }

    /// Sessions in one of these states.
    pub fn sessions(&self, states: &[&str]) -> f64 {
        let counts = states.iter().filter_map(|state| self.states.get(*state));
        counts.sum()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LockCounts {
    pub waiters: f64,
    pub longest_wait_seconds: Option<f64>,
    /// By verdict.
    pub advisory: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub pooler: String,
    pub fresh: bool,
    pub database: String,
    pub user: String,
    pub mode: String,
    pub size: Option<f64>,
    pub paused: bool,
    pub clients_waiting: f64,
    pub servers_active: f64,
    pub servers_idle: f64,
    pub max_wait_seconds: f64,
}

/// The record; `/api/v1/now` leaves out what only its own view shows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Incident {
    pub id: String,
    pub target: String,
    pub kind: String,
    pub severity: String,
    pub cause: Option<String>,
    pub onset_at: UnixSeconds,
    pub opened_at: UnixSeconds,
    pub resolved_at: Option<UnixSeconds>,
    pub subject: Map<String, Value>,
    pub summary: String,
    pub attribution: Vec<Attribution>,
    pub unexplained_share: Option<f64>,
    pub evidence: Vec<String>,
    pub actions: Vec<String>,
    pub runbook: String,
}

/// `/api/v1/incidents`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Incidents {
    pub incidents: Vec<Incident>,
}

/// `/api/v1/incidents/{id}/changes`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Changes {
    pub complete: bool,
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Change {
    pub t: UnixSeconds,
    pub event: String,
    pub incident: Incident,
}

/// `/api/v1/series`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Series {
    pub start: UnixSeconds,
    pub end: UnixSeconds,
    pub step: Option<f64>,
    pub series: Vec<Line>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Line {
    pub labels: BTreeMap<String, String>,
    pub values: Vec<(UnixSeconds, Option<f64>)>,
}

/// `/api/v1/locks?nodes=…`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Locks {
    pub targets: Vec<LockTarget>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LockTarget {
    pub name: String,
    pub at: UnixSeconds,
    pub fresh: bool,
    pub root_blockers: Vec<Root>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Root {
    /// `None` for a prepared transaction.
    pub pid: Option<i64>,
    pub prepared: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub application: Option<String>,
    pub client: Option<String>,
    pub state: Option<String>,
    pub transaction_seconds: Option<f64>,
    pub state_seconds: Option<f64>,
    pub query: Option<String>,
    pub holds: Vec<LockObject>,
    pub waiters: f64,
    pub direct_waiters: f64,
    pub longest_wait_seconds: Option<f64>,
    pub action: String,
    /// Each below the one it waits for.
    pub nodes: Vec<Node>,
    pub nodes_left_out: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LockObject {
    pub locktype: String,
    pub mode: String,
    pub object: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    /// 1: it waits for the root itself.
    pub depth: usize,
    pub pid: i64,
    pub waits_for: LockObject,
    pub wait_seconds: Option<f64>,
    pub application: Option<String>,
    pub query: Option<String>,
    pub queued: bool,
    pub order_assumed: bool,
}

/// `/api/v1/advisory-locks`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Advisories {
    pub targets: Vec<AdvisoryTarget>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AdvisoryTarget {
    pub name: String,
    pub at: UnixSeconds,
    pub fresh: bool,
    pub advisory_locks: Vec<Advisory>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Advisory {
    pub database: String,
    pub key: String,
    pub names: Vec<String>,
    pub allowed: bool,
    pub mode: String,
    pub pid: Option<i64>,
    pub prepared: Option<String>,
    pub verdict: String,
    pub reason: String,
    pub age_seconds: f64,
    pub waiters: f64,
    pub spinners: f64,
    pub pooler: Option<String>,
    pub pool: Option<PoolIdentity>,
    pub last_application: Option<String>,
    pub action: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PoolIdentity {
    pub database: String,
    pub user: String,
    pub pool_mode: String,
}

/// `/api/v1/routes`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Routes {
    pub routes: Vec<Route>,
    pub left_out: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub service: String,
    pub route: String,
    /// Requests at a time.
    pub concurrency: f64,
    pub targets: Vec<RouteTarget>,
    /// By the minute, of the last half hour.
    pub trend: Vec<Option<f64>>,
    pub sources: Vec<Told>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteTarget {
    pub target: String,
    pub tagged_connections: Option<f64>,
}

/// One way's figures of a route.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub source: Option<String>,
    pub requests_per_second: Option<f64>,
    pub hold_seconds: Option<f64>,
    pub hold_p50_seconds: Option<f64>,
    pub hold_p99_seconds: Option<f64>,
    pub database_seconds: Option<f64>,
    pub usual: Option<Usual>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Usual {
    pub requests_per_second: Option<f64>,
    pub hold_seconds: Option<f64>,
    pub concurrency: Option<f64>,
}

impl Route {
    /// The source that is believed first.
    pub fn told(&self) -> Option<&Told> {
        self.sources.first()
    }

    pub fn usual(&self) -> Option<&Usual> {
        self.told()?.usual.as_ref()
    }

    /// Sessions with its tag, on all targets; `None` where none is told.
    pub fn tagged(&self) -> Option<f64> {
        let told = self.targets.iter().filter_map(|t| t.tagged_connections);
        told.reduce(|a, b| a + b)
    }
}
