use super::*;

fn lock(pid: i32, mode: &str, granted: bool, xid: &str, waitstart: f64) -> Lock {
    Lock {
        pid: Some(pid),
        locktype: "transactionid".into(),
        mode: mode.into(),
        granted,
        transactionid: Some(xid.into()),
        waitstart: (!granted).then_some(waitstart),
        ..Lock::default()
    }
}

fn report(locks: Vec<Lock>) -> PostgresReport {
    PostgresReport {
        locks,
        ..PostgresReport::default()
    }
}

#[test]
fn a_chain_has_one_root_and_counts_all_behind_it() {
    let graph = build(
        &report(vec![
            lock(1, "ExclusiveLock", true, "70", 0.0),
            lock(2, "ShareLock", false, "70", 10.0),
            lock(2, "ExclusiveLock", true, "71", 0.0),
            lock(3, "ShareLock", false, "71", 20.0),
        ]),
        100.0,
    );
    assert_eq!(graph.roots.len(), 1);
    let root = &graph.roots[0];
    assert_eq!(
        (root.pid, root.waiters, root.direct_waiters),
        (Some(1), 2, 1)
    );
    assert_eq!(root.longest_wait_seconds, Some(90.0));
    assert_eq!(root.holds[0].object, "70");
    assert_eq!(root.tree[0].tree[0].pid, 3);
    assert_eq!(graph.depth, 2);
    assert_eq!(graph.waits[0].waiters, 2);
}

#[test]
fn a_waiter_also_waits_for_conflicting_requests_before_it() {
    // 2 wants AccessExclusive behind 1's AccessShare; 3's AccessShare would
    // be granted next to 1 but stands behind 2.
    let relation = |pid, mode: &str, granted, waitstart| Lock {
        locktype: "relation".into(),
        relation: Some("16385".into()),
        transactionid: None,
        ..lock(pid, mode, granted, "", waitstart)
    };
    let graph = build(
        &report(vec![
            relation(1, "AccessShareLock", true, 0.0),
            relation(2, "AccessExclusiveLock", false, 5.0),
            relation(3, "AccessShareLock", false, 6.0),
        ]),
        10.0,
    );
    assert_eq!(graph.roots.len(), 1);
    assert_eq!(graph.roots[0].pid, Some(1));
    assert_eq!(graph.roots[0].waiters, 2);
    assert_eq!(graph.roots[0].tree[0].tree[0].pid, 3);
}

#[test]
fn a_waiter_whose_blocker_is_not_in_the_look_is_no_root() {
    // What 1 waits for was cut off, or is gone between two reads.
    let graph = build(
        &report(vec![
            lock(1, "ShareLock", false, "69", 1.0),
            lock(1, "ExclusiveLock", true, "70", 0.0),
            lock(2, "ShareLock", false, "70", 2.0),
        ]),
        3.0,
    );
    assert!(graph.roots.is_empty());
    assert_eq!(graph.waits[0].waiters, 2);
}

#[test]
fn a_queue_of_one_mode_is_counted_whole() {
    // Share requests do not wait for each other: dropping edges must not
    // drop waiters.
    let mut locks = vec![lock(1, "ExclusiveLock", true, "70", 0.0)];
    locks.extend((2..50).map(|pid| lock(pid, "ShareLock", false, "70", f64::from(pid))));
    locks.push(lock(50, "ExclusiveLock", false, "70", 60.0));
    let graph = build(&report(locks), 100.0);
    assert_eq!(graph.roots.len(), 1);
    assert_eq!(graph.roots[0].waiters, 49);
    assert_eq!(graph.roots[0].direct_waiters, 49);
}

#[test]
fn a_cycle_has_no_root_and_ends() {
    let graph = build(
        &report(vec![
            lock(1, "ExclusiveLock", true, "70", 0.0),
            lock(2, "ExclusiveLock", true, "71", 0.0),
            lock(1, "ShareLock", false, "71", 1.0),
            lock(2, "ShareLock", false, "70", 2.0),
        ]),
        3.0,
    );
    assert!(graph.roots.is_empty());
}

#[test]
fn a_prepared_transaction_can_be_the_root() {
    let mut holder = lock(0, "ExclusiveLock", true, "70", 0.0);
    holder.pid = None;
    holder.virtualtransaction = Some("-1/70".into());
    let mut report = report(vec![holder, lock(2, "ShareLock", false, "70", 1.0)]);
    report.prepared.push(crate::sample::PreparedTransaction {
        transaction: "70".into(),
        gid: "order's".into(),
        ..Default::default()
    });
    let graph = build(&report, 5.0);
    assert_eq!(graph.roots[0].prepared.as_deref(), Some("order's"));
    assert_eq!(
        graph.roots[0].action,
        "COMMIT PREPARED 'order''s';  or  ROLLBACK PREPARED 'order''s';"
    );
}

#[test]
fn a_parallel_group_waits_as_its_leader_and_never_for_itself() {
    let mut report = report(vec![
        lock(1, "ExclusiveLock", true, "70", 0.0),
        lock(11, "ShareLock", false, "70", 2.0),
        lock(9, "ExclusiveLock", true, "71", 0.0),
        lock(12, "ShareLock", false, "71", 3.0),
        lock(10, "ExclusiveLock", true, "71", 0.0),
    ]);
    report.backends = [11, 12]
        .map(|pid| crate::sample::Backend {
            pid,
            leader_pid: Some(10),
            ..Default::default()
        })
        .into();
    let graph = LockGraph::of(&report);
    assert_eq!(graph.requests(Node::Backend(10)).count(), 2);
    let blockers: Vec<_> = graph
        .blockers(Node::Backend(10))
        .iter()
        .map(|e| e.blocker)
        .collect();
    assert_eq!(blockers, [Node::Backend(1), Node::Backend(9)]);
    assert_eq!(graph.roots(), [Node::Backend(1), Node::Backend(9)]);
}

#[test]
fn predicate_locks_block_nobody() {
    let mut locks: Vec<Lock> = (0..2_000)
        .map(|pid| lock(pid, "SIReadLock", true, "70", 0.0))
        .collect();
    locks.push(lock(5_000, "ExclusiveLock", true, "70", 0.0));
    locks.push(lock(5_001, "ShareLock", false, "70", 1.0));
    let report = report(locks);
    assert_eq!(LockGraph::of(&report).roots(), [Node::Backend(5_000)]);
}

#[test]
fn a_session_that_began_after_the_locks_were_read_is_somebody_else() {
    let mut report = report(vec![
        lock(1, "ExclusiveLock", true, "70", 0.0),
        lock(2, "ShareLock", false, "70", 1.0),
    ]);
    report.server = Some(crate::sample::Server {
        clock: Some(100.0),
        ..Default::default()
    });
    let backend = |backend_start, xact_start| crate::sample::Backend {
        pid: 1,
        backend_start: Some(backend_start),
        xact_start: Some(xact_start),
        user: Some("app".into()),
        query: Some("select ?".into()),
        ..Default::default()
    };
    report.backends = vec![backend(100.5, 100.6)];
    let root = &build(&report, 100.0).roots[0];
    assert_eq!((root.pid, &root.user, &root.query), (Some(1), &None, &None));
    assert_eq!(root.action, "", "it would hit somebody else");
    // The same session in its next transaction is named, its statement is not.
    report.backends = vec![backend(50.0, 100.6)];
    let root = &build(&report, 100.0).roots[0];
    assert_eq!((root.user.as_deref(), &root.query), (Some("app"), &None));
    assert_eq!(root.action, "", "what was in the way is over");
    // So it is when it is idle by now: no transaction, no lock of one.
    report.backends = vec![crate::sample::Backend {
        state: Some("idle".into()),
        xact_start: None,
        ..backend(50.0, 60.0)
    }];
    let root = &build(&report, 100.0).roots[0];
    assert_eq!((&root.state, root.action.as_str()), (&None, ""));
    report.backends = vec![backend(50.0, 60.0)];
    assert!(build(&report, 100.0).roots[0].query.is_some());
}

#[test]
fn where_requests_may_be_missing_only_who_is_seen_not_to_wait_is_a_root() {
    let mut report = report(vec![
        lock(1, "ExclusiveLock", true, "70", 0.0),
        lock(2, "ShareLock", false, "70", 1.0),
    ]);
    report.locks_truncated = true;
    assert!(build(&report, 2.0).roots.is_empty());
    let backend = |wait: &str| crate::sample::Backend {
        pid: 1,
        state: Some("active".into()),
        wait_event_type: Some(wait.into()),
        ..Default::default()
    };
    report.backends = vec![backend("Lock")];
    assert!(build(&report, 2.0).roots.is_empty());
    report.backends = vec![backend("IO")];
    let graph = build(&report, 2.0);
    assert!(graph.truncated && graph.roots.len() == 1);
    // Every request is there, so only holders can be missing.
    report.backends.clear();
    report.lock_counts = vec![crate::sample::LockCount {
        granted: false,
        count: 1,
        ..Default::default()
    }];
    assert_eq!(build(&report, 2.0).roots.len(), 1);
}

#[test]
fn autovacuum_is_cancelled_gently_and_not_at_all_against_wraparound() {
    let action = |query: &str, user: Option<&str>| {
        let mut report = report(vec![
            lock(1, "ExclusiveLock", true, "70", 0.0),
            lock(2, "ShareLock", false, "70", 1.0),
        ]);
        report.backends = vec![crate::sample::Backend {
            pid: 1,
            state: Some("active".into()),
            user: user.map(str::to_owned),
            query: Some(query.to_owned()),
            ..Default::default()
        }];
        build(&report, 2.0).roots[0].action.clone()
    };
    let own = "autovacuum: VACUUM public.t";
    assert_eq!(action(own, None), "SELECT pg_cancel_backend(1);");
    let wraparound = action(&format!("{own} (to prevent wraparound)"), None);
    assert!(wraparound.starts_with("let it end"), "{wraparound}");
    let by_hand = action("VACUUM public.t (to prevent wraparound)", Some("app"));
    assert_eq!(by_hand, "SELECT pg_cancel_backend(1);");
}

#[test]
fn a_cycle_through_a_queue_is_told_as_not_sure() {
    // 1 and 2 hold a and b; 3 queues for both before they ask for the other's.
    let row = |pid, mode: &str, granted, relation: &str, start| Lock {
        locktype: "relation".into(),
        relation: Some(relation.into()),
        transactionid: None,
        ..lock(pid, mode, granted, "", start)
    };
    let locks = vec![
        row(1, "AccessShareLock", true, "a", 0.0),
        row(2, "AccessShareLock", true, "b", 0.0),
        row(3, "AccessExclusiveLock", false, "a", 1.0),
        row(4, "AccessExclusiveLock", false, "b", 2.0),
        row(1, "AccessShareLock", false, "b", 3.0),
        row(2, "AccessShareLock", false, "a", 4.0),
    ];
    let report = report(locks);
    let graph = LockGraph::of(&report);
    assert_eq!(graph.cycles(), [[1, 2, 3, 4].map(Node::Backend)]);
    let edges = graph.blockers(Node::Backend(1));
    assert!(matches!(
        edges[..],
        [Edge {
            why: Why::Ahead { sure: false, .. },
            ..
        }]
    ));
    assert!(graph.roots().is_empty());
}

mod against_pairs {
    //! The web against the plain definition, pair by pair.

    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::engine::locks::modes::conflicts;

    const WORDS: [&str; 9] = [
        "AccessShareLock",
        "RowShareLock",
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
        "SIReadLock",
    ];

    prop_compose! {
        fn row()(pid in option::weighted(0.95, 1..12_i32), mode in 0..9_usize, granted in any::<bool>(),
                 object in 0..4_u32, start in proptest::option::weighted(0.9, 0..40_u32), xid in 0..3_u32) -> Lock {
            Lock {
                pid,
                locktype: "relation".into(),
                mode: WORDS[mode].into(),
                granted,
                relation_oid: Some(object),
                virtualtransaction: Some(format!("-1/{xid}")),
                waitstart: start.filter(|_| !granted).map(f64::from),
                ..Lock::default()
            }
        }
    }

    use proptest::option;

    fn who(lock: &Lock) -> Node<'_> {
        match lock.pid {
            Some(pid) => Node::Backend(pid),
            None => Node::Prepared(&lock.virtualtransaction.as_deref().unwrap_or_default()[3..]),
        }
    }

    /// Blockers pair by pair, with the order of the queues as the graph has it.
    fn pairs<'a>(
        graph: &LockGraph<'a>,
        locks: &'a [Lock],
    ) -> BTreeMap<Node<'a>, BTreeSet<Node<'a>>> {
        let queues: Vec<_> = graph
            .contended()
            .map(|object| graph.queue(object))
            .collect();
        let mut pairs: BTreeMap<Node<'_>, BTreeSet<Node<'_>>> = BTreeMap::new();
        for queue in &queues {
            for (place, (node, request)) in queue.iter().enumerate() {
                let held = locks.iter().filter(|other| other.granted);
                let held = held.filter(|other| other.relation_oid == request.relation_oid);
                let ahead = queue[..place].iter().map(|(_, other)| *other);
                let others = held.chain(ahead);
                let others = others.filter(|other| conflicts(&request.mode, &other.mode));
                let entry = pairs.entry(*node).or_default();
                entry.extend(others.map(|other| who(other)).filter(|other| other != node));
            }
        }
        pairs
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn walks_reach_what_pairs_reach(locks in proptest::collection::vec(row(), 0..60)) {
            let report = PostgresReport { locks, ..PostgresReport::default() };
            let graph = LockGraph::of(&report);
            let pairs = pairs(&graph, &report.locks);
            let none = BTreeSet::new();
            let of = |node: &Node<'_>| pairs.iter().find(|(n, _)| *n == node).map_or(&none, |(_, b)| b);
            for node in graph.nodes() {
                let told: BTreeSet<_> = graph.blockers(node).iter().map(|edge| edge.blocker).collect();
                prop_assert_eq!(&told, of(&node));
                let mut behind = BTreeSet::new();
                let mut open = vec![node];
                while let Some(next) = open.pop() {
                    for (waiter, _) in pairs.iter().filter(|(_, b)| b.contains(&next)) {
                        if *waiter != node && behind.insert(*waiter) {
                            open.push(*waiter);
                        }
                    }
                }
                let walked: BTreeSet<_> = graph.behind(node).into_iter().collect();
                prop_assert_eq!(&walked, &behind);
                let in_cycle = graph.cycles().iter().any(|cycle| cycle.contains(&node));
                let own_blockers = of(&node);
                prop_assert_eq!(in_cycle, own_blockers.iter().any(|b| behind.contains(b)));
                let blocks = pairs.values().any(|b| b.contains(&node));
                prop_assert_eq!(graph.roots().contains(&node), blocks && !pairs.contains_key(&node));
            }
            let shown = build(&report, 50.0);
            prop_assert_eq!(shown.roots.len(), graph.roots().len());
            for root in &shown.roots {
                let node = match (root.pid, &root.prepared) {
                    (Some(pid), _) => Node::Backend(pid),
                    (None, xid) => Node::Prepared(xid.as_deref().unwrap_or_default()),
                };
                prop_assert_eq!(root.waiters as usize, graph.behind(node).len());
                prop_assert_eq!(root.direct_waiters as usize, graph.blocked_by(node).len());
                prop_assert!(root.depth <= root.waiters && root.direct_waiters <= root.waiters);
            }
        }
    }
}
