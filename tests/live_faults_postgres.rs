//! A PostgreSQL that is restarted, killed, stopped, or replaced by its standby:
//! what snowpit says, how soon it sees again, and that it takes nothing of one
//! server for the other's.

mod common;

use std::time::Duration;

use common::faults::{Row, Watch, logging_in, own_sessions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, Proxy,
};
use snowpit::engine::incident::Kind;
use tokio::time::{Instant, sleep};

const SECTION: &str = "PostgreSQL";
const SECOND: Duration = Duration::from_secs(1);

async fn server() -> Postgres {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
        postgres.execute("postgres", sql).await.unwrap();
    }
    postgres
}

/// Fails after two seconds where the default is five, so that the tests are short.
fn configuration(port: u16) -> String {
    format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://postgres@127.0.0.1:{port}/postgres\"\n\
         [detect.primary_unreachable]\nhold = \"2s\"\n"
    )
}

/// All processes of a server, the postmaster first.
fn processes(postgres: &Postgres) -> Vec<Pid> {
    let pid = postgres.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children = children
        .split_whitespace()
        .map(|child| child.parse().unwrap());
    std::iter::once(pid)
        .chain(children)
        .map(Pid::from_raw)
        .collect()
}

fn evidence(incident: &snowpit::engine::incident::Incident) -> String {
    let mut said = incident.evidence.iter();
    let last = said.find(|line| line.starts_with("the last look failed"));
    last.unwrap_or_else(|| panic!("{incident:#?}")).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restarted_or_crashes_is_told_and_seen_again() {
    let mut postgres = server().await;
    let mut watch = Watch::start(&configuration(postgres.port())).await;
    watch.until_up("main", true).await;

    // Restarted at once: nobody has to know.
    let began = Instant::now();
    postgres.shut_down().await;
    let within = watch.until_up("main", false).await;
    let said = watch.last_error("main").await;
    postgres.start_again().await.unwrap();
    let again = watch.until_up("main", true).await;
    println!("restart took {:.1?}; {said}", began.elapsed());
    Row {
        section: SECTION,
        staged: "restart (fast)",
        says: "poll failed, reason `refused`; no incident while it is shorter than `hold`".into(),
        within: Some(within),
        again: Some(again),
        lost: format!("{} looks failed", watch.failures("main").await),
        test: "live_faults_postgres::a_server_that_is_restarted_or_crashes_is_told_and_seen_again",
    }
    .print();

    // One backend is killed: the server throws everybody out and recovers.
    let before = watch.failures("main").await;
    let victim = postgres.connect("postgres", "postgres").await.unwrap();
    let row = victim
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap();
    let ours = own_sessions(&postgres).await;
    kill(Pid::from_raw(row.get(0)), Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    // It may all be over between two looks.
    watch
        .until("another session of ours", async |watch| {
            let there = postgres.connect("postgres", "postgres").await.is_ok();
            there && watch.is_up("main").await && {
                let now = own_sessions(&postgres).await;
                now.len() == 1 && now != ours
            }
        })
        .await;
    let again = killed.elapsed();
    Row {
        section: SECTION,
        staged: "SIGKILL of one backend (crash recovery)",
        says: "poll failed, reason `refused`, if a look falls into it".into(),
        within: None,
        again: Some(again),
        lost: format!("{} looks failed", watch.failures("main").await - before),
        test: "live_faults_postgres::a_server_that_is_restarted_or_crashes_is_told_and_seen_again",
    }
    .print();
    watch.only(&[Kind::PrimaryUnreachable]);

    // The postmaster is killed, and stays away.
    let before = watch.failures("main").await;
    kill(Pid::from_raw(postgres.pid()), Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    let (incident, _) = watch.until_open(Kind::PrimaryUnreachable, |_| true).await;
    let within = killed.elapsed();
    assert_eq!(incident.subject["verdict"], "refuses");
    assert!(
        evidence(&incident).contains("nothing listens on"),
        "{incident:#?}"
    );
    let page = watch.metrics().await;
    assert!(
        !page.contains("snowpit_connections{target=\"main\""),
        "stale numbers"
    );
    assert!(
        !page.contains("snowpit_in_recovery{target=\"main\""),
        "stale numbers"
    );
    // As long as the pause between looks needs to be at its longest.
    let failures = watch.failures("main").await;
    watch
        .until("more refusals", async |watch| {
            watch.failures("main").await >= failures + 3
        })
        .await;
    postgres.ended().await;
    postgres.start_again().await.unwrap();
    let again = watch.until_up("main", true).await;
    watch.until_over(Kind::PrimaryUnreachable).await;
    Row {
        section: SECTION,
        staged: "SIGKILL of the postmaster, started again later",
        says: incident.summary.clone(),
        within: Some(within),
        again: Some(again),
        lost: format!("{} looks failed", watch.failures("main").await - before),
        test: "live_faults_postgres::a_server_that_is_restarted_or_crashes_is_told_and_seen_again",
    }
    .print();
    watch.only(&[Kind::PrimaryUnreachable]);
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_told_and_collects_no_sessions() {
    const TEST: &str =
        "live_faults_postgres::a_server_that_stands_still_is_told_and_collects_no_sessions";
    let postgres = server().await;
    let mut watch = Watch::start(&configuration(postgres.port())).await;
    watch.until_up("main", true).await;
    let ours = own_sessions(&postgres).await;
    let signal = |pids: &[Pid], signal| {
        for pid in pids {
            // A process may have ended by itself.
            let _ = kill(*pid, signal);
        }
    };

    // The postmaster alone: nobody new is let in, and we are in.
    let postmaster = [Pid::from_raw(postgres.pid())];
    signal(&postmaster, Signal::SIGSTOP);
    let polls = async |watch: &Watch| watch.source("main").await["polls"].as_u64().unwrap();
    let polled = polls(&watch).await;
    let seen = watch
        .until("five looks", async |watch| polls(watch).await >= polled + 5)
        .await;
    assert_eq!(watch.failures("main").await, 0);
    signal(&postmaster, Signal::SIGCONT);
    Row {
        section: SECTION,
        staged: "SIGSTOP of the postmaster alone",
        says: format!(
            "nothing: its session goes on, five looks in {:.1} s",
            seen.as_secs_f64()
        ),
        within: None,
        again: Some(Duration::ZERO),
        lost: "nothing".into(),
        test: TEST,
    }
    .print();

    // Our own backend alone: another takes its place.
    let backend = [Pid::from_raw(ours[0].0)];
    signal(&backend, Signal::SIGSTOP);
    let stopped = Instant::now();
    watch
        .until("a time-out", async |watch| {
            watch.failures("main").await == 1
        })
        .await;
    let within = stopped.elapsed();
    let again = watch.until_up("main", true).await;
    signal(&backend, Signal::SIGCONT);
    watch
        .until("one session", async |_| {
            own_sessions(&postgres).await.len() == 1
        })
        .await;
    Row {
        section: SECTION,
        staged: "SIGSTOP of our own backend",
        says: "poll failed, reason `timeout`".into(),
        within: Some(within),
        again: Some(again),
        lost: "1 look; the old session is gone from the server once it can notice".into(),
        test: TEST,
    }
    .print();

    // All of it, as when its machine hangs: TCP stays open and nothing answers.
    let before = watch.failures("main").await;
    let all = processes(&postgres);
    signal(&all, Signal::SIGSTOP);
    let stopped = Instant::now();
    let (incident, _) = watch.until_open(Kind::PrimaryUnreachable, |_| true).await;
    let within = stopped.elapsed();
    assert_eq!(incident.subject["verdict"], "silent");
    // Stopped for long enough for every login that is made at all.
    watch
        .until("more time-outs", async |watch| {
            watch.failures("main").await >= before + 6
        })
        .await;
    let said = watch.last_error("main").await;
    assert!(said.contains("2 of our logins wait there"), "{said}");
    let failures = watch.failures("main").await - before;
    signal(&all, Signal::SIGCONT);
    let again = watch.until_up("main", true).await;
    watch.until_over(Kind::PrimaryUnreachable).await;
    sleep(10 * SECOND).await;
    let left = own_sessions(&postgres).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(logging_in(&postgres), 0);
    Row {
        section: SECTION,
        staged: "SIGSTOP of the whole server: TCP stays open, nothing answers",
        says: incident.summary.clone(),
        within: Some(within),
        again: Some(again),
        lost: format!("{failures} looks timed out; one session of ours there 10 s later"),
        test: TEST,
    }
    .print();
    watch.only(&[Kind::PrimaryUnreachable]);
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_nothing_of_the_old_server_is_told_of_the_new() {
    const TEST: &str =
        "live_faults_postgres::after_a_failover_nothing_of_the_old_server_is_told_of_the_new";
    const KEY: i64 = 42_424_242_424_242;
    let old = server().await;
    let new = match old.standby().await {
        Ok(standby) => standby,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            eprintln!("SKIPPED: no failover was tried: {error}");
            return;
        }
    };
    let proxy = Proxy::start(old.port()).unwrap();
    let pooler = PgBouncer::start(PgBouncerOptions {
        databases: vec![Alias::new("app", proxy.port())],
        users: vec![("app".into(), String::new())],
        // It comes back on its own, and soon.
        settings: vec![("server_login_retry".into(), "1".into())],
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap();
    let configuration = format!(
        "{}[[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n[poolers]\ncomplete = true\n",
        configuration(proxy.port()),
        pooler.dsn("stats", "pgbouncer"),
    );
    let mut watch = Watch::start(&configuration).await;
    watch.until_up("main", true).await;

    // A lock that nobody owns, on the old server.
    let client = pooler.connect("app", "app", "gateway").await.unwrap();
    let take = format!("SELECT pg_advisory_lock({KEY})");
    client.simple_query(&take).await.unwrap();
    watch
        .until("the lock", async |watch| !locks(watch).is_empty())
        .await;
    drop(client);
    watch.until_open(Kind::OrphanedAdvisoryLock, |_| true).await;

    // The primary is gone, and its address leads to a standby, which is promoted.
    let began = Instant::now();
    kill(Pid::from_raw(old.pid()), Signal::SIGKILL).unwrap();
    let (incident, _) = watch.until_open(Kind::PrimaryUnreachable, |_| true).await;
    let within = began.elapsed();
    let first = incident.summary.clone();
    proxy.lead_to(new.port());
    let moved = Instant::now();
    watch.until_up("main", true).await;
    let again = moved.elapsed();
    let recovery = watch.metrics().await;
    assert!(
        recovery.contains("snowpit_in_recovery{target=\"main\"} 1"),
        "a standby"
    );
    let standby =
        |incident: &snowpit::engine::incident::Incident| incident.subject["verdict"] == "standby";
    let (incident, _) = watch.until_open(Kind::PrimaryUnreachable, standby).await;
    assert!(
        incident.summary.contains("serves as a standby now"),
        "{}",
        incident.summary
    );
    assert_eq!(locks(&watch), Vec::<String>::new(), "of another server");
    watch.until_over(Kind::OrphanedAdvisoryLock).await;

    new.execute("postgres", "SELECT pg_promote()")
        .await
        .unwrap();
    let promoted = watch.until_over(Kind::PrimaryUnreachable).await;
    let page = watch.metrics().await;
    assert!(
        page.contains("snowpit_in_recovery{target=\"main\"} 0"),
        "a primary"
    );
    // The same key, held by somebody who is there: the new server's own lock.
    let owner = new.connect("app", "app").await.unwrap();
    owner.batch_execute(&take).await.unwrap();
    watch
        .until("the owned lock", async |watch| locks(watch) == ["owned"])
        .await;
    watch.only(&[Kind::PrimaryUnreachable, Kind::OrphanedAdvisoryLock]);
    Row {
        section: SECTION,
        staged: "failover: the primary is killed, its address leads to a standby, which is promoted",
        says: format!("{first}; then: {}", incident.summary),
        within: Some(within),
        again: Some(again),
        lost: format!(
            "no verdict is carried over; over {:.1} s after the promotion",
            promoted.as_secs_f64()
        ),
        test: TEST,
    }
    .print();
    println!("spare: {}", watch.end().await);
}

/// The verdicts on the advisory locks of `main`.
fn locks(watch: &Watch) -> Vec<String> {
    let snapshot = watch.snapshot();
    let locks = &snapshot.targets["main"].locks.advisory_locks;
    locks
        .iter()
        .map(|lock| lock.verdict.as_str().to_owned())
        .collect()
}
