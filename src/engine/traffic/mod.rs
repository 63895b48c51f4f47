//! Endpoint traffic: what each service says of its routes, by the way it came.
//!
//! Two ways tell of the same requests, so their figures are never added up: each
//! has a [`Book`] of its own, and whoever wants one figure chooses a book.
//! Invariants: pure and bounded; a report up to [`LATE`] seconds late lands in
//! the interval that it covers, an older one is refused and counted; time is
//! what is written on the sample.

pub mod book;
pub mod holds;
pub mod names;
pub mod quantity;
pub mod usual;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

pub use book::{Book, Refused, Track};
pub use names::RouteKey;
pub use quantity::Level;
pub use view::{RouteView, TrafficView, ViaView};

use super::settings::Service;
use crate::sample::{TrafficReport, TrafficVia, UnixSeconds};

/// How late a report may be, in seconds from the end of its interval.
pub const LATE: f64 = 45.0;

/// Polls and reports are not in step: this much, in seconds, is no lateness.
const SLACK: f64 = 1.0;

/// A time stamp this far ahead, in seconds, is wrong and not a fast clock.
const AHEAD: f64 = 60.0;

/// Longest interval of one report, in seconds.
const LONGEST: f64 = 300.0;

/// Services kept, each in up to four ways.
const MAX_SERVICES: usize = 200;

/// A service that is silent for this long, in seconds, can make room.
const SERVICE_GONE: f64 = 600.0;

/// Routes kept of all services together. A route takes two to four kilobytes.
const MAX_TRACKS: usize = 20_000;

/// Longest name of a service or route, in bytes; the edges keep to 200
/// characters.
const MAX_NAME: usize = 1_024;

/// Applications seen at one target.
const MAX_APPLICATIONS: usize = 1_000;

/// An application unseen for this long, in seconds, ties nothing any more.
const APPLICATION_GONE: f64 = 3_600.0;

/// Seconds between two makings of what is shown: it takes milliseconds at
/// thousands of routes, and a minute's means do not move in a second.
const SHOW_EVERY: f64 = 1.0;

/// Why something was refused, as the label `reason`.
pub mod reason {
    pub const LATE: &str = "late";
    pub const BAD_TIME: &str = "bad_time";
    pub const BAD_VALUE: &str = "bad_value";
    pub const TOO_MANY_ROUTES: &str = "too_many_routes";
    pub const TOO_MANY_SERVICES: &str = "too_many_services";
}

/// Points refused, by the label `source` and the label `reason`.
pub type RefusedPoints = BTreeMap<(&'static str, &'static str), u64>;

/// How a service belongs to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// The configuration says so.
    Configured,
    /// Sessions of its name are at the target.
    ApplicationName,
}

/// All that is known of endpoint traffic.
#[derive(Debug, Default)]
pub struct Traffic {
    /// The configured services and their targets.
    configured: BTreeMap<String, BTreeSet<String>>,
    services: BTreeMap<String, BTreeMap<TrafficVia, Book>>,
    /// Services by their sessions: target, name, last seen.
    seen: BTreeMap<String, BTreeMap<String, UnixSeconds>>,
    refused: RefusedPoints,
    /// Made when it is asked for: a replay never asks.
    shown: OnceLock<Arc<TrafficView>>,
    /// What is shown is to be of this moment or later.
    shown_at: UnixSeconds,
    /// Something came since then.
    stale: bool,
}

impl Traffic {
    pub fn new(services: &[Service]) -> Self {
        let mut configured: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for service in services {
            let targets = configured.entry(service.name.clone()).or_default();
            targets.extend(service.targets.iter().cloned());
        }
        Self {
            configured,
            ..Self::default()
        }
    }

    /// Takes in which services there are. What was heard of any stays.
    pub fn reconfigure(&mut self, services: &[Service]) {
        self.configured = Self::new(services).configured;
        self.stale = true;
    }

    /// Forgets who has sessions at a target.
    pub fn forget_target(&mut self, target: &str) {
        self.seen.remove(target);
        self.stale = true;
    }

    /// Takes in a report that arrived at `t`.
    pub fn apply(&mut self, t: UnixSeconds, report: &TrafficReport) {
        let via = report.via.unwrap_or(TrafficVia::Other);
        let points = report.routes.len().max(1) as u64;
        let (from, until) = match span(t, report) {
            Ok(span) => span,
            Err(reason) => return self.refuse(via, reason, points),
        };
        if report.service.is_empty() || report.service.len() > MAX_NAME {
            return self.refuse(via, reason::BAD_VALUE, points);
        }
        let tracks = self.tracks();
        if !self.services.contains_key(&report.service) && !self.has_room(t, &report.service) {
            return self.refuse(via, reason::TOO_MANY_SERVICES, points);
        }
        let ways = self.services.entry(report.service.clone()).or_default();
        let book = ways.entry(via).or_default();
        if until > from {
            book.cover(from, until);
        }
        let (mut bad, mut many) = (0, 0);
        for route in &report.routes {
            let full = tracks >= MAX_TRACKS && book.track(&route.route).is_none();
            if full {
                many += 1;
                continue;
            }
            match book.take(from, until, route) {
                Ok(()) => {}
                Err(Refused::BadValue) => bad += 1,
                Err(Refused::TooManyRoutes) => many += 1,
            }
        }
        self.refuse(via, reason::BAD_VALUE, bad);
        self.refuse(via, reason::TOO_MANY_ROUTES, many);
        self.stale = true;
    }

    /// A configured service has a place always; any other when one is free or
    /// somebody has been silent for long.
    fn has_room(&mut self, t: UnixSeconds, service: &str) -> bool {
        if self.services.len() >= MAX_SERVICES {
            let configured = &self.configured;
            self.services.retain(|name, ways| {
                configured.contains_key(name)
                    || ways.values().any(|book| t - book.newest() <= SERVICE_GONE)
            });
        }
        self.services.len() < MAX_SERVICES || self.configured.contains_key(service)
    }

    fn refuse(&mut self, via: TrafficVia, reason: &'static str, count: u64) {
        if count > 0 {
            *self.refused.entry((source(via), reason)).or_default() += count;
        }
    }

    fn tracks(&self) -> usize {
        let books = self.services.values().flat_map(BTreeMap::values);
        books.map(|book| book.tracks().len()).sum()
    }

    /// Sessions of this service were seen at a target.
    pub fn see(&mut self, t: UnixSeconds, target: &str, service: &str) {
        if !self.seen.contains_key(target) {
            self.seen.insert(target.to_owned(), BTreeMap::new());
        }
        let Some(names) = self.seen.get_mut(target) else {
            return;
        };
        if let Some(seen) = names.get_mut(service) {
            *seen = t;
            return;
        }
        if names.len() >= MAX_APPLICATIONS {
            names.retain(|_, seen| t - *seen < APPLICATION_GONE);
        }
        if names.len() < MAX_APPLICATIONS {
            names.insert(service.to_owned(), t);
            self.stale = true;
        }
    }

    /// Whether and why the traffic of a service concerns a target. What is
    /// configured decides alone for the services that are configured.
    pub fn tie(&self, service: &str, target: &str) -> Option<Tie> {
        if let Some(targets) = self.configured.get(service) {
            return targets.contains(target).then_some(Tie::Configured);
        }
        let seen = self.seen.get(target)?.contains_key(service);
        seen.then_some(Tie::ApplicationName)
    }

    /// The books of the services that concern a target.
    pub fn of_target<'a>(
        &'a self,
        target: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a BTreeMap<TrafficVia, Book>)> + 'a {
        self.services
            .iter()
            .filter(move |(service, _)| self.tie(service, target).is_some())
            .map(|(service, ways)| (service.as_str(), ways))
    }

    pub fn services(&self) -> &BTreeMap<String, BTreeMap<TrafficVia, Book>> {
        &self.services
    }

    pub fn refused(&self) -> &RefusedPoints {
        &self.refused
    }

    /// Lets what is shown be made again, when something has come and it is due.
    pub fn refresh(&mut self, t: UnixSeconds) {
        if self.stale && (t - self.shown_at).abs() >= SHOW_EVERY {
            self.stale = false;
            self.shown_at = t;
            self.shown = OnceLock::new();
        }
    }

    /// What is shown, up to a second old.
    pub fn shown<'a>(&self, targets: impl Iterator<Item = &'a String>) -> Arc<TrafficView> {
        let make = || {
            let targets: Vec<&str> = targets.map(String::as_str).collect();
            Arc::new(view::make(self, &targets))
        };
        Arc::clone(self.shown.get_or_init(make))
    }
}

/// The span that a report covers, or why it cannot be taken.
fn span(t: UnixSeconds, report: &TrafficReport) -> Result<(f64, f64), &'static str> {
    let until = report.until.unwrap_or(t);
    let interval = report.interval;
    // Unix time of the year 5138: beyond it no bucket has a number.
    let is_time = |t: f64| t.is_finite() && (0.0..1e11).contains(&t);
    if !is_time(t) || !is_time(until) || !(0.0..=LONGEST).contains(&interval) {
        return Err(reason::BAD_TIME);
    }
    if until > t + AHEAD {
        return Err(reason::BAD_TIME);
    }
    if t - until > LATE + SLACK {
        return Err(reason::LATE);
    }
    // A clock that is a little fast makes no news of the future.
    let until = until.min(t);
    Ok((until - interval, until))
}

/// The label `source`.
pub fn source(via: TrafficVia) -> &'static str {
    match via {
        TrafficVia::OtlpMetrics | TrafficVia::OtlpSpans => "otlp",
        TrafficVia::Scrape => "scrape",
        TrafficVia::Other => "other",
    }
}

#[cfg(test)]
mod tests;
