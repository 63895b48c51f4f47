//! Stage one: the file's shape. Which tables and keys there are, of which kind
//! their values are, and nothing about how they fit together.

use std::ops::Range;
use std::time::Duration;

use super::reader::{Table, Text};
use super::{alertmanager, listener};
use crate::engine::settings::{
    ConnectionAvalanche, ConnectionHeadroom, ConnectionLeak, Detect, ExcessiveLatency, GhostWaiter,
    HiddenDeadlock, IdleInTransaction, LockPileup, MigrationBlocked, OrphanedAdvisoryLock,
    PoolDeadlock, PoolSaturation, PreparedTransaction, PrimaryUnreachable, ReconnectStorm,
    Sensitivity, TryLockSpin,
};

/// Below this a poll would still be running when the next is due, above it no
/// detector has anything to work with.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// A week: a threshold beyond it never acts on what is kept in memory.
const MAX_THRESHOLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often a source is looked at when the file says nothing.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// How long history is kept when the file says nothing: a long weekend.
const DEFAULT_RETENTION: Duration = Duration::from_secs(72 * 3600);

/// Below this nothing is learnt from it; above it a disk fills unnoticed.
const RETENTIONS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(366 * 24 * 3600);

/// How often an application's metrics are read when the file says nothing. A
/// page is dearer for it than a look for a server.
const DEFAULT_SCRAPE_INTERVAL: Duration = Duration::from_secs(5);

/// Above this what a page tells is news no more.
const SCRAPE_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(120);

/// How long a page may take when the file says nothing.
const DEFAULT_SCRAPE_TIMEOUT: Duration = Duration::from_secs(3);

/// Below this a busy application never answers in time; above it its figures
/// come too late for any use.
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);

/// Below this a busy moment looks like a leak; above it the longest window is
/// longer than traffic is remembered.
const LEAK_WINDOWS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(300);

/// The whole file.
pub(super) struct File {
    pub(super) server: listener::Server,
    pub(super) postgres: Vec<Source>,
    pub(super) pgbouncer: Vec<Source>,
    pub(super) poolers: Poolers,
    pub(super) services: Vec<Service>,
    pub(super) locks: Vec<Lock>,
    pub(super) history: History,
    pub(super) otlp: listener::Otlp,
    pub(super) telemetry_endpoint: Option<Text>,
    pub(super) alertmanager: alertmanager::Section,
    pub(super) detect: Detect,
}

/// `[[postgres]]` or `[[pgbouncer]]`. A required key is absent only when its
/// absence was reported.
pub(super) struct Source {
    pub(super) header: Range<usize>,
    pub(super) name: Option<Text>,
    /// Of a `[[pgbouncer]]`.
    pub(super) target: Option<Text>,
    pub(super) dsn: Option<Text>,
    pub(super) password_file: Option<Text>,
    pub(super) interval: Duration,
}

/// `[poolers]`
pub(super) struct Poolers {
    pub(super) complete: bool,
    pub(super) addresses: Vec<Text>,
}

/// `[[service]]`
pub(super) struct Service {
    pub(super) name: Option<Text>,
    pub(super) targets: Option<Vec<Text>>,
    pub(super) applications: Vec<Text>,
    pub(super) scrape: Option<Scrape>,
}

/// `[service.scrape]`
pub(super) struct Scrape {
    pub(super) urls: Vec<Text>,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) login: Login,
    pub(super) metric: Option<Text>,
    pub(super) route_labels: Vec<Text>,
}

/// Who we are to a server of HTTP, and whom we trust.
pub(super) struct Login {
    pub(super) username: Option<Text>,
    pub(super) password_file: Option<Text>,
    pub(super) bearer_token_file: Option<Text>,
    pub(super) ca_file: Option<Text>,
}

/// `[history]`
pub(super) struct History {
    pub(super) header: Range<usize>,
    pub(super) directory: Option<Text>,
    pub(super) retention: Duration,
    pub(super) capture: bool,
}

/// `[[advisory_lock]]`
pub(super) struct Lock {
    pub(super) key: Option<(Vec<i64>, Range<usize>)>,
    pub(super) name: Option<Text>,
    pub(super) allow: bool,
}

/// Reads every table of the file.
pub(super) fn read(root: Table<'_>) -> File {
    let file = File {
        server: listener::read_server(root.child("server")),
        postgres: each(&root, "postgres", |table| read_source(table, false)),
        pgbouncer: each(&root, "pgbouncer", |table| read_source(table, true)),
        poolers: read_poolers(root.child("poolers")),
        services: each(&root, "service", read_service),
        locks: each(&root, "advisory_lock", read_lock),
        history: read_history(root.child("history")),
        otlp: listener::read_otlp(root.child("otlp")),
        telemetry_endpoint: read_telemetry(root.child("telemetry")),
        alertmanager: alertmanager::read(root.child("alertmanager")),
        detect: read_detect(root.child("detect")),
    };
    root.unsupported(&["remote_write"]);
    root.finish();
    file
}

fn each<T>(root: &Table<'_>, key: &'static str, read: impl Fn(Table<'_>) -> T) -> Vec<T> {
    root.children(key).into_iter().map(read).collect()
}

fn read_source(table: Table<'_>, has_target: bool) -> Source {
    let source = Source {
        header: table.header(),
        name: table.required_text("name"),
        target: has_target.then(|| table.required_text("target")).flatten(),
        dsn: table.required_text("dsn"),
        password_file: table.text("password_file"),
        interval: table.duration("interval", DEFAULT_INTERVAL, INTERVALS),
    };
    table.finish();
    source
}

fn read_poolers(table: Table<'_>) -> Poolers {
    let poolers = Poolers {
        complete: table.boolean("complete", false),
        addresses: table.texts("addresses").unwrap_or_default(),
    };
    table.finish();
    poolers
}

fn read_service(table: Table<'_>) -> Service {
    let service = Service {
        name: table.required_text("name"),
        targets: table.texts("targets"),
        applications: table.required_texts("applications"),
        scrape: table.optional_child("scrape").map(read_scrape),
    };
    table.finish();
    service
}

fn read_scrape(table: Table<'_>) -> Scrape {
    let scrape = Scrape {
        urls: table.one_or_more("url"),
        interval: table.duration("interval", DEFAULT_SCRAPE_INTERVAL, SCRAPE_INTERVALS),
        timeout: table.duration("timeout", DEFAULT_SCRAPE_TIMEOUT, TIMEOUTS),
        login: read_login(&table),
        metric: table.text("metric"),
        route_labels: table.texts("route_labels").unwrap_or_default(),
    };
    table.finish();
    scrape
}

pub(super) fn read_login(table: &Table<'_>) -> Login {
    Login {
        username: table.text("username"),
        password_file: table.text("password_file"),
        bearer_token_file: table.text("bearer_token_file"),
        ca_file: table.text("ca_file"),
    }
}

fn read_history(table: Table<'_>) -> History {
    let history = History {
        header: table.header(),
        directory: table.text("directory"),
        retention: table.duration("retention", DEFAULT_RETENTION, RETENTIONS),
        capture: table.boolean("capture", false),
    };
    table.finish();
    history
}

fn read_telemetry(table: Table<'_>) -> Option<Text> {
    let endpoint = table.text("otlp_endpoint");
    table.finish();
    endpoint
}

fn read_lock(table: Table<'_>) -> Lock {
    let lock = Lock {
        key: table.integers("key"),
        name: table.required_text("name"),
        allow: table.boolean("allow", false),
    };
    table.finish();
    lock
}

// The literals below name every field, so that a threshold which the file
// cannot set does not compile.

fn read_detect(table: Table<'_>) -> Detect {
    let detect = Detect {
        orphaned_advisory_lock: read_orphaned(table.child("orphaned_advisory_lock")),
        try_lock_spin: read_spin(table.child("try_lock_spin")),
        connection_avalanche: read_avalanche(table.child("connection_avalanche")),
        connection_headroom: read_headroom(table.child("connection_headroom")),
        lock_pileup: read_pileup(table.child("lock_pileup")),
        migration_blocked: read_migration(table.child("migration_blocked")),
        hidden_deadlock: read_hidden(table.child("hidden_deadlock")),
        pool_deadlock: read_pool_deadlock(table.child("pool_deadlock")),
        ghost_waiter: read_ghost(table.child("ghost_waiter")),
        idle_in_transaction: read_idle(table.child("idle_in_transaction")),
        prepared_transaction: read_prepared(table.child("prepared_transaction")),
        pool_saturation: read_saturation(table.child("pool_saturation")),
        reconnect_storm: read_storm(table.child("reconnect_storm")),
        connection_leak: read_leak(table.child("connection_leak")),
        excessive_latency: read_latency(table.child("excessive_latency")),
        primary_unreachable: read_unreachable(table.child("primary_unreachable")),
    };
    table.finish();
    detect
}

fn read_orphaned(table: Table<'_>) -> OrphanedAdvisoryLock {
    let default = OrphanedAdvisoryLock::default();
    let orphaned = OrphanedAdvisoryLock {
        enabled: table.boolean("enabled", default.enabled),
        suspect_after: seconds(&table, "suspect_after", default.suspect_after),
    };
    table.finish();
    orphaned
}

fn read_spin(table: Table<'_>) -> TryLockSpin {
    let default = TryLockSpin::default();
    let spin = TryLockSpin {
        enabled: table.boolean("enabled", default.enabled),
        min_spinners: table.number("min_spinners", default.min_spinners, 2.0..=100_000.0),
    };
    table.finish();
    spin
}

fn read_avalanche(table: Table<'_>) -> ConnectionAvalanche {
    let default = ConnectionAvalanche::default();
    let avalanche = ConnectionAvalanche {
        enabled: table.boolean("enabled", default.enabled),
        sensitivity: table.choice("sensitivity", default.sensitivity, &SENSITIVITIES),
        warm_up: seconds(&table, "warm_up", default.warm_up),
        min_sessions: table.number("min_sessions", default.min_sessions, 1.0..=100_000.0),
        resolve_after: seconds(&table, "resolve_after", default.resolve_after),
    };
    table.finish();
    avalanche
}

const SENSITIVITIES: [(&str, Sensitivity); 3] = [
    ("low", Sensitivity::Low),
    ("normal", Sensitivity::Normal),
    ("high", Sensitivity::High),
];

fn read_headroom(table: Table<'_>) -> ConnectionHeadroom {
    let default = ConnectionHeadroom::default();
    let headroom = ConnectionHeadroom {
        enabled: table.boolean("enabled", default.enabled),
        open_ratio: table.number("open_ratio", default.open_ratio, 0.0..=1.0),
        resolve_ratio: table.number("resolve_ratio", default.resolve_ratio, 0.0..=1.0),
        hold: seconds(&table, "hold", default.hold),
    };
    // Otherwise the incident would open and resolve at every poll.
    if headroom.resolve_ratio > headroom.open_ratio {
        table.report(
            table.header(),
            format!(
                "\"resolve_ratio\" ({}) must not be above \"open_ratio\" ({})",
                headroom.resolve_ratio, headroom.open_ratio
            ),
        );
    }
    table.finish();
    headroom
}

fn read_pileup(table: Table<'_>) -> LockPileup {
    let default = LockPileup::default();
    let read = LockPileup {
        enabled: table.boolean("enabled", default.enabled),
        min_waiters: table.number("min_waiters", default.min_waiters, 1.0..=10_000.0),
        wait: seconds(&table, "wait", default.wait),
    };
    table.finish();
    read
}

fn read_migration(table: Table<'_>) -> MigrationBlocked {
    let default = MigrationBlocked::default();
    let read = MigrationBlocked {
        enabled: table.boolean("enabled", default.enabled),
        queue_after: seconds(&table, "queue_after", default.queue_after),
        alone_after: seconds(&table, "alone_after", default.alone_after),
    };
    table.finish();
    read
}

fn read_hidden(table: Table<'_>) -> HiddenDeadlock {
    let default = HiddenDeadlock::default();
    let read = HiddenDeadlock {
        enabled: table.boolean("enabled", default.enabled),
        after: seconds(&table, "after", default.after),
    };
    table.finish();
    read
}

fn read_pool_deadlock(table: Table<'_>) -> PoolDeadlock {
    let default = PoolDeadlock::default();
    let read = PoolDeadlock {
        enabled: table.boolean("enabled", default.enabled),
        after: seconds(&table, "after", default.after),
    };
    table.finish();
    read
}

fn read_ghost(table: Table<'_>) -> GhostWaiter {
    let default = GhostWaiter::default();
    let read = GhostWaiter {
        enabled: table.boolean("enabled", default.enabled),
        after: seconds(&table, "after", default.after),
    };
    table.finish();
    read
}

fn read_idle(table: Table<'_>) -> IdleInTransaction {
    let default = IdleInTransaction::default();
    let read = IdleInTransaction {
        enabled: table.boolean("enabled", default.enabled),
        waiter_after: seconds(&table, "waiter_after", default.waiter_after),
        long_after: seconds(&table, "long_after", default.long_after),
    };
    table.finish();
    read
}

fn read_prepared(table: Table<'_>) -> PreparedTransaction {
    let default = PreparedTransaction::default();
    let read = PreparedTransaction {
        enabled: table.boolean("enabled", default.enabled),
        waiter_after: seconds(&table, "waiter_after", default.waiter_after),
        after: seconds(&table, "after", default.after),
    };
    table.finish();
    read
}

fn read_saturation(table: Table<'_>) -> PoolSaturation {
    let default = PoolSaturation::default();
    let read = PoolSaturation {
        enabled: table.boolean("enabled", default.enabled),
        wait: seconds(&table, "wait", default.wait),
        hold: seconds(&table, "hold", default.hold),
        resolve_after: seconds(&table, "resolve_after", default.resolve_after),
    };
    table.finish();
    read
}

fn read_storm(table: Table<'_>) -> ReconnectStorm {
    let default = ReconnectStorm::default();
    let read = ReconnectStorm {
        enabled: table.boolean("enabled", default.enabled),
        min_rate: table.number("min_rate", default.min_rate, 0.1..=100_000.0),
        factor: table.number("factor", default.factor, 1.0..=1_000.0),
        turnover: table.number("turnover", default.turnover, 0.1..=1_000.0),
        hold: seconds(&table, "hold", default.hold),
        resolve_after: seconds(&table, "resolve_after", default.resolve_after),
    };
    table.finish();
    read
}

fn read_leak(table: Table<'_>) -> ConnectionLeak {
    let default = ConnectionLeak::default();
    let read = ConnectionLeak {
        enabled: table.boolean("enabled", default.enabled),
        min_sessions: table.number("min_sessions", default.min_sessions, 2.0..=100_000.0),
        window: table
            .duration(
                "window",
                Duration::from_secs_f64(default.window),
                LEAK_WINDOWS,
            )
            .as_secs_f64(),
    };
    table.finish();
    read
}

fn read_latency(table: Table<'_>) -> ExcessiveLatency {
    let default = ExcessiveLatency::default();
    let read = ExcessiveLatency {
        enabled: table.boolean("enabled", default.enabled),
        factor: table.number("factor", default.factor, 1.1..=1_000.0),
        min_rise: seconds(&table, "min_rise", default.min_rise),
        hold: seconds(&table, "hold", default.hold),
        resolve_after: seconds(&table, "resolve_after", default.resolve_after),
        warm_up: seconds(&table, "warm_up", default.warm_up),
    };
    table.finish();
    read
}

fn read_unreachable(table: Table<'_>) -> PrimaryUnreachable {
    let default = PrimaryUnreachable::default();
    let read = PrimaryUnreachable {
        enabled: table.boolean("enabled", default.enabled),
        hold: seconds(&table, "hold", default.hold),
    };
    table.finish();
    read
}

/// A duration that the engine holds in seconds.
fn seconds(table: &Table<'_>, key: &'static str, default: f64) -> f64 {
    let default = Duration::from_secs_f64(default);
    table
        .duration(key, default, Duration::ZERO..=MAX_THRESHOLD)
        .as_secs_f64()
}
