//! The daemon is killed in the middle of an avalanche and started again: it knows
//! what is normal without a second warm-up, and finds the avalanche at once.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use common::Stage;

/// Long enough that a second one would be noticed.
const WARM_UP: Duration = Duration::from_secs(40);
/// Rows are handed to the disk once a minute: one hand-over must have happened.
const BEFORE_THE_STORM: Duration = Duration::from_secs(66);
const PATIENCE: Duration = Duration::from_secs(60);
const NORMAL: usize = 3;
const STORM: usize = 40;

struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    async fn start(stage: &Stage, history: &Path, directory: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let more = format!(
            "[history]\ndirectory = \"{}\"\n[detect.connection_avalanche]\nwarm_up = \"{}s\"\n",
            history.display(),
            WARM_UP.as_secs(),
        );
        let text = stage.configuration(&more).replace("127.0.0.1:0", &address);
        let file = directory.join("snowpit.toml");
        std::fs::write(&file, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_snowpit"))
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let daemon = Self { child, address };
        daemon.until("it answers", |_| true).await;
        daemon
    }

    /// The body of an answer.
    async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    async fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.get(path).await?).ok()
    }

    /// Waits for something in the newest look at the target; gives it and the
    /// time that it took.
    async fn until(&self, what: &str, met: impl Fn(&Value) -> bool) -> (Value, Duration) {
        let began = Instant::now();
        loop {
            let targets = self.json("/api/v1/targets").await;
            let target = targets.map(|all| all["targets"][0].clone());
            if let Some(target) = target.filter(|target| met(target)) {
                return (target, began.elapsed());
            }
            let late = began.elapsed() > PATIENCE;
            assert!(!late, "{what}: not within {PATIENCE:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

fn avalanche(target: &Value) -> bool {
    let open = target["open_incidents"].as_array();
    open.is_some_and(|open| {
        open.iter()
            .any(|id| id.as_str().unwrap().contains("avalanche"))
    })
}

async fn busy(stage: &Stage, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let client = stage.postgres.connect("app", "app").await.unwrap();
        let sleeping = client.simple_query_raw("SELECT pg_sleep(600)").await;
        // It has been sent; nobody waits for its end.
        drop(sleeping);
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_knows_its_normal_again() {
    let stage = Stage::start().await;
    let directory = tempfile::tempdir().unwrap();
    let history = directory.path().join("history");
    let normal = busy(&stage, NORMAL).await;

    let began = Instant::now();
    let daemon = Daemon::start(&stage, &history, directory.path()).await;
    let (_, warm_up) = daemon
        .until("a band", |target| !target["expected"].is_null())
        .await;
    assert!(
        warm_up > WARM_UP / 2,
        "it had to warm up first: {warm_up:?}"
    );
    tokio::time::sleep_until(began + BEFORE_THE_STORM).await;
    let storm = busy(&stage, STORM).await;
    let (before, _) = daemon.until("an avalanche", avalanche).await;
    sleep(Duration::from_secs(3)).await;
    daemon.kill().await;

    let daemon = Daemon::start(&stage, &history, directory.path()).await;
    let (after, band) = daemon
        .until("the band", |target| !target["expected"].is_null())
        .await;
    let (_, found) = daemon.until("the avalanche again", avalanche).await;
    println!("after the restart: band in {band:.2?}, avalanche in {found:.2?}");
    assert!(band < WARM_UP / 4, "a second warm-up: {band:?}");
    assert!(found < WARM_UP / 4, "a second warm-up: {found:?}");
    let expected = |target: &Value| target["expected"].as_f64().unwrap();
    assert!(
        (expected(&after) - expected(&before)).abs() < 0.5,
        "{before} {after}"
    );
    // The page shows a target once it has been looked at.
    daemon
        .until("a look", |target| target["fresh"] == true)
        .await;
    let page = daemon.get("/metrics").await.unwrap();
    assert!(
        page.contains("snowpit_connections_upper{target=\"main\"}"),
        "{page}"
    );

    // Both lives are one series, with the gap between them.
    let query = "/api/v1/series?match=snowpit_sessions_in_use%7Btarget%3D%22main%22%7D";
    let answer = daemon.json(query).await.unwrap();
    let values = answer["series"][0]["values"].as_array().unwrap();
    let at = |value: &Value| (value[0].as_f64().unwrap(), value[1].as_f64().unwrap());
    let quiet = values
        .iter()
        .map(at)
        .filter(|(_, y)| *y == NORMAL as f64)
        .count();
    assert!(
        quiet > 40,
        "{quiet} quiet looks of the first life: {answer}"
    );
    assert!(
        values.iter().map(at).any(|(_, y)| y >= STORM as f64),
        "{answer}"
    );
    let times: Vec<f64> = values.iter().map(at).map(|(t, _)| t).collect();
    assert!(times.is_sorted_by(|a, b| a < b));

    let refused = daemon.json("/api/v1/series?match=up%7B").await.unwrap();
    assert!(
        refused["error"].as_str().unwrap().contains("label"),
        "{refused}"
    );
    drop((normal, storm));
}
