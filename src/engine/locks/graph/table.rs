//! The lock table of one look as a wait-for graph: who waits for whom, and why.
//!
//! The rules are those of `pg_blocking_pids` (PostgreSQL's lockfuncs.c). A
//! request waits for every other session that holds the object in a mode which
//! conflicts with it, and for every conflicting request before it in the queue.
//! A parallel group counts as its leader and never waits for itself. A prepared
//! transaction holds locks without a session.
//!
//! Invariants: edges are worked out when they are asked for, because a queue of
//! ten thousand writers has fifty million; whatever is walked as a whole walks
//! the [`web`](super::web), which is linear in the rows. Predicate locks
//! (`SIReadLock`) wait for nobody and block nobody.

use std::collections::BTreeMap;

use super::super::modes::{ModeSet, conflicts, position};
use super::super::prepared::Prepared;
use super::lists::Lists;
use super::object::Object;
use super::queue::{self, Answers, Queued};
use super::web::Web;
use crate::engine::tables::{Table, with_room};
use crate::sample::{Backend, Lock, PostgresReport, UnixSeconds};

/// So many holders of one object are looked through without a table.
pub(super) const FEW: usize = 8;

/// A session, or a prepared transaction by its transaction id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node<'a> {
    /// The pid; of a parallel group the leader's.
    Backend(i32),
    Prepared(&'a str),
}

/// One session waits for another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge<'a> {
    pub waiter: Node<'a>,
    pub blocker: Node<'a>,
    /// What the waiter asks for.
    pub request: &'a Lock,
    pub why: Why<'a>,
}

/// Why a waiter waits for a blocker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why<'a> {
    /// The blocker holds this lock.
    Holds(&'a Lock),
    /// The blocker's own request stands before the waiter's in the queue.
    /// `sure` is false where the order of the two cannot be known (see
    /// [`queue`]): then it may be the other way round.
    Ahead { request: &'a Lock, sure: bool },
}

/// An object that somebody waits for.
#[derive(Debug, Clone)]
pub struct Contended<'a> {
    pub object: Object<'a>,
    /// Holders with all modes each of them has, in the order of the rows.
    pub(super) holders: Vec<(u32, ModeSet)>,
    /// Who waits, first served first.
    pub(super) queue: Vec<Queued>,
    /// The modes that at least one of them has to wait for.
    pub(super) wanted: ModeSet,
}

/// Who waits for whom in one look.
#[derive(Debug)]
pub struct LockGraph<'a> {
    pub(super) report: &'a PostgresReport,
    pub(super) prepared: Prepared<'a>,
    backends: Table<i32, &'a Backend>,
    pub(super) nodes: Vec<Node<'a>>,
    index: Table<Node<'a>, u32>,
    pub(super) objects: Vec<Contended<'a>>,
    /// Per node, the granted rows on contended objects: (object, row).
    pub(super) held: Lists,
    /// Per node, its requests: (object, place in its queue). More than one only
    /// in a parallel group.
    pub(super) requests: Lists,
    pub(super) web: Web,
    answers: Answers,
}

impl<'a> LockGraph<'a> {
    /// Reads the locks of a look.
    pub fn of(report: &'a PostgresReport) -> Self {
        let mut graph = Self {
            report,
            prepared: Prepared::of(report),
            backends: present(report),
            nodes: Vec::new(),
            index: Table::default(),
            objects: Vec::new(),
            held: Lists::default(),
            requests: Lists::default(),
            web: Web::default(),
            answers: Answers::new(),
        };
        let known = graph.add_requests();
        graph.add_holders(&known);
        graph.arrange();
        graph.web = Web::of(&graph.objects, graph.nodes.len());
        graph
    }

    /// The contended objects, by what they are; requests are not in order yet.
    fn add_requests(&mut self) -> Table<Object<'a>, u32> {
        let requests = self.report.locks.iter().filter(|lock| !lock.granted);
        let requests = requests.count();
        let mut known = with_room(requests);
        self.index.reserve(2 * requests);
        self.nodes.reserve(2 * requests);
        self.objects.reserve(requests);
        for (row, lock) in (0u32..).zip(&self.report.locks) {
            if lock.granted {
                continue;
            }
            let Some(node) = self.node_of(lock) else {
                continue;
            };
            let node = self.intern(node);
            let object = Object::of(lock);
            let next = index(self.objects.len());
            let at = *known.entry(object).or_insert(next);
            if at == next {
                self.objects.push(Contended {
                    object,
                    holders: Vec::new(),
                    queue: Vec::new(),
                    wanted: 0,
                });
            }
            let request = Queued {
                node,
                row,
                mode: position(&lock.mode),
                held: 0,
                start: lock.waitstart,
            };
            let contended = &mut self.objects[at as usize];
            contended.wanted |= request.waits_for();
            contended.queue.push(request);
        }
        known
    }

    fn add_holders(&mut self, known: &Table<Object<'a>, u32>) {
        if known.is_empty() {
            return;
        }
        let mut held = Vec::new();
        let mut place: Table<(u32, u32), usize> = Table::default();
        for (row, lock) in (0u32..).zip(&self.report.locks) {
            let Some(mode) = position(&lock.mode).filter(|_| lock.granted) else {
                continue;
            };
            let Some(&at) = known.get(&Object::of(lock)) else {
                continue;
            };
            let Some(node) = self.node_of(lock) else {
                continue;
            };
            let node = self.intern(node);
            held.push((node, (at, row)));
            let holders = &mut self.objects[at as usize].holders;
            // Most objects have few holders: a table of them costs more than
            // it saves.
            let entry = if holders.len() < FEW {
                let known = holders.iter().position(|(holder, _)| *holder == node);
                known.unwrap_or(holders.len())
            } else {
                let first = holders.iter().take(FEW).position(|(h, _)| *h == node);
                first.unwrap_or_else(|| *place.entry((at, node)).or_insert(holders.len()))
            };
            if entry == holders.len() {
                holders.push((node, 0));
            }
            holders[entry].1 |= 1 << mode;
        }
        self.held = Lists::of(&held, self.nodes.len());
    }

    fn arrange(&mut self) {
        self.answers = self.answers();
        let answers = &self.answers;
        let mut placed = Vec::with_capacity(self.objects.len());
        for (at, contended) in (0u32..).zip(&mut self.objects) {
            let mut requests = std::mem::take(&mut contended.queue);
            queue::add_held(&mut requests, &contended.holders);
            contended.queue = queue::rearrange(queue::arrange(requests), answers);
            for (place, request) in (0u32..).zip(&contended.queue) {
                placed.push((request.node, (at, place)));
            }
        }
        self.requests = Lists::of(&placed, self.nodes.len());
    }

    /// What PostgreSQL said of waiters; it names a group by its leader.
    fn answers(&self) -> Answers {
        let answers = self.report.blocking.iter();
        let at = |pid: i32| self.at(self.backend_node(pid));
        answers
            .filter_map(|answer| {
                let blockers = answer.by.iter().filter_map(|&pid| at(pid));
                Some((at(answer.pid)?, blockers.collect()))
            })
            .collect()
    }

    fn backend_node(&self, pid: i32) -> Node<'a> {
        let leader = self.backends.get(&pid).and_then(|b| b.leader_pid);
        Node::Backend(leader.unwrap_or(pid))
    }

    fn intern(&mut self, node: Node<'a>) -> u32 {
        let next = index(self.nodes.len());
        let at = *self.index.entry(node).or_insert(next);
        if at == next {
            self.nodes.push(node);
        }
        at
    }

    fn node_of(&self, lock: &'a Lock) -> Option<Node<'a>> {
        match lock.pid {
            Some(pid) => Some(self.backend_node(pid)),
            None => self.prepared.xid(lock).map(Node::Prepared),
        }
    }

    /// Everybody who waits, or holds something that somebody waits for.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'a>> + '_ {
        self.nodes.iter().copied()
    }

    /// What a session waits for; more than one only in a parallel group.
    pub fn requests(&self, node: Node<'_>) -> impl Iterator<Item = &'a Lock> + '_ {
        let at = self.at(node);
        let requests = at.into_iter().flat_map(|at| self.requests.at(at));
        requests.map(|&(object, place)| {
            self.row(self.objects[object as usize].queue[place as usize].row)
        })
    }

    pub fn is_waiting(&self, node: Node<'_>) -> bool {
        self.at(node).is_some_and(|at| self.waits(at))
    }

    /// What a session holds of the objects that somebody waits for.
    pub fn holds(&self, node: Node<'_>) -> impl Iterator<Item = &'a Lock> + '_ {
        let at = self.at(node);
        let held = at.into_iter().flat_map(|at| self.held.at(at));
        held.map(|&(_, row)| self.row(row))
    }

    /// Whom a session waits for, each once; a lock held counts before a place
    /// in the queue.
    pub fn blockers(&self, node: Node<'_>) -> Vec<Edge<'a>> {
        let mut found: BTreeMap<Node<'a>, Edge<'a>> = BTreeMap::new();
        let Some(waiter) = self.at(node) else {
            return Vec::new();
        };
        for &(object, place) in self.requests.at(waiter) {
            for edge in self.edges_of(object, place) {
                let hard = matches!(edge.why, Why::Holds(_));
                let known = found.entry(edge.blocker).or_insert(edge);
                if hard && !matches!(known.why, Why::Holds(_)) {
                    *known = edge;
                }
            }
        }
        found.into_values().collect()
    }

    fn edges_of(&self, object: u32, place: u32) -> impl Iterator<Item = Edge<'a>> + '_ {
        let contended = &self.objects[object as usize];
        let own = contended.queue[place as usize];
        let request = self.row(own.row);
        let waiter = self.nodes[own.node as usize];
        let edge = move |node: u32, why| Edge {
            waiter,
            blocker: self.nodes[node as usize],
            request,
            why,
        };
        let holders = contended.holders.iter();
        let holders = holders
            .filter(move |(node, modes)| *node != own.node && own.waits_for() & modes != 0)
            .filter_map(move |&(node, _)| {
                Some(edge(
                    node,
                    Why::Holds(self.conflicting(node, object, request)?),
                ))
            });
        let ahead = contended.queue[..place as usize].iter();
        let ahead = ahead
            .filter(move |other| other.node != own.node && own.waits_for() & other.bit() != 0)
            .map(move |other| {
                let sure = self.is_sure(&own, other);
                let request = self.row(other.row);
                edge(other.node, Why::Ahead { request, sure })
            });
        holders.chain(ahead)
    }

    /// Whether it is known that `ahead` stands before `own` in their queue.
    pub(super) fn is_sure(&self, own: &Queued, ahead: &Queued) -> bool {
        match queue::told(&self.answers, own, ahead) {
            Some(told) => told,
            None => own.is_surely_behind(ahead) && !self.web.rearranged(own.node, ahead.node),
        }
    }

    /// Whether a limit has cut requests off: then a session without one may
    /// wait all the same.
    pub fn lacks_requests(&self) -> bool {
        if !self.report.locks_truncated {
            return false;
        }
        let waiting = self.report.lock_counts.iter().filter(|row| !row.granted);
        let waiting = waiting.map(|row| u64::from(row.count)).sum::<u64>();
        let seen = self.report.locks.iter().filter(|lock| !lock.granted);
        self.report.lock_counts.is_empty() || waiting > seen.count() as u64
    }

    /// The lock of `node` on the object that is in the way of `request`.
    fn conflicting(&self, node: u32, object: u32, request: &Lock) -> Option<&'a Lock> {
        let held = self.held.at(node).iter();
        let rows = held.filter(|(at, _)| *at == object);
        rows.map(|&(_, row)| self.row(row))
            .find(|lock| conflicts(&request.mode, &lock.mode))
    }

    /// Who waits directly for a lock that `node` holds, each once.
    pub fn blocked_by(&self, node: Node<'_>) -> Vec<Node<'a>> {
        let at = self.at(node);
        at.map_or_else(Vec::new, |at| {
            let waiters = self.directly_behind(at).into_iter();
            waiters.map(|waiter| self.nodes[waiter as usize]).collect()
        })
    }

    /// Those behind the locks that a node holds, each once, sorted.
    pub(super) fn directly_behind(&self, node: u32) -> Vec<u32> {
        let mut objects: Vec<u32> = self.held.at(node).iter().map(|held| held.0).collect();
        objects.sort_unstable();
        objects.dedup();
        let mut waiters = Vec::new();
        for object in objects {
            let contended = &self.objects[object as usize];
            let modes = self.modes_held(node, object);
            let queue = contended.queue.iter();
            let behind = queue.filter(|r| r.node != node && r.waits_for() & modes != 0);
            waiters.extend(behind.map(|request| request.node));
        }
        waiters.sort_unstable();
        waiters.dedup();
        waiters
    }

    /// All modes in which a node holds an object. Thousands may hold one object,
    /// and one may hold thousands: the shorter list is searched.
    pub(super) fn modes_held(&self, node: u32, object: u32) -> ModeSet {
        let holders = &self.objects[object as usize].holders;
        if holders.len() < self.held.at(node).len() {
            let own = holders.iter().find(|(holder, _)| *holder == node);
            return own.map_or(0, |(_, modes)| *modes);
        }
        let held = self.held.at(node).iter();
        held.filter(|(at, _)| *at == object)
            .filter_map(|&(_, row)| position(&self.row(row).mode))
            .fold(0, |all, mode| all | 1 << mode)
    }

    /// The objects that somebody waits for.
    pub fn contended(&self) -> impl Iterator<Item = &Contended<'a>> {
        self.objects.iter()
    }

    /// Who holds the object, a row for each mode.
    pub fn holders(&self, contended: &Contended<'a>) -> Vec<(Node<'a>, &'a Lock)> {
        let holders = contended.holders.iter();
        holders
            .flat_map(|&(node, _)| {
                let held = self.held.at(node).iter();
                held.filter(|(at, _)| self.objects[*at as usize].object == contended.object)
                    .map(move |&(_, row)| (self.nodes[node as usize], self.row(row)))
            })
            .collect()
    }

    /// Who waits for the object, first served first.
    pub fn queue(&self, contended: &Contended<'a>) -> Vec<(Node<'a>, &'a Lock)> {
        let queue = contended.queue.iter();
        queue
            .map(|request| (self.nodes[request.node as usize], self.row(request.row)))
            .collect()
    }

    /// Groups of sessions that wait for each other in a circle, each sorted.
    /// One that only goes through locks held stands until somebody gives up;
    /// one that goes through a queue PostgreSQL may dissolve by rearranging it.
    pub fn cycles(&self) -> Vec<Vec<Node<'a>>> {
        let cycles = self.web.cycles().into_iter();
        cycles
            .map(|members| {
                let members = members.into_iter();
                let mut members: Vec<_> = members.map(|at| self.nodes[at as usize]).collect();
                members.sort_unstable();
                members
            })
            .collect()
    }

    /// Who blocks somebody and waits for nobody, sorted. The order of the
    /// queues has no part in this: only waiters stand in a queue.
    pub fn roots(&self) -> Vec<Node<'a>> {
        let mut roots: Vec<_> = self
            .root_indexes()
            .map(|at| self.nodes[at as usize])
            .collect();
        roots.sort_unstable();
        roots
    }

    pub(super) fn root_indexes(&self) -> impl Iterator<Item = u32> + '_ {
        let nodes = 0..index(self.nodes.len());
        nodes.filter(|&at| !self.waits(at) && self.blocks(at))
    }

    /// Everybody who waits for `node`, through any chain, sorted.
    pub fn behind(&self, node: Node<'_>) -> Vec<Node<'a>> {
        let at = self.at(node);
        let mut behind: Vec<_> = at.map_or_else(Vec::new, |at| {
            let reached = self.web.behind(at).into_iter();
            reached
                .map(|reached| self.nodes[reached.node as usize])
                .collect()
        });
        behind.sort_unstable();
        behind
    }

    /// The session's row in `pg_stat_activity`, when it is certainly the one
    /// that the locks are of.
    pub fn backend(&self, pid: i32) -> Option<&'a Backend> {
        self.backends.get(&pid).copied()
    }

    pub(super) fn at(&self, node: Node<'_>) -> Option<u32> {
        self.index.get(&node).copied()
    }

    pub(super) fn row(&self, row: u32) -> &'a Lock {
        &self.report.locks[row as usize]
    }

    pub(super) fn waits(&self, at: u32) -> bool {
        !self.requests.at(at).is_empty()
    }

    /// Whether one that waits for nobody blocks somebody.
    fn blocks(&self, at: u32) -> bool {
        let mut held = self.held.at(at).iter();
        held.any(|&(object, row)| {
            let mode = position(&self.row(row).mode).map_or(0, |mode| 1 << mode);
            self.objects[object as usize].wanted & mode != 0
        })
    }
}

/// The sessions by pid. The locks are read first: a session that began after
/// that is another one with the same pid.
fn present(report: &PostgresReport) -> Table<i32, &Backend> {
    let clock = report.server.as_ref().and_then(|server| server.clock);
    let there = |began: Option<UnixSeconds>| match (began, clock) {
        (Some(began), Some(clock)) => began <= clock,
        _ => true,
    };
    let mut present = with_room(report.backends.len());
    let backends = report.backends.iter();
    let backends = backends.filter(|backend| there(backend.backend_start));
    present.extend(backends.map(|backend| (backend.pid, backend)));
    present
}

/// Rows of a look are far fewer than 2³².
pub(super) fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
