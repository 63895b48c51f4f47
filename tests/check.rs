//! `snowpit check` against real servers: what it finds, and the sentence that
//! each wrong address, password and role gets.

use std::process::Command;

use snowpit::cli::check::{Level, Report, look};
use snowpit::config::Config;
use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, PoolerAuth, Postgres, PostgresAuth, PostgresOptions,
};

const PASSWORD: &str = "correct horse";

/// A server that wants a password, with a good role and one without rights.
async fn server() -> Postgres {
    let postgres = Postgres::start(PostgresOptions {
        auth: PostgresAuth::Scram("of the superuser".into()),
        ..PostgresOptions::default()
    })
    .await
    .unwrap();
    let roles = format!(
        "CREATE ROLE snowpit LOGIN PASSWORD '{PASSWORD}'; GRANT pg_monitor TO snowpit;
         CREATE ROLE \"Odd\" LOGIN PASSWORD '{PASSWORD}'"
    );
    postgres.execute("postgres", &roles).await.unwrap();
    postgres
}

async fn pooler(postgres: &Postgres, settings: Vec<(String, String)>) -> PgBouncer {
    PgBouncer::start(PgBouncerOptions {
        databases: vec![Alias::new("postgres", postgres.port())],
        users: ["admin", "stats", "nobody"]
            .map(|user| (user.to_owned(), PASSWORD.to_owned()))
            .to_vec(),
        auth: PoolerAuth::Scram,
        settings,
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap()
}

fn postgres_section(name: &str, dsn: &str) -> String {
    format!("[[postgres]]\nname = \"{name}\"\ndsn = \"{dsn} connect_timeout=5\"\n")
}

fn pgbouncer_section(name: &str, target: &str, dsn: &str) -> String {
    format!(
        "[[pgbouncer]]\nname = \"{name}\"\ntarget = \"{target}\"\ndsn = \"{dsn} connect_timeout=5\"\n"
    )
}

fn pairs(port: u16, user: &str, password: &str) -> String {
    format!("host=127.0.0.1 port={port} user={user} password='{password}'")
}

fn to_postgres(port: u16, user: &str, password: &str) -> String {
    format!("{} dbname=postgres", pairs(port, user, password))
}

async fn report_on(text: &str) -> Report {
    let config = Config::parse(text, "test.toml", |_| None).unwrap_or_else(|e| panic!("{e}"));
    look(&config).await
}

/// What is said about a source.
fn said(report: &Report, name: &str, level: Level) -> Vec<String> {
    let about = report
        .findings
        .iter()
        .filter(|f| f.subject == name && f.level == level);
    about.map(|finding| finding.what.clone()).collect()
}

#[tokio::test]
async fn a_good_configuration_has_nothing_missing() {
    let postgres = server().await;
    let pooler = pooler(&postgres, Vec::new()).await;
    let text = postgres_section("main", &to_postgres(postgres.port(), "snowpit", PASSWORD))
        + &pgbouncer_section("pooler-1", "main", &pairs(pooler.port(), "stats", PASSWORD))
        + "[poolers]\ncomplete = true\n";
    let report = report_on(&text).await;
    assert_eq!(report.exit_status(), 0, "{}", report.to_text());

    let main = &report.sources[0];
    assert!(main.up);
    assert_eq!(main.role, Some("primary"));
    assert_eq!(main.user, "snowpit");
    assert!(main.privileges.contains(&"pg_monitor"), "{main:?}");
    let offset = main.clock_offset_seconds.unwrap();
    assert!(offset.abs() < 1.0, "one machine has one clock: {offset}");
    let major: u32 = main
        .version
        .as_deref()
        .unwrap()
        .split('.')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(major >= 14);

    let console = &report.sources[1];
    assert!(console.up);
    assert_eq!(console.role, Some("console"));
    assert_eq!(console.privileges, ["stats_users"]);
    assert!(console.version.as_deref().unwrap().starts_with("1."));
    assert_eq!(
        said(&report, "[poolers]", Level::Note),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_missing_privilege_is_told_with_its_price() {
    let postgres = server().await;
    let pooler = pooler(&postgres, vec![("so_reuseport".into(), "1".into())]).await;
    let socket = format!(
        "host={} port={} user=stats password='{PASSWORD}'",
        pooler.socket_dir().display(),
        pooler.port()
    );
    let text = postgres_section("bare", &to_postgres(postgres.port(), "Odd", PASSWORD))
        + &pgbouncer_section("shared", "bare", &pairs(pooler.port(), "admin", PASSWORD))
        + &pgbouncer_section("socket", "bare", &socket)
        + &pgbouncer_section("refused", "bare", &pairs(pooler.port(), "nobody", PASSWORD));
    let report = report_on(&text).await;
    assert_eq!(report.exit_status(), 1);

    let bare = said(&report, "bare", Level::Missing);
    assert_eq!(bare, ["role Odd is no member of pg_read_all_stats"]);
    let text = report.to_text();
    assert!(text.contains("no lock verdicts"), "{text}");
    assert!(text.contains("GRANT pg_monitor TO \"Odd\";"), "{text}");

    assert!(
        said(&report, "shared", Level::Missing)[0].contains("so_reuseport"),
        "{text}"
    );
    assert!(
        said(&report, "shared", Level::Note)[0].contains("admin_users"),
        "{text}"
    );
    assert_eq!(
        said(&report, "socket", Level::Missing),
        Vec::<String>::new(),
        "{text}"
    );
    let refused = said(&report, "refused", Level::Missing);
    assert!(refused[0].contains("stats_users"), "{refused:?}");
    assert!(said(&report, "[poolers]", Level::Note)[0].contains("complete is false"));
}

#[tokio::test]
async fn what_is_granted_is_no_longer_missing() {
    let postgres = server().await;
    let text = postgres_section("main", &to_postgres(postgres.port(), "Odd", PASSWORD));
    let before = report_on(&text).await;
    let fix = before.findings[0].fix.clone().unwrap();
    postgres.execute("postgres", &fix).await.unwrap();
    let after = report_on(&text).await;
    assert_eq!((before.exit_status(), after.exit_status()), (1, 0));

    let hide = "ALTER ROLE \"Odd\" SET track_activities = off";
    postgres.execute("postgres", hide).await.unwrap();
    let hidden = said(&report_on(&text).await, "main", Level::Missing);
    assert_eq!(hidden, ["track_activities is off"]);
}

#[tokio::test]
async fn every_wrong_address_gets_its_own_sentence() {
    let postgres = server().await;
    let pooler = pooler(&postgres, Vec::new()).await;
    // Says something else than PostgreSQL to whoever connects.
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger_port = stranger.local_addr().unwrap().port();
    let greeting = tokio::spawn(async move {
        while let Ok((mut socket, _)) = stranger.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, b"220 mail ready\r\n").await;
        }
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free_port = free.local_addr().unwrap().port();
    drop(free);

    let main = to_postgres(postgres.port(), "snowpit", PASSWORD);
    let no_host = main.replace("127.0.0.1", "no-such-host.invalid");
    let no_database = main.replace("dbname=postgres", "dbname=nothere");
    let no_password = format!(
        "host=127.0.0.1 port={} user=snowpit dbname=postgres",
        postgres.port()
    );
    let text = [
        postgres_section("good", &main),
        postgres_section(
            "wrong-password",
            &to_postgres(postgres.port(), "snowpit", "tr0ub4dor"),
        ),
        postgres_section("no-password", &no_password),
        postgres_section("no-role", &to_postgres(postgres.port(), "ghost", PASSWORD)),
        postgres_section("no-database", &no_database),
        postgres_section("no-host", &no_host),
        postgres_section("no-server", &to_postgres(free_port, "snowpit", PASSWORD)),
        postgres_section(
            "a-stranger",
            &to_postgres(stranger_port, "snowpit", PASSWORD),
        ),
        postgres_section("a-pooler", &to_postgres(pooler.port(), "stats", PASSWORD)),
        pgbouncer_section(
            "a-server",
            "good",
            &pairs(postgres.port(), "snowpit", PASSWORD),
        ),
        pgbouncer_section(
            "bad-login",
            "good",
            &pairs(pooler.port(), "stats", "tr0ub4dor"),
        ),
        pgbouncer_section(
            "a-stranger-too",
            "good",
            &pairs(stranger_port, "stats", PASSWORD),
        ),
    ]
    .concat();
    let report = report_on(&text).await;
    greeting.abort();
    assert!(
        report.sources[0].up,
        "one failing source must not hide another"
    );
    let expected = [
        (
            "wrong-password",
            vec!["refused the login", "correct user and password"],
        ),
        ("no-password", vec!["wants a password", "password_file"]),
        (
            "no-role",
            vec!["refused the login", "correct user and password"],
        ),
        (
            "no-database",
            vec!["does not exist", "correct the database"],
        ),
        ("no-host", vec!["no-such-host.invalid", "correct the host"]),
        ("no-server", vec!["nothing listens", "start PostgreSQL"]),
        ("a-stranger", vec!["no PostgreSQL", "host and port"]),
        (
            "a-pooler",
            vec!["is a PgBouncer, not PostgreSQL", "[[pgbouncer]]"],
        ),
        (
            "a-server",
            vec!["is PostgreSQL, not a PgBouncer", "[[postgres]]"],
        ),
        (
            "bad-login",
            vec!["refused the login", "correct user and password"],
        ),
        ("a-stranger-too", vec!["no PgBouncer", "host and port"]),
    ];
    let mut wrong = Vec::new();
    for (name, words) in expected {
        let told = said(&report, name, Level::Missing);
        let fits = told.len() == 1
            && words.iter().all(|word| told[0].contains(word))
            && !told[0].contains('\n');
        if !fits {
            wrong.push(format!("{name}: {told:?} should say {words:?}"));
        }
    }
    let text = report.to_text();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for secret in [PASSWORD, "tr0ub4dor"] {
        assert!(
            !text.contains(secret) && !format!("{report:?}").contains(secret),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_exit_status_tells_good_missing_and_bad() {
    let postgres = server().await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = postgres_section("main", &to_postgres(postgres.port(), "snowpit", PASSWORD));
    let bare = postgres_section("main", &to_postgres(postgres.port(), "Odd", PASSWORD));
    let run = |path: &std::path::Path, more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_snowpit"))
            .args(["check", "--config"])
            .arg(path)
            .args(more)
            .output()
            .unwrap()
    };

    let told = run(&file("good.toml", &good), &["--json"]);
    assert_eq!(told.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(json["sources"][0]["name"], "main");
    assert_eq!(json["sources"][0]["up"], true);

    assert_eq!(run(&file("bare.toml", &bare), &[]).status.code(), Some(1));
    assert_eq!(
        run(&file("bare.toml", &bare), &["--offline"]).status.code(),
        Some(0)
    );

    let told = run(
        &file("bad.toml", &format!("{good}intervall = \"1s\"\n")),
        &[],
    );
    assert_eq!(told.status.code(), Some(2));
    let stderr = String::from_utf8(told.stderr).unwrap();
    assert!(
        stderr.contains("bad.toml:4:1: unknown key \"intervall\""),
        "{stderr}"
    );
}
