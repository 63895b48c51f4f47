//! The endpoints by their own part of the rise.
//!
//! ```text
//! C = λ1·min(d1, W)          concurrency now;      E = g·λ0·(m·d0 + w)    expected of it
//! own = C − E                share = φ·max(own, 0)/ΔY
//! novelty = max(own, 0)/C    z = max(own, 0)/σ
//! score = min(share, 1) · (1 − e^(−z/4)) · novelty · min(1, 1.5/share)
//! rate part = φ(λ1 − gλ0)(m·d0 + w)      hold part = φ·λ1·(d1 − m·d0 − w)
//! surge = Σ φ(g−1)λ0·d0      slow = Σ φ·g·λ0((m−1)d0 + w)       both over ΔY
//! ```
//!
//! ΔY is the rise of the sessions in use or waiting. With a gauge C is its mean
//! since the onset, E what it was before times what all gauges or all counters
//! grew by, and ΔY the mean rise as well; with counters all three are of now.

use super::common::{Common, common, is_solid};
use super::flow::{Ended, Flow, before, concurrency_now, since};
use super::kin::Kin;
use super::noise::{block_width, sigma};
use super::observed::{Evidence, Observed, Windows, observe};
use super::use_of_database::{Block, use_of_database};
use crate::engine::stats::robust::weighted_quantile;
use crate::engine::traffic::quantity::COARSE;
use crate::engine::traffic::{Level, Traffic};
use crate::sample::UnixSeconds;

/// Endpoints whose past is looked at: those with most of their own.
const LOOKED_AT: usize = 40;

/// Endpoints given out.
const GIVEN: usize = 10;

/// Seconds that *now* is a mean of.
const NOW: f64 = 6.0;

/// A rise below this many sessions is none.
const LEAST_RISE: f64 = 1.0;

/// Gauges without which their median is no common growth, and requests ×
/// seconds without which one is noise.
const LEAST_GAUGES: usize = 3;
const LEAST_AREA: f64 = 20.0;

/// One endpoint with what speaks for it.
#[derive(Debug, Clone)]
pub struct Weighed<'a> {
    pub observed: Observed<'a>,
    pub normal: Flow,
    pub since: Flow,
    /// Requests at a time before, and since.
    pub before: f64,
    pub now: f64,
    /// Of those since, what the others do not explain, in sessions.
    pub own: f64,
    pub share: f64,
    pub novelty: f64,
    pub z: f64,
    pub score: f64,
    /// The own part by more requests and by longer ones.
    pub rate_part: f64,
    pub hold_part: f64,
}

/// All that was weighed.
#[derive(Debug, Clone, Default)]
pub struct Weighing<'a> {
    /// Best first.
    pub endpoints: Vec<Weighed<'a>>,
    pub common: Common,
    /// The rise of sessions in use or waiting, ΔY, that shares are of.
    pub rise: f64,
    pub surge: f64,
    pub slow: f64,
    /// Endpoints whose requests are so long that their counters cannot have
    /// moved since the onset.
    pub blind: usize,
    /// Endpoints that something was known of.
    pub known: usize,
    /// Of those, endpoints with enough requests before and since for a ratio.
    pub solid: usize,
    /// The mean duration of all requests before, seconds.
    pub hold_of_all: f64,
}

/// Endpoints without which the growth of all is not known well enough to be held
/// against what the sessions show.
const LEAST_SOLID: usize = 6;

/// Requests that got slower are counted when they end: before so many times
/// their mean duration, and so many seconds, the ended ones look as they always
/// did.
const SLOW_TO_TELL: f64 = 4.0;
const LEAST_WINDOW: f64 = 10.0;

impl Weighing<'_> {
    /// The factor by which the requests at a time of all endpoints grew together,
    /// at least 1; `None` when too few tell.
    pub fn shared_growth(&self) -> Option<f64> {
        let hold = self.common.hold(self.hold_of_all) / self.hold_of_all;
        let growth = self.common.growth.max(1.0) * hold.max(1.0);
        (self.solid >= LEAST_SOLID && growth.is_finite()).then_some(growth)
    }
}

/// Weighs every endpoint whose service belongs to the target. `sessions` is the
/// watched quantity over time. Nobody is weighed when that did not rise.
pub fn weigh<'a>(
    traffic: &'a Traffic,
    target: &'a str,
    sessions: &Level,
    windows: &Windows,
) -> Weighing<'a> {
    let mut rows: Vec<Observed<'a>> = Vec::new();
    for (service, ways) in traffic.of_target(target) {
        observe(service, ways, windows, &mut rows);
    }
    let Some(normal_sessions) = sessions.mean(&windows.baseline) else {
        return Weighing::default();
    };
    let rise = Rise {
        sessions,
        normal: normal_sessions,
        from: windows.from(),
    };
    let hold_of_all = hold_of_all(&rows);
    let common = common(rows.iter().map(|row| (row.normal, row.since)), hold_of_all);
    let growth = gauge_growth(&rows).max(common.growth * common.slowdown);
    let mut weighing = Weighing {
        common,
        known: rows.len(),
        blind: rows.iter().filter(|row| row.is_blind()).count(),
        solid: rows
            .iter()
            .filter(|row| {
                is_solid(&row.normal, &row.since)
                    && row.since.window >= (SLOW_TO_TELL * hold_of_all).max(LEAST_WINDOW)
            })
            .count(),
        hold_of_all,
        ..Weighing::default()
    };
    // Only a few of thousands are given out: the figures of the others are not
    // even put together.
    let mut grown: Vec<(f64, usize)> = Vec::with_capacity(rows.len());
    for (place, row) in rows.iter().enumerate() {
        let flows = Flows::of(row, hold_of_all, common, growth);
        let normal = flows.normal;
        weighing.surge += (common.growth - 1.0).max(0.0) * normal.concurrency();
        weighing.slow += common.growth * normal.rate * (common.hold(normal.hold) - normal.hold);
        let own = flows.own();
        if own.is_finite() && own > 0.0 {
            grown.push((own, place));
        }
    }
    keep_largest(&mut grown);
    let kin = Kin::of(rows.iter().map(|row| (row.service, row.normal, row.since)));
    let mut parts: Vec<Weighed<'a>> = grown
        .iter()
        .filter_map(|&(_, place)| {
            let row = rows.get(place)?;
            let mut shared = common;
            if let Some(kin) = kin.growth(row.service, place) {
                shared.growth = shared.growth.max(kin);
            }
            let growth = growth.max(shared.growth * shared.slowdown);
            let flows = Flows::of(row, hold_of_all, shared, growth);
            Some(part(row, &flows, shared))
        })
        .collect();
    for endpoint in &mut parts {
        judge(endpoint, sessions, windows, &rise);
    }
    parts.retain(|endpoint| endpoint.score > 0.0);
    parts.sort_by(|a, b| {
        let names = |e: &Weighed<'a>| (e.observed.service, e.observed.track.name.clone());
        b.score
            .total_cmp(&a.score)
            .then_with(|| names(a).cmp(&names(b)))
    });
    parts.truncate(GIVEN);
    weighing.rise = parts
        .first()
        .map_or_else(|| rise.now(windows.now), |first| rise.of(&first.observed));
    let whole = weighing.rise.max(LEAST_RISE);
    weighing.surge /= whole;
    weighing.slow /= whole;
    weighing.endpoints = parts;
    weighing
}

/// ΔY.
struct Rise<'a> {
    sessions: &'a Level,
    normal: f64,
    from: UnixSeconds,
}

impl Rise<'_> {
    /// The one that fits to the endpoint's figures.
    fn of(&self, row: &Observed<'_>) -> f64 {
        if row.running.is_some() {
            let mean = self.sessions.mean(&[(self.from, row.until)]);
            mean.map_or(0.0, |mean| mean - self.normal)
        } else {
            self.now(row.until)
        }
    }

    fn now(&self, until: UnixSeconds) -> f64 {
        // Looks at the server can be missing while traffic still comes.
        let known = self.sessions.last().map_or(until, |(t, _)| t);
        let until = until.min(known);
        let mean = self.sessions.mean(&[(until - NOW, until)]);
        mean.map_or(0.0, |mean| mean - self.normal)
    }
}

fn hold_of_all(rows: &[Observed<'_>]) -> f64 {
    let normal = |of: fn(&Ended) -> f64| rows.iter().map(|row| of(&row.normal)).sum::<f64>();
    let requests = normal(|ended| ended.requests);
    if requests > 0.0 {
        normal(|ended| ended.seconds) / requests
    } else {
        0.0
    }
}

/// The factor by which the gauges rose together.
fn gauge_growth(rows: &[Observed<'_>]) -> f64 {
    let mut ratios: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|row| {
            let (before, now) = row.running?;
            let area = before * row.normal.window.max(60.0);
            (area >= LEAST_AREA).then(|| (now / before, before.sqrt()))
        })
        .collect();
    if ratios.len() < LEAST_GAUGES {
        return 1.0;
    }
    weighted_quantile(&mut ratios, 0.5)
        .filter(|growth| growth.is_finite())
        .map_or(1.0, |growth| growth.max(1.0))
}

/// An endpoint's requests before and since.
struct Flows {
    normal: Flow,
    since: Flow,
    /// Requests at a time before, now, and to be expected now.
    before: f64,
    now: f64,
    expected: f64,
}

impl Flows {
    fn of(row: &Observed<'_>, hold_of_all: f64, common: Common, growth: f64) -> Self {
        let normal = before(&row.normal, hold_of_all);
        let since = since(&row.since, normal, common.growth);
        let (before, now, expected) = match row.running {
            Some((before, now)) => (before, now, before * growth),
            None => (
                normal.concurrency(),
                concurrency_now(since, row.since.window),
                common.growth * normal.rate * common.hold(normal.hold),
            ),
        };
        Self {
            normal,
            since,
            before,
            now,
            expected,
        }
    }

    fn own(&self) -> f64 {
        self.now - self.expected
    }
}

fn part<'a>(row: &Observed<'a>, flows: &Flows, common: Common) -> Weighed<'a> {
    let (normal, since) = (flows.normal, flows.since);
    let usual = common.hold(normal.hold);
    Weighed {
        rate_part: (since.rate - common.growth * normal.rate) * usual,
        hold_part: since.rate * (since.hold - usual),
        observed: row.clone(),
        normal,
        since,
        before: flows.before,
        now: flows.now,
        own: flows.own(),
        share: 0.0,
        novelty: 0.0,
        z: 0.0,
        score: 0.0,
    }
}

fn keep_largest(grown: &mut Vec<(f64, usize)>) {
    if grown.len() > LOOKED_AT {
        grown.select_nth_unstable_by(LOOKED_AT, |a, b| b.0.total_cmp(&a.0));
        grown.truncate(LOOKED_AT);
    }
}

/// Looks at an endpoint's past, and gives it its score.
fn judge(endpoint: &mut Weighed<'_>, sessions: &Level, windows: &Windows, rise: &Rise<'_>) {
    let row = &endpoint.observed;
    let whole = rise.of(row);
    if whole < LEAST_RISE {
        return;
    }
    let since = row
        .book
        .since
        .or(row.book.running_since)
        .unwrap_or(windows.now);
    let past = Past::of(row, sessions, windows, since);
    let baseline: f64 = windows
        .baseline
        .iter()
        .map(|&(from, to)| (to - from.max(since)).max(0.0))
        .sum();
    let window = (row.until - rise.from).max(1.0);
    let normal = Flow {
        hold: if row.running.is_some() {
            endpoint.normal.hold.max(1.0)
        } else {
            endpoint.normal.hold
        },
        ..endpoint.normal
    };
    let sigma = sigma(normal, baseline, window, &past.concurrency(window));
    let phi = use_of_database(&past.blocks);
    endpoint.rate_part *= phi;
    endpoint.hold_part *= phi;
    let own = endpoint.own * phi;
    endpoint.share = own / whole;
    endpoint.novelty = (endpoint.own / endpoint.now.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    endpoint.z = endpoint.own / sigma;
    endpoint.own = own;
    let share = endpoint.share;
    let score = share.min(1.0)
        * (1.0 - (-endpoint.z / 4.0).exp())
        * endpoint.novelty
        * (1.5 / share.max(1.5)).min(1.0);
    endpoint.score = if score.is_finite() { score } else { 0.0 };
}

/// The baseline in blocks.
struct Past {
    /// Of a minute each.
    blocks: Vec<Block>,
    /// Requests at a time in blocks of the stored width.
    fine: Vec<f64>,
}

impl Past {
    fn of(row: &Observed<'_>, sessions: &Level, windows: &Windows, since: UnixSeconds) -> Self {
        let mut past = Self {
            blocks: Vec::new(),
            fine: Vec::new(),
        };
        for &(from, to) in &windows.baseline {
            let from = from.max(since);
            let width = 2;
            let own = concurrency(row, from, to, width);
            let all = row.book.all_seconds.blocks(from, to, width);
            let watched = sessions.blocks(from, to, width);
            let minute = COARSE * width as f64;
            let blocks = own.iter().zip(&all).zip(&watched);
            past.blocks
                .extend(blocks.filter_map(|((&own, all), watched)| {
                    Some(Block {
                        sessions: (*watched)?,
                        own,
                        others: (all / minute - own).max(0.0),
                    })
                }));
            past.fine.extend(concurrency(row, from, to, 1));
        }
        past
    }

    /// Means over blocks about as long as the window.
    fn concurrency(&self, window: f64) -> Vec<f64> {
        let joined = self.fine.chunks_exact(block_width(window));
        joined
            .map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64)
            .collect()
    }
}

fn concurrency(row: &Observed<'_>, from: UnixSeconds, to: UnixSeconds, width: usize) -> Vec<f64> {
    if row.running.is_some()
        && let Some(level) = &row.track.running
    {
        let means = level.blocks(from, to, width).into_iter();
        return means.map(|mean| mean.unwrap_or(0.0) * row.part).collect();
    }
    let seconds = COARSE * width as f64;
    let sums = row.track.seconds.blocks(from, to, width).into_iter();
    sums.map(|sum| sum / seconds * row.part).collect()
}

impl Weighed<'_> {
    /// What the figures rest on.
    pub fn evidence(&self) -> Evidence {
        self.observed.evidence
    }

    /// Requests a second since over before; `None` without requests before.
    pub fn rate_change(&self) -> Option<f64> {
        ratio(self.since.rate, self.normal.rate)
    }

    /// Seconds of a request since over before.
    pub fn hold_change(&self) -> Option<f64> {
        let ended = self.observed.since.requests > 0.0;
        ratio(self.since.hold, self.normal.hold).filter(|_| ended)
    }
}

fn ratio(now: f64, before: f64) -> Option<f64> {
    let ratio = now / before;
    (before > 0.0 && ratio.is_finite()).then_some(ratio)
}
