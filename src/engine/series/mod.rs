//! What was, second by second: the history that detectors and the API read.
//!
//! Series that come from the same look share one column of times. A source (a
//! server, a pooler, a service) has a head of open rows; when its ten minutes
//! are over the head becomes a packed, immutable [`Block`]. Blocks of the last
//! hours stay in memory, and the history on disk keeps the same blocks for days.
//! A gap stays a gap; what cannot be taken is counted in [`Counts`].

pub mod aggregate;
pub mod block;
pub mod column;
pub mod extract;
pub mod feed;
pub mod head;
pub mod key;
pub mod rows;
pub mod selector;
pub mod store;
pub mod wire;

pub use aggregate::{Aggregate, Steps};
pub use block::{Block, BlockBuilder, Millis, millis, seconds};
pub use extract::{Extract, Gathered, Point, TooMuch};
pub use key::Key;
pub use rows::Rows;
pub use selector::{Selector, SelectorError};
pub use store::{Budget, Counts, Row, Store};

#[cfg(test)]
mod tests;
