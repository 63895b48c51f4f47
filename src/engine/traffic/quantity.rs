//! An amount that came in over time, in two grids of buckets: fine ones for the
//! last minutes, coarse ones for the last hour.
//!
//! A report covers a span, so its amount is spread evenly over it; one that is
//! late lands where it belongs. Each bucket is written in both grids, so no
//! tick has to fold anything: a grid moves on when it is written to. Invariants:
//! the size is fixed; a time outside the grid reads as nothing.

use crate::sample::UnixSeconds;

/// Width of a fine bucket, in seconds. An onset is judged some ten seconds after
/// it, so a fifth of that.
pub const FINE: f64 = 2.0;

/// Four minutes: an onset is found up to two minutes late, and a report can be
/// 45 s late and cover a minute.
const FINE_CELLS: usize = 120;

/// Width of a coarse bucket, in seconds.
pub const COARSE: f64 = 30.0;

/// A little more than an hour: half an hour of baseline, and as long an incident
/// during which that baseline is still at hand.
const COARSE_CELLS: usize = 128;

/// The amount over time.
#[derive(Debug, Clone)]
pub struct Quantity {
    fine: Grid,
    coarse: Grid,
}

impl Default for Quantity {
    fn default() -> Self {
        Self {
            fine: Grid::new(FINE, FINE_CELLS),
            coarse: Grid::new(COARSE, COARSE_CELLS),
        }
    }
}

impl Quantity {
    /// Spreads `amount` evenly over the span. What is older than the grid is
    /// left out. All three must be finite.
    pub fn add(&mut self, from: UnixSeconds, to: UnixSeconds, amount: f64) {
        if amount == 0.0 {
            return;
        }
        self.fine.add(from, to, amount);
        self.coarse.add(from, to, amount);
    }

    /// The amount of a span, buckets at its ends taken in part.
    pub fn sum(&self, from: UnixSeconds, to: UnixSeconds) -> f64 {
        if to <= from {
            return 0.0;
        }
        // Coarse buckets as long as they are whole, fine ones for the rest; and
        // only fine ones in a span that is short.
        let begins = ceil(self.fine.begins() / COARSE) as f64 * COARSE;
        let edge = if to - from > 2.0 * COARSE {
            begins.max(floor(to / COARSE) as f64 * COARSE)
        } else {
            begins
        };
        if from >= begins && from > edge - COARSE {
            return self.fine.sum(from, to);
        }
        if from >= begins {
            let whole = ceil(from / COARSE) as f64 * COARSE;
            return self.fine.sum(from, whole)
                + self.coarse.sum(whole, edge)
                + self.fine.sum(edge, to);
        }
        if to <= edge {
            return self.coarse.sum(from, to);
        }
        self.coarse.sum(from, edge) + self.fine.sum(edge, to)
    }

    /// The amounts of consecutive spans of `width` coarse buckets, from the
    /// first that begins in the span to the last that ends in it.
    pub fn blocks(&self, from: UnixSeconds, to: UnixSeconds, width: usize) -> Vec<f64> {
        let width = width.max(1);
        let first = ceil(from / COARSE);
        let last = floor(to / COARSE);
        let count = usize::try_from(last - first).unwrap_or(0).min(COARSE_CELLS) / width;
        (0..count)
            .map(|block| {
                let begin = first + (block * width) as i64;
                (begin..begin + width as i64)
                    .map(|index| self.coarse.at(index))
                    .sum()
            })
            .collect()
    }
}

/// A ring of buckets of one width.
#[derive(Debug, Clone)]
struct Grid {
    width: f64,
    /// Number of the newest bucket, counted from the epoch; `None` when nothing
    /// was written yet.
    newest: Option<i64>,
    /// Its place in the ring: a remainder for each access would cost more than
    /// the access.
    head: usize,
    /// Amounts to seven digits, at half the memory of more.
    cells: Box<[f32]>,
}

impl Grid {
    fn new(width: f64, cells: usize) -> Self {
        Self {
            width,
            newest: None,
            head: 0,
            cells: vec![0.0; cells].into(),
        }
    }

    fn index(&self, t: UnixSeconds) -> i64 {
        floor(t / self.width)
    }

    /// The place of a bucket that is not newer than the newest, nor older than
    /// the oldest.
    fn place(&self, newest: i64, index: i64) -> usize {
        let back = (newest - index) as usize;
        if back <= self.head {
            self.head - back
        } else {
            self.head + self.cells.len() - back
        }
    }

    fn oldest(&self) -> i64 {
        self.newest
            .map_or(i64::MAX, |newest| newest - self.cells.len() as i64 + 1)
    }

    /// The time at which the oldest bucket begins; infinite when empty.
    fn begins(&self) -> UnixSeconds {
        match self.newest {
            Some(_) => self.oldest() as f64 * self.width,
            None => f64::INFINITY,
        }
    }

    fn at(&self, index: i64) -> f64 {
        match self.newest {
            Some(newest) if index <= newest && index >= self.oldest() => {
                f64::from(self.cells[self.place(newest, index)])
            }
            _ => 0.0,
        }
    }

    fn advance(&mut self, index: i64) {
        let length = self.cells.len() as i64;
        match self.newest {
            Some(newest) if index <= newest => return,
            Some(newest) if index - newest < length => {
                for _ in newest..index {
                    self.head += 1;
                    if self.head == self.cells.len() {
                        self.head = 0;
                    }
                    self.cells[self.head] = 0.0;
                }
            }
            _ => self.cells.fill(0.0),
        }
        self.newest = Some(index);
    }

    fn add(&mut self, from: UnixSeconds, to: UnixSeconds, amount: f64) {
        // A bucket takes in its first moment and not its last: what ends at an
        // edge belongs before it.
        let last = ceil(to / self.width)
            .saturating_sub(1)
            .max(self.index(from));
        self.advance(last);
        let first = self.index(from);
        let span = to - from;
        if span <= 0.0 || first == last {
            self.put(last, amount);
            return;
        }
        for index in first.max(self.oldest())..=last {
            let begin = (index as f64 * self.width).max(from);
            let end = ((index + 1) as f64 * self.width).min(to);
            self.put(index, amount * (end - begin).max(0.0) / span);
        }
    }

    fn put(&mut self, index: i64, amount: f64) {
        if let Some(newest) = self.newest
            && (self.oldest()..=newest).contains(&index)
        {
            let place = self.place(newest, index);
            self.cells[place] += amount as f32;
        }
    }

    fn sum(&self, from: UnixSeconds, to: UnixSeconds) -> f64 {
        let Some(newest) = self.newest else {
            return 0.0;
        };
        let first = self.index(from).max(self.oldest());
        let last = self.index(to).min(newest);
        if first > last {
            return 0.0;
        }
        let part = |index: i64| {
            let begin = index as f64 * self.width;
            let covered = (begin + self.width).min(to) - begin.max(from);
            self.at(index) * (covered / self.width).clamp(0.0, 1.0)
        };
        if first == last {
            return part(first);
        }
        part(first) + self.whole(newest, first + 1, last) + part(last)
    }

    /// The buckets from `first` up to and without `end`, all within the ring.
    fn whole(&self, newest: i64, first: i64, end: i64) -> f64 {
        if first >= end {
            return 0.0;
        }
        let (from, to) = (self.place(newest, first), self.place(newest, end - 1));
        if from <= to {
            add_up(&self.cells[from..=to])
        } else {
            add_up(&self.cells[from..]) + add_up(&self.cells[..=to])
        }
    }
}

/// As `f64::floor`, which is the call of a function where the processor is not
/// known to have an instruction for it; an attribution makes a hundred thousand.
fn floor(value: f64) -> i64 {
    let whole = value as i64;
    whole.saturating_sub(i64::from(whole as f64 > value))
}

fn ceil(value: f64) -> i64 {
    let whole = value as i64;
    whole.saturating_add(i64::from((whole as f64) < value))
}

/// The sum, in four lanes: a hundred thousand of these are made for one
/// attribution.
fn add_up(cells: &[f32]) -> f64 {
    let mut lanes = [0.0f32; 4];
    let chunks = cells.chunks_exact(4);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, cell) in lanes.iter_mut().zip(chunk) {
            *lane += cell;
        }
    }
    f64::from(rest) + lanes.iter().copied().map(f64::from).sum::<f64>()
}

/// A value that is read now and then and stands for the time since the last
/// reading: an area over time, and the time that is known of.
#[derive(Debug, Clone, Default)]
pub struct Level {
    last: Option<(UnixSeconds, f64)>,
    area: Quantity,
    told: Quantity,
}

/// A reading stands for the time since the one before, at most this long, in
/// seconds; what lies farther back is not known.
const HOLDS: f64 = 90.0;

impl Level {
    /// Takes in a reading; one that is older than the last is ignored.
    pub fn push(&mut self, t: UnixSeconds, value: f64) {
        if let Some((last, _)) = self.last {
            if t < last {
                return;
            }
            // The new value, not the old: at an onset it is nearer to the truth.
            let from = last.max(t - HOLDS);
            self.area.add(from, t, value * (t - from));
            self.told.add(from, t, t - from);
        }
        self.last = Some((t, value));
    }

    /// The newest reading and its time.
    pub fn last(&self) -> Option<(UnixSeconds, f64)> {
        self.last
    }

    /// The mean over spans of time; `None` where nothing is known of them.
    pub fn mean(&self, spans: &[(UnixSeconds, UnixSeconds)]) -> Option<f64> {
        let sum = |quantity: &Quantity| -> f64 {
            spans.iter().map(|&(from, to)| quantity.sum(from, to)).sum()
        };
        let told = sum(&self.told);
        (told > 0.5).then(|| sum(&self.area) / told)
    }

    /// Means of consecutive blocks, see [`Quantity::blocks`]; `None` where
    /// nothing is known of a block.
    pub fn blocks(&self, from: UnixSeconds, to: UnixSeconds, width: usize) -> Vec<Option<f64>> {
        let areas = self.area.blocks(from, to, width);
        let told = self.told.blocks(from, to, width);
        let pairs = areas.into_iter().zip(told);
        pairs
            .map(|(area, told)| (told > 0.5).then(|| area / told))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_is_spread_over_its_span() {
        let mut quantity = Quantity::default();
        quantity.add(1_000.0, 1_010.0, 20.0);
        assert!((quantity.sum(1_000.0, 1_010.0) - 20.0).abs() < 1e-3);
        assert!((quantity.sum(1_002.0, 1_006.0) - 8.0).abs() < 1e-3);
        assert!((quantity.sum(1_003.0, 1_005.0) - 4.0).abs() < 1e-3);
        assert_eq!(quantity.sum(900.0, 1_000.0), 0.0);
        assert_eq!(quantity.sum(1_010.0, 2_000.0), 0.0);
    }

    #[test]
    fn what_is_late_lands_where_it_belongs() {
        let mut quantity = Quantity::default();
        quantity.add(1_100.0, 1_101.0, 1.0);
        quantity.add(1_050.0, 1_052.0, 5.0);
        assert!((quantity.sum(1_050.0, 1_052.0) - 5.0).abs() < 1e-3);
        quantity.add(-1e9, -1e9 + 5.0, 7.0);
        assert_eq!(quantity.sum(-2e9, 0.0), 0.0, "older than the grid");
    }

    #[test]
    fn the_last_hour_stays_and_a_long_pause_clears_it() {
        let mut quantity = Quantity::default();
        for t in 0..10_000 {
            quantity.add(f64::from(t), f64::from(t) + 1.0, 2.0);
        }
        let half_an_hour = quantity.sum(10_000.0 - 1_920.0, 10_000.0 - 120.0);
        assert!((half_an_hour - 3_600.0).abs() < 1.0, "{half_an_hour}");
        assert_eq!(quantity.sum(0.0, 5_000.0), 0.0);
        let blocks = quantity.blocks(8_000.0, 9_000.0, 2);
        assert_eq!(blocks.len(), 16);
        assert!(
            blocks.iter().all(|&sum| (sum - 120.0).abs() < 0.1),
            "{blocks:?}"
        );
        quantity.add(1e6, 1e6 + 1.0, 3.0);
        assert!((quantity.sum(0.0, 2e6) - 3.0).abs() < 1e-3);
        assert!(
            quantity
                .blocks(0.0, 9_000.0, 2)
                .iter()
                .all(|&sum| sum == 0.0)
        );
    }

    proptest! {
        #[test]
        fn whole_numbers_are_those_of_the_library(value in prop_oneof![
            prop::num::f64::ANY,
            -1e6..1e6f64,
            (-1_000_000..1_000_000i64).prop_map(|whole| whole as f64),
        ]) {
            prop_assert_eq!(floor(value), value.floor() as i64);
            prop_assert_eq!(ceil(value), value.ceil() as i64);
        }

        #[test]
        fn parts_add_up_to_the_whole(
            spans in prop::collection::vec((0.0..200.0f64, 0.0..60.0f64, 0.0..100.0f64), 1..30),
            cut in 0..10u32,
        ) {
            let mut quantity = Quantity::default();
            let mut total = 0.0;
            for (from, length, amount) in spans {
                quantity.add(5_000.0 + from, 5_000.0 + from + length, amount);
                total += amount;
            }
            // At the edges of coarse buckets nothing is taken in part.
            let (from, cut, to) = (4_980.0, 4_980.0 + COARSE * f64::from(cut), 5_280.0);
            let parts = quantity.sum(from, cut) + quantity.sum(cut, to);
            prop_assert!((parts - total).abs() < 1e-2 + total * 1e-4, "{} {}", parts, total);
        }
    }
}
