//! The kinds that are read from lock waits and pools, told by made-up samples:
//! what must be said, what must never be said, look by look.

use std::collections::{BTreeMap, BTreeSet};

use snowpit::engine::incident::{Event, Incident, Kind};
use snowpit::engine::settings::{LockKey, NamedLock, Pooler};
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{
    Backend, ClientSocket, FailureReason, IndexBuild, Lock, PgbouncerReport, Pool, PoolDatabase,
    PoolerConfig, PostgresReport, PreparedTransaction, Report, Sample, Server, ServerSocket,
};

const START: f64 = 1_700_000_000.0;

/// A server that is looked at once a second, with its pooler half a second
/// before it.
struct World {
    engine: Engine,
    settings: Settings,
    t: f64,
    postgres: PostgresReport,
    pooler: Option<PgbouncerReport>,
    opened: Vec<Incident>,
    resolved: Vec<Incident>,
    /// What the detectors know the incidents by, as the journal keeps it.
    keys: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            targets: vec!["main".into()],
            poolers_complete: true,
            ..Settings::default()
        };
        change(&mut settings);
        Self {
            engine: Engine::new(settings.clone()),
            settings,
            t: START,
            postgres: PostgresReport {
                target: "main".into(),
                sees_all_sessions: Some(true),
                ..PostgresReport::default()
            },
            pooler: None,
            opened: Vec::new(),
            resolved: Vec::new(),
            keys: BTreeMap::new(),
        }
    }

    /// Ends the program and starts it again a few seconds later, with what its
    /// journal has.
    fn restart(&mut self) {
        let open = self.engine.snapshot().open;
        let open = open.iter().map(|incident| {
            let key = self.keys[&incident.id].clone();
            (key, Incident::clone(incident))
        });
        self.t += 5.0;
        let mut engine = Engine::new(self.settings.clone());
        engine.restore(self.t, open, []);
        self.engine = engine;
        self.opened.clear();
        self.resolved.clear();
    }

    /// With a polled pooler in front.
    fn pooled(change: impl FnOnce(&mut Settings)) -> Self {
        let mut world = Self::with(|settings| {
            settings.poolers = vec![Pooler {
                name: "pooler-1".into(),
                target: "main".into(),
            }];
            change(settings);
        });
        world.pooler = Some(PgbouncerReport {
            pooler: "pooler-1".into(),
            target: "main".into(),
            pools: vec![pool(0, 0.0)],
            databases: vec![database()],
            clients: Some(Vec::new()),
            ..PgbouncerReport::default()
        });
        world
    }

    fn apply(&mut self, t: f64, report: Report) {
        for effect in self.engine.apply(Sample { t, report }) {
            self.keys
                .insert(effect.incident.id.clone(), effect.key.clone());
            match effect.event {
                Event::Opened => self.opened.push(effect.incident),
                Event::Resolved => self.resolved.push(effect.incident),
                Event::Updated => {}
            }
        }
    }

    fn look(&mut self) {
        if let Some(pooler) = self.pooler.clone() {
            self.apply(self.t - 0.5, Report::Pgbouncer(pooler));
        }
        let mut report = self.postgres.clone();
        report.server = Some(Server {
            clock: Some(self.t),
            ..Server::default()
        });
        self.apply(self.t, Report::Postgres(report));
        self.t += 1.0;
    }

    fn looks(&mut self, n: u32) {
        for _ in 0..n {
            self.look();
        }
    }

    /// A look that fails: nothing is known.
    fn failed_look(&mut self) {
        let report = PostgresReport {
            target: "main".into(),
            error: Some(FailureReason::Timeout),
            ..PostgresReport::default()
        };
        self.apply(self.t, Report::Postgres(report));
        self.t += 1.0;
    }

    fn open(&self) -> BTreeSet<Kind> {
        let open = self.engine.snapshot().open;
        open.iter().map(|incident| incident.kind).collect()
    }

    fn is_open(&self, kind: Kind) -> bool {
        self.open().contains(&kind)
    }

    fn opened(&self) -> Vec<Kind> {
        self.opened.iter().map(|incident| incident.kind).collect()
    }

    fn incident(&self, kind: Kind) -> &Incident {
        let mut opened = self.opened.iter();
        opened.find(|incident| incident.kind == kind).unwrap()
    }

    fn backend(&mut self, backend: Backend) {
        self.postgres.backends.push(backend);
    }

    /// `pid` waits for `holder`'s transaction since `age` seconds before now.
    fn waits(&mut self, pid: i32, holder: i32, age: f64) {
        let backend = active(pid, "UPDATE t SET n = ?", self.t - age);
        self.backend(backend);
        let request = Lock {
            granted: false,
            mode: "ShareLock".into(),
            waitstart: Some(self.t - age),
            ..transaction(pid, holder)
        };
        self.postgres.locks.push(request);
    }

    /// `pid` is idle in a transaction since `age` seconds before now, and holds
    /// it.
    fn idles(&mut self, pid: i32, age: f64) {
        let since = Some(self.t - age);
        self.backend(Backend {
            state: Some("idle in transaction".into()),
            xact_start: since,
            state_change: since,
            has_written: true,
            ..active(pid, "UPDATE t SET n = ?", self.t - age)
        });
        self.postgres.locks.push(transaction(pid, pid));
    }
}

fn active(pid: i32, query: &str, since: f64) -> Backend {
    Backend {
        pid,
        backend_start: Some(START - 1000.0 - f64::from(pid)),
        database: Some("app".into()),
        user: Some("app".into()),
        application: Some("registry".into()),
        client: Some("10.0.0.7".into()),
        client_port: Some(40_000 + pid),
        state: Some("active".into()),
        xact_start: Some(since),
        query_start: Some(since),
        state_change: Some(since),
        query: Some(query.into()),
        ..Backend::default()
    }
}

/// `pid`'s row on the transaction of `of`; granted and exclusive when its own.
fn transaction(pid: i32, of: i32) -> Lock {
    Lock {
        pid: Some(pid),
        locktype: "transactionid".into(),
        mode: "ExclusiveLock".into(),
        granted: true,
        virtualtransaction: Some(format!("{pid}/1")),
        transactionid: Some(format!("{}", 700 + of)),
        ..Lock::default()
    }
}

fn relation(pid: i32, mode: &str, waitstart: Option<f64>) -> Lock {
    Lock {
        pid: Some(pid),
        locktype: "relation".into(),
        database: Some("app".into()),
        relation: Some("public.t".into()),
        mode: mode.into(),
        granted: waitstart.is_none(),
        virtualtransaction: Some(format!("{pid}/1")),
        waitstart,
        ..Lock::default()
    }
}

fn virtualxid(pid: i32, of: i32, waitstart: Option<f64>) -> Lock {
    Lock {
        pid: Some(pid),
        locktype: "virtualxid".into(),
        virtualxid: Some(format!("{of}/1")),
        mode: if waitstart.is_some() {
            "ShareLock"
        } else {
            "ExclusiveLock"
        }
        .into(),
        granted: waitstart.is_none(),
        virtualtransaction: Some(format!("{pid}/1")),
        waitstart,
        ..Lock::default()
    }
}

fn advisory(pid: i32, key: u32, waitstart: Option<f64>) -> Lock {
    Lock {
        pid: Some(pid),
        locktype: "advisory".into(),
        database: Some("app".into()),
        classid: Some(0),
        objid: Some(key),
        objsubid: Some(1),
        mode: "ExclusiveLock".into(),
        granted: waitstart.is_none(),
        virtualtransaction: Some(format!("{pid}/{}", u8::from(waitstart.is_some()))),
        waitstart,
        ..Lock::default()
    }
}

fn idle(pid: i32, since: f64) -> Backend {
    Backend {
        state: Some("idle".into()),
        xact_start: None,
        ..active(pid, "SELECT pg_advisory_lock(?)", since)
    }
}

fn pool(waiting: u32, wait: f64) -> Pool {
    Pool {
        database: "app".into(),
        user: "app".into(),
        cl_waiting: waiting,
        sv_active: 3,
        maxwait_us: (wait * 1e6) as u64,
        pool_mode: "transaction".into(),
        ..Pool::default()
    }
}

fn database() -> PoolDatabase {
    PoolDatabase {
        name: "app".into(),
        database: "app".into(),
        pool_size: 3,
        ..PoolDatabase::default()
    }
}

/// The row of a backend at the pooler, linked or not.
fn server(pid: i32, link: &str) -> ServerSocket {
    ServerSocket {
        database: "app".into(),
        user: "app".into(),
        state: if link.is_empty() { "idle" } else { "active" }.into(),
        remote_pid: pid,
        local_addr: "10.0.0.7".into(),
        local_port: u16::try_from(40_000 + pid).unwrap(),
        ptr: format!("s{pid}"),
        link: link.into(),
        ..ServerSocket::default()
    }
}

/// Four sessions behind one that is idle in its transaction.
fn pile_up() -> World {
    let mut world = World::new();
    world.idles(1, 12.0);
    for pid in 2..6 {
        world.waits(pid, 1, 11.0);
    }
    world
}

#[test]
fn a_pile_up_is_told_after_two_looks_and_once() {
    let mut world = pile_up();
    world.look();
    assert!(world.opened().is_empty(), "one look is no proof");
    world.looks(5);
    assert_eq!(world.opened(), [Kind::LockPileup]);
    let incident = world.incident(Kind::LockPileup);
    assert_eq!(incident.subject["pid"], 1);
    assert_eq!(incident.subject["waiters"], 4.0);
    assert_eq!(incident.onset_at, START - 11.0);
    assert_eq!(
        incident.summary,
        "4 sessions of main wait behind backend 1 (registry, idle in transaction for 13 s), which holds \
         ExclusiveLock on transactionid 701; the longest for 12 s"
    );
    assert_eq!(incident.actions, ["SELECT pg_terminate_backend(1);"]);
    assert_eq!(incident.runbook, "lock_pileup");

    // The waiters are gone: over after two looks.
    world.postgres.locks.retain(|lock| lock.granted);
    world.look();
    assert!(world.is_open(Kind::LockPileup));
    world.look();
    assert!(world.open().is_empty());
}

#[test]
fn a_short_queue_or_a_quick_one_is_none() {
    let mut two = World::new();
    two.backend(active(1, "UPDATE t SET n = ?", START - 100.0));
    two.postgres.locks.push(transaction(1, 1));
    two.waits(2, 1, 60.0);
    two.waits(3, 1, 60.0);
    two.looks(5);
    assert!(two.opened().is_empty(), "two behind a running statement");

    let mut quick = World::new();
    quick.idles(1, 5.0);
    for pid in 2..20 {
        quick.waits(pid, 1, 1.0);
    }
    quick.looks(5);
    assert!(quick.opened().is_empty(), "many for a moment");
}

#[test]
fn a_waitstart_that_is_not_there_yet_opens_nothing() {
    // The statements have run for long; their waits have just begun.
    let mut world = World::new();
    world.idles(1, 1.0);
    for pid in 2..6 {
        world.waits(pid, 1, 600.0);
    }
    for lock in world.postgres.locks.iter_mut().filter(|l| !l.granted) {
        lock.waitstart = None;
    }
    world.look();
    for lock in world.postgres.locks.iter_mut().filter(|l| !l.granted) {
        lock.waitstart = Some(START);
    }
    world.looks(5);
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

#[test]
fn a_missed_look_neither_opens_nor_closes() {
    let mut world = pile_up();
    world.look();
    world.failed_look();
    assert!(world.opened().is_empty());
    world.look();
    assert!(world.is_open(Kind::LockPileup), "two looks that gave data");
    let whole = world.postgres.clone();
    world.postgres.locks.retain(|lock| lock.granted);
    world.look();
    world.failed_look();
    world.failed_look();
    assert!(world.is_open(Kind::LockPileup), "gone in one look only");
    world.postgres = whole;
    world.looks(3);
    assert_eq!(world.opened().len(), 1, "never closed in between");
}

#[test]
fn a_truncated_look_closes_nothing() {
    let mut world = pile_up();
    world.looks(2);
    world.postgres.truncated = true;
    world.postgres.locks_truncated = true;
    world.postgres.locks.clear();
    world.looks(10);
    assert!(world.is_open(Kind::LockPileup));
    world.postgres.truncated = false;
    world.postgres.locks_truncated = false;
    world.looks(2);
    assert!(world.open().is_empty());
}

/// The limit on callers of `pg_try_advisory_lock` cuts none of the locks: a
/// fleet of job workers is over it all day.
#[test]
fn callers_beyond_the_limit_keep_nothing_open() {
    let mut world = pile_up();
    world.looks(2);
    assert!(world.is_open(Kind::LockPileup));
    world.postgres.truncated = true;
    world.postgres.locks.clear();
    world.looks(2);
    assert!(world.open().is_empty());
}

/// 120 readers are in the way of one writer with a queue behind it. Each of them
/// has the same tree, and what is drawn is bounded.
fn crowd(world: &mut World) {
    for pid in 100..220 {
        world.backend(active(pid, "SELECT ?", START - 100.0));
        let held = relation(pid, "RowShareLock", None);
        world.postgres.locks.push(held);
    }
    for pid in 300..360 {
        let since = START - 20.0 + f64::from(pid) / 100.0;
        world.backend(active(pid, "SELECT ?", since));
        let request = relation(pid, "ExclusiveLock", Some(since));
        world.postgres.locks.push(request);
    }
}

#[test]
fn a_crowd_of_readers_hides_no_other_pile_up() {
    let behind_one = |world: &World| {
        let open = world.engine.snapshot().open;
        open.iter().any(|incident| incident.subject["pid"] == 1)
    };
    let mut world = pile_up();
    world.looks(2);
    assert!(behind_one(&world));
    crowd(&mut world);
    world.looks(5);
    assert!(behind_one(&world), "it goes on");
    let mut world = pile_up();
    crowd(&mut world);
    world.looks(2);
    assert!(behind_one(&world), "it is told beside the crowd");
}

#[test]
fn a_pile_up_behind_a_vacuum_against_wraparound_ends_nobody() {
    let mut world = World::new();
    world.backend(Backend {
        user: None,
        client: None,
        ..active(
            1,
            "autovacuum: VACUUM public.t (to prevent wraparound)",
            START - 90.0,
        )
    });
    let mode = "ShareUpdateExclusiveLock";
    world.postgres.locks.push(relation(1, mode, None));
    for pid in 2..6 {
        let since = START - 30.0 + f64::from(pid);
        world.backend(active(pid, "ANALYZE public.t", since));
        world.postgres.locks.push(relation(pid, mode, Some(since)));
    }
    world.looks(2);
    let actions = &world.incident(Kind::LockPileup).actions;
    assert!(
        actions.len() == 1 && actions[0].starts_with("let it end"),
        "{actions:?}"
    );
}

#[test]
fn a_pid_that_came_back_is_somebody_else() {
    let mut world = World::new();
    world.idles(1, 700.0);
    world.look();
    // Another session with the same pid, idle just as long by its own account.
    world.postgres.backends[0].backend_start = Some(START - 5.0);
    world.look();
    assert!(world.opened().is_empty(), "{:?}", world.opened());
    world.look();
    assert_eq!(world.opened(), [Kind::IdleInTransaction]);
}

#[test]
fn without_the_privilege_nothing_is_made_up() {
    let mut world = World::new();
    world.postgres.sees_all_sessions = Some(false);
    world.idles(1, 4000.0);
    world.waits(2, 1, 3000.0);
    for backend in &mut world.postgres.backends {
        *backend = Backend {
            pid: backend.pid,
            database: backend.database.clone(),
            user: backend.user.clone(),
            application: Some("registry".into()),
            query: Some("<insufficient privilege>".into()),
            ..Backend::default()
        };
    }
    world.looks(5);
    assert!(world.opened().is_empty(), "{:?}", world.opened());

    // The lock table shows a pile-up to everybody; of its root only the pid.
    for pid in 3..6 {
        let request = Lock {
            pid: Some(pid),
            ..world.postgres.locks[1].clone()
        };
        world.postgres.locks.push(request);
    }
    world.looks(5);
    assert_eq!(world.opened(), [Kind::LockPileup]);
    let summary = &world.incident(Kind::LockPileup).summary;
    assert!(
        summary.contains("4 sessions of main wait behind backend 1 (registry), "),
        "{summary}"
    );
}

#[test]
fn what_waits_on_purpose_is_left_alone() {
    let mut world = World::with(|settings| {
        settings.advisory_locks = vec![NamedLock {
            key: LockKey::Big(99),
            name: "leader".into(),
            allow: true,
        }];
    });
    world.backend(idle(1, START - 4000.0));
    world.postgres.locks.push(advisory(1, 99, None));
    for pid in 2..8 {
        let since = world.t - 3000.0;
        world.backend(active(pid, "SELECT pg_advisory_lock(?)", since));
        world.postgres.locks.push(advisory(pid, 99, Some(since)));
    }
    world.looks(5);
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

#[test]
fn a_leader_in_a_transaction_without_followers_is_none() {
    let mut world = World::new();
    world.idles(1, 9000.0);
    world.postgres.backends[0].has_written = false;
    world.postgres.locks = vec![advisory(1, 5, None)];
    world.looks(5);
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

/// A reader idle in its transaction, `ALTER TABLE` behind it, three readers
/// behind that.
fn migration(age: f64) -> World {
    let mut world = World::new();
    world.idles(1, age + 5.0);
    world.postgres.locks = vec![relation(1, "AccessShareLock", None)];
    let since = world.t - age;
    world.backend(active(2, "ALTER TABLE t ADD COLUMN x int", since));
    world
        .postgres
        .locks
        .push(relation(2, "AccessExclusiveLock", Some(since)));
    for pid in 3..6 {
        world.backend(active(pid, "SELECT count(*) FROM t", since + 1.0));
        world
            .postgres
            .locks
            .push(relation(pid, "AccessShareLock", Some(since + 1.0)));
    }
    world
}

#[test]
fn a_migration_and_its_queue_are_one_incident() {
    let mut world = migration(11.0);
    world.looks(60);
    assert_eq!(world.opened(), [Kind::MigrationBlocked], "told once");
    let incident = world.incident(Kind::MigrationBlocked);
    assert_eq!(incident.subject["pid"], 2);
    assert_eq!(incident.subject["queue"], 3);
    assert_eq!(
        incident.actions,
        [
            "SELECT pg_cancel_backend(2);",
            "SELECT pg_terminate_backend(1);"
        ]
    );
    // It has its lock.
    world.postgres.locks.retain(|lock| lock.pid != Some(1));
    world.postgres.locks.iter_mut().for_each(|lock| {
        lock.granted = true;
        lock.waitstart = None;
    });
    world.postgres.backends.remove(0);
    world.looks(2);
    assert!(world.open().is_empty());
}

#[test]
fn what_a_cancelled_concurrent_change_leaves_is_told() {
    for (statement, left) in [
        ("CREATE INDEX CONCURRENTLY i ON t (n)", "an invalid index"),
        (
            "ALTER TABLE p DETACH PARTITION t CONCURRENTLY",
            "a partition half detached",
        ),
    ] {
        let mut world = migration(11.0);
        world.postgres.backends[1].query = Some(statement.into());
        world.looks(2);
        let action = &world.incident(Kind::MigrationBlocked).actions[0];
        assert!(action.contains(left), "{action}");
    }
}

#[test]
fn a_careful_migration_opens_nothing() {
    let mut world = migration(2.0);
    world.looks(4);
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

#[test]
fn an_application_that_locks_a_table_is_no_migration() {
    // ShareRowExclusiveLock may be anybody's; the statement decides.
    let mut world = migration(11.0);
    world.postgres.backends[1].query = Some("SELECT ?".into());
    world.postgres.locks[1].mode = "ShareRowExclusiveLock".into();
    world.postgres.locks[0].mode = "RowExclusiveLock".into();
    world.postgres.locks.truncate(2);
    world.looks(5);
    assert!(!world.is_open(Kind::MigrationBlocked));
}

#[test]
fn a_vacuum_that_waits_for_its_turn_is_no_migration() {
    let mut world = migration(500.0);
    world.postgres.backends[0].has_written = false;
    world.postgres.backends[0].state = Some("active".into());
    world.postgres.backends[1].query = Some("VACUUM t".into());
    world.postgres.locks[0].mode = "ShareUpdateExclusiveLock".into();
    world.postgres.locks[1].mode = "ShareUpdateExclusiveLock".into();
    world.postgres.locks.truncate(2);
    world.looks(5);
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

#[test]
fn a_healthy_index_build_is_left_alone() {
    let mut world = World::new();
    world.idles(1, 5.0);
    world.postgres.locks = vec![virtualxid(1, 1, None)];
    for n in 0..200 {
        // It waits for one transaction after the other, for a second each.
        let since = world.t - 1.0;
        world.postgres.backends.truncate(1);
        world.postgres.locks.truncate(1);
        world.backend(active(2, "CREATE INDEX CONCURRENTLY i ON t (n)", START));
        world.postgres.locks.push(virtualxid(2, 1, Some(since)));
        world.postgres.index_builds = vec![IndexBuild {
            pid: 2,
            lockers_total: Some(200),
            lockers_done: Some(n),
            ..IndexBuild::default()
        }];
        world.postgres.backends[0].state_change = Some(since);
        world.look();
    }
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

/// The first migrator's lock connection (1) and its index build (2), and the
/// second migrator (3), which waits for the lock and is waited for.
fn cycle() -> World {
    let mut world = World::new();
    let since = world.t - 11.0;
    let own = |backend: Backend, at: f64| Backend {
        application: Some("migrator".into()),
        backend_start: Some(at),
        ..backend
    };
    world.backend(own(idle(1, since - 5.0), START - 60.0));
    let build = active(2, "CREATE INDEX CONCURRENTLY i ON t (n)", since);
    world.backend(own(build, START - 59.0));
    let mut second = own(
        active(3, "SELECT pg_advisory_lock(?)", since - 2.0),
        START - 20.0,
    );
    second.client = Some("10.0.0.8".into());
    world.backend(second);
    world.postgres.locks = vec![
        advisory(1, 7, None),
        advisory(3, 7, Some(since - 2.0)),
        virtualxid(3, 3, None),
        virtualxid(2, 3, Some(since)),
    ];
    world
}

#[test]
fn a_cycle_through_the_application_is_told_with_its_confidence() {
    let mut world = cycle();
    world.looks(200);
    assert_eq!(world.opened(), [Kind::HiddenDeadlock], "told once");
    let incident = world.incident(Kind::HiddenDeadlock);
    assert_eq!(incident.subject["confidence"], "very likely");
    assert_eq!(
        incident.actions,
        [
            "SELECT pg_cancel_backend(3);",
            "SELECT pg_cancel_backend(2);",
            "SELECT pg_terminate_backend(1);"
        ]
    );
    world.postgres.locks.truncate(1);
    world.looks(2);
    assert!(world.open().is_empty());
}

#[test]
fn followers_on_purpose_do_not_hide_a_cycle() {
    let mut world = cycle();
    let settings = Settings {
        targets: vec!["main".into()],
        advisory_locks: vec![NamedLock {
            key: LockKey::Big(7),
            name: "leader".into(),
            allow: true,
        }],
        ..Settings::default()
    };
    world.engine = Engine::new(settings);
    world.looks(20);
    assert_eq!(world.opened(), [Kind::HiddenDeadlock]);
}

#[test]
fn without_evidence_no_cycle_is_claimed() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 7] = [
        ("another address", |w| {
            w.postgres.backends[0].client = Some("10.0.0.9".into());
        }),
        ("another user", |w| {
            w.postgres.backends[0].user = Some("other".into());
        }),
        ("another application", |w| {
            w.postgres.backends[0].application = Some("registry".into());
        }),
        ("no name, and opened at another time", |w| {
            for backend in &mut w.postgres.backends {
                backend.application = Some(String::new());
            }
            w.postgres.backends[0].backend_start = Some(START - 5000.0);
        }),
        ("the session ran something meanwhile", |w| {
            w.postgres.backends[0].state_change = Some(START - 1.0);
        }),
        ("the session is not idle", |w| {
            w.postgres.backends[0].state = Some("active".into());
        }),
        ("a state that may not be seen", |w| {
            w.postgres.backends[0].state = None;
        }),
    ];
    for (what, change) in changes {
        let mut world = cycle();
        change(&mut world);
        world.looks(5);
        assert!(!world.opened().contains(&Kind::HiddenDeadlock), "{what}");
    }
}

#[test]
fn two_windows_of_one_person_are_no_deadlock() {
    // The same client has a lock and waits for it elsewhere: it can go on.
    let mut world = World::new();
    world.backend(idle(1, START - 600.0));
    world.backend(active(2, "SELECT pg_advisory_lock(?)", START - 500.0));
    world.postgres.locks = vec![advisory(1, 7, None), advisory(2, 7, Some(START - 500.0))];
    world.looks(5);
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

/// A lock left on server 1, two waiters on servers 2 and 3.
fn stuck_pool() -> World {
    let mut world = World::pooled(|_| {});
    world.backend(idle(1, START - 30.0));
    world.postgres.locks = vec![advisory(1, 7, None)];
    let pooler = world.pooler.as_mut().unwrap();
    pooler.servers = vec![server(1, ""), server(2, ""), server(3, "")];
    world.looks(4);
    world.opened.clear();
    // Its server goes to somebody else; the others are taken by waiters.
    world.postgres.backends[0] = Backend {
        state: Some("idle in transaction".into()),
        xact_start: Some(world.t),
        state_change: Some(world.t),
        query: Some("BEGIN".into()),
        ..idle(1, world.t)
    };
    world.postgres.locks[0].virtualtransaction = Some("1/9".into());
    for pid in [2, 3] {
        world.backend(active(pid, "SELECT pg_advisory_lock(?)", world.t));
        world.postgres.locks.push(advisory(pid, 7, Some(world.t)));
    }
    let pooler = world.pooler.as_mut().unwrap();
    pooler.servers = vec![server(1, "c9"), server(2, "c2"), server(3, "c3")];
    pooler.pools = vec![pool(2, 6.0)];
    world
}

#[test]
fn a_stuck_pool_is_told_once_and_not_as_saturated() {
    let mut world = stuck_pool();
    world.looks(30);
    let opened: BTreeSet<_> = world.opened().into_iter().collect();
    assert!(opened.contains(&Kind::PoolDeadlock), "{opened:?}");
    assert!(!opened.contains(&Kind::PoolSaturation), "{opened:?}");
    assert!(!opened.contains(&Kind::LockPileup), "{opened:?}");
    assert_eq!(
        world
            .opened()
            .iter()
            .filter(|k| **k == Kind::PoolDeadlock)
            .count(),
        1
    );
    let incident = world.incident(Kind::PoolDeadlock);
    assert_eq!(incident.subject["servers_waiting"], 2);
    assert_eq!(incident.subject["clients_waiting"], 2);
    // A waiter has left.
    world.postgres.locks.pop();
    world.looks(2);
    assert!(!world.is_open(Kind::PoolDeadlock));
}

/// A lock left on server 1, whose client is gone, with waiters from elsewhere.
fn left_lock(waiters: i32) -> World {
    let mut world = World::pooled(|_| {});
    world.backend(idle(1, START - 30.0));
    world.postgres.locks = vec![advisory(1, 7, None)];
    world.pooler.as_mut().unwrap().servers = vec![server(1, "")];
    world.looks(4);
    for pid in 2..2 + waiters {
        let since = world.t;
        world.backend(active(pid, "SELECT pg_advisory_lock(?)", since));
        world.postgres.locks.push(advisory(pid, 7, Some(since)));
    }
    world
}

#[test]
fn waiters_behind_an_orphan_are_told_with_the_orphan() {
    let mut world = left_lock(5);
    world.looks(60);
    assert_eq!(world.opened(), [Kind::OrphanedAdvisoryLock], "told once");
    // The same session is in the way of others by another lock: that is news.
    world.postgres.locks.push(transaction(1, 1));
    for pid in 20..23 {
        world.waits(pid, 1, 0.0);
    }
    world.looks(20);
    assert_eq!(
        world.opened(),
        [Kind::OrphanedAdvisoryLock, Kind::LockPileup]
    );
    assert_eq!(world.incident(Kind::LockPileup).subject["waiters"], 3.0);
}

#[test]
fn one_waiter_behind_a_stranded_lock_is_enough() {
    // Its client is connected, and quiet since it took the lock.
    let mut world = World::pooled(|_| {});
    world.backend(idle(1, START - 1.0));
    let pooler = world.pooler.as_mut().unwrap();
    pooler.servers = vec![server(1, "")];
    pooler.clients = Some(vec![ClientSocket {
        database: "app".into(),
        user: "app".into(),
        state: "active".into(),
        ptr: "c1".into(),
        connect_time: "then".into(),
        request_time: "then".into(),
        request_age: Some(1.0),
        application_name: Some("registry".into()),
        ..ClientSocket::default()
    }]);
    world.looks(2);
    let taken = world.t - 0.8;
    world.postgres.backends[0] = idle(1, taken);
    world.postgres.locks = vec![advisory(1, 7, None)];
    for n in 0..30 {
        if n == 3 {
            let since = world.t;
            world.backend(active(2, "SELECT pg_advisory_lock(?)", since));
            world.postgres.locks.push(advisory(2, 7, Some(since)));
        }
        let age = world.t - 0.5 - taken;
        let pooler = world.pooler.as_mut().unwrap();
        pooler.clients.as_mut().unwrap()[0].request_age = Some(age);
        world.look();
    }
    assert_eq!(world.opened(), [Kind::LockPileup]);
    let incident = world.incident(Kind::LockPileup);
    assert_eq!(incident.subject["verdict"], "stranded");
    assert_eq!(
        incident.actions,
        [
            "RECONNECT app;  on the console of pooler-1",
            "SELECT pg_terminate_backend(1);"
        ]
    );
}

#[test]
fn an_idle_transaction_becomes_a_pile_up_and_says_so() {
    let mut world = World::new();
    world.idles(1, 40.0);
    world.waits(2, 1, 35.0);
    world.looks(3);
    assert_eq!(world.opened(), [Kind::IdleInTransaction]);
    for pid in 3..6 {
        world.waits(pid, 1, 11.0);
    }
    world.looks(5);
    assert_eq!(world.opened(), [Kind::IdleInTransaction, Kind::LockPileup]);
    assert_eq!(world.open(), BTreeSet::from([Kind::LockPileup]));
    let last = world.resolved[0].evidence.last().unwrap();
    assert_eq!(
        last,
        "told as lock_pileup from now on, which says more about it"
    );
}

#[test]
fn many_readers_in_the_way_of_one_writer_are_one_pile_up() {
    let mut world = World::new();
    for pid in 1..6 {
        world.backend(active(pid, "SELECT ?", START - 100.0 - f64::from(pid)));
        world
            .postgres
            .locks
            .push(relation(pid, "RowShareLock", None));
    }
    for pid in 10..14 {
        world.backend(active(pid, "SELECT ?", START - 20.0));
        let request = relation(pid, "ExclusiveLock", Some(START - 20.0 + f64::from(pid)));
        world.postgres.locks.push(request);
    }
    world.looks(10);
    assert_eq!(world.opened(), [Kind::LockPileup]);
    assert_eq!(
        world.incident(Kind::LockPileup).subject["pid"],
        5,
        "the oldest"
    );
    // The oldest ends; it is the same pile-up, under the name of the next.
    world.postgres.locks.retain(|lock| lock.pid != Some(5));
    world.looks(5);
    assert_eq!(world.opened(), [Kind::LockPileup]);
    assert_eq!(world.open(), BTreeSet::from([Kind::LockPileup]));
}

#[test]
fn a_pool_that_can_still_serve_somebody_is_not_stuck() {
    type Change = fn(&mut PgbouncerReport);
    let changes: [(&str, Change); 4] = [
        ("the server with the lock is free", |p| {
            p.servers[0].link.clear()
        }),
        ("one of the servers does not wait", |p| {
            p.servers[2].remote_pid = 77
        }),
        ("nobody queues", |p| p.pools[0].cl_waiting = 0),
        ("the database is paused", |p| p.databases[0].paused = true),
    ];
    for (what, change) in changes {
        let mut world = stuck_pool();
        change(world.pooler.as_mut().unwrap());
        world.looks(20);
        assert!(!world.opened().contains(&Kind::PoolDeadlock), "{what}");
    }
}

/// One client after the other has the server with the lock for a moment: the
/// pool is slow, but whoever took the lock gets there.
#[test]
fn a_pool_whose_lock_server_changes_hands_is_not_stuck() {
    let mut world = stuck_pool();
    for _ in 0..20 {
        world.postgres.backends[0].xact_start = Some(world.t - 0.3);
        world.look();
    }
    assert!(!world.opened().contains(&Kind::PoolDeadlock));
}

/// Server 2 waits for a lock and was seen at the pooler; then its row is gone.
fn ghost(change: impl FnOnce(&mut Settings)) -> World {
    let mut world = World::pooled(change);
    world.backend(idle(1, START - 30.0));
    world.backend(active(2, "SELECT pg_advisory_lock(?)", START - 10.0));
    world.postgres.locks = vec![advisory(1, 7, None), advisory(2, 7, Some(START - 10.0))];
    world.pooler.as_mut().unwrap().servers = vec![server(2, "c2")];
    world
}

#[test]
fn a_ghost_is_told_when_its_pooler_has_forgotten_it() {
    let mut world = ghost(|_| {});
    world.looks(10);
    assert!(world.opened().is_empty(), "its client is there");
    world.pooler.as_mut().unwrap().servers.clear();
    world.look();
    assert!(world.opened().is_empty(), "one look is no proof");
    world.looks(5);
    assert_eq!(world.opened(), [Kind::GhostWaiter]);
    // It has the lock now, and is still there.
    let last = world.postgres.locks.last_mut().unwrap();
    (last.granted, last.waitstart) = (true, None);
    world.postgres.locks.remove(0);
    world.looks(5);
    assert!(world.is_open(Kind::GhostWaiter));
    world.postgres.backends.truncate(1);
    world.looks(2);
    assert!(!world.is_open(Kind::GhostWaiter));
}

#[test]
fn a_ghost_ends_with_its_own_pooler_and_not_with_another() {
    let mut world = ghost(|settings| {
        settings.poolers.push(Pooler {
            name: "pooler-2".into(),
            target: "main".into(),
        });
    });
    let second = PgbouncerReport {
        pooler: "pooler-2".into(),
        target: "main".into(),
        databases: vec![database()],
        ..PgbouncerReport::default()
    };
    let looks = |world: &mut World, n: u32| {
        for _ in 0..n {
            world.apply(world.t - 0.4, Report::Pgbouncer(second.clone()));
            world.look();
        }
    };
    looks(&mut world, 10);
    world.pooler.as_mut().unwrap().servers.clear();
    looks(&mut world, 6);
    assert_eq!(world.opened(), [Kind::GhostWaiter]);
    world.settings.poolers.pop();
    world.engine.reconfigure(world.settings.clone());
    assert!(world.is_open(Kind::GhostWaiter), "pooler-1 is still there");
    world.looks(5);
    assert!(world.is_open(Kind::GhostWaiter));
    world.settings.poolers.clear();
    world.engine.reconfigure(world.settings.clone());
    world.pooler = None;
    world.looks(2);
    assert!(!world.is_open(Kind::GhostWaiter));
}

#[test]
fn no_ghost_while_a_pooler_may_have_it() {
    type Change = fn(&mut PgbouncerReport);
    let changes: [(&str, Change); 4] = [
        ("the pooler does not answer", |p| {
            *p = PgbouncerReport {
                pooler: p.pooler.clone(),
                target: p.target.clone(),
                error: Some(FailureReason::Timeout),
                ..PgbouncerReport::default()
            };
        }),
        ("the pooler was not read whole", |p| p.truncated = true),
        ("one of several processes", |p| {
            p.config = Some(PoolerConfig {
                so_reuseport: true,
                ..PoolerConfig::default()
            });
        }),
        ("it has the backend", |p| p.servers.push(server(2, "c2"))),
    ];
    for (what, change) in changes {
        let mut world = ghost(|_| {});
        world.looks(3);
        world.pooler.as_mut().unwrap().servers.clear();
        change(world.pooler.as_mut().unwrap());
        world.looks(10);
        assert!(world.opened().is_empty(), "{what}: {:?}", world.opened());
    }
}

#[test]
fn a_ghost_that_was_never_seen_pooled_needs_a_configured_address() {
    let network = || vec!["10.0.0.0/24".parse().unwrap()];
    for (complete, configured, told) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ] {
        let mut world = ghost(|settings| {
            settings.poolers_complete = complete;
            if configured {
                settings.pooler_addresses = network();
            }
        });
        world.pooler.as_mut().unwrap().servers.clear();
        world.looks(10);
        let is_told = world.opened().contains(&Kind::GhostWaiter);
        assert_eq!(
            is_told, told,
            "complete {complete}, configured {configured}"
        );
    }
}

#[test]
fn a_prepared_transaction_is_told_when_it_is_old_or_waited_for() {
    let prepared = |age: f64| PreparedTransaction {
        transaction: "701".into(),
        gid: "it's".into(),
        prepared: Some(START - age),
        owner: Some("app".into()),
        database: Some("app".into()),
    };
    let mut world = World::new();
    world.postgres.prepared = vec![prepared(20.0)];
    world.looks(5);
    assert!(world.opened().is_empty());
    world.postgres.prepared = vec![prepared(310.0)];
    world.looks(2);
    assert_eq!(world.opened(), [Kind::PreparedTransaction]);
    let incident = world.incident(Kind::PreparedTransaction);
    assert_eq!(
        incident.actions[1],
        "ROLLBACK PREPARED 'it''s';  -- in database app, otherwise"
    );
    world.postgres.prepared.clear();
    world.looks(2);
    assert!(world.open().is_empty());
}

#[test]
fn a_pool_is_saturated_when_its_queue_lasts_and_its_servers_are_taken() {
    let mut world = World::pooled(|_| {});
    world.looks(3);
    world.pooler.as_mut().unwrap().pools = vec![pool(4, 2.0)];
    world.looks(9);
    assert!(world.opened().is_empty(), "a burst");
    world.looks(4);
    assert_eq!(world.opened(), [Kind::PoolSaturation]);
    // Over when nobody has queued for half a minute.
    world.pooler.as_mut().unwrap().pools = vec![pool(0, 0.0)];
    world.looks(20);
    world.pooler.as_mut().unwrap().pools = vec![pool(1, 0.0)];
    world.look();
    world.pooler.as_mut().unwrap().pools = vec![pool(0, 0.0)];
    world.looks(30);
    assert!(world.is_open(Kind::PoolSaturation));
    world.looks(2);
    assert!(world.open().is_empty());
    assert_eq!(world.opened().len(), 1);
}

#[test]
fn a_pause_is_told_when_it_has_lasted_a_minute() {
    let mut world = World::pooled(|_| {});
    world.looks(3);
    let paused = |world: &mut World, seconds: u32| {
        let pooler = world.pooler.as_mut().unwrap();
        pooler.databases[0].paused = true;
        pooler.pools = vec![pool(4, f64::from(seconds))];
        world.look();
    };
    for seconds in 0..59 {
        paused(&mut world, seconds);
        assert!(world.opened().is_empty(), "after {seconds} s");
    }
    for seconds in 59..63 {
        paused(&mut world, seconds);
    }
    assert_eq!(world.opened(), [Kind::PoolSaturation]);
    let incident = world.incident(Kind::PoolSaturation);
    assert_eq!(incident.subject["verdict"], "paused");
    assert!(incident.actions[0].starts_with("RESUME app;"));
    let pooler = world.pooler.as_mut().unwrap();
    pooler.databases[0].paused = false;
    pooler.pools = vec![pool(0, 0.0)];
    world.looks(33);
    assert!(world.open().is_empty());
    assert_eq!(world.opened().len(), 1);
}

#[test]
fn a_pooler_without_room_for_a_client_is_told() {
    let full = |world: &mut World, clients: u32| {
        let pooler = world.pooler.as_mut().unwrap();
        pooler.lists.used_clients = clients;
        pooler.config = Some(PoolerConfig {
            max_client_conn: 100,
            ..PoolerConfig::default()
        });
    };
    let mut world = World::pooled(|_| {});
    full(&mut world, 99);
    world.looks(30);
    assert!(world.opened().is_empty());
    full(&mut world, 100);
    world.looks(9);
    assert!(world.opened().is_empty(), "a moment");
    world.looks(4);
    let incident = world.incident(Kind::PoolSaturation);
    assert_eq!(incident.subject["verdict"], "client_limit");
    assert_eq!(
        incident.summary,
        "pooler-1 takes no more clients: all 100 of max_client_conn are taken"
    );
    full(&mut world, 60);
    world.looks(33);
    assert!(world.open().is_empty());
    // Without a limit that is known there is none.
    full(&mut world, 100);
    world.pooler.as_mut().unwrap().config = None;
    world.looks(30);
    assert!(world.open().is_empty());
}

#[test]
fn what_is_no_saturation() {
    type Change = fn(&mut PgbouncerReport);
    let changes: [(&str, Change); 4] = [
        ("paused", |p| p.databases[0].paused = true),
        ("servers left to open", |p| p.databases[0].pool_size = 4),
        ("the reserve is coming", |p| {
            p.databases[0].reserve_pool_size = 2
        }),
        ("no limit is known", |p| p.databases.clear()),
    ];
    for (what, change) in changes {
        let mut world = World::pooled(|_| {});
        let pooler = world.pooler.as_mut().unwrap();
        pooler.pools = vec![pool(4, 2.0)];
        change(pooler);
        world.looks(30);
        assert!(world.opened().is_empty(), "{what}");
    }
}

#[test]
fn a_kind_that_is_switched_off_is_silent() {
    let mut world = World::with(|settings| {
        settings.detect.lock_pileup.enabled = false;
        settings.detect.idle_in_transaction.enabled = false;
    });
    let other = pile_up();
    world.postgres = other.postgres;
    world.looks(60);
    assert!(world.opened().is_empty(), "{:?}", world.opened());
}

/// Each kind open, with what makes it one still there.
fn told_of_each_kind() -> Vec<(Kind, World)> {
    let mut worlds = vec![
        (Kind::LockPileup, pile_up()),
        (Kind::MigrationBlocked, migration(12.0)),
        (Kind::HiddenDeadlock, cycle()),
        (Kind::PoolDeadlock, stuck_pool()),
    ];
    let mut forgotten = ghost(|_| {});
    forgotten.looks(3);
    forgotten.pooler.as_mut().unwrap().servers.clear();
    worlds.push((Kind::GhostWaiter, forgotten));
    let mut idle = World::new();
    idle.idles(1, 40.0);
    idle.waits(2, 1, 35.0);
    worlds.push((Kind::IdleInTransaction, idle));
    let mut prepared = World::new();
    prepared.postgres.prepared = vec![PreparedTransaction {
        transaction: "701".into(),
        prepared: Some(START - 310.0),
        database: Some("app".into()),
        ..PreparedTransaction::default()
    }];
    worlds.push((Kind::PreparedTransaction, prepared));
    let mut saturated = World::pooled(|_| {});
    saturated.pooler.as_mut().unwrap().pools = vec![pool(4, 2.0)];
    worlds.push((Kind::PoolSaturation, saturated));
    for (kind, world) in &mut worlds {
        world.looks(15);
        assert!(world.is_open(*kind), "{kind:?}: {:?}", world.open());
    }
    worlds
}

#[test]
fn every_kind_goes_on_after_a_restart() {
    for (kind, mut world) in told_of_each_kind() {
        let ids = |world: &World| -> Vec<String> {
            let open = world.engine.snapshot().open;
            let of_kind = open.iter().filter(|incident| incident.kind == kind);
            of_kind.map(|incident| incident.id.clone()).collect()
        };
        let known = ids(&world);
        world.restart();
        assert_eq!(ids(&world), known, "{kind:?}: before the first look");
        world.looks(100);
        assert!(world.opened.is_empty(), "{kind:?}: {:?}", world.opened());
        assert_eq!(ids(&world), known, "{kind:?}");
        // And it ends as it would have.
        world.postgres.backends.clear();
        world.postgres.locks.clear();
        world.postgres.prepared.clear();
        if let Some(pooler) = &mut world.pooler {
            pooler.pools = vec![pool(0, 0.0)];
            pooler.servers.clear();
        }
        world.looks(40);
        assert!(world.open().is_empty(), "{kind:?}: {:?}", world.open());
        let over = world.resolved.iter().filter(|over| over.kind == kind);
        let over: Vec<String> = over.map(|incident| incident.id.clone()).collect();
        assert_eq!(over, known, "{kind:?}: once");
    }
}

#[test]
fn what_ended_during_a_restart_ends_once_after_a_while() {
    for (kind, mut world) in told_of_each_kind() {
        let open = world.open().len();
        world.restart();
        world.postgres.backends.clear();
        world.postgres.locks.clear();
        world.postgres.prepared.clear();
        if let Some(pooler) = &mut world.pooler {
            pooler.pools = vec![pool(0, 0.0)];
            pooler.servers.clear();
        }
        world.looks(5);
        assert!(world.is_open(kind), "{kind:?} ended at once");
        world.looks(90);
        assert!(world.open().is_empty(), "{kind:?}: {:?}", world.open());
        assert_eq!(world.resolved.len(), open, "{kind:?}");
        assert!(world.opened.is_empty(), "{kind:?}: {:?}", world.opened());
    }
}

#[test]
fn a_saturated_pool_is_not_over_while_its_pooler_is_not_read() {
    let mut world = World::pooled(|_| {});
    world.pooler.as_mut().unwrap().pools = vec![pool(4, 2.0)];
    world.looks(15);
    assert!(world.is_open(Kind::PoolSaturation));
    world.restart();
    let silent = world.pooler.take();
    world.looks(200);
    assert!(world.is_open(Kind::PoolSaturation), "nobody has looked");
    world.pooler = silent;
    world.looks(5);
    assert!(world.opened.is_empty() && world.resolved.is_empty());
}

#[test]
fn a_pile_up_that_is_too_small_to_open_still_goes_on_after_a_restart() {
    let mut world = pile_up();
    world.looks(3);
    assert!(world.is_open(Kind::LockPileup));
    // One waiter is left: not enough to open, and not over.
    world.postgres.backends.truncate(2);
    world.postgres.locks.truncate(2);
    world.looks(3);
    assert!(world.is_open(Kind::LockPileup));
    world.restart();
    world.looks(100);
    assert!(world.is_open(Kind::LockPileup), "{:?}", world.resolved);
}

#[test]
fn a_kind_that_was_switched_off_meanwhile_ends() {
    let mut world = pile_up();
    world.looks(3);
    world.settings.detect.lock_pileup.enabled = false;
    world.settings.detect.idle_in_transaction.enabled = false;
    world.restart();
    world.looks(70);
    assert!(!world.is_open(Kind::LockPileup));
}
