//! Distributions of durations in few buckets, whoever's bounds they have.

use crate::sample::DurationBucket;

/// Buckets kept of one route and report; a histogram of explicit bounds has
/// about fifteen, and a log scale of eight steps an octave from a tenth of a
/// millisecond to an hour has two hundred.
const MAX: usize = 200;

/// Steps an octave of [`bucket_of`]: a bucket is 9 % wide.
const STEPS: f64 = 8.0;

/// Shortest duration told apart, in seconds.
const SHORTEST: f64 = 1e-4;

/// Longest duration told apart, in seconds: an hour.
const LONGEST: f64 = 3_600.0;

/// The bucket of one request that took this long, on a scale of fixed steps.
pub fn bucket_of(seconds: f64) -> DurationBucket {
    let upper = if seconds > SHORTEST {
        let steps = (seconds.min(LONGEST).log2() * STEPS).ceil();
        (steps / STEPS).exp2()
    } else {
        SHORTEST
    };
    DurationBucket {
        upper: Some(upper),
        count: 1.0,
    }
}

/// Adds buckets to those there are. Beyond [`MAX`] a bucket joins the next
/// larger one.
pub(super) fn merge(into: &mut Vec<DurationBucket>, more: &[DurationBucket]) {
    for bucket in more.iter().filter(|bucket| bucket.count > 0.0) {
        let bound = upper(bucket);
        let place = into.partition_point(|known| upper(known) < bound);
        let has_room = into.len() < MAX;
        match into.get_mut(place) {
            Some(known) if upper(known) == bound => known.count += bucket.count,
            _ if has_room => into.insert(place, *bucket),
            Some(known) => known.count += bucket.count,
            // The last bucket takes what is beyond it, and its bound.
            None => {
                if let Some(last) = into.last_mut() {
                    last.count += bucket.count;
                    last.upper = bucket.upper;
                }
            }
        }
    }
}

fn upper(bucket: &DurationBucket) -> f64 {
    bucket.upper.unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<DurationBucket> {
        let bucket = |&(upper, count): &(f64, f64)| DurationBucket {
            upper: upper.is_finite().then_some(upper),
            count,
        };
        pairs.iter().map(bucket).collect()
    }

    #[test]
    fn equal_bounds_add_up_and_the_order_holds() {
        let mut into = buckets(&[(0.1, 1.0), (f64::INFINITY, 2.0)]);
        merge(
            &mut into,
            &buckets(&[(0.05, 3.0), (0.1, 1.0), (1.0, 0.0), (f64::INFINITY, 1.0)]),
        );
        assert_eq!(
            into,
            buckets(&[(0.05, 3.0), (0.1, 2.0), (f64::INFINITY, 3.0)])
        );
    }

    #[test]
    fn however_many_bounds_come_nothing_is_lost_and_memory_is_bounded() {
        let mut into = Vec::new();
        for i in 0..5_000u32 {
            let bound = f64::from(i.wrapping_mul(2_654_435_761) % 10_007) / 7.0;
            merge(&mut into, &buckets(&[(bound, 1.0)]));
        }
        assert_eq!(into.len(), MAX);
        assert_eq!(into.iter().map(|bucket| bucket.count).sum::<f64>(), 5_000.0);
        assert!(into.is_sorted_by(|a, b| upper(a) <= upper(b)));
    }

    #[test]
    fn a_single_request_has_a_bucket_nine_percent_wide() {
        for seconds in [0.0002, 0.013, 1.0, 9.7, 3_000.0] {
            let upper = bucket_of(seconds).upper.unwrap();
            assert!(
                upper >= seconds * 0.999_999 && upper <= seconds * 1.1,
                "{seconds} {upper}"
            );
        }
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(bucket_of(odd).upper.unwrap() <= 4_096.0, "{odd}");
        }
    }
}
