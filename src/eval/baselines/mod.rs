//! The published methods that the engine is held against, on the same samples
//! and with the engine's own onset.
//!
//! Each gets what it is made for: series on one grid, as long a past as the
//! engine looks at, and, where it can be read in several ways, all of them, of
//! which the score keeps the best. They rank; none of them abstains.
//!
//! - largest volume and largest change of volume: what a person looks for first;
//! - Pearson and lagged cross-correlation with the watched sessions, as in
//!   Murphy-style rankings by similarity to the symptom;
//! - N-sigma: `max (b − mean a) / std a`, with a before and b after the onset
//!   (the baseline of Lin et al., "ε-Diagnosis", WWW 2019, and of `RCAEval`);
//! - BARO's `RobustScorer`: `max (b − median a) / IQR a` (Pham et al., FSE 2024),
//!   where a scale of nothing is one, as in their code;
//! - Adtributor: explanatory power and surprise (Bhagwan et al., NSDI 2014);
//! - the change of rate × duration, which is Little's law and nothing else.

pub mod adtributor;
pub mod correlation;
pub mod deviation;
pub mod grid;
pub mod volume;

use grid::Grid;

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    LargestVolume,
    LargestChange,
    Pearson,
    LaggedCorrelation,
    NSigma,
    Baro,
    Adtributor,
    RateTimesDuration,
}

/// What a series is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Requests a second.
    Rate,
    /// Seconds of requests a second, which is requests at a time.
    Busy,
    /// Mean seconds of a request, next to the rate.
    RateAndDuration,
}

/// One way to read a method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variant {
    pub method: Method,
    pub metric: Metric,
    /// Seconds of the past that it looks at.
    pub past: f64,
}

/// The half hour that the engine looks at, seconds.
const LONG: f64 = 1_800.0;

/// A window about the onset, for what correlates: the longer the calm before,
/// the less the onset weighs. Seconds.
const SHORT: f64 = 300.0;

impl Method {
    pub const ALL: [Self; 8] = [
        Self::LargestVolume,
        Self::LargestChange,
        Self::Pearson,
        Self::LaggedCorrelation,
        Self::NSigma,
        Self::Baro,
        Self::Adtributor,
        Self::RateTimesDuration,
    ];

    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LargestVolume => "largest volume",
            Self::LargestChange => "largest change of volume",
            Self::Pearson => "Pearson",
            Self::LaggedCorrelation => "lagged cross-correlation",
            Self::NSigma => "N-sigma",
            Self::Baro => "BARO RobustScorer",
            Self::Adtributor => "Adtributor",
            Self::RateTimesDuration => "change of rate x duration",
        }
    }

    /// The ways to read it.
    pub fn variants(self) -> Vec<Variant> {
        let of = |metric, past| Variant {
            method: self,
            metric,
            past,
        };
        match self {
            Self::LargestVolume | Self::Adtributor => {
                vec![of(Metric::Rate, LONG), of(Metric::Busy, LONG)]
            }
            Self::LargestChange => vec![of(Metric::Rate, LONG)],
            Self::Pearson | Self::LaggedCorrelation => vec![
                of(Metric::Rate, SHORT),
                of(Metric::Rate, LONG),
                of(Metric::Busy, SHORT),
                of(Metric::Busy, LONG),
            ],
            Self::NSigma | Self::Baro => {
                vec![of(Metric::Rate, LONG), of(Metric::RateAndDuration, LONG)]
            }
            Self::RateTimesDuration => vec![of(Metric::Busy, LONG)],
        }
    }
}

impl Variant {
    /// Of each endpoint of the grid, higher for the likelier.
    pub fn scores(&self, grid: &Grid) -> Vec<f64> {
        match self.method {
            Method::LargestVolume => volume::largest(grid, self.metric),
            Method::LargestChange | Method::RateTimesDuration => {
                volume::largest_change(grid, self.metric)
            }
            Method::Pearson => correlation::pearson(grid, self.metric, self.past),
            Method::LaggedCorrelation => correlation::lagged(grid, self.metric, self.past),
            Method::NSigma => deviation::n_sigma(grid, self.metric),
            Method::Baro => deviation::robust_scorer(grid, self.metric),
            Method::Adtributor => adtributor::rank(grid, self.metric),
        }
    }

    /// The places of the first three endpoints.
    pub fn first_three(&self, grid: &Grid) -> Vec<usize> {
        let scores = self.scores(grid);
        let mut order: Vec<usize> = (0..scores.len()).collect();
        let score = |place: usize| {
            let score = scores.get(place).copied().unwrap_or(f64::NEG_INFINITY);
            if score.is_nan() {
                f64::NEG_INFINITY
            } else {
                score
            }
        };
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        order.truncate(3);
        order
    }

    /// What it looks at, for the table.
    pub fn describe(&self) -> String {
        let metric = match self.metric {
            Metric::Rate => "rate",
            Metric::Busy => "rate x duration",
            Metric::RateAndDuration => "rate and duration",
        };
        format!("{metric}, {:.0} min", self.past / 60.0)
    }
}

#[cfg(test)]
mod tests;
