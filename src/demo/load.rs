//! The users of the demo's application: requests over real HTTP.
//!
//! The load is open: requests come when they come, however slow the answers
//! are, as from many independent users. The popular routes share a steady rate
//! by Zipf's law; the rare route has a rate of its own, which a scenario turns
//! up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DemoError;
use super::application::Application;
use super::routes::{RARE, ROUTES, ROWS, Route};
use crate::observe::tls::use_ring;

/// Requests/s of the popular routes together: enough that the rare route stays
/// under 3 % in its surge, few enough for two cores that also run the servers.
const POPULAR_RATE: f64 = 170.0;
/// Requests/s of the rare route on a quiet day: two at a time, at 10 s each.
pub(super) const QUIET_RATE: f64 = 0.2;
/// And in the surge: forty at a time.
pub(super) const SURGE_RATE: f64 = 4.0;
const _: () = assert!(SURGE_RATE / (SURGE_RATE + POPULAR_RATE) < 0.03);
/// Requests on the way at once; beyond it they are counted as dropped.
const IN_FLIGHT: usize = 300;
/// A user's patience.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Requests so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Requests {
    pub(super) popular: u64,
    pub(super) rare: u64,
    /// Answered with an error, or not at all.
    pub(super) failed: u64,
    /// Not sent since too many were on the way.
    pub(super) dropped: u64,
}

impl Requests {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            popular: self.popular - earlier.popular,
            rare: self.rare - earlier.rare,
            failed: self.failed - earlier.failed,
            dropped: self.dropped - earlier.dropped,
        }
    }

    /// The rare route's part of all requests, 0 to 1.
    pub(super) fn rare_share(self) -> f64 {
        let total = self.popular + self.rare;
        if total == 0 {
            return 0.0;
        }
        self.rare as f64 / total as f64
    }
}

#[derive(Debug, Default)]
struct Counters {
    popular: AtomicU64,
    rare: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Load {
    counters: Arc<Counters>,
    rare_rate: watch::Sender<f64>,
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
        let (rare_rate, rate) = watch::channel(QUIET_RATE);
        let base: Arc<str> = application.url().into();
        let stream = || Stream {
            http: http.clone(),
            base: Arc::clone(&base),
            counters: Arc::clone(&counters),
            on_the_way: JoinSet::new(),
        };
        let mut streams = JoinSet::new();
        streams.spawn(stream().popular());
        streams.spawn(stream().rare(rate));
        Ok(Self {
            counters,
            rare_rate,
            _streams: streams,
        })
    }

    /// Requests/s of the rare route from now on.
    pub(super) fn set_rare_rate(&self, rate: f64) {
        self.rare_rate.send_replace(rate);
    }

    pub(super) fn requests(&self) -> Requests {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            popular: read(&self.counters.popular),
            rare: read(&self.counters.rare),
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
    async fn popular(mut self) {
        let weights = zipf(ROUTES.len());
        let mut next = Instant::now();
        loop {
            let gap = -(1.0 - fastrand::f64()).ln() / POPULAR_RATE;
            next += Duration::from_secs_f64(gap);
            tokio::time::sleep_until(next).await;
            let route = &ROUTES[pick(&weights, fastrand::f64())];
            self.send(route, |counters| &counters.popular);
        }
    }

    /// Even arrivals, so that a short surge is as large as it says.
    async fn rare(mut self, mut rate: watch::Receiver<f64>) {
        let mut last = Instant::now();
        loop {
            let gap = Duration::from_secs_f64(1.0 / *rate.borrow_and_update());
            tokio::select! {
                () = tokio::time::sleep_until(last + gap) => {
                    last += gap;
                    self.send(&RARE, |counters| &counters.rare);
                }
                changed = rate.changed() => {
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
    }
}
