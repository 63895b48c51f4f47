//! Lines of a file that may be compressed and may be anything.
//!
//! Invariants: what the file is, is told by its first bytes, never by its name;
//! no line takes more memory than [`LINE_LIMIT`]; a file that ends in the
//! middle gives every whole line before.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// The longest line that is read, in bytes. A look at a server with the
/// poller's largest number of rows is under a quarter of it.
pub const LINE_LIMIT: u64 = 16 * 1024 * 1024;

/// Read at once: large enough that the system is asked rarely.
const BUFFER: usize = 256 * 1024;

/// RFC 1952.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// RFC 8878, as it stands in the file.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads one line after another.
pub(super) struct Lines<'a> {
    reader: Box<dyn BufRead + Send + 'a>,
    bytes: Vec<u8>,
    /// Of the line in `bytes`, from 1.
    number: u64,
    ended: bool,
}

/// What came instead of a line, or with it.
#[derive(Debug)]
pub(super) enum Next {
    /// A line is in [`Lines::bytes`].
    Line,
    /// It is longer than [`LINE_LIMIT`] and was passed over.
    TooLong,
    /// The last line has no end, and is in [`Lines::bytes`]; `Some` when the
    /// compressed data ends too early or is damaged.
    Unfinished(Option<io::Error>),
    End,
}

impl<'a> Lines<'a> {
    /// # Errors
    /// The first bytes cannot be read.
    pub(super) fn new(file: impl Read + Send + 'a) -> io::Result<Self> {
        let mut raw = BufReader::with_capacity(BUFFER, file);
        let magic = peek(&mut raw)?;
        let reader: Box<dyn BufRead + Send + 'a> = if magic.starts_with(&GZIP) {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw)))
        } else if magic.starts_with(&ZSTD) {
            let decoder = zstd::Decoder::with_buffer(raw)?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        } else {
            Box::new(raw)
        };
        Ok(Self {
            reader,
            bytes: Vec::new(),
            number: 0,
            ended: false,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn next(&mut self) -> Next {
        if self.ended {
            return Next::End;
        }
        self.bytes.clear();
        self.number += 1;
        let mut limited = (&mut self.reader).take(LINE_LIMIT + 1);
        let read = limited.read_until(b'\n', &mut self.bytes);
        if self.bytes.last() == Some(&b'\n') {
            self.bytes.pop();
            return Next::Line;
        }
        match read {
            Ok(_) if self.bytes.len() as u64 > LINE_LIMIT => {
                self.bytes = Vec::new();
                // An error comes again at the next line.
                if let Err(error) = self.reader.skip_until(b'\n') {
                    tracing::debug!(%error, "inside a line that is too long");
                }
                Next::TooLong
            }
            Ok(_) => {
                self.ended = true;
                if self.bytes.is_empty() {
                    Next::End
                } else {
                    Next::Unfinished(None)
                }
            }
            Err(error) => {
                self.ended = true;
                Next::Unfinished(Some(error))
            }
        }
    }
}

/// The first bytes, left where they are. A source may give them one by one, so
/// that a single look at the buffer is not enough.
fn peek(reader: &mut BufReader<impl Read>) -> io::Result<[u8; 4]> {
    let mut magic = [0; 4];
    let buffered = loop {
        match reader.fill_buf() {
            Ok(bytes) => break bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    let known = buffered.len().min(magic.len());
    magic[..known].copy_from_slice(&buffered[..known]);
    Ok(magic)
}
