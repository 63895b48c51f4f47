//! Alerts straight to Alertmanager, as its API v2 takes them.
//!
//! Invariants: the labels are those of the rules in `alerts/`, made of target and
//! kind alone, so that two snowpits on one target, or push and rules together,
//! are one alert. What is sent is the state of the newest snapshot: nothing is
//! queued, so nothing grows while an Alertmanager is away, and the engine never
//! waits. An alert that is open is sent again long before it expires, and expires
//! soon after we are gone for good. Each Alertmanager has a task of its own.

mod alert;
mod client;
mod health;
mod mark;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use health::{Failure, PushHealth, State};

use crate::config::{AlertmanagerConfig, AlertmanagerUrl};
use crate::engine::Snapshot;
use crate::observe::poll::unix_now;
use crate::observe::{PollError, tls};
use alert::Link;
use client::Client;
use mark::Marks;

/// An alert is looked after this often when nothing comes from the engine.
const TICK: Duration = Duration::from_secs(1);

/// The longest pause after failures: an Alertmanager that is back is told within
/// half a minute.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Alerts in one request: about a megabyte at most, which proxies let through,
/// since each is bounded; and few that wait with one that is refused.
const BATCH: usize = 16;

/// The tasks that push.
#[derive(Debug)]
pub struct Pushers {
    tasks: TaskTracker,
    stop: CancellationToken,
    health: PushHealth,
}

/// The ways to the Alertmanagers of a configuration, not yet in use.
pub struct Prepared {
    config: AlertmanagerConfig,
    clients: Vec<Client>,
}

impl Prepared {
    /// Reads the certificates to trust, which blocks for as long as a file takes.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(config: &AlertmanagerConfig) -> Result<Self, PollError> {
        tls::use_ring();
        let ca_file = config.ca_file.as_deref();
        let clients = config.urls.iter().map(|url| Client::new(url, ca_file));
        Ok(Self {
            clients: clients.collect::<Result<_, _>>()?,
            config: config.clone(),
        })
    }

    /// Starts one task for each Alertmanager. `snapshot` has the incidents that
    /// were open before a restart already; what becomes of the requests goes to
    /// `health`.
    pub fn start(self, snapshot: &watch::Receiver<Arc<Snapshot>>, health: PushHealth) -> Pushers {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let Self { config, clients } = self;
        health.follow(config.urls.iter().map(|url| url.name.clone()));
        for (url, client) in config.urls.iter().zip(clients) {
            let pusher = Pusher::new(url, client, &config, snapshot.clone(), health.clone());
            tasks.spawn(pusher.run(stop.clone()));
        }
        tasks.close();
        Pushers {
            tasks,
            stop,
            health,
        }
    }
}

impl Pushers {
    /// What becomes of the requests.
    pub fn health(&self) -> PushHealth {
        self.health.clone()
    }

    /// Sends what has changed last, and waits for it no longer than `grace`. What
    /// is open stays open: the next start goes on with it.
    pub async fn stop(&self, grace: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(grace, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("an Alertmanager did not take the last change in time");
        }
    }
}

/// The way to one Alertmanager.
struct Pusher {
    name: String,
    client: Client,
    link: Link,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    health: PushHealth,
    marks: Marks,
    failures: u32,
    not_before: Instant,
}

impl Pusher {
    fn new(
        url: &AlertmanagerUrl,
        client: Client,
        config: &AlertmanagerConfig,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        health: PushHealth,
    ) -> Self {
        let marks = Marks::new(&snapshot.borrow(), unix_now());
        Self {
            name: url.name.clone(),
            client,
            link: Link::new(config.external_url.clone()),
            snapshot,
            health,
            marks,
            failures: 0,
            not_before: Instant::now(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        // What was open before is sent at once.
        self.snapshot.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Without an engine there is no news, and no end either.
                changed = self.snapshot.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(TICK) => {}
            }
            if Instant::now() >= self.not_before {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.push() => {}
                }
            }
        }
        if self.failures == 0 {
            self.push().await;
        }
    }

    /// Sends what is due, if anything.
    async fn push(&mut self) {
        let snapshot = self.snapshot.borrow_and_update().clone();
        let (now, wall) = (Instant::now(), unix_now());
        self.marks.look(&snapshot, wall);
        let due = self.marks.due(now);
        let mut failed = false;
        for batch in due.chunks(BATCH) {
            // Whatever comes of it, it may have arrived.
            self.marks.tried(batch);
            let alerts: Vec<_> = batch
                .iter()
                .map(|due| due.alert(&self.link, wall))
                .collect();
            match self.client.send(&alerts).await {
                Ok(()) => {
                    self.failures = 0;
                    self.marks.sent(batch, now);
                    self.health.accepted(&self.name);
                }
                Err(failure) => {
                    failed = true;
                    self.health.failed(&self.name, &failure, wall);
                    // What is refused says nothing of the next batch.
                    if failure.failure != Failure::Rejected {
                        break;
                    }
                }
            }
        }
        if failed {
            self.pause();
        } else if !due.is_empty() {
            self.health.recovered(&self.name, wall);
        }
        self.health.firing(&self.name, self.marks.firing());
    }

    fn pause(&mut self) {
        let seconds = 1_u64 << self.failures.min(5);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Instant::now() + Duration::from_secs(seconds).min(MAX_PAUSE);
    }
}
