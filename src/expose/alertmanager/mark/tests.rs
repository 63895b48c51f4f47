use super::*;
use crate::engine::incident::Severity;

fn incident(target: &str, kind: Kind, opened_at: f64) -> Incident {
    Incident {
        id: format!("{target}-{}-{opened_at}", kind.as_str()),
        target: target.into(),
        kind,
        severity: kind.severity(),
        cause: None,
        onset_at: opened_at,
        opened_at,
        resolved_at: None,
        subject: serde_json::Map::new(),
        summary: String::new(),
        attribution: Vec::new(),
        unexplained_share: None,
        evidence: Vec::new(),
        actions: Vec::new(),
        runbook: kind.as_str().into(),
    }
}

fn snapshot(open: &[Incident], resolved: &[Incident]) -> Snapshot {
    Snapshot {
        open: open.iter().cloned().map(Arc::new).collect(),
        resolved: resolved.iter().cloned().map(Arc::new).collect(),
        ..Snapshot::default()
    }
}

fn resolved(incident: &Incident, at: f64) -> Incident {
    let mut over = incident.clone();
    over.resolved_at = Some(at);
    over
}

/// What is due, as (id, resolved), after the state is taken in.
fn due(marks: &mut Marks, state: &Snapshot, now: Instant) -> Vec<Due> {
    marks.look(state, 1_000.0);
    marks.due(now)
}

fn ids(due: &[Due]) -> Vec<(&str, bool)> {
    let each = due.iter();
    each.map(|due| (due.incident.id.as_str(), due.ended_at.is_some()))
        .collect()
}

fn accept(marks: &mut Marks, due: &[Due], now: Instant) {
    marks.tried(due);
    marks.sent(due, now);
}

#[test]
fn opened_once_refreshed_changed_and_resolved_once() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let pileup = incident("main", Kind::LockPileup, 900.0);
    let state = snapshot(std::slice::from_ref(&pileup), &[]);
    let mut marks = Marks::new(&state, 1_000.0);
    let first = due(&mut marks, &state, start);
    assert_eq!(ids(&first), [("main-lock_pileup-900", false)]);
    accept(&mut marks, &first, start);
    assert_eq!(marks.firing(), 1);
    assert!(due(&mut marks, &state, after(29)).is_empty());
    assert_eq!(due(&mut marks, &state, after(30)).len(), 1);

    let mut grown = pileup.clone();
    grown.summary = "more".into();
    let changed = snapshot(&[grown], &[]);
    assert!(due(&mut marks, &changed, after(4)).is_empty());
    assert_eq!(due(&mut marks, &changed, after(5)).len(), 1);

    let over = snapshot(&[], &[resolved(&pileup, 990.0)]);
    let end = due(&mut marks, &over, after(6));
    assert_eq!(ids(&end), [("main-lock_pileup-900", true)]);
    assert_eq!(end[0].ended_at, Some(990.0));
    // Not accepted: it is due still.
    marks.tried(&end);
    assert_eq!(due(&mut marks, &over, after(7)).len(), 1);
    accept(&mut marks, &end, after(7));
    assert!(due(&mut marks, &over, after(100)).is_empty());
    assert_eq!(marks.firing(), 0);
}

#[test]
fn what_may_have_arrived_is_resolved_and_what_was_never_tried_is_not_told() {
    let now = Instant::now();
    let pileup = incident("main", Kind::LockPileup, 900.0);
    let spin = incident("main", Kind::TryLockSpin, 901.0);
    let mut marks = Marks::default();
    let first = due(
        &mut marks,
        &snapshot(std::slice::from_ref(&pileup), &[]),
        now,
    );
    marks.tried(&first);
    // Opened and over while nothing could be sent.
    marks.look(&snapshot(&[pileup.clone(), spin.clone()], &[]), 1_000.0);
    let over = snapshot(&[], &[resolved(&spin, 950.0), resolved(&pileup, 951.0)]);
    let end = due(&mut marks, &over, now);
    assert_eq!(ids(&end), [("main-lock_pileup-900", true)]);
}

#[test]
fn one_alert_for_a_target_and_kind_led_by_the_gravest() {
    let now = Instant::now();
    let old = incident("main", Kind::ConnectionHeadroom, 900.0);
    let mut grave = incident("main", Kind::ConnectionHeadroom, 901.0);
    grave.severity = Severity::Critical;
    let other = incident("second", Kind::ConnectionHeadroom, 899.0);
    let mut marks = Marks::default();
    let state = snapshot(&[other.clone(), old.clone(), grave.clone()], &[]);
    let first = due(&mut marks, &state, now);
    assert_eq!(
        ids(&first),
        [(other.id.as_str(), false), (grave.id.as_str(), false)]
    );
    assert_eq!(first[1].others, [old.id.as_str()]);
    accept(&mut marks, &first, now);
    // The leading one is over: the alert goes on with the other.
    let state = snapshot(&[other, old.clone()], &[resolved(&grave, 950.0)]);
    let next = due(&mut marks, &state, now + CHANGED);
    assert_eq!(ids(&next), [(old.id.as_str(), false)]);
}

#[test]
fn a_restart_goes_on_with_what_is_open_and_ends_what_is_over() {
    let now = Instant::now();
    let open = incident("main", Kind::LockPileup, 900.0);
    let just = resolved(&incident("main", Kind::TryLockSpin, 800.0), 950.0);
    let long_ago = resolved(&incident("main", Kind::GhostWaiter, 100.0), 200.0);
    let again = resolved(&incident("main", Kind::LockPileup, 850.0), 899.0);
    let state = snapshot(
        std::slice::from_ref(&open),
        &[just.clone(), again, long_ago],
    );
    let mut marks = Marks::new(&state, 1_000.0);
    let first = due(&mut marks, &state, now);
    assert_eq!(
        ids(&first),
        [(open.id.as_str(), false), (just.id.as_str(), true)]
    );
}

#[test]
fn an_incident_that_comes_back_before_its_end_was_told_goes_on() {
    let now = Instant::now();
    let first = incident("main", Kind::LockPileup, 900.0);
    let second = incident("main", Kind::LockPileup, 960.0);
    let mut marks = Marks::default();
    let sent = due(
        &mut marks,
        &snapshot(std::slice::from_ref(&first), &[]),
        now,
    );
    accept(&mut marks, &sent, now);
    marks.look(&snapshot(&[], &[resolved(&first, 950.0)]), 955.0);
    let state = snapshot(std::slice::from_ref(&second), &[resolved(&first, 950.0)]);
    let next = due(&mut marks, &state, now);
    assert_eq!(ids(&next), [(second.id.as_str(), false)]);
}
