//! The endpoint with most, and the one that rose most.

use super::Metric;
use super::grid::Grid;

/// Most since the onset.
pub fn largest(grid: &Grid, metric: Metric) -> Vec<f64> {
    (0..grid.len())
        .map(|place| grid.totals(place, metric).1)
        .collect()
}

/// The largest difference between before and since.
pub fn largest_change(grid: &Grid, metric: Metric) -> Vec<f64> {
    (0..grid.len())
        .map(|place| {
            let (before, since) = grid.totals(place, metric);
            since - before
        })
        .collect()
}
