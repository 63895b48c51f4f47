//! The weights of both confidences, as they were fitted. Made by
//!
//! ```sh
//! snowpit eval --fit --seed 1 --incidents 12 > src/engine/correlate/coefficients.rs
//! ```
//!
//! and not by hand: see `eval/fit.rs`. The first is the intercept; the others are
//! in the order of the features.

/// Fitted to 571 answers; of 197 held out the calibration error is 0.049.
pub const TAGS: [f64; 7] = [
    0.3628,  // intercept
    2.9341,  // share
    1.7194,  // margin
    -1.9426, // e^(−z/3)
    -0.0322, // untagged
    -2.4181, // surge
    -2.1107, // lock waits
];

/// Fitted to 580 answers; of 191 held out the calibration error is 0.036.
pub const REQUESTS: [f64; 12] = [
    1.7623,  // intercept
    0.3058,  // score
    0.6884,  // share, at most 1
    0.9957,  // margin
    0.0678,  // novelty
    -1.7023, // |ln share|
    0.6295,  // ln z
    -0.9814, // surge
    -0.9219, // slow
    -0.0047, // lock waits
    -1.5724, // others
    -0.6508, // blind
];
