//! `snowpit run`: the daemon.

use std::backtrace::BacktraceStatus;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::log_queue::LogQueue;
use crate::config::Config;
use crate::daemon;
use crate::expose::web::Reloader;

/// How long all rooms together may take to stop. With what the last lines of the
/// log (0.3 s) and the last threads (0.5 s) may take it is less than five
/// seconds; service managers kill after ten.
const GRACE: Duration = Duration::from_millis(4_100);

/// Every place of the three listeners (700 and twice 512), and what sources,
/// pushes and files take.
const FILES_WANTED: u64 = 2_048;

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
pub async fn run(args: Args, log: Option<&LogQueue>) -> anyhow::Result<ExitCode> {
    let found = Config::find(args.config);
    let config = match found.and_then(|path| Config::load(&path, env)) {
        Ok(config) => config,
        Err(errors) => {
            super::complain_behind(log, errors);
            return Ok(ExitCode::from(2));
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    tell_panics();
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

/// Whoever starts programs gives them few file descriptors, for those that count
/// them in an `int` of 1983, and lets them have more for the asking.
fn raise_file_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = hard.min(FILES_WANTED).max(soft);
    if soft < wanted {
        // The warning says what there is, if this does not help.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
    }
    if wanted < FILES_WANTED {
        tracing::warn!(
            limit = wanted,
            "few file descriptors: when they are gone new connections wait until others end; \
             raise the limit to {FILES_WANTED} (ulimit -n, LimitNOFILE=)"
        );
    }
}

/// A panic is told in the log, whose lines never wait for a reader.
fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{backtrace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
