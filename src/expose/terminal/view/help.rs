//! The keys, and where else the same can be seen.

use super::page::{Page, piece, plain};
use crate::expose::terminal::model::Model;
use crate::expose::terminal::text::{pad, safe};

const KEYS: [(&str, &str); 15] = [
    ("1 2 3 4 5", "Now, Incident, Locks, Routes, History"),
    ("Tab, Shift-Tab", "the next view, the one before"),
    (
        "j k, arrows",
        "the next entry, the one before; lines where there is none",
    ),
    ("PgDn PgUp, space b", "a page down, a page up"),
    ("Home End, g G", "the first, the last"),
    (
        "Enter",
        "open the incident; all of a lock, a route, a server",
    ),
    ("c", "the command as it is, on one line, to be copied"),
    ("Esc", "back; clears the filter first"),
    ("/", "show only what has these words"),
    ("s", "the next order of the list"),
    ("p", "pause: nothing moves until p again"),
    ("Ctrl-L", "draw all anew"),
    ("Ctrl-Z", "stop; fg goes on"),
    ("?", "this"),
    ("q, Ctrl-C", "leave"),
];

pub(super) fn page(model: &Model, columns: usize) -> Page {
    let mut page = Page::new(columns, model.palette);
    let palette = model.palette;
    page.heading("Keys");
    for (keys, words) in KEYS {
        page.line(vec![
            piece(pad(keys, 20), palette.name()),
            plain(words.to_owned()),
        ]);
    }
    page.blank();
    page.heading("Signs");
    page.line(vec![plain(
        "▲ critical  ◆ warning  ● calm  ○ not known  ✓ over",
    )]);
    page.line(vec![plain(
        "In use: █ now, ░ what is normal, ┊ what is expected. Sessions: ┊ the limit.",
    )]);
    page.blank();
    page.heading("Where this comes from");
    page.line(vec![plain(safe(&model.source))]);
    if let Some(known) = &model.now {
        page.line(vec![plain(format!("snowpit {}", safe(&known.version)))]);
    }
    page.line(vec![piece(
        "The page at the same address shows the same; snowpit locks looks once.",
        palette.quiet(),
    )]);
    page
}
