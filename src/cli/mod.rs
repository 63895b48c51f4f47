//! The command line: one file a subcommand, each thin.

pub mod check;
pub mod demo;
pub mod eval;
pub mod incidents;
pub mod init;
pub mod locks;
mod log_queue;
pub mod replay;
pub mod run;
pub mod shell;
mod time;
pub mod top;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use log_queue::LogQueue;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::expose::terminal::plain_line;

/// Observability for PostgreSQL behind PgBouncer: which endpoint started this
/// connection avalanche, and which advisory lock is held by nobody.
#[derive(Debug, Parser)]
#[command(
    name = "snowpit",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
To begin:
  snowpit demo                          stage real incidents on private servers
  snowpit top --dsn postgresql://…      look at a server now, without any file
  snowpit init postgresql://…           ask your servers, and write ./snowpit.toml
  snowpit check                         what ./snowpit.toml leads to
  snowpit run                           watch, and show it at http://127.0.0.1:9899/
  snowpit top                           the same on this terminal"
)]
pub struct Cli {
    /// Format of the log on stderr. RUST_LOG sets what is logged.
    #[arg(long, value_enum, global = true, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Run(run::Args),
    Check(check::Args),
    Top(top::Args),
    Locks(locks::Args),
    Incidents(incidents::Args),
    Replay(replay::Args),
    Demo(demo::Args),
    Eval(eval::Args),
    Completions(shell::CompletionArgs),
    Man(shell::ManArgs),
}

impl Command {
    /// What is logged when RUST_LOG is not set.
    fn usual_log(&self) -> &'static str {
        match self {
            Self::Run(_) | Self::Check(_) => "info",
            // It would write over what is shown.
            Self::Top(_) => "off",
            Self::Locks(args) if args.watch => "off",
            Self::Locks(_) => "info",
            // The timeline tells the same, and in order.
            Self::Demo(_) => "off",
            Self::Init(_) | Self::Replay(_) | Self::Incidents(_) | Self::Eval(_) => "warn",
            Self::Completions(_) | Self::Man(_) => "warn",
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Behind the number of lines.
const DROPPED: &str = "lines of the log were dropped here, because nobody read it";

/// Runs the command that was asked for.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    let queue = start_logging(&cli);
    let outcome = match cli.command {
        Command::Init(args) => init::run(args).await,
        Command::Run(args) => run::run(args, queue.as_ref()).await,
        Command::Check(args) => check::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Locks(args) => locks::run(args).await,
        Command::Incidents(args) => incidents::run(args).await,
        Command::Replay(args) => replay::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Eval(args) => eval::run(args).await,
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    };
    let status = outcome.unwrap_or_else(|error| {
        complain_behind(queue.as_ref(), format_args!("snowpit: {error:#}"));
        ExitCode::FAILURE
    });
    if let Some(queue) = queue {
        queue.finish();
    }
    status
}

/// Writes results to stdout. A reader that has seen enough, as `head` has, is
/// no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Says something on stderr. When nobody can read it there is nobody to tell,
/// which is no reason to panic as `eprintln!` does.
pub fn complain(text: impl Display) {
    let text = harmless(&text.to_string());
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The same, behind the lines of the log where they go through a queue: its
/// thread holds stderr for as long as nobody reads it.
fn complain_behind(log: Option<&LogQueue>, text: impl Display) {
    match log {
        Some(log) => log.last_words(&text.to_string()),
        None => complain(text),
    }
}

/// Lines that a terminal only shows: they may quote what somebody else answered.
fn harmless(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(plain_line).collect();
    lines.join("\n")
}

/// Only the daemon logs behind a queue: whoever types a command reads its log in
/// order with its results.
fn start_logging(cli: &Cli) -> Option<LogQueue> {
    let usual = cli.command.usual_log();
    // Lines between those of a screen that is drawn would spoil it.
    let spoils = matches!(cli.command, Command::Top(_)) && io::stderr().is_terminal();
    let wished = EnvFilter::try_from_default_env().ok();
    let wished = wished.filter(|_| !spoils);
    let filter = wished.unwrap_or_else(|| EnvFilter::new(usual));
    let queue = match (&cli.command, cli.log_format) {
        (Command::Run(_), LogFormat::Text) => LogQueue::start(io::stderr(), dropped_in_text).ok(),
        (Command::Run(_), LogFormat::Json) => LogQueue::start(io::stderr(), dropped_in_json).ok(),
        _ => None,
    };
    let writer = match &queue {
        Some(queue) => BoxMakeWriter::new(queue.clone()),
        None => BoxMakeWriter::new(io::stderr),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would tell of them on the stream that just failed, and panic there.
        .log_internal_errors(false)
        .with_writer(writer);
    match cli.log_format {
        LogFormat::Text => {
            let colour = io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            log.with_ansi(colour).with_target(false).init();
        }
        LogFormat::Json => log.json().init(),
    }
    queue
}

fn dropped_in_text(lines: u64) -> String {
    format!("WARN {lines} {DROPPED}")
}

fn dropped_in_json(lines: u64) -> String {
    let fields = serde_json::json!({"message": DROPPED, "lines": lines});
    serde_json::json!({"level": "WARN", "fields": fields}).to_string()
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn a_complaint_cannot_steer_the_terminal() {
        let said = harmless("snowpit: 400: \u{1b}]0;gone\u{7}\u{9b}2J\u{202e}x\n  see \"file\"");
        assert!(
            !said.contains(|c: char| c.is_control() && c != '\n'),
            "{said:?}"
        );
        assert!(!said.contains('\u{202e}'), "{said:?}");
        assert!(said.ends_with("\n  see \"file\""), "{said:?}");
    }
}
