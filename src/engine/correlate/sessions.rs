//! Which sessions count as in use.

use crate::sample::{Group, PostgresReport};

/// The `application_name` of our own session, which is left out: it is active
/// whenever we look.
pub const OWN_APPLICATION: &str = "snowpit";

/// The groups of client backends that are in use: their state is known and not
/// `idle`. `disabled` (`track_activities` is off) says nothing either way and is
/// left out.
pub fn in_use(report: &PostgresReport) -> impl Iterator<Item = &Group> {
    report.groups.iter().filter(|group| {
        let state = group.state.as_deref();
        state.is_some_and(|state| state != "idle" && state != "disabled")
            && group.application.as_deref() != Some(OWN_APPLICATION)
    })
}

/// The report tells of sessions in use at all: the poll succeeded, and the role
/// may see what other sessions do.
pub fn tells_of_use(report: &PostgresReport) -> bool {
    report.error.is_none() && report.sees_all_sessions != Some(false)
}

/// The session waits for a heavyweight lock.
pub fn waits_for_lock(group: &Group) -> bool {
    group.wait_event_type.as_deref() == Some("Lock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::FailureReason;

    #[test]
    fn idle_unknown_and_our_own_sessions_are_not_in_use() {
        let group = |state: Option<&str>, application: &str, count| Group {
            state: state.map(str::to_owned),
            application: Some(application.to_owned()),
            count,
            ..Group::default()
        };
        let report = PostgresReport {
            groups: vec![
                group(Some("active"), "app", 1),
                group(Some("idle in transaction"), "app", 2),
                group(Some("idle"), "app", 4),
                group(None, "app", 8),
                group(Some("active"), OWN_APPLICATION, 16),
                group(Some("disabled"), "app", 32),
            ],
            ..PostgresReport::default()
        };
        let total: u32 = in_use(&report).map(|group| group.count).sum();
        assert_eq!(total, 3);
    }

    #[test]
    fn a_failed_or_blind_report_tells_nothing() {
        let mut report = PostgresReport::default();
        assert!(tells_of_use(&report));
        report.sees_all_sessions = Some(false);
        assert!(!tells_of_use(&report));
        report.sees_all_sessions = Some(true);
        report.error = Some(FailureReason::Timeout);
        assert!(!tells_of_use(&report));
    }
}
