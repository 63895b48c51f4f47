//! `SHOW LISTS`: how much there is of everything, one row a thing.
//!
//! The counts are the pooler's own and include the console's sessions, as the
//! pooler itself does when it compares with `max_client_conn`.

use crate::sample::Lists;

use super::rows::{BadCell, Row};

pub const STATEMENT: &str = "SHOW LISTS";

/// The lists that matter, and how many of them could not be read.
pub fn decode<'a>(rows: impl Iterator<Item = Row<'a>>) -> (Lists, u64) {
    let mut lists = Lists::default();
    let mut rejected = 0;
    for row in rows {
        if set(&mut lists, &row).is_err() {
            rejected += 1;
        }
    }
    (lists, rejected)
}

fn set(lists: &mut Lists, row: &Row<'_>) -> Result<(), BadCell> {
    let count = match row.text("list") {
        Some("used_clients") => &mut lists.used_clients,
        Some("login_clients") => &mut lists.login_clients,
        Some("used_servers") => &mut lists.used_servers,
        Some("pools") => &mut lists.pools,
        _ => return Ok(()),
    };
    *count = row.number("items")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::rows;
    use super::*;

    fn decode_lines(lines: &[&str]) -> (Lists, u64) {
        // The same two columns from 1.12 to 1.25; later versions only add rows.
        let (columns, rows) = rows("list items", lines);
        decode(rows.iter().map(|cells| Row::new(&columns, cells)))
    }

    #[test]
    fn the_lists_that_matter_are_found_among_the_others() {
        let (lists, rejected) = decode_lines(&[
            "databases|4",
            "pools|3",
            "free_clients|48",
            "used_clients|2",
            "login_clients|1",
            "used_servers|7",
            "peers|0",
        ]);
        let expected = Lists {
            used_clients: 2,
            login_clients: 1,
            used_servers: 7,
            pools: 3,
        };
        assert_eq!((lists, rejected), (expected, 0));
    }

    #[test]
    fn an_unreadable_count_is_counted() {
        assert_eq!(decode_lines(&["pools|?"]), (Lists::default(), 1));
    }
}
