//! Pieces that several views show.

use ratatui::style::Style;
use ratatui::text::Span;

use super::page::{Page, piece, plain};
use crate::expose::terminal::answers::Incident;
use crate::expose::terminal::palette::Palette;
use crate::expose::terminal::text::{fit, safe};
use crate::expose::terminal::words::{number, percent, spoken, times};

/// Candidates that a record has at most.
const CANDIDATES: usize = 5;

/// Steps of height of one character.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Critical,
    Warning,
    Unknown,
    Calm,
    Resolved,
}

impl Level {
    /// Shapes beside the colours: not everybody sees colours alike.
    fn sign(self) -> char {
        match self {
            Self::Critical => '▲',
            Self::Warning => '◆',
            Self::Unknown => '○',
            Self::Calm => '●',
            Self::Resolved => '✓',
        }
    }

    pub(super) fn style(self, palette: Palette) -> Style {
        match self {
            Self::Critical => palette.critical(),
            Self::Warning => palette.warning(),
            Self::Unknown => palette.quiet(),
            Self::Calm | Self::Resolved => palette.calm(),
        }
    }
}

/// The sign and a word.
pub(super) fn sign(level: Level, word: &str, palette: Palette) -> Span<'static> {
    piece(
        format!("{} {}", level.sign(), safe(word)),
        level.style(palette),
    )
}

/// How bad an incident is, or that it is over.
pub(super) fn severity(incident: &Incident) -> (Level, &str) {
    match incident.severity.as_str() {
        _ if incident.resolved_at.is_some() => (Level::Resolved, "resolved"),
        "critical" => (Level::Critical, "critical"),
        "warning" => (Level::Warning, "warning"),
        other => (Level::Unknown, other),
    }
}

/// A bar of so many columns: of the parts, each from 0 to 1, the last that
/// covers a column is drawn there; `tick` is drawn over all.
pub(super) fn bar(
    columns: usize,
    ground: (char, Style),
    parts: &[(char, Style, f64, f64)],
    tick: Option<(char, Style, f64)>,
) -> Vec<Span<'static>> {
    let mut cells = vec![ground; columns];
    for (index, cell) in cells.iter_mut().enumerate() {
        let middle = (index as f64 + 0.5) / columns.max(1) as f64;
        for (sign, style, from, to) in parts {
            if (*from..*to).contains(&middle) {
                *cell = (*sign, *style);
            }
        }
    }
    // Whatever is there at all can be seen.
    if let Some((sign, style, _, to)) = parts.last()
        && *to > 0.0
        && let Some(first) = cells.first_mut()
        && !parts.iter().any(|(known, ..)| first.0 == *known)
    {
        *first = (*sign, *style);
    }
    if let Some((sign, style, at)) = tick {
        let at = (at.clamp(0.0, 1.0) * columns as f64) as usize;
        if let Some(cell) = cells.get_mut(at.min(columns.saturating_sub(1))) {
            *cell = (sign, style);
        }
    }
    let spans = cells.chunk_by(|a, b| a.1 == b.1);
    spans
        .map(|run| {
            piece(
                run.iter().map(|(sign, _)| *sign).collect::<String>(),
                run[0].1,
            )
        })
        .collect()
}

/// Values over time in so many columns, the highest of each column; blank where
/// nothing is known. `top` is the height of a full column.
pub(super) fn spark(values: &[Option<f64>], columns: usize, top: f64) -> String {
    let count = values.len();
    (0..columns.min(count))
        .map(|column| {
            let all = columns.min(count);
            let of_it = &values[column * count / all..((column + 1) * count / all).min(count)];
            let highest = of_it.iter().flatten().copied().reduce(f64::max);
            highest.map_or(' ', |value| step(value / top.max(1e-9)))
        })
        .collect()
}

/// The character of this height, 0 to 1.
pub(super) fn step(height: f64) -> char {
    let at = (height.clamp(0.0, 1.0) * STEPS.len() as f64).ceil() as usize;
    STEPS[at.clamp(1, STEPS.len()) - 1]
}

/// Who is behind a rise: a bar each, of the whole rise; more requests and longer
/// ones apart where that is told.
pub(super) fn culprits(page: &mut Page, incident: &Incident, most: usize) {
    let palette = page.palette;
    let named = incident.cause.as_deref() == Some("endpoint");
    let candidates = &incident.attribution[..incident.attribution.len().min(CANDIDATES.min(most))];
    if candidates.is_empty() {
        return;
    }
    let columns = (page.columns / 4).clamp(8, 40);
    let told_apart = candidates
        .iter()
        .any(|one| one.rate_part.is_some() || one.hold_part.is_some());
    let joint = if told_apart { '░' } else { '█' };
    for (index, one) in candidates.iter().enumerate() {
        let total = if one.share > 0.0 {
            one.connections / one.share
        } else {
            0.0
        };
        let part = |value: Option<f64>| match value {
            Some(value) if total > 0.0 => value.max(0.0) / total,
            _ => 0.0,
        };
        let (rate, hold) = (part(one.rate_part), part(one.hold_part));
        let share = one.share.max(0.0);
        let split = rate + hold > 0.0;
        let scale = if split && rate + hold > share {
            share / (rate + hold)
        } else {
            1.0
        };
        let (rate_to, hold_to) = (rate * scale, (rate + hold) * scale);
        let parts = [
            (joint, palette.value(), 0.0, share),
            ('▓', palette.warning(), rate_to, hold_to),
            ('█', palette.critical(), 0.0, rate_to),
        ];
        let mut pieces = vec![plain("  ")];
        pieces.extend(bar(columns, ('·', palette.quiet()), &parts, None));
        let is_named = named && index == 0;
        pieces.push(piece(
            format!(" {:>5} ", percent(one.share)),
            palette.strong(),
        ));
        pieces.push(piece(safe(&one.route), palette.name()));
        let service = format!(
            " {}{}",
            safe(&one.service),
            if is_named { ", named" } else { "" }
        );
        pieces.push(piece(service, palette.quiet()));
        page.line(pieces);
        let mut words = vec![format!("{} sessions", number(one.connections))];
        words.extend(times(one.rate_change).map(|change| format!("requests {change}")));
        words.extend(times(one.hold_change).map(|change| format!("time each {change}")));
        if split {
            words.push(format!(
                "{} by requests, {} by time each",
                number(one.rate_part.unwrap_or(0.0)),
                number(one.hold_part.unwrap_or(0.0))
            ));
        }
        words.push(format!("confidence {}", percent(one.confidence)));
        page.text_within(4, &words.join(" · "), palette.quiet(), 2);
    }
    let mut legend = Vec::new();
    if told_apart {
        legend.push("█ more requests  ▓ longer requests  ░ not told apart".to_owned());
    }
    if let Some(unexplained) = incident.unexplained_share {
        legend.push(format!("{} of the rise unexplained", percent(unexplained)));
    }
    if !legend.is_empty() {
        page.text_within(2, &legend.join("  "), palette.quiet(), 2);
    }
}

/// Kind, target and cause of an incident, and since when.
pub(super) fn title(incident: &Incident, palette: Palette) -> Vec<Span<'static>> {
    let (level, word) = severity(incident);
    let mut pieces = vec![
        sign(level, word, palette),
        plain("  "),
        piece(safe(&spoken(&incident.kind)), palette.strong()),
        plain("  "),
        piece(fit(&incident.target, 40), palette.name()),
    ];
    if let Some(cause) = &incident.cause {
        pieces.push(piece(
            format!("  cause: {}", safe(&spoken(cause))),
            palette.quiet(),
        ));
    }
    pieces
}
