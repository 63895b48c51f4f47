//! How fast OTLP is taken in: from the body of a request to the samples, on one
//! core, everything that the receiver does.
//!
//! `cargo bench --bench otlp` prints spans and histogram points a second, the
//! best of several runs, and fails when one is below its floor.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    Histogram, HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics, metric,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use snowpit::observe::otlp::{Encoding, Receiver, Signal};
use snowpit::sample::RouteTraffic;
use tokio::time::Instant;

/// What must be reached, a second.
const SPANS_FLOOR: f64 = 150_000.0;
const POINTS_FLOOR: f64 = 300_000.0;

/// The machine has other things to do; the best run is the least disturbed.
const RUNS: usize = 7;
/// Bodies of one run.
const BODIES: usize = 200;
/// Traces in a body; an SDK sends at most 512 spans at once.
const TRACES: usize = 128;
/// A request, something inside it, and two calls of the database.
const SPANS_PER_TRACE: usize = 4;
/// Routes of the service, each with five status codes: 500 points in a body.
const ROUTES: usize = 100;
const STATUS_CODES: [i64; 5] = [200, 301, 404, 409, 500];
const NOW: u64 = 1_800_000_000;
const SECOND: u64 = 1_000_000_000;
const CUMULATIVE: i32 = 2;
/// The bounds that the semantic conventions recommend.
const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not measured: a debug build is ten times slower; use cargo bench");
        return Ok(());
    }
    let spans = measure(Signal::Traces, traces, TRACES * SPANS_PER_TRACE, TRACES)?;
    println!("spans             {spans:>12.0} /s  (at least {SPANS_FLOOR:.0})");
    let points = ROUTES * STATUS_CODES.len();
    let points = measure(Signal::Metrics, metrics, points, points)?;
    println!("histogram points  {points:>12.0} /s  (at least {POINTS_FLOOR:.0})");
    ensure!(spans >= SPANS_FLOOR, "spans are taken in too slowly");
    ensure!(points >= POINTS_FLOOR, "points are taken in too slowly");
    Ok(())
}

/// Spans or points a second in the best run. Every run must have counted every
/// request.
fn measure(
    signal: Signal,
    body: fn(u64) -> Vec<u8>,
    per_body: usize,
    requests_per_body: usize,
) -> anyhow::Result<f64> {
    let bodies: Vec<Vec<u8>> = (0..BODIES as u64).map(body).collect();
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let mut receiver = Receiver::new(&["registry".to_owned()]);
        let mut routes: BTreeMap<String, RouteTraffic> = BTreeMap::new();
        let began = Instant::now();
        for (number, body) in bodies.iter().enumerate() {
            let now = (NOW + number as u64) as f64;
            let outcome = receiver.take(now, signal, Encoding::Protobuf, body)?;
            ensure!(outcome.refused.is_empty(), "{}", outcome.message());
            let (reports, _) = receiver.flush(now);
            for route in reports.into_iter().flat_map(|report| report.routes) {
                let known = routes.entry(route.route.clone()).or_default();
                known.requests += route.requests;
                let seconds = known.database_seconds.get_or_insert(0.0);
                *seconds += route.database_seconds.unwrap_or(0.0);
            }
        }
        best = best.min(began.elapsed());
        ensure!(routes.len() == ROUTES, "{} routes", routes.len());
        let counted: f64 = routes.values().map(|route| route.requests).sum();
        let expected = (BODIES * requests_per_body) as f64;
        ensure!(counted == expected, "counted {counted} of {expected}");
        if signal == Signal::Traces {
            let joined = routes
                .values()
                .all(|route| route.database_seconds > Some(0.0));
            ensure!(joined, "a route without its time in the database");
        }
    }
    let rate = (BODIES * per_body) as f64 / best.as_secs_f64();
    let megabytes = bytes as f64 / 1e6 / best.as_secs_f64();
    println!("{signal:?}: {BODIES} bodies of {per_body} in {best:.1?}, {megabytes:.0} MB/s");
    Some(rate)
        .filter(|rate| rate.is_finite())
        .context("nothing was measured")
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

/// What a Python process in Kubernetes says of itself.
fn resource() -> Option<Resource> {
    let attributes = [
        ("telemetry.sdk.language", "python"),
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.version", "1.45.1"),
        ("service.name", "registry"),
        (
            "service.instance.id",
            "0193d8a2-7d3e-7cc4-a1b0-6fd2c0e5c1aa",
        ),
        ("k8s.pod.name", "registry-6c9f7b5d4-x2k8p"),
        ("k8s.namespace.name", "production"),
    ];
    Some(Resource {
        attributes: attributes.map(|(key, value)| text(key, value)).into(),
        ..Resource::default()
    })
}

fn route(number: usize) -> String {
    format!("/api/v1/resource{number}/{{id}}")
}

/// The batch of second `number`: traces as the Flask and SQLAlchemy
/// instrumentations make them, children first.
fn traces(number: u64) -> Vec<u8> {
    let end = (NOW + number) * SECOND;
    let mut spans = Vec::with_capacity(TRACES * SPANS_PER_TRACE);
    for trace in 0..TRACES {
        let id = (number as u128) << 64 | (trace as u128 + 1);
        let request = (number << 32) | (trace as u64 * 8 + 1);
        let span = |id_in_trace: u64, parent: Option<u64>, kind: i32, name: &str| Span {
            trace_id: id.to_be_bytes().to_vec(),
            span_id: (request + id_in_trace).to_be_bytes().to_vec(),
            parent_span_id: parent.map_or(Vec::new(), |p| (request + p).to_be_bytes().to_vec()),
            kind,
            name: name.to_owned(),
            flags: 0x101,
            start_time_unix_nano: end - SECOND / 50,
            end_time_unix_nano: end,
            ..Span::default()
        };
        for (id, parent) in [(2, 1), (3, 0)] {
            spans.push(Span {
                attributes: vec![
                    text(
                        "db.statement",
                        "SELECT id, name, digest FROM tag WHERE repository_id = %s",
                    ),
                    text("db.system", "postgresql"),
                    text("net.peer.name", "pooler.internal"),
                    pair("net.peer.port", Value::IntValue(6432)),
                    text("db.name", "registry"),
                    text("db.user", "registry"),
                ],
                ..span(id, Some(parent), 3, "SELECT registry")
            });
        }
        spans.push(span(1, Some(0), 1, "load_repository"));
        spans.push(Span {
            attributes: vec![
                text("http.request.method", "GET"),
                text("url.scheme", "http"),
                text("url.path", "/api/v1/resource7/81235"),
                text("network.protocol.version", "1.1"),
                text("server.address", "registry.example.com"),
                pair("server.port", Value::IntValue(8080)),
                text("client.address", "10.2.3.4"),
                text(
                    "user_agent.original",
                    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101",
                ),
                pair("http.response.status_code", Value::IntValue(200)),
                text("http.route", &route((number as usize + trace) % ROUTES)),
            ],
            ..span(0, None, 2, "GET /api/v1/resource7/{id}")
        });
    }
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: resource(),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope::default()),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
    .encode_to_vec()
}

/// The export of second `number`: every series has one request more than in
/// the one before.
fn metrics(number: u64) -> Vec<u8> {
    let mut data_points = Vec::with_capacity(ROUTES * STATUS_CODES.len());
    for number_of_route in 0..ROUTES {
        for status in STATUS_CODES {
            let count = number + 1;
            let mut bucket_counts = vec![0; BOUNDS.len() + 1];
            bucket_counts[3] = count / 2;
            bucket_counts[5] = count - count / 2;
            data_points.push(HistogramDataPoint {
                attributes: vec![
                    text("http.request.method", "GET"),
                    text("url.scheme", "http"),
                    text("network.protocol.version", "1.1"),
                    pair("http.response.status_code", Value::IntValue(status)),
                    text("http.route", &route(number_of_route)),
                ],
                start_time_unix_nano: (NOW - 1) * SECOND,
                time_unix_nano: (NOW + number) * SECOND,
                count,
                sum: Some(count as f64 * 0.04),
                bucket_counts,
                explicit_bounds: BOUNDS.to_vec(),
                min: Some(0.03),
                max: Some(0.08),
                ..HistogramDataPoint::default()
            });
        }
    }
    let histogram = Histogram {
        data_points,
        aggregation_temporality: CUMULATIVE,
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource(),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope::default()),
                metrics: vec![Metric {
                    name: "http.server.request.duration".to_owned(),
                    unit: "s".to_owned(),
                    data: Some(metric::Data::Histogram(histogram)),
                    ..Metric::default()
                }],
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
    .encode_to_vec()
}
