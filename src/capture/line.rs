//! One line of a capture made into a sample.
//!
//! First it is found out what the line is, then it is read as the report of that
//! source. That is several times faster than to let serde find the kind of a
//! tagged, flattened type, which keeps every value apart first.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::LineProblem;
use crate::sample::{Report, Sample};

/// What a line is.
#[derive(Debug, PartialEq)]
pub enum Line {
    Sample(Box<Sample>),
    /// A header again: two captures in one file.
    Header,
    Blank,
}

/// Quoted of a word that is not known.
const WORD_CHARS: usize = 40;

#[derive(Deserialize)]
struct Head<'a> {
    t: Option<f64>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    snowpit_capture: Option<u64>,
}

/// Reads a line after the first.
///
/// # Errors
/// It is no sample, or one of another version or source.
pub fn parse(bytes: &[u8]) -> Result<Line, LineProblem> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Line::Blank);
    }
    // Once for the line is several times cheaper than once for each string.
    let line = std::str::from_utf8(bytes)
        .map_err(|error| LineProblem::Malformed(format!("it is not UTF-8: {error}")))?;
    if let Some((t, source)) = beginning(line)
        && let Some(report) = report(source, line)
    {
        return Ok(Line::Sample(Box::new(Sample { t, report: report? })));
    }
    let head: Head<'_> = serde_json::from_str(line).map_err(malformed)?;
    match head.snowpit_capture {
        Some(version) if version == u64::from(super::FORMAT) => return Ok(Line::Header),
        Some(version) => return Err(LineProblem::Version(version)),
        None => {}
    }
    let Some(t) = head.t else {
        return Err(LineProblem::Malformed("it has no \"t\"".to_owned()));
    };
    let Some(source) = head.source.as_deref() else {
        return Err(LineProblem::Malformed("it has no \"source\"".to_owned()));
    };
    let Some(report) = report(source, line) else {
        let word: String = source.chars().take(WORD_CHARS).collect();
        return Err(LineProblem::Source(word));
    };
    Ok(Line::Sample(Box::new(Sample { t, report: report? })))
}

/// Time and source of a line that begins with them, as those do that snowpit
/// writes: it need not be read twice.
fn beginning(line: &str) -> Option<(f64, &str)> {
    let (number, rest) = line.strip_prefix("{\"t\":")?.split_once(',')?;
    let (source, _) = rest.strip_prefix("\"source\":\"")?.split_once('"')?;
    let digits = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    if !number.chars().all(digits) {
        return None;
    }
    let t: f64 = number.parse().ok()?;
    t.is_finite().then_some((t, source))
}

/// `None` for a source that is not known.
fn report(source: &str, line: &str) -> Option<Result<Report, LineProblem>> {
    let report = match source {
        "postgres" => read(line).map(Report::Postgres),
        "pgbouncer" => read(line).map(Report::Pgbouncer),
        "traffic" => read(line).map(Report::Traffic),
        _ => return None,
    };
    Some(report.map_err(malformed))
}

/// Reads an object of a capture, where null and absent mean the same, which
/// they do not to serde.
pub(super) fn read<T: DeserializeOwned>(line: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(line).or_else(|error| {
        let mut value: Value = serde_json::from_str(line)?;
        drop_nulls(&mut value);
        // The first error tells the column.
        T::deserialize(value).map_err(|_| error)
    })
}

/// Takes every member out that is null. The parser has bounded how deep this
/// goes.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn malformed(error: serde_json::Error) -> LineProblem {
    LineProblem::Malformed(explain(&error))
}

/// What the parser says. Its own line is always 1: it sees one line.
pub(super) fn explain(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{PgbouncerReport, PostgresReport, TrafficReport};

    fn sample(text: &str) -> Sample {
        match parse(text.as_bytes()) {
            Ok(Line::Sample(sample)) => *sample,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn problem(text: &str) -> String {
        match parse(text.as_bytes()) {
            Err(problem) => problem.to_string(),
            Ok(line) => panic!("{text}: {line:?}"),
        }
    }

    #[test]
    fn the_three_kinds_are_told_apart() {
        let postgres = sample(
            r#"{"t": 1.5, "source": "postgres", "target": "main", "server": {"max_connections": 5000},
                "groups": [{"application": "registry", "count": 17}], "new_field": {"a": [1]}}"#,
        );
        let Report::Postgres(PostgresReport { groups, .. }) = &postgres.report else {
            panic!("{postgres:?}");
        };
        assert_eq!((postgres.t, groups[0].count), (1.5, 17));
        let pooler = sample(r#"{"source":"pgbouncer","pooler":"p","target":"main","t":2}"#);
        assert!(
            matches!(pooler.report, Report::Pgbouncer(PgbouncerReport { pooler, .. }) if pooler == "p")
        );
        let traffic = sample(r#"{"t":3,"source":"traffic","service":"s","interval":1.0}"#);
        assert!(
            matches!(traffic.report, Report::Traffic(TrafficReport { interval, .. }) if interval == 1.0)
        );
    }

    #[test]
    fn null_is_absent_in_every_field() {
        let text = r#"{"t":1,"source":"postgres","target":"main","server":null,"groups":null,
            "backends":[{"pid":null,"backend_start":null}],"locks":[{"locktype":null,"granted":null}],
            "truncated":null,"sessions_opened_total":null}"#;
        let Report::Postgres(report) = sample(text).report else {
            panic!("another kind");
        };
        assert_eq!(report.backends.len(), 1);
        assert_eq!(report.locks.len(), 1);
    }

    #[test]
    fn what_is_no_sample_is_refused_with_a_reason() {
        for (text, reason) in [
            ("[1]", "is no sample"),
            ("{", "EOF"),
            (r#"{"t":1e999,"source":"postgres"}"#, "number out of range"),
            (r#"{"t":1.,"source":"postgres"}"#, "is no sample"),
            (r#"{"t":+1,"source":"postgres"}"#, "is no sample"),
            (r#"{"t":1,"source":"postgres""#, "EOF"),
            (r#"{"t":NaN,"source":"postgres"}"#, "expected"),
            (r#"{"source":"postgres","target":"main"}"#, "no \"t\""),
            (r#"{"t":1}"#, "no \"source\""),
            (r#"{"t":1,"source":"weather"}"#, "does not know"),
            (r#"{"snowpit_capture":2}"#, "version 2"),
            (
                r#"{"t":1,"source":"postgres","target":"main","groups":[{"count":-3}]}"#,
                "invalid value: integer `-3`",
            ),
            (
                r#"{"t":1,"source":"pgbouncer","pools":[{"cl_waiting":99999999999}]}"#,
                "invalid value",
            ),
            (r#"{"t":1,"source":"postgres","target":7}"#, "invalid type"),
        ] {
            let told = problem(text);
            assert!(told.contains(reason), "{text}: {told}");
        }
    }

    #[test]
    fn a_header_again_and_blanks_are_no_samples() {
        assert_eq!(parse(b"  \r").unwrap(), Line::Blank);
        assert_eq!(parse(br#"{"snowpit_capture":1}"#).unwrap(), Line::Header);
    }
}
