//! A real application with OpenTelemetry in front of a real PgBouncer and
//! PostgreSQL: what it counts is what comes in, over gRPC and over HTTP, from
//! metrics and from spans.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use common::apps::App;
use common::{Stage, parse};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use snowpit::daemon;
use snowpit::observe::health::Health;
use snowpit::observe::otlp::{Listeners, OtlpConfig};
use snowpit::sample::{Report, RouteTraffic, Sample, TrafficVia};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Ending Python takes seconds on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(60);

/// (method, path, route, how often)
const SENT: [(&str, &str, &str, usize); 5] = [
    ("GET", "/users/7", "GET /users/<int:user>", 12),
    ("GET", "/users/81235", "GET /users/<int:user>", 5),
    ("POST", "/orders", "POST /orders", 9),
    ("GET", "/reports/sales", "GET /reports/<name>", 4),
    ("GET", "/health", "GET /health", 3),
];

#[tokio::test]
async fn over_grpc_the_counts_are_equal() {
    counts_are_equal("grpc").await;
}

#[tokio::test]
async fn over_http_the_counts_are_equal() {
    counts_are_equal("http/protobuf").await;
}

async fn counts_are_equal(protocol: &str) {
    snowpit::observe::tls::use_ring();
    let stage = Stage::start().await;
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = OtlpConfig {
        grpc_listen: Some(any),
        http_listen: Some(any),
    };
    let listeners = Listeners::bind(config).await.unwrap();
    let addresses = listeners.addresses();
    let endpoint = match protocol {
        "grpc" => addresses.grpc_listen,
        _ => addresses.http_listen,
    };
    let (sender, samples) = mpsc::channel(10_000);
    let (health, stop) = (Health::new(), CancellationToken::new());
    let services = vec!["shop".to_owned()];
    let task = tokio::spawn(listeners.serve(
        watch::channel(services).1,
        sender,
        health.clone(),
        stop.clone(),
    ));
    let endpoint = format!("http://{}", endpoint.unwrap());
    let shop = App::otel(protocol, &endpoint, stage.pooler.port()).await;

    let client = reqwest::Client::new();
    for (method, path, _, times) in SENT {
        for _ in 0..times {
            let request = client.request(method.parse().unwrap(), shop.url(path));
            assert!(request.send().await.unwrap().status().is_success());
        }
        // Some of it before an export and some after it.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    statements_carry_their_route(&stage, &client, &shop).await;
    shop.stop().await;
    stop.cancel();
    tokio::time::timeout(LIMIT, task).await.unwrap().unwrap();

    assert_eq!(health.rejections().snapshot(), []);
    let mut sent: BTreeMap<String, f64> = BTreeMap::new();
    for (_, _, route, times) in SENT {
        *sent.entry(route.to_owned()).or_default() += times as f64;
    }
    // The one that was looked at while it ran.
    *sent.entry("GET /reports/<name>".to_owned()).or_default() += 1.0;
    let told = told(samples).await;
    for via in [TrafficVia::OtlpMetrics, TrafficVia::OtlpSpans] {
        let routes = &told[&via];
        let requests: BTreeMap<String, f64> = routes
            .iter()
            .map(|(route, t)| (route.clone(), t.requests))
            .collect();
        assert_eq!(requests, sent, "{via:?}");
        let report = &routes["GET /reports/<name>"];
        // Four of twice 0.05 s, and one of twice 1.5 s.
        assert!((3.4..30.0).contains(&report.duration_seconds), "{report:?}");
        let counted: f64 = report.durations.iter().map(|bucket| bucket.count).sum();
        assert_eq!(counted, report.requests, "{via:?}");
    }
    // From the spans alone: which route the time in the database is of.
    let spans = &told[&TrafficVia::OtlpSpans];
    let of = |route: &str| spans[route].database_seconds;
    let reports = of("GET /reports/<name>").unwrap();
    assert!(
        (3.4..=spans["GET /reports/<name>"].duration_seconds).contains(&reports),
        "{reports}"
    );
    assert!(of("GET /users/<int:user>").unwrap() > 0.0);
    assert_eq!(of("GET /health"), None);
}

/// The same application comments its statements: PostgreSQL sees the route.
async fn statements_carry_their_route(stage: &Stage, client: &reqwest::Client, shop: &App) {
    let url = shop.url("/reports/slow?seconds=1.5");
    let slow = tokio::spawn(client.get(url).send());
    let postgres = stage
        .postgres
        .connect("postgres", "postgres")
        .await
        .unwrap();
    let running = "SELECT query FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' \
                   AND pid <> pg_backend_pid()";
    let query = loop {
        if let Some(row) = postgres.query(running, &[]).await.unwrap().first() {
            break row.get::<_, String>(0);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(
        query.contains("route='/reports/%%3Cname%%3E'")
            || query.contains("route='/reports/%3Cname%3E'"),
        "{query}"
    );
    assert!(slow.await.unwrap().unwrap().status().is_success());
}

/// Everything that was reported, by way and route.
async fn told(
    mut samples: mpsc::Receiver<Sample>,
) -> BTreeMap<TrafficVia, BTreeMap<String, RouteTraffic>> {
    let mut told: BTreeMap<TrafficVia, BTreeMap<String, RouteTraffic>> = BTreeMap::new();
    while let Some(sample) = samples.recv().await {
        let Report::Traffic(report) = sample.report else {
            panic!("no traffic: {sample:?}");
        };
        assert_eq!(report.service, "shop");
        let routes = told.entry(report.via.unwrap()).or_default();
        for new in report.routes {
            let route = routes.entry(new.route.clone()).or_default();
            route.requests += new.requests;
            route.duration_seconds += new.duration_seconds;
            if let Some(seconds) = new.database_seconds {
                *route.database_seconds.get_or_insert(0.0) += seconds;
            }
            route.durations.extend(new.durations);
        }
    }
    told
}

/// What a collector keeps of the spans it is sent: the service, and (name,
/// source) of each.
type Collected = mpsc::UnboundedReceiver<(String, String, String)>;

/// A receiver of traces over HTTP that understands what it gets.
async fn collector() -> (SocketAddr, Collected) {
    let (sender, collected) = mpsc::unbounded_channel();
    let text = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str| {
        let found = attributes.iter().find(|pair| pair.key == key);
        found.map_or(String::new(), |pair| {
            match pair.value.clone().and_then(|v| v.value) {
                Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(s)) => s,
                other => format!("{other:?}"),
            }
        })
    };
    let receive = async move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for part in request.resource_spans {
            let service = text(&part.resource.unwrap().attributes, "service.name");
            for span in part.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
                let source = text(&span.attributes, "snowpit.source");
                let _ = sender.send((service.clone(), span.name, source));
            }
        }
    };
    let router = Router::new().route("/v1/traces", post(receive));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, collected)
}

#[tokio::test]
async fn the_daemon_traces_itself_and_listens_where_it_is_told() {
    let stage = Stage::start().await;
    let (address, mut collected) = collector().await;
    let more = format!(
        "[otlp]\nhttp_listen = \"127.0.0.1:0\"\n\
         [telemetry]\notlp_endpoint = \"http://{address}\"\n"
    );
    let running = daemon::start(parse(&stage.configuration(&more)))
        .await
        .unwrap();
    let mut wanted = BTreeSet::from([
        ("poll", "postgres"),
        ("poll", "pgbouncer"),
        ("tick", "postgres"),
        ("tick", "pgbouncer"),
    ]);
    while !wanted.is_empty() {
        let span = tokio::time::timeout(LIMIT, collected.recv()).await;
        let (service, name, source) = span.expect("spans come").unwrap();
        assert_eq!(service, "snowpit");
        wanted.retain(|(n, s)| (*n, *s) != (name.as_str(), source.as_str()));
        // Nothing else is traced, and not the requests that carry the spans.
        assert!(["poll", "tick", "attribution"].contains(&&*name), "{name}");
    }

    assert_eq!(running.otlp().grpc_listen, None, "off where it is not set");
    let otlp = running.otlp().http_listen.unwrap();
    let client = reqwest::Client::new();
    let request = client.post(format!("http://{otlp}/v1/traces"));
    let request = request.header("content-type", "application/json").body("{");
    assert_eq!(request.send().await.unwrap().status(), 400);
    let page = client.get(format!("http://{}/metrics", running.address()));
    let page = page.send().await.unwrap().text().await.unwrap();
    let counted = "snowpit_rejected_points_total{source=\"otlp\",reason=\"malformed_body\"} 1";
    assert!(page.contains(counted), "{page}");
    running.shutdown(LIMIT).await;
    assert!(
        client.get(format!("http://{otlp}/")).send().await.is_err(),
        "it is closed"
    );
}

#[tokio::test]
async fn a_collector_that_is_not_there_harms_nobody() {
    let stage = Stage::start().await;
    let more = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:1\"\n";
    let running = daemon::start(parse(&stage.configuration(more)))
        .await
        .unwrap();
    let ready = format!("http://{}/-/ready", running.address());
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !reqwest::get(&ready).await.unwrap().status().is_success() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it polls all the same"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stopping = running.shutdown(Duration::from_secs(3));
    tokio::time::timeout(LIMIT, stopping).await.unwrap();
}
