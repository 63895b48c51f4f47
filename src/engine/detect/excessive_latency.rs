//! Queries take longer than they normally do, whether or not sessions pile up.
//!
//! The mean query time, as the poolers count it, in windows of ten seconds. A
//! mean can be driven by a few long statements, so it must hold for a minute of
//! windows that each have enough queries, and it is not held against the
//! database while the extra time is that of an application which is not its main
//! one: a report or a batch job takes long and slows nobody.

use std::collections::VecDeque;

use super::flows::Flows;
use crate::engine::settings::ExcessiveLatency;
use crate::engine::stats::robust;
use crate::sample::UnixSeconds;

/// Seconds of a window.
const WINDOW: f64 = 10.0;

/// Queries without which the mean of a window says nothing.
const LEAST_QUERIES: f64 = 20.0;

/// An hour of windows.
const KEPT: usize = 360;

/// Windows younger than this, in seconds, are no part of what is normal.
const YOUNG: f64 = 60.0;

/// Windows without which nothing is normal, however long it took.
const LEAST_WINDOWS: usize = 12;

/// Deviations of the logarithm above which a window is unusual, and the least
/// deviation that is believed.
const DEVIATIONS: f64 = 5.0;
const LEAST_SIGMA: f64 = 0.1;

/// Queries at a time more than normal without which nobody is hurt: at night a
/// few long ones are all there are.
const LEAST_EXTRA: f64 = 1.0;

/// Slow windows running.
const LEAST_SLOW: u32 = 3;

/// Seconds after which a slow database is taken for normal.
const ACCEPTED: f64 = 3600.0;

/// Seconds without enough queries after which nothing is slow any more.
const SILENT: f64 = 300.0;

#[derive(Debug, Clone, Copy)]
struct Window {
    t: UnixSeconds,
    /// Natural logarithm of the mean query time in seconds.
    ln: f64,
    normal: bool,
}

/// What is said of the query time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slow {
    pub since: UnixSeconds,
    /// Mean seconds of a query, normally and in the newest window.
    pub normal: f64,
    pub now: f64,
    /// Queries a second.
    pub rate: f64,
    /// Slow for long enough to be told.
    pub lasting: bool,
}

impl Slow {
    /// Queries at a time more than normal, by Little's law.
    pub fn extra(&self) -> f64 {
        self.rate * (self.now - self.normal)
    }
}

/// Follows the mean query time of one target.
#[derive(Debug, Clone)]
pub struct Latency {
    settings: ExcessiveLatency,
    windows: VecDeque<Window>,
    looked_at: Option<UnixSeconds>,
    slow: Option<Slow>,
    running: u32,
    /// When queries were last counted.
    heard_at: UnixSeconds,
}

impl Latency {
    pub fn new(settings: &ExcessiveLatency) -> Self {
        Self {
            settings: settings.clone(),
            windows: VecDeque::new(),
            looked_at: None,
            slow: None,
            running: 0,
            heard_at: f64::NEG_INFINITY,
        }
    }

    /// Other thresholds from now on; what was learnt stays.
    pub fn reconfigure(&mut self, settings: &ExcessiveLatency) {
        self.settings = settings.clone();
    }

    /// Looks at what came since the last window.
    pub fn observe(&mut self, t: UnixSeconds, flows: &Flows) {
        if !t.is_finite() {
            return;
        }
        let Some(from) = self.looked_at else {
            self.looked_at = Some(t);
            return;
        };
        // Looks at two poolers are not in step.
        if t < from && from - t <= YOUNG {
            return;
        }
        if t < from || t - from > 2.0 * KEPT as f64 * WINDOW {
            *self = Self::new(&self.settings);
            return;
        }
        if t - from < WINDOW {
            return;
        }
        let told = flows.query_time(from, t);
        let enough = told.filter(|&(mean, queries)| mean > 0.0 && queries >= LEAST_QUERIES);
        if let Some((mean, queries)) = enough {
            self.looked_at = Some(t);
            self.take(t, mean, queries / (t - from));
        } else if t - from >= YOUNG {
            // Too few to tell: the next ones are not to be mixed with these.
            self.looked_at = Some(t);
        }
    }

    fn take(&mut self, t: UnixSeconds, mean: f64, rate: f64) {
        self.heard_at = t;
        let normal = self.normal(t);
        let ln = mean.ln();
        let is_slow = normal.is_some_and(|(centre, sigma)| {
            let factor = self.settings.factor.ln().max(DEVIATIONS * sigma);
            let rise = mean - centre.exp();
            ln - centre >= factor && rise >= self.settings.min_rise && rise * rate >= LEAST_EXTRA
        });
        let half = self.settings.factor.ln() / 2.0;
        if self.slow.is_some_and(|slow| {
            let is_back = ln - slow.normal.ln() < half;
            is_back || (!slow.lasting && !is_slow)
        }) {
            self.slow = None;
            self.running = 0;
        }
        match (&mut self.slow, normal) {
            (Some(slow), _) => {
                (slow.now, slow.rate) = (mean, rate);
                self.running += u32::from(is_slow);
                slow.lasting |= self.running >= LEAST_SLOW && t - slow.since >= self.settings.hold;
                if t - slow.since >= ACCEPTED {
                    self.slow = None;
                    self.running = 0;
                    self.windows.iter_mut().for_each(|w| w.normal = true);
                }
            }
            (None, Some((centre, _))) if is_slow => {
                self.running = 1;
                self.slow = Some(Slow {
                    since: t - WINDOW,
                    normal: centre.exp(),
                    now: mean,
                    rate,
                    lasting: false,
                });
            }
            (None, _) => {}
        }
        let normal = self.slow.is_none();
        self.windows.push_back(Window { t, ln, normal });
        if self.windows.len() > KEPT {
            self.windows.pop_front();
        }
    }

    /// The median logarithm and its deviation; `None` while warming up.
    fn normal(&self, t: UnixSeconds) -> Option<(f64, f64)> {
        let first = self.windows.front()?;
        if t - first.t < self.settings.warm_up {
            return None;
        }
        let old = self.windows.iter().filter(|w| w.normal && t - w.t >= YOUNG);
        let mut values: Vec<f64> = old.map(|window| window.ln).collect();
        if values.len() < LEAST_WINDOWS {
            return None;
        }
        let centre = robust::median(&mut values)?;
        let sigma = robust::sigma_about(centre, values.iter().copied());
        Some((centre, sigma.max(LEAST_SIGMA)))
    }

    /// What is slow at `t`. Without queries for some minutes nothing is.
    pub fn slow(&self, t: UnixSeconds) -> Option<&Slow> {
        let is_heard = t - self.heard_at <= SILENT;
        self.slow.as_ref().filter(|_| is_heard)
    }

    /// Goes on with what was slow in an earlier life of the program.
    pub fn resume(&mut self, at: UnixSeconds, since: UnixSeconds, normal: f64, now: f64) {
        self.heard_at = self.heard_at.max(at);
        if self.slow.is_none() && normal > 0.0 && now > normal {
            self.slow = Some(Slow {
                since,
                normal,
                now,
                rate: 0.0,
                lasting: true,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::PoolStats;

    struct Stage {
        flows: Flows,
        latency: Latency,
        t: u64,
        totals: (u64, u64),
    }

    impl Stage {
        fn new() -> Self {
            Self {
                flows: Flows::default(),
                latency: Latency::new(&ExcessiveLatency::default()),
                t: 1_000_000,
                totals: (0, 0),
            }
        }

        /// So many seconds of `queries` a second that take `micros` each. The
        /// second at which it was told.
        fn run(&mut self, seconds: u64, queries: u64, micros: impl Fn(u64) -> u64) -> Option<u64> {
            let mut told = None;
            for second in 0..seconds {
                self.totals.0 += queries;
                self.totals.1 += queries * micros(second);
                let stats = PoolStats {
                    database: "app".to_owned(),
                    total_query_count: self.totals.0,
                    total_xact_count: self.totals.0,
                    total_query_time: self.totals.1,
                    ..PoolStats::default()
                };
                self.t += 1;
                self.flows.pooler(self.t as f64, "p", &[stats]);
                self.latency.observe(self.t as f64, &self.flows);
                if self
                    .latency
                    .slow(self.t as f64)
                    .is_some_and(|slow| slow.lasting)
                {
                    told = told.or(Some(second));
                }
            }
            told
        }
    }

    #[test]
    fn a_slow_database_is_told_after_a_minute_and_ends() {
        let mut stage = Stage::new();
        let wobble = |t: u64| 2_000 + 150 * (t % 7);
        assert_eq!(stage.run(1_800, 200, wobble), None);
        let told = stage.run(300, 200, |_| 20_000).unwrap();
        assert!((60..90).contains(&told), "{told}");
        let slow = *stage.latency.slow(stage.t as f64).unwrap();
        assert!((slow.normal - 0.0024).abs() < 3e-4, "{slow:?}");
        assert!((slow.now - 0.020).abs() < 1e-3);
        assert!((slow.extra() - 3.5).abs() < 0.3);
        stage.run(60, 200, wobble);
        assert_eq!(stage.latency.slow(stage.t as f64), None);
    }

    #[test]
    fn it_is_over_when_nobody_asks_any_more() {
        let mut stage = Stage::new();
        stage.run(1_800, 200, |t| 2_000 + 150 * (t % 7));
        stage.run(300, 200, |_| 20_000).unwrap();
        stage.run(200, 0, |_| 0);
        assert!(stage.latency.slow(stage.t as f64).is_some());
        stage.run(200, 0, |_| 0);
        assert_eq!(stage.latency.slow(stage.t as f64), None);
    }

    #[test]
    fn poolers_out_of_step_forget_nothing() {
        let mut stage = Stage::new();
        stage.run(1_800, 200, |t| 2_000 + 150 * (t % 7));
        stage.latency.observe(stage.t as f64 - 0.5, &stage.flows);
        assert!(stage.run(300, 200, |_| 20_000).is_some());
    }

    #[test]
    fn what_is_not_slow() {
        let mut stage = Stage::new();
        assert_eq!(stage.run(1_800, 200, |_| 2_000), None);
        // A slow second, twice as slow, few long ones at night, very quick ones.
        assert_eq!(
            stage.run(300, 200, |t| if t == 9 { 900_000 } else { 2_000 }),
            None
        );
        assert_eq!(stage.run(300, 200, |_| 4_000), None);
        assert_eq!(stage.run(300, 1, |_| 900_000), None);
        let mut quick = Stage::new();
        quick.run(1_800, 200, |_| 200);
        assert_eq!(quick.run(300, 200, |_| 1_500), None);
        assert_eq!(
            Stage::new().run(300, 200, |t| 2_000 * (1 + t / 30)),
            None,
            "warm-up"
        );
    }

    #[test]
    fn a_day_that_changes_slowly_and_a_silence_alarm_nobody() {
        let mut stage = Stage::new();
        let day = |t: u64| 3_000 + (2_000.0 * (t as f64 / 8_000.0).sin()) as u64;
        assert_eq!(stage.run(40_000, 50, day), None);
        stage.t += 8_000;
        assert_eq!(stage.run(300, 50, |_| 90_000), None);
        stage.latency.observe(f64::NAN, &stage.flows);
        stage.latency.observe(-1e300, &stage.flows);
    }
}
