//! The lock nobody owns: replicas of a gateway start at once behind a
//! transaction pool and race for one advisory lock.
//!
//! Three replicas with eight workers each open a transaction, read what is
//! there, and call `pg_try_advisory_lock`. One gets it, prepares the database,
//! commits, and dies before it unlocks. The lock belongs to the backend, and
//! the backend is back in the pool. The other workers try again and again.
//!
//! The gateway has a role, and so a pool, of its own. PgBouncer hands out the
//! server that was released last; the workers that lost the race end their
//! transactions after the winner did, so the winner's backend lies at the
//! bottom of the pool and the tries land elsewhere, as they do for most replicas
//! in life. One that still lands on it is told TRUE, since
//! advisory locks are reentrant; such a worker is counted as falsely ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::DemoError;
use super::outcome::Outcome;
use super::servers::ServerError;
use super::stage::{DATABASE, GATEWAY, POOLER, Stage};
use super::timeline::{Mark, Timeline};
use super::witness::Witness;
use crate::engine::Snapshot;
use crate::engine::incident::{Event, Incident, Kind};

pub(super) const NAME: &str = "orphan";

const KEY: i64 = 42_424_242_424_242;
const REPLICAS: usize = 3;
const WORKERS: usize = 8;
/// Tries of a worker before it gives up.
const TRIES: i32 = 60;
/// How long the winner prepares the database: long enough to be seen at it.
const BOOTSTRAP: Duration = Duration::from_millis(2500);
/// How much longer the others look at what is there; see the module.
const LOOK: Duration = Duration::from_millis(300);
/// All workers connect and race within this.
const RACE_WITHIN: Duration = Duration::from_secs(20);
/// Two polls must agree; ten would be a fault.
const DETECT_WITHIN: Duration = Duration::from_secs(15);
const RESOLVE_WITHIN: Duration = Duration::from_secs(15);
/// The longest wait between two tries, and some.
const READY_WITHIN: Duration = Duration::from_secs(12);

/// Stages the orphan, waits until it is told, and does what the incident says.
pub(super) async fn play(
    stage: &Stage,
    snapshot: impl Fn() -> Arc<Snapshot>,
    witness: &mut Witness,
    timeline: &mut Timeline,
) -> Result<Outcome, DemoError> {
    let mut gateway = Gateway::start(stage);
    let pid = gateway.orphan().await?;
    let left = Instant::now();
    let mut outcome = Outcome::new(NAME, timeline.seconds());
    timeline.tell(
        Mark::Staged,
        &format!("{REPLICAS} replicas × {WORKERS} workers raced for advisory lock {KEY}"),
    );
    timeline.detail(&format!(
        "the winner's client is gone, its backend {pid} is back in the pool with the lock"
    ));
    see_orphan(stage, pid).await?;
    let incident = detected(witness, timeline, &gateway, left, &mut outcome).await;
    if let Some(incident) = incident {
        judge(&incident, pid, &mut outcome);
        act(stage, &gateway, &incident, witness, timeline, &mut outcome).await?;
    } else {
        tell_verdicts(&snapshot(), timeline);
    }
    gateway.settle(timeline, &mut outcome).await;
    Ok(outcome)
}

async fn detected(
    witness: &mut Witness,
    timeline: &mut Timeline,
    gateway: &Gateway,
    left: Instant,
    outcome: &mut Outcome,
) -> Option<Incident> {
    let deadline = left + DETECT_WITHIN;
    let progress = || {
        let refused = gateway.tally.refused.load(Ordering::Relaxed);
        format!("waiting for the incident; the other workers were refused {refused} times")
    };
    let kind = Kind::OrphanedAdvisoryLock;
    while let Some(effect) = witness.next(kind, deadline, timeline, progress).await {
        if effect.event != Event::Opened {
            continue;
        }
        let after = left.elapsed().as_secs_f64();
        outcome.detected_after = Some(after);
        outcome.named_after = Some(after);
        let summary = &effect.incident.summary;
        timeline.tell(Mark::Detected, &format!("after {after:.1} s: {summary}"));
        for sentence in &effect.incident.evidence {
            timeline.detail(sentence);
        }
        return Some(effect.incident.clone());
    }
    let wait = DETECT_WITHIN.as_secs();
    outcome
        .problems
        .push(format!("no incident within {wait} s"));
    timeline.tell(Mark::Wrong, &format!("no incident within {wait} s"));
    None
}

/// What the daemon thinks of the locks instead.
fn tell_verdicts(snapshot: &Snapshot, timeline: &mut Timeline) {
    let targets = snapshot.targets.values();
    for lock in targets.flat_map(|target| &target.locks.advisory_locks) {
        timeline.detail(&format!(
            "the daemon holds lock {} to be {}: {}",
            lock.key,
            lock.verdict.as_str(),
            lock.reason
        ));
    }
}

/// Compares the incident with what was staged.
fn judge(incident: &Incident, pid: i32, outcome: &mut Outcome) {
    let told = |field: &str| match incident.subject.get(field) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    outcome.expect("key", &KEY.to_string(), &told("key"));
    outcome.expect("database", DATABASE, &told("database"));
    outcome.expect("pooler", POOLER, &told("pooler"));
    outcome.expect("pid", &pid.to_string(), &told("pid"));
    outcome.expect("verdict", "orphaned", &told("verdict"));
    outcome.named = Some(format!(
        "lock {} in {} at {}, {}",
        told("key"),
        told("database"),
        told("pooler"),
        told("verdict")
    ));
    outcome.fact("incident", incident.id.clone());
}

/// Does what the incident says, as an operator would, and waits for its end.
async fn act(
    stage: &Stage,
    gateway: &Gateway,
    incident: &Incident,
    witness: &mut Witness,
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), DemoError> {
    let Some(command) = console_command(incident) else {
        let told = format!("no RECONNECT among the actions {:?}", incident.actions);
        timeline.tell(Mark::Wrong, &told);
        outcome.problems.push(told);
        return Ok(());
    };
    // Nobody can have got the lock rightly before it was freed.
    let falsely = gateway.tally.ready.load(Ordering::Relaxed);
    outcome.fact("falsely_ready", falsely);
    if falsely > 0 {
        timeline.detail(&format!(
            "{falsely} workers landed on the very backend and believe they got the lock"
        ));
    }
    stage.pooler.console(command).await?;
    let acted = Instant::now();
    timeline.tell(
        Mark::Acted,
        &format!("{command} on the console of {POOLER}"),
    );
    outcome.fact("action", command);
    let deadline = acted + RESOLVE_WITHIN;
    let progress = || "waiting for the end of the incident".to_owned();
    let kind = Kind::OrphanedAdvisoryLock;
    while let Some(effect) = witness.next(kind, deadline, timeline, progress).await {
        if effect.event == Event::Resolved && effect.incident.id == incident.id {
            let after = acted.elapsed().as_secs_f64();
            outcome.resolved_after = Some(after);
            timeline.tell(Mark::Resolved, &format!("after {after:.1} s"));
            return Ok(());
        }
    }
    let told = format!("not resolved within {} s", RESOLVE_WITHIN.as_secs());
    timeline.tell(Mark::Wrong, &told);
    outcome.problems.push(told);
    Ok(())
}

/// The command for our pooler's console: `RECONNECT app;`, without the words
/// that say where.
fn console_command(incident: &Incident) -> Option<&str> {
    incident
        .actions
        .iter()
        .filter(|action| action.contains(POOLER))
        .filter_map(|action| action.split_inclusive(';').next())
        .find(|command| command.starts_with("RECONNECT "))
}

/// Looks with our own eyes: the backend holds the lock outside a transaction,
/// and the pooler has given it to no client.
async fn see_orphan(stage: &Stage, pid: i32) -> Result<(), DemoError> {
    let (high, low) = (KEY >> 32, KEY & 0xffff_ffff);
    let sql = format!(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = {pid} \
         AND virtualtransaction LIKE '%/0' AND (classid, objid, objsubid) = ({high}, {low}, 1)"
    );
    let eyes = stage.own_eyes().await?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let held = has_row(&eyes, &sql).await?;
        let servers = stage.pooler.console("SHOW SERVERS").await?;
        let unlinked = servers.iter().any(|row| {
            row.get("remote_pid") == Some(&pid.to_string()) && row.get("link") == Some("")
        });
        if held && unlinked {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(DemoError::NotStaged(
        "the lock did not stay on an unlinked backend",
    ))
}

/// The workers of all replicas. Dropping it ends them.
#[derive(Debug)]
struct Gateway {
    workers: JoinSet<()>,
    orphans: mpsc::Receiver<i32>,
    tally: Arc<Tally>,
}

/// What became of the tries.
#[derive(Debug, Default)]
struct Tally {
    refused: AtomicU32,
    /// Workers that were told TRUE after the race.
    ready: AtomicU32,
}

impl Gateway {
    fn start(stage: &Stage) -> Self {
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
    async fn orphan(&mut self) -> Result<i32, DemoError> {
        let race = tokio::time::timeout(RACE_WITHIN, self.orphans.recv());
        race.await
            .ok()
            .flatten()
            .ok_or(DemoError::NotStaged("no worker won the race"))
    }

    /// Waits until the workers that could not start have started.
    async fn settle(&mut self, timeline: &mut Timeline, outcome: &mut Outcome) {
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

async fn has_row(client: &Client, sql: &str) -> Result<bool, ServerError> {
    Ok(first_value(client, sql).await?.is_some())
}

async fn first_value(client: &Client, sql: &str) -> Result<Option<String>, ServerError> {
    let answer = client.simple_query(sql).await?;
    Ok(answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_lock_stays_until_the_pooler_reconnects() {
        let stage = Stage::start().await.unwrap();
        let mut gateway = Gateway::start(&stage);
        let pid = gateway.orphan().await.unwrap();
        see_orphan(&stage, pid).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        see_orphan(&stage, pid).await.unwrap();
        assert!(gateway.tally.refused.load(Ordering::Relaxed) >= 23);
        stage.pooler.console("RECONNECT app;").await.unwrap();
        // The backend needs a moment to see that its client is gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(see_orphan(&stage, pid).await.is_err());
        while gateway.workers.join_next().await.is_some() {}
        assert_eq!(gateway.tally.ready.load(Ordering::Relaxed), 23);
    }
}
