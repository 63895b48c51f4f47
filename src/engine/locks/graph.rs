//! The wait-for graph of one look, its root blockers and the trees behind them.
//!
//! A request waits for every granted lock on the same object whose mode
//! conflicts, and for every conflicting request that was queued before it.
//! Parallel workers count as their leader. A root blocker blocks somebody and
//! waits for nobody; a prepared transaction can be one. Row locks wait on
//! `transactionid`, whose `database` is NULL: no column of the object is ever
//! required.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use super::key::LockKey;
use super::modes::{MODES, conflicts, position};
use super::prepared::{self, Prepared};
use super::view::{LockObject, RootBlocker, WaitNode, WaitsByType};
use crate::sample::{Backend, Lock, PostgresReport, UnixSeconds};

/// Deeper chains are cut in the tree (never in the counts): nobody reads on.
const TREE_DEPTH: u32 = 32;
/// Waiters drawn under one root blocker; `waiters` still counts all.
const TREE_NODES: usize = 500;
/// Waiters drawn in one look: a thousand readers in the way of one migration
/// have the same thousand waiters behind each of them.
const LOOK_NODES: usize = 2_000;
/// Root blockers told in full, those with most waiters; the others by pid and
/// counts only.
const FULL_ROOTS: usize = 100;
/// Beyond this many edges a waiter keeps its first holder and its place in the
/// queue: it stays blocked, and the counts of the other holders are too low.
/// 10,000 rows can make 25 million edges.
const MAX_EDGES: usize = 200_000;
/// Locks listed of a root blocker.
const HOLDS: usize = 20;

/// What the graph says about one look.
#[derive(Debug, Default)]
pub struct WaitGraph {
    pub roots: Vec<RootBlocker>,
    pub depth: u32,
    pub waits: Vec<WaitsByType>,
}

/// A backend, or the transaction id of a prepared transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Node<'a> {
    Backend(i32),
    Prepared(&'a str),
}

/// The columns that name what is locked.
type Object<'a> = (
    &'a str,
    (Option<&'a str>, Option<&'a str>, Option<i64>, Option<i64>),
    (Option<&'a str>, Option<&'a str>),
    (Option<u32>, Option<u32>, Option<i32>),
);

/// Builds the graph of `report`; `now` is the server's clock, for ages.
pub fn build(report: &PostgresReport, now: UnixSeconds) -> WaitGraph {
    let look = Look::new(report, now);
    let blockers = look.blockers();
    let mut blocked: Blocked<'_> = BTreeMap::new();
    for (waiter, those) in &blockers {
        for blocker in those {
            blocked.entry(*blocker).or_default().insert(*waiter);
        }
    }
    let mut graph = WaitGraph {
        waits: look.waits(),
        ..WaitGraph::default()
    };
    let mut budget = LOOK_NODES;
    for (n, (node, reached)) in look.roots(&blocked).into_iter().enumerate() {
        let mut root = look.counted(node, &reached, &blocked);
        if n < FULL_ROOTS {
            let depth = look.fill(&mut root, node, &reached, &blocked, &mut budget);
            graph.depth = graph.depth.max(depth);
        }
        graph.roots.push(root);
    }
    graph
}

/// The nodes that wait for each node.
type Blocked<'a> = BTreeMap<Node<'a>, BTreeSet<Node<'a>>>;

struct Look<'a> {
    report: &'a PostgresReport,
    now: UnixSeconds,
    backends: HashMap<i32, &'a Backend>,
    prepared: Prepared<'a>,
    /// The request on which each node waits.
    requests: BTreeMap<Node<'a>, &'a Lock>,
    held: HashMap<Node<'a>, Vec<&'a Lock>>,
}

impl<'a> Look<'a> {
    fn new(report: &'a PostgresReport, now: UnixSeconds) -> Self {
        let backends: HashMap<_, _> = report.backends.iter().map(|b| (b.pid, b)).collect();
        let mut look = Self {
            report,
            now,
            backends,
            prepared: Prepared::of(report),
            requests: BTreeMap::new(),
            held: HashMap::new(),
        };
        for lock in report.locks.iter().filter(|lock| lock.granted) {
            if let Some(node) = look.node(lock) {
                look.held.entry(node).or_default().push(lock);
            }
        }
        look.requests = report
            .locks
            .iter()
            .filter(|lock| !lock.granted)
            .filter_map(|lock| Some((look.node(lock)?, lock)))
            .collect();
        look
    }

    fn node(&self, lock: &'a Lock) -> Option<Node<'a>> {
        match lock.pid {
            Some(pid) => {
                let leader = self.backends.get(&pid).and_then(|b| b.leader_pid);
                Some(Node::Backend(leader.unwrap_or(pid)))
            }
            None => self.prepared.xid(lock).map(Node::Prepared),
        }
    }

    /// Whom each waiter waits for. A waiter whose blockers are not in the look
    /// (gone between two reads, or cut by a limit) is left out.
    fn blockers(&self) -> BTreeMap<Node<'a>, BTreeSet<Node<'a>>> {
        let mut by_object: HashMap<Object<'a>, Vec<&'a Lock>> = HashMap::new();
        for lock in &self.report.locks {
            by_object.entry(object(lock)).or_default().push(lock);
        }
        let mut blockers = BTreeMap::new();
        let mut budget = MAX_EDGES;
        for locks in by_object.values() {
            self.add_blockers(locks, &mut blockers, &mut budget);
        }
        blockers
    }

    /// The waits for one object. Of the requests queued before a waiter only the
    /// last of each mode is an edge: those before it have the same blockers, so
    /// no root is lost, and a queue of thousands has not millions of edges.
    fn add_blockers(
        &self,
        locks: &[&'a Lock],
        blockers: &mut BTreeMap<Node<'a>, BTreeSet<Node<'a>>>,
        budget: &mut usize,
    ) {
        let (granted, mut queue): (Vec<&Lock>, Vec<&Lock>) =
            locks.iter().partition(|lock| lock.granted);
        queue.sort_by(|a, b| start(a).total_cmp(&start(b)));
        let mut ahead = queue.clone().into_iter().peekable();
        let mut last: [Option<&'a Lock>; MODES] = [None; MODES];
        for request in queue {
            while let Some(earlier) = ahead.next_if(|other| queued_before(other, request)) {
                if let Some(mode) = position(&earlier.mode) {
                    last[mode] = Some(earlier);
                }
            }
            let Some(waiter) = self.node(request) else {
                continue;
            };
            let holders = granted
                .iter()
                .copied()
                .filter(|other| conflicts(&request.mode, &other.mode));
            let holders = holders.filter_map(|other| self.node(other));
            let holders = holders.filter(|node| *node != waiter);
            let before = last.iter().flatten().copied();
            let before = before.filter(|other| conflicts(&request.mode, &other.mode));
            let before = before.filter_map(|other| self.node(other));
            let before = before.filter(|node| *node != waiter);
            let mut those: BTreeSet<_> = holders.take((*budget).max(1)).collect();
            those.extend(before);
            *budget = budget.saturating_sub(those.len());
            if !those.is_empty() {
                blockers.entry(waiter).or_default().extend(those);
            }
        }
    }

    fn waits(&self) -> Vec<WaitsByType> {
        let mut by_type: BTreeMap<&str, WaitsByType> = BTreeMap::new();
        for request in self.requests.values() {
            let entry = by_type
                .entry(&request.locktype)
                .or_insert_with(|| WaitsByType {
                    locktype: request.locktype.clone(),
                    ..WaitsByType::default()
                });
            entry.waiters += 1;
            entry.longest_wait_seconds =
                longest(entry.longest_wait_seconds, self.wait_seconds(request));
        }
        by_type.into_values().collect()
    }

    /// Who blocks and waits for nobody, with everybody behind it, most waiters
    /// first. A session with a request is no root, even when what it waits for
    /// is not in the look.
    fn roots<'b>(&self, blocked: &'b Blocked<'a>) -> Vec<(Node<'a>, Rc<BTreeSet<Node<'a>>>)> {
        // Holders in the way of the same request have the same waiters.
        let mut known: HashMap<&'b BTreeSet<Node<'a>>, Rc<BTreeSet<Node<'a>>>> = HashMap::new();
        let mut roots: Vec<_> = blocked
            .iter()
            .filter(|(node, _)| !self.requests.contains_key(*node))
            .map(|(node, direct)| {
                let reached = known.entry(direct);
                let reached = reached.or_insert_with(|| Rc::new(reach(*node, blocked)));
                (*node, Rc::clone(reached))
            })
            .collect();
        roots.sort_by_key(|(node, reached)| (std::cmp::Reverse(reached.len()), *node));
        roots
    }

    /// A root blocker with its counts.
    fn counted(
        &self,
        node: Node<'a>,
        reached: &BTreeSet<Node<'a>>,
        blocked: &Blocked<'a>,
    ) -> RootBlocker {
        RootBlocker {
            pid: match node {
                Node::Backend(pid) => Some(pid),
                Node::Prepared(_) => None,
            },
            waiters: count(reached.len()),
            direct_waiters: count(blocked.get(&node).map_or(0, BTreeSet::len)),
            ..RootBlocker::default()
        }
    }

    /// Adds what a person needs to know of a root; gives the depth of its tree.
    fn fill(
        &self,
        root: &mut RootBlocker,
        node: Node<'a>,
        reached: &BTreeSet<Node<'a>>,
        blocked: &Blocked<'a>,
        budget: &mut usize,
    ) -> u32 {
        let described = match node {
            Node::Backend(pid) => self.backend_root(pid),
            Node::Prepared(xid) => self.prepared_root(xid),
        };
        let longest_wait_seconds = reached
            .iter()
            .filter_map(|waiter| self.requests.get(waiter))
            .fold(None, |most, request| {
                longest(most, self.wait_seconds(request))
            });
        let mut drawing = Drawing {
            drawn: BTreeSet::from([node]),
            left: TREE_NODES.min(*budget),
            deepest: 0,
        };
        *root = RootBlocker {
            waiters: root.waiters,
            direct_waiters: root.direct_waiters,
            longest_wait_seconds,
            holds: self.held_in_the_way(node, reached),
            tree: self.tree(node, blocked, &mut drawing, 1),
            ..described
        };
        *budget -= drawing.drawn.len() - 1;
        drawing.deepest
    }

    fn backend_root(&self, pid: i32) -> RootBlocker {
        let Some(backend) = self.backends.get(&pid) else {
            return RootBlocker {
                pid: Some(pid),
                action: format!("SELECT pg_terminate_backend({pid});"),
                ..RootBlocker::default()
            };
        };
        // A running statement can be cancelled and the session kept; an idle
        // transaction only ends with its session.
        let running = backend.state.as_deref() == Some("active");
        let call = if running { "cancel" } else { "terminate" };
        RootBlocker {
            pid: Some(pid),
            database: backend.database.clone(),
            user: backend.user.clone(),
            application: backend.application.clone(),
            client: backend.client.clone(),
            state: backend.state.clone(),
            transaction_seconds: self.age(backend.xact_start),
            state_seconds: self.age(backend.state_change),
            query: backend.query.clone(),
            action: format!("SELECT pg_{call}_backend({pid});"),
            ..RootBlocker::default()
        }
    }

    fn prepared_root(&self, xid: &str) -> RootBlocker {
        let known = self.prepared.transaction(xid);
        let gid = known.map_or(xid, |row| &row.gid);
        RootBlocker {
            prepared: Some(gid.to_owned()),
            database: known.and_then(|row| row.database.clone()),
            user: known.and_then(|row| row.owner.clone()),
            transaction_seconds: known.and_then(|row| self.age(row.prepared)),
            action: prepared::rollback(gid),
            ..RootBlocker::default()
        }
    }

    fn held_in_the_way(&self, node: Node<'a>, reached: &BTreeSet<Node<'a>>) -> Vec<LockObject> {
        let wanted: BTreeSet<_> = reached
            .iter()
            .filter_map(|waiter| self.requests.get(waiter))
            .map(|request| object(request))
            .collect();
        let held = self.held.get(&node).into_iter().flatten();
        held.filter(|lock| wanted.contains(&object(lock)))
            .take(HOLDS)
            .map(|lock| describe(lock))
            .collect()
    }

    fn tree(
        &self,
        node: Node<'a>,
        blocked: &Blocked<'a>,
        drawing: &mut Drawing<'a>,
        level: u32,
    ) -> Vec<WaitNode> {
        let mut children = Vec::new();
        for waiter in blocked.get(&node).into_iter().flatten() {
            let (Node::Backend(pid), Some(request)) = (*waiter, self.requests.get(waiter)) else {
                continue;
            };
            if drawing.left == 0 {
                break;
            }
            if !drawing.drawn.insert(*waiter) {
                continue;
            }
            drawing.left -= 1;
            drawing.deepest = drawing.deepest.max(level);
            let backend = self.backends.get(&pid);
            let tree = if level < TREE_DEPTH {
                self.tree(*waiter, blocked, drawing, level + 1)
            } else {
                Vec::new()
            };
            children.push(WaitNode {
                pid,
                waits_for: describe(request),
                wait_seconds: self.wait_seconds(request),
                application: backend.and_then(|b| b.application.clone()),
                state: backend.and_then(|b| b.state.clone()),
                query: backend.and_then(|b| b.query.clone()),
                tree,
            });
        }
        children.sort_by(|a, b| {
            b.wait_seconds
                .unwrap_or(0.0)
                .total_cmp(&a.wait_seconds.unwrap_or(0.0))
        });
        children
    }

    /// `waitstart` can be NULL for a moment; the statement's start is then the
    /// best bound.
    fn wait_seconds(&self, request: &Lock) -> Option<f64> {
        let started = request.waitstart.or_else(|| {
            let backend = self.backends.get(&request.pid?)?;
            backend.query_start
        });
        self.age(started)
    }

    fn age(&self, since: Option<UnixSeconds>) -> Option<f64> {
        since.map(|since| (self.now - since).max(0.0))
    }
}

/// The tree of one root while it is drawn.
struct Drawing<'a> {
    drawn: BTreeSet<Node<'a>>,
    /// Nodes that may still be drawn.
    left: usize,
    deepest: u32,
}

/// Everything behind `node`, through any chain. Cycles end by themselves.
fn reach<'a>(node: Node<'a>, blocked: &Blocked<'a>) -> BTreeSet<Node<'a>> {
    let mut reached = BTreeSet::new();
    let mut open = vec![node];
    while let Some(next) = open.pop() {
        for waiter in blocked.get(&next).into_iter().flatten() {
            if *waiter != node && reached.insert(*waiter) {
                open.push(*waiter);
            }
        }
    }
    reached
}

/// For sorting: a request whose start is not known comes last.
fn start(request: &Lock) -> f64 {
    request.waitstart.unwrap_or(f64::INFINITY)
}

/// Whether `other` stands in the wait queue before `request`. Without both
/// start times nothing is claimed.
fn queued_before(other: &Lock, request: &Lock) -> bool {
    matches!((other.waitstart, request.waitstart), (Some(other), Some(own)) if other < own)
}

fn object(lock: &Lock) -> Object<'_> {
    (
        &lock.locktype,
        (
            lock.database.as_deref(),
            lock.relation.as_deref(),
            lock.page,
            lock.tuple,
        ),
        (lock.transactionid.as_deref(), lock.virtualxid.as_deref()),
        (lock.classid, lock.objid, lock.objsubid),
    )
}

fn describe(lock: &Lock) -> LockObject {
    let database = lock.database.as_deref().unwrap_or("shared");
    let relation = lock.relation.as_deref().unwrap_or("?");
    let object = if let Some(key) = LockKey::of(lock) {
        key.to_string()
    } else if let Some(xid) = &lock.transactionid {
        xid.clone()
    } else if let Some(vxid) = &lock.virtualxid {
        vxid.clone()
    } else {
        match (lock.page, lock.tuple, &lock.relation, lock.classid) {
            (Some(page), Some(tuple), ..) => format!("{relation} ({page},{tuple})"),
            (Some(page), ..) => format!("{relation} page {page}"),
            (_, _, Some(relation), _) => relation.clone(),
            (_, _, None, Some(class)) => format!("{class}/{}", lock.objid.unwrap_or(0)),
            _ => database.to_owned(),
        }
    };
    LockObject {
        locktype: lock.locktype.clone(),
        mode: lock.mode.clone(),
        object,
    }
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
