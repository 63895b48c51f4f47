//! What the edges that hear of endpoint traffic share: one name for a route
//! whoever tells of it, differences of counters, and one account a service.
//!
//! ```text
//! labels or attributes ──► route::name ──┐
//! cumulative counters ──► delta::Deltas ─┴─► account::Account ──► TrafficReport
//! ```
//!
//! Invariants: nothing here looks at a clock, waits or talks; time comes as a
//! parameter. Every map is bounded, and what did not fit is counted by reason
//! in a [`Tally`], which the edge hands to
//! [`Rejections`](super::rejections::Rejections).

pub mod account;
pub mod delta;
pub mod route;

pub use account::{Account, Contribution};
pub use delta::{Cumulative, Deltas, Increase};

use std::collections::BTreeMap;

/// A route that came when there was no room for another one: it is counted
/// under [`route::OTHER`].
pub const TOO_MANY_ROUTES: &str = "too_many_routes";
/// A label in which no route can be read.
pub const NO_ROUTE: &str = "no_route";
/// A count, sum or duration that is negative, infinite or no number.
pub const BAD_VALUE: &str = "bad_value";
/// A time stamp that is no time, or far from now.
pub const BAD_TIME: &str = "bad_time";
/// A point older than the one before of the same series.
pub const OUT_OF_ORDER: &str = "out_of_order";
/// A series that came when there was no room for another one.
pub const TOO_MANY_SERIES: &str = "too_many_series";
/// An instance that came when there was no room for another one.
pub const TOO_MANY_INSTANCES: &str = "too_many_instances";

/// What was refused, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// `count` more for a reason.
    pub fn add(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            let total = self.0.entry(reason).or_default();
            *total = total.saturating_add(count);
        }
    }

    /// Everything of another tally.
    pub fn merge(&mut self, other: &Self) {
        for (reason, count) in other.iter() {
            self.add(reason, count);
        }
    }

    pub fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(&reason, &count)| (reason, count))
    }

    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, &n| sum.saturating_add(n))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was counted so far; the tally starts anew.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}
