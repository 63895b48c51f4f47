//! `SHOW CONFIG`: the settings that change what the other answers mean.

use crate::sample::PoolerConfig;

use super::rows::{BadCell, Row, is_yes};

pub const STATEMENT: &str = "SHOW CONFIG";

/// The settings that matter, and how many of them could not be read.
pub fn decode<'a>(rows: impl Iterator<Item = Row<'a>>) -> (PoolerConfig, u64) {
    let mut config = PoolerConfig::default();
    let mut rejected = 0;
    for row in rows {
        if set(&mut config, &row).is_err() {
            rejected += 1;
        }
    }
    (config, rejected)
}

fn set(config: &mut PoolerConfig, row: &Row<'_>) -> Result<(), BadCell> {
    let on = || row.text("value").is_some_and(is_yes);
    match row.text("key") {
        Some("max_client_conn") => config.max_client_conn = row.number("value")?,
        Some("so_reuseport") => config.so_reuseport = on(),
        Some("server_reset_query_always") => config.server_reset_query_always = on(),
        Some("pool_mode") => config.pool_mode = row.string("value"),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::rows;
    use super::*;

    const V1_12: &str = "key value changeable";
    const V1_15: &str = "key value default changeable";

    #[test]
    fn every_version_reads_alike() {
        for (version, header, tail) in [
            ("1.12", V1_12, "|yes"),
            ("1.16", V1_15, "|1|yes"),
            ("1.18", V1_15, "|1|yes"),
            ("1.19", V1_15, "|1|yes"),
            ("1.21", V1_15, "|1|yes"),
            ("1.23", V1_15, "|1|yes"),
            ("1.24", V1_15, "|1|yes"),
            ("1.25", V1_15, "|1|yes"),
        ] {
            let lines: Vec<String> = [
                "max_client_conn|5000",
                "so_reuseport|1",
                "server_reset_query_always|0",
                "pool_mode|transaction",
                "peer_id|0",
            ]
            .iter()
            .map(|line| format!("{line}{tail}"))
            .collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let (columns, rows) = rows(header, &lines);
            let decoded = decode(rows.iter().map(|cells| Row::new(&columns, cells)));
            let expected = PoolerConfig {
                max_client_conn: 5000,
                so_reuseport: true,
                server_reset_query_always: false,
                pool_mode: "transaction".into(),
            };
            assert_eq!(decoded, (expected, 0), "{version}");
        }
    }
}
