//! `/api/v1/events`: what is now and what changes, as server-sent events.
//!
//! Two events: `now` is the whole of what the first view shows, at most once a
//! second, and at once after a change of an incident; `incident` is one such
//! change. Each is made into text once, whoever listens; nothing is made while
//! nobody does.
//! Invariants: a bounded number of subscribers, each with a bounded queue; one
//! that does not read in time is dropped and comes again, as browsers do by
//! themselves, with the id of the last event that it has seen.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::WebState;
use super::error::ApiError;
use super::now;
use crate::engine::incident::Effect;

/// Pages open at one time. A page takes one connection for its events, and
/// scrapers must find a free one.
const MAX_SUBSCRIBERS: usize = 300;

/// Events that a subscriber may lag behind: half a minute.
const QUEUE: usize = 32;

/// Between two `now` events while nothing happens to incidents. What is shown
/// comes from polls, which are rarely more than one a second.
const GAP: Duration = Duration::from_secs(1);

/// Between two of them in any case.
const SHORT_GAP: Duration = Duration::from_millis(50);

/// A `now` event comes at least this often, so that a page knows a silent
/// connection from a quiet night.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Changes that a page is told of when it comes back.
const REMEMBERED: usize = 256;

/// Subscribers and what they may have missed.
#[derive(Debug)]
pub(super) struct Hub {
    /// Tells ids of this life of the program from those of others.
    run: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    subscribers: Vec<mpsc::Sender<Bytes>>,
    /// The newest changes with their numbers.
    changes: VecDeque<(u64, Bytes)>,
    number: u64,
    /// The newest `now`, and when it was made.
    now: Option<(Instant, Bytes)>,
    closed: bool,
}

impl Hub {
    pub(super) fn new(run: u64) -> Self {
        Self {
            run,
            inner: Mutex::default(),
        }
    }

    /// Nothing is done under the lock that can panic.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_subscribers(&self) -> bool {
        let mut inner = self.inner();
        inner.subscribers.retain(|one| !one.is_closed());
        !inner.subscribers.is_empty()
    }

    /// Number of pages that listen.
    pub(super) fn subscribers(&self) -> usize {
        self.inner().subscribers.len()
    }

    fn change(&self, effect: &Effect) {
        let mut inner = self.inner();
        inner.number += 1;
        let number = inner.number;
        if let Some(frame) = self.frame(number, "incident", effect) {
            inner.changes.push_back((number, frame.clone()));
            if inner.changes.len() > REMEMBERED {
                inner.changes.pop_front();
            }
            inner.send(&frame);
        }
    }

    fn now(&self, state: &WebState) {
        let text = now::now(state);
        let mut inner = self.inner();
        if let Some(frame) = self.frame(inner.number, "now", &text) {
            inner.now = Some((Instant::now(), frame.clone()));
            inner.send(&frame);
        }
    }

    /// One event on the wire.
    fn frame(&self, number: u64, event: &str, data: &impl Serialize) -> Option<Bytes> {
        let run = self.run;
        let mut text = format!("event: {event}\nid: {run:x}-{number}\ndata: ").into_bytes();
        serde_json::to_writer(&mut text, data).ok()?;
        text.extend_from_slice(b"\n\n");
        Some(text.into())
    }

    /// Which changes were seen, by the id of the last event; `None` when it is
    /// of another life of the program.
    fn seen(&self, id: &str) -> Option<u64> {
        let (run, number) = id.split_once('-')?;
        let run = u64::from_str_radix(run, 16).ok()?;
        (run == self.run).then(|| number.parse().ok())?
    }

    /// A new subscriber, whose stream begins with what it missed and what is
    /// now.
    fn subscribe(&self, last: Option<&str>, state: &WebState) -> Result<Subscription, ApiError> {
        let mut first = VecDeque::from([Bytes::from_static(b"retry: 1000\n\n")]);
        let made = self.inner().now.clone();
        let fresh = made.filter(|(at, _)| at.elapsed() < GAP);
        let fresh = fresh.map(|(_, frame)| frame).or_else(|| {
            let number = self.inner().number;
            self.frame(number, "now", &now::now(state))
        });
        let mut inner = self.inner();
        inner.subscribers.retain(|one| !one.is_closed());
        if inner.closed || inner.subscribers.len() >= MAX_SUBSCRIBERS {
            return Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "{MAX_SUBSCRIBERS} pages listen already; close some, or ask /api/v1/incidents now and then"
                ),
            ));
        }
        if let Some(seen) = last.and_then(|last| self.seen(last)) {
            let missed = inner.changes.iter().filter(|(number, _)| *number > seen);
            first.extend(missed.map(|(_, frame)| frame.clone()));
        }
        first.extend(fresh);
        let (sender, frames) = mpsc::channel(QUEUE);
        inner.subscribers.push(sender);
        Ok(Subscription { first, frames })
    }

    /// Ends all streams; there will be no more.
    fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.subscribers.clear();
    }
}

impl Inner {
    /// Never waits: whose queue is full is dropped.
    fn send(&mut self, frame: &Bytes) {
        self.subscribers
            .retain(|one| one.try_send(frame.clone()).is_ok());
    }
}

/// The body of an answer: events until one of both ends it.
struct Subscription {
    /// What it begins with; the frames are shared with all other subscribers.
    first: VecDeque<Bytes>,
    frames: mpsc::Receiver<Bytes>,
}

impl hyper::body::Body for Subscription {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let frame = self.frames.poll_recv(context);
        frame.map(|frame| frame.map(|frame| Ok(Frame::data(frame))))
    }
}

/// The stream of events.
pub(super) async fn events(
    State(state): State<Arc<WebState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok());
    let stream = state.hub.subscribe(last, &state)?;
    let kind = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // Proxies collect what they are not told to pass on.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((kind, Body::new(stream)).into_response())
}

/// Follows the engine and tells the subscribers, until the token is cancelled.
pub(super) async fn follow(
    state: Arc<WebState>,
    mut effects: Option<broadcast::Receiver<Arc<Effect>>>,
    stop: CancellationToken,
) {
    let mut snapshot = state.snapshot.clone();
    let mut told_at = Instant::now();
    // A snapshot that is newer than what was told; one with a change in it.
    let (mut newer, mut urgent) = (false, false);
    loop {
        let due = told_at
            + match (newer, urgent) {
                (true, true) => SHORT_GAP,
                (true, false) => GAP,
                (false, _) => HEARTBEAT,
            };
        tokio::select! {
            () = stop.cancelled() => break,
            effect = next(&mut effects) => {
                state.changes.note(&effect);
                state.hub.change(&effect);
                urgent = true;
            }
            changed = snapshot.changed() => {
                if changed.is_err() {
                    break;
                }
                newer = true;
            }
            () = sleep_until(due) => {
                told_at = Instant::now();
                snapshot.mark_unchanged();
                (newer, urgent) = (false, false);
                if state.hub.has_subscribers() {
                    state.hub.now(&state);
                }
            }
        }
    }
    state.hub.close();
}

/// The next change. What was lost by being late is in the snapshot.
async fn next(effects: &mut Option<broadcast::Receiver<Arc<Effect>>>) -> Arc<Effect> {
    while let Some(receiver) = effects {
        match receiver.recv().await {
            Ok(effect) => return effect,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => *effects = None,
        }
    }
    std::future::pending().await
}
