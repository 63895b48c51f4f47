//! Figures and SQL literals as a person on call reads and pastes them.

use jiff::Timestamp;

use crate::sample::UnixSeconds;

/// A count with thousands separators: `3,960`. Fractions are rounded.
pub fn count(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0.0 && digits != "0" {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A mean number of sessions: one decimal while it is small.
pub fn mean(value: f64) -> String {
    if value.abs() < 10.0 && (value - value.round()).abs() >= 0.05 {
        format!("{value:.1}")
    } else {
        count(value)
    }
}

/// `91 %`, of a ratio.
pub fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

/// `12 s`, `5 min`, `3 h`: two digits are enough for a sentence.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 && (seconds - seconds.round()).abs() >= 0.05 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.0} h", seconds / 3600.0)
    }
}

/// `1 session`, `2 sessions`.
pub fn plural(value: f64, noun: &str) -> String {
    let number = mean(value);
    if number == "1" {
        format!("{number} {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Names from outside are cut to this many characters in sentences and
/// statements.
const NAME_LIMIT: usize = 200;

/// A name from outside, fit for one line.
pub fn name(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(NAME_LIMIT)
        .collect()
}

/// The name of an application in a sentence; many give none.
pub fn application(text: &str) -> &str {
    if text.is_empty() {
        "(no application_name)"
    } else {
        text
    }
}

/// An SQL string literal with `standard_conforming_strings` on, which is the
/// default since PostgreSQL 9.1.
pub fn sql_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A time as `format` has it, in UTC; the number itself when it is no time of
/// this calendar.
pub fn utc(t: UnixSeconds, format: &str) -> String {
    // A float beyond the range saturates, and jiff refuses it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates; whole seconds are meant"
    )]
    let seconds = t.floor() as i64;
    Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |time| time.strftime(format).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let cases = [
            (0.0, "0"),
            (-0.2, "0"),
            (999.6, "1,000"),
            (3960.0, "3,960"),
            (1_234_567.0, "1,234,567"),
            (-4200.0, "-4,200"),
            (f64::NAN, "?"),
        ];
        for (value, text) in cases {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn small_means_keep_a_decimal() {
        assert_eq!(mean(3.24), "3.2");
        assert_eq!(mean(4.0), "4");
        assert_eq!(mean(41.6), "42");
        assert_eq!(plural(1.0, "session"), "1 session");
        assert_eq!(plural(1.4, "session"), "1.4 sessions");
    }

    #[test]
    fn durations_read_easily() {
        let cases = [
            (2.5, "2.5 s"),
            (12.0, "12 s"),
            (300.0, "5 min"),
            (9000.0, "2 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn literals_are_quoted() {
        assert_eq!(sql_literal("it's"), "'it''s'");
        assert_eq!(name("a\nb\u{0}c"), "abc");
        assert_eq!(name(&"x".repeat(500)).len(), 200);
    }
}
