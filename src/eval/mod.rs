//! The evaluation: incidents with a known cause are simulated, replayed through
//! the engine, and scored.
//!
//! Invariant: what the engine is given here is what the pollers and the
//! applications of a real system would have told, and nothing of the truth.

pub mod baselines;
pub mod fit;
pub mod logistic;
pub mod outcome;
pub mod run;
pub mod scenario;
pub mod score;
pub mod simulate;
pub mod table;
