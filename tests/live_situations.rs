//! Random lock situations on a real server: our graph and roots against
//! `pg_blocking_pids`, both read while nothing moves.
//!
//! `SNOWPIT_SITUATIONS` says how many (40), `SNOWPIT_SEED` with which seed they
//! begin (1). A failure prints its seed and the shortest script that still
//! fails. One in eight runs with the deadlock detector on.

mod situations;

use std::time::Duration;

use snowpit::config::{ChannelBinding, Dsn, PostgresConfig, SslMode};
use snowpit::observe::postgres::PostgresSource;
use tokio::time::Instant;

use situations::actors::Actors;
use situations::script::{SCHEMA, Script};
use situations::truth::{Tally, compare, quiet_look};

/// Few enough for every run of the tests.
const SITUATIONS: u64 = 40;

const MOST_SESSIONS: usize = 40;

/// How long a failing script is shortened.
const SHRINK: Duration = Duration::from_secs(120);

fn number(variable: &str, otherwise: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(otherwise, |value| value.parse().expect("a number"))
}

fn source(port: u16) -> PostgresSource {
    PostgresSource::new(&PostgresConfig {
        name: "main".into(),
        connection: Dsn {
            host: "127.0.0.1".into(),
            port,
            user: "postgres".into(),
            password: None,
            database: "postgres".into(),
            ssl_mode: SslMode::Disable,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: ChannelBinding::Prefer,
            connect_timeout: Duration::from_secs(3),
        },
        interval: Duration::from_secs(1),
    })
}

async fn check(
    script: &Script,
    actors: &mut Actors,
    source: &mut PostgresSource,
) -> Result<Tally, String> {
    script.play(actors).await;
    let (truth, report) = quiet_look(&actors.observer, source).await;
    compare(&truth, &report)
        .map_err(|error| format!("{error}\ntruth: {truth:?}\nlocks: {:#?}", report.locks))
}

/// Drops steps while it still fails.
async fn shrink(mut script: Script, actors: &mut Actors, source: &mut PostgresSource) -> Script {
    let end = Instant::now() + SHRINK;
    let mut size = script.steps.len().div_ceil(2);
    while size > 0 && Instant::now() < end {
        let mut at = 0;
        while at < script.steps.len() && Instant::now() < end {
            let mut shorter = script.clone();
            shorter.steps.drain(at..(at + size).min(script.steps.len()));
            if check(&shorter, actors, source).await.is_err() {
                script = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    script
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_is_what_postgresql_says() {
    let postgres = situations::server().await;
    postgres.execute("postgres", SCHEMA).await.unwrap();
    let mut actors = Actors::start(&postgres, MOST_SESSIONS).await;
    let mut source = source(postgres.port());
    let (count, first) = (
        number("SNOWPIT_SITUATIONS", SITUATIONS),
        number("SNOWPIT_SEED", 1),
    );
    let mut all = Tally::default();
    let (mut sessions, mut steps, mut quiet) = (0, 0, 0);
    let began = Instant::now();
    for seed in first..first + count {
        let script = Script::random(seed, MOST_SESSIONS);
        match check(&script, &mut actors, &mut source).await {
            Ok(tally) => {
                sessions += script.sessions;
                steps += script.steps.len();
                quiet += usize::from(tally.waiters == 0);
                all.add(&tally);
            }
            Err(error) => {
                let short = shrink(script, &mut actors, &mut source).await;
                let again = check(&short, &mut actors, &mut source).await.err();
                panic!("seed {seed}: {error}\nshortest script: {short:#?}\n{again:?}");
            }
        }
    }
    let report = source.look().await.unwrap();
    println!(
        "PostgreSQL {}: seeds {first} to {}, {sessions} sessions, {steps} steps, {quiet} without a waiter, {:.0} s: {all:?}",
        report.server.unwrap().version.unwrap(),
        first + count - 1,
        began.elapsed().as_secs_f64(),
    );
    assert!(
        all.waiters > 0 && all.holding > 0 && all.queued > 0,
        "{all:?}"
    );
    postgres.stop().await;
}
