//! Every kind that is read from lock waits and pools: staged on real servers,
//! detected, mended, recovered; and what looks like one of them and is none.

mod common;

use std::time::Duration;

use snowpit::daemon::{self, RunningDaemon};
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres};
use snowpit::engine::incident::{Effect, Event, Incident, Kind};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use common::Stage;

/// The longest threshold is half a minute; a busy machine may need as much again.
const PATIENCE: Duration = Duration::from_secs(90);

/// The servers of the pool `work`.
const POOL_SIZE: u32 = 3;

/// Thresholds are the defaults but for one: an index build that waits alone is
/// given two minutes there.
const CONFIGURATION: &str = "[poolers]\ncomplete = true\n\
    [detect.migration_blocked]\nalone_after = \"10s\"\n\
    [[advisory_lock]]\nkey = 99\nname = \"leader\"\nallow = true\n";

struct Play {
    stage: Stage,
    daemon: RunningDaemon,
    effects: broadcast::Receiver<std::sync::Arc<Effect>>,
    /// Kinds that opened and were not staged.
    beside: Vec<Kind>,
    rows: Vec<[String; 4]>,
}

impl Play {
    async fn start() -> Self {
        let stage = Stage::start_with(small_pooler).await;
        for sql in [
            "CREATE TABLE t (id int PRIMARY KEY, n int)",
            "INSERT INTO t SELECT n, 0 FROM generate_series(1, 1000) n",
            "ALTER TABLE t OWNER TO app",
        ] {
            stage.postgres.execute("app", sql).await.unwrap();
        }
        let text = stage.configuration(CONFIGURATION);
        let daemon = daemon::start(common::parse(&text)).await.unwrap();
        let effects = daemon.effects();
        Self {
            stage,
            daemon,
            effects,
            beside: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// A session of its own, straight to the server.
    async fn direct(&self) -> Client {
        self.stage.postgres.connect("app", "app").await.unwrap()
    }

    /// A session that runs one statement and waits in it.
    async fn waiting(&self, sql: &str) -> JoinHandle<()> {
        let client = self.direct().await;
        run(client, sql)
    }

    /// The next incident of this kind that opens. Others are noted.
    async fn opened(&mut self, kind: Kind) -> Incident {
        self.next(kind, Event::Opened).await
    }

    async fn resolved(&mut self, kind: Kind) -> Incident {
        self.next(kind, Event::Resolved).await
    }

    async fn next(&mut self, kind: Kind, event: Event) -> Incident {
        let told = tokio::time::timeout(PATIENCE, async {
            loop {
                let effect = self.effects.recv().await.unwrap();
                if effect.incident.kind == kind && effect.event == event {
                    return effect.incident.clone();
                }
                if effect.event == Event::Opened {
                    println!("beside: {}", effect.incident.summary);
                    self.beside.push(effect.incident.kind);
                }
            }
        });
        told.await
            .unwrap_or_else(|_| panic!("{kind:?} was not {event:?} within {PATIENCE:?}"))
    }

    fn row(&mut self, kind: Kind, staged: &str, detected: Duration, recovered: Duration) {
        self.rows.push([
            kind.as_str().to_owned(),
            staged.to_owned(),
            format!("{:.1}", detected.as_secs_f64()),
            format!("{:.1}", recovered.as_secs_f64()),
        ]);
    }

    /// Runs a statement that an incident advises.
    async fn follow(&self, action: &str) {
        let sql = action.split("  --").next().unwrap();
        self.stage.postgres.execute("app", sql).await.unwrap();
    }
}

/// A PgBouncer with a pool of three servers.
async fn small_pooler(postgres: &Postgres) -> PgBouncer {
    let options = PgBouncerOptions {
        databases: vec![Alias {
            name: "work".into(),
            pool_size: Some(POOL_SIZE),
            ..Alias::new("app", postgres.port())
        }],
        users: vec![("app".into(), String::new())],
        ..PgBouncerOptions::default()
    };
    PgBouncer::start(options).await.unwrap()
}

/// Runs a statement in a task of its own; its failure is the stage's business.
fn run(client: Client, sql: &str) -> JoinHandle<()> {
    let sql = sql.to_owned();
    tokio::spawn(async move {
        let _ = client.simple_query(&sql).await;
    })
}

async fn seconds(n: f64) {
    tokio::time::sleep(Duration::from_secs_f64(n)).await;
}

async fn ended(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    for task in tasks {
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_detected_and_recovers() {
    let mut play = Play::start().await;
    let version = play.direct().await;
    let version = version.query_one("SHOW server_version", &[]).await.unwrap();
    let version: String = version.get(0);
    seconds(2.0).await;

    lock_pileup(&mut play).await;
    migration_waits(&mut play).await;
    migration_holds(&mut play).await;
    index_build_waits(&mut play).await;
    hidden_deadlock(&mut play).await;
    pool_deadlock(&mut play).await;
    ghost_waiter(&mut play).await;
    idle_and_prepared(&mut play).await;
    pool_saturation(&mut play).await;

    println!("PostgreSQL {version}");
    println!("| kind | staged | detected after, s | recovered after, s |");
    println!("|---|---|---|---|");
    for row in &play.rows {
        println!("| {} |", row.join(" | "));
    }
    assert_eq!(
        play.beside,
        Vec::<Kind>::new(),
        "told beside what was staged"
    );
    // An effect is told a moment before the snapshot that shows it.
    seconds(2.0).await;
    let open = &play.daemon.snapshot().open;
    assert!(open.is_empty(), "{open:?}");
    play.daemon.shutdown(Duration::from_secs(3)).await;
}

async fn lock_pileup(play: &mut Play) {
    let kind = Kind::LockPileup;
    let holder = play.direct().await;
    let update = "UPDATE t SET n = n + 1 WHERE id = 1";
    let sql = format!("BEGIN; {update}");
    holder.batch_execute(&sql).await.unwrap();
    let staged = Instant::now();
    let mut waiters = Vec::new();
    for _ in 0..4 {
        waiters.push(play.waiting(update).await);
    }
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    assert_eq!(incident.subject["waiters"], 4.0, "{incident:#?}");
    assert_eq!(incident.subject["state"], "idle in transaction");
    let pid = incident.subject["pid"].as_i64().unwrap();
    assert_eq!(
        incident.actions,
        [format!("SELECT pg_terminate_backend({pid});")]
    );
    let mended = Instant::now();
    holder.batch_execute("COMMIT").await.unwrap();
    ended(waiters).await;
    play.resolved(kind).await;
    let what = "4 writers of one row behind an idle transaction";
    play.row(kind, what, detected, mended.elapsed());
}

async fn migration_waits(play: &mut Play) {
    let kind = Kind::MigrationBlocked;
    let reader = play.direct().await;
    reader
        .batch_execute("BEGIN; SELECT 1 FROM t LIMIT 1")
        .await
        .unwrap();
    let staged = Instant::now();
    let ddl = play.waiting("ALTER TABLE t ADD COLUMN extra int").await;
    seconds(0.3).await;
    let mut tasks = vec![ddl];
    for _ in 0..3 {
        tasks.push(play.waiting("SELECT count(*) FROM t").await);
    }
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    assert_eq!(incident.subject["role"], "waits", "{incident:#?}");
    assert_eq!(incident.subject["queue"], 3);
    assert_eq!(incident.subject["lock"]["mode"], "AccessExclusiveLock");
    let mended = Instant::now();
    // The gentlest: the schema change is cancelled, the readers go on.
    play.follow(&incident.actions[0]).await;
    ended(tasks).await;
    play.resolved(kind).await;
    reader.batch_execute("COMMIT").await.unwrap();
    let what = "ALTER TABLE behind an idle reader, 3 readers behind it";
    play.row(kind, what, detected, mended.elapsed());
}

async fn migration_holds(play: &mut Play) {
    let kind = Kind::MigrationBlocked;
    let migrator = play.direct().await;
    let staged = Instant::now();
    let sql = "BEGIN; ALTER TABLE t ADD COLUMN more int";
    migrator.batch_execute(sql).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(play.waiting("SELECT count(*) FROM t").await);
    }
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    assert_eq!(incident.subject["role"], "holds", "{incident:#?}");
    let mended = Instant::now();
    migrator.batch_execute("COMMIT").await.unwrap();
    ended(tasks).await;
    play.resolved(kind).await;
    let what = "ALTER TABLE in an open transaction, 3 readers behind it";
    play.row(kind, what, detected, mended.elapsed());
}

async fn index_build_waits(play: &mut Play) {
    let kind = Kind::MigrationBlocked;
    let writer = play.direct().await;
    let sql = "BEGIN; UPDATE t SET n = n + 1 WHERE id = 2";
    writer.batch_execute(sql).await.unwrap();
    let staged = Instant::now();
    let build = play.waiting("CREATE INDEX CONCURRENTLY t_n ON t (n)").await;
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    let told = incident.evidence.join("\n");
    assert!(
        told.contains("CREATE INDEX CONCURRENTLY on")
            && told.contains("waiting for writers before build"),
        "{incident:#?}"
    );
    assert!(told.contains("0 of 1 transactions over"), "{told}");
    let mended = Instant::now();
    writer.batch_execute("COMMIT").await.unwrap();
    ended([build]).await;
    play.resolved(kind).await;
    let what = "CREATE INDEX CONCURRENTLY behind an open writer (alone_after 10 s)";
    play.row(kind, what, detected, mended.elapsed());
}

/// The story of a registry: two instances migrate at once.
async fn hidden_deadlock(play: &mut Play) {
    let kind = Kind::HiddenDeadlock;
    let lock = "SELECT pg_advisory_lock(4711)";
    let migrator = || async {
        let client = play.direct().await;
        let name = "SET application_name = 'migrator'";
        client.batch_execute(name).await.unwrap();
        client
    };
    let (lock_connection, work_connection) = (migrator().await, migrator().await);
    lock_connection.batch_execute(lock).await.unwrap();
    let second = run(migrator().await, lock);
    seconds(0.5).await;
    let staged = Instant::now();
    let build = "CREATE INDEX CONCURRENTLY t_id_n ON t (id, n)";
    let build = run(work_connection, build);
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    assert_eq!(
        incident.subject["confidence"], "very likely",
        "{incident:#?}"
    );
    assert_eq!(incident.subject["waiters"].as_array().unwrap().len(), 2);
    let mended = Instant::now();
    // The gentlest: the second instance is sent away, the build goes on.
    play.follow(&incident.actions[0]).await;
    ended([second, build]).await;
    play.resolved(kind).await;
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 't_id_n'::regclass";
    let row = lock_connection.query_one(valid, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0), "the build was finished");
    let what = "index build, second migrator, the first one's idle lock connection";
    play.row(kind, what, detected, mended.elapsed());
}

async fn pool_deadlock(play: &mut Play) {
    let kind = Kind::PoolDeadlock;
    let lock = "SELECT pg_advisory_lock(7)";
    let taker = play.stage.client("work", "taker").await;
    taker.simple_query(lock).await.unwrap();
    seconds(4.0).await;
    // Another client has the server with the lock, and keeps it.
    let keeper = play.stage.client("work", "keeper").await;
    keeper.simple_query("BEGIN").await.unwrap();
    let staged = Instant::now();
    // Theirs ends with the statement: nothing is left on their servers.
    let wait = "SELECT pg_advisory_xact_lock(7)";
    let mut waiters = Vec::new();
    for _ in 1..POOL_SIZE {
        waiters.push(run(play.stage.client("work", "waiter").await, wait));
        seconds(0.2).await;
    }
    let release = run(taker, "SELECT pg_advisory_unlock(7)");
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    assert_eq!(incident.subject["servers_waiting"], 2, "{incident:#?}");
    assert_eq!(incident.subject["verdict"], "carried");
    assert_eq!(incident.subject["key"], "7");
    let mended = Instant::now();
    keeper.simple_query("COMMIT").await.unwrap();
    ended([release]).await;
    play.resolved(kind).await;
    play.row(
        kind,
        "pool of 3: the lock's server in use, the others wait for the lock, its taker queues",
        detected,
        mended.elapsed(),
    );
    ended(waiters).await;
}

async fn ghost_waiter(play: &mut Play) {
    let kind = Kind::GhostWaiter;
    let lock = "SELECT pg_advisory_lock(8)";
    let holder = play.direct().await;
    holder.batch_execute(lock).await.unwrap();
    let dsn = play.stage.pooler.dsn("app", "work");
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let asking = run(client, lock);
    seconds(3.0).await;
    // The client dies: its socket closes in the middle of the statement.
    connection.abort();
    asking.abort();
    let staged = Instant::now();
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    assert!(
        incident.evidence[1].contains("pooler pooler-1 had this backend"),
        "{incident:#?}"
    );
    let mended = Instant::now();
    play.follow(&incident.actions[0]).await;
    play.resolved(kind).await;
    let what = "a pooled client dies while it waits for an advisory lock";
    play.row(kind, what, detected, mended.elapsed());
}

async fn idle_and_prepared(play: &mut Play) {
    let holder = play.direct().await;
    let sql = "BEGIN; UPDATE t SET n = 0 WHERE id = 10";
    holder.batch_execute(sql).await.unwrap();
    let coordinator = play.direct().await;
    let sql = "BEGIN; UPDATE t SET n = 0 WHERE id = 11; PREPARE TRANSACTION 'payment'";
    coordinator.batch_execute(sql).await.unwrap();
    let staged = Instant::now();
    let waiters = [
        play.waiting("UPDATE t SET n = 1 WHERE id = 10").await,
        play.waiting("UPDATE t SET n = 1 WHERE id = 11").await,
    ];
    let kinds = [Kind::IdleInTransaction, Kind::PreparedTransaction];
    let mut detected = [None, None];
    while detected.contains(&None) {
        let effect = tokio::time::timeout(PATIENCE, play.effects.recv());
        let effect = effect.await.unwrap().unwrap();
        match kinds.iter().position(|kind| *kind == effect.incident.kind) {
            Some(at) if effect.event == Event::Opened => {
                detected[at] = Some(staged.elapsed());
                let incident = &effect.incident;
                assert_eq!(incident.subject["waiters"], 1, "{incident:#?}");
            }
            _ => play.beside.push(effect.incident.kind),
        }
    }
    let mended = Instant::now();
    holder.batch_execute("ROLLBACK").await.unwrap();
    let sql = "ROLLBACK PREPARED 'payment'";
    coordinator.batch_execute(sql).await.unwrap();
    ended(waiters).await;
    let mut recovered = [None, None];
    while recovered.contains(&None) {
        let effect = tokio::time::timeout(PATIENCE, play.effects.recv());
        let effect = effect.await.unwrap().unwrap();
        match kinds.iter().position(|kind| *kind == effect.incident.kind) {
            Some(at) if effect.event == Event::Resolved => recovered[at] = Some(mended.elapsed()),
            _ => play.beside.push(effect.incident.kind),
        }
    }
    let staged = [
        "a writer idle in its transaction, 1 session behind it",
        "a prepared transaction without its second phase, 1 session behind it",
    ];
    for at in 0..2 {
        play.row(
            kinds[at],
            staged[at],
            detected[at].unwrap(),
            recovered[at].unwrap(),
        );
    }
}

async fn pool_saturation(play: &mut Play) {
    let kind = Kind::PoolSaturation;
    let staged = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..POOL_SIZE {
        let client = play.stage.client("work", "slow").await;
        clients.push(run(client, "SELECT pg_sleep(25)"));
    }
    seconds(0.3).await;
    for _ in 0..2 {
        clients.push(run(play.stage.client("work", "late").await, "SELECT 1"));
    }
    let incident = play.opened(kind).await;
    let detected = staged.elapsed();
    assert_eq!(incident.subject["clients_waiting"], 2, "{incident:#?}");
    assert_eq!(incident.subject["servers"], 3);
    ended(clients).await;
    let mended = Instant::now();
    play.resolved(kind).await;
    let what = "pool of 3 with 3 slow statements, 2 clients in the queue";
    play.row(kind, what, detected, mended.elapsed());
}

/// For half a minute: everything that looks like a kind and is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_normal_opens_nothing() {
    let mut play = Play::start().await;
    let rows = "INSERT INTO t SELECT n, n FROM generate_series(1001, 100000) n";
    play.stage.postgres.execute("app", rows).await.unwrap();

    // Two in a short queue behind a statement that runs on and on, for longer
    // than any threshold of a pile-up.
    let update = "UPDATE t SET n = n + 1 WHERE id = 1";
    let long = play
        .waiting(&format!("BEGIN; {update}; SELECT pg_sleep(600)"))
        .await;
    seconds(0.3).await;
    let mut tasks = vec![long, play.waiting(update).await, play.waiting(update).await];

    // Leaders: one idle with its lock, one in a transaction, and one whose
    // followers wait for it because they were told to.
    let (leader, second, third) = (
        play.direct().await,
        play.direct().await,
        play.direct().await,
    );
    let lock = "SELECT pg_advisory_lock(97)";
    leader.batch_execute(lock).await.unwrap();
    let lock = "BEGIN; SELECT pg_advisory_xact_lock(98)";
    second.batch_execute(lock).await.unwrap();
    let lock = "SELECT pg_advisory_lock(99)";
    third.batch_execute(lock).await.unwrap();
    let mut followers = Vec::new();
    for _ in 0..4 {
        followers.push(play.waiting(lock).await);
    }

    // A deep queue that is worked off at once.
    let queue: Vec<_> = (0..5)
        .map(|_| "SELECT pg_advisory_xact_lock(5), pg_sleep(1)")
        .collect();
    for sql in queue {
        tasks.push(play.waiting(sql).await);
    }

    // A paused pool with clients before it.
    let paused = play.stage.client("work", "paused").await;
    paused.simple_query("SELECT 1").await.unwrap();
    play.stage.pooler.console("PAUSE work").await.unwrap();
    let mut before_pause = vec![run(paused, "SELECT 1")];
    for _ in 0..4 {
        before_pause.push(run(play.stage.client("work", "paused").await, "SELECT 1"));
    }

    // A table that autovacuum is busy with when a schema change comes.
    let other = play.direct().await;
    let sql = "CREATE TABLE v (n int); INSERT INTO v SELECT generate_series(1, 300000)";
    other.batch_execute(sql).await.unwrap();
    let build = healthy_index_build(&play).await;
    autovacuum_in_the_way(&play).await;
    let sql = "ALTER TABLE v ADD COLUMN extra int";
    let altered = Instant::now();
    play.stage.postgres.execute("app", sql).await.unwrap();
    println!(
        "ALTER TABLE behind autovacuum took {:.1?}",
        altered.elapsed()
    );

    seconds(25.0).await;
    let mut told = Vec::new();
    while let Ok(effect) = play.effects.try_recv() {
        told.push(effect.incident.summary.clone());
    }
    assert_eq!(told, Vec::<String>::new());

    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' \
               AND pid <> pg_backend_pid()";
    play.stage.postgres.execute("postgres", end).await.unwrap();
    play.stage.pooler.console("RESUME work").await.unwrap();
    ended(tasks).await;
    ended(before_pause).await;
    ended([build]).await;
    followers.iter().for_each(JoinHandle::abort);
    drop((leader, second, third));
    play.daemon.shutdown(Duration::from_secs(3)).await;
}

/// Builds an index in another database, where nobody has an old snapshot, while
/// short transactions write to the table.
async fn healthy_index_build(play: &Play) -> JoinHandle<()> {
    let connect = || async {
        let server = &play.stage.postgres;
        server.connect("postgres", "postgres").await.unwrap()
    };
    let (builder, writer) = (connect().await, connect().await);
    let sql = "CREATE TABLE w AS SELECT n FROM generate_series(1, 300000) n";
    writer.batch_execute(sql).await.unwrap();
    tokio::spawn(async move {
        let build = async {
            for n in 0..10 {
                let sql = format!("CREATE INDEX CONCURRENTLY w_{n} ON w (n)");
                builder.batch_execute(&sql).await.unwrap();
            }
        };
        let write = async {
            let sql = "BEGIN; UPDATE w SET n = n WHERE n = 1; SELECT pg_sleep(0.2); COMMIT";
            while writer.batch_execute(sql).await.is_ok() {}
        };
        tokio::select! {
            () = build => {}
            () = write => {}
        }
    })
}

/// Makes autovacuum work on table `v`, slowly, and waits until it does.
async fn autovacuum_in_the_way(play: &Play) {
    let superuser = play
        .stage
        .postgres
        .connect("postgres", "app")
        .await
        .unwrap();
    for sql in [
        "ALTER SYSTEM SET autovacuum_naptime = '1s'",
        "ALTER SYSTEM SET autovacuum_vacuum_cost_delay = '100ms'",
        "ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 1",
        "SELECT pg_reload_conf()",
        "DELETE FROM v WHERE n % 2 = 0",
    ] {
        superuser.batch_execute(sql).await.unwrap();
    }
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'autovacuum:%public.v%'";
    let end = Instant::now() + PATIENCE;
    while superuser
        .query_one(busy, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 0
    {
        assert!(Instant::now() < end, "autovacuum did not come");
        seconds(0.1).await;
    }
}
