//! The terminal while `snowpit locks --watch` has it: the alternate screen, keys
//! read one by one, and everything as it was afterwards, however it ends.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::Print;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use tokio::sync::mpsc;

/// How long the thread that reads keys may outlive the screen.
const KEY_PAUSE: Duration = Duration::from_millis(100);

/// Keys that wait to be taken in. More are nobody's typing.
const MAX_KEYS: usize = 16;

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Leave,
    /// Another size: what is shown must be laid out anew.
    Redraw,
    /// Down by so many lines, up when negative.
    Scroll(isize),
    /// Down by so many screens.
    Page(isize),
}

/// The terminal, taken over.
pub struct Screen {
    wishes: mpsc::Receiver<Wish>,
    over: Arc<AtomicBool>,
}

impl Screen {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// When it is none, or does not take our settings.
    pub fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        let (sender, wishes) = mpsc::channel(MAX_KEYS);
        let over = Arc::new(AtomicBool::new(false));
        // From here on dropping it puts everything back.
        let screen = Self {
            wishes,
            over: Arc::clone(&over),
        };
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        std::thread::Builder::new()
            .name("keys".into())
            .spawn(move || read_keys(&sender, &over))?;
        Ok(screen)
    }

    /// The next wish; `None` when no more can be read.
    pub async fn wish(&mut self) -> Option<Wish> {
        self.wishes.recv().await
    }

    /// Shows the lines from `top` on, with `status` below them. Gives the line
    /// that is shown first: beyond the last screen there is nothing.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(lines: &[String], top: usize, status: &str) -> io::Result<usize> {
        let (columns, rows) = size();
        let room = rows.saturating_sub(1).max(1);
        let top = top.min(lines.len().saturating_sub(room));
        let mut out = io::stdout().lock();
        for row in 0..room {
            let line = lines.get(top + row).map_or("", String::as_str);
            put(&mut out, row, line)?;
        }
        let hidden = lines.len().saturating_sub(top + room);
        let more = match hidden {
            0 => String::new(),
            _ => format!("{hidden} more lines below; "),
        };
        let status: String = format!("{more}{status}").chars().take(columns).collect();
        put(&mut out, room, &status)?;
        out.flush()?;
        Ok(top)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // A terminal that is gone needs nothing put back.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Columns and rows; a terminal that does not tell is taken for the classic one.
pub fn size() -> (usize, usize) {
    match crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => (columns.into(), rows.into()),
        _ => (80, 24),
    }
}

fn put(out: &mut impl Write, row: usize, line: &str) -> io::Result<()> {
    let row = u16::try_from(row).unwrap_or(u16::MAX);
    queue!(
        out,
        MoveTo(0, row),
        Print(line),
        Clear(ClearType::UntilNewLine)
    )
}

/// Blocks, and so has a thread of its own.
fn read_keys(wishes: &mpsc::Sender<Wish>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let wish = match event::poll(KEY_PAUSE) {
            Ok(false) => continue,
            Ok(true) => event::read().map(|event| wish_of(&event)),
            Err(error) => Err(error),
        };
        match wish {
            Ok(None) => {}
            // A key beyond the limit is lost; leaving must not be.
            Ok(Some(Wish::Leave)) | Err(_) => {
                let _ = wishes.blocking_send(Wish::Leave);
                return;
            }
            Ok(Some(wish)) => {
                let _ = wishes.try_send(wish);
            }
        }
    }
}

fn wish_of(event: &Event) -> Option<Wish> {
    match event {
        Event::Resize(..) => Some(Wish::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => key_wish(*key),
        _ => None,
    }
}

fn key_wish(key: KeyEvent) -> Option<Wish> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => Some(Wish::Leave),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Leave),
        KeyCode::Char('j') | KeyCode::Down => Some(Wish::Scroll(1)),
        KeyCode::Char('k') | KeyCode::Up => Some(Wish::Scroll(-1)),
        KeyCode::Char(' ') | KeyCode::PageDown => Some(Wish::Page(1)),
        KeyCode::Char('b') | KeyCode::PageUp => Some(Wish::Page(-1)),
        _ => None,
    }
}

/// Lines as they fall on a terminal of so many columns: a command that is longer
/// goes on in the next row.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let chars: Vec<char> = line.chars().collect();
        if chars.is_empty() {
            rows.push(String::new());
        }
        rows.extend(
            chars
                .chunks(columns.max(1))
                .map(|row| row.iter().collect::<String>()),
        );
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> Event {
        Event::Key(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn keys_are_wishes() {
        let plain = KeyModifiers::NONE;
        let leave = Some(Wish::Leave);
        assert_eq!(wish_of(&key(KeyCode::Char('q'), plain)), leave);
        assert_eq!(
            wish_of(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            leave
        );
        assert_eq!(wish_of(&key(KeyCode::Char('c'), plain)), None);
        assert_eq!(wish_of(&key(KeyCode::Down, plain)), Some(Wish::Scroll(1)));
        assert_eq!(wish_of(&Event::Resize(80, 24)), Some(Wish::Redraw));
    }

    #[test]
    fn long_lines_go_on_in_the_next_row() {
        assert_eq!(wrap("abcdef\n\ngh", 4), ["abcd", "ef", "", "gh"]);
        assert_eq!(wrap("äöü", 2), ["äö", "ü"]);
    }
}
