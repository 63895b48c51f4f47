use super::*;
use crate::engine::incident::{Attribution, Cause};

const WALL: f64 = 1_604_902_400.0;

fn incident() -> Incident {
    Incident {
        id: "main-connection_avalanche-20201109T061203Z".into(),
        target: "main".into(),
        kind: Kind::ConnectionAvalanche,
        severity: Severity::Critical,
        cause: Some(Cause::Endpoint),
        onset_at: 1_604_902_320.0,
        opened_at: 1_604_902_323.5,
        resolved_at: None,
        subject: serde_json::Map::new(),
        summary: "main went from 412 to 3,960 sessions".into(),
        attribution: vec![Attribution {
            service: "registry".into(),
            route: "GET /a".into(),
            share: 0.91,
            connections: 3229.0,
            rate_change: Some(11.2),
            hold_change: Some(1.0),
            rate_part: None,
            hold_part: None,
            confidence: 0.97,
        }],
        unexplained_share: Some(0.06),
        evidence: vec!["one".into(), "two".into()],
        actions: vec!["SELECT 1;".into()],
        runbook: "connection_avalanche".into(),
    }
}

fn alert(incident: &Incident, ended_at: Option<f64>, link: &Link) -> Alert {
    Alert::new("main", incident.kind, incident, &[], ended_at, link, WALL)
}

#[test]
fn the_labels_are_those_of_the_rules_and_the_record_is_whole() {
    let incident = incident();
    let link = Link::new(Some("https://snowpit.example".into()));
    let alert = alert(&incident, None, &link);
    let labels: Vec<_> = alert.labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
    assert_eq!(
        labels,
        [
            ("alertname", "SnowpitConnectionAvalanche"),
            ("kind", "connection_avalanche"),
            ("severity", "page"),
            ("target", "main"),
        ]
    );
    assert_eq!(alert.starts_at, "2020-11-09T06:12:03.500Z");
    assert_eq!(alert.ends_at, "2020-11-09T06:16:20.000Z");
    let record: Incident = serde_json::from_str(&alert.annotations["incident"]).unwrap();
    assert_eq!(record, incident);
    assert_eq!(alert.annotations["description"], "one\ntwo");
    assert_eq!(
        alert.annotations["runbook_url"],
        "https://snowpit.example/runbooks/connection_avalanche"
    );
    let generator = alert.generator_url.unwrap();
    let end = "/api/v1/incidents/main%2Dconnection%5Favalanche%2D20201109T061203Z";
    assert!(generator.ends_with(end), "{generator}");
}

#[test]
fn a_graver_incident_is_the_same_alert() {
    let mut headroom = incident();
    headroom.kind = Kind::ConnectionHeadroom;
    let link = Link::new(None);
    headroom.severity = Severity::Warning;
    let before = alert(&headroom, None, &link).labels;
    headroom.severity = Severity::Critical;
    assert_eq!(before, alert(&headroom, None, &link).labels);
    assert_eq!(before["severity"], "ticket");
}

#[test]
fn an_end_is_neither_before_the_beginning_nor_in_the_future() {
    let incident = incident();
    let link = Link::new(None);
    let ended = |at| alert(&incident, Some(at), &link).ends_at;
    assert_eq!(ended(1_604_902_390.25), "2020-11-09T06:13:10.250Z");
    assert_eq!(ended(0.0), "2020-11-09T06:12:03.500Z");
    assert_eq!(ended(WALL + 3600.0), "2020-11-09T06:13:20.000Z");
    assert_eq!(ended(f64::NAN), "2020-11-09T06:13:20.000Z");
    assert_eq!(alert(&incident, None, &link).generator_url, None);
}

#[test]
fn a_monstrous_incident_stays_bounded_and_valid() {
    let mut monster = incident();
    monster.summary = "é\"<".repeat(10_000);
    monster.evidence = vec!["\u{1}".repeat(5_000); 200];
    monster.actions = vec!["SELECT '…';".repeat(1_000); 200];
    monster.attribution[0].route = "/x".repeat(50_000);
    let long = serde_json::Value::String("y".repeat(100_000));
    monster.subject.insert("database".into(), long);
    let others: Vec<String> = (0..500).map(|n| format!("id-{n}")).collect();
    let link = Link::new(None);
    let alert = Alert::new("main", monster.kind, &monster, &others, None, &link, WALL);
    for (name, text) in &alert.annotations {
        assert!(text.len() <= RECORD_BYTES * 2, "{name}: {}", text.len());
    }
    assert!(serde_json::to_vec(&alert).unwrap().len() < 100_000);
    let record: Incident = serde_json::from_str(&alert.annotations["incident"]).unwrap();
    assert_eq!(record.id, monster.id);
    assert!(record.evidence.last().unwrap().contains("192 more"));
    assert!(alert.annotations["others"].starts_with("500 more of this kind: id-0, "));
}
