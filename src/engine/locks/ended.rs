//! How long waits for locks took, of those that a look has seen and a later one
//! no longer sees.
//!
//! A wait is the same wait while (pid, backend start, `waitstart`) stay. When it
//! ended is only known to lie between two looks, so half the time between them
//! is added to what it had lasted at the last look that saw it. A wait that is
//! shorter than the time between two looks is seen by chance: docs/metrics.md
//! says what may be concluded.

use std::collections::{BTreeMap, HashMap, HashSet};

use hdrhistogram::Histogram;

use super::view::WaitTimes;
use crate::sample::{Lock, PostgresReport, UnixSeconds};

/// Upper bounds of the buckets that are told, in seconds: below the shortest
/// sensible interval nothing is seen; `deadlock_timeout` is one second; beyond an
/// hour nobody asks for more.
const BOUNDS: [f64; 13] = [
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
    3600.0,
    f64::INFINITY,
];
/// In milliseconds: a week. Longer ones are taken for a week.
const LONGEST: u64 = 7 * 24 * 3_600 * 1_000;
/// Digits kept of a wait: one percent.
const DIGITS: u8 = 2;
/// Waits followed; a look shows no more rows than this.
const MAX_FOLLOWED: usize = 10_000;
/// Lock types told apart. PostgreSQL has a dozen; a capture could bring more.
const MAX_TYPES: usize = 20;
/// Looks further apart than this do not say when a wait ended.
const MAX_GAP: f64 = 15.0;

/// Follows the waits of one target.
#[derive(Debug, Default)]
pub struct EndedWaits {
    waiting: HashMap<Identity, Waiting>,
    ended: BTreeMap<String, Ended>,
    /// The server's clock at the newest look.
    at: Option<UnixSeconds>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    pid: i32,
    /// Bits of the time stamps: equality is all that is asked of them.
    backend_start: u64,
    waitstart: u64,
}

#[derive(Debug)]
struct Waiting {
    locktype: String,
    since: UnixSeconds,
}

#[derive(Debug)]
struct Ended {
    /// Milliseconds.
    waits: Histogram<u64>,
    /// Seconds.
    sum: f64,
}

impl EndedWaits {
    /// Takes in a look; `clock` is the server's.
    pub fn observe(&mut self, report: &PostgresReport, clock: UnixSeconds) {
        let waits = report.locks.iter().any(|lock| !lock.granted);
        let starts: HashMap<i32, UnixSeconds> = report
            .backends
            .iter()
            .filter(|_| waits)
            .filter_map(|backend| Some((backend.pid, backend.backend_start?)))
            .collect();
        let before = self.at.replace(clock);
        let gap = before.map_or(0.0, |before| clock - before);
        let mut seen = HashSet::new();
        let mut new = Vec::new();
        for lock in report.locks.iter().filter(|lock| !lock.granted) {
            let Some((identity, since)) = identify(lock, &starts) else {
                continue;
            };
            if seen.insert(identity) && !self.waiting.contains_key(&identity) {
                new.push((identity, lock.locktype.clone(), since));
            }
        }
        if !(0.0..=MAX_GAP).contains(&gap) {
            self.waiting.clear();
        } else if report.locks_truncated {
            // Nobody sees which of these go on, nor when they end.
            self.waiting.retain(|identity, _| seen.contains(identity));
        } else {
            self.end(&seen, clock - gap / 2.0);
        }
        let room = MAX_FOLLOWED.saturating_sub(self.waiting.len());
        for (identity, locktype, since) in new.into_iter().take(room) {
            self.waiting.insert(identity, Waiting { locktype, since });
        }
    }

    fn end(&mut self, seen: &HashSet<Identity>, ended_at: UnixSeconds) {
        let ended = &mut self.ended;
        self.waiting.retain(|identity, wait| {
            let goes_on = seen.contains(identity);
            if !goes_on {
                count(ended, &wait.locktype, (ended_at - wait.since).max(0.0));
            }
            goes_on
        });
    }

    /// The ended waits by lock type.
    pub fn views(&self) -> Vec<WaitTimes> {
        let view = |(locktype, ended): (&String, &Ended)| WaitTimes {
            locktype: locktype.clone(),
            counts: ended.buckets(),
            sum_seconds: ended.sum,
        };
        self.ended.iter().map(view).collect()
    }
}

impl Ended {
    fn buckets(&self) -> Vec<(f64, u64)> {
        // Values that the histogram cannot tell apart belong to one bucket: a
        // difference of sums counts each once.
        let mut below = 0;
        BOUNDS
            .iter()
            .map(|bound| {
                let up_to = self.waits.count_between(0, milliseconds(*bound));
                let count = up_to - below;
                below = up_to;
                (*bound, count)
            })
            .collect()
    }
}

fn identify(lock: &Lock, starts: &HashMap<i32, UnixSeconds>) -> Option<(Identity, UnixSeconds)> {
    let (pid, since) = (lock.pid?, lock.waitstart?);
    let identity = Identity {
        pid,
        backend_start: starts.get(&pid)?.to_bits(),
        waitstart: since.to_bits(),
    };
    Some((identity, since))
}

fn count(ended: &mut BTreeMap<String, Ended>, locktype: &str, seconds: f64) {
    if !ended.contains_key(locktype) {
        if ended.len() >= MAX_TYPES {
            return;
        }
        let Ok(waits) = Histogram::new_with_bounds(1, LONGEST, DIGITS) else {
            return;
        };
        ended.insert(locktype.to_owned(), Ended { waits, sum: 0.0 });
    }
    if let Some(of_type) = ended.get_mut(locktype) {
        of_type.waits.saturating_record(milliseconds(seconds));
        of_type.sum += seconds;
    }
}

fn milliseconds(seconds: f64) -> u64 {
    // Within the range of the integer, and never NaN: a cast saturates.
    ((seconds * 1_000.0) as u64).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Backend;

    fn look(waiters: &[(i32, f64, f64)]) -> PostgresReport {
        PostgresReport {
            backends: waiters
                .iter()
                .map(|(pid, start, _)| Backend {
                    pid: *pid,
                    backend_start: Some(*start),
                    ..Backend::default()
                })
                .collect(),
            locks: waiters
                .iter()
                .map(|(pid, _, since)| Lock {
                    pid: Some(*pid),
                    locktype: "transactionid".into(),
                    waitstart: Some(*since),
                    ..Lock::default()
                })
                .collect(),
            ..PostgresReport::default()
        }
    }

    fn told(waits: &EndedWaits) -> (u64, f64) {
        let views = waits.views();
        let count = views.iter().flat_map(|view| &view.counts).map(|(_, n)| n);
        (count.sum(), views.iter().map(|view| view.sum_seconds).sum())
    }

    #[test]
    fn a_wait_ends_half_way_between_two_looks() {
        let mut waits = EndedWaits::default();
        waits.observe(&look(&[(1, 5.0, 100.0)]), 101.0);
        waits.observe(&look(&[(1, 5.0, 100.0)]), 102.0);
        assert_eq!(told(&waits), (0, 0.0), "it goes on");
        waits.observe(&look(&[]), 103.0);
        assert_eq!(told(&waits), (1, 2.5));
        let view = &waits.views()[0];
        let bucket = view.counts.iter().find(|(_, n)| *n == 1);
        assert_eq!(bucket.map(|(bound, _)| *bound), Some(2.5));
        waits.observe(&look(&[]), 104.0);
        assert_eq!(told(&waits), (1, 2.5), "it is counted once");
    }

    #[test]
    fn another_wait_of_the_same_session_is_another() {
        let mut waits = EndedWaits::default();
        waits.observe(&look(&[(1, 5.0, 100.0)]), 100.5);
        waits.observe(&look(&[(1, 5.0, 101.0)]), 101.5);
        assert_eq!(told(&waits), (1, 1.0));
        // The pid came back.
        waits.observe(&look(&[(1, 6.0, 101.0)]), 102.5);
        assert_eq!(told(&waits).0, 2);
    }

    #[test]
    fn a_look_that_was_cut_or_is_far_away_ends_nothing() {
        let mut waits = EndedWaits::default();
        waits.observe(&look(&[(1, 5.0, 100.0)]), 101.0);
        let cut = PostgresReport {
            truncated: true,
            locks_truncated: true,
            ..look(&[])
        };
        waits.observe(&cut, 102.0);
        waits.observe(&look(&[]), 103.0);
        assert_eq!(told(&waits).0, 0, "it ended while nobody could see it");
        waits.observe(&look(&[(2, 5.0, 100.0)]), 104.0);
        waits.observe(&look(&[]), 200.0);
        waits.observe(&look(&[]), 201.0);
        assert_eq!(told(&waits).0, 0, "nobody saw when it ended");
    }

    #[test]
    fn a_look_that_lacks_other_rows_ends_a_wait() {
        let mut waits = EndedWaits::default();
        waits.observe(&look(&[(1, 5.0, 100.0)]), 101.0);
        let callers_cut = PostgresReport {
            truncated: true,
            ..look(&[])
        };
        waits.observe(&callers_cut, 102.0);
        assert_eq!(told(&waits), (1, 1.5));
    }

    #[test]
    fn a_wait_without_its_start_or_its_session_is_left_out() {
        let mut waits = EndedWaits::default();
        let mut report = look(&[(1, 5.0, 100.0), (2, 5.0, 100.0)]);
        report.locks[0].waitstart = None;
        report.backends.remove(1);
        waits.observe(&report, 101.0);
        waits.observe(&look(&[]), 102.0);
        assert_eq!(told(&waits).0, 0);
    }

    #[test]
    fn every_wait_is_in_a_bucket() {
        let mut waits = EndedWaits::default();
        let lengths = [0.0, 0.05, 0.1, 0.9, 59.0, 4_000.0, 1e9];
        for (pid, length) in (1..).zip(lengths) {
            let at = 1e10 + f64::from(pid) * 10.0;
            waits.observe(&look(&[(pid, 5.0, at - length)]), at);
            waits.observe(&look(&[]), at);
        }
        assert_eq!(told(&waits).0, lengths.len() as u64);
    }
}
