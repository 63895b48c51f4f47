//! Middle and spread of a few values, of which up to half may be wild.

/// The median; `None` of nothing. Sorts the slice.
pub fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    Some(if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    })
}

/// σ of a normal distribution over its median absolute deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// σ as the median absolute deviation from `centre` has it; 0 of nothing.
pub fn sigma_about(centre: f64, values: impl Iterator<Item = f64>) -> f64 {
    let mut deviations: Vec<f64> = values.map(|value| (value - centre).abs()).collect();
    MAD_TO_SIGMA * median(&mut deviations).unwrap_or(0.0)
}

/// The smallest value below or at which half of all weight lies. `sorted` holds
/// (value, weight) in order of value; weights must not be negative.
pub fn weighted_median(sorted: impl Iterator<Item = (f64, f64)> + Clone) -> Option<f64> {
    let half = 0.5 * sorted.clone().map(|(_, weight)| weight).sum::<f64>();
    first_at(half, sorted)
}

/// So few values are sorted: to halve them again costs more.
const FEW: usize = 16;

/// The same for any part of the weight, 0 to 1, of values in any order, which it
/// changes. Halves them until the one is found instead of sorting them all.
pub fn weighted_quantile(values: &mut [(f64, f64)], part: f64) -> Option<f64> {
    let by_value = |a: &(f64, f64), b: &(f64, f64)| a.0.total_cmp(&b.0);
    let weight_of = |values: &[(f64, f64)]| values.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut mark = weight_of(values) * part;
    let mut left = values;
    while left.len() > FEW {
        let middle = left.len() / 2;
        left.select_nth_unstable_by(middle, by_value);
        let lower = weight_of(&left[..middle]);
        if lower > 0.0 && lower >= mark {
            left = &mut left[..middle];
        } else {
            mark -= lower;
            left = &mut left[middle..];
        }
    }
    left.sort_unstable_by(by_value);
    first_at(mark, left.iter().copied())
}

/// The first value at which so much weight is reached; the last when it is not.
fn first_at(mark: f64, sorted: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let mut below = 0.0;
    let mut last = None;
    for (value, weight) in sorted {
        below += weight;
        last = Some(value);
        if below >= mark && weight > 0.0 {
            break;
        }
    }
    last
}

/// The standard deviation; 0 of fewer than two.
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (square / (n - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn a_third_of_wild_values_hardly_moves_the_spread() {
        let calm = (0..20).map(|i| f64::from(i % 5));
        let wild = std::iter::repeat_n(1e6, 8);
        let sigma = sigma_about(2.0, calm.chain(wild));
        assert!(sigma < 4.0, "{sigma}");
    }

    #[test]
    fn weights_decide_the_middle() {
        let values = [(1.0, 1.0), (2.0, 1.0), (9.0, 5.0)];
        assert_eq!(weighted_median(values.iter().copied()), Some(9.0));
        assert_eq!(weighted_median(std::iter::empty()), None);
        assert_eq!(weighted_quantile(&mut [], 0.5), None);
    }

    proptest! {
        #[test]
        fn halving_finds_what_sorting_finds(
            values in prop::collection::vec((-1e3..1e3f64, 0..5u32), 0..300),
            part in 0..=10u32,
        ) {
            // Whole numbers add up alike in any order.
            let values: Vec<_> = values.iter().map(|&(v, w)| (v.round(), f64::from(w))).collect();
            let part = f64::from(part) / 10.0;
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mark = sorted.iter().map(|(_, weight)| weight).sum::<f64>() * part;
            let mut below = 0.0;
            let first = sorted.iter().find(|(_, weight)| {
                below += weight;
                below >= mark && *weight > 0.0
            });
            let expected = first.or(sorted.last()).map(|(value, _)| *value);
            prop_assert_eq!(weighted_quantile(&mut values.clone(), part), expected);
        }
    }
}
