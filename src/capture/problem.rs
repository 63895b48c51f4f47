//! What can be wrong with a capture: the file as a whole, or a line of it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::header::FORMAT;
use super::lines::LINE_LIMIT;

/// Why a file is no capture at all.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .file.display())]
pub struct CaptureError {
    pub file: PathBuf,
    pub problem: FileProblem,
}

impl CaptureError {
    /// A file that was good when it was looked into, and is not any more.
    pub(super) fn into_rejected(self) -> Rejected {
        Rejected {
            problem: LineProblem::Gone(self.problem.to_string()),
            file: self.file,
            line: 1,
        }
    }
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("is empty; a capture begins with its header line")]
    Empty,
    #[error(
        "line 1 is no header of a capture ({0}); it must begin with {{\"snowpit_capture\": {FORMAT}, …}}"
    )]
    NoHeader(String),
    #[error(
        "line 1 says version {0} of the capture format, and this snowpit reads version {FORMAT}; \
         replay it with the version that wrote it"
    )]
    Version(u64),
    #[error("is the same part of the same capture as {}; name it once", .0.display())]
    Twice(PathBuf),
}

/// A line that was left out, and where it is.
#[derive(Debug)]
pub struct Rejected {
    pub file: PathBuf,
    /// From 1, in the decompressed text.
    pub line: u64,
    pub problem: LineProblem,
}

/// What is wrong with a line.
#[derive(Debug)]
pub enum LineProblem {
    /// No poll and no traffic report, with what the parser says.
    Malformed(String),
    TooLong,
    /// A header of another version than the file's.
    Version(u64),
    /// Years away from the lines around it.
    Time(f64),
    /// A source that this version does not know.
    Source(String),
    /// The whole file, which was a capture a moment ago.
    Gone(String),
    /// The last line has no end and is no whole line.
    HalfWritten,
    /// The compressed data ends before its end.
    EndsEarly,
    /// The compressed data is damaged from here on.
    Damaged(io::Error),
}

impl LineProblem {
    /// What a program that was killed while it wrote leaves behind, or what a
    /// newer one adds: no fault of the file.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::HalfWritten | Self::EndsEarly | Self::Source(_))
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.problem)
    }
}

impl fmt::Display for LineProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "is no sample ({why}); the line is left out"),
            Self::TooLong => write!(
                f,
                "is longer than {} MiB; the line is left out",
                LINE_LIMIT / (1024 * 1024)
            ),
            Self::Version(version) => write!(
                f,
                "is a header of version {version}, and this snowpit reads version {FORMAT}; \
                 the line is left out"
            ),
            Self::Time(t) => write!(
                f,
                "has the time {t}, years away from the lines around it; the line is left out"
            ),
            Self::Source(source) => write!(
                f,
                "has the source {source:?}, which this version does not know; the line is left out"
            ),
            Self::Gone(why) => write!(f, "{why}; the file changed meanwhile and is left out"),
            Self::HalfWritten => {
                write!(f, "ends in the middle of a line; all before it is used")
            }
            Self::EndsEarly => write!(
                f,
                "the compressed data ends too early, as when its writer is killed; \
                 all before it is used"
            ),
            Self::Damaged(error) => write!(
                f,
                "the compressed data is damaged ({error}); all before it is used, the rest of \
                 the file is lost"
            ),
        }
    }
}
