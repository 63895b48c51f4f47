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
    assert_eq!(graph.roots[0].action, "ROLLBACK PREPARED 'order''s';");
}
