//! Orphans over and over, with the times printed, and the traffic that must
//! never look like one.

use std::process::Stdio;
use std::time::Duration;

use snowpit::config::Config;
use snowpit::daemon::{self, RunningDaemon};
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions};
use snowpit::engine::incident::Kind;
use tokio::time::Instant;

const KEY: &str = "42424242424242";
/// What is told to people: the acceptance of a declared and a cleared orphan.
const DECLARED_WITHIN: Duration = Duration::from_secs(4);
const CLEARED_WITHIN: Duration = Duration::from_secs(5);
/// A slow machine may take longer, but not for ever.
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    postgres: Postgres,
    pooler: PgBouncer,
    daemon: RunningDaemon,
}

async fn stage() -> Stage {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
        postgres.execute("postgres", sql).await.unwrap();
    }
    let pooler = PgBouncer::start(PgBouncerOptions {
        databases: vec![Alias::new("app", postgres.port())],
        users: vec![("app".into(), String::new())],
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\
         [[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
         [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n\
         [poolers]\ncomplete = true\n",
        postgres.dsn("postgres", "postgres"),
        pooler.console_dsn(),
    );
    let config = Config::parse(&text, "test", |_| None).unwrap_or_else(|e| panic!("{e}"));
    let daemon = daemon::start(config).await.unwrap();
    Stage {
        postgres,
        pooler,
        daemon,
    }
}

impl Stage {
    fn orphans(&self) -> usize {
        let open = &self.daemon.snapshot().open;
        let orphan = open.iter().filter(|i| i.kind == Kind::OrphanedAdvisoryLock);
        orphan.count()
    }

    /// Time until the number of open orphans is `n`.
    async fn until(&self, n: usize) -> Duration {
        let began = Instant::now();
        while self.orphans() != n {
            assert!(
                began.elapsed() < PATIENCE,
                "{n} orphans not within {PATIENCE:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        began.elapsed()
    }
}

/// The client disconnects at another phase of the polls each time, now at once
/// and now after some polls have seen it with the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_orphans_are_declared_and_cleared() {
    const ROUNDS: u32 = 20;
    let stage = stage().await;
    // Somebody else uses the pool all the time.
    let bystander = stage
        .pooler
        .connect("app", "app", "bystander")
        .await
        .unwrap();
    let busy = tokio::spawn(async move {
        while bystander.simple_query("SELECT 1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut declared = Vec::new();
    let mut cleared = Vec::new();
    for round in 0..ROUNDS {
        let client = stage.pooler.connect("app", "app", "gateway").await.unwrap();
        let sql = format!("SELECT pg_advisory_lock({KEY})");
        client.simple_query(&sql).await.unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 137)).await;
        assert_eq!(
            stage.orphans(),
            0,
            "round {round}: its client is still connected"
        );
        drop(client);
        declared.push(stage.until(1).await);
        stage.pooler.console("RECONNECT app").await.unwrap();
        cleared.push(stage.until(0).await);
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
    assert_eq!(
        stage
            .daemon
            .snapshot()
            .incidents_total
            .values()
            .sum::<u64>(),
        u64::from(ROUNDS)
    );
    stage.daemon.shutdown(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_locks_and_a_leader_open_no_incident() {
    let stage = stage().await;
    let leader = stage.postgres.connect("app", "app").await.unwrap();
    leader
        .batch_execute("SELECT pg_advisory_lock(7777)")
        .await
        .unwrap();
    let mut effects = stage.daemon.effects();

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

    let snapshot = stage.daemon.snapshot();
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
    stage.daemon.shutdown(Duration::from_secs(3)).await;
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
