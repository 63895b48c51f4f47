//! Index builds that run now, with how far they are. Read only while somebody
//! waits and a lock of an index build is held: the read copies every backend's
//! status once more.
//!
//! The function behind `pg_stat_progress_create_index` is called, because the
//! view joins `pg_database`, which may be locked. Its parameters are numbered;
//! the numbers and the phases are the same in 14 to 18.

use tokio_postgres::{Error, Row};

use crate::observe::postgres::database::Names;
use crate::observe::postgres::relations::Relations;
use crate::sample::IndexBuild;

/// The limit is above any `max_worker_processes` that builds indexes.
pub const SQL: &str = "\
SELECT pid, datid, relid, param6::int4 AS locker,
       CASE param1 WHEN 1 THEN 'CREATE INDEX' WHEN 2 THEN 'CREATE INDEX CONCURRENTLY'
                   WHEN 3 THEN 'REINDEX' WHEN 4 THEN 'REINDEX CONCURRENTLY' END AS command,
       CASE param10 WHEN 0 THEN 'initializing' WHEN 1 THEN 'waiting for writers before build'
                    WHEN 2 THEN 'building index' WHEN 3 THEN 'waiting for writers before validation'
                    WHEN 4 THEN 'index validation: scanning index' WHEN 5 THEN 'index validation: sorting tuples'
                    WHEN 6 THEN 'index validation: scanning table' WHEN 7 THEN 'waiting for old snapshots'
                    WHEN 8 THEN 'waiting for readers before marking dead'
                    WHEN 9 THEN 'waiting for readers before dropping' END AS phase,
       param4 AS lockers_total, param5 AS lockers_done, param16 AS blocks_total, param17 AS blocks_done
FROM pg_stat_get_progress_info('CREATE INDEX') LIMIT 100";

/// A build whose table is still an oid.
#[derive(Debug)]
pub struct Build {
    database: Option<u32>,
    relation: Option<u32>,
    build: IndexBuild,
}

/// # Errors
/// When a column is missing or of another type.
pub fn decode(rows: &[Row]) -> Result<Vec<Build>, Error> {
    rows.iter()
        .map(|row| {
            Ok(Build {
                database: row.try_get("datid")?,
                relation: row.try_get("relid")?,
                build: IndexBuild {
                    pid: row.try_get::<_, Option<i32>>("pid")?.unwrap_or_default(),
                    command: row.try_get("command")?,
                    phase: row.try_get("phase")?,
                    relation: None,
                    lockers_total: row.try_get("lockers_total")?,
                    lockers_done: row.try_get("lockers_done")?,
                    current_locker: row.try_get("locker")?,
                    blocks_total: row.try_get("blocks_total")?,
                    blocks_done: row.try_get("blocks_done")?,
                },
            })
        })
        .collect()
}

impl Build {
    /// The table, when it is one of database `own`, whose names can be known.
    pub fn relation_of(&self, own: Option<u32>) -> Option<u32> {
        self.relation
            .filter(|_| own.is_some() && self.database == own)
    }

    /// With the name of its table; that of another database stays an oid, told
    /// with the database.
    pub fn named(self, names: &Names, relations: &Relations, own: Option<u32>) -> IndexBuild {
        let near = self.relation_of(own).map(|oid| relations.name(oid));
        let far = || {
            let database = names.database(self.database)?;
            Some(format!("relation {} of {database}", self.relation?))
        };
        IndexBuild {
            relation: near.or_else(far),
            ..self.build
        }
    }
}
