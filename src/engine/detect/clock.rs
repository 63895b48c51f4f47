//! Elapsed time of samples that come late, not at all, twice, or from the past.

use crate::sample::UnixSeconds;

/// Silence after which the baseline is too old to judge by, seconds.
pub const STALE_AFTER: f64 = 3600.0;

/// Samples from the past in a row after which the clock is believed to have
/// been set back.
pub const CLOCK_SET_BACK: u32 = 60;

/// Usual intervals that one sample may stand for: after a silence it must not
/// weigh as much as everything that was not seen.
const LONGEST: f64 = 3.0;

/// Elapsed time of samples that come late, not at all, or twice.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    last: Option<UnixSeconds>,
    /// The usual interval.
    usual: f64,
    /// Samples from the past in a row.
    behind: u32,
}

/// What the time of a sample means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Not newer than the last: to be ignored.
    Past,
    /// Seconds since the last sample that it may stand for.
    Elapsed(f64),
    /// The first sample, or the first after which nothing from before holds.
    Restart,
}

impl Clock {
    /// The time of the newest sample.
    pub fn last(&self) -> Option<UnixSeconds> {
        self.last
    }

    /// Takes in the time of the next sample; it must be finite.
    pub fn advance(&mut self, t: UnixSeconds) -> Step {
        let Some(last) = self.last else {
            self.last = Some(t);
            return Step::Restart;
        };
        if t <= last {
            self.behind += 1;
            if self.behind < CLOCK_SET_BACK {
                return Step::Past;
            }
            *self = Self {
                last: Some(t),
                ..Self::default()
            };
            return Step::Restart;
        }
        self.behind = 0;
        self.last = Some(t);
        let dt = t - last;
        if dt > STALE_AFTER {
            self.usual = 0.0;
            return Step::Restart;
        }
        if self.usual == 0.0 {
            self.usual = dt;
        }
        let believed = dt.min(LONGEST * self.usual);
        self.usual += 0.1 * (believed - self.usual);
        Step::Elapsed(believed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_counts_for_three_usual_intervals() {
        let mut clock = Clock::default();
        assert_eq!(clock.advance(100.0), Step::Restart);
        assert_eq!(clock.advance(102.0), Step::Elapsed(2.0));
        assert_eq!(clock.advance(104.0), Step::Elapsed(2.0));
        assert_eq!(clock.advance(404.0), Step::Elapsed(6.0));
    }

    #[test]
    fn a_slower_interval_becomes_usual() {
        let mut clock = Clock::default();
        clock.advance(0.0);
        clock.advance(1.0);
        let mut t = 1.0;
        for _ in 0..60 {
            t += 10.0;
            clock.advance(t);
        }
        assert_eq!(clock.advance(t + 10.0), Step::Elapsed(10.0));
    }

    #[test]
    fn an_hour_of_silence_starts_anew() {
        let mut clock = Clock::default();
        clock.advance(0.0);
        clock.advance(1.0);
        assert_eq!(clock.advance(2.0 + STALE_AFTER), Step::Restart);
    }

    #[test]
    fn a_clock_set_back_is_believed_after_a_while() {
        let mut clock = Clock::default();
        clock.advance(1e6);
        for t in 1..CLOCK_SET_BACK {
            assert_eq!(clock.advance(f64::from(t)), Step::Past);
        }
        assert_eq!(clock.advance(100.0), Step::Restart);
        assert_eq!(clock.advance(101.0), Step::Elapsed(1.0));
    }
}
