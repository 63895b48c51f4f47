//! Which series a look is made into: what `/metrics` exports of it and is worth
//! a history, and what a detector needs to know its normal again after a
//! restart.
//!
//! Invariants: as on the page, every label set is bounded, and what is beyond a
//! limit is added up as `other`. Ages are kept to the millisecond and the learnt
//! band to a hundredth, because what is below is noise that packs badly.

mod fold;
pub mod names;
mod pgbouncer;
mod postgres;

pub use pgbouncer::feed as pgbouncer;
pub use postgres::{feed as postgres, source as postgres_source};

/// Label value of everything beyond a limit.
const OTHER: &str = "other";

/// Label value of what the server does not say or may not tell us.
const UNKNOWN: &str = "unknown";

/// To the millisecond, for seconds.
fn to_thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// To the hundredth, for numbers of sessions that were learnt.
fn to_hundredths(value: f64) -> f64 {
    (value * 1e2).round() / 1e2
}
