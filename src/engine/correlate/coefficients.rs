//! The weights of the confidence by requests: the intercept, then one weight in
//! the order of the features.
//!
//! Fitted with the ridge of `eval/fit.rs` to the answers that
//! `snowpit eval --explain --seed 1001 --incidents 6` printed, on seeds that no
//! report uses; `snowpit eval --fit` prints weights of its own, fitted on seeds
//! that are kept for that.

/// 397 answers.
pub const REQUESTS: [f64; 12] = [
    1.5274,  // intercept
    0.0,     // score
    0.3226,  // share, at most 1
    1.3742,  // margin
    0.4440,  // novelty
    -1.6703, // |ln share|
    0.3155,  // ln z
    -0.6952, // surge
    -0.6997, // slow
    -0.0268, // lock waits
    -1.4459, // others
    -0.2675, // blind
];
