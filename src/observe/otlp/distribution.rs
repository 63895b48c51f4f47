//! The buckets of a histogram, explicit or exponential, checked and brought
//! into a shape in which two points of one series can be compared.
//!
//! Explicit buckets stay as they are. The bounds of exponential ones change
//! from point to point (offset and scale follow the values), so they are poured
//! into fixed buckets, four to a power of two. A bucket that straddles a bound
//! goes where its upper bound is: a time is rather called too long than too
//! short, by 19 % at most.

use super::record::Reason;
use crate::sample::DurationBucket;

/// Most buckets of one histogram. SDKs make 15 explicit ones, or 160
/// exponential ones, by themselves.
pub const BUCKET_LIMIT: usize = 320;

/// Scales of exponential histograms in the data model: base 2^(2^-scale).
const SCALES: std::ops::RangeInclusive<i32> = -10..=20;

/// Largest offset of a bucket that can still be a duration: at scale 20 one
/// second is 0, and 2^20 buckets are a factor of two.
const OFFSET_LIMIT: u32 = 1 << 28;

/// The scale of the fixed buckets: four to a power of two.
const FIXED_SCALE: u32 = 2;

/// The lowest bound of the fixed buckets is 2^-20 units: a microsecond, where
/// the unit is the second.
const LOWEST: i64 = -20 << FIXED_SCALE;

/// The highest is 2^22: an hour and ten minutes, where it is the millisecond.
const HIGHEST: i64 = 22 << FIXED_SCALE;

/// The fixed buckets: up to the lowest bound, those between, over the highest.
const FIXED: usize = (HIGHEST - LOWEST) as usize + 2;

/// Buckets as they came, reused from point to point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds of explicit buckets; one fewer than `counts`.
    pub bounds: Vec<f64>,
    /// Counts of each bucket alone.
    pub counts: Vec<u64>,
    pub exponential: Option<Exponential>,
    /// The counts in the comparable shape.
    comparable: Vec<f64>,
}

/// What an exponential histogram has besides its positive buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Exponential {
    pub scale: i32,
    /// Index of the first of the counts.
    pub offset: i32,
    pub zero: u64,
    /// Sum of the negative buckets: no duration is negative.
    pub negative: u64,
}

impl Distribution {
    /// Empties it for the next point.
    pub fn clear(&mut self) {
        self.bounds.clear();
        self.counts.clear();
        self.comparable.clear();
        self.exponential = None;
    }

    /// Whether the buckets agree with each other and with the count.
    ///
    /// # Errors
    /// The reason to refuse the point.
    pub fn check(&self, count: u64) -> Result<(), Reason> {
        let mut total = self.counts.iter().try_fold(0_u64, |a, b| a.checked_add(*b));
        match &self.exponential {
            None if self.counts.is_empty() && self.bounds.is_empty() => return Ok(()),
            None => {
                let ascending = self.bounds.is_sorted_by(|a, b| a < b)
                    && self.bounds.iter().all(|bound| bound.is_finite());
                if !ascending || self.counts.len() != self.bounds.len() + 1 {
                    return Err(Reason::InconsistentHistogram);
                }
            }
            Some(exponential) => {
                if exponential.negative > 0 {
                    return Err(Reason::BadValue);
                }
                if !SCALES.contains(&exponential.scale)
                    || exponential.offset.unsigned_abs() > OFFSET_LIMIT
                {
                    return Err(Reason::InconsistentHistogram);
                }
                total = total.and_then(|total| total.checked_add(exponential.zero));
            }
        }
        if total == Some(count) {
            Ok(())
        } else {
            Err(Reason::InconsistentHistogram)
        }
    }

    /// The counts in a shape that is the same for all points of a series; empty
    /// where there is none.
    pub fn comparable(&mut self) -> &[f64] {
        self.comparable.clear();
        match self.exponential {
            None => self
                .comparable
                .extend(self.counts.iter().map(|n| *n as f64)),
            Some(exponential) => {
                // Coarser than the fixed ones: there is no telling how the
                // counts lie in them.
                let Some(shift) = exponential.scale.checked_sub_unsigned(FIXED_SCALE) else {
                    return &self.comparable;
                };
                let Ok(shift) = u32::try_from(shift) else {
                    return &self.comparable;
                };
                self.comparable.resize(FIXED, 0.0);
                self.comparable[0] = exponential.zero as f64;
                for (index, count) in self.counts.iter().enumerate() {
                    let index = i64::from(exponential.offset) + index as i64;
                    let fixed = (index >> shift).clamp(LOWEST - 1, HIGHEST) - (LOWEST - 1);
                    if let Some(place) = self.comparable.get_mut(fixed as usize) {
                        *place += *count as f64;
                    }
                }
            }
        }
        &self.comparable
    }

    /// A number for the bounds: a series whose bounds change is another one.
    pub fn layout(&self) -> u64 {
        // The multiplier of the Fx hash: odd, with its bits well spread.
        let mix =
            |hash: u64, bits: u64| (hash.rotate_left(5) ^ bits).wrapping_mul(0x517c_c1b7_2722_0a95);
        let start = u64::from(self.exponential.is_some());
        self.bounds
            .iter()
            .fold(start, |hash, bound| mix(hash, bound.to_bits()))
    }

    /// Counts in the comparable shape as buckets of a report, the empty ones
    /// left out, `seconds` to a unit.
    pub fn buckets(&self, comparable: &[f64], seconds: f64, into: &mut Vec<DurationBucket>) {
        into.clear();
        for (index, count) in comparable.iter().enumerate() {
            if *count > 0.0 {
                let upper = self.upper(index).map(|upper| upper * seconds);
                let count = *count;
                into.push(DurationBucket { upper, count });
            }
        }
    }

    fn upper(&self, index: usize) -> Option<f64> {
        if self.exponential.is_none() {
            return self.bounds.get(index).copied();
        }
        let power = (LOWEST + index as i64) as f64 / f64::from(1 << FIXED_SCALE);
        (index + 1 < FIXED).then(|| power.exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(counts: &[u64]) -> Distribution {
        Distribution {
            bounds: vec![0.1, 1.0],
            counts: counts.to_vec(),
            ..Distribution::default()
        }
    }

    fn exponential(scale: i32, offset: i32, counts: &[u64]) -> Distribution {
        Distribution {
            counts: counts.to_vec(),
            exponential: Some(Exponential {
                scale,
                offset,
                zero: 0,
                negative: 0,
            }),
            ..Distribution::default()
        }
    }

    fn buckets(mut distribution: Distribution, seconds: f64) -> Vec<(Option<f64>, f64)> {
        let comparable = distribution.comparable().to_vec();
        let mut buckets = Vec::new();
        distribution.buckets(&comparable, seconds, &mut buckets);
        buckets.iter().map(|b| (b.upper, b.count)).collect()
    }

    #[test]
    fn explicit_buckets_keep_their_bounds() {
        let found = buckets(explicit(&[1, 0, 3]), 1.0);
        assert_eq!(found, [(Some(0.1), 1.0), (None, 3.0)]);
        let found = buckets(explicit(&[1, 2, 0]), 1e-3);
        assert_eq!(found, [(Some(1e-4), 1.0), (Some(1e-3), 2.0)]);
    }

    #[test]
    fn exponential_buckets_are_poured_into_fixed_ones() {
        // Scale 3, index 8 is (2, 2.18], index 9 (2.18, 2.38]: one of the four
        // fixed ones between 2 and 4, which ends at 2.38.
        let found = buckets(exponential(3, 8, &[3, 5]), 1.0);
        let upper = 2.0_f64.powf(1.25);
        assert_eq!(found, [(Some(upper), 8.0)]);
        let mut zero = exponential(2, 0, &[1]);
        zero.exponential.as_mut().unwrap().zero = 2;
        let found = buckets(zero, 1.0);
        assert_eq!(
            found,
            [
                (Some(2.0_f64.powi(-20)), 2.0),
                (Some(2.0_f64.powf(0.25)), 1.0)
            ]
        );
    }

    #[test]
    fn a_number_that_straddles_nothing_lands_where_it_is() {
        for scale in 2..=20 {
            for seconds in [0.000_5_f64, 0.02, 1.5, 30.0, 3600.0] {
                let base = 2.0_f64.powf(2.0_f64.powi(-scale));
                let index = seconds.log(base).ceil() as i32 - 1;
                let found = buckets(exponential(scale, index, &[1]), 1.0);
                let upper = found[0].0.unwrap();
                let excess = upper / seconds;
                assert!((0.999..1.19).contains(&excess), "{scale} {seconds} {upper}");
            }
        }
    }

    #[test]
    fn what_is_out_of_range_or_too_coarse_is_told_so() {
        assert_eq!(
            buckets(exponential(2, i32::from(i16::MAX), &[1]), 1.0),
            [(None, 1.0)]
        );
        let found = buckets(exponential(20, -(1 << 28), &[1]), 1.0);
        assert_eq!(found, [(Some(2.0_f64.powi(-20)), 1.0)]);
        assert_eq!(buckets(exponential(1, 0, &[1]), 1.0), []);
    }

    #[test]
    fn another_layout_is_another_number() {
        let mut other = explicit(&[1, 2, 3]);
        assert_eq!(other.layout(), explicit(&[4, 5, 6]).layout());
        other.bounds[0] = 0.2;
        assert_ne!(other.layout(), explicit(&[1, 2, 3]).layout());
        assert_eq!(
            exponential(1, 2, &[]).layout(),
            exponential(3, 4, &[1]).layout()
        );
    }

    #[test]
    fn buckets_that_disagree_are_refused() {
        let inconsistent = Err(Reason::InconsistentHistogram);
        assert_eq!(explicit(&[1, 2, 3]).check(6), Ok(()));
        assert_eq!(explicit(&[1, 2, 3]).check(7), inconsistent);
        assert_eq!(explicit(&[1, 2]).check(3), inconsistent);
        assert_eq!(explicit(&[u64::MAX, 1, 0]).check(0), inconsistent);
        let mut nan = explicit(&[1, 2, 3]);
        nan.bounds[1] = f64::NAN;
        assert_eq!(nan.check(6), inconsistent);
        assert_eq!(exponential(99, 0, &[1]).check(1), inconsistent);
        assert_eq!(exponential(0, i32::MIN, &[1]).check(1), inconsistent);
        let mut negative = exponential(0, 0, &[1]);
        negative.exponential.as_mut().unwrap().negative = 1;
        assert_eq!(negative.check(1), Err(Reason::BadValue));
    }
}
