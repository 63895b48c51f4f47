//! The locks of one target as people and programs see them; the field names are
//! those of `snowpit locks --json`.

use serde::Serialize;

/// The locks of one target, as `snowpit locks --json` prints them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LockView {
    /// The target.
    pub name: String,
    pub root_blockers: Vec<RootBlocker>,
    pub advisory_locks: Vec<AdvisoryLock>,
    /// Rows of the lock table are missing: there may be more root blockers, and
    /// more waiters behind those that are told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Longest chain of waiters behind a root blocker.
    #[serde(skip)]
    pub chain_depth: u32,
    /// Waiters and the longest wait in seconds, by lock type.
    #[serde(skip)]
    pub waits: Vec<WaitsByType>,
    /// How long waits took that are over, by lock type.
    #[serde(skip)]
    pub wait_times: Vec<WaitTimes>,
    /// Who spins on a lock without waiting for it.
    #[serde(skip)]
    pub spinners: Vec<Spinners>,
}

/// Sessions that wait for one type of lock.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WaitsByType {
    pub locktype: String,
    pub waiters: u32,
    /// `None` when no waiter's start is known (PostgreSQL 14+ has it).
    pub longest_wait_seconds: Option<f64>,
}

/// Waits for one type of lock that are over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WaitTimes {
    pub locktype: String,
    /// Upper bounds in seconds, the last infinite, and how many ended in each
    /// bucket alone.
    pub counts: Vec<(f64, u64)>,
    pub sum_seconds: f64,
}

/// Clients that ask for a held advisory lock again and again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spinners {
    pub database: String,
    pub key: String,
    /// Behind a pooler an upper bound.
    pub clients: u32,
}

/// A session that blocks others and waits for nobody.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RootBlocker {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The gid of a prepared transaction.
    pub prepared: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub application: Option<String>,
    pub client: Option<String>,
    pub state: Option<String>,
    pub transaction_seconds: Option<f64>,
    pub state_seconds: Option<f64>,
    /// Redacted.
    pub query: Option<String>,
    pub holds: Vec<LockObject>,
    /// Through any chain.
    pub waiters: u32,
    pub direct_waiters: u32,
    pub longest_wait_seconds: Option<f64>,
    /// The longest chain behind it: 1 when everybody waits for it directly.
    pub depth: u32,
    /// The gentlest way out.
    pub action: String,
    pub tree: Vec<WaitNode>,
}

/// What is locked, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LockObject {
    pub locktype: String,
    pub mode: String,
    pub object: String,
}

/// A waiter and those who wait for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WaitNode {
    pub pid: i32,
    pub waits_for: LockObject,
    pub wait_seconds: Option<f64>,
    pub application: Option<String>,
    pub state: Option<String>,
    /// Redacted.
    pub query: Option<String>,
    /// It waits for its parent's place in the queue, not for a lock that its
    /// parent holds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
    /// PostgreSQL does not tell the order of this queue; it is the likely one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub order_assumed: bool,
    pub tree: Vec<WaitNode>,
}

/// What is to be thought of one advisory lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Owned,
    Orphaned,
    Stranded,
    Carried,
    Suspect,
    Unknown,
    Prepared,
}

impl Verdict {
    pub const ALL: [Self; 7] = [
        Self::Owned,
        Self::Orphaned,
        Self::Stranded,
        Self::Carried,
        Self::Suspect,
        Self::Unknown,
        Self::Prepared,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Orphaned => "orphaned",
            Self::Stranded => "stranded",
            Self::Carried => "carried",
            Self::Suspect => "suspect",
            Self::Unknown => "unknown",
            Self::Prepared => "prepared",
        }
    }
}

/// One granted advisory lock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdvisoryLock {
    pub database: String,
    /// A bigint, or `"1,7"` for two int4.
    pub key: String,
    /// From the configuration and the catalogue of well-known keys: candidates.
    pub names: Vec<String>,
    /// Named in the configuration with `allow = true`.
    pub allowed: bool,
    pub mode: String,
    pub pid: Option<i32>,
    pub prepared: Option<String>,
    pub verdict: Verdict,
    /// Why this verdict, one sentence.
    pub reason: String,
    /// Since it was first seen, or since the transaction that took it began: a
    /// lower bound.
    pub age_seconds: f64,
    /// Sessions blocked on it.
    pub waiters: u32,
    /// Clients that lately tried for it in vain; behind a pooler an upper bound.
    pub spinners: u32,
    pub pooler: Option<String>,
    pub pool: Option<PoolIdentity>,
    /// The name of the application that used the server last: a clue.
    pub last_application: Option<String>,
    /// The command that frees it; empty when nothing needs freeing.
    pub action: String,
}

/// Which pool of a pooler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolIdentity {
    pub database: String,
    pub user: String,
    pub pool_mode: String,
}
