//! The simulator: applications with endpoints in front of one PostgreSQL server,
//! simulated request by request, and an incident whose cause is known.
//!
//! # What is simulated
//!
//! * **Arrivals**: Poisson with a rate that goes up and down with the day and
//!   the week, wanders, jitters within seconds, and moves in groups of
//!   endpoints. 10 to 5,000 endpoints (mostly 20 to 300) in 1 to 3 services;
//!   popularity by Zipf. Harmless bursts, endpoints that a clock calls,
//!   deployments with a dip and an overshoot.
//! * **Times**: each endpoint has a mean time in the database and one outside of
//!   it, milliseconds to seconds, around which requests spread by one of six
//!   shapes: lognormal, two-humped, with Pareto tails. Some endpoints use the
//!   database for a small part of their time; some, long polls and proxies, not
//!   at all.
//! * **Sessions**: each service has a pool of a limited size, its own or one of a
//!   PgBouncer, where requests wait their turn and give up after a while. Idle
//!   sessions stay open for a time. Above the server's capacity all statements
//!   get slower. Some services refuse requests beyond a limit; some clients try
//!   again. Applications without routes come and go beside them.
//! * **What is seen**: a poll of the server about once a second, now and then
//!   missed or failed, with the sessions by what they do at that moment; the
//!   pools of the pooler; every 1, 5, 10 or 15 s a report of each service with
//!   the requests that *ended*, 0 to 5 s late.
//!
//! # Limits
//!
//! A request uses its session once, in one piece. Statements have no plans and
//! no disk: a time in the database is drawn, then stretched by contention. A
//! stretch is fixed when the statement begins. One target, one pooler. No
//! histograms of durations and no spans. The server never runs out of
//! connections. Real traffic has more ways to be strange than this.

mod course;
mod crowd;
mod dice;
pub mod frame;
mod names;
mod plant;
mod plot;
mod probe;
pub mod rows;
mod scale;
mod setting;
mod shapes;
mod site;
mod weather;
mod wheel;
pub mod write;

use rand::Rng;

use super::scenario::{Blame, Culprit, Evidence, Family, Scenario, Truth};
use crate::engine::Settings;
use crate::sample::Sample;
use course::{Course, WARM_UP, stream};
use frame::{Frame, Naming};
use plot::Plot;
use scale::Scale;
use site::Site;

pub use write::{Written, write_capture};

/// Seconds before the onset without a fresh burst, so that the onset is one.
const CALM: f64 = 90.0;

/// Seconds before the onset that the base is measured over.
const BASE_SPAN: f64 = 600.0;

/// A simulation and the names of what is in it.
struct Set {
    course: Course,
    naming: Naming,
    start: f64,
    hold: f64,
}

fn set(family: Family, seed: u64, scale: &Scale) -> Set {
    let mut rng = stream(seed, 1);
    let dice = &mut rng;
    let mut site = Site::draw(scale, dice);
    let onset = WARM_UP + scale.history;
    let plot = Plot::draw(family, &mut site, scale, onset, dice);
    site.balance(scale.base, &plot.fixed);
    site.size_pools(scale.extra, dice);
    let start = 1.6e9 + 1.5e8 * dice.random::<f64>();
    let naming = setting::name(&site, &plot, start, seed, dice);
    let hold = plot.culprits.iter().map(|&at| site.endpoints[at].db);
    let hold = hold.fold(0.0, f64::max);
    let calm = if family == Family::Quiet {
        0.0..0.0
    } else {
        onset - CALM..onset
    };
    Set {
        course: Course::new(site, plot, scale.base, start, calm, seed),
        naming,
        start,
        hold,
    }
}

/// The seed of a family's scenario: the same number means another site in
/// another family.
fn mix(family: Family, seed: u64) -> u64 {
    let place = Family::ALL.iter().position(|&other| other == family);
    let place = place.unwrap_or(0) as u64 + 1;
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place.wrapping_mul(0xd1b5_4a32_d192_ed03)
}

/// Simulates an incident. The same family and seed give the same scenario.
pub fn simulate(family: Family, seed: u64) -> Scenario {
    let mixed = mix(family, seed);
    let scale = Scale::draw(family, &mut stream(mixed, 0));
    let Set {
        mut course,
        naming,
        start,
        hold,
    } = set(family, mixed, &scale);
    let end = WARM_UP + scale.history + scale.after;
    while course.now() < end {
        course.step();
    }
    let mut frames = course.frames_until(start + end);
    frames.retain(|frame| frame.t >= start + WARM_UP);
    Scenario {
        family,
        seed,
        truth: truth(family, &course, &naming, start, hold),
        settings: setting::settings(&naming),
        naming,
        frames,
    }
}

fn truth(family: Family, course: &Course, naming: &Naming, start: f64, hold: f64) -> Truth {
    let plot = &course.plot;
    let all = matches!(family, Family::ReconnectStormAfterDeploy | Family::Leak);
    let mean = |from: f64, until: f64, all: bool| {
        let seen = course.probes.seen.iter();
        let within = seen.filter(|&&(t, ..)| (from..until).contains(&t));
        let values: Vec<f64> = within
            .map(|&(_, in_use, sessions)| if all { sessions } else { in_use })
            .collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let before = (plot.onset - BASE_SPAN).max(WARM_UP);
    let settled = plot.onset + 40.0_f64.max(plot.ramp + 20.0).max(1.5 * hold);
    let plateau = settled.min(plot.until - 30.0);
    let culprits = plot.culprits.iter().map(|&at| Culprit {
        service: naming.reporters[course.site.endpoints[at].service]
            .service
            .clone(),
        route: naming.routes[at].reported.clone(),
    });
    let size = mean(plateau, plot.until, all) - mean(before, plot.onset, all);
    let quiet = family == Family::Quiet;
    Truth {
        onset: (!quiet).then_some(start + plot.onset),
        until: start + plot.until,
        step: plot.step,
        base: mean(before, plot.onset, false),
        size: if quiet { 0.0 } else { size },
        culprits: culprits.collect(),
        cause: cause(family, course, naming),
    }
}

fn cause(family: Family, course: &Course, naming: &Naming) -> Blame {
    match family {
        Family::LockPileup => Blame::LockPileup,
        Family::SlowDatabase => Blame::SlowQueries,
        Family::BroadSurge => Blame::BroadSurge,
        Family::ReconnectStormAfterDeploy => Blame::ReconnectStorm,
        Family::Leak => Blame::Leak,
        Family::UnreportedEndpoint => Blame::Unknown,
        Family::Quiet => Blame::Quiet,
        Family::OtherApplication => {
            let number = course.plot.job.map_or(0, |(number, _)| number);
            let owner = naming.owners.get(course.site.services.len() + number);
            owner.map_or(Blame::Unknown, |owner| {
                Blame::Application(owner.application.clone())
            })
        }
        _ => Blame::Endpoint,
    }
}

/// Days on which nothing happens: seasonal traffic with harmless bursts, cron
/// jobs and deployments, simulated as they are asked for, with what
/// [`Evidence::Requests`] leaves.
pub fn quiet_days(seed: u64, days: f64) -> (Settings, impl Iterator<Item = Sample>) {
    let mixed = mix(Family::Quiet, seed);
    let scale = Scale {
        history: days * 86_400.0,
        after: 0.0,
        ..Scale::quiet(&mut stream(mixed, 0))
    };
    let set = set(Family::Quiet, mixed, &scale);
    let settings = setting::settings(&set.naming);
    let days = Days {
        end: WARM_UP + scale.history,
        set,
        ready: Vec::new().into_iter(),
    };
    (settings, days)
}

/// The samples of quiet days.
struct Days {
    set: Set,
    end: f64,
    ready: std::vec::IntoIter<Frame>,
}

impl Iterator for Days {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        loop {
            if let Some(frame) = self.ready.next() {
                return Some(frame.sample(&self.set.naming, Evidence::Requests));
            }
            let course = &mut self.set.course;
            if course.now() >= self.end {
                return None;
            }
            course.step();
            // Kept only to measure an incident.
            course.probes.seen.clear();
            let mut frames = course.frames();
            frames.retain(|frame| frame.t >= self.set.start + WARM_UP);
            self.ready = frames.into_iter();
        }
    }
}

#[cfg(test)]
mod tests;
