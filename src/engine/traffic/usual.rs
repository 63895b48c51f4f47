//! What is usual for a route, and how it got to where it is: for people who look
//! at it. The attribution of an avalanche has a baseline of its own, which ends
//! at the onset.

use super::book::{Book, Track};
use super::quantity::COARSE;
use crate::sample::UnixSeconds;

/// The usual is that of this long, seconds.
const SPAN: f64 = 1_800.0;

/// It ends this long ago, seconds: what has just begun is not usual.
const APART: f64 = 120.0;

/// With less than this, in seconds, nothing is called usual.
const LEAST: f64 = 300.0;

/// Coarse buckets to a point of the trend: a minute.
const POINT: usize = 2;

/// The figures of the half hour that ended two minutes ago. Rates a second,
/// times in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    pub rate: f64,
    /// Mean duration; `None` without a request that ended.
    pub hold: Option<f64>,
    /// Requests at a time: the gauge, or rate × duration.
    pub concurrency: f64,
}

/// `None` while too little is known of that time.
pub(super) fn usual(book: &Book, track: &Track) -> Option<Usual> {
    let to = book.until? - APART;
    let from = (to - SPAN).max(book.since?);
    if to - from < LEAST {
        return None;
    }
    let requests = track.requests.sum(from, to);
    let seconds = track.seconds.sum(from, to);
    let running = track.running.as_ref();
    let gauge = running.and_then(|running| running.mean(&[(from, to)]));
    Some(Usual {
        rate: requests / (to - from),
        hold: (requests > 0.0).then(|| seconds / requests),
        concurrency: gauge.unwrap_or(seconds / (to - from)),
    })
}

/// Requests at a time in each minute of the last half hour, oldest first; `None`
/// where nothing is known.
pub(super) fn trend(book: &Book, track: &Track) -> Vec<Option<f64>> {
    let to = book.newest();
    let from = to - SPAN;
    if let Some(running) = &track.running {
        return running.blocks(from, to, POINT);
    }
    let Some(since) = book.since else {
        return Vec::new();
    };
    let width = COARSE * POINT as f64;
    let first: UnixSeconds = (from / COARSE).ceil() * COARSE;
    let minutes = track.seconds.blocks(from, to, POINT).into_iter();
    minutes
        .enumerate()
        .map(|(at, seconds)| {
            let end = first + (at + 1) as f64 * width;
            (end > since).then_some(seconds / width)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::RouteTraffic;

    /// One request a second of 2 s for 40 minutes, then ten of them.
    fn book(minutes: u32) -> Book {
        let mut book = Book::default();
        for minute in 0..minutes {
            let from = 60_000.0 + f64::from(minute) * 60.0;
            let times = if minute + 1 == minutes { 10.0 } else { 1.0 };
            book.cover(from, from + 60.0);
            let route = RouteTraffic {
                route: "GET /a".into(),
                requests: 60.0 * times,
                duration_seconds: 120.0 * times,
                ..RouteTraffic::default()
            };
            book.take(from, from + 60.0, &route).unwrap();
        }
        book
    }

    #[test]
    fn what_has_just_begun_is_not_usual() {
        let book = book(40);
        let usual = usual(&book, book.track("GET /a").unwrap()).unwrap();
        assert!((usual.rate - 1.0).abs() < 0.01, "{usual:?}");
        assert!((usual.hold.unwrap() - 2.0).abs() < 0.01, "{usual:?}");
        assert!((usual.concurrency - 2.0).abs() < 0.02, "{usual:?}");
    }

    #[test]
    fn a_few_minutes_are_no_habit() {
        let book = book(4);
        assert_eq!(usual(&book, book.track("GET /a").unwrap()), None);
    }

    #[test]
    fn the_trend_ends_with_the_newest_minute() {
        let book = book(10);
        let trend = trend(&book, book.track("GET /a").unwrap());
        assert_eq!(trend.len(), 30);
        let known: Vec<f64> = trend.iter().copied().flatten().collect();
        assert_eq!(known.len(), 10, "{trend:?}");
        assert!((known[9] - 20.0).abs() < 0.1, "{known:?}");
        assert!((known[3] - 2.0).abs() < 0.1, "{known:?}");
    }
}
