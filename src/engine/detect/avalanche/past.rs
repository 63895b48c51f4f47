//! The watched sessions over the last hour, and what of that time was normal.

use std::collections::VecDeque;

use crate::engine::correlate::endpoints::Windows;
use crate::engine::traffic::Level;
use crate::sample::UnixSeconds;

/// The baseline is half an hour long and ends this long before the onset, in
/// seconds: the estimate of the onset may be a little late.
const BASELINE_SECONDS: f64 = 1_800.0;
const BASELINE_END: f64 = 20.0;

/// Buckets of traffic are kept a little longer than this, in seconds: what is
/// older is no baseline any more.
const REMEMBERED: f64 = 3_700.0;

/// Earlier incidents kept out of the baseline.
const EARLIER: usize = 16;

/// Spans shorter than this, in seconds, are no baseline.
const SHORT: f64 = 1.0;

/// The past of one target.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Sessions in use or waiting.
    pub sessions: Level,
    earlier: VecDeque<(UnixSeconds, UnixSeconds)>,
}

impl Past {
    /// An incident is over: its time is no part of what is normal.
    pub fn set_apart(&mut self, from: UnixSeconds, to: UnixSeconds) {
        if self.earlier.len() >= EARLIER {
            self.earlier.pop_front();
        }
        self.earlier.push_back((from, to));
    }

    /// What to compare with what, in an incident that began at `onset`.
    pub fn windows(&self, onset: UnixSeconds, now: UnixSeconds) -> Windows {
        let end = onset - BASELINE_END;
        let begin = (end - BASELINE_SECONDS).max(now - REMEMBERED);
        let mut spans = vec![(begin, end)];
        for &(from, to) in &self.earlier {
            spans = spans
                .into_iter()
                .flat_map(|(begin, end)| [(begin, end.min(from)), (begin.max(to), end)])
                .collect();
        }
        spans.retain(|(begin, end)| end - begin >= SHORT);
        Windows {
            baseline: spans,
            onset,
            now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_incidents_are_cut_out_of_the_baseline() {
        let mut past = Past::default();
        past.set_apart(9_000.0, 9_100.0);
        past.set_apart(100.0, 200.0);
        let windows = past.windows(10_020.0, 10_050.0);
        assert_eq!(windows.baseline, [(8_200.0, 9_000.0), (9_100.0, 10_000.0)]);
        let late = past.windows(10_020.0, 20_000.0);
        assert!(late.baseline.is_empty(), "{late:?}");
    }
}
