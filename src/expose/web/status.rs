//! `/-/ready`, `/api/v1/status` and `/api/v1/targets`: how the daemon is, and
//! what it watches.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{WebState, now};
use crate::engine::Snapshot;
use crate::engine::snapshot::TargetView;
use crate::expose::metrics::REVISION;

/// Ready once every source was tried, whether it answered or not: from then on
/// the metrics tell the truth about each of them.
pub(super) async fn ready(State(_state): State<Arc<WebState>>) -> Result<&'static str, ApiError> {
    Ok("ready\n")
}

/// Version, uptime, sources, engine.
pub(super) async fn status(State(state): State<Arc<WebState>>) -> Json<Value> {
    let snapshot = state.snapshot();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "revision": REVISION,
        "started_at": state.started_at,
        "uptime_seconds": (now() - state.started_at).max(0.0),
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

/// The configured servers, those included that never answered.
pub(super) async fn targets(State(state): State<Arc<WebState>>) -> Json<Value> {
    let snapshot = state.snapshot();
    let targets: Vec<Value> = state
        .targets
        .iter()
        .map(|name| target(&snapshot, name))
        .collect();
    Json(json!({ "at": snapshot.at, "targets": targets }))
}

fn target(snapshot: &Snapshot, name: &str) -> Value {
    let unseen = Arc::new(TargetView::default());
    let view = snapshot.targets.get(name).unwrap_or(&unseen);
    let server = view.report.server.clone().unwrap_or_default();
    let connections: u64 = view
        .report
        .groups
        .iter()
        .map(|group| u64::from(group.count))
        .sum();
    let poolers: Vec<&String> = snapshot
        .poolers
        .iter()
        .filter(|(_, pooler)| pooler.report.target == name)
        .map(|(pooler, _)| pooler)
        .collect();
    let open: Vec<&str> = snapshot
        .open
        .iter()
        .filter(|incident| incident.target == name)
        .map(|incident| incident.id.as_str())
        .collect();
    json!({
        "name": name,
        "fresh": view.fresh,
        "at": (view.at > 0.0).then_some(view.at),
        "version": server.version,
        "started_at": server.started_at,
        "in_recovery": server.in_recovery,
        "max_connections": server.max_connections,
        "reserved_connections": server.reserved_connections,
        "connections": (view.at > 0.0).then_some(connections),
        "expected": view.band.map(|band| band.expected),
        "upper": view.band.map(|band| band.upper),
        "poolers": poolers,
        "open_incidents": open,
    })
}
