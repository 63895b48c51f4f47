//! Detectors: each watches one thing and says every tick what it finds.
//!
//! Invariants: a detector owns its hysteresis, so a finding that is no longer
//! given is over; it takes time only from the samples; and it holds judgement
//! rather than guess when the data do not allow one.

pub mod avalanche;
pub mod baseline;
pub mod clock;
pub mod episode;
pub mod headroom;
pub mod onset;

pub use avalanche::{Avalanche, AvalancheInput};
pub use headroom::Headroom;
