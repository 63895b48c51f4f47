//! Why a server could not be looked at, and what a person can do about it.
//!
//! Both kinds of server speak one protocol, so one place turns the driver's
//! errors into a [`PollError`]: a reason that can be counted and one sentence
//! that says what is wrong and how to mend it. The sentence never carries a
//! password or the text of a statement.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use crate::config::Dsn;
use crate::observe::PollError;
use crate::sample::FailureReason;

/// Longest text of a server that is passed on, in characters. A server's own
/// message is a sentence; anything longer is not meant for a log line.
const MAX_SERVER_TEXT: usize = 300;

/// What the configuration says is listening at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Postgres,
    /// The admin console of a PgBouncer.
    Pgbouncer,
}

impl Expected {
    fn noun(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Pgbouncer => "PgBouncer",
        }
    }
}

/// How much a failed attempt at one of several addresses says, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing came back.
    Silence,
    /// Nobody listens, there is no route, or the connection was closed at once.
    Refusal,
    /// A server that takes no connections now: it starts or shuts down.
    Away,
    /// A server said no, or what it said is no login.
    Answer,
}

impl Standing {
    pub fn of(error: &tokio_postgres::Error) -> Self {
        match (error.as_db_error(), io_cause(error)) {
            (Some(said), _) if of_sqlstate(said) == FailureReason::Refused => Self::Away,
            (Some(_), _) => Self::Answer,
            (None, Some(cause)) if cause.kind() == ErrorKind::TimedOut => Self::Silence,
            (None, Some(_)) => Self::Refusal,
            (None, None) if error.is_closed() => Self::Refusal,
            (None, None) => Self::Answer,
        }
    }
}

/// Says why connecting failed.
pub fn connecting(error: tokio_postgres::Error, dsn: &Dsn, expected: Expected) -> PollError {
    let verdict = if let Some(db) = error.as_db_error() {
        refusal(db, dsn, expected)
    } else if let Some(io) = io_cause(&error) {
        transport(io, dsn, expected)
    } else {
        handshake(&error, dsn, expected)
    };
    with_source(verdict, error)
}

/// Says why a statement failed on a session that had been opened. `doing` is
/// what was attempted, for example `reading pg_locks`.
pub fn asking(error: tokio_postgres::Error, dsn: &Dsn, doing: &str) -> PollError {
    let verdict = if let Some(db) = error.as_db_error() {
        let text = one_line(db.message());
        match of_sqlstate(db) {
            FailureReason::Timeout => PollError::new(
                FailureReason::Timeout,
                format!(
                    "{doing} on {dsn} took too long ({text}): the server is overloaded or a lock is in the way"
                ),
            ),
            FailureReason::Permission => PollError::new(
                FailureReason::Permission,
                format!(
                    "{doing} on {dsn} is not allowed ({text}): grant pg_monitor to role {}",
                    dsn.user
                ),
            ),
            reason => PollError::new(reason, format!("{doing} on {dsn} failed: {text}")),
        }
    } else if error.is_closed() || io_cause(&error).is_some() {
        PollError::new(
            FailureReason::Refused,
            format!(
                "{dsn} closed the connection: the server went down, restarted, or ended the session; it is tried again"
            ),
        )
    } else {
        PollError::new(
            FailureReason::Protocol,
            format!("{doing} on {dsn} got an answer that was not understood ({error})"),
        )
    };
    with_source(verdict, error)
}

/// The time that a poll may take is over.
pub fn timed_out(dsn: &Dsn, seconds: f64) -> PollError {
    PollError::new(
        FailureReason::Timeout,
        format!(
            "{dsn} did not answer within {seconds} s: look for an overloaded server, a firewall that drops packets, or another program on that port"
        ),
    )
}

/// A server took the connection, and the login is not over after `waited`.
/// `logins` of them are under way.
pub fn not_let_in(dsn: &Dsn, expected: Expected, waited: Duration, logins: usize) -> PollError {
    let why = match expected {
        Expected::Postgres => {
            "it is stopped or overloaded, a session holds a lock on pg_authid or pg_database \
             (end that), a firewall drops packets, or another program is on that port"
        }
        Expected::Pgbouncer => {
            "it is stopped or overloaded, a firewall drops packets, or another program is on that port"
        }
    };
    PollError::new(
        FailureReason::Timeout,
        format!(
            "{dsn} did not answer within {:.0} s and lets nobody in: {why}; {logins} of our logins \
             wait there, and no more are made meanwhile",
            waited.as_secs_f64()
        ),
    )
}

/// A server's own words on one line, without control characters, bounded.
pub fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_SERVER_TEXT)
        .collect();
    line.truncate(line.trim_end().len());
    line
}

fn with_source(mut verdict: PollError, error: tokio_postgres::Error) -> PollError {
    verdict.source = Some(Box::new(error));
    verdict
}

/// The innermost cause, when it is an operating system's or a stream's error.
/// An error of TLS is wrapped in an [`io::Error`] too and is left to
/// [`handshake`].
fn io_cause(error: &tokio_postgres::Error) -> Option<&io::Error> {
    let words = error.to_string();
    if words.contains("TLS") || words.contains("parsing") {
        return None;
    }
    error.source()?.downcast_ref::<io::Error>()
}

fn transport(error: &io::Error, dsn: &Dsn, expected: Expected) -> PollError {
    let (host, port, noun) = (&dsn.host, dsn.port, expected.noun());
    // A server of TLS 1.3 refuses our certificate after the handshake.
    let alert = error.get_ref().and_then(|e| e.downcast_ref());
    if let Some(rustls::Error::AlertReceived(_)) = alert {
        return tls(&one_line(&error.to_string()), dsn, expected);
    }
    let (reason, message) = match error.kind() {
        ErrorKind::ConnectionRefused => (
            FailureReason::Refused,
            format!(
                "nothing listens on {host}:{port}: start {noun} or correct host and port in the dsn"
            ),
        ),
        ErrorKind::NotFound if host.starts_with('/') => (
            FailureReason::Refused,
            format!(
                "there is no socket .s.PGSQL.{port} in {host}: start {noun} or correct host and port in the dsn"
            ),
        ),
        ErrorKind::TimedOut => (
            FailureReason::Timeout,
            format!("{host}:{port} did not answer in time: correct the host or open the firewall"),
        ),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => (
            FailureReason::Refused,
            format!(
                "there is no route to {host}:{port}: correct the host in the dsn or mend the network"
            ),
        ),
        ErrorKind::PermissionDenied => (
            FailureReason::Permission,
            format!(
                "the operating system does not allow a connection to {host}:{port}: mend the rights on the socket"
            ),
        ),
        // What stands before a server that is down does so as well: a virtual
        // address, a balancer.
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => (
            FailureReason::Refused,
            format!(
                "{host}:{port} closed the connection during login: it is restarting, or it is no {noun}; check host and port in the dsn"
            ),
        ),
        // The rest of a greeting that is no message.
        _ if error.to_string().contains("bytes remaining on stream") => {
            (FailureReason::Protocol, stranger(dsn, expected))
        }
        ErrorKind::InvalidData | ErrorKind::InvalidInput => {
            (FailureReason::Protocol, stranger(dsn, expected))
        }
        // A decoder that was left with half a message.
        _ if error.to_string().contains("bytes remaining") => {
            (FailureReason::Protocol, stranger(dsn, expected))
        }
        _ if error.to_string().contains("lookup address") => (
            FailureReason::Other,
            format!("the host name {host} does not resolve: correct the host in the dsn"),
        ),
        _ => (
            FailureReason::Other,
            format!(
                "connecting to {host}:{port} failed: {}",
                one_line(&error.to_string())
            ),
        ),
    };
    PollError::new(reason, message)
}

/// The driver tells its own kinds of error apart only by their fixed words.
fn handshake(error: &tokio_postgres::Error, dsn: &Dsn, expected: Expected) -> PollError {
    let words = error.to_string();
    let cause = error
        .source()
        .map(|e| one_line(&e.to_string()))
        .unwrap_or_default();
    if words.contains("TLS") {
        return tls(&cause, dsn, expected);
    }
    if cause.contains("password missing") {
        return PollError::new(
            FailureReason::Auth,
            format!(
                "{dsn} wants a password and none is configured: set password_file, PGPASSFILE, or put it in the dsn"
            ),
        );
    }
    if cause.contains("channel binding") {
        return PollError::new(
            FailureReason::Auth,
            format!(
                "login to {dsn} failed ({cause}): the server has to offer SCRAM-SHA-256-PLUS over TLS (PgBouncer does not), or take channel_binding=require out of the dsn"
            ),
        );
    }
    if words.contains("authentication") || cause.contains("authentication") {
        return PollError::new(
            FailureReason::Auth,
            format!(
                "login to {dsn} failed ({cause}): use password, md5 or SCRAM authentication for this role"
            ),
        );
    }
    if error.is_closed() {
        return PollError::new(
            FailureReason::Refused,
            format!(
                "{}:{} closed the connection during login: it is restarting, or it is no {}; check host and port in the dsn",
                dsn.host,
                dsn.port,
                expected.noun()
            ),
        );
    }
    PollError::new(FailureReason::Protocol, stranger(dsn, expected))
}

fn tls(cause: &str, dsn: &Dsn, expected: Expected) -> PollError {
    if cause.contains("does not support TLS") {
        return PollError::new(
            FailureReason::Tls,
            format!(
                "{dsn} does not offer TLS: turn it on there, or use sslmode=prefer on a trusted network"
            ),
        );
    }
    // An SSH server greets with an `S`, which reads as "TLS is welcome".
    if cause.contains("corrupt message") {
        return PollError::new(FailureReason::Protocol, stranger(dsn, expected));
    }
    // What the server has to say of our certificate comes as an alert.
    let remedy = if cause.contains("fatal alert") {
        "check sslcert and sslkey, and the authorities that the server trusts"
    } else {
        "check sslmode, sslrootcert and the names in the server's certificate"
    };
    PollError::new(
        FailureReason::Tls,
        format!("TLS with {dsn} failed ({cause}): {remedy}"),
    )
}

fn stranger(dsn: &Dsn, expected: Expected) -> String {
    format!(
        "what listens on {}:{} does not speak the PostgreSQL protocol, so it is no {}: correct host and port in the dsn",
        dsn.host,
        dsn.port,
        expected.noun()
    )
}

/// The server itself said no.
fn refusal(error: &DbError, dsn: &Dsn, expected: Expected) -> PollError {
    let text = one_line(error.message());
    let reason = of_sqlstate(error);
    let message = match reason {
        FailureReason::TooManyConnections => format!(
            "{dsn} has no free connection slot ({text}): close sessions, or raise the limit or grant reserved slots to role {}",
            dsn.user
        ),
        FailureReason::Auth => format!(
            "{dsn} refused the login ({text}): correct user and password, or the server's {}",
            match expected {
                Expected::Postgres => "pg_hba.conf",
                Expected::Pgbouncer => "auth_file and stats_users",
            }
        ),
        FailureReason::Tls => {
            format!("{dsn} wants TLS ({text}): use sslmode=require or stronger in the dsn")
        }
        FailureReason::Refused => {
            format!("{dsn} takes no connections now ({text}): wait until it is up")
        }
        FailureReason::Permission => {
            format!(
                "{dsn} does not let role {} in ({text}): grant it CONNECT and LOGIN",
                dsn.user
            )
        }
        FailureReason::Protocol => format!(
            "{dsn} is a PgBouncer, not PostgreSQL ({text}): give the server's own address under [[postgres]] and this one under [[pgbouncer]]"
        ),
        _ if *error.code() == SqlState::INVALID_CATALOG_NAME
            || text.contains("no such database") =>
        {
            format!(
                "{dsn}: the database does not exist there ({text}): correct the database in the dsn"
            )
        }
        _ => format!("{dsn} refused the connection: {text}"),
    };
    PollError::new(reason, message)
}

/// The reason behind a SQLSTATE. PgBouncer sends 08P01 for nearly everything,
/// so its words decide there.
fn of_sqlstate(error: &DbError) -> FailureReason {
    let text = error.message();
    match error.code().code() {
        // The limit of one role or one database says nothing about the slots of
        // the server; the words are translated, the names of routines are not.
        "53300"
            if matches!(
                error.routine(),
                Some("InitializeSessionUserId" | "CheckMyDatabase")
            ) =>
        {
            FailureReason::Other
        }
        "53300" => FailureReason::TooManyConnections,
        "28P01" | "28000" => FailureReason::Auth,
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => FailureReason::Refused,
        "57014" | "55P03" => FailureReason::Timeout,
        "42501" => FailureReason::Permission,
        _ if text.contains("unsupported startup parameter") => FailureReason::Protocol,
        _ if text.contains("SSL required") => FailureReason::Tls,
        _ if text.contains("no more connections allowed") => FailureReason::TooManyConnections,
        _ if [
            "no such user",
            "authentication failed",
            "login rejected",
            "not allowed",
            "auth failed",
        ]
        .iter()
        .any(|words| text.contains(words)) =>
        {
            FailureReason::Auth
        }
        _ if text.contains("shutting down") || text.contains("server conn crashed") => {
            FailureReason::Refused
        }
        _ => FailureReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_fit_on_one_bounded_line() {
        let line = one_line(&format!("first\nsecond\u{1b}[31m{}", "x".repeat(1000)));
        assert!(line.starts_with("first second [31m"));
        assert_eq!(line.chars().count(), MAX_SERVER_TEXT);
    }
}
