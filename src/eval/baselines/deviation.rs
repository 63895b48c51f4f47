//! How far a series has left its own past: N-sigma and BARO's `RobustScorer`.
//!
//! With several metrics an endpoint has the score of the one that moved most.

use super::Metric;
use super::grid::{Grid, Split};
use crate::engine::stats::robust::median;

/// `max (b − mean a) / std a`. A series that never moved has scale one, as
/// `StandardScaler` of scikit-learn has it, which the published code uses.
pub fn n_sigma(grid: &Grid, metric: Metric) -> Vec<f64> {
    of_all(grid, metric, |before| {
        let n = before.len() as f64;
        let mean = before.iter().sum::<f64>() / n;
        let variance = before.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt())
    })
}

/// `max (b − median a) / IQR a`. An IQR of nothing is one, as `RobustScaler` has
/// it, which the published code uses.
pub fn robust_scorer(grid: &Grid, metric: Metric) -> Vec<f64> {
    of_all(grid, metric, |before| {
        let mut sorted = before.to_vec();
        let middle = median(&mut sorted).unwrap_or(0.0);
        (middle, quartile(&sorted, 0.75) - quartile(&sorted, 0.25))
    })
}

/// Of sorted values, between the two next to it.
fn quartile(sorted: &[f64], part: f64) -> f64 {
    let place = part * sorted.len().saturating_sub(1) as f64;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(0.0);
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

fn of_all(
    grid: &Grid,
    metric: Metric,
    centre_and_scale: impl Fn(&[f64]) -> (f64, f64),
) -> Vec<f64> {
    let score = |split: &Split| {
        if split.before.is_empty() || split.since.is_empty() {
            return f64::NEG_INFINITY;
        }
        let (centre, scale) = centre_and_scale(&split.before);
        let scale = if scale > 0.0 { scale } else { 1.0 };
        let largest = split
            .since
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        (largest - centre) / scale
    };
    (0..grid.len())
        .map(|place| {
            let own = score(&grid.split(place, metric));
            if metric == Metric::RateAndDuration {
                own.max(score(&grid.split(place, Metric::Rate)))
            } else {
                own
            }
        })
        .collect()
}
