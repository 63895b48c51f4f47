//! The configuration: what it means, and how its mistakes are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use snowpit::config::{ChannelBinding, Config, Dsn, SslMode};
use snowpit::engine::settings::{LockKey, Sensitivity};

fn nothing(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Config {
    Config::parse(text, "snowpit.toml", nothing).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> String {
    match Config::parse(text, "snowpit.toml", nothing) {
        Ok(_) => panic!("this was accepted:\n{text}"),
        Err(errors) => errors.to_string(),
    }
}

/// The connection of a `[[postgres]]` with this dsn.
fn postgres(dsn: &str) -> Result<Dsn, String> {
    let text = format!("[[postgres]]\nname = \"a\"\ndsn = '''{dsn}'''\n");
    Config::parse(&text, "f", nothing)
        .map(|config| config.postgres[0].connection.clone())
        .map_err(|errors| errors.iter().next().unwrap().message.clone())
}

fn password(dsn: &str, env: impl Fn(&str) -> Option<String>) -> Option<String> {
    let config = Config::from_dsn(dsn, env).unwrap();
    config.postgres[0].connection.password.clone()
}

const WHOLE: &str = r#"
[server]
listen = "127.0.0.1:1234"

[[postgres]]
name = "main"
dsn = "postgresql://watcher@db.internal/app?sslmode=verify-full"
interval = "500ms"

[[pgbouncer]]
name = "pooler-1"
target = "main"
dsn = "host=/run/pgbouncer user=stats"

[poolers]
complete = true
addresses = ["10.1.0.0/24", "10.2.0.7", "fd00::1"]

[[service]]
name = "registry"
applications = ["registry*"]

[[advisory_lock]]
key = 42424242424242
name = "gateway bootstrap"

[[advisory_lock]]
key = [1, -7]
name = "leader"
allow = true

[detect.connection_avalanche]
sensitivity = "high"
warm_up = "90s"
"#;

#[test]
fn a_whole_file_becomes_a_configuration() {
    let config = parse(WHOLE);
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.listen.to_string(), "127.0.0.1:1234");

    let main = &config.postgres[0];
    assert_eq!(main.interval, Duration::from_millis(500));
    assert_eq!(
        main.connection.to_string(),
        "postgresql://watcher@db.internal:5432/app"
    );
    assert_eq!(main.connection.ssl_mode, SslMode::VerifyFull);

    let pooler = &config.pgbouncer[0];
    assert_eq!(pooler.connection.host, "/run/pgbouncer");
    assert_eq!(pooler.connection.port, 6432);
    assert_eq!(pooler.connection.database, "pgbouncer");
    assert_eq!(pooler.interval, Duration::from_secs(1));

    let settings = &config.settings;
    assert_eq!(settings.targets, ["main"]);
    assert_eq!(settings.poolers[0].target, "main");
    assert!(settings.poolers_complete);
    let networks: Vec<String> = settings
        .pooler_addresses
        .iter()
        .map(|n| n.to_string())
        .collect();
    assert_eq!(networks, ["10.1.0.0/24", "10.2.0.7/32", "fd00::1/128"]);
    assert_eq!(settings.services[0].targets, ["main"]);
    assert_eq!(settings.advisory_locks[0].key, LockKey::Big(42424242424242));
    assert_eq!(settings.advisory_locks[1].key, LockKey::Pair(1, -7));
    assert!(settings.advisory_locks[1].allow);
    let avalanche = &settings.detect.connection_avalanche;
    assert_eq!(avalanche.sensitivity, Sensitivity::High);
    assert_eq!(avalanche.warm_up, 90.0);
}

#[test]
fn the_example_is_a_valid_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let config = Config::load(&path, nothing).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.path.as_deref(), Some(path.as_path()));
    assert_eq!(config.settings.targets, ["main"]);
}

#[test]
fn many_mistakes_are_told_at_once() {
    let report = errors(
        r#"
[server]
listen = "9899"
tls = { cert_file = "a.pem" }

[[postgres]]
name = "main"
dsn = "postgresql://snowpit:hunter2@db:5432/app?sslmod=require"
intervall = "5s"

[[postgres]]
name = "main"
dsn = "postgresql://snowpit:hunter2@pooler:6432/pgbouncer"
interval = "1ms"

[[pgbouncer]]
name = "pooler 1"
target = "mian"
password_file = "/nonexistent/password"
dsn = "postgresql://stats@pooler:6432/app"

[[pgbouncer]]
name = "pooler-2"
interval = 5

[poolers]
complete = "yes"
addresses = ["10.1.0.0/99", 7]

[[service]]
name = "registry"
targets = ["mains"]
scrape = { url = "http://registry/metrics" }

[[advisory_lock]]
key = [1, 4294967296]
name = "leader"

[detect.connection_headroom]
open_ratio = 1.5

[detect.connection_avalanche]
sensitivity = "hihg"

[otlp]
grpc_listen = "4317"
http_listen = "127.0.0.1:9899"

[telemetry]
otlp_endpoint = "collector:4318"
"#,
    );
    insta::assert_snapshot!(report);
}

#[test]
fn broken_toml_is_told_in_the_same_shape() {
    let report =
        errors("[server]\nlisten = 127.0.0.1\n\n[[postgres]\nname = \"a\"\nname = \"b\"\n");
    insta::assert_snapshot!(report);
}

#[test]
fn no_server_is_a_mistake() {
    assert_eq!(
        errors(""),
        "snowpit.toml: there is no [[postgres]]; add one with a name and the dsn of the server to watch"
    );
    assert!(errors("[postgres]\nname = \"a\"").contains("written [[postgres]] with two brackets"));
}

#[test]
fn a_missing_file_says_how_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.toml");
    let report = Config::load(&path, nothing).unwrap_err().to_string();
    assert!(
        report.contains("none.toml: cannot be read: No such file"),
        "{report}"
    );
    assert_eq!(Config::find(Some(path.clone())).unwrap(), path);
}

#[test]
fn a_variable_fills_a_string_and_is_never_printed() {
    let env = |name: &str| match name {
        "HOST_NAME" => Some("db.internal".to_owned()),
        "SECRET" => Some("hunter2".to_owned()),
        _ => None,
    };
    let text = |dsn: &str| format!("[[postgres]]\nname = \"a\"\ndsn = \"{dsn}\"\n");
    let config = Config::parse(
        &text("host=${HOST_NAME} user=u password=$${SECRET}"),
        "f",
        env,
    );
    let dsn = config.unwrap().postgres[0].connection.clone();
    assert_eq!(dsn.host, "db.internal");
    assert_eq!(dsn.password.as_deref(), Some("${SECRET}"));

    for wrong in [
        "${SECRET}",
        "${SECRET}=1",
        "host=h ${SECRET}=1",
        "postgresql://u@h:${SECRET}/",
        "${SECRET",
    ] {
        let report = Config::parse(&text(wrong), "f", env)
            .unwrap_err()
            .to_string();
        assert!(!report.contains("hunter2"), "{report}");
    }
    let traces = "[telemetry]\notlp_endpoint = \"http://me:${SECRET}@collector:4318\"\n";
    let text_of_traces = format!("{}{traces}", text("host=h user=u"));
    let report = Config::parse(&text_of_traces, "f", env).unwrap_err();
    assert!(report.to_string().contains("user or password"), "{report}");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    let report = Config::parse(&text("host=${NOT_THERE}"), "f", env).unwrap_err();
    let first = report.iter().next().unwrap();
    assert_eq!(
        first.message,
        "the environment variable NOT_THERE is not set"
    );
}

#[test]
fn what_is_unwise_is_a_warning() {
    let config = parse(
        r#"
[server]
listen = "0.0.0.0:9899"
[[postgres]]
name = "a"
dsn = "host=h user=u application_name=mine"
[[postgres]]
name = "b"
dsn = "host=h user=u"
"#,
    );
    assert_eq!(config.warnings.len(), 3, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("open to the network"));
    assert!(config.warnings[1].contains("application_name"));
    assert!(config.warnings[2].contains("same host and port"));
}

#[test]
fn a_uri_means_what_it_means_to_psql() {
    let dsn = postgres(
        "postgres://us%65r:p%40ss%2Fword@[fd00::1]:6000/my%20db?sslmode=verify-ca&connect_timeout=9&sslrootcert=/ca.pem",
    )
    .unwrap();
    assert_eq!(dsn.user, "user");
    assert_eq!(dsn.password.as_deref(), Some("p@ss/word"));
    assert_eq!((dsn.host.as_str(), dsn.port), ("fd00::1", 6000));
    assert_eq!(dsn.database, "my db");
    assert_eq!(dsn.ssl_mode, SslMode::VerifyCa);
    assert_eq!(dsn.ssl_root_cert.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(dsn.connect_timeout, Duration::from_secs(9));

    let system = postgres("host=h user=u sslrootcert=system").unwrap();
    assert_eq!(system.ssl_mode, SslMode::VerifyFull);
    assert_eq!(system.ssl_root_cert, None);
    let odd = postgres("host=/run/p:g user=u").unwrap().to_string();
    assert_eq!(odd, "postgresql://u@%2Frun%2Fp%3Ag:5432/u");
    for (host, shown) in [
        ("fe80::1%eth0", "[fe80::1%25eth0]"),
        ("a:?/b", "a%3A%3F%2Fb"),
    ] {
        let dsn = postgres(&format!("host={host} user=u")).unwrap();
        assert_eq!(dsn.to_string(), format!("postgresql://u@{shown}:5432/u"));
    }
    let nul = Config::from_dsn("postgresql://u@h/d\0b", nothing).unwrap_err();
    assert!(nul.to_string().contains("NUL character"), "{nul}");

    let certified = "host=h user=u sslcert=/our.pem sslkey=/our.key channel_binding=require";
    let certified = postgres(certified).unwrap();
    let files = certified.client_certificate.unwrap();
    assert_eq!(files.certificate, Path::new("/our.pem"));
    assert_eq!(files.key, Path::new("/our.key"));
    assert_eq!(certified.channel_binding, ChannelBinding::Require);

    for socket in [
        "postgresql://u@%2Frun%2Fpg/db",
        "postgresql://u@/db?host=/run/pg",
        "postgresql:///db?user=u&host=/run/pg",
    ] {
        let dsn = postgres(socket).unwrap();
        assert_eq!(dsn.host, "/run/pg", "{socket}");
        assert_eq!((dsn.port, dsn.database.as_str()), (5432, "db"), "{socket}");
    }
    let bare = postgres("postgresql://u@").unwrap();
    assert_eq!(
        (bare.host.as_str(), bare.database.as_str()),
        ("localhost", "u")
    );
    assert_eq!(
        postgres("postgresql://u@h?ssl=true").unwrap().ssl_mode,
        SslMode::Require
    );
}

#[test]
fn pairs_mean_what_they_mean_to_psql() {
    let dsn =
        postgres(r"host = 'db 1'  port=1  user=o\'brien password='it\'s a \\ secret' dbname=''")
            .unwrap();
    assert_eq!(dsn.host, "db 1");
    assert_eq!(dsn.port, 1);
    assert_eq!(dsn.user, "o'brien");
    assert_eq!(dsn.password.as_deref(), Some(r"it's a \ secret"));
    assert_eq!(dsn.database, "o'brien");
    assert_eq!(
        postgres("hostaddr=10.0.0.1 user=u").unwrap().host,
        "10.0.0.1"
    );
}

#[test]
fn a_bad_dsn_gets_one_sentence() {
    let told = |dsn: &str| postgres(dsn).unwrap_err();
    let cases = [
        ("mysql://u@h/db", "neither a URI"),
        ("main", "neither a URI"),
        ("postgresql://u@a,b/db", "several hosts"),
        ("host=a,b user=u", "several hosts"),
        ("postgresql://u@h:1,2/db", "several hosts"),
        ("postgresql://u@h:99999/db", "not a number from 1 to 65535"),
        ("postgresql://u:p/w@h/db", "%2F"),
        ("postgresql://u@h:p/db", "percent-encoded"),
        ("postgresql://u:p@w@h/db", "%40"),
        ("postgresql://u:1/w@h/db", "%40"),
        ("postgresql://u%4@h/db", "%25"),
        ("postgresql://u@[::1/db", "closing \"]\""),
        ("host=h user", "no \"=\""),
        ("password=a b user=u", "no \"=\""),
        ("host='h", "closing quote"),
        (
            "hots=h user=u",
            "unknown keyword \"hots\"; did you mean \"host\"?",
        ),
        ("host=h user=u options=-cx", "\"options\" is not supported"),
        ("host=h user=u sslmode=allow", "sslmode must be"),
        (
            "host=h user=u channel_binding=on",
            "channel_binding must be",
        ),
        (
            "host=h user=u sslcert=a.pem",
            "only one of sslcert and sslkey",
        ),
        (
            "postgresql://u@h/d?sslrootcert=system&sslmode=require",
            "verify-full",
        ),
        ("host=h user=u connect_timeout=0", "connect_timeout must be"),
        ("host=h hostaddr=1.2.3.4 user=u", "both host and hostaddr"),
        ("host=h", "names no user"),
        ("postgresql://u@h/pgbouncer", "console of a PgBouncer"),
    ];
    for (dsn, expected) in cases {
        let message = told(dsn);
        assert!(message.contains(expected), "{dsn} was told: {message}");
    }
}

#[test]
fn a_password_is_looked_for_in_the_order_of_libpq() {
    let directory = tempfile::tempdir().unwrap();
    let passfile = directory.path().join("pgpass");
    fs::write(
        &passfile,
        "# comment\nother:*:*:*:no\nh\\:1:5432:db:u:with\\:colon\n*:*:db2:*:second\nlocalhost:*:*:u:socket\n",
    )
    .unwrap();
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let passfile_path = passfile.display().to_string();
    let with_file = |name: &str| (name == "PGPASSFILE").then(|| passfile_path.clone());
    assert_eq!(
        password("host='h:1' user=u dbname=db", with_file).as_deref(),
        Some("with:colon")
    );
    assert_eq!(
        password("host=x user=u dbname=db2", with_file).as_deref(),
        Some("second")
    );
    assert_eq!(
        password("host=/tmp user=u", with_file).as_deref(),
        Some("socket")
    );
    assert_eq!(password("host=x user=u dbname=db", with_file), None);
    let by_keyword = format!("host=x user=u dbname=db2 passfile={passfile_path}");
    assert_eq!(password(&by_keyword, nothing).as_deref(), Some("second"));

    let both = |name: &str| match name {
        "PGPASSWORD" => Some("from the environment".to_owned()),
        other => with_file(other),
    };
    assert_eq!(
        password("host=x user=u dbname=db2", both).as_deref(),
        Some("from the environment")
    );
    assert_eq!(
        password("host=x user=u password=own", both).as_deref(),
        Some("own")
    );

    let secret = directory.path().join("secret");
    fs::write(&secret, " from the file \n").unwrap();
    let text = format!(
        "[[postgres]]\nname = \"a\"\ndsn = \"host=h user=u\"\npassword_file = \"{}\"\n",
        secret.display()
    );
    let config = Config::parse(&text, "f", both).unwrap();
    assert_eq!(
        config.postgres[0].connection.password.as_deref(),
        Some(" from the file ")
    );

    // libpq ignores a password file that others may read.
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).unwrap();
    let config = Config::from_dsn("host=x user=u dbname=db2", with_file).unwrap();
    assert_eq!(config.postgres[0].connection.password, None);
    assert!(
        config.warnings[0].contains("chmod 0600"),
        "{:?}",
        config.warnings
    );
}

/// Pieces that meet in wrong orders more often than random bytes do.
fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[[postgres]]\n".to_owned()),
        Just("[[pgbouncer]]\n".to_owned()),
        Just("[poolers]\n".to_owned()),
        Just("[detect.connection_headroom]\n".to_owned()),
        Just("[[advisory_lock]]\n".to_owned()),
        Just("name = \"é\"\n".to_owned()),
        Just("key = [1, -9223372036854775809]\n".to_owned()),
        Just("dsn = \"postgresql://${X\"\n".to_owned()),
        Just("a.b = { c = [ \"\"\" \n".to_owned()),
        "(dsn|name|target|interval|listen|hold|open_ratio) = \"[^\n]{0,20}\"\n",
        "[a-z_.]{1,9} = [-0-9einf\\[\\]{}\".,_]{1,12}\n",
        "\\PC{0,12}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_file_panics(text in prop_oneof![toml_like(), any::<String>()]) {
        if let Err(errors) = Config::parse(&text, "f", nothing) {
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn no_dsn_panics(dsn in prop_oneof![
        any::<String>(),
        "postgres(ql)?://[a%:@/?&=\\[\\],.0-9]{0,24}",
        "(host|port|user|password|dbname)? ?=? ?['\\\\a-z0-9 =]{0,24}",
    ]) {
        if let Err(errors) = Config::from_dsn(&dsn, nothing) {
            prop_assert!(errors.to_string().starts_with("--dsn: "));
        }
    }

    /// Wherever the mistake is, the password of the line stays out of sight.
    #[test]
    fn no_report_shows_a_password(
        dsn in prop_oneof![
            Just("postgresql://u:{}@h/db?bogus=1"),
            Just("postgresql://u:{}@h:port/db"),
            Just("postgresql://u:{}/@h/db"),
            Just("postgresql://u:1/{}@h/db"),
            Just("postgresql://u:x/?{}@h/db"),
            Just("postgresql://u:x@{}@h/db"),
            Just("postgresql://u:{}@h/pgbouncer"),
            Just("host=h user=u password={} {}"),
            Just("host=h user=u password=x {}=1"),
            Just("host=h user=u password='{}"),
            Just("host=h passwd={}"),
            Just("postgresql:/u:{}@h/db"),
        ],
        line in prop_oneof![
            Just("dsn = \"{}\""),
            Just("dsn = {}"),
            Just("dsn = \"{}"),
            Just("dsn = [\"{}\"]"),
            Just("dsn = { password = \"{}\" }"),
            Just("dns = \"{}\""),
            Just("dsn = \"{}\", interval = 1"),
            Just("dsn = \"\"\"{}"),
        ],
    ) {
        const SECRET: &str = "correcthorse";
        let line = line.replace("{}", &dsn.replace("{}", SECRET));
        let text = format!("[[postgres]]\nname = \"a\"\n{line}\n");
        if let Err(errors) = Config::parse(&text, "f", nothing) {
            prop_assert!(!errors.to_string().contains(SECRET), "{}", errors);
        } else {
            prop_assert!(false, "this was accepted: {text}");
        }
    }
}
