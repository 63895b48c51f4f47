//! Many subjects made few.

use std::collections::BTreeMap;

/// Subjects with their counts, largest first.
type Ranked<K> = Vec<(K, f64)>;

/// Counts by subject.
#[derive(Debug)]
pub(super) struct Fold<K>(BTreeMap<K, f64>);

impl<K: Ord> Fold<K> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn add(&mut self, subject: K, count: f64) {
        *self.0.entry(subject).or_insert(0.0) += count;
    }

    /// The `limit` largest, and the others. Equal ones are taken in order of
    /// their names, so that the choice does not flap.
    pub(super) fn largest(self, limit: usize) -> (Ranked<K>, Ranked<K>) {
        let mut all: Ranked<K> = self.0.into_iter().collect();
        all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let rest = all.split_off(limit.min(all.len()));
        (all, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_told_apart_from_the_rest() {
        let mut fold = Fold::new();
        for (subject, count) in [("a", 1.0), ("b", 2.0), ("c", 1.0), ("b", 1.0)] {
            fold.add(subject, count);
        }
        let (top, rest) = fold.largest(2);
        assert_eq!(top, [("b", 3.0), ("a", 1.0)]);
        assert_eq!(rest, [("c", 1.0)]);
    }
}
