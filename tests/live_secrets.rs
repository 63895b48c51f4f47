//! Nothing that is nobody's business leaves the process: no literal of a
//! statement as the server itself reads it, no password, no token.

mod common;

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::Stage;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snowpit::demo::servers::{Postgres, PostgresOptions};
use snowpit::observe::sql;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::SimpleQueryMessage;

/// Statements tried in each way of reading backslashes.
const STATEMENTS: usize = 6_000;

/// What literals, and mistakes in them, are made of.
const PIECES: [&str; 18] = [
    "a", " ", "'", "''", "\\", "\\\\", "\\'", "\"", "$", "$$", "$t$", "/*", "*/", "--", "\n", "U&",
    "E", "?",
];

/// A piece of text around a mark of its own.
fn noise(random: &mut ChaCha8Rng, marks: &mut usize) -> String {
    let mut text = String::new();
    let mut some = |text: &mut String| {
        for _ in 0..random.random_range(0..4) {
            text.push_str(PIECES.choose(random).unwrap_or(&""));
        }
    };
    some(&mut text);
    let _ = write!(text, "Zq{marks}geheim");
    *marks += 1;
    some(&mut text);
    text
}

/// Something that looks like a literal, and often is one.
fn literal(random: &mut ChaCha8Rng, marks: &mut usize) -> String {
    let text = noise(random, marks);
    match random.random_range(0..9) {
        0 => format!("'{text}'"),
        1 => format!("E'{text}'"),
        2 => format!("U&'{text}'"),
        3 => format!("$${text}$$"),
        4 => format!("$t${text}$t$"),
        5 => format!("N'{text}'"),
        6 => format!("'{text}'\n'{}'", noise(random, marks)),
        7 => format!("E'{text}'\n  '{}'", noise(random, marks)),
        _ => format!("'{}'", text.replace('\'', "''").replace('\\', "\\\\")),
    }
}

fn statement(random: &mut ChaCha8Rng) -> String {
    let mut marks = 0;
    let mut text = String::from("SELECT ");
    for item in 0..random.random_range(1..4) {
        if item > 0 {
            text.push_str(
                [", ", " /* it's */ , ", "\n-- don't\n, "]
                    .choose(random)
                    .unwrap_or(&", "),
            );
        }
        text.push_str(&literal(random, &mut marks));
        if random.random_range(0..5) == 0 {
            text.push_str(" || ");
            text.push_str(&literal(random, &mut marks));
        }
    }
    text
}

#[tokio::test]
async fn what_the_server_reads_as_a_literal_does_not_leave() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let client = postgres.connect("postgres", "postgres").await.unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(20_261_121);
    for conforming in ["on", "off"] {
        let settings = format!(
            "SET standard_conforming_strings = {conforming}; SET backslash_quote = on; \
             SET escape_string_warning = off"
        );
        client.batch_execute(&settings).await.unwrap();
        let (mut taken, mut literals) = (0, 0);
        for _ in 0..STATEMENTS {
            let statement = statement(&mut random);
            let Ok(answer) = client.simple_query(&statement).await else {
                continue;
            };
            taken += 1;
            let whole = sql::read(&statement).text;
            let ends: Vec<usize> = statement.char_indices().map(|(at, _)| at).collect();
            let cut = sql::read(&statement[..ends[random.random_range(0..ends.len())]]).text;
            for message in answer {
                let SimpleQueryMessage::Row(row) = message else {
                    continue;
                };
                for value in (0..row.len()).filter_map(|column| row.get(column)) {
                    for mark in marks(value) {
                        literals += 1;
                        assert!(!whole.contains(mark), "{statement}\n-> {whole}");
                        assert!(!cut.contains(mark), "{statement}\n-> {cut}");
                    }
                }
            }
        }
        eprintln!(
            "standard_conforming_strings {conforming}: {taken} of {STATEMENTS} statements taken by the \
             server, {literals} marks in their literals, none left"
        );
        assert!(
            taken > STATEMENTS / 5 && literals > taken,
            "{taken} {literals}"
        );
    }
}

/// The marks in a value.
fn marks(value: &str) -> impl Iterator<Item = &str> {
    value.match_indices("Zq").filter_map(|(at, _)| {
        let end = value[at..].find("geheim")? + "geheim".len();
        let mark = &value[at..at + end];
        mark[2..end - 6]
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(mark)
    })
}

/// Every secret that the daemon below is given, and the literals around it.
const SECRETS: [&str; 9] = [
    "Zq-dsn-geheim",
    "Zq-file-geheim",
    "Zq-variable-geheim",
    "Zq-token-geheim",
    "Zq-scrape-geheim",
    "Zq-pager-geheim",
    "Zq-literal-geheim",
    "Zq-guess-geheim",
    // A hash is as good as a password to who has time.
    "lHD4A1OH6jzbWjdY3qIkmenhTMhRZTzcBZRKW5qWZtq8uDEOGaLCi",
];

const PATHS: [&str; 15] = [
    "/",
    "/metrics",
    "/-/ready",
    "/api/v1/status",
    "/api/v1/targets",
    "/api/v1/incidents",
    "/api/v1/locks",
    "/api/v1/advisory-locks",
    "/api/v1/routes",
    "/api/v1/series?match=snowpit_connections",
    "/api/v1/series?match=Zq-guess-geheim",
    "/api/v1/incidents/Zq-guess-geheim",
    "/Zq-guess-geheim",
    "/runbooks/Zq-guess-geheim",
    "/api/v1/events",
];

/// Everything that lies below a directory, unpacked.
fn files(directory: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|end| end == "zst") {
            let mut whole = Vec::new();
            // The last frame of a killed writer may be open; what is before it counts.
            let _ = zstd::Decoder::new(&bytes[..])
                .unwrap()
                .read_to_end(&mut whole);
            bytes = whole;
        }
        into.push((path.display().to_string(), bytes));
    }
}

#[tokio::test]
async fn no_secret_is_in_anything_that_the_daemon_says() {
    let stage = Stage::start().await;
    stage
        .postgres
        .execute(
            "postgres",
            "CREATE ROLE watcher LOGIN IN ROLE pg_monitor PASSWORD 'Zq-dsn-geheim'",
        )
        .await
        .unwrap();
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        common::certificates::write(home.path(), name, text)
            .display()
            .to_string()
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let history = home.path().join("history");
    let config = format!(
        "[server]\nlisten = \"{address}\"\nbearer_token_file = \"{}\"\n\
         users = {{ reader = \"$2y$10$lHD4A1OH6jzbWjdY3qIkmenhTMhRZTzcBZRKW5qWZtq8uDEOGaLCi\" }}\n\
         [[postgres]]\nname = \"main\"\n\
         dsn = \"postgresql://watcher:Zq-dsn-geheim@127.0.0.1:{}/postgres\"\n\
         [[postgres]]\nname = \"gone\"\n\
         dsn = \"postgresql://u:${{SECRET}}@127.0.0.1:1/d\"\n\
         [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\npassword_file = \"{}\"\n\
         [[service]]\nname = \"registry\"\napplications = [\"registry*\"]\n\
         [service.scrape]\nurl = \"http://127.0.0.1:1/metrics\"\nusername = \"u\"\npassword_file = \"{}\"\n\
         [history]\ndirectory = \"{}\"\ncapture = true\n\
         [alertmanager]\nurls = [\"http://127.0.0.1:1\"]\nusername = \"u\"\npassword_file = \"{}\"\n",
        file("token", "Zq-token-geheim\n"),
        stage.postgres.port(),
        stage.pooler.dsn("stats", "pgbouncer"),
        file("pooler", "Zq-file-geheim\n"),
        file("scrape", "Zq-scrape-geheim\n"),
        history.display(),
        file("pager", "Zq-pager-geheim\n"),
    );
    let config = file("snowpit.toml", &config);

    // Statements of others, with literals, in everything that is shown of them.
    let app = async |name: &str| {
        let client = stage.postgres.connect("app", "app").await.unwrap();
        let sql = format!("SET application_name = '{name}'");
        client.batch_execute(&sql).await.unwrap();
        client
    };
    let blocker = app("registry-blocker").await;
    blocker
        .simple_query("CREATE TABLE packages (name text)")
        .await
        .unwrap();
    let begin =
        "BEGIN; LOCK TABLE packages; SELECT E'\\'Zq-literal-geheim', pg_advisory_lock(4711)";
    blocker.simple_query(begin).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..3 {
        let client = app(&format!("registry-{n}")).await;
        waiting.push(tokio::spawn(async move {
            let wait = "/*route='GET /packages',x='Zq-literal-geheim'*/ \
                 UPDATE packages SET name = $q$Zq-literal-geheim$q$ WHERE name = 'Zq-literal-geheim'";
            let _ = client.batch_execute(wait).await;
        }));
    }
    let left = stage.client("app", "registry-left").await;
    let leave = "SELECT pg_advisory_lock(4712), 'Zq-literal-geheim'";
    left.simple_query(leave).await.unwrap();
    drop(left);

    let log = std::fs::File::create(home.path().join("log")).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(["run", "--config", &config])
        .env("RUST_LOG", "trace")
        .env("SECRET", "Zq-variable-geheim")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let incidents = tell(&format!("http://{address}"), &mut said).await;
    assert!(incidents.contains("registry-blocker"), "{incidents}");
    assert!(incidents.contains("orphaned_advisory_lock"), "{incidents}");
    let pid = nix::unistd::Pid::from_raw(daemon.id().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    sleep(Duration::from_secs(1)).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    timeout(Duration::from_secs(30), daemon.wait())
        .await
        .unwrap()
        .unwrap();

    for arguments in [
        vec!["check", "--config", &config],
        vec!["locks", "--config", &config],
        vec!["locks", "--json", "--config", &config],
        vec!["incidents", "--config", &config],
        vec!["replay", "--config", &config, history.to_str().unwrap()],
        vec![
            "locks",
            "--dsn",
            "postgresql://u:Zq-guess-geheim@127.0.0.1:1/d",
        ],
        vec![
            "locks",
            "--dsn",
            "postgresql://u:Zq-guess-geheim@a@127.0.0.1:1/d",
        ],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_snowpit"))
            .args(&arguments)
            .env("RUST_LOG", "trace")
            .env("SECRET", "Zq-variable-geheim")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        said.push((
            arguments.join(" ").replace("Zq-", ""),
            [output.stdout, output.stderr].concat(),
        ));
    }
    files(&history, &mut said);
    said.push((
        "log".into(),
        std::fs::read(home.path().join("log")).unwrap(),
    ));
    drop(blocker);

    let bytes: usize = said.iter().map(|(_, text)| text.len()).sum();
    for (what, text) in &said {
        let text = String::from_utf8_lossy(text);
        for secret in SECRETS {
            let at = text.find(secret);
            let around =
                at.map(|at| &text[text[..at].floor_char_boundary(at.saturating_sub(200))..]);
            assert!(at.is_none(), "{secret} is in {what}: {around:.400?}");
        }
    }
    let log = said.last().map_or(0, |(_, text)| text.len());
    eprintln!(
        "{} outputs, {bytes} bytes, {log} of them of a log at level trace",
        said.len()
    );
    assert!(said.len() > PATHS.len() + 7 && log > 50_000);
}

/// Asks for everything, rightly and wrongly, until the incidents are told; gives
/// those back.
async fn tell(url: &str, said: &mut Vec<(String, Vec<u8>)>) -> String {
    snowpit::observe::tls::use_ring();
    let client = reqwest::Client::new();
    let began = Instant::now();
    let incidents = loop {
        let ask = client
            .get(format!("{url}/api/v1/incidents"))
            .bearer_auth("Zq-token-geheim");
        let text = match ask.send().await {
            Ok(answer) => answer.text().await.unwrap(),
            Err(_) => String::new(),
        };
        if text.contains("registry-blocker") && text.contains("orphaned_advisory_lock") {
            break text;
        }
        if began.elapsed() > Duration::from_secs(60) {
            break text;
        }
        sleep(Duration::from_millis(200)).await;
    };
    for path in PATHS {
        let mut right = client
            .get(format!("{url}{path}"))
            .bearer_auth("Zq-token-geheim")
            .send()
            .await
            .unwrap();
        let mut text = format!("{:?}", right.headers()).into_bytes();
        // A stream does not end by itself.
        let _ = timeout(Duration::from_secs(3), async {
            while let Ok(Some(chunk)) = right.chunk().await {
                text.extend_from_slice(&chunk);
            }
        })
        .await;
        // A path that somebody made up may come back to them; nobody else reads it.
        if !path.contains("Zq-guess") {
            said.push((path.to_owned(), text));
        }
        let wrong = client
            .get(format!("{url}{path}"))
            .basic_auth("reader", Some("Zq-guess-geheim"));
        if let Ok(answer) = wrong.send().await {
            let headers = format!("{:?}", answer.headers());
            said.push((format!("{path}, refused"), headers.into_bytes()));
        }
    }
    incidents
}
