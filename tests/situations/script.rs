//! Random scripts: what up to forty sessions do one after the other, with every
//! kind of lock that SQL can take and keep.
//!
//! Locks on the extension of a relation and on index pages are held for an
//! instant within one call, and `applytransaction` needs a subscription: no
//! script can keep those.

use fastrand::Rng;

use super::actors::Actors;

/// What the scripts work on.
pub const SCHEMA: &str = "
CREATE TABLE t0 (id int PRIMARY KEY, v int);
CREATE TABLE t1 (id int PRIMARY KEY, v int);
CREATE TABLE t2 (id int PRIMARY KEY, v int, parent int REFERENCES t0);
CREATE TABLE many (id int);
INSERT INTO many SELECT generate_series(1, 2000);
ALTER TABLE many SET (parallel_workers = 2);
CREATE FUNCTION locking(key int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
  'BEGIN PERFORM pg_advisory_xact_lock_shared(key); RETURN 1; END';
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE SEQUENCE q0;";

/// The same start for every script.
const RESET: &str = "
TRUNCATE t0, t1, t2;
INSERT INTO t0 SELECT i, 0 FROM generate_series(1, 4) i;
INSERT INTO t1 SELECT i, 0 FROM generate_series(1, 4) i;
INSERT INTO t2 SELECT i, 0, i FROM generate_series(1, 3) i;
CREATE SCHEMA IF NOT EXISTS s0; CREATE SCHEMA IF NOT EXISTS s1;";

/// Indexes that a cancelled `CONCURRENTLY` has left.
const LEFT: &str = "
SELECT 'DROP INDEX ' || indexrelid::regclass FROM pg_index
WHERE indrelid IN ('t0'::regclass, 't1'::regclass, 't2'::regclass) AND NOT indisprimary";

const MODES: [&str; 8] = [
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
];

/// One thing that one session does.
#[derive(Debug, Clone)]
pub struct Step {
    pub actor: usize,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// In a transaction, which begins with it when there is none.
    Inside(String),
    /// Where no transaction is open.
    Outside(String),
    /// As the session stands.
    Any(String),
    /// Gives up waiting.
    Cancel,
}

/// A script.
#[derive(Debug, Clone)]
pub struct Script {
    pub seed: u64,
    pub sessions: usize,
    /// The deadlock detector runs at once instead of never.
    pub detector: bool,
    pub steps: Vec<Step>,
}

impl Script {
    /// The same seed gives the same script.
    pub fn random(seed: u64, most_sessions: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        // Small crowds are where it gets tight; large ones queue.
        let sessions = match rng.u8(0..4) {
            0 => rng.usize(3..=5),
            1 | 2 => rng.usize(4..=12),
            _ => rng.usize(8..=most_sessions),
        };
        // Few objects for many, or nobody waits for anybody.
        let narrow = rng.bool();
        let count = sessions * rng.usize(2..=5);
        let steps = (0..count).map(|_| Step {
            actor: rng.usize(..sessions),
            what: what(&mut rng, narrow),
        });
        Self {
            seed,
            sessions,
            steps: steps.collect(),
            detector: seed.is_multiple_of(8),
        }
    }

    /// Plays it from the same start.
    pub async fn play(&self, actors: &mut Actors) {
        actors.clear().await;
        prepare(actors).await;
        let timeout = if self.detector { "20ms" } else { "1h" };
        let setting = format!("SET deadlock_timeout = '{timeout}'");
        for at in 0..self.sessions {
            actors.done(at, &setting).await;
        }
        for step in &self.steps {
            step.play(actors).await;
        }
        if self.detector {
            // Every detector has run by then.
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        }
    }
}

async fn prepare(actors: &Actors) {
    for row in actors.observer.query(LEFT, &[]).await.unwrap() {
        let sql: String = row.get(0);
        actors.observer.batch_execute(&sql).await.unwrap();
    }
    actors.observer.batch_execute(RESET).await.unwrap();
}

impl Step {
    async fn play(&self, actors: &mut Actors) {
        let at = self.actor;
        if let What::Cancel = self.what {
            actors.cancel(at).await;
            return;
        }
        if !actors.is_free(at).await {
            return;
        }
        let inside = actors.all[at].in_transaction;
        match &self.what {
            What::Inside(sql) => {
                if !inside {
                    actors.done(at, "BEGIN").await;
                }
                actors.run(at, sql).await;
            }
            What::Outside(sql) if !inside => {
                actors.run(at, sql).await;
            }
            What::Any(sql) => {
                actors.run(at, sql).await;
            }
            What::Outside(_) | What::Cancel => {}
        }
    }
}

fn what(rng: &mut Rng, narrow: bool) -> What {
    let table = format!("t{}", if narrow { 0 } else { rng.u8(0..3) });
    let row = if narrow { rng.u8(1..=2) } else { rng.u8(1..=4) };
    let schema = rng.u8(0..2);
    match rng.u8(0..100) {
        0..14 => {
            let mode = MODES[rng.usize(..MODES.len())];
            What::Inside(format!("LOCK TABLE {table} IN {mode} MODE"))
        }
        14..30 => What::Inside(row_lock(rng, &table, row)),
        30..44 => What::Inside(write(rng, &table, row)),
        44..58 => advisory(rng, narrow),
        58..62 => What::Inside("SAVEPOINT s".into()),
        62..64 => What::Inside("ROLLBACK TO SAVEPOINT s".into()),
        64..67 => What::Any("COMMIT".into()),
        67..70 => What::Any("ROLLBACK".into()),
        70..74 => What::Inside(format!("PREPARE TRANSACTION 'g{}'", rng.u8(0..6))),
        74..75 => What::Outside(format!("COMMIT PREPARED 'g{}'", rng.u8(0..6))),
        75..76 => What::Outside(format!("ROLLBACK PREPARED 'g{}'", rng.u8(0..6))),
        76..80 => What::Outside(concurrently(rng, &table)),
        80..87 => What::Inside(definition(rng, &table)),
        87..94 => What::Inside(object(rng, schema)),
        94..96 => What::Inside(format!(
            "SET LOCAL min_parallel_table_scan_size = 0; SET LOCAL parallel_setup_cost = 0; \
             SET LOCAL parallel_tuple_cost = 0; SET LOCAL parallel_leader_participation = {}; SELECT sum(locking({})) FROM many WHERE id < 20",
            ["on", "off"][rng.usize(..2)],
            rng.u8(1..4)
        )),
        _ => What::Cancel,
    }
}

fn row_lock(rng: &mut Rng, table: &str, row: u8) -> String {
    let strength = ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"][rng.usize(..4)];
    let patience = ["", "", "", "", " NOWAIT", " SKIP LOCKED"][rng.usize(..6)];
    format!("SELECT * FROM {table} WHERE id = {row} FOR {strength}{patience}")
}

fn write(rng: &mut Rng, table: &str, row: u8) -> String {
    match rng.u8(0..8) {
        0..4 => format!("UPDATE {table} SET v = v + 1 WHERE id = {row}"),
        4 => format!("UPDATE {table} SET id = id + 10 WHERE id = {row}"),
        5 => format!("DELETE FROM {table} WHERE id = {row}"),
        6 => format!("INSERT INTO {table} VALUES ({}, 0)", row + 4),
        _ => format!("INSERT INTO {table} VALUES ({row}, 0) ON CONFLICT (id) DO UPDATE SET v = 9"),
    }
}

fn advisory(rng: &mut Rng, narrow: bool) -> What {
    let one = rng.u8(1..4);
    let key = match rng.u8(0..if narrow { 1 } else { 3 }) {
        0 => one.to_string(),
        1 => format!("{one}, -7"),
        _ => format!("{one}::bigint << 40"),
    };
    let shared = if rng.bool() { "_shared" } else { "" };
    match rng.u8(0..10) {
        0..4 => What::Any(format!("SELECT pg_advisory_lock{shared}({key})")),
        4..8 => What::Inside(format!("SELECT pg_advisory_xact_lock{shared}({key})")),
        8 => What::Any(format!("SELECT pg_advisory_unlock{shared}({key})")),
        _ => What::Any(format!("SELECT pg_try_advisory_lock{shared}({key})")),
    }
}

fn concurrently(rng: &mut Rng, table: &str) -> String {
    match rng.u8(0..5) {
        0..3 => format!("CREATE INDEX CONCURRENTLY IF NOT EXISTS {table}_v ON {table} (v)"),
        3 => format!("REINDEX TABLE CONCURRENTLY {table}"),
        _ => format!("VACUUM {table}"),
    }
}

fn definition(rng: &mut Rng, table: &str) -> String {
    match rng.u8(0..7) {
        0 => format!("ALTER TABLE {table} ALTER v SET DEFAULT 1"),
        1 => format!("ALTER TABLE {table} SET (fillfactor = 90)"),
        2 => format!(
            "CREATE TRIGGER x BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION nothing()"
        ),
        3 => format!("TRUNCATE {table} CASCADE"),
        4 => format!("ANALYZE {table}"),
        5 => format!("CREATE INDEX ON {table} (v)"),
        _ => format!("COMMENT ON TABLE {table} IS 'x'"),
    }
}

fn object(rng: &mut Rng, schema: u8) -> String {
    match rng.u8(0..7) {
        0 => format!("COMMENT ON SCHEMA s{schema} IS 'x'"),
        1 => format!("CREATE TABLE s{schema}.made_{} (id int)", rng.u32(..)),
        2 => format!("DROP SCHEMA s{schema} CASCADE"),
        3 => format!("GRANT USAGE ON SCHEMA s{schema} TO PUBLIC"),
        4 => "COMMENT ON ROLE postgres IS 'x'".into(),
        5 => "COMMENT ON DATABASE template1 IS 'x'".into(),
        _ => "ALTER SEQUENCE q0 RESTART".into(),
    }
}
