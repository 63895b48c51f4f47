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
    pub connection_avalanche: ConnectionAvalanche,
    pub connection_headroom: ConnectionHeadroom,
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
