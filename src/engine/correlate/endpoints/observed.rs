//! One row an endpoint: what ended before the onset and since, what runs, and
//! which kind of evidence that is.
//!
//! Several ways tell of the same requests. Counts come from the way that is
//! fresh and counts everything (metrics before traces, which may be a sample); a
//! route that only another way knows comes from there. Time in the database,
//! where traces tell it, takes the place of the duration, and scales a gauge of
//! running requests; a gauge is *now*, counters are as old as the request is
//! long, so a gauge takes the place of counters.

use std::collections::{BTreeMap, HashMap};

use super::flow::Ended;
use crate::engine::traffic::quantity::Quantity;
use crate::engine::traffic::view::PREFERRED;
use crate::engine::traffic::{Book, Level, RouteKey, Track};
use crate::sample::{TrafficVia, UnixSeconds};

/// Seconds of baseline without which nothing is judged.
const LEAST_BASELINE: f64 = 15.0;

/// The window reaches back this far in an incident that lasts, in seconds: what
/// explains it can change.
const LONGEST_WINDOW: f64 = 300.0;

/// A window shorter than this, in seconds, holds no counts worth a look.
const SHORTEST_WINDOW: f64 = 2.0;

/// A way whose counts end so much earlier than another's, in seconds, is stale
/// beside it.
const STALE: f64 = 10.0;

/// Traced requests without which nothing is said of an endpoint's use of the
/// database.
const LEAST_TRACED: f64 = 10.0;

/// An endpoint without a database call in its traces keeps so much of its
/// suspicion: a call made in another thread can be missing from them.
const UNTRACED: f64 = 0.03;

/// The time before an incident and the time of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    /// Spans of normal traffic, without earlier incidents.
    pub baseline: Vec<(UnixSeconds, UnixSeconds)>,
    pub onset: UnixSeconds,
    pub now: UnixSeconds,
}

impl Windows {
    /// Where the window begins.
    pub fn from(&self) -> UnixSeconds {
        self.onset.max(self.now - LONGEST_WINDOW)
    }

    /// The spans of the baseline from a moment on, and their seconds.
    fn baseline_since(&self, since: UnixSeconds) -> (Vec<(UnixSeconds, UnixSeconds)>, f64) {
        let spans: Vec<_> = self
            .baseline
            .iter()
            .map(|&(from, to)| (from.max(since), to))
            .filter(|&(from, to)| to > from)
            .collect();
        let seconds = spans.iter().map(|(from, to)| to - from).sum();
        (spans, seconds)
    }
}

/// What an endpoint's figures rest on. Route tags of sessions, the strongest
/// kind, do not come this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Time in the database by traces.
    DatabaseTime,
    /// A gauge of running requests.
    InFlight,
    /// Counts and durations of requests that ended.
    Completed,
}

/// In a window shorter than the requests of an endpoint its counters cannot
/// have moved yet: this part of the window must be longer than they are.
const SHOWS: f64 = 0.7;

/// From such a window on, in seconds, nobody is waited for: a long poll may never
/// end.
const PATIENCE: f64 = 60.0;

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    pub service: &'a str,
    pub track: &'a Track,
    pub book: &'a Book,
    pub evidence: Evidence,
    pub normal: Ended,
    pub since: Ended,
    /// Requests at a time before and since, by the gauge.
    pub running: Option<(f64, f64)>,
    /// Part of an endpoint's time that is in the database, 0 to 1.
    pub part: f64,
    /// The figures are of the time up to here.
    pub until: UnixSeconds,
    /// Seconds that a request took before the onset, in the database or not.
    pub length: f64,
}

/// Adds every endpoint of a service that something is known of.
pub fn observe<'a>(
    service: &'a str,
    ways: &'a BTreeMap<TrafficVia, Book>,
    windows: &Windows,
    all: &mut Vec<Observed<'a>>,
) {
    let books = in_order(ways, windows);
    let traces = ways.get(&TrafficVia::OtlpSpans);
    let most = books.iter().map(|book| book.tracks().len()).max();
    let mut rows: Vec<Observed<'a>> = Vec::with_capacity(most.unwrap_or(0));
    let mut known: HashMap<&'a str, Vec<usize>> = HashMap::new();
    let several = books.len() > 1;
    for (rank, &book) in books.iter().enumerate() {
        let spans = Spans::of(book, windows);
        for track in book.tracks().iter().filter(|track| !track.is_other()) {
            let template = track.key.template.as_str();
            if rank > 0 && meets_any(&rows, known.get(template), &track.key) {
                continue;
            }
            let Some(row) = spans.row(service, book, track) else {
                continue;
            };
            if several {
                known.entry(template).or_default().push(rows.len());
            }
            rows.push(row);
        }
    }
    put_database_time(&mut rows, traces, windows);
    put_gauges(&mut rows, &books, windows);
    if all.is_empty() {
        *all = rows;
    } else {
        all.append(&mut rows);
    }
}

/// The books, the one to count by first.
fn in_order<'a>(ways: &'a BTreeMap<TrafficVia, Book>, windows: &Windows) -> Vec<&'a Book> {
    let newest = |book: &Book| {
        let ended = book.until.unwrap_or(f64::NEG_INFINITY);
        ended.min(windows.now)
    };
    let freshest = ways.values().map(newest).fold(f64::NEG_INFINITY, f64::max);
    let mut books: Vec<&Book> = PREFERRED.iter().filter_map(|via| ways.get(via)).collect();
    // Stable: those alike stay in the order of preference.
    books.sort_by_key(|book| {
        let (_, seconds) = windows.baseline_since(book.since.unwrap_or(f64::INFINITY));
        (seconds < LEAST_BASELINE, freshest - newest(book) > STALE)
    });
    books
}

fn meets_any(rows: &[Observed<'_>], places: Option<&Vec<usize>>, key: &RouteKey) -> bool {
    places.is_some_and(|places| {
        let mut known = places.iter().filter_map(|&place| rows.get(place));
        known.any(|row| row.track.key.meets(key))
    })
}

/// What a book covers of the windows.
struct Spans {
    baseline: Vec<(UnixSeconds, UnixSeconds)>,
    baseline_seconds: f64,
    from: UnixSeconds,
    until: UnixSeconds,
    has_baseline: bool,
}

impl Spans {
    fn of(book: &Book, windows: &Windows) -> Self {
        let (baseline, baseline_seconds) =
            windows.baseline_since(book.since.unwrap_or(f64::INFINITY));
        let from = windows.from();
        let until = book.until.unwrap_or(from).min(windows.now);
        Self {
            baseline,
            baseline_seconds,
            from,
            until: if until - from >= SHORTEST_WINDOW {
                until
            } else {
                from
            },
            has_baseline: baseline_seconds >= LEAST_BASELINE,
        }
    }

    fn row<'a>(&self, service: &'a str, book: &'a Book, track: &'a Track) -> Option<Observed<'a>> {
        let mut normal = Ended::default();
        let mut since = Ended::default();
        if self.has_baseline {
            normal.window = self.baseline_seconds;
            for &(from, to) in &self.baseline {
                normal.requests += track.requests.sum(from, to);
                normal.seconds += track.seconds.sum(from, to);
            }
            since = Ended {
                window: self.until - self.from,
                requests: track.requests.sum(self.from, self.until),
                seconds: track.seconds.sum(self.from, self.until),
            };
        }
        let silent = normal.requests <= 0.0 && since.requests <= 0.0;
        if silent && track.running.is_none() {
            return None;
        }
        Some(Observed {
            service,
            track,
            book,
            evidence: Evidence::Completed,
            normal,
            since,
            running: None,
            part: 1.0,
            until: self.until,
            length: if normal.requests > 0.0 {
                normal.seconds / normal.requests
            } else {
                0.0
            },
        })
    }
}

/// Takes the time in the database in place of the durations, for the routes
/// whose traces tell it.
fn put_database_time(rows: &mut [Observed<'_>], traces: Option<&Book>, windows: &Windows) {
    let Some(traces) = traces else { return };
    let mut tell = traces.tracks().iter();
    if !tell.any(|track| track.database.is_some()) {
        return;
    }
    let (baseline, _) = windows.baseline_since(traces.since.unwrap_or(f64::INFINITY));
    let window = (windows.from(), windows.now);
    let exact: HashMap<&RouteKey, &Track> = traces
        .tracks()
        .iter()
        .map(|track| (&track.key, track))
        .collect();
    for row in rows {
        let Some(track) = exact.get(&row.track.key) else {
            continue;
        };
        let sum = |quantity: &Quantity, of: &[(f64, f64)]| {
            of.iter()
                .map(|&(from, to)| quantity.sum(from, to))
                .sum::<f64>()
        };
        let both: Vec<_> = baseline.iter().copied().chain([window]).collect();
        let traced = sum(&track.requests, &both);
        let Some(database) = &track.database else {
            if traced >= LEAST_TRACED {
                row.scale(UNTRACED, UNTRACED);
                row.part = UNTRACED;
                row.evidence = Evidence::DatabaseTime;
            }
            continue;
        };
        // The part of the time, where a request ended; of all where none did.
        let part = |of: &[(f64, f64)]| {
            let seconds = sum(&track.seconds, of);
            (seconds > 0.0).then(|| (sum(database, of) / seconds).clamp(0.0, 1.0))
        };
        let Some(of_all) = part(&both) else { continue };
        let normal = part(&baseline).unwrap_or(of_all);
        let since = part(&[window]).unwrap_or(of_all);
        row.scale(normal, since);
        row.part = of_all;
        row.evidence = Evidence::DatabaseTime;
    }
}

/// Puts the gauges of running requests beside the counts.
fn put_gauges<'a>(rows: &mut Vec<Observed<'a>>, books: &[&'a Book], windows: &Windows) {
    for &book in books {
        let (Some(since), Some(until)) = (book.running_since, book.running_at) else {
            continue;
        };
        let (baseline, seconds) = windows.baseline_since(since);
        let (from, until) = (windows.from(), until.min(windows.now));
        if seconds < LEAST_BASELINE || until - from < SHORTEST_WINDOW {
            continue;
        }
        let reading = |level: &Level| {
            // A gauge that came up later was at nothing before.
            let before = level.mean(&baseline).unwrap_or(0.0);
            let newest = level.last().filter(|&(t, _)| t > from).map(|(_, now)| now);
            let now = level.mean(&[(from, until)]).or(newest)?;
            Some((before, now))
        };
        for row in rows.iter_mut().filter(|row| row.running.is_none()) {
            let other = !std::ptr::eq(row.book, book);
            let track = if other {
                book.track(&row.track.name)
            } else {
                Some(row.track)
            };
            let level = track.and_then(|track| track.running.as_ref());
            if let Some((before, now)) = level.and_then(|level| reading(level)) {
                row.running = Some((before * row.part, now * row.part));
                row.until = until;
                if row.evidence == Evidence::Completed {
                    row.evidence = Evidence::InFlight;
                }
            }
        }
    }
    // A gauge without counts is a row that says nothing when it is not told of.
    rows.retain(|row| row.running.is_some() || row.normal.requests + row.since.requests > 0.0);
}

impl Observed<'_> {
    /// It may have risen and nothing could show it yet.
    pub fn is_blind(&self) -> bool {
        let window = self.since.window;
        self.running.is_none() && window < PATIENCE && self.length > SHOWS * window
    }

    fn scale(&mut self, normal: f64, since: f64) {
        self.normal.seconds *= normal;
        self.since.seconds *= since;
    }
}
