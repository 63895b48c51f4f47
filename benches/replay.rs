//! How fast a capture is replayed: the whole way from the compressed file
//! through JSON and the engine, on one core.
//!
//! One server with 50 groups of sessions, 40 backends and a few locks, its
//! pooler with 10 pools, and a service with 100 routes, each told of once a
//! second. `cargo bench --bench replay` prints how many times faster than real
//! time it goes, and fails under its budget. Time is that on the processor, so
//! that a busy machine does not count.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use snowpit::capture::{Captures, Header};
use snowpit::engine::Settings;
use snowpit::engine::settings::{Pooler, Service};
use snowpit::replay::{Replay, Step};
use snowpit::sample::{
    Backend, Group, Lock, PgbouncerReport, Pool, PoolDatabase, PoolStats, PostgresReport, Report,
    RouteTraffic, Sample, Server, ServerSocket, TrafficReport,
};

/// An hour of one look a second.
const SECONDS: u32 = 3600;
const GROUPS: u32 = 50;
const ROUTES: u32 = 100;
const BACKENDS: u32 = 40;
const LOCKS: u32 = 10;
const POOLS: u32 = 10;
/// Times faster than real time.
const BUDGET: f64 = 2_000.0;
/// The best of so many counts: the others were disturbed.
const RUNS: u32 = 5;
const START: f64 = 1_604_902_320.0;

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not measured: a debug build costs something else; use cargo bench");
        return Ok(());
    }
    let place = tempfile::tempdir()?;
    let file = place.path().join("hour.jsonl.zst");
    let bytes = write(&file)?;
    println!(
        "{SECONDS} s, {GROUPS} groups, {ROUTES} routes: {:.1} MiB of JSON, {:.2} MiB compressed",
        bytes as f64 / 1048576.0,
        std::fs::metadata(&file)?.len() as f64 / 1048576.0
    );
    let mut best = Duration::MAX;
    let mut samples = 0;
    for _ in 0..RUNS {
        let (took, replayed) = replay(&file)?;
        best = best.min(took);
        samples = replayed;
    }
    ensure!(samples == u64::from(SECONDS) * 3, "{samples} samples");
    let times = f64::from(SECONDS) / best.as_secs_f64();
    println!(
        "replayed in {:.2} s of one core: {times:.0} x real time (budget {BUDGET} x: {}), {:.0} us a sample, {:.0} MB of JSON a second",
        best.as_secs_f64(),
        if times >= BUDGET { "met" } else { "missed" },
        best.as_secs_f64() * 1e6 / samples as f64,
        bytes as f64 / 1e6 / best.as_secs_f64()
    );
    ensure!(times >= BUDGET, "under {BUDGET} x real time");
    Ok(())
}

fn replay(file: &PathBuf) -> anyhow::Result<(Duration, u64)> {
    let began = processor_time()?;
    let captures = Captures::open(std::slice::from_ref(file))
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let settings = captures.settings();
    let mut replay = Replay::new(captures, settings);
    while let Some(step) = replay.step() {
        ensure!(matches!(step, Step::Applied(_)), "{step:?}");
    }
    Ok((processor_time()? - began, replay.summary().samples))
}

/// Time on a processor of this single-threaded process: the first number of
/// `schedstat`, in nanoseconds.
fn processor_time() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanos = text.split_whitespace().next().context("schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

fn write(path: &Path) -> anyhow::Result<u64> {
    let settings = Settings {
        targets: vec!["main".into()],
        poolers: vec![Pooler {
            name: "pooler-1".into(),
            target: "main".into(),
        }],
        poolers_complete: true,
        services: vec![Service {
            name: "registry".into(),
            targets: vec!["main".into()],
            applications: vec!["registry*".into()],
        }],
        ..Settings::default()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut file = zstd::Encoder::new(std::fs::File::create(path)?, 3)?;
    let mut bytes = 0;
    let mut put = |line: Vec<u8>| -> anyhow::Result<()> {
        bytes += line.len() as u64 + 1;
        file.write_all(&line)?;
        Ok(file.write_all(b"\n")?)
    };
    put(serde_json::to_vec(&Header::new(&settings, "bench"))?)?;
    for second in 0..SECONDS {
        let t = START + f64::from(second) + random.f64() / 100.0;
        for report in [
            Report::Postgres(postgres(t, &mut random)),
            Report::Pgbouncer(pgbouncer(second, &mut random)),
            Report::Traffic(traffic(t, &mut random)),
        ] {
            put(serde_json::to_vec(&Sample { t, report })?)?;
        }
    }
    file.finish()?;
    Ok(bytes)
}

fn route(n: u32) -> String {
    format!("GET /api/v1/resource{n}/{{id}}/items")
}

fn postgres(t: f64, random: &mut fastrand::Rng) -> PostgresReport {
    let groups: Vec<Group> = (0..GROUPS)
        .map(|n| {
            let busy = n < 20;
            Group {
                database: Some("app".into()),
                user: Some("app".into()),
                application: Some(format!("registry-{}", n % 5)),
                client: Some(format!("10.0.{}.{}", n % 3, n)),
                state: Some(if busy { "active" } else { "idle" }.into()),
                wait_event_type: (n % 4 == 0 && busy).then(|| "IO".into()),
                wait_event: (n % 4 == 0 && busy).then(|| "DataFileRead".into()),
                route: busy.then(|| route(n)),
                count: random.u32(1..4),
                ..Group::default()
            }
        })
        .collect();
    let backends: Vec<Backend> = (0..BACKENDS)
        .map(|n| Backend {
            pid: 4_000 + n as i32,
            backend_start: Some(START - 5_000.0 - f64::from(n)),
            database: Some("app".into()),
            user: Some("app".into()),
            application: Some(format!("registry-{}", n % 5)),
            client: Some("10.1.0.2".into()),
            client_port: Some(40_000 + n as i32),
            state: Some("active".into()),
            query_start: Some(t - random.f64()),
            xact_start: Some(t - random.f64() * 2.0),
            state_change: Some(t - random.f64()),
            query_id: Some(random.i64(..)),
            query: Some(format!(
                "select i.id, i.name, i.created_at from items i join owners o on o.id = i.owner \
             where o.name = $1 and i.state = any ($2) order by i.created_at desc limit $3 /* {n} */"
            )),
            ..Backend::default()
        })
        .collect();
    let locks: Vec<Lock> = (0..LOCKS)
        .map(|n| Lock {
            pid: Some(4_000 + n as i32),
            locktype: "advisory".into(),
            database: Some("app".into()),
            mode: "ExclusiveLock".into(),
            granted: true,
            virtualtransaction: Some(format!("{n}/{}", random.u32(1..9_999))),
            classid: Some(n),
            objid: Some(n),
            objsubid: Some(1),
            ..Lock::default()
        })
        .collect();
    PostgresReport {
        target: "main".into(),
        server: Some(Server {
            version: Some(150_018),
            clock: Some(t),
            started_at: Some(START - 100_000.0),
            in_recovery: Some(false),
            max_connections: Some(5_000),
            reserved_connections: Some(3),
        }),
        sessions_opened_total: Some((t - START) as u64 * 3),
        sees_all_sessions: Some(true),
        groups,
        backends,
        locks,
        ..PostgresReport::default()
    }
}

fn pgbouncer(second: u32, random: &mut fastrand::Rng) -> PgbouncerReport {
    let name = |n: u32| format!("app{n}");
    PgbouncerReport {
        pooler: "pooler-1".into(),
        target: "main".into(),
        version: Some("1.18.0".into()),
        pools: (0..POOLS)
            .map(|n| Pool {
                database: name(n),
                user: "app".into(),
                cl_active: random.u32(0..30),
                sv_active: random.u32(0..10),
                sv_idle: 5,
                pool_mode: "transaction".into(),
                ..Pool::default()
            })
            .collect(),
        servers: (0..BACKENDS)
            .map(|n| ServerSocket {
                database: name(n % POOLS),
                user: "app".into(),
                state: "active".into(),
                addr: "10.0.0.1".into(),
                port: 5432,
                remote_pid: 4_000 + n as i32,
                local_addr: "10.1.0.2".into(),
                local_port: 40_000 + n as u16,
                ptr: format!("0x55d{n:06x}"),
                link: format!("0x66d{:06x}", random.u32(0..200)),
                connect_time: "2020-11-09 06:00:00 UTC".into(),
                request_time: "2020-11-09 06:12:00 UTC".into(),
                application_name: Some("registry-1".into()),
                ..ServerSocket::default()
            })
            .collect(),
        stats: (0..POOLS)
            .map(|n| PoolStats {
                database: name(n),
                total_xact_count: u64::from(second) * 40,
                total_query_count: u64::from(second) * 90,
                total_xact_time: u64::from(second) * 9_000,
                ..PoolStats::default()
            })
            .collect(),
        databases: (0..POOLS)
            .map(|n| PoolDatabase {
                name: name(n),
                database: name(n),
                host: Some("10.0.0.1".into()),
                port: 5432,
                pool_size: 20,
                ..PoolDatabase::default()
            })
            .collect(),
        ..PgbouncerReport::default()
    }
}

fn traffic(t: f64, random: &mut fastrand::Rng) -> TrafficReport {
    TrafficReport {
        service: "registry".into(),
        until: Some(t),
        interval: 1.0,
        routes: (0..ROUTES)
            .map(|n| RouteTraffic {
                route: route(n),
                requests: f64::from(random.u32(0..60)),
                duration_seconds: random.f64() * 3.0,
                ..RouteTraffic::default()
            })
            .collect(),
        ..TrafficReport::default()
    }
}
