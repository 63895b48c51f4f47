//! Many values made few: one for each step of a window.
//!
//! A step covers what came after the step before and up to its own time, as in
//! Prometheus. A step without values stays out: a gap is not a zero. Counters
//! may start anew; what they lost then does not count as negative growth.

use super::block::Millis;
use super::extract::Point;

/// How the values of a step become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    Min,
    Max,
    Mean,
    Last,
    /// Growth of a counter a second.
    Rate,
    /// Growth of a counter.
    Increase,
}

impl Aggregate {
    /// Every aggregate, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Last,
        Self::Mean,
        Self::Min,
        Self::Max,
        Self::Rate,
        Self::Increase,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Last => "last",
            Self::Rate => "rate",
            Self::Increase => "increase",
        }
    }
}

/// Steps of a window: the first ends at `start`, the last not after `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    pub start: Millis,
    pub end: Millis,
    /// Positive.
    pub step: Millis,
}

impl Steps {
    /// How many there are.
    pub fn count(self) -> u64 {
        let span = self.end.saturating_sub(self.start);
        if span < 0 || self.step <= 0 {
            return 0;
        }
        (span / self.step).cast_unsigned() + 1
    }

    /// Time of the first value that a step can see.
    pub fn first_seen(self) -> Millis {
        self.start.saturating_sub(self.step).saturating_add(1)
    }
}

/// Values that were folded together.
#[derive(Debug, Clone, Copy)]
struct Fold {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
    last: Point,
    /// Growth of a counter, and the time that it took in seconds.
    growth: f64,
    grew_for: f64,
}

impl Fold {
    fn new(before: Option<Point>, point: Point) -> Self {
        let (_, value) = point;
        let mut fold = Self {
            count: 0.0,
            sum: 0.0,
            min: value,
            max: value,
            last: before.unwrap_or(point),
            growth: 0.0,
            grew_for: 0.0,
        };
        fold.add(point);
        fold
    }

    fn add(&mut self, point: Point) {
        let (t, value) = point;
        self.count += 1.0;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if t > self.last.0 {
            self.growth += growth(self.last.1, value);
            self.grew_for += (t - self.last.0) as f64 / 1e3;
        }
        self.last = point;
    }

    fn value(self, aggregate: Aggregate) -> Option<f64> {
        let value = match aggregate {
            Aggregate::Min => self.min,
            Aggregate::Max => self.max,
            Aggregate::Mean => self.sum / self.count,
            Aggregate::Last => self.last.1,
            Aggregate::Increase if self.grew_for > 0.0 => self.growth,
            Aggregate::Rate if self.grew_for > 0.0 => self.growth / self.grew_for,
            Aggregate::Increase | Aggregate::Rate => return None,
        };
        value.is_finite().then_some(value)
    }
}

/// What a counter grew by between two values: all that it shows when it has
/// started anew.
pub fn growth(before: f64, now: f64) -> f64 {
    if now >= before { now - before } else { now }
}

/// One value for each step that has any. The points must be in order of time.
pub fn aggregate(points: &[Point], steps: Steps, aggregate: Aggregate) -> Vec<Point> {
    if steps.step <= 0 {
        return Vec::new();
    }
    let mut out: Vec<Point> = Vec::new();
    let mut open: Option<(Millis, Fold)> = None;
    let mut before = None;
    for &(t, value) in points.iter().filter(|(t, _)| *t <= steps.end) {
        let past = t.saturating_sub(steps.start).max(0);
        // The step that ends at or after t.
        let ends = steps.start + (past + steps.step - 1) / steps.step * steps.step;
        let seen = t >= steps.first_seen() && ends <= steps.end;
        if seen {
            match &mut open {
                Some((at, fold)) if *at == ends => fold.add((t, value)),
                _ => {
                    close(open.take(), aggregate, &mut out);
                    open = Some((ends, Fold::new(before, (t, value))));
                }
            }
        }
        before = Some((t, value));
    }
    close(open, aggregate, &mut out);
    out
}

fn close(open: Option<(Millis, Fold)>, aggregate: Aggregate, out: &mut Vec<Point>) {
    if let Some((at, fold)) = open
        && let Some(value) = fold.value(aggregate)
    {
        out.push((at, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: Steps = Steps {
        start: 10_000,
        end: 40_000,
        step: 10_000,
    };

    fn of(points: &[Point], how: Aggregate) -> Vec<Point> {
        aggregate(points, STEPS, how)
    }

    #[test]
    fn a_step_covers_what_came_after_the_one_before() {
        let points = [
            (0, 9.0),
            (1, 1.0),
            (10_000, 3.0),
            (10_001, 5.0),
            (45_000, 7.0),
        ];
        assert_eq!(of(&points, Aggregate::Mean), [(10_000, 2.0), (20_000, 5.0)]);
        assert_eq!(of(&points, Aggregate::Min), [(10_000, 1.0), (20_000, 5.0)]);
        assert_eq!(of(&points, Aggregate::Last), [(10_000, 3.0), (20_000, 5.0)]);
        assert_eq!(STEPS.count(), 4);
    }

    #[test]
    fn a_gap_stays_a_gap() {
        let points = [(9_000, 1.0), (39_000, 2.0)];
        assert_eq!(of(&points, Aggregate::Max), [(10_000, 1.0), (40_000, 2.0)]);
        assert_eq!(of(&[], Aggregate::Max), []);
    }

    #[test]
    fn a_counter_survives_its_reset() {
        let points: Vec<Point> = [(5, 100.0), (15, 130.0), (18, 4.0), (25, 10.0), (35, 10.0)]
            .map(|(t, v)| (t * 1000, v))
            .into();
        assert_eq!(
            of(&points, Aggregate::Increase),
            [(20_000, 34.0), (30_000, 6.0), (40_000, 0.0)]
        );
        let rates = of(&points, Aggregate::Rate);
        assert!((rates[0].1 - 34.0 / 13.0).abs() < 1e-12);
    }

    #[test]
    fn absurd_steps_give_nothing() {
        let mut steps = STEPS;
        steps.step = 0;
        assert_eq!(aggregate(&[(1, 1.0)], steps, Aggregate::Last), []);
        assert_eq!(steps.count(), 0);
        steps.step = 1;
        steps.end = 5;
        assert_eq!(steps.count(), 0);
    }
}
