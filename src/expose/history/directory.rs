//! The directory of the history: who may write there, and which files there are.
//!
//! A file is `NUMBER.segment`, the blocks of ten minutes, or `NUMBER.part`, the
//! rows of one minute, which a segment later makes superfluous. A file that
//! cannot be trusted is renamed to end in `.damaged`, after what is whole in it
//! was written to a new one; it goes with its retention like all others.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Where the segments are, below the directory of the configuration.
const SEGMENTS: &str = "series";

/// Held as long as the daemon runs.
const LOCK: &str = "lock";

/// What follows the name of a file that was set aside.
const DAMAGED: &str = "damaged";

/// Files that are looked at: a year of segments, and as many parts.
const FILE_LIMIT: usize = 200_000;

/// Why the history cannot be kept there.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(
        "another snowpit keeps its history in {}; stop it, or choose another [history] directory",
        .0.display()
    )]
    Locked(PathBuf),
    #[error(
        "cannot keep the history in {}: {cause}; make the directory writable for this user, or \
         choose another under [history] directory", .directory.display()
    )]
    Io {
        directory: PathBuf,
        // In the sentence already: not `source`, or it is told twice.
        cause: io::Error,
    },
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Segment,
    /// Rows that are not sealed yet.
    Part,
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Part => "part",
        }
    }
}

/// The locked directory.
#[derive(Debug)]
pub struct Directory {
    segments: PathBuf,
    /// Let go when this is dropped, however the process ends.
    _lock: Flock<File>,
}

impl Directory {
    /// Makes the directory when it is not there, and locks it.
    pub fn open(directory: &Path) -> Result<Self, DirectoryError> {
        let failed = |cause| DirectoryError::Io {
            directory: directory.to_owned(),
            cause,
        };
        let segments = directory.join(SEGMENTS);
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&segments)
            .map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(directory.join(LOCK))
            .map_err(failed)?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                segments,
                _lock: lock,
            }),
            Err((_, Errno::EWOULDBLOCK)) => Err(DirectoryError::Locked(directory.to_owned())),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// The path of a file.
    pub fn path(&self, number: u64, kind: Kind) -> PathBuf {
        self.segments
            .join(format!("{number:012}.{}", kind.extension()))
    }

    /// The files that are there, by number. What was being written when the
    /// program ended is removed: it is not whole.
    pub fn list(&self) -> io::Result<Vec<(u64, Kind, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.segments)?.take(FILE_LIMIT) {
            let path = entry?.path();
            let kind = match path.extension().and_then(|extension| extension.to_str()) {
                Some("segment") => Kind::Segment,
                Some("part") => Kind::Part,
                Some("tmp") => {
                    if let Err(error) = fs::remove_file(&path) {
                        tracing::warn!(
                            file = %path.display(),
                            "what is left of an unfinished file of the history cannot be removed: {error}"
                        );
                    }
                    continue;
                }
                _ => continue,
            };
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if let Some(number) = stem.and_then(|stem| stem.parse().ok()) {
                files.push((number, kind, path));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Renames a file so that nobody reads it again. Gives its new path.
    pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(DAMAGED);
        let aside = PathBuf::from(name);
        fs::rename(path, &aside)?;
        Ok(aside)
    }

    /// Removes files that were set aside longer ago than `retention`.
    pub fn forget_damaged(&self, now: SystemTime, retention: Duration) -> io::Result<()> {
        for entry in fs::read_dir(&self.segments)?.take(FILE_LIMIT) {
            let entry = entry?;
            let path = entry.path();
            let damaged = path
                .extension()
                .is_some_and(|extension| extension == DAMAGED);
            let age = || {
                now.duration_since(entry.metadata().ok()?.modified().ok()?)
                    .ok()
            };
            if damaged && age().is_some_and(|age| age > retention) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}
