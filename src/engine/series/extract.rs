//! What was asked of the store, taken out of it: the engine goes on while
//! somebody else unpacks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::block::{Block, Millis};
use super::key::Key;
use super::rows::Rows;
use super::selector::Selector;

/// One value of one series.
pub type Point = (Millis, f64);

/// Shared blocks and copied rows of a window.
#[derive(Debug, Clone, Default)]
pub struct Extract {
    pub blocks: Vec<Arc<Block>>,
    pub rows: Vec<Rows>,
    /// From here on the memory has all there is; what is older may only be on
    /// disk.
    pub complete_from: Millis,
}

/// More was asked for than one answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    #[error("more than {0} series match; name more labels")]
    Series(usize),
    #[error("more than {0} values are in the window; ask for a shorter one, or name more labels")]
    Points(usize),
}

/// Series and their values, gathered from blocks and rows in any order.
#[derive(Debug)]
pub struct Gathered {
    series: BTreeMap<Arc<Key>, Vec<Point>>,
    from: Millis,
    to: Millis,
    series_limit: usize,
    point_limit: usize,
    points: usize,
    values: Vec<f64>,
}

impl Gathered {
    /// Takes values from `from` to `to`, ends included.
    pub fn new(from: Millis, to: Millis, series_limit: usize, point_limit: usize) -> Self {
        Self {
            series: BTreeMap::new(),
            from,
            to,
            series_limit,
            point_limit,
            points: 0,
            values: Vec::new(),
        }
    }

    /// Adds what a block has of the series that are meant, up to `to`. A column
    /// that cannot be unpacked has no values.
    pub fn block(&mut self, block: &Block, selector: &Selector, to: Millis) -> Result<(), TooMuch> {
        let to = to.min(self.to);
        if !block.overlaps(self.from, to) {
            return Ok(());
        }
        let mut values = std::mem::take(&mut self.values);
        for (column, key) in block.keys().iter().enumerate() {
            if selector.takes(key) && block.values(column, &mut values).is_ok() {
                self.add(key, block.times(), &values, to)?;
            }
        }
        self.values = values;
        Ok(())
    }

    /// Adds open rows.
    pub fn rows(&mut self, rows: &Rows, selector: &Selector) -> Result<(), TooMuch> {
        for (key, values) in rows.columns() {
            if selector.takes(key) {
                self.add(key, rows.times(), values, self.to)?;
            }
        }
        Ok(())
    }

    /// Adds all of an extract.
    pub fn extract(&mut self, extract: &Extract, selector: &Selector) -> Result<(), TooMuch> {
        for block in &extract.blocks {
            self.block(block, selector, Millis::MAX)?;
        }
        for rows in &extract.rows {
            self.rows(rows, selector)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        key: &Arc<Key>,
        times: &[Millis],
        values: &[f64],
        to: Millis,
    ) -> Result<(), TooMuch> {
        let begin = times.partition_point(|&t| t < self.from);
        let end = times.partition_point(|&t| t <= to).min(values.len());
        if begin >= end {
            return Ok(());
        }
        let full = self.series.len() >= self.series_limit;
        if full && !self.series.contains_key(key) {
            return Err(TooMuch::Series(self.series_limit));
        }
        let points = self.series.entry(Arc::clone(key)).or_default();
        let before = points.len();
        let rows = times[begin..end].iter().zip(&values[begin..end]);
        points.extend(
            rows.filter(|(_, value)| !value.is_nan())
                .map(|(&t, &value)| (t, value)),
        );
        self.points += points.len() - before;
        if self.points > self.point_limit {
            return Err(TooMuch::Points(self.point_limit));
        }
        Ok(())
    }

    /// The series by key, values in order of time. What is there twice (on disk
    /// and in memory, or in two files) counts once.
    pub fn finish(self) -> Vec<(Arc<Key>, Vec<Point>)> {
        let mut series: Vec<_> = self.series.into_iter().collect();
        for (_, points) in &mut series {
            points.sort_by_key(|&(t, _)| t);
            points.dedup_by_key(|&mut (t, _)| t);
        }
        series.retain(|(_, points)| !points.is_empty());
        series
    }
}
