//! Series for who asks: the engine's memory and the disk, read as one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::History;
use crate::engine::series::{Extract, Gathered, Key, Millis, Point, Selector, TooMuch};

/// How long the engine may take to answer; it takes microseconds, unless it has
/// a backlog.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions that are answered at one time. Each may take some 32 MB and a second
/// of a core, and goes on when who asked has gone.
const AT_ONCE: usize = 4;

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
    #[error("there is no time to answer; try again in a moment")]
    Busy,
}

/// Series by key, values in order of time.
pub type Found = Vec<(Arc<Key>, Vec<Point>)>;

/// Reads series from memory and disk alike. Clones share both.
#[derive(Debug, Clone)]
pub struct SeriesReader {
    engine: mpsc::Sender<Question>,
    disk: Option<History>,
    places: Arc<Semaphore>,
}

impl SeriesReader {
    /// `disk` is absent when nothing is kept there.
    pub fn new(engine: mpsc::Sender<Question>, disk: Option<History>) -> Self {
        Self {
            engine,
            disk,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
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
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.places).acquire_owned());
        let place = place.await.ok().and_then(Result::ok);
        let place = place.ok_or(ReadError::Busy)?;
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
            let _place = place;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::series::Store;

    #[tokio::test]
    async fn no_more_are_answered_at_once_than_there_are_places() {
        let (questions, mut asked) = mpsc::channel::<Question>(16);
        tokio::spawn(async move {
            while let Some(question) = asked.recv().await {
                let found = Store::default().extract(&question.selector, 0, 1);
                let _ = question.answer.send(found);
            }
        });
        let reader = SeriesReader::new(questions, None);
        let read = || reader.read(Selector::named("x"), 0, 1, 1, 1);
        let places = Arc::clone(&reader.places);
        let all = places.acquire_many_owned(AT_ONCE as u32).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(20), read());
        assert!(waits.await.is_err(), "there is no place");
        drop(all);
        assert!(read().await.is_ok());
        assert_eq!(reader.places.available_permits(), AT_ONCE);
    }
}
