//! The truth table of the verdicts: every one of them staged on a real
//! PostgreSQL behind real PgBouncers, and told by the daemon that watches them.

mod common;

use std::sync::Arc;
use std::time::Duration;

use snowpit::daemon::{self, RunningDaemon};
use snowpit::engine::incident::{Incident, Kind};
use snowpit::engine::locks::{AdvisoryLock, Verdict};
use tokio::time::Instant;
use tokio_postgres::Client;

use common::Stage;

/// Long enough for any verdict on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Polls that a verdict must survive before it counts as told.
const STEADY: Duration = Duration::from_secs(4);

struct Watch(RunningDaemon);

impl Watch {
    async fn start(text: &str) -> Self {
        let config = common::parse(text);
        Self(daemon::start(config).await.unwrap())
    }

    fn lock(&self, key: &str) -> Option<AdvisoryLock> {
        let snapshot = self.0.snapshot();
        let target = snapshot.targets.get("main")?;
        let mut locks = target.locks.advisory_locks.iter();
        locks.find(|lock| lock.key == key).cloned()
    }

    fn orphans(&self) -> Vec<Arc<Incident>> {
        let mut open = self.0.snapshot().open.clone();
        open.retain(|incident| incident.kind == Kind::OrphanedAdvisoryLock);
        open
    }

    fn orphan(&self, key: &str) -> Option<Arc<Incident>> {
        let mut open = self.orphans().into_iter();
        open.find(|incident| incident.subject["key"] == key)
    }

    /// Waits for the verdict, and sees it stay for some polls.
    async fn expect(&self, key: &str, verdict: Verdict) -> AdvisoryLock {
        let told = || self.lock(key).is_some_and(|lock| lock.verdict == verdict);
        until(&format!("{key} is {verdict:?}"), told, || {
            format!("{:?}", self.lock(key))
        })
        .await;
        let end = Instant::now() + STEADY;
        while Instant::now() < end {
            assert!(
                told(),
                "{key} did not stay {verdict:?}: {:?}",
                self.lock(key)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.lock(key).unwrap()
    }
}

async fn until(what: &str, reached: impl Fn() -> bool, state: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(
            Instant::now() < end,
            "not within {PATIENCE:?}: {what}; {}",
            state()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn take(client: &Client, key: &str) {
    let sql = format!("SELECT pg_advisory_lock({key})");
    client.simple_query(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verdict_is_told_right() {
    let stage = Stage::start().await;
    let text = stage.configuration(
        "[poolers]\ncomplete = true\n\
         [[advisory_lock]]\nkey = 70\nname = \"leader\"\nallow = true\n",
    );
    let watch = Watch::start(&text).await;

    // Each situation has its own clients, and each client that comes after a
    // lock was left keeps the earlier ones linked or idle as they are.
    let direct = stage.postgres.connect("app", "app").await.unwrap();
    take(&direct, "10").await;
    let session = stage.client("steady", "session-worker").await;
    take(&session, "20").await;
    let linked = stage.client("app", "linked-worker").await;
    linked.simple_query("BEGIN").await.unwrap();
    take(&linked, "30").await;
    direct
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(40); PREPARE TRANSACTION 'payment'")
        .await
        .unwrap();
    let stranded = stage.client("app", "stranded-worker").await;
    take(&stranded, "1, -7").await;

    assert_eq!(watch.expect("10", Verdict::Owned).await.pooler, None);
    let owned = watch.expect("20", Verdict::Owned).await;
    assert_eq!(owned.pool.unwrap().pool_mode, "session");
    let owned = watch.expect("30", Verdict::Owned).await;
    assert_eq!(owned.pooler.as_deref(), Some("pooler-1"));
    let prepared = watch.expect("40", Verdict::Prepared).await;
    assert_eq!(prepared.action, "ROLLBACK PREPARED 'payment';");
    let left = watch.expect("1,-7", Verdict::Stranded).await;
    assert_eq!(left.last_application.as_deref(), Some("stranded-worker"));
    assert!(watch.orphans().is_empty(), "{:?}", watch.orphans());

    // The client goes: now nobody can release it.
    drop(stranded);
    let orphan = watch.expect("1,-7", Verdict::Orphaned).await;
    assert_eq!(orphan.action, "RECONNECT app;  on the console of pooler-1");
    assert_eq!(orphan.database, "app");

    // Another client gets the very server. PgBouncer hands out the server that
    // was used last, and the linked one is taken: it is the one with the lock.
    let other = stage.client("app", "other-worker").await;
    other.simple_query("BEGIN").await.unwrap();
    let carried = watch.expect("1,-7", Verdict::Carried).await;
    assert_eq!(carried.pid, orphan.pid);
    assert!(watch.orphan("1,-7").is_some());
    other.simple_query("COMMIT").await.unwrap();
    watch.expect("1,-7", Verdict::Orphaned).await;

    // The command that the incident names frees it.
    stage.pooler.console("RECONNECT app").await.unwrap();
    until(
        "1,-7 is resolved",
        || watch.orphan("1,-7").is_none(),
        String::new,
    )
    .await;

    // A lock that a person allowed is judged and never paged.
    let leader = stage.client("app", "leader").await;
    take(&leader, "70").await;
    drop(leader);
    let allowed = watch.expect("70", Verdict::Orphaned).await;
    assert_eq!(allowed.names[0], "leader");
    assert!(watch.orphans().is_empty());
    drop((linked, session, direct));
    watch.0.shutdown(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_behind_a_pooler_that_is_not_polled_is_unknown() {
    let stage = Stage::start().await;
    let second = common::pooler(&stage.postgres).await;
    let watch = Watch::start(&stage.configuration("")).await;
    let client = second.connect("app", "app", "hidden").await.unwrap();
    take(&client, "42424242424242").await;
    drop(client);
    let lock = watch.expect("42424242424242", Verdict::Unknown).await;
    assert_eq!(lock.names, ["mcp-context-forge bootstrap"]);
    assert!(watch.orphans().is_empty());

    // The pooler that is polled is judged all the same.
    let client = stage.client("app", "seen").await;
    take(&client, "50").await;
    drop(client);
    watch.expect("50", Verdict::Orphaned).await;
    assert_eq!(watch.orphans().len(), 1);
    watch.0.shutdown(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_idle_holder_from_a_poolers_address_is_suspect() {
    let stage = Stage::start().await;
    let watch = Watch::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\
         [[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
         [poolers]\naddresses = [\"127.0.0.0/8\"]\n\
         [detect.orphaned_advisory_lock]\nsuspect_after = \"3s\"\n",
        stage.postgres.dsn("postgres", "postgres"),
    ))
    .await;
    let client = stage.client("app", "hidden").await;
    take(&client, "-5").await;
    drop(client);
    let lock = watch.expect("-5", Verdict::Suspect).await;
    assert!(lock.age_seconds >= 3.0);
    assert_eq!(
        lock.action,
        format!("SELECT pg_terminate_backend({});", lock.pid.unwrap())
    );
    assert!(watch.orphans().is_empty());
    watch.0.shutdown(Duration::from_secs(3)).await;
}
