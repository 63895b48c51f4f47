//! The daemon is killed in the middle of an incident and started again: the
//! incident is the same, and ends when it is over.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::Stage;
use serde_json::Value;
use snowpit::engine::incident::Incident;
use snowpit::expose::journal::Journal;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Longer than a detector's patience with what it cannot find again.
const GRACE: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    process: Child,
    url: String,
    config: PathBuf,
}

fn start(config: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
    command.arg("run").arg("--config").arg(config);
    command.stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

impl Daemon {
    fn start(stage: &Stage, directory: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let more = format!(
            "[poolers]\ncomplete = true\n[history]\ndirectory = \"{}\"\ncapture = true\n",
            directory.join("history").display()
        );
        let text = stage.configuration(&more);
        let text = text.replace("127.0.0.1:0", &address.to_string());
        let config = directory.join("snowpit.toml");
        fs::write(&config, text).unwrap();
        Self {
            process: start(&config),
            url: format!("http://{address}"),
            config,
        }
    }

    async fn kill_and_start_again(&mut self) {
        // SIGKILL: no chance to put anything in order.
        self.process.kill().await.unwrap();
        self.process = start(&self.config);
    }

    async fn incidents(&self) -> Option<Vec<Incident>> {
        let answer = reqwest::get(format!("{}/api/v1/incidents", self.url)).await;
        let answer: Value = answer.ok()?.json().await.ok()?;
        serde_json::from_value(answer["incidents"].clone()).ok()
    }

    /// The only incident, once it is as wanted.
    async fn incident(&self, what: &str, wanted: impl Fn(&Incident) -> bool) -> Incident {
        let began = Instant::now();
        loop {
            if let Some(incidents) = self.incidents().await {
                assert!(incidents.len() <= 1, "{incidents:?}");
                if let Some(incident) = incidents.into_iter().find(|i| wanted(i)) {
                    return incident;
                }
            }
            assert!(began.elapsed() < PATIENCE, "not {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn opened_in_this_life(&self) -> f64 {
        let page = reqwest::get(format!("{}/metrics", self.url)).await.unwrap();
        let page = page.text().await.unwrap();
        let lines = page.lines();
        lines
            .filter(|line| line.starts_with("snowpit_incidents_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_incident_survives_kill_9() {
    snowpit::observe::tls::use_ring();
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start().await;
    let mut daemon = Daemon::start(&stage, directory.path());
    let client = stage.client("app", "gateway").await;
    client
        .simple_query("SELECT pg_advisory_lock(42424242424242)")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(client);
    let before = daemon.incident("opened", |_| true).await;
    assert_eq!(before.resolved_at, None);

    for _ in 0..2 {
        daemon.kill_and_start_again().await;
        let after = daemon.incident("there again", |_| true).await;
        assert_eq!((&after.id, after.opened_at), (&before.id, before.opened_at));
        assert_eq!(after.resolved_at, None);
    }
    tokio::time::sleep(GRACE).await;
    let still = daemon.incident("still there", |_| true).await;
    assert_eq!((&still.id, still.resolved_at), (&before.id, None));
    assert_eq!(still.subject["verdict"], "orphaned");
    assert_eq!(still.onset_at, before.onset_at);
    assert_eq!(daemon.opened_in_this_life().await, 0.0, "it is no new one");

    stage.pooler.console("RECONNECT app").await.unwrap();
    let over = daemon
        .incident("resolved", |incident| incident.resolved_at.is_some())
        .await;
    assert_eq!(over.id, before.id);

    let journal = Journal::load(&directory.path().join("history")).unwrap();
    assert_eq!(journal.entries().len(), 1, "one incident from end to end");
    assert_eq!(journal.damaged, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_that_ended_while_the_daemon_was_down_is_resolved() {
    snowpit::observe::tls::use_ring();
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start().await;
    let mut daemon = Daemon::start(&stage, directory.path());
    let client = stage.client("app", "gateway").await;
    client
        .simple_query("SELECT pg_advisory_lock(42424242424242)")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(client);
    let before = daemon.incident("opened", |_| true).await;
    daemon.process.kill().await.unwrap();
    stage.pooler.console("RECONNECT app").await.unwrap();
    daemon.process = start(&daemon.config);
    let over = daemon
        .incident("resolved", |incident| incident.resolved_at.is_some())
        .await;
    assert_eq!(over.id, before.id);
}
