//! Advisory locks of real tools: each holds its lock while a slow migration
//! runs, and the daemon says whose lock that is.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use snowpit::daemon;
use snowpit::engine::locks::{AdvisoryLock, Verdict};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use common::Stage;

/// Not the name that other tests use: some keys are made of it.
const DATABASE: &str = "shop_production";
/// An interpreter that starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools")
}

/// Runs `command`, which takes a lock in [`DATABASE`] and keeps it for a while,
/// and gives what the daemon says of that lock.
async fn locked_by(command: impl FnOnce(u16) -> Command) -> AdvisoryLock {
    let stage = Stage::start().await;
    let sql = format!("CREATE DATABASE {DATABASE} OWNER app");
    stage.postgres.execute("postgres", &sql).await.unwrap();
    let text = stage.configuration("[poolers]\ncomplete = true\n");
    let daemon = daemon::start(common::parse(&text)).await.unwrap();
    let mut tool = command(stage.postgres.port())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the tool is there; scripts/deps installs it");
    let began = Instant::now();
    let lock = loop {
        let snapshot = daemon.snapshot();
        let locks = snapshot.targets.get("main").map(|target| &target.locks);
        let mut of_tool = locks
            .into_iter()
            .flat_map(|locks| &locks.advisory_locks)
            .filter(|lock| lock.database == DATABASE && lock.verdict == Verdict::Owned);
        if let Some(lock) = of_tool.next() {
            break lock.clone();
        }
        let ended = tool.try_wait().unwrap();
        let late = began.elapsed() > PATIENCE || ended.is_some();
        assert!(!late, "no lock, {ended:?}: {}", said(tool).await);
        sleep(Duration::from_millis(100)).await;
    };
    println!("{} is {:?}, {}", lock.key, lock.names, lock.reason);
    assert_eq!(lock.mode, "ExclusiveLock");
    let held = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
         WHERE l.locktype = 'advisory' AND granted AND a.datname = '{DATABASE}'"
    );
    let eyes = stage
        .postgres
        .connect("postgres", "postgres")
        .await
        .unwrap();
    let held: i64 = eyes.query_one(&held, &[]).await.unwrap().get(0);
    assert_eq!(held, 1, "the tool holds this lock and no other");
    tool.kill().await.unwrap();
    daemon.shutdown(Duration::from_secs(3)).await;
    lock
}

async fn said(mut tool: Child) -> String {
    let _ = tool.kill().await;
    let output = tool.wait_with_output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    stderr + &String::from_utf8_lossy(&output.stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rails() {
    let lock = locked_by(|port| {
        let mut ruby = Command::new("ruby");
        ruby.arg(tools().join("active_record.rb"))
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGUSER", "app")
            .env("PGDATABASE", DATABASE);
        ruby
    })
    .await;
    assert_eq!(lock.names, ["Rails migrations"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_pg_migrate() {
    let lock = locked_by(|port| {
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/node-pg-migrate");
        let mut node = Command::new(installed.join("node_modules/.bin/node-pg-migrate"));
        node.arg("up")
            .arg("--migrations-dir")
            .arg(tools().join("node-pg-migrate/migrations"))
            .current_dir(installed)
            .env(
                "DATABASE_URL",
                format!("postgres://app@127.0.0.1:{port}/{DATABASE}"),
            );
        node
    })
    .await;
    assert_eq!(lock.key, "7241865325823964");
    assert_eq!(lock.names, ["node-pg-migrate"]);
}
