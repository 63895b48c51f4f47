//! The task that writes the journal: a thread of its own behind a bounded
//! queue.
//!
//! What the disk does not take waits in memory, the newest record of each
//! incident, and is written when there is room again.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::entry::Entry;
use super::load::Journal;
use super::{FILE, JournalError, occupy};
use crate::engine::incident::Effect;
use crate::observe::health::Health;
use crate::observe::poll::unix_now;

/// Changes on their way to the disk: more than all incidents that can be open.
const QUEUE: usize = 1024;

/// Entries that wait for a disk with room.
const WAITING: usize = 1024;

/// Pause between two tries to write to such a disk.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// How long an incident is remembered after its end, seconds: 90 days. Records
/// are small, and the question what happened last time comes late.
const REMEMBER: f64 = 90.0 * 24.0 * 3600.0;

/// A journal longer than this, and twice as long as it was when that was done
/// last, is written anew without what is superseded.
const COMPACT_BYTES: u64 = 8 * 1024 * 1024;

/// The label `source` of changes that are missing in the journal.
const LOST_SOURCE: &str = "journal";

/// The engine's end of the queue.
#[derive(Debug)]
pub struct JournalWriter {
    queue: SyncSender<Entry>,
    thread: JoinHandle<()>,
    health: Health,
}

impl JournalWriter {
    /// Takes the directory for this process alone, reads the journal in it, sets
    /// aside what is damaged there, and goes on writing.
    ///
    /// # Errors
    /// Another daemon is there, or the journal cannot be read. A disk without
    /// room is no error.
    pub fn start(directory: &Path, health: &Health) -> Result<(Self, Journal), JournalError> {
        let lock = occupy(directory)?;
        let mut journal = Journal::load(directory)?;
        for damage in &journal.damage {
            tracing::warn!("{damage}");
        }
        journal.forget_before(unix_now() - REMEMBER);
        let path = directory.join(FILE);
        if journal.damaged > 0 || journal.superseded > 0 {
            tidy(&path, &journal);
        }
        let (queue, entries) = sync_channel(QUEUE);
        let pen = Pen {
            path: path.clone(),
            file: None,
            compact_at: COMPACT_BYTES,
            waiting: VecDeque::new(),
            failing: false,
            health: health.clone(),
            _lock: lock,
        };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || pen.run(&entries))
            .map_err(JournalError::at(&path))?;
        let writer = Self {
            queue,
            thread,
            health: health.clone(),
        };
        Ok((writer, journal))
    }

    /// [`start`](Self::start), for who must not wait for a disk.
    ///
    /// # Errors
    /// As there.
    pub async fn open(directory: &Path, health: &Health) -> Result<(Self, Journal), JournalError> {
        let (place, health) = (directory.to_owned(), health.clone());
        let starting = tokio::task::spawn_blocking(move || Self::start(&place, &health));
        starting.await.unwrap_or_else(|_| {
            let cause = io::Error::other("the reading of it panicked");
            Err(JournalError::at(directory)(cause))
        })
    }

    /// Hands a change over. Never waits.
    pub fn offer(&self, effect: &Effect) {
        let reason = match self.queue.try_send(effect.into()) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "queue_full",
            Err(TrySendError::Disconnected(_)) => "writer_ended",
        };
        self.health.lost(LOST_SOURCE, effect.t, reason, 1);
    }

    /// Writes what is on its way and comes back.
    pub async fn finish(self) {
        let Self { queue, thread, .. } = self;
        drop(queue);
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("the writer of the journal met a fault of snowpit's own");
        }
    }
}

/// Writes the journal anew without what is superseded. One with damage in it is
/// kept beside it first. When this cannot be done the old one stays as it is,
/// which costs space and the same warnings at the next start.
fn tidy(path: &Path, journal: &Journal) {
    if journal.damaged > 0 {
        let aside = path.with_extension("jsonl.damaged");
        if let Err(error) = fs::copy(path, &aside) {
            tracing::warn!(%error, "the damaged journal could not be set aside and stays as it is");
            return;
        }
        tracing::warn!(
            lines = journal.damaged,
            "the damaged journal is kept as {}, all else of it is used",
            aside.display()
        );
    }
    if let Err(error) = rewrite(path, journal.entries()) {
        tracing::warn!(%error, "the journal could not be written anew and stays as it is");
    }
}

/// The whole file at once or not at all.
fn rewrite(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let mut text = Vec::new();
    entries.iter().for_each(|entry| entry.write(&mut text));
    let fresh = path.with_extension("jsonl.new");
    let written = write_synced(&fresh, &text).and_then(|()| {
        fs::rename(&fresh, path)?;
        sync_directory(path)
    });
    if written.is_err() {
        // It takes the room that is missing.
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn write_synced(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = options().truncate(true).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).mode(0o600);
    options
}

/// A new name is on disk when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// What the thread owns.
struct Pen {
    path: PathBuf,
    /// The journal and how long it is.
    file: Option<(File, u64)>,
    /// The length at which it is written anew.
    compact_at: u64,
    /// Entries that are not on the disk.
    waiting: VecDeque<Entry>,
    failing: bool,
    health: Health,
    _lock: File,
}

impl Pen {
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            match entries.recv_timeout(RETRY_EVERY) {
                Ok(entry) => {
                    self.waiting.push_back(entry);
                    self.waiting.extend(entries.try_iter());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.write_waiting();
        }
        self.write_waiting();
    }

    fn write_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut lines = Vec::new();
        self.waiting
            .iter()
            .for_each(|entry| entry.write(&mut lines));
        match self.append(&lines) {
            Ok(()) => {
                self.waiting.clear();
                if std::mem::replace(&mut self.failing, false) {
                    tracing::info!("the journal can be written again");
                }
                self.compact_when_long();
            }
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        "the journal {} cannot be written: {error}; free space or the way to it, \
                         it is tried again every {} s",
                        self.path.display(),
                        RETRY_EVERY.as_secs()
                    );
                }
                self.forget_superseded();
            }
        }
    }

    /// All lines or none: what was written of them is cut off again.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let (file, length) = match &mut self.file {
            Some(open) => open,
            closed => {
                let mut file = options().append(true).open(&self.path)?;
                sync_directory(&self.path)?;
                let length = file.metadata()?.len();
                if length > 0 && !ends_a_line(&self.path)? {
                    // Torn: what comes now must not be part of it.
                    file.write_all(b"\n")?;
                }
                let length = file.metadata()?.len();
                closed.insert((file, length))
            }
        };
        if let Err(error) = file.write_all(lines).and_then(|()| file.sync_data()) {
            // A file that cannot even be cut is torn, and its reader knows.
            let _ = file.set_len(*length);
            return Err(error);
        }
        *length += lines.len() as u64;
        Ok(())
    }

    /// The newest record of each incident says all of it.
    fn forget_superseded(&mut self) {
        if self.waiting.len() <= WAITING {
            return;
        }
        let mut kept: VecDeque<Entry> = VecDeque::new();
        while let Some(entry) = self.waiting.pop_back() {
            let known = |other: &Entry| other.incident.id == entry.incident.id;
            if !kept.iter().any(known) {
                kept.push_front(entry);
            }
        }
        let lost = kept.len().saturating_sub(WAITING);
        kept.drain(..lost);
        if lost > 0 {
            let lost = lost as u64;
            self.health
                .lost(LOST_SOURCE, unix_now(), "write_failed", lost);
        }
        self.waiting = kept;
    }

    fn compact_when_long(&mut self) {
        let too_long = |open: &(File, u64)| open.1 >= self.compact_at;
        if !self.file.as_ref().is_some_and(too_long) {
            return;
        }
        let Some(directory) = self.path.parent() else {
            return;
        };
        match Journal::load(directory) {
            Ok(mut journal) => {
                journal.forget_before(unix_now() - REMEMBER);
                tidy(&self.path, &journal);
            }
            Err(error) => tracing::warn!(%error, "the journal could not be written anew"),
        }
        self.file = None;
        let length = fs::metadata(&self.path).map_or(0, |about| about.len());
        self.compact_at = COMPACT_BYTES.max(2 * length);
    }
}

fn ends_a_line(path: &Path) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
