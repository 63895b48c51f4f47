//! What is turned away at our doors: counted and logged by one call, so that
//! the two never disagree.
//!
//! Bounded: listeners and reasons are fixed words. The first of a kind is
//! logged, then one line a minute with the count since, however many there are.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Origin;

/// Between two log lines on the same.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Who listens: the label `listener`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listener {
    /// `[server] listen`
    Server,
    /// `[otlp] grpc_listen`
    OtlpGrpc,
    /// `[otlp] http_listen`
    OtlpHttp,
}

impl Listener {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::OtlpGrpc => "otlp_grpc",
            Self::OtlpHttp => "otlp_http",
        }
    }
}

/// Why a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Every place is taken by somebody who is being answered.
    Full,
    /// So is every place that one address may have.
    Address,
    /// It had no request, and gave way to a newer one.
    Displaced,
    /// No request came in time.
    SlowHead,
    /// The handshake of TLS did not end in time.
    SlowHandshake,
    /// The handshake failed: no TLS, or no certificate that is trusted.
    Handshake,
}

impl Refusal {
    /// All, so that a metric can say 0 before the first.
    pub const ALL: [Self; 6] = [
        Self::Full,
        Self::Address,
        Self::Displaced,
        Self::SlowHead,
        Self::SlowHandshake,
        Self::Handshake,
    ];

    /// The label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
            Self::Displaced => "displaced",
            Self::SlowHead => "slow_head",
            Self::SlowHandshake => "slow_handshake",
            Self::Handshake => "handshake",
        }
    }
}

/// Why a request was told to come again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turned {
    /// Too soon after a wrong password or token from the same address.
    Slowed,
    /// Too many passwords to check at once.
    LoginBusy,
    /// Too many answers of the API in the making.
    ApiBusy,
}

impl Turned {
    /// All, so that a metric can say 0 before the first.
    pub const ALL: [Self; 3] = [Self::Slowed, Self::LoginBusy, Self::ApiBusy];

    /// The label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slowed => "slowed",
            Self::LoginBusy => "login_busy",
            Self::ApiBusy => "api_busy",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Refused(Refusal),
    Turned(Turned),
    WrongLogin,
    ReloadFailed,
}

/// The counters of all doors. Clones share them; the mutex is held for a few
/// instructions and never across an await.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    happened: BTreeMap<(Listener, Happening), Entry>,
    open: BTreeMap<Listener, u64>,
}

#[derive(Debug, Default)]
struct Entry {
    count: u64,
    logged: u64,
    logged_at: Option<Instant>,
}

impl Tally {
    /// Connections that were not served.
    pub fn refusals(&self, listener: Listener, refusal: Refusal) -> u64 {
        self.count(listener, Happening::Refused(refusal))
    }

    /// Requests that were told to come again later.
    pub fn turned_away(&self, listener: Listener, why: Turned) -> u64 {
        self.count(listener, Happening::Turned(why))
    }

    /// Requests with a wrong user, password or token.
    pub fn wrong_logins(&self, listener: Listener) -> u64 {
        self.count(listener, Happening::WrongLogin)
    }

    /// Changed files that could not be taken up.
    pub fn reload_failures(&self, listener: Listener) -> u64 {
        self.count(listener, Happening::ReloadFailed)
    }

    /// Connections that are open now.
    pub fn open(&self, listener: Listener) -> u64 {
        self.lock().open.get(&listener).copied().unwrap_or(0)
    }

    /// A request is told to come again later.
    pub fn turned(&self, listener: Listener, why: Turned) {
        if let Some(count) = self.note(listener, Happening::Turned(why), Instant::now()) {
            let (listener, reason) = (listener.as_str(), why.as_str());
            tracing::warn!(listener, reason, count, "requests turned away");
        }
    }

    pub(super) fn refused(
        &self,
        listener: Listener,
        refusal: Refusal,
        origin: Origin,
        detail: Option<&dyn Display>,
    ) {
        if let Some(count) = self.note(listener, Happening::Refused(refusal), Instant::now()) {
            let (listener, reason) = (listener.as_str(), refusal.as_str());
            let detail = detail.map(tracing::field::display);
            tracing::warn!(listener, reason, count, from = %origin, detail, "connections not served");
        }
    }

    pub(super) fn wrong_login(&self, listener: Listener, origin: Option<Origin>) {
        if let Some(count) = self.note(listener, Happening::WrongLogin, Instant::now()) {
            let listener = listener.as_str();
            let from = origin.map(tracing::field::display);
            tracing::warn!(listener, count, from, "wrong user, password or token");
        }
    }

    /// Logged by the caller, who does it once for each state of the files.
    pub(super) fn reload_failed(&self, listener: Listener) {
        self.note(listener, Happening::ReloadFailed, Instant::now());
    }

    pub(super) fn came(&self, listener: Listener) {
        *self.lock().open.entry(listener).or_default() += 1;
    }

    pub(super) fn went(&self, listener: Listener) {
        if let Some(open) = self.lock().open.get_mut(&listener) {
            *open = open.saturating_sub(1);
        }
    }

    fn count(&self, listener: Listener, what: Happening) -> u64 {
        let counts = self.lock();
        let entry = counts.happened.get(&(listener, what));
        entry.map_or(0, |entry| entry.count)
    }

    /// The count since the last line, when one is due.
    fn note(&self, listener: Listener, what: Happening, now: Instant) -> Option<u64> {
        let mut counts = self.lock();
        let entry = counts.happened.entry((listener, what)).or_default();
        entry.count += 1;
        if entry.logged_at.is_some_and(|at| now - at < LOG_EVERY) {
            return None;
        }
        let since = entry.count - entry.logged;
        entry.logged = entry.count;
        entry.logged_at = Some(now);
        Some(since)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // A panic elsewhere leaves counters, which are valid at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_one_a_minute_is_logged() {
        let tally = Tally::default();
        let what = Happening::Refused(Refusal::Full);
        let (now, later) = (Instant::now(), Instant::now() + LOG_EVERY);
        assert_eq!(tally.note(Listener::Server, what, now), Some(1));
        assert_eq!(tally.note(Listener::Server, what, now), None);
        assert_eq!(tally.note(Listener::OtlpHttp, what, now), Some(1));
        assert_eq!(tally.note(Listener::Server, what, later), Some(2));
        assert_eq!(tally.refusals(Listener::Server, Refusal::Full), 3);
        assert_eq!(tally.refusals(Listener::Server, Refusal::Address), 0);
    }
}
