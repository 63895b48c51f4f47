//! A session is idle in an open transaction and holds locks: others wait for
//! them, or it has been so for long.
//!
//! That a transaction has written (it has a transaction id) says that it holds
//! locks on rows and tables; one that has only read, or only holds an advisory
//! lock as a leader does, is told only when somebody waits. A pile-up or a
//! blocked migration behind it is told as that. Over when the transaction has
//! ended or runs again, or nobody waits for it any more and it is not long.

use serde_json::json;

use super::scene::{Scene, Told, Waiter, fields, longest, terminate};
use super::watch::{Account, Stance, Suspicion};
use crate::engine::incident::Kind;
use crate::engine::locks::RootBlocker;
use crate::engine::words;
use crate::sample::Backend;

/// The idle transactions of one look. `piled_up` says whether a root blocker is
/// told as a pile-up.
pub fn check(
    scene: &Scene<'_>,
    told: &Told,
    piled_up: impl Fn(&RootBlocker) -> bool,
) -> Vec<Suspicion> {
    let settings = &scene.detect.idle_in_transaction;
    let backends = scene.report.backends.iter();
    let found = backends.filter_map(|backend| {
        let state = backend.state.as_deref()?;
        if !state.starts_with("idle in transaction") {
            return None;
        }
        let key = format!(
            "{}/{:x}",
            scene.identity(backend.pid),
            backend.xact_start?.to_bits()
        );
        backend.backend_start?;
        let idle = scene.age(backend.state_change)?;
        let root = scene.root(backend.pid);
        let waiters = root.map_or_else(Vec::new, |root| scene.behind(root));
        // Before that it was not idle in their way.
        let waited = longest(&waiters).min(idle);
        let long = backend.has_written && idle >= settings.long_after;
        let elsewhere = match root {
            Some(root) if piled_up(root) => Some(Kind::LockPileup),
            _ => told.of_blocker(backend.pid),
        };
        let stance = match elsewhere {
            Some(kind) => Stance::Yields(kind),
            None if waited >= settings.waiter_after || long => Stance::Opens,
            None if waited > 0.0 => Stance::Keeps,
            None => return None,
        };
        Some(Suspicion {
            key,
            stance,
            onset_at: scene.onset(idle),
            account: account(scene, backend, root, &waiters, idle),
        })
    });
    found.collect()
}

fn account(
    scene: &Scene<'_>,
    backend: &Backend,
    root: Option<&RootBlocker>,
    waiters: &[Waiter<'_>],
    idle: f64,
) -> Account {
    let pid = backend.pid;
    let waiting = words::plural(waiters.len() as f64, "session");
    let behind = if waiters.is_empty() {
        String::new()
    } else {
        format!(", and {waiting} wait for its locks")
    };
    let application = backend.application.as_deref().filter(|a| !a.is_empty());
    let whose = application.map_or_else(String::new, |a| format!(" ({})", words::name(a)));
    let mut evidence = Vec::new();
    evidence.extend(scene.profile(pid));
    if backend.has_written {
        evidence.push(
            "its transaction has written: it holds its rows, and locks on their tables, until it ends"
                .to_owned(),
        );
    }
    if !waiters.is_empty() {
        evidence.push(format!(
            "{waiting} behind it, the longest for {}",
            words::duration(longest(waiters))
        ));
    }
    for lock in root.iter().flat_map(|root| &root.holds).take(3) {
        evidence.push(format!(
            "in the way: {} on {} {}",
            lock.mode,
            lock.locktype,
            words::name(&lock.object)
        ));
    }
    if backend.holds_xmin {
        evidence.push("it holds a snapshot, so that vacuum cannot clean up".to_owned());
    }
    Account {
        severity: Kind::IdleInTransaction.severity(),
        subject: fields(json!({
            "pid": pid,
            "database": backend.database,
            "user": backend.user,
            "application": backend.application,
            "client": backend.client,
            "state": backend.state,
            "idle_seconds": (idle * 10.0).round() / 10.0,
            "waiters": waiters.len(),
        })),
        summary: format!(
            "backend {pid} of {}{whose} has been idle in an open transaction for {}{behind}",
            scene.target,
            words::duration(idle),
        ),
        evidence,
        actions: vec![terminate(pid)],
    }
}
