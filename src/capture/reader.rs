//! One file of a capture, sample by sample.
//!
//! Invariants: a sample comes exactly as it was written, in the order of the
//! file, which is the engine's; a bad line is told with its number and left
//! out, and those beside it are used.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::header::{FORMAT, Header};
use super::line::{self, Line};
use super::lines::{Lines, Next};
use super::problem::{CaptureError, FileProblem, LineProblem, Rejected};
use crate::sample::{Sample, UnixSeconds};

/// Ten years. No capture goes on that long, and no clock is set that far by
/// hand: a lone line this far from its neighbours has a damaged time, and the
/// engine would believe it.
const LEAP: f64 = 3.2e8;

/// An open capture.
pub struct CaptureReader<'a> {
    file: PathBuf,
    header: Header,
    lines: Lines<'a>,
    /// Time of the newest sample that was given.
    last: Option<UnixSeconds>,
    /// A sample far from the one before, and its line, until the next agrees
    /// with it or does not.
    held: Option<(u64, Sample)>,
    /// Read already, to be given next.
    ready: Option<Sample>,
}

impl CaptureReader<'static> {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// It is no capture, or one of another version.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(|error| CaptureError {
            file: path.to_owned(),
            problem: FileProblem::Read(error),
        })?;
        Self::new(path, file)
    }
}

impl<'a> CaptureReader<'a> {
    /// Reads a capture from anywhere; `path` is its name in messages.
    ///
    /// # Errors
    /// It is no capture, or one of another version.
    pub fn new(path: &Path, file: impl Read + Send + 'a) -> Result<Self, CaptureError> {
        let fail = |problem| CaptureError {
            file: path.to_owned(),
            problem,
        };
        let mut lines = Lines::new(file).map_err(|error| fail(FileProblem::Read(error)))?;
        let header = match lines.next() {
            Next::Line | Next::Unfinished(None) => header(lines.bytes()).map_err(fail)?,
            Next::TooLong => {
                let why = "it is longer than any header".to_owned();
                return Err(fail(FileProblem::NoHeader(why)));
            }
            Next::Unfinished(Some(error)) => return Err(fail(FileProblem::Read(error))),
            Next::End => return Err(fail(FileProblem::Empty)),
        };
        Ok(Self {
            file: path.to_owned(),
            header,
            lines,
            last: None,
            held: None,
            ready: None,
        })
    }

    /// What the engine was told.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The name of the file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The next sample, or the next line that is none. `None` at the end.
    #[expect(
        clippy::should_implement_trait,
        reason = "borrows nothing, but reads a file"
    )]
    pub fn next(&mut self) -> Option<Result<Sample, Rejected>> {
        loop {
            if let Some(sample) = self.ready.take() {
                return Some(Ok(self.give(sample)));
            }
            match self.read() {
                Some(Ok(sample)) => {
                    if let Some(answer) = self.place(sample) {
                        return Some(answer);
                    }
                }
                Some(Err(problem)) => return Some(Err(self.reject(problem))),
                None => return self.leave_held(),
            }
        }
    }

    /// Gives a sample, or holds it until the next tells whether its time can be
    /// believed.
    fn place(&mut self, sample: Sample) -> Option<Result<Sample, Rejected>> {
        if let Some((number, held)) = self.held.take() {
            if near(held.t, sample.t) {
                self.ready = Some(sample);
                return Some(Ok(self.give(held)));
            }
            let rejected = self.reject_at(number, LineProblem::Time(held.t));
            if self.last.is_some_and(|last| near(last, sample.t)) {
                self.ready = Some(sample);
            } else {
                self.held = Some((self.lines.number(), sample));
            }
            return Some(Err(rejected));
        }
        if self.last.is_some_and(|last| near(last, sample.t)) {
            return Some(Ok(self.give(sample)));
        }
        self.held = Some((self.lines.number(), sample));
        None
    }

    /// Nothing follows that could agree. The only sample of a file is believed.
    fn leave_held(&mut self) -> Option<Result<Sample, Rejected>> {
        let (number, held) = self.held.take()?;
        if self.last.is_none() {
            return Some(Ok(self.give(held)));
        }
        Some(Err(self.reject_at(number, LineProblem::Time(held.t))))
    }

    fn give(&mut self, sample: Sample) -> Sample {
        self.last = Some(sample.t);
        sample
    }

    fn read(&mut self) -> Option<Result<Sample, LineProblem>> {
        loop {
            let line = match self.lines.next() {
                Next::Line => line::parse(self.lines.bytes()),
                Next::TooLong => Err(LineProblem::TooLong),
                Next::Unfinished(None) => {
                    line::parse(self.lines.bytes()).map_err(|_| LineProblem::HalfWritten)
                }
                Next::Unfinished(Some(error)) => Err(match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => LineProblem::EndsEarly,
                    _ => LineProblem::Damaged(error),
                }),
                Next::End => return None,
            };
            match line {
                Ok(Line::Sample(sample)) => return Some(Ok(*sample)),
                Ok(Line::Header | Line::Blank) => {}
                Err(problem) => return Some(Err(problem)),
            }
        }
    }

    fn reject(&self, problem: LineProblem) -> Rejected {
        self.reject_at(self.lines.number(), problem)
    }

    fn reject_at(&self, line: u64, problem: LineProblem) -> Rejected {
        Rejected {
            file: self.file.clone(),
            line,
            problem,
        }
    }
}

fn near(a: UnixSeconds, b: UnixSeconds) -> bool {
    (a - b).abs() < LEAP
}

fn header(bytes: &[u8]) -> Result<Header, FileProblem> {
    #[derive(serde::Deserialize)]
    struct Version {
        snowpit_capture: u64,
    }
    let no_header = |error: serde_json::Error| FileProblem::NoHeader(line::explain(&error));
    let text = std::str::from_utf8(bytes)
        .map_err(|error| FileProblem::NoHeader(format!("it is not UTF-8: {error}")))?;
    let version: Version = serde_json::from_str(text).map_err(no_header)?;
    if version.snowpit_capture != u64::from(FORMAT) {
        return Err(FileProblem::Version(version.snowpit_capture));
    }
    line::read(text).map_err(no_header)
}
