//! `snowpit run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::daemon;
use crate::expose::web::Reloader;

/// How long all rooms together may take to stop. With the half second that the
/// last threads get it is five seconds; service managers kill after ten.
const GRACE: Duration = Duration::from_millis(4_400);

/// Watch the configured servers until told to stop.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  snowpit run --config /etc/snowpit/snowpit.toml")]
pub struct Args {
    /// Configuration file [default: ./snowpit.toml, then /etc/snowpit/snowpit.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Exit status: 0 after SIGTERM or SIGINT, 1 could not go on or was told a
/// second time to stop before it had, 2 bad configuration.
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
    // Unhandled, it would end the process while the daemon starts.
    let hangup = signal(SignalKind::hangup())?;
    let mut running = daemon::start(config).await?;
    tokio::spawn(reload_at(hangup, running.reloader()));
    tracing::info!(address = %running.address(), "listening");
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = running.failed() => Some(failure),
    };
    tracing::info!("stopping");
    let stopped = tokio::select! {
        () = running.shutdown(GRACE) => true,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    if !stopped {
        tracing::warn!("told to stop a second time: what is not on disk by now is lost");
        return Ok(ExitCode::FAILURE);
    }
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => Err(failure.into()),
    }
}

/// What comes of it is logged where it is done. When there are enough reloads
/// waiting, the file is read after this signal in any case.
async fn reload_at(mut hangup: Signal, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        let reloader = reloader.clone();
        // Another signal may come while this one is seen to.
        tokio::spawn(async move {
            let _ = reloader.reload().await;
        });
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
