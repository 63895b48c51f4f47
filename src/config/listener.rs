//! `[server]` and `[otlp]`: where snowpit listens, and who may come in.
//!
//! The files of TLS and the token are read once here, so that a mistake in them
//! is told with all others. Invariant: a hash or token is in no message.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use super::DEFAULT_LISTEN;
use super::problem::{Problems, Show};
use super::reader::{Table, Text};
use crate::listen::{AccessConfig, DoorsConfig, Listener, PasswordHash, TlsFiles, WEAK_COST};
use crate::observe::otlp::OtlpConfig;

/// People and programs with a password of their own; more are behind a proxy
/// that knows them.
const MAX_USERS: usize = 100;

/// Longest name of a user, bytes.
const USER_LIMIT: usize = 100;

/// `[server]`
pub(super) struct Server {
    listen: Option<Text>,
    open_health: bool,
    access: Access,
}

/// `[otlp]`
pub(super) struct Otlp {
    grpc_listen: Option<Text>,
    http_listen: Option<Text>,
    access: Access,
}

/// What both sections have.
struct Access {
    tls: Option<Tls>,
    users: Vec<(String, Range<usize>, Text)>,
    bearer_token_file: Option<Text>,
}

/// `tls = { … }`. A required key is absent only when its absence was reported.
struct Tls {
    cert_file: Option<Text>,
    key_file: Option<Text>,
    client_ca_file: Option<Text>,
}

pub(super) fn read_server(table: Table<'_>) -> Server {
    let server = Server {
        listen: table.text("listen"),
        open_health: table.boolean("open_health", true),
        access: read_access(&table),
    };
    table.finish();
    server
}

pub(super) fn read_otlp(table: Table<'_>) -> Otlp {
    let otlp = Otlp {
        grpc_listen: table.text("grpc_listen"),
        http_listen: table.text("http_listen"),
        access: read_access(&table),
    };
    table.finish();
    otlp
}

fn read_access(table: &Table<'_>) -> Access {
    let tls = table.optional_child("tls").map(|table| {
        let tls = Tls {
            cert_file: table.required_text("cert_file"),
            key_file: table.required_text("key_file"),
            client_ca_file: table.text("client_ca_file"),
        };
        table.finish();
        tls
    });
    Access {
        tls,
        users: table.named_texts("users"),
        bearer_token_file: table.text("bearer_token_file"),
    }
}

/// Both sections, checked.
pub(super) struct Checked {
    pub(super) listen: SocketAddr,
    pub(super) otlp: OtlpConfig,
    pub(super) doors: DoorsConfig,
}

pub(super) fn check(server: &Server, otlp: &Otlp, problems: &Problems) -> Checked {
    let checker = Checker { problems };
    let listen = server.listen.as_ref();
    let listen = listen.and_then(|text| checker.address("listen", "9899", text));
    let listen = listen.unwrap_or(DEFAULT_LISTEN);
    let address = |key, port, text: &Option<Text>| {
        text.as_ref()
            .and_then(|text| checker.address(key, port, text))
    };
    let addresses = OtlpConfig {
        grpc_listen: address("grpc_listen", "4317", &otlp.grpc_listen),
        http_listen: address("http_listen", "4318", &otlp.http_listen),
    };
    checker.same_address(listen, otlp, addresses);
    let access = AccessConfig {
        open_health: server.open_health,
        ..checker.access("[server]", &server.access)
    };
    checker.open_to_all("[server] listen", listen, &access, READS);
    let otlp_access = checker.access("[otlp]", &otlp.access);
    let mut listeners = vec![Listener::Server];
    for (listener, key, address) in [
        (Listener::OtlpGrpc, "grpc_listen", addresses.grpc_listen),
        (Listener::OtlpHttp, "http_listen", addresses.http_listen),
    ] {
        if let Some(address) = address {
            listeners.push(listener);
            checker.open_to_all(&format!("[otlp] {key}"), address, &otlp_access, WRITES);
        }
    }
    if listeners.len() == 1 && otlp_access != AccessConfig::default() {
        problems.warn("[otlp] has users, a token or tls and no listener: set grpc_listen or http_listen, or remove them");
    }
    let doors = DoorsConfig {
        server: access,
        otlp: otlp_access,
        listeners,
    };
    Checked {
        listen,
        otlp: addresses,
        doors,
    }
}

const READS: &str = "who reaches it sees sessions, statements and incidents";
const WRITES: &str = "who reaches it can tell of traffic that never was";

struct Checker<'a> {
    problems: &'a Problems,
}

impl Checker<'_> {
    fn report(&self, text: &Text, message: impl Into<String>) {
        self.problems.at(text.span.clone(), Show::Span, message);
    }

    fn address(&self, key: &str, port: &str, text: &Text) -> Option<SocketAddr> {
        let address = text.value.parse().ok();
        if address.is_none() {
            let message = format!(
                "\"{key}\" must be an address with a port, such as \"127.0.0.1:{port}\" or \"[::1]:{port}\""
            );
            self.report(text, message);
        }
        address
    }

    /// Two listeners cannot have one address. Port 0 is another one each time.
    fn same_address(&self, listen: SocketAddr, written: &Otlp, otlp: OtlpConfig) {
        let listeners = [
            (&written.grpc_listen, otlp.grpc_listen, vec![listen]),
            (
                &written.http_listen,
                otlp.http_listen,
                otlp.grpc_listen.into_iter().chain([listen]).collect(),
            ),
        ];
        for (text, address, others) in listeners {
            if let (Some(text), Some(address)) = (text, address)
                && address.port() != 0
                && others.contains(&address)
            {
                let message = "another listener of this file has this address; give each its own";
                self.report(text, message);
            }
        }
    }

    fn access(&self, section: &str, written: &Access) -> AccessConfig {
        let path = |text: &Option<Text>| text.as_ref().map(|text| PathBuf::from(&text.value));
        let tls = written.tls.as_ref().and_then(|tls| {
            Some(TlsFiles {
                cert_file: path(&tls.cert_file)?,
                key_file: path(&tls.key_file)?,
                client_ca_file: path(&tls.client_ca_file),
            })
        });
        let access = AccessConfig {
            tls,
            users: self.users(section, &written.users),
            bearer_token_file: path(&written.bearer_token_file),
            open_health: false,
        };
        let (found, warning) = access.examine();
        for problem in found {
            let tls = written.tls.as_ref();
            let text = match problem.key {
                "cert_file" => tls.and_then(|tls| tls.cert_file.as_ref()),
                "key_file" => tls.and_then(|tls| tls.key_file.as_ref()),
                "client_ca_file" => tls.and_then(|tls| tls.client_ca_file.as_ref()),
                _ => written.bearer_token_file.as_ref(),
            };
            let message = format!("\"{}\": {}", problem.key, problem.what);
            match text {
                Some(text) => self.report(text, message),
                None => self.problems.anywhere(message),
            }
        }
        if let Some(warning) = warning {
            self.problems
                .warn(format!("{section} tls: {warning}; renew it"));
        }
        access
    }

    fn users(
        &self,
        section: &str,
        written: &[(String, Range<usize>, Text)],
    ) -> BTreeMap<String, PasswordHash> {
        if let Some((_, span, _)) = written.get(MAX_USERS) {
            let message =
                format!("at most {MAX_USERS} users are let in; give programs one in common");
            self.problems.at(span.clone(), Show::Key, message);
        }
        let mut users = BTreeMap::new();
        for (name, span, hash) in written {
            let bad = name.is_empty() || name.contains(|c: char| c == ':' || c.is_control());
            if bad || name.len() > USER_LIMIT {
                let message = format!(
                    "the name of a user must have 1 to {USER_LIMIT} characters, and no colon"
                );
                self.problems.at(span.clone(), Show::Key, message);
            }
            // Nothing of a hash is printed: it can be tried out elsewhere.
            match PasswordHash::parse(&hash.value) {
                Ok(hash) => {
                    if hash.cost() < WEAK_COST {
                        self.problems.warn(format!(
                            "{section} users: the hash of \"{name}\" has cost {}, and passwords are quickly tried out by who has seen it; use {WEAK_COST} or more",
                            hash.cost()
                        ));
                    }
                    users.insert(name.clone(), hash);
                }
                Err(error) => {
                    let message = format!("the password of \"{name}\" {error}");
                    self.problems.at(hash.span.clone(), Show::Nothing, message);
                }
            }
        }
        users
    }

    /// An address that others can reach, and what it lacks.
    fn open_to_all(&self, key: &str, address: SocketAddr, access: &AccessConfig, harm: &str) {
        if address.ip().is_loopback() {
            return;
        }
        if !access.asks() {
            self.problems.warn(format!(
                "{key} = \"{address}\" is open to the network and asks for no password: {harm}; \
                 set users or bearer_token_file and tls, or keep it behind a firewall"
            ));
        } else if access.tls.is_none() {
            self.problems.warn(format!(
                "{key} = \"{address}\" is open to the network without tls: passwords and tokens \
                 can be read on the way; set tls"
            ));
        }
    }
}
