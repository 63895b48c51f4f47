//! The alert rules: valid, tested, and each of them needed by a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts")
}

fn promtool(arguments: &[&str], file: &Path) -> Output {
    Command::new("promtool")
        .args(arguments)
        .arg(file)
        .output()
        .expect("promtool runs; it comes with Debian's package prometheus")
}

fn assert_passes(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The rules file cut into what stands before the first alert, and the alerts.
fn rules() -> (String, Vec<String>) {
    const START: &str = "      - alert: ";
    let text = std::fs::read_to_string(alerts().join("snowpit.rules.yml")).unwrap();
    let mut parts = text.split(START);
    let head = parts.next().unwrap().to_owned();
    (head, parts.map(|part| format!("{START}{part}")).collect())
}

#[test]
fn rules_are_valid() {
    let file = alerts().join("snowpit.rules.yml");
    assert_passes(&promtool(&["check", "rules"], &file));
}

#[test]
fn rules_do_what_their_tests_say() {
    let file = alerts().join("snowpit_test.yml");
    assert_passes(&promtool(&["test", "rules"], &file));
}

#[test]
fn a_missing_rule_is_noticed() {
    let (head, alerts_of_file) = rules();
    assert!(alerts_of_file.len() >= 5);
    for missing in 0..alerts_of_file.len() {
        let directory = tempfile::tempdir().unwrap();
        let mut text = head.clone();
        for (index, alert) in alerts_of_file.iter().enumerate() {
            if index != missing {
                text.push_str(alert);
            }
        }
        let rules = directory.path().join("snowpit.rules.yml");
        std::fs::write(&rules, text).unwrap();
        assert_passes(&promtool(&["check", "rules"], &rules));

        let tests = directory.path().join("snowpit_test.yml");
        std::fs::copy(alerts().join("snowpit_test.yml"), &tests).unwrap();
        let output = promtool(&["test", "rules"], &tests);
        assert!(
            !output.status.success(),
            "no test misses\n{}",
            alerts_of_file[missing]
        );
    }
}

#[test]
fn every_alert_has_its_labels_and_annotations_and_says_why_it_waits() {
    for alert in rules().1 {
        for part in ["severity: ", "summary: ", "description: ", "runbook: "] {
            assert!(alert.contains(part), "{part} is missing in\n{alert}");
        }
        let (before, _) = alert.split_once("        for: ").expect("a for");
        let comment = before.trim_end().lines().last().unwrap_or_default();
        assert!(
            comment.trim_start().starts_with('#'),
            "no reason for the wait:\n{alert}"
        );
    }
}

#[test]
fn every_kind_has_one_alert_with_its_runbook() {
    let alerts_of_file = rules().1;
    for kind in snowpit::engine::incident::Kind::ALL {
        let word = kind.as_str();
        let asks = format!("snowpit_incident_open{{kind=\"{word}\"}}");
        let mut alerts = alerts_of_file.iter().filter(|alert| alert.contains(&asks));
        let alert = alerts
            .next()
            .unwrap_or_else(|| panic!("{word} has no alert"));
        assert!(alerts.next().is_none(), "{word} has two alerts");
        assert!(alert.contains(&format!("runbook: {word}\n")), "{alert}");
    }
}

/// No alert or annotation asks for a metric that the code does not export.
#[test]
fn rules_only_name_metrics_that_exist() {
    let (_, rules) = rules();
    let text = rules.concat();
    let mut named = 0;
    for (start, _) in text.match_indices("snowpit_") {
        let name: String = text[start..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        let is_kind = name == "snowpit_absent";
        let exported = snowpit::expose::metrics::table::ALL
            .iter()
            .any(|metric| metric.name == name);
        assert!(is_kind || exported, "{name} is not exported");
        named += usize::from(exported);
    }
    assert!(named >= 8, "only {named} names were looked at");
}
