//! `pg_stat_activity`, in one read of the backends' status: every client
//! backend counted once in a group, and single rows of the sessions that
//! matter.
//!
//! The function behind the view is called once, because the copy it takes is
//! nearly the whole cost of looking, and because the view joins `pg_database`
//! and `pg_authid`, which may be locked. Route tags are cut out on the server:
//! a comment carries a trace id too, and grouping by that would group nothing.

use std::net::IpAddr;

use tokio_postgres::{Error, Row};

use crate::observe::postgres::database::Names;
use crate::observe::postgres::unix;
use crate::observe::sql;
use crate::sample::{Backend, Group};

/// What stands in every text column but the state of the groups that sum up
/// those beyond the limit of groups.
pub const OTHER: &str = "other";

/// What a role that may not see a statement gets instead of it.
const HIDDEN: &str = "<insufficient privilege>";

/// The state of a session that does nothing.
const IDLE: &str = "idle";

/// Groups and single rows. `$1` are pids to be returned as single rows, those
/// of the lock table; with a parallel worker comes its leader.
///
/// * A role that may not see other sessions gets no `backend_type` either; what
///   has a database and a role is then taken for a client.
/// * An idle session's wait says nothing and is left out.
/// * A comment is looked for only where a statement begins or ends, and only
///   while it runs or its transaction is open. Splitting by `,route='` stands
///   for a parser of comments: it costs a microsecond a session, a regular
///   expression or a `translate` of the comment ten.
/// * A statement that fills `track_activity_query_size` (less the three bytes that
///   a cut character can leave) is cut; without a tag in what is left of it, its
///   comment may be what was cut.
/// * The pids are looked up by a hash, which `= ANY ($1)` is not under a generic
///   plan, and `strpos` is cheaper than `LIKE`: both are asked of every idle session.
/// * Limits: 2,000 groups, those not idle first (the rest is told by `total` and
///   `total_idle`), 2,000 waiters, 200 try-lock callers, the 20 oldest transactions, the 50 statements that have
///   run longest.
pub const SQL: &str = r"WITH activity AS MATERIALIZED (
  SELECT pid, leader_pid, datid, usesysid, application_name, client_addr, client_port, backend_start, xact_start,
         query_start, state_change, state, query, query_id, backend_xmin IS NOT NULL AS holds_xmin,
         backend_xid IS NOT NULL AS has_written,
         CASE WHEN state <> 'idle' THEN wait_event_type END AS wait_event_type,
         CASE WHEN state <> 'idle' THEN wait_event END AS wait_event,
         coalesce(backend_type = 'client backend', datid IS NOT NULL AND usesysid IS NOT NULL) AS is_client
  FROM pg_stat_get_activity(NULL)
), kept AS (
  SELECT pg_size_bytes(current_setting('track_activity_query_size')) AS bytes
), commented AS (
  SELECT datid, usesysid, application_name, client_addr, state, wait_event_type, wait_event,
         backend_start > clock_timestamp() - interval '10 seconds' AS is_young,
         CASE WHEN state <> 'idle' AND query LIKE '%*/%' THEN
           replace(concat(
             CASE WHEN btrim(split_part(query, '*/', -1), E' ;\t\r\n') = '' THEN
               ',' || ltrim(split_part(query, '/*', -1)) END,
             CASE WHEN strpos(left(query, 4), '/*') > 0 THEN
               ',' || ltrim(split_part(split_part(query, '*/', 1), '/*', 2)) END
           ), ', ', ',')
         END AS comment,
         state <> 'idle' AND pid <> pg_backend_pid()
           AND octet_length(query) >= (SELECT bytes FROM kept) - 4 AS is_cut
  FROM activity WHERE is_client OFFSET 0
), grouped AS (
  SELECT datid, usesysid, application_name, client_addr, state, wait_event_type, wait_event,
         CASE WHEN comment IS NULL THEN NULL
              WHEN comment LIKE '%,route=''%' THEN split_part(split_part(comment, ',route=''', 2), '''', 1)
              WHEN comment LIKE '%,controller=''%' THEN
                split_part(split_part(comment, ',controller=''', 2), '''', 1) || '#'
                || split_part(split_part(comment, ',action=''', 2), '''', 1)
              WHEN comment LIKE '%,controller:%' THEN
                split_part(translate(split_part(comment, ',controller:', 2), ' *', ',,'), ',', 1) || '#'
                || split_part(translate(split_part(comment, ',action:', 2), ' *', ',,'), ',', 1)
         END AS route,
         count(*) AS members, count(*) FILTER (WHERE is_young) AS young,
         count(*) FILTER (WHERE is_cut AND (comment IS NULL
                            OR comment NOT LIKE '%,route=''%' AND comment NOT LIKE '%,controller%')) AS untold
  FROM commented GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), busy AS MATERIALIZED (
  SELECT *, strpos(query, 'pg_try_advisory') > 0 AS tries, pid IN (SELECT unnest($1::int4[])) AS is_named FROM activity
  WHERE state <> 'idle' OR xact_start IS NOT NULL OR pid IN (SELECT unnest($1::int4[]))
     OR strpos(query, 'pg_try_advisory') > 0
), picked AS (
  SELECT pid FROM busy WHERE is_named
  UNION SELECT leader_pid FROM busy WHERE is_named AND leader_pid IS NOT NULL
  UNION (SELECT pid FROM busy WHERE wait_event_type = 'Lock' LIMIT 2000)
  UNION (SELECT pid FROM busy WHERE is_client AND tries AND pid <> pg_backend_pid() LIMIT 200)
  UNION (SELECT pid FROM busy WHERE is_client AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
         ORDER BY xact_start LIMIT 20)
  UNION (SELECT pid FROM busy WHERE is_client AND state = 'active' AND pid <> pg_backend_pid()
         ORDER BY query_start LIMIT 50)
)
(SELECT members, young, sum(members) OVER ()::int8 AS total,
        sum(members) FILTER (WHERE state = 'idle') OVER ()::int8 AS total_idle, sum(untold) OVER ()::int8 AS untold,
        datid, usesysid, application_name, client_addr, state, wait_event_type, wait_event, left(route, 300) AS text,
        NULL::int4 AS pid, NULL::int4 AS leader_pid, NULL::int4 AS client_port, NULL::timestamptz AS backend_start,
        NULL::timestamptz AS xact_start, NULL::timestamptz AS query_start, NULL::timestamptz AS state_change,
        NULL::bool AS holds_xmin, NULL::int8 AS query_id, NULL::bool AS has_written
 FROM grouped ORDER BY state IS NOT DISTINCT FROM 'idle', members DESC LIMIT 2000)
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, datid, usesysid, application_name, client_addr, state, wait_event_type, wait_event,
       left(query, 1023), pid, leader_pid, client_port, backend_start, xact_start, query_start, state_change,
       holds_xmin, query_id, has_written
FROM busy WHERE pid IN (SELECT pid FROM picked)";

/// The decoded rows of [`SQL`]; databases and roles are still oids.
#[derive(Debug, Default)]
pub struct Activity {
    groups: Vec<(Oids, Group)>,
    backends: Vec<(Oids, Backend)>,
    /// Client backends in all, also in groups beyond the limit.
    total: u32,
    /// The idle among them.
    total_idle: u32,
    /// Statements at work that were cut, with no tag in what is left.
    pub truncated_comments: u32,
    /// A limit has cut the waiters or the try-lock callers.
    pub truncated: bool,
}

/// The limits of [`SQL`] on waiters and on try-lock callers.
const MAX_WAITERS: usize = 2_000;
const MAX_CALLERS: usize = 200;

#[derive(Debug, Clone, Copy)]
struct Oids {
    database: Option<u32>,
    role: Option<u32>,
}

impl Oids {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            database: row.try_get("datid")?,
            role: row.try_get("usesysid")?,
        })
    }
}

impl Activity {
    /// # Errors
    /// When a column is missing or of another type.
    pub fn decode(rows: &[Row]) -> Result<Self, Error> {
        let mut activity = Self::default();
        for row in rows {
            let oids = Oids::of(row)?;
            if let Some(members) = row.try_get::<_, Option<i64>>("members")? {
                activity.total = row.try_get::<_, Option<i64>>("total")?.map_or(0, count);
                let idle = row.try_get::<_, Option<i64>>("total_idle")?;
                activity.total_idle = idle.map_or(0, count);
                let untold = row.try_get::<_, Option<i64>>("untold")?;
                activity.truncated_comments = untold.map_or(0, count);
                activity.groups.push((oids, group(row, count(members))?));
            } else {
                activity.backends.push((oids, backend(row)?));
            }
        }
        let shown =
            |is: fn(&Backend) -> bool| activity.backends.iter().filter(|(_, b)| is(b)).count();
        activity.truncated =
            shown(waits_for_lock) >= MAX_WAITERS || shown(tries_lock) >= MAX_CALLERS;
        Ok(activity)
    }

    /// True when every database and role of these rows has a name.
    pub fn named_by(&self, names: &Names) -> bool {
        let groups = self.groups.iter().map(|(oids, _)| oids);
        let backends = self.backends.iter().map(|(oids, _)| oids);
        groups
            .chain(backends)
            .all(|oids| names.knows(oids.database, oids.role))
    }

    /// Groups and single rows with names; the sum of the groups is the number
    /// of client backends.
    pub fn named(self, names: &Names) -> (Vec<Group>, Vec<Backend>) {
        let idle = |group: &Group| group.state.as_deref() == Some(IDLE);
        let shown = |wanted: bool| -> u32 {
            let groups = self.groups.iter().map(|(_, group)| group);
            let alike = groups.filter(|group| idle(group) == wanted);
            alike.map(|group| group.count).sum()
        };
        let total_busy = self.total.saturating_sub(self.total_idle);
        let rests = [
            rest(IDLE, self.total_idle.saturating_sub(shown(true))),
            rest(OTHER, total_busy.saturating_sub(shown(false))),
        ];
        let mut groups: Vec<Group> = self
            .groups
            .into_iter()
            .map(|(oids, group)| Group {
                database: names.database(oids.database),
                user: names.role(oids.role),
                ..group
            })
            .collect();
        groups.extend(rests.into_iter().filter(|group| group.count > 0));
        let backends = self
            .backends
            .into_iter()
            .map(|(oids, backend)| Backend {
                database: names.database(oids.database),
                user: names.role(oids.role),
                ..backend
            })
            .collect();
        (groups, backends)
    }
}

fn waits_for_lock(backend: &Backend) -> bool {
    backend.wait_event_type.as_deref() == Some("Lock")
}

fn tries_lock(backend: &Backend) -> bool {
    let query = backend.query.as_deref().unwrap_or_default();
    query.contains("pg_try_advisory")
}

fn rest(state: &str, count: u32) -> Group {
    let other = || Some(OTHER.to_owned());
    Group {
        database: other(),
        user: other(),
        application: other(),
        client: other(),
        state: Some(state.to_owned()),
        count,
        ..Group::default()
    }
}

fn group(row: &Row, count: u32) -> Result<Group, Error> {
    let route: Option<String> = row.try_get("text")?;
    Ok(Group {
        database: None,
        user: None,
        application: row.try_get("application_name")?,
        client: client(row)?,
        state: row.try_get("state")?,
        wait_event_type: row.try_get("wait_event_type")?,
        wait_event: row.try_get("wait_event")?,
        route: route.as_deref().and_then(sql::route_tag),
        count,
        young: row.try_get::<_, Option<i64>>("young")?.map(self::count),
    })
}

fn backend(row: &Row) -> Result<Backend, Error> {
    let query: Option<String> = row.try_get("text")?;
    let statement = query.filter(|text| text != HIDDEN);
    let statement = statement.as_deref().map(sql::read);
    let (query, lock_calls) = statement.map_or((None, Vec::new()), |statement| {
        (Some(statement.text), statement.lock_calls)
    });
    Ok(Backend {
        pid: row.try_get::<_, Option<i32>>("pid")?.unwrap_or_default(),
        backend_start: unix(row, "backend_start")?,
        database: None,
        user: None,
        application: row.try_get("application_name")?,
        client: client(row)?,
        client_port: row.try_get("client_port")?,
        state: row.try_get("state")?,
        wait_event_type: row.try_get("wait_event_type")?,
        wait_event: row.try_get("wait_event")?,
        xact_start: unix(row, "xact_start")?,
        query_start: unix(row, "query_start")?,
        state_change: unix(row, "state_change")?,
        holds_xmin: row
            .try_get::<_, Option<bool>>("holds_xmin")?
            .unwrap_or_default(),
        query_id: row.try_get("query_id")?,
        query,
        lock_calls,
        leader_pid: row.try_get("leader_pid")?,
        has_written: row
            .try_get::<_, Option<bool>>("has_written")?
            .unwrap_or_default(),
    })
}

fn client(row: &Row) -> Result<Option<String>, Error> {
    let address: Option<IpAddr> = row.try_get("client_addr")?;
    Ok(address.map(|address| address.to_string()))
}

fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_sessions_beyond_the_limit_are_not_told_as_busy() {
        let oids = Oids {
            database: None,
            role: None,
        };
        let group = |state: &str, count| Group {
            state: Some(state.to_owned()),
            count,
            ..Group::default()
        };
        let activity = Activity {
            groups: vec![(oids, group("active", 5)), (oids, group(IDLE, 3))],
            total: 100,
            total_idle: 93,
            ..Activity::default()
        };
        let (groups, _) = activity.named(&Names::default());
        let told: Vec<_> = groups
            .iter()
            .map(|group| (group.state.as_deref(), group.count))
            .collect();
        let idle = |count| (Some(IDLE), count);
        let expected = [(Some("active"), 5), idle(3), idle(90), (Some(OTHER), 2)];
        assert_eq!(told, expected);
        assert_eq!(groups[2].application.as_deref(), Some(OTHER));
    }
}
