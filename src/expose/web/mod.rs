//! The HTTP interface: metrics, health, the JSON API, the page.
//!
//! Invariants: every handler reads the last snapshot and counters of our own,
//! so no request waits for a database; nothing is accepted but GET and HEAD,
//! and one POST, without a body; every error is JSON with the fitting status.

mod api;
mod assets;
mod changes;
mod desk;
mod error;
mod events;
mod gate;
mod incidents;
mod kept;
mod now;
mod reload;
mod routes;
pub mod runbooks;
mod series;
mod serve;
mod status;
mod targets;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request as HttpRequest, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{broadcast, watch};

use crate::engine::Snapshot;
use crate::engine::incident::Effect;
use crate::expose::alertmanager::PushHealth;
use crate::expose::history::SeriesReader;
use crate::expose::metrics::{self, EngineTicks, Format, Page};
use crate::listen::Doors;
use crate::observe::health::Health;
use crate::observe::poll::unix_now;
use crate::sample::UnixSeconds;

use changes::Changes;
pub use desk::{Answer, Desk, open};
use error::ApiError;
use events::Hub;
use gate::Answers;
use kept::Kept;
pub use reload::{ReloadError, ReloadHealth, ReloadState, Reloaded, Reloader, Request};
pub use serve::serve;

/// What the handlers read.
#[derive(Debug)]
pub struct WebState {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    health: Health,
    ticks: Arc<EngineTicks>,
    /// Names of the configured targets.
    targets: watch::Receiver<Vec<String>>,
    series: Option<SeriesReader>,
    /// Taken by the task that follows them.
    effects: Option<broadcast::Receiver<Arc<Effect>>>,
    hub: Hub,
    changes: Changes,
    pushes: PushHealth,
    /// `None` where nobody reloads.
    reloader: Option<Reloader>,
    reloads: ReloadHealth,
    kept: Kept,
    answers: Answers,
    doors: Doors,
    /// Where it listens, when that is known.
    address: Option<SocketAddr>,
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
        let started_at = unix_now();
        Self {
            snapshot,
            health,
            ticks,
            targets: watch::channel(targets).1,
            series: None,
            effects: None,
            // Milliseconds: no two lives of the program begin in the same.
            hub: Hub::new((started_at * 1e3) as u64),
            changes: Changes::default(),
            kept: Kept::default(),
            answers: Answers::default(),
            doors: Doors::default(),
            address: None,
            started_at,
            pushes: PushHealth::default(),
            reloader: None,
            reloads: ReloadHealth::default(),
        }
    }

    /// Series are read from there.
    #[must_use]
    pub fn with_series(mut self, reader: SeriesReader) -> Self {
        self.series = Some(reader);
        self
    }

    /// Changes of incidents come from there.
    #[must_use]
    pub fn with_effects(mut self, effects: broadcast::Receiver<Arc<Effect>>) -> Self {
        self.effects = Some(effects);
        self
    }

    /// What becomes of the alerts that are pushed.
    #[must_use]
    pub fn with_pushes(mut self, pushes: PushHealth) -> Self {
        self.pushes = pushes;
        self
    }

    /// Who may come in; without, everybody.
    #[must_use]
    pub fn with_doors(mut self, doors: Doors) -> Self {
        self.doors = doors;
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn with_address(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Who reloads, what became of it, and the names of the targets since then.
    #[must_use]
    pub fn with_reloads(
        self,
        targets: watch::Receiver<Vec<String>>,
        reloader: Reloader,
        reloads: ReloadHealth,
    ) -> Self {
        Self {
            targets,
            reloader: Some(reloader),
            reloads,
            ..self
        }
    }

    fn targets(&self) -> Vec<String> {
        self.targets.borrow().clone()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }
}

/// Every path that snowpit answers.
fn router(state: Arc<WebState>) -> Router {
    let mut router = Router::new();
    for path in assets::paths() {
        router = router.route(path, get(assets::serve));
    }
    router
        .route("/metrics", get(metrics_page))
        .route("/-/healthy", get(|| async { "healthy\n" }))
        .route("/-/ready", get(status::ready))
        .route("/-/reload", post(reload::reload))
        .merge(api(&state))
        .route("/runbooks/{name}", get(runbooks::one))
        .fallback(|| async {
            ApiError::not_found("there is nothing at this path; / lists what is")
        })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are answered here, and POST at /-/reload",
            )
        })
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            gate::admit,
        ))
        .layer(middleware::from_fn(harden))
        .with_state(state)
}

/// What takes work to answer.
fn api(state: &Arc<WebState>) -> Router<Arc<WebState>> {
    Router::new()
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/now", get(now::answer))
        .route("/api/v1/targets", get(targets::list))
        .route("/api/v1/incidents", get(incidents::list))
        .route("/api/v1/incidents/{id}", get(incidents::one))
        .route("/api/v1/incidents/{id}/changes", get(changes::changes))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/locks", get(api::locks))
        .route("/api/v1/series", get(series::series))
        .route("/api/v1/advisory-locks", get(api::advisory_locks))
        .route("/api/v1/routes", get(routes::list))
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(state),
            gate::one_of_few,
        ))
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
    metrics::put_pushes(&mut page, &state.pushes);
    metrics::put_doors(&mut page, &state.doors);
    metrics::put_reloads(&mut page, &state.reloads.state());
    metrics::put_runtime(&mut page);
    metrics::put_losses(&mut page, &state.health.losses());
    let snapshot = state.snapshot();
    metrics::put_rejections(
        &mut page,
        state.health.rejections(),
        &snapshot.refused_points,
    );
    let disk = state.series.as_ref().and_then(SeriesReader::disk);
    metrics::put_history(&mut page, &snapshot.history, disk);
    metrics::engine_page(&mut page, &snapshot, &state.targets());
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

/// Nothing here takes a body, and nothing here may be framed or read as another
/// type than it says. What does not say otherwise is not cached, and may do
/// nothing in a browser.
async fn harden(request: HttpRequest, next: Next) -> Response {
    let headers = request.headers();
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length.as_bytes() != b"0");
    let mut response = if announced || headers.contains_key(header::TRANSFER_ENCODING) {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body").into_response()
    } else {
        next.run(request).await
    };
    const FIXED: [(HeaderName, &str); 6] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in FIXED {
        let headers = response.headers_mut();
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}
