//! `snowpit locks --watch`: look after look through one engine, in place on a
//! terminal, one after the other where there is none.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::screen::{self, Screen, Wish};
use super::{Look, PAUSE, document, exit_status, render, views};
use crate::engine::Snapshot;

/// Looks until a person or a signal ends it; the exit status is that of the last
/// look.
///
/// # Errors
/// When standard output cannot be written.
pub async fn run(look: Look, json: bool) -> anyhow::Result<ExitCode> {
    let mut end = End::new()?;
    let mut looks = Looks::start(look);
    if !json && io::stdout().is_terminal() {
        in_place(&mut looks, &mut end).await?;
    } else {
        one_by_one(&mut looks, json, &mut end).await?;
    }
    let newest = looks.newest.borrow();
    Ok(exit_status(&newest.snapshot))
}

/// What the newest look gave.
#[derive(Debug, Clone, Default)]
struct Shown {
    snapshot: Snapshot,
    /// Of the sources that do not answer.
    errors: Vec<String>,
}

/// Looks that go on by themselves: a key that comes in the middle of one must not
/// end it, for its connections would go with it.
struct Looks {
    newest: watch::Receiver<Shown>,
    task: JoinHandle<()>,
}

impl Looks {
    fn start(mut look: Look) -> Self {
        let (sender, newest) = watch::channel(Shown::default());
        let task = tokio::spawn(async move {
            loop {
                let due = Instant::now() + PAUSE;
                look.round().await;
                let shown = Shown {
                    snapshot: look.engine.snapshot(),
                    errors: look.errors().cloned().collect(),
                };
                if sender.send(shown).is_err() {
                    return;
                }
                sleep_until(due).await;
            }
        });
        Self { newest, task }
    }

    /// False when there will be no more.
    async fn next(&mut self) -> bool {
        self.newest.changed().await.is_ok()
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn one_by_one(looks: &mut Looks, json: bool, end: &mut End) -> anyhow::Result<()> {
    let mut told: Vec<String> = Vec::new();
    loop {
        tokio::select! {
            more = looks.next() => if !more { return Ok(()) },
            () = end.comes() => return Ok(()),
        }
        let shown = looks.newest.borrow_and_update().clone();
        for error in shown.errors.iter().filter(|error| !told.contains(error)) {
            crate::cli::complain(error);
        }
        told = shown.errors;
        let text = if json {
            document(&shown.snapshot)?
        } else {
            page(&shown.snapshot, None)
        };
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            // The reader has seen enough, as `head` has.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
}

async fn in_place(looks: &mut Looks, end: &mut End) -> anyhow::Result<()> {
    let mut screen = Screen::open()?;
    let mut top = 0_usize;
    Screen::draw(&["Looking …".to_owned()], 0, HELP)?;
    loop {
        let mut wish = Wish::Redraw;
        tokio::select! {
            more = looks.next() => if !more { return Ok(()) },
            asked = screen.wish() => wish = asked.unwrap_or(Wish::Leave),
            () = end.comes() => return Ok(()),
        }
        let (columns, rows) = screen::size();
        match wish {
            Wish::Leave => return Ok(()),
            Wish::Redraw => {}
            Wish::Scroll(by) => top = top.saturating_add_signed(by),
            Wish::Page(by) => {
                let page = isize::try_from(rows.saturating_sub(2)).unwrap_or(1);
                top = top.saturating_add_signed(by.saturating_mul(page));
            }
        }
        let shown = looks.newest.borrow_and_update().clone();
        let errors = shown.errors.iter();
        let errors = errors.map(|error| error.replace(|c: char| c.is_control(), " ") + "\n");
        let text = errors.collect::<String>() + &page(&shown.snapshot, Some(columns));
        top = Screen::draw(&screen::wrap(&text, columns), top, HELP)?;
    }
}

const HELP: &str = "q leaves, arrows scroll";

fn page(snapshot: &Snapshot, columns: Option<usize>) -> String {
    let views = views(snapshot);
    if views.is_empty() {
        return "No server answers.\n".to_owned();
    }
    let targets = views.iter();
    targets
        .map(|view| render::target(view, columns) + "\n")
        .collect()
}

/// The signals that end it.
struct End {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl End {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn comes(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
