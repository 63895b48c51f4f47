//! The page on live servers: an orphan and an avalanche appear without a reload,
//! and a hundred open pages cost little.

mod browser;
mod common;

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use browser::{Browser, Window};
use common::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Both incidents of the demo, on a machine that has other things to do.
const DEMO: Duration = Duration::from_secs(300);

/// How late the page may be after the API.
const LATE: f64 = 2.0;

fn unix_now() -> f64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "held against the browser's clock"
    )]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// The program with these arguments, and the first address that it tells of.
async fn start(arguments: &[&str]) -> (Child, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let out = BufReader::new(program.stdout.take().unwrap());
    let err = BufReader::new(program.stderr.take().unwrap());
    let address = tokio::select! {
        address = address_in(out) => address,
        address = address_in(err) => address,
    };
    (program, address)
}

async fn address_in(stream: impl AsyncBufRead + Unpin + Send + 'static) -> String {
    let mut lines = stream.lines();
    let found = timeout(DEMO, async {
        loop {
            let Some(line) = lines.next_line().await.unwrap() else {
                return std::future::pending().await;
            };
            let told = line.split_once("http://").or(line.split_once("address="));
            let Some((_, rest)) = told else { continue };
            let address = rest.split(['/', ' ', '\u{1b}']).next().unwrap_or_default();
            if line.contains("metrics") || line.contains("listening") {
                return address.to_owned();
            }
        }
    });
    let address = found.await.expect("it says where it listens");
    // A pipe that nobody reads would stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    address
}

async fn stop(mut program: Child) {
    let pid = Pid::from_raw(i32::try_from(program.id().unwrap()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let ended = timeout(Duration::from_secs(30), program.wait()).await;
    ended.expect("it ends when told to").unwrap();
}

/// The record of an open incident of this kind, once there is one.
async fn known(url: &str, kind: &str) -> (f64, Value) {
    let began = Instant::now();
    loop {
        let path = format!("{url}/api/v1/incidents?open=true&kind={kind}");
        let answer: Value = reqwest::get(path).await.unwrap().json().await.unwrap();
        let first = &answer["incidents"][0];
        if first.is_object() {
            return (unix_now(), first.clone());
        }
        assert!(began.elapsed() < DEMO, "no {kind} in the demo");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_and_an_avalanche_appear_by_themselves() {
    snowpit::observe::tls::use_ring();
    let (demo, address) = start(&["demo"]).await;
    let url = format!("http://{address}");
    let browser = Browser::start(Window::default()).await;
    browser.open(&url).await;
    browser.until_text("main").await;
    let grant = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.devtools("Browser.grantPermissions", grant).await;
    // Gone after a reload.
    let watch = "window.seen = {}; const look = () => { \
          const text = document.querySelector('.incidents')?.innerText ?? ''; \
          for (const words of ['orphaned advisory lock', 'connection avalanche']) \
            if (text.includes(words)) window.seen[words] ??= Date.now(); \
        }; new MutationObserver(look).observe(document.body, \
          {childList: true, subtree: true, characterData: true}); look()";
    browser.run(watch).await;

    for (kind, words) in [
        ("orphaned_advisory_lock", "orphaned advisory lock"),
        ("connection_avalanche", "connection avalanche"),
    ] {
        let (at_api, incident) = known(&url, kind).await;
        let seen = format!("return window.seen['{words}']");
        let seen = browser.until(words, &seen).await;
        let late = seen.as_f64().unwrap() / 1000.0 - at_api;
        println!("{words}: on the page {late:.2} s after the API knew it");
        assert!(late < LATE, "{late}");

        let id = incident["id"].as_str().unwrap();
        let copy = format!("[data-row='{id}'] [data-do='copy']");
        browser.click(&copy).await;
        browser.until_text("Copied").await;
        let copied = "navigator.clipboard.readText().then(arguments[arguments.length - 1])";
        let copied = browser.run_async(copied).await;
        // The lock may have been carried to another client in between, and what
        // frees it is another command then.
        let (_, now) = known(&url, kind).await;
        let commands = [&incident["actions"][0], &now["actions"][0]];
        assert!(commands.contains(&&copied), "{copied} {commands:?}");
    }
    browser.assert_no_complaint().await;
    let requests = browser.requests().await;
    assert!(
        requests.iter().all(|asked| asked.starts_with(&url)),
        "{requests:?}"
    );
    browser.close().await;
    stop(demo).await;
}

/// Processor seconds that a process has taken.
fn taken(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    // utime and stime, in hundredths of a second on Linux.
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap() / 100.0)
        .sum()
}

/// A page that is open: its stream is read as fast as it comes.
async fn listen(address: &str) -> tokio::task::JoinHandle<u64> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = "GET /api/v1/events HTTP/1.1\r\nHost: here\r\n\r\n";
    tcp.write_all(request.as_bytes()).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        let mut all = 0;
        while let Ok(count @ 1..) = tcp.read(&mut buffer).await {
            all += count as u64;
        }
        all
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_open_pages_cost_little() {
    const PAGES: usize = 100;
    const SPAN: Duration = Duration::from_secs(5);
    let stage = Stage::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snowpit.toml");
    std::fs::write(&file, stage.configuration("")).unwrap();
    let (daemon, address) = start(&["run", "--config", file.to_str().unwrap()]).await;
    let pid = daemon.id().unwrap();
    sleep(Duration::from_secs(3)).await;
    let share = async || {
        // The best of three: other work on the machine only ever adds.
        let mut least = f64::INFINITY;
        for _ in 0..3 {
            let (before, began) = (taken(pid), Instant::now());
            sleep(SPAN).await;
            least = least.min((taken(pid) - before) / began.elapsed().as_secs_f64());
        }
        least
    };
    let alone = share().await;
    let mut pages = Vec::new();
    for _ in 0..PAGES {
        pages.push(listen(&address).await);
    }
    sleep(Duration::from_secs(1)).await;
    let with = share().await;
    println!(
        "of a core: {:.1} % alone, {:.1} % with {PAGES} pages",
        alone * 100.0,
        with * 100.0
    );
    assert!(with - alone <= 0.05, "{alone} {with}");
    stop(daemon).await;
    for page in pages {
        let bytes = page.await.unwrap();
        assert!(bytes > 10_000, "a page was told {bytes} bytes");
    }
}
