//! Which endpoint is behind a rise, from what the applications tell of their
//! requests.
//!
//! Little's law with *measured* durations: the requests of an endpoint at one
//! time, actual less expected, where expected is what it would have been had it
//! only followed the others. Solving for the durations (least squares, Kalman
//! filters) does worse.
//!
//! ```text
//! traffic ──► observed ──► common ──► weighed ──► ranked
//! books       one row an   what all   own part,   by score
//!             endpoint     share      noise, φ
//! ```
//!
//! Each file is one step, pure, over plain numbers; its formula stands at its
//! head. Invariants: no step panics or gives out anything but finite numbers,
//! whatever counters did; without a baseline nobody is weighed.

pub mod common;
pub mod confidence;
pub mod flow;
pub mod kin;
pub mod noise;
pub mod observed;
pub mod use_of_database;
pub mod weighed;

pub use observed::{Evidence, Observed, Windows};
pub use weighed::{Weighed, Weighing, weigh};
