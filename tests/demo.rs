//! The private servers: they start, answer, and leave nothing behind.

use std::path::{Path, PathBuf};

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
