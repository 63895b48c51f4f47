//! The pollers that run: started, stopped and started again as the
//! configuration says.
//!
//! Invariants: a source has one poller, and so one session; the next one is
//! started after the last one has ended; a source whose configuration did not
//! change is not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, PgbouncerConfig, PostgresConfig, ScrapeConfig};
use crate::observe::health::Health;
use crate::observe::pgbouncer::{PgbouncerSource, wake_when_wanted};
use crate::observe::poll::{Pace, Poller};
use crate::observe::postgres::PostgresSource;
use crate::observe::scrape::{self, ScrapeSource, SharedAccount};
use crate::observe::supervise::supervise;
use crate::sample::Sample;

/// Kind and name.
type Key = (&'static str, String);

/// What a source is told.
#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Postgres(PostgresConfig),
    Pgbouncer(PgbouncerConfig),
    Scrape(ScrapeConfig),
}

/// A source with its tasks.
#[derive(Debug)]
struct Running {
    what: Wanted,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Every source of the daemon.
#[derive(Debug)]
pub(super) struct Sources {
    samples: mpsc::Sender<Sample>,
    clients_wanted: watch::Receiver<BTreeSet<String>>,
    health: Health,
    stop: CancellationToken,
    /// All tasks, for who waits for the end.
    tasks: TaskTracker,
    running: BTreeMap<Key, Running>,
    /// Of the services with metrics pages: the pages of one share it.
    accounts: BTreeMap<String, SharedAccount>,
}

/// What another configuration does to the sources, by kind and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub started: Vec<String>,
    pub restarted: Vec<String>,
    pub stopped: Vec<String>,
    /// Those that went on as if nothing had happened.
    pub kept: usize,
}

impl Sources {
    /// None yet. All end with `stop`; `tasks` knows all of their tasks.
    pub(super) fn new(
        samples: mpsc::Sender<Sample>,
        clients_wanted: watch::Receiver<BTreeSet<String>>,
        health: &Health,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            samples,
            clients_wanted,
            health: health.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            running: BTreeMap::new(),
            accounts: BTreeMap::new(),
        }
    }

    /// Stops what is gone from the configuration or changed in it, and comes back
    /// when it has ended: nothing comes from there any more.
    pub(super) async fn stop_others(&mut self, config: &Config) -> Changes {
        let wanted = wanted(config);
        let mut changes = Changes::default();
        let mut ending = Vec::new();
        for (key, running) in &self.running {
            match wanted.get(key) {
                Some(what) if *what == running.what => {
                    changes.kept += 1;
                    continue;
                }
                Some(_) => changes.restarted.push(name(key)),
                None => changes.stopped.push(name(key)),
            }
            running.stop.cancel();
            ending.push(key.clone());
        }
        for key in ending {
            // It stays in the list until it has ended, should nobody wait so long.
            if let Some(running) = self.running.get(&key) {
                running.tasks.wait().await;
            }
            self.running.remove(&key);
            if !wanted.contains_key(&key) {
                self.health.remove(key.0, &key.1);
            }
        }
        let known = self.running.keys().cloned().collect::<BTreeSet<_>>();
        let new = wanted.keys().filter(|key| !known.contains(*key));
        changes.started = new
            .map(name)
            .filter(|name| !changes.restarted.contains(name))
            .collect();
        changes
    }

    /// Starts what is in the configuration and does not run.
    pub(super) fn start_missing(&mut self, config: &Config) {
        let services = config.scrape.iter().map(|page| &page.service);
        let services: BTreeSet<&String> = services.collect();
        self.accounts
            .retain(|service, _| services.contains(service));
        for (key, what) in wanted(config) {
            if !self.running.contains_key(&key) {
                let running = self.start(what);
                self.running.insert(key, running);
            }
        }
    }

    fn start(&mut self, what: Wanted) -> Running {
        let (stop, tasks) = (self.stop.child_token(), TaskTracker::new());
        match what.clone() {
            Wanted::Postgres(config) => self.postgres(config, &stop, &tasks),
            Wanted::Pgbouncer(config) => self.pgbouncer(config, &stop, &tasks),
            Wanted::Scrape(page) => self.scrape(page, &stop, &tasks),
        }
        tasks.close();
        Running { what, stop, tasks }
    }

    fn spawn(&self, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        tasks.spawn(self.tasks.track_future(task));
    }

    fn postgres(&self, config: PostgresConfig, stop: &CancellationToken, tasks: &TaskTracker) {
        let pace = Pace::new(config.interval, config.connection.connect_timeout);
        let (samples, health) = (self.samples.clone(), self.health.clone());
        let start = move || {
            let source = PostgresSource::new(&config);
            Poller::new(source, pace, samples.clone(), &health)
        };
        self.spawn(tasks, supervise(start, stop.clone()));
    }

    fn pgbouncer(&self, config: PgbouncerConfig, stop: &CancellationToken, tasks: &TaskTracker) {
        let pace = Pace::new(config.interval, config.connection.connect_timeout);
        let wake = Arc::new(Notify::new());
        let waking = wake_when_wanted(
            config.name.clone(),
            self.clients_wanted.clone(),
            Arc::clone(&wake),
        );
        let stopped = stop.clone();
        self.spawn(tasks, async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = waking => {}
            }
        });
        let (samples, health) = (self.samples.clone(), self.health.clone());
        let wanted = self.clients_wanted.clone();
        let start = move || {
            let source = PgbouncerSource::new(&config, wanted.clone());
            Poller::new(source, pace, samples.clone(), &health).wake_by(Arc::clone(&wake))
        };
        self.spawn(tasks, supervise(start, stop.clone()));
    }

    fn scrape(&mut self, page: ScrapeConfig, stop: &CancellationToken, tasks: &TaskTracker) {
        let account = self.accounts.entry(page.service.clone());
        let account = account.or_insert_with(|| scrape::account(&page.service));
        let account = Arc::clone(account);
        let pace = Pace {
            interval: page.interval,
            timeout: page.timeout,
        };
        let (samples, health) = (self.samples.clone(), self.health.clone());
        let start = move || {
            let rejections = health.rejections().clone();
            let source = ScrapeSource::new(&page, Arc::clone(&account), rejections);
            Poller::new(source, pace, samples.clone(), &health)
        };
        self.spawn(tasks, supervise(start, stop.clone()));
    }
}

/// Every source of a configuration.
fn wanted(config: &Config) -> BTreeMap<Key, Wanted> {
    let postgres = config.postgres.iter().map(|one| {
        let key = ("postgres", one.name.clone());
        (key, Wanted::Postgres(one.clone()))
    });
    let pgbouncer = config.pgbouncer.iter().map(|one| {
        let key = ("pgbouncer", one.name.clone());
        (key, Wanted::Pgbouncer(one.clone()))
    });
    let scrape = config.scrape.iter().map(|one| {
        let key = (scrape::SOURCE, one.name.clone());
        (key, Wanted::Scrape(one.clone()))
    });
    postgres.chain(pgbouncer).chain(scrape).collect()
}

fn name((kind, name): &Key) -> String {
    format!("{kind} {name}")
}
