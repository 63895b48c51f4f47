//! What the endpoints of one service share: when all of them are asked for more,
//! it is the service that is, and none of them is to blame.
//!
//! ```text
//! g_i = weighted median of λ1/λ0 over the other endpoints of i's service
//! ```
//!
//! Without the endpoint itself, so that a large one cannot excuse itself. With
//! one service the growth of all says the same, and nothing is worked out here.

use super::common::{is_solid, snap};
use super::observed::Observed;
use crate::engine::stats::robust::weighted_quantile;

/// Other endpoints without which their median says nothing of the service.
const LEAST_OTHERS: usize = 3;

/// The endpoints with enough requests for a ratio.
#[derive(Debug, Default)]
pub struct Kin<'a> {
    solid: Vec<Ratio<'a>>,
}

#[derive(Debug)]
struct Ratio<'a> {
    service: &'a str,
    place: usize,
    growth: f64,
    weight: f64,
}

impl<'a> Kin<'a> {
    pub fn of(rows: &[Observed<'a>]) -> Self {
        let first = rows.first().map(|row| row.service);
        if rows.iter().all(|row| Some(row.service) == first) {
            return Self::default();
        }
        let solid = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| is_solid(&row.normal, &row.since));
        let ratios = solid.map(|(place, row)| {
            let expected = row.normal.requests / row.normal.window.max(1.0) * row.since.window;
            Ratio {
                service: row.service,
                place,
                growth: row.since.requests / expected,
                weight: expected.sqrt(),
            }
        });
        Self {
            solid: ratios.collect(),
        }
    }

    /// The factor by which the rates of the others of this service rose; `None`
    /// when too few tell.
    pub fn growth(&self, service: &str, place: usize) -> Option<f64> {
        let others = self
            .solid
            .iter()
            .filter(|ratio| ratio.service == service && ratio.place != place);
        let mut ratios: Vec<(f64, f64)> = others.map(|r| (r.growth, r.weight)).collect();
        if ratios.len() < LEAST_OTHERS {
            return None;
        }
        weighted_quantile(&mut ratios, 0.5).map(snap)
    }
}
