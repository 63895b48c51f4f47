//! Requests that run now, of every instance that says so.
//!
//! A gauge holds until the instance speaks again. One that is silent for longer
//! than two and a half times its usual pause is gone, and its requests with it.

use std::collections::{BTreeMap, HashMap};

use super::RouteId;
use crate::observe::traffic::TOO_MANY_INSTANCES;
use crate::sample::UnixSeconds;

/// Pauses that make an instance gone.
const PAUSES: f64 = 2.5;

/// The pause to be expected of an instance that spoke once, in seconds: the
/// usual export interval of OpenTelemetry.
const FIRST_PAUSE: f64 = 60.0;

/// No pause is taken for shorter or longer than this, in seconds.
const SHORTEST_PAUSE: f64 = 4.0;
const LONGEST_PAUSE: f64 = 120.0;

/// The gauges of one account.
#[derive(Debug)]
pub(super) struct InFlight {
    limit: usize,
    gauges: HashMap<(RouteId, u64), Gauge>,
    /// When the newest gauge was set, if that was not told yet.
    news: Option<UnixSeconds>,
}

#[derive(Debug)]
struct Gauge {
    at: UnixSeconds,
    pause: f64,
    running: f64,
}

impl InFlight {
    /// At most `limit` gauges.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            gauges: HashMap::new(),
            news: None,
        }
    }

    /// At most `limit` gauges from now on, if that is more.
    pub(super) fn make_room(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// An error is the reason of a refusal.
    pub(super) fn set(
        &mut self,
        now: UnixSeconds,
        instance: u64,
        route: RouteId,
        running: f64,
    ) -> Result<(), &'static str> {
        if self.gauges.len() >= self.limit && !self.gauges.contains_key(&(route, instance)) {
            self.expire(now);
            if self.gauges.len() >= self.limit {
                return Err(TOO_MANY_INSTANCES);
            }
        }
        let gauge = self.gauges.entry((route, instance)).or_insert(Gauge {
            at: now,
            pause: FIRST_PAUSE,
            running,
        });
        if now > gauge.at {
            gauge.pause = (now - gauge.at).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        }
        if now >= gauge.at {
            gauge.at = now;
            gauge.running = running;
        }
        self.news = Some(self.news.map_or(now, |at| at.max(now)));
        Ok(())
    }

    /// Sums over the instances, and as of when; `None` when nothing was said
    /// since the last call and nobody is gone.
    pub(super) fn news(
        &mut self,
        now: UnixSeconds,
    ) -> Option<(UnixSeconds, BTreeMap<RouteId, f64>)> {
        let gone = self.expire(now);
        let at = match (self.news.take(), gone.is_empty()) {
            (Some(at), _) => at.min(now),
            (None, false) => now,
            (None, true) => return None,
        };
        // A route whose last instance is gone has none running.
        let mut sums: BTreeMap<RouteId, f64> = gone.into_iter().map(|id| (id, 0.0)).collect();
        for ((id, _), gauge) in &self.gauges {
            *sums.entry(*id).or_default() += gauge.running;
        }
        Some((at, sums))
    }

    pub(super) fn forget(&mut self, route: RouteId) {
        self.gauges.retain(|&(id, _), _| id != route);
    }

    /// Takes out the gauges of instances that are gone; their routes.
    fn expire(&mut self, now: UnixSeconds) -> Vec<RouteId> {
        let mut gone = Vec::new();
        self.gauges.retain(|&(id, _), gauge| {
            let stays = now - gauge.at <= PAUSES * gauge.pause;
            if !stays {
                gone.push(id);
            }
            stays
        });
        gone
    }
}
