//! The root blockers of a look, as a person needs to know them.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::super::modes::{ModeSet, position};
use super::super::prepared;
use super::super::view::{LockObject, RootBlocker, WaitNode};
use super::table::{LockGraph, Node};
use super::tree;
use super::web::Marks;
use super::{age, count, describe, longest, wait_seconds};
use crate::sample::{Backend, UnixSeconds};

/// Root blockers told in full, those with most waiters; the others by pid and
/// counts only.
const FULL_ROOTS: usize = 100;

/// Root blockers in the way of the same requests have the same tree: after so
/// many of them those in the way of others come first.
const ALIKE: u32 = 3;

/// Locks listed of a root blocker.
const HOLDS: usize = 20;

/// Sessions passed while the waiters of all roots are counted: a second on a
/// slow machine. Roots beyond it are told with their direct waiters only.
const MAX_STEPS: usize = 5_000_000;

/// The last words of a wraparound vacuum in `pg_stat_activity`.
const WRAPAROUND: &str = "(to prevent wraparound)";

/// How many wait behind a root.
#[derive(Debug, Clone, Copy, Default)]
struct Behind {
    all: u32,
    direct: u32,
    longest: Option<f64>,
    depth: u32,
    /// The same for roots that are in the way of the same requests.
    alike: usize,
}

/// The roots, most waiters first, and the depth of the longest chain.
pub fn of(graph: &LockGraph<'_>, now: UnixSeconds) -> (Vec<RootBlocker>, u32) {
    let mut counted = Counted::new(graph, now);
    let lacking = graph.lacks_requests();
    let roots = graph.root_indexes();
    let trusted = roots.filter(|&at| !lacking || is_seen_not_to_wait(graph, at));
    let mut roots: Vec<(u32, Behind)> = trusted.map(|at| (at, counted.behind(at))).collect();
    roots.sort_by_key(|(at, behind)| (Reverse(behind.all), graph.nodes[*at as usize]));
    let depth = roots.iter().map(|(_, behind)| behind.depth).max();
    let mut drawing = tree::Drawing::new(graph, now);
    let full = by_turns(&roots).into_iter().take(FULL_ROOTS);
    let mut trees: HashMap<usize, Vec<WaitNode>> =
        full.map(|n| (n, drawing.of(roots[n].0))).collect();
    let described = roots.iter().enumerate().map(|(n, &(at, behind))| {
        let node = graph.nodes[at as usize];
        let tree = trees.remove(&n);
        let full = tree.is_some();
        let described = match node {
            Node::Backend(pid) if full => backend(graph, at, pid, now),
            Node::Backend(pid) => RootBlocker {
                pid: Some(pid),
                ..RootBlocker::default()
            },
            Node::Prepared(xid) => transaction(graph, xid, now),
        };
        RootBlocker {
            waiters: behind.all,
            direct_waiters: behind.direct,
            longest_wait_seconds: behind.longest,
            depth: behind.depth,
            holds: if full {
                in_the_way(graph, at)
            } else {
                Vec::new()
            },
            tree: tree.unwrap_or_default(),
            ..described
        }
    });
    (described.collect(), depth.unwrap_or(0))
}

/// The places of the roots in the order in which they are told in full.
fn by_turns(roots: &[(u32, Behind)]) -> Vec<usize> {
    let mut turns: HashMap<usize, u32> = HashMap::new();
    let late = roots.iter().map(|(_, behind)| {
        let turn = turns.entry(behind.alike).or_insert(0);
        *turn += 1;
        *turn > ALIKE
    });
    let (late, first): (Vec<_>, Vec<_>) = late.enumerate().partition(|(_, late)| *late);
    first.into_iter().chain(late).map(|(n, _)| n).collect()
}

/// Where requests may be missing, a holder without one may wait all the same:
/// it is a root only if its session is seen to do something else. A prepared
/// transaction never waits.
fn is_seen_not_to_wait(graph: &LockGraph<'_>, at: u32) -> bool {
    let Node::Backend(pid) = graph.nodes[at as usize] else {
        return true;
    };
    graph.backend(pid).is_some_and(|backend| {
        backend.state.is_some() && backend.wait_event_type.as_deref() != Some("Lock")
    })
}

/// Counts the waiters behind roots. Roots that are in the way of the same
/// requests have the same waiters: a thousand readers in the way of one
/// migration are counted once.
struct Counted<'g, 'a> {
    graph: &'g LockGraph<'a>,
    now: UnixSeconds,
    marks: Marks,
    known: HashMap<Vec<(u32, ModeSet)>, Behind>,
    steps: usize,
}

impl<'g, 'a> Counted<'g, 'a> {
    fn new(graph: &'g LockGraph<'a>, now: UnixSeconds) -> Self {
        Self {
            graph,
            now,
            marks: graph.web.marks(),
            known: HashMap::new(),
            steps: MAX_STEPS,
        }
    }

    fn behind(&mut self, root: u32) -> Behind {
        let graph = self.graph;
        let mut key: Vec<(u32, ModeSet)> = Vec::new();
        for &(object, row) in graph.held.at(root) {
            let mode = position(&graph.row(row).mode).map_or(0, |mode| 1 << mode);
            let bit = mode & graph.objects[object as usize].wanted;
            if bit != 0 {
                key.push((object, bit));
            }
        }
        key.sort_unstable();
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let direct = count(graph.directly_behind(root).len());
        let mut behind = Behind {
            all: direct,
            direct,
            alike: self.known.len(),
            ..Behind::default()
        };
        if self.steps > 0 {
            let reached = graph.web.walk(root, &mut self.marks);
            self.steps = self.steps.saturating_sub(reached.len());
            behind.all = count(reached.len());
            behind.depth = reached.last().map_or(0, |last| last.level);
            for waiter in &reached {
                for &(object, place) in graph.requests.at(waiter.node) {
                    let row = graph.objects[object as usize].queue[place as usize].row;
                    let seconds = wait_seconds(graph, graph.row(row), self.now);
                    behind.longest = longest(behind.longest, seconds);
                }
            }
        }
        self.known.insert(key, behind);
        behind
    }
}

fn backend(graph: &LockGraph<'_>, at: u32, pid: i32, now: UnixSeconds) -> RootBlocker {
    // Without its row it was gone when the activity was read, after the locks:
    // whoever has the pid by now is somebody else.
    let Some(backend) = graph.backend(pid) else {
        return RootBlocker {
            pid: Some(pid),
            ..RootBlocker::default()
        };
    };
    let moved_on = has_moved_on(graph, at, backend);
    RootBlocker {
        pid: Some(pid),
        database: backend.database.clone(),
        user: backend.user.clone(),
        application: backend.application.clone(),
        client: backend.client.clone(),
        state: backend.state.clone().filter(|_| !moved_on),
        transaction_seconds: age(backend.xact_start.filter(|_| !moved_on), now),
        state_seconds: age(backend.state_change.filter(|_| !moved_on), now),
        query: backend.query.clone().filter(|_| !moved_on),
        action: if moved_on {
            String::new()
        } else {
            way_out(backend)
        },
        ..RootBlocker::default()
    }
}

/// Whether the transaction that held the locks was over when the activity was
/// read: another had begun, or none was open, and without one a session keeps
/// none but advisory locks. What it does now is no explanation, and to end it
/// would free nobody.
fn has_moved_on(graph: &LockGraph<'_>, at: u32, backend: &Backend) -> bool {
    let clock = graph.report.server.as_ref().and_then(|server| server.clock);
    let began = backend.xact_start.zip(clock);
    let keeps = |(_, row): &(u32, u32)| graph.row(*row).locktype == "advisory";
    began.is_some_and(|(began, read)| began > read)
        || (backend.state.as_deref() == Some("idle") && !graph.held.at(at).iter().any(keeps))
}

/// The gentlest statement that lets the others go on.
fn way_out(backend: &Backend) -> String {
    let pid = backend.pid;
    let query = backend.query.as_deref().unwrap_or_default();
    if backend.user.is_none() && query.starts_with("autovacuum: ") {
        // Cancelled, a wraparound vacuum begins anew at once; any other one is
        // cancelled by PostgreSQL itself when a waiter's deadlock_timeout is
        // over.
        return if query.contains(WRAPAROUND) {
            "let it end: a vacuum against wraparound begins anew when it is cancelled".to_owned()
        } else {
            format!("SELECT pg_cancel_backend({pid});")
        };
    }
    // A running statement can be cancelled and the session kept; an idle
    // transaction only ends with its session.
    let running = backend.state.as_deref() == Some("active");
    let call = if running { "cancel" } else { "terminate" };
    format!("SELECT pg_{call}_backend({pid});")
}

fn transaction(graph: &LockGraph<'_>, xid: &str, now: UnixSeconds) -> RootBlocker {
    let known = graph.prepared.transaction(xid);
    RootBlocker {
        prepared: Some(known.map_or(xid, |row| &row.gid).to_owned()),
        database: known.and_then(|row| row.database.clone()),
        user: known.and_then(|row| row.owner.clone()),
        transaction_seconds: known.and_then(|row| age(row.prepared, now)),
        // Without its row only its number is known, and no statement takes that.
        action: known.map_or_else(String::new, |row| prepared::either_way(&row.gid)),
        ..RootBlocker::default()
    }
}

/// The locks of a root that somebody has to wait for.
fn in_the_way(graph: &LockGraph<'_>, root: u32) -> Vec<LockObject> {
    let held = graph.held.at(root).iter();
    let wanted = held.filter(|&&(object, row)| {
        let mode = position(&graph.row(row).mode).map_or(0, |mode| 1 << mode);
        graph.objects[object as usize].wanted & mode != 0
    });
    let locks = wanted.map(|&(_, row)| describe(graph.row(row)));
    locks.take(HOLDS).collect()
}
