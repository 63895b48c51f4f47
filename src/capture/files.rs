//! The rotated files of a capture: one is open, the others wait for their
//! retention to end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use zstd::stream::write::Encoder;

/// What one file may hold, compressed. A day of a few servers at one look a
/// second is less.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What all files may hold together, whatever the retention: room for weeks of
/// a few servers, and not the whole disk when there are many.
const TOTAL_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// zstd's own default: a faster one saves little beside the writing of JSON, a
/// higher one costs more than it saves.
const LEVEL: i32 = 3;

/// How every file of a capture ends.
const SUFFIX: &str = ".jsonl.zst";

/// Names tried when two files are begun in one millisecond.
const NAME_ATTEMPTS: u32 = 100;

/// One file that is being written.
pub(super) struct CaptureFile {
    encoder: Encoder<'static, Counting>,
    path: PathBuf,
    /// Bytes given to the encoder since the last flush.
    pending: usize,
}

/// Counts what reaches the file.
struct Counting {
    file: File,
    written: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl CaptureFile {
    /// Begins a new file, named after the time.
    pub(super) fn create(directory: &Path, now: SystemTime) -> io::Result<Self> {
        let (file, path) = create_new(directory, now)?;
        let mut encoder = Encoder::new(Counting { file, written: 0 }, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self {
            encoder,
            path,
            pending: 0,
        })
    }

    /// Adds one line, its end included.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.encoder.write_all(line)?;
        self.pending += line.len();
        Ok(())
    }

    /// Hands everything to the system, so that the end of this process loses
    /// nothing of it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.pending > 0 {
            self.encoder.flush()?;
            self.pending = 0;
        }
        Ok(())
    }

    /// It has its full size.
    pub(super) fn is_full(&self) -> bool {
        self.encoder.get_ref().written >= FILE_BYTES
    }

    /// Ends the file and waits until the disk has it.
    pub(super) fn finish(self) -> io::Result<()> {
        self.encoder.finish()?.file.sync_all()
    }

    /// Leaves a file that cannot be written to any more. One that holds nothing
    /// is removed; another ends in the middle, and its reader knows how to take
    /// that.
    pub(super) fn abandon(self) {
        if self.encoder.get_ref().written == 0 {
            // Nothing can be done about a file that cannot be removed either.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn create_new(directory: &Path, now: SystemTime) -> io::Result<(File, PathBuf)> {
    let time = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let base = time.strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    let mut attempt = 1;
    loop {
        let name = match attempt {
            1 => format!("{base}{SUFFIX}"),
            _ => format!("{base}-{attempt}{SUFFIX}"),
        };
        let path = directory.join(name);
        // Statements are redacted, names are not: nobody else reads this.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && attempt < NAME_ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes what is older than the retention, and the oldest of what is too
/// much. Answers with how many files went.
pub(super) fn clean(directory: &Path, retention: Duration, now: SystemTime) -> io::Result<usize> {
    clean_to(directory, retention, now, TOTAL_BYTES)
}

fn clean_to(
    directory: &Path,
    retention: Duration,
    now: SystemTime,
    total: u64,
) -> io::Result<usize> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            continue;
        }
        // Another process may have removed it meanwhile.
        if let Ok(about) = entry.metadata()
            && about.is_file()
        {
            files.push((about.modified()?, about.len(), entry.path()));
        }
    }
    files.sort();
    files.reverse();
    let mut kept = 0;
    let mut removed = 0;
    for (modified, bytes, path) in files {
        let age = now.duration_since(modified).unwrap_or_default();
        kept += bytes;
        if age > retention || kept > total {
            fs::remove_file(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_flushed_is_there_without_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_604_902_323_512);
        let mut file = CaptureFile::create(directory.path(), now).unwrap();
        file.write(b"{\"snowpit_capture\":1}\n").unwrap();
        file.flush().unwrap();
        file.write(b"lost\n").unwrap();
        drop(file);
        assert_eq!(names(directory.path()), ["20201109T061203.512Z.jsonl.zst"]);
        let written = fs::read(directory.path().join("20201109T061203.512Z.jsonl.zst")).unwrap();
        let mut decoder = zstd::stream::read::Decoder::new(written.as_slice()).unwrap();
        let mut text = Vec::new();
        assert!(io::copy(&mut decoder, &mut text).is_err(), "no end");
        assert_eq!(text, b"{\"snowpit_capture\":1}\n");
    }

    #[test]
    fn two_files_of_one_moment_have_two_names() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let first = CaptureFile::create(directory.path(), now).unwrap();
        let second = CaptureFile::create(directory.path(), now).unwrap();
        assert_ne!(first.path, second.path);
        first.abandon();
        second.finish().unwrap();
        assert_eq!(names(directory.path()).len(), 1, "an empty one is removed");
    }

    #[test]
    fn the_old_and_the_too_much_go_and_others_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (name, age, bytes) in [
            ("a.jsonl.zst", 5_000, 10),
            ("b.jsonl.zst", 30, 10),
            ("c.jsonl.zst", 20, 10),
            ("d.jsonl.zst", 10, 10),
            ("incidents.jsonl", 9_000, 10),
        ] {
            let file = File::create(directory.path().join(name)).unwrap();
            file.set_len(bytes).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(clean_to(directory.path(), hour, now, 1_000).unwrap(), 1);
        assert_eq!(clean_to(directory.path(), hour, now, 25).unwrap(), 1);
        assert_eq!(
            names(directory.path()),
            ["c.jsonl.zst", "d.jsonl.zst", "incidents.jsonl"]
        );
    }
}
