//! One real avalanche of a real application with OpenTelemetry and query
//! comments, through a real PgBouncer: who is named, and after how many seconds,
//! by each kind of evidence alone and by all together.
//!
//! Every sample is kept as it came, and given to one engine for each kind of
//! evidence, with the other kinds taken out. So all are measured on the same
//! incident, and the engine is the one that runs live. In a file of its own,
//! because it wants the machine for itself.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Stage;
use snowpit::config::Config;
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions};
use snowpit::engine::incident::{Cause, Kind};
use snowpit::engine::settings::Service;
use snowpit::engine::{Engine, Settings};
use snowpit::observe::Source;
use snowpit::observe::health::Health;
use snowpit::observe::otlp::{Listeners, OtlpConfig};
use snowpit::observe::poll::unix_now;
use snowpit::observe::postgres::PostgresSource;
use snowpit::sample::{Report, Sample, TrafficVia};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
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
const SLOW: &str = "GET /reports/<name>";

/// The application of tests/apps/otel.
struct Shop {
    _process: Child,
    address: String,
}

impl Shop {
    async fn start(stage: &Stage, endpoint: std::net::SocketAddr) -> Self {
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

fn usual(number: u32) -> String {
    if number % 3 == 0 {
        "/health".to_owned()
    } else {
        format!("/users/{number}")
    }
}

/// Two statements of 4 to 5 s.
fn slow(number: u32) -> String {
    format!(
        "/reports/r{number}?seconds={}",
        4.0 + f64::from(number % 5) * 0.25
    )
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

/// The samples of the incident, and when the surge began.
async fn incident() -> (Vec<Sample>, f64) {
    let stage = Stage::start_with(roomy).await;
    let config = OtlpConfig {
        grpc_listen: Some("127.0.0.1:0".parse().unwrap()),
        http_listen: None,
    };
    let listeners = Listeners::bind(config).await.unwrap();
    let endpoint = listeners.addresses().grpc_listen.unwrap();
    let (sender, mut inbox) = mpsc::channel(10_000);
    let stop = CancellationToken::new();
    let services = vec!["shop".to_owned()];
    tokio::spawn(listeners.serve(services, sender.clone(), Health::new(), stop.clone()));
    let shop = Shop::start(&stage, endpoint).await;
    let config = common::parse(&stage.configuration(""));
    tokio::spawn(watch(config, sender, stop.clone()));

    let rare = Arc::new(Mutex::new(SLOW_RATE));
    let steady = Arc::new(Mutex::new(USUAL_RATE));
    tokio::spawn(load(shop.address.clone(), steady, usual, stop.clone()));
    tokio::spawn(load(
        shop.address.clone(),
        Arc::clone(&rare),
        slow,
        stop.clone(),
    ));
    let mut samples = Vec::new();
    keep(&mut inbox, &mut samples, QUIET).await;
    *rare.lock().unwrap() = SURGE_RATE;
    let began = unix_now();
    keep(&mut inbox, &mut samples, SURGE).await;
    stop.cancel();
    (samples, began)
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
fn judge(samples: &[Sample], began: f64, evidence: &Evidence) -> (Option<f64>, Option<f64>) {
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
                assert!(
                    first.route.ends_with("/reports/<name>"),
                    "{}: {incident:#?}",
                    evidence.name
                );
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_evidence_names_the_route_of_a_real_avalanche() {
    snowpit::observe::tls::use_ring();
    let (samples, began) = incident().await;
    let metrics: &[TrafficVia] = &[TrafficVia::OtlpMetrics];
    let spans: &[TrafficVia] = &[TrafficVia::OtlpSpans];
    let both: &[TrafficVia] = &[TrafficVia::OtlpMetrics, TrafficVia::OtlpSpans];
    let kinds = [
        ("tags only", true, &[][..], false),
        ("OTLP metrics only", false, metrics, true),
        ("OTLP spans only", false, spans, false),
        ("OTLP only", false, both, true),
        ("tags and OTLP", true, both, true),
    ];
    let mut table = Vec::new();
    for (name, tags, ways, gauges) in kinds {
        let evidence = Evidence {
            name,
            tags,
            ways,
            gauges,
        };
        let (detected, named) = judge(&samples, began, &evidence);
        table.push((name, detected, named));
    }
    println!("evidence, seconds from the beginning of the surge to the incident and to {SLOW}:");
    for (name, detected, named) in &table {
        println!("  {name:<20} {detected:>6.1?} {named:>6.1?}");
    }
    for (name, detected, named) in table {
        assert!(
            detected.is_some_and(|after| after < 30.0),
            "{name}: {detected:?}"
        );
        assert!(named.is_some_and(|after| after < 50.0), "{name}: {named:?}");
    }
}
