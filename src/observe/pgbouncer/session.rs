//! One login on a PgBouncer console, kept from poll to poll.
//!
//! The console is picky, and the invariants follow from it: the simple protocol
//! only (an extended query, even a bare Sync, closes the connection), one
//! statement a message, no comment, no empty query, no `options` in the startup
//! packet. The login is into the pseudo-database `pgbouncer`, which is exempt
//! from `max_client_conn`, so it also succeeds in an avalanche.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, SqlState};

use crate::config::Dsn;
use crate::observe::address::{self, Resolver};
use crate::observe::failure::{self, Expected};
use crate::observe::{PollError, tls};
use crate::sample::FailureReason;

use super::rows::{Answer, PSEUDO_DATABASE};

const VERSION: &str = "SHOW VERSION";

/// A console that has said who it is.
pub struct Session {
    client: Client,
    version: Option<String>,
    _driver: Driver,
}

/// The task that moves the bytes. It ends with its value: a pooler that does not
/// answer would keep it, and the socket, for ever.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Logs in and asks for the version, within the `connect_timeout` of `dsn`.
    ///
    /// # Errors
    /// The console cannot be reached, does not let us in, or is none.
    pub async fn open(dsn: &Dsn) -> Result<Self, PollError> {
        let login = async {
            let addresses = Resolver::default().addresses(dsn).await?;
            Self::log_in(dsn.clone(), addresses).await
        };
        within(dsn, dsn.connect_timeout, login).await
    }

    /// The same without an end, for who waits for more than one; by these
    /// addresses of the host of `dsn`.
    ///
    /// # Errors
    /// As there.
    pub async fn log_in(dsn: Dsn, addresses: Vec<IpAddr>) -> Result<Self, PollError> {
        let dsn = &dsn;
        let (client, driver) = log_in(dsn, &addresses).await?;
        let answer = client
            .simple_query(VERSION)
            .await
            .map(Answer::new)
            .map_err(|error| no_console(error, dsn))?;
        let version = answer
            .iter()
            .next()
            .and_then(|row| row.text("version").map(version_number));
        Ok(Self {
            client,
            version,
            _driver: driver,
        })
    }

    /// For example `1.18.0`. Versions before 1.12 tell it in a NOTICE, which is
    /// not worth reading.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The answer to one SHOW command.
    ///
    /// # Errors
    /// The console is gone, or does not know the command.
    pub async fn ask(&self, dsn: &Dsn, statement: &str) -> Result<Answer, PollError> {
        self.client
            .simple_query(statement)
            .await
            .map(Answer::new)
            .map_err(|error| failure::asking(error, dsn, statement))
    }

    /// The same; `None` when the console says that it cannot answer, and goes on.
    ///
    /// # Errors
    /// The console is gone.
    pub async fn ask_if_known(
        &self,
        dsn: &Dsn,
        statement: &str,
    ) -> Result<Option<Answer>, PollError> {
        match self.ask(dsn, statement).await {
            Err(error) if error.said().is_some() && !self.client.is_closed() => Ok(None),
            asked => asked.map(Some),
        }
    }
}

/// Ends `work` with a failure when it is not done in time.
pub async fn within<T>(
    dsn: &Dsn,
    time: Duration,
    work: impl Future<Output = Result<T, PollError>>,
) -> Result<T, PollError> {
    match tokio::time::timeout(time, work).await {
        Ok(result) => result,
        Err(_) => Err(failure::timed_out(dsn, time.as_secs_f64())),
    }
}

async fn log_in(dsn: &Dsn, addresses: &[IpAddr]) -> Result<(Client, Driver), PollError> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&dsn.user)
        .dbname(&dsn.database)
        .application_name("snowpit")
        .connect_timeout(address::patience(dsn))
        // As for PostgreSQL: a peer that vanished without a word.
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    tls::secure(&mut config, dsn);
    if let Some(password) = &dsn.password {
        config.password(password);
    }
    let tls = tls::connector(dsn).await?;
    let (client, connection) = address::connect(config, tls, dsn, addresses)
        .await
        .map_err(|error| no_login(error, dsn))?;
    let driver = Driver(tokio::spawn(async move {
        // What ends it shows in the next answer.
        let _ = connection.await;
    }));
    Ok((client, driver))
}

/// `PgBouncer 1.18.0` → `1.18.0`; another pooler's name stays.
fn version_number(text: &str) -> String {
    text.strip_prefix("PgBouncer ").unwrap_or(text).to_owned()
}

/// Why the login failed: what only a console can mean by it first, then what it
/// has in common with every server.
fn no_login(error: tokio_postgres::Error, dsn: &Dsn) -> PollError {
    match error
        .as_db_error()
        .and_then(|said| console_refusal(said, dsn))
    {
        Some(refusal) => with_source(refusal, error),
        None => failure::connecting(error, dsn, Expected::Pgbouncer),
    }
}

fn console_refusal(said: &DbError, dsn: &Dsn) -> Option<PollError> {
    let (host, port) = (&dsn.host, dsn.port);
    // PostgreSQL names the function that raised an error; PgBouncer never does.
    if said.routine().is_some() {
        return Some(postgres_instead(dsn));
    }
    if said.message() == "not allowed" {
        return Some(PollError::new(
            FailureReason::Permission,
            format!(
                "user {} may not use the console of the PgBouncer at {host}:{port}: add it to \
                 stats_users in pgbouncer.ini and reload",
                dsn.user
            ),
        ));
    }
    if dsn.database != PSEUDO_DATABASE && said.message().contains("no such database") {
        return Some(other_database(dsn));
    }
    None
}

/// Why a login that succeeded is not a console. PostgreSQL takes `version` for
/// a setting and does not know it; a pool passes the question on to it.
fn no_console(error: tokio_postgres::Error, dsn: &Dsn) -> PollError {
    if error.code() != Some(&SqlState::UNDEFINED_OBJECT) {
        return failure::asking(error, dsn, VERSION);
    }
    let verdict = if dsn.database == PSEUDO_DATABASE {
        postgres_instead(dsn)
    } else {
        other_database(dsn)
    };
    with_source(verdict, error)
}

fn postgres_instead(dsn: &Dsn) -> PollError {
    PollError::new(
        FailureReason::Protocol,
        format!(
            "{}:{} is PostgreSQL, not a PgBouncer console: give PgBouncer's own host and port \
             under [[pgbouncer]] and this one under [[postgres]]",
            dsn.host, dsn.port
        ),
    )
}

fn other_database(dsn: &Dsn) -> PollError {
    PollError::new(
        FailureReason::Protocol,
        format!(
            "database {} at {}:{} is no PgBouncer console: end the dsn in /{PSEUDO_DATABASE}, and \
             check that host and port are PgBouncer's",
            dsn.database, dsn.host, dsn.port
        ),
    )
}

fn with_source(mut verdict: PollError, error: tokio_postgres::Error) -> PollError {
    verdict.source = Some(Box::new(error));
    verdict
}
