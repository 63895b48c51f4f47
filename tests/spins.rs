//! Spins on try-lock calls, told by made-up samples: who spins, who asks
//! politely, and when it is over.

use snowpit::engine::incident::{Event, Incident, Kind};
use snowpit::engine::locks::key::LockKey;
use snowpit::engine::settings::{NamedLock, Pooler};
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{
    Backend, ClientSocket, FailureReason, Lock, LockCall, PgbouncerReport, Pool, PostgresReport,
    Report, Sample, Server, ServerSocket, StatementCalls,
};

const START: f64 = 1_700_000_000.0;
const HOLDER: i32 = 4711;

struct Scene {
    engine: Engine,
    t: f64,
    postgres: PostgresReport,
    pooler: Option<PgbouncerReport>,
    opened: Vec<f64>,
    resolved: Vec<f64>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            targets: vec!["main".into()],
            poolers_complete: true,
            ..Settings::default()
        };
        change(&mut settings);
        let holder = Backend {
            pid: HOLDER,
            backend_start: Some(START - 600.0),
            database: Some("app".into()),
            state: Some("idle".into()),
            ..Backend::default()
        };
        Self {
            engine: Engine::new(settings),
            t: START,
            postgres: PostgresReport {
                target: "main".into(),
                backends: vec![holder],
                locks: vec![lock(HOLDER, 42)],
                ..PostgresReport::default()
            },
            pooler: None,
            opened: Vec::new(),
            resolved: Vec::new(),
        }
    }

    fn second(&mut self) {
        self.postgres.server = Some(Server {
            clock: Some(self.t),
            ..Server::default()
        });
        let mut reports = vec![Report::Postgres(self.postgres.clone())];
        reports.extend(self.pooler.clone().map(Report::Pgbouncer));
        for (n, report) in reports.into_iter().enumerate() {
            let t = self.t + 0.3 * n as f64;
            for effect in self.engine.apply(Sample { t, report }) {
                if effect.incident.kind == Kind::TryLockSpin {
                    match effect.event {
                        Event::Opened => self.opened.push(t - START),
                        Event::Resolved => self.resolved.push(t - START),
                        Event::Updated => {}
                    }
                }
            }
        }
        self.t += 1.0;
    }

    /// Each of `pids` last tried when its pause says, until `end`.
    fn try_every(&mut self, pids: &[i32], pause: f64, key: Option<&str>, end: f64) {
        while self.t < START + end {
            self.postgres.backends.truncate(1);
            for pid in pids {
                let since = (self.t - START + f64::from(*pid)) % pause;
                let backend = trying(*pid, self.t - since.max(0.2), key);
                self.postgres.backends.push(backend);
            }
            self.second();
        }
        self.postgres.backends.truncate(1);
    }

    fn seconds(&mut self, n: u32) {
        for _ in 0..n {
            self.second();
        }
    }

    fn spinners(&self) -> u32 {
        let snapshot = self.engine.snapshot();
        snapshot.targets["main"].locks.advisory_locks[0].spinners
    }
}

fn lock(pid: i32, key: u32) -> Lock {
    Lock {
        pid: Some(pid),
        locktype: "advisory".into(),
        database: Some("app".into()),
        mode: "ExclusiveLock".into(),
        granted: true,
        virtualtransaction: Some("5/0".into()),
        classid: Some(0),
        objid: Some(key),
        objsubid: Some(1),
        ..Lock::default()
    }
}

fn trying(pid: i32, at: f64, key: Option<&str>) -> Backend {
    Backend {
        pid,
        backend_start: Some(START - 600.0),
        database: Some("app".into()),
        application: Some("gateway".into()),
        client: Some("10.0.0.7".into()),
        state: Some("idle".into()),
        query_start: Some(at),
        state_change: Some(at + 0.01),
        query_id: Some(77),
        query: Some("SELECT pg_try_advisory_lock($1)".into()),
        lock_calls: vec![LockCall {
            key: key.map(str::to_owned),
            tries: true,
            ..LockCall::default()
        }],
        ..Backend::default()
    }
}

#[test]
fn two_that_try_again_and_again_are_told_and_their_end_too() {
    let mut scene = Scene::new(|_| {});
    scene.try_every(&[1, 2], 2.0, Some("42"), 20.0);
    assert_eq!(scene.opened.len(), 1);
    assert!((5.0..8.0).contains(&scene.opened[0]), "{:?}", scene.opened);
    assert_eq!(scene.spinners(), 2);
    let open = scene.engine.snapshot().open;
    let spin = open.iter().find(|i| i.kind == Kind::TryLockSpin).unwrap();
    assert_eq!(spin.subject["key"], "42");
    assert_eq!(spin.subject["database"], "app");
    assert!(
        spin.summary
            .starts_with("2 clients spin on advisory lock 42")
    );
    assert!(
        spin.evidence
            .iter()
            .any(|e| e.contains("gateway from 10.0.0.7"))
    );
    assert!(spin.actions.contains(&format!(
        "SELECT * FROM pg_stat_activity WHERE pid = {HOLDER};"
    )));

    scene.seconds(10);
    assert!(scene.resolved.is_empty(), "they may only be pausing");
    scene.seconds(30);
    assert_eq!(scene.resolved.len(), 1);
    assert!(scene.resolved[0] < 55.0, "{:?}", scene.resolved);
}

#[test]
fn spinners_that_back_off_to_ten_seconds_are_not_gone() {
    let mut scene = Scene::new(|_| {});
    scene.try_every(&[1, 2, 3], 10.0, None, 90.0);
    assert_eq!(scene.opened.len(), 1);
    assert!(scene.resolved.is_empty());
}

#[test]
fn a_spin_goes_on_after_a_restart_and_ends_once() {
    for pause in [2.0, 10.0] {
        let mut scene = Scene::new(|_| {});
        scene.try_every(&[1, 2, 3], pause, Some("42"), 40.0);
        assert_eq!(scene.opened.len(), 1, "{pause}");
        let open = scene.engine.snapshot().open;
        let spin = Incident::clone(&open[0]);
        assert_eq!(spin.kind, Kind::TryLockSpin);
        let mut second = Scene::new(|_| {});
        second.t = scene.t + 5.0;
        let open = [("app/42".to_owned(), spin.clone())];
        second.engine.restore(second.t, open, []);
        second.try_every(&[1, 2, 3], pause, Some("42"), 200.0);
        let ids: Vec<_> = second
            .engine
            .snapshot()
            .open
            .iter()
            .map(|i| i.id.clone())
            .collect();
        assert_eq!(ids, [spin.id], "{pause}");
        assert!(
            second.opened.is_empty() && second.resolved.is_empty(),
            "{pause}"
        );
        second.seconds(60);
        assert_eq!(second.resolved.len(), 1, "{pause}");
    }
}

#[test]
fn one_that_asks_politely_is_no_spin() {
    let mut scene = Scene::new(|_| {});
    scene.try_every(&[1], 1.0, Some("42"), 60.0);
    assert!(scene.opened.is_empty());
    assert_eq!(scene.spinners(), 1, "it is counted all the same");
}

#[test]
fn a_race_that_is_over_after_one_try_is_no_spin() {
    let mut scene = Scene::new(|_| {});
    let pids: Vec<i32> = (1..=24).collect();
    for pid in pids {
        let at = scene.t - 0.3;
        scene.postgres.backends.push(trying(pid, at, Some("42")));
    }
    scene.seconds(40);
    assert!(scene.opened.is_empty());
}

#[test]
fn a_lock_that_nobody_holds_is_not_spun_on() {
    let mut scene = Scene::new(|_| {});
    scene.try_every(&[1, 2], 1.0, Some("43"), 30.0);
    scene.postgres.locks.push(lock(1, 43));
    assert!(scene.opened.is_empty());
}

#[test]
fn who_holds_it_does_not_spin() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.locks = vec![lock(1, 42), lock(2, 42)];
    scene.try_every(&[1, 2], 1.0, Some("42"), 30.0);
    assert!(scene.opened.is_empty());
}

#[test]
fn a_key_that_is_not_told_is_only_guessed_when_there_is_one() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.locks.push(lock(HOLDER, 43));
    scene.try_every(&[1, 2], 1.0, None, 30.0);
    assert!(scene.opened.is_empty());
}

/// Workers of a queue take locks by the rows that they find.
#[test]
fn the_workers_of_a_job_queue_do_not_spin() {
    let mut scene = Scene::new(|_| {});
    while scene.t < START + 30.0 {
        scene.postgres.backends.truncate(1);
        for pid in [1, 2, 3] {
            let mut worker = trying(pid, scene.t - 0.3, None);
            worker.query = Some("SELECT id FROM jobs WHERE pg_try_advisory_lock(id)".into());
            scene.postgres.backends.push(worker);
        }
        scene.second();
    }
    assert!(scene.opened.is_empty());
}

#[test]
fn an_allowed_lock_may_be_spun_on() {
    let mut scene = Scene::new(|settings| {
        settings.advisory_locks = vec![NamedLock {
            key: LockKey::Big(42),
            name: "leader".into(),
            allow: true,
        }];
    });
    scene.try_every(&[1, 2], 1.0, Some("42"), 30.0);
    assert!(scene.opened.is_empty());
}

/// A pool of two servers; `clients` by when they made their last request.
fn behind_pooler(scene: &mut Scene, clients: &[(i32, f64)]) {
    let server = |pid: i32| ServerSocket {
        database: "app".into(),
        user: "app".into(),
        remote_pid: pid,
        addr: "10.0.0.1".into(),
        port: 5432,
        ..ServerSocket::default()
    };
    let now = scene.t + 0.3;
    let client = |(id, at): &(i32, f64)| ClientSocket {
        database: "app".into(),
        user: "app".into(),
        id: Some(id.to_string()),
        request_age: Some(now - at),
        application_name: Some("gateway".into()),
        ..ClientSocket::default()
    };
    scene.pooler = Some(PgbouncerReport {
        pooler: "pooler-1".into(),
        target: "main".into(),
        pools: vec![Pool {
            database: "app".into(),
            user: "app".into(),
            pool_mode: "transaction".into(),
            ..Pool::default()
        }],
        servers: [1, 2, HOLDER].map(server).to_vec(),
        clients: Some(clients.iter().map(client).collect()),
        ..PgbouncerReport::default()
    });
}

fn pooled(settings: &mut Settings) {
    settings.poolers = vec![Pooler {
        name: "pooler-1".into(),
        target: "main".into(),
    }];
}

/// Every two seconds another of `turns` tries, on either server.
fn take_turns(scene: &mut Scene, turns: &[i32], bystanders: &[(i32, f64)]) {
    let mut last: Vec<(i32, f64)> = turns.iter().map(|id| (*id, START - 100.0)).collect();
    for n in 0..40_usize {
        let turn = n / 2 % turns.len();
        let at = scene.t - 0.2 - (n % 2) as f64;
        last[turn].1 = at;
        let server = 1 + i32::try_from(n / 2 % 2).unwrap();
        scene.postgres.backends.truncate(1);
        scene.postgres.backends.push(trying(server, at, Some("42")));
        let mut clients = last.clone();
        clients.extend(bystanders);
        behind_pooler(scene, &clients);
        scene.second();
    }
}

#[test]
fn clients_of_a_pool_are_told_apart_by_their_requests() {
    let mut scene = Scene::new(pooled);
    take_turns(&mut scene, &[10, 11, 12, 13, 14, 15], &[]);
    assert_eq!(scene.opened.len(), 1);
    assert_eq!(scene.spinners(), 6);
    let open = scene.engine.snapshot().open;
    let spin = open.iter().find(|i| i.kind == Kind::TryLockSpin).unwrap();
    assert!(
        spin.summary.starts_with("6 clients spin"),
        "{}",
        spin.summary
    );
}

#[test]
fn a_server_that_did_not_answer_for_a_while_ends_no_spin() {
    let mut scene = Scene::new(pooled);
    let clients = [10, 11, 12, 13, 14, 15];
    take_turns(&mut scene, &clients, &[]);
    assert_eq!(scene.opened.len(), 1);
    for _ in 0..20 {
        let report = PostgresReport {
            target: "main".into(),
            error: Some(FailureReason::Timeout),
            ..PostgresReport::default()
        };
        let report = Report::Postgres(report);
        scene.engine.apply(Sample { t: scene.t, report });
        scene.t += 1.0;
    }
    take_turns(&mut scene, &clients, &[]);
    assert!(scene.resolved.is_empty(), "{:?}", scene.resolved);
    assert_eq!(scene.opened.len(), 1);
}

/// It is seen on two servers, and others of its application use the pool.
#[test]
fn one_polite_client_of_a_busy_pool_is_no_spin() {
    let mut scene = Scene::new(pooled);
    let busy: Vec<(i32, f64)> = (20..40).map(|id| (id, START + f64::from(id))).collect();
    take_turns(&mut scene, &[10], &busy);
    assert!(scene.opened.is_empty());
}

#[test]
fn calls_in_a_hurry_betray_several_behind_a_pooler() {
    let mut scene = Scene::new(pooled);
    for n in 0..30_u32 {
        let at = scene.t - 0.2;
        scene.postgres.backends.truncate(1);
        scene.postgres.backends.push(trying(1, at, Some("42")));
        scene.postgres.statements = if n % 5 == 0 {
            vec![StatementCalls {
                query_id: 77,
                calls: 1_000 + u64::from(n) * 12,
            }]
        } else {
            Vec::new()
        };
        // All made their last request in the same second.
        behind_pooler(&mut scene, &[(10, at), (11, at), (12, at)]);
        scene.second();
    }
    assert_eq!(scene.opened.len(), 1);
    let open = scene.engine.snapshot().open;
    let spin = open.iter().find(|i| i.kind == Kind::TryLockSpin).unwrap();
    let told = spin.evidence.iter().any(|e| e.contains("12 calls/s"));
    assert!(told, "{:?}", spin.evidence);
}
