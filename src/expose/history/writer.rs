//! Writes what the engine hands over, in a thread of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::History;
use super::directory::Kind;
use crate::engine::series::{Block, Millis, Rows};

/// Blocks that wait for a disk that takes nothing, in bytes: hours of the largest
/// store.
const WAITING_LIMIT: usize = 32 * 1024 * 1024;

/// Sources seal their ten minutes within a minute or two of each other: blocks
/// wait this many batches for the others, so that there is one file and not ten.
const BATCHES_TO_WAIT: u32 = 2;

/// What the engine hands over, once a minute and at the end.
#[derive(Debug, Default)]
pub struct Batch {
    pub sealed: Vec<Arc<Block>>,
    /// Rows that are not sealed yet.
    pub unsaved: Vec<Rows>,
    /// Nothing comes after this.
    pub last: bool,
}

/// The thread's state.
#[derive(Debug)]
pub struct Writer {
    history: History,
    retention: Duration,
    waiting: VecDeque<Arc<Block>>,
    waiting_bytes: usize,
    /// Batches since the oldest waiting block came.
    waited: u32,
}

impl Writer {
    pub(super) fn new(history: History, retention: Duration) -> Self {
        Self {
            history,
            retention,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            waited: 0,
        }
    }

    /// Checks all files, then writes until the last batch. Blocks the thread.
    pub fn run(mut self, mut batches: mpsc::Receiver<Batch>) {
        self.history.shelf.forget(wall_clock(), self.retention);
        self.check();
        while let Some(batch) = batches.blocking_recv() {
            let last = batch.last;
            self.take(batch, wall_clock());
            if last {
                break;
            }
        }
    }

    /// Reads every file once, and sets aside those that are damaged.
    pub fn check(&mut self) {
        self.history.shelf.verify(&self.history.health);
    }

    /// Takes one batch at the machine's time `now`.
    pub fn take(&mut self, batch: Batch, now: Millis) {
        let (shelf, health) = (Arc::clone(&self.history.shelf), self.history.health.clone());
        self.wait(batch.sealed);
        let parts: Vec<Arc<Block>> = batch
            .unsaved
            .into_iter()
            .filter_map(Rows::pack)
            .map(Arc::new)
            .collect();
        // A part that fails is lost without harm: its rows are sealed later.
        if !parts.is_empty() && !batch.last {
            let _ = shelf.write(Kind::Part, &parts, now, &health);
        }
        if !self.waiting.is_empty() {
            self.waited += 1;
            if self.waited > BATCHES_TO_WAIT || batch.last {
                self.write_waiting(now);
            }
        }
        shelf.see_to_suspects(&health);
        shelf.forget(now, self.retention);
    }

    fn wait(&mut self, sealed: Vec<Arc<Block>>) {
        for block in sealed {
            self.waiting_bytes += block.bytes();
            self.waiting.push_back(block);
        }
        while self.waiting_bytes > WAITING_LIMIT {
            let Some(oldest) = self.waiting.pop_front() else {
                break;
            };
            self.waiting_bytes -= oldest.bytes();
            self.history.health.lost(oldest.source());
        }
    }

    fn write_waiting(&mut self, now: Millis) {
        let (shelf, health) = (&self.history.shelf, &self.history.health);
        let blocks = self.waiting.make_contiguous();
        if shelf.write(Kind::Segment, blocks, now, health).is_ok() {
            self.waiting.clear();
            self.waiting_bytes = 0;
            self.waited = 0;
            shelf.drop_superfluous();
        }
    }
}

/// The time of the machine, which retention goes by: rows may say anything.
#[expect(
    clippy::disallowed_methods,
    reason = "files are kept by the machine's clock"
)]
fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
    })
}
