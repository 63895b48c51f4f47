//! Who may ask what: the login in front of every page, and a bound on answers
//! that take work.
//!
//! Invariant: however many ask for what is costly, `/metrics` and the health
//! pages answer, because they are not among what waits.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::WebState;
use super::error::ApiError;
use crate::listen::{Listener, Turned};

/// What is told to everybody unless `open_health` is off: whether snowpit is
/// alive, and nothing of what it watches.
const HEALTH: [&str; 2] = ["/-/healthy", "/-/ready"];

/// Answers of the API in the making at one time. Each takes milliseconds of a
/// core at most, but for long series, so sixteen keep any machine busy.
const ANSWERS: usize = 16;

/// How long a request waits to be one of them; a page gives up later.
const PATIENCE: Duration = Duration::from_secs(2);

/// The places for answers that take work.
#[derive(Debug)]
pub(super) struct Answers(Semaphore);

impl Default for Answers {
    fn default() -> Self {
        Self(Semaphore::new(ANSWERS))
    }
}

/// Lets in who has the right user, password or token.
pub(super) async fn admit(
    State(state): State<Arc<WebState>>,
    request: Request,
    next: Next,
) -> Response {
    let door = state.doors.door(Listener::Server);
    if door.health_is_open() && HEALTH.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match door.admit(request.headers(), request.extensions()).await {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            let error = ApiError::new(denied.status(), denied.to_string());
            let mut response = error.into_response();
            for (name, value) in denied.headers() {
                response.headers_mut().append(name, value);
            }
            response
        }
    }
}

/// Makes at most so many costly answers at a time; a stream of events counts
/// until it begins.
pub(super) async fn one_of_few(
    State(state): State<Arc<WebState>>,
    request: Request,
    next: Next,
) -> Response {
    match timeout(PATIENCE, state.answers.0.acquire()).await {
        Ok(Ok(_place)) => next.run(request).await,
        _ => {
            let door = state.doors.door(Listener::Server);
            door.tally().turned(Listener::Server, Turned::ApiBusy);
            let message = "too many answers in the making; try again in 1 s";
            let mut response =
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response();
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::body::Body;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::watch;

    use super::*;
    use crate::engine::Snapshot;
    use crate::expose::metrics::EngineTicks;
    use crate::expose::web::router;
    use crate::observe::health::Health;

    #[tokio::test]
    async fn metrics_and_health_answer_while_every_place_of_the_api_is_taken() {
        let (_publish, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let ticks = Arc::new(EngineTicks::default());
        let state = Arc::new(WebState::new(snapshot, Health::new(), ticks, Vec::new()));
        let router = TowerToHyperService::new(router(Arc::clone(&state)));
        let ask = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            router.call(request).await.unwrap()
        };
        let taken = state.answers.0.acquire_many(ANSWERS as u32).await.unwrap();
        let mut statuses = BTreeMap::new();
        for path in ["/metrics", "/-/healthy", "/-/ready", "/", "/api/v1/status"] {
            statuses.insert(path, ask(path).await);
        }
        let busy = statuses.remove("/api/v1/status").unwrap();
        assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(busy.headers()[RETRY_AFTER], "1");
        for (path, answer) in statuses {
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
        }
        let tally = state.doors.door(Listener::Server).tally().clone();
        assert_eq!(tally.turned_away(Listener::Server, Turned::ApiBusy), 1);
        drop(taken);
        assert_eq!(ask("/api/v1/status").await.status(), StatusCode::OK);
    }
}
