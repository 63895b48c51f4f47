use super::*;
use crate::engine::incident::{Cause, Event};
use crate::engine::settings::{Pooler, Service};
use crate::sample::{
    Group, PgbouncerReport, Pool, PoolDatabase, PostgresReport, Report, Sample, Server,
};

const START: u32 = 1_600_000_000;

fn settings(targets: &[&str]) -> Settings {
    Settings {
        targets: targets.iter().map(|&name| name.to_owned()).collect(),
        poolers: vec![Pooler {
            name: "pooler-1".to_owned(),
            target: "main".to_owned(),
        }],
        ..Settings::default()
    }
}

/// A look with sessions by route at `main`.
fn look(second: u32, counts: &[(&str, u32)]) -> Sample {
    let group = |&(route, count): &(&str, u32)| Group {
        application: Some("app-7".to_owned()),
        state: Some("active".to_owned()),
        route: Some(route.to_owned()),
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

/// A pool with all its servers taken and clients waiting.
fn full_pool(second: u32) -> Sample {
    Sample {
        t: f64::from(START + second) + 0.1,
        report: Report::Pgbouncer(PgbouncerReport {
            pooler: "pooler-1".to_owned(),
            target: "main".to_owned(),
            pools: vec![Pool {
                database: "app".to_owned(),
                user: "app".to_owned(),
                cl_waiting: 5,
                maxwait_us: 20_000_000,
                sv_active: 20,
                ..Pool::default()
            }],
            databases: vec![PoolDatabase {
                name: "app".to_owned(),
                pool_size: 20,
                ..PoolDatabase::default()
            }],
            ..PgbouncerReport::default()
        }),
    }
}

fn run(engine: &mut Engine, seconds: std::ops::Range<u32>, counts: &[(&str, u32)]) -> Vec<Effect> {
    let effects = seconds.flat_map(|second| engine.apply(look(second, counts)));
    effects.collect()
}

fn kinds(effects: &[Effect], event: Event) -> Vec<Kind> {
    let of = effects.iter().filter(|effect| effect.event == event);
    of.map(|effect| effect.incident.kind).collect()
}

#[test]
fn a_target_that_stays_needs_no_second_warm_up() {
    let mut engine = Engine::new(settings(&["main"]));
    run(&mut engine, 0..300, &[("/a", 4)]);
    let mut new = settings(&["main", "spare"]);
    new.detect.connection_headroom.open_ratio = 0.5;
    assert_eq!(engine.reconfigure(new), []);
    assert!(engine.snapshot().targets["main"].band.is_some());
    assert!(engine.snapshot().targets.contains_key("spare"));
    let opened = run(&mut engine, 300..310, &[("/a", 4), ("/b", 60)]);
    assert_eq!(kinds(&opened, Event::Opened), [Kind::ConnectionAvalanche]);
}

#[test]
fn thresholds_take_effect_at_once_and_a_kind_that_is_off_ends() {
    let mut engine = Engine::new(settings(&["main"]));
    run(&mut engine, 0..300, &[("/a", 4)]);
    let mut higher = settings(&["main"]);
    higher.detect.connection_avalanche.min_sessions = 100.0;
    engine.reconfigure(higher);
    let surge = [("/a", 4), ("/b", 60)];
    assert_eq!(run(&mut engine, 300..310, &surge), [], "below the new one");
    engine.reconfigure(settings(&["main"]));
    let opened = run(&mut engine, 310..320, &surge);
    assert_eq!(kinds(&opened, Event::Opened), [Kind::ConnectionAvalanche]);
    let mut off = settings(&["main"]);
    off.detect.connection_avalanche.enabled = false;
    engine.reconfigure(off);
    let ended = run(&mut engine, 320..321, &surge);
    assert_eq!(kinds(&ended, Event::Resolved), [Kind::ConnectionAvalanche]);
}

#[test]
fn an_open_incident_goes_on_and_that_of_a_target_that_is_gone_ends() {
    let mut engine = Engine::new(settings(&["main", "spare"]));
    run(&mut engine, 0..300, &[("/a", 4)]);
    let surge = [("/a", 4), ("/b", 60)];
    let opened = run(&mut engine, 300..310, &surge);
    let mut new = settings(&["main"]);
    new.detect.connection_avalanche.resolve_after = 77.0;
    assert_eq!(engine.reconfigure(new), [], "main stays");
    run(&mut engine, 310..320, &surge);
    assert_eq!(engine.snapshot().open[0].id, opened[0].incident.id);

    let ends = engine.reconfigure(settings(&["spare"]));
    assert_eq!(kinds(&ends, Event::Resolved), [Kind::ConnectionAvalanche]);
    let incident = &ends[0].incident;
    assert_eq!(incident.resolved_at, Some(f64::from(START + 319)));
    let last = incident.evidence.last().unwrap();
    assert!(last.contains("not in the configuration any more"), "{last}");
    let snapshot = engine.snapshot();
    assert!(snapshot.open.is_empty() && !snapshot.targets.contains_key("main"));
    assert!(snapshot.incidents_total.is_empty(), "its series are gone");
    assert_eq!(snapshot.resolved[0].id, incident.id);
}

#[test]
fn a_service_by_another_name_is_not_taken_for_a_rise() {
    let mut engine = Engine::new(settings(&["main"]));
    run(&mut engine, 0..300, &[("/a", 40)]);
    let mut renamed = settings(&["main"]);
    renamed.services = vec![Service {
        name: "shop".to_owned(),
        targets: vec!["main".to_owned()],
        applications: vec!["app*".to_owned()],
    }];
    engine.reconfigure(renamed);
    let surge = [("/a", 40), ("/b", 30)];
    let effects = run(&mut engine, 300..330, &surge);
    assert_eq!(kinds(&effects, Event::Opened), [Kind::ConnectionAvalanche]);
    for effect in &effects {
        let named = effect.incident.attribution.first();
        assert!(named.is_none_or(|first| first.route == "/b"), "{named:?}");
    }
}

#[test]
fn an_incident_that_is_open_keeps_its_answer_when_services_are_renamed() {
    let mut engine = Engine::new(settings(&["main"]));
    run(&mut engine, 0..300, &[("/a", 40)]);
    let surge = [("/a", 40), ("/b", 60)];
    let opened = run(&mut engine, 300..320, &surge);
    assert_eq!(opened.last().unwrap().incident.cause, Some(Cause::Endpoint));
    let mut renamed = settings(&["main"]);
    renamed.services = vec![Service {
        name: "shop".to_owned(),
        targets: vec!["main".to_owned()],
        applications: vec!["app*".to_owned()],
    }];
    engine.reconfigure(renamed);
    run(&mut engine, 320..340, &surge);
    let open = &engine.snapshot().open;
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].cause, Some(Cause::Endpoint));
    assert_eq!(open[0].attribution[0].route, "/b");
}

#[test]
fn what_was_told_of_a_pooler_ends_with_it() {
    let mut engine = Engine::new(settings(&["main"]));
    let mut effects = Vec::new();
    for second in 0..20 {
        effects.extend(engine.apply(look(second, &[("/a", 4)])));
        effects.extend(engine.apply(full_pool(second)));
    }
    assert_eq!(kinds(&effects, Event::Opened), [Kind::PoolSaturation]);
    let mut without = settings(&["main"]);
    without.poolers.clear();
    let ends = engine.reconfigure(without);
    assert_eq!(kinds(&ends, Event::Resolved), [Kind::PoolSaturation]);
    assert!(engine.snapshot().poolers.is_empty());
}
