//! `pg_prepared_xacts`: transactions that hold locks without a backend. Read
//! only when the lock table shows one; the function is called, because the view
//! joins catalogs.

use tokio_postgres::{Error, Row};

use crate::observe::postgres::database::Names;
use crate::observe::postgres::unix;
use crate::sample::PreparedTransaction;

/// The limit is far above any sane `max_prepared_transactions`.
pub const SQL: &str = "\
SELECT transaction::text AS transaction, gid, prepared, ownerid, dbid
FROM pg_prepared_xact() ORDER BY prepared LIMIT 1000";

/// # Errors
/// When a column is missing or of another type.
pub fn decode(rows: &[Row], names: &Names) -> Result<Vec<PreparedTransaction>, Error> {
    rows.iter()
        .map(|row| {
            Ok(PreparedTransaction {
                transaction: row.try_get("transaction")?,
                gid: row.try_get("gid")?,
                prepared: unix(row, "prepared")?,
                owner: names.role(row.try_get("ownerid")?),
                database: names.database(row.try_get("dbid")?),
            })
        })
        .collect()
}
