//! Hash tables for what is looked up thousands of times in one look.
//!
//! The hash of the standard library withstands whoever chooses keys on purpose
//! and costs several times as much. This one is seeded anew for each table, which
//! is enough where the keys are bounded in number: pids, places in a list, the
//! routes that are kept.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// A table with a fast hash; [`with_room`] makes one.
pub type Table<K, V> = HashMap<K, V, RandomState>;

/// An empty table with room for so many.
pub fn with_room<K, V>(room: usize) -> Table<K, V> {
    Table::with_capacity_and_hasher(room, RandomState::default())
}
