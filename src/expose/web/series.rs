//! `/api/v1/series`: values of the past, from memory and disk alike.
//!
//! Invariants: an answer is bounded in series and values, and says what to ask
//! for instead when it would be larger; a parameter that is not known is an
//! error, so that a misspelt one does not look like an answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::WebState;
use super::error::ApiError;
use crate::engine::series::aggregate::aggregate;
use crate::engine::series::{Aggregate, Millis, Point, Selector, Steps, millis, seconds};
use crate::expose::history::ReadError;
use crate::sample::UnixSeconds;

/// Series in one answer: all groups of a target.
const MAX_SERIES: usize = 500;

/// Values that one answer is made from: a day of one series at one a second, or
/// an hour of twenty, with room.
const MAX_READ: usize = 2_000_000;

/// Values in one answer, some 4 MB of JSON.
const MAX_TOLD: usize = 200_000;

/// The window when none is given: the last hour.
const WINDOW: f64 = 3600.0;

/// The longest step, seconds: no history is longer than a year.
const LONGEST_STEP: f64 = 366.0 * 86400.0;

const KNOWN: &str = "use match, start, end, step and aggregate";

/// What is asked for.
#[derive(Debug)]
struct Request {
    selector: Selector,
    start: Millis,
    end: Millis,
    /// Absent: every value.
    step: Option<Millis>,
    aggregate: Aggregate,
}

impl Request {
    fn parse(query: Vec<(String, String)>, now: UnixSeconds) -> Result<Self, ApiError> {
        let mut fields: Map<String, Value> = Map::new();
        for (name, value) in query {
            if !["match", "start", "end", "step", "aggregate"].contains(&name.as_str()) {
                let message = format!("there is no parameter {name:?}: {KNOWN}");
                return Err(ApiError::bad_request(message));
            }
            if fields.insert(name.clone(), value.into()).is_some() {
                return Err(ApiError::bad_request(format!("{name} is given twice")));
            }
        }
        let field = |name: &str| fields.get(name).and_then(Value::as_str);
        let selector = field("match").ok_or_else(|| {
            let example = "snowpit_connections{target=\"main\"}";
            ApiError::bad_request(format!("match is missing, such as match={example}"))
        })?;
        let selector = Selector::parse(selector)
            .map_err(|error| ApiError::bad_request(format!("match: {error}")))?;
        let end = time("end", field("end"), now)?;
        let start = time("start", field("start"), seconds(end) - WINDOW)?;
        if start > end {
            return Err(ApiError::bad_request("start is after end"));
        }
        let step = field("step").map(step).transpose()?;
        let aggregate = field("aggregate").map(named).transpose()?;
        if aggregate.is_some() && step.is_none() {
            return Err(ApiError::bad_request(
                "aggregate needs a step, such as step=60",
            ));
        }
        Ok(Self {
            selector,
            start,
            end,
            step,
            aggregate: aggregate.unwrap_or(Aggregate::Last),
        })
    }

    fn steps(&self) -> Option<Steps> {
        self.step.map(|step| Steps {
            start: self.start,
            end: self.end,
            step,
        })
    }
}

fn time(name: &str, text: Option<&str>, default: UnixSeconds) -> Result<Millis, ApiError> {
    let t = match text {
        None => Some(default.max(0.0)),
        Some(text) => text.parse().ok(),
    };
    t.and_then(millis).ok_or_else(|| {
        ApiError::bad_request(format!(
            "{name} must be unix time in seconds, such as 1604902320 or 1604902320.5"
        ))
    })
}

/// A number of seconds, or a duration such as `30s`.
fn step(text: &str) -> Result<Millis, ApiError> {
    let number = text.parse::<f64>().ok();
    let duration = || {
        humantime::parse_duration(text)
            .ok()
            .map(|d| d.as_secs_f64())
    };
    number
        .or_else(duration)
        .filter(|step| (0.001..=LONGEST_STEP).contains(step))
        .and_then(millis)
        .ok_or_else(|| {
            ApiError::bad_request(
                "step must be a positive number of seconds, or a duration such as 30s or 5m",
            )
        })
}

fn named(text: &str) -> Result<Aggregate, ApiError> {
    let mut all = Aggregate::ALL.into_iter();
    all.find(|aggregate| aggregate.as_str() == text)
        .ok_or_else(|| {
            let known = Aggregate::ALL.map(Aggregate::as_str).join(", ");
            ApiError::bad_request(format!("aggregate must be one of {known}"))
        })
}

/// Series by selector, in a window, at every look or one value a step.
pub(super) async fn series(
    State(state): State<Arc<WebState>>,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|_| ApiError::bad_request("the query cannot be read"))?;
    let request = Request::parse(query, state.snapshot().at)?;
    let Some(reader) = &state.series else {
        return Err(ApiError::not_found("this snowpit keeps no series"));
    };
    let from = match request.steps() {
        None => request.start,
        Some(steps) => {
            if steps.count() > MAX_TOLD as u64 {
                return Err(too_many());
            }
            // One step more, so that a rate has something to begin from.
            steps.first_seen().saturating_sub(steps.step).max(0)
        }
    };
    let read = reader.read(
        request.selector.clone(),
        from,
        request.end,
        MAX_SERIES,
        MAX_READ,
    );
    let found = read.await.map_err(|error| match error {
        ReadError::TooMuch(error) => ApiError::bad_request(error.to_string()),
        ReadError::Busy => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    let mut told = 0;
    let mut all = Vec::new();
    for (key, points) in found {
        let points = match request.steps() {
            None => points,
            Some(steps) => aggregate(&points, steps, request.aggregate),
        };
        told += points.len();
        if told > MAX_TOLD {
            return Err(too_many());
        }
        if !points.is_empty() {
            all.push(json!({
                "name": key.name(),
                "labels": key.labels().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                "values": points.into_iter().map(pair).collect::<Vec<_>>(),
            }));
        }
    }
    Ok(Json(json!({
        "start": seconds(request.start),
        "end": seconds(request.end),
        "step": request.step.map(seconds),
        "aggregate": request.step.map(|_| request.aggregate.as_str()),
        "series": all,
    })))
}

fn pair((t, value): Point) -> Value {
    json!([seconds(t), value])
}

fn too_many() -> ApiError {
    ApiError::bad_request(format!(
        "more than {MAX_TOLD} values; ask for a shorter window, a longer step, or name more labels"
    ))
}
