//! The application's own metrics page: how many requests of each route ended,
//! and how long they took, as most applications tell it.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::routes::Route;

/// Where it is.
pub(super) const PATH: &str = "/metrics";
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Upper bounds of the classes of durations, seconds: those of the client
/// libraries, and some for requests that take long.
const BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

type Labels = [(&'static str, String); 2];

#[derive(Debug)]
pub(super) struct MetricsPage {
    registry: Registry,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
}

impl MetricsPage {
    pub(super) fn new() -> Self {
        let make: fn() -> Histogram = || Histogram::new(BUCKETS);
        let durations = Family::new_with_constructor(make);
        let mut registry = Registry::default();
        registry.register(
            "http_request_duration_seconds",
            "Time from a request to its answer",
            durations.clone(),
        );
        Self {
            registry,
            durations,
        }
    }

    /// The durations of one route's requests.
    pub(super) fn of(&self, route: &Route) -> Histogram {
        let labels = [
            ("method", route.method.to_owned()),
            ("route", route.path.to_owned()),
        ];
        self.durations.get_or_create(&labels).clone()
    }

    /// The answer to a scrape.
    pub(super) fn answer(self: &Arc<Self>) -> Response {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        ([(CONTENT_TYPE, CONTENT)], text).into_response()
    }
}
