//! What most live tests stand on: a private server with the database `app`, and
//! a pooler in front of it.
#![allow(dead_code, reason = "each test uses its part")]

pub mod apps;
pub mod certificates;
pub mod daemon;
pub mod faults;
pub mod incidents;
pub mod pager;
pub mod tmux;

use snowpit::config::Config;
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions};
use tokio_postgres::Client;

/// PostgreSQL and PgBouncer.
pub struct Stage {
    pub postgres: Postgres,
    pub pooler: PgBouncer,
}

impl Stage {
    pub async fn start() -> Self {
        Self::start_with(pooler).await
    }

    /// With a pooler of one's own.
    pub async fn start_with(pooler: impl AsyncFnOnce(&Postgres) -> PgBouncer) -> Self {
        let postgres = Postgres::start(PostgresOptions {
            settings: vec![("max_prepared_transactions".into(), "5".into())],
            ..PostgresOptions::default()
        })
        .await
        .unwrap();
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            postgres.execute("postgres", sql).await.unwrap();
        }
        let pooler = pooler(&postgres).await;
        Self { postgres, pooler }
    }

    /// A client of the pool `database`; simple queries only.
    pub async fn client(&self, database: &str, application: &str) -> Client {
        let client = self.pooler.connect("app", database, application);
        client.await.unwrap()
    }

    /// The text of a configuration: target `main`, its pooler `pooler-1`, and
    /// what else is given.
    pub fn configuration(&self, more: &str) -> String {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n\
             [[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
             [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n{more}",
            self.postgres.dsn("postgres", "postgres"),
            self.pooler.dsn("stats", "pgbouncer"),
        )
    }
}

/// A PgBouncer with two pools of one database: `app` in transaction mode,
/// `steady` in session mode.
pub async fn pooler(postgres: &Postgres) -> PgBouncer {
    let app = Alias::new("app", postgres.port());
    let steady = Alias {
        name: "steady".into(),
        pool_mode: Some("session".into()),
        ..app.clone()
    };
    let options = PgBouncerOptions {
        databases: vec![app, steady],
        users: vec![("app".into(), String::new())],
        ..PgBouncerOptions::default()
    };
    PgBouncer::start(options).await.unwrap()
}

/// A checked configuration.
pub fn parse(text: &str) -> Config {
    Config::parse(text, "the test", |_| None).unwrap_or_else(|errors| panic!("{errors}"))
}
