//! Incidents of an earlier life of the program, until the detectors know again.
//!
//! A detector that has just started finds nothing, which does not mean that
//! there is nothing. Until it finds the same thing again, or has had the time
//! to, what was known stands in for it. Invariant: an incident that nobody
//! vouches for ends after a bounded number of looks and seconds.

use super::incident::{Finding, Incident, Kind};
use super::settings::Detect;
use crate::sample::UnixSeconds;

/// Good looks at the server that a detector gets at least, however far apart.
pub const LOOKS: u32 = 5;

/// Seconds that a detector gets at least: enough for a threshold that has to be
/// crossed for half a minute.
pub const GRACE: f64 = 60.0;

/// The same for a lock, which is followed as it was before: it only has to be
/// seen again.
const LOCK_GRACE: f64 = 10.0;

/// Everything that is still to be confirmed.
#[derive(Debug, Default)]
pub struct Restored {
    waiting: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    target: String,
    finding: Finding,
    /// Seconds from the first good look to the end of its patience.
    grace: f64,
    first_look: Option<UnixSeconds>,
    looks: u32,
}

impl Restored {
    /// Lets `incident`, told under `key`, stand in for its detector.
    pub fn add(&mut self, key: &str, incident: &Incident, detect: &Detect) {
        let grace = match incident.kind {
            Kind::OrphanedAdvisoryLock => LOCK_GRACE,
            Kind::ConnectionAvalanche => detect.connection_avalanche.resolve_after.max(GRACE),
            _ => GRACE,
        };
        self.waiting.push(Entry {
            target: incident.target.clone(),
            finding: finding(key, incident),
            grace,
            first_look: None,
            looks: 0,
        });
    }

    /// Nobody looks at this target any more.
    pub fn forget(&mut self, target: &str) {
        self.waiting.retain(|entry| entry.target != target);
    }

    /// Adds what stands in for the detectors of `kinds` to their `findings` at
    /// `t`. A `good` look is one that a detector could judge by.
    pub fn stand_in(
        &mut self,
        target: &str,
        kinds: &[Kind],
        findings: &mut Vec<Finding>,
        t: UnixSeconds,
        good: bool,
    ) {
        self.waiting.retain_mut(|entry| {
            if entry.target != target || !kinds.contains(&entry.finding.kind) {
                return true;
            }
            let own = |f: &Finding| f.kind == entry.finding.kind && f.key == entry.finding.key;
            if findings.iter().any(own) {
                return false;
            }
            let stays = !good || entry.is_patient(t);
            if stays {
                findings.push(entry.finding.clone());
            }
            stays
        });
    }
}

impl Entry {
    fn is_patient(&mut self, t: UnixSeconds) -> bool {
        let first = self.first_look.get_or_insert(t);
        // A clock that was set back starts the patience anew.
        *first = first.min(t);
        self.looks = self.looks.saturating_add(1);
        self.looks < LOOKS || t - *first < self.grace
    }
}

/// What the detector found when the incident was last told of.
pub fn finding(key: &str, incident: &Incident) -> Finding {
    Finding {
        kind: incident.kind,
        key: key.to_owned(),
        severity: incident.severity,
        cause: incident.cause,
        onset_at: incident.onset_at,
        subject: incident.subject.clone(),
        summary: incident.summary.clone(),
        attribution: incident.attribution.clone(),
        unexplained_share: incident.unexplained_share,
        evidence: incident.evidence.clone(),
        actions: incident.actions.clone(),
    }
}
