//! The incident that this program began with: three replicas of eight workers
//! start at once behind PgBouncer, each spins on one advisory lock, and the lock
//! lies on a server connection that no client has.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use snowpit::daemon::{self, RunningDaemon};
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions};
use snowpit::engine::incident::{Event, Incident, Kind};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, SimpleQueryMessage};

const KEY: &str = "42424242424242";
const REPLICAS: u32 = 3;
const WORKERS: u32 = 8;
/// Of the pool through which the workers come.
const POOL_SIZE: u32 = 2;
/// How long the spin is watched: longer than the longest pause between two
/// tries, so that each worker is back at least twice.
const WATCHED: Duration = Duration::from_secs(45);
const PATIENCE: Duration = Duration::from_secs(60);

/// What else the pool may truly suffer from while all of them use two servers.
const SIDE_EFFECTS: [&str; 1] = ["pool_saturation"];

struct Story {
    postgres: Postgres,
    pooler: PgBouncer,
    daemon: RunningDaemon,
}

impl Story {
    async fn start() -> Self {
        let postgres = Postgres::start(PostgresOptions {
            settings: vec![(
                "shared_preload_libraries".into(),
                "pg_stat_statements".into(),
            )],
            ..PostgresOptions::default()
        })
        .await
        .unwrap();
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            postgres.execute("postgres", sql).await.unwrap();
        }
        let extension = "CREATE EXTENSION pg_stat_statements";
        postgres.execute("postgres", extension).await.unwrap();
        let alias = |name: &str| Alias {
            name: name.into(),
            pool_size: Some(POOL_SIZE),
            ..Alias::new("app", postgres.port())
        };
        let pooler = PgBouncer::start(PgBouncerOptions {
            databases: ["app", "bootstrap"].map(alias).to_vec(),
            users: vec![("app".into(), String::new())],
            ..PgBouncerOptions::default()
        })
        .await
        .unwrap();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[poolers]\ncomplete = true\n\
             [[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
             [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n",
            postgres.dsn("postgres", "postgres"),
            pooler.dsn("stats", "pgbouncer"),
        );
        let daemon = daemon::start(common::parse(&text)).await.unwrap();
        Self {
            postgres,
            pooler,
            daemon,
        }
    }

    async fn client(&self, pool: &str, application: &str) -> Client {
        self.pooler.connect("app", pool, application).await.unwrap()
    }

    fn open(&self) -> Vec<Arc<Incident>> {
        self.daemon.snapshot().open.clone()
    }

    async fn until(&self, what: &str, holds: impl Fn(&[Arc<Incident>]) -> bool) -> Duration {
        let began = Instant::now();
        while !holds(&self.open()) {
            let late = began.elapsed() > PATIENCE;
            assert!(!late, "{what}: not within {PATIENCE:?}: {:?}", self.open());
            sleep(Duration::from_millis(50)).await;
        }
        began.elapsed()
    }
}

/// One worker, as the gateway does it: a try, a pause of `min(1.0·1.5^n, 10)` s
/// ±10 %, sixty times.
async fn work(client: Client, mut random: fastrand::Rng) {
    let sql = format!("SELECT pg_try_advisory_lock({KEY})");
    for n in 0..60 {
        let rows = client.simple_query(&sql).await.unwrap();
        assert!(!got_it(&rows), "the lock is free");
        let pause = 1.5_f64.powi(n).min(10.0);
        sleep(Duration::from_secs_f64(pause * (0.9 + 0.2 * random.f64()))).await;
    }
}

fn got_it(rows: &[SimpleQueryMessage]) -> bool {
    rows.iter().any(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
        _ => false,
    })
}

fn of(open: &[Arc<Incident>], kind: Kind) -> usize {
    open.iter().filter(|incident| incident.kind == kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spinning_replicas_and_the_lock_that_nobody_owns() {
    let story = Story::start().await;
    let mut effects = story.daemon.effects();

    // The lock is left in a pool of its own: advisory locks are reentrant, and a
    // worker that landed on that very server would be told that it has the lock.
    let first = story.client("bootstrap", "gateway-0").await;
    let lock = format!("SELECT pg_try_advisory_lock({KEY})");
    first.simple_query(&lock).await.unwrap();
    drop(first);

    let began = Instant::now();
    let mut workers = JoinSet::new();
    for replica in 0..REPLICAS {
        for worker in 0..WORKERS {
            let client = story.client("app", &format!("gateway-{replica}")).await;
            let seed = u64::from(replica * WORKERS + worker);
            workers.spawn(work(client, fastrand::Rng::with_seed(seed)));
        }
    }
    story
        .until("the orphan", |open| {
            of(open, Kind::OrphanedAdvisoryLock) == 1
        })
        .await;
    println!("orphan told {:.1?} after the start", began.elapsed());
    story
        .until("the spin", |open| of(open, Kind::TryLockSpin) == 1)
        .await;
    println!("spin told {:.1?} after the start", began.elapsed());

    let mut most = 0;
    while began.elapsed() < WATCHED {
        let snapshot = story.daemon.snapshot();
        for on in &snapshot.targets["main"].locks.spinners {
            assert_eq!((on.database.as_str(), on.key.as_str()), ("app", KEY));
            most = most.max(on.clients);
        }
        sleep(Duration::from_millis(200)).await;
    }
    let open = story.open();
    let spin = open.iter().find(|i| i.kind == Kind::TryLockSpin).unwrap();
    println!(
        "{}\n{:#?}\n{:#?}",
        spin.summary, spin.evidence, spin.actions
    );
    assert_eq!(spin.subject["key"], KEY);
    assert_eq!(
        spin.actions[0],
        "RECONNECT bootstrap;  on the console of pooler-1"
    );
    let counted = spin.evidence.iter().any(|e| e.contains("calls/s"));
    assert!(counted, "pg_stat_statements is there");
    for replica in 0..REPLICAS {
        let name = format!("gateway-{replica} from 127.0.0.1");
        assert!(spin.evidence.iter().any(|e| e.starts_with(&name)), "{name}");
    }
    let left = u32::try_from(workers.len()).unwrap();
    assert_eq!(left, REPLICAS * WORKERS);
    println!("at most {most} of {left} spinners told");
    let all = REPLICAS * WORKERS;
    assert!((REPLICAS..=all).contains(&most), "{most}");

    // The replicas are taken down, and what the incident says frees the lock.
    workers.shutdown().await;
    story.pooler.console("RECONNECT bootstrap").await.unwrap();
    let over = story.until("the orphan's end", |open| {
        of(open, Kind::OrphanedAdvisoryLock) == 0
    });
    println!("orphan over after {:.1?}", over.await);
    let over = story.until("the spin's end", |open| of(open, Kind::TryLockSpin) == 0);
    println!("spin over after {:.1?} more", over.await);

    let mut told: BTreeMap<String, u32> = BTreeMap::new();
    while let Ok(effect) = effects.try_recv() {
        if effect.event == Event::Opened {
            *told
                .entry(effect.incident.kind.as_str().to_owned())
                .or_default() += 1;
        }
    }
    for kind in SIDE_EFFECTS {
        told.remove(kind);
    }
    let expected = [("orphaned_advisory_lock", 1), ("try_lock_spin", 1)];
    let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
    assert_eq!(told, BTreeMap::from(expected), "nothing else is told");
    story.daemon.shutdown(Duration::from_secs(3)).await;
    drop(story.postgres);
}
