//! `SHOW STATS`: totals of each database since the pooler started.

use crate::sample::PoolStats;

use super::rows::{BadCell, Row};

pub const STATEMENT: &str = "SHOW STATS";

/// The totals of one database, times in microseconds. `total_wait_time` grows
/// only when a wait ends.
pub fn decode(row: &Row<'_>) -> Result<Option<PoolStats>, BadCell> {
    if row.is_pseudo() {
        return Ok(None);
    }
    Ok(Some(PoolStats {
        database: row.string("database"),
        total_xact_count: row.number("total_xact_count")?,
        total_query_count: row.number("total_query_count")?,
        total_xact_time: row.number("total_xact_time")?,
        total_query_time: row.number("total_query_time")?,
        total_wait_time: row.number("total_wait_time")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::decode_one;
    use super::*;

    const V1_12: &str = "database total_xact_count total_query_count total_received total_sent \
                         total_xact_time total_query_time total_wait_time avg_xact_count \
                         avg_query_count avg_recv avg_sent avg_xact_time avg_query_time \
                         avg_wait_time";
    const V1_23: &str = "database total_server_assignment_count total_xact_count \
                         total_query_count total_received total_sent total_xact_time \
                         total_query_time total_wait_time avg_server_assignment_count \
                         avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time \
                         avg_query_time avg_wait_time";
    const V1_24: &str = "database total_server_assignment_count total_xact_count \
                         total_query_count total_received total_sent total_xact_time \
                         total_query_time total_wait_time total_client_parse_count \
                         total_server_parse_count total_bind_count avg_server_assignment_count \
                         avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time \
                         avg_query_time avg_wait_time avg_client_parse_count \
                         avg_server_parse_count avg_bind_count";

    #[test]
    fn every_version_reads_alike() {
        let cells = [
            ("database", "app"),
            ("total_server_assignment_count", "99"),
            ("total_xact_count", "1"),
            ("total_query_count", "2"),
            ("total_xact_time", "3"),
            ("total_query_time", "4"),
            ("total_wait_time", "18446744073709551615"),
        ];
        let expected = PoolStats {
            database: "app".into(),
            total_xact_count: 1,
            total_query_count: 2,
            total_xact_time: 3,
            total_query_time: 4,
            total_wait_time: u64::MAX,
        };
        for (version, header) in [
            ("1.12", V1_12),
            ("1.16", V1_12),
            ("1.18", V1_12),
            ("1.19", V1_12),
            ("1.21", V1_12),
            ("1.23", V1_23),
            ("1.24", V1_24),
            ("1.25", V1_24),
        ] {
            let decoded = decode_one(header, &cells, decode);
            assert_eq!(decoded.rows, std::slice::from_ref(&expected), "{version}");
        }
    }

    #[test]
    fn the_console_has_no_stats() {
        let decoded = decode_one(V1_12, &[("database", "pgbouncer")], decode);
        assert_eq!(decoded.rows, []);
    }
}
