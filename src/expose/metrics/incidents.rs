//! Incidents and what explains them.
//!
//! Unlike everything else here these series outlive their source: an incident
//! does not close because the daemon went blind.

use std::collections::BTreeSet;

use super::page::Page;
use super::table;
use crate::engine::Snapshot;
use crate::engine::incident::Kind;

/// Candidates shown of one incident, as many as the record ranks.
const MAX_ATTRIBUTION: usize = 5;

/// A series for every kind of every configured target, 1 while one is open.
pub(super) fn put(page: &mut Page, snapshot: &Snapshot, targets: &[String]) {
    let open: BTreeSet<(&str, Kind)> = snapshot
        .open
        .iter()
        .map(|incident| (incident.target.as_str(), incident.kind))
        .collect();
    for target in targets {
        for kind in Kind::ALL {
            // The severity of the kind, not of the incident: an alert's labels
            // must not change while it is open.
            let labels = [target.as_str(), kind.as_str(), kind.severity().as_str()];
            let is_open = open.contains(&(target.as_str(), kind));
            page.put(&table::INCIDENT_OPEN, labels, f64::from(u8::from(is_open)));

            let opened = snapshot.incidents_total.get(&(target.clone(), kind));
            let labels = [target.as_str(), kind.as_str()];
            page.put(
                &table::INCIDENTS,
                labels,
                opened.copied().unwrap_or(0) as f64,
            );
        }
    }
    for incident in &snapshot.open {
        for candidate in incident.attribution.iter().take(MAX_ATTRIBUTION) {
            let labels = [
                incident.target.as_str(),
                incident.kind.as_str(),
                candidate.service.as_str(),
                candidate.route.as_str(),
            ];
            page.put(&table::INCIDENT_ATTRIBUTION, labels, candidate.share);
        }
    }
}
