//! Any bytes are a page: it is read without panic, the pieces it comes in do
//! not matter, and what is kept of it is bounded and makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::observe::scrape::page::{Page, Reader, Wanted};

fn read(wanted: &Wanted, pieces: &[&[u8]]) -> Page {
    let mut reader = Reader::new(wanted.clone());
    for piece in pieces {
        reader.feed(piece);
    }
    reader.finish()
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, body)) = data.split_first() else {
        return;
    };
    let wanted = Wanted {
        openmetrics: first & 1 == 1,
        metric: (first & 2 == 2).then(|| "latency_ms".to_owned()),
        now: 1_604_902_320.0,
        ..Wanted::default()
    };
    let whole = read(&wanted, &[body]);
    let (before, behind) = body.split_at(body.len() * usize::from(first) / 256);
    let cut = read(&wanted, &[before, behind]);
    assert_eq!(whole.series, cut.series);
    assert_eq!(whole.rejected, cut.rejected);
    assert_eq!(whole.in_flight, cut.in_flight);
    assert!(whole.rejected.total() <= 2 * whole.lines + 1);
    assert!(whole.series.len() as u64 <= whole.lines);
    for one in &whole.series {
        assert!(one.count.is_finite() && one.count >= 0.0);
        assert!(one.sum.is_finite() && one.sum >= 0.0);
        assert!(!one.route.is_empty() && one.route.chars().count() <= 200);
        assert!(one.buckets.is_sorted_by(|a, b| a.0 <= b.0));
        assert!(one.buckets.iter().all(|(_, count)| *count >= 0.0));
    }
});
