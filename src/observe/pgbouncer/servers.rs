//! `SHOW SERVERS`: one row a connection to PostgreSQL.
//!
//! What the columns mean, seen on 1.18:
//! - `state` is `active` while a client is linked, `idle` right after unlink
//!   and `used` once it has been idle for `server_check_delay` (30 s), so an
//!   abandoned lock mostly sits on a `used` server; `new`, `login` and `tested`
//!   pass by.
//! - `link` is the linked client's `ptr`, and empty when unlinked.
//! - `remote_pid` is `pg_stat_activity.pid`, over TCP and unix sockets alike.
//!   (`local_addr`, `local_port`) is (`client_addr`, `client_port`) over TCP;
//!   over a unix socket `addr` and `local_addr` read `unix` and `local_port` is
//!   the pooler's *listening* port, of no use for a join.
//! - `request_time` moves when the server sends, not when a request is given to
//!   it: it stands still for as long as a statement runs.
//! - `application_name` is that of the last linked client and stays after
//!   unlink and after that client is gone.
//! - `RECONNECT` closes an unlinked server within the pooler's next maintenance
//!   turn (a third of a second), so one look right after it can still show the
//!   row; a linked server stays until it is released, and its client then gets
//!   a new one. `PAUSE` closes unlinked servers as well.

use crate::sample::ServerSocket;

use super::rows::{BadCell, Row};

pub const STATEMENT: &str = "SHOW SERVERS";

/// One server connection.
pub fn decode(row: &Row<'_>) -> Result<Option<ServerSocket>, BadCell> {
    if row.is_pseudo() {
        return Ok(None);
    }
    Ok(Some(ServerSocket {
        database: row.string("database"),
        user: row.string("user"),
        state: row.string("state"),
        addr: row.string("addr"),
        port: row.number("port")?,
        remote_pid: row.number("remote_pid")?,
        local_addr: row.string("local_addr"),
        local_port: row.number("local_port")?,
        ptr: row.string("ptr"),
        link: row.string("link"),
        id: row.text("id").map(str::to_owned),
        connect_time: row.string("connect_time"),
        request_time: row.string("request_time"),
        request_age: None,
        application_name: row.text("application_name").map(str::to_owned),
    }))
}

/// The column sets of `SHOW SERVERS` and `SHOW CLIENTS`, which are one.
#[cfg(test)]
pub(crate) mod recorded_headers {
    pub const V1_12: &str = "type user database state addr port local_addr local_port \
                             connect_time request_time wait wait_us close_needed ptr link \
                             remote_pid tls";
    pub const V1_18: &str = "type user database state addr port local_addr local_port \
                             connect_time request_time wait wait_us close_needed ptr link \
                             remote_pid tls application_name";
    pub const V1_21: &str = "type user database state addr port local_addr local_port \
                             connect_time request_time wait wait_us close_needed ptr link \
                             remote_pid tls application_name prepared_statements";
    pub const V1_23: &str = "type user database replication state addr port local_addr \
                             local_port connect_time request_time wait wait_us close_needed ptr \
                             link remote_pid tls application_name prepared_statements";
    pub const V1_24: &str = "type user database replication state addr port local_addr \
                             local_port connect_time request_time wait wait_us close_needed ptr \
                             link remote_pid tls application_name prepared_statements id";

    /// (version, header, has `application_name`, has `id`)
    pub const ALL: [(&str, &str, bool, bool); 8] = [
        ("1.12", V1_12, false, false),
        ("1.16", V1_12, false, false),
        ("1.18", V1_18, true, false),
        ("1.19", V1_18, true, false),
        ("1.21", V1_21, true, false),
        ("1.23", V1_23, true, false),
        ("1.24", V1_24, true, true),
        ("1.25", V1_24, true, true),
    ];
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::decode_one;
    use super::*;

    const CELLS: [(&str, &str); 16] = [
        ("type", "S"),
        ("user", "web"),
        ("database", "app"),
        ("state", "idle"),
        ("addr", "127.0.0.1"),
        ("port", "5432"),
        ("local_addr", "127.0.0.1"),
        ("local_port", "52352"),
        ("connect_time", "2026-11-21 10:55:07 UTC"),
        ("request_time", "2026-11-21 10:56:40 UTC"),
        ("ptr", "0x55f2c7e55860"),
        ("remote_pid", "10236"),
        ("replication", "none"),
        ("application_name", "gateway"),
        ("prepared_statements", "0"),
        ("id", "7"),
    ];

    #[test]
    fn every_version_reads_alike() {
        for (version, header, application, id) in recorded_headers::ALL {
            let expected = ServerSocket {
                database: "app".into(),
                user: "web".into(),
                state: "idle".into(),
                addr: "127.0.0.1".into(),
                port: 5432,
                remote_pid: 10236,
                local_addr: "127.0.0.1".into(),
                local_port: 52352,
                ptr: "0x55f2c7e55860".into(),
                link: String::new(),
                id: id.then(|| "7".into()),
                connect_time: "2026-11-21 10:55:07 UTC".into(),
                request_time: "2026-11-21 10:56:40 UTC".into(),
                request_age: None,
                application_name: application.then(|| "gateway".into()),
            };
            let decoded = decode_one(header, &CELLS, decode);
            assert_eq!(decoded.rows, [expected], "{version}");
        }
    }

    #[test]
    fn a_port_that_is_none_rejects_the_row() {
        let decoded = decode_one(recorded_headers::V1_18, &[("port", "http")], decode);
        assert_eq!(decoded.rows, []);
        assert_eq!(decoded.rejected, 1);
    }
}
