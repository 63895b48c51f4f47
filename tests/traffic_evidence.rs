//! What applications tell of their requests, weighed through the whole engine:
//! who is named, how soon, and who never is.
//!
//! A small deterministic world: endpoints with a rate and a duration, from which
//! follow the sessions (untagged, as PostgreSQL shows them) and the reports that
//! an application would send: counters that move when a request ends, or a gauge.

use proptest::prelude::*;
use snowpit::engine::incident::{Cause, Effect, Incident, Kind};
use snowpit::engine::settings::Service;
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{
    Group, PostgresReport, Report, RouteTraffic, Sample, Server, TrafficReport, TrafficVia,
};

const ONSET: f64 = 10_000.0;
const START: f64 = ONSET - 900.0;

/// The first is the one of all endpoints that say nothing else.
const SERVICES: [&str; 2] = ["registry", "shop"];

/// An endpoint before the onset and since.
#[derive(Debug, Clone)]
struct Endpoint {
    service: &'static str,
    name: String,
    rate: (f64, f64),
    hold: (f64, f64),
    /// Part of its time that it has a session.
    uses: f64,
    reported: bool,
}

impl Endpoint {
    fn steady(name: &str, rate: f64, hold: f64) -> Self {
        Self {
            service: "registry",
            name: name.to_owned(),
            rate: (rate, rate),
            hold: (hold, hold),
            uses: 1.0,
            reported: true,
        }
    }

    /// Requests that have begun up to `t`.
    fn begun(&self, t: f64) -> f64 {
        self.rate.0 * (t.min(ONSET) - START + 100.0) + self.rate.1 * (t - ONSET).max(0.0)
    }

    /// Requests that have ended up to `t`: what begins before the onset takes
    /// the old time.
    fn ended(&self, t: f64) -> f64 {
        let old = self.begun((t - self.hold.0).min(ONSET));
        let new = self.begun((t - self.hold.1).max(ONSET)) - self.begun(ONSET);
        old + new
    }

    /// Their durations added up.
    fn seconds(&self, t: f64) -> f64 {
        let old = self.begun((t - self.hold.0).min(ONSET));
        let new = self.begun((t - self.hold.1).max(ONSET)) - self.begun(ONSET);
        old * self.hold.0 + new * self.hold.1
    }

    fn running(&self, t: f64) -> f64 {
        self.begun(t) - self.ended(t)
    }
}

/// How the application tells of them.
#[derive(Debug, Clone, Copy)]
struct Telling {
    via: TrafficVia,
    every: f64,
    late: f64,
    gauge: bool,
    database: bool,
}

const COUNTERS: Telling = Telling {
    via: TrafficVia::Scrape,
    every: 1.0,
    late: 0.2,
    gauge: false,
    database: false,
};

struct World {
    endpoints: Vec<Endpoint>,
    telling: Vec<Telling>,
    /// Sessions of somebody else, waiting for a lock or not, since the onset.
    others: Option<(&'static str, u32, bool)>,
    /// Clients waiting in no pooler; sessions carry route tags.
    tagged: bool,
}

fn usual() -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = (0..20)
        .map(|i| Endpoint::steady(&format!("GET /a{i}/{{id}}"), 40.0 / f64::from(i + 1), 0.02))
        .collect();
    endpoints.push(Endpoint::steady("GET /cnr/api/v1/packages", 0.2, 10.0));
    endpoints
}

fn world(endpoints: Vec<Endpoint>, telling: &[Telling]) -> World {
    World {
        endpoints,
        telling: telling.to_vec(),
        others: None,
        tagged: false,
    }
}

/// The staged surge: few slow requests.
fn avalanche() -> Vec<Endpoint> {
    let mut endpoints = usual();
    endpoints[20].rate.1 = 4.0;
    endpoints
}

impl World {
    fn sessions(&self, t: f64) -> Vec<Group> {
        let mut groups: Vec<Group> = self
            .endpoints
            .iter()
            .map(|endpoint| {
                group(
                    endpoint.service,
                    (endpoint.running(t) * endpoint.uses).round(),
                )
            })
            .zip(&self.endpoints)
            .map(|(group, endpoint)| Group {
                route: self.tagged.then(|| endpoint.name.clone()),
                ..group
            })
            .collect();
        // Poll noise: one session more or less.
        groups.push(group("registry", f64::from((t as u32 * 7) % 3)));
        if let Some((application, count, waits)) = self.others
            && t >= ONSET
        {
            groups.push(Group {
                wait_event_type: waits.then(|| "Lock".to_owned()),
                ..group(application, f64::from(count).min((t - ONSET + 1.0) * 8.0))
            });
        }
        groups
    }

    fn report(&self, service: &str, telling: Telling, until: f64) -> TrafficReport {
        let from = until - telling.every;
        let routes = self.endpoints.iter();
        let routes = routes.filter(|endpoint| endpoint.reported && endpoint.service == service);
        TrafficReport {
            service: service.to_owned(),
            via: Some(telling.via),
            until: Some(until),
            interval: if telling.gauge { 0.0 } else { telling.every },
            routes: routes
                .map(|endpoint| {
                    let requests = endpoint.ended(until) - endpoint.ended(from);
                    let seconds = endpoint.seconds(until) - endpoint.seconds(from);
                    let (requests, seconds) = if telling.gauge {
                        (0.0, 0.0)
                    } else {
                        (requests, seconds)
                    };
                    RouteTraffic {
                        route: endpoint.name.clone(),
                        requests,
                        duration_seconds: seconds,
                        in_flight: telling.gauge.then(|| endpoint.running(until)),
                        database_seconds: telling.database.then_some(seconds * endpoint.uses),
                        durations: Vec::new(),
                    }
                })
                .collect(),
        }
    }

    /// Every sample up to this long after the onset, in order of arrival.
    fn samples(&self, after: f64) -> Vec<Sample> {
        let mut samples = Vec::new();
        let seconds = (ONSET + after - START) as u32;
        for second in 0..=seconds {
            let t = START + f64::from(second);
            samples.push(Sample {
                t,
                report: Report::Postgres(PostgresReport {
                    target: "main".to_owned(),
                    server: Some(Server {
                        max_connections: Some(500),
                        ..Server::default()
                    }),
                    groups: self.sessions(t),
                    ..PostgresReport::default()
                }),
            });
        }
        for &telling in &self.telling {
            let mut until = START + telling.every;
            while until + telling.late <= ONSET + after {
                for service in SERVICES {
                    let report = self.report(service, telling, until);
                    if service == SERVICES[0] || !report.routes.is_empty() {
                        samples.push(Sample {
                            t: until + telling.late,
                            report: Report::Traffic(report),
                        });
                    }
                }
                until += telling.every;
            }
        }
        samples.sort_by(|a, b| a.t.total_cmp(&b.t));
        samples
    }

    /// The record of the incident as it is in the end.
    fn last(&self, after: f64) -> Incident {
        let mut engine = engine();
        for sample in self.samples(after) {
            engine.apply(sample);
        }
        let open = engine.snapshot().open;
        let mut avalanches = open.iter().filter(|i| i.kind == Kind::ConnectionAvalanche);
        Incident::clone(avalanches.next().expect("an open incident"))
    }

    /// (seconds from the onset, what was said) of each change.
    fn play(&self, after: f64) -> Vec<(f64, Incident)> {
        let mut engine = engine();
        let mut told: Vec<(f64, Incident)> = Vec::new();
        for sample in self.samples(after) {
            let t = sample.t;
            for effect in engine.apply(sample) {
                let Effect { incident, .. } = effect;
                if incident.kind == Kind::ConnectionAvalanche {
                    told.push((t - ONSET, incident));
                }
            }
        }
        told
    }
}

fn group(application: &str, count: f64) -> Group {
    Group {
        database: Some("app".to_owned()),
        application: Some(application.to_owned()),
        state: Some("active".to_owned()),
        count: count as u32,
        ..Group::default()
    }
}

fn engine() -> Engine {
    Engine::new(Settings {
        targets: vec!["main".to_owned()],
        services: SERVICES
            .map(|name| Service {
                name: name.to_owned(),
                targets: vec!["main".to_owned()],
                applications: vec![format!("{name}*")],
            })
            .to_vec(),
        ..Settings::default()
    })
}

fn is_named(incident: &Incident) -> bool {
    incident.cause == Some(Cause::Endpoint)
}

/// When the right one was named; nobody else ever was.
fn named_after(world: &World, right: &str, within: f64) -> f64 {
    let told = world.play(within);
    assert!(!told.is_empty(), "no incident");
    for (after, incident) in told.iter().filter(|(_, incident)| is_named(incident)) {
        assert_eq!(
            incident.attribution[0].route, right,
            "{after} {incident:#?}"
        );
    }
    let named = told.iter().find(|(_, incident)| is_named(incident));
    let (after, incident) = named.unwrap_or_else(|| panic!("not named: {:#?}", told.last()));
    assert!(incident.attribution[0].confidence >= 0.8);
    println!(
        "{right} named {after:.1} s after the onset: {}",
        incident.summary
    );
    for sentence in &incident.evidence {
        println!("    {sentence}");
    }
    *after
}

fn never_named(world: &World, within: f64) {
    let told = world.play(within);
    assert!(!told.is_empty(), "no incident");
    for (after, incident) in told {
        assert!(!is_named(&incident), "{after} {incident:#?}");
    }
}

#[test]
fn each_kind_of_evidence_alone_names_the_slow_rare_route() {
    let right = "GET /cnr/api/v1/packages";
    let gauge = Telling {
        gauge: true,
        ..COUNTERS
    };
    let spans = Telling {
        via: TrafficVia::OtlpSpans,
        database: true,
        ..COUNTERS
    };
    let scrape = Telling {
        every: 5.0,
        late: 2.0,
        ..COUNTERS
    };
    let metrics = Telling {
        via: TrafficVia::OtlpMetrics,
        every: 10.0,
        late: 1.0,
        ..COUNTERS
    };
    let late = Telling {
        every: 5.0,
        late: 44.0,
        ..COUNTERS
    };
    for (name, telling, limit) in [
        ("counters each second", vec![COUNTERS], 18.0),
        ("a gauge", vec![gauge], 12.0),
        ("spans with database time", vec![spans], 18.0),
        ("counters each 5 s, 2 s late", vec![scrape], 25.0),
        ("counters each 10 s", vec![metrics], 32.0),
        ("counters 44 s late", vec![late], 70.0),
        ("all together", vec![gauge, spans, scrape, metrics], 12.0),
    ] {
        print!("{name}: ");
        let after = named_after(&world(avalanche(), &telling), right, 80.0);
        assert!(after <= limit, "{name}: {after} s");
    }
}

#[test]
fn slower_at_the_same_rate_is_told_as_such() {
    let mut endpoints = usual();
    endpoints[4].hold.1 = 4.0;
    let world = world(endpoints, &[COUNTERS]);
    let right = "GET /a4/{id}";
    named_after(&world, right, 60.0);
    let last = world.last(60.0);
    let first = &last.attribution[0];
    assert!(first.hold_change.unwrap() > 50.0, "{first:#?}");
    assert!(
        (0.5..1.5).contains(&first.rate_change.unwrap()),
        "{first:#?}"
    );
    assert!(
        last.evidence
            .iter()
            .any(|text| text.contains("requests at a time, by those that have ended")),
        "{last:#?}"
    );
}

#[test]
fn a_new_endpoint_is_named() {
    let mut endpoints = usual();
    let mut new = Endpoint::steady("POST /export", 0.0, 6.0);
    new.rate.1 = 6.0;
    endpoints.push(new);
    named_after(&world(endpoints, &[COUNTERS]), "POST /export", 60.0);
}

#[test]
fn tags_go_first_and_learn_rates_from_the_counters() {
    let mut world = world(avalanche(), &[COUNTERS]);
    world.tagged = true;
    let after = named_after(&world, "GET /cnr/api/v1/packages", 60.0);
    assert!(after < 10.0, "{after}");
    let last = world.last(60.0);
    let first = &last.attribution[0];
    assert!(first.rate_change.unwrap() > 10.0, "{first:#?}");
    assert!(
        (0.8..1.2).contains(&first.hold_change.unwrap()),
        "{first:#?}"
    );
}

#[test]
fn nobody_is_named_for_what_all_share() {
    let mut surge = usual();
    for endpoint in &mut surge {
        endpoint.rate = (endpoint.rate.0 * 10.0, endpoint.rate.0 * 60.0);
        endpoint.hold = (0.02, 0.02);
    }
    never_named(&world(surge, &[COUNTERS]), 60.0);
    let mut slow = usual();
    slow.truncate(20);
    for endpoint in &mut slow {
        endpoint.hold.1 = 0.5;
    }
    never_named(&world(slow, &[COUNTERS]), 60.0);
}

#[test]
fn nobody_is_named_for_what_one_service_shares() {
    let mut endpoints = usual();
    // The first has most of the rise, and only what its service has.
    for (i, rate) in [120.0, 20.0, 12.0, 8.0, 5.0].into_iter().enumerate() {
        endpoints.push(Endpoint {
            service: "shop",
            rate: (rate, 8.0 * rate),
            ..Endpoint::steady(&format!("GET /shop{i}"), rate, 0.05)
        });
    }
    never_named(&world(endpoints.clone(), &[COUNTERS]), 60.0);
    // Alone it is to blame.
    for endpoint in &mut endpoints[22..] {
        endpoint.rate.1 = endpoint.rate.0;
    }
    named_after(&world(endpoints, &[COUNTERS]), "GET /shop0", 60.0);
}

#[test]
fn nobody_is_named_for_what_is_not_theirs() {
    // Another application, waiters for a lock, an endpoint nobody reports.
    let mut other = world(usual(), &[COUNTERS]);
    other.others = Some(("cron", 40, false));
    never_named(&other, 60.0);
    let mut locks = world(avalanche(), &[COUNTERS]);
    locks.others = Some(("registry", 60, true));
    never_named(&locks, 60.0);
    let mut silent = avalanche();
    silent[20].reported = false;
    never_named(&world(silent, &[COUNTERS]), 60.0);
}

#[test]
fn one_endpoint_silence_and_zeroes_name_nobody() {
    let cron = |endpoints: Vec<Endpoint>| World {
        others: Some(("cron", 40, false)),
        ..world(endpoints, &[COUNTERS])
    };
    never_named(&cron(vec![Endpoint::steady("/only", 50.0, 0.05)]), 60.0);
    never_named(&cron(vec![Endpoint::steady("/zero", 0.0, 0.0)]), 60.0);
    never_named(&cron(Vec::new()), 60.0);
    // Reports end long before the onset, and begin with it.
    let world = world(avalanche(), &[COUNTERS]);
    for told in [START..START + 60.0, ONSET..ONSET + 60.0] {
        let mut engine = engine();
        for sample in world.samples(60.0) {
            let is_traffic = matches!(sample.report, Report::Traffic(_));
            if is_traffic && !told.contains(&sample.t) {
                continue;
            }
            for effect in engine.apply(sample) {
                assert!(!is_named(&effect.incident), "{:#?}", effect.incident);
            }
        }
    }
}

#[test]
fn traces_exonerate_a_long_poll_that_rises_at_the_same_time() {
    let mut endpoints = avalanche();
    let mut poll = Endpoint::steady("GET /events", 1.0, 8.0);
    (poll.rate.1, poll.uses) = (5.0, 0.0);
    endpoints.push(poll);
    let spans = Telling {
        via: TrafficVia::OtlpSpans,
        database: true,
        ..COUNTERS
    };
    named_after(
        &world(endpoints.clone(), &[spans]),
        "GET /cnr/api/v1/packages",
        60.0,
    );
    // Without traces the two cannot be told apart, and nobody is accused wrongly.
    let told = world(endpoints, &[COUNTERS]).play(60.0);
    for (_, incident) in told.iter().filter(|(_, incident)| is_named(incident)) {
        assert_eq!(incident.attribution[0].route, "GET /cnr/api/v1/packages");
    }
}

#[test]
fn two_culprits_are_ranked_and_neither_is_accused_alone() {
    let mut endpoints = usual();
    endpoints[10].hold.1 = 5.0;
    endpoints[9].hold.1 = 4.6;
    let told = world(endpoints, &[COUNTERS]).play(60.0);
    let (_, last) = told.last().unwrap();
    assert!(
        told.iter().all(|(_, incident)| !is_named(incident)),
        "{told:#?}"
    );
    let routes: Vec<&str> = last.attribution.iter().map(|a| a.route.as_str()).collect();
    assert!(
        routes.contains(&"GET /a9/{id}") && routes.contains(&"GET /a10/{id}"),
        "{last:#?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the reports say, the engine lives, and figures stay figures.
    #[test]
    fn odd_reports_do_no_harm_and_name_nobody_out_of_nothing(
        reports in prop::collection::vec(
            (
                -60.0..60.0f64,
                prop_oneof![Just(f64::NAN), Just(0.0), 0.0..1e9f64, Just(f64::INFINITY)],
                prop_oneof![Just(f64::NAN), Just(0.0), -1.0..100.0f64],
                0..3usize,
                -80.0..10.0f64,
            ),
            0..120,
        ),
        quiet in any::<bool>(),
    ) {
        // The sessions are of an application that no service claims.
        let mut world = world(usual(), &[]);
        world.others = Some(("cron", 40, false));
        let mut samples = world.samples(60.0);
        for (i, (after, requests, seconds, route, late)) in reports.into_iter().enumerate() {
            // Routes that appear and vanish each second.
            let name = if route == 0 { "/same".to_owned() } else { format!("/{i}") };
            let t = ONSET + after;
            let routes = if quiet { Vec::new() } else { vec![RouteTraffic {
                route: name,
                requests,
                duration_seconds: seconds,
                in_flight: (route == 2).then_some(requests),
                ..RouteTraffic::default()
            }] };
            samples.push(Sample { t, report: Report::Traffic(TrafficReport {
                service: "registry".to_owned(),
                via: Some(TrafficVia::OtlpMetrics),
                until: Some(t + late),
                interval: 1.0,
                routes,
            }) });
        }
        // Out of order on purpose: traffic comes after all polls or between.
        let mut engine = engine();
        for sample in samples {
            for effect in engine.apply(sample) {
                let incident = &effect.incident;
                prop_assert!(!is_named(incident), "{:#?}", incident);
                for candidate in &incident.attribution {
                    prop_assert!((0.0..=1.0).contains(&candidate.share));
                    prop_assert!((0.0..=1.0).contains(&candidate.confidence));
                    prop_assert!(candidate.connections.is_finite());
                    prop_assert!(candidate.rate_change.is_none_or(f64::is_finite));
                    prop_assert!(candidate.hold_change.is_none_or(f64::is_finite));
                }
            }
        }
        let _ = engine.snapshot();
    }
}
