//! A backend that waits for a lock although nobody is left to hear of it.
//!
//! A client that dies while its statement waits takes its server connection with
//! it: PgBouncer closes it and forgets it, but PostgreSQL does not look at a
//! socket while it waits, so the backend stays `active`, holds back vacuum, and
//! takes the lock in the end. Signals: a waiting backend that belongs to a
//! pooler, and no row of it in `SHOW SERVERS` in two looks running. It belongs
//! to a pooler when it was seen there before, or, where every pooler is known to
//! be polled, when it comes from a configured pooler's address. While some
//! pooler does not answer, nothing is claimed and nothing is over. Over when the
//! backend is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;

use super::scene::{Scene, Waiter, fields, identity, terminate};
use super::watch::{Account, Stance, Suspicion, Watch};
use crate::engine::incident::Kind;
use crate::engine::locks::pooled::Match;
use crate::engine::tables::{Table, with_room};
use crate::engine::words;
use crate::sample::Backend;

/// Backends remembered at one time.
const MAX_REMEMBERED: usize = 10_000;

/// Which backends were seen at which pooler.
#[derive(Debug, Default)]
pub struct Pooled {
    /// By pid and start, as bits: the pooler that showed the backend last.
    seen: Table<(i32, u64), Arc<str>>,
}

impl Pooled {
    /// A pooler is not looked at any more: that it does not show a backend says
    /// nothing from now on.
    pub fn forget(&mut self, pooler: &str) {
        self.seen.retain(|_, known| **known != *pooler);
    }

    /// Those of whom the pooler is known.
    pub fn identities(&self) -> BTreeSet<String> {
        let seen = self.seen.keys();
        seen.map(|&(pid, start)| identity(pid, start)).collect()
    }

    /// Takes in one look, and forgets backends that it does not show.
    pub fn remember(&mut self, scene: &Scene<'_>) {
        let mut seen = with_room(scene.report.backends.len().min(MAX_REMEMBERED));
        for backend in &scene.report.backends {
            let Some(start) = backend.backend_start else {
                continue;
            };
            if seen.len() >= MAX_REMEMBERED {
                break;
            }
            let identity = (backend.pid, start.to_bits());
            let before = self.seen.remove(&identity);
            let pooler = match scene.context().servers.find(backend) {
                Match::Found(pooled) => {
                    let name = pooled.look.report.pooler.as_str();
                    Some(
                        before
                            .filter(|known| **known == *name)
                            .unwrap_or_else(|| name.into()),
                    )
                }
                _ => before,
            };
            if let Some(pooler) = pooler {
                seen.insert(identity, pooler);
            }
        }
        self.seen = seen;
    }

    /// The pooler that a backend was seen at.
    fn of(&self, backend: &Backend) -> Option<&str> {
        let identity = (backend.pid, backend.backend_start?.to_bits());
        self.seen.get(&identity).map(|pooler| &**pooler)
    }
}

/// Whether the looks allow a claim at all: every pooler answers, was read whole,
/// and is one process.
pub fn can_tell(scene: &Scene<'_>) -> bool {
    let poolers = scene.looks.poolers;
    let whole = poolers.iter().all(|look| {
        let config = look.report.config.as_ref();
        look.fresh && !look.report.truncated && !config.is_some_and(|c| c.so_reuseport)
    });
    whole && !poolers.is_empty() && scene.shows_all_waits()
}

/// The ghosts of one look.
pub fn check(scene: &Scene<'_>, pooled: &Pooled, watch: &Watch) -> Vec<Suspicion> {
    if !can_tell(scene) {
        return Vec::new();
    }
    let mut waiters: BTreeMap<i32, Waiter<'_>> = BTreeMap::new();
    for root in scene.roots {
        for waiter in scene.behind(root) {
            waiters.entry(waiter.node.pid).or_insert(waiter);
        }
    }
    let waiting: BTreeSet<i32> = waiters.keys().copied().collect();
    let mut suspicions: Vec<_> = waiters
        .values()
        .filter_map(|waiter| suspicion(scene, pooled, watch, waiter))
        .collect();
    // A ghost that has its lock by now is still there.
    let told = watch.tells().then_some(&scene.report.backends);
    for backend in told.into_iter().flatten() {
        let key = scene.identity(backend.pid);
        if !waiting.contains(&backend.pid)
            && watch.is_open(&key)
            && matches!(scene.context().servers.find(backend), Match::None)
        {
            suspicions.push(Suspicion {
                key,
                stance: Stance::Keeps,
                onset_at: scene.looks.at,
                account: account(scene, backend, None, "it has its lock by now"),
            });
        }
    }
    suspicions
}

fn suspicion(
    scene: &Scene<'_>,
    pooled: &Pooled,
    watch: &Watch,
    waiter: &Waiter<'_>,
) -> Option<Suspicion> {
    let backend = scene.backend(waiter.node.pid)?;
    backend.backend_start?;
    if !matches!(scene.context().servers.find(backend), Match::None) {
        return None;
    }
    let key = scene.identity(backend.pid);
    let why = match pooled.of(backend) {
        Some(pooler) => format!("pooler {pooler} had this backend, and has forgotten it"),
        None if from_configured_pooler(scene, backend) => format!(
            "it comes from {}, where only poolers connect from, and none of them has it",
            backend.client.as_deref().unwrap_or("?")
        ),
        // Which pooler had it is forgotten when the program is started again.
        None if watch.is_open(&key) => "no pooler has it any more".to_owned(),
        None => return None,
    };
    let seconds = waiter.node.wait_seconds.unwrap_or(0.0);
    Some(Suspicion {
        key,
        stance: if seconds >= scene.detect.ghost_waiter.after {
            Stance::Opens
        } else {
            Stance::Keeps
        },
        onset_at: scene.onset(seconds),
        account: account(scene, backend, Some(waiter), &why),
    })
}

/// Only where the configuration says that every pooler is polled, and only
/// networks that it names: another address may be anybody's.
fn from_configured_pooler(scene: &Scene<'_>, backend: &Backend) -> bool {
    let settings = scene.looks.settings;
    let address = backend
        .client
        .as_deref()
        .and_then(|c| c.parse::<IpAddr>().ok());
    let Some(address) = address.filter(|_| settings.poolers_complete) else {
        return false;
    };
    let mut networks = settings.pooler_addresses.iter();
    networks.any(|network| network.contains(&address))
}

fn account(
    scene: &Scene<'_>,
    backend: &Backend,
    waiter: Option<&Waiter<'_>>,
    why: &str,
) -> Account {
    let pid = backend.pid;
    let wanted = waiter.map(|waiter| &waiter.node.waits_for);
    let seconds = waiter.and_then(|waiter| waiter.node.wait_seconds);
    let since = seconds.map_or_else(String::new, |s| format!(" for {}", words::duration(s)));
    let object = wanted.map_or_else(String::new, |lock| {
        format!(
            " for {} on {} {}",
            lock.mode,
            lock.locktype,
            words::name(&lock.object)
        )
    });
    let mut evidence = vec![why.to_owned()];
    if waiter.is_some() {
        evidence.insert(0, format!("backend {pid} waits{object}{since}"));
    }
    if backend.holds_xmin {
        evidence.push("it holds a snapshot, so that vacuum cannot clean up".to_owned());
    }
    evidence.extend(scene.profile(pid));
    Account {
        severity: Kind::GhostWaiter.severity(),
        subject: fields(json!({
            "pid": pid,
            "database": backend.database,
            "user": backend.user,
            "client": backend.client,
            "lock": wanted,
            "wait_seconds": seconds.map(|s| (s * 10.0).round() / 10.0),
        })),
        summary: format!(
            "backend {pid} of {} waits{object}{since} for a client that has gone: no pooler has it any more",
            scene.target,
        ),
        evidence,
        actions: vec![terminate(pid)],
    }
}
