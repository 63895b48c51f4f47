//! `SHOW STATE` (1.19+): whether the whole pooler is paused. `PAUSE` without a
//! database is told here and in no other list, `PAUSE db` only in `SHOW DATABASES`.

use super::rows::{Row, is_yes};

pub const STATEMENT: &str = "SHOW STATE";

/// The first version that knows the statement.
const SINCE: (u32, u32) = (1, 19);

/// Whether a console of this version can be asked. Only PgBouncer's own numbers
/// count: what another pooler makes of the statement is not known.
pub fn is_known(version: Option<&str>) -> bool {
    let mut numbers = version.unwrap_or_default().split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= SINCE,
        _ => false,
    }
}

/// `None` when the answer does not tell.
pub fn decode<'a>(mut rows: impl Iterator<Item = Row<'a>>) -> Option<bool> {
    let paused = rows.find(|row| row.text("key") == Some("paused"))?;
    paused.text("value").map(is_yes)
}

#[cfg(test)]
mod tests {
    use super::super::rows::recorded::rows;
    use super::*;

    fn decode_lines(lines: &[&str]) -> Option<bool> {
        let (columns, rows) = rows("key value", lines);
        decode(rows.iter().map(|cells| Row::new(&columns, cells)))
    }

    #[test]
    fn only_paused_is_paused() {
        let active = ["active|yes", "paused|no", "suspended|no"];
        let paused = ["active|no", "paused|yes", "suspended|no"];
        let suspended = ["active|no", "paused|no", "suspended|yes"];
        assert_eq!(decode_lines(&active), Some(false));
        assert_eq!(decode_lines(&paused), Some(true));
        assert_eq!(decode_lines(&suspended), Some(false));
        assert_eq!(decode_lines(&["active|yes"]), None);
        assert_eq!(decode_lines(&["paused|"]), None);
    }

    #[test]
    fn older_consoles_and_others_are_not_asked() {
        for version in ["1.19.0", "1.25.1", "2.0", "1.100.0"] {
            assert!(is_known(Some(version)), "{version}");
        }
        for version in ["1.18.0", "1.9", "1", "", "odyssey 1.3", "1.x"] {
            assert!(!is_known(Some(version)), "{version}");
        }
        assert!(!is_known(None));
    }
}
