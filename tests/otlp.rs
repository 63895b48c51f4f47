//! The OTLP listeners over the wire: what is accepted, what is refused and how
//! the sender is told, and that a flood is turned away while the rest is served.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use reqwest::{Response, StatusCode};
use snowpit::observe::health::Health;
use snowpit::observe::otlp::{Listeners, OtlpConfig};
use snowpit::sample::{Report, Sample};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::client::GrpcService;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

const LIMIT: Duration = Duration::from_secs(20);

/// Both listeners on free ports.
struct Stage {
    grpc: SocketAddr,
    http: SocketAddr,
    health: Health,
    samples: mpsc::Receiver<Sample>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    client: reqwest::Client,
}

impl Stage {
    async fn start() -> Self {
        snowpit::observe::tls::use_ring();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = OtlpConfig {
            grpc_listen: Some(any),
            http_listen: Some(any),
        };
        let listeners = Listeners::bind(config).await.unwrap();
        let addresses = listeners.addresses();
        let (sender, samples) = mpsc::channel(100);
        let (health, stop) = (Health::new(), CancellationToken::new());
        let services = vec!["registry".to_owned()];
        let task = tokio::spawn(listeners.serve(
            watch::channel(services).1,
            sender,
            health.clone(),
            stop.clone(),
        ));
        Self {
            grpc: addresses.grpc_listen.unwrap(),
            http: addresses.http_listen.unwrap(),
            health,
            samples,
            stop,
            task,
            client: reqwest::Client::new(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    async fn post(&self, content_type: &str, encoding: Option<&str>, body: Vec<u8>) -> Response {
        let mut request = self.client.post(self.url("/v1/traces"));
        request = request.header("content-type", content_type);
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        request.body(body).send().await.unwrap()
    }

    async fn grpc(&self) -> TraceServiceClient<Channel> {
        let address = format!("http://{}", self.grpc);
        TraceServiceClient::connect(address).await.unwrap()
    }

    /// What was refused so far, by reason.
    fn refused(&self) -> BTreeMap<&'static str, u64> {
        let all = self.health.rejections().snapshot();
        all.into_iter().map(|(_, reason, n)| (reason, n)).collect()
    }

    /// Stops, and gives the requests by route of everything that came.
    async fn finish(mut self) -> BTreeMap<String, f64> {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task)
            .await
            .unwrap()
            .unwrap();
        let mut routes = BTreeMap::new();
        while let Some(sample) = self.samples.recv().await {
            let Report::Traffic(report) = sample.report else {
                panic!("no traffic: {sample:?}");
            };
            for route in report.routes {
                *routes.entry(route.route).or_default() += route.requests;
            }
        }
        routes
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

/// Server spans of a route in a trace of their own, the last `bad` of them
/// without an id.
#[expect(
    clippy::disallowed_methods,
    reason = "a sender stamps with the time of day"
)]
fn spans(route: &str, good: usize, bad: usize) -> ExportTraceServiceRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_nanos()).unwrap();
    static TRACES: AtomicU64 = AtomicU64::new(1);
    let trace = u128::from(TRACES.fetch_add(1, Ordering::Relaxed));
    let span = |n: usize| Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: if n < good {
            (n as u64 + 1).to_be_bytes().to_vec()
        } else {
            Vec::new()
        },
        kind: 2,
        start_time_unix_nano: now - 1_000_000,
        end_time_unix_nano: now,
        attributes: vec![
            text("http.request.method", "GET"),
            text("http.route", route),
        ],
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "registry")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: (0..good + bad).map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A few kilobytes that are 64 MiB inside, and valid protobuf: one unknown
/// field.
fn bomb() -> Vec<u8> {
    let mut inside = vec![0xfa, 0x01, 0x80, 0x80, 0x80, 0x20];
    inside.resize(inside.len() + (64 << 20), 0);
    gzip(&inside)
}

#[tokio::test]
async fn every_way_in_counts_the_same() {
    let stage = Stage::start().await;
    let protobuf = "application/x-protobuf";
    let body = |route: &str| spans(route, 3, 0).encode_to_vec();
    let json = || serde_json::to_vec(&spans("/json", 3, 0)).unwrap();
    let answers = [
        stage.post(protobuf, None, body("/protobuf")).await,
        stage
            .post(protobuf, Some("gzip"), gzip(&body("/gzip")))
            .await,
        stage
            .post("application/json; charset=utf-8", None, json())
            .await,
        stage
            .post("application/json", Some("gzip"), gzip(&json()))
            .await,
    ];
    for answer in answers {
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let mut plain = stage.grpc().await;
    let answer = plain
        .export(spans("/grpc", 3, 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer, ExportTraceServiceResponse::default());
    let mut packed = stage
        .grpc()
        .await
        .send_compressed(CompressionEncoding::Gzip);
    packed.export(spans("/grpc", 3, 0)).await.unwrap();
    drop((plain, packed));
    assert_eq!(stage.refused(), BTreeMap::new());
    let expected = [
        ("GET /grpc", 6.0),
        ("GET /gzip", 3.0),
        ("GET /json", 6.0),
        ("GET /protobuf", 3.0),
    ];
    let expected = expected.map(|(route, n)| (route.to_owned(), n));
    assert_eq!(stage.finish().await, BTreeMap::from(expected));
}

#[tokio::test]
async fn partial_success_says_how_many_and_why() {
    let stage = Stage::start().await;
    let request = || spans("/a", 2, 3);
    let answer = stage
        .post("application/x-protobuf", None, request().encode_to_vec())
        .await;
    let answer = answer.bytes().await.unwrap();
    let over_http = ExportTraceServiceResponse::decode(answer).unwrap();
    let partial = over_http.partial_success.clone().unwrap();
    assert_eq!(
        (partial.rejected_spans, &*partial.error_message),
        (3, "refused: 3 malformed")
    );
    let over_grpc = stage.grpc().await.export(request()).await.unwrap();
    assert_eq!(over_grpc.into_inner(), over_http);
    let json = serde_json::to_vec(&request()).unwrap();
    let answer: serde_json::Value = stage
        .post("application/json", None, json)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "3");
    assert_eq!(
        answer["partialSuccess"]["errorMessage"],
        "refused: 3 malformed"
    );
    assert_eq!(stage.refused(), BTreeMap::from([("malformed", 9)]));
    assert_eq!(
        stage.finish().await,
        BTreeMap::from([("GET /a".to_owned(), 6.0)])
    );
}

#[tokio::test]
async fn a_gzip_bomb_is_refused_on_both_ways() {
    let stage = Stage::start().await;
    let bomb = bomb();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let answer = stage
        .post("application/x-protobuf", Some("gzip"), bomb.clone())
        .await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    // As a gRPC message: compressed, its length, its bytes.
    let mut message = vec![1];
    message.extend(u32::try_from(bomb.len()).unwrap().to_be_bytes());
    message.extend(bomb);
    let address = format!("http://{}", stage.grpc);
    let mut channel = Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let request = axum::http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .body(tonic::body::Body::new(axum::body::Body::from(message)))
        .unwrap();
    std::future::poll_fn(|context| GrpcService::poll_ready(&mut channel, context))
        .await
        .unwrap();
    let answer = GrpcService::call(&mut channel, request).await.unwrap();
    let status = answer.headers()["grpc-status"].to_str().unwrap().to_owned();
    assert_eq!(status, (Code::ResourceExhausted as i32).to_string());
    assert_eq!(stage.refused(), BTreeMap::from([("body_too_large", 2)]));
    still_good(stage).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_on_both_ways() {
    let stage = Stage::start().await;
    let mut request = spans("/a", 1, 0);
    request.resource_spans[0].schema_url = "x".repeat(5 << 20);
    let answer = stage
        .post("application/x-protobuf", None, request.encode_to_vec())
        .await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let refused = stage.grpc().await.export(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert_eq!(stage.refused(), BTreeMap::from([("body_too_large", 2)]));
    still_good(stage).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_a_bad_request_and_says_so() {
    let stage = Stage::start().await;
    let whole = spans("/a", 1, 0).encode_to_vec();
    let cut = whole[..whole.len() - 1].to_vec();
    let answer = stage
        .post("application/x-protobuf", None, cut.clone())
        .await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let answer = stage
        .post("application/json", None, b"{\"resourceSpans\": [".to_vec())
        .await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let told: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(told["code"], 3);
    assert!(
        told["message"]
            .as_str()
            .unwrap()
            .contains("not valid OTLP JSON"),
        "{told}"
    );
    let answer = stage
        .post("application/x-protobuf", Some("gzip"), cut)
        .await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "not gzip at all");
    assert_eq!(stage.refused(), BTreeMap::from([("malformed_body", 3)]));
    still_good(stage).await;
}

#[tokio::test]
async fn other_types_encodings_paths_and_methods_are_refused() {
    let stage = Stage::start().await;
    let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    assert_eq!(
        stage.post("text/plain", None, Vec::new()).await.status(),
        unsupported
    );
    let json = "application/json";
    assert_eq!(
        stage.post(json, Some("br"), b"{}".to_vec()).await.status(),
        unsupported
    );
    let get = stage
        .client
        .get(stage.url("/v1/traces"))
        .send()
        .await
        .unwrap();
    assert_eq!(get.status(), StatusCode::METHOD_NOT_ALLOWED);
    let logs = stage
        .client
        .post(stage.url("/v1/logs"))
        .send()
        .await
        .unwrap();
    assert_eq!(logs.status(), StatusCode::NOT_FOUND);
    let counted = [
        ("unsupported_content_encoding", 1),
        ("unsupported_content_type", 1),
    ];
    assert_eq!(stage.refused(), BTreeMap::from(counted));
    still_good(stage).await;
}

/// Requests whose bodies never come take every place; what comes then waits a
/// little and is told to come again, and is served when there is room.
#[tokio::test]
async fn a_flood_is_told_to_come_again() {
    let stage = Stage::start().await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut stream = tokio::net::TcpStream::connect(stage.http).await.unwrap();
        let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                    content-length: 1000\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    // They are accepted in order, so the next connection finds no place.
    let refused = loop {
        let body = spans("/early", 1, 0).encode_to_vec();
        let answer = stage.post("application/x-protobuf", None, body).await;
        if answer.status() != StatusCode::OK {
            break answer;
        }
    };
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let refused = stage
        .grpc()
        .await
        .export(spans("/a", 1, 0))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // google.rpc.RetryInfo, or exporters would not come again.
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    assert!(details.contains("google.rpc.RetryInfo"), "{details:?}");
    assert_eq!(stage.refused().get("overload"), Some(&2));
    drop(open);
    let mut answer = StatusCode::TOO_MANY_REQUESTS;
    while answer == StatusCode::TOO_MANY_REQUESTS {
        let body = spans("/late", 1, 0).encode_to_vec();
        answer = stage
            .post("application/x-protobuf", None, body)
            .await
            .status();
    }
    assert_eq!(answer, StatusCode::OK);
    assert_eq!(stage.finish().await["GET /late"], 1.0);
}

/// What does not even speak the protocol, on each listener.
#[tokio::test]
async fn noise_on_the_wire_harms_nobody() {
    let stage = Stage::start().await;
    for address in [stage.grpc, stage.http] {
        for noise in [
            &b"\x16\x03\x01\x02\x00\x01"[..],
            b"\r\n\r\n\0\0",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0",
        ] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(noise).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // Whether an answer comes or the connection is cut is all the same.
            let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
                .await
                .unwrap();
        }
    }
    still_good(stage).await;
}

/// Good spans come in all the same.
async fn still_good(stage: Stage) {
    let body = spans("/good", 2, 0).encode_to_vec();
    let answer = stage.post("application/x-protobuf", None, body).await;
    assert_eq!(answer.status(), StatusCode::OK);
    stage
        .grpc()
        .await
        .export(spans("/good", 3, 0))
        .await
        .unwrap();
    assert_eq!(
        stage.finish().await,
        BTreeMap::from([("GET /good".to_owned(), 5.0)])
    );
}
