//! The open end of one source: its newest rows, not packed yet.
//!
//! One look of a source is one row: one time, and at most one value a series.
//! Time goes forward only. A row that is not newer than the last is refused and
//! counted; after [`CLOCK_SET_BACK`](crate::engine::detect::clock::CLOCK_SET_BACK)
//! of them in a row the clock is believed to have been set back, what there is
//! gets sealed, and the rows begin anew at the earlier time. So one look with a
//! time of tomorrow costs a minute of history, and not a day.

use std::sync::Arc;

use super::block::{BLOCK_SECONDS, Millis};
use super::column::ROW_LIMIT;
use super::key::Key;
use super::rows::Rows;
use crate::engine::detect::clock::CLOCK_SET_BACK;
use crate::engine::tables::Table;

/// Columns grow by this many rows at a time: doubling would leave half of the
/// memory of thousands of columns unused.
const GROWTH: usize = 64;

/// Why a row was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not newer than the last.
    Late,
    /// So many were late that the clock must have been set back: seal the head
    /// and offer the row again.
    ClockSetBack,
    /// The row belongs to the next block: seal the head and offer it again.
    Full,
}

/// One series' newest values. Rows beyond its length have no value.
#[derive(Debug)]
pub struct Column {
    pub key: Arc<Key>,
    pub values: Vec<f64>,
    /// The feed, counted over all sources, that touched it last.
    pub fed: u64,
}

/// The newest rows of one source.
#[derive(Debug)]
pub struct Head {
    source: Arc<str>,
    times: Vec<Millis>,
    columns: Vec<Column>,
    by_text: Table<Box<str>, usize>,
    last: Option<Millis>,
    late: u32,
    /// Rows that [`unsaved`](Self::unsaved) has given out.
    saved: usize,
}

impl Head {
    pub fn new(source: &str) -> Self {
        Self {
            source: source.into(),
            times: Vec::new(),
            columns: Vec::new(),
            by_text: Table::default(),
            last: None,
            late: 0,
            saved: 0,
        }
    }

    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    pub fn times(&self) -> &[Millis] {
        &self.times
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Time of the newest row, sealed or not.
    pub fn last(&self) -> Option<Millis> {
        self.last
    }

    /// Takes up after rows that were sealed in another life.
    pub fn resume(&mut self, last: Millis) {
        if self.times.is_empty() {
            self.last = Some(self.last.map_or(last, |own| own.max(last)));
        }
    }

    /// Begins a row.
    pub fn begin(&mut self, t: Millis) -> Result<(), Refused> {
        if self.last.is_some_and(|last| t <= last) {
            self.late += 1;
            return Err(if self.late < CLOCK_SET_BACK {
                Refused::Late
            } else {
                Refused::ClockSetBack
            });
        }
        let of_this_block = |first: Millis| block_of(first) == block_of(t);
        let room = self.times.len() < ROW_LIMIT;
        if self
            .times
            .first()
            .is_some_and(|&first| !of_this_block(first) || !room)
        {
            return Err(Refused::Full);
        }
        self.late = 0;
        self.last = Some(t);
        self.times.push(t);
        Ok(())
    }

    /// Believes in a clock that was set back. The head must have been sealed.
    pub fn set_back(&mut self) {
        self.late = 0;
        self.last = None;
    }

    /// Where the column of a key is.
    pub fn find(&self, text: &str) -> Option<usize> {
        self.by_text.get(text).copied()
    }

    /// A column for a new key.
    pub fn add(&mut self, key: Arc<Key>) -> usize {
        let column = self.columns.len();
        self.by_text.insert(key.as_str().into(), column);
        self.columns.push(Column {
            key,
            values: Vec::new(),
            fed: 0,
        });
        column
    }

    /// Puts a value into the newest row. The first of two stays.
    pub fn put(&mut self, column: usize, value: f64, fed: u64) -> bool {
        let rows = self.times.len();
        let Some(column) = self.columns.get_mut(column) else {
            return false;
        };
        column.fed = fed;
        if rows == 0 || column.values.len() >= rows {
            return false;
        }
        if column.values.capacity() < rows {
            let capacity = rows.next_multiple_of(GROWTH);
            column.values.reserve_exact(capacity - column.values.len());
        }
        column.values.resize(rows - 1, f64::NAN);
        column.values.push(value);
        true
    }

    /// Forgets columns. Their newest values are lost; sealed ones are not.
    pub fn retain(&mut self, keep: impl Fn(&Column) -> bool) {
        self.columns.retain(keep);
        self.by_text = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| (column.key.as_str().into(), at))
            .collect();
    }

    /// Takes the rows out, to be packed. `None` when there are none. A series
    /// that had no value in them is forgotten: it came and went, and its blocks
    /// still know it.
    pub fn take(&mut self) -> Option<Rows> {
        if self.times.is_empty() {
            return None;
        }
        let times = std::mem::take(&mut self.times);
        self.saved = 0;
        if self.columns.iter().any(|column| column.values.is_empty()) {
            self.retain(|column| !column.values.is_empty());
        }
        let mut columns: Vec<(Arc<Key>, Vec<f64>)> = self
            .columns
            .iter_mut()
            .map(|column| (Arc::clone(&column.key), std::mem::take(&mut column.values)))
            .collect();
        columns.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Some(Rows::new(Arc::clone(&self.source), times, columns))
    }

    /// A copy of the rows that were not given out before.
    pub fn unsaved(&mut self) -> Option<Rows> {
        let (from, to) = (self.saved, self.times.len());
        self.saved = to;
        let rows = self.copy(from, to, |_| true);
        (from < to).then_some(rows)
    }

    /// A copy of the rows in a window, of some columns.
    pub fn window(&self, from: Millis, to: Millis, wanted: impl Fn(&Key) -> bool) -> Option<Rows> {
        let begin = self.times.partition_point(|&t| t < from);
        let end = self.times.partition_point(|&t| t <= to);
        let rows = self.copy(begin, end, wanted);
        (begin < end && !rows.columns().is_empty()).then_some(rows)
    }

    fn copy(&self, begin: usize, end: usize, wanted: impl Fn(&Key) -> bool) -> Rows {
        let mut columns: Vec<(Arc<Key>, Vec<f64>)> = self
            .columns
            .iter()
            .filter(|column| column.values.len() > begin && wanted(&column.key))
            .map(|column| {
                let end = end.min(column.values.len());
                (Arc::clone(&column.key), column.values[begin..end].to_vec())
            })
            .collect();
        columns.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let times = self.times[begin..end].to_vec();
        Rows::new(Arc::clone(&self.source), times, columns)
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let each = size_of::<Column>() + size_of::<(Box<str>, usize)>();
        let columns = self.columns.iter();
        self.times.capacity() * size_of::<Millis>()
            + columns
                .map(|c| each + 2 * c.key.as_str().len() + c.values.capacity() * size_of::<f64>())
                .sum::<usize>()
    }
}

/// The number of the ten minutes that a time is in.
fn block_of(t: Millis) -> i64 {
    t.div_euclid(BLOCK_SECONDS * 1000)
}
