use super::*;
use crate::engine::{Engine, Settings};
use crate::sample::{DurationBucket, PostgresReport, Report, RouteTraffic, Sample};
use proptest::prelude::*;

fn route(name: &str, requests: f64, seconds: f64) -> RouteTraffic {
    RouteTraffic {
        route: name.to_owned(),
        requests,
        duration_seconds: seconds,
        ..RouteTraffic::default()
    }
}

fn report(until: f64, interval: f64, routes: Vec<RouteTraffic>) -> TrafficReport {
    TrafficReport {
        service: "registry".to_owned(),
        via: Some(TrafficVia::Scrape),
        until: Some(until),
        interval,
        routes,
    }
}

fn view(traffic: &mut Traffic) -> Arc<TrafficView> {
    traffic.shown_at = f64::NEG_INFINITY;
    traffic.refresh(1.0);
    traffic.shown(["main".to_owned()].iter())
}

fn book(traffic: &Traffic) -> &Book {
    &traffic.services()["registry"][&TrafficVia::Scrape]
}

#[test]
fn a_report_45_seconds_late_lands_in_its_own_interval() {
    let mut traffic = Traffic::default();
    traffic.apply(1_045.0, &report(1_000.0, 6.0, vec![route("/a", 10.0, 5.0)]));
    let track = book(&traffic).track("/a").unwrap();
    assert!((track.requests.sum(994.0, 1_000.0) - 10.0).abs() < 1e-3);
    assert_eq!(track.requests.sum(1_000.0, 1_045.0), 0.0);
    traffic.apply(
        1_060.0,
        &report(1_000.0, 5.0, vec![route("/a", 7.0, 5.0); 3]),
    );
    assert_eq!(traffic.refused()[&("scrape", reason::LATE)], 3);
    let track = book(&traffic).track("/a").unwrap();
    assert!((track.total - 10.0).abs() < 1e-9);
}

#[test]
fn ways_are_never_added_up() {
    let mut traffic = Traffic::default();
    for via in [
        TrafficVia::Scrape,
        TrafficVia::OtlpSpans,
        TrafficVia::OtlpMetrics,
    ] {
        let report = TrafficReport {
            via: Some(via),
            ..report(1_010.0, 10.0, vec![route("/a", 10.0, 5.0)])
        };
        traffic.apply(1_010.0, &report);
    }
    let view = view(&mut traffic);
    assert_eq!(view.routes.len(), 1);
    let sources = &view.routes[0].sources;
    assert_eq!(sources.len(), 3);
    assert_eq!(sources[0].via, TrafficVia::OtlpMetrics);
    for source in sources {
        assert!((source.rate - 1.0).abs() < 1e-3, "{source:?}");
        assert!((source.concurrency - 0.5).abs() < 1e-3, "{source:?}");
        assert!((source.hold.unwrap() - 0.5).abs() < 1e-3);
    }
    assert_eq!(view.totals[0].requests, 10.0);
}

#[test]
fn instances_add_up_and_overlap() {
    let mut traffic = Traffic::default();
    traffic.apply(
        1_060.0,
        &report(1_060.0, 60.0, vec![route("/a", 60.0, 60.0)]),
    );
    traffic.apply(
        1_075.0,
        &report(1_075.0, 60.0, vec![route("/a", 60.0, 60.0)]),
    );
    let requests = book(&traffic)
        .track("/a")
        .unwrap()
        .requests
        .sum(1_020.0, 1_060.0);
    assert!((requests - 80.0).abs() < 0.1, "{requests}");
}

#[test]
fn gauges_stand_for_the_time_between_them() {
    let mut traffic = Traffic::default();
    let gauge = |t: f64, running: f64| {
        let with = RouteTraffic {
            in_flight: Some(running),
            ..route("/a", 0.0, 0.0)
        };
        (t, report(t, 0.0, vec![with]))
    };
    for (t, report) in [
        gauge(1_000.0, 2.0),
        gauge(1_010.0, 2.0),
        gauge(1_020.0, 8.0),
    ] {
        traffic.apply(t, &report);
    }
    let book = book(&traffic);
    assert_eq!(book.until, None, "a gauge covers no requests");
    let running = book.track("/a").unwrap().running.as_ref().unwrap();
    let mean = running.mean(&[(1_000.0, 1_020.0)]).unwrap();
    assert!((mean - 5.0).abs() < 0.01, "{mean}");
    assert_eq!(running.mean(&[(0.0, 900.0)]), None);
    assert_eq!(view(&mut traffic).routes[0].sources[0].in_flight, Some(8.0));
}

#[test]
fn a_service_is_tied_by_configuration_or_by_its_sessions() {
    let mut traffic = Traffic::new(&[Service {
        name: "registry".to_owned(),
        targets: vec!["main".to_owned()],
        applications: Vec::new(),
    }]);
    assert_eq!(traffic.tie("registry", "main"), Some(Tie::Configured));
    traffic.see(1.0, "other", "registry");
    assert_eq!(
        traffic.tie("registry", "other"),
        None,
        "configured elsewhere"
    );
    assert_eq!(traffic.tie("cron", "main"), None);
    traffic.see(1.0, "main", "cron");
    assert_eq!(traffic.tie("cron", "main"), Some(Tie::ApplicationName));
    assert_eq!(traffic.tie("cron", "other"), None);
}

#[test]
fn what_cannot_be_is_counted_and_the_rest_unharmed() {
    let mut traffic = Traffic::default();
    let good = route("/a", 1.0, 1.0);
    let mut routes = vec![good.clone()];
    for (requests, seconds) in [
        (f64::NAN, 1.0),
        (1.0, f64::NAN),
        (-1.0, 1.0),
        (1.0, f64::INFINITY),
    ] {
        routes.push(route("/bad", requests, seconds));
    }
    routes.push(route("", 1.0, 1.0));
    traffic.apply(1_000.0, &report(1_000.0, 5.0, routes));
    assert_eq!(traffic.refused()[&("scrape", reason::BAD_VALUE)], 5);
    assert_eq!(book(&traffic).tracks().len(), 1);
    for (t, until, interval) in [
        (1_000.0, f64::NAN, 1.0),
        (1_000.0, 2_000.0, 1.0),
        (1_000.0, 1_000.0, f64::NAN),
        (1_000.0, 1_000.0, -1.0),
        (1_000.0, 1_000.0, 1e9),
        (1e300, 1e300, 1.0),
        (-5.0, -5.0, 1.0),
    ] {
        traffic.apply(t, &report(until, interval, vec![good.clone()]));
    }
    assert_eq!(traffic.refused()[&("scrape", reason::BAD_TIME)], 7);
}

#[test]
fn a_hundred_thousand_routes_are_bounded() {
    let mut traffic = Traffic::default();
    for batch in 0..20 {
        let routes = (0..5_000)
            .map(|i| route(&format!("/{batch}/{i}"), 1.0, 1.0))
            .collect();
        traffic.apply(1_000.0, &report(1_000.0, 5.0, routes));
    }
    assert_eq!(book(&traffic).tracks().len(), book::MAX_ROUTES);
    let refused = traffic.refused()[&("scrape", reason::TOO_MANY_ROUTES)];
    assert_eq!(refused as usize, 100_000 - book::MAX_ROUTES);
    let view = view(&mut traffic);
    assert_eq!(
        (view.routes.len(), view.totals.len()),
        (view::SHOWN, view::COUNTERS)
    );
}

#[test]
fn a_flood_of_services_leaves_room_for_the_configured_and_passes() {
    let mut traffic = Traffic::new(&[Service {
        name: "registry".to_owned(),
        targets: vec!["main".to_owned()],
        applications: Vec::new(),
    }]);
    let told = |t: f64, service: String| TrafficReport {
        service,
        ..report(t, 5.0, vec![route("/a", 1.0, 1.0)])
    };
    for i in 0..300 {
        traffic.apply(1_000.0, &told(1_000.0, format!("flood-{i}")));
    }
    assert_eq!(traffic.services().len(), MAX_SERVICES);
    assert_eq!(
        traffic.refused()[&("scrape", reason::TOO_MANY_SERVICES)],
        100
    );
    traffic.apply(1_001.0, &told(1_001.0, "registry".to_owned()));
    assert!(traffic.services().contains_key("registry"));
    traffic.apply(2_000.0, &told(2_000.0, "late".to_owned()));
    assert!(traffic.services().contains_key("late"));
    assert_eq!(traffic.services().len(), 2);
}

proptest! {
    #[test]
    fn nothing_that_comes_in_makes_it_panic(
        reports in prop::collection::vec(
            (
                prop::num::f64::ANY,
                prop::option::of(prop_oneof![prop::num::f64::ANY, 0.0..2_000.0f64]),
                prop_oneof![prop::num::f64::ANY, 0.0..100.0f64],
                prop_oneof![prop::num::f64::ANY, 0.0..100.0f64],
                0.0..2_000.0f64,
            ),
            1..40,
        ),
    ) {
        let mut traffic = Traffic::default();
        for (odd, until, interval, value, t) in reports {
            let odd_route = RouteTraffic {
                route: "/a".to_owned(),
                requests: value,
                duration_seconds: odd,
                in_flight: Some(odd),
                database_seconds: Some(value),
                durations: vec![DurationBucket { upper: Some(odd), count: value }],
            };
            let report = TrafficReport {
                until,
                ..report(0.0, interval, vec![odd_route, route("/b", value, value)])
            };
            traffic.apply(t, &report);
            traffic.apply(odd, &report);
            let view = view(&mut traffic);
            for source in view.routes.iter().flat_map(|route| &route.sources) {
                prop_assert!(source.rate.is_finite() && source.concurrency.is_finite());
            }
        }
    }
}

#[test]
fn what_is_told_last_is_shown_though_nothing_follows_it() {
    let mut engine = Engine::new(Settings::default());
    let traffic = |t, requests| Sample {
        t,
        report: Report::Traffic(report(t, 1.0, vec![route("/a", requests, 0.0)])),
    };
    engine.apply(traffic(1_000.0, 3.0));
    engine.snapshot();
    engine.apply(traffic(1_000.5, 4.0));
    let look = PostgresReport {
        target: "main".to_owned(),
        ..PostgresReport::default()
    };
    engine.apply(Sample {
        t: 1_001.5,
        report: Report::Postgres(look),
    });
    let totals = &engine.snapshot().traffic.totals;
    assert_eq!(totals[0].requests, 7.0, "{totals:?}");
}
