//! What happens to the history on disk, logged and counted by one call.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What can go wrong, in the words of the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// A file could not be written; its blocks are kept and tried again.
    Write,
    /// A file could not be read.
    Read,
    /// A file was damaged and set aside.
    Damaged,
    /// A block was given up, because the disk took nothing for too long.
    Lost,
}

impl Failure {
    pub const ALL: [Self; 4] = [Self::Write, Self::Read, Self::Damaged, Self::Lost];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Damaged => "damaged",
            Self::Lost => "lost",
        }
    }
}

/// The state of the history on disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct HistoryHealth(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    failures: BTreeMap<Failure, u64>,
    /// The newest write failed.
    stuck: bool,
}

impl HistoryHealth {
    /// How often each went wrong.
    pub fn failures(&self, failure: Failure) -> u64 {
        self.lock().failures.get(&failure).copied().unwrap_or(0)
    }

    /// The newest write failed: what comes is kept in memory.
    pub fn is_stuck(&self) -> bool {
        self.lock().stuck
    }

    /// A file could not be written. Logged when it begins, counted each time.
    pub(super) fn write_failed(&self, path: &Path, error: &std::io::Error) {
        let mut state = self.lock();
        *state.failures.entry(Failure::Write).or_default() += 1;
        if !std::mem::replace(&mut state.stuck, true) {
            tracing::error!(
                file = %path.display(),
                "the history cannot be written: {error}; it is kept in memory, and tried again every minute"
            );
        }
    }

    /// A file was written.
    pub(super) fn written(&self) {
        if std::mem::replace(&mut self.lock().stuck, false) {
            tracing::info!("the history is written again");
        }
    }

    /// A file was damaged and set aside.
    pub(super) fn damaged(&self, path: &Path, reason: &dyn Display, saved: usize) {
        self.count(Failure::Damaged);
        tracing::error!(
            file = %path.display(),
            "a file of the history is damaged and was set aside: {reason}; {saved} blocks in it were whole and are kept"
        );
    }

    /// A file could not be read, and may be all right.
    pub(super) fn unreadable(&self, path: &Path, reason: &dyn Display) {
        self.count(Failure::Read);
        tracing::error!(file = %path.display(), "a file of the history was left out: {reason}");
    }

    /// A block was given up.
    pub(super) fn lost(&self, source: &str) {
        self.count(Failure::Lost);
        tracing::error!(
            source,
            "the history of ten minutes is lost: the disk took nothing, and the memory for it is full"
        );
    }

    fn count(&self, failure: Failure) {
        *self.lock().failures.entry(failure).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counters, which are valid at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
