//! The names of relations that somebody waits for.
//!
//! Only those of the database that we are connected to can be known, and those
//! shared by all. They are asked for once, a trip of its own, when a wait names
//! a relation for the first time; behind a lock on `pg_class` the oid stays.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// More relations than this are not waited for at one time.
const MAX_ASKED: usize = 200;

/// Names kept; beyond it they are forgotten and asked for anew.
const MAX_KEPT: usize = 10_000;

/// Relations are renamed, and a table is often swapped for another of its name:
/// names are forgotten after this time. While somebody waits, that is one look
/// into `pg_class` by its index.
const FORGET_AFTER: Duration = Duration::from_secs(15);

/// A failure costs the session's `lock_timeout`, so it is not repeated at once.
const RETRY_AFTER: Duration = Duration::from_secs(10);

const SQL: &str = "\
SELECT c.oid, n.nspname || '.' || c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1)";

/// Names by oid, of one database. A relation that is gone has an empty name.
#[derive(Debug)]
pub struct Relations {
    names: BTreeMap<u32, String>,
    since: Instant,
    not_before: Instant,
}

impl Relations {
    pub fn new(now: Instant) -> Self {
        Self {
            names: BTreeMap::new(),
            since: now,
            not_before: now,
        }
    }

    /// The name, or the oid as text.
    pub fn name(&self, oid: u32) -> String {
        match self.names.get(&oid) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => oid.to_string(),
        }
    }

    /// Asks for the names that are missing among `wanted`.
    ///
    /// # Errors
    /// SQLSTATE 55P03 when a catalog is locked.
    pub async fn learn(
        &mut self,
        client: &Client,
        wanted: impl Iterator<Item = u32>,
        now: Instant,
    ) -> Result<(), Error> {
        if now.duration_since(self.since) > FORGET_AFTER || self.names.len() > MAX_KEPT {
            self.names.clear();
            self.since = now;
        }
        let mut missing: Vec<u32> = wanted.filter(|oid| !self.names.contains_key(oid)).collect();
        missing.sort_unstable();
        missing.dedup();
        missing.truncate(MAX_ASKED);
        if missing.is_empty() || now < self.not_before {
            return Ok(());
        }
        self.not_before = now + RETRY_AFTER;
        let rows = client
            .query_typed(SQL, &[(&missing, Type::OID_ARRAY)])
            .await?;
        self.not_before = now;
        for oid in missing {
            self.names.entry(oid).or_default();
        }
        for row in &rows {
            self.names.insert(row.try_get("oid")?, row.try_get("name")?);
        }
        Ok(())
    }
}
