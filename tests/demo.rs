//! The private servers and the demo: they do what they say and leave nothing
//! behind.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresAuth, PostgresOptions, Prometheus,
};

fn runs(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Pids whose parent is `pid`.
fn children(pid: i32) -> Vec<i32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[tokio::test]
async fn postgres_and_pgbouncer_answer_and_leave_nothing() {
    let postgres = Postgres::start(PostgresOptions {
        max_connections: 17,
        settings: vec![("max_prepared_transactions".into(), "3".into())],
        ..PostgresOptions::default()
    })
    .await
    .unwrap();
    postgres
        .execute("postgres", "CREATE ROLE app LOGIN")
        .await
        .unwrap();
    postgres
        .execute("postgres", "CREATE DATABASE app OWNER app")
        .await
        .unwrap();
    let direct = postgres.connect("app", "app").await.unwrap();
    let row = direct
        .query_one("SELECT current_setting('max_connections'), current_setting('max_prepared_transactions')", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("17", "3"));

    let pooler = PgBouncer::start(PgBouncerOptions {
        databases: vec![Alias {
            name: "shop".into(),
            pool_mode: Some("session".into()),
            ..Alias::new("app", postgres.port())
        }],
        users: vec![("app".into(), String::new())],
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap();
    let pooled = pooler.connect("app", "shop", "test").await.unwrap();
    let answer = pooled
        .simple_query("SELECT current_database()")
        .await
        .unwrap();
    assert!(format!("{answer:?}").contains("app"));
    let databases = pooler.console("SHOW DATABASES").await.unwrap();
    let shop = databases
        .iter()
        .find(|row| row.get("name") == Some("shop"))
        .unwrap();
    assert_eq!(shop.get("database"), Some("app"));
    assert_eq!(shop.get("pool_mode"), Some("session"));

    let mut pids = vec![postgres.pid(), pooler.pid()];
    pids.extend(children(postgres.pid()));
    assert!(pids.len() > 3, "the postmaster has children: {pids:?}");
    let directories: Vec<PathBuf> = vec![
        postgres.socket_dir().to_path_buf(),
        pooler.socket_dir().to_path_buf(),
    ];
    assert!(directories.iter().all(|directory| directory.exists()));
    pooler.stop().await;
    postgres.stop().await;
    assert!(!pids.iter().any(|pid| runs(*pid)), "{pids:?}");
    assert!(!directories.iter().any(|directory| directory.exists()));
}

#[test]
fn a_server_dropped_outside_the_runtime_leaves_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let postgres = runtime
        .block_on(Postgres::start(PostgresOptions {
            auth: PostgresAuth::Scram("it's a secret".into()),
            ..PostgresOptions::default()
        }))
        .unwrap();
    runtime.block_on(async {
        let client = postgres.connect("postgres", "postgres").await.unwrap();
        client.simple_query("SELECT 1").await.unwrap();
        let mut wrong = tokio_postgres::Config::new();
        wrong
            .host("127.0.0.1")
            .port(postgres.port())
            .user("postgres")
            .password("wrong");
        assert!(snowpit::demo::servers::connect(&wrong).await.is_err());
    });
    drop(runtime);
    let (pid, directory) = (postgres.pid(), postgres.socket_dir().to_path_buf());
    assert!(runs(pid) && directory.exists());
    drop(postgres);
    assert!(!runs(pid) && !directory.exists());
}

#[tokio::test]
async fn a_bad_setting_is_told_with_the_servers_own_words() {
    let error = Postgres::start(PostgresOptions {
        settings: vec![("no_such_setting".into(), "1".into())],
        ..PostgresOptions::default()
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn prometheus_answers_and_leaves_nothing() {
    let prometheus = Prometheus::start("global: {scrape_interval: 1s}\n", None)
        .await
        .unwrap();
    let pid = prometheus.pid();
    let config = reqwest::get(format!("{}/api/v1/status/config", prometheus.url()))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(config.contains("scrape_interval: 1s"), "{config}");
    prometheus.stop().await;
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_taken_port_is_left_to_its_owner() {
    let owner = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = owner.local_addr().unwrap().port();
    let postgres = Postgres::start(PostgresOptions {
        port: Some(taken),
        ..PostgresOptions::default()
    })
    .await
    .unwrap();
    assert_ne!(postgres.port(), taken);
    let pooler = PgBouncer::start(PgBouncerOptions {
        port: Some(postgres.port()),
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap();
    assert_ne!(pooler.port(), postgres.port());
    let again = pooler.port();
    pooler.stop().await;
    let pooler = PgBouncer::start(PgBouncerOptions {
        port: Some(again),
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap();
    assert_eq!(pooler.port(), again);
}

/// A demo in a temporary directory of its own.
struct Demo {
    child: Child,
    files: tempfile::TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let files = tempfile::Builder::new().prefix("d").tempdir().unwrap();
        // The servers run as another user when we are root.
        std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_snowpit"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", files.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, files }
    }

    /// Keeps the pipe open behind it, so that the demo can go on talking.
    fn wait_for(&mut self, word: &str) {
        let out = self.child.stdout.as_mut().unwrap();
        let line = BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .find(|line| line.contains(word));
        assert!(line.is_some(), "the demo ended before it said {word:?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Processes that work in the demo's directory, whoever their parent is.
    fn processes(&self) -> Vec<PathBuf> {
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("cwd")).ok())
            .filter(|cwd| cwd.starts_with(self.files.path()))
            .collect()
    }

    fn left_files(&self) -> usize {
        std::fs::read_dir(self.files.path()).unwrap().count()
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let mut demo = Demo::start(&["--scenario", "orphan"]);
    demo.wait_for("staged");
    assert!(demo.processes().len() > 5, "{:?}", demo.processes());
    assert_eq!(demo.left_files(), 2);
    demo.signal(Signal::SIGINT);
    assert_eq!(demo.child.wait().unwrap().code(), Some(130));
    assert_eq!(demo.processes(), Vec::<PathBuf>::new());
    assert_eq!(demo.left_files(), 0);
}

#[test]
fn a_demo_interrupted_while_it_starts_leaves_nothing() {
    for milliseconds in [0, 250, 600, 1_000] {
        let mut demo = Demo::start(&["--scenario", "orphan"]);
        // Its first line; the signals are caught by then.
        demo.wait_for("A private PostgreSQL");
        std::thread::sleep(Duration::from_millis(milliseconds));
        demo.signal(Signal::SIGTERM);
        assert_eq!(demo.child.wait().unwrap().code(), Some(130));
        assert_eq!(demo.processes(), Vec::<PathBuf>::new(), "{milliseconds}");
        assert_eq!(demo.left_files(), 0, "{milliseconds}");
    }
}

#[test]
fn a_killed_demo_leaves_no_process() {
    let mut demo = Demo::start(&["--scenario", "avalanche"]);
    demo.wait_for("every second");
    assert!(demo.processes().len() > 5);
    demo.signal(Signal::SIGKILL);
    demo.child.wait().unwrap();
    for _ in 0..100 {
        if demo.processes().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("still there: {:?}", demo.processes());
}

#[test]
fn the_orphan_is_detected_named_and_freed() {
    let demo = Demo::start(&["--scenario", "orphan", "--json"]);
    let files = demo.files;
    let output = demo.child.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    assert_eq!(report["passed"], true);
    let orphan = &report["stagings"][0];
    assert_eq!(
        orphan["named"],
        "lock 42424242424242 in app at pooler-1, orphaned"
    );
    assert_eq!(orphan["facts"]["action"], "RECONNECT app;");
    for moment in ["detected_after", "resolved_after"] {
        let seconds = orphan[moment].as_f64().unwrap();
        println!("{moment}: {seconds:.1} s");
    }
    assert_eq!(report["uncalled"], serde_json::json!([]));
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 0);
}

#[test]
fn the_list_describes_every_scenario() {
    let mut demo = Demo::start(&["--scenario", "list"]);
    assert!(demo.child.wait().unwrap().success());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut demo.child.stdout.take().unwrap(), &mut text).unwrap();
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        names,
        [
            "orphan",
            "avalanche",
            "hold_up",
            "broad_surge",
            "reconnect_storm",
            "leak",
            "lock_pileup",
            "application",
            "two_culprits",
        ]
    );
}
