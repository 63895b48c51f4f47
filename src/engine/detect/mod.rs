//! Detectors: each watches one thing and says every tick what it finds.
//!
//! Invariants: a detector owns its hysteresis, so a finding that is no longer
//! given is over; it takes time only from the samples; and it holds judgement
//! rather than guess when the data do not allow one.
//!
//! The kinds that are read from lock waits are pure checks of one look (a
//! [`scene::Scene`]) with their hysteresis in [`watch::Watch`]; [`waits`] judges
//! them together. Those that are read from how the applications use their
//! sessions are judged by [`habits`].

pub mod avalanche;
pub mod baseline;
pub mod census;
pub mod clock;
pub mod connection_leak;
pub mod demand;
pub mod episode;
pub mod excessive_latency;
pub mod flows;
pub mod ghost_waiter;
pub mod habits;
pub mod headroom;
pub mod hidden_deadlock;
pub mod holdings;
pub mod idle_in_transaction;
pub mod lock_pileup;
pub mod migration_blocked;
pub mod onset;
pub mod pool_deadlock;
pub mod pool_saturation;
pub mod prepared_transaction;
pub mod primary_unreachable;
pub mod reconnect_storm;
pub mod scene;
pub mod waits;
pub mod watch;
pub mod watched;

pub use avalanche::{Avalanche, AvalancheInput};
pub use headroom::Headroom;
