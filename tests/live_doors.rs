//! Who may come in at our own listeners: real certificates, real clients, and
//! files that change while the daemon runs.

mod browser;
mod common;

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use browser::{Browser, Window};
use common::apps::App;
use common::certificates::{Authority, Holds, Signed, write};
use reqwest::{Client, Response, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use snowpit::config::Config;
use snowpit::daemon::{self, RunningDaemon};
use snowpit::demo::servers::Prometheus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For what takes a moment, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(60);

/// The daemon with these keys in its sections, watching a server that is not
/// there.
async fn start(server: &str, otlp: &str) -> (RunningDaemon, Vec<String>) {
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n{server}\n[otlp]\n{otlp}\n\
         [[postgres]]\nname = \"main\"\ndsn = \"postgresql://snowpit@127.0.0.1:1/postgres\"\n"
    );
    let config = Config::parse(&text, "the test", |_| None);
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let warnings = config.warnings.clone();
    (daemon::start(config).await.unwrap(), warnings)
}

/// `users = …` with this password, at the lowest cost.
fn user(name: &str, password: &str) -> String {
    let hash = bcrypt::hash(password, 4).unwrap();
    format!("users = {{ \"{name}\" = \"{hash}\" }}\n")
}

/// What our listeners are called here.
fn server(authority: &Authority, holds: Holds) -> Signed {
    authority.server(&["localhost", "127.0.0.1"], holds)
}

/// `tls = …` with the files that are written to the directory.
fn tls(directory: &Path, signed: &Signed, clients: Option<&Authority>) -> String {
    let cert = write(directory, "server.pem", &signed.certificate);
    let key = write(directory, "server.key", &signed.key);
    let (cert, key) = (cert.display(), key.display());
    let clients = clients.map(|clients| {
        let path = write(directory, "clients.pem", clients.pem());
        format!(", client_ca_file = \"{}\"", path.display())
    });
    let clients = clients.unwrap_or_default();
    format!("tls = {{ cert_file = \"{cert}\", key_file = \"{key}\"{clients} }}\n")
}

fn settings(trusted: &Authority, shown: Option<&Signed>) -> ClientConfig {
    snowpit::observe::tls::use_ring();
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    match shown {
        None => builder.with_no_client_auth(),
        Some(signed) => {
            let chain = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    }
}

/// A client that makes a connection for each request.
fn client(trusted: &Authority, shown: Option<&Signed>) -> Client {
    Client::builder()
        .tls_backend_preconfigured(settings(trusted, shown))
        .pool_max_idle_per_host(0)
        .timeout(LIMIT)
        .build()
        .unwrap()
}

fn url(running: &RunningDaemon, path: &str) -> String {
    format!("https://localhost:{}{path}", running.address().port())
}

/// The reasons of an error, one in the other.
fn reasons(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut error: Option<&dyn Error> = Some(error);
    while let Some(one) = error {
        text.push_str(&format!("{one:?}; "));
        error = one.source();
    }
    text
}

/// Asks until it is no longer too early after a wrong guess.
async fn patiently(request: impl Fn() -> reqwest::RequestBuilder) -> Response {
    let asked = async {
        loop {
            let answer = request().send().await.unwrap();
            if answer.status() != StatusCode::TOO_MANY_REQUESTS {
                return answer;
            }
            assert!(answer.headers().contains_key("retry-after"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap()
}

/// Is wrong until it is told to wait, which a slow machine may be too late for at
/// first: each wrong one doubles the time. Says how often it was wrong.
async fn wrong_until_slowed(what: &str, request: impl Fn() -> reqwest::RequestBuilder) -> u32 {
    let mut wrong = 0;
    loop {
        let answer = request().send().await.unwrap();
        match answer.status() {
            StatusCode::UNAUTHORIZED => wrong += 1,
            StatusCode::TOO_MANY_REQUESTS => return wrong,
            other => panic!("wrong {what}: {other}"),
        }
        assert!(wrong < 20, "{what} is never slowed");
    }
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) -> Duration {
    let began = tokio::time::Instant::now();
    while !look().await {
        assert!(began.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    began.elapsed()
}

/// The value of a series on the page of metrics.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    let line = line.unwrap_or_else(|| panic!("{series} in {page}"));
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_ones_come_in_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let token = write(directory.path(), "token", "correct-horse\n");
    let keys = format!(
        "{}{}bearer_token_file = \"{}\"",
        tls(directory.path(), &server(&ours, Holds::Now), None),
        user("prometheus", "hunter2"),
        token.display()
    );
    let (running, warnings) = start(&keys, "").await;
    assert!(
        warnings.iter().any(|w| w.contains("cost 4")),
        "{warnings:?}"
    );
    let good = client(&ours, None);
    let get = |path: &str| good.get(url(&running, path));
    let metrics = || get("/metrics");
    let right = || metrics().basic_auth("prometheus", Some("hunter2"));

    let none = metrics().send().await.unwrap();
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
    let ways: Vec<_> = none.headers().get_all("www-authenticate").iter().collect();
    assert_eq!(ways.len(), 2, "{ways:?}");
    assert_eq!(none.headers()["x-content-type-options"], "nosniff");
    let error: Value = none.json().await.unwrap();
    assert!(
        error["error"].as_str().unwrap().contains("password"),
        "{error}"
    );
    assert_eq!(right().send().await.unwrap().status(), StatusCode::OK);
    let bearer = metrics().bearer_auth("correct-horse").send().await.unwrap();
    assert_eq!(bearer.status(), StatusCode::OK);

    type Ask<'a> = Box<dyn Fn() -> reqwest::RequestBuilder + 'a>;
    let wrong: [(&str, Ask<'_>); 4] = [
        (
            "password",
            Box::new(|| metrics().basic_auth("prometheus", Some("hunter3"))),
        ),
        (
            "user",
            Box::new(|| metrics().basic_auth("nobody", Some("hunter2"))),
        ),
        ("token", Box::new(|| metrics().bearer_auth("correct-hors"))),
        (
            "scheme",
            Box::new(|| metrics().header("authorization", "Digest x")),
        ),
    ];
    let mut failures = 0;
    for (what, request) in &wrong {
        let answer = patiently(request).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "wrong {what}");
        failures += 1 + wrong_until_slowed(what, request).await;
        // Who was right lately is not slowed by the guesses beside him.
        assert_eq!(
            right().send().await.unwrap().status(),
            StatusCode::OK,
            "{what}"
        );
    }
    for path in ["/-/healthy", "/-/ready"] {
        let answer = get(path).send().await.unwrap();
        assert_ne!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in [
        "/",
        "/api/v1/status",
        "/api/v1/events",
        "/ui/main.js",
        "/none",
    ] {
        let answer = get(path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let reload = good.post(url(&running, "/-/reload")).send().await.unwrap();
    assert_eq!(reload.status(), StatusCode::UNAUTHORIZED);
    let page = right().send().await.unwrap().text().await.unwrap();
    assert_eq!(
        value(&page, "snowpit_auth_failures_total{listener=\"server\"}"),
        f64::from(failures)
    );
    let slowed = "snowpit_http_requests_refused_total{listener=\"server\",reason=\"slowed\"}";
    assert!(value(&page, slowed) >= 4.0);
    let expiry = "snowpit_tls_certificate_expiry_timestamp_seconds{listener=\"server\"}";
    // 2100-01-01
    assert_eq!(value(&page, expiry), 4_102_444_800.0);

    let untrusted = client(&theirs, None)
        .get(url(&running, "/-/healthy"))
        .send();
    let untrusted = reasons(&untrusted.await.unwrap_err());
    assert!(untrusted.contains("UnknownIssuer"), "{untrusted}");
    let stranger = Client::builder()
        .tls_backend_preconfigured(settings(&ours, None))
        .resolve("snowpit.test", running.address())
        .build()
        .unwrap();
    let named = format!(
        "https://snowpit.test:{}/-/healthy",
        running.address().port()
    );
    let misnamed = reasons(&stranger.get(named).send().await.unwrap_err());
    assert!(misnamed.contains("NotValidForName"), "{misnamed}");
    let plain = url(&running, "/-/healthy").replace("https", "http");
    good.get(plain).send().await.unwrap_err();
    let page = right().send().await.unwrap().text().await.unwrap();
    let handshakes =
        "snowpit_http_connections_refused_total{listener=\"server\",reason=\"handshake\"}";
    assert!(
        value(&page, handshakes) >= 2.0,
        "{}",
        value(&page, handshakes)
    );
    drop(wrong);
    running.shutdown(Duration::from_secs(3)).await;

    // One that has expired is told at the start, and clients refuse it.
    let keys = format!(
        "{}{}open_health = false",
        tls(directory.path(), &server(&ours, Holds::Expired), None),
        user("prometheus", "hunter2")
    );
    let (running, warnings) = start(&keys, "").await;
    assert!(
        warnings.iter().any(|w| w.contains("has expired")),
        "{warnings:?}"
    );
    let expired = good.get(url(&running, "/-/healthy")).send().await;
    let expired = reasons(&expired.unwrap_err());
    assert!(expired.contains("Expired"), "{expired}");
    running.shutdown(Duration::from_secs(3)).await;
    let keys = format!("{}open_health = false", user("prometheus", "hunter2"));
    let (running, _) = start(&keys, "").await;
    let closed = url(&running, "/-/healthy").replace("https", "http");
    let closed = good.get(closed).send().await.unwrap();
    assert_eq!(closed.status(), StatusCode::UNAUTHORIZED);
    running.shutdown(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_with_its_certificate_and_password_scrapes_while_others_guess() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let shown = ours.client("prometheus", Holds::Now);
    let keys = tls(directory.path(), &server(&ours, Holds::Now), Some(&ours));
    let (running, _) = start(&(keys + &user("prometheus", "hunter2")), "").await;
    let address = url(&running, "/metrics");

    // Without a certificate, or with a strange one, nobody is asked for a word.
    for (what, stranger) in [
        ("none", None),
        ("theirs", Some(theirs.client("prometheus", Holds::Now))),
    ] {
        let refused = client(&ours, stranger.as_ref()).get(&address);
        let refused = refused
            .basic_auth("prometheus", Some("hunter2"))
            .send()
            .await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    let known = client(&ours, Some(&shown));
    let unnamed = known.get(&address).send().await.unwrap();
    assert_eq!(
        unnamed.status(),
        StatusCode::UNAUTHORIZED,
        "both are needed"
    );

    // It runs as somebody who may read nothing of ours.
    let opened = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    opened(directory.path(), 0o755);
    let file = |name: &str, text: &str| {
        let path = write(directory.path(), name, text);
        opened(&path, 0o644);
        path.display().to_string()
    };
    let scrape = format!(
        "scrape_configs:\n  - job_name: snowpit\n    scrape_interval: 1s\n    scheme: https\n    \
         basic_auth: {{username: prometheus, password: hunter2}}\n    \
         tls_config: {{ca_file: '{}', cert_file: '{}', key_file: '{}', server_name: localhost}}\n    \
         static_configs: [{{targets: ['{}']}}]\n",
        file("ca.pem", ours.pem()),
        file("client.pem", &shown.certificate),
        file("client.key", &shown.key),
        running.address()
    );
    let prometheus = Prometheus::start(&scrape, None).await.unwrap();
    let targets = format!("{}/api/v1/targets", prometheus.url());
    let state = async || {
        let answer: Value = reqwest::get(&targets).await.unwrap().json().await.unwrap();
        answer["data"]["activeTargets"][0].clone()
    };
    until("a real Prometheus is let in", async || {
        state().await["health"] == "up"
    })
    .await;
    for guess in 0..5 {
        let guess = known.get(&address).basic_auth("prometheus", Some(guess));
        let status = guess.send().await.unwrap().status();
        assert!([401, 429].contains(&status.as_u16()), "{status}");
        tokio::time::sleep(Duration::from_millis(600)).await;
        let state = state().await;
        assert_eq!(state["health"], "up", "{state}");
    }
    running.shutdown(Duration::from_secs(3)).await;
    prometheus.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_exporter_sends_over_tls_with_its_token() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new("ours");
    let token = write(directory.path(), "token", "correct-horse");
    let keys = format!(
        "grpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n{}bearer_token_file = \"{}\"\n",
        tls(directory.path(), &server(&ours, Holds::Now), Some(&ours)),
        token.display()
    );
    let (running, _) = start("", &keys).await;
    let shown = ours.client("shop", Holds::Now);
    let file = |name: &str, text: &str| write(directory.path(), name, text).display().to_string();
    let ca = file("ca.pem", ours.pem());
    let certificate = file("client.pem", &shown.certificate);
    let key = file("client.key", &shown.key);
    let otlp = running.otlp();
    let grpc = format!("https://localhost:{}", otlp.grpc_listen.unwrap().port());
    let http = format!("https://localhost:{}", otlp.http_listen.unwrap().port());
    let send = async |protocol: &str, endpoint: &str, token: &str| {
        let header = format!("authorization=Bearer%20{token}");
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
            ("OTEL_EXPORTER_OTLP_HEADERS", &header),
        ];
        App::sends(&variables).await
    };
    let (taken, complaint) = send("grpc", &grpc, "correct-horse").await;
    assert!(taken, "{complaint}");
    let (taken, complaint) = send("http/protobuf", &http, "correct-horse").await;
    assert!(taken, "{complaint}");
    let (taken, complaint) = send("grpc", &grpc, "battery").await;
    assert!(
        !taken && complaint.contains("UNAUTHENTICATED"),
        "{complaint}"
    );
    let (taken, complaint) = send("http/protobuf", &http, "staple").await;
    assert!(!taken && complaint.contains("401"), "{complaint}");

    let page = format!("http://{}/metrics", running.address());
    let page = async || reqwest::get(&page).await.unwrap().text().await.unwrap();
    let sent = "snowpit_route_requests_total{service=\"shop\",route=\"GET /sent\"}";
    until("both are counted", async || {
        let page = page().await;
        page.contains(sent) && value(&page, sent) == 2.0
    })
    .await;
    let page = page().await;
    for listener in ["otlp_grpc", "otlp_http"] {
        let failures = format!("snowpit_auth_failures_total{{listener=\"{listener}\"}}");
        assert_eq!(value(&page, &failures), 1.0, "{listener}");
    }
    running.shutdown(Duration::from_secs(3)).await;
}

/// A connection of HTTP/1.1 that is kept.
struct Kept(TlsStream<TcpStream>);

impl Kept {
    async fn open(trusted: &Authority, running: &RunningDaemon) -> Self {
        let connector = TlsConnector::from(Arc::new(settings(trusted, None)));
        let stream = TcpStream::connect(running.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        Self(connector.connect(name, stream).await.unwrap())
    }

    async fn healthy(&mut self) {
        let request = "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhealthy\n") {
            let read = tokio::time::timeout(LIMIT, self.0.read_buf(&mut answer)).await;
            assert_ne!(read.unwrap().unwrap(), 0, "it is not closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_are_taken_up_and_bad_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let token = write(directory.path(), "token", "first");
    let keys = format!(
        "{}bearer_token_file = \"{}\"",
        tls(directory.path(), &server(&old, Holds::Now), None),
        token.display()
    );
    let (running, _) = start(&keys, "").await;
    let (by_old, by_new) = (client(&old, None), client(&new, None));
    let ask = |client: &Client, token: &str| {
        let request = client.get(url(&running, "/metrics")).bearer_auth(token);
        async move { request.send().await }
    };
    let first = ask(&by_old, "first").await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let mut kept = Kept::open(&old, &running).await;
    kept.healthy().await;
    let events = by_old
        .get(url(&running, "/api/v1/events"))
        .bearer_auth("first");
    let mut events = events.send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());

    tls(directory.path(), &server(&new, Holds::Until(2031)), None);
    write(directory.path(), "token", "second");
    let took = until("the new certificate is shown", async || {
        kept.healthy().await;
        by_new.get(url(&running, "/-/healthy")).send().await.is_ok()
    })
    .await;
    eprintln!(
        "a new certificate was shown {:.1} s after its files",
        took.as_secs_f64()
    );
    assert!(
        ask(&by_old, "first").await.is_err(),
        "for new connections only"
    );
    kept.healthy().await;
    let stale = ask(&by_new, "first").await.unwrap();
    assert_eq!(stale.status(), StatusCode::UNAUTHORIZED, "the old token");
    let page = async || {
        let answer = patiently(|| by_new.get(url(&running, "/metrics")).bearer_auth("second"));
        let answer = answer.await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.unwrap()
    };
    let expiry = "snowpit_tls_certificate_expiry_timestamp_seconds{listener=\"server\"}";
    // 2031-01-01
    assert_eq!(value(&page().await, expiry), 1_924_992_000.0);

    // A key that is another certificate's, and then no certificate at all.
    let failures = "snowpit_access_reload_failures_total{listener=\"server\"}";
    for (number, (name, text)) in [
        ("server.key", server(&old, Holds::Now).key),
        ("server.pem", "-----BEGIN CERTIFICATE-----\nno\n".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        write(directory.path(), name, &text);
        until("the bad file is noticed", async || {
            value(&page().await, failures) == (number + 1) as f64
        })
        .await;
        assert_eq!(value(&page().await, expiry), 1_924_992_000.0, "{name}");
    }
    // A stream has more to say every few seconds, whatever became of the token.
    let more = tokio::time::timeout(LIMIT, events.chunk()).await.unwrap();
    assert!(more.unwrap().is_some(), "the stream was not cut");
    tls(directory.path(), &server(&old, Holds::Now), None);
    until("a good one is taken up again", async || {
        by_old.get(url(&running, "/-/healthy")).send().await.is_ok()
    })
    .await;
    running.shutdown(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_its_events_work_behind_a_password() {
    let (running, _) = start(&user("ops", "hunter2"), "").await;
    let browser = Browser::start(Window::default()).await;
    let address = running.address();
    // The way of a person who has typed them; the browser sends them from then
    // on.
    browser
        .open(&format!("http://ops:hunter2@{address}/"))
        .await;
    browser.open(&format!("http://{address}/")).await;
    let live = "return document.getElementById('live').dataset.state === 'live'";
    browser.until("the stream of events is open", live).await;
    browser.until_text("main").await;
    browser.close().await;
    running.shutdown(Duration::from_secs(3)).await;
}
