//! Lock situations on a real server: sessions that can wait, and what
//! PostgreSQL itself says of who waits for whom.
#![allow(dead_code, reason = "each test uses its part")]

pub mod actors;
pub mod script;
pub mod truth;

use snowpit::demo::servers::{Postgres, PostgresOptions};

/// A server on which many sessions can wait, and nothing moves by itself.
pub async fn server() -> Postgres {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Postgres::start(PostgresOptions {
        max_connections: 120,
        settings: vec![
            set("max_prepared_transactions", "40"),
            set("autovacuum", "off"),
            set("max_worker_processes", "32"),
            set("max_parallel_workers", "24"),
            set("max_locks_per_transaction", "256"),
            // Room for predicate locks on single rows.
            set("max_pred_locks_per_transaction", "1024"),
            set("deadlock_timeout", "1h"),
        ],
        ..PostgresOptions::default()
    })
    .await
    .expect("PostgreSQL starts")
}
