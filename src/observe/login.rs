//! Logging in to a server that may never answer.
//!
//! A server that took the connection may be unable to let anybody in: it is
//! stopped, or somebody holds a lock on the catalogs that a login reads. It then
//! has a process for each login, and does not notice when we hang up: to try
//! anew with every poll would fill its slots. So a login that is not done in
//! time goes on in the background, and the next poll waits for it.
//!
//! A host name that leads to other addresses than before leads to another server,
//! as after a failover: who waits at the old one waits for nothing, so the waiting
//! begins anew there at once.
//!
//! Invariants: no more than [`AT_ONCE`] logins with one server are under way;
//! the first that gets in is taken and the others are given up; what is given up
//! closes its socket; an address is new only once between two good looks, so names
//! that go round and round do not empty the waiting room each time.

use std::collections::BTreeSet;
use std::net::IpAddr;
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

/// Addresses that are remembered as tried. A failover adds one or two; with more
/// than this no address is new any more, and patience alone decides.
const MAX_TRIED: usize = 32;

/// The logins of one source.
#[derive(Debug)]
pub struct Logins<T> {
    under_way: JoinSet<Result<T, PollError>>,
    begun: Vec<(Instant, AbortHandle)>,
    patience: Duration,
    /// Addresses that a login was begun to since the last good look.
    tried: BTreeSet<IpAddr>,
}

impl<T: Send + 'static> Default for Logins<T> {
    fn default() -> Self {
        Self {
            under_way: JoinSet::new(),
            begun: Vec::new(),
            patience: PATIENCE,
            tried: BTreeSet::new(),
        }
    }
}

impl<T: Send + 'static> Logins<T> {
    /// Waits for the first login to be over, for as long as the connect time-out
    /// of `dsn`. Asks for the addresses by `find`, and begins one more login to
    /// them by `begin` while there is room, or when they lead to another server.
    ///
    /// # Errors
    /// What a login said, or that none is done in time; what `find` said when
    /// nobody is under way.
    pub async fn next<F>(
        &mut self,
        dsn: &Dsn,
        expected: Expected,
        find: impl Future<Output = Result<Vec<IpAddr>, PollError>>,
        begin: impl FnOnce(Vec<IpAddr>) -> F,
    ) -> Result<T, PollError>
    where
        F: Future<Output = Result<T, PollError>> + Send + 'static,
    {
        let now = Instant::now();
        match find.await {
            Ok(addresses) => {
                if !self.under_way.is_empty() && self.leads_elsewhere(&addresses) {
                    self.forget_waiting();
                }
                self.give_up(now);
                if self.begun.len() < AT_ONCE {
                    self.remember(&addresses);
                    let handle = self.under_way.spawn(begin(addresses));
                    self.begun.push((now, handle));
                }
            }
            Err(error) => {
                self.give_up(now);
                if self.begun.is_empty() {
                    return Err(error);
                }
            }
        }
        let over = tokio::time::timeout_at(now + dsn.connect_timeout, self.over()).await;
        match over {
            Ok(Ok(entered)) => {
                self.forget_waiting();
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

    /// Whether these are the addresses of a server that no login was begun to
    /// since the last good look. A socket has none.
    pub fn leads_elsewhere(&self, addresses: &[IpAddr]) -> bool {
        !addresses.is_empty()
            && self.tried.len() + addresses.len() <= MAX_TRIED
            && addresses
                .iter()
                .all(|address| !self.tried.contains(address))
    }

    /// A look gave data: what was tried before is of the past.
    pub fn seen(&mut self) {
        self.tried.clear();
    }

    /// Gives up whoever is on the way in, and is as patient as at first.
    pub fn forget_waiting(&mut self) {
        // Dropped, and with it outcomes that nobody has heard yet.
        self.under_way = JoinSet::new();
        self.begun.clear();
        self.patience = PATIENCE;
    }

    fn remember(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            if self.tried.len() < MAX_TRIED {
                self.tried.insert(*address);
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

    /// What the resolver finds: one address, by its last number.
    async fn at(last: u8) -> Result<Vec<IpAddr>, PollError> {
        Ok(vec![IpAddr::from([192, 0, 2, last])])
    }

    /// Where both places are taken for an hour, whatever the machine is doing.
    fn patient() -> Logins<()> {
        Logins {
            patience: Duration::from_secs(3600),
            ..Logins::default()
        }
    }

    /// One poll while the name leads to this address. Only the second server lets
    /// anybody in.
    async fn poll_at(logins: &mut Logins<()>, last: u8, begun: &Arc<AtomicUsize>) -> bool {
        let enter = |addresses: Vec<IpAddr>| {
            begun.fetch_add(1, Ordering::SeqCst);
            async move {
                if addresses != [IpAddr::from([192, 0, 2, 2])] {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        };
        let mut dsn = dsn();
        if last == 2 {
            // It is let in long before, and fails here if it never is.
            dsn.connect_timeout = Duration::from_secs(30);
        }
        let next = logins.next(&dsn, Expected::Postgres, at(last), enter);
        let entered = next.await.is_ok();
        assert!(logins.begun.len() <= AT_ONCE);
        entered
    }

    #[tokio::test]
    async fn a_name_that_leads_elsewhere_is_followed_by_the_next_poll() {
        let begun = Arc::new(AtomicUsize::new(0));
        let mut logins = patient();
        for _ in 0..6 {
            assert!(!poll_at(&mut logins, 1, &begun).await);
        }
        assert_eq!(begun.load(Ordering::SeqCst), AT_ONCE, "both wait");
        assert!(poll_at(&mut logins, 2, &begun).await);
        // And back again, when a look has given data in between.
        logins.seen();
        logins.patience = Duration::from_secs(3600);
        for _ in 0..3 {
            assert!(!poll_at(&mut logins, 1, &begun).await);
        }
        assert!(poll_at(&mut logins, 2, &begun).await);
    }

    #[tokio::test]
    async fn names_that_go_round_do_not_make_logins_pile_up() {
        let begun = Arc::new(AtomicUsize::new(0));
        let mut logins = patient();
        for round in 0..60 {
            assert!(!poll_at(&mut logins, 10 + round % 3, &begun).await);
        }
        let tried = begun.load(Ordering::SeqCst);
        // Each address once for being new, and the second place.
        assert!((3..=4).contains(&tried), "{tried} logins in 60 polls");
    }

    #[tokio::test]
    async fn a_dead_name_service_does_not_stop_who_is_on_the_way() {
        let mut logins = Logins::default();
        let door = Arc::new(Notify::new());
        let lost = || async { Err(PollError::new(FailureReason::Other, "no name")) };
        let never = |_| async { unreachable!("there is no address") };
        let first = logins.next(&dsn(), Expected::Postgres, lost(), never).await;
        assert_eq!(first.unwrap_err().message, "no name");
        let waiting = Arc::clone(&door);
        let begin = |_| async move {
            waiting.notified().await;
            Ok(())
        };
        let next = logins.next(&dsn(), Expected::Postgres, at(1), begin).await;
        assert_eq!(next.unwrap_err().reason, FailureReason::Timeout);
        door.notify_one();
        let never = |_| async { unreachable!("there is no address") };
        let next = logins.next(&dsn(), Expected::Postgres, lost(), never).await;
        assert!(next.is_ok());
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
            let begin = |_| begin();
            logins.next(&dsn(), Expected::Postgres, at(1), begin).await
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
            let refused = |_| async { Err(PollError::new(FailureReason::Refused, "closed")) };
            let error = logins
                .next(&dsn(), Expected::Postgres, at(1), refused)
                .await
                .unwrap_err();
            assert_eq!(error.reason, FailureReason::Refused);
        }
        assert!(
            logins
                .next(&dsn(), Expected::Postgres, at(1), |_| async { Ok(()) })
                .await
                .is_ok()
        );
    }
}
