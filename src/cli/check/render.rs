//! The report as a person reads it: one line a source, then what to mend.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::{Finding, Level, Report, Source};

pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    if !report.sources.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}\n", table(&report.sources));
    }
    for finding in &report.findings {
        out.push_str(&entry(finding));
    }
    if !report.findings.is_empty() {
        out.push('\n');
    }
    out.push_str(&verdict(report));
    out.push('\n');
    out
}

fn table(sources: &[Source]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "SOURCE",
        "NAME",
        "VERSION",
        "ROLE",
        "USER",
        "PRIVILEGES",
        "CLOCK",
    ]);
    for source in sources {
        let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
        let privileges = source.privileges.join(", ");
        table.add_row([
            source.source.to_owned(),
            source.name.clone(),
            if source.up {
                text(source.version.as_deref())
            } else {
                "no answer".to_owned()
            },
            text(source.role),
            source.user.clone(),
            text(Some(privileges.as_str()).filter(|list| !list.is_empty())),
            source
                .clock_offset_seconds
                .map_or_else(|| "-".to_owned(), |offset| format!("{offset:+.3} s")),
        ]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    table.trim_fmt()
}

fn entry(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Missing => "missing",
        Level::Note => "note",
    };
    let mut out = format!("{level:<8}{}: {}\n", finding.subject, finding.what);
    for (label, text) in [("cost:", &finding.cost), ("fix:", &finding.fix)] {
        if let Some(text) = text {
            let _ = writeln!(out, "        {label:<6}{text}");
        }
    }
    out
}

fn verdict(report: &Report) -> String {
    let missing = report
        .findings
        .iter()
        .filter(|f| f.level == Level::Missing)
        .count();
    let up = report.sources.iter().filter(|source| source.up).count();
    let asked = match report.sources.len() {
        0 => "no source was asked".to_owned(),
        all => format!("{up} of {all} sources answered"),
    };
    let missing = match missing {
        0 => "nothing is missing".to_owned(),
        1 => "1 thing is missing".to_owned(),
        more => format!("{more} things are missing"),
    };
    format!("{} is valid; {asked}; {missing}", report.config)
}
