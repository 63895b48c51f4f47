//! Any cells are the answer to a SHOW command: a row is read, left out or
//! counted, and none is lost in silence.
//!
//! The first line has the names of the columns, each other one a row, with tabs
//! between the cells.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::observe::pgbouncer::rows::{BadCell, Cells, Columns, Row, decode_rows};
use snowpit::observe::pgbouncer::{clients, config, databases, lists, pools, servers, stats};

struct Told<'a>(Vec<&'a str>);

impl Cells for Told<'_> {
    fn cell(&self, position: usize) -> Option<&str> {
        self.0.get(position).copied().filter(|cell| *cell != "NULL")
    }
}

fuzz_target!(|text: &str| {
    let mut lines = text
        .split('\n')
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let columns = Columns::new(lines.next().unwrap_or_default());
    let rows: Vec<Told<'_>> = lines.map(Told).collect();

    fn one<'a, T>(
        columns: &'a Columns,
        rows: &'a [Told<'a>],
        decode: impl Fn(&Row<'a>) -> Result<Option<T>, BadCell>,
    ) {
        let decoded = decode_rows(columns, rows, decode);
        assert!(decoded.rows.len() as u64 + decoded.rejected <= rows.len() as u64);
    }
    one(&columns, &rows, databases::decode);
    one(&columns, &rows, pools::decode);
    let mut servers = decode_rows(&columns, &rows, servers::decode).rows;
    let clients = decode_rows(&columns, &rows, clients::decode);
    let known = clients.rows.len();
    let clients = clients::with_ages(clients, &mut servers);
    assert!(servers.len() <= rows.len() && clients.rows.len() <= known);
    one(&columns, &rows, stats::decode);
    let each = || rows.iter().map(|row| Row::new(&columns, row));
    let (_, rejected) = lists::decode(each());
    assert!(rejected <= rows.len() as u64);
    let _ = config::decode(each());
});
