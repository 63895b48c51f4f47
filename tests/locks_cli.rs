//! `snowpit locks` against real servers: an orphan, a blocked session, and a
//! source that does not answer.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use snowpit::demo::servers::{Postgres, PostgresOptions};
use tokio::process::Command;

use common::Stage;

async fn locks(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .arg("locks")
        .args(arguments)
        .output()
        .await
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Beside the target there is one that does not answer.
fn config(directory: &Path, stage: &Stage) -> String {
    let file = directory.join("snowpit.toml");
    let text = stage.configuration(
        "[[postgres]]\nname = \"dead\"\ndsn = \"postgresql://nobody@127.0.0.1:1/postgres\"\n\
         [poolers]\ncomplete = true\n",
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn an_orphan_and_a_blocked_session_are_shown_with_the_command_that_helps() {
    let stage = Stage::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), &stage);

    let quiet = locks(&["--config", &config]).await;
    assert_eq!(quiet.status.code(), Some(0), "{}", text(&quiet.stderr));
    assert!(text(&quiet.stdout).contains("Nobody waits for a lock."));

    let Stage { postgres, pooler } = stage;
    let client = pooler.connect("app", "app", "gateway").await.unwrap();
    let taken = client
        .simple_query("SELECT pg_try_advisory_lock(42424242424242)")
        .await;
    taken.unwrap();
    drop(client);

    let owner = postgres.connect("app", "app").await.unwrap();
    owner
        .batch_execute("SELECT pg_advisory_lock(1, 7)")
        .await
        .unwrap();
    let waiter = postgres.connect("app", "app").await.unwrap();
    let waiting =
        tokio::spawn(async move { waiter.batch_execute("SELECT pg_advisory_lock(1, 7)").await });
    tokio::time::sleep(Duration::from_millis(1500)).await;

    let shown = locks(&["--config", &config]).await;
    let (out, err) = (text(&shown.stdout), text(&shown.stderr));
    assert_eq!(shown.status.code(), Some(1), "{out}{err}");
    assert!(
        out.contains("42424242424242") && out.contains("orphaned"),
        "{out}"
    );
    assert!(out.contains("RECONNECT app;"), "{out}");
    assert!(out.contains("blocks 1"), "{out}");
    assert!(out.contains("1,7"), "{out}");
    let complaints = err
        .lines()
        .filter(|line| line.starts_with("postgres dead: "));
    assert_eq!(complaints.count(), 1, "{err}");

    let json = locks(&["--config", &config, "--json"]).await;
    assert_eq!(json.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&json.stdout).unwrap();
    let targets = document["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 1, "the dead server has no locks to show");
    assert_eq!(targets[0]["name"], "main");
    let orphan = targets[0]["advisory_locks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|lock| lock["key"] == "42424242424242")
        .unwrap();
    assert_eq!(orphan["verdict"], "orphaned");
    assert_eq!(orphan["pool"]["pool_mode"], "transaction");
    let root = &targets[0]["root_blockers"][0];
    assert_eq!(root["waiters"], 1);
    assert_eq!(root["tree"][0]["waits_for"]["locktype"], "advisory");

    // Without the pooler nobody can tell, and the program says so.
    let alone = locks(&["--dsn", &postgres.dsn("postgres", "postgres"), "--json"]).await;
    assert!(text(&alone.stderr).contains("no pooler is configured"));
    let document: Value = serde_json::from_slice(&alone.stdout).unwrap();
    let verdicts = document["targets"][0]["advisory_locks"].as_array().unwrap();
    let orphan = verdicts.iter().find(|lock| lock["key"] == "42424242424242");
    assert_eq!(orphan.unwrap()["verdict"], "unknown");

    drop(owner);
    tokio::time::timeout(Duration::from_secs(5), waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    pooler.stop().await;
    postgres.stop().await;
}

#[tokio::test]
async fn a_wrong_configuration_is_status_two_and_a_dead_server_status_one() {
    let missing = locks(&["--config", "/nonexistent/snowpit.toml"]).await;
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("/nonexistent/snowpit.toml"));

    let dead = locks(&["--dsn", "postgresql://nobody@127.0.0.1:1/postgres"]).await;
    assert_eq!(dead.status.code(), Some(1));
    let said = text(&dead.stderr);
    let complaints = said
        .lines()
        .filter(|line| line.starts_with("postgres main: "));
    assert_eq!(complaints.count(), 1, "{said}");
    assert!(dead.stdout.is_empty());
}

#[tokio::test]
async fn a_source_that_says_nothing_is_waited_for_once() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snowpit.toml");
    let text = format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
         [[postgres]]\nname = \"mute\"\n\
         dsn = \"postgresql://nobody@{}/postgres?connect_timeout=2\"\n",
        postgres.dsn("postgres", "postgres"),
        mute.local_addr().unwrap(),
    );
    std::fs::write(&file, text).unwrap();
    let output = locks(&["--config", &file.display().to_string()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text_of(&output));
    let said = text_of(&output);
    assert!(said.contains("Target main"), "{said}");
    assert!(
        said.contains("mute: ") && said.contains("did not answer within 2 s"),
        "{said}"
    );

    // What has been accepted by the kernel is all there.
    let mut connections = 0;
    while let Ok(accepted) = tokio::time::timeout(Duration::from_millis(200), mute.accept()).await {
        accepted.unwrap();
        connections += 1;
    }
    assert_eq!(connections, 1, "asked in both looks");
    postgres.stop().await;
}

fn text_of(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test]
async fn a_reader_that_goes_away_makes_no_panic() {
    for arguments in [
        ["demo", "--scenario", "list"],
        ["locks", "--dsn", "postgresql://nobody@127.0.0.1:1/postgres"],
        ["check", "--config", "config.example.toml"],
        ["run", "--config", "/nowhere/snowpit.toml"],
    ] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_snowpit"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((program.stdout.take(), program.stderr.take()));
        let status = program.wait().await.unwrap().code();
        // 101 is that of a panic, no code that of a signal.
        let expected = match arguments[0] {
            "demo" => 0,
            "run" => 2,
            _ => 1,
        };
        assert_eq!(status, Some(expected), "{arguments:?}");
    }
}
