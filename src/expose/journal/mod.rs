//! The journal: every change of every incident, one line each, on disk before
//! the next look.
//!
//! Invariants: a line is there whole or is told to be damaged; each carries the
//! whole record, so that a lost one is made good by the next; what is damaged is
//! set aside and everything else is used.

mod entry;
mod load;
mod writer;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

pub use entry::Entry;
pub use load::{Damage, Journal};
pub use writer::JournalWriter;

/// The file below the directory of the history.
pub const FILE: &str = "incidents.jsonl";

/// Held by the one daemon that writes here.
const LOCK: &str = "snowpit.lock";

/// Why a journal cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(
        "another snowpit keeps its history in {}; give each its own [history] directory",
        .0.display()
    )]
    Taken(PathBuf),
    #[error(
        "cannot use {}: {cause}; make it readable and writable for this user, or choose another \
         [history] directory", .path.display()
    )]
    File {
        path: PathBuf,
        // In the sentence already: not `source`, or it is told twice.
        cause: io::Error,
    },
}

impl JournalError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::File { path, cause }
    }
}

/// Makes the directory and keeps every other daemon out of it, for as long as
/// the file that is given back lives.
///
/// # Errors
/// Another daemon is there, or the directory cannot be made or written to.
pub fn occupy(directory: &Path) -> Result<File, JournalError> {
    std::fs::create_dir_all(directory).map_err(JournalError::at(directory))?;
    let path = directory.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(JournalError::at(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(JournalError::Taken(directory.to_owned())),
        Err(TryLockError::Error(cause)) => Err(JournalError::File { path, cause }),
    }
}
