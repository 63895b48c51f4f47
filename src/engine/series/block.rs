//! A sealed stretch of one source: one column of times, and a packed column of
//! values for each series that the same looks have fed.
//!
//! Invariants: immutable; times ascend and span at most [`BLOCK_SECONDS`]; there
//! is one column a key, in order of keys; a row without a value stays without
//! one, because a gap is not a zero.

use std::sync::Arc;

use super::column::{self, Malformed, ROW_LIMIT};
use super::key::Key;
use crate::sample::UnixSeconds;

/// Ten minutes: long enough to pack well, short enough that little is unpacked
/// for a short window.
pub const BLOCK_SECONDS: i64 = 600;

/// Unix time in milliseconds: times are kept to the millisecond.
pub type Millis = i64;

/// Times outside are refused: before 1970 and after the year 9999.
pub const TIME_LIMIT: Millis = 253_402_300_800_000;

/// A time in milliseconds; `None` when it is not one.
pub fn millis(t: UnixSeconds) -> Option<Millis> {
    let millis = (t * 1e3).round();
    #[expect(clippy::cast_possible_truncation, reason = "checked against the limit")]
    (millis >= 0.0 && millis < TIME_LIMIT as f64).then_some(millis as Millis)
}

/// Back to seconds.
pub fn seconds(t: Millis) -> UnixSeconds {
    t as f64 / 1e3
}

/// A sealed stretch of one source.
#[derive(Debug, Clone)]
pub struct Block {
    source: Arc<str>,
    times: Box<[Millis]>,
    keys: Box<[Arc<Key>]>,
    /// Where each column ends in `packed`.
    ends: Box<[u32]>,
    packed: Box<[u8]>,
}

/// Builds a block column by column, in order of keys.
#[derive(Debug)]
pub struct BlockBuilder {
    source: Arc<str>,
    times: Box<[Millis]>,
    keys: Vec<Arc<Key>>,
    ends: Vec<u32>,
    packed: Vec<u8>,
}

impl BlockBuilder {
    /// `None` when the times do not ascend, are too many, or span too long.
    pub fn new(source: Arc<str>, times: Vec<Millis>) -> Option<Self> {
        let ascending = times.is_sorted_by(|a, b| a < b);
        let (first, last) = (*times.first()?, *times.last()?);
        let sane = (0..TIME_LIMIT).contains(&first) && (0..TIME_LIMIT).contains(&last);
        let fits = times.len() <= ROW_LIMIT && sane && last - first <= BLOCK_SECONDS * 1000;
        (ascending && fits).then(|| Self {
            source,
            times: times.into(),
            keys: Vec::new(),
            ends: Vec::new(),
            packed: Vec::new(),
        })
    }

    /// Packs the next column; NaN is a row without a value. False when the key
    /// is not greater than the last, or there is not a value for each row.
    pub fn push(&mut self, key: Arc<Key>, values: &[f64]) -> bool {
        if values.len() != self.times.len() {
            return false;
        }
        let begin = self.packed.len();
        column::pack(values, &mut self.packed);
        self.close(key, begin)
    }

    /// Takes a column as it is in another block or a file.
    pub fn push_packed(&mut self, key: Arc<Key>, packed: &[u8]) -> bool {
        let begin = self.packed.len();
        self.packed.extend_from_slice(packed);
        self.close(key, begin)
    }

    fn close(&mut self, key: Arc<Key>, begin: usize) -> bool {
        let ascends = self.keys.last().is_none_or(|last| *last < key);
        let (true, Ok(end)) = (ascends, u32::try_from(self.packed.len())) else {
            self.packed.truncate(begin);
            return false;
        };
        self.keys.push(key);
        self.ends.push(end);
        true
    }

    /// Rows that every column has.
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    pub fn finish(self) -> Block {
        Block {
            source: self.source,
            times: self.times,
            keys: self.keys.into(),
            ends: self.ends.into(),
            packed: self.packed.into(),
        }
    }
}

impl Block {
    /// Whose looks these were, for example `postgres/main`.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// When the rows were seen.
    pub fn times(&self) -> &[Millis] {
        &self.times
    }

    /// Time of the first row.
    pub fn start(&self) -> Millis {
        self.times.first().copied().unwrap_or(0)
    }

    /// Time of the last row.
    pub fn end(&self) -> Millis {
        self.times.last().copied().unwrap_or(0)
    }

    /// The series that have a column, in order.
    pub fn keys(&self) -> &[Arc<Key>] {
        &self.keys
    }

    /// The packed bytes of one column.
    pub fn packed(&self, column: usize) -> Option<&[u8]> {
        let begin = match column.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.packed.get(begin..*self.ends.get(column)? as usize)
    }

    /// The column of a series.
    pub fn find(&self, key: &Key) -> Option<usize> {
        self.keys.binary_search_by(|other| (**other).cmp(key)).ok()
    }

    /// Unpacks a column into `values`, NaN where there is no value.
    pub fn values(&self, column: usize, values: &mut Vec<f64>) -> Result<(), Malformed> {
        values.clear();
        values.resize(self.times.len(), 0.0);
        column::unpack(self.packed(column).ok_or(Malformed)?, values)
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let column = size_of::<Arc<Key>>() + size_of::<u32>();
        size_of::<Self>() + size_of_val(&*self.times) + self.keys.len() * column + self.packed.len()
    }

    /// It has rows in the window, ends included.
    pub fn overlaps(&self, from: Millis, to: Millis) -> bool {
        self.start() <= to && self.end() >= from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Arc<Key> {
        Arc::new(Key::new("x", &[("n", &n.to_string())]))
    }

    #[test]
    fn columns_are_found_by_key() {
        let mut builder = BlockBuilder::new("postgres/main".into(), vec![1000, 2000]).unwrap();
        assert!(builder.push(key(1), &[1.0, 2.0]));
        assert!(builder.push(key(3), &[f64::NAN, 4.0]));
        assert!(!builder.push(key(2), &[0.0, 0.0]), "not in order");
        assert!(!builder.push(key(4), &[0.0]), "a row is missing");
        let block = builder.finish();
        let mut values = Vec::new();
        let column = block.find(&key(3)).unwrap();
        block.values(column, &mut values).unwrap();
        assert!(values[0].is_nan());
        assert_eq!(values[1], 4.0);
        assert_eq!(block.find(&key(2)), None);
        assert!(block.overlaps(2000, 9000) && !block.overlaps(2001, 9000));
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        let source: Arc<str> = "s".into();
        for times in [
            vec![],
            vec![2, 1],
            vec![1, 1],
            vec![-1, 5],
            vec![0, BLOCK_SECONDS * 1000 + 1],
            vec![TIME_LIMIT],
            (0..=ROW_LIMIT as i64).collect(),
        ] {
            assert!(BlockBuilder::new(Arc::clone(&source), times).is_none());
        }
        assert_eq!(millis(f64::NAN), None);
        assert_eq!(millis(-0.1), None);
        assert_eq!(millis(1e300), None);
        assert_eq!(millis(1.0005), Some(1001));
    }
}
