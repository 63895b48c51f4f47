//! From counters that only grow to what happened in between.
//!
//! A counter is read now and then; what matters is the difference. Three things
//! make that more than a subtraction. The process behind it starts again: the
//! counter is smaller, or its start time is newer, and then all of it is new.
//! A series is seen for the first time: how much of it is news depends on when
//! it began, and without a word about that none of it is. And there can be more
//! series than memory: those unseen the longest are forgotten, but never one
//! that still comes, so that a flood of new names cannot wash out the old ones.
//!
//! Invariants: an increase is never negative and covers a span that ends at the
//! point's own time; a point that is refused changes nothing; time is a
//! parameter; every refusal is counted.

use std::collections::HashMap;
use std::hash::Hash;

use super::{BAD_TIME, BAD_VALUE, OUT_OF_ORDER, TOO_MANY_SERIES, Tally};
use crate::sample::UnixSeconds;

/// A series unseen for this long, in seconds, may be forgotten for a new one.
/// Longer than the longest usual export interval, a minute, times two.
const IDLE: f64 = 150.0;

/// Part of the series forgotten at a time, so that looking for the oldest is
/// rare.
const FORGET: usize = 10;

/// Seconds between two attempts to make room.
const SWEEP_EVERY: f64 = 10.0;

/// A start time moved by less is the same start: some emitters work it out from
/// an uptime at each export.
const SAME_START: f64 = 1.0;

/// Most buckets of one histogram; OTLP's exponential ones have 160 a side.
pub const MAX_BUCKETS: usize = 400;

/// One reading of a cumulative series.
#[derive(Debug, Clone, Copy)]
pub struct Cumulative<'a> {
    /// When it was read; the increase is up to here.
    pub at: UnixSeconds,
    /// Since when it counts, where the emitter says so.
    pub started_at: Option<UnixSeconds>,
    /// A time at which the series was looked for and was not there, in the same
    /// process: what it has now came since.
    pub absent_at: Option<UnixSeconds>,
    pub count: f64,
    pub sum: f64,
    /// Observations of each bucket alone, in the same order each time.
    pub buckets: &'a [f64],
}

/// What was added in the span from `since` to `until`.
#[derive(Debug, Clone, PartialEq)]
pub struct Increase {
    pub since: UnixSeconds,
    pub until: UnixSeconds,
    pub count: f64,
    pub sum: f64,
    /// Empty when the reading had none, or when its buckets have changed.
    pub buckets: Vec<f64>,
}

#[derive(Debug, Clone)]
struct State {
    at: UnixSeconds,
    started_at: Option<UnixSeconds>,
    count: f64,
    sum: f64,
    buckets: Box<[f64]>,
}

/// The last reading of each series, by a key of the caller's choice that tells
/// instances apart.
#[derive(Debug, Clone)]
pub struct Deltas<K> {
    series: HashMap<K, State>,
    limit: usize,
    swept_at: UnixSeconds,
    /// The newest reading; a sweep measures idleness from it.
    newest: UnixSeconds,
    /// When there was no room for a series, or one was forgotten, for the last
    /// time: what was not known then may have been there.
    short_at: UnixSeconds,
    refused: Tally,
    forgotten: u64,
}

impl<K: Hash + Eq + Clone> Deltas<K> {
    /// Keeps at most `limit` series.
    pub fn new(limit: usize) -> Self {
        Self {
            series: HashMap::new(),
            limit,
            swept_at: f64::NEG_INFINITY,
            newest: f64::NEG_INFINITY,
            short_at: f64::NEG_INFINITY,
            refused: Tally::default(),
            forgotten: 0,
        }
    }

    /// Takes in a reading. `None` when it tells of no span: it is the first and
    /// nobody knows since when it counts, it is the same as before, or it is
    /// refused.
    pub fn push(&mut self, key: K, reading: &Cumulative<'_>) -> Option<Increase> {
        if !is_time(reading.at) {
            self.refused.add(BAD_TIME, 1);
            return None;
        }
        if !is_amount(reading) {
            self.refused.add(BAD_VALUE, 1);
            return None;
        }
        self.newest = self.newest.max(reading.at);
        let Some(state) = self.series.get_mut(&key) else {
            return self.first(key, reading);
        };
        if reading.at < state.at {
            self.refused.add(OUT_OF_ORDER, 1);
            return None;
        }
        let increase = state.advance(reading);
        (increase.until > increase.since).then_some(increase)
    }

    fn first(&mut self, key: K, reading: &Cumulative<'_>) -> Option<Increase> {
        if self.series.len() >= self.limit {
            self.sweep();
        }
        if self.series.len() >= self.limit {
            self.refused.add(TOO_MANY_SERIES, 1);
            self.short_at = self.newest;
            return None;
        }
        self.series.insert(key, State::of(reading));
        let absent_at = reading.absent_at;
        let absent_at = absent_at.filter(|&t| t < reading.at && t > self.short_at);
        let started_at = reading.started_at.filter(|&t| is_time(t) && t < reading.at);
        // Without a word of when it was absent, a start long ago would smear a
        // day over this moment: then this is the baseline.
        let since = match (absent_at, started_at) {
            (Some(absent), Some(started)) => absent.max(started),
            (Some(since), None) => since,
            (None, Some(started)) if reading.at - started <= IDLE => started,
            _ => return None,
        };
        Some(Increase {
            since,
            until: reading.at,
            count: reading.count,
            sum: reading.sum,
            buckets: reading.buckets.to_vec(),
        })
    }

    /// Forgets the series unseen the longest, if they are idle.
    fn sweep(&mut self) {
        if self.newest - self.swept_at < SWEEP_EVERY {
            return;
        }
        self.swept_at = self.newest;
        let edge = self.newest - IDLE;
        let mut idle: Vec<UnixSeconds> = self
            .series
            .values()
            .map(|state| state.at)
            .filter(|&at| at < edge)
            .collect();
        if idle.is_empty() {
            return;
        }
        let wanted = (self.limit / FORGET).max(1).min(idle.len());
        let (_, &mut oldest_kept, _) = idle.select_nth_unstable_by(wanted - 1, f64::total_cmp);
        let before = self.series.len();
        self.series.retain(|_, state| state.at > oldest_kept);
        self.forgotten += (before - self.series.len()) as u64;
        self.short_at = self.newest;
    }

    /// Forgets the series for which `keep` says no, for example those of an
    /// instance that is gone.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.series.retain(|key, _| keep(key));
    }

    pub fn contains(&self, key: &K) -> bool {
        self.series.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Series forgotten so far to make room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What was refused since the last call.
    pub fn take_refused(&mut self) -> Tally {
        self.refused.take()
    }
}

impl State {
    fn of(reading: &Cumulative<'_>) -> Self {
        Self {
            at: reading.at,
            started_at: reading.started_at,
            count: reading.count,
            sum: reading.sum,
            buckets: reading.buckets.into(),
        }
    }

    /// The way from here to the reading, which becomes the new state.
    fn advance(&mut self, reading: &Cumulative<'_>) -> Increase {
        let restarted = match (self.started_at, reading.started_at) {
            (Some(old), Some(new)) if new > old + SAME_START => Some(new),
            _ => None,
        };
        let shrunk = reading.count < self.count || reading.sum < self.sum - slack(self.sum);
        let same_buckets = self.buckets.len() == reading.buckets.len();
        let increase = if restarted.is_some() || shrunk {
            Increase {
                since: self.at.max(restarted.unwrap_or(self.at)).min(reading.at),
                until: reading.at,
                count: reading.count,
                sum: reading.sum,
                buckets: reading.buckets.to_vec(),
            }
        } else {
            Increase {
                since: self.at,
                until: reading.at,
                count: reading.count - self.count,
                sum: (reading.sum - self.sum).max(0.0),
                buckets: if same_buckets {
                    let pairs = reading.buckets.iter().zip(&self.buckets);
                    pairs.map(|(new, old)| (new - old).max(0.0)).collect()
                } else {
                    Vec::new()
                },
            }
        };
        self.at = reading.at;
        self.started_at = reading.started_at;
        self.count = reading.count;
        self.sum = reading.sum;
        if same_buckets {
            self.buckets.copy_from_slice(reading.buckets);
        } else {
            self.buckets = reading.buckets.into();
        }
        increase
    }
}

/// Sums are floats added up in any order: the last digits may wobble.
fn slack(sum: f64) -> f64 {
    sum.abs() * 1e-9
}

fn is_time(t: UnixSeconds) -> bool {
    t.is_finite() && t > 0.0
}

fn is_amount(reading: &Cumulative<'_>) -> bool {
    let good = |value: f64| value.is_finite() && value >= 0.0;
    good(reading.count)
        && good(reading.sum)
        && reading.buckets.len() <= MAX_BUCKETS
        && reading.buckets.iter().all(|&count| good(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(at: f64, count: f64, sum: f64) -> Cumulative<'static> {
        Cumulative {
            at,
            started_at: None,
            absent_at: None,
            count,
            sum,
            buckets: &[],
        }
    }

    #[test]
    fn the_first_reading_is_the_baseline_and_the_second_a_difference() {
        let mut deltas = Deltas::new(10);
        assert_eq!(deltas.push("a", &reading(100.0, 50.0, 5.0)), None);
        let increase = deltas.push("a", &reading(105.0, 53.0, 5.5)).unwrap();
        assert_eq!((increase.since, increase.until), (100.0, 105.0));
        assert_eq!((increase.count, increase.sum), (3.0, 0.5));
        assert_eq!(deltas.push("a", &reading(105.0, 53.0, 5.5)), None);
    }

    #[test]
    fn a_reset_makes_all_of_it_new() {
        let mut deltas = Deltas::new(10);
        deltas.push("a", &reading(100.0, 50.0, 5.0));
        let increase = deltas.push("a", &reading(110.0, 4.0, 0.4)).unwrap();
        assert_eq!((increase.since, increase.count), (100.0, 4.0));

        // The counter has overtaken its old value, but its start is newer.
        let restarted = Cumulative {
            started_at: Some(112.0),
            ..reading(120.0, 60.0, 6.0)
        };
        deltas.push(
            "b",
            &Cumulative {
                started_at: Some(10.0),
                ..reading(110.0, 50.0, 5.0)
            },
        );
        let increase = deltas.push("b", &restarted).unwrap();
        assert_eq!(
            (increase.since, increase.until, increase.count),
            (112.0, 120.0, 60.0)
        );
    }

    #[test]
    fn a_new_series_counts_from_when_it_was_known_to_be_absent() {
        let mut deltas = Deltas::new(10);
        let new = Cumulative {
            absent_at: Some(95.0),
            ..reading(100.0, 3.0, 30.0)
        };
        let increase = deltas.push("a", &new).unwrap();
        assert_eq!((increase.since, increase.count), (95.0, 3.0));
        // Or since its own start, if that is recent.
        let started = |at: f64| Cumulative {
            started_at: Some(at),
            ..reading(100.0, 3.0, 30.0)
        };
        assert_eq!(deltas.push("b", &started(90.0)).unwrap().since, 90.0);
        assert_eq!(deltas.push("c", &started(100.0 - 86_400.0)), None);
        assert_eq!(deltas.push("d", &started(f64::NAN)), None);
        assert_eq!(deltas.push("e", &started(200.0)), None, "a start to come");
    }

    #[test]
    fn what_found_no_room_is_no_news_when_it_does() {
        let mut deltas = Deltas::new(1);
        let absent = |at: f64, count: f64, absent: f64| Cumulative {
            absent_at: Some(absent),
            ..reading(at, count, 1.0)
        };
        deltas.push("gone", &reading(10.0, 1.0, 1.0));
        assert_eq!(deltas.push("old", &absent(100.0, 50_000.0, 95.0)), None);
        assert_eq!(deltas.take_refused().of(TOO_MANY_SERIES), 1);
        // There is room now, but it was there the time before.
        assert_eq!(deltas.push("old", &absent(300.0, 50_007.0, 100.0)), None);
        let increase = deltas.push("old", &absent(305.0, 50_009.0, 300.0)).unwrap();
        assert_eq!(increase.count, 2.0);
        // One that was forgotten for want of room is no news either.
        assert!(deltas.push("new", &absent(500.0, 1.0, 499.0)).is_none());
        assert_eq!(deltas.push("old", &absent(900.0, 60_000.0, 500.0)), None);
    }

    #[test]
    fn instances_are_kept_apart() {
        let mut deltas = Deltas::new(10);
        for (at, one, two) in [(1.0, 100.0, 5.0), (2.0, 101.0, 7.0), (3.0, 102.0, 9.0)] {
            let first = deltas.push(("one", "/a"), &reading(at, one, 0.0));
            let second = deltas.push(("two", "/a"), &reading(at, two, 0.0));
            if at > 1.0 {
                assert_eq!(first.unwrap().count, 1.0);
                assert_eq!(second.unwrap().count, 2.0);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut deltas = Deltas::new(10);
        deltas.push("a", &reading(100.0, 5.0, 5.0));
        for bad in [
            reading(101.0, f64::NAN, 1.0),
            reading(101.0, 6.0, f64::INFINITY),
            reading(101.0, -1.0, 1.0),
            reading(f64::NAN, 6.0, 6.0),
            reading(-5.0, 6.0, 6.0),
            reading(99.0, 4.0, 4.0),
            Cumulative {
                buckets: &[f64::NAN],
                ..reading(101.0, 6.0, 6.0)
            },
            Cumulative {
                buckets: &[0.0; MAX_BUCKETS + 1],
                ..reading(101.0, 6.0, 6.0)
            },
        ] {
            assert_eq!(deltas.push("a", &bad), None, "{bad:?}");
        }
        let refused = deltas.take_refused();
        assert_eq!(refused.of(BAD_VALUE), 5);
        assert_eq!(refused.of(BAD_TIME), 2);
        assert_eq!(refused.of(OUT_OF_ORDER), 1);
        assert_eq!(
            deltas.push("a", &reading(101.0, 6.0, 6.0)).unwrap().count,
            1.0
        );
    }

    #[test]
    fn buckets_that_change_their_number_are_left_out_once() {
        let mut deltas = Deltas::new(10);
        let with = |at: f64, count: f64, buckets: &'static [f64]| Cumulative {
            buckets,
            ..reading(at, count, count)
        };
        deltas.push("a", &with(1.0, 3.0, &[1.0, 2.0]));
        assert_eq!(
            deltas
                .push("a", &with(2.0, 5.0, &[2.0, 3.0]))
                .unwrap()
                .buckets,
            [1.0, 1.0]
        );
        let changed = deltas.push("a", &with(3.0, 6.0, &[2.0, 3.0, 1.0])).unwrap();
        assert_eq!((changed.count, changed.buckets.len()), (1.0, 0));
        assert_eq!(
            deltas
                .push("a", &with(4.0, 7.0, &[2.0, 3.0, 2.0]))
                .unwrap()
                .buckets,
            [0.0, 0.0, 1.0]
        );
    }

    #[test]
    fn a_flood_of_names_cannot_wash_out_those_that_still_come() {
        let mut deltas = Deltas::new(100);
        for second in 0..600u32 {
            let at = 1.0 + f64::from(second);
            deltas.push(0, &reading(at, f64::from(second), 0.0));
            for i in 0..20 {
                deltas.push(1 + second * 20 + i, &reading(at, 1.0, 0.0));
            }
            assert!(deltas.len() <= 100);
            assert!(deltas.contains(&0));
        }
        assert!(deltas.take_refused().of(TOO_MANY_SERIES) > 10_000);
        assert!(deltas.forgotten() > 0, "idle ones made room");
    }

    proptest! {
        #[test]
        fn increases_add_up_to_the_counter(
            steps in prop::collection::vec((0.0..100.0f64, prop::bool::weighted(0.1)), 1..50),
        ) {
            let mut deltas = Deltas::new(2);
            let (mut counter, mut added, mut seen, mut at) = (0.0, 0.0, 0.0, 1.0);
            deltas.push((), &reading(at, 0.0, 0.0));
            for (step, reset) in steps {
                if reset {
                    counter = 0.0;
                }
                // After a reset the counter must be visibly smaller, or nobody can tell.
                let before = counter;
                counter += if reset { 0.0 } else { step };
                added += counter - before;
                at += 1.0;
                if let Some(increase) = deltas.push((), &reading(at, counter, 0.0)) {
                    prop_assert!(increase.count >= 0.0 && increase.until > increase.since);
                    seen += increase.count;
                }
            }
            prop_assert!((added - seen).abs() < 1e-6, "{} {}", added, seen);
        }
    }
}
