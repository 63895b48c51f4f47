//! A chart in characters: columns over time against what is normal, with a mark
//! at moments. Readable without colours.

use super::page::{Page, piece, plain};
use super::parts::step;
use crate::expose::terminal::text::{pad, right};
use crate::expose::terminal::words::{clock, number};

/// Columns of the figures beside a chart.
const AXIS: usize = 8;

/// What a chart shows; all values are of the same times, evenly spaced.
pub(super) struct Chart<'a> {
    pub words: &'a str,
    pub times: &'a [f64],
    pub values: &'a [Option<f64>],
    /// The top of what is normal; empty: it is not told.
    pub upper: &'a [Option<f64>],
    /// A moment and its sign, in the order in which they are drawn.
    pub marks: &'a [(f64, char, &'a str)],
    pub rows: usize,
}

/// Draws it; nothing where no value is known.
pub(super) fn draw(page: &mut Page, chart: &Chart<'_>, now: f64) {
    let (Some(first), Some(last)) = (chart.times.first(), chart.times.last()) else {
        return;
    };
    let palette = page.palette;
    let columns = page.columns.saturating_sub(AXIS + 1).clamp(10, 160);
    let values = spread(chart.values, columns);
    let upper = spread(chart.upper, columns);
    let known = values.iter().chain(&upper).flatten().copied();
    let Some(top) = known.reduce(f64::max).map(|top| top.max(1.0)) else {
        return;
    };
    page.line(vec![piece(chart.words.to_owned(), palette.quiet())]);
    let span = (last - first).max(1e-9);
    let place = |t: f64| {
        let at = (t - first) / span * columns as f64;
        (t >= *first && t <= *last).then_some((at as usize).min(columns - 1))
    };
    page.line(vec![plain(marks(chart, columns, &place))]);
    for row in (0..chart.rows).rev() {
        let (low, high) = (
            row as f64 / chart.rows as f64 * top,
            (row + 1) as f64 / chart.rows as f64 * top,
        );
        let label = match row {
            _ if row + 1 == chart.rows => number(top),
            0 => "0".to_owned(),
            _ => String::new(),
        };
        let mut pieces = vec![piece(format!("{}│", right(&label, AXIS)), palette.quiet())];
        for column in 0..columns {
            let limit = upper[column];
            let at_limit = limit.is_some_and(|limit| (low..high).contains(&limit));
            let (sign, style) = match values[column] {
                Some(value) if value > low => {
                    let over = limit.is_some_and(|limit| value > limit && high > limit);
                    let style = if over {
                        palette.critical()
                    } else {
                        palette.value()
                    };
                    (step((value - low) / (high - low)), style)
                }
                _ if at_limit => ('╌', palette.band()),
                _ if chart.marks.iter().any(|mark| place(mark.0) == Some(column)) => {
                    ('┊', palette.quiet())
                }
                _ => (' ', palette.quiet()),
            };
            pieces.push(piece(sign, style));
        }
        page.line(pieces);
    }
    let (from, to) = (clock(*first, now), clock(*last, now));
    let between = columns.saturating_sub(to.chars().count());
    page.line(vec![piece(
        format!("{}{}{to}", " ".repeat(AXIS + 1), pad(&from, between)),
        palette.quiet(),
    )]);
    let mut legend: Vec<String> = chart
        .marks
        .iter()
        .filter(|mark| place(mark.0).is_some())
        .map(|(t, sign, word)| format!("{sign} {word} {}", clock(*t, now)))
        .collect();
    if upper.iter().any(Option::is_some) {
        legend.push("╌ normal up to here".to_owned());
    }
    if !legend.is_empty() {
        page.text_within(AXIS + 1, &legend.join("  "), palette.quiet(), 2);
    }
}

/// The row of signs above the columns.
fn marks(chart: &Chart<'_>, columns: usize, place: &dyn Fn(f64) -> Option<usize>) -> String {
    let mut row = vec![' '; columns];
    for (t, sign, _) in chart.marks {
        if let Some(column) = place(*t) {
            // Two marks in one column stand beside each other.
            let free = (column..columns).find(|at| row[*at] == ' ');
            if let Some(at) = free {
                row[at] = *sign;
            }
        }
    }
    format!(
        "{}{}",
        " ".repeat(AXIS + 1),
        row.into_iter().collect::<String>()
    )
}

/// The highest value of each of so many columns; one value may take several.
fn spread(values: &[Option<f64>], columns: usize) -> Vec<Option<f64>> {
    let count = values.len();
    (0..columns)
        .map(|column| {
            let from = column * count / columns;
            let to = ((column + 1) * count / columns).max(from + 1).min(count);
            let of_it = values.get(from..to).unwrap_or_default();
            of_it.iter().flatten().copied().reduce(f64::max)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expose::terminal::palette::Palette;

    #[test]
    fn what_is_over_the_normal_stands_above_its_line() {
        let times: Vec<f64> = (0..40).map(f64::from).collect();
        let values: Vec<Option<f64>> = (0..40)
            .map(|t| Some(if t < 20 { 10.0 } else { 80.0 }))
            .collect();
        let upper = vec![Some(20.0); 40];
        let mut page = Page::new(49, Palette::new(false));
        let chart = Chart {
            words: "sessions",
            times: &times,
            values: &values,
            upper: &upper,
            marks: &[(20.0, '▼', "began")],
            rows: 4,
        };
        draw(&mut page, &chart, 50.0);
        let text: Vec<String> = page.lines.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(text.join("\n"));
    }
}
