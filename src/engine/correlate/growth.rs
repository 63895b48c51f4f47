//! How much everybody grew together, so that nobody is blamed for it.

use super::parts::PartId;
use super::window::Means;
use crate::engine::stats::robust::weighted_median;

/// Session-ticks in the baseline without which a route's ratio is noise.
const LEAST_BASELINE: f64 = 20.0;

/// Session-ticks to be expected since the onset, for the same reason.
const LEAST_EXPECTED: f64 = 3.0;

/// Routes without which their median is no common anything.
const LEAST_ROUTES: usize = 3;

/// Growth within 8 % is none.
const NO_GROWTH: f64 = 0.08;

/// One route before and since the onset.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    id: PartId,
    ratio: f64,
    weight: f64,
    before: f64,
    now: f64,
    /// Enough sessions for a ratio of its own.
    solid: bool,
}

/// The growth of all routes, sorted, to be asked for each route without it.
#[derive(Debug, Clone)]
pub struct Growth(Vec<Ratio>);

impl Growth {
    /// `routes` are the tagged parts of either window.
    pub fn of(routes: &[PartId], before: &Means, now: &Means) -> Self {
        let mut ratios: Vec<Ratio> = routes
            .iter()
            .map(|&id| {
                let (t0, t1) = (before.of(id), now.of(id));
                let expected = t0 * now.ticks;
                Ratio {
                    id,
                    ratio: t1 / t0.max(f64::MIN_POSITIVE),
                    weight: expected.sqrt(),
                    before: t0,
                    now: t1,
                    solid: t0 * before.ticks >= LEAST_BASELINE && expected >= LEAST_EXPECTED,
                }
            })
            .collect();
        ratios.sort_unstable_by(|a, b| a.ratio.total_cmp(&b.ratio));
        Self(ratios)
    }

    /// The factor by which the *other* routes grew: the weighted median of their
    /// ratios, or, while those are too few or too young, the ratio of their sums
    /// without the one that rose most, if there is another. At least 1: routes squeezed out of a full
    /// pool do not make the others guilty of more.
    pub fn without(&self, id: PartId) -> f64 {
        let others = || self.0.iter().filter(move |ratio| ratio.id != id);
        let solid = || others().filter(|ratio| ratio.solid);
        let growth = if solid().count() >= LEAST_ROUTES {
            weighted_median(solid().map(|ratio| (ratio.ratio, ratio.weight))).unwrap_or(1.0)
        } else {
            self.pooled(id)
        };
        if growth.is_finite() && growth.ln() >= NO_GROWTH {
            growth
        } else {
            1.0
        }
    }

    fn pooled(&self, id: PartId) -> f64 {
        let others = || self.0.iter().filter(move |ratio| ratio.id != id);
        let rise = |ratio: &Ratio| ratio.now - ratio.before;
        let most = others()
            .max_by(|a, b| rise(a).total_cmp(&rise(b)))
            .filter(|_| others().nth(1).is_some());
        let rest = || others().filter(move |ratio| most.is_none_or(|most| most.id != ratio.id));
        let before: f64 = rest().map(|ratio| ratio.before).sum();
        let now: f64 = rest().map(|ratio| ratio.now).sum();
        let ticks: f64 = rest().map(|ratio| ratio.weight.powi(2)).sum();
        if ticks >= LEAST_EXPECTED && before > 0.0 {
            now / before
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(ticks: f64, sessions: &[f64]) -> Means {
        Means {
            ticks,
            in_use: sessions.iter().sum(),
            parts: (0u32..).zip(sessions.iter().copied()).collect(),
            ..Means::default()
        }
    }

    fn growth(before: &[f64], now: &[f64], without: PartId) -> f64 {
        let ids: Vec<PartId> = (0..before.len() as u32).collect();
        Growth::of(&ids, &means(1000.0, before), &means(10.0, now)).without(without)
    }

    #[test]
    fn everybody_rose_threefold() {
        assert!((growth(&[1.0, 2.0, 4.0, 0.5], &[3.0, 6.0, 12.0, 1.5], 2) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn one_riser_is_no_common_growth() {
        assert_eq!(
            growth(&[1.0, 2.0, 1.0, 0.5], &[1.0, 2.0, 40.0, 0.5], 0),
            1.0
        );
        assert_eq!(
            growth(&[1.0, 2.0, 1.0, 0.5], &[1.0, 2.0, 40.0, 0.5], 2),
            1.0
        );
    }

    #[test]
    fn few_routes_are_pooled_without_the_largest_riser() {
        assert_eq!(growth(&[2.0, 2.0], &[2.0, 40.0], 1), 1.0);
        assert_eq!(growth(&[2.0, 2.0, 2.0], &[2.0, 40.0, 2.0], 0), 1.0);
        assert!((growth(&[2.0, 2.0, 2.0], &[6.0, 6.0, 40.0], 2) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn shrinking_and_small_changes_count_as_none() {
        assert_eq!(
            growth(&[4.0, 4.0, 4.0, 4.0], &[1.0, 1.0, 1.0, 30.0], 3),
            1.0
        );
        assert_eq!(
            growth(&[4.0, 4.0, 4.0, 4.0], &[4.2, 4.2, 4.2, 30.0], 3),
            1.0
        );
        assert_eq!(growth(&[], &[], 0), 1.0);
    }
}
