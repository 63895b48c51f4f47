//! Traces of snowpit itself, for whoever wants to know what it does with its
//! time: a span for each poll, each tick of the engine, and each attribution.
//!
//! Off unless `[telemetry] otlp_endpoint` is set. Invariants: a span is made
//! from a time that was measured anyway, and handed to a bounded queue: when
//! that is full the span is lost and nobody waits. Only these three are traced,
//! so the exporter's own requests make no spans.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Span, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider,
};

use crate::engine::incident::{Effect, Event};
use crate::sample::{FailureReason, Report, UnixSeconds};

/// How often spans are sent.
const SEND_EVERY: Duration = Duration::from_secs(2);

/// How long sending may take. While it lasts, spans gather in the queue.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer of a receiver that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
#[error(
    "traces cannot be sent to {endpoint}: {cause}; mend [telemetry] otlp_endpoint, or leave it out"
)]
pub struct TelemetryError {
    endpoint: String,
    cause: String,
}

/// Where spans go; by default nowhere. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Option<Arc<Exporter>>);

#[derive(Debug)]
struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Telemetry {
    /// Sends to the OTLP receiver over HTTP at that base address. To be called
    /// inside a runtime, which does the sending.
    ///
    /// # Errors
    /// When the address cannot be used. A receiver that does not answer is no
    /// error.
    pub fn start(endpoint: &str) -> Result<Self, TelemetryError> {
        let refuse = |cause: String| TelemetryError {
            endpoint: endpoint.to_owned(),
            cause,
        };
        let client = reqwest::Client::builder().timeout(SEND_TIMEOUT).build();
        let client = Client {
            client: client.map_err(|error| refuse(error.to_string()))?,
            runtime: tokio::runtime::Handle::current(),
            failing: Arc::default(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .with_timeout(SEND_TIMEOUT)
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        let config = BatchConfigBuilder::default().with_scheduled_delay(SEND_EVERY);
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config.build());
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder_empty()
            .with_service_name("snowpit")
            .with_attribute(version);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(batches.build())
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("snowpit");
        Ok(Self(Some(Arc::new(Exporter { provider, tracer }))))
    }

    /// A poll that began at `at` and took so long.
    pub fn poll(
        &self,
        source: &'static str,
        name: &str,
        at: UnixSeconds,
        took: Duration,
        failure: Option<FailureReason>,
    ) {
        let Some(exporter) = &self.0 else { return };
        let attributes = vec![
            KeyValue::new("snowpit.source", source),
            KeyValue::new("snowpit.name", name.to_owned()),
        ];
        let mut span = exporter.span("poll", SpanKind::Client, attributes, at, &Context::new());
        if let Some(reason) = failure {
            span.set_status(Status::error(reason.as_str()));
        }
        span.end_with_timestamp(time(at) + took);
    }

    /// The engine took in a sample, from `at` on, and said what has changed.
    /// Each attribution made or changed by it has a span below.
    pub fn tick(&self, source: &'static str, at: UnixSeconds, took: Duration, effects: &[Effect]) {
        let Some(exporter) = &self.0 else { return };
        let attributes = vec![
            KeyValue::new("snowpit.source", source),
            KeyValue::new("snowpit.effects", effects.len() as i64),
        ];
        let mut tick = exporter.span("tick", SpanKind::Internal, attributes, at, &Context::new());
        let parent = Context::new().with_remote_span_context(tick.span_context().clone());
        let end = time(at) + took;
        for effect in effects {
            let incident = &effect.incident;
            let Some(first) = incident.attribution.first() else {
                continue;
            };
            if effect.event == Event::Resolved {
                continue;
            }
            let attributes = vec![
                KeyValue::new("snowpit.incident", incident.id.clone()),
                KeyValue::new("snowpit.candidates", incident.attribution.len() as i64),
                KeyValue::new("http.route", first.route.clone()),
                KeyValue::new("snowpit.confidence", first.confidence),
            ];
            let mut span =
                exporter.span("attribution", SpanKind::Internal, attributes, at, &parent);
            span.end_with_timestamp(end);
        }
        tick.end_with_timestamp(end);
    }

    /// Sends what is left, and waits for it no longer than `grace`.
    pub async fn shutdown(&self, grace: Duration) {
        let Some(exporter) = &self.0 else { return };
        let provider = exporter.provider.clone();
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(grace));
        if !matches!(ended.await, Ok(Ok(()))) {
            tracing::warn!("the last traces of snowpit itself could not be sent");
        }
    }
}

impl Exporter {
    fn span(
        &self,
        name: &'static str,
        kind: SpanKind,
        attributes: Vec<KeyValue>,
        at: UnixSeconds,
        parent: &Context,
    ) -> opentelemetry_sdk::trace::Span {
        let builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_attributes(attributes)
            .with_start_time(time(at));
        self.tracer.build_with_context(builder, parent)
    }
}

/// The kind of a sample, as in the label `source`.
pub fn source_of(report: &Report) -> &'static str {
    match report {
        Report::Postgres(_) => "postgres",
        Report::Pgbouncer(_) => "pgbouncer",
        Report::Traffic(_) => "traffic",
    }
}

fn time(at: UnixSeconds) -> SystemTime {
    UNIX_EPOCH + Duration::try_from_secs_f64(at).unwrap_or_default()
}

/// Sends from the exporter's thread on our runtime.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
    failing: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self
            .runtime
            .spawn(async move { send(&client, request).await });
        let answer = sent.await?;
        let failed = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.failing.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(cause) if !was_failing => {
                tracing::warn!(cause, "traces of snowpit itself cannot be sent");
            }
            None if was_failing => tracing::info!("traces of snowpit itself are sent again"),
            _ => {}
        }
        answer
    }
}

async fn send(
    client: &reqwest::Client,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    // An address can have a token in it.
    let sent = client.execute(request.try_into()?).await;
    let mut answer = sent.map_err(reqwest::Error::without_url)?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        headers.clone_from(answer.headers());
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > ANSWER_LIMIT {
            return Err("the answer is too long for one to traces".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(response.body(body.into())?)
}
