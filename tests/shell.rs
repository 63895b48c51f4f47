//! What a shell and `man` are given is what they take.

use std::process::{Command, Output};

fn snowpit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn bash_completes_commands_and_options() {
    let output = snowpit(&["completions", "bash"]);
    assert!(output.status.success());
    let script = format!(
        "{}\nCOMP_WORDS=(snowpit inc); COMP_CWORD=1; _snowpit snowpit inc snowpit; echo \"${{COMPREPLY[@]}}\"\n\
         COMP_WORDS=(snowpit incidents --si); COMP_CWORD=2; _snowpit snowpit --si incidents; echo \"${{COMPREPLY[@]}}\"\n",
        String::from_utf8(output.stdout).unwrap()
    );
    let shell = Command::new("bash").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(shell.stdout).unwrap();
    assert_eq!(said.lines().collect::<Vec<_>>(), ["incidents", "--since"]);
}

#[test]
fn there_is_a_page_for_each_command() {
    let output = snowpit(&["man"]);
    assert!(output.status.success());
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains(".TH snowpit 1"), "{page}");
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    assert!(snowpit(&["man", "--directory", place]).status.success());
    for page in [
        "snowpit.1",
        "snowpit-run.1",
        "snowpit-locks.1",
        "snowpit-top.1",
        "snowpit-init.1",
    ] {
        assert!(directory.path().join(page).exists(), "{page}");
    }
    let nowhere = snowpit(&["man", "--directory", "/nonexistent/here"]);
    assert_eq!(nowhere.status.code(), Some(1));
    let said = String::from_utf8(nowhere.stderr).unwrap();
    assert!(said.contains("/nonexistent/here"), "{said}");
}

#[test]
fn alone_it_says_how_to_begin() {
    let output = snowpit(&[]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("snowpit demo") && said.contains("--dsn"),
        "{said}"
    );
    assert!(said.contains("snowpit init postgresql://"), "{said}");
    // Where there is no file, the same.
    let nowhere = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .arg("run")
        .args(["--config", "none.toml"])
        .current_dir(nowhere.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("snowpit init"), "{said}");
}
