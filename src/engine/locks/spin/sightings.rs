//! Tries that failed, as one look at the server shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::{PAUSE, Wanted};
use crate::engine::locks::advisory::Looks;
use crate::engine::locks::key::LockKey;
use crate::engine::locks::pooled::{Match, PoolerLook, Servers};
use crate::sample::{Backend, ClientSocket, Lock, LockCall, UnixSeconds};

/// The lock table is read with the server's clock, the activity a little later:
/// a call that ended since may have got its lock.
const BETWEEN_READS: f64 = 0.05;
/// PgBouncer prints whole seconds, and a request is on its way for a while.
const STEP: f64 = 1.5;
/// A look at the clients that is later than this after the try says nothing of
/// who made it.
const FRESH: f64 = 5.0;
/// Reading the clients costs the pooler 2 µs each: worth it up to a thousand.
const CHEAP_CLIENTS: u32 = 1_000;
/// Candidates kept of one try.
const MAX_CALLERS: usize = 1_000;
/// Candidates kept of all tries at one target, which is under two megabytes: a
/// thousand tries with a thousand candidates each would be eight. A try beyond
/// that has none, as one that the pooler was not read for in time.
pub const MAX_CANDIDATES: usize = 200_000;

/// One try.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// When it was made, on our own clock.
    pub at: UnixSeconds,
    pub query_id: Option<i64>,
    /// `client_addr`: behind a pooler that of the pooler.
    pub client: String,
    pub application: String,
    pub caller: Caller,
    /// Pid, start of the session and of the statement, as bits.
    session: (i32, u64),
    query_start: u64,
}

/// Who made it.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// The poolers have not been read since. What finds the session there.
    Untold(Box<Backend>),
    /// The session itself.
    Direct,
    /// A client of a pool; which of them, as far as the pooler tells.
    Pooled {
        pool: Pool,
        /// Those whose last request may be it, each once, by a hash of their
        /// identity; `None` when the clients were not read since.
        clients: Option<Box<[u64]>>,
        wants_clients: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pool {
    pub pooler: String,
    pub database: String,
    pub user: String,
}

impl Sighting {
    pub fn is_same_try(&self, other: &Self) -> bool {
        self.session == other.session && self.query_start == other.query_start
    }

    /// The backend that made it, by pid and start; of a direct session that is
    /// the spinner.
    pub fn session(&self) -> (i32, u64) {
        self.session
    }

    /// How many clients may have made it.
    pub fn candidates(&self) -> usize {
        match &self.caller {
            Caller::Pooled { clients, .. } => clients.as_ref().map_or(0, |all| all.len()),
            Caller::Untold(_) | Caller::Direct => 0,
        }
    }

    /// Looks for who made it in what the poolers told since; there is room for
    /// so many candidates.
    pub fn find_callers(&mut self, looks: &Looks<'_>, servers: &Servers<'_>, room: usize) {
        if let Caller::Untold(backend) = &self.caller {
            let read = |look: &PoolerLook<'_>| look.fresh && look.at >= self.at;
            if !looks.poolers.iter().all(read) {
                return;
            }
            self.caller = caller(backend, servers);
        }
        let Caller::Pooled {
            pool,
            clients,
            wants_clients,
        } = &mut self.caller
        else {
            return;
        };
        *wants_clients = false;
        let mut poolers = looks.poolers.iter().filter(|look| look.fresh);
        let look = poolers.find(|look| look.report.pooler == pool.pooler);
        let Some(look) = look.filter(|look| clients.is_none() && look.at - self.at <= FRESH) else {
            return;
        };
        let report = look.report;
        let read = report.clients.as_ref().filter(|_| !report.truncated);
        let Some(read) = read.filter(|_| look.at >= self.at) else {
            *wants_clients = report.lists.used_clients <= CHEAP_CLIENTS;
            return;
        };
        let alike = read.iter().filter(|client| {
            client.database == pool.database
                && client.user == pool.user
                && names_agree(client, &self.application)
                && may_have_called(client, self.at, look.at)
        });
        let mut alike: Vec<u64> = alike.map(identity).take(MAX_CALLERS).collect();
        alike.sort_unstable();
        alike.dedup();
        // A part of them could look like another's.
        if alike.len() > room {
            alike.clear();
        }
        *clients = Some(alike.into());
    }

    pub fn wants_clients(&self) -> Option<String> {
        match &self.caller {
            Caller::Pooled {
                pool,
                wants_clients: true,
                ..
            } => Some(pool.pooler.clone()),
            _ => None,
        }
    }
}

/// A hash of 64 bits: among a thousand clients two are one in 4 × 10¹³ cases.
/// Without keys, so that a replay counts as the live program did.
fn identity(client: &ClientSocket) -> u64 {
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    match &client.id {
        Some(id) => hasher.hash_one(id),
        None => hasher.hash_one((&client.ptr, &client.connect_time)),
    }
}

fn names_agree(client: &ClientSocket, application: &str) -> bool {
    let name = client.application_name.as_deref().unwrap_or_default();
    name.is_empty() || application.is_empty() || name == application
}

fn may_have_called(client: &ClientSocket, at: UnixSeconds, look: UnixSeconds) -> bool {
    client
        .request_age
        .is_none_or(|age| (look - age - at).abs() <= STEP)
}

/// All tries in one look that failed, or are bound to.
pub fn sightings(looks: &Looks<'_>) -> Vec<(Wanted, Sighting)> {
    let held = Held::of(looks);
    let clock = looks.report.server.as_ref().and_then(|server| server.clock);
    let mut found = Vec::new();
    for backend in &looks.report.backends {
        let Some(call) = tried(backend) else {
            continue;
        };
        let offset = clock.map_or(0.0, |clock| looks.at - clock);
        let Some(query_start) = backend.query_start else {
            continue;
        };
        let running = backend.state.as_deref() == Some("active");
        let ended = backend.state_change.unwrap_or(query_start);
        let at = query_start + offset;
        let lately = looks.at - (ended + offset);
        if !running && !(BETWEEN_READS..=PAUSE).contains(&lately) {
            continue;
        }
        let Some(key) = held.failed(backend, &call) else {
            continue;
        };
        let wanted = Wanted {
            database: backend.database.clone().unwrap_or_default(),
            key,
        };
        let sighting = Sighting {
            at,
            query_id: backend.query_id,
            client: backend.client.clone().unwrap_or_default(),
            application: backend.application.clone().unwrap_or_default(),
            caller: Caller::Untold(Box::new(Backend {
                pid: backend.pid,
                database: backend.database.clone(),
                user: backend.user.clone(),
                client_port: backend.client_port,
                ..Backend::default()
            })),
            session: (
                backend.pid,
                backend.backend_start.unwrap_or_default().to_bits(),
            ),
            query_start: query_start.to_bits(),
        };
        found.push((wanted, sighting));
    }
    found
}

fn caller(backend: &Backend, servers: &Servers<'_>) -> Caller {
    match servers.find(backend) {
        Match::Found(pooled) if pooled.mode() != Some("session") => Caller::Pooled {
            pool: Pool {
                pooler: pooled.look.report.pooler.clone(),
                database: pooled.server.database.clone(),
                user: pooled.server.user.clone(),
            },
            clients: None,
            wants_clients: false,
        },
        _ => Caller::Direct,
    }
}

/// The try-lock call that is the backend's last statement. Of several only the
/// first counts: they are tried together.
fn tried(backend: &Backend) -> Option<LockCall> {
    if let Some(call) = backend.lock_calls.iter().find(|call| call.tries) {
        return Some(call.clone());
    }
    // A capture may have come without the calls.
    let query = backend.query.as_deref()?.to_ascii_lowercase();
    let told = backend.lock_calls.is_empty() && query.contains("pg_try_advisory_");
    told.then(|| LockCall {
        tries: true,
        transaction: query.contains("pg_try_advisory_xact"),
        shared: query.contains("lock_shared"),
        key: None,
    })
}

/// Who holds which advisory lock.
struct Held<'a> {
    by_key: BTreeMap<(&'a str, String), BTreeSet<Option<i32>>>,
}

impl<'a> Held<'a> {
    fn of(looks: &Looks<'a>) -> Self {
        let mut by_key: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let granted = |lock: &&Lock| lock.locktype == "advisory" && lock.granted;
        for lock in looks.report.locks.iter().filter(granted) {
            let Some(key) = LockKey::of(lock) else {
                continue;
            };
            let database = lock.database.as_deref().unwrap_or_default();
            by_key
                .entry((database, key.to_string()))
                .or_default()
                .insert(lock.pid);
        }
        Self { by_key }
    }

    /// The key that the call failed to get.
    fn failed(&self, backend: &Backend, call: &LockCall) -> Option<String> {
        let database = backend.database.as_deref().unwrap_or_default();
        let own = Some(backend.pid);
        if let Some(key) = &call.key {
            let holders = self.by_key.get(&(database, key.clone()))?;
            return (!holders.contains(&own)).then(|| key.clone());
        }
        let query = backend.query.as_deref().unwrap_or_default();
        let mut here = self
            .by_key
            .iter()
            .filter(|((name, _), _)| *name == database);
        let (only, holders) = here.next()?;
        let alone = here.next().is_none() && !holders.contains(&own);
        (alone && is_bare(query)).then(|| only.1.clone())
    }
}

/// A call that does not run over a table.
fn is_bare(query: &str) -> bool {
    let mut words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    !words.any(|word| word.eq_ignore_ascii_case("from"))
}
