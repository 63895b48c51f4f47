//! The users of the demo's application: requests over real HTTP.
//!
//! The load is open: requests come when they come, however slow the answers
//! are, as from many independent users. The popular routes share a rate by
//! Zipf's law; each slow route has a rate of its own. A scenario turns them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DemoError;
use super::application::Application;
use super::routes::{ROUTES, ROWS, Route, SLOW};
use crate::observe::tls::use_ring;

/// Requests/s of the popular routes together: few enough for two cores that
/// also run the servers.
const POPULAR_RATE: f64 = 80.0;
/// Requests/s of each slow route on a quiet day: about one at a time.
const SLOW_RATE: f64 = 0.08;

/// Requests/s from now on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    /// Of the popular routes together.
    pub(super) popular: f64,
    pub(super) slow: [f64; SLOW.len()],
}

/// Those of a quiet day.
pub(super) const QUIET: Rates = Rates {
    popular: POPULAR_RATE,
    slow: [SLOW_RATE; SLOW.len()],
};

impl Rates {
    /// Everybody's, so many times as high.
    pub(super) fn times(self, factor: f64) -> Self {
        Self {
            popular: self.popular * factor,
            slow: self.slow.map(|rate| rate * factor),
        }
    }
}

/// Requests on the way at once; beyond it they are counted as dropped.
const IN_FLIGHT: usize = 300;
/// A user's patience.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Requests so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Requests {
    pub(super) popular: u64,
    /// Of the slow routes.
    pub(super) slow: u64,
    /// Answered with an error, or not at all.
    pub(super) failed: u64,
    /// Not sent since too many were on the way.
    pub(super) dropped: u64,
}

impl Requests {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            popular: self.popular - earlier.popular,
            slow: self.slow - earlier.slow,
            failed: self.failed - earlier.failed,
            dropped: self.dropped - earlier.dropped,
        }
    }

    pub(super) fn all(self) -> u64 {
        self.popular + self.slow
    }

    /// The slow routes' part of all requests, 0 to 1.
    pub(super) fn slow_share(self) -> f64 {
        self.slow as f64 / self.all().max(1) as f64
    }
}

#[derive(Debug, Default)]
struct Counters {
    popular: AtomicU64,
    slow: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Load {
    counters: Arc<Counters>,
    rates: watch::Sender<Rates>,
    _streams: JoinSet<()>,
}

impl Load {
    pub(super) fn start(application: &Application) -> Result<Self, DemoError> {
        use_ring();
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .build()?;
        let counters = Arc::new(Counters::default());
        let (rates, turned) = watch::channel(QUIET);
        let base: Arc<str> = application.url().into();
        let stream = || Stream {
            http: http.clone(),
            base: Arc::clone(&base),
            counters: Arc::clone(&counters),
            on_the_way: JoinSet::new(),
        };
        let mut streams = JoinSet::new();
        streams.spawn(stream().popular(turned.clone()));
        for route in 0..SLOW.len() {
            streams.spawn(stream().slow(route, turned.clone()));
        }
        Ok(Self {
            counters,
            rates,
            _streams: streams,
        })
    }

    /// The rates from now on.
    pub(super) fn turn(&self, rates: Rates) {
        self.rates.send_replace(rates);
    }

    pub(super) fn requests(&self) -> Requests {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            popular: read(&self.counters.popular),
            slow: read(&self.counters.slow),
            failed: read(&self.counters.failed),
            dropped: read(&self.counters.dropped),
        }
    }
}

/// One source of requests.
struct Stream {
    http: reqwest::Client,
    base: Arc<str>,
    counters: Arc<Counters>,
    on_the_way: JoinSet<()>,
}

impl Stream {
    /// Poisson arrivals, routes by Zipf's law.
    async fn popular(mut self, rates: watch::Receiver<Rates>) {
        let weights = zipf(ROUTES.len());
        let mut next = Instant::now();
        loop {
            let gap = -(1.0 - fastrand::f64()).ln() / rates.borrow().popular;
            next += Duration::from_secs_f64(gap);
            tokio::time::sleep_until(next).await;
            let route = &ROUTES[pick(&weights, fastrand::f64())];
            self.send(route, |counters| &counters.popular);
        }
    }

    /// Even arrivals, so that a short surge is as large as it says.
    async fn slow(mut self, place: usize, mut rates: watch::Receiver<Rates>) {
        // Not all slow routes at the same moments.
        let mut phase = (place + 1) as f64 / SLOW.len() as f64;
        let mut last = Instant::now();
        loop {
            let rate = rates.borrow_and_update().slow[place];
            tokio::select! {
                () = tokio::time::sleep_until(last + Duration::from_secs_f64(phase / rate)) => {
                    last = Instant::now();
                    phase = 1.0;
                    self.send(&SLOW[place], |counters| &counters.slow);
                }
                changed = rates.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    last = Instant::now();
                }
            }
        }
    }

    fn send(&mut self, route: &Route, kind: fn(&Counters) -> &AtomicU64) {
        while self.on_the_way.try_join_next().is_some() {}
        if self.on_the_way.len() >= IN_FLIGHT {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        kind(&self.counters).fetch_add(1, Ordering::Relaxed);
        let Ok(method) = reqwest::Method::from_bytes(route.method.as_bytes()) else {
            return;
        };
        let url = format!("{}{}", self.base, route.address(fastrand::u32(1..=ROWS)));
        let request = self.http.request(method, url).send();
        let counters = Arc::clone(&self.counters);
        self.on_the_way.spawn(async move {
            let answer = request.await;
            if !answer.is_ok_and(|answer| answer.status().is_success()) {
                counters.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Cumulative weights 1, 1/2, 1/3 …, ending in 1.
fn zipf(routes: usize) -> Vec<f64> {
    let weights: Vec<f64> = (1..=routes)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect();
    let total = weights.last().copied().unwrap_or(1.0);
    weights.iter().map(|weight| weight / total).collect()
}

/// Requests/s of the popular route at this place of [`ROUTES`] on a quiet day.
pub(super) fn usual_rate(place: usize) -> f64 {
    let weights = zipf(ROUTES.len());
    let before = place.checked_sub(1).map_or(0.0, |before| weights[before]);
    (weights[place] - before) * POPULAR_RATE
}

/// The index whose part of the cumulative weights holds `point`, 0 to 1.
fn pick(weights: &[f64], point: f64) -> usize {
    weights
        .partition_point(|weight| *weight < point)
        .min(weights.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_is_the_most_popular() {
        let weights = zipf(4);
        assert!(
            (weights[0] - 0.48).abs() < 1e-9,
            "1 / (1 + 1/2 + 1/3 + 1/4)"
        );
        assert_eq!(pick(&weights, 0.0), 0);
        assert_eq!(pick(&weights, 0.47), 0);
        assert_eq!(pick(&weights, 0.49), 1);
        assert_eq!(pick(&weights, 1.0), 3);
        let all: f64 = (0..ROUTES.len()).map(usual_rate).sum();
        assert!((all - POPULAR_RATE).abs() < 1e-9, "{all}");
    }
}
