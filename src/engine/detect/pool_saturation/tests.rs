use super::*;

/// Clients wait in a pool without a server.
fn report(waiting: u32, wait: f64) -> PgbouncerReport {
    let pool = |database: &str| Pool {
        database: database.to_owned(),
        user: "app".to_owned(),
        cl_waiting: waiting,
        maxwait_us: (wait * 1e6) as u64,
        ..Pool::default()
    };
    let database = |name: &str| PoolDatabase {
        name: name.to_owned(),
        database: name.to_owned(),
        pool_size: 20,
        ..PoolDatabase::default()
    };
    PgbouncerReport {
        pooler: "pooler-1".to_owned(),
        target: "main".to_owned(),
        version: Some("1.18.0".to_owned()),
        pools: vec![pool("app"), pool("billing")],
        databases: vec![database("app"), database("billing")],
        ..PgbouncerReport::default()
    }
}

fn all_paused(mut report: PgbouncerReport) -> PgbouncerReport {
    report.all_paused = Some(true);
    app_paused(&mut report);
    report.databases[1].paused = true;
    report
}

fn app_paused(report: &mut PgbouncerReport) {
    report.databases[0].paused = true;
}

fn saturation() -> Saturation {
    Saturation::new(&Settings::default())
}

fn look(saturation: &mut Saturation, t: u32, report: &PgbouncerReport, reachable: bool) {
    let server = PostgresReport::default();
    let none = Pools::new();
    saturation.observe(f64::from(t), report, &server, reachable, &none);
}

/// The second of the first look with a finding, with one look a second.
fn told_at(
    saturation: &mut Saturation,
    seconds: std::ops::Range<u32>,
    reachable: bool,
    report: impl Fn(u32) -> PgbouncerReport,
) -> Option<u32> {
    for t in seconds {
        look(saturation, t, &report(t), reachable);
        if !saturation.findings().is_empty() {
            return Some(t);
        }
    }
    None
}

#[test]
fn a_pooler_that_is_paused_as_a_whole_is_told_once_and_over_when_resumed() {
    let mut saturation = saturation();
    let paused = |t: u32| all_paused(report(2, f64::from(t)));
    assert_eq!(told_at(&mut saturation, 0..90, false, paused), Some(60));
    let told = saturation.findings();
    assert_eq!(told.len(), 1, "not once for each pool");
    assert_eq!(told[0].subject["verdict"], "paused");
    assert_eq!(told[0].subject["clients_waiting"], 4);
    assert_eq!(told[0].onset_at, 0.0);
    assert_eq!(
        told[0].summary,
        "pooler-1 is paused: 4 clients in its queue, the first for 60 s"
    );
    assert!(told[0].actions[0].starts_with("RESUME;  on the console of pooler-1"));
    for t in 61..95 {
        look(&mut saturation, t, &report(0, 0.0), true);
    }
    assert!(saturation.findings().is_empty());
}

#[test]
fn a_pause_is_told_although_no_client_is_let_wait_for_long() {
    // With a query_wait_timeout of 20 s, and clients that come back.
    let mut steady = saturation();
    let paused = |t: u32| {
        let mut report = report(2, f64::from(t % 20));
        app_paused(&mut report);
        report.pools.truncate(1);
        report
    };
    assert_eq!(told_at(&mut steady, 0..90, true, paused), Some(60));
    let told = steady.findings();
    assert_eq!(told[0].onset_at, 0.0);
    assert!(
        told[0]
            .summary
            .contains("pool app/app of pooler-1 is paused")
    );
    let wanted = "somebody has waited there for 60 s";
    assert!(
        told[0].evidence.iter().any(|line| line == wanted),
        "{told:?}"
    );
    // With moments of an empty queue.
    let gaps = |t: u32| {
        let mut report = paused(t);
        report.pools[0].cl_waiting = u32::from(!t.is_multiple_of(20));
        report
    };
    let told = told_at(&mut saturation(), 1..120, true, gaps);
    assert!(told.is_some_and(|t| (60..75).contains(&t)), "{told:?}");
    // Two pauses with a resumption between them are two.
    let twice = |t: u32| {
        let mut report = paused(t);
        report.databases[0].paused = t != 40;
        report
    };
    assert_eq!(told_at(&mut saturation(), 0..95, true, twice), None);
}

#[test]
fn a_pooler_without_any_server_is_told_as_that() {
    let still = |t: u32| report(2, f64::from(t));
    let mut told = saturation();
    assert_eq!(told_at(&mut told, 0..90, true, still), Some(60));
    let finding = told.findings().remove(0);
    assert_eq!(finding.subject["verdict"], "no_server");
    assert_eq!(
        finding.summary,
        "pooler-1 has no server and opens none: 4 clients in its queue, the first for 60 s"
    );
    assert!(finding.evidence[1].contains("or it cannot reach the server"));
    // A server that is down is told as that.
    assert_eq!(told_at(&mut saturation(), 0..300, false, still), None);
}

#[test]
fn a_pooler_that_works_or_tells_does_not_stand_still() {
    type Change = fn(&mut PgbouncerReport);
    let changes: [(&str, Change); 8] = [
        ("one of the other pools is served", |p| {
            p.pools[1].sv_active = 1
        }),
        ("a server is idle", |p| p.pools[1].sv_idle = 1),
        ("a login is under way", |p| p.pools[0].sv_login = 1),
        ("it says that it is not paused", |p| {
            p.all_paused = Some(false)
        }),
        ("what it is is not known", |p| p.version = None),
        ("the look is not whole", |p| p.truncated = true),
        ("nobody waits", |p| {
            p.pools.iter_mut().for_each(|pool| pool.cl_waiting = 0)
        }),
        ("each of them is paused by name", |p| {
            p.databases
                .iter_mut()
                .for_each(|database| database.paused = true);
        }),
    ];
    assert!(stands_still(&report(2, 5.0)));
    for (what, change) in changes {
        let mut report = report(2, 5.0);
        change(&mut report);
        assert!(!stands_still(&report), "{what}");
    }
}
