//! The PgBouncer poller against a real PgBouncer in front of a real PostgreSQL.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snowpit::config::{ChannelBinding, Dsn, PgbouncerConfig, SslMode};
use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, PoolerAuth, Postgres, PostgresOptions,
};
use snowpit::observe::pgbouncer::{PgbouncerSource, wake_when_wanted};
use snowpit::observe::{PollError, Source};
use snowpit::sample::{
    ClientSocket, FailureReason, PgbouncerReport, Pool, PoolDatabase, Report, ServerSocket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Long enough for a state to be reached on a busy machine, and never reached
/// when all is well.
const PATIENCE: Duration = Duration::from_secs(15);

struct Stage {
    postgres: Postgres,
    pooler: PgBouncer,
}

/// Pools `app` (transaction), `single` (transaction, one server) and `steady`
/// (session) of one database.
async fn stage() -> Stage {
    stage_with(PgBouncerOptions::default()).await
}

async fn stage_with(options: PgBouncerOptions) -> Stage {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let real = Alias::new("postgres", postgres.port());
    let alias = |name: &str| Alias {
        name: name.into(),
        ..real.clone()
    };
    let databases = vec![
        alias("app"),
        Alias {
            pool_size: Some(1),
            ..alias("single")
        },
        Alias {
            pool_mode: Some("session".into()),
            ..alias("steady")
        },
    ];
    let mut users = options.users.clone();
    users.extend([
        ("postgres".into(), String::new()),
        ("outsider".into(), String::new()),
    ]);
    let pooler = PgBouncer::start(PgBouncerOptions {
        databases,
        users,
        ..options
    })
    .await
    .unwrap();
    Stage { postgres, pooler }
}

impl Stage {
    fn dsn(&self) -> Dsn {
        Dsn {
            host: "127.0.0.1".into(),
            port: self.pooler.port(),
            user: "stats".into(),
            password: None,
            database: "pgbouncer".into(),
            ssl_mode: SslMode::Prefer,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: ChannelBinding::Prefer,
            connect_timeout: Duration::from_secs(5),
        }
    }

    fn source(&self) -> PgbouncerSource {
        source(self.dsn())
    }

    async fn client(&self, database: &str, application: &str) -> Client {
        let client = self.pooler.connect("postgres", database, application).await;
        client.unwrap()
    }
}

fn config(connection: Dsn) -> PgbouncerConfig {
    PgbouncerConfig {
        name: "pooler-1".into(),
        target: "main".into(),
        connection,
        interval: Duration::from_secs(1),
    }
}

/// One that never wants clients.
fn source(dsn: Dsn) -> PgbouncerSource {
    PgbouncerSource::new(&config(dsn), watch::channel(BTreeSet::new()).1)
}

fn wanted() -> BTreeSet<String> {
    BTreeSet::from(["pooler-1".to_owned()])
}

async fn look(source: &mut PgbouncerSource) -> PgbouncerReport {
    match source.poll().await.unwrap() {
        Report::Pgbouncer(report) => report,
        other => panic!("unexpected {other:?}"),
    }
}

async fn fails(dsn: Dsn) -> PollError {
    source(dsn).poll().await.unwrap_err()
}

/// Looks until `found` answers.
async fn until<T>(
    source: &mut PgbouncerSource,
    found: impl Fn(&PgbouncerReport) -> Option<T>,
) -> T {
    let search = async {
        loop {
            if let Some(thing) = found(&look(source).await) {
                return thing;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.expect("the pooler gets into this state")
}

async fn backend_pid(client: &Client) -> i32 {
    let answer = client
        .simple_query("SELECT pg_backend_pid()")
        .await
        .unwrap();
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap().parse().unwrap()
}

fn pool<'a>(report: &'a PgbouncerReport, database: &str) -> &'a Pool {
    let mut pools = report.pools.iter();
    pools.find(|pool| pool.database == database).unwrap()
}

fn server(report: &PgbouncerReport, pid: i32) -> &ServerSocket {
    let mut servers = report.servers.iter();
    servers.find(|server| server.remote_pid == pid).unwrap()
}

fn client<'a>(report: &'a PgbouncerReport, application: &str) -> &'a ClientSocket {
    let mut clients = report.clients.as_deref().unwrap().iter();
    let named = |client: &&ClientSocket| client.application_name.as_deref() == Some(application);
    clients.find(named).unwrap()
}

fn database<'a>(report: &'a PgbouncerReport, name: &str) -> &'a PoolDatabase {
    let mut databases = report.databases.iter();
    databases.find(|database| database.name == name).unwrap()
}

#[tokio::test]
async fn one_look_tells_linked_from_unlinked_in_both_pool_modes() {
    let stage = stage().await;
    let busy = stage.client("app", "busy").await;
    busy.batch_execute("BEGIN").await.unwrap();
    let busy_pid = backend_pid(&busy).await;
    let resting = stage.client("app", "resting").await;
    let resting_pid = backend_pid(&resting).await;
    let steady = stage.client("steady", "steady").await;
    let steady_pid = backend_pid(&steady).await;

    let mut source = stage.source();
    let report = look(&mut source).await;

    assert_eq!(
        (report.pooler.as_str(), report.target.as_str()),
        ("pooler-1", "main")
    );
    assert!(report.version.as_deref().unwrap().starts_with("1."));
    assert_eq!(source.version(), report.version.as_deref());
    assert_eq!(report.error, None);
    assert!(!report.truncated);

    let linked = server(&report, busy_pid);
    assert_eq!(
        (linked.database.as_str(), linked.user.as_str()),
        ("app", "postgres")
    );
    assert_eq!(linked.state, "active");
    assert!(!linked.link.is_empty());
    assert_eq!(
        (linked.addr.as_str(), linked.port),
        ("127.0.0.1", stage.postgres.port())
    );
    let unlinked = server(&report, resting_pid);
    assert_eq!(
        (unlinked.state.as_str(), unlinked.link.as_str()),
        ("idle", "")
    );
    assert_eq!(unlinked.application_name.as_deref(), Some("resting"));
    // In session mode the server stays linked though nothing runs.
    assert!(!server(&report, steady_pid).link.is_empty());

    let direct = stage
        .postgres
        .connect("postgres", "postgres")
        .await
        .unwrap();
    let activity = "SELECT client_port FROM pg_stat_activity WHERE pid = $1";
    let row = direct.query_one(activity, &[&resting_pid]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), i32::from(unlinked.local_port));

    let app = pool(&report, "app");
    assert_eq!(app.pool_mode, "transaction");
    assert_eq!(
        (app.cl_active, app.cl_waiting, app.sv_active, app.sv_idle),
        (2, 0, 1, 1)
    );
    assert_eq!(pool(&report, "steady").pool_mode, "session");
    assert_eq!(database(&report, "app").database, "postgres");
    assert_eq!(database(&report, "single").pool_size, 1);
    assert_eq!(
        database(&report, "steady").pool_mode.as_deref(),
        Some("session")
    );
    let stats = report
        .stats
        .iter()
        .find(|stats| stats.database == "app")
        .unwrap();
    assert!(stats.total_query_count >= 3);
    // Three clients and our own session.
    assert_eq!(report.lists.used_clients, 4);
    assert_eq!(report.lists.used_servers, 3);
    let config = report.config.as_ref().unwrap();
    assert_eq!(
        (config.max_client_conn, config.pool_mode.as_str()),
        (200, "transaction")
    );
    assert!(!config.so_reuseport && !config.server_reset_query_always);
}

#[tokio::test]
async fn settings_that_change_a_verdict_are_read() {
    let stage = stage_with(PgBouncerOptions {
        pool_mode: "statement".into(),
        settings: vec![
            ("so_reuseport".into(), "1".into()),
            ("server_reset_query_always".into(), "1".into()),
        ],
        ..PgBouncerOptions::default()
    })
    .await;
    let config = look(&mut stage.source()).await.config.unwrap();
    assert!(config.so_reuseport && config.server_reset_query_always);
    assert_eq!(config.pool_mode, "statement");
}

#[tokio::test]
async fn the_pseudo_database_is_in_no_list() {
    let stage = stage().await;
    let mut source = PgbouncerSource::new(&config(stage.dsn()), watch::channel(wanted()).1);
    // A second console session, which must not be taken for a client.
    let console = stage
        .pooler
        .connect("stats", "pgbouncer", "person")
        .await
        .unwrap();
    console.simple_query("SHOW POOLS").await.unwrap();
    let report = look(&mut source).await;
    assert_eq!(report.lists.used_clients, 2);
    assert_eq!(report.clients, Some(vec![]));
    assert_eq!(report.pools, []);
    assert_eq!(report.stats, []);
    let names: BTreeSet<&str> = report.databases.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["app", "single", "steady"]));
}

#[tokio::test]
async fn clients_are_read_only_while_wanted() {
    let stage = stage().await;
    let (want, wants) = watch::channel(BTreeSet::new());
    let wake = Arc::new(Notify::new());
    let waker = wake_when_wanted("pooler-1".into(), wants.clone(), Arc::clone(&wake));
    let waker = tokio::spawn(waker);
    let mut source = PgbouncerSource::new(&config(stage.dsn()), wants);
    let busy = stage.client("app", "busy").await;
    busy.batch_execute("BEGIN").await.unwrap();
    let pid = backend_pid(&busy).await;
    assert_eq!(look(&mut source).await.clients, None);

    want.send_replace(BTreeSet::from(["another".into()]));
    assert_eq!(look(&mut source).await.clients, None);
    want.send_replace(wanted());
    let woken = tokio::time::timeout(PATIENCE, wake.notified()).await;
    woken.expect("the poller is woken");
    let report = look(&mut source).await;
    let busy_socket = client(&report, "busy");
    assert_eq!(busy_socket.link, server(&report, pid).ptr);
    assert_eq!(server(&report, pid).link, busy_socket.ptr);
    assert!(!report.truncated);

    want.send_replace(BTreeSet::new());
    assert_eq!(look(&mut source).await.clients, None);
    drop(want);
    drop(source);
    waker.await.unwrap();
}

/// The facts on which `request_age` rests: a client's `request_time` moves when
/// it sends, a server's when it answers, and our own row is now.
#[tokio::test]
async fn request_age_counts_from_what_the_client_sent_last() {
    let stage = stage().await;
    let mut source = PgbouncerSource::new(&config(stage.dsn()), watch::channel(wanted()).1);
    let sleeper = stage.client("app", "sleeper").await;
    let pid = backend_pid(&sleeper).await;
    let before = look(&mut source).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let asking = tokio::spawn(async move {
        sleeper.simple_query("SELECT pg_sleep(3)").await.unwrap();
        sleeper
    });
    tokio::time::sleep(Duration::from_millis(2_200)).await;

    let during = look(&mut source).await;
    let age = client(&during, "sleeper").request_age.unwrap();
    assert!(
        (1.0..=3.0).contains(&age),
        "{age} s after the request was sent"
    );
    assert_ne!(
        client(&during, "sleeper").request_time,
        client(&before, "sleeper").request_time
    );
    assert_eq!(
        server(&during, pid).request_time,
        server(&before, pid).request_time
    );

    let sleeper = asking.await.unwrap();
    let after = look(&mut source).await;
    let age = client(&after, "sleeper").request_age.unwrap();
    assert!(
        (2.0..=5.0).contains(&age),
        "the answer does not move it: {age} s"
    );
    assert_ne!(
        server(&after, pid).request_time,
        server(&before, pid).request_time
    );

    backend_pid(&sleeper).await;
    let again = look(&mut source).await;
    let age = client(&again, "sleeper").request_age.unwrap();
    assert!(age <= 1.0, "a new request begins it anew: {age} s");
}

#[tokio::test]
async fn a_wait_under_a_second_is_seen() {
    let stage = stage().await;
    let mut source = stage.source();
    let holder = stage.client("single", "holder").await;
    holder.batch_execute("BEGIN").await.unwrap();
    let waiter = stage.client("single", "waiter").await;
    let waiting = tokio::spawn(async move { waiter.batch_execute("SELECT 1").await });
    let seen = until(&mut source, |report| {
        let single = pool(report, "single");
        (single.cl_waiting == 1 && single.maxwait_us > 0).then(|| single.clone())
    })
    .await;
    assert_eq!((seen.cl_active, seen.sv_active, seen.sv_idle), (1, 1, 0));
    assert!(
        seen.maxwait_us < 1_000_000,
        "waited {} us when first seen",
        seen.maxwait_us
    );
    holder.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
    let report = look(&mut source).await;
    assert_eq!(
        (
            pool(&report, "single").cl_waiting,
            pool(&report, "single").maxwait_us
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn a_pause_is_told_at_once_when_somebody_waits_and_so_is_its_end() {
    let stage = stage().await;
    let mut source = stage.source();
    let app = stage.client("app", "web").await;
    backend_pid(&app).await;
    assert!(!database(&look(&mut source).await, "app").paused);
    stage.pooler.console("PAUSE app").await.unwrap();
    let waiting = tokio::spawn(async move { app.batch_execute("SELECT 1").await });
    let paused = until(&mut source, |report| {
        (pool(report, "app").cl_waiting == 1).then(|| database(report, "app").paused)
    })
    .await;
    assert!(paused, "the report that shows the wait shows its cause");
    stage.pooler.console("RESUME app").await.unwrap();
    assert!(!database(&look(&mut source).await, "app").paused);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_pause_without_waiters_is_told_within_five_looks() {
    let stage = stage().await;
    let mut source = stage.source();
    look(&mut source).await;
    stage.pooler.console("PAUSE app").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(database(&look(&mut source).await, "app").paused);
    }
    assert_eq!(seen, [false, false, false, false, true]);
}

#[tokio::test]
async fn reconnect_takes_an_abandoned_server_out_and_leaves_a_linked_one() {
    let stage = stage().await;
    let mut source = stage.source();
    let leader = stage.client("app", "leader").await;
    leader.batch_execute("BEGIN").await.unwrap();
    let leader_pid = backend_pid(&leader).await;
    let gone = stage.client("app", "gone").await;
    gone.batch_execute("SELECT pg_advisory_lock(42)")
        .await
        .unwrap();
    let gone_pid = backend_pid(&gone).await;
    drop(gone);
    let left = until(&mut source, |report| {
        (pool(report, "app").cl_active == 1).then(|| server(report, gone_pid).clone())
    })
    .await;
    assert_eq!(left.link, "");
    assert_eq!(
        left.application_name.as_deref(),
        Some("gone"),
        "a clue to who left"
    );
    stage.pooler.console("RECONNECT app").await.unwrap();
    let report = until(&mut source, |report| {
        let still_there = report.servers.iter().any(|s| s.remote_pid == gone_pid);
        (!still_there).then(|| report.clone())
    })
    .await;
    assert!(!server(&report, leader_pid).link.is_empty());
}

#[tokio::test]
async fn a_restarted_pooler_is_found_again() {
    let stage = stage().await;
    let mut source = stage.source();
    look(&mut source).await;
    let port = stage.pooler.port();
    stage.pooler.stop().await;
    let error = source.poll().await.unwrap_err();
    assert_eq!(error.reason, FailureReason::Refused, "{error}");
    let error = source.poll().await.unwrap_err();
    assert_eq!(error.reason, FailureReason::Refused, "{error}");
    assert!(error.to_string().contains("nothing listens"), "{error}");
    match source.failure(&error) {
        Report::Pgbouncer(report) => {
            assert_eq!(
                (report.pooler.as_str(), report.error),
                ("pooler-1", Some(error.reason))
            );
        }
        other => panic!("unexpected {other:?}"),
    }

    let pooler = PgBouncer::start(PgBouncerOptions {
        port: Some(port),
        max_client_conn: 77,
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap();
    assert_eq!(pooler.port(), port, "somebody took the port in between");
    let report = look(&mut source).await;
    assert_eq!(
        report.config.unwrap().max_client_conn,
        77,
        "nothing is remembered"
    );
}

#[tokio::test]
async fn a_frozen_pooler_is_a_timeout_and_its_late_answers_confuse_nobody() {
    let stage = stage().await;
    let mut source = stage.source();
    look(&mut source).await;
    let pid = Pid::from_raw(stage.pooler.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    let error = source.poll().await.unwrap_err();
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(error.reason, FailureReason::Timeout, "{error}");
    assert_eq!(look(&mut source).await.lists.pools, 1);
    // A look that its caller gives up right after the first question.
    tokio::select! {
        biased;
        _ = source.poll() => panic!("answered before it was sent"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(look(&mut source).await.lists.pools, 1);
}

#[tokio::test]
async fn the_unix_socket_works() {
    let stage = stage().await;
    let mut source = source(Dsn {
        host: stage.pooler.socket_dir().display().to_string(),
        ssl_mode: SslMode::VerifyFull,
        ..stage.dsn()
    });
    assert_eq!(look(&mut source).await.databases.len(), 3);
}

#[tokio::test]
async fn the_address_of_postgres_is_told_from_a_console() {
    let stage = stage().await;
    let there = Dsn {
        port: stage.postgres.port(),
        ..stage.dsn()
    };
    // The role is unknown there, then the database, then the question.
    let unknown_database = Dsn {
        user: "postgres".into(),
        ..there.clone()
    };
    for dsn in [there, unknown_database.clone()] {
        let error = fails(dsn).await;
        assert_eq!(error.reason, FailureReason::Protocol, "{error}");
        assert!(
            error
                .to_string()
                .contains("is PostgreSQL, not a PgBouncer console"),
            "{error}"
        );
    }
    let create = "CREATE DATABASE pgbouncer";
    stage.postgres.execute("postgres", create).await.unwrap();
    let error = fails(unknown_database).await;
    assert!(
        error
            .to_string()
            .contains("is PostgreSQL, not a PgBouncer console"),
        "{error}"
    );
}

#[tokio::test]
async fn a_pool_and_an_unknown_database_are_told_from_the_console() {
    let stage = stage().await;
    for database in ["app", "nowhere"] {
        let error = fails(Dsn {
            database: database.into(),
            user: "postgres".into(),
            ..stage.dsn()
        })
        .await;
        assert_eq!(error.reason, FailureReason::Protocol, "{error}");
        assert!(
            error.to_string().contains("end the dsn in /pgbouncer"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_user_without_the_console_is_told_which_setting_gives_it() {
    let stage = stage().await;
    let error = fails(Dsn {
        user: "outsider".into(),
        ..stage.dsn()
    })
    .await;
    assert_eq!(error.reason, FailureReason::Permission, "{error}");
    assert!(error.to_string().contains("user outsider"), "{error}");
    assert!(error.to_string().contains("stats_users"), "{error}");
}

#[tokio::test]
async fn passwords_are_checked_and_never_shown() {
    let stage = stage_with(PgBouncerOptions {
        auth: PoolerAuth::Scram,
        users: vec![
            ("stats".into(), "correct horse".into()),
            ("admin".into(), "battery staple".into()),
        ],
        ..PgBouncerOptions::default()
    })
    .await;
    let with = |user: &str, password: Option<&str>| Dsn {
        user: user.into(),
        password: password.map(str::to_owned),
        ..stage.dsn()
    };
    let mut good = source(with("stats", Some("correct horse")));
    assert_eq!(look(&mut good).await.databases.len(), 3);
    for dsn in [
        with("stats", Some("wrong horse")),
        with("stats", None),
        with("nobody", Some("wrong horse")),
    ] {
        let error = fails(dsn).await;
        assert_eq!(error.reason, FailureReason::Auth, "{error}");
        assert!(
            !format!("{error} {error:?}").contains("wrong horse"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_stranger_on_the_port_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stranger = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let _ = socket.read(&mut request).await.unwrap();
            socket
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        }
    });
    for ssl_mode in [SslMode::Disable, SslMode::Prefer] {
        let error = fails(Dsn {
            host: "127.0.0.1".into(),
            port,
            user: "stats".into(),
            password: None,
            database: "pgbouncer".into(),
            ssl_mode,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: ChannelBinding::Prefer,
            connect_timeout: Duration::from_secs(5),
        })
        .await;
        assert_eq!(error.reason, FailureReason::Protocol, "{error}");
        assert!(error.to_string().contains("PgBouncer"), "{error}");
    }
    stranger.abort();
}
