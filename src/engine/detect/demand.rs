//! Did the applications ask for more than before?
//!
//! What the applications tell of their requests goes first; else the
//! transactions that the poolers count. Without either it is unknown, and is
//! said to be.

use super::flows::Flows;
use crate::engine::traffic::Traffic;
use crate::engine::traffic::view::PREFERRED;
use crate::engine::words;
use crate::sample::UnixSeconds;

/// Up to this factor it is as before: traffic of a minute varies that much.
const FLAT: f64 = 1.25;

/// Deviations of a count that are noise as well.
const NOISE: f64 = 3.0;

/// Seconds since the change that must be covered before it is judged.
const LEAST_SECONDS: f64 = 4.0;

/// Seconds of the past that the counts of requests surely reach back, and the
/// least of them that a rate before is worked out of.
const KEPT: f64 = 3_600.0;
const LEAST_BEFORE: f64 = 60.0;

/// Two spans of time to compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spans {
    pub before: (UnixSeconds, UnixSeconds),
    pub now: (UnixSeconds, UnixSeconds),
}

/// What they asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Demand {
    #[default]
    Unknown,
    /// A second, before and now.
    Known {
        before: f64,
        now: f64,
        /// Seconds that `now` is of.
        seconds: f64,
        what: &'static str,
    },
}

impl Demand {
    /// Compares two spans.
    pub fn of(traffic: &Traffic, target: &str, flows: &Flows, spans: &Spans) -> Self {
        let told = Self::requests(traffic, target, spans);
        told.or_else(|| Self::transactions(flows, spans))
            .unwrap_or_default()
    }

    fn requests(traffic: &Traffic, target: &str, spans: &Spans) -> Option<Self> {
        let (mut before, mut now, mut seconds) = (0.0, 0.0, f64::INFINITY);
        for (_, ways) in traffic.of_target(target) {
            let book = PREFERRED.iter().find_map(|via| {
                let book = ways.get(via)?;
                let is_covered = book.since? <= spans.before.0.max(spans.before.1 - 300.0)
                    && book.until? >= spans.now.0 + LEAST_SECONDS;
                is_covered.then_some(book)
            });
            let Some(book) = book else {
                continue;
            };
            let kept = spans.now.1 - KEPT;
            if spans.before.1 - LEAST_BEFORE < kept {
                continue;
            }
            let from = spans.before.0.max(book.since?).max(kept);
            let until = spans.now.1.min(book.until?);
            let rate = |from: f64, to: f64| book.all_requests.sum(from, to) / (to - from);
            before += rate(from, spans.before.1);
            now += rate(spans.now.0, until);
            seconds = f64::min(seconds, until - spans.now.0);
        }
        (seconds.is_finite() && before.is_finite() && now.is_finite()).then_some(Self::Known {
            before,
            now,
            seconds,
            what: "requests",
        })
    }

    fn transactions(flows: &Flows, spans: &Spans) -> Option<Self> {
        let seconds = spans.now.1 - spans.now.0;
        if seconds < LEAST_SECONDS {
            return None;
        }
        Some(Self::Known {
            before: flows.transactions.rate(spans.before.0, spans.before.1)?,
            now: flows.transactions.rate(spans.now.0, spans.now.1)?,
            seconds,
            what: "transactions at the poolers",
        })
    }

    /// Whether they asked for no more than before; `None` when nobody knows.
    pub fn is_flat(&self) -> Option<bool> {
        match *self {
            Self::Unknown => None,
            Self::Known {
                before,
                now,
                seconds,
                ..
            } => Some(now <= FLAT * before + NOISE * (before.max(1.0) / seconds.max(1.0)).sqrt()),
        }
    }

    /// The factor by which they asked for more.
    pub fn growth(&self) -> Option<f64> {
        match *self {
            Self::Known { before, now, .. } if before > 0.0 => Some(now / before),
            _ => None,
        }
    }

    /// For the evidence.
    pub fn sentence(&self) -> String {
        match *self {
            Self::Unknown => {
                "whether requests rose is not known: no application tells of its requests, and no \
                 pooler of its transactions"
                    .to_owned()
            }
            Self::Known {
                before, now, what, ..
            } => format!(
                "{what}: {}/s before, {}/s now",
                words::mean(before),
                words::mean(now)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{PoolStats, RouteTraffic, TrafficReport};

    const SPANS: Spans = Spans {
        before: (1_000.0, 1_300.0),
        now: (1_320.0, 1_350.0),
    };

    fn traffic(after: f64) -> Traffic {
        let mut traffic = Traffic::new(&[]);
        traffic.see(1_000.0, "main", "app");
        for t in 0..350 {
            let t = 1_000.0 + f64::from(t);
            let route = RouteTraffic {
                route: "/a".to_owned(),
                requests: if t < 1_310.0 { 100.0 } else { after },
                ..RouteTraffic::default()
            };
            let report = TrafficReport {
                service: "app".to_owned(),
                interval: 1.0,
                routes: vec![route],
                ..TrafficReport::default()
            };
            traffic.apply(t, &report);
        }
        traffic
    }

    #[test]
    fn requests_are_flat_or_not() {
        let of = |after| Demand::of(&traffic(after), "main", &Flows::default(), &SPANS);
        assert_eq!(of(105.0).is_flat(), Some(true));
        assert_eq!(of(200.0).is_flat(), Some(false));
        let growth = of(200.0).growth().unwrap();
        assert!((growth - 2.0).abs() < 0.1, "{growth}");
        assert!(of(200.0).sentence().starts_with("requests: "));
    }

    #[test]
    fn without_traffic_the_poolers_are_asked_and_then_nobody() {
        let none = Traffic::new(&[]);
        let unknown = Demand::of(&none, "main", &Flows::default(), &SPANS);
        assert_eq!((unknown, unknown.is_flat()), (Demand::Unknown, None));
        let mut flows = Flows::default();
        for t in 0..400 {
            let stats = PoolStats {
                database: "app".to_owned(),
                total_xact_count: t * 50,
                total_query_count: t * 50,
                ..PoolStats::default()
            };
            flows.pooler(950.0 + t as f64, "p", &[stats]);
        }
        let known = Demand::of(&none, "main", &flows, &SPANS);
        assert_eq!(known.is_flat(), Some(true), "{known:?}");
    }
}
