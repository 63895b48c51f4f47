//! `snowpit locks`: one look, now, through the same engine as the daemon.
//!
//! A verdict needs two polls running, so each source is looked at twice, a
//! second apart, and once or twice more while something is still undecided.

mod render;
mod screen;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::sync::watch::channel;

use super::complain;
use crate::config::{Config, ConfigErrors};
use crate::engine::locks::{LockView, Verdict};
use crate::engine::{Engine, Snapshot};
use crate::observe::pgbouncer::PgbouncerSource;
use crate::observe::poll::unix_now;
use crate::observe::postgres::PostgresSource;
use crate::observe::{PollError, Source};
use crate::sample::{FailureReason, Sample, UnixSeconds};

/// The fewest looks that a verdict needs.
const MIN_LOOKS: usize = 2;

/// The most looks taken while a verdict is open.
const MAX_LOOKS: usize = 4;

/// Between two looks. PgBouncer's clock shows whole seconds, so that looks
/// closer together can tell nothing new about a client.
const PAUSE: Duration = Duration::from_secs(1);

/// A wait that is longer makes a pile-up: deadlocks are found after one second
/// (`deadlock_timeout`), and an honest queue for a row is over in five.
const PILE_UP_SECONDS: f64 = 5.0;

/// Looks at the locks now: who waits for whom, and which advisory locks nobody
/// owns.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snowpit locks
  snowpit locks --config /etc/snowpit/snowpit.toml --json
  snowpit locks --dsn postgresql://snowpit@db.internal/postgres
  snowpit locks --watch

Exit status: 0; 1 when an advisory lock is orphaned, when somebody has waited for
a lock for over 5 seconds, or when no server could be looked at; 2 when the
configuration is wrong.")]
pub struct Args {
    /// The configuration file [default: ./snowpit.toml, then
    /// /etc/snowpit/snowpit.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "dsn")]
    config: Option<PathBuf>,
    /// One PostgreSQL server, without a file; its poolers are not looked at
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look again every second: in place on a terminal until q is pressed, one
    /// after the other elsewhere
    #[arg(long)]
    pub(super) watch: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    at: UnixSeconds,
    targets: Vec<&'a LockView>,
}

/// Runs the command.
///
/// # Errors
/// When standard output cannot be written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = match load(&args) {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return Ok(ExitCode::from(2));
        }
    };
    for warning in &config.warnings {
        complain(format_args!("warning: {warning}"));
    }
    if config.pgbouncer.is_empty() {
        complain(
            "note: no pooler is configured, so that a lock left on a pooled session cannot be told \
             from an owned one; [[pgbouncer]] in a configuration file names them",
        );
    }
    if args.watch {
        return watch::run(Look::new(&config, true), args.json).await;
    }
    let snapshot = Look::new(&config, false).take().await;
    let text = if args.json {
        document(&snapshot)? + "\n"
    } else {
        let columns = columns();
        let views = views(&snapshot);
        let targets = views
            .iter()
            .map(|view| render::target(view, columns) + "\n");
        targets.collect()
    };
    super::print(&text)?;
    Ok(exit_status(&snapshot))
}

fn document(snapshot: &Snapshot) -> anyhow::Result<String> {
    let document = Document {
        at: snapshot.at,
        targets: views(snapshot),
    };
    serde_json::to_string_pretty(&document).context("could not write the JSON")
}

fn exit_status(snapshot: &Snapshot) -> ExitCode {
    let views = views(snapshot);
    let bad = views.is_empty() || views.iter().any(|view| needs_attention(view));
    ExitCode::from(u8::from(bad))
}

fn load(args: &Args) -> Result<Config, ConfigErrors> {
    let environment = |name: &str| std::env::var(name).ok();
    match &args.dsn {
        Some(dsn) => Config::from_dsn(dsn, environment),
        None => Config::load(&Config::find(args.config.clone())?, environment),
    }
}

/// The width to fit; `None` when nobody looks at a terminal.
fn columns() -> Option<usize> {
    let is_terminal = std::io::stdout().is_terminal();
    let size = terminal_size::terminal_size().filter(|_| is_terminal);
    size.map(|(width, _)| usize::from(width.0))
}

/// The targets that answered.
fn views(snapshot: &Snapshot) -> Vec<&LockView> {
    let targets = snapshot.targets.values();
    targets
        .filter(|target| target.fresh)
        .map(|target| target.locks.as_ref())
        .collect()
}

fn needs_attention(view: &LockView) -> bool {
    let orphan = view
        .advisory_locks
        .iter()
        .any(|lock| lock.verdict == Verdict::Orphaned && !lock.allowed);
    let pile_up = view.root_blockers.iter().any(|root| {
        root.longest_wait_seconds
            .is_some_and(|wait| wait > PILE_UP_SECONDS)
    });
    orphan || pile_up
}

/// All sources and a fresh engine.
struct Look {
    engine: Engine,
    postgres: Vec<PostgresSource>,
    pgbouncer: Vec<PgbouncerSource>,
    /// What the sources say that do not answer now.
    errors: BTreeMap<(&'static str, String), String>,
    /// Asks sources again that were silent.
    patient: bool,
}

impl Look {
    fn new(config: &Config, patient: bool) -> Self {
        // Clients are read at every look: this is one look, not one a second.
        let poolers = config.pgbouncer.iter();
        let names = poolers.clone().map(|pooler| pooler.name.clone());
        let (_, wanted) = channel(names.collect::<BTreeSet<_>>());
        Self {
            engine: Engine::new(config.settings.clone()),
            postgres: config.postgres.iter().map(PostgresSource::new).collect(),
            pgbouncer: poolers
                .map(|pooler| PgbouncerSource::new(pooler, wanted.clone()))
                .collect(),
            errors: BTreeMap::new(),
            patient,
        }
    }

    async fn take(mut self) -> Snapshot {
        let mut looks = 0;
        let mut told = BTreeSet::new();
        loop {
            self.round().await;
            for (source, error) in &self.errors {
                if told.insert(source.clone()) {
                    complain(error);
                }
            }
            looks += 1;
            let snapshot = self.engine.snapshot();
            let enough = looks >= MIN_LOOKS && (self.pgbouncer.is_empty() || !is_open(&snapshot));
            if enough || looks >= MAX_LOOKS || views(&snapshot).is_empty() {
                return snapshot;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One look at every source, all at once. The poolers come first into the
    /// engine, so that the first look at a server is already judged with them.
    async fn round(&mut self) {
        let poolers = poll_all(&mut self.pgbouncer, self.patient);
        let servers = poll_all(&mut self.postgres, self.patient);
        let (poolers, servers) = tokio::join!(poolers, servers);
        for polled in poolers.into_iter().chain(servers) {
            let source = (polled.kind, polled.name);
            match polled.error {
                Some(error) => {
                    let text = format!("{} {}: {error}", source.0, source.1);
                    self.errors.insert(source, text);
                }
                None => {
                    self.errors.remove(&source);
                }
            }
            self.engine.apply(polled.sample);
        }
    }

    /// What the sources say that do not answer now.
    fn errors(&self) -> impl Iterator<Item = &String> {
        self.errors.values()
    }
}

struct Polled {
    kind: &'static str,
    name: String,
    sample: Sample,
    error: Option<PollError>,
}

impl Polled {
    /// It used up its time: asked again it would hold up the looks at all the
    /// others for as long.
    fn is_silent(&self) -> bool {
        let reason = self.error.as_ref().map(|error| error.reason);
        reason == Some(FailureReason::Timeout)
    }
}

/// A source that says nothing is not asked again, unless `patient`.
async fn poll_all<S: Source>(sources: &mut Vec<S>, patient: bool) -> Vec<Polled> {
    let mut running = tokio::task::JoinSet::new();
    for (position, source) in sources.drain(..).enumerate() {
        running.spawn(async move { poll(position, source).await });
    }
    let mut answers = running.join_all().await;
    answers.sort_by_key(|(position, ..)| *position);
    answers
        .into_iter()
        .map(|(_, source, polled)| {
            if patient || !polled.is_silent() {
                sources.push(source);
            }
            polled
        })
        .collect()
}

async fn poll<S: Source>(position: usize, mut source: S) -> (usize, S, Polled) {
    let t = unix_now();
    let (report, error) = match source.poll().await {
        Ok(report) => (report, None),
        Err(error) => (source.failure(&error), Some(error)),
    };
    let polled = Polled {
        kind: source.kind(),
        name: source.name().to_owned(),
        sample: Sample { t, report },
        error,
    };
    (position, source, polled)
}

/// A lock is not judged yet, and one more look may help.
fn is_open(snapshot: &Snapshot) -> bool {
    views(snapshot)
        .iter()
        .flat_map(|view| &view.advisory_locks)
        .any(|lock| lock.verdict == Verdict::Unknown)
}
