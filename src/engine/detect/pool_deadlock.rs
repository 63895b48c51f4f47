//! A pool all of whose servers wait for a lock that was left on one of them.
//!
//! In transaction pooling a session lock stays on the server when its client
//! goes on elsewhere. To release it the client must get that very server again;
//! but clients that want the lock take all the others, and wait on them. Signals:
//! an advisory lock with the verdict `orphaned`, `stranded` or `carried`, and a
//! full pool of the same database and user with a queue, whose servers are all
//! held by sessions behind that lock, or, the one with the lock, by a client that
//! has had it in one transaction for some seconds. Over when one of them has left.

use std::collections::BTreeSet;

use serde_json::json;

use super::pool_saturation::{database_of, is_full, queue_wait};
use super::scene::{Scene, fields, longest, pids_behind, terminate};
use super::watch::{Account, Stance, Suspicion, Watch};
use crate::engine::incident::Kind;
use crate::engine::locks::pooled::{Match, PoolerLook};
use crate::engine::locks::{AdvisoryLock, Verdict};
use crate::engine::words;
use crate::sample::{Backend, Pool};

/// A pool that cannot move on, and who is told of by it.
#[derive(Debug)]
pub struct Stuck {
    pub suspicion: Suspicion,
    pub waiters: BTreeSet<i32>,
    pub blocker: i32,
    /// Pooler, database and user of the pool.
    pub pool: (String, String, String),
}

/// The servers of a pool, all accounted for.
#[derive(Debug)]
struct Servers {
    waiting: usize,
    /// The holder's server is one of them, and another client has it.
    holder_taken: bool,
}

/// The pools of one look that cannot move on.
pub fn check(scene: &Scene<'_>, watch: &Watch) -> Vec<Stuck> {
    let wanted = scene.advisory.iter();
    let wanted = wanted.filter(|lock| !lock.allowed && lock.waiters > 0);
    let stuck = wanted.flat_map(|lock| {
        let left = matches!(
            lock.verdict,
            Verdict::Orphaned | Verdict::Stranded | Verdict::Carried
        );
        let stuck = stuck_behind(scene, lock).into_iter();
        stuck.filter_map(move |stuck| {
            if left {
                Some(stuck)
            } else {
                known(stuck, watch)
            }
        })
    });
    stuck.collect()
}

/// That a lock was left may have been seen in an earlier life of the program,
/// and cannot be seen again. As long as all else is as it was, that stands.
fn known(mut stuck: Stuck, watch: &Watch) -> Option<Stuck> {
    let suspicion = &mut stuck.suspicion;
    suspicion.account = watch.restored(&suspicion.key)?.clone();
    suspicion.stance = Stance::Keeps;
    Some(stuck)
}

fn stuck_behind(scene: &Scene<'_>, lock: &AdvisoryLock) -> Vec<Stuck> {
    let Some(holder) = lock.pid.and_then(|pid| scene.backend(pid)) else {
        return Vec::new();
    };
    let (waiters, seconds) = behind(scene, holder.pid);
    let mut stuck = Vec::new();
    for look in scene.looks.poolers.iter().filter(|look| look.fresh) {
        if look.report.truncated {
            continue;
        }
        for pool in look.report.pools.iter().filter(|pool| pool.cl_waiting > 0) {
            if let Some(servers) = all_wait(scene, look, pool, holder, &waiters, lock.verdict) {
                stuck.push(Stuck {
                    suspicion: suspicion(scene, look, pool, lock, &servers, seconds),
                    waiters: waiters.clone(),
                    blocker: holder.pid,
                    pool: (
                        look.report.pooler.clone(),
                        pool.database.clone(),
                        pool.user.clone(),
                    ),
                });
            }
        }
    }
    stuck
}

/// Everybody behind a session, which may itself wait for something else, and the
/// longest wait among them.
fn behind(scene: &Scene<'_>, holder: i32) -> (BTreeSet<i32>, f64) {
    for root in scene.roots {
        let waiters = scene.behind(root);
        if root.pid == Some(holder) {
            let pids = waiters.iter().map(|waiter| waiter.node.pid).collect();
            return (pids, longest(&waiters));
        }
        if let Some(own) = waiters.iter().find(|w| w.node.pid == holder) {
            let pids = pids_behind(own.node);
            let behind = waiters.iter().filter(|w| pids.contains(&w.node.pid));
            let longest = longest(behind);
            return (pids, longest);
        }
    }
    (BTreeSet::new(), 0.0)
}

/// The servers of the pool, when it is full and each of them is held by a waiter
/// or is the holder's own; `None` when one could serve somebody.
fn all_wait(
    scene: &Scene<'_>,
    look: &PoolerLook<'_>,
    pool: &Pool,
    holder: &Backend,
    waiters: &BTreeSet<i32>,
    verdict: Verdict,
) -> Option<Servers> {
    let database = database_of(look.report, pool)?;
    let user = database.force_user.as_deref().unwrap_or(&pool.user);
    let same = holder.database.as_deref() == Some(database.database.as_str())
        && holder.user.as_deref() == Some(user);
    if !same || database.paused || !is_full(pool, database) {
        return None;
    }
    let mut servers = Servers {
        waiting: 0,
        holder_taken: false,
    };
    let rows = look.report.servers.iter();
    for row in rows.filter(|row| row.database == pool.database && row.user == pool.user) {
        let backend = scene.backend(row.remote_pid)?;
        let Match::Found(pooled) = scene.context().servers.find(backend) else {
            return None;
        };
        if pooled.server.ptr != row.ptr || pooled.look.report.pooler != look.report.pooler {
            return None;
        }
        if backend.pid == holder.pid {
            // An idle server would be given to the next in the queue, and so is
            // one whose transactions end.
            let taken_for = scene.age(holder.xact_start)?;
            if row.link.is_empty() || taken_for < scene.detect.pool_deadlock.after {
                return None;
            }
            servers.holder_taken = true;
        } else if waiters.contains(&backend.pid) {
            servers.waiting += 1;
        } else {
            return None;
        }
    }
    // A lock that lies outside this pool can be released there, unless its
    // client has gone.
    let reachable = !servers.holder_taken && verdict != Verdict::Orphaned;
    (servers.waiting > 0 && !reachable).then_some(servers)
}

fn suspicion(
    scene: &Scene<'_>,
    look: &PoolerLook<'_>,
    pool: &Pool,
    lock: &AdvisoryLock,
    servers: &Servers,
    seconds: f64,
) -> Suspicion {
    let holder = lock.pid.unwrap_or(0);
    let pooler = &look.report.pooler;
    let (database, user) = (&pool.database, &pool.user);
    let name = format!("{}/{}", words::name(database), words::name(user));
    let waiting = words::plural(servers.waiting as f64, "server");
    let queue = words::plural(f64::from(pool.cl_waiting), "client");
    let mut evidence = vec![
        format!(
            "{waiting} of pool {name} wait for advisory lock {}, the longest for {}",
            lock.key,
            words::duration(seconds)
        ),
        format!(
            "{queue} in the queue of the pool, the first for {}",
            words::duration(queue_wait(pool))
        ),
    ];
    evidence.extend(why_nobody_can(scene, lock, holder, servers));
    Suspicion {
        key: format!(
            "{pooler}\u{1f}{database}\u{1f}{user}\u{1f}{}\u{1f}{}",
            scene.identity(holder),
            lock.key
        ),
        stance: if seconds >= scene.detect.pool_deadlock.after {
            Stance::Opens
        } else {
            Stance::Keeps
        },
        onset_at: scene.onset(seconds),
        account: Account {
            severity: Kind::PoolDeadlock.severity(),
            subject: fields(json!({
                "pooler": pooler,
                "database": database,
                "user": user,
                "key": lock.key,
                "names": lock.names,
                "pid": holder,
                "verdict": lock.verdict,
                "servers_waiting": servers.waiting,
                "clients_waiting": pool.cl_waiting,
            })),
            summary: format!(
                "pool {name} of {pooler} is deadlocked: {waiting} wait for advisory lock {} on backend {holder}, \
                 which nobody can reach to release it, and {queue} wait for a server",
                lock.key
            ),
            evidence,
            actions: actions(lock, holder, servers),
        },
    }
}

fn why_nobody_can(
    scene: &Scene<'_>,
    lock: &AdvisoryLock,
    holder: i32,
    servers: &Servers,
) -> Vec<String> {
    let mut why = vec![format!(
        "{} holds the lock, verdict {}: {}",
        scene.who(holder),
        lock.verdict.as_str(),
        lock.reason
    )];
    why.push(if servers.holder_taken {
        format!(
            "the holder's server is the only other one, and another client has it: whoever took the lock \
             cannot reach backend {holder} to release it"
        )
    } else {
        "the lock lies on a server outside this pool, and its client has gone".to_owned()
    });
    if lock.verdict == Verdict::Orphaned {
        why.push("the lock itself is told as orphaned_advisory_lock".to_owned());
    }
    why
}

/// `RECONNECT` is gentler, but ends a server only when its client lets go of it.
fn actions(lock: &AdvisoryLock, holder: i32, servers: &Servers) -> Vec<String> {
    let mut actions = vec![lock.action.clone(), terminate(holder)];
    actions.retain(|action| !action.is_empty());
    actions.dedup();
    if servers.holder_taken {
        actions.reverse();
    }
    actions
}
