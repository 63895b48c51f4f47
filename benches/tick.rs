//! What the engine costs in one second of a large installation, and what it
//! keeps: 100 servers, each with an application of 300 routes of its own, ten of
//! them with an avalanche open.
//!
//! `cargo bench --bench tick`. A tick is one look at each server and one report
//! of each application, with the history of series kept and a snapshot for each
//! batch of samples, as in the daemon. Fails over its budgets.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use snowpit::engine::incident::Kind;
use snowpit::engine::settings::Service;
use snowpit::engine::{Engine, Settings};
use snowpit::sample::{
    Backend, DurationBucket, Group, PostgresReport, Report, RouteTraffic, Sample, Server,
    TrafficReport, TrafficVia,
};

const TARGETS: u32 = 100;
const ROUTES: u32 = 300;
/// Targets with an incident.
const TROUBLED: u32 = 10;
/// Seconds before the avalanches, and since.
const CALM: u32 = 400;
const TROUBLE: u32 = 60;
/// Seconds that an avalanche has until it must be open: what is measured comes
/// after it.
const OPEN_AFTER: u32 = 20;
/// Samples that the daemon takes in before it publishes.
const BATCH: usize = 64;
const BUDGET: Duration = Duration::from_millis(20);
const MEMORY_MIB: f64 = 4.0;
const START: f64 = 1_604_902_320.0;

/// Bytes in use. One thread allocates, so no read-modify-write is needed, which
/// would cost what is measured.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn count(more: usize, less: usize) {
    let now = IN_USE.load(Ordering::Relaxed);
    IN_USE.store(now.wrapping_add(more).wrapping_sub(less), Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not measured: a debug build costs something else; use cargo bench");
        return Ok(());
    }
    let empty = IN_USE.load(Ordering::Relaxed);
    let mut engine = Engine::new(settings());
    let mut random = fastrand::Rng::with_seed(11);
    let mut calm = Vec::new();
    let mut troubled = Vec::new();
    for second in 0..CALM + TROUBLE {
        let samples = tick(second, &mut random);
        let began = now();
        for batch in samples {
            for sample in batch {
                engine.apply(sample);
            }
            std::hint::black_box(engine.snapshot());
        }
        let took = began.elapsed();
        if (CALM / 2..CALM).contains(&second) {
            calm.push(took);
        } else if second >= CALM + OPEN_AFTER {
            troubled.push(took);
        }
    }
    let open = engine.snapshot().open;
    let open = open.iter().filter(|i| i.kind == Kind::ConnectionAvalanche);
    let open = open.count();
    ensure!(open == TROUBLED as usize, "{open} avalanches are open");
    let kept = IN_USE.load(Ordering::Relaxed) - empty;
    let each = kept as f64 / 1_048_576.0 / f64::from(TARGETS);
    println!(
        "one tick, {TARGETS} targets x {ROUTES} routes, nothing open: {}",
        told(&mut calm)
    );
    println!(
        "the same with {TROUBLED} avalanches open: {} (budget {BUDGET:?}: {})",
        told(&mut troubled),
        met(troubled[troubled.len() / 2] <= BUDGET)
    );
    println!(
        "memory a target: {each:.2} MiB (budget {MEMORY_MIB} MiB: {})",
        met(each <= MEMORY_MIB)
    );
    ensure!(
        troubled[troubled.len() / 2] <= BUDGET,
        "a tick takes longer than {BUDGET:?}"
    );
    ensure!(
        each <= MEMORY_MIB,
        "a target takes more than {MEMORY_MIB} MiB"
    );
    Ok(())
}

fn met(is: bool) -> &'static str {
    if is { "met" } else { "missed" }
}

/// Sorts the times.
fn told(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    format!(
        "best {:.2} ms, median {:.2} ms, worst {:.2} ms",
        millis(times[0]),
        millis(times[times.len() / 2]),
        millis(times[times.len() - 1])
    )
}

fn settings() -> Settings {
    let targets: Vec<String> = (0..TARGETS).map(|n| format!("db-{n}")).collect();
    let service = |(n, target): (u32, &String)| Service {
        name: format!("app-{n}"),
        targets: vec![target.clone()],
        applications: vec![format!("app-{n}-*"), format!("worker-{n}")],
    };
    Settings {
        services: (0..).zip(&targets).map(service).collect(),
        targets,
        poolers_complete: true,
        ..Settings::default()
    }
}

/// All samples of one second, in the batches that a daemon would make of them.
fn tick(second: u32, random: &mut fastrand::Rng) -> Vec<Vec<Sample>> {
    let t = START + f64::from(second);
    let mut samples = Vec::new();
    for target in 0..TARGETS {
        let surge = target < TROUBLED && second >= CALM;
        for report in [
            Report::Postgres(postgres(target, t, surge, random)),
            Report::Traffic(traffic(target, t, surge, random)),
        ] {
            samples.push(Sample { t, report });
        }
    }
    let mut batches = Vec::new();
    while !samples.is_empty() {
        let rest = samples.split_off(BATCH.min(samples.len()));
        batches.push(std::mem::replace(&mut samples, rest));
    }
    batches
}

fn route(n: u32) -> String {
    format!("GET /api/v1/resource{n}/{{id}}/items")
}

/// 40 groups, half of them at work for a route, and 20 single rows.
fn postgres(target: u32, t: f64, surge: bool, random: &mut fastrand::Rng) -> PostgresReport {
    let group = |n: u32, count: u32| Group {
        database: Some("app".into()),
        user: Some("app".into()),
        application: Some(format!("app-{target}-{}", n % 4)),
        client: Some(format!("10.0.{}.{}", n % 3, n)),
        state: Some(if n < 20 { "active" } else { "idle" }.into()),
        route: (n < 20).then(|| route(n)),
        count,
        ..Group::default()
    };
    let mut groups: Vec<Group> = (0..40).map(|n| group(n, random.u32(1..4))).collect();
    if surge {
        groups.push(group(3, 400));
    }
    let backend = |n: u32| Backend {
        pid: 4_000 + n as i32,
        backend_start: Some(START - 5_000.0 - f64::from(n)),
        database: Some("app".into()),
        user: Some("app".into()),
        application: Some(format!("app-{target}-{}", n % 4)),
        client: Some("10.1.0.2".into()),
        state: Some("active".into()),
        query_start: Some(t - 0.5),
        xact_start: Some(t - 1.0),
        state_change: Some(t - 0.5),
        query: Some("select id, name from items where owner = $1 order by created_at".into()),
        ..Backend::default()
    };
    PostgresReport {
        target: format!("db-{target}"),
        server: Some(Server {
            version: Some(150_018),
            clock: Some(t),
            started_at: Some(START - 100_000.0),
            in_recovery: Some(false),
            max_connections: Some(5_000),
            reserved_connections: Some(3),
        }),
        sees_all_sessions: Some(true),
        groups,
        backends: (0..20).map(backend).collect(),
        ..PostgresReport::default()
    }
}

fn traffic(target: u32, t: f64, surge: bool, random: &mut fastrand::Rng) -> TrafficReport {
    let routes = (0..ROUTES).map(|n| {
        let mut requests = f64::from(random.u32(1..20));
        if surge && n == 3 {
            requests += 800.0;
        }
        let bound = |upper: f64, part: f64| DurationBucket {
            upper: Some(upper),
            count: (requests * part).round(),
        };
        RouteTraffic {
            route: route(n),
            requests,
            duration_seconds: requests * 0.05,
            durations: vec![bound(0.025, 0.3), bound(0.1, 0.6), bound(0.5, 0.1)],
            ..RouteTraffic::default()
        }
    });
    TrafficReport {
        service: format!("app-{target}"),
        via: Some(TrafficVia::Scrape),
        until: Some(t),
        interval: 1.0,
        routes: routes.collect(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}
