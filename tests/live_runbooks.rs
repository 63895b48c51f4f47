//! Every statement of the runbooks runs: on a real PostgreSQL, and on the
//! console of a real PgBouncer.

use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions};
use snowpit::expose::web::runbooks;
use tokio_postgres::SimpleQueryMessage;

/// What the words in angle brackets stand for here. No session has the pid 0, so
/// that nothing is ended.
const WORDS: [(&str, &str); 10] = [
    ("<pid>", "0"),
    ("<blocker>", "0"),
    ("<waiter>", "0"),
    ("<holder>", "0"),
    ("<key>", "42"),
    ("<database>", "app"),
    ("<user>", "app"),
    ("<table>", "public.orders"),
    ("<application>", "registry"),
    ("<route>", "/v2/packages"),
];
const GID: &str = "<gid>";

/// The statements of all blocks with this mark, each with its runbook.
fn statements(mark: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (name, text) in runbooks::ALL {
        for block in text.split(&format!("```{mark}\n")).skip(1) {
            let block = block.split("```").next().unwrap();
            let mut block = block.to_owned();
            for (word, value) in WORDS {
                block = block.replace(word, value);
            }
            for statement in block.split(';').map(str::trim) {
                if !statement.is_empty() {
                    found.push((*name, format!("{statement};")));
                }
            }
        }
    }
    found
}

async fn server() -> Postgres {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let postgres = Postgres::start(PostgresOptions {
        settings: vec![
            setting("max_prepared_transactions", "5"),
            setting("shared_preload_libraries", "pg_stat_statements"),
        ],
        ..PostgresOptions::default()
    })
    .await
    .unwrap();
    postgres
        .execute("postgres", "CREATE ROLE app LOGIN")
        .await
        .unwrap();
    postgres
        .execute("postgres", "CREATE DATABASE app")
        .await
        .unwrap();
    let tables = "CREATE TABLE orders (id int); CREATE EXTENSION pg_stat_statements";
    postgres.execute("app", tables).await.unwrap();
    postgres
}

#[tokio::test]
async fn every_statement_for_the_server_runs() {
    let postgres = server().await;
    let client = postgres.connect("postgres", "app").await.unwrap();
    let statements = statements("sql");
    for (runbook, statement) in &statements {
        let mut statement = statement.clone();
        if statement.contains(GID) {
            let prepare = "BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'left'";
            client.batch_execute(prepare).await.unwrap();
            statement = statement.replace(GID, "left");
        }
        assert!(
            !statement.contains(['<', '>']) || !statement.contains("'<"),
            "{runbook}: {statement}"
        );
        let outcome = client.simple_query(&statement).await;
        assert!(outcome.is_ok(), "{runbook}: {statement}: {outcome:?}");
    }
    assert!(
        statements.len() >= 30,
        "only {} were found",
        statements.len()
    );
    let left = client
        .simple_query("SELECT gid FROM pg_prepared_xacts")
        .await
        .unwrap();
    let rows = left
        .iter()
        .filter(|message| matches!(message, SimpleQueryMessage::Row(_)));
    assert_eq!(rows.count(), 0, "both ways to end it were taken");
}

#[tokio::test]
async fn every_command_for_the_console_runs() {
    let postgres = server().await;
    let pooler = PgBouncer::start(PgBouncerOptions {
        databases: vec![Alias::new("app", postgres.port())],
        users: vec![("app".into(), String::new())],
        ..PgBouncerOptions::default()
    })
    .await
    .unwrap();
    let commands = statements("pgbouncer");
    for (runbook, command) in &commands {
        let outcome = pooler.console(command).await;
        assert!(outcome.is_ok(), "{runbook}: {command}: {outcome:?}");
    }
    assert!(commands.len() >= 12, "only {} were found", commands.len());
}
