//! The pure core: samples in, effects and a snapshot out.
//!
//! Invariants: no input or output, no clock, no async. The only time here is
//! the time written on a sample, so that a replayed capture says what the live
//! program said. `clippy.toml` and `tests/architecture.rs` hold this up.

pub mod correlate;
pub mod detect;
pub mod incident;
pub mod locks;
pub mod settings;
pub mod snapshot;
pub mod stats;

pub use settings::Settings;
pub use snapshot::Snapshot;
