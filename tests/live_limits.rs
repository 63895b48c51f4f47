//! A daemon that may have little: few file descriptors, nobody who reads its log,
//! little memory.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use common::Stage;
use common::daemon::{Daemon, until};
use common::faults::Row;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// Of docs/faults.md.
const SECTION: &str = "The daemon itself";

/// Descriptors that the daemon may have; it needs some forty by itself.
const FILES: u64 = 90;

/// Connections that somebody opens all the same.
const FLOOD: usize = 160;

/// What the contract of this test gives it, in MiB: the development build with
/// everything below on top of it.
const MEMORY: f64 = 120.0;

/// Backends that wait in one queue, and requests of a flood.
const WAITERS: usize = 60;
const EXPORTS: usize = 3_000;

fn limit(command: &mut Command, resource: Resource, value: u64) {
    // SAFETY: setrlimit is a plain system call; nothing here allocates.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(resource, value, value)?));
    }
}

/// Resident memory now and at its highest, in MiB.
fn memory(pid: i32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace()
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
            / 1024.0
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// When our session at the server began.
async fn session(stage: &Stage) -> String {
    let client = stage
        .postgres
        .connect("postgres", "postgres")
        .await
        .unwrap();
    let sql = "SELECT backend_start::text FROM pg_stat_activity WHERE application_name = 'snowpit'";
    let rows = client.query(sql, &[]).await.unwrap();
    assert_eq!(rows.len(), 1, "one session");
    rows[0].get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_it_keeps_looking_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start().await;
    let text = stage.configuration(&format!(
        "[history]\ndirectory = \"{}\"\n",
        directory.path().join("history").display()
    ));
    let daemon = Daemon::start_as(directory.path(), &text, |command| {
        limit(command, Resource::RLIMIT_NOFILE, FILES);
    });
    daemon.ready().await;
    let began = session(&stage).await;
    let polls = async || {
        let status = daemon.json("/api/v1/status").await?;
        let sources = status["sources"].as_array()?.iter();
        let polls = sources.map(|source| source["polls"].as_u64().unwrap_or(0));
        polls.min()
    };
    let before = until("polls", polls).await;

    // Streams of events: they are being answered, and give way to nobody.
    let open = |n: usize| {
        let mut stream = TcpStream::connect(&daemon.address).ok()?;
        let head = format!("GET /api/v1/events HTTP/1.1\r\nHost: a{n}\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        Some(stream)
    };
    let flooded = Instant::now();
    let flood: Vec<_> = (0..FLOOD).filter_map(open).collect();
    until("the limit", async || {
        daemon.log().contains("could not accept").then_some(())
    })
    .await;
    let within = flooded.elapsed();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(session(&stage).await, began, "the session is kept");
    drop(flood);
    let recovering = Instant::now();
    let after = until("an answer", polls).await;
    Row {
        section: SECTION,
        staged: "90 file descriptors, 160 connections that stay",
        says: "few file descriptors (at the start); could not accept a connection (once a minute)"
            .into(),
        within: Some(within),
        again: Some(recovering.elapsed()),
        lost: format!(
            "no look: {} of each source meanwhile, on the same session",
            after - before
        ),
        test: "live_limits::without_file_descriptors_it_keeps_looking_and_comes_back",
    }
    .print();
    assert!(after >= before + 4, "it kept looking: {before}, {after}");
    assert_eq!(session(&stage).await, began);
    let log = daemon.log();
    let lines = log.lines().count();
    assert!(lines < 60, "{lines} lines\n{log}");
    assert!(log.contains("few file descriptors"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start().await;
    // Some thirty lines a poll, ten polls a second.
    let text = stage.configuration("");
    let text = text.replacen("dsn = ", "interval = \"100ms\"\ndsn = ", 1);
    // A small pipe with its reader asleep, and everything said that can be.
    let (mut reader, writer) = std::io::pipe().unwrap();
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut daemon = Daemon::start_as(directory.path(), &text, |command| {
        let writer = writer.try_clone().unwrap();
        command.stderr(writer).env("RUST_LOG", "trace");
    });
    drop(writer);
    let polls = async |least: f64| {
        until("polls", async || {
            let polls = daemon
                .metric("snowpit_poll_duration_seconds_count", "main")
                .await;
            polls.filter(|polls| *polls >= least)
        })
        .await
    };
    // The pipe and the queue hold some two thousand lines.
    for least in [30.0, 60.0, 90.0, 120.0] {
        polls(least).await;
    }
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        text
    });
    sleep(Duration::from_secs(1)).await;
    daemon.signal(Signal::SIGTERM);
    let (status, took) = daemon.ended().await;
    assert!(status.success(), "{status}");
    let text = String::from_utf8_lossy(&reading.await.unwrap()).into_owned();
    let dropped = text
        .lines()
        .find(|line| line.contains("of the log were dropped"));
    Row {
        section: SECTION,
        staged: "stderr is a pipe that nobody reads, at RUST_LOG=trace",
        says: dropped.unwrap_or("nothing").to_owned(),
        within: None,
        again: Some(took),
        lost: "those lines of the log; no look".into(),
        test: "live_limits::a_log_that_nobody_reads_stops_nothing",
    }
    .print();
    assert!(dropped.is_some(), "{} bytes", text.len());

    // Nobody at all at the other end, and no stdout.
    let mut daemon = Daemon::start_as(directory.path(), &stage.configuration(""), |command| {
        command.stderr(Stdio::piped()).stdout(Stdio::piped());
    });
    drop((daemon.process.stderr.take(), daemon.process.stdout.take()));
    until("polls", async || {
        let polls = daemon
            .metric("snowpit_poll_duration_seconds_count", "main")
            .await;
        polls.filter(|polls| *polls >= 3.0)
    })
    .await;
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended().await.0.success());
}

/// A queue of waiters at the server, a flood of routes, scrapes of it all: the
/// address space is limited too, so that a leap would end the daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_within_a_bound_in_a_heavy_scene() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp = free.local_addr().unwrap();
    drop(free);
    let text = stage.configuration(&format!("[otlp]\nhttp_listen = \"{otlp}\"\n"));
    let daemon = Daemon::start_as(directory.path(), &text, |command| {
        // Virtual memory of threads and allocator arenas is mostly never used.
        limit(command, Resource::RLIMIT_AS, 2 << 30);
    });
    daemon.ready().await;
    let holder = stage.postgres.connect("postgres", "app").await.unwrap();
    for sql in ["CREATE TABLE stock (id int)", "BEGIN; LOCK TABLE stock"] {
        holder.batch_execute(sql).await.unwrap();
    }
    let mut waiting = Vec::new();
    for _ in 0..WAITERS {
        let waiter = stage.postgres.connect("postgres", "app").await.unwrap();
        waiting.push(tokio::spawn(async move {
            let _ = waiter.simple_query("SELECT * FROM stock").await;
        }));
    }
    until("waiters", async || {
        let waiters = daemon.metric("snowpit_lock_waiters", "main").await;
        waiters.filter(|waiters| *waiters >= WAITERS as f64)
    })
    .await;

    let client = reqwest::Client::new();
    let mut refused = 0;
    for n in 0..EXPORTS {
        let url = format!("http://{otlp}/v1/metrics");
        let answer = client.post(url).json(&export(n)).send().await.unwrap();
        refused += usize::from(!answer.status().is_success());
        if n % 200 == 0 {
            daemon.text("/metrics").await;
        }
    }
    let (now, most) = memory(daemon.pid());
    Row {
        section: SECTION,
        staged: "2 GiB of address space (RLIMIT_AS), 60 waiters in one queue, 3,000 exports with \
                 20 new routes each as fast as they are taken",
        says: "points refused, reason `too_many_routes`".into(),
        within: None,
        again: None,
        lost: format!(
            "names of routes beyond the limits, {refused} exports; {most:.0} MiB at most, {now:.0} \
             at the end, {MEMORY:.0} allowed"
        ),
        test: "live_limits::memory_stays_within_a_bound_in_a_heavy_scene",
    }
    .print();
    assert!(most < MEMORY, "{most} MiB");
    let told = daemon
        .metric("snowpit_rejected_points_total", "too_many_routes")
        .await;
    assert!(told.is_some_and(|count| count > 1_000.0), "{told:?}");
    holder.batch_execute("COMMIT").await.unwrap();
    for waiter in waiting {
        waiter.await.unwrap();
    }
}

/// Routes of one export, none of them known.
const ROUTES: usize = 20;

fn export(number: usize) -> serde_json::Value {
    let now = (snowpit::observe::poll::unix_now() * 1e9) as u64;
    let points: Vec<_> = (0..ROUTES)
        .map(|n| {
            serde_json::json!({
                "attributes": [
                    {"key": "http.request.method", "value": {"stringValue": "GET"}},
                    {"key": "http.route", "value": {"stringValue": format!("/x{number}y/z{n}w")}},
                ],
                "startTimeUnixNano": (now - 1_000_000_000).to_string(),
                "timeUnixNano": now.to_string(),
                "count": "1", "sum": 0.02, "bucketCounts": ["1", "0"], "explicitBounds": [0.1],
            })
        })
        .collect();
    serde_json::json!({"resourceMetrics": [{
        "resource": {"attributes": [
            {"key": "service.name", "value": {"stringValue": format!("shop-{}", number % 4)}},
        ]},
        "scopeMetrics": [{"metrics": [{
            "name": "http.server.request.duration", "unit": "s",
            "histogram": {"aggregationTemporality": 1, "dataPoints": points},
        }]}],
    }]})
}

/// Its address is taken, and what it says first stands in a pipe that is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_failed_ends_though_nobody_reads_why() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let config = directory.path().join("snowpit.toml");
    // Open to the network without a password: there is a warning to be logged.
    let text = format!(
        "[server]\nlisten = \"{}\"\n[[postgres]]\nname = \"main\"\n\
         dsn = \"postgresql://snowpit@127.0.0.1:1/postgres\"\n",
        taken.local_addr().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&[b'x'; 4096]).unwrap();
    let start = |stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
        command.args(["run", "--config"]).arg(&config);
        command.stderr(stderr).kill_on_drop(true).spawn().unwrap()
    };
    let mut stuck = start(writer.into());
    let status = tokio::time::timeout(Duration::from_secs(60), stuck.wait()).await;
    let status = status.expect("it waits for a reader").unwrap();
    assert_eq!(status.code(), Some(1));
    let mut said = Vec::new();
    reader.read_to_end(&mut said).unwrap();
    assert!(said.iter().all(|byte| *byte == b'x'), "the pipe was full");

    // Who reads is told, after the log.
    let told = start(Stdio::piped()).wait_with_output().await.unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    let last = told.trim_end().lines().last().unwrap();
    assert!(last.starts_with("snowpit: "), "{told}");
}
