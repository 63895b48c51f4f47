//! Clients that ask for an advisory lock again and again and never wait for it.
//!
//! `pg_try_advisory_lock` makes no row in `pg_locks` and no wait event. What
//! shows is the text of a backend's last statement. It is taken for a try that
//! failed when the lock was held by somebody else at that look; where the key is
//! not in the text, when the statement is a bare call, its backend holds no
//! advisory lock, and one key alone is held by others in its database. A call in
//! a query over a table is not counted then: a job queue asks for many keys, and
//! for none while it has nothing to do.
//!
//! One client that asks politely is no spin: it takes two, or one that does not
//! pause. Clients sleep between two tries, up to ten seconds, and behind a pooler
//! their statements are soon overlaid: a spinner that is not seen for a while is
//! not gone.

mod crowd;
mod sightings;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use super::advisory::Looks;
use super::key::LockKey;
use super::pooled::Servers;
use super::view::{AdvisoryLock, Spinners};
use crate::engine::Settings;
use crate::engine::incident::{Finding, Kind};
use crate::sample::{StatementCalls, UnixSeconds};

use crowd::{Crowd, count};
use sightings::{MAX_CANDIDATES, Sighting, sightings};

/// The longest pause that spinning clients make between two tries, in seconds,
/// and some: back-offs are usually capped at ten.
pub const PAUSE: f64 = 15.0;
/// A race at start in which one wins and the others are told so is over within
/// a few tries; back-offs begin at a second.
const HOLD: f64 = 5.0;
const MIN_TRIES: usize = 4;
/// Seconds without two spinners before it is over; as long again as the longest
/// pause.
const QUIET: f64 = 15.0;
/// A client that pauses for a second between two tries makes fewer calls.
const POLITE_CALLS_PER_SECOND: f64 = 1.5;
/// Tries remembered of one lock. Fifteen looks at two hundred callers are more;
/// the count is then a lower bound, as it is anyway.
const MAX_SIGHTINGS: usize = 1_000;
/// Locks followed.
const MAX_SPINS: usize = 200;
/// As many as the ledger opens of one kind.
const MAX_FINDINGS: usize = 100;

/// A lock that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub database: String,
    /// As `pg_locks` shows it.
    pub key: String,
}

/// Follows who spins on what, on one target.
#[derive(Debug)]
pub struct Spins {
    target: String,
    at: Option<UnixSeconds>,
    spins: BTreeMap<Wanted, Spin>,
    calls: BTreeMap<i64, Calls>,
    clients_wanted: BTreeSet<String>,
}

/// The tries at one lock.
#[derive(Debug, Default)]
struct Spin {
    sightings: Vec<Sighting>,
    began_at: UnixSeconds,
    /// There was a crowd, and it may only be pausing.
    crowded: bool,
    /// The first look without a crowd since. Time in which nobody looked is no
    /// quiet.
    quiet_since: Option<UnixSeconds>,
    is_open: bool,
    crowd: Crowd,
}

/// A counter of `pg_stat_statements`, and how fast it rose.
#[derive(Debug, Clone, Copy)]
struct Calls {
    at: UnixSeconds,
    total: u64,
    per_second: Option<f64>,
}

impl Spins {
    pub fn new(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            at: None,
            spins: BTreeMap::new(),
            calls: BTreeMap::new(),
            clients_wanted: BTreeSet::new(),
        }
    }

    /// Takes in the newest looks.
    pub fn observe(&mut self, looks: &Looks<'_>) {
        if self.at != Some(looks.at) {
            if self.at.is_some_and(|before| looks.at < before) {
                // Our clock was set back: what was seen lies in the future.
                self.spins.clear();
                self.calls.clear();
            }
            self.at = Some(looks.at);
            self.count_calls(looks.at, &looks.report.statements);
            for (wanted, sighting) in sightings(looks) {
                self.see(wanted, sighting, looks.at);
            }
        }
        self.clients_wanted.clear();
        // Mostly nobody spins.
        if self.spins.is_empty() {
            return;
        }
        let since = looks.now - PAUSE;
        for spin in self.spins.values_mut() {
            spin.sightings.retain(|sighting| sighting.at >= since);
        }
        let tries = self.spins.values().flat_map(|spin| &spin.sightings);
        let mut room = MAX_CANDIDATES.saturating_sub(tries.map(Sighting::candidates).sum());
        let servers = Servers::of(looks.poolers);
        for (wanted, spin) in &mut self.spins {
            for sighting in &mut spin.sightings {
                let before = sighting.candidates();
                sighting.find_callers(looks, &servers, room);
                room = room.saturating_sub(sighting.candidates() - before);
                self.clients_wanted.extend(sighting.wants_clients());
            }
            spin.crowd = count(&spin.sightings, looks.settings.poolers_complete);
            spin.crowd.calls_per_second = calls_per_second(&self.calls, &spin.sightings);
            spin.judge(
                looks.now,
                is_allowed(looks.settings, wanted),
                looks.settings,
            );
        }
        self.spins
            .retain(|_, spin| spin.is_open || !spin.sightings.is_empty());
    }

    fn see(&mut self, wanted: Wanted, sighting: Sighting, at: UnixSeconds) {
        if !self.spins.contains_key(&wanted) && self.spins.len() >= MAX_SPINS {
            return;
        }
        let spin = self.spins.entry(wanted).or_insert_with(|| Spin {
            began_at: sighting.at.min(at),
            ..Spin::default()
        });
        let known = spin.sightings.iter().any(|s| s.is_same_try(&sighting));
        if !known && spin.sightings.len() < MAX_SIGHTINGS {
            spin.sightings.push(sighting);
        }
    }

    fn count_calls(&mut self, at: UnixSeconds, statements: &[StatementCalls]) {
        if statements.is_empty() {
            self.calls.retain(|_, calls| at - calls.at <= PAUSE);
            return;
        }
        let before = std::mem::take(&mut self.calls);
        for read in statements {
            let per_second = before.get(&read.query_id).and_then(|old| {
                let calls = read.calls.checked_sub(old.total)?;
                (at > old.at).then(|| calls as f64 / (at - old.at))
            });
            let calls = Calls {
                at,
                total: read.calls,
                per_second,
            };
            self.calls.insert(read.query_id, calls);
        }
    }

    /// How many spin on each lock.
    pub fn views(&self) -> Vec<Spinners> {
        self.spins
            .iter()
            .filter(|(_, spin)| spin.crowd.most > 0)
            .map(|(wanted, spin)| Spinners {
                database: wanted.database.clone(),
                key: wanted.key.clone(),
                clients: spin.crowd.most,
            })
            .collect()
    }

    /// How many spin on one lock.
    pub fn on(&self, database: &str, key: &str) -> u32 {
        if self.spins.is_empty() {
            return 0;
        }
        let wanted = Wanted {
            database: database.to_owned(),
            key: key.to_owned(),
        };
        self.spins.get(&wanted).map_or(0, |spin| spin.crowd.most)
    }

    /// Poolers whose clients the next look should read.
    pub fn clients_wanted(&self) -> &BTreeSet<String> {
        &self.clients_wanted
    }

    /// A finding for each lock that is spun on. `locks` are those that are held.
    pub fn findings(&self, locks: &[AdvisoryLock]) -> Vec<Finding> {
        let open = self.spins.iter().filter(|(_, spin)| spin.is_open);
        open.take(MAX_FINDINGS)
            .map(|(wanted, spin)| {
                let mut held = locks
                    .iter()
                    .filter(|lock| lock.database == wanted.database && lock.key == wanted.key);
                let holder = held.next();
                Finding {
                    kind: Kind::TryLockSpin,
                    key: format!("{}/{}", wanted.database, wanted.key),
                    severity: Kind::TryLockSpin.severity(),
                    cause: None,
                    onset_at: spin.began_at,
                    subject: words::subject(wanted),
                    summary: words::summary(&self.target, wanted, &spin.crowd, holder),
                    attribution: Vec::new(),
                    unexplained_share: None,
                    evidence: words::evidence(&spin.crowd, holder),
                    actions: words::actions(holder),
                }
            })
            .collect()
    }
}

impl Spin {
    fn judge(&mut self, now: UnixSeconds, allowed: bool, settings: &Settings) {
        let wanted = settings.detect.try_lock_spin.min_spinners;
        let hurried = self
            .crowd
            .calls_per_second
            .is_some_and(|calls| calls >= POLITE_CALLS_PER_SECOND);
        let crowded = f64::from(self.crowd.least) >= wanted
            || (self.crowd.least > 0 && hurried && f64::from(self.crowd.most) >= wanted);
        if allowed || !settings.detect.try_lock_spin.enabled {
            self.is_open = false;
        } else if crowded {
            self.crowded = true;
            self.quiet_since = None;
            let newest = self.sightings.iter().map(|sighting| sighting.at);
            let lasts = newest
                .reduce(f64::max)
                .is_some_and(|at| at - self.began_at >= HOLD);
            self.is_open |= lasts && self.crowd.tries >= MIN_TRIES;
        } else if !self.crowded || now - *self.quiet_since.get_or_insert(now) >= QUIET {
            self.is_open = false;
            self.crowded = false;
            self.quiet_since = None;
            // What is left may grow again: that is another spin.
            let oldest = self.sightings.iter().map(|sighting| sighting.at);
            self.began_at = oldest.reduce(f64::min).unwrap_or(now);
        }
    }
}

fn is_allowed(settings: &Settings, wanted: &Wanted) -> bool {
    let key = |key: LockKey| key.to_string() == wanted.key;
    let mut named = settings.advisory_locks.iter();
    named.any(|named| named.allow && key(named.key))
}

/// Of all statements that were seen trying, whatever their key: it is a
/// parameter there.
fn calls_per_second(calls: &BTreeMap<i64, Calls>, sightings: &[Sighting]) -> Option<f64> {
    let ids: BTreeSet<i64> = sightings.iter().filter_map(|s| s.query_id).collect();
    let rates = ids.iter().filter_map(|id| calls.get(id)?.per_second);
    rates.reduce(|a, b| a + b)
}
