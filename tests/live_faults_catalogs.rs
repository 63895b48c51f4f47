//! Catalogs that somebody has locked, and looks that the server cancels: who is
//! in goes on, who is not says why and leaves no crowd at the door.

mod common;

use std::time::Duration;

use common::faults::{Row, Watch, logging_in, own_sessions};
use snowpit::demo::servers::{Postgres, PostgresOptions};
use snowpit::engine::incident::Kind;
use tokio::time::{Instant, sleep};

const SECTION: &str = "PostgreSQL";

async fn server() -> Postgres {
    Postgres::start(PostgresOptions {
        settings: vec![("allow_system_table_mods".into(), "on".into())],
        ..PostgresOptions::default()
    })
    .await
    .unwrap()
}

fn configuration(postgres: &Postgres) -> String {
    format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"{}\"\n",
        postgres.dsn("postgres", "postgres")
    )
}

/// Makes looks of sessions that log in from now on wait while `public.held` has
/// a row. The function that they read the lock table with is put aside, and one
/// of its name that waits first takes its place: the server's own table of
/// functions does not know it.
async fn hold_looks(postgres: &Postgres) {
    let sql = "CREATE TABLE public.held (held bool); \
         DO $do$ DECLARE columns text := pg_get_function_arguments('pg_lock_status()'::regprocedure); \
         BEGIN \
           ALTER FUNCTION pg_catalog.pg_lock_status() RENAME TO lock_status_at_once; \
           EXECUTE format($f$CREATE FUNCTION pg_catalog.pg_lock_status(%s) RETURNS SETOF record \
             LANGUAGE plpgsql AS $body$ \
             #variable_conflict use_column\n\
             BEGIN WHILE EXISTS (SELECT FROM public.held) LOOP PERFORM pg_sleep(0.05); END LOOP; \
             RETURN QUERY SELECT * FROM lock_status_at_once(); END $body$ $f$, columns); \
         END $do$";
    postgres.execute("postgres", sql).await.unwrap();
}

async fn polls(watch: &Watch) -> u64 {
    watch.source("main").await["polls"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_catalogs_stop_no_look_and_collect_no_logins() {
    const TEST: &str = "live_faults_catalogs::locked_catalogs_stop_no_look_and_collect_no_logins";
    let postgres = server().await;
    let mut watch = Watch::start(&configuration(&postgres)).await;
    watch.until_up("main", true).await;
    let ours = own_sessions(&postgres).await;
    let locker = postgres.connect("postgres", "postgres").await.unwrap();
    locker
        .batch_execute(
            "BEGIN; LOCK TABLE pg_class, pg_database, pg_authid, pg_db_role_setting, pg_auth_members \
             IN ACCESS EXCLUSIVE MODE",
        )
        .await
        .unwrap();
    let polled = polls(&watch).await;
    watch
        .until("ten looks", async |watch| polls(watch).await >= polled + 10)
        .await;
    assert_eq!(watch.failures("main").await, 0);
    assert!(watch.is_up("main").await);
    Row {
        section: SECTION,
        staged: "AccessExclusiveLock on pg_class, pg_database, pg_authid and the roles' settings",
        says: "nothing is amiss: ten more looks".into(),
        within: None,
        again: Some(Duration::ZERO),
        lost: "nothing".into(),
        test: TEST,
    }
    .print();

    // One that is started now cannot get in, as nobody can.
    let began = Instant::now();
    let mut late = Watch::start(&configuration(&postgres)).await;
    late.until("the reason", async |late| {
        late.last_error("main").await.contains("lets nobody in")
    })
    .await;
    let within = began.elapsed();
    let said = late.last_error("main").await;
    assert!(
        said.contains("a lock on pg_authid or pg_database"),
        "{said}"
    );
    // Six times the time-out: each of them left a process there once.
    late.until("six time-outs", async |late| {
        late.failures("main").await >= 6
    })
    .await;
    let waiting = logging_in(&postgres);
    assert!(
        (1..=3).contains(&waiting),
        "{waiting} logins wait at the server"
    );
    let failed = late.failures("main").await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    let again = late.until_up("main", true).await;
    late.until("two sessions", async |_| {
        own_sessions(&postgres).await.len() == 2 && logging_in(&postgres) == 0
    })
    .await;
    assert_eq!(
        own_sessions(&postgres).await[0],
        ours[0],
        "the first kept its own"
    );
    Row {
        section: SECTION,
        staged: "started during such a lock, which ends later",
        says: "poll failed, reason `timeout`: lets nobody in, with the catalogs to look at".into(),
        within: Some(within),
        again: Some(again),
        lost: format!("{failed} looks; {waiting} logins of ours waited there, none is left"),
        test: TEST,
    }
    .print();
    // The lock is told as what it is, with those who wait for it: our logins.
    for daemon in [&mut watch, &mut late] {
        daemon.only(&[Kind::LockPileup, Kind::MigrationBlocked]);
    }
    println!("spare: {}, {}", watch.end().await, late.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_the_server_cancels_is_counted_and_costs_no_session() {
    let postgres = server().await;
    hold_looks(&postgres).await;
    let mut watch = Watch::start(&configuration(&postgres)).await;
    watch.until_up("main", true).await;
    let ours = own_sessions(&postgres).await;
    // What `statement_timeout` does, from outside: the same SQLSTATE, while a look
    // is held up on its way.
    let canceller = postgres.connect("postgres", "postgres").await.unwrap();
    let own = ours[0].0;
    let began = Instant::now();
    postgres
        .execute("postgres", "INSERT INTO public.held VALUES (true)")
        .await
        .unwrap();
    let cancelling = tokio::spawn(async move {
        let held = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                    WHERE pid = $1 AND state = 'active' AND wait_event = 'PgSleep'";
        while canceller.execute(held, &[&own]).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    watch
        .until("two looks cancelled", async |watch| {
            let said = watch.last_error("main").await;
            watch.failures("main").await >= 2 && said.contains("canceling statement")
        })
        .await;
    let page = watch.metrics().await;
    let counted = common::faults::sum(
        &page,
        "snowpit_poll_failures_total{source=\"postgres\",name=\"main\",reason=\"timeout\"}",
    );
    assert!(counted >= 2.0, "{page}");
    let within = began.elapsed();
    let failed = watch.failures("main").await;
    cancelling.abort();
    postgres
        .execute("postgres", "DELETE FROM public.held")
        .await
        .unwrap();
    let again = watch.until_up("main", true).await;
    assert_eq!(
        own_sessions(&postgres).await,
        ours,
        "the same session looks again"
    );
    watch.only(&[]);
    Row {
        section: SECTION,
        staged: "the server cancels our looks (57014, as `statement_timeout` does), twice",
        says: "poll failed, reason `timeout`, with the server's words".into(),
        within: Some(within),
        again: Some(again),
        lost: format!("{failed} looks; the session is kept"),
        test: "live_faults_catalogs::a_look_that_the_server_cancels_is_counted_and_costs_no_session",
    }
    .print();
    println!("spare: {}", watch.end().await);
}
