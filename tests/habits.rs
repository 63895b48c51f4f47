//! The kinds that are read from how applications use their sessions, and a lost
//! primary, through the whole engine: told, gone on with after a restart, ended.

use snowpit::engine::incident::{Effect, Event, Incident, Kind};
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{FailureReason, Group, PostgresReport, Report, Sample, Server};

const START: f64 = 1_700_000_000.0;

/// A server that is looked at once a second.
struct World {
    engine: Engine,
    t: f64,
    opened: u64,
    told: Vec<Effect>,
}

impl World {
    fn new() -> Self {
        Self {
            engine: engine(),
            t: START,
            opened: 0,
            told: Vec::new(),
        }
    }

    /// Looks with so many idle sessions, so many idle in a transaction, and so
    /// many a second opened anew.
    fn looks(
        &mut self,
        seconds: u32,
        idle: impl Fn(u32) -> u32,
        left: impl Fn(u32) -> u32,
        anew: u64,
    ) {
        for second in 0..seconds {
            self.opened += anew;
            let group = |state: &str, count| Group {
                application: Some("scanner".into()),
                state: Some(state.into()),
                count,
                young: Some(count.min(u32::try_from(anew * 10).unwrap())),
                ..Group::default()
            };
            let report = PostgresReport {
                server: Some(Server {
                    started_at: Some(1.0),
                    in_recovery: Some(false),
                    max_connections: Some(1_000),
                    ..Server::default()
                }),
                sessions_opened_total: Some(self.opened),
                groups: vec![
                    group("idle", idle(second)),
                    group("idle in transaction", left(second)),
                    group("active", 2 + second % 3),
                ],
                ..PostgresReport::default()
            };
            self.apply(report);
        }
    }

    fn fails(&mut self, seconds: u32, reason: FailureReason) {
        for _ in 0..seconds {
            self.apply(PostgresReport {
                error: Some(reason),
                ..PostgresReport::default()
            });
        }
    }

    fn apply(&mut self, report: PostgresReport) {
        self.t += 1.0;
        let report = PostgresReport {
            target: "main".into(),
            ..report
        };
        let sample = Sample {
            t: self.t,
            report: Report::Postgres(report),
        };
        self.told.extend(self.engine.apply(sample));
    }

    /// Ends the program and starts it again, with what its journal has.
    fn restart(&mut self) {
        let key = |id: &str| {
            let of = self.told.iter().rfind(|effect| effect.incident.id == id);
            of.unwrap().key.clone()
        };
        let open = self.engine.snapshot().open;
        let open: Vec<(String, Incident)> = open
            .iter()
            .map(|incident| (key(&incident.id), Incident::clone(incident)))
            .collect();
        self.t += 5.0;
        let mut engine = engine();
        engine.restore(self.t, open, []);
        self.engine = engine;
        self.told.clear();
    }

    fn open(&self) -> Vec<Kind> {
        let open = self.engine.snapshot().open;
        open.iter().map(|incident| incident.kind).collect()
    }

    fn ended(&self) -> Vec<Kind> {
        let told = self.told.iter();
        told.filter(|effect| effect.event == Event::Resolved)
            .map(|effect| effect.incident.kind)
            .collect()
    }
}

fn engine() -> Engine {
    Engine::new(Settings {
        targets: vec!["main".into()],
        ..Settings::default()
    })
}

#[test]
fn a_lost_primary_goes_on_after_a_restart_and_ends_once() {
    let mut world = World::new();
    world.looks(30, |_| 20, |_| 0, 0);
    world.fails(4, FailureReason::Refused);
    assert!(world.open().is_empty(), "a restart of the server");
    world.looks(5, |_| 20, |_| 0, 0);
    world.fails(20, FailureReason::Refused);
    assert_eq!(world.open(), [Kind::PrimaryUnreachable]);
    world.restart();
    assert_eq!(world.open(), [Kind::PrimaryUnreachable]);
    world.fails(100, FailureReason::Refused);
    assert_eq!(world.open(), [Kind::PrimaryUnreachable]);
    assert!(world.ended().is_empty());
    world.looks(10, |_| 20, |_| 0, 0);
    assert_eq!(world.ended(), [Kind::PrimaryUnreachable]);
    assert!(world.open().is_empty());
}

#[test]
fn a_storm_goes_on_after_a_restart_and_ends_once() {
    let mut world = World::new();
    world.looks(300, |_| 24, |_| 0, 0);
    world.looks(40, |_| 24, |_| 0, 12);
    assert_eq!(world.open(), [Kind::ReconnectStorm]);
    world.restart();
    assert_eq!(world.open(), [Kind::ReconnectStorm]);
    world.looks(400, |_| 24, |_| 0, 0);
    assert_eq!(world.ended(), [Kind::ReconnectStorm]);
}

#[test]
fn a_leak_of_idle_sessions_without_requests_is_told_goes_on_and_ends() {
    let mut world = World::new();
    world.looks(900, |_| 24, |_| 1, 0);
    // Nobody tells of requests, so it takes longer and more.
    world.looks(500, |second| 24 + second / 4, |_| 1, 0);
    assert_eq!(world.open(), [Kind::ConnectionLeak]);
    world.restart();
    world.looks(200, |_| 150, |_| 1, 0);
    assert_eq!(world.open(), [Kind::ConnectionLeak], "kept");
    world.looks(100, |_| 24, |_| 1, 0);
    assert_eq!(world.ended(), [Kind::ConnectionLeak]);
}

#[test]
fn transactions_left_open_are_an_avalanche_whose_cause_is_a_leak() {
    let mut world = World::new();
    world.looks(400, |_| 24, |_| 1, 0);
    world.looks(60, |_| 24, |second| 1 + second, 1);
    let snapshot = world.engine.snapshot();
    let kinds: Vec<Kind> = snapshot.open.iter().map(|incident| incident.kind).collect();
    assert_eq!(kinds, [Kind::ConnectionAvalanche], "told once");
    let incident = &snapshot.open[0];
    assert_eq!(incident.cause.unwrap().as_str(), "leak", "{incident:#?}");
    assert_eq!(incident.subject["application"], "scanner");
    assert!(
        incident
            .summary
            .contains("idle in transaction and stay so, most of scanner"),
        "{}",
        incident.summary
    );
    let changed = "first told as unknown; leak since ";
    assert!(
        incident
            .evidence
            .iter()
            .any(|text| text.starts_with(changed)),
        "{incident:#?}"
    );
    let updated = world
        .told
        .iter()
        .filter(|effect| effect.event == Event::Updated);
    assert!(updated.count() >= 1);
}
