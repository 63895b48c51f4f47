//! What the tests of faults stand on: a daemon that is followed closely, a second
//! target that must not notice, and the rows of docs/faults.md.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use snowpit::daemon::{self, RunningDaemon};
use snowpit::demo::servers::{Postgres, PostgresOptions};
use snowpit::engine::incident::{Effect, Event, Incident, Kind};
use snowpit::observe::poll::unix_now;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Nothing here takes so long, even where three programs share two cores.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks of a test.
const LOOK: Duration = Duration::from_millis(50);

/// A gap of the second target's polls that a loaded machine does not explain.
const GAP: f64 = 15.0;

/// A daemon that watches what is staged, and `spare`, which nothing is done to.
pub struct Watch {
    daemon: RunningDaemon,
    effects: broadcast::Receiver<Arc<Effect>>,
    told: Vec<Arc<Effect>>,
    neighbour: Arc<Mutex<Neighbour>>,
    follower: Follower,
    _spare: Postgres,
}

/// Ends with its value.
struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was seen of `spare` in the metrics.
#[derive(Debug, Default, Clone)]
struct Neighbour {
    looks: u32,
    /// Longest that the newest success was ago, seconds.
    oldest: f64,
    failures: f64,
    dropped: f64,
}

/// The value of the first series of a page that begins like this.
pub fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The sum over all series that begin like this.
pub fn sum(page: &str, series: &str) -> f64 {
    let lines = page.lines().filter(|line| line.starts_with(series));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

impl Watch {
    /// Starts a daemon with this configuration and `spare`.
    pub async fn start(configuration: &str) -> Self {
        snowpit::observe::tls::use_ring();
        let spare = Postgres::start(PostgresOptions::default()).await.unwrap();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n{configuration}\n\
             [[postgres]]\nname = \"spare\"\ndsn = \"{}\"\n",
            spare.dsn("postgres", "postgres")
        );
        let daemon = daemon::start(super::parse(&text)).await.unwrap();
        let effects = daemon.effects();
        let neighbour = Arc::new(Mutex::new(Neighbour::default()));
        let page = format!("http://{}/metrics", daemon.address());
        let follower = Follower(tokio::spawn(follow(page, Arc::clone(&neighbour))));
        let mut watch = Self {
            daemon,
            effects,
            told: Vec::new(),
            neighbour,
            follower,
            _spare: spare,
        };
        watch
            .until("spare is seen", async |watch| watch.is_up("spare").await)
            .await;
        watch
    }

    pub async fn get(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.daemon.address());
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").await
    }

    /// One source of `/api/v1/status`.
    pub async fn source(&self, name: &str) -> Value {
        let status: Value = serde_json::from_str(&self.get("/api/v1/status").await).unwrap();
        let sources = status["sources"].as_array().unwrap();
        let found = sources.iter().find(|source| source["name"] == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {status}"))
            .clone()
    }

    pub async fn is_up(&self, name: &str) -> bool {
        self.source(name).await["up"] == true
    }

    /// Why the newest look failed; empty while it did not.
    pub async fn last_error(&self, name: &str) -> String {
        let source = self.source(name).await;
        source["last_error"].as_str().unwrap_or_default().to_owned()
    }

    /// Looks of a source that failed, by all reasons.
    pub async fn failures(&self, name: &str) -> u64 {
        let source = self.source(name).await;
        let failures = source["failures"].as_object().unwrap();
        failures.values().filter_map(Value::as_u64).sum()
    }

    /// The reasons for which looks of a source failed so far, in their order.
    pub async fn reasons(&self, name: &str) -> Vec<String> {
        let source = self.source(name).await;
        let failures = source["failures"].as_object().unwrap();
        let counted = failures
            .iter()
            .filter(|(_, count)| count.as_u64() != Some(0));
        let mut reasons: Vec<_> = counted.map(|(reason, _)| reason.clone()).collect();
        reasons.sort_unstable();
        reasons
    }

    /// No look of a source failed for another reason than this so far.
    pub async fn failed_only(&self, name: &str, reason: &str) {
        let reasons = self.reasons(name).await;
        assert!(reasons.iter().all(|told| told == reason), "{reasons:?}");
    }

    pub fn snapshot(&self) -> Arc<snowpit::engine::Snapshot> {
        self.daemon.snapshot()
    }

    /// Waits for something; how long it took.
    pub async fn until(
        &mut self,
        what: &str,
        mut seen: impl AsyncFnMut(&mut Self) -> bool,
    ) -> Duration {
        let began = Instant::now();
        while !seen(self).await {
            if began.elapsed() > PATIENCE {
                let sources = self.get("/api/v1/status").await;
                panic!(
                    "not within {PATIENCE:?}: {what}; told {:#?}; {sources}",
                    self.summaries()
                );
            }
            sleep(LOOK).await;
        }
        began.elapsed()
    }

    /// Until a source is seen, or not seen.
    pub async fn until_up(&mut self, name: &str, up: bool) -> Duration {
        let what = format!("{name} up = {up}");
        self.until(&what, async |watch| watch.is_up(name).await == up)
            .await
    }

    /// All changes of incidents so far.
    pub fn told(&mut self) -> &[Arc<Effect>] {
        while let Ok(effect) = self.effects.try_recv() {
            self.told.push(effect);
        }
        &self.told
    }

    /// What opened, with its sentence.
    pub fn summaries(&mut self) -> Vec<String> {
        let told = self.told().iter();
        told.filter(|effect| effect.event == Event::Opened)
            .map(|effect| {
                format!(
                    "{} {}: {}",
                    effect.incident.target,
                    effect.incident.kind.as_str(),
                    effect.incident.summary
                )
            })
            .collect()
    }

    /// The newest record of an open incident of a kind.
    pub fn open(&self, kind: Kind) -> Option<Arc<Incident>> {
        let snapshot = self.snapshot();
        snapshot
            .open
            .iter()
            .find(|incident| incident.kind == kind)
            .cloned()
    }

    /// Until an incident of this kind is open and as wanted.
    pub async fn until_open(
        &mut self,
        kind: Kind,
        wanted: impl Fn(&Incident) -> bool,
    ) -> (Arc<Incident>, Duration) {
        let mut found = None;
        let what = format!("an open {}", kind.as_str());
        let took = self
            .until(&what, async |watch| {
                found = watch.open(kind).filter(|incident| wanted(incident));
                found.is_some()
            })
            .await;
        (found.unwrap(), took)
    }

    pub async fn until_over(&mut self, kind: Kind) -> Duration {
        let what = format!("{} over", kind.as_str());
        self.until(&what, async |watch| watch.open(kind).is_none())
            .await
    }

    /// No incident of another kind than these was ever opened.
    pub fn only(&mut self, kinds: &[Kind]) {
        let other: Vec<_> = self
            .told()
            .iter()
            .filter(|effect| !kinds.contains(&effect.incident.kind))
            .map(|effect| effect.incident.summary.clone())
            .collect();
        assert_eq!(other, Vec::<String>::new());
    }

    /// The second target was polled all the while, nothing was dropped, and the
    /// daemon ends when it is told to. The longest gap, in words.
    pub async fn end(mut self) -> String {
        let seen = self.neighbour.lock().unwrap().clone();
        assert!(seen.looks > 0, "nobody followed");
        assert_eq!(seen.failures, 0.0, "looks at spare failed");
        assert_eq!(seen.dropped, 0.0, "samples were dropped");
        assert!(
            seen.oldest < GAP,
            "spare was not seen for {} s",
            seen.oldest
        );
        let told = self.told().iter();
        let of_spare = told
            .filter(|effect| effect.incident.target == "spare")
            .count();
        assert_eq!(of_spare, 0, "{:?}", self.summaries());
        drop(self.follower);
        let limit = Duration::from_secs(10);
        let end = tokio::time::timeout(3 * limit, self.daemon.shutdown(limit));
        end.await.unwrap();
        format!("{:.1} s", seen.oldest)
    }
}

async fn follow(url: String, neighbour: Arc<Mutex<Neighbour>>) {
    loop {
        if let Ok(answer) = reqwest::get(&url).await
            && let Ok(page) = answer.text().await
        {
            let labels = "{source=\"postgres\",name=\"spare\"}";
            let last = format!("snowpit_source_last_success_timestamp_seconds{labels}");
            let failures = "snowpit_poll_failures_total{source=\"postgres\",name=\"spare\"";
            let mut seen = neighbour.lock().unwrap();
            if let Some(at) = value(&page, &last).filter(|at| *at > 0.0) {
                seen.looks += 1;
                seen.oldest = seen.oldest.max(unix_now() - at);
            }
            seen.failures = sum(&page, failures);
            seen.dropped = sum(&page, "snowpit_dropped_samples_total");
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// One row of docs/faults.md, which `scripts/faults` collects.
#[derive(Debug, Default)]
pub struct Row<'a> {
    pub section: &'a str,
    pub staged: &'a str,
    pub says: String,
    pub within: Option<Duration>,
    pub again: Option<Duration>,
    pub lost: String,
    pub test: &'a str,
}

impl Row<'_> {
    pub fn print(&self) {
        let seconds = |time: Option<Duration>| {
            time.map_or_else(
                || "–".to_owned(),
                |time| format!("{:.1} s", time.as_secs_f64()),
            )
        };
        let lost = match self.lost.strip_prefix("1 looks") {
            Some(rest) => format!("1 look{rest}"),
            None => self.lost.clone(),
        };
        println!(
            "\nFAULT\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            self.section,
            self.staged,
            self.says,
            seconds(self.within),
            seconds(self.again),
            lost,
            self.test
        );
    }
}

/// Sessions of ours that a server has.
pub async fn own_sessions(postgres: &Postgres) -> Vec<(i32, f64)> {
    let eyes = postgres.connect("postgres", "postgres").await.unwrap();
    let sql = "SELECT pid, extract(epoch FROM backend_start)::float8 FROM pg_stat_activity \
               WHERE application_name = 'snowpit' ORDER BY pid";
    let rows = eyes.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Processes of a server that are on their way in and have not got there.
pub fn logging_in(postgres: &Postgres) -> usize {
    let pid = postgres.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let titles = children.split_whitespace().filter_map(|child| {
        let title = std::fs::read(format!("/proc/{child}/cmdline")).ok()?;
        Some(String::from_utf8_lossy(&title).into_owned())
    });
    let from_here = titles.filter(|title| title.contains("127.0.0.1("));
    let coming = |title: &String| title.contains("startup") || title.contains("authentication");
    from_here.filter(coming).count()
}

/// The programs of another version of PostgreSQL; in CI they must be there.
pub fn programs(version: &str) -> Option<std::path::PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = std::process::Command::new(root.join("scripts/tools"))
        .output()
        .unwrap();
    let tools = String::from_utf8(output.stdout).unwrap();
    let bindir = std::path::Path::new(tools.trim())
        .join(version)
        .join("native/bin");
    if bindir.join("postgres").is_file() {
        return Some(bindir);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{version} is not in {tools}: scripts/deps versions"
    );
    eprintln!("SKIPPED: nothing was tried on {version}, which is not in {tools}");
    None
}
