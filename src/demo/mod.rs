//! Real servers in a temporary directory, and real incidents staged on them.
//!
//! The demo is the program's own proof: a PostgreSQL and a PgBouncer of its
//! own, an application with thirty routes and its users, the daemon in the same
//! process, and an incident whose cause is known because we caused it. Nothing
//! here tells the daemon what was staged.

mod application;
mod avalanche;
mod gateway;
mod load;
mod orphan;
mod outcome;
mod routes;
pub mod servers;
mod stage;
mod timeline;
mod witness;

pub use outcome::{Outcome, Report};

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use servers::ServerError;
use stage::{RESOLVE_AFTER, Stage, WARM_UP};
use timeline::{Mark, Timeline};
use tokio::signal::unix::{SignalKind, signal};
use witness::Witness;

use crate::capture;
use crate::daemon::{self, DaemonError, RunningDaemon};

/// How long each room of the daemon may take to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Why the demo could not be played.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("a private server of the demo failed")]
    Server(#[from] ServerError),
    #[error("the demo's application cannot listen on a loopback port, or signals cannot be caught")]
    Listen(#[from] std::io::Error),
    #[error("the demo's users cannot be set up")]
    Load(#[from] reqwest::Error),
    #[error("the demo's application has no method of HTTP for `{0}`; this is a fault of snowpit")]
    Route(String),
    #[error("the incident could not be staged: {0}; try again on a less busy machine")]
    NotStaged(&'static str),
    #[error("the daemon did not start")]
    Daemon(#[from] DaemonError),
    #[error("cannot keep the capture in {}: {cause}; name a directory that is empty or not there", .directory.display())]
    Keep {
        directory: PathBuf,
        cause: std::io::Error,
    },
    #[error("interrupted; every server is stopped and every file removed")]
    Interrupted,
}

/// An incident that can be staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Orphan,
    Avalanche,
}

impl Scenario {
    /// Every scenario, in the order of the demo: the orphan is played while the
    /// avalanche's detector learns what is normal.
    pub const ALL: [Self; 2] = [Self::Orphan, Self::Avalanche];

    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Orphan => orphan::NAME,
            Self::Avalanche => avalanche::NAME,
        }
    }

    /// What is staged, in one line.
    pub fn description(self) -> &'static str {
        match self {
            Self::Orphan => {
                "24 workers race for an advisory lock through a transaction pool; \
                 the winner dies and the pool keeps the lock"
            }
            Self::Avalanche => {
                "a slow, rarely used route, under 3 % of the requests, \
                 takes the sessions in use from about 3 to 40"
            }
        }
    }
}

/// Plays the scenarios one after another on one stage and tells of them on
/// stdout, or on stderr when stdout is kept for JSON. SIGINT, SIGTERM and SIGHUP
/// end it at any moment. When this returns no process and no file is left, but
/// for what was to be kept in `keep`.
///
/// # Errors
/// A server is not installed or does not start, an incident could not be
/// staged, or a signal came. That an incident was staged and not detected is no
/// error: it is in the report.
pub async fn run(
    scenarios: &[Scenario],
    quiet_stdout: bool,
    keep: Option<&Path>,
) -> Result<Report, DemoError> {
    let keep = keep.map(empty_directory).transpose()?;
    let interrupted = interruption()?;
    let mut timeline = Timeline::start(quiet_stdout);
    // The servers are stopped where the losing branch is dropped.
    let report = tokio::select! {
        report = play(scenarios, &mut timeline, keep.as_deref()) => report,
        () = interrupted => Err(DemoError::Interrupted),
    };
    timeline.clear();
    report
}

/// Makes the directory for what is kept. One that holds something already may be
/// a daemon's own.
fn empty_directory(directory: &Path) -> Result<PathBuf, DemoError> {
    let made = std::fs::create_dir_all(directory).and_then(|()| {
        match std::fs::read_dir(directory)?.next() {
            None => directory.canonicalize(),
            Some(_) => Err(std::io::ErrorKind::DirectoryNotEmpty.into()),
        }
    });
    made.map_err(|cause| DemoError::Keep {
        directory: directory.to_owned(),
        cause,
    })
}

async fn play(
    scenarios: &[Scenario],
    timeline: &mut Timeline,
    keep: Option<&Path>,
) -> Result<Report, DemoError> {
    timeline.say("A private PostgreSQL and PgBouncer, an application with 30 routes, and snowpit.");
    timeline.progress("starting the servers");
    let stage = Stage::start().await?;
    timeline.tell(
        Mark::Ready,
        &format!(
            "PostgreSQL {} at port {}, PgBouncer in transaction mode at port {}",
            stage.version().await?,
            stage.postgres.port(),
            stage.pooler.port()
        ),
    );
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let daemon = daemon::start(stage.config(listen, keep)).await?;
    timeline.tell(
        Mark::Ready,
        &format!(
            "snowpit looks every second: http://{}/metrics",
            daemon.address()
        ),
    );
    timeline.detail(&format!(
        "for the demo it learns what is normal in {WARM_UP:.0} s and waits {RESOLVE_AFTER:.0} s \
         before an avalanche is over; all else is as by default"
    ));
    let mut witness = Witness::new(daemon.effects());
    let result = play_all(scenarios, &stage, &daemon, &mut witness, timeline).await;
    let seconds = timeline.seconds();
    timeline.progress("stopping");
    daemon.shutdown(GRACE).await;
    stage.stop().await;
    let report = Report::new(seconds, result?, witness.uncalled);
    closing(&report, timeline);
    if let Some(kept) = keep {
        let captures = kept.join(capture::DIRECTORY);
        timeline.say(&format!("try: snowpit replay {}", captures.display()));
    }
    Ok(report)
}

async fn play_all(
    scenarios: &[Scenario],
    stage: &Stage,
    daemon: &RunningDaemon,
    witness: &mut Witness,
    timeline: &mut Timeline,
) -> Result<Vec<Outcome>, DemoError> {
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        let title = timeline.paint("1", scenario.name());
        timeline.say(&format!("\n{title}: {}", scenario.description()));
        outcomes.push(match scenario {
            Scenario::Orphan => {
                orphan::play(stage, || daemon.snapshot(), witness, timeline).await?
            }
            Scenario::Avalanche => {
                avalanche::play(stage, || daemon.snapshot(), witness, timeline).await?
            }
        });
    }
    Ok(outcomes)
}

fn closing(report: &Report, timeline: &mut Timeline) {
    timeline.say("");
    timeline.say(&report.table());
    for outcome in &report.scenarios {
        for problem in &outcome.problems {
            timeline.say(&format!("{}: {problem}", outcome.scenario));
        }
    }
    let (colour, word) = if report.passed {
        ("32", "PASS")
    } else {
        ("31", "FAIL")
    };
    let word = timeline.paint(colour, word);
    timeline.say(&format!("{word} in {:.0} s", report.seconds));
}

/// Ends when somebody wants us to end. The handlers are in place when this
/// returns.
fn interruption() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
