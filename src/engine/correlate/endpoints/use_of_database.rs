//! How many sessions one request of an endpoint at a time costs, learnt from the
//! past: φ.
//!
//! ```text
//! φ = clip(slope + 2·s.e., 0.03, 1)
//! ```
//!
//! of the regression, over 60 s blocks of the baseline, of the watched sessions
//! on this endpoint's concurrency, both less what the other endpoints'
//! concurrency explains. Two standard errors up: it only exonerates, such as a
//! long poll that never has a session, and while the past does not tell it is 1.

/// Fewer blocks say nothing.
const LEAST_BLOCKS: usize = 12;

/// Even an endpoint that seems to use no session keeps this much suspicion.
const LEAST: f64 = 0.03;

/// Variation of the endpoint's concurrency, as a variance, below which there is
/// nothing to learn from.
const LEAST_VARIANCE: f64 = 1e-3;

/// One block of the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// Watched sessions, Y.
    pub sessions: f64,
    /// Requests at a time of the endpoint, and of all others.
    pub own: f64,
    pub others: f64,
}

/// The factor, 0.03 to 1.
pub fn use_of_database(blocks: &[Block]) -> f64 {
    let n = blocks.len();
    if n < LEAST_BLOCKS {
        return 1.0;
    }
    let sessions = residuals(blocks, |block| block.sessions);
    let own = residuals(blocks, |block| block.own);
    let square: f64 = own.iter().map(|x| x * x).sum();
    if square < LEAST_VARIANCE * n as f64 {
        return 1.0;
    }
    let slope = own.iter().zip(&sessions).map(|(x, y)| x * y).sum::<f64>() / square;
    let rest: f64 = own
        .iter()
        .zip(&sessions)
        .map(|(x, y)| (y - slope * x).powi(2))
        .sum();
    // Three were estimated: the level, the common factor, the slope.
    let error = (rest / (n as f64 - 3.0) / square).sqrt();
    let upper = slope + 2.0 * error;
    if upper.is_finite() {
        upper.clamp(LEAST, 1.0)
    } else {
        1.0
    }
}

/// What is left of a value after its mean and its slope on the others'
/// concurrency are taken off.
fn residuals(blocks: &[Block], of: impl Fn(&Block) -> f64) -> Vec<f64> {
    let n = blocks.len() as f64;
    let mean = blocks.iter().map(&of).sum::<f64>() / n;
    let others = blocks.iter().map(|block| block.others).sum::<f64>() / n;
    let square: f64 = blocks.iter().map(|b| (b.others - others).powi(2)).sum();
    let cross: f64 = blocks
        .iter()
        .map(|b| (b.others - others) * (of(b) - mean))
        .sum();
    let slope = if square > 1e-9 { cross / square } else { 0.0 };
    blocks
        .iter()
        .map(|b| of(b) - mean - slope * (b.others - others))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(use_of: f64) -> Vec<Block> {
        let mut random = fastrand::Rng::with_seed(3);
        (0..30)
            .map(|_| {
                let own = 10.0 + 20.0 * random.f64();
                let others = 40.0 + 10.0 * random.f64();
                Block {
                    sessions: 0.8 * others + use_of * own + random.f64(),
                    own,
                    others,
                }
            })
            .collect()
    }

    #[test]
    fn a_long_poll_is_exonerated_and_a_user_is_not() {
        assert!(use_of_database(&history(0.0)) < 0.1);
        assert!(use_of_database(&history(1.0)) > 0.95);
        let half = use_of_database(&history(0.5));
        assert!((0.45..0.6).contains(&half), "{half}");
    }

    #[test]
    fn without_a_past_it_is_one() {
        assert_eq!(use_of_database(&[]), 1.0);
        assert_eq!(use_of_database(&history(0.0)[..5]), 1.0);
        let flat = Block {
            sessions: 3.0,
            own: 2.0,
            others: 1.0,
        };
        assert_eq!(use_of_database(&[flat; 30]), 1.0);
        let odd = Block {
            sessions: f64::NAN,
            ..flat
        };
        assert_eq!(use_of_database(&[odd; 30]), 1.0);
    }
}
