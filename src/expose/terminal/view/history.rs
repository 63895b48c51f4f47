//! History: what was and what is; one of them opens as it was.

use super::page::{Page, piece, plain};
use super::parts::{severity, sign};
use crate::expose::terminal::answers::Incident;
use crate::expose::terminal::model::{Model, Subject};
use crate::expose::terminal::text::{fit, pad, safe};
use crate::expose::terminal::words::{age, clock, number, percent, spoken};

/// Incidents laid out.
const ROWS: usize = 300;

/// What `s` changes over: which of them are shown.
pub(super) const ORDERS: [&str; 3] = ["all", "open", "over"];

pub(super) fn page(model: &Model, now: f64, columns: usize) -> Page {
    let mut page = Page::new(columns, model.palette);
    let palette = model.palette;
    if let Some(error) = &model.history.error {
        page.text(0, error, palette.warning());
    }
    let Some(known) = &model.history.data else {
        page.line(vec![piece("Asking …", palette.quiet())]);
        return page;
    };
    let mut all: Vec<&Incident> = known
        .incidents
        .iter()
        .filter(|one| match ORDERS.get(model.sort) {
            Some(&"open") => one.resolved_at.is_none(),
            Some(&"over") => one.resolved_at.is_some(),
            _ => true,
        })
        .filter(|one| {
            let routes = one.attribution.iter().map(|each| each.route.as_str());
            let routes = routes.collect::<Vec<_>>().join(" ");
            let cause = one.cause.as_deref().unwrap_or_default();
            let spoken = spoken(&one.kind);
            model.passes(&[
                &one.target,
                &one.kind,
                &spoken,
                &one.summary,
                cause,
                &routes,
            ])
        })
        .collect();
    all.sort_by(|a, b| b.opened_at.total_cmp(&a.opened_at));
    if all.is_empty() {
        let words = if known.incidents.is_empty() {
            "Nothing has happened yet."
        } else {
            "Nothing like this has happened."
        };
        page.line(vec![piece(words, palette.quiet())]);
    }
    for one in all.iter().take(ROWS) {
        page.entry(Subject::Incident(one.id.clone()), |page| {
            row(page, one, now)
        });
    }
    if all.len() > ROWS {
        let words = format!("{} more: filter with /", number((all.len() - ROWS) as f64));
        page.line(vec![piece(words, palette.quiet())]);
    }
    page.blank();
    page.text(
        0,
        "The newest 200 that are over are kept in memory; snowpit incidents lists all that the journal has.",
        palette.quiet(),
    );
    page
}

fn row(page: &mut Page, one: &Incident, now: f64) {
    let palette = page.palette;
    let (level, word) = severity(one);
    let lasted = age(one.resolved_at.unwrap_or(now) - one.onset_at);
    let kind = pad(&safe(&spoken(&one.kind)), 24);
    let mut pieces = vec![
        sign(level, &pad(word, 9), palette),
        plain(" "),
        piece(kind, palette.strong()),
        plain(" "),
        piece(fit(&one.target, 24), palette.name()),
    ];
    if let Some(cause) = &one.cause {
        pieces.push(piece(format!(" {}", safe(&spoken(cause))), palette.quiet()));
    }
    let when = format!("{}, {lasted}", clock(one.onset_at, now));
    page.line_and(pieces, vec![piece(when, palette.quiet())]);
    let named = one.cause.as_deref() == Some("endpoint");
    let named = one.attribution.first().filter(|_| named);
    let mut words = one.summary.clone();
    if let Some(first) = named {
        words = format!(
            "{words} · {} {}, confidence {}",
            first.route,
            percent(first.share),
            percent(first.confidence)
        );
    }
    let rows = if page.columns > 120 { 1 } else { 2 };
    page.text_within(2, &words, palette.quiet(), rows);
}
