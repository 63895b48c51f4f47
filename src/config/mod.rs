//! Configuration in two stages: the file's shape, then a checked [`Config`].
//!
//! `shape` says which keys there are, through the table reader `reader`;
//! `check` says how they fit together. Both add to one list of problems, so
//! that one look at the file reports everything that is wrong with it.

mod alertmanager;
mod check;
mod dsn;
mod dsns;
mod listener;
mod password;
pub mod plain_file;
mod problem;
mod reader;
mod scrape;
mod shape;
mod ssl;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use alertmanager::{AlertmanagerConfig, AlertmanagerUrl};
pub use dsn::{CONNECT_TIMEOUT, Dsn, DsnError};
pub use problem::{ConfigError, ConfigErrors, Place};
pub use scrape::{Credentials, ScrapeConfig, Secret};
pub use shape::DEFAULT_INTERVAL;
pub use ssl::{ChannelBinding, ClientCertificate, SslMode};

use crate::engine::Settings;
use crate::listen::DoorsConfig;
use crate::observe::otlp::OtlpConfig;
use dsn::Kind;
use problem::{Problems, Show};
use reader::{Context, Environment, Table};

/// Where the configuration is looked for, in this order.
pub const DEFAULT_PATHS: [&str; 2] = ["./snowpit.toml", "/etc/snowpit/snowpit.toml"];

/// Loopback: nothing is open to the network that nobody opened.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9899);

/// The pseudo-database that is PgBouncer's admin console.
pub const PGBOUNCER_CONSOLE: &str = "pgbouncer";

/// The name of the only target when there is no file.
pub const SINGLE_TARGET: &str = "main";

/// No configuration is longer; a wrong path may be a disk image.
const FILE_LIMIT: u64 = 1024 * 1024;

/// A checked configuration: nothing in it can be wrong any more.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from; `None` when made in memory.
    pub path: Option<PathBuf>,
    pub listen: SocketAddr,
    pub otlp: OtlpConfig,
    /// Who may come in at those addresses.
    pub doors: DoorsConfig,
    /// Base address of the OTLP receiver for our own traces; `None`: there are
    /// none.
    pub telemetry_endpoint: Option<String>,
    /// Where alerts are pushed to.
    pub alertmanager: AlertmanagerConfig,
    pub postgres: Vec<PostgresConfig>,
    pub pgbouncer: Vec<PgbouncerConfig>,
    /// The applications' metrics pages, in the order of their services.
    pub scrape: Vec<ScrapeConfig>,
    /// What is kept on disk; `None`: nothing.
    pub history: Option<HistoryConfig>,
    /// What the engine is told.
    pub settings: Settings,
    /// What is allowed and still unwise, a sentence each, to be shown once.
    pub warnings: Vec<String>,
}

/// `[history]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryConfig {
    pub directory: PathBuf,
    /// How long files are kept.
    pub retention: Duration,
    /// Also keep every sample, to be replayed.
    pub capture: bool,
}

/// `[[postgres]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    pub name: String,
    pub connection: Dsn,
    pub interval: Duration,
}

/// `[[pgbouncer]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgbouncerConfig {
    pub name: String,
    pub target: String,
    pub connection: Dsn,
    pub interval: Duration,
}

impl Config {
    /// The file to read: the one that was asked for, else the first of
    /// [`DEFAULT_PATHS`] that exists.
    pub fn find(explicit: Option<PathBuf>) -> Result<PathBuf, ConfigErrors> {
        if let Some(path) = explicit {
            return Ok(path);
        }
        let mut places = DEFAULT_PATHS.iter().map(PathBuf::from);
        places.find(|path| path.exists()).ok_or_else(|| {
            ConfigErrors::lone(
                "snowpit",
                format!(
                    "there is no configuration at {} or {}; write one with snowpit init postgresql://…, copy \
                     config.example.toml, or name a file with --config FILE",
                    DEFAULT_PATHS[0], DEFAULT_PATHS[1]
                ),
            )
        })
    }

    /// Reads and checks a file, and the password files that it names.
    pub fn load(path: &Path, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let origin = path.display().to_string();
        let bytes = plain_file::read(path, FILE_LIMIT + 1).map_err(|error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "; snowpit init --output FILE postgresql://… writes one"
                }
                _ => "",
            };
            ConfigErrors::lone(&origin, format!("cannot be read: {error}{remedy}"))
        })?;
        if bytes.len() as u64 > FILE_LIMIT {
            let message = "is longer than 1 MiB; this is no configuration";
            return Err(ConfigErrors::lone(&origin, message));
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(ConfigErrors::lone(&origin, "is not UTF-8 text"));
        };
        let mut config = Self::parse(&text, &origin, env)?;
        config.path = Some(path.to_owned());
        Ok(config)
    }

    /// Checks the text of a file. `origin` is its name in the report.
    pub fn parse(
        text: &str,
        origin: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let problems = Problems::default();
        let (config, _) = read(text, &env, &problems);
        let warnings = problems.finish(origin, text)?;
        config
            .map(|config| Self { warnings, ..config })
            .ok_or_else(|| ConfigErrors::lone(origin, "cannot be parsed"))
    }

    /// One PostgreSQL server, named [`SINGLE_TARGET`], and nothing else: for a
    /// look without a file.
    pub fn from_dsn(dsn: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let origin = "--dsn";
        let refuse = |message: String| ConfigErrors::lone(origin, message);
        let written = dsn::parse(dsn).map_err(|error| refuse(error.to_string()))?;
        let mut connection = written
            .resolve(Kind::Postgres, &env)
            .map_err(|error| refuse(error.to_string()))?;
        let problems = Problems::default();
        connection.password =
            password::find(SINGLE_TARGET, &connection, &written, None, &env, &problems)
                .map_err(refuse)?;
        let warnings = problems.finish(origin, "")?;
        Ok(Self {
            path: None,
            listen: DEFAULT_LISTEN,
            otlp: OtlpConfig::default(),
            doors: DoorsConfig::default(),
            telemetry_endpoint: None,
            alertmanager: AlertmanagerConfig::default(),
            postgres: vec![PostgresConfig {
                name: SINGLE_TARGET.to_owned(),
                connection,
                interval: shape::DEFAULT_INTERVAL,
            }],
            pgbouncer: Vec::new(),
            scrape: Vec::new(),
            history: None,
            settings: Settings {
                targets: vec![SINGLE_TARGET.to_owned()],
                ..Settings::default()
            },
            warnings,
        })
    }
}

/// Both stages, and the keys that the file leaves out. There is no
/// configuration when the text is not TOML.
fn read(
    text: &str,
    environment: Environment<'_>,
    problems: &Problems,
) -> (Option<Config>, Vec<String>) {
    let (root, errors) = toml::de::DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        problems.at(
            span,
            Show::Syntax,
            format!("not valid TOML: {}", error.message()),
        );
    }
    if !problems.is_empty() {
        return (None, Vec::new());
    }
    let context = Context {
        problems,
        environment,
        absent: RefCell::default(),
    };
    let file = shape::read(Table::root(root.get_ref(), &context));
    let config = check::check(file, environment, problems);
    (Some(config), context.absent.into_inner())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The example with every `#key = value` made real.
    fn uncommented_example(directory: &Path) -> String {
        let password = directory.join("password");
        fs::write(&password, "hidden\n").unwrap();
        include_str!("../../config.example.toml")
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
                    rest
                }
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .replace("/run/secrets/snowpit", &password.display().to_string())
            .replace("/etc/snowpit", &directory.display().to_string())
    }

    /// The files of TLS that the example names.
    fn certificates(directory: &Path) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap().pem();
        for (name, text) in [
            ("server.pem", &certificate),
            ("clients.pem", &certificate),
            ("server.key", &key.serialize_pem()),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_example_shows_every_key_that_the_reader_knows() {
        let directory = tempfile::tempdir().unwrap();
        certificates(directory.path());
        let text = uncommented_example(directory.path());
        let problems = Problems::default();
        let (config, absent) = read(&text, &|_| None, &problems);
        assert_eq!(absent, Vec::<String>::new(), "missing in the example");
        problems.finish("config.example.toml", &text).unwrap();
        let config = config.unwrap();
        assert_eq!(
            config.settings.detect,
            crate::engine::settings::Detect::default()
        );
    }
}
