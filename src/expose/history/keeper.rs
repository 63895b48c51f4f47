//! Between the engine's task and the writer's thread: hands over what was sealed,
//! and never makes the engine wait for a disk.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Batch, DirectoryError, History, KEEP_SECONDS, Opened};
use crate::engine::Engine;
use crate::engine::series::Millis;

/// How often rows that are not sealed yet are handed over: what a kill loses.
pub const HAND_OVER_EVERY: Duration = Duration::from_secs(60);

/// Batches on their way. A disk that hangs for longer keeps the engine's blocks
/// in the engine.
const BATCH_QUEUE: usize = 4;

/// How long the last batch may take to be written at shutdown.
const LAST_BATCH: Duration = Duration::from_secs(2);

/// The writer's thread and the way to it.
#[derive(Debug)]
pub struct Keeper {
    batches: mpsc::Sender<Batch>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Opens the history at the machine's time `now`, lets the engine remember
    /// the last hours, and starts the writer.
    ///
    /// # Errors
    /// When the directory cannot be had, or another daemon has it.
    pub async fn start(
        directory: PathBuf,
        retention: Duration,
        now: Millis,
        mut engine: Engine,
    ) -> Result<(Self, History, Engine), DirectoryError> {
        let place = directory.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let opened = History::open(&directory, retention, now)?;
            let Opened {
                history,
                recent,
                recent_from,
                writer,
            } = opened;
            engine.hand_over(KEEP_SECONDS);
            let blocks = recent.len();
            engine.remember(recent_from, recent);
            tracing::info!(
                files = history.files(),
                bytes = history.bytes(),
                blocks,
                "the history was read"
            );
            Ok((history, writer, engine))
        });
        let (history, writer, engine) = opening.await.map_err(|_| DirectoryError::Io {
            directory: place,
            cause: std::io::Error::other("the reading of it panicked"),
        })??;
        let (batches, inbox) = mpsc::channel(BATCH_QUEUE);
        let keeper = Self {
            batches,
            thread: tokio::task::spawn_blocking(move || writer.run(inbox)),
        };
        Ok((keeper, history, engine))
    }

    /// Hands over what there is, when the writer has room for it; else it stays
    /// where it is until the next time.
    pub fn hand_over(&self, engine: &mut Engine) {
        if let Ok(room) = self.batches.try_reserve() {
            room.send(Batch {
                sealed: engine.take_sealed(),
                unsaved: engine.take_unsaved(),
                last: false,
            });
        }
    }

    /// Seals and hands over all there is, and waits until it is written.
    pub async fn finish(self, engine: &mut Engine) {
        engine.seal_history();
        let last = Batch {
            sealed: engine.take_sealed(),
            unsaved: Vec::new(),
            last: true,
        };
        let written = async {
            let _ = self.batches.send(last).await;
            let _ = self.thread.await;
        };
        if tokio::time::timeout(LAST_BATCH, written).await.is_err() {
            tracing::warn!("the end of the history was not written in time");
        }
    }
}
