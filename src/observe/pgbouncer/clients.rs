//! `SHOW CLIENTS`: one row a client, read only while a lock verdict needs it:
//! with 10,000 clients the answer costs the pooler's one thread 23 ms.
//!
//! `request_time` of a client moves with every message that the client sends,
//! also inside a transaction, and never when something is sent to it (seen on
//! 1.18). The console writes it in the pooler's local zone, so by itself it
//! cannot be laid beside our clock; but our own console session is a row of the
//! same answer, and its `request_time` is the moment of this very question.
//! The difference of the two is a client's `request_age`.
//!
//! A client is `active` from login on, linked or not, until 1.25 calls the
//! unlinked ones `idle`; `link` tells what `state` does not.

use jiff::civil::DateTime;

use crate::sample::{ClientSocket, ServerSocket};

use super::rows::{BadCell, Decoded, PSEUDO_DATABASE, Row};

pub const STATEMENT: &str = "SHOW CLIENTS";

/// One client, its `request_age` still unknown. The console's own sessions are
/// decoded too: [`with_ages`] needs them, and leaves them out.
pub fn decode(row: &Row<'_>) -> Result<Option<ClientSocket>, BadCell> {
    Ok(Some(ClientSocket {
        database: row.string("database"),
        user: row.string("user"),
        state: row.string("state"),
        addr: row.string("addr"),
        port: row.number("port")?,
        ptr: row.string("ptr"),
        link: row.string("link"),
        id: row.text("id").map(str::to_owned),
        connect_time: row.string("connect_time"),
        request_time: row.string("request_time"),
        request_age: None,
        application_name: row.text("application_name").map(str::to_owned),
    }))
}

/// Works out the `request_age` of every client and of the servers of the same
/// look, and takes the console's sessions out.
pub fn with_ages(
    decoded: Decoded<ClientSocket>,
    servers: &mut [ServerSocket],
) -> Decoded<ClientSocket> {
    let (console, mut clients): (Vec<_>, Vec<_>) = decoded
        .rows
        .into_iter()
        .partition(|client| client.database == PSEUDO_DATABASE);
    let now = newest_request(&console);
    let age = |request_time: &str| {
        let now = now.as_ref()?;
        now.seconds_since(&LocalTime::parse(request_time)?)
    };
    for client in &mut clients {
        client.request_age = age(&client.request_time);
    }
    for server in servers {
        server.request_age = age(&server.request_time);
    }
    Decoded {
        rows: clients,
        ..decoded
    }
}

/// The pooler's now: the newest request on its console is the one that is being
/// answered, whoever else may have a console session open.
fn newest_request(console: &[ClientSocket]) -> Option<LocalTime<'_>> {
    console
        .iter()
        .filter_map(|session| LocalTime::parse(&session.request_time))
        .max_by_key(|time| time.at)
}

/// A time as the console writes it, for example `2026-11-21 10:55:07 UTC`, in
/// a zone whose name says nothing that can be relied on.
#[derive(Debug, PartialEq)]
struct LocalTime<'a> {
    at: DateTime,
    zone: &'a str,
}

impl<'a> LocalTime<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let time_end = text
            .match_indices(' ')
            .nth(1)
            .map_or(text.len(), |(end, _)| end);
        let (stamp, zone) = text.split_at(time_end);
        Some(Self {
            at: stamp.parse().ok()?,
            zone: zone.trim(),
        })
    }

    /// `None` across a change of daylight saving time, where the difference of
    /// two local times is wrong by an hour.
    fn seconds_since(&self, earlier: &Self) -> Option<f64> {
        (self.zone == earlier.zone)
            .then(|| self.at.duration_since(earlier.at).as_secs_f64().max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::decode_one;
    use super::super::servers::recorded_headers;
    use super::*;

    const CELLS: [(&str, &str); 12] = [
        ("type", "C"),
        ("user", "web"),
        ("database", "app"),
        ("state", "active"),
        ("addr", "10.0.0.7"),
        ("port", "40122"),
        ("connect_time", "2026-11-21 10:55:07 UTC"),
        ("request_time", "2026-11-21 10:56:40 UTC"),
        ("ptr", "0x55f2c7e489c0"),
        ("link", "0x55f2c7e55ac0"),
        ("application_name", "gateway"),
        ("id", "9"),
    ];

    fn client(database: &str, request_time: &str) -> ClientSocket {
        ClientSocket {
            database: database.into(),
            request_time: request_time.into(),
            ..ClientSocket::default()
        }
    }

    fn ages(clients: Vec<ClientSocket>) -> Vec<Option<f64>> {
        let decoded = with_ages(
            Decoded {
                rows: clients,
                ..Decoded::default()
            },
            &mut [],
        );
        decoded
            .rows
            .iter()
            .map(|client| client.request_age)
            .collect()
    }

    #[test]
    fn every_version_reads_alike() {
        for (version, header, application, id) in recorded_headers::ALL {
            let expected = ClientSocket {
                user: "web".into(),
                state: "active".into(),
                addr: "10.0.0.7".into(),
                port: 40122,
                ptr: "0x55f2c7e489c0".into(),
                link: "0x55f2c7e55ac0".into(),
                id: id.then(|| "9".into()),
                connect_time: "2026-11-21 10:55:07 UTC".into(),
                application_name: application.then(|| "gateway".into()),
                ..client("app", "2026-11-21 10:56:40 UTC")
            };
            let decoded = decode_one(header, &CELLS, decode);
            assert_eq!(decoded.rows, [expected], "{version}");
        }
    }

    #[test]
    fn the_newest_console_request_is_now_and_no_client() {
        let clients = vec![
            client("pgbouncer", "2026-11-21 10:00:00 IST"),
            client("app", "2026-11-21 23:59:50 IST"),
            client("pgbouncer", "2026-11-22 00:00:05 IST"),
        ];
        assert_eq!(ages(clients), [Some(15.0)]);
    }

    #[test]
    fn servers_are_set_against_the_same_now() {
        let decoded = Decoded {
            rows: vec![client("pgbouncer", "2026-11-21 10:00:09 UTC")],
            ..Decoded::default()
        };
        let mut servers = [ServerSocket {
            request_time: "2026-11-21 10:00:02 UTC".into(),
            ..ServerSocket::default()
        }];
        with_ages(decoded, &mut servers);
        assert_eq!(servers[0].request_age, Some(7.0));
    }

    #[test]
    fn fractions_and_missing_zones_are_understood() {
        let clients = vec![
            client("pgbouncer", "2026-11-21 10:00:01.500000"),
            client("app", "2026-11-21 10:00:00"),
        ];
        assert_eq!(ages(clients), [Some(1.5)]);
    }

    #[test]
    fn a_request_in_the_same_instant_is_not_negative() {
        let clients = vec![
            client("pgbouncer", "2026-11-21 10:00:00 UTC"),
            client("app", "2026-11-21 10:00:01 UTC"),
        ];
        assert_eq!(ages(clients), [Some(0.0)]);
    }

    #[test]
    fn no_age_where_none_can_be_known() {
        let unreadable = [
            "",
            "yesterday",
            "2026-13-41 10:00:00 UTC",
            "2026-11-21 09:59:00 CEST",
            "é é é",
        ];
        for text in unreadable {
            let clients = vec![
                client("pgbouncer", "2026-11-21 10:00:00 CET"),
                client("app", text),
            ];
            assert_eq!(ages(clients), [None], "{text}");
        }
        assert_eq!(ages(vec![client("app", "2026-11-21 10:00:00 UTC")]), [None]);
    }
}
