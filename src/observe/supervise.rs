//! Keeps a poller running: what one server answers must not end the watch on
//! it, let alone on the others.
//!
//! Invariant: a poller that panics is a failed poll like any other, counted and
//! seen by the engine, and is started again with a new source.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::observe::Source;
use crate::observe::poll::Poller;

/// Before a poller that panicked is started again. What made it panic is most
/// likely still there, and each time is a page in the log.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// Runs the poller that `start` makes until `stop` is cancelled or nobody takes
/// samples any more.
pub async fn supervise<S: Source>(start: impl Fn() -> Poller<S>, stop: CancellationToken) {
    let mut poller = start();
    // The runtime's own thread catches the panic; ours goes on.
    while let Err(end) = tokio::spawn(poller.run(stop.clone())).await {
        if !end.is_panic() {
            return;
        }
        poller = start();
        poller.crashed();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::observe::PollError;
    use crate::observe::health::Health;
    use crate::observe::poll::Pace;
    use crate::sample::{FailureReason, PostgresReport, Report};

    static POLLS: AtomicU32 = AtomicU32::new(0);

    /// Panics at its second poll.
    struct Touchy;

    impl Source for Touchy {
        fn kind(&self) -> &'static str {
            "postgres"
        }
        fn name(&self) -> &str {
            "main"
        }
        async fn poll(&mut self) -> Result<Report, PollError> {
            assert_ne!(POLLS.fetch_add(1, Ordering::Relaxed), 1, "as staged");
            Ok(Report::Postgres(PostgresReport::default()))
        }
        fn failure(&self, error: &PollError) -> Report {
            Report::Postgres(PostgresReport {
                error: Some(error.reason),
                ..PostgresReport::default()
            })
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_failed_poll_and_the_next_one_comes() {
        let (samples, mut received) = mpsc::channel(8);
        let health = Health::new();
        let pace = Pace::new(Duration::from_secs(1), Duration::from_secs(1));
        let watched = health.clone();
        let start = move || Poller::new(Touchy, pace, samples.clone(), &watched);
        let stop = CancellationToken::new();
        let task = tokio::spawn(supervise(start, stop.clone()));
        let mut errors = Vec::new();
        while errors.len() < 3 {
            match received.recv().await.map(|sample| sample.report) {
                Some(Report::Postgres(report)) => errors.push(report.error),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(errors, [None, Some(FailureReason::Other), None]);
        let source = &health.snapshot()[0];
        assert_eq!(source.failures[&FailureReason::Other], 1);
        assert!(source.up, "it came back");
        stop.cancel();
        task.await.expect("it stops when told");
    }
}
