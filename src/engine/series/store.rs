//! All series in memory: open heads, and the sealed blocks of the last hours.
//!
//! Fed row by row, see [`Store::row`]. What does not fit is refused and counted,
//! never silently lost: values that are no finite numbers, rows that come late,
//! series beyond the budget when every known one is just being fed. A head is
//! sealed when its ten minutes are over and packed a few columns at a time with
//! the rows that follow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::block::{Block, Millis, millis};
use super::extract::Extract;
use super::head::{Head, Refused};
use super::key::{self, Key};
use super::rows::{Packing, Rows};
use super::selector::Selector;
use crate::sample::UnixSeconds;

/// Sources of rows; each is a server, a pooler or a service.
const SOURCE_LIMIT: usize = 4_000;

/// Columns packed with one row. Three thousand are packed in a minute and a half
/// of one source's looks, and none of these looks waits longer than some 2 ms.
const PACKED_AT_ONCE: usize = 32;

/// Sealed blocks that wait to be taken: two hours of many sources.
const SEALED_LIMIT: usize = 2_000;

/// Part of the series forgotten at a time when there are too many.
const FORGET_PART: usize = 10;

/// A series may be forgotten when every source could have fed it this many
/// times: sources must not push each other's living series out.
const IDLE_ROUNDS: u64 = 8;

/// How much the store may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Series with a column in a head.
    pub series: usize,
    /// Heads and blocks, in bytes. The oldest blocks go first; then the series
    /// that were fed least recently.
    pub bytes: usize,
    /// Blocks older than this, seconds, go although there is room: with history
    /// on disk the disk has them.
    pub keep: f64,
}

impl Default for Budget {
    /// What one daemon may take for it: three thousand series at one a second
    /// need 16 MiB of heads, and some 3 MiB an hour when they move.
    fn default() -> Self {
        Self {
            series: 10_000,
            bytes: 48 * 1024 * 1024,
            keep: f64::INFINITY,
        }
    }
}

/// What happened to the store, counted from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Series known now.
    pub series: u64,
    /// Memory in use, bytes.
    pub bytes: u64,
    /// Values taken in.
    pub samples: u64,
    /// Values that are no finite numbers.
    pub not_finite: u64,
    /// Rows that came late, or twice.
    pub late: u64,
    /// Rows whose time is before 1970 or after 9999.
    pub bad_time: u64,
    /// Values of new series for which there was no room.
    pub over_budget: u64,
    /// Sealed blocks that the history on disk did not take in time.
    pub not_taken: u64,
    /// Series forgotten because they had not been fed for longest.
    pub evicted: u64,
}

/// All series.
#[derive(Debug)]
pub struct Store {
    budget: Budget,
    heads: BTreeMap<Box<str>, Head>,
    packing: VecDeque<Packing>,
    /// In the order of sealing.
    blocks: VecDeque<Arc<Block>>,
    /// Sealed and not yet handed to the history on disk.
    sealed: Vec<Arc<Block>>,
    hands_over: bool,
    /// Everything since then is here.
    complete_from: Millis,
    /// Bytes of `blocks`.
    block_bytes: usize,
    counts: Counts,
    /// Rows taken in.
    feeds: u64,
    /// The row in which there was nobody to forget.
    full_at: u64,
    scratch: String,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Budget::default())
    }
}

impl Store {
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            heads: BTreeMap::new(),
            packing: VecDeque::new(),
            blocks: VecDeque::new(),
            sealed: Vec::new(),
            hands_over: false,
            complete_from: Millis::MIN,
            block_bytes: 0,
            counts: Counts::default(),
            feeds: 0,
            full_at: 0,
            scratch: String::new(),
        }
    }

    /// Keeps sealed blocks for [`take_sealed`](Self::take_sealed) from now on,
    /// and less in memory.
    pub fn hand_over(&mut self, keep: f64) {
        self.hands_over = true;
        self.budget.keep = keep;
    }

    /// Begins a row: one look of a source at `t`. `None` when the time is none
    /// that can be taken, which is counted.
    pub fn row(&mut self, source: &str, t: UnixSeconds) -> Option<Row<'_>> {
        self.pack_some(PACKED_AT_ONCE);
        let Some(t) = millis(t) else {
            self.counts.bad_time += 1;
            return None;
        };
        if !self.heads.contains_key(source) {
            if self.heads.len() >= SOURCE_LIMIT {
                self.counts.over_budget += 1;
                return None;
            }
            self.heads.insert(source.into(), Head::new(source));
        }
        let head = self.heads.get_mut(source)?;
        match head.begin(t) {
            Ok(()) => {}
            Err(Refused::Late) => {
                self.counts.late += 1;
                return None;
            }
            Err(refused) => {
                let rows = head.take();
                if refused == Refused::ClockSetBack {
                    head.set_back();
                }
                // The head is empty now, so it takes any time.
                head.begin(t).ok()?;
                self.seal(rows);
                self.keep_within_budget(t);
            }
        }
        self.feeds += 1;
        Some(Row {
            source: source.into(),
            store: self,
        })
    }

    fn put(&mut self, source: &str, name: &str, labels: &[(&str, &str)], value: f64) {
        if !value.is_finite() {
            self.counts.not_finite += 1;
            return;
        }
        self.scratch.clear();
        key::write(&mut self.scratch, name, labels);
        let mut text = std::mem::take(&mut self.scratch);
        let head = self.heads.get_mut(source);
        let put = head.and_then(|head| Some(head.put(head.find(&text)?, value, self.feeds)));
        let put = put.or_else(|| {
            let column = self.add(source, &text)?;
            let head = self.heads.get_mut(source)?;
            Some(head.put(column, value, self.feeds))
        });
        match put {
            Some(put) => self.counts.samples += u64::from(put),
            None => self.counts.over_budget += 1,
        }
        text.clear();
        self.scratch = text;
    }

    fn add(&mut self, source: &str, text: &str) -> Option<usize> {
        if self.series() >= self.budget.series {
            // Looking for somebody to forget once a row is enough.
            if self.full_at == self.feeds {
                return None;
            }
            self.forget();
            if self.series() >= self.budget.series {
                self.full_at = self.feeds;
                return None;
            }
        }
        let key = Arc::new(Key::parse(text)?);
        self.heads.get_mut(source).map(|head| head.add(key))
    }

    /// Series with a column in a head.
    fn series(&self) -> usize {
        self.heads.values().map(|head| head.columns().len()).sum()
    }

    /// Forgets a part of the series, those that were fed least recently, and
    /// none that is still being fed.
    fn forget(&mut self) {
        let before = self.series();
        let idle = IDLE_ROUNDS * self.heads.len() as u64;
        let columns = self.heads.values().flat_map(Head::columns);
        let mut fed: Vec<u64> = columns
            .map(|column| column.fed)
            .filter(|&fed| fed + idle < self.feeds)
            .collect();
        if fed.is_empty() {
            return;
        }
        let nth = (before / FORGET_PART).clamp(1, fed.len()) - 1;
        let (_, &mut limit, _) = fed.select_nth_unstable(nth);
        for head in self.heads.values_mut() {
            head.retain(|column| column.fed > limit);
        }
        self.counts.evicted += (before - self.series()) as u64;
    }

    fn seal(&mut self, rows: Option<Rows>) {
        let Some(packing) = rows.and_then(Packing::new) else {
            return;
        };
        // A source that is looked at seldom has few rows to pack with: what waits
        // of it is packed now, or it would wait for ever.
        let of_same = |other: &Packing| other.rows().source() == packing.rows().source();
        while self.packing.iter().any(of_same) {
            self.pack_some(usize::MAX);
        }
        self.packing.push_back(packing);
    }

    fn pack_some(&mut self, columns: usize) {
        let Some(packing) = self.packing.front_mut() else {
            return;
        };
        if packing.step(columns) {
            return;
        }
        let block = self.packing.pop_front().and_then(Packing::finish);
        if let Some(block) = block.map(Arc::new) {
            if self.hands_over {
                self.sealed.push(Arc::clone(&block));
                // Whoever should take them does not: the newest matter more.
                if self.sealed.len() > SEALED_LIMIT {
                    self.sealed.remove(0);
                    self.counts.not_taken += 1;
                }
            }
            self.keep(block);
        }
    }

    fn keep(&mut self, block: Arc<Block>) {
        self.block_bytes += block.bytes();
        self.blocks.push_back(block);
    }

    fn keep_within_budget(&mut self, now: Millis) {
        let oldest_kept = now as f64 - self.budget.keep * 1e3;
        // A block in the future is of a clock that was wrong: it goes in its turn.
        while let Some(block) = self.blocks.front() {
            let full = self.block_bytes + self.open_bytes() > self.budget.bytes;
            if !full && block.end() as f64 >= oldest_kept {
                break;
            }
            self.block_bytes -= block.bytes();
            self.complete_from = self.complete_from.max(block.end() + 1);
            self.blocks.pop_front();
        }
        if self.open_bytes() > self.budget.bytes {
            self.forget();
        }
    }

    /// Heads and what is being packed, in bytes.
    fn open_bytes(&self) -> usize {
        let heads = self.heads.values().map(Head::bytes).sum::<usize>();
        let packing = self.packing.iter().map(|packing| packing.rows().bytes());
        heads + packing.sum::<usize>()
    }

    /// Seals every head and packs all that waits for it: at shutdown.
    pub fn seal_all(&mut self) {
        let rows: Vec<_> = self.heads.values_mut().map(Head::take).collect();
        for rows in rows {
            self.seal(rows);
        }
        while !self.packing.is_empty() {
            self.pack_some(usize::MAX);
        }
    }

    /// Blocks that were sealed since the last call.
    pub fn take_sealed(&mut self) -> Vec<Arc<Block>> {
        std::mem::take(&mut self.sealed)
    }

    /// Copies of the rows that came since the last call and are not sealed.
    pub fn take_unsaved(&mut self) -> Vec<Rows> {
        self.heads.values_mut().filter_map(Head::unsaved).collect()
    }

    /// Says that what is older than `from` is not here, but on disk.
    pub fn begins_at(&mut self, from: Millis) {
        self.complete_from = self.complete_from.max(from);
    }

    /// Takes in blocks of an earlier life, oldest first. Rows that are not newer
    /// than they are will be late.
    pub fn adopt(&mut self, block: Arc<Block>) {
        let source = block.source();
        if let Some(head) = self.heads.get_mut(&**source) {
            head.resume(block.end());
        } else if self.heads.len() < SOURCE_LIMIT {
            let mut head = Head::new(source);
            head.resume(block.end());
            self.heads.insert((**source).into(), head);
        }
        self.keep(block);
    }

    /// Everything in a window of the series that are meant, to be read
    /// elsewhere: blocks are shared, only open rows are copied.
    pub fn extract(&self, selector: &Selector, from: Millis, to: Millis) -> Extract {
        let wanted = |key: &Key| selector.takes(key);
        let packing = self.packing.iter().map(Packing::rows);
        let blocks = self.blocks.iter().filter(|block| block.overlaps(from, to));
        Extract {
            complete_from: self.complete_from,
            blocks: blocks.cloned().collect(),
            rows: packing
                .filter_map(|rows| rows.window(from, to, wanted))
                .chain(
                    self.heads
                        .values()
                        .filter_map(|head| head.window(from, to, wanted)),
                )
                .collect(),
        }
    }

    /// Blocks of one source, oldest first, and its open rows, for who reads many
    /// series of it at once.
    pub fn blocks_of(&self, source: &str) -> impl Iterator<Item = &Arc<Block>> {
        self.blocks
            .iter()
            .filter(move |block| &**block.source() == source)
    }

    /// Calls `visit` with every value of a series in a window, ends included, in
    /// order of time as long as the clock was not set back.
    pub fn visit(&self, key: &Key, from: Millis, to: Millis, mut visit: impl FnMut(Millis, f64)) {
        let mut values = Vec::new();
        for block in self.blocks.iter().filter(|block| block.overlaps(from, to)) {
            if let Some(column) = block.find(key)
                && block.values(column, &mut values).is_ok()
            {
                each(block.times(), &values, from, to, &mut visit);
            }
        }
        for rows in self.packing.iter().map(Packing::rows) {
            let found = rows
                .columns()
                .binary_search_by(|(other, _)| (**other).cmp(key));
            if let Ok(column) = found {
                each(
                    rows.times(),
                    &rows.columns()[column].1,
                    from,
                    to,
                    &mut visit,
                );
            }
        }
        for head in self.heads.values() {
            if let Some(column) = head.find(key.as_str()) {
                each(
                    head.times(),
                    &head.columns()[column].values,
                    from,
                    to,
                    &mut visit,
                );
            }
        }
    }

    /// How full it is, and what it refused.
    pub fn counts(&self) -> Counts {
        Counts {
            series: self.series() as u64,
            bytes: (self.block_bytes + self.open_bytes()) as u64,
            ..self.counts
        }
    }
}

/// The values of the rows in a window.
fn each(
    times: &[Millis],
    values: &[f64],
    from: Millis,
    to: Millis,
    visit: &mut impl FnMut(Millis, f64),
) {
    let begin = times.partition_point(|&t| t < from);
    let rows = times.iter().zip(values).skip(begin);
    for (&t, &value) in rows.take_while(|&(&t, _)| t <= to) {
        if !value.is_nan() {
            visit(t, value);
        }
    }
}

/// A row that is being fed.
#[derive(Debug)]
pub struct Row<'a> {
    store: &'a mut Store,
    source: Box<str>,
}

impl Row<'_> {
    /// The value of one series in this row. The first of two stays.
    pub fn put(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.store.put(&self.source, name, labels, value);
    }

    /// A value where there is one.
    pub fn put_some(&mut self, name: &str, labels: &[(&str, &str)], value: Option<f64>) {
        if let Some(value) = value {
            self.put(name, labels, value);
        }
    }
}
