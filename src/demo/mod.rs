//! Real servers in a temporary directory, and real incidents staged on them.
//!
//! The demo is the program's own proof: a PostgreSQL and a PgBouncer of its
//! own, an application with thirty routes and its users, the daemon in the same
//! process, and an incident whose cause is known because we caused it. Nothing
//! here tells the daemon what was staged.

mod application;
mod crowd;
mod dice;
mod expected;
mod fleet;
mod gateway;
mod load;
mod metrics_page;
mod monitoring;
mod neighbours;
mod orphan;
mod outcome;
mod routes;
mod scenario;
pub mod servers;
mod sessions;
mod stack;
mod stage;
mod staged;
mod staging;
mod summary;
mod timeline;
mod witness;

pub use outcome::Outcome;
pub use scenario::Scenario;
pub use summary::{Report, Row};

use std::path::{Path, PathBuf};
use std::time::Duration;

use servers::ServerError;
use stack::{Left, Played, Queue};
use timeline::Timeline;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::capture;
use crate::daemon::DaemonError;

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
    #[error("a part of the demo failed by a fault of snowpit's own, told above; please report it")]
    Fault,
    #[error("interrupted; every server is stopped and every file removed")]
    Interrupted,
}

/// What is to be played.
#[derive(Debug, Clone)]
pub struct Program {
    pub scenarios: Vec<Scenario>,
    /// How often each is staged.
    pub times: u32,
    /// Decides the parameters of each staging.
    pub seed: u64,
    /// Sets of servers beside one another.
    pub stacks: u32,
    /// stdout is kept for JSON; the timeline goes to stderr.
    pub quiet_stdout: bool,
    /// Where to keep captures and journals.
    pub keep: Option<PathBuf>,
    /// Prometheus and Alertmanager as well, and all of it left running at the end
    /// until a signal comes. One set of servers then.
    pub monitoring: bool,
}

/// Plays the program and tells of it. SIGINT, SIGTERM and SIGHUP end it at any
/// moment. When this returns no process and no file is left, but for what was to
/// be kept.
///
/// # Errors
/// A server is not installed or does not start, an incident could not be
/// staged, or a signal came. That an incident was staged and not detected is no
/// error: it is in the report.
pub async fn run(program: &Program) -> Result<Report, DemoError> {
    let keep = program.keep.as_deref().map(empty_directory).transpose()?;
    let mut interrupted = std::pin::pin!(interruption()?);
    let mut timeline = Timeline::start(program.quiet_stdout);
    let mut stacks = JoinSet::new();
    let report = tokio::select! {
        report = play(program, keep.as_deref(), &mut stacks, &mut timeline) => report,
        () = &mut interrupted => Err(DemoError::Interrupted),
    };
    // The servers are stopped where their tasks are dropped.
    stacks.shutdown().await;
    timeline.clear();
    let (report, left) = report?;
    closing(&report, &mut timeline);
    if let Some(kept) = keep {
        timeline.say(&format!("try: snowpit replay {}", captures(&kept, program)));
    }
    match left {
        Some(left) => {
            left.tell(&mut timeline);
            interrupted.await;
            left.stop().await;
        }
        None => timeline.say(
            "look around: snowpit demo --with-monitoring leaves the page, Prometheus and Alertmanager running",
        ),
    }
    Ok(report)
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
    program: &Program,
    keep: Option<&Path>,
    stacks: &mut JoinSet<Result<(Played, Option<Left>), DemoError>>,
    timeline: &mut Timeline,
) -> Result<(Report, Option<Left>), DemoError> {
    timeline.say("A private PostgreSQL and PgBouncer, an application with 32 routes, and snowpit.");
    timeline.say(&format!("seed {}", program.seed));
    let queue = Queue::new(&program.scenarios, program.times);
    let count = if program.monitoring {
        1
    } else {
        program.stacks.max(1)
    };
    for number in 1..=count {
        let directory = keep.map(|keep| directory_of(keep, program, number));
        let own = timeline.of_stack((count > 1).then_some(number));
        let queue = queue.clone();
        let (seed, monitoring) = (program.seed, program.monitoring);
        stacks.spawn(stack::play(queue, seed, directory, own, monitoring));
    }
    let mut all = Played {
        outcomes: Vec::new(),
        uncalled: Vec::new(),
    };
    let mut left = None;
    while let Some(played) = stacks.join_next().await {
        let (played, running) = played.map_err(|_| DemoError::Fault)??;
        all.outcomes.extend(played.outcomes);
        all.uncalled.extend(played.uncalled);
        left = left.or(running);
    }
    Ok((Report::new(program.seed, timeline.seconds(), all), left))
}

/// What one stack keeps: all there is, when it is alone.
fn directory_of(keep: &Path, program: &Program, number: u32) -> PathBuf {
    if program.stacks > 1 && !program.monitoring {
        keep.join(format!("stack-{number}"))
    } else {
        keep.to_owned()
    }
}

fn captures(keep: &Path, program: &Program) -> String {
    let directory = directory_of(keep, program, 1);
    directory.join(capture::DIRECTORY).display().to_string()
}

fn closing(report: &Report, timeline: &mut Timeline) {
    timeline.say("");
    timeline.say(&report.table());
    for outcome in &report.stagings {
        for problem in &outcome.problems {
            let (scenario, number) = (outcome.scenario, outcome.number);
            timeline.say(&format!("{scenario} {number}: {problem}"));
        }
    }
    for summary in &report.uncalled {
        timeline.say(&format!("not staged: {summary}"));
    }
    let (colour, word) = if report.passed {
        ("32", "PASS")
    } else {
        ("31", "FAIL")
    };
    let word = timeline.paint(colour, word);
    let (seconds, seed) = (report.seconds, report.seed);
    timeline.say(&format!("{word} in {seconds:.0} s, seed {seed}"));
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
