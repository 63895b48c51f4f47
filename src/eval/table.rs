//! The score as tables for a person.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use super::score::{Row, Score};

/// All tables.
pub fn render(score: &Score) -> String {
    let mut text = String::new();
    for (title, table) in [
        ("by family", families(score)),
        (
            "published methods, right endpoint first (in the first three)",
            methods(score),
        ),
        ("figures", figures(score)),
    ] {
        text.push_str(title);
        text.push('\n');
        text.push_str(&table.to_string());
        text.push_str("\n\n");
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    for place in 1..header.len() {
        if let Some(column) = table.column_mut(place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1}", value * 100.0))
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// Parts in percent, times in seconds.
fn families(score: &Score) -> Table {
    let mut table = table(&[
        "family",
        "n",
        "found",
        "delay",
        "onset",
        "false",
        "+10",
        "+30",
        "+60",
        "top 3 +30",
        "top 3 +60",
        "part +10",
        "tags +30",
        "named",
        "precision",
        "accused",
        "cause",
        "ECE",
    ]);
    for row in &score.families {
        table.add_row(cells(row.family.as_str(), row));
    }
    if let Some(overall) = &score.overall {
        table.add_row(cells("all", overall));
    }
    table
}

fn cells(name: &str, row: &Row) -> Vec<String> {
    vec![
        name.to_owned(),
        row.incidents.to_string(),
        percent(Some(row.detected)),
        seconds(row.delay),
        seconds(row.onset_error),
        row.false_alarms.to_string(),
        percent(row.first[0]),
        percent(row.first[1]),
        percent(row.first[2]),
        percent(row.three[1]),
        percent(row.three[2]),
        percent(row.partial),
        percent(row.tagged),
        percent(row.named),
        percent(row.precision),
        percent(row.accused),
        percent(row.cause),
        percent(row.ece),
    ]
}

fn methods(score: &Score) -> Table {
    let mut table = table(&["method", "reading", "+10 s", "+30 s", "+60 s"]);
    for row in &score.methods {
        let at = |place: usize| {
            format!(
                "{:.1} ({:.1})",
                row.first[place] * 100.0,
                row.three[place] * 100.0
            )
        };
        table.add_row(vec![
            row.method.to_owned(),
            row.reading.clone(),
            at(0),
            at(1),
            at(2),
        ]);
    }
    table
}

fn figures(score: &Score) -> Table {
    let mut table = table(&["figure", "measured", "of", "floor", "goal", ""]);
    for figure in &score.figures {
        let value = figure
            .value
            .map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        table.add_row(vec![
            figure.name.to_owned(),
            value,
            figure.of.to_string(),
            figure.floor.to_string(),
            figure.goal.to_string(),
            figure.word().to_owned(),
        ]);
    }
    table
}
