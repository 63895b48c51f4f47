//! A second application of the demo: scanners that look for work in a queue,
//! each with a direct session of its own that it keeps.
//!
//! They can be put into a crash loop: all of them end, are started again at
//! once, read what they need to begin, and live for some seconds.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Config;

use super::servers::{ServerError, connect};

/// Its `application_name` and its role.
pub(super) const SCANNER: &str = "scanner";
/// Scanners; a session each.
pub(super) const SCANNERS: u32 = 32;
/// Between two looks into the queue.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A process that cannot connect is started again after this long.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The running scanners. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Fleet {
    life: watch::Sender<Option<Duration>>,
    _scanners: JoinSet<()>,
}

impl Fleet {
    pub(super) fn start(mut database: Config) -> Self {
        database.application_name(SCANNER);
        let (life, lives) = watch::channel(None);
        let mut scanners = JoinSet::new();
        for _ in 0..SCANNERS {
            scanners.spawn(scan(database.clone(), lives.clone()));
        }
        Self {
            life,
            _scanners: scanners,
        }
    }

    /// How long each lives from now on, give or take a tenth; `None`: as long
    /// as it may.
    pub(super) fn set_life(&self, life: Option<Duration>) {
        self.life.send_replace(life);
    }
}

async fn scan(database: Config, mut life: watch::Receiver<Option<Duration>>) {
    loop {
        let allowed = *life.borrow_and_update();
        let result = tokio::select! {
            result = live(&database) => result,
            () = end_of(allowed) => Ok(()),
            // Those that lived for ever end at once.
            changed = life.changed() => match changed {
                Ok(()) => Ok(()),
                Err(_) => return,
            },
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a scanner of the demo could not work");
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

/// From the start to the end of the process, which closes its session.
async fn live(database: &Config) -> Result<(), ServerError> {
    let client = connect(database).await?;
    client
        .simple_query("SELECT count(*) FROM blob, pg_sleep(0.1) WHERE size > 0")
        .await?;
    loop {
        let jitter = 0.5 + fastrand::f64();
        tokio::time::sleep(LOOK_EVERY.mul_f64(jitter)).await;
        client
            .simple_query("SELECT id FROM repository WHERE pulls < 0 LIMIT 1")
            .await?;
    }
}

async fn end_of(life: Option<Duration>) {
    match life {
        Some(life) => tokio::time::sleep(life.mul_f64(0.9 + 0.2 * fastrand::f64())).await,
        None => std::future::pending().await,
    }
}
