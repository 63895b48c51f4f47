//! Logging in to a server that may never answer.
//!
//! A server that took the connection may be unable to let anybody in: it is
//! stopped, or somebody holds a lock on the catalogs that a login reads. It then
//! has a process for each login, and does not notice when we hang up: to try
//! anew with every poll would fill its slots. So a login that is not done in
//! time goes on in the background, and the next poll waits for it.
//!
//! Invariants: no more than [`AT_ONCE`] logins with one server are under way;
//! the first that gets in is taken and the others are given up; what is given up
//! closes its socket.

use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::config::Dsn;
use crate::observe::PollError;
use crate::observe::failure::{self, Expected};

/// One waits, and one finds out whether the way is free for new ones.
const AT_ONCE: usize = 2;

/// Before a login is given up for the first time: longer than a failover. The
/// time doubles with each that is given up, as each may leave a process behind.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the patience grows to. Whatever a lost connection is, keepalives have
/// found it out by then.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

/// The logins of one source.
#[derive(Debug)]
pub struct Logins<T> {
    under_way: JoinSet<Result<T, PollError>>,
    begun: Vec<(Instant, AbortHandle)>,
    patience: Duration,
}

impl<T: Send + 'static> Default for Logins<T> {
    fn default() -> Self {
        Self {
            under_way: JoinSet::new(),
            begun: Vec::new(),
            patience: PATIENCE,
        }
    }
}

impl<T: Send + 'static> Logins<T> {
    /// Waits for the first login to be over, for as long as the connect time-out
    /// of `dsn`. Begins one more by `begin` while there is room.
    ///
    /// # Errors
    /// What a login said, or that none is done in time.
    pub async fn next<F>(
        &mut self,
        dsn: &Dsn,
        expected: Expected,
        begin: impl FnOnce() -> F,
    ) -> Result<T, PollError>
    where
        F: Future<Output = Result<T, PollError>> + Send + 'static,
    {
        let now = Instant::now();
        self.give_up(now);
        if self.begun.len() < AT_ONCE {
            let handle = self.under_way.spawn(begin());
            self.begun.push((now, handle));
        }
        let over = tokio::time::timeout(dsn.connect_timeout, self.over()).await;
        match over {
            Ok(Ok(entered)) => {
                // Dropped, and with it whoever else is on the way in.
                *self = Self::default();
                Ok(entered)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let oldest = self.begun.iter().map(|(begun, _)| begun.elapsed()).max();
                let waited = oldest.unwrap_or(dsn.connect_timeout);
                Err(failure::not_let_in(dsn, expected, waited, self.begun.len()))
            }
        }
    }

    /// The outcome of the first that ends.
    async fn over(&mut self) -> Result<T, PollError> {
        loop {
            match self.under_way.join_next().await {
                Some(Ok(outcome)) => return outcome,
                // One that was given up.
                Some(Err(end)) if end.is_cancelled() => {}
                Some(Err(end)) => std::panic::resume_unwind(end.into_panic()),
                // There is always one: it is begun above.
                None => std::future::pending::<()>().await,
            }
        }
    }

    fn give_up(&mut self, now: Instant) {
        self.begun.retain(|(_, handle)| !handle.is_finished());
        let patience = self.patience;
        let late = |begun: Instant| now.duration_since(begun) >= patience;
        if self.begun.iter().any(|(begun, _)| late(*begun)) {
            self.patience = (patience * 2).min(LONGEST_PATIENCE);
        }
        self.begun.retain(|(begun, handle)| {
            if late(*begun) {
                handle.abort();
            }
            !late(*begun)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;
    use crate::sample::FailureReason;

    fn dsn() -> Dsn {
        Dsn {
            host: "127.0.0.1".into(),
            port: 5432,
            user: "snowpit".into(),
            password: None,
            database: "postgres".into(),
            ssl_mode: crate::config::SslMode::Disable,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: crate::config::ChannelBinding::default(),
            connect_timeout: Duration::from_millis(10),
        }
    }

    /// Counts itself while it is under way.
    struct Under(Arc<AtomicUsize>);

    impl Under {
        fn new(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(count))
        }
    }

    impl Drop for Under {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_login_that_hangs_is_waited_for_and_not_repeated() {
        let (open, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let door = Arc::new(Notify::new());
        let mut logins = Logins {
            patience: Duration::from_millis(50),
            ..Logins::default()
        };
        let attempt = async |logins: &mut Logins<Under>| {
            let (open, begun, door) = (Arc::clone(&open), Arc::clone(&begun), Arc::clone(&door));
            let begin = || async move {
                begun.fetch_add(1, Ordering::SeqCst);
                let under = Under::new(&open);
                door.notified().await;
                Ok(under)
            };
            logins.next(&dsn(), Expected::Postgres, begin).await
        };
        // Forty times the patience, which has then doubled some five times.
        for _ in 0..200 {
            let Err(error) = attempt(&mut logins).await else {
                panic!("nobody is let in");
            };
            assert_eq!(error.reason, FailureReason::Timeout, "{error}");
            assert!(open.load(Ordering::SeqCst) <= AT_ONCE);
        }
        let tried = begun.load(Ordering::SeqCst);
        assert!((3..=20).contains(&tried), "{tried} logins in 200 polls");
        door.notify_waiters();
        let entered = attempt(&mut logins).await;
        assert!(entered.is_ok());
        tokio::task::yield_now().await;
        assert_eq!(open.load(Ordering::SeqCst), 1, "only the one that is used");
    }

    #[tokio::test]
    async fn what_a_login_says_is_told_at_once_and_the_next_is_a_new_one() {
        let mut logins: Logins<()> = Logins::default();
        for _ in 0..5 {
            let refused = || async { Err(PollError::new(FailureReason::Refused, "closed")) };
            let error = logins
                .next(&dsn(), Expected::Postgres, refused)
                .await
                .unwrap_err();
            assert_eq!(error.reason, FailureReason::Refused);
        }
        assert!(
            logins
                .next(&dsn(), Expected::Postgres, || async { Ok(()) })
                .await
                .is_ok()
        );
    }
}
