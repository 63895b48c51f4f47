//! `snowpit init`: a first configuration, from what the servers tell.
//!
//! Invariants: a password is never written; a file that is there is never
//! overwritten unasked; what is written passes `snowpit check --offline`.

mod found;
mod text;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::check::{self, Finding};
use super::complain;
use crate::config::{Config, Dsn, SINGLE_TARGET};
use crate::engine::words::name;
use found::{Found, Pooler, Server};
use text::Findings;

/// Longest name of a server or pooler, as the configuration has it.
const NAME: usize = 40;

/// The mode of a new file: no password is in it, and the user that the service
/// runs as is another one than who writes it.
const MODE: u32 = 0o644;

/// Write a first configuration file by asking the servers.
///
/// PostgreSQL and consoles of PgBouncer are told apart by asking. Nothing is
/// changed on them, and no password is written.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snowpit init postgresql://postgres@db.internal/postgres
  snowpit init postgresql://snowpit@db/postgres postgresql://stats@pooler:6432/pgbouncer
  PGPASSFILE=/etc/snowpit/pgpass snowpit init --output /etc/snowpit/snowpit.toml \"host=db user=snowpit\"

Then: snowpit check, snowpit run, snowpit top.

Exit status: 0 written; 1 a server does not answer, or the file is there already;
2 no connection string, or one that cannot be read.")]
pub struct Args {
    /// Connection strings of PostgreSQL servers and of PgBouncer consoles
    #[arg(value_name = "DSN")]
    dsn: Vec<String>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "snowpit.toml")]
    output: PathBuf,
    /// Overwrite the file when it is there
    #[arg(long)]
    force: bool,
    /// Try PgBouncer's port 6432 at the addresses that sessions come from; no
    /// password is sent there
    #[arg(long)]
    probe: bool,
}

/// Runs the command.
///
/// # Errors
/// The file cannot be written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.dsn.is_empty() {
        complain(
            "snowpit: init needs the connection string of a PostgreSQL server, and that of the \
             PgBouncer in front of it if there is one, such as\n  \
             snowpit init postgresql://postgres@127.0.0.1/postgres postgresql://stats@127.0.0.1:6432/pgbouncer",
        );
        return Ok(ExitCode::from(2));
    }
    // Before anybody is asked anything.
    if !args.force && args.output.symlink_metadata().is_ok() {
        complain(already_there(&args.output));
        return Ok(ExitCode::FAILURE);
    }
    for dsn in &args.dsn {
        if let Err(errors) = Config::from_dsn(dsn, environment) {
            complain(format_args!("snowpit: {}", found::sentences(&errors)));
            return Ok(ExitCode::from(2));
        }
    }
    let Some((mut servers, mut poolers)) = ask(&args.dsn).await else {
        return Ok(ExitCode::FAILURE);
    };
    if servers.is_empty() {
        let behind = poolers.iter().flat_map(|pooler| &pooler.behind);
        let behind: Vec<String> = behind
            .map(|(host, port)| format!("{}:{port}", name(host)))
            .collect();
        complain(format_args!(
            "snowpit: only PgBouncer answered; give the connection string of the PostgreSQL behind it, \
             too: its databases are at {}",
            behind.join(", ")
        ));
        return Ok(ExitCode::FAILURE);
    }
    let mut suspects = found::suspects(&servers, &poolers, args.probe);
    if args.probe {
        let more = found::probe(&mut suspects, &servers, &poolers).await;
        poolers.extend(more);
    }
    call(&mut servers, &mut poolers);
    let mut found = Findings {
        servers: &servers,
        poolers: &poolers,
        suspects: &suspects,
        lacks: &[],
        probed: args.probe,
    };
    let report = check::look(&with_passwords(&found)?).await;
    let lacks = report.findings.clone();
    found.lacks = &lacks;
    let text = text::file(&found);
    Config::parse(&text, "snowpit.toml", environment)
        .map_err(|errors| anyhow::anyhow!("what was made is no configuration: {errors}"))?;
    let (output, force) = (args.output.clone(), args.force);
    let written = tokio::task::spawn_blocking(move || write(&output, &text, force));
    let mode = match written.await? {
        Ok(mode) => mode,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            complain(already_there(&args.output));
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => {
            let context = format!("{} cannot be written", args.output.display());
            return Err(error).context(context);
        }
    };
    super::print(&told(&args.output, mode, &found, &report.findings))?;
    Ok(ExitCode::SUCCESS)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn already_there(path: &Path) -> String {
    format!(
        "snowpit: {} is there already; name another file with --output FILE, or overwrite it with --force",
        path.display()
    )
}

/// All of them, or nothing and why.
async fn ask(all: &[String]) -> Option<(Vec<Server>, Vec<Pooler>)> {
    let (mut servers, mut poolers) = (Vec::new(), Vec::new());
    let mut silent = false;
    for dsn in all {
        match found::ask(dsn).await {
            Ok(Found::Server(server)) => servers.push(*server),
            Ok(Found::Pooler(pooler)) => poolers.push(*pooler),
            Err(why) => {
                complain(format_args!("snowpit: {why}"));
                silent = true;
            }
        }
    }
    if silent {
        complain("snowpit: nothing was written");
        return None;
    }
    call(&mut servers, &mut poolers);
    Some((servers, poolers))
}

/// Gives names, and each pooler the server that is behind it.
fn call(servers: &mut [Server], poolers: &mut [Pooler]) {
    let mut taken = BTreeSet::new();
    let alone = servers.len() == 1;
    for server in servers.iter_mut() {
        let name = name_of(&server.config.connection, alone, &mut taken);
        server.config.name.clone_from(&name);
        server.name = name;
    }
    for (index, pooler) in poolers.iter_mut().enumerate() {
        pooler.name = format!("pooler-{}", index + 1);
        pooler.config.name.clone_from(&pooler.name);
        let behind: Vec<&Server> = servers
            .iter()
            .filter(|server| found::is_behind(pooler, server))
            .collect();
        let target = std::mem::take(&mut pooler.config.target);
        // With one server it is that one; of several only one that is sure.
        pooler.config.target = match (&behind[..], &*servers) {
            ([one], _) => one.name.clone(),
            ([], [one]) => one.name.clone(),
            // Its sessions were seen there.
            _ if servers.iter().any(|server| server.name == target) => target,
            _ => String::new(),
        };
    }
}

/// A name for the label: the host's first word where it has one.
fn name_of(dsn: &Dsn, alone: bool, taken: &mut BTreeSet<String>) -> String {
    let is_address = dsn.host.parse::<std::net::IpAddr>().is_ok();
    let word = dsn.host.split('.').next().unwrap_or_default();
    let word: String = word
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
        .take(NAME)
        .collect();
    let plain = alone && (is_address || dsn.host.starts_with('/') || word == "localhost");
    let base = if plain || word.is_empty() {
        SINGLE_TARGET.to_owned()
    } else if is_address {
        dsn.host.replace(':', "-")
    } else {
        word
    };
    let names = std::iter::once(base.clone());
    let mut names = names.chain((2..).map(|number| format!("{base}-{number}")));
    let name = names.find(|name| !taken.contains(name)).unwrap_or(base);
    taken.insert(name.clone());
    name
}

/// The configuration as it will be, with the passwords of the moment.
fn with_passwords(found: &Findings<'_>) -> anyhow::Result<Config> {
    let text = text::file(found);
    let mut config = Config::parse(&text, "snowpit.toml", environment)
        .map_err(|errors| anyhow::anyhow!("what was made is no configuration: {errors}"))?;
    for server in found.servers {
        let mut known = config.postgres.iter_mut();
        if let Some(known) = known.find(|known| known.name == server.name) {
            known.connection = server.config.connection.clone();
        }
    }
    for pooler in found.poolers {
        let mut known = config.pgbouncer.iter_mut();
        if let Some(known) = known.find(|known| known.name == pooler.name) {
            known.connection = pooler.config.connection.clone();
        }
    }
    Ok(config)
}

/// Whole or not at all. What is overwritten keeps its mode, which is given back.
fn write(path: &Path, text: &str, force: bool) -> std::io::Result<u32> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let old = std::fs::metadata(path).ok().filter(|_| force);
    let mode = old.map_or(MODE, |old| old.permissions().mode() & 0o777);
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    let permissions = Permissions::from_mode(mode);
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    if force {
        file.persist(path)?;
    } else {
        file.persist_noclobber(path)?;
    }
    std::fs::File::open(directory)?.sync_all()?;
    Ok(mode)
}

/// What was found, and how to go on.
fn told(path: &Path, mode: u32, found: &Findings<'_>, lacks: &[Finding]) -> String {
    let mut lines = vec![format!("{} is written, mode {mode:04o}.", path.display())];
    for server in found.servers {
        lines.push(format!(
            "  {}: PostgreSQL at {}",
            server.name, server.config.connection
        ));
        if server.had_password {
            lines.push("    its password is not in the file: see password_file there".to_owned());
        }
    }
    for pooler in found.poolers {
        let target = &pooler.config.target;
        let target = match (target.as_str(), found::is_sure(pooler, found.servers)) {
            ("", _) => "nobody knows which server".to_owned(),
            (target, true) => target.to_owned(),
            (target, false) => format!("{target}: not sure, see the file"),
        };
        let at = &pooler.config.connection;
        lines.push(format!(
            "  {}: PgBouncer at {at}, in front of {target}",
            pooler.name
        ));
        if pooler.had_password {
            lines.push("    its password is not in the file: see password_file there".to_owned());
        }
    }
    for one in found.suspects {
        lines.push(format!(
            "  {} may be a pooler: {} sessions; see [poolers] in the file",
            one.address, one.sessions
        ));
    }
    let missing = lacks
        .iter()
        .filter(|finding| finding.level == check::Level::Missing);
    let missing: Vec<String> = missing
        .map(|finding| match &finding.fix {
            Some(fix) => format!(
                "  missing: {}: {}; mend: {fix}",
                finding.subject, finding.what
            ),
            None => format!("  missing: {}: {}", finding.subject, finding.what),
        })
        .collect();
    lines.extend(missing);
    let option = if path == Path::new("snowpit.toml") {
        String::new()
    } else {
        format!(" --config {}", path.display())
    };
    lines.push("Go on with:".to_owned());
    for (command, words) in [
        ("check", "what it leads to"),
        ("run", "watch; the page is at http://127.0.0.1:9899/"),
        ("top", "the same on this terminal"),
    ] {
        lines.push(format!("  snowpit {command}{option}    # {words}"));
    }
    lines.join("\n") + "\n"
}
