//! How sure it is that an endpoint is the right name, by what the applications
//! tell.
//!
//! A logistic model over what is known of the candidate. Its weights are fitted
//! to simulated incidents, see [`coefficients`](crate::engine::correlate::coefficients).
//! Beyond them a name needs a part of its own, a lead and something new, because
//! the simulated are not all there are.

use super::super::coefficients::REQUESTS;
use super::super::confidence::{LEAST, MOST, UNCLEAR, probability};

/// Below this part of the rise nobody is named.
const LEAST_SHARE: f64 = 0.3;

/// Below this lead over the second nobody is named.
const LEAST_MARGIN: f64 = 0.25;

/// Below this part of its concurrency that is its own rise nobody is named.
const LEAST_NOVELTY: f64 = 0.3;

/// Nobody is named for what may be noise: deviations.
const LEAST_Z: f64 = 3.0;

/// Above this part of the extra sessions in the database, lock waits or the
/// sessions of other services are the story.
const LOCK_PART: f64 = 0.4;
const OTHERS_PART: f64 = 0.5;

/// What is known of one endpoint. Parts are of the rise, 0 to 1 where not said
/// otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// What the candidates are ordered by, 0 to 1.
    pub score: f64,
    /// Own part over the rise; more than 1 when it rose more than the sessions.
    pub share: f64,
    /// Lead over the best other as a part of the larger: −1 to 1.
    pub margin: f64,
    /// Own part over all of its concurrency.
    pub novelty: f64,
    /// Own part over the noise to be expected.
    pub z: f64,
    /// Everybody's traffic rose.
    pub surge: f64,
    /// Everybody got slower.
    pub slow: f64,
    /// Part of the extra sessions in the database that wait for a lock.
    pub lock_waits: f64,
    /// Part of the extra sessions in the database that are of other services.
    pub others: f64,
    /// Another endpoint may have risen without that it could show.
    pub blind: bool,
    /// By a gauge, which is of now, and not by requests that ended.
    pub direct: bool,
}

/// The features of the model by name, and which way each may speak: for it (1),
/// against it (−1), or either.
pub const FEATURES: [(&str, i8); 11] = [
    ("score", 1),
    ("share, at most 1", 1),
    ("margin", 1),
    ("novelty", 1),
    ("|ln share|", -1),
    ("ln z", 1),
    ("surge", -1),
    ("slow", -1),
    ("lock waits", -1),
    ("others", -1),
    ("blind", -1),
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
        let share = if self.share.is_finite() {
            self.share.max(0.0)
        } else {
            0.0
        };
        let z = if self.z.is_finite() {
            self.z.max(0.0)
        } else {
            0.0
        };
        [
            part(self.score),
            part(share),
            if self.margin.is_finite() {
                self.margin.clamp(-1.0, 1.0)
            } else {
                0.0
            },
            part(self.novelty),
            share.max(1e-3).ln().abs().min(3.0),
            (1.0 + z).ln().min(4.0),
            part(self.surge),
            part(self.slow),
            part(self.lock_waits),
            part(self.others),
            f64::from(u8::from(self.blind)),
        ]
    }
}

/// The probability that this is the right name, between [`LEAST`] and [`MOST`].
pub fn confidence(standing: &Standing) -> f64 {
    let most = if is_clear(standing) { MOST } else { UNCLEAR };
    probability(&REQUESTS, &standing.features()).clamp(LEAST, most)
}

/// Enough to be named at all, however good the rest.
fn is_clear(standing: &Standing) -> bool {
    standing.share >= LEAST_SHARE
        && standing.margin >= LEAST_MARGIN
        && standing.novelty >= LEAST_NOVELTY
        && standing.z >= LEAST_Z
        && standing.surge + standing.slow < standing.share
        && standing.lock_waits <= LOCK_PART
        && standing.others <= OTHERS_PART
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLEAR: Standing = Standing {
        score: 0.9,
        blind: false,
        direct: false,
        share: 0.9,
        margin: 0.9,
        novelty: 0.9,
        z: 12.0,
        surge: 0.0,
        slow: 0.0,
        lock_waits: 0.0,
        others: 0.0,
    };

    #[test]
    fn only_a_clear_case_is_named() {
        assert!(confidence(&CLEAR) > 0.9, "{}", confidence(&CLEAR));
        for unclear in [
            Standing {
                share: 0.25,
                ..CLEAR
            },
            Standing {
                margin: 0.2,
                ..CLEAR
            },
            Standing {
                novelty: 0.25,
                ..CLEAR
            },
            Standing { z: 2.0, ..CLEAR },
            Standing {
                surge: 0.95,
                ..CLEAR
            },
            Standing {
                slow: 0.95,
                ..CLEAR
            },
            Standing {
                lock_waits: 0.9,
                ..CLEAR
            },
            Standing {
                others: 0.8,
                ..CLEAR
            },
        ] {
            let found = confidence(&unclear);
            assert!(found < 0.8, "{found} {unclear:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_falls_with_every_other_story(
            share in 0.0..3.0f64, margin in -1.0..1.0f64, novelty in 0.0..1.0f64, z in 0.0..50.0f64,
            more in 0.0..0.5f64,
        ) {
            let base = Standing { share, margin, novelty, z, ..CLEAR };
            let at = confidence(&base);
            prop_assert!((LEAST..=MOST).contains(&at));
            for worse in [
                Standing { surge: more, ..base },
                Standing { slow: more, ..base },
                Standing { lock_waits: more, ..base },
                Standing { others: more, ..base },
                Standing { margin: margin - more, ..base },
            ] {
                prop_assert!(confidence(&worse) <= at);
            }
        }
    }
}
