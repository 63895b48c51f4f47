//! How often the statements are run that try for an advisory lock, by
//! `pg_stat_statements` where that extension is in our database.
//!
//! Asked for only while a session is seen with such a statement, by the ids of
//! those statements and without their texts, which are in a file. It is a luxury:
//! an extension that is missing, not loaded or locked costs one try in a while.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::sample::{Backend, StatementCalls};

/// Between two readings: they copy up to `pg_stat_statements.max` entries, 5,000
/// by default, and a rate over a few seconds says more than one over a second.
const EVERY: Duration = Duration::from_secs(5);

/// Extensions come and go rarely, and a failure costs the session's
/// `lock_timeout`.
const FIND_EVERY: Duration = Duration::from_secs(60);

/// Statements asked for at one time.
const MAX_ASKED: usize = 50;

const FIND: &str = "\
SELECT quote_ident(n.nspname) AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements'";

/// Where the extension is, and when it was asked.
#[derive(Debug, Default)]
pub struct Statements {
    /// Its schema as SQL; `None` when it is not there, or not known yet.
    schema: Option<String>,
    found_at: Option<Instant>,
    read_at: Option<Instant>,
}

impl Statements {
    /// The calls of the statements of `backends` that try for an advisory lock;
    /// none when it is not time, or there is nothing to ask.
    ///
    /// # Errors
    /// When a catalog is locked, or the extension is there but cannot be read.
    pub async fn read(
        &mut self,
        client: &Client,
        backends: &[Backend],
        now: Instant,
    ) -> Result<Vec<StatementCalls>, Error> {
        let ids = asked(backends);
        let early =
            |last: Option<Instant>, every| last.is_some_and(|at| now.duration_since(at) < every);
        if ids.is_empty() || early(self.read_at, EVERY) {
            return Ok(Vec::new());
        }
        if self.schema.is_none() {
            if early(self.found_at, FIND_EVERY) {
                return Ok(Vec::new());
            }
            self.found_at = Some(now);
            let rows = client.query_typed(FIND, &[]).await?;
            self.schema = match rows.first() {
                Some(row) => row.try_get("schema")?,
                None => None,
            };
        }
        // Taken out: what fails is looked for anew, after a while.
        let Some(schema) = self.schema.take() else {
            return Ok(Vec::new());
        };
        self.found_at = Some(now);
        self.read_at = Some(now);
        let sql = format!(
            "SELECT queryid, sum(calls)::int8 AS calls FROM {schema}.pg_stat_statements(false) \
             WHERE queryid = ANY ($1) GROUP BY queryid"
        );
        let rows = client
            .query_typed(&sql, &[(&ids, Type::INT8_ARRAY)])
            .await?;
        self.schema = Some(schema);
        rows.iter()
            .map(|row| {
                let calls: i64 = row.try_get("calls")?;
                Ok(StatementCalls {
                    query_id: row.try_get("queryid")?,
                    calls: u64::try_from(calls).unwrap_or_default(),
                })
            })
            .collect()
    }
}

fn asked(backends: &[Backend]) -> Vec<i64> {
    let trying = backends
        .iter()
        .filter(|backend| backend.lock_calls.iter().any(|call| call.tries));
    let ids: BTreeSet<i64> = trying.filter_map(|backend| backend.query_id).collect();
    ids.into_iter().take(MAX_ASKED).collect()
}
