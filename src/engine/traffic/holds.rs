//! How long requests of one route take, as a distribution of the last five to
//! ten minutes.
//!
//! Two histograms of five minutes each: the older one is dropped when the newer
//! is full of time, so that a slow hour does not colour the next. One
//! significant digit (a step of about 6 %) and a range that grows with what
//! comes keep a route at one or two kilobytes.

use hdrhistogram::Histogram;

use crate::sample::{DurationBucket, UnixSeconds};

/// Seconds that one histogram covers.
const WINDOW: f64 = 300.0;

/// Values are milliseconds; ten minutes and more are one value.
const LONGEST: u64 = 600_000;

/// A bucket is spread over so many values: what a bucket of an exporter covers
/// is wide, and all at its end would be wrong by as much.
const SPREAD: u64 = 4;

/// The distribution.
#[derive(Debug, Clone)]
pub struct Holds {
    current: Histogram<u32>,
    previous: Option<Histogram<u32>>,
    began_at: UnixSeconds,
}

impl Holds {
    /// `None` only when the histogram refuses its constant bounds.
    pub fn new(t: UnixSeconds) -> Option<Self> {
        Some(Self {
            current: empty()?,
            previous: None,
            began_at: t,
        })
    }

    /// Takes in requests by duration; bucket bounds ascend.
    pub fn record(&mut self, t: UnixSeconds, buckets: &[DurationBucket]) {
        self.turn(t);
        let mut lower = 0;
        for bucket in buckets {
            let upper = match bucket.upper {
                Some(upper) if upper.is_finite() => milliseconds(upper),
                // Nobody knows how long: at least as long as the last bound.
                _ => lower,
            };
            if bucket.count.is_finite() && bucket.count > 0.0 {
                // More than a histogram's counter holds is as good as its limit.
                let count = bucket.count.round().min(f64::from(u32::MAX)) as u64;
                self.spread(lower.min(upper), upper, count);
            }
            lower = upper.max(lower);
        }
    }

    fn spread(&mut self, lower: u64, upper: u64, count: u64) {
        let each = count / SPREAD;
        for part in 1..=SPREAD {
            let value = lower + (upper - lower) * part / SPREAD;
            // What does not divide evenly lies in the middle.
            let more = if part == SPREAD / 2 {
                count % SPREAD
            } else {
                0
            };
            if each + more > 0 {
                record(&mut self.current, value, each + more);
            }
        }
    }

    /// The durations in seconds that these parts of the requests stay under;
    /// `None` without requests.
    pub fn quantiles<const N: usize>(&self, parts: [f64; N]) -> [Option<f64>; N] {
        let Some(previous) = &self.previous else {
            return parts.map(|part| read(&self.current, part));
        };
        let mut both = previous.clone();
        match both.add(&self.current) {
            Ok(()) => parts.map(|part| read(&both, part)),
            Err(_) => parts.map(|part| read(&self.current, part)),
        }
    }

    fn turn(&mut self, t: UnixSeconds) {
        let age = t - self.began_at;
        if age < WINDOW {
            return;
        }
        let Some(next) = empty() else { return };
        let last = std::mem::replace(&mut self.current, next);
        self.previous = (age < 2.0 * WINDOW).then_some(last);
        self.began_at = t;
    }
}

fn record(histogram: &mut Histogram<u32>, value: u64, count: u64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    // The range grows by itself up to LONGEST, so this cannot fail.
    let _ = histogram.record_n(value.clamp(1, LONGEST), count);
}

fn empty() -> Option<Histogram<u32>> {
    let mut histogram = Histogram::new(1).ok()?;
    histogram.auto(true);
    Some(histogram)
}

fn read(histogram: &Histogram<u32>, quantile: f64) -> Option<f64> {
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e3)
}

fn milliseconds(seconds: f64) -> u64 {
    // Casts saturate: a negative bound is 0.
    ((seconds * 1e3).round() as u64).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Holds {
        fn quantile(&self, part: f64) -> Option<f64> {
            self.quantiles([part])[0]
        }
    }

    fn buckets(pairs: &[(f64, f64)]) -> Vec<DurationBucket> {
        let bucket = |&(upper, count): &(f64, f64)| DurationBucket {
            upper: upper.is_finite().then_some(upper),
            count,
        };
        pairs.iter().map(bucket).collect()
    }

    #[test]
    fn quantiles_lie_within_their_buckets() {
        let mut holds = Holds::new(0.0).unwrap();
        assert_eq!(holds.quantile(0.5), None);
        holds.record(1.0, &buckets(&[(0.1, 90.0), (1.0, 0.0), (10.0, 10.0)]));
        let p50 = holds.quantile(0.5).unwrap();
        assert!((0.025..=0.11).contains(&p50), "{p50}");
        let p99 = holds.quantile(0.99).unwrap();
        assert!((5.0..=10.7).contains(&p99), "{p99}");
    }

    #[test]
    fn the_last_ten_minutes_count() {
        let mut holds = Holds::new(0.0).unwrap();
        holds.record(1.0, &buckets(&[(8.0, 100.0)]));
        holds.record(301.0, &buckets(&[(0.1, 10.0)]));
        assert!(holds.quantile(0.5).unwrap() > 1.0, "both windows");
        holds.record(602.0, &buckets(&[(0.1, 10.0)]));
        assert!(holds.quantile(0.99).unwrap() < 0.2, "the old one is gone");
        holds.record(5_000.0, &buckets(&[(2.0, 10.0)]));
        assert!(holds.quantile(0.01).unwrap() > 0.4, "after a long pause");
    }

    #[test]
    fn odd_buckets_do_no_harm() {
        let mut holds = Holds::new(0.0).unwrap();
        holds.record(
            1.0,
            &buckets(&[
                (f64::NEG_INFINITY, 1.0),
                (-5.0, 3.0),
                (f64::MAX, 1e300),
                (0.5, f64::NAN),
                (0.1, 5.0),
                (f64::INFINITY, 2.0),
            ]),
        );
        assert!(holds.quantile(1.0).unwrap() <= 700.0);
    }
}
