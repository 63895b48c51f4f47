//! The runbooks: one for each kind and each alert, in one form, and true to the
//! names that the program has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use snowpit::engine::Snapshot;
use snowpit::engine::incident::Kind;
use snowpit::expose::metrics::{EngineTicks, table};
use snowpit::expose::web::{WebState, runbooks, serve};
use snowpit::observe::health::Health;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Exactly these, in this order.
const HEADINGS: [&str; 7] = [
    "## Impact",
    "## Expected behaviour on failure",
    "## Observability",
    "## Recovery definition",
    "## Expected behaviour on recovery",
    "## Mitigation",
    "## Possible corrective actions",
];
/// Longer ones are not read at three in the morning.
const LINES: usize = 110;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn directory() -> PathBuf {
    root().join("docs/runbooks")
}

fn rules() -> String {
    std::fs::read_to_string(root().join("alerts/snowpit.rules.yml")).unwrap()
}

/// Name of each alert with its runbook and severity.
fn alerts() -> Vec<(String, String, String)> {
    let text = rules();
    let alerts = text.split("      - alert: ").skip(1).map(|alert| {
        let value = |name: &str| {
            let mut lines = alert.lines().map(str::trim);
            lines
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .to_owned()
        };
        let name = alert.lines().next().unwrap_or_default().to_owned();
        (name, value("runbook: "), value("severity: "))
    });
    alerts.collect()
}

#[test]
fn kinds_alerts_and_runbooks_match_one_to_one() {
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .map(|name| name.strip_suffix(".md").expect("a runbook").to_owned())
        .collect();
    let alerts = alerts();
    let named: BTreeSet<String> = alerts
        .iter()
        .map(|(_, runbook, _)| runbook.clone())
        .collect();
    assert_eq!(named.len(), alerts.len(), "two alerts share a runbook");
    assert_eq!(files, named, "runbooks and alerts");
    let served = runbooks::ALL.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(files, served.collect(), "runbooks and what is served");
    for kind in Kind::ALL {
        assert!(files.contains(kind.as_str()), "{}", kind.as_str());
    }
}

#[test]
fn every_runbook_has_its_headings_and_names_its_alert() {
    for (alert, name, severity) in alerts() {
        let (_, text) = runbooks::ALL.iter().find(|(n, _)| *n == name).unwrap();
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        assert!(
            headings[0].starts_with(&format!("# {name}: ")),
            "{}",
            headings[0]
        );
        assert_eq!(headings[1..], HEADINGS, "{name}");
        let names = format!("Alert `{alert}`, {severity}");
        assert!(text.contains(&names), "{name} does not say: {names}");
        assert!(text.contains("**A false alarm"), "{name}");
        let lines = text.lines().count();
        assert!((45..=LINES).contains(&lines), "{name} has {lines} lines");
        // Below each heading there is something to read.
        for section in text.split("\n## ").skip(1) {
            assert!(section.len() > 50, "{name}: {section}");
        }
    }
}

#[test]
fn the_list_has_each_with_its_severity() {
    let list = std::fs::read_to_string(directory().join("README.md")).unwrap();
    for (_, name, severity) in alerts() {
        let row = format!("| [{name}]({name}.md) | {severity} | ");
        assert!(list.contains(&row), "docs/runbooks/README.md lacks {row}");
    }
}

#[test]
fn links_lead_somewhere_and_metrics_exist() {
    let mut metrics = 0;
    for (name, text) in runbooks::ALL {
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            assert!(directory().join(target).exists(), "{name}: {target}");
        }
        for (start, _) in text.match_indices("snowpit_") {
            let word: String = text[start..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let base = word.strip_suffix("_bucket").unwrap_or(&word);
            let exported = table::ALL.iter().any(|metric| metric.name == base);
            assert!(
                exported || word == "snowpit_absent",
                "{name}: {word} is not exported"
            );
            metrics += 1;
        }
    }
    assert!(metrics > 60, "only {metrics} were looked at");
}

/// Expressions for Prometheus are expressions of Prometheus.
#[test]
fn expressions_are_valid() {
    let mut rules = String::from("groups:\n  - name: runbooks\n    rules:\n");
    let mut count = 0;
    for (_, text) in runbooks::ALL {
        for block in text.split("```promql\n").skip(1) {
            for line in block.split("```").next().unwrap().lines() {
                let quoted = line.replace('\'', "''");
                rules.push_str(&format!(
                    "      - record: r{count}\n        expr: '{quoted}'\n"
                ));
                count += 1;
            }
        }
    }
    assert!(count >= 8, "only {count} were found");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .expect("promtool runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn a_name_that_is_none_is_an_error_in_json() {
    snowpit::observe::tls::use_ring();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_snapshot, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let ticks = Arc::new(EngineTicks::default());
    let state = WebState::new(receiver, Health::new(), ticks, Vec::new());
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, state, stop.clone()));
    for (name, status) in [("%FF", 400), ("nothing", 404), ("lock_pileup", 200)] {
        let url = format!("http://{address}/runbooks/{name}");
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name}");
        if status != 200 {
            let answer: Value = answer.json().await.unwrap();
            assert!(answer["error"].is_string(), "{name}: {answer}");
        }
    }
    stop.cancel();
    server.await.unwrap();
}
