//! The incident record and its life: opened, updated, resolved.
//!
//! Detectors say each tick what they find ([`Finding`]); the
//! [`Ledger`](super::ledger::Ledger) turns that into incidents and tells of
//! each change once. Hysteresis is the
//! detectors' business: a finding that is no longer given is resolved.

use serde::{Deserialize, Serialize};

use crate::sample::UnixSeconds;

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    OrphanedAdvisoryLock,
    TryLockSpin,
    ConnectionAvalanche,
    ConnectionHeadroom,
    LockPileup,
    MigrationBlocked,
    HiddenDeadlock,
    PoolDeadlock,
    GhostWaiter,
    IdleInTransaction,
    PreparedTransaction,
    PoolSaturation,
    ReconnectStorm,
    ConnectionLeak,
    ExcessiveLatency,
    PrimaryUnreachable,
}

impl Kind {
    /// Every kind, so that a metric can say 0 for those that are not open.
    pub const ALL: [Self; 16] = [
        Self::OrphanedAdvisoryLock,
        Self::TryLockSpin,
        Self::ConnectionAvalanche,
        Self::ConnectionHeadroom,
        Self::LockPileup,
        Self::MigrationBlocked,
        Self::HiddenDeadlock,
        Self::PoolDeadlock,
        Self::GhostWaiter,
        Self::IdleInTransaction,
        Self::PreparedTransaction,
        Self::PoolSaturation,
        Self::ReconnectStorm,
        Self::ConnectionLeak,
        Self::ExcessiveLatency,
        Self::PrimaryUnreachable,
    ];

    /// The word of the contract, also the name of the runbook.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrphanedAdvisoryLock => "orphaned_advisory_lock",
            Self::TryLockSpin => "try_lock_spin",
            Self::ConnectionAvalanche => "connection_avalanche",
            Self::ConnectionHeadroom => "connection_headroom",
            Self::LockPileup => "lock_pileup",
            Self::MigrationBlocked => "migration_blocked",
            Self::HiddenDeadlock => "hidden_deadlock",
            Self::PoolDeadlock => "pool_deadlock",
            Self::GhostWaiter => "ghost_waiter",
            Self::IdleInTransaction => "idle_in_transaction",
            Self::PreparedTransaction => "prepared_transaction",
            Self::PoolSaturation => "pool_saturation",
            Self::ReconnectStorm => "reconnect_storm",
            Self::ConnectionLeak => "connection_leak",
            Self::ExcessiveLatency => "excessive_latency",
            Self::PrimaryUnreachable => "primary_unreachable",
        }
    }

    /// The severity with which incidents of this kind open.
    pub fn severity(self) -> Severity {
        match self {
            Self::OrphanedAdvisoryLock
            | Self::ConnectionAvalanche
            | Self::LockPileup
            | Self::MigrationBlocked
            | Self::HiddenDeadlock
            | Self::PoolDeadlock
            | Self::PoolSaturation
            | Self::PrimaryUnreachable => Severity::Critical,
            Self::ConnectionHeadroom
            | Self::GhostWaiter
            | Self::IdleInTransaction
            | Self::PreparedTransaction
            | Self::TryLockSpin
            // What they lead to, an avalanche or slots that run out, pages.
            | Self::ReconnectStorm
            | Self::ConnectionLeak
            | Self::ExcessiveLatency => Severity::Warning,
        }
    }
}

/// How loud to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Warning,
    Critical,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Why connections rose. Only an avalanche has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// One endpoint, the first of the attribution.
    Endpoint,
    /// Sessions of another application than those whose endpoints are known.
    Application,
    /// Sessions wait for locks, behind a root blocker.
    LockPileup,
    /// Everybody opens sessions anew, without more requests.
    ReconnectStorm,
    /// Sessions are taken and not given back.
    Leak,
    /// More requests for all.
    BroadSurge,
    /// The same requests, all of them slower.
    SlowQueries,
    /// Nothing that was looked at explains it.
    Unknown,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::Endpoint,
        Self::Application,
        Self::LockPileup,
        Self::ReconnectStorm,
        Self::Leak,
        Self::BroadSurge,
        Self::SlowQueries,
        Self::Unknown,
    ];

    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Application => "application",
            Self::LockPileup => "lock_pileup",
            Self::ReconnectStorm => "reconnect_storm",
            Self::Leak => "leak",
            Self::BroadSurge => "broad_surge",
            Self::SlowQueries => "slow_queries",
            Self::Unknown => "unknown",
        }
    }
}

/// One candidate of an attribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attribution {
    pub service: String,
    pub route: String,
    /// Part of the extra connections that this route explains, 0 to 1.
    pub share: f64,
    /// That part, in connections.
    pub connections: f64,
    /// Requests/s now against the baseline; `None` without request counts.
    pub rate_change: Option<f64>,
    /// Seconds a request now against the baseline; `None` without durations.
    pub hold_change: Option<f64>,
    /// Of [`connections`](Self::connections), those of more requests than before
    /// and those of longer ones, by Little's law with measured durations; what
    /// all endpoints share is in neither. `None` without requests' figures.
    #[serde(default)]
    pub rate_part: Option<f64>,
    #[serde(default)]
    pub hold_part: Option<f64>,
    /// Probability that this is the right name, 0 to 1.
    pub confidence: f64,
}

/// The record that the API, the journal and alerts carry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// `<target>-<kind>-<onset, UTC>`.
    pub id: String,
    pub target: String,
    pub kind: Kind,
    pub severity: Severity,
    pub cause: Option<Cause>,
    /// The estimated start.
    pub onset_at: UnixSeconds,
    /// When it was declared.
    pub opened_at: UnixSeconds,
    pub resolved_at: Option<UnixSeconds>,
    /// What exactly: of a lock its database, key, pid, pooler and so on.
    pub subject: serde_json::Map<String, serde_json::Value>,
    pub summary: String,
    pub attribution: Vec<Attribution>,
    pub unexplained_share: Option<f64>,
    /// One sentence each, with figures.
    pub evidence: Vec<String>,
    /// The exact command or statement each.
    pub actions: Vec<String>,
    /// Name of the runbook.
    pub runbook: String,
}

/// What a detector holds to be true now, about one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub kind: Kind,
    /// Tells two findings of one kind apart, for example `app/42/4711`; empty
    /// when there can only be one a target.
    pub key: String,
    pub severity: Severity,
    pub cause: Option<Cause>,
    pub onset_at: UnixSeconds,
    pub subject: serde_json::Map<String, serde_json::Value>,
    pub summary: String,
    pub attribution: Vec<Attribution>,
    pub unexplained_share: Option<f64>,
    pub evidence: Vec<String>,
    pub actions: Vec<String>,
}

/// What the engine asks of the world after a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The sample's time at which the engine changed its mind.
    pub t: UnixSeconds,
    pub event: Event,
    pub incident: Incident,
    /// [`Finding::key`]: what the incident is known by to its detector. No part
    /// of the record; the journal keeps it.
    #[serde(skip)]
    pub key: String,
}

/// How an incident changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Opened,
    Updated,
    Resolved,
}
