//! `/-/ready` and `/api/v1/status`: how the daemon is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::WebState;
use super::error::ApiError;
use super::runbooks;
use crate::expose::metrics::REVISION;
use crate::observe::health::SourceHealth;
use crate::observe::poll::unix_now;

/// Ready once every source was tried, whether it answered or not: from then on
/// the metrics tell the truth about each of them.
pub(super) async fn ready(State(state): State<Arc<WebState>>) -> Result<&'static str, ApiError> {
    let untried: Vec<String> = state
        .health
        .snapshot()
        .iter()
        .filter(|source| source.polls == 0)
        .map(|source| format!("{} {}", source.source, source.name))
        .collect();
    if untried.is_empty() {
        return Ok("ready\n");
    }
    let reason = format!("not tried yet: {}", untried.join(", "));
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason))
}

/// Version, uptime, sources, engine.
pub(super) async fn status(State(state): State<Arc<WebState>>) -> Json<Value> {
    let snapshot = state.snapshot();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "revision": REVISION,
        "started_at": state.started_at,
        "uptime_seconds": (unix_now() - state.started_at).max(0.0),
        "sources": state.health.snapshot().iter().map(source).collect::<Vec<_>>(),
        "pages": state.hub.subscribers(),
        "runbooks": runbooks::ALL.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "engine": {
            "at": snapshot.at,
            "open_incidents": snapshot.open.len(),
            "tick_seconds": {
                "p50": state.ticks.quantile(0.5),
                "p99": state.ticks.quantile(0.99),
            },
        },
    }))
}

fn source(source: &SourceHealth) -> Value {
    let failures: serde_json::Map<String, Value> = source
        .failures
        .iter()
        .map(|(reason, count)| (reason.as_str().to_owned(), json!(count)))
        .collect();
    let quantile = |seconds: f64| (source.duration.count > 0).then_some(seconds);
    json!({
        "source": source.source,
        "name": source.name,
        "up": source.up,
        "last_success_at": source.last_success,
        "last_error": source.last_error,
        "interval_seconds": source.interval,
        "polls": source.polls,
        "poll_seconds": {
            "p50": quantile(source.duration.p50),
            "p99": quantile(source.duration.p99),
        },
        "failures": failures,
        "dropped_samples": source.dropped,
    })
}
