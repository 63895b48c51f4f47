//! `snowpit run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::daemon;

/// How long each room may take to stop. Together well under the ten seconds
/// after which service managers kill.
const GRACE: Duration = Duration::from_secs(3);

/// Watch the configured servers until told to stop.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  snowpit run --config /etc/snowpit/snowpit.toml")]
pub struct Args {
    /// Configuration file [default: ./snowpit.toml, then /etc/snowpit/snowpit.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Exit status: 0 after SIGTERM or SIGINT, 1 could not go on, 2 bad
/// configuration.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let found = Config::find(args.config);
    let config = match found.and_then(|path| Config::load(&path, env)) {
        Ok(config) => config,
        Err(errors) => {
            super::complain(errors);
            return Ok(ExitCode::from(2));
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(refuse_to_reload(signal(SignalKind::hangup())?));
    let mut running = daemon::start(config).await?;
    tracing::info!(address = %running.address(), "listening");
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = running.failed() => Some(failure),
    };
    tracing::info!("stopping");
    running.shutdown(GRACE).await;
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => Err(failure.into()),
    }
}

/// Unhandled, SIGHUP ends the process, and who sends it expects a reload.
async fn refuse_to_reload(mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        tracing::warn!("SIGHUP: this version cannot reload; restart it to read the configuration");
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
