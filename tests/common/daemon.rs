//! snowpit as a process of its own, as an operator has it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// Longer than anything takes on a machine that does three times as much as it
/// can.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with its configuration file and its log. Dropping it kills it.
pub struct Daemon {
    pub process: Child,
    /// Without a slash at the end.
    pub url: String,
    pub address: String,
    pub config: PathBuf,
    log: PathBuf,
    client: reqwest::Client,
}

impl Daemon {
    /// Starts one below `directory`. In `text`, `127.0.0.1:0` is the address to
    /// listen at.
    pub fn start(directory: &Path, text: &str) -> Self {
        Self::start_as(directory, text, |_| {})
    }

    /// The same, with a command that `change` has changed.
    pub fn start_as(directory: &Path, text: &str, change: impl Fn(&mut Command)) -> Self {
        snowpit::observe::tls::use_ring();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let config = directory.join("snowpit.toml");
        let log = directory.join("snowpit.log");
        fs::write(&config, text.replace("127.0.0.1:0", &address)).unwrap();
        let process = spawn(&config, &log, change);
        let daemon = Self {
            process,
            url: format!("http://{address}"),
            address,
            config,
            log,
            client: reqwest::Client::new(),
        };
        daemon.write(text);
        daemon
    }

    /// Another life, after the last one has ended.
    pub fn start_again(&mut self, change: impl Fn(&mut Command)) {
        self.process = spawn(&self.config, &self.log, change);
    }

    pub fn pid(&self) -> i32 {
        self.process.id().expect("it runs").cast_signed()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Another configuration, which nobody has read yet.
    pub fn write(&self, text: &str) {
        fs::write(&self.config, text.replace("127.0.0.1:0", &self.address)).unwrap();
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The answer at a path; `None` while there is none.
    pub async fn text(&self, path: &str) -> Option<String> {
        let request = self.client.get(format!("{}{path}", self.url));
        let answer = request.timeout(Duration::from_secs(10)).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    pub async fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.text(path).await?).ok()
    }

    /// Status and body of a POST.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = self.client.post(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap())
    }

    /// The sum of the series of a metric whose lines have `part` in them; `None`
    /// without one.
    pub async fn metric(&self, name: &str, part: &str) -> Option<f64> {
        let page = self.text("/metrics").await?;
        sum(&page, name, part)
    }

    /// The incidents that are open or were.
    pub async fn incidents(&self) -> Vec<Value> {
        let answer = self.json("/api/v1/incidents").await;
        let incidents = answer.and_then(|answer| answer["incidents"].as_array().cloned());
        incidents.unwrap_or_default()
    }

    /// Waits until every source was tried once.
    pub async fn ready(&self) {
        until("ready", async || self.text("/-/ready").await).await;
    }

    /// How it ended, and after how long.
    pub async fn ended(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        (ended.expect("it ends").unwrap(), began.elapsed())
    }
}

/// The sum of the series of a metric on a page.
pub fn sum(page: &str, name: &str, part: &str) -> Option<f64> {
    let mut lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(part)
    });
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    let first = value(lines.next()?);
    Some(lines.map(value).fold(first, |a, b| a + b))
}

fn spawn(config: &Path, log: &Path, change: impl Fn(&mut Command)) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
    command.arg("run").arg("--config").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log).kill_on_drop(true);
    change(&mut command);
    command.spawn().unwrap()
}

/// Looks again and again until there is something.
pub async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "not {what}");
        sleep(Duration::from_millis(50)).await;
    }
}
