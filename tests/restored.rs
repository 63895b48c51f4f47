//! An engine that is started again in the middle of an incident goes on with
//! it: the same incident, resolved when it is over and not before.

use snowpit::engine::incident::{Effect, Event, Incident, Kind};
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{FailureReason, Group, PostgresReport, Report, Sample, Server};

const START: f64 = 1_604_902_000.0;

fn settings() -> Settings {
    let mut settings = Settings {
        targets: vec!["main".into()],
        ..Settings::default()
    };
    settings.detect.connection_avalanche.warm_up = 60.0;
    settings.detect.connection_avalanche.resolve_after = 30.0;
    settings
}

/// A look at `t` seconds with so many busy sessions of `GET /a`.
fn look(t: u32, busy: u32) -> Sample {
    let group = Group {
        application: Some("registry".into()),
        state: Some("active".into()),
        route: Some("GET /a".into()),
        count: busy,
        ..Group::default()
    };
    sample(
        t,
        PostgresReport {
            server: Some(Server {
                max_connections: Some(100),
                reserved_connections: Some(0),
                ..Server::default()
            }),
            sees_all_sessions: Some(true),
            groups: vec![group],
            ..PostgresReport::default()
        },
    )
}

fn failed(t: u32) -> Sample {
    let report = PostgresReport {
        error: Some(FailureReason::Refused),
        ..PostgresReport::default()
    };
    sample(t, report)
}

fn sample(t: u32, report: PostgresReport) -> Sample {
    Sample {
        t: START + f64::from(t),
        report: Report::Postgres(PostgresReport {
            target: "main".into(),
            ..report
        }),
    }
}

fn run(engine: &mut Engine, samples: impl IntoIterator<Item = Sample>) -> Vec<Effect> {
    let samples = samples.into_iter();
    samples.flat_map(|sample| engine.apply(sample)).collect()
}

/// What the journal would have of the open incidents.
fn open(effects: &[Effect], engine: &Engine) -> Vec<(String, Incident)> {
    let open = engine.snapshot().open;
    let key = |id: &str| {
        let told = effects.iter().find(|effect| effect.incident.id == id);
        told.unwrap().key.clone()
    };
    open.iter()
        .map(|incident| (key(&incident.id), Incident::clone(incident)))
        .collect()
}

fn ids(engine: &Engine, kind: Kind) -> Vec<String> {
    let open = engine.snapshot().open;
    let of_kind = open.iter().filter(|incident| incident.kind == kind);
    of_kind.map(|incident| incident.id.clone()).collect()
}

/// An engine with the avalanche open at 120 s, and the same started again.
fn avalanche() -> (Engine, Engine, Vec<String>) {
    let mut first = Engine::new(settings());
    let quiet = (0..100).map(|t| look(t, 5));
    let effects = run(&mut first, quiet.chain((100..120).map(|t| look(t, 40))));
    let known = ids(&first, Kind::ConnectionAvalanche);
    assert_eq!(known.len(), 1);
    let mut second = Engine::new(settings());
    second.restore(START + 125.0, open(&effects, &first), Vec::new());
    (first, second, known)
}

#[test]
fn an_avalanche_goes_on_and_ends_as_without_the_restart() {
    let (mut first, mut second, known) = avalanche();
    let kind = Kind::ConnectionAvalanche;
    assert_eq!(ids(&second, kind), known, "shown before the first look");
    let lasts: Vec<Sample> = (126..240).map(|t| look(t, 40)).collect();
    let effects = run(&mut second, lasts.clone());
    run(&mut first, lasts);
    assert!(effects.is_empty(), "nothing new to tell: {effects:?}");
    assert_eq!(ids(&second, kind), known);
    let over: Vec<Sample> = (240..320).map(|t| look(t, 5)).collect();
    let resolved = |effects: Vec<Effect>| {
        assert_eq!(effects.len(), 1, "{effects:?}");
        assert_eq!(effects[0].event, Event::Resolved);
        effects[0].clone()
    };
    let without = resolved(run(&mut first, over.clone()));
    let with = resolved(run(&mut second, over));
    assert_eq!(with.incident.id, without.incident.id);
    assert_eq!(with.incident.onset_at, without.incident.onset_at);
    assert_eq!(with.incident.opened_at, without.incident.opened_at);
    let named = |effect: &Effect| {
        let first = effect.incident.attribution.first();
        let route = first.map(|attribution| attribution.route.clone());
        (effect.incident.cause, route)
    };
    assert_eq!(named(&with), named(&without));
    assert!(
        (with.t - without.t).abs() <= 15.0,
        "{} {}",
        with.t,
        without.t
    );
    let totals = second.snapshot().incidents_total;
    assert!(totals.values().all(|n| *n == 0), "no new one: {totals:?}");
}

#[test]
fn an_avalanche_that_is_over_ends_after_the_usual_calm() {
    let (_, mut second, known) = avalanche();
    let effects = run(&mut second, (126..220).map(|t| look(t, 5)));
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert_eq!(effects[0].event, Event::Resolved);
    assert_eq!(effects[0].incident.id, known[0]);
    let calm = effects[0].t - START - 126.0;
    assert!((30.0..50.0).contains(&calm), "{calm}");
    // And the next one is another.
    let next = run(&mut second, (220..300).map(|t| look(t, 45)));
    assert_eq!(next[0].event, Event::Opened);
    assert_ne!(next[0].incident.id, known[0]);
}

#[test]
fn nothing_ends_while_nobody_can_look() {
    let (_, mut second, known) = avalanche();
    let effects = run(&mut second, (126..1000).map(failed));
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(ids(&second, Kind::ConnectionAvalanche), known);
}

#[test]
fn headroom_goes_on_between_its_two_marks() {
    let kind = Kind::ConnectionHeadroom;
    let mut first = Engine::new(settings());
    let effects = run(&mut first, (0..40).map(|t| look(t, 90)));
    let known = ids(&first, kind);
    assert_eq!(known.len(), 1, "{effects:?}");
    let mut second = Engine::new(settings());
    second.restore(START + 50.0, open(&effects, &first), Vec::new());
    // 80 % is under the mark to open and over the one to resolve.
    let looks = [failed(50), failed(51)].into_iter();
    let effects = run(&mut second, looks.chain((52..300).map(|t| look(t, 80))));
    assert!(
        effects.iter().all(|e| e.event == Event::Updated),
        "{effects:?}"
    );
    assert_eq!(ids(&second, kind), known);
    let effects = run(&mut second, (300..330).map(|t| look(t, 10)));
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert_eq!(effects[0].event, Event::Resolved);
    assert_eq!(effects[0].incident.id, known[0]);
}

#[test]
fn an_incident_that_no_detector_finds_again_ends_after_a_while() {
    let (first, _, known) = avalanche();
    let mut incident = Incident::clone(&first.snapshot().open[0]);
    // As of a version whose record says less.
    incident.subject.clear();
    let mut second = Engine::new(settings());
    second.restore(START, [(String::new(), incident)], Vec::new());
    assert!(run(&mut second, (126..180).map(|t| look(t, 5))).is_empty());
    let effects = run(&mut second, (180..240).map(|t| look(t, 5)));
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert_eq!(effects[0].incident.id, known[0]);
    assert_eq!(effects[0].event, Event::Resolved);
}

#[test]
fn resolved_ones_are_shown_and_their_ids_not_given_again() {
    let (mut first, _, _) = avalanche();
    let effects = run(&mut first, (120..300).map(|t| look(t, 5)));
    let over = effects.last().unwrap().incident.clone();
    let mut second = Engine::new(settings());
    second.restore(START, [], [over.clone()]);
    assert_eq!(*second.snapshot().resolved[0], over);
    let quiet = (0..100).map(|t| look(t, 5));
    let again = run(&mut second, quiet.chain((100..120).map(|t| look(t, 40))));
    assert_eq!(again[0].incident.id, format!("{}-2", over.id));
}
