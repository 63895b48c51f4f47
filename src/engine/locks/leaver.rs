//! Who left a lock on a pooled server, and whether that client is still there.
//!
//! A lock that nobody can release (`orphaned`) and one whose client is merely
//! on another server (`stranded`) look alike in `pg_locks`. What tells them
//! apart, strongest first:
//!
//! 1. The client was seen linked to the server while it held the lock. It is
//!    known by `id` (PgBouncer 1.24+), else by `ptr` and `connect_time`: `ptr`
//!    alone is reused as soon as a client is gone.
//! 2. The clients of the same pool whose last request falls into the time in
//!    which the lock was taken, and who have been quiet since. A client that
//!    goes on elsewhere is no suspect any more, or the spinning peers of a dead
//!    client would hide its orphan for as long as they spin. The exception is a
//!    single client that matches the very statement that took the lock and goes
//!    on using this very server: it works under its own lock.
//!
//! When no such client is connected, the lock is orphaned.

use super::pooled::Pooled;
use crate::sample::{Backend, ClientSocket, ServerSocket, UnixSeconds};

/// PgBouncer prints whole seconds, and its clock is read once per event loop.
const CLOCK_STEP: f64 = 1.5;
/// A busy pool may have thousands of clients in one window; past this many
/// none of them is a useful suspect.
const MAX_SUSPECTS: usize = 200;

/// What is known of the client that left a lock behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Leaver {
    /// Nobody was seen with the lock, and clients were not read yet.
    #[default]
    Unseen,
    /// Was linked while the lock was held.
    Linked(Identity),
    /// One of these, all still connected when last read.
    Suspects(Vec<Suspect>),
    /// Not connected any more.
    Gone,
}

/// A client connection of a pooler.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    id: Option<String>,
    ptr: String,
    /// `None` when only the server's `link` was read, not the clients.
    connect_time: Option<String>,
}

/// A client that may have left the lock.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    identity: Identity,
    request_time: String,
    /// Its request is the statement that takes locks, as far as time and
    /// application name can say.
    exact: bool,
}

/// When and by what statement the lock may have been taken, on our own clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TakenWindow {
    pub from: UnixSeconds,
    pub to: UnixSeconds,
    /// The window is that of a statement that takes session locks, not merely
    /// the time between two polls.
    pub exact: bool,
}

/// Whether the leaver is still connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Connected,
    Gone,
    /// Clients must be read first.
    Undecided,
}

impl Identity {
    fn of_client(client: &ClientSocket) -> Self {
        Self {
            id: client.id.clone(),
            ptr: client.ptr.clone(),
            connect_time: Some(client.connect_time.clone()),
        }
    }

    /// `server` must be linked.
    pub fn of_link(pooled: &Pooled<'_>) -> Self {
        pooled.linked_client().map_or_else(
            || Self {
                id: None,
                ptr: pooled.server.link.clone(),
                connect_time: None,
            },
            Self::of_client,
        )
    }

    fn is(&self, client: &ClientSocket, server: &ServerSocket) -> bool {
        if let (Some(own), Some(other)) = (&self.id, &client.id) {
            return own == other;
        }
        self.ptr == client.ptr
            && self.connect_time.as_ref().map_or_else(
                // One zone and one format: text order is time order. A client
                // that connected after the server was last used is another one.
                || client.connect_time <= server.request_time,
                |time| *time == client.connect_time,
            )
    }

    fn same(&self, other: &Self) -> bool {
        match (&self.id, &other.id) {
            (Some(own), Some(other)) => own == other,
            _ => {
                self.ptr == other.ptr
                    && (self.connect_time.is_none()
                        || other.connect_time.is_none()
                        || self.connect_time == other.connect_time)
            }
        }
    }
}

impl Leaver {
    /// Whether the client that is linked now may be the one that left.
    pub fn may_be(&self, link: &Identity) -> bool {
        match self {
            Self::Linked(identity) => identity.same(link),
            Self::Suspects(suspects) => suspects.iter().any(|s| s.identity.same(link)),
            Self::Unseen | Self::Gone => false,
        }
    }

    /// Looks for the leaver among the pool's clients. `pooled` is the unlinked
    /// server that holds the lock.
    pub fn presence(&mut self, pooled: &Pooled<'_>, taken: Option<TakenWindow>) -> Presence {
        let Some(clients) = pooled.clients() else {
            return match self {
                Self::Gone => Presence::Gone,
                // The clients will never be read: a lock whose taker was never
                // seen is then what it looks like.
                Self::Unseen if pooled.look.report.too_many_clients => Presence::Gone,
                _ => Presence::Undecided,
            };
        };
        let clients: Vec<_> = clients.collect();
        if let Self::Linked(identity) = self
            && !clients.iter().any(|c| identity.is(c, pooled.server))
        {
            *self = Self::Unseen;
        }
        match self {
            Self::Linked(_) => return Presence::Connected,
            Self::Gone => return Presence::Gone,
            Self::Unseen => {
                let found = taken.map_or_else(Vec::new, |taken| suspects(pooled, &clients, taken));
                *self = Self::Suspects(found);
            }
            Self::Suspects(suspects) => {
                let alone = suspects.len() == 1;
                suspects.retain(|suspect| suspect.stays(&clients, pooled.server, alone));
            }
        }
        if matches!(self, Self::Suspects(suspects) if suspects.is_empty()) {
            *self = Self::Gone;
        }
        match self {
            Self::Gone => Presence::Gone,
            _ => Presence::Connected,
        }
    }
}

impl Suspect {
    fn stays(&self, clients: &[&ClientSocket], server: &ServerSocket, alone: bool) -> bool {
        let Some(client) = clients.iter().find(|c| self.identity.is(c, server)) else {
            return false;
        };
        let quiet = client.request_time == self.request_time;
        quiet || (alone && self.exact && in_step(client, server))
    }
}

/// Whether the server's last answer may be to the client's last request.
fn in_step(client: &ClientSocket, server: &ServerSocket) -> bool {
    match (client.request_age, server.request_age) {
        (Some(client), Some(server)) => (client - server).abs() <= CLOCK_STEP,
        _ => false,
    }
}

fn suspects(pooled: &Pooled<'_>, clients: &[&ClientSocket], taken: TakenWindow) -> Vec<Suspect> {
    let inside = clients.iter().filter(|client| {
        let Some(age) = client.request_age else {
            return false;
        };
        let requested = pooled.look.at - age;
        requested >= taken.from - CLOCK_STEP
            && requested <= taken.to + CLOCK_STEP
            && (!taken.exact || same_application(client, pooled.server))
    });
    inside
        .take(MAX_SUSPECTS)
        .map(|client| Suspect {
            identity: Identity::of_client(client),
            request_time: client.request_time.clone(),
            exact: taken.exact,
        })
        .collect()
}

/// SHOW SERVERS keeps the last client's application name after unlink.
fn same_application(client: &ClientSocket, server: &ServerSocket) -> bool {
    match (&client.application_name, &server.application_name) {
        (Some(client), Some(server)) if !client.is_empty() && !server.is_empty() => {
            client == server
        }
        _ => true,
    }
}

/// Whether the backend's last statement is one that takes a session-level
/// advisory lock.
pub fn takes_session_lock(backend: &Backend) -> bool {
    let Some(query) = &backend.query else {
        return false;
    };
    let query = query.to_ascii_lowercase();
    ["pg_advisory_lock", "pg_try_advisory_lock"]
        .iter()
        .any(|call| query.contains(call))
}
