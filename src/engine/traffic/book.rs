//! What one way of hearing (`via`) tells of one service, route by route.
//!
//! Invariants: at most [`MAX_ROUTES`] routes, of which the one unheard of the
//! longest makes room when it is idle; amounts are spread over the span that
//! their report covers; totals only grow.

use std::sync::Arc;

use super::holds::Holds;
use super::names::RouteKey;
use super::quantity::{Level, Quantity};
use crate::engine::tables::Table;
use crate::sample::{RouteTraffic, UnixSeconds};

/// Routes of one service and way. As many as an edge tells apart, and `other`.
pub const MAX_ROUTES: usize = 5_001;

/// A route idle for this long, in seconds, can be forgotten for a new one.
const IDLE: f64 = 1_800.0;

/// Seconds between two looks for routes to forget.
const SWEEP_EVERY: f64 = 10.0;

/// The route under which an edge adds up those without a place: many routes,
/// so nobody to blame.
const OTHER: &str = "other";

/// Longest name of a route, in bytes; the edges keep to 200 characters.
const MAX_NAME: usize = 1_024;

/// One route: its name, and its traffic over time.
#[derive(Debug, Clone)]
pub struct Track {
    pub name: Arc<str>,
    pub key: RouteKey,
    /// Requests that ended.
    pub requests: Quantity,
    /// Seconds that those requests took.
    pub seconds: Quantity,
    /// Seconds of them in calls of the database; `None` when never told.
    pub database: Option<Box<Quantity>>,
    /// Requests running; `None` when never told.
    pub running: Option<Box<Level>>,
    pub holds: Option<Box<Holds>>,
    /// Requests since the daemon hears of the route.
    pub total: f64,
    pub seen_at: UnixSeconds,
}

/// One service as one way tells of it.
#[derive(Debug, Clone, Default)]
pub struct Book {
    index: Table<Arc<str>, usize>,
    tracks: Vec<Track>,
    /// All routes together: seconds of requests, and their number.
    pub all_seconds: Quantity,
    pub all_requests: Quantity,
    /// The first moment that a report covers.
    pub since: Option<UnixSeconds>,
    /// Reports of ended requests cover the time up to here.
    pub until: Option<UnixSeconds>,
    /// The first and the newest gauge.
    pub running_since: Option<UnixSeconds>,
    pub running_at: Option<UnixSeconds>,
    swept_at: UnixSeconds,
}

/// Why a route's figures were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    BadValue,
    TooManyRoutes,
}

impl Book {
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    pub fn track(&self, name: &str) -> Option<&Track> {
        self.index
            .get(name)
            .and_then(|&place| self.tracks.get(place))
    }

    /// When it was last told of anything.
    pub fn newest(&self) -> UnixSeconds {
        let times = [self.until, self.running_at];
        times
            .into_iter()
            .flatten()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// A report covers this span, whether or not a route is in it.
    pub fn cover(&mut self, from: UnixSeconds, until: UnixSeconds) {
        self.since = Some(self.since.map_or(from, |since| since.min(from)));
        self.until = Some(self.until.map_or(until, |known| known.max(until)));
    }

    /// Takes in one route's part of a report that covers `from` to `until`.
    pub fn take(
        &mut self,
        from: UnixSeconds,
        until: UnixSeconds,
        route: &RouteTraffic,
    ) -> Result<(), Refused> {
        if !is_sound(route) {
            return Err(Refused::BadValue);
        }
        let place = self.place(until, &route.route)?;
        let Some(track) = self.tracks.get_mut(place) else {
            return Err(Refused::TooManyRoutes);
        };
        track.seen_at = track.seen_at.max(until);
        track.total += route.requests;
        track.requests.add(from, until, route.requests);
        track.seconds.add(from, until, route.duration_seconds);
        self.all_seconds.add(from, until, route.duration_seconds);
        self.all_requests.add(from, until, route.requests);
        if let Some(seconds) = route.database_seconds {
            track
                .database
                .get_or_insert_default()
                .add(from, until, seconds);
        }
        if let Some(running) = route.in_flight {
            track.running.get_or_insert_default().push(until, running);
            self.running_since = Some(self.running_since.map_or(until, |at| at.min(until)));
            self.running_at = Some(self.running_at.map_or(until, |at| at.max(until)));
        }
        if !route.durations.is_empty() {
            if track.holds.is_none() {
                track.holds = Holds::new(until).map(Box::new);
            }
            if let Some(holds) = &mut track.holds {
                holds.record(until, &route.durations);
            }
        }
        Ok(())
    }

    fn place(&mut self, t: UnixSeconds, name: &str) -> Result<usize, Refused> {
        if let Some(&place) = self.index.get(name) {
            return Ok(place);
        }
        if self.tracks.len() >= MAX_ROUTES {
            self.forget_oldest(t);
        }
        if self.tracks.len() >= MAX_ROUTES {
            return Err(Refused::TooManyRoutes);
        }
        let name: Arc<str> = name.into();
        let place = self.tracks.len();
        self.tracks.push(Track {
            key: RouteKey::of(&name),
            name: Arc::clone(&name),
            requests: Quantity::default(),
            seconds: Quantity::default(),
            database: None,
            running: None,
            holds: None,
            total: 0.0,
            seen_at: t,
        });
        self.index.insert(name, place);
        Ok(place)
    }

    fn forget_oldest(&mut self, t: UnixSeconds) {
        if t - self.swept_at < SWEEP_EVERY {
            return;
        }
        self.swept_at = t;
        self.tracks.retain(|track| t - track.seen_at <= IDLE);
        let names = self.tracks.iter().map(|track| Arc::clone(&track.name));
        self.index = names.zip(0..).collect();
    }
}

impl Track {
    /// Nobody can be blamed under this name.
    pub fn is_other(&self) -> bool {
        &*self.name == OTHER
    }
}

fn is_sound(route: &RouteTraffic) -> bool {
    let is_amount = |value: f64| value.is_finite() && (0.0..1e12).contains(&value);
    (1..=MAX_NAME).contains(&route.route.len())
        && is_amount(route.requests)
        && is_amount(route.duration_seconds)
        && route.in_flight.is_none_or(is_amount)
        && route.database_seconds.is_none_or(is_amount)
}
