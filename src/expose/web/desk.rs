//! The answers of the HTTP interface without a socket, for a reader in the same
//! process.
//!
//! Invariant: what is answered here is what a listener would answer, by the same
//! handlers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;

use super::{WebState, events, router};
use crate::listen::Doors;

/// Where somebody in this process asks.
#[derive(Debug, Clone)]
pub struct Desk {
    handlers: TowerToHyperService<Router>,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Opens the interface without a listener, until the token is cancelled. Who is
/// in this process need not log in.
pub fn open(state: WebState, stop: &CancellationToken) -> Desk {
    let router = followed(state.with_doors(Doors::default()), stop);
    Desk {
        handlers: TowerToHyperService::new(router),
    }
}

/// The handlers, and the task that tells them of changes.
pub(super) fn followed(mut state: WebState, stop: &CancellationToken) -> Router {
    let effects = state.effects.take();
    let state = Arc::new(state);
    // It ends the streams of events at shutdown, which no one else would.
    tokio::spawn(events::follow(Arc::clone(&state), effects, stop.clone()));
    router(state)
}

impl Desk {
    /// The answer to a GET of `path`, a query included; `None` when the path is
    /// none, or when the answer is longer than `limit` bytes.
    pub async fn get(&self, path: &str, limit: usize) -> Option<Answer> {
        let request = Request::get(path).body(Body::empty()).ok()?;
        let answered: Result<Response<Body>, Infallible> = self.handlers.call(request).await;
        let Ok(response) = answered;
        let status = response.status();
        let body = to_bytes(response.into_body(), limit).await.ok()?;
        Some(Answer { status, body })
    }
}
