//! Sessions that are no requests: of other applications, of a pool that leaks,
//! of whoever holds a lock. Dropping the set that they are in closes them, as a
//! process does that is killed.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Config;

use super::servers::connect;

/// Opens `count` sessions, one every `gap`, and runs `statement` in each: again
/// and again, or once, and then keeps the session as it is.
pub(super) fn gather(
    into: &mut JoinSet<()>,
    database: Config,
    count: u32,
    gap: Duration,
    again: bool,
    statement: impl Fn() -> String + Clone + Send + 'static,
) {
    let start = Instant::now();
    for place in 0..count {
        let (database, statement) = (database.clone(), statement.clone());
        into.spawn(async move {
            tokio::time::sleep_until(start + gap * place).await;
            let client = match connect(&database).await {
                Ok(client) => client,
                Err(error) => {
                    tracing::warn!(%error, "a session of the demo was not opened");
                    return;
                }
            };
            while client.simple_query(&statement()).await.is_ok() && again {}
            // Held until the set is dropped.
            std::future::pending::<()>().await;
        });
    }
}
