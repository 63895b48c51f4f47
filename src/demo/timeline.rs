//! What the demo tells while it runs: one line an event, with the seconds since
//! the start, and a progress line while it waits.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// A line of progress this often where it cannot be rewritten in place.
const QUIET_PROGRESS: Duration = Duration::from_secs(10);

/// What kind of event a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Ready,
    Staged,
    Detected,
    Named,
    Acted,
    Resolved,
    Wrong,
}

impl Mark {
    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Staged => "staged",
            Self::Detected => "detected",
            Self::Named => "named",
            Self::Acted => "acted",
            Self::Resolved => "resolved",
            Self::Wrong => "wrong",
        }
    }

    /// An ANSI colour.
    fn colour(self) -> &'static str {
        match self {
            Self::Ready => "2",
            Self::Staged => "33",
            Self::Detected | Self::Named => "36",
            Self::Acted => "35",
            Self::Resolved => "32",
            Self::Wrong => "31",
        }
    }
}

/// The timeline. Writes to stdout, or to stderr when stdout is kept for JSON.
#[derive(Debug)]
pub(super) struct Timeline {
    start: Instant,
    to_stderr: bool,
    terminal: bool,
    colours: bool,
    progress: Option<Instant>,
    /// Which of several stacks tells, where there are several.
    stack: Option<u32>,
}

impl Timeline {
    pub(super) fn start(to_stderr: bool) -> Self {
        let terminal = if to_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            start: Instant::now(),
            to_stderr,
            terminal,
            colours: terminal && !no_colour,
            progress: None,
            stack: None,
        }
    }

    /// The same timeline for one stack, whose lines carry its number.
    pub(super) fn of_stack(&self, stack: Option<u32>) -> Self {
        Self {
            stack,
            progress: None,
            ..*self
        }
    }

    /// Seconds since the start.
    pub(super) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A line without a time.
    pub(super) fn say(&mut self, text: &str) {
        self.write(&format!("{text}\n"));
        self.progress = None;
    }

    /// What is staged next.
    pub(super) fn title(&mut self, name: &str, description: &str) {
        let (stack, name) = (self.stack_mark(), self.paint("1", name));
        let blank = if self.stack.is_none() { "\n" } else { "" };
        self.say(&format!("{blank}{stack}{name}: {description}"));
    }

    fn stack_mark(&self) -> String {
        self.stack
            .map_or_else(String::new, |stack| format!("[{stack}] "))
    }

    /// An event, now.
    pub(super) fn tell(&mut self, mark: Mark, text: &str) {
        let word = self.paint(mark.colour(), &format!("{:<9}", mark.word()));
        let stack = self.stack_mark();
        self.write(&format!(
            "{:>6.1} s  {stack}{word} {text}\n",
            self.seconds()
        ));
        self.progress = None;
    }

    /// A detail of the event before.
    pub(super) fn detail(&mut self, text: &str) {
        let text = self.paint("2", text);
        let stack = self.stack_mark();
        self.write(&format!("{:9}{stack}{:10} {text}\n", "", ""));
    }

    /// What is waited for: rewritten in place on a terminal, else a line every
    /// ten seconds; of several stacks nothing is.
    pub(super) fn progress(&mut self, text: &str) {
        if self.stack.is_some() {
            return;
        }
        if self.terminal {
            let text = self.paint("2", text);
            self.write(&format!("{:>6.1} s  … {text}", self.seconds()));
            return;
        }
        let last = *self.progress.get_or_insert_with(Instant::now);
        if last.elapsed() >= QUIET_PROGRESS {
            self.write(&format!("{:>6.1} s  … {text}\n", self.seconds()));
            self.progress = Some(Instant::now());
        }
    }

    /// Takes a progress line away.
    pub(super) fn clear(&self) {
        self.write("");
    }

    /// Text in a colour, where colours are wanted.
    pub(super) fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn write(&self, text: &str) {
        // On a terminal each write takes the place of a progress line.
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let line = format!("{clear}{text}");
        // A closed pipe must not stop the demo from cleaning up.
        let _ = if self.to_stderr {
            write_out(std::io::stderr(), &line)
        } else {
            write_out(std::io::stdout(), &line)
        };
    }
}

fn write_out(mut out: impl Write, text: &str) -> std::io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}
