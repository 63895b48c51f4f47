//! The way to a server is cut, partitioned, slow and lossy, or forgotten by what
//! lies between; and names that do not resolve.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::faults::{PATIENCE, Row, Watch, own_sessions};
use serde_json::Value;
use snowpit::demo::servers::{Postgres, PostgresOptions, Proxy, Way};
use snowpit::engine::incident::Kind;
use snowpit::observe::postgres::session::Session;
use snowpit::sample::FailureReason;
use tokio::time::{Instant, sleep};

const SECTION: &str = "Network";
const SECOND: Duration = Duration::from_secs(1);

async fn behind_a_proxy(more: &str) -> (Postgres, Proxy, Watch) {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let proxy = Proxy::start(postgres.port()).unwrap();
    let configuration = format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://postgres@127.0.0.1:{}/postgres\"\n{more}",
        proxy.port(),
    );
    let mut watch = Watch::start(&configuration).await;
    watch.until_up("main", true).await;
    (postgres, proxy, watch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_or_forgotten_are_replaced() {
    const TEST: &str = "live_faults_network::connections_that_are_cut_or_forgotten_are_replaced";
    let (postgres, proxy, mut watch) = behind_a_proxy("").await;
    let before = own_sessions(&postgres).await;
    proxy.cut();
    let began = Instant::now();
    watch
        .until("another session", async |watch| {
            let now = own_sessions(&postgres).await;
            watch.is_up("main").await && now.len() == 1 && now != before
        })
        .await;
    watch.failed_only("main", "refused").await;
    Row {
        section: SECTION,
        staged: "all connections reset",
        says: "poll failed, reason `refused`, if a look falls into it".into(),
        within: None,
        again: Some(began.elapsed()),
        lost: format!("{} looks", watch.failures("main").await),
        test: TEST,
    }
    .print();

    // What lies between has lost its memory: nothing passes over the old
    // connection, nobody is told, and new ones work.
    let lost = watch.failures("main").await;
    proxy.forget();
    let began = Instant::now();
    watch.until_up("main", false).await;
    let within = began.elapsed();
    let error = watch.last_error("main").await;
    assert!(error.contains("did not answer within 3 s"), "{error}");
    let timeouts = watch.source("main").await["failures"]["timeout"].as_u64();
    assert!(timeouts >= Some(1), "{timeouts:?}");
    let again = watch.until_up("main", true).await;
    // The server was never told of the end of the old one; when it is, one is left.
    assert_eq!(own_sessions(&postgres).await.len(), 2);
    proxy.cut();
    watch
        .until("one session", async |watch| {
            watch.is_up("main").await && own_sessions(&postgres).await.len() == 1
        })
        .await;
    Row {
        section: SECTION,
        staged: "half-open: the old connection is silent for ever, new ones work",
        says: "poll failed, reason `timeout`".into(),
        within: Some(within),
        again: Some(again),
        lost: format!("{} looks", watch.failures("main").await - lost),
        test: TEST,
    }
    .print();
    watch.only(&[]);
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_told_and_seen_through_when_it_heals() {
    const PARTITION: Duration = Duration::from_secs(20);
    let more = "[detect.primary_unreachable]\nhold = \"2s\"\n";
    let (postgres, proxy, mut watch) = behind_a_proxy(more).await;
    proxy.set(Way::Closed);
    let began = Instant::now();
    watch.until_up("main", false).await;
    let noticed = began.elapsed();
    let (incident, _) = watch.until_open(Kind::PrimaryUnreachable, |_| true).await;
    let within = began.elapsed();
    assert_eq!(incident.subject["verdict"], "silent");
    let page = watch.metrics().await;
    assert!(
        !page.contains("snowpit_connections{target=\"main\""),
        "stale numbers"
    );
    let targets: Value = serde_json::from_str(&watch.get("/api/v1/targets").await).unwrap();
    let all = targets["targets"].as_array().unwrap();
    let main = all.iter().find(|target| target["name"] == "main").unwrap();
    assert_eq!(main["fresh"], false, "{main}");
    assert!(main["error"].is_string(), "{main}");
    sleep(PARTITION.saturating_sub(began.elapsed())).await;
    proxy.set(Way::Open);
    let again = watch.until_up("main", true).await;
    let lost = watch.failures("main").await;
    watch.until_over(Kind::PrimaryUnreachable).await;
    watch
        .until("one session", async |_| {
            own_sessions(&postgres).await.len() == 1
        })
        .await;
    watch.only(&[Kind::PrimaryUnreachable]);
    Row {
        section: SECTION,
        staged: "partition of 20 s or until it is told, then healed",
        says: format!(
            "looks time out after {:.1} s; {}",
            noticed.as_secs_f64(),
            incident.summary
        ),
        within: Some(within),
        again: Some(again),
        lost: format!("{lost} looks; one session of ours there"),
        test: "live_faults_network::a_partition_is_told_and_seen_through_when_it_heals",
    }
    .print();
    println!("spare: {}", watch.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_and_lossy_way_makes_looks_rarer_and_no_incident() {
    const FOR: Duration = Duration::from_secs(40);
    let (_postgres, proxy, mut watch) = behind_a_proxy("").await;
    let polls = async |watch: &Watch| watch.source("main").await["polls"].as_u64().unwrap();
    proxy.set(Way::Poor {
        delay: Duration::from_millis(200),
        loss: 0.3,
    });
    let before = polls(&watch).await;
    sleep(FOR).await;
    let (made, failed) = (polls(&watch).await - before, watch.failures("main").await);
    let interval = watch.source("main").await["interval_seconds"]
        .as_f64()
        .unwrap();
    assert!(made > failed, "{failed} of {made} looks failed");
    proxy.set(Way::Open);
    let again = watch.until_up("main", true).await;
    watch.only(&[]);
    Row {
        section: SECTION,
        staged: "30 % loss and 200 ms delay in each direction, for 40 s",
        says: format!(
            "{} looks gave data, one in {interval:.0} s at the end (`snowpit_poll_interval_seconds`); no incident",
            made - failed
        ),
        within: None,
        again: Some(again),
        lost: format!("{failed} looks timed out"),
        test: "live_faults_network::a_slow_and_lossy_way_makes_looks_rarer_and_no_incident",
    }
    .print();
    println!("spare: {}", watch.end().await);
}

/// Of two addresses behind one name a server answers at one, and nobody listens
/// at the other: what the server says is told, in whatever order they come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_word_of_a_server_is_not_covered_by_a_dead_address() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let server = IpAddr::from([127, 0, 0, 1]);
    let dead = IpAddr::from([127, 0, 0, 77]);
    let dsn = |user: &str| {
        let text = format!(
            "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://{user}@localhost:{}/postgres\"\n",
            postgres.port()
        );
        common::parse(&text).postgres[0].connection.clone()
    };
    for addresses in [vec![server, dead], vec![dead, server]] {
        let session = Session::log_in(dsn("postgres"), addresses.clone()).await;
        assert!(session.is_ok_and(|session| !session.is_closed()));
        let refused = Session::log_in(dsn("nobody"), addresses).await;
        let error = refused.err().unwrap();
        assert_eq!(error.reason, FailureReason::Auth, "{error}");
    }
    let refused = Session::log_in(dsn("postgres"), vec![dead]).await;
    assert_eq!(refused.err().unwrap().reason, FailureReason::Refused);

    // After a definite answer nobody else is asked.
    let second = std::net::TcpListener::bind((dead, postgres.port())).unwrap();
    second.set_nonblocking(true).unwrap();
    let refused = Session::log_in(dsn("nobody"), vec![server, dead]).await;
    assert_eq!(refused.err().unwrap().reason, FailureReason::Auth);
    let asked = second.accept().map_err(|error| error.kind());
    assert_eq!(asked.err(), Some(std::io::ErrorKind::WouldBlock));
}

/// A program with its own `/etc/hosts` and `/etc/resolv.conf`, which are the
/// files of these names in `directory`.
fn with_own_names(directory: &std::path::Path, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("unshare");
    let script = format!(
        "mount --bind {0}/hosts /etc/hosts && mount --bind {0}/resolv.conf /etc/resolv.conf && exec \"$@\"",
        directory.display()
    );
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
        "sh",
    ]);
    command.args(arguments).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_resolve_is_told_and_found_again() {
    const HOST: &str = "main.snowpit.test";
    // An address of this run's own: two runs do not meet on port 53.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let name_server = format!("127.53.{high}.{}", low.clamp(1, 254));
    snowpit::observe::tls::use_ring();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let known = format!("127.0.0.1 localhost {HOST}\n");
    file("hosts", &known);
    // Nothing listens there. A name server that drops questions is staged below.
    file("resolv.conf", &format!("nameserver {name_server}\n"));
    let tried = with_own_names(directory.path(), &["true"]).output().await;
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "no namespace of one's own: {tried:?}"
        );
        eprintln!(
            "SKIPPED: names that do not resolve were not tried, because this user has no mount namespace: {tried:?}"
        );
        return;
    }
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let spare = Postgres::start(PostgresOptions::default()).await.unwrap();
    let config = directory.path().join("snowpit.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\
         [[postgres]]\nname = \"main\"\ndsn = \"postgresql://postgres@{HOST}:{}/postgres\"\n\
         [[postgres]]\nname = \"spare\"\ndsn = \"{}\"\n",
        postgres.port(),
        spare.dsn("postgres", "postgres"),
    );
    std::fs::write(&config, text).unwrap();
    let program = env!("CARGO_BIN_EXE_snowpit");
    let config = config.display().to_string();
    let mut command = with_own_names(directory.path(), &[program, "run", "--config", &config]);
    let log = directory.path().join("log");
    let mut daemon = command
        .env("NO_COLOR", "1")
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let listen: std::net::SocketAddr = loop {
        let log = std::fs::read_to_string(&log).unwrap();
        let lines = log.lines().filter(|line| line.contains("listening"));
        let mut words = lines.flat_map(str::split_whitespace);
        if let Some(address) = words.find_map(|word| word.strip_prefix("address=")) {
            break address.parse().unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "it does not listen: {log}");
        sleep(SECOND / 20).await;
    };

    let status = async || -> Option<Value> {
        let answer = reqwest::get(format!("http://{listen}/api/v1/status"))
            .await
            .ok()?;
        answer.json().await.ok()
    };
    let source = async |name: &str| -> Option<Value> {
        let status = status().await?;
        status["sources"]
            .as_array()?
            .iter()
            .find(|source| source["name"] == name)
            .cloned()
    };
    let until = async |what: &str, seen: &dyn Fn(&Value) -> bool| {
        let began = Instant::now();
        loop {
            let main = source("main").await;
            if main.as_ref().is_some_and(seen) {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {main:?}");
            sleep(SECOND / 20).await;
        }
    };
    let error = |main: &Value| main["last_error"].as_str().unwrap_or_default().to_owned();
    until("up", &|main| main["up"] == true).await;

    // A session is not touched by it; a new one is.
    for (resolver, expected) in [
        (None, "does not resolve"),
        (Some(()), "does not answer for the host name"),
    ] {
        let silent = resolver.map(|()| std::net::UdpSocket::bind((name_server.as_str(), 53)));
        if let Some(Err(error)) = &silent {
            assert!(std::env::var_os("CI").is_none(), "no port 53: {error}");
            eprintln!("SKIPPED: a silent name server was not tried: {error}");
            break;
        }
        let failures = async |name: &str| {
            let source = source(name).await.unwrap();
            let failures = source["failures"].as_object().unwrap();
            failures.values().filter_map(Value::as_u64).sum::<u64>()
        };
        let before = failures("main").await;
        file("hosts", "127.0.0.1 localhost\n");
        let began = Instant::now();
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'snowpit'";
        postgres.execute("postgres", end).await.unwrap();
        until(expected, &|main| error(main).contains(expected)).await;
        let within = began.elapsed();
        let said = error(&source("main").await.unwrap());
        assert!(
            said.contains(HOST) && said.contains("mend the name service"),
            "{said}"
        );
        // Long enough for the pause to be at its longest.
        let polls = source("main").await.unwrap()["polls"].as_u64().unwrap();
        until("more looks", &|main| {
            main["polls"].as_u64() >= Some(polls + 4)
        })
        .await;
        file("hosts", &known);
        let again = until("up again", &|main| main["up"] == true).await;
        assert_eq!(failures("spare").await, 0, "the other target");
        Row {
            section: SECTION,
            staged: match resolver {
                None => "the host name does not resolve any more, and our session was ended",
                Some(()) => "the same, with a name server that drops every question",
            },
            says: said.split(" (").next().unwrap_or_default().to_owned(),
            within: Some(within),
            again: Some(again),
            lost: format!("{} looks", failures("main").await - before),
            test: "live_faults_network::a_name_that_does_not_resolve_is_told_and_found_again",
        }
        .print();
    }
    daemon.kill().await.unwrap();
}
