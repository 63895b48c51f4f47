//! `/api/v1/locks` and `/api/v1/advisory-locks`: the two lists of
//! `snowpit locks --json`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::WebState;
use crate::engine::Snapshot;
use crate::engine::snapshot::TargetView;

/// Who blocks whom.
pub(super) async fn locks(State(state): State<Arc<WebState>>) -> Response {
    let snapshot = state.snapshot();
    state.kept.answer("locks", &snapshot, || {
        by_target(&snapshot, |name, target| {
            json!({
                "name": name,
                "at": target.at,
                "fresh": target.fresh,
                "root_blockers": target.locks.root_blockers,
            })
        })
    })
}

/// Granted advisory locks with their verdicts.
pub(super) async fn advisory_locks(State(state): State<Arc<WebState>>) -> Response {
    let snapshot = state.snapshot();
    state.kept.answer("advisory-locks", &snapshot, || {
        by_target(&snapshot, |name, target| {
            json!({
                "name": name,
                "at": target.at,
                "fresh": target.fresh,
                "advisory_locks": target.locks.advisory_locks,
            })
        })
    })
}

fn by_target(snapshot: &Snapshot, view: impl Fn(&str, &TargetView) -> Value) -> Value {
    let targets: Vec<Value> = snapshot
        .targets
        .iter()
        .map(|(name, target)| view(name, target))
        .collect();
    json!({ "at": snapshot.at, "targets": targets })
}
