//! A configuration without a file: servers and poolers by their connection
//! strings alone.

use std::collections::BTreeSet;

use super::dsn::{self, Kind};
use super::problem::Problems;
use super::{Config, ConfigErrors, Dsn, PgbouncerConfig, SINGLE_TARGET, password, shape};
use crate::engine::settings::Pooler;

impl Config {
    /// PostgreSQL servers, and the consoles of poolers in front of the only one.
    /// A lone server is named [`SINGLE_TARGET`], several after their hosts.
    ///
    /// # Errors
    /// A string is none, or nobody can say which server a pooler is in front of.
    pub fn from_dsns(
        servers: &[String],
        poolers: &[String],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let refuse = |message: &str| ConfigErrors::lone("--pooler-dsn", message);
        let (first, others) = servers
            .split_first()
            .ok_or_else(|| ConfigErrors::lone("--dsn", "is missing"))?;
        let mut config = Self::from_dsn(first, &environment)?;
        if !poolers.is_empty() && !others.is_empty() {
            return Err(refuse(
                "with several --dsn nobody can say which of them it is in front of; give one --dsn, or \
                 write a configuration file with [[pgbouncer]] sections (snowpit init begins one)",
            ));
        }
        for other in others {
            let other = Self::from_dsn(other, &environment)?;
            config.postgres.extend(other.postgres);
            config.warnings.extend(other.warnings);
        }
        if !others.is_empty() {
            let mut taken = BTreeSet::new();
            for server in &mut config.postgres {
                server.name = free_name(&server.connection, &mut taken);
            }
            let names = config.postgres.iter().map(|server| server.name.clone());
            config.settings.targets = names.collect();
        }
        let mut taken = BTreeSet::new();
        for pooler in poolers {
            let pooler = pooler_of(pooler, &mut taken, &environment, &mut config.warnings)?;
            config.settings.poolers.push(Pooler {
                name: pooler.name.clone(),
                target: pooler.target.clone(),
            });
            config.pgbouncer.push(pooler);
        }
        Ok(config)
    }

    /// The console of a pooler alone, in front of [`SINGLE_TARGET`].
    ///
    /// # Errors
    /// The string is none.
    pub fn pooler_from_dsn(
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<PgbouncerConfig, ConfigErrors> {
        pooler_of(text, &mut BTreeSet::new(), &environment, &mut Vec::new())
    }
}

/// The console of a pooler in front of [`SINGLE_TARGET`].
fn pooler_of(
    text: &str,
    taken: &mut BTreeSet<String>,
    environment: &dyn Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Result<PgbouncerConfig, ConfigErrors> {
    let origin = "--pooler-dsn";
    let refuse = |message: String| ConfigErrors::lone(origin, message);
    let written = dsn::parse(text).map_err(|error| refuse(error.to_string()))?;
    let mut connection = written
        .resolve(Kind::Pgbouncer, environment)
        .map_err(|error| refuse(error.to_string()))?;
    let name = free_name(&connection, taken);
    let problems = Problems::default();
    connection.password =
        password::find(&name, &connection, &written, None, environment, &problems)
            .map_err(refuse)?;
    warnings.extend(problems.finish(origin, "")?);
    Ok(PgbouncerConfig {
        name,
        target: SINGLE_TARGET.to_owned(),
        connection,
        interval: shape::DEFAULT_INTERVAL,
    })
}

/// The host as a name that no other has: with its port when it is there twice.
fn free_name(connection: &Dsn, taken: &mut BTreeSet<String>) -> String {
    let host = connection.host.rsplit('/').find(|part| !part.is_empty());
    let host = host.unwrap_or("server").to_owned();
    let names = [host.clone(), format!("{host}-{}", connection.port)];
    let numbered = (2..).map(|number| format!("{host}-{}-{number}", connection.port));
    let mut free = names.into_iter().chain(numbered);
    let name = free.find(|name| !taken.contains(name)).unwrap_or(host);
    taken.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(servers: &[&str], poolers: &[&str]) -> Result<Config, ConfigErrors> {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        Config::from_dsns(&owned(servers), &owned(poolers), |_| None)
    }

    #[test]
    fn names_come_from_hosts_and_are_told_apart() {
        let one = made(
            &["postgresql://u@h/db"],
            &["postgresql://s@p", "host=p port=1 user=s"],
        );
        let one = one.unwrap();
        assert_eq!(one.settings.targets, ["main"]);
        let names: Vec<&str> = one.pgbouncer.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["p", "p-1"]);
        assert_eq!(one.settings.poolers.len(), 2);
        assert_eq!(one.pgbouncer[0].connection.database, "pgbouncer");
        let many = made(
            &[
                "host=a user=u",
                "host=a port=1 user=u",
                "host=/run/pg user=u",
            ],
            &[],
        );
        assert_eq!(many.unwrap().settings.targets, ["a", "a-1", "pg"]);
    }

    #[test]
    fn a_pooler_needs_to_know_its_server() {
        let several = made(&["host=a user=u", "host=b user=u"], &["host=p user=s"]);
        assert!(several.unwrap_err().to_string().contains("one --dsn"));
        assert!(made(&["host=a user=u"], &["http://p"]).is_err());
    }
}
