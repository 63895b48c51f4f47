//! Real applications with the metrics clients that people use, from
//! `tests/apps`. `scripts/deps` installs what they need below `.tools`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A Python interpreter may take long on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An application that listens; it is killed when dropped.
pub struct App {
    port: u16,
    process: Child,
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

    /// Flask and SQLAlchemy with OpenTelemetry, under the name `shop`; see
    /// `tests/apps/otel/app.py`. `protocol` and `endpoint` are those of the
    /// exporter, `database` is the pooler's port.
    pub async fn otel(protocol: &str, endpoint: &str, database: u16) -> Self {
        let database =
            format!("postgresql+psycopg2://app@127.0.0.1:{database}/app?application_name=shop");
        let mut command = Command::new(tool("otel/bin/python"));
        command
            .arg(source("otel/app.py"))
            .env("DATABASE_URL", database)
            .env("OTEL_SERVICE_NAME", "shop")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .env("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "1000")
            .env("OTEL_BSP_SCHEDULE_DELAY", "1000");
        Self::start(command).await
    }

    /// Sends one span with an OpenTelemetry exporter that is set up by these
    /// variables; whether it was taken in, and what the exporter complained of.
    pub async fn sends(variables: &[(&str, &str)]) -> (bool, String) {
        let mut command = Command::new(tool("otel/bin/python"));
        command
            .arg(source("otel/sender.py"))
            .env("OTEL_SERVICE_NAME", "shop")
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
            // Python's requests would believe them before the exporter's own.
            .env_remove("REQUESTS_CA_BUNDLE")
            .env_remove("CURL_CA_BUNDLE")
            .envs(variables.iter().copied())
            .kill_on_drop(true);
        let output = tokio::time::timeout(START, command.output()).await;
        let output = output.expect("it ends in time").unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{complained}");
        (said.trim() == "SUCCESS", complained)
    }

    /// Ends it as a service manager does, so that it can export what it has
    /// left.
    pub async fn stop(mut self) {
        let pid = self.process.id().unwrap();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).unwrap();
        let status = tokio::time::timeout(START, self.process.wait()).await;
        assert!(status.expect("it ends in time").unwrap().success());
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
            process,
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
