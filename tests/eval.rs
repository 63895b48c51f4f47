//! `snowpit eval` from the command line: figures, exit status, captures.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn eval(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .arg("eval")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn every_figure_stands_beside_its_floor_and_decides_the_exit_status() {
    let output = eval(&[
        "--seed",
        "5",
        "--incidents",
        "1",
        "--family",
        "hold_up",
        "--family",
        "quiet",
        "--quiet-days",
        "0",
        "--json",
    ]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let met = told["met"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!met)), "{told}");
    let score = &told["score"];
    let figures = score["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 17);
    for figure in figures {
        assert!(figure["floor"].is_number() && figure["goal"].is_number());
    }
    let value = |name: &str| {
        let mut found = figures.iter().filter(|f| f["name"] == name);
        found.next().unwrap()["value"].clone()
    };
    // Nothing was watched for false alarms on quiet days, and that is said.
    assert!(value("false alarms a quiet day").is_null());
    assert!(value("false alarms a day at that recall").is_number());
    let families = score["families"].as_array().unwrap();
    let names: Vec<&str> = families
        .iter()
        .map(|row| row["family"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["hold_up", "quiet"]);
    assert!(families.iter().all(|row| row["incidents"] == 1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("2 of 2 replayed"), "{stderr}");
}

#[test]
fn a_family_that_is_none_is_refused_with_those_that_are() {
    let output = eval(&["--family", "avalanche"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("rare_heavy_endpoint"), "{stderr}");
}

#[test]
fn a_scenario_is_written_with_the_truth_beside_it() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().to_str().unwrap();
    let output = eval(&[
        "--incidents",
        "1",
        "--family",
        "weak_spike",
        "--write",
        directory,
    ]);
    assert_eq!(output.status.code(), Some(0));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let files: Vec<&Path> = stdout.lines().map(Path::new).collect();
    assert_eq!(files.len(), 4, "one for each kind of evidence: {stdout}");
    for file in files {
        assert!(file.metadata().unwrap().len() > 1_000);
        let truth = file.to_str().unwrap().replace(".jsonl.zst", ".truth.json");
        let truth: Value = serde_json::from_slice(&std::fs::read(truth).unwrap()).unwrap();
        assert_eq!(truth["truth"]["cause"], "endpoint");
    }
}
