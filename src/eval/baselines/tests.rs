use super::grid::Grid;
use super::*;
use crate::sample::{
    Group, PostgresReport, Report, RouteTraffic, Sample, TrafficReport, UnixSeconds,
};

const ONSET: f64 = 10_000.0;

/// (route, rate before, duration before, rate since, duration since)
type Flow = (&'static str, f64, f64, f64, f64);

/// Half an hour and 30 s of reports each five seconds, and looks each second.
/// Even cells have a tenth more than odd ones, so that nothing stands still.
fn grid(flows: &[Flow]) -> Grid {
    let mut samples = Vec::new();
    let mut t = ONSET - 1_800.0;
    while t < ONSET + 30.0 {
        let since = t >= ONSET;
        let wave = if (t / 5.0) as i64 % 2 == 0 { 1.1 } else { 1.0 };
        for second in 0..5 {
            samples.push(look(t + f64::from(second), if since { 60 } else { 10 }));
        }
        let routes = flows.iter().map(|&(route, r0, d0, r1, d1)| {
            let (rate, duration) = if since { (r1, d1) } else { (r0, d0) };
            RouteTraffic {
                route: route.to_owned(),
                requests: rate * 5.0 * wave,
                duration_seconds: rate * 5.0 * wave * duration,
                ..RouteTraffic::default()
            }
        });
        let report = TrafficReport {
            service: "app".to_owned(),
            until: Some(t + 5.0),
            interval: 5.0,
            routes: routes.collect(),
            ..TrafficReport::default()
        };
        samples.push(Sample {
            t: t + 5.0,
            report: Report::Traffic(report),
        });
        t += 5.0;
    }
    Grid::of(samples.iter(), ONSET, ONSET + 30.0)
}

fn look(t: UnixSeconds, count: u32) -> Sample {
    Sample {
        t,
        report: Report::Postgres(PostgresReport {
            groups: vec![Group {
                state: Some("active".to_owned()),
                count,
                ..Group::default()
            }],
            ..PostgresReport::default()
        }),
    }
}

fn first(method: Method, metric: Metric, grid: &Grid) -> String {
    let variant = method
        .variants()
        .into_iter()
        .find(|variant| variant.metric == metric)
        .unwrap();
    grid.names()[variant.first_three(grid)[0]].1.clone()
}

/// A large one that stays, one that is harmless and rises most by count, and a
/// rare one that gets heavy.
const FLOWS: [Flow; 3] = [
    ("GET /large", 100.0, 0.05, 102.0, 0.05),
    ("GET /many", 10.0, 0.01, 40.0, 0.01),
    ("POST /rare", 0.4, 5.0, 8.0, 6.0),
];

#[test]
fn each_method_finds_what_it_looks_for() {
    let grid = grid(&FLOWS);
    let cases = [
        (Method::LargestVolume, Metric::Rate, "GET /large"),
        (Method::LargestVolume, Metric::Busy, "POST /rare"),
        (Method::LargestChange, Metric::Rate, "GET /many"),
        (Method::RateTimesDuration, Metric::Busy, "POST /rare"),
        (Method::NSigma, Metric::Rate, "POST /rare"),
        (Method::Baro, Metric::Rate, "POST /rare"),
        (Method::Adtributor, Metric::Rate, "GET /many"),
        (Method::Adtributor, Metric::Busy, "POST /rare"),
    ];
    for (method, metric, expected) in cases {
        assert_eq!(
            first(method, metric, &grid),
            expected,
            "{method:?} {metric:?}"
        );
    }
    for method in [Method::Pearson, Method::LaggedCorrelation] {
        let found = first(method, Metric::Busy, &grid);
        assert_ne!(found, "GET /large", "{method:?}");
    }
}

#[test]
fn the_numbers_are_those_of_the_formulas() {
    let grid = grid(&FLOWS);
    let rare = grid
        .names()
        .iter()
        .position(|n| n.1 == "POST /rare")
        .unwrap();
    // Rates of 0.40 and 0.44 in turn before, 8.8 at most since.
    let (mean, std) = (0.42, 0.02);
    let n_sigma = Method::NSigma.variants()[0].scores(&grid)[rare];
    assert!((n_sigma - (8.8 - mean) / std).abs() < 2.0, "{n_sigma}");
    // The quartiles of two values in turn are those values.
    let baro = Method::Baro.variants()[0].scores(&grid)[rare];
    assert!((baro - (8.8 - 0.42) / 0.04).abs() < 6.0, "{baro}");
}

#[test]
fn a_longer_duration_is_seen_by_two_metrics_and_not_by_one() {
    let grid = grid(&[
        ("GET /a", 50.0, 0.05, 52.0, 0.05),
        ("GET /slow", 5.0, 0.1, 5.0, 8.0),
    ]);
    for method in [Method::NSigma, Method::Baro] {
        assert_eq!(first(method, Metric::RateAndDuration, &grid), "GET /slow");
    }
    assert_eq!(
        first(Method::RateTimesDuration, Metric::Busy, &grid),
        "GET /slow"
    );
}

#[test]
fn what_has_not_arrived_is_not_known() {
    let late = Sample {
        t: ONSET + 40.0,
        report: Report::Traffic(TrafficReport {
            service: "app".to_owned(),
            until: Some(ONSET + 10.0),
            interval: 10.0,
            routes: vec![RouteTraffic {
                route: "GET /late".to_owned(),
                requests: 100.0,
                ..RouteTraffic::default()
            }],
            ..TrafficReport::default()
        }),
    };
    assert!(Grid::of([&late].into_iter(), ONSET, ONSET + 30.0).is_empty());
    let later = Grid::of([&late].into_iter(), ONSET, ONSET + 40.0);
    assert_eq!(later.totals(0, Metric::Rate), (0.0, 10.0));
}

#[test]
fn nothing_known_is_no_panic() {
    let grid = Grid::of([].into_iter(), ONSET, ONSET);
    for variant in Method::ALL.into_iter().flat_map(Method::variants) {
        assert!(variant.first_three(&grid).is_empty());
    }
}
