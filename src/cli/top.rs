//! `snowpit top`: what a daemon knows on a terminal, or, without a daemon, what
//! the servers tell.

use std::io::{ErrorKind, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::complain;
use crate::config::{Config, ConfigErrors, DEFAULT_LISTEN, plain_file};
use crate::daemon::{self, RunningDaemon};
use crate::expose::terminal::{self, Daemon, Door, Refusal};

/// How long each room of a program without a daemon may take to stop.
const GRACE: Duration = Duration::from_secs(1);

/// Show live what the daemon knows: incidents, servers, locks, routes.
///
/// Keys are shown at the bottom; ? shows all. NO_COLOR is heard.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snowpit top                                            the daemon on this machine
  snowpit top --url https://ops@db1:9899 --ca-file ca.pem
  snowpit top --dsn postgresql://snowpit@db.internal/postgres
  snowpit top --dsn postgresql://snowpit@db/postgres --pooler-dsn postgresql://stats@pooler:6432/pgbouncer

With --dsn no daemon is needed: it looks at the servers by itself, read only, and
learns what is normal while it runs.

Exit status: 0; 1 when nothing answers or there is no terminal; 2 when an option
or the configuration is wrong.")]
pub struct Args {
    /// Address of the daemon; may have user:password@ [default: that of the
    /// configuration file, else http://127.0.0.1:9899]
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "dsn"])]
    url: Option<String>,
    /// The configuration file of the daemon, for its address [default:
    /// ./snowpit.toml, then /etc/snowpit/snowpit.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "dsn")]
    config: Option<PathBuf>,
    /// A PostgreSQL server to look at without a daemon; may be repeated
    #[arg(long, value_name = "DSN")]
    dsn: Vec<String>,
    /// The console of a PgBouncer in front of the only --dsn; may be repeated
    #[arg(long, value_name = "DSN", requires = "dsn")]
    pooler_dsn: Vec<String>,
    /// PEM file of the certificates to trust for an https address [default: the
    /// system's]
    #[arg(long, value_name = "FILE", conflicts_with = "dsn")]
    ca_file: Option<PathBuf>,
    /// File with the bearer token that the daemon asks for
    #[arg(long, value_name = "FILE", conflicts_with = "dsn")]
    bearer_token_file: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When nothing answers, or when the terminal is gone.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() {
        anyhow::bail!(
            "top needs a terminal, and standard output is none: \
             snowpit locks prints once, and the daemon answers JSON below /api/v1/"
        );
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if !args.dsn.is_empty() {
        return by_itself(&args, colour).await;
    }
    let url = match address(&args) {
        Ok(url) => url,
        Err(errors) => {
            complain(errors);
            complain("snowpit: to look at a daemon elsewhere, name its address with --url");
            return Ok(ExitCode::from(2));
        }
    };
    let daemon = Daemon::new(&url, args.ca_file, args.bearer_token_file);
    let daemon = match daemon {
        Ok(daemon) => daemon,
        Err(wrong) => {
            complain(format_args!("snowpit: {wrong}"));
            return Ok(ExitCode::from(2));
        }
    };
    let heard = match terminal::hear(Door::Daemon(daemon)).await {
        Ok(heard) => heard,
        Err(why @ Refusal::Unreachable { .. }) => anyhow::bail!(
            "{why}; start the daemon with snowpit run, name its address with --url URL, or look \
             without one with snowpit top --dsn postgresql://…"
        ),
        Err(why) => return Err(why.into()),
    };
    terminal::run(heard, colour).await?;
    Ok(ExitCode::SUCCESS)
}

/// Where the daemon answers.
fn address(args: &Args) -> Result<String, ConfigErrors> {
    if let Some(url) = &args.url {
        return Ok(url.clone());
    }
    let (listen, scheme) = match Config::find(args.config.clone()) {
        // A file that only the daemon may read says nothing to others.
        Ok(path) if args.config.is_none() && is_closed(&path) => (DEFAULT_LISTEN, "http"),
        Ok(path) => {
            let config = Config::load(&path, |name| std::env::var(name).ok())?;
            let tls = config.doors.server.tls.is_some();
            (config.listen, if tls { "https" } else { "http" })
        }
        Err(_) => (DEFAULT_LISTEN, "http"),
    };
    Ok(format!("{scheme}://{}", reachable(listen)))
}

fn is_closed(path: &std::path::Path) -> bool {
    let opened = plain_file::open(path);
    opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Who listens everywhere answers here too.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Without a daemon: the same rooms, in this process, and nobody listens.
async fn by_itself(args: &Args, colour: bool) -> anyhow::Result<ExitCode> {
    let environment = |name: &str| std::env::var(name).ok();
    let config = match Config::from_dsns(&args.dsn, &args.pooler_dsn, environment) {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return Ok(ExitCode::from(2));
        }
    };
    let (mut running, desk) = daemon::start_unheard(config).await?;
    let ended = tokio::select! {
        ended = show(desk, colour) => ended,
        failure = running.failed() => Err(failure.into()),
    };
    RunningDaemon::shutdown(running, GRACE).await;
    ended?;
    Ok(ExitCode::SUCCESS)
}

async fn show(desk: crate::expose::web::Desk, colour: bool) -> anyhow::Result<()> {
    let heard = terminal::hear(Door::Here(desk)).await?;
    Ok(terminal::run(heard, colour).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_here() {
        let cases = [
            ("0.0.0.0:9899", "127.0.0.1:9899"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.7:9899", "10.0.0.7:9899"),
        ];
        for (listen, asked) in cases {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
