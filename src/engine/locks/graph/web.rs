//! The wait-for graph in a form that can be walked as a whole.
//!
//! Besides the sessions it has knots: one for each mode in which an object is
//! held, and one for each place in a queue, tied to the next place of the same
//! mode. A session reaches through them exactly those who wait for it, but
//! there are only some ten threads for each row instead of one for each pair of
//! sessions. Going through a knot costs no step, so a level is a number of
//! sessions.

use std::collections::VecDeque;

use super::super::modes::MODES;
use super::table::{Contended, index};

/// Who is blocked by whom: from a blocker to those who wait for it.
#[derive(Debug, Default)]
pub struct Web {
    /// The first so many knots are the sessions.
    sessions: u32,
    /// Where the threads of each knot begin in `threads`.
    begins: Vec<u32>,
    threads: Vec<u32>,
    /// The cycle that each session is in.
    cycle: Vec<Option<u32>>,
}

/// A session that was reached from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub node: u32,
    /// 1 waits for the start itself.
    pub level: u32,
    /// A session that it waits for, one level nearer to the start.
    pub parent: u32,
}

/// Marks of the walks over one web, so that a walk costs what it reaches.
#[derive(Debug)]
pub struct Marks {
    walk: u32,
    seen: Vec<u32>,
}

impl Web {
    pub(super) fn of(objects: &[Contended<'_>], sessions: usize) -> Self {
        let mut pairs = Vec::new();
        let mut knots = index(sessions);
        for contended in objects {
            tie_holders(contended, &mut knots, &mut pairs);
            tie_queue(contended, &mut knots, &mut pairs);
        }
        let mut web = Self::from_pairs(&pairs, index(sessions), knots);
        web.find_cycles();
        web
    }

    fn from_pairs(pairs: &[(u32, u32)], sessions: u32, knots: u32) -> Self {
        let mut begins = vec![0u32; knots as usize + 1];
        for (from, _) in pairs {
            begins[*from as usize + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        let mut next = begins.clone();
        let mut threads = vec![0u32; pairs.len()];
        for &(from, to) in pairs {
            let place = &mut next[from as usize];
            threads[*place as usize] = to;
            *place += 1;
        }
        Self {
            sessions,
            begins,
            threads,
            cycle: Vec::new(),
        }
    }

    fn after(&self, knot: u32) -> &[u32] {
        let knot = knot as usize;
        &self.threads[self.begins[knot] as usize..self.begins[knot + 1] as usize]
    }

    fn knots(&self) -> usize {
        self.begins.len().saturating_sub(1)
    }

    pub fn marks(&self) -> Marks {
        Marks {
            walk: 0,
            seen: vec![0; self.knots()],
        }
    }

    /// Everybody who waits for a session through any chain, nearest first,
    /// without itself.
    pub fn behind(&self, start: u32) -> Vec<Reached> {
        self.walk(start, &mut self.marks())
    }

    /// As [`behind`](Self::behind), for many starts.
    pub fn walk(&self, start: u32, marks: &mut Marks) -> Vec<Reached> {
        marks.walk += 1;
        let mut reached = Vec::new();
        // (knot, level, the session it was reached from)
        let mut open = VecDeque::from([(start, 0, start)]);
        let start_mark = start as usize;
        marks.seen[start_mark] = marks.walk;
        while let Some((knot, level, from)) = open.pop_front() {
            let from = if knot < self.sessions { knot } else { from };
            for &next in self.after(knot) {
                let is_session = next < self.sessions;
                if marks.seen[next as usize] == marks.walk {
                    continue;
                }
                marks.seen[next as usize] = marks.walk;
                if is_session {
                    let level = level + 1;
                    reached.push(Reached {
                        node: next,
                        level,
                        parent: from,
                    });
                    open.push_back((next, level, from));
                } else {
                    open.push_front((next, level, from));
                }
            }
        }
        reached
    }

    /// Whether two sessions wait for each other in a circle: a queue that has
    /// part in it may have been rearranged.
    pub fn rearranged(&self, one: u32, other: u32) -> bool {
        let cycle = |node: u32| self.cycle.get(node as usize).copied().flatten();
        cycle(one).is_some_and(|own| cycle(other) == Some(own))
    }

    /// The sessions of each cycle.
    pub fn cycles(&self) -> Vec<Vec<u32>> {
        let mut cycles: Vec<Vec<u32>> = Vec::new();
        for (node, cycle) in (0u32..).zip(&self.cycle) {
            if let Some(cycle) = cycle {
                let cycle = *cycle as usize;
                if cycles.len() <= cycle {
                    cycles.resize_with(cycle + 1, Vec::new);
                }
                cycles[cycle].push(node);
            }
        }
        cycles
    }

    /// Tarjan's strongly connected components, without recursion.
    fn find_cycles(&mut self) {
        const UNSEEN: u32 = u32::MAX;
        let knots = self.knots();
        let mut order = vec![UNSEEN; knots];
        let mut low = vec![0u32; knots];
        let mut on_path = vec![false; knots];
        let mut path: Vec<u32> = Vec::new();
        let mut calls: Vec<(u32, u32)> = Vec::new();
        let mut next = 0;
        let mut found = 0;
        self.cycle = vec![None; self.sessions as usize];
        // A cycle has a session in it that blocks somebody.
        for start in 0..self.sessions {
            if order[start as usize] != UNSEEN {
                continue;
            }
            calls.push((start, 0));
            while let Some((knot, thread)) = calls.pop() {
                let at = knot as usize;
                if thread == 0 {
                    order[at] = next;
                    low[at] = next;
                    next += 1;
                    path.push(knot);
                    on_path[at] = true;
                }
                if let Some(&to) = self.after(knot).get(thread as usize) {
                    calls.push((knot, thread + 1));
                    if order[to as usize] == UNSEEN {
                        calls.push((to, 0));
                    } else if on_path[to as usize] {
                        low[at] = low[at].min(order[to as usize]);
                    }
                    continue;
                }
                if low[at] == order[at] {
                    let first = path.iter().rposition(|&other| other == knot).unwrap_or(0);
                    let members = path.get(first..).unwrap_or_default();
                    let mut sessions = 0;
                    for &member in members {
                        on_path[member as usize] = false;
                        sessions += u32::from(member < self.sessions);
                    }
                    if sessions > 1 {
                        for &member in members.iter().filter(|&&m| m < self.sessions) {
                            self.cycle[member as usize] = Some(found);
                        }
                        found += 1;
                    }
                    path.truncate(first);
                }
                if let Some(&(parent, _)) = calls.last() {
                    low[parent as usize] = low[parent as usize].min(low[at]);
                }
            }
        }
    }
}

/// From each holder through a knot for the mode to those who wait for that.
fn tie_holders(contended: &Contended<'_>, knots: &mut u32, pairs: &mut Vec<(u32, u32)>) {
    for mode in 0..MODES {
        let bit = 1 << mode;
        if contended.wanted & bit == 0 {
            continue;
        }
        let mut holders = contended
            .holders
            .iter()
            .filter(|(_, modes)| modes & bit != 0);
        let mut held = false;
        for (holder, _) in holders.by_ref() {
            pairs.push((*holder, *knots));
            held = true;
        }
        if !held {
            continue;
        }
        let waiters = contended.queue.iter().filter(|r| r.waits_for() & bit != 0);
        pairs.extend(waiters.map(|request| (*knots, request.node)));
        *knots += 1;
    }
}

/// From each place in the queue to those behind it: a knot for the place leads
/// to the waiters up to the next place of its mode, and to that place's knot.
fn tie_queue(contended: &Contended<'_>, knots: &mut u32, pairs: &mut Vec<(u32, u32)>) {
    let mut last: [Option<u32>; MODES] = [None; MODES];
    for request in &contended.queue {
        for (mode, knot) in last.iter().enumerate() {
            if let Some(knot) = knot.filter(|_| request.waits_for() & (1 << mode) != 0) {
                pairs.push((knot, request.node));
            }
        }
        let Some(mode) = request.mode else {
            continue;
        };
        if contended.wanted & (1 << mode) == 0 {
            continue;
        }
        pairs.push((request.node, *knots));
        if let Some(before) = last[mode].replace(*knots) {
            pairs.push((before, *knots));
        }
        *knots += 1;
    }
}
