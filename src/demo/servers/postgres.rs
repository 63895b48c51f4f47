//! A private PostgreSQL: a fresh cluster in a temporary directory.
//!
//! Durability is off, since the data is thrown away. The superuser is
//! `postgres`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio_postgres::{Client, Config, NoTls};

use super::process::{ServerProcess, StopStep};
use super::{Failure, Home, PORT_ATTEMPTS, ServerError};

/// Fast shutdown, then immediate shutdown.
const STOP: &[StopStep] = &[
    (Signal::SIGINT, Duration::from_secs(5)),
    (Signal::SIGQUIT, Duration::from_secs(3)),
];
/// `initdb` removes what it made when it is interrupted.
const STOP_INITDB: &[StopStep] = &[(Signal::SIGINT, Duration::from_secs(2))];
/// Tries of a server to start in the place of one that was killed: its other
/// processes notice that within moments.
const AGAIN_ATTEMPTS: u32 = 20;
const AGAIN_AFTER: Duration = Duration::from_millis(250);
const PROGRAM: &str = "postgres";
const BINDIR: &str = "SNOWPIT_PG_BINDIR";

/// How the cluster is made.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The port to try first, for a restart in the same place; another one is
    /// used when it is taken.
    pub port: Option<u16>,
    pub max_connections: u32,
    pub auth: PostgresAuth,
    /// Further settings, as `name`, `value`.
    pub settings: Vec<(String, String)>,
    /// Where `initdb` and `postgres` are; `None`: the environment variable
    /// `SNOWPIT_PG_BINDIR`, else the newest of `/usr/lib/postgresql`, else
    /// PATH.
    pub bindir: Option<PathBuf>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            port: None,
            max_connections: 100,
            auth: PostgresAuth::Trust,
            settings: Vec::new(),
            bindir: None,
        }
    }
}

/// How clients prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresAuth {
    Trust,
    /// SCRAM-SHA-256; the superuser has this password.
    Scram(String),
}

/// A running server. Dropping it stops it and removes its files; that blocks
/// for some tens of milliseconds, [`Postgres::stop`] does not.
#[derive(Debug)]
pub struct Postgres {
    process: ServerProcess,
    home: Home,
    port: u16,
    bindir: PathBuf,
    options: PostgresOptions,
}

impl Postgres {
    /// Makes a cluster, starts a server on a free loopback port, and waits
    /// until it answers a query. Takes one to three seconds.
    ///
    /// # Errors
    /// No PostgreSQL is installed, or it does not start: with the end of its
    /// log.
    pub async fn start(options: PostgresOptions) -> Result<Self, ServerError> {
        let bindir = match &options.bindir {
            Some(bindir) => bindir.clone(),
            None => find_bindir()?,
        };
        let home = Home::new(PROGRAM)?;
        initdb(&home, &bindir, &options.auth).await?;
        Self::serve(home, bindir, options).await
    }

    /// A hot standby of this server, with the same options, that follows it.
    ///
    /// # Errors
    /// As for [`start`](Self::start); `pg_basebackup` must be beside `postgres`.
    pub async fn standby(&self) -> Result<Self, ServerError> {
        let home = Home::new(PROGRAM)?;
        base_backup(&home, &self.bindir, self.port).await?;
        let options = PostgresOptions {
            port: None,
            ..self.options.clone()
        };
        Self::serve(home, self.bindir.clone(), options).await
    }

    /// A server on the cluster in `home`.
    async fn serve(
        mut home: Home,
        bindir: PathBuf,
        options: PostgresOptions,
    ) -> Result<Self, ServerError> {
        let mut attempts = PORT_ATTEMPTS;
        let mut wanted = options.port;
        loop {
            attempts -= 1;
            let port = super::choose_port(&mut wanted).map_err(|source| home.error(source))?;
            match Self::launch(home, &bindir, &options, port).await {
                Ok(server) => return Ok(server),
                Err((returned, Failure::PortTaken)) if attempts > 0 => {
                    home = returned;
                    // The old log would be taken for the next attempt's.
                    let _ = std::fs::remove_file(home.log_path());
                }
                Err((home, Failure::PortTaken)) => {
                    return Err(ServerError::NotReady {
                        program: PROGRAM,
                        log: home.log_tail(),
                    });
                }
                Err((_, Failure::Fatal(error))) => return Err(error),
            }
        }
    }

    /// One attempt. A failed one hands the directory back.
    async fn launch(
        home: Home,
        bindir: &Path,
        options: &PostgresOptions,
        port: u16,
    ) -> Result<Self, (Home, Failure)> {
        let process = match spawn(&home, bindir, options, port) {
            Ok(process) => process,
            Err(error) => return Err((home, error.into())),
        };
        let server = Self {
            process,
            home,
            port,
            bindir: bindir.to_path_buf(),
            options: options.clone(),
        };
        let superuser = server.config("postgres", "postgres");
        let ready = super::await_ready(&server.home, &server.process, || async {
            answers(&superuser).await
        })
        .await;
        match ready {
            Ok(()) => Ok(server),
            Err(failure) => {
                let Self { process, home, .. } = server;
                drop(process);
                Err((home, failure))
            }
        }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the unix socket is.
    pub fn socket_dir(&self) -> &Path {
        self.home.path()
    }

    /// A connection string over TCP, without a password.
    pub fn dsn(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The pid of the postmaster.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        self.home.log_tail()
    }

    /// A direct connection; its task runs until the client is dropped. Where
    /// the server wants a password, the superuser's is used.
    ///
    /// # Errors
    /// What the server or the driver says.
    pub async fn connect(&self, user: &str, database: &str) -> Result<Client, ServerError> {
        connect(&self.config(user, database)).await
    }

    /// Runs statements as the superuser.
    ///
    /// # Errors
    /// What the server says.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), ServerError> {
        let client = self.connect("postgres", database).await?;
        Ok(client.batch_execute(sql).await?)
    }

    /// Fast shutdown that keeps the files.
    pub async fn shut_down(&self) {
        self.process.signal(Signal::SIGINT);
        self.process.ended().await;
    }

    /// After its processes were killed from outside: until that is known here.
    pub async fn ended(&self) {
        self.process.ended().await;
    }

    /// Serves again from the same files at the same port, after it has ended in
    /// whatever way.
    ///
    /// # Errors
    /// It does not start, with the end of its log.
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        let mut attempts = AGAIN_ATTEMPTS;
        loop {
            attempts -= 1;
            let _ = std::fs::remove_file(self.home.log_path());
            self.process = spawn(&self.home, &self.bindir, &self.options, self.port)?;
            let superuser = self.config("postgres", "postgres");
            let ready = super::await_ready(&self.home, &self.process, || answers(&superuser));
            match ready.await {
                Ok(()) => return Ok(()),
                // The last of its processes are not gone yet.
                Err(_) if attempts > 0 => tokio::time::sleep(AGAIN_AFTER).await,
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::PortTaken) => {
                    return Err(ServerError::NotReady {
                        program: PROGRAM,
                        log: self.home.log_tail(),
                    });
                }
            }
        }
    }

    /// Fast shutdown without blocking the runtime.
    pub async fn stop(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .dbname(database)
            .connect_timeout(Duration::from_secs(10));
        if let PostgresAuth::Scram(password) = &self.options.auth {
            config.password(password);
        }
        config
    }
}

/// Connects without TLS and drives the connection on a task of its own, which
/// ends when the client is dropped.
///
/// # Errors
/// What the server or the driver says.
pub async fn connect(config: &Config) -> Result<Client, ServerError> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // The client sees the same error at its next call.
        let _ = connection.await;
    });
    Ok(client)
}

/// A query is answered.
async fn answers(config: &Config) -> bool {
    match connect(config).await {
        Ok(client) => client.simple_query("SELECT 1").await.is_ok(),
        Err(_) => false,
    }
}

fn spawn(
    home: &Home,
    bindir: &Path,
    options: &PostgresOptions,
    port: u16,
) -> Result<ServerProcess, ServerError> {
    let mut command = home.command(&bindir.join("postgres"))?;
    command.arg("-D").arg(home.path().join("data"));
    let sockets = home.path().display().to_string();
    let own = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
        ("unix_socket_directories", &sockets),
        ("max_connections", &options.max_connections.to_string()),
        ("fsync", "off"),
        ("synchronous_commit", "off"),
        ("full_page_writes", "off"),
    ];
    for (name, value) in own {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    for (name, value) in &options.settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    ServerProcess::spawn(command, STOP).map_err(|source| ServerError::Spawn {
        program: PROGRAM,
        source,
    })
}

async fn initdb(home: &Home, bindir: &Path, auth: &PostgresAuth) -> Result<(), ServerError> {
    const INITDB: &str = "initdb";
    let mut command = home.command(&bindir.join(INITDB))?;
    command
        .args(["--no-sync", "-E", "UTF8", "--locale=C", "-U", "postgres"])
        .arg("-D")
        .arg(home.path().join("data"));
    match auth {
        PostgresAuth::Trust => command.args(["-A", "trust"]),
        PostgresAuth::Scram(password) => {
            let file = home.write("superuser-password", password)?;
            command.args(["-A", "scram-sha-256", "--pwfile"]).arg(file)
        }
    };
    let process =
        ServerProcess::spawn(command, STOP_INITDB).map_err(|source| ServerError::Spawn {
            program: INITDB,
            source,
        })?;
    let status = process.ended().await;
    if status.success() {
        return Ok(());
    }
    Err(ServerError::Ended {
        program: INITDB,
        status,
        log: home.log_tail(),
    })
}

async fn base_backup(home: &Home, bindir: &Path, port: u16) -> Result<(), ServerError> {
    const BASE_BACKUP: &str = "pg_basebackup";
    let mut command = home.command(&bindir.join(BASE_BACKUP))?;
    command
        .args(["--no-sync", "-h", "127.0.0.1", "-U", "postgres"])
        .args(["-c", "fast", "-X", "stream", "-R", "-p"])
        .arg(port.to_string())
        .arg("-D")
        .arg(home.path().join("data"));
    let process =
        ServerProcess::spawn(command, STOP_INITDB).map_err(|source| ServerError::Spawn {
            program: BASE_BACKUP,
            source,
        })?;
    let status = process.ended().await;
    if status.success() {
        return Ok(());
    }
    Err(ServerError::Ended {
        program: BASE_BACKUP,
        status,
        log: home.log_tail(),
    })
}

fn find_bindir() -> Result<PathBuf, ServerError> {
    let missing = ServerError::NotInstalled {
        program: PROGRAM,
        package: "postgresql",
        variable: BINDIR,
    };
    if let Some(bindir) = std::env::var_os(BINDIR) {
        return Some(PathBuf::from(bindir))
            .filter(|bindir| bindir.join(PROGRAM).is_file())
            .ok_or(missing);
    }
    newest_debian_bindir()
        .or_else(|| Some(super::search_path(PROGRAM)?.parent()?.to_path_buf()))
        .ok_or(missing)
}

/// Debian keeps `/usr/lib/postgresql/MAJOR/bin`.
fn newest_debian_bindir() -> Option<PathBuf> {
    std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let major: u32 = entry.file_name().to_str()?.parse().ok()?;
            let bindir = entry.path().join("bin");
            bindir.join(PROGRAM).is_file().then_some((major, bindir))
        })
        .max()
        .map(|(_, bindir)| bindir)
}
