//! How fast a page of metrics is read: 10,000 series as a real application
//! writes them, by snowpit's own reader and by the `prometheus-parse` crate.
//!
//! `cargo bench --bench exposition` prints megabytes a second on one core, the
//! best of many rounds, and fails when the reader is under its floor, or when
//! it did not see what is on the page.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use snowpit::observe::scrape::page::{Page, Reader, Wanted};

/// Megabytes (10^6 bytes) a second.
const FLOOR: f64 = 200.0;
/// How long each reader is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// As a body comes from the network.
const PIECE: usize = 16 * 1024;

const ROUTES: usize = 360;
const STATUSES: [&str; 2] = ["200", "500"];
const BOUNDS: [&str; 12] = [
    "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf",
];

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not measured: a debug build is another program; use cargo bench");
        return;
    }
    let requests = requests_page();
    let mixed = mixed_page();
    for (name, text, routes) in [
        (
            "10,000 series, all of them request histograms",
            &requests,
            ROUTES,
        ),
        ("10,000 series, one in ten of requests", &mixed, ROUTES / 10),
    ] {
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!("{name}: {series} series, {:.2} MB", text.len() as f64 / 1e6);
        let ours = measure(text, || {
            let page = read(text);
            assert_eq!(page.found.as_ref().map(|found| found.routes), Some(routes));
            assert!(page.rejected.is_empty());
            page.series.len()
        });
        let theirs = measure(text, || {
            let lines = text.lines().map(|line| Ok(line.to_owned()));
            let scrape = prometheus_parse::Scrape::parse(lines).expect("the page is good");
            // It makes one sample of the buckets of a histogram. Lines with a
            // brace in a label it leaves out without a word, so there are none.
            let buckets = |sample: &prometheus_parse::Sample| match &sample.value {
                prometheus_parse::Value::Histogram(buckets) => buckets.len(),
                _ => 1,
            };
            let seen: usize = scrape.samples.iter().map(buckets).sum();
            assert_eq!(seen, series, "it left lines out");
            seen
        });
        println!("  snowpit           {ours:8.1} MB/s");
        println!(
            "  prometheus-parse  {theirs:8.1} MB/s   snowpit is {:.0} times as fast",
            ours / theirs
        );
        assert!(ours >= FLOOR, "under the floor of {FLOOR} MB/s");
    }
}

fn read(text: &str) -> Page {
    let mut reader = Reader::new(Wanted::default());
    for piece in text.as_bytes().chunks(PIECE) {
        reader.feed(piece);
    }
    reader.finish()
}

/// Megabytes a second in the best round: others share the machine.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn measure(text: &str, mut round: impl FnMut() -> usize) -> f64 {
    let began = Instant::now();
    let mut best = Duration::MAX;
    while best == Duration::MAX || began.elapsed() < MEASURED {
        let start = Instant::now();
        black_box(round());
        best = best.min(start.elapsed());
    }
    text.len() as f64 / 1e6 / best.as_secs_f64()
}

/// What `prometheus_client` writes: a histogram by route, method and status.
fn requests_page() -> String {
    let mut text = String::from(
        "# HELP http_request_duration_seconds Time from the first byte of a request to the last of its answer\n\
         # TYPE http_request_duration_seconds histogram\n",
    );
    histograms(&mut text, ROUTES);
    text
}

/// The same with a tenth of the routes, among the other metrics of an application.
fn mixed_page() -> String {
    let mut text = String::from("# TYPE jvm_memory_used_bytes gauge\n");
    for index in 0..9_000 {
        let _ = writeln!(
            text,
            "cache_operations_total{{cache=\"packages-{}\",operation=\"op{}\",result=\"hit\"}} {}",
            index % 300,
            index / 300,
            index * 7919
        );
    }
    text.push_str("# TYPE http_request_duration_seconds histogram\n");
    histograms(&mut text, ROUTES / 10);
    text
}

fn histograms(text: &mut String, routes: usize) {
    let name = "http_request_duration_seconds";
    for route in 0..routes {
        for status in STATUSES {
            let labels = format!(
                "method=\"GET\",route=\"/api/v2/resource-{route}/:id/items\",status=\"{status}\""
            );
            let count = (route + 1) * 1234;
            for (index, bound) in BOUNDS.iter().enumerate() {
                let below = count * (index + 1) / BOUNDS.len();
                let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\",{labels}}} {below}.0");
            }
            let _ = writeln!(text, "{name}_count{{{labels}}} {count}.0");
            let seconds = count as f64 * 0.012_345_678_9;
            let _ = writeln!(text, "{name}_sum{{{labels}}} {seconds}");
        }
    }
}
