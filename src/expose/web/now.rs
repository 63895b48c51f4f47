//! What the first view shows: every target in figures and the open incidents,
//! without their evidence.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::WebState;
use super::targets;
use crate::engine::incident::{Incident, Severity};
use crate::observe::poll::unix_now;

/// Open incidents in one event; the others are counted.
const MAX_OPEN: usize = 100;

/// Sources that do not answer, in one event; the others are counted.
const MAX_DOWN: usize = 50;

/// `/api/v1/now`: the same for who asks instead of listening.
pub(super) async fn answer(State(state): State<Arc<WebState>>) -> Json<Value> {
    Json(now(&state))
}

/// The data of a `now` event.
pub(super) fn now(state: &WebState) -> Value {
    let snapshot = state.snapshot();
    let sources = state.health.snapshot();
    let mut open: Vec<&Incident> = snapshot.open.iter().rev().map(AsRef::as_ref).collect();
    // Newest first already; the sort keeps that.
    open.sort_by_key(|incident| incident.severity != Severity::Critical);
    let mut down = sources
        .iter()
        .filter(|source| !source.up && source.polls > 0);
    let shown: Vec<Value> = down
        .by_ref()
        .take(MAX_DOWN)
        .map(|source| {
            json!({
                "source": source.source,
                "name": source.name,
                "last_success_at": source.last_success,
                "last_error": source.last_error,
            })
        })
        .collect();
    json!({
        "at": snapshot.at,
        "served_at": unix_now(),
        "started_at": state.started_at,
        "version": env!("CARGO_PKG_VERSION"),
        "targets": targets::all(state, &snapshot),
        "open_incidents": open.len(),
        "incidents": open.into_iter().take(MAX_OPEN).map(brief).collect::<Vec<_>>(),
        "sources": sources.len(),
        "sources_down": shown.len() + down.count(),
        "down": shown,
    })
}

/// The record without what only its own view shows.
fn brief(incident: &Incident) -> Value {
    json!({
        "id": incident.id,
        "target": incident.target,
        "kind": incident.kind,
        "severity": incident.severity,
        "cause": incident.cause,
        "onset_at": incident.onset_at,
        "opened_at": incident.opened_at,
        "resolved_at": incident.resolved_at,
        "summary": incident.summary,
        "attribution": incident.attribution,
        "unexplained_share": incident.unexplained_share,
        "actions": incident.actions,
        "runbook": incident.runbook,
    })
}
