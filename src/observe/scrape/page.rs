//! A page of metrics, read as it comes: what of it tells of requests.
//!
//! Pure: pieces of a body go in, a [`Page`] comes out, and no piece is kept.

use std::collections::BTreeMap;
use std::hash::RandomState;

use super::collector::Collector;
use super::line::Parser;
use super::lines::Lines;
use crate::observe::traffic::Tally;
use crate::sample::UnixSeconds;

/// What is wanted of a page, and how it is written.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The family to take; `None`: the best known one of the page.
    pub metric: Option<String>,
    /// The labels that make a route; empty: the known ones.
    pub route_labels: Vec<String>,
    /// Time stamps are in seconds, and the page must end in `# EOF`.
    pub openmetrics: bool,
    /// Our time.
    pub now: UnixSeconds,
    /// Kept from page to page, so that keys can be compared.
    pub hashes: RandomState,
}

/// What a page tells of requests.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// When the process began, if it says so.
    pub process_start: Option<UnixSeconds>,
    /// The family that was taken.
    pub found: Option<Found>,
    pub series: Vec<Series>,
    /// Running requests by route.
    pub in_flight: BTreeMap<String, f64>,
    /// The gauge that they come from.
    pub in_flight_metric: Option<String>,
    /// What was there instead, when nothing was taken.
    pub candidates: Vec<Candidate>,
    pub lines: u64,
    /// Lines that are a series with its value, whatever of.
    pub samples: u64,
    pub rejected: Tally,
    /// The first line that was not taken, and why.
    pub first_rejected: Option<(u64, &'static str)>,
    /// A rejected line may have been a series of requests: one that is missing
    /// here need not be absent.
    pub incomplete: bool,
}

/// The family that tells of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub family: String,
    /// The labels of its first series that made the route.
    pub labels: Vec<String>,
    pub routes: usize,
    /// Series that have no route.
    pub without_route: usize,
}

/// A family that could tell of requests and was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    pub labels: Vec<String>,
    pub why: &'static str,
}

/// One cumulative series: one route by everything else that labels tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// A hash of its family and labels.
    pub key: u64,
    pub route: String,
    pub count: f64,
    /// In seconds.
    pub sum: f64,
    /// (Upper bound in seconds, requests in this bucket alone), ascending.
    pub buckets: Vec<(f64, f64)>,
}

/// Reads one page.
#[derive(Debug)]
pub struct Reader {
    lines: Lines,
    parser: Parser,
    collector: Collector,
}

impl Reader {
    pub fn new(wanted: Wanted) -> Self {
        Self {
            lines: Lines::default(),
            parser: Parser::default(),
            collector: Collector::new(wanted),
        }
    }

    /// The next piece of the body.
    pub fn feed(&mut self, piece: &[u8]) {
        let (parser, collector) = (&mut self.parser, &mut self.collector);
        self.lines
            .feed(piece, |number, line| collector.line(parser, number, line));
    }

    /// The body is over.
    pub fn finish(mut self) -> Page {
        let (parser, collector) = (&mut self.parser, &mut self.collector);
        self.lines
            .finish(|number, line| collector.line(parser, number, line));
        self.collector.finish(self.lines.number())
    }
}

#[cfg(test)]
mod tests;
