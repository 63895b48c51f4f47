//! Sessions that do one thing at a time and may be left waiting.

use std::sync::Arc;
use std::time::Duration;

use snowpit::demo::servers::Postgres;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, Error, Statement};

/// A statement that is neither done nor waiting for a lock by then waits for
/// something else.
const SETTLE: Duration = Duration::from_secs(10);

/// How often a statement that does not answer is looked at.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// One session.
pub struct Actor {
    client: Arc<Client>,
    pub pid: i32,
    pending: Option<JoinHandle<Result<(), Error>>>,
    pub in_transaction: bool,
    savepoint: bool,
    /// The word that the pending statement begins with.
    doing: String,
}

/// All sessions of a situation, and one that looks on.
pub struct Actors {
    pub all: Vec<Actor>,
    pub observer: Client,
    blocked: Statement,
}

const BLOCKED: &str = "\
SELECT EXISTS (
  SELECT FROM pg_lock_status() l LEFT JOIN pg_stat_get_activity(NULL) a ON a.pid = l.pid
  WHERE NOT l.granted AND l.waitstart IS NOT NULL AND (l.pid = $1 OR a.leader_pid = $1))";

impl Actors {
    pub async fn start(postgres: &Postgres, count: usize) -> Self {
        let observer = postgres.connect("postgres", "postgres").await.unwrap();
        let blocked = observer.prepare(BLOCKED).await.unwrap();
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Actor::start(postgres).await);
        }
        Self {
            all,
            observer,
            blocked,
        }
    }

    /// Runs a statement until it is done or waits for a lock; true when it is
    /// done. A session that still waits does nothing.
    pub async fn run(&mut self, at: usize, sql: &str) -> bool {
        if !self.is_free(at).await {
            return false;
        }
        self.all[at].begin(sql);
        self.settle(at).await
    }

    /// As [`run`](Self::run); it must be done.
    pub async fn done(&mut self, at: usize, sql: &str) {
        assert!(self.run(at, sql).await, "{sql} of session {at} waits");
    }

    /// As [`run`](Self::run); it must wait.
    pub async fn waits(&mut self, at: usize, sql: &str) {
        assert!(
            !self.run(at, sql).await,
            "{sql} of session {at} does not wait"
        );
    }

    /// Until the session has an answer (true) or waits for a lock.
    pub async fn settle(&mut self, at: usize) -> bool {
        let end = Instant::now() + SETTLE;
        while Instant::now() < end {
            if self.is_free(at).await {
                return true;
            }
            let pid = self.all[at].pid;
            let row = self.observer.query_one(&self.blocked, &[&pid]).await;
            if row.unwrap().get(0) {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        false
    }

    /// Whether the session has an answer to its last statement; takes it.
    pub async fn is_free(&mut self, at: usize) -> bool {
        let actor = &mut self.all[at];
        match &actor.pending {
            Some(pending) if !pending.is_finished() => return false,
            None => return true,
            Some(_) => {}
        }
        let answer = actor.pending.take().unwrap().await.unwrap();
        match answer {
            Ok(()) => actor.answered(),
            Err(error) => {
                assert!(error.as_db_error().is_some(), "a session broke: {error}");
                actor.failed().await;
            }
        }
        true
    }

    /// Ends what a session waits for.
    pub async fn cancel(&mut self, at: usize) {
        let pid = self.all[at].pid;
        let end = Instant::now() + SETTLE;
        while !self.is_free(at).await {
            assert!(Instant::now() < end, "session {at} cannot be cancelled");
            let sql = "SELECT pg_cancel_backend($1)";
            self.observer.query(sql, &[&pid]).await.unwrap();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends everything that the sessions hold and wait for.
    pub async fn clear(&mut self) {
        for at in 0..self.all.len() {
            self.cancel(at).await;
            let actor = &mut self.all[at];
            let end = "ROLLBACK; SELECT pg_advisory_unlock_all()";
            actor.client.batch_execute(end).await.unwrap();
            actor.in_transaction = false;
            actor.savepoint = false;
        }
        let sql = "SELECT gid FROM pg_prepared_xacts";
        for row in self.observer.query(sql, &[]).await.unwrap() {
            let gid: String = row.get(0);
            let sql = format!("ROLLBACK PREPARED '{gid}'");
            self.observer.batch_execute(&sql).await.unwrap();
        }
    }
}

impl Actor {
    async fn start(postgres: &Postgres) -> Self {
        let client = postgres.connect("postgres", "postgres").await.unwrap();
        let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
        Self {
            pid: row.unwrap().get(0),
            client: Arc::new(client),
            pending: None,
            in_transaction: false,
            savepoint: false,
            doing: String::new(),
        }
    }

    fn begin(&mut self, sql: &str) {
        let client = Arc::clone(&self.client);
        let sql = sql.to_owned();
        self.doing = sql.split(' ').next().unwrap_or_default().to_owned();
        self.pending = Some(tokio::spawn(
            async move { client.batch_execute(&sql).await },
        ));
    }

    fn answered(&mut self) {
        match self.doing.as_str() {
            "BEGIN" => self.in_transaction = true,
            "SAVEPOINT" => self.savepoint = true,
            "COMMIT" | "PREPARE" | "ROLLBACK" => {
                self.in_transaction = false;
                self.savepoint = false;
            }
            _ => {}
        }
    }

    /// A failed statement leaves a transaction that can only be rolled back.
    async fn failed(&mut self) {
        if !self.in_transaction {
            return;
        }
        let back = "ROLLBACK TO SAVEPOINT s";
        // A failed COMMIT or PREPARE has ended it already.
        if self.savepoint && self.client.batch_execute(back).await.is_ok() {
            return;
        }
        self.client.batch_execute("ROLLBACK").await.unwrap();
        self.in_transaction = false;
        self.savepoint = false;
    }
}
