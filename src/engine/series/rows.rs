//! Rows that are not packed yet, and the packing of them.

use std::sync::Arc;

use super::block::{Block, BlockBuilder, Millis};
use super::key::Key;

/// Rows of one source as they were fed.
#[derive(Debug, Clone)]
pub struct Rows {
    source: Arc<str>,
    times: Vec<Millis>,
    /// In order of keys; shorter than the times where the last rows have no
    /// value.
    columns: Vec<(Arc<Key>, Vec<f64>)>,
}

impl Rows {
    /// The columns must be in order of their keys.
    pub(super) fn new(
        source: Arc<str>,
        times: Vec<Millis>,
        columns: Vec<(Arc<Key>, Vec<f64>)>,
    ) -> Self {
        Self {
            source,
            times,
            columns,
        }
    }

    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    pub fn times(&self) -> &[Millis] {
        &self.times
    }

    pub fn columns(&self) -> &[(Arc<Key>, Vec<f64>)] {
        &self.columns
    }

    /// A copy of those in a window, ends included, of some columns.
    pub fn window(&self, from: Millis, to: Millis, wanted: impl Fn(&Key) -> bool) -> Option<Self> {
        let begin = self.times.partition_point(|&t| t < from);
        let end = self.times.partition_point(|&t| t <= to);
        let columns: Vec<_> = self
            .columns
            .iter()
            .filter(|(key, values)| values.len() > begin && wanted(key))
            .map(|(key, values)| {
                let end = end.min(values.len());
                (Arc::clone(key), values[begin..end.max(begin)].to_vec())
            })
            .collect();
        (begin < end && !columns.is_empty()).then(|| Self {
            source: Arc::clone(&self.source),
            times: self.times[begin..end].to_vec(),
            columns,
        })
    }

    /// Packs all of it at once. `None` when the times are none that a block can
    /// have.
    pub fn pack(self) -> Option<Block> {
        let mut packing = Packing::new(self)?;
        while packing.step(usize::MAX) {}
        packing.finish()
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let columns = self.columns.iter();
        let values = columns.map(|(_, values)| values.capacity() * size_of::<f64>());
        values.sum::<usize>() + self.times.len() * size_of::<Millis>()
    }
}

/// Rows on their way to a block, a few columns at a time, so that no sample
/// waits for the packing of thousands. They can be read meanwhile.
#[derive(Debug)]
pub struct Packing {
    builder: BlockBuilder,
    rows: Rows,
    next: usize,
    scratch: Vec<f64>,
}

impl Packing {
    /// `None` when the times are none that a block can have.
    pub fn new(rows: Rows) -> Option<Self> {
        let builder = BlockBuilder::new(Arc::clone(&rows.source), rows.times.clone())?;
        Some(Self {
            builder,
            rows,
            next: 0,
            scratch: Vec::new(),
        })
    }

    /// Packs some columns; false when all are.
    pub fn step(&mut self, columns: usize) -> bool {
        let all = self.rows.columns.len();
        let end = self.next.saturating_add(columns).min(all);
        for (key, values) in &self.rows.columns[self.next..end] {
            self.scratch.clear();
            self.scratch.extend_from_slice(values);
            self.scratch.resize(self.rows.times.len(), f64::NAN);
            self.builder.push(Arc::clone(key), &self.scratch);
        }
        self.next = end;
        end < all
    }

    /// The rows as they were fed.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The block, once all is packed.
    pub fn finish(self) -> Option<Block> {
        (self.next == self.rows.columns.len()).then(|| self.builder.finish())
    }
}
