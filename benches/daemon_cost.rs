//! What the daemon costs its own machine: the release binary with one second
//! between looks, a PostgreSQL with 3,000 idle backends, and a PgBouncer.
//!
//! `cargo bench --bench daemon_cost` prints processor share and resident
//! memory, and fails when one is over its budget, or when the daemon did not do
//! its work meanwhile: a daemon that sees nothing costs nothing.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions};
use tokio::process::{Child, Command};
use tokio_postgres::Client;

/// A big server; also where the cost on the database is measured.
const BACKENDS: usize = 3_000;
/// Clients that stay connected to the pooler.
const POOLED: usize = 200;
/// The groups of `pg_stat_activity` come from names such as these.
const APPLICATIONS: usize = 30;
/// Baselines and buffers have their size by then.
const WARM_UP: Duration = Duration::from_secs(15);
const MEASURED: Duration = Duration::from_secs(60);
/// Share of one core.
const CPU_BUDGET: f64 = 0.02;
const MEMORY_BUDGET_KIB: u64 = 40 * 1024;
/// Unit of the times in `/proc/PID/stat`. Linux shows 100 to programs on every
/// architecture that people run servers on, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not measured: a debug build costs something else; use cargo bench");
        return Ok(());
    }
    let postgres = Postgres::start(PostgresOptions {
        max_connections: BACKENDS as u32 + 100,
        ..PostgresOptions::default()
    })
    .await?;
    postgres
        .execute("postgres", "CREATE ROLE snowpit LOGIN IN ROLE pg_monitor")
        .await?;
    let pooler = PgBouncer::start(PgBouncerOptions {
        databases: vec![Alias::new("postgres", postgres.port())],
        users: vec![("postgres".into(), String::new())],
        max_client_conn: POOLED as u32 + 100,
        ..PgBouncerOptions::default()
    })
    .await?;
    let backends = idle_backends(&postgres).await?;
    let pooled = pooled_clients(&pooler).await?;

    let daemon = Daemon::start(&postgres, &pooler).await?;
    tokio::time::sleep(WARM_UP).await;
    let before = daemon.processor_seconds()?;
    tokio::time::sleep(MEASURED).await;
    let share = (daemon.processor_seconds()? - before) / MEASURED.as_secs_f64();
    let resident = daemon.status_kib("VmRSS:")?;
    let peak = daemon.status_kib("VmHWM:")?;
    let metrics = daemon.metrics().await?;
    daemon.stop().await?;
    drop((backends, pooled));

    println!("{BACKENDS} idle backends, {POOLED} pooled clients, 1 s, {MEASURED:?}:");
    println!(
        "processor  {:.2} % of a core (budget {:.0} %)",
        share * 100.0,
        CPU_BUDGET * 100.0
    );
    println!(
        "memory     {:.1} MiB resident, {:.1} MiB at most (budget {} MiB)",
        resident as f64 / 1024.0,
        peak as f64 / 1024.0,
        MEMORY_BUDGET_KIB / 1024
    );
    for interval in lines_of(&metrics, "snowpit_poll_interval_seconds") {
        println!("{interval}");
    }
    did_its_work(&metrics)?;
    ensure!(
        share <= CPU_BUDGET,
        "the processor share is over its budget"
    );
    ensure!(
        resident <= MEMORY_BUDGET_KIB,
        "the resident memory is over its budget"
    );
    Ok(())
}

async fn idle_backends(postgres: &Postgres) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(BACKENDS);
    for number in 0..BACKENDS {
        let client = postgres.connect("postgres", "postgres").await?;
        let application = number % APPLICATIONS;
        client
            .batch_execute(&format!("SET application_name = 'service-{application}'"))
            .await?;
        clients.push(client);
    }
    Ok(clients)
}

async fn pooled_clients(pooler: &PgBouncer) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(POOLED);
    for number in 0..POOLED {
        let application = format!("pooled-{}", number % APPLICATIONS);
        let client = pooler.connect("postgres", "postgres", &application).await?;
        client.batch_execute("SELECT 1").await?;
        clients.push(client);
    }
    Ok(clients)
}

/// Sources up, and every backend and pooled client counted. An interval that the
/// cost governor stretched is no failure, but it is printed: the share is then
/// that of fewer looks.
fn did_its_work(metrics: &str) -> anyhow::Result<()> {
    let up: Vec<f64> = values_of(metrics, "snowpit_source_up").collect();
    ensure!(up == [1.0, 1.0], "not both sources are up: {up:?}");
    let connections: f64 = values_of(metrics, "snowpit_connections").sum();
    ensure!(
        connections >= BACKENDS as f64,
        "only {connections} connections were seen"
    );
    ensure!(
        values_of(metrics, "snowpit_pool_clients").sum::<f64>() >= POOLED as f64,
        "the pooled clients were not seen"
    );
    Ok(())
}

fn lines_of<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    metrics.lines().filter(move |line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    })
}

fn values_of<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = f64> {
    lines_of(metrics, name).filter_map(|line| line.rsplit(' ').next()?.parse().ok())
}

/// `snowpit run` as a user starts it.
struct Daemon {
    process: Child,
    pid: Pid,
    url: String,
    _home: tempfile::TempDir,
}

impl Daemon {
    async fn start(postgres: &Postgres, pooler: &PgBouncer) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let home = tempfile::tempdir()?;
        let file = home.path().join("snowpit.toml");
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n\
             [[postgres]]\nname = \"main\"\ndsn = \"{}\"\ninterval = \"1s\"\n\
             [[pgbouncer]]\nname = \"pooler\"\ntarget = \"main\"\ndsn = \"{}\"\ninterval = \"1s\"\n\
             [poolers]\ncomplete = true\n",
            postgres.dsn("snowpit", "postgres"),
            pooler.dsn("stats", "pgbouncer"),
        );
        std::fs::write(&file, config)?;
        let process = Command::new(env!("CARGO_BIN_EXE_snowpit"))
            .arg("run")
            .arg("--config")
            .arg(&file)
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().context("the daemon ended at once")?;
        let mut daemon = Self {
            process,
            pid: Pid::from_raw(pid.cast_signed()),
            url: format!("http://127.0.0.1:{port}"),
            _home: home,
        };
        daemon.await_ready().await?;
        Ok(daemon)
    }

    async fn await_ready(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/-/ready", self.url);
        for _ in 0..100 {
            if let Some(status) = self.process.try_wait()? {
                bail!("the daemon ended with {status}");
            }
            let answer = reqwest::get(&url).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the daemon is not ready after 10 s")
    }

    /// Time spent in user and kernel mode by all of its threads.
    fn processor_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The second field is a name in parentheses that may hold blanks.
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |field: usize| -> anyhow::Result<f64> {
            Ok(fields.get(field).context("a short stat")?.parse()?)
        };
        // utime and stime are fields 14 and 15 of the line, counted from 1.
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }

    fn status_kib(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .with_context(|| format!("no {name} in status"))?;
        Ok(value.parse()?)
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let answer = reqwest::get(format!("{}/metrics", self.url)).await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGTERM)?;
        let ended = tokio::time::timeout(Duration::from_secs(10), self.process.wait());
        let status = ended.await.context("the daemon does not stop")??;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}
