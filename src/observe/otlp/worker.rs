//! The one worker that unpacks, decodes and accounts: it owns the [`Receiver`],
//! so nothing is locked, and it has a thread of its own, so that a large body
//! keeps nobody else waiting.
//!
//! Invariants: few bodies are in memory at a time, and who would be one more
//! waits a little and is then told to come again later; a stalled engine stalls
//! the worker and so the senders, and no report is lost; a fault of our own in
//! one body costs what the receiver remembered, and not the worker.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::outcome::Outcome;
use super::receiver::{BadBody, Encoding, Receiver, Signal};
use crate::observe::health::Health;
use crate::observe::poll::unix_now;
use crate::sample::{Report, Sample, UnixSeconds};

/// Largest body, as it comes and unpacked; gRPC's own limit, which exporters
/// stay below.
pub const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// Bodies in memory at a time. The worker takes a few milliseconds for a usual
/// one, so more would only lie there.
const BODIES: usize = 8;

/// Requests that may wait for one of those places.
const WAITING: usize = 128;

/// How long they wait. Shorter than any exporter's time-out, which is ten
/// seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often reports are made.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Seconds after which a sender that was turned away may come again.
pub const RETRY_AFTER: u64 = 1;

/// The label `source` of what is counted.
pub const SOURCE: &str = "otlp";

/// Why a body was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Bad(#[from] BadBody),
    #[error("the body is larger than {} MiB; send smaller batches", BODY_LIMIT >> 20)]
    TooLarge,
    #[error("too many requests at once; try again in {RETRY_AFTER} s")]
    Overload,
    #[error("a fault of snowpit's own; report what it logged")]
    Fault,
    #[error("snowpit is stopping")]
    Stopping,
}

impl Failure {
    /// The label `reason` of what is counted.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Bad(_) => "malformed_body",
            Self::TooLarge => "body_too_large",
            Self::Overload => "overload",
            Self::Fault => "fault",
            Self::Stopping => "stopping",
        }
    }
}

/// A body as it came.
#[derive(Debug)]
pub struct Body {
    pub signal: Signal,
    pub encoding: Encoding,
    pub gzip: bool,
    pub bytes: Bytes,
}

#[derive(Debug)]
enum Message {
    Body(Body, oneshot::Sender<Result<Outcome, Failure>>),
    Flush,
    Stop,
}

/// The way to the worker. Clones share it.
#[derive(Debug, Clone)]
pub struct Intake {
    messages: mpsc::Sender<Message>,
    bodies: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    health: Health,
}

/// The right to have one body in memory.
#[derive(Debug)]
pub struct Place(
    #[allow(dead_code, reason = "dropped when the answer is there")] OwnedSemaphorePermit,
);

impl Intake {
    /// A place for a body, to be had before it is read.
    ///
    /// # Errors
    /// When there are too many at once.
    pub async fn place(&self) -> Result<Place, Failure> {
        let place = async {
            let _waiting = self.waiting.try_acquire().ok()?;
            let place = Arc::clone(&self.bodies).acquire_owned();
            tokio::time::timeout(PATIENCE, place).await.ok()?.ok()
        };
        place
            .await
            .map(Place)
            .ok_or_else(|| self.refused(Failure::Overload))
    }

    /// Hands a body to the worker and waits for what became of it.
    ///
    /// # Errors
    /// When nothing of it was taken in.
    pub async fn take(&self, body: Body, _place: &Place) -> Result<Outcome, Failure> {
        let (sender, answer) = oneshot::channel();
        let sent = self.messages.send(Message::Body(body, sender)).await;
        if sent.is_err() {
            return Err(Failure::Stopping);
        }
        let outcome = answer.await.unwrap_or(Err(Failure::Stopping));
        match &outcome {
            Ok(outcome) => {
                let (now, rejections) = (unix_now(), self.health.rejections());
                rejections.add(now, SOURCE, &outcome.about, &outcome.refused);
                rejections.add(now, SOURCE, &outcome.about, &outcome.noted);
            }
            Err(failure) => self.count(failure.reason()),
        }
        outcome
    }

    /// Lets the worker finish what it was given, and end.
    pub async fn stop(&self) {
        // A worker that has ended need not be told.
        let _ = self.messages.send(Message::Stop).await;
    }

    /// Counts a refusal and hands it on.
    pub fn refused(&self, failure: Failure) -> Failure {
        self.count(failure.reason());
        failure
    }

    /// Counts a request of which nothing was taken in.
    pub fn count(&self, reason: &'static str) {
        self.health
            .rejections()
            .reject(unix_now(), SOURCE, "a request", reason, 1);
    }
}

/// Starts the worker and its clock. Both end with [`Intake::stop`]; what came in
/// until then is in the samples.
pub fn start(
    services: watch::Receiver<Vec<String>>,
    samples: mpsc::Sender<Sample>,
    health: &Health,
) -> (Intake, JoinHandle<()>) {
    // Places bound the number of bodies; one more is for the clock.
    let (messages, inbox) = mpsc::channel(BODIES + 1);
    let intake = Intake {
        messages: messages.clone(),
        bodies: Arc::new(Semaphore::new(BODIES)),
        waiting: Arc::new(Semaphore::new(WAITING)),
        health: health.clone(),
    };
    tokio::spawn(tick(messages));
    let receiver = Receiver::new(&services.borrow());
    let worker = Worker {
        receiver,
        services,
        unpacked: Vec::new(),
        samples,
        health: health.clone(),
    };
    let worker = tokio::task::spawn_blocking(move || worker.run(inbox));
    (intake, worker)
}

/// Ends with the worker.
async fn tick(messages: mpsc::Sender<Message>) {
    let mut clock = tokio::time::interval(FLUSH_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if messages.send(Message::Flush).await.is_err() {
            return;
        }
    }
}

struct Worker {
    services: watch::Receiver<Vec<String>>,
    receiver: Receiver,
    /// Used for one body after the other.
    unpacked: Vec<u8>,
    samples: mpsc::Sender<Sample>,
    health: Health,
}

impl Worker {
    fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        while let Some(message) = inbox.blocking_recv() {
            match message {
                Message::Body(body, answer) => {
                    let outcome = self.guarded(&body);
                    drop(body);
                    // A sender that went away needs no answer.
                    let _ = answer.send(outcome);
                }
                Message::Flush => {
                    // Without a daemon nothing changes any more.
                    if self.services.has_changed().unwrap_or(false) {
                        let services = self.services.borrow_and_update();
                        self.receiver.configure(&services);
                    }
                    if !self.flush(unix_now()) {
                        return;
                    }
                }
                Message::Stop => break,
            }
        }
        self.flush(unix_now());
    }

    fn guarded(&mut self, body: &Body) -> Result<Outcome, Failure> {
        catch_unwind(AssertUnwindSafe(|| self.take(unix_now(), body))).unwrap_or_else(|_| {
            self.receiver = Receiver::new(&self.services.borrow());
            Err(Failure::Fault)
        })
    }

    fn take(&mut self, now: UnixSeconds, body: &Body) -> Result<Outcome, Failure> {
        let bytes = if body.gzip {
            unpack(&body.bytes, &mut self.unpacked)?;
            &self.unpacked
        } else {
            &body.bytes[..]
        };
        Ok(self.receiver.take(now, body.signal, body.encoding, bytes)?)
    }

    /// Hands the reports on. `false`: nobody takes samples any more.
    fn flush(&mut self, now: UnixSeconds) -> bool {
        let (reports, given_up) = self.receiver.flush(now);
        self.health
            .rejections()
            .add(now, SOURCE, "spans", &given_up);
        reports.into_iter().all(|report| {
            let sample = Sample {
                t: now,
                report: Report::Traffic(report),
            };
            self.samples.blocking_send(sample).is_ok()
        })
    }
}

/// Unpacks gzip up to the limit: what is a thousand times larger inside than
/// outside is read no further than that.
fn unpack(packed: &[u8], into: &mut Vec<u8>) -> Result<(), Failure> {
    into.clear();
    // Room that one large body took is given back.
    into.shrink_to(BODY_LIMIT / 4);
    let limit = BODY_LIMIT as u64 + 1;
    MultiGzDecoder::new(packed)
        .take(limit)
        .read_to_end(into)
        .map_err(|error| BadBody::new(NotGzip(error)))?;
    if into.len() > BODY_LIMIT {
        return Err(Failure::TooLarge);
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("not valid gzip: {0}")]
struct NotGzip(std::io::Error);
