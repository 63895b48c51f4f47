//! How large a scenario is.

use rand::Rng;

use super::super::scenario::Family;
use super::dice::{even, log_even};

/// The smallest incident, in sessions: fewer are nobody's incident.
const LEAST_EXTRA: f64 = 12.0;

/// The way in which an endpoint comes to more sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    RareHeavy,
    Midsize,
    HoldUp,
    RareHoldUp,
}

/// Sizes and times. Times are seconds from the beginning of the samples.
#[derive(Debug, Clone)]
pub struct Scale {
    pub history: f64,
    pub after: f64,
    pub endpoints: usize,
    /// Requests a second.
    pub rate: f64,
    /// Sessions in use.
    pub base: f64,
    /// Sessions on top.
    pub extra: f64,
    pub way: Way,
}

impl Scale {
    pub fn draw(family: Family, rng: &mut impl Rng) -> Self {
        let history = (60.0 * even(35.0, 60.0, rng)).floor();
        let after = even(150.0, 240.0, rng).floor();
        let way = way(family, rng);
        let requests = match way {
            Way::RareHeavy | Way::RareHoldUp => log_even(250_000.0, 600_000.0, rng),
            Way::Midsize | Way::HoldUp => log_even(100_000.0, 500_000.0, rng),
        };
        let rate = requests / (history + after);
        let factor = match family {
            Family::WeakSpike => even(0.5, 0.9, rng),
            _ => log_even(0.8, 4.0, rng),
        };
        // A rare endpoint can only hold so many sessions.
        let most = match way {
            Way::RareHeavy => 0.022 * rate * 14.0,
            Way::RareHoldUp => 0.008 * rate * 22.0,
            Way::Midsize | Way::HoldUp => 6.0 * rate,
        };
        let least = match family {
            Family::WeakSpike => LEAST_EXTRA / factor,
            _ => 10.0,
        };
        let base = log_even(least, (most / factor).clamp(least * 1.2, 600.0), rng);
        Self {
            history,
            after,
            endpoints: endpoints(rng),
            rate,
            base,
            extra: (factor * base).min(most).max(LEAST_EXTRA),
            way,
        }
    }
}

impl Scale {
    /// Of days without an incident: a site small enough to simulate weeks of.
    pub fn quiet(rng: &mut impl Rng) -> Self {
        Self {
            history: 0.0,
            after: 0.0,
            endpoints: log_even(20.0, 120.0, rng) as usize,
            rate: log_even(30.0, 120.0, rng),
            base: log_even(10.0, 120.0, rng),
            extra: LEAST_EXTRA,
            way: Way::Midsize,
        }
    }
}

fn way(family: Family, rng: &mut impl Rng) -> Way {
    let any = [Way::RareHeavy, Way::Midsize, Way::HoldUp, Way::RareHoldUp];
    match family {
        Family::RareHeavyEndpoint | Family::LongHolds => Way::RareHeavy,
        Family::RareHoldUp => Way::RareHoldUp,
        Family::HoldUp | Family::RetryStorm => Way::HoldUp,
        Family::Confounded | Family::LateData | Family::HarmlessSlow | Family::WeakSpike => {
            any[rng.random_range(0..4)]
        }
        Family::TwoCulprits => any[rng.random_range(0..3)],
        _ => Way::Midsize,
    }
}

/// Mostly some dozens, now and then thousands.
fn endpoints(rng: &mut impl Rng) -> usize {
    let kind: f64 = rng.random();
    let drawn = if kind < 0.07 {
        even(10.0, 20.0, rng)
    } else if kind < 0.93 {
        log_even(20.0, 300.0, rng)
    } else {
        log_even(300.0, 5_000.0, rng)
    };
    drawn as usize
}
