//! What a scraper and a caller of the API get, over real connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::Value;
use snowpit::engine::Snapshot;
use snowpit::engine::incident::{Attribution, Cause, Incident, Kind, Severity};
use snowpit::engine::locks::{
    AdvisoryLock, LockView, RootBlocker, Spinners, Verdict, WaitTimes, WaitsByType,
};
use snowpit::engine::settings::Service;
use snowpit::engine::snapshot::{Band, PoolerView, RouteSessions, TargetView};
use snowpit::engine::traffic::{Traffic, TrafficView};
use snowpit::expose::alertmanager::PushHealth;
use snowpit::expose::metrics::{EngineTicks, LABEL_CHARS, table};
use snowpit::expose::web::{WebState, serve};
use snowpit::listen::{AccessConfig, Doors, DoorsConfig, Listener, TlsFiles};
use snowpit::observe::PollError;
use snowpit::observe::health::Health;
use snowpit::sample::{
    Backend, FailureReason, Group, LockCount, PgbouncerReport, Pool, PoolDatabase, PoolStats,
    PoolerConfig, PostgresReport, RouteTraffic, Server, TrafficReport, TrafficVia,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                           version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// A daemon's HTTP interface on a free port, without a daemon behind it.
struct Site {
    url: String,
    snapshot: watch::Sender<Arc<Snapshot>>,
    health: Health,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Site {
    async fn start(snapshot: Snapshot) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, receiver) = watch::channel(Arc::new(snapshot));
        let health = Health::new();
        let ticks = Arc::new(EngineTicks::default());
        ticks.record(Duration::from_micros(300));
        let targets = vec!["main".to_owned(), "second".to_owned()];
        let pushes = PushHealth::new(["alertmanager:9093".to_owned()].into_iter());
        snowpit::observe::tls::use_ring();
        let state = WebState::new(receiver, health.clone(), ticks, targets)
            .with_pushes(pushes)
            .with_doors(doors());
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, state, shutdown.clone()));
        Self {
            url,
            snapshot: sender,
            health,
            shutdown,
            server,
        }
    }

    async fn get(&self, path: &str, accept: &str) -> (StatusCode, String, String) {
        let client = reqwest::Client::new();
        let request = client.get(format!("{}{path}", self.url));
        let response = request.header(ACCEPT, accept).send().await.unwrap();
        let kind = response.headers()[CONTENT_TYPE]
            .to_str()
            .unwrap()
            .to_owned();
        (response.status(), kind, response.text().await.unwrap())
    }

    async fn json(&self, path: &str) -> (StatusCode, Value) {
        let (status, kind, body) = self.get(path, "*/*").await;
        assert_eq!(kind, "application/json", "{path}: {body}");
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn text(&self) -> String {
        let (status, kind, body) = self.get("/metrics", "text/plain").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        body
    }
}

/// Open ones, and OTLP with a certificate.
fn doors() -> Doors {
    let files = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let tls = TlsFiles {
        cert_file: write("certificate", parameters.self_signed(&key).unwrap().pem()),
        key_file: write("key", key.serialize_pem()),
        client_ca_file: None,
    };
    let config = DoorsConfig {
        otlp: AccessConfig {
            tls: Some(tls),
            ..AccessConfig::default()
        },
        listeners: vec![Listener::Server, Listener::OtlpGrpc],
        ..DoorsConfig::default()
    };
    Doors::open(&config).unwrap()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn group(application: &str, state: &str, count: u32) -> Group {
    Group {
        database: some("app"),
        user: some("app"),
        application: some(application),
        state: some(state),
        count,
        ..Group::default()
    }
}

fn advisory(key: &str, verdict: Verdict, age_seconds: f64) -> AdvisoryLock {
    AdvisoryLock {
        database: "app".into(),
        key: key.into(),
        names: vec!["gateway \"bootstrap\"\\\n".into()],
        allowed: false,
        mode: "ExclusiveLock".into(),
        pid: Some(4711),
        prepared: None,
        verdict,
        reason: "a reason".into(),
        age_seconds,
        waiters: 2,
        spinners: 22,
        pooler: some("pooler-1"),
        pool: None,
        last_application: some("gateway"),
        action: "RECONNECT app;".into(),
    }
}

fn spinners(key: &str) -> Spinners {
    Spinners {
        database: "app".into(),
        key: key.into(),
        clients: 22,
    }
}

fn report() -> PostgresReport {
    PostgresReport {
        target: "main".into(),
        server: Some(Server {
            version: Some(150_018),
            started_at: Some(1000.0),
            in_recovery: Some(false),
            max_connections: Some(100),
            reserved_connections: Some(3),
            ..Server::default()
        }),
        sessions_opened_total: Some(81_234),
        groups: vec![
            group("registry", "active", 17),
            Group {
                wait_event_type: some("Lock"),
                wait_event: some("advisory"),
                ..group("registry", "active", 4)
            },
            group("gateway", "idle", 9),
        ],
        backends: vec![Backend {
            pid: 4711,
            state: some("idle in transaction"),
            xact_start: Some(1900.0),
            query: some("select secret from statements"),
            ..Backend::default()
        }],
        lock_counts: vec![LockCount {
            locktype: "advisory".into(),
            mode: "ExclusiveLock".into(),
            granted: true,
            count: 3,
        }],
        ..PostgresReport::default()
    }
}

fn locks() -> LockView {
    LockView {
        name: "main".into(),
        root_blockers: vec![RootBlocker {
            pid: Some(4711),
            application: some("registry"),
            state: some("idle in transaction"),
            query: some("select secret from statements"),
            waiters: 14,
            ..RootBlocker::default()
        }],
        spinners: vec![spinners("42424242424242")],
        wait_times: vec![WaitTimes {
            locktype: "transactionid".into(),
            counts: vec![(1.0, 3), (f64::INFINITY, 1)],
            sum_seconds: 12.5,
        }],
        advisory_locks: vec![
            advisory("42424242424242", Verdict::Orphaned, 61.0),
            advisory("7", Verdict::Owned, 5.0),
        ],
        chain_depth: 2,
        waits: vec![WaitsByType {
            locktype: "relation".into(),
            waiters: 14,
            longest_wait_seconds: Some(309.8),
        }],
        ..LockView::default()
    }
}

fn pooler() -> PgbouncerReport {
    PgbouncerReport {
        pooler: "pooler-1".into(),
        target: "main".into(),
        pools: vec![Pool {
            database: "app".into(),
            user: "app".into(),
            cl_active: 12,
            cl_waiting: 3,
            sv_active: 2,
            maxwait_us: 1_500_000,
            pool_mode: "transaction".into(),
            ..Pool::default()
        }],
        stats: vec![PoolStats {
            database: "app".into(),
            total_xact_count: 10,
            total_query_count: 20,
            total_xact_time: 2_500_000,
            total_query_time: 2_000_000,
            total_wait_time: 250_000,
        }],
        databases: vec![PoolDatabase {
            name: "app".into(),
            pool_size: 20,
            paused: true,
            ..PoolDatabase::default()
        }],
        config: Some(PoolerConfig {
            max_client_conn: 500,
            ..PoolerConfig::default()
        }),
        ..PgbouncerReport::default()
    }
}

fn incident(kind: Kind, opened_at: f64, resolved_at: Option<f64>) -> Arc<Incident> {
    Arc::new(Incident {
        id: format!("main-{}-{opened_at}", kind.as_str()),
        target: "main".into(),
        kind,
        severity: Severity::Critical,
        cause: Some(Cause::Endpoint),
        onset_at: opened_at - 1.0,
        opened_at,
        resolved_at,
        subject: serde_json::Map::new(),
        summary: "a summary".into(),
        attribution: vec![Attribution {
            service: "registry".into(),
            route: "GET /cnr/api/v1/packages".into(),
            share: 0.91,
            connections: 40.0,
            rate_change: None,
            hold_change: None,
            rate_part: None,
            hold_part: None,
            confidence: 0.97,
        }],
        unexplained_share: Some(0.06),
        evidence: vec![],
        actions: vec![],
        runbook: kind.as_str().into(),
    })
}

/// A moment at which every metric that the engine feeds has something to say.
fn full() -> Snapshot {
    let target = TargetView {
        report: Arc::new(report()),
        at: 2000.0,
        fresh: true,
        truncated_comments_total: 17,
        band: Some(Band {
            expected: 20.5,
            upper: 31.0,
        }),
        locks: Arc::new(locks()),
        routes: vec![RouteSessions {
            service: "registry".into(),
            route: "GET /v2/{name}".into(),
            sessions: 4.0,
        }],
    };
    let pooler = PoolerView {
        report: Arc::new(pooler()),
        at: 2000.0,
        fresh: true,
    };
    Snapshot {
        at: 2000.0,
        targets: BTreeMap::from([("main".into(), Arc::new(target))]),
        poolers: BTreeMap::from([("pooler-1".into(), pooler)]),
        open: vec![incident(Kind::ConnectionAvalanche, 1990.0, None)],
        resolved: vec![incident(Kind::OrphanedAdvisoryLock, 1500.0, Some(1600.0))],
        incidents_total: BTreeMap::from([(("main".into(), Kind::ConnectionAvalanche), 3)]),
        traffic: Arc::new(traffic()),
        ..Snapshot::default()
    }
}

/// Two ways tell of one service, of more routes than are shown.
fn traffic() -> TrafficView {
    let mut traffic = Traffic::new(&[Service {
        name: "registry".into(),
        targets: vec!["main".into()],
        applications: Vec::new(),
    }]);
    for via in [TrafficVia::Scrape, TrafficVia::OtlpSpans] {
        let routes = (0..600).map(|i| RouteTraffic {
            route: format!("GET /r{i}"),
            requests: f64::from(i + 1),
            duration_seconds: f64::from(i + 1) * 0.5,
            in_flight: (i == 7).then_some(40.0),
            ..RouteTraffic::default()
        });
        let report = TrafficReport {
            service: "registry".into(),
            via: Some(via),
            until: Some(2000.0),
            interval: 10.0,
            routes: routes.collect(),
        };
        traffic.apply(2000.0, &report);
    }
    traffic.refresh(2000.0);
    TrafficView::clone(&traffic.shown(["main".to_owned()].iter()))
}

async fn full_site() -> Site {
    let site = Site::start(full()).await;
    let source = site
        .health
        .register("postgres", "main", Duration::from_secs(1));
    source.succeeded(2000.0, Duration::from_millis(12));
    let error = PollError::new(FailureReason::Refused, "nothing listens there");
    source.failed(2001.0, Duration::from_millis(1), &error);
    source.dropped(2001.0, "queue_full");
    let rejections = site.health.rejections();
    rejections.reject(2001.0, "otlp", "registry", "bad_value", 1);
    site
}

/// Every point of an answer in either format.
fn points(body: &str) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let mut points = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let twice = points.insert(parse(series), value.parse().unwrap());
        assert_eq!(twice, None, "{series} occurs twice");
    }
    points
}

/// The name and the labels of a series; the order of labels and the way to
/// write a bucket's bound (`1` or `1.0`) mean nothing.
fn parse(series: &str) -> (String, BTreeMap<String, String>) {
    let Some((name, mut rest)) = series.split_once('{') else {
        return (series.to_owned(), BTreeMap::new());
    };
    let mut labels = BTreeMap::new();
    while let Some((key, quoted)) = rest.split_once("=\"") {
        let mut escaped = false;
        let end = quoted
            .find(|char| {
                let ends = char == '"' && !escaped;
                escaped = char == '\\' && !escaped;
                ends
            })
            .expect("a closing quote");
        let value = match key {
            "le" => format!("{:?}", quoted[..end].parse::<f64>().unwrap()),
            _ => quoted[..end].to_owned(),
        };
        let twice = labels.insert(key.to_owned(), value);
        assert_eq!(twice, None, "label {key} occurs twice in {series}");
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    assert_eq!(rest, "}", "{series}");
    (name.to_owned(), labels)
}

fn value(body: &str, series: &str) -> Option<f64> {
    let mut lines = body.lines();
    let line = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

#[tokio::test]
async fn promtool_finds_no_fault_with_the_text_format() {
    let site = full_site().await;
    let body = site.text().await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs; it comes with Debian's package prometheus");
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(body.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{body}");
}

#[tokio::test]
async fn both_formats_say_the_same_and_nothing_secret() {
    let site = full_site().await;
    let text = site.text().await;
    let (_, kind, open) = site.get("/metrics", OPENMETRICS).await;
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.ends_with("# EOF\n"));
    assert!(!text.contains("# EOF"));
    assert_eq!(points(&text), points(&open));
    assert!(points(&text).len() > 80);
    for body in [&text, &open] {
        assert!(!body.contains("secret"), "a statement in a metric");
        assert!(!body.contains("4711"), "a pid in a metric");
    }
}

#[tokio::test]
async fn the_values_are_those_of_the_snapshot() {
    let site = full_site().await;
    let body = site.text().await;
    let app = r#"target="main",database="app",user="app",application="registry",state="active""#;
    let name = r#"gateway \"bootstrap\"\\\n"#;
    for (series, expected) in [
        (format!("snowpit_connections{{{app}}}"), 21.0),
        (r#"snowpit_connections_limit{target="main"}"#.into(), 100.0),
        (r#"snowpit_connections_upper{target="main"}"#.into(), 31.0),
        (r#"snowpit_sessions_opened_total{target="main"}"#.into(), 81_234.0),
        (r#"snowpit_truncated_comments_total{target="main"}"#.into(), 17.0),
        (
            r#"snowpit_waiting_backends{target="main",wait_event_type="Lock",wait_event="advisory"}"#.into(),
            4.0,
        ),
        (
            r#"snowpit_oldest_transaction_seconds{target="main",state="idle in transaction"}"#.into(),
            100.0,
        ),
        (
            format!(
                r#"snowpit_advisory_lock_age_seconds{{target="main",database="app",key="42424242424242",name="{name}",verdict="orphaned",pooler="pooler-1"}}"#
            ),
            61.0,
        ),
        (r#"snowpit_advisory_locks{target="main",database="app",verdict="owned"}"#.into(), 1.0),
        (
            r#"snowpit_pool_max_wait_seconds{pooler="pooler-1",database="app",user="app"}"#.into(),
            1.5,
        ),
        (r#"snowpit_pool_wait_seconds_total{pooler="pooler-1",database="app"}"#.into(), 0.25),
        (r#"snowpit_pool_paused{pooler="pooler-1",database="app",user="app"}"#.into(), 1.0),
        (
            r#"snowpit_incident_open{target="main",kind="connection_avalanche",severity="critical"}"#.into(),
            1.0,
        ),
        (
            r#"snowpit_incident_open{target="second",kind="connection_headroom",severity="warning"}"#.into(),
            0.0,
        ),
        (r#"snowpit_incidents_total{target="main",kind="connection_avalanche"}"#.into(), 3.0),
        (r#"snowpit_source_up{source="postgres",name="main"}"#.into(), 0.0),
        (
            r#"snowpit_poll_failures_total{source="postgres",name="main",reason="refused"}"#.into(),
            1.0,
        ),
        (
            r#"snowpit_poll_failures_total{source="postgres",name="main",reason="tls"}"#.into(),
            0.0,
        ),
        (
            r#"snowpit_poll_duration_seconds_bucket{source="postgres",name="main",le="0.005"}"#.into(),
            1.0,
        ),
        (
            r#"snowpit_poll_duration_seconds_bucket{source="postgres",name="main",le="+Inf"}"#.into(),
            2.0,
        ),
        (r#"snowpit_poll_duration_seconds_count{source="postgres",name="main"}"#.into(), 2.0),
        (r#"snowpit_engine_tick_seconds_count"#.into(), 1.0),
    ] {
        assert_eq!(value(&body, &series), Some(expected), "{series} in\n{body}");
    }
    assert!(
        !body.contains(r#"verdict="owned",pooler"#),
        "an owned lock has no age"
    );
}

#[tokio::test]
async fn series_vanish_with_their_subject_and_with_their_source() {
    let site = Site::start(full()).await;
    assert!(site.text().await.contains(r#"key="42424242424242""#));

    let mut snapshot = full();
    let mut target = TargetView::clone(&snapshot.targets["main"]);
    target.locks = Arc::default();
    snapshot
        .targets
        .insert("main".into(), Arc::new(target.clone()));
    site.snapshot.send_replace(Arc::new(snapshot.clone()));
    let body = site.text().await;
    assert!(!body.contains(r#"key="42424242424242""#));
    assert!(body.contains("snowpit_connections{"));

    target.fresh = false;
    snapshot.targets.insert("main".into(), Arc::new(target));
    site.snapshot.send_replace(Arc::new(snapshot));
    let body = site.text().await;
    assert!(!body.contains("snowpit_connections{") && !body.contains("snowpit_connections_limit"));
    assert!(body.contains(r#"snowpit_incident_open{target="main""#));
    assert!(
        body.contains("snowpit_pool_clients{"),
        "the pooler still answers"
    );
}

#[tokio::test]
async fn label_sets_are_bounded_and_what_is_left_over_is_added_up() {
    let mut snapshot = full();
    let mut target = TargetView::clone(&snapshot.targets["main"]);
    let mut report = report();
    report.groups = (0..5000)
        .map(|number| Group {
            wait_event_type: some("LWLock"),
            wait_event: Some(format!("event {number}")),
            ..group(&format!("{number:04}{}", "é".repeat(300)), "active", 1)
        })
        .collect();
    // What the poller has summed up itself, beyond its own limit.
    report.groups.push(Group {
        database: some("other"),
        user: some("other"),
        count: 7,
        ..group("other", "active", 7)
    });
    target.report = Arc::new(report);
    target.locks = Arc::new(LockView {
        advisory_locks: (0..3000)
            .map(|key| advisory(&key.to_string(), Verdict::Orphaned, f64::from(key)))
            .collect(),
        spinners: (0..3000).map(|key| spinners(&key.to_string())).collect(),
        root_blockers: (0..100)
            .map(|number| RootBlocker {
                application: Some(number.to_string()),
                ..RootBlocker::default()
            })
            .collect(),
        ..LockView::default()
    });
    snapshot.targets.insert("main".into(), Arc::new(target));
    let mut many = pooler();
    let pool = many.pools[0].clone();
    many.pools = (0..1000)
        .map(|number| Pool {
            user: number.to_string(),
            ..pool.clone()
        })
        .collect();
    let view = snapshot.poolers.get_mut("pooler-1").unwrap();
    view.report = Arc::new(many);

    let site = Site::start(snapshot).await;
    let body = site.text().await;
    let count = |name: &str| {
        let start = format!("{name}{{");
        body.lines().filter(|line| line.starts_with(&start)).count()
    };
    assert_eq!(count("snowpit_connections"), 100);
    assert_eq!(count("snowpit_waiting_backends"), 51);
    assert_eq!(count("snowpit_advisory_lock_age_seconds"), 100);
    assert_eq!(count("snowpit_root_blocker_waiters"), 10);
    assert_eq!(count("snowpit_try_lock_spinners"), 100);
    assert_eq!(count("snowpit_pool_max_wait_seconds"), 101);
    let other = r#"snowpit_connections{target="main",database="other",user="other",application="other",state="active"}"#;
    assert_eq!(value(&body, other), Some(4908.0));
    let other =
        r#"snowpit_pool_clients{pooler="pooler-1",database="other",user="other",state="waiting"}"#;
    assert_eq!(value(&body, other), Some(2700.0));
    let longest = body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.split('"'))
        .map(|part| part.chars().count())
        .max();
    assert_eq!(longest, Some(LABEL_CHARS));
}

#[tokio::test]
async fn what_is_exported_is_what_is_documented() {
    let table: BTreeSet<&str> = table::ALL.iter().map(|metric| metric.name).collect();
    let documented: BTreeSet<&str> = include_str!("../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(table, documented);

    let site = full_site().await;
    let body = site.text().await;
    let exported: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert_eq!(exported, table, "the full snapshot feeds every metric");
    for metric in table::ALL {
        let row = format!("| `{}` | {} |", metric.name, metric.kind.as_str());
        assert!(include_str!("../docs/metrics.md").contains(&row), "{row}");
        assert_eq!(
            metric.kind.as_str() == "counter",
            metric.name.ends_with("_total")
        );
    }
}

#[tokio::test]
async fn routes_are_listed_bounded_and_filtered() {
    let site = full_site().await;
    let (status, body) = site.json("/api/v1/routes").await;
    assert_eq!(status, StatusCode::OK);
    let routes = body["routes"].as_array().unwrap();
    assert_eq!((routes.len(), body["left_out"].as_u64()), (500, Some(100)));
    // The gauge of a route is its concurrency; the others come by rate × duration.
    let first = &routes[0];
    assert_eq!(first["route"], "GET /r7");
    assert_eq!(first["concurrency"], 40.0);
    assert_eq!(
        first["sources"].as_array().unwrap().len(),
        2,
        "side by side, never added up"
    );
    let scraped = &first["sources"][0];
    assert_eq!(scraped["source"], "scrape");
    assert!(
        (scraped["requests_per_second"].as_f64().unwrap() - 0.8).abs() < 1e-3,
        "{scraped}"
    );
    assert!(
        (scraped["hold_seconds"].as_f64().unwrap() - 0.5).abs() < 1e-3,
        "{scraped}"
    );
    assert_eq!(first["targets"][0]["target"], "main");

    for (query, expected) in [
        ("?service=registry&limit=3", 3),
        ("?service=nobody", 0),
        ("?target=main&source=otlp_spans", 500),
        ("?source=otlp_metrics", 0),
    ] {
        let (status, body) = site.json(&format!("/api/v1/routes{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}");
        assert_eq!(
            body["routes"].as_array().unwrap().len(),
            expected,
            "{query}"
        );
    }
    for query in [
        "?limit=0",
        "?source=rumour",
        "?target=nowhere",
        "?servce=x",
        "?limit=1&limit=2",
    ] {
        let (status, body) = site.json(&format!("/api/v1/routes{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(body["error"].as_str().unwrap().len() > 10, "{body}");
    }

    let metrics = site.text().await;
    let of = |name: &str| {
        metrics
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")))
            .count()
    };
    assert_eq!(of("snowpit_route_requests_total"), 101);
    assert_eq!(of("snowpit_route_hold_seconds"), 100);
    let other = r#"snowpit_route_requests_total{service="other",route="other"}"#;
    assert_eq!(value(&metrics, other), Some(125_250.0), "1 + 2 + … + 500");
}

#[tokio::test]
async fn incidents_are_listed_filtered_and_found() {
    let site = full_site().await;
    let count = async |path: &str| {
        let (status, body) = site.json(path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        body["incidents"].as_array().unwrap().len()
    };
    assert_eq!(count("/api/v1/incidents").await, 2);
    assert_eq!(count("/api/v1/incidents?open=true").await, 1);
    assert_eq!(count("/api/v1/incidents?open=false&target=main").await, 1);
    assert_eq!(
        count("/api/v1/incidents?kind=orphaned_advisory_lock").await,
        1
    );
    assert_eq!(count("/api/v1/incidents?kind=connection_headroom").await, 0);
    assert_eq!(count("/api/v1/incidents?limit=1").await, 1);
    assert_eq!(count("/api/v1/incidents?target=second").await, 0);

    let (status, body) = site
        .json("/api/v1/incidents/main-connection_avalanche-1990")
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["cause"], "endpoint");
    assert_eq!(body["attribution"][0]["share"], 0.91);
    assert_eq!(body["resolved_at"], Value::Null);

    for bad in [
        "open=perhaps",
        "kind=everything",
        "target=nowhere",
        "limit=0",
        "limit=-1",
        "limit=x",
        "kind=%ff",
        "opened=true",
        "open=true&open=false",
    ] {
        let (status, body) = site.json(&format!("/api/v1/incidents?{bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(body["error"].as_str().unwrap().len() > 10, "{bad}: {body}");
    }
    for missing in ["/api/v1/incidents/nothing", "/api/v1/nothing", "/nothing"] {
        let (status, body) = site.json(missing).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{missing}");
        assert!(body["error"].is_string());
    }
    let (status, _) = site.json("/api/v1/incidents/%ff").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn locks_targets_and_status_tell_what_is() {
    let site = full_site().await;
    let (_, body) = site.json("/api/v1/advisory-locks").await;
    assert_eq!(body["at"], 2000.0);
    assert_eq!(body["targets"][0]["name"], "main");
    assert_eq!(
        body["targets"][0]["advisory_locks"][0]["verdict"],
        "orphaned"
    );
    let (_, body) = site.json("/api/v1/locks").await;
    assert_eq!(body["targets"][0]["root_blockers"][0]["waiters"], 14);
    assert_eq!(body["targets"][0].get("advisory_locks"), None);

    let (_, body) = site.json("/api/v1/targets").await;
    assert_eq!(body["targets"][0]["connections"], 30);
    assert_eq!(body["targets"][0]["poolers"][0], "pooler-1");
    assert_eq!(body["targets"][1]["name"], "second");
    assert_eq!(body["targets"][1]["connections"], Value::Null);

    let (_, body) = site.json("/api/v1/status").await;
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    let source = &body["sources"][0];
    assert_eq!(source["up"], false);
    assert_eq!(source["failures"]["refused"], 1);
    assert_eq!(source["last_error"], "nothing listens there");
    assert!(source["poll_seconds"]["p99"].as_f64().unwrap() > 0.011);
    assert_eq!(body["engine"]["open_incidents"], 1);
    assert!(body["engine"]["tick_seconds"]["p50"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn ready_once_every_source_was_tried() {
    let site = Site::start(Snapshot::default()).await;
    let first = site
        .health
        .register("postgres", "main", Duration::from_secs(1));
    let second = site
        .health
        .register("pgbouncer", "pooler-1", Duration::from_secs(1));
    first.succeeded(1.0, Duration::from_millis(1));
    let (status, body) = site.json("/-/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["error"], "not tried yet: pgbouncer pooler-1");
    let error = PollError::new(FailureReason::Timeout, "no answer");
    second.failed(1.0, Duration::from_secs(3), &error);
    assert_eq!(site.get("/-/ready", "*/*").await.0, StatusCode::OK);
    assert_eq!(site.get("/-/healthy", "*/*").await.2, "healthy\n");
}

#[tokio::test]
async fn nothing_is_taken_but_a_plain_get() {
    let site = full_site().await;
    let client = reqwest::Client::new();
    let metrics = format!("{}/metrics", site.url);
    let post = client.post(&metrics).send().await.unwrap();
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(post.text().await.unwrap().contains("only GET"));
    let body = client
        .get(&metrics)
        .body("x".repeat(10_000))
        .send()
        .await
        .unwrap();
    assert_eq!(body.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let head = client.head(&metrics).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["x-content-type-options"], "nosniff");
    assert!(head.headers().contains_key("content-security-policy"));
    let long = client.get(&metrics).header("x-long", "x".repeat(100_000));
    let refused = long.send().await.map(|response| response.status());
    assert!(refused.is_err() || refused.is_ok_and(|status| status.is_client_error()));
}

#[tokio::test]
async fn every_link_of_the_first_page_leads_somewhere() {
    let site = full_site().await;
    let (_, kind, page) = site.get("/", "text/html").await;
    assert!(kind.starts_with("text/html"));
    let links: Vec<&str> = page
        .split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(links.len() >= 8);
    for link in links {
        assert_eq!(site.get(link, "*/*").await.0, StatusCode::OK, "{link}");
    }
}

#[tokio::test]
async fn shutdown_ends_the_server_though_a_connection_is_open() {
    let site = full_site().await;
    let client = reqwest::Client::new();
    let answer = client
        .get(format!("{}/-/healthy", site.url))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    site.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(2), site.server)
        .await
        .expect("the idle connection is closed at once")
        .unwrap();
    assert!(
        client
            .get(format!("{}/-/healthy", site.url))
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn silent_connections_are_bounded_and_keep_nobody_out() {
    const SILENT: usize = 700;
    let site = full_site().await;
    let address = site.url.trim_start_matches("http://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    // One after the other, each on a connection of its own.
    for _ in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(8), site.text());
        let body = answer.await.expect("before the silent ones are given up");
        let of = |name: &str| value(&body, name).unwrap();
        let open = of("snowpit_http_connections{listener=\"server\"}");
        assert!((2.0..600.0).contains(&open), "{open} open");
        let displaced =
            of("snowpit_http_connections_refused_total{listener=\"server\",reason=\"displaced\"}");
        assert!(displaced >= (SILENT - 600) as f64, "{displaced} displaced");
    }
}
