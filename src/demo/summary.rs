//! What came of the whole demo, by scenario.

use serde::Serialize;

use super::outcome::Outcome;
use super::scenario::Scenario;
use super::stack::Played;

/// What came of the demo.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub passed: bool,
    pub seed: u64,
    /// From the first server's start to the last incident's end.
    pub seconds: f64,
    pub scenarios: Vec<Row>,
    /// By scenario, and in the order of their numbers.
    pub stagings: Vec<Outcome>,
    /// Incidents that nobody staged.
    pub uncalled: Vec<String>,
}

/// What came of one scenario. Times are seconds from the staging, the median and
/// the longest of those stagings that have one.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub scenario: &'static str,
    pub staged: usize,
    pub detected: usize,
    pub cause_right: usize,
    pub name_right: usize,
    pub detected_after: Option<Spread>,
    pub cause_after: Option<Spread>,
    pub named_after: Option<Spread>,
}

/// The middle and the end of some figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub longest: f64,
}

impl Spread {
    /// `None` of nothing.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&longest, middle) = (values.last()?, values.len() / 2);
        let low = values.len().saturating_sub(1) / 2;
        let median = values
            .get(low..=middle)
            .map(|two| two.iter().sum::<f64>() / two.len() as f64)?;
        Some(Self { median, longest })
    }
}

impl Report {
    pub(super) fn new(seed: u64, seconds: f64, played: Played) -> Self {
        let Played {
            outcomes: mut stagings,
            uncalled,
        } = played;
        let order = |name: &str| Scenario::ALL.iter().position(|known| known.name() == name);
        stagings.sort_by_key(|outcome| (order(outcome.scenario), outcome.number));
        let scenarios = stagings
            .chunk_by(|a, b| a.scenario == b.scenario)
            .filter_map(Row::of)
            .collect();
        Self {
            passed: stagings.iter().all(Outcome::passed),
            seed,
            seconds,
            scenarios,
            stagings,
            uncalled,
        }
    }

    /// The closing table.
    pub(super) fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "scenario",
            "staged",
            "detected",
            "cause right",
            "name right",
            "detected after",
            "cause after",
            "name after",
        ]);
        for row in &self.scenarios {
            table.add_row([
                row.scenario.to_owned(),
                row.staged.to_string(),
                row.detected.to_string(),
                row.cause_right.to_string(),
                row.name_right.to_string(),
                seconds(row.detected_after),
                seconds(row.cause_after),
                seconds(row.named_after),
            ]);
        }
        table.to_string()
    }
}

impl Row {
    /// Of the stagings of one scenario.
    fn of(stagings: &[Outcome]) -> Option<Self> {
        let count = |right: fn(&Outcome) -> bool| stagings.iter().filter(|o| right(o)).count();
        let spread =
            |after: fn(&Outcome) -> Option<f64>| Spread::of(stagings.iter().filter_map(after));
        Some(Self {
            scenario: stagings.first()?.scenario,
            staged: stagings.len(),
            detected: count(|outcome| outcome.detected),
            cause_right: count(|outcome| outcome.cause_right),
            name_right: count(|outcome| outcome.name_right),
            detected_after: spread(|outcome| outcome.detected_after),
            cause_after: spread(|outcome| outcome.cause_after),
            named_after: spread(|outcome| outcome.named_after),
        })
    }
}

/// `median (longest)`, or the one there is.
fn seconds(spread: Option<Spread>) -> String {
    match spread {
        None => "never".to_owned(),
        Some(Spread { median, longest }) if longest - median < 0.05 => format!("{median:.1} s"),
        Some(Spread { median, longest }) => format!("{median:.1} s (≤ {longest:.1})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_some_figures() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        let spread = |median, longest| Some(Spread { median, longest });
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), spread(3.0, 3.0));
        assert_eq!(of(&[9.0, 1.0]), spread(5.0, 9.0));
        assert_eq!(of(&[9.0, 1.0, 2.0]), spread(2.0, 9.0));
    }

    #[test]
    fn stagings_are_counted_by_scenario() {
        let outcome = |scenario: Scenario, number, after: Option<f64>| Outcome {
            detected: after.is_some(),
            name_right: after.is_some_and(|after| after < 10.0),
            named_after: after,
            ..scenario.outcome(number, 0.0)
        };
        let played = Played {
            outcomes: vec![
                outcome(Scenario::Leak, 2, None),
                outcome(Scenario::HoldUp, 1, Some(4.0)),
                outcome(Scenario::Leak, 1, Some(20.0)),
            ],
            uncalled: Vec::new(),
        };
        let report = Report::new(7, 60.0, played);
        let leak = &report.scenarios[1];
        assert_eq!((leak.scenario, leak.staged), ("leak", 2));
        assert_eq!((leak.detected, leak.name_right), (1, 0));
        assert_eq!(report.stagings[1].number, 1);
        let table = report.table();
        assert!(
            table.contains("hold_up") && table.contains("20.0 s"),
            "{table}"
        );
    }
}
