//! Which prepared transaction a lock without a backend belongs to.
//!
//! `PREPARE TRANSACTION` keeps the session's virtual transaction id for the
//! locks, for example `3/45`; after a restart of the server it is `-1/XID`.
//! What names the transaction in the first case is its lock on its own
//! `transactionid`, which has the same virtual id and no pid either.

use std::collections::HashMap;

use crate::sample::{Lock, PostgresReport, PreparedTransaction};

/// The prepared transactions of one look.
#[derive(Debug, Default)]
pub struct Prepared<'a> {
    by_virtual: HashMap<&'a str, &'a str>,
    known: HashMap<&'a str, &'a PreparedTransaction>,
}

impl<'a> Prepared<'a> {
    pub fn of(report: &'a PostgresReport) -> Self {
        let own = report
            .locks
            .iter()
            .filter(|lock| lock.pid.is_none() && lock.granted && lock.locktype == "transactionid");
        Self {
            by_virtual: own
                .filter_map(|lock| {
                    let id = lock.virtualtransaction.as_deref()?;
                    Some((id, lock.transactionid.as_deref()?))
                })
                .collect(),
            known: report
                .prepared
                .iter()
                .map(|row| (row.transaction.as_str(), row))
                .collect(),
        }
    }

    /// The transaction id behind a lock without a backend; its virtual id when
    /// that is all there is.
    pub fn xid<'b>(&self, lock: &'b Lock) -> Option<&'b str>
    where
        'a: 'b,
    {
        if lock.pid.is_some() {
            return None;
        }
        let id = lock.virtualtransaction.as_deref()?;
        let own = self.by_virtual.get(id).copied();
        Some(own.or_else(|| id.strip_prefix("-1/")).unwrap_or(id))
    }

    /// The row of `pg_prepared_xacts`, when it was still there.
    pub fn transaction(&self, xid: &str) -> Option<&'a PreparedTransaction> {
        self.known.get(xid).copied()
    }
}

/// The two statements that end a prepared transaction. Which of them is right
/// only its transaction manager knows.
pub fn either_way(gid: &str) -> String {
    let gid = gid.replace('\'', "''");
    format!("COMMIT PREPARED '{gid}';  or  ROLLBACK PREPARED '{gid}';")
}

/// The statement that gives up a prepared transaction.
pub fn rollback(gid: &str) -> String {
    format!("ROLLBACK PREPARED '{}';", gid.replace('\'', "''"))
}
