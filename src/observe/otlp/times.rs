//! Time stamps from outside: nanoseconds since the epoch, of somebody else's
//! clock.

use crate::sample::UnixSeconds;

/// What ended this long ago, in seconds, is of no use: the engine takes reports
/// that are 45 s late, exporters retry for a minute or two.
const OLD: f64 = 290.0;

/// A clock that is fast by more, in seconds, is not a little fast.
const AHEAD: f64 = 60.0;

/// Nanoseconds to seconds; a double is good for a fraction of a microsecond.
pub fn seconds(nanos: u64) -> UnixSeconds {
    nanos as f64 / 1e9
}

/// Times that are taken.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    from: UnixSeconds,
    to: UnixSeconds,
}

impl Window {
    pub fn around(now: UnixSeconds) -> Self {
        Self {
            from: now - OLD,
            to: now + AHEAD,
        }
    }

    pub fn contains(&self, nanos: u64) -> bool {
        (self.from..=self.to).contains(&seconds(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_far_from_now_is_outside() {
        let now = 1_800_000_000.0;
        let window = Window::around(now);
        let nanos = |t: f64| (t * 1e9) as u64;
        for inside in [now, now - 45.0, now - 289.0, now + 59.0] {
            assert!(window.contains(nanos(inside)), "{inside}");
        }
        // 1970, 2106 (32 bits of seconds), the end of 64 bits.
        for outside in [
            0,
            nanos(4_294_967_295.0),
            u64::MAX,
            nanos(now + 61.0),
            nanos(now - 300.0),
        ] {
            assert!(!window.contains(outside), "{outside}");
        }
    }
}
