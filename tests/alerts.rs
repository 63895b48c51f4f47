//! The alert rules: valid, tested, each of them needed by its own tests, and
//! routed as the example for Alertmanager says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use snowpit::engine::incident::{Kind, Severity};

/// What promtool tests the rules with.
const TEST_FILES: [&str; 2] = ["snowpit_test.yml", "snowpit_self_test.yml"];
/// The cases that an alert has at least: it fires, it stays quiet, its series
/// vanish.
const CASES: usize = 3;

fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(alerts().join(name)).unwrap()
}

fn run(program: &str, package: &str, arguments: &[&str], file: &Path) -> Output {
    Command::new(program)
        .args(arguments)
        .arg(file)
        .output()
        .unwrap_or_else(|_| panic!("{program} runs; it comes with Debian's package {package}"))
}

fn promtool(arguments: &[&str], file: &Path) -> Output {
    run("promtool", "prometheus", arguments, file)
}

fn amtool(arguments: &[&str], file: &Path) -> Output {
    run("amtool", "prometheus-alertmanager", arguments, file)
}

fn assert_passes(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// One rule, or what stands between two of them.
#[derive(Debug)]
struct Part {
    text: String,
    is_rule: bool,
}

impl Part {
    /// The name of the alert or of the recorded series.
    fn name(&self) -> &str {
        let line = self.text.lines().next().unwrap_or_default();
        line.split_once(": ").map_or("", |(_, name)| name.trim())
    }

    fn is_alert(&self) -> bool {
        self.text.trim_start().starts_with("- alert: ")
    }

    /// The value of a label or annotation on a line of its own.
    fn value(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        let mut lines = self.text.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(start.as_str()))
    }
}

/// The rules file cut into its rules and what is around them.
fn parts() -> Vec<Part> {
    let mut parts = vec![Part {
        text: String::new(),
        is_rule: false,
    }];
    for line in read("snowpit.rules.yml").lines() {
        let begins = line.starts_with("      - alert: ") || line.starts_with("      - record: ");
        let ends = line.starts_with("  - name: ");
        if begins || ends {
            parts.push(Part {
                text: String::new(),
                is_rule: begins,
            });
        }
        let part = parts.last_mut().unwrap();
        part.text.push_str(line);
        part.text.push('\n');
    }
    parts
}

fn rules() -> Vec<Part> {
    let rules: Vec<Part> = parts().into_iter().filter(|part| part.is_rule).collect();
    assert!(rules.len() >= 20, "only {} rules were found", rules.len());
    rules
}

fn alert_rules() -> Vec<Part> {
    rules().into_iter().filter(Part::is_alert).collect()
}

/// The tests of promtool that speak of a rule: file head and cases.
fn cases_of(file: &str, rule: &str) -> Option<String> {
    const START: &str = "  - name: ";
    let text = read(file);
    let mut cases = text.split(START);
    let mut own = cases.next().unwrap().to_owned();
    let mut any = false;
    for case in cases {
        let names = |line: &str| {
            line.trim_end().ends_with(rule) || line.contains(&format!("alertname: {rule},"))
        };
        if case.lines().any(names) {
            own.push_str(START);
            own.push_str(case);
            any = true;
        }
    }
    any.then_some(own)
}

#[test]
fn rules_are_valid() {
    assert_passes(&promtool(
        &["check", "rules"],
        &alerts().join("snowpit.rules.yml"),
    ));
}

#[test]
fn rules_do_what_their_tests_say() {
    for file in TEST_FILES {
        assert_passes(&promtool(&["test", "rules"], &alerts().join(file)));
    }
}

#[test]
fn a_missing_rule_is_noticed_by_its_own_tests() {
    let parts = parts();
    for (missing, rule) in parts.iter().enumerate().filter(|(_, part)| part.is_rule) {
        let directory = tempfile::tempdir().unwrap();
        let kept = parts.iter().enumerate().filter(|(at, _)| *at != missing);
        let text: String = kept.map(|(_, part)| part.text.as_str()).collect();
        let rules = directory.path().join("snowpit.rules.yml");
        std::fs::write(&rules, text).unwrap();
        assert_passes(&promtool(&["check", "rules"], &rules));

        let noticed = TEST_FILES.iter().any(|file| {
            let Some(cases) = cases_of(file, rule.name()) else {
                return false;
            };
            let tests = directory.path().join(file);
            std::fs::write(&tests, cases).unwrap();
            !promtool(&["test", "rules"], &tests).status.success()
        });
        assert!(noticed, "no test misses\n{}", rule.text);
    }
}

#[test]
fn every_alert_has_three_cases_one_of_them_quiet() {
    for alert in alert_rules() {
        let name = alert.name();
        let tests: String = TEST_FILES
            .iter()
            .filter_map(|file| cases_of(file, name))
            .collect();
        let quiet = tests.matches(&format!("alertname: {name},")).count();
        let block = format!("alertname: {name}\n");
        let cases = quiet + tests.matches(&block).count();
        assert!(cases >= CASES, "{name} has {cases} cases");
        assert!(quiet > 0, "{name} is never seen quiet");
        assert!(tests.contains("stale"), "the series of {name} never vanish");
    }
}

#[test]
fn every_alert_has_its_labels_and_annotations_and_says_why_it_waits() {
    for alert in alert_rules() {
        let text = &alert.text;
        for part in ["summary: ", "description: ", "runbook_url: ", "dashboard: "] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let severity = alert.value("severity").expect("a severity");
        assert!(["page", "ticket"].contains(&severity), "{text}");
        let runbook = alert.value("runbook").expect("a runbook");
        assert!(text.contains(&format!("/runbooks/{runbook}{{{{")), "{text}");
        let (before, _) = text.split_once("        for: ").expect("a for");
        let comment = before.trim_end().lines().last().unwrap_or_default();
        assert!(
            comment.trim_start().starts_with('#'),
            "no reason for the wait:\n{text}"
        );
    }
}

#[test]
fn every_kind_has_one_alert_with_its_runbook_and_severity() {
    let alerts_of_file = alert_rules();
    for kind in Kind::ALL {
        let word = kind.as_str();
        let asks = format!("snowpit_incident_open{{kind=\"{word}\"}}");
        let mut alerts = alerts_of_file
            .iter()
            .filter(|alert| alert.text.contains(&asks));
        let alert = alerts
            .next()
            .unwrap_or_else(|| panic!("{word} has no alert"));
        assert!(alerts.next().is_none(), "{word} has two alerts");
        assert_eq!(alert.value("runbook"), Some(word));
        let severity = match kind.severity() {
            Severity::Critical => "page",
            Severity::Warning => "ticket",
        };
        assert_eq!(alert.value("severity"), Some(severity), "{word}");
        // The name that a direct push gives it.
        let camel: String = word
            .split('_')
            .map(|part| part[..1].to_uppercase() + &part[1..])
            .collect();
        assert_eq!(alert.name(), format!("Snowpit{camel}"));
    }
}

/// No rule or annotation asks for a metric that the code does not export.
#[test]
fn rules_only_name_metrics_that_exist() {
    let text: String = rules().into_iter().map(|rule| rule.text).collect();
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
    assert!(named >= 30, "only {named} names were looked at");
}

#[test]
fn the_example_for_alertmanager_is_valid_and_names_kinds_that_exist() {
    let file = alerts().join("alertmanager.example.yml");
    assert_passes(&amtool(&["check-config"], &file));
    let text = read("alertmanager.example.yml");
    let mut named = 0;
    for matcher in text.split("kind").skip(1) {
        let Some((_, rest)) = matcher.split_once('"') else {
            continue;
        };
        if !matcher.starts_with(['=', '!']) {
            continue;
        }
        for word in rest.split('"').next().unwrap_or_default().split('|') {
            let known = Kind::ALL.iter().any(|kind| kind.as_str() == word);
            assert!(known, "there is no kind {word}");
            named += 1;
        }
    }
    assert!(named >= 6, "only {named} kinds were looked at");
}

#[test]
fn the_example_for_alertmanager_pages_for_what_pages() {
    let file = alerts().join("alertmanager.example.yml");
    for alert in alert_rules() {
        let severity = alert.value("severity").unwrap();
        let config = format!("--config.file={}", file.display());
        let labels = [
            format!("alertname={}", alert.name()),
            format!("severity={severity}"),
            "target=main".to_owned(),
        ];
        let output = Command::new("amtool")
            .args(["config", "routes", "test", &config])
            .args(labels)
            .output()
            .unwrap();
        assert_passes(&output);
        let receiver = String::from_utf8(output.stdout).unwrap();
        let expected = if severity == "page" {
            "pager"
        } else {
            "tickets"
        };
        assert_eq!(receiver.trim(), expected, "{}", alert.name());
    }
}
