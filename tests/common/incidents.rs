//! Incidents staged on real servers, for the tests of what is made of them: one
//! server, one pooler with three pools, one application.

use std::time::Duration;

use snowpit::demo::servers::{
    Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, ServerError,
};
use tokio::task::JoinHandle;
use tokio::time::sleep;
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
            databases: vec![pool("app", 10), pool("small", SMALL)],
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

    /// A few sessions with short requests on several routes, for a baseline.
    pub async fn everyday(&self) -> Going {
        let mut going = Vec::new();
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

    /// Ends what still runs on the server for clients that have gone.
    pub async fn clear(&self) {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE usename = 'app' AND (query LIKE '%pg_sleep(600)%' OR query LIKE '%UPDATE stock%')";
        self.postgres.execute("postgres", sql).await.unwrap();
    }
}
