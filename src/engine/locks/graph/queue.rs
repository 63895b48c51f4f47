//! The wait queue of one object, in the order in which PostgreSQL serves it.
//!
//! `pg_locks` does not show the order, so it is played again: a request goes to
//! the end of the queue, unless its session already holds a lock on the object
//! that a waiter in the queue has to wait for; then it goes before the first of
//! those (`JoinWaitQueue` in PostgreSQL's proc.c). The order of arrival is that
//! of `waitstart`, which is written just after the place in the queue is taken.
//!
//! Where PostgreSQL was asked (`pg_blocking_pids`), its answer counts. Where it
//! was not, and the order cannot be known, the edge says so:
//! * two requests that began at almost the same time, or whose start is not
//!   known, may have come in the other order;
//! * a session that came with a lock on the object may have gone before a
//!   waiter that has left since;
//! * the deadlock detector rearranges a queue to dissolve a cycle. A cycle that
//!   a queue has part in is seen in the graph. One that was dissolved and has
//!   lost a member since has left no trace but in PostgreSQL's answer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::super::modes::{MODES, ModeSet, conflict_set};
use super::table::FEW;
use crate::engine::tables::Table;
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

/// Says of each request what its session holds of the same object.
pub fn add_held(requests: &mut [Queued], holders: &[(u32, ModeSet)]) {
    if holders.len() <= FEW {
        for request in requests {
            let own = holders.iter().find(|(node, _)| *node == request.node);
            request.held = own.map_or(0, |(_, modes)| *modes);
        }
        return;
    }
    let holders: Table<u32, ModeSet> = holders.iter().copied().collect();
    for request in requests {
        request.held = holders.get(&request.node).copied().unwrap_or(0);
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

/// What PostgreSQL says of the waiters that it was asked about: by node, the
/// nodes that block it.
pub type Answers = HashMap<u32, HashSet<u32>>;

/// Whether an answer tells that `ahead` stands before `own`; `None` when
/// neither was asked about, or their requests do not conflict. A session that
/// holds what the other waits for blocks it from any place.
pub fn told(answers: &Answers, own: &Queued, ahead: &Queued) -> Option<bool> {
    if own.waits_for() & ahead.bit() != 0
        && own.waits_for() & ahead.held == 0
        && let Some(blockers) = answers.get(&own.node)
    {
        return Some(blockers.contains(&ahead.node));
    }
    if ahead.waits_for() & own.bit() != 0
        && ahead.waits_for() & own.held == 0
        && let Some(blockers) = answers.get(&ahead.node)
    {
        return Some(!blockers.contains(&own.node));
    }
    None
}

/// Puts the answers right: the order stays as it is where they say nothing.
/// Answers that contradict each other (the queue moved on between them) change
/// nothing.
pub fn rearrange(queue: Vec<Queued>, answers: &Answers) -> Vec<Queued> {
    let asked = |request: &Queued| answers.contains_key(&request.node);
    if queue.len() < 2 || !queue.iter().any(asked) {
        return queue;
    }
    let mut before = vec![0u32; queue.len()];
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); queue.len()];
    let mut moved = false;
    // An asked one with each other: few are asked, queues can be long.
    for (one, own) in queue.iter().enumerate().filter(|(_, own)| asked(own)) {
        for (other, ahead) in queue.iter().enumerate() {
            let seen = asked(ahead) && other < one;
            if seen || other == one || own.node == ahead.node {
                continue;
            }
            let Some(other_first) = told(answers, own, ahead) else {
                continue;
            };
            let (first, second) = if other_first {
                (other, one)
            } else {
                (one, other)
            };
            moved |= first > second;
            before[second] += 1;
            after[first].push(second);
        }
    }
    if !moved {
        return queue;
    }
    let free = before.iter().enumerate().filter(|(_, count)| **count == 0);
    let mut open: BinaryHeap<Reverse<usize>> = free.map(|(at, _)| Reverse(at)).collect();
    let mut ordered = Vec::with_capacity(queue.len());
    while let Some(Reverse(at)) = open.pop() {
        ordered.push(queue[at]);
        for &next in &after[at] {
            before[next] -= 1;
            if before[next] == 0 {
                open.push(Reverse(next));
            }
        }
    }
    if ordered.len() == queue.len() {
        ordered
    } else {
        queue
    }
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
    fn an_answer_counts_more_than_the_clock() {
        let queue = || {
            vec![
                request(1, "ExclusiveLock", &[], 1.0),
                request(2, "ExclusiveLock", &[], 2.0),
                request(3, "ExclusiveLock", &[], 3.0),
            ]
        };
        let nodes = |queue: Vec<Queued>| queue.iter().map(|r| r.node).collect::<Vec<_>>();
        // 3 stands before 2, which says so itself.
        let answers = Answers::from([(2, HashSet::from([1, 3]))]);
        assert_eq!(nodes(rearrange(queue(), &answers)), [1, 3, 2]);
        // Each claims to be before the other: the queue moved in between.
        let answers = Answers::from([
            (2, HashSet::from([1])),
            (1, HashSet::new()),
            (3, HashSet::new()),
        ]);
        assert_eq!(nodes(rearrange(queue(), &answers)), [1, 2, 3]);
    }

    #[test]
    fn close_starts_and_early_places_are_not_sure() {
        let first = request(1, "ShareLock", &[], 1.0);
        assert!(request(2, "ShareLock", &[], 1.5).is_surely_behind(&first));
        assert!(!request(2, "ShareLock", &[], 1.001).is_surely_behind(&first));
        assert!(!request(2, "ShareLock", &["ShareLock"], 2.0).is_surely_behind(&first));
    }
}
