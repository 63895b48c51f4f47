use super::*;
use crate::engine::incident::{Effect, Event, Incident, Kind, Severity};
use crate::eval::outcome::{Ranked, Told};
use crate::eval::scenario::{Culprit, Truth};

fn effect(t: f64, onset_at: f64) -> Effect {
    Effect {
        t,
        event: Event::Opened,
        incident: Incident {
            id: "main".into(),
            target: "main".into(),
            kind: Kind::ConnectionAvalanche,
            severity: Severity::Critical,
            cause: None,
            onset_at,
            opened_at: t,
            resolved_at: None,
            subject: serde_json::Map::new(),
            summary: String::new(),
            attribution: Vec::new(),
            unexplained_share: None,
            evidence: Vec::new(),
            actions: Vec::new(),
            runbook: String::new(),
        },
        key: String::new(),
    }
}

/// An incident at 1,000 s, alarmed `delay` later, with the right one at `place`.
fn outcome(
    family: Family,
    delay: Option<f64>,
    place: Option<usize>,
    named: Option<bool>,
) -> Outcome {
    let told = delay.map(|delay| {
        let mut told = Told::new(&effect(1_000.0 + delay, 1_001.0));
        told.ever_named = named.is_some();
        told.answers = [10.0, 30.0, 60.0]
            .map(|after| Answer {
                after,
                right_at: place,
                candidates: 3,
                confidence: Some(0.9),
                named,
                causes: vec!["endpoint".to_owned()],
                ..Answer::default()
            })
            .to_vec();
        told
    });
    let mut heard = Heard::new(Evidence::Requests);
    heard.quiet = 864.0;
    heard.told = told;
    let ranked = |method| Ranked {
        method,
        variant: 0,
        after: 30.0,
        right_at: Some(1),
    };
    Outcome {
        family,
        seed: 1,
        truth: Truth {
            onset: Some(1_000.0),
            until: 2_000.0,
            step: true,
            base: 10.0,
            size: 9.0,
            culprits: vec![Culprit {
                service: "a".into(),
                route: "GET /a".into(),
            }],
            cause: if family.has_culprit() {
                Blame::Endpoint
            } else {
                Blame::SlowQueries
            },
        },
        published: delay.map_or_else(Vec::new, |_| Method::ALL.map(ranked).to_vec()),
        heard: vec![heard],
    }
}

fn figure(score: &Score, name: &str) -> f64 {
    let mut figures = score.figures.iter();
    let figure = figures.find(|figure| figure.name.starts_with(name));
    figure.unwrap().value.unwrap()
}

#[test]
fn every_figure_is_what_was_counted() {
    let mut outcomes = vec![
        outcome(Family::Flow, Some(4.0), Some(0), Some(true)),
        outcome(Family::Flow, Some(6.0), Some(0), Some(true)),
        outcome(Family::Flow, Some(8.0), Some(2), Some(false)),
        outcome(Family::Flow, None, None, None),
        outcome(Family::SlowDatabase, Some(9.0), None, None),
        outcome(Family::SlowDatabase, Some(9.0), None, Some(false)),
    ];
    outcomes[0].heard[0].false_alarms = 1;
    let quiet = Quiet {
        days: 4.0,
        alarms: 1,
    };
    let score = score(&outcomes, quiet);
    let near = |name: &str, value: f64| {
        let found = figure(&score, name);
        assert!((found - value).abs() < 1e-9, "{name}: {found} for {value}");
    };
    near("recall", 5.0 / 6.0);
    // Six times 864 s are 0.06 days.
    near("false alarms a day", 1.0 / 0.06);
    near("median delay", 8.0);
    near("false alarms a quiet day", 0.25);
    near("first at +30 s, requests", 2.0 / 3.0);
    near("first three at +30 s", 1.0);
    near("lead over BARO", 2.0 / 3.0);
    near("precision", 2.0 / 4.0);
    near("endpoint incidents named", 1.0);
    near("false accusations", 0.5);
    assert!(!score.is_met());
    let family = &score.families[0];
    assert_eq!((family.family, family.detected), (Family::Flow, 0.75));
    assert_eq!(family.onset_error, Some(1.0));
    assert_eq!(family.cause, Some(1.0));
    assert_eq!(score.families[1].cause, Some(0.0), "an endpoint was said");
}

#[test]
fn a_calibrated_confidence_has_no_error_and_a_boaster_has() {
    let honest: Vec<(f64, bool)> = (0..1_000)
        .map(|i| (f64::from(i % 10) / 10.0 + 0.05, i % 100 < (i % 10) * 10 + 5))
        .collect();
    // A tenth each, of which 0, 10, 20… percent are right in hundreds.
    assert!(ece(&honest).unwrap() < 0.06);
    let boast: Vec<(f64, bool)> = (0..100).map(|i| (0.95, i % 2 == 0)).collect();
    assert!((ece(&boast).unwrap() - 0.45).abs() < 1e-9);
    assert!((ece(&[(1.0, true), (0.0, false)]).unwrap()).abs() < 1e-9);
    assert_eq!(ece(&[]), None);
}

#[test]
fn a_word_says_how_a_figure_stands() {
    let figure = |value, floor, goal| Figure {
        name: "f",
        value,
        of: 1,
        floor,
        goal,
        less: floor > goal,
    };
    assert_eq!(figure(Some(0.96), 0.95, 0.97).word(), "met");
    assert_eq!(figure(Some(0.97), 0.95, 0.97).word(), "met, goal too");
    assert_eq!(figure(Some(0.9), 0.95, 0.97).word(), "missed");
    assert_eq!(figure(Some(0.04), 0.05, 0.03).word(), "met");
    assert_eq!(figure(Some(0.06), 0.05, 0.03).word(), "missed");
    assert_eq!(figure(None, 0.05, 0.03).word(), "not measured");
}
