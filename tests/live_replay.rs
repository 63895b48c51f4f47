//! What the live daemon said and what the replay of its capture says are the
//! same, to the last figure.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The lines of a JSON Lines text as they are told of, without what only the
/// journal adds.
fn changes(text: &str) -> Vec<Value> {
    let mut changes: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for change in &mut changes {
        let change = change.as_object_mut().unwrap();
        change.retain(|name, _| ["t", "event", "incident"].contains(&name.as_str()));
    }
    changes
}

fn snowpit(args: &[&str], path: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
    command.args(args).arg(path).output().unwrap()
}

#[test]
fn the_replay_of_a_demo_says_what_the_daemon_said() {
    let place = tempfile::tempdir().unwrap();
    let kept = place.path().join("kept");
    let scenarios = ["--scenario", "orphan,avalanche", "--stacks", "1"];
    let demo = snowpit(
        &[&["demo"], &scenarios[..], &["--json", "--keep"]].concat(),
        &kept,
    );
    let told = String::from_utf8_lossy(&demo.stderr).into_owned();
    assert!(kept.join("captures").is_dir(), "{told}");
    let journal = fs::read_to_string(kept.join("incidents.jsonl")).unwrap();
    let live = changes(&journal);

    let replay = snowpit(&["replay", "--json"], &kept.join("captures"));
    assert_eq!(replay.status.code(), Some(0), "{replay:?}");
    let replayed = String::from_utf8(replay.stdout).unwrap();
    assert_eq!(changes(&replayed), live);
    for kind in ["orphaned_advisory_lock", "connection_avalanche"] {
        for event in ["opened", "resolved"] {
            let of =
                |change: &&Value| change["incident"]["kind"] == kind && change["event"] == event;
            assert!(
                live.iter().any(|change| of(&change)),
                "{kind} {event}: {told}"
            );
        }
    }
    let again = snowpit(&["replay", "--json"], &kept.join("captures"));
    assert_eq!(String::from_utf8(again.stdout).unwrap(), replayed);

    let listed = snowpit(&["demo", "--scenario", "orphan", "--keep"], &kept);
    assert!(!listed.status.success(), "it is not empty");
}
