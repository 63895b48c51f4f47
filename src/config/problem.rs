//! What is wrong with a configuration, told like a compiler tells it.
//!
//! Problems are collected while the file is read, so that one look shows all
//! of them. Invariant: a report never shows a secret. A message quotes what the
//! file says, never the value of an environment variable, and the printed line
//! is cut wherever it could hold a password.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// More than this is noise: the first ones usually cause the rest.
const REPORT_LIMIT: usize = 50;

/// Longest piece of a source line that is printed, in characters.
const LINE_LIMIT: usize = 160;

/// Everything that is wrong with one configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    left_out: usize,
}

/// One mistake and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, or the option of the command line.
    pub origin: String,
    /// One sentence: what is wrong, and what to do about it.
    pub message: String,
    /// Absent when the mistake is something that the file lacks.
    pub place: Option<Place>,
}

/// A place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line, cut where it could hold a secret.
    shown: String,
    /// Where the carets begin in `shown`, and how many there are.
    carets: (usize, usize),
}

impl ConfigErrors {
    /// A single mistake that has no place in a file.
    pub(super) fn lone(origin: &str, message: impl Into<String>) -> Self {
        Self {
            errors: vec![ConfigError {
                origin: origin.to_owned(),
                message: message.into(),
                place: None,
            }],
            left_out: 0,
        }
    }

    /// The mistakes, at most 50.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.left_out > 0 {
            write!(f, "\n… and {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else {
            return write!(f, "{}: {}", self.origin, self.message);
        };
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        let (start, width) = place.carets;
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.origin, place.line, place.column, self.message
        )?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", place.shown)?;
        write!(
            f,
            "{margin} | {}{}",
            " ".repeat(start),
            "^".repeat(width.max(1))
        )
    }
}

/// How much of the line may be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// The marked span is plain: a name, a number, a duration.
    Span,
    /// The marked span is a key whose value is nobody's business.
    Key,
    /// The marked span may hold a password: nothing of it is printed.
    Nothing,
    /// Not even the syntax is known to be right.
    Syntax,
}

/// The collector that every reader of the file adds to.
#[derive(Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Found>>,
    warnings: RefCell<Vec<String>>,
}

struct Found {
    span: Option<Range<usize>>,
    show: Show,
    message: String,
}

impl Problems {
    pub(super) fn at(&self, span: Range<usize>, show: Show, message: impl Into<String>) {
        self.found.borrow_mut().push(Found {
            span: Some(span),
            show,
            message: message.into(),
        });
    }

    /// For something that is missing from the whole file.
    pub(super) fn anywhere(&self, message: impl Into<String>) {
        self.found.borrow_mut().push(Found {
            span: None,
            show: Show::Span,
            message: message.into(),
        });
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        self.warnings.borrow_mut().push(message.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The warnings when nothing is wrong, else everything that is.
    pub(super) fn finish(self, origin: &str, text: &str) -> Result<Vec<String>, ConfigErrors> {
        let mut found = self.found.into_inner();
        if found.is_empty() {
            return Ok(self.warnings.into_inner());
        }
        found.sort_by_key(|problem| problem.span.as_ref().map_or(usize::MAX, |span| span.start));
        let left_out = found.len().saturating_sub(REPORT_LIMIT);
        found.truncate(REPORT_LIMIT);
        let errors = found
            .into_iter()
            .map(|problem| ConfigError {
                origin: origin.to_owned(),
                place: problem.span.map(|span| place(text, span, problem.show)),
                message: problem.message,
            })
            .collect();
        Err(ConfigErrors { errors, left_out })
    }
}

/// The end of an error sentence: `; did you mean "interval"?`, or nothing when
/// no known word is near.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // A third of the word may be wrong; more is a different word.
    let tolerance = word.chars().count().div_ceil(3);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("; did you mean \"{candidate}\"?"))
        .unwrap_or_default()
}

fn place(text: &str, span: Range<usize>, show: Show) -> Place {
    let start = floor_boundary(text, span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let end = floor_boundary(text, span.end).clamp(start, line_end);
    let before = &text[line_start..start];
    let (shown, carets) = excerpt(before, &text[start..end], &text[end..line_end], show);
    Place {
        line: text[..line_start].matches('\n').count() + 1,
        column: before.chars().count() + 1,
        shown,
        carets,
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The printed line, and where its carets are. Quoted text outside the span is
/// never printed: it may be somebody's password.
fn excerpt(before: &str, marked: &str, after: &str, show: Show) -> (String, (usize, usize)) {
    if show == Show::Syntax {
        return excerpt_of_bad_syntax(before, marked, after);
    }
    let before = if before.contains(['"', '\'']) {
        "… ".to_owned()
    } else {
        printable(before)
    };
    let marked = match show {
        Show::Nothing => "…".to_owned(),
        _ => printable(marked),
    };
    let after = match show {
        Show::Nothing => String::new(),
        Show::Key => {
            let closing: String = after
                .chars()
                .take_while(|c| matches!(c, ' ' | ']' | '=' | '.'))
                .collect();
            let cut = closing.contains('=') || after.contains('=');
            format!("{}{}", closing, if cut { "…" } else { "" })
        }
        _ if after.contains(['"', '\'']) => " …".to_owned(),
        _ => printable(after),
    };
    let carets = (before.chars().count(), marked.chars().count());
    let line = format!("{before}{marked}{after}");
    (line.trim_end().to_owned(), carets)
}

/// A line that could not be parsed: its value is hidden when its key sounds
/// like a secret, or when it looks like a URL with a password.
fn excerpt_of_bad_syntax(before: &str, marked: &str, after: &str) -> (String, (usize, usize)) {
    const SECRET: [&str; 8] = ["pas", "pw", "secret", "token", "users", "$2", "dsn", "://"];
    let line = printable(&format!("{before}{marked}{after}"));
    let lower = line.to_lowercase();
    let at = before.chars().count();
    let width = marked.chars().count();
    // A long line, or one without a key of its own, may be the inside of a
    // string that began above.
    let hidden = SECRET.iter().any(|word| lower.contains(word)) || !line.contains('=');
    if !hidden {
        return (line.trim_end().to_owned(), (at.min(LINE_LIMIT), width));
    }
    let key: String = match line.split_once('=') {
        Some((key, _)) if !key.contains(['"', '\'', ':', '@']) => format!("{}= ", key),
        _ if line.trim_start().starts_with('[') => return (line, (at, width)),
        _ => String::new(),
    };
    let carets = (at.min(key.chars().count()), 1);
    (format!("{key}…"), carets)
}

/// Cut, and without anything that could steer a terminal.
fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(LINE_LIMIT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LINE_LIMIT).is_some() {
        out.push('…');
    }
    out
}
