//! What a PostgreSQL server lets us see, and what we miss without it.

use tokio_postgres::Row;

use super::{Finding, Level, Source};
use crate::config::PostgresConfig;
use crate::observe::PollError;
use crate::observe::failure;
use crate::observe::poll::{READ_TIMEOUT, unix_now};
use crate::observe::postgres::session::Session;

/// Settings and roles only: no user table is touched. A role that this version
/// does not have yet is NULL.
const SQL: &str = "\
SELECT current_setting('server_version') AS version,
       current_user::text AS role,
       pg_is_in_recovery() AS in_recovery,
       extract(epoch FROM clock_timestamp())::float8 AS clock,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       pg_has_role('pg_monitor', 'USAGE') AS monitor,
       pg_has_role('pg_read_all_stats', 'USAGE') AS read_all_stats,
       (SELECT pg_has_role(oid, 'USAGE') FROM pg_roles
         WHERE rolname = 'pg_use_reserved_connections') AS use_reserved,
       current_setting('reserved_connections', true)::int4 AS reserved,
       current_setting('track_activities')::bool AS track_activities,
       pg_size_bytes(current_setting('track_activity_query_size'))::int8 AS query_size";

/// Ages and hold times are differences to the server's clock; a second more
/// than two polls is no longer noise of the network.
const CLOCK_TOLERANCE: f64 = 3.0;

/// A statement with a comment of sqlcommenter mostly fits into this.
const QUERY_SIZE: i64 = 4096;

struct Facts {
    version: String,
    role: String,
    in_recovery: bool,
    clock_offset: f64,
    superuser: bool,
    monitor: bool,
    read_all_stats: bool,
    /// `None` before 16.
    use_reserved: Option<bool>,
    reserved: Option<i32>,
    track_activities: bool,
    query_size: i64,
}

/// Logs in as the daemon does, and asks.
pub(super) async fn probe(config: &PostgresConfig) -> (Source, Vec<Finding>) {
    let mut source = Source {
        source: "postgres",
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
            let findings = findings(&config.name, &facts);
            source.up = true;
            source.role = Some(if facts.in_recovery {
                "standby"
            } else {
                "primary"
            });
            source.privileges = privileges(&facts);
            source.clock_offset_seconds = Some(facts.clock_offset);
            source.version = Some(facts.version);
            source.user = facts.role;
            (source, findings)
        }
        Err(error) => {
            let finding = Finding::sentence(Level::Missing, &config.name, error.message);
            (source, vec![finding])
        }
    }
}

async fn ask(config: &PostgresConfig) -> Result<Facts, PollError> {
    let dsn = &config.connection;
    let doing = "reading roles and settings";
    let session = Session::open(dsn).await?;
    let asked_at = unix_now();
    let answer = tokio::time::timeout(READ_TIMEOUT, session.client.query_typed(SQL, &[])).await;
    let answered_at = unix_now();
    let rows = answer
        .map_err(|_| failure::timed_out(dsn, READ_TIMEOUT.as_secs_f64()))?
        .map_err(|error| failure::asking(error, dsn, doing))?;
    let here = f64::midpoint(asked_at, answered_at);
    let facts = rows.first().map(|row| decode(row, here));
    match facts {
        Some(Ok(facts)) => Ok(facts),
        Some(Err(error)) => Err(failure::asking(error, dsn, doing)),
        None => Err(PollError::new(
            crate::sample::FailureReason::Protocol,
            format!("{dsn} gave no answer to {doing}: give the address of a PostgreSQL server"),
        )),
    }
}

fn decode(row: &Row, here: f64) -> Result<Facts, tokio_postgres::Error> {
    let version: String = row.try_get("version")?;
    Ok(Facts {
        // Debian adds its own package version behind a space.
        version: version.split(' ').next().unwrap_or_default().to_owned(),
        role: row.try_get("role")?,
        in_recovery: row.try_get("in_recovery")?,
        clock_offset: row.try_get::<_, f64>("clock")? - here,
        superuser: row
            .try_get::<_, Option<bool>>("superuser")?
            .unwrap_or(false),
        monitor: row.try_get("monitor")?,
        read_all_stats: row.try_get("read_all_stats")?,
        use_reserved: row.try_get("use_reserved")?,
        reserved: row.try_get("reserved")?,
        track_activities: row.try_get("track_activities")?,
        query_size: row.try_get("query_size")?,
    })
}

fn privileges(facts: &Facts) -> Vec<&'static str> {
    // A superuser is a member of everything.
    if facts.superuser {
        return vec!["superuser"];
    }
    let mut held = Vec::new();
    if facts.monitor {
        held.push("pg_monitor");
    } else if facts.read_all_stats {
        held.push("pg_read_all_stats");
    }
    if facts.use_reserved == Some(true) {
        held.push("pg_use_reserved_connections");
    }
    held
}

fn findings(name: &str, facts: &Facts) -> Vec<Finding> {
    let role = quote_identifier(&facts.role);
    let mut found = Vec::new();
    if !facts.read_all_stats {
        found.push(Finding::new(
            Level::Missing,
            name,
            &format!("role {} is no member of pg_read_all_stats", facts.role),
            "state, client and query of other sessions are hidden: no lock verdicts, no routes, no avalanche by application",
            &format!("GRANT pg_monitor TO {role};"),
        ));
    }
    if !facts.track_activities {
        found.push(Finding::new(
            Level::Missing,
            name,
            "track_activities is off",
            "the server does not say what its sessions do: no lock verdicts, no routes",
            "ALTER SYSTEM SET track_activities = on; SELECT pg_reload_conf();",
        ));
    }
    found.extend(reserved(name, facts, &role));
    if facts.superuser {
        found.push(Finding::new(
            Level::Note,
            name,
            &format!("role {} is a superuser", facts.role),
            "whoever reads snowpit's password owns the server",
            "CREATE ROLE snowpit LOGIN PASSWORD '…'; GRANT pg_monitor TO snowpit;",
        ));
    }
    if facts.query_size < QUERY_SIZE {
        found.push(Finding::new(
            Level::Note,
            name,
            &format!("track_activity_query_size is {} bytes", facts.query_size),
            "the route tag at the end of a longer statement is cut off, so its session counts for no route",
            &format!("ALTER SYSTEM SET track_activity_query_size = {QUERY_SIZE}; and restart at a good moment"),
        ));
    }
    if facts.clock_offset.abs() > CLOCK_TOLERANCE {
        found.push(Finding::new(
            Level::Note,
            name,
            &format!(
                "the clocks of the server and of this machine differ by {:.1} s",
                facts.clock_offset.abs()
            ),
            "times of incidents here and in the server's log do not match",
            "run an NTP client on both",
        ));
    }
    found
}

/// Getting in while every ordinary slot is taken, which 16 made possible for
/// others than superusers.
fn reserved(name: &str, facts: &Facts, role: &str) -> Option<Finding> {
    let member = facts.use_reserved?;
    let slots = facts.reserved.unwrap_or(0);
    if facts.superuser || (member && slots > 0) {
        return None;
    }
    let mut steps = Vec::new();
    if !member {
        steps.push(format!("GRANT pg_use_reserved_connections TO {role};"));
    }
    if slots == 0 {
        steps.push(
            "ALTER SYSTEM SET reserved_connections = 3; and restart at a good moment".to_owned(),
        );
    }
    Some(Finding::new(
        Level::Note,
        name,
        "no reserved connection slot is open to this role",
        "when all slots are taken snowpit keeps the session that it has, but cannot open a new one after a restart",
        &steps.join(" "),
    ))
}

fn quote_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
