//! The terminal while it is taken over: the alternate screen, keys read one by
//! one, signals; and everything as it was afterwards, however it ends.
//!
//! The only file of this room that touches a terminal. Drawing may block, when
//! the terminal at the other end of a line stands still: it is done on the main
//! thread, where no other task runs.

use std::io::{self, Stdout, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::event::{self, Event};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::Pid;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::keys::{Key, key_of};

/// How long the thread that reads keys may outlive the screen.
const KEY_PAUSE: Duration = Duration::from_millis(100);

/// Keys that wait to be taken in; more are nobody's typing.
const MAX_KEYS: usize = 64;

/// Panics of other threads that are told afterwards.
const MAX_PANICS: usize = 10;

/// Whether the alternate screen is on. A process has one terminal, and whoever
/// panics must know as well.
static ALTERNATE: AtomicBool = AtomicBool::new(false);

/// What happened at the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    Key(Key),
    /// Another size, or somebody else wrote on it: all is to be drawn anew.
    Changed,
    /// A signal to stop for a while.
    Stop,
    /// It goes on after a stop.
    Continue,
    /// A signal to end, or there is no terminal any more.
    End,
}

/// The terminal, taken over.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    keys: mpsc::Receiver<Happening>,
    signals: Signals,
    over: Arc<AtomicBool>,
    /// What other threads said when they panicked.
    panics: Arc<Mutex<Vec<String>>>,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    stop: Signal,
    go_on: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            stop: signal(SignalKind::from_raw(Number::SIGTSTP as i32))?,
            go_on: signal(SignalKind::from_raw(Number::SIGCONT as i32))?,
        })
    }

    async fn next(&mut self) -> Happening {
        tokio::select! {
            _ = self.interrupt.recv() => Happening::End,
            _ = self.terminate.recv() => Happening::End,
            _ = self.hang_up.recv() => Happening::End,
            _ = self.stop.recv() => Happening::Stop,
            _ = self.go_on.recv() => Happening::Continue,
        }
    }
}

impl Screen {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// When it is none, or does not take our settings.
    pub(super) fn open() -> io::Result<Self> {
        let signals = Signals::new()?;
        let (sender, keys) = mpsc::channel(MAX_KEYS);
        let over = Arc::new(AtomicBool::new(false));
        let panics = Arc::new(Mutex::new(Vec::new()));
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        // From here on dropping it puts everything back.
        let screen = Self {
            terminal,
            keys,
            signals,
            over: Arc::clone(&over),
            panics: Arc::clone(&panics),
        };
        tell_panics_outside(panics);
        enter()?;
        thread::Builder::new()
            .name("keys".into())
            .spawn(move || read_keys(&sender, &over))?;
        Ok(screen)
    }

    /// What happens next.
    pub(super) async fn next(&mut self) -> Happening {
        tokio::select! {
            key = self.keys.recv() => key.unwrap_or(Happening::End),
            signal = self.signals.next() => signal,
        }
    }

    /// Shows what `draw` puts into the buffer; only what differs is sent.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn draw<T>(
        &mut self,
        draw: impl FnOnce(Rect, &mut Buffer) -> T,
    ) -> io::Result<Option<T>> {
        let mut drawn = None;
        self.terminal.draw(|frame| {
            let area = frame.area();
            drawn = Some(draw(area, frame.buffer_mut()));
        })?;
        Ok(drawn)
    }

    /// The next drawing sends all of it.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }

    /// Leaves the alternate screen and writes these lines below what was there
    /// before. [`go_on`](Self::go_on) comes back.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn write_aside(&mut self, lines: &[String]) -> io::Result<()> {
        leave_alternate()?;
        let mut out = io::stdout().lock();
        for line in lines {
            // Keys are still read one by one: a line begins where it is told to.
            write!(out, "{line}\r\n")?;
        }
        out.flush()
    }

    /// Gives the terminal back and stops, as the driver of a terminal stops a
    /// program: with all of its group. The signal to go on takes it over again.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        leave();
        kill(Pid::from_raw(0), Number::SIGSTOP).map_err(io::Error::from)
    }

    /// Takes the terminal over again: a shell had it in between.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn go_on(&mut self) -> io::Result<()> {
        disable_raw_mode()?;
        enter()?;
        self.forget()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        leave();
        if !thread::panicking() {
            // Ours is not needed any more; what was there before is the usual one.
            drop(panic::take_hook());
        }
        let told = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        for words in told.iter() {
            crate::cli::complain(words);
        }
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    ALTERNATE.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, Hide)
}

/// Once: a second time the cursor would go to where it was when the screen was
/// taken, over what was written since.
fn leave_alternate() -> io::Result<()> {
    if ALTERNATE.swap(false, Ordering::SeqCst) {
        execute!(io::stdout(), Show, LeaveAlternateScreen)?;
    }
    Ok(())
}

/// A terminal that is gone needs nothing put back.
fn leave() {
    let _ = leave_alternate();
    let _ = disable_raw_mode();
}

/// A panic of this thread is told on the terminal as it was before; one of
/// another thread, which does not end the program, when the screen is closed.
fn tell_panics_outside(panics: Arc<Mutex<Vec<String>>>) {
    let usual = panic::take_hook();
    let owner = thread::current().id();
    panic::set_hook(Box::new(move |info| {
        if thread::current().id() == owner {
            leave();
            usual(info);
            return;
        }
        let mut told = panics.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_PANICS {
            told.push(format!("snowpit: {info}"));
        }
    }));
}

/// Blocks, and so has a thread of its own.
fn read_keys(keys: &mpsc::Sender<Happening>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let happened = match event::poll(KEY_PAUSE) {
            Ok(false) => continue,
            Ok(true) => event::read().map(|event| happening_of(&event)),
            Err(error) => Err(error),
        };
        match happened {
            Ok(None) => {}
            // A key beyond the limit is lost; leaving must not be.
            Ok(Some(Happening::Key(Key::Interrupt))) | Err(_) => {
                let _ = keys.blocking_send(Happening::End);
                return;
            }
            Ok(Some(happened)) => {
                let _ = keys.try_send(happened);
            }
        }
    }
}

fn happening_of(event: &Event) -> Option<Happening> {
    match event {
        Event::Resize(..) => Some(Happening::Changed),
        Event::Key(key) => key_of(*key).map(Happening::Key),
        _ => None,
    }
}
