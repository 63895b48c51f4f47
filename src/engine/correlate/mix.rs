//! The sessions in use in one look, by whom they work for.

use super::parts::Part;
use super::services::Services;
use super::sessions::{in_use, waits_for_lock};
use crate::engine::tables::Table;
use crate::sample::PostgresReport;

/// What one look tells of the sessions in use.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mix {
    /// Sessions in use.
    pub in_use: f64,
    /// Those that wait for a heavyweight lock.
    pub lock_waits: f64,
    /// Clients waiting in the poolers.
    pub pooler_waits: f64,
    /// The sessions in use, each part once, in no order.
    pub parts: Vec<(Part, f64)>,
}

impl Mix {
    /// The mix of a report that tells of sessions in use.
    pub fn of(
        report: &PostgresReport,
        clients_waiting: u32,
        target: &str,
        services: &Services,
    ) -> Self {
        let mut mix = Self {
            pooler_waits: f64::from(clients_waiting),
            ..Self::default()
        };
        let mut counts: Table<Part, f64> = Table::default();
        for group in in_use(report) {
            let count = f64::from(group.count);
            mix.in_use += count;
            if waits_for_lock(group) {
                mix.lock_waits += count;
            }
            let application = group.application.as_deref();
            let service = services.of(target, application).to_owned();
            let part = match &group.route {
                Some(route) => Part::Route {
                    service,
                    route: route.clone(),
                },
                None => Part::Untagged {
                    service,
                    application: application.unwrap_or("").to_owned(),
                },
            };
            *counts.entry(part).or_default() += count;
        }
        mix.parts = counts.into_iter().collect();
        mix
    }

    /// Sessions in use and clients waiting for one: the watched quantity.
    pub fn watched(&self) -> f64 {
        self.in_use + self.pooler_waits
    }
}
