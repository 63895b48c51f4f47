//! What becomes of the requests to each Alertmanager: counted and logged by one
//! call, so that the two never disagree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client::SendError;
use crate::sample::UnixSeconds;

/// Seconds between two log lines on the same failure of the same Alertmanager.
const LOG_EVERY: f64 = 60.0;

/// Why a request brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody answers there.
    Connect,
    Timeout,
    Tls,
    /// Status 4xx, or a redirect.
    Rejected,
    /// Status 5xx, or no answer of HTTP.
    Error,
}

impl Failure {
    /// All, so that a metric can say 0 before the first.
    pub const ALL: [Self; 5] = [
        Self::Connect,
        Self::Timeout,
        Self::Tls,
        Self::Rejected,
        Self::Error,
    ];

    /// The word of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Rejected => "rejected",
            Self::Error => "error",
        }
    }
}

/// One Alertmanager.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Requests that were accepted.
    pub accepted: u64,
    pub failures: BTreeMap<Failure, u64>,
    /// Alerts that are firing there by us.
    pub firing: usize,
    logged: Option<(Failure, UnixSeconds)>,
}

/// All of them, by name. Clones share it; the mutex is held for a few
/// instructions and never across an await.
#[derive(Debug, Clone, Default)]
pub struct PushHealth(Arc<Mutex<BTreeMap<String, State>>>);

impl PushHealth {
    /// Nothing has happened yet.
    pub fn new(names: impl Iterator<Item = String>) -> Self {
        let states = names.map(|name| (name, State::default())).collect();
        Self(Arc::new(Mutex::new(states)))
    }

    /// Others are configured from now on: what was counted of those that stay
    /// goes on.
    pub(super) fn follow(&self, names: impl Iterator<Item = String>) {
        let mut states = self.lock();
        let mut before = std::mem::take(&mut *states);
        states.extend(names.map(|name| {
            let state = before.remove(&name).unwrap_or_default();
            (name, state)
        }));
    }

    /// Each Alertmanager with what became of its requests.
    pub fn snapshot(&self) -> BTreeMap<String, State> {
        self.lock().clone()
    }

    pub(super) fn accepted(&self, name: &str) {
        if let Some(state) = self.lock().get_mut(name) {
            state.accepted += 1;
        }
    }

    /// All that was due has been accepted.
    pub(super) fn recovered(&self, name: &str, at: UnixSeconds) {
        if let Some(state) = self.lock().get_mut(name)
            && let Some((_, since)) = state.logged.take()
        {
            let seconds = at - since;
            tracing::info!(alertmanager = name, seconds, "alerts are accepted again");
        }
    }

    pub(super) fn failed(&self, name: &str, error: &SendError, at: UnixSeconds) {
        if let Some(state) = self.lock().get_mut(name) {
            *state.failures.entry(error.failure).or_insert(0) += 1;
            let silent = state.logged.is_some_and(|(last, logged)| {
                last == error.failure && (at - logged).abs() < LOG_EVERY
            });
            if !silent {
                state.logged = Some((error.failure, at));
                let reason = error.failure.as_str();
                tracing::warn!(alertmanager = name, reason, "{error}");
            }
        }
    }

    pub(super) fn firing(&self, name: &str, alerts: usize) {
        if let Some(state) = self.lock().get_mut(name) {
            state.firing = alerts;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
