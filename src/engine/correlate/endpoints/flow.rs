//! Requests of one endpoint over a window: how many a second, how long each, and
//! how many at a time.
//!
//! Counts and durations move when a request *ends*. In a window that is not much
//! longer than the requests, many of them still run and are in no counter yet;
//! [`since`] makes up for them:
//!
//! ```text
//! d1 = (Σ durations + d0) / (k1 + 1)                      one pseudo-sample
//! λ1 = k1/W, and if k1 > gλ0W + 2√(gλ0W + 1):  λ1 ·= W / max(W − min(d1, 0.7W), 0.3W)
//! C  = λ1 · min(d1, W)                                    at one time, now
//! ```

/// What ended in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ended {
    /// Seconds that are covered.
    pub window: f64,
    pub requests: f64,
    /// Sum of their durations.
    pub seconds: f64,
}

/// A rate and a duration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flow {
    /// Requests a second.
    pub rate: f64,
    /// Mean seconds of a request.
    pub hold: f64,
}

impl Flow {
    /// Requests at a time, by Little's law.
    pub fn concurrency(self) -> f64 {
        self.rate * self.hold
    }
}

/// The normal flow. An endpoint that was never seen has no rate, and the
/// duration of all.
pub fn before(ended: &Ended, hold_of_all: f64) -> Flow {
    if ended.requests <= 0.0 || ended.window <= 0.0 {
        return Flow {
            rate: 0.0,
            hold: hold_of_all,
        };
    }
    Flow {
        rate: ended.requests / ended.window,
        hold: ended.seconds / ended.requests,
    }
}

/// The mean duration since the onset, drawn a little towards the normal one.
pub fn hold_since(ended: &Ended, before: Flow) -> f64 {
    (ended.seconds + before.hold) / (ended.requests + 1.0)
}

/// The flow since the onset, with `growth` the factor by which everybody's rate
/// rose.
pub fn since(ended: &Ended, before: Flow, growth: f64) -> Flow {
    let hold = hold_since(ended, before);
    let window = ended.window;
    if window <= 0.0 {
        return Flow { rate: 0.0, hold };
    }
    let mut rate = ended.requests / window;
    let expected = growth * before.rate * window;
    // Two deviations of a count above what was to be expected.
    if ended.requests > expected + 2.0 * (expected + 1.0).sqrt() {
        rate *= window / (window - hold.min(0.7 * window)).max(0.3 * window);
    }
    Flow { rate, hold }
}

/// Requests at a time now: none can have run for longer than the window.
pub fn concurrency_now(since: Flow, window: f64) -> f64 {
    since.rate * since.hold.min(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_still_run_are_made_up_for() {
        // 4/s of 10 s each for 15 s: 20 have ended, 40 run.
        let normal = Flow {
            rate: 0.2,
            hold: 10.0,
        };
        let ended = Ended {
            window: 15.0,
            requests: 20.0,
            seconds: 200.0,
        };
        let since = since(&ended, normal, 1.0);
        let now = concurrency_now(since, 15.0);
        assert!((now - 40.0).abs() < 1.0, "{now}");
    }

    #[test]
    fn a_normal_window_stays_as_it_is() {
        let normal = Flow {
            rate: 10.0,
            hold: 0.5,
        };
        let ended = Ended {
            window: 10.0,
            requests: 104.0,
            seconds: 52.0,
        };
        let since = since(&ended, normal, 1.0);
        assert!((since.rate - 10.4).abs() < 1e-9);
        assert!((since.hold - 0.5).abs() < 0.01);
    }

    #[test]
    fn nothing_is_nothing() {
        let none = Ended::default();
        let normal = before(&none, 0.3);
        assert_eq!((normal.rate, normal.hold), (0.0, 0.3));
        assert_eq!(concurrency_now(since(&none, normal, 1.0), 0.0), 0.0);
    }
}
