//! The vocabulary: what an edge hands to the engine.
//!
//! These types are also the capture format, one JSON object a line, so their
//! field names are public. Invariants: absent and `null` mean the same; unknown
//! fields are ignored; every list is bounded by the edge that fills it; query
//! text is already redacted when it gets here.

mod lock_call;
mod pgbouncer;

use serde::{Deserialize, Deserializer, Serialize};

pub use lock_call::{LockCall, StatementCalls};
pub use pgbouncer::{
    ClientSocket, Lists, PgbouncerReport, Pool, PoolDatabase, PoolStats, PoolerConfig, ServerSocket,
};

/// Seconds since the Unix epoch, with a fraction.
pub type UnixSeconds = f64;

/// One poll of a server, or one report of endpoint traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When the edge began to look.
    pub t: UnixSeconds,
    #[serde(flatten)]
    pub report: Report,
}

/// What was seen, by kind of source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum Report {
    Postgres(PostgresReport),
    Pgbouncer(PgbouncerReport),
    Traffic(TrafficReport),
}

/// Why a poll gave no data. The wire names are the `reason` label of
/// `snowpit_poll_failures_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    Timeout,
    Refused,
    /// SQLSTATE 53300: the server has no free connection slot. A finding, not
    /// only a failure.
    TooManyConnections,
    Auth,
    Tls,
    Permission,
    Protocol,
    #[serde(other)]
    Other,
}

impl FailureReason {
    /// Every reason, so that a counter can start at 0 before its first failure.
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Refused,
        Self::TooManyConnections,
        Self::Auth,
        Self::Tls,
        Self::Permission,
        Self::Protocol,
        Self::Other,
    ];

    /// The label value, the same word as in a capture.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::TooManyConnections => "too_many_connections",
            Self::Auth => "auth",
            Self::Tls => "tls",
            Self::Permission => "permission",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }
}

/// One look at a PostgreSQL server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresReport {
    pub target: String,
    /// Set when the poll failed; every field of data is then empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureReason>,
    /// With `error`: what was wrong, and what to do about it, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_text: Option<String>,
    /// With `error`: the server itself sent it, so it is up. Absent when that is
    /// not known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// Sum of `pg_stat_database.sessions` (14+); a counter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_opened_total: Option<u64>,
    /// Every client backend once, grouped on the server.
    #[serde(deserialize_with = "null_as_default")]
    pub groups: Vec<Group>,
    /// Statements at work that fill `track_activity_query_size` and show no
    /// tag: their comment may be what was cut off.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated_comments: u32,
    /// Single rows of the sessions that matter: lock holders and waiters, the
    /// oldest transactions, try-lock callers, a bounded sample of the active.
    #[serde(deserialize_with = "null_as_default")]
    pub backends: Vec<Backend>,
    /// Locks that are advisory or not granted, and those of the holders in
    /// their way.
    #[serde(deserialize_with = "null_as_default")]
    pub locks: Vec<Lock>,
    /// The whole lock table, counted on the server.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub lock_counts: Vec<LockCount>,
    /// True when the poller's own limit cut `locks` or `backends`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// True when that limit cut `locks`: blockers may be missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub locks_truncated: bool,
    /// What `pg_blocking_pids` says of some waiters: those for whom the order
    /// of a queue matters, which `locks` does not show.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub blocking: Vec<Blocking>,
    /// Prepared transactions (`pg_prepared_xacts`), which hold locks without a
    /// backend.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub prepared: Vec<PreparedTransaction>,
    /// Index builds that run now (`pg_stat_progress_create_index`); read only
    /// while one may be in a wait.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub index_builds: Vec<IndexBuild>,
    /// Calls of the statements that try for advisory locks, by
    /// `pg_stat_statements`; read now and then, while there are any.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub statements: Vec<StatementCalls>,
    /// Names of the databases of this server; key formulas need them.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub databases: Vec<String>,
    /// False when the role cannot see other sessions' state
    /// (no `pg_read_all_stats`); absent in captures of other tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sees_all_sessions: Option<bool>,
}

/// Facts of the server itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// `server_version_num`, for example 150018.
    pub version: Option<u32>,
    /// `clock_timestamp()` of this poll: what sets the server's time stamps
    /// against the sample's `t`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<UnixSeconds>,
    /// `pg_postmaster_start_time()`.
    pub started_at: Option<UnixSeconds>,
    pub in_recovery: Option<bool>,
    pub max_connections: Option<u32>,
    /// `superuser_reserved_connections` + `reserved_connections` (16+).
    pub reserved_connections: Option<u32>,
}

/// A number of client backends that are alike in every field but the pid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    pub database: Option<String>,
    pub user: Option<String>,
    pub application: Option<String>,
    /// `client_addr` as text; `None` over a unix socket.
    pub client: Option<String>,
    /// `pg_stat_activity.state`, for example `idle in transaction`.
    pub state: Option<String>,
    /// `None` when the session is idle: an idle session always shows
    /// `Client/ClientRead`, which says nothing.
    pub wait_event_type: Option<String>,
    pub wait_event: Option<String>,
    /// The route tag of the running statement's comment; `None` when idle or
    /// untagged.
    pub route: Option<String>,
    pub count: u32,
    /// Of these, sessions that began in the ten seconds before the look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub young: Option<u32>,
}

/// One backend of `pg_stat_activity`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backend {
    pub pid: i32,
    /// With `pid` the identity of a backend: pids come back.
    pub backend_start: Option<UnixSeconds>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub application: Option<String>,
    pub client: Option<String>,
    /// -1 over a unix socket.
    pub client_port: Option<i32>,
    pub state: Option<String>,
    pub wait_event_type: Option<String>,
    pub wait_event: Option<String>,
    pub xact_start: Option<UnixSeconds>,
    pub query_start: Option<UnixSeconds>,
    pub state_change: Option<UnixSeconds>,
    /// `backend_xmin` is set: the session holds back vacuum.
    pub holds_xmin: bool,
    pub query_id: Option<i64>,
    /// The last statement, redacted and cut.
    pub query: Option<String>,
    /// The advisory locks that this statement takes, read before it was
    /// redacted.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub lock_calls: Vec<LockCall>,
    /// The parallel leader's pid of a parallel worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_pid: Option<i32>,
    /// `backend_xid` is set: its transaction has written, so that it holds locks
    /// on rows or tables.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub has_written: bool,
}

/// One row of `pg_locks`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lock {
    /// `None`: a prepared transaction holds it.
    pub pid: Option<i32>,
    pub locktype: String,
    pub database: Option<String>,
    /// The oid of the relation, as text, or its name where that is known.
    pub relation: Option<String>,
    /// The oid, which stays the same when a name moves to another relation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation_oid: Option<u32>,
    pub page: Option<i64>,
    pub tuple: Option<i64>,
    pub mode: String,
    pub granted: bool,
    /// Ends in `/0` when the backend has no transaction; `-1/XID` of a prepared
    /// transaction.
    pub virtualtransaction: Option<String>,
    pub classid: Option<u32>,
    pub objid: Option<u32>,
    /// Of an advisory lock: 1 for a bigint key, 2 for two int4 keys.
    pub objsubid: Option<i32>,
    pub transactionid: Option<String>,
    pub virtualxid: Option<String>,
    /// Since when a request waits (14+); NULL for a moment, and for holders.
    pub waitstart: Option<UnixSeconds>,
}

/// The answer of `pg_blocking_pids`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blocking {
    pub pid: i32,
    /// Whom it waits for; leaders stand for their parallel groups, 0 for a
    /// prepared transaction.
    pub by: Vec<i32>,
}

/// How many rows of `pg_locks` are alike in these columns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockCount {
    pub locktype: String,
    pub mode: String,
    pub granted: bool,
    pub count: u32,
}

/// One row of `pg_prepared_xacts`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparedTransaction {
    /// The transaction id, as in `virtualtransaction` behind `-1/`.
    pub transaction: String,
    pub gid: String,
    pub prepared: Option<UnixSeconds>,
    pub owner: Option<String>,
    pub database: Option<String>,
}

/// One row of `pg_stat_progress_create_index`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexBuild {
    pub pid: i32,
    /// For example `CREATE INDEX CONCURRENTLY`.
    pub command: Option<String>,
    /// For example `waiting for old snapshots`.
    pub phase: Option<String>,
    /// The table's name, or its oid as text.
    pub relation: Option<String>,
    /// Transactions to be waited for in this phase, and those that are over.
    pub lockers_total: Option<i64>,
    pub lockers_done: Option<i64>,
    /// The backend that is being waited for.
    pub current_locker: Option<i32>,
    pub blocks_total: Option<i64>,
    pub blocks_done: Option<i64>,
}

/// Requests that ended in the `interval` seconds up to `until`, by route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficReport {
    pub service: String,
    /// How it came in. The same request can be told of in several ways, so
    /// figures of different ways are never added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<TrafficVia>,
    /// Absent: up to the sample's `t`.
    pub until: Option<UnixSeconds>,
    pub interval: f64,
    #[serde(deserialize_with = "null_as_default")]
    pub routes: Vec<RouteTraffic>,
}

/// One route's requests in a [`TrafficReport`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteTraffic {
    pub route: String,
    pub requests: f64,
    /// Sum of the durations of those requests.
    pub duration_seconds: f64,
    /// Requests running now, where the application reports it.
    pub in_flight: Option<f64>,
    /// Time that those requests spent in calls of the database, where traces
    /// tell of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_seconds: Option<f64>,
    /// The same requests by duration, where the source has a histogram; sparse,
    /// not cumulative, ascending.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub durations: Vec<DurationBucket>,
}

/// Requests that took longer than the bucket before and at most `upper` seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DurationBucket {
    /// Absent: no upper bound.
    pub upper: Option<f64>,
    pub count: f64,
}

/// The way that endpoint traffic came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrafficVia {
    /// OTLP metrics.
    OtlpMetrics,
    /// Spans of OTLP traces.
    OtlpSpans,
    /// The application's own metrics page.
    Scrape,
    #[serde(other)]
    Other,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
