//! `snowpit check`: is the configuration good, does every source answer, and
//! what does each missing privilege cost?
//!
//! Every source is asked at the same time, and one that fails hides nothing of
//! the others. What is missing makes the exit status 1; a note does not.

mod listeners;
mod pgbouncer;
mod postgres;
mod render;
mod scrape;
mod services;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::config::{Config, ConfigErrors};

/// Check the configuration, and ask every source what it lets us see.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:\n  snowpit check --config /etc/snowpit/snowpit.toml")]
pub struct Args {
    /// Configuration file [default: ./snowpit.toml, then /etc/snowpit/snowpit.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the configuration only, connect to nothing
    #[arg(long)]
    pub offline: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The file that was read.
    pub config: String,
    /// In the order of the file; empty when nothing was asked.
    pub sources: Vec<Source>,
    pub findings: Vec<Finding>,
}

/// One server that was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    /// `postgres`, `pgbouncer` or `scrape`.
    pub source: &'static str,
    pub name: String,
    /// It answered.
    pub up: bool,
    pub version: Option<String>,
    /// `primary`, `standby`, `console` or `metrics`.
    pub role: Option<&'static str>,
    pub user: String,
    /// Those of the known ones that the user has.
    pub privileges: Vec<&'static str>,
    /// Seconds that the server's clock is ahead of ours.
    pub clock_offset_seconds: Option<f64>,
}

/// Something that a person may want to mend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// The name of a source, or a section of the file.
    pub subject: String,
    /// What is so.
    pub what: String,
    /// What it costs.
    pub cost: Option<String>,
    /// The statement, setting or step that mends it.
    pub fix: Option<String>,
}

/// Whether a finding decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Missing,
    Note,
}

impl Finding {
    fn new(level: Level, subject: &str, what: &str, cost: &str, fix: &str) -> Self {
        Self {
            level,
            subject: subject.to_owned(),
            what: what.to_owned(),
            cost: Some(cost.to_owned()),
            fix: Some(fix.to_owned()),
        }
    }

    /// A sentence that says it all by itself.
    fn sentence(level: Level, subject: &str, what: String) -> Self {
        Self {
            level,
            subject: subject.to_owned(),
            what,
            cost: None,
            fix: None,
        }
    }
}

impl Report {
    /// 0 all good, 1 something is missing.
    pub fn exit_status(&self) -> u8 {
        u8::from(self.findings.iter().any(|f| f.level == Level::Missing))
    }

    /// Tables and sentences for a person.
    pub fn to_text(&self) -> String {
        render::text(self)
    }
}

/// Exit status: 0 all good, 1 something is missing, 2 bad configuration.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = match load(args.config) {
        Ok(config) => config,
        Err(errors) => {
            super::complain(errors);
            return Ok(ExitCode::from(2));
        }
    };
    let report = if args.offline {
        read_only(&config)
    } else {
        look(&config).await
    };
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        report.to_text()
    };
    super::print(&text)?;
    Ok(ExitCode::from(report.exit_status()))
}

fn load(explicit: Option<PathBuf>) -> Result<Config, ConfigErrors> {
    let path = Config::find(explicit)?;
    Config::load(&path, |name| std::env::var(name).ok())
}

/// What the file alone tells.
pub fn read_only(config: &Config) -> Report {
    let warnings = config.warnings.iter().cloned();
    Report {
        config: config.path.as_ref().map_or_else(
            || "the configuration".to_owned(),
            |path| path.display().to_string(),
        ),
        sources: Vec::new(),
        findings: warnings
            .map(|warning| Finding::sentence(Level::Note, "configuration", warning))
            .chain(poolers(config))
            .collect(),
    }
}

/// Asks every source, all at once.
pub async fn look(config: &Config) -> Report {
    let mut probes = JoinSet::new();
    for source in &config.postgres {
        let source = source.clone();
        probes.spawn(async move { postgres::probe(&source).await });
    }
    for source in &config.pgbouncer {
        let source = source.clone();
        probes.spawn(async move { pgbouncer::probe(&source).await });
    }
    for page in &config.scrape {
        let page = page.clone();
        probes.spawn(async move { scrape::probe(&page).await });
    }
    let mut answers = probes.join_all().await;
    let order = |source: &Source| {
        let servers = config.postgres.iter().map(|p| ("postgres", &p.name));
        let poolers = config.pgbouncer.iter().map(|p| ("pgbouncer", &p.name));
        let pages = config.scrape.iter().map(|p| ("scrape", &p.name));
        servers
            .chain(poolers)
            .chain(pages)
            .position(|(kind, name)| kind == source.source && *name == source.name)
    };
    answers.sort_by_key(|(source, _)| order(source));
    let mut report = read_only(config);
    let notes = std::mem::take(&mut report.findings);
    for (source, findings) in answers {
        report.sources.push(source);
        report.findings.extend(findings);
    }
    report.findings.extend(ties(config).await);
    report.findings.extend(listeners::otlp(config));
    report.findings.extend(notes);
    // What is missing comes first; the sort keeps the order otherwise.
    report.findings.sort_by_key(|f| f.level != Level::Missing);
    report
}

/// How the services are tied to the targets that answer.
async fn ties(config: &Config) -> Vec<Finding> {
    if config.settings.services.is_empty() {
        return Vec::new();
    }
    let mut looks = JoinSet::new();
    for source in config.postgres.clone() {
        looks.spawn(async move {
            let sessions = services::sessions(&source).await?;
            Some((source.name, sessions))
        });
    }
    let looks = looks.join_all().await;
    let sessions: BTreeMap<_, _> = looks.into_iter().flatten().collect();
    services::findings(config, &sessions)
}

fn poolers(config: &Config) -> Option<Finding> {
    if config.settings.poolers_complete {
        return None;
    }
    Some(Finding::new(
        Level::Note,
        "[poolers]",
        "complete is false: there may be a PgBouncer that is not listed",
        "a lock holder that no listed pooler knows gets the verdict unknown, also when it is a direct session",
        "list every PgBouncer process in front of the targets, then set complete = true",
    ))
}
