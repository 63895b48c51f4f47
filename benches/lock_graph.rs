//! What the wait-for graph costs by itself, and how that grows: from the rows
//! of one look to the root blockers, their counts and their trees.
//!
//! `cargo bench --bench lock_graph`. Fails when 3,000 waiters cost more than
//! the budget, in any of the shapes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use snowpit::engine::locks::graph::{WaitGraph, build};
use snowpit::sample::{Backend, Lock, PostgresReport};

/// Of 3,000 waiters.
const BUDGET: Duration = Duration::from_millis(2);
const WAITERS: u32 = 3_000;

/// The best of so many is what the work costs; the rest is what the machine
/// does besides.
const ROUNDS: usize = 41;

/// Makes a look with so many waiters.
type Shape = fn(u32) -> PostgresReport;

/// How waiters can stand to each other.
const SHAPES: [(&str, Shape); 4] = [
    ("one queue of writers", queue),
    ("chains of 15", chains),
    ("readers behind a migration", migration),
    ("many holders, many queues", crowd),
];

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("measures only under `cargo bench`");
        return Ok(());
    }
    println!("best of {ROUNDS}; rows of pg_locks in brackets");
    print!("{:<28}", "waiters");
    let sizes = [300, WAITERS, 15_000];
    for size in sizes {
        print!("{size:>20}");
    }
    println!();
    let mut missed = Vec::new();
    for (name, shape) in SHAPES {
        print!("{name:<28}");
        for size in sizes {
            let report = shape(size);
            let (best, graph) = measure(&report);
            let waiting: u32 = graph.waits.iter().map(|wait| wait.waiters).sum();
            ensure!(
                waiting == size && !graph.roots.is_empty(),
                "{name}: {waiting} wait"
            );
            print!(
                "{:>9.2} ms ({:>5})",
                best.as_secs_f64() * 1e3,
                report.locks.len()
            );
            if size == WAITERS && best > BUDGET {
                missed.push(name);
            }
        }
        println!();
    }
    let met = if missed.is_empty() { "met" } else { "missed" };
    println!("budget of {BUDGET:?} for {WAITERS} waiters: {met}");
    ensure!(missed.is_empty(), "over the budget: {}", missed.join(", "));
    Ok(())
}

fn measure(report: &PostgresReport) -> (Duration, WaitGraph) {
    let mut best = Duration::MAX;
    let mut graph = WaitGraph::default();
    for _ in 0..ROUNDS {
        let began = now();
        graph = build(report, 1_000.0);
        best = best.min(began.elapsed());
    }
    (best, graph)
}

/// A writer holds the table, and everybody else wants to write.
fn queue(waiters: u32) -> PostgresReport {
    let mut locks = vec![relation(1, 1, "ExclusiveLock", true)];
    locks.extend((2..waiters + 2).map(|pid| relation(pid, 1, "ExclusiveLock", false)));
    report(locks)
}

/// Each holds its own row, and waits for the one before it.
fn chains(waiters: u32) -> PostgresReport {
    let mut locks = Vec::new();
    let mut pid = 0;
    for _ in 0..waiters.div_ceil(15) {
        for place in 0..16 {
            pid += 1;
            locks.push(transaction(pid, pid, "ExclusiveLock", true));
            if place > 0 {
                locks.push(transaction(pid, pid - 1, "ShareLock", false));
            }
        }
    }
    report(locks)
}

/// Ten long readers, one migration behind them, and all others behind that.
fn migration(waiters: u32) -> PostgresReport {
    let reads = |pid| relation(pid, 1, "AccessShareLock", true);
    let mut locks: Vec<Lock> = (1..=10).map(reads).collect();
    locks.push(relation(11, 1, "AccessExclusiveLock", false));
    let waits = (12..waiters + 11).map(|pid| relation(pid, 1, "AccessShareLock", false));
    locks.extend(waits);
    report(locks)
}

/// A hundred tables with as many holders as waiters, in every mode.
fn crowd(waiters: u32) -> PostgresReport {
    const MODES: [&str; 4] = [
        "RowExclusiveLock",
        "ShareLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ];
    let mut locks = Vec::new();
    for waiter in 0..waiters {
        let table = waiter % 100;
        locks.push(relation(2 * waiter, table, "RowExclusiveLock", true));
        let mode = MODES[1 + (waiter as usize / 100) % 3];
        locks.push(relation(2 * waiter + 1, table, mode, false));
    }
    report(locks)
}

fn lock(pid: u32, mode: &str, granted: bool) -> Lock {
    Lock {
        pid: i32::try_from(pid).ok(),
        mode: mode.into(),
        granted,
        database: Some("app".into()),
        virtualtransaction: Some(format!("{pid}/7")),
        waitstart: (!granted).then_some(f64::from(pid)),
        ..Lock::default()
    }
}

fn relation(pid: u32, oid: u32, mode: &str, granted: bool) -> Lock {
    Lock {
        locktype: "relation".into(),
        relation: Some(format!("public.table_{oid}")),
        relation_oid: Some(16_384 + oid),
        ..lock(pid, mode, granted)
    }
}

fn transaction(pid: u32, xid: u32, mode: &str, granted: bool) -> Lock {
    Lock {
        locktype: "transactionid".into(),
        transactionid: Some(xid.to_string()),
        database: None,
        ..lock(pid, mode, granted)
    }
}

fn report(locks: Vec<Lock>) -> PostgresReport {
    let pids = locks.iter().filter_map(|lock| lock.pid);
    let mut backends: Vec<Backend> = pids
        .map(|pid| Backend {
            pid,
            database: Some("app".into()),
            application: Some("service".into()),
            state: Some("active".into()),
            query: Some("update some_table set some_column = ? where id = ?".into()),
            ..Backend::default()
        })
        .collect();
    backends.dedup_by_key(|backend| backend.pid);
    PostgresReport {
        locks,
        backends,
        ..PostgresReport::default()
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}
