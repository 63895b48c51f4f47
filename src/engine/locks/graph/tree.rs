//! The tree of waiters behind a root blocker.
//!
//! Each waiter is drawn once, where it is nearest to the root, so that a queue
//! of writers behind one holder is a list and not a staircase.

use super::super::view::WaitNode;
use super::table::{LockGraph, Node};
use super::web::{Marks, Reached};
use super::{describe, wait_seconds};
use crate::engine::tables::{Table, with_room};
use crate::sample::UnixSeconds;

/// Deeper chains are cut in the tree (never in the counts): nobody reads on.
const TREE_DEPTH: u32 = 32;
/// Waiters drawn under one root blocker; `waiters` still counts all.
const TREE_NODES: usize = 500;
/// Waiters drawn in one look: a thousand readers in the way of one migration
/// have the same thousand waiters behind each of them.
const LOOK_NODES: usize = 2_000;

/// The trees of one look, while they are drawn.
pub struct Drawing<'g, 'a> {
    graph: &'g LockGraph<'a>,
    now: UnixSeconds,
    marks: Marks,
    left: usize,
}

/// Why a waiter stands under its parent.
struct Place {
    row: u32,
    queued: bool,
    sure: bool,
}

impl<'g, 'a> Drawing<'g, 'a> {
    pub fn new(graph: &'g LockGraph<'a>, now: UnixSeconds) -> Self {
        Self {
            graph,
            now,
            marks: graph.web.marks(),
            left: LOOK_NODES,
        }
    }

    /// The tree behind a root.
    pub fn of(&mut self, root: u32) -> Vec<WaitNode> {
        if self.left == 0 {
            return Vec::new();
        }
        let reached = self.graph.web.walk(root, &mut self.marks);
        let near = reached
            .iter()
            .take_while(|waiter| waiter.level <= TREE_DEPTH);
        let drawn: Vec<&Reached> = near.take(TREE_NODES.min(self.left)).collect();
        self.left -= drawn.len();
        let mut children: Table<u32, Vec<WaitNode>> = with_room(drawn.len() + 1);
        // The nearest come first, so from the end every tree is whole when its
        // parent is drawn.
        for waiter in drawn.into_iter().rev() {
            let tree = sorted(children.remove(&waiter.node).unwrap_or_default());
            if let Some(node) = self.node(waiter, tree) {
                // Mostly it is the only one.
                let siblings = children.entry(waiter.parent);
                siblings.or_insert_with(|| Vec::with_capacity(1)).push(node);
            }
        }
        sorted(children.remove(&root).unwrap_or_default())
    }

    fn node(&self, waiter: &Reached, tree: Vec<WaitNode>) -> Option<WaitNode> {
        let Node::Backend(pid) = self.graph.nodes[waiter.node as usize] else {
            return None;
        };
        let place = self.place(waiter)?;
        let request = self.graph.row(place.row);
        let backend = self.graph.backend(pid);
        Some(WaitNode {
            pid,
            waits_for: describe(request),
            wait_seconds: wait_seconds(self.graph, request, self.now),
            application: backend.and_then(|b| b.application.clone()),
            state: backend.and_then(|b| b.state.clone()),
            query: backend.and_then(|b| b.query.clone()),
            queued: place.queued,
            order_assumed: !place.sure,
            tree,
        })
    }

    /// Which request of the waiter the parent is in the way of: by a lock it
    /// holds, else by its place in the queue.
    fn place(&self, waiter: &Reached) -> Option<Place> {
        let graph = self.graph;
        let requests = graph.requests.at(waiter.node);
        let request = |(object, place): (u32, u32)| {
            (
                object,
                place,
                graph.objects[object as usize].queue[place as usize],
            )
        };
        for (object, _, own) in requests.iter().copied().map(request) {
            if graph.modes_held(waiter.parent, object) & own.waits_for() != 0 {
                return Some(Place {
                    row: own.row,
                    queued: false,
                    sure: true,
                });
            }
        }
        for (object, place, own) in requests.iter().copied().map(request) {
            let ahead = graph.requests.at(waiter.parent).iter().copied();
            let mut ahead = ahead.filter(|(at, before)| *at == object && *before < place);
            let other = ahead.find_map(|at| {
                let (_, _, other) = request(at);
                (other.bit() & own.waits_for() != 0).then_some(other)
            });
            if let Some(other) = other {
                return Some(Place {
                    row: own.row,
                    queued: true,
                    sure: graph.is_sure(&own, &other),
                });
            }
        }
        None
    }
}

/// Who waits longest comes first.
fn sorted(mut nodes: Vec<WaitNode>) -> Vec<WaitNode> {
    let seconds = |node: &WaitNode| node.wait_seconds.unwrap_or(0.0);
    nodes.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)).then(a.pid.cmp(&b.pid)));
    nodes
}
