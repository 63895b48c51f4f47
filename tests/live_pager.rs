//! From a real incident to a real page: PostgreSQL, PgBouncer, the daemon,
//! Prometheus with the rules and Alertmanager with the example as they are
//! shipped. Once by the rules, once by direct push, each with an Alertmanager of
//! its own.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::incidents::{Going, KEY, ROUTE, Scenery};
use common::pager::{Page, Pager};
use snowpit::daemon::{self, RunningDaemon};
use snowpit::demo::servers::{Alertmanager, Postgres, PostgresOptions, Prometheus};
use snowpit::engine::incident::{Incident, Kind};
use tokio::time::{Instant, sleep};

/// The detector of avalanches learns for 30 s; a busy machine is slower.
const PATIENCE: Duration = Duration::from_secs(120);
/// From the moment at which the daemon knows it.
const PUSH_WITHIN: f64 = 5.0;
const RULES_WITHIN: f64 = 25.0;

/// Everything that takes part.
struct Chain {
    daemon: RunningDaemon,
    pager: Pager,
    prometheus: Prometheus,
    by_push: Alertmanager,
    by_rules: Alertmanager,
}

/// One line of the table, in seconds.
struct Row {
    kind: &'static str,
    staged_at: f64,
    known: f64,
    push: f64,
    rules: f64,
    resolved_push: f64,
    resolved_rules: f64,
}

impl Chain {
    async fn start(scenery: &Scenery) -> Self {
        let pager = Pager::start().await;
        let by_push = Alertmanager::start(&pager.configuration("push"))
            .await
            .unwrap();
        let by_rules = Alertmanager::start(&pager.configuration("rules"))
            .await
            .unwrap();
        let push = format!("[alertmanager]\nurls = [\"{}\"]\n", by_push.url());
        let config = common::parse(&scenery.configuration(&push));
        let daemon = daemon::start(config).await.unwrap();
        let prometheus = format!(
            "global: {{scrape_interval: 5s, evaluation_interval: 5s}}\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]}}\n\
             scrape_configs: [{{job_name: snowpit, static_configs: [{{targets: ['{}']}}]}}]\n",
            by_rules.port(),
            daemon.address(),
        );
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/snowpit.rules.yml");
        let prometheus = Prometheus::start(&prometheus, Some(&rules)).await.unwrap();
        Self {
            daemon,
            pager,
            prometheus,
            by_push,
            by_rules,
        }
    }

    async fn known(&self, kind: Kind, since: Instant) -> Arc<Incident> {
        loop {
            let open = self.daemon.snapshot().open.clone();
            if let Some(incident) = open.iter().find(|incident| incident.kind == kind) {
                return Arc::clone(incident);
            }
            let late = since.elapsed() > PATIENCE;
            assert!(!late, "{}: not detected: {open:?}", kind.as_str());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Follows an incident that has just been staged until it is resolved by
    /// `end`, both ways.
    async fn follow(
        &self,
        kind: Kind,
        names: &[&str],
        began: Instant,
        staged: Instant,
        end: impl AsyncFnOnce(),
    ) -> Row {
        let alert = alert_name(kind);
        self.known(kind, staged).await;
        let known = Instant::now();
        let (push, rules) = tokio::join!(
            self.pager.wait("push", &alert, true, staged, PATIENCE),
            self.pager.wait("rules", &alert, true, staged, PATIENCE),
        );
        for page in [&push, &rules] {
            assert_page(page, kind, names);
        }
        assert_eq!(push.labels, rules.labels, "one alert, whichever way");
        assert_record(&push, kind);
        let ended = Instant::now();
        end().await;
        let (over_push, over_rules) = tokio::join!(
            self.pager.wait("push", &alert, false, ended, PATIENCE),
            self.pager.wait("rules", &alert, false, ended, PATIENCE),
        );
        let seconds = |from: Instant, page: &Page| (page.at - from).as_secs_f64();
        Row {
            kind: kind.as_str(),
            staged_at: (staged - began).as_secs_f64(),
            known: (known - staged).as_secs_f64(),
            push: seconds(known, &push),
            rules: seconds(known, &rules),
            resolved_push: seconds(ended, &over_push),
            resolved_rules: seconds(ended, &over_rules),
        }
    }
}

/// `SnowpitLockPileup` of `lock_pileup`.
fn alert_name(kind: Kind) -> String {
    let words = kind.as_str().split('_');
    let camel = words.map(|word| word[..1].to_uppercase() + &word[1..]);
    format!("Snowpit{}", camel.collect::<String>())
}

fn assert_page(page: &Page, kind: Kind, names: &[&str]) {
    assert_eq!(page.receiver, "pager", "{page:?}");
    assert_eq!(page.labels["target"], "main");
    assert_eq!(page.labels["kind"], kind.as_str());
    assert_eq!(page.labels["severity"], "page");
    let words = format!("{}\n{}", page.summary(), page.annotations["description"]);
    for name in names {
        assert!(words.contains(name), "{name} is not in {words}");
    }
    let runbook = &page.annotations["runbook_url"];
    assert!(runbook.contains(kind.as_str()), "{runbook}");
}

/// A push carries the whole record.
fn assert_record(page: &Page, kind: Kind) {
    let record: Incident = serde_json::from_str(&page.annotations["incident"]).unwrap();
    assert_eq!(record.kind, kind);
    assert_eq!(record.target, "main");
    assert!(!record.evidence.is_empty());
}

fn print(rows: &[Row]) {
    println!(
        "kind                     staged at  known after  page by push  page by rules  resolved by push  by rules"
    );
    for row in rows {
        println!(
            "{:<24} {:>7.1} s {:>10.1} s {:>10.1} s {:>12.1} s {:>15.1} s {:>7.1} s",
            row.kind,
            row.staged_at,
            row.known,
            row.push,
            row.rules,
            row.resolved_push,
            row.resolved_rules,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_incident_pages_with_its_name_and_resolves_both_ways() {
    let scenery = Scenery::start().await.unwrap();
    let chain = Chain::start(&scenery).await;
    let everyday = scenery.everyday().await;
    let began = Instant::now();
    let mut rows = Vec::new();

    let staged = Instant::now();
    scenery.orphan().await;
    let names = [KEY.to_string(), "gateway bootstrap".into(), "app".into()];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let end = async || scenery.free_the_orphan().await;
    let kind = Kind::OrphanedAdvisoryLock;
    rows.push(chain.follow(kind, &names, began, staged, end).await);

    // Ends when what keeps it going is dropped, and the server has noticed.
    let stop = async |going: Going| {
        drop(going);
        scenery.clear().await;
    };

    let staged = Instant::now();
    let going = scenery.saturate().await;
    let kind = Kind::PoolSaturation;
    let names = ["small/app", "pooler-1"];
    let end = async || stop(going).await;
    rows.push(chain.follow(kind, &names, began, staged, end).await);

    let staged = Instant::now();
    let going = scenery.pile_up().await;
    let kind = Kind::LockPileup;
    let end = async || stop(going).await;
    let names = ["nightly-report"];
    rows.push(chain.follow(kind, &names, began, staged, end).await);

    let staged = Instant::now();
    let going = scenery.avalanche().await;
    let kind = Kind::ConnectionAvalanche;
    let end = async || stop(going).await;
    rows.push(chain.follow(kind, &[ROUTE], began, staged, end).await);

    drop(everyday);
    let Scenery { postgres, pooler } = scenery;
    let port = postgres.port();
    let staged = Instant::now();
    postgres.stop().await;
    let mut again = None;
    let end = async || {
        let options = PostgresOptions {
            port: Some(port),
            ..PostgresOptions::default()
        };
        let server = Postgres::start(options).await.unwrap();
        assert_eq!(server.port(), port, "somebody took the port");
        again = Some(server);
    };
    let kind = Kind::PrimaryUnreachable;
    rows.push(chain.follow(kind, &["main"], began, staged, end).await);

    print(&rows);
    for row in &rows {
        assert!(
            row.push <= PUSH_WITHIN,
            "{} by push: {}",
            row.kind,
            row.push
        );
        assert!(
            row.rules <= RULES_WITHIN,
            "{} by rules: {}",
            row.kind,
            row.rules
        );
    }
    let Chain {
        daemon,
        prometheus,
        by_push,
        by_rules,
        ..
    } = chain;
    daemon.shutdown(Duration::from_secs(3)).await;
    prometheus.stop().await;
    by_push.stop().await;
    by_rules.stop().await;
    pooler.stop().await;
    drop(again);
}
