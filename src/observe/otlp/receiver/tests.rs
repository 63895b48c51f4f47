use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::*;
use crate::sample::RouteTraffic;

const NOW: f64 = 1_800_000_000.0;
const DELTA: i32 = 1;
const CUMULATIVE: i32 = 2;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn nanos(t: f64) -> u64 {
    (t * 1e9) as u64
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(Value::StringValue(value.to_owned()));
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value }),
        ..KeyValue::default()
    }
}

fn resource(instance: &str) -> Option<Resource> {
    Some(Resource {
        attributes: vec![
            text("service.name", "registry"),
            text("service.instance.id", instance),
        ],
        ..Resource::default()
    })
}

fn get(route: &str) -> Vec<KeyValue> {
    vec![
        text("http.request.method", "GET"),
        text("url.scheme", "http"),
        text("http.route", route),
    ]
}

fn request_of(instance: &str, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope = ScopeMetrics {
        scope: Some(InstrumentationScope::default()),
        metrics,
        ..ScopeMetrics::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource(instance),
            scope_metrics: vec![scope],
            ..ResourceMetrics::default()
        }],
    }
}

fn metric(name: &str, unit: &str, data: metric::Data) -> Metric {
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn durations(temporality: i32, data_points: Vec<HistogramDataPoint>) -> metric::Data {
    metric::Data::Histogram(Histogram {
        data_points,
        aggregation_temporality: temporality,
    })
}

/// Requests of up to 0.1 s, up to 1 s, and over it.
fn point(route: &str, start: f64, time: f64, counts: [u64; 3], sum: f64) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: get(route),
        start_time_unix_nano: nanos(start),
        time_unix_nano: nanos(time),
        count: counts.iter().sum(),
        sum: Some(sum),
        bucket_counts: counts.to_vec(),
        explicit_bounds: vec![0.1, 1.0],
        ..HistogramDataPoint::default()
    }
}

fn span(id: u8, parent: u8, kind: i32, took: f64, attributes: Vec<KeyValue>) -> Span {
    let parent_span_id = if parent == 0 {
        Vec::new()
    } else {
        vec![parent; 8]
    };
    Span {
        trace_id: vec![7; 16],
        span_id: vec![id; 8],
        parent_span_id,
        kind,
        start_time_unix_nano: nanos(NOW - 1.0),
        end_time_unix_nano: nanos(NOW - 1.0) + nanos(took),
        attributes,
        ..Span::default()
    }
}

fn spans(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: resource("a"),
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn receiver() -> Receiver {
    Receiver::new(&["registry".to_owned()])
}

fn take_metrics(
    receiver: &mut Receiver,
    now: f64,
    request: &ExportMetricsServiceRequest,
) -> Outcome {
    let body = request.encode_to_vec();
    let outcome = receiver.take(now, Signal::Metrics, Encoding::Protobuf, &body);
    outcome.unwrap()
}

fn take_spans(receiver: &mut Receiver, request: &ExportTraceServiceRequest) -> Outcome {
    let body = request.encode_to_vec();
    let outcome = receiver.take(NOW, Signal::Traces, Encoding::Protobuf, &body);
    outcome.unwrap()
}

/// All routes of all reports, those of one name added up.
fn routes(receiver: &mut Receiver, now: f64) -> Vec<RouteTraffic> {
    let mut routes: Vec<RouteTraffic> = Vec::new();
    let (reports, _) = receiver.flush(now);
    for new in reports.into_iter().flat_map(|report| report.routes) {
        match routes.iter_mut().find(|route| route.route == new.route) {
            None => routes.push(new),
            Some(route) => {
                route.requests += new.requests;
                route.duration_seconds += new.duration_seconds;
                route.in_flight = new.in_flight.or(route.in_flight);
                if let Some(seconds) = new.database_seconds {
                    *route.database_seconds.get_or_insert(0.0) += seconds;
                }
                route.durations.extend(new.durations);
            }
        }
    }
    routes.sort_by(|a, b| a.route.cmp(&b.route));
    routes
}

/// (route, requests, seconds) of one delta point in each encoding.
fn told(receiver: &mut Receiver, now: f64) -> Vec<(String, f64, f64)> {
    let routes = routes(receiver, now).into_iter();
    let rounded = |x: f64| (x * 1e6).round() / 1e6;
    routes
        .map(|r| (r.route, r.requests, rounded(r.duration_seconds)))
        .collect()
}

fn expected(route: &str, requests: f64, seconds: f64) -> Vec<(String, f64, f64)> {
    vec![(route.to_owned(), requests, seconds)]
}

#[test]
fn delta_points_are_what_they_say_in_both_encodings() {
    let data = durations(
        DELTA,
        vec![point("/v2/{name}", NOW - 5.0, NOW, [3, 1, 0], 0.75)],
    );
    let request = request_of("a", vec![metric("http.server.request.duration", "s", data)]);
    let mut in_protobuf = receiver();
    let outcome = take_metrics(&mut in_protobuf, NOW, &request);
    assert_eq!((outcome.accepted, outcome.refused.total()), (1, 0));
    let mut in_json = receiver();
    let body = serde_json::to_vec(&request).unwrap();
    let outcome = in_json
        .take(NOW, Signal::Metrics, Encoding::Json, &body)
        .unwrap();
    assert_eq!((outcome.accepted, outcome.message()), (1, String::new()));
    let (reports, _) = in_protobuf.flush(NOW);
    assert_eq!(reports, in_json.flush(NOW).0);
    let [report] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!(report.service, "registry");
    assert_eq!(report.via, Some(TrafficVia::OtlpMetrics));
    assert_eq!((report.until, report.interval), (Some(NOW), 5.0));
    let route = &report.routes[0];
    assert_eq!(route.route, "GET /v2/{name}");
    assert_eq!((route.requests, route.duration_seconds), (4.0, 0.75));
    let buckets: Vec<_> = route.durations.iter().map(|b| (b.upper, b.count)).collect();
    assert_eq!(buckets, [(Some(0.1), 3.0), (Some(1.0), 1.0)]);
}

#[test]
fn cumulative_points_count_what_came_between_and_a_restart_counts_anew() {
    let mut receiver = receiver();
    let mut export = |start: f64, time: f64, counts: [u64; 3], sum: f64| {
        let data = durations(CUMULATIVE, vec![point("/a", start, time, counts, sum)]);
        let request = request_of("a", vec![metric("http.server.request.duration", "s", data)]);
        let outcome = take_metrics(&mut receiver, time, &request);
        assert_eq!(outcome.message(), "");
        told(&mut receiver, time)
    };
    let started = NOW - 3600.0;
    assert_eq!(export(started, NOW, [100, 0, 0], 1.0), [], "a baseline");
    assert_eq!(
        export(started, NOW + 5.0, [100, 7, 0], 4.5),
        expected("GET /a", 7.0, 3.5)
    );
    assert_eq!(export(started, NOW + 10.0, [100, 7, 0], 4.5), [], "no news");
    // The process began again eleven seconds after.
    assert_eq!(
        export(NOW + 11.0, NOW + 15.0, [2, 0, 0], 0.1),
        expected("GET /a", 2.0, 0.1)
    );
    assert_eq!(
        export(NOW + 11.0, NOW + 20.0, [3, 0, 0], 0.2),
        expected("GET /a", 1.0, 0.1)
    );
}

#[test]
fn a_series_that_was_not_there_before_is_all_news() {
    let mut receiver = receiver();
    let started = NOW - 3600.0;
    let mut export = |time: f64, points: Vec<HistogramDataPoint>| {
        let data = durations(CUMULATIVE, points);
        let request = request_of("a", vec![metric("http.server.request.duration", "s", data)]);
        take_metrics(&mut receiver, time, &request);
        told(&mut receiver, time)
    };
    let usual = |time| point("/usual", started, time, [9, 0, 0], 0.9);
    assert_eq!(export(NOW, vec![usual(NOW)]), []);
    // A route asked for the first time since the process began.
    let rare = point("/rare", started, NOW + 5.0, [0, 0, 2], 60.0);
    let found = export(NOW + 5.0, vec![usual(NOW + 5.0), rare]);
    assert_eq!(found, expected("GET /rare", 2.0, 60.0));
}

#[test]
fn instances_add_up_whether_or_not_their_resource_tells_them_apart() {
    let mut receiver = receiver();
    // Two workers of one pre-forking server: the same resource, started a
    // second and a half apart.
    let exports = [
        ("a", NOW - 60.0, NOW, [10, 0, 0]),
        ("a", NOW - 58.5, NOW + 0.1, [20, 0, 0]),
        ("b", NOW - 60.0, NOW + 0.2, [30, 0, 0]),
        ("a", NOW - 60.0, NOW + 5.0, [11, 0, 0]),
        ("a", NOW - 58.5, NOW + 5.1, [22, 0, 0]),
        ("b", NOW - 60.0, NOW + 5.2, [33, 0, 0]),
    ];
    for (number, (instance, start, time, counts)) in exports.into_iter().enumerate() {
        if number == 3 {
            // The first three tell of the minute since they started.
            assert_eq!(
                told(&mut receiver, NOW + 1.0),
                expected("GET /a", 60.0, 3.0)
            );
        }
        let data = durations(CUMULATIVE, vec![point("/a", start, time, counts, 1.0)]);
        let request = request_of(
            instance,
            vec![metric("http.server.request.duration", "s", data)],
        );
        assert_eq!(take_metrics(&mut receiver, time, &request).message(), "");
    }
    assert_eq!(told(&mut receiver, NOW + 6.0), expected("GET /a", 6.0, 0.0));
}

#[test]
fn what_one_worker_exported_makes_no_news_of_what_another_had() {
    // snowpit began to listen an hour after them. Workers that were forked
    // together begin within one second.
    for apart in [2.0, 0.25, 0.01] {
        let mut receiver = receiver();
        let (first, second) = (NOW - 3600.0, NOW - 3600.0 + apart);
        let exports = [
            (first, NOW, 50_000),
            (second, NOW + 2.0, 70_000),
            (first, NOW + 5.0, 50_001),
            (second, NOW + 7.0, 70_002),
        ];
        for (start, time, count) in exports {
            let data = durations(
                CUMULATIVE,
                vec![point("/a", start, time, [count, 0, 0], 1.0)],
            );
            let request = request_of("a", vec![metric("http.server.request.duration", "s", data)]);
            assert_eq!(take_metrics(&mut receiver, time, &request).message(), "");
        }
        assert_eq!(
            told(&mut receiver, NOW + 7.0),
            expected("GET /a", 3.0, 0.0),
            "{apart} s apart"
        );
    }
}

#[test]
fn what_came_during_a_long_silence_is_no_surge_of_the_last_minutes() {
    let mut receiver = receiver();
    let started = NOW - 7200.0;
    let mut export = |time: f64, counts: &[(&str, u64)]| {
        let points = counts.iter();
        let points = points.map(|(route, n)| point(route, started, time, [*n, 0, 0], 1.0));
        let data = durations(CUMULATIVE, points.collect());
        let request = request_of("a", vec![metric("http.server.request.duration", "s", data)]);
        let outcome = take_metrics(&mut receiver, time, &request);
        (outcome.refused.of("bad_time"), told(&mut receiver, time))
    };
    export(NOW, &[("/a", 10), ("/rare", 1)]);
    let back = NOW + 3600.0;
    assert_eq!(export(back, &[("/a", 40_010)]), (1, Vec::new()));
    let next = export(back + 60.0, &[("/a", 40_013)]);
    assert_eq!(next, (0, expected("GET /a", 3.0, 0.0)));
    // A series that its process left out while it stood still.
    let rare = export(back + 120.0, &[("/a", 40_013), ("/rare", 2)]);
    assert_eq!(rare, (0, expected("GET /rare", 1.0, 0.0)));
}

#[test]
fn a_batch_that_is_sent_again_counts_once() {
    let mut receiver = receiver();
    let batch = spans(vec![
        span(
            2,
            1,
            CLIENT,
            0.25,
            vec![text("db.system.name", "postgresql")],
        ),
        span(1, 0, SERVER, 0.5, get("/a")),
    ]);
    for _ in 0..2 {
        let outcome = take_spans(&mut receiver, &batch);
        assert_eq!((outcome.accepted, outcome.refused.total()), (2, 0));
    }
    let routes = routes(&mut receiver, NOW);
    assert_eq!(
        (routes[0].requests, routes[0].database_seconds),
        (1.0, Some(0.25))
    );
}

#[test]
fn exponential_histograms_count_and_their_buckets_are_times() {
    let mut receiver = receiver();
    let mut export = |time: f64, scale: i32, offset: i32, counts: Vec<u64>| {
        let point = ExponentialHistogramDataPoint {
            attributes: get("/a"),
            start_time_unix_nano: nanos(NOW - 10.0),
            time_unix_nano: nanos(time),
            count: counts.iter().sum(),
            sum: Some(1.0),
            scale,
            positive: Some(Buckets {
                offset,
                bucket_counts: counts,
            }),
            ..ExponentialHistogramDataPoint::default()
        };
        let data = metric::Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![point],
            aggregation_temporality: CUMULATIVE,
        });
        let request = request_of("a", vec![metric("http.server.request.duration", "s", data)]);
        let body = serde_json::to_vec(&request).unwrap();
        let outcome = receiver.take(time, Signal::Metrics, Encoding::Json, &body);
        assert_eq!(outcome.unwrap().message(), "");
        let mut found = routes(&mut receiver, time);
        let found = found.pop().unwrap();
        let buckets = found.durations.iter().map(|b| (b.upper.unwrap(), b.count));
        (found.requests, buckets.collect::<Vec<_>>())
    };
    // Scale 3, index -24: (1/8 s, 0.136 s].
    let upper = |power: f64| 2.0_f64.powf(power);
    assert_eq!(
        export(NOW, 3, -24, vec![5]),
        (5.0, vec![(upper(-2.75), 5.0)])
    );
    // The same ones at scale 2, and two more at (1 s, 1.19 s].
    let mut counts = vec![5];
    counts.resize(12, 0);
    counts.push(2);
    assert_eq!(
        export(NOW + 5.0, 2, -12, counts),
        (2.0, vec![(upper(0.25), 2.0)])
    );
}

#[test]
fn the_old_name_in_milliseconds_counts_unless_the_new_one_is_there() {
    let mut receiver = receiver();
    let old = vec![
        text("http.method", "GET"),
        text("http.route", "/a"),
        text("http.target", "/a/7"),
    ];
    let milliseconds = |time: f64| {
        let point = HistogramDataPoint {
            attributes: old.clone(),
            ..point("/a", time - 5.0, time, [3, 0, 1], 2_500.0)
        };
        metric("http.server.duration", "ms", durations(DELTA, vec![point]))
    };
    take_metrics(
        &mut receiver,
        NOW,
        &request_of("a", vec![milliseconds(NOW)]),
    );
    assert_eq!(told(&mut receiver, NOW), expected("GET /a", 4.0, 2.5));
    // `http/dup` sends both.
    let new = durations(DELTA, vec![point("/a", NOW, NOW + 5.0, [1, 0, 0], 0.5)]);
    let new = metric("http.server.request.duration", "s", new);
    let both = request_of("a", vec![milliseconds(NOW + 5.0), new]);
    assert_eq!(take_metrics(&mut receiver, NOW + 5.0, &both).message(), "");
    assert_eq!(told(&mut receiver, NOW + 5.0), expected("GET /a", 1.0, 0.5));
    take_metrics(
        &mut receiver,
        NOW + 10.0,
        &request_of("a", vec![milliseconds(NOW + 10.0)]),
    );
    assert_eq!(
        told(&mut receiver, NOW + 10.0),
        [],
        "also when they come apart"
    );
}

#[test]
fn running_requests_and_database_time_go_to_their_route() {
    let mut receiver = receiver();
    let running = |scheme: &str, value: i64| NumberDataPoint {
        attributes: vec![
            text("http.request.method", "GET"),
            text("http.route", "/a"),
            text("url.scheme", scheme),
        ],
        time_unix_nano: nanos(NOW),
        value: Some(number_data_point::Value::AsInt(value)),
        ..NumberDataPoint::default()
    };
    let running = metric::Data::Sum(Sum {
        data_points: vec![running("http", 2), running("https", 3)],
        aggregation_temporality: CUMULATIVE,
        is_monotonic: false,
    });
    let mut calls = point("/a", NOW - 5.0, NOW, [4, 0, 0], 0.2);
    calls.attributes.push(text("db.system.name", "postgresql"));
    let mut other = point("/a", NOW - 5.0, NOW, [4, 0, 0], 9.0);
    other.attributes.push(text("db.system.name", "mysql"));
    let request = request_of(
        "a",
        vec![
            metric("http.server.active_requests", "{request}", running),
            metric(
                "db.client.operation.duration",
                "s",
                durations(DELTA, vec![calls, other]),
            ),
            metric(
                "db.client.connection.count",
                "{connection}",
                metric::Data::Sum(Sum::default()),
            ),
        ],
    );
    let outcome = take_metrics(&mut receiver, NOW, &request);
    assert_eq!((outcome.accepted, outcome.message()), (4, String::new()));
    let found = routes(&mut receiver, NOW);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].route, "GET /a");
    assert_eq!((found[0].requests, found[0].in_flight), (0.0, Some(5.0)));
    assert_eq!(found[0].database_seconds, Some(0.2));
}

#[test]
fn spans_tell_of_requests_and_of_the_time_in_the_database_below_them() {
    let select = || {
        vec![
            text("db.system", "postgresql"),
            text("db.statement", "SELECT 1"),
        ]
    };
    let all = vec![
        span(3, 2, CLIENT, 0.25, select()),
        span(4, 2, CLIENT, 0.125, vec![text("db.system", "redis")]),
        span(2, 1, 1, 0.375, Vec::new()),
        span(1, 0, SERVER, 0.5, get("/users/{id}")),
        span(
            9,
            8,
            SERVER,
            0.75,
            vec![text("http.method", "POST"), text("http.target", "/x/1")],
        ),
    ];
    let mut in_protobuf = receiver();
    let request = spans(all);
    let outcome = take_spans(&mut in_protobuf, &request);
    assert_eq!((outcome.accepted, outcome.refused.total()), (5, 0));
    assert_eq!(outcome.noted.of("no_route"), 1, "a target is no route");
    let mut in_json = receiver();
    let body = serde_json::to_vec(&request).unwrap();
    let outcome = in_json
        .take(NOW, Signal::Traces, Encoding::Json, &body)
        .unwrap();
    assert_eq!((outcome.accepted, outcome.message()), (5, String::new()));
    let (reports, _) = in_protobuf.flush(NOW);
    assert_eq!(reports, in_json.flush(NOW).0);
    let [report] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!((report.until, report.interval), (Some(NOW), 1.0));
    assert_eq!(report.via, Some(TrafficVia::OtlpSpans));
    let [route] = &report.routes[..] else {
        panic!("{report:?}");
    };
    assert_eq!(route.route, "GET /users/{id}");
    assert_eq!((route.requests, route.duration_seconds), (1.0, 0.5));
    assert_eq!(route.database_seconds, Some(0.25));
}

#[test]
fn children_may_come_in_another_batch_and_orphans_are_counted() {
    let mut receiver = receiver();
    let select = || vec![text("db.system.name", "postgresql")];
    take_spans(
        &mut receiver,
        &spans(vec![span(2, 1, CLIENT, 0.25, select())]),
    );
    assert_eq!(routes(&mut receiver, NOW), []);
    take_spans(
        &mut receiver,
        &spans(vec![span(1, 0, SERVER, 0.5, get("/a"))]),
    );
    take_spans(
        &mut receiver,
        &spans(vec![span(3, 1, CLIENT, 0.125, select())]),
    );
    take_spans(
        &mut receiver,
        &spans(vec![span(5, 4, CLIENT, 0.125, select())]),
    );
    assert_eq!(routes(&mut receiver, NOW)[0].database_seconds, Some(0.375));
    let (_, given_up) = receiver.flush(NOW + 100.0);
    assert_eq!(given_up.of("unjoined_database_span"), 1);
}

#[test]
fn what_is_wrong_with_a_point_costs_that_point_only() {
    let good = || point("/good", NOW - 5.0, NOW, [1, 0, 0], 0.05);
    let mut cases: Vec<(HistogramDataPoint, &str)> = Vec::new();
    for sum in [f64::NAN, f64::INFINITY, -1.0] {
        let sum = Some(sum);
        cases.push((HistogramDataPoint { sum, ..good() }, "bad_value"));
    }
    cases.push((
        HistogramDataPoint {
            sum: None,
            ..good()
        },
        "bad_value",
    ));
    // 1970, 2106, and tomorrow.
    for time in [1.0, 4_294_967_295.0, NOW + 86_400.0] {
        let time_unix_nano = nanos(time);
        cases.push((
            HistogramDataPoint {
                time_unix_nano,
                ..good()
            },
            "bad_time",
        ));
    }
    let start_time_unix_nano = nanos(NOW + 1.0);
    cases.push((
        HistogramDataPoint {
            start_time_unix_nano,
            ..good()
        },
        "bad_time",
    ));
    cases.push((
        HistogramDataPoint { count: 7, ..good() },
        "inconsistent_histogram",
    ));
    let explicit_bounds = vec![1.0, 0.1];
    cases.push((
        HistogramDataPoint {
            explicit_bounds,
            ..good()
        },
        "inconsistent_histogram",
    ));
    let bucket_counts = vec![0; 5_000];
    cases.push((
        HistogramDataPoint {
            bucket_counts,
            ..good()
        },
        "too_many_buckets",
    ));
    let attributes = get(&format!("/{}", "x".repeat(1 << 20)));
    cases.push((
        HistogramDataPoint {
            attributes,
            ..good()
        },
        "label_too_long",
    ));
    for (bad, reason) in cases {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            if encoding == Encoding::Json && bad.sum.is_some_and(|sum| !sum.is_finite()) {
                continue; // JSON has its own way of writing these, tested below.
            }
            let mut receiver = receiver();
            let data = durations(DELTA, vec![good(), bad.clone(), good()]);
            let request = request_of("a", vec![metric("http.server.request.duration", "s", data)]);
            let body = match encoding {
                Encoding::Protobuf => request.encode_to_vec(),
                Encoding::Json => serde_json::to_vec(&request).unwrap(),
            };
            let outcome = receiver
                .take(NOW, Signal::Metrics, encoding, &body)
                .unwrap();
            assert_eq!(
                outcome.message(),
                format!("refused: 1 {reason}"),
                "{encoding:?}"
            );
            assert_eq!(told(&mut receiver, NOW), expected("GET /good", 2.0, 0.1));
        }
    }
}

#[test]
fn what_is_wrong_with_a_span_costs_that_span_only() {
    let good = || span(1, 0, SERVER, 0.5, get("/good"));
    let other_good = || span(2, 0, SERVER, 0.5, get("/good"));
    let cases = [
        (
            Span {
                trace_id: vec![7; 15],
                ..good()
            },
            "malformed",
        ),
        (
            Span {
                trace_id: vec![0; 16],
                ..good()
            },
            "malformed",
        ),
        (
            Span {
                span_id: Vec::new(),
                ..good()
            },
            "malformed",
        ),
        (
            Span {
                parent_span_id: vec![1; 3],
                ..good()
            },
            "malformed",
        ),
        (
            Span {
                end_time_unix_nano: 1,
                ..good()
            },
            "bad_time",
        ),
        (
            Span {
                end_time_unix_nano: u64::MAX,
                ..good()
            },
            "bad_time",
        ),
        (
            Span {
                start_time_unix_nano: nanos(NOW),
                ..good()
            },
            "bad_value",
        ),
        (
            Span {
                attributes: get(&"/x".repeat(1 << 19)),
                ..good()
            },
            "label_too_long",
        ),
    ];
    for (bad, reason) in cases {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let mut receiver = receiver();
            let request = spans(vec![good(), bad.clone(), other_good()]);
            let body = match encoding {
                Encoding::Protobuf => request.encode_to_vec(),
                Encoding::Json => serde_json::to_vec(&request).unwrap(),
            };
            let outcome = receiver.take(NOW, Signal::Traces, encoding, &body).unwrap();
            assert_eq!(
                outcome.message(),
                format!("refused: 1 {reason}"),
                "{encoding:?}"
            );
            assert_eq!(told(&mut receiver, NOW), expected("GET /good", 2.0, 1.0));
        }
    }
}

#[test]
fn json_of_wrong_types_is_counted_where_it_is() {
    let good = serde_json::to_value(request_of(
        "a",
        vec![metric(
            "http.server.request.duration",
            "s",
            durations(DELTA, vec![point("/good", NOW - 5.0, NOW, [1, 0, 0], 0.05)]),
        )],
    ))
    .unwrap();
    let at = "/resourceMetrics/0/scopeMetrics/0/metrics/0/histogram/dataPoints";
    let wrong = [
        ("count", serde_json::json!("many"), "malformed"),
        ("count", serde_json::json!(-1), "malformed"),
        ("sum", serde_json::json!("NaN"), "bad_value"),
        ("sum", serde_json::json!({}), "malformed"),
        ("timeUnixNano", serde_json::json!([]), "malformed"),
        ("timeUnixNano", serde_json::json!("1e18"), "malformed"),
        ("bucketCounts", serde_json::json!("1,0,0"), "malformed"),
        ("bucketCounts", serde_json::json!([1, null, 0]), "malformed"),
        ("attributes", serde_json::json!({}), "malformed"),
        ("attributes", serde_json::json!([7]), "malformed"),
    ];
    for (key, value, reason) in wrong {
        let mut request = good.clone();
        let points = request.pointer_mut(at).unwrap().as_array_mut().unwrap();
        let mut bad = points[0].clone();
        bad[key] = value;
        points.insert(0, bad);
        let mut receiver = receiver();
        let body = request.to_string();
        let outcome = receiver.take(NOW, Signal::Metrics, Encoding::Json, body.as_bytes());
        assert_eq!(
            outcome.unwrap().message(),
            format!("refused: 1 {reason}"),
            "{key}"
        );
        assert_eq!(told(&mut receiver, NOW), expected("GET /good", 1.0, 0.05));
    }
}

#[test]
fn a_body_that_is_cut_off_is_refused_as_a_whole() {
    let request = spans(vec![span(1, 0, SERVER, 0.5, get("/a"))]);
    let protobuf = request.encode_to_vec();
    let json = serde_json::to_vec(&request).unwrap();
    let mut receiver = receiver();
    for (encoding, body) in [(Encoding::Protobuf, protobuf), (Encoding::Json, json)] {
        for length in 1..body.len() {
            let outcome = receiver.take(NOW, Signal::Traces, encoding, &body[..length]);
            assert!(outcome.is_err(), "{encoding:?} {length}");
        }
    }
    assert_eq!(told(&mut receiver, NOW), []);
}

#[test]
fn a_resource_without_a_service_is_refused_with_its_points() {
    let mut request = spans(vec![span(1, 0, SERVER, 0.5, get("/a")); 3]);
    request.resource_spans[0].resource = None;
    let mut receiver = receiver();
    let outcome = take_spans(&mut receiver, &request);
    assert_eq!(outcome.message(), "refused: 3 no_service");
}

#[test]
fn metrics_of_the_wrong_kind_or_unit_are_refused_and_unknown_ones_are_not() {
    let points = || vec![point("/a", NOW - 5.0, NOW, [1, 0, 0], 0.05); 2];
    let request = request_of(
        "a",
        vec![
            metric(
                "http.server.request.duration",
                "By",
                durations(DELTA, points()),
            ),
            metric("http.server.request.duration", "s", durations(0, points())),
            metric(
                "http.server.request.duration",
                "s",
                metric::Data::Sum(Sum {
                    data_points: vec![NumberDataPoint::default()],
                    ..Sum::default()
                }),
            ),
            metric("process.cpu.time", "s", durations(0, points())),
        ],
    );
    let expected = "refused: 2 no_temporality, 2 unknown_unit, 1 wrong_type";
    assert_eq!(
        take_metrics(&mut receiver(), NOW, &request).message(),
        expected
    );
    let mut in_json = receiver();
    let body = serde_json::to_vec(&request).unwrap();
    let outcome = in_json.take(NOW, Signal::Metrics, Encoding::Json, &body);
    assert_eq!(outcome.unwrap().message(), expected);
}

#[test]
fn a_hundred_thousand_routes_cost_bounded_memory_and_lose_no_request() {
    let mut receiver = receiver();
    let mut sent = 0.0;
    for batch in 0..100 {
        let batch = (0..1_000_u64).map(|n| {
            let route = format!("/r{batch}x{n}y");
            Span {
                trace_id: vec![batch + 1; 16],
                span_id: (n + 1).to_be_bytes().to_vec(),
                ..span(1, 0, SERVER, 0.5, get(&route))
            }
        });
        let outcome = take_spans(&mut receiver, &spans(batch.collect()));
        assert_eq!(outcome.refused.total(), 0);
        sent += outcome.accepted as f64;
    }
    let found = routes(&mut receiver, NOW);
    assert_eq!(sent, 100_000.0);
    assert_eq!(found.iter().map(|r| r.requests).sum::<f64>(), sent);
    assert!(found.len() <= 5_001, "{}", found.len());
    assert!(found.iter().any(|route| route.route == "other"));
}
