//! Applications with the metrics clients that people use, scraped: what was
//! sent is what is seen.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::apps::App;
use common::{Stage, parse};
use snowpit::config::ScrapeConfig;
use snowpit::observe::health::Health;
use snowpit::observe::poll::{Pace, Poller};
use snowpit::observe::scrape::{ScrapeSource, account};
use snowpit::observe::tls::use_ring;
use snowpit::sample::{Report, Sample, TrafficReport, TrafficVia};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

/// The pages of a configuration; `scrape` is what stands in its braces.
fn pages(scrape: &str) -> Vec<ScrapeConfig> {
    let text = format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"host=127.0.0.1 port=1 user=u\"\n\
         [[service]]\nname = \"shop\"\napplications = [\"shop\"]\nscrape = {{ {scrape} }}\n"
    );
    parse(&text).scrape
}

/// Pages that are being read, and what came of it.
struct Watch {
    samples: mpsc::Receiver<Sample>,
    health: Health,
    stop: CancellationToken,
    reports: Vec<TrafficReport>,
}

impl Watch {
    fn start(scrape: &str) -> Self {
        let (sender, samples) = mpsc::channel(10_000);
        let health = Health::new();
        let stop = CancellationToken::new();
        let shared = account("shop");
        for page in pages(scrape) {
            let pace = Pace {
                interval: page.interval,
                timeout: page.timeout,
            };
            let source = ScrapeSource::new(&page, shared.clone(), health.rejections().clone());
            let poller = Poller::new(source, pace, sender.clone(), &health);
            tokio::spawn(poller.run(stop.clone()));
        }
        Self {
            samples,
            health,
            stop,
            reports: Vec::new(),
        }
    }

    fn polls(&self) -> Vec<u64> {
        let sources = self.health.snapshot();
        sources.iter().map(|source| source.polls).collect()
    }

    /// Waits until every page was read `more` times more, without a failure.
    async fn looks(&mut self, more: u64) {
        let begun = self.polls();
        let all = async {
            while self
                .polls()
                .iter()
                .zip(&begun)
                .any(|(now, then)| *now < then + more)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, all)
            .await
            .expect("the pages are read");
        for source in self.health.snapshot() {
            assert!(source.up, "{:?}", source.last_error);
        }
        while let Ok(sample) = self.samples.try_recv() {
            match sample.report {
                Report::Traffic(report) => self.reports.push(report),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Requests and seconds by route, of all reports so far.
    fn totals(&self) -> BTreeMap<String, (f64, f64)> {
        let mut totals = BTreeMap::new();
        for route in self.reports.iter().flat_map(|report| &report.routes) {
            let total = totals.entry(route.route.clone()).or_insert((0.0, 0.0));
            total.0 += route.requests;
            total.1 += route.duration_seconds;
        }
        totals
    }

    fn counts(&self) -> BTreeMap<String, f64> {
        let totals = self.totals().into_iter();
        totals
            .map(|(route, (requests, _))| (route, requests))
            .filter(|(_, n)| *n > 0.0)
            .collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Sends each request so often, and says by route how many were answered.
async fn send(app: &App, requests: &[(&str, &str, &str, usize)]) {
    use_ring();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (method, path, _, times) in requests {
        for turn in 0..*times {
            let path = path.replace("{}", &turn.to_string());
            let method = method.parse().unwrap();
            let answer = client.request(method, app.url(&path)).send().await.unwrap();
            assert_ne!(answer.status(), 503, "{path}");
            assert_ne!(answer.status(), 404, "{path}");
        }
    }
}

fn expected(requests: &[(&str, &str, &str, usize)], times: f64) -> BTreeMap<String, f64> {
    let routes = requests.iter();
    routes
        .map(|(_, _, route, n)| ((*route).to_owned(), *n as f64 * times))
        .collect()
}

const PYTHON: [(&str, &str, &str, usize); 5] = [
    ("GET", "/packages", "GET /packages", 40),
    ("GET", "/packages/p{}", "GET /packages/{name}", 25),
    ("POST", "/uploads", "POST /uploads", 7),
    ("GET", "/reports/{}?seconds=0.05", "GET /reports/{id}", 5),
    ("GET", "/broken", "GET /broken", 3),
];

const NODE: [(&str, &str, &str, usize); 4] = [
    ("GET", "/articles", "GET /articles", 60),
    ("GET", "/articles/{}", "GET /articles/:id", 33),
    ("PUT", "/articles/{}", "PUT /articles/:id", 9),
    ("GET", "/slow", "GET /slow", 4),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_prometheus_client_counted_is_what_is_seen() {
    let stage = Stage::start().await;
    let dsn = format!(
        "host=127.0.0.1 port={} user=app dbname=app application_name=shop",
        stage.pooler.port()
    );
    let app = App::python(Some(&dsn)).await;
    let mut watch = Watch::start(&format!(
        "url = \"{}\", interval = \"200ms\"",
        app.url("/metrics")
    ));
    watch.looks(2).await;
    assert_eq!(watch.counts(), BTreeMap::new());

    send(&app, &PYTHON).await;
    watch.looks(2).await;
    assert_eq!(watch.counts(), expected(&PYTHON, 1.0));
    let (_, seconds) = watch.totals()["GET /reports/{id}"];
    assert!(
        (0.25..2.5).contains(&seconds),
        "5 requests of 50 ms took {seconds} s"
    );

    send(&app, &PYTHON).await;
    watch.looks(2).await;
    assert_eq!(watch.counts(), expected(&PYTHON, 2.0));
    for report in &watch.reports {
        assert_eq!(report.via, Some(TrafficVia::Scrape));
        let told: f64 = report.routes.iter().map(|route| route.requests).sum();
        let by_duration = report.routes.iter().flat_map(|route| &route.durations);
        let by_duration: f64 = by_duration.map(|bucket| bucket.count).sum();
        assert_eq!(told, by_duration, "{report:?}");
        assert!(report.interval < 5.0, "{report:?}");
    }

    // A request that runs is seen while it runs.
    let (client, url) = (reqwest::Client::new(), app.url("/reports/1?seconds=3"));
    let running = tokio::spawn(async move { client.get(url).send().await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    watch.looks(2).await;
    let last = watch.reports.iter().rev().flat_map(|report| &report.routes);
    let mut reports = last.filter(|route| route.route == "GET /reports/{id}");
    assert_eq!(reports.find_map(|route| route.in_flight), Some(1.0));
    running.await.unwrap().unwrap();

    // Started again on its port: what it counts from nothing is not lost.
    let port = app.port();
    drop(app);
    let before = watch.totals()["POST /uploads"].0;
    let app = App::python_on(port, Some(&dsn)).await;
    send(&app, &PYTHON[2..3]).await;
    let up = async {
        while !watch.health.snapshot()[0].up {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, up)
        .await
        .expect("it is seen again");
    watch.looks(2).await;
    assert_eq!(watch.totals()["POST /uploads"].0 - before, 7.0);
    assert_eq!(watch.health.rejections().snapshot(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_prom_client_counted_is_what_is_seen() {
    // Two instances of one service, one page each.
    let apps = [App::node().await, App::node().await];
    let urls = [apps[0].url("/metrics"), apps[1].url("/metrics")];
    let mut watch = Watch::start(&format!(
        "url = [\"{}\", \"{}\"], interval = \"200ms\"",
        urls[0], urls[1]
    ));
    watch.looks(2).await;
    send(&apps[0], &NODE).await;
    send(&apps[1], &NODE).await;
    watch.looks(2).await;
    assert_eq!(watch.counts(), expected(&NODE, 2.0));
    let (_, seconds) = watch.totals()["GET /slow"];
    assert!(
        (0.8..4.0).contains(&seconds),
        "8 requests of 100 ms took {seconds} s"
    );
    send(&apps[1], &NODE).await;
    watch.looks(2).await;
    assert_eq!(watch.counts(), expected(&NODE, 3.0));
    assert_eq!(watch.health.rejections().snapshot(), []);
}

#[tokio::test]
async fn check_says_what_was_found_or_what_is_there_instead() {
    let app = App::python(None).await;
    send(&app, &PYTHON[..3]).await;
    let look = async |more: &str| {
        let text = format!(
            "[[postgres]]\nname = \"main\"\ndsn = \"host=127.0.0.1 port=1 user=u\"\n\
             [[service]]\nname = \"shop\"\napplications = [\"shop\"]\n\
             scrape = {{ url = \"{}\"{more} }}\n",
            app.url("/metrics")
        );
        snowpit::cli::check::look(&parse(&text)).await.to_text()
    };
    let found = look("").await;
    assert!(
        found.contains(
            "requests by route are in http_request_duration_seconds by route and method: 3 routes; \
             running requests in http_requests_in_flight"
        ),
        "{found}"
    );
    let other = look(", metric = \"http_requests_seconds\"").await;
    assert!(
        other.contains("no requests by route were found on the page; the nearest: http_request_duration_seconds (method, route, status)"),
        "{other}"
    );
    let labels = look(", route_labels = [\"template\"]").await;
    assert!(
        labels.contains("http_request_duration_seconds (method, route, status): no label of it is known to name a route"),
        "{labels}"
    );
}
