//! A logistic regression, small enough to be read.
//!
//! Newton's method (iteratively re-weighted least squares) with a ridge on all
//! weights but the intercept. A feature that is known to speak for, or against,
//! may not turn round because the sample is small: one that comes out with the
//! wrong sign is left out, the worst first, and the rest is fitted again.

/// Which way a feature may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    For,
    Against,
    Either,
}

/// One observation, with its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub features: Vec<f64>,
    pub right: bool,
    pub weight: f64,
}

/// Newton steps; it converges in ten.
const STEPS: usize = 50;

/// A step below this is none.
const CONVERGED: f64 = 1e-9;

/// The intercept and one weight a feature.
pub fn fit(cases: &[Case], signs: &[Sign], ridge: f64) -> Vec<f64> {
    let mut used: Vec<bool> = vec![true; signs.len()];
    loop {
        let weights = newton(cases, &used, ridge);
        let wrong = |place: usize| {
            let weight = weights[place + 1];
            match signs[place] {
                Sign::For if weight < 0.0 => -weight,
                Sign::Against if weight > 0.0 => weight,
                _ => 0.0,
            }
        };
        let worst = (0..signs.len())
            .filter(|&place| used[place] && wrong(place) > 0.0)
            .max_by(|&a, &b| wrong(a).total_cmp(&wrong(b)));
        match worst {
            Some(place) => used[place] = false,
            None => return weights,
        }
    }
}

/// The probability that these weights give.
pub fn probability(weights: &[f64], features: &[f64]) -> f64 {
    1.0 / (1.0 + (-odds(weights, features)).exp())
}

fn odds(weights: &[f64], features: &[f64]) -> f64 {
    let Some((intercept, weights)) = weights.split_first() else {
        return 0.0;
    };
    intercept
        + weights
            .iter()
            .zip(features)
            .map(|(w, x)| w * x)
            .sum::<f64>()
}

fn newton(cases: &[Case], used: &[bool], ridge: f64) -> Vec<f64> {
    let n = used.len() + 1;
    let mut weights = vec![0.0; n];
    for _ in 0..STEPS {
        let mut gradient = vec![0.0; n];
        let mut hessian = vec![vec![0.0; n]; n];
        for case in cases {
            let p = probability(&weights, &case.features);
            let error = case.weight * (f64::from(u8::from(case.right)) - p);
            let curve = case.weight * (p * (1.0 - p)).max(1e-9);
            let x = |i: usize| if i == 0 { 1.0 } else { case.features[i - 1] };
            for (i, row) in hessian.iter_mut().enumerate() {
                gradient[i] += error * x(i);
                for (j, cell) in row.iter_mut().enumerate().take(i + 1) {
                    *cell += curve * x(i) * x(j);
                }
            }
        }
        for i in 0..n {
            let (above, below) = hessian.split_at_mut(i);
            for (row, &cell) in above.iter_mut().zip(&below[0]) {
                row[i] = cell;
            }
            let penalty = if i == 0 { 1e-6 } else { ridge };
            gradient[i] -= penalty * weights[i];
            hessian[i][i] += penalty;
        }
        for i in (1..n).filter(|&i| !used[i - 1]) {
            // A unit row and column hold the weight at nothing.
            gradient[i] = 0.0;
            hessian[i].fill(0.0);
            for row in &mut hessian {
                row[i] = 0.0;
            }
            hessian[i][i] = 1.0;
        }
        let step = solve(hessian, gradient);
        let largest = step.iter().map(|s| s.abs()).fold(0.0, f64::max);
        // A long first step in separable data would overshoot.
        let scale = (5.0 / largest.max(5.0)).min(1.0);
        for (weight, step) in weights.iter_mut().zip(&step) {
            *weight += scale * step;
        }
        if largest < CONVERGED {
            break;
        }
    }
    weights
}

/// Gaussian elimination with pivots, of a symmetric positive matrix.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))
            .unwrap_or(column);
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        if matrix[column][column].abs() < 1e-300 {
            continue;
        }
        for row in column + 1..n {
            let factor = matrix[row][column] / matrix[column][column];
            let (above, below) = matrix.split_at_mut(row);
            for (cell, pivot) in below[0].iter_mut().zip(&above[column]).skip(column) {
                *cell -= factor * pivot;
            }
            right[row] -= factor * right[column];
        }
    }
    let mut solution = vec![0.0; n];
    for row in (0..n).rev() {
        let rest: f64 = (row + 1..n).map(|i| matrix[row][i] * solution[i]).sum();
        if matrix[row][row].abs() >= 1e-300 {
            solution[row] = (right[row] - rest) / matrix[row][row];
        }
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of a known model.
    fn cases(weights: &[f64], n: usize) -> Vec<Case> {
        let mut random = fastrand::Rng::with_seed(5);
        (0..n)
            .map(|_| {
                let features: Vec<f64> = (1..weights.len())
                    .map(|_| 2.0 * random.f64() - 1.0)
                    .collect();
                let right = random.f64() < probability(weights, &features);
                Case {
                    features,
                    right,
                    weight: 1.0,
                }
            })
            .collect()
    }

    #[test]
    fn known_weights_are_found() {
        let truth = [-0.5, 2.0, -1.0, 0.0];
        let found = fit(&cases(&truth, 20_000), &[Sign::Either; 3], 1e-3);
        for (found, truth) in found.iter().zip(truth) {
            assert!((found - truth).abs() < 0.12, "{found} for {truth}");
        }
    }

    #[test]
    fn a_sign_is_kept() {
        let found = fit(
            &cases(&[0.0, 2.0, 1.0], 3_000),
            &[Sign::For, Sign::Against],
            1e-3,
        );
        assert_eq!(found[2], 0.0);
        assert!(found[1] > 1.5);
    }

    #[test]
    fn separable_cases_stay_finite() {
        let case = |x: f64| Case {
            features: vec![x],
            right: x > 0.0,
            weight: 1.0,
        };
        let cases: Vec<Case> = (-20..20).map(|i| case(f64::from(i) + 0.5)).collect();
        let found = fit(&cases, &[Sign::For], 1.0);
        assert!(
            found.iter().all(|w| w.is_finite()) && found[1] > 0.1,
            "{found:?}"
        );
        assert!(fit(&[], &[Sign::For], 1.0).iter().all(|w| *w == 0.0));
    }
}
