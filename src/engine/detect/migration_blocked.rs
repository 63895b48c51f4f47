//! A schema change is blocked, or blocks.
//!
//! Three shapes: a statement waits for its lock on a table, and everybody who
//! comes later queues behind it; a transaction holds such a lock and others
//! wait; `CREATE INDEX CONCURRENTLY` waits for older transactions to end. Over
//! when the statement has its lock, has let go of it, or is gone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::scene::{
    Scene, Told, Waiter, cancel, end_session, fields, is_autovacuum, longest, pids_behind,
    statement,
};
use super::watch::{Account, Stance, Suspicion};
use crate::engine::incident::Kind;
use crate::engine::locks::{LockObject, RootBlocker};
use crate::engine::words;
use crate::sample::IndexBuild;

/// Only schema changes, `TRUNCATE` and `LOCK TABLE` take this mode.
const STRONGEST: &str = "AccessExclusiveLock";

/// Weaker modes that schema changes take, and that applications may take too:
/// they count together with the words of the statement.
const STRONG: [&str; 4] = [
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
];

/// How statements begin that change a schema. `VACUUM`, `ANALYZE`, `REFRESH` and
/// `LOCK` are left to the strongest mode: in the weaker ones they hurt nobody.
const WORDS: [&str; 7] = [
    "ALTER", "CREATE", "DROP", "TRUNCATE", "REINDEX", "CLUSTER", "COMMENT",
];

/// Blockers named in the evidence and in the actions.
const BLOCKERS: usize = 3;

/// A schema change in a wait.
#[derive(Debug)]
struct Migration<'a> {
    pid: i32,
    /// What it waits for, or holds.
    lock: &'a LockObject,
    holds: bool,
    /// Seconds that it has waited, or that the first behind it has.
    seconds: f64,
    /// Everybody behind it.
    behind: BTreeSet<i32>,
    /// Whom it waits for: the roots of its chains and those between.
    blockers: BTreeSet<i32>,
    query: Option<&'a str>,
}

/// The schema changes in waits, with who is told of by it.
pub fn check(scene: &Scene<'_>, told: &Told) -> Vec<(Suspicion, Covers)> {
    let mut found = holders(scene);
    for (pid, migration) in waiters(scene) {
        found.entry(pid).or_insert(migration);
    }
    // What is behind another schema change is a part of its queue.
    let queued: BTreeSet<i32> = found
        .values()
        .flat_map(|migration| migration.behind.iter().copied())
        .collect();
    found
        .values()
        .filter(|migration| !queued.contains(&migration.pid))
        .map(|migration| suspicion(scene, told, migration))
        .collect()
}

/// The sessions that a blocked migration tells of.
#[derive(Debug)]
pub struct Covers {
    pub waiters: BTreeSet<i32>,
    pub blockers: BTreeSet<i32>,
}

fn suspicion(scene: &Scene<'_>, told: &Told, migration: &Migration<'_>) -> (Suspicion, Covers) {
    let settings = &scene.detect.migration_blocked;
    let queue = !migration.behind.is_empty();
    let late = migration.seconds >= settings.queue_after && queue
        || migration.seconds >= settings.alone_after;
    let stance = match told.of_waiter(migration.pid) {
        Some(kind) => Stance::Yields(kind),
        None if late => Stance::Opens,
        None => Stance::Keeps,
    };
    let mut waiters = migration.behind.clone();
    let mut blockers = migration.blockers.clone();
    if migration.holds {
        blockers.insert(migration.pid);
    } else {
        waiters.insert(migration.pid);
    }
    let suspicion = Suspicion {
        key: scene.identity(migration.pid),
        stance,
        onset_at: scene.onset(migration.seconds),
        account: account(scene, migration),
    };
    (suspicion, Covers { waiters, blockers })
}

/// Root blockers that hold a lock of a schema change which others wait for. A
/// concurrent index build that goes on is left out: what waits for it is a
/// schema change itself.
fn holders<'a>(scene: &Scene<'a>) -> BTreeMap<i32, Migration<'a>> {
    let roots = scene.roots.iter();
    let found = roots.filter_map(|root| {
        let pid = root.pid?;
        let query = root.query.as_deref();
        let lock = root
            .holds
            .iter()
            .find(|lock| lock.mode != "ShareUpdateExclusiveLock" && is_schema_lock(lock, query))?;
        if is_autovacuum(query) {
            return None;
        }
        let waiters = scene.behind(root);
        let migration = Migration {
            pid,
            lock,
            holds: true,
            seconds: longest(&waiters),
            behind: waiters.iter().map(|waiter| waiter.node.pid).collect(),
            blockers: BTreeSet::new(),
            query,
        };
        Some((pid, migration))
    });
    found.collect()
}

/// Waiters whose request is one of a schema change.
fn waiters<'a>(scene: &Scene<'a>) -> BTreeMap<i32, Migration<'a>> {
    let mut found: BTreeMap<i32, Migration<'a>> = BTreeMap::new();
    for root in scene.roots {
        let waiters = scene.behind(root);
        for waiter in waiters.iter().filter(|waiter| is_migration(scene, waiter)) {
            let node = waiter.node;
            let migration = found.entry(node.pid).or_insert_with(|| Migration {
                pid: node.pid,
                lock: &node.waits_for,
                holds: false,
                seconds: node.wait_seconds.unwrap_or(0.0),
                behind: BTreeSet::new(),
                blockers: BTreeSet::new(),
                query: node.query.as_deref(),
            });
            migration.behind.extend(pids_behind(node));
            migration.blockers.extend(path(root, &waiters, waiter));
        }
    }
    found
}

/// Whom a waiter waits for, up to the root.
fn path(root: &RootBlocker, waiters: &[Waiter<'_>], waiter: &Waiter<'_>) -> Vec<i32> {
    let mut path: Vec<i32> = root.pid.into_iter().collect();
    let mut before = waiter.before;
    while let Some(pid) = before {
        path.push(pid);
        let next = waiters.iter().find(|other| other.node.pid == pid);
        before = next.and_then(|other| other.before);
        if path.len() > waiters.len() {
            break;
        }
    }
    path
}

fn is_migration(scene: &Scene<'_>, waiter: &Waiter<'_>) -> bool {
    let node = waiter.node;
    let query = node.query.as_deref();
    if is_autovacuum(query) {
        return false;
    }
    match node.waits_for.locktype.as_str() {
        "relation" => is_schema_lock(&node.waits_for, query),
        "virtualxid" => build(scene, node.pid).is_some() || is_concurrent(query),
        _ => false,
    }
}

fn is_schema_lock(lock: &LockObject, query: Option<&str>) -> bool {
    lock.locktype == "relation"
        && (lock.mode == STRONGEST || STRONG.contains(&lock.mode.as_str()) && changes_schema(query))
}

fn changes_schema(query: Option<&str>) -> bool {
    let statements = query.unwrap_or_default().split(';');
    let mut first_words = statements.filter_map(|text| text.split_whitespace().next());
    first_words.any(|word| WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

fn is_concurrent(query: Option<&str>) -> bool {
    let mut words = query.unwrap_or_default().split_whitespace();
    changes_schema(query) && words.any(|word| word.eq_ignore_ascii_case("concurrently"))
}

fn build<'a>(scene: &Scene<'a>, pid: i32) -> Option<&'a IndexBuild> {
    scene
        .report
        .index_builds
        .iter()
        .find(|build| build.pid == pid)
}

fn account(scene: &Scene<'_>, migration: &Migration<'_>) -> Account {
    let pid = migration.pid;
    let lock = migration.lock;
    let backend = scene.backend(pid);
    let what = statement(migration.query).unwrap_or_else(|| "a schema change".to_owned());
    let queue = words::plural(migration.behind.len() as f64, "session");
    let since = words::duration(migration.seconds);
    let object = words::name(&lock.object);
    let (short, first) = if migration.holds {
        (
            format!(
                "{queue} of {} wait for a schema change of {}: it holds {} on {object}",
                scene.target,
                scene.who(pid),
                lock.mode
            ),
            format!("{queue} behind it, the longest for {since}"),
        )
    } else {
        let behind = if migration.behind.is_empty() {
            String::new()
        } else {
            format!(", and {queue} queue behind it")
        };
        let wanted = match lock.locktype.as_str() {
            "virtualxid" => "for an older transaction to end".to_owned(),
            _ => format!("for {} on {object}", lock.mode),
        };
        (
            format!(
                "a schema change on {} has waited {wanted} for {since}{behind}",
                scene.target
            ),
            format!("{} waits {wanted}{behind}", scene.who(pid)),
        )
    };
    let mut evidence = vec![first, format!("its statement: {what}")];
    evidence.extend(build(scene, pid).map(progress));
    let blockers = migration.blockers.iter().take(BLOCKERS);
    evidence.extend(blockers.filter_map(|blocker| scene.profile(*blocker)));
    let prepared = in_the_way(scene, pid).filter_map(|root| root.prepared.as_ref());
    evidence.extend(
        prepared.map(|gid| format!("prepared transaction {} is in its way", words::name(gid))),
    );
    Account {
        severity: Kind::MigrationBlocked.severity(),
        subject: fields(json!({
            "pid": pid,
            "database": backend.and_then(|b| b.database.as_ref()),
            "user": backend.and_then(|b| b.user.as_ref()),
            "application": backend.and_then(|b| b.application.as_ref()),
            "role": if migration.holds { "holds" } else { "waits" },
            "lock": lock,
            "statement": what,
            "seconds": (migration.seconds * 10.0).round() / 10.0,
            "queue": migration.behind.len(),
            "blocked_by": migration.blockers.iter().take(BLOCKERS).collect::<Vec<_>>(),
        })),
        summary: short,
        evidence,
        actions: actions(scene, migration),
    }
}

fn in_the_way<'a>(scene: &Scene<'a>, pid: i32) -> impl Iterator<Item = &'a RootBlocker> {
    let roots = scene.roots.iter();
    roots.filter(move |root| scene.behind(root).iter().any(|w| w.node.pid == pid))
}

/// `CREATE INDEX CONCURRENTLY on public.t: waiting for old snapshots, 2 of 3
/// transactions over, 100 % of its blocks`
fn progress(build: &IndexBuild) -> String {
    let command = build.command.as_deref().unwrap_or("an index build");
    let relation = build.relation.as_deref().unwrap_or("?");
    let phase = build.phase.as_deref().unwrap_or("phase not known");
    let mut text = format!("{command} on {}: {phase}", words::name(relation));
    if let (Some(total), Some(done)) = (build.lockers_total, build.lockers_done)
        && total > 0
    {
        text.push_str(&format!(", {done} of {total} transactions over"));
    }
    if let Some(pid) = build.current_locker.filter(|pid| *pid > 0) {
        text.push_str(&format!(", now waiting for backend {pid}"));
    }
    if let (Some(total), Some(done)) = (build.blocks_total, build.blocks_done)
        && total > 0
    {
        let part = words::percent(done as f64 / total as f64);
        text.push_str(&format!(
            ", {part} of {} blocks read",
            words::count(total as f64)
        ));
    }
    text
}

/// What a concurrent schema change leaves when it is cancelled, as a comment.
fn left_over(query: Option<&str>) -> &'static str {
    let mut words = query.unwrap_or_default().split_whitespace();
    if words.any(|word| word.eq_ignore_ascii_case("detach")) {
        "  -- may leave a partition half detached: end that with ALTER TABLE … DETACH PARTITION … FINALIZE"
    } else {
        "  -- leaves an invalid index: drop it with DROP INDEX CONCURRENTLY"
    }
}

/// A queue is freed at once by the end of the schema change, which can be tried
/// again; without a queue it is the blocker that should go.
fn actions(scene: &Scene<'_>, migration: &Migration<'_>) -> Vec<String> {
    let mut own = match (migration.holds, scene.backend(migration.pid)) {
        (true, backend) => end_session(
            migration.pid,
            backend.and_then(|backend| backend.state.as_deref()),
        ),
        (false, _) => vec![cancel(migration.pid)],
    };
    if is_concurrent(migration.query)
        && let Some(cancelled) = own.first_mut()
    {
        cancelled.push_str(left_over(migration.query));
    }
    let roots = in_the_way(scene, migration.pid).take(BLOCKERS);
    let blockers: Vec<String> = roots.map(|root| root.action.clone()).collect();
    let (first, second) = if migration.behind.is_empty() {
        (blockers, own)
    } else {
        (own, blockers)
    };
    let mut actions = first;
    actions.extend(second);
    actions
}
