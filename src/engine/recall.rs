//! What the detectors must know of the time before the program was started,
//! read out of the history: looks as they would have been fed.
//!
//! A restart is no second warm-up. The looks of the last hours pass through the
//! same detectors as live ones, so that the baseline, and an incident that ran
//! when the program ended, are as if it had been watched all along; only the gap
//! is missing, and a gap is a silence.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::correlate::Mix;
use super::correlate::parts::Part;
use super::detect::census::Census;
use super::series::feed::{names, postgres_source};
use super::series::{Block, Key, Millis, Store, seconds};
use crate::sample::{PoolStats, UnixSeconds};

/// The series that make up a look.
const RECALLED: [&str; 8] = [
    names::IN_USE,
    names::CLIENTS_WAITING,
    names::LOCK_WAITS,
    names::STARTED_AT,
    names::ROUTE,
    names::UNTAGGED,
    CONNECTIONS,
    OPENED,
];

const CONNECTIONS: &str = "snowpit_connections";
const OPENED: &str = "snowpit_sessions_opened_total";

/// Label values that stand for several, or for nothing.
const OTHER: &str = "other";
const UNKNOWN: &str = "unknown";

/// Totals of a pooler: transactions, queries, seconds of queries.
const TOTALS: [&str; 3] = [
    "snowpit_pool_transactions_total",
    "snowpit_pool_queries_total",
    "snowpit_pool_query_seconds_total",
];

/// SHOW commands count microseconds.
const MICROSECONDS: f64 = 1e6;

/// One look of the past.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub t: UnixSeconds,
    /// When the server had been started.
    pub started_at: Option<UnixSeconds>,
    pub mix: Mix,
    pub census: Census,
    /// The counter of sessions opened.
    pub opened_total: Option<f64>,
}

/// Calls `visit` with the looks of a target that tell of sessions in use, in
/// order of time, each once however many blocks have it.
pub fn looks(store: &Store, target: &str, mut visit: impl FnMut(Look)) {
    let mut last = Millis::MIN;
    for block in store.blocks_of(&postgres_source(target)) {
        let columns = Columns::of(block);
        for (row, &t) in block.times().iter().enumerate() {
            if t > last
                && let Some(look) = columns.look(row, t)
            {
                last = t;
                visit(look);
            }
        }
    }
}

/// The unpacked columns of a block that matter.
#[derive(Debug, Default)]
struct Columns {
    in_use: Vec<f64>,
    waiting: Vec<f64>,
    lock_waits: Vec<f64>,
    started_at: Vec<f64>,
    parts: Vec<(Part, Vec<f64>)>,
    opened: Vec<f64>,
    /// By application and state.
    sessions: Vec<(String, String, Vec<f64>)>,
}

impl Columns {
    fn of(block: &Arc<Block>) -> Self {
        let mut columns = Self::default();
        for (at, key) in block.keys().iter().enumerate() {
            let name = key.name();
            if !RECALLED.contains(&name) {
                continue;
            }
            let mut values = Vec::new();
            // A column that cannot be unpacked tells nothing.
            if block.values(at, &mut values).is_err() {
                continue;
            }
            match name {
                names::IN_USE => columns.in_use = values,
                names::CLIENTS_WAITING => columns.waiting = values,
                names::LOCK_WAITS => columns.lock_waits = values,
                names::STARTED_AT => columns.started_at = values,
                OPENED => columns.opened = values,
                CONNECTIONS => {
                    let label = |name| key.label(name).unwrap_or_default();
                    columns
                        .sessions
                        .push((label("application"), label("state"), values));
                }
                _ => columns.parts.extend(part(key).map(|part| (part, values))),
            }
        }
        columns
    }

    fn census(&self, row: usize) -> Census {
        let mut census = Census {
            lock_waits: value(&self.lock_waits, row).unwrap_or(0.0),
            ..Census::default()
        };
        for (application, state, values) in &self.sessions {
            let Some(count) = value(values, row).filter(|count| *count > 0.0) else {
                continue;
            };
            let state = Some(state.as_str()).filter(|state| *state != UNKNOWN);
            match application.as_str() {
                // Of several applications: only their sum is known.
                OTHER => census.total.add(state, count),
                UNKNOWN => census.add("", state, count),
                name => census.add(name, state, count),
            }
        }
        census
    }

    fn look(&self, row: usize, t: Millis) -> Option<Look> {
        let parts = self.parts.iter().filter_map(|(part, values)| {
            let sessions = value(values, row)?;
            (sessions > 0.0).then(|| (part.clone(), sessions))
        });
        Some(Look {
            t: seconds(t),
            started_at: value(&self.started_at, row),
            census: self.census(row),
            opened_total: value(&self.opened, row),
            mix: Mix {
                in_use: value(&self.in_use, row)?,
                pooler_waits: value(&self.waiting, row)?,
                lock_waits: value(&self.lock_waits, row).unwrap_or(0.0),
                parts: parts.collect(),
            },
        })
    }
}

/// Calls `visit` with the totals of a pooler, in order of time.
pub fn totals(store: &Store, pooler: &str, mut visit: impl FnMut(UnixSeconds, Vec<PoolStats>)) {
    let mut last = Millis::MIN;
    for block in store.blocks_of(&format!("pgbouncer/{pooler}")) {
        let columns = totals_of(block);
        for (row, &t) in block.times().iter().enumerate() {
            if t <= last {
                continue;
            }
            last = t;
            let stats = columns.iter().filter_map(|(database, totals)| {
                let [transactions, queries, seconds] = totals;
                Some(PoolStats {
                    database: database.clone(),
                    total_xact_count: whole(value(transactions, row)?),
                    total_query_count: whole(value(queries, row)?),
                    total_query_time: whole(value(seconds, row)? * MICROSECONDS),
                    ..PoolStats::default()
                })
            });
            visit(seconds(t), stats.collect());
        }
    }
}

/// The columns of [`TOTALS`] by database.
fn totals_of(block: &Block) -> BTreeMap<String, [Vec<f64>; 3]> {
    let mut columns: BTreeMap<String, [Vec<f64>; 3]> = BTreeMap::new();
    for (at, key) in block.keys().iter().enumerate() {
        let Some(place) = TOTALS.iter().position(|name| *name == key.name()) else {
            continue;
        };
        let mut values = Vec::new();
        if block.values(at, &mut values).is_ok()
            && let Some(database) = key.label("database")
            && let Some(column) = columns.entry(database).or_default().get_mut(place)
        {
            *column = values;
        }
    }
    columns
}

fn whole(value: f64) -> u64 {
    // Negative numbers and those that are none become 0, large ones the largest.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates; whole microseconds and counts are meant"
    )]
    {
        value.round() as u64
    }
}

fn value(values: &[f64], row: usize) -> Option<f64> {
    values.get(row).copied().filter(|value| !value.is_nan())
}

fn part(key: &Key) -> Option<Part> {
    match key.name() {
        names::ROUTE => Some(Part::Route {
            service: key.label("service")?,
            route: key.label("route")?,
        }),
        names::UNTAGGED => Some(Part::Untagged {
            service: key.label("service")?,
            application: key.label("application")?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
