//! What the habits of the applications say about the cause of an avalanche.

use super::{Habits, MARGIN};
use crate::engine::detect::demand::Demand;
use crate::engine::detect::watched::{Departure, Quantity};
use crate::engine::traffic::Traffic;
use crate::sample::UnixSeconds;

/// Seconds around the onset in which sessions opened can be its cause. Earlier
/// ones are of something that was over by then, later ones of clients that have
/// given up and try again.
const OPENED_BEFORE: f64 = 20.0;
const OPENED_AFTER: f64 = 15.0;

/// Sessions opened, as a part of those that there were, that make a storm.
const STORM_PART: f64 = 0.25;

/// Fewer sessions than these are none.
const STORM_LEAST: f64 = 8.0;

/// A storm opens this many times the normal number of sessions.
const STORM_FACTOR: f64 = 2.0;

/// At least this part of the sessions opened is not at work: they replace others
/// or wait for work. A pool that grows opens what it needs.
const NOT_AT_WORK: f64 = 0.5;

/// Sessions that live for less, in seconds, are one a request or so.
const LONG_LIVED: f64 = 60.0;

/// A leak is at least this part of the extra sessions.
const LEAK_PART: f64 = 0.6;

/// Seconds that a leak must have lasted, and the part of it that must be left:
/// what comes back is none.
const LEAK_SECONDS: f64 = 10.0;
const LEAK_KEPT: f64 = 0.9;

/// Below this part of their peak the sessions fall: what raised them is over.
const GIVEN_BACK: f64 = 0.9;

/// Everybody opened sessions anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconnecting {
    /// Whose sessions most of the new ones are, where looks tell.
    pub application: Option<String>,
    /// Opened around the onset, more than normally.
    pub opened: f64,
    pub seconds: f64,
    /// Normally in that time.
    pub usual: f64,
    /// Client backends before.
    pub standing: f64,
}

/// Sessions are idle in a transaction and stay so.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaking {
    pub application: String,
    pub before: f64,
    pub now: f64,
}

/// All that is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Signs {
    pub reconnecting: Option<Reconnecting>,
    pub leaking: Option<Leaking>,
    pub demand: Demand,
    /// Mean seconds of a query before and since, by the poolers.
    pub query_time: Option<(f64, f64)>,
    /// Quantities out of their bands.
    pub departures: Vec<Departure>,
}

impl Signs {
    /// These signs when `earlier` ones were told before; the sessions are at
    /// `height` of their peak. A leak that has just been given back was the cause
    /// all the same.
    pub fn after(mut self, earlier: &Self, height: f64) -> Self {
        if height < GIVEN_BACK && self.leaking.is_none() {
            self.leaking.clone_from(&earlier.leaking);
        }
        self
    }
}

impl Habits {
    /// Of an avalanche that began at `onset`, in which `rise` sessions more are
    /// in use and `extra` are to be explained.
    pub fn signs(
        &self,
        t: UnixSeconds,
        traffic: &Traffic,
        onset: f64,
        rise: f64,
        extra: f64,
    ) -> Signs {
        let demand = self.demand(traffic, onset, onset, t);
        let before = self
            .flows
            .query_time(onset - MARGIN - super::BEFORE, onset - MARGIN);
        let now = self.flows.query_time(onset, t);
        Signs {
            reconnecting: self.reconnecting(t, onset, rise, demand),
            leaking: self.leaking(t, onset, extra, demand),
            demand,
            query_time: before.zip(now).map(|((before, _), (now, _))| (before, now)),
            departures: self.baselines.departures().cloned().collect(),
        }
    }

    fn reconnecting(
        &self,
        t: UnixSeconds,
        onset: UnixSeconds,
        rise: f64,
        demand: Demand,
    ) -> Option<Reconnecting> {
        let expected = self.baselines.expected(&Quantity::Opened)?;
        let (from, to) = (onset - OPENED_BEFORE, t.min(onset + OPENED_AFTER));
        let seconds = to - from;
        let usual = expected * seconds;
        self.flows.opened.rate(from, to)?;
        let opened = self.flows.opened.sum(from, to) - usual;
        let standing = self.flows.backends.mean(&[(from - 120.0, from)])?;
        let unasked = match demand.is_flat() {
            Some(flat) => flat,
            None => standing >= LONG_LIVED * expected,
        };
        let many = opened >= STORM_LEAST.max(STORM_PART * standing)
            && opened >= (STORM_FACTOR - 1.0) * usual;
        let elsewhere = opened - rise.max(0.0) >= NOT_AT_WORK * opened;
        (many && elsewhere && unasked).then(|| Reconnecting {
            application: self.youth().map(|youth| youth.application),
            opened,
            seconds,
            usual,
            standing,
        })
    }

    fn leaking(&self, t: UnixSeconds, onset: f64, extra: f64, demand: Demand) -> Option<Leaking> {
        if t - onset < LEAK_SECONDS || demand.is_flat() == Some(false) {
            return None;
        }
        let idle = &self.flows.idle_in_transaction;
        let before = idle.mean(&[(onset - MARGIN - 120.0, onset - MARGIN)])?;
        let now = self.census.total.idle_in_transaction;
        let lately = idle.mean(&[(t - LEAK_SECONDS, t)])?;
        let is_kept = now >= LEAK_KEPT * lately;
        let applications = self.census.applications.iter();
        let most = applications.max_by(|a, b| {
            let (a, b) = (a.1.idle_in_transaction, b.1.idle_in_transaction);
            a.total_cmp(&b)
        });
        (is_kept && now - before >= LEAK_PART * extra.max(1.0)).then(|| Leaking {
            application: most.map_or_else(String::new, |(name, _)| name.clone()),
            before,
            now,
        })
    }
}
