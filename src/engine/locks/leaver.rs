//! Who left a lock on a pooled server, and whether that client is still there.
//!
//! A lock that nobody can release (`orphaned`) and one whose client is merely
//! on another server (`stranded`) look alike in `pg_locks`. What tells them
//! apart, strongest first:
//!
//! 1. The client that had the server while a transaction was open in which the
//!    lock was taken: the statement in it names the key, or the transaction is
//!    older than the lock. It is known by `id` (PgBouncer 1.24+), else by `ptr`
//!    and `connect_time`: `ptr` alone is reused as soon as a client is gone.
//! 2. Clients of the same pool that have been quiet since the lock was taken,
//!    and whose last request is the very statement that took it, as far as key,
//!    time and application name can say. A client that goes on elsewhere is no
//!    suspect any more, or the spinning peers of a dead client would hide its
//!    orphan for as long as they spin; only a single one that goes on using this
//!    very server is taken to work under its own lock.
//! 3. Where that statement was not seen: all clients that made their last
//!    request when it may have been, or when its transaction ended
//!    ([`super::taking`]). That is weak. It holds for [`WEAK_SECONDS`], and so
//!    does a crowd of more than [`MAX_SUSPECTS`]: application pools open dozens
//!    of connections in the second in which they start, and leave them idle for
//!    hours.
//!
//! When no such client is connected, the lock is orphaned.

use super::calls::Takes;
use super::pooled::Pooled;
use super::taking::Window;
use crate::sample::{ClientSocket, ServerSocket, UnixSeconds};

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
    /// Was linked while the lock was held; with what its statements and its
    /// transaction say of having taken it.
    Linked(Identity, Takes),
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
    pub fn linked(&mut self, link: Identity, takes: Takes) -> bool {
        match self {
            Self::Linked(known, took) if known.same(&link) => {
                *took = takes.max(*took);
                if known.connect_time.is_none() {
                    *known = link;
                }
            }
            Self::Linked(_, took) if *took > Takes::No && takes < Takes::Surely => return false,
            Self::Linked(..) | Self::Contested if takes == Takes::No => *self = Self::Contested,
            _ => *self = Self::Linked(link, takes),
        }
        true
    }

    /// Looks for the leaver among the pool's clients. `pooled` is the unlinked
    /// server that holds the lock.
    pub fn presence<'a>(
        &mut self,
        pooled: &Pooled<'_>,
        windows: impl FnOnce() -> Vec<Window<'a>>,
    ) -> Presence {
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
            Self::Linked(identity, takes) if *takes > Takes::No && connected(identity) => {
                return Presence::Connected;
            }
            // The one that took it is gone: nobody else is asked.
            Self::Linked(_, Takes::Surely) => *self = Self::Gone,
            Self::Linked(..) | Self::Unseen | Self::Contested => {
                let mut found = suspects(pooled, &clients, &windows());
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

fn suspects(
    pooled: &Pooled<'_>,
    clients: &[&ClientSocket],
    windows: &[Window<'_>],
) -> Vec<Suspect> {
    clients
        .iter()
        // Who has another server made its last request there.
        .filter(|client| client.link.is_empty())
        .filter_map(|client| {
            let mut fitting = windows
                .iter()
                .filter(|window| window.covers(pooled.look.at, client));
            let first = fitting.next()?;
            Some(Suspect {
                exact: first.exact || fitting.any(|window| window.exact),
                ..Suspect::weak(client)
            })
        })
        .take(MAX_KEPT)
        .collect()
}

impl Window<'_> {
    /// Whether the client's last request may have been in it. `at` is when the
    /// clients were read.
    fn covers(&self, at: UnixSeconds, client: &ClientSocket) -> bool {
        if !same_application(client, self.application) {
            return false;
        }
        // Across a change of daylight saving time nobody can tell.
        let Some(age) = client.request_age else {
            return true;
        };
        // Both times were cut to whole seconds, so the difference is of those.
        let from = at.floor() - age - SLACK;
        let to = at.floor() - age + 1.0 + SLACK;
        to >= self.from && from <= self.to
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
