//! The history on disk: packed blocks in immutable segment files.
//!
//! [`History::open`] locks the directory and finds what is there; a damaged file
//! is set aside and says so, all others load. A thread of its own writes: each
//! minute the newest rows as a small part, each ten minutes the sealed blocks as
//! a segment, after which the parts go. So a kill loses a minute. When the disk
//! takes nothing, blocks wait in memory, and are written once it does.
//! Invariants: a file is written under another name, synced, renamed, and the
//! directory synced, so that it is whole or not there; nothing is ever changed
//! in it; retention removes whole files.

pub mod directory;
pub mod format;
mod health;
mod keeper;
mod reader;
pub mod segment;
mod shelf;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use directory::DirectoryError;
pub use health::{Failure, HistoryHealth};
pub use keeper::{HAND_OVER_EVERY, Keeper};
pub use reader::{Question, ReadError, SeriesReader};
pub use writer::{Batch, Writer};

use crate::engine::series::{Block, Gathered, Millis, Selector, TooMuch};
use directory::Directory;
use shelf::Shelf;

/// How much of the past the engine is given at start, and keeps in memory,
/// seconds. A baseline learns over an hour, and an incident that lasts as long on
/// one level is its new normal: three hours hold both.
pub const KEEP_SECONDS: f64 = 3.0 * 3600.0;

/// The history on disk, for who reads it. Clones share it.
#[derive(Debug, Clone)]
pub struct History {
    shelf: Arc<Shelf>,
    health: HistoryHealth,
}

/// What came of opening it.
#[derive(Debug)]
pub struct Opened {
    pub history: History,
    /// The last hours, oldest first, to be remembered by the engine.
    pub recent: Vec<Arc<Block>>,
    /// Since when those are complete.
    pub recent_from: Millis,
    /// To be given a thread.
    pub writer: Writer,
}

impl History {
    /// Locks the directory and reads the last hours of what is there. `now` is
    /// the time of the machine. Blocks the thread for a second or two.
    pub fn open(
        directory: &Path,
        retention: Duration,
        now: Millis,
    ) -> Result<Opened, DirectoryError> {
        let locked = Directory::open(directory)?;
        let health = HistoryHealth::default();
        let shelf = Shelf::fill(locked, &health).map_err(|cause| DirectoryError::Io {
            directory: directory.to_owned(),
            cause,
        })?;
        let history = Self {
            shelf: Arc::new(shelf),
            health,
        };
        let recent = history.shelf.recent(now, &history.health);
        let writer = Writer::new(history.clone(), retention);
        Ok(Opened {
            history,
            recent,
            recent_from: shelf::recent_from(now),
            writer,
        })
    }

    /// Adds to `gathered` what the disk has of the series that are meant in a
    /// window. A file that turns out to be damaged is left out and told of.
    /// Blocks the thread.
    pub fn gather(
        &self,
        selector: &Selector,
        from: Millis,
        to: Millis,
        gathered: &mut Gathered,
    ) -> Result<(), TooMuch> {
        self.shelf
            .gather(selector, from, to, gathered, &self.health)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.shelf.bytes()
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.shelf.files()
    }

    /// How it fares.
    pub fn health(&self) -> &HistoryHealth {
        &self.health
    }
}
