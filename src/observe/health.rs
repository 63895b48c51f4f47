//! What happens to ourselves: whether each source answers, how long a look
//! takes, what failed and what was thrown away.
//!
//! Every event is one call that both logs and counts, so the two never
//! disagree. Bounded: a source is registered once, from the configuration, and
//! reasons are fixed words. The mutex is held for a few instructions and never
//! across an await.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::observe::PollError;
use crate::observe::rejections::Rejections;
use crate::sample::{FailureReason, UnixSeconds};
use crate::telemetry::Telemetry;

/// Upper bounds in seconds of `snowpit_poll_duration_seconds`: from a local
/// socket to the longest time a poll may take.
pub const DURATION_BOUNDS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Seconds between two log lines on the same failure of the same source.
const LOG_EVERY: f64 = 60.0;

/// Longest poll that is told apart, in microseconds: a minute.
const LONGEST_MICROS: u64 = 60_000_000;

/// The registry of all sources. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    sources: Arc<Mutex<BTreeMap<(&'static str, String), Entry>>>,
    lost: Arc<Mutex<BTreeMap<Loss, Lost>>>,
    rejections: Rejections,
    telemetry: Telemetry,
}

/// Where samples were lost, and why.
type Loss = (&'static str, &'static str);

#[derive(Debug, Default)]
struct Lost {
    count: u64,
    logged: Option<UnixSeconds>,
}

/// One source's part of the registry.
#[derive(Debug, Clone)]
pub struct SourceHandle {
    health: Health,
    key: (&'static str, String),
}

/// The state of one source at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceHealth {
    /// `postgres` or `pgbouncer`.
    pub source: &'static str,
    pub name: String,
    /// The newest poll gave data.
    pub up: bool,
    pub last_success: Option<UnixSeconds>,
    /// The interval in force, in seconds: the governor may have stretched it.
    pub interval: f64,
    pub polls: u64,
    pub duration: DurationSummary,
    pub failures: BTreeMap<FailureReason, u64>,
    /// Samples thrown away, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Why the newest poll failed; `None` while the source is up.
    pub last_error: Option<String>,
}

/// How long polls took, in seconds, failed ones included.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DurationSummary {
    /// (upper bound, number of polls up to it), cumulative, in the order of
    /// [`DURATION_BOUNDS`]; `count` is the number up to infinity.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
    pub p50: f64,
    pub p99: f64,
}

#[derive(Debug)]
struct Entry {
    up: bool,
    last_success: Option<UnixSeconds>,
    interval: f64,
    durations: Histogram<u64>,
    duration_sum: f64,
    failures: BTreeMap<FailureReason, u64>,
    dropped: BTreeMap<&'static str, u64>,
    last_error: Option<String>,
    /// When each reason was last logged.
    logged: BTreeMap<FailureReason, UnixSeconds>,
    drop_logged: Option<UnixSeconds>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, and each poll is traced as well.
    #[must_use]
    pub fn traced(mut self, telemetry: Telemetry) -> Self {
        self.telemetry = telemetry;
        self
    }

    /// Adds a source, or finds it again after a reload with its counters kept.
    pub fn register(&self, source: &'static str, name: &str, interval: Duration) -> SourceHandle {
        let key = (source, name.to_owned());
        self.lock()
            .entry(key.clone())
            .or_insert_with(Entry::new)
            .interval = interval.as_secs_f64();
        SourceHandle {
            health: self.clone(),
            key,
        }
    }

    /// Forgets a source that is no longer configured, with its series.
    pub fn remove(&self, source: &'static str, name: &str) {
        self.lock().remove(&(source, name.to_owned()));
    }

    /// What came in from outside and was refused.
    pub fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// Every source, ordered by kind and name.
    pub fn snapshot(&self) -> Vec<SourceHealth> {
        self.lock()
            .iter()
            .map(|((source, name), entry)| entry.summary(source, name))
            .collect()
    }

    /// `count` samples were lost at `at` in a part of the program that is no
    /// source. Logged at the first and then at most once a minute.
    pub fn lost(&self, part: &'static str, at: UnixSeconds, reason: &'static str, count: u64) {
        let mut all = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = all.entry((part, reason)).or_default();
        lost.count += count;
        if due(lost.logged, at) {
            lost.logged = Some(at);
            tracing::warn!(part, reason, count, "samples lost");
        }
    }

    /// Samples lost by (part, reason), see [`Health::lost`].
    pub fn losses(&self) -> Vec<((&'static str, &'static str), u64)> {
        let all = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(loss, lost)| (*loss, lost.count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), Entry>> {
        // A panic elsewhere leaves counters, which are valid at any moment.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceHandle {
    /// A poll that began at `at` gave data after `took`.
    pub fn succeeded(&self, at: UnixSeconds, took: Duration) {
        let (source, name) = (self.key.0, &self.key.1);
        self.health.telemetry.poll(source, name, at, took, None);
        let recovered = self.with(|entry| {
            entry.record(took);
            let recovered = !entry.up && !entry.failures.is_empty();
            entry.up = true;
            entry.last_success = Some(at);
            entry.last_error = None;
            entry.logged.clear();
            recovered
        });
        if recovered == Some(true) {
            tracing::info!(source, name, "source answers again");
        }
    }

    /// A poll that began at `at` failed after `took`. Logged at the first
    /// failure for a reason and then at most once a minute; always counted.
    pub fn failed(&self, at: UnixSeconds, took: Duration, error: &PollError) {
        let (source, name) = (self.key.0, &self.key.1);
        let reason = Some(error.reason);
        self.health.telemetry.poll(source, name, at, took, reason);
        let due = self.with(|entry| {
            entry.record(took);
            entry.up = false;
            entry.last_error = Some(error.message.clone());
            *entry.failures.entry(error.reason).or_default() += 1;
            due(entry.logged.get(&error.reason).copied(), at)
                .then(|| entry.logged.insert(error.reason, at))
                .is_some()
        });
        if due == Some(true) {
            let reason = error.reason.as_str();
            tracing::warn!(source, name, reason, "poll failed: {}", error.message);
        }
    }

    /// A sample was thrown away at `at`.
    pub fn dropped(&self, at: UnixSeconds, reason: &'static str) {
        let (source, name) = (self.key.0, &self.key.1);
        let due = self.with(|entry| {
            *entry.dropped.entry(reason).or_default() += 1;
            due(entry.drop_logged, at)
                .then(|| entry.drop_logged.replace(at))
                .is_some()
        });
        if due == Some(true) {
            tracing::warn!(source, name, reason, "sample dropped");
        }
    }

    /// The interval in force has changed.
    pub fn interval(&self, interval: Duration) {
        self.with(|entry| entry.interval = interval.as_secs_f64());
    }

    /// `None` when the source has been removed meanwhile.
    fn with<T>(&self, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.health.lock().get_mut(&self.key).map(change)
    }
}

fn due(logged: Option<UnixSeconds>, now: UnixSeconds) -> bool {
    // Also when the clock was set back.
    logged.is_none_or(|last| (now - last).abs() >= LOG_EVERY)
}

impl Entry {
    fn new() -> Self {
        Self {
            up: false,
            last_success: None,
            interval: 0.0,
            durations: duration_histogram(),
            duration_sum: 0.0,
            failures: BTreeMap::new(),
            dropped: BTreeMap::new(),
            last_error: None,
            logged: BTreeMap::new(),
            drop_logged: None,
        }
    }

    fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.durations.saturating_record(micros.max(1));
        self.duration_sum += took.as_secs_f64();
    }

    fn summary(&self, source: &'static str, name: &str) -> SourceHealth {
        SourceHealth {
            source,
            name: name.to_owned(),
            up: self.up,
            last_success: self.last_success,
            interval: self.interval,
            polls: self.durations.len(),
            duration: self.duration_summary(),
            failures: self.failures.clone(),
            dropped: self.dropped.clone(),
            last_error: self.last_error.clone(),
        }
    }

    fn duration_summary(&self) -> DurationSummary {
        let mut buckets: Vec<(f64, u64)> = DURATION_BOUNDS.map(|bound| (bound, 0)).into();
        for step in self.durations.iter_recorded() {
            let seconds = seconds(step.value_iterated_to());
            for (bound, count) in &mut buckets {
                if seconds <= *bound {
                    *count += step.count_at_value();
                }
            }
        }
        DurationSummary {
            buckets,
            count: self.durations.len(),
            sum: self.duration_sum,
            p50: seconds(self.durations.value_at_quantile(0.5)),
            p99: seconds(self.durations.value_at_quantile(0.99)),
        }
    }
}

fn duration_histogram() -> Histogram<u64> {
    // Two digits: a poll that took 12 ms need not be told from one of 12.05 ms.
    Histogram::new_with_bounds(1, LONGEST_MICROS, 2)
        .expect("1 µs to 60 s with 2 digits are valid bounds")
}

#[expect(clippy::cast_precision_loss, reason = "at most 60,000,000")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> (Health, SourceHandle) {
        let health = Health::new();
        let handle = health.register("postgres", "main", Duration::from_secs(1));
        (health, handle)
    }

    #[test]
    fn a_source_is_down_until_it_has_answered() {
        let (health, handle) = handle();
        assert!(!health.snapshot()[0].up);
        handle.succeeded(100.0, Duration::from_millis(3));
        let source = &health.snapshot()[0];
        assert!(source.up);
        assert_eq!(source.last_success, Some(100.0));
        assert_eq!(source.polls, 1);
    }

    #[test]
    fn failures_are_counted_by_reason_and_the_message_goes_with_recovery() {
        let (health, handle) = handle();
        let error = PollError::new(FailureReason::Refused, "nothing listens");
        handle.failed(1.0, Duration::from_millis(1), &error);
        handle.failed(2.0, Duration::from_millis(1), &error);
        let source = &health.snapshot()[0];
        assert!(!source.up);
        assert_eq!(source.failures[&FailureReason::Refused], 2);
        assert_eq!(source.last_error.as_deref(), Some("nothing listens"));
        handle.succeeded(3.0, Duration::from_millis(1));
        let source = &health.snapshot()[0];
        assert_eq!(source.failures[&FailureReason::Refused], 2);
        assert_eq!(source.last_error, None);
    }

    #[test]
    fn buckets_are_cumulative_and_the_sum_is_exact() {
        let (health, handle) = handle();
        for millis in [1, 4, 30, 7_000] {
            handle.succeeded(1.0, Duration::from_millis(millis));
        }
        let duration = &health.snapshot()[0].duration;
        let at = |bound: f64| duration.buckets.iter().find(|b| b.0 == bound).map(|b| b.1);
        assert_eq!(at(0.005), Some(2));
        assert_eq!(at(0.05), Some(3));
        assert_eq!(at(5.0), Some(3));
        assert_eq!(duration.count, 4);
        assert!((duration.sum - 7.035).abs() < 1e-9);
        assert!(duration.buckets.is_sorted_by(|a, b| a.1 <= b.1));
    }

    #[test]
    fn the_same_failure_is_logged_once_a_minute() {
        assert!(due(None, 5.0));
        assert!(!due(Some(5.0), 64.0));
        assert!(due(Some(5.0), 65.0));
        assert!(due(Some(5_000.0), 65.0), "the clock was set back");
    }

    #[test]
    fn a_removed_source_leaves_nothing_behind() {
        let (health, handle) = handle();
        health.remove("postgres", "main");
        handle.succeeded(1.0, Duration::from_millis(1));
        assert!(health.snapshot().is_empty());
    }
}
