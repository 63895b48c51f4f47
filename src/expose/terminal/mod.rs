//! `snowpit top`: what a daemon knows, on a terminal.
//!
//! `model` is all that is known and where somebody looks, `view` makes the
//! screen of it; both are pure. `asking` asks the API for what the view needs,
//! through a `door`; `screen` is the terminal.
//! Invariants: text from outside goes through `text` before it is drawn; what is
//! shown says how old it is when nobody answers.

mod answers;
mod asking;
mod door;
mod keys;
mod model;
mod palette;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod view;
mod words;

use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::observe::poll::unix_now;
pub use door::{Daemon, Door, Refusal};
use model::{Fact, Model, Outcome};
use palette::Palette;
use screen::{Happening, Screen};
use text::safe;
pub use text::safe as plain_line;
use view::Shown;

/// Answers that wait to be shown.
const FACTS: usize = 32;

/// Ages go on while nothing else changes.
const TICK: Duration = Duration::from_secs(1);

/// Somebody who answers, and the first answer.
#[derive(Debug)]
pub struct Heard {
    door: Door,
    first: Fact,
}

/// Asks once, before the terminal is taken over: a mistake in an address is told
/// where it was made.
///
/// # Errors
/// Nobody answers, or it is not snowpit.
pub async fn hear(door: Door) -> Result<Heard, Refusal> {
    let first = asking::answer(&door, &model::first()).await?;
    Ok(Heard { door, first })
}

/// Shows what is known until somebody leaves.
///
/// # Errors
/// When the terminal cannot be taken over, or is gone.
pub async fn run(heard: Heard, colour: bool) -> io::Result<()> {
    let mut model = Model::new(heard.door.source(), Palette::new(colour));
    model.take(heard.first, unix_now());
    let (want, wanted) = watch::channel(model.questions(unix_now()));
    let (sender, mut facts) = mpsc::channel(FACTS);
    let asking = tokio::spawn(asking::ask(heard.door, wanted, sender));
    let mut screen = Screen::open()?;
    let ended = show(&mut screen, &mut model, &mut facts, &want).await;
    asking.abort();
    drop(screen);
    ended
}

async fn show(
    screen: &mut Screen,
    model: &mut Model,
    facts: &mut mpsc::Receiver<Fact>,
    want: &watch::Sender<Vec<model::Question>>,
) -> io::Result<()> {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = Shown::default();
    // Something was written beside the screen; the next key comes back.
    let mut aside = false;
    loop {
        if !aside {
            let now = unix_now();
            let drawn = screen.draw(|area, buffer| view::draw(model, now, area, buffer))?;
            shown = drawn.unwrap_or_default();
            model.tops = shown.tops;
        }
        tokio::select! {
            happening = screen.next() => match happening {
                Happening::End => return Ok(()),
                Happening::Changed => {}
                Happening::Stop => screen.stop()?,
                Happening::Continue => {
                    aside = false;
                    screen.go_on()?;
                }
                Happening::Key(_) if aside => {
                    aside = false;
                    screen.go_on()?;
                }
                Happening::Key(key) => match model.press(key, &shown, unix_now()) {
                    Outcome::Leave => return Ok(()),
                    Outcome::Stay => {}
                    Outcome::Suspend => screen.stop()?,
                    Outcome::Redraw => screen.forget()?,
                    Outcome::Aside(commands) => {
                        screen.write_aside(&lines_aside(&commands))?;
                        aside = true;
                    }
                },
            },
            Some(fact) = facts.recv() => model.take(fact, unix_now()),
            _ = tick.tick() => {}
        }
        while let Ok(fact) = facts.try_recv() {
            model.take(fact, unix_now());
        }
        let questions = model.questions(unix_now());
        want.send_if_modified(|wanted| {
            let changed = *wanted != questions;
            *wanted = questions;
            changed
        });
    }
}

/// Each command on one line, whatever its length: a terminal that breaks it
/// itself copies it whole.
fn lines_aside(commands: &[String]) -> Vec<String> {
    let mut lines = vec![String::new()];
    for command in commands {
        lines.extend([safe(command), String::new()]);
    }
    lines.push("Any key goes back.".to_owned());
    lines
}
