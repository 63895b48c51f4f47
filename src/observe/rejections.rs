//! What came in from outside and was refused: counted by source and reason,
//! and logged, so that the two never disagree.
//!
//! Bounded: sources and reasons are fixed words of the program. The first
//! refusal for a reason is logged, then one line in ten minutes with the count
//! since, however many there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::traffic::Tally;
use crate::sample::UnixSeconds;

/// Seconds between two log lines on the same source and reason.
const LOG_EVERY: f64 = 600.0;

/// The registry. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Rejections(Arc<Mutex<BTreeMap<(&'static str, &'static str), Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    count: u64,
    logged_at: Option<UnixSeconds>,
    logged_count: u64,
}

impl Rejections {
    /// Counts everything in a tally. `source` is the label: `otlp` or `scrape`;
    /// `about` says whose points they were, for the log only.
    pub fn add(&self, at: UnixSeconds, source: &'static str, about: &str, tally: &Tally) {
        for (reason, count) in tally.iter() {
            self.reject(at, source, about, reason, count);
        }
    }

    /// Counts refusals for one reason.
    pub fn reject(
        &self,
        at: UnixSeconds,
        source: &'static str,
        about: &str,
        reason: &'static str,
        count: u64,
    ) {
        if count == 0 {
            return;
        }
        let since = {
            let mut entries = self.lock();
            let entry = entries.entry((source, reason)).or_default();
            entry.count = entry.count.saturating_add(count);
            entry.due(at)
        };
        if let Some(count) = since {
            // The name comes from outside: it must not break the line.
            let about: String = about
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect();
            tracing::warn!(source, about, reason, count, "points refused");
        }
    }

    /// (source, reason) and the count, in order.
    pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.lock()
            .iter()
            .map(|(&(source, reason), entry)| (source, reason, entry.count))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), Entry>> {
        // A panic elsewhere leaves counters, which are valid at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// What to log: the count since the last line.
    fn due(&mut self, at: UnixSeconds) -> Option<u64> {
        if self
            .logged_at
            .is_some_and(|last| (at - last).abs() < LOG_EVERY)
        {
            return None;
        }
        let since = self.count - self.logged_count;
        self.logged_at = Some(at);
        self.logged_count = self.count;
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_and_few_are_logged() {
        let rejections = Rejections::default();
        let mut tally = Tally::default();
        tally.add("bad_value", 3);
        tally.add("bad_time", 1);
        rejections.add(1.0, "otlp", "registry", &tally);
        rejections
            .clone()
            .reject(2.0, "otlp", "registry", "bad_value", 2);
        rejections.reject(2.0, "scrape", "registry", "bad_value", 0);
        assert_eq!(
            rejections.snapshot(),
            [("otlp", "bad_time", 1), ("otlp", "bad_value", 5)]
        );
        let mut entry = Entry {
            count: 5,
            ..Entry::default()
        };
        assert_eq!(entry.due(1.0), Some(5));
        entry.count = 9;
        assert_eq!(entry.due(600.0), None);
        assert_eq!(entry.due(601.0), Some(4));
    }
}
