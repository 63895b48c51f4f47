//! The file that is written: pure, from what was found.
//!
//! Invariants: no password is in it; a name from outside cannot end a comment or
//! a string; what nobody can be sure of is a comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::found::{Pooler, Server, Suspect, is_sure};
use crate::cli::check::{Finding, Level};
use crate::config::{ChannelBinding, Dsn, SslMode};
use crate::engine::words;

/// Names in one list.
const NAMES: usize = 20;

/// `server_version_num` from which a role can be let in when all slots are taken.
const RESERVED_SINCE: u32 = 160_000;

/// Programs of people and of maintenance: no service.
const TOOLS: [&str; 8] = [
    "psql",
    "pg_dump",
    "pg_dumpall",
    "pg_basebackup",
    "pgbench",
    "pgAdmin",
    "DBeaver",
    "PostgreSQL JDBC Driver",
];

/// All that was found.
pub(super) struct Findings<'a> {
    pub servers: &'a [Server],
    pub poolers: &'a [Pooler],
    pub suspects: &'a [Suspect],
    /// What the roles at hand lack.
    pub lacks: &'a [Finding],
    pub probed: bool,
}

/// The whole file.
pub(super) fn file(found: &Findings<'_>) -> String {
    let mut text = String::from(
        "# snowpit: written by snowpit init. Try it with `snowpit check`, start with\n\
         # `snowpit run`, look with `snowpit top`. Every key that there is:\n\
         # config.example.toml. There is no password in here.\n\n\
         [server]\n\
         # Where /metrics, the API and the page answer. Others reach it only when you\n\
         # open it; then set tls and users as well.\n\
         #listen = \"127.0.0.1:9899\"\n\n",
    );
    for server in found.servers {
        postgres(&mut text, server, found);
    }
    for pooler in found.poolers {
        pgbouncer(&mut text, pooler, found);
    }
    poolers(&mut text, found);
    services(&mut text, found.servers);
    text.push_str(
        "# What is kept on disk: the past for the charts, incidents, and what is normal, so\n\
         # that a restart is no second warm-up.\n\
         #[history]\n\
         #directory = \"/var/lib/snowpit\"\n\
         #retention = \"72h\"\n",
    );
    text
}

/// A name from outside within a comment.
fn name(text: &str) -> String {
    let plain = words::name(text);
    if plain.is_empty() {
        "(none)".to_owned()
    } else {
        plain
    }
}

/// A string as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = names.into_iter().map(name).collect();
    let shown = all
        .iter()
        .take(NAMES)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The connection string without its password.
fn uri(dsn: &Dsn) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut settings: Vec<(&str, String)> = Vec::new();
    let mode = match dsn.ssl_mode {
        SslMode::Disable => Some("disable"),
        SslMode::Prefer => None,
        SslMode::Require => Some("require"),
        SslMode::VerifyCa => Some("verify-ca"),
        SslMode::VerifyFull => Some("verify-full"),
    };
    settings.extend(mode.map(|mode| ("sslmode", mode.to_owned())));
    let path = |path: &std::path::Path| encode(&path.to_string_lossy());
    settings.extend(
        dsn.ssl_root_cert
            .as_deref()
            .map(|file| ("sslrootcert", path(file))),
    );
    if let Some(own) = &dsn.client_certificate {
        settings.push(("sslcert", path(&own.certificate)));
        settings.push(("sslkey", path(&own.key)));
    }
    match dsn.channel_binding {
        ChannelBinding::Prefer => {}
        ChannelBinding::Disable => settings.push(("channel_binding", "disable".to_owned())),
        ChannelBinding::Require => settings.push(("channel_binding", "require".to_owned())),
    }
    if dsn.connect_timeout != crate::config::CONNECT_TIMEOUT {
        settings.push(("connect_timeout", dsn.connect_timeout.as_secs().to_string()));
    }
    let settings: Vec<String> = settings
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if settings.is_empty() {
        dsn.to_string()
    } else {
        format!("{dsn}?{}", settings.join("&"))
    }
}

fn connection(text: &mut String, dsn: &Dsn, had_password: bool) {
    let _ = writeln!(text, "dsn = {}", quoted(&uri(dsn)));
    let words = if had_password {
        "# The dsn that was given had a password. It is not written here: put it alone into a\n\
         # file that only snowpit may read, and name that file."
    } else {
        "# A file with the password and nothing else. Without it: PGPASSWORD, then PGPASSFILE\n\
         # or ~/.pgpass."
    };
    let _ = writeln!(text, "{words}\n#password_file = \"/run/secrets/snowpit\"");
}

fn lacks(text: &mut String, subject: &str, found: &Findings<'_>) {
    for finding in found
        .lacks
        .iter()
        .filter(|finding| finding.subject == subject)
    {
        let word = match finding.level {
            Level::Missing => "Lacking",
            Level::Note => "Note",
        };
        let _ = writeln!(text, "# {word}: {}", name(&finding.what));
        if let Some(cost) = &finding.cost {
            let _ = writeln!(text, "#   cost: {}", name(cost));
        }
        if let Some(fix) = &finding.fix {
            let _ = writeln!(text, "#   mend: {}", name(fix));
        }
    }
}

fn postgres(text: &mut String, server: &Server, found: &Findings<'_>) {
    let dsn = &server.config.connection;
    let (major, minor) = (server.version / 10_000, server.version % 10_000);
    let sessions: u64 = server
        .groups
        .iter()
        .map(|group| u64::from(group.count))
        .sum();
    let _ = writeln!(
        text,
        "# PostgreSQL {major}.{minor} with {sessions} sessions besides ours. Databases: {}.",
        listed(server.databases.iter().map(String::as_str))
    );
    text.push_str(
        "# A role that may see all and change nothing; run this as a superuser, and set its\n\
         # password with \\password snowpit in psql:\n\
         #   CREATE ROLE snowpit LOGIN;\n\
         #   GRANT pg_monitor TO snowpit;\n",
    );
    let _ = writeln!(
        text,
        "#   GRANT CONNECT ON DATABASE {} TO snowpit;",
        name(&identifier(&dsn.database))
    );
    if server.version >= RESERVED_SINCE {
        text.push_str(
            "# And to get in when the server is full:\n\
             #   GRANT pg_use_reserved_connections TO snowpit;\n",
        );
    }
    lacks(text, &server.name, found);
    let _ = writeln!(text, "[[postgres]]\nname = {}", quoted(&server.name));
    connection(text, dsn, server.had_password);
    text.push('\n');
}

fn identifier(name: &str) -> String {
    let mut characters = name.chars();
    let begins = characters
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    if begins && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

fn pgbouncer(text: &mut String, pooler: &Pooler, found: &Findings<'_>) {
    let dsn = &pooler.config.connection;
    let behind: Vec<String> = pooler
        .behind
        .iter()
        .map(|(host, port)| format!("{host}:{port}"))
        .collect();
    let _ = writeln!(
        text,
        "# A PgBouncer in front of {}. Its user must be among stats_users in pgbouncer.ini:\n\
         #   stats_users = {}",
        listed(behind.iter().map(String::as_str)),
        name(&dsn.user)
    );
    lacks(text, &pooler.name, found);
    let sure = is_sure(pooler, found.servers);
    if !sure && !pooler.config.target.is_empty() {
        text.push_str(
            "# By this address it is not sure that it is in front of its target here: make sure, a\n\
             # pooler of another server leads to wrong verdicts.\n",
        );
    }
    let mark = if pooler.config.target.is_empty() {
        text.push_str(
            "# None of the servers above is known to be behind it by this address: name the right\n\
             # one as its target, and take the marks away.\n",
        );
        "#"
    } else {
        ""
    };
    let mut section = String::new();
    let _ = writeln!(
        section,
        "[[pgbouncer]]\nname = {}\ntarget = {}",
        quoted(&pooler.name),
        quoted(&pooler.config.target)
    );
    connection(&mut section, dsn, pooler.had_password);
    for line in section.lines() {
        let mark = if line.starts_with('#') { "" } else { mark };
        let _ = writeln!(text, "{mark}{line}");
    }
    text.push('\n');
}

fn poolers(text: &mut String, found: &Findings<'_>) {
    if found.poolers.is_empty() {
        text.push_str(
            "# No PgBouncer was given. Without its console a lock left on a pooled session cannot\n\
             # be told from an owned one: snowpit init takes its dsn as well, such as\n\
             # postgresql://stats@pooler:6432/pgbouncer.\n",
        );
    }
    text.push_str(
        "[poolers]\n\
         # True only when every PgBouncer process in front of the servers is listed above.\n\
         # While it is false, a holder that no listed pooler knows is judged `unknown`.\n\
         #complete = false\n\
         # Where poolers connect from that cannot be listed above.\n",
    );
    let addresses: Vec<String> = found
        .suspects
        .iter()
        .map(|one| quoted(&one.address))
        .collect();
    if addresses.is_empty() {
        text.push_str("#addresses = []\n\n");
        return;
    }
    let _ = writeln!(text, "#addresses = [{}]", addresses.join(", "));
    text.push_str("# These addresses may be poolers:\n");
    for one in found.suspects.iter().take(NAMES) {
        let _ = writeln!(
            text,
            "#   {} at {}: {} sessions of {} applications and {} users",
            name(&one.address),
            one.server,
            one.sessions,
            one.applications,
            one.users
        );
        if let Some(probe) = &one.probe {
            let _ = writeln!(text, "#     its port 6432: {}", name(probe));
        }
    }
    if !found.probed {
        text.push_str("# snowpit init --probe tries the port 6432 of each of them.\n");
    }
    text.push('\n');
}

/// Services by the beginnings of application names, as comments: which of them
/// belong together nobody can know.
fn services(text: &mut String, servers: &[Server]) {
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for group in servers.iter().flat_map(|server| &server.groups) {
        let application = group.application.as_deref().unwrap_or_default();
        if TOOLS.iter().any(|tool| application.starts_with(tool)) {
            continue;
        }
        if let Some(stem) = stem(application) {
            *found.entry(stem).or_default() += u64::from(group.count);
        }
    }
    let mut found: Vec<(String, u64)> = found.into_iter().collect();
    found.sort_by_key(|(_, sessions)| std::cmp::Reverse(*sessions));
    if found.is_empty() {
        return;
    }
    text.push_str(
        "# Applications by the names of their sessions. A [[service]] ties what an application\n\
         # tells of its routes, by its metrics page or by OTLP, to its sessions.\n",
    );
    for (stem, sessions) in found.iter().take(NAMES) {
        let _ = writeln!(
            text,
            "#[[service]]                    # {sessions} sessions now\n\
             #name = {}\n#applications = [{}]\n\
             #scrape = {{ url = \"http://{stem}:8000/metrics\" }}",
            quoted(stem),
            quoted(&format!("{stem}*"))
        );
    }
    text.push('\n');
}

/// What the names of one application's processes have in common: that before a
/// number, a separator or a path. Nothing where that is no name for a label.
fn stem(application: &str) -> Option<String> {
    let end = application.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let stem = &application[..end.unwrap_or(application.len())];
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let begins = stem.starts_with(|c: char| c.is_ascii_alphabetic());
    (begins && stem.len() >= 2 && stem.len() <= 40).then(|| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::sample::Group;

    fn server(application: &str) -> Server {
        let dsn =
            "postgresql://ops:s3cret@db.internal/app?sslmode=verify-full&sslrootcert=/etc/ca.pem";
        let config = Config::from_dsn(dsn, |_| None).unwrap();
        Server {
            name: "db".to_owned(),
            config: config.postgres[0].clone(),
            had_password: true,
            version: 160_004,
            databases: vec!["app".to_owned(), "evil\n[[postgres]]".to_owned()],
            groups: vec![Group {
                application: Some(application.to_owned()),
                client: Some("10.0.0.7".to_owned()),
                count: 12,
                ..Group::default()
            }],
        }
    }

    fn written(application: &str) -> String {
        let servers = [server(application)];
        let suspects = super::super::found::suspects(&servers, &[], false);
        file(&Findings {
            servers: &servers,
            poolers: &[],
            suspects: &suspects,
            lacks: &[],
            probed: false,
        })
    }

    #[test]
    fn it_is_a_configuration_without_a_password() {
        let text = written("registry-7f9c");
        insta::assert_snapshot!(text);
        assert!(!text.contains("s3cret"));
        let config = Config::parse(&text, "test", |_| None).unwrap();
        let dsn = &config.postgres[0].connection;
        assert_eq!(dsn.ssl_mode, SslMode::VerifyFull);
        assert_eq!(dsn.ssl_root_cert.as_deref(), Some("/etc/ca.pem".as_ref()));
        assert_eq!((dsn.host.as_str(), dsn.port), ("db.internal", 5432));
    }

    #[test]
    fn a_name_from_outside_stays_in_its_comment() {
        let text = written("x\"\n[[postgres]]\nname = \"evil\"");
        let config = Config::parse(&text, "test", |_| None).unwrap();
        assert_eq!(config.settings.targets, ["db"]);
        assert_eq!(config.settings.services.len(), 0);
        // What is suggested is a configuration when its marks are taken away.
        let services = written("registry-1");
        let mut uncommented = String::new();
        for line in services.lines() {
            let keys = ["#[[service]]", "#name", "#applications", "#scrape"];
            let bare = keys.iter().any(|key| line.starts_with(key));
            uncommented += if bare { &line[1..] } else { line };
            uncommented.push('\n');
        }
        let config = Config::parse(&uncommented, "test", |_| None).unwrap();
        assert_eq!(config.settings.services[0].name, "registry");
    }

    #[test]
    fn processes_of_one_application_have_one_stem() {
        let cases = [
            ("registry-7f9c-x2", Some("registry")),
            ("gateway12", Some("gateway")),
            ("my_app: worker 3", Some("my_app")),
            ("/usr/bin/app", None),
            ("", None),
            ("7", None),
        ];
        for (application, expected) in cases {
            assert_eq!(stem(application).as_deref(), expected, "{application}");
        }
    }
}
