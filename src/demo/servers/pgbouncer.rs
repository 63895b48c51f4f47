//! A private PgBouncer in front of a private PostgreSQL.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};

use super::process::{ServerProcess, StopStep};
use super::{Failure, Home, PORT_ATTEMPTS, ServerError};

/// SIGTERM is PgBouncer's immediate shutdown; SIGINT would wait for clients.
const STOP: &[StopStep] = &[(Signal::SIGTERM, Duration::from_secs(3))];
const PROGRAM: &str = "pgbouncer";

/// What goes into its configuration file.
#[derive(Debug, Clone)]
pub struct PgBouncerOptions {
    /// The port to try first, for a restart in the same place; another one is
    /// used when it is taken.
    pub port: Option<u16>,
    pub databases: Vec<Alias>,
    /// Who may log in, with their passwords (empty: none). Admin and stats
    /// users are added to it by themselves.
    pub users: Vec<(String, String)>,
    pub auth: PoolerAuth,
    /// Global `pool_mode`.
    pub pool_mode: String,
    pub default_pool_size: u32,
    pub reserve_pool_size: u32,
    pub max_client_conn: u32,
    pub admin_users: Vec<String>,
    pub stats_users: Vec<String>,
    /// Further lines of the section `[pgbouncer]`, as `name`, `value`.
    pub settings: Vec<(String, String)>,
}

impl Default for PgBouncerOptions {
    fn default() -> Self {
        Self {
            port: None,
            databases: Vec::new(),
            users: Vec::new(),
            auth: PoolerAuth::Trust,
            pool_mode: "transaction".into(),
            default_pool_size: 20,
            reserve_pool_size: 0,
            max_client_conn: 200,
            admin_users: vec!["admin".into()],
            stats_users: vec!["stats".into()],
            settings: Vec::new(),
        }
    }
}

/// One line of the section `[databases]`.
#[derive(Debug, Clone, Default)]
pub struct Alias {
    /// The name that clients connect to.
    pub name: String,
    /// The real database.
    pub database: String,
    /// The port of the PostgreSQL on 127.0.0.1.
    pub port: u16,
    /// Overrides the global one.
    pub pool_mode: Option<String>,
    /// Overrides `default_pool_size`.
    pub pool_size: Option<u32>,
    /// The user of all its server connections.
    pub force_user: Option<String>,
}

impl Alias {
    /// A database under its own name with the global settings.
    pub fn new(database: &str, port: u16) -> Self {
        Self {
            name: database.into(),
            database: database.into(),
            port,
            ..Self::default()
        }
    }
}

/// `auth_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolerAuth {
    Trust,
    Scram,
}

/// A running PgBouncer. Dropping it stops it and removes its files; that blocks
/// for some milliseconds, [`PgBouncer::stop`] does not.
#[derive(Debug)]
pub struct PgBouncer {
    process: ServerProcess,
    home: Home,
    port: u16,
    admin: Option<(String, String)>,
}

impl PgBouncer {
    /// Writes the configuration, starts it on a free loopback port, and waits
    /// until the console answers (without an admin user: until the port does).
    ///
    /// # Errors
    /// PgBouncer is not installed (the environment variable
    /// `SNOWPIT_PGBOUNCER` names the program), or it does not start: with the
    /// end of its log.
    pub async fn start(options: PgBouncerOptions) -> Result<Self, ServerError> {
        let program = super::find_program(PROGRAM, "pgbouncer", "SNOWPIT_PGBOUNCER")?;
        let mut attempts = PORT_ATTEMPTS;
        let mut wanted = options.port;
        loop {
            attempts -= 1;
            let home = Home::new(PROGRAM)?;
            let port = super::choose_port(&mut wanted).map_err(|source| home.error(source))?;
            let users = home.write("users.txt", &user_list(&options))?;
            let ini = home.write("pgbouncer.ini", &ini(&options, port, home.path(), &users))?;
            let mut command = home.command(&program)?;
            command.arg(ini);
            let process =
                ServerProcess::spawn(command, STOP).map_err(|source| ServerError::Spawn {
                    program: PROGRAM,
                    source,
                })?;
            let server = Self {
                process,
                home,
                port,
                admin: admin(&options),
            };
            let ready =
                super::await_ready(&server.home, &server.process, || server.answers()).await;
            match ready {
                Ok(()) => return Ok(server),
                Err(Failure::PortTaken) if attempts > 0 => {}
                Err(Failure::PortTaken) => {
                    return Err(ServerError::NotReady {
                        program: PROGRAM,
                        log: server.log_tail(),
                    });
                }
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its unix socket is.
    pub fn socket_dir(&self) -> &Path {
        self.home.path()
    }

    /// A connection string through the pool, without a password.
    pub fn dsn(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The connection string of the console for the first admin user, without
    /// a password.
    pub fn console_dsn(&self) -> String {
        let user = self.admin.as_ref().map_or("admin", |admin| &admin.0);
        self.dsn(user, PROGRAM)
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.home.log_tail()
    }

    /// One command on the console, as the first admin user, over a connection
    /// of its own; the rows of its answer.
    ///
    /// # Errors
    /// What PgBouncer says.
    pub async fn console(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, ServerError> {
        let client = super::connect(&self.console_config()).await?;
        let answer = client.simple_query(sql).await?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect())
    }

    /// Writes another configuration and has it read again (`RELOAD`). Port and
    /// users stay what they are.
    ///
    /// # Errors
    /// The file cannot be written, or what PgBouncer says.
    pub async fn reload(&self, options: &PgBouncerOptions) -> Result<(), ServerError> {
        let users = self.home.path().join("users.txt");
        let text = ini(options, self.port, self.home.path(), &users);
        self.home.write("pgbouncer.ini", &text)?;
        self.console("RELOAD").await.map(drop)
    }

    /// A connection through the pool; its task runs until the client is
    /// dropped. In transaction mode use the simple protocol only: PgBouncer
    /// before 1.21 knows no prepared statements there.
    ///
    /// # Errors
    /// What PgBouncer, the server or the driver says.
    pub async fn connect(
        &self,
        user: &str,
        database: &str,
        application: &str,
    ) -> Result<Client, ServerError> {
        let mut config = self.config(user, database);
        config.application_name(application);
        super::connect(&config).await
    }

    /// Immediate shutdown without blocking the runtime.
    pub async fn stop(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    async fn answers(&self) -> bool {
        if self.admin.is_none() {
            return tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok();
        }
        self.console("SHOW VERSION").await.is_ok()
    }

    fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .dbname(database)
            .connect_timeout(Duration::from_secs(10));
        config
    }

    fn console_config(&self) -> Config {
        let (user, password) = self.admin.clone().unwrap_or_default();
        let mut config = self.config(&user, PROGRAM);
        config.password(password);
        config
    }
}

/// The first admin user and its password.
fn admin(options: &PgBouncerOptions) -> Option<(String, String)> {
    let user = options.admin_users.first()?;
    let password = options
        .users
        .iter()
        .find(|(name, _)| name == user)
        .map(|(_, password)| password.clone());
    Some((user.clone(), password.unwrap_or_default()))
}

/// The `auth_file`: one quoted name and password a line.
fn user_list(options: &PgBouncerOptions) -> String {
    let mut list = String::new();
    let mut seen: Vec<&str> = Vec::new();
    let named = options
        .users
        .iter()
        .map(|(user, password)| (user, &**password));
    let added = options
        .admin_users
        .iter()
        .chain(&options.stats_users)
        .map(|user| (user, ""));
    for (user, password) in named.chain(added) {
        if seen.contains(&user.as_str()) {
            continue;
        }
        seen.push(user);
        let quoted = |text: &str| text.replace('"', "\"\"");
        let _ = writeln!(list, "\"{}\" \"{}\"", quoted(user), quoted(password));
    }
    list
}

fn ini(options: &PgBouncerOptions, port: u16, sockets: &Path, users: &Path) -> String {
    let mut ini = String::from("[databases]\n");
    for alias in &options.databases {
        let _ = write!(
            ini,
            "{} = host=127.0.0.1 port={} dbname={}",
            alias.name, alias.port, alias.database
        );
        if let Some(user) = &alias.force_user {
            let _ = write!(ini, " user={user}");
        }
        if let Some(mode) = &alias.pool_mode {
            let _ = write!(ini, " pool_mode={mode}");
        }
        if let Some(size) = alias.pool_size {
            let _ = write!(ini, " pool_size={size}");
        }
        ini.push('\n');
    }
    ini.push_str("\n[pgbouncer]\n");
    let auth = match options.auth {
        PoolerAuth::Trust => "trust",
        PoolerAuth::Scram => "scram-sha-256",
    };
    let own = [
        ("listen_addr", "127.0.0.1".to_owned()),
        ("listen_port", port.to_string()),
        ("unix_socket_dir", sockets.display().to_string()),
        ("auth_type", auth.to_owned()),
        ("auth_file", users.display().to_string()),
        ("admin_users", options.admin_users.join(",")),
        ("stats_users", options.stats_users.join(",")),
        ("pool_mode", options.pool_mode.clone()),
        ("default_pool_size", options.default_pool_size.to_string()),
        ("reserve_pool_size", options.reserve_pool_size.to_string()),
        ("max_client_conn", options.max_client_conn.to_string()),
        // Drivers send it at start; PgBouncer would refuse the connection.
        ("ignore_startup_parameters", "extra_float_digits".to_owned()),
    ];
    let further = options.settings.iter().cloned();
    for (name, value) in own
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .chain(further)
    {
        let _ = writeln!(ini, "{name} = {value}");
    }
    ini
}
