//! What the daemon takes: what the kernel says of its process, and what it says
//! of itself.

use std::fmt;
use std::fs;
use std::time::Duration;

/// One look at the daemon.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Seconds since the beginning.
    pub at: f64,
    /// Resident memory, in MiB.
    pub rss: f64,
    pub files: f64,
    pub threads: f64,
    pub tasks: f64,
    pub series: f64,
    /// Ever opened.
    pub incidents: f64,
    pub open: f64,
    /// Ever successful.
    pub reloads: f64,
    /// Seconds of processor time since its start.
    pub cpu: f64,
}

/// A figure whose course is judged.
pub struct Quantity {
    pub name: &'static str,
    pub of: fn(&Reading) -> f64,
    /// A rise below this over the second half is none, whatever the noise.
    pub least: f64,
}

/// What must not grow. Memory moves by some MiB with what is open at the moment;
/// a handful of connections more or less is the load's own doing.
pub const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "RSS, MiB",
        of: |r| r.rss,
        least: 4.0,
    },
    Quantity {
        name: "files",
        of: |r| r.files,
        least: 5.0,
    },
    Quantity {
        name: "tasks",
        of: |r| r.tasks,
        least: 5.0,
    },
    Quantity {
        name: "threads",
        of: |r| r.threads,
        least: 3.0,
    },
];

impl Reading {
    pub const HEAD: &'static str =
        "    min  RSS MiB  files  threads  tasks  series  opened  open  cpu %";
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:7.1}  {:7.1}  {:5}  {:7}  {:5}  {:6}  {:6}  {:4}  {:5.1}",
            self.at / 60.0,
            self.rss,
            self.files,
            self.threads,
            self.tasks,
            self.series,
            self.incidents,
            self.open,
            100.0 * self.cpu / self.at.max(1.0),
        )
    }
}

/// Reads one daemon.
pub struct Gauge {
    process: u32,
    metrics: String,
    client: reqwest::Client,
}

impl Gauge {
    pub fn new(process: u32, url: &str) -> Self {
        Self {
            process,
            metrics: format!("{url}/metrics"),
            client: reqwest::Client::new(),
        }
    }

    /// `None` while it does not answer.
    pub async fn read(&self, at: f64) -> Option<Reading> {
        let page = self.client.get(&self.metrics);
        let page = page.timeout(Duration::from_secs(10)).send().await.ok()?;
        let page = page.text().await.ok()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.process)).ok()?;
        let of = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let files = fs::read_dir(format!("/proc/{}/fd", self.process)).ok()?;
        Some(Reading {
            at,
            rss: of("VmRSS:")? / 1024.0,
            files: files.count() as f64,
            threads: of("Threads:")?,
            tasks: sum(&page, "snowpit_tasks"),
            series: sum(&page, "snowpit_series"),
            incidents: sum(&page, "snowpit_incidents_total"),
            open: sum(&page, "snowpit_incident_open"),
            reloads: sum(&page, "snowpit_config_reloads_total{outcome=\"success\"}"),
            cpu: self.cpu()?,
        })
    }

    /// Fields 14 and 15 of `/proc/PID/stat`, in hundredths of a second.
    fn cpu(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process)).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks = ticks.map(|ticks| ticks.parse::<f64>().unwrap_or(0.0));
        Some(ticks.sum::<f64>() / 100.0)
    }
}

/// The sum of the series of a metric.
fn sum(page: &str, name: &str) -> f64 {
    let lines = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then_some(line)
    });
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    lines.filter_map(value).sum()
}
