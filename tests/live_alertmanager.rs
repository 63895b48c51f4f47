//! The direct push against real Alertmanagers: one page for two daemons, others
//! that are away or hang, restarts on both sides, and what silences what.

mod common;

use std::time::Duration;

use common::incidents::Scenery;
use common::pager::Pager;
use serde_json::{Value, json};
use snowpit::daemon;
use snowpit::demo::servers::Alertmanager;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

const ORPHAN: &str = "SnowpitOrphanedAdvisoryLock";
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the longest pause after failures, and some for a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// The value of a sample of `/metrics`.
async fn metric(address: std::net::SocketAddr, sample: &str) -> f64 {
    let page = reqwest::get(format!("http://{address}/metrics")).await;
    let page = page.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(sample));
    let value = line.unwrap_or_else(|| panic!("no {sample} in {page}"));
    value.trim().parse().unwrap()
}

/// How often this way paged and resolved.
fn count(pager: &Pager, way: &str) -> (usize, usize) {
    let pages = pager.pages();
    let own = pages.iter().filter(|page| page.way == way);
    let (firing, over): (Vec<_>, Vec<_>) = own.partition(|page| page.firing);
    (firing.len(), over.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_page_whoever_is_away_or_started_again() {
    let scenery = Scenery::start().await.unwrap();
    let pager = Pager::start().await;
    let first = Alertmanager::start(&pager.configuration("first"))
        .await
        .unwrap();
    // One that comes later, and one that accepts connections and never answers.
    let later = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let later_port = later.local_addr().unwrap().port();
    drop(later);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let urls = format!(
        "[alertmanager]\nexternal_url = \"https://snowpit.example/\"\n\
         urls = [\"{}\", \"http://127.0.0.1:{later_port}\", \"http://127.0.0.1:{silent_port}\"]\n",
        first.url(),
    );
    let kept = tempfile::tempdir().unwrap();
    let history = format!("[history]\ndirectory = \"{}\"\n", kept.path().display());
    let config = |more: &str| common::parse(&scenery.configuration(&format!("{urls}{more}")));
    let one = daemon::start(config(&history)).await.unwrap();
    let two = daemon::start(config("")).await.unwrap();

    let staged = Instant::now();
    scenery.orphan().await;
    let page = pager.wait("first", ORPHAN, true, staged, PATIENCE).await;
    println!("paged {:.1} s after", (page.at - staged).as_secs_f64());
    let url = "https://snowpit.example/runbooks/orphaned_advisory_lock";
    assert_eq!(page.annotations["runbook_url"], url);
    assert!(page.annotations["actions"].contains("RECONNECT app;"));

    // Both daemons know it, and refresh it.
    sleep(Duration::from_secs(8)).await;
    for daemon in [&one, &two] {
        assert_eq!(daemon.snapshot().open.len(), 1);
        let alerts = format!(
            "snowpit_alertmanager_alerts{{alertmanager=\"127.0.0.1:{}\"}}",
            first.port()
        );
        assert_eq!(metric(daemon.address(), &alerts).await, 1.0);
    }
    assert_eq!(count(&pager, "first"), (1, 0), "{:#?}", pager.pages());
    for (port, reason) in [(later_port, "connect"), (silent_port, "timeout")] {
        let failures = format!(
            "snowpit_alertmanager_failures_total{{alertmanager=\"127.0.0.1:{port}\",reason=\"{reason}\"}}"
        );
        assert!(metric(one.address(), &failures).await >= 1.0, "{failures}");
    }

    let began = Instant::now();
    let second = Alertmanager::start_at(&pager.configuration("second"), Some(later_port))
        .await
        .unwrap();
    assert_eq!(second.port(), later_port, "somebody took the port");
    pager.wait("second", ORPHAN, true, began, BACK_WITHIN).await;

    // A restart of the one, the end of the other: still the same alert.
    two.shutdown(Duration::from_secs(3)).await;
    one.shutdown(Duration::from_secs(3)).await;
    let one = daemon::start(config(&history)).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(count(&pager, "first"), (1, 0), "{:#?}", pager.pages());

    // Alertmanager forgets what fires when it is stopped without its disk.
    let port = first.port();
    first.stop().await;
    let began = Instant::now();
    let first = Alertmanager::start_at(&pager.configuration("first"), Some(port))
        .await
        .unwrap();
    assert_eq!(first.port(), port, "somebody took the port");
    pager.wait("first", ORPHAN, true, began, BACK_WITHIN).await;

    let freed = Instant::now();
    scenery.free_the_orphan().await;
    for way in ["first", "second"] {
        let over = pager.wait(way, ORPHAN, false, freed, BACK_WITHIN).await;
        println!(
            "{way} resolved {:.1} s after",
            (over.at - freed).as_secs_f64()
        );
    }
    assert_eq!(count(&pager, "first"), (2, 1), "{:#?}", pager.pages());
    assert_eq!(count(&pager, "second"), (1, 1), "{:#?}", pager.pages());
    one.shutdown(Duration::from_secs(3)).await;
    first.stop().await;
    second.stop().await;
    drop(silent);
}

/// Kinds of one target, and those of them that are silenced.
async fn silenced(alertmanager: &Alertmanager, alerts: &[(&str, &str)]) -> Vec<(String, String)> {
    let posted: Vec<Value> = alerts
        .iter()
        .map(|(target, kind)| {
            let labels = json!({
                "alertname": format!("Snowpit{kind}"), "target": target,
                "kind": kind, "severity": "page",
            });
            json!({"labels": labels, "annotations": {"summary": kind}})
        })
        .collect();
    let url = format!("{}/api/v2/alerts", alertmanager.url());
    let client = reqwest::Client::new();
    let answer = client.post(&url).json(&posted).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    // What silences is worked out when a group is sent.
    sleep(Duration::from_secs(4)).await;
    let answer: Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
    let known = answer.as_array().unwrap();
    assert_eq!(known.len(), alerts.len(), "{answer:#}");
    let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap().to_owned();
    let mut silenced: Vec<_> = known
        .iter()
        .filter(|alert| {
            !alert["status"]["inhibitedBy"]
                .as_array()
                .unwrap()
                .is_empty()
        })
        .map(|alert| (label(alert, "target"), label(alert, "kind")))
        .collect();
    silenced.sort();
    silenced
}

#[tokio::test]
async fn the_example_silences_what_follows_from_something_else() {
    snowpit::observe::tls::use_ring();
    let pager = Pager::start().await;
    let alertmanager = Alertmanager::start(&pager.configuration("example"))
        .await
        .unwrap();
    let alerts = [
        ("main", "lock_pileup"),
        ("main", "connection_avalanche"),
        ("main", "connection_headroom"),
        ("main", "orphaned_advisory_lock"),
        ("main", "try_lock_spin"),
        ("second", "connection_avalanche"),
        ("second", "connection_headroom"),
        ("second", "pool_saturation"),
        ("third", "connection_headroom"),
        ("fourth", "primary_unreachable"),
        ("fourth", "pool_saturation"),
    ];
    let silenced = silenced(&alertmanager, &alerts).await;
    let expected = [
        ("fourth", "pool_saturation"),
        ("main", "connection_avalanche"),
        ("main", "connection_headroom"),
        ("main", "try_lock_spin"),
        ("second", "connection_headroom"),
    ];
    let expected = expected.map(|(target, kind)| (target.to_owned(), kind.to_owned()));
    assert_eq!(silenced, expected);
    // What is silenced pages nobody.
    let pages = pager.pages();
    let paged = |target: &str, kind: &str| {
        let own = |page: &&common::pager::Page| {
            page.labels["target"] == target && page.labels["kind"] == kind
        };
        pages.iter().filter(own).count()
    };
    assert_eq!(paged("main", "lock_pileup"), 1, "{pages:#?}");
    assert_eq!(paged("main", "connection_avalanche"), 0, "{pages:#?}");
    assert_eq!(paged("second", "connection_avalanche"), 1, "{pages:#?}");
    alertmanager.stop().await;
}
