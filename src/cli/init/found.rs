//! What the servers tell: which of them is PostgreSQL and which a console of
//! PgBouncer, their databases, and the addresses that poolers may be at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::{
    ChannelBinding, Config, ConfigErrors, Dsn, PGBOUNCER_CONSOLE, PgbouncerConfig, PostgresConfig,
    SslMode,
};
use crate::engine::correlate::sessions::OWN_APPLICATION;
use crate::observe::pgbouncer::session::Session as Console;
use crate::observe::poll::READ_TIMEOUT;
use crate::observe::postgres::PostgresSource;
use crate::observe::postgres::session::Session;
use crate::observe::{PollError, failure};
use crate::sample::{FailureReason, Group};

/// Databases that are told.
const DATABASES: usize = 50;

/// Addresses that are probed: an outside look is for a few.
const PROBED: usize = 16;

/// How long a probe of an address may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// PgBouncer's port when its file sets none.
const POOLER_PORT: u16 = 6432;

/// So many sessions of one address are more than one process usually opens.
const MANY: u64 = 10;

/// A PostgreSQL server that answered.
#[derive(Debug)]
pub(super) struct Server {
    pub name: String,
    pub config: PostgresConfig,
    /// The string that was given has a password in it.
    pub had_password: bool,
    /// `server_version_num`.
    pub version: u32,
    pub databases: Vec<String>,
    /// Its sessions, without ours.
    pub groups: Vec<Group>,
}

/// A console that answered.
#[derive(Debug)]
pub(super) struct Pooler {
    pub name: String,
    pub config: PgbouncerConfig,
    pub had_password: bool,
    /// Where its databases are.
    pub behind: BTreeSet<(String, u16)>,
    /// The addresses that its servers are connected from.
    pub addresses: BTreeSet<String>,
}

/// What answered to one connection string.
pub(super) enum Found {
    Server(Box<Server>),
    Pooler(Box<Pooler>),
}

/// An address that may be a pooler's, by the sessions from there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Suspect {
    pub server: String,
    pub address: String,
    pub sessions: u64,
    pub applications: usize,
    pub users: usize,
    /// What a probe of its port found.
    pub probe: Option<String>,
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Without what passwords come from: what is left is that of the string itself.
fn without_passwords(name: &str) -> Option<String> {
    match name {
        "PGPASSWORD" | "PGPASSFILE" | "HOME" => None,
        name => environment(name),
    }
}

/// What is wrong with a string, without the name of a file.
pub(super) fn sentences(errors: &ConfigErrors) -> String {
    let all: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
    all.join("; ")
}

/// Asks who is there. A string that names PgBouncer's pseudo-database is a
/// console's; any other is tried as PostgreSQL first.
///
/// # Errors
/// The string is none, or nobody answers, in a sentence.
pub(super) async fn ask(text: &str) -> Result<Found, String> {
    let config = Config::from_dsn(text, environment).map_err(|errors| sentences(&errors))?;
    let server = config.postgres.into_iter().next();
    let server = server.ok_or("the dsn names no server")?;
    if server.connection.database == PGBOUNCER_CONSOLE {
        let console = console_of(text, &server.connection)?;
        return pooler(text, console).await.map_err(|error| error.message);
    }
    let refused = match postgres(text, server.clone()).await {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let console = console_of(text, &server.connection)?;
    match pooler(text, console).await {
        Ok(found) => Ok(found),
        // PgBouncer is there, and says so.
        Err(error) if error.reason == FailureReason::Permission => Err(error.message),
        Err(_) => Err(refused.message),
    }
}

/// The console at the address that was given.
fn console_of(text: &str, given: &Dsn) -> Result<PgbouncerConfig, String> {
    let config = Config::pooler_from_dsn(text, environment);
    let mut config = config.map_err(|errors| sentences(&errors))?;
    // Which server is behind it is found out later.
    config.target.clear();
    config.connection.host.clone_from(&given.host);
    PGBOUNCER_CONSOLE.clone_into(&mut config.connection.database);
    Ok(config)
}

async fn postgres(text: &str, config: PostgresConfig) -> Result<Found, PollError> {
    let dsn = &config.connection;
    let session = Session::open(dsn).await?;
    let sql = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY datname LIMIT 50";
    let rows = tokio::time::timeout(READ_TIMEOUT, session.client.query_typed(sql, &[])).await;
    let rows = rows
        .map_err(|_| failure::timed_out(dsn, READ_TIMEOUT.as_secs_f64()))?
        .map_err(|error| failure::asking(error, dsn, "reading the names of databases"))?;
    let names = rows
        .iter()
        .filter_map(|row| row.try_get::<_, String>(0).ok());
    let databases = names.take(DATABASES).collect();
    let version = session.version;
    drop(session);
    let report = PostgresSource::new(&config).look().await?;
    let mut groups = report.groups;
    groups.retain(|group| group.application.as_deref() != Some(OWN_APPLICATION));
    let given = Config::from_dsn(text, without_passwords).ok();
    let given = given.and_then(|config| config.postgres.into_iter().next());
    Ok(Found::Server(Box::new(Server {
        name: String::new(),
        had_password: given.is_some_and(|given| given.connection.password.is_some()),
        config,
        version,
        databases,
        groups,
    })))
}

async fn pooler(text: &str, config: PgbouncerConfig) -> Result<Found, PollError> {
    let given = Config::pooler_from_dsn(text, without_passwords).ok();
    let had_password = given.is_some_and(|given| given.connection.password.is_some());
    let pooler = look_at(config, had_password).await?;
    Ok(Found::Pooler(Box::new(pooler)))
}

async fn look_at(config: PgbouncerConfig, had_password: bool) -> Result<Pooler, PollError> {
    let dsn = &config.connection;
    let session = Console::open(dsn).await?;
    let asked = async {
        let databases = session.ask(dsn, "SHOW DATABASES").await?;
        let servers = session.ask(dsn, "SHOW SERVERS").await?;
        Ok::<_, PollError>((databases, servers))
    };
    let (databases, servers) = tokio::time::timeout(READ_TIMEOUT, asked)
        .await
        .map_err(|_| failure::timed_out(dsn, READ_TIMEOUT.as_secs_f64()))??;
    let behind = databases
        .iter()
        .filter(|row| !row.is_pseudo())
        .filter_map(|row| {
            let port = row.text("port")?.parse().ok()?;
            // Without a host it is a unix socket on the pooler's own machine.
            let host = row.text("host").filter(|host| !host.is_empty());
            Some((host.unwrap_or(&dsn.host).to_owned(), port))
        });
    let addresses = servers.iter().filter_map(|row| {
        let address = row.text("local_addr")?;
        let is_address = address.parse::<IpAddr>().is_ok();
        is_address.then(|| address.to_owned())
    });
    Ok(Pooler {
        name: String::new(),
        had_password,
        behind: behind.collect(),
        addresses: addresses.collect(),
        config,
    })
}

/// Whether a database of the pooler is this server.
pub(super) fn is_behind(pooler: &Pooler, server: &Server) -> bool {
    let at = &pooler.config.connection;
    let mut places = pooler.behind.iter();
    places.any(|place| is_same_place(place, at, &server.config.connection))
}

/// Whether its target is known by its address, and not only supposed.
pub(super) fn is_sure(pooler: &Pooler, servers: &[Server]) -> bool {
    servers.iter().any(|server| is_behind(pooler, server))
}

/// Whether both are names of one place: what is local for the pooler is on the
/// pooler's machine, whichever that is. Nothing is asked of a name server: what
/// is not sure is left to a person.
fn is_same_place(behind: &(String, u16), pooler: &Dsn, server: &Dsn) -> bool {
    let (host, port) = behind;
    let host = if is_local(host) { &pooler.host } else { host };
    *port == server.port && (*host == server.host || (is_local(host) && is_local(&server.host)))
}

/// Whether a host is the machine that names it.
fn is_local(host: &str) -> bool {
    let is_loopback = |host: &str| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    host == "localhost" || host.starts_with('/') || is_loopback(host)
}

/// Addresses with sessions of several applications or users, or of very many;
/// those of the poolers that answered are known.
pub(super) fn suspects(servers: &[Server], poolers: &[Pooler], all: bool) -> Vec<Suspect> {
    let known: BTreeSet<&String> = poolers
        .iter()
        .flat_map(|pooler| &pooler.addresses)
        .collect();
    let mut found = Vec::new();
    for server in servers {
        let mut by_address: BTreeMap<&String, (u64, BTreeSet<&str>, BTreeSet<&str>)> =
            BTreeMap::new();
        for group in &server.groups {
            let Some(address) = group.client.as_ref().filter(|one| !known.contains(one)) else {
                continue;
            };
            let (sessions, applications, users) = by_address.entry(address).or_default();
            *sessions += u64::from(group.count);
            applications.extend(group.application.as_deref());
            users.extend(group.user.as_deref());
        }
        let of_it = by_address
            .into_iter()
            .map(|(address, (sessions, applications, users))| Suspect {
                server: server.name.clone(),
                address: address.clone(),
                sessions,
                applications: applications.len(),
                users: users.len(),
                probe: None,
            });
        found.extend(of_it.filter(|one| {
            all || one.sessions >= MANY || (one.sessions >= 2 && one.applications + one.users > 2)
        }));
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.sessions));
    found
}

/// Tries PgBouncer's usual port at each address, without a password: who answers
/// there is a stranger. Those that let us in are poolers; of the others stays what
/// they said. A place is tried once, and none that was given.
pub(super) async fn probe(
    suspects: &mut [Suspect],
    servers: &[Server],
    given: &[Pooler],
) -> Vec<Pooler> {
    let user = given.first().map(|one| one.config.connection.user.as_str());
    let user = user.unwrap_or(OWN_APPLICATION);
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, suspect) in suspects.iter_mut().enumerate() {
        let host = host_of(suspect, servers);
        if given.iter().any(|one| is_at(one, &host)) {
            suspect.probe = Some("the PgBouncer below".to_owned());
            continue;
        }
        if places.len() < PROBED || places.contains_key(&host) {
            places.entry(host).or_default().push(at);
        }
    }
    let mut tries = JoinSet::new();
    for (host, of_it) in places {
        let connection = stranger(&host, user);
        // An address that two servers see may be in front of either.
        let mut targets: Vec<&String> = of_it.iter().map(|at| &suspects[*at].server).collect();
        targets.dedup();
        let target = match targets[..] {
            [only] => only.clone(),
            _ => String::new(),
        };
        tries.spawn(async move {
            let config = PgbouncerConfig {
                name: String::new(),
                target,
                connection,
                interval: crate::config::DEFAULT_INTERVAL,
            };
            (of_it, look_at(config, false).await)
        });
    }
    let mut found: Vec<Pooler> = Vec::new();
    for (of_it, answer) in tries.join_all().await {
        let words = match answer {
            Ok(pooler) if given.iter().chain(&found).any(|one| is_one(one, &pooler)) => {
                "a PgBouncer that is below by another address".to_owned()
            }
            Ok(mut pooler) => {
                pooler.config.connection.connect_timeout = crate::config::CONNECT_TIMEOUT;
                found.push(pooler);
                "a PgBouncer lets us in: it is below".to_owned()
            }
            Err(error) => refusal(error),
        };
        for at in of_it {
            suspects[at].probe = Some(words.clone());
        }
    }
    found
}

/// Where a suspect is tried: what is local for the server is on its machine.
fn host_of(suspect: &Suspect, servers: &[Server]) -> String {
    let server = servers.iter().find(|server| server.name == suspect.server);
    match server {
        Some(server) if is_local(&suspect.address) => server.config.connection.host.clone(),
        _ => suspect.address.clone(),
    }
}

/// Whether a pooler that answered is at PgBouncer's usual port of this host.
fn is_at(pooler: &Pooler, host: &str) -> bool {
    let at = &pooler.config.connection;
    at.port == POOLER_PORT && (at.host == host || (is_local(&at.host) && is_local(host)))
}

/// Whether both are one process: on one machine one of them has the port.
fn is_one(known: &Pooler, other: &Pooler) -> bool {
    let mut common = known.addresses.intersection(&other.addresses);
    let on_one = common.any(|address| !is_local(address));
    on_one && known.config.connection.port == other.config.connection.port
}

/// A login that gives nothing away: no password, and no certificate of ours.
fn stranger(host: &str, user: &str) -> Dsn {
    Dsn {
        host: host.to_owned(),
        port: POOLER_PORT,
        user: user.to_owned(),
        password: None,
        database: PGBOUNCER_CONSOLE.to_owned(),
        ssl_mode: SslMode::Prefer,
        ssl_root_cert: None,
        client_certificate: None,
        channel_binding: ChannelBinding::Prefer,
        connect_timeout: PROBE_TIMEOUT,
    }
}

/// What it says of the one that does not let us in. PostgreSQL names the routine
/// that refuses, PgBouncer never does; its words are few.
fn refusal(error: PollError) -> String {
    const WORDS: [&str; 5] = [
        "no such user",
        "not allowed",
        "authentication failed",
        "login rejected",
        "auth failed",
    ];
    let source = error.source.as_ref();
    let source = source.and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    let said = source.and_then(tokio_postgres::Error::as_db_error);
    let is_pooler = said.is_some_and(|said| {
        said.routine().is_none() && WORDS.iter().any(|words| said.message().contains(words))
    });
    if is_pooler {
        return "a PgBouncer, which lets nobody in without a login: give its console to snowpit \
                init as postgresql://USER@HOST:6432/pgbouncer"
            .to_owned();
    }
    if error.reason == FailureReason::Auth {
        return "it asks for a password, and none was sent: when it is a PgBouncer, give its \
                console to snowpit init"
            .to_owned();
    }
    error.message
}

#[cfg(test)]
mod tests;
