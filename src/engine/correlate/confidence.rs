//! How sure it is that a route is the right name.
//!
//! A logistic model over what is known of the candidate. Its weights are fitted
//! to simulated incidents, see [`coefficients`](super::coefficients). Beyond them
//! a name needs a part of its own and a lead, because the simulated are not all
//! there are.

use super::coefficients::TAGS;

/// Below this part of the extra sessions nobody is named.
const LEAST_SHARE: f64 = 0.35;

/// Below this lead over the second nobody is named.
const LEAST_MARGIN: f64 = 0.25;

/// Nobody is named for what may be noise: deviations.
const LEAST_Z: f64 = 3.0;

/// Above these parts of the extra sessions, those without a tag, or the lock that
/// they wait for, are the story.
const UNTAGGED_PART: f64 = 0.6;
const LOCK_PART: f64 = 0.4;

/// What a route that fails one of these has at most.
pub const UNCLEAR: f64 = 0.79;

/// What is known of one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Part of the extra sessions that it explains, 0 to 1.
    pub share: f64,
    /// Lead over the best other candidate as a part of the larger one: 1 when
    /// there is no other, negative when another is ahead.
    pub margin: f64,
    /// Extra sessions over the noise to be expected of them.
    pub z: f64,
    /// Part of the extra sessions that carry no route tag, 0 to 1.
    pub untagged: f64,
    /// Part of the extra sessions that is everybody's common growth, 0 to 1.
    pub surge: f64,
    /// Part of the extra sessions that wait for a lock, 0 to 1.
    pub lock_waits: f64,
}

/// The features of the model by name, and which way each may speak: for it (1),
/// against it (−1), or either.
pub const FEATURES: [(&str, i8); 6] = [
    ("share", 1),
    ("margin", 1),
    ("e^(−z/3)", -1),
    ("untagged", -1),
    ("surge", -1),
    ("lock waits", -1),
];

impl Standing {
    /// The numbers that the model is over.
    pub fn features(&self) -> [f64; FEATURES.len()] {
        let part = |value: f64| {
            if value.is_finite() {
                value.clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        let margin = if self.margin.is_finite() {
            self.margin.clamp(-1.0, 1.0)
        } else {
            0.0
        };
        let weak = (-self.z.max(0.0) / 3.0).exp();
        [
            part(self.share),
            margin,
            part(weak),
            part(self.untagged),
            part(self.surge),
            part(self.lock_waits),
        ]
    }
}

/// Nothing is certain, and nothing impossible.
pub const LEAST: f64 = 0.01;
pub const MOST: f64 = 0.99;

/// The probability that this is the right name. Rises with share, margin and z;
/// falls with what is untagged, common, or waiting for locks. Between [`LEAST`]
/// and [`MOST`].
pub fn confidence(standing: &Standing) -> f64 {
    let most = if is_clear(standing) { MOST } else { UNCLEAR };
    probability(&TAGS, &standing.features()).clamp(LEAST, most)
}

/// Enough to be named at all, however good the rest.
fn is_clear(standing: &Standing) -> bool {
    standing.share >= LEAST_SHARE
        && standing.margin >= LEAST_MARGIN
        && standing.z >= LEAST_Z
        && standing.surge < standing.share
        && standing.untagged <= UNTAGGED_PART
        && standing.lock_waits <= LOCK_PART
}

/// A logistic model: the intercept, then a weight a feature.
pub fn probability(weights: &[f64], features: &[f64]) -> f64 {
    let Some((intercept, weights)) = weights.split_first() else {
        return LEAST;
    };
    let odds: f64 = weights.iter().zip(features).map(|(w, x)| w * x).sum();
    let probability = 1.0 / (1.0 + (-intercept - odds).exp());
    if probability.is_finite() {
        probability
    } else {
        LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLEAR: Standing = Standing {
        share: 0.91,
        margin: 0.95,
        z: 30.0,
        untagged: 0.03,
        surge: 0.0,
        lock_waits: 0.0,
    };

    #[test]
    fn a_clear_case_is_named_and_a_tie_is_not() {
        assert!(confidence(&CLEAR) > 0.95);
        let tie = Standing {
            share: 0.5,
            margin: 0.05,
            ..CLEAR
        };
        assert!(confidence(&tie) < 0.8);
        let alone_but_small = Standing {
            share: 0.2,
            margin: 1.0,
            untagged: 0.7,
            ..CLEAR
        };
        assert!(confidence(&alone_but_small) < 0.8);
        let locked = Standing {
            lock_waits: 0.9,
            ..CLEAR
        };
        assert!(confidence(&locked) < 0.9);
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_monotone(
            share in 0.0..1.0f64, margin in -1.0..1.0f64, z in 0.0..50.0f64,
            untagged in 0.0..1.0f64, surge in 0.0..1.0f64, lock_waits in 0.0..1.0f64,
            more in 0.0..0.5f64,
        ) {
            let base = Standing { share, margin, z, untagged, surge, lock_waits };
            let at = confidence(&base);
            prop_assert!((LEAST..=MOST).contains(&at));
            let up = [
                Standing { share: share + more, ..base },
                Standing { margin: margin + more, ..base },
                Standing { z: z + more, ..base },
            ];
            let down = [
                Standing { untagged: untagged + more, ..base },
                Standing { surge: surge + more, ..base },
                Standing { lock_waits: lock_waits + more, ..base },
            ];
            prop_assert!(up.iter().all(|standing| confidence(standing) >= at));
            prop_assert!(down.iter().all(|standing| confidence(standing) <= at));
        }
    }
}
