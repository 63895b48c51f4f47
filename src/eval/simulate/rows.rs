//! The single rows of a lock pile-up: who blocks, who waits, and for what.

use super::frame::Naming;
use crate::sample::{Backend, Lock, PostgresReport, UnixSeconds};

/// Waiters shown of one look, as the poller bounds them.
pub const SHOWN: usize = 500;

/// What a blocker holds and its waiters ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// A table, as a migration or a maintenance command does.
    Table,
    /// A row, by its transaction.
    Row,
}

/// The session that is in the way.
#[derive(Debug, Clone)]
pub struct Blocker {
    pub held: Held,
    pub pid: i32,
    /// Number of its owner.
    pub owner: u16,
    pub since: UnixSeconds,
    pub query: String,
    pub relation: String,
    pub transaction: String,
    /// It works, rather than sits idle in its transaction.
    pub active: bool,
}

/// One that waits.
#[derive(Debug, Clone, Copy)]
pub struct Waiter {
    pub pid: i32,
    pub owner: u16,
    pub route: u16,
    pub since: UnixSeconds,
}

/// Everybody who waits, the longest wait first.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    pub waiters: Vec<Waiter>,
}

/// Adds the rows to a look.
pub(super) fn fill(
    report: &mut PostgresReport,
    naming: &Naming,
    blocker: &Blocker,
    waits: &Waits,
    tags: bool,
) {
    report.backends.push(blocker.backend(naming));
    report.locks.extend(blocker.locks(naming));
    for waiter in waits.waiters.iter().take(SHOWN) {
        report.backends.push(waiter.backend(naming, blocker, tags));
        report.locks.push(waiter.lock(naming, blocker));
    }
    let cut = waits.waiters.len() > SHOWN;
    report.truncated |= cut;
    report.locks_truncated |= cut;
}

impl Blocker {
    fn backend(&self, naming: &Naming) -> Backend {
        let state = if self.active {
            "active"
        } else {
            "idle in transaction"
        };
        Backend {
            state: Some(state.to_owned()),
            wait_event_type: (!self.active).then(|| "Client".to_owned()),
            wait_event: (!self.active).then(|| "ClientRead".to_owned()),
            has_written: true,
            ..backend(naming, self.owner, self.pid, self.since, &self.query)
        }
    }

    fn locks(&self, naming: &Naming) -> Vec<Lock> {
        let table = Lock {
            locktype: "relation".to_owned(),
            database: database(naming, self.owner),
            relation: Some(self.relation.clone()),
            mode: match self.held {
                Held::Table => "AccessExclusiveLock",
                Held::Row => "RowExclusiveLock",
            }
            .to_owned(),
            ..lock(self.pid, true)
        };
        let own = Lock {
            locktype: "transactionid".to_owned(),
            transactionid: Some(self.transaction.clone()),
            mode: "ExclusiveLock".to_owned(),
            ..lock(self.pid, true)
        };
        match self.held {
            Held::Table => vec![table],
            Held::Row => vec![table, own],
        }
    }
}

impl Waiter {
    fn backend(&self, naming: &Naming, blocker: &Blocker, tags: bool) -> Backend {
        let event = match blocker.held {
            Held::Table => "relation",
            Held::Row => "transactionid",
        };
        let name = naming.routes.get(usize::from(self.route));
        let tag = name.and_then(|name| name.tag.as_deref()).filter(|_| tags);
        let comment = tag.map_or_else(String::new, |tag| format!(" /*route='{tag}'*/"));
        let query = format!("update {} set seen = $1{comment}", blocker.relation);
        Backend {
            state: Some("active".to_owned()),
            wait_event_type: Some("Lock".to_owned()),
            wait_event: Some(event.to_owned()),
            holds_xmin: true,
            ..backend(naming, self.owner, self.pid, self.since, &query)
        }
    }

    fn lock(&self, naming: &Naming, blocker: &Blocker) -> Lock {
        match blocker.held {
            Held::Table => Lock {
                locktype: "relation".to_owned(),
                database: database(naming, blocker.owner),
                relation: Some(blocker.relation.clone()),
                mode: "RowExclusiveLock".to_owned(),
                waitstart: Some(self.since),
                ..lock(self.pid, false)
            },
            Held::Row => Lock {
                locktype: "transactionid".to_owned(),
                transactionid: Some(blocker.transaction.clone()),
                mode: "ShareLock".to_owned(),
                waitstart: Some(self.since),
                ..lock(self.pid, false)
            },
        }
    }
}

fn backend(naming: &Naming, owner: u16, pid: i32, since: UnixSeconds, query: &str) -> Backend {
    let owner = naming.owners.get(usize::from(owner));
    Backend {
        pid,
        backend_start: naming.server.started_at.map(|t| t + f64::from(pid)),
        database: owner.map(|owner| owner.database.clone()),
        user: owner.map(|owner| owner.user.clone()),
        application: owner.map(|owner| owner.application.clone()),
        client: owner.and_then(|owner| owner.client.clone()),
        client_port: Some(30_000 + pid % 30_000),
        xact_start: Some(since),
        query_start: Some(since),
        state_change: Some(since),
        query: Some(query.to_owned()),
        ..Backend::default()
    }
}

fn database(naming: &Naming, owner: u16) -> Option<String> {
    let owner = naming.owners.get(usize::from(owner));
    owner.map(|owner| owner.database.clone())
}

fn lock(pid: i32, granted: bool) -> Lock {
    Lock {
        pid: Some(pid),
        granted,
        virtualtransaction: Some(format!("{}/{}", pid % 500, pid)),
        ..Lock::default()
    }
}
