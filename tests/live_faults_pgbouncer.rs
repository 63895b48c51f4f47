//! A PgBouncer that is restarted, paused, stopped, or given other pools: what
//! snowpit says, and that nobody is accused because of it.

mod common;

use std::time::Duration;

use common::faults::{Row, Watch, value};
use common::{Stage, pooler};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions};
use snowpit::engine::incident::Kind;
use tokio::time::{Instant, sleep};

const SECTION: &str = "PgBouncer";
const SECOND: Duration = Duration::from_secs(1);

/// `hold` is a second, where the default is ten.
fn configuration(stage: &Stage) -> String {
    format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
         [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n\
         [poolers]\ncomplete = true\n\
         [detect.pool_saturation]\nhold = \"1s\"\nresolve_after = \"3s\"\n",
        stage.postgres.dsn("postgres", "postgres"),
        stage.pooler.dsn("stats", "pgbouncer"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_stops_or_restarts_is_told_and_seen_again() {
    const TEST: &str =
        "live_faults_pgbouncer::a_pooler_that_stops_or_restarts_is_told_and_seen_again";
    let mut stage = Stage::start().await;
    let mut watch = Watch::start(&configuration(&stage)).await;
    watch.until_up("main", true).await;
    watch.until_up("pooler-1", true).await;

    // It stands still: TCP stays open, and nothing answers.
    let pid = Pid::from_raw(stage.pooler.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    watch.until_up("pooler-1", false).await;
    let within = stopped.elapsed();
    watch
        .until("more time-outs", async |watch| {
            watch.failures("pooler-1").await >= 4
        })
        .await;
    let page = watch.metrics().await;
    assert!(
        !page.contains("snowpit_pool_servers{pooler=\"pooler-1\""),
        "stale numbers"
    );
    let lost = watch.failures("pooler-1").await;
    kill(pid, Signal::SIGCONT).unwrap();
    let again = watch.until_up("pooler-1", true).await;
    sleep(10 * SECOND).await;
    let clients = stage.pooler.console("SHOW CLIENTS").await.unwrap();
    let ours = clients
        .iter()
        .filter(|row| row.get("user") == Some("stats"))
        .count();
    assert_eq!(ours, 1, "sessions of ours on the console");
    assert_eq!(watch.failures("main").await, 0);
    Row {
        section: SECTION,
        staged: "SIGSTOP of PgBouncer, continued later",
        says: "poll failed, reason `timeout`; its series are gone meanwhile".into(),
        within: Some(within),
        again: Some(again),
        lost: format!("{lost} looks; one session of ours there 10 s later"),
        test: TEST,
    }
    .print();

    // It is restarted with the same configuration in the same place.
    let before = watch.failures("pooler-1").await;
    let port = stage.pooler.port();
    let restarted = PgBouncerOptions {
        port: Some(port),
        databases: vec![Alias::new("app", stage.postgres.port())],
        users: vec![("app".into(), String::new())],
        ..PgBouncerOptions::default()
    };
    let went = Instant::now();
    stage.pooler.stop().await;
    watch.until_up("pooler-1", false).await;
    let within = went.elapsed();
    stage.pooler = PgBouncer::start(restarted).await.unwrap();
    assert_eq!(
        stage.pooler.port(),
        port,
        "somebody took the port in between"
    );
    let again = watch.until_up("pooler-1", true).await;
    let lost = watch.failures("pooler-1").await - before;
    Row {
        section: SECTION,
        staged: "restart",
        says: "poll failed, reason `refused`".into(),
        within: Some(within),
        again: Some(again),
        lost: format!("{lost} looks"),
        test: TEST,
    }
    .print();
    watch.only(&[]);
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_lasts_is_told_as_one() {
    let stage = Stage::start().await;
    let mut watch = Watch::start(&configuration(&stage)).await;
    watch.until_up("pooler-1", true).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = stage.client("app", "registry").await;
        client.simple_query("SELECT 1").await.unwrap();
        clients.push(client);
    }
    stage.pooler.console("PAUSE app").await.unwrap();
    let paused = Instant::now();
    let waiting: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(async move { client.simple_query("SELECT 1").await.is_ok() }))
        .collect();
    let (incident, _) = watch.until_open(Kind::PoolSaturation, |_| true).await;
    let within = paused.elapsed();
    assert_eq!(incident.subject["verdict"], "paused");
    assert_eq!(incident.subject["clients_waiting"], 4);
    assert_eq!(incident.actions.len(), 1);
    assert!(
        incident.actions[0].starts_with("RESUME app;"),
        "{:?}",
        incident.actions
    );
    let series = "snowpit_pool_paused{pooler=\"pooler-1\",database=\"app\",user=\"app\"}";
    assert_eq!(value(&watch.metrics().await, series), Some(1.0));
    stage.pooler.console("RESUME app").await.unwrap();
    let resumed = Instant::now();
    for client in waiting {
        assert!(client.await.unwrap(), "it was served in the end");
    }
    watch.until_over(Kind::PoolSaturation).await;
    let over = resumed.elapsed();
    assert_eq!(watch.failures("pooler-1").await, 0);
    watch.only(&[Kind::PoolSaturation]);
    Row {
        section: SECTION,
        staged: "PAUSE with four clients, RESUME after it was told",
        says: incident.summary.clone(),
        within: Some(within),
        again: Some(Duration::ZERO),
        lost: format!(
            "no look; over {:.1} s after RESUME (`resolve_after` is 3 s)",
            over.as_secs_f64()
        ),
        test: "live_faults_pgbouncer::a_pause_that_lasts_is_told_as_one",
    }
    .print();
    println!("spare: {}", watch.end().await);
}

/// `PAUSE` without a database, which `SHOW DATABASES` does not tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_the_whole_pooler_is_told() {
    let stage = Stage::start().await;
    let mut watch = Watch::start(&configuration(&stage)).await;
    watch.until_up("main", true).await;
    watch.until_up("pooler-1", true).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = stage.client("app", "registry").await;
        client.simple_query("SELECT 1").await.unwrap();
        clients.push(client);
    }
    // A console before 1.19 does not know the question.
    let tells = stage.pooler.console("SHOW STATE").await.is_ok();
    stage.pooler.console("PAUSE").await.unwrap();
    let paused = Instant::now();
    let waiting: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(async move { client.simple_query("SELECT 1").await.is_ok() }))
        .collect();
    let (incident, _) = watch.until_open(Kind::PoolSaturation, |_| true).await;
    let within = paused.elapsed();
    let verdict = if tells { "paused" } else { "no_server" };
    assert_eq!(incident.subject["verdict"], verdict);
    assert_eq!(incident.subject["clients_waiting"], 4);
    assert!(
        incident.actions[0].starts_with("RESUME;  on the console of pooler-1"),
        "{:?}",
        incident.actions
    );
    let page = watch.metrics().await;
    let queue =
        "snowpit_pool_clients{pooler=\"pooler-1\",database=\"app\",user=\"app\",state=\"waiting\"}";
    assert_eq!(value(&page, queue), Some(4.0), "they do wait");
    stage.pooler.console("RESUME").await.unwrap();
    let resumed = Instant::now();
    for client in waiting {
        assert!(client.await.unwrap(), "it was served in the end");
    }
    watch.until_over(Kind::PoolSaturation).await;
    let over = resumed.elapsed();
    assert_eq!(watch.failures("pooler-1").await, 0);
    watch.only(&[Kind::PoolSaturation]);
    Row {
        section: SECTION,
        staged: "PAUSE without a database with four clients (1.18, which does not tell), RESUME after it was told",
        says: incident.summary.clone(),
        within: Some(within),
        again: Some(Duration::ZERO),
        lost: format!(
            "no look; over {:.1} s after RESUME (`resolve_after` is 3 s)",
            over.as_secs_f64()
        ),
        test: "live_faults_pgbouncer::a_pause_of_the_whole_pooler_is_told",
    }
    .print();
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_with_other_pools_makes_nobody_an_orphan() {
    let stage = Stage::start_with(pooler).await;
    let mut watch = Watch::start(&configuration(&stage)).await;
    watch.until_up("pooler-1", true).await;
    // Two locks with owners: in a transaction, and in a pool in session mode.
    let take = |key: u32| format!("SELECT pg_advisory_lock({key})");
    let in_transaction = stage.client("app", "gateway").await;
    in_transaction.simple_query("BEGIN").await.unwrap();
    in_transaction.simple_query(&take(1)).await.unwrap();
    let in_session = stage.client("steady", "gateway").await;
    in_session.simple_query(&take(2)).await.unwrap();
    watch
        .until("two owned locks", async |watch| {
            verdicts(watch) == ["owned", "owned"]
        })
        .await;

    // The pool of the first is made smaller, and a third is added.
    let port = stage.postgres.port();
    let app = Alias {
        pool_size: Some(3),
        ..Alias::new("app", port)
    };
    let steady = Alias {
        name: "steady".into(),
        pool_mode: Some("session".into()),
        ..Alias::new("app", port)
    };
    let late = Alias {
        name: "late".into(),
        ..Alias::new("app", port)
    };
    let options = |databases| PgBouncerOptions {
        databases,
        users: vec![("app".into(), String::new())],
        ..PgBouncerOptions::default()
    };
    stage
        .pooler
        .reload(&options(vec![app.clone(), steady.clone(), late]))
        .await
        .unwrap();
    let reloaded = Instant::now();
    let client = stage.client("late", "registry").await;
    client.simple_query("SELECT 1").await.unwrap();
    let size = |page: &str, database: &str| {
        let series = format!("snowpit_pool_size{{pooler=\"pooler-1\",database=\"{database}\"");
        value(page, &series)
    };
    watch
        .until("the new sizes", async |watch| {
            let page = watch.metrics().await;
            size(&page, "app") == Some(3.0) && size(&page, "late") == Some(20.0)
        })
        .await;
    let within = reloaded.elapsed();
    assert_eq!(verdicts(&watch), ["owned", "owned"]);

    // The third is taken away again.
    drop(client);
    stage
        .pooler
        .reload(&options(vec![app, steady]))
        .await
        .unwrap();
    let removed = Instant::now();
    watch
        .until("the pool gone", async |watch| {
            size(&watch.metrics().await, "late").is_none()
        })
        .await;
    let gone = removed.elapsed();
    for _ in 0..10 {
        assert_eq!(verdicts(&watch), ["owned", "owned"]);
        sleep(SECOND / 2).await;
    }
    assert_eq!(watch.failures("pooler-1").await, 0);
    watch.only(&[]);
    Row {
        section: SECTION,
        staged: "RELOAD: a pool made smaller, one added, one removed again",
        says: format!(
            "the new sizes; the removed pool is gone after {:.1} s; held locks stay `owned`",
            gone.as_secs_f64()
        ),
        within: Some(within),
        again: Some(Duration::ZERO),
        lost: "nothing".into(),
        test: "live_faults_pgbouncer::a_reload_with_other_pools_makes_nobody_an_orphan",
    }
    .print();
    println!("spare: {}", watch.end().await);
}

/// The verdicts on the advisory locks of `main`.
fn verdicts(watch: &Watch) -> Vec<&'static str> {
    let snapshot = watch.snapshot();
    let locks = &snapshot.targets["main"].locks.advisory_locks;
    locks.iter().map(|lock| lock.verdict.as_str()).collect()
}
