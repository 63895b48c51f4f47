//! What all endpoints have in common, so that nobody is blamed for it.
//!
//! ```text
//! g = weighted median of λ1/λ0          everybody's traffic rose
//! w = weighted 40 % quantile of d1 − d0 over the faster half     everybody waits w longer
//! m = max(1, weighted median of (d1 − w)/d0)                     everybody got m times slower
//! ```
//!
//! The weight is √(λ0·W), over endpoints with enough requests for a ratio. While
//! those are fewer than three their median is no common anything; then the sums
//! of all but the one that rose most stand for it.

use super::flow::{Ended, Flow, before, hold_since};
use crate::engine::stats::robust::weighted_quantile;

/// Requests in the baseline without which a ratio is noise.
const LEAST_BASELINE: f64 = 20.0;

/// Requests to be expected since the onset, for the same reason.
const LEAST_EXPECTED: f64 = 3.0;

/// Endpoints without which their median is no common anything.
const LEAST_ENDPOINTS: usize = 3;

/// Growth within 8 % is none, either way.
const NO_GROWTH: f64 = 0.08;

/// A common wait below this part of the median duration is none.
const NO_WAIT: f64 = 0.3;

/// A common slowdown below this factor is none.
const NO_SLOWDOWN: f64 = 1.1;

/// The quantile of the waits: waits are never negative, so their lower half
/// tells what *everybody* waits.
const WAIT_QUANTILE: f64 = 0.4;

/// What all endpoints share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Common {
    /// Factor by which the rates rose, g.
    pub growth: f64,
    /// Seconds that each request waits longer, w.
    pub wait: f64,
    /// Factor by which the rest of each request got slower, m.
    pub slowdown: f64,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            growth: 1.0,
            wait: 0.0,
            slowdown: 1.0,
        }
    }
}

impl Common {
    /// The duration of a request that only followed the others.
    pub fn hold(&self, normal: f64) -> f64 {
        self.slowdown * normal + self.wait
    }
}

/// One endpoint's part in it.
struct Row {
    normal: Flow,
    hold: f64,
    ratio: f64,
    weight: f64,
}

/// Works it out of what ended before the onset and since. `hold_of_all` is the
/// mean duration of all requests before.
pub fn common(endpoints: impl Iterator<Item = (Ended, Ended)> + Clone, hold_of_all: f64) -> Common {
    let mut rows: Vec<Row> = endpoints
        .clone()
        .filter_map(|(normal, since)| row(&normal, &since, hold_of_all))
        .collect();
    if rows.len() < LEAST_ENDPOINTS {
        return Common {
            growth: snap(pooled(endpoints)),
            ..Common::default()
        };
    }
    let mut ratios: Vec<(f64, f64)> = rows.iter().map(|row| (row.ratio, row.weight)).collect();
    let growth = weighted_quantile(&mut ratios, 0.5);
    let (wait, slowdown) = slower(&mut rows);
    Common {
        growth: snap(growth.unwrap_or(1.0)),
        wait,
        slowdown,
    }
}

/// There are enough requests before and since for a ratio.
pub fn is_solid(normal: &Ended, since: &Ended) -> bool {
    let expected = normal.requests / normal.window.max(1.0) * since.window;
    normal.requests >= LEAST_BASELINE && expected >= LEAST_EXPECTED
}

fn row(normal: &Ended, since: &Ended, hold_of_all: f64) -> Option<Row> {
    let flow = before(normal, hold_of_all);
    let expected = flow.rate * since.window;
    if !is_solid(normal, since) || flow.hold <= 0.0 {
        return None;
    }
    Some(Row {
        normal: flow,
        hold: hold_since(since, flow),
        ratio: since.requests / expected,
        weight: expected.sqrt(),
    })
}

/// The ratio of the sums without the endpoint that rose most.
fn pooled(endpoints: impl Iterator<Item = (Ended, Ended)> + Clone) -> f64 {
    let rise = |(normal, since): &(Ended, Ended)| {
        let rate = |ended: &Ended| ended.requests / ended.window.max(1.0);
        rate(since) - rate(normal)
    };
    let most = endpoints
        .clone()
        .enumerate()
        .max_by(|(_, a), (_, b)| rise(a).total_cmp(&rise(b)))
        .map(|(place, _)| place);
    let (mut expected, mut seen) = (0.0, 0.0);
    for (place, (normal, since)) in endpoints.enumerate() {
        if Some(place) != most && normal.window > 0.0 {
            expected += normal.requests / normal.window * since.window;
            seen += since.requests;
        }
    }
    if expected >= LEAST_EXPECTED {
        seen / expected
    } else {
        1.0
    }
}

/// A ratio that is no number is none. Fewer requests than usual for all are
/// most often requests that are late in the counters.
pub fn snap(growth: f64) -> f64 {
    if growth.is_finite() && growth > 0.0 && growth.ln().abs() >= NO_GROWTH {
        growth
    } else {
        1.0
    }
}

fn slower(rows: &mut [Row]) -> (f64, f64) {
    let mut values: Vec<(f64, f64)> = rows.iter().map(|r| (r.normal.hold, r.weight)).collect();
    let median = weighted_quantile(&mut values, 0.5).unwrap_or(0.0);
    let faster = rows.len().div_ceil(2);
    if faster < rows.len() {
        rows.select_nth_unstable_by(faster, |a, b| a.normal.hold.total_cmp(&b.normal.hold));
    }
    values.clear();
    let wait = |row: &Row| (row.hold - row.normal.hold, row.weight);
    values.extend(rows.iter().take(faster).map(wait));
    let wait = weighted_quantile(&mut values, WAIT_QUANTILE).unwrap_or(0.0);
    let wait = if wait.is_finite() && wait >= NO_WAIT * median {
        wait.max(0.0)
    } else {
        0.0
    };
    values.clear();
    let factor = |row: &Row| ((row.hold - wait) / row.normal.hold, row.weight);
    values.extend(rows.iter().map(factor));
    let slowdown = weighted_quantile(&mut values, 0.5).unwrap_or(1.0);
    let slowdown = if slowdown.is_finite() && slowdown >= NO_SLOWDOWN {
        slowdown
    } else {
        1.0
    };
    (wait, slowdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rate and a duration.
    type Pair = (f64, f64);

    /// Of endpoints before, and since.
    fn of(endpoints: &[(Pair, Pair)]) -> Common {
        let ended = |window: f64, (rate, hold): Pair| Ended {
            window,
            requests: rate * window,
            seconds: rate * window * hold,
        };
        let rows = endpoints
            .iter()
            .map(|&(normal, since)| (ended(1_800.0, normal), ended(30.0, since)));
        common(rows, 0.05)
    }

    #[test]
    fn one_that_rises_is_no_common_growth() {
        let calm = ((10.0, 0.05), (10.0, 0.05));
        let found = of(&[calm, calm, calm, ((0.2, 10.0), (4.0, 10.0))]);
        assert_eq!(found, Common::default());
    }

    #[test]
    fn everybody_threefold() {
        let found = of(&[
            ((10.0, 0.05), (30.0, 0.05)),
            ((2.0, 0.2), (6.0, 0.2)),
            ((5.0, 0.1), (15.0, 0.1)),
            ((1.0, 0.5), (30.0, 0.5)),
        ]);
        assert!((found.growth - 3.0).abs() < 1e-6, "{found:?}");
        assert_eq!((found.wait, found.slowdown), (0.0, 1.0));
    }

    #[test]
    fn a_wait_for_all_and_a_slow_database_are_told_apart() {
        let waits = of(&[
            ((10.0, 0.05), (10.0, 0.55)),
            ((20.0, 0.1), (20.0, 0.6)),
            ((10.0, 0.2), (10.0, 0.7)),
            ((10.0, 2.0), (10.0, 2.5)),
        ]);
        assert!((waits.wait - 0.5).abs() < 0.01, "{waits:?}");
        assert_eq!(waits.slowdown, 1.0);
        let slow = of(&[
            ((10.0, 0.05), (10.0, 0.2)),
            ((20.0, 0.1), (20.0, 0.4)),
            ((10.0, 0.2), (10.0, 0.8)),
            ((10.0, 2.0), (10.0, 8.0)),
        ]);
        assert!(slow.wait + slow.slowdown > 1.5, "{slow:?}");
        assert!(slow.hold(2.0) > 2.5, "{slow:?}");
    }

    #[test]
    fn few_endpoints_are_pooled_without_the_largest_riser() {
        assert_eq!(of(&[((10.0, 0.1), (200.0, 0.1))]).growth, 1.0);
        assert_eq!(of(&[]).growth, 1.0);
        let found = of(&[((10.0, 0.1), (30.0, 0.1)), ((10.0, 0.1), (90.0, 0.1))]);
        assert!((found.growth - 3.0).abs() < 1e-6, "{found:?}");
    }
}
