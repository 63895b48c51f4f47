//! `POST /-/reload`: asks the daemon to read its configuration again, and says
//! what came of it.
//!
//! Invariants: one reload runs at a time and one may wait, which reads what the
//! file says then; what a browser sends for another site is refused; the answer
//! is the report that is logged, which never holds a secret.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::WebState;
use super::error::ApiError;
use crate::listen::Listener;
use crate::observe::poll::unix_now;
use crate::sample::UnixSeconds;

/// Reloads that wait for one that runs.
const WAITING: usize = 1;

/// What became of a reload is told to who asked for it.
pub type Request = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Sources by kind and name.
    pub started: Vec<String>,
    pub restarted: Vec<String>,
    pub stopped: Vec<String>,
    /// Sources that kept their session.
    pub kept: usize,
    /// What the file says and cannot change while the daemon runs, a sentence
    /// each.
    pub needs_restart: Vec<String>,
    /// What is allowed and still unwise, a sentence each.
    pub warnings: Vec<String>,
}

/// Why there was none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    #[error("the configuration was not reloaded, and the one before goes on:\n{0}")]
    Refused(String),
    #[error("a reload runs and another one waits, which will read the file as it is then")]
    Busy,
    #[error("snowpit is stopping")]
    Stopping,
}

/// The way to the one who reloads. Clones share it.
#[derive(Debug, Clone)]
pub struct Reloader(mpsc::Sender<Request>);

impl Reloader {
    /// The way, and its other end.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, inbox) = mpsc::channel(WAITING);
        (Self(requests), inbox)
    }

    /// Asks for a reload, and waits until it is done.
    ///
    /// # Errors
    /// The file is no good, with the whole report; or there are enough reloads.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReloadError::Busy,
            mpsc::error::TrySendError::Closed(_) => ReloadError::Stopping,
        })?;
        answered.await.unwrap_or(Err(ReloadError::Stopping))
    }
}

/// What became of the reloads so far. Clones share it; the mutex is held for a
/// few instructions and never across an await.
#[derive(Debug, Clone)]
pub struct ReloadHealth(Arc<Mutex<ReloadState>>);

/// The same at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ReloadState {
    /// The newest one brought the file into force; so did the start.
    pub successful: bool,
    /// When the configuration in force was read, unix time.
    pub success_at: UnixSeconds,
    pub succeeded: u64,
    pub failed: u64,
}

impl Default for ReloadHealth {
    /// As after a start.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(ReloadState {
            successful: true,
            success_at: unix_now(),
            succeeded: 0,
            failed: 0,
        })))
    }
}

impl ReloadHealth {
    pub fn state(&self) -> ReloadState {
        self.lock().clone()
    }

    /// A reload ended. Logged and counted.
    pub fn ended(&self, outcome: &Result<Reloaded, ReloadError>) {
        // Says nothing about the file.
        if matches!(outcome, Err(ReloadError::Stopping | ReloadError::Busy)) {
            return;
        }
        {
            let mut state = self.lock();
            state.successful = outcome.is_ok();
            match outcome {
                Ok(_) => {
                    state.succeeded += 1;
                    state.success_at = unix_now();
                }
                Err(_) => state.failed += 1,
            }
        }
        match outcome {
            Ok(done) => {
                for sentence in done.warnings.iter().chain(&done.needs_restart) {
                    tracing::warn!("{sentence}");
                }
                tracing::info!(
                    started = done.started.join(", "),
                    restarted = done.restarted.join(", "),
                    stopped = done.stopped.join(", "),
                    kept = done.kept,
                    "configuration reloaded"
                );
            }
            Err(error) => tracing::error!("{error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReloadState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handler.
pub(super) async fn reload(
    State(state): State<Arc<WebState>>,
    headers: HeaderMap,
) -> Result<Json<Reloaded>, ApiError> {
    if !is_own(&headers) {
        let message = "a page of another site may not ask for this";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    let local = state
        .address
        .is_some_and(|address| address.ip().is_loopback());
    if local && !state.doors.door(Listener::Server).asks() && !names_an_address(&headers) {
        let message = "without a login this is answered on this machine only: ask at an address, \
                       such as 127.0.0.1, or at localhost";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    let Some(reloader) = &state.reloader else {
        let message = "this snowpit has no configuration file to read again";
        return Err(ApiError::not_found(message));
    };
    reloader.reload().await.map(Json).map_err(|error| {
        let status = match error {
            ReloadError::Refused(_) => StatusCode::BAD_REQUEST,
            ReloadError::Busy => StatusCode::CONFLICT,
            ReloadError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        ApiError::new(status, error.to_string())
    })
}

/// A browser says where a request comes from, and any page can make it send a
/// POST. Programs say nothing, and are let in as for everything else.
fn is_own(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let host = text(header::HOST.as_str());
    let origin = text(header::ORIGIN.as_str()).is_none_or(|origin| {
        let place = origin.split_once("://").map(|(_, place)| place);
        place.is_some() && place == host
    });
    site && origin
}

/// A page of another site can have its own name lead to this machine, and is then
/// of one site with us; what it cannot have is an address for its name. Browsers
/// always send `Host`.
fn names_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let host = host.to_str().unwrap_or("?");
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn pages_of_other_sites_are_told_from_programs_and_the_own_page() {
        let host = ("host", "snowpit:9899");
        for (own, more) in [
            (true, vec![]),
            (true, vec![("origin", "http://snowpit:9899")]),
            (true, vec![("sec-fetch-site", "same-origin")]),
            (false, vec![("origin", "http://evil.example")]),
            (false, vec![("origin", "http://snowpit:9899.evil.example")]),
            (false, vec![("origin", "null")]),
            (false, vec![("sec-fetch-site", "cross-site")]),
            (false, vec![("sec-fetch-site", "same-site")]),
        ] {
            let all: Vec<_> = [host].into_iter().chain(more).collect();
            assert_eq!(is_own(&headers(&all)), own, "{all:?}");
        }
    }

    #[test]
    fn a_name_that_leads_here_is_told_from_an_address() {
        for host in [
            "127.0.0.1:9899",
            "127.0.0.1",
            "[::1]:9899",
            "[::1]",
            "localhost:9899",
            "LocalHost",
        ] {
            assert!(names_an_address(&headers(&[("host", host)])), "{host}");
        }
        assert!(names_an_address(&headers(&[])));
        for host in [
            "evil.example:9899",
            "evil.example",
            "127.0.0.1.evil.example:9899",
            "localhost.evil.example",
            "",
        ] {
            assert!(!names_an_address(&headers(&[("host", host)])), "{host}");
        }
    }

    #[tokio::test]
    async fn one_runs_and_one_waits() {
        let (reloader, mut inbox) = Reloader::new();
        let ask = || {
            let reloader = reloader.clone();
            tokio::spawn(async move { reloader.reload().await })
        };
        let first = ask();
        let running = inbox.recv().await.unwrap();
        let second = ask();
        while inbox.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask().await.unwrap(), Err(ReloadError::Busy));
        running.send(Ok(Reloaded::default())).unwrap();
        assert_eq!(first.await.unwrap(), Ok(Reloaded::default()));
        drop(inbox);
        assert_eq!(second.await.unwrap(), Err(ReloadError::Stopping));
        assert_eq!(ask().await.unwrap(), Err(ReloadError::Stopping));
    }
}
