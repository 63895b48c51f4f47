//! From a real lock to a real alert: PostgreSQL, PgBouncer, the daemon, and a
//! Prometheus with the rule file as it is shipped.

mod common;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use snowpit::daemon;
use snowpit::demo::servers::{PgBouncer, Prometheus};

use common::Stage;

const KEY: i64 = 42_424_242_424_242;

/// The data of an answer of Prometheus' API.
async fn ask(prometheus: &Prometheus, path: &str) -> Value {
    let url = format!("{}{path}", prometheus.url());
    let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    assert_eq!(answer["status"], "success", "{path}: {answer}");
    answer["data"].clone()
}

async fn alerts(prometheus: &Prometheus) -> Vec<Value> {
    let data = ask(prometheus, "/api/v1/alerts").await;
    data["alerts"].as_array().unwrap().clone()
}

fn find<'a>(alerts: &'a [Value], name: &str) -> Option<&'a Value> {
    alerts
        .iter()
        .find(|alert| alert["labels"]["alertname"] == name)
}

/// Asks every half second until the answer is there.
async fn wait_for<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let answer = tokio::time::timeout(limit, async {
        loop {
            if let Some(answer) = look().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let answer = answer.await;
    answer.unwrap_or_else(|_| panic!("{what}: not within {} s", limit.as_secs()))
}

/// The lock of a client that is gone, left on a server of the pool.
async fn leave_a_lock(pooler: &PgBouncer) {
    let client = pooler.connect("app", "app", "gateway").await.unwrap();
    let take = format!("SELECT pg_advisory_lock({KEY})");
    client.simple_query(&take).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_fires_in_prometheus_and_resolves_after_reconnect() {
    let stage = Stage::start().await;
    let text = stage.configuration(&format!(
        "[poolers]\ncomplete = true\n\
         [[advisory_lock]]\nkey = {KEY}\nname = \"gateway bootstrap\"\n"
    ));
    let running = daemon::start(common::parse(&text)).await.unwrap();
    let Stage { postgres, pooler } = stage;
    let scrape = format!(
        "scrape_configs:\n  - job_name: snowpit\n    scrape_interval: 1s\n    \
         static_configs: [{{targets: ['{}']}}]\n",
        running.address()
    );
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/snowpit.rules.yml");
    let prometheus = Prometheus::start(&scrape, Some(&rules)).await.unwrap();

    let quiet = wait_for("a first scrape", Duration::from_secs(20), async || {
        let query = "/api/v1/query?query=snowpit_incident_open%7Btarget%3D%22main%22%7D";
        let result = ask(&prometheus, query).await["result"].clone();
        result
            .as_array()
            .filter(|series| series.len() >= 3)
            .cloned()
    })
    .await;
    assert!(quiet.iter().all(|series| series["value"][1] == "0"));
    let targets = ask(&prometheus, "/api/v1/targets").await;
    assert_eq!(targets["activeTargets"][0]["health"], "up", "{targets}");
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");

    let staged = tokio::time::Instant::now();
    leave_a_lock(&pooler).await;
    let alert = wait_for("the alert fires", Duration::from_secs(45), async || {
        let alerts = alerts(&prometheus).await;
        find(&alerts, "SnowpitOrphanedAdvisoryLock")
            .filter(|alert| alert["state"] == "firing")
            .cloned()
    })
    .await;
    println!(
        "fired {:.1} s after the lock was left",
        staged.elapsed().as_secs_f64()
    );
    let labels = &alert["labels"];
    assert_eq!(labels["severity"], "page");
    assert_eq!(labels["target"], "main");
    assert_eq!(labels["kind"], "orphaned_advisory_lock");
    assert_eq!(labels.as_object().unwrap().len(), 4, "{labels}");
    let annotations = &alert["annotations"];
    let summary = annotations["summary"].as_str().unwrap();
    for part in [
        "main:",
        "key 42424242424242",
        "gateway bootstrap",
        "database app",
        "pooler-1",
    ] {
        assert!(summary.contains(part), "{part} in {summary}");
    }
    let description = annotations["description"].as_str().unwrap();
    assert!(
        description.contains("is orphaned for at least"),
        "{description}"
    );
    assert!(
        description.contains("RECONNECT on the console of pooler-1"),
        "{description}"
    );
    assert_eq!(annotations["runbook"], "orphaned_advisory_lock");
    let others = alerts(&prometheus).await;
    let firing = others.iter().filter(|alert| alert["state"] == "firing");
    assert_eq!(firing.count(), 1, "nothing else fires: {others:?}");

    let freed = tokio::time::Instant::now();
    pooler.console("RECONNECT app").await.unwrap();
    wait_for("the alert resolves", Duration::from_secs(60), async || {
        let alerts = alerts(&prometheus).await;
        find(&alerts, "SnowpitOrphanedAdvisoryLock")
            .is_none()
            .then_some(())
    })
    .await;
    println!(
        "resolved {:.1} s after RECONNECT",
        freed.elapsed().as_secs_f64()
    );
    let age = "/api/v1/query?query=snowpit_advisory_lock_age_seconds";
    let gone = ask(&prometheus, age).await;
    assert_eq!(gone["result"].as_array().map(Vec::len), Some(0), "{gone}");

    running.shutdown(Duration::from_secs(3)).await;
    prometheus.stop().await;
    pooler.stop().await;
    postgres.stop().await;
}
