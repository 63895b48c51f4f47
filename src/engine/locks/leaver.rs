//! Who left a lock on a pooled server, and whether that client is still there.
//!
//! A lock that nobody can release (`orphaned`) and one whose client is merely
//! on another server (`stranded`) look alike in `pg_locks`. What tells them
//! apart, strongest first:
//!
//! 1. The client was seen linked to the server while the lock was held. It is
//!    known by `id` (PgBouncer 1.24+), else by `ptr` and `connect_time`: `ptr`
//!    alone is reused as soon as a client is gone. It counts when its statement
//!    takes session locks, or its transaction was open before the lock was
//!    there: in a busy pool somebody has the server at any time.
//! 2. Clients of the same pool that have been quiet since the lock was taken,
//!    and whose last request is the very statement that took it, as far as time
//!    and application name can say. A client that goes on elsewhere is no
//!    suspect any more, or the spinning peers of a dead client would hide its
//!    orphan for as long as they spin; only a single one that goes on using this
//!    very server is taken to work under its own lock.
//! 3. Where other statements have run on the server since: all clients that
//!    made their last request between the two polls in which the lock appeared.
//!    That is weak. It holds for [`WEAK_SECONDS`], and so does a crowd of more
//!    than [`MAX_SUSPECTS`]: application pools open dozens of connections in
//!    the second in which they start, and leave them idle for hours.
//!
//! When no such client is connected, the lock is orphaned.

use super::pooled::Pooled;
use crate::sample::{Backend, ClientSocket, ServerSocket, UnixSeconds};

/// Two times that PgBouncer prints in whole seconds differ by up to one second
/// more or less than they should; half a second is for what lies between the
/// readings.
const STEP: f64 = 1.5;
/// How far the clocks of pooler, server and ours may be apart, and how long a
/// request may be on its way.
const SLACK: f64 = 0.5;
/// More quiet clients than this accuse nobody for long.
const MAX_SUSPECTS: usize = 3;
/// How long weak evidence that the leaver is still there holds back the word
/// that nobody has the lock. Longer than the pauses of a client that spins.
const WEAK_SECONDS: f64 = 15.0;
/// Clients kept as suspects. A crowd only has to outlast its own quiet.
const MAX_KEPT: usize = 1_000;

/// What is known of the client that left a lock behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Leaver {
    /// Nobody was seen with the lock, and clients were not read yet.
    #[default]
    Unseen,
    /// Was linked while the lock was held; `true` when its statement or its
    /// transaction says that it took it.
    Linked(Identity, bool),
    /// Several clients had the server, one after the other, and none was seen
    /// to take the lock.
    Contested,
    /// One of these, all still connected and quiet when last read.
    Suspects(Vec<Suspect>, Reading),
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

/// When the lock may have been taken, on our own clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Taken<'a> {
    /// By the server's last statement.
    Statement {
        began: UnixSeconds,
        ended: UnixSeconds,
        /// The backend's application name, read together with the statement:
        /// PgBouncer sets it to that of the client it serves. SHOW SERVERS has
        /// it too, but is read later, when another client may have been served.
        application: Option<&'a str>,
    },
    /// Between two polls.
    Between(UnixSeconds, UnixSeconds),
}

/// The looks whose clients the suspects were held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    first: UnixSeconds,
    last: UnixSeconds,
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

    /// Whether both are one client, as far as is known of them.
    pub fn same(&self, other: &Self) -> bool {
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
            Self::Linked(identity, _) => identity.same(link),
            Self::Suspects(suspects, _) => suspects.iter().any(|s| s.identity.same(link)),
            Self::Unseen | Self::Contested | Self::Gone => false,
        }
    }

    /// A client has the server in a transaction while the lock is held, and the
    /// lock was never seen left. `false` when the lock outlived the client that
    /// took it: this is another one.
    pub fn linked(&mut self, link: Identity, takes_lock: bool) -> bool {
        match self {
            Self::Linked(known, took) if known.same(&link) => {
                *took |= takes_lock;
                if known.connect_time.is_none() {
                    *known = link;
                }
            }
            Self::Linked(_, true) if !takes_lock => return false,
            Self::Linked(..) | Self::Contested if !takes_lock => *self = Self::Contested,
            _ => *self = Self::Linked(link, takes_lock),
        }
        true
    }

    /// Looks for the leaver among the pool's clients. `pooled` is the unlinked
    /// server that holds the lock.
    pub fn presence(&mut self, pooled: &Pooled<'_>, taken: Option<Taken<'_>>) -> Presence {
        let Some(clients) = pooled.clients() else {
            return match self {
                Self::Gone => Presence::Gone,
                // The clients will never be read: a lock whose taker was never
                // seen is then what it looks like.
                Self::Unseen | Self::Contested if pooled.look.report.too_many_clients => {
                    Presence::Gone
                }
                _ => Presence::Undecided,
            };
        };
        if *self == Self::Gone {
            return Presence::Gone;
        }
        if pooled.look.report.truncated {
            // Who is not in a list that was cut may still be connected.
            return Presence::Undecided;
        }
        let clients: Vec<_> = clients.collect();
        let connected = |identity: &Identity| clients.iter().any(|c| identity.is(c, pooled.server));
        match self {
            Self::Linked(identity, true) if connected(identity) => return Presence::Connected,
            // The one that took it is gone: nobody else is asked.
            Self::Linked(_, true) => *self = Self::Gone,
            Self::Linked(..) | Self::Unseen | Self::Contested => {
                let mut found =
                    taken.map_or_else(Vec::new, |taken| suspects(pooled, &clients, taken));
                // Having had the server is as weak as a request in that time.
                if let Self::Linked(identity, _) = self {
                    let seen = clients.iter().filter(|c| identity.is(c, pooled.server));
                    found.extend(seen.map(|client| Suspect::weak(client)));
                }
                let (first, last) = (pooled.look.at, pooled.look.at);
                *self = Self::Suspects(found, Reading { first, last });
            }
            // Another time, not a later one: clocks are set back.
            Self::Suspects(suspects, reading) if reading.last != pooled.look.at => {
                reading.first = reading.first.min(pooled.look.at);
                let alone = suspects.len() == 1;
                suspects.retain(|suspect| suspect.stays(&clients, pooled.server, alone));
                reading.last = pooled.look.at;
            }
            Self::Suspects(..) | Self::Gone => {}
        }
        self.weigh()
    }

    /// Drops suspicions that are too old for what they rest on.
    fn weigh(&mut self) -> Presence {
        if let Self::Suspects(suspects, reading) = self {
            if reading.last - reading.first >= WEAK_SECONDS {
                suspects.retain(|suspect| suspect.exact);
                if suspects.len() > MAX_SUSPECTS {
                    suspects.clear();
                }
            }
            if suspects.is_empty() {
                *self = Self::Gone;
            }
        }
        match self {
            Self::Gone => Presence::Gone,
            _ => Presence::Connected,
        }
    }
}

impl Suspect {
    fn weak(client: &ClientSocket) -> Self {
        Self {
            identity: Identity::of_client(client),
            request_time: client.request_time.clone(),
            exact: false,
        }
    }

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
        (Some(client), Some(server)) => (client - server).abs() <= STEP,
        _ => false,
    }
}

fn suspects(pooled: &Pooled<'_>, clients: &[&ClientSocket], taken: Taken<'_>) -> Vec<Suspect> {
    let exact = matches!(taken, Taken::Statement { .. });
    clients
        .iter()
        // Who has another server made its last request there.
        .filter(|client| client.link.is_empty())
        .filter(|client| taken.covers(pooled.look.at, client))
        .map(|client| Suspect {
            exact,
            ..Suspect::weak(client)
        })
        .take(MAX_KEPT)
        .collect()
}

impl Taken<'_> {
    /// Whether the client's last request may have been the one. `at` is when
    /// the clients were read.
    fn covers(self, at: UnixSeconds, client: &ClientSocket) -> bool {
        if let Self::Statement { application, .. } = self
            && !same_application(client, application)
        {
            return false;
        }
        // Across a change of daylight saving time nobody can tell.
        let Some(age) = client.request_age else {
            return true;
        };
        // Both times were cut to whole seconds, so the difference is of those.
        let from = at.floor() - age - SLACK;
        let to = at.floor() - age + 1.0 + SLACK;
        let inside = |t: UnixSeconds| t >= from && t <= to;
        match self {
            // The extended protocol ends with a message of the client.
            Self::Statement { began, ended, .. } => inside(began) || inside(ended),
            Self::Between(before, after) => to >= before && from <= after,
        }
    }
}

/// Names that are not set, or not shown (before 1.18), tell nothing.
fn same_application(client: &ClientSocket, application: Option<&str>) -> bool {
    let own = client
        .application_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let other = application.filter(|name| !name.is_empty());
    own.zip(other).is_none_or(|(own, other)| own == other)
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
