//! `snowpit locks --watch`, in a pseudo terminal and without one.

mod common;

use std::process::Stdio;
use std::time::Duration;

use snowpit::demo::servers::{Postgres, PostgresOptions};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A look a second on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const COLUMNS: usize = 80;
const ROWS: usize = 24;
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A shell in a terminal of its own, of 80 columns, which says how the terminal
/// is set when the program is over.
struct Terminal {
    child: Child,
    out: ChildStdout,
    seen: String,
}

impl Terminal {
    fn start(arguments: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_snowpit");
        let shell = format!(
            "stty rows {ROWS} cols {COLUMNS}; before=$(stty -g); \
             '{program}' locks --watch {arguments}; echo \"status $?\"; \
             [ \"$before\" = \"$(stty -g)\" ] && echo terminal as before || echo terminal changed"
        );
        let mut child = Command::new("script")
            .args(["-q", "-c", &shell, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("script runs; it comes with Debian's package bsdutils");
        let out = child.stdout.take().unwrap();
        Self {
            child,
            out,
            seen: String::new(),
        }
    }

    async fn until(&mut self, text: &str) {
        let reading = async {
            let mut buffer = [0; 4096];
            while !self.seen.contains(text) {
                let read = self.out.read(&mut buffer).await.unwrap();
                assert!(read > 0, "over before {text:?}: {}", self.seen);
                self.seen += &String::from_utf8_lossy(&buffer[..read]);
            }
        };
        let late = timeout(PATIENCE, reading).await.is_err();
        assert!(!late, "no {text:?}: {}", self.seen);
    }

    async fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    /// What the program left behind: its exit status and a terminal as before.
    async fn assert_restored(&mut self, status: &str) {
        self.until("terminal as").await;
        self.until("before").await;
        let (_, after) = self.seen.rsplit_once(LEAVE).expect("the screen is left");
        assert!(after.contains(status), "{after}");
        assert!(after.contains("terminal as before"), "{after}");
        let shown = self.seen.rfind("\x1b[?25h").unwrap();
        let hidden = self.seen.rfind("\x1b[?25l").unwrap();
        assert!(shown > hidden, "the cursor is shown again");
    }
}

async fn server() -> (Postgres, String) {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let dsn = postgres.dsn("postgres", "postgres");
    (postgres, format!("--dsn '{dsn}'"))
}

/// The rows that were drawn: what stands behind each move of the cursor.
fn rows(seen: &str) -> Vec<&str> {
    let drawn = seen.split(ENTER).nth(1).unwrap_or_default();
    let drawn = drawn.split(LEAVE).next().unwrap_or_default();
    drawn
        .split("\x1b[K")
        .filter_map(|row| row.rsplit_once('H').map(|(_, text)| text))
        .collect()
}

#[tokio::test]
async fn it_refreshes_in_place_and_gives_the_terminal_back() {
    let (postgres, arguments) = server().await;
    let mut terminal = Terminal::start(&arguments);
    terminal.until(ENTER).await;
    terminal.until("Nobody waits for a lock.").await;

    let owner = postgres.connect("postgres", "postgres").await.unwrap();
    owner
        .batch_execute("BEGIN; SELECT pg_advisory_lock(42424242424242)")
        .await
        .unwrap();
    terminal.until("42424242424242").await;
    let waiter = postgres.connect("postgres", "postgres").await.unwrap();
    let waiting = tokio::spawn(async move {
        let _ = waiter
            .batch_execute("SELECT pg_advisory_lock(42424242424242)")
            .await;
    });
    terminal.until("blocks 1").await;
    assert_eq!(terminal.seen.matches(ENTER).count(), 1);
    let drawn = rows(&terminal.seen);
    assert!(drawn.len() > ROWS, "{drawn:?}");
    for row in drawn {
        let text: String = row.chars().filter(|c| *c != '\r' && *c != '\n').collect();
        assert!(text.chars().count() <= COLUMNS, "{text:?}");
    }
    terminal.press("q").await;
    terminal.assert_restored("status 0").await;
    waiting.abort();
}

#[tokio::test]
async fn control_c_leaves_and_a_small_terminal_scrolls() {
    let (postgres, arguments) = server().await;
    let owner = postgres.connect("postgres", "postgres").await.unwrap();
    for key in 1000..1040 {
        let sql = format!("SELECT pg_advisory_lock({key})");
        owner.batch_execute(&sql).await.unwrap();
    }
    let mut terminal = Terminal::start(&arguments);
    terminal.until("more lines below").await;
    assert!(!terminal.seen.contains("1039"));
    terminal.press("   ").await;
    terminal.until("1039").await;
    terminal.press("\x03").await;
    terminal.assert_restored("status 0").await;
}

#[tokio::test]
async fn without_a_terminal_looks_follow_each_other() {
    let (postgres, _) = server().await;
    let dsn = postgres.dsn("postgres", "postgres");
    for (json, expected) in [
        (false, "Nobody waits for a lock."),
        (true, "\"targets\": ["),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
        command.args(["locks", "--watch", "--dsn", &dsn]);
        if json {
            command.arg("--json");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut found = 0;
        let reading = async {
            while found < 3 {
                let line = lines.next_line().await.unwrap().expect("it goes on");
                assert!(!line.contains('\x1b'), "{line:?}");
                found += usize::from(line.contains(expected));
            }
        };
        timeout(PATIENCE, reading).await.expect("three looks");
        // Nobody reads any more: it notices and ends.
        drop(lines);
        let ended = timeout(PATIENCE, child.wait()).await;
        assert_eq!(ended.expect("it ends").unwrap().code(), Some(0));
    }
}
