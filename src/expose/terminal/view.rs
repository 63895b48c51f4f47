//! The screen as a function of what is known and of the time: nothing is asked,
//! kept or changed here.
//!
//! A view makes pages of lines; the frame lays them out: one column where the
//! terminal is narrow, two beside each other where it is wide, scrolled so that
//! what is pointed at can be seen.

mod chart;
mod detail;
mod frame;
mod help;
mod history;
mod incident;
mod locks;
mod now;
mod page;
mod parts;
mod routes;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::model::{Model, Over, Place, Subject};
use super::text::fit;
use crate::sample::UnixSeconds;
use page::{Page, plain};

/// From this many columns on two pages stand beside each other.
const WIDE: u16 = 130;

/// Rows above and below the body: views, verdict, keys.
const FRAME: u16 = 3;

/// What was drawn, as far as the next key needs it.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// What can be pointed at, from top to bottom.
    pub(super) entries: Vec<Subject>,
    /// The first line that was shown, by page; of what lies over, the last.
    pub(super) tops: [usize; 3],
    /// How far a page goes: entries, or lines where there are none.
    page: usize,
}

impl Shown {
    /// A page down.
    pub(super) fn page(&self) -> isize {
        isize::try_from(self.page.max(1)).unwrap_or(1)
    }

    pub(super) fn first(&self) -> Option<Subject> {
        self.entries.first().cloned()
    }
}

/// The orders of a view, the usual one first; `s` goes on to the next.
pub(super) fn orders(place: Place) -> &'static [&'static str] {
    match place {
        Place::Now => &["trouble", "use"],
        Place::Locks => &["what needs somebody", "the longest"],
        Place::Routes => &routes::ORDERS,
        Place::History => &history::ORDERS,
        Place::Incident => &[],
    }
}

/// What can be typed about a subject.
pub(super) fn commands(model: &Model, subject: &Subject) -> Vec<String> {
    let mut all = match subject {
        Subject::Incident(id) => {
            let now = model.now.iter().flat_map(|now| &now.incidents);
            let past = model.history.data.iter().flat_map(|known| &known.incidents);
            let one = now.chain(past).find(|one| one.id == *id);
            one.map(|one| one.actions.clone()).unwrap_or_default()
        }
        Subject::Root(..) => locks::root(model, subject)
            .map(|(_, root)| root.action.clone())
            .into_iter()
            .collect(),
        Subject::Advisory(..) => locks::lock(model, subject)
            .map(|(_, lock)| lock.action.clone())
            .into_iter()
            .collect(),
        Subject::Target(_) | Subject::Route(..) => Vec::new(),
    };
    all.retain(|command| !command.is_empty());
    all
}

/// Draws all of it at `now`, by our clock.
pub fn draw(model: &Model, now: UnixSeconds, area: Rect, buffer: &mut Buffer) -> Shown {
    let mut shown = Shown::default();
    if area.width < 20 || area.height <= FRAME {
        let words = fit("snowpit: too small", usize::from(area.width));
        put(buffer, area, 0, &Line::raw(words));
        return shown;
    }
    let body = Rect {
        y: area.y + 2,
        height: area.height - FRAME,
        ..area
    };
    let below = match &model.over {
        Some(over) => {
            let columns = usize::from(body.width).saturating_sub(1).min(120);
            let mut page = match over {
                Over::Help => help::page(model, columns),
                Over::Whole(subject) => detail::page(model, subject, now, columns),
            };
            page.entries.clear();
            shown.page = usize::from(body.height).saturating_sub(1);
            let (top, below) = draw_page(&page, model, model.tops[2], body, buffer);
            shown.tops = [model.tops[0], model.tops[1], top];
            below
        }
        None => draw_view(model, now, body, buffer, &mut shown),
    };
    frame::draw(model, now, area, below, buffer);
    shown
}

/// The view that is looked at. Gives the lines that are left below.
fn draw_view(
    model: &Model,
    now: UnixSeconds,
    body: Rect,
    buffer: &mut Buffer,
    shown: &mut Shown,
) -> usize {
    let wide = body.width >= WIDE;
    let parts = if wide { halves(body) } else { [body, body] };
    // One column is for the mark of what is pointed at.
    let columns = parts.map(|part| usize::from(part.width).saturating_sub(2));
    let at = model.server_now(now);
    let single = |page: Page| vec![page];
    let pages = match model.place {
        Place::Now => now::pages(model, at, columns).into(),
        Place::Incident => incident::pages(model, at, columns).into(),
        Place::Locks => locks::pages(model, at, columns).into(),
        Place::Routes => single(routes::page(model, usize::from(body.width) - 2)),
        Place::History => single(history::page(model, at, usize::from(body.width) - 2)),
    };
    let pages: Vec<Page> = if wide {
        let told = pages.into_iter().filter(|page| !page.lines.is_empty());
        told.collect()
    } else {
        pages.into_iter().reduce(Page::below).into_iter().collect()
    };
    for page in &pages {
        let subjects = page.entries.iter().map(|(subject, _)| subject.clone());
        shown.entries.extend(subjects);
    }
    let mut below = 0;
    let mut seen = 0;
    for (index, page) in pages.iter().enumerate() {
        let part = if pages.len() == 1 { body } else { parts[index] };
        let (top, left) = draw_page(page, model, model.tops[index], part, buffer);
        shown.tops[index] = top;
        below = below.max(left);
        let end = top + usize::from(part.height);
        let visible = page
            .entries
            .iter()
            .filter(|(_, rows)| rows.start >= top && rows.end <= end);
        seen += visible.count();
        if index > 0 {
            for y in part.top()..part.bottom() {
                buffer.set_span(part.x - 1, y, &page::piece("│", model.palette.quiet()), 1);
            }
        }
    }
    shown.page = if shown.entries.is_empty() {
        usize::from(body.height).saturating_sub(1)
    } else {
        seen
    };
    below
}

fn halves(body: Rect) -> [Rect; 2] {
    let left = body.width / 2;
    [
        Rect {
            width: left - 1,
            ..body
        },
        Rect {
            x: body.x + left,
            width: body.width - left,
            ..body
        },
    ]
}

/// Draws as many lines of a page as fit, those that are pointed at among them.
/// Gives the first line that is shown, and how many are left below.
fn draw_page(
    page: &Page,
    model: &Model,
    top: usize,
    area: Rect,
    buffer: &mut Buffer,
) -> (usize, usize) {
    let room = usize::from(area.height);
    let last = page.lines.len().saturating_sub(room);
    let mut top = top.min(last);
    let pointed = model.pointed.as_ref().and_then(|pointed| {
        let at = page
            .entries
            .iter()
            .position(|(subject, _)| subject == pointed)?;
        Some((at, page.entries[at].1.clone()))
    });
    if let Some((at, rows)) = &pointed {
        if at + 1 == page.entries.len() && page.lines.len() - rows.start <= room {
            top = last;
        } else if *at == 0 && rows.end <= room {
            top = 0;
        } else if rows.start < top || rows.len() > room {
            top = rows.start;
        } else if rows.end > top + room {
            top = rows.end - room;
        }
        top = top.min(last);
    }
    for (row, line) in page.lines.iter().skip(top).take(room).enumerate() {
        let at = top + row;
        let y = area.y + u16::try_from(row).unwrap_or(u16::MAX);
        let is_pointed = pointed.as_ref().is_some_and(|(_, rows)| rows.contains(&at));
        let mark = if is_pointed { "▌" } else { " " };
        buffer.set_span(area.x, y, &page::piece(mark, model.palette.strong()), 1);
        buffer.set_line(area.x + 1, y, line, area.width.saturating_sub(1));
    }
    (top, page.lines.len().saturating_sub(top + room))
}

/// One row of the area.
fn put(buffer: &mut Buffer, area: Rect, row: u16, line: &Line<'_>) {
    if row < area.height {
        buffer.set_line(area.x, area.y + row, line, area.width);
    }
}

/// A row of blanks, so that a style covers all of it.
fn filled(mut line: Line<'static>, columns: usize) -> Line<'static> {
    let missing = columns.saturating_sub(line.width());
    line.push_span(plain(" ".repeat(missing)));
    line
}
