//! `pg_locks`, in one read of the lock table: the rows that matter, and the
//! count of all of them.
//!
//! Rows that matter are advisory locks, requests that wait, and whatever is
//! granted on an object that somebody waits for (a relation, but also the
//! transaction or virtual transaction that is being waited for). The function
//! behind the view is called, so no catalog is read.

use tokio_postgres::{Error, Row};

use crate::observe::postgres::database::Names;
use crate::observe::postgres::queues;
use crate::observe::postgres::relations::Relations;
use crate::observe::postgres::unix;
use crate::sample::{Lock, LockCount};

/// More rows than this say nothing more about who is in whose way.
const MAX_ROWS: usize = 10_000;

/// The columns that make up the object of a lock are coalesced so that they can
/// be compared by hash: a plain join on `IS NOT DISTINCT FROM` is a nested loop
/// over two lock tables. While nobody waits nothing is compared. Predicate locks
/// (`SIReadLock`) block nobody and are left out. One row more than [`MAX_ROWS`]
/// tells of a cut; waiters come first and advisory locks last, so a cut takes
/// what nobody waits for as far as it can. A prepared transaction's lock on its
/// own id tells whose its other locks are.
pub const SQL: &str = "\
WITH locks AS MATERIALIZED (
  SELECT * FROM pg_lock_status()
), wanted AS (
  SELECT * FROM locks
  WHERE mode <> 'SIReadLock' AND (locktype = 'advisory' OR NOT granted OR (pid IS NULL AND locktype = 'transactionid')
     OR EXISTS (SELECT FROM locks WHERE NOT granted) AND
        (locktype, coalesce(database, 0), coalesce(relation, 0), coalesce(page, -1), coalesce(tuple, -1),
         coalesce(virtualxid, ''), coalesce(transactionid::text, ''), coalesce(classid, 0), coalesce(objid, 0),
         coalesce(objsubid, -1))
        IN (SELECT locktype, coalesce(database, 0), coalesce(relation, 0), coalesce(page, -1), coalesce(tuple, -1),
                   coalesce(virtualxid, ''), coalesce(transactionid::text, ''), coalesce(classid, 0),
                   coalesce(objid, 0), coalesce(objsubid, -1)
            FROM locks WHERE NOT granted))
  ORDER BY granted, locktype = 'advisory' LIMIT 10001
)
SELECT locktype, mode, granted, NULL::int8 AS members, pid, database, relation, page, tuple, virtualtransaction,
       classid, objid, objsubid::int4 AS objsubid, transactionid::text AS transactionid, virtualxid, waitstart
FROM wanted
UNION ALL
SELECT locktype, mode, granted, count(*), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM locks GROUP BY locktype, mode, granted";

#[derive(Debug, Clone, Copy)]
struct Oids {
    database: Option<u32>,
    relation: Option<u32>,
}

/// The decoded rows of [`SQL`]; databases and relations are still oids.
#[derive(Debug, Default)]
pub struct LockTable {
    rows: Vec<(Oids, Lock)>,
    pub counts: Vec<LockCount>,
    pub truncated: bool,
}

impl LockTable {
    /// # Errors
    /// When a column is missing or of another type.
    pub fn decode(rows: &[Row]) -> Result<Self, Error> {
        let mut table = Self::default();
        for row in rows {
            if let Some(members) = row.try_get::<_, Option<i64>>("members")? {
                table.counts.push(LockCount {
                    locktype: row.try_get("locktype")?,
                    mode: row.try_get("mode")?,
                    granted: row.try_get("granted")?,
                    count: u32::try_from(members).unwrap_or(u32::MAX),
                });
            } else if table.rows.len() < MAX_ROWS {
                let oids = Oids {
                    database: row.try_get("database")?,
                    relation: row.try_get("relation")?,
                };
                table.rows.push((oids, lock(row)?));
            } else {
                table.truncated = true;
            }
        }
        Ok(table)
    }

    /// The backends in these rows, each once.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.rows.iter().filter_map(|(_, lock)| lock.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Waiters of whom `pg_blocking_pids` is asked.
    pub fn queued(&self) -> Vec<i32> {
        let requests = self.rows.iter().filter(|(_, lock)| !lock.granted);
        queues::order_matters(requests.map(|(oids, lock)| {
            let place = (lock.page, lock.tuple, &lock.virtualxid, &lock.transactionid);
            let key = (lock.classid, lock.objid, lock.objsubid);
            (
                (&lock.locktype, oids.database, oids.relation, place, key),
                lock,
            )
        }))
    }

    /// A lock without a backend is that of a prepared transaction.
    pub fn has_prepared(&self) -> bool {
        self.rows.iter().any(|(_, lock)| lock.pid.is_none())
    }

    /// Somebody waits, and a lock is held that an index build takes on its table.
    pub fn may_wait_for_index_build(&self) -> bool {
        let waits = self.counts.iter().any(|count| !count.granted);
        waits
            && self.counts.iter().any(|count| {
                let takes = matches!(
                    count.mode.as_str(),
                    "ShareLock" | "ShareUpdateExclusiveLock"
                );
                count.granted && takes && count.locktype == "relation"
            })
    }

    /// The databases in these rows, by oid.
    pub fn databases(&self) -> impl Iterator<Item = Option<u32>> + '_ {
        self.rows.iter().map(|(oids, _)| oids.database)
    }

    /// The relations in these rows that are of database `own` or shared by all
    /// databases.
    pub fn relations(&self, own: Option<u32>) -> impl Iterator<Item = u32> + '_ {
        self.rows
            .iter()
            .filter_map(move |(oids, _)| oids.relation_of(own))
    }

    /// The rows with names: of databases, and of the relations of database
    /// `own`.
    pub fn named(self, names: &Names, relations: &Relations, own: Option<u32>) -> Vec<Lock> {
        self.rows
            .into_iter()
            .map(|(oids, lock)| Lock {
                database: names.database(oids.database),
                relation: match oids.relation_of(own) {
                    Some(oid) => Some(relations.name(oid)),
                    None => oids.relation.map(|oid| oid.to_string()),
                },
                relation_oid: oids.relation,
                ..lock
            })
            .collect()
    }
}

impl Oids {
    fn relation_of(self, own: Option<u32>) -> Option<u32> {
        let near = self.database == Some(0) || (own.is_some() && self.database == own);
        self.relation.filter(|_| near)
    }
}

fn lock(row: &Row) -> Result<Lock, Error> {
    Ok(Lock {
        pid: row.try_get("pid")?,
        locktype: row.try_get("locktype")?,
        database: None,
        relation: None,
        relation_oid: None,
        page: row.try_get::<_, Option<i32>>("page")?.map(i64::from),
        tuple: row.try_get::<_, Option<i16>>("tuple")?.map(i64::from),
        mode: row.try_get("mode")?,
        granted: row.try_get("granted")?,
        virtualtransaction: row.try_get("virtualtransaction")?,
        classid: row.try_get("classid")?,
        objid: row.try_get("objid")?,
        objsubid: row.try_get("objsubid")?,
        transactionid: row.try_get("transactionid")?,
        virtualxid: row.try_get("virtualxid")?,
        waitstart: unix(row, "waitstart")?,
    })
}
