//! Times as people read them.

use jiff::Timestamp;

use crate::sample::UnixSeconds;

/// UTC to the second; the number itself when it is no time of this calendar.
pub fn clock(t: UnixSeconds) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates; whole seconds are meant"
    )]
    let seconds = t.floor() as i64;
    Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}
