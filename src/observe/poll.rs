//! The runner of every source: when to look, how long to wait, and what to do
//! when a look fails.
//!
//! Invariants: one look at a time; a look never lasts longer than its time-out;
//! a full channel loses the sample, never the poller; every look is accounted
//! for in [`Health`](super::health::Health). When to look next is decided by two
//! small pure types, [`Governor`] and [`Backoff`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::observe::health::{Health, SourceHandle};
use crate::observe::pace::{Backoff, Governor};
use crate::observe::{PollError, Source};
use crate::sample::{FailureReason, Report, Sample, UnixSeconds};

/// Time that reading may take on an open connection. Longer than any healthy
/// read by two orders, short enough that a frozen server is told within three
/// polls of one second.
pub const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Shortest time between the beginnings of two looks when one is asked for by
/// a wake-up.
const MIN_WAKE_GAP: Duration = Duration::from_millis(250);

/// How often to look, and how long a look may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub interval: Duration,
    /// Of a whole look, connecting included.
    pub timeout: Duration,
}

impl Pace {
    /// A look may have to connect first.
    pub fn new(interval: Duration, connect_timeout: Duration) -> Self {
        Self {
            interval,
            timeout: connect_timeout + READ_TIMEOUT,
        }
    }
}

/// A source, its pace, and where its samples go.
pub struct Poller<S> {
    source: S,
    pace: Pace,
    samples: mpsc::Sender<Sample>,
    health: SourceHandle,
    wake: Arc<Notify>,
}

impl<S: Source> Poller<S> {
    pub fn new(source: S, pace: Pace, samples: mpsc::Sender<Sample>, health: &Health) -> Self {
        let health = health.register(source.kind(), source.name(), pace.interval);
        Self {
            source,
            pace,
            samples,
            health,
            wake: Arc::new(Notify::new()),
        }
    }

    /// Looks at once when notified, though not more often than every 250 ms.
    #[must_use]
    pub fn wake_by(mut self, wake: Arc<Notify>) -> Self {
        self.wake = wake;
        self
    }

    /// Looks until `stop` is cancelled or nobody takes samples any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut governor = Governor::new(self.pace.interval);
        let mut backoff = Backoff::new(self.pace.interval);
        loop {
            let began = Instant::now();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.look(began) => outcome,
            };
            let pause = match outcome {
                Outcome::Gone => return,
                Outcome::Data(took) => {
                    backoff.reset();
                    governor.observe(took)
                }
                Outcome::Failed(reason) => backoff.next(reason, fastrand::f64()),
            };
            self.health.interval(governor.interval());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.rest(began, pause) => {}
            }
        }
    }

    /// Accounts for a look that ended in a panic, as for any other failure.
    pub(super) fn crashed(&mut self) {
        let at = unix_now();
        let error = PollError::new(
            FailureReason::Other,
            "the poller met a fault of snowpit's own and is started again; report what is logged above",
        );
        self.health.failed(at, Duration::ZERO, &error);
        let report = self.source.failure(&error);
        if self.samples.try_send(Sample { t: at, report }).is_err() {
            self.health.dropped(at, "queue_full");
        }
    }

    /// One look, accounted for and handed on.
    async fn look(&mut self, began: Instant) -> Outcome {
        let at = unix_now();
        let answer = match tokio::time::timeout(self.pace.timeout, self.source.poll()).await {
            Ok(answer) => answer,
            Err(_) => Err(PollError::new(
                FailureReason::Timeout,
                format!("no answer within {} s", self.pace.timeout.as_secs_f64()),
            )),
        };
        let took = began.elapsed();
        let (report, outcome) = match answer {
            Ok(report) => {
                self.health.succeeded(at, took);
                (report, Outcome::Data(took))
            }
            Err(error) => {
                self.health.failed(at, took, &error);
                (self.source.failure(&error), Outcome::Failed(error.reason))
            }
        };
        let further = match outcome {
            Outcome::Data(_) => self.source.further(),
            Outcome::Failed(_) | Outcome::Gone => Vec::new(),
        };
        for report in std::iter::once(report).chain(further).filter(is_news) {
            match self.samples.try_send(Sample { t: at, report }) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => self.health.dropped(at, "queue_full"),
                Err(mpsc::error::TrySendError::Closed(_)) => return Outcome::Gone,
            }
        }
        outcome
    }

    /// Sleeps until `pause` after `began`, or until woken. A look that took
    /// longer than the pause is followed at once by the next: ticks are
    /// delayed, never made up for.
    async fn rest(&mut self, began: Instant, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep_until(began + pause) => {}
            () = self.wake.notified() => {
                tokio::time::sleep_until(began + MIN_WAKE_GAP.min(pause)).await;
            }
        }
    }
}

/// Traffic that names no route is none, and of a server's failure the engine
/// must know, but not of an application's.
fn is_news(report: &Report) -> bool {
    !matches!(report, Report::Traffic(traffic) if traffic.routes.is_empty())
}

enum Outcome {
    Data(Duration),
    Failed(FailureReason),
    /// The receiver of samples is gone.
    Gone,
}

/// The time that is written on samples.
#[expect(clippy::disallowed_methods, reason = "the edge stamps its samples")]
pub fn unix_now() -> UnixSeconds {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::PostgresReport;

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers as the script says; a real source of the trait, without a server.
    struct Scripted(Vec<Result<(), FailureReason>>);

    impl Source for Scripted {
        fn kind(&self) -> &'static str {
            "postgres"
        }
        fn name(&self) -> &str {
            "main"
        }
        async fn poll(&mut self) -> Result<Report, PollError> {
            match self.0.pop() {
                Some(Ok(())) => {
                    Ok(self.failure(&PollError::new(FailureReason::Other, "as scripted")))
                }
                Some(Err(reason)) => Err(PollError::new(reason, "as scripted")),
                None => std::future::pending().await,
            }
        }
        fn failure(&self, error: &PollError) -> Report {
            Report::Postgres(PostgresReport {
                target: "main".into(),
                error: Some(error.reason),
                ..Default::default()
            })
        }
    }

    fn pace(timeout: Duration) -> Pace {
        Pace {
            interval: Duration::from_millis(5),
            timeout,
        }
    }

    #[tokio::test]
    async fn a_failed_look_is_a_sample_and_a_silent_source_times_out() {
        let (samples, mut received) = mpsc::channel(8);
        let health = Health::new();
        let source = Scripted(vec![Err(FailureReason::Auth)]);
        let poller = Poller::new(source, pace(Duration::from_millis(50)), samples, &health);
        let stop = CancellationToken::new();
        let task = tokio::spawn(poller.run(stop.clone()));
        let mut reasons = Vec::new();
        while reasons.len() < 2 {
            match received.recv().await.map(|sample| sample.report) {
                Some(Report::Postgres(report)) => reasons.push(report.error),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(
            reasons,
            [Some(FailureReason::Auth), Some(FailureReason::Timeout)]
        );
        stop.cancel();
        task.await.expect("the poller stops when told");
        let source = &health.snapshot()[0];
        assert_eq!(source.failures[&FailureReason::Timeout], 1);
    }

    #[tokio::test]
    async fn a_full_channel_loses_samples_and_counts_them() {
        let (samples, received) = mpsc::channel(1);
        let health = Health::new();
        let source = Scripted(vec![Ok(()); 4]);
        let poller = Poller::new(source, pace(SECOND), samples, &health);
        let stop = CancellationToken::new();
        let task = tokio::spawn(poller.run(stop.clone()));
        while health.snapshot()[0].polls < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        task.await.expect("the poller stops when told");
        assert_eq!(health.snapshot()[0].dropped["queue_full"], 3);
        drop(received);
    }

    #[tokio::test]
    async fn a_wake_up_brings_the_next_look_forward() {
        let (samples, mut received) = mpsc::channel(8);
        let wake = Arc::new(Notify::new());
        let slow = Pace {
            interval: Duration::from_secs(60),
            timeout: SECOND,
        };
        let health = Health::new();
        let poller = Poller::new(Scripted(vec![Ok(()); 2]), slow, samples, &health)
            .wake_by(Arc::clone(&wake));
        let stop = CancellationToken::new();
        let task = tokio::spawn(poller.run(stop.clone()));
        let first = received.recv().await.map(|sample| sample.t);
        wake.notify_one();
        let second = tokio::time::timeout(5 * SECOND, received.recv()).await;
        let second = second
            .expect("woken long before a minute")
            .map(|sample| sample.t);
        let gap = second.unwrap_or_default() - first.unwrap_or_default();
        assert!((0.2..5.0).contains(&gap), "looked again after {gap} s");
        stop.cancel();
        task.await.expect("the poller stops when told");
    }
}
