//! The HTTP interface: metrics, health, the JSON API.
//!
//! Invariants: every handler reads the last snapshot and counters of our own,
//! so no request waits for a database; nothing is accepted but GET and HEAD
//! without a body; every error is JSON with the fitting status.

mod api;
mod error;
mod incidents;
mod routes;
mod series;
mod serve;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use crate::engine::Snapshot;
use crate::expose::history::SeriesReader;
use crate::expose::metrics::{self, EngineTicks, Format, Page};
use crate::observe::health::Health;
use crate::observe::poll::unix_now;
use crate::sample::UnixSeconds;

use error::ApiError;
pub use serve::serve;

/// What the handlers read.
#[derive(Debug)]
pub struct WebState {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    health: Health,
    ticks: Arc<EngineTicks>,
    /// Names of the configured targets.
    targets: Vec<String>,
    series: Option<SeriesReader>,
    started_at: UnixSeconds,
}

impl WebState {
    /// The daemon starts now. `targets` are the names of the configured
    /// PostgreSQL servers.
    pub fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        health: Health,
        ticks: Arc<EngineTicks>,
        targets: Vec<String>,
    ) -> Self {
        Self {
            snapshot,
            health,
            ticks,
            targets,
            series: None,
            started_at: unix_now(),
        }
    }

    /// Series are read from there.
    #[must_use]
    pub fn with_series(mut self, reader: SeriesReader) -> Self {
        self.series = Some(reader);
        self
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }
}

/// Every path that snowpit answers.
pub fn router(state: WebState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics_page))
        .route("/-/healthy", get(|| async { "healthy\n" }))
        .route("/-/ready", get(status::ready))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/targets", get(status::targets))
        .route("/api/v1/incidents", get(incidents::list))
        .route("/api/v1/incidents/{id}", get(incidents::one))
        .route("/api/v1/locks", get(api::locks))
        .route("/api/v1/series", get(series::series))
        .route("/api/v1/advisory-locks", get(api::advisory_locks))
        .route("/api/v1/routes", get(routes::list))
        .fallback(|| async {
            ApiError::not_found("there is nothing at this path; / lists what is")
        })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are answered here",
            )
        })
        .layer(middleware::from_fn(harden))
        .with_state(Arc::new(state))
}

async fn metrics_page(
    State(state): State<Arc<WebState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // A header can be repeated; the lists then count as one.
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::accepted(&accepted.join(","));

    let mut page = Page::default();
    metrics::put_engine(&mut page, &state.ticks);
    metrics::put_sources(&mut page, &state.health.snapshot());
    metrics::put_losses(&mut page, &state.health.losses());
    let snapshot = state.snapshot();
    metrics::put_rejections(
        &mut page,
        state.health.rejections(),
        &snapshot.refused_points,
    );
    let disk = state.series.as_ref().and_then(SeriesReader::disk);
    metrics::put_history(&mut page, &snapshot.history, disk);
    metrics::engine_page(&mut page, &snapshot, &state.targets);
    let body = format.encode(page).map_err(|_| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be written",
        )
    })?;
    let headers = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, "accept"),
    ];
    Ok((headers, body).into_response())
}

async fn index() -> Html<&'static str> {
    Html(include_str!("index.html"))
}

/// Nothing here takes a body, and nothing here may be framed, cached or read
/// as another type than it says.
async fn harden(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length.as_bytes() != b"0");
    let mut response = if announced || headers.contains_key(header::TRANSFER_ENCODING) {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body").into_response()
    } else {
        next.run(request).await
    };
    const FIXED: [(HeaderName, &str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in FIXED {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
