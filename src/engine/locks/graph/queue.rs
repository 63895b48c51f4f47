//! The wait queue of one object, in the order in which PostgreSQL serves it.
//!
//! `pg_locks` does not show the order, so it is played again: a request goes to
//! the end of the queue, unless its session already holds a lock on the object
//! that a waiter in the queue has to wait for; then it goes before the first of
//! those (`JoinWaitQueue` in PostgreSQL's proc.c). The order of arrival is that
//! of `waitstart`, which is written just after the place in the queue is taken.
//!
//! Where this cannot be known, the edge says so:
//! * two requests that began at almost the same time, or whose start is not
//!   known, may have come in the other order;
//! * a session that came with a lock on the object may have gone before a
//!   waiter that has left since;
//! * the deadlock detector rearranges a queue to dissolve a cycle. A cycle that
//!   a queue has part in is seen in the graph; one that was dissolved and has
//!   lost a member since has left no trace.

use super::super::modes::{MODES, ModeSet, conflict_set};
use crate::sample::UnixSeconds;

/// Starts closer than this, in seconds, say nothing of the order: `waitstart`
/// is written without a lock, and a busy machine stops a process in between.
const CLOSE: f64 = 0.01;

/// A request that is not granted, as it stands in its queue.
#[derive(Debug, Clone, Copy)]
pub struct Queued {
    /// Who waits, as an index into the graph's nodes.
    pub node: u32,
    /// The row, as an index into the locks of the report.
    pub row: u32,
    /// `None` for a mode that nobody knows.
    pub mode: Option<usize>,
    /// Modes that its session (or its parallel group) holds on the object.
    pub held: ModeSet,
    pub start: Option<UnixSeconds>,
}

impl Queued {
    /// The modes that this request has to wait for.
    pub fn waits_for(&self) -> ModeSet {
        self.mode.map_or(0, conflict_set)
    }

    /// The one bit of its mode.
    pub fn bit(&self) -> ModeSet {
        self.mode.map_or(0, |mode| 1 << mode)
    }

    /// Whether it is known that `ahead`, which the order puts before this
    /// request, really stands there.
    pub fn is_surely_behind(&self, ahead: &Self) -> bool {
        let (Some(own), Some(other)) = (self.start, ahead.start) else {
            return false;
        };
        other + CLOSE < own && self.held == 0
    }
}

/// Puts the requests of one object in order.
pub fn arrange(mut requests: Vec<Queued>) -> Vec<Queued> {
    let key = |request: &Queued| request.start.unwrap_or(f64::INFINITY);
    requests.sort_by(|a, b| key(a).total_cmp(&key(b)).then(a.node.cmp(&b.node)));
    if requests.iter().all(|request| request.held == 0) {
        return requests;
    }
    let mut queue: Vec<Queued> = Vec::with_capacity(requests.len());
    // The first place of each mode, so that a queue of thousands is not walked
    // for every one of them.
    let mut first: [Option<usize>; MODES] = [None; MODES];
    for request in requests {
        let place = place(&request, &queue, &first).unwrap_or(queue.len());
        for seen in first.iter_mut().flatten() {
            *seen += usize::from(*seen >= place);
        }
        if let Some(mode) = request.mode {
            first[mode] = Some(first[mode].map_or(place, |seen| seen.min(place)));
        }
        queue.insert(place, request);
    }
    queue
}

/// Before which waiter a request is put; `None`: at the end.
fn place(request: &Queued, queue: &[Queued], first: &[Option<usize>; MODES]) -> Option<usize> {
    if request.held == 0 {
        return None;
    }
    let must_wait = |mode: usize| conflict_set(mode) & request.held != 0;
    let modes = first
        .iter()
        .enumerate()
        .filter(|(mode, _)| must_wait(*mode));
    let place = modes.filter_map(|(_, place)| *place).min()?;
    if queue[place].node != request.node {
        return Some(place);
    }
    // Members of one parallel group never wait for each other.
    queue
        .iter()
        .position(|waiter| waiter.node != request.node && waiter.waits_for() & request.held != 0)
}

#[cfg(test)]
mod tests {
    use super::super::super::modes::position;
    use super::*;

    fn request(node: u32, mode: &str, held: &[&str], start: f64) -> Queued {
        let bit = |mode: &&str| 1 << position(mode).unwrap();
        Queued {
            node,
            row: 0,
            mode: position(mode),
            held: held.iter().map(bit).fold(0, |all, bit: ModeSet| all | bit),
            start: Some(start),
        }
    }

    fn order(requests: Vec<Queued>) -> Vec<u32> {
        arrange(requests)
            .iter()
            .map(|request| request.node)
            .collect()
    }

    #[test]
    fn who_comes_first_is_served_first() {
        let requests = vec![
            request(3, "AccessShareLock", &[], 3.0),
            request(1, "AccessExclusiveLock", &[], 1.0),
            request(2, "RowExclusiveLock", &[], 2.0),
        ];
        assert_eq!(order(requests), [1, 2, 3]);
    }

    #[test]
    fn who_holds_what_a_waiter_needs_goes_before_it() {
        // 2 and 3 hold AccessShare, for which 1 waits; 3 goes before 1 as well,
        // and so behind 2.
        let requests = vec![
            request(9, "ShareLock", &[], 0.0),
            request(1, "AccessExclusiveLock", &[], 1.0),
            request(2, "RowExclusiveLock", &["AccessShareLock"], 2.0),
            request(3, "RowExclusiveLock", &["AccessShareLock"], 3.0),
        ];
        assert_eq!(order(requests), [9, 2, 3, 1]);
    }

    #[test]
    fn a_member_of_ones_own_group_is_passed_over() {
        let requests = vec![
            request(2, "AccessExclusiveLock", &["AccessShareLock"], 1.0),
            request(1, "AccessExclusiveLock", &[], 2.0),
            request(2, "RowExclusiveLock", &["AccessShareLock"], 3.0),
        ];
        assert_eq!(order(requests), [2, 2, 1]);
    }

    #[test]
    fn close_starts_and_early_places_are_not_sure() {
        let first = request(1, "ShareLock", &[], 1.0);
        assert!(request(2, "ShareLock", &[], 1.5).is_surely_behind(&first));
        assert!(!request(2, "ShareLock", &[], 1.001).is_surely_behind(&first));
        assert!(!request(2, "ShareLock", &["ShareLock"], 2.0).is_surely_behind(&first));
    }
}
