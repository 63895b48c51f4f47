//! Sessions pile up behind one blocker.
//!
//! Signals: the wait-for graph, its root, how many wait and for how long. What
//! another kind tells in more detail (a blocked migration, a lock that nobody
//! owns, a cycle) is left to it. Over when no waiter is older than the
//! threshold.

use std::collections::BTreeMap;

use serde_json::json;

use super::scene::{Scene, Told, Waiter, end_session, fields, is_autovacuum, longest};
use super::watch::{Account, Stance, Suspicion, Watch};
use crate::engine::incident::Kind;
use crate::engine::locks::{AdvisoryLock, RootBlocker, Verdict};
use crate::engine::words;

/// A pile-up, with the identities of those in the way.
#[derive(Debug)]
pub struct PileUp {
    pub suspicion: Suspicion,
    pub blockers: Vec<String>,
}

/// Root blockers, and the waiters behind them that no other kind tells of.
#[derive(Debug)]
struct Pile<'a> {
    /// The one with the oldest transaction.
    root: &'a RootBlocker,
    key: String,
    blockers: Vec<String>,
    waiters: Vec<Waiter<'a>>,
    /// The kind that tells of the others.
    elsewhere: Option<Kind>,
}

/// The pile-ups of one look.
pub fn check(scene: &Scene<'_>, told: &Told, watch: &Watch) -> Vec<PileUp> {
    let piles = piles(scene, told, watch);
    let suspected = piles.into_iter().filter_map(|pile| {
        let suspicion = suspicion(scene, &pile)?;
        let blockers = pile.blockers;
        Some(PileUp {
            suspicion,
            blockers,
        })
    });
    suspected.collect()
}

fn suspicion(scene: &Scene<'_>, pile: &Pile<'_>) -> Option<Suspicion> {
    let settings = &scene.detect.lock_pileup;
    let longest = longest(&pile.waiters);
    let left = left_lock(scene, pile);
    let least = if left.is_some() {
        1.0
    } else {
        settings.min_waiters
    };
    let waits = longest >= settings.wait;
    let stance = match pile.elsewhere {
        Some(kind) if !waits => Stance::Yields(kind),
        _ if waits && count(scene, pile) >= least => Stance::Opens,
        _ if waits => Stance::Keeps,
        _ => return None,
    };
    Some(Suspicion {
        key: pile.key.clone(),
        stance,
        onset_at: scene.onset(longest),
        account: account(scene, pile, left, longest),
    })
}

/// Root blockers with the same sessions behind them are one pile-up: a writer
/// waits for every reader.
fn piles<'a>(scene: &Scene<'a>, told: &Told, watch: &Watch) -> Vec<Pile<'a>> {
    // A tree may be cut; its first waiter and the counts are those of the whole.
    let mut alike: BTreeMap<(i32, u32, u32), Vec<&'a RootBlocker>> = BTreeMap::new();
    for root in scene.roots {
        if let Some(first) = root.tree.first() {
            let behind = (first.pid, root.waiters, root.direct_waiters);
            alike.entry(behind).or_default().push(root);
        }
    }
    alike
        .into_iter()
        .filter_map(|((first, ..), roots)| pile(scene, first, &roots, told, watch))
        .collect()
}

fn pile<'a>(
    scene: &Scene<'a>,
    first: i32,
    roots: &[&'a RootBlocker],
    told: &Told,
    watch: &Watch,
) -> Option<Pile<'a>> {
    let age = |root: &RootBlocker| root.transaction_seconds.unwrap_or(0.0);
    let oldest = roots.iter().copied();
    let root = oldest.max_by(|a, b| age(a).total_cmp(&age(b)))?;
    let blockers: Vec<String> = roots.iter().map(|root| scene.root_identity(root)).collect();
    let (elsewhere, waiters): (Vec<_>, Vec<_>) = scene
        .behind(root)
        .into_iter()
        .partition(|waiter| told.of_waiter(waiter.node.pid).is_some());
    Some(Pile {
        root,
        key: key(scene, first, &blockers, watch),
        blockers,
        waiters,
        elsewhere: elsewhere
            .first()
            .and_then(|waiter| told.of_waiter(waiter.node.pid)),
    })
}

/// A pile-up keeps the name it has. One behind a single session is called by
/// that, as its waiters give up and come again; one behind several by its first
/// waiter, as those in the way come and go.
fn key(scene: &Scene<'_>, first: i32, blockers: &[String], watch: &Watch) -> String {
    let by_waiter = format!("before {}", scene.identity(first));
    let mut known = blockers.iter().filter(|blocker| watch.knows(blocker));
    match (known.next(), blockers) {
        (Some(known), _) => known.clone(),
        (None, [only]) if !watch.knows(&by_waiter) => only.clone(),
        _ => by_waiter,
    }
}

/// How many wait. A long tree is cut, the root's own count is not; but that
/// counts those as well that are told elsewhere, or wait on purpose.
fn count(scene: &Scene<'_>, pile: &Pile<'_>) -> f64 {
    if pile.elsewhere.is_some() || scene.allows_any() {
        pile.waiters.len() as f64
    } else {
        f64::from(pile.root.waiters)
    }
}

/// The advisory lock in the way, when it was left on a pooled server.
fn left_lock<'a>(scene: &Scene<'a>, pile: &Pile<'_>) -> Option<&'a AdvisoryLock> {
    let wanted = |key: &str| {
        let mut direct = pile.waiters.iter().filter(|waiter| waiter.level == 1);
        direct.any(|waiter| {
            let object = &waiter.node.waits_for;
            object.locktype == "advisory" && object.object == key
        })
    };
    scene.advisory.iter().find(|lock| {
        let left = matches!(
            lock.verdict,
            Verdict::Orphaned | Verdict::Stranded | Verdict::Carried | Verdict::Suspect
        );
        left && !lock.allowed
            && lock.pid.is_some()
            && lock.pid == pile.root.pid
            && wanted(&lock.key)
    })
}

fn account(
    scene: &Scene<'_>,
    pile: &Pile<'_>,
    left: Option<&AdvisoryLock>,
    longest: f64,
) -> Account {
    let root = pile.root;
    let held = root.holds.first();
    let what = held.map_or_else(String::new, |lock| {
        let object = words::name(&lock.object);
        format!(", which holds {} on {} {object}", lock.mode, lock.locktype)
    });
    let waiters = words::plural(count(scene, pile), "session");
    let mut evidence = vec![format!(
        "{waiters} behind it, {} directly, the longest for {}",
        words::count(f64::from(root.direct_waiters)),
        words::duration(longest),
    )];
    evidence.extend(root.pid.and_then(|pid| scene.profile(pid)));
    if let Some(lock) = left {
        evidence.push(format!(
            "advisory lock {} was left on a server of pooler {}: {} ({})",
            lock.key,
            lock.pooler.as_deref().unwrap_or("?"),
            lock.reason,
            lock.verdict.as_str(),
        ));
    }
    if pile.blockers.len() > 1 {
        let others = pile.blockers.len() - 1;
        let others = words::plural(others as f64, "other session");
        evidence.push(format!("in the way as well: {others}"));
    }
    if let Some(kind) = pile.elsewhere {
        evidence.push(format!("others behind it are told as {}", kind.as_str()));
    }
    evidence.extend(own_client(scene, pile));
    Account {
        severity: Kind::LockPileup.severity(),
        subject: fields(json!({
            "pid": root.pid,
            "prepared": root.prepared,
            "database": root.database,
            "user": root.user,
            "application": root.application,
            "client": root.client,
            "state": root.state,
            "waiters": count(scene, pile),
            "longest_wait_seconds": (longest * 10.0).round() / 10.0,
            "holds": held,
            "verdict": left.map(|lock| lock.verdict),
        })),
        summary: format!(
            "{waiters} of {} wait behind {}{what}; the longest for {}",
            scene.target,
            scene.who_blocks(root),
            words::duration(longest),
        ),
        evidence,
        actions: actions(root, left),
    }
}

/// Waiters of the blocker's own client: a hint, no more, that it may be waiting
/// for itself.
fn own_client(scene: &Scene<'_>, pile: &Pile<'_>) -> Option<String> {
    let own = scene.backend(pile.root.pid?)?;
    let same = pile
        .waiters
        .iter()
        .filter_map(|w| scene.backend(w.node.pid));
    let same = same.filter(|other| {
        own.client.is_some()
            && (&other.client, &other.application, &other.user)
                == (&own.client, &own.application, &own.user)
    });
    let n = same.count();
    (n > 0).then(|| {
        format!(
            "{} of them come from the blocker's own address, application and user: it may be waiting for itself",
            words::count(n as f64)
        )
    })
}

fn actions(root: &RootBlocker, left: Option<&AdvisoryLock>) -> Vec<String> {
    let mut actions: Vec<String> = left.map(|lock| lock.action.clone()).into_iter().collect();
    actions.push(root.action.clone());
    // Where it has no way out itself, its session is not what is in the way.
    let session = root.pid.filter(|_| !root.action.is_empty());
    if let Some(pid) = session.filter(|_| !is_autovacuum(root.query.as_deref())) {
        actions.extend(end_session(pid, root.state.as_deref()));
    }
    actions.retain(|action| !action.is_empty());
    actions.dedup();
    actions
}
