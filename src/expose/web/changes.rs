//! How each incident came to say what it says: its changes, kept in memory.
//!
//! Invariant: bounded in all; the oldest change goes first, and an answer says
//! so when an incident's first one is gone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::WebState;
use super::error::ApiError;
use crate::engine::incident::{Effect, Event};

/// Changes kept of all incidents together. A record is a few kilobytes.
const KEPT: usize = 500;

/// The newest changes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<VecDeque<Arc<Effect>>>);

impl Changes {
    /// Nothing is done under the lock that can panic.
    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Effect>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, effect: &Arc<Effect>) {
        let mut kept = self.kept();
        kept.push_back(Arc::clone(effect));
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    fn of(&self, id: &str) -> Vec<Arc<Effect>> {
        let kept = self.kept();
        let of_it = kept.iter().filter(|effect| effect.incident.id == id);
        of_it.cloned().collect()
    }
}

/// What was said of one incident when, oldest first, each with the whole record.
/// `complete` is false when it was opened before this life of the program, or
/// when its first changes were forgotten.
pub(super) async fn changes(
    State(state): State<Arc<WebState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let changes = state.changes.of(&id);
    let snapshot = state.snapshot();
    let mut known = snapshot.open.iter().chain(&snapshot.resolved);
    if changes.is_empty() && !known.any(|incident| incident.id == id) {
        return Err(ApiError::not_found(
            "no open or recent incident has this id: /api/v1/incidents lists them",
        ));
    }
    let first = changes.first().map(|change| change.event);
    Ok(Json(json!({
        "id": id,
        "complete": first == Some(Event::Opened),
        "changes": changes,
    })))
}
