//! `snowpit demo`: plays incidents on private servers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;

use crate::demo::{self, DemoError, Program, Scenario};

/// What a shell makes of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// Stagings that one set of servers plays in a row; with more, there are several
/// sets, at most [`MOST_STACKS`].
const STAGINGS_A_STACK: u32 = 4;
/// Two cores bear as many.
const MOST_STACKS: u32 = 3;
/// A seed that is easy to type.
const SEEDS: u64 = 1_000_000;
const ALL: &str = "all";
const LIST: &str = "list";

/// Stage real incidents on private servers and show what is detected when.
///
/// Starts a PostgreSQL, a PgBouncer and a small application in a temporary
/// directory, watches them with snowpit, and stages incidents whose causes are
/// known, with random parameters. Exit status 0 when each was detected and named
/// right.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  snowpit demo --scenario orphan\n  snowpit demo --scenario all --times 5 --seed 7\n  snowpit demo --keep kept && snowpit replay kept/captures"
)]
pub struct Args {
    /// Which incidents to stage, with commas between several; `all` stages each,
    /// `list` describes them. Without it: the orphan and the avalanche.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = choices())]
    scenario: Vec<String>,
    /// How often to stage each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    times: u32,
    /// Decides the random parameters; printed when it was not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Sets of servers to play on at the same time; by default one for every
    /// four stagings, and no more than three.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    stacks: Option<u32>,
    /// Print one JSON object on stdout; the timeline goes to stderr.
    #[arg(long)]
    json: bool,
    /// Keep the capture of what was watched, and the journal, in this directory,
    /// which must be empty or not there; for `snowpit replay`.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Start Prometheus and Alertmanager as well, and leave everything running at
    /// the end until Ctrl-C, to look around; on one set of servers.
    #[arg(long, conflicts_with = "stacks")]
    with_monitoring: bool,
}

fn choices() -> PossibleValuesParser {
    let names = Scenario::ALL.iter().map(|scenario| scenario.name());
    PossibleValuesParser::new(names.chain([ALL, LIST]))
}

/// Runs the command.
///
/// # Errors
/// The demo could not be played, which is not the same as an incident that was
/// not detected.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let asked = |word: &str| args.scenario.iter().any(|name| name == word);
    if asked(LIST) {
        return list(args.json);
    }
    let scenarios: Vec<Scenario> = if args.scenario.is_empty() {
        Scenario::SHORT.to_vec()
    } else {
        let all = Scenario::ALL.into_iter();
        all.filter(|scenario| asked(ALL) || asked(scenario.name()))
            .collect()
    };
    let stagings = args.times * scenarios.len() as u32;
    let stacks = args
        .stacks
        .unwrap_or_else(|| stagings.div_ceil(STAGINGS_A_STACK).min(MOST_STACKS));
    let program = Program {
        scenarios,
        times: args.times,
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..SEEDS)),
        stacks: stacks.min(stagings),
        quiet_stdout: args.json,
        keep: args.keep,
        monitoring: args.with_monitoring,
    };
    let report = match demo::run(&program).await {
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
        .map(|scenario| format!("{:<15} {}\n", scenario.name(), scenario.description()));
    super::print(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
