//! Routes as they are shown: rates, durations and concurrency of the last
//! minute, by source.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Traffic;
use super::book::{Book, Track};
use super::usual::{Usual, trend, usual};
use crate::sample::{TrafficVia, UnixSeconds};

/// Routes shown of all services together: the ones with most at a time.
pub const SHOWN: usize = 500;

/// Seconds that a rate is of.
const WINDOW: f64 = 60.0;

/// A gauge older than this, in seconds, says nothing about now.
const GAUGE_STALE: f64 = 150.0;

/// Counters shown one by one, as many as the contract allows.
pub const COUNTERS: usize = 100;

/// The routes, most at a time first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficView {
    pub routes: Vec<RouteView>,
    /// Routes that were left out.
    pub left_out: usize,
    /// Requests since the start by service and route: the largest, and what is
    /// left under `other` of no service.
    pub totals: Vec<RouteTotal>,
    pub other_total: Option<f64>,
}

/// Requests of a route since the daemon hears of it.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTotal {
    pub service: Arc<str>,
    pub route: Arc<str>,
    pub requests: f64,
}

/// One route of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteView {
    pub service: Arc<str>,
    pub route: Arc<str>,
    /// The targets that its service belongs to.
    pub targets: Arc<[String]>,
    /// Never added up: the same requests told of in several ways.
    pub sources: Vec<ViaView>,
    /// Requests at a time by the minute, of the last half hour and the source
    /// that is believed first; `None` where nothing is known.
    pub trend: Vec<Option<f64>>,
}

/// One way's figures. Times in seconds, rates a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViaView {
    pub via: TrafficVia,
    /// The figures are of the minute up to here.
    pub until: Option<UnixSeconds>,
    pub rate: f64,
    /// Mean duration; `None` without a request that ended.
    pub hold: Option<f64>,
    /// Mean time in the database, where it is told.
    pub database: Option<f64>,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Requests running, by the application's own gauge.
    pub in_flight: Option<f64>,
    /// Requests at a time: the gauge, or rate × duration (Little's law).
    pub concurrency: f64,
    /// The same as it usually is; `None` while too little is known.
    pub usual: Option<Usual>,
}

impl RouteView {
    /// The most that any source says.
    pub fn concurrency(&self) -> f64 {
        let sources = self.sources.iter();
        sources.map(|via| via.concurrency).fold(0.0, f64::max)
    }

    /// The mean duration of the source that is believed first.
    pub fn hold(&self) -> Option<f64> {
        self.sources.iter().find_map(|via| via.hold)
    }
}

/// Which way is believed when several tell of the same requests: metrics count
/// all of them, traces may be a sample.
pub const PREFERRED: [TrafficVia; 4] = [
    TrafficVia::OtlpMetrics,
    TrafficVia::Scrape,
    TrafficVia::Other,
    TrafficVia::OtlpSpans,
];

pub(super) fn make(traffic: &Traffic, targets: &[&str]) -> TrafficView {
    let mut routes = Vec::new();
    let mut totals = Vec::new();
    for (service, ways) in traffic.services() {
        let name: Arc<str> = service.as_str().into();
        let tied: Arc<[String]> = targets
            .iter()
            .filter(|target| traffic.tie(service, target).is_some())
            .map(|&target| target.to_owned())
            .collect();
        let mut found: BTreeMap<&str, Vec<ViaView>> = BTreeMap::new();
        for via in PREFERRED {
            if let Some(book) = ways.get(&via) {
                for track in book.tracks() {
                    let sources = found.entry(&*track.name).or_default();
                    sources.push(figures(via, book, track));
                }
            }
        }
        routes.extend(found.into_iter().map(|(route, sources)| {
            let (service, route) = (Arc::clone(&name), route.into());
            let targets = Arc::clone(&tied);
            RouteView {
                service,
                route,
                targets,
                sources,
                trend: Vec::new(),
            }
        }));
        let counted = PREFERRED.iter().find_map(|via| ways.get(via));
        totals.extend(
            counted
                .into_iter()
                .flat_map(Book::tracks)
                .map(|track| RouteTotal {
                    service: Arc::clone(&name),
                    route: Arc::clone(&track.name),
                    requests: track.total,
                }),
        );
    }
    let left_out = cut(&mut routes, SHOWN, RouteView::concurrency).len();
    put_details(&mut routes, traffic);
    let rest = cut(&mut totals, COUNTERS, |total| total.requests);
    TrafficView {
        routes,
        left_out,
        totals,
        other_total: (!rest.is_empty()).then(|| rest.iter().map(|total| total.requests).sum()),
    }
}

/// Only for what is shown: each costs microseconds.
fn put_details(routes: &mut [RouteView], traffic: &Traffic) {
    for route in routes {
        let Some(ways) = traffic.services().get(&*route.service) else {
            continue;
        };
        for source in &mut route.sources {
            let Some(book) = ways.get(&source.via) else {
                continue;
            };
            let Some(track) = book.track(&route.route) else {
                continue;
            };
            if let Some(holds) = &track.holds {
                [source.p50, source.p99] = holds.quantiles([0.5, 0.99]);
            }
            source.usual = usual(book, track);
            if route.trend.is_empty() {
                route.trend = trend(book, track);
            }
        }
    }
}

/// Keeps the `limit` largest, largest first; the others.
fn cut<T>(all: &mut Vec<T>, limit: usize, size: impl Fn(&T) -> f64) -> Vec<T> {
    all.sort_by(|a, b| size(b).total_cmp(&size(a)));
    all.split_off(limit.min(all.len()))
}

fn figures(via: TrafficVia, book: &Book, track: &Track) -> ViaView {
    let to = book.until.unwrap_or(0.0);
    let from = to - WINDOW.min((to - book.since.unwrap_or(to)).max(1.0));
    let requests = track.requests.sum(from, to);
    let seconds = track.seconds.sum(from, to);
    let mean = |sum: f64| (requests > 0.0).then(|| sum / requests);
    let in_flight = track
        .running
        .as_ref()
        .and_then(|running| running.last())
        .filter(|&(at, _)| {
            book.running_at
                .is_some_and(|newest| newest - at <= GAUGE_STALE)
        })
        .map(|(_, now)| now);
    ViaView {
        via,
        until: book.until,
        rate: requests / (to - from).max(1.0),
        hold: mean(seconds),
        database: track
            .database
            .as_ref()
            .and_then(|database| mean(database.sum(from, to))),
        p50: None,
        p99: None,
        usual: None,
        in_flight,
        concurrency: in_flight.unwrap_or(seconds / (to - from).max(1.0)),
    }
}
