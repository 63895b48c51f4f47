//! The PostgreSQL source against real servers: what it reads, what it says when
//! it cannot, and that nothing a session can do stops it.

use std::time::Duration;

use snowpit::config::{ChannelBinding, Dsn, PostgresConfig, SslMode};
use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresAuth, PostgresOptions, connect,
};
use snowpit::observe::PollError;
use snowpit::observe::health::Health;
use snowpit::observe::poll::{Pace, Poller};
use snowpit::observe::postgres::PostgresSource;
use snowpit::sample::{FailureReason, PostgresReport, Report};
use tokio::sync::mpsc;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

async fn server(options: PostgresOptions) -> Postgres {
    Postgres::start(options).await.expect("PostgreSQL starts")
}

fn dsn(port: u16, user: &str) -> Dsn {
    Dsn {
        host: "127.0.0.1".into(),
        port,
        user: user.into(),
        password: None,
        database: "postgres".into(),
        ssl_mode: SslMode::Prefer,
        ssl_root_cert: None,
        client_certificate: None,
        channel_binding: ChannelBinding::Prefer,
        connect_timeout: 3 * SECOND,
    }
}

fn source_of(connection: Dsn) -> PostgresSource {
    PostgresSource::new(&PostgresConfig {
        name: "main".into(),
        connection,
        interval: SECOND,
    })
}

fn source(port: u16) -> PostgresSource {
    source_of(dsn(port, "postgres"))
}

async fn failure_of(connection: Dsn) -> PollError {
    let answer = source_of(connection).look().await;
    answer.expect_err("this must fail")
}

async fn named(postgres: &Postgres, application: &str) -> Client {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(postgres.port())
        .user("postgres")
        .dbname("postgres")
        .application_name(application);
    connect(&config).await.expect("a session")
}

/// Looks until the report shows what is expected: what another session does is
/// seen a moment later.
async fn look_until(
    source: &mut PostgresSource,
    seen: impl Fn(&PostgresReport) -> bool,
) -> PostgresReport {
    let mut last = None;
    for _ in 0..50 {
        let report = source.look().await.expect("a look");
        if seen(&report) {
            return report;
        }
        last = Some(report);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never seen, the last report was {last:#?}");
}

#[tokio::test]
async fn groups_count_every_client_once_and_carry_route_tags() {
    let postgres = server(PostgresOptions {
        max_connections: 37,
        ..PostgresOptions::default()
    })
    .await;
    let statements = [
        "BEGIN; SELECT 1 /*application='x',route='%2Fv2%2F%3Cname%3E',traceparent='00-1-1-01'*/",
        "BEGIN; SELECT 1 /*application='x',route='%2Fv2%2F%3Cname%3E',traceparent='00-2-2-01'*/",
        "/*action:index,controller:packages*/ BEGIN; SELECT 2",
        "BEGIN; SELECT 3 /* controller='tags', action='show' */;",
        "BEGIN; SELECT '/*route=''literal''*/', 4",
    ];
    let mut clients = Vec::new();
    for statement in statements {
        let client = named(&postgres, "registry").await;
        // Two statements in one message: the text shown is the whole message.
        client.batch_execute(statement).await.expect("a statement");
        clients.push(client);
    }
    let idle = named(&postgres, "registry").await;
    idle.batch_execute("SELECT 1 /*route='idle'*/")
        .await
        .expect("a statement");

    let mut source = source(postgres.port());
    let report = look_until(&mut source, |report| {
        let busy = report
            .groups
            .iter()
            .filter(|g| g.state.as_deref() == Some("idle in transaction"));
        busy.map(|g| g.count).sum::<u32>() == 5
    })
    .await;
    let mut routes: Vec<(Option<&str>, u32)> = report
        .groups
        .iter()
        .filter(|g| g.application.as_deref() == Some("registry"))
        .map(|g| (g.route.as_deref(), g.count))
        .collect();
    routes.sort_unstable();
    assert_eq!(
        routes,
        [
            (None, 1),
            (None, 1),
            (Some("/v2/<name>"), 2),
            (Some("packages#index"), 1),
            (Some("tags#show"), 1),
        ]
    );
    let idle_group = report
        .groups
        .iter()
        .find(|g| g.state.as_deref() == Some("idle"));
    let idle_group = idle_group.expect("the idle session");
    assert_eq!(
        (&idle_group.wait_event_type, &idle_group.route),
        (&None, &None)
    );
    assert_eq!(idle_group.database.as_deref(), Some("postgres"));
    assert_eq!(idle_group.user.as_deref(), Some("postgres"));
    assert_eq!(idle_group.client.as_deref(), Some("127.0.0.1"));

    let counted = idle
        .query_one(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'",
            &[],
        )
        .await
        .expect("a count")
        .get::<_, i64>(0);
    assert_eq!(
        report
            .groups
            .iter()
            .map(|g| i64::from(g.count))
            .sum::<i64>(),
        counted
    );
    assert_eq!(counted, 7, "six clients and one session of ours");

    let facts = report.server.expect("facts");
    assert!(facts.version.is_some_and(|version| version >= 140_000));
    assert_eq!(facts.max_connections, Some(37));
    assert_eq!(facts.reserved_connections, Some(3));
    assert_eq!(facts.in_recovery, Some(false));
    assert!(facts.clock > facts.started_at);
    assert!(report.sessions_opened_total.is_some());
    assert_eq!(report.databases, ["postgres"]);
    assert_eq!(report.sees_all_sessions, Some(true));
}

#[tokio::test]
async fn tags_that_are_cut_off_are_counted() {
    let postgres = server(PostgresOptions::default()).await;
    // A statement longer than the 1,024 bytes that the server keeps; of an
    // umlaut at the cut it keeps no half.
    let long = "'ä".to_owned() + &"ä".repeat(700) + "'";
    let statements = [
        format!("BEGIN; SELECT {long} /*route='%2Fcut'*/"),
        format!("/*route='%2Fprepended'*/ BEGIN; SELECT {long}"),
        "BEGIN; SELECT 1 /*route='%2Fshort'*/".to_owned(),
    ];
    let mut clients = Vec::new();
    for statement in &statements {
        let client = named(&postgres, "registry").await;
        client.batch_execute(statement).await.expect("a statement");
        clients.push(client);
    }
    let idle = named(&postgres, "registry").await;
    idle.batch_execute(&format!("SELECT {long} /*route='%2Fidle'*/"))
        .await
        .expect("a statement");

    let mut source = source(postgres.port());
    let report = look_until(&mut source, |report| {
        let busy = report.groups.iter().filter(|g| g.route.is_some());
        busy.map(|g| g.count).sum::<u32>() == 2
    })
    .await;
    assert_eq!(report.truncated_comments, 1, "{:#?}", report.groups);
}

#[tokio::test]
async fn locks_come_with_their_holders_and_waiters() {
    let postgres = server(PostgresOptions::default()).await;
    postgres
        .execute(
            "postgres",
            "CREATE TABLE t (id int primary key, v text); INSERT INTO t VALUES (1, 'x')",
        )
        .await
        .expect("a table");
    let owner = named(&postgres, "owner").await;
    owner
        .batch_execute("SELECT pg_advisory_lock(42424242424242)")
        .await
        .expect("the lock");
    let spinner = named(&postgres, "spinner").await;
    spinner
        .batch_execute("SELECT pg_try_advisory_lock(42424242424242)")
        .await
        .expect("a try");
    let writer = named(&postgres, "writer").await;
    writer
        .batch_execute("BEGIN; UPDATE t SET v = 'secret one' WHERE id = 1")
        .await
        .expect("an update");
    let blocked = named(&postgres, "blocked").await;
    let second = tokio::spawn(async move {
        blocked
            .batch_execute("UPDATE t SET v = 'secret two' WHERE id = 1")
            .await
    });
    let waiter = named(&postgres, "waiter").await;
    let third = tokio::spawn(async move {
        waiter
            .batch_execute("SELECT pg_advisory_lock(42424242424242)")
            .await
    });

    let mut source = source(postgres.port());
    let report = look_until(&mut source, |report| {
        report.locks.iter().filter(|lock| !lock.granted).count() == 2
    })
    .await;
    let pid_of = |application: &str| {
        let backend = report
            .backends
            .iter()
            .find(|b| b.application.as_deref() == Some(application));
        backend
            .unwrap_or_else(|| panic!("{application} is shown"))
            .pid
    };
    let lock = |locktype: &str, granted: bool| {
        let mut found = report
            .locks
            .iter()
            .filter(|l| l.locktype == locktype && l.granted == granted);
        let lock = found.next().unwrap_or_else(|| panic!("a {locktype} lock"));
        assert_eq!(found.next(), None, "one {locktype} lock");
        lock
    };
    let held = lock("advisory", true);
    assert_eq!(held.pid, Some(pid_of("owner")));
    assert_eq!(
        (held.classid, held.objid, held.objsubid),
        (Some(9877), Some(2_850_441_650), Some(1))
    );
    assert_eq!(held.database.as_deref(), Some("postgres"));
    assert!(
        held.virtualtransaction
            .as_deref()
            .is_some_and(|v| v.ends_with("/0"))
    );
    let wanted = lock("advisory", false);
    assert_eq!(wanted.pid, Some(pid_of("waiter")));
    assert!(wanted.waitstart.is_some());
    let row_lock = lock("transactionid", false);
    assert_eq!(row_lock.pid, Some(pid_of("blocked")));
    let in_the_way = report.locks.iter().find(|l| {
        l.granted && l.locktype == "transactionid" && l.transactionid == row_lock.transactionid
    });
    assert_eq!(
        in_the_way.expect("who is waited for").pid,
        Some(pid_of("writer"))
    );

    let spinner = pid_of("spinner");
    let text = |pid| {
        report
            .backends
            .iter()
            .find(|b| b.pid == pid)
            .and_then(|b| b.query.as_deref())
    };
    assert_eq!(text(spinner), Some("SELECT pg_try_advisory_lock(?)"));
    assert!(
        report
            .backends
            .iter()
            .all(|b| !b.query.as_deref().unwrap_or_default().contains("secret"))
    );
    let advisory: u32 = report
        .lock_counts
        .iter()
        .filter(|c| c.locktype == "advisory")
        .map(|c| c.count)
        .sum();
    assert_eq!(advisory, 2);
    second.abort();
    third.abort();
}

#[tokio::test]
async fn a_relation_that_is_waited_for_has_its_name() {
    let postgres = server(PostgresOptions::default()).await;
    postgres
        .execute(
            "postgres",
            "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int); CREATE TABLE late (id int)",
        )
        .await
        .expect("tables");
    let mut source = source(postgres.port());
    source.look().await.expect("a look");
    let holder = named(&postgres, "holder").await;
    holder
        .batch_execute("BEGIN; LOCK TABLE shop.orders, late IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("the lock");
    let reader = named(&postgres, "reader").await;
    let first = tokio::spawn(async move { reader.batch_execute("TABLE shop.orders").await });
    let waits = |report: &PostgresReport| report.locks.iter().filter(|l| !l.granted).count();
    let report = look_until(&mut source, |report| waits(report) == 1).await;
    let names: Vec<_> = report
        .locks
        .iter()
        .map(|l| (l.granted, l.relation.as_deref()))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names.iter().all(|(_, name)| *name == Some("shop.orders")),
        "{names:?}"
    );

    let second = named(&postgres, "second").await;
    let other = tokio::spawn(async move { second.batch_execute("TABLE late").await });
    let report = look_until(&mut source, |report| waits(report) == 2).await;
    assert!(
        report
            .locks
            .iter()
            .any(|l| l.relation.as_deref() == Some("public.late"))
    );
    first.abort();
    other.abort();
}

#[tokio::test]
async fn a_prepared_transaction_is_told_with_its_name() {
    let postgres = server(PostgresOptions {
        settings: vec![("max_prepared_transactions".into(), "2".into())],
        ..PostgresOptions::default()
    })
    .await;
    postgres
        .execute(
            "postgres",
            "BEGIN; SELECT pg_advisory_xact_lock(7); PREPARE TRANSACTION 'left behind'",
        )
        .await
        .expect("a prepared transaction");
    let report = source(postgres.port()).look().await.expect("a look");
    let lock = report
        .locks
        .iter()
        .find(|l| l.locktype == "advisory")
        .expect("the lock");
    assert_eq!(lock.pid, None);
    let prepared = report.prepared.first().expect("the transaction");
    assert_eq!(prepared.gid, "left behind");
    assert_eq!(prepared.owner.as_deref(), Some("postgres"));
    // The virtual id is the session's, or `-1/XID` after a restart; the lock on
    // the transaction's own id says whose it is.
    let own = report
        .locks
        .iter()
        .find(|l| l.transactionid.as_ref() == Some(&prepared.transaction))
        .expect("the lock on its own id");
    assert_eq!(own.pid, None);
    assert!(own.virtualtransaction.is_some());
    assert_eq!(own.virtualtransaction, lock.virtualtransaction);
}

#[tokio::test]
async fn a_server_without_a_free_slot_is_a_finding_and_a_kept_session_goes_on() {
    let postgres = server(PostgresOptions {
        max_connections: 8,
        ..PostgresOptions::default()
    })
    .await;
    postgres
        .execute(
            "postgres",
            "CREATE ROLE app LOGIN; CREATE ROLE watch LOGIN IN ROLE pg_monitor",
        )
        .await
        .expect("roles");
    let mut early = source_of(dsn(postgres.port(), "watch"));
    early.look().await.expect("a look");
    let mut clients = Vec::new();
    while let Ok(client) = postgres.connect("app", "postgres").await {
        clients.push(client);
    }
    let refused = failure_of(dsn(postgres.port(), "watch")).await;
    assert_eq!(
        refused.reason,
        FailureReason::TooManyConnections,
        "{refused}"
    );
    // The kept session still looks; the refused one may be seen leaving.
    let report = look_until(&mut early, |report| {
        report.groups.iter().map(|g| g.count).sum::<u32>() == 5
    })
    .await;
    let reserved = report.server.and_then(|s| s.reserved_connections);
    assert_eq!(reserved, Some(3));
}

#[tokio::test]
async fn the_limit_of_a_role_or_a_database_is_not_the_server_s() {
    let postgres = server(PostgresOptions::default()).await;
    for statement in [
        "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1",
        "CREATE ROLE watch LOGIN",
        "CREATE DATABASE small CONNECTION LIMIT 1",
    ] {
        postgres.execute("postgres", statement).await.expect("set");
    }
    let _one = postgres.connect("narrow", "postgres").await.expect("one");
    let _other = postgres.connect("watch", "small").await.expect("one");
    let small = Dsn {
        database: "small".into(),
        ..dsn(postgres.port(), "watch")
    };
    for connection in [dsn(postgres.port(), "narrow"), small] {
        let refused = failure_of(connection).await;
        assert_eq!(refused.reason, FailureReason::Other, "{refused}");
        assert!(refused.to_string().contains("too many"), "{refused}");
    }
}

#[tokio::test]
async fn a_wrong_login_is_told_in_one_sentence_without_the_password() {
    let postgres = server(PostgresOptions {
        auth: PostgresAuth::Scram("right".into()),
        ..PostgresOptions::default()
    })
    .await;
    let with = |password: Option<&str>, user: &str, database: &str| Dsn {
        password: password.map(Into::into),
        database: database.into(),
        ..dsn(postgres.port(), user)
    };
    let good = source_of(with(Some("right"), "postgres", "postgres"))
        .look()
        .await;
    assert!(good.is_ok());
    for connection in [
        with(Some("hunter2"), "postgres", "postgres"),
        with(Some("hunter2"), "nobody", "postgres"),
        with(None, "postgres", "postgres"),
    ] {
        let error = failure_of(connection).await;
        assert_eq!(error.reason, FailureReason::Auth, "{error}");
        assert!(error.to_string().contains("password"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    let error = failure_of(with(Some("right"), "postgres", "missing")).await;
    assert!(
        error.to_string().contains("correct the database"),
        "{error}"
    );
    let encrypted = Dsn {
        ssl_mode: SslMode::Require,
        ..with(Some("right"), "postgres", "postgres")
    };
    let error = failure_of(encrypted).await;
    assert_eq!(error.reason, FailureReason::Tls, "{error}");
}

#[tokio::test]
async fn a_wrong_address_is_told_by_what_is_there() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let error = failure_of(dsn(port, "postgres")).await;
    assert_eq!(error.reason, FailureReason::Refused, "{error}");
    assert!(error.to_string().contains("nothing listens"), "{error}");

    for banner in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let stranger = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.write_all(banner.as_bytes()).await;
                // Takes the first words of the client, as a server does that
                // finds them unfit, and hangs up.
                let _ = socket.read(&mut [0; 512]).await;
                let _ = socket.shutdown().await;
            }
        });
        let error = failure_of(dsn(port, "postgres")).await;
        assert_eq!(error.reason, FailureReason::Protocol, "{error}");
        assert!(error.to_string().contains("does not speak"), "{error}");
        stranger.abort();
    }

    let nowhere = Dsn {
        host: "no-such-host.invalid".into(),
        ..dsn(5432, "postgres")
    };
    let error = failure_of(nowhere).await;
    assert!(error.to_string().contains("does not resolve"), "{error}");
    let no_socket = Dsn {
        host: "/nonexistent".into(),
        ..dsn(5432, "postgres")
    };
    let error = failure_of(no_socket).await;
    assert_eq!(error.reason, FailureReason::Refused, "{error}");
}

#[tokio::test]
async fn a_pgbouncer_in_place_of_the_server_is_recognised() {
    let postgres = server(PostgresOptions::default()).await;
    for ignored in ["extra_float_digits", "extra_float_digits,options"] {
        let pooler = PgBouncer::start(PgBouncerOptions {
            databases: vec![Alias::new("postgres", postgres.port())],
            users: vec![("postgres".into(), String::new())],
            settings: vec![("ignore_startup_parameters".into(), ignored.into())],
            ..PgBouncerOptions::default()
        })
        .await
        .expect("PgBouncer starts");
        let console = Dsn {
            database: "pgbouncer".into(),
            ..dsn(pooler.port(), "admin")
        };
        for connection in [dsn(pooler.port(), "postgres"), console] {
            let error = failure_of(connection).await;
            assert_eq!(error.reason, FailureReason::Protocol, "{error}");
            assert!(
                error.to_string().contains("is a PgBouncer, not PostgreSQL"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_role_without_grants_sees_that_it_does_not_see() {
    let postgres = server(PostgresOptions::default()).await;
    postgres
        .execute(
            "postgres",
            "CREATE ROLE low LOGIN; CREATE ROLE watch LOGIN IN ROLE pg_monitor",
        )
        .await
        .expect("roles");
    let _other = named(&postgres, "other").await;
    let low = source_of(dsn(postgres.port(), "low"))
        .look()
        .await
        .expect("a look");
    assert_eq!(low.sees_all_sessions, Some(false));
    let other = low
        .groups
        .iter()
        .find(|g| g.application.as_deref() == Some("other"));
    let other = other.expect("another session is counted all the same");
    assert_eq!((other.count, &other.state), (1, &None));
    let watch = source_of(dsn(postgres.port(), "watch"))
        .look()
        .await
        .expect("a look");
    assert_eq!(watch.sees_all_sessions, Some(true));
}

#[tokio::test]
async fn locked_catalogs_do_not_stop_the_look() {
    let postgres = server(PostgresOptions {
        settings: vec![("allow_system_table_mods".into(), "on".into())],
        ..PostgresOptions::default()
    })
    .await;
    let mut source = source(postgres.port());
    source.look().await.expect("a look");
    postgres
        .execute("postgres", "CREATE ROLE late LOGIN")
        .await
        .expect("a role");
    let locker = named(&postgres, "locker").await;
    locker
        .batch_execute(
            "BEGIN; LOCK TABLE pg_database, pg_authid, pg_class, pg_proc, pg_type IN ACCESS EXCLUSIVE MODE",
        )
        .await
        .expect("the locks");
    for _ in 0..5 {
        let report = source.look().await.expect("a look in spite of the locks");
        assert!(
            report
                .groups
                .iter()
                .any(|g| g.application.as_deref() == Some("locker"))
        );
    }
    // A database that is not known yet asks for the names, which cannot be read.
    locker
        .batch_execute("ROLLBACK")
        .await
        .expect("the locks are gone");
}

#[tokio::test]
async fn one_session_is_kept_and_a_lost_one_is_replaced() {
    let postgres = server(PostgresOptions::default()).await;
    let admin = named(&postgres, "admin").await;
    let mut source = source(postgres.port());
    for _ in 0..3 {
        source.look().await.expect("a look");
    }
    let ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'snowpit'";
    let before = admin.query(ours, &[]).await.expect("rows");
    assert_eq!(before.len(), 1);
    admin
        .execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'snowpit'", &[])
        .await
        .expect("the end of our session");
    // The loss is noticed at once or by the next look, which then fails.
    if let Err(error) = source.look().await {
        assert_eq!(error.reason, FailureReason::Refused, "{error}");
        source.look().await.expect("a look with a new session");
    }
    let after = admin.query(ours, &[]).await.expect("rows");
    assert_eq!(after.len(), 1);
    assert_ne!(after[0].get::<_, i32>(0), before[0].get::<_, i32>(0));
}

#[tokio::test]
async fn a_frozen_session_times_out_and_is_replaced() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let postgres = server(PostgresOptions::default()).await;
    let mut source = source(postgres.port());
    let report = source.look().await.expect("a look");
    assert!(report.error.is_none());
    let admin = named(&postgres, "admin").await;
    let row = admin
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'snowpit'",
            &[],
        )
        .await
        .expect("our session");
    let backend = Pid::from_raw(row.get(0));
    kill(backend, Signal::SIGSTOP).expect("our backend is stopped");
    let answer = tokio::time::timeout(5 * SECOND, source.look())
        .await
        .expect("a bounded look");
    assert_eq!(
        answer.expect_err("no answer").reason,
        FailureReason::Timeout
    );
    source.look().await.expect("a look with a new session");
    kill(backend, Signal::SIGCONT).expect("our backend goes on");
}

#[tokio::test]
async fn a_restarted_server_is_seen_again_within_five_seconds() {
    let postgres = server(PostgresOptions::default()).await;
    let port = postgres.port();
    let (samples, mut received) = mpsc::channel(256);
    let health = Health::new();
    let poller = Poller::new(
        source(port),
        Pace::new(SECOND, 3 * SECOND),
        samples,
        &health,
    );
    let stop = CancellationToken::new();
    let task = tokio::spawn(poller.run(stop.clone()));
    let mut next = async |want: bool| loop {
        match received
            .recv()
            .await
            .map(|sample| (sample.t, sample.report))
        {
            Some((t, Report::Postgres(report))) if report.error.is_none() == want => return t,
            Some(_) => {}
            None => panic!("the poller ended"),
        }
    };
    next(true).await;
    postgres.stop().await;
    next(false).await;
    // Long enough down for the pause to have reached its longest.
    tokio::time::sleep(8 * SECOND).await;
    assert!(!health.snapshot()[0].up);
    let again = server(PostgresOptions {
        port: Some(port),
        ..PostgresOptions::default()
    })
    .await;
    assert_eq!(again.port(), port, "the port was still free");
    tokio::time::timeout(5 * SECOND, next(true))
        .await
        .expect("seen within 5 s");
    let seen = &health.snapshot()[0];
    assert!(
        seen.up && seen.failures.contains_key(&FailureReason::Refused),
        "{seen:?}"
    );
    stop.cancel();
    task.await.expect("the poller stops when told");
}
