//! More than can be served: scrapes at once, connections that say nothing, and
//! applications that send many times what is taken in. The daemon, a process of
//! its own, goes on watching real servers meanwhile.

mod common;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::Stage;
use common::certificates::{Authority, Holds, write};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use reqwest::StatusCode;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// For what takes a moment, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(60);

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(5);

/// The daemon as a process.
struct Program {
    process: Child,
    address: SocketAddr,
    _files: tempfile::TempDir,
}

impl Program {
    async fn start(configuration: &str) -> Self {
        snowpit::observe::tls::use_ring();
        let files = tempfile::tempdir().unwrap();
        let path = write(files.path(), "snowpit.toml", configuration);
        let mut process = Command::new(env!("CARGO_BIN_EXE_snowpit"))
            .args(["run", "--config", path.to_str().unwrap()])
            .env("NO_COLOR", "1")
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = timeout(LIMIT, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("it runs");
                if let Some((_, rest)) = line.split_once("listening address=") {
                    return rest.trim().parse().unwrap();
                }
            }
        });
        let address = address.await.expect("it says where it listens");
        // A pipe that nobody reads would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            process,
            address,
            _files: files,
        }
    }

    /// Memory in use, megabytes.
    fn memory(&self) -> f64 {
        let path = format!("/proc/{}/status", self.process.id().unwrap());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<f64>().unwrap() / 1024.0
    }

    /// The page of metrics on a connection of its own, whole.
    async fn page(&self) -> String {
        get(self.address, "/metrics").await
    }

    async fn stop(mut self) {
        let pid = Pid::from_raw(self.process.id().unwrap().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        let ended = timeout(LIMIT, self.process.wait()).await;
        assert!(ended.expect("it ends").unwrap().success());
    }
}

const HEAD: &str = "HTTP/1.1\r\nhost: snowpit\r\nconnection: close\r\n\r\n";

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} {HEAD}");
    stream.write_all(request.as_bytes()).await.unwrap();
    read(stream).await
}

/// The body of a good answer, whole.
async fn read(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let read = timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    read.expect("an answer in time").expect("a whole answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    assert_eq!(length.unwrap().parse(), Ok(body.len()), "{head}");
    body.to_owned()
}

/// The value of a series; 0 when it is not there.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |line| line.trim().parse().unwrap())
}

/// The sum over all label values.
fn total(page: &str, name: &str) -> f64 {
    let start = format!("{name}{{");
    let lines = page.lines().filter(|line| line.starts_with(&start));
    let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    values.sum()
}

fn polls(page: &str) -> f64 {
    total(page, "snowpit_poll_duration_seconds_count")
}

/// Asks for the page, one after the other, until the end; the longest time that
/// one took.
async fn scrapes(program: &Program, end: Instant) -> (usize, Duration) {
    let (mut number, mut longest) = (0, Duration::ZERO);
    while Instant::now() < end {
        let began = Instant::now();
        assert!(program.page().await.contains("snowpit_build_info"));
        longest = longest.max(began.elapsed());
        number += 1;
        sleep(Duration::from_millis(100)).await;
    }
    (number, longest)
}

/// No source failed, and all were looked at between the two pages.
fn watched_on(before: &str, after: &str) -> f64 {
    assert_eq!(total(after, "snowpit_poll_failures_total"), 0.0);
    assert_eq!(total(after, "snowpit_source_up"), 2.0);
    let looks = polls(after) - polls(before);
    assert!(looks >= 2.0, "{looks} polls");
    looks
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_are_turned_away_and_the_rest_goes_on() {
    let stage = Stage::start().await;
    let otlp = free_port();
    let more = format!(
        "[otlp]\nhttp_listen = \"127.0.0.1:{otlp}\"\n[[service]]\nname = \"registry\"\napplications = [\"registry*\"]\n"
    );
    let program = Arc::new(Program::start(&stage.configuration(&more)).await);
    let began = Instant::now();
    while total(&program.page().await, "snowpit_source_up") < 2.0 {
        assert!(began.elapsed() < LIMIT, "both sources answer");
        sleep(Duration::from_millis(200)).await;
    }
    scrapes_at_once(&program).await;
    slow_heads(&program).await;
    questions(&program).await;
    half_bodies(&program, otlp).await;
    reports(&program, otlp).await;
    Arc::into_inner(program).unwrap().stop().await;
    let Stage { postgres, pooler } = stage;
    pooler.stop().await;
    postgres.stop().await;
}

/// Two hundred scrapers that all send in one moment.
async fn scrapes_at_once(program: &Arc<Program>) {
    const SCRAPES: usize = 200;
    let memory = program.memory();
    let start = Arc::new(Barrier::new(SCRAPES));
    let mut tasks = JoinSet::new();
    for _ in 0..SCRAPES {
        let (address, start) = (program.address, Arc::clone(&start));
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            start.wait().await;
            let began = Instant::now();
            let request = format!("GET /metrics {HEAD}");
            stream.write_all(request.as_bytes()).await.unwrap();
            assert!(read(stream).await.contains("snowpit_source_up"));
            began.elapsed()
        });
    }
    let times = tasks.join_all().await;
    assert_eq!(times.len(), SCRAPES);
    let refused = total(
        &program.page().await,
        "snowpit_http_connections_refused_total",
    );
    assert_eq!(refused, 0.0, "nobody gave way");
    eprintln!(
        "{SCRAPES} scrapes at once: all answered, the last after {:.2} s; memory {memory:.0} MB, then {:.0} MB",
        times.iter().max().unwrap().as_secs_f64(),
        program.memory()
    );
}

/// Six hundred connections that send their heads a byte at a time.
async fn slow_heads(program: &Arc<Program>) {
    const SILENT: usize = 600;
    let before = program.page().await;
    let began = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..SILENT {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nx: ")
            .await
            .unwrap();
        slow.push(stream);
    }
    let open = value(
        &program.page().await,
        "snowpit_http_connections{listener=\"server\"}",
    );
    assert!(open > 400.0, "{open} are open while a scrape is answered");
    let dripping = tokio::spawn(async move {
        loop {
            for stream in &mut slow {
                // Those that were closed cannot be written to.
                let _ = stream.write_all(b"y").await;
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
    let (scraped, longest) = scrapes(program, began + FLOOD).await;
    assert!(scraped > 3, "{scraped} scrapes");
    loop {
        let page = program.page().await;
        let open = value(&page, "snowpit_http_connections{listener=\"server\"}");
        let [displaced, given_up] = ["displaced", "slow_head"].map(|reason| {
            let name = "snowpit_http_connections_refused_total";
            let series = format!("{name}{{listener=\"server\",reason=\"{reason}\"}}");
            value(&page, &series)
        });
        if displaced + given_up >= SILENT as f64 {
            assert!(open < 10.0, "{open} are open");
            assert_eq!(displaced + given_up, SILENT as f64);
            let looks = watched_on(&before, &page);
            eprintln!(
                "{SILENT} slow heads: {scraped} scrapes beside them, the longest {:.2} s; {displaced} gave way, \
                 {given_up} were given up, all within {:.1} s; {looks} polls meanwhile, none failed",
                longest.as_secs_f64(),
                began.elapsed().as_secs_f64()
            );
            break;
        }
        assert!(began.elapsed() < LIMIT, "{open} slow ones are still open");
        sleep(Duration::from_millis(500)).await;
    }
    dripping.abort();
}

/// Sixty-four clients that ask for what takes work, without a pause.
async fn questions(program: &Arc<Program>) {
    const CLIENTS: usize = 64;
    let before = program.page().await;
    let client = reqwest::Client::new();
    let end = Instant::now() + FLOOD;
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let base = format!("http://{}", program.address);
        let client = client.clone();
        tasks.spawn(async move {
            let (mut answered, mut busy) = (0, 0);
            while Instant::now() < end {
                for path in [
                    "/api/v1/series?match=snowpit_connections",
                    "/api/v1/incidents",
                ] {
                    let answer = client.get(format!("{base}{path}")).send().await.unwrap();
                    match answer.status() {
                        StatusCode::OK => answered += 1,
                        StatusCode::SERVICE_UNAVAILABLE => busy += 1,
                        other => panic!("{path}: {other}"),
                    }
                    answer.bytes().await.unwrap();
                }
            }
            (answered, busy)
        });
    }
    let (scraped, longest) = scrapes(program, end).await;
    let (mut answered, mut busy) = (0, 0);
    for (one, other) in tasks.join_all().await {
        answered += one;
        busy += other;
    }
    assert!(scraped > 3 && answered > 100, "{scraped} {answered}");
    let after = program.page().await;
    let told = value(
        &after,
        "snowpit_http_requests_refused_total{listener=\"server\",reason=\"api_busy\"}",
    );
    assert_eq!(told, f64::from(busy));
    let looks = watched_on(&before, &after);
    eprintln!(
        "{CLIENTS} clients at the API for {} s: {answered} answers, {busy} told to come again; \
         {scraped} scrapes beside them, the longest {:.2} s; {looks} polls, none failed",
        FLOOD.as_secs(),
        longest.as_secs_f64()
    );
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

const SPANS: usize = 2_000;

/// Bodies with requests of one route, each request in a trace of its own.
struct Bodies {
    one: Vec<u8>,
    /// Where its traces have their numbers.
    traces: Vec<usize>,
    made: AtomicU64,
}

impl Bodies {
    #[expect(
        clippy::disallowed_methods,
        reason = "a sender stamps with the time of day"
    )]
    fn new() -> Self {
        const MARK: [u8; 8] = [0xa5; 8];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = u64::try_from(now.as_nanos()).unwrap();
        let span = |n: usize| Span {
            trace_id: [MARK, (n as u64).to_be_bytes()].concat(),
            span_id: 1_u64.to_be_bytes().to_vec(),
            kind: 2,
            start_time_unix_nano: now - 1_000_000,
            end_time_unix_nano: now,
            attributes: vec![
                text("http.request.method", "GET"),
                text("http.route", "/flood"),
            ],
            ..Span::default()
        };
        let one = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![text("service.name", "registry")],
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    spans: (0..SPANS).map(span).collect(),
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let one = one.encode_to_vec();
        let marks = one.windows(MARK.len()).enumerate();
        let traces: Vec<usize> = marks
            .filter(|(_, w)| *w == MARK)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(traces.len(), SPANS);
        Self {
            one,
            traces,
            // Other than those of the time before.
            made: AtomicU64::new(now),
        }
    }

    /// What came twice would be counted once, so each is another.
    fn next(&self) -> bytes::Bytes {
        let number = self.made.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut body = self.one.clone();
        for at in &self.traces {
            body[*at..at + number.len()].copy_from_slice(&number);
        }
        body.into()
    }
}

#[derive(Debug, Default)]
struct Sent {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// The connection was closed while the body was on its way.
    cut: AtomicU64,
}

/// So many exporters, each of which sends as soon as it has its answer.
async fn send(otlp: u16, exporters: usize, limit: Duration) -> Sent {
    let client = reqwest::Client::new();
    let bodies = Arc::new(Bodies::new());
    let sent = Arc::new(Sent::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..exporters {
        let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
        let (client, bodies) = (client.clone(), Arc::clone(&bodies));
        tasks.spawn(async move {
            let mut next = bodies.next();
            let url = format!("http://127.0.0.1:{otlp}/v1/traces");
            while !stop.load(Ordering::Relaxed) {
                let request = client.post(&url).body(next.clone());
                let request = request.header("content-type", "application/x-protobuf");
                let answer = match request.send().await {
                    Ok(answer) => Ok((answer.status(), answer.bytes().await)),
                    Err(error) => Err(error),
                };
                match answer {
                    Ok((StatusCode::OK, taken)) => {
                        assert_eq!(taken.unwrap(), "", "all of it was taken in");
                        next = bodies.next();
                        sent.accepted.fetch_add(1, Ordering::Relaxed)
                    }
                    Ok((StatusCode::TOO_MANY_REQUESTS, _)) => {
                        sleep(Duration::from_millis(100)).await;
                        sent.refused.fetch_add(1, Ordering::Relaxed)
                    }
                    Ok((other, _)) => panic!("{other}"),
                    Err(_) => sent.cut.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
    }
    sleep(limit).await;
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    Arc::into_inner(sent).unwrap()
}

const OVERLOAD: &str = "snowpit_rejected_points_total{source=\"otlp\",reason=\"overload\"}";

/// The most memory until the end, megabytes.
async fn peak(program: &Program, end: Instant) -> f64 {
    let mut peak: f64 = 0.0;
    while Instant::now() < end {
        peak = peak.max(program.memory());
        sleep(Duration::from_millis(50)).await;
    }
    peak
}

/// A gigabyte of bodies, the end of which never comes.
async fn half_bodies(program: &Arc<Program>, otlp: u16) {
    const SENDERS: usize = 250;
    const LENGTH: usize = 4 << 20;
    let before = program.page().await;
    let memory = program.memory();
    let end = Instant::now() + FLOOD;
    let half = Arc::new(vec![0; LENGTH - 1]);
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..SENDERS {
        let (half, sent) = (Arc::clone(&half), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", otlp)).await.unwrap();
            let head = format!(
                "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
                 content-length: {LENGTH}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut rest = &half[..];
            // Nobody reads on where there is no place, or the connection is
            // closed.
            while let Ok(Ok(written @ 1..)) = tokio::time::timeout_at(end, stream.write(rest)).await
            {
                sent.fetch_add(written as u64, Ordering::Relaxed);
                rest = &rest[written..];
            }
            tokio::time::sleep_until(end).await;
        });
    }
    let ((scraped, longest), peak) = tokio::join!(scrapes(program, end), peak(program, end));
    tasks.join_all().await;
    let after = program.page().await;
    let refused = value(&after, OVERLOAD) - value(&before, OVERLOAD);
    assert!(refused >= 100.0, "{refused} were told to come again");
    assert!(peak - memory < 150.0, "{memory:.0} MB, then {peak:.0} MB");
    let looks = watched_on(&before, &after);
    eprintln!(
        "{SENDERS} bodies of 4 MiB that do not end: {} MB sent, {refused} told to come again; memory {memory:.0} MB, \
         {peak:.0} MB at most; {scraped} scrapes beside them, the longest {:.2} s; {looks} polls, none failed",
        sent.load(Ordering::Relaxed) >> 20,
        longest.as_secs_f64()
    );
}

/// Many times more exporters than there are places for what they send.
async fn reports(program: &Arc<Program>, otlp: u16) {
    const ROUTE: &str = "snowpit_route_requests_total{service=\"registry\",route=\"GET /flood\"}";
    let before = program.page().await;
    let memory = program.memory();
    let calm = send(otlp, 4, FLOOD / 2).await;
    let calm = calm.accepted.into_inner();

    let end = Instant::now() + FLOOD;
    let ((scraped, longest), sent, peak) = tokio::join!(
        scrapes(program, end),
        send(otlp, 300, FLOOD),
        peak(program, end)
    );
    let accepted = sent.accepted.into_inner();
    let (refused, cut) = (sent.refused.into_inner(), sent.cut.into_inner());
    let expected = ((calm + accepted) * SPANS as u64) as f64;
    let began = Instant::now();
    let after = loop {
        let page = program.page().await;
        let counted = value(&page, ROUTE);
        assert!(
            counted <= expected,
            "{counted} of {expected}: counted twice"
        );
        if counted == expected {
            break page;
        }
        assert!(began.elapsed() < LIMIT, "{counted} of {expected} came in");
        sleep(Duration::from_millis(200)).await;
    };
    let looks = watched_on(&before, &after);
    let told = value(&after, OVERLOAD) - value(&before, OVERLOAD);
    assert!(told >= refused as f64, "{told} counted, {refused} told");
    assert!(
        refused + cut >= 5 * accepted,
        "{refused} + {cut} of {accepted}"
    );
    assert!(peak - memory < 150.0, "{memory:.0} MB, then {peak:.0} MB");
    eprintln!(
        "otlp from 300 exporters for {} s: {accepted} bodies taken in (from 4 in half the time: {calm}), \
         {refused} told to come again, {cut} cut off; all {expected} requests in what was taken in are counted; \
         memory {memory:.0} MB, {peak:.0} MB at most; {scraped} scrapes beside it, the longest {:.2} s; \
         {looks} polls, none failed",
        FLOOD.as_secs(),
        longest.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_keep_nobody_out() {
    const SILENT: usize = 600;
    let files = tempfile::tempdir().unwrap();
    let ours = Authority::new("ours");
    let signed = ours.server(&["localhost"], Holds::Now);
    let configuration = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ntls = {{ cert_file = \"{}\", key_file = \"{}\" }}\n\
         [[postgres]]\nname = \"main\"\ndsn = \"postgresql://snowpit@127.0.0.1:1/postgres\"\n",
        write(files.path(), "server.pem", &signed.certificate).display(),
        write(files.path(), "server.key", &signed.key).display()
    );
    let program = Program::start(&configuration).await;
    let root = reqwest::Certificate::from_pem(ours.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([root])
        .pool_max_idle_per_host(0)
        .timeout(LIMIT)
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/metrics", program.address.port());
    let page = async || {
        let answer = client.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.unwrap()
    };
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        // A record of TLS that promises a greeting of 512 bytes.
        stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        silent.push(stream);
    }
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let asked = Instant::now();
        let open = value(
            &page().await,
            "snowpit_http_connections{listener=\"server\"}",
        );
        longest = longest.max(asked.elapsed());
        if asked - began < Duration::from_secs(5) {
            assert!(open > 400.0, "{open} are open meanwhile");
        }
    }
    let of = |page: &str, reason: &str| {
        let name = "snowpit_http_connections_refused_total";
        value(
            page,
            &format!("{name}{{listener=\"server\",reason=\"{reason}\"}}"),
        )
    };
    loop {
        let page = page().await;
        let (displaced, slow) = (of(&page, "displaced"), of(&page, "slow_handshake"));
        if displaced + slow >= SILENT as f64 {
            assert_eq!(displaced + slow, SILENT as f64);
            eprintln!(
                "{SILENT} half-open handshakes: 10 scrapes beside them, the longest {:.2} s; \
                 {displaced} gave way, {slow} were given up, all within {:.1} s",
                longest.as_secs_f64(),
                began.elapsed().as_secs_f64()
            );
            break;
        }
        assert!(began.elapsed() < LIMIT, "{displaced} and {slow}");
        sleep(Duration::from_millis(500)).await;
    }
    drop(silent);
    program.stop().await;
}
