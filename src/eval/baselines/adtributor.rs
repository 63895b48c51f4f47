//! Adtributor with one dimension, the endpoint.
//!
//! ```text
//! F, A = forecast and actual;   EP_i = (A_i − F_i) / (A − F)
//! p_i = F_i/F, q_i = A_i/A;     S_i = (p·ln 2p/(p+q) + q·ln 2q/(p+q)) / 2
//! ```
//!
//! Elements that explain a tenth of the change, by surprise, until two thirds
//! are explained. The forecast is the mean of the past. What does not make that
//! list follows by surprise, so that everybody has a place.

use super::Metric;
use super::grid::Grid;

/// What an element must explain, `T_EEP` of the paper.
const LEAST_EXPLAINED: f64 = 0.1;

/// Above every surprise, which is at most ln 2.
const LISTED: f64 = 10.0;

/// The score of each endpoint.
pub fn rank(grid: &Grid, metric: Metric) -> Vec<f64> {
    let pairs: Vec<(f64, f64)> = (0..grid.len())
        .map(|place| grid.totals(place, metric))
        .collect();
    let forecast: f64 = pairs.iter().map(|pair| pair.0).sum();
    let actual: f64 = pairs.iter().map(|pair| pair.1).sum();
    let change = actual - forecast;
    pairs
        .iter()
        .map(|&(expected, seen)| {
            let explained = (seen - expected) / change;
            let surprise = surprise(expected / forecast, seen / actual);
            if explained.is_finite() && explained > LEAST_EXPLAINED {
                LISTED + surprise
            } else if seen > expected {
                surprise
            } else {
                -surprise
            }
        })
        .collect()
}

/// One element's part of the Jensen-Shannon divergence.
fn surprise(p: f64, q: f64) -> f64 {
    let part = |x: f64| {
        if x > 0.0 {
            x * (2.0 * x / (p + q)).ln()
        } else {
            0.0
        }
    };
    let sum = 0.5 * (part(p) + part(q));
    if sum.is_finite() { sum } else { 0.0 }
}
