//! What the engine knows at one moment, immutable, for everything that shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::incident::{Incident, Kind};
use crate::engine::locks::LockView;
use crate::engine::series::Counts;
use crate::engine::traffic::{RefusedPoints, TrafficView};
use crate::sample::{PgbouncerReport, PostgresReport, UnixSeconds};

/// The state of the engine after a sample.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Time of the newest sample.
    pub at: UnixSeconds,
    pub targets: BTreeMap<String, Arc<TargetView>>,
    pub poolers: BTreeMap<String, PoolerView>,
    /// Open incidents, oldest first.
    pub open: Vec<Arc<Incident>>,
    /// Resolved ones, newest first, a bounded number.
    pub resolved: Vec<Arc<Incident>>,
    /// Incidents ever opened by (target, kind).
    pub incidents_total: BTreeMap<(String, Kind), u64>,
    /// What the applications tell of their routes.
    pub traffic: Arc<TrafficView>,
    /// Points of traffic that the engine refused.
    pub refused_points: RefusedPoints,
    /// How full the history in memory is, and what it refused.
    pub history: Counts,
    /// Poolers whose `SHOW CLIENTS` a lock verdict needs at the next poll.
    pub clients_wanted: BTreeSet<String>,
}

/// One PostgreSQL server.
#[derive(Debug, Clone, Default)]
pub struct TargetView {
    /// The last poll that gave data.
    pub report: Arc<PostgresReport>,
    pub at: UnixSeconds,
    /// False when the newest poll failed: `report` is old then.
    pub fresh: bool,
    /// Statements seen at work whose tag may have been cut off, added up over
    /// all polls.
    pub truncated_comments_total: u64,
    /// The learnt band of sessions in use plus waiting; `None` while warming up.
    pub band: Option<Band>,
    pub locks: Arc<LockView>,
    /// Sessions that are not idle, by service and route tag, most first,
    /// bounded.
    pub routes: Vec<RouteSessions>,
}

/// What is normal for a watched quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    pub expected: f64,
    pub upper: f64,
}

/// Sessions busy for one route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteSessions {
    pub service: String,
    pub route: String,
    pub sessions: f64,
}

/// One PgBouncer process.
#[derive(Debug, Clone, Default)]
pub struct PoolerView {
    /// The last poll that gave data.
    pub report: Arc<PgbouncerReport>,
    pub at: UnixSeconds,
    /// False when the newest poll failed.
    pub fresh: bool,
}
