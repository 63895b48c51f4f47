//! `snowpit eval`: how good the detection and the names are, on incidents whose
//! cause is known.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::eval::fit::{refit, source};
use crate::eval::outcome::Outcome;
use crate::eval::run::{Plan, Quiet, quiet};
use crate::eval::scenario::{Evidence, Family, scenario};
use crate::eval::score::score;
use crate::eval::simulate::write_capture;
use crate::eval::table::render;

/// Parts of the work that are told when no terminal shows a bar.
const TOLD: usize = 10;

/// Simulate incidents with a known cause, replay them through the engine, and
/// score detection, attribution and confidence beside the published methods.
///
/// Sixty incidents a family on two cores take some minutes. Exit status 0 when
/// every floor that was measured holds, else 1. The same seed gives the same
/// figures; use one that nothing was tuned on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  snowpit eval --seed 7\n  snowpit eval --family flow --incidents 5 --write captures\n  snowpit eval --fit"
)]
pub struct Args {
    /// Which incidents: each seed is another set
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Incidents of each family
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    incidents: u32,
    /// Only this family; may be repeated
    #[arg(long, value_name = "NAME")]
    family: Vec<Family>,
    /// Days of quiet, seasonal traffic to look for false alarms in
    #[arg(long, default_value_t = 2, value_name = "DAYS")]
    quiet_days: u32,
    /// One JSON object in place of the tables
    #[arg(long)]
    json: bool,
    /// Write each incident as a capture into this directory, and judge nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "fit"])]
    write: Option<PathBuf>,
    /// Fit the confidences anew, on seeds that no report uses, and print the
    /// source file with the weights
    #[arg(long, conflicts_with = "json")]
    fit: bool,
    /// One line for each incident on stderr: what was said, and whether it was right
    #[arg(long)]
    explain: bool,
}

/// Runs the command.
///
/// # Errors
/// A capture or the results cannot be written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Computes for minutes.
    tokio::task::spawn_blocking(move || evaluate(&args)).await?
}

fn evaluate(args: &Args) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        families: if args.family.is_empty() {
            Family::ALL.to_vec()
        } else {
            args.family.clone()
        },
        incidents: args.incidents,
        seed: args.seed,
        fit: args.fit,
    };
    if let Some(directory) = &args.write {
        return write(&plan, directory);
    }
    let days = if args.fit { 0 } else { args.quiet_days };
    let progress = Progress::new(plan.pairs().len() + days as usize);
    let outcomes = plan.run(|| progress.step());
    if args.fit {
        progress.end();
        return fitted(args, &outcomes);
    }
    let calm = if days > 0 {
        quiet(args.seed, days, || progress.step())
    } else {
        Quiet::default()
    };
    progress.end();
    if args.explain {
        explain(&outcomes);
    }
    let score = score(&outcomes, calm);
    if args.json {
        let text = json!({"seed": args.seed, "incidents": args.incidents, "met": score.is_met(), "score": score});
        super::print(&format!("{text}\n"))?;
    } else {
        super::print(&render(&score))?;
    }
    Ok(if score.is_met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fitted(args: &Args, outcomes: &[Outcome]) -> anyhow::Result<ExitCode> {
    let models = refit(outcomes);
    let command = format!(
        "snowpit eval --fit --seed {} --incidents {}",
        args.seed, args.incidents
    );
    super::print(&source(&models, &command))?;
    Ok(ExitCode::SUCCESS)
}

/// One capture for each kind of evidence, with the truth beside it.
fn write(plan: &Plan, directory: &std::path::Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("create the directory {}", directory.display()))?;
    for (family, seed) in plan.pairs() {
        let scenario = scenario(family, seed);
        for evidence in Evidence::ALL {
            let written = write_capture(&scenario, evidence, directory)
                .with_context(|| format!("write a capture into {}", directory.display()))?;
            super::print(&format!("{}\n", written.capture.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(outcomes: &[Outcome]) {
    for outcome in outcomes {
        for heard in &outcome.heard {
            let evidence = heard.evidence.as_str();
            let family = outcome.family;
            let Some(told) = &heard.told else {
                super::complain(format_args!(
                    "{family} {:016x} {evidence}: no alarm; size {:.1} on {:.1}",
                    outcome.seed, outcome.truth.size, outcome.truth.base,
                ));
                continue;
            };
            let onset = outcome.truth.onset.unwrap_or(told.at);
            for answer in &told.answers {
                super::complain(format_args!(
                    "{family} {:016x} {evidence} +{}: delay {:.1}, onset {:+.1}, right at {:?} of {}, named {:?}, confidence {:?}, causes {:?}, first {:?} {:?}",
                    outcome.seed,
                    answer.after,
                    told.at - onset,
                    told.onset - onset,
                    answer.right_at,
                    answer.candidates,
                    answer.named,
                    answer.confidence,
                    answer.causes,
                    answer.first,
                    answer.standing,
                ));
            }
        }
    }
}

/// A bar where a person watches, some lines where nobody does.
struct Progress {
    bar: ProgressBar,
    all: usize,
    done: AtomicUsize,
    watched: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        let watched = std::io::stderr().is_terminal();
        let bar = if watched {
            ProgressBar::new(all as u64)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} left") {
            bar.set_style(style);
        }
        Self {
            bar,
            all,
            done: AtomicUsize::new(0),
            watched,
        }
    }

    fn step(&self) {
        self.bar.inc(1);
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = |done: usize| done * TOLD / self.all.max(1);
        if !self.watched && mark(done) > mark(done - 1) {
            super::complain(format_args!("snowpit: {done} of {} replayed", self.all));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
