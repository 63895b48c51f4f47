//! Every granted advisory lock of a target, with a verdict on each.
//!
//! Judged anew at each look at the server or at one of its poolers. A lock is
//! the same lock while backend (pid and start), database, key and mode stay:
//! pids come back. An incident stays open until the lock or its backend is gone
//! in two polls running, or its owner is back.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::calls::takes;
use super::catalogue;
use super::context::Context;
use super::key::LockKey;
use super::pooled::{Match, PoolerLook};
use super::prepared::Prepared;
use super::spin::Spins;
use super::tracked::{Holder, Judgement, PollPair, Tracked};
use super::view::{AdvisoryLock, PoolIdentity, Verdict};
use super::words::{action, actions, evidence, subject};
use crate::engine::Settings;
use crate::engine::incident::{Finding, Incident, Kind};
use crate::engine::tables::{Table, with_room};
use crate::sample::{Backend, Lock, PostgresReport, UnixSeconds};

/// Locks followed that a look does not show because it was cut.
const MAX_TRACKED: usize = 20_000;
/// Findings given, those declared first. As many as the ledger opens of one
/// kind, so that those it has open are always among them.
const MAX_FINDINGS: usize = 100;

/// Follows the advisory locks of one target.
#[derive(Debug)]
pub struct AdvisoryLocks {
    target: String,
    tracked: Table<LockIdentity, Tracked>,
    /// Time of the newest poll taken in.
    polled_at: Option<UnixSeconds>,
    /// The locks as people see them, worst verdict first, and which each is.
    views: Vec<AdvisoryLock>,
    identities: Vec<LockIdentity>,
    clients_wanted: BTreeSet<String>,
    /// Locks declared orphaned in an earlier life of the program and not seen
    /// yet in this one, by the key of their finding.
    declared_before: BTreeMap<String, Declared>,
}

/// What is kept of such a lock. Who left it is found out anew: it may have been
/// taken again meanwhile.
#[derive(Debug)]
struct Declared {
    at: UnixSeconds,
    taken_by: UnixSeconds,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct LockIdentity {
    /// Of a prepared transaction its id, else empty.
    prepared: String,
    pid: i32,
    /// Bits of the time stamp: equality is all that is asked of it.
    backend_start: u64,
    // No database: it is the backend's, or the prepared transaction's, and its
    // name may change, or be learnt late.
    key: String,
    mode: String,
}

/// All that is known when the locks are judged.
#[derive(Debug, Clone, Copy)]
pub struct Looks<'a> {
    /// When this judgement is made: the time of the newest of the looks.
    pub now: UnixSeconds,
    pub at: UnixSeconds,
    pub report: &'a PostgresReport,
    pub poolers: &'a [PoolerLook<'a>],
    pub settings: &'a Settings,
}

impl AdvisoryLocks {
    pub fn new(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            tracked: Table::default(),
            polled_at: None,
            views: Vec::new(),
            identities: Vec::new(),
            clients_wanted: BTreeSet::new(),
            declared_before: BTreeMap::new(),
        }
    }

    /// Goes on with an incident of an earlier life of the program.
    pub fn restore(&mut self, key: &str, incident: &Incident) {
        let declared = Declared {
            at: incident.opened_at,
            taken_by: incident.onset_at,
        };
        self.declared_before.insert(key.to_owned(), declared);
    }

    /// Another postmaster answers: no backend of the one before it holds anything
    /// any more. What a prepared transaction holds is still held.
    pub fn server_restarted(&mut self) {
        self.tracked
            .retain(|identity, _| !identity.prepared.is_empty());
        self.declared_before.clear();
    }

    /// Judges every lock by the newest looks.
    pub fn observe(&mut self, looks: &Looks<'_>, spins: &Spins) {
        let new_poll = self.polled_at != Some(looks.at);
        if self.polled_at.is_some_and(|before| looks.at < before) {
            let all = self.tracked.values_mut();
            all.for_each(|tracked| tracked.clock_set_back(looks.at));
            self.polled_at = None;
        }
        // Many servers never show an advisory lock.
        let context = LazyCell::new(|| Context::of(looks));
        let backends = LazyCell::new(|| {
            let mut by_pid: Table<i32, &Backend> = with_room(looks.report.backends.len());
            by_pid.extend(looks.report.backends.iter().map(|b| (b.pid, b)));
            by_pid
        });
        let waiters = waiters_by_key(looks.report);
        let prepared = Prepared::of(looks.report);
        let mut views = Vec::with_capacity(self.views.len());
        let mut veiled = HashSet::new();
        self.clients_wanted.clear();
        self.tracked
            .values_mut()
            .for_each(|tracked| tracked.shown = false);
        for lock in granted(looks.report) {
            let backend = lock.pid.and_then(|pid| backends.get(&pid).copied());
            let mut view = plain_view(lock, looks, &prepared);
            view.waiters = *waiters.get(&key_of(lock)).unwrap_or(&0);
            view.spinners = spins.on(&view.database, &view.key);
            let identity = LockIdentity::of(lock, backend, &prepared);
            if let Some(identity) = &identity {
                self.judge(identity, lock, backend, &context, &mut view);
            } else if backend.is_some() {
                // There, but without the start of its backend.
                veiled.insert((lock.pid, key_text(lock), lock.mode.as_str()));
            }
            let identity = identity.unwrap_or_else(|| LockIdentity::unknown(lock, &prepared));
            views.push((identity, view));
        }
        let rank = |view: &AdvisoryLock| view.verdict == Verdict::Owned;
        views.sort_by(|(_, a), (_, b)| {
            (rank(a), &a.database, &a.key, a.pid).cmp(&(rank(b), &b.database, &b.key, b.pid))
        });
        (self.identities, self.views) = views.into_iter().unzip();
        if new_poll {
            let complete = shows_every_granted(looks.report);
            // Not there in two polls: should it come, it is another lock.
            if complete && self.polled_at.is_some() {
                self.declared_before.clear();
            }
            self.polled_at = Some(looks.at);
            let room = self.tracked.len() <= MAX_TRACKED;
            self.tracked.retain(|identity, tracked| {
                if tracked.shown {
                    tracked.missing = false;
                    return true;
                }
                let slot = (
                    Some(identity.pid),
                    identity.key.clone(),
                    identity.mode.as_str(),
                );
                if (!complete && room) || veiled.contains(&slot) {
                    return true;
                }
                // Gone in two polls running is gone.
                !std::mem::replace(&mut tracked.missing, true)
            });
        }
    }

    fn judge(
        &mut self,
        identity: &LockIdentity,
        lock: &Lock,
        backend: Option<&Backend>,
        context: &Context<'_>,
        view: &mut AdvisoryLock,
    ) {
        let looks = context.looks;
        // A lock that was away for a poll is another lock.
        if self
            .tracked
            .get(identity)
            .is_some_and(|tracked| tracked.missing)
        {
            self.tracked.remove(identity);
        }
        let absent_at = self.polled_at;
        let tracked = self.tracked.entry(identity.clone()).or_insert_with(|| {
            let mut tracked = Tracked::new(looks.at, absent_at);
            if !self.declared_before.is_empty()
                && let Some(declared) = self.declared_before.remove(&identity.finding_key())
            {
                tracked.declared_at = Some(declared.at);
                tracked.taken_by = tracked.taken_by.min(declared.taken_by);
            }
            tracked
        });
        tracked.shown = true;
        let (judgement, pooler_at) = match backend {
            None => {
                let why = "a prepared transaction holds it".into();
                (Judgement::Verdict(Verdict::Prepared, why), None)
            }
            Some(backend) => {
                let holder = holder(lock, backend, looks);
                let matched = context.servers.find(backend);
                let coverage = context.coverage(backend);
                let judgement = tracked.judge(holder, &matched, &coverage, looks.now);
                let at = describe_pool(&matched, view);
                if tracked.needs_clients() || may_be_left(&matched) {
                    self.clients_wanted.extend(view.pooler.clone());
                }
                (judgement, at)
            }
        };
        let polls = PollPair {
            postgres: looks.at,
            pooler: pooler_at,
        };
        tracked.settle(judgement, polls);
        view.verdict = tracked.verdict();
        view.reason.clone_from(&tracked.reason);
        view.age_seconds = (looks.now - tracked.taken_by).max(0.0);
        view.action = action(view);
        match view.verdict {
            Verdict::Orphaned if tracked.declared_at.is_none() => {
                tracked.declared_at = Some(looks.now);
            }
            Verdict::Owned => tracked.declared_at = None,
            _ => {}
        }
    }

    /// The locks as people see them, worst verdict first.
    pub fn views(&self) -> &[AdvisoryLock] {
        &self.views
    }

    /// Poolers whose clients the next look should read.
    pub fn clients_wanted(&self) -> &BTreeSet<String> {
        &self.clients_wanted
    }

    /// A finding for each lock that was declared orphaned and is still there,
    /// or was until the newest poll.
    pub fn findings(&self, previous: &[Finding]) -> Vec<Finding> {
        if self
            .tracked
            .values()
            .all(|tracked| tracked.declared_at.is_none())
        {
            return Vec::new();
        }
        let views: Table<_, _> = self.identities.iter().zip(&self.views).collect();
        let mut declared: Vec<_> = self
            .tracked
            .iter()
            .filter_map(|(identity, tracked)| Some((tracked.declared_at?, identity, tracked)))
            .filter(|(_, identity, _)| views.get(identity).is_none_or(|view| !view.allowed))
            .collect();
        declared.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        declared.truncate(MAX_FINDINGS);
        let mut findings = Vec::new();
        for (declared_at, identity, tracked) in declared {
            let key = identity.finding_key();
            match views.get(identity) {
                // Declared in an earlier life, and not judged yet in this one.
                Some(_) if tracked.confirmed.is_none() => {
                    findings.extend(previous.iter().find(|f| f.key == key).cloned());
                }
                Some(view) => {
                    findings.push(self.finding(key, view, tracked.taken_by.min(declared_at)));
                }
                None => findings.extend(previous.iter().find(|f| f.key == key).cloned()),
            }
        }
        findings
    }

    fn finding(&self, key: String, view: &AdvisoryLock, onset_at: UnixSeconds) -> Finding {
        let pooler = view.pooler.as_deref().unwrap_or("the pooler");
        let name = view
            .names
            .first()
            .map_or_else(String::new, |name| format!(" ({name})"));
        Finding {
            kind: Kind::OrphanedAdvisoryLock,
            key,
            severity: Kind::OrphanedAdvisoryLock.severity(),
            cause: None,
            onset_at,
            subject: subject(view),
            summary: format!(
                "advisory lock {}{name} in database {} of {} is held by nobody: its client is gone, \
                 its backend {} stays in the pool of {pooler}",
                view.key,
                view.database,
                self.target,
                view.pid.unwrap_or(0),
            ),
            attribution: Vec::new(),
            unexplained_share: None,
            evidence: evidence(view),
            actions: actions(view),
        }
    }
}

impl LockIdentity {
    /// `None` when the backend was gone between the two reads, or its start may
    /// not be seen: such a lock cannot be followed.
    fn of(lock: &Lock, backend: Option<&Backend>, prepared: &Prepared<'_>) -> Option<Self> {
        let mut identity = Self::unknown(lock, prepared);
        if lock.pid.is_some() {
            identity.backend_start = backend?.backend_start?.to_bits();
        }
        Some(identity)
    }

    fn unknown(lock: &Lock, prepared: &Prepared<'_>) -> Self {
        Self {
            prepared: prepared.xid(lock).unwrap_or_default().to_owned(),
            pid: lock.pid.unwrap_or(0),
            backend_start: 0,
            key: key_text(lock),
            mode: lock.mode.clone(),
        }
    }

    fn finding_key(&self) -> String {
        format!(
            "{}/{}/{}/{:x}/{}",
            self.key, self.mode, self.pid, self.backend_start, self.prepared
        )
    }
}

/// False when a limit of the poller may have left out a granted advisory lock.
/// The counts, which are of the whole lock table, say it exactly.
fn shows_every_granted(report: &PostgresReport) -> bool {
    if !report.truncated {
        return true;
    }
    let counts = report.lock_counts.iter();
    let held: u64 = counts
        .filter(|count| count.locktype == "advisory" && count.granted)
        .map(|count| u64::from(count.count))
        .sum();
    !report.lock_counts.is_empty() && held <= granted(report).count() as u64
}

fn granted(report: &PostgresReport) -> impl Iterator<Item = &Lock> {
    report
        .locks
        .iter()
        .filter(|lock| lock.locktype == "advisory" && lock.granted)
}

fn holder<'a>(lock: &Lock, backend: &'a Backend, looks: &Looks<'_>) -> Holder<'a> {
    let clock = looks.report.server.as_ref().and_then(|s| s.clock);
    Holder {
        at: looks.at,
        backend,
        in_transaction: !lock
            .virtualtransaction
            .as_deref()
            .is_some_and(|vxid| vxid.ends_with("/0")),
        takes: takes(backend, lock),
        clock_offset: clock.map_or(0.0, |clock| looks.at - clock),
    }
}

/// Any lock on a server of a transaction pool may turn out to be left. Reading
/// the clients ahead of that tells who had it, and costs the pooler 2 µs a
/// client: worth it up to a thousand.
fn may_be_left(matched: &Match<'_>) -> bool {
    const CHEAP_CLIENTS: u32 = 1_000;
    match matched {
        Match::Found(pooled) => {
            pooled.mode().is_some_and(|mode| mode != "session")
                && pooled.look.report.lists.used_clients <= CHEAP_CLIENTS
        }
        _ => false,
    }
}

/// Fills in what the pooler knows; gives the time of its look.
fn describe_pool(matched: &Match<'_>, view: &mut AdvisoryLock) -> Option<UnixSeconds> {
    let Match::Found(pooled) = matched else {
        return None;
    };
    view.pooler = Some(pooled.look.report.pooler.clone());
    view.pool = Some(PoolIdentity {
        database: pooled.server.database.clone(),
        user: pooled.server.user.clone(),
        pool_mode: pooled.mode().unwrap_or("unknown").to_owned(),
    });
    if let Some(name) = &pooled.server.application_name
        && !name.is_empty()
    {
        view.last_application = Some(name.clone());
    }
    Some(pooled.look.at)
}

fn plain_view(lock: &Lock, looks: &Looks<'_>, prepared: &Prepared<'_>) -> AdvisoryLock {
    let database = lock.database.clone().unwrap_or_default();
    let key = LockKey::of(lock);
    let configured = looks
        .settings
        .advisory_locks
        .iter()
        .filter(|named| Some(named.key) == key);
    let mut names: Vec<String> = configured.clone().map(|named| named.name.clone()).collect();
    names.extend(key.map_or_else(Vec::new, |key| catalogue::candidates(&database, key)));
    let gid = prepared.xid(lock).map(|xid| {
        let row = prepared.transaction(xid);
        row.map_or(xid, |row| &row.gid).to_owned()
    });
    AdvisoryLock {
        database,
        key: key_text(lock),
        names,
        allowed: configured.clone().any(|named| named.allow),
        mode: lock.mode.clone(),
        pid: lock.pid,
        prepared: gid,
        verdict: Verdict::Unknown,
        reason: "the backend's row was not there when it was read".into(),
        age_seconds: 0.0,
        waiters: 0,
        spinners: 0,
        pooler: None,
        pool: None,
        last_application: None,
        action: String::new(),
    }
}

fn key_text(lock: &Lock) -> String {
    LockKey::of(lock).map_or_else(
        || {
            let part = |n: Option<u32>| n.map_or_else(String::new, |n| n.to_string());
            let sub = lock.objsubid.map_or_else(String::new, |n| n.to_string());
            format!("{}:{}:{sub}", part(lock.classid), part(lock.objid))
        },
        |key| key.to_string(),
    )
}

type KeyOf<'a> = (Option<&'a str>, Option<u32>, Option<u32>, Option<i32>);

fn key_of(lock: &Lock) -> KeyOf<'_> {
    (
        lock.database.as_deref(),
        lock.classid,
        lock.objid,
        lock.objsubid,
    )
}

fn waiters_by_key(report: &PostgresReport) -> Table<KeyOf<'_>, u32> {
    let mut waiters = Table::default();
    let waiting = |lock: &&Lock| lock.locktype == "advisory" && !lock.granted;
    for lock in report.locks.iter().filter(waiting) {
        *waiters.entry(key_of(lock)).or_insert(0) += 1;
    }
    waiters
}
