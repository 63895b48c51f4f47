//! A lock pile-up that looks like an avalanche: a session changes rows and does
//! not commit, and the requests that write the same rows queue behind it.

use tokio_postgres::Client;

use crate::demo::DemoError;
use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::servers::{ServerError, connect};
use crate::demo::stage::{Stage, USER};

use super::Staged;

/// The `application_name` of the session that holds the lock.
const BACKFILL: &str = "backfill";

/// What is true of it as well.
const BESIDE: &[&str] = &[
    "pool_saturation",
    "connection_headroom",
    "excessive_latency",
    "idle_in_transaction",
];

pub(super) async fn set_going(stage: &Stage, dice: &mut Dice) -> Result<Staged, DemoError> {
    // Every row, or every second, third or fourth.
    let every = dice.whole(1, 4);
    let mut database = stage.directly(USER);
    database.application_name(BACKFILL);
    let client = connect(&database).await?;
    let pid = hold(&client, every).await?;
    let told = format!(
        "{BACKFILL}, pid {pid}, updates one in {every} rows of repository and does not commit"
    );
    let expected = Expected {
        cause: "lock_pileup",
        kind: Some("lock_pileup"),
        companions: BESIDE,
        culprit: Culprit::Session {
            pid,
            application: BACKFILL,
        },
    };
    let mut staged = Staged::new(told, expected);
    staged.crowd.spawn(async move {
        let _held = client;
        std::future::pending::<()>().await;
    });
    Ok(staged)
}

/// Takes the row locks. The pid of the session.
async fn hold(client: &Client, every: u32) -> Result<i32, ServerError> {
    client
        .batch_execute(&format!(
            "BEGIN; UPDATE repository SET name = name WHERE id % {every} = 0"
        ))
        .await?;
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await?;
    Ok(row.get(0))
}
