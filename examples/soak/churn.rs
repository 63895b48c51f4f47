//! The site: everything on it comes and goes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, connect,
};
use snowpit::observe::poll::unix_now;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Urls;

/// Work that fails is tried again after this: a pool that is gone, a lock that
/// is in the way.
const AGAIN: Duration = Duration::from_millis(500);

/// No piece of work takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// Routes that a report names: each is new, but for these.
const STEADY_ROUTES: u64 = 12;
const NEW_ROUTES: u64 = 25;

/// One in so many statements has a tag that no other has.
const FRESH_TAGS: u64 = 20;

type Work = Result<(), Box<dyn Error + Send + Sync>>;

/// Server and pooler.
pub struct Site {
    postgres: Arc<Postgres>,
    pooler: Arc<PgBouncer>,
}

/// The load. Ends with [`Going::stop`].
pub struct Going(JoinSet<()>);

impl Going {
    pub async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

impl Site {
    pub async fn start() -> Result<Self, Box<dyn Error>> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            postgres.execute("postgres", sql).await?;
        }
        let owner = postgres.connect("app", "app").await?;
        let table =
            "CREATE TABLE stock (id int PRIMARY KEY, n int); INSERT INTO stock VALUES (1, 0)";
        owner.batch_execute(table).await?;
        let pooler = PgBouncer::start(PgBouncerOptions {
            databases: vec![Alias::new("app", postgres.port())],
            users: vec![("app".into(), String::new())],
            default_pool_size: 12,
            ..PgBouncerOptions::default()
        });
        Ok(Self {
            pooler: Arc::new(pooler.await?),
            postgres: Arc::new(postgres),
        })
    }

    pub async fn stop(self) {
        if let Ok(pooler) = Arc::try_unwrap(self.pooler).map_err(drop) {
            pooler.stop().await;
        }
        if let Ok(postgres) = Arc::try_unwrap(self.postgres).map_err(drop) {
            postgres.stop().await;
        }
    }

    /// What the daemon is told.
    pub fn configuration(&self, directory: &Path, web: &str, otlp: &str) -> String {
        format!(
            "[server]\nlisten = \"{web}\"\n[otlp]\nhttp_listen = \"{otlp}\"\n\
             [history]\ndirectory = \"{}\"\ncapture = true\n[poolers]\ncomplete = true\n\
             [[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
             [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n\
             [[service]]\nname = \"shop\"\ntargets = [\"main\"]\napplications = [\"shop*\"]\n",
            directory.join("history").display(),
            self.postgres.dsn("postgres", "postgres"),
            self.pooler.dsn("stats", "pgbouncer"),
        )
    }

    /// Begins to churn.
    pub fn go(&self, daemon: &Urls, process: u32, config: PathBuf) -> Going {
        let mut going = JoinSet::new();
        let number = Arc::new(AtomicU64::new(0));
        let client = reqwest::Client::new();
        for n in 0..3 {
            let (postgres, own) = (Arc::clone(&self.postgres), Arc::clone(&number));
            again(&mut going, 700, move || {
                session(Arc::clone(&postgres), n, next(&own))
            });
            let (pooler, own) = (Arc::clone(&self.pooler), Arc::clone(&number));
            again(&mut going, 300, move || {
                pooled(Arc::clone(&pooler), "app".to_owned(), next(&own))
            });
        }
        let pooler = Arc::clone(&self.pooler);
        let (own, port) = (Arc::clone(&number), self.postgres.port());
        again(&mut going, 3_000, move || {
            pools(Arc::clone(&pooler), port, next(&own))
        });
        let (pooler, own) = (Arc::clone(&self.pooler), Arc::clone(&number));
        again(&mut going, 4_000, move || {
            advisory(Arc::clone(&pooler), next(&own))
        });
        let (postgres, own) = (Arc::clone(&self.postgres), Arc::clone(&number));
        again(&mut going, 3_000, move || {
            table_lock(Arc::clone(&postgres), next(&own))
        });
        let (http, url) = (client.clone(), format!("{}/v1/metrics", daemon.otlp));
        let own = Arc::clone(&number);
        again(&mut going, 1_000, move || {
            report(http.clone(), url.clone(), next(&own))
        });
        for n in 0..3 {
            let (http, url) = (client.clone(), daemon.web.clone());
            again(&mut going, 1_000, move || {
                page(http.clone(), url.clone(), n)
            });
        }
        let own = Arc::clone(&number);
        again(&mut going, 20_000, move || {
            reload(process, config.clone(), next(&own))
        });
        Going(going)
    }
}

fn next(number: &AtomicU64) -> u64 {
    number.fetch_add(1, Ordering::Relaxed)
}

/// Does a piece of work again and again, with a pause in between.
fn again<F>(going: &mut JoinSet<()>, pause: u64, work: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = Work> + Send + 'static,
{
    going.spawn(async move {
        loop {
            if !matches!(timeout(LIMIT, work()).await, Ok(Ok(()))) {
                sleep(AGAIN).await;
            }
            sleep(Duration::from_millis(pause)).await;
        }
    });
}

/// A statement with a route that stays, and now and then one of its own: each of
/// those is a series more, which the history remembers for as long as it is told.
fn tagged(number: u64) -> String {
    let route = if number.is_multiple_of(FRESH_TAGS) {
        format!("/fresh/{number}x/page")
    } else {
        format!("/steady/{}x", number % STEADY_ROUTES)
    };
    format!("SELECT pg_sleep(0.2) /*application='shop',route='{route}'*/")
}

/// A session of its own that works a little and goes.
async fn session(postgres: Arc<Postgres>, n: u64, number: u64) -> Work {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(postgres.port());
    config.user("app").dbname("app");
    config.application_name(format!("shop-{}", (number + n) % 20));
    let client = connect(&config).await?;
    for step in 0..4 {
        client.simple_query(&tagged(number + step)).await?;
    }
    Ok(())
}

/// A client of a pool that works a little and goes.
async fn pooled(pooler: Arc<PgBouncer>, database: String, number: u64) -> Work {
    let client = pooler.connect("app", &database, "shop").await?;
    for step in 0..3 {
        client.simple_query(&tagged(number + step)).await?;
    }
    Ok(())
}

/// A pool of another name than before; the last one goes.
async fn pools(pooler: Arc<PgBouncer>, port: u16, number: u64) -> Work {
    let file = pooler.socket_dir().join("pgbouncer.ini");
    let ini = tokio::fs::read_to_string(&file).await?;
    let lines = ini.lines().filter(|line| !line.starts_with("extra_"));
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    let name = format!("extra_{number}");
    let size = 2 + number % 4;
    let line = format!("{name} = host=127.0.0.1 port={port} dbname=app pool_size={size}");
    lines.insert(1, line);
    tokio::fs::write(&file, lines.join("\n") + "\n").await?;
    pooler.console("RELOAD").await?;
    for _ in 0..4 {
        pooled(Arc::clone(&pooler), name.clone(), number).await?;
    }
    Ok(())
}

/// A lock that is left on the pool for a while, and freed there; another that is
/// given back in order.
async fn advisory(pooler: Arc<PgBouncer>, number: u64) -> Work {
    let client = pooler.connect("app", "app", "gateway").await?;
    let take = format!("SELECT pg_advisory_lock({number})");
    client.simple_query(&take).await?;
    sleep(Duration::from_secs(3)).await;
    if number.is_multiple_of(3) {
        let free = format!("SELECT pg_advisory_unlock({number})");
        client.simple_query(&free).await?;
    }
    drop(client);
    sleep(Duration::from_secs(6)).await;
    pooler.console("RECONNECT app").await?;
    Ok(())
}

/// Three that wait for a fourth, now and then for long enough to be told.
async fn table_lock(postgres: Arc<Postgres>, number: u64) -> Work {
    let holder = postgres.connect("app", "app").await?;
    holder.batch_execute("BEGIN; LOCK TABLE stock").await?;
    let mut waiters = JoinSet::new();
    for _ in 0..3 {
        let postgres = Arc::clone(&postgres);
        waiters.spawn(async move {
            let waiter = postgres.connect("app", "app").await.ok()?;
            waiter.simple_query("SELECT * FROM stock").await.ok()
        });
    }
    let seconds = if number.is_multiple_of(2) { 14 } else { 2 };
    sleep(Duration::from_secs(seconds)).await;
    holder.batch_execute("COMMIT").await?;
    while waiters.join_next().await.is_some() {}
    Ok(())
}

/// What an application tells of its routes, most of them new.
async fn report(client: reqwest::Client, url: String, number: u64) -> Work {
    let now = (unix_now() * 1e9) as u64;
    let point = |route: String| -> Value {
        json!({
            "attributes": [
                {"key": "http.request.method", "value": {"stringValue": "GET"}},
                {"key": "http.route", "value": {"stringValue": route}},
            ],
            "startTimeUnixNano": (now - 1_000_000_000).to_string(),
            "timeUnixNano": now.to_string(),
            "count": "3", "sum": 0.06,
            "bucketCounts": ["1", "2", "0"], "explicitBounds": [0.01, 0.1],
        })
    };
    let steady = (0..STEADY_ROUTES).map(|n| format!("/steady/{n}x"));
    let fresh = (0..NEW_ROUTES).map(|n| format!("/fresh/{number}x/{n}x"));
    let points: Vec<Value> = steady.chain(fresh).map(point).collect();
    let body = json!({"resourceMetrics": [{
        "resource": {"attributes": [
            {"key": "service.name", "value": {"stringValue": "shop"}},
        ]},
        "scopeMetrics": [{"metrics": [{
            "name": "http.server.request.duration", "unit": "s",
            "histogram": {"aggregationTemporality": 1, "dataPoints": points},
        }]}],
    }]});
    client
        .post(url)
        .json(&body)
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}

/// Somebody who opens the page, looks around, follows it for a while, and goes;
/// and a scraper.
async fn page(client: reqwest::Client, url: String, n: u64) -> Work {
    for path in [
        "/",
        "/metrics",
        "/api/v1/locks",
        "/api/v1/routes",
        "/api/v1/incidents",
    ] {
        let answer = client.get(format!("{url}{path}")).send().await?;
        answer.error_for_status()?.bytes().await?;
    }
    let mut events = client.get(format!("{url}/api/v1/events")).send().await?;
    let follow = async { while let Ok(Some(_)) = events.chunk().await {} };
    // One stays longer than the other.
    let _ = timeout(Duration::from_secs(2 + 3 * n), follow).await;
    Ok(())
}

/// The configuration changes: a second name for the server comes and goes, and a
/// threshold moves.
async fn reload(process: u32, config: PathBuf, number: u64) -> Work {
    let text = tokio::fs::read_to_string(&config).await?;
    let (base, had) = match text.split_once("# reloaded\n") {
        Some((base, _)) => (base, true),
        None => (text.as_str(), false),
    };
    let dsn = base.lines().find(|line| line.starts_with("dsn = "));
    let more = match dsn.filter(|_| !had) {
        Some(dsn) => format!(
            "# reloaded\n[[postgres]]\nname = \"second-{}\"\n{dsn}\n\
             [detect.lock_pileup]\nmin_waiters = {}\n",
            number % 7,
            2 + number % 2
        ),
        None => String::new(),
    };
    tokio::fs::write(&config, format!("{base}{more}")).await?;
    kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGHUP)?;
    Ok(())
}
