//! What one attribution over 5,000 endpoints costs, and what it takes to keep
//! them: `cargo bench --bench attribution`. Fails over 1 ms or 25 MiB.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use snowpit::engine::correlate::endpoints::{Windows, weigh};
use snowpit::engine::settings::Service;
use snowpit::engine::traffic::{Level, Traffic};
use snowpit::sample::{DurationBucket, RouteTraffic, TrafficReport, TrafficVia};

const ENDPOINTS: u32 = 5_000;
/// Milliseconds.
const BUDGET: f64 = 1.0;
const MEMORY_MIB: f64 = 25.0;
const ROUNDS: usize = 50;
const START: f64 = 10_000.0;
const ONSET: f64 = START + 2_400.0;
const NOW: f64 = ONSET + 30.0;

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not measured: a debug build costs something else; use cargo bench");
        return Ok(());
    }
    let empty = resident_mib()?;
    let mut traffic = Traffic::new(&[Service {
        name: "registry".into(),
        targets: vec!["main".into()],
        applications: Vec::new(),
    }]);
    let mut sessions = Level::default();
    let mut until = START;
    while until < NOW {
        until += 10.0;
        traffic.apply(until, &report(until));
        sessions.push(until, if until > ONSET { 900.0 } else { 400.0 });
    }
    let kept = resident_mib()? - empty;
    let windows = Windows {
        baseline: vec![(ONSET - 1_820.0, ONSET - 20.0)],
        onset: ONSET,
        now: NOW,
    };
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = now();
        let weighing = weigh(&traffic, "main", &sessions, &windows);
        times.push(began.elapsed().as_secs_f64() * 1e3);
        let first = weighing.endpoints.first().context("nobody was weighed")?;
        ensure!(
            &*first.observed.track.name == "GET /r4000/{id}",
            "the wrong one"
        );
        ensure!(weighing.known == ENDPOINTS as usize);
    }
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[ROUNDS / 2]);
    println!(
        "one attribution over {ENDPOINTS} endpoints: best {best:.2} ms, median {median:.2} ms (budget {BUDGET} ms: {})",
        met(best <= BUDGET)
    );
    println!(
        "{ENDPOINTS} routes with histograms and 40 min of traffic: {kept:.1} MiB (budget {MEMORY_MIB}: {})",
        met(kept <= MEMORY_MIB)
    );
    ensure!(
        best <= BUDGET,
        "an attribution takes longer than {BUDGET} ms"
    );
    ensure!(kept <= MEMORY_MIB, "more memory than {MEMORY_MIB} MiB");
    Ok(())
}

fn met(is: bool) -> &'static str {
    if is { "met" } else { "missed" }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

/// Ten seconds of every endpoint; one has ten times as many since the onset.
fn report(until: f64) -> TrafficReport {
    let routes = (0..ENDPOINTS).map(|i| {
        let rate = 200.0 / f64::from(i + 1) + 0.2;
        let surge = if i == 4_000 && until > ONSET {
            100.0
        } else {
            1.0
        };
        let requests = (rate * surge * 10.0).round();
        let hold = if i == 4_000 {
            2.0
        } else {
            0.02 * f64::from(1 + i % 50)
        };
        let bound = |upper: f64, part: f64| DurationBucket {
            upper: Some(upper),
            count: (requests * part).round(),
        };
        RouteTraffic {
            route: format!("GET /r{i}/{{id}}"),
            requests,
            duration_seconds: requests * hold,
            durations: vec![
                bound(hold / 2.0, 0.3),
                bound(hold * 2.0, 0.6),
                bound(hold * 10.0, 0.1),
            ],
            ..RouteTraffic::default()
        }
    });
    TrafficReport {
        service: "registry".into(),
        via: Some(TrafficVia::Scrape),
        until: Some(until),
        interval: 10.0,
        routes: routes.collect(),
    }
}

fn resident_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let fields: BTreeMap<&str, &str> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let text = fields.get("VmRSS").context("no VmRSS")?;
    let kib: f64 = text.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
