//! When to look next: how a dear look stretches the interval, and how long to
//! wait after a failure.
//!
//! Both are pure: durations and chance are parameters.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sample::FailureReason;

/// Share of the wall clock that looking may take.
const MAX_SHARE: f64 = 0.02;

/// Looks over which the governor takes the median: of the last few, so that a
/// stretch ends soon, and of the last minutes, so that it does not begin in the
/// very incident that makes the server slow to answer.
const LAST_FEW: usize = 9;
const LAST_MINUTES: usize = 240;

/// How far the governor may stretch an interval. A watcher that looks less than
/// every ten intervals is of no use in the incident that slowed the server.
const MAX_STRETCH: u32 = 10;

/// Keeps the cost of looking under its share of the wall clock by stretching
/// the interval. Judges by the smaller of two medians, so that neither one slow
/// look (a reconnect, a busy moment) nor a few slow minutes change anything.
#[derive(Debug, Clone)]
pub struct Governor {
    base: Duration,
    recent: VecDeque<Duration>,
}

impl Governor {
    pub fn new(base: Duration) -> Self {
        Self {
            base,
            recent: VecDeque::with_capacity(LAST_MINUTES),
        }
    }

    /// Takes the duration of a look that succeeded; returns the interval now in
    /// force.
    pub fn observe(&mut self, took: Duration) -> Duration {
        if self.recent.len() == LAST_MINUTES {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        self.interval()
    }

    /// The configured interval, or as much longer as the share demands.
    pub fn interval(&self) -> Duration {
        // A median of fewer looks is not yet a median.
        if self.recent.len() < LAST_FEW {
            return self.base;
        }
        self.median(LAST_FEW)
            .min(self.median(LAST_MINUTES))
            .div_f64(MAX_SHARE)
            .clamp(self.base, self.base * MAX_STRETCH)
    }

    /// Of so many looks at most, the newest.
    fn median(&self, looks: usize) -> Duration {
        let mut newest: Vec<Duration> = self.recent.iter().rev().take(looks).copied().collect();
        newest.sort_unstable();
        newest.get(newest.len() / 2).copied().unwrap_or_default()
    }
}

/// The pause after a failure: short at first, then doubling from the interval.
///
/// A server that is back must be seen within 5 s, so the pause stays under
/// that: 4 s where a failure is quick, 2 s where the failed look itself may
/// have taken seconds. Only what a person must mend (a password, a
/// certificate, a grant) is tried less often, as each try is a line in the
/// server's log and may lock an account.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    failures: u32,
}

impl Backoff {
    /// The first retry: a persistent session that was ended is often welcome
    /// again at once.
    const FIRST: Duration = Duration::from_millis(250);

    pub fn new(base: Duration) -> Self {
        Self { base, failures: 0 }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure. `chance` is uniform in 0..1 and takes
    /// up to a quarter off, so that many watchers do not return in step.
    pub fn next(&mut self, reason: FailureReason, chance: f64) -> Duration {
        let pause = match self.failures {
            0 => Self::FIRST.min(self.base),
            n => self
                .base
                .saturating_mul(1 << (n - 1).min(16))
                .min(Self::cap(reason)),
        };
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(1.0 - 0.25 * chance.clamp(0.0, 1.0))
    }

    fn cap(reason: FailureReason) -> Duration {
        match reason {
            FailureReason::Auth | FailureReason::Tls | FailureReason::Permission => {
                Duration::from_secs(15)
            }
            FailureReason::Timeout => Duration::from_secs(2),
            FailureReason::Refused
            | FailureReason::TooManyConnections
            | FailureReason::Protocol
            | FailureReason::Other => Duration::from_secs(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settled(base: Duration, took: Duration) -> Governor {
        let mut governor = Governor::new(base);
        for _ in 0..LAST_FEW {
            governor.observe(took);
        }
        governor
    }

    #[test]
    fn cheap_looks_keep_the_interval() {
        let governor = settled(SECOND, Duration::from_millis(20));
        assert_eq!(governor.interval(), SECOND);
    }

    #[test]
    fn dear_looks_stretch_the_interval_to_two_percent_and_it_relaxes_again() {
        let mut governor = settled(SECOND, Duration::from_millis(50));
        assert_eq!(governor.interval(), Duration::from_millis(2500));
        for _ in 0..LAST_FEW {
            governor.observe(Duration::from_millis(5));
        }
        assert_eq!(governor.interval(), SECOND);
    }

    #[test]
    fn a_server_that_gets_slow_is_watched_as_closely_for_minutes() {
        let mut governor = Governor::new(SECOND);
        for _ in 0..LAST_MINUTES {
            governor.observe(Duration::from_millis(5));
        }
        for _ in 0..LAST_MINUTES / 2 - 1 {
            assert_eq!(governor.observe(Duration::from_millis(300)), SECOND);
        }
        for _ in 0..LAST_FEW {
            governor.observe(Duration::from_millis(300));
        }
        assert_eq!(governor.interval(), 10 * SECOND);
    }

    #[test]
    fn a_single_slow_look_changes_nothing_and_the_stretch_is_bounded() {
        let mut governor = settled(SECOND, Duration::from_millis(5));
        assert_eq!(governor.observe(2 * SECOND), SECOND);
        assert_eq!(settled(SECOND, 2 * SECOND).interval(), 10 * SECOND);
    }

    #[test]
    fn the_pause_after_a_refusal_never_reaches_five_seconds() {
        let mut backoff = Backoff::new(SECOND);
        let pauses: Vec<f64> = (0..6)
            .map(|_| backoff.next(FailureReason::Refused, 0.0).as_secs_f64())
            .collect();
        assert_eq!(pauses, [0.25, 1.0, 2.0, 4.0, 4.0, 4.0]);
        backoff.reset();
        let first = backoff.next(FailureReason::Refused, 1.0).as_secs_f64();
        assert!((first - 0.1875).abs() < 1e-9);
    }

    #[test]
    fn what_a_person_must_mend_is_tried_less_often() {
        let mut backoff = Backoff::new(SECOND);
        let last = (0..10)
            .map(|_| backoff.next(FailureReason::Auth, 0.0))
            .last();
        assert_eq!(last, Some(Duration::from_secs(15)));
        let mut backoff = Backoff::new(Duration::from_secs(30));
        backoff.next(FailureReason::Refused, 0.0);
        assert_eq!(backoff.next(FailureReason::Refused, 0.0), 4 * SECOND);
    }
}
