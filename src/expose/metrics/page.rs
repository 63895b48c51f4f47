//! One scrape's worth of points, before it is written in either format.
//!
//! Invariants: families are in one place and in order of their names, as both
//! formats demand; no label set occurs twice in a family; every value is a
//! number (what is not finite is left out); label values are cut to
//! [`LABEL_CHARS`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Longest label value, in characters. Names in PostgreSQL have 63 bytes; the
/// longest useful value is a route, and 128 characters hold one.
pub const LABEL_CHARS: usize = 128;

/// The type of a family, in the words of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
    Histogram,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a metric is: one row of [`super::table::ALL`].
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// As in a query: a counter's name ends in `_total`.
    pub name: &'static str,
    pub kind: Type,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// The value of one point.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A counter or a gauge, as its metric says.
    Number(f64),
    Histogram(Buckets),
}

/// A distribution cut at fixed bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// Upper bounds and how many observations fell in each bucket alone; the
    /// last bound is infinite.
    pub counts: Vec<(f64, u64)>,
    pub sum: f64,
}

impl Buckets {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

/// The points of one metric, by label values in the order of its labels.
#[derive(Debug)]
pub struct Family {
    pub metric: &'static Metric,
    pub points: BTreeMap<Vec<String>, Value>,
}

/// Everything that one scrape answers.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, Family>,
}

impl Page {
    /// Adds a number. Of two points that are alike after their labels were cut
    /// the larger stays: a duplicate would spoil the whole scrape.
    pub fn put<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], value: f64) {
        if !value.is_finite() {
            return;
        }
        match self.slot(metric, labels) {
            Entry::Vacant(slot) => {
                slot.insert(Value::Number(value));
            }
            Entry::Occupied(mut slot) => {
                if matches!(slot.get(), Value::Number(old) if *old < value) {
                    slot.insert(Value::Number(value));
                }
            }
        }
    }

    /// Adds a number where there is one.
    pub fn put_some<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: [&str; N],
        value: Option<f64>,
    ) {
        if let Some(value) = value {
            self.put(metric, labels, value);
        }
    }

    /// Adds a histogram; the first of two alike stays.
    pub fn put_histogram<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: [&str; N],
        buckets: Buckets,
    ) {
        self.slot(metric, labels)
            .or_insert(Value::Histogram(buckets));
    }

    /// The families that have points, by name.
    pub fn families(&self) -> impl Iterator<Item = &Family> {
        self.families.values()
    }

    fn slot<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: [&str; N],
    ) -> Entry<'_, Vec<String>, Value> {
        debug_assert_eq!(metric.labels.len(), N, "labels of {}", metric.name);
        self.families
            .entry(metric.name)
            .or_insert_with(|| Family {
                metric,
                points: BTreeMap::new(),
            })
            .points
            .entry(labels.iter().map(|value| clip(value)).collect())
    }
}

/// A label value cut to [`LABEL_CHARS`] characters.
pub fn clip(value: &str) -> String {
    value.chars().take(LABEL_CHARS).collect()
}

/// Subjects and how many there are of each.
pub type Counts<K> = Vec<(K, f64)>;

/// The `limit` largest entries and what is left over. Equal ones are taken in
/// order of their keys, so that the choice does not flap.
pub fn largest<K: Ord>(counts: BTreeMap<K, f64>, limit: usize) -> (Counts<K>, Counts<K>) {
    let mut entries: Vec<_> = counts.into_iter().collect();
    entries.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let rest = entries.split_off(limit.min(entries.len()));
    (entries, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    static METRIC: Metric = Metric {
        name: "m",
        kind: Type::Gauge,
        labels: &["a"],
        help: "h",
    };

    #[test]
    fn labels_alike_after_the_cut_keep_the_larger_value() {
        let mut page = Page::default();
        let long = "é".repeat(LABEL_CHARS);
        page.put(&METRIC, [&format!("{long}1")], 3.0);
        page.put(&METRIC, [&format!("{long}2")], 7.0);
        page.put(&METRIC, [&format!("{long}3")], 5.0);
        let family = page.families().next().expect("one family");
        assert_eq!(family.points.len(), 1);
        assert_eq!(family.points[&vec![long]], Value::Number(7.0));
    }

    #[test]
    fn what_is_not_a_number_is_left_out() {
        let mut page = Page::default();
        page.put(&METRIC, ["x"], f64::NAN);
        page.put(&METRIC, ["y"], f64::INFINITY);
        assert_eq!(page.families().count(), 0);
    }

    #[test]
    fn the_largest_are_taken_and_the_rest_is_kept_apart() {
        let counts = BTreeMap::from([("a", 1.0), ("b", 3.0), ("c", 1.0), ("d", 2.0)]);
        let (top, rest) = largest(counts, 3);
        assert_eq!(top, [("b", 3.0), ("d", 2.0), ("a", 1.0)]);
        assert_eq!(rest, [("c", 1.0)]);
    }
}
