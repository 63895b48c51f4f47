//! One segment file: written once, under another name until it is whole, and
//! then only read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{self, Damage, Entry, HEADER, Header, Interner, TRAILER, VERSION};
use crate::engine::series::{Block, Millis};

/// What is still salvaged from a damaged file: more than an hour of the largest
/// store, and no disk image that somebody gave the wrong name.
const SALVAGE_LIMIT: u64 = 256 * 1024 * 1024;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("{0}")]
    Damaged(#[from] Damage),
    #[error("it has version {0}, which this snowpit does not know; use the one that wrote it")]
    Version(u8),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// A file that was found whole.
#[derive(Debug)]
pub struct Segment {
    pub path: PathBuf,
    /// In bytes.
    pub length: u64,
    pub header: Header,
    pub entries: Vec<Entry>,
}

impl Segment {
    /// Writes a new file: whole and on the disk, or not there.
    pub fn write(path: PathBuf, blocks: &[Arc<Block>], written_at: Millis) -> io::Result<Self> {
        let (bytes, entries) = format::encode(blocks, written_at);
        let temporary = path.with_extension("tmp");
        let written = write_synced(&temporary, &bytes).and_then(|()| {
            fs::rename(&temporary, &path)?;
            sync_directory(&path)
        });
        if let Err(error) = written {
            // It takes the room that is missing.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(Self {
            path,
            length: bytes.len() as u64,
            header: Header {
                version: VERSION,
                written_at,
            },
            entries,
        })
    }

    /// Reads what the file says of itself. The frames are checked when they are
    /// read.
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length < (HEADER + TRAILER) as u64 {
            return Err(Damage::Short.into());
        }
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0)?;
        let header = format::decode_header(&bytes)?;
        if header.version != VERSION {
            return Err(SegmentError::Version(header.version));
        }
        let mut bytes = [0; TRAILER];
        file.read_exact_at(&mut bytes, length - TRAILER as u64)?;
        let (offset, footer, checksum) = format::decode_trailer(&bytes, length)?;
        let mut bytes = vec![0; footer];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(Self {
            path: path.to_owned(),
            length,
            header,
            entries: format::decode_footer(&bytes, checksum, offset)?,
        })
    }

    /// Calls `visit` with the blocks of the frames that are wanted.
    pub fn read(
        &self,
        keys: &mut Interner,
        wanted: impl Fn(&Entry) -> bool,
        mut visit: impl FnMut(Block),
    ) -> Result<(), SegmentError> {
        let mut entries = self.entries.iter().filter(|entry| wanted(entry)).peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let file = File::open(&self.path)?;
        let mut bytes = Vec::new();
        for entry in entries {
            let (offset, length) = entry.range();
            bytes.resize(length, 0);
            file.read_exact_at(&mut bytes, offset)?;
            let block = format::decode_frame(&bytes, offset, keys)?;
            // The footer says where to look: it must not be that of another file.
            if (block.start(), block.end()) != (entry.start, entry.end) {
                return Err(Damage::Contents.into());
            }
            visit(block);
        }
        Ok(())
    }

    /// Time of the newest row; `None` when there is no row.
    pub fn end(&self) -> Option<Millis> {
        self.entries.iter().map(|entry| entry.end).max()
    }

    /// It has rows in the window.
    pub fn overlaps(&self, from: Millis, to: Millis) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.start <= to && entry.end >= from)
    }
}

/// The frames of a damaged file that are whole.
pub fn salvage(path: &Path) -> io::Result<Vec<Block>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(SALVAGE_LIMIT)
        .read_to_end(&mut bytes)?;
    Ok(format::salvage(&bytes))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What sessions do is nobody else's business.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a new name in a directory survive a crash of the machine.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
