//! What the engine must be told: who stands in front of whom, what is allowed,
//! and how sensitive to be. Plain values, checked by [`crate::config`]; a capture
//! carries them in its first line, so their names are public.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use super::locks::key::LockKey;

/// Everything the engine is told at start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Names of the PostgreSQL servers, the label `target`.
    pub targets: Vec<String>,
    pub poolers: Vec<Pooler>,
    /// Every pooler process in front of the targets is among `poolers`.
    pub poolers_complete: bool,
    /// Networks that poolers connect from.
    pub pooler_addresses: Vec<IpNet>,
    pub services: Vec<Service>,
    pub advisory_locks: Vec<NamedLock>,
    pub detect: Detect,
}

/// A PgBouncer process that is polled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pooler {
    pub name: String,
    pub target: String,
}

/// An application whose routes are known by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub name: String,
    pub targets: Vec<String>,
    /// Globs (`*`, `?`) over `application_name`.
    pub applications: Vec<String>,
}

/// An advisory lock that a person has named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedLock {
    pub key: LockKey,
    #[serde(default)]
    pub name: String,
    /// A long-held one is normal: it never opens an incident.
    #[serde(default)]
    pub allow: bool,
}

/// Thresholds, one struct a detector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detect {
    pub orphaned_advisory_lock: OrphanedAdvisoryLock,
    pub try_lock_spin: TryLockSpin,
    pub connection_avalanche: ConnectionAvalanche,
    pub connection_headroom: ConnectionHeadroom,
    pub lock_pileup: LockPileup,
    pub migration_blocked: MigrationBlocked,
    pub hidden_deadlock: HiddenDeadlock,
    pub pool_deadlock: PoolDeadlock,
    pub ghost_waiter: GhostWaiter,
    pub idle_in_transaction: IdleInTransaction,
    pub prepared_transaction: PreparedTransaction,
    pub pool_saturation: PoolSaturation,
    pub reconnect_storm: ReconnectStorm,
    pub connection_leak: ConnectionLeak,
    pub excessive_latency: ExcessiveLatency,
    pub primary_unreachable: PrimaryUnreachable,
}

/// `[detect.orphaned_advisory_lock]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrphanedAdvisoryLock {
    pub enabled: bool,
    /// Seconds that an idle holder from a pooler's address must have held the
    /// lock before the verdict `suspect`.
    pub suspect_after: f64,
}

impl Default for OrphanedAdvisoryLock {
    fn default() -> Self {
        Self {
            enabled: true,
            suspect_after: 60.0,
        }
    }
}

/// `[detect.try_lock_spin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TryLockSpin {
    pub enabled: bool,
    /// Clients on one lock that make a spin.
    pub min_spinners: f64,
}

impl Default for TryLockSpin {
    fn default() -> Self {
        Self {
            enabled: true,
            min_spinners: 2.0,
        }
    }
}

/// `[detect.connection_avalanche]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionAvalanche {
    pub enabled: bool,
    pub sensitivity: Sensitivity,
    /// Seconds of history before the detector judges at all.
    pub warm_up: f64,
    /// Extra sessions below which nothing is an avalanche, whatever the noise.
    pub min_sessions: f64,
    /// Seconds back under the band before the incident is resolved.
    pub resolve_after: f64,
}

impl Default for ConnectionAvalanche {
    fn default() -> Self {
        Self {
            enabled: true,
            sensitivity: Sensitivity::Normal,
            warm_up: 120.0,
            min_sessions: 8.0,
            resolve_after: 300.0,
        }
    }
}

/// How far above the band an alarm lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    Low,
    #[default]
    Normal,
    High,
}

/// `[detect.connection_headroom]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionHeadroom {
    pub enabled: bool,
    /// Used part of the slots that ordinary roles can have, 0 to 1, at which
    /// the incident opens.
    pub open_ratio: f64,
    /// The part below which it is resolved.
    pub resolve_ratio: f64,
    /// Seconds that the ratio must hold, for both.
    pub hold: f64,
}

impl Default for ConnectionHeadroom {
    fn default() -> Self {
        Self {
            enabled: true,
            open_ratio: 0.85,
            resolve_ratio: 0.75,
            hold: 10.0,
        }
    }
}

/// `[detect.lock_pileup]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockPileup {
    pub enabled: bool,
    /// Sessions behind one blocker that make a pile-up. One is enough where the
    /// lock was left on a pooled server: nobody is going to release it.
    pub min_waiters: f64,
    /// Seconds that the longest of them must have waited.
    pub wait: f64,
}

impl Default for LockPileup {
    fn default() -> Self {
        Self {
            enabled: true,
            // Two writers of one row are a queue, and a third is a habit.
            min_waiters: 3.0,
            // A deadlock is found after one second (`deadlock_timeout`), and an
            // honest queue for a row is over in five.
            wait: 10.0,
        }
    }
}

/// `[detect.migration_blocked]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MigrationBlocked {
    pub enabled: bool,
    /// Seconds that a schema change may wait for its lock, or hold it, while
    /// others queue behind it.
    pub queue_after: f64,
    /// Seconds that it may wait while nobody is hurt but itself.
    pub alone_after: f64,
}

impl Default for MigrationBlocked {
    fn default() -> Self {
        Self {
            enabled: true,
            // Careful migrations set a `lock_timeout` of a few seconds and try
            // again; they stay below it.
            queue_after: 10.0,
            // CREATE INDEX CONCURRENTLY waits for every transaction that was
            // open before it: some minutes of reports are normal there.
            alone_after: 120.0,
        }
    }
}

/// `[detect.hidden_deadlock]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HiddenDeadlock {
    pub enabled: bool,
    /// Seconds that the waiter in the cycle must have waited.
    pub after: f64,
}

impl Default for HiddenDeadlock {
    fn default() -> Self {
        Self {
            enabled: true,
            // Ten times the server's own `deadlock_timeout`: such a cycle never
            // ends, so patience costs little.
            after: 10.0,
        }
    }
}

/// `[detect.pool_deadlock]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolDeadlock {
    pub enabled: bool,
    /// Seconds that the longest of the waiters must have waited.
    pub after: f64,
}

impl Default for PoolDeadlock {
    fn default() -> Self {
        Self {
            enabled: true,
            // Before the pool counts as merely saturated: that is the lesser
            // half of it.
            after: 5.0,
        }
    }
}

/// `[detect.ghost_waiter]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GhostWaiter {
    pub enabled: bool,
    /// Seconds that the backend must have waited.
    pub after: f64,
}

impl Default for GhostWaiter {
    fn default() -> Self {
        Self {
            enabled: true,
            // A cancel request of the pooler ends the wait within a second.
            after: 5.0,
        }
    }
}

/// `[detect.idle_in_transaction]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdleInTransaction {
    pub enabled: bool,
    /// Seconds idle while somebody waits for its locks.
    pub waiter_after: f64,
    /// Seconds idle while it holds locks that nobody waits for yet.
    pub long_after: f64,
}

impl Default for IdleInTransaction {
    fn default() -> Self {
        Self {
            enabled: true,
            // Longer than any call that an application should make between two
            // statements.
            waiter_after: 30.0,
            // A forgotten transaction; it holds back vacuum as well.
            long_after: 600.0,
        }
    }
}

/// `[detect.prepared_transaction]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparedTransaction {
    pub enabled: bool,
    /// Seconds since it was prepared, while somebody waits for its locks.
    pub waiter_after: f64,
    /// Seconds since it was prepared after which its coordinator has left it.
    pub after: f64,
}

impl Default for PreparedTransaction {
    fn default() -> Self {
        Self {
            enabled: true,
            waiter_after: 30.0,
            // The second phase follows within seconds; coordinators that were
            // restarted recover within a few minutes.
            after: 300.0,
        }
    }
}

/// `[detect.pool_saturation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolSaturation {
    pub enabled: bool,
    /// Seconds that the first client in the queue must have waited.
    pub wait: f64,
    /// Seconds that this must hold.
    pub hold: f64,
    /// Seconds without a queue before the incident is resolved.
    pub resolve_after: f64,
}

impl Default for PoolSaturation {
    fn default() -> Self {
        Self {
            enabled: true,
            // A pool that is merely busy hands out a server within milliseconds.
            wait: 1.0,
            // A burst is over by then.
            hold: 10.0,
            resolve_after: 30.0,
        }
    }
}

/// `[detect.reconnect_storm]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReconnectStorm {
    pub enabled: bool,
    /// Sessions opened a second below which nothing is a storm.
    pub min_rate: f64,
    /// How many times the normal rate.
    pub factor: f64,
    /// How many times the sessions that there were must have been replaced.
    pub turnover: f64,
    /// Seconds that it must last.
    pub hold: f64,
    /// Seconds at a normal rate before the incident is resolved.
    pub resolve_after: f64,
}

impl Default for ReconnectStorm {
    fn default() -> Self {
        Self {
            enabled: true,
            // Each costs the server a fork and a login.
            min_rate: 5.0,
            factor: 5.0,
            // A deploy makes one, and a bit more while old and new overlap.
            turnover: 2.0,
            // A deploy of processes that start together is over by then.
            hold: 20.0,
            resolve_after: 60.0,
        }
    }
}

/// `[detect.connection_leak]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionLeak {
    pub enabled: bool,
    /// Sessions that an application must have taken and kept.
    pub min_sessions: f64,
    /// Seconds of steady growth; 5, 20 and 60 times as long are looked at too,
    /// for slower leaks.
    pub window: f64,
}

impl Default for ConnectionLeak {
    fn default() -> Self {
        Self {
            enabled: true,
            min_sessions: 20.0,
            // A pool that fills after a deploy is full by then, or slows down.
            window: 60.0,
        }
    }
}

/// `[detect.excessive_latency]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExcessiveLatency {
    pub enabled: bool,
    /// How many times the normal mean query time.
    pub factor: f64,
    /// Seconds above it below which nothing is slow.
    pub min_rise: f64,
    /// Seconds that it must last.
    pub hold: f64,
    /// Seconds at a normal query time before the incident is resolved.
    pub resolve_after: f64,
    /// Seconds of history before the detector judges at all.
    pub warm_up: f64,
}

impl Default for ExcessiveLatency {
    fn default() -> Self {
        Self {
            enabled: true,
            factor: 3.0,
            // A request that asks a hundred times is half a second slower.
            min_rise: 0.005,
            // One long report ends within one look; a slow database stays.
            hold: 60.0,
            resolve_after: 60.0,
            warm_up: 600.0,
        }
    }
}

/// `[detect.primary_unreachable]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrimaryUnreachable {
    pub enabled: bool,
    /// Seconds that the server must refuse. Where it merely does not answer,
    /// six times as long.
    pub hold: f64,
}

impl Default for PrimaryUnreachable {
    fn default() -> Self {
        Self {
            enabled: true,
            // A restart takes two or three, a missed poll is one.
            hold: 5.0,
        }
    }
}
