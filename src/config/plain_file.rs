//! Files whose paths somebody typed.
//!
//! Invariant: opening one never waits. A FIFO without a writer would hold its
//! reader for good, and the reload with it.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Opens a plain file for reading.
///
/// # Errors
/// It cannot be opened, or is a directory, a device, a FIFO or a socket.
pub fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(Errno::EISDIR.into());
    }
    if !kind.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "it is not a plain file",
        ));
    }
    Ok(file)
}

/// The first `limit` bytes of a plain file.
///
/// # Errors
/// As for [`open`], or it cannot be read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn nobody_waits_at_a_fifo() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let (done, answer) = channel();
        std::thread::spawn(move || {
            let told = crate::config::Config::load(&path, |_| None).map_err(|e| e.to_string());
            let _ = done.send((told.map(drop), read(&path, 10).map_err(|e| e.to_string())));
        });
        // It is there at once, or never.
        let (config, bytes) = answer.recv_timeout(Duration::from_secs(30)).unwrap();
        let config = config.unwrap_err();
        assert!(config.contains("it is not a plain file"), "{config}");
        assert_eq!(bytes.unwrap_err(), "it is not a plain file");
    }

    #[test]
    fn a_plain_file_is_read_up_to_the_limit_and_a_directory_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"0123");
        assert_eq!(read(&path, 40).unwrap(), b"0123456789");
        let error = read(directory.path(), 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IsADirectory, "{error}");
    }
}
