//! Traffic reports and looks at the server as series on one grid.
//!
//! Cells are five seconds wide and meet at the onset, so that none is of both
//! times. A report is spread evenly over the span that it covers; a cell that
//! the reports cover by less than half is not known. Only what had arrived by
//! then is in it.

use std::collections::{HashMap, HashSet};

use super::Metric;
use crate::sample::{Report, Sample, TrafficReport, UnixSeconds};

/// Width of a cell, seconds: a request rate over one second is noise for the
/// endpoints that matter, and over fifteen the onset is gone.
pub const CELL: f64 = 5.0;

/// Cells before the onset: half an hour.
const BEFORE: usize = 360;

/// Seconds before the onset that count as neither: the estimate may be a little
/// late.
const GUARD: f64 = 20.0;

/// Service and route.
pub type Name = (String, String);

/// One endpoint's cells.
#[derive(Debug, Clone)]
struct Row {
    service: usize,
    requests: Vec<f64>,
    seconds: Vec<f64>,
}

/// All series that a method may look at.
#[derive(Debug, Clone)]
pub struct Grid {
    onset: UnixSeconds,
    cells: usize,
    names: Vec<Name>,
    rows: Vec<Row>,
    /// Seconds of each cell that a service's reports cover.
    covered: Vec<Vec<f64>>,
    sessions: Vec<Option<f64>>,
}

/// Values of one endpoint before the onset and since.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Split {
    pub before: Vec<f64>,
    pub since: Vec<f64>,
}

impl Grid {
    /// Of the samples that had arrived by `now`.
    pub fn of<'a>(
        samples: impl Iterator<Item = &'a Sample>,
        onset: UnixSeconds,
        now: UnixSeconds,
    ) -> Self {
        let since = ((now - onset).max(0.0) / CELL).ceil() as usize;
        let mut grid = Self {
            onset,
            cells: BEFORE + since.clamp(1, BEFORE),
            names: Vec::new(),
            rows: Vec::new(),
            covered: Vec::new(),
            sessions: Vec::new(),
        };
        let mut sums = vec![(0.0, 0.0); grid.cells];
        let mut waiting: HashMap<String, f64> = HashMap::new();
        let mut services: HashMap<String, usize> = HashMap::new();
        let mut places: HashMap<Name, usize> = HashMap::new();
        let mut seen: HashSet<(usize, u64)> = HashSet::new();
        for sample in samples.filter(|sample| sample.t <= now) {
            match &sample.report {
                Report::Postgres(report) if report.error.is_none() => {
                    let in_use = report.groups.iter().filter(|group| {
                        group.state.as_deref().is_some_and(|state| state != "idle")
                    });
                    let count: f64 = in_use.map(|group| f64::from(group.count)).sum();
                    let count = count + waiting.values().sum::<f64>();
                    if let Some(cell) = grid.cell(sample.t).and_then(|cell| sums.get_mut(cell)) {
                        cell.0 += count;
                        cell.1 += 1.0;
                    }
                }
                Report::Pgbouncer(report) if report.error.is_none() => {
                    let pools = report.pools.iter();
                    let clients = pools.map(|pool| f64::from(pool.cl_waiting)).sum();
                    waiting.insert(report.pooler.clone(), clients);
                }
                Report::Traffic(report) => {
                    let known = services.len();
                    let service = *services.entry(report.service.clone()).or_insert(known);
                    grid.take(sample.t, report, service, &mut places, &mut seen);
                }
                _ => {}
            }
        }
        grid.sessions = sums
            .into_iter()
            .map(|(sum, n)| (n > 0.0).then(|| sum / n))
            .collect();
        grid
    }

    fn take(
        &mut self,
        t: UnixSeconds,
        report: &TrafficReport,
        service: usize,
        places: &mut HashMap<Name, usize>,
        seen: &mut HashSet<(usize, u64)>,
    ) {
        let until = report.until.unwrap_or(t);
        let from = until - report.interval;
        while self.covered.len() <= service {
            self.covered.push(vec![0.0; self.cells]);
        }
        // One report need not have every route; the span is covered once.
        if seen.insert((service, until.to_bits())) {
            let spread = self.spread(from, until);
            if let Some(covered) = self.covered.get_mut(service) {
                for &(cell, seconds) in &spread {
                    if let Some(sum) = covered.get_mut(cell) {
                        *sum += seconds;
                    }
                }
            }
        }
        let spread = self.spread(from, until);
        let cells = self.cells;
        for route in report.routes.iter().filter(|route| route.route != "other") {
            let name = (report.service.clone(), route.route.clone());
            let place = match places.get(&name) {
                Some(&place) => place,
                None => {
                    self.rows.push(Row {
                        service,
                        requests: vec![0.0; cells],
                        seconds: vec![0.0; cells],
                    });
                    self.names.push(name.clone());
                    places.insert(name, self.rows.len() - 1);
                    self.rows.len() - 1
                }
            };
            let Some(row) = self.rows.get_mut(place) else {
                continue;
            };
            for &(cell, seconds) in &spread {
                let part = seconds / (until - from).max(1e-9);
                row.requests[cell] += route.requests * part;
                row.seconds[cell] += route.duration_seconds * part;
            }
        }
    }

    fn cell(&self, t: UnixSeconds) -> Option<usize> {
        let place = ((t - self.onset) / CELL).floor() + BEFORE as f64;
        (place >= 0.0 && place < self.cells as f64).then_some(place as usize)
    }

    /// The cells that a span touches, and the seconds of it in each.
    fn spread(&self, from: UnixSeconds, until: UnixSeconds) -> Vec<(usize, f64)> {
        let begins = |cell: usize| self.onset + (cell as f64 - BEFORE as f64) * CELL;
        let first = ((from - self.onset) / CELL).floor() + BEFORE as f64;
        let last = ((until - self.onset) / CELL).ceil() + BEFORE as f64;
        let first = first.clamp(0.0, self.cells as f64) as usize;
        let last = last.clamp(0.0, self.cells as f64) as usize;
        (first..last)
            .map(|cell| {
                let begin = begins(cell);
                (cell, (begin + CELL).min(until) - begin.max(from))
            })
            .filter(|&(_, seconds)| seconds > 0.0)
            .collect()
    }

    /// The endpoints, in the order of the scores.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Requests or seconds a second before the onset and since, in all.
    pub fn totals(&self, place: usize, metric: Metric) -> (f64, f64) {
        let split = self.split(place, metric);
        let mean = |values: &[f64]| {
            if values.is_empty() {
                0.0
            } else {
                values.iter().sum::<f64>() / values.len() as f64
            }
        };
        (mean(&split.before), mean(&split.since))
    }

    /// The known cells of one endpoint before the onset and since.
    pub fn split(&self, place: usize, metric: Metric) -> Split {
        let mut split = Split::default();
        for (cell, value) in self.series(place, metric, f64::INFINITY) {
            if cell >= BEFORE {
                split.since.push(value);
            } else if (BEFORE - cell) as f64 * CELL > GUARD {
                split.before.push(value);
            }
        }
        split
    }

    /// The known cells of one endpoint from `past` seconds before the onset on.
    /// For [`Metric::RateAndDuration`] the mean duration, where a request ended.
    pub fn series(&self, place: usize, metric: Metric, past: f64) -> Vec<(usize, f64)> {
        let Some(row) = self.rows.get(place) else {
            return Vec::new();
        };
        let Some(covered) = self.covered.get(row.service) else {
            return Vec::new();
        };
        let first = BEFORE - ((past / CELL).min(BEFORE as f64) as usize);
        (first..self.cells)
            .filter(|&cell| covered[cell] >= CELL / 2.0)
            .filter_map(|cell| {
                let value = match metric {
                    Metric::Rate => row.requests[cell] / covered[cell],
                    Metric::Busy => row.seconds[cell] / covered[cell],
                    Metric::RateAndDuration if row.requests[cell] > 0.0 => {
                        row.seconds[cell] / row.requests[cell]
                    }
                    Metric::RateAndDuration => return None,
                };
                Some((cell, value))
            })
            .collect()
    }

    /// The watched sessions in a cell.
    pub fn sessions(&self, cell: usize) -> Option<f64> {
        self.sessions.get(cell).copied().flatten()
    }
}
