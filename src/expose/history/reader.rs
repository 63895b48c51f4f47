//! Series for who asks: the engine's memory and the disk, read as one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::History;
use crate::engine::series::{Extract, Gathered, Key, Millis, Point, Selector, TooMuch};

/// How long the engine may take to answer; it takes microseconds, unless it has
/// a backlog.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of the task that owns the engine.
#[derive(Debug)]
pub struct Question {
    pub selector: Selector,
    pub from: Millis,
    pub to: Millis,
    pub answer: oneshot::Sender<Extract>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    #[error("the engine has no time to answer; try again in a moment")]
    Busy,
}

/// Series by key, values in order of time.
pub type Found = Vec<(Arc<Key>, Vec<Point>)>;

/// Reads series from memory and disk alike. Clones share both.
#[derive(Debug, Clone)]
pub struct SeriesReader {
    engine: mpsc::Sender<Question>,
    disk: Option<History>,
}

impl SeriesReader {
    /// `disk` is absent when nothing is kept there.
    pub fn new(engine: mpsc::Sender<Question>, disk: Option<History>) -> Self {
        Self { engine, disk }
    }

    /// The history on disk.
    pub fn disk(&self) -> Option<&History> {
        self.disk.as_ref()
    }

    /// The values from `from` to `to`, ends included, of the series that are
    /// meant.
    pub async fn read(
        &self,
        selector: Selector,
        from: Millis,
        to: Millis,
        series_limit: usize,
        point_limit: usize,
    ) -> Result<Found, ReadError> {
        let (answer, extract) = oneshot::channel();
        let question = Question {
            selector: selector.clone(),
            from,
            to,
            answer,
        };
        let asked = async {
            self.engine.send(question).await.ok()?;
            extract.await.ok()
        };
        let extract = tokio::time::timeout(PATIENCE, asked).await;
        let extract = extract.ok().flatten().ok_or(ReadError::Busy)?;
        let disk = self.disk.clone();
        let gathering = tokio::task::spawn_blocking(move || {
            let mut gathered = Gathered::new(from, to, series_limit, point_limit);
            let disk_to = to.min(extract.complete_from.saturating_sub(1));
            if let Some(disk) = disk.filter(|_| from <= disk_to) {
                disk.gather(&selector, from, disk_to, &mut gathered)?;
            }
            gathered.extract(&extract, &selector)?;
            Ok(gathered.finish())
        });
        gathering.await.unwrap_or(Err(ReadError::Busy))
    }
}
