//! What the engine knows of one PostgreSQL server and the poolers in front of
//! it, and the detectors that watch them.

mod reconfigured;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::Settings;
use super::correlate::Mix;
use super::correlate::attribution::Candidate;
use super::correlate::routes::sessions_by_route;
use super::correlate::services::Services;
use super::correlate::sessions::tells_of_use;
use super::detect::avalanche::{Avalanche, AvalancheInput};
use super::detect::census::Census;
use super::detect::habits::Habits;
use super::detect::headroom::Headroom;
use super::detect::pool_saturation::{Saturation, stands_still};
use super::detect::primary_unreachable::Reach;
use super::detect::scene::Scene;
use super::detect::waits::LockWaits;
use super::incident::{Finding, Incident, Kind};
use super::locks::advisory::{AdvisoryLocks, Looks};
use super::locks::ended::EndedWaits;
use super::locks::pooled::PoolerLook;
use super::locks::spin::Spins;
use super::locks::{AdvisoryLock, LockView, RootBlocker, graph};
use super::recall::Look;
use super::snapshot::{PoolerView, TargetView};
use super::traffic::Traffic;
use crate::sample::{PgbouncerReport, PoolStats, PostgresReport, UnixSeconds};

/// A look at a pooler older than this says nothing about now. Longer than the
/// longest sensible poll interval times two.
const POOLER_STALE_SECONDS: f64 = 15.0;

/// Starts that are farther apart than this, in seconds, are of two postmasters:
/// the server was restarted, or another serves under its name now. Times of
/// captures may be rounded.
const ANOTHER_START: f64 = 0.01;

/// Poolers that samples may bring in without being configured.
const MAX_POOLERS: usize = 1_000;

/// One target.
#[derive(Debug)]
pub struct Target {
    name: String,
    settings: Arc<Settings>,
    services: Services,
    /// The newest look. Its locks and routes are filled in only for who looks
    /// at them, see [`view`](Self::view).
    seen: TargetView,
    shown: OnceLock<Arc<TargetView>>,
    graph: graph::WaitGraph,
    poolers: BTreeMap<String, PoolerView>,
    advisory: AdvisoryLocks,
    orphans: Vec<Finding>,
    spins: Spins,
    ended: EndedWaits,
    avalanche: Avalanche,
    headroom: Headroom,
    habits: Habits,
    reach: Reach,
    waits: LockWaits,
    saturation: Saturation,
}

/// The findings of the kinds that were looked at.
#[derive(Debug)]
pub struct Findings {
    pub kinds: &'static [Kind],
    pub findings: Vec<Finding>,
}

impl Target {
    pub fn new(name: &str, settings: &Arc<Settings>) -> Self {
        let expected = settings
            .poolers
            .iter()
            .filter(|pooler| pooler.target == name);
        Self {
            name: name.to_owned(),
            settings: Arc::clone(settings),
            services: Services::at(name, &settings.services),
            seen: TargetView::default(),
            shown: OnceLock::new(),
            graph: graph::WaitGraph::default(),
            // A pooler that never answered is a gap too.
            poolers: expected
                .map(|pooler| (pooler.name.clone(), not_yet_seen(&pooler.name, name)))
                .collect(),
            advisory: AdvisoryLocks::new(name),
            orphans: Vec::new(),
            spins: Spins::new(name),
            ended: EndedWaits::default(),
            avalanche: Avalanche::new(name, settings),
            headroom: Headroom::new(name, settings),
            habits: Habits::new(name, settings),
            reach: Reach::new(name, &settings.detect.primary_unreachable),
            waits: LockWaits::default(),
            saturation: Saturation::new(settings),
        }
    }

    /// A look at the server, or word that it failed.
    pub fn postgres(
        &mut self,
        t: UnixSeconds,
        report: PostgresReport,
        open: bool,
        traffic: &mut Traffic,
    ) -> Findings {
        self.shown = OnceLock::new();
        self.reach.observe(t, &report);
        if report.error.is_some() {
            self.seen.fresh = false;
            let mut findings = self.reach.findings();
            findings.extend(self.headroom.observe(t, &report));
            return Findings {
                kinds: &[Kind::ConnectionHeadroom, Kind::PrimaryUnreachable],
                findings,
            };
        }
        let started = |report: &PostgresReport| report.server.as_ref().and_then(|s| s.started_at);
        let before = started(&self.seen.report).zip(started(&report));
        if before.is_some_and(|(before, now)| (before - now).abs() >= ANOTHER_START) {
            self.advisory.server_restarted();
            self.orphans.clear();
        }
        self.seen.truncated_comments_total += u64::from(report.truncated_comments);
        self.seen.report = Arc::new(report);
        self.seen.at = t;
        self.seen.fresh = true;
        let report = Arc::clone(&self.seen.report);
        let server_clock = report.server.as_ref().and_then(|server| server.clock);
        self.graph = graph::build(&report, server_clock.unwrap_or(t));
        self.ended.observe(&report, server_clock.unwrap_or(t));
        self.judge_locks(t);
        self.judge_waits(t);
        self.tie(t, traffic);
        let roots = with_the_poolers_way(&self.graph.roots, self.advisory.views());
        let server = report.server.as_ref();
        let opened = report.sessions_opened_total.map(|total| total as f64);
        let waiting = f64::from(self.clients_waiting(t));
        self.habits.take(
            t,
            server.and_then(|server| server.started_at),
            Census::of(&report),
            opened,
            waiting,
        );
        let input = AvalancheInput {
            t,
            report: &report,
            clients_waiting: self.clients_waiting(t),
            roots: &roots,
            open,
        };
        let mut findings = self.lock_findings();
        findings.extend(self.waits.findings());
        findings.extend(self.saturation.findings());
        let avalanche = self.avalanche.observe(&input);
        let revised = self.avalanche.revise(t, traffic, &self.habits);
        findings.extend(revised.or(avalanche));
        self.habits.judge(t, &report, traffic, &findings);
        findings.extend(self.habits.findings());
        findings.extend(self.reach.findings());
        findings.extend(self.headroom.observe(t, &report));
        self.seen.band = self.avalanche.band();
        Findings {
            kinds: &Kind::ALL,
            findings,
        }
    }

    /// Traffic came in: what it changes in an open incident.
    pub fn traffic(&mut self, t: UnixSeconds, traffic: &Traffic) -> Option<Findings> {
        let finding = self.avalanche.revise(t, traffic, &self.habits)?;
        Some(Findings {
            kinds: &[Kind::ConnectionAvalanche],
            findings: vec![finding],
        })
    }

    /// Notes which services have sessions here.
    fn tie(&self, t: UnixSeconds, traffic: &mut Traffic) {
        let mut last = None;
        for group in &self.seen.report.groups {
            let service = self.services.of(&self.name, group.application.as_deref());
            // Groups come in runs of one application.
            if last.replace(service) != Some(service) {
                traffic.see(t, &self.name, service);
            }
        }
    }

    /// A look at a pooler, or word that it failed.
    pub fn pgbouncer(&mut self, t: UnixSeconds, report: PgbouncerReport) -> Findings {
        let known = self.poolers.contains_key(&report.pooler);
        if !known && self.poolers.len() >= MAX_POOLERS {
            return Findings {
                kinds: &[],
                findings: Vec::new(),
            };
        }
        let view = self.poolers.entry(report.pooler.clone()).or_default();
        if report.error.is_some() {
            view.fresh = false;
        } else {
            self.habits.pooler(t, &report.pooler, &report.stats);
            self.reach.pooler(&report);
            self.headroom.pooler(t, &report);
            let deadlocked = self.waits.deadlocked();
            let (server, reachable) = (&self.seen.report, self.seen.fresh);
            self.saturation
                .observe(t, &report, server, reachable, deadlocked);
            *view = PoolerView {
                report: Arc::new(report),
                at: t,
                fresh: true,
            };
        }
        self.shown = OnceLock::new();
        self.judge_locks(t);
        let mut findings = self.lock_findings();
        findings.extend(self.saturation.findings());
        Findings {
            kinds: &[
                Kind::OrphanedAdvisoryLock,
                Kind::TryLockSpin,
                Kind::PoolSaturation,
            ],
            findings,
        }
    }

    /// The kinds that are read from lock waits. Only a look at the server is a
    /// look at those.
    fn judge_waits(&mut self, now: UnixSeconds) {
        let poolers = pooler_looks(&self.poolers, now);
        let looks = Looks {
            now,
            at: self.seen.at,
            report: &self.seen.report,
            poolers: &poolers,
            settings: &self.settings,
        };
        let roots = with_the_poolers_way(&self.graph.roots, self.advisory.views());
        let scene = Scene::new(&self.name, &looks, &roots, self.advisory.views());
        self.waits.observe(&scene, &self.orphans);
    }

    /// Of the advisory locks.
    fn lock_findings(&self) -> Vec<Finding> {
        let mut findings = self.orphans.clone();
        findings.extend(self.spins.findings(self.advisory.views()));
        findings
    }

    fn judge_locks(&mut self, now: UnixSeconds) {
        if self.seen.fresh {
            let poolers = pooler_looks(&self.poolers, now);
            let looks = Looks {
                now,
                at: self.seen.at,
                report: &self.seen.report,
                poolers: &poolers,
                settings: &self.settings,
            };
            self.spins.observe(&looks);
            if self.settings.detect.orphaned_advisory_lock.enabled {
                self.advisory.observe(&looks, &self.spins);
                self.orphans = self.advisory.findings(&self.orphans);
            }
        }
    }

    fn lock_view(&self) -> LockView {
        let roots = with_the_poolers_way(&self.graph.roots, self.advisory.views());
        LockView {
            name: self.name.clone(),
            root_blockers: roots.into_owned(),
            advisory_locks: self.advisory.views().to_vec(),
            truncated: self.graph.truncated,
            chain_depth: self.graph.depth,
            waits: self.graph.waits.clone(),
            wait_times: self.ended.views(),
            spinners: self.spins.views(),
        }
    }

    /// Clients that wait for a server. PAUSE makes everybody wait and is no
    /// load: a paused database is left out, and so is a pooler that may be paused
    /// as a whole.
    fn clients_waiting(&self, now: UnixSeconds) -> u32 {
        let fresh = self.poolers.values().filter(|view| is_fresh(view, now));
        fresh
            .filter(|view| !stands_still(&view.report))
            .map(|view| {
                let paused = |name: &str| {
                    let mut databases = view.report.databases.iter();
                    databases.any(|database| database.name == name && database.paused)
                };
                let pools = view.report.pools.iter();
                pools
                    .filter(|pool| !paused(&pool.database))
                    .map(|pool| pool.cl_waiting)
                    .fold(0, u32::saturating_add)
            })
            .fold(0, u32::saturating_add)
    }

    /// Lets the detector of an incident that was open in an earlier life of the
    /// program go on with it.
    pub fn restore(&mut self, at: UnixSeconds, key: &str, incident: &Incident) {
        match incident.kind {
            Kind::OrphanedAdvisoryLock => self.advisory.restore(key, incident),
            Kind::ConnectionAvalanche => self.avalanche.restore(at, incident),
            Kind::ConnectionHeadroom => self.headroom.restore(incident),
            Kind::PoolSaturation => self.saturation.restore(key, incident),
            // Found again within the time that it stands in.
            Kind::TryLockSpin => {}
            Kind::ReconnectStorm | Kind::ConnectionLeak | Kind::ExcessiveLatency => {
                self.habits.restore(at, key, incident);
            }
            Kind::PrimaryUnreachable => self.reach.restore(key, incident),
            _ => self.waits.restore(key, incident, &self.settings.detect),
        }
    }

    /// Takes in a look of the past.
    pub fn recall(&mut self, look: Look) {
        self.shown = OnceLock::new();
        self.habits.take(
            look.t,
            look.started_at,
            look.census,
            look.opened_total,
            look.mix.pooler_waits,
        );
        self.avalanche.recall(look.t, look.started_at, look.mix);
        self.seen.band = self.avalanche.band();
    }

    /// Takes in the totals of a pooler in the past.
    pub fn recall_pooler(&mut self, t: UnixSeconds, pooler: &str, stats: &[PoolStats]) {
        self.habits.pooler(t, pooler, stats);
    }

    /// The sessions in use of the newest look, by whom they work for; `None`
    /// when it does not tell.
    pub fn mix(&self, now: UnixSeconds) -> Option<Mix> {
        let tells = self.seen.fresh && tells_of_use(&self.seen.report);
        tells.then(|| {
            let waiting = self.clients_waiting(now);
            Mix::of(&self.seen.report, waiting, &self.name, &self.services)
        })
    }

    /// The first candidate of an open avalanche.
    pub fn leading(&self) -> Option<&Candidate> {
        self.avalanche.leading()
    }

    /// The target as people see it. Made when it is first asked for after a
    /// look: a replay never asks.
    pub fn view(&self) -> &Arc<TargetView> {
        self.shown.get_or_init(|| {
            Arc::new(TargetView {
                locks: Arc::new(self.lock_view()),
                routes: sessions_by_route(&self.seen.report, &self.name, &self.services),
                ..self.seen.clone()
            })
        })
    }

    pub fn poolers(&self) -> &BTreeMap<String, PoolerView> {
        &self.poolers
    }

    /// Poolers whose clients a verdict needs.
    pub fn clients_wanted(&self) -> impl Iterator<Item = &String> {
        let wanted = self.advisory.clients_wanted().iter();
        wanted.chain(self.spins.clients_wanted())
    }
}

/// A pooler in front of `target` before it has answered.
fn not_yet_seen(pooler: &str, target: &str) -> PoolerView {
    let report = PgbouncerReport {
        pooler: pooler.to_owned(),
        target: target.to_owned(),
        ..PgbouncerReport::default()
    };
    PoolerView {
        report: Arc::new(report),
        ..PoolerView::default()
    }
}

fn pooler_looks(poolers: &BTreeMap<String, PoolerView>, now: UnixSeconds) -> Vec<PoolerLook<'_>> {
    let views = poolers.values();
    views
        .map(|view| PoolerLook {
            at: view.at,
            fresh: is_fresh(view, now),
            report: &view.report,
        })
        .collect()
}

/// A root blocker that only holds a lock left on a pooled server is freed on
/// the pooler's console: that disturbs nobody else.
fn with_the_poolers_way<'a>(
    roots: &'a [RootBlocker],
    locks: &[AdvisoryLock],
) -> Cow<'a, [RootBlocker]> {
    if roots.is_empty() {
        return Cow::Borrowed(roots);
    }
    let idle = |root: &RootBlocker| root.state.as_deref() == Some("idle");
    let left = locks.iter().rev();
    let left = left.filter(|lock| lock.pooler.is_some() && !lock.action.is_empty());
    let ways: BTreeMap<i32, &String> = left.filter_map(|l| Some((l.pid?, &l.action))).collect();
    let way = |root: &RootBlocker| ways.get(&root.pid?).copied().filter(|_| idle(root));
    // A root carries its whole tree: not copied where nothing changes.
    if roots.iter().all(|root| way(root).is_none()) {
        return Cow::Borrowed(roots);
    }
    let mut roots = roots.to_vec();
    for root in &mut roots {
        if let Some(way) = way(root) {
            root.action.clone_from(way);
        }
    }
    Cow::Owned(roots)
}

fn is_fresh(view: &PoolerView, now: UnixSeconds) -> bool {
    view.fresh && (now - view.at).abs() <= POOLER_STALE_SECONDS
}
