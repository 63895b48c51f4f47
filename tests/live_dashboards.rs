//! Every expression of every dashboard, asked of a real Prometheus that scrapes a
//! real snowpit while incidents are staged: each has an answer, and what has no
//! series says why.

mod common;

use std::path::Path;
use std::time::Duration;

use common::incidents::Scenery;
use common::pager::Pager;
use reqwest::Url;
use serde_json::Value;
use snowpit::daemon;
use snowpit::demo::servers::{Alertmanager, Prometheus};
use snowpit::engine::incident::Kind;
use tokio::time::{Instant, sleep};

/// Panels about what is not there, by dashboard and title, and why.
const ABSENT: &[(&str, &str, &str)] = &[
    (
        "snowpit-self",
        "Certificates are valid for",
        "no listener has TLS while these incidents are staged",
    ),
    (
        "snowpit-self",
        "Failed polls",
        "no source fails while these incidents are staged",
    ),
    (
        "snowpit-self",
        "Dropped samples",
        "nothing is dropped, and a reason has no series before its first",
    ),
];

/// What the variables stand for. A rate needs two scrapes.
const VARIABLES: [(&str, &str); 7] = [
    ("$__rate_interval", "15s"),
    ("$datasource", "prometheus"),
    ("$job", ".*"),
    ("$instance", ".*"),
    ("$target", ".*"),
    ("$pooler", ".*"),
    ("$database", ".*"),
];

const PATIENCE: Duration = Duration::from_secs(150);

/// An expression with where it stands.
#[derive(Debug)]
struct Asked {
    dashboard: String,
    title: String,
    expr: String,
}

fn asked() -> Vec<Asked> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let mut put = |title: &Value, expr: &Value| {
            let mut expr = expr.as_str().unwrap().to_owned();
            for (variable, value) in VARIABLES {
                expr = expr.replace(variable, value);
            }
            assert!(!expr.contains('$'), "a variable that nobody knows: {expr}");
            found.push(Asked {
                dashboard: dashboard["uid"].as_str().unwrap().to_owned(),
                title: title.as_str().unwrap().to_owned(),
                expr,
            });
        };
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                put(&panel["title"], &target["expr"]);
            }
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            put(&annotation["name"], &annotation["expr"]);
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if variable["type"] == "query" {
                put(&variable["name"], &variable["query"]["query"]);
            }
        }
    }
    found
}

/// Whether its panel says why it is empty.
fn excused(asked: &Asked) -> bool {
    ABSENT
        .iter()
        .any(|(dashboard, title, _)| *dashboard == asked.dashboard && *title == asked.title)
}

/// How many series, or values of a variable, it has now.
async fn answer(prometheus: &Prometheus, asked: &Asked) -> usize {
    let variable = asked.expr.strip_prefix("label_values(");
    let url = match variable.and_then(|rest| rest.trim_end_matches(')').rsplit_once(", ")) {
        Some((selector, label)) => {
            let url = format!("{}/api/v1/label/{label}/values", prometheus.url());
            Url::parse_with_params(&url, [("match[]", selector)])
        }
        None => {
            let url = format!("{}/api/v1/query", prometheus.url());
            Url::parse_with_params(&url, [("query", asked.expr.as_str())])
        }
    };
    let answer: Value = reqwest::get(url.unwrap())
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(answer["status"], "success", "{asked:?}: {answer}");
    let data = &answer["data"];
    let list = data.get("result").unwrap_or(data);
    list.as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_expression_has_an_answer_while_incidents_run() {
    snowpit::observe::tls::use_ring();
    let scenery = Scenery::start().await.unwrap();
    let shop = common::incidents::shop().await;
    let pager = Pager::start().await;
    let alertmanager = Alertmanager::start(&pager.configuration("push"))
        .await
        .unwrap();
    let more = format!(
        "[alertmanager]\nurls = [\"{}\"]\n[[service]]\nname = \"shop\"\ntargets = [\"main\"]\n\
         applications = [\"shop\"]\n[service.scrape]\nurl = \"{}\"\ninterval = \"1s\"\n",
        alertmanager.url(),
        shop.url,
    );
    let config = common::parse(&scenery.configuration(&more));
    let running = daemon::start(config).await.unwrap();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/snowpit.rules.yml");
    let prometheus = format!(
        "global: {{scrape_interval: 2s, evaluation_interval: 2s}}\n\
         scrape_configs: [{{job_name: snowpit, static_configs: [{{targets: ['{}']}}]}}]\n",
        running.address(),
    );
    let prometheus = Prometheus::start(&prometheus, Some(&rules)).await.unwrap();

    let _everyday = scenery.everyday().await;
    scenery.orphan().await;
    let _spinners = scenery.spinners().await;
    // So that a wait has ended, too.
    let ending = scenery.pile_up().await;
    sleep(Duration::from_secs(4)).await;
    drop(ending);
    scenery.clear().await;
    let _queue = scenery.saturate().await;
    sleep(Duration::from_secs(40)).await;
    let _avalanche = scenery.avalanche().await;
    let began = Instant::now();
    let attributed = || {
        let open = running.snapshot().open.clone();
        open.iter().any(|incident| {
            incident.kind == Kind::ConnectionAvalanche && !incident.attribution.is_empty()
        })
    };
    while !attributed() {
        let open = running.snapshot().open.clone();
        assert!(began.elapsed() < PATIENCE, "no avalanche: {open:?}");
        sleep(Duration::from_millis(200)).await;
    }
    let _pile = scenery.pile_up().await;

    let mut open = asked();
    let (all, mut with_data) = (open.len(), 0);
    let began = Instant::now();
    while !open.is_empty() && began.elapsed() < PATIENCE {
        let mut left = Vec::new();
        for asked in open {
            if answer(&prometheus, &asked).await > 0 {
                with_data += 1;
            } else {
                left.push(asked);
            }
        }
        open = left;
        if open.iter().all(excused) {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let mut tally = std::collections::BTreeMap::<String, (usize, usize)>::new();
    for each in asked() {
        let entry = tally.entry(each.dashboard.clone()).or_default();
        entry.0 += 1;
        let empty = open
            .iter()
            .any(|left| left.dashboard == each.dashboard && left.expr == each.expr);
        entry.1 += usize::from(!empty);
    }
    println!("expressions asked / with data: {all} / {with_data}");
    for (dashboard, (asked, with)) in tally {
        println!("  {dashboard:<22} {asked:>3} / {with}");
    }
    open.retain(|asked| !excused(asked));
    assert!(open.is_empty(), "no series: {open:#?}");
    running.shutdown(Duration::from_secs(3)).await;
    prometheus.stop().await;
    alertmanager.stop().await;
}
