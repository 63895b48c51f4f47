use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::engine::detect::clock::CLOCK_SET_BACK;

const SOURCE: &str = "postgres/main";

fn feed(store: &mut Store, t: f64, value: f64) -> bool {
    let Some(mut row) = store.row(SOURCE, t) else {
        return false;
    };
    row.put("x", &[("target", "main")], value);
    true
}

fn key() -> Key {
    Key::new("x", &[("target", "main")])
}

fn all(store: &Store) -> Vec<Point> {
    let mut points = Vec::new();
    store.visit(&key(), 0, Millis::MAX, |t, v| points.push((t, v)));
    points
}

#[test]
fn values_are_read_across_blocks_what_is_being_packed_and_the_head() {
    let mut store = Store::default();
    store.hand_over(f64::INFINITY);
    for t in 0..2000 {
        assert!(feed(&mut store, f64::from(t), f64::from(t % 7)));
    }
    let expected: Vec<Point> = (0..2000).map(|t| (t * 1000, (t % 7) as f64)).collect();
    assert_eq!(all(&store), expected);
    assert_eq!(store.take_sealed().len(), 3);
    let selector = Selector::parse("x{target=\"main\"}").unwrap();
    let extract = store.extract(&selector, 100_000, 1_900_000);
    let mut gathered = Gathered::new(100_000, 1_900_000, 1, 10_000);
    gathered.extract(&extract, &selector).unwrap();
    let series = gathered.finish();
    assert_eq!(series.len(), 1);
    assert_eq!(series[0].1, expected[100..=1900]);
    store.seal_all();
    assert_eq!(all(&store), expected);
    assert_eq!(store.counts().samples, 2000);
    assert_eq!(store.counts().series, 1);
}

#[test]
fn more_than_an_answer_may_hold_is_refused() {
    let mut store = Store::default();
    for t in 0..100 {
        let mut row = store.row(SOURCE, f64::from(t)).unwrap();
        for n in 0..3 {
            row.put("x", &[("n", &n.to_string())], 1.0);
        }
    }
    let selector = Selector::named("x");
    let extract = store.extract(&selector, 0, 100_000);
    let gather =
        |series, points| Gathered::new(0, 100_000, series, points).extract(&extract, &selector);
    assert_eq!(gather(3, 300), Ok(()));
    assert_eq!(gather(2, 300), Err(TooMuch::Series(2)));
    assert_eq!(gather(3, 299), Err(TooMuch::Points(299)));
}

#[test]
fn a_series_that_comes_and_goes_has_gaps() {
    let mut store = Store::default();
    for t in 0..1300 {
        let mut row = store.row(SOURCE, f64::from(t)).unwrap();
        row.put("always", &[], 1.0);
        if t % 10 == 3 {
            row.put("x", &[("target", "main")], f64::from(t));
        }
    }
    let expected: Vec<Point> = (0..130)
        .map(|n| (n * 10 + 3) as i64)
        .map(|t| (t * 1000, t as f64))
        .collect();
    assert_eq!(all(&store), expected);
}

#[test]
fn what_is_no_number_is_counted_and_harms_nothing_beside_it() {
    let mut store = Store::default();
    let mut row = store.row(SOURCE, 1.0).unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        row.put("x", &[("target", "main")], value);
    }
    row.put("x", &[("target", "main")], -3.0);
    row.put("x", &[("target", "main")], 4.0);
    assert_eq!(all(&store), [(1000, -3.0)], "the first of two stays");
    let counts = store.counts();
    assert_eq!((counts.not_finite, counts.samples), (3, 1));
}

#[test]
fn late_rows_are_counted_and_a_clock_set_back_is_believed_after_a_while() {
    let mut store = Store::default();
    for t in 1_000_000..1_000_100 {
        feed(&mut store, f64::from(t), 1.0);
    }
    assert!(!feed(&mut store, 1_000_050.0, 2.0), "late");
    assert!(!feed(&mut store, 1_000_099.0, 2.0), "twice");
    assert_eq!(store.counts().late, 2);
    assert!(
        feed(&mut store, 1_000_100.0, 1.0),
        "one late row is nothing"
    );
    for n in 1..CLOCK_SET_BACK {
        assert!(!feed(&mut store, 500_000.0 + f64::from(n), 5.0));
    }
    assert!(feed(&mut store, 500_060.0, 5.0), "the clock was set back");
    assert!(feed(&mut store, 500_061.0, 5.0));
    assert_eq!(all(&store).len(), 103, "nothing from before is lost");
}

#[test]
fn one_look_from_2106_costs_a_minute_and_one_from_1970_nothing() {
    let mut store = Store::default();
    for t in 0..100 {
        feed(&mut store, 1.6e9 + f64::from(t), 1.0);
    }
    assert!(!feed(&mut store, 0.0, 1.0));
    assert!(!feed(&mut store, -5.0, 1.0));
    assert!(!feed(&mut store, f64::NAN, 1.0));
    assert_eq!(store.counts().bad_time, 2);
    feed(&mut store, 4_294_967_296.0, 1.0);
    let taken = (100..300)
        .filter(|&t| feed(&mut store, 1.6e9 + f64::from(t), 1.0))
        .count();
    assert_eq!(taken, 200 - CLOCK_SET_BACK as usize + 1);
}

#[test]
fn polls_ten_times_a_second_seal_earlier() {
    let mut store = Store::default();
    store.hand_over(f64::INFINITY);
    for t in 0..5000 {
        feed(&mut store, f64::from(t) * 0.1, 1.0);
    }
    store.seal_all();
    let blocks = store.take_sealed();
    assert_eq!(
        blocks
            .iter()
            .map(|block| block.times().len())
            .sum::<usize>(),
        5000
    );
    assert!(
        blocks
            .iter()
            .all(|block| block.times().len() <= column::ROW_LIMIT)
    );
}

#[test]
fn series_beyond_the_budget_push_out_the_forgotten_and_nobody_else() {
    let mut store = Store::new(Budget {
        series: 100,
        ..Budget::default()
    });
    let put = |store: &mut Store, t: u32, range: std::ops::Range<u32>| {
        let mut row = store.row(SOURCE, f64::from(t)).unwrap();
        for n in range {
            row.put("x", &[("n", &n.to_string())], 1.0);
        }
    };
    for t in 0..50 {
        put(&mut store, t, 0..100);
    }
    put(&mut store, 50, 0..150);
    assert_eq!(store.counts().over_budget, 50, "everybody is still fed");
    assert_eq!(store.counts().evicted, 0);
    for t in 51..100 {
        put(&mut store, t, 20..100);
    }
    put(&mut store, 100, 20..110);
    let counts = store.counts();
    assert!(counts.evicted >= 10, "{counts:?}");
    assert_eq!(counts.over_budget, 50, "{counts:?}");
    assert!(counts.series <= 100);
}

#[test]
fn the_oldest_blocks_go_when_the_memory_is_full() {
    let budget = 100_000;
    let mut store = Store::new(Budget {
        bytes: budget,
        ..Budget::default()
    });
    let mut random = fastrand::Rng::with_seed(3);
    for t in 0..100_000 {
        feed(&mut store, f64::from(t), random.f64());
    }
    let counts = store.counts();
    // A head of ten minutes fills between two looks at the budget.
    assert!(counts.bytes < budget as u64 + 30_000, "{counts:?}");
    let points = all(&store);
    assert!(points.len() > 5000, "{}", points.len());
    assert_eq!(points.last().map(|&(t, _)| t), Some(99_999_000));
}

#[test]
fn unsaved_rows_are_given_out_once() {
    let mut store = Store::default();
    for t in 0..60 {
        feed(&mut store, f64::from(t), 1.0);
    }
    let rows = store.take_unsaved();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].times().len(), 60);
    assert!(store.take_unsaved().is_empty());
    feed(&mut store, 60.0, 2.0);
    let rows = store.take_unsaved();
    assert_eq!(rows[0].times(), [60_000]);
    assert_eq!(rows[0].columns()[0].1, [2.0]);
    let block = rows[0].clone().pack().unwrap();
    assert_eq!(block.end(), 60_000);
}

#[test]
fn adopted_blocks_are_read_and_older_rows_are_late() {
    let mut before = Store::default();
    before.hand_over(f64::INFINITY);
    for t in 0..700 {
        feed(&mut before, f64::from(t), f64::from(t));
    }
    before.seal_all();
    let mut store = Store::default();
    for block in before.take_sealed() {
        store.adopt(Arc::clone(&block));
    }
    assert!(!feed(&mut store, 699.0, 5.0));
    assert!(feed(&mut store, 760.0, 5.0));
    let points = all(&store);
    assert_eq!(points.len(), 701);
    assert_eq!(points[700], (760_000, 5.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_nothing_panics_and_what_was_taken_is_there(
        rows in proptest::collection::vec(
            (
                prop_oneof![
                    0.0_f64..5000.0,
                    Just(f64::NAN),
                    Just(4_294_967_296.0),
                    Just(-1.0),
                    any::<f64>(),
                ],
                proptest::collection::vec((0_u8..6, any::<f64>()), 0..4),
            ),
            0..400,
        )
    ) {
        let mut store = Store::default();
        let mut taken = 0_u64;
        for (t, values) in rows {
            let Some(mut row) = store.row(SOURCE, t) else { continue };
            let mut seen = [false; 6];
            for (n, value) in values {
                row.put("x", &[("n", &n.to_string())], value);
                let first = value.is_finite() && !seen[usize::from(n)];
                seen[usize::from(n)] |= first;
                taken += u64::from(first);
            }
        }
        prop_assert_eq!(store.counts().samples, taken);
        store.seal_all();
        let mut found = 0;
        for n in 0..6 {
            store.visit(&Key::new("x", &[("n", &n.to_string())]), 0, Millis::MAX, |_, _| found += 1);
        }
        prop_assert_eq!(found, taken);
    }
}

#[test]
fn a_source_that_is_looked_at_seldom_is_packed_too() {
    let mut store = Store::default();
    store.hand_over(f64::INFINITY);
    let labels: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    for look in 0..100 {
        let mut row = store.row(SOURCE, f64::from(look) * 300.0).unwrap();
        for label in &labels {
            row.put("x", &[("n", label)], f64::from(look));
        }
    }
    // Two looks a block: all but the open one and the one before are packed.
    assert_eq!(store.take_sealed().len(), 48);
}
