//! `SHOW DATABASES`: one row an alias that clients connect to.

use crate::sample::PoolDatabase;

use super::rows::{BadCell, PSEUDO_DATABASE, Row};

pub const STATEMENT: &str = "SHOW DATABASES";

/// One alias. Here `name` is the alias and `database` the real name, where
/// every other SHOW command means the alias by `database`.
pub fn decode(row: &Row<'_>) -> Result<Option<PoolDatabase>, BadCell> {
    if row.text("name") == Some(PSEUDO_DATABASE) {
        return Ok(None);
    }
    Ok(Some(PoolDatabase {
        name: row.string("name"),
        database: row.string("database"),
        host: row.text("host").map(str::to_owned),
        port: row.number("port")?,
        force_user: row.text("force_user").map(str::to_owned),
        pool_size: row.number("pool_size")?,
        reserve_pool_size: row.number_of(&["reserve_pool_size", "reserve_pool"])?,
        pool_mode: row.text("pool_mode").map(str::to_owned),
        max_connections: row.number("max_connections")?,
        current_connections: row.number("current_connections")?,
        paused: row.flag("paused"),
        disabled: row.flag("disabled"),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::decode_one;
    use super::*;

    const V1_12: &str = "name host port database force_user pool_size reserve_pool pool_mode \
                         max_connections current_connections paused disabled";
    const V1_16: &str = "name host port database force_user pool_size min_pool_size \
                         reserve_pool pool_mode max_connections current_connections paused \
                         disabled";
    const V1_24: &str = "name host port database force_user pool_size min_pool_size \
                         reserve_pool_size server_lifetime pool_mode load_balance_hosts \
                         max_connections current_connections max_client_connections \
                         current_client_connections paused disabled";

    #[test]
    fn every_version_reads_alike() {
        let cells = [
            ("name", "app"),
            ("host", "/run/postgresql"),
            ("port", "5432"),
            ("database", "production"),
            ("pool_size", "20"),
            ("min_pool_size", "1"),
            ("reserve_pool", "5"),
            ("reserve_pool_size", "5"),
            ("pool_mode", "session"),
            ("max_connections", "0"),
            ("current_connections", "7"),
            ("paused", "1"),
            ("disabled", "0"),
        ];
        let expected = PoolDatabase {
            name: "app".into(),
            database: "production".into(),
            host: Some("/run/postgresql".into()),
            port: 5432,
            force_user: None,
            pool_size: 20,
            reserve_pool_size: 5,
            pool_mode: Some("session".into()),
            max_connections: 0,
            current_connections: 7,
            paused: true,
            disabled: false,
        };
        for (version, header) in [
            ("1.12", V1_12),
            ("1.16", V1_16),
            ("1.18", V1_16),
            ("1.19", V1_16),
            ("1.21", V1_16),
            ("1.23", V1_16),
            ("1.24", V1_24),
            ("1.25", V1_24),
        ] {
            let decoded = decode_one(header, &cells, decode);
            assert_eq!(decoded.rows, std::slice::from_ref(&expected), "{version}");
        }
    }

    #[test]
    fn only_the_alias_tells_the_console() {
        let real = decode_one(V1_16, &[("name", "x"), ("database", "pgbouncer")], decode);
        assert_eq!(real.rows.len(), 1);
        let console = decode_one(V1_16, &[("name", "pgbouncer")], decode);
        assert_eq!(console.rows, []);
    }
}
