//! The wait-for graph of one look, its root blockers and the trees behind them.
//!
//! [`LockGraph`] is the graph itself, for whoever asks who waits for whom;
//! [`build`] says what people and metrics are shown of it. A root blocker
//! blocks somebody and waits for nobody; a prepared transaction can be one.
//!
//! Invariants: a root is never wrong, but it can be missing. Where rows of the
//! lock table are missing, a session counts as a root only if it is seen not to
//! wait, and the view says that it is not complete.

mod lists;
mod object;
mod queue;
mod roots;
mod table;
mod tree;
mod web;

use std::collections::BTreeMap;

pub use object::{Object, describe};
pub use table::{Contended, Edge, LockGraph, Node, Why};

use super::view::{RootBlocker, WaitsByType};
use crate::sample::{Lock, PostgresReport, UnixSeconds};

/// What is shown of one look.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WaitGraph {
    /// Most waiters first.
    pub roots: Vec<RootBlocker>,
    /// The longest chain behind a root, each waiter counted where it is
    /// nearest.
    pub depth: u32,
    pub waits: Vec<WaitsByType>,
    /// Rows of the lock table are missing: there may be more roots, and more
    /// waiters behind those that are told.
    pub truncated: bool,
}

/// Builds the graph of `report`; `now` is the server's clock, for ages.
pub fn build(report: &PostgresReport, now: UnixSeconds) -> WaitGraph {
    show(&LockGraph::of(report), now)
}

/// What is shown of a graph; `now` is the server's clock, for ages.
pub fn show(graph: &LockGraph<'_>, now: UnixSeconds) -> WaitGraph {
    let (roots, depth) = roots::of(graph, now);
    WaitGraph {
        roots,
        depth,
        waits: waits(graph, now),
        truncated: graph.report.locks_truncated,
    }
}

fn waits(graph: &LockGraph<'_>, now: UnixSeconds) -> Vec<WaitsByType> {
    let mut by_type: BTreeMap<&str, WaitsByType> = BTreeMap::new();
    for request in graph.report.locks.iter().filter(|lock| !lock.granted) {
        let entry = by_type
            .entry(&request.locktype)
            .or_insert_with(|| WaitsByType {
                locktype: request.locktype.clone(),
                ..WaitsByType::default()
            });
        entry.waiters += 1;
        let seconds = wait_seconds(graph, request, now);
        entry.longest_wait_seconds = longest(entry.longest_wait_seconds, seconds);
    }
    by_type.into_values().collect()
}

/// For how long a request waits. `waitstart` can be NULL for a moment; the
/// statement's start is then the best bound.
pub fn wait_seconds(graph: &LockGraph<'_>, request: &Lock, now: UnixSeconds) -> Option<f64> {
    let started = request
        .waitstart
        .or_else(|| graph.backend(request.pid?)?.query_start);
    age(started, now)
}

fn age(since: Option<UnixSeconds>, now: UnixSeconds) -> Option<f64> {
    since.map(|since| (now - since).max(0.0))
}

fn longest(most: Option<f64>, next: Option<f64>) -> Option<f64> {
    match (most, next) {
        (Some(most), Some(next)) => Some(most.max(next)),
        (most, next) => most.or(next),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
