//! The applications' sessions in use, seen with our own eyes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::DemoError;
use super::servers::ServerError;
use super::stage::{DATABASE, EYES, Stage};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Sessions {
    seen: Arc<Seen>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    now: AtomicU32,
    peak: AtomicU32,
}

impl Sessions {
    pub(super) async fn watch(stage: &Stage) -> Result<Self, DemoError> {
        let eyes = stage.own_eyes().await?;
        let seen = Arc::new(Seen::default());
        look(&eyes, &seen).await?;
        let shared = Arc::clone(&seen);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if look(&eyes, &shared).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { seen, _task: task })
    }

    pub(super) fn now(&self) -> u32 {
        self.seen.now.load(Ordering::Relaxed)
    }

    /// The most so far.
    pub(super) fn peak(&self) -> u32 {
        self.seen.peak.load(Ordering::Relaxed)
    }
}

async fn look(eyes: &Client, seen: &Seen) -> Result<(), ServerError> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 \
               AND state <> 'idle' AND application_name <> $2";
    let row = eyes.query_one(sql, &[&DATABASE, &EYES]).await?;
    let count = u32::try_from(row.get::<_, i64>(0)).unwrap_or_default();
    seen.now.store(count, Ordering::Relaxed);
    seen.peak.fetch_max(count, Ordering::Relaxed);
    Ok(())
}
