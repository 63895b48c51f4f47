//! Gathers from the lines of one page the series that tell of requests.
//!
//! Every line is checked, few are kept. Series are kept apart by all of their
//! labels and not summed up here, because one that vanishes or starts anew must
//! not look like the others starting anew. Invariant: memory is bounded by the
//! constants below, whatever the page says; what does not fit is counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};

use super::line::{self, BadLine, Line, Parser, Sample};
use super::names::{self, Part, Role};
use super::page::{Candidate, Found, Page, Series, Wanted};
use crate::observe::traffic::delta::MAX_BUCKETS;
use crate::observe::traffic::{BAD_TIME, BAD_VALUE, TOO_MANY_SERIES, Tally};

/// Most series of requests on one page: five hundred routes by method and
/// status are six thousand.
pub const MAX_SERIES: usize = 20_000;

/// Most names whose role is remembered; others are looked at line by line.
const MAX_NAMES: usize = 4_096;

/// Most families that may be the one.
const MAX_FAMILIES: usize = 32;

/// Most routes with a gauge of running requests, over all gauges.
const MAX_IN_FLIGHT: usize = 5_000;

/// A time stamp may differ from our clock by this much, in seconds. Clients
/// that set one copy it from somewhere, and what is older is not about now.
const MAX_SKEW: f64 = 600.0;

/// Names that are offered to somebody whose page has no known one.
const MAX_CANDIDATES: usize = 5;

/// The label of a bucket's upper bound.
const BOUND: &str = "le";

/// The state while a page is read.
#[derive(Debug)]
pub struct Collector {
    wanted: Wanted,
    names: HashMap<String, Use>,
    /// The name of the line before: lines of a metric come together.
    last_name: (String, Use),
    families: Vec<Family>,
    in_flight: BTreeMap<String, BTreeMap<String, f64>>,
    gauges: usize,
    series: usize,
    ended: bool,
    page: Page,
}

/// What a name says, in a form that is cheap to copy.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Use {
    Requests { family: usize, part: Part },
    InFlight,
    ProcessStart,
    Nothing,
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    /// By the hash of the labels; `None`: it names no route.
    index: HashMap<u64, Option<usize>>,
    /// The series of the line before: those of a route come together.
    last: Option<(u64, Option<usize>)>,
    series: Vec<Gathered>,
    /// The labels of the first series that made its route.
    labels: Vec<String>,
    /// All labels of the first series that names none.
    shown: Vec<String>,
    without_route: usize,
    has_counts: bool,
    has_sums: bool,
}

#[derive(Debug, Default)]
struct Gathered {
    series: Series,
    /// One of its lines was rejected: the others say nothing without it.
    spoilt: bool,
    has_count: bool,
    has_sum: bool,
}

impl Collector {
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            names: HashMap::new(),
            last_name: (String::new(), Use::Nothing),
            families: Vec::new(),
            in_flight: BTreeMap::new(),
            gauges: 0,
            series: 0,
            ended: false,
            page: Page::default(),
        }
    }

    /// Takes the next line of the page.
    pub fn line(&mut self, parser: &mut Parser, number: u64, line: Result<&str, BadLine>) {
        let text = line.unwrap_or_default();
        let read = line.and_then(|line| parser.read(line));
        match read {
            Ok(Line::Nothing) => {}
            Ok(_) if self.ended => self.reject_line(number, BadLine::AfterEnd, text),
            Ok(Line::Type(..)) => {}
            Ok(Line::End) => self.ended = true,
            Ok(Line::Sample(sample)) => self.sample(number, &sample),
            Err(reason) => self.reject_line(number, reason, text),
        }
    }

    fn reject_line(&mut self, number: u64, reason: BadLine, text: &str) {
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        let name = &text[..end.unwrap_or(text.len())];
        // Without a name it may have been anything.
        self.page.incomplete |=
            name.is_empty() || names::role(name, self.wanted.metric.as_deref()) != Role::Nothing;
        self.reject(number, reason.as_str());
    }

    fn reject(&mut self, number: u64, reason: &'static str) {
        self.page.rejected.add(reason, 1);
        self.page.first_rejected.get_or_insert((number, reason));
    }

    /// A line that would have counted.
    fn refuse(&mut self, number: u64, reason: &'static str) {
        self.page.incomplete = true;
        self.reject(number, reason);
    }

    fn sample(&mut self, number: u64, sample: &Sample<'_>) {
        self.page.samples += 1;
        let what = self.use_of(sample);
        if what == Use::Nothing {
            return;
        }
        if let Some(stamp) = sample.timestamp {
            let unit = if self.wanted.openmetrics { 1.0 } else { 1e-3 };
            let skew = (stamp * unit - self.wanted.now).abs();
            if skew > MAX_SKEW || skew.is_nan() {
                self.refuse(number, BAD_TIME);
                return;
            }
        }
        match what {
            Use::Nothing => {}
            Use::ProcessStart => {
                if sample.value.is_finite() && sample.value > 0.0 {
                    self.page.process_start = Some(sample.value);
                }
            }
            Use::InFlight => self.gauge(number, sample),
            Use::Requests { family, part } => self.requests(number, sample, family, part),
        }
    }

    fn use_of(&mut self, sample: &Sample<'_>) -> Use {
        if self.last_name.0 == sample.name {
            return self.last_name.1;
        }
        let known = self.names.get(&*sample.name).copied();
        let what = known.unwrap_or_else(|| self.learn(sample));
        self.last_name.0.clear();
        self.last_name.0.push_str(&sample.name);
        self.last_name.1 = what;
        what
    }

    fn learn(&mut self, sample: &Sample<'_>) -> Use {
        let what = match names::role(&sample.name, self.wanted.metric.as_deref()) {
            Role::ProcessStart => Use::ProcessStart,
            Role::InFlight => Use::InFlight,
            Role::Nothing => {
                self.offer(sample);
                Use::Nothing
            }
            Role::Requests { family, part } => self
                .family(family)
                .map_or(Use::Nothing, |family| Use::Requests { family, part }),
        };
        if self.names.len() < MAX_NAMES {
            self.names.insert(sample.name.to_string(), what);
        }
        what
    }

    fn family(&mut self, name: String) -> Option<usize> {
        let known = self.families.iter().position(|family| family.name == name);
        known.or_else(|| {
            let room = self.families.len() < MAX_FAMILIES;
            room.then(|| {
                self.families.push(Family {
                    name,
                    ..Family::default()
                });
                self.families.len() - 1
            })
        })
    }

    /// Keeps a name for somebody who looks for the right one.
    fn offer(&mut self, sample: &Sample<'_>) {
        let candidates = &mut self.page.candidates;
        if candidates.len() < MAX_CANDIDATES && names::is_candidate(&sample.name) {
            let name = names::family_of(&sample.name);
            if candidates.iter().all(|other| other.name != name) {
                let labels = sample.labels.iter().map(|label| label.name);
                candidates.push(Candidate {
                    name,
                    labels: labels
                        .filter(|name| *name != BOUND)
                        .map(str::to_owned)
                        .collect(),
                    why: "its name is not one of the usual ones",
                });
            }
        }
    }

    fn gauge(&mut self, number: u64, sample: &Sample<'_>) {
        if !(sample.value.is_finite() && sample.value >= 0.0) {
            self.reject(number, BAD_VALUE);
            return;
        }
        let route = names::route(&sample.labels, &self.wanted.route_labels);
        let Some(route) = route.and_then(|route| route.name) else {
            return;
        };
        let gauge = self.in_flight.entry(sample.name.to_string()).or_default();
        if let Some(running) = gauge.get_mut(&route) {
            *running += sample.value;
        } else if self.gauges < MAX_IN_FLIGHT {
            self.gauges += 1;
            gauge.insert(route, sample.value);
        } else {
            self.reject(number, TOO_MANY_SERIES);
        }
    }

    fn requests(&mut self, number: u64, sample: &Sample<'_>, family: usize, part: Part) {
        let key = key(&self.wanted.hashes, sample);
        let place = match self.families[family].last {
            Some((last, place)) if last == key => place,
            _ => {
                let known = self.families[family].index.get(&key).copied();
                let Some(place) = known.or_else(|| self.begin(key, sample, family)) else {
                    self.refuse(number, TOO_MANY_SERIES);
                    return;
                };
                self.families[family].last = Some((key, place));
                place
            }
        };
        let family = &mut self.families[family];
        let Some(gathered) = place.and_then(|place| family.series.get_mut(place)) else {
            return;
        };
        let series = &mut gathered.series;
        let value = sample.value;
        let good = value.is_finite() && value >= 0.0;
        match part {
            Part::Count if good => {
                series.count = value;
                gathered.has_count = true;
                family.has_counts = true;
                return;
            }
            Part::Sum(unit) if good => {
                series.sum = value * unit.seconds();
                gathered.has_sum = true;
                family.has_sums = true;
                return;
            }
            Part::Bucket(unit) if good && series.buckets.len() < MAX_BUCKETS => {
                let bound = sample.labels.get(BOUND).and_then(|le| line::number(le.raw));
                if let Some(bound) = bound.filter(|bound| !bound.is_nan()) {
                    series.buckets.push((bound * unit.seconds(), value));
                    return;
                }
            }
            _ => {}
        }
        gathered.spoilt = true;
        self.refuse(number, BAD_VALUE);
    }

    /// A series that was not on the page before; `None` when there is no room.
    fn begin(&mut self, key: u64, sample: &Sample<'_>, family: usize) -> Option<Option<usize>> {
        if self.series >= MAX_SERIES {
            return None;
        }
        self.series += 1;
        let family = &mut self.families[family];
        let place = match names::route(&sample.labels, &self.wanted.route_labels) {
            None => {
                if family.shown.is_empty() {
                    let names = sample.labels.iter().map(|label| label.name);
                    let names = names.filter(|name| *name != BOUND);
                    family.shown = names.map(str::to_owned).collect();
                }
                family.without_route += 1;
                None
            }
            Some(route) => {
                if family.labels.is_empty() {
                    family.labels = route.labels.iter().map(|&name| name.to_owned()).collect();
                }
                route.name.map(|route| {
                    family.series.push(Gathered {
                        series: Series {
                            key,
                            route,
                            ..Series::default()
                        },
                        ..Gathered::default()
                    });
                    family.series.len() - 1
                })
            }
        };
        family.index.insert(key, place);
        Some(place)
    }

    /// The page is over.
    pub fn finish(mut self, lines: u64) -> Page {
        if self.wanted.openmetrics && !self.ended {
            self.page.incomplete = true;
            self.reject(lines, BadLine::NoEnd.as_str());
        }
        let preference = |family: &Family| (names::preference(&family.name), family.name.clone());
        let (good, poor): (Vec<_>, Vec<_>) = std::mem::take(&mut self.families)
            .into_iter()
            .partition(Family::is_good);
        let best = good.into_iter().min_by_key(preference);
        let mut page = self.page;
        page.lines = lines;
        match best {
            None => page
                .candidates
                .splice(0..0, poor.iter().map(Family::candidate))
                .for_each(drop),
            Some(mut family) => {
                page.candidates.clear();
                let damaged = family.take_damaged();
                // What a rejected line took away was counted with the line.
                if damaged > 0 && !page.incomplete {
                    page.incomplete = true;
                    page.rejected.add(BAD_VALUE, damaged);
                }
                let (found, series) = family.finish(&mut page.rejected);
                page.found = Some(found);
                page.series = series;
            }
        }
        // Two gauges of one thing are not to be added up.
        let fullest = |gauge: &(String, BTreeMap<String, f64>)| gauge.1.len();
        if let Some((name, routes)) = self.in_flight.into_iter().max_by_key(fullest) {
            page.in_flight_metric = Some(name);
            page.in_flight = routes;
        }
        page
    }
}

impl Family {
    fn is_good(&self) -> bool {
        self.has_counts && self.has_sums && !self.series.is_empty()
    }

    fn candidate(&self) -> Candidate {
        let why = if self.series.is_empty() && self.without_route > 0 {
            "no label of it is known to name a route"
        } else if self.series.is_empty() {
            "none of its series names a route"
        } else if !self.has_counts {
            "there is no count of requests beside it"
        } else {
            "there is no sum of durations beside it, only a count"
        };
        Candidate {
            name: self.name.clone(),
            labels: if self.labels.is_empty() {
                self.shown.clone()
            } else {
                self.labels.clone()
            },
            why,
        }
    }

    /// Takes out the series that lack their count or their sum where others
    /// have both: nothing in the place of a figure would look like a restart,
    /// and the next whole page like a surge. Twins whose labels differ have
    /// their parts in series of their own. Gives back how many.
    fn take_damaged(&mut self) -> u64 {
        let is_whole = |gathered: &Gathered| gathered.has_count && gathered.has_sum;
        if !self.series.iter().any(is_whole) {
            return 0;
        }
        let before = self.series.len();
        self.series
            .retain(|gathered| gathered.spoilt || is_whole(gathered));
        (before - self.series.len()) as u64
    }

    fn finish(self, rejected: &mut Tally) -> (Found, Vec<Series>) {
        let good = self.series.into_iter().filter(|gathered| !gathered.spoilt);
        let mut series: Vec<Series> = good.map(|gathered| gathered.series).collect();
        for one in &mut series {
            if !apart(&mut one.buckets) {
                rejected.add(BAD_VALUE, 1);
                one.buckets.clear();
            }
        }
        let routes: HashSet<&str> = series.iter().map(|one| one.route.as_str()).collect();
        let found = Found {
            family: self.name,
            labels: self.labels,
            routes: routes.len(),
            without_route: self.without_route,
        };
        (found, series)
    }
}

/// Cumulative buckets made into counts of each alone; false when they shrink.
fn apart(buckets: &mut [(f64, f64)]) -> bool {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 0.0;
    for (_, count) in buckets.iter_mut() {
        let cumulative = *count;
        if cumulative < below {
            return false;
        }
        *count -= below;
        below = cumulative;
    }
    true
}

/// What tells a series from the others of its family: all labels but the bound.
fn key(hashes: &RandomState, sample: &Sample<'_>) -> u64 {
    let mut hasher = hashes.build_hasher();
    for label in sample.labels.iter().filter(|label| label.name != BOUND) {
        hasher.write(label.name.as_bytes());
        // Neither byte occurs in UTF-8, so no two sets of labels read alike.
        hasher.write_u8(0xff);
        hasher.write(label.raw.as_bytes());
        hasher.write_u8(0xfe);
    }
    hasher.finish()
}
