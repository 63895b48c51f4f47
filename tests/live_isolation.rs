//! The program as it is installed: one source failing never stops another,
//! whatever way it fails; no secret in any output; a prompt end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use snowpit::demo::servers::{Postgres, PostgresAuth, PostgresOptions};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

const PASSWORD: &str = "planted-password-4711";
const LITERAL: &str = "planted-literal-0815";

async fn server() -> Postgres {
    let postgres = Postgres::start(PostgresOptions {
        auth: PostgresAuth::Scram(PASSWORD.into()),
        ..PostgresOptions::default()
    })
    .await
    .unwrap();
    let role =
        format!("CREATE ROLE snowpit LOGIN PASSWORD '{PASSWORD}'; GRANT pg_monitor TO snowpit");
    postgres.execute("postgres", &role).await.unwrap();
    postgres
}

/// A listener that takes connections and never says a word.
async fn mute() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A port that was free a moment ago.
async fn free_port() -> u16 {
    mute().await.local_addr().unwrap().port()
}

/// The configuration with a `[[postgres]]` for each name and port.
fn write_config(directory: &Path, listen: u16, sources: &[(&str, u16)]) -> String {
    let mut text = format!("[server]\nlisten = \"127.0.0.1:{listen}\"\n");
    for (name, port) in sources {
        text += &format!(
            "[[postgres]]\nname = \"{name}\"\n\
             dsn = \"postgresql://snowpit:{PASSWORD}@127.0.0.1:{port}/postgres\"\n"
        );
    }
    let file = directory.join("snowpit.toml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn run(config: &str, stderr: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(["run", "--config", config])
        .env("RUST_LOG", "trace")
        .stdout(Stdio::null())
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()
        .expect("the program runs")
}

/// The body of an answer, once there is one.
async fn get(listen: u16, path: &str) -> String {
    snowpit::observe::tls::use_ring();
    let url = format!("http://127.0.0.1:{listen}{path}");
    let answer = timeout(Duration::from_secs(20), async {
        loop {
            if let Ok(answer) = reqwest::get(&url).await {
                return answer.text().await.unwrap();
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    answer
        .await
        .unwrap_or_else(|_| panic!("{path} is not answered"))
}

async fn source(listen: u16, name: &str) -> Value {
    let status: Value = serde_json::from_str(&get(listen, "/api/v1/status").await).unwrap();
    let sources = status["sources"].as_array().unwrap();
    let found = sources.iter().find(|source| source["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .clone()
}

async fn wait_for_up(listen: u16, name: &str, up: bool) {
    let waited = timeout(Duration::from_secs(20), async {
        while source(listen, name).await["up"] != up {
            sleep(Duration::from_millis(50)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("{name} does not get up = {up}"));
}

/// Polls of `good` in six seconds, with none of them failed.
async fn polls_in_six_seconds(listen: u16) -> u64 {
    let polls = async || source(listen, "good").await["polls"].as_u64().unwrap();
    let before = polls().await;
    sleep(Duration::from_secs(6)).await;
    let good = source(listen, "good").await;
    assert_eq!(good["up"], true);
    assert_eq!(good["failures"].as_object().unwrap().len(), 0, "{good}");
    polls().await - before
}

#[tokio::test]
async fn dead_mute_and_dying_sources_hold_up_no_other_and_secrets_stay_inside() {
    let (good, dying, mute) = (server().await, server().await, mute().await);
    // One of the two waits for the other, so that both statements are shown.
    for _ in 0..2 {
        let session = good.connect("postgres", "postgres").await.unwrap();
        tokio::spawn(async move {
            let statement = format!("SELECT '{LITERAL}', pg_advisory_lock(7), pg_sleep(60)");
            let _ = session.simple_query(&statement).await;
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let listen = free_port().await;
    let sources = [
        ("dead", 1),
        ("dying", dying.port()),
        ("good", good.port()),
        ("mute", mute.local_addr().unwrap().port()),
    ];
    let config = write_config(directory.path(), listen, &sources);
    let log = directory.path().join("log");
    let mut program = run(&config, std::fs::File::create(&log).unwrap().into());
    wait_for_up(listen, "dying", true).await;
    wait_for_up(listen, "good", true).await;
    let pid = Pid::from_raw(i32::try_from(program.id().unwrap()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();

    dying.stop().await;
    let polls = polls_in_six_seconds(listen).await;
    // Six when the machine is idle. One that waits for a mute source has none.
    assert!((3..=7).contains(&polls), "{polls} polls in 6 s");
    for name in ["dead", "dying", "mute"] {
        let source = source(listen, name).await;
        assert_eq!(source["up"], false, "{source}");
        assert!(source["last_error"].is_string(), "{source}");
    }
    assert_eq!(source(listen, "mute").await["failures"]["timeout"], 1);

    let mut said = String::new();
    for path in [
        "/metrics",
        "/api/v1/status",
        "/api/v1/targets",
        "/api/v1/locks",
        "/api/v1/incidents",
    ] {
        said += &get(listen, path).await;
    }
    assert!(
        said.contains("pg_advisory_lock"),
        "the statement is there, {said}"
    );

    // The mute one is being asked, and a client sends half a request.
    let _half = tokio::net::TcpStream::connect(("127.0.0.1", listen))
        .await
        .unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    let status = timeout(Duration::from_secs(5), program.wait()).await;
    assert_eq!(status.expect("it ends within 5 s").unwrap().code(), Some(0));

    said += &std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("TRACE"), "the log is a full one");
    assert!(said.contains("configuration reloaded"), "it is told");
    for secret in [PASSWORD, LITERAL] {
        let at = said.find(secret).map(|at| &said[at.saturating_sub(80)..at]);
        assert_eq!(at, None, "{secret} was told");
    }
    good.stop().await;
}

#[tokio::test]
async fn the_watch_goes_on_when_nobody_reads_the_log() {
    let good = server().await;
    let directory = tempfile::tempdir().unwrap();
    let listen = free_port().await;
    let config = write_config(directory.path(), listen, &[("good", good.port())]);
    let mut program = run(&config, Stdio::piped());
    // What `snowpit run 2>&1 | rotate-logs` is left with when its reader ends.
    drop(program.stderr.take());
    wait_for_up(listen, "good", true).await;
    let polls = polls_in_six_seconds(listen).await;
    assert!((3..=7).contains(&polls), "{polls} polls in 6 s");
    let pid = i32::try_from(program.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    let status = timeout(Duration::from_secs(5), program.wait()).await;
    assert_eq!(status.expect("it ends within 5 s").unwrap().code(), Some(0));
    good.stop().await;
}
