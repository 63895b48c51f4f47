//! Hours of a busy site in minutes: a private PostgreSQL and PgBouncer whose
//! sessions, pools, routes and locks come and go all the time, and a daemon that
//! must not grow by it. `make soak MINUTES=30` runs it.
//!
//! Prints a line every 30 seconds and, at the end, how each figure moved over the
//! second half. Exit status 1 when the daemon clearly grew or ended, or took up no
//! other configuration, and at Ctrl-C. A run of less than 17 minutes judges no
//! growth: what is remembered for ten minutes fills first.

mod churn;
mod gauge;
mod trend;

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use churn::Site;
use gauge::{Gauge, Reading};
use nix::sys::signal::Signal;
use snowpit::demo::servers::die_with_parent;
use tokio::time::{Instant, MissedTickBehavior, interval};
use trend::Trend;

/// Between two readings, and between two lines of them.
const READ_EVERY: Duration = Duration::from_secs(5);
const LINES_EVERY: u32 = 6;

/// Without a number of minutes.
const USUAL_MINUTES: f64 = 30.0;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    snowpit::observe::tls::use_ring();
    let minutes = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => USUAL_MINUTES,
    };
    let directory = tempfile::tempdir()?;
    let site = Site::start().await?;
    let daemon = Daemon::start(directory.path(), &site)?;
    println!(
        "{minutes} min of {} as process {}, log {}",
        daemon.program.display(),
        daemon.process.id(),
        daemon.log.display()
    );
    let going = site.go(&daemon.urls, daemon.process.id(), daemon.config.clone());
    let readings = tokio::select! {
        readings = watch(daemon, minutes) => Some(readings),
        _ = tokio::signal::ctrl_c() => None,
    };
    going.stop().await;
    site.stop().await;
    let readings = readings.ok_or("interrupted: nothing is judged")?;
    let readings = readings.inspect_err(|log| println!("{log}"));
    let readings = readings.map_err(|_| "the daemon ended by itself; its log is above")?;
    Ok(if judge(&readings) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads the gauges until the time is over. An error is the end of the log of a
/// daemon that is gone.
async fn watch(mut daemon: Daemon, minutes: f64) -> Result<Vec<Reading>, String> {
    let gauge = Gauge::new(daemon.process.id(), &daemon.urls.web);
    let (began, whole) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let mut ticks = interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut readings = Vec::new();
    println!("{}", Reading::HEAD);
    for n in 0_u32.. {
        ticks.tick().await;
        if matches!(daemon.process.try_wait(), Ok(Some(_)) | Err(_)) {
            return Err(daemon.last_words());
        }
        let at = began.elapsed();
        if let Some(reading) = gauge.read(at.as_secs_f64()).await {
            if n.is_multiple_of(LINES_EVERY) {
                println!("{reading}");
            }
            readings.push(reading);
        }
        if at >= whole {
            break;
        }
    }
    Ok(readings)
}

/// How each figure moved. False when one that must not has clearly grown, or when
/// nothing was reloaded.
fn judge(readings: &[Reading]) -> bool {
    println!();
    // What no reload was part of says nothing about reloads.
    let reloads = readings.last().map_or(0.0, |last| last.reloads);
    println!("{reloads} reloads were successful");
    let mut flat = reloads > 0.0;
    let minutes = readings.last().map_or(0.0, |last| last.at / 60.0);
    if minutes < trend::SHORTEST / 60.0 {
        println!(
            "too short to judge: it fills for {:.0} min, and five more show whether it stops",
            trend::FILLS / 60.0
        );
        return flat;
    }
    for quantity in gauge::QUANTITIES {
        let points = readings.iter().map(|r| (r.at, (quantity.of)(r)));
        let Some(trend) = Trend::of(&points.collect::<Vec<_>>()) else {
            println!("{}: too few readings", quantity.name);
            flat = false;
            continue;
        };
        let grows = trend.grows(quantity.least);
        flat &= !grows;
        let verdict = if grows { "GROWS" } else { "flat" };
        println!("{:<14} {trend}  {verdict}", quantity.name);
    }
    flat
}

/// The daemon as a process of its own. Dropping it kills it.
struct Daemon {
    process: Child,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    urls: Urls,
}

/// Where it listens.
#[derive(Clone)]
pub struct Urls {
    pub web: String,
    pub otlp: String,
}

impl Daemon {
    /// Below `directory`: configuration, history, log.
    fn start(directory: &Path, site: &Site) -> Result<Self, Box<dyn std::error::Error>> {
        let program = program()?;
        let (web, otlp) = (free_address()?, free_address()?);
        let config = directory.join("snowpit.toml");
        fs::write(&config, site.configuration(directory, &web, &otlp))?;
        let log = std::env::temp_dir().join("snowpit-soak.log");
        let mut command = Command::new(&program);
        command.arg("run").arg("--config").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // Ctrl-C is for us; it is stopped when we end.
        command.stderr(fs::File::create(&log)?).process_group(0);
        // Should we be killed, nobody would stop it.
        die_with_parent(&mut command, Signal::SIGKILL);
        Ok(Self {
            process: command.spawn()?,
            program,
            config,
            log,
            urls: Urls {
                web: format!("http://{web}"),
                otlp: format!("http://{otlp}"),
            },
        })
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The second argument, else the one that was built beside this program.
fn program() -> std::io::Result<PathBuf> {
    if let Some(path) = std::env::args_os().nth(2) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let built = own.parent().and_then(Path::parent);
    Ok(built.unwrap_or(Path::new(".")).join("snowpit"))
}

fn free_address() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}
