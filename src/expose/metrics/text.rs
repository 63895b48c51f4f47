//! The text format 0.0.4, for scrapers that do not ask for OpenMetrics.
//!
//! It differs from OpenMetrics in that a counter's family carries its full
//! name (`_total` included), there is no end mark, and help text escapes only
//! the backslash and the newline.

use std::fmt::{Result, Write};

use super::page::{Buckets, Family, Page, Value};

/// The media type of [`encode`]'s answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the page.
pub fn encode(page: &Page) -> String {
    let mut out = String::new();
    for family in page.families() {
        // A String takes everything: the result is always Ok.
        let _ = write_family(&mut out, family);
    }
    out
}

fn write_family(out: &mut String, family: &Family) -> Result {
    let metric = family.metric;
    write!(out, "# HELP {} ", metric.name)?;
    escape(out, metric.help, false)?;
    writeln!(out, "\n# TYPE {} {}", metric.name, metric.kind.as_str())?;
    for (labels, value) in &family.points {
        match value {
            Value::Number(number) => {
                write_series(out, metric.name, "", metric.labels, labels, None)?;
                writeln!(out, " {number}")?;
            }
            Value::Histogram(buckets) => {
                write_histogram(out, metric.name, metric.labels, labels, buckets)?;
            }
        }
    }
    Ok(())
}

fn write_histogram(
    out: &mut String,
    name: &str,
    names: &[&str],
    labels: &[String],
    buckets: &Buckets,
) -> Result {
    let mut below = 0;
    for (bound, count) in &buckets.counts {
        below += count;
        let bound = if bound.is_finite() {
            bound.to_string()
        } else {
            "+Inf".to_owned()
        };
        write_series(out, name, "_bucket", names, labels, Some(&bound))?;
        writeln!(out, " {below}")?;
    }
    write_series(out, name, "_sum", names, labels, None)?;
    writeln!(out, " {}", buckets.sum)?;
    write_series(out, name, "_count", names, labels, None)?;
    writeln!(out, " {below}")
}

fn write_series(
    out: &mut String,
    name: &str,
    suffix: &str,
    names: &[&str],
    labels: &[String],
    bound: Option<&str>,
) -> Result {
    write!(out, "{name}{suffix}")?;
    let pairs = names
        .iter()
        .copied()
        .zip(labels.iter().map(String::as_str))
        .chain(bound.map(|bound| ("le", bound)));
    let mut separator = '{';
    for (key, value) in pairs {
        write!(out, "{separator}{key}=\"")?;
        escape(out, value, true)?;
        out.write_char('"')?;
        separator = ',';
    }
    if separator == ',' {
        out.write_char('}')?;
    }
    Ok(())
}

/// Quotes are escaped in label values and must not be in help text.
fn escape(out: &mut String, text: &str, quotes: bool) -> Result {
    for char in text.chars() {
        match char {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '"' if quotes => out.write_str("\\\"")?,
            other => out.write_char(other)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::page::{Metric, Type};
    use super::*;

    static COUNTER: Metric = Metric {
        name: "c_total",
        kind: Type::Counter,
        labels: &["path"],
        help: "a \"quoted\" \\ help",
    };
    static HISTOGRAM: Metric = Metric {
        name: "h_seconds",
        kind: Type::Histogram,
        labels: &[],
        help: "h",
    };

    #[test]
    fn escapes_and_buckets_are_as_the_format_says() {
        let mut page = Page::default();
        page.put(&COUNTER, ["C:\\a\n\"b\""], 2.5);
        let buckets = Buckets {
            counts: vec![(0.1, 1), (f64::INFINITY, 2)],
            sum: 4.5,
        };
        page.put_histogram(&HISTOGRAM, [], buckets);
        assert_eq!(
            encode(&page),
            "# HELP c_total a \"quoted\" \\\\ help\n# TYPE c_total counter\n\
             c_total{path=\"C:\\\\a\\n\\\"b\\\"\"} 2.5\n\
             # HELP h_seconds h\n# TYPE h_seconds histogram\n\
             h_seconds_bucket{le=\"0.1\"} 1\nh_seconds_bucket{le=\"+Inf\"} 3\n\
             h_seconds_sum 4.5\nh_seconds_count 3\n"
        );
    }
}
