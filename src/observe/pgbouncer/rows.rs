//! Rows of a console answer, read by column name.
//!
//! PgBouncer adds, moves and renames columns from version to version, so no
//! decoder may count positions. Invariants: a missing column, a NULL and an
//! empty cell all mean the default; a cell that is there but is not what it
//! should be rejects its row, never the poll, and is counted; nothing here
//! panics or does I/O.

use std::collections::HashMap;

use tokio_postgres::{SimpleColumn, SimpleQueryMessage, SimpleQueryRow};

/// The console's own database. It is no pool of anybody: exempt from
/// `max_client_conn`, never has a server connection, and our own session is in
/// it.
pub const PSEUDO_DATABASE: &str = "pgbouncer";

/// Rows kept of one answer. A pooler with more sockets than this is left
/// incomplete, and says so, rather than read without bound.
pub const ROW_LIMIT: usize = 20_000;

/// The cells of one row, by position. The two ways in are the wire and, in
/// tests, a recorded answer.
pub trait Cells {
    fn cell(&self, position: usize) -> Option<&str>;
}

impl Cells for SimpleQueryRow {
    fn cell(&self, position: usize) -> Option<&str> {
        // A cell that is not UTF-8 reads as absent: names outside UTF-8 exist,
        // and none of them is worth losing a row for.
        self.try_get(position).ok().flatten()
    }
}

/// Where each column of an answer is.
#[derive(Debug, Default)]
pub struct Columns {
    positions: HashMap<String, usize>,
}

impl Columns {
    /// Of two columns with one name the first counts.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut positions = HashMap::new();
        for (position, name) in names.into_iter().enumerate() {
            positions.entry(name.to_owned()).or_insert(position);
        }
        Self { positions }
    }
}

/// One row under its columns.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    columns: &'a Columns,
    cells: &'a dyn Cells,
}

/// A cell that cannot be read as what its column holds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("column {column} is not a number")]
pub struct BadCell {
    pub column: &'static str,
}

impl<'a> Row<'a> {
    pub fn new(columns: &'a Columns, cells: &'a dyn Cells) -> Self {
        Self { columns, cells }
    }

    /// The cell, trimmed; `None` when missing, NULL or empty.
    pub fn text(&self, column: &str) -> Option<&'a str> {
        let position = *self.columns.positions.get(column)?;
        let text = self.cells.cell(position)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// The cell as an owned string, empty when there is none.
    pub fn string(&self, column: &str) -> String {
        self.text(column).unwrap_or_default().to_owned()
    }

    /// A whole number, 0 when there is none. A number below the type's range
    /// (PgBouncer uses -1 for "not set") reads as 0.
    pub fn number<T>(&self, column: &'static str) -> Result<T, BadCell>
    where
        T: TryFrom<i128> + Default,
    {
        let Some(text) = self.text(column) else {
            return Ok(T::default());
        };
        let bad = BadCell { column };
        let number: i128 = text.parse().map_err(|_| BadCell { column })?;
        match T::try_from(number) {
            Ok(value) => Ok(value),
            Err(_) if number < 0 => Ok(T::default()),
            Err(_) => Err(bad),
        }
    }

    /// The first of several names under which a column is known that has a
    /// cell.
    pub fn number_of<T>(&self, aliases: &[&'static str]) -> Result<T, BadCell>
    where
        T: TryFrom<i128> + Default,
    {
        aliases
            .iter()
            .find(|column| self.text(column).is_some())
            .map_or_else(|| Ok(T::default()), |column| self.number(column))
    }

    /// True for every way in which PgBouncer writes yes.
    pub fn flag(&self, column: &str) -> bool {
        self.text(column).is_some_and(is_yes)
    }

    /// Whether the row belongs to the console's own database.
    pub fn is_pseudo(&self) -> bool {
        self.text("database") == Some(PSEUDO_DATABASE)
    }
}

/// Whether a setting or a flag is on.
pub fn is_yes(text: &str) -> bool {
    ["1", "yes", "on", "true", "t"]
        .iter()
        .any(|yes| text.eq_ignore_ascii_case(yes))
}

/// What one SHOW command gave.
#[derive(Debug, PartialEq)]
pub struct Decoded<T> {
    pub rows: Vec<T>,
    /// Rows with a cell that could not be read.
    pub rejected: u64,
    /// Rows beyond [`ROW_LIMIT`] were left out.
    pub cut: bool,
}

impl<T> Default for Decoded<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            rejected: 0,
            cut: false,
        }
    }
}

/// Decodes rows one by one; `decode` answers `None` for a row that is to be
/// left out.
pub fn decode_rows<'a, C, T>(
    columns: &'a Columns,
    rows: impl IntoIterator<Item = &'a C>,
    decode: impl Fn(&Row<'a>) -> Result<Option<T>, BadCell>,
) -> Decoded<T>
where
    C: Cells + 'a,
{
    let mut decoded = Decoded::default();
    for cells in rows {
        match decode(&Row::new(columns, cells)) {
            Ok(None) => {}
            Ok(Some(_)) if decoded.rows.len() >= ROW_LIMIT => decoded.cut = true,
            Ok(Some(row)) => decoded.rows.push(row),
            Err(_) => decoded.rejected += 1,
        }
    }
    decoded
}

/// The answer to one statement: its columns and its rows.
#[derive(Default)]
pub struct Answer {
    pub columns: Columns,
    pub rows: Vec<SimpleQueryRow>,
}

impl Answer {
    /// An answer without a row description (a NOTICE only, as very old
    /// versions give) has no columns and no rows.
    pub fn new(messages: Vec<SimpleQueryMessage>) -> Self {
        let mut answer = Self::default();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    answer.columns = Columns::new(columns.iter().map(SimpleColumn::name));
                }
                SimpleQueryMessage::Row(row) => answer.rows.push(row),
                _ => {}
            }
        }
        answer
    }

    /// See [`decode_rows`].
    pub fn decode<'a, T>(
        &'a self,
        decode: impl Fn(&Row<'a>) -> Result<Option<T>, BadCell>,
    ) -> Decoded<T> {
        decode_rows(&self.columns, &self.rows, decode)
    }

    /// Every row under the columns.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row::new(&self.columns, cells))
    }
}

/// A recorded answer, for the decoders' tests.
#[cfg(test)]
pub(crate) mod recorded {
    use super::*;

    pub struct Recorded(Vec<Option<String>>);

    impl Cells for Recorded {
        fn cell(&self, position: usize) -> Option<&str> {
            self.0.get(position)?.as_deref()
        }
    }

    /// Lays `cells`, given as (column, text), out under `header`, a list of
    /// column names between spaces; the columns not given are empty.
    pub fn decode_one<T>(
        header: &str,
        cells: &[(&str, &str)],
        decode: impl for<'a> Fn(&Row<'a>) -> Result<Option<T>, BadCell>,
    ) -> Decoded<T> {
        let columns = Columns::new(header.split_whitespace());
        let row = Recorded(
            header
                .split_whitespace()
                .map(|name| {
                    let given = cells.iter().find(|(column, _)| *column == name);
                    given.map(|(_, text)| (*text).to_owned())
                })
                .collect(),
        );
        let mut decoded = Decoded::default();
        match decode(&Row::new(&columns, &row)) {
            Ok(None) => {}
            Ok(Some(row)) => decoded.rows.push(row),
            Err(_) => decoded.rejected += 1,
        }
        decoded
    }

    /// Lines with `|` between the cells, as `psql -A` prints them.
    pub fn rows(header: &str, lines: &[&str]) -> (Columns, Vec<Recorded>) {
        let columns = Columns::new(header.split_whitespace());
        let rows = lines
            .iter()
            .map(|line| Recorded(line.split('|').map(|cell| Some(cell.to_owned())).collect()))
            .collect();
        (columns, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::recorded::rows;
    use super::*;

    fn one<T>(header: &str, line: &str, read: impl Fn(&Row<'_>) -> T) -> T {
        let (columns, rows) = rows(header, &[line]);
        read(&Row::new(&columns, &rows[0]))
    }

    #[test]
    fn missing_and_empty_cells_are_the_default() {
        one("a b", "|x", |row| {
            assert_eq!(row.text("a"), None);
            assert_eq!(row.text("nowhere"), None);
            assert_eq!(row.string("b"), "x");
            assert_eq!(row.number::<u32>("a"), Ok(0));
            assert_eq!(row.number::<u32>("nowhere"), Ok(0));
            assert!(!row.flag("nowhere"));
        });
    }

    #[test]
    fn a_row_shorter_than_its_header_does_not_panic() {
        one("a b c", "1", |row| {
            assert_eq!(row.number::<u32>("c"), Ok(0))
        });
    }

    #[test]
    fn numbers_are_read_leniently_and_never_wrap() {
        one("n", " 17 ", |row| {
            assert_eq!(row.number::<u16>("n"), Ok(17))
        });
        one("n", "-1", |row| assert_eq!(row.number::<u32>("n"), Ok(0)));
        one("n", "-1", |row| assert_eq!(row.number::<i32>("n"), Ok(-1)));
        one("n", "70000", |row| {
            assert_eq!(row.number::<u16>("n"), Err(BadCell { column: "n" }));
        });
        one("n", "many", |row| {
            assert_eq!(row.number::<u64>("n"), Err(BadCell { column: "n" }));
        });
    }

    #[test]
    fn the_first_alias_with_a_cell_counts() {
        one("old new", "|5", |row| {
            assert_eq!(row.number_of::<u32>(&["old", "new"]), Ok(5));
            assert_eq!(row.number_of::<u32>(&["gone"]), Ok(0));
        });
    }

    #[test]
    fn a_bad_row_is_counted_and_the_others_are_kept() {
        let (columns, rows) = rows("n", &["1", "x", "3"]);
        let decoded = decode_rows(&columns, &rows, |row| row.number::<u32>("n").map(Some));
        assert_eq!(decoded.rows, [1, 3]);
        assert_eq!(decoded.rejected, 1);
    }

    #[test]
    fn rows_beyond_the_limit_are_cut() {
        let lines = vec!["1"; ROW_LIMIT + 1];
        let (columns, rows) = rows("n", &lines);
        let decoded = decode_rows(&columns, &rows, |row| row.number::<u32>("n").map(Some));
        assert_eq!(decoded.rows.len(), ROW_LIMIT);
        assert!(decoded.cut);
    }
}
