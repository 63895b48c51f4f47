//! The unit that snowpit is deployed with: paths that the program knows, and a
//! process that may do little.

use std::collections::BTreeMap;
use std::process::Command;

use snowpit::config::DEFAULT_PATHS;

const UNIT: &str = "deploy/systemd/snowpit.service";

/// What `systemd-analyze security` may find at most, of 10.
const EXPOSURE: f64 = 1.5;

/// The last value of each key.
fn unit() -> BTreeMap<String, String> {
    std::fs::read_to_string(UNIT)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_unit_starts_the_program_with_its_usual_file_and_directory() {
    let unit = unit();
    let mut words = unit["ExecStart"].split_whitespace();
    assert_eq!(words.next(), Some("/usr/bin/snowpit"));
    let arguments: Vec<&str> = words.collect();
    assert!(
        DEFAULT_PATHS.contains(arguments.last().unwrap()),
        "{arguments:?}"
    );
    let help = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(&arguments)
        .arg("--help")
        .output()
        .unwrap();
    assert!(help.status.success(), "{help:?}");
    let example = std::fs::read_to_string("config.example.toml").unwrap();
    let state = format!("directory = \"/var/lib/{}\"", unit["StateDirectory"]);
    assert!(example.contains(&state), "{state}");
    assert_eq!(unit["ExecReload"], "/bin/kill -HUP $MAINPID");
}

#[test]
fn the_unit_leaves_the_process_little_to_do_harm_with() {
    let unit = unit();
    for (key, value) in [
        ("DynamicUser", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("NoNewPrivileges", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("LimitCORE", "0"),
    ] {
        assert_eq!(unit.get(key).map(String::as_str), Some(value), "{key}");
    }
    let Ok(report) = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", UNIT])
        .output()
    else {
        let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!ci, "systemd-analyze is missing: install systemd");
        eprintln!("SKIPPED: systemd-analyze is not here to judge the unit");
        return;
    };
    let text = String::from_utf8_lossy(&report.stdout);
    let exposure = text
        .lines()
        .find_map(|line| line.split_once("exposure level for snowpit.service: "))
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok());
    let exposure = exposure.unwrap_or_else(|| panic!("no judgement: {report:?}"));
    eprintln!("systemd-analyze security: {exposure} of 10");
    assert!(exposure <= EXPOSURE, "{text}");
}
