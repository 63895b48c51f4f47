//! Who waits for whom as PostgreSQL says itself, and what we say at the same
//! instant.

use std::collections::{BTreeMap, BTreeSet};

use snowpit::engine::locks::graph::{LockGraph, Node, Why, build};
use snowpit::observe::postgres::PostgresSource;
use snowpit::sample::PostgresReport;
use tokio_postgres::Client;

/// How often two reads are tried until nothing moves in between.
const TRIES: usize = 200;

const SQL: &str = "\
SELECT DISTINCT coalesce(a.leader_pid, l.pid) AS waiter, pg_blocking_pids(coalesce(a.leader_pid, l.pid)) AS blockers,
       coalesce(a.leader_pid, l.pid) <> l.pid OR EXISTS (
         SELECT FROM pg_stat_get_activity(NULL) m WHERE m.leader_pid = l.pid) AS grouped
FROM pg_lock_status() l LEFT JOIN pg_stat_get_activity(NULL) a ON a.pid = l.pid
WHERE NOT l.granted";

/// The blockers of each waiter; 0 stands for each prepared transaction.
pub type Truth = BTreeMap<i32, (Vec<i32>, bool)>;

pub async fn truth(observer: &Client) -> Truth {
    let rows = observer.query(SQL, &[]).await.unwrap();
    let rows = rows.iter().map(|row| {
        let mut blockers: Vec<i32> = row.get("blockers");
        blockers.sort_unstable();
        (row.get("waiter"), (blockers, row.get("grouped")))
    });
    rows.collect()
}

/// One look of ours, with the truth before and after it alike.
pub async fn quiet_look(observer: &Client, source: &mut PostgresSource) -> (Truth, PostgresReport) {
    for _ in 0..TRIES {
        let before = truth(observer).await;
        let report = source.look().await.expect("a look");
        let unsettled = report
            .locks
            .iter()
            .any(|l| !l.granted && l.waitstart.is_none());
        if !unsettled && before == truth(observer).await {
            return (before, report);
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("something always moves");
}

/// What was compared.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub waiters: usize,
    pub holding: usize,
    pub queued: usize,
    /// Places in a queue whose order is told as not known.
    pub not_sure: usize,
    /// Those of them that were the other way round.
    pub turned: usize,
    pub roots: usize,
    pub prepared_roots: usize,
    pub cycles: usize,
    pub grouped: usize,
    pub locktypes: BTreeMap<String, usize>,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.waiters += other.waiters;
        self.holding += other.holding;
        self.queued += other.queued;
        self.not_sure += other.not_sure;
        self.turned += other.turned;
        self.roots += other.roots;
        self.prepared_roots += other.prepared_roots;
        self.cycles += other.cycles;
        self.grouped += other.grouped;
        for (locktype, count) in &other.locktypes {
            *self.locktypes.entry(locktype.clone()).or_default() += count;
        }
    }
}

/// Compares; the error says what differs.
pub fn compare(truth: &Truth, report: &PostgresReport) -> Result<Tally, String> {
    let graph = LockGraph::of(report);
    let mut tally = Tally {
        waiters: truth.len(),
        cycles: graph.cycles().len(),
        ..Tally::default()
    };
    let waiting: BTreeSet<i32> = graph
        .nodes()
        .filter(|node| graph.is_waiting(*node))
        .filter_map(pid)
        .collect();
    if waiting != truth.keys().copied().collect() {
        return Err(format!(
            "waiters: {waiting:?} instead of {:?}",
            truth.keys()
        ));
    }
    let mut turned = Vec::new();
    for (&waiter, (blockers, grouped)) in truth {
        tally.grouped += usize::from(*grouped);
        let node = Node::Backend(waiter);
        for request in graph.requests(node) {
            *tally.locktypes.entry(request.locktype.clone()).or_default() += 1;
        }
        let mut own: BTreeMap<i32, bool> = BTreeMap::new();
        let mut prepared = 0;
        for edge in graph.blockers(node) {
            let sure = match edge.why {
                Why::Holds(_) => {
                    tally.holding += 1;
                    true
                }
                Why::Ahead { sure, .. } => {
                    tally.queued += 1;
                    tally.not_sure += usize::from(!sure);
                    sure
                }
            };
            match edge.blocker {
                Node::Backend(pid) => {
                    own.insert(pid, sure);
                }
                Node::Prepared(_) => prepared += 1,
            }
        }
        let zeros = blockers.iter().filter(|pid| **pid == 0).count();
        // A group may meet the same transaction more than once.
        if zeros != prepared && !(*grouped && zeros > prepared && prepared > 0) {
            return Err(format!(
                "{waiter} waits for {prepared} prepared transactions instead of {zeros}"
            ));
        }
        let theirs: BTreeSet<i32> = blockers.iter().copied().filter(|pid| *pid != 0).collect();
        for (&pid, &sure) in own.iter().filter(|(pid, _)| !theirs.contains(pid)) {
            if sure {
                return Err(format!("{waiter} does not wait for {pid}"));
            }
            turned.push((pid, waiter));
        }
        for &pid in theirs.iter().filter(|pid| !own.contains_key(pid)) {
            // It may be the other way round where that is said.
            let back = graph.blockers(Node::Backend(pid));
            let told = back.iter().any(|edge| {
                edge.blocker == node && matches!(edge.why, Why::Ahead { sure: false, .. })
            });
            if !told {
                return Err(format!("{waiter} waits for {pid} too"));
            }
        }
    }
    tally.turned = turned.len();
    compare_roots(truth, report, &mut tally)?;
    Ok(tally)
}

fn compare_roots(truth: &Truth, report: &PostgresReport, tally: &mut Tally) -> Result<(), String> {
    let all: BTreeSet<i32> = truth
        .values()
        .flat_map(|(blockers, _)| blockers.clone())
        .collect();
    let expected: BTreeSet<i32> = all
        .iter()
        .copied()
        .filter(|pid| *pid != 0 && !truth.contains_key(pid))
        .collect();
    let shown = build(
        report,
        report
            .server
            .as_ref()
            .and_then(|s| s.clock)
            .unwrap_or_default(),
    );
    let told: BTreeSet<i32> = shown.roots.iter().filter_map(|root| root.pid).collect();
    if told != expected {
        return Err(format!("roots: {told:?} instead of {expected:?}"));
    }
    let gids = shown.roots.iter().filter_map(|root| root.prepared.as_ref());
    let known = |gid: &&String| report.prepared.iter().any(|row| row.gid == **gid);
    tally.prepared_roots = gids.clone().count();
    if (tally.prepared_roots > 0) != all.contains(&0) || !gids.clone().all(|gid| known(&gid)) {
        return Err(format!("prepared roots: {:?}", gids.collect::<Vec<_>>()));
    }
    tally.roots = told.len();
    for root in &shown.roots {
        if root.waiters < root.direct_waiters || root.direct_waiters == 0 || root.depth == 0 {
            return Err(format!("counts of {root:?}"));
        }
    }
    Ok(())
}

fn pid(node: Node<'_>) -> Option<i32> {
    match node {
        Node::Backend(pid) => Some(pid),
        Node::Prepared(_) => None,
    }
}
