use super::*;
use crate::sample::{Group, Pool, Server};

fn report(used: u32, max_connections: u32) -> PostgresReport {
    let group = |application: &str, count| Group {
        application: Some(application.to_owned()),
        state: Some("idle".to_owned()),
        count,
        ..Group::default()
    };
    PostgresReport {
        target: "main".to_owned(),
        server: Some(Server {
            max_connections: Some(max_connections),
            reserved_connections: Some(3),
            ..Server::default()
        }),
        groups: vec![group("it's", used - used / 4), group("cron", used / 4)],
        ..PostgresReport::default()
    }
}

fn failed(reason: FailureReason) -> PostgresReport {
    PostgresReport {
        target: "main".to_owned(),
        error: Some(reason),
        ..PostgresReport::default()
    }
}

fn headroom() -> Headroom {
    Headroom::new("main", &Settings::default())
}

/// Feeds the same report every second and gives the seconds of each change.
fn changes(headroom: &mut Headroom, start: u32, seconds: u32, report: &PostgresReport) -> Vec<u32> {
    let mut open = headroom.open_since.is_some();
    (start..start + seconds)
        .filter(|&t| {
            let now = headroom.observe(f64::from(t), report).is_some();
            std::mem::replace(&mut open, now) != now
        })
        .collect()
}

#[test]
fn it_opens_and_closes_after_holding() {
    let mut headroom = headroom();
    assert_eq!(
        changes(&mut headroom, 0, 30, &report(80, 103)),
        Vec::<u32>::new()
    );
    assert_eq!(changes(&mut headroom, 100, 30, &report(85, 103)), [110]);
    assert_eq!(
        changes(&mut headroom, 200, 60, &report(76, 103)),
        Vec::<u32>::new()
    );
    assert_eq!(changes(&mut headroom, 300, 30, &report(74, 103)), [310]);
}

#[test]
fn a_short_peak_does_not_open_it() {
    let mut headroom = headroom();
    for t in 0..200u32 {
        let used = if t % 9 == 8 { 50 } else { 95 };
        assert_eq!(headroom.observe(f64::from(t), &report(used, 103)), None);
    }
}

#[test]
fn the_finding_tells_figures_holders_and_statements() {
    let mut headroom = headroom();
    changes(&mut headroom, 0, 30, &report(90, 103));
    let finding = headroom.observe(40.0, &report(90, 103)).unwrap();
    assert_eq!(finding.onset_at, 0.0);
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(
        finding.summary,
        "main has 90 of 100 connection slots in use (90 %)"
    );
    assert!(
        finding
            .evidence
            .iter()
            .any(|text| text.contains("it's 68, cron 22")),
        "{:?}",
        finding.evidence
    );
    assert!(finding.actions[1].contains("application_name = 'it''s'"));
    assert_eq!(finding.subject["limit"], 100.0);
    assert!(!finding.evidence.iter().any(|text| text.contains("growth")));
}

#[test]
fn growth_is_forecast() {
    let mut headroom = headroom();
    let mut newest = None;
    for t in 0..120u32 {
        newest = headroom.observe(f64::from(t), &report(100 + t * 5, 1003));
    }
    assert_eq!(newest, None);
    for t in 120..165 {
        newest = headroom.observe(f64::from(t), &report(100 + t * 5, 1003));
    }
    let newest = newest.unwrap();
    assert!(
        newest
            .summary
            .ends_with("(92 %); full in 16 s at this growth"),
        "{}",
        newest.summary
    );
    assert_eq!(newest.subject["growth_per_second"], 5.0);
    assert_eq!(newest.subject["exhausted_in_seconds"], 16.0);
    let evidence = newest.evidence;
    // 920 of 1,000 at the last tick, 5 a second.
    let wanted = "at the growth of the last minute (5.0 a second) the last slot is gone in 16 s";
    assert!(evidence.iter().any(|text| text == wanted), "{evidence:?}");
}

#[test]
fn a_refused_login_opens_it_at_once() {
    let mut headroom = headroom();
    let refused = failed(FailureReason::TooManyConnections);
    let first = headroom.observe(5.0, &refused).unwrap();
    assert_eq!(first.severity, Severity::Critical);
    assert_eq!(
        first.summary,
        "main refuses connections: all its slots are taken"
    );
    assert!(first.evidence[0].contains("53300"));

    let mut informed = super::tests::headroom();
    informed.observe(0.0, &report(40, 103));
    let finding = informed.observe(1.0, &refused).unwrap();
    assert_eq!(finding.onset_at, 1.0);
    assert_eq!(
        finding.summary,
        "main refuses connections: all 100 slots are taken"
    );
    assert!(finding.evidence[1].starts_with("at the last good poll 40 of 100"));
    // Back again, with room: closed after the hold time.
    assert_eq!(changes(&mut informed, 2, 30, &report(40, 103)), [12]);
}

#[test]
fn a_full_server_that_goes_dark_was_full_when_last_seen() {
    for reason in [FailureReason::Refused, FailureReason::Timeout] {
        let mut headroom = headroom();
        headroom.observe(0.0, &report(40, 103));
        let full = failed(FailureReason::TooManyConnections);
        headroom.observe(1.0, &full);
        let dark = headroom.observe(2.0, &failed(reason)).unwrap();
        assert_eq!(
            dark.summary,
            "main was full when last seen: all 100 slots were taken"
        );
        assert!(dark.evidence[0].ends_with("and has not answered since"));
        assert!(dark.evidence[1].starts_with("at the last good poll 40 of 100"));
        assert_eq!((dark.severity, dark.onset_at), (Severity::Critical, 1.0));
        // It says so again.
        let again = headroom.observe(3.0, &full).unwrap();
        assert!(again.summary.contains("refuses connections"));
        assert!(again.evidence[0].contains("1 time in a row"));
        // It is seen again.
        headroom.observe(4.0, &failed(reason));
        let seen = headroom.observe(5.0, &report(90, 103)).unwrap();
        assert!(seen.summary.starts_with("main has 90 of 100"));
    }
}

#[test]
fn while_nobody_is_let_in_the_poolers_are_quoted() {
    let mut headroom = headroom();
    let pools = vec![
        Pool {
            sv_active: 7,
            sv_idle: 2,
            cl_waiting: 3,
            ..Pool::default()
        },
        Pool {
            sv_used: 1,
            ..Pool::default()
        },
    ];
    headroom.pooler(
        4.0,
        &PgbouncerReport {
            pooler: "pooler-1".into(),
            pools,
            ..PgbouncerReport::default()
        },
    );
    let refused = failed(FailureReason::TooManyConnections);
    let said = headroom.observe(5.0, &refused).unwrap().evidence;
    let wanted = "pooler-1 has 10 sessions there, 7 in use, and 3 clients in its queue";
    assert_eq!(said[1], wanted, "{said:?}");
    // What it said long ago is not told of now.
    let said = headroom.observe(30.0, &refused).unwrap().evidence;
    assert!(!said.iter().any(|line| line == wanted), "{said:?}");
}

#[test]
fn other_failures_change_nothing() {
    let mut headroom = headroom();
    changes(&mut headroom, 0, 30, &report(90, 103));
    let timeout = failed(FailureReason::Timeout);
    assert_eq!(changes(&mut headroom, 30, 600, &timeout), Vec::<u32>::new());
    assert!(headroom.observe(700.0, &timeout).is_some());
    let mut closed = super::tests::headroom();
    assert_eq!(closed.observe(0.0, &timeout), None);
}

#[test]
fn a_changed_limit_counts_at_once() {
    let mut headroom = headroom();
    changes(&mut headroom, 0, 30, &report(90, 103));
    assert_eq!(changes(&mut headroom, 30, 30, &report(90, 203)), [40]);
    assert_eq!(changes(&mut headroom, 100, 30, &report(90, 93)), [110]);
    let finding = headroom.observe(200.0, &report(90, 93)).unwrap();
    assert_eq!(finding.severity, Severity::Critical);
}

#[test]
fn reports_without_a_limit_or_from_the_past_are_harmless() {
    let mut headroom = headroom();
    for (max_connections, reserved) in [(None, None), (Some(3), Some(3)), (Some(0), Some(9))] {
        let mut odd = report(90, 103);
        odd.server = Some(Server {
            max_connections,
            reserved_connections: reserved,
            ..Server::default()
        });
        for t in 0..30 {
            assert_eq!(headroom.observe(f64::from(t), &odd), None);
        }
    }
    for t in [f64::NAN, f64::NEG_INFINITY, 20.0, 5.0] {
        assert_eq!(headroom.observe(t, &report(99, 103)), None);
    }
}

#[test]
fn it_can_be_switched_off() {
    let mut settings = Settings::default();
    settings.detect.connection_headroom.enabled = false;
    let mut headroom = Headroom::new("main", &settings);
    assert_eq!(
        headroom.observe(0.0, &failed(FailureReason::TooManyConnections)),
        None
    );
}

#[test]
fn a_refusal_is_over_once_logins_work_even_when_the_limit_is_not_known() {
    let mut headroom = headroom();
    let refused = failed(FailureReason::TooManyConnections);
    assert_eq!(changes(&mut headroom, 0, 5, &refused), [0]);
    let unknown = PostgresReport {
        server: None,
        ..report(10, 103)
    };
    assert_eq!(changes(&mut headroom, 10, 30, &unknown), [20]);
    assert!(headroom.observe(50.0, &unknown).is_none());
}
