//! What is around every view: the views and their keys, whether the daemon
//! answers, the verdict of all, and what keys do.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::page::{piece, plain};
use super::parts::{Level, sign};
use super::{filled, orders, put};
use crate::expose::terminal::answers::Now;
use crate::expose::terminal::model::{Link, Model, Place};
use crate::expose::terminal::text::{fit, safe, width};
use crate::expose::terminal::words::{age, clock, number, plural};
use crate::sample::UnixSeconds;

/// `below`: lines that are left below what is shown.
pub(super) fn draw(model: &Model, now: UnixSeconds, area: Rect, below: usize, buffer: &mut Buffer) {
    put(buffer, area, 0, &views(model, now, usize::from(area.width)));
    put(
        buffer,
        area,
        1,
        &verdict(model, now, usize::from(area.width)),
    );
    let keys = keys(model, below, usize::from(area.width));
    put(buffer, area, area.height - 1, &keys);
}

fn views(model: &Model, now: UnixSeconds, columns: usize) -> Line<'static> {
    let palette = model.palette;
    let mut line = Line::from(piece("snowpit ", palette.strong()));
    for (index, place) in Place::ALL.into_iter().enumerate() {
        let words = format!(" {} {} ", index + 1, place.name());
        let style = if place == model.place {
            palette.reversed()
        } else {
            palette.quiet()
        };
        line.push_span(piece(words, style));
    }
    let state = match (&model.paused, &model.link(now)) {
        (Some(_), _) => piece("‖ paused", palette.warning()),
        (None, Link::Waiting) => piece("○ connecting", palette.quiet()),
        (None, Link::Live) => piece("● live", palette.calm()),
        (None, Link::Stale { .. }) => piece("▲ stale", palette.critical()),
    };
    let time = format!(
        " {} UTC",
        clock(model.server_now(now), model.server_now(now))
    );
    let missing = columns.saturating_sub(line.width() + state.width() + width(&time));
    line.push_span(plain(" ".repeat(missing)));
    line.push_span(state);
    line.push_span(piece(time, palette.quiet()));
    line
}

/// In a row, how all is; or that nobody knows.
fn verdict(model: &Model, now: UnixSeconds, columns: usize) -> Line<'static> {
    let palette = model.palette;
    if let Link::Stale { since, why } = &model.link(now)
        && model.paused.is_none()
    {
        let words = if model.now.is_some() {
            format!(
                "Stale since {}, for {}: {} Trying again.",
                clock(*since, now),
                age(now - since),
                sentence(why)
            )
        } else {
            format!("No answer: {} Trying again.", sentence(why))
        };
        let line = Line::from(piece(fit(&words, columns), palette.critical()));
        return filled(line, columns).style(palette.reversed());
    }
    let mut pieces = match &model.now {
        None => vec![piece(
            fit(&format!("Asking {} …", model.source), columns),
            palette.quiet(),
        )],
        Some(known) => of_all(model, known),
    };
    let order = orders(model.place)
        .get(model.sort)
        .filter(|_| model.sort > 0);
    if let Some(order) = order {
        pieces.push(piece(format!("  order: {order}"), palette.name()));
    }
    if !model.filter.is_empty() && !model.typing {
        let words = format!("  filter: {}", safe(&model.filter));
        pieces.push(piece(words, palette.name()));
    }
    Line::from(pieces)
}

fn sentence(why: &str) -> String {
    format!("{}.", why.trim_end_matches('.'))
}

fn of_all(model: &Model, known: &Now) -> Vec<Span<'static>> {
    let palette = model.palette;
    let critical = known
        .incidents
        .iter()
        .filter(|one| one.severity == "critical");
    let critical = critical.count();
    let blind = known.targets.iter().filter(|one| !one.fresh).count();
    let servers = plural(known.targets.len() as f64, "server");
    if known.open_incidents > 0 {
        let level = if critical > 0 {
            Level::Critical
        } else {
            Level::Warning
        };
        let words = format!("{} open", plural(known.open_incidents as f64, "incident"));
        let rest = if critical > 0 {
            format!(", {} critical · {servers}", number(critical as f64))
        } else {
            format!(" · {servers}")
        };
        return vec![sign(level, &words, palette), piece(rest, palette.quiet())];
    }
    if blind > 0 {
        let rest = format!(" · {blind} of {servers} cannot be seen");
        return vec![
            sign(Level::Unknown, "no incident known", palette),
            piece(rest, palette.quiet()),
        ];
    }
    vec![
        sign(Level::Calm, "all is calm", palette),
        piece(format!(" · {servers}, nothing open"), palette.quiet()),
    ]
}

/// What keys do here, as much of it as there is room for.
fn keys(model: &Model, below: usize, columns: usize) -> Line<'static> {
    let palette = model.palette;
    if model.typing {
        let words = "  Enter keeps it, Esc clears it";
        let room = columns.saturating_sub(width(words) + 2);
        // The end of it is what is being typed.
        let filter = safe(&model.filter);
        let mut tail = filter.as_str();
        while width(tail) > room {
            let mut rest = tail.chars();
            rest.next();
            tail = rest.as_str();
        }
        let line = Line::from(vec![
            piece(format!("/{tail}▏"), palette.strong()),
            piece(words, palette.quiet()),
        ]);
        return filled(line, columns);
    }
    let scroll = model.over.is_some() || model.place == Place::Incident;
    let mut words = vec![if scroll { "j k scroll" } else { "j k move" }];
    if model.over.is_some() {
        words.insert(0, "Esc back");
    } else {
        words.insert(0, "1-5 views");
        words.extend(match model.place {
            Place::Now | Place::History => Some("Enter open"),
            Place::Locks | Place::Routes => Some("Enter whole"),
            Place::Incident => None,
        });
        // What is left out in a narrow terminal comes last.
        words.extend(["? help", "q leave"]);
        words.extend(match model.place {
            Place::Incident => &[][..],
            Place::History => &["/ filter", "s state"],
            _ => &["/ filter", "s order"],
        });
        words.push("p pause");
        // A route has no command.
        words.extend((model.place != Place::Routes).then_some("c copy"));
    }
    let more = if below > 0 {
        format!("↓ {below} more ")
    } else {
        String::new()
    };
    let room = columns.saturating_sub(width(&more) + 1);
    let mut text = String::from(" ");
    for word in words {
        if width(&text) + width(word) + 2 <= room {
            text.push_str(word);
            text.push_str("  ");
        }
    }
    let missing = columns.saturating_sub(width(&text) + width(&more));
    let line = Line::from(plain(format!("{text}{}{more}", " ".repeat(missing))));
    line.style(palette.reversed())
}
