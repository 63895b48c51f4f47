//! What looking costs: a private PostgreSQL with 3,000 backends, and one poll
//! against `SELECT count(*) FROM pg_stat_activity`, taken in turns.
//!
//! That count is the floor for any reader, because the copy of every backend's
//! status is nearly the whole cost. Two situations are measured: all backends
//! idle, for which the budget of twice the floor holds, and all of them in a
//! transaction with a route tag, which is what an avalanche looks like.
//!
//! A third one has 300 sessions that wait for row locks in 20 chains. There a
//! poll is held against what a person would type: all of `pg_locks`, and that
//! count.
//!
//! `cargo bench --bench database_cost [-- BACKENDS]`. The clients live in a
//! child process, so that memory and processor time are those of the poller.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use snowpit::config::{ChannelBinding, Dsn, PostgresConfig, SslMode};
use snowpit::demo::servers::{Postgres, PostgresOptions, connect};
use snowpit::engine::locks::graph;
use snowpit::observe::postgres::PostgresSource;
use snowpit::sample::PostgresReport;
use tokio_postgres::{Client, Config};

const BACKENDS: u32 = 3_000;

/// Measurements of each kind; the median of an odd number is one of them.
const ROUNDS: usize = 41;

/// One poll may cost this much of the floor while every backend is idle.
const BUDGET: f64 = 2.0;

/// One poll may cost this much of the bare reads of locks and activity while
/// sessions wait.
const WAITING_BUDGET: f64 = 1.5;

/// Chains of waiters, and the sessions in each: one that holds and 15 that wait.
const CHAINS: u32 = 20;
const CHAIN: u32 = 16;

/// What a session of a web application leaves as its text, with the tags of a
/// comment as a library writes them.
const STATEMENT: &str = "SELECT relname AS some_column, relkind AS other_column FROM pg_class WHERE relname = 'some_table' LIMIT 1";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match words[..] {
        ["hold", port, backends, busy] => {
            runtime.block_on(hold(port.parse()?, backends.parse()?, busy))
        }
        ["--bench"] => runtime.block_on(measure(BACKENDS)),
        [backends, "--bench"] => runtime.block_on(measure(backends.parse()?)),
        _ => {
            println!("measures only under `cargo bench`");
            Ok(())
        }
    }
}

async fn measure(backends: u32) -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions {
        max_connections: backends + 20,
        ..PostgresOptions::default()
    })
    .await?;
    println!("{backends} backends, median of {ROUNDS}, taken in turns");
    println!(
        "{:<22}{:>10}{:>10}{:>8}{:>12}{:>10}",
        "situation", "count(*)", "one poll", "ratio", "our CPU", "our RSS"
    );
    let idle = situation(&postgres, backends, "idle").await?;
    situation(&postgres, backends, "busy").await?;
    let waiting = waiting(&postgres, backends).await?;
    let met = |is: bool| if is { "met" } else { "missed" };
    println!(
        "budgets: all idle {BUDGET} x the count: {}; while sessions wait {WAITING_BUDGET} x the bare reads: {}",
        met(idle <= BUDGET),
        met(waiting <= WAITING_BUDGET)
    );
    ensure!(
        idle <= BUDGET,
        "one poll costs {idle:.2} times the count, over the budget of {BUDGET}"
    );
    ensure!(
        waiting <= WAITING_BUDGET,
        "one poll costs {waiting:.2} times the bare reads, over the budget of {WAITING_BUDGET}"
    );
    Ok(())
}

/// Measures once and prints a line; returns the ratio.
async fn situation(postgres: &Postgres, backends: u32, kind: &str) -> anyhow::Result<f64> {
    let mut clients = Holder::start(postgres.port(), backends, kind)?;
    let client = postgres.connect("postgres", "postgres").await?;
    let floor = client
        .prepare("SELECT count(*) FROM pg_stat_activity")
        .await?;
    let mut source = source(postgres.port());
    let mut counts = Vec::with_capacity(ROUNDS);
    let mut polls = Vec::with_capacity(ROUNDS);
    let mut processor = Vec::with_capacity(ROUNDS);
    // The first look connects and prepares.
    source.look().await?;
    for _ in 0..ROUNDS {
        let began = now();
        let seen: i64 = client.query_one(&floor, &[]).await?.get(0);
        counts.push(began.elapsed());
        ensure!(seen >= i64::from(backends), "only {seen} backends");
        let (began, used) = (now(), processor_time()?);
        let report = source.look().await?;
        polls.push(began.elapsed());
        processor.push(processor_time()?.saturating_sub(used));
        let grouped: u32 = report.groups.iter().map(|group| group.count).sum();
        ensure!(grouped >= backends, "only {grouped} backends in groups");
    }
    let (count, poll, used) = (median(counts), median(polls), median(processor));
    let ratio = poll.as_secs_f64() / count.as_secs_f64();
    println!(
        "{:<22}{:>7.2} ms{:>7.2} ms{:>8.2}{:>9.2} ms{:>6.1} MiB",
        format!("all {kind}"),
        millis(count),
        millis(poll),
        ratio,
        millis(used),
        resident_mib()?
    );
    clients.end()?;
    // Backends leave some time after their clients.
    wait_for_quiet(&client).await?;
    Ok(ratio)
}

/// Chains of waiters; returns one poll as a ratio of the bare reads.
async fn waiting(postgres: &Postgres, backends: u32) -> anyhow::Result<f64> {
    let rows = "CREATE TABLE chain (id int PRIMARY KEY, v int); \
                INSERT INTO chain SELECT i, 0 FROM generate_series(0, 319) i";
    postgres.execute("postgres", rows).await?;
    let mut clients = Holder::start(postgres.port(), backends, "waiting")?;
    let client = postgres.connect("postgres", "postgres").await?;
    let count = client
        .prepare("SELECT count(*) FROM pg_stat_activity")
        .await?;
    let locks = client.prepare("SELECT * FROM pg_locks").await?;
    let mut source = source(postgres.port());
    let waiters = u64::from(CHAINS * (CHAIN - 1));
    while told_waiters(&source.look().await?) < waiters {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (mut bare, mut polls, mut graphs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = now();
        client.query(&locks, &[]).await?;
        client.query_one(&count, &[]).await?;
        bare.push(began.elapsed());
        let began = now();
        let report = source.look().await?;
        polls.push(began.elapsed());
        let began = now();
        let graph = graph::build(&report, 0.0);
        graphs.push(began.elapsed());
        let deepest = graph.roots.iter().map(|root| root.depth);
        ensure!(
            graph.roots.len() == CHAINS as usize && deepest.eq([CHAIN - 1; CHAINS as usize]),
            "{} roots instead of {CHAINS}",
            graph.roots.len()
        );
    }
    let (bare, poll, graph) = (median(bare), median(polls), median(graphs));
    let ratio = poll.as_secs_f64() / bare.as_secs_f64();
    println!(
        "{waiters} wait in {CHAINS} chains: pg_locks and count(*) {:.2} ms, one poll {:.2} ms, ratio {ratio:.2}, the graph {:.2} ms",
        millis(bare),
        millis(poll),
        millis(graph),
    );
    clients.end()?;
    wait_for_quiet(&client).await?;
    Ok(ratio)
}

fn told_waiters(report: &PostgresReport) -> u64 {
    let locks = report.locks.iter();
    locks.filter(|lock| !lock.granted).count() as u64
}

fn source(port: u16) -> PostgresSource {
    PostgresSource::new(&PostgresConfig {
        name: "main".into(),
        connection: Dsn {
            host: "127.0.0.1".into(),
            port,
            user: "postgres".into(),
            password: None,
            database: "postgres".into(),
            ssl_mode: SslMode::Disable,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: ChannelBinding::Prefer,
            connect_timeout: Duration::from_secs(10),
        },
        interval: Duration::from_secs(1),
    })
}

async fn wait_for_quiet(client: &Client) -> anyhow::Result<()> {
    loop {
        let row = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'service%'",
                &[],
            )
            .await?;
        if row.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The child process with the clients.
struct Holder(Child);

impl Holder {
    fn start(port: u16, backends: u32, kind: &str) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["hold", &port.to_string(), &backends.to_string(), kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut holder = Self(child);
        let output = holder.0.stdout.take().context("the child's output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(
            line.trim() == "ready",
            "the clients could not connect; {backends} of them need as many open files (ulimit -n)"
        );
        Ok(holder)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child: opens the sessions, says so, and keeps them until its input ends.
async fn hold(port: u16, backends: u32, kind: &str) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for number in 0..backends {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(port)
            .user("postgres")
            .dbname("postgres")
            .application_name(format!("service-{}", number % 10));
        let client = connect(&config).await?;
        let route = number % 30;
        let tags = format!(
            "/*application='service',route='%2Fapi%2Fv{route}%2F%3Cname%3E',traceparent='00-{number:032x}-{number:016x}-01'*/"
        );
        let begin = if kind == "busy" { "BEGIN; " } else { "" };
        if kind == "waiting" && number < CHAINS * CHAIN {
            let own = format!("BEGIN; UPDATE chain SET v = 1 WHERE id = {number}");
            client.batch_execute(&own).await?;
            if number % CHAIN > 0 {
                tokio::spawn(async move {
                    let before = format!("UPDATE chain SET v = 2 WHERE id = {} {tags}", number - 1);
                    let _ = client.batch_execute(&before).await;
                });
                continue;
            }
        } else {
            client
                .batch_execute(&format!("{begin}{STATEMENT} {tags}"))
                .await?;
        }
        clients.push(client);
    }
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Time on a processor of this single-threaded process: the first number of
/// `schedstat`, in nanoseconds.
fn processor_time() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanos = text.split_whitespace().next().context("schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

fn resident_mib() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("VmRSS")?
        .parse()?;
    Ok(kib / 1024.0)
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

fn millis(value: Duration) -> f64 {
    value.as_secs_f64() * 1e3
}
