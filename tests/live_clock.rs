//! The clock of the daemon's machine is set an hour ahead, back again, and an
//! hour behind, while it watches servers whose clocks are right.
//!
//! Debian's `faketime` is loaded into the daemon; the times of files stay true,
//! as they do when a real clock is set.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::Stage;
use common::daemon::{Daemon, PATIENCE, until};
use common::faults::Row;
use nix::sys::signal::Signal;
use serde_json::Value;
use snowpit::expose::journal::Journal;
use tokio::time::{Instant, sleep};

/// Of docs/faults.md.
const SECTION: &str = "The daemon itself";

/// What a clock that is set back costs.
const BACK: &str = "history until the clock is believed, sixty looks at most";

/// The library, for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// After a step, longer than any detector needs to find what is not there.
const SETTLE: Duration = Duration::from_secs(8);

/// `None` where it is not installed; in CI that is a failure.
fn library() -> Option<PathBuf> {
    let places = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
    ];
    let mut paths = places.iter().map(|place| Path::new(place).join(LIBRARY));
    let found = paths.find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "install faketime: scripts/deps"
        );
        eprintln!("SKIPPED: no clock was set, because faketime is not installed");
    }
    found
}

/// Every number below a key that is an age or a duration.
fn seconds(value: &Value, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name.ends_with("_seconds")
                    && let Some(number) = value.as_f64()
                {
                    found.push((name.clone(), number));
                }
                seconds(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| seconds(item, found)),
        _ => {}
    }
}

/// No age is negative, on any page.
async fn ages_are_sound(daemon: &Daemon, when: &str) {
    let mut found = Vec::new();
    for path in ["locks", "advisory-locks", "targets", "incidents", "status"] {
        let path = format!("/api/v1/{path}");
        let answer = until("an answer", async || daemon.json(&path).await).await;
        seconds(&answer, &mut found);
    }
    let page = until("metrics", async || daemon.text("/metrics").await).await;
    for line in page.lines().filter(|line| line.contains("_seconds{")) {
        if !line.contains("_timestamp_") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            found.push((name.to_owned(), value.parse().unwrap()));
        }
    }
    assert!(found.len() >= 6, "{found:?}");
    for (name, value) in found {
        assert!(value >= 0.0, "{when}: {name} {value}");
    }
}

fn files(history: &Path) -> usize {
    let count = |name: &str| fs::read_dir(history.join(name)).map_or(0, Iterator::count);
    count("series") + count("captures")
}

async fn leave_a_lock(stage: &Stage, daemon: &Daemon) {
    let client = stage.client("app", "gateway").await;
    let lock = "SELECT pg_advisory_lock(42424242424242)";
    client.simple_query(lock).await.unwrap();
    until("the lock", async || {
        let locks = daemon.metric("snowpit_advisory_locks", "main").await;
        locks.filter(|locks| *locks > 0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_makes_no_incident_and_loses_none() {
    let Some(library) = library() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let history = directory.path().join("history");
    let clock = directory.path().join("clock");
    let stage = Stage::start().await;
    let more = format!(
        "[poolers]\ncomplete = true\n[history]\ndirectory = \"{}\"\nretention = \"2h\"\n\
         capture = true\n",
        history.display()
    );
    // Sixty looks are what it takes to believe in a clock that was set back.
    let text = stage.configuration(&more);
    let text = text.replace("dsn = ", "interval = \"250ms\"\ndsn = ");
    fs::write(&clock, "+0\n").unwrap();
    let mut daemon = Daemon::start_as(directory.path(), &text, |command| {
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    });
    daemon.ready().await;
    leave_a_lock(&stage, &daemon).await;
    let before = until("opened", async || daemon.incidents().await.pop()).await;
    ages_are_sound(&daemon, "before").await;
    let kept = files(&history);

    let at = async || daemon.json("/api/v1/status").await?["engine"]["at"].as_f64();
    let samples = async || daemon.metric("snowpit_history_samples_total", "").await;
    let began = until("the time", at).await;
    for (set, ahead, staged, lost) in [
        (
            "+3600",
            3600.0,
            "our clock is set an hour ahead, looks every 250 ms",
            "nothing",
        ),
        ("+0", 0.0, "it is set back to the right time", BACK),
        ("-3600", 0.0, "it is set an hour behind", BACK),
    ] {
        let taken = until("samples", samples).await;
        fs::write(&clock, format!("{set}\n")).unwrap();
        let stepped = Instant::now();
        // The history goes on, once the clock is believed.
        let goes_on = tokio::time::timeout(PATIENCE, async {
            while until("values", samples).await < taken + 50.0 {
                sleep(Duration::from_millis(100)).await;
            }
        });
        goes_on
            .await
            .unwrap_or_else(|_| panic!("{set}: no history"));
        let again = stepped.elapsed();
        sleep(SETTLE.saturating_sub(again)).await;
        ages_are_sound(&daemon, set).await;
        let incidents = daemon.incidents().await;
        assert_eq!(incidents.len(), 1, "{set}: {incidents:#?}");
        let (id, end) = (&incidents[0]["id"], &incidents[0]["resolved_at"]);
        assert_eq!((id, end), (&before["id"], &Value::Null), "{set}");
        assert!(files(&history) >= kept, "{set}: files were removed");
        let moved = until("the time", at).await - began;
        Row {
            section: SECTION,
            staged,
            says: "nothing: the incident that is open stays, and no other comes".into(),
            within: None,
            again: Some(again),
            lost: lost.into(),
            test: "live_clock::a_clock_that_is_set_makes_no_incident_and_loses_none",
        }
        .print();
        // Or no clock was set at all.
        assert!(moved >= ahead, "{set}: {moved}");
    }

    // It still sees: the end of this one, and another.
    drop(stage.pooler.console("RECONNECT app").await.unwrap());
    let over = until("resolved", async || {
        let incident = daemon.incidents().await.pop()?;
        (!incident["resolved_at"].is_null()).then_some(incident)
    })
    .await;
    let (opened, resolved) = (over["opened_at"].as_f64(), over["resolved_at"].as_f64());
    assert!(
        resolved >= opened,
        "it did not end before it began: {over:#}"
    );
    leave_a_lock(&stage, &daemon).await;
    until("another", async || {
        let incidents = daemon.incidents().await;
        let open = incidents.iter().filter(|i| i["resolved_at"].is_null());
        (open.count() == 1 && incidents.len() == 2).then_some(())
    })
    .await;
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended().await.0.success(), "{}", daemon.log());
    let journal = Journal::load(&history).unwrap();
    assert_eq!((journal.entries().len(), journal.damaged), (2, 0));
}
