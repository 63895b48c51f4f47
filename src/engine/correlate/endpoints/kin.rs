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
use super::flow::Ended;
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
    /// Of each endpoint its service, and what ended before the onset and since.
    pub fn of(endpoints: impl Iterator<Item = (&'a str, Ended, Ended)> + Clone) -> Self {
        let first = endpoints.clone().next().map(|(service, ..)| service);
        if endpoints
            .clone()
            .all(|(service, ..)| Some(service) == first)
        {
            return Self::default();
        }
        let solid = endpoints
            .enumerate()
            .filter(|(_, (_, normal, since))| is_solid(normal, since));
        let ratios = solid.map(|(place, (service, normal, since))| {
            let expected = normal.requests / normal.window.max(1.0) * since.window;
            Ratio {
                service,
                place,
                growth: since.requests / expected,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of endpoints the service, and the rate before and since.
    fn of(endpoints: &[(&'static str, f64, f64)]) -> Kin<'static> {
        let ended = |window: f64, rate: f64| Ended {
            window,
            requests: rate * window,
            seconds: rate * window * 0.1,
        };
        let endpoints = endpoints
            .iter()
            .map(|&(service, before, now)| (service, ended(1_800.0, before), ended(30.0, now)));
        Kin::of(endpoints)
    }

    #[test]
    fn a_service_that_surges_excuses_its_largest_endpoint() {
        let shop = [
            ("shop", 20.0, 60.0),
            ("shop", 4.0, 12.0),
            ("shop", 2.0, 6.0),
        ];
        let mut all = vec![("mail", 9.0, 9.0), ("shop", 1.0, 3.0)];
        all.extend(shop);
        let kin = of(&all);
        assert_eq!(kin.growth("shop", 2), Some(3.0));
        assert_eq!(kin.growth("mail", 0), None, "there are no others to ask");
    }

    #[test]
    fn nobody_excuses_itself() {
        let calm = [("shop", 2.0, 2.0), ("shop", 1.0, 1.0), ("shop", 1.5, 1.5)];
        let mut all = vec![("shop", 50.0, 500.0), ("mail", 9.0, 9.0)];
        all.extend(calm);
        assert_eq!(of(&all).growth("shop", 0), Some(1.0));
    }

    #[test]
    fn one_service_alone_is_everybody() {
        let all = [("shop", 2.0, 6.0); 5];
        assert_eq!(of(&all).growth("shop", 0), None);
    }
}
