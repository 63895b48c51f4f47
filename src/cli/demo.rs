//! `snowpit demo`: plays incidents on private servers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::demo::{self, DemoError, Scenario};

/// What a shell makes of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Stage real incidents on private servers and show what is detected when.
///
/// Starts a PostgreSQL, a PgBouncer and a small application in a temporary
/// directory, watches them with snowpit, and stages an incident whose cause is
/// known. Exit status 0 when each was detected and named right.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  snowpit demo --scenario orphan\n  snowpit demo --keep kept && snowpit replay kept/captures"
)]
pub struct Args {
    /// Which incident to stage; `list` describes them.
    #[arg(long, value_enum, default_value_t = Choice::All)]
    scenario: Choice,
    /// Print one JSON object on stdout; the timeline goes to stderr.
    #[arg(long)]
    json: bool,
    /// Keep the capture of what was watched, and the journal, in this directory,
    /// which must be empty or not there; for `snowpit replay`.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Orphan,
    Avalanche,
    All,
    List,
}

/// Runs the command.
///
/// # Errors
/// The demo could not be played, which is not the same as an incident that was
/// not detected.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let scenarios = match args.scenario {
        Choice::Orphan => vec![Scenario::Orphan],
        Choice::Avalanche => vec![Scenario::Avalanche],
        Choice::All => Scenario::ALL.to_vec(),
        Choice::List => return list(args.json),
    };
    let report = match demo::run(&scenarios, args.json, args.keep.as_deref()).await {
        Ok(report) => report,
        Err(error @ DemoError::Interrupted) => {
            super::complain(format_args!("snowpit: {error}"));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    }
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let scenarios: Vec<_> = Scenario::ALL
            .iter()
            .map(|scenario| {
                serde_json::json!({
                    "name": scenario.name(),
                    "description": scenario.description(),
                })
            })
            .collect();
        super::print(&format!("{}\n", serde_json::to_string_pretty(&scenarios)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = Scenario::ALL
        .iter()
        .map(|scenario| format!("{:<10} {}\n", scenario.name(), scenario.description()));
    super::print(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
