//! The dashboards and what they are deployed with: one form, metrics that exist,
//! manifests that say what the rules say, and documentation that can be copied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use snowpit::expose::metrics::table;

/// Exported, and in no panel and no rule.
const NOT_SHOWN: [(&str, &str); 0] = [];

/// What Prometheus itself makes of a scrape.
const OF_PROMETHEUS: [&str; 2] = ["up", "scrape_duration_seconds"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboards() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("dashboards")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            found.insert(stem, serde_json::from_str(&text).unwrap());
        }
    }
    assert_eq!(found.len(), 5);
    found
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

/// Every expression: of panels, of annotations, of variables.
fn expressions(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().unwrap() {
            found.push(text(&target["expr"]));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        found.push(text(&annotation["expr"]));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            found.push(text(&variable["query"]["query"]));
        }
    }
    found
}

fn words(text: &str, start: &str) -> BTreeSet<String> {
    let found = text.match_indices(start).map(|(at, _)| {
        let rest = text[at..].chars();
        rest.take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == ':')
            .collect()
    });
    found.collect()
}

#[test]
fn every_dashboard_has_one_form() {
    for (name, dashboard) in dashboards() {
        assert_eq!(dashboard["schemaVersion"], 39, "{name}");
        assert_eq!(dashboard["uid"], name.as_str());
        assert!(dashboard.get("id").is_none(), "{name} has somebody's id");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<&str> = variables
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        assert_eq!(names[..3], ["datasource", "job", "instance"], "{name}");
        let incidents = &dashboard["annotations"]["list"][0]["expr"];
        assert!(
            incidents
                .as_str()
                .unwrap()
                .contains("snowpit_incident_open")
        );

        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(!title.is_empty(), "{name}");
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {title}");
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            assert!(
                unit.as_str().is_some_and(|u| !u.is_empty()),
                "{name}: {title}"
            );
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in place("x")..place("x") + place("w") {
                assert!(x < 24, "{name}: {title} is too wide");
                for y in place("y")..place("y") + place("h") {
                    assert!(cells.insert((x, y)), "{name}: {title} lies on another");
                }
            }
            for target in panel["targets"].as_array().unwrap() {
                for source in [&panel["datasource"], &target["datasource"]] {
                    assert_eq!(source["uid"], "$datasource", "{name}: {title}");
                }
                let expr = target["expr"].as_str().unwrap();
                let fixed = expr.contains("_total") && expr.contains("rate(");
                let recorded = expr.contains(':') && !expr.contains("rate(");
                assert!(
                    !fixed || recorded || expr.contains("[$__rate_interval]"),
                    "{name}: {title}: {expr}"
                );
            }
        }
    }
}

/// Labels of rules and the panel's own are the same words.
#[test]
fn expressions_only_name_what_is_exported_or_recorded() {
    let rules = read("alerts/snowpit.rules.yml");
    let recorded: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .collect();
    let mut used = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        for expr in expressions(&dashboard) {
            let mut known = 0;
            for word in words(&expr, "snowpit_") {
                let (word, of_record) = match word.split_once(':') {
                    Some((word, _)) => (word.to_owned(), true),
                    None => (word, false),
                };
                let base = ["_bucket", "_count", "_sum"]
                    .iter()
                    .find_map(|suffix| word.strip_suffix(suffix))
                    .unwrap_or(&word);
                let exported = table::ALL.iter().any(|metric| metric.name == base);
                assert!(exported, "{name}: {word} in {expr}");
                known += 1;
                if of_record {
                    let full = recorded.iter().any(|record| expr.contains(record));
                    assert!(full, "{name}: nothing records {expr}");
                }
            }
            known += OF_PROMETHEUS
                .iter()
                .filter(|own| expr.contains(&format!("{own}{{")))
                .count();
            assert!(known > 0, "{name}: {expr} names no metric");
            used.extend(recorded.iter().filter(|record| expr.contains(**record)));
        }
    }
    assert_eq!(used, recorded, "a rule records what no panel asks for");
}

#[test]
fn every_exported_metric_is_in_a_panel_or_a_rule() {
    let mut text = read("alerts/snowpit.rules.yml");
    for dashboard in dashboards().values() {
        text.push_str(&expressions(dashboard).join("\n"));
    }
    for metric in table::ALL {
        let shown = text.contains(metric.name);
        let excused = NOT_SHOWN.iter().any(|(name, _)| *name == metric.name);
        assert!(shown != excused, "{}: shown {shown}", metric.name);
    }
}

#[test]
fn links_of_alerts_lead_to_dashboards_that_have_the_variable() {
    let rules = read("alerts/snowpit.rules.yml");
    let dashboards = dashboards();
    let mut links = 0;
    for line in rules.lines() {
        let Some(link) = line.trim().strip_prefix("dashboard: ") else {
            continue;
        };
        let link = link.trim_matches('"').strip_prefix("/d/").expect("a path");
        let (uid, query) = link.split_once('?').unwrap_or((link, ""));
        let dashboard = dashboards.get(uid).unwrap_or_else(|| panic!("{link}"));
        if let Some(rest) = query.strip_prefix("var-") {
            let variable = rest.split('=').next().unwrap();
            let variables = dashboard["templating"]["list"].as_array().unwrap();
            let known = variables.iter().any(|known| known["name"] == variable);
            assert!(known, "{uid} has no variable {variable}");
        }
        links += 1;
    }
    assert!(links >= 15, "only {links} were found");
}

#[test]
fn the_manifest_for_kubernetes_says_what_the_rules_say() {
    let manifest = read("deploy/kubernetes/prometheusrule.yaml");
    let (head, spec) = manifest.split_once("\nspec:\n").unwrap();
    assert!(head.contains("kind: PrometheusRule"));
    let own: String = spec
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)))
        .collect();
    let rules = read("alerts/snowpit.rules.yml");
    let at = rules.find("\ngroups:").unwrap() + 1;
    assert!(own == rules[at..], "run scripts/manifests");
}

#[test]
fn the_monitor_for_kubernetes_finds_the_service_under_the_rules_job() {
    let text = read("deploy/kubernetes/servicemonitor.yaml");
    let (service, monitor) = text.split_once("---\n").unwrap();
    assert!(service.contains("kind: Service\n"));
    assert!(monitor.contains("kind: ServiceMonitor\n"));
    // The job is called as the service, unless told otherwise.
    assert!(service.contains("\n  name: snowpit\n") && !monitor.contains("jobLabel"));
    assert!(read("alerts/snowpit.rules.yml").contains("up{job=\"snowpit\"}"));
    let label = "app.kubernetes.io/name: snowpit";
    assert_eq!(text.matches(label).count(), 4);
    assert!(service.contains("- name: http\n") && monitor.contains("- port: http\n"));
    let port = snowpit::config::DEFAULT_LISTEN.port();
    assert!(service.contains(&format!("port: {port}\n")));
}

/// What stands in docs/alerting.md to be copied is good as it stands.
#[test]
fn examples_of_the_documentation_are_valid() {
    let text = read("docs/alerting.md");
    let block = |mark: &str| {
        let (_, rest) = text.split_once(&format!("```{mark}\n")).unwrap();
        rest.split("```").next().unwrap().to_owned()
    };
    let directory = tempfile::tempdir().unwrap();
    let rules = root().join("alerts/snowpit.rules.yml");
    let prometheus = block("yaml prometheus").replace(
        "/etc/prometheus/snowpit.rules.yml",
        &rules.display().to_string(),
    );
    let file = directory.path().join("prometheus.yml");
    std::fs::write(&file, prometheus).unwrap();
    let output = Command::new("promtool")
        .args(["check", "config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let server = "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://u@h/d\"\n";
    let toml = format!("{server}{}", block("toml snowpit"));
    let config = snowpit::config::Config::parse(&toml, "docs/alerting.md", |_| None).unwrap();
    assert_eq!(config.alertmanager.urls.len(), 2);
    for link in text.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(root().join("docs").join(target).exists(), "{target}");
    }
    for word in text.split_whitespace() {
        if let Some(path) = word.strip_prefix("deploy/") {
            assert!(root().join("deploy").join(path).exists(), "{path}");
        }
    }
}
