//! What the detectors must know of the time before the program was started,
//! read out of the history: looks as they would have been fed.
//!
//! A restart is no second warm-up. The looks of the last hours pass through the
//! same detectors as live ones, so that the baseline, and an incident that ran
//! when the program ended, are as if it had been watched all along; only the gap
//! is missing, and a gap is a silence.

use std::sync::Arc;

use super::correlate::Mix;
use super::correlate::parts::Part;
use super::series::feed::{names, postgres_source};
use super::series::{Block, Key, Millis, Store, seconds};
use crate::sample::UnixSeconds;

/// The series that make up a look.
const RECALLED: [&str; 6] = [
    names::IN_USE,
    names::CLIENTS_WAITING,
    names::LOCK_WAITS,
    names::STARTED_AT,
    names::ROUTE,
    names::UNTAGGED,
];

/// One look of the past.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub t: UnixSeconds,
    /// When the server had been started.
    pub started_at: Option<UnixSeconds>,
    pub mix: Mix,
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
                _ => columns.parts.extend(part(key).map(|part| (part, values))),
            }
        }
        columns
    }

    fn look(&self, row: usize, t: Millis) -> Option<Look> {
        let parts = self.parts.iter().filter_map(|(part, values)| {
            let sessions = value(values, row)?;
            (sessions > 0.0).then(|| (part.clone(), sessions))
        });
        Some(Look {
            t: seconds(t),
            started_at: value(&self.started_at, row),
            mix: Mix {
                in_use: value(&self.in_use, row)?,
                pooler_waits: value(&self.waiting, row)?,
                lock_waits: value(&self.lock_waits, row).unwrap_or(0.0),
                parts: parts.collect(),
            },
        })
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
