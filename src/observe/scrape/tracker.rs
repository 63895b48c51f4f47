//! From one page to the next: what each series counted in between.
//!
//! A page may come from one process today and from another tomorrow, or from a
//! different worker each time behind one port. Where it says when its process
//! began, each process is followed by itself; where it does not, there is one.
//! Pure: time is a parameter.

use std::hash::{BuildHasher, RandomState};

use super::collector::MAX_SERIES;
use super::page::{Page, Series};
use crate::observe::traffic::{Account, Contribution, Cumulative, Deltas, Tally};
use crate::sample::{DurationBucket, UnixSeconds};

/// Processes behind one address that are told apart. Beyond it the one unseen
/// for the longest is forgotten.
const MAX_PROCESSES: usize = 64;

/// Series of all processes of an address.
const MAX_TRACKED: usize = 2 * MAX_SERIES;

/// Start times closer than this, in seconds, are the same: some clients work
/// theirs out from an uptime.
const SAME_START: f64 = 1.0;

/// What is known from the pages before.
#[derive(Debug)]
pub struct Tracker {
    instance: u64,
    hashes: RandomState,
    deltas: Deltas<(u32, u64)>,
    /// The family that the series are of.
    family: Option<String>,
    processes: Vec<Process>,
    next: u32,
}

#[derive(Debug)]
struct Process {
    id: u32,
    start: Option<UnixSeconds>,
    seen: UnixSeconds,
    /// When the whole page was last read: what was not on it was not there.
    whole: Option<UnixSeconds>,
}

impl Tracker {
    /// `name` tells this page from the others of its service.
    pub fn new(name: &str) -> Self {
        let hashes = RandomState::new();
        Self {
            instance: hashes.hash_one(name),
            hashes,
            deltas: Deltas::new(MAX_TRACKED),
            family: None,
            processes: Vec::new(),
            next: 0,
        }
    }

    /// The hashing that makes the keys of the pages' series.
    pub fn hashes(&self) -> &RandomState {
        &self.hashes
    }

    /// Adds to `account` what came since the page before, and tells what was
    /// refused, on the page and here.
    pub fn take(&mut self, at: UnixSeconds, page: &Page, account: &mut Account) -> Tally {
        let family = page.found.as_ref().map(|found| &found.family);
        if family.is_some() && family != self.family.as_ref() {
            self.family = family.cloned();
            self.deltas = Deltas::new(MAX_TRACKED);
            self.processes.clear();
        }
        let mut refused = page.rejected.clone();
        let place = self.process(at, page.process_start);
        let process = &mut self.processes[place];
        let (id, absent_at) = (process.id, process.whole);
        process.seen = at;
        process.whole = (!page.incomplete).then_some(at);
        for series in &page.series {
            let buckets: Vec<f64> = series.buckets.iter().map(|(_, count)| *count).collect();
            let reading = Cumulative {
                at,
                started_at: page.process_start,
                absent_at,
                count: series.count,
                sum: series.sum,
                buckets: &buckets,
            };
            if let Some(increase) = self.deltas.push((id, series.key), &reading) {
                let durations = durations(series, &increase.buckets);
                account.add(
                    at,
                    &Contribution {
                        route: &series.route,
                        since: increase.since,
                        until: increase.until,
                        requests: increase.count,
                        duration_seconds: increase.sum,
                        database_seconds: None,
                        durations: &durations,
                    },
                );
            }
        }
        let instance = self.instance.wrapping_add(u64::from(id));
        for (route, running) in &page.in_flight {
            account.running(at, instance, route, *running);
        }
        refused.merge(&self.deltas.take_refused());
        refused
    }

    /// The place of the process that the page is of.
    fn process(&mut self, at: UnixSeconds, start: Option<UnixSeconds>) -> usize {
        let same = |known: &Process| match (known.start, start) {
            (Some(known), Some(start)) => (known - start).abs() <= SAME_START,
            (None, None) => true,
            _ => false,
        };
        if let Some(place) = self.processes.iter().position(same) {
            return place;
        }
        if self.processes.len() >= MAX_PROCESSES {
            let seen = |process: &&Process| process.seen;
            let oldest = self
                .processes
                .iter()
                .min_by(|a, b| seen(a).total_cmp(&seen(b)));
            if let Some(gone) = oldest.map(|process| process.id) {
                self.processes.retain(|process| process.id != gone);
                self.deltas.retain(|(id, _)| *id != gone);
            }
        }
        self.processes.push(Process {
            id: self.next,
            start,
            seen: at,
            whole: None,
        });
        self.next = self.next.wrapping_add(1);
        self.processes.len() - 1
    }
}

/// The increase by duration, without what is empty.
fn durations(series: &Series, increase: &[f64]) -> Vec<DurationBucket> {
    let bounds = series.buckets.iter().map(|(bound, _)| *bound);
    bounds
        .zip(increase)
        .filter(|(_, count)| **count > 0.0)
        .map(|(bound, count)| DurationBucket {
            upper: bound.is_finite().then_some(bound),
            count: *count,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::page::Found;
    use super::*;
    use crate::sample::{TrafficReport, TrafficVia};

    const START: f64 = 1_000_000.0;

    struct Bench {
        tracker: Tracker,
        account: Account,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                tracker: Tracker::new("registry"),
                account: Account::new("registry", TrafficVia::Scrape, 100),
            }
        }

        fn take(&mut self, at: f64, page: &Page) -> Vec<TrafficReport> {
            self.tracker.take(at, page, &mut self.account);
            self.account.flush(at)
        }
    }

    fn page(start: Option<f64>, series: &[(u64, &str, f64, f64)]) -> Page {
        let series = series.iter().map(|(key, route, count, sum)| Series {
            key: *key,
            route: (*route).to_owned(),
            count: *count,
            sum: *sum,
            buckets: vec![(0.1, *count), (f64::INFINITY, 0.0)],
        });
        Page {
            process_start: start,
            found: Some(Found {
                family: "f".to_owned(),
                labels: Vec::new(),
                routes: 1,
                without_route: 0,
            }),
            series: series.collect(),
            ..Page::default()
        }
    }

    /// Until, interval, and (route, requests, seconds) of each.
    type Told<'a> = (f64, f64, Vec<(&'a str, f64, f64)>);

    fn told(reports: &[TrafficReport]) -> Vec<Told<'_>> {
        reports
            .iter()
            .map(|report| {
                let routes = report.routes.iter();
                let routes = routes.map(|r| (r.route.as_str(), r.requests, r.duration_seconds));
                (
                    report.until.unwrap_or_default(),
                    report.interval,
                    routes.collect(),
                )
            })
            .collect()
    }

    #[test]
    fn the_first_page_is_a_start_and_a_missed_one_makes_a_longer_interval() {
        let mut bench = Bench::new();
        let old = Some(START - 90_000.0);
        assert!(
            bench
                .take(START, &page(old, &[(1, "/a", 50.0, 5.0)]))
                .is_empty()
        );
        let reports = bench.take(START + 5.0, &page(old, &[(1, "/a", 53.0, 5.5)]));
        assert_eq!(told(&reports), [(START + 5.0, 5.0, vec![("/a", 3.0, 0.5)])]);
        let durations = &reports[0].routes[0].durations;
        assert_eq!(
            (durations.len(), durations[0].upper, durations[0].count),
            (1, Some(0.1), 3.0)
        );
        let reports = bench.take(START + 20.0, &page(old, &[(1, "/a", 60.0, 6.5)]));
        assert_eq!(
            told(&reports),
            [(START + 20.0, 15.0, vec![("/a", 7.0, 1.0)])]
        );
    }

    #[test]
    fn statuses_are_added_up_and_one_that_vanishes_is_no_reset() {
        let mut bench = Bench::new();
        let both = |ok: f64, bad: f64| page(None, &[(1, "/a", ok, ok), (2, "/a", bad, bad)]);
        bench.take(START, &both(100.0, 40.0));
        let reports = bench.take(START + 5.0, &both(103.0, 41.0));
        assert_eq!(told(&reports)[0].2, [("/a", 4.0, 4.0)]);
        let reports = bench.take(START + 10.0, &page(None, &[(1, "/a", 104.0, 104.0)]));
        assert_eq!(told(&reports)[0].2, [("/a", 1.0, 1.0)]);
        let reports = bench.take(START + 15.0, &both(104.0, 42.0));
        let requests: f64 = told(&reports).iter().flat_map(|r| &r.2).map(|r| r.1).sum();
        assert_eq!(requests, 1.0);
    }

    #[test]
    fn a_new_route_counts_from_nothing_only_when_it_was_not_there() {
        let mut bench = Bench::new();
        let two = [(1, "/a", 1.0, 1.0), (2, "/b", 7.0, 7.0)];
        bench.take(START, &page(None, &two[..1]));
        let reports = bench.take(START + 5.0, &page(None, &two));
        let of_b = told(&reports)[0].2.contains(&("/b", 7.0, 7.0));
        assert!(of_b, "{reports:?}");
        let mut bench = Bench::new();
        let cut = Page {
            incomplete: true,
            ..page(None, &two[..1])
        };
        bench.take(START, &cut);
        let reports = bench.take(START + 5.0, &page(None, &two));
        let of_b = reports
            .iter()
            .flat_map(|r| &r.routes)
            .any(|route| route.route == "/b");
        assert!(!of_b, "it may have been there: {reports:?}");
    }

    #[test]
    fn a_restart_counts_from_nothing_with_and_without_a_start_time() {
        for start in [None, Some(START + 2.0)] {
            let mut bench = Bench::new();
            let before = start.map(|_| START - 90_000.0);
            bench.take(START, &page(before, &[(1, "/a", 50.0, 5.0)]));
            let reports = bench.take(START + 5.0, &page(start, &[(1, "/a", 4.0, 0.5)]));
            let since = start.unwrap_or(START);
            let interval = START + 5.0 - since;
            assert_eq!(
                told(&reports),
                [(START + 5.0, interval, vec![("/a", 4.0, 0.5)])]
            );
        }
    }

    #[test]
    fn workers_that_take_turns_behind_a_port_are_followed_each() {
        let mut bench = Bench::new();
        let worker = |n: usize, count: f64| {
            let start = START - 90_000.0 + 10.0 * n as f64;
            page(Some(start), &[(1, "/a", count, count)])
        };
        let counts = [
            (0, 1000.0),
            (1, 10.0),
            (0, 1003.0),
            (1, 14.0),
            (1, 15.0),
            (0, 1004.0),
        ];
        let mut requests = 0.0;
        for (turn, (n, count)) in counts.into_iter().enumerate() {
            let reports = bench.take(START + 5.0 * turn as f64, &worker(n, count));
            requests += reports
                .iter()
                .flat_map(|r| &r.routes)
                .map(|r| r.requests)
                .sum::<f64>();
        }
        assert_eq!(requests, 3.0 + 4.0 + 1.0 + 1.0);
    }

    #[test]
    fn another_family_is_a_new_start() {
        let mut bench = Bench::new();
        bench.take(START, &page(None, &[(1, "/a", 1.0, 1.0)]));
        let mut other = page(None, &[(9, "/a", 1000.0, 1000.0)]);
        if let Some(found) = &mut other.found {
            found.family = "g".to_owned();
        }
        assert!(bench.take(START + 5.0, &other).is_empty());
    }
}
