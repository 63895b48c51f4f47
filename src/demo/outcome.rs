//! What came of a staging: the facts, and whether everything was named right.

use serde::Serialize;
use serde_json::{Map, Value};

/// What came of one staging. Times are seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub scenario: &'static str,
    /// Counts the stagings of this scenario, from 1.
    pub number: u32,
    /// Since the start of the demo.
    pub staged_at: f64,
    /// What was done, with its parameters.
    pub staged: String,
    pub detected: bool,
    /// The right cause was told within 30 s, and at the end.
    pub cause_right: bool,
    /// So was the right name, and no wrong route at the end.
    pub name_right: bool,
    /// From staging to the incident.
    pub detected_after: Option<f64>,
    /// From staging to the right cause.
    pub cause_after: Option<f64>,
    /// From staging to the right name; of a lock the incident itself names it.
    pub named_after: Option<f64>,
    /// What was told at the end.
    pub named: Option<String>,
    /// From the end of the cause to the end of the incident.
    pub resolved_after: Option<f64>,
    /// What was seen beside it, by name.
    pub facts: Map<String, Value>,
    /// What was not as it should be; empty: passed.
    pub problems: Vec<String>,
}

impl Outcome {
    pub(super) fn new(scenario: &'static str, number: u32, staged_at: f64) -> Self {
        Self {
            scenario,
            number,
            staged_at,
            staged: String::new(),
            detected: false,
            cause_right: false,
            name_right: false,
            detected_after: None,
            cause_after: None,
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
