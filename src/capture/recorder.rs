//! The task that writes the capture: a thread of its own behind a bounded
//! queue.
//!
//! A disk that is full or gone stops nothing but the capture. The samples that
//! it misses are counted, and a new file is tried every few seconds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::files::{self, CaptureFile};
use super::header::Header;
use crate::engine::Settings;
use crate::observe::health::Health;
use crate::observe::poll::unix_now;
use crate::sample::Sample;

/// Samples on their way to the disk. Two minutes of a server and its pooler at
/// one look a second: a disk that hangs longer loses some.
const QUEUE: usize = 256;

/// How much a sudden end of the process may lose.
const FLUSH_EVERY: Duration = Duration::from_secs(3);

/// How long one file goes on: what is removed or lost at once is one hour.
const FILE_AGE: Duration = Duration::from_secs(3600);

/// Pause after a failure to write.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The label `source` of samples that are missing in the capture.
const LOST_SOURCE: &str = "capture";

/// A sample, and the settings that hold from it on when they are others.
type Entry = (Option<Box<Settings>>, Sample);

/// The engine's end of the queue.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Entry>,
    /// Not yet on their way.
    settings: Option<Box<Settings>>,
    thread: JoinHandle<()>,
    health: Health,
}

impl Recorder {
    /// Starts to write below `directory`, which is made when it is not there.
    /// Files are kept for `retention`.
    ///
    /// # Errors
    /// The directory cannot be made or not be written to, or there is no thread
    /// to be had.
    pub fn start(
        directory: &Path,
        retention: Duration,
        settings: &Settings,
        health: &Health,
    ) -> io::Result<Self> {
        let directory = directory.join(super::DIRECTORY);
        fs::create_dir_all(&directory)?;
        // Two daemons may be started in one millisecond, on two machines.
        let run = format!("{:.3}-{:08x}", unix_now(), fastrand::u32(..));
        let (queue, samples) = sync_channel(QUEUE);
        let tape = Tape {
            directory,
            retention,
            header: Header::new(settings, &run),
            health: health.clone(),
            retry_after: RETRY_AFTER,
            state: State::Paused { until: now() },
            line: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || tape.run(&samples))?;
        Ok(Self {
            queue,
            settings: None,
            thread,
            health: health.clone(),
        })
    }

    /// The engine judges by these settings from the next sample on: that one is
    /// the first of a new file.
    pub fn reconfigure(&mut self, settings: &Settings) {
        self.settings = Some(Box::new(settings.clone()));
    }

    /// Hands a sample over. Never waits: what does not fit is counted as lost.
    pub fn offer(&mut self, sample: &Sample) {
        let entry = (self.settings.take(), sample.clone());
        let (reason, (settings, _)) = match self.queue.try_send(entry) {
            Ok(()) => return,
            Err(TrySendError::Full(entry)) => ("queue_full", entry),
            Err(TrySendError::Disconnected(entry)) => ("writer_ended", entry),
        };
        // A lost sample must not take the new settings with it.
        self.settings = settings;
        self.health.lost(LOST_SOURCE, sample.t, reason, 1);
    }

    /// Writes what is on its way, ends the file and comes back.
    pub async fn finish(self) {
        let Self { queue, thread, .. } = self;
        drop(queue);
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("the writer of the capture met a fault of snowpit's own");
        }
    }
}

/// What the thread owns.
struct Tape {
    directory: PathBuf,
    retention: Duration,
    /// Of the next file.
    header: Header,
    health: Health,
    retry_after: Duration,
    state: State,
    line: Vec<u8>,
}

enum State {
    Open {
        file: CaptureFile,
        since: Instant,
        flushed: Instant,
        /// Samples written since the last flush.
        unflushed: u64,
    },
    /// Nothing is written before this moment.
    Paused { until: Instant },
}

impl Tape {
    fn run(mut self, samples: &Receiver<Entry>) {
        loop {
            match samples.recv_timeout(FLUSH_EVERY) {
                Ok((settings, sample)) => {
                    if let Some(settings) = settings {
                        self.reconfigure(*settings);
                    }
                    self.record(&sample);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.flush_when_due();
        }
        if let State::Open { file, .. } = self.state
            && let Err(error) = file.finish()
        {
            tracing::warn!(%error, "the capture could not be ended properly");
        }
    }

    /// A file says in its first line how its samples are judged, so these begin
    /// another.
    fn reconfigure(&mut self, settings: Settings) {
        self.header.settings = settings;
        if matches!(self.state, State::Open { .. }) {
            self.rotate();
        }
    }

    fn record(&mut self, sample: &Sample) {
        self.line.clear();
        // A time that is no number would not come back as one.
        if !sample.t.is_finite() || serde_json::to_writer(&mut self.line, sample).is_err() {
            self.health.lost(LOST_SOURCE, 0.0, "malformed", 1);
            return;
        }
        self.line.push(b'\n');
        if let State::Paused { until } = self.state {
            if now() < until {
                self.health.lost(LOST_SOURCE, sample.t, "write_failed", 1);
                return;
            }
            if let Err(error) = self.open() {
                self.pause(sample.t, 1, &error);
                return;
            }
        }
        let State::Open {
            file, unflushed, ..
        } = &mut self.state
        else {
            return;
        };
        *unflushed += 1;
        if let Err(error) = file.write(&self.line) {
            let lost = *unflushed;
            self.pause(sample.t, lost, &error);
        }
    }

    fn open(&mut self) -> io::Result<()> {
        match files::clean(&self.directory, self.retention, wall()) {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "old captures removed"),
            Err(error) => tracing::warn!(%error, "old captures could not be removed"),
        }
        fs::create_dir_all(&self.directory)?;
        let mut line = serde_json::to_vec(&self.header)?;
        line.push(b'\n');
        let mut file = CaptureFile::create(&self.directory, wall())?;
        if let Err(error) = file.write(&line).and_then(|()| file.flush()) {
            file.abandon();
            return Err(error);
        }
        self.header.part += 1;
        self.state = State::Open {
            file,
            since: now(),
            flushed: now(),
            unflushed: 0,
        };
        Ok(())
    }

    /// Hands over what is due, and ends a file that is old or full.
    fn flush_when_due(&mut self) {
        let State::Open {
            file,
            since,
            flushed,
            unflushed,
        } = &mut self.state
        else {
            return;
        };
        if flushed.elapsed() < FLUSH_EVERY {
            return;
        }
        if let Err(error) = file.flush() {
            let lost = *unflushed;
            self.pause(unix_now(), lost, &error);
            return;
        }
        *flushed = now();
        *unflushed = 0;
        if file.is_full() || since.elapsed() >= FILE_AGE {
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        let next = State::Paused { until: now() };
        if let State::Open { file, .. } = std::mem::replace(&mut self.state, next)
            && let Err(error) = file.finish()
        {
            self.pause(unix_now(), 0, &error);
        }
    }

    /// Gives the file up and waits. `lost` samples were in it and not yet on
    /// the disk.
    fn pause(&mut self, t: f64, lost: u64, error: &io::Error) {
        let until = now() + self.retry_after;
        tracing::warn!(
            directory = %self.directory.display(),
            "the capture cannot be written: {error}; free space or the way to it, \
             it is tried again every {} s",
            self.retry_after.as_secs()
        );
        if lost > 0 {
            self.health.lost(LOST_SOURCE, t, "write_failed", lost);
        }
        if let State::Open { file, .. } =
            std::mem::replace(&mut self.state, State::Paused { until })
        {
            file.abandon();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "paces the writing of files")]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "files are named after the time and kept by it"
)]
fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::sample::{PostgresReport, Report};

    fn sample(t: f64) -> Sample {
        let report = PostgresReport {
            target: "main".into(),
            ..PostgresReport::default()
        };
        Sample {
            t,
            report: Report::Postgres(report),
        }
    }

    fn lines(directory: &Path) -> Vec<String> {
        let mut text = String::new();
        let mut paths: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            let file = fs::File::open(path).unwrap();
            let mut decoder = zstd::Decoder::new(file).unwrap();
            decoder.read_to_string(&mut text).unwrap();
        }
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn every_sample_is_there_in_order_behind_the_header() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            targets: vec!["main".into()],
            poolers_complete: true,
            ..Settings::default()
        };
        let health = Health::new();
        let hour = Duration::from_secs(3600);
        let mut recorder = Recorder::start(directory.path(), hour, &settings, &health).unwrap();
        let samples = [3.0, 1.000_000_1, 2.0].map(sample);
        samples.iter().for_each(|sample| recorder.offer(sample));
        recorder.offer(&sample(f64::NAN));
        recorder.finish().await;
        let lines = lines(&directory.path().join(super::super::DIRECTORY));
        let header: Header = serde_json::from_str(&lines[0]).unwrap();
        let run = header.run.as_deref().unwrap();
        assert_eq!(header, Header::new(&settings, run));
        let read: Vec<Sample> = lines[1..]
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(read, samples);
        assert_eq!(health.losses(), [(("capture", "malformed"), 1)]);
    }

    #[test]
    fn a_directory_that_goes_and_comes_back_loses_only_what_fell_between() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("captures");
        let mut tape = Tape {
            directory: directory.clone(),
            retention: Duration::from_secs(3600),
            header: Header::new(&Settings::default(), "1"),
            health: Health::new(),
            retry_after: Duration::ZERO,
            state: State::Paused { until: now() },
            line: Vec::new(),
        };
        fs::write(&directory, "in the way").unwrap();
        tape.record(&sample(1.0));
        tape.record(&sample(2.0));
        fs::remove_file(&directory).unwrap();
        tape.record(&sample(3.0));
        assert_eq!(tape.health.losses(), [(("capture", "write_failed"), 2)]);
        tape.rotate();
        tape.record(&sample(4.0));
        tape.rotate();
        let lines = lines(&directory);
        assert_eq!(lines.len(), 4);
        let header: Header = serde_json::from_str(&lines[2]).unwrap();
        assert_eq!(header.part, 1, "each file has its number");
    }
}
