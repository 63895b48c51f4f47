//! One service's account of one way of hearing of it: adds up what the edge
//! hands in, route by route, and gives it out as [`TrafficReport`]s.
//!
//! A contribution says which span of time it covers. Those of the same span
//! make one report, so that `until` and `interval` are those of the data and not
//! of our own clock; single events, such as spans of traces, are gathered by the
//! second in which they ended. Figures of several instances add up, in one
//! report or in several of overlapping spans.
//!
//! Invariants: at most `limit` routes have a name of their own, the others are
//! counted under `other`, so nothing that came is lost; a route that still comes
//! keeps its name; memory is bounded whatever comes in; time is a parameter.

mod durations;
mod in_flight;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use durations::bucket_of;
use in_flight::InFlight;

use super::route::OTHER;
use super::{BAD_TIME, BAD_VALUE, TOO_MANY_ROUTES, Tally};
use crate::sample::{DurationBucket, RouteTraffic, TrafficReport, TrafficVia, UnixSeconds};

/// Routes of one service that have a name of their own. The largest services
/// known to us have two thousand.
pub const DEFAULT_LIMIT: usize = 5_000;

/// A route that nothing was heard of for this long, in seconds, gives its place
/// to a new one when all are taken.
const IDLE: f64 = 120.0;

/// Seconds between two looks for routes to forget.
const SWEEP_EVERY: f64 = 10.0;

/// Part of the routes forgotten at a time.
const FORGET: usize = 10;

/// Spans of time told apart between two flushes; further ones join the nearest.
const MAX_SLOTS: usize = 64;

/// Spans shorter than this are gathered by the second of their end.
const SHORT: f64 = 1.0;

/// A time stamp this far ahead, in seconds, is not a clock that is a little
/// fast.
const AHEAD: f64 = 60.0;

/// What ended this long ago, in seconds, is of no use to anybody: the engine
/// takes reports that are 45 s late, and intervals are a minute.
const STALE: f64 = 300.0;

/// The longest span that a contribution may cover, in seconds.
const LONGEST: f64 = 300.0;

/// No count or sum of seconds of a few minutes reaches this. The sum of a great
/// many such values is still a number, which that of two of the largest is not.
const LARGEST: f64 = 1e15;

/// What ended on one route in the span from `since` to `until`.
#[derive(Debug, Clone, Copy)]
pub struct Contribution<'a> {
    /// A name from [`super::route`].
    pub route: &'a str,
    pub since: UnixSeconds,
    pub until: UnixSeconds,
    pub requests: f64,
    /// Sum of the durations of those requests.
    pub duration_seconds: f64,
    /// Time in the database, where it is known.
    pub database_seconds: Option<f64>,
    /// Sparse, not cumulative; empty where there is no histogram.
    pub durations: &'a [DurationBucket],
}

/// Stands for a route of this account while it has a name of its own.
type RouteId = u32;

/// `OTHER` has this number always.
const OTHER_ID: RouteId = 0;

/// Gauges of running requests a route: a few instances each.
const GAUGES: usize = 4;

/// Tenths of seconds: the end of a span and its length.
type SlotKey = (i64, i64);

/// One service, one way.
#[derive(Debug)]
pub struct Account {
    service: String,
    via: TrafficVia,
    limit: usize,
    ids: HashMap<Arc<str>, RouteId>,
    routes: HashMap<RouteId, Known>,
    next: RouteId,
    slots: BTreeMap<SlotKey, HashMap<RouteId, Sums>>,
    in_flight: InFlight,
    swept_at: UnixSeconds,
    refused: Tally,
}

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    seen: UnixSeconds,
}

#[derive(Debug, Default)]
struct Sums {
    requests: f64,
    duration_seconds: f64,
    database_seconds: Option<f64>,
    durations: Vec<DurationBucket>,
}

impl Account {
    /// `limit` is the number of routes with a name of their own, normally
    /// [`DEFAULT_LIMIT`].
    pub fn new(service: &str, via: TrafficVia, limit: usize) -> Self {
        let other = Known {
            name: OTHER.into(),
            seen: f64::INFINITY,
        };
        Self {
            service: service.to_owned(),
            via,
            limit,
            ids: HashMap::from([(OTHER.into(), OTHER_ID)]),
            routes: HashMap::from([(OTHER_ID, other)]),
            next: OTHER_ID + 1,
            slots: BTreeMap::new(),
            in_flight: InFlight::new(limit.saturating_mul(GAUGES)),
            swept_at: f64::NEG_INFINITY,
            refused: Tally::default(),
        }
    }

    /// Has room for at least `limit` routes from now on.
    pub fn make_room(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
        self.in_flight.make_room(self.limit.saturating_mul(GAUGES));
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    /// Routes that have a name of their own now.
    pub fn routes(&self) -> usize {
        self.routes.len() - 1
    }

    /// Adds requests that ended. One that cannot be is counted as refused and
    /// changes nothing.
    pub fn add(&mut self, now: UnixSeconds, what: &Contribution<'_>) {
        if let Err(reason) = check(now, what) {
            self.refused.add(reason, 1);
            return;
        }
        // A clock that is a little fast must not make news of the future.
        let late = (what.until - now).max(0.0);
        let (since, until) = (what.since - late, what.until - late);
        let id = self.id(now, what.route);
        let slot = self.slot(since, until);
        let sums = self.slots.entry(slot).or_default().entry(id).or_default();
        sums.requests += what.requests;
        sums.duration_seconds += what.duration_seconds;
        if let Some(seconds) = what.database_seconds {
            *sums.database_seconds.get_or_insert(0.0) += seconds;
        }
        durations::merge(&mut sums.durations, what.durations);
    }

    /// An instance says how many requests of a route run at `now`.
    pub fn running(&mut self, now: UnixSeconds, instance: u64, route: &str, requests: f64) {
        if !now.is_finite() || !(0.0..=LARGEST).contains(&requests) {
            self.refused.add(BAD_VALUE, 1);
            return;
        }
        let id = self.id(now, route);
        if let Err(reason) = self.in_flight.set(now, instance, id, requests) {
            self.refused.add(reason, 1);
        }
    }

    /// Everything since the last flush, the oldest span first. Meant to be
    /// called once an interval; without news there is no report.
    pub fn flush(&mut self, now: UnixSeconds) -> Vec<TrafficReport> {
        let slots = std::mem::take(&mut self.slots);
        let mut reports: Vec<TrafficReport> = slots
            .into_iter()
            .map(|((until, length), sums)| {
                let routes = sums.into_iter().filter_map(|(id, sums)| {
                    let name = self.routes.get(&id)?;
                    Some(sums.told(&name.name))
                });
                self.report(tenths(until), tenths(length), routes.collect())
            })
            .collect();
        if let Some((at, running)) = self.in_flight.news(now) {
            // Where the span just told of ends at the same moment, both belong
            // in one report; else the gauges have one of their own, which
            // covers no time.
            let last = reports.last_mut();
            match last.filter(|last| last.until.is_some_and(|until| (until - at).abs() < SHORT)) {
                Some(last) => self.put_running(&mut last.routes, running),
                None => {
                    let mut routes = Vec::new();
                    self.put_running(&mut routes, running);
                    reports.push(self.report(at, 0.0, routes));
                }
            }
        }
        for report in &mut reports {
            report.routes.sort_by(|a, b| a.route.cmp(&b.route));
        }
        reports
    }

    /// What was refused since the last call.
    pub fn take_refused(&mut self) -> Tally {
        self.refused.take()
    }

    fn report(
        &self,
        until: UnixSeconds,
        interval: f64,
        routes: Vec<RouteTraffic>,
    ) -> TrafficReport {
        TrafficReport {
            service: self.service.clone(),
            via: Some(self.via),
            until: Some(until),
            interval,
            routes,
        }
    }

    fn put_running(&self, routes: &mut Vec<RouteTraffic>, running: BTreeMap<RouteId, f64>) {
        let mut places: HashMap<Arc<str>, usize> = routes
            .iter()
            .enumerate()
            .map(|(place, route)| (route.route.as_str().into(), place))
            .collect();
        for (id, requests) in running {
            let Some(known) = self.routes.get(&id) else {
                continue;
            };
            let place = *places.entry(Arc::clone(&known.name)).or_insert_with(|| {
                routes.push(RouteTraffic {
                    route: known.name.to_string(),
                    ..RouteTraffic::default()
                });
                routes.len() - 1
            });
            if let Some(route) = routes.get_mut(place) {
                route.in_flight = Some(requests);
            }
        }
    }

    fn id(&mut self, now: UnixSeconds, route: &str) -> RouteId {
        if let Some(&id) = self.ids.get(route) {
            if let Some(known) = self.routes.get_mut(&id) {
                known.seen = known.seen.max(now);
            }
            return id;
        }
        if self.routes() >= self.limit {
            self.sweep(now);
        }
        if self.routes() >= self.limit {
            self.refused.add(TOO_MANY_ROUTES, 1);
            return OTHER_ID;
        }
        let id = self.next;
        self.next = self.next.checked_add(1).unwrap_or(OTHER_ID + 1);
        let name: Arc<str> = route.into();
        self.ids.insert(Arc::clone(&name), id);
        self.routes.insert(id, Known { name, seen: now });
        id
    }

    /// Forgets the routes unheard of the longest, if they are idle. What is in
    /// a slot still has to be told under its name.
    fn sweep(&mut self, now: UnixSeconds) {
        if now - self.swept_at < SWEEP_EVERY {
            return;
        }
        self.swept_at = now;
        let mut idle: Vec<(UnixSeconds, RouteId)> = self
            .routes
            .iter()
            .filter(|(_, known)| now - known.seen > IDLE)
            .map(|(&id, known)| (known.seen, id))
            .collect();
        idle.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, id) in idle.into_iter().take((self.limit / FORGET).max(1)) {
            if self.slots.values().any(|slot| slot.contains_key(&id)) {
                continue;
            }
            if let Some(known) = self.routes.remove(&id) {
                self.ids.remove(&known.name);
            }
            self.in_flight.forget(id);
        }
    }

    fn slot(&self, since: UnixSeconds, until: UnixSeconds) -> SlotKey {
        let key = if until - since < SHORT {
            ((until.ceil() * 10.0) as i64, 10)
        } else {
            (
                (until * 10.0).round() as i64,
                ((until - since) * 10.0).round() as i64,
            )
        };
        if self.slots.len() < MAX_SLOTS || self.slots.contains_key(&key) {
            return key;
        }
        let distance = |slot: &SlotKey| (slot.0 - key.0).abs() + (slot.1 - key.1).abs();
        let nearest = self.slots.keys().copied().min_by_key(distance);
        nearest.unwrap_or(key)
    }
}

impl Sums {
    fn told(self, route: &str) -> RouteTraffic {
        RouteTraffic {
            route: route.to_owned(),
            requests: self.requests,
            duration_seconds: self.duration_seconds,
            in_flight: None,
            database_seconds: self.database_seconds,
            durations: self.durations,
        }
    }
}

fn tenths(count: i64) -> f64 {
    count as f64 / 10.0
}

fn check(now: UnixSeconds, what: &Contribution<'_>) -> Result<(), &'static str> {
    let is_amount = |value: f64| (0.0..=LARGEST).contains(&value);
    let times = [now, what.since, what.until];
    if !times.iter().all(|t| t.is_finite())
        || what.until < what.since
        || what.until - what.since > LONGEST
        || what.until > now + AHEAD
        || what.until < now - STALE
    {
        return Err(BAD_TIME);
    }
    let good = is_amount(what.requests)
        && is_amount(what.duration_seconds)
        && what.database_seconds.is_none_or(is_amount)
        && what.durations.iter().all(|bucket| {
            is_amount(bucket.count) && bucket.upper.is_none_or(|upper| !upper.is_nan())
        });
    if good { Ok(()) } else { Err(BAD_VALUE) }
}

#[cfg(test)]
mod tests;
