//! Lines of a view, and which of them belong to what can be pointed at.

use std::ops::Range;

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::expose::terminal::model::Subject;
use crate::expose::terminal::palette::Palette;
use crate::expose::terminal::text::{break_up, fit, width, wrap, wrap_within};

/// A column of the screen: lines from top to bottom, more than fit.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub lines: Vec<Line<'static>>,
    /// What can be pointed at, and its lines.
    pub entries: Vec<(Subject, Range<usize>)>,
    /// Columns that a line may take.
    pub columns: usize,
    pub palette: Palette,
}

/// One piece of a line.
pub(super) fn piece(text: impl Into<String>, style: Style) -> Span<'static> {
    Span::styled(text.into(), style)
}

/// One piece in the usual style.
pub(super) fn plain(text: impl Into<String>) -> Span<'static> {
    Span::raw(text.into())
}

impl Page {
    pub(super) fn new(columns: usize, palette: Palette) -> Self {
        Self {
            lines: Vec::new(),
            entries: Vec::new(),
            columns,
            palette,
        }
    }

    pub(super) fn blank(&mut self) {
        self.lines.push(Line::default());
    }

    /// A line of pieces that are safe. What is too long is cut.
    pub(super) fn line(&mut self, pieces: Vec<Span<'static>>) {
        let mut left = self.columns;
        let mut kept = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let wide = piece.width();
            if wide <= left {
                left -= wide;
                kept.push(piece);
                continue;
            }
            kept.push(Span::styled(fit(&piece.content, left), piece.style));
            break;
        }
        self.lines.push(Line::from(kept));
    }

    /// A line with something at its right end, before which it gives way.
    pub(super) fn line_and(&mut self, left: Vec<Span<'static>>, right: Vec<Span<'static>>) {
        let wide: usize = right.iter().map(Span::width).sum();
        let whole = self.columns;
        self.columns = whole.saturating_sub(wide + 1);
        self.line(left);
        let used = self.lines.last().map_or(0, Line::width);
        self.columns = whole;
        if let Some(line) = self.lines.last_mut() {
            line.push_span(plain(" ".repeat(whole.saturating_sub(used + wide))));
            for piece in right {
                line.push_span(piece);
            }
        }
    }

    /// A heading over what follows.
    pub(super) fn heading(&mut self, words: &str) {
        let style = self.palette.strong();
        let rule = self.columns.saturating_sub(width(words) + 1);
        self.line(vec![
            piece(words, style),
            piece(format!(" {}", "─".repeat(rule)), self.palette.quiet()),
        ]);
    }

    /// A text from outside, whole, in as many lines as it takes.
    pub(super) fn text(&mut self, indent: usize, text: &str, style: Style) {
        let rows = wrap(text, self.columns.saturating_sub(indent));
        self.rows(indent, rows, style);
    }

    /// A text from outside in at most so many lines.
    pub(super) fn text_within(&mut self, indent: usize, text: &str, style: Style, rows: usize) {
        let rows = wrap_within(text, self.columns.saturating_sub(indent), rows);
        self.rows(indent, rows, style);
    }

    /// What is to be typed, after a sign; at most so many rows of it, which put
    /// together are exactly the command.
    pub(super) fn command(&mut self, indent: usize, command: &str, rows: usize) {
        let begin = self.lines.len();
        let style = self.palette.name();
        let mut broken = break_up(command, self.columns.saturating_sub(indent + 2));
        let more = broken.len().saturating_sub(rows);
        broken.truncate(rows);
        self.rows(indent + 2, broken, style);
        if let Some(first) = self.lines.get_mut(begin) {
            first.spans[0] = piece(format!("{}→ ", " ".repeat(indent)), self.palette.quiet());
        }
        if more > 0 {
            let words = format!(
                "{}… and {more} rows more: c shows all",
                " ".repeat(indent + 2)
            );
            self.line(vec![piece(words, self.palette.quiet())]);
        }
    }

    fn rows(&mut self, indent: usize, rows: Vec<String>, style: Style) {
        for row in rows {
            let blanks = plain(" ".repeat(indent));
            self.lines.push(Line::from(vec![blanks, piece(row, style)]));
        }
    }

    /// What `fill` adds can be pointed at as one.
    pub(super) fn entry(&mut self, subject: Subject, fill: impl FnOnce(&mut Self)) {
        let begin = self.lines.len();
        fill(self);
        self.entries.push((subject, begin..self.lines.len()));
    }

    /// The other page below this one.
    pub(super) fn below(mut self, other: Self) -> Self {
        let begin = self.lines.len();
        self.lines.extend(other.lines);
        let moved = other.entries.into_iter();
        self.entries
            .extend(moved.map(|(subject, rows)| (subject, rows.start + begin..rows.end + begin)));
        self
    }
}
