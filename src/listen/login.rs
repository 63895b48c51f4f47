//! Who is let in: HTTP Basic and Bearer authentication.
//!
//! A password costs tens of milliseconds of a core to check, so at most two are
//! checked at a time, one for each origin, off the threads that serve. Neither a
//! token nor what was right lately, from wherever it came, is checked like that.
//! Invariant: a wrong guess never keeps out a token, or a user who was right
//! lately, at another address. A user's first login waits for the checks before
//! it, and is told to come again when they take too long.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use ring::hmac;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Origin;
use super::brakes::{Brakes, Leave};
use super::credentials::{Credentials, Given};
use super::recent::Mark;

/// Passwords that are checked at one time.
const CHECKS: usize = 2;

/// Queues of those that wait for a check. All of an origin are in one, so that
/// many from there wait for each other and not before others.
const QUEUES: usize = 64;

/// How long a request waits for its check.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("a user and password, or a token, are needed here")]
    Missing(Scheme),
    #[error("the user, password or token is wrong")]
    Wrong(Scheme),
    #[error("too soon after a wrong password or token from this address; try again in {} s", seconds(*.0))]
    Slowed(Duration),
    #[error("too many passwords to check at once; try again in 1 s")]
    Busy,
}

/// How one may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    pub basic: bool,
    pub bearer: bool,
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl Denied {
    /// Of HTTP.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Missing(_) | Self::Wrong(_) => StatusCode::UNAUTHORIZED,
            Self::Slowed(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What the answer has to say beside it.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        const BASIC: HeaderValue =
            HeaderValue::from_static("Basic realm=\"snowpit\", charset=\"UTF-8\"");
        const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"snowpit\"");
        match self {
            Self::Missing(scheme) | Self::Wrong(scheme) => {
                let both = [(scheme.basic, BASIC), (scheme.bearer, BEARER)];
                let used = both.into_iter().filter(|(used, _)| *used);
                used.map(|(_, value)| (WWW_AUTHENTICATE, value)).collect()
            }
            Self::Slowed(wait) => vec![(RETRY_AFTER, seconds(*wait).into())],
            Self::Busy => vec![(RETRY_AFTER, 1.into())],
        }
    }
}

/// How credentials are known again.
#[derive(Debug, Clone, Copy)]
struct Marks {
    /// From the same origin.
    here: Mark,
    /// From any. It is believed only where a guess may be made, so that it does
    /// not help who guesses: one try is one try.
    anywhere: Mark,
}

/// What is remembered of those who came.
#[derive(Debug)]
pub(super) struct Login {
    /// A new one each time the program starts.
    key: hmac::Key,
    checks: Arc<Semaphore>,
    queues: [Arc<tokio::sync::Mutex<()>>; QUEUES],
    hasher: RandomState,
    brakes: Arc<Mutex<Brakes>>,
}

impl Default for Login {
    fn default() -> Self {
        let secret: [u8; 32] = rand::random();
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            checks: Arc::new(Semaphore::new(CHECKS)),
            queues: std::array::from_fn(|_| Arc::default()),
            hasher: RandomState::new(),
            brakes: Arc::default(),
        }
    }
}

impl Login {
    /// Whether a request with these headers is let in. Without an address it
    /// shares that of all such requests.
    pub(super) async fn admit(
        &self,
        credentials: &Arc<Credentials>,
        headers: &HeaderMap,
        origin: Option<Origin>,
    ) -> Result<(), Denied> {
        if credentials.are_none() {
            return Ok(());
        }
        let scheme = Scheme {
            basic: credentials.has_users(),
            bearer: credentials.has_token(),
        };
        let origin = origin.unwrap_or(Origin::of(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let Ok(given) = Given::read(headers) else {
            self.may_try(origin)?;
            self.brakes(|brakes| brakes.wrong(origin, Instant::now()));
            return Err(Denied::Wrong(scheme));
        };
        let given = given.ok_or(Denied::Missing(scheme))?;
        let marks = self.marks(origin, &given);
        if self.is_known(credentials, origin, marks, Instant::now())? {
            return Ok(());
        }
        if let Given::Token(_) = given {
            return self.compare(credentials, &given, marks, origin, scheme);
        }
        let check = self.check(credentials, given, marks, origin, scheme);
        tokio::time::timeout(PATIENCE, check)
            .await
            .unwrap_or(Err(Denied::Busy))
    }

    /// Whether it was right lately; else it may be tried.
    fn is_known(
        &self,
        credentials: &Credentials,
        origin: Origin,
        marks: Marks,
        now: Instant,
    ) -> Result<bool, Denied> {
        let recent = &credentials.recent;
        let leave = self.brakes(|brakes| brakes.leave(origin, now));
        let known = match leave {
            Leave::Try => recent.has(&marks.anywhere, now),
            Leave::Known(_) if recent.has(&marks.here, now) => true,
            Leave::Known(wait) | Leave::Wait(wait) => {
                self.brakes(|brakes| brakes.early(origin));
                return Err(Denied::Slowed(wait));
            }
        };
        if known {
            recent.add(&[marks.here, marks.anywhere], now);
        }
        Ok(known)
    }

    fn may_try(&self, origin: Origin) -> Result<(), Denied> {
        self.brakes(|brakes| match brakes.leave(origin, Instant::now()) {
            Leave::Try => Ok(()),
            Leave::Known(wait) | Leave::Wait(wait) => {
                brakes.early(origin);
                Err(Denied::Slowed(wait))
            }
        })
    }

    /// A token costs nothing to look at, so it waits for nobody. Under one lock:
    /// of many that come at one time, one is looked at.
    fn compare(
        &self,
        credentials: &Credentials,
        given: &Given,
        marks: Marks,
        origin: Origin,
        scheme: Scheme,
    ) -> Result<(), Denied> {
        let now = Instant::now();
        self.brakes(|brakes| match brakes.leave(origin, now) {
            Leave::Try if credentials.are(given) => {
                let marks = [marks.here, marks.anywhere];
                credentials.recent.add(&marks, now);
                Ok(())
            }
            Leave::Try => {
                brakes.wrong(origin, now);
                Err(Denied::Wrong(scheme))
            }
            Leave::Known(wait) | Leave::Wait(wait) => {
                brakes.early(origin);
                Err(Denied::Slowed(wait))
            }
        })
    }

    async fn check(
        &self,
        credentials: &Arc<Credentials>,
        given: Given,
        marks: Marks,
        origin: Origin,
        scheme: Scheme,
    ) -> Result<(), Denied> {
        let queue = self.hasher.hash_one(origin) as usize % QUEUES;
        let turn = Arc::clone(&self.queues[queue]).lock_owned().await;
        // Who was before us may have been wrong, or have brought the same.
        if self.is_known(credentials, origin, marks, Instant::now())? {
            return Ok(());
        }
        let permit = Arc::clone(&self.checks).acquire_owned().await;
        let permit = permit.map_err(|_| Denied::Busy)?;
        let (known, brakes) = (Arc::clone(credentials), Arc::clone(&self.brakes));
        // All is done in there: who asked may not wait for the answer, and a
        // guess that nobody waits for is one all the same.
        let checked = tokio::task::spawn_blocking(move || {
            let right = known.are(&given);
            if right {
                let marks = [marks.here, marks.anywhere];
                known.recent.add(&marks, Instant::now());
            } else {
                lock(&brakes).wrong(origin, Instant::now());
            }
            drop((turn, permit));
            right
        });
        match checked.await {
            Ok(true) => Ok(()),
            _ => Err(Denied::Wrong(scheme)),
        }
    }

    fn marks(&self, origin: Origin, given: &Given) -> Marks {
        Marks {
            here: self.mark(Some(origin), given),
            anywhere: self.mark(None, given),
        }
    }

    fn mark(&self, origin: Option<Origin>, given: &Given) -> Mark {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&[u8::from(origin.is_some())]);
        context.update(&origin.map(|origin| origin.bytes()).unwrap_or_default());
        for part in given.parts() {
            context.update(part);
        }
        let mut mark = Mark::default();
        mark.copy_from_slice(context.sign().as_ref());
        mark
    }

    fn brakes<T>(&self, of: impl FnOnce(&mut Brakes) -> T) -> T {
        of(&mut lock(&self.brakes))
    }
}

fn lock(brakes: &Mutex<Brakes>) -> MutexGuard<'_, Brakes> {
    // Nothing is done under the lock that can panic.
    brakes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
