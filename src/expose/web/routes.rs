//! `/api/v1/routes`: what the applications tell of their routes, and which
//! sessions carry their tags.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::WebState;
use super::error::ApiError;
use crate::engine::Snapshot;
use crate::engine::traffic::{RouteKey, RouteView, ViaView};
use crate::sample::TrafficVia;

/// What to show of them.
#[derive(Debug, Default, PartialEq)]
struct Filter {
    service: Option<String>,
    target: Option<String>,
    source: Option<TrafficVia>,
    limit: Option<usize>,
}

const SOURCES: [(&str, TrafficVia); 4] = [
    ("otlp_metrics", TrafficVia::OtlpMetrics),
    ("otlp_spans", TrafficVia::OtlpSpans),
    ("scrape", TrafficVia::Scrape),
    ("other", TrafficVia::Other),
];

impl Filter {
    /// Every parameter once at most, and none that is not known: a misspelt
    /// filter must not look like an answer.
    fn parse(query: Vec<(String, String)>, targets: &[String]) -> Result<Self, ApiError> {
        let mut filter = Self::default();
        for (name, value) in query {
            let given_twice = match name.as_str() {
                "service" => filter.service.replace(value).is_some(),
                "source" => filter.source.replace(parse_source(&value)?).is_some(),
                "limit" => filter.limit.replace(parse_limit(&value)?).is_some(),
                "target" if targets.contains(&value) => filter.target.replace(value).is_some(),
                "target" => return Err(invalid("target", &value, &targets.join(", "))),
                _ => {
                    return Err(ApiError::bad_request(
                        "there is no such parameter: use service, target, source or limit",
                    ));
                }
            };
            if given_twice {
                return Err(ApiError::bad_request(format!("{name} is given twice")));
            }
        }
        Ok(filter)
    }

    fn takes(&self, route: &RouteView) -> bool {
        let service = self.service.as_deref();
        service.is_none_or(|service| service == &*route.service)
            && self
                .target
                .as_ref()
                .is_none_or(|target| route.targets.contains(target))
            && self
                .source
                .is_none_or(|source| route.sources.iter().any(|via| via.via == source))
    }
}

fn parse_source(value: &str) -> Result<TrafficVia, ApiError> {
    let mut sources = SOURCES.into_iter();
    let found = sources.find(|(name, _)| *name == value);
    found
        .map(|(_, via)| via)
        .ok_or_else(|| invalid("source", value, &SOURCES.map(|(name, _)| name).join(", ")))
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

/// The routes with most requests at a time first, at most 500.
pub(super) async fn list(
    State(state): State<Arc<WebState>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let filter = Filter::parse(query, &state.targets())?;
    let snapshot = state.snapshot();
    if filter == Filter::default() {
        let answer = || listed(&filter, &snapshot);
        return Ok(state.kept.answer("routes", &snapshot, answer));
    }
    Ok(Json(listed(&filter, &snapshot)).into_response())
}

fn listed(filter: &Filter, snapshot: &Snapshot) -> Value {
    let view = &snapshot.traffic;
    let routes: Vec<Value> = view
        .routes
        .iter()
        .filter(|route| filter.takes(route))
        .take(filter.limit.unwrap_or(usize::MAX))
        .map(|route| shown(route, snapshot))
        .collect();
    json!({
        "at": snapshot.at,
        "routes": routes,
        "left_out": view.left_out,
    })
}

fn shown(route: &RouteView, snapshot: &Snapshot) -> Value {
    let key = RouteKey::of(&route.route);
    let targets: Vec<Value> = route
        .targets
        .iter()
        .map(|name| {
            let tagged = snapshot.targets.get(name).map(|target| {
                let same = target.routes.iter().filter(|tagged| {
                    tagged.service == *route.service && RouteKey::of(&tagged.route).meets(&key)
                });
                same.map(|tagged| tagged.sessions).sum::<f64>()
            });
            json!({ "target": name, "tagged_connections": tagged })
        })
        .collect();
    json!({
        "service": &*route.service,
        "route": &*route.route,
        "concurrency": route.concurrency(),
        "targets": targets,
        "trend": route.trend,
        "sources": route.sources.iter().map(source).collect::<Vec<_>>(),
    })
}

fn source(via: &ViaView) -> Value {
    let name = SOURCES.iter().find(|(_, known)| *known == via.via);
    json!({
        "source": name.map(|(name, _)| name),
        "until": via.until,
        "requests_per_second": via.rate,
        "hold_seconds": via.hold,
        "hold_p50_seconds": via.p50,
        "hold_p99_seconds": via.p99,
        "database_seconds": via.database,
        "in_flight": via.in_flight,
        "concurrency": via.concurrency,
        "usual": via.usual.map(|usual| {
            json!({
                "requests_per_second": usual.rate,
                "hold_seconds": usual.hold,
                "concurrency": usual.concurrency,
            })
        }),
    })
}
