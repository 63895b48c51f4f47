//! TLS and logins to real servers: what each `sslmode` accepts and refuses, our
//! own certificate, and SCRAM with channel binding.

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use common::certificates::{Authority, Holds, Signed, write};
use snowpit::config::Config;
use snowpit::demo::servers::{PgBouncer, PgBouncerOptions, PoolerAuth, Postgres, PostgresOptions};
use snowpit::observe::pgbouncer::PgbouncerSource;
use snowpit::observe::postgres::PostgresSource;
use snowpit::observe::{PollError, Source};
use snowpit::sample::{FailureReason, Report};

/// What a server offers.
const OFFERS: [&str; 5] = ["no TLS", "good", "wrong host", "expired", "foreign CA"];

/// Each mode with and without `sslrootcert`, and which of [`OFFERS`] it takes:
/// as the documentation of libpq has it ("SSL Mode Descriptions").
const MODES: [(&str, bool, [bool; 5]); 9] = [
    ("disable", false, [true, true, true, true, true]),
    ("prefer", false, [true, true, true, true, true]),
    ("require", false, [false, true, true, true, true]),
    ("require", true, [false, true, true, false, false]),
    ("verify-ca", false, [false, false, false, false, false]),
    ("verify-ca", true, [false, true, true, false, false]),
    ("verify-full", false, [false, false, false, false, false]),
    ("verify-full", true, [false, true, false, false, false]),
    ("prefer", true, [true, true, true, true, true]),
];

struct Authorities {
    ours: Authority,
    foreign: Authority,
}

impl Authorities {
    fn new() -> Self {
        Self {
            ours: Authority::new("ours"),
            foreign: Authority::new("foreign"),
        }
    }

    /// The certificate of a server that offers what its place in [`OFFERS`] says.
    fn server(&self, offer: &str) -> Signed {
        let names = ["localhost", "127.0.0.1"];
        match offer {
            "wrong host" => self.ours.server(&["db.example"], Holds::Now),
            "expired" => self.ours.server(&names, Holds::Expired),
            "foreign CA" => self.foreign.server(&names, Holds::Now),
            _ => self.ours.server(&names, Holds::Now),
        }
    }
}

/// One look at a PostgreSQL; true when our session is encrypted.
async fn look(admin: &tokio_postgres::Client, dsn: &str) -> Result<bool, PollError> {
    let config = Config::from_dsn(dsn, |_| None).unwrap_or_else(|error| panic!("{error}"));
    let mut source = PostgresSource::new(&config.postgres[0]);
    let Report::Postgres(_) = source.poll().await? else {
        panic!("a look at PostgreSQL is a report of PostgreSQL");
    };
    let row = admin
        .query_one(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = 'snowpit'",
            &[],
        )
        .await
        .unwrap();
    drop(source);
    // The next look must not find this session.
    for _ in 0..500 {
        let gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'snowpit'";
        let left: i64 = admin.query_one(gone, &[]).await.unwrap().get(0);
        if left == 0 {
            return Ok(row.get(0));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("our session outlives its source");
}

/// Sets and waits until a new session has it.
async fn set(admin: &tokio_postgres::Client, postgres: &Postgres, settings: &[(&str, String)]) {
    for (name, value) in settings {
        let sql = format!("ALTER SYSTEM SET {name} = '{value}'");
        admin.batch_execute(&sql).await.unwrap();
    }
    admin
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let (name, value) = settings.last().unwrap();
    for _ in 0..500 {
        let fresh = postgres.connect("postgres", "postgres").await.unwrap();
        let sql = format!("SELECT current_setting('{name}')");
        let now: String = fresh.query_one(&sql, &[]).await.unwrap().get(0);
        if now == *value {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} is not {value}: {}", postgres.log_tail());
}

fn mark(good: bool) -> &'static str {
    if good { "in" } else { "refused" }
}

/// One row of the matrix for each mode, as the table of the documents has it.
fn table(of: &str, rows: &[String]) {
    eprintln!("{of:<46} {}", OFFERS.map(|o| format!("{o:<11}")).join(""));
    for row in rows {
        eprintln!("{row}");
    }
}

/// Files of the test, where the servers may read them too.
fn home(postgres: &Postgres) -> &Path {
    postgres.socket_dir()
}

#[tokio::test]
async fn each_mode_takes_the_servers_that_libpq_would() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let admin = postgres.connect("postgres", "postgres").await.unwrap();
    let authorities = Authorities::new();
    let root = write(home(&postgres), "ours.pem", authorities.ours.pem());
    let mut rows: Vec<String> = MODES
        .iter()
        .map(|(mode, rooted, _)| {
            let with = if *rooted { " sslrootcert" } else { "" };
            format!("{:<46} ", format!("sslmode={mode}{with}"))
        })
        .collect();
    for (column, offer) in OFFERS.iter().enumerate() {
        if *offer == "no TLS" {
            set(&admin, &postgres, &[("ssl", "off".into())]).await;
        } else {
            let signed = authorities.server(offer);
            // New names: a reload that failed would leave the old ones in use.
            let name = |end| format!("{}.{end}", offer.replace(' ', "-"));
            let certificate = write(home(&postgres), &name("crt"), &signed.certificate);
            let key = write(home(&postgres), &name("key"), &signed.key);
            let settings = [
                ("ssl_cert_file", certificate.display().to_string()),
                ("ssl_key_file", key.display().to_string()),
                ("ssl", "on".into()),
            ];
            set(&admin, &postgres, &settings).await;
        }
        for ((mode, rooted, expected), row) in MODES.iter().zip(&mut rows) {
            let mut dsn = format!(
                "postgresql://postgres@localhost:{}/postgres?sslmode={mode}",
                postgres.port()
            );
            if *rooted {
                let _ = write!(dsn, "&sslrootcert={}", root.display());
            }
            let seen = look(&admin, &dsn).await;
            let _ = write!(row, "{:<11}", mark(seen.is_ok()));
            let context = format!("{mode}, sslrootcert {rooted}, {offer}: {seen:?}");
            assert_eq!(seen.is_ok(), expected[column], "{context}");
            match seen {
                Ok(encrypted) => {
                    let wanted = *mode != "disable" && *offer != "no TLS";
                    assert_eq!(encrypted, wanted, "{context}");
                }
                Err(error) => {
                    assert_eq!(error.reason, FailureReason::Tls, "{context}");
                    assert!(error.to_string().contains("ssl"), "a remedy: {context}");
                }
            }
        }
    }
    table("PostgreSQL", &rows);
}

#[tokio::test]
async fn a_server_that_wants_our_certificate_gets_it_or_says_no_in_words() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let admin = postgres.connect("postgres", "postgres").await.unwrap();
    let authorities = Authorities::new();
    let file = |name: &str, text: &str| write(home(&postgres), name, text).display().to_string();
    let server = authorities.server("good");
    let root = file("root.pem", authorities.ours.pem());
    admin
        .batch_execute("CREATE ROLE watcher LOGIN IN ROLE pg_monitor")
        .await
        .unwrap();
    file(
        "data/pg_hba.conf",
        "hostssl all watcher 127.0.0.1/32 cert\nhost all postgres 127.0.0.1/32 trust\n",
    );
    let settings = [
        ("ssl_cert_file", file("server.crt", &server.certificate)),
        ("ssl_key_file", file("server.key", &server.key)),
        ("ssl_ca_file", root.clone()),
        ("ssl", "on".into()),
    ];
    set(&admin, &postgres, &settings).await;

    let certified = |name: &str, signed: &Signed| {
        let certificate = file(&format!("{name}.crt"), &signed.certificate);
        let key = file(&format!("{name}.key"), &signed.key);
        format!("&sslcert={certificate}&sslkey={key}")
    };
    let good = authorities.ours.client("watcher", Holds::Now);
    let with_good = certified("good", &good);
    let other_key = authorities.ours.client("watcher", Holds::Now).key;
    let mismatched = format!(
        "&sslcert={}&sslkey={}",
        file("mismatched.crt", &good.certificate),
        file("mismatched.key", &other_key),
    );
    let open_key = home(&postgres).join("open.key");
    std::fs::write(&open_key, &good.key).unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&open_key, readable).unwrap();
    let open = format!(
        "&sslcert={}&sslkey={}",
        file("open.crt", &good.certificate),
        open_key.display()
    );
    let cases = [
        ("a good certificate", with_good, None),
        (
            "none",
            String::new(),
            Some((FailureReason::Auth, "certificate")),
        ),
        (
            "another role's",
            certified("other", &authorities.ours.client("other", Holds::Now)),
            Some((FailureReason::Auth, "pg_hba.conf")),
        ),
        (
            "a foreign authority's",
            certified(
                "foreign",
                &authorities.foreign.client("watcher", Holds::Now),
            ),
            Some((FailureReason::Tls, "sslcert")),
        ),
        (
            "one that has expired",
            certified(
                "expired",
                &authorities.ours.client("watcher", Holds::Expired),
            ),
            Some((FailureReason::Tls, "sslcert")),
        ),
        (
            "another one's key",
            mismatched,
            Some((FailureReason::Tls, "does not fit")),
        ),
        (
            "a key that all may read",
            open,
            Some((FailureReason::Tls, "chmod 600")),
        ),
    ];
    for (what, more, refused) in cases {
        let dsn = format!(
            "postgresql://watcher@localhost:{}/postgres?sslmode=verify-full&sslrootcert={root}{more}",
            postgres.port()
        );
        let seen = look(&admin, &dsn).await;
        eprintln!("client certificate: {what:<25} {}", mark(seen.is_ok()));
        match (seen, refused) {
            (Ok(encrypted), None) => assert!(encrypted, "{what}"),
            (Err(error), Some((reason, words))) => {
                assert_eq!(error.reason, reason, "{what}: {error}");
                assert!(error.to_string().contains(words), "{what}: {error}");
            }
            (seen, _) => panic!("{what}: {seen:?}"),
        }
    }
}

#[tokio::test]
async fn scram_is_bound_to_the_channel_where_that_is_asked_for() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let admin = postgres.connect("postgres", "postgres").await.unwrap();
    let authorities = Authorities::new();
    let file = |name: &str, text: &str| write(home(&postgres), name, text).display().to_string();
    admin
        .batch_execute(
            "SET password_encryption = 'scram-sha-256'; \
             CREATE ROLE watcher LOGIN IN ROLE pg_monitor PASSWORD 'geheim'; \
             CREATE ROLE open LOGIN IN ROLE pg_monitor",
        )
        .await
        .unwrap();
    file(
        "data/pg_hba.conf",
        "host all watcher 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n",
    );
    let server = authorities.server("good");
    let settings = [
        ("ssl_cert_file", file("server.crt", &server.certificate)),
        ("ssl_key_file", file("server.key", &server.key)),
        ("ssl", "on".into()),
    ];
    set(&admin, &postgres, &settings).await;
    for (who, mode, binding, taken) in [
        ("watcher:geheim", "require", "require", true),
        ("watcher:geheim", "require", "prefer", true),
        ("watcher:geheim", "require", "disable", true),
        ("watcher:geheim", "disable", "prefer", true),
        // Somebody in between could have taken TLS away.
        ("watcher:geheim", "disable", "require", false),
        // A server that asks for no password proves nothing.
        ("open", "require", "require", false),
        ("watcher:falsch", "require", "require", false),
    ] {
        let dsn = format!(
            "postgresql://{who}@localhost:{}/postgres?sslmode={mode}&channel_binding={binding}",
            postgres.port()
        );
        let seen = look(&admin, &dsn).await;
        let (user, wrong) = (
            who.split(':').next().unwrap_or_default(),
            who.ends_with("falsch"),
        );
        eprintln!(
            "{user:<8}{} sslmode={mode:<8} channel_binding={binding:<8} {}",
            if wrong { " wrong password" } else { "" },
            mark(seen.is_ok())
        );
        let context = format!("{user} {mode} {binding}: {seen:?}");
        assert_eq!(seen.is_ok(), taken, "{context}");
        if let Err(error) = seen {
            assert_eq!(error.reason, FailureReason::Auth, "{context}");
            let words = error.to_string();
            assert!(
                !words.contains("geheim") && !words.contains("falsch"),
                "{words}"
            );
            assert!(wrong || words.contains("channel_binding"), "{words}");
        }
    }
}

#[tokio::test]
async fn the_console_of_a_pooler_is_verified_like_a_server() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let authorities = Authorities::new();
    let file = |name: &str, text: &str| write(home(&postgres), name, text).display().to_string();
    let root = file("ours.pem", authorities.ours.pem());
    let ours = authorities.ours.client("stats", Holds::Now);
    let strange = authorities.foreign.client("stats", Holds::Now);
    let certified = |name: &str, signed: &Signed| {
        let certificate = file(&format!("{name}.crt"), &signed.certificate);
        let key = file(&format!("{name}.key"), &signed.key);
        format!("&sslcert={certificate}&sslkey={key}")
    };
    let (ours, strange) = (certified("ours", &ours), certified("strange", &strange));
    let mut rows: Vec<String> = MODES
        .iter()
        .map(|(mode, rooted, _)| {
            let with = if *rooted { " sslrootcert" } else { "" };
            format!("{:<46} ", format!("sslmode={mode}{with}"))
        })
        .collect();
    for (column, offer) in OFFERS.iter().enumerate() {
        let server = authorities.server(offer);
        let mut settings = Vec::new();
        if *offer != "no TLS" {
            let name = offer.replace(' ', "-");
            settings = vec![
                ("client_tls_sslmode".to_owned(), "allow".to_owned()),
                (
                    "client_tls_cert_file".into(),
                    file(&format!("{name}.crt"), &server.certificate),
                ),
                (
                    "client_tls_key_file".into(),
                    file(&format!("{name}.key"), &server.key),
                ),
            ];
        }
        let pooler = console(settings).await;
        for ((mode, rooted, expected), row) in MODES.iter().zip(&mut rows) {
            let with = match rooted {
                true => format!("&sslrootcert={root}"),
                false => String::new(),
            };
            let seen = ask(&pooler, "stats:geheim", &format!("sslmode={mode}{with}")).await;
            let _ = write!(row, "{:<11}", mark(seen.is_ok()));
            let context = format!("{mode}, sslrootcert {rooted}, {offer}: {seen:?}");
            assert_eq!(seen.is_ok(), expected[column], "{context}");
            if let Err(error) = seen {
                assert_eq!(error.reason, FailureReason::Tls, "{context}");
            }
        }
    }
    table("PgBouncer", &rows);

    let server = authorities.server("good");
    let strict = console(vec![
        ("client_tls_sslmode".into(), "verify-ca".into()),
        ("client_tls_ca_file".into(), root.clone()),
        (
            "client_tls_cert_file".into(),
            file("strict.crt", &server.certificate),
        ),
        (
            "client_tls_key_file".into(),
            file("strict.key", &server.key),
        ),
    ])
    .await;
    let verified = format!("sslmode=verify-full&sslrootcert={root}");
    for (what, who, more, taken) in [
        (
            "our certificate",
            "stats:geheim",
            format!("{verified}{ours}"),
            None,
        ),
        ("none", "stats:geheim", verified.clone(), Some("sslcert")),
        (
            "a foreign authority's",
            "stats:geheim",
            format!("{verified}{strange}"),
            Some("sslcert"),
        ),
        (
            "no TLS",
            "stats:geheim",
            "sslmode=disable".into(),
            Some("sslmode"),
        ),
        (
            "a wrong password",
            "stats:falsch",
            format!("{verified}{ours}"),
            Some("auth_file"),
        ),
        (
            "channel binding, which it does not have",
            "stats:geheim",
            format!("{verified}{ours}&channel_binding=require"),
            Some("PgBouncer does not"),
        ),
    ] {
        let seen = ask(&strict, who, &more).await;
        eprintln!(
            "PgBouncer with client_tls_ca_file: {what:<40} {}",
            mark(seen.is_ok())
        );
        match (seen, taken) {
            (Ok(()), None) => {}
            (Err(error), Some(words)) => {
                assert!(error.to_string().contains(words), "{what}: {error}");
            }
            (seen, _) => panic!("{what}: {seen:?}"),
        }
    }
}

/// A PgBouncer whose console wants SCRAM.
async fn console(settings: Vec<(String, String)>) -> PgBouncer {
    PgBouncer::start(PgBouncerOptions {
        auth: PoolerAuth::Scram,
        users: vec![("stats".into(), "geheim".into())],
        // It would have to log in as one to know that the console answers.
        admin_users: Vec::new(),
        settings,
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap()
}

/// One look at a console.
async fn ask(pooler: &PgBouncer, who: &str, more: &str) -> Result<(), PollError> {
    let text = format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://u@localhost:1/d\"\n\
         [[pgbouncer]]\nname = \"pooler\"\ntarget = \"main\"\n\
         dsn = \"postgresql://{who}@localhost:{}/pgbouncer?{more}\"\n",
        pooler.port()
    );
    let config = common::parse(&text);
    let (_wanted, nobody) = tokio::sync::watch::channel(Default::default());
    let mut source = PgbouncerSource::new(&config.pgbouncer[0], nobody);
    source.poll().await.map(drop)
}
