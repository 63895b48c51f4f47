use super::*;
use crate::engine::incident::Severity;
use crate::sample::{Group, Server};

/// A target without traffic, looked at once a second.
struct Stage {
    habits: Habits,
    traffic: Traffic,
    t: f64,
    opened: f64,
    transactions: u64,
}

impl Stage {
    fn new() -> Self {
        Self {
            habits: Habits::new("main", &Arc::new(Settings::default())),
            traffic: Traffic::new(&[]),
            t: 1e6,
            opened: 5_000.0,
            transactions: 0,
        }
    }

    /// `seconds` with so many sessions, of which so many a second are opened anew
    /// and all of those are young. Which kinds were told.
    fn run(&mut self, seconds: u32, sessions: u32, anew: f64, told: &[Finding]) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for _ in 0..seconds {
            self.t += 1.0;
            self.opened += anew;
            self.transactions += 200;
            let report = PostgresReport {
                server: Some(Server {
                    started_at: Some(1.0),
                    ..Server::default()
                }),
                groups: vec![Group {
                    application: Some("scanner".to_owned()),
                    state: Some("idle".to_owned()),
                    count: sessions,
                    young: Some(((anew * 10.0) as u32).min(sessions)),
                    ..Group::default()
                }],
                sessions_opened_total: Some(self.opened as u64),
                ..PostgresReport::default()
            };
            let stats = PoolStats {
                database: "app".to_owned(),
                total_xact_count: self.transactions,
                total_query_count: self.transactions,
                total_query_time: self.transactions * 1_000,
                ..PoolStats::default()
            };
            self.habits.pooler(self.t, "pooler-1", &[stats]);
            let opened = Some(self.opened.floor());
            let census = Census::of(&report);
            self.habits.take(self.t, Some(1.0), census, opened, 0.0);
            self.habits.judge(self.t, &report, &self.traffic, told);
            let found = self.habits.findings();
            kinds.extend(found.iter().map(|finding| finding.kind));
            kinds.dedup();
        }
        kinds
    }
}

fn avalanche(cause: Cause) -> Finding {
    Finding {
        kind: Kind::ConnectionAvalanche,
        key: String::new(),
        severity: Severity::Critical,
        cause: Some(cause),
        onset_at: 0.0,
        subject: serde_json::Map::new(),
        summary: String::new(),
        attribution: Vec::new(),
        unexplained_share: None,
        evidence: Vec::new(),
        actions: Vec::new(),
    }
}

#[test]
fn a_crash_loop_is_told_within_half_a_minute_and_ends() {
    let mut stage = Stage::new();
    assert!(stage.run(400, 24, 0.2, &[]).is_empty());
    assert_eq!(stage.run(30, 24, 12.0, &[]), [Kind::ReconnectStorm]);
    let finding = stage.habits.findings().remove(0);
    assert_eq!(finding.subject["application"], "scanner");
    assert!(
        finding.summary.contains("without more requests"),
        "{}",
        finding.summary
    );
    stage.run(40, 24, 0.0, &[]);
    let over = stage.habits.findings().remove(0);
    assert_eq!(over.subject["application"], "scanner");
    stage.run(200, 24, 0.2, &[]);
    assert!(stage.habits.findings().is_empty());
}

#[test]
fn a_deploy_a_counter_reset_and_a_restart_are_none() {
    let mut stage = Stage::new();
    stage.run(400, 100, 0.2, &[]);
    assert!(stage.run(10, 110, 12.0, &[]).is_empty());
    assert!(stage.run(120, 100, 0.2, &[]).is_empty());
    stage.opened = 0.0;
    assert!(stage.run(120, 100, 0.2, &[]).is_empty());
    stage.opened = 1e9;
    assert!(stage.run(120, 100, 0.2, &[]).is_empty());
    stage.t += 200.0;
    stage.opened += 150.0;
    assert!(stage.run(120, 100, 0.2, &[]).is_empty());
}

#[test]
fn an_avalanche_that_tells_of_it_goes_first() {
    let mut stage = Stage::new();
    stage.run(400, 24, 0.2, &[]);
    let told = [avalanche(Cause::ReconnectStorm)];
    assert!(stage.run(60, 24, 12.0, &told).is_empty());
    let mut other = Stage::new();
    other.run(400, 24, 0.2, &[]);
    let told = [avalanche(Cause::Endpoint)];
    assert_eq!(other.run(60, 24, 12.0, &told), [Kind::ReconnectStorm]);
}

#[test]
fn the_signs_of_an_avalanche_tell_a_storm_and_a_leak() {
    let mut stage = Stage::new();
    stage.run(900, 24, 0.2, &[]);
    let onset = stage.t;
    stage.run(15, 60, 12.0, &[]);
    let signs = stage
        .habits
        .signs(stage.t, &stage.traffic, onset, 10.0, 10.0);
    let storm = signs.reconnecting.clone().expect("a storm");
    assert_eq!(storm.application.as_deref(), Some("scanner"));
    assert!((150.0..190.0).contains(&storm.opened), "{storm:?}");
    assert_eq!(signs.leaking, None);
    assert_eq!(signs.demand.is_flat(), Some(true));
    assert!(!signs.departures.is_empty());
    // All of them at work: a pool that grows.
    let grown = stage
        .habits
        .signs(stage.t, &stage.traffic, onset, 170.0, 170.0);
    assert_eq!(grown.reconnecting, None);
}

#[test]
fn a_storm_that_was_over_is_not_the_cause_of_what_comes_after() {
    let mut stage = Stage::new();
    stage.run(900, 24, 0.2, &[]);
    stage.run(30, 24, 12.0, &[]);
    stage.run(30, 24, 0.2, &[]);
    let onset = stage.t;
    stage.run(15, 40, 0.2, &[]);
    let signs = stage
        .habits
        .signs(stage.t, &stage.traffic, onset, 16.0, 16.0);
    assert_eq!(signs.reconnecting, None);
}
