//! Configuration in two stages: the file's shape, then a checked [`Config`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Settings;

/// A checked configuration: nothing in it can be wrong any more.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from; `None` when made in memory.
    pub path: Option<PathBuf>,
    pub listen: SocketAddr,
    pub postgres: Vec<PostgresConfig>,
    pub pgbouncer: Vec<PgbouncerConfig>,
    /// What the engine is told.
    pub settings: Settings,
}

/// `[[postgres]]`
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    pub name: String,
    pub connection: Dsn,
    pub interval: Duration,
}

/// `[[pgbouncer]]`
#[derive(Debug, Clone)]
pub struct PgbouncerConfig {
    pub name: String,
    pub target: String,
    pub connection: Dsn,
    pub interval: Duration,
}

/// Where and as whom to connect. `Debug` and `Display` never show the password.
#[derive(Clone)]
pub struct Dsn {
    /// A host name, an address, or the directory of a unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    pub ssl_mode: SslMode,
    /// PEM file of the authorities to trust; `None`: the system's.
    pub ssl_root_cert: Option<PathBuf>,
    pub connect_timeout: Duration,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dsn({self})")
    }
}

impl std::fmt::Display for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "postgresql://{}@{}:{}/{}",
            self.user, self.host, self.port, self.database
        )
    }
}
