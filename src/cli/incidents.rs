//! `snowpit incidents`: the journal of past and open incidents.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;

use super::time::clock;
use crate::config::Config;
use crate::engine::incident::{Incident, Kind};
use crate::engine::words;
use crate::expose::journal::Journal;
use crate::observe::poll::unix_now;

/// Exit status for a configuration or a journal that is bad.
const BAD: u8 = 2;

/// Width of the table when nobody says how wide the terminal is.
const USUAL_WIDTH: u16 = 120;

/// List incidents of the journal, open ones first, newest first.
///
/// Reads the file that the daemon keeps below [history] directory; the daemon
/// need not run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  snowpit incidents --since 24h --kind connection_avalanche --json"
)]
pub struct Args {
    /// Configuration file [default: ./snowpit.toml, then /etc/snowpit/snowpit.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only those that were open in this time, such as 24h or 7d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only those of this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only those of this kind
    #[arg(long, value_enum)]
    kind: Option<KindName>,
    /// Only those that are open
    #[arg(long)]
    open: bool,
    /// Print the whole records as one JSON object
    #[arg(long)]
    json: bool,
}

/// A kind by its word of the contract.
#[derive(Debug, Clone, Copy)]
struct KindName(Kind);

impl ValueEnum for KindName {
    fn value_variants<'a>() -> &'a [Self] {
        const COUNT: usize = Kind::ALL.len();
        const NAMES: [KindName; COUNT] = {
            let mut names = [KindName(Kind::ALL[0]); COUNT];
            let mut i = 0;
            while i < COUNT {
                names[i] = KindName(Kind::ALL[i]);
                i += 1;
            }
            names
        };
        &NAMES
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.as_str()))
    }
}

/// Runs the command.
///
/// # Errors
/// Results cannot be written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let found = Config::find(args.config.clone());
    let environment = |name: &str| std::env::var(name).ok();
    let config = match found.and_then(|path| Config::load(&path, environment)) {
        Ok(config) => config,
        Err(errors) => {
            super::complain(errors);
            return Ok(ExitCode::from(BAD));
        }
    };
    let Some(history) = config.history else {
        super::complain(
            "snowpit: the configuration has no \"directory\" in [history], so no journal is kept; \
             set one to keep incidents",
        );
        return Ok(ExitCode::from(BAD));
    };
    let journal = tokio::task::spawn_blocking(move || Journal::load(&history.directory)).await?;
    let journal = match journal {
        Ok(journal) => journal,
        Err(error) => {
            super::complain(format_args!("snowpit: {error}"));
            return Ok(ExitCode::from(BAD));
        }
    };
    for damage in &journal.damage {
        super::complain(format_args!("snowpit: {damage}"));
    }
    let now = unix_now();
    let incidents = select(&journal, &args, now);
    if args.json {
        let answer = json!({ "at": now, "incidents": incidents });
        super::print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
    } else {
        super::print(&table(&incidents, now))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Open ones first, then resolved ones, both newest first.
fn select(journal: &Journal, args: &Args, now: f64) -> Vec<Incident> {
    let since = args.since.map(|since| now - since.as_secs_f64());
    let mut open: Vec<Incident> = journal.open().map(|(_, incident)| incident).collect();
    open.reverse();
    open.into_iter()
        .chain(journal.resolved())
        .filter(|incident| !args.open || incident.resolved_at.is_none())
        .filter(|incident| args.kind.is_none_or(|kind| kind.0 == incident.kind))
        .filter(|incident| {
            let target = args.target.as_ref();
            target.is_none_or(|target| *target == incident.target)
        })
        .filter(|incident| {
            let over = incident.resolved_at.unwrap_or(f64::INFINITY);
            since.is_none_or(|since| over >= since)
        })
        .collect()
}

fn table(incidents: &[Incident], now: f64) -> String {
    if incidents.is_empty() {
        return "no incident\n".to_owned();
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(terminal_size::terminal_size().map_or(USUAL_WIDTH, |(width, _)| width.0))
        .set_header(["OPENED (UTC)", "LASTED", "SEVERITY", "KIND", "SUMMARY"]);
    for incident in incidents {
        let lasted = match incident.resolved_at {
            Some(over) => words::duration(over - incident.onset_at),
            None => format!("{}, open", words::duration(now - incident.onset_at)),
        };
        table.add_row([
            clock(incident.opened_at),
            lasted,
            incident.severity.as_str().to_owned(),
            incident.kind.as_str().to_owned(),
            incident.summary.clone(),
        ]);
    }
    format!("{table}\n")
}
