//! What one Alertmanager was told, and what it has to be told next.
//!
//! Pure but for the types of time: each call is told what time it is. An alert
//! is one (target, kind); of several incidents it carries the gravest, then the
//! oldest. Invariant: whatever may have been told as firing is told as resolved
//! when it is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::alert::{self, Alert, Link};
use crate::engine::Snapshot;
use crate::engine::incident::{Incident, Kind};
use crate::sample::UnixSeconds;

/// An open alert is sent again after this, changed or not: six times before it
/// expires.
const REFRESH: Duration = Duration::from_secs(30);

/// And after this when its record has changed: evidence that comes a few seconds
/// late is there before Alertmanager has waited for its group.
const CHANGED: Duration = Duration::from_secs(5);

/// What tells one alert from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub target: String,
    pub kind: Kind,
}

/// An alert as the engine has it now.
#[derive(Debug, Clone)]
struct Open {
    leading: Arc<Incident>,
    /// Ids of the other incidents of this target and kind.
    others: Vec<String>,
}

/// What was sent of an alert that is open.
#[derive(Debug, Clone)]
struct Told {
    /// As it was sent, and when; `None`: tried, and nobody knows whether it
    /// arrived.
    sent: Option<(Arc<Incident>, Instant)>,
    /// The newest record, to resolve it by.
    newest: Arc<Incident>,
}

/// All alerts of one Alertmanager.
#[derive(Debug, Default)]
pub struct Marks {
    open: BTreeMap<Key, Open>,
    told: BTreeMap<Key, Told>,
    /// What is over, and was not yet told to be.
    ended: BTreeMap<Key, (Arc<Incident>, UnixSeconds)>,
}

/// Something to send.
#[derive(Debug, Clone)]
pub struct Due {
    key: Key,
    incident: Arc<Incident>,
    others: Vec<String>,
    ended_at: Option<UnixSeconds>,
}

impl Due {
    /// As Alertmanager takes it.
    pub fn alert(&self, link: &Link, wall: UnixSeconds) -> Alert {
        Alert::new(
            &self.key.target,
            self.key.kind,
            &self.incident,
            &self.others,
            self.ended_at,
            link,
            wall,
        )
    }
}

impl Marks {
    /// Begins with what ended so short a time ago that it may still be firing
    /// there: the program may have been stopped before it could say so.
    pub fn new(snapshot: &Snapshot, wall: UnixSeconds) -> Self {
        let mut marks = Self::default();
        let open = grouped(snapshot);
        for incident in &snapshot.resolved {
            let key = key_of(incident);
            let recent = incident
                .resolved_at
                .filter(|at| *at > wall - alert::EXPIRES_AFTER.as_secs_f64());
            if let (Some(at), false) = (recent, open.contains_key(&key)) {
                marks.ended.entry(key).or_insert((Arc::clone(incident), at));
            }
        }
        marks
    }

    /// Takes in the newest state.
    pub fn look(&mut self, snapshot: &Snapshot, wall: UnixSeconds) {
        self.open = grouped(snapshot);
        for (key, open) in &self.open {
            self.ended.remove(key);
            if let Some(told) = self.told.get_mut(key) {
                told.newest = Arc::clone(&open.leading);
            }
        }
        let open = &self.open;
        let over = self.told.extract_if(.., |key, _| !open.contains_key(key));
        for (key, told) in over {
            let id = &told.newest.id;
            let known = snapshot.resolved.iter().find(|other| other.id == *id);
            let at = known.and_then(|incident| incident.resolved_at);
            let record = known.unwrap_or(&told.newest);
            let ended = (Arc::clone(record), at.unwrap_or(wall).min(wall));
            self.ended.insert(key, ended);
        }
    }

    /// What is to be sent now, the oldest alerts first among the open ones.
    pub fn due(&self, now: Instant) -> Vec<Due> {
        let open = self.open.iter().filter(|(key, open)| {
            let sent = self.told.get(key).and_then(|told| told.sent.as_ref());
            sent.is_none_or(|(record, at)| {
                let since = now.saturating_duration_since(*at);
                since >= REFRESH || since >= CHANGED && record != &open.leading
            })
        });
        let mut due: Vec<Due> = open
            .map(|(key, open)| Due {
                key: key.clone(),
                incident: Arc::clone(&open.leading),
                others: open.others.clone(),
                ended_at: None,
            })
            .collect();
        due.sort_by(|a, b| a.incident.opened_at.total_cmp(&b.incident.opened_at));
        due.extend(self.ended.iter().map(|(key, (incident, at))| Due {
            key: key.clone(),
            incident: Arc::clone(incident),
            others: Vec::new(),
            ended_at: Some(*at),
        }));
        due
    }

    /// These are on their way.
    pub fn tried(&mut self, batch: &[Due]) {
        for due in batch.iter().filter(|due| due.ended_at.is_none()) {
            self.told.entry(due.key.clone()).or_insert_with(|| Told {
                sent: None,
                newest: Arc::clone(&due.incident),
            });
        }
    }

    /// These have arrived.
    pub fn sent(&mut self, batch: &[Due], now: Instant) {
        for due in batch {
            if due.ended_at.is_some() {
                self.ended.remove(&due.key);
            } else if let Some(told) = self.told.get_mut(&due.key) {
                told.sent = Some((Arc::clone(&due.incident), now));
            }
        }
    }

    /// Alerts that are firing there.
    pub fn firing(&self) -> usize {
        self.told
            .values()
            .filter(|told| told.sent.is_some())
            .count()
    }
}

fn key_of(incident: &Incident) -> Key {
    Key {
        target: incident.target.clone(),
        kind: incident.kind,
    }
}

/// The alerts of a snapshot, whose incidents come oldest first.
fn grouped(snapshot: &Snapshot) -> BTreeMap<Key, Open> {
    let mut alerts: BTreeMap<Key, Open> = BTreeMap::new();
    for incident in &snapshot.open {
        let Some(alert) = alerts.get_mut(&key_of(incident)) else {
            let open = Open {
                leading: Arc::clone(incident),
                others: Vec::new(),
            };
            alerts.insert(key_of(incident), open);
            continue;
        };
        let mut other = Arc::clone(incident);
        if incident.severity > alert.leading.severity {
            std::mem::swap(&mut alert.leading, &mut other);
        }
        alert.others.push(other.id.clone());
    }
    alerts
}

#[cfg(test)]
mod tests;
