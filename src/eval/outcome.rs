//! What came of one scenario: when the alarm was, and what was answered at each
//! horizon.

use std::collections::BTreeSet;

use super::baselines::Method;
use super::scenario::{Evidence, Family, Truth};
use crate::engine::correlate::attribution::Standing;
use crate::engine::incident::Effect;
use crate::sample::UnixSeconds;

/// The detector of a scenario judges after its warm-up only, seconds.
const WARM_UP: f64 = 120.0;

/// One scenario.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub family: Family,
    pub seed: u64,
    pub truth: Truth,
    /// By kind of evidence; completed requests first.
    pub heard: Vec<Heard>,
    /// What the published methods said.
    pub published: Vec<Ranked>,
}

impl Outcome {
    pub fn with(&self, evidence: Evidence) -> Option<&Heard> {
        self.heard.iter().find(|heard| heard.evidence == evidence)
    }
}

/// One replay.
#[derive(Debug, Clone)]
pub struct Heard {
    pub evidence: Evidence,
    /// Alarms before the true onset.
    pub false_alarms: u32,
    /// Seconds before the true onset in which there was none to raise.
    pub quiet: f64,
    begun: Option<UnixSeconds>,
    pub told: Option<Told>,
}

impl Heard {
    pub fn new(evidence: Evidence) -> Self {
        Self {
            evidence,
            false_alarms: 0,
            quiet: 0.0,
            begun: None,
            told: None,
        }
    }

    /// It has been quiet up to `t`.
    pub fn quiet_until(&mut self, t: UnixSeconds) {
        let begun = *self.begun.get_or_insert(t);
        self.quiet = (t - begun - WARM_UP).max(0.0);
    }

    pub fn answer(&self, after: f64) -> Option<&Answer> {
        let told = self.told.as_ref()?;
        told.answers.iter().find(|answer| answer.after == after)
    }
}

/// An alarm, and what was said after it.
#[derive(Debug, Clone)]
pub struct Told {
    pub at: UnixSeconds,
    /// The onset as the engine estimates it.
    pub onset: UnixSeconds,
    pub id: String,
    /// Kinds of incident opened since.
    pub kinds: BTreeSet<String>,
    /// A route was named at any moment, and one that was wrong.
    pub ever_named: bool,
    pub ever_wrong: bool,
    pub answers: Vec<Answer>,
}

impl Told {
    pub fn new(effect: &Effect) -> Self {
        Self {
            at: effect.t,
            onset: effect.incident.onset_at,
            id: effect.incident.id.clone(),
            kinds: BTreeSet::new(),
            ever_named: false,
            ever_wrong: false,
            answers: Vec::new(),
        }
    }
}

/// The record at one horizon.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Seconds after the alarm.
    pub after: f64,
    /// Place of the first right candidate, from 0.
    pub right_at: Option<usize>,
    pub candidates: usize,
    /// Confidence of the first candidate.
    pub confidence: Option<f64>,
    /// A route is named, and whether it is right.
    pub named: Option<bool>,
    /// Kinds and causes of all that is said.
    pub causes: Vec<String>,
    pub first: Option<String>,
    pub says: String,
    /// What the confidence was worked out of.
    pub standing: Option<Standing>,
}

impl Answer {
    pub fn is_right_first(&self) -> bool {
        self.right_at == Some(0)
    }

    pub fn is_right_in_three(&self) -> bool {
        self.right_at.is_some_and(|place| place < 3)
    }
}

/// What one reading of a published method said at one horizon.
#[derive(Debug, Clone, Copy)]
pub struct Ranked {
    pub method: Method,
    pub variant: usize,
    pub after: f64,
    /// Place of the first right endpoint among the first three.
    pub right_at: Option<usize>,
}
