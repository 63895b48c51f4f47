//! What must hold of the engine whatever it is fed: it never panics, never
//! says the same thing twice, and stays small and quick.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use snowpit::engine::incident::Event;
use snowpit::engine::settings::Pooler;
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{
    Backend, ClientSocket, FailureReason, Group, Lists, Lock, PgbouncerReport, Pool, PoolDatabase,
    PoolStats, PoolerConfig, PostgresReport, PreparedTransaction, Report, RouteTraffic, Sample,
    Server, ServerSocket, TrafficReport,
};

/// Times as they should be, and as nobody should write them.
fn time() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0..40_i32).prop_map(|n| 1_700_000_000.0 + f64::from(n) * 0.5),
        1 => any::<f64>(),
        1 => prop_oneof![
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            Just(f64::MAX),
            Just(f64::MIN),
            Just(0.0),
        ],
    ]
}

/// Few words, so that the parts of a report meet each other.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop_oneof![Just("app"), Just("idle"), Just("active"), Just(""), Just("0x1"), Just("0x2"),
                         Just("transaction"), Just("session"), Just("7"), Just("1/0"), Just("1/5"), Just("-1/7"),
                         Just("10.0.0.1"), Just("idle in transaction"), Just("CREATE INDEX CONCURRENTLY i ON t (n)"), Just("2026-11-21 10:55:07 UTC"), Just("SELECT pg_try_advisory_lock($1)")]
            .prop_map(str::to_owned),
        1 => ".{0,12}",
    ]
}

fn pid() -> impl Strategy<Value = i32> {
    prop_oneof![8 => 1..5_i32, 1 => any::<i32>()]
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..4_u32, 1 => any::<u32>()]
}

prop_compose! {
    fn group()(database in option::of(word()), application in option::of(word()), state in option::of(word()),
               wait in option::of(word()), route in option::of(word()), count in number(), young in option::of(number())) -> Group {
        Group { database, application, state, wait_event_type: wait, route, count, young, ..Group::default() }
    }
}

prop_compose! {
    fn backend()(pid in pid(), start in option::of(time()), names in (option::of(word()), option::of(word()), option::of(word())),
                 port in option::of(any::<i32>()), state in option::of(word()), times in (option::of(time()), option::of(time()), option::of(time())),
                 query in option::of(word()), leader in option::weighted(0.2, pid())) -> Backend {
        Backend {
            pid, backend_start: start, database: names.0, user: names.1, client: names.2, client_port: port, state,
            xact_start: times.0, query_start: times.1, state_change: times.2, query, leader_pid: leader,
            ..Backend::default()
        }
    }
}

prop_compose! {
    fn lock()(pid in option::weighted(0.9, pid()), locktype in prop_oneof![Just("advisory"), Just("relation"), Just("transactionid"), Just("virtualxid"), Just("")],
              mode in prop_oneof![Just("ExclusiveLock"), Just("ShareLock"), Just("AccessExclusiveLock"), Just("?")],
              granted in any::<bool>(), vxid in option::of(word()), key in (option::of(number()), option::of(number()), option::of(0..4_i32)),
              xid in option::of(word()), waitstart in option::of(time()), database in option::of(word())) -> Lock {
        Lock {
            pid, locktype: locktype.into(), mode: mode.into(), granted, virtualtransaction: vxid, classid: key.0, objid: key.1,
            objsubid: key.2, transactionid: xid, waitstart, database, ..Lock::default()
        }
    }
}

prop_compose! {
    fn server()(version in option::of(any::<u32>()), clock in option::of(time()), started_at in option::of(time()),
                max_connections in option::of(number()), reserved_connections in option::of(number()), in_recovery in option::of(any::<bool>())) -> Server {
        Server { version, clock, started_at, in_recovery, max_connections, reserved_connections }
    }
}

prop_compose! {
    fn postgres()(error in option::weighted(0.2, prop_oneof![Just(FailureReason::TooManyConnections), Just(FailureReason::Refused), Just(FailureReason::Timeout)]), server in option::of(server()),
                  opened in option::of(any::<u64>()), groups in vec(group(), 0..6), backends in vec(backend(), 0..8),
                  locks in vec(lock(), 0..12), truncated in any::<bool>(), prepared in vec(word(), 0..3),
                  sees in option::of(any::<bool>())) -> Report {
        Report::Postgres(PostgresReport {
            target: "main".into(), error, server, sessions_opened_total: opened, groups, backends, locks, truncated,
            prepared: prepared.into_iter().map(|transaction| PreparedTransaction { transaction, gid: "'".into(), ..Default::default() }).collect(),
            sees_all_sessions: sees,
            ..PostgresReport::default()
        })
    }
}

prop_compose! {
    fn socket()(names in (word(), word(), word(), word()), pid in pid(), port in any::<u16>(), ptr in word(), link in word(),
                id in option::of(word()), times in (word(), word()), age in option::of(time())) -> ServerSocket {
        ServerSocket {
            database: names.0, user: names.1, addr: names.2, local_addr: names.3, remote_pid: pid, local_port: port, ptr, link,
            id, connect_time: times.0, request_time: times.1, request_age: age, ..ServerSocket::default()
        }
    }
}

fn client(socket: ServerSocket) -> ClientSocket {
    ClientSocket {
        database: socket.database,
        user: socket.user,
        ptr: socket.link,
        link: socket.ptr,
        id: socket.id,
        connect_time: socket.connect_time,
        request_time: socket.request_time,
        request_age: socket.request_age,
        ..ClientSocket::default()
    }
}

prop_compose! {
    fn pgbouncer()(pooler in prop_oneof![Just("pooler-1"), Just("pooler-2")], error in option::weighted(0.1, Just(FailureReason::Refused)),
                   servers in vec(socket(), 0..6), clients in option::of(vec(socket(), 0..6)), pools in vec((word(), word(), word(), number()), 0..4),
                   databases in vec((word(), word(), any::<bool>()), 0..3), stats in vec((word(), any::<(u64, u64, u64)>()), 0..3), used in number(), flags in any::<(bool, bool, bool)>()) -> Report {
        Report::Pgbouncer(PgbouncerReport {
            pooler: pooler.into(), target: "main".into(), error, servers,
            clients: clients.map(|clients| clients.into_iter().map(client).collect()),
            pools: pools.into_iter().map(|(database, user, pool_mode, cl_waiting)| Pool { database, user, pool_mode, cl_waiting, ..Pool::default() }).collect(),
            databases: databases.into_iter().map(|(name, database, paused)| PoolDatabase { name, database, paused, ..PoolDatabase::default() }).collect(),
            stats: stats.into_iter().map(|(database, (total_xact_count, total_query_count, total_query_time))| PoolStats { database, total_xact_count, total_query_count, total_query_time, ..PoolStats::default() }).collect(),
            lists: Lists { used_clients: used, ..Lists::default() },
            config: flags.0.then(|| PoolerConfig { so_reuseport: flags.1, ..PoolerConfig::default() }),
            too_many_clients: flags.1, truncated: flags.2,
            ..PgbouncerReport::default()
        })
    }
}

prop_compose! {
    fn traffic()(service in word(), until in option::of(time()), interval in prop_oneof![4 => Just(1.0), 1 => any::<f64>()],
                 routes in vec((word(), prop_oneof![4 => 0.0..50.0f64, 1 => any::<f64>()], prop_oneof![4 => 0.0..50.0f64, 1 => any::<f64>()],
                                option::of(any::<f64>())), 0..6)) -> Report {
        Report::Traffic(TrafficReport {
            service, until, interval,
            routes: routes.into_iter().map(|(route, requests, duration_seconds, in_flight)| RouteTraffic { route, requests, duration_seconds, in_flight, ..RouteTraffic::default() }).collect(),
            ..TrafficReport::default()
        })
    }
}

fn settings() -> Settings {
    Settings {
        targets: vec!["main".into()],
        poolers: vec![Pooler {
            name: "pooler-1".into(),
            target: "main".into(),
        }],
        poolers_complete: true,
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_samples_breaks_the_engine(
        complete in any::<bool>(),
        samples in vec((time(), prop_oneof![postgres(), pgbouncer(), traffic()]), 1..24),
    ) {
        let mut engine = Engine::new(Settings { poolers_complete: complete, ..settings() });
        let mut open = BTreeSet::new();
        for (t, report) in samples {
            for effect in engine.apply(Sample { t, report }) {
                let id = effect.incident.id;
                match effect.event {
                    Event::Opened => prop_assert!(open.insert(id), "opened twice"),
                    Event::Updated => prop_assert!(open.contains(&id), "updated while closed"),
                    Event::Resolved => prop_assert!(open.remove(&id), "resolved while closed"),
                }
            }
            let snapshot = engine.snapshot();
            let told: BTreeSet<_> = snapshot.open.iter().map(|incident| incident.id.clone()).collect();
            prop_assert_eq!(&told, &open);
            for root in &snapshot.targets["main"].locks.root_blockers {
                prop_assert!(root.waiters > 0);
                let waits = |lock: &&Lock| !lock.granted && lock.pid == root.pid && lock.pid.is_some();
                let report = &snapshot.targets["main"].report;
                prop_assert_eq!(report.locks.iter().find(waits), None, "a root waits for nobody");
            }
            prop_assert!(serde_json::to_string(&snapshot.targets["main"].locks).is_ok());
        }
    }
}

fn holder(pid: i32) -> Backend {
    Backend {
        pid,
        backend_start: Some(1.0),
        database: Some("app".into()),
        user: Some("app".into()),
        client: Some("10.0.0.2".into()),
        client_port: Some(10_000 + pid),
        state: Some("idle".into()),
        query: Some("SELECT pg_advisory_lock($1) ".repeat(30)),
        ..Backend::default()
    }
}

fn advisory(pid: i32, key: u32, granted: bool) -> Lock {
    Lock {
        pid: Some(pid),
        locktype: "advisory".into(),
        database: Some("app".into()),
        mode: "ExclusiveLock".into(),
        granted,
        virtualtransaction: Some("5/0".into()),
        classid: Some(0),
        objid: Some(key),
        objsubid: Some(1),
        waitstart: (!granted).then(|| f64::from(pid)),
        ..Lock::default()
    }
}

/// Processor time for a second's two samples, the third of each.
fn cost(locks: Vec<Lock>, backends: i32) -> Duration {
    let postgres = PostgresReport {
        target: "main".into(),
        backends: (1..=backends).map(holder).collect(),
        locks,
        ..PostgresReport::default()
    };
    let servers = (1..=backends).map(|pid| ServerSocket {
        database: "app".into(),
        user: "app".into(),
        addr: "10.0.0.1".into(),
        port: 5432,
        remote_pid: pid,
        local_addr: "10.0.0.2".into(),
        local_port: u16::try_from(10_000 + pid).unwrap_or(0),
        ptr: format!("{pid:x}"),
        ..ServerSocket::default()
    });
    let clients = (1..=1_000).map(|n| ClientSocket {
        database: "app".into(),
        user: "app".into(),
        ptr: format!("c{n:x}"),
        request_age: Some(500.0),
        ..ClientSocket::default()
    });
    let pooler = PgbouncerReport {
        pooler: "pooler-1".into(),
        target: "main".into(),
        pools: vec![Pool {
            database: "app".into(),
            user: "app".into(),
            pool_mode: "transaction".into(),
            ..Pool::default()
        }],
        servers: servers.collect(),
        clients: Some(clients.collect()),
        ..PgbouncerReport::default()
    };
    let mut engine = Engine::new(settings());
    let mut took = Duration::ZERO;
    for n in 0..4 {
        let t = 1_700_000_000.0 + f64::from(n);
        let reports = [
            Report::Postgres(postgres.clone()),
            Report::Pgbouncer(pooler.clone()),
        ];
        took = reports
            .into_iter()
            .map(|report| timed(&mut engine, Sample { t, report }))
            .sum();
    }
    took
}

fn timed(engine: &mut Engine, sample: Sample) -> Duration {
    let began = processor_time();
    engine.apply(sample);
    let _ = engine.snapshot();
    processor_time().saturating_sub(began)
}

/// Of this thread alone: what else the machine does is not in it.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap();
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Four times as much of everything may take this many times as long: twice what
/// is in proportion, with room for caches. In the square it would be sixteen.
const GROWTH: u32 = 9;

/// Holds the cost of `locks` of so many sessions against that of a quarter, the
/// better of two each.
fn grows_in_proportion(sessions: i32, locks: impl Fn(i32) -> Vec<Lock>) {
    let best = |sessions: i32| {
        let costs = (0..2).map(|_| cost(locks(sessions), sessions));
        costs.min().unwrap()
    };
    let (quarter, whole) = (best(sessions / 4), best(sessions));
    println!("{sessions} sessions: {whole:?}; a quarter of them: {quarter:?}");
    assert!(whole < quarter * GROWTH, "{whole:?}, {quarter:?}");
}

#[test]
fn the_cost_of_held_locks_grows_with_their_number() {
    grows_in_proportion(2_000, |sessions| {
        let held = (0..sessions * 3).map(|n| advisory(1 + n % sessions, n.cast_unsigned(), true));
        held.collect()
    });
}

#[test]
fn the_cost_of_a_queue_grows_with_its_length() {
    grows_in_proportion(2_000, |sessions| {
        let queue = (1..=sessions).map(|pid| advisory(pid, 42, pid == 1));
        queue.collect()
    });
}

#[test]
fn the_cost_of_many_holders_in_the_way_of_many_grows_with_their_number() {
    grows_in_proportion(2_000, |sessions| {
        let relation = |pid: i32, mode: &str| Lock {
            locktype: "relation".into(),
            relation: Some("16385".into()),
            mode: mode.into(),
            ..advisory(pid, 0, pid <= sessions / 2)
        };
        let locks = (1..=sessions).map(|pid| {
            let mode = if pid == sessions / 2 + 1 {
                "AccessExclusiveLock"
            } else {
                "AccessShareLock"
            };
            relation(pid, mode)
        });
        locks.collect()
    });
}

/// One second of a world in which counters are reset, reports come late and
/// routes come and go, while nothing happens.
fn odd_second(t: u32, seed: u64) -> Vec<Sample> {
    let at = 1_700_000_000.0 + f64::from(t);
    let noise = (u64::from(t).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7) % 5;
    let busy = u32::try_from(noise).unwrap() + 8;
    let group = |state: &str, count| Group {
        application: Some("app".into()),
        state: Some(state.into()),
        count,
        young: Some(0),
        ..Group::default()
    };
    let opened = if t % 900 < 450 { 1_000 } else { 0 };
    let postgres = PostgresReport {
        target: "main".into(),
        server: Some(Server {
            in_recovery: Some(false),
            started_at: Some(1.0),
            max_connections: Some(if t < 1_200 { 500 } else { 200 }),
            ..Server::default()
        }),
        sessions_opened_total: Some(opened + u64::from(t) / 4),
        groups: vec![group("active", busy), group("idle", 30 - busy)],
        ..PostgresReport::default()
    };
    let total = u64::from(t % 700) * 100;
    let pooler = PgbouncerReport {
        pooler: "pooler-1".into(),
        target: "main".into(),
        stats: vec![PoolStats {
            database: "app".into(),
            total_xact_count: total,
            total_query_count: total,
            total_query_time: total * 2_000,
            ..PoolStats::default()
        }],
        ..PgbouncerReport::default()
    };
    let route = |route: String, requests, duration_seconds| RouteTraffic {
        route,
        requests,
        duration_seconds,
        ..RouteTraffic::default()
    };
    let traffic = TrafficReport {
        service: "app".into(),
        until: Some(at - f64::from(t % 40)),
        interval: 1.0,
        routes: vec![
            route("/a".into(), 20.0, f64::from(busy)),
            route(format!("/{t}"), 1.0, 0.01),
            route("/zero".into(), 0.0, 0.0),
            route("/broken".into(), 1.0, f64::NAN),
        ],
        ..TrafficReport::default()
    };
    let mut samples = vec![
        Sample {
            t: at,
            report: Report::Pgbouncer(pooler),
        },
        Sample {
            t: at + 0.1,
            report: Report::Postgres(postgres),
        },
    ];
    // An hour without any.
    if !(1_000..4_600).contains(&t) {
        samples.push(Sample {
            t: at + 0.2,
            report: Report::Traffic(traffic),
        });
    }
    samples
}

#[test]
fn odd_figures_of_a_quiet_time_are_no_incident() {
    for seed in 0..3 {
        let mut engine = Engine::new(settings());
        for t in 0..6_000 {
            for sample in odd_second(t, seed * 97) {
                let effects = engine.apply(sample);
                assert!(effects.is_empty(), "at {t}, seed {seed}: {effects:#?}");
            }
        }
    }
}
