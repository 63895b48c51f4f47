use super::*;
use crate::engine::correlate::attribution::NAMED;
use crate::engine::incident::Cause;
use crate::engine::settings::Service;
use crate::sample::{FailureReason, Group, Server};

const ROUTES: usize = 30;
const CULPRIT: &str = "GET /cnr/api/v1/packages";

/// One tick's sessions: (application, route, lock wait, count).
type Sessions = Vec<(String, Option<String>, bool, u32)>;

/// Sessions of an ordinary tick: about four, on routes of Zipf popularity.
fn ordinary(random: &mut fastrand::Rng, factor: f64) -> Sessions {
    let mut mix = Sessions::new();
    for rank in 0..ROUTES {
        let count = poisson(random, factor / (rank + 1) as f64);
        mix.push((
            "registry-1".to_owned(),
            Some(format!("GET /r/{rank}")),
            false,
            count,
        ));
    }
    mix
}

fn report(mix: &Sessions) -> PostgresReport {
    let mut groups: Vec<Group> = mix
        .iter()
        .filter(|&&(.., count)| count > 0)
        .map(|(application, route, waits, count)| Group {
            application: Some(application.clone()),
            state: Some("active".to_owned()),
            wait_event_type: waits.then(|| "Lock".to_owned()),
            route: route.clone(),
            count: *count,
            ..Group::default()
        })
        .collect();
    groups.push(Group {
        application: Some("registry-1".to_owned()),
        state: Some("idle".to_owned()),
        count: 200,
        ..Group::default()
    });
    PostgresReport {
        target: "main".to_owned(),
        server: Some(Server {
            started_at: Some(-5000.0),
            ..Server::default()
        }),
        groups,
        sees_all_sessions: Some(true),
        ..PostgresReport::default()
    }
}

/// A Poisson number by Knuth's product.
fn poisson(random: &mut fastrand::Rng, mean: f64) -> u32 {
    let (limit, mut count, mut product) = ((-mean).exp(), 0, random.f64());
    while product > limit {
        count += 1;
        product *= random.f64();
    }
    count
}

struct Stage {
    avalanche: Avalanche,
    random: fastrand::Rng,
    t: f64,
}

impl Stage {
    fn new(seed: u64) -> Self {
        Self::warmed_up(seed, 120.0)
    }

    fn warmed_up(seed: u64, seconds: f64) -> Self {
        let mut settings = Settings {
            services: vec![Service {
                name: "registry".to_owned(),
                targets: vec!["main".to_owned()],
                applications: vec!["registry*".to_owned()],
            }],
            ..Settings::default()
        };
        settings.detect.connection_avalanche.warm_up = seconds;
        Self {
            avalanche: Avalanche::new("main", &settings),
            random: fastrand::Rng::with_seed(seed),
            t: 0.0,
        }
    }

    /// After ten quiet minutes.
    fn quiet(seed: u64) -> Self {
        let mut stage = Self::new(seed);
        for _ in 0..600 {
            let found = stage.tick(|_| {}, 0);
            assert_eq!(found, None, "at {} s, seed {seed}", stage.t);
        }
        stage
    }

    fn tick(&mut self, change: impl FnOnce(&mut Sessions), waiting: u32) -> Option<Finding> {
        let mut mix = ordinary(&mut self.random, 1.0);
        change(&mut mix);
        self.observe(&report(&mix), waiting)
    }

    fn observe(&mut self, report: &PostgresReport, clients_waiting: u32) -> Option<Finding> {
        self.t += 1.0;
        self.avalanche.observe(&AvalancheInput {
            t: self.t,
            report,
            clients_waiting,
            roots: &[],
            open: true,
        })
    }

    /// The finding after `seconds` of the same change.
    fn after(
        &mut self,
        seconds: u32,
        change: impl Fn(&mut Sessions),
        waiting: u32,
    ) -> Option<Finding> {
        (0..seconds)
            .map(|_| self.tick(&change, waiting))
            .last()
            .flatten()
    }
}

fn add(route: Option<&str>, count: u32) -> impl Fn(&mut Sessions) {
    let route = route.map(str::to_owned);
    move |mix| mix.push(("registry-2".to_owned(), route.clone(), false, count))
}

fn says(finding: &Finding, words: &str) -> bool {
    finding
        .evidence
        .iter()
        .any(|sentence| sentence.contains(words))
}

#[test]
fn a_tagged_route_is_named_at_once_and_always() {
    for seed in 0..20 {
        let mut stage = Stage::quiet(seed);
        let onset = stage.t;
        assert_eq!(stage.tick(add(Some(CULPRIT), 40), 0), None);
        let finding = stage
            .tick(add(Some(CULPRIT), 40), 0)
            .expect("two ticks after the step");
        assert_eq!(finding.cause, Some(Cause::Endpoint), "{finding:#?}");
        let first = &finding.attribution[0];
        assert_eq!(
            (first.service.as_str(), first.route.as_str()),
            ("registry", CULPRIT)
        );
        assert!(first.share > 0.85 && first.confidence >= NAMED);
        assert!(
            (finding.onset_at - onset).abs() <= 2.0,
            "{} {onset}",
            finding.onset_at
        );
    }
}

#[test]
fn the_finding_reads_well() {
    let mut stage = Stage::quiet(1);
    let finding = stage.after(12, add(Some(CULPRIT), 40), 0).unwrap();
    assert!(
        finding.summary.starts_with("main went from 4"),
        "{}",
        finding.summary
    );
    assert!(
        finding
            .summary
            .contains("GET /cnr/api/v1/packages explains"),
        "{}",
        finding.summary
    );
    assert!(finding.summary.ends_with("% of it"), "{}", finding.summary);
    assert!(says(
        &finding,
        "extra sessions in the database (0 → 40 sessions, by their tags)"
    ));
    assert!(finding.actions[0].contains("GET( |[+]|%+20)(/|%+2[Ff])cnr"));
    assert!(finding.actions[1].contains("pg_cancel_backend"));
    assert!(finding.subject["peak"].as_f64().unwrap() >= 43.0);
    assert!(finding.unexplained_share.unwrap() < 0.15);
}

#[test]
fn a_rare_route_that_slows_down_is_told_from_a_busy_one() {
    let mut stage = Stage::quiet(2);
    let finding = stage.after(10, add(Some("GET /r/20"), 30), 0).unwrap();
    assert_eq!(finding.attribution[0].route, "GET /r/20");
    assert_eq!(finding.cause, Some(Cause::Endpoint));
}

#[test]
fn a_full_pool_is_explained_by_who_displaced_the_others() {
    let mut stage = Stage::quiet(3);
    // The pool has six servers; the route takes them all and the rest queue.
    let displaced = |mix: &mut Sessions| {
        mix.clear();
        mix.push(("registry-1".to_owned(), Some(CULPRIT.to_owned()), false, 6));
    };
    let finding = stage.after(10, displaced, 60).unwrap();
    assert_eq!(finding.attribution[0].route, CULPRIT, "{finding:#?}");
    assert_eq!(finding.cause, Some(Cause::Endpoint));
    assert!(says(&finding, "60 clients more waiting in the poolers"));
    assert!(
        finding
            .summary
            .contains("of the extra sessions in the database")
    );
}

#[test]
fn a_queue_with_the_same_mix_accuses_nobody() {
    let mut stage = Stage::quiet(4);
    let finding = stage.after(30, |_| {}, 60).unwrap();
    assert_eq!(finding.cause, Some(Cause::Unknown));
    assert!(
        finding
            .attribution
            .iter()
            .all(|route| route.confidence < NAMED),
        "{finding:#?}"
    );
}

#[test]
fn a_minute_of_history_is_enough_for_a_clear_case() {
    for seed in 0..30 {
        let mut stage = Stage::warmed_up(seed, 15.0);
        for _ in 0..60 {
            let found = stage.tick(|_| {}, 0);
            assert_eq!(found, None, "at {} s, seed {seed}", stage.t);
        }
        // The pool has twenty servers; forty more clients queue for them.
        let packed = |mix: &mut Sessions| {
            mix.iter_mut().skip(2).for_each(|group| group.3 = 0);
            add(Some(CULPRIT), 18)(mix);
        };
        let found = (0..10).find_map(|_| stage.tick(packed, 40)).unwrap();
        assert_eq!(found.attribution[0].route, CULPRIT);
        let later = stage.after(5, packed, 40).unwrap();
        assert_eq!(later.cause, Some(Cause::Endpoint), "{later:#?}");
    }
}

#[test]
fn a_broad_surge_accuses_nobody() {
    for seed in 0..20 {
        let mut stage = Stage::quiet(seed);
        let mut surge = fastrand::Rng::with_seed(seed + 1000);
        for second in 0..60 {
            let mix = ordinary(&mut surge, 8.0);
            if let Some(finding) = stage.observe(&report(&mix), 0) {
                assert_eq!(
                    finding.cause,
                    Some(Cause::Unknown),
                    "{second} s: {finding:#?}"
                );
                assert!(
                    finding
                        .attribution
                        .iter()
                        .all(|route| route.confidence < NAMED)
                );
                if second > 20 {
                    assert!(
                        finding.summary.ends_with("all routes rose together"),
                        "{}",
                        finding.summary
                    );
                }
            } else {
                assert!(second < 10, "no alarm");
            }
        }
    }
}

#[test]
fn lock_waits_accuse_nobody() {
    let mut stage = Stage::quiet(5);
    let locked = |mix: &mut Sessions| {
        mix.push(("registry-1".to_owned(), Some(CULPRIT.to_owned()), true, 30));
    };
    let finding = stage.after(10, locked, 0).unwrap();
    assert_eq!(finding.cause, Some(Cause::LockPileup));
    assert!(
        says(&finding, "30 sessions more wait for locks"),
        "{:?}",
        finding.evidence
    );
    assert!(finding.attribution[0].confidence < NAMED);
    assert!(finding.actions[0].contains("pg_blocking_pids"));
}

#[test]
fn another_application_without_tags_is_told_and_no_route_accused() {
    let mut stage = Stage::quiet(6);
    let batch = |mix: &mut Sessions| mix.push(("nightly".to_owned(), None, false, 40));
    let finding = stage.after(10, batch, 0).unwrap();
    assert_eq!(finding.cause, Some(Cause::Application));
    assert_eq!(finding.subject["application"], "nightly");
    assert!(
        finding.summary.contains("nightly has 40 of the 4"),
        "{}",
        finding.summary
    );
    assert!(says(
        &finding,
        "40 of the extra sessions are of nightly and carry no route tag"
    ));
    assert!(finding.unexplained_share.unwrap() > 0.8);
}

#[test]
fn two_routes_alike_are_both_listed_and_neither_named() {
    let mut stage = Stage::quiet(7);
    let two = |mix: &mut Sessions| {
        add(Some("GET /x"), 20)(mix);
        add(Some("GET /y"), 20)(mix);
    };
    let finding = stage.after(10, two, 0).unwrap();
    assert_eq!(finding.cause, Some(Cause::Unknown));
    assert_eq!(finding.attribution.len(), 2);
    assert!(says(&finding, "none is far enough ahead"));
}

#[test]
fn half_the_tags_cut_off_still_name_the_route() {
    let mut stage = Stage::quiet(8);
    let half = |mix: &mut Sessions| {
        add(Some(CULPRIT), 20)(mix);
        add(None, 20)(mix);
    };
    let finding = stage.after(10, half, 0).unwrap();
    assert_eq!(finding.attribution[0].route, CULPRIT);
    assert_eq!(finding.cause, Some(Cause::Endpoint), "{finding:#?}");
    assert!(says(
        &finding,
        "20 of the extra sessions carry no route tag"
    ));
}

#[test]
fn the_attribution_is_revised_while_the_incident_lasts() {
    let mut stage = Stage::quiet(9);
    let first = stage.after(5, add(None, 40), 0).unwrap();
    assert_eq!(first.cause, Some(Cause::Unknown));
    let later = stage.after(900, add(Some(CULPRIT), 40), 0).unwrap();
    assert_eq!(later.attribution[0].route, CULPRIT);
    assert_eq!(later.cause, Some(Cause::Endpoint));
    assert_eq!(later.onset_at, first.onset_at);
}

#[test]
fn it_resolves_after_calm_and_says_that_it_waits() {
    let mut stage = Stage::quiet(10);
    stage.after(60, add(Some(CULPRIT), 40), 0).unwrap();
    let waiting = stage.after(120, |_| {}, 0).unwrap();
    assert!(says(&waiting, "back under the band"));
    assert_eq!(waiting.attribution[0].route, CULPRIT);
    assert_eq!(stage.after(240, |_| {}, 0), None);
}

#[test]
fn a_new_level_is_accepted_with_a_sentence() {
    let mut stage = Stage::quiet(11);
    let mut last = None;
    for _ in 0..5000 {
        match stage.tick(add(Some(CULPRIT), 40), 0) {
            Some(finding) => last = Some(finding),
            None if last.is_some() => break,
            None => {}
        }
    }
    assert!(says(
        &last.unwrap(),
        "it is the new normal, and the incident is resolved"
    ));
}

#[test]
fn blind_and_failed_polls_hold_judgement() {
    let mut stage = Stage::quiet(12);
    let mut blind = report(&vec![("registry".to_owned(), None, false, 500)]);
    blind.sees_all_sessions = Some(false);
    let failed = PostgresReport {
        error: Some(FailureReason::Timeout),
        ..PostgresReport::default()
    };
    for _ in 0..50 {
        assert_eq!(stage.observe(&blind, 500), None);
        assert_eq!(stage.observe(&failed, 500), None);
    }
    let open = stage.after(10, add(Some(CULPRIT), 40), 0);
    assert!(open.is_some());
    assert_eq!(stage.observe(&failed, 0), open);
    let input = AvalancheInput {
        t: stage.t + 1.0,
        report: &failed,
        clients_waiting: 0,
        roots: &[],
        open: false,
    };
    assert_eq!(stage.avalanche.observe(&input), None);
}

#[test]
fn the_second_avalanche_after_a_restart_is_found() {
    let mut stage = Stage::quiet(13);
    let before = stage.avalanche.band().unwrap();
    let failed = PostgresReport {
        error: Some(FailureReason::Refused),
        ..PostgresReport::default()
    };
    for _ in 0..30 {
        stage.observe(&failed, 0);
    }
    let started_at = stage.t;
    let mut found = None;
    for second in 0..60 {
        let mut mix = ordinary(&mut stage.random, 1.0);
        if second < 20 {
            mix.clear();
        } else {
            add(Some(CULPRIT), 60)(&mut mix);
        }
        let mut report = report(&mix);
        report.server = Some(Server {
            started_at: Some(started_at),
            ..Server::default()
        });
        found = found.or(stage.observe(&report, 0).map(|finding| (second, finding)));
    }
    let (second, finding) = found.unwrap();
    assert!(second <= 22, "{second}");
    assert_eq!(finding.cause, Some(Cause::Endpoint));
    assert!(
        says(&finding, "the server was restarted"),
        "{:?}",
        finding.evidence
    );
    let after = stage.avalanche.band().unwrap();
    assert!(
        (after.expected - before.expected).abs() < 1.0,
        "{before:?} {after:?}"
    );
}

#[test]
fn it_can_be_switched_off() {
    let mut settings = Settings::default();
    settings.detect.connection_avalanche.enabled = false;
    settings.detect.connection_avalanche.warm_up = 10.0;
    let mut avalanche = Avalanche::new("main", &settings);
    for t in 0..200 {
        let report = report(&vec![(
            "a".to_owned(),
            None,
            false,
            if t < 100 { 1 } else { 300 },
        )]);
        let input = AvalancheInput {
            t: f64::from(t),
            report: &report,
            clients_waiting: 0,
            roots: &[],
            open: false,
        };
        assert_eq!(avalanche.observe(&input), None);
    }
}

/// Sessions of thirty routes that arrive at random and stay for a while: what
/// one tick shows is much like the tick before.
struct Crowd {
    random: fastrand::Rng,
    counts: [u32; ROUTES],
}

/// Seconds that a session of the crowd lasts.
const STAY: f64 = 5.0;

impl Crowd {
    fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            counts: [0; ROUTES],
        }
    }

    /// Lets a second pass at which route `i` has `mean(i)` sessions on average.
    fn pass(&mut self, mean: impl Fn(usize) -> f64) -> Sessions {
        let mut mix = Sessions::new();
        for (rank, count) in self.counts.iter_mut().enumerate() {
            let leaving = (0..*count)
                .filter(|_| self.random.f64() < 1.0 / STAY)
                .count();
            *count += poisson(&mut self.random, mean(rank) / STAY);
            *count -= leaving as u32;
            let route = Some(format!("GET /r/{rank}"));
            mix.push(("registry-1".to_owned(), route, false, *count));
        }
        mix
    }
}

/// Stages the same kind of incident thirty times: how often it was found, and
/// the routes named at any tick of the minute and at 10 s after the alarm.
fn accused(quiet: f64, mean: impl Fn(u64, usize) -> f64) -> (usize, usize, usize, usize) {
    let (mut found, mut right, mut wrong, mut named_at_10) = (0, 0, 0, 0);
    for seed in 0..30 {
        let mut stage = Stage::new(seed);
        let mut crowd = Crowd::new(seed);
        for _ in 0..600 {
            let mix = crowd.pass(|rank| quiet / (rank + 1) as f64);
            assert_eq!(stage.observe(&report(&mix), 0), None, "quiet crowd {seed}");
        }
        let findings: Vec<Finding> = (0..60)
            .filter_map(|_| {
                let mix = crowd.pass(|rank| mean(seed, rank));
                stage.observe(&report(&mix), 0)
            })
            .collect();
        let named = |finding: &&Finding| finding.cause == Some(Cause::Endpoint);
        let is_right = |finding: &&Finding| finding.attribution[0].route == "GET /r/20";
        let accusations: Vec<&Finding> = findings.iter().filter(named).collect();
        found += usize::from(!findings.is_empty());
        right += usize::from(accusations.iter().all(is_right) && !accusations.is_empty());
        wrong += usize::from(!accusations.iter().all(is_right));
        let at_10 = findings.get(10).filter(named).filter(is_right);
        named_at_10 += usize::from(at_10.is_some());
    }
    println!("found {found}, named right {right}, wrongly {wrong}, right at +10 s {named_at_10}");
    (found, right, wrong, named_at_10)
}

#[test]
fn a_random_crowd_is_not_accused() {
    let zipf = |rank: usize| 8.0 / (rank + 1) as f64;
    // Everybody threefold; everybody by a factor of his own; everybody sixfold.
    let uneven = |seed: u64, rank: usize| 2.0 + ((seed * 31 + rank as u64 * 17) % 9) as f64 / 2.0;
    for (found, _, wrong, _) in [
        accused(8.0, |_, rank| 3.0 * zipf(rank)),
        accused(8.0, |seed, rank| uneven(seed, rank) * zipf(rank)),
        accused(8.0, |_, rank| 6.0 * zipf(rank)),
    ] {
        assert!(found >= 28, "{found} of 30 found");
        assert_eq!(wrong, 0);
    }
}

#[test]
fn the_culprit_is_found_in_a_random_crowd() {
    let zipf = |rank: usize| 8.0 / (rank + 1) as f64;
    let culprit = |rank: usize, sessions: f64| if rank == 20 { sessions } else { 0.0 };
    for (found, _, wrong, at_10) in [
        // Alone; with everybody half as busy again; with a flow of five.
        accused(8.0, |_, rank| zipf(rank) + culprit(rank, 40.0)),
        accused(8.0, |_, rank| 1.5 * zipf(rank) + culprit(rank, 40.0)),
        accused(8.0, |_, rank| {
            let flow = if (18..=22).contains(&rank) { 2.0 } else { 0.0 };
            zipf(rank) + flow + culprit(rank, 40.0)
        }),
    ] {
        assert_eq!(found, 30);
        assert_eq!(wrong, 0);
        assert!(at_10 >= 26, "{at_10} of 30 named at +10 s");
    }
}

#[test]
fn an_earlier_incident_is_no_part_of_the_normal_mix() {
    let mut stage = Stage::quiet(14);
    stage.after(1200, add(Some(CULPRIT), 100), 0).unwrap();
    assert_eq!(stage.after(420, |_| {}, 0), None);
    // The same route again, at less than its mean of the last half hour.
    let second = stage.after(15, add(Some(CULPRIT), 30), 0).unwrap();
    assert_eq!(second.cause, Some(Cause::Endpoint), "{second:#?}");
    assert!(second.attribution[0].share > 0.8, "{second:#?}");
}

#[test]
fn a_full_database_is_not_said_to_have_more_sessions() {
    let mut stage = Stage::quiet(15);
    // Twenty of the normal mix make way for twenty of the culprit.
    let displaced = |mix: &mut Sessions| {
        mix.clear();
        add(Some(CULPRIT), 4)(mix);
    };
    let finding = stage.after(30, displaced, 80).unwrap();
    assert!(
        !says(&finding, "4 sessions more in the database"),
        "{finding:#?}"
    );
}

#[test]
fn an_avalanche_during_the_warm_up_does_not_hide_the_next_one() {
    let mut stage = Stage::new(16);
    assert_eq!(stage.after(600, add(Some(CULPRIT), 100), 0), None);
    for _ in 0..900 {
        assert_eq!(stage.tick(|_| {}, 0), None);
    }
    let next = stage.after(30, add(Some(CULPRIT), 40), 0);
    assert!(next.is_some(), "{:?}", stage.avalanche.band());
}

#[test]
fn a_cause_does_not_flap() {
    // One route explains about as much as is needed to be named.
    let mut flips = Vec::new();
    for seed in 0..20 {
        let mut stage = Stage::quiet(100 + seed);
        let mut causes = Vec::new();
        for _ in 0..300 {
            let (x, y) = (
                poisson(&mut stage.random, 20.0),
                poisson(&mut stage.random, 14.0),
            );
            let noisy = |mix: &mut Sessions| {
                add(Some("GET /x"), x)(mix);
                add(None, y)(mix);
                mix.push(("cron".to_owned(), None, false, 7));
            };
            causes.extend(stage.tick(noisy, 0).map(|finding| finding.cause));
        }
        causes.dedup();
        flips.push(causes.len());
    }
    println!("{flips:?}");
    assert!(flips.iter().all(|&count| count <= 3), "{flips:?}");
}

#[test]
fn a_start_before_ours_is_no_restart() {
    let mut stage = Stage::new(14);
    let mut last = None;
    for second in 0..320 {
        let mut mix = ordinary(&mut stage.random, 1.0);
        if second >= 300 {
            add(Some(CULPRIT), 60)(&mut mix);
        }
        let mut report = report(&mix);
        report.server = Some(Server {
            started_at: Some(-10.0),
            ..Server::default()
        });
        last = stage.observe(&report, 0);
    }
    assert!(!says(&last.unwrap(), "restarted"));
}
