//! The journal read back: the newest record of each incident.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::entry::Entry;
use super::{FILE, JournalError};
use crate::engine::incident::Incident;
use crate::sample::UnixSeconds;

/// The longest line that is read, in bytes. A record with all its evidence is a
/// few kilobytes.
const LINE_LIMIT: u64 = 1024 * 1024;

/// Incidents that are remembered: the open ones before all others, then the
/// newest. Years of a server in trouble.
const INCIDENT_LIMIT: usize = 10_000;

/// Damaged lines that are told one by one.
const DAMAGE_LIMIT: usize = 20;

/// What a journal says.
#[derive(Debug, Default)]
pub struct Journal {
    /// The newest entry of each incident, oldest incident first.
    entries: Vec<Entry>,
    pub damage: Vec<Damage>,
    /// Damaged lines, those beyond the limit of `damage` too.
    pub damaged: u64,
    /// Lines that say something older about an incident.
    pub superseded: u64,
}

/// A line that was left out.
#[derive(Debug)]
pub struct Damage {
    pub file: PathBuf,
    pub line: u64,
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        write!(
            f,
            "{file}:{}: is no entry of the journal ({}); the line is left out",
            self.line, self.why
        )
    }
}

impl Journal {
    /// Reads the journal below `directory`. One that is not there is empty.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn load(directory: &Path) -> Result<Self, JournalError> {
        let path = directory.join(FILE);
        match File::open(&path) {
            Ok(file) => Self::read(&path, file).map_err(JournalError::at(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(JournalError::at(&path)(error)),
        }
    }

    /// Reads what a journal holds; `path` is its name in what is told.
    ///
    /// # Errors
    /// `file` cannot be read. What is in it never is an error.
    pub fn read(path: &Path, file: impl Read) -> io::Result<Self> {
        let mut reader = BufReader::new(file);
        let mut journal = Self::default();
        // By place in the file, so that order survives the change of a record.
        let mut newest: BTreeMap<String, (u64, Entry)> = BTreeMap::new();
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            number += 1;
            let mut limited = (&mut reader).take(LINE_LIMIT);
            if limited.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let ended = line.pop_if(|last| *last == b'\n').is_some();
            let parsed = if !ended && line.len() as u64 >= LINE_LIMIT {
                reader.skip_until(b'\n')?;
                Err("it is longer than any entry".to_owned())
            } else {
                Entry::parse(&line)
            };
            match parsed {
                Ok(entry) => {
                    let id = entry.incident.id.clone();
                    let first = newest.get(&id).map_or(number, |known| known.0);
                    if newest.insert(id, (first, entry)).is_some() {
                        journal.superseded += 1;
                    }
                }
                Err(why) => journal.leave_out(path, number, why),
            }
        }
        let mut entries: Vec<(u64, Entry)> = newest.into_values().collect();
        entries.sort_by_key(|(first, entry)| (entry.is_open(), *first));
        let too_many = entries.len().saturating_sub(INCIDENT_LIMIT);
        entries.drain(..too_many);
        entries.sort_by_key(|(first, _)| *first);
        journal.entries = entries.into_iter().map(|(_, entry)| entry).collect();
        Ok(journal)
    }

    fn leave_out(&mut self, path: &Path, line: u64, why: String) {
        self.damaged += 1;
        if self.damage.len() < DAMAGE_LIMIT {
            self.damage.push(Damage {
                file: path.to_owned(),
                line,
                why,
            });
        }
    }

    /// The newest entry of each incident, oldest incident first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Forgets what was over before `t`.
    pub fn forget_before(&mut self, t: UnixSeconds) {
        let since = |entry: &Entry| entry.incident.resolved_at.is_none_or(|at| at >= t);
        self.entries.retain(since);
    }

    /// Incidents that were open, with the keys of their findings.
    pub fn open(&self) -> impl Iterator<Item = (String, Incident)> {
        let open = self.entries.iter().filter(|entry| entry.is_open());
        open.map(|entry| (entry.key.clone(), entry.incident.clone()))
    }

    /// Incidents that were over, newest first.
    pub fn resolved(&self) -> impl Iterator<Item = Incident> {
        let over = self.entries.iter().rev().filter(|entry| !entry.is_open());
        over.map(|entry| entry.incident.clone())
    }
}

impl Entry {
    fn is_open(&self) -> bool {
        self.incident.resolved_at.is_none()
    }
}
