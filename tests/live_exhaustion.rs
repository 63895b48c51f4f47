//! Everything is taken: slots of a server, clients of a pooler. What snowpit
//! still sees, what it says, and when it is back.

mod common;

use std::time::Duration;

use common::faults::{Row, Watch, own_sessions, programs, sum};
use common::{Stage, pooler};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions};
use snowpit::engine::incident::{Kind, Severity};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

const SECTION: &str = "Exhaustion";
const SLOTS: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// A server with few slots, the role `watch` for snowpit, and a pooler.
async fn narrow(options: PostgresOptions) -> Stage {
    let postgres = Postgres::start(PostgresOptions {
        max_connections: SLOTS,
        ..options
    })
    .await
    .unwrap();
    for sql in [
        "CREATE ROLE app LOGIN",
        "CREATE DATABASE app OWNER app",
        "CREATE ROLE watch LOGIN IN ROLE pg_monitor",
    ] {
        postgres.execute("postgres", sql).await.unwrap();
    }
    let pooler = pooler(&postgres).await;
    Stage { postgres, pooler }
}

fn configuration(stage: &Stage) -> String {
    format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
         [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n\
         [detect.connection_headroom]\nhold = \"3s\"\n",
        stage.postgres.dsn("watch", "postgres"),
        stage.pooler.dsn("stats", "pgbouncer"),
    )
}

/// Ordinary sessions until no more are let in. Twice, as the one that is refused
/// may be seen leaving.
async fn fill(postgres: &Postgres) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..2 {
        while let Ok(client) = postgres.connect("app", "app").await {
            clients.push(client);
        }
        sleep(SECOND).await;
    }
    clients
}

async fn refusals(watch: &Watch) -> f64 {
    let series = "snowpit_poll_failures_total{source=\"postgres\",name=\"main\",reason=\"too_many_connections\"}";
    sum(&watch.metrics().await, series)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_slots_are_taken_while_we_run() {
    let stage = narrow(PostgresOptions::default()).await;
    let mut watch = Watch::start(&configuration(&stage)).await;
    watch.until_up("main", true).await;
    let before = own_sessions(&stage.postgres).await;
    assert_eq!(before.len(), 1, "{before:?}");

    let began = Instant::now();
    let clients = fill(&stage.postgres).await;
    watch.until_open(Kind::ConnectionHeadroom, |_| true).await;
    let within = began.elapsed();
    let polls = async |watch: &Watch| watch.source("main").await["polls"].as_u64().unwrap();
    let polled = polls(&watch).await;
    watch
        .until("five more looks", async |watch| {
            polls(watch).await >= polled + 5
        })
        .await;
    assert!(watch.is_up("main").await);
    assert_eq!(watch.failures("main").await, 0);
    assert_eq!(
        own_sessions(&stage.postgres).await,
        before,
        "one session, kept"
    );
    Row {
        section: SECTION,
        staged: "all `max_connections` taken while it runs",
        says: watch
            .open(Kind::ConnectionHeadroom)
            .unwrap()
            .summary
            .clone(),
        within: Some(within),
        again: Some(Duration::ZERO),
        lost: "no look: the one session is kept".into(),
        test: "live_exhaustion::all_slots_are_taken_while_we_run",
    }
    .print();

    // Worse: our one session stands still, and there is no other to be had.
    let backend = Pid::from_raw(before[0].0);
    kill(backend, Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    let refused = |incident: &snowpit::engine::incident::Incident| {
        incident.summary.contains("refuses connections")
    };
    let (incident, _) = watch.until_open(Kind::ConnectionHeadroom, refused).await;
    let within = stopped.elapsed();
    assert!(!watch.is_up("main").await);
    kill(backend, Signal::SIGCONT).unwrap();
    let again = watch.until_up("main", true).await;
    assert_eq!(
        own_sessions(&stage.postgres).await,
        before,
        "the same session goes on"
    );
    Row {
        section: SECTION,
        staged: "the same, and our own backend stopped (SIGSTOP), then continued",
        says: incident.summary.clone(),
        within: Some(within),
        again: Some(again),
        lost: format!("{} looks failed", watch.failures("main").await),
        test: "live_exhaustion::all_slots_are_taken_while_we_run",
    }
    .print();

    drop(clients);
    watch.until_over(Kind::ConnectionHeadroom).await;
    watch.only(&[Kind::ConnectionHeadroom, Kind::ConnectionAvalanche]);
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn started_in_a_full_server_it_says_so_and_what_the_poolers_tell() {
    let stage = narrow(PostgresOptions::default()).await;
    // Three servers of the pool, of which two are at work.
    let mut busy = Vec::new();
    for _ in 0..3 {
        let client = stage.client("app", "registry").await;
        client.simple_query("BEGIN").await.unwrap();
        busy.push(client);
    }
    busy[0].simple_query("COMMIT").await.unwrap();
    let mut clients = fill(&stage.postgres).await;
    let began = Instant::now();
    let mut watch = Watch::start(&configuration(&stage)).await;
    let quoted = |incident: &snowpit::engine::incident::Incident| {
        incident
            .evidence
            .iter()
            .any(|line| line.starts_with("pooler-1 has "))
    };
    let (incident, _) = watch.until_open(Kind::ConnectionHeadroom, quoted).await;
    let within = began.elapsed();
    assert_eq!(
        incident.summary,
        "main refuses connections: all its slots are taken"
    );
    assert_eq!(incident.severity, Severity::Critical);
    let poolers: Vec<_> = incident
        .evidence
        .iter()
        .filter(|line| line.contains("pooler-1"))
        .collect();
    assert_eq!(
        poolers,
        ["pooler-1 has 3 sessions there, 2 in use, and 0 clients in its queue"],
        "{:?}",
        incident.evidence
    );
    let page = watch.metrics().await;
    assert!(refusals(&watch).await >= 1.0, "{page}");
    assert_eq!(
        sum(
            &page,
            "snowpit_source_up{source=\"postgres\",name=\"main\"}"
        ),
        0.0
    );
    assert_eq!(
        sum(&page, "snowpit_connections{target=\"main\""),
        0.0,
        "nothing is made up"
    );
    // Long enough for the pause between looks to have grown to its longest.
    watch
        .until("six refusals", async |watch| refusals(watch).await >= 6.0)
        .await;
    clients.pop();
    let again = watch.until_up("main", true).await;
    let lost = watch.failures("main").await;
    drop(clients);
    watch.until_over(Kind::ConnectionHeadroom).await;
    Row {
        section: SECTION,
        staged: "started while all slots are taken, then one is free",
        says: format!("{}; {}", incident.summary, poolers[0]),
        within: Some(within),
        again: Some(again),
        lost: format!("{lost} looks refused"),
        test: "live_exhaustion::started_in_a_full_server_it_says_so_and_what_the_poolers_tell",
    }
    .print();
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserved_slot_lets_it_in_where_all_others_are_taken() {
    let Some(bindir) = programs("pg16") else {
        return;
    };
    let stage = narrow(PostgresOptions {
        bindir: Some(bindir),
        settings: vec![("reserved_connections".into(), "2".into())],
        ..PostgresOptions::default()
    })
    .await;
    let clients = fill(&stage.postgres).await;
    let mut watch = Watch::start(&configuration(&stage)).await;
    watch
        .until("refused", async |watch| refusals(watch).await >= 1.0)
        .await;
    let grant = "GRANT pg_use_reserved_connections TO watch";
    stage.postgres.execute("postgres", grant).await.unwrap();
    let again = watch.until_up("main", true).await;
    assert_eq!(own_sessions(&stage.postgres).await.len(), 1);
    assert!(
        stage.postgres.connect("app", "app").await.is_err(),
        "still full for others"
    );
    Row {
        section: SECTION,
        staged: "started while all ordinary slots are taken, PostgreSQL 16 with reserved slots",
        says: watch
            .open(Kind::ConnectionHeadroom)
            .unwrap()
            .summary
            .clone(),
        within: None,
        again: Some(again),
        lost: "nothing from the grant on".into(),
        test: "live_exhaustion::a_reserved_slot_lets_it_in_where_all_others_are_taken",
    }
    .print();
    drop(clients);
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_without_room_for_clients_still_lets_the_console_in() {
    const CLIENTS: u32 = 12;
    let stage = Stage::start_with(async |postgres| {
        PgBouncer::start(PgBouncerOptions {
            databases: vec![Alias::new("app", postgres.port())],
            users: vec![("app".into(), String::new())],
            max_client_conn: CLIENTS,
            ..PgBouncerOptions::default()
        })
        .await
        .unwrap()
    })
    .await;
    let mut clients = Vec::new();
    let refused = loop {
        match stage.pooler.connect("app", "app", "registry").await {
            Ok(client) => clients.push(client),
            Err(error) => break format!("{error:?}"),
        }
        assert!(clients.len() < 100);
    };
    assert!(refused.contains("no more connections allowed"), "{refused}");
    let began = Instant::now();
    let configuration = format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
         [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n\
         [detect.pool_saturation]\nhold = \"3s\"\nresolve_after = \"3s\"\n",
        stage.postgres.dsn("postgres", "postgres"),
        stage.pooler.dsn("stats", "pgbouncer"),
    );
    let mut watch = Watch::start(&configuration).await;
    watch.until_up("pooler-1", true).await;
    let again = began.elapsed();
    let (incident, _) = watch.until_open(Kind::PoolSaturation, |_| true).await;
    let within = began.elapsed();
    assert_eq!(incident.subject["verdict"], "client_limit");
    assert_eq!(
        incident.summary,
        format!("pooler-1 takes no more clients: all {CLIENTS} of max_client_conn are taken")
    );
    assert!(
        stage
            .pooler
            .connect("app", "app", "registry")
            .await
            .is_err(),
        "it is full"
    );
    let lost = watch.failures("pooler-1").await;
    assert_eq!(lost, 0);
    drop(clients);
    watch.until_over(Kind::PoolSaturation).await;
    watch.only(&[Kind::PoolSaturation]);
    Row {
        section: SECTION,
        staged: "PgBouncer at `max_client_conn`, then snowpit is started",
        says: incident.summary.clone(),
        within: Some(within),
        again: Some(again),
        lost: "no look: the console is exempt".into(),
        test: "live_exhaustion::a_pooler_without_room_for_clients_still_lets_the_console_in",
    }
    .print();
    println!("spare: {}", watch.end().await);
}
