//! Small statistics, each a few lines over plain numbers.
//!
//! Invariant: time is a parameter, in seconds, and no function panics on odd
//! numbers; the callers keep infinities and NaN out.

pub mod ewma;
pub mod noise;
pub mod robust;
