//! `/api/v1/incidents`: open and recently resolved incidents.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use serde_json::{Value, json};

use super::WebState;
use super::error::ApiError;
use crate::engine::incident::{Incident, Kind};

/// What to show of them.
#[derive(Debug, Default)]
struct Filter {
    open: Option<bool>,
    kind: Option<Kind>,
    target: Option<String>,
    limit: Option<usize>,
}

impl Filter {
    /// Every parameter once at most, and none that is not known: a misspelt
    /// filter must not look like an answer.
    fn parse(query: Vec<(String, String)>, targets: &[String]) -> Result<Self, ApiError> {
        let mut filter = Self::default();
        for (name, value) in query {
            let given_twice = match name.as_str() {
                "open" => filter.open.replace(parse_open(&value)?).is_some(),
                "kind" => filter.kind.replace(parse_kind(&value)?).is_some(),
                "limit" => filter.limit.replace(parse_limit(&value)?).is_some(),
                "target" if targets.contains(&value) => filter.target.replace(value).is_some(),
                "target" => {
                    let known = targets.join(", ");
                    return Err(invalid("target", &value, &known));
                }
                _ => {
                    return Err(ApiError::bad_request(format!(
                        "there is no parameter {name:?}: use open, kind, target or limit"
                    )));
                }
            };
            if given_twice {
                return Err(ApiError::bad_request(format!("{name} is given twice")));
            }
        }
        Ok(filter)
    }

    fn takes(&self, incident: &Incident) -> bool {
        self.open
            .is_none_or(|open| open == incident.resolved_at.is_none())
            && self.kind.is_none_or(|kind| kind == incident.kind)
            && self
                .target
                .as_ref()
                .is_none_or(|target| *target == incident.target)
    }
}

fn parse_open(value: &str) -> Result<bool, ApiError> {
    value
        .parse()
        .map_err(|_| invalid("open", value, "true or false"))
}

fn parse_kind(value: &str) -> Result<Kind, ApiError> {
    let mut kinds = Kind::ALL.into_iter();
    kinds.find(|kind| kind.as_str() == value).ok_or_else(|| {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        invalid("kind", value, &known)
    })
}

fn parse_limit(value: &str) -> Result<usize, ApiError> {
    match value.parse() {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(invalid("limit", value, "a number from 1 on")),
    }
}

fn invalid(name: &str, value: &str, known: &str) -> ApiError {
    // What was sent comes back cut: an error is no place for a kilobyte.
    let value: String = value.chars().take(64).collect();
    ApiError::bad_request(format!("{name} cannot be {value:?}: use {known}"))
}

/// Open ones first, then resolved ones, both newest first.
pub(super) async fn list(
    State(state): State<Arc<WebState>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let filter = Filter::parse(query, &state.targets())?;
    let snapshot = state.snapshot();
    let incidents: Vec<&Incident> = snapshot
        .open
        .iter()
        .rev()
        .chain(&snapshot.resolved)
        .map(Arc::as_ref)
        .filter(|incident| filter.takes(incident))
        .take(filter.limit.unwrap_or(usize::MAX))
        .collect();
    Ok(Json(json!({ "at": snapshot.at, "incidents": incidents })))
}

/// One incident's record.
pub(super) async fn one(
    State(state): State<Arc<WebState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Incident>, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let snapshot = state.snapshot();
    let mut incidents = snapshot.open.iter().chain(&snapshot.resolved);
    match incidents.find(|incident| incident.id == id) {
        Some(incident) => Ok(Json(Incident::clone(incident))),
        None => Err(ApiError::not_found(Cow::Borrowed(
            "no open or recent incident has this id: /api/v1/incidents lists them",
        ))),
    }
}
