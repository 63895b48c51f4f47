//! Stage two: what the file says, checked against itself and made usable.
//!
//! Names are unique and fit to be label values, references lead somewhere,
//! connection strings are whole, passwords are read.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::dsn::{self, Dsn, DsnError, Kind};
use super::problem::{Problems, Show, nearest};
use super::reader::{Environment, Text};
use super::shape::{self, File};
use super::{
    Config, HistoryConfig, PGBOUNCER_CONSOLE, PgbouncerConfig, PostgresConfig, password, scrape,
};
use super::{alertmanager, listener};
use crate::engine::settings::{LockKey, NamedLock, Pooler, Service, Settings};

/// Long enough for any name that people give a server, short enough for a
/// label value.
const NAME_LIMIT: usize = 63;

/// Lock names may be sentences.
const LOCK_NAME_LIMIT: usize = 200;

/// The checked configuration; what it lacks was reported to `problems`, and it
/// is only good when nothing was.
pub(super) fn check(file: File, environment: Environment<'_>, problems: &Problems) -> Config {
    let checker = Checker {
        environment,
        problems,
    };
    let listeners = listener::check(&file.server, &file.otlp, problems);
    let telemetry_endpoint = checker.endpoint(file.telemetry_endpoint.as_ref());
    let postgres = checker.postgres(&file.postgres);
    let targets: Vec<String> = names(&file.postgres);
    let pgbouncer = checker.pgbouncer(&file.pgbouncer, &targets);
    checker.same_server(&postgres, &pgbouncer);
    let scrape = scrape::check(&file.services, problems);
    let alertmanager = alertmanager::check(&file.alertmanager, problems);
    let history = checker.history(&file.history);
    let settings = Settings {
        poolers: pgbouncer
            .iter()
            .map(|pooler| Pooler {
                name: pooler.name.clone(),
                target: pooler.target.clone(),
            })
            .collect(),
        poolers_complete: file.poolers.complete,
        pooler_addresses: checker.networks(&file.poolers.addresses),
        services: checker.services(&file.services, &targets),
        advisory_locks: checker.locks(&file.locks),
        detect: file.detect,
        targets,
    };
    Config {
        path: None,
        listen: listeners.listen,
        otlp: listeners.otlp,
        doors: listeners.doors,
        telemetry_endpoint,
        alertmanager,
        postgres,
        pgbouncer,
        scrape,
        history,
        settings,
        warnings: Vec::new(),
    }
}

struct Checker<'a> {
    environment: Environment<'a>,
    problems: &'a Problems,
}

impl Checker<'_> {
    fn report(&self, text: &Text, message: impl Into<String>) {
        self.problems.at(text.span.clone(), Show::Span, message);
    }

    /// The base address of an OTLP receiver.
    fn endpoint(&self, text: Option<&Text>) -> Option<String> {
        let text = text?;
        let url = text.value.trim_end_matches('/');
        let known = ["http://", "https://"];
        let host = known.iter().find_map(|scheme| url.strip_prefix(scheme));
        if host.is_none_or(|host| {
            host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control())
        }) {
            self.report(
                text,
                "\"otlp_endpoint\" must be the address of an OTLP receiver over HTTP, such as \"http://collector:4318\"",
            );
            return None;
        }
        let authority = host.and_then(|host| host.split('/').next());
        if authority.is_some_and(|authority| authority.contains('@')) {
            let message = "\"otlp_endpoint\" has a user or password in it, and no login is sent with traces: take them out";
            self.problems.at(text.span.clone(), Show::Nothing, message);
            return None;
        }
        Some(url.to_owned())
    }

    fn postgres(&self, sources: &[shape::Source]) -> Vec<PostgresConfig> {
        if sources.is_empty() {
            self.problems.anywhere(
                "there is no [[postgres]]; add one with a name and the dsn of the server to watch",
            );
        }
        self.unique_names("[[postgres]]", sources.iter().map(|s| s.name.as_ref()));
        let checked = sources.iter().filter_map(|source| {
            let connection = self.connection(source, Kind::Postgres)?;
            Some(PostgresConfig {
                name: source.name.as_ref()?.value.clone(),
                connection,
                interval: source.interval,
            })
        });
        checked.collect()
    }

    fn pgbouncer(&self, sources: &[shape::Source], targets: &[String]) -> Vec<PgbouncerConfig> {
        self.unique_names("[[pgbouncer]]", sources.iter().map(|s| s.name.as_ref()));
        let checked = sources.iter().filter_map(|source| {
            let connection = self.connection(source, Kind::Pgbouncer);
            let target = source.target.as_ref()?;
            self.known_target(target, targets);
            Some(PgbouncerConfig {
                name: source.name.as_ref()?.value.clone(),
                target: target.value.clone(),
                connection: connection?,
                interval: source.interval,
            })
        });
        checked.collect()
    }

    fn known_target(&self, target: &Text, targets: &[String]) {
        if targets.contains(&target.value) {
            return;
        }
        let hint = nearest(&target.written, targets.iter().map(String::as_str));
        self.report(
            target,
            format!("no [[postgres]] is named \"{}\"{hint}", target.written),
        );
    }

    /// The connection of a source, password and all.
    fn connection(&self, source: &shape::Source, kind: Kind) -> Option<Dsn> {
        let text = source.dsn.as_ref()?;
        let secret = |message: String| {
            self.problems.at(text.span.clone(), Show::Nothing, message);
        };
        let parsed = dsn::parse(&text.value)
            .and_then(|written| Ok((written.resolve(kind, self.environment)?, written)));
        let (mut connection, written) = match parsed {
            Ok(parsed) => parsed,
            // What came out of the environment is not quoted.
            Err(DsnError::UnknownKeyword { keyword, .. }) if !text.written.contains(&keyword) => {
                secret(DsnError::UnknownUnquoted.to_string());
                return None;
            }
            Err(error) => {
                secret(error.to_string());
                return None;
            }
        };
        let console = connection.database == PGBOUNCER_CONSOLE;
        match kind {
            Kind::Postgres if console => {
                secret("the database \"pgbouncer\" is the console of a PgBouncer; give the address of the PostgreSQL server behind it, or move this to [[pgbouncer]]".to_owned());
            }
            Kind::Pgbouncer if !console => {
                secret("the database of a [[pgbouncer]] must be \"pgbouncer\", its console; leave it out or write /pgbouncer".to_owned());
            }
            _ => {}
        }
        let name = source
            .name
            .as_ref()
            .map_or("a source", |name| &name.written);
        if written.names_application {
            self.problems.warn(format!(
                "\"{name}\": application_name in the dsn is ignored; the sessions are named snowpit"
            ));
        }
        let file = source.password_file.as_ref();
        let path = file.map(|text| Path::new(&text.value));
        match password::find(
            name,
            &connection,
            &written,
            path,
            self.environment,
            self.problems,
        ) {
            Ok(password) => connection.password = password,
            Err(message) => {
                let span = file.map_or(source.header.clone(), |text| text.span.clone());
                self.problems.at(span, Show::Span, message);
            }
        }
        Some(connection)
    }

    /// Two names for one server count everything twice.
    fn same_server(&self, postgres: &[PostgresConfig], pgbouncer: &[PgbouncerConfig]) {
        let servers = postgres.iter().map(|p| (&p.name, &p.connection));
        let consoles = pgbouncer.iter().map(|p| (&p.name, &p.connection));
        let all: Vec<_> = servers.chain(consoles).collect();
        for (index, (name, dsn)) in all.iter().enumerate() {
            let twin = all[..index]
                .iter()
                .find(|(_, other)| (&other.host, other.port) == (&dsn.host, dsn.port));
            if let Some((other, _)) = twin {
                self.problems.warn(format!(
                    "\"{other}\" and \"{name}\" have the same host and port: one of them is wrong, or counted twice"
                ));
            }
        }
    }

    fn history(&self, history: &shape::History) -> Option<HistoryConfig> {
        let Some(directory) = &history.directory else {
            if history.capture {
                self.problems.at(
                    history.header.clone(),
                    Show::Span,
                    "\"capture\" needs a \"directory\" in [history] to write to",
                );
            }
            return None;
        };
        if directory.value.is_empty() {
            self.report(
                directory,
                "\"directory\" must be a path; leave it out to keep nothing on disk",
            );
        }
        Some(HistoryConfig {
            directory: PathBuf::from(&directory.value),
            retention: history.retention,
            capture: history.capture,
        })
    }

    fn unique_names<'t>(&self, title: &str, names: impl Iterator<Item = Option<&'t Text>>) {
        let mut seen: Vec<&str> = Vec::new();
        for name in names.flatten() {
            if !is_plain_name(&name.value) {
                self.report(name, format!(
                    "a name must begin with a letter or digit and have only letters, digits, \".\", \"_\" and \"-\", at most {NAME_LIMIT} of them"
                ));
            } else if seen.contains(&name.value.as_str()) {
                self.report(
                    name,
                    format!(
                        "another {title} is already named \"{}\"; give each its own name",
                        name.written
                    ),
                );
            }
            seen.push(&name.value);
        }
    }

    fn networks(&self, addresses: &[Text]) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in addresses {
            let bare = text.value.parse::<IpAddr>().map(IpNet::from);
            match text.value.parse::<IpNet>().or(bare) {
                Ok(network) => networks.push(network),
                Err(_) => self.report(
                    text,
                    "an address must be a network such as \"10.1.0.0/24\", or a single IP address",
                ),
            }
        }
        networks
    }

    fn services(&self, services: &[shape::Service], targets: &[String]) -> Vec<Service> {
        self.unique_names("[[service]]", services.iter().map(|s| s.name.as_ref()));
        let mut checked = Vec::new();
        for service in services {
            // A service that names no target may use any of them.
            let used = match &service.targets {
                None => targets.to_vec(),
                Some(used) => used
                    .iter()
                    .inspect(|target| self.known_target(target, targets))
                    .map(|target| target.value.clone())
                    .collect(),
            };
            for glob in &service.applications {
                if glob.value.is_empty() || globset::Glob::new(&glob.value).is_err() {
                    let message = "an application must be a name or a glob such as \"registry*\"";
                    self.report(glob, message);
                }
            }
            checked.extend(service.name.as_ref().map(|name| {
                Service {
                    name: name.value.clone(),
                    targets: used,
                    applications: service
                        .applications
                        .iter()
                        .map(|g| g.value.clone())
                        .collect(),
                }
            }));
        }
        checked
    }

    fn locks(&self, locks: &[shape::Lock]) -> Vec<NamedLock> {
        let mut checked: Vec<NamedLock> = Vec::new();
        for lock in locks {
            if let Some(name) = &lock.name
                && (name.value.is_empty()
                    || name.value.chars().count() > LOCK_NAME_LIMIT
                    || name.value.contains(char::is_control))
            {
                self.report(
                    name,
                    format!(
                        "the name of a lock must be one line of 1 to {LOCK_NAME_LIMIT} characters"
                    ),
                );
            }
            let Some((numbers, span)) = &lock.key else {
                continue;
            };
            let Some(key) = lock_key(numbers) else {
                self.problems.at(
                    span.clone(),
                    Show::Span,
                    "\"key\" must be a 64-bit integer, or two 32-bit ones such as [1, 7]",
                );
                continue;
            };
            if checked.iter().any(|other| other.key == key) {
                self.problems.at(
                    span.clone(),
                    Show::Span,
                    format!("the key {key} already has an [[advisory_lock]]; keep one of them"),
                );
            }
            checked.push(NamedLock {
                key,
                name: lock
                    .name
                    .as_ref()
                    .map_or(String::new(), |name| name.value.clone()),
                allow: lock.allow,
            });
        }
        checked
    }
}

fn names(sources: &[shape::Source]) -> Vec<String> {
    let names = sources.iter().filter_map(|source| source.name.as_ref());
    names.map(|name| name.value.clone()).collect()
}

fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= NAME_LIMIT
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
}

fn lock_key(numbers: &[i64]) -> Option<LockKey> {
    match *numbers {
        [key] => Some(LockKey::Big(key)),
        [first, second] => Some(LockKey::Pair(
            i32::try_from(first).ok()?,
            i32::try_from(second).ok()?,
        )),
        _ => None,
    }
}
