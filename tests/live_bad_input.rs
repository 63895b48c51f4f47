//! What a lock table can throw at us, on a real server: rows that mean nothing,
//! more rows than we take, a role that may not see, names that move, and
//! autovacuum. The roots stay right, and no wrong name is told.

mod situations;

use std::time::Duration;

use snowpit::config::{ChannelBinding, Dsn, PostgresConfig, SslMode};
use snowpit::demo::servers::{Postgres, PostgresOptions};
use snowpit::engine::locks::graph::{WaitGraph, build};
use snowpit::observe::postgres::PostgresSource;
use snowpit::sample::PostgresReport;

use situations::actors::Actors;
use situations::truth::{compare, quiet_look};

fn source(port: u16, user: &str) -> PostgresSource {
    PostgresSource::new(&PostgresConfig {
        name: "main".into(),
        connection: Dsn {
            host: "127.0.0.1".into(),
            port,
            user: user.into(),
            password: None,
            database: "postgres".into(),
            ssl_mode: SslMode::Disable,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: ChannelBinding::Prefer,
            connect_timeout: Duration::from_secs(3),
        },
        interval: Duration::from_secs(1),
    })
}

fn graph(report: &PostgresReport) -> WaitGraph {
    build(report, report.server.as_ref().unwrap().clock.unwrap())
}

async fn look(actors: &Actors, source: &mut PostgresSource) -> (PostgresReport, WaitGraph) {
    let (truth, report) = quiet_look(&actors.observer, source).await;
    compare(&truth, &report).unwrap_or_else(|error| panic!("{error}\n{truth:?}"));
    let graph = graph(&report);
    (report, graph)
}

/// Tables, a waiter behind a holder, and what each test adds.
async fn holder_and_waiter(actors: &mut Actors) {
    let table = "CREATE TABLE held (id int PRIMARY KEY, v int); INSERT INTO held VALUES (1, 0)";
    actors.observer.batch_execute(table).await.unwrap();
    actors.done(0, "BEGIN").await;
    actors.done(0, "LOCK TABLE held").await;
    actors.waits(1, "SELECT 'secret', v FROM held").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn predicate_locks_and_locks_beyond_the_limit_hide_no_blocker() {
    let postgres = situations::server().await;
    let mut actors = Actors::start(&postgres, 4).await;
    let mut source = source(postgres.port(), "postgres");
    holder_and_waiter(&mut actors).await;

    // One predicate lock for each row that was read.
    let rows = "CREATE TABLE read (id int PRIMARY KEY, v text); \
                INSERT INTO read SELECT i, repeat('x', 700) FROM generate_series(1, 4000) i; ANALYZE read";
    actors.observer.batch_execute(rows).await.unwrap();
    actors.done(2, "BEGIN ISOLATION LEVEL SERIALIZABLE").await;
    let reads = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
                 SELECT count(*) FROM generate_series(1, 4000, 11) g, LATERAL (SELECT v FROM read WHERE id = g) r";
    actors.done(2, reads).await;
    let (report, told) = look(&actors, &mut source).await;
    let predicate = report
        .lock_counts
        .iter()
        .filter(|row| row.mode == "SIReadLock");
    let predicate: u32 = predicate.map(|row| row.count).sum();
    assert!(predicate > 300, "{:?}", report.lock_counts);
    assert!(report.locks.iter().all(|lock| lock.mode != "SIReadLock"));
    assert_eq!(told.roots.len(), 1);

    // More advisory locks than rows are taken: they go, the blocker stays.
    let many = "SELECT pg_advisory_lock(i) FROM generate_series(1, 10500) i";
    actors.done(3, many).await;
    actors.waits(2, "SELECT pg_advisory_xact_lock(10500)").await;
    let (report, told) = look(&actors, &mut source).await;
    assert!(report.locks_truncated && told.truncated);
    let mut roots: Vec<_> = told.roots.iter().filter_map(|root| root.pid).collect();
    let mut expected = [actors.all[0].pid, actors.all[3].pid];
    roots.sort_unstable();
    expected.sort_unstable();
    assert_eq!(roots, expected);
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_may_not_see_is_not_told_and_pg_monitor_is_enough() {
    let postgres = situations::server().await;
    let mut actors = Actors::start(&postgres, 2).await;
    holder_and_waiter(&mut actors).await;
    for role in [
        "CREATE ROLE blind LOGIN",
        "CREATE ROLE watch LOGIN; GRANT pg_monitor TO watch",
    ] {
        actors.observer.batch_execute(role).await.unwrap();
    }
    let mut blind = source(postgres.port(), "blind");
    let (report, told) = look(&actors, &mut blind).await;
    assert_eq!(report.sees_all_sessions, Some(false));
    let root = &told.roots[0];
    assert_eq!(root.pid, Some(actors.all[0].pid));
    assert_eq!((&root.query, &root.state, root.waiters), (&None, &None, 1));
    assert_eq!(root.tree[0].query, None);
    assert!(
        root.longest_wait_seconds.is_some(),
        "pg_locks says it to everybody"
    );

    let mut watch = source(postgres.port(), "watch");
    let (report, told) = look(&actors, &mut watch).await;
    assert_eq!(report.sees_all_sessions, Some(true));
    let root = &told.roots[0];
    assert_eq!(root.state.as_deref(), Some("idle in transaction"));
    assert_eq!(root.query.as_deref(), Some("LOCK TABLE held"));
    assert_eq!(root.holds[0].object, "public.held");
    assert_eq!(root.tree[0].query.as_deref(), Some("SELECT ?, v FROM held"));
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_move_and_relations_of_other_databases() {
    let postgres = situations::server().await;
    let mut actors = Actors::start(&postgres, 2).await;
    let mut source = source(postgres.port(), "postgres");
    holder_and_waiter(&mut actors).await;
    let (_, told) = look(&actors, &mut source).await;
    assert_eq!(told.roots[0].holds[0].object, "public.held");
    // The old table is set aside, and a new one has its name.
    actors.done(0, "COMMIT").await;
    assert!(actors.settle(1).await);
    let swap = "ALTER TABLE held RENAME TO old; CREATE TABLE held (id int)";
    actors.observer.batch_execute(swap).await.unwrap();
    actors.done(0, "BEGIN").await;
    actors.done(0, "LOCK TABLE old").await;
    actors.done(0, "LOCK TABLE held IN SHARE MODE").await;
    actors.waits(1, "INSERT INTO held VALUES (1)").await;
    // The old name was learnt; the two are never taken for one lock.
    let (_, told) = look(&actors, &mut source).await;
    assert_eq!(told.roots[0].holds.len(), 1, "{:?}", told.roots[0].holds);
    tokio::time::sleep(Duration::from_secs(16)).await;
    let (_, told) = look(&actors, &mut source).await;
    assert_eq!(told.roots[0].holds[0].object, "public.held");

    actors
        .observer
        .batch_execute("CREATE DATABASE other")
        .await
        .unwrap();
    let there = postgres.connect("postgres", "other").await.unwrap();
    there
        .batch_execute("CREATE TABLE far (id int)")
        .await
        .unwrap();
    let oid: u32 = there
        .query_one("SELECT 'far'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    there.batch_execute("BEGIN; LOCK TABLE far").await.unwrap();
    let waiter = postgres.connect("postgres", "other").await.unwrap();
    tokio::spawn(async move { waiter.batch_execute("SELECT * FROM far").await });
    for _ in 0..100 {
        let (_, told) = look(&actors, &mut source).await;
        let holds = told.roots.iter().flat_map(|root| &root.holds);
        if holds
            .clone()
            .any(|lock| lock.object == format!("{oid} (database other)"))
        {
            postgres.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the other database's relation is not told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autovacuum_in_the_way_against_wraparound_and_waiting() {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let postgres = Postgres::start(PostgresOptions {
        settings: vec![
            set("autovacuum_naptime", "1s"),
            // Slow enough to be met at work.
            set("autovacuum_vacuum_cost_delay", "100ms"),
            set("autovacuum_vacuum_cost_limit", "1"),
            set("autovacuum_max_workers", "3"),
            set("deadlock_timeout", "1h"),
        ],
        ..PostgresOptions::default()
    })
    .await
    .unwrap();
    let mut actors = Actors::start(&postgres, 3).await;
    let mut source = source(postgres.port(), "postgres");
    let table = "CREATE TABLE busy (id int, v text) WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0); \
                 INSERT INTO busy SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i; UPDATE busy SET v = 'y'";
    actors.observer.batch_execute(table).await.unwrap();
    vacuum_is_met(&actors, "public.busy").await;
    actors
        .waits(0, "LOCK TABLE busy IN SHARE MODE; SELECT 1")
        .await;
    let (_, told) = look(&actors, &mut source).await;
    let root = &told.roots[0];
    assert!(
        root.query
            .as_deref()
            .unwrap()
            .starts_with("autovacuum: VACUUM"),
        "{root:?}"
    );
    assert_eq!(
        root.action,
        format!("SELECT pg_cancel_backend({});", root.pid.unwrap())
    );
    actors.cancel(0).await;

    // Old enough that the vacuum may not be skipped: it waits for whoever has
    // the table, and is not to be cancelled when it is in the way.
    let old = "CREATE TABLE ids (id int); \
 CREATE TABLE old (id int, v text) WITH (autovacuum_freeze_max_age = 100000); INSERT INTO old SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i; \
               ALTER TABLE busy SET (autovacuum_enabled = off)";
    actors.observer.batch_execute(old).await.unwrap();
    actors.done(1, "BEGIN").await;
    actors
        .done(1, "LOCK TABLE old IN SHARE UPDATE EXCLUSIVE MODE")
        .await;
    let age = "DO $$ BEGIN FOR i IN 1..100100 LOOP BEGIN INSERT INTO ids VALUES (1); \
               EXCEPTION WHEN others THEN NULL; END; END LOOP; END $$";
    actors.observer.batch_execute(age).await.unwrap();
    let mut waited = false;
    for _ in 0..300 {
        let (_, told) = look(&actors, &mut source).await;
        let waiter = told.roots.iter().flat_map(|root| &root.tree);
        let query = |query: &Option<String>| query.as_deref().unwrap_or_default().to_owned();
        if waiter
            .clone()
            .any(|node| query(&node.query).contains("public.old (to prevent wraparound)"))
        {
            assert!(
                told.roots
                    .iter()
                    .any(|root| root.pid == Some(actors.all[1].pid))
            );
            waited = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(waited, "no vacuum waits: {:?}", vacuums(&actors).await);
    actors.done(1, "COMMIT").await;
    vacuum_is_met(&actors, "public.old (to prevent wraparound)").await;
    actors.waits(2, "LOCK TABLE old; SELECT 1").await;
    let (_, told) = look(&actors, &mut source).await;
    let root = told.roots.iter().find(|root| {
        root.query
            .as_deref()
            .is_some_and(|query| query.contains("public.old"))
    });
    let root = root.unwrap_or_else(|| panic!("{:?}", told.roots));
    assert!(root.action.starts_with("let it end"), "{root:?}");
    postgres.stop().await;
}

async fn vacuums(actors: &Actors) -> Vec<String> {
    let sql = "SELECT query FROM pg_stat_activity WHERE query LIKE 'autovacuum:%'";
    let rows = actors.observer.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn vacuum_is_met(actors: &Actors, table: &str) {
    for _ in 0..300 {
        if vacuums(actors)
            .await
            .iter()
            .any(|query| query.contains(table))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no vacuum of {table}: {:?}", vacuums(actors).await);
}
