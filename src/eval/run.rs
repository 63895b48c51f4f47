//! Scenarios through the engine: simulated, replayed with each kind of evidence,
//! and compared with the truth.
//!
//! Invariants: the engine gets samples and settings and nothing else; the
//! published methods get the same samples, up to the same moment, and the onset
//! that the engine found; an outcome depends on family, seed and the code alone,
//! not on how many run beside it.

use rayon::prelude::*;

use super::baselines::Method;
use super::baselines::grid::Grid;
use super::outcome::{Answer, Heard, Outcome, Ranked, Told};
use super::scenario::{Evidence, Family, Scenario, scenario};
use super::simulate::quiet_days;
use crate::engine::Engine;
use crate::engine::incident::{Cause, Effect, Event, Incident, Kind};
use crate::sample::{Sample, UnixSeconds};

/// Seconds after the alarm at which the answer is read.
pub const HORIZONS: [f64; 3] = [10.0, 30.0, 60.0];

/// A scenario goes on after the alarm for as long as answers are read, and a
/// little, because the last reading is taken at the first sample after it.
const AFTER: f64 = 65.0;

/// An alarm so long before the true onset, seconds, is still of it: a step is
/// spread over a poll or two.
const EARLY: f64 = 3.0;

/// Seeds with this bit are for fitting, those without for reports.
pub const FIT: u64 = 1 << 63;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub families: Vec<Family>,
    pub incidents: u32,
    pub seed: u64,
    /// Seeds are taken from those kept for fitting.
    pub fit: bool,
}

impl Plan {
    /// Every (family, seed) of it.
    pub fn pairs(&self) -> Vec<(Family, u64)> {
        let families = self.families.iter();
        families
            .flat_map(|&family| {
                (0..self.incidents).map(move |place| (family, self.seed_of(family, place)))
            })
            .collect()
    }

    /// The seed of one incident. It does not depend on which families run.
    fn seed_of(&self, family: Family, place: u32) -> u64 {
        let own = Family::ALL.iter().position(|known| *known == family);
        let mixed = mix(self.seed ^ mix((own.unwrap_or(0) as u64) << 32 | u64::from(place)));
        if self.fit { mixed | FIT } else { mixed & !FIT }
    }

    /// Runs all; `done` is called after each, from any thread.
    pub fn run(&self, done: impl Fn() + Sync) -> Vec<Outcome> {
        self.pairs()
            .into_par_iter()
            .map(|(family, seed)| {
                let outcome = outcome(family, seed);
                done();
                outcome
            })
            .collect()
    }
}

/// The finaliser of `SplitMix64` (Steele et al., OOPSLA 2014): one bit of the
/// input changes half of the output's.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Simulates one incident and hears it with each kind of evidence.
pub fn outcome(family: Family, seed: u64) -> Outcome {
    let scenario = scenario(family, seed);
    let heard: Vec<Heard> = evidence_for(family, seed)
        .into_iter()
        .map(|evidence| hear(&scenario, evidence))
        .collect();
    let published = heard.first().map_or_else(Vec::new, |heard| {
        if family.has_culprit() {
            published(&scenario, heard)
        } else {
            Vec::new()
        }
    });
    Outcome {
        family,
        seed,
        truth: scenario.truth,
        heard,
        published,
    }
}

/// Completed requests always. What the stronger kinds are judged by costs a
/// replay each, so tags of some and gauges take turns; without a culprit one of
/// the three is looked at for false accusations.
fn evidence_for(family: Family, seed: u64) -> Vec<Evidence> {
    let partial = if seed & 1 == 0 {
        Evidence::HalfTags
    } else {
        Evidence::Gauge
    };
    if family.has_culprit() {
        vec![Evidence::Requests, partial, Evidence::AllTags]
    } else if seed & 2 == 0 {
        vec![Evidence::Requests, Evidence::AllTags]
    } else {
        vec![Evidence::Requests, partial]
    }
}

/// The kinds that say that connections or sessions run away.
fn is_alarm(family: Family, effect: &Effect) -> bool {
    let kind = effect.incident.kind;
    let told = effect.event == Event::Opened;
    told && (kind == Kind::ConnectionAvalanche || family.kinds().contains(&kind.as_str()))
}

fn hear(scenario: &Scenario, evidence: Evidence) -> Heard {
    let mut engine = Engine::new(scenario.settings.clone());
    let truth_onset = scenario.truth.onset.unwrap_or(f64::INFINITY);
    let mut heard = Heard::new(evidence);
    let mut due = HORIZONS.into_iter().peekable();
    for sample in evidence.restrict(scenario) {
        let t = sample.t;
        if let Some(told) = &mut heard.told {
            while due.peek().is_some_and(|after| t > told.at + after) {
                let after = due.next().unwrap_or_default();
                told.answers.push(read(&engine, scenario, told, after));
            }
            if t > told.at + AFTER {
                break;
            }
        }
        if t < truth_onset {
            heard.quiet_until(t);
        }
        for effect in engine.apply(sample) {
            listen(&mut heard, scenario, &effect, truth_onset);
        }
    }
    if let Some(told) = &mut heard.told {
        for after in due {
            told.answers.push(read(&engine, scenario, told, after));
        }
    }
    heard
}

fn listen(heard: &mut Heard, scenario: &Scenario, effect: &Effect, onset: UnixSeconds) {
    if is_alarm(scenario.family, effect) {
        if effect.t < onset - EARLY {
            heard.false_alarms += 1;
        } else if heard.told.is_none() {
            heard.told = Some(Told::new(effect));
        }
    }
    let Some(told) = &mut heard.told else { return };
    if effect.event == Event::Opened {
        told.kinds.insert(effect.incident.kind.as_str().to_owned());
    }
    if let Some(right) = named(scenario, &effect.incident)
        && effect.t >= onset - EARLY
    {
        told.ever_named = true;
        told.ever_wrong |= !right;
    }
}

/// Whether the named route is right; `None` when none is named.
fn named(scenario: &Scenario, incident: &Incident) -> Option<bool> {
    let named = incident.cause == Some(Cause::Endpoint);
    let first = incident.attribution.first().filter(|_| named)?;
    Some(scenario.truth.blames(&first.service, &first.route))
}

/// The newest record of the incident, open or not.
fn read(engine: &Engine, scenario: &Scenario, told: &Told, after: f64) -> Answer {
    let snapshot = engine.snapshot();
    let open = snapshot.open.iter();
    let all: Vec<&Incident> = open
        .chain(snapshot.resolved.iter())
        .map(AsRef::as_ref)
        .filter(|incident| incident.opened_at >= told.at - AFTER)
        .collect();
    let avalanche = all
        .iter()
        .find(|incident| incident.kind == Kind::ConnectionAvalanche)
        .or_else(|| all.iter().find(|incident| incident.id == told.id));
    let mut causes: Vec<String> = Vec::new();
    for incident in &all {
        causes.push(incident.kind.as_str().to_owned());
        causes.extend(incident.cause.map(|cause| cause.as_str().to_owned()));
    }
    let Some(incident) = avalanche else {
        return Answer {
            after,
            causes,
            ..Answer::default()
        };
    };
    let right = |place: usize| {
        let candidate = incident.attribution.get(place);
        candidate.is_some_and(|c| scenario.truth.blames(&c.service, &c.route))
    };
    let target = incident.target.as_str();
    Answer {
        after,
        causes,
        right_at: (0..incident.attribution.len()).find(|&place| right(place)),
        candidates: incident.attribution.len(),
        confidence: incident.attribution.first().map(|first| first.confidence),
        named: named(scenario, incident),
        first: incident.attribution.first().map(|c| c.route.clone()),
        says: incident.summary.clone(),
        standing: engine.leading(target).map(|leading| leading.standing),
    }
}

/// The published methods at the same horizons.
fn published(scenario: &Scenario, heard: &Heard) -> Vec<Ranked> {
    let Some(told) = &heard.told else {
        return Vec::new();
    };
    let last = told.at + HORIZONS[HORIZONS.len() - 1];
    let samples: Vec<Sample> = Evidence::Requests
        .restrict(scenario)
        .take_while(|sample| sample.t <= last)
        .filter(|sample| sample.t >= told.onset - 2_000.0)
        .collect();
    let mut ranked = Vec::new();
    for after in HORIZONS {
        let grid = Grid::of(samples.iter(), told.onset, told.at + after);
        for method in Method::ALL {
            for (variant, look) in method.variants().into_iter().enumerate() {
                let right = |&place: &usize| {
                    let name = grid.names().get(place);
                    name.is_some_and(|(service, route)| scenario.truth.blames(service, route))
                };
                ranked.push(Ranked {
                    method,
                    variant,
                    after,
                    right_at: look.first_three(&grid).iter().position(right),
                });
            }
        }
    }
    ranked
}

/// Alarms of quiet days.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quiet {
    pub days: f64,
    pub alarms: u32,
}

/// Seasonal days with harmless bursts through the engine. Each day of traffic
/// is a run of its own, so that they go side by side.
pub fn quiet(seed: u64, days: u32, done: impl Fn() + Sync) -> Quiet {
    let alarms: u32 = (0..days)
        .into_par_iter()
        .map(|day| {
            let seed = mix(seed ^ mix(u64::from(day) | 1 << 40)) & !FIT;
            let (settings, samples) = quiet_days(seed, 1.0);
            let mut engine = Engine::new(settings);
            let mut alarms = 0;
            for sample in samples {
                let effects = engine.apply(sample);
                let opened = effects.iter().filter(|e| is_alarm(Family::Quiet, e));
                alarms += opened.count() as u32;
            }
            done();
            alarms
        })
        .sum();
    Quiet {
        days: f64::from(days),
        alarms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_reports_and_of_the_fit_never_meet() {
        let plan = |fit| Plan {
            families: Family::ALL.to_vec(),
            incidents: 50,
            seed: 7,
            fit,
        };
        let report = plan(false).pairs();
        assert!(report.iter().all(|(_, seed)| seed & FIT == 0));
        assert!(plan(true).pairs().iter().all(|(_, seed)| seed & FIT != 0));
        let mut seeds: Vec<u64> = report.iter().map(|pair| pair.1).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), report.len());
    }

    #[test]
    fn an_incident_does_not_depend_on_which_others_run() {
        let plan = |families: &[Family]| Plan {
            families: families.to_vec(),
            incidents: 3,
            seed: 11,
            fit: false,
        };
        let alone = plan(&[Family::Flow]).pairs();
        let all = plan(&Family::ALL).pairs();
        assert!(alone.iter().all(|pair| all.contains(pair)));
    }
}
