//! The order of wait queues, which `pg_locks` does not show: PostgreSQL's own
//! answer for the waiters that it matters for.
//!
//! A deadlock detector rearranges queues, and when a member of the cycle has
//! left since, nothing but the queue itself tells. `pg_blocking_pids` reads it:
//! it copies the locks on one object only, but it stops the lock manager for
//! some microseconds, so few are asked for in a look, and none while no two
//! requests compete.

use std::collections::BTreeMap;

use tokio_postgres::{Error, Row};

use crate::sample::{Blocking, Lock};

/// Waiters asked for in one look. Each call costs some 20 microseconds.
const MAX_ASKED: usize = 50;

/// `$1` are the pids.
pub const SQL: &str =
    "SELECT pid, pg_blocking_pids(pid) AS blockers FROM unnest($1::int4[]) AS pid";

/// Requests in these modes do not compete with others in the same mode.
const SHARED: [&str; 4] = [
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareLock",
];

/// The waiters in queues where the order can matter, short queues first: of
/// those the answers tell all.
pub fn order_matters<'a, K: Ord>(requests: impl Iterator<Item = (K, &'a Lock)>) -> Vec<i32> {
    let mut queues: BTreeMap<K, Vec<&Lock>> = BTreeMap::new();
    for (object, request) in requests {
        queues.entry(object).or_default().push(request);
    }
    let mut queues: Vec<Vec<&Lock>> = queues
        .into_values()
        .filter(|queue| competes(queue))
        .collect();
    queues.sort_by_key(Vec::len);
    let mut pids: Vec<i32> = queues
        .iter()
        .flatten()
        .filter_map(|request| request.pid)
        .collect();
    pids.truncate(MAX_ASKED);
    pids
}

fn competes(queue: &[&Lock]) -> bool {
    let [first, second, others @ ..] = queue else {
        return false;
    };
    let mut after = std::iter::once(second).chain(others);
    !SHARED.contains(&first.mode.as_str()) || after.any(|request| request.mode != first.mode)
}

/// # Errors
/// When a column is missing or of another type.
pub fn decode(rows: &[Row]) -> Result<Vec<Blocking>, Error> {
    rows.iter()
        .map(|row| {
            Ok(Blocking {
                pid: row.try_get("pid")?,
                by: row.try_get("blockers")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pid: i32, mode: &str) -> Lock {
        Lock {
            pid: Some(pid),
            mode: mode.into(),
            ..Lock::default()
        }
    }

    #[test]
    fn only_queues_whose_order_can_matter_are_asked_about() {
        let requests = [
            (1, request(10, "ShareLock")),
            (1, request(11, "ShareLock")),
            (2, request(20, "ExclusiveLock")),
            (3, request(30, "ExclusiveLock")),
            (3, request(31, "ExclusiveLock")),
            (3, request(32, "ExclusiveLock")),
            (4, request(40, "AccessExclusiveLock")),
            (4, request(41, "AccessShareLock")),
        ];
        let asked = order_matters(requests.iter().map(|(object, lock)| (object, lock)));
        assert_eq!(asked, [40, 41, 30, 31, 32]);
        let many: Vec<Lock> = (0..200).map(|pid| request(pid, "ExclusiveLock")).collect();
        assert_eq!(
            order_matters(many.iter().map(|lock| (0, lock))).len(),
            MAX_ASKED
        );
    }
}
