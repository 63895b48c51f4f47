//! Captures of incidents that were staged on real servers, and what must be said
//! of each: no incident more and none less.
//!
//! `tests/data/NAME.jsonl.zst` was recorded by the daemon itself, and
//! `NAME.expected.json` beside it is what was staged, written by a person.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use snowpit::capture::Captures;
use snowpit::engine::incident::{Cause, Event, Incident, Kind};
use snowpit::replay::{Replay, Step};

/// They are cloned with the repository.
const BYTES: u64 = 100_000;

/// Seconds that a moment may move when a detector is made better or worse.
const SLACK: f64 = 3.0;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// For people.
    #[allow(dead_code)]
    staged: String,
    incidents: Vec<ExpectedIncident>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedIncident {
    kind: Kind,
    #[serde(default)]
    cause: Option<Cause>,
    /// The route that is named first.
    #[serde(default)]
    route: Option<String>,
    /// What the subject must say, among other things.
    #[serde(default)]
    subject: Map<String, Value>,
    /// Seconds from the first sample.
    opened_after: f64,
    /// `None`: it is still open at the end.
    #[serde(default)]
    resolved_after: Option<f64>,
}

/// What was said of an incident: when it opened, and its last record.
struct Said {
    opened_after: f64,
    resolved_after: Option<f64>,
    incident: Incident,
}

fn captures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".jsonl.zst"))
        .collect();
    files.sort();
    files
}

fn replay(capture: &Path) -> Vec<Said> {
    let captures = Captures::open(&[capture.to_owned()]).unwrap();
    let settings = captures.settings();
    let mut replay = Replay::new(captures, settings);
    let mut said: BTreeMap<String, Said> = BTreeMap::new();
    while let Some(step) = replay.step() {
        let Step::Applied(effects) = step else {
            panic!("{}: {step:?}", capture.display());
        };
        let (first, _) = replay.summary().span.unwrap();
        for effect in effects {
            let id = effect.incident.id.clone();
            let after = effect.t - first;
            let said = said.entry(id).or_insert_with(|| Said {
                opened_after: after,
                resolved_after: None,
                incident: effect.incident.clone(),
            });
            if effect.event == Event::Resolved {
                said.resolved_after = Some(after);
            }
            said.incident = effect.incident;
        }
    }
    let mut said: Vec<Said> = said.into_values().collect();
    said.sort_by(|a, b| a.opened_after.total_cmp(&b.opened_after));
    said
}

impl ExpectedIncident {
    fn is(&self, said: &Said) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= SLACK;
        let incident = &said.incident;
        let first = incident.attribution.first();
        let named = first.filter(|_| incident.cause == Some(Cause::Endpoint));
        let ends = match (self.resolved_after, said.resolved_after) {
            (Some(expected), Some(said)) => near(expected, said),
            (expected, said) => expected.is_none() && said.is_none(),
        };
        let mut subject = self.subject.iter();
        self.kind == incident.kind
            && self.cause.is_none_or(|cause| Some(cause) == incident.cause)
            && self.route.as_deref() == named.map(|candidate| candidate.route.as_str())
            && subject.all(|(name, value)| incident.subject.get(name) == Some(value))
            && near(self.opened_after, said.opened_after)
            && ends
    }
}

#[test]
fn every_staged_incident_is_told_and_nothing_else() {
    let captures = captures();
    assert!(captures.len() >= 5, "{captures:?}");
    let mut wrong = Vec::new();
    for capture in captures {
        let bytes = fs::metadata(&capture).unwrap().len();
        assert!(bytes <= BYTES, "{} is too long", capture.display());
        let name = capture.to_string_lossy().into_owned();
        let path = name.replace(".jsonl.zst", ".expected.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut expected: Expected = serde_json::from_str(&text).unwrap();
        for said in replay(&capture) {
            match expected.incidents.iter().position(|e| e.is(&said)) {
                Some(found) => drop(expected.incidents.remove(found)),
                None => wrong.push(format!(
                    "{name} tells of something that is not expected: {:?}, opened after {:.1} s, \
                     resolved after {:?}: {}; {:?}",
                    said.incident.kind,
                    said.opened_after,
                    said.resolved_after,
                    said.incident.summary,
                    said.incident.subject
                )),
            }
        }
        for missing in expected.incidents {
            wrong.push(format!("{name} does not tell of {missing:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
