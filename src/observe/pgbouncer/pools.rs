//! `SHOW POOLS`: one row a pool, that is a pair of database and user.

use crate::sample::Pool;

use super::rows::{BadCell, Row};

pub const STATEMENT: &str = "SHOW POOLS";

/// One pool. `maxwait` covers whole seconds only, so the microseconds are
/// joined to it: a wait under a second would else be invisible. A client that
/// waits while it still logs in is in `cl_waiting`, but not in `maxwait`.
pub fn decode(row: &Row<'_>) -> Result<Option<Pool>, BadCell> {
    if row.is_pseudo() {
        return Ok(None);
    }
    let seconds: u64 = row.number("maxwait")?;
    let micros: u64 = row.number("maxwait_us")?;
    Ok(Some(Pool {
        database: row.string("database"),
        user: row.string("user"),
        cl_active: row.number("cl_active")?,
        cl_waiting: row.number("cl_waiting")?,
        cl_cancel_req: cancel_requests(row)?,
        sv_active: row.number("sv_active")?,
        sv_idle: row.number("sv_idle")?,
        sv_used: row.number("sv_used")?,
        sv_tested: row.number("sv_tested")?,
        sv_login: row.number("sv_login")?,
        maxwait_us: seconds.saturating_mul(1_000_000).saturating_add(micros),
        pool_mode: row.string("pool_mode"),
    }))
}

/// One column in 1.16 and 1.17, two from 1.18 on.
fn cancel_requests(row: &Row<'_>) -> Result<u32, BadCell> {
    let forwarded: u32 = row.number_of(&["cl_active_cancel_req", "cl_cancel_req"])?;
    let waiting: u32 = row.number("cl_waiting_cancel_req")?;
    Ok(forwarded.saturating_add(waiting))
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::decode_one;
    use super::*;

    const V1_12: &str = "database user cl_active cl_waiting sv_active sv_idle sv_used sv_tested \
                         sv_login maxwait maxwait_us pool_mode";
    const V1_16: &str = "database user cl_active cl_waiting cl_cancel_req sv_active sv_idle \
                         sv_used sv_tested sv_login maxwait maxwait_us pool_mode";
    const V1_18: &str = "database user cl_active cl_waiting cl_active_cancel_req \
                         cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled \
                         sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode";
    const V1_24: &str = "database user cl_active cl_waiting cl_active_cancel_req \
                         cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled \
                         sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode \
                         load_balance_hosts";

    const CELLS: [(&str, &str); 15] = [
        ("database", "app"),
        ("user", "web"),
        ("cl_active", "12"),
        ("cl_waiting", "3"),
        ("cl_cancel_req", "4"),
        ("cl_active_cancel_req", "1"),
        ("cl_waiting_cancel_req", "2"),
        ("sv_active", "5"),
        ("sv_idle", "6"),
        ("sv_used", "7"),
        ("sv_tested", "8"),
        ("sv_login", "9"),
        ("maxwait", "2"),
        ("maxwait_us", "250000"),
        ("pool_mode", "transaction"),
    ];

    #[test]
    fn every_version_reads_alike() {
        for (version, header, cancel) in [
            ("1.12", V1_12, 0),
            ("1.16", V1_16, 4),
            ("1.18", V1_18, 3),
            ("1.19", V1_18, 3),
            ("1.21", V1_18, 3),
            ("1.23", V1_18, 3),
            ("1.24", V1_24, 3),
            ("1.25", V1_24, 3),
        ] {
            let expected = Pool {
                database: "app".into(),
                user: "web".into(),
                cl_active: 12,
                cl_waiting: 3,
                cl_cancel_req: cancel,
                sv_active: 5,
                sv_idle: 6,
                sv_used: 7,
                sv_tested: 8,
                sv_login: 9,
                maxwait_us: 2_250_000,
                pool_mode: "transaction".into(),
            };
            let decoded = decode_one(header, &CELLS, decode);
            assert_eq!(decoded.rows, [expected], "{version}");
        }
    }

    #[test]
    fn the_console_is_no_pool() {
        let decoded = decode_one(V1_18, &[("database", "pgbouncer")], decode);
        assert_eq!(decoded.rows, []);
        assert_eq!(decoded.rejected, 0);
    }

    #[test]
    fn an_absurd_wait_does_not_overflow() {
        let cells = [("maxwait", "18446744073709551615"), ("maxwait_us", "1")];
        let decoded = decode_one(V1_12, &cells, decode);
        assert_eq!(decoded.rows[0].maxwait_us, u64::MAX);
    }
}
