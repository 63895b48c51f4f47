//! The daemon's log behind a bounded queue: a pipe that nobody reads stops the
//! log, and nothing else.
//!
//! Invariants: who logs never waits; what does not fit is dropped, and the next
//! line that gets through says how many were; a thread of its own writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines on their way: some minutes of a bad day. A line is a few hundred bytes.
const QUEUE: usize = 2_048;

/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_millis(300);

/// How long the reason why the daemon ends may take: it is what somebody needs
/// most, on a machine that may be busy.
const LAST_WORDS: Duration = Duration::from_secs(2);

enum Entry {
    Line(Vec<u8>),
    /// Everything before it is written.
    Mark(SyncSender<()>),
}

/// The way to the thread that writes. Clones share it.
#[derive(Clone)]
pub struct LogQueue {
    entries: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl LogQueue {
    /// Writes to `out` from now on. `notice` is the line that tells how many were
    /// dropped.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(out: impl Write + Send + 'static, notice: fn(u64) -> String) -> io::Result<Self> {
        let (entries, inbox) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&inbox, out, &counted, notice))?;
        Ok(Self { entries, dropped })
    }

    /// Waits until all is written, though not for long: nobody may be reading.
    pub fn finish(&self) {
        self.wait(LAST_LINES);
    }

    /// Writes a line that is no log line, behind those that are, and waits for
    /// it, though not for long.
    pub fn last_words(&self, text: &str) {
        let line = format!("{text}\n").into_bytes();
        if self.entries.try_send(Entry::Line(line)).is_ok() {
            self.wait(LAST_WORDS);
        }
    }

    fn wait(&self, limit: Duration) {
        let (mark, written) = sync_channel(1);
        if self.entries.try_send(Entry::Mark(mark)).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }
}

/// What cannot be written there can be told nowhere else.
fn write_all(
    entries: &Receiver<Entry>,
    mut out: impl Write,
    dropped: &AtomicU64,
    notice: fn(u64) -> String,
) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                let _ = out.write_all(&line);
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(out, "{}", notice(lost));
                }
            }
            Entry::Mark(mark) => {
                let _ = out.flush();
                let _ = mark.try_send(());
            }
        }
    }
}

impl Write for LogQueue {
    /// A whole line at a time, as the subscriber writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Takes lines once it is told to.
    struct Pipe {
        open: Receiver<()>,
        lines: Arc<Mutex<String>>,
        is_open: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_open {
                let _ = self.open.recv();
                self.is_open = true;
            }
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_drops_lines_and_says_how_many() {
        let (read, open): (Sender<()>, _) = channel();
        let lines = Arc::new(Mutex::new(String::new()));
        let pipe = Pipe {
            open,
            lines: Arc::clone(&lines),
            is_open: false,
        };
        let mut queue = LogQueue::start(pipe, |lost| format!("{lost} lines dropped")).unwrap();
        // One more than it holds may be in the writer's hands already.
        for n in 0..QUEUE + 101 {
            queue.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        queue.finish();
        read.send(()).unwrap();
        let said = loop {
            let text = lines.lock().unwrap().clone();
            if let Some(at) = text.find(" lines dropped") {
                break text[..at].to_owned();
            }
            std::thread::yield_now();
        };
        let lost: usize = said.rsplit('\n').next().unwrap().parse().unwrap();
        assert!((100..=101).contains(&lost), "{said}");
        queue.write_all(b"the last\n").unwrap();
        while !lines.lock().unwrap().ends_with("the last\n") {
            queue.finish();
        }
    }
}
