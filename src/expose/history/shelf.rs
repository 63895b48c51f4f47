//! The files that are in use: found at start, added by the writer, read by all.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::KEEP_SECONDS;
use super::directory::{Directory, Kind};
use super::format::{Entry, Interner};
use super::health::HistoryHealth;
use super::segment::{Segment, SegmentError, salvage};
use crate::engine::series::{Block, Gathered, Millis, Selector, TooMuch};

/// A block may be this much newer than the machine's clock and still be believed
/// at start, milliseconds: clocks are set back by seconds, not by years.
const AHEAD: Millis = 60_000;

/// Since when a program that starts now is told of the past.
pub(super) fn recent_from(now: Millis) -> Millis {
    now.saturating_sub((KEEP_SECONDS * 1e3) as Millis)
}

/// The files, by number.
#[derive(Debug)]
pub(super) struct Shelf {
    directory: Directory,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    by_number: BTreeMap<u64, (Kind, Arc<Segment>)>,
    /// Found damaged by a reader; the writer sees to them.
    suspects: Vec<u64>,
    next: u64,
}

impl Shelf {
    /// Finds what is there.
    pub(super) fn fill(directory: Directory, health: &HistoryHealth) -> io::Result<Self> {
        let found = directory.list()?;
        let shelf = Self {
            directory,
            files: Mutex::default(),
        };
        shelf.lock().next = found
            .last()
            .map_or(1, |(number, ..)| number.saturating_add(1));
        for (number, kind, path) in found {
            match Segment::open(&path) {
                Ok(segment) => shelf.add(number, kind, segment),
                Err(error) => {
                    shelf.reject(&path, &error, health);
                }
            }
        }
        shelf.drop_superfluous();
        Ok(shelf)
    }

    fn add(&self, number: u64, kind: Kind, segment: Segment) {
        let entry = (kind, Arc::new(segment));
        self.lock().by_number.insert(number, entry);
    }

    /// Writes blocks to a new file.
    pub(super) fn write(
        &self,
        kind: Kind,
        blocks: &[Arc<Block>],
        now: Millis,
        health: &HistoryHealth,
    ) -> io::Result<()> {
        let number = {
            let mut files = self.lock();
            files.next = files.next.saturating_add(1);
            files.next - 1
        };
        let path = self.directory.path(number, kind);
        match Segment::write(path.clone(), blocks, now) {
            Ok(segment) => {
                self.add(number, kind, segment);
                health.written();
                Ok(())
            }
            Err(error) => {
                health.write_failed(&path, &error);
                Err(error)
            }
        }
    }

    /// Sets a damaged file aside, after writing what is whole in it to another.
    /// One that may be all right stays where it is. True when what is whole in it
    /// is in another now.
    fn reject(&self, path: &Path, error: &SegmentError, health: &HistoryHealth) -> bool {
        let SegmentError::Damaged(damage) = error else {
            health.unreadable(path, error);
            return false;
        };
        let whole: Vec<Arc<Block>> = match salvage(path) {
            Ok(blocks) => blocks.into_iter().map(Arc::new).collect(),
            Err(error) => {
                health.unreadable(path, &error);
                return false;
            }
        };
        let newest = whole.iter().map(|block| block.end()).max().unwrap_or(0);
        if !whole.is_empty() && self.write(Kind::Segment, &whole, newest, health).is_err() {
            // The damaged file is all that has them: another time.
            return false;
        }
        match Directory::set_aside(path) {
            Ok(_) => health.damaged(path, damage, whole.len()),
            Err(error) => health.unreadable(path, &error),
        }
        true
    }

    /// Reads every file once, and sets aside those that are damaged.
    pub(super) fn verify(&self, health: &HistoryHealth) {
        let mut keys = Interner::default();
        for (number, segment) in self.segments(|_| true) {
            if let Err(error) = segment.read(&mut keys, |_| true, drop) {
                self.remove(number);
                self.reject(&segment.path, &error, health);
            }
        }
    }

    /// Sets aside what readers found damaged.
    pub(super) fn see_to_suspects(&self, health: &HistoryHealth) {
        let suspects = std::mem::take(&mut self.lock().suspects);
        for number in suspects {
            let Some((_, segment)) = self.remove(number) else {
                continue;
            };
            let read = segment.read(&mut Interner::default(), |_| true, drop);
            if let Err(error) = read {
                self.reject(&segment.path, &error, health);
            }
        }
    }

    fn remove(&self, number: u64) -> Option<(Kind, Arc<Segment>)> {
        self.lock().by_number.remove(&number)
    }

    /// Removes the parts whose rows are all in segments. A part never has rows of
    /// two blocks of one source.
    pub(super) fn drop_superfluous(&self) {
        let mut files = self.lock();
        let (parts, segments): (Vec<_>, Vec<_>) = files
            .by_number
            .iter()
            .partition(|(_, (kind, _))| *kind == Kind::Part);
        let is_sealed = |part: &Entry| {
            let mut sealed = segments
                .iter()
                .flat_map(|(_, (_, segment))| &segment.entries);
            sealed.any(|entry| {
                let covers = entry.start <= part.start && entry.end >= part.end;
                covers && entry.source == part.source
            })
        };
        let superfluous: Vec<u64> = parts
            .iter()
            .filter(|(_, (_, part))| part.entries.iter().all(is_sealed))
            // One that cannot be removed is read again, which changes nothing.
            .filter(|(_, (_, part))| std::fs::remove_file(&part.path).is_ok())
            .map(|(number, _)| **number)
            .collect();
        for number in superfluous {
            files.by_number.remove(&number);
        }
    }

    /// Removes files whose rows are all older than `retention`. A row that says
    /// it is from the future is as old as its file.
    pub(super) fn forget(&self, now: Millis, retention: Duration) {
        let retention_ms = Millis::try_from(retention.as_millis()).unwrap_or(Millis::MAX);
        let oldest = now.saturating_sub(retention_ms);
        let mut files = self.lock();
        files.by_number.retain(|_, (_, segment)| {
            let end = segment.end().unwrap_or(Millis::MIN);
            let end = if end > now {
                segment.header.written_at
            } else {
                end
            };
            end >= oldest || std::fs::remove_file(&segment.path).is_err()
        });
        drop(files);
        let wall =
            SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(now).unwrap_or_default());
        if let Err(error) = self.directory.forget_damaged(wall, retention) {
            tracing::debug!(%error, "damaged files could not be looked through");
        }
    }

    /// The blocks of the last hours, oldest first.
    pub(super) fn recent(&self, now: Millis, health: &HistoryHealth) -> Vec<Arc<Block>> {
        let from = recent_from(now);
        let to = now.saturating_add(AHEAD);
        let mut keys = Interner::default();
        let wanted = |entry: &Entry| entry.end >= from && entry.end <= to;
        let mut blocks = Vec::new();
        let mut files: VecDeque<_> = self.segments(|file| file.overlaps(from, to)).into();
        while let Some((number, segment)) = files.pop_front() {
            let mut own = Vec::new();
            let read = segment.read(&mut keys, wanted, |block| own.push(Arc::new(block)));
            if let Err(error) = read {
                self.remove(number);
                let next = self.lock().next;
                if self.reject(&segment.path, &error, health) {
                    // What follows the damage as well.
                    own.clear();
                    files.extend(self.file(next));
                }
            }
            blocks.append(&mut own);
        }
        blocks.sort_by_key(|block| block.start());
        blocks
    }

    fn file(&self, number: u64) -> Option<(u64, Arc<Segment>)> {
        let files = self.lock();
        let (_, segment) = files.by_number.get(&number)?;
        Some((number, Arc::clone(segment)))
    }

    /// See [`History::gather`](super::History::gather).
    pub(super) fn gather(
        &self,
        selector: &Selector,
        from: Millis,
        to: Millis,
        gathered: &mut Gathered,
        health: &HistoryHealth,
    ) -> Result<(), TooMuch> {
        let prefix = format!("{}{{", selector.name());
        let mut keys = Interner::default();
        let mut result = Ok(());
        for (number, segment) in self.segments(|segment| segment.overlaps(from, to)) {
            let wanted = |entry: &Entry| entry.may_have(&prefix, from, to);
            let read = segment.read(&mut keys, wanted, |block| {
                if result.is_ok() {
                    result = gathered.block(&block, selector, to);
                }
            });
            result?;
            match read {
                // Retention has removed it meanwhile.
                Err(SegmentError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(SegmentError::Damaged(_)) => self.lock().suspects.push(number),
                Err(error) => health.unreadable(&segment.path, &error),
                Ok(()) => {}
            }
        }
        result
    }

    fn segments(&self, wanted: impl Fn(&Segment) -> bool) -> Vec<(u64, Arc<Segment>)> {
        let files = self.lock();
        let all = files.by_number.iter();
        all.filter(|(_, (_, segment))| wanted(segment))
            .map(|(&number, (_, segment))| (number, Arc::clone(segment)))
            .collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        let files = self.lock();
        files
            .by_number
            .values()
            .map(|(_, segment)| segment.length)
            .sum()
    }

    pub(super) fn files(&self) -> usize {
        self.lock().by_number.len()
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        // A panic elsewhere leaves a list of files, which is valid at any moment.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
