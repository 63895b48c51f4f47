//! The gateway of the scenario `orphan`: replicas with workers that race for
//! one advisory lock through the pooler, each with a connection of its own.
//!
//! The worker that wins dies between its commit and its unlock. The others try
//! again until they get the lock, and give it back in the same transaction.
//!
//! The gateway has a role, and so a pool, of its own. PgBouncer hands out the
//! server that was released last. The workers that lost the race end their
//! transactions after the winner did, so the winner's backend lies at the bottom
//! of the pool and later tries land elsewhere. One that still lands on it is
//! told TRUE, since advisory locks are reentrant, and believes it won.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::DemoError;
use super::outcome::Outcome;
use super::servers::ServerError;
use super::stage::{GATEWAY, Stage};
use super::timeline::Timeline;

pub(super) const KEY: i64 = 42_424_242_424_242;
pub(super) const REPLICAS: usize = 3;
pub(super) const WORKERS: usize = 8;
/// Tries of a worker before it gives up.
const TRIES: i32 = 60;
/// How long the winner prepares the database: long enough to be seen at it.
const BOOTSTRAP: Duration = Duration::from_millis(2500);
/// How much longer the others look at what is there; see the module.
const LOOK: Duration = Duration::from_millis(300);
/// All workers connect and race within this.
const RACE_WITHIN: Duration = Duration::from_secs(20);
/// The longest wait between two tries, and some.
const READY_WITHIN: Duration = Duration::from_secs(12);

/// The workers of all replicas. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) workers: JoinSet<()>,
    orphans: mpsc::Receiver<i32>,
    pub(super) tally: Arc<Tally>,
}

/// What became of the tries.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) refused: AtomicU32,
    /// Workers that were told TRUE after the race.
    pub(super) ready: AtomicU32,
}

impl Gateway {
    pub(super) fn start(stage: &Stage) -> Self {
        let mut database = stage.database(GATEWAY);
        database.application_name(GATEWAY);
        let start = Arc::new(Barrier::new(REPLICAS * WORKERS));
        let tally = Arc::new(Tally::default());
        let (left, orphans) = mpsc::channel(1);
        let mut workers = JoinSet::new();
        for _ in 0..REPLICAS * WORKERS {
            let worker = Worker {
                database: database.clone(),
                start: Arc::clone(&start),
                tally: Arc::clone(&tally),
                left: left.clone(),
            };
            workers.spawn(async move {
                if let Err(error) = worker.run().await {
                    tracing::warn!(%error, "a worker of the demo's gateway failed");
                }
            });
        }
        Self {
            workers,
            orphans,
            tally,
        }
    }

    /// The backend that kept the lock, once its client is gone.
    pub(super) async fn orphan(&mut self) -> Result<i32, DemoError> {
        let race = tokio::time::timeout(RACE_WITHIN, self.orphans.recv());
        race.await
            .ok()
            .flatten()
            .ok_or(DemoError::NotStaged("no worker won the race"))
    }

    /// Waits until the workers that could not start have started.
    pub(super) async fn settle(&mut self, timeline: &mut Timeline, outcome: &mut Outcome) {
        let read = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        let refused = read(&self.tally.refused);
        outcome.fact("workers", REPLICAS * WORKERS);
        outcome.fact("refused_tries", refused);
        if outcome.resolved_after.is_none() {
            return;
        }
        let all = async { while self.workers.join_next().await.is_some() {} };
        timeline.progress("waiting for the workers");
        let _ = tokio::time::timeout(READY_WITHIN, all).await;
        let ready = read(&self.tally.ready);
        outcome.fact("ready_afterwards", ready);
        timeline.detail(&format!(
            "the other workers, refused {refused} times before, got the lock one after another: \
             {ready} of {} ready",
            REPLICAS * WORKERS - 1
        ));
    }
}

/// One worker of one replica, with a connection of its own.
struct Worker {
    database: tokio_postgres::Config,
    start: Arc<Barrier>,
    tally: Arc<Tally>,
    left: mpsc::Sender<i32>,
}

impl Worker {
    async fn run(self) -> Result<(), ServerError> {
        let (client, connection) = self.database.connect(NoTls).await?;
        let mut socket = JoinSet::new();
        socket.spawn(async move {
            let _ = connection.await;
        });
        // The first statement of the transaction gets the server; with the
        // barrier behind it each worker has one of its own.
        client.simple_query("BEGIN").await?;
        let pid = backend_pid(&client).await?;
        self.start.wait().await;
        if try_lock(&client).await? {
            tokio::time::sleep(BOOTSTRAP).await;
            client.simple_query("COMMIT").await?;
            // Killed before it could unlock: the socket closes without the
            // goodbye of the protocol.
            socket.shutdown().await;
            let _ = self.left.send(pid).await;
            return Ok(());
        }
        self.tally.refused.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(BOOTSTRAP + LOOK).await;
        client.simple_query("ROLLBACK").await?;
        self.spin(&client).await
    }

    /// Waits 1 s, 1.5 s, 2.25 s … 10 s, each ±10 %, between tries.
    async fn spin(&self, client: &Client) -> Result<(), ServerError> {
        for attempt in 0..TRIES {
            let wait = 1.5_f64.powi(attempt).min(10.0) * (0.9 + 0.2 * fastrand::f64());
            tokio::time::sleep(Duration::from_secs_f64(wait)).await;
            client.simple_query("BEGIN").await?;
            if try_lock(client).await? {
                // Everything is prepared already. This one unlocks where it
                // locked: before the end of the transaction.
                let unlock = format!("SELECT pg_advisory_unlock({KEY})");
                client.simple_query(&unlock).await?;
                client.simple_query("COMMIT").await?;
                self.tally.ready.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
            client.simple_query("ROLLBACK").await?;
        }
        Ok(())
    }
}

async fn try_lock(client: &Client) -> Result<bool, ServerError> {
    let answer = first_value(client, &format!("SELECT pg_try_advisory_lock({KEY})")).await?;
    Ok(answer.as_deref() == Some("t"))
}

async fn backend_pid(client: &Client) -> Result<i32, ServerError> {
    let pid = first_value(client, "SELECT pg_backend_pid()").await?;
    Ok(pid.and_then(|pid| pid.parse().ok()).unwrap_or_default())
}

/// The first value of the first row.
pub(super) async fn first_value(client: &Client, sql: &str) -> Result<Option<String>, ServerError> {
    let answer = client.simple_query(sql).await?;
    Ok(answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
