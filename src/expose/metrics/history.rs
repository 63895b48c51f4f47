//! The history: how much there is of it, and what it could not take.

use super::page::Page;
use super::table;
use crate::engine::series::Counts;
use crate::expose::history::{Failure, History};

/// The store in memory, and the files when there are any.
pub fn put_history(page: &mut Page, counts: &Counts, disk: Option<&History>) {
    let bytes = disk.map_or(counts.bytes, History::bytes);
    page.put(&table::SERIES, [], counts.series as f64);
    page.put(&table::HISTORY_BYTES, [], bytes as f64);
    page.put(&table::HISTORY_SAMPLES, [], counts.samples as f64);
    for (reason, count) in [
        ("not_finite", counts.not_finite),
        ("late", counts.late),
        ("bad_time", counts.bad_time),
        ("over_budget", counts.over_budget),
    ] {
        page.put(&table::REJECTED_POINTS, ["history", reason], count as f64);
    }
    for failure in Failure::ALL {
        let mut count = disk.map_or(0, |disk| disk.health().failures(failure));
        if failure == Failure::Lost {
            count += counts.not_taken;
        }
        page.put(&table::HISTORY_FAILURES, [failure.as_str()], count as f64);
    }
}
