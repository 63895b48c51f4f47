//! Private servers of the real programs: PostgreSQL, PgBouncer, Prometheus,
//! Alertmanager.
//!
//! The demo and every live test start their servers here and nowhere else.
//! Invariants: a server listens on loopback only, on a port that was free; it
//! runs as an unprivileged user when we are root; it lives in its own temporary
//! directory; dropping the value stops the process and removes the directory,
//! inside or outside an async runtime; when we are killed, the kernel ends the
//! process for us.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::unistd::{Uid, User};

pub mod alertmanager;
pub mod pgbouncer;
pub mod postgres;
mod process;
pub mod prometheus;
pub mod proxy;

pub use alertmanager::Alertmanager;
pub use pgbouncer::{Alias, PgBouncer, PgBouncerOptions, PoolerAuth};
pub use postgres::{Postgres, PostgresAuth, PostgresOptions, connect};
pub use process::die_with_parent;
pub use prometheus::Prometheus;
pub use proxy::{Proxy, Way};

/// How often another port is tried when somebody else took the one we found.
const PORT_ATTEMPTS: u32 = 8;
/// A server that is not ready by then never will be; a busy two-core machine
/// has needed six seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// One question to a server that is starting.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at a server that is starting.
const READY_POLL: Duration = Duration::from_millis(25);
/// How much of a server's log an error message carries, in bytes.
const LOG_TAIL: usize = 2048;

/// Why a private server could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("found no program `{program}`; install it ({package} on Debian) or set {variable}")]
    NotInstalled {
        program: &'static str,
        package: &'static str,
        variable: &'static str,
    },
    #[error(
        "we are root and there is neither a user `postgres` nor `nobody` to run a server as; create one"
    )]
    NoAccount,
    #[error("cannot prepare the temporary directory of {program}; is {} writable?", .directory.display())]
    Directory {
        program: &'static str,
        directory: PathBuf,
        source: io::Error,
    },
    #[error("cannot run {program}")]
    Spawn {
        program: &'static str,
        source: io::Error,
    },
    #[error("{program} ended with {status} before it was ready; its log ends:\n{log}")]
    Ended {
        program: &'static str,
        status: ExitStatus,
        log: String,
    },
    #[error("{program} was not ready within {} s; its log ends:\n{log}", READY_WITHIN.as_secs())]
    NotReady { program: &'static str, log: String },
    #[error("a connection to a private server failed")]
    Connection(#[from] tokio_postgres::Error),
}

/// The temporary directory of one server, owned by the user it runs as.
#[derive(Debug)]
struct Home {
    program: &'static str,
    directory: tempfile::TempDir,
    account: Option<User>,
}

impl Home {
    fn new(program: &'static str) -> Result<Self, ServerError> {
        let account = unprivileged_account()?;
        let prefix = format!("snowpit-{program}-");
        let made = tempfile::Builder::new().prefix(&prefix).tempdir();
        let directory = made.map_err(|source| ServerError::Directory {
            program,
            directory: std::env::temp_dir(),
            source,
        })?;
        let home = Self {
            program,
            directory,
            account,
        };
        home.give_away(home.path())?;
        Ok(home)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file that the server can read.
    fn write(&self, name: &str, content: &str) -> Result<PathBuf, ServerError> {
        let path = self.path().join(name);
        std::fs::write(&path, content).map_err(|source| self.error(source))?;
        self.give_away(&path)?;
        Ok(path)
    }

    /// A command that runs as the unprivileged user, in this directory, in its
    /// own process group, and writes to the log here.
    fn command(&self, program: &Path) -> Result<Command, ServerError> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(|source| self.error(source))?;
        let output = log.try_clone().map_err(|source| self.error(source))?;
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            // Ctrl-C on a terminal reaches the whole foreground group; servers
            // are stopped by us, in order.
            .process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
        }
        Ok(command)
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("server.log")
    }

    /// The end of what the server wrote.
    fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    fn give_away(&self, path: &Path) -> Result<(), ServerError> {
        let Some(account) = &self.account else {
            return Ok(());
        };
        chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
            .map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> ServerError {
        ServerError::Directory {
            program: self.program,
            directory: self.path().to_path_buf(),
            source,
        }
    }

    /// Why a server that ended is not there: the port was taken, or something
    /// that another port cannot mend.
    fn ended(&self, status: ExitStatus) -> Failure {
        if self.port_taken() {
            return Failure::PortTaken;
        }
        Failure::Fatal(ServerError::Ended {
            program: self.program,
            status,
            log: self.log_tail(),
        })
    }

    /// PgBouncer goes on with its unix socket alone when the port is taken, so
    /// its log has to be read even while it runs.
    fn port_taken(&self) -> bool {
        self.log_tail()
            .to_lowercase()
            .contains("address already in use")
    }
}

/// Why one attempt to start a server failed.
enum Failure {
    PortTaken,
    Fatal(ServerError),
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::Fatal(error)
    }
}

/// Waits until `ready` answers true, the process ended, or the time is up.
async fn await_ready<F, R>(
    home: &Home,
    process: &process::ServerProcess,
    mut ready: F,
) -> Result<(), Failure>
where
    F: FnMut() -> R,
    R: Future<Output = bool>,
{
    let watch = async {
        loop {
            if let Some(status) = process.exit_status() {
                return Err(home.ended(status));
            }
            if home.port_taken() {
                return Err(Failure::PortTaken);
            }
            // A foreign server on a port that we lost may answer as well.
            // And it may accept and keep silent, so the question has its time.
            let answered = tokio::time::timeout(ANSWER_WITHIN, ready()).await;
            if answered == Ok(true) && process.exit_status().is_none() && !home.port_taken() {
                return Ok(());
            }
            tokio::time::sleep(READY_POLL).await;
        }
    };
    match tokio::time::timeout(READY_WITHIN, watch).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Fatal(ServerError::NotReady {
            program: home.program,
            log: home.log_tail(),
        })),
    }
}

/// The wanted port at the first attempt, else one that was free a moment ago.
fn choose_port(wanted: &mut Option<u16>) -> io::Result<u16> {
    if let Some(port) = wanted.take() {
        return Ok(port);
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Whom to run a server as: nobody special unless we are root, since both
/// PostgreSQL and PgBouncer refuse root.
fn unprivileged_account() -> Result<Option<User>, ServerError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(Some)
        .ok_or(ServerError::NoAccount)
}

/// Looks for a program: in the file that an environment variable names, else
/// along PATH and in the directories where Debian keeps daemons.
fn find_program(
    program: &'static str,
    package: &'static str,
    variable: &'static str,
) -> Result<PathBuf, ServerError> {
    let missing = ServerError::NotInstalled {
        program,
        package,
        variable,
    };
    if let Some(path) = std::env::var_os(variable) {
        return Some(PathBuf::from(path))
            .filter(|path| path.is_file())
            .ok_or(missing);
    }
    search_path(program).ok_or(missing)
}

fn search_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
