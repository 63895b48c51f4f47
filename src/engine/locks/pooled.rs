//! Which pooler's server connection a backend is.
//!
//! `SHOW SERVERS.remote_pid` is the backend's pid, but a pooler may also serve
//! other PostgreSQL servers whose pids collide, and behind another pooler the
//! number is random. So the pid is only believed together with the TCP port of
//! the connection, or, where that cannot be compared (unix socket, NAT), when
//! database and user agree and the pooler has one server address only.

use crate::sample::{Backend, ClientSocket, PgbouncerReport, ServerSocket, UnixSeconds};

/// The newest look at a pooler that stands in front of the target.
#[derive(Debug, Clone, Copy)]
pub struct PoolerLook<'a> {
    pub at: UnixSeconds,
    /// False when its newest poll failed or is long ago.
    pub fresh: bool,
    pub report: &'a PgbouncerReport,
}

/// Where a backend's connection was found.
#[derive(Debug)]
pub enum Match<'a> {
    Found(Pooled<'a>),
    /// More than one row could be it: no verdict.
    Ambiguous,
    None,
}

/// A server connection of a pooler.
#[derive(Debug, Clone, Copy)]
pub struct Pooled<'a> {
    pub look: PoolerLook<'a>,
    pub server: &'a ServerSocket,
}

impl<'a> Pooled<'a> {
    /// `session`, `transaction` or `statement`, as the pool says, else the
    /// database, else the pooler; `None` when none of them does.
    pub fn mode(&self) -> Option<&'a str> {
        let report = self.look.report;
        let pool = report
            .pools
            .iter()
            .find(|pool| pool.database == self.server.database && pool.user == self.server.user);
        let database = report
            .databases
            .iter()
            .find(|database| database.name == self.server.database);
        pool.map(|pool| pool.pool_mode.as_str())
            .filter(|mode| !mode.is_empty())
            .or_else(|| database.and_then(|database| database.pool_mode.as_deref()))
            .or_else(|| {
                report
                    .config
                    .as_ref()
                    .map(|config| config.pool_mode.as_str())
            })
            .filter(|mode| !mode.is_empty())
    }

    /// The clients of the same pool, where they were read.
    pub fn clients(&self) -> Option<impl Iterator<Item = &'a ClientSocket>> {
        let server = self.server;
        let clients = self.look.report.clients.as_ref()?;
        Some(
            clients.iter().filter(move |client| {
                client.database == server.database && client.user == server.user
            }),
        )
    }

    /// The client that has the server now, where clients were read.
    pub fn linked_client(&self) -> Option<&'a ClientSocket> {
        let server = self.server;
        self.clients()?
            .find(|client| !server.link.is_empty() && client.ptr == server.link)
    }
}

/// The server connections of all fresh looks.
#[derive(Debug)]
pub struct Servers<'a> {
    /// In the order of the pid that they tell, and then of the looks.
    by_pid: Vec<Candidate<'a>>,
}

#[derive(Debug)]
struct Candidate<'a> {
    pooled: Pooled<'a>,
    /// The pooler has one server address only.
    single_address: bool,
}

impl<'a> Servers<'a> {
    pub fn of(looks: &[PoolerLook<'a>]) -> Self {
        let mut by_pid = Vec::new();
        for look in looks.iter().filter(|look| look.fresh) {
            let single_address = single_address(look.report);
            by_pid.extend(look.report.servers.iter().map(|server| Candidate {
                pooled: Pooled {
                    look: *look,
                    server,
                },
                single_address,
            }));
        }
        by_pid.sort_by_key(|candidate| candidate.pooled.server.remote_pid);
        Self { by_pid }
    }

    fn of_pid(&self, pid: i32) -> &[Candidate<'a>] {
        let of = |candidate: &Candidate<'a>| candidate.pooled.server.remote_pid;
        let begin = self.by_pid.partition_point(|candidate| of(candidate) < pid);
        let found = &self.by_pid[begin..];
        &found[..found.partition_point(|candidate| of(candidate) == pid)]
    }

    /// Finds the server connection of `backend`.
    pub fn find(&self, backend: &Backend) -> Match<'a> {
        let mut by_port = Only::None;
        let mut by_name = Only::None;
        let mut doubtful = false;
        for candidate in self.of_pid(backend.pid) {
            let pooled = candidate.pooled;
            if same_port(backend, pooled.server) {
                by_port.add(pooled);
            } else if agrees(backend, &pooled) {
                if candidate.single_address {
                    by_name.add(pooled);
                } else {
                    doubtful = true;
                }
            }
        }
        match (by_port, by_name) {
            (Only::One(pooled), _) | (Only::None, Only::One(pooled)) => Match::Found(pooled),
            (Only::None, Only::None) if !doubtful => Match::None,
            _ => Match::Ambiguous,
        }
    }
}

/// What was found, as long as it is one.
enum Only<'a> {
    None,
    One(Pooled<'a>),
    Several,
}

impl<'a> Only<'a> {
    fn add(&mut self, pooled: Pooled<'a>) {
        *self = match self {
            Self::None => Self::One(pooled),
            Self::One(_) | Self::Several => Self::Several,
        };
    }
}

fn same_port(backend: &Backend, server: &ServerSocket) -> bool {
    backend
        .client_port
        .and_then(|port| u16::try_from(port).ok())
        .is_some_and(|port| port != 0 && port == server.local_port)
}

/// Database and user are the same, as far as both are known: an oid in place of
/// a name is a name that is not known yet.
fn agrees(backend: &Backend, pooled: &Pooled<'_>) -> bool {
    let server = pooled.server;
    let entry = pooled
        .look
        .report
        .databases
        .iter()
        .find(|database| database.name == server.database);
    let database = entry.map_or(server.database.as_str(), |entry| &entry.database);
    let user = entry
        .and_then(|entry| entry.force_user.as_deref())
        .unwrap_or(&server.user);
    let oid = |text: &str| text.parse::<u32>().is_ok();
    let same = |known: &Option<String>, name: &str| {
        let known = known.as_deref();
        known.is_none_or(|known| known == name || oid(known))
    };
    same(&backend.database, database) && same(&backend.user, user)
}

fn single_address(report: &PgbouncerReport) -> bool {
    let mut addresses = report
        .servers
        .iter()
        .map(|server| (&server.addr, server.port));
    let first = addresses.next();
    addresses.all(|address| Some(address) == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(remote_pid: i32, local_port: u16, port: u16) -> ServerSocket {
        ServerSocket {
            database: "app".into(),
            user: "app".into(),
            addr: "10.0.0.1".into(),
            port,
            remote_pid,
            local_port,
            ..ServerSocket::default()
        }
    }

    fn backend(client_port: i32) -> Backend {
        Backend {
            pid: 4711,
            database: Some("app".into()),
            user: Some("app".into()),
            client_port: Some(client_port),
            ..Backend::default()
        }
    }

    fn matched(backend: &Backend, servers: Vec<ServerSocket>) -> &'static str {
        let report = PgbouncerReport {
            servers,
            ..PgbouncerReport::default()
        };
        let look = PoolerLook {
            at: 0.0,
            fresh: true,
            report: &report,
        };
        match Servers::of(&[look]).find(backend) {
            Match::Found(pooled) if pooled.server.local_port == 52_352 => "by port",
            Match::Found(_) => "by name",
            Match::Ambiguous => "ambiguous",
            Match::None => "none",
        }
    }

    #[test]
    fn the_port_decides_between_servers_with_one_pid() {
        let two = vec![server(4711, 52_352, 5432), server(4711, 40_000, 5433)];
        assert_eq!(matched(&backend(52_352), two.clone()), "by port");
        assert_eq!(matched(&backend(-1), two), "ambiguous");
    }

    #[test]
    fn behind_nat_the_names_must_agree() {
        assert_eq!(matched(&backend(1), vec![server(4711, 2, 5432)]), "by name");
        let mut other = backend(1);
        other.database = Some("billing".into());
        assert_eq!(matched(&other, vec![server(4711, 2, 5432)]), "none");
        assert_eq!(matched(&backend(1), vec![server(4712, 2, 5432)]), "none");
    }
}
