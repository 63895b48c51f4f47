//! The client backends of one look, counted: in all, and by application.
//!
//! Our own session is left out. Applications are bounded; who has most is kept.

use std::collections::BTreeMap;

use crate::engine::correlate::sessions::{OWN_APPLICATION, waits_for_lock};
use crate::sample::PostgresReport;

/// Sessions by what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Held {
    pub all: f64,
    /// Known to be neither idle nor idle in a transaction.
    pub working: f64,
    pub idle_in_transaction: f64,
}

/// Sessions that have just begun, and those that may have.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Young {
    pub young: f64,
    pub of: f64,
}

/// One look, counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Census {
    pub total: Held,
    pub lock_waits: f64,
    /// By `application_name`; nameless ones under the empty name.
    pub applications: BTreeMap<String, Held>,
    /// The same, where the look tells how old sessions are.
    pub young: BTreeMap<String, Young>,
}

impl Held {
    pub fn add(&mut self, state: Option<&str>, count: f64) {
        self.all += count;
        match state {
            Some(state) if state.starts_with("idle in transaction") => {
                self.idle_in_transaction += count;
            }
            Some("idle" | "disabled") | None => {}
            Some(_) => self.working += count,
        }
    }
}

impl Census {
    pub fn of(report: &PostgresReport) -> Self {
        let mut census = Self::default();
        for group in &report.groups {
            let application = group.application.as_deref().unwrap_or("");
            let count = f64::from(group.count);
            census.add(application, group.state.as_deref(), count);
            if let Some(young) = group.young
                && application != OWN_APPLICATION
            {
                let known = census.young.entry(application.to_owned()).or_default();
                known.young += f64::from(young);
                known.of += count;
            }
            if waits_for_lock(group) && application != OWN_APPLICATION {
                census.lock_waits += count;
            }
        }
        census
    }

    /// Counts sessions that are alike.
    pub fn add(&mut self, application: &str, state: Option<&str>, count: f64) {
        if application == OWN_APPLICATION {
            return;
        }
        self.total.add(state, count);
        match self.applications.get_mut(application) {
            Some(held) => held.add(state, count),
            None => {
                let mut held = Held::default();
                held.add(state, count);
                self.applications.insert(application.to_owned(), held);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Group;

    #[test]
    fn sessions_are_counted_by_state_and_application() {
        let group = |application: &str, state: &str, wait: Option<&str>, count| Group {
            application: Some(application.to_owned()),
            state: Some(state.to_owned()),
            wait_event_type: wait.map(str::to_owned),
            count,
            ..Group::default()
        };
        let report = PostgresReport {
            groups: vec![
                group("a", "active", Some("Lock"), 2),
                group("a", "idle", None, 4),
                group("b", "idle in transaction (aborted)", None, 8),
                group(OWN_APPLICATION, "active", None, 16),
            ],
            ..PostgresReport::default()
        };
        let census = Census::of(&report);
        assert_eq!(census.total.all, 14.0);
        assert_eq!(census.total.working, 2.0);
        assert_eq!(census.total.idle_in_transaction, 8.0);
        assert_eq!(census.lock_waits, 2.0);
        assert_eq!(census.applications["a"].all, 6.0);
        assert_eq!(census.applications.len(), 2);
    }
}
