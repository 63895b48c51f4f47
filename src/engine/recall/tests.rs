use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::incident::{Effect, Event, Kind};
use crate::engine::series::Block;
use crate::engine::settings::{Pooler, Settings};
use crate::sample::{Group, PgbouncerReport, Pool, PostgresReport, Report, Sample, Server};

const START: u32 = 1_600_000_000;

fn settings() -> Settings {
    Settings {
        targets: vec!["main".to_owned()],
        poolers: vec![Pooler {
            name: "pooler-1".to_owned(),
            target: "main".to_owned(),
        }],
        ..Settings::default()
    }
}

fn look(second: u32, counts: &[(&str, u32)]) -> Sample {
    let group = |&(route, count): &(&str, u32)| Group {
        application: Some("app".to_owned()),
        state: Some("active".to_owned()),
        route: (!route.is_empty()).then(|| route.to_owned()),
        count,
        ..Group::default()
    };
    Sample {
        t: f64::from(START + second),
        report: Report::Postgres(PostgresReport {
            target: "main".to_owned(),
            server: Some(Server {
                started_at: Some(1.5e9),
                ..Server::default()
            }),
            groups: counts.iter().map(group).collect(),
            ..PostgresReport::default()
        }),
    }
}

fn pooler(second: u32, waiting: u32) -> Sample {
    Sample {
        t: f64::from(START + second) + 0.1,
        report: Report::Pgbouncer(PgbouncerReport {
            pooler: "pooler-1".to_owned(),
            target: "main".to_owned(),
            pools: vec![Pool {
                database: "app".to_owned(),
                cl_waiting: waiting,
                ..Pool::default()
            }],
            ..PgbouncerReport::default()
        }),
    }
}

fn run(engine: &mut Engine, seconds: std::ops::Range<u32>, counts: &[(&str, u32)]) -> Vec<Effect> {
    seconds
        .flat_map(|second| {
            let wobble = second.wrapping_mul(2_654_435_761) >> 30;
            let mut counts = counts.to_vec();
            counts[0].1 += wobble;
            let mut effects = engine.apply(look(second, &counts));
            effects.extend(engine.apply(pooler(second, second % 2)));
            effects
        })
        .collect()
}

fn stopped(mut engine: Engine) -> Vec<Arc<Block>> {
    engine.seal_history();
    engine.take_sealed()
}

fn fresh() -> Engine {
    let mut engine = Engine::new(settings());
    engine.hand_over(10_800.0);
    engine
}

const QUIET: &[(&str, u32)] = &[("GET /a", 10), ("GET /b", 4), ("", 2)];
const STORM: &[(&str, u32)] = &[("GET /a", 10), ("GET /b", 120), ("", 2)];

#[test]
fn a_restart_is_no_second_warm_up_and_the_gap_no_alarm() {
    let mut before = fresh();
    run(&mut before, 0..1800, QUIET);
    let band = before.snapshot().targets["main"].band.unwrap();
    let mut after = fresh();
    after.remember(0, stopped(before));
    assert_eq!(
        after.snapshot().targets["main"].band,
        Some(band),
        "to the bit"
    );
    let effects = run(&mut after, 1900..2200, QUIET);
    assert_eq!(effects, []);
    let effects = run(&mut after, 2200..2215, STORM);
    let mut opened = effects
        .iter()
        .filter(|effect| effect.event == Event::Opened);
    let incident = &opened.next().expect("the storm is found at once").incident;
    assert_eq!(incident.kind, Kind::ConnectionAvalanche);
    assert_eq!(incident.attribution[0].route, "GET /b");
}

#[test]
fn an_incident_that_ran_is_known_with_its_onset_and_its_culprit() {
    let run_until = |end: u32| {
        let mut engine = fresh();
        run(&mut engine, 0..1800, QUIET);
        run(&mut engine, 1800..end, STORM);
        engine
    };
    let mut uninterrupted = run_until(1860);
    let told = uninterrupted.snapshot().open[0].clone();
    let mut after = fresh();
    after.remember(0, stopped(run_until(1860)));
    run(&mut after, 1870..1872, STORM);
    run(&mut uninterrupted, 1870..1872, STORM);
    let (again, now) = (after.snapshot(), uninterrupted.snapshot());
    assert_eq!(again.open.len(), 1);
    assert_eq!(again.open[0].onset_at, told.onset_at);
    assert_eq!(again.open[0].attribution, now.open[0].attribution);
    assert_eq!(again.targets["main"].band, now.targets["main"].band);
    assert_eq!(again.open[0].cause, told.cause);
}

#[test]
fn blocks_that_tell_the_same_twice_count_once() {
    let mut before = fresh();
    run(&mut before, 0..1300, QUIET);
    let band = before.snapshot().targets["main"].band;
    let blocks = stopped(before);
    let twice: Vec<_> = blocks
        .iter()
        .flat_map(|block| [block; 2])
        .cloned()
        .collect();
    let mut after = fresh();
    after.remember(0, twice);
    assert_eq!(after.snapshot().targets["main"].band, band);
}

#[test]
fn a_server_that_was_restarted_meanwhile_is_noticed() {
    let mut before = fresh();
    run(&mut before, 0..700, QUIET);
    let mut after = fresh();
    after.remember(0, stopped(before));
    let mut effects = Vec::new();
    for second in 720..760 {
        let mut sample = look(second, if second < 735 { QUIET } else { STORM });
        if let Report::Postgres(report) = &mut sample.report {
            let started_at = Some(f64::from(START + 715));
            report.server = Some(Server {
                started_at,
                ..Server::default()
            });
        }
        effects.extend(after.apply(sample));
    }
    let told = effects.iter().any(|effect| {
        let mut evidence = effect.incident.evidence.iter();
        evidence.any(|line| line.contains("restart"))
    });
    assert!(told, "{effects:#?}");
}
