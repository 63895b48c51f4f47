//! What came of a scenario: the facts, and whether everything was named right.

use serde::Serialize;
use serde_json::{Map, Value};

/// What came of one scenario. Times are seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub scenario: &'static str,
    /// Since the start of the demo.
    pub staged_at: f64,
    /// From staging to the incident.
    pub detected_after: Option<f64>,
    /// From staging to the right name; of a lock the incident itself names it.
    pub named_after: Option<f64>,
    /// What the incident named.
    pub named: Option<String>,
    /// From the end of the cause to the end of the incident.
    pub resolved_after: Option<f64>,
    /// What was seen beside it, by name.
    pub facts: Map<String, Value>,
    /// What was not as it should be; empty: passed.
    pub problems: Vec<String>,
}

impl Outcome {
    pub(super) fn new(scenario: &'static str, staged_at: f64) -> Self {
        Self {
            scenario,
            staged_at,
            detected_after: None,
            named_after: None,
            named: None,
            resolved_after: None,
            facts: Map::new(),
            problems: Vec::new(),
        }
    }

    /// Detected, named right, resolved.
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Notes a problem unless what should be is.
    pub(super) fn expect(&mut self, what: &str, wanted: &str, found: &str) {
        if wanted != found {
            self.problems
                .push(format!("{what} is {found:?} and should be {wanted:?}"));
        }
    }
}

/// What came of the demo.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub passed: bool,
    /// From the first server's start to the last incident's end.
    pub seconds: f64,
    pub scenarios: Vec<Outcome>,
    /// Incidents that nobody staged.
    pub uncalled: Vec<String>,
}

impl Report {
    pub(super) fn new(seconds: f64, scenarios: Vec<Outcome>, uncalled: Vec<String>) -> Self {
        Self {
            passed: scenarios.iter().all(Outcome::passed),
            seconds,
            scenarios,
            uncalled,
        }
    }

    /// The closing table.
    pub(super) fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "scenario",
            "detected after",
            "named after",
            "named",
            "resolved after",
            "",
        ]);
        for outcome in &self.scenarios {
            table.add_row([
                outcome.scenario.to_owned(),
                seconds(outcome.detected_after),
                seconds(outcome.named_after),
                outcome.named.clone().unwrap_or_else(|| "nothing".into()),
                seconds(outcome.resolved_after),
                if outcome.passed() { "PASS" } else { "FAIL" }.to_owned(),
            ]);
        }
        table.to_string()
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "never".into(), |value| format!("{value:.1} s"))
}
