//! Applications that answer badly: each is a failed look or a counted
//! rejection, and what was good before, beside and after it is not harmed.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::parse;
use flate2::Compression;
use flate2::write::GzEncoder;
use snowpit::observe::health::Health;
use snowpit::observe::scrape::{ScrapeSource, account};
use snowpit::observe::{PollError, Source};
use snowpit::sample::{FailureReason, Report};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What is sent to one request.
enum Answer {
    Bytes(Vec<u8>),
    /// This head, and then this piece without end.
    Endless(Vec<u8>, Vec<u8>),
    Silence,
}

/// An HTTP server that answers as it is told, one connection a request.
struct Hostile {
    port: u16,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Arc::new(Mutex::new(VecDeque::new()));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (queue, seen) = (Arc::clone(&answers), Arc::clone(&heads));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (queue, seen) = (Arc::clone(&queue), Arc::clone(&seen));
                tokio::spawn(async move {
                    // The client may well have gone away.
                    let _ = serve(stream, &queue, &seen).await;
                });
            }
        });
        Self {
            port,
            answers,
            heads,
        }
    }

    fn then(&self, answer: Answer) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn page(&self, text: &str) {
        self.then(Answer::Bytes(plain(text)));
    }

    fn last_head(&self) -> String {
        self.heads.lock().unwrap().last().unwrap().clone()
    }

    fn source(&self, more: &str) -> (ScrapeSource, Health) {
        source(&format!(
            "url = \"http://127.0.0.1:{}/metrics\"{more}",
            self.port
        ))
    }
}

async fn serve(
    stream: TcpStream,
    answers: &Mutex<VecDeque<Answer>>,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while stream.read_line(&mut head).await? > 2 {}
    heads.lock().unwrap().push(head);
    let answer = answers.lock().unwrap().pop_front().unwrap();
    match answer {
        Answer::Bytes(bytes) => stream.write_all(&bytes).await?,
        Answer::Endless(head, piece) => {
            stream.write_all(&head).await?;
            loop {
                stream.write_all(&piece).await?;
                // An empty piece would never let go of the thread.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Answer::Silence => tokio::time::sleep(Duration::from_secs(600)).await,
    }
    stream.shutdown().await
}

fn source(scrape: &str) -> (ScrapeSource, Health) {
    let text = format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"host=127.0.0.1 port=1 user=u\"\n\
         [[service]]\nname = \"shop\"\napplications = [\"shop\"]\nscrape = {{ {scrape} }}\n"
    );
    let page = parse(&text).scrape.remove(0);
    let health = Health::new();
    let source = ScrapeSource::new(&page, account("shop"), health.rejections().clone());
    (source, health)
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {headers}\r\nConnection: close\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn plain(text: &str) -> Vec<u8> {
    answer(
        "200 OK\r\nContent-Type: text/plain; version=0.0.4",
        text.as_bytes(),
    )
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    answer("200 OK\r\nContent-Encoding: gzip", bytes)
}

/// A route that was asked so often, half a second each.
fn good(count: u32) -> String {
    let seconds = f64::from(count) / 2.0;
    format!(
        "request_duration_seconds_count{{route=\"/good\"}} {count}\n\
         request_duration_seconds_sum{{route=\"/good\"}} {seconds}\n"
    )
}

async fn look(source: &mut ScrapeSource) -> Result<BTreeMap<String, f64>, PollError> {
    let first = source.poll().await?;
    let mut routes = BTreeMap::new();
    for report in std::iter::once(first).chain(source.further()) {
        let Report::Traffic(report) = report else {
            panic!("unexpected {report:?}");
        };
        for route in report.routes {
            *routes.entry(route.route).or_insert(0.0) += route.requests;
        }
    }
    Ok(routes)
}

/// A good look, this answer, a good look: the answer fails for the reason and
/// says these words, and the requests meanwhile are not lost.
async fn fails(hostile: &Hostile, more: &str, bad: Answer, reason: FailureReason, words: &str) {
    let (mut source, _) = hostile.source(more);
    hostile.page(&good(10));
    look(&mut source).await.unwrap();
    hostile.then(bad);
    let error = look(&mut source).await.unwrap_err();
    assert_eq!(error.reason, reason, "{error}");
    assert!(error.message.contains(words), "{error}");
    tokio::time::sleep(Duration::from_millis(150)).await;
    hostile.page(&good(17));
    assert_eq!(look(&mut source).await.unwrap()["/good"], 7.0);
}

/// These lines beside good ones are refused so often for the reason, and the
/// good ones count.
async fn refused(bad: &str, reason: &str, times: u64) {
    let hostile = Hostile::start().await;
    let (mut source, health) = hostile.source(", timeout = \"30s\"");
    hostile.page(&good(10));
    look(&mut source).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    hostile.page(&format!("{}{bad}", good(17)));
    let routes = look(&mut source).await.unwrap();
    assert_eq!(routes["/good"], 7.0);
    assert!(!routes.contains_key("/bad"), "{routes:?}");
    assert_eq!(
        health.rejections().snapshot(),
        [("scrape", reason.to_owned().leak() as &str, times)]
    );
}

#[tokio::test]
async fn an_endless_body_is_given_up() {
    let hostile = Hostile::start().await;
    let head = answer("200 OK\r\nContent-Type: text/plain", b"");
    let bad = Answer::Endless(head, vec![b'x'; 256 * 1024]);
    let long = ", timeout = \"30s\"";
    fails(
        &hostile,
        long,
        bad,
        FailureReason::Protocol,
        "longer than 16 MiB on the wire",
    )
    .await;
}

#[tokio::test]
async fn a_gzip_bomb_is_given_up() {
    let hostile = Hostile::start().await;
    let bomb = packed(&vec![b' '; 256 * 1024 * 1024]);
    assert!(bomb.len() < 512 * 1024, "{}", bomb.len());
    let long = ", timeout = \"30s\"";
    let bad = Answer::Bytes(gzipped(&bomb));
    fails(
        &hostile,
        long,
        bad,
        FailureReason::Protocol,
        "longer than 32 MiB unpacked",
    )
    .await;
}

#[tokio::test]
async fn a_gzip_that_is_cut_or_none_is_told() {
    let hostile = Hostile::start().await;
    let whole = packed(good(12).as_bytes());
    for bad in [&whole[..whole.len() - 9], b"no gzip at all"] {
        let bad = Answer::Bytes(gzipped(bad));
        fails(
            &hostile,
            "",
            bad,
            FailureReason::Protocol,
            "gzip is damaged or was cut",
        )
        .await;
    }
    let (mut source, _) = hostile.source("");
    hostile.then(Answer::Bytes(gzipped(&whole)));
    look(&mut source).await.unwrap();
}

#[tokio::test]
async fn a_target_that_hangs_times_out() {
    let hostile = Hostile::start().await;
    let short = ", timeout = \"300ms\"";
    fails(
        &hostile,
        short,
        Answer::Silence,
        FailureReason::Timeout,
        "did not answer within 0.3 s",
    )
    .await;
    let head = Answer::Endless(answer("200 OK", b"a 1\n"), Vec::new());
    fails(
        &hostile,
        short,
        head,
        FailureReason::Timeout,
        "did not answer within 0.3 s",
    )
    .await;
}

#[tokio::test]
async fn html_instead_of_metrics_is_told() {
    let hostile = Hostile::start().await;
    let page = b"<!doctype html>\n<title>Shop</title>\n<p>Welcome\n";
    let said = Answer::Bytes(answer(
        "200 OK\r\nContent-Type: text/html; charset=utf-8",
        page,
    ));
    fails(
        &hostile,
        "",
        said,
        FailureReason::Protocol,
        "is no page of metrics (it is HTML)",
    )
    .await;
    let unsaid = Answer::Bytes(plain(std::str::from_utf8(page).unwrap()));
    fails(
        &hostile,
        "",
        unsaid,
        FailureReason::Protocol,
        "not one line of it is a sample",
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_is_none_of_ours_has_its_reason() {
    let hostile = Hostile::start().await;
    for (status, reason, words) in [
        (
            "401 Unauthorized",
            FailureReason::Auth,
            "set username and password_file",
        ),
        (
            "403 Forbidden",
            FailureReason::Permission,
            "does not let us read it",
        ),
        ("404 Not Found", FailureReason::Protocol, "correct the path"),
        (
            "503 Service Unavailable",
            FailureReason::Refused,
            "does not serve now",
        ),
        (
            "302 Found\r\nLocation: http://user:secret@elsewhere.test/?token=secret",
            FailureReason::Protocol,
            "redirects to elsewhere.test, and no redirect",
        ),
    ] {
        let bad = Answer::Bytes(answer(status, b"no"));
        fails(&hostile, "", bad, reason, words).await;
    }
    let garbage = Answer::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec());
    fails(
        &hostile,
        "",
        garbage,
        FailureReason::Protocol,
        "does not speak HTTP",
    )
    .await;
}

#[tokio::test]
async fn nobody_there_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (mut source, _) = source(&format!("url = \"http://127.0.0.1:{port}/metrics\""));
    let error = look(&mut source).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::Refused, "{error}");
}

#[tokio::test]
async fn credentials_go_to_the_page_and_into_no_message() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "hunter2\n").unwrap();
    let file = file.display();
    let hostile = Hostile::start().await;
    let denied = || Answer::Bytes(answer("401 Unauthorized", b""));
    let basic = "authorization: Basic bWU6aHVudGVyMg==";
    for (more, expected) in [
        (
            format!(", username = \"me\", password_file = \"{file}\""),
            basic,
        ),
        (
            format!(", bearer_token_file = \"{file}\""),
            "authorization: Bearer hunter2",
        ),
    ] {
        let (mut source, _) = hostile.source(&more);
        hostile.then(denied());
        let error = look(&mut source).await.unwrap_err();
        let head = hostile.last_head();
        assert!(head.contains(expected), "{head}");
        let told = format!("{error} {error:?} {source:?}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    let url = format!(
        "http://me:hunter2@127.0.0.1:{}/metrics?token=hunter2",
        hostile.port
    );
    let (mut source, _) = source(&format!("url = \"{url}\""));
    hostile.then(denied());
    let error = look(&mut source).await.unwrap_err();
    assert!(hostile.last_head().contains(basic));
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
}

#[tokio::test]
async fn tls_is_checked_against_the_named_authority() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (key, certificate) = (at("key.pem"), at("certificate.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"])
        .args([
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::write(directory.path().join("metrics"), good(10)).unwrap();
    let (_server, port) = serve_tls(directory.path(), &key, &certificate).await;

    let url = |host: &str| format!("url = \"https://{host}:{port}/metrics\"");
    let trusted = format!(", ca_file = \"{certificate}\"");
    let (mut source, _) = source(&format!("{}{trusted}", url("localhost")));
    look(&mut source).await.unwrap();
    for scrape in [url("localhost"), format!("{}{trusted}", url("127.0.0.1"))] {
        let (mut source, _) = self::source(&scrape);
        let error = look(&mut source).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::Tls, "{scrape}: {error}");
        assert!(
            error.message.contains("check ca_file and the names"),
            "{error}"
        );
    }
    // TLS to what speaks none.
    let hostile = Hostile::start().await;
    hostile.page("");
    let (mut source, _) = self::source(&format!("url = \"https://127.0.0.1:{}/\"", hostile.port));
    let error = look(&mut source).await.unwrap_err();
    assert!(
        matches!(error.reason, FailureReason::Tls | FailureReason::Refused),
        "{error}"
    );
}

/// OpenSSL's own server, which serves the files of a directory.
async fn serve_tls(directory: &Path, key: &str, certificate: &str) -> (tokio::process::Child, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = tokio::process::Command::new("openssl")
        .args([
            "s_server",
            "-WWW",
            "-quiet",
            "-key",
            key,
            "-cert",
            certificate,
        ])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .current_dir(directory)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return (server, port);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("openssl s_server does not listen");
}

#[tokio::test]
async fn a_hundred_thousand_routes_are_bounded_and_counted() {
    let mut bomb = good(17);
    for route in 0..100_000 {
        let _ = writeln!(
            bomb,
            "request_duration_seconds_count{{route=\"/bomb-{route}-x\"}} 3"
        );
        let _ = writeln!(
            bomb,
            "request_duration_seconds_sum{{route=\"/bomb-{route}-x\"}} 3"
        );
    }
    let hostile = Hostile::start().await;
    let (mut source, health) = hostile.source(", timeout = \"30s\"");
    hostile.page(&good(10));
    look(&mut source).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    hostile.page(&bomb);
    let routes = look(&mut source).await.unwrap();
    assert_eq!(routes["/good"], 7.0);
    // 5,000 have a name, what else there was room for is under one.
    assert_eq!(routes.len(), 5_001);
    let requests: f64 = routes.values().sum();
    assert_eq!(requests, 7.0 + 19_999.0 * 3.0);
    let refused = health.rejections().snapshot();
    let of = |reason: &str| refused.iter().find(|(_, r, _)| *r == reason).map(|r| r.2);
    // Each by its two lines.
    assert_eq!(of("too_many_series"), Some(2 * (100_001 - 20_000)));
    assert_eq!(of("too_many_routes"), Some(20_000 - 5_000));
}

#[tokio::test]
async fn a_label_of_a_mebibyte_is_one_line_less() {
    let page = format!(
        "request_duration_seconds_count{{route=\"/bad{}\"}} 3\n",
        "x".repeat(1 << 20)
    );
    refused(&page, "line_too_long", 1).await;
}

#[tokio::test]
async fn a_sum_that_is_no_number_spoils_its_own_route() {
    let page = "request_duration_seconds_count{route=\"/bad\"} 3\nrequest_duration_seconds_sum{route=\"/bad\"} NaN\n";
    refused(page, "bad_value", 1).await;
}

#[tokio::test]
async fn a_negative_counter_spoils_its_own_route() {
    let page = "request_duration_seconds_count{route=\"/bad\"} -3\nrequest_duration_seconds_sum{route=\"/bad\"} 1\n";
    refused(page, "bad_value", 1).await;
}

#[tokio::test]
async fn time_stamps_far_off_are_refused() {
    let page = "request_duration_seconds_count{route=\"/bad\"} 3 1000\n\
                request_duration_seconds_sum{route=\"/bad\"} 1 9e18\n";
    refused(page, "bad_time", 2).await;
}

#[tokio::test]
async fn lines_that_are_none_are_told_by_what_is_wrong() {
    refused("oops{route=\"/bad\" 3\n{]\n", "labels", 2).await;
    refused(
        "request_duration_seconds_count{route=\"/bad\"} many\n",
        "value",
        1,
    )
    .await;
}
