//! Routes: which of them have most requests at a time, and how that is against
//! what is usual.

use ratatui::text::Span;

use super::page::{Page, piece, plain};
use super::parts::spark;
use crate::expose::terminal::answers::Route;
use crate::expose::terminal::model::{Model, Subject};
use crate::expose::terminal::palette::Palette;
use crate::expose::terminal::text::{pad, right, safe};
use crate::expose::terminal::words::{number, ratio, seconds, times};

/// Twice or half of what is usual is worth a sign.
const UP: f64 = 2.0;
const DOWN: f64 = 0.5;

/// From this many columns on there is room for all figures.
const WIDE: usize = 120;

/// The orders of the table, after which `s` changes over.
pub(super) const ORDERS: [&str; 5] = ["at a time", "change", "requests/s", "time each", "route"];

pub(super) fn page(model: &Model, columns: usize) -> Page {
    let mut page = Page::new(columns, model.palette);
    let palette = model.palette;
    if let Some(error) = &model.routes.error {
        page.text(0, error, palette.warning());
    }
    let Some(known) = &model.routes.data else {
        page.line(vec![piece("Asking …", palette.quiet())]);
        return page;
    };
    let mut all: Vec<&Route> = known
        .routes
        .iter()
        .filter(|route| {
            let targets: Vec<&str> = route.targets.iter().map(|t| t.target.as_str()).collect();
            model.passes(&[&route.service, &route.route, &targets.join(" ")])
        })
        .collect();
    order(&mut all, model.sort);
    if all.is_empty() {
        let words = if known.routes.is_empty() {
            "No application tells of its routes. [service.scrape] or [otlp] in the configuration lets \
             them; route tags in statements are shown with an incident."
        } else {
            "No route has these words."
        };
        page.text(0, words, palette.quiet());
        return page;
    }
    page.line(head(columns, palette));
    for route in &all {
        let subject = Subject::Route(route.service.clone(), route.route.clone());
        page.entry(subject, |page| page.line(row(route, columns, palette)));
    }
    if known.left_out > 0.0 {
        let words = format!(
            "{} more have fewer requests at a time.",
            number(known.left_out)
        );
        page.line(vec![piece(words, palette.quiet())]);
    }
    page
}

fn change(route: &Route) -> Option<f64> {
    ratio(Some(route.concurrency), route.usual()?.concurrency)
}

fn order(all: &mut [&Route], by: usize) {
    let rate = |route: &Route| route.told().and_then(|told| told.requests_per_second);
    let hold = |route: &Route| route.told().and_then(|told| told.hold_seconds);
    let value = |route: &Route| match by {
        1 => change(route),
        2 => rate(route),
        3 => hold(route),
        _ => Some(route.concurrency),
    };
    if by == 4 {
        all.sort_by(|a, b| a.route.cmp(&b.route));
        return;
    }
    let value = |route: &Route| value(route).unwrap_or(f64::NEG_INFINITY);
    all.sort_by(|a, b| value(b).total_cmp(&value(a)));
}

/// Columns of the name, and of the small chart.
fn widths(columns: usize) -> (usize, usize) {
    if columns < WIDE {
        (columns.saturating_sub(49).max(12), 10)
    } else {
        (columns.saturating_sub(112).clamp(40, 100), 30)
    }
}

fn head(columns: usize, palette: Palette) -> Vec<Span<'static>> {
    let (name, trend) = widths(columns);
    let mut text = pad("Route", name);
    text += &right("At a time", 10);
    text += &right("Usual", 7);
    text += &format!(
        " {}",
        pad(if trend > 10 { "Last 30 min" } else { "30 min" }, trend)
    );
    if columns >= WIDE {
        text += &right("Requests/s", 16);
        text += &right("Time each", 17);
    }
    text += &right("p50", 10);
    text += &right("p99", 10);
    if columns >= WIDE {
        text += &right("Sessions", 10);
    }
    vec![piece(text, palette.strong())]
}

fn row(route: &Route, columns: usize, palette: Palette) -> Vec<Span<'static>> {
    let (name, trend) = widths(columns);
    let change = change(route);
    let (sign, style) = match change {
        Some(change) if change >= UP => ("▲", palette.warning()),
        Some(change) if change <= DOWN => ("▼", palette.calm()),
        _ => ("", palette.quiet()),
    };
    let change = format!("{sign}{}", times(change).unwrap_or_else(|| "–".to_owned()));
    let top = route.trend.iter().flatten().copied().fold(0.0, f64::max);
    let told = route.told().cloned().unwrap_or_default();
    let usual = told.usual.clone().unwrap_or_default();
    let label = format!("{} {}", route.route, route.service);
    let mut pieces = vec![
        piece(pad(&label, name), palette.name()),
        plain(right(&number(route.concurrency), 10)),
        piece(right(&change, 7), style),
        plain(" "),
        piece(
            pad(&spark(&route.trend, trend, top), trend),
            palette.value(),
        ),
    ];
    if columns >= WIDE {
        let with = |value: String, change: Option<f64>| {
            times(change).map_or_else(|| value.clone(), |change| format!("{value} {change}"))
        };
        let rate = ratio(told.requests_per_second, usual.requests_per_second);
        let rate = with(number(told.requests_per_second), rate);
        pieces.push(plain(right(&rate, 16)));
        let hold = ratio(told.hold_seconds, usual.hold_seconds);
        let hold = with(seconds(told.hold_seconds), hold);
        pieces.push(plain(right(&hold, 17)));
    }
    pieces.push(plain(right(&seconds(told.hold_p50_seconds), 10)));
    pieces.push(plain(right(&seconds(told.hold_p99_seconds), 10)));
    if columns >= WIDE {
        pieces.push(plain(right(&number(route.tagged()), 10)));
    }
    pieces
}

/// All that is told of one route.
pub(super) fn whole(page: &mut Page, route: &Route) {
    let palette = page.palette;
    page.text(0, &route.route, palette.name());
    page.text(0, &format!("service {}", route.service), palette.quiet());
    page.blank();
    let top = route.trend.iter().flatten().copied().fold(0.0, f64::max);
    let columns = page.columns.saturating_sub(30);
    page.line(vec![
        piece(spark(&route.trend, columns, top), palette.value()),
        piece(
            format!(" the last 30 min, up to {}", number(top)),
            palette.quiet(),
        ),
    ]);
    for told in &route.sources {
        let usual = told.usual.clone().unwrap_or_default();
        page.blank();
        let source = told
            .source
            .as_deref()
            .unwrap_or("unknown")
            .replace('_', " ");
        page.heading(&format!("As told by {}", safe(&source)));
        let facts = [
            (
                "requests/s",
                number(told.requests_per_second),
                ratio(told.requests_per_second, usual.requests_per_second),
            ),
            (
                "time each",
                seconds(told.hold_seconds),
                ratio(told.hold_seconds, usual.hold_seconds),
            ),
            ("p50", seconds(told.hold_p50_seconds), None),
            ("p99", seconds(told.hold_p99_seconds), None),
            ("in the database", seconds(told.database_seconds), None),
        ];
        for (name, value, change) in facts {
            let change = times(change).map(|change| format!("  {change} of the usual"));
            page.line(vec![plain(format!(
                "{name:<16}{value:>10}{}",
                change.unwrap_or_default()
            ))]);
        }
    }
    page.blank();
    for target in &route.targets {
        let words = format!(
            "server {}: {} sessions with its tag",
            target.target,
            number(target.tagged_connections)
        );
        page.text(0, &words, palette.quiet());
    }
}
