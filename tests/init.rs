//! `snowpit init`, as who has just heard of snowpit would use it.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::Stage;
use common::daemon::{Daemon, until};

fn snowpit(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("PGPASSWORD")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}{}", String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_user_gets_from_nothing_to_an_orphan() {
    snowpit::observe::tls::use_ring();
    let stage = Stage::start().await;
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let application = stage.client("app", "registry-7f9c").await;
    application.simple_query("SELECT 1").await.unwrap();

    // A password in the string is used, and not written down.
    let dsn = stage.postgres.dsn("postgres", "postgres");
    let dsn = dsn.replacen("postgres@", "postgres:s3cret@", 1);
    assert!(dsn.contains("s3cret"), "{dsn}");
    let console = stage.pooler.dsn("stats", "pgbouncer");
    let output = snowpit(here, &["init", &dsn, &console]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("snowpit run"), "{}", said(&output));
    assert!(!said(&output).contains("s3cret"));
    let file = here.join("snowpit.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("s3cret"), "{text}");
    for words in [
        "had a password",
        "GRANT pg_monitor TO snowpit;",
        "stats_users = stats",
        "target = \"main\"",
        "Databases: app, postgres",
        "#name = \"registry\"",
        "is a superuser",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    // The service runs as somebody else.
    assert_eq!(mode & 0o777, 0o644);
    let only = std::fs::read_dir(here).unwrap().count();
    assert_eq!(only, 1, "nothing is left beside it");

    let output = snowpit(here, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    // The port of the default may be somebody else's on this machine.
    let text = text.replace("#listen = \"127.0.0.1:9899\"", "listen = \"127.0.0.1:0\"");
    let daemon = Daemon::start(here, &text);
    daemon.ready().await;
    let client = stage.client("app", "gateway").await;
    client
        .simple_query("SELECT pg_advisory_lock(42424242424242)")
        .await
        .unwrap();
    drop(client);
    let found = until("found", async || {
        daemon.incidents().await.into_iter().next()
    })
    .await;
    assert_eq!(found["kind"], "orphaned_advisory_lock", "{found}");
    let summary = found["summary"].as_str().unwrap();
    assert!(summary.contains("42424242424242"), "{summary}");
}

#[tokio::test]
async fn nothing_is_written_that_was_not_asked_for() {
    let stage = Stage::start().await;
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let dsn = stage.postgres.dsn("postgres", "postgres");
    let console = stage.pooler.dsn("stats", "pgbouncer");
    let file = here.join("snowpit.toml");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = nobody.local_addr().unwrap().port();
    let nobody = format!("postgresql://postgres:s3cret@127.0.0.1:{nobody}/postgres");
    let pool = stage.pooler.dsn("app", "app");
    let cases: [(&[&str], i32, &str); 6] = [
        (&["init"], 2, "snowpit init postgresql://"),
        (&["init", "http://nonsense"], 2, "postgresql://user@host"),
        (&["init", &nobody, &dsn], 1, "nothing was written"),
        (&["init", &console], 1, "PostgreSQL behind it"),
        // A pool of PgBouncer is neither; who may not use the console is told so.
        (&["init", &pool], 1, "stats_users"),
        (
            &["init", &dsn, "--output", "no/such/place.toml"],
            1,
            "no/such/place.toml",
        ),
    ];
    for (arguments, status, words) in cases {
        let output = snowpit(here, arguments);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains(words),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(!said(&output).contains("s3cret"), "{}", said(&output));
        assert!(!file.exists(), "{arguments:?}");
    }

    std::fs::write(&file, "mine").unwrap();
    let output = snowpit(here, &["init", &dsn]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--force"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    // A link that leads nowhere is somebody's, too.
    let link = here.join("link.toml");
    std::os::unix::fs::symlink("elsewhere.toml", &link).unwrap();
    let output = snowpit(here, &["init", &dsn, "--output", "link.toml"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));

    let closed = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(&file, closed).unwrap();
    let output = snowpit(here, &["init", &dsn, "--force", "--probe"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "it stays as closed as it was");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("[[postgres]]") && text.contains("No PgBouncer was given"),
        "{text}"
    );
}
