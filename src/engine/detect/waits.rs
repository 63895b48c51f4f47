//! The kinds that are read from lock waits, judged together: what one of them
//! tells is not told by another.
//!
//! The order is from the kind that says most about a wait to the one that says
//! least: a lock that nobody owns, a pool that cannot move on, a cycle, a
//! blocked migration, a pile-up, an idle or a prepared transaction. A later one
//! gives way only to what is being told, never to what is merely suspected.

use std::collections::BTreeSet;

use super::ghost_waiter::{self, Pooled};
use super::pool_saturation::Pools;
use super::scene::{Scene, Told};
use super::watch::{Looked, Watch};
use super::{
    hidden_deadlock, idle_in_transaction, lock_pileup, migration_blocked, pool_deadlock,
    prepared_transaction,
};
use crate::engine::incident::{Finding, Incident, Kind};
use crate::engine::locks::RootBlocker;
use crate::engine::settings::Detect;

/// Follows the lock waits of one target.
#[derive(Debug)]
pub struct LockWaits {
    pool_deadlock: Watch,
    hidden_deadlock: Watch,
    migration_blocked: Watch,
    lock_pileup: Watch,
    idle_in_transaction: Watch,
    prepared_transaction: Watch,
    ghost_waiter: Watch,
    pooled: Pooled,
    deadlocked: Pools,
}

impl Default for LockWaits {
    fn default() -> Self {
        Self {
            pool_deadlock: Watch::new(Kind::PoolDeadlock),
            hidden_deadlock: Watch::new(Kind::HiddenDeadlock),
            migration_blocked: Watch::new(Kind::MigrationBlocked),
            lock_pileup: Watch::new(Kind::LockPileup),
            idle_in_transaction: Watch::new(Kind::IdleInTransaction),
            prepared_transaction: Watch::new(Kind::PreparedTransaction),
            ghost_waiter: Watch::new(Kind::GhostWaiter),
            pooled: Pooled::default(),
            deadlocked: Pools::new(),
        }
    }
}

impl LockWaits {
    /// Goes on with an incident of an earlier life of the program, unless its
    /// kind was switched off meanwhile.
    pub fn restore(&mut self, key: &str, incident: &Incident, detect: &Detect) {
        let (watch, enabled) = match incident.kind {
            Kind::PoolDeadlock => (&mut self.pool_deadlock, detect.pool_deadlock.enabled),
            Kind::HiddenDeadlock => (&mut self.hidden_deadlock, detect.hidden_deadlock.enabled),
            Kind::MigrationBlocked => (
                &mut self.migration_blocked,
                detect.migration_blocked.enabled,
            ),
            Kind::LockPileup => (&mut self.lock_pileup, detect.lock_pileup.enabled),
            Kind::IdleInTransaction => (
                &mut self.idle_in_transaction,
                detect.idle_in_transaction.enabled,
            ),
            Kind::PreparedTransaction => (
                &mut self.prepared_transaction,
                detect.prepared_transaction.enabled,
            ),
            Kind::GhostWaiter => (&mut self.ghost_waiter, detect.ghost_waiter.enabled),
            _ => return,
        };
        if enabled {
            watch.restore(key, incident);
        }
    }

    /// A kind that is switched off is followed no more.
    pub fn reconfigure(&mut self, detect: &Detect) {
        let watches = [
            (&mut self.pool_deadlock, detect.pool_deadlock.enabled),
            (&mut self.hidden_deadlock, detect.hidden_deadlock.enabled),
            (
                &mut self.migration_blocked,
                detect.migration_blocked.enabled,
            ),
            (&mut self.lock_pileup, detect.lock_pileup.enabled),
            (
                &mut self.idle_in_transaction,
                detect.idle_in_transaction.enabled,
            ),
            (
                &mut self.prepared_transaction,
                detect.prepared_transaction.enabled,
            ),
            (&mut self.ghost_waiter, detect.ghost_waiter.enabled),
        ];
        for (watch, enabled) in watches {
            if !enabled {
                watch.forget(|_| true);
            }
        }
        if !detect.pool_deadlock.enabled {
            self.deadlocked.clear();
        }
    }

    /// A pooler is not looked at any more. Who was seen at another goes on; the
    /// rest may rest on its looks, and is told again where the others show it.
    pub fn forget(&mut self, pooler: &str) {
        self.pooled.forget(pooler);
        let others = self.pooled.identities();
        self.ghost_waiter.forget(|key| !others.contains(key));
    }

    /// Takes in one look at the server, with the newest looks at its poolers.
    /// `orphans` are the findings on locks that nobody owns.
    pub fn observe(&mut self, scene: &Scene<'_>, orphans: &[Finding]) {
        let mut told = Told::default();
        tell_orphans(scene, orphans, &mut told);
        self.pool_deadlocks(scene, &mut told);
        self.cycles(scene, &mut told);
        self.migrations(scene, &mut told);
        let piled_up = self.pile_ups(scene, &told);
        self.held_transactions(scene, &told, &piled_up);
        self.ghosts(scene);
    }

    /// Every finding of the kinds that this tells of.
    pub fn findings(&self) -> Vec<Finding> {
        let watches = [
            &self.pool_deadlock,
            &self.hidden_deadlock,
            &self.migration_blocked,
            &self.lock_pileup,
            &self.idle_in_transaction,
            &self.prepared_transaction,
            &self.ghost_waiter,
        ];
        watches.into_iter().flat_map(Watch::findings).collect()
    }

    /// Pools that are told as deadlocked: pooler, database, user.
    pub fn deadlocked(&self) -> &Pools {
        &self.deadlocked
    }

    fn pool_deadlocks(&mut self, scene: &Scene<'_>, told: &mut Told) {
        if !scene.detect.pool_deadlock.enabled {
            return;
        }
        let stuck = pool_deadlock::check(scene, &self.pool_deadlock);
        let suspicions = stuck.iter().map(|stuck| stuck.suspicion.clone()).collect();
        let seen = sees_poolers(scene);
        self.pool_deadlock
            .settle(looked_at_poolers(scene), suspicions, |_| seen);
        self.deadlocked.clear();
        for stuck in stuck {
            if self.pool_deadlock.is_open(&stuck.suspicion.key) {
                let kind = Kind::PoolDeadlock;
                told.blocker(stuck.blocker, kind);
                stuck.waiters.iter().for_each(|pid| told.waiter(*pid, kind));
                self.deadlocked.insert(stuck.pool);
            }
        }
    }

    fn cycles(&mut self, scene: &Scene<'_>, told: &mut Told) {
        if !scene.detect.hidden_deadlock.enabled {
            return;
        }
        let cycles = hidden_deadlock::check(scene);
        let suspicions = cycles.iter().map(|cycle| cycle.suspicion.clone()).collect();
        let whole = scene.shows_all_waits();
        self.hidden_deadlock
            .settle(looked(scene), suspicions, |_| whole);
        for cycle in cycles {
            if self.hidden_deadlock.is_open(&cycle.suspicion.key) {
                let kind = Kind::HiddenDeadlock;
                told.blocker(cycle.blocker, kind);
                cycle.waiters.iter().for_each(|pid| told.waiter(*pid, kind));
            }
        }
    }

    fn migrations(&mut self, scene: &Scene<'_>, told: &mut Told) {
        if !scene.detect.migration_blocked.enabled {
            return;
        }
        let found = migration_blocked::check(scene, told);
        let suspicions = found.iter().map(|(s, _)| s.clone()).collect();
        let whole = scene.shows_all_waits();
        self.migration_blocked
            .settle(looked(scene), suspicions, |_| whole);
        for (suspicion, covers) in found {
            if self.migration_blocked.is_open(&suspicion.key) {
                let kind = Kind::MigrationBlocked;
                covers
                    .waiters
                    .iter()
                    .for_each(|pid| told.waiter(*pid, kind));
                covers
                    .blockers
                    .iter()
                    .for_each(|pid| told.blocker(*pid, kind));
            }
        }
    }

    /// Gives the identities of those in the way of a pile-up that is told.
    fn pile_ups(&mut self, scene: &Scene<'_>, told: &Told) -> BTreeSet<String> {
        if !scene.detect.lock_pileup.enabled {
            return BTreeSet::new();
        }
        let found = lock_pileup::check(scene, told, &self.lock_pileup);
        let suspicions = found.iter().map(|pile| pile.suspicion.clone()).collect();
        let whole = scene.shows_all_waits();
        self.lock_pileup
            .settle(looked(scene), suspicions, |_| whole);
        let told = found
            .into_iter()
            .filter(|pile| self.lock_pileup.is_open(&pile.suspicion.key));
        told.flat_map(|pile| pile.blockers).collect()
    }

    fn held_transactions(&mut self, scene: &Scene<'_>, told: &Told, piled_up: &BTreeSet<String>) {
        let piled_up = |root: &RootBlocker| piled_up.contains(&scene.root_identity(root));
        let whole = scene.shows_all_waits();
        if scene.detect.idle_in_transaction.enabled {
            let suspicions = idle_in_transaction::check(scene, told, piled_up);
            self.idle_in_transaction
                .settle(looked(scene), suspicions, |_| whole);
        }
        if scene.detect.prepared_transaction.enabled {
            let suspicions = prepared_transaction::check(scene, piled_up);
            self.prepared_transaction
                .settle(looked(scene), suspicions, |_| whole);
        }
    }

    fn ghosts(&mut self, scene: &Scene<'_>) {
        if !scene.detect.ghost_waiter.enabled {
            return;
        }
        if !scene.roots.is_empty() {
            self.pooled.remember(scene);
        }
        let suspicions = ghost_waiter::check(scene, &self.pooled, &self.ghost_waiter);
        let seen = ghost_waiter::can_tell(scene);
        self.ghost_waiter
            .settle(looked_at_poolers(scene), suspicions, |_| seen);
    }
}

/// Waits for a lock that nobody owns are told with the lock.
fn tell_orphans(scene: &Scene<'_>, orphans: &[Finding], told: &mut Told) {
    for orphan in orphans {
        let pid = orphan
            .subject
            .get("pid")
            .and_then(serde_json::Value::as_i64);
        let key = orphan
            .subject
            .get("key")
            .and_then(serde_json::Value::as_str);
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        let root = pid.and_then(|pid| scene.root(pid));
        let (Some(root), Some(key)) = (root, key) else {
            continue;
        };
        let waiters = scene.behind(root);
        let mut behind: BTreeSet<i32> = BTreeSet::new();
        for waiter in &waiters {
            let wanted = &waiter.node.waits_for;
            let direct = waiter.level == 1 && wanted.locktype == "advisory" && wanted.object == key;
            if direct || waiter.before.is_some_and(|pid| behind.contains(&pid)) {
                behind.insert(waiter.node.pid);
            }
        }
        let kind = Kind::OrphanedAdvisoryLock;
        behind.iter().for_each(|pid| told.waiter(*pid, kind));
        root.pid.into_iter().for_each(|pid| told.blocker(pid, kind));
    }
}

fn looked(scene: &Scene<'_>) -> Looked {
    Looked::server(scene.looks.at)
}

fn looked_at_poolers(scene: &Scene<'_>) -> Looked {
    let times = scene.looks.poolers.iter().filter(|look| look.fresh);
    let times = times.map(|look| look.at);
    let oldest = times.clone().fold(f64::INFINITY, f64::min);
    let newest = times.fold(f64::NEG_INFINITY, f64::max);
    Looked {
        at: scene.looks.at,
        poolers: (oldest <= newest).then_some((oldest, newest)),
    }
}

fn sees_poolers(scene: &Scene<'_>) -> bool {
    let mut poolers = scene.looks.poolers.iter();
    scene.shows_all_waits() && poolers.all(|look| look.fresh && !look.report.truncated)
}
