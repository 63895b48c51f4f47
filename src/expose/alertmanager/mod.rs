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

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use health::{Failure, PushHealth, State};

use crate::config::{AlertmanagerConfig, AlertmanagerUrl, plain_file};
use crate::engine::Snapshot;
use crate::observe::poll::unix_now;
use crate::observe::{PollError, tls};
use crate::sample::FailureReason;
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

/// No file of authorities is longer: the system's own has a quarter of that.
const AUTHORITIES_LIMIT: u64 = 1024 * 1024;

/// What the ways to the Alertmanagers were made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    config: AlertmanagerConfig,
    /// SHA-256 of `ca_file`, which is renewed in place.
    authorities: Option<[u8; digest::SHA256_OUTPUT_LEN]>,
}

/// The tasks that push.
#[derive(Debug)]
pub struct Pushers {
    origin: Origin,
    tasks: TaskTracker,
    stop: CancellationToken,
    health: PushHealth,
}

/// The ways to the Alertmanagers of a configuration, not yet in use.
pub struct Prepared {
    origin: Origin,
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
        // Before they are taken up: should they change in between, they are
        // taken up once more.
        let authorities = ca_file.map(print).transpose()?;
        let clients = config.urls.iter().map(|url| Client::new(url, ca_file));
        Ok(Self {
            clients: clients.collect::<Result<_, _>>()?,
            origin: Origin {
                config: config.clone(),
                authorities,
            },
        })
    }

    /// What they are made of.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Starts one task for each Alertmanager. `snapshot` has the incidents that
    /// were open before a restart already; what becomes of the requests goes to
    /// `health`.
    pub fn start(self, snapshot: &watch::Receiver<Arc<Snapshot>>, health: PushHealth) -> Pushers {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let Self { origin, clients } = self;
        let config = &origin.config;
        health.follow(config.urls.iter().map(|url| url.name.clone()));
        for (url, client) in config.urls.iter().zip(clients) {
            let pusher = Pusher::new(url, client, config, snapshot.clone(), health.clone());
            tasks.spawn(pusher.run(stop.clone()));
        }
        tasks.close();
        Pushers {
            origin,
            tasks,
            stop,
            health,
        }
    }
}

fn print(ca_file: &Path) -> Result<[u8; digest::SHA256_OUTPUT_LEN], PollError> {
    let bytes = plain_file::read(ca_file, AUTHORITIES_LIMIT).map_err(|error| {
        let message = format!("ca_file {}: it cannot be read: {error}", ca_file.display());
        PollError::new(FailureReason::Tls, message)
    })?;
    let mut print = [0; digest::SHA256_OUTPUT_LEN];
    print.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
    Ok(print)
}

impl Pushers {
    /// What they were made of.
    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Credentials;

    #[test]
    fn renewed_authorities_make_other_ways_and_bad_ones_none() {
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        let write = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            std::fs::write(&ca_file, parameters.self_signed(&key).unwrap().pem()).unwrap();
        };
        write();
        let config = AlertmanagerConfig {
            urls: vec![AlertmanagerUrl {
                name: "localhost:1".to_owned(),
                url: "https://localhost:1".to_owned(),
                credentials: Credentials::None,
            }],
            ca_file: Some(ca_file.clone()),
            external_url: None,
        };
        let origin = || Prepared::new(&config).map(|made| made.origin().clone());
        let first = origin().unwrap();
        assert_eq!(origin().unwrap(), first);
        write();
        assert_ne!(origin().unwrap(), first);
        std::fs::write(&ca_file, "nothing").unwrap();
        assert!(origin().is_err());
    }
}
