//! How many sessions each application holds, over the last windows, and whether
//! that number grows steadily.
//!
//! The least of each bucket of time is kept: what comes back for a moment is not
//! held. Growth is steady when each sixth of a window is higher than the one
//! before: a step, a burst and a pool that fills up are not.

use std::collections::{BTreeMap, VecDeque};

use super::census::{Census, Held};
use crate::engine::stats::robust;
use crate::sample::UnixSeconds;

/// Buckets of the shortest window; the longest has twelve times as many.
const BUCKETS: usize = 12;

/// Windows, in shortest ones: with one of a minute the last is an hour.
pub const WINDOWS: [usize; 4] = [1, 5, 20, 60];

/// Applications followed.
const MAX_APPLICATIONS: usize = 10;

/// Parts of a window that are compared.
const PARTS: usize = 6;

/// Each part must bring this much of the growth: a steady one brings a fifth.
const LEAST_STEP: f64 = 0.08;

/// The last two steps must bring this much: it has not ended.
const LAST_STEPS: f64 = 0.25;

/// An application unseen for this long, in seconds, makes room.
const GONE: f64 = 600.0;

/// Unix time of the year 5138: beyond it no bucket has a number.
const LAST_TIME: f64 = 1e11;

/// The least of a bucket, and of what works the most.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    index: i64,
    held: Held,
}

#[derive(Debug, Clone, Default)]
struct Track {
    seen_at: UnixSeconds,
    buckets: VecDeque<Bucket>,
}

/// Which sessions are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    IdleInTransaction,
}

impl Which {
    pub fn of(self, held: &Held) -> f64 {
        match self {
            Self::All => held.all,
            Self::IdleInTransaction => held.idle_in_transaction,
        }
    }
}

/// A steady growth over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    pub from: UnixSeconds,
    pub to: UnixSeconds,
    /// Sessions in its first and last sixth.
    pub before: f64,
    pub now: f64,
    /// Sessions at work, the same.
    pub working_before: f64,
    pub working_now: f64,
    /// The most there were before it; `None` where nothing is known of that.
    pub most_before: Option<f64>,
}

impl Growth {
    pub fn sessions(&self) -> f64 {
        self.now - self.before
    }

    /// As a part of what there was.
    pub fn ratio(&self) -> f64 {
        self.sessions() / self.before.max(1.0)
    }
}

/// The applications of one target.
#[derive(Debug, Clone)]
pub struct Holdings {
    /// Seconds of a bucket.
    width: f64,
    tracks: BTreeMap<String, Track>,
    /// Number of the newest bucket.
    newest: i64,
}

impl Holdings {
    /// `window` is the shortest, in seconds.
    pub fn new(window: f64) -> Self {
        Self {
            width: (window / BUCKETS as f64).max(0.1),
            tracks: BTreeMap::new(),
            newest: 0,
        }
    }

    /// Takes in one look.
    pub fn take(&mut self, t: UnixSeconds, census: &Census) {
        if !(0.0..LAST_TIME).contains(&t) {
            return;
        }
        self.tracks.retain(|_, track| t - track.seen_at <= GONE);
        let mut others: Vec<(&String, &Held)> = census
            .applications
            .iter()
            .filter(|(name, _)| !self.tracks.contains_key(*name))
            .collect();
        others.sort_by(|a, b| b.1.all.total_cmp(&a.1.all));
        let room = MAX_APPLICATIONS.saturating_sub(self.tracks.len());
        for (name, _) in others.into_iter().take(room) {
            self.tracks.insert(name.clone(), Track::default());
        }
        let index = (t / self.width).floor() as i64;
        self.newest = index;
        for (name, track) in &mut self.tracks {
            match census.applications.get(name) {
                Some(held) => {
                    track.seen_at = t;
                    track.push(index, *held);
                }
                None => track.push(index, Held::default()),
            }
        }
    }

    /// Changes when another bucket is complete: growth is the same until then.
    pub fn newest(&self) -> i64 {
        self.newest
    }

    pub fn applications(&self) -> impl Iterator<Item = &String> {
        self.tracks.keys()
    }

    /// The growth over one of [`WINDOWS`], when it is steady.
    pub fn growth(&self, application: &str, which: Which, window: usize) -> Option<Growth> {
        let track = self.tracks.get(application)?;
        let count = BUCKETS * WINDOWS.get(window)?;
        // The newest bucket is not complete.
        let complete = track.buckets.len().checked_sub(1)?;
        let first = complete.checked_sub(count)?;
        // Most do not grow, and that is soon seen.
        if which.of(&track.buckets.get(complete.checked_sub(1)?)?.held)
            <= which.of(&track.buckets.get(first)?.held)
        {
            return None;
        }
        let buckets: Vec<&Bucket> = track.buckets.range(first..complete).collect();
        let (begin, end) = (buckets.first()?.index, buckets.last()?.index + 1);
        // With gaps it is longer than the window and tells of something else.
        if end - begin > count as i64 + count as i64 / 10 {
            return None;
        }
        let parts = |of: &dyn Fn(&Held) -> f64| -> Option<Vec<f64>> {
            let chunks = buckets.chunks(count / PARTS);
            chunks
                .map(|chunk| {
                    let mut values: Vec<f64> = chunk.iter().map(|b| of(&b.held)).collect();
                    robust::median(&mut values)
                })
                .collect()
        };
        let held = parts(&|held| which.of(held))?;
        let working = parts(&|held| held.working)?;
        let earlier = track.buckets.range(..first).map(|b| which.of(&b.held));
        let enough = first >= count / 2;
        is_steady(&held).then_some(Growth {
            from: begin as f64 * self.width,
            to: end as f64 * self.width,
            before: *held.first()?,
            now: *held.last()?,
            working_before: *working.first()?,
            working_now: *working.last()?,
            most_before: enough.then(|| earlier.fold(0.0, f64::max)),
        })
    }
}

impl Track {
    fn push(&mut self, index: i64, held: Held) {
        match self.buckets.back_mut() {
            Some(bucket) if bucket.index == index => {
                bucket.held.all = bucket.held.all.min(held.all);
                let least = bucket
                    .held
                    .idle_in_transaction
                    .min(held.idle_in_transaction);
                bucket.held.idle_in_transaction = least;
                bucket.held.working = bucket.held.working.max(held.working);
                return;
            }
            // The clock was set back, or not yet believed.
            Some(bucket) if bucket.index > index => {
                if bucket.index - index > BUCKETS as i64 {
                    self.buckets.clear();
                } else {
                    return;
                }
            }
            _ => {}
        }
        self.buckets.push_back(Bucket { index, held });
        let most = BUCKETS * WINDOWS[WINDOWS.len() - 1] + BUCKETS * WINDOWS[1];
        if self.buckets.len() > most {
            self.buckets.pop_front();
        }
    }
}

fn is_steady(parts: &[f64]) -> bool {
    let [first, .., last] = parts else {
        return false;
    };
    let total = last - first;
    let mut steps = parts.windows(2).map(|pair| pair[1] - pair[0]);
    let late: f64 = parts
        .len()
        .checked_sub(3)
        .and_then(|at| parts.get(at))
        .map_or(0.0, |before| last - before);
    total > 0.0 && steps.all(|step| step >= LEAST_STEP * total) && late >= LAST_STEPS * total
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first second at which an application's growth of a window is told.
    fn told(seconds: u32, window: usize, all: impl Fn(f64) -> f64) -> Option<(u32, Growth)> {
        let mut holdings = Holdings::new(60.0);
        (0..seconds).find_map(|t| {
            let mut census = Census::default();
            census.add("app", Some("idle"), all(f64::from(t)));
            holdings.take(1e6 + f64::from(t), &census);
            let growth = holdings.growth("app", Which::All, window)?;
            Some((t, growth))
        })
    }

    #[test]
    fn a_steady_growth_is_told_with_its_figures() {
        let (at, growth) = told(2_000, 1, |t| 50.0 + ((t - 600.0).max(0.0) / 5.0).floor()).unwrap();
        assert!((820..960).contains(&at), "{at}");
        assert!(
            growth.sessions() > 30.0 && growth.before < 60.0,
            "{growth:?}"
        );
        assert!(growth.most_before.unwrap() < 70.0);
    }

    #[test]
    fn a_slow_one_needs_the_long_window() {
        let slow = |t: f64| 50.0 + (t / 60.0).floor();
        let (at, growth) = told(4_000, 3, slow).unwrap();
        assert!((3_600..3_700).contains(&at), "{at}");
        assert!(growth.sessions() > 40.0);
    }

    #[test]
    fn a_step_a_burst_and_noise_are_not_steady() {
        let step = |t: f64| if t < 700.0 { 50.0 } else { 120.0 };
        let burst = |t: f64| {
            if (700.0..730.0).contains(&t) {
                300.0
            } else {
                50.0
            }
        };
        let wave = |t: f64| 50.0 + (10.0 * (t / 6.0).sin()).round();
        let fills = |t: f64| 50.0 + 80.0 * (1.0 - (-(t - 600.0).max(0.0) / 12.0).exp()).round();
        for window in 0..3 {
            assert_eq!(told(5_000, window, step), None, "{window}");
            assert_eq!(told(5_000, window, burst), None, "{window}");
            assert_eq!(told(5_000, window, wave), None, "{window}");
            assert_eq!(told(5_000, window, fills), None, "{window}");
        }
    }

    #[test]
    fn memory_is_bounded_and_a_gap_is_no_window() {
        let mut holdings = Holdings::new(60.0);
        for t in 0..20_000u32 {
            let mut census = Census::default();
            census.add(&format!("app-{}", t % 40), Some("idle"), 1.0);
            holdings.take(f64::from(t), &census);
        }
        assert!(holdings.tracks.len() <= MAX_APPLICATIONS);
        assert!(
            holdings
                .tracks
                .values()
                .all(|track| track.buckets.len() <= 800)
        );
        assert_eq!(
            told(3_000, 0, |t| if t % 60.0 < 30.0 { t } else { f64::NAN }),
            None
        );
        let mut gaps = Holdings::new(60.0);
        for t in (0..100).map(|n| f64::from(n) * 8.0) {
            let mut census = Census::default();
            census.add("app", Some("idle"), t);
            gaps.take(t, &census);
            assert_eq!(gaps.growth("app", Which::All, 0), None);
        }
        gaps.take(f64::NAN, &Census::default());
        gaps.take(1e300, &Census::default());
    }
}
