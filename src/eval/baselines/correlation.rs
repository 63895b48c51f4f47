//! How much a series looks like the watched sessions.

use super::Metric;
use super::grid::{CELL, Grid};

/// Requests come before the sessions that they take, and completed ones after
/// them: so many cells either way, half a minute.
const LAGS: i32 = (30.0 / CELL) as i32;

/// Pairs without which nothing is correlated.
const LEAST_PAIRS: usize = 6;

/// Pearson's coefficient with the sessions at the same time.
pub fn pearson(grid: &Grid, metric: Metric, past: f64) -> Vec<f64> {
    of_all(grid, metric, past, 0..=0)
}

/// The largest coefficient over the lags.
pub fn lagged(grid: &Grid, metric: Metric, past: f64) -> Vec<f64> {
    of_all(grid, metric, past, -LAGS..=LAGS)
}

fn of_all(
    grid: &Grid,
    metric: Metric,
    past: f64,
    lags: impl Iterator<Item = i32> + Clone,
) -> Vec<f64> {
    (0..grid.len())
        .map(|place| {
            let series = grid.series(place, metric, past);
            lags.clone()
                .filter_map(|lag| {
                    let pairs = series.iter().filter_map(|&(cell, value)| {
                        let other = i64::try_from(cell).ok()? + i64::from(lag);
                        let sessions = grid.sessions(usize::try_from(other).ok()?)?;
                        Some((value, sessions))
                    });
                    coefficient(pairs)
                })
                .fold(f64::NEG_INFINITY, f64::max)
        })
        .collect()
}

/// `None` of few pairs, or when one side never moves.
fn coefficient(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = pairs.collect();
    if pairs.len() < LEAST_PAIRS {
        return None;
    }
    let n = pairs.len() as f64;
    let mean_x = pairs.iter().map(|pair| pair.0).sum::<f64>() / n;
    let mean_y = pairs.iter().map(|pair| pair.1).sum::<f64>() / n;
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        xy += (x - mean_x) * (y - mean_y);
        xx += (x - mean_x).powi(2);
        yy += (y - mean_y).powi(2);
    }
    let scale = (xx * yy).sqrt();
    (scale > 0.0).then(|| xy / scale)
}
