//! When did a series leave its normal band, and is it back?
//!
//! A robust mean at each of six time scales is compared with the learnt level
//! and the noise of that scale: fast scales see a large step in two samples,
//! slow ones a small step within a minute. An episode begins with the alarm; its
//! onset is the last calm moment before it. While it lasts the baseline is
//! frozen, so that an incident never becomes its own normal. Two things end it:
//! `resolve_after` seconds of calm, or a level that has held steady for an hour,
//! which is then accepted as the new normal.
//!
//! Time is real elapsed time. A sample that is not newer than the last is
//! ignored; a silence counts for no more than three usual intervals, so that the
//! single sample after it cannot raise an alarm alone; after an hour of silence
//! the baseline is too old and the detector warms up again.

use std::collections::VecDeque;

use super::baseline::{Baseline, SCALES, Smoothed, Smoother};
use super::clock::{Clock, Step};
use super::episode::Episode;
use crate::engine::settings::{ConnectionAvalanche, Sensitivity};
use crate::engine::snapshot::Band;
use crate::sample::UnixSeconds;

/// Alarm at this z with normal sensitivity.
const ALARM_Z: f64 = 6.5;

/// Below this z a moment still counts as calm when the onset is looked for.
const ONSET_Z: f64 = 2.0;

/// How far back the onset is looked for, seconds.
const ONSET_WINDOW: f64 = 120.0;

/// Samples in a row that must be over the alarm: one wild sample is no incident.
const ALARM_SAMPLES: u32 = 2;

/// Scales up to this one, in seconds, say whether it is calm again; the slower
/// remember the incident for minutes.
const CALM_SCALE: f64 = 8.0;

/// Samples without which a warm-up knows nothing, however long it took.
const WARM_UP_SAMPLES: usize = 5;

/// A warm-up may have seen an incident that already ran. For this long after it,
/// a level that stays far below for [`LOW_FOR`] is believed instead, seconds.
const YOUNG: f64 = 3600.0;

/// Longer than the warm-up, so it is the better evidence.
const LOW_FOR: f64 = 300.0;

/// Points kept of the warm-up and of the search for the onset; only polls more
/// frequent than every 0.06 s exceed it.
const POINT_LIMIT: usize = 2048;

/// Values beyond this are no counts of anything.
const ABSURD: f64 = 1e12;

/// How the detector is tuned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// z at which an alarm is raised.
    pub alarm_z: f64,
    /// Seconds of history before anything is judged.
    pub warm_up: f64,
    /// Rise over the level below which nothing is an alarm.
    pub min_rise: f64,
    /// Seconds of calm that end an episode.
    pub resolve_after: f64,
}

impl From<&ConnectionAvalanche> for Tuning {
    fn from(settings: &ConnectionAvalanche) -> Self {
        let factor = match settings.sensitivity {
            Sensitivity::Low => 1.5,
            Sensitivity::Normal => 1.0,
            Sensitivity::High => 0.75,
        };
        Self {
            alarm_z: ALARM_Z * factor,
            warm_up: settings.warm_up,
            min_rise: settings.min_sessions,
            resolve_after: settings.resolve_after,
        }
    }
}

/// What the detector thinks of the series now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum State {
    /// No judgement yet.
    WarmingUp,
    Quiet,
    /// An episode lasts.
    Alarm(Alarm),
}

/// An episode as it stands now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alarm {
    pub onset_at: UnixSeconds,
    /// Back under the band, and only waiting for `resolve_after`.
    pub calm: bool,
    /// The level has held for an hour and is normal from now on: the next
    /// sample will be [`State::Quiet`].
    pub accepted: bool,
}

/// The answer to one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    pub state: State,
    /// Largest z over all scales; 0 while warming up.
    pub z: f64,
    /// `None` while warming up.
    pub band: Option<Band>,
}

/// The detector of one series.
#[derive(Debug, Clone)]
pub struct OnsetDetector {
    tuning: Tuning,
    clock: Clock,
    phase: Phase,
}

#[derive(Debug, Clone)]
enum Phase {
    WarmingUp(Vec<(UnixSeconds, f64)>),
    Watching(Box<Watch>),
}

impl OnsetDetector {
    pub fn new(tuning: Tuning) -> Self {
        Self {
            tuning,
            clock: Clock::default(),
            phase: Phase::WarmingUp(Vec::new()),
        }
    }

    /// Other thresholds from now on; what was learnt stays.
    pub fn retune(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    /// Takes in the value at `t`. `None` when the sample was ignored: a time
    /// that is not newer than the last one, or a number that is none.
    pub fn push(&mut self, t: UnixSeconds, y: f64) -> Option<Reading> {
        if !t.is_finite() || !y.is_finite() || t.abs() > ABSURD || y.abs() > ABSURD {
            return None;
        }
        let dt = match self.clock.advance(t) {
            Step::Past => return None,
            Step::Elapsed(dt) => dt,
            Step::Restart => {
                self.phase = Phase::WarmingUp(Vec::new());
                0.0
            }
        };
        if let Phase::WarmingUp(points) = &mut self.phase {
            match warm_up(points, (t, y), self.tuning.warm_up) {
                Some(baseline) => {
                    self.phase = Phase::Watching(Box::new(Watch::new(baseline)));
                }
                None => {
                    return Some(Reading {
                        state: State::WarmingUp,
                        z: 0.0,
                        band: None,
                    });
                }
            }
        }
        match &mut self.phase {
            Phase::Watching(watch) => Some(watch.push(t, dt, y, &self.tuning)),
            Phase::WarmingUp(_) => None,
        }
    }

    /// What is normal; `None` while warming up.
    pub fn band(&self) -> Option<Band> {
        match &self.phase {
            Phase::WarmingUp(_) => None,
            Phase::Watching(watch) => Some(watch.band(&self.tuning)),
        }
    }

    /// Goes on with an episode of an earlier life of the program, which is still
    /// not over at `at`. Where nothing is remembered of what was normal, `level`
    /// is it, with the least noise that counts of that size have.
    pub fn resume(&mut self, onset_at: UnixSeconds, level: f64, at: UnixSeconds) {
        if !level.is_finite() || level.abs() > ABSURD || !at.is_finite() || at.abs() > ABSURD {
            return;
        }
        if matches!(self.phase, Phase::WarmingUp(_))
            && let Some(baseline) = Baseline::from_warm_up(&[(at, level)])
        {
            self.clock = Clock::default();
            self.clock.advance(at);
            self.phase = Phase::Watching(Box::new(Watch::new(baseline)));
        }
        if let Phase::Watching(watch) = &mut self.phase {
            watch.episode.get_or_insert(Episode::new(onset_at, at));
        }
    }

    /// Leaves the last minute out of the learning, and the next `seconds` too:
    /// the server went down, and what was seen meanwhile is not normal.
    pub fn hold_learning(&mut self, seconds: f64) {
        if let (Phase::Watching(watch), Some(last)) = (&mut self.phase, self.clock.last()) {
            watch.baseline.forget_pending();
            watch.learn_from = last + seconds;
        }
    }
}

/// Collects the warm-up; `Some` once it is long enough.
fn warm_up(
    points: &mut Vec<(UnixSeconds, f64)>,
    point: (UnixSeconds, f64),
    seconds: f64,
) -> Option<Baseline> {
    if points.len() >= POINT_LIMIT {
        let mut keep = false;
        points.retain(|_| {
            keep = !keep;
            keep
        });
    }
    points.push(point);
    let long_enough = points
        .first()
        .is_some_and(|&(start, _)| point.0 - start >= seconds);
    (long_enough && points.len() >= WARM_UP_SAMPLES)
        .then(|| Baseline::from_warm_up(points))
        .flatten()
}

/// A series past its warm-up.
#[derive(Debug, Clone)]
struct Watch {
    baseline: Baseline,
    smoother: Smoother,
    /// z of the last two minutes, for the onset.
    recent: VecDeque<(UnixSeconds, f64)>,
    over: u32,
    episode: Option<Episode>,
    /// Nothing is learnt before this time.
    learn_from: UnixSeconds,
    /// Since when even the slowest scale has been far below a young level.
    low_since: Option<UnixSeconds>,
}

impl Watch {
    fn new(baseline: Baseline) -> Self {
        Self {
            smoother: Smoother::new(baseline.level()),
            baseline,
            recent: VecDeque::new(),
            over: 0,
            episode: None,
            learn_from: f64::NEG_INFINITY,
            low_since: None,
        }
    }

    fn push(&mut self, t: UnixSeconds, dt: f64, y: f64, tuning: &Tuning) -> Reading {
        let smoothed = self.smoother.update(dt, y);
        let z = self.baseline.z(&smoothed, f64::INFINITY);
        self.remember(t, z);
        let state = match self.episode.take() {
            Some(episode) => self.follow(episode, t, y, &smoothed, tuning),
            None => self.watch(t, dt, y, z, smoothed, tuning),
        };
        Reading {
            state,
            z,
            band: Some(self.band(tuning)),
        }
    }

    fn band(&self, tuning: &Tuning) -> Band {
        let expected = self.baseline.level();
        let margin = (tuning.alarm_z * self.baseline.unit(0)).max(tuning.min_rise);
        Band {
            expected,
            upper: expected + margin,
        }
    }

    fn remember(&mut self, t: UnixSeconds, z: f64) {
        self.recent.push_back((t, z));
        while let Some(&(oldest, _)) = self.recent.front() {
            if t - oldest <= ONSET_WINDOW && self.recent.len() <= POINT_LIMIT {
                break;
            }
            self.recent.pop_front();
        }
    }

    fn watch(
        &mut self,
        t: UnixSeconds,
        dt: f64,
        y: f64,
        z: f64,
        smoothed: Smoothed,
        tuning: &Tuning,
    ) -> State {
        let over = z > tuning.alarm_z;
        self.over = if over { self.over.saturating_add(1) } else { 0 };
        let risen = y - self.baseline.level() >= tuning.min_rise;
        if self.over < ALARM_SAMPLES || !risen {
            if t >= self.learn_from {
                self.baseline.learn(t, dt, smoothed);
                self.doubt_warm_up(t, &smoothed, tuning);
            }
            return State::Quiet;
        }
        self.over = 0;
        self.baseline.forget_pending();
        let episode = Episode::new(self.onset(t), t);
        self.follow(episode, t, y, &smoothed, tuning)
    }

    fn doubt_warm_up(&mut self, t: UnixSeconds, smoothed: &Smoothed, tuning: &Tuning) {
        let slowest = SCALES.len() - 1;
        let below = self.baseline.level() - smoothed[slowest];
        let low = below > tuning.alarm_z / 2.0 * self.baseline.unit(slowest);
        if !low || self.baseline.age() > YOUNG {
            self.low_since = None;
        } else if t - *self.low_since.get_or_insert(t) >= LOW_FOR {
            self.low_since = None;
            self.baseline.accept(smoothed[slowest]);
        }
    }

    fn onset(&self, now: UnixSeconds) -> UnixSeconds {
        let calm = self.recent.iter().rev().find(|&&(_, z)| z < ONSET_Z);
        calm.or(self.recent.front()).map_or(now, |&(t, _)| t)
    }

    fn follow(
        &mut self,
        mut episode: Episode,
        t: UnixSeconds,
        y: f64,
        smoothed: &Smoothed,
        tuning: &Tuning,
    ) -> State {
        let calm = self.baseline.z(smoothed, CALM_SCALE) < tuning.alarm_z / 2.0
            && smoothed[0] < self.band(tuning).upper;
        let calm_since = *episode.calm_since.get_or_insert(t);
        if !calm {
            episode.calm_since = None;
        } else if t - calm_since >= tuning.resolve_after {
            self.end();
            return State::Quiet;
        }
        episode.record(t, y);
        let accepted = if calm { None } else { episode.steady_level(t) };
        let alarm = Alarm {
            onset_at: episode.onset_at,
            calm,
            accepted: accepted.is_some(),
        };
        match accepted {
            Some(level) => {
                self.baseline.accept(level);
                self.end();
            }
            None => self.episode = Some(episode),
        }
        State::Alarm(alarm)
    }

    /// Starts to watch anew, without what the slow scales remember.
    fn end(&mut self) {
        self.smoother.catch_up();
        self.recent.clear();
    }
}

const _: () = assert!(SCALES[0] < CALM_SCALE);

#[cfg(test)]
mod tests;
