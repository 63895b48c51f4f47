//! Orphans over and over, with the times printed, and the traffic that must
//! never look like one.

mod common;

use std::process::Stdio;
use std::time::Duration;

use snowpit::daemon::{self, RunningDaemon};
use snowpit::engine::incident::Kind;
use tokio::time::Instant;

use common::Stage;

const KEY: &str = "42424242424242";
/// What is told to people: the acceptance of a declared and a cleared orphan.
const DECLARED_WITHIN: Duration = Duration::from_secs(4);
const CLEARED_WITHIN: Duration = Duration::from_secs(5);
/// A slow machine may take longer, but not for ever.
const PATIENCE: Duration = Duration::from_secs(30);

async fn watch(stage: &Stage) -> RunningDaemon {
    let text = stage.configuration("[poolers]\ncomplete = true\n");
    daemon::start(common::parse(&text)).await.unwrap()
}

fn orphans(daemon: &RunningDaemon) -> usize {
    let open = &daemon.snapshot().open;
    let orphan = open.iter().filter(|i| i.kind == Kind::OrphanedAdvisoryLock);
    orphan.count()
}

/// Time until the number of open orphans is `n`.
async fn until(daemon: &RunningDaemon, n: usize) -> Duration {
    let began = Instant::now();
    while orphans(daemon) != n {
        let late = began.elapsed() >= PATIENCE;
        assert!(!late, "{n} orphans not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

/// The client disconnects at another phase of the polls each time, now at once
/// and now after some polls have seen it with the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_orphans_are_declared_and_cleared() {
    const ROUNDS: u32 = 20;
    let stage = Stage::start().await;
    let daemon = watch(&stage).await;
    // Somebody else uses the pool all the time.
    let bystander = stage.client("app", "bystander").await;
    let busy = tokio::spawn(async move {
        while bystander.simple_query("SELECT 1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut declared = Vec::new();
    let mut cleared = Vec::new();
    for round in 0..ROUNDS {
        let client = stage.client("app", "gateway").await;
        let sql = format!("SELECT pg_advisory_lock({KEY})");
        client.simple_query(&sql).await.unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 137)).await;
        let accused = orphans(&daemon);
        assert_eq!(accused, 0, "round {round}: its client is still connected");
        drop(client);
        declared.push(until(&daemon, 1).await);
        stage.pooler.console("RECONNECT app").await.unwrap();
        cleared.push(until(&daemon, 0).await);
    }
    busy.abort();
    for (what, times, limit) in [
        ("declared", &declared, DECLARED_WITHIN),
        ("cleared", &cleared, CLEARED_WITHIN),
    ] {
        let in_time = times.iter().filter(|time| **time <= limit).count();
        let longest = times.iter().max().unwrap();
        println!("{what}: {in_time} of {ROUNDS} within {limit:?}, longest {longest:.2?}");
    }
    let told: u64 = daemon.snapshot().incidents_total.values().sum();
    assert_eq!(told, u64::from(ROUNDS));
    daemon.shutdown(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_locks_and_a_leader_open_no_incident() {
    let stage = Stage::start().await;
    let daemon = watch(&stage).await;
    let leader = stage.postgres.connect("app", "app").await.unwrap();
    leader
        .batch_execute("SELECT pg_advisory_lock(7777)")
        .await
        .unwrap();
    let mut effects = daemon.effects();

    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("xact_locks.sql");
    std::fs::write(
        &script,
        "\\set key random(1, 20)\nBEGIN;\nSELECT pg_advisory_xact_lock(:key);\nSELECT pg_sleep(0.01);\nCOMMIT;\n",
    )
    .unwrap();
    let output = tokio::process::Command::new(pgbench())
        .args(["-n", "-M", "simple", "-c", "8", "-j", "2", "-T", "60", "-f"])
        .arg(&script)
        .args(["-h", "127.0.0.1", "-U", "app", "-p"])
        .arg(stage.pooler.port().to_string())
        .arg("app")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let transactions = said
        .lines()
        .find(|line| line.contains("actually processed"));
    println!("{}", transactions.unwrap_or("pgbench gave no count"));

    let snapshot = daemon.snapshot();
    let seen = &snapshot.targets["main"].locks.advisory_locks;
    assert!(
        seen.iter().any(|lock| lock.key == "7777"),
        "the leader's lock was seen"
    );
    assert!(
        effects.try_recv().is_err(),
        "something was told of harmless traffic"
    );
    assert!(snapshot.open.is_empty());
    daemon.shutdown(Duration::from_secs(3)).await;
}

/// Debian keeps it beside the server, not in PATH.
fn pgbench() -> std::path::PathBuf {
    let mut places: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin/pgbench"))
        .filter(|path| path.exists())
        .collect();
    places.sort();
    places.pop().unwrap_or_else(|| "pgbench".into())
}
