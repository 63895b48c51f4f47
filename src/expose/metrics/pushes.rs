//! Alerts on their way to each Alertmanager.

use super::page::Page;
use super::table;
use crate::expose::alertmanager::{Failure, PushHealth};

/// A series for each configured Alertmanager and reason, from the start.
pub fn put_pushes(page: &mut Page, pushes: &PushHealth) {
    for (name, state) in pushes.snapshot() {
        let name = name.as_str();
        page.put(&table::ALERTMANAGER_ALERTS, [name], state.firing as f64);
        page.put(&table::ALERTMANAGER_REQUESTS, [name], state.accepted as f64);
        for failure in Failure::ALL {
            let count = state.failures.get(&failure).copied().unwrap_or(0);
            let labels = [name, failure.as_str()];
            page.put(&table::ALERTMANAGER_FAILURES, labels, count as f64);
        }
    }
}
