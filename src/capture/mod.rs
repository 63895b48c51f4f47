//! The capture format, written and read: every sample that the engine was
//! given, in the engine's order, as JSON Lines.
//!
//! The first line of a file is its [`Header`]; each file is a capture by
//! itself. Invariants: writing never holds up the engine; what could not be
//! written is counted; a file that ends in the middle keeps all that was
//! flushed before.

mod captures;
mod files;
mod header;
mod line;
mod lines;
mod problem;
mod reader;
mod recorder;

pub use captures::Captures;
pub use header::{FORMAT, Header};
pub use line::{Line, parse};
pub use lines::LINE_LIMIT;
pub use problem::{CaptureError, FileProblem, LineProblem, Rejected};
pub use reader::CaptureReader;
pub use recorder::Recorder;

/// The directory of captures below the history's own.
pub const DIRECTORY: &str = "captures";
