//! How much the requests of one endpoint at a time vary by themselves.
//!
//! ```text
//! σ² = 6·max(λ0, 0.3/T_b)·d0²/W + (0.7·std of the means over blocks of the baseline)²
//! ```
//!
//! The first term is counting noise: requests come in bursts and their durations
//! have heavy tails, which is the six. The second is what the endpoint did in
//! the past half hour, harmless bursts included. Blocks are 30 s, the width of
//! the stored buckets; means over a longer W vary less, and the blocks are
//! joined accordingly.

use crate::engine::stats::robust::deviation;
use crate::engine::traffic::quantity::COARSE;

use super::flow::Flow;

/// Bursts and heavy tails over plain counting noise.
const OVERDISPERSION: f64 = 6.0;

/// Requests that an endpoint never seen could have had in the baseline.
const UNSEEN: f64 = 0.3;

/// How much of the past variation counts.
const PAST: f64 = 0.7;

/// The least variance, so that one request of a new endpoint is no proof.
const LEAST: f64 = 0.3;

/// How many stored buckets a block as long as the window has.
pub fn block_width(window: f64) -> usize {
    ((window / COARSE).round() as usize).clamp(1, 10)
}

/// The deviation to be expected, from the normal flow, the seconds of baseline,
/// the seconds since the onset, and the requests at a time in blocks of the
/// baseline.
pub fn sigma(normal: Flow, baseline: f64, window: f64, blocks: &[f64]) -> f64 {
    let rate = normal.rate.max(UNSEEN / baseline.max(1.0));
    let counting = OVERDISPERSION * rate * normal.hold.powi(2) / window.max(1.0);
    let past = PAST * deviation(blocks);
    (counting + past.powi(2)).max(LEAST).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restless_past_widens_it() {
        let normal = Flow {
            rate: 1.0,
            hold: 0.1,
        };
        let calm = sigma(normal, 1_800.0, 30.0, &[0.1; 50]);
        let restless: Vec<f64> = (0..50).map(|i| f64::from(i % 5) * 4.0).collect();
        assert!(calm < 0.6);
        assert!(sigma(normal, 1_800.0, 30.0, &restless) > 3.0);
    }

    #[test]
    fn it_is_never_nothing() {
        assert!(sigma(Flow::default(), 0.0, 0.0, &[]) > 0.5);
        assert_eq!(
            (block_width(3.0), block_width(60.0), block_width(1e9)),
            (1, 2, 10)
        );
    }
}
