//! Situations with waiters as PostgreSQL's own isolation tests know them,
//! staged live: at each of them our graph is what the server says, and the
//! roots are the sessions that a person would name.

mod situations;

use std::time::Duration;

use snowpit::config::{ChannelBinding, Dsn, PostgresConfig, SslMode};
use snowpit::demo::servers::Postgres;
use snowpit::engine::locks::RootBlocker;
use snowpit::engine::locks::graph::{LockGraph, Node, build};
use snowpit::observe::postgres::PostgresSource;
use snowpit::sample::PostgresReport;

use situations::actors::Actors;
use situations::truth::{compare, quiet_look};

/// Sessions of a scene at most.
const SESSIONS: usize = 8;

const SCHEMA: &str = "
CREATE TABLE a1 (); CREATE TABLE a2 (); CREATE TABLE a3 (); CREATE TABLE a4 ();
CREATE TABLE a5 (); CREATE TABLE a6 (); CREATE TABLE a7 (); CREATE TABLE a8 ();
CREATE TABLE item (id int PRIMARY KEY, v int);
CREATE TABLE part (id int PRIMARY KEY, item int REFERENCES item);
CREATE TABLE halves (id int, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE halves_low PARTITION OF halves FOR VALUES FROM (0) TO (10);
CREATE TABLE halves_high PARTITION OF halves FOR VALUES FROM (10) TO (20);
CREATE FUNCTION lingers(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_advisory_xact_lock(99); RETURN $1; END';
CREATE TABLE word (word text);
CREATE UNIQUE INDEX word_word ON word (word);
CREATE TABLE many (id int);
INSERT INTO many SELECT generate_series(1, 2000);
ALTER TABLE many SET (parallel_workers = 2);
CREATE FUNCTION locking(key int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
  'BEGIN PERFORM pg_advisory_xact_lock_shared(key); RETURN 1; END';
CREATE SCHEMA room;";

/// Every scene begins with the same rows.
const ROWS: &str = "
TRUNCATE item, part, halves, word;
INSERT INTO item SELECT i, 0 FROM generate_series(1, 4) i;
INSERT INTO part VALUES (1, 1);
INSERT INTO halves VALUES (1, 0), (11, 0)";

struct Scene {
    _postgres: Postgres,
    actors: Actors,
    source: PostgresSource,
}

/// What was told at one instant.
struct Told {
    report: PostgresReport,
    roots: Vec<RootBlocker>,
}

impl Scene {
    async fn start() -> Self {
        let postgres = situations::server().await;
        postgres.execute("postgres", SCHEMA).await.unwrap();
        postgres.execute("postgres", ROWS).await.unwrap();
        let actors = Actors::start(&postgres, SESSIONS).await;
        let source = PostgresSource::new(&PostgresConfig {
            name: "main".into(),
            connection: Dsn {
                host: "127.0.0.1".into(),
                port: postgres.port(),
                user: "postgres".into(),
                password: None,
                database: "postgres".into(),
                ssl_mode: SslMode::Disable,
                ssl_root_cert: None,
                client_certificate: None,
                channel_binding: ChannelBinding::Prefer,
                connect_timeout: Duration::from_secs(3),
            },
            interval: Duration::from_secs(1),
        });
        Self {
            _postgres: postgres,
            actors,
            source,
        }
    }

    /// Clears the stage, and opens a transaction in the first `count` sessions.
    async fn begin(&mut self, count: usize) {
        self.actors.clear().await;
        self.actors.observer.batch_execute(ROWS).await.unwrap();
        for at in 0..count {
            self.done(at, "BEGIN").await;
        }
    }

    async fn done(&mut self, at: usize, sql: &str) {
        self.actors.done(at, sql).await;
    }

    async fn waits(&mut self, at: usize, sql: &str) {
        self.actors.waits(at, sql).await;
    }

    /// Lets the detector of one session, which waits, run soon.
    async fn impatient(&mut self, at: usize) {
        self.done(at, "SET deadlock_timeout = '50ms'").await;
    }

    async fn patient(&mut self, at: usize) {
        self.done(at, "RESET deadlock_timeout").await;
    }

    /// Compares with the server, and the roots with the sessions given.
    async fn roots(&mut self, scene: &str, expected: &[usize]) -> Told {
        let (truth, report) = quiet_look(&self.actors.observer, &mut self.source).await;
        let answer = compare(&truth, &report);
        answer.unwrap_or_else(|error| panic!("{scene}: {error}\n{truth:?}\n{:#?}", report.locks));
        let clock = report.server.as_ref().and_then(|server| server.clock);
        let roots = build(&report, clock.unwrap()).roots;
        let mut told: Vec<_> = roots.iter().filter_map(|root| root.pid).collect();
        let mut pids: Vec<_> = expected.iter().map(|at| self.actors.all[*at].pid).collect();
        told.sort_unstable();
        pids.sort_unstable();
        assert_eq!(told, pids, "{scene}: {truth:?}");
        Told { report, roots }
    }

    /// Waits until one of the sessions has its answer, and says which.
    async fn goes_on(&mut self, those: &[usize]) -> usize {
        for _ in 0..1_000 {
            for &at in those {
                if self.actors.is_free(at).await {
                    return at;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("all of {those:?} still wait");
    }
}

impl Told {
    fn cycles(&self) -> Vec<usize> {
        let graph = LockGraph::of(&self.report);
        graph.cycles().iter().map(Vec::len).collect()
    }

    fn waits_for(&self, locktype: &str) -> usize {
        let locks = self.report.locks.iter();
        locks
            .filter(|lock| !lock.granted && lock.locktype == locktype)
            .count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_hard_and_soft() {
    let mut scene = Scene::start().await;

    // Eight tables in a circle.
    scene.begin(8).await;
    for at in 0..8 {
        let own = format!("LOCK TABLE a{} IN ACCESS EXCLUSIVE MODE", at + 1);
        scene.done(at, &own).await;
    }
    for at in 0..7 {
        let next = format!("LOCK TABLE a{} IN ACCESS EXCLUSIVE MODE", at + 2);
        scene.waits(at, &next).await;
    }
    scene.roots("seven in a row", &[7]).await;
    scene
        .waits(7, "LOCK TABLE a1 IN ACCESS EXCLUSIVE MODE")
        .await;
    let told = scene.roots("the circle", &[]).await;
    assert_eq!(told.cycles(), [8]);
    scene.actors.cancel(7).await;
    scene.goes_on(&[6]).await;
    let told = scene.roots("one has given up", &[6]).await;
    assert_eq!((told.roots[0].waiters, told.roots[0].depth), (6, 6));

    // Two readers, two migrations queued, the readers cross: the detector lets
    // one of the readers pass.
    scene.begin(4).await;
    scene.impatient(0).await;
    scene.done(0, "LOCK TABLE a1 IN ACCESS SHARE MODE").await;
    scene.done(1, "LOCK TABLE a2 IN ACCESS SHARE MODE").await;
    scene
        .waits(2, "LOCK TABLE a1 IN ACCESS EXCLUSIVE MODE")
        .await;
    scene
        .waits(3, "LOCK TABLE a2 IN ACCESS EXCLUSIVE MODE")
        .await;
    scene.waits(1, "LOCK TABLE a1 IN ACCESS SHARE MODE").await;
    scene.roots("half a circle", &[0]).await;
    let _ = scene
        .actors
        .run(0, "LOCK TABLE a2 IN ACCESS SHARE MODE")
        .await;
    let passed = scene.goes_on(&[0, 1]).await;
    scene.roots("rearranged", &[passed]).await;
    scene.actors.clear().await;
    scene.patient(0).await;

    // The same with nobody who looks for deadlocks: the circle stands, and its
    // order is told as not sure.
    scene.begin(4).await;
    scene.done(0, "LOCK TABLE a1 IN ACCESS SHARE MODE").await;
    scene.done(1, "LOCK TABLE a2 IN ACCESS SHARE MODE").await;
    scene
        .waits(2, "LOCK TABLE a1 IN ACCESS EXCLUSIVE MODE")
        .await;
    scene
        .waits(3, "LOCK TABLE a2 IN ACCESS EXCLUSIVE MODE")
        .await;
    scene.waits(1, "LOCK TABLE a1 IN ACCESS SHARE MODE").await;
    scene.waits(0, "LOCK TABLE a2 IN ACCESS SHARE MODE").await;
    assert_eq!(scene.roots("a soft circle", &[]).await.cycles(), [4]);

    // A longer queue that is rearranged, with a waiter on each side.
    scene.begin(4).await;
    scene.impatient(0).await;
    scene
        .done(0, "LOCK TABLE a1 IN SHARE UPDATE EXCLUSIVE MODE")
        .await;
    scene.done(1, "LOCK TABLE a2 IN ACCESS SHARE MODE").await;
    scene
        .waits(1, "LOCK TABLE a1 IN SHARE UPDATE EXCLUSIVE MODE")
        .await;
    scene
        .waits(2, "LOCK TABLE a2 IN ACCESS EXCLUSIVE MODE")
        .await;
    scene
        .waits(3, "LOCK TABLE a2 IN ACCESS EXCLUSIVE MODE")
        .await;
    let _ = scene
        .actors
        .run(0, "LOCK TABLE a2 IN SHARE UPDATE EXCLUSIVE MODE")
        .await;
    scene.goes_on(&[0]).await;
    scene.roots("rearranged behind two", &[0]).await;
    scene.actors.clear().await;
    scene.patient(0).await;

    // Whoever holds what a waiter needs goes before it.
    scene.begin(4).await;
    scene.done(0, "LOCK TABLE a1 IN ROW EXCLUSIVE MODE").await;
    scene.done(1, "LOCK TABLE a1 IN ACCESS SHARE MODE").await;
    scene
        .waits(2, "LOCK TABLE a1 IN ACCESS EXCLUSIVE MODE")
        .await;
    scene.waits(3, "LOCK TABLE a1 IN ACCESS SHARE MODE").await;
    scene.waits(1, "LOCK TABLE a1 IN SHARE MODE").await;
    let told = scene.roots("an upgrade before the queue", &[0]).await;
    assert_eq!(
        (told.roots[0].waiters, told.roots[0].direct_waiters),
        (3, 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_their_versions() {
    let mut scene = Scene::start().await;

    // Many share a row; a writer waits for them, and readers for nobody.
    scene.begin(5).await;
    for at in 0..3 {
        scene
            .done(at, "SELECT * FROM item WHERE id = 1 FOR SHARE")
            .await;
    }
    scene.waits(3, "UPDATE item SET v = 1 WHERE id = 1").await;
    scene.waits(4, "DELETE FROM item WHERE id = 1").await;
    let told = scene.roots("a row shared by three", &[0]).await;
    assert_eq!(
        (told.waits_for("transactionid"), told.waits_for("tuple")),
        (1, 1)
    );
    assert_eq!(told.roots[0].waiters, 2);
    scene.done(0, "COMMIT").await;
    // The writer goes on to the next of the three.
    assert!(!scene.actors.settle(3).await, "it waits again");
    let told = scene.roots("shared by two", &[1]).await;
    assert_eq!(told.roots[0].depth, 2);

    // Nobody waits where nobody wants to.
    scene.begin(2).await;
    scene
        .done(0, "SELECT * FROM item WHERE id = 1 FOR UPDATE")
        .await;
    scene
        .done(1, "SELECT * FROM item WHERE id = 1 FOR UPDATE SKIP LOCKED")
        .await;
    scene
        .done(1, "SELECT * FROM item WHERE id = 1 FOR UPDATE NOWAIT")
        .await;
    scene.roots("nobody waits", &[]).await;

    // A reader that found the row waits for a key; the row is updated, deleted
    // meanwhile, and the reader waits for that.
    scene.begin(3).await;
    scene.done(2, "SELECT pg_advisory_xact_lock(7)").await;
    let reads =
        "SELECT * FROM item WHERE id = 3 AND pg_advisory_xact_lock(7) IS NOT NULL FOR KEY SHARE";
    scene.waits(0, reads).await;
    scene.roots("before the row", &[2]).await;
    scene.done(1, "UPDATE item SET v = 2 WHERE id = 3").await;
    scene.done(1, "DELETE FROM item WHERE id = 3").await;
    scene.done(2, "COMMIT").await;
    assert!(!scene.actors.settle(0).await, "it waits again");
    let told = scene.roots("deleted meanwhile", &[1]).await;
    assert_eq!(told.waits_for("transactionid"), 1);

    // A key share on an old version keeps the newest from being deleted.
    scene.begin(3).await;
    scene.done(0, "UPDATE item SET v = 3 WHERE id = 2").await;
    scene
        .done(1, "SELECT * FROM item WHERE id = 2 FOR KEY SHARE")
        .await;
    scene.done(0, "COMMIT").await;
    scene.waits(2, "DELETE FROM item WHERE id = 2").await;
    scene.roots("a key share is travelled along", &[1]).await;

    // One waits for the row's owner, the others for the place behind it.
    scene.begin(5).await;
    scene.done(0, "UPDATE item SET v = 1 WHERE id = 3").await;
    for at in 1..5 {
        scene
            .waits(at, "SELECT * FROM item WHERE id = 3 FOR UPDATE")
            .await;
    }
    let told = scene.roots("a queue for a row", &[0]).await;
    assert_eq!(
        (told.waits_for("transactionid"), told.waits_for("tuple")),
        (1, 3)
    );
    assert_eq!(
        (told.roots[0].waiters, told.roots[0].direct_waiters),
        (4, 1)
    );

    // An upgrade from key share, with savepoints that are given up.
    scene.begin(3).await;
    scene
        .done(0, "SELECT * FROM item WHERE id = 4 FOR KEY SHARE")
        .await;
    scene.done(1, "SAVEPOINT s").await;
    scene
        .done(1, "SELECT * FROM item WHERE id = 4 FOR NO KEY UPDATE")
        .await;
    scene
        .waits(2, "SELECT * FROM item WHERE id = 4 FOR UPDATE")
        .await;
    scene
        .waits(0, "SELECT * FROM item WHERE id = 4 FOR NO KEY UPDATE")
        .await;
    let told = scene.roots("an upgrade that waits", &[1]).await;
    assert_eq!(told.roots[0].waiters, 2);

    // A row that moves to another partition.
    scene.begin(2).await;
    scene
        .done(0, "UPDATE halves SET id = id + 11 WHERE id = 1")
        .await;
    scene.waits(1, "UPDATE halves SET v = 1 WHERE id = 1").await;
    scene.roots("moved to another partition", &[0]).await;

    // A child keeps its parent.
    scene.begin(3).await;
    scene.done(0, "INSERT INTO part VALUES (2, 2)").await;
    scene.done(1, "UPDATE item SET v = 5 WHERE id = 2").await;
    scene.waits(2, "DELETE FROM item WHERE id = 2").await;
    // It waits for one of the two at a time, and both hold the row.
    scene.roots("a parent with a new child", &[0]).await;
    scene.done(0, "COMMIT").await;
    assert!(!scene.actors.settle(2).await, "it waits again");
    scene.roots("a parent that is being changed", &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_row() {
    let mut scene = Scene::start().await;

    // Two insert the same key; one was told it may, the other waits for word.
    scene.begin(3).await;
    let observer = &scene.actors.observer;
    observer
        .batch_execute("CREATE INDEX word_lingers ON word (lingers(word))")
        .await
        .unwrap();
    scene.done(2, "SELECT pg_advisory_xact_lock(99)").await;
    let insert = "INSERT INTO word VALUES ('x') ON CONFLICT DO NOTHING";
    scene.waits(0, insert).await;
    scene.waits(1, insert).await;
    let told = scene.roots("a speculative insertion", &[2]).await;
    assert_eq!((told.waits_for("spectoken"), told.roots[0].depth), (1, 2));
    scene.actors.clear().await;
    scene
        .actors
        .observer
        .batch_execute("DROP INDEX word_lingers")
        .await
        .unwrap();

    // An index is built while a transaction is open, and another behind it.
    scene.begin(1).await;
    scene.done(0, "UPDATE item SET v = 1 WHERE id = 1").await;
    scene
        .waits(1, "CREATE INDEX CONCURRENTLY item_v ON item (v)")
        .await;
    scene
        .waits(2, "CREATE INDEX CONCURRENTLY item_w ON item (v)")
        .await;
    scene.waits(3, "VACUUM item").await;
    let told = scene.roots("an index beside a writer", &[0]).await;
    assert_eq!(told.waits_for("virtualxid"), 1);
    assert_eq!(told.roots[0].waiters, 3);
    scene.actors.clear().await;
    scene
        .actors
        .observer
        .batch_execute("DROP INDEX IF EXISTS item_v; DROP INDEX IF EXISTS item_w")
        .await
        .unwrap();

    // Triggers and constraints against writers.
    scene.begin(3).await;
    scene.done(0, "ALTER TABLE part DISABLE TRIGGER USER").await;
    scene.waits(1, "INSERT INTO part VALUES (3, 3)").await;
    scene.done(2, "SELECT * FROM part").await;
    scene
        .waits(2, "ALTER TABLE part ADD CONSTRAINT c CHECK (id > 0)")
        .await;
    let told = scene.roots("a trigger is switched off", &[0]).await;
    assert_eq!(told.roots[0].waiters, 2);
    assert_eq!(told.roots[0].holds[0].object, "public.part");

    // TRUNCATE behind a reader, and everybody behind TRUNCATE.
    scene.begin(5).await;
    scene.done(0, "SELECT * FROM part").await;
    scene.waits(1, "TRUNCATE part").await;
    for at in 2..5 {
        scene.waits(at, "SELECT * FROM part").await;
    }
    let told = scene.roots("readers behind a migration", &[0]).await;
    let tree = &told.roots[0].tree;
    assert_eq!((tree.len(), tree[0].tree.len()), (1, 3));
    assert!(
        !tree[0].queued
            && tree[0]
                .tree
                .iter()
                .all(|node| node.queued && !node.order_assumed)
    );

    // Objects that are no relations.
    scene.begin(3).await;
    scene.done(0, "COMMENT ON SCHEMA room IS 'x'").await;
    scene.waits(1, "DROP SCHEMA room").await;
    scene.waits(2, "CREATE TABLE room.chair ()").await;
    let told = scene.roots("a schema", &[0]).await;
    assert_eq!(told.waits_for("object"), 2);

    // A prepared transaction has no session.
    scene.begin(1).await;
    scene.done(0, "UPDATE item SET v = 1 WHERE id = 1").await;
    scene.done(0, "PREPARE TRANSACTION 'it''s'").await;
    scene.waits(1, "UPDATE item SET v = 2 WHERE id = 1").await;
    let told = scene.roots("a prepared transaction", &[]).await;
    assert_eq!(told.roots[0].prepared.as_deref(), Some("it's"));
    let action = "COMMIT PREPARED 'it''s';  or  ROLLBACK PREPARED 'it''s';";
    assert_eq!(told.roots[0].action, action);
    scene.actors.cancel(1).await;
    scene
        .actors
        .observer
        .batch_execute("ROLLBACK PREPARED 'it''s'")
        .await
        .unwrap();

    // Workers of a parallel query wait for their leader's account.
    scene.begin(2).await;
    scene.done(0, "SELECT pg_advisory_xact_lock(1)").await;
    scene
        .done(1, "SET LOCAL min_parallel_table_scan_size = 0")
        .await;
    scene
        .done(
            1,
            "SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL parallel_leader_participation = off",
        )
        .await;
    scene
        .waits(1, "SELECT sum(locking(1)) FROM many WHERE id < 20")
        .await;
    let told = scene.roots("a parallel query", &[0]).await;
    assert_eq!(told.roots[0].waiters, 1, "{:#?}", told.report.locks);
    let leader = Node::Backend(scene.actors.all[1].pid);
    let graph = LockGraph::of(&told.report);
    assert!(graph.is_waiting(leader));
    assert!(
        graph.backend(scene.actors.all[1].pid).is_some(),
        "the leader is named"
    );
    let waiting = told.report.locks.iter().filter(|lock| !lock.granted);
    assert!(
        waiting
            .clone()
            .any(|lock| lock.pid != Some(scene.actors.all[1].pid)),
        "no worker waits"
    );
}
