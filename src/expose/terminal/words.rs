//! Figures, times and names as a person on call reads them: the words are those
//! of the page.

use crate::engine::words;
use crate::sample::UnixSeconds;

/// What is not known.
const NOTHING: &str = "–";

const DAY: f64 = 86_400.0;

/// A count; one decimal while it is small.
pub(super) fn number(value: impl Into<Option<f64>>) -> String {
    let value: Option<f64> = value.into();
    value.map_or_else(|| NOTHING.to_owned(), words::mean)
}

pub(super) fn percent(ratio: impl Into<Option<f64>>) -> String {
    let ratio: Option<f64> = ratio.into();
    ratio.map_or_else(|| NOTHING.to_owned(), words::percent)
}

/// `1 waiter`, `2 waiters`.
pub(super) fn plural(value: f64, noun: &str) -> String {
    words::plural(value, noun)
}

/// `×3.2`; nothing without a ratio.
pub(super) fn times(ratio: Option<f64>) -> Option<String> {
    let ratio = ratio.filter(|ratio| ratio.is_finite())?;
    Some(if ratio >= 99.5 {
        format!("×{}", words::count(ratio))
    } else {
        let text = format!("{ratio:.1}");
        format!("×{}", text.strip_suffix(".0").unwrap_or(&text))
    })
}

/// `12 ms`, `2.5 s`, `3 min 20 s`, `5 h 2 min`.
pub(super) fn seconds(value: impl Into<Option<f64>>) -> String {
    let value: Option<f64> = value.into();
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return NOTHING.to_owned();
    };
    let value = value.max(0.0);
    if value < 0.000_95 {
        format!("{:.1} ms", value * 1e3)
    } else if value < 0.995 {
        format!("{:.0} ms", value * 1e3)
    } else if value < 9.95 {
        format!("{value:.1} s")
    } else {
        age(value)
    }
}

/// The same in whole seconds, for what grows while it is looked at.
pub(super) fn age(value: impl Into<Option<f64>>) -> String {
    let value: Option<f64> = value.into();
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return NOTHING.to_owned();
    };
    let all = value.max(0.0).round();
    let whole = |unit: f64| (all / unit).floor();
    if all < 100.0 {
        format!("{all:.0} s")
    } else if all < 3600.0 {
        format!("{:.0} min {:.0} s", whole(60.0), all % 60.0)
    } else if all < DAY {
        format!(
            "{:.0} h {:.0} min",
            whole(3600.0),
            (all % 3600.0 / 60.0).floor()
        )
    } else {
        format!("{:.0} d {:.0} h", whole(DAY), (all % DAY / 3600.0).floor())
    }
}

/// The time of day in UTC; with the day when it is not that of `now`.
pub(super) fn clock(at: UnixSeconds, now: UnixSeconds) -> String {
    let same = (at / DAY).floor() == (now / DAY).floor();
    words::utc(
        at,
        if same {
            "%H:%M:%S"
        } else {
            "%Y-%m-%d %H:%M:%S"
        },
    )
}

/// `lock_pileup` as `lock pile-up`.
pub(super) fn spoken(word: &str) -> String {
    match word {
        "try_lock_spin" => "try-lock spin".to_owned(),
        "lock_pileup" => "lock pile-up".to_owned(),
        other => other.replace('_', " "),
    }
}

/// `now / usual`, where there is a usual.
pub(super) fn ratio(now: Option<f64>, usual: Option<f64>) -> Option<f64> {
    let usual = usual.filter(|usual| *usual > 1e-9)?;
    now.map(|now| now / usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_on_the_page() {
        assert_eq!(age(72.4), "72 s");
        assert_eq!(age(200.0), "3 min 20 s");
        assert_eq!(age(18_120.0), "5 h 2 min");
        assert_eq!(age(f64::NAN), "–");
        assert_eq!(seconds(0.012), "12 ms");
        assert_eq!(seconds(2.54), "2.5 s");
        assert_eq!(seconds(None), "–");
        assert_eq!(times(Some(3.0)).as_deref(), Some("×3"));
        assert_eq!(times(Some(1234.0)).as_deref(), Some("×1,234"));
        assert_eq!(clock(86_399.0, 86_400.0), "1970-01-01 23:59:59");
        assert_eq!(clock(86_401.0, 86_402.0), "00:00:01");
        assert_eq!(spoken("orphaned_advisory_lock"), "orphaned advisory lock");
    }
}
