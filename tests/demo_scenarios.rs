//! The further scenarios of the demo, once each, on four sets of servers beside
//! one another: each must be detected, its cause told and its culprit named
//! within 30 s. It takes less than three minutes. The servers are those of
//! `demo::servers`.

use std::process::Command;

use serde_json::Value;

/// `orphan` and `avalanche` have tests of their own.
const SCENARIOS: [&str; 7] = [
    "hold_up",
    "broad_surge",
    "reconnect_storm",
    "leak",
    "lock_pileup",
    "application",
    "two_culprits",
];

/// Neither of two routes may be far enough ahead to be named, and then unknown
/// is the answer.
const MAY_BE_UNKNOWN: &str = "two_culprits";

#[test]
fn every_cause_is_told_and_named() {
    let scenarios = SCENARIOS.join(",");
    let output = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(["demo", "--scenario", &scenarios, "--stacks", "4", "--json"])
        .output()
        .unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["scenarios"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["scenario"].clone()).collect();
    assert_eq!(names, SCENARIOS);
    let stagings = report["stagings"].as_array().unwrap();
    assert_eq!(stagings.len(), SCENARIOS.len());
    for staging in stagings {
        println!("{} {}", staging["scenario"], staging["named_after"]);
        assert_eq!(staging["detected"], true, "{staging:#}");
        let told = staging["named"].as_str().unwrap();
        if staging["scenario"] == MAY_BE_UNKNOWN && told == "connection_avalanche (unknown)" {
            continue;
        }
        assert_eq!(staging["cause_right"], true, "{staging:#}");
        assert_eq!(staging["name_right"], true, "{staging:#}");
        assert_eq!(staging["problems"], Value::Array(Vec::new()), "{staging:#}");
    }
    assert_eq!(report["uncalled"], Value::Array(Vec::new()));
}
