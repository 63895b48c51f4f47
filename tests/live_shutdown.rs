//! The end of the daemon, in order and out of order, while everybody wants
//! something of it: what was accepted is kept.

mod common;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::Stage;
use common::daemon::{Daemon, until};
use common::faults::Row;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use snowpit::capture::Captures;
use snowpit::demo::servers::{Postgres, PostgresOptions};
use snowpit::expose::journal::Journal;
use snowpit::observe::poll::unix_now;
use snowpit::sample::{Report, TrafficVia};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Of docs/faults.md.
const SECTION: &str = "The daemon itself";

/// What the contract gives the daemon after SIGTERM.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

/// Event streams open at a time.
const PAGES: usize = 40;

/// A route that the load tells of.
const ROUTE: &str = "GET /orders";

/// A stage, a server that will not answer any more, and a daemon in front of
/// both.
struct Scene {
    stage: Stage,
    frozen: Postgres,
    daemon: Daemon,
    otlp: String,
    /// Requests that the daemon has acknowledged.
    accepted: Arc<AtomicU64>,
    load: JoinSet<()>,
}

impl Scene {
    async fn start(directory: &Path) -> Self {
        let stage = Stage::start().await;
        let frozen = Postgres::start(PostgresOptions::default()).await.unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let otlp = free.local_addr().unwrap();
        drop(free);
        let more = format!(
            "[[postgres]]\nname = \"frozen\"\ndsn = \"{}\"\n[otlp]\nhttp_listen = \"{otlp}\"\n\
             [poolers]\ncomplete = true\n[history]\ndirectory = \"{}\"\ncapture = true\n\
             [[service]]\nname = \"shop\"\ntargets = [\"main\"]\napplications = [\"shop\"]\n",
            frozen.dsn("postgres", "postgres"),
            directory.join("history").display(),
        );
        let daemon = Daemon::start(directory, &stage.configuration(&more));
        daemon.ready().await;
        Self {
            stage,
            frozen,
            daemon,
            otlp: format!("http://{otlp}/v1/metrics"),
            accepted: Arc::default(),
            load: JoinSet::new(),
        }
    }

    /// Pages, scrapers and exporters, until the load is dropped.
    fn load(&mut self) {
        let client = reqwest::Client::new();
        for n in 0..PAGES {
            let (client, url) = (client.clone(), format!("{}/api/v1/events", self.daemon.url));
            self.load.spawn(async move {
                let Ok(mut events) = client.get(url).send().await else {
                    return;
                };
                // Every other one listens and does not read.
                while n % 2 == 0 && matches!(events.chunk().await, Ok(Some(_))) {}
                sleep(Duration::from_secs(3600)).await;
            });
        }
        for path in ["/metrics", "/api/v1/locks", "/api/v1/targets"] {
            let (client, url) = (client.clone(), format!("{}{path}", self.daemon.url));
            self.load.spawn(async move {
                while let Ok(answer) = client.get(&url).send().await {
                    let _ = answer.bytes().await;
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
        for _ in 0..4 {
            let (client, url) = (client.clone(), self.otlp.clone());
            let accepted = Arc::clone(&self.accepted);
            self.load.spawn(async move {
                // A refused one was not accepted; the next may be.
                while let Ok(answer) = client.post(&url).json(&export()).send().await {
                    if answer.status().is_success() {
                        accepted.fetch_add(1, Ordering::SeqCst);
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
    }

    /// An incident that lasts until somebody frees the lock.
    async fn orphan(&self) -> Value {
        let client = self.stage.client("app", "gateway").await;
        let lock = "SELECT pg_advisory_lock(42424242424242)";
        client.simple_query(lock).await.unwrap();
        until("the lock", async || {
            let locks = self.daemon.metric("snowpit_advisory_locks", "main").await;
            locks.filter(|locks| *locks > 0.0)
        })
        .await;
        drop(client);
        until("opened", async || self.daemon.incidents().await.pop()).await
    }

    /// The server keeps its connections open and says nothing on them.
    async fn freeze(&self) {
        let client = self.frozen.connect("postgres", "postgres").await.unwrap();
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'snowpit'";
        let pid: i32 = client.query_one(sql, &[]).await.unwrap().get(0);
        for pid in [pid, self.frozen.pid()] {
            kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        }
    }

    fn thaw(&self) {
        kill(Pid::from_raw(self.frozen.pid()), Signal::SIGCONT).unwrap();
    }
}

/// One request of [`ROUTE`] that ended now.
fn export() -> Value {
    let now = (unix_now() * 1e9) as u64;
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    json!({"resourceMetrics": [{
        "resource": {"attributes": [attribute("service.name", "shop")]},
        "scopeMetrics": [{"metrics": [{
            "name": "http.server.request.duration", "unit": "s",
            "histogram": {"aggregationTemporality": 1, "dataPoints": [{
                "attributes": [
                    attribute("http.request.method", "GET"),
                    attribute("http.route", "/orders"),
                ],
                "startTimeUnixNano": (now - 1_000_000_000).to_string(),
                "timeUnixNano": now.to_string(),
                "count": "1", "sum": 0.02, "bucketCounts": ["1", "0"], "explicitBounds": [0.1],
            }]},
        }]}],
    }]})
}

/// Requests of [`ROUTE`] in the captures, and the time of the newest sample.
fn captured(history: &Path) -> (u64, f64) {
    let mut captures = Captures::open(&[history.join("captures")]).unwrap();
    let (mut requests, mut newest) = (0.0, 0.0_f64);
    while let Some(next) = captures.next() {
        let sample = match next {
            Ok(sample) => sample,
            // What a kill leaves.
            Err(rejected) if rejected.problem.is_harmless() => continue,
            Err(rejected) => panic!("{rejected}"),
        };
        newest = newest.max(sample.t);
        if let Report::Traffic(report) = sample.report
            && report.via == Some(TrafficVia::OtlpMetrics)
        {
            let of_it = report.routes.iter().filter(|route| route.route == ROUTE);
            requests += of_it.map(|route| route.requests).sum::<f64>();
        }
    }
    (requests as u64, newest)
}

/// The times of the values that the history has of the server's connections.
async fn remembered(daemon: &Daemon, from: f64) -> Vec<f64> {
    let path = format!(
        "/api/v1/series?match=snowpit_connections_limit%7Btarget%3D%22main%22%7D&start={from}&end={}",
        unix_now()
    );
    let answer = until("the series", async || daemon.json(&path).await).await;
    let points = answer["series"][0]["values"].as_array().cloned();
    let times = points.unwrap_or_default().into_iter();
    times.filter_map(|point| point[0].as_f64()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_keeps_what_was_accepted_and_ends_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let history = directory.path().join("history");
    let mut scene = Scene::start(directory.path()).await;
    let began = unix_now();
    let incident = scene.orphan().await;
    scene.load();
    until("load", async || {
        let accepted = scene.accepted.load(Ordering::SeqCst) >= 200;
        let status = scene.daemon.json("/api/v1/status").await?;
        (accepted && status["pages"].as_u64()? >= PAGES as u64 / 2).then_some(())
    })
    .await;
    scene.freeze().await;
    // An exporter that began and does not go on.
    let address = scene.otlp.split('/').nth(2).unwrap();
    let mut slow = TcpStream::connect(address).unwrap();
    let head = "POST /v1/metrics HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                Content-Length: 5000\r\n\r\n{";
    slow.write_all(head.as_bytes()).unwrap();
    sleep(Duration::from_secs(2)).await;

    let told_at = unix_now();
    scene.daemon.signal(Signal::SIGTERM);
    let (status, took) = scene.daemon.ended().await;
    scene.thaw();
    // Whoever was about to count an answer has counted it.
    sleep(Duration::from_millis(500)).await;
    scene.load.shutdown().await;
    let accepted = scene.accepted.load(Ordering::SeqCst);
    let (requests, newest) = captured(&history);
    Row {
        section: SECTION,
        staged: "SIGTERM under load: 40 pages, scrapers, exporters, one of them in the middle of a \
                 request, and a server that stands still",
        says: "stopping; exit status 0".into(),
        within: Some(took),
        again: None,
        lost: format!(
            "nothing: {requests} requests in the capture, {accepted} were acknowledged; the last \
             look is in the history"
        ),
        test: "live_shutdown::sigterm_under_load_keeps_what_was_accepted_and_ends_in_time",
    }
    .print();
    let log = scene.daemon.log();
    assert!(status.success(), "{status}\n{log}");
    assert!(took <= DRAINED_WITHIN, "{took:?}\n{log}");
    // One whose answer did not arrive was taken in all the same.
    assert!(requests >= accepted, "{requests} of {accepted}");
    assert!(newest > told_at - 2.5, "the last look is there");
    let journal = Journal::load(&history).unwrap();
    assert_eq!((journal.entries().len(), journal.damaged), (1, 0));

    scene.daemon.start_again(|_| {});
    let times = remembered(&scene.daemon, began).await;
    let before: Vec<f64> = times.into_iter().filter(|t| *t <= told_at).collect();
    assert!(
        before.last().is_some_and(|t| *t > told_at - 2.5),
        "{before:?}"
    );
    let again = until("there again", async || scene.daemon.incidents().await.pop()).await;
    assert_eq!(again["id"], incident["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_and_it_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(directory.path()).await;
    // Asks for more than anybody reads: its answer cannot be finished.
    let mut greedy = TcpStream::connect(&scene.daemon.address).unwrap();
    let nobody = greedy.set_write_timeout(Some(Duration::from_millis(500)));
    nobody.unwrap();
    let many = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(5_000);
    let _ = greedy.write_all(many.as_bytes());
    sleep(Duration::from_secs(1)).await;
    scene.daemon.signal(Signal::SIGTERM);
    until("stopping", async || {
        scene.daemon.log().contains("stopping").then_some(())
    })
    .await;
    scene.daemon.signal(Signal::SIGINT);
    let (status, took) = scene.daemon.ended().await;
    Row {
        section: SECTION,
        staged: "a second signal while it stops",
        says: "told to stop a second time; exit status 1".into(),
        within: Some(took),
        again: None,
        lost: "what is not on disk by then, and it says so".into(),
        test: "live_shutdown::a_second_signal_ends_it_at_once_and_it_says_so",
    }
    .print();
    assert_eq!(status.code(), Some(1), "{}", scene.daemon.log());
    let log = scene.daemon.log();
    assert!(log.contains("told to stop a second time"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_a_minute_of_history_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let history = directory.path().join("history");
    let mut scene = Scene::start(directory.path()).await;
    let began = unix_now();
    let incident = scene.orphan().await;
    scene.load();
    // Rows are handed to the disk once a minute.
    let parts = || {
        let files = fs::read_dir(history.join("series")).ok()?;
        let mut names = files.flatten().map(|file| file.path());
        names.find(|path| path.extension().is_some_and(|end| end == "part"))
    };
    let minute = Instant::now();
    while parts().is_none() {
        assert!(minute.elapsed() < Duration::from_secs(150), "no part");
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(5)).await;
    scene.daemon.process.kill().await.unwrap();
    let killed_at = unix_now();
    scene.load.shutdown().await;

    scene.daemon.start_again(|_| {});
    let started = Instant::now();
    let times = remembered(&scene.daemon, began).await;
    let kept = times.iter().filter(|t| **t <= killed_at);
    let kept = kept.fold(0.0, |a: f64, b| a.max(*b));
    let lost = killed_at - kept;
    let (_, newest) = captured(&history);
    let again = until("there again", async || scene.daemon.incidents().await.pop()).await;
    Row {
        section: SECTION,
        staged: "kill -9 under the same load, started again",
        says: "the same incident, still open, once; the journal is whole".into(),
        within: None,
        again: Some(started.elapsed()),
        lost: format!(
            "{lost:.1} s of history, {:.1} s of capture",
            killed_at - newest
        ),
        test: "live_shutdown::kill_9_under_load_loses_a_minute_of_history_at_most",
    }
    .print();
    assert!((0.0..=61.0).contains(&lost), "{lost} s of the history lost");
    // It is flushed every three seconds.
    assert!(
        killed_at - newest <= 8.0,
        "{} s of the capture",
        killed_at - newest
    );
    assert_eq!(
        (&again["id"], &again["opened_at"], &again["resolved_at"]),
        (&incident["id"], &incident["opened_at"], &Value::Null)
    );
    scene.stage.pooler.console("RECONNECT app").await.unwrap();
    until("resolved", async || {
        let incident = scene.daemon.incidents().await.pop()?;
        (!incident["resolved_at"].is_null()).then_some(())
    })
    .await;
    scene.daemon.signal(Signal::SIGTERM);
    assert!(scene.daemon.ended().await.0.success());
    let journal = Journal::load(&history).unwrap();
    assert_eq!((journal.entries().len(), journal.damaged), (1, 0));
}
