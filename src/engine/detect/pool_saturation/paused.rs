//! What was paused and not resumed: a database, or a whole pooler.
//!
//! `PAUSE` makes everybody wait, and is mostly meant: a switchover takes seconds.
//! So it is given six times as long as a pool that is full. After that clients
//! begin to run into their time-outs, whatever it was meant for. A client that
//! was thrown out and comes back begins its wait anew, so the time is counted
//! here.
//!
//! `PAUSE` without a database shows in no list, only in `SHOW STATE` (1.19+).
//! Of an older pooler it can be seen that clients wait, and that there is neither
//! a server nor a login to one. That is told as it is, and not as a pause: a
//! pooler that cannot reach its server looks alike.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Account, Stance, Suspicion, database_of, fields, key, own_keys, queue_wait, servers};
use crate::engine::incident::Kind;
use crate::engine::words;
use crate::sample::{PgbouncerReport, Pool, UnixSeconds};

/// In times of the `hold` of this kind: a minute by default, half of PgBouncer's
/// `query_wait_timeout`. The last of them is the hold itself.
const PATIENCE: f64 = 6.0;

/// Seconds without anybody in the queue after which the next one begins the
/// time anew.
const QUEUE_GAP: f64 = 30.0;

/// Pauses followed at one time; more of them are not told anyway.
const MAX_PAUSES: usize = 1_000;

/// Stands where the user of a pool does: no pool has a database without a name.
const WHOLE_POOLER: (&str, &str) = ("", "paused");

/// Since when clients have waited in what is paused.
#[derive(Debug, Default)]
pub struct Pauses {
    queues: BTreeMap<String, Queue>,
}

#[derive(Debug, Clone, Copy)]
struct Queue {
    since: UnixSeconds,
    /// The newest look with somebody in it.
    seen: UnixSeconds,
}

impl Pauses {
    /// A pooler is not there any more.
    pub fn forget(&mut self, pooler: &str) {
        let own = own_keys(pooler);
        self.queues.retain(|key, _| !key.starts_with(&own));
    }

    /// What is paused while clients wait, in one look at a pooler. `reachable`
    /// says whether the server behind it answers us.
    pub fn check(
        &mut self,
        t: UnixSeconds,
        report: &PgbouncerReport,
        hold: f64,
        reachable: bool,
    ) -> Vec<Suspicion> {
        let own = own_keys(&report.pooler);
        let queues = std::mem::take(&mut self.queues).into_iter();
        // What is not paused any more is left behind with `known`.
        let (mut known, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            queues.partition(|(key, _)| key.starts_with(&own));
        self.queues = others;
        let mut suspicions = Vec::new();
        for paused in paused_in(report) {
            let key = paused.key(report);
            let queue = known.remove(&key);
            if let Some(queue) = self.follow(t, key.clone(), &paused, queue) {
                suspicions.push(paused.suspicion(t, report, key, queue, hold, reachable));
            }
        }
        suspicions
    }

    /// The time of one queue; `None` while nobody is in it.
    fn follow(
        &mut self,
        t: UnixSeconds,
        key: String,
        paused: &Paused<'_>,
        known: Option<Queue>,
    ) -> Option<Queue> {
        // A clock that was set back begins anew.
        let known = known.filter(|queue| (0.0..=QUEUE_GAP).contains(&(t - queue.seen)));
        let queue = if paused.clients > 0 {
            let began = t - paused.wait;
            Some(Queue {
                since: known.map_or(began, |queue| queue.since.min(began)),
                seen: t,
            })
        } else {
            known
        }?;
        if self.queues.len() < MAX_PAUSES {
            self.queues.insert(key, queue);
        }
        (paused.clients > 0).then_some(queue)
    }
}

/// Whether clients wait in a pooler that has no server, opens none, and does not
/// tell whether it is paused.
pub fn stands_still(report: &PgbouncerReport) -> bool {
    let is_console = report.version.is_some() && !report.truncated;
    let untold = is_console && report.all_paused.is_none();
    untold
        && report.servers.is_empty()
        && report.pools.iter().all(|pool| servers(pool) == 0)
        && report.pools.iter().any(|pool| waits_unpaused(report, pool))
}

fn waits_unpaused(report: &PgbouncerReport, pool: &Pool) -> bool {
    let known = database_of(report, pool);
    pool.cl_waiting > 0 && known.is_some_and(|known| !known.paused && !known.disabled)
}

/// One thing that is paused, with its queue.
struct Paused<'a> {
    what: What<'a>,
    clients: u32,
    /// Seconds that the first of them has waited.
    wait: f64,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Database(&'a Pool),
    Pooler,
    /// Or the pooler cannot reach its server.
    NoServer,
}

fn paused_in(report: &PgbouncerReport) -> Vec<Paused<'_>> {
    let whole = if report.all_paused == Some(true) {
        What::Pooler
    } else if stands_still(report) {
        What::NoServer
    } else {
        let pools = report.pools.iter();
        let paused = pools.filter(|pool| database_of(report, pool).is_some_and(|d| d.paused));
        let paused = paused.map(|pool| Paused {
            what: What::Database(pool),
            clients: pool.cl_waiting,
            wait: queue_wait(pool),
        });
        return paused.collect();
    };
    let pools = report.pools.iter();
    vec![Paused {
        what: whole,
        clients: pools
            .clone()
            .map(|pool| pool.cl_waiting)
            .fold(0, u32::saturating_add),
        wait: pools.map(queue_wait).fold(0.0, f64::max),
    }]
}

impl Paused<'_> {
    fn key(&self, report: &PgbouncerReport) -> String {
        match self.what {
            What::Database(pool) => key(report, &pool.database, &pool.user),
            What::Pooler | What::NoServer => key(report, WHOLE_POOLER.0, WHOLE_POOLER.1),
        }
    }

    fn suspicion(
        &self,
        t: UnixSeconds,
        report: &PgbouncerReport,
        key: String,
        queue: Queue,
        hold: f64,
        reachable: bool,
    ) -> Suspicion {
        let seconds = t - queue.since;
        // That a dead server has no sessions is told of the server.
        let may_open = reachable || !matches!(self.what, What::NoServer);
        let stance = if may_open && seconds >= hold * (PATIENCE - 1.0) {
            Stance::Opens
        } else {
            Stance::Keeps
        };
        Suspicion {
            key,
            stance,
            onset_at: queue.since,
            account: self.account(report, seconds),
        }
    }

    fn account(&self, report: &PgbouncerReport, seconds: f64) -> Account {
        let clients = words::plural(f64::from(self.clients), "client");
        let (pooler, wait) = (&report.pooler, words::duration(self.wait));
        let mut subject = json!({
            "verdict": "paused",
            "pooler": pooler,
            "clients_waiting": self.clients,
            "max_wait_seconds": (self.wait * 10.0).round() / 10.0,
        });
        let queue = format!("{clients} in its queue, the first for {wait}");
        let (summary, mut evidence, actions) = match self.what {
            What::Database(pool) => {
                subject["database"] = json!(pool.database);
                subject["user"] = json!(pool.user);
                subject["pool_mode"] = json!(pool.pool_mode);
                let (alias, user) = (words::name(&pool.database), words::name(&pool.user));
                (
                    format!("pool {alias}/{user} of {pooler} is paused: {queue}"),
                    vec![format!(
                        "SHOW DATABASES says that {alias} is paused; nobody gets a server until it is resumed"
                    )],
                    vec![format!(
                        "RESUME {alias};  on the console of {pooler}, unless the pause is meant to last"
                    )],
                )
            }
            What::Pooler => (
                format!("{pooler} is paused: {queue}"),
                vec![
                    "SHOW STATE says that all of it is paused; nobody gets a server until it is resumed"
                        .to_owned(),
                ],
                vec![format!(
                    "RESUME;  on the console of {pooler}, unless the pause is meant to last"
                )],
            ),
            What::NoServer => {
                subject["verdict"] = json!("no_server");
                (
                    format!("{pooler} has no server and opens none: {queue}"),
                    vec![
                        "no pool of it has a connection to the server, and the server answers us"
                            .to_owned(),
                        "either PAUSE was sent to all of it, which its console does not tell (SHOW STATE, 1.19+), \
                         or it cannot reach the server: its log has \"PAUSE command issued\" or a failed connection"
                            .to_owned(),
                    ],
                    vec![format!(
                        "RESUME;  on the console of {pooler}, when its log says PAUSE and the pause is not meant to last"
                    )],
                )
            }
        };
        // Who was thrown out and came back has waited less than the queue.
        if seconds >= self.wait + 1.0 {
            let seconds = words::duration(seconds);
            evidence.push(format!("somebody has waited there for {seconds}"));
        }
        evidence
            .push("what waits is thrown out after query_wait_timeout, 120 s by default".to_owned());
        Account {
            severity: Kind::PoolSaturation.severity(),
            subject: fields(subject),
            summary,
            evidence,
            actions,
        }
    }
}
