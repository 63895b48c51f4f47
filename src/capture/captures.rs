//! Any number of captures as one.
//!
//! Files of one run of the daemon follow one another as they were written:
//! samples are not in strict order of time, since a slow look is handed over
//! late, and a replay must apply them as the live engine did. Captures of
//! different runs are merged by time. Invariants: the answer does not depend on
//! the order in which the files are named; only files that overlap in time are
//! open at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::header::Header;
use super::problem::{CaptureError, FileProblem, Rejected};
use super::reader::CaptureReader;
use crate::engine::Settings;
use crate::sample::{Sample, UnixSeconds};

/// All captures of a replay.
pub struct Captures {
    /// What each stream was told last, in the order in which they begin.
    told: Vec<Settings>,
    streams: Vec<Stream>,
    /// The settings have changed since the last sample.
    changed: bool,
    read: Arc<AtomicU64>,
    total: u64,
}

/// The files of one run, one after another.
struct Stream {
    /// Its place among all.
    number: usize,
    /// Not opened yet.
    parts: VecDeque<PathBuf>,
    reader: Option<CaptureReader<'static>>,
    /// The sample to give next, with the settings of the file that it begins.
    next: Option<(Sample, Option<Settings>)>,
    /// Those of the file that was opened last, until it has given a sample.
    opened: Option<Settings>,
    /// Latest time of all samples up to `next`: the order of streams. Before
    /// anything is open, the time of the first sample.
    reached: UnixSeconds,
}

/// What is known of a file before it is read.
struct Part {
    header: Header,
    first: UnixSeconds,
    path: PathBuf,
}

/// Counts what is read of the files.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Captures {
    /// Looks into every file. A directory stands for the files in it.
    ///
    /// # Errors
    /// All files that are no captures of this version.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Vec<CaptureError>> {
        let mut errors = Vec::new();
        let mut parts = Vec::new();
        let mut total = 0;
        for path in expand(paths, &mut errors) {
            match Part::of(&path) {
                Ok(part) => {
                    total += fs::metadata(&path).map_or(0, |about| about.len());
                    parts.push(part);
                }
                Err(error) => errors.push(error),
            }
        }
        parts.sort_by(|a, b| a.first.total_cmp(&b.first).then(a.path.cmp(&b.path)));
        let (streams, told) = streams(parts, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            told,
            streams,
            changed: false,
            read: Arc::default(),
            total,
        })
    }

    /// What the engine was told, all runs together: their targets, poolers,
    /// services and names side by side; the thresholds are those of the oldest.
    pub fn settings(&self) -> Settings {
        let mut told = self.told.iter();
        let mut all = told.next().cloned().unwrap_or_default();
        for settings in told {
            join(&mut all, settings);
        }
        all
    }

    /// What the engine was told before the sample that [`next`](Self::next) gave,
    /// when it was told anew since the one before that: the daemon was reloaded.
    pub fn take_change(&mut self) -> Option<Settings> {
        std::mem::take(&mut self.changed).then(|| self.settings())
    }

    /// Bytes read of the files, and their sizes together.
    pub fn progress(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.total)
    }

    /// The next sample of all, or the next line that is none.
    #[expect(
        clippy::should_implement_trait,
        reason = "borrows nothing, but reads files"
    )]
    pub fn next(&mut self) -> Option<Result<Sample, Rejected>> {
        loop {
            let order = |a: &&mut Stream, b: &&mut Stream| a.reached.total_cmp(&b.reached);
            let stream = self.streams.iter_mut().min_by(order)?;
            if let Some((sample, settings)) = stream.next.take() {
                if let Some((settings, told)) = settings.zip(self.told.get_mut(stream.number)) {
                    self.changed |= *told != settings;
                    *told = settings;
                }
                return Some(Ok(sample));
            }
            match stream.read(&self.read) {
                Some(Ok(sample)) => {
                    stream.reached = stream.reached.max(sample.t);
                    stream.next = Some((sample, stream.opened.take()));
                }
                Some(Err(rejected)) => return Some(Err(rejected)),
                None => self.streams.retain(|stream| !stream.is_over()),
            }
        }
    }
}

impl Stream {
    /// Reads on, in the next part when this one is over.
    fn read(&mut self, read: &Arc<AtomicU64>) -> Option<Result<Sample, Rejected>> {
        loop {
            if let Some(reader) = &mut self.reader
                && let Some(next) = reader.next()
            {
                return Some(next);
            }
            self.reader = None;
            let path = self.parts.pop_front()?;
            match reopen(&path, read) {
                Ok(reader) => {
                    self.opened = Some(reader.header().settings.clone());
                    self.reader = Some(reader);
                }
                Err(error) => return Some(Err(error.into_rejected())),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.reader.is_none() && self.parts.is_empty() && self.next.is_none()
    }
}

impl Part {
    fn of(path: &Path) -> Result<Self, CaptureError> {
        let mut reader = CaptureReader::open(path)?;
        let mut first = f64::INFINITY;
        while let Some(next) = reader.next() {
            if let Ok(sample) = next {
                first = sample.t;
                break;
            }
        }
        Ok(Self {
            header: reader.header().clone(),
            first,
            path: path.to_owned(),
        })
    }
}

fn reopen(path: &Path, read: &Arc<AtomicU64>) -> Result<CaptureReader<'static>, CaptureError> {
    let file = File::open(path).map_err(|error| CaptureError {
        file: path.to_owned(),
        problem: FileProblem::Read(error),
    })?;
    let counted = Counted {
        file,
        read: Arc::clone(read),
    };
    CaptureReader::new(path, counted)
}

/// The files that are meant. Those of a directory are all that look like JSON
/// Lines by their names; what they are is told by their content.
fn expand(paths: &[PathBuf], errors: &mut Vec<CaptureError>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match fs::read_dir(path) {
            Ok(entries) => {
                let inside = entries.flatten().map(|entry| entry.path());
                files.extend(inside.filter(|file| {
                    let name = file.file_name().unwrap_or_default().to_string_lossy();
                    name.contains(".jsonl")
                }));
            }
            Err(error) => errors.push(CaptureError {
                file: path.clone(),
                problem: FileProblem::Read(error),
            }),
        }
    }
    files
}

/// Files of one run are one stream; a file of no run is one by itself. Given
/// with what each is told first.
fn streams(parts: Vec<Part>, errors: &mut Vec<CaptureError>) -> (Vec<Stream>, Vec<Settings>) {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut runs: Vec<BTreeMap<u64, Part>> = Vec::new();
    for part in parts {
        let Some(run) = part.header.run.clone() else {
            runs.push(BTreeMap::from([(part.header.part, part)]));
            continue;
        };
        let place = *places.entry(run).or_insert_with(|| {
            runs.push(BTreeMap::new());
            runs.len() - 1
        });
        let parts = &mut runs[place];
        if let Some(other) = parts.get(&part.header.part) {
            errors.push(CaptureError {
                file: part.path,
                problem: FileProblem::Twice(other.path.clone()),
            });
            continue;
        }
        parts.insert(part.header.part, part);
    }
    let first = |parts: &BTreeMap<u64, Part>| {
        let first = parts.values().next();
        first.map(|part| part.header.settings.clone())
    };
    let told = runs.iter().map(|parts| first(parts).unwrap_or_default());
    let told = told.collect();
    let runs = runs.into_iter().enumerate();
    let streams = runs.map(|(number, parts)| Stream::waiting(number, parts.into_values()));
    (streams.collect(), told)
}

impl Stream {
    fn waiting(number: usize, parts: impl IntoIterator<Item = Part>) -> Self {
        let mut reached = None;
        let mut paths = VecDeque::new();
        for part in parts {
            reached.get_or_insert(part.first);
            paths.push_back(part.path);
        }
        Self {
            number,
            parts: paths,
            reader: None,
            next: None,
            opened: None,
            reached: reached.unwrap_or(f64::INFINITY),
        }
    }
}

fn join(all: &mut Settings, more: &Settings) {
    /// Adds what is not there under the same name.
    fn add<T: Clone, K: PartialEq>(all: &mut Vec<T>, more: &[T], key: impl Fn(&T) -> K) {
        for item in more {
            if all.iter().all(|known| key(known) != key(item)) {
                all.push(item.clone());
            }
        }
    }
    add(&mut all.targets, &more.targets, Clone::clone);
    add(&mut all.poolers, &more.poolers, |pooler| {
        pooler.name.clone()
    });
    add(&mut all.pooler_addresses, &more.pooler_addresses, |a| *a);
    add(&mut all.services, &more.services, |service| {
        service.name.clone()
    });
    add(&mut all.advisory_locks, &more.advisory_locks, |lock| {
        lock.key
    });
    // One that does not show every pooler leaves a gap for all.
    all.poolers_complete &= more.poolers_complete;
}
