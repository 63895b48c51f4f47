//! What a PgBouncer console lets us see, and what we miss without it.

use super::{Finding, Level, Source};
use crate::config::PgbouncerConfig;
use crate::observe::PollError;
use crate::observe::failure;
use crate::observe::pgbouncer::config as settings;
use crate::observe::pgbouncer::session::Session;
use crate::observe::poll::READ_TIMEOUT;

/// The versions whose console lets a stats user do KILL_CLIENT
/// (CVE-2026-6667): the first, and the first that is mended.
const KILL_CLIENT: ((u32, u32, u32), (u32, u32, u32)) = ((1, 24, 0), (1, 25, 2));

struct Facts {
    version: Option<String>,
    so_reuseport: bool,
    is_admin: bool,
    is_stats: bool,
}

/// Logs in as the daemon does, and asks.
pub(super) async fn probe(config: &PgbouncerConfig) -> (Source, Vec<Finding>) {
    let mut source = Source {
        source: "pgbouncer",
        name: config.name.clone(),
        up: false,
        version: None,
        role: None,
        user: config.connection.user.clone(),
        privileges: Vec::new(),
        clock_offset_seconds: None,
    };
    match ask(config).await {
        Ok(facts) => {
            let findings = findings(config, &facts);
            source.up = true;
            source.role = Some("console");
            source.version = facts.version;
            if facts.is_admin {
                source.privileges.push("admin_users");
            }
            if facts.is_stats {
                source.privileges.push("stats_users");
            }
            (source, findings)
        }
        Err(error) => {
            let finding = Finding::sentence(Level::Missing, &config.name, error.message);
            (source, vec![finding])
        }
    }
}

async fn ask(config: &PgbouncerConfig) -> Result<Facts, PollError> {
    let dsn = &config.connection;
    let session = Session::open(dsn).await?;
    let answer = tokio::time::timeout(READ_TIMEOUT, session.ask(dsn, settings::STATEMENT))
        .await
        .map_err(|_| failure::timed_out(dsn, READ_TIMEOUT.as_secs_f64()))??;
    let (decoded, _) = settings::decode(answer.iter());
    // Lists of names, with commas between; `*` is every user.
    let is_among = |key: &str| {
        let mut rows = answer.iter().filter(|row| row.text("key") == Some(key));
        let names = rows
            .next()
            .and_then(|row| row.text("value").map(str::to_owned));
        names.is_some_and(|names| {
            names
                .split(',')
                .any(|name| name.trim() == dsn.user || name.trim() == "*")
        })
    };
    Ok(Facts {
        version: session.version().map(str::to_owned),
        so_reuseport: decoded.so_reuseport,
        is_admin: is_among("admin_users"),
        is_stats: is_among("stats_users"),
    })
}

fn findings(config: &PgbouncerConfig, facts: &Facts) -> Vec<Finding> {
    let name = &config.name;
    let user = &config.connection.user;
    let mut found = Vec::new();
    // A unix socket belongs to one process, a shared port to any of them.
    if facts.so_reuseport && !config.connection.host.starts_with('/') {
        found.push(Finding::new(
            Level::Missing,
            name,
            "so_reuseport is on: several processes may share this port, and a login reaches one of them by chance",
            "server connections of the other processes are not seen, so their locks can be judged wrong",
            "give each process its own unix_socket_dir, and each its own [[pgbouncer]] with that directory as host",
        ));
    }
    if facts.is_admin {
        found.push(Finding::new(
            Level::Note,
            name,
            &format!("user {user} is among admin_users"),
            "whoever reads snowpit's password can stop the pooler",
            "use a user that is among stats_users only",
        ));
    }
    let version = facts.version.as_deref().and_then(version_parts);
    let (first, mended) = KILL_CLIENT;
    if version.is_some_and(|version| first <= version && version < mended) {
        found.push(Finding::new(
            Level::Note,
            name,
            "this version lets every stats user run KILL_CLIENT (CVE-2026-6667)",
            "whoever reads snowpit's password can disconnect clients",
            "upgrade PgBouncer to 1.25.2 or newer",
        ));
    }
    found
}

/// `1.25.1` → (1, 25, 1); a missing part is 0, other poolers have none.
fn version_parts(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    let major = parts.next()??;
    let mut next = || parts.next().flatten().unwrap_or(0);
    Some((major, next(), next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn told(version: &str, host: &str, so_reuseport: bool) -> Vec<String> {
        let text = format!(
            "[[postgres]]\nname = \"a\"\ndsn = \"host=h user=u\"\n\
             [[pgbouncer]]\nname = \"p\"\ntarget = \"a\"\ndsn = \"host={host} user=stats\"\n"
        );
        let config = Config::parse(&text, "test", |_| None).unwrap();
        let facts = Facts {
            version: Some(version.to_owned()),
            so_reuseport,
            is_admin: false,
            is_stats: true,
        };
        let found = findings(&config.pgbouncer[0], &facts);
        found.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn the_versions_of_the_kill_client_hole_are_told() {
        for version in ["1.24.0", "1.24.1", "1.25.0", "1.25.1"] {
            assert!(
                told(version, "h", false)[0].contains("CVE-2026-6667"),
                "{version}"
            );
        }
        for version in ["1.18.0", "1.23.1", "1.25.2", "1.26.0", "2.0", "odd"] {
            assert_eq!(told(version, "h", false), Vec::<String>::new(), "{version}");
        }
    }

    #[test]
    fn a_shared_port_is_told_and_a_socket_is_fine() {
        assert!(told("1.18.0", "h", true)[0].contains("so_reuseport"));
        assert_eq!(
            told("1.18.0", "/run/pgbouncer-1", true),
            Vec::<String>::new()
        );
    }
}
