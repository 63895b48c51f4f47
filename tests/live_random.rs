//! Verdicts against the truth in a busy pool: clients that take locks in every
//! way known to us, at random moments, on servers that others use all the time
//! under the same application name. The test knows who is connected; the daemon
//! must find out.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use snowpit::daemon::{self, RunningDaemon};
use snowpit::engine::incident::Kind;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use common::Stage;

/// Clients that use the pool meanwhile.
const BYSTANDERS: u64 = 6;
/// Locks taken in each way.
const ROUNDS: u32 = 4;
/// How long a client that stays is watched: longer than any delay of a verdict.
const STAYS: Duration = Duration::from_secs(8);
/// Weak evidence is dropped after 15 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a client does with its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Takes it in a statement of its own, and is gone.
    Leaves,
    /// The same, and sits there quietly for a while.
    Sits,
    /// Takes it in a transaction that the polls see, commits, and sits there.
    Commits,
    /// A lock of the transaction, held for some polls.
    Transaction,
    /// Dies in the middle of a transaction: PgBouncer closes the server.
    Dies,
    /// As `Sits`, with two int4 as its key.
    SitsOnPair,
    /// As `Sits`, with its key as a parameter that no text shows.
    SitsBound,
    /// As `Sits`, with a prepared statement: not even the function is in the
    /// text.
    SitsPrepared,
    /// As `Commits`, with its key as a parameter.
    CommitsBound,
    /// As `Commits`, and goes on working on whatever server it gets.
    Works,
}

const WAYS: [Way; 10] = [
    Way::Leaves,
    Way::Sits,
    Way::Commits,
    Way::Transaction,
    Way::Dies,
    Way::SitsOnPair,
    Way::SitsBound,
    Way::SitsPrepared,
    Way::CommitsBound,
    Way::Works,
];

/// What came of one lock.
#[derive(Debug, Default)]
struct Outcome {
    /// An incident was open while the client was connected.
    accused: bool,
    /// Seconds from its end to the incident.
    declared: Option<Duration>,
    /// The lock is still there at the end. It goes with its server when another
    /// client dies on that.
    held: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_orphan_is_missed_or_invented_in_a_busy_pool() {
    let seed = std::env::var("SNOWPIT_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SNOWPIT_SEED={seed}");
    let stage = Arc::new(Stage::start().await);
    let text = stage.configuration("[poolers]\ncomplete = true\n");
    let daemon = Arc::new(daemon::start(common::parse(&text)).await.unwrap());
    let mut busy = JoinSet::new();
    for n in 0..BYSTANDERS {
        let client = stage.client("app", "gateway").await;
        busy.spawn(use_the_pool(client, fastrand::Rng::with_seed(seed ^ n)));
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut outcomes: BTreeMap<Way, Vec<Outcome>> = BTreeMap::new();
    for round in 0..ROUNDS {
        // All ways at once, each with a key of its own.
        let mut takers = JoinSet::new();
        for (n, way) in WAYS.into_iter().enumerate() {
            let number = 1_000 + i64::from(round) * 100 + n as i64;
            let pause = Duration::from_millis(random.u64(0..3_000));
            let (stage, daemon) = (Arc::clone(&stage), Arc::clone(&daemon));
            takers.spawn(async move {
                sleep(pause).await;
                (way, take(&stage, &daemon, way, number).await)
            });
        }
        while let Some(taken) = takers.join_next().await {
            let (way, outcome) = taken.unwrap();
            outcomes.entry(way).or_default().push(outcome);
        }
        stage.pooler.console("RECONNECT app").await.unwrap();
    }
    busy.shutdown().await;
    report(&outcomes);
    let accused = outcomes.values().flatten().filter(|o| o.accused).count();
    assert_eq!(accused, 0, "clients were accused, seed {seed}");
    for (way, outcomes) in &outcomes {
        let orphans = !matches!(way, Way::Transaction | Way::Dies);
        for outcome in outcomes {
            let missed = orphans && outcome.held && outcome.declared.is_none();
            assert!(!missed, "{way:?}: an orphan was missed, seed {seed}");
            let invented = !orphans && outcome.declared.is_some();
            assert!(!invented, "{way:?}: an orphan was invented, seed {seed}");
        }
    }
}

fn report(outcomes: &BTreeMap<Way, Vec<Outcome>>) {
    for (way, outcomes) in outcomes {
        let accused = outcomes.iter().filter(|o| o.accused).count();
        let times: Vec<_> = outcomes.iter().filter_map(|o| o.declared).collect();
        let longest = times.iter().max();
        println!(
            "{way:?}: {} locks, {} still held, {accused} accused, {} declared, longest {longest:.1?}",
            outcomes.len(),
            outcomes.iter().filter(|o| o.held).count(),
            times.len()
        );
    }
}

async fn use_the_pool(client: Client, mut random: fastrand::Rng) {
    const WORK: [&str; 3] = [
        "SELECT 1",
        "BEGIN; SELECT pg_sleep(0.05); COMMIT",
        "SELECT pg_sleep(0.2)",
    ];
    while client.simple_query(WORK[random.usize(0..3)]).await.is_ok() {
        sleep(Duration::from_millis(random.u64(20..900))).await;
    }
}

async fn take(stage: &Stage, daemon: &RunningDaemon, way: Way, number: i64) -> Outcome {
    let client = stage.client("app", "gateway").await;
    let run = async |sql: &str| client.simple_query(sql).await.map(drop).unwrap();
    let bound = async || {
        let sql = "SELECT pg_advisory_lock($1)";
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&number, Type::INT8)];
        client.query_typed(sql, &parameters).await.unwrap();
    };
    let key = match way {
        Way::SitsOnPair => format!("7,{number}"),
        _ => number.to_string(),
    };
    let key = key.as_str();
    let session = format!("SELECT pg_advisory_lock({key})");
    let mut outcome = Outcome::default();
    match way {
        Way::Leaves => run(&session).await,
        Way::Sits | Way::SitsOnPair | Way::SitsBound | Way::SitsPrepared => {
            match way {
                Way::SitsBound => bound().await,
                Way::SitsPrepared => {
                    let prepare =
                        format!("PREPARE take{number}(bigint) AS SELECT pg_advisory_lock($1)");
                    run(&format!("{prepare}; EXECUTE take{number}({number})")).await;
                }
                _ => run(&session).await,
            }
            outcome.accused = accused_within(daemon, key, STAYS).await;
        }
        Way::Commits | Way::CommitsBound | Way::Works => {
            run("BEGIN").await;
            if way == Way::CommitsBound {
                bound().await;
            } else {
                run(&session).await;
            }
            outcome.accused |= accused_within(daemon, key, Duration::from_millis(2_500)).await;
            run("COMMIT").await;
            for _ in 0..8 {
                outcome.accused |= accused_within(daemon, key, STAYS / 8).await;
                if way == Way::Works {
                    run("SELECT pg_sleep(0.02)").await;
                }
            }
        }
        Way::Transaction => {
            run("BEGIN").await;
            run(&format!("SELECT pg_advisory_xact_lock({key})")).await;
            outcome.accused = accused_within(daemon, key, Duration::from_millis(3_500)).await;
            run("COMMIT").await;
        }
        Way::Dies => {
            run("BEGIN").await;
            run(&session).await;
            outcome.accused = accused_within(daemon, key, Duration::from_millis(1_500)).await;
        }
    }
    if outcome.accused {
        describe(daemon, way, key);
    }
    drop(client);
    let ended = Instant::now();
    let patience = match way {
        Way::Transaction | Way::Dies => Duration::from_secs(6),
        _ => PATIENCE,
    };
    if accused_within(daemon, key, patience).await {
        outcome.declared = Some(ended.elapsed());
    }
    outcome.held = is_held(stage, number).await;
    if outcome.held && outcome.declared.is_none() {
        describe(daemon, way, key);
    }
    outcome
}

fn describe(daemon: &RunningDaemon, way: Way, key: &str) {
    let snapshot = daemon.snapshot();
    let mut locks = snapshot.targets["main"].locks.advisory_locks.iter();
    println!("{way:?} {key}: {:?}", locks.find(|lock| lock.key == key));
}

async fn is_held(stage: &Stage, number: i64) -> bool {
    let eyes = stage.postgres.connect("postgres", "app").await.unwrap();
    let sql =
        format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {number}");
    eyes.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) > 0
}

/// Whether an incident about the key is open at any time in the next while.
async fn accused_within(daemon: &RunningDaemon, key: &str, time: Duration) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let snapshot = daemon.snapshot();
        let mut open = snapshot.open.iter();
        if open.any(|i| i.kind == Kind::OrphanedAdvisoryLock && i.subject["key"] == key) {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}
