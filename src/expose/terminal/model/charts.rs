//! Values over time, as the charts take them.

use std::collections::BTreeMap;

use super::{Model, PAST, Quantity};
use crate::expose::terminal::answers::{Line, Target};

/// Points of a chart at most.
const POINTS: usize = 500;

/// Between two points of the small chart of a server, seconds.
const STEP: f64 = 5.0;

/// Steps that a value stands for after its own: a series of the past has one each
/// ten seconds, and its times are not those of our steps.
const FILLED: usize = 2;

impl Model {
    /// The times of the charts of the incident: each step from the first that
    /// has a value.
    pub(in crate::expose::terminal) fn chart_times(&self) -> Vec<f64> {
        let Some(answer) = self.charts.get(&Quantity::InUse) else {
            return Vec::new();
        };
        let first = answer.series.first().and_then(|line| line.values.first());
        let (Some((from, _)), Some(step)) = (first, answer.step.filter(|step| *step > 0.0)) else {
            return Vec::new();
        };
        let steps = ((answer.end - from) / step).clamp(0.0, POINTS as f64) as usize;
        (0..=steps).map(|at| from + at as f64 * step).collect()
    }

    /// The values of a series at these times.
    pub(in crate::expose::terminal) fn chart(
        &self,
        quantity: Quantity,
        times: &[f64],
    ) -> Vec<Option<f64>> {
        let answer = self.charts.get(&quantity);
        let line = answer.and_then(|answer| answer.series.first());
        line.map_or_else(Vec::new, |line| at(line, times))
    }

    /// Sessions in use by route, and of those without a tag by application.
    pub(in crate::expose::terminal) fn chart_routes(
        &self,
        times: &[f64],
    ) -> Vec<(String, Vec<Option<f64>>)> {
        let lines = |quantity| {
            let answer = self.charts.get(&quantity);
            answer.into_iter().flat_map(|answer| &answer.series)
        };
        let label = |line: &Line, name: &str| line.labels.get(name).cloned().unwrap_or_default();
        let routes = lines(Quantity::Routes).map(|line| (label(line, "route"), at(line, times)));
        let untagged = lines(Quantity::Untagged).map(|line| {
            let names = [label(line, "application"), label(line, "service")];
            let name = names.into_iter().find(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| "unknown".to_owned());
            (format!("{name}, no route tag"), at(line, times))
        });
        routes.chain(untagged).collect()
    }

    /// The last quarter of an hour of a server, and how many seconds of it are
    /// known.
    pub(in crate::expose::terminal) fn past_of(&self, target: &Target) -> (Vec<Option<f64>>, f64) {
        let Some(to) = target.at else {
            return (Vec::new(), 0.0);
        };
        let recent = self.recent.get(&target.name).map_or(&[][..], Vec::as_slice);
        let begin = recent.first().map_or(to, |(t, _)| *t);
        let before = |quantity| {
            let answer = self.before.get(&quantity);
            let lines = answer.into_iter().flat_map(|answer| &answer.series);
            let mut of_it = lines.filter(|line| line.labels.get("target") == Some(&target.name));
            let values = of_it.next().map(|line| line.values.as_slice());
            values.unwrap_or_default()
        };
        let waiting: BTreeMap<i64, f64> = before(Quantity::Waiting)
            .iter()
            .filter_map(|(t, value)| Some((whole(*t), (*value)?)))
            .collect();
        let older = before(Quantity::InUse)
            .iter()
            .filter(|(t, _)| *t < begin)
            .filter_map(|(t, value)| {
                let waiting = waiting.get(&whole(*t)).copied();
                Some((*t, (*value)? + waiting.unwrap_or(0.0)))
            });
        let all: Vec<(f64, f64)> = older
            .chain(recent.iter().copied())
            .filter(|(t, _)| *t >= to - PAST && *t <= to)
            .collect();
        let Some((from, _)) = all.first() else {
            return (Vec::new(), 0.0);
        };
        let span = to - from;
        let steps = (span / STEP) as usize + 1;
        let mut values = vec![None; steps];
        for (t, value) in &all {
            let at = (((t - from) / STEP) as usize).min(steps - 1);
            let known: f64 = values[at].unwrap_or(0.0);
            values[at] = Some(known.max(*value));
        }
        fill(&mut values);
        (values, span)
    }
}

/// Fills what is between values that are told less often than each step. A longer
/// gap is one: nobody looked.
fn fill(values: &mut [Option<f64>]) {
    let mut last = None;
    for (at, value) in values.iter_mut().enumerate() {
        match (*value, last) {
            (Some(known), _) => last = Some((at, known)),
            (None, Some((of, known))) if at - of <= FILLED => *value = Some(known),
            (None, _) => {}
        }
    }
}

/// The values of a line at these times.
fn at(line: &Line, times: &[f64]) -> Vec<Option<f64>> {
    let known: BTreeMap<i64, Option<f64>> = line
        .values
        .iter()
        .map(|(t, value)| (whole(*t), *value))
        .collect();
    let values = times
        .iter()
        .map(|t| known.get(&whole(*t)).copied().flatten());
    values.collect()
}

/// Steps are whole milliseconds.
fn whole(t: f64) -> i64 {
    (t * 1e3).round() as i64
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn a_gap_stays_one() {
        let mut values = [None, Some(3.0), None, None, None, None, Some(1.0), None];
        fill(&mut values);
        let three = Some(3.0);
        let one = Some(1.0);
        assert_eq!(values, [None, three, three, three, None, None, one, one]);
    }
}
