//! The verdicts on advisory locks, told by made-up samples: what the engine
//! must say, and what it must never say, poll by poll.

use snowpit::engine::incident::{Event, Kind};
use snowpit::engine::locks::key::LockKey;
use snowpit::engine::locks::{AdvisoryLock, Verdict};
use snowpit::engine::settings::{NamedLock, Pooler};
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{
    Backend, ClientSocket, Lock, LockCall, LockCount, PgbouncerReport, Pool, PostgresReport,
    PreparedTransaction, Report, Sample, Server, ServerSocket,
};

const KEY: i64 = 42;
const START: f64 = 1_700_000_000.0;
const PID: i32 = 4711;

/// A server and its pooler, polled once a second, the pooler half a second
/// after the server.
struct Scene {
    engine: Engine,
    t: f64,
    postgres: PostgresReport,
    pooler: PgbouncerReport,
    events: Vec<(Event, Kind)>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            targets: vec!["main".into()],
            poolers: vec![Pooler {
                name: "pooler-1".into(),
                target: "main".into(),
            }],
            poolers_complete: true,
            ..Settings::default()
        };
        change(&mut settings);
        let postgres = PostgresReport {
            target: "main".into(),
            backends: vec![holder()],
            ..PostgresReport::default()
        };
        let pooler = PgbouncerReport {
            pooler: "pooler-1".into(),
            target: "main".into(),
            pools: vec![Pool {
                database: "app".into(),
                user: "app".into(),
                pool_mode: "transaction".into(),
                ..Pool::default()
            }],
            servers: vec![server("")],
            clients: Some(Vec::new()),
            ..PgbouncerReport::default()
        };
        let mut scene = Self {
            engine: Engine::new(settings),
            t: START,
            postgres,
            pooler,
            events: Vec::new(),
        };
        // Both sides are known before the lock is taken.
        scene.second();
        scene.postgres.locks = vec![lock("5/0")];
        scene
    }

    fn apply(&mut self, at: f64, report: Report) {
        let effects = self.engine.apply(Sample { t: at, report });
        let told = effects.iter().map(|e| (e.event, e.incident.kind));
        self.events.extend(told);
    }

    fn poll_postgres(&mut self) {
        self.apply(self.t, Report::Postgres(self.postgres.clone()));
    }

    fn poll_pooler(&mut self) {
        self.apply(self.t + 0.5, Report::Pgbouncer(self.pooler.clone()));
    }

    /// One poll of each.
    fn second(&mut self) {
        self.poll_postgres();
        self.poll_pooler();
        self.t += 1.0;
    }

    fn seconds(&mut self, n: u32) {
        for _ in 0..n {
            self.second();
        }
    }

    fn view(&self) -> AdvisoryLock {
        let snapshot = self.engine.snapshot();
        snapshot.targets["main"].locks.advisory_locks[0].clone()
    }

    fn verdict(&self) -> Verdict {
        self.view().verdict
    }

    fn told(&self, event: Event) -> usize {
        let orphan = (event, Kind::OrphanedAdvisoryLock);
        self.events.iter().filter(|told| **told == orphan).count()
    }

    /// The holder in the middle of a transaction of the client at `ptr`.
    fn in_transaction(&mut self, ptr: &str) {
        self.postgres.locks = vec![lock("5/33")];
        self.postgres.backends[0].state = Some("idle in transaction".into());
        self.pooler.servers = vec![server(ptr)];
    }

    fn idle(&mut self) {
        self.postgres.locks = vec![lock("5/0")];
        self.postgres.backends = vec![holder()];
        self.pooler.servers = vec![server("")];
    }
}

fn holder() -> Backend {
    Backend {
        pid: PID,
        backend_start: Some(START - 600.0),
        database: Some("app".into()),
        user: Some("app".into()),
        application: Some("gateway".into()),
        client: Some("10.1.0.2".into()),
        client_port: Some(52_352),
        state: Some("idle".into()),
        query_start: Some(START + 0.6),
        state_change: Some(START + 0.6),
        query: Some("SELECT pg_advisory_lock($1)".into()),
        ..Backend::default()
    }
}

fn call(key: &str) -> LockCall {
    LockCall {
        key: Some(key.into()),
        ..LockCall::default()
    }
}

fn lock(virtualtransaction: &str) -> Lock {
    Lock {
        pid: Some(PID),
        locktype: "advisory".into(),
        database: Some("app".into()),
        mode: "ExclusiveLock".into(),
        granted: true,
        virtualtransaction: Some(virtualtransaction.into()),
        classid: Some(0),
        objid: Some(42),
        objsubid: Some(1),
        ..Lock::default()
    }
}

fn server(link: &str) -> ServerSocket {
    ServerSocket {
        database: "app".into(),
        user: "app".into(),
        state: if link.is_empty() { "idle" } else { "active" }.into(),
        addr: "10.0.0.1".into(),
        port: 5432,
        remote_pid: PID,
        local_addr: "10.1.0.2".into(),
        local_port: 52_352,
        ptr: "0x5".into(),
        link: link.into(),
        connect_time: "2023-11-14 22:00:00 UTC".into(),
        request_time: "2023-11-14 22:13:20 UTC".into(),
        application_name: Some("gateway".into()),
        ..ServerSocket::default()
    }
}

fn client(ptr: &str, connect_time: &str, request_time: &str, request_age: f64) -> ClientSocket {
    ClientSocket {
        database: "app".into(),
        user: "app".into(),
        state: "active".into(),
        ptr: ptr.into(),
        connect_time: connect_time.into(),
        request_time: request_time.into(),
        request_age: Some(request_age),
        application_name: Some("gateway".into()),
        ..ClientSocket::default()
    }
}

/// A restart, or a standby in its place: no backend of the old server is left.
#[test]
fn what_another_postmaster_does_not_have_is_over_at_its_first_look() {
    let started = |started_at| {
        Some(Server {
            started_at: Some(started_at),
            ..Server::default()
        })
    };
    let orphan = || {
        let mut scene = Scene::new(|_| {});
        scene.postgres.server = started(START - 5000.0);
        scene.seconds(5);
        assert_eq!(scene.told(Event::Opened), 1);
        scene.postgres.locks.clear();
        scene.postgres.backends.clear();
        scene
    };
    let mut same = orphan();
    same.poll_postgres();
    assert_eq!(same.told(Event::Resolved), 0, "one look may have missed it");
    let mut other = orphan();
    other.postgres.server = started(START - 10.0);
    other.poll_postgres();
    assert_eq!(other.told(Event::Resolved), 1);
    assert!(
        other.engine.snapshot().targets["main"]
            .locks
            .advisory_locks
            .is_empty()
    );
}

#[test]
fn a_left_lock_without_its_client_is_orphaned_after_two_polls() {
    let mut scene = Scene::new(|_| {});
    scene.second();
    assert_eq!(
        scene.verdict(),
        Verdict::Unknown,
        "one pair of polls accuses nobody"
    );
    assert_eq!(scene.told(Event::Opened), 0);
    scene.second();
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    assert_eq!(scene.told(Event::Opened), 1);
    let view = scene.view();
    assert_eq!(view.action, "RECONNECT app;  on the console of pooler-1");
    assert_eq!(view.last_application.as_deref(), Some("gateway"));
    let open = scene.engine.snapshot().open;
    assert_eq!(open[0].subject["key"], "42");
    assert_eq!(open[0].subject["database"], "app");
    assert_eq!(
        open[0].actions,
        [
            "RECONNECT app;  on the console of pooler-1",
            "SELECT pg_terminate_backend(4711);"
        ]
    );
    scene.seconds(5);
    assert_eq!(scene.told(Event::Opened), 1, "it is told once");
}

#[test]
fn an_orphan_is_resolved_when_the_lock_is_gone_in_two_polls() {
    let mut scene = Scene::new(|_| {});
    scene.seconds(3);
    scene.postgres.locks.clear();
    scene.second();
    assert_eq!(
        scene.told(Event::Resolved),
        0,
        "one look may have missed it"
    );
    scene.second();
    assert_eq!(scene.told(Event::Resolved), 1);
    assert!(scene.engine.snapshot().open.is_empty());
}

#[test]
fn a_linked_client_in_a_transaction_owns_the_lock() {
    let mut scene = Scene::new(|_| {});
    scene.in_transaction("0xc");
    scene.second();
    assert_eq!(scene.verdict(), Verdict::Owned);
    scene.seconds(5);
    assert_eq!(scene.verdict(), Verdict::Owned);
    assert!(scene.events.is_empty());
}

#[test]
fn a_session_pool_owns_its_locks() {
    let mut scene = Scene::new(|_| {});
    scene.pooler.pools[0].pool_mode = "session".into();
    scene.seconds(5);
    assert_eq!(scene.verdict(), Verdict::Owned);
}

#[test]
fn a_direct_session_is_owned_only_when_every_pooler_is_polled() {
    for (complete, expected) in [(true, Verdict::Owned), (false, Verdict::Unknown)] {
        let mut scene = Scene::new(|settings| settings.poolers_complete = complete);
        scene.pooler.servers.clear();
        scene.postgres.backends[0].client = Some("10.9.9.9".into());
        scene.seconds(100);
        assert_eq!(scene.verdict(), expected);
        assert!(scene.events.is_empty());
    }
}

#[test]
fn a_quiet_client_makes_it_stranded_and_its_end_orphaned() {
    let mut scene = Scene::new(|_| {});
    let quiet = |age| {
        client(
            "0xc",
            "2023-11-14 22:13:19 UTC",
            "2023-11-14 22:13:20 UTC",
            age,
        )
    };
    for n in 0..6 {
        scene.pooler.clients = Some(vec![quiet(1.0 + f64::from(n))]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(
        scene.events.is_empty(),
        "nobody is accused while the client is there"
    );
    scene.pooler.clients = Some(Vec::new());
    scene.seconds(2);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    assert_eq!(scene.told(Event::Opened), 1);
}

/// One client, every second another request; `age` is the server's.
fn works_on(scene: &mut Scene, application: &str, server_age: impl Fn(u32) -> f64) {
    for n in 0..20 {
        let request = format!("2023-11-14 22:13:{:02} UTC", 20 + n);
        let age = if n == 0 { 1.0 } else { 0.0 };
        let mut busy = client("0xc", "2023-11-14 22:13:19 UTC", &request, age);
        busy.application_name = Some(application.into());
        scene.pooler.clients = Some(vec![busy]);
        scene.pooler.servers[0].request_age = Some(server_age(n));
        scene.second();
    }
}

#[test]
fn the_client_that_took_it_and_works_on_this_server_is_still_there() {
    let mut scene = Scene::new(|_| {});
    works_on(&mut scene, "gateway", |_| 0.0);
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

#[test]
fn a_single_spinning_peer_does_not_hide_an_orphan() {
    let mut scene = Scene::new(|_| {});
    works_on(&mut scene, "gateway", f64::from);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

/// The pooler is read after the server: it may already have served another.
#[test]
fn a_bystander_served_between_the_two_reads_does_not_hide_an_orphan() {
    let mut scene = Scene::new(|_| {});
    scene.pooler.servers[0].application_name = Some("bystander".into());
    works_on(&mut scene, "bystander", |_| 0.0);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

#[test]
fn a_single_bystander_on_the_same_server_does_not_hide_an_orphan() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.backends[0].query = Some("SELECT $1".into());
    works_on(&mut scene, "bystander", |_| 0.0);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

#[test]
fn busy_bystanders_do_not_hide_an_orphan() {
    let mut scene = Scene::new(|_| {});
    for n in 0..5 {
        let request = format!("2023-11-14 22:13:{:02} UTC", 21 + n);
        let spinners =
            (0..24).map(|i| client(&format!("0xf{i}"), "2023-11-14 22:13:19 UTC", &request, 0.0));
        scene.pooler.clients = Some(spinners.collect());
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    assert_eq!(scene.told(Event::Opened), 1);
}

/// Application pools open many connections at start and leave them idle.
#[test]
fn a_crowd_of_idle_connections_does_not_hide_an_orphan_for_long() {
    let mut scene = Scene::new(|_| {});
    for n in 0..25 {
        let idle = (0..10).map(|i| {
            let time = "2023-11-14 22:13:20 UTC";
            client(&format!("0xf{i}"), time, time, 1.0 + f64::from(n))
        });
        scene.pooler.clients = Some(idle.collect());
        scene.second();
        if n == 10 {
            assert_eq!(scene.verdict(), Verdict::Stranded);
        }
    }
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

/// The server is used by others after its lock was taken, so the statement that
/// took it is not seen, but its client sits there, quiet.
#[test]
fn a_quiet_client_behind_a_busy_bystander_is_not_gone() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.backends[0].query = Some("SELECT $1".into());
    for n in 0..12 {
        let at = |second| format!("2023-11-14 22:13:{second:02} UTC");
        let quiet = client("0xc", &at(19), &at(20), 1.0 + f64::from(n));
        let busy = client("0xb", &at(10), &at(21 + n), 0.0);
        scene.pooler.clients = Some(vec![quiet, busy]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
    scene.pooler.clients = Some(Vec::new());
    scene.seconds(2);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

#[test]
fn a_quiet_client_is_found_among_spinning_ones() {
    let mut scene = Scene::new(|_| {});
    for n in 0..6 {
        let at = |second| format!("2023-11-14 22:13:{second:02} UTC");
        let spin = if n == 0 { 1.0 } else { 0.0 };
        let mut clients: Vec<_> = (0..24)
            .map(|i| client(&format!("0xf{i}"), &at(19), &at(20 + n), spin))
            .collect();
        clients.push(client("0xc", &at(19), &at(20), 1.0 + f64::from(n)));
        scene.pooler.clients = Some(clients);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

/// The server of a busy pool is never seen idle before others have had it.
#[test]
fn passing_clients_of_a_busy_pool_do_not_hide_an_orphan() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.backends[0].query = Some("UPDATE t SET a = $1".into());
    let bystanders = ["0xa", "0xb"].map(|ptr| {
        let time = "2023-11-14 22:13:00 UTC";
        client(ptr, time, time, 20.0)
    });
    scene.pooler.clients = Some(bystanders.to_vec());
    for ptr in ["0xa", "0xb"] {
        scene.in_transaction(ptr);
        scene.postgres.backends[0].query = Some("UPDATE t SET a = $1".into());
        scene.second();
    }
    scene.idle();
    scene.postgres.backends[0].query = Some("COMMIT".into());
    scene.seconds(4);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

#[test]
fn a_lock_that_outlives_its_takers_transaction_is_carried_by_the_next() {
    let mut scene = Scene::new(|_| {});
    scene.in_transaction("0xc");
    let taker = client(
        "0xc",
        "2023-11-14 22:13:19 UTC",
        "2023-11-14 22:13:20 UTC",
        0.0,
    );
    scene.pooler.clients = Some(vec![taker]);
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Owned);
    scene.in_transaction("0xd");
    scene.postgres.backends[0].query = Some("UPDATE t SET a = $1".into());
    scene.pooler.clients = Some(Vec::new());
    scene.seconds(4);
    assert_eq!(scene.verdict(), Verdict::Carried);
    scene.idle();
    scene.postgres.backends[0].query = Some("COMMIT".into());
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

/// Keys are redacted: a statement that takes a lock may be about another one.
#[test]
fn another_lock_taken_on_the_server_does_not_clear_a_quiet_client() {
    let mut scene = Scene::new(|_| {});
    let time = "2023-11-14 22:13:20 UTC";
    for n in 0..14 {
        if n == 5 {
            // Somebody came, took a lock of their own here, and is gone.
            let lately = Some(scene.t - 0.4);
            scene.postgres.backends[0].query_start = lately;
            scene.postgres.backends[0].state_change = lately;
        }
        let quiet = client("0xc", time, time, 1.0 + f64::from(n));
        scene.pooler.clients = Some(vec![quiet]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

#[test]
fn weak_evidence_against_one_does_not_clear_another() {
    let mut scene = Scene::new(|_| {});
    let time = "2023-11-14 22:13:20 UTC";
    scene.in_transaction("0xb");
    scene.postgres.backends[0].query = Some("UPDATE t SET a = $1".into());
    scene.pooler.clients = Some(vec![client("0xb", time, time, 60.0)]);
    scene.seconds(3);
    scene.idle();
    let lately = Some(scene.t - 0.4);
    scene.postgres.backends[0].query_start = lately;
    scene.postgres.backends[0].state_change = lately;
    scene.postgres.backends[0].lock_calls = vec![call("42")];
    for n in 0..25 {
        let taker = client("0xc", time, "2023-11-14 22:13:24 UTC", 1.0 + f64::from(n));
        let other = client("0xb", time, time, 63.0 + f64::from(n));
        scene.pooler.clients = Some(vec![taker, other]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

/// Two clients took two locks on one server between two polls; one is gone, the
/// other sits there quietly. The statement that is still seen is of the one that
/// is gone.
#[test]
fn the_statement_of_another_key_accuses_nobody() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.backends[0].lock_calls = vec![call("43")];
    scene.postgres.backends[0].application = Some("other".into());
    let time = "2023-11-14 22:13:20 UTC";
    for n in 0..12 {
        scene.pooler.clients = Some(vec![client("0xc", time, time, 1.0 + f64::from(n))]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    scene.pooler.clients = Some(Vec::new());
    scene.seconds(2);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

/// The statement that names the key is overlaid before the pooler is read.
#[test]
fn a_statement_that_was_seen_once_is_remembered() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.backends[0].lock_calls = vec![call("42")];
    let time = "2023-11-14 22:13:20 UTC";
    for n in 0..40 {
        let quiet = client("0xc", time, time, 1.0 + f64::from(n));
        scene.pooler.clients = Some(vec![quiet]);
        if n > 0 {
            scene.postgres.backends[0].query = Some("SELECT $1".into());
            scene.postgres.backends[0].lock_calls.clear();
        }
        scene.poll_postgres();
        if n > 0 {
            scene.poll_pooler();
        }
        scene.t += 1.0;
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
}

/// A transaction as `pg_stat_activity` shows it, with its statement.
fn transact(scene: &mut Scene, ptr: &str, began: f64, calls: Vec<LockCall>) {
    scene.in_transaction(ptr);
    scene.postgres.backends[0].xact_start = Some(began);
    scene.postgres.backends[0].lock_calls = calls;
}

/// Its commit lies long after the lock appeared.
#[test]
fn a_client_that_took_it_in_a_long_transaction_is_known_by_its_commit() {
    let mut scene = Scene::new(|_| {});
    let at = |second| format!("2023-11-14 22:13:{second:02} UTC");
    transact(&mut scene, "", START + 0.6, vec![call("42")]);
    // The pooler is never read while it has the server.
    for _ in 0..3 {
        scene.poll_postgres();
        scene.t += 1.0;
    }
    scene.idle();
    scene.postgres.backends[0].query = Some("SELECT $1".into());
    for n in 0..8 {
        let quiet = client("0xc", &at(19), &at(23), 1.0 + f64::from(n));
        scene.pooler.clients = Some(vec![quiet]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    scene.pooler.clients = Some(Vec::new());
    scene.seconds(2);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

/// Another client takes a lock of its own in a transaction on the same server,
/// and leaves. The one that took ours works on elsewhere.
#[test]
fn a_lock_of_another_key_does_not_overwrite_who_took_this_one() {
    let mut scene = Scene::new(|_| {});
    let at = |second| format!("2023-11-14 22:13:{second:02} UTC");
    let taker = |second| client("0xc", &at(19), &at(second), 0.0);
    let other = client("0xd", &at(19), &at(23), 0.0);
    transact(&mut scene, "0xc", START + 0.6, vec![call("42")]);
    scene.pooler.clients = Some(vec![taker(21), other.clone()]);
    scene.seconds(3);
    transact(&mut scene, "0xd", START + 3.6, vec![call("43")]);
    scene.seconds(3);
    scene.idle();
    scene.postgres.backends[0].lock_calls = vec![call("43")];
    for n in 0..20 {
        scene.pooler.clients = Some(vec![taker(30 + n)]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

/// A server connection that was opened since the pooler was read.
#[test]
fn a_backend_newer_than_the_look_at_its_pooler_is_no_direct_session() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.backends[0].pid = 4712;
    scene.postgres.locks[0].pid = Some(4712);
    scene.poll_postgres();
    assert_eq!(scene.verdict(), Verdict::Unknown);
    scene.poll_pooler();
    assert_eq!(scene.verdict(), Verdict::Owned);
}

/// The server was read while the taker had it, the pooler when the taker was
/// gone and somebody else had it, who stays for ever.
#[test]
fn a_client_that_came_between_the_two_reads_is_not_the_taker() {
    let mut scene = Scene::new(|_| {});
    scene.in_transaction("0xb");
    let somebody = |second| {
        let request = format!("2023-11-14 22:13:{second:02} UTC");
        client("0xb", "2023-11-14 22:00:00 UTC", &request, 0.0)
    };
    scene.pooler.clients = Some(vec![somebody(21)]);
    scene.second();
    scene.idle();
    scene.postgres.backends[0].query = Some("COMMIT".into());
    for n in 0..6 {
        scene.pooler.clients = Some(vec![somebody(22 + n)]);
        scene.second();
    }
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

#[test]
fn a_reused_pointer_is_another_client() {
    let mut scene = Scene::new(|_| {});
    scene.in_transaction("0xc");
    let first = client(
        "0xc",
        "2023-11-14 22:13:19 UTC",
        "2023-11-14 22:13:20 UTC",
        0.0,
    );
    scene.pooler.clients = Some(vec![first]);
    scene.seconds(3);
    scene.idle();
    scene.postgres.backends[0].query = Some("COMMIT".into());
    // A new client sits at the same address of memory, quiet since long ago by
    // its own request, connected after the first was gone.
    let second = client(
        "0xc",
        "2023-11-14 22:13:24 UTC",
        "2023-11-14 22:13:24 UTC",
        60.0,
    );
    scene.pooler.clients = Some(vec![second]);
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
}

#[test]
fn the_client_seen_in_the_transaction_strands_its_lock() {
    let mut scene = Scene::new(|_| {});
    scene.in_transaction("0xc");
    let owner = client(
        "0xc",
        "2023-11-14 22:13:19 UTC",
        "2023-11-14 22:13:20 UTC",
        0.0,
    );
    scene.pooler.clients = Some(vec![owner.clone()]);
    scene.seconds(3);
    scene.idle();
    let mut busy = owner;
    busy.request_time = "2023-11-14 22:14:00 UTC".into();
    scene.pooler.clients = Some(vec![busy]);
    scene.seconds(10);
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

#[test]
fn a_server_that_serves_another_client_carries_the_lock() {
    let mut scene = Scene::new(|_| {});
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    scene.in_transaction("0xd");
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Carried);
    assert_eq!(scene.told(Event::Resolved), 0, "it is still nobody's");
    scene.idle();
    scene.postgres.backends[0].query = Some("COMMIT".into());
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    assert_eq!(scene.told(Event::Opened), 1);
}

#[test]
fn a_pooler_that_is_not_polled_allows_no_verdict() {
    let mut scene = Scene::new(|settings| {
        settings.poolers.clear();
        settings.poolers_complete = false;
    });
    scene.postgres.backends[0].client = Some("10.9.9.9".into());
    for _ in 0..200 {
        scene.poll_postgres();
        scene.t += 1.0;
    }
    assert_eq!(scene.verdict(), Verdict::Unknown);
    assert!(scene.events.is_empty());
}

#[test]
fn an_old_idle_holder_from_a_poolers_network_is_suspect() {
    let mut scene = Scene::new(|settings| {
        settings.poolers.clear();
        settings.poolers_complete = false;
        settings.pooler_addresses = vec!["10.1.0.0/24".parse().unwrap()];
    });
    let after = scene.engine.snapshot();
    assert_eq!(after.at, START + 0.5);
    for n in 0..70 {
        scene.poll_postgres();
        scene.t += 1.0;
        if n == 50 {
            assert_eq!(scene.verdict(), Verdict::Unknown);
        }
    }
    assert_eq!(scene.verdict(), Verdict::Suspect);
    assert_eq!(scene.view().action, "SELECT pg_terminate_backend(4711);");
    assert!(scene.events.is_empty());
}

#[test]
fn a_prepared_transaction_is_no_orphan() {
    let mut scene = Scene::new(|_| {});
    let mut held = lock("-1/771");
    held.pid = None;
    scene.postgres.locks = vec![held];
    scene.postgres.prepared = vec![PreparedTransaction {
        transaction: "771".into(),
        gid: "payment-9".into(),
        ..PreparedTransaction::default()
    }];
    scene.seconds(5);
    assert_eq!(scene.verdict(), Verdict::Prepared);
    assert_eq!(scene.view().action, "ROLLBACK PREPARED 'payment-9';");
    assert!(scene.events.is_empty());
}

#[test]
fn an_allowed_lock_never_opens_an_incident() {
    let mut scene = Scene::new(|settings| {
        settings.advisory_locks = vec![NamedLock {
            key: LockKey::Big(KEY),
            name: "leader".into(),
            allow: true,
        }];
    });
    scene.seconds(10);
    assert_eq!(scene.view().names, ["leader"]);
    assert!(scene.events.is_empty());
}

#[test]
fn a_reused_pid_is_another_backend() {
    let mut scene = Scene::new(|_| {});
    scene.seconds(3);
    assert_eq!(scene.told(Event::Opened), 1);
    scene.postgres.backends[0].backend_start = Some(START + 3.5);
    scene.in_transaction("0xd");
    scene.postgres.backends[0].backend_start = Some(START + 3.5);
    scene.second();
    assert_eq!(scene.verdict(), Verdict::Owned);
    scene.second();
    assert_eq!(scene.told(Event::Resolved), 1);
}

#[test]
fn a_silent_pooler_gives_no_new_orphan_and_clears_none() {
    let mut scene = Scene::new(|_| {});
    scene.second();
    for _ in 0..60 {
        scene.poll_postgres();
        scene.t += 1.0;
    }
    assert_ne!(scene.verdict(), Verdict::Orphaned);
    assert!(scene.events.is_empty());

    let mut scene = Scene::new(|_| {});
    scene.seconds(3);
    for _ in 0..60 {
        scene.poll_postgres();
        scene.t += 1.0;
    }
    assert_eq!(scene.verdict(), Verdict::Unknown);
    assert_eq!(scene.told(Event::Resolved), 0);
}

#[test]
fn without_the_privilege_there_is_no_verdict() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.backends[0] = Backend {
        pid: PID,
        query: Some("<insufficient privilege>".into()),
        ..Backend::default()
    };
    scene.seconds(10);
    assert_eq!(scene.verdict(), Verdict::Unknown);
    assert!(scene.events.is_empty());
}

#[test]
fn clients_are_asked_for_while_a_verdict_needs_them() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.locks.clear();
    scene.pooler.lists.used_clients = 5_000;
    scene.second();
    assert!(scene.engine.snapshot().clients_wanted.is_empty());
    scene.postgres.locks = vec![lock("5/0")];
    scene.pooler.clients = None;
    scene.second();
    assert!(scene.engine.snapshot().clients_wanted.contains("pooler-1"));
    scene.pooler.clients = Some(Vec::new());
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    assert!(
        scene.engine.snapshot().clients_wanted.is_empty(),
        "the verdict stands; a large pooler is left in peace"
    );
}

#[test]
fn a_lock_table_that_was_cut_resolves_nothing() {
    let mut scene = Scene::new(|_| {});
    scene.seconds(3);
    assert_eq!(scene.told(Event::Opened), 1);
    let whole = std::mem::take(&mut scene.postgres.locks);
    scene.postgres.truncated = true;
    scene.seconds(10);
    assert_eq!(scene.told(Event::Resolved), 0, "nobody saw that it is gone");
    scene.postgres.locks = whole;
    scene.seconds(3);
    assert_eq!(scene.told(Event::Opened), 1, "it is the same lock");
    // Only the sessions were cut: the counts say that no advisory lock is held.
    scene.postgres.locks.clear();
    scene.postgres.lock_counts = vec![LockCount {
        locktype: "relation".into(),
        mode: "AccessShareLock".into(),
        granted: true,
        count: 7,
    }];
    scene.seconds(2);
    assert_eq!(scene.told(Event::Resolved), 1);
}

#[test]
fn a_clock_that_is_set_back_hides_no_orphan() {
    let mut scene = Scene::new(|_| {});
    scene.seconds(3);
    scene.t -= 3_600.0;
    scene.postgres.locks.clear();
    scene.seconds(3);
    assert_eq!(scene.told(Event::Resolved), 1);

    let mut scene = Scene::new(|_| {});
    scene.second();
    scene.t -= 3_600.0;
    scene.seconds(4);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    assert_eq!(scene.told(Event::Opened), 1);
}

#[test]
fn a_privilege_that_is_lost_resolves_nothing() {
    let mut scene = Scene::new(|_| {});
    scene.seconds(3);
    let seen = scene.postgres.backends[0].clone();
    scene.postgres.backends[0] = Backend {
        pid: PID,
        query: Some("<insufficient privilege>".into()),
        ..Backend::default()
    };
    scene.seconds(10);
    assert_eq!(scene.told(Event::Resolved), 0);
    scene.postgres.backends[0] = seen;
    scene.seconds(3);
    assert_eq!(scene.told(Event::Opened), 1);
}

#[test]
fn the_taker_is_found_among_hundreds_of_busy_clients() {
    let mut scene = Scene::new(|_| {});
    for n in 0..8 {
        let request = format!("2023-11-14 22:13:{:02} UTC", 21 + n);
        let mut clients: Vec<_> = (0..500)
            .map(|i| client(&format!("0xf{i}"), "2023-11-14 22:13:19 UTC", &request, 0.0))
            .collect();
        let quiet = "2023-11-14 22:13:20 UTC";
        clients.push(client("0xc", quiet, quiet, 1.0 + f64::from(n)));
        scene.pooler.clients = Some(clients);
        scene.second();
        eprintln!("{n} {:?} {}", scene.verdict(), scene.view().reason);
    }
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

#[test]
fn a_client_list_that_was_cut_accuses_nobody() {
    let mut scene = Scene::new(|_| {});
    scene.pooler.truncated = true;
    scene.seconds(10);
    assert_eq!(scene.verdict(), Verdict::Unknown);
    assert!(scene.events.is_empty());
}

#[test]
fn a_server_list_that_was_cut_makes_nobody_an_owner() {
    let mut scene = Scene::new(|_| {});
    scene.pooler.truncated = true;
    scene.pooler.servers.clear();
    scene.seconds(10);
    assert_eq!(scene.verdict(), Verdict::Unknown);
}

#[test]
fn a_database_whose_name_is_learnt_late_has_the_same_lock() {
    let mut scene = Scene::new(|_| {});
    let rename = |scene: &mut Scene, name: &str| {
        scene.postgres.locks[0].database = Some(name.into());
        scene.postgres.backends[0].database = Some(name.into());
    };
    // Behind NAT, where the ports say nothing.
    scene.postgres.backends[0].client_port = Some(1);
    rename(&mut scene, "16385");
    scene.seconds(3);
    assert_eq!(scene.verdict(), Verdict::Orphaned);
    rename(&mut scene, "app");
    scene.seconds(3);
    assert_eq!(scene.told(Event::Opened), 1);
    assert_eq!(scene.told(Event::Resolved), 0);
}

#[test]
fn a_client_whose_age_cannot_be_told_is_not_taken_for_gone() {
    let mut scene = Scene::new(|_| {});
    let quiet = "2023-11-14 22:13:20 UTC";
    let mut taker = client("0xc", quiet, quiet, 0.0);
    taker.request_age = None;
    scene.pooler.clients = Some(vec![taker]);
    scene.seconds(6);
    assert_eq!(scene.verdict(), Verdict::Stranded);
    assert!(scene.events.is_empty());
}

#[test]
fn who_spins_on_a_try_lock_is_counted_without_its_holder() {
    let mut scene = Scene::new(|_| {});
    scene.postgres.server = Some(Server {
        clock: Some(START),
        ..Server::default()
    });
    let session = |pid, state: &str, age: f64| Backend {
        pid,
        state: Some(state.into()),
        query_start: Some(START - age),
        state_change: Some(START - age),
        query: Some("SELECT pg_try_advisory_lock($1)".into()),
        ..holder()
    };
    scene.postgres.backends = vec![
        session(PID, "idle", 1.0),
        session(2, "active", 0.0),
        session(3, "idle in transaction", 9.0),
        session(4, "idle", 600.0),
    ];
    scene.second();
    assert_eq!(scene.view().spinners, 2);
}
