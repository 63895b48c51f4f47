//! Real avalanches of real applications through a real PgBouncer: one with
//! OpenTelemetry and query comments, one with a metrics page and no comments.
//! Who is named, and after how many seconds, by each kind of evidence alone and
//! by all together.
//!
//! Every sample is kept as it came, and given to one engine for each kind of
//! evidence, with the other kinds taken out. So all are measured on the same
//! incident, and the engine is the one that runs live. In a file of its own,
//! because it wants the machine for itself.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Stage;
use common::apps::App;
use snowpit::config::Config;
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions};
use snowpit::engine::incident::{Cause, Kind};
use snowpit::engine::settings::Service;
use snowpit::engine::{Engine, Settings};
use snowpit::observe::Source;
use snowpit::observe::health::Health;
use snowpit::observe::otlp::{Listeners, OtlpConfig};
use snowpit::observe::poll::{Pace, Poller, unix_now};
use snowpit::observe::postgres::PostgresSource;
use snowpit::observe::scrape::{ScrapeSource, account};
use snowpit::sample::{Report, Sample, TrafficVia};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Starting Python takes seconds on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(60);
/// What the engine needs to know what is normal; the default is two minutes.
const WARM_UP: f64 = 40.0;
/// Before the surge, and of it.
const QUIET: Duration = Duration::from_secs(60);
const SURGE: Duration = Duration::from_secs(50);
/// Requests/s of everybody, of the slow route, and of it in the surge.
const USUAL_RATE: f64 = 25.0;
const SLOW_RATE: f64 = 0.2;
const SURGE_RATE: f64 = 4.0;

/// The application of tests/apps/otel.
struct Shop {
    _process: Child,
    address: String,
}

impl Shop {
    async fn start(stage: &Stage, endpoint: SocketAddr) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".tools/otel/bin/python");
        assert!(
            python.exists(),
            "no {}: run scripts/deps otel-apps",
            python.display()
        );
        let database = format!(
            "postgresql+psycopg2://app@127.0.0.1:{}/app?application_name=shop",
            stage.pooler.port()
        );
        let mut process = Command::new(python)
            .arg(root.join("tests/apps/otel/app.py"))
            .env("DATABASE_URL", database)
            .env("OTEL_SERVICE_NAME", "shop")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{endpoint}"))
            .env("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
            // Spans leave after 5 s by default; metrics after a minute, which
            // is no use to anybody who waits for a name.
            .env("OTEL_METRIC_EXPORT_INTERVAL", "5000")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await;
        let line = line.expect("it starts in time").unwrap().expect("a line");
        let port = line.strip_prefix("listening on ").expect("the port");
        Self {
            address: format!("http://127.0.0.1:{port}"),
            _process: process,
        }
    }
}

/// Sends requests at an even rate, and waits for no answer. The path gets the
/// number of the request.
async fn load(
    url: String,
    rate: Arc<Mutex<f64>>,
    path: fn(u32) -> String,
    stop: CancellationToken,
) {
    let client = reqwest::Client::new();
    let mut next = Instant::now();
    for number in 0.. {
        let gap = 1.0 / *rate.lock().unwrap();
        next += Duration::from_secs_f64(gap);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = stop.cancelled() => return,
        }
        let request = client.get(format!("{url}{}", path(number))).send();
        tokio::spawn(async move {
            let _ = request.await;
        });
    }
}

fn usual_at_the_shop(number: u32) -> String {
    if number.is_multiple_of(3) {
        "/health".to_owned()
    } else {
        format!("/users/{number}")
    }
}

/// Two statements of 4 to 5 s.
fn slow_at_the_shop(number: u32) -> String {
    let seconds = 4.0 + f64::from(number % 5) * 0.25;
    format!("/reports/r{number}?seconds={seconds}")
}

fn usual_with_a_page(number: u32) -> String {
    if number.is_multiple_of(3) {
        "/packages".to_owned()
    } else {
        format!("/packages/p{number}")
    }
}

/// One statement of 8 to 10 s.
fn slow_with_a_page(number: u32) -> String {
    let seconds = 8.0 + f64::from(number % 5) * 0.5;
    format!("/reports/{number}?seconds={seconds}")
}

async fn roomy(postgres: &snowpit::demo::servers::Postgres) -> PgBouncer {
    let options = PgBouncerOptions {
        databases: vec![Alias::new("app", postgres.port())],
        users: vec![("app".into(), String::new())],
        default_pool_size: 60,
        ..PgBouncerOptions::default()
    };
    PgBouncer::start(options).await.unwrap()
}

/// Looks every second until it is stopped.
async fn watch(config: Config, samples: mpsc::Sender<Sample>, stop: CancellationToken) {
    let mut source = PostgresSource::new(&config.postgres[0]);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let t = unix_now();
        if let Ok(report) = source.poll().await {
            let _ = samples.send(Sample { t, report }).await;
        }
    }
}

/// What came in during an avalanche, and when the surge began.
struct Incident {
    samples: Vec<Sample>,
    began: f64,
}

impl Incident {
    /// Stages the surge on the application at this address, and keeps what comes
    /// in meanwhile.
    async fn stage(
        address: String,
        usual: fn(u32) -> String,
        slow: fn(u32) -> String,
        mut inbox: mpsc::Receiver<Sample>,
        stop: &CancellationToken,
    ) -> Self {
        let rare = Arc::new(Mutex::new(SLOW_RATE));
        let steady = Arc::new(Mutex::new(USUAL_RATE));
        tokio::spawn(load(address.clone(), steady, usual, stop.clone()));
        tokio::spawn(load(address, Arc::clone(&rare), slow, stop.clone()));
        let mut samples = Vec::new();
        keep(&mut inbox, &mut samples, QUIET).await;
        *rare.lock().unwrap() = SURGE_RATE;
        let began = unix_now();
        keep(&mut inbox, &mut samples, SURGE).await;
        stop.cancel();
        Self { samples, began }
    }

    /// With tags and OTLP.
    async fn at_the_shop() -> Self {
        let stage = Stage::start_with(roomy).await;
        let config = OtlpConfig {
            grpc_listen: Some("127.0.0.1:0".parse().unwrap()),
            http_listen: None,
        };
        let listeners = Listeners::bind(config).await.unwrap();
        let endpoint = listeners.addresses().grpc_listen.unwrap();
        let (sender, inbox) = mpsc::channel(10_000);
        let stop = CancellationToken::new();
        let services = vec!["shop".to_owned()];
        tokio::spawn(listeners.serve(
            watch::channel(services).1,
            sender.clone(),
            Health::new(),
            stop.clone(),
        ));
        let shop = Shop::start(&stage, endpoint).await;
        let config = common::parse(&stage.configuration(""));
        tokio::spawn(watch(config, sender, stop.clone()));
        let address = shop.address.clone();
        Self::stage(address, usual_at_the_shop, slow_at_the_shop, inbox, &stop).await
    }

    /// With a metrics page.
    async fn with_a_page() -> Self {
        let stage = Stage::start_with(roomy).await;
        let dsn = format!(
            "host=127.0.0.1 port={} user=app dbname=app application_name=shop",
            stage.pooler.port()
        );
        let app = App::python(Some(&dsn)).await;
        let more = format!(
            "[[service]]\nname = \"shop\"\napplications = [\"shop\"]\nscrape = {{ url = \"{}\" }}\n",
            app.url("/metrics")
        );
        let config = common::parse(&stage.configuration(&more));
        let (sender, inbox) = mpsc::channel(10_000);
        let (health, stop) = (Health::new(), CancellationToken::new());
        for page in &config.scrape {
            let pace = Pace {
                interval: page.interval,
                timeout: page.timeout,
            };
            println!("the page is read every {:?}", page.interval);
            let rejections = health.rejections().clone();
            let source = ScrapeSource::new(page, account("shop"), rejections);
            let poller = Poller::new(source, pace, sender.clone(), &health);
            tokio::spawn(poller.run(stop.clone()));
        }
        tokio::spawn(watch(config, sender, stop.clone()));
        let address = app.url("");
        Self::stage(address, usual_with_a_page, slow_with_a_page, inbox, &stop).await
    }
}

async fn keep(inbox: &mut mpsc::Receiver<Sample>, samples: &mut Vec<Sample>, time: Duration) {
    let end = Instant::now() + time;
    while let Ok(Some(mut sample)) = tokio::time::timeout_at(end, inbox.recv()).await {
        // The engine learns of it now, whenever the look began.
        if matches!(sample.report, Report::Traffic(_)) {
            sample.t = unix_now();
        }
        samples.push(sample);
    }
}

/// What one engine is told.
struct Evidence {
    name: &'static str,
    tags: bool,
    ways: &'static [TrafficVia],
    gauges: bool,
}

/// The sample without the other kinds of evidence.
fn only(sample: &Sample, evidence: &Evidence) -> Option<Sample> {
    let mut sample = sample.clone();
    match &mut sample.report {
        Report::Postgres(report) if !evidence.tags => {
            for group in &mut report.groups {
                group.route = None;
            }
        }
        Report::Traffic(report) => {
            if !report.via.is_some_and(|via| evidence.ways.contains(&via)) {
                return None;
            }
            for route in report.routes.iter_mut().filter(|_| !evidence.gauges) {
                route.in_flight = None;
            }
        }
        _ => {}
    }
    Some(sample)
}

/// (detected, named right) in seconds from the beginning of the surge. Nobody
/// else may ever be named.
fn judge(incident: &Incident, right: &str, evidence: &Evidence) -> (Option<f64>, Option<f64>) {
    let Incident { samples, began } = incident;
    let mut settings = Settings {
        targets: vec!["main".to_owned()],
        services: vec![Service {
            name: "shop".to_owned(),
            targets: vec!["main".to_owned()],
            applications: vec!["shop*".to_owned()],
        }],
        ..Settings::default()
    };
    settings.detect.connection_avalanche.warm_up = WARM_UP;
    let mut engine = Engine::new(settings);
    let (mut detected, mut named) = (None, None);
    for sample in samples.iter().filter_map(|sample| only(sample, evidence)) {
        let t = sample.t;
        for effect in engine.apply(sample) {
            let incident = effect.incident;
            if incident.kind != Kind::ConnectionAvalanche {
                continue;
            }
            detected.get_or_insert(t - began);
            if incident.cause == Some(Cause::Endpoint) {
                let first = &incident.attribution[0];
                let name = evidence.name;
                assert!(first.route.ends_with(right), "{name}: {incident:#?}");
                if named.is_none() {
                    println!("{}: {}", evidence.name, incident.summary);
                    for sentence in &incident.evidence {
                        println!("    {sentence}");
                    }
                }
                named.get_or_insert(t - began);
            }
        }
    }
    (detected, named)
}

const METRICS: &[TrafficVia] = &[TrafficVia::OtlpMetrics];
const SPANS: &[TrafficVia] = &[TrafficVia::OtlpSpans];
const OTLP: &[TrafficVia] = &[TrafficVia::OtlpMetrics, TrafficVia::OtlpSpans];
const SCRAPE: &[TrafficVia] = &[TrafficVia::Scrape];

/// Prints the table of one incident, and holds it against the limits.
fn settle(
    incident: &Incident,
    right: &str,
    kinds: &[(&'static str, bool, &'static [TrafficVia], bool)],
) {
    let mut table = Vec::new();
    for &(name, tags, ways, gauges) in kinds {
        let evidence = Evidence {
            name,
            tags,
            ways,
            gauges,
        };
        let (detected, named) = judge(incident, right, &evidence);
        table.push((name, detected, named));
    }
    println!("seconds from the beginning of the surge to the incident and to {right}:");
    for (name, detected, named) in &table {
        println!("  {name:<24} {detected:>6.1?} {named:>6.1?}");
    }
    for (name, detected, named) in table {
        assert!(
            detected.is_some_and(|after| after < 30.0),
            "{name}: {detected:?}"
        );
        assert!(named.is_some_and(|after| after < 50.0), "{name}: {named:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_evidence_names_the_route_of_a_real_avalanche() {
    snowpit::observe::tls::use_ring();
    let incident = Incident::at_the_shop().await;
    settle(
        &incident,
        "/reports/<name>",
        &[
            ("tags only", true, &[], false),
            ("OTLP metrics only", false, METRICS, true),
            ("OTLP spans only", false, SPANS, false),
            ("OTLP only", false, OTLP, true),
            ("tags and OTLP", true, OTLP, true),
        ],
    );
    let incident = Incident::with_a_page().await;
    settle(
        &incident,
        "/reports/{id}",
        &[
            ("scrape only", false, SCRAPE, true),
            ("scrape without its gauge", false, SCRAPE, false),
        ],
    );
}
