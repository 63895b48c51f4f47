//! `snowpit replay`: what the engine says of captures.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use super::time::clock;
use crate::capture::Captures;
use crate::config::Config;
use crate::engine::incident::{Effect, Event};
use crate::engine::words;
use crate::replay::{Replay, Step, Summary};

/// Lines left out that are told one by one; the rest is counted.
const TOLD: u64 = 20;

/// Samples between two looks at how far it is.
const PROGRESS_EVERY: u64 = 500;

/// Files together above which progress is shown, in bytes: below it all is over
/// before anybody has read it.
const LONG: u64 = 4 * 1024 * 1024;

/// Exit status for a file that is bad.
const BAD_FILE: u8 = 2;

/// Run captures through the same engine and print what it would have said.
///
/// Captures are JSON Lines, plain or compressed with gzip or zstd, which is told
/// by their content. Files of one daemon are put in the order in which it wrote
/// them; others are merged by time. A directory stands for the files in it.
///
/// With --config, the thresholds ([detect]), the named locks and the pooler
/// addresses are those of the file, and services are added that the captures do
/// not name. Exit status 2 when a file or a line of one is bad.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  snowpit replay /var/lib/snowpit/captures\n  snowpit replay --json --config tuned.toml incident.jsonl.zst"
)]
pub struct Args {
    /// Captures, or directories of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Judge with the thresholds of this configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON object for each change of an incident
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Results cannot be written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let configured = match &args.config {
        None => None,
        Some(path) => match Config::load(path, |name| std::env::var(name).ok()) {
            Ok(config) => Some(config.settings),
            Err(errors) => {
                super::complain(errors);
                return Ok(ExitCode::from(BAD_FILE));
            }
        },
    };
    // Reads files and computes for as long as it takes.
    tokio::task::spawn_blocking(move || {
        let captures = match Captures::open(&args.files) {
            Ok(captures) => captures,
            Err(errors) => {
                for error in errors {
                    super::complain(format_args!("snowpit: {error}"));
                }
                return Ok(ExitCode::from(BAD_FILE));
            }
        };
        let settings = captures.settings();
        let replay = Replay::new(captures, settings);
        let replay = match configured {
            Some(configured) => replay.tuned_by(configured),
            None => replay,
        };
        play(replay, args.json)
    })
    .await?
}

fn play(mut replay: Replay, json: bool) -> anyhow::Result<ExitCode> {
    let bar = progress_bar(replay.progress().1);
    let mut told = 0;
    while let Some(step) = replay.step() {
        match step {
            Step::Applied(effects) => {
                for effect in effects {
                    let text = if json {
                        format!("{}\n", serde_json::to_string(&effect)?)
                    } else {
                        entry(&effect)
                    };
                    bar.suspend(|| super::print(&text))?;
                }
            }
            Step::LeftOut(rejected) if told < TOLD => {
                told += 1;
                bar.suspend(|| super::complain(format_args!("snowpit: {rejected}")));
            }
            Step::LeftOut(_) => {}
        }
        if replay.summary().samples.is_multiple_of(PROGRESS_EVERY) {
            bar.set_position(replay.progress().0);
        }
    }
    bar.finish_and_clear();
    let summary = replay.summary();
    super::complain(closing(&summary));
    Ok(if summary.rejected > 0 {
        ExitCode::from(BAD_FILE)
    } else {
        ExitCode::SUCCESS
    })
}

/// Hidden unless a person watches and it takes a while.
fn progress_bar(bytes: u64) -> ProgressBar {
    if bytes < LONG || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    match ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// One change as a person reads it.
fn entry(effect: &Effect) -> String {
    let incident = &effect.incident;
    let event = match effect.event {
        Event::Opened => "opened",
        Event::Updated => "updated",
        Event::Resolved => "resolved",
    };
    let tail = match effect.event {
        Event::Resolved => format!(
            "after {}",
            words::duration((effect.t - incident.onset_at).max(0.0))
        ),
        Event::Opened | Event::Updated => incident.summary.clone(),
    };
    format!(
        "{}  {event:<8}  {:<8}  {}\n    {tail}\n",
        clock(effect.t),
        incident.severity.as_str(),
        incident.id,
    )
}

fn closing(summary: &Summary) -> String {
    let span = summary.span.map_or_else(String::new, |(first, last)| {
        format!(" of {}", words::duration((last - first).max(0.0)))
    });
    let mut text = format!(
        "{}{span}; {} opened, {} resolved",
        words::plural(summary.samples as f64, "sample"),
        words::plural(summary.opened as f64, "incident"),
        words::count(summary.resolved as f64),
    );
    if summary.rejected > 0 {
        let lines = words::plural(summary.rejected as f64, "bad line");
        text.push_str(&format!("; {lines} left out"));
    }
    if summary.cut > 0 {
        let lines = words::plural(summary.cut as f64, "unfinished or unknown line");
        text.push_str(&format!("; {lines} left out"));
    }
    text
}
