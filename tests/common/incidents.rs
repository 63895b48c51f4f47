//! Incidents staged on real servers, for the tests of what is made of them: one
//! server, one pooler with three pools, one application.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, ServerError,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

/// The key of the lock that is left behind.
pub const KEY: i64 = 42_424_242_424_242;
/// The route of the avalanche, and the statement's tag for it.
pub const ROUTE: &str = "GET /v2/packages";
const TAG: &str = "application='registry',route='GET%20%2Fv2%2Fpackages'";
/// Servers of the pool `small`.
const SMALL: u32 = 2;

/// Whatever keeps an incident going. Dropping it ends the incident, as far as
/// its clients go.
pub type Going = Vec<Task>;

/// A task that ends when it is dropped.
pub struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn go(work: impl Future<Output = ()> + Send + 'static) -> Task {
    Task(tokio::spawn(work))
}

/// The servers.
pub struct Scenery {
    pub postgres: Postgres,
    pub pooler: PgBouncer,
}

impl Scenery {
    pub async fn start() -> Result<Self, ServerError> {
        let postgres = Postgres::start(PostgresOptions {
            max_connections: 120,
            ..PostgresOptions::default()
        })
        .await?;
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            postgres.execute("postgres", sql).await?;
        }
        let owner = postgres.connect("app", "app").await?;
        let table =
            "CREATE TABLE stock (id int PRIMARY KEY, n int); INSERT INTO stock VALUES (1, 0)";
        owner.batch_execute(table).await?;
        let pool = |name: &str, size: u32| Alias {
            name: name.into(),
            pool_size: Some(size),
            ..Alias::new("app", postgres.port())
        };
        let pooler = PgBouncer::start(PgBouncerOptions {
            databases: vec![pool("app", 10), pool("shop", 5), pool("small", SMALL)],
            users: vec![("app".into(), String::new())],
            ..PgBouncerOptions::default()
        })
        .await?;
        Ok(Self { postgres, pooler })
    }

    /// The text of a configuration for it. The avalanche's detector learns faster
    /// than it should anywhere else.
    pub fn configuration(&self, more: &str) -> String {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[poolers]\ncomplete = true\n\
             [[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
             [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n\
             [[service]]\nname = \"registry\"\ntargets = [\"main\"]\napplications = [\"registry*\"]\n\
             [[advisory_lock]]\nkey = {KEY}\nname = \"gateway bootstrap\"\n\
             [detect.connection_avalanche]\nwarm_up = \"30s\"\nresolve_after = \"10s\"\n{more}",
            self.postgres.dsn("postgres", "postgres"),
            self.pooler.dsn("stats", "pgbouncer"),
        )
    }

    async fn direct(&self, application: &str) -> Client {
        let client = self.postgres.connect("app", "app").await.unwrap();
        let name = format!("SET application_name = '{application}'");
        client.batch_execute(&name).await.unwrap();
        client
    }

    /// A few sessions with short requests on several routes, for a baseline, and
    /// a client of the pool.
    pub async fn everyday(&self) -> Going {
        let pooled = self.pooler.connect("app", "shop", "shop").await.unwrap();
        let mut going = vec![go(async move {
            while pooled.batch_execute("SELECT pg_sleep(0.01)").await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        })];
        for n in 0..4 {
            let client = self.direct("registry").await;
            going.push(go(async move {
                loop {
                    let sql = format!(
                        "SELECT pg_sleep(0.2) /*application='registry',route='GET%20%2Fv2%2Fsmall{n}'*/"
                    );
                    if client.batch_execute(&sql).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            }));
        }
        going
    }

    /// The lock of a client that is gone, on a server of the pool.
    pub async fn orphan(&self) {
        let client = self.pooler.connect("app", "app", "gateway").await.unwrap();
        let take = format!("SELECT pg_advisory_lock({KEY})");
        client.simple_query(&take).await.unwrap();
    }

    /// What frees it.
    pub async fn free_the_orphan(&self) {
        self.pooler.console("RECONNECT app").await.unwrap();
    }

    /// Clients that try for the lock and never get it.
    pub async fn spinners(&self) -> Going {
        let mut going = Vec::new();
        for _ in 0..3 {
            let client = self.direct("gateway").await;
            going.push(go(async move {
                let sql = format!("SELECT pg_try_advisory_lock({KEY})");
                while client.batch_execute(&sql).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                }
            }));
        }
        going
    }

    /// One session keeps a row, and others want it.
    pub async fn pile_up(&self) -> Going {
        let holder = self.direct("nightly-report").await;
        let keep = "BEGIN; UPDATE stock SET n = n + 1 WHERE id = 1";
        holder.batch_execute(keep).await.unwrap();
        let mut going = vec![go(async move {
            let _holder = holder;
            std::future::pending::<()>().await;
        })];
        for _ in 0..4 {
            let client = self.direct("shop").await;
            going.push(go(async move {
                let _ = client
                    .batch_execute("UPDATE stock SET n = n + 1 WHERE id = 1")
                    .await;
            }));
        }
        going
    }

    /// All servers of the small pool are taken for long, and clients queue.
    pub async fn saturate(&self) -> Going {
        let mut going = Vec::new();
        for _ in 0..SMALL + 4 {
            let client = self.pooler.connect("app", "small", "shop").await.unwrap();
            going.push(go(async move {
                let _ = client.batch_execute("SELECT pg_sleep(600)").await;
            }));
        }
        going
    }

    /// One route takes far more sessions than ever.
    pub async fn avalanche(&self) -> Going {
        let mut going = Vec::new();
        for _ in 0..40 {
            let client = self.direct("registry").await;
            going.push(go(async move {
                let sql = format!("SELECT pg_sleep(600) /*{TAG}*/");
                let _ = client.batch_execute(&sql).await;
            }));
        }
        going
    }

    /// Ends what still runs on the server for clients that have gone, and what
    /// comes up behind it in the queue of a pool.
    pub async fn clear(&self) {
        const STAGED: &str = "usename = 'app' AND state <> 'idle' \
                              AND (query LIKE '%pg_sleep(600)%' OR query LIKE '%UPDATE stock%')";
        let eyes = self.postgres.connect("postgres", "app").await.unwrap();
        let sql =
            format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {STAGED}");
        let mut quiet = 0;
        while quiet < 3 {
            let ended: i64 = eyes.query_one(&sql, &[]).await.unwrap().get(0);
            quiet = if ended == 0 { quiet + 1 } else { 0 };
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A small application over HTTP that counts and times its own requests, with a
/// user who makes them.
pub struct Shop {
    /// Of its metrics page.
    pub url: String,
    _running: Going,
}

type Counts = Arc<Mutex<BTreeMap<&'static str, (u64, f64)>>>;

/// Two routes, one of them slower.
pub async fn shop() -> Shop {
    let counts = Counts::default();
    let route = |path: &'static str, milliseconds: u64| {
        let counts = Arc::clone(&counts);
        axum::routing::get(move || async move {
            let began = Instant::now();
            sleep(Duration::from_millis(milliseconds)).await;
            let mut counts = counts.lock().unwrap();
            let (requests, seconds) = counts.entry(path).or_default();
            *requests += 1;
            *seconds += began.elapsed().as_secs_f64();
        })
    };
    let shown = Arc::clone(&counts);
    let page = axum::routing::get(move || async move {
        let mut text = String::from("# TYPE http_request_duration_seconds summary\n");
        for (route, (requests, seconds)) in &*shown.lock().unwrap() {
            for (name, value) in [("count", *requests as f64), ("sum", *seconds)] {
                let labels = format!("method=\"GET\",route=\"{route}\"");
                text += &format!("http_request_duration_seconds_{name}{{{labels}}} {value}\n");
            }
        }
        text
    });
    let app = axum::Router::new()
        .route("/cart", route("/cart", 5))
        .route("/orders", route("/orders", 40))
        .route("/metrics", page);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = go(async move { axum::serve(listener, app).await.unwrap() });
    let url = format!("{base}/metrics");
    let user = go(async move {
        loop {
            for path in ["cart", "orders"] {
                let answer = reqwest::get(format!("{base}/{path}")).await;
                assert!(answer.is_ok_and(|answer| answer.status().is_success()));
                sleep(Duration::from_millis(100)).await;
            }
        }
    });
    Shop {
        url,
        _running: vec![server, user],
    }
}
