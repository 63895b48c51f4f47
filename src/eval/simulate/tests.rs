//! The simulation keeps its own laws, and each family is what its name says.

use super::*;
use crate::sample::Report;

/// A course with a short history, and where its incident is.
struct Played {
    course: Course,
    naming: Naming,
    onset: f64,
    until: f64,
    hold: f64,
}

/// Enough for a base, and for the noise of it.
const HISTORY: f64 = 240.0;

fn scale(family: Family, seed: u64) -> Scale {
    let drawn = Scale::draw(family, &mut stream(mix(family, seed), 0));
    Scale {
        history: HISTORY,
        endpoints: drawn.endpoints.min(120),
        ..drawn
    }
}

fn staged(family: Family, seed: u64) -> Played {
    let scale = scale(family, seed);
    let Set {
        course,
        naming,
        hold,
        ..
    } = set(family, mix(family, seed), &scale);
    Played {
        onset: course.plot.onset,
        until: course.plot.until,
        course,
        naming,
        hold,
    }
}

/// Sums over a span of seconds.
#[derive(Debug, Clone, Default)]
struct Span {
    seconds: f64,
    /// By endpoint: requests that came (their expected number), sessions in use.
    came: Vec<f64>,
    used: Vec<f64>,
    stuck: f64,
    waiting: f64,
    idle: f64,
    background: f64,
    opened: f64,
}

impl Span {
    fn use_of(&self, at: usize) -> f64 {
        self.used[at] / self.seconds
    }

    fn rate_of(&self, at: usize) -> f64 {
        self.came[at] / self.seconds
    }

    fn in_use(&self) -> f64 {
        self.used.iter().sum::<f64>() / self.seconds
    }
}

impl Played {
    /// What happens from one moment to another.
    fn over(&mut self, from: f64, until: f64) -> Span {
        while self.course.now() < from {
            self.course.step();
        }
        let count = self.course.site.endpoints.len();
        let opened = self.course.plant.opened;
        let mut span = Span {
            came: vec![0.0; count],
            used: vec![0.0; count],
            ..Span::default()
        };
        while self.course.now() < until {
            self.course.step();
            span.seconds += 1.0;
            let plant = &self.course.plant;
            for at in 0..count {
                span.came[at] += plant.rates[at];
                span.used[at] += f64::from(plant.in_database[at]);
                span.stuck += f64::from(plant.stuck_by_endpoint[at]);
            }
            for pool in &plant.pools {
                span.waiting += pool.waiting.len() as f64;
                let old: u32 = pool.old.iter().map(|&(n, _)| n).sum();
                span.idle += f64::from(pool.open - pool.in_use + old) + pool.leaked;
            }
            span.background += self.course.background() as f64;
        }
        span.opened = (self.course.plant.opened - opened) as f64;
        span
    }

    /// Before the onset, and from when the disturbance has unfolded.
    fn both(&mut self) -> (Span, Span) {
        let before = self.over(WARM_UP, self.onset);
        let settled = self.onset + (self.course.plot.ramp + 20.0).max(1.5 * self.hold);
        let after = self.over(settled.min(self.until - 40.0), self.until);
        (before, after)
    }
}

#[test]
fn the_same_seed_gives_the_same_scenario() {
    let play = || {
        let mut played = staged(Family::Confounded, 9);
        for _ in 0..200 {
            played.course.step();
        }
        let naming = played.naming;
        let frames = played.course.frames();
        let samples = frames.iter().map(|f| f.sample(&naming, Evidence::HalfTags));
        samples.collect::<Vec<_>>()
    };
    let first = play();
    assert!(first.len() > 200);
    assert_eq!(first, play());
}

#[test]
fn requests_and_sessions_are_neither_lost_nor_made() {
    for family in [Family::RetryStorm, Family::LockPileup, Family::HoldUp] {
        let mut played = staged(family, 3);
        while played.course.now() < played.until + 5.0 {
            played.course.step();
            let plant = &played.course.plant;
            assert_eq!(plant.came, plant.went + plant.running_now(), "{family}");
            for (service, pool) in played.course.site.services.iter().zip(&plant.pools) {
                let used = &plant.in_database[service.endpoints.clone()];
                assert_eq!(used.iter().sum::<u32>(), pool.in_use);
                assert!(pool.in_use <= pool.open && pool.open <= service.pool.size);
            }
        }
    }
}

#[test]
fn littles_law_holds() {
    let mut told = Vec::new();
    for seed in 0..6 {
        let mut played = staged(Family::MidsizeSurge, seed);
        let onset = played.onset;
        let span = played.over(WARM_UP, onset);
        let site = &played.course.site;
        let wanted: f64 = (0..site.endpoints.len())
            .map(|at| span.rate_of(at) * site.endpoints[at].db)
            .sum();
        told.push(span.in_use() / wanted);
    }
    let mean = told.iter().sum::<f64>() / told.len() as f64;
    assert!((mean - 1.0).abs() < 0.06, "{told:?}");
    assert!(
        told.iter().all(|ratio| (ratio - 1.0).abs() < 0.3),
        "{told:?}"
    );
}

#[test]
fn every_kind_of_evidence_counts_every_session() {
    let scenario = {
        let mut played = staged(Family::RareHeavyEndpoint, 5);
        while played.course.now() < WARM_UP + 60.0 {
            played.course.step();
        }
        (played.course.frames(), played.naming)
    };
    let (frames, naming) = scenario;
    for frame in &frames {
        let all = Evidence::ALL.map(|evidence| frame.sample(&naming, evidence));
        let counts = all.each_ref().map(|sample| match &sample.report {
            Report::Postgres(report) => report.groups.iter().map(|g| g.count).sum::<u32>(),
            _ => 0,
        });
        assert!(counts.iter().all(|&count| count == counts[0]));
        for (evidence, sample) in Evidence::ALL.iter().zip(&all) {
            match &sample.report {
                Report::Postgres(report) => {
                    let tagged = report.groups.iter().any(|g| g.route.is_some());
                    let may = matches!(evidence, Evidence::HalfTags | Evidence::AllTags);
                    assert!(may || !tagged, "{evidence:?}");
                }
                Report::Traffic(report) => {
                    let gauge = report.routes.iter().any(|r| r.in_flight.is_some());
                    assert!(*evidence == Evidence::Gauge || !gauge, "{evidence:?}");
                }
                Report::Pgbouncer(_) => {}
            }
        }
    }
}

/// What an endpoint is expected to do: requests a second, and sessions in use.
fn expected(course: &Course, at: usize, on: f64) -> (f64, f64) {
    let (site, plot) = (&course.site, &course.plot);
    let endpoint = &site.endpoints[at];
    let mut rate = endpoint.rate * (1.0 + on * (plot.rate_factor - 1.0));
    let mut db = endpoint.db * (1.0 + on * (plot.db_factor - 1.0));
    for push in plot.pushes.iter().filter(|push| push.endpoint == at) {
        rate = rate * (1.0 + on * (push.rate_factor - 1.0)) + on * push.rate_more;
        db *= 1.0 + on * (push.db_factor - 1.0);
    }
    (rate, rate * db)
}

/// The culprits' part of the extra sessions and of the requests.
struct Part {
    of_rise: f64,
    of_requests: f64,
    rate_change: f64,
    rise: f64,
    base: f64,
}

fn part(course: &Course) -> Part {
    let all = 0..course.site.endpoints.len();
    let sum = |on: f64, of: &dyn Fn(usize) -> bool| {
        let some = all.clone().filter(|&at| of(at));
        some.map(|at| expected(course, at, on))
            .fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let (before, after) = (sum(0.0, &|_| true), sum(1.0, &|_| true));
    let blamed = |at: usize| course.plot.culprits.contains(&at);
    let (theirs, then) = (sum(0.0, &blamed), sum(1.0, &blamed));
    Part {
        of_rise: (then.1 - theirs.1) / (after.1 - before.1),
        of_requests: then.0 / after.0,
        rate_change: then.0 / theirs.0,
        rise: after.1 - before.1,
        base: before.1,
    }
}

#[test]
fn each_family_is_what_its_name_promises() {
    for family in Family::ALL.into_iter().filter(|f| f.has_culprit()) {
        for seed in 0..25 {
            let played = staged(family, seed);
            let course = &played.course;
            let part = part(course);
            let case = format!(
                "{family} {seed}: {:.2} of the rise of {:.1} over {:.1}, {:.4} of the requests, rate x{:.2}",
                part.of_rise, part.rise, part.base, part.of_requests, part.rate_change
            );
            assert!(part.of_rise > 0.55, "{case}");
            assert!(part.base > 8.0, "{case}");
            let factor = part.rise / part.base;
            let held = course
                .plot
                .culprits
                .iter()
                .map(|&at| course.site.endpoints[at].db);
            let longest = held.fold(0.0, f64::max);
            match family {
                Family::RareHeavyEndpoint => assert!(part.of_requests <= 0.03, "{case}"),
                Family::RareHoldUp => assert!(part.of_requests <= 0.015, "{case}"),
                Family::HoldUp => assert!((0.99..1.01).contains(&part.rate_change), "{case}"),
                Family::LongHolds => assert!((8.0..=40.0).contains(&longest), "{case}"),
                Family::NewEndpoint => assert!(part.rate_change > 1e6, "{case}"),
                Family::WeakSpike => assert!((0.4..1.1).contains(&factor), "{case}"),
                Family::TwoCulprits => assert_eq!(course.plot.culprits.len(), 2),
                Family::LateData => {
                    let mut services = course.site.services.iter();
                    assert!(services.all(|service| service.delay.0 >= 15.0));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn an_endpoint_to_blame_has_most_of_the_rise() {
    for family in Family::ALL.into_iter().filter(|f| f.has_culprit()) {
        let mut played = staged(family, 1);
        let (before, after) = played.both();
        let culprits = &played.course.plot.culprits;
        let used = |span: &Span| culprits.iter().map(|&at| span.use_of(at)).sum::<f64>();
        let rise = after.in_use() - before.in_use();
        let part = (used(&after) - used(&before)) / rise;
        assert!(rise > 4.0 && part > 0.5, "{family}: {part:.2} of {rise:.1}");
    }
}

#[test]
fn where_nobody_is_to_blame_no_endpoint_has_a_large_part() {
    let blameless = |f: &Family| !f.has_culprit() && *f != Family::Quiet;
    for family in Family::ALL.into_iter().filter(blameless) {
        for seed in 0..2 {
            let mut played = staged(family, seed);
            let (before, after) = played.both();
            let site = &played.course.site;
            let rise = after.in_use() - before.in_use();
            let part = (0..site.endpoints.len())
                .filter(|&at| site.endpoints[at].reported)
                .map(|at| after.use_of(at) - before.use_of(at))
                .fold(0.0, f64::max);
            let sessions = (after.idle + after.background) / after.seconds
                - (before.idle + before.background) / before.seconds;
            let churn = |span: &Span| span.opened / span.seconds;
            let case = format!(
                "{family} {seed}: {rise:.1} in use over {:.1}, waiting {:.1}, {sessions:.1} idle or others, stuck {:.1}, \
                 the largest {part:.1}; churn {:.2} -> {:.2}",
                before.in_use(),
                after.waiting / after.seconds,
                after.stuck / after.seconds,
                churn(&before),
                churn(&after),
            );
            match family {
                Family::BroadSurge | Family::SlowDatabase | Family::LockPileup => {
                    let all = rise + (after.waiting / after.seconds);
                    assert!(part < 0.6 * all, "{case}");
                }
                Family::UnreportedEndpoint => assert!(part < 0.4 * rise, "{case}"),
                Family::OtherApplication | Family::Leak => assert!(sessions > part, "{case}"),
                Family::ReconnectStormAfterDeploy => {
                    assert!(churn(&after) > 5.0 * churn(&before), "{case}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut played = staged(Family::LockPileup, 1);
    while played.course.now() < played.onset + 30.0 {
        played.course.step();
    }
    let scenario = Scenario {
        family: Family::LockPileup,
        seed: 1,
        truth: truth(Family::LockPileup, &played.course, &played.naming, 0.0, 0.0),
        settings: setting::settings(&played.naming),
        frames: played.course.frames(),
        naming: played.naming,
    };
    let directory = tempfile::tempdir().unwrap();
    let written = write_capture(&scenario, Evidence::AllTags, directory.path()).unwrap();
    let mut reader = crate::capture::CaptureReader::open(&written.capture).unwrap();
    assert_eq!(reader.header().settings, scenario.settings);
    for sample in Evidence::AllTags.restrict(&scenario) {
        assert_eq!(reader.next().unwrap().unwrap(), sample);
    }
    assert!(reader.next().is_none());
    let sheet = std::fs::read(&written.truth).unwrap();
    let sheet: write::Sheet = serde_json::from_slice(&sheet).unwrap();
    assert_eq!(sheet.truth, scenario.truth);
}
