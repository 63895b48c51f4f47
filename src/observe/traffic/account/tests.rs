use super::*;
use proptest::prelude::*;

fn ended(route: &str, since: f64, until: f64, requests: f64) -> Contribution<'_> {
    Contribution {
        route,
        since,
        until,
        requests,
        duration_seconds: requests * 0.5,
        database_seconds: None,
        durations: &[],
    }
}

fn account(limit: usize) -> Account {
    Account::new("registry", TrafficVia::Scrape, limit)
}

fn requests(reports: &[TrafficReport]) -> f64 {
    let routes = reports.iter().flat_map(|report| &report.routes);
    routes.map(|route| route.requests).sum()
}

#[test]
fn contributions_of_one_span_make_one_report() {
    let mut account = account(10);
    account.add(105.1, &ended("GET /a", 100.0, 105.0, 3.0));
    account.add(105.1, &ended("GET /b", 100.0, 105.0, 1.0));
    account.add(105.2, &ended("GET /a", 100.0, 105.0, 2.0));
    account.running(105.1, 1, "GET /a", 4.0);
    account.running(105.1, 2, "GET /a", 3.0);
    let reports = account.flush(105.3);
    assert_eq!(reports.len(), 1, "{reports:#?}");
    let report = &reports[0];
    assert_eq!(
        (
            report.service.as_str(),
            report.via,
            report.until,
            report.interval
        ),
        ("registry", Some(TrafficVia::Scrape), Some(105.0), 5.0)
    );
    assert_eq!(report.routes[0].requests, 5.0);
    assert_eq!(report.routes[0].duration_seconds, 2.5);
    assert_eq!(report.routes[0].in_flight, Some(7.0));
    assert_eq!(report.routes[1].in_flight, None);
    assert!(account.flush(106.0).is_empty(), "no news");
}

#[test]
fn single_events_are_gathered_by_the_second_of_their_end() {
    let mut account = account(10);
    for end in [100.1, 100.9, 101.2] {
        let span = Contribution {
            database_seconds: Some(0.25),
            durations: &[bucket_of(0.5)],
            ..ended("GET /a", end, end, 1.0)
        };
        account.add(103.0, &span);
    }
    let reports = account.flush(103.0);
    let told: Vec<_> = reports
        .iter()
        .map(|report| (report.until, report.interval, report.routes[0].requests))
        .collect();
    assert_eq!(told, [(Some(101.0), 1.0, 2.0), (Some(102.0), 1.0, 1.0)]);
    assert_eq!(reports[0].routes[0].database_seconds, Some(0.5));
    assert_eq!(reports[0].routes[0].durations[0].count, 2.0);
}

#[test]
fn figures_beyond_reason_are_refused_before_their_sum_is_no_number() {
    let mut account = account(10);
    for _ in 0..2 {
        let huge = Contribution {
            duration_seconds: f64::MAX,
            ..ended("GET /a", 100.0, 105.0, 3.0)
        };
        account.add(105.1, &huge);
        account.running(105.1, 1, "GET /a", f64::MAX);
    }
    account.add(105.1, &ended("GET /a", 100.0, 105.0, 3.0));
    assert_eq!(account.take_refused().of(BAD_VALUE), 4);
    let reports = account.flush(105.2);
    assert_eq!(reports[0].routes[0].duration_seconds, 1.5);
}

#[test]
fn a_bomb_of_names_goes_under_other_and_loses_nothing() {
    let mut account = account(100);
    account.add(1.0, &ended("GET /good", 0.0, 1.0, 1.0));
    for i in 0..100_000 {
        account.add(1.0, &ended(&format!("GET /x{i}y"), 0.0, 1.0, 1.0));
    }
    assert_eq!(account.routes(), 100);
    assert_eq!(account.take_refused().of(TOO_MANY_ROUTES), 100_000 - 99);
    account.add(2.0, &ended("GET /good", 1.0, 2.0, 1.0));
    let reports = account.flush(2.0);
    assert_eq!(requests(&reports), 100_002.0);
    let of = |name: &str| {
        let routes = reports.iter().flat_map(|report| &report.routes);
        routes
            .filter(|route| route.route == name)
            .map(|route| route.requests)
            .sum::<f64>()
    };
    assert_eq!((of("GET /good"), of(OTHER)), (2.0, 100_000.0 - 99.0));
    // When the flood is over its names make room.
    for second in 3..400 {
        let at = f64::from(second);
        account.add(at, &ended("GET /good", at - 1.0, at, 1.0));
        account.flush(at);
    }
    account.add(400.0, &ended("GET /new", 399.0, 400.0, 1.0));
    let names: Vec<String> = account.flush(400.0)[0]
        .routes
        .iter()
        .map(|route| route.route.clone())
        .collect();
    assert_eq!(names, ["GET /new"]);
    account.add(401.0, &ended("GET /good", 400.0, 401.0, 1.0));
    assert_eq!(account.flush(401.0)[0].routes[0].route, "GET /good");
}

#[test]
fn an_instance_that_is_gone_takes_its_requests_with_it() {
    let mut account = account(10);
    for second in 0..10 {
        account.running(100.0 + f64::from(second), 1, "GET /a", 4.0);
        account.running(100.0 + f64::from(second), 2, "GET /a", 3.0);
    }
    assert_eq!(account.flush(110.0)[0].routes[0].in_flight, Some(7.0));
    account.running(118.0, 2, "GET /a", 3.0);
    account.running(120.0, 2, "GET /a", 3.0);
    let reports = account.flush(121.0);
    assert_eq!(reports[0].routes[0].in_flight, Some(3.0));
    assert_eq!(reports[0].interval, 0.0, "a gauge covers no time");
    let last = account.flush(200.0);
    assert_eq!(last[0].routes[0].in_flight, Some(0.0), "told once");
    assert!(account.flush(201.0).is_empty());
}

#[test]
fn what_cannot_be_is_refused() {
    let mut account = account(10);
    for (bad, reason) in [
        (ended("a", f64::NAN, 5.0, 1.0), BAD_TIME),
        (ended("a", 5.0, 4.0, 1.0), BAD_TIME),
        (ended("a", 1_000.0, 1_200.0, 1.0), BAD_TIME),
        (ended("a", 0.0, 500.0, 1.0), BAD_TIME),
        (ended("a", 499.0, 500.0, f64::NAN), BAD_VALUE),
        (ended("a", 499.0, 500.0, -1.0), BAD_VALUE),
        (
            Contribution {
                database_seconds: Some(f64::INFINITY),
                ..ended("a", 499.0, 500.0, 1.0)
            },
            BAD_VALUE,
        ),
    ] {
        account.add(500.0, &bad);
        assert_eq!(account.take_refused().of(reason), 1, "{bad:?}");
    }
    account.running(500.0, 1, "a", f64::NAN);
    assert_eq!(account.take_refused().of(BAD_VALUE), 1);
    assert!(account.flush(500.0).is_empty());
}

#[test]
fn a_clock_that_is_fast_makes_no_news_of_the_future() {
    let mut account = account(10);
    account.add(100.0, &ended("a", 120.0, 130.0, 1.0));
    let reports = account.flush(100.0);
    assert_eq!((reports[0].until, reports[0].interval), (Some(100.0), 10.0));
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_grows(
        events in prop::collection::vec((0..40u8, 0.0..200.0f64, 0.0..90.0f64, 0.0..5.0f64), 1..400),
        limit in 1..20usize,
    ) {
        let mut account = account(limit);
        let mut sent = 0.0;
        for (route, until, length, count) in events {
            account.add(200.0, &ended(&format!("/{route}"), until - length, until, count));
            sent += count;
            prop_assert!(account.routes() <= limit && account.slots.len() <= MAX_SLOTS);
        }
        let told = requests(&account.flush(200.0));
        prop_assert!((told - sent).abs() < 1e-6, "{} {}", told, sent);
    }
}
