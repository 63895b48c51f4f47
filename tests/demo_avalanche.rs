//! The avalanche from end to end: a real surge on one rare route of a real
//! application, found and named by the daemon. In a file of its own, because it
//! wants the machine for itself. The servers are those of `demo::servers`.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_route_behind_the_avalanche_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(["demo", "--scenario", "avalanche", "--json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    let avalanche = &report["stagings"][0];
    let named = avalanche["named"].as_str().unwrap();
    assert!(
        named.starts_with("connection_avalanche (endpoint) GET /cnr/api/v1/packages"),
        "{named}"
    );
    for moment in ["detected_after", "named_after", "resolved_after"] {
        let seconds = avalanche[moment].as_f64().unwrap();
        println!("{moment}: {seconds:.1} s");
    }
    assert_eq!(report["uncalled"], Value::Array(Vec::new()));
}
