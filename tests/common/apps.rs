//! Real applications with the metrics clients that people use, from
//! `tests/apps`. `scripts/deps` installs what they need below `.tools`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A Python interpreter may take long on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An application that listens; it is killed when dropped.
pub struct App {
    port: u16,
    _process: Child,
}

impl App {
    /// `prometheus_client` and psycopg; see `tests/apps/python/app.py`.
    pub async fn python(dsn: Option<&str>) -> Self {
        Self::python_on(0, dsn).await
    }

    /// The same on a port that it had before.
    pub async fn python_on(port: u16, dsn: Option<&str>) -> Self {
        let mut command = Command::new(tool("python/bin/python"));
        command.arg(source("python/app.py"));
        command.args(["--port", &port.to_string()]);
        if let Some(dsn) = dsn {
            command.args(["--dsn", dsn]);
        }
        Self::start(command).await
    }

    /// `prom-client`; see `tests/apps/node/app.js`.
    pub async fn node() -> Self {
        let mut command = Command::new("node");
        command.arg(source("node/app.js"));
        command.env("NODE_PATH", tool("node/node_modules"));
        Self::start(command).await
    }

    async fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command
            .spawn()
            .unwrap_or_else(|error| panic!("{error}; run `make deps`"));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(START, lines.next_line()).await;
        let line = line.expect("it starts in time").unwrap();
        let line = line.expect("it ended; its errors are above");
        let port = line.strip_prefix("listening on ").unwrap();
        Self {
            port: port.parse().unwrap(),
            _process: process,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source(path: &str) -> PathBuf {
    root().join("tests/apps").join(path)
}

fn tool(path: &str) -> PathBuf {
    let path = root().join(".tools").join(path);
    let directory = path.parent().unwrap();
    assert!(
        directory.exists(),
        "{} is not there; run `make deps`",
        directory.display()
    );
    path
}
