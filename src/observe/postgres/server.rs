//! Facts of the server itself: version, start, role in replication, limits, and
//! the count of sessions ever opened. Settings and shared memory only, so no
//! lock on a catalog is in the way.

use tokio_postgres::{Error, Row};

use crate::observe::postgres::unix;
use crate::sample::Server;

/// `reserved_connections` came with 16; without it only superusers have
/// reserved slots. `sessions` is the sum of `pg_stat_database.sessions` over
/// the databases in `$1`, read without the view, which would read a catalog.
pub const SQL: &str = "\
SELECT current_setting('max_connections')::int4 AS max_connections,
       current_setting('superuser_reserved_connections')::int4
         + coalesce(current_setting('reserved_connections', true)::int4, 0) AS reserved_connections,
       pg_is_in_recovery() AS in_recovery,
       clock_timestamp() AS clock,
       pg_postmaster_start_time() AS started_at,
       (SELECT sum(pg_stat_get_db_sessions(oid))::int8 FROM unnest($1::oid[]) AS oid) AS sessions";

/// The decoded row of [`SQL`].
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub server: Server,
    pub sessions_opened_total: Option<u64>,
}

/// # Errors
/// When a column is missing or of another type.
pub fn decode(row: &Row, version: u32) -> Result<Facts, Error> {
    Ok(Facts {
        server: Server {
            version: Some(version),
            clock: unix(row, "clock")?,
            started_at: unix(row, "started_at")?,
            in_recovery: row.try_get("in_recovery")?,
            max_connections: count(row, "max_connections")?,
            reserved_connections: count(row, "reserved_connections")?,
        },
        sessions_opened_total: row
            .try_get::<_, Option<i64>>("sessions")?
            .and_then(|sessions| u64::try_from(sessions).ok()),
    })
}

fn count(row: &Row, column: &str) -> Result<Option<u32>, Error> {
    let value: Option<i32> = row.try_get(column)?;
    Ok(value.and_then(|value| u32::try_from(value).ok()))
}
