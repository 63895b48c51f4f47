//! Who waits for whom, and advisory locks with their verdicts.

use std::collections::BTreeMap;

use super::page::{Buckets, Page, clip, largest};
use super::{OTHER, UNKNOWN, table};
use crate::engine::locks::{AdvisoryLock, LockView, RootBlocker, Spinners, Verdict};
use crate::sample::LockCount;

/// Root blockers are few by nature; ten are more than a person looks at.
const MAX_ROOTS: usize = 10;

/// Advisory locks shown one by one. A job queue can hold thousands.
const MAX_ADVISORY: usize = 100;

/// Databases shown one by one in the count by verdict.
const MAX_DATABASES: usize = 100;

/// A lock type has at most eight modes, granted or not, and there are a dozen
/// types: no honest server comes near this.
const MAX_LOCK_COUNTS: usize = 200;

/// The verdicts and the wait graph of one target.
pub(super) fn put(page: &mut Page, target: &str, locks: &LockView) {
    for wait in &locks.waits {
        let labels = [target, wait.locktype.as_str()];
        page.put(&table::LOCK_WAITERS, labels, f64::from(wait.waiters));
        page.put_some(&table::LOCK_LONGEST_WAIT, labels, wait.longest_wait_seconds);
    }
    for times in &locks.wait_times {
        let labels = [target, times.locktype.as_str()];
        let buckets = Buckets {
            counts: times.counts.clone(),
            sum: times.sum_seconds,
        };
        page.put_histogram(&table::LOCK_WAIT, labels, buckets);
    }
    let roots = locks.root_blockers.len() as f64;
    page.put(&table::LOCK_ROOT_BLOCKERS, [target], roots);
    let depth = f64::from(locks.chain_depth);
    page.put(&table::LOCK_CHAIN_DEPTH, [target], depth);
    put_roots(page, target, &locks.root_blockers);
    put_verdicts(page, target, &locks.advisory_locks);
    put_ages(page, target, &locks.advisory_locks);
    put_spinners(page, target, &locks.spinners);
}

/// The rows of the whole lock table.
pub(super) fn put_counts(page: &mut Page, target: &str, counts: &[LockCount]) {
    for row in counts.iter().take(MAX_LOCK_COUNTS) {
        let granted = if row.granted { "true" } else { "false" };
        let labels = [target, row.locktype.as_str(), row.mode.as_str(), granted];
        page.put(&table::LOCKS, labels, f64::from(row.count));
    }
}

fn put_roots(page: &mut Page, target: &str, roots: &[RootBlocker]) {
    let text = |value: &Option<String>| clip(value.as_deref().unwrap_or(UNKNOWN));
    let mut waiters = BTreeMap::new();
    for root in roots {
        let state = if root.prepared.is_some() {
            "prepared".to_owned()
        } else {
            text(&root.state)
        };
        let key = [
            text(&root.database),
            text(&root.user),
            text(&root.application),
            state,
        ];
        *waiters.entry(key).or_insert(0.0) += f64::from(root.waiters);
    }
    for ([database, user, application, state], waiters) in largest(waiters, MAX_ROOTS).0 {
        let labels = [target, &database, &user, &application, &state];
        page.put(&table::ROOT_BLOCKER_WAITERS, labels, waiters);
    }
}

fn put_verdicts(page: &mut Page, target: &str, locks: &[AdvisoryLock]) {
    let mut databases: BTreeMap<String, BTreeMap<Verdict, f64>> = BTreeMap::new();
    for lock in locks {
        let full = databases.len() >= MAX_DATABASES;
        let name = clip(&lock.database);
        let name = if full && !databases.contains_key(&name) {
            OTHER.to_owned()
        } else {
            name
        };
        *databases
            .entry(name)
            .or_default()
            .entry(lock.verdict)
            .or_insert(0.0) += 1.0;
    }
    for (database, verdicts) in &databases {
        for (verdict, count) in verdicts {
            let labels = [target, database, verdict.as_str()];
            page.put(&table::ADVISORY_LOCKS, labels, *count);
        }
    }
}

fn put_ages(page: &mut Page, target: &str, locks: &[AdvisoryLock]) {
    let mut doubtful: Vec<&AdvisoryLock> = locks
        .iter()
        .filter(|lock| lock.verdict != Verdict::Owned)
        .collect();
    doubtful.sort_by(|a, b| b.age_seconds.total_cmp(&a.age_seconds));
    for lock in doubtful.into_iter().take(MAX_ADVISORY) {
        let names = lock.names.join(", ");
        let labels = [
            target,
            lock.database.as_str(),
            lock.key.as_str(),
            names.as_str(),
            lock.verdict.as_str(),
            lock.pooler.as_deref().unwrap_or_default(),
        ];
        page.put(&table::ADVISORY_LOCK_AGE, labels, lock.age_seconds);
    }
}

fn put_spinners(page: &mut Page, target: &str, spinners: &[Spinners]) {
    let counts = spinners.iter().map(|on| {
        let key = [clip(&on.database), clip(&on.key)];
        (key, f64::from(on.clients))
    });
    for ([database, key], count) in largest(counts.collect(), MAX_ADVISORY).0 {
        page.put(&table::TRY_LOCK_SPINNERS, [target, &database, &key], count);
    }
}
