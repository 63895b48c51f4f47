//! Points of metrics to accounts: requests, durations and running requests by
//! route, of all instances of a service.
//!
//! Invariants: cumulative points count by what they grew since the point before
//! of the same series; the same requests told under the old and the new name of
//! a metric count once; series and instances are bounded.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::accounts::Accounts;
use super::distribution::Distribution;
use super::names::Names;
use super::outcome::Outcome;
use super::record::{
    Metric, MetricName, Point, PointSink, PointValue, Reason, Resource, Temporality,
};
use super::times::{Window, seconds};
use crate::observe::traffic::{
    BAD_TIME, BAD_VALUE, Contribution, Cumulative, Deltas, NO_ROUTE, OUT_OF_ORDER, TOO_MANY_SERIES,
};
use crate::sample::{DurationBucket, UnixSeconds};

/// Cumulative series: forty instances of a service with a hundred routes and
/// four status codes each. At most 1.5 KB each.
const SERIES: usize = 16_384;

/// Instances told apart.
const INSTANCES: usize = 1_024;

/// An instance unheard of for this long, in seconds, may be forgotten. Longer
/// than a series is remembered, or it would seem to begin again.
const INSTANCE_IDLE: f64 = 600.0;

/// Starts told apart of one instance. Most SDKs have one for all series; some
/// begin each series by itself, and then the start says all.
const STARTS: usize = 64;

/// Starts that lie closer than this, in nanoseconds, may be one that an
/// exporter rounds differently each time. Workers of a pre-forking server that
/// have the same resource begin within the same second, milliseconds apart.
const SAME_START: u64 = 1_000_000;

/// Points of one export have the same time, or nearly. Exports are a second
/// apart at least.
const SAME_EXPORT: f64 = 0.5;

/// Longest span that one delta point may cover, in seconds.
const LONGEST: f64 = 300.0;

/// What is remembered from point to point.
#[derive(Debug)]
pub struct Memory {
    deltas: Deltas<(u64, u64)>,
    instances: HashMap<u64, Instance>,
    hasher: RandomState,
}

/// One process that sends metrics.
#[derive(Debug, Default)]
struct Instance {
    seen: UnixSeconds,
    /// It tells of requests by the stable name.
    stable: bool,
    /// By metric and the millisecond in which its series began to count. Processes
    /// may have the same resource, and what one exported says nothing of what
    /// another had.
    exports: HashMap<(MetricName, u64), Exports>,
}

/// When such series were exported last, and the time before.
#[derive(Debug, Default, Clone, Copy)]
struct Exports {
    last: UnixSeconds,
    before: UnixSeconds,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            deltas: Deltas::new(SERIES),
            instances: HashMap::new(),
            hasher: RandomState::new(),
        }
    }
}

impl Memory {
    fn instance(&mut self, now: UnixSeconds, identity: u64) -> Result<&mut Instance, Reason> {
        if !self.instances.contains_key(&identity) && self.instances.len() >= INSTANCES {
            self.instances
                .retain(|_, instance| now - instance.seen < INSTANCE_IDLE);
            if self.instances.len() >= INSTANCES {
                return Err(Reason::TooManyInstances);
            }
        }
        let instance = self.instances.entry(identity).or_default();
        instance.seen = now;
        Ok(instance)
    }

    /// The key of a series. Processes that have the same resource are told
    /// apart by the millisecond in which they began to count; a start that
    /// wobbles around a full one is still one start.
    fn key(&self, instance: u64, metric: MetricName, point: &Point<'_>, layout: u64) -> (u64, u64) {
        let start = point.start / SAME_START;
        let key = |start: u64| {
            let what = (point.identity, metric, layout, start);
            (instance, self.hasher.hash_one(what))
        };
        let exact = key(start);
        if self.deltas.contains(&exact) {
            return exact;
        }
        let near = if point.start % SAME_START < SAME_START / 2 {
            key(start.wrapping_sub(1))
        } else {
            key(start.wrapping_add(1))
        };
        if self.deltas.contains(&near) {
            near
        } else {
            exact
        }
    }
}

impl Instance {
    /// A point of a series that counts since `start` has come at `at`. Gives
    /// back when the export before it was; without a start nobody knows which
    /// process it is.
    fn note(&mut self, metric: MetricName, start: u64, at: UnixSeconds) -> Option<UnixSeconds> {
        let key = (metric, start / SAME_START);
        if start == 0 {
            return None;
        }
        if self.exports.len() >= STARTS && !self.exports.contains_key(&key) {
            let ages = self
                .exports
                .iter()
                .map(|(key, exports)| (exports.last, *key));
            let oldest = ages.min_by(|a, b| a.0.total_cmp(&b.0));
            oldest.and_then(|(_, key)| self.exports.remove(&key));
        }
        self.exports.entry(key).or_default().note(at)
    }
}

impl Exports {
    /// A point of that time has come. Gives back when the export before it was.
    fn note(&mut self, at: UnixSeconds) -> Option<UnixSeconds> {
        if at > self.last + SAME_EXPORT {
            self.before = self.last;
            self.last = at;
        }
        (self.before > 0.0).then_some(self.before)
    }
}

/// Takes the points of one request into the accounts.
#[derive(Debug)]
pub struct PointTaker<'r> {
    now: UnixSeconds,
    window: Window,
    names: &'r mut Names,
    accounts: &'r mut Accounts,
    memory: &'r mut Memory,
    /// The service and the instance whose points come now.
    service: Result<(usize, u64), Reason>,
    durations: Vec<DurationBucket>,
    pub outcome: Outcome,
}

impl<'r> PointTaker<'r> {
    pub fn new(
        now: UnixSeconds,
        names: &'r mut Names,
        accounts: &'r mut Accounts,
        memory: &'r mut Memory,
    ) -> Self {
        Self {
            now,
            window: Window::around(now),
            names,
            accounts,
            memory,
            service: Err(Reason::NoService),
            durations: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// What a histogram's point adds: since when, how many, their sum, and the
    /// buckets in `durations`. `None` where it is the first of its series and
    /// tells of no span of time.
    fn added(
        &mut self,
        metric: &Metric,
        instance: u64,
        point: &Point<'_>,
        (count, sum): (u64, f64),
        buckets: &mut Distribution,
    ) -> Result<Option<(UnixSeconds, f64, f64)>, Reason> {
        let at = seconds(point.time);
        if metric.temporality == Temporality::Delta {
            let since = seconds(point.start);
            if point.start == 0 || since > at || at - since > LONGEST {
                return Err(Reason::BadTime);
            }
            let counts = buckets.comparable().to_vec();
            buckets.buckets(&counts, metric.seconds, &mut self.durations);
            return Ok(Some((since, count as f64, sum * metric.seconds)));
        }
        if point.start > point.time {
            return Err(Reason::BadTime);
        }
        let known = self.memory.instance(self.now, instance)?;
        let absent_at = known.note(metric.name, point.start, at);
        let key = self
            .memory
            .key(instance, metric.name, point, buckets.layout());
        let reading = Cumulative {
            at,
            started_at: (point.start > 0).then(|| seconds(point.start)),
            absent_at,
            count: count as f64,
            sum: sum * metric.seconds,
            buckets: buckets.comparable(),
        };
        let increase = self.memory.deltas.push(key, &reading);
        let refused = self.memory.deltas.take_refused();
        if let Some((reason, _)) = refused.iter().next() {
            return Err(match reason {
                BAD_TIME => Reason::BadTime,
                OUT_OF_ORDER => Reason::OutOfOrder,
                TOO_MANY_SERIES => Reason::TooManySeries,
                BAD_VALUE => Reason::BadValue,
                _ => Reason::Malformed,
            });
        }
        let Some(increase) = increase else {
            return Ok(None);
        };
        buckets.buckets(&increase.buckets, metric.seconds, &mut self.durations);
        let mut since = increase.since;
        if at - since > LONGEST {
            // Its process was heard of meanwhile, and left it out because it
            // stood still.
            since = absent_at.map_or(since, |export| export.max(since));
        }
        if at - since > LONGEST && increase.count > 0.0 {
            // One that was silent tells of all of it at once; put into the last
            // minutes, that would be a surge that never was.
            return Err(Reason::BadTime);
        }
        Ok(Some((since, increase.count, increase.sum)))
    }

    fn histogram(
        &mut self,
        metric: &Metric,
        point: &Point<'_>,
        what: (u64, f64),
        buckets: &mut Distribution,
    ) -> Result<(), Reason> {
        let (service, instance) = self.service?;
        let is_database = metric.name == MetricName::DatabaseDuration;
        if is_database && !point.labels.postgresql {
            return Ok(());
        }
        if metric.name == MetricName::OldRequestDuration
            && self.memory.instance(self.now, instance)?.stable
        {
            return Ok(());
        }
        let route = self.names.of(&point.labels);
        let Some(route) = route else {
            // Calls of the database are mostly told without the request's.
            if !is_database {
                self.outcome.note(NO_ROUTE, what.0.min(1));
            }
            return Ok(());
        };
        let added = self.added(metric, instance, point, what, buckets)?;
        let Some((since, count, sum)) = added.filter(|(_, count, _)| *count > 0.0) else {
            return Ok(());
        };
        let mut contribution = Contribution {
            route: &route,
            since,
            until: seconds(point.time),
            requests: count,
            duration_seconds: sum,
            database_seconds: None,
            durations: &self.durations,
        };
        if is_database {
            contribution = Contribution {
                requests: 0.0,
                duration_seconds: 0.0,
                database_seconds: Some(sum),
                durations: &[],
                ..contribution
            };
        }
        if let Some(account) = self.accounts.get(service) {
            account.add(self.now, &contribution);
        }
        Ok(())
    }

    fn running(&mut self, point: &Point<'_>, requests: f64) -> Result<(), Reason> {
        let (service, instance) = self.service?;
        if !requests.is_finite() || requests < 0.0 {
            return Err(Reason::BadValue);
        }
        let Some(route) = self.names.of(&point.labels) else {
            // Most libraries count running requests without a route.
            return Ok(());
        };
        // Several series of one instance may be of one route.
        let instance = self.memory.hasher.hash_one((instance, point.identity));
        if let Some(account) = self.accounts.get(service) {
            account.running(self.now, instance, &route, requests);
        }
        Ok(())
    }
}

impl PointSink for PointTaker<'_> {
    fn resource(&mut self, resource: &Resource<'_>, stable: bool) {
        let name = resource.service.as_deref().ok_or(Reason::NoService);
        let identity = resource.identity;
        self.service = name
            .and_then(|name| self.accounts.number(name))
            .and_then(|service| {
                let instance = self.memory.instance(self.now, identity)?;
                instance.stable |= stable;
                Ok((service, identity))
            });
        self.outcome.about(resource.service.as_deref());
    }

    fn point(
        &mut self,
        metric: &Metric,
        point: &Point<'_>,
        buckets: &mut Distribution,
    ) -> Result<(), Reason> {
        self.service?;
        if point.labels.too_long {
            return Err(Reason::LabelTooLong);
        }
        if !self.window.contains(point.time) {
            return Err(Reason::BadTime);
        }
        match point.value {
            PointValue::Nothing => {}
            PointValue::Number(number) => self.running(point, number)?,
            PointValue::Histogram { count, sum } => {
                self.histogram(metric, point, (count, sum), buckets)?;
            }
        }
        self.outcome.accepted += 1;
        Ok(())
    }

    fn refuse(&mut self, reason: Reason, points: u64) {
        self.outcome.refuse(reason, points);
    }
}
