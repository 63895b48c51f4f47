//! How snowpit itself is: its build, its sources, its engine.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::page::{Buckets, Page};
use super::table;
use crate::engine::traffic::RefusedPoints;
use crate::observe::health::{DurationSummary, SourceHealth};
use crate::observe::rejections::Rejections;
use crate::sample::FailureReason;

/// Which commit this was built from, when the build says so.
pub const REVISION: &str = match option_env!("SNOWPIT_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Upper bounds in seconds. A sample takes the engine from some tens of
/// microseconds to a few milliseconds at thousands of backends.
const TICK_BOUNDS: [f64; 9] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.025, 0.1,
];

/// How long the engine takes for a sample. Written by the task that owns the
/// engine, read by a scrape; each holds the lock for a moment only.
#[derive(Debug)]
pub struct EngineTicks(Mutex<Histogram<u64>>);

impl Default for EngineTicks {
    fn default() -> Self {
        // One microsecond to one minute in three digits: what is longer is
        // counted as a minute.
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3);
        Self(Mutex::new(histogram.expect("the bounds are constants")))
    }
}

impl EngineTicks {
    /// Counts one call of the engine.
    pub fn record(&self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.with(|histogram| histogram.saturating_record(microseconds));
    }

    /// The given quantile in seconds; `None` before the first call.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        self.with(|histogram| {
            (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e6)
        })
    }

    fn with<T>(&self, read: impl FnOnce(&mut Histogram<u64>) -> T) -> T {
        let mut histogram = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        read(&mut histogram)
    }
}

/// Build and engine.
pub fn put_engine(page: &mut Page, ticks: &EngineTicks) {
    let version = env!("CARGO_PKG_VERSION");
    page.put(&table::BUILD_INFO, [version, REVISION], 1.0);
    let buckets = ticks.with(|histogram| cut(histogram, &TICK_BOUNDS));
    page.put_histogram(&table::ENGINE_TICK, [], buckets);
}

/// The runtime that all of this runs on, when it is asked from there.
pub fn put_runtime(page: &mut Page) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let tasks = runtime.metrics().num_alive_tasks();
        page.put(&table::TASKS, [], tasks as f64);
    }
}

/// The sources: whether each answers, how fast, and what went wrong.
pub fn put_sources(page: &mut Page, sources: &[SourceHealth]) {
    // The contract counts dropped samples by kind of source.
    let mut dropped = BTreeMap::new();
    for source in sources {
        let labels = [source.source, source.name.as_str()];
        page.put(&table::SOURCE_UP, labels, f64::from(u8::from(source.up)));
        page.put_some(&table::SOURCE_LAST_SUCCESS, labels, source.last_success);
        page.put(&table::POLL_INTERVAL, labels, source.interval);
        page.put_histogram(&table::POLL_DURATION, labels, buckets(&source.duration));
        for reason in FailureReason::ALL {
            // 0 before the first failure, or `increase` would miss that one.
            let failures = source.failures.get(&reason).copied().unwrap_or(0);
            let labels = [source.source, source.name.as_str(), reason.as_str()];
            page.put(&table::POLL_FAILURES, labels, failures as f64);
        }
        for (reason, count) in &source.dropped {
            *dropped.entry([source.source, *reason]).or_insert(0.0) += *count as f64;
        }
    }
    for (labels, count) in dropped {
        page.put(&table::DROPPED_SAMPLES, labels, count);
    }
}

/// Samples that reached the engine and were lost behind it.
pub fn put_losses(page: &mut Page, losses: &[((&'static str, &'static str), u64)]) {
    for ((part, reason), count) in losses {
        page.put(&table::DROPPED_SAMPLES, [*part, *reason], *count as f64);
    }
}

/// What came in from outside and was refused, by the edges and by the engine.
pub fn put_rejections(page: &mut Page, edges: &Rejections, engine: &RefusedPoints) {
    let mut refused = engine.clone();
    for (source, reason, count) in edges.snapshot() {
        *refused.entry((source, reason)).or_default() += count;
    }
    for ((source, reason), count) in refused {
        page.put(&table::REJECTED_POINTS, [source, reason], count as f64);
    }
}

/// Cumulative counts made into counts of each bucket alone.
fn buckets(summary: &DurationSummary) -> Buckets {
    let mut counts = Vec::with_capacity(summary.buckets.len() + 1);
    let mut below = 0;
    for (bound, cumulative) in &summary.buckets {
        counts.push((*bound, cumulative.saturating_sub(below)));
        below = *cumulative;
    }
    counts.push((f64::INFINITY, summary.count.saturating_sub(below)));
    Buckets {
        counts,
        sum: summary.sum,
    }
}

/// A histogram of microseconds cut at bounds given in seconds. The sum is that
/// of the recorded values at the histogram's own resolution.
fn cut(histogram: &Histogram<u64>, bounds: &[f64]) -> Buckets {
    let mut counts: Vec<(f64, u64)> = bounds.iter().map(|bound| (*bound, 0)).collect();
    counts.push((f64::INFINITY, 0));
    let mut sum = 0.0;
    for step in histogram.iter_recorded() {
        let seconds = step.value_iterated_to() as f64 / 1e6;
        let count = step.count_at_value();
        sum += seconds * count as f64;
        if let Some(bucket) = counts.iter_mut().find(|(bound, _)| seconds <= *bound) {
            bucket.1 += count;
        }
    }
    Buckets { counts, sum }
}
