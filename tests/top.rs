//! `snowpit top` in a real terminal, on real servers.

mod common;

use std::process::{Command, Stdio};

use common::Stage;
use common::certificates::{Authority, Holds};
use common::daemon::Daemon;
use common::tmux::{Tmux, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;

const KEY: i64 = 42_424_242_424_242;

/// What a terminal would obey, in the name of a table: a title, a colour that
/// nothing of ours has, the direction of text.
const EVIL: &str = "evil\u{1b}]0;gone\u{7}\u{1b}[35;5m\u{202e}🙂עברית語";

/// The lock is taken through the pool, and who took it goes.
async fn orphan(stage: &Stage) {
    let client = stage.client("app", "gateway").await;
    let lock = format!("SELECT pg_advisory_lock({KEY})");
    client.simple_query(&lock).await.unwrap();
}

/// Somebody waits for a table of that name, until the task is aborted.
async fn pile_up(stage: &Stage, table: &str) -> JoinHandle<()> {
    // Names are those of the database that snowpit is in.
    let owner = stage
        .postgres
        .connect("postgres", "postgres")
        .await
        .unwrap();
    let quoted = table.replace('"', "\"\"");
    owner
        .batch_execute(&format!("CREATE TABLE \"{quoted}\" (id int)"))
        .await
        .unwrap();
    // Ten kilobytes of a statement, wide and narrow.
    let long = "語x ".repeat(2500);
    owner
        .batch_execute(&format!(
            "BEGIN; LOCK TABLE \"{quoted}\"; SELECT 1 AS \"{long}\""
        ))
        .await
        .unwrap();
    let waiter = stage
        .postgres
        .connect("postgres", "postgres")
        .await
        .unwrap();
    tokio::spawn(async move {
        let _ = waiter
            .batch_execute(&format!("SELECT * FROM \"{quoted}\""))
            .await;
        drop(owner);
    })
}

/// What every colour of the sixteen begins with.
const COLOUR: &[u8] = b"\x1b[38;5;";

fn has(raw: &[u8], bytes: &[u8]) -> bool {
    raw.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_shows_what_the_daemon_knows() {
    let stage = Stage::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(directory.path(), &stage.configuration(""));
    daemon.ready().await;

    let tmux = Tmux::start(80, 24);
    tmux.run("stty -g > before");
    // Without an address it is that of the file.
    let config = daemon.config.display();
    let line = format!("{} top --config '{config}'; echo \"status $?\"", program());
    tmux.run(&line);
    tmux.sees("● live").await;
    tmux.sees("main").await;
    assert_eq!(tmux.fact("alternate_on"), "1");

    orphan(&stage).await;
    tmux.sees("orphaned advisory lock").await;
    tmux.sees("→ RECONNECT app;").await;
    tmux.press(&["3"]);
    let screen = tmux.sees("▲ orphaned").await;
    assert!(screen.contains(&KEY.to_string()), "{screen}");
    tmux.press(&["2"]);
    tmux.sees("What to do").await;
    tmux.press(&["End"]);
    tmux.sees("What was said when").await;
    tmux.press(&["Tab"]);
    tmux.sees("Who blocks whom").await;
    tmux.press(&["4"]);
    tmux.sees("No application tells of its routes").await;
    tmux.press(&["5"]);
    tmux.sees("The newest 200").await;
    tmux.press(&["j", "Enter"]);
    tmux.sees("What to do").await;
    tmux.press(&["Escape"]);
    tmux.sees("The newest 200").await;
    tmux.press(&["?"]);
    tmux.sees("Shift-Tab").await;
    tmux.press(&["x"]);

    // The command as it is, outside of the screen.
    tmux.press(&["2"]);
    tmux.sees("What to do").await;
    tmux.press(&["c"]);
    let screen = tmux.sees("Any key goes back.").await;
    assert!(
        screen.lines().any(|row| row.starts_with("RECONNECT app;")),
        "{screen}"
    );
    tmux.press(&["x"]);
    tmux.sees("What to do").await;

    // Names and statements from outside at both sizes, while it runs.
    let waiting = pile_up(&stage, EVIL).await;
    tmux.press(&["3"]);
    tmux.sees("evil‹001B›]0;gone‹0007›").await;
    tmux.resize(200, 50);
    let screen = tmux
        .until("two columns", |screen| {
            let mut rows = screen.lines();
            rows.any(|row| row.contains("Who blocks whom") && row.contains("Advisory locks"))
        })
        .await;
    // What stands beside each other stays in its column.
    let column = |row: &str| row.chars().position(|c| c == '│');
    let head = screen
        .lines()
        .find(|row| row.contains("Who blocks whom"))
        .unwrap();
    assert!(column(head).is_some(), "{screen}");
    tmux.press(&["j", "Enter"]);
    tmux.sees("Esc back").await;
    tmux.press(&["Escape"]);
    tmux.resize(80, 24);
    tmux.until("one column", |screen| {
        let mut rows = screen.lines();
        let beside = rows.any(|row| row.contains("Who blocks whom") && row.contains('│'));
        screen.contains("q leave") && !beside
    })
    .await;
    let raw = tmux.raw();
    for bytes in [
        &b"\x1b]0;"[..],
        b"\x07",
        b"\x1b[35;5m",
        "\u{202e}".as_bytes(),
    ] {
        assert!(!has(&raw, bytes), "{bytes:?} reached the terminal");
    }
    assert!(has(&raw, COLOUR));
    assert_ne!(tmux.fact("pane_title"), "gone");
    waiting.abort();

    // The daemon goes, and comes back.
    daemon.signal(Signal::SIGTERM);
    daemon.ended().await;
    let screen = tmux.sees("Stale since").await;
    assert!(screen.contains("▲ stale"), "{screen}");
    daemon.start_again(|_| {});
    tmux.sees("● live").await;

    // A shell has the terminal for a while.
    tmux.press(&["1"]);
    tmux.press(&["C-z"]);
    tmux.sees("Stopped").await;
    assert_eq!(tmux.fact("alternate_on"), "0");
    tmux.run("fg; echo \"ended $?\"");
    tmux.sees("● live").await;
    assert_eq!(tmux.fact("alternate_on"), "1");

    tmux.press(&["q"]);
    tmux.sees("ended 0").await;
    assert_restored(&tmux).await;
}

/// The terminal is as it was before, and the shell has it.
async fn assert_restored(tmux: &Tmux) {
    assert_eq!(tmux.fact("alternate_on"), "0");
    assert_eq!(tmux.fact("cursor_flag"), "1");
    tmux.run("stty -g | cmp - before && echo as it was");
    tmux.until("the same settings", |screen| {
        screen.lines().any(|row| row == "as it was")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_daemon_it_looks_by_itself() {
    let stage = Stage::start().await;
    let tmux = Tmux::start(200, 50);
    tmux.run("stty -g > before");
    let line = format!(
        "NO_COLOR=1 {} top --dsn '{}' --pooler-dsn '{}'; echo \"status $?\"",
        program(),
        stage.postgres.dsn("postgres", "postgres"),
        stage.pooler.dsn("stats", "pgbouncer"),
    );
    tmux.run(&line);
    tmux.sees("● live").await;
    orphan(&stage).await;
    tmux.sees("orphaned advisory lock").await;
    tmux.press(&["3"]);
    tmux.sees("▲ orphaned").await;
    // It only reads: its one session says so, and nobody listens.
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'snowpit'";
    let asker = stage
        .postgres
        .connect("postgres", "postgres")
        .await
        .unwrap();
    let sessions: i64 = asker.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(sessions, 1);
    // Told to end by somebody else it gives the terminal back, too.
    let raw = tmux.raw();
    assert!(!has(&raw, COLOUR), "NO_COLOR");
    tmux.press(&["C-c"]);
    tmux.sees("status 0").await;
    assert_restored(&tmux).await;
}

#[tokio::test]
async fn a_signal_gives_the_terminal_back() {
    let stage = Stage::start().await;
    let tmux = Tmux::start(80, 24);
    tmux.run("stty -g > before");
    let dsn = stage.postgres.dsn("postgres", "postgres");
    let line = format!("{} top --dsn '{dsn}'; echo \"status $?\"", program());
    tmux.run(&line);
    tmux.sees("● live").await;
    // The child of the shell in the pane.
    let shell = tmux.fact("pane_pid");
    let children = Command::new("pgrep").args(["-P", &shell]).output().unwrap();
    let pid: i32 = String::from_utf8_lossy(&children.stdout)
        .trim()
        .parse()
        .unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    tmux.sees("status 0").await;
    assert_restored(&tmux).await;
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused_with_a_remedy() {
    // No terminal.
    let output = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .arg("top")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("snowpit locks") && said.contains("/api/v1/"),
        "{said}"
    );

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = nobody.local_addr().unwrap().port();
    let cases = [
        (
            format!("--url http://ops:s3cret@127.0.0.1:{nobody}"),
            1,
            "snowpit run",
        ),
        (
            "--url ops:s3cret@127.0.0.1".to_owned(),
            2,
            "http://127.0.0.1:9899",
        ),
        ("--dsn nonsense".to_owned(), 2, "postgresql://user@host"),
        (
            "--dsn postgresql://u@h/d --url http://h".to_owned(),
            2,
            "cannot be used with",
        ),
        ("--config none.toml".to_owned(), 2, "snowpit init"),
    ];
    for (options, status, remedy) in cases {
        let tmux = Tmux::start(200, 50);
        tmux.run(&format!(
            "clear; {} top {options}; echo \"status $?\"",
            program()
        ));
        let screen = tmux.sees(&format!("status {status}")).await;
        let typed = screen.find("echo").unwrap_or(0);
        let said = &screen[typed..];
        assert!(said.contains(remedy), "{options}: {screen}");
        let told = said.split_once('\n').map_or("", |(_, told)| told);
        assert!(!told.contains("s3cret"), "{screen}");
        assert!(!screen.contains('●'), "it never took the terminal");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_daemon_is_asked_as_somebody() {
    let stage = Stage::start().await;
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let authority = Authority::new("here");
    let own = authority.server(&["127.0.0.1"], Holds::Now);
    let files = [
        ("ca.pem", authority.pem()),
        ("cert.pem", &own.certificate),
        ("key.pem", &own.key),
        ("token", "a-token-that-nobody-guesses\n"),
        ("wrong", "another-token-of-somebody\n"),
    ];
    for (name, text) in files {
        let file = here.join(name);
        std::fs::write(&file, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).unwrap();
    }
    let hash = bcrypt::hash("s3cret", 4).unwrap();
    let place = here.display();
    let guarded = format!(
        "[server]\ntls = {{ cert_file = \"{place}/cert.pem\", key_file = \"{place}/key.pem\" }}\n\
         users = {{ ops = \"{hash}\" }}\nbearer_token_file = \"{place}/token\"\n"
    );
    let text = stage.configuration("").replacen("[server]\n", &guarded, 1);
    let daemon = Daemon::start(here, &text);
    let address = &daemon.address;
    let tmux = Tmux::start(200, 50);
    let cases = [
        (
            format!("--url https://ops:s3cret@{address} --ca-file ca.pem"),
            "● live",
        ),
        (
            format!("--url https://{address} --ca-file ca.pem --bearer-token-file token"),
            "● live",
        ),
        (
            "--config snowpit.toml --ca-file ca.pem --bearer-token-file token".to_owned(),
            "● live",
        ),
        (
            format!("--url https://{address} --ca-file ca.pem"),
            "--bearer-token-file, or user:password@",
        ),
        (
            format!("--url https://ops:wrong@{address} --ca-file ca.pem"),
            "does not know this user",
        ),
        (
            format!("--url https://{address} --ca-file ca.pem --bearer-token-file wrong"),
            "does not know this user",
        ),
        (
            format!("--url https://ops:s3cret@{address}"),
            "nothing answers",
        ),
    ];
    tmux.run(&format!("cd '{place}'"));
    for (options, expected) in cases {
        // A wrong password makes the next look wait for a moment.
        let line = format!(
            "clear; until [ -e over ]; do {} top {options}; sleep 1; done; echo o''ver",
            program()
        );
        tmux.run(&line);
        let screen = tmux.sees(expected).await;
        let (_, told) = screen.split_once("o''ver").unwrap_or(("", &screen));
        assert!(!told.contains("s3cret"), "{screen}");
        std::fs::write(here.join("over"), "").unwrap();
        if expected == "● live" {
            tmux.press(&["q"]);
        }
        tmux.until("the end of the loop", |screen| {
            screen.lines().any(|row| row == "over")
        })
        .await;
        std::fs::remove_file(here.join("over")).unwrap();
    }
    drop(daemon);
}
