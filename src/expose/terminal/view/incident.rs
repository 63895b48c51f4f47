//! Incident: one of them from ten minutes before it began.

use serde_json::Value;

use super::chart::{self, Chart};
use super::page::{Page, piece, plain};
use super::parts::{culprits, spark, title};
use crate::expose::terminal::answers::{Change, Incident};
use crate::expose::terminal::model::{Model, Quantity};
use crate::expose::terminal::text::{fit, pad, safe};
use crate::expose::terminal::words::{age, clock, number, percent, spoken};

/// Changes told; the newest.
const CHANGES: usize = 40;
/// Routes whose sessions are shown.
const ROUTES: usize = 8;
/// Height of a chart.
const ROWS: usize = 7;
/// Entries of a subject.
const FACTS: usize = 40;

/// What it is and what to do; and how it went.
pub(super) fn pages(model: &Model, now: f64, columns: [usize; 2]) -> [Page; 2] {
    let mut words = Page::new(columns[0], model.palette);
    let mut course = Page::new(columns[1], model.palette);
    let Some(one) = &model.incident.data else {
        let text = match (&model.incident.error, model.wanted_incident()) {
            (Some(error), _) => error.clone(),
            (None, Some(_)) => "Asking …".to_owned(),
            (None, None) => {
                "Nothing is open. An incident of the History opens with Enter.".to_owned()
            }
        };
        words.text(0, &text, model.palette.quiet());
        return [words, course];
    };
    let now = model.incident_time(now);
    if let Some(error) = &model.incident.error {
        let text = format!("As it was last known: {error}");
        words.text(0, &text, model.palette.warning());
        words.blank();
    }
    head(&mut words, one, now);
    evidence(&mut words, one);
    charts(&mut course, model, one, now);
    subject(&mut course, one);
    story(&mut course, model, one, now);
    [words, course]
}

fn head(page: &mut Page, one: &Incident, now: f64) {
    let palette = page.palette;
    page.line(title(one, palette));
    page.text(2, &one.summary, palette.strong());
    let mut times = vec![
        format!("began {}", clock(one.onset_at, now)),
        format!(
            "told {}, {} later",
            clock(one.opened_at, now),
            age(one.opened_at - one.onset_at)
        ),
    ];
    if let Some(over) = one.resolved_at {
        times.push(format!("over {}", clock(over, now)));
        times.push(format!("lasted {}", age(over - one.onset_at)));
    } else {
        times.push(format!("for {}", age(now - one.onset_at)));
    }
    page.text(2, &times.join(" · "), palette.quiet());
    page.blank();
    if !one.actions.is_empty() {
        page.heading(if one.resolved_at.is_some() {
            "What was advised"
        } else {
            "What to do"
        });
        for action in &one.actions {
            page.command(2, action, usize::MAX);
        }
        page.blank();
    }
    if !one.attribution.is_empty() {
        page.heading("Who is behind the rise");
        culprits(page, one, usize::MAX);
        page.blank();
    }
}

fn evidence(page: &mut Page, one: &Incident) {
    let palette = page.palette;
    if !one.evidence.is_empty() {
        page.heading("Evidence");
        for sentence in &one.evidence {
            let begin = page.lines.len();
            page.text(4, sentence, ratatui::style::Style::new());
            if let Some(first) = page.lines.get_mut(begin) {
                first.spans[0] = plain("  · ");
            }
        }
        page.blank();
    }
    if !one.runbook.is_empty() {
        page.text(
            0,
            &format!("Runbook: /runbooks/{}", one.runbook),
            palette.quiet(),
        );
    }
    page.text(
        0,
        &format!("Record: /api/v1/incidents/{}", one.id),
        palette.quiet(),
    );
    page.blank();
}

fn charts(page: &mut Page, model: &Model, one: &Incident, now: f64) {
    let times = model.chart_times();
    if times.is_empty() {
        if let Some(error) = &model.chart_error {
            page.text(0, error, page.palette.quiet());
            page.blank();
        }
        return;
    }
    page.heading("Course");
    let mut marks = vec![(one.onset_at, '▼', "began"), (one.opened_at, '◇', "told")];
    marks.extend(one.resolved_at.map(|over| (over, '✓', "over")));
    let waiting = model.chart(Quantity::Waiting, &times);
    let values: Vec<Option<f64>> = model
        .chart(Quantity::InUse, &times)
        .into_iter()
        .zip(waiting)
        .map(|(used, waiting)| used.map(|used| used + waiting.unwrap_or(0.0)))
        .collect();
    let upper = model.chart(Quantity::Upper, &times);
    let chart = Chart {
        words: "Sessions in use and clients waiting, against what is normal",
        times: &times,
        values: &values,
        upper: &upper,
        marks: &marks,
        rows: ROWS,
    };
    chart::draw(page, &chart, now);
    let locks = model.chart(Quantity::Locks, &times);
    if locks.iter().flatten().any(|value| *value > 0.0) {
        page.blank();
        let chart = Chart {
            words: "Sessions waiting for a lock",
            values: &locks,
            upper: &[],
            rows: ROWS / 2 + 1,
            ..chart
        };
        chart::draw(page, &chart, now);
    }
    routes(page, model, &times);
    page.blank();
}

/// Sessions in use by route: a line each, those with most at their height first.
fn routes(page: &mut Page, model: &Model, times: &[f64]) {
    let palette = page.palette;
    let mut lines = model.chart_routes(times);
    lines.retain(|(_, values)| values.iter().flatten().any(|value| *value > 0.0));
    if lines.is_empty() {
        return;
    }
    let height = |values: &[Option<f64>]| values.iter().flatten().copied().fold(0.0, f64::max);
    lines.sort_by(|a, b| height(&b.1).total_cmp(&height(&a.1)));
    page.blank();
    page.line(vec![piece(
        "Sessions in use by route, the highest first",
        palette.quiet(),
    )]);
    let top = height(&lines[0].1);
    let name = (page.columns / 2).clamp(10, 60);
    let columns = page.columns.saturating_sub(name + 12).clamp(8, 80);
    for (label, values) in lines.iter().take(ROUTES) {
        let newest = values.iter().rev().flatten().next().copied();
        page.line(vec![
            plain("  "),
            piece(pad(label, name), palette.name()),
            plain(" "),
            piece(pad(&spark(values, columns, top), columns), palette.value()),
            plain(format!(" {}", number(newest))),
        ]);
    }
    if lines.len() > ROUTES {
        let words = format!("  {} others", number((lines.len() - ROUTES) as f64));
        page.line(vec![piece(words, palette.quiet())]);
    }
}

fn subject(page: &mut Page, one: &Incident) {
    let palette = page.palette;
    let facts: Vec<(&String, String)> = one
        .subject
        .iter()
        .map(|(name, value)| (name, in_words(value)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    if facts.is_empty() {
        return;
    }
    page.heading("What exactly");
    for (name, value) in facts.iter().take(FACTS) {
        page.text_within(2, &format!("{}: {value}", spoken(name)), palette.quiet(), 4);
    }
    page.blank();
}

/// A value of a record in words. Not deeper than records are.
fn in_words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(one) if one.is_i64() || one.is_u64() => one.to_string(),
        Value::Number(one) => number(one.as_f64()),
        Value::Bool(is) => is.to_string(),
        Value::Array(all) => {
            let all = all.iter().map(in_words).filter(|one| !one.is_empty());
            all.collect::<Vec<_>>().join("; ")
        }
        Value::Object(all) => {
            let text = |name: &str| all.get(name).and_then(Value::as_str);
            if let (Some(mode), Some(object)) = (text("mode"), text("object")) {
                return format!("{mode} on {object}");
            }
            let all = all.iter();
            let all = all.map(|(name, each)| format!("{} {}", spoken(name), in_words(each)));
            all.collect::<Vec<_>>().join(", ")
        }
    }
}

/// What was said when, the newest first.
fn story(page: &mut Page, model: &Model, one: &Incident, now: f64) {
    let palette = page.palette;
    if model.changes.data.is_none() && model.changes.error.is_none() {
        return;
    }
    page.heading("What was said when");
    if let Some(error) = &model.changes.error {
        page.text(2, error, palette.warning());
    }
    let Some(changes) = &model.changes.data else {
        return;
    };
    if !changes.complete {
        let words = "Its first changes are not in memory any more.";
        page.text(2, words, palette.quiet());
    }
    let all = &changes.changes;
    for (index, change) in all.iter().enumerate().rev().take(CHANGES) {
        let before = index.checked_sub(1).and_then(|before| all.get(before));
        page.line(vec![
            plain(format!("  {} ", clock(change.t, now))),
            piece(
                format!("+{} ", age(change.t - one.onset_at)),
                palette.quiet(),
            ),
            piece(safe(&change.event), palette.strong()),
        ]);
        page.text_within(4, &difference(change, before), palette.quiet(), 3);
    }
    if all.len() > CHANGES {
        let words = format!("  {} earlier ones", number((all.len() - CHANGES) as f64));
        page.line(vec![piece(words, palette.quiet())]);
    }
}

/// In words, what a change changed, and what is said since.
fn difference(change: &Change, before: Option<&Change>) -> String {
    let now = &change.incident;
    let Some(before) = before.map(|before| &before.incident) else {
        return now.summary.clone();
    };
    let mut news = Vec::new();
    let first = |one: &Incident| match one.attribution.first() {
        Some(first) => format!("{} {}", fit(&first.route, 80), percent(first.share)),
        None => "nobody".to_owned(),
    };
    if now.severity != before.severity {
        news.push(format!("severity {} → {}", before.severity, now.severity));
    }
    if now.cause != before.cause {
        let word = |cause: &Option<String>| spoken(cause.as_deref().unwrap_or("none"));
        news.push(format!(
            "cause {} → {}",
            word(&before.cause),
            word(&now.cause)
        ));
    }
    if first(now) != first(before) {
        news.push(format!(
            "first candidate {} → {}",
            first(before),
            first(now)
        ));
    }
    if now.actions != before.actions {
        news.push("the command changed".to_owned());
    }
    if news.is_empty() {
        return now.summary.clone();
    }
    format!("{}. {}", news.join("; "), now.summary)
}
