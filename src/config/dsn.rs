//! Connection strings as libpq reads them: a URI, or `key=value` pairs.
//!
//! A string that works with psql means the same here, or is refused with a
//! sentence; it never silently means something else. Invariant: no error
//! quotes a part of the string that could belong to a password.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::problem::nearest;
use super::ssl::{ChannelBinding, ClientCertificate, SslMode};

/// PostgreSQL's registered port.
const POSTGRES_PORT: u16 = 5432;

/// PgBouncer's `listen_port` when its file sets none.
const PGBOUNCER_PORT: u16 = 6432;

/// Long enough for TLS across a continent, short enough that a dead address is
/// noticed within a few polls.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where and as whom to connect. `Debug` and `Display` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    /// A host name, an address, or the directory of a unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    pub ssl_mode: SslMode,
    /// PEM file of the authorities to trust; `None`: the system's.
    pub ssl_root_cert: Option<PathBuf>,
    /// What we show of ourselves to a server that asks for a certificate.
    pub client_certificate: Option<ClientCertificate>,
    pub channel_binding: ChannelBinding,
    pub connect_timeout: Duration,
}

/// Why a connection string is no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    #[error(
        "the dsn is neither a URI such as \"postgresql://user@host:5432/database\" nor \"key=value\" pairs"
    )]
    NoDsn,
    #[error("the dsn has a NUL character in it, which no server takes; remove it")]
    Nul,
    #[error("the dsn names several hosts; write one section for each server")]
    SeveralHosts,
    #[error("the port of the dsn is not a number from 1 to 65535{}", .uri_hint)]
    Port { uri_hint: &'static str },
    #[error(
        "the dsn has an unencoded \"@\" or \"/\" in the user or the password; write %40 or %2F"
    )]
    UnencodedAt,
    #[error("the dsn has a \"%\" that two hexadecimal digits do not follow; write %25 for a \"%\"")]
    PercentEncoding,
    #[error("the IPv6 address of the dsn has no closing \"]\", or text right after it")]
    Brackets,
    #[error("a keyword of the dsn has no \"=\" after it; quote values that contain spaces: 'a b'")]
    NoEquals,
    #[error("a quoted value of the dsn has no closing quote")]
    OpenQuote,
    #[error("the dsn has an unknown keyword \"{keyword}\"{hint}")]
    UnknownKeyword { keyword: String, hint: String },
    #[error(
        "the dsn has an unknown keyword; quote or percent-encode the password if it holds spaces, \"?\" or \"&\""
    )]
    UnknownUnquoted,
    #[error("the dsn keyword \"{keyword}\" is not supported; remove it")]
    Unsupported { keyword: &'static str },
    #[error("sslmode must be disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    #[error("channel_binding must be disable, prefer or require")]
    ChannelBinding,
    #[error(
        "the dsn has only one of sslcert and sslkey; give both, PEM files with the certificate and with its key"
    )]
    HalfCertificate,
    #[error(
        "sslrootcert=system trusts every authority of the system, so the name must be checked too: use sslmode=verify-full, or leave sslmode out"
    )]
    WeakSystem,
    #[error("connect_timeout must be a whole number of seconds from 1 to 300")]
    ConnectTimeout,
    #[error(
        "the dsn has both host and hostaddr; keep host, or hostaddr when no certificate is checked"
    )]
    HostAndAddress,
    #[error("the dsn names no user, and neither PGUSER nor USER is set; write user@host")]
    NoUser,
}

/// Which kind of server a connection string is for: its defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    Pgbouncer,
}

/// A connection string as written, before defaults.
#[derive(Clone, Default)]
pub(super) struct Written {
    host: Option<String>,
    address: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<String>,
    ssl_mode: Option<SslMode>,
    ssl_root_cert: Option<PathBuf>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    channel_binding: ChannelBinding,
    connect_timeout: Option<Duration>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) names_application: bool,
}

/// Keywords of libpq that snowpit does not honour; silence would mislead.
const UNSUPPORTED: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

const SUPPORTED: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "passfile",
];

/// Reads either form.
pub(super) fn parse(text: &str) -> Result<Written, DsnError> {
    let text = text.trim();
    if text.contains('\0') {
        return Err(DsnError::Nul);
    }
    let uri = text
        .strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"));
    match uri {
        Some(rest) => parse_uri(rest),
        None if text.contains("://") && !text.contains([' ', '\'']) => Err(DsnError::NoDsn),
        None if text.contains('=') => parse_pairs(text),
        None => Err(DsnError::NoDsn),
    }
}

fn parse_uri(rest: &str) -> Result<Written, DsnError> {
    let mut written = Written::default();
    // As libpq: credentials are there when an "@" comes before any "/".
    let credentials_end = rest
        .find(['@', '/'])
        .filter(|at| rest[*at..].starts_with('@'));
    let rest = match credentials_end {
        Some(at) => {
            let (user, password) = match rest[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&rest[..at], None),
            };
            written.user = filled(decode(user)?);
            written.password = password.map(decode).transpose()?.and_then(filled);
            &rest[at + 1..]
        }
        None => rest,
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, query),
        None => (rest, ""),
    };
    let (authority, database) = match rest.split_once('/') {
        Some((authority, database)) => (authority, database),
        None => (rest, ""),
    };
    if authority.contains('@') || database.contains('@') {
        return Err(DsnError::UnencodedAt);
    }
    let (host, port) = split_authority(authority)?;
    written.host = filled(decode(host)?);
    if let Some(port) = filled(port.to_owned()) {
        written.port = Some(parse_port(&port, true)?);
    }
    written.database = filled(decode(database)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(DsnError::NoEquals)?;
        let (key, value) = (decode(key)?, decode(value)?);
        // The spelling of JDBC, which libpq also takes.
        if key == "ssl" && value == "true" {
            written.ssl_mode = Some(SslMode::Require);
            continue;
        }
        // An "@" here may mean that this is the rest of a password.
        written.set(&key, value, !query.contains('@'))?;
    }
    Ok(written)
}

fn split_authority(authority: &str) -> Result<(&str, &str), DsnError> {
    if authority.contains(',') {
        return Err(DsnError::SeveralHosts);
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(DsnError::Brackets)?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if after.is_empty() => Ok((host, "")),
            None => Err(DsnError::Brackets),
        };
    }
    Ok(authority.split_once(':').unwrap_or((authority, "")))
}

fn parse_pairs(text: &str) -> Result<Written, DsnError> {
    let mut written = Written::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(DsnError::NoEquals)?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(DsnError::NoEquals);
        }
        let (value, after) = pair_value(after.trim_start())?;
        let quotable = written.password.is_none();
        written.set(key, value, quotable)?;
        rest = after.trim_start();
    }
    Ok(written)
}

/// A value of the pair form, and what follows it. Backslash escapes the next
/// character, inside quotes and outside.
fn pair_value(text: &str) -> Result<(String, &str), DsnError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(DsnError::OpenQuote);
    }
    Ok((value, ""))
}

impl Written {
    /// `quotable`: the key cannot be a piece of a password.
    fn set(&mut self, key: &str, value: String, quotable: bool) -> Result<(), DsnError> {
        match key {
            "host" => self.host = filled(value),
            "hostaddr" => self.address = filled(value),
            "port" => {
                self.port = match filled(value) {
                    Some(port) => Some(parse_port(&port, false)?),
                    None => None,
                }
            }
            "user" => self.user = filled(value),
            "password" => self.password = filled(value),
            "dbname" => self.database = filled(value),
            "sslmode" => self.ssl_mode = Some(SslMode::parse(&value)?),
            "sslrootcert" => self.ssl_root_cert = filled(value).map(PathBuf::from),
            "sslcert" => self.ssl_cert = filled(value).map(PathBuf::from),
            "sslkey" => self.ssl_key = filled(value).map(PathBuf::from),
            "channel_binding" => self.channel_binding = ChannelBinding::parse(&value)?,
            "connect_timeout" => self.connect_timeout = Some(parse_timeout(&value)?),
            "application_name" => self.names_application = true,
            "passfile" => self.passfile = filled(value).map(PathBuf::from),
            other => return Err(refuse(other, quotable)),
        }
        Ok(())
    }

    /// Fills in the defaults of libpq, and those of a PgBouncer console. The
    /// password is still only that of the string itself.
    pub(super) fn resolve(
        &self,
        kind: Kind,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Dsn, DsnError> {
        let variable = |name: &str| environment(name).and_then(filled);
        let host = match (&self.host, &self.address) {
            (Some(_), Some(_)) => return Err(DsnError::HostAndAddress),
            (Some(given), None) | (None, Some(given)) => given.clone(),
            (None, None) => variable("PGHOST").unwrap_or_else(|| "localhost".to_owned()),
        };
        if host.contains(',') {
            return Err(DsnError::SeveralHosts);
        }
        let user = self
            .user
            .clone()
            .or_else(|| variable("PGUSER"))
            .or_else(|| variable("USER"))
            .ok_or(DsnError::NoUser)?;
        let client_certificate = match (&self.ssl_cert, &self.ssl_key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (None, None) => None,
            _ => return Err(DsnError::HalfCertificate),
        };
        let (ssl_mode, ssl_root_cert) = self.trust()?;
        let (port, database) = match kind {
            Kind::Postgres => (
                POSTGRES_PORT,
                variable("PGDATABASE").unwrap_or_else(|| user.clone()),
            ),
            Kind::Pgbouncer => (PGBOUNCER_PORT, super::PGBOUNCER_CONSOLE.to_owned()),
        };
        Ok(Dsn {
            host,
            port: self.port.unwrap_or(port),
            user,
            password: self.password.clone(),
            database: self.database.clone().unwrap_or(database),
            ssl_mode,
            ssl_root_cert,
            client_certificate,
            channel_binding: self.channel_binding,
            connect_timeout: self.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        })
    }

    /// How much is verified, and against which file. `system` is libpq's word for
    /// the authorities of the system, and goes with `verify-full` only.
    fn trust(&self) -> Result<(SslMode, Option<PathBuf>), DsnError> {
        let system = self.ssl_root_cert.as_deref() == Some(Path::new("system"));
        match self.ssl_mode {
            _ if !system => Ok((
                self.ssl_mode.unwrap_or_default(),
                self.ssl_root_cert.clone(),
            )),
            None | Some(SslMode::VerifyFull) => Ok((SslMode::VerifyFull, None)),
            Some(_) => Err(DsnError::WeakSystem),
        }
    }
}

fn refuse(keyword: &str, quotable: bool) -> DsnError {
    if let Some(keyword) = UNSUPPORTED.iter().find(|known| **known == keyword) {
        return DsnError::Unsupported { keyword };
    }
    let plain = keyword.len() <= 32 && keyword.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !quotable || !plain {
        return DsnError::UnknownUnquoted;
    }
    DsnError::UnknownKeyword {
        keyword: keyword.to_owned(),
        hint: nearest(keyword, SUPPORTED.iter().copied()),
    }
}

fn filled(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

fn parse_port(text: &str, in_uri: bool) -> Result<u16, DsnError> {
    let uri_hint = if in_uri {
        "; a \"/\", \":\" or \"?\" in a password must be percent-encoded"
    } else {
        ""
    };
    if text.contains(',') {
        return Err(DsnError::SeveralHosts);
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(DsnError::Port { uri_hint }),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, DsnError> {
    match text.trim().parse() {
        Ok(seconds @ 1..=300) => Ok(Duration::from_secs(seconds)),
        _ => Err(DsnError::ConnectTimeout),
    }
}

fn decode(text: &str) -> Result<String, DsnError> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit) || digits == b"00" {
            return Err(DsnError::PercentEncoding);
        }
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| DsnError::PercentEncoding)
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KEEP: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        let encode = |text| utf8_percent_encode(text, KEEP);
        write!(f, "postgresql://{}@", encode(&self.user))?;
        // With a zone, perhaps; the directory of a socket may have a colon too.
        let address = self.host.split('%').next().unwrap_or_default();
        if address.parse::<Ipv6Addr>().is_ok() {
            let host = utf8_percent_encode(&self.host, const { &KEEP.remove(b':') });
            write!(f, "[{host}]")?;
        } else {
            write!(f, "{}", encode(&self.host))?;
        }
        write!(f, ":{}/{}", self.port, encode(&self.database))
    }
}
