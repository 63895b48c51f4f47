//! From outcomes to figures, each beside its floor and its goal.

use std::collections::BTreeMap;

use serde::Serialize;

use super::baselines::Method;
use super::outcome::{Answer, Heard, Outcome};
use super::run::Quiet;
use super::scenario::{Blame, Evidence, Family};
use crate::engine::stats::robust::median;

/// Spikes of at least this size, as a part of the base, count for the recall.
const SPIKE: f64 = 0.8;

/// Bins of the calibration error.
const BINS: usize = 10;

/// One figure of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub name: &'static str,
    /// `None` when nothing was measured.
    pub value: Option<f64>,
    /// How many it is of.
    pub of: usize,
    pub floor: f64,
    pub goal: f64,
    /// Less is better.
    pub less: bool,
}

impl Figure {
    fn reaches(&self, mark: f64) -> bool {
        self.value.is_some_and(|value| {
            if self.less {
                value <= mark + 1e-9
            } else {
                value >= mark - 1e-9
            }
        })
    }

    /// The floor holds.
    pub fn is_met(&self) -> bool {
        self.reaches(self.floor)
    }

    /// `goal`, `floor` or `missed`; `not measured` without a value.
    pub fn word(&self) -> &'static str {
        if self.value.is_none() {
            "not measured"
        } else if self.reaches(self.goal) {
            "met, goal too"
        } else if self.is_met() {
            "met"
        } else {
            "missed"
        }
    }
}

/// One family's row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub family: Family,
    pub incidents: usize,
    pub detected: f64,
    pub delay: Option<f64>,
    /// How far the estimated onset is from the true one, the median, seconds.
    pub onset_error: Option<f64>,
    pub false_alarms: u32,
    /// Right endpoint first at each horizon, completed requests only.
    pub first: [Option<f64>; 3],
    pub three: [Option<f64>; 3],
    /// With some tags or a gauge at +10 s, and with all tags at +30 s.
    pub partial: Option<f64>,
    pub tagged: Option<f64>,
    /// A route is named at +60 s; and of all that were named at a horizon, the
    /// right ones.
    pub named: Option<f64>,
    pub precision: Option<f64>,
    /// A route was named although none is to blame, with any evidence.
    pub accused: Option<f64>,
    /// The cause is right at +60 s.
    pub cause: Option<f64>,
    pub ece: Option<f64>,
}

/// One published method, at its best reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodRow {
    pub method: &'static str,
    pub reading: String,
    pub first: [f64; 3],
    pub three: [f64; 3],
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    pub figures: Vec<Figure>,
    pub families: Vec<Row>,
    pub overall: Option<Row>,
    pub methods: Vec<MethodRow>,
    pub quiet_days: f64,
    pub quiet_alarms: u32,
    /// Before the onsets of the scenarios: days, and alarms in them.
    pub calm_days: f64,
    pub calm_alarms: u32,
}

impl Score {
    /// Every floor that was measured holds.
    pub fn is_met(&self) -> bool {
        let measured = || self.figures.iter().filter(|figure| figure.value.is_some());
        measured().next().is_some() && measured().all(Figure::is_met)
    }
}

/// Right over all, `None` of none.
fn part(flags: impl Iterator<Item = bool>) -> (Option<f64>, usize) {
    let (mut right, mut all) = (0.0, 0);
    for flag in flags {
        right += f64::from(u8::from(flag));
        all += 1;
    }
    ((all > 0).then(|| right / all as f64), all)
}

fn requests(outcome: &Outcome) -> Option<&Heard> {
    outcome.with(Evidence::Requests)
}

/// The answers of detected incidents with a culprit.
fn answers<'a>(
    outcomes: &'a [&'a Outcome],
    evidence: &'a [Evidence],
    after: f64,
) -> impl Iterator<Item = &'a Answer> {
    outcomes
        .iter()
        .filter(|outcome| outcome.family.has_culprit())
        .flat_map(move |outcome| {
            let heard = outcome.heard.iter();
            heard.filter(|heard| evidence.contains(&heard.evidence))
        })
        .filter_map(move |heard| heard.answer(after))
}

const REQUESTS: &[Evidence] = &[Evidence::Requests];
const PARTIAL: &[Evidence] = &[Evidence::HalfTags, Evidence::Gauge];
const TAGGED: &[Evidence] = &[Evidence::AllTags];

/// Works out all figures.
pub fn score(outcomes: &[Outcome], quiet: Quiet) -> Score {
    let all: Vec<&Outcome> = outcomes.iter().collect();
    let mut families: BTreeMap<Family, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        families.entry(outcome.family).or_default().push(outcome);
    }
    let rows = families
        .iter()
        .map(|(&family, outcomes)| row(family, outcomes))
        .collect();
    let methods = methods(&all);
    let calm = || outcomes.iter().filter_map(requests);
    let mut score = Score {
        figures: Vec::new(),
        families: rows,
        overall: all.first().map(|first| row(first.family, &all)),
        quiet_days: quiet.days,
        quiet_alarms: quiet.alarms,
        calm_days: calm().map(|heard| heard.quiet).sum::<f64>() / 86_400.0,
        calm_alarms: calm().map(|heard| heard.false_alarms).sum(),
        methods,
    };
    score.figures = figures(&all, &score);
    score
}

fn figures(all: &[&Outcome], score: &Score) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut more = |name, (value, of): (Option<f64>, usize), floor, goal| {
        figures.push(Figure {
            name,
            value,
            of,
            floor,
            goal,
            less: floor > goal,
        });
    };
    let spikes = all.iter().filter(|outcome| is_spike(outcome));
    let recall = part(spikes.map(|outcome| requests(outcome).is_some_and(|h| h.told.is_some())));
    more("recall, spikes of 0.8 x base or more", recall, 0.94, 0.97);
    let calm = (score.calm_days > 0.0).then(|| f64::from(score.calm_alarms) / score.calm_days);
    more(
        "false alarms a day at that recall",
        (calm, score.calm_days as usize),
        1.0,
        0.5,
    );
    more("median delay of step onsets, s", delay(all), 12.0, 8.0);
    let quiet = (score.quiet_days > 0.0).then(|| f64::from(score.quiet_alarms) / score.quiet_days);
    more(
        "false alarms a quiet day",
        (quiet, score.quiet_days as usize),
        0.05,
        0.02,
    );
    let first = |evidence, after| part(answers(all, evidence, after).map(Answer::is_right_first));
    let three =
        |evidence, after| part(answers(all, evidence, after).map(Answer::is_right_in_three));
    more(
        "first at +30 s, requests",
        first(REQUESTS, 30.0),
        0.90,
        0.93,
    );
    more(
        "first three at +30 s, requests",
        three(REQUESTS, 30.0),
        0.95,
        0.97,
    );
    more(
        "first at +60 s, requests",
        first(REQUESTS, 60.0),
        0.95,
        0.97,
    );
    more(
        "first three at +60 s, requests",
        three(REQUESTS, 60.0),
        0.98,
        0.99,
    );
    more(
        "first at +10 s, some tags or a gauge",
        first(PARTIAL, 10.0),
        0.87,
        0.95,
    );
    more("first at +30 s, all tagged", first(TAGGED, 30.0), 0.99, 1.0);
    let own = first(REQUESTS, 30.0);
    for (name, method, floor, goal) in [
        ("lead over BARO at +30 s", Method::Baro, 0.30, 0.35),
        ("lead over N-sigma at +30 s", Method::NSigma, 0.18, 0.22),
        (
            "lead over Adtributor at +30 s",
            Method::Adtributor,
            0.04,
            0.07,
        ),
    ] {
        let theirs = score
            .methods
            .iter()
            .find(|row| row.method == method.as_str());
        let lead = own.0.zip(theirs).map(|(own, theirs)| own - theirs.first[1]);
        more(name, (lead, own.1), floor, goal);
    }
    more("precision of a named endpoint", precision(all), 0.97, 0.98);
    let named = part(answers(all, REQUESTS, 60.0).map(|answer| answer.named.is_some()));
    more("endpoint incidents named at +60 s", named, 0.80, 0.90);
    more("false accusations", accused(all), 0.03, 0.01);
    more("calibration error (ECE)", ece_of(all), 0.05, 0.03);
    figures
}

/// What the recall is of: a rise of the watched sessions. A leak and a storm of
/// connections have other kinds.
fn is_spike(outcome: &Outcome) -> bool {
    let truth = &outcome.truth;
    let rises = !matches!(
        truth.cause,
        Blame::Quiet | Blame::Leak | Blame::ReconnectStorm
    );
    rises && truth.onset.is_some() && truth.size >= SPIKE * truth.base
}

fn delay(all: &[&Outcome]) -> (Option<f64>, usize) {
    let mut delays: Vec<f64> = all
        .iter()
        .filter(|outcome| outcome.truth.step)
        .filter_map(|outcome| {
            let told = requests(outcome)?.told.as_ref()?;
            Some(told.at - outcome.truth.onset?)
        })
        .collect();
    (median(&mut delays), delays.len())
}

/// Of the routes named at any horizon from completed requests, those that are
/// right; a route named where none is to blame is wrong too.
fn precision(all: &[&Outcome]) -> (Option<f64>, usize) {
    let told = all.iter().filter_map(|outcome| requests(outcome));
    let answers = told.filter_map(|heard| heard.told.as_ref());
    part(answers.flat_map(|told| told.answers.iter().filter_map(|answer| answer.named)))
}

/// Replays without a culprit in which a route was named at any moment.
fn accused(all: &[&Outcome]) -> (Option<f64>, usize) {
    let innocent = all.iter().filter(|outcome| !outcome.family.has_culprit());
    let told = innocent.flat_map(|outcome| &outcome.heard);
    part(
        told.filter_map(|heard| heard.told.as_ref())
            .map(|told| told.ever_named),
    )
}

fn ece_of(all: &[&Outcome]) -> (Option<f64>, usize) {
    let told = all.iter().flat_map(|outcome| &outcome.heard);
    let answers = told.filter_map(|heard| heard.told.as_ref());
    let pairs: Vec<(f64, bool)> = answers
        .flat_map(|told| &told.answers)
        .filter_map(|answer| Some((answer.confidence?, answer.is_right_first())))
        .collect();
    (ece(&pairs), pairs.len())
}

/// The expected calibration error (Naeini et al., AAAI 2015): the mean distance
/// of a bin's confidence from its part of right ones, weighted by size, over ten
/// bins of equal width.
pub fn ece(pairs: &[(f64, bool)]) -> Option<f64> {
    let mut bins = [(0.0, 0.0, 0.0); BINS];
    for &(confidence, right) in pairs {
        let place = ((confidence * BINS as f64) as usize).min(BINS - 1);
        let bin = &mut bins[place];
        bin.0 += confidence;
        bin.1 += f64::from(u8::from(right));
        bin.2 += 1.0;
    }
    let off: f64 = bins.iter().map(|bin| (bin.0 - bin.1).abs()).sum();
    (!pairs.is_empty()).then(|| off / pairs.len() as f64)
}

fn row(family: Family, outcomes: &[&Outcome]) -> Row {
    let detected = outcomes
        .iter()
        .filter(|outcome| outcome.truth.onset.is_some())
        .map(|outcome| requests(outcome).is_some_and(|heard| heard.told.is_some()));
    let told = || {
        outcomes.iter().filter_map(|outcome| {
            let told = requests(outcome)?.told.as_ref()?;
            Some((told, outcome.truth.onset?))
        })
    };
    let mut delays: Vec<f64> = told().map(|(told, onset)| told.at - onset).collect();
    let mut errors: Vec<f64> = told().map(|(told, onset)| told.onset - onset).collect();
    let first = |after| part(answers(outcomes, REQUESTS, after).map(Answer::is_right_first)).0;
    let three = |after| part(answers(outcomes, REQUESTS, after).map(Answer::is_right_in_three)).0;
    let named = part(answers(outcomes, REQUESTS, 60.0).map(|answer| answer.named.is_some()));
    let alarms = outcomes.iter().filter_map(|outcome| requests(outcome));
    Row {
        family,
        incidents: outcomes.len(),
        detected: part(detected).0.unwrap_or(0.0),
        delay: median(&mut delays),
        onset_error: median(&mut errors),
        false_alarms: alarms.map(|heard| heard.false_alarms).sum(),
        first: [first(10.0), first(30.0), first(60.0)],
        three: [three(10.0), three(30.0), three(60.0)],
        partial: part(answers(outcomes, PARTIAL, 10.0).map(Answer::is_right_first)).0,
        tagged: part(answers(outcomes, TAGGED, 30.0).map(Answer::is_right_first)).0,
        named: named.0,
        precision: precision(outcomes).0,
        accused: accused(outcomes).0,
        cause: cause(outcomes),
        ece: ece_of(outcomes).0,
    }
}

fn cause(outcomes: &[&Outcome]) -> Option<f64> {
    let said = outcomes.iter().filter_map(|outcome| {
        let answer = requests(outcome)?.answer(60.0)?;
        Some(is_cause(&outcome.truth.cause, answer))
    });
    part(said).0
}

/// The cause, or a kind of incident that says the same, is told. Of another
/// application its name must be in the summary.
fn is_cause(truth: &Blame, answer: &Answer) -> bool {
    let says = |word: &str| answer.causes.iter().any(|cause| cause == word);
    match truth {
        Blame::Endpoint => says("endpoint"),
        Blame::Application(name) => answer.says.contains(name.as_str()) && !says("endpoint"),
        Blame::LockPileup => says("lock_pileup"),
        Blame::SlowQueries => says("slow_queries") || says("excessive_latency"),
        Blame::BroadSurge => says("broad_surge"),
        Blame::ReconnectStorm => says("reconnect_storm"),
        Blame::Leak => says("leak") || says("connection_leak"),
        Blame::Unknown => says("unknown"),
        Blame::Quiet => false,
    }
}

/// Each method at the reading that is right most often at +30 s.
fn methods(all: &[&Outcome]) -> Vec<MethodRow> {
    let rate = |method, variant, after, places: usize| {
        let ranked = all.iter().flat_map(|outcome| &outcome.published);
        let same = ranked
            .filter(|r| r.method == method && r.variant == variant && r.after == after)
            .map(|r| r.right_at.is_some_and(|place| place < places));
        part(same).0
    };
    let best = |method: Method| {
        let variants = method.variants().into_iter().enumerate();
        let rated = variants
            .filter_map(|(variant, look)| Some((rate(method, variant, 30.0, 1)?, variant, look)));
        let (_, variant, look) = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
        let at = |after, places| rate(method, variant, after, places).unwrap_or(0.0);
        Some(MethodRow {
            method: method.as_str(),
            reading: look.describe(),
            first: [at(10.0, 1), at(30.0, 1), at(60.0, 1)],
            three: [at(10.0, 3), at(30.0, 3), at(60.0, 3)],
        })
    };
    Method::ALL.into_iter().filter_map(best).collect()
}

#[cfg(test)]
mod tests;
