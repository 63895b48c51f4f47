//! Answers that many pages ask for at the same time: made once for all of them.
//!
//! Invariants: a small answer is always of the newest snapshot; a large one is
//! at most [`LARGE_FOR`] old.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use crate::engine::Snapshot;

/// From this many bytes on an answer is large: it takes milliseconds to make.
const LARGE: usize = 64 * 1024;

/// How long a large answer is given to whoever asks. Pages ask every 2 s.
const LARGE_FOR: Duration = Duration::from_secs(1);

/// The newest answers by their paths.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<BTreeMap<&'static str, Answer>>);

#[derive(Debug)]
struct Answer {
    /// Only looked at for being the same.
    of: Weak<Snapshot>,
    made_at: Instant,
    body: Bytes,
}

impl Answer {
    fn is_good(&self, snapshot: &Arc<Snapshot>) -> bool {
        Weak::ptr_eq(&self.of, &Arc::downgrade(snapshot))
            || (self.body.len() >= LARGE && self.made_at.elapsed() < LARGE_FOR)
    }
}

impl Kept {
    /// The kept answer, or the one that is made now.
    pub(super) fn answer(
        &self,
        path: &'static str,
        snapshot: &Arc<Snapshot>,
        make: impl FnOnce() -> Value,
    ) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        // Nothing is done under the lock that can panic.
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let good = kept()
            .get(path)
            .filter(|answer| answer.is_good(snapshot))
            .map(|answer| answer.body.clone());
        let body = good.unwrap_or_else(|| {
            let body = Bytes::from(make().to_string());
            let answer = Answer {
                of: Arc::downgrade(snapshot),
                made_at: Instant::now(),
                body: body.clone(),
            };
            kept().insert(path, answer);
            body
        });
        (json, body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_large_answers_outlive_their_snapshot() {
        let kept = Kept::default();
        let snapshot = || Arc::new(Snapshot::default());
        let made = std::cell::Cell::new(0);
        let ask = |path, snapshot: &Arc<Snapshot>, length| {
            kept.answer(path, snapshot, || {
                made.set(made.get() + 1);
                "x".repeat(length).into()
            })
        };
        let first = snapshot();
        ask("small", &first, 10);
        ask("small", &first, 10);
        assert_eq!(made.get(), 1);
        ask("small", &snapshot(), 10);
        assert_eq!(made.get(), 2);
        ask("large", &first, LARGE);
        ask("large", &snapshot(), LARGE);
        assert_eq!(made.get(), 3);
    }
}
