//! How many sessions each part had, before an onset and since.
//!
//! Single ticks are kept for two and a half minutes, because an onset is found
//! up to two minutes late; older ones are added up in ten-second buckets for half
//! an hour. Both are bounded in number, and parts in [`parts`](super::parts).

use std::collections::VecDeque;

use super::mix::Mix;
use super::parts::{LIMIT, Part, PartId, Register};
use crate::engine::tables::Table;
use crate::sample::UnixSeconds;

/// Seconds that single ticks are kept.
const RECENT_SECONDS: f64 = 150.0;

/// Ticks kept; more only when polls come more often than every 0.25 s.
const RECENT_LIMIT: usize = 600;

const BUCKET_SECONDS: f64 = 10.0;

/// Half an hour, and the two and a half minutes that an onset can be late.
const BUCKET_LIMIT: usize = 195;

/// The baseline is half an hour long and ends this long before the onset, in
/// seconds: the estimate of the onset may be a little late.
const BASELINE_SECONDS: f64 = 1800.0;
const BASELINE_END: f64 = 20.0;

/// What happened this long ago counts for a third in an incident that still
/// lasts, seconds: what explains it can change.
const FADE: f64 = 300.0;

/// Means below this are forgotten during an incident.
const NEGLIGIBLE: f64 = 1e-3;

/// Mean numbers of sessions over a window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Means {
    /// Ticks that the means are of; 0 when there are none.
    pub ticks: f64,
    /// Sessions in use.
    pub in_use: f64,
    /// Those that wait for a heavyweight lock.
    pub lock_waits: f64,
    /// Clients waiting in the poolers.
    pub pooler_waits: f64,
    pub parts: Table<PartId, f64>,
}

impl Means {
    pub fn of(&self, id: PartId) -> f64 {
        self.parts.get(&id).copied().unwrap_or(0.0)
    }
}

/// The same as sums, and as one tick.
#[derive(Debug, Clone, Default)]
struct Sums {
    t: UnixSeconds,
    /// Seen during an incident, so no part of the normal mix.
    unusual: bool,
    ticks: f64,
    in_use: f64,
    lock_waits: f64,
    pooler_waits: f64,
    parts: Table<PartId, f64>,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.ticks += other.ticks;
        self.in_use += other.in_use;
        self.lock_waits += other.lock_waits;
        self.pooler_waits += other.pooler_waits;
        for (&id, &sessions) in &other.parts {
            *self.parts.entry(id).or_default() += sessions;
        }
    }

    fn fade(&mut self, dt: f64) {
        let factor = (-dt.max(0.0) / FADE).exp();
        self.ticks *= factor;
        self.in_use *= factor;
        self.lock_waits *= factor;
        self.pooler_waits *= factor;
        for sessions in self.parts.values_mut() {
            *sessions *= factor;
        }
        let least = NEGLIGIBLE * self.ticks;
        self.parts.retain(|_, sessions| *sessions > least);
    }

    fn means(&self) -> Means {
        let n = self.ticks.max(f64::MIN_POSITIVE);
        Means {
            ticks: self.ticks,
            in_use: self.in_use / n,
            lock_waits: self.lock_waits / n,
            pooler_waits: self.pooler_waits / n,
            parts: self.parts.iter().map(|(&id, sum)| (id, sum / n)).collect(),
        }
    }
}

/// The history of one target's sessions by part.
#[derive(Debug, Clone, Default)]
pub struct History {
    register: Register,
    recent: VecDeque<Sums>,
    buckets: VecDeque<Sums>,
}

impl History {
    /// Counts one look. The caller sees to it that time does not go backwards.
    pub fn record(&mut self, t: UnixSeconds, mix: Mix) {
        let mut tick = Sums {
            t,
            ticks: 1.0,
            in_use: mix.in_use,
            lock_waits: mix.lock_waits,
            pooler_waits: mix.pooler_waits,
            ..Sums::default()
        };
        let mut counts = mix.parts;
        // When there are more than can be remembered, the small ones go without
        // a number; and nobody of this tick is forgotten for the sake of another.
        counts.sort_unstable_by(|(a, n), (b, m)| m.total_cmp(n).then_with(|| a.cmp(b)));
        counts.truncate(LIMIT);
        counts.sort_by_key(|(part, _)| !self.register.knows(part));
        for (part, count) in counts {
            if let Some(id) = self.register.id(part, t) {
                tick.parts.insert(id, count);
            }
        }
        self.recent.push_back(tick);
        while let Some(oldest) = self.recent.front() {
            if t - oldest.t <= RECENT_SECONDS && self.recent.len() <= RECENT_LIMIT {
                break;
            }
            if let Some(tick) = self.recent.pop_front() {
                self.fold(tick);
            }
        }
    }

    fn fold(&mut self, tick: Sums) {
        if tick.unusual {
            return;
        }
        match self.buckets.back_mut() {
            Some(bucket) if tick.t - bucket.t < BUCKET_SECONDS => bucket.add(&tick),
            _ => self.buckets.push_back(tick),
        }
        if self.buckets.len() > BUCKET_LIMIT {
            self.buckets.pop_front();
        }
    }

    pub fn name(&self, id: PartId) -> Option<&Part> {
        self.register.name(id)
    }

    /// The normal mix: up to half an hour that ends 20 s before the onset,
    /// without earlier incidents. When there is nothing of it, all there is
    /// before the onset.
    pub fn before(&self, onset_at: UnixSeconds) -> Means {
        let end = onset_at - BASELINE_END;
        let mut sums = self.between(end - BASELINE_SECONDS, end);
        if sums.ticks == 0.0 {
            sums = self.between(f64::NEG_INFINITY, onset_at);
        }
        sums.means()
    }

    fn between(&self, from: UnixSeconds, to: UnixSeconds) -> Sums {
        let mut sums = Sums::default();
        let all = self.buckets.iter().chain(&self.recent);
        for piece in all.filter(|piece| piece.t >= from && piece.t <= to && !piece.unusual) {
            sums.add(piece);
        }
        sums
    }

    /// Keeps what came after the onset of an incident out of the normal mix, so
    /// that the next one is not measured against this one.
    pub fn set_apart(&mut self, onset_at: UnixSeconds) {
        for tick in self.recent.iter_mut().filter(|tick| tick.t > onset_at) {
            tick.unusual = true;
        }
    }

    /// Starts to count an incident, with what is already known of it.
    pub fn since(&self, onset_at: UnixSeconds) -> Since {
        let newest = self.recent.back().map_or(onset_at, |tick| tick.t);
        let mut sums = Sums {
            t: newest,
            ..Sums::default()
        };
        for tick in self.recent.iter().filter(|tick| tick.t > onset_at) {
            sums.add(tick);
        }
        Since(sums)
    }

    /// Adds the newest tick to an incident.
    pub fn extend(&self, since: &mut Since) {
        if let Some(tick) = self.recent.back()
            && tick.t > since.0.t
        {
            since.0.fade(tick.t - since.0.t);
            since.0.t = tick.t;
            since.0.add(tick);
        }
    }
}

/// Sessions since an onset, fading slowly.
#[derive(Debug, Clone)]
pub struct Since(Sums);

impl Since {
    pub fn means(&self) -> Means {
        self.0.means()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::correlate::services::Services;
    use crate::sample::{Group, PostgresReport};

    fn report(counts: &[(&str, u32)]) -> PostgresReport {
        PostgresReport {
            groups: counts
                .iter()
                .map(|&(route, count)| Group {
                    application: Some("app".to_owned()),
                    state: Some("active".to_owned()),
                    route: (!route.is_empty()).then(|| route.to_owned()),
                    count,
                    ..Group::default()
                })
                .collect(),
            ..PostgresReport::default()
        }
    }

    fn mix(report: &PostgresReport, clients_waiting: u32) -> Mix {
        Mix::of(report, clients_waiting, "main", &Services::default())
    }

    fn run(history: &mut History, seconds: std::ops::Range<u32>, counts: &[(&str, u32)]) {
        let report = report(counts);
        for t in seconds {
            history.record(f64::from(t), mix(&report, 3));
        }
    }

    fn of(history: &History, means: &Means, wanted: &str) -> f64 {
        means
            .parts
            .iter()
            .filter(|&(&id, _)| {
                matches!(history.name(id), Some(Part::Route { route, .. }) if route == wanted)
            })
            .map(|(_, sessions)| sessions)
            .sum()
    }

    #[test]
    fn before_and_since_are_told_apart() {
        let mut history = History::default();
        run(&mut history, 0..1000, &[("/a", 2), ("", 1)]);
        run(&mut history, 1000..1010, &[("/a", 2), ("/b", 30), ("", 1)]);
        let before = history.before(999.0);
        assert!((of(&history, &before, "/a") - 2.0).abs() < 1e-9);
        assert_eq!(of(&history, &before, "/b"), 0.0);
        assert!((before.in_use - 3.0).abs() < 1e-9);
        assert!((before.pooler_waits - 3.0).abs() < 1e-9);
        let since = history.since(999.0).means();
        assert_eq!(since.ticks, 10.0);
        assert_eq!(of(&history, &since, "/b"), 30.0);
    }

    #[test]
    fn a_short_history_is_better_than_none() {
        let mut history = History::default();
        run(&mut history, 0..10, &[("/a", 2)]);
        assert_eq!(of(&history, &history.before(8.0), "/a"), 2.0);
        assert_eq!(History::default().before(8.0).ticks, 0.0);
    }

    #[test]
    fn a_long_incident_is_told_by_its_end() {
        let mut history = History::default();
        run(&mut history, 0..200, &[("/a", 2)]);
        run(&mut history, 200..202, &[("/b", 30)]);
        let mut since = history.since(199.0);
        let (first, second) = (report(&[("/b", 30)]), report(&[("/c", 30)]));
        for t in 202..2000 {
            let now = if t < 500 { &first } else { &second };
            history.record(f64::from(t), mix(now, 0));
            history.extend(&mut since);
        }
        let means = since.means();
        assert!(of(&history, &means, "/c") > 29.0);
        assert!(of(&history, &means, "/b") < 0.5);
    }

    #[test]
    fn memory_is_bounded_however_many_routes_and_ticks() {
        let mut history = History::default();
        for t in 0..5000u32 {
            let names: Vec<String> = (0..5).map(|i| format!("/{}", t * 5 + i)).collect();
            let counts: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
            let report = report(&counts);
            history.record(f64::from(t) * 0.1, mix(&report, 0));
        }
        assert!(history.recent.len() <= RECENT_LIMIT + 1);
        assert!(history.buckets.len() <= BUCKET_LIMIT);
        assert!(history.register.len() <= super::super::parts::LIMIT);
    }
}
