//! Every watched quantity of a target beside the sessions in use: each has its
//! own baseline and the same onset detector.
//!
//! Leaving its band is no incident here: it is what a cause is read from, and a
//! sentence of evidence. Invariants: quantities are fixed in number, and so are
//! the applications that have one; a restart of the server forgets nothing.

use std::collections::BTreeMap;

use super::census::Census;
use super::onset::{OnsetDetector, State, Tuning};
use crate::engine::settings::ConnectionAvalanche;
use crate::engine::words;
use crate::sample::UnixSeconds;

/// Applications with a baseline of their own.
pub const MAX_APPLICATIONS: usize = 10;

/// An application unseen for this long, in seconds, makes room.
const GONE: f64 = 600.0;

/// Seconds of calm that end an episode: nobody is told of it, so it need not
/// wait as long as an incident.
const CALM: f64 = 60.0;

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// All client backends.
    Backends,
    /// Sessions opened a second.
    Opened,
    /// Clients waiting in the poolers.
    PoolWaiters,
    LockWaiters,
    /// Sessions of an application that are not idle.
    Application(String),
}

impl Quantity {
    fn of(&self, value: f64) -> String {
        match self {
            Self::Backends => words::plural(value, "client backend"),
            Self::Opened => format!("{} a second opened", words::plural(value, "session")),
            Self::PoolWaiters => {
                format!("{} waiting in the poolers", words::plural(value, "client"))
            }
            Self::LockWaiters => format!("{} waiting for locks", words::plural(value, "session")),
            Self::Application(name) => format!(
                "{} of {} not idle",
                words::plural(value, "session"),
                words::application(&words::name(name)),
            ),
        }
    }
}

/// A quantity out of its band.
#[derive(Debug, Clone, PartialEq)]
pub struct Departure {
    pub what: Quantity,
    pub onset_at: UnixSeconds,
    pub expected: f64,
    pub now: f64,
}

impl Departure {
    /// For the evidence.
    pub fn sentence(&self, now: UnixSeconds) -> String {
        format!(
            "{}, where {} are normal, since {}",
            self.what.of(self.now),
            words::mean(self.expected),
            match (now - self.onset_at).max(0.0) {
                seconds if seconds < 1.0 => "now".to_owned(),
                seconds => format!("{} ago", words::duration(seconds)),
            },
        )
    }
}

#[derive(Debug, Clone)]
struct Watched {
    detector: OnsetDetector,
    seen_at: UnixSeconds,
    departure: Option<Departure>,
}

/// The baselines of one target.
#[derive(Debug, Clone)]
pub struct Baselines {
    tuning: Tuning,
    watched: BTreeMap<Quantity, Watched>,
}

impl Baselines {
    /// With the sensitivity and the warm-up of the avalanche detector.
    pub fn new(settings: &ConnectionAvalanche) -> Self {
        let tuning = Tuning {
            resolve_after: CALM.min(settings.resolve_after),
            ..Tuning::from(settings)
        };
        Self {
            tuning,
            watched: BTreeMap::new(),
        }
    }

    /// Other thresholds from now on; what was learnt stays.
    pub fn reconfigure(&mut self, settings: &ConnectionAvalanche) {
        self.tuning = Self::new(settings).tuning;
        for watched in self.watched.values_mut() {
            watched.detector.retune(self.tuning);
        }
    }

    /// Takes in one look. `waiting` are the clients in the poolers' queues,
    /// `opened` the sessions opened a second, where they are known.
    pub fn take(&mut self, t: UnixSeconds, census: &Census, waiting: f64, opened: Option<f64>) {
        self.push(t, Quantity::Backends, census.total.all);
        self.push(t, Quantity::PoolWaiters, waiting);
        self.push(t, Quantity::LockWaiters, census.lock_waits);
        if let Some(opened) = opened {
            self.push(t, Quantity::Opened, opened);
        }
        self.applications(t, census);
    }

    /// Those with a place, whether or not they have sessions now, and the
    /// largest of the others while there is room.
    fn applications(&mut self, t: UnixSeconds, census: &Census) {
        let busy = |name: &str| {
            let held = census.applications.get(name);
            held.map(|held| held.working + held.idle_in_transaction)
        };
        let known: Vec<Quantity> = self.watched.keys().cloned().collect();
        let mut room = MAX_APPLICATIONS;
        for quantity in known {
            let Quantity::Application(name) = &quantity else {
                continue;
            };
            match (busy(name), self.watched.get(&quantity)) {
                (None, Some(watched)) if t - watched.seen_at > GONE => {
                    self.watched.remove(&quantity);
                }
                (None, _) => {
                    room -= 1;
                    self.value(t, quantity, 0.0);
                }
                (Some(value), _) => {
                    room -= 1;
                    self.push(t, quantity, value);
                }
            }
        }
        let mut others: Vec<(&String, f64)> = census
            .applications
            .iter()
            .map(|(name, held)| (name, held.all))
            .filter(|(name, _)| {
                let quantity = Quantity::Application((*name).clone());
                !self.watched.contains_key(&quantity)
            })
            .collect();
        others.sort_by(|a, b| b.1.total_cmp(&a.1));
        let names: Vec<String> = others
            .iter()
            .take(room)
            .map(|(n, _)| (*n).clone())
            .collect();
        for name in names {
            let value = busy(&name).unwrap_or(0.0);
            self.push(t, Quantity::Application(name), value);
        }
    }

    fn push(&mut self, t: UnixSeconds, what: Quantity, value: f64) {
        self.value(t, what.clone(), value);
        if let Some(watched) = self.watched.get_mut(&what) {
            watched.seen_at = t;
        }
    }

    fn value(&mut self, t: UnixSeconds, what: Quantity, value: f64) {
        let tuning = self.tuning;
        let watched = self.watched.entry(what.clone()).or_insert_with(|| Watched {
            detector: OnsetDetector::new(tuning),
            seen_at: t,
            departure: None,
        });
        let Some(reading) = watched.detector.push(t, value) else {
            return;
        };
        watched.departure = match (reading.state, reading.band) {
            (State::Alarm(alarm), Some(band)) if !alarm.calm => Some(Departure {
                what,
                onset_at: alarm.onset_at,
                expected: band.expected,
                now: value,
            }),
            _ => None,
        };
    }

    /// What is out of its band now.
    pub fn departures(&self) -> impl Iterator<Item = &Departure> {
        self.watched.values().filter_map(|w| w.departure.as_ref())
    }

    /// The departure of one quantity.
    pub fn departure(&self, what: &Quantity) -> Option<&Departure> {
        self.watched.get(what)?.departure.as_ref()
    }

    /// What is normal of one quantity; `None` while warming up.
    pub fn expected(&self, what: &Quantity) -> Option<f64> {
        let band = self.watched.get(what)?.detector.band()?;
        Some(band.expected)
    }

    /// The server was started again: nothing is learnt for a while.
    pub fn hold_learning(&mut self, seconds: f64) {
        for watched in self.watched.values_mut() {
            watched.detector.hold_learning(seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(applications: &[(&str, f64)]) -> Census {
        let mut census = Census::default();
        for &(name, working) in applications {
            census.add(name, Some("active"), working);
            census.add(name, Some("idle"), 3.0);
        }
        census
    }

    fn quiet() -> Baselines {
        let mut baselines = Baselines::new(&ConnectionAvalanche::default());
        for t in 0..400 {
            let noise = f64::from(t % 5);
            let counted = census(&[("web", 10.0 + noise), ("cron", 0.0)]);
            baselines.take(f64::from(t), &counted, noise, Some(2.0 + noise));
            assert_eq!(baselines.departures().count(), 0, "at {t}");
        }
        baselines
    }

    #[test]
    fn each_quantity_leaves_its_own_band() {
        let mut baselines = quiet();
        for t in 400..410 {
            let counted = census(&[("web", 12.0), ("cron", 40.0)]);
            baselines.take(f64::from(t), &counted, 2.0, Some(90.0));
        }
        let out: Vec<&Quantity> = baselines.departures().map(|d| &d.what).collect();
        let cron = Quantity::Application("cron".to_owned());
        assert_eq!(out, [&Quantity::Backends, &Quantity::Opened, &cron]);
        let sentence = baselines.departure(&cron).unwrap().sentence(409.0);
        assert!(
            sentence.starts_with("40 sessions of cron not idle, where 0 are normal, since "),
            "{sentence}"
        );
        assert!((398.0..401.0).contains(&baselines.departure(&cron).unwrap().onset_at));
        let opened = baselines.expected(&Quantity::Opened).unwrap();
        assert!((2.0..7.0).contains(&opened), "{opened}");
    }

    #[test]
    fn applications_are_bounded_and_old_ones_make_room() {
        let mut baselines = Baselines::new(&ConnectionAvalanche::default());
        for t in 0..5_000 {
            let name = format!("app-{}", t / 100);
            baselines.take(f64::from(t), &census(&[(&name, 5.0)]), 0.0, None);
            assert!(baselines.watched.len() <= MAX_APPLICATIONS + 3);
        }
        let newest = Quantity::Application("app-49".to_owned());
        assert!(baselines.watched.contains_key(&newest));
    }

    #[test]
    fn a_day_of_ordinary_traffic_alarms_nobody() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut baselines = Baselines::new(&ConnectionAvalanche::default());
        for step in 0..(86_400 / 5) {
            let t = f64::from(step) * 5.0;
            let day = 1.0 + 0.6 * (t / 86_400.0 * std::f64::consts::TAU).sin();
            let noise = |random: &mut fastrand::Rng| (random.f64() + random.f64() - 1.0) * 1.5;
            let count = |mean: f64, random: &mut fastrand::Rng| {
                (mean * day + mean.sqrt() * noise(random)).max(0.0).round()
            };
            let counted = census(&[
                ("web", count(40.0, &mut random)),
                ("api", count(8.0, &mut random)),
            ]);
            let waiting = count(3.0, &mut random);
            let opened = count(20.0, &mut random);
            baselines.take(t, &counted, waiting, Some(opened));
            let out: Vec<_> = baselines.departures().collect();
            assert!(out.is_empty(), "at {t}: {out:?}");
        }
    }
}
