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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use crate::config::{Config, ConfigErrors};

    const HASH: &str = "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn parse(sections: &str) -> Result<Config, ConfigErrors> {
        let postgres = "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://u@h/d\"\n";
        let text = format!("{sections}\n{postgres}");
        Config::parse(&text, "the test", |name| {
            (name == "HASH").then(|| HASH.to_owned())
        })
    }

    /// A certificate of its own authority, and its key.
    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        (
            parameters.self_signed(&key).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn put(directory: &Path, name: &str, text: &str) -> String {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    #[test]
    fn what_is_right_is_taken_and_says_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = pair();
        let certificate = put(directory.path(), "certificate", &certificate);
        let key = put(directory.path(), "key", &key);
        let token = put(directory.path(), "token", "abc\n");
        let tls = format!("{{ cert_file = \"{certificate}\", key_file = \"{key}\" }}");
        let config = parse(&format!(
            "[server]\ntls = {tls}\nusers = {{ a = \"{HASH}\", b = \"${{HASH}}\" }}\nopen_health = false\n\
             [otlp]\ngrpc_listen = \"127.0.0.1:0\"\nbearer_token_file = \"{token}\""
        ));
        let config = config.unwrap();
        let (server, otlp) = (&config.doors.server, &config.doors.otlp);
        assert_eq!(server.users.len(), 2);
        assert!(server.tls.is_some() && !server.open_health);
        assert!(otlp.tls.is_none() && otlp.bearer_token_file.is_some());
        let [warning] = &config.warnings[..] else {
            panic!("{:?}", config.warnings);
        };
        assert!(warning.contains("has expired"), "{warning}");
        let told = format!("{config:?}");
        assert!(!told.contains("E5YPO") && !told.contains("abc"), "{told}");
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line_and_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, _) = pair();
        let (_, key) = pair();
        let put = |name: &str, text: &str| put(directory.path(), name, text);
        let (certificate, key) = (put("certificate", &certificate), put("key", &key));
        let (none, empty) = (put("none", "nothing\n"), put("empty", "\n"));
        let half = &HASH[..HASH.len() - 1];
        let dear = HASH.replace("$10$", "$16$");
        let text = format!(
            "[server]\n\
             tls = {{ cert_file = \"{none}\", key_file = \"{none}\", client_ca_file = \"/nowhere\" }}\n\
             users = {{ half = \"{half}\", dear = \"{dear}\", plain = \"hunter2\", \"a:b\" = \"{HASH}\" }}\n\
             bearer_token_file = \"{empty}\"\n\
             [otlp]\n\
             tls = {{ cert_file = \"{certificate}\", key_file = \"{key}\" }}\n\
             users = \"{HASH}\"\n"
        );
        let report = parse(&text).unwrap_err().to_string();
        for part in [
            "\"cert_file\": there is no certificate in it",
            "\"key_file\": there is no private key in it",
            "\"client_ca_file\": cannot be read",
            "password of \"half\" is not a bcrypt hash",
            "password of \"dear\" has cost 16",
            "password of \"plain\" is not a bcrypt hash",
            "no colon",
            "\"bearer_token_file\": is empty",
            "\"key_file\": is not the key of the certificate",
            "\"users\" must be a table",
        ] {
            assert!(report.contains(part), "{part} in {report}");
        }
        assert_eq!(report.matches("the test:").count(), 10, "{report}");
        for secret in ["E5YPO", "CCCC", "hunter2"] {
            assert!(!report.contains(secret), "{report}");
        }
        // Not even where the file cannot be parsed.
        let broken = format!("[server]\nusers = {{ a = \"{HASH}\n");
        let report = parse(&broken).unwrap_err().to_string();
        assert!(!report.contains("E5YPO"), "{report}");
    }

    #[test]
    fn an_open_address_is_warned_of_until_it_asks_and_is_encrypted() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = pair();
        let certificate = put(directory.path(), "certificate", &certificate);
        let key = put(directory.path(), "key", &key);
        let users = format!("users = {{ a = \"{HASH}\" }}\n");
        let tls = format!("tls = {{ cert_file = \"{certificate}\", key_file = \"{key}\" }}\n");
        let mutual = tls.replace(" }", &format!(", client_ca_file = \"{certificate}\" }}"));
        let warned = |section: &str, keys: &str| {
            let config = parse(&format!("{section}{keys}")).unwrap();
            let mut warnings = config.warnings;
            warnings.retain(|warning| !warning.contains("expired"));
            warnings.join("\n")
        };
        for section in [
            "[server]\nlisten = \"0.0.0.0:0\"\n",
            "[otlp]\nhttp_listen = \"[::]:0\"\n",
        ] {
            let open = warned(section, "");
            assert!(open.contains("asks for no password"), "{open}");
            assert!(warned(section, &tls).contains("asks for no password"));
            assert!(warned(section, &users).contains("without tls"));
            for keys in [format!("{users}{tls}"), mutual.clone()] {
                assert_eq!(warned(section, &keys), "", "{section}{keys}");
            }
        }
        assert!(warned("[otlp]\n", &users).contains("no listener"));
    }
}
