//! The one session that is kept with a PostgreSQL server.
//!
//! Invariants: it reads only, never waits long for anything, and is closed with
//! its value. Its settings travel in the startup packet: they hold from the
//! first statement on, they cost no round trip, and a pooler in the way gives
//! itself away by refusing or losing them.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Statement};

use crate::config::Dsn;
use crate::observe::address::{self, Resolver};
use crate::observe::failure::{self, Expected};
use crate::observe::postgres::{activity, database, locks, server};
use crate::observe::{PollError, tls};
use crate::sample::FailureReason;

/// The name under which we stand in `pg_stat_activity`.
pub const APPLICATION: &str = "snowpit";

/// As the server prints it. Shorter than [`crate::observe::poll::READ_TIMEOUT`],
/// so that the server gives up before we do and its reason is heard.
const STATEMENT_TIMEOUT: &str = "2500ms";

/// The oldest `server_version_num` with every column that is read: `waitstart`,
/// `query_id` and `pg_stat_database.sessions` came with 14.
const OLDEST: u32 = 140_000;

/// Settings of the session, sent as startup options.
///
/// * `lock_timeout`: nobody may queue behind us on a catalog for long.
/// * `work_mem`: the rows of 10,000 backends stay out of temporary files.
/// * `jit`, `plan_cache_mode`, parallel workers: the same plan, at once, always.
/// * `search_path`: nobody's function shadows a built-in one.
/// * `tcp_keepalives_*`: the server ends the session within half a minute of our
///   machine being gone, and does not keep a slot for it for two hours.
fn options() -> String {
    format!(
        "-c statement_timeout={STATEMENT_TIMEOUT} -c lock_timeout=100ms \
         -c idle_in_transaction_session_timeout=5s -c default_transaction_read_only=on \
         -c work_mem=32MB -c jit=off -c plan_cache_mode=force_generic_plan \
         -c max_parallel_workers_per_gather=0 -c search_path=pg_catalog \
         -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    )
}

/// An open session with its statements prepared.
pub struct Session {
    pub client: Client,
    /// `server_version_num`.
    pub version: u32,
    /// Of the postmaster: two with the same are one server, in one life.
    pub started_at: SystemTime,
    pub activity: Statement,
    pub locks: Statement,
    pub facts: Statement,
    driver: Driver,
}

/// The task that moves the bytes.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        // Closes the socket even when an answer is waited for.
        self.0.abort();
    }
}

impl Session {
    /// Connects and prepares. Bounded by the connect time-out as a whole: the
    /// driver's own covers the TCP handshake only.
    ///
    /// # Errors
    /// When nobody answers, the login is refused, the server is too old, or
    /// what answers is a PgBouncer.
    pub async fn open(dsn: &Dsn) -> Result<Self, PollError> {
        let limit = dsn.connect_timeout;
        let log_in = async {
            let addresses = Resolver::default().addresses(dsn).await?;
            Self::log_in(dsn.clone(), addresses).await
        };
        tokio::time::timeout(limit, log_in)
            .await
            .unwrap_or_else(|_| Err(failure::timed_out(dsn, limit.as_secs_f64())))
    }

    /// True when the connection is known to be gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.0.is_finished()
    }

    /// Whether it answers at all within `patience`.
    pub async fn answers(&self, patience: Duration) -> bool {
        let asked = tokio::time::timeout(patience, self.client.simple_query("")).await;
        matches!(asked, Ok(Ok(_)))
    }

    /// As [`open`](Self::open) without an end, for who waits for more than one;
    /// by these addresses of the host of `dsn`.
    ///
    /// # Errors
    /// As there.
    pub async fn log_in(dsn: Dsn, addresses: Vec<IpAddr>) -> Result<Self, PollError> {
        let dsn = &dsn;
        let refused = |error| failure::connecting(error, dsn, Expected::Postgres);
        let tls = tls::connector(dsn).await?;
        let connected = address::connect(driver_config(dsn), tls, dsn, &addresses).await;
        let (client, connection) = connected.map_err(refused)?;
        let banner = connection.parameter("server_version").unwrap_or_default();
        if banner.ends_with("/bouncer") {
            return Err(pooler_in_the_way(dsn, "its admin console answered"));
        }
        let driver = Driver(tokio::spawn(async move {
            // The reason reaches the statement that was waiting.
            let _ = connection.await;
        }));
        let (version, started_at) = check(&client, dsn).await?;
        let (activity, locks, facts) = tokio::try_join!(
            client.prepare(activity::SQL),
            client.prepare(locks::SQL),
            client.prepare(server::SQL),
        )
        .map_err(|error| failure::asking(error, dsn, "preparing statements"))?;
        Ok(Self {
            client,
            version,
            started_at,
            activity,
            locks,
            facts,
            driver,
        })
    }

    /// The names of databases and roles; see [`database::Names`].
    ///
    /// # Errors
    /// When a catalog is locked or the session is gone.
    pub async fn names(&self, dsn: &Dsn) -> Result<database::Names, PollError> {
        database::Names::read(&self.client).await.map_err(|error| {
            failure::asking(error, dsn, "reading the names of databases and roles")
        })
    }
}

fn driver_config(dsn: &Dsn) -> Config {
    let mut config = Config::new();
    config
        .user(&dsn.user)
        .dbname(&dsn.database)
        .application_name(APPLICATION)
        .options(options())
        .connect_timeout(address::patience(dsn))
        // A peer that vanished without a word is noticed within some 25 s.
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    tls::secure(&mut config, dsn);
    if let Some(password) = &dsn.password {
        config.password(password);
    }
    config
}

/// Learns the version and the start of the server, and that our settings have
/// arrived.
async fn check(client: &Client, dsn: &Dsn) -> Result<(u32, SystemTime), PollError> {
    let row = client
        .query_typed(
            "SELECT current_setting('server_version_num')::int4 AS version, \
             current_setting('server_version') AS words, \
             pg_postmaster_start_time() AS started_at, \
             current_setting('statement_timeout') AS statement_timeout",
            &[],
        )
        .await
        .and_then(|rows| {
            let row = &rows[..];
            row.first().map_or(Ok(None), |row| {
                Ok(Some((
                    row.try_get::<_, i32>("version")?,
                    row.try_get::<_, String>("words")?,
                    row.try_get::<_, String>("statement_timeout")?,
                    row.try_get::<_, SystemTime>("started_at")?,
                )))
            })
        })
        .map_err(|error| failure::asking(error, dsn, "reading the version"))?;
    let Some((version, words, timeout, started_at)) = row else {
        return Err(PollError::new(
            FailureReason::Protocol,
            format!("{dsn} does not tell its version: give the address of a PostgreSQL server"),
        ));
    };
    if timeout != STATEMENT_TIMEOUT {
        return Err(pooler_in_the_way(
            dsn,
            "the settings of our session were lost on the way",
        ));
    }
    let version = u32::try_from(version).unwrap_or_default();
    if version < OLDEST {
        return Err(PollError::new(
            FailureReason::Other,
            format!(
                "{dsn} is PostgreSQL {words}, and 14 is the oldest that is supported: upgrade it or take it out of the configuration"
            ),
        ));
    }
    Ok((version, started_at))
}

fn pooler_in_the_way(dsn: &Dsn, proof: &str) -> PollError {
    PollError::new(
        FailureReason::Protocol,
        format!(
            "{dsn} is a PgBouncer, not PostgreSQL ({proof}): give the server's own address under [[postgres]] and this one under [[pgbouncer]]"
        ),
    )
}
